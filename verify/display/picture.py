# SPDX-License-Identifier: GPL-2.0-or-later
"""A picture of a whole memory by page state and codec: what is drawn where. SVG and PNG draw the same shapes.

Memory runs row by row from the top left. A cell stands for one or more frames; rows without any known frame are
left out and shown as a narrow band. A cell has the colour of the codec that most of its stored frames have, paler
where only some are stored; a lost or damaged frame shows whatever else is in its cell.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...formats import codecs
from ...formats.intervals import union
from ...formats.pages import MemoryMap, PageState
from ...formats.reader import DumpReader
from .measure import bad_runs, human_size, slices

__all__ = [
    "COLUMNS",
    "KINDS",
    "BandMap",
    "Cells",
    "Label",
    "PageChart",
    "Picture",
    "Rect",
    "chart",
    "draw",
    "palette",
]

COLUMNS = 256  # cells in a row
_MAX_ROWS = 256
_MAX_BANDS = 24  # stretches of rows, between bands of holes
_SLICE_PFNS = 1 << 18

_CELL_WIDTH = 4
_LEFT, _TOP, _RIGHT = 118, 116, 24
_GAP_HEIGHT = 22
_LEGEND_STEP, _LEGEND_LINE = 14, 20

# What a frame can be, in the order of the legend, with its colour. `hole` is the paper.
KINDS: tuple[tuple[str, tuple[int, int, int]], ...] = (
    ("raw", (64, 74, 150)),
    ("zlib", (62, 143, 80)),
    ("lzo", (201, 148, 24)),
    ("snappy", (222, 111, 38)),
    ("zstd", (32, 158, 150)),
    ("rle", (120, 94, 60)),
    ("zero", (143, 122, 186)),
    ("excluded", (214, 218, 224)),
    ("lost", (112, 16, 84)),
    ("damaged", (218, 30, 40)),
)
_HOLE = (250, 250, 247)
_DARK_HOLE, _DARK_EXCLUDED = (24, 27, 32), (66, 72, 82)
_INK, _FAINT = (34, 38, 46), (110, 116, 126)
_NAMES = [name for name, _ in KINDS]
_NR_CODECS = 7
_EXCLUDED, _LOST, _DAMAGED = (_NAMES.index(name) for name in ("excluded", "lost", "damaged"))
# How much of its colour a cell gets, filled to at most these parts: any stored frame shows, a full cell stands out.
_LEVELS = ((1 / 16, 0.25), (1 / 4, 0.45), (1 / 2, 0.65), (1 - 1e-9, 0.82), (1.0, 1.0))

Colour = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Rect:
    """A filled rectangle in pixels."""

    x: int
    y: int
    width: int
    height: int
    colour: Colour


@dataclass(frozen=True, slots=True)
class Label:
    """A line of text; `y` is its base line, `anchor` start, middle or end."""

    x: int
    y: int
    text: str
    size: int = 12
    colour: Colour = _INK
    anchor: str = "start"
    bold: bool = False


@dataclass(frozen=True, slots=True)
class Cells:
    """A raster: `index` (rows, columns) into `palette`; a cell is `width` by `height` pixels."""

    x: int
    y: int
    width: int
    height: int
    index: NDArray[np.uint16]
    palette: NDArray[np.uint8]


@dataclass(slots=True)
class Picture:
    """Shapes to draw, in order, on paper of `width` by `height` pixels; `nr_bad` frames have a wrong descriptor."""

    width: int
    height: int
    title: str
    nr_bad: int = 0
    shapes: list[Rect | Label | Cells] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Band:
    # rows [first, last), each of COLUMNS cells; the row's number counts from physical address 0
    first: int
    last: int


def _bands(memory_map: MemoryMap) -> tuple[int, list[_Band]]:
    # The finest scale (log2 of frames in a cell) at which all rows with known frames fit.
    shift = 0
    while True:
        width = np.uint64(COLUMNS << shift)
        first = memory_map.start // width
        last = (memory_map.end - np.uint64(1)) // width + np.uint64(1)
        low, high = union(first, last)
        if int((high - low).sum()) <= _MAX_ROWS and len(low) <= _MAX_BANDS:
            return shift, [_Band(*pair) for pair in zip(low.tolist(), high.tolist(), strict=True)]
        shift += 1


def _below(start: NDArray[np.uint64], end: NDArray[np.uint64], edges: NDArray[np.uint64]) -> NDArray[np.int64]:
    # how many frames of the sorted, disjoint runs lie below each edge
    before = np.concatenate([np.zeros(1, np.uint64), np.cumsum(end - start, dtype=np.uint64)])
    index = np.searchsorted(start, edges, side="right")
    last = np.maximum(index.astype(np.int64) - 1, 0)
    inside = np.where(index > 0, np.minimum(np.maximum(edges, start[last]), end[last]) - start[last], 0)
    return (before[last] + inside.astype(np.uint64)).astype(np.int64)


class _Counter:
    # Frames of each kind in each cell.

    def __init__(self, memory_map: MemoryMap, shift: int, bands: list[_Band]) -> None:
        self.bands = bands
        self.shift = shift
        self.edges = [
            np.arange(band.first * COLUMNS, band.last * COLUMNS + 1, dtype=np.uint64) << np.uint64(shift)
            for band in bands
        ]
        self.nr_bad = 0
        self.counts = [np.zeros((len(KINDS), len(edges) - 1), np.int64) for edges in self.edges]
        for state, kind in (
            (PageState.EXCLUDED, _EXCLUDED),
            (PageState.LOST, _LOST),
            (PageState.DAMAGED, _DAMAGED),
        ):
            self._add(kind, *memory_map.only(state))

    def _add(self, kind: int, start: NDArray[np.uint64], end: NDArray[np.uint64]) -> None:
        if not len(start):
            return
        for edges, counts in zip(self.edges, self.counts, strict=True):
            low = max(0, int(np.searchsorted(edges, start[0], side="right")) - 1)
            high = int(np.searchsorted(edges, end[-1], side="left")) + 1
            if high - low > 1:
                counts[kind, low : high - 1] += np.diff(_below(start, end, edges[low:high]))

    def _add_bad(self, rows: NDArray[Any]) -> None:
        start, end, state = bad_runs(rows)
        self.nr_bad += int((end - start).sum())
        for value, kind in ((PageState.LOST, _LOST), (PageState.DAMAGED, _DAMAGED)):
            self._add(kind, start[state == value], end[state == value])

    def add_extents(self, reader: DumpReader, progress: Callable[[int], object]) -> None:
        """Count the stored frames by codec."""
        page_size = reader.machine.page_size
        for low, high in slices(*reader.memory_map.only(PageState.STORED), _SLICE_PFNS):
            rows = reader.extents(low, high)
            if len(rows) > 1:  # of extents that share a frame the first counts
                rows = rows[np.concatenate([[True], rows["start_pfn"][1:] != rows["start_pfn"][:-1]])]
            for codec in np.unique(rows["codec"]).tolist():
                part = rows[rows["codec"] == codec]
                if codec == codecs.BAD:
                    self._add_bad(part)
                    continue
                start = part["start_pfn"]
                kind = _NAMES.index(codecs.CODEC_NAMES[codec])
                self._add(kind, start, start + part["nr_pages"].astype(np.uint64))
            progress(int(rows["nr_pages"].sum()) * page_size)


def palette(*, dark: bool = False) -> NDArray[np.uint8]:
    """Return the colours of cells, (n, 3): 0 paper, 1 excluded, 2 excluded on paper, 3 lost, 4 damaged, then codecs.

    Of each codec all levels on excluded, then all on paper. On dark paper only paper and excluded differ.
    """
    hole = np.array(_DARK_HOLE if dark else _HOLE, float)
    excluded = np.array(_DARK_EXCLUDED if dark else KINDS[_EXCLUDED][1], float)
    rows = [
        hole,
        excluded,
        (hole + excluded) / 2,
        np.array(KINDS[_LOST][1], float),
        np.array(KINDS[_DAMAGED][1], float),
    ]
    for _, colour in KINDS[:_NR_CODECS]:
        for paper in (excluded, hole):
            rows += [paper + (np.array(colour, float) - paper) * level for _, level in _LEVELS]
    return np.round(np.array(rows)).astype(np.uint8)


def _colours(counts: NDArray[np.int64], frames: int) -> NDArray[np.uint16]:
    # the palette's index of each cell
    stored = counts[:_NR_CODECS].sum(axis=0)
    excluded = counts[_EXCLUDED]
    codec = counts[:_NR_CODECS].argmax(axis=0)
    nr_levels = len(_LEVELS)
    level = np.searchsorted([part for part, _ in _LEVELS], np.minimum(stored / frames, 1.0))
    on_hole = (excluded == 0).astype(np.int64)
    index = 5 + (2 * codec + on_hole) * nr_levels + level
    empty = np.where(excluded == 0, 0, np.where(2 * excluded >= frames, 1, 2))
    index = np.where(stored > 0, index, empty)
    index = np.where(counts[_LOST] > 0, 3, index)
    return np.where(counts[_DAMAGED] > 0, 4, index).astype(np.uint16)


@dataclass(frozen=True, slots=True)
class BandMap:
    """A stretch of rows without a gap: what a report draws.

    Attributes:
        start, end: Physical addresses.
        index: (rows, COLUMNS) indices into `palette(dark=...)`.
        row_bytes: Memory in a row.
        bad: (rows,) 0, or the kind's place in `KINDS` where a row holds lost or damaged frames.
    """

    start: int
    end: int
    index: NDArray[np.uint16]
    row_bytes: int
    bad: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PageChart:
    """The same map without a layout, for pages that flow.

    Attributes:
        bands: In order of addresses.
        totals: Frames by kind, only those there are.
        cell_pages: Frames in a cell.
        page_size: Bytes.
    """

    bands: list[BandMap]
    totals: dict[str, int]
    cell_pages: int
    page_size: int


def chart(reader: DumpReader, memory_map: MemoryMap) -> PageChart:
    """Count a dump's pages by cell.

    Args:
        reader: The dump.
        memory_map: Its map, with what was found since it was opened.

    Raises:
        DumpError: The tables cannot be read.
    """
    shift, bands = _bands(memory_map)
    counter = _Counter(memory_map, shift, bands)
    counter.add_extents(reader, lambda done: None)
    row_bytes = COLUMNS << shift + reader.machine.page_shift
    found = []
    for band, counts in zip(counter.bands, counter.counts, strict=True):
        index = _colours(counts, 1 << shift).reshape(-1, COLUMNS)
        lost, damaged = ((counts[kind].reshape(-1, COLUMNS) > 0).any(axis=1) for kind in (_LOST, _DAMAGED))
        bad = np.where(damaged, _DAMAGED, np.where(lost, _LOST, 0))
        found.append(BandMap(band.first * row_bytes, band.last * row_bytes, index, row_bytes, bad))
    totals = [sum(int(counts[kind].sum()) for counts in counter.counts) for kind in range(len(KINDS))]
    named = {name: count for name, count in zip(_NAMES, totals, strict=True) if count}
    return PageChart(found, named, 1 << shift, reader.machine.page_size)


def draw(
    reader: DumpReader,
    name: str,
    progress: Callable[[int], object] = lambda done: None,
    memory_map: MemoryMap | None = None,
) -> Picture:
    """Lay out the picture of a dump.

    Args:
        reader: The dump.
        name: What the title calls it.
        progress: Called with bytes of pages looked at (nothing is decoded).
        memory_map: Its map with what was found since, None for the reader's own.

    Raises:
        DumpError: The tables cannot be read.
    """
    memory_map = memory_map if memory_map is not None else reader.memory_map
    shift, bands = _bands(memory_map)
    counter = _Counter(memory_map, shift, bands)
    counter.add_extents(reader, progress)
    nr_rows = sum(band.last - band.first for band in bands)
    cell_height = 4 if nr_rows <= 160 else 3
    width = _LEFT + COLUMNS * _CELL_WIDTH + _RIGHT
    picture = Picture(width, 0, f"{name}: page map", counter.nr_bad)
    _draw_head(picture, reader, name)
    y = _draw_legend(picture, counter, reader.machine.page_size)
    y = _draw_rows(picture, counter, reader.machine.page_shift, y, cell_height)
    _draw_foot(picture, shift, reader.machine.page_size, y)
    return picture


def _draw_head(picture: Picture, reader: DumpReader, name: str) -> None:
    machine, memory_map = reader.machine, reader.memory_map
    info = reader.vmcoreinfo
    names = reader.facts.get("utsname")
    kernel = (info.text("OSRELEASE") if info else None) or (names or {}).get("release") or "kernel not known"
    stored = memory_map.count(PageState.STORED) * machine.page_size
    known = int((memory_map.end - memory_map.start).sum()) * machine.page_size
    picture.shapes.append(Label(24, 38, name, 20, bold=True))
    text = f"{reader.name}, {machine.arch}, {kernel}: {human_size(stored)} stored of {human_size(known)} known memory"
    picture.shapes.append(Label(24, 60, text, 13, _FAINT))


def _draw_legend(picture: Picture, counter: _Counter, page_size: int) -> int:
    # returns the y of what comes below
    totals = [sum(int(counts[kind].sum()) for counts in counter.counts) for kind in range(len(KINDS))]
    x, y = 24, 78
    entries = [
        (colour, f"{name if kind >= _NR_CODECS else 'stored, ' + name}: {count} pages, {human_size(count * page_size)}")
        for kind, ((name, colour), count) in enumerate(zip(KINDS, totals, strict=True))
        if count
    ]
    for colour, text in [*entries, (_HOLE, "no RAM, or nothing known")]:
        width = 18 + 7 * len(text)
        if x + width > picture.width - _RIGHT:
            x, y = 24, y + _LEGEND_LINE
        picture.shapes.append(Rect(x - 1, y - 1, 14, 14, _FAINT))
        picture.shapes.append(Rect(x, y, 12, 12, colour))
        picture.shapes.append(Label(x + 18, y + 10, text, 12))
        x += width + _LEGEND_STEP
    return y + 34


def _draw_rows(picture: Picture, counter: _Counter, page_shift: int, y: int, cell_height: int) -> int:
    colours = palette()
    row_bytes = COLUMNS << counter.shift + page_shift
    previous = 0
    for band, counts in zip(counter.bands, counter.counts, strict=True):
        if band.first > previous:
            text = f"nothing from {previous * row_bytes:#x} to {band.first * row_bytes:#x}: "
            text += human_size((band.first - previous) * row_bytes)
            picture.shapes.append(Label(_LEFT + COLUMNS * _CELL_WIDTH // 2, y + 15, text, 11, _FAINT, "middle"))
            y += _GAP_HEIGHT
        height = (band.last - band.first) * cell_height
        picture.shapes.append(Rect(_LEFT - 1, y - 1, COLUMNS * _CELL_WIDTH + 2, height + 2, (190, 194, 200)))
        index = _colours(counts, 1 << counter.shift).reshape(-1, COLUMNS)
        picture.shapes.append(Cells(_LEFT, y, _CELL_WIDTH, cell_height, index, colours))
        step = _label_step(cell_height)
        rows = [band.first, *(row for row in range(band.first + 1, band.last) if row % step == 0)]
        for row in rows:
            if row != band.first and row - band.first < step:
                continue
            at = y + (row - band.first) * cell_height
            picture.shapes.append(Label(_LEFT - 10, at + 8, f"{row * row_bytes:#x}", 11, _FAINT, "end"))
            picture.shapes.append(Rect(_LEFT - 7, at, 6, 1, _FAINT))
        y += height + 8
        previous = band.last
    return y


def _label_step(cell_height: int) -> int:
    # rows between two addresses: a power of two, some 30 pixels
    step = 1
    while step * cell_height < 30:
        step *= 2
    return step


def _draw_foot(picture: Picture, shift: int, page_size: int, y: int) -> None:
    pages = 1 << shift
    cell = f"{pages} pages ({human_size(pages * page_size)})" if pages > 1 else f"one page ({human_size(page_size)})"
    text = f"One cell is {cell}, one row {human_size(COLUMNS * pages * page_size)}; addresses are physical."
    if pages > 1:
        text += " Paler: only some pages of the cell are stored. Lost and damaged pages always show."
    picture.shapes.append(Label(_LEFT, y + 16, text, 12, _FAINT))
    picture.height = y + 36
