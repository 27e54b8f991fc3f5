# SPDX-License-Identifier: GPL-2.0-or-later
"""Layout of diskdump: where the main header is, class and byte order, a partition's format pattern, page entries.

The headers themselves are in main_header.py. Source: docs/formats/diskdump.md; RHEL4 kernel (2.6.9)
drivers/block/diskdump.c and include/linux/diskdump.h.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from construct import Struct

from .errors import CorruptDump, MissingPart, TruncatedDump
from .machine import ByteOrder, from_uts_machine
from .main_header import MAX_VERSION, MainHeader, read_main_header
from .reader import Ints
from .source import ByteSource

__all__ = [
    "ENTRY_SIZE",
    "HEADER_SIZE",
    "SIGNATURE",
    "STATUS_COMPRESSED",
    "STATUS_INCOMPLETE",
    "Layout",
    "end_of_written",
    "find_layout",
    "is_formatted",
    "looks_like_diskdump",
    "page_entry",
]

SIGNATURE = b"DISKDUMP"
FORMAT_TEXT = b"diskdump"  # at the start of every unused block of a formatted partition
SWAP_TEXT = b"SWAPSPACE2"  # the last bytes of a swap partition's first page
STATUS_INCOMPLETE = 1 | 2 | 4  # interrupted, in progress, partition too small
STATUS_COMPRESSED = 8
HEADER_SIZE = {4: 452, 8: 464}  # tasks[] begins here
ENTRY_SIZE = 16
_SHIFTS = range(12, 17)  # page sizes of the machines that had a driver, 4 to 64 KiB
_ORDERS: tuple[ByteOrder, ...] = ("little", "big")


@cache
def page_entry(byteorder: ByteOrder) -> Struct:
    """Schema of struct dump_page, before each page of a compressed partition: 16 bytes."""
    ints = Ints(byteorder, 8)
    return Struct(
        "page_flags" / ints.u64,  # 0, of struct page
        "size" / ints.u32,  # 8, bytes that follow
        "flags" / ints.u32,  # 12: 1 zlib, 2 anonymous memory
    )


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the main header is and how it is read.

    Attributes:
        byteorder, word_size: Of the dumped machine.
        header: The main header, unchecked.
        header_offset: Of the main header: 0 in a file, one block on a partition.
    """

    byteorder: ByteOrder
    word_size: int
    header: MainHeader
    header_offset: int

    @property
    def first_block(self) -> int:
        """Block that the main header is: 0 in a file, 1 on a partition."""
        return int(self.header_offset > 0)

    @property
    def sub_header_offset(self) -> int:
        """Offset of the registers."""
        return (self.first_block + 1) * self.header.block_size

    @property
    def bitmap_offset(self) -> int:
        """Offset of the first bitmap."""
        return self.sub_header_offset + self.header.sub_hdr_size * self.header.block_size

    @property
    def data_offset(self) -> int:
        """Offset of what follows the bitmaps: descriptors in a file, pages on a partition."""
        return self.bitmap_offset + self.header.bitmap_blocks * self.header.block_size


def _reads(source: ByteSource, offset: int, text: bytes) -> bool:
    end = offset + len(text)
    return source.ensure(offset, end) and end <= source.size and source.pread(offset, len(text)) == text


def _header_offset(source: ByteSource) -> int | None:
    for offset in (0, *(1 << shift for shift in _SHIFTS)):
        if _reads(source, offset, SIGNATURE):
            return offset
    return None


def looks_like_diskdump(source: ByteSource) -> bool:
    """Whether the source has the signature of a diskdump file, of a formatted dump partition, or of a dump on swap."""
    if _reads(source, 0, SIGNATURE) or _reads(source, 0, FORMAT_TEXT):
        return True
    return any(
        _reads(source, (1 << shift) - len(SWAP_TEXT), SWAP_TEXT) and _reads(source, 1 << shift, SIGNATURE)
        for shift in _SHIFTS
    )


def find_layout(source: ByteSource) -> Layout:
    """Find the main header, and tell class and byte order, which nothing in the file states.

    Of the readings under which all fields make sense the one counts whose class is the machine's, and then the one
    with the smallest tables: version 0 tells no order, 4096 read backwards is 1 MiB, and a stream has no size that
    would refuse it. Where none makes sense the result is the one whose error the user should see.

    Raises:
        MissingPart: A formatted partition that holds no dump.
        CorruptDump: No main header.
        TruncatedDump: The file ends inside it.
    """
    offset = _header_offset(source)
    if offset is None:
        if _reads(source, 0, FORMAT_TEXT):
            raise MissingPart("a dump partition that is formatted and empty: no dump was written", path=source.name)
        raise CorruptDump("no diskdump main header in block 0 or 1", path=source.name, offset=0)
    readings = []
    for word_size in (8, 4):
        for byteorder in _ORDERS:
            try:
                header = read_main_header(source, byteorder, word_size, offset)
            except TruncatedDump:
                if word_size == 4:  # the shorter one
                    raise
                continue
            layout = Layout(byteorder, word_size, header, offset)
            readings.append((_likeness(source, layout), layout))
    return max(readings, key=lambda each: each[0])[1]


def _likeness(source: ByteSource, layout: Layout) -> tuple[bool, bool, bool, int, int]:
    header = layout.header
    arch = from_uts_machine(header.utsname["machine"].decode("latin-1"))
    word = 0 if arch is None else 1 if arch.word_size == layout.word_size else -1
    order_fits = 0 <= header.version <= MAX_VERSION
    size_fits = header.block_size_ok and layout.header_offset in (0, header.block_size)
    possible = (
        order_fits
        and size_fits
        and header.sub_hdr_size >= 0
        and header.bitmap_blocks > 0
        and layout.data_offset <= source.size
        and header.max_mapnr <= 8 * header.bitmap_blocks * header.block_size
    )
    return possible, order_fits, size_fits, word, -abs(layout.data_offset)


def is_formatted(source: ByteSource, block: int, block_size: int, byteorder: ByteOrder) -> bool:
    """Whether a partition's block holds the formatter's pattern for its number."""
    raw = source.pread(block * block_size, block_size)
    if not raw.startswith(FORMAT_TEXT):
        return False
    words = np.frombuffer(raw, "<u4" if byteorder == "little" else ">u4").astype(np.uint64)
    following = (words[2:-1] + np.uint64(7)) * np.uint64(11) & np.uint64(0xFFFFFFFF)
    return int(words[2]) == block & 0xFFFFFFFF and bool((words[3:] == following).all())


def end_of_written(source: ByteSource, first: int, last: int, block_size: int, byteorder: ByteOrder) -> int | None:
    """Return the first block of [first, last) that still has the formatter's pattern; blocks are written in order.

    None where the last one has not: the partition is full, or was never formatted.
    """
    if first >= last or not is_formatted(source, last - 1, block_size, byteorder):
        return None
    low, high = first, last - 1  # high is formatted
    while low < high:
        middle = (low + high) // 2
        if is_formatted(source, middle, block_size, byteorder):
            high = middle
        else:
            low = middle + 1
    return high
