# SPDX-License-Identifier: GPL-2.0-or-later
"""Layout of compressed kdump: construct schemas of headers and descriptor, and which class and order a file has.

Names are the C structs'. Source: docs/formats/kdump.md sections 2, 3, 5, 8; makedumpfile diskdump_mod.h.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from construct import Array, Bytes, If, Padding, Struct, this

from .machine import ByteOrder, from_uts_machine
from .reader import Ints, parse
from .source import ByteSource

__all__ = [
    "SIGNATURE",
    "STATUS_INCOMPLETE",
    "Abi",
    "MainHeader",
    "SubHeader",
    "descriptor_dtype",
    "detect_abi",
    "main_header",
    "page_descriptor",
    "read_main_header",
    "read_sub_header",
    "sub_header",
]

SIGNATURE = b"KDUMP   "
STATUS_INCOMPLETE = 0x08
_SATURATED = 0xFFFFFFFF
_UTS_FIELDS = ("sysname", "nodename", "release", "version", "machine", "domainname")


@dataclass(frozen=True, slots=True)
class Abi:
    """How the writer's C compiler laid the headers out.

    Attributes:
        byteorder: Of all integers.
        word_size: 4 or 8.
        pack: 32-bit only: 64-bit integers are aligned to 4 (i386, QEMU), not to 8 (ARM EABI, MIPS o32).
    """

    byteorder: ByteOrder
    word_size: int
    pack: bool = True


@cache
def main_header(byteorder: ByteOrder, word_size: int) -> Struct:
    """Schema of disk_dump_header without tasks[]: 464 bytes on 64-bit, 452 on 32-bit."""
    ints = Ints(byteorder, word_size)
    return Struct(
        "signature" / Bytes(8),  # 0
        "header_version" / ints.s32,  # 8
        "utsname" / Array(6, Bytes(65)),  # 12
        Padding(2 if word_size == 4 else 6),  # 402
        "timestamp_sec" / ints.ulong,  # 404 / 408
        "timestamp_usec" / ints.ulong,  # 408 / 416
        "status" / ints.u32,  # 412 / 424
        "block_size" / ints.s32,  # 416 / 428
        "sub_hdr_size" / ints.s32,  # 420 / 432
        "bitmap_blocks" / ints.u32,  # 424 / 436
        "max_mapnr" / ints.u32,  # 428 / 440
        "total_ram_blocks" / ints.u32,  # 432 / 444
        "device_blocks" / ints.u32,  # 436 / 448
        "written_blocks" / ints.u32,  # 440 / 452
        "current_cpu" / ints.u32,  # 444 / 456
        "nr_cpus" / ints.s32,  # 448 / 460
    )


@cache
def sub_header(abi: Abi, version: int) -> Struct:
    """Schema of kdump_sub_header as far as `version` (1 to 6; larger means 6) fills it."""
    ints = Ints(abi.byteorder, abi.word_size)
    pad = Padding(4 if abi.word_size == 4 and not abi.pack else 0)  # 64-bit fields aligned to 8

    def since(first: int, schema: Any) -> Any:
        return If(version >= first, schema)

    return Struct(
        "phys_base" / ints.ulong,  # 0
        "dump_level" / since(1, ints.s32),  # 8 / 4 / 4
        "split" / since(2, ints.s32),  # 12 / 8 / 8
        "start_pfn" / since(2, ints.ulong),  # 16 / 12 / 12
        "end_pfn" / since(2, ints.ulong),  # 24 / 16 / 16
        since(3, pad),
        "offset_vmcoreinfo" / since(3, ints.u64),  # 32 / 20 / 24
        "size_vmcoreinfo" / since(3, ints.ulong),  # 40 / 28 / 32
        since(4, pad),
        "offset_note" / since(4, ints.u64),  # 48 / 32 / 40
        "size_note" / since(4, ints.ulong),  # 56 / 40 / 48
        since(5, pad),
        "offset_eraseinfo" / since(5, ints.u64),  # 64 / 44 / 56
        "size_eraseinfo" / since(5, ints.ulong),  # 72 / 52 / 64
        since(6, pad),
        "start_pfn_64" / since(6, ints.u64),  # 80 / 56 / 72
        "end_pfn_64" / since(6, ints.u64),  # 88 / 64 / 80
        "max_mapnr_64" / since(6, ints.u64),  # 96 / 72 / 88
    )


@cache
def page_descriptor(byteorder: ByteOrder) -> Struct:
    """Schema of one page descriptor, 24 bytes. Tables are read with `descriptor_dtype`, the same layout."""
    ints = Ints(byteorder, 8)
    return Struct(
        "offset" / ints.s64,  # 0
        "size" / ints.u32,  # 8, stored bytes
        "flags" / ints.u32,  # 12
        "page_flags" / ints.u64,  # 16
    )


@cache
def descriptor_dtype(byteorder: ByteOrder) -> np.dtype[Any]:
    """The numpy form of `page_descriptor`; a property test proves both equal."""
    mark = "<" if byteorder == "little" else ">"
    fields = [("offset", "i8"), ("size", "u4"), ("flags", "u4"), ("page_flags", "u8")]
    return np.dtype([(name, mark + kind) for name, kind in fields])


@dataclass(frozen=True, slots=True)
class MainHeader:
    """The main header with our checks not yet applied; sizes as stored."""

    version: int
    utsname: dict[str, bytes]
    timestamp: tuple[int, int]
    status: int
    block_size: int
    sub_hdr_size: int
    bitmap_blocks: int
    max_mapnr: int
    nr_cpus: int

    @property
    def block_size_ok(self) -> bool:
        """Whether block_size can be a page size."""
        return 512 <= self.block_size <= 1 << 20 and self.block_size & (self.block_size - 1) == 0


@dataclass(frozen=True, slots=True)
class SubHeader:
    """The sub header; fields that the version does not have are 0."""

    phys_base: int
    dump_level: int
    split: int
    start_pfn: int
    end_pfn: int
    offset_vmcoreinfo: int
    size_vmcoreinfo: int
    offset_note: int
    size_note: int
    offset_eraseinfo: int
    size_eraseinfo: int
    max_mapnr_64: int
    size: int


def read_main_header(source: ByteSource, byteorder: ByteOrder, word_size: int) -> MainHeader:
    """Read the main header by one class and order.

    Raises:
        TruncatedDump: The file ends inside it.
    """
    raw = parse(main_header(byteorder, word_size), source, 0, "main header")
    strings = [field.split(b"\0", 1)[0] for field in raw.utsname]
    return MainHeader(
        version=raw.header_version,
        utsname=dict(zip(_UTS_FIELDS, strings, strict=True)),
        timestamp=(raw.timestamp_sec, raw.timestamp_usec),
        status=raw.status,
        block_size=raw.block_size,
        sub_hdr_size=raw.sub_hdr_size,
        bitmap_blocks=raw.bitmap_blocks,
        max_mapnr=raw.max_mapnr,
        nr_cpus=raw.nr_cpus,
    )


def read_sub_header(source: ByteSource, header: MainHeader, abi: Abi) -> SubHeader:
    """Read the sub header as far as the version has fields; before version 6 the 32-bit range fields count."""
    schema = sub_header(abi, min(header.version, 6))
    raw = parse(schema, source, header.block_size, "sub header")
    wide = header.version >= 6
    return SubHeader(
        phys_base=raw.phys_base,
        dump_level=raw.dump_level or 0,
        split=raw.split or 0,
        start_pfn=(raw.start_pfn_64 if wide else raw.start_pfn) or 0,
        end_pfn=(raw.end_pfn_64 if wide else raw.end_pfn) or 0,
        offset_vmcoreinfo=raw.offset_vmcoreinfo or 0,
        size_vmcoreinfo=raw.size_vmcoreinfo or 0,
        offset_note=raw.offset_note or 0,
        size_note=raw.size_note or 0,
        offset_eraseinfo=raw.offset_eraseinfo or 0,
        size_eraseinfo=raw.size_eraseinfo or 0,
        max_mapnr_64=raw.max_mapnr_64 or 0,
        size=schema.sizeof(),
    )


def _likeness(source: ByteSource, header: MainHeader, abi: Abi) -> int:
    # How much of the header makes sense when read this way. A wrong class shifts every field behind utsname.
    score = 0
    arch = from_uts_machine(header.utsname["machine"].decode("latin-1"))
    if arch is not None:
        score += 4 if arch.word_size == abi.word_size else -4
    if not header.block_size_ok:
        return score - 8
    score += 4
    if not (0 < header.sub_hdr_size and 0 < header.bitmap_blocks):
        return score - 4
    bitmap_size = header.bitmap_blocks * header.block_size
    score += 2 if 8 * bitmap_size >= header.max_mapnr or header.max_mapnr == _SATURATED else 0
    tables = (1 + header.sub_hdr_size) * header.block_size + bitmap_size
    score += 2 if tables <= source.size else 0
    return score


def _pack_fits(source: ByteSource, header: MainHeader, abi: Abi) -> bool:
    sub = read_sub_header(source, header, abi)
    area_end = header.block_size * (1 + header.sub_hdr_size)

    def in_area(offset: int, size: int) -> bool:
        return (offset == 0 and size == 0) or (offset > header.block_size and offset + size <= area_end)

    if not in_area(sub.offset_vmcoreinfo, sub.size_vmcoreinfo):
        return False
    if header.version >= 4 and not in_area(sub.offset_note, sub.size_note):
        return False
    return header.version < 6 or sub.max_mapnr_64 == header.max_mapnr or header.max_mapnr == _SATURATED


def detect_abi(source: ByteSource) -> tuple[Abi, MainHeader]:
    """Tell class, byte order and (32-bit) alignment; nothing in the file states them.

    The header's version is a small number in one byte order only; the class is the one by which the fields
    behind utsname make most sense; the alignment is tried on the sub header (kdump sheet, sections 3 and 8).

    Raises:
        TruncatedDump: The file is shorter than a main header.
    """
    best: tuple[int, Abi, MainHeader] | None = None
    orders: tuple[ByteOrder, ...] = ("little", "big")
    for byteorder in orders:
        for word_size in (8, 4):
            abi = Abi(byteorder, word_size)
            header = read_main_header(source, byteorder, word_size)
            score = _likeness(source, header, abi) + (8 if 0 <= header.version < 1 << 16 else 0)
            if best is None or score > best[0]:
                best = (score, abi, header)
    if best is None:
        raise AssertionError("no candidate")
    _, abi, header = best
    if abi.word_size == 4 and header.version >= 3 and header.block_size_ok:
        abi = _detect_alignment(source, header, abi)
    return abi, header


def _detect_alignment(source: ByteSource, header: MainHeader, abi: Abi) -> Abi:
    packed, padded = abi, Abi(abi.byteorder, 4, pack=False)
    pack_fits = _pack_fits(source, header, packed)
    pad_fits = _pack_fits(source, header, padded)
    if pack_fits != pad_fits:
        return packed if pack_fits else padded
    # Both or neither make sense: the machine decides. QEMU packs always, and leaves the release empty.
    machine = header.utsname["machine"]
    natural_pad = machine.startswith((b"arm", b"mips")) or machine == b"ppc"
    return padded if natural_pad and header.utsname["release"] else packed
