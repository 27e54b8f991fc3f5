# SPDX-License-Identifier: GPL-2.0-or-later
"""What all formats share whose memory lies in the file as ranges of bytes: from ranges to page map and extents.

A range may begin and end inside a page, overlap others, or reach past the end of the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import codecs
from .errors import TruncatedDump
from .intervals import Pieces, inside, resolve, subtract, union
from .pages import EXTENT, MemoryMap, PageState
from .reader import DumpReader

__all__ = ["FILE_SHIFT", "NOWHERE", "SegmentReader", "pieces_to_extents", "reach"]

U64 = NDArray[np.uint64]

NOWHERE = 0xFFFFFFFFFFFFFFFF  # offset of bytes that are zeros by declaration
FILE_SHIFT = 48  # a reader of several files has the file's number in the bits of an offset from here on
_ONES = np.uint64(NOWHERE)


class SegmentReader(DumpReader):
    """Base of readers of byte ranges. A subclass sets `machine`, and calls `lay_out` once."""

    def lay_out(
        self,
        paddr: U64,
        stored: U64,
        claimed: U64,
        offset: U64,
        *,
        is_text: NDArray[np.bool_] | None = None,
        absent: NDArray[np.uint8] | None = None,
        tails: tuple[U64, U64] | None = None,
        tail_zero: bool = False,
    ) -> None:
        """Make map, extents and partial frames of ranges in file order. Of ranges that overlap the first counts.

        Args:
            paddr: Physical address of each, in bytes.
            stored: Bytes of it that are there.
            claimed: Bytes of it that should be, none below `stored`.
            offset: Where they lie; `NOWHERE`: they are zeros by declaration. With several sources the number of
                the file stands above `FILE_SHIFT`.
            is_text: Which are the kernel image's second mapping: what others hold counts before them.
            absent: State of the frames of each that are claimed and not stored; LOST where not given.
            tails: Sorted, disjoint ranges that were left out: EXCLUDED.
            tail_zero: They are zeros instead.
        """
        copies = np.zeros(len(paddr), bool) if is_text is None else is_text
        stored_end, file_end = reach(paddr, stored), reach(paddr, claimed)
        self.pieces, self._dropped = resolve(paddr, stored_end - paddr, offset, copies)
        none = np.empty(0, np.uint64)
        tails = (none, none) if tails is None else tails
        if tail_zero:
            self.pieces = self.pieces.fill(*tails)
            tails = none, none
        lost = self._lose_frames(stored_end, file_end, absent)
        held = self._frames(*union(self.pieces.start, self.pieces.end), PageState.STORED)
        excluded = self._frames(*tails, PageState.EXCLUDED)
        self.memory_map = excluded.overlay(lost).overlay(held)
        self.partial = self._find_partial()

    def _frames(self, start: U64, end: U64, state: PageState) -> MemoryMap:
        # frames that the sorted byte ranges touch
        return MemoryMap.from_columns(*union(start >> self._shift, self._up(end)), int(state))

    @property
    def _shift(self) -> np.uint64:
        return np.uint64(self.machine.page_shift)

    def _up(self, paddr: U64) -> U64:
        # the first frame at or above an address; without the sum that would wrap at 2**64
        mask = np.uint64(self.machine.page_size - 1)
        return (paddr >> self._shift) + ((paddr & mask) != 0)  # type: ignore[no-any-return]

    def _lose_frames(self, stored_end: U64, file_end: U64, absent: NDArray[np.uint8] | None) -> MemoryMap:
        # Frames of which bytes should be in the file and are not, in no range: no frame is given half.
        present = union(self.pieces.start, self.pieces.end)
        short = stored_end < file_end
        states = np.full(len(short), int(PageState.LOST), np.uint8) if absent is None else absent
        lost = MemoryMap.from_runs([])
        for state in (PageState.DAMAGED, PageState.LOST):
            rows = short & (states == state)
            wanted = union(stored_end[rows], file_end[rows])
            lost = lost.overlay(self._frames(*subtract(*wanted, *present), state))
        if self.sources[0].damage is not None:
            lost = lost.overlay(self._cut_frames())
        if len(lost):
            last = np.minimum(lost.end, _ONES >> self._shift) << self._shift
            last[lost.end > _ONES >> self._shift] = _ONES
            self.pieces = self.pieces.without(lost.start << self._shift, last)
        return lost

    def _cut_frames(self) -> MemoryMap:
        # Frames of which bytes never came in a stream that was cut off. Ranges, not frames: a stream of a few bytes
        # may claim any size.
        size, source = self.machine.page_size, self.sources[0]
        found: list[tuple[int, int]] = []
        pieces = self.pieces.select(self.pieces.offset != NOWHERE)
        if len(self.sources) > 1:  # of the others whoever made the ranges has seen to it
            pieces = pieces.select(pieces.offset >> np.uint64(FILE_SHIFT) == 0)
        there = source.covered(pieces.offset, pieces.end - pieces.start)
        for start, end, offset in pieces.select(~there).rows():
            for low, high in source.gaps(offset, offset + end - start):
                found.append(((start + low - offset) // size, -(-(start + high - offset) // size)))
        gone = np.array(found, np.uint64).reshape(-1, 2)
        return MemoryMap.from_columns(*union(gone[:, 0], gone[:, 1]), int(PageState.LOST))

    def _find_partial(self) -> U64:
        # Frames not wholly covered: their byte ranges. Adjacent pieces that together fill a frame do not count.
        start, end = union(self.pieces.start, self.pieces.end)
        size = np.uint64(self.machine.page_size)
        shift, mask = np.uint64(self.machine.page_shift), size - np.uint64(1)
        rows = []
        head = (start & mask) != 0
        pfn = start[head] >> shift
        # end is 2**64 where it is all ones, and the sum wraps to 0 in the last frame of all
        same = (end[head] >> shift == pfn) & (end[head] != _ONES)
        stop = np.where(same, end[head] - (pfn << shift), size)
        rows.append(np.stack([pfn, start[head] & mask, stop], axis=1))
        tail = ((end & mask) != 0) & (end != _ONES) & ~(head & (start >> shift == end >> shift))
        pfn = end[tail] >> shift
        first = np.maximum(start[tail], pfn << shift) - (pfn << shift)
        rows.append(np.stack([pfn, first, end[tail] & mask], axis=1))
        table = np.concatenate(rows).astype(np.uint64)
        return table[np.lexsort((table[:, 1], table[:, 0]))]

    # -- extents -------------------------------------------------------------------------------------------------

    def extents(self, start_pfn: int, end_pfn: int) -> NDArray[Any]:
        """See `DumpReader.extents`."""
        shift = self.machine.page_shift
        pieces = self.pieces.clip(start_pfn << shift, min(end_pfn << shift, NOWHERE))
        rows = self._in_files(pieces_to_extents(pieces, shift))
        self._check_arrived(rows)
        if len(self.fill_runs[0]):
            # what --holes filled is no memory: its frames are in no extent
            rows = rows[~inside(*self.fill_runs, rows["start_pfn"])]
        return rows

    def fill_extents(self) -> NDArray[Any]:
        """See `DumpReader.fill_extents`."""
        filled = self.pieces.select(inside(*self.fill_runs, self.pieces.start >> self._shift))
        return self._in_files(pieces_to_extents(filled, self.machine.page_shift))

    def _in_files(self, rows: NDArray[Any]) -> NDArray[Any]:
        # file numbers out of the offsets
        if len(self.sources) > 1:
            raw = rows["codec"] == codecs.RAW
            rows["file"][raw] = rows["offset"][raw] >> np.uint64(FILE_SHIFT)
            rows["offset"][raw] &= np.uint64((1 << FILE_SHIFT) - 1)
        return rows

    def _check_arrived(self, rows: NDArray[Any]) -> None:
        # what a file lacks was taken out of the pieces; a stream's end shows only when it comes
        if len(self.sources) > 1:
            return
        source = self.sources[0]
        end = rows["offset"] + rows["stored_size"]
        past = np.flatnonzero((rows["codec"] == codecs.RAW) & (end > np.uint64(source.size)))
        if len(past):
            row = rows[past[0]]
            raise TruncatedDump(
                f"{int(row['stored_size'])} bytes of memory wanted, the stream ended after {source.size}",
                path=source.name,
                offset=int(row["offset"]),
                pfn=int(row["start_pfn"]),
                hint="use --salvage for what is whole",
            )

    def duplicates(self) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        """See `DumpReader.duplicates`."""
        shift = self.machine.page_shift
        for start, end, offset in self._dropped.rows():
            kept = self.pieces.clip(start, end)
            if offset == NOWHERE:
                at = np.full(len(kept.start), _ONES, np.uint64)
            else:
                at = kept.start - np.uint64(start) + np.uint64(offset)
            differ = kept.offset != at
            kept, at = kept.select(differ), at[differ]
            if not len(kept.start):
                continue
            other = Pieces(kept.start, kept.end, at)
            yield self._in_files(pieces_to_extents(kept, shift)), self._in_files(pieces_to_extents(other, shift))


def reach(paddr: U64, size: U64) -> U64:
    """Return the ends of byte ranges in 64 bits: 2**64 is written as all ones, and nothing else is."""
    end = paddr + size
    end[end == _ONES] -= np.uint64(1)
    end[(end == 0) & (size > 0)] = _ONES
    return end


def pieces_to_extents(pieces: Pieces, page_shift: int) -> NDArray[Any]:
    """Turn byte ranges into extents: part of a first frame, whole frames, part of a last frame, by frame order."""
    shift = np.uint64(page_shift)
    mask = np.uint64((1 << page_shift) - 1)
    start, end, offset = pieces.start, pieces.end, pieces.offset
    # An end of ALL_ONES is 2**64. Sums wrap to 0 there: that is the end, too.
    head_end = start + ((np.uint64(0) - start) & mask)  # == start where the piece begins on a page border
    head_end[(head_end == 0) & (start > 0)] = _ONES
    head_end = np.minimum(end, head_end)
    body_end = np.where(end == _ONES, _ONES, np.maximum(head_end, end & ~mask))
    parts = []
    for low, high in ((start, head_end), (head_end, body_end), (body_end, end)):
        has = high > low
        rows = np.zeros(int(has.sum()), EXTENT)
        rows["start_pfn"] = low[has] >> shift
        rows["page_offset"] = low[has] & mask
        rows["stored_size"] = high[has] - low[has] + (high[has] == _ONES)
        rows["nr_pages"] = np.maximum(rows["stored_size"] >> shift, 1)
        zero = offset[has] == _ONES
        rows["offset"] = np.where(zero, _ONES, offset[has] + (low[has] - start[has]))
        rows["codec"] = np.where(zero, codecs.ZERO, codecs.RAW)
        parts.append(rows)
    table = np.concatenate(parts)
    return table[np.lexsort((table["page_offset"], table["start_pfn"]))]
