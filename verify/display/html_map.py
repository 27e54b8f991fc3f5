# SPDX-License-Identifier: GPL-2.0-or-later
"""The memory map of a dump as inline SVG for an HTML report: as wide as the page, coloured by its style sheet.

Colours are classes, so that dark screens get a dark map; addresses and legend are text of the page, readable at any
width. A row with lost or damaged frames has a bar at its right edge: one bad page in 4 TiB is seen.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .measure import human_size
from .picture import COLUMNS, KINDS, BandMap, PageChart, palette

__all__ = ["map_style", "render_map"]

_ROW_PIXELS = 4
_BAR, _BAR_WIDTH = COLUMNS + 2, 3
_TICK_PIXELS = 32  # at least, between two addresses
_COLOURS = dict(KINDS)
_CODECS = [name for name, _ in KINDS[:7]]


def map_style() -> str:
    """Return the style rules of the cells, light and dark."""
    light, dark = palette(), palette(dark=True)
    rules = [f".c{index}{{stroke:{_hex(colour)}}}" for index, colour in enumerate(light.tolist())]
    rules += [f".k-{name}{{background:{_hex(colour)}}}" for name, colour in KINDS]
    rules += [f".b-{name}{{stroke:{_hex(_COLOURS[name])}}}" for name in ("lost", "damaged")]
    changed = [f".c{row}{{stroke:{_hex(dark[row].tolist())}}}" for row in np.flatnonzero((light != dark).any(axis=1))]
    changed += [f".k-excluded{{background:{_hex(dark[1].tolist())}}}"]
    rules.append("@media screen and (prefers-color-scheme:dark){" + "".join(changed) + "}")
    return "".join(rules)


def _hex(colour: tuple[int, int, int] | list[int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def render_map(chart: PageChart) -> Iterator[str]:
    """Yield the map's HTML: legend, bands of memory, scale."""
    yield '<ul class="legend">\n'
    for name, count in chart.totals.items():
        size = human_size(count * chart.page_size)
        label = f"stored, {name}" if name in _CODECS else name
        yield f'<li><i class="k-{name}"></i>{label}: {count:,} ({size})</li>\n'
    yield '<li><i class="k-hole"></i>no RAM, or nothing known</li>\n</ul>\n'
    previous = 0
    for band in chart.bands:
        if band.start > previous:
            size = human_size(band.start - previous)
            yield f'<p class="gap">nothing from {previous:#x} to {band.start:#x} ({size})</p>\n'
        yield from _band(band)
        previous = band.end
    pages = chart.cell_pages
    cell = f"{pages} pages ({human_size(pages * chart.page_size)})" if pages > 1 else "one page"
    row = human_size(COLUMNS * pages * chart.page_size)
    text = f"One cell is {cell}, one row {row}; addresses are physical."
    if pages > 1:
        text += " Paler: only some pages of the cell are stored."
    if any(band.bad.any() for band in chart.bands):
        text += " A bar at the right marks rows with lost or damaged pages."
    yield f'<p class="faint">{text}</p>\n'


def _kind(name: str) -> int:
    return [each for each, _ in KINDS].index(name)


def _band(band: BandMap) -> Iterator[str]:
    rows = len(band.index)
    pixels = max(_ROW_PIXELS, -(-12 // rows))
    step = -(-_TICK_PIXELS // pixels)
    step = 1 << (step - 1).bit_length()  # addresses that are round
    yield f'<div class="band" style="height:{rows * pixels}px"><div class="ticks">'
    first = band.start // band.row_bytes
    marks = [0] + [row for row in range(step, rows) if (first + row) % step == 0 and (rows - row) * pixels >= 12]
    for row in marks:
        yield f'<span style="top:{row * pixels}px">{band.start + row * band.row_bytes:#x}</span>'
    name = f"pages from {band.start:#x} to {band.end:#x}"
    size = f'viewBox="0 0 {_BAR + _BAR_WIDTH} {rows}"'
    yield f'</div>\n<svg {size} preserveAspectRatio="none" role="img" aria-label="{name}" fill="none" '
    yield f'shape-rendering="crispEdges"><title>{name}</title>\n'
    strokes: dict[int, list[str]] = {}
    for number, line in enumerate(band.index):
        edge = np.flatnonzero(line[1:] != line[:-1]) + 1
        lows = [0, *edge.tolist()]
        for low, high, colour in zip(lows, [*edge.tolist(), len(line)], line[lows].tolist(), strict=True):
            strokes.setdefault(colour, []).append(f"M{low} {number}.5h{high - low}")
    for colour, parts in sorted(strokes.items()):
        yield f'<path class="c{colour}" d="{"".join(parts)}"/>\n'
    for kind in ("lost", "damaged"):
        bars = [f"M{_BAR} {row}.5h{_BAR_WIDTH}" for row in np.flatnonzero(band.bad == _kind(kind)).tolist()]
        if bars:
            yield f'<path class="b-{kind}" d="{"".join(bars)}"/>\n'
    yield "</svg></div>\n"
