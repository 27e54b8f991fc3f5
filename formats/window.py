# SPDX-License-Identifier: GPL-2.0-or-later
"""The part of a stream that tasks under way still need: wait for their bytes, release them behind."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import codecs
from .errors import InputError
from .flattened import intervals_cover, intervals_gaps
from .intervals import union
from .source import ByteSource

__all__ = ["StreamWindow"]

# The zero page that many frames share lies at the start of the page data: that much is never released.
_KEEP_HEAD = 1 << 20

U64 = NDArray[np.uint64]


class StreamWindow:
    """Which part of a stream the tasks under way need.

    Args:
        source: The stream.
        pinned: Sorted, disjoint byte ranges of it (starts, ends) that are never released.
    """

    def __init__(self, source: ByteSource, pinned: tuple[U64, U64]) -> None:
        self._source = source
        self._pending: dict[int, tuple[int, int]] = {}
        self._keep: int | None = None
        self._released = 0
        self._done = 0
        self._pinned = pinned

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
