# SPDX-License-Identifier: GPL-2.0-or-later
"""The page map: sorted, disjoint runs of page frames with a state, and the extents that hold their bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .arrays import unique
from .errors import CorruptDump

__all__ = ["EXTENT", "MAX_PFN", "MemoryMap", "MemoryMapBuilder", "PageRun", "PageState", "clip_runs", "merge_runs"]

U64 = NDArray[np.uint64]

# No machine addresses more than 2**64 bytes, and no page is smaller than 512 bytes.
MAX_PFN = 1 << 55

# A machine of 16 TiB of which every 256th page is kept has fewer; bits that alternate over a terabyte are no kernel's.
_MAX_RUNS = 1 << 24

# One extent: where the bytes of a run of stored frames lie.
#   start_pfn, nr_pages  frames [start_pfn, start_pfn + nr_pages)
#   file                 index into the reader's `sources`
#   offset, stored_size  file bytes; raw extents may hold many frames, compressed ones hold one
#   codec                codecs.RAW ..., or codecs.BAD with the reason's number in page_offset
#   page_offset          first byte within the frame, for raw extents that hold part of one frame
EXTENT = np.dtype(
    [
        ("start_pfn", np.uint64),
        ("offset", np.uint64),
        ("stored_size", np.uint64),
        ("nr_pages", np.uint32),
        ("page_offset", np.uint32),
        ("file", np.uint16),
        ("codec", np.uint8),
    ],
    align=True,
)


class PageState(IntEnum):
    """What is known of a page frame. A frame in no run of the map is a hole."""

    HOLE = 0
    STORED = 1
    EXCLUDED = 2
    LOST = 3
    DAMAGED = 4


class PageRun(NamedTuple):
    """Frames [start_pfn, end_pfn) in one state."""

    start_pfn: int
    end_pfn: int
    state: PageState


def merge_runs(start: U64, end: U64, state: NDArray[np.uint8]) -> tuple[U64, U64, NDArray[np.uint8]]:
    """Join adjacent runs of equal state and drop empty ones; the input is sorted and disjoint."""
    keep = end > start
    if not keep.all():
        start, end, state = start[keep], end[keep], state[keep]
    if len(start) < 2:
        return start, end, state
    first = np.empty(len(start), dtype=bool)
    first[0] = True
    np.not_equal(start[1:], end[:-1], out=first[1:])
    first[1:] |= state[1:] != state[:-1]
    if first.all():
        return start, end, state
    index = np.flatnonzero(first)
    last = np.append(index[1:], len(start)) - 1
    return start[index], end[last], state[index]


def clip_runs(start: U64, end: U64, start_pfn: int, end_pfn: int) -> tuple[slice, U64, U64]:
    """Return the slice of runs that touch [start_pfn, end_pfn), and their starts and ends clipped to it."""
    low = int(np.searchsorted(end, np.uint64(start_pfn), side="right"))
    high = int(np.searchsorted(start, np.uint64(end_pfn), side="left"))
    where = slice(low, max(low, high))
    return where, np.maximum(start[where], np.uint64(start_pfn)), np.minimum(end[where], np.uint64(end_pfn))


@dataclass(frozen=True, eq=False)
class MemoryMap:
    """Sorted, disjoint, merged runs of page frames with a state, in columns (17 bytes a run).

    Attributes:
        start, end: uint64 columns, end exclusive.
        state: uint8 column of `PageState` values, never HOLE.

    Raises:
        CorruptDump: Runs are inverted, overlap, or reach past `MAX_PFN`.
    """

    start: U64
    end: U64
    state: NDArray[np.uint8]

    def __post_init__(self) -> None:
        if len(self.start) == 0:
            return
        if bool((self.end <= self.start).any()) or bool((self.start[1:] < self.end[:-1]).any()):
            raise CorruptDump("page map runs overlap or are inverted")
        if int(self.end[-1]) > MAX_PFN:
            raise CorruptDump(f"page map reaches pfn {int(self.end[-1]):#x}, the limit is {MAX_PFN:#x}")

    @classmethod
    def from_runs(cls, runs: Sequence[tuple[int, int, int]]) -> MemoryMap:
        """Build from (start_pfn, end_pfn, state) in any order; the runs must be disjoint."""
        ordered = sorted(run for run in runs if run[2] != PageState.HOLE)
        start = np.array([run[0] for run in ordered], dtype=np.uint64)
        end = np.array([run[1] for run in ordered], dtype=np.uint64)
        state = np.array([run[2] for run in ordered], dtype=np.uint8)
        return cls(*merge_runs(start, end, state))

    @classmethod
    def from_columns(cls, start: U64, end: U64, state: NDArray[np.uint8] | int) -> MemoryMap:
        """Build from sorted, disjoint columns; `state` may be one value for all."""
        if isinstance(state, int):
            state = np.full(len(start), state, dtype=np.uint8)
        return cls(*merge_runs(start, end, state))

    def __len__(self) -> int:
        return len(self.start)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MemoryMap):
            return NotImplemented
        return (
            np.array_equal(self.start, other.start)
            and np.array_equal(self.end, other.end)
            and np.array_equal(self.state, other.state)
        )

    __hash__ = None  # type: ignore[assignment]

    def __iter__(self) -> Iterator[PageRun]:
        for start, end, state in zip(self.start.tolist(), self.end.tolist(), self.state.tolist(), strict=True):
            yield PageRun(start, end, PageState(state))

    @property
    def end_pfn(self) -> int:
        """One past the highest frame known of; 0 for an empty map."""
        return int(self.end[-1]) if len(self.end) else 0

    def count(self, state: PageState) -> int:
        """Return the number of frames in a state."""
        mask = self.state == state
        return int((self.end[mask] - self.start[mask]).sum())

    def only(self, state: PageState) -> tuple[U64, U64]:
        """Return the starts and ends of the runs in one state."""
        mask = self.state == state
        return self.start[mask], self.end[mask]

    def state_of(self, pfn: int) -> PageState:
        """Return the state of one frame."""
        index = int(np.searchsorted(self.end, np.uint64(pfn), side="right"))
        if index < len(self.start) and int(self.start[index]) <= pfn:
            return PageState(int(self.state[index]))
        return PageState.HOLE

    def states_at(self, pfns: U64) -> NDArray[np.uint8]:
        """Return the state of each frame, in any order."""
        return _states_at(self, pfns)

    def slice(self, start_pfn: int, end_pfn: int) -> MemoryMap:
        """Return what is known of frames [start_pfn, end_pfn)."""
        where, start, end = clip_runs(self.start, self.end, start_pfn, end_pfn)
        return MemoryMap(start, end, self.state[where])

    def overlay(self, top: MemoryMap) -> MemoryMap:
        """Return this map with `top`'s runs laid over it: where both know a frame, `top` wins."""
        if len(top) == 0:
            return self
        if len(self) == 0:
            return top
        edges = unique(np.concatenate([self.start, self.end, top.start, top.end]))
        start, end = edges[:-1], edges[1:]
        below, above = _states_at(self, start), _states_at(top, start)
        state = np.where(above != PageState.HOLE, above, below)
        keep = state != PageState.HOLE
        return MemoryMap(*merge_runs(start[keep], end[keep], state[keep]))


def _states_at(memory_map: MemoryMap, pfns: U64) -> NDArray[np.uint8]:
    if len(memory_map) == 0:
        return np.full(len(pfns), PageState.HOLE, np.uint8)
    index = np.searchsorted(memory_map.end, pfns, side="right")
    inside = index < len(memory_map)
    index = np.where(inside, index, 0)
    inside &= memory_map.start[index] <= pfns
    return np.where(inside, memory_map.state[index], np.uint8(PageState.HOLE))


class MemoryMapBuilder:
    """Collects runs chunk by chunk, in ascending order, joining them across chunk borders."""

    def __init__(self) -> None:
        # first frame of a chunk; start less that, and length, of each run: 9 bytes a run until all are there
        self._chunks: list[tuple[int, NDArray[Any], NDArray[Any], NDArray[np.uint8]]] = []
        self._count = 0

    def add(self, start: U64, end: U64, state: NDArray[np.uint8]) -> None:
        """Append runs that lie above all earlier ones.

        Raises:
            CorruptDump: More runs than any machine's memory has.
        """
        if not len(start):
            return
        self._count += len(start)
        if self._count > _MAX_RUNS:
            raise CorruptDump(
                f"the page map has more than {_MAX_RUNS} runs up to pfn {int(end[-1]):#x}: no kernel's memory looks so"
            )
        base = int(start[0])
        small = int(end[-1]) - base < 1 << 32
        relative, length = start - start[0], end - start
        if small:
            relative, length = relative.astype(np.uint32), length.astype(np.uint32)
        self._chunks.append((base, relative, length, state))

    def build(self) -> MemoryMap:
        """Return the map and forget the chunks."""
        start, end = np.empty(self._count, np.uint64), np.empty(self._count, np.uint64)
        state = np.empty(self._count, np.uint8)
        done = self._count = 0
        self._chunks.reverse()
        while self._chunks:
            base, relative, length, states = self._chunks.pop()
            rows = slice(done, done + len(states))
            np.add(relative, np.uint64(base), out=start[rows])
            np.add(start[rows], length, out=end[rows])
            state[rows] = states
            done += len(states)
        return MemoryMap(*merge_runs(start, end, state))
