# SPDX-License-Identifier: GPL-2.0-or-later
"""Page bitmaps in a file: to runs, to ranks, to frame numbers; a chunk at a time, holes stepped over unread.

Bit of frame p: byte p >> 3, bit p & 7, on every architecture (docs/formats/kdump.md, "bitmaps").
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import CorruptDump, TruncatedDump
from .pages import MemoryMap, MemoryMapBuilder, PageState
from .source import ByteSource

__all__ = [
    "BLOCK_PFNS",
    "CHUNK_PFNS",
    "BitmapChunk",
    "BitmapPair",
    "RankIndex",
    "bitmap_chunks",
    "read_bits",
    "state_runs",
]

U64 = NDArray[np.uint64]
StateRuns = tuple[U64, U64, NDArray[np.uint8]]
CHUNK_PFNS = 1 << 20  # 1M frames = 128 KiB of each bitmap and 1 MiB of bits at a time: stays in the cache
# Frames a counter, and the grain of what is read: 268M frames (1 TiB) need 512 KiB of counters
BLOCK_PFNS = 4096
_BLOCK_BYTES = BLOCK_PFNS // 8


def read_bits(source: ByteSource, offset: int, start_pfn: int, end_pfn: int) -> NDArray[np.uint8]:
    """Return one 0/1 byte for each frame of [start_pfn, end_pfn); start_pfn is a multiple of 8."""
    raw = source.pread(offset + start_pfn // 8, -(-end_pfn // 8) - start_pfn // 8)
    return np.unpackbits(np.frombuffer(raw, np.uint8), bitorder="little")[: end_pfn - start_pfn]


class BitmapChunk(NamedTuple):
    """Some blocks of `BLOCK_PFNS` frames, of one or more bitmaps.

    Attributes:
        first_pfn: Column of the first frame of each block, ascending; blocks between them are zeros.
        raw: One row of bytes a block, for each bitmap. Bits at or past the last frame are cleared.
    """

    first_pfn: U64
    raw: tuple[NDArray[np.uint8], ...]

    def bits(self, number: int) -> NDArray[np.uint8]:
        """Return one 0/1 byte for each frame of all blocks, by bitmap."""
        return np.unpackbits(self.raw[number].reshape(-1), bitorder="little")


def bitmap_chunks(source: ByteSource, offsets: tuple[int, ...], nr_pfns: int) -> Iterator[BitmapChunk]:
    """Yield all blocks of frames that have a bit set in any of the bitmaps, up to `CHUNK_PFNS` frames at a time.

    What the source knows to be zeros is not read: a bitmap of any size costs what is written of it.

    Args:
        source: The file.
        offsets: Where each bitmap begins.
        nr_pfns: Frames that each covers.

    Raises:
        TruncatedDump: The source ends inside a bitmap.
    """
    pending: list[tuple[int, int]] = []
    room = step = max(1, CHUNK_PFNS // BLOCK_PFNS)
    for first, last in _block_ranges(source, offsets, nr_pfns):
        low = first
        while low < last:
            high = min(last, low + room)
            pending.append((low, high))
            room -= high - low
            low = high
            if room == 0:
                yield _read_blocks(source, offsets, nr_pfns, pending)
                pending, room = [], step
    if pending:
        yield _read_blocks(source, offsets, nr_pfns, pending)


def _block_ranges(source: ByteSource, offsets: tuple[int, ...], nr_pfns: int) -> Iterator[tuple[int, int]]:
    # Ranges of block numbers that hold data in any bitmap: ascending, disjoint.
    size = -(-nr_pfns // 8)
    heads: list[tuple[int, int, Iterator[tuple[int, int]]]] = []
    for offset in offsets:
        ranges = _to_blocks(source.data_ranges(offset, offset + size), offset)
        heads += [(*head, ranges) for head in [next(ranges, None)] if head is not None]
    done = 0
    while heads:
        low, high, ranges = heads.pop(heads.index(min(heads, key=lambda head: head[:2])))
        heads += [(*head, ranges) for head in [next(ranges, None)] if head is not None]
        low = max(low, done)
        if low < high:
            yield low, high
            done = high


def _to_blocks(ranges: Iterator[tuple[int, int]], offset: int) -> Iterator[tuple[int, int]]:
    for low, high in ranges:
        yield (low - offset) // _BLOCK_BYTES, -(-(high - offset) // _BLOCK_BYTES)


def _read_blocks(
    source: ByteSource, offsets: tuple[int, ...], nr_pfns: int, ranges: list[tuple[int, int]]
) -> BitmapChunk:
    size = -(-nr_pfns // 8)
    tables = []
    for offset in offsets:
        parts = []
        for first, last in ranges:
            low, high = first * _BLOCK_BYTES, min(size, last * _BLOCK_BYTES)
            parts.append(source.pread(offset + low, high - low))
        raw = bytearray(b"".join(parts))
        if ranges[-1][1] * _BLOCK_BYTES >= size and nr_pfns % 8:
            raw[-1] &= (1 << nr_pfns % 8) - 1
        raw.extend(bytes(-len(raw) % _BLOCK_BYTES))
        tables.append(np.frombuffer(raw, np.uint8).reshape(-1, _BLOCK_BYTES))
    numbers = np.concatenate([np.arange(first, last, dtype=np.uint64) for first, last in ranges])
    used = np.logical_or.reduce([table.view(np.uint64).any(axis=1) for table in tables])
    return BitmapChunk(numbers[used] * np.uint64(BLOCK_PFNS), tuple(table[used] for table in tables))


def state_runs(states: NDArray[np.uint8], first_pfn: int | U64) -> StateRuns:
    """Return start, end and value columns of the runs of equal value in `states`, zeros left out.

    Args:
        states: One value a frame.
        first_pfn: The first frame; or the first of each `BLOCK_PFNS` of them, ascending.
    """
    if not len(states):
        return np.empty(0, np.uint64), np.empty(0, np.uint64), np.empty(0, np.uint8)
    is_edge = states[1:] != states[:-1]
    if not isinstance(first_pfn, int):
        jumps = np.flatnonzero(first_pfn[1:] != first_pfn[:-1] + np.uint64(BLOCK_PFNS)) + 1
        is_edge[jumps * BLOCK_PFNS - 1] = True
    edge = np.flatnonzero(is_edge) + 1
    start = np.concatenate([[0], edge])
    end = np.concatenate([edge, [len(states)]])
    value = states[start]
    keep = value != 0
    start, end = start[keep], end[keep]
    if isinstance(first_pfn, int):
        base = np.uint64(first_pfn)
    else:  # a run that goes over several blocks has no jump within
        base = first_pfn[start // BLOCK_PFNS] - (start // BLOCK_PFNS * BLOCK_PFNS).astype(np.uint64)
    return start.astype(np.uint64) + base, end.astype(np.uint64) + base, value[keep]


class RankIndex:
    """Counts of set bits below every block of 4096 frames with any, so that any frame's rank needs one short read.

    Args:
        source, offset: Where the bitmap lies.
        nr_pfns: Frames it covers.
    """

    def __init__(self, source: ByteSource, offset: int, nr_pfns: int) -> None:
        self._source = source
        self._offset = offset
        self.nr_pfns = nr_pfns
        first_pfn, counts = [np.empty(0, np.uint64)], [np.zeros(1, np.uint64)]
        for chunk in bitmap_chunks(source, (offset,), nr_pfns):
            words = chunk.raw[0].view(np.uint64)
            first_pfn.append(chunk.first_pfn)
            counts.append(np.bitwise_count(words).sum(axis=1, dtype=np.uint64))
        self._first_pfn = np.concatenate(first_pfn)
        self._below = np.cumsum(np.concatenate(counts), dtype=np.uint64)

    @property
    def total(self) -> int:
        """Set bits in the whole bitmap."""
        return int(self._below[-1])

    def cells(self, nr_pfns: int) -> Iterator[tuple[int, int]]:
        """Yield the ranges [n * nr_pfns, (n + 1) * nr_pfns) that have a set bit; a multiple of `BLOCK_PFNS`."""
        width = np.uint64(nr_pfns)
        numbers = self._first_pfn // width
        new = np.ones(len(numbers), bool)
        new[1:] = numbers[1:] != numbers[:-1]
        for start in (numbers[new] * width).tolist():
            yield start, min(start + nr_pfns, self.nr_pfns)

    def set_pfns(self, start_pfn: int, end_pfn: int) -> tuple[int, U64]:
        """Return the rank of the first set bit at or above `start_pfn`, and the set frames below `end_pfn`."""
        end_pfn = min(end_pfn, self.nr_pfns)
        if start_pfn >= end_pfn:
            return self.total, np.empty(0, np.uint64)
        first = start_pfn // BLOCK_PFNS * BLOCK_PFNS
        bits = read_bits(self._source, self._offset, first, end_pfn)
        below = self._below[int(np.searchsorted(self._first_pfn, np.uint64(first)))]
        rank = int(below) + int(np.count_nonzero(bits[: start_pfn - first]))
        pfns = np.flatnonzero(bits[start_pfn - first :]).astype(np.uint64) + np.uint64(start_pfn)
        return rank, pfns


class BitmapPair(NamedTuple):
    """Where the bitmaps of a diskdump or kdump lie: frames that exist, and frames that are stored.

    Attributes:
        source: The file.
        first, second: Offsets; equal where one bitmap serves both roles.
        nr_pfns: Frames that each covers.
    """

    source: ByteSource
    first: int
    second: int
    nr_pfns: int

    @classmethod
    def place(cls, source: ByteSource, offset: int, nr_blocks: int, block_size: int, nr_pfns: int) -> BitmapPair:
        """Tell one bitmap from two, and check that they are there.

        Args:
            source, offset: Where the first begins.
            nr_blocks: Blocks of both, `block_size` bytes each.
            block_size: Bytes.
            nr_pfns: Frames to cover.

        Raises:
            CorruptDump: Too few blocks.
            TruncatedDump: A stream that was cut off lacks some of them.
        """
        needed = -(-nr_pfns // (8 * block_size))
        if nr_blocks < needed:
            raise CorruptDump(
                f"{nr_blocks} bitmap blocks of {block_size} bytes cannot cover {nr_pfns} frames, which need {needed}",
                path=source.name,
            )
        # A single bitmap (historic) serves both roles. The stride is half of all bytes, surplus blocks included.
        second = offset + (nr_blocks * block_size // 2 if nr_blocks >= 2 * needed else 0)
        pair = cls(source, offset, second, nr_pfns)
        size = -(-nr_pfns // 8)
        for start in (offset, second):
            covered = source.covered(np.array([start], np.uint64), np.array([size], np.uint64))
            if start + size > source.size or not covered[0]:
                raise TruncatedDump(
                    f"the stream was cut off before its bitmap at {start:#x}, {size} bytes, was whole",
                    path=source.name,
                )
        return pair

    @property
    def is_single(self) -> bool:
        """Whether one bitmap serves both roles."""
        return self.first == self.second

    @property
    def has_surplus_bits(self) -> bool:
        """Whether the last byte of a bitmap has bits set past the last frame."""
        if self.nr_pfns % 8 == 0:
            return False
        lasts = [self.source.pread(offset + self.nr_pfns // 8, 1)[0] for offset in {self.first, self.second}]
        return any(last >> self.nr_pfns % 8 for last in lasts)

    def build_map(self, pfn_base: int = 0) -> tuple[MemoryMap, int]:
        """Return the map, `pfn_base` added to all frames, and how many frames are stored but do not exist.

        Raises:
            CorruptDump: More runs than any memory has.
        """
        builder = MemoryMapBuilder()
        unexpected = 0
        lut = np.array([0, PageState.EXCLUDED, PageState.STORED, PageState.STORED], np.uint8)
        for chunk in bitmap_chunks(self.source, (self.first, self.second), self.nr_pfns):
            exists, stored = chunk.bits(0), chunk.bits(1)
            unexpected += int(np.count_nonzero(stored > exists))
            try:
                builder.add(*state_runs(lut[exists + 2 * stored], chunk.first_pfn + np.uint64(pfn_base)))
            except CorruptDump as error:
                raise CorruptDump(error.message, path=self.source.name, offset=self.first) from None
        return builder.build(), unexpected
