# SPDX-License-Identifier: GPL-2.0-or-later
"""Page bitmaps in a file: to runs, to ranks, to frame numbers; a chunk at a time.

Bit of frame p: byte p >> 3, bit p & 7, on every architecture (kdump sheet, section 1).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .source import ByteSource

__all__ = ["CHUNK_PFNS", "RankIndex", "read_bits", "state_runs"]

CHUNK_PFNS = 1 << 22  # 4M frames = 512 KiB of each bitmap and 4 MiB of bits at a time: stays in the cache
StateRuns = tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint8]]
_RANK_BLOCK = 4096  # frames a counter: 268M frames (1 TiB) need 512 KiB of counters


def read_bits(source: ByteSource, offset: int, start_pfn: int, end_pfn: int) -> NDArray[np.uint8]:
    """Return one 0/1 byte for each frame of [start_pfn, end_pfn); start_pfn is a multiple of 8."""
    raw = source.pread(offset + start_pfn // 8, -(-end_pfn // 8) - start_pfn // 8)
    return np.unpackbits(np.frombuffer(raw, np.uint8), bitorder="little")[: end_pfn - start_pfn]


def state_runs(states: NDArray[np.uint8], start_pfn: int) -> StateRuns:
    """Return start, end and value columns of the runs of equal value in `states`, zeros left out."""
    if not len(states):
        return np.empty(0, np.uint64), np.empty(0, np.uint64), np.empty(0, np.uint8)
    edge = np.flatnonzero(states[1:] != states[:-1]) + 1
    start = np.concatenate([[0], edge]).astype(np.uint64)
    end = np.concatenate([edge, [len(states)]]).astype(np.uint64)
    value = states[start.astype(np.int64)]
    keep = value != 0
    base = np.uint64(start_pfn)
    return start[keep] + base, end[keep] + base, value[keep]


class RankIndex:
    """Counts of set bits below every 4096th frame, so that any frame's rank needs one short read.

    Args:
        source, offset: Where the bitmap lies.
        nr_pfns: Frames it covers.
    """

    def __init__(self, source: ByteSource, offset: int, nr_pfns: int) -> None:
        self._source = source
        self._offset = offset
        self.nr_pfns = nr_pfns
        counts = [np.zeros(1, np.uint64)]
        for start in range(0, nr_pfns, CHUNK_PFNS):
            counts.append(self._block_counts(start, min(nr_pfns, start + CHUNK_PFNS)))
        self._below = np.cumsum(np.concatenate(counts), dtype=np.uint64)

    def _block_counts(self, start: int, end: int) -> NDArray[np.uint64]:
        raw = bytearray(self._source.pread(self._offset + start // 8, -(-end // 8) - start // 8))
        if end % 8:
            raw[-1] &= (1 << end % 8) - 1  # bits at or past the last frame do not count
        raw.extend(bytes(-len(raw) % (_RANK_BLOCK // 8)))
        words = np.frombuffer(raw, np.uint64)
        counts: NDArray[np.uint64] = np.bitwise_count(words).reshape(-1, _RANK_BLOCK // 64).sum(axis=1, dtype=np.uint64)
        return counts

    @property
    def total(self) -> int:
        """Set bits in the whole bitmap."""
        return int(self._below[-1])

    def set_pfns(self, start_pfn: int, end_pfn: int) -> tuple[int, NDArray[np.uint64]]:
        """Return the rank of the first set bit at or above `start_pfn`, and the set frames below `end_pfn`."""
        end_pfn = min(end_pfn, self.nr_pfns)
        if start_pfn >= end_pfn:
            return self.total, np.empty(0, np.uint64)
        block = start_pfn // _RANK_BLOCK
        first = block * _RANK_BLOCK
        bits = read_bits(self._source, self._offset, first, end_pfn)
        rank = int(self._below[block]) + int(np.count_nonzero(bits[: start_pfn - first]))
        pfns = np.flatnonzero(bits[start_pfn - first :]).astype(np.uint64) + np.uint64(start_pfn)
        return rank, pfns
