# SPDX-License-Identifier: GPL-2.0-or-later
"""The layouts of mcore files: headers and map entries of both versions, and which of them a file has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from construct import Padding, Struct

from .blocks import MAX_BLOCK
from .errors import CorruptDump, TruncatedDump
from .machine import ByteOrder
from .reader import Ints, parse
from .source import ByteSource

__all__ = [
    "MAGIC",
    "MAX_BLOCK_SIZE",
    "SUBMAP_PAGES",
    "Header",
    "Layout",
    "candidates_v2",
    "find_v1",
    "header_v1",
    "header_v2",
    "map_entry",
    "read_headers",
    "tell_layout",
]

MAGIC = 0x9A8BCCDD
MAX_BLOCK_SIZE = 65536
SUBMAP_PAGES = 128  # pages of a unit at most
_PAGE_SIZES = (4096, 8192, 1024, 2048, 16384, 32768, 65536)
_START_BLOCK = 100  # v1: start_blk counts from the swap device's start, where the header has this block
_STREAM_REACH = 1 << 20  # how far a stream is read to look for a v1 header


class Layout(NamedTuple):
    """Version, and the machine's order and size of numbers."""

    version: int
    byteorder: ByteOrder
    word_size: int

    @property
    def ints(self) -> Ints:
        """The integer types."""
        return Ints(self.byteorder, self.word_size)


class Header(NamedTuple):
    """A header, checked; offsets in bytes of the file.

    Attributes:
        unit_block: What a map entry's start_blk counts from.
        map_entries, va_per_entry, bytes_not_dumped: v1 only.
    """

    offset: int
    blk_size: int
    map_offset: int
    map_blocks: int
    unit_block: int = 0
    map_entries: int = 0
    va_per_entry: int = 0
    bytes_not_dumped: int = 0


def header_v2(ints: Ints) -> Struct:
    """Schema of the header of version 2; offsets are those of 32 and 64 bits."""
    return Struct(
        "magic" / ints.ulong,  # 0, 0
        Padding(3 * ints.word_size),  # 4, 8: magic[1..3], unknown
        "blk_size" / ints.s32,  # 16, 32
        "map_block" / ints.s32,  # 20, 36
        "map_blocks" / ints.s32,  # 24, 40
    )


def header_v1(ints: Ints) -> Struct:
    """Schema of a header of version 1; offsets are those of 32 and 64 bits."""
    return Struct(
        "magic" / ints.ulong,  # 0, 0
        Padding(3 * ints.word_size),  # 4, 8
        "blk_size" / ints.s32,  # 16, 32
        "map_block" / ints.s32,  # 20, 36: from this header on
        "map_blocks" / ints.s32,  # 24, 40
        "map_entries" / ints.s32,  # 28, 44
        "va_per_entry" / ints.ulong,  # 32, 48
        "bytes_not_dumped" / ints.ulong,  # 36, 56
        "total_blocks" / ints.s32,  # 40, 64
    )


def map_entry(layout: Layout) -> np.dtype[Any]:
    """A map entry: 16 or 24 bytes in version 2; chk_sum makes them 20 or 32 in version 1."""
    order = "<" if layout.byteorder == "little" else ">"
    fields = [
        ("start_va", f"{order}u{layout.word_size}"),
        ("exp_data", f"{order}u{layout.word_size}"),
        ("start_blk", f"{order}i4"),
        ("num_blks", f"{order}i4"),
    ]
    if layout.version == 1:
        fields.append(("chk_sum", f"{order}i4"))
        if layout.word_size == 8:
            fields.append(("pad", f"{order}i4"))
    return np.dtype(fields)


def _is_block_size(size: int) -> bool:
    return 1024 <= size <= MAX_BLOCK_SIZE and not size & (size - 1)


def _magics(source: ByteSource, offset: int) -> Iterator[tuple[ByteOrder, int]]:
    # (byte order, word size) of which the magic may be at an offset
    if not source.ensure(offset, offset + 48) or offset + 48 > source.size:
        return
    head = source.pread(offset, 8)
    orders: tuple[ByteOrder, ByteOrder] = ("little", "big")
    for order in orders:
        for word in (4, 8):
            if int.from_bytes(head[:word], order) == MAGIC:
                yield order, word


def candidates_v2(source: ByteSource) -> Iterator[Layout]:
    """Yield the layouts of version 2 that the header may have, as far as its magic and block size tell."""
    for order, word in _magics(source, 0):
        raw = source.pread(4 * word, 4)
        if _is_block_size(int.from_bytes(raw, order)):
            yield Layout(2, order, word)


def find_v1(source: ByteSource) -> tuple[Layout, int] | None:
    """Return layout and page size of a file of version 1, None if it is none. There is no magic at its start."""
    if not source.ensure(0, 4096) or source.size < 4096:
        return None
    head = source.pread(0, 4)
    orders: tuple[ByteOrder, ByteOrder] = ("little", "big")
    for order in orders:
        position = int.from_bytes(head, order, signed=True)
        for page_size in _PAGE_SIZES if position > 0 else ():
            at = position * page_size
            if source.is_stream and at > _STREAM_REACH:
                continue
            for found, word in _magics(source, at):
                layout = Layout(1, order, word)
                if found == order and not _why_not_v1(source, layout, at, page_size):
                    return layout, page_size
    return None


def _why_not_v1(source: ByteSource, layout: Layout, at: int, page_size: int) -> str:
    # what speaks against a header of this layout at an offset
    schema = header_v1(layout.ints)
    if at + schema.sizeof() > source.size:
        return "header beyond the end of the file"
    header = parse(schema, source, at, "mcore header")
    if header.blk_size != page_size:
        return f"blk_size {header.blk_size} where blocks have {page_size} bytes"
    if header.map_block < 1 or header.map_entries < 1:
        return f"map_block {header.map_block}, map_entries {header.map_entries}"
    if header.va_per_entry % page_size or not 0 < header.va_per_entry <= MAX_BLOCK:
        return f"va_per_entry {header.va_per_entry}"
    entry = _first_entry(source, layout, at + header.map_block * page_size)
    if entry is None:
        return "map beyond the end of the file"
    return _odd_address(entry, page_size)


def _first_entry(source: ByteSource, layout: Layout, at: int) -> Any:
    dtype = map_entry(layout)
    if at + dtype.itemsize > source.size:
        return None
    return np.frombuffer(source.pread(at, dtype.itemsize), dtype)[0]


def _odd_address(entry: Any, blk_size: int) -> str:
    start = int(entry["start_va"])
    return f"first address {start:#x}" if start == 0 or start % blk_size else ""


def _why_not_v2(source: ByteSource, layout: Layout) -> str:
    header = parse(header_v2(layout.ints), source, 0, "mcore header")
    blocks, size = header.blk_size, source.size
    if header.map_block < 1 or header.map_blocks < 1:
        return f"map_block {header.map_block}, map_blocks {header.map_blocks}"
    if (header.map_block + header.map_blocks) * blocks > size:
        return f"map of {header.map_blocks} blocks at block {header.map_block} ends beyond the file's {size} bytes"
    entry = _first_entry(source, layout, header.map_block * blocks)
    if entry is None:
        return "map beyond the end of the file"
    return _odd_address(entry, blocks)


def _entry_fits(source: ByteSource, layout: Layout) -> bool:
    # the strictest test, where a file may be read in two ways: the first unit is in the file
    header = parse(header_v2(layout.ints), source, 0, "mcore header")
    entry = _first_entry(source, layout, header.map_block * header.blk_size)
    if entry is None or entry["exp_data"] or entry["start_blk"] < 1 or entry["num_blks"] < 1:
        return False
    at = int(entry["start_blk"]) * header.blk_size
    if at + 2 > source.size:
        return False
    head = source.pread(at, 2)
    return head[0] & 0xF == 8 and int.from_bytes(head, "big") % 31 == 0


def tell_layout(source: ByteSource) -> Layout:
    """Return the layout of an mcore file. Whether it is of 32 or 64 bits is nowhere said: both are tried.

    Raises:
        CorruptDump: None fits, or two do.
    """
    candidates = list(candidates_v2(source))
    if not candidates:
        found = find_v1(source)
        if found is None:
            raise CorruptDump("no mcore header of version 2 or 1", path=source.name)
        return found[0]
    reasons = {layout: _why_not_v2(source, layout) for layout in candidates}
    fitting = [layout for layout, reason in reasons.items() if not reason]
    if len(fitting) > 1:
        fitting = [layout for layout in fitting if _entry_fits(source, layout)]
    if len(fitting) == 1:
        return fitting[0]
    told = "; ".join(f"{8 * layout.word_size} bits: {reason or 'fits'}" for layout, reason in reasons.items())
    raise CorruptDump(f"mcore header, read as {told}", path=source.name, offset=0)


def read_headers(source: ByteSource, layout: Layout) -> list[Header]:
    """Return the headers: one in version 2, those of the list in version 1.

    Raises:
        CorruptDump, TruncatedDump: One is none.
    """
    if layout.version == 2:
        header = parse(header_v2(layout.ints), source, 0, "mcore header")
        return [Header(0, header.blk_size, header.map_block * header.blk_size, header.map_blocks)]
    found = find_v1(source)
    if found is None:
        raise CorruptDump("no mcore header of version 1", path=source.name)
    page_size = found[1]
    raw = source.pread(0, page_size)
    positions = np.frombuffer(raw, "<i4" if layout.byteorder == "little" else ">i4")
    end = np.flatnonzero(positions == 0)
    if not len(end):
        raise CorruptDump("the list of headers has no end in its page", path=source.name, offset=0)
    listed = positions[: end[0]].tolist()
    if len(set(listed)) != len(listed):
        raise CorruptDump("the list of headers names one twice", path=source.name, offset=0)
    return [_read_v1(source, layout, position, page_size) for position in listed]


def _read_v1(source: ByteSource, layout: Layout, position: int, page_size: int) -> Header:
    at = position * page_size
    schema = header_v1(layout.ints)
    if position < 1:
        raise CorruptDump(f"the list of headers has block {position}", path=source.name, offset=0)
    if at + schema.sizeof() > source.size:
        raise TruncatedDump(
            f"header at block {position} of {page_size} bytes, the file has {source.size}", path=source.name, offset=at
        )
    header = parse(schema, source, at, "mcore header")
    wrong = _why_not_v1(source, layout, at, page_size)
    if header.magic != MAGIC or wrong:
        raise CorruptDump(
            f"mcore header: {wrong or f'magic {header.magic:#x}, not {MAGIC:#x}'}", path=source.name, offset=at
        )
    return Header(
        at,
        header.blk_size,
        at + header.map_block * page_size,
        header.map_blocks,
        position - _START_BLOCK,
        header.map_entries,
        header.va_per_entry,
        header.bytes_not_dumped,
    )
