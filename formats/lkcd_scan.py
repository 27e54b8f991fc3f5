# SPDX-License-Identifier: GPL-2.0-or-later
"""The one walk over an LKCD file's page records: from a chain of headers to an index; and over breaks in the chain.

A record is 16 bytes and its data; only its size leads to the next. So one wrong size would hide all that follows:
with salvage the walk goes on at the next place where a chain of records begins. Sheet: docs/formats/lkcd.md.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import codecs
from .errors import CorruptDump, DumpError, InputError, TruncatedDump
from .lkcd_layout import DP_COMPRESSED, DP_END, DP_MCLX, DP_RAW, DP_TRUNCATED, PAGE_HEADER_SIZE, record_dtype
from .machine import ByteOrder
from .pageindex import PageIndex, PageIndexBuilder
from .source import ByteSource

__all__ = ["Records", "Scan", "scan"]

_WINDOW = 1 << 22  # read at a time; a copy in the cache costs less than a system call a record
_FIRST_WINDOW = 1 << 13  # after a break: windows begin small, so that many breaks cost little
_CHAIN = 4  # records in a row that make a chain
_MAX_BREAKS = 1 << 14
_HARMLESS = 0x30 | DP_MCLX  # TEST_PATTERN, NOT_USED, and the MCLX bits

U64 = NDArray[np.uint64]


class Records(NamedTuple):
    """How the records of one file read.

    Attributes:
        source: The file.
        start: Offset of the first record.
        byteorder: Of record headers.
        unit: Bytes that a record expands to.
        page_size: dh_page_size, in which MCLX page numbers count.
        base_address: Subtracted from addresses (0xc0000000 in some version 1 dumps of i386).
        codec: Of compressed records, codecs.BAD where the header names no method.
    """

    source: ByteSource
    start: int
    byteorder: ByteOrder
    unit: int
    page_size: int
    base_address: int
    codec: int

    def header_at(self, offset: int) -> tuple[int, int, int] | None:
        """Return (dp_address, dp_size, dp_flags) of the record at a file offset, None at the end of the file."""
        if not self.source.ensure(offset, offset + PAGE_HEADER_SIZE):
            return None
        return struct.unpack(
            "<QII" if self.byteorder == "little" else ">QII", self.source.pread(offset, PAGE_HEADER_SIZE)
        )

    def pfns(self, rows: NDArray[Any]) -> tuple[U64, NDArray[np.bool_]]:
        """Return the frame of each record header, and whether its address can be one."""
        address, flags = rows["dp_address"].astype(np.uint64), rows["dp_flags"]
        shift = np.uint64(self.unit.bit_length() - 1)
        valid = (address & np.uint64(self.unit - 1)) == 0
        if self.base_address:
            valid &= address >= np.uint64(self.base_address)
            address -= np.uint64(self.base_address)
        pfns = address >> shift
        numbered = (flags & np.uint32(DP_MCLX)) != 0
        if numbered.any():  # dp_address is the number of a page
            valid[numbered] = address[numbered] < np.uint64((1 << 64) // self.page_size)
            pfns[numbered] = address[numbered] * np.uint64(self.page_size // self.unit)
        return pfns, valid

    def pfn_of(self, address: int, flags: int) -> int | None:
        """Return the frame of one record, None where its address can be none; as `pfns`, 30 times faster for one."""
        address -= self.base_address
        if flags & DP_MCLX:
            pfn = address * (self.page_size // self.unit)
            return pfn if 0 <= address < (1 << 64) // self.page_size else None
        return None if address < 0 or address & (self.unit - 1) else address // self.unit

    def is_good(self, address: int, size: int, flags: int) -> bool:
        """Return what `good` says of one record."""
        if flags & DP_END or self.pfn_of(address, flags) is None:
            return False
        if flags & DP_RAW:
            return not flags & DP_COMPRESSED and size in (0, self.unit)
        return bool(flags & DP_COMPRESSED) and 0 < size <= 2 * self.unit

    def good(self, rows: NDArray[Any]) -> NDArray[np.bool_]:
        """Return which record headers a writer could have made, END apart."""
        size, flags = rows["dp_size"], rows["dp_flags"]
        raw, packed = (flags & np.uint32(DP_RAW)) != 0, (flags & np.uint32(DP_COMPRESSED)) != 0
        fits = np.where(raw, (size == self.unit) | (size == 0), (size > 0) & (size <= 2 * self.unit))
        valid = fits & self.pfns(rows)[1]
        return np.asarray(valid & (raw != packed) & ((flags & np.uint32(DP_END)) == 0), bool)


@dataclass
class Scan:
    """What the walk found.

    Attributes:
        index: Records by frame.
        nr_records: Page records, copies and bad ones included.
        end: What ended it: `end`, `truncated` (END with the TRUNCATED flag), `copy` (zfcpdump's ways), `eof`,
            `broken`.
        end_offset: Where.
        damage: The first thing wrong.
        lost, damaged: Frames of records that are cut off, or that no writer makes.
        breaks, skipped: With salvage: places where the chain was taken up again, and bytes jumped over.
    """

    index: PageIndex
    nr_records: int = 0
    end: str = "eof"
    end_offset: int = 0
    damage: DumpError | None = None
    lost: list[int] = field(default_factory=list)
    damaged: list[int] = field(default_factory=list)
    breaks: int = 0
    skipped: int = 0


def scan(records: Records, *, salvage: bool) -> Scan:
    """Walk all records of a file.

    Args:
        records: How to read them.
        salvage: Go on behind a record that no writer makes.

    Raises:
        InputError: The file cannot be read.
    """
    return _Walk(records, salvage=salvage).run()


def _places(view: memoryview, size_at: struct.Struct) -> tuple[list[int], int]:
    # The hot loop: where the records of a window begin, by their sizes alone. 0.2 us a record.
    places: list[int] = []
    note, unpack, at, last = places.append, size_at.unpack_from, 0, len(view) - PAGE_HEADER_SIZE
    while at <= last:
        note(at)
        at += PAGE_HEADER_SIZE + unpack(view, at)[0]
    return places, at


class _Walk:
    def __init__(self, records: Records, *, salvage: bool) -> None:
        self._records = records
        self._source = records.source
        self._salvage = salvage
        self._builder = PageIndexBuilder()
        self._result = Scan(PageIndexBuilder().build())
        self._buffer = memoryview(bytearray(_WINDOW))
        self._last = (-1, -1)  # addresses of the last two records
        self._dtype = record_dtype(records.byteorder)
        self._size_at = struct.Struct("<8xI" if records.byteorder == "little" else ">8xI")

    def run(self) -> Scan:
        at: int | None = self._records.start
        window = _WINDOW
        result, size = self._result, self._source.size
        while at is not None:
            result.end_offset = at
            if size - at < PAGE_HEADER_SIZE:
                self._at_eof(at)
                break
            view = self._read(at, min(window, size - at))
            found, following = _places(view, self._size_at)
            rows = self._headers(view)[np.array(found)]
            count = self._add(at, np.array(found, np.uint64), rows)
            window = min(_WINDOW, 4 * window)
            if count == len(rows):
                at += following
            else:
                at = self._stop(at + found[count], rows[count])
                window = _FIRST_WINDOW
        result.index = self._builder.build()
        return result

    def _read(self, at: int, count: int) -> memoryview:
        view = self._buffer[:count]
        got = self._source.pread_into(view, at)
        if got != count:
            size, name = self._source.size, self._source.name
            raise InputError(f"the file ends at {at + got} now, it had {size} bytes when it was opened", path=name)
        return view

    def _headers(self, view: memoryview) -> NDArray[Any]:
        # what a record header at each byte would be; overlapping, nothing is copied
        return np.ndarray(len(view) - PAGE_HEADER_SIZE + 1, self._dtype, view, strides=(1,))

    def _add(self, at: int, places: U64, rows: NDArray[Any]) -> int:
        # Take in the good records that lead a window; return how many. One that is cut off by the end is not good.
        records = self._records
        good = records.good(rows)
        offsets = places + np.uint64(at + PAGE_HEADER_SIZE)
        sizes = rows["dp_size"].astype(np.uint32)
        good &= offsets + sizes <= np.uint64(self._source.size)
        count = len(rows) if good.all() else int(good.argmin())
        if not count:
            return 0
        rows, offsets, sizes = rows[:count], offsets[:count], sizes[:count]
        codec = np.where(rows["dp_flags"] & np.uint32(DP_RAW), codecs.RAW, records.codec).astype(np.uint32)
        codec[sizes == 0] = codecs.ZERO
        if records.codec == codecs.BAD:
            sizes[codec == codecs.BAD] = codecs.REASON_CODES["method"]
        self._builder.add(records.pfns(rows)[0], offsets, sizes, codec)
        self._result.nr_records += count
        last = rows["dp_address"][-2:].tolist()
        self._last = (last[-2] if len(last) > 1 else self._last[1], last[-1])
        return count

    # -- ends ----------------------------------------------------------------------------------------------------

    def _at_eof(self, at: int) -> None:
        result, left = self._result, self._source.size - at
        if left:
            self._fail(TruncatedDump(f"the file ends inside a page record's header: {left} bytes of 16", offset=at))
            result.end = "broken"
        elif self._last[0] == self._last[1] >= 0:
            result.end = "copy"  # vmconvert writes the last page twice

    def _fail(self, error: DumpError) -> None:
        error.path = self._source.name
        error.hint = "use --salvage for what is whole"
        self._result.damage = self._result.damage or error

    def _stop(self, at: int, row: NDArray[Any]) -> int | None:
        # A record that is no good page: the end, or a break. Return where the walk goes on.
        address, size, flags = int(row["dp_address"]), int(row["dp_size"]), int(row["dp_flags"])
        result = self._result
        result.end_offset = at
        if flags & DP_END:
            result.end = "truncated" if flags & DP_TRUNCATED else "end"
            return None
        if (address, size, flags) == (0, 4, 0):
            result.end = "copy"
            return None
        good = self._records.is_good(address, size, flags)
        past = at + PAGE_HEADER_SIZE + size
        if good and address == self._last[1] and at + PAGE_HEADER_SIZE == self._source.size:
            result.end = "copy"  # zfcpdump ends with the last header once more
            return None
        pfn = self._records.pfn_of(address, flags)
        result.nr_records += 1
        if good:
            have = self._source.size - at - PAGE_HEADER_SIZE
            self._fail(TruncatedDump(f"page of {size} bytes, of which the file has {have}", offset=at, pfn=pfn))
        else:
            what = f"address {address:#x}, size {size}, flags {flags:#x}"
            self._fail(CorruptDump(f"no page record: {what}", offset=at, pfn=pfn))
        again = self._resume(at, past if size <= 2 * self._records.unit else None) if self._salvage else None
        if again is None:
            result.end = "broken"
            if good and pfn is not None:
                result.lost.append(pfn)
            return None
        result.breaks += 1
        if again == past and pfn is not None:
            result.damaged.append(pfn)  # the record's end is another's beginning: its address can be trusted
        else:
            result.skipped += again - at
        return again

    # -- taking up the chain -------------------------------------------------------------------------------------

    def _resume(self, at: int, past: int | None) -> int | None:
        # Where the chain goes on: where the bad record says, or at the lowest offset at which a chain begins.
        if self._result.breaks >= _MAX_BREAKS:
            return None
        if past is not None and self._is_chain(past, least=0):
            return past
        low, window, size = at + 1, _FIRST_WINDOW, self._source.size
        while size - low >= PAGE_HEADER_SIZE:
            view = self._read(low, min(window, size - low))
            for place in self._candidates(view):
                if self._is_chain(low + place, least=1):
                    return low + place
            low += len(view) - PAGE_HEADER_SIZE + 1
            window = min(_WINDOW, 4 * window)
        return None

    def _candidates(self, view: memoryview) -> list[int]:
        # Where a page record could begin. Whole bytes are compared, which numpy does 16 at a time.
        data = np.frombuffer(view, np.uint8)
        count = len(data) - PAGE_HEADER_SIZE + 1
        order = (12, 13, 14, 15) if self._records.byteorder == "little" else (15, 14, 13, 12)
        low, second, third, high = (data[at : at + count] for at in order)
        kind = low & np.uint8(~_HARMLESS & 0xFF)
        like = ((kind == DP_RAW) | (kind == DP_COMPRESSED)) & (second == 0) & (third == 0)
        places = np.flatnonzero(like & ((high & np.uint8(~(_HARMLESS >> 24) & 0xFF)) == 0))
        found: list[int] = places[self._records.good(self._headers(view)[places])].tolist()
        return found

    def _is_chain(self, at: int, least: int) -> bool:
        # Whether records follow one another from here: _CHAIN of them, or at least `least` and then an end.
        size = self._source.size
        for number in range(_CHAIN):
            if at == size:
                return number >= least
            header = self._records.header_at(at)
            if header is None:
                return False
            address, length, flags = header
            if flags & ~DP_TRUNCATED == DP_END and length == 0:
                return number >= least
            like = flags & ~_HARMLESS in (DP_RAW, DP_COMPRESSED)
            if not like or not self._records.is_good(address, length, flags):
                return False
            at += PAGE_HEADER_SIZE + length
        return at <= size
