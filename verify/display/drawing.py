# SPDX-License-Identifier: GPL-2.0-or-later
"""Draws a `Picture` as SVG (self-contained, no scripts, no fonts) or as PNG (by Pillow)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...formats.errors import OutputError, UsageError
from .html import printed, text
from .picture import Cells, Label, Picture, Rect

__all__ = ["check_picture", "write_picture"]

_FONTS = "DejaVu Sans, Verdana, Helvetica, Arial, sans-serif"
_PAPER = "#ffffff"
_SUFFIX = ".incomplete"


def check_picture(path: str, inputs: Sequence[str], *, force: bool) -> None:
    """Refuse a name that exists (without force) or is one of the inputs, and PNG where Pillow is missing.

    Raises:
        UsageError: Exit code 2.
    """
    for target in (Path(path), Path(path + _SUFFIX)):  # the second is written first
        if target.exists() and any(Path(name).exists() and target.samefile(name) for name in inputs):
            raise UsageError("the picture and an input are the same file", path=str(target))
    if os.path.lexists(path) and not force:
        raise UsageError("the picture exists", path=path, hint="--force replaces it")
    if path.lower().endswith(".png"):
        try:
            import PIL.Image  # noqa: F401 - is it there?
        except ImportError as error:
            raise UsageError(
                "PNG needs Pillow", path=path, hint="pip install 'dumpconv[picture]', or name it .svg"
            ) from error


def write_picture(picture: Picture, path: str) -> None:
    """Write the picture; the file appears under its name only when it is whole.

    Raises:
        OutputError: It cannot be written.
    """
    temporary = path + _SUFFIX
    try:
        try:
            Path(temporary).unlink(missing_ok=True)  # what a killed run left, or a symbolic link: never followed
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open(temporary, flags, 0o666), "wb") as file:
                if path.lower().endswith(".png"):
                    _image(picture).save(file, "PNG", optimize=True)
                else:
                    file.writelines(line.encode() for line in _svg(picture))
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OutputError(f"cannot write: {error.strerror}", path=path) from error


# -- SVG ---------------------------------------------------------------------------------------------------------


def _hex(colour: Sequence[int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _svg(picture: Picture) -> Iterator[str]:
    size = f'width="{picture.width}" height="{picture.height}"'
    yield f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {picture.width} {picture.height}" '
    yield f'font-family="{_FONTS}">\n<title>{text(picture.title)}</title>\n'
    yield f'<rect {size} fill="{_PAPER}"/>\n'
    for shape in picture.shapes:
        if isinstance(shape, Rect):
            place = f'x="{shape.x}" y="{shape.y}" width="{shape.width}" height="{shape.height}"'
            yield f'<rect {place} fill="{_hex(shape.colour)}"/>\n'
        elif isinstance(shape, Label):
            weight = ' font-weight="bold"' if shape.bold else ""
            yield f'<text x="{shape.x}" y="{shape.y}" font-size="{shape.size}" fill="{_hex(shape.colour)}" '
            yield f'text-anchor="{shape.anchor}"{weight}>{text(shape.text)}</text>\n'
        else:
            yield from _svg_cells(shape)
    yield "</svg>\n"


def _svg_cells(cells: Cells) -> Iterator[str]:
    # one path a colour: a stroke for each run of equal cells in a row
    rows, columns = cells.index.shape
    nr_colours = int(cells.index.max(initial=0)) + 1
    strokes: list[list[str]] = [[] for _ in range(nr_colours)]
    for row in range(rows):
        line = cells.index[row]
        edge = np.flatnonzero(line[1:] != line[:-1]) + 1
        lows = [0, *edge.tolist()]
        for low, high, colour in zip(lows, [*edge.tolist(), columns], line[lows].tolist(), strict=True):
            strokes[colour].append(f"M{low} {row}.5h{high - low}")
    scale = f'transform="translate({cells.x} {cells.y}) scale({cells.width} {cells.height})"'
    yield f'<g {scale} fill="none" stroke-width="1" shape-rendering="crispEdges">\n'
    for colour, parts in enumerate(strokes):
        if parts:
            yield f'<path stroke="{_hex(cells.palette[colour].tolist())}" d="{"".join(parts)}"/>\n'
    yield "</g>\n"


# -- PNG ---------------------------------------------------------------------------------------------------------


def _image(picture: Picture) -> Any:  # Pillow is optional, and so are its types
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (picture.width, picture.height), _PAPER)
    draw = ImageDraw.Draw(image)
    for shape in picture.shapes:
        if isinstance(shape, Rect):
            corner = (shape.x + shape.width - 1, shape.y + shape.height - 1)
            draw.rectangle([(shape.x, shape.y), corner], fill=shape.colour)
        elif isinstance(shape, Label):
            anchor = {"start": "ls", "middle": "ms", "end": "rs"}[shape.anchor]
            stroke = 0.4 if shape.bold else 0
            font = ImageFont.load_default(shape.size)
            draw.text(
                (shape.x, shape.y),
                printed(shape.text),
                shape.colour,
                font,
                anchor,
                stroke_width=stroke,
                stroke_fill=shape.colour,
            )
        else:
            pixels = shape.palette[shape.index].repeat(shape.height, 0).repeat(shape.width, 1)
            image.paste(Image.fromarray(pixels), (shape.x, shape.y))
    return image
