# SPDX-License-Identifier: GPL-2.0-or-later
"""Converting a stream in one pass: wait for the bytes of a task, release them behind, read back the output."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..formats import codecs
from ..formats.errors import InputError, PageDecodeError
from ..formats.flattened import intervals_cover, intervals_gaps
from ..formats.intervals import union
from ..formats.machine import Machine
from ..formats.pages import MemoryMap
from ..formats.reader import DumpReader
from .output import PlacedPlan
from .outside import compared_duplicates

__all__ = ["OutputImage", "StreamWindow"]

# The zero page that many frames share lies at the start of the page data: that much is never released.
_KEEP_HEAD = 1 << 20

U64 = NDArray[np.uint64]


class StreamWindow:
    """Which part of a stream the tasks under way need.

    Args:
        reader: Whose only source is a stream.
    """

    def __init__(self, reader: DumpReader) -> None:
        self._source = reader.sources[0]
        self._pending: dict[int, tuple[int, int]] = {}
        self._keep: int | None = None
        self._released = 0
        self._done = 0
        self._pinned = _held_twice(reader)  # compared at the end

    def arrived(self, extents: NDArray[Any]) -> bool:
        """Wait for the bytes of a task; False where the stream ended before."""
        stored = extents[(extents["codec"] != codecs.BAD) & (extents["codec"] != codecs.ZERO)]
        low, high = union(stored["offset"], stored["offset"] + stored["stored_size"])
        whole = True
        for start, end in zip(low.tolist(), high.tolist(), strict=True):
            whole &= self._source.ensure(start, end)
        return whole

    def begin(self, index: int, extents: NDArray[Any]) -> None:
        """Note what a task that starts now needs.

        Raises:
            InputError: It needs bytes that were released: the stream has its pages out of order.
        """
        stored = extents[(extents["codec"] != codecs.BAD) & (extents["codec"] != codecs.ZERO)]
        if not len(stored):
            return
        low, high = stored["offset"], stored["offset"] + stored["stored_size"]
        if self._keep is None:
            self._keep = self._released = int(low.min()) + _KEEP_HEAD
        low = np.maximum(low, np.uint64(self._keep))
        moving = low < high
        if not moving.any():
            return
        low, high = low[moving], high[moving]
        early = low < np.uint64(self._released)
        gone = early & ~intervals_cover(*self._pinned, low, np.minimum(high, np.uint64(self._released)) - low)
        if gone.any():
            raise InputError(
                f"the stream has its pages out of order: {int(low[gone][0]):#x} is wanted again after "
                f"{self._released:#x} was used",
                path=self._source.name,
                hint="save it to a file and convert that",
            )
        self._pending[index] = int(low.min()), int(high.max())

    def end(self, index: int) -> None:
        """Note that a task is done, and release what no task under way needs."""
        span = self._pending.pop(index, None)
        if span is None or self._keep is None:
            return
        self._done = max(self._done, span[1])
        frontier = min([self._done, *(low for low, _ in self._pending.values())]) & ~0xFFF
        for start, end in intervals_gaps(*self._pinned, self._released, frontier):
            self._source.release(start, end)
        self._released = max(self._released, frontier)


def _held_twice(reader: DumpReader) -> tuple[U64, U64]:
    # The file ranges of bytes that the dump holds at two places, and that are compared at the end.
    found = [np.empty((0, 2), np.uint64)]
    for pair in compared_duplicates(reader):
        if pair is None:
            break
        rows = np.concatenate(pair)
        rows = rows[rows["codec"] != codecs.ZERO]
        found.append(np.stack(union(rows["offset"], rows["offset"] + rows["stored_size"]), axis=1))
    table = np.concatenate(found)
    return union(table[:, 0], table[:, 1])


class OutputImage:
    """Memory as it stands in the output file: for page tables when the source is gone."""

    def __init__(self, fd: int, layout: PlacedPlan, memory_map: MemoryMap) -> None:
        self._fd = fd
        self._layout = layout
        self.machine: Machine = layout.machine
        self.memory_map = memory_map

    def read_physical(self, paddr: int, size: int) -> bytes:
        """See `MemoryImage.read_physical`."""
        parts = []
        while size > 0:
            pfn, start = divmod(paddr, self.machine.page_size)
            offset = self._layout.offset_of(pfn)
            if offset is None:
                raise PageDecodeError("page is not in the dump", pfn=pfn)
            count = min(size, self.machine.page_size - start)
            parts.append(os.pread(self._fd, count, offset + start))
            paddr, size = paddr + count, size - count
        return b"".join(parts)
