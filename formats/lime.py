# SPDX-License-Identifier: GPL-2.0-or-later
"""LiME and AVML: each range of physical memory behind a header of its own, up to the end of the file.

    header: magic, version, first address, last address (inclusive), 8 reserved bytes
    LiME (and AVML v1)  the bytes of the range
    AVML v2             the range as a framed Snappy stream, then the stream's length (u64)

There is no table, no count, no machine and no register. AVML leaves blocks of zeros out; releases 0.16 and 0.17
wrote their headers and nothing behind them ("orphans").

Sheets: docs/formats/lime.md, docs/formats/avml.md.
"""

from __future__ import annotations

import struct
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from construct import Struct

from .assume import assumed_machine
from .blocks import BlockSource
from .errors import CorruptDump, DumpError, TruncatedDump, UnsupportedDump
from .machine import ByteOrder
from .pages import PageState
from .reader import Ints, Options, parse
from .segments import NOWHERE, SegmentReader
from .snappyframes import STREAM_ID, ChunkTable, snappy_chunk
from .source import ByteSource

__all__ = ["AvmlReader", "LimeReader", "range_header"]

HEADER_SIZE = 32
LIME_MAGIC, AVML_MAGIC = 0x4C694D45, 0x4C4D5641
_MAX_BLOCK = 16 << 20  # AVML cuts ranges into blocks of at most this, and leaves out none that is larger
_MAX_RANGES = 1 << 20  # 16 TiB in AVML's blocks
_SEARCH = 1 << 20  # bytes searched at a time for the next header behind damage
_PC_LOW, _PC_HIGH = 0xA0000, 0x100000  # between them a PC has no RAM that Linux uses


def range_header(ints: Ints) -> Struct:
    """Schema of the header before each range, 32 bytes."""
    return Struct(
        "magic" / ints.u32,  # 0
        "version" / ints.u32,  # 4: LiME 1, AVML 2
        "s_addr" / ints.u64,  # 8
        "e_addr" / ints.u64,  # 16: the last byte's address
        "reserved" / ints.u64,  # 24: zero
    )


@dataclass(slots=True)
class _Range:
    # One range: [start, start + claimed) of which the first `stored` bytes lie at `offset` of the plain bytes.
    start: int
    claimed: int
    stored: int
    offset: int
    absent: PageState = PageState.LOST

    @property
    def end(self) -> int:
        return self.start + self.claimed


class _RangeReader(SegmentReader):
    # What both formats share: the chain of headers, and what is done where it breaks.

    magic: ClassVar[int]
    version: ClassVar[int]
    title: ClassVar[str]

    def __init__(self, sources: tuple[ByteSource, ...], options: Options) -> None:
        super().__init__(sources)
        self._options = options
        self._source = sources[0]
        self._source.finish()  # headers lie all over the file
        self._byteorder: ByteOrder = "little"
        if self._source.pread(0, 4) != self.magic.to_bytes(4, "little"):
            self._byteorder = "big"
        self._unpack = struct.Struct("<IIQQQ" if self._byteorder == "little" else ">IIQQQ").unpack
        self._check_first()
        self._ranges: list[_Range] = []
        self._orphans = self._reserved = self._skipped = 0
        self._scan()
        evidence = self._evidence()
        if evidence is None and options.machine is None and self.damage is not None:
            raise self.damage  # the cause before what follows from it
        self.machine = assumed_machine(self, options, self._byteorder, evidence)
        self._lay_out_ranges()
        self._describe()

    # -- headers -------------------------------------------------------------------------------------------------

    def _check_first(self) -> None:
        source = self._source
        header = parse(range_header(Ints(self._byteorder, 8)), source, 0, f"{self.title} header")
        if header.magic != self.magic:
            raise UnsupportedDump(f"{self.title} magic {header.magic:#x}, {self.magic:#x} is known", path=source.name)
        if header.version != self.version:
            raise UnsupportedDump(
                f"{self.title} version {header.version}, {self.version} is known", path=source.name, offset=4
            )
        self._check_range(0, header.s_addr, header.e_addr)

    def _check_range(self, at: int, first: int, last: int) -> None:
        # both ends are inclusive in the file; an end of 2**64 - 1 is refused since no range reaches there
        if last < first or last == NOWHERE:
            raise CorruptDump(f"{self.title} range from {first:#x} to {last:#x}", path=self._source.name, offset=at + 8)

    def _header(self, at: int) -> tuple[int, int, int] | None:
        # (start, size, reserved) of a header that can be one, else None
        if at + HEADER_SIZE > self._source.size:
            return None
        magic, version, first, last, reserved = self._unpack(self._source.pread(at, HEADER_SIZE))
        if magic != self.magic or version != self.version or last < first or last == NOWHERE:
            return None
        return first, last - first + 1, reserved

    def _note(self, error: DumpError) -> None:
        self.damage = self.damage or error

    def _scan(self) -> None:
        at, size = 0, self._source.size
        while at < size:
            header = self._header(at)
            if header is None:
                found = self._find_next(at)
                if found is None:
                    return
                at = found
                continue
            if len(self._ranges) == _MAX_RANGES:
                raise CorruptDump(f"more than {_MAX_RANGES} ranges", path=self._source.name, offset=at)
            start, claimed, reserved = header
            self._reserved += reserved != 0
            at = self._read_range(at + HEADER_SIZE, start, claimed)

    @abstractmethod
    def _read_range(self, at: int, start: int, claimed: int) -> int:
        """Add the range whose data begin at `at`; return where the next header should be."""

    def _add_orphan(self, start: int, claimed: int) -> None:
        self._orphans += 1
        self._ranges.append(_Range(start, claimed, claimed, NOWHERE))

    def _follows(self, at: int, end: int) -> bool:
        # whether a header of memory above `end` lies there
        header = self._header(at)
        return header is not None and header[0] >= end

    # -- where the chain breaks ------------------------------------------------------------------------------------

    def _find_next(self, at: int) -> int | None:
        # No header at `at`. One that came early cuts the range before it (its writer gave up); else the next counts.
        source, rest = self._source, self._source.size - at
        what = source.pread(at, min(16, rest)).hex(" ")
        if rest < HEADER_SIZE and source.pread(at, min(4, rest)) == self._magic_bytes()[: min(4, rest)]:
            self._note(
                TruncatedDump(f"the last {self.title} header has {rest} of 32 bytes", path=source.name, offset=at)
            )
            return None
        self._note(
            CorruptDump(
                f"a {self.title} header is expected, and there is {what}",
                path=source.name,
                offset=at,
                hint="use --salvage for the ranges before it and those that are found behind it",
            )
        )
        if not self._options.salvage:
            return None
        last = self._ranges[-1]
        for found in self._candidates(self._early_from(last, at)):
            if not self._follows(found, last.end):
                continue
            if found >= at:
                self._skipped += found - at
                return found
            header = self._header(found)
            if header is not None and self._chain_goes_on(found + HEADER_SIZE, header[1]):
                last.stored = found - last.offset
                return found
        self._skipped += rest
        return None

    def _early_from(self, last: _Range, at: int) -> int:
        return at

    def _chain_goes_on(self, at: int, claimed: int) -> bool:
        return at + claimed == self._source.size or self._header(at + claimed) is not None

    def _magic_bytes(self) -> bytes:
        return struct.pack("<II" if self._byteorder == "little" else ">II", self.magic, self.version)

    def _candidates(self, at: int) -> Iterator[int]:
        # places from `at` on that begin like a header
        magic = self._magic_bytes()
        while at + HEADER_SIZE <= self._source.size:
            window = self._source.pread(at, min(_SEARCH, self._source.size - at))
            inside = window.find(magic)
            while inside >= 0:
                yield at + inside
                inside = window.find(magic, inside + 1)
            at += max(1, len(window) - len(magic) + 1)

    # -- the rest --------------------------------------------------------------------------------------------------

    def _columns(self) -> Iterator[np.ndarray[tuple[int], np.dtype[np.uint64]]]:
        for name in ("start", "stored", "claimed", "offset"):
            yield np.array([getattr(each, name) for each in self._ranges], np.uint64)

    def _lay_out_ranges(self) -> None:
        start, stored, claimed, offset = self._columns()
        absent = np.array([int(each.absent) for each in self._ranges], np.uint8)
        self.lay_out(start, stored, claimed, offset, absent=absent)
        if bool((start[1:] < (start + claimed)[:-1]).any()):
            self.remark("order", "ranges are not in ascending order or overlap: of bytes held twice the first are kept")

    def _evidence(self) -> tuple[str, str] | None:
        # A PC has RAM below 640 KiB and from 1 MiB on, and none between.
        if self._byteorder == "big":
            return None
        low = any(each.start < _PC_LOW for each in self._ranges)
        between = any(each.start < _PC_HIGH and each.end > _PC_LOW for each in self._ranges)
        high = any(each.start >= _PC_HIGH for each in self._ranges)
        return ("x86_64", "RAM lies as in a PC") if low and high and not between else None

    def _describe(self) -> None:
        self.facts = {"version": self.version, "ranges": len(self._ranges), "zero_blocks": self._orphans}
        if self._reserved:
            self.remark("reserved", f"{self._reserved} headers have reserved bytes that are not zero")
        if self._skipped:
            self.remark("skipped", f"{self._skipped} bytes of the file belong to no range")
        if self._orphans:
            self.remark(
                "orphans",
                f"{self._orphans} headers have no data behind them: blocks of zeros, as AVML 0.16 and 0.17 write them",
            )


class LimeReader(_RangeReader):
    """A LiME file, or AVML's version 1, which is the same.

    Args:
        sources: One file.
        options: See `Options`.

    Raises:
        CorruptDump, TruncatedDump: The first header contradicts itself or the file.
        UnsupportedDump: Another version.
        UsageError: Nothing tells the machine.
    """

    name = "lime"
    magic = LIME_MAGIC
    version = 1
    title = "LiME"

    @staticmethod
    def probe(source: ByteSource) -> bool:
        """See `DumpReader.probe`."""
        if source.size < 8:
            return False
        head = source.pread(0, 8)
        return head[:4] == b"EMiL" or head == b"LiME\0\0\0\1"

    def _read_range(self, at: int, start: int, claimed: int) -> int:
        following, size = at + claimed, self._source.size
        if following == size or (following < size and self._header(following) is not None):
            self._ranges.append(_Range(start, claimed, claimed, at))
            return following
        if claimed <= _MAX_BLOCK and (self._follows(at, start + claimed) or (at == size and self._orphans)):
            self._add_orphan(start, claimed)
            return at
        stored = max(0, min(claimed, size - at))
        self._ranges.append(_Range(start, claimed, stored, at))
        if stored < claimed:
            self._note(
                TruncatedDump(
                    f"LiME range from {start:#x} has {claimed} bytes, the file has {stored} of them",
                    path=self._source.name,
                    offset=at,
                    hint="use --salvage for what is whole",
                )
            )
            return self._look_for_early(at, size) if self._options.salvage else size
        return following

    def _look_for_early(self, at: int, size: int) -> int:
        # A range that is cut by the end of the file may be one whose writer gave up: the next header tells.
        last = self._ranges[-1]
        for found in self._candidates(at):
            header = self._header(found) if self._follows(found, last.end) else None
            if header is not None and self._chain_goes_on(found + HEADER_SIZE, header[1]):
                last.stored = found - at
                return found
        return size

    def _early_from(self, last: _Range, at: int) -> int:
        return at if last.offset == NOWHERE else last.offset

    def _describe(self) -> None:
        super()._describe()
        if len(self.partial):
            self.remark(
                "partial-zero",
                f"{len(self.partial)} frames are partial: LiME writes the bytes of such a frame as zeros",
            )
        if self._orphans or any(each.claimed == _MAX_BLOCK for each in self._ranges):
            self.remark("zero-blocks", _ZERO_BLOCKS)


_ZERO_BLOCKS = "AVML leaves blocks of zeros out: what is a hole in the page map may be RAM that was zero"


class AvmlReader(_RangeReader):
    """An AVML file of version 2; sources[0] is its plain bytes.

    Args:
        sources: One file.
        options: See `Options`.

    Raises:
        CorruptDump, TruncatedDump: The first header contradicts itself or the file.
        UnsupportedDump: Another version.
        UsageError: Nothing tells the machine.
    """

    name = "avml"
    magic = AVML_MAGIC
    version = 2
    title = "AVML"

    @staticmethod
    def probe(source: ByteSource) -> bool:
        """See `DumpReader.probe`."""
        return source.size >= 4 and source.pread(0, 4) == b"AVML"

    def _scan(self) -> None:
        self._chunks = ChunkTable(self._source)
        self._compressed = 0
        super()._scan()

    def _read_range(self, at: int, start: int, claimed: int) -> int:
        source = self._source
        head = source.pread(at, min(len(STREAM_ID), source.size - at))
        ends = at == source.size or self._follows(at, start + claimed)
        if head != STREAM_ID and ends and claimed <= _MAX_BLOCK:
            self._add_orphan(start, claimed)
            return at
        plain_offset = self._chunks.plain_size
        stop = self._chunks.scan(at, claimed)
        stored = min(claimed, self._chunks.plain_size - plain_offset)
        last = _Range(start, claimed, stored, plain_offset)
        self._ranges.append(last)
        if stop.error is not None:
            self._note(stop.error)
            if not isinstance(stop.error, TruncatedDump):
                last.absent = PageState.DAMAGED
        if stop.ended:
            return self._check_trailer(at, stop.offset)
        return self._after_damage(stop.offset, last) if self._options.salvage else source.size

    def _check_trailer(self, at: int, end: int) -> int:
        source = self._source
        if end + 8 > source.size:
            self._note(
                TruncatedDump(
                    f"8 bytes of length expected behind the stream, {source.size - end} are there",
                    path=source.name,
                    offset=end,
                )
            )
            return source.size
        said = int.from_bytes(source.pread(end, 8), "little")
        if said != end - at:
            self._note(
                CorruptDump(
                    f"the stream at {at:#x} has {end - at} bytes, the length behind it says {said}",
                    path=source.name,
                    offset=end,
                    hint="use --salvage to go by the stream",
                )
            )
        return end + 8

    def _after_damage(self, at: int, last: _Range) -> int:
        # the stream's end is not known: the next header tells where it was
        for found in self._candidates(at):
            if self._follows(found, last.end):
                return found
        return self._source.size

    def _lay_out_ranges(self) -> None:
        self.sources = (BlockSource(self._source, *self._chunks.columns(), snappy_chunk),)
        super()._lay_out_ranges()

    def _describe(self) -> None:
        super()._describe()
        self.facts["chunks"] = len(self._chunks)
        self.remark("zero-blocks", _ZERO_BLOCKS)
