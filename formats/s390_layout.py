# SPDX-License-Identifier: GPL-2.0-or-later
"""Schemas of s390 stand-alone dumps: header, segment header of the extended form, end marker; and what is possible.

Names are the C structs'. Source: docs/formats/s390.md; s390-tools include/dump/s390_dump.h.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from construct import Bytes, Padding, Struct
from numpy.typing import NDArray

from .errors import UnsupportedDump
from .reader import Ints, parse
from .source import ByteSource

__all__ = [
    "END_MARKER",
    "HEADER_SIZE",
    "MAGIC",
    "MAGIC_EXT",
    "MAX_ENTRIES",
    "MAX_STORAGE",
    "MIB",
    "PAGE_SIZE",
    "SEGMENT_HEADER_SIZE",
    "SIGN_OFFSET",
    "DumpHeader",
    "SegmentHeader",
    "dump_header",
    "end_marker",
    "entry_table",
    "read_dump_header",
    "read_segment_header",
    "segment_header",
    "tod_to_unix",
]

MAGIC = bytes.fromhex("a8190173618f23fd")
MAGIC_EXT = bytes.fromhex("a8190173618f23fe")
END_MARKER = b"DUMP_END"
PAGE_SIZE = 4096
HEADER_SIZE = 4096
SEGMENT_HEADER_SIZE = 4096
SIGN_OFFSET = 0x200  # of mvdump_sign
MIB = 1 << 20
MAX_CPUS = 512
MAX_ENTRIES = 1011  # entry_offset[] ends with the segment header's page
MAX_STORAGE = 1 << 53  # bytes; MAX_PHYSMEM_BITS of Linux on s390 goes up to 53
_LC_VEC_OFFSET = 0x800
_ENTRY_OFFSET = 0x34
_INTS = Ints("big", 8)
# TOD counts 2**-12 microseconds from 1900 on; this is its value at the start of 1970 (s390-tools, df_s390.c).
_TOD_1970 = 0x8126D60E46000000 - 0x3C26700 * 1000000 * 4096


@cache
def dump_header() -> Struct:
    """Schema of df_s390_hdr up to its reserved part; fields from 0x54 on are not aligned."""
    return Struct(
        "magic" / Bytes(8),  # 0x00
        "version" / _INTS.u32,  # 0x08
        "hdr_size" / _INTS.u32,  # 0x0c
        "dump_level" / _INTS.u32,  # 0x10
        "page_size" / _INTS.u32,  # 0x14
        "mem_size" / _INTS.u64,  # 0x18
        "mem_start" / _INTS.u64,  # 0x20
        "mem_end" / _INTS.u64,  # 0x28, of some writers the last byte, of others one past it
        "num_pages" / _INTS.u32,  # 0x30
        "pad" / _INTS.u32,  # 0x34
        "tod" / _INTS.u64,  # 0x38
        "cpu_id" / _INTS.u64,  # 0x40
        "arch" / _INTS.u32,  # 0x48, 1: 31 bits, 2: 64
        "volnr" / _INTS.u32,  # 0x4c
        "build_arch" / _INTS.u32,  # 0x50, since version 2
        "mem_size_real" / _INTS.u64,  # 0x54, since version 3
        "mvdump" / Bytes(1),  # 0x5c, since version 3
        "cpu_cnt" / _INTS.u16,  # 0x5d, since version 5
        "real_cpu_cnt" / _INTS.u16,  # 0x5f, since version 5
        "zlib_version_s390" / Bytes(1),  # 0x61, extended only
        "zlib_entry_size" / _INTS.u32,  # 0x62, extended only
        Padding(SIGN_OFFSET - 0x66),
        "mvdump_sign" / Bytes(8),  # 0x200
        "mvdump_zipl_time" / _INTS.u64,  # 0x208
    )


@cache
def segment_header() -> Struct:
    """Schema of df_s390_dump_segm_hdr up to the entry table, 52 bytes."""
    return Struct(
        "start" / _INTS.u64,  # 0x00
        "len" / _INTS.u64,  # 0x08
        "stop_marker" / _INTS.u64,  # 0x10
        "size_on_disk" / _INTS.u32,  # 0x18, device blocks; 0: stored as is
        "reserved" / Bytes(20),  # 0x1c
        "entry_count" / _INTS.u32,  # 0x30
    )


@cache
def end_marker() -> Struct:
    """Schema of df_s390_em, 16 bytes."""
    return Struct(
        "str" / Bytes(8),  # 0x00
        "tod" / _INTS.u64,  # 0x08
    )


class DumpHeader(NamedTuple):
    """What the header says; fields that its version does not have are 0.

    Attributes:
        extended: By the magic; a tape says so, too, and has no segments.
        mem_size: Bytes of absolute storage from 0 on.
        num_pages: mem_size / 4096 in 32 bits.
        tod, cpu_id, arch, volnr, build_arch, mem_size_real, real_cpu_cnt: See `dump_header`.
        mvdump: Whether this is a volume of a multi-volume dump.
        zipl_time: When the volumes were prepared; equal on all of a set.
        entry_size: Plain bytes of one zlib entry.
        prefixes: Where each CPU's lowcore lies, the dumping CPU first.
    """

    extended: bool
    version: int
    hdr_size: int
    page_size: int
    mem_size: int
    mem_start: int
    num_pages: int
    tod: int
    cpu_id: int
    arch: int
    volnr: int
    build_arch: int
    mem_size_real: int
    mvdump: bool
    cpu_cnt: int
    real_cpu_cnt: int
    zlib_version: int
    entry_size: int
    zipl_time: int
    prefixes: tuple[int, ...]


class SegmentHeader(NamedTuple):
    """One segment: absolute addresses [start, start + length), the last one where `stop` says so."""

    start: int
    length: int
    stop: bool
    size_on_disk: int
    entry_count: int


def read_dump_header(source: ByteSource) -> DumpHeader:
    """Read the header page.

    Raises:
        TruncatedDump: The file ends in it.
        UnsupportedDump: More CPUs than the table has room for.
    """
    page = source.pread(0, HEADER_SIZE)
    raw = parse(dump_header(), source, 0, "s390 dump header")
    extended = raw.magic == MAGIC_EXT

    def since(version: int, value: int) -> int:
        return value if extended or raw.version >= version else 0

    cpu_cnt = since(5, raw.cpu_cnt)
    prefixes = np.frombuffer(page, ">u4", min(cpu_cnt, MAX_CPUS), _LC_VEC_OFFSET).tolist()
    if cpu_cnt > MAX_CPUS:
        raise UnsupportedDump(f"s390 dump header: cpu_cnt {cpu_cnt} > {MAX_CPUS}", path=source.name, offset=0x5D)
    return DumpHeader(
        extended=extended,
        version=raw.version,
        hdr_size=raw.hdr_size,
        page_size=raw.page_size,
        mem_size=raw.mem_size,
        mem_start=raw.mem_start,
        num_pages=raw.num_pages,
        tod=raw.tod,
        cpu_id=raw.cpu_id,
        arch=raw.arch,
        volnr=raw.volnr,
        build_arch=since(2, raw.build_arch),
        mem_size_real=since(3, raw.mem_size_real),
        mvdump=bool(since(3, raw.mvdump[0])),
        cpu_cnt=cpu_cnt,
        real_cpu_cnt=since(5, raw.real_cpu_cnt),
        zlib_version=raw.zlib_version_s390[0] if extended else 0,
        entry_size=raw.zlib_entry_size if extended else 0,
        zipl_time=raw.mvdump_zipl_time,
        prefixes=tuple(prefixes),
    )


def read_segment_header(source: ByteSource, offset: int) -> SegmentHeader:
    """Read a segment's header without its entry table.

    Raises:
        TruncatedDump: The file ends in it.
    """
    raw = parse(segment_header(), source, offset, "segment header")
    return SegmentHeader(raw.start, raw.len, raw.stop_marker != 0, raw.size_on_disk, raw.entry_count)


def entry_table(source: ByteSource, offset: int, count: int) -> NDArray[np.uint32]:
    """Return the first `count` words of a segment header's entry table; bit 31: stored as is."""
    return np.frombuffer(source.pread(offset + _ENTRY_OFFSET, 4 * count), ">u4").astype(np.uint32)


def tod_to_unix(tod: int) -> int:
    """Turn a TOD clock into microseconds since 1970; 0 means unknown and stays 0."""
    return ((tod - _TOD_1970) & 0xFFFFFFFFFFFFFFFF) >> 12 if tod else 0
