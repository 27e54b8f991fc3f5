# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables of pairs (frame, machine frame) that no file holds, made as they are read."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .source import ByteSource

__all__ = ["IdentityTable"]

U64 = NDArray[np.uint64]


class IdentityTable(ByteSource):
    """The rows (n, n) of 16 bytes, little-endian, of the frames n in runs [start, end)."""

    def __init__(self, start: U64, end: U64) -> None:
        self.name = "table of frames"
        self._start, self._end = start, end
        self._before = np.concatenate([np.zeros(1, np.uint64), np.cumsum(end - start)]).astype(np.uint64)
        self.size = 16 * int(self._before[-1])

    def pread_into(self, view: memoryview, offset: int) -> int:
        """See `ByteSource.pread_into`."""
        count = max(0, min(len(view), self.size - offset))
        first, last = offset // 16, -(-(offset + count) // 16)
        index = np.arange(first, last, dtype=np.uint64)
        run = np.searchsorted(self._before, index, side="right") - 1
        pfns = self._start[run] + (index - self._before[run])
        raw = np.repeat(pfns.astype("<u8"), 2).tobytes()
        view[:count] = raw[offset - 16 * first : offset - 16 * first + count]
        return count
