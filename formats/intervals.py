# SPDX-License-Identifier: GPL-2.0-or-later
"""Byte intervals of physical memory and where their bytes lie; which of several overlapping ones counts."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .arrays import unique

__all__ = ["Pieces", "inside", "inside_larger", "latest_wins", "resolve", "subtract", "text_range", "union"]

U64 = NDArray[np.uint64]

_NOWHERE = np.uint64(0xFFFFFFFFFFFFFFFF)  # file offset of bytes that are zeros by declaration


def text_range(arch: str) -> tuple[int, int]:
    """Return the virtual range in which an architecture maps its kernel image a second time; (0, 0) if it does not.

    Source: docs/formats/elf.md section 3.
    """
    return {
        "x86_64": (0xFFFFFFFF80000000, 0xFFFFFFFFFF600000),
        "ia64": (0xA000000100000000, 0xA000000200000000),
    }.get(arch, (0, 0))


class Pieces(NamedTuple):
    """Sorted, disjoint byte ranges [start, end) of physical memory, with the file offset of each."""

    start: U64
    end: U64
    offset: U64

    def select(self, mask: NDArray[np.bool_] | slice) -> Pieces:
        """Return some of the rows."""
        return Pieces(self.start[mask], self.end[mask], self.offset[mask])

    def rows(self) -> Iterator[tuple[int, int, int]]:
        """Yield (start, end, offset)."""
        yield from zip(self.start.tolist(), self.end.tolist(), self.offset.tolist(), strict=True)

    def clip(self, low: int, high: int) -> Pieces:
        """Return what lies in [low, high)."""
        first = int(np.searchsorted(self.end, np.uint64(low), side="right"))
        last = max(first, int(np.searchsorted(self.start, np.uint64(high), side="left")))
        part = self.select(slice(first, last))
        start = np.maximum(part.start, np.uint64(low))
        end = np.minimum(part.end, np.uint64(high))
        offset = np.where(part.offset == _NOWHERE, _NOWHERE, part.offset + (start - part.start))
        keep = end > start
        return Pieces(start[keep], end[keep], offset[keep])

    def split(self, edges: U64) -> Pieces:
        """Return the same bytes, no piece crossing any of `edges`."""
        index = np.searchsorted(self.end, edges, side="right")
        inside = index < len(self.start)
        inside[inside] = self.start[index[inside]] < edges[inside]
        edges, index = edges[inside], index[inside]
        start = np.concatenate([self.start, edges])
        moved = self.offset[index] + (edges - self.start[index])
        offset = np.concatenate([self.offset, np.where(self.offset[index] == _NOWHERE, _NOWHERE, moved)])
        owner_end = np.concatenate([self.end, self.end[index]])
        start, order = np.unique(start, return_index=True)
        offset, owner_end = offset[order], owner_end[order]
        end = owner_end.copy()
        end[:-1] = np.minimum(owner_end[:-1], start[1:])
        return Pieces(start, end, offset)

    def without(self, start: U64, end: U64) -> Pieces:
        """Return what lies outside of [start, end) (sorted, disjoint)."""
        if not len(start) or not len(self.start):
            return self
        parts = self.split(np.concatenate([start, end]))
        return parts.select(~inside(start, end, parts.start))

    def fill(self, start: U64, end: U64) -> Pieces:
        """Return these pieces with zeros wherever [start, end) (sorted, disjoint) is not yet covered."""
        edges = unique(np.concatenate([self.start, self.end, start, end]))
        low, high = edges[:-1], edges[1:]
        mine = np.searchsorted(self.end, low, side="right")
        has = inside(self.start, self.end, low)
        wanted = inside(start, end, low)
        offset = np.full(len(low), _NOWHERE, np.uint64)
        offset[has] = self.offset[mine[has]] + (low[has] - self.start[mine[has]])
        keep = has | wanted
        return Pieces(low[keep], high[keep], offset[keep])


def union(start: U64, end: U64) -> tuple[U64, U64]:
    """Return the sorted, disjoint union of intervals in any order, touching ones joined."""
    keep = end > start
    start, end = start[keep], end[keep]
    if not len(start):
        return start, end
    order = np.argsort(start, kind="stable")
    start, reach = start[order], np.maximum.accumulate(end[order])
    first = np.concatenate([[True], start[1:] > reach[:-1]])
    last = np.append(np.flatnonzero(first)[1:], len(start)) - 1
    return start[first], reach[last]


def subtract(start: U64, end: U64, other_start: U64, other_end: U64) -> tuple[U64, U64]:
    """Return the parts of sorted, disjoint intervals that lie in none of the other sorted, disjoint ones."""
    if not len(start) or not len(other_start):
        return start, end
    edges = unique(np.concatenate([start, end, other_start, other_end]))
    low, high = edges[:-1], edges[1:]
    keep = inside(start, end, low) & ~inside(other_start, other_end, low)
    return union(low[keep], high[keep])


def inside(start: U64, end: U64, points: U64) -> NDArray[np.bool_]:
    """Return which points, in any order, lie in one of the sorted, disjoint intervals."""
    index = np.searchsorted(end, points, side="right")
    found = index < len(start)
    found[found] = start[index[found]] <= points[found]
    return found


def inside_larger(start: U64, end: U64) -> NDArray[np.bool_]:
    """Return which intervals, in any order, lie inside one that is larger than they are."""
    if len(start) < 2:
        return np.zeros(len(start), bool)
    order = np.lexsort((~end, start))  # by start, and of equal starts the longest first
    first, last = start[order], end[order]
    reach = np.maximum.accumulate(last)
    # equal intervals stand side by side: what reaches over the first of them counts for all
    new = np.ones(len(order), bool)
    new[1:] = (first[1:] != first[:-1]) | (last[1:] != last[:-1])
    group = np.flatnonzero(new)[np.cumsum(new) - 1]
    result = np.zeros(len(order), bool)
    result[order] = (group > 0) & (reach[np.maximum(group, 1) - 1] >= last) & (last > first)
    return result


def _is_disjoint(pieces: Pieces) -> bool:
    return not bool((pieces.start[1:] < pieces.end[:-1]).any())


def _sort(start: U64, size: U64, offset: U64) -> Pieces:
    keep = size > 0
    start, size, offset = start[keep], size[keep], offset[keep]
    order = np.argsort(start, kind="stable")
    return Pieces(start[order], (start + size)[order], offset[order])


def _covered(inner: Pieces, outer: Pieces) -> bool:
    start, end = union(outer.start, outer.end)
    if not len(inner.start):
        return True
    if not len(start):
        return False
    index = np.minimum(np.searchsorted(end, inner.start, side="right"), len(start) - 1)
    return bool(((start[index] <= inner.start) & (end[index] >= inner.end)).all())


def resolve(paddr: U64, size: U64, offset: U64, is_text: NDArray[np.bool_]) -> tuple[Pieces, Pieces]:
    """Decide whose bytes count where stored segments overlap: RAM segments before the kernel-text alias, then
    the first in file order.

    Args:
        paddr, size, offset: Of the segments in file order, `size` bytes of each are in the file.
        is_text: Which segments map the kernel's image.

    Returns:
        The pieces that count, and the parts of segments that lost (sorted by start, possibly overlapping).
    """
    ram = _sort(paddr[~is_text], size[~is_text], offset[~is_text])
    text = _sort(paddr[is_text], size[is_text], offset[is_text])
    if _is_disjoint(ram) and _covered(text, ram):
        return ram, text
    priority = np.where(is_text, np.int64(1) << 40, 0) + np.arange(len(paddr), dtype=np.int64)
    keep = size > 0
    order = np.argsort(paddr[keep], kind="stable")
    ranked = priority[keep][order]
    return _sweep(paddr[keep][order], size[keep][order], offset[keep][order], ranked)


def latest_wins(start: U64, size: U64, offset: U64) -> Pieces:
    """Return the pieces that count in a log of writes: of overlapping ones the last.

    Args:
        start, size, offset: Of the writes in the order in which they were made.
    """
    written = _sort(start, size, offset)
    if _is_disjoint(written):
        return written
    order = np.argsort(start, kind="stable")
    rank = -np.arange(len(start), dtype=np.int64)
    return _sweep(start[order], size[order], offset[order], rank[order])[0]


def _sweep(paddr: U64, size: U64, offset: U64, priority: NDArray[np.int64]) -> tuple[Pieces, Pieces]:
    # One pass over the edges with a heap of the open segments: O(n log n), whatever the overlap.
    start, end = paddr.tolist(), (paddr + size).tolist()
    file_offset, rank = offset.tolist(), priority.tolist()
    edges = sorted(set(start) | set(end))
    winners: list[tuple[int, int, int]] = []
    heap: list[tuple[int, int]] = []
    following = 0
    for low, high in pairwise(edges):
        while following < len(start) and start[following] <= low:
            heapq.heappush(heap, (rank[following], following))
            following += 1
        while heap and end[heap[0][1]] <= low:
            heapq.heappop(heap)
        if not heap:
            continue
        row = heap[0][1]
        nowhere = file_offset[row] == int(_NOWHERE)
        at = int(_NOWHERE) if nowhere else file_offset[row] + low - start[row]
        if winners and winners[-1][1] == low and not nowhere and winners[-1][2] + low - winners[-1][0] == at:
            winners[-1] = (winners[-1][0], high, winners[-1][2])
        else:
            winners.append((low, high, at))
    table = np.array(winners, dtype=np.uint64).reshape(-1, 3)
    pieces = Pieces(table[:, 0].copy(), table[:, 1].copy(), table[:, 2].copy())
    return pieces, Pieces(paddr, paddr + size, offset)
