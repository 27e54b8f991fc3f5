# SPDX-License-Identifier: GPL-2.0-or-later
"""The main header and the page descriptors that diskdump and compressed kdump share: schemas, and what is possible.

Names are the C structs'. Source: docs/formats/kdump.md sections 2 and 5, docs/formats/diskdump.md section 2;
makedumpfile diskdump_mod.h.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from construct import Array, Bytes, Padding, Struct

from .errors import CorruptDump, TruncatedDump
from .machine import ByteOrder, from_uts_machine
from .reader import Ints, parse
from .source import ByteSource

__all__ = [
    "MAX_MEMORY",
    "MAX_VERSION",
    "SATURATED",
    "MainHeader",
    "check_main_header",
    "descriptor_dtype",
    "main_header",
    "page_descriptor",
    "read_main_header",
]

SATURATED = 0xFFFFFFFF  # max_mapnr from here on; kdump's max_mapnr_64 counts
MAX_MEMORY = 1 << 56  # bytes; riscv64 has the widest physical addresses; x86_64 and arm64 stop at 52 bits
MAX_VERSION = 0xFFFF  # in the other byte order every version is larger
_UTS_OFFSET, _UTS_SIZE = 12, 65
_MAX_SHIFT = 8  # bytes that utsname is looked for behind its place
_UTS_FIELDS = ("sysname", "nodename", "release", "version", "machine", "domainname")


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


class MainHeader(NamedTuple):
    """The main header with our checks not yet applied; sizes as stored, in blocks where the C struct has blocks."""

    version: int
    utsname: dict[str, bytes]
    timestamp: tuple[int, int]
    status: int
    block_size: int
    sub_hdr_size: int
    bitmap_blocks: int
    max_mapnr: int
    total_ram_blocks: int
    device_blocks: int
    written_blocks: int
    current_cpu: int
    nr_cpus: int
    uts_shift: int = 0  # bytes that utsname lies behind its place

    @property
    def block_size_ok(self) -> bool:
        """Whether block_size can be a page size."""
        return 512 <= self.block_size <= 1 << 20 and self.block_size & (self.block_size - 1) == 0


def read_main_header(source: ByteSource, byteorder: ByteOrder, word_size: int, offset: int = 0) -> MainHeader:
    """Read the main header at `offset` by one class and order.

    Raises:
        TruncatedDump: The file ends inside it.
    """
    raw = parse(main_header(byteorder, word_size), source, offset, "main header")
    fields, shift = list(raw.utsname), 0
    if b"Linux" in fields[0] and not fields[0].startswith(b"Linux\0"):
        fields, shift = _shifted(source, offset, fields)
    strings = [field.split(b"\0", 1)[0] for field in fields]
    return MainHeader(
        uts_shift=shift,
        version=raw.header_version,
        utsname=dict(zip(_UTS_FIELDS, strings, strict=True)),
        timestamp=(raw.timestamp_sec, raw.timestamp_usec),
        status=raw.status,
        block_size=raw.block_size,
        sub_hdr_size=raw.sub_hdr_size,
        bitmap_blocks=raw.bitmap_blocks,
        max_mapnr=raw.max_mapnr,
        total_ram_blocks=raw.total_ram_blocks,
        device_blocks=raw.device_blocks,
        written_blocks=raw.written_blocks,
        current_cpu=raw.current_cpu,
        nr_cpus=raw.nr_cpus,
    )


def _shifted(source: ByteSource, offset: int, fields: list[bytes]) -> tuple[list[bytes], int]:
    # utsname as it lies where `Linux` begins, a few bytes behind its place, if that makes it name a machine
    size = 6 * _UTS_SIZE
    around = source.pread(offset + _UTS_OFFSET, size + _MAX_SHIFT)
    at = around.find(b"Linux\0", 0, _MAX_SHIFT + 6)
    if at < 0:
        return fields, 0
    found = [around[at + step : at + step + _UTS_SIZE] for step in range(0, size, _UTS_SIZE)]
    machine = found[4].split(b"\0", 1)[0].decode("latin-1")
    whole = all(field.endswith(b"\0") for field in found[:5])
    if not whole or from_uts_machine(machine) is None:
        return fields, 0
    return found, at


def check_main_header(
    source: ByteSource, header: MainHeader, what: str, *, first_block: int = 0, sub_header_needed: bool = True
) -> None:
    """Check what must hold before anything behind the header is read.

    Args:
        source, header: The file and its main header.
        what: The format, for messages.
        first_block: Block that the main header is.
        sub_header_needed: Whether sub_hdr_size 0 is wrong.

    Raises:
        CorruptDump: A field that no writer makes.
        TruncatedDump: Headers and bitmaps are not all in the file.
    """

    def corrupt(message: str) -> CorruptDump:
        offset = first_block * header.block_size if header.block_size_ok else 0
        return CorruptDump(f"{what} main header: {message}", path=source.name, offset=offset)

    if not 0 <= header.version <= MAX_VERSION:
        raise corrupt(f"version {header.version} is impossible in either byte order")
    if not header.block_size_ok:
        raise corrupt(f"block_size {header.block_size} is no power of two in 512 to 1048576")
    if header.sub_hdr_size < sub_header_needed:
        raise corrupt(f"sub_hdr_size {header.sub_hdr_size} is {'not positive' if sub_header_needed else 'negative'}")
    if header.bitmap_blocks == 0:
        raise corrupt("bitmap_blocks is 0")
    tables = (first_block + 1 + header.sub_hdr_size + header.bitmap_blocks) * header.block_size
    if tables > source.size:
        raise TruncatedDump(
            f"headers and bitmaps need {tables} bytes ({header.bitmap_blocks} bitmap blocks of {header.block_size}), "
            f"the file has {source.size}",
            path=source.name,
        )
