# SPDX-License-Identifier: GPL-2.0-or-later
"""From a page map to work orders: tasks that cover the stored frames of a dump exactly, in frame order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from . import codecs
from .decode import Task
from .errors import CorruptDump
from .intervals import inside, union
from .pages import MemoryMap, PageState
from .reader import DumpReader

__all__ = ["Window", "page_tasks"]

U64 = NDArray[np.uint64]


class Window(Protocol):
    """The part of a stream that tasks under way still need."""

    def arrived(self, extents: NDArray[Any]) -> bool:
        """Wait for the bytes; False where the stream ended before."""

    def begin(self, index: int, extents: NDArray[Any]) -> None:
        """Say that a task needs them."""


def page_tasks(
    reader: DumpReader,
    memory_map: MemoryMap,
    *,
    step: int,
    out: Callable[[int, int], tuple[U64, U64]] | None = None,
    window: Window | None = None,
    seen: Callable[[NDArray[Any]], None] = lambda extents: None,
) -> Iterator[Task]:
    """Yield tasks that cover the STORED frames of `memory_map` exactly, none crossing a multiple of `step`.

    Args:
        reader: Gives the extents.
        memory_map: Its map, or one with fewer STORED frames.
        step: Frames.
        out: Gives for a range of frames what `Task.out` wants; None: the pages go nowhere.
        window: Of a stream.
        seen: Told what each task is about to read, before it is given out.

    Raises:
        DumpError: The reader's tables end early, or do not have the frames that its map promises.
    """
    start, end = memory_map.only(PageState.STORED)
    width = np.uint64(step)
    cells = union(start // width, (end - np.uint64(1)) // width + np.uint64(1))
    index = 0
    for first, last in zip(cells[0].tolist(), cells[1].tolist(), strict=True):
        for cell in range(first, last):
            low, high = cell * step, (cell + 1) * step
            wanted = memory_map.slice(low, high)
            extents = _wanted(reader.extents(low, high), wanted, low, reader.machine.page_size)
            if window is not None:
                if not window.arrived(extents):  # the end came: now the tables know what lies past it
                    extents = _wanted(reader.extents(low, high), wanted, low, reader.machine.page_size)
                window.begin(index, extents)
            seen(extents)
            yield Task(index, extents, out(low, high) if out is not None else None)
            index += 1


def _clip_raw(extents: NDArray[Any], start: U64, end: U64, page_size: int) -> NDArray[Any]:
    # What lies uncompressed may have lost single frames: cut such extents at the edges of the runs.
    first = extents["start_pfn"]
    last = first + extents["nr_pages"]
    low = np.searchsorted(end, first, side="right")
    whole = low < len(start)
    whole[whole] = (start[low[whole]] <= first[whole]) & (end[low[whole]] >= last[whole])
    cut = ~whole & (extents["nr_pages"] > 1) & ((extents["codec"] == codecs.RAW) | (extents["codec"] == codecs.ZERO))
    if not cut.any():
        return extents
    low, high = low[cut], np.searchsorted(start, last[cut], side="left")
    count = np.maximum(high - low, 0)
    rows = np.repeat(extents[cut], count)
    run = np.repeat(low, count) + np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count)
    begin = np.maximum(rows["start_pfn"], start[run])
    pages = np.minimum(rows["start_pfn"] + rows["nr_pages"], end[run]) - begin
    raw = rows["codec"] == codecs.RAW
    rows["offset"][raw] += ((begin - rows["start_pfn"]) * np.uint64(page_size))[raw]
    rows["start_pfn"], rows["nr_pages"], rows["stored_size"] = begin, pages, pages * np.uint64(page_size)
    table = np.concatenate([extents[~cut], rows])
    return table[np.lexsort((table["page_offset"], table["start_pfn"]))]


def _wanted(extents: NDArray[Any], memory_map: MemoryMap, start_pfn: int, page_size: int) -> NDArray[Any]:
    # only what the map still calls STORED (salvage took frames out); and all of that
    start, end = memory_map.only(PageState.STORED)
    extents = _clip_raw(extents, start, end, page_size)
    wanted = inside(start, end, extents["start_pfn"])
    if not wanted.all():
        extents = extents[wanted]
    new = np.ones(len(extents), bool)
    new[1:] = extents["start_pfn"][1:] != extents["start_pfn"][:-1]
    have, want = int(extents["nr_pages"][new].sum()), int((end - start).sum())
    if have != want:
        raise CorruptDump(f"the tables have {have} pages where the page map has {want}", pfn=start_pfn)
    return extents
