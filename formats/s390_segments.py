# SPDX-License-Identifier: GPL-2.0-or-later
"""The body of an extended s390 dump: the chain of segments, stored as they are or as zlib entries, on any volumes.

Source: docs/formats/s390.md section 3.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .blocks import BlockSource, zlib_block
from .errors import CorruptDump, DumpError, TruncatedDump
from .pages import PageState
from .s390_layout import (
    END_MARKER,
    HEADER_SIZE,
    MAX_ENTRIES,
    MIB,
    PAGE_SIZE,
    SEGMENT_HEADER_SIZE,
    SegmentHeader,
    entry_table,
    read_segment_header,
)
from .segments import FILE_SHIFT, NOWHERE
from .source import ByteSource

__all__ = ["Ranges", "SegmentChain", "looks_like_segment"]

_BLOCK_SIZES = (4096, 512, 1024, 2048)  # of ECKD dump devices always the first
_STORED = np.uint32(1 << 31)
_MAX_FOLLOWED = 1 << 12  # headers: that many do not stand in a row by chance
_MIN_ENTRY, _MAX_ENTRY = 1 << 12, 1 << 24


class Ranges:
    """Byte ranges of absolute storage as `SegmentReader.lay_out` wants them."""

    def __init__(self) -> None:
        self._parts: list[NDArray[np.uint64]] = []

    def add(self, start: int, stored: int, claimed: int, offset: int, state: PageState = PageState.LOST) -> None:
        """Add one range; `state` is that of its frames that are claimed and not stored."""
        if claimed:
            self._parts.append(np.array([[start, stored, claimed, offset, int(state)]], np.uint64))

    def add_table(self, table: NDArray[np.uint64]) -> None:
        """Add rows of (start, stored, claimed, offset, state)."""
        self._parts.append(table)

    def columns(self) -> NDArray[np.uint64]:
        """Return the rows, one column of values each."""
        rows = np.concatenate(self._parts) if self._parts else np.empty((0, 5), np.uint64)
        return np.ascontiguousarray(rows.T)


def why_not(segment: SegmentHeader, end: int, limit: int) -> str | None:
    """Return what is impossible about a segment that follows `end` in storage of `limit` bytes; None: nothing."""
    start, length = segment.start, segment.length
    if start % PAGE_SIZE or length % PAGE_SIZE:
        return f"start {start:#x} or length {length:#x} is no multiple of {PAGE_SIZE}"
    if length == 0 and not segment.stop:
        return "it is empty and not the last"
    if start < end:
        return f"it starts at {start:#x}, below the end of the one before, {end:#x}"
    if start + length > limit:
        return f"{start:#x} + {length:#x} is beyond mem_size {limit:#x}"
    return None


def looks_like_segment(source: ByteSource, offset: int, end: int, limit: int) -> bool:
    """Whether a segment header that may follow `end` lies at a file offset."""
    if offset + SEGMENT_HEADER_SIZE > source.size:
        return False
    return why_not(read_segment_header(source, offset), end, limit) is None


class SegmentChain:
    """Follows the segments of all volumes.

    Args:
        nr_files: Volumes; the blocks are one source more.
        limit: No address reaches beyond it.
        entry_size: Plain bytes of a zlib entry, as the header has it.
        version: Of the header; 1 knows no compression.

    Attributes:
        ranges: What was found.
        end: Address behind the last segment.
        stopped: Whether the last one said that it is.
        trouble: Why the chain could not be followed to its end.
        damaged: The first wrong entry; the chain goes on behind it.
        block_size: Of the dump device, where compressed segments told it; 0: none did.
        nr_segments, nr_entries: Segments, and zlib entries among what they hold.
        nr_zero: Bytes between segments.
    """

    def __init__(self, nr_files: int, limit: int, entry_size: int, version: int) -> None:
        self.ranges = Ranges()
        self.end = 0
        self.stopped = False
        self.trouble: DumpError | None = None
        self.damaged: DumpError | None = None
        self.block_size = 0
        self.nr_segments = self.nr_entries = self.nr_zero = 0
        self._nr_files, self._limit, self._entry_size, self._version = nr_files, limit, entry_size, version
        self._blocks: list[tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]] = []
        self._plain_size = 0

    def follow(self, source: ByteSource, file: int, *, whole_partition: bool, gap_known: bool = True) -> int:
        """Follow the segments of one volume.

        Args:
            source: The volume.
            file: Its number among the sources.
            whole_partition: It is one of several: the last MiB takes no segment.
            gap_known: What lies between the last segment and this volume's first is zeros; else it is lost.

        Returns:
            The file offset behind the last segment. `trouble` says if that is not the end.
        """
        offset = HEADER_SIZE
        while not self.stopped and self.trouble is None:
            if whole_partition and (offset >= source.size - MIB - PAGE_SIZE or offset == source.size):
                break
            if offset + SEGMENT_HEADER_SIZE > source.size:
                self._wrong(
                    TruncatedDump, f"a segment header is wanted, the file has {source.size} bytes", source, offset
                )
                break
            segment = read_segment_header(source, offset)
            reason = why_not(segment, self.end, self._limit)
            if reason is None and segment.size_on_disk:
                reason = self._why_not_compressed(segment)
            if reason is not None:
                self._wrong(CorruptDump, f"segment {self.nr_segments}: {reason}", source, offset)
                break
            self._skip_to(segment.start, known=gap_known)
            gap_known = True
            self.nr_segments += 1
            if segment.size_on_disk:
                offset = self._compressed(segment, source, offset)
            else:
                offset = self._plain(segment, source, file, offset + SEGMENT_HEADER_SIZE)
            self.end = segment.start + segment.length
            self.stopped = segment.stop
        return offset

    def finish(self, size: int, *, whole: bool) -> None:
        """Take what lies behind the last segment: zeros up to `size` if the chain is whole, else lost."""
        self._skip_to(size, known=whole)

    def block_source(self, source: ByteSource) -> BlockSource | None:
        """Return the source of all zlib entries, None where there are none."""
        if not self._blocks:
            return None
        offsets, stored, plain = (np.concatenate(column) for column in zip(*self._blocks, strict=True))
        return BlockSource(source, offsets, stored, plain, zlib_block)

    def _wrong(self, kind: type[DumpError], message: str, source: ByteSource, offset: int) -> None:
        if self.trouble is None:
            self.trouble = kind(message, path=source.name, offset=offset, hint="use --salvage for what is whole")

    def _skip_to(self, start: int, *, known: bool) -> None:
        size = start - self.end
        if size <= 0:
            return
        if known:
            self.nr_zero += size
        self.ranges.add(self.end, size if known else 0, size, NOWHERE)
        self.end = start

    def _plain(self, segment: SegmentHeader, source: ByteSource, file: int, offset: int) -> int:
        have = max(0, min(segment.length, source.size - offset))
        self.ranges.add(segment.start, have, segment.length, offset | file << FILE_SHIFT)
        if have < segment.length:
            self._cut(segment, source, offset, segment.length)
        return offset + segment.length

    def _cut(self, segment: SegmentHeader, source: ByteSource, offset: int, size: int) -> None:
        self._wrong(
            TruncatedDump,
            f"segment at {segment.start:#x} needs file bytes up to {offset + size:#x}, the file has {source.size}",
            source,
            offset,
        )

    # -- compressed segments ---------------------------------------------------------------------------------

    def _why_not_compressed(self, segment: SegmentHeader) -> str | None:
        size = self._entry_size
        if segment.length == 0:
            return "it is empty and has compressed data"
        if self._nr_files > 1 or self._version < 2:
            return "it is compressed, which only version 2 on a single volume is"
        if size & size - 1 or not _MIN_ENTRY <= size <= _MAX_ENTRY:
            return f"zlib_entry_size {size} is no power of two in {_MIN_ENTRY} to {_MAX_ENTRY}"
        wanted = -(-segment.length // size)
        if segment.entry_count != wanted or wanted > MAX_ENTRIES:
            return (
                f"{segment.entry_count} entries of {size} bytes for {segment.length} bytes, which need {wanted} "
                f"(at most {MAX_ENTRIES})"
            )
        return None

    def _compressed(self, segment: SegmentHeader, source: ByteSource, header_offset: int) -> int:
        table = entry_table(source, header_offset, segment.entry_count)
        offset = header_offset + SEGMENT_HEADER_SIZE
        block_size = self.block_size or self._guess_block_size(segment, table, source, offset)
        payload = segment.size_on_disk * block_size
        self._entries(segment, table, source, offset, block_size)
        if offset + payload > source.size:
            self._cut(segment, source, offset, payload)
        return offset + payload

    def _entries(
        self, segment: SegmentHeader, table: NDArray[np.uint32], source: ByteSource, offset: int, block_size: int
    ) -> None:
        count, size = len(table), self._entry_size
        as_is = (table & _STORED) != 0
        low = (table & ~_STORED).astype(np.int64) * block_size
        high = np.append(low[1:], segment.size_on_disk * block_size)
        plain = np.full(count, size, np.int64)
        plain[-1] = segment.length - (count - 1) * size
        inside = np.where(low < segment.size_on_disk * block_size, low, -1)
        before = np.concatenate([[-1], np.maximum.accumulate(inside)[:-1]])
        misplaced = low <= before  # in what another entry has
        misplaced[0] = low[0] != 0
        wrong = misplaced | (high <= low) | (high > segment.size_on_disk * block_size) | (as_is & (high - low < plain))
        # deflate never doubles what it is given; a longer entry is padding or a lie
        taken = np.where(as_is, plain, np.minimum(high - low, 2 * size))
        room = np.clip(source.size - (offset + low), 0, taken)
        if source.damage is not None:
            places = (offset + low).astype(np.uint64)
            room[~source.covered(places, np.maximum(room, 0).astype(np.uint64))] = 0
        packed = ~as_is & ~wrong & (room == taken)
        rows = np.zeros((count, 5), np.uint64)
        rows[:, 0] = segment.start + np.arange(count) * size
        rows[:, 1] = np.where(wrong, 0, np.where(as_is, room, np.where(packed, plain, 0)))
        rows[:, 2] = plain
        starts = self._plain_size + np.cumsum(np.where(packed, plain, 0)) - plain
        rows[:, 3] = np.where(as_is, offset + low, starts | self._nr_files << FILE_SHIFT)
        rows[:, 4] = np.where(wrong, int(PageState.DAMAGED), int(PageState.LOST))
        self.ranges.add_table(rows)
        self.nr_entries += count
        if packed.any():
            self._plain_size += int(plain[packed].sum())
            columns = ((offset + low)[packed], taken[packed], plain[packed])
            self._blocks.append(tuple(column.astype(np.uint64) for column in columns))
        if wrong.any():
            number = int(np.flatnonzero(wrong)[0])
            self._bad_entry(segment, source, offset, number, int(low[number]), int(high[number]))

    def _bad_entry(
        self, segment: SegmentHeader, source: ByteSource, offset: int, number: int, low: int, high: int
    ) -> None:
        if self.damaged is None:
            self.damaged = CorruptDump(
                f"entry {number} of the segment at {segment.start:#x} lies in bytes {low:#x} to {high:#x} of the "
                "segment, where it cannot be whole",
                path=source.name,
                offset=offset,
                hint="use --salvage for what is whole",
            )

    def _guess_block_size(
        self, segment: SegmentHeader, table: NDArray[np.uint32], source: ByteSource, offset: int
    ) -> int:
        # The file does not say it: of the sizes that devices have the one under which the chain of headers leads to
        # the end marker; if none does, the one that leads farthest. One header alone could be memory that looks so.
        best, found = (False, False, -1), _BLOCK_SIZES[0]
        for size in _BLOCK_SIZES:
            ended, steps = self._follow_headers(segment, source, offset, size)
            rank = (ended, self._entry_fits(table, source, offset, size), steps)
            if rank > best:
                best, found = rank, size
        if best[0] or best[2]:
            self.block_size = found
        return found

    def _follow_headers(
        self, segment: SegmentHeader, source: ByteSource, offset: int, block_size: int
    ) -> tuple[bool, int]:
        # Whether the end is reached from the data at `offset` on under this block size, and how many headers are met.
        for steps in range(_MAX_FOLLOWED):
            offset += segment.size_on_disk * block_size if segment.size_on_disk else segment.length
            if segment.stop:
                size = len(END_MARKER)
                return offset + size <= source.size and source.pread(offset, size) == END_MARKER, steps
            if not looks_like_segment(source, offset, segment.start + segment.length, self._limit):
                return False, steps
            segment = read_segment_header(source, offset)
            if segment.size_on_disk and self._why_not_compressed(segment) is not None:
                return False, steps
            offset += SEGMENT_HEADER_SIZE
        return True, _MAX_FOLLOWED

    def _entry_fits(self, table: NDArray[np.uint32], source: ByteSource, offset: int, block_size: int) -> bool:
        for entry in table[:2].tolist():
            at = offset + (entry & 0x7FFFFFFF) * block_size
            if entry >> 31 or at + 2 > source.size:
                continue
            head = source.pread(at, 2)
            if head[0] & 0x0F != 8 or int.from_bytes(head, "big") % 31:
                return False
        return True
