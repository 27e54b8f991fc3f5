# SPDX-License-Identifier: GPL-2.0-or-later
"""Layout of compressed kdump: construct schema of the sub header, and which class and order a file has.

Names are the C structs'. Source: docs/formats/kdump.md sections 2, 3, 5, 8; makedumpfile diskdump_mod.h.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from construct import If, Padding, Struct

from .errors import TruncatedDump
from .machine import ByteOrder, from_uts_machine
from .main_header import (
    MAX_VERSION,
    SATURATED,
    MainHeader,
    descriptor_dtype,
    main_header,
    page_descriptor,
    read_main_header,
)
from .reader import Ints, parse
from .source import ByteSource

__all__ = [
    "MAX_VERSION",
    "SATURATED",
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


class Abi(NamedTuple):
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
def sub_header(abi: Abi, version: int) -> Struct:
    """Schema of kdump_sub_header as far as `version` (1 to 6; larger means 6) fills it; padded at its end as in C."""
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
        since(3, pad),
        "offset_note" / since(4, ints.u64),  # 48 / 32 / 40
        "size_note" / since(4, ints.ulong),  # 56 / 40 / 48
        since(4, pad),
        "offset_eraseinfo" / since(5, ints.u64),  # 64 / 44 / 56
        "size_eraseinfo" / since(5, ints.ulong),  # 72 / 52 / 64
        since(5, pad),
        "start_pfn_64" / since(6, ints.u64),  # 80 / 56 / 72
        "end_pfn_64" / since(6, ints.u64),  # 88 / 64 / 80
        "max_mapnr_64" / since(6, ints.u64),  # 96 / 72 / 88
        Padding(4 if abi.word_size == 8 and version == 1 else 0),
    )


class SubHeader(NamedTuple):
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


def _is_possible(source: ByteSource, header: MainHeader, sub: SubHeader) -> bool:
    # Whether everything in the headers makes sense when they are read this way.
    tables = (1 + header.sub_hdr_size + header.bitmap_blocks) * header.block_size
    if not 0 <= header.version <= MAX_VERSION or tables > source.size:
        return False
    max_mapnr = header.max_mapnr
    if header.version >= 6:
        if max_mapnr not in (sub.max_mapnr_64, SATURATED):
            return False
        max_mapnr = sub.max_mapnr_64
    return max_mapnr <= 8 * header.bitmap_blocks * header.block_size


def _likeness(header: MainHeader, sub: SubHeader | None, abi: Abi) -> tuple[int, bool, bool]:
    # What speaks for a reading: the machine's word size; notes or text directly behind the sub header, as all
    # writers have them; the alignment that the machine's C compiler uses (QEMU packs always, and has no release).
    machine = header.utsname["machine"]
    arch = from_uts_machine(machine.decode("latin-1"))
    word = 0 if arch is None else 1 if arch.word_size == abi.word_size else -1
    first = (sub.offset_note or sub.offset_vmcoreinfo) if sub is not None else 0
    behind = sub is not None and first == header.block_size + sub.size
    pads = machine.startswith((b"arm", b"mips")) or machine == b"ppc"
    natural = abi.word_size == 4 and abi.pack != (pads and bool(header.utsname["release"]))
    return word, behind, natural


def detect_abi(source: ByteSource) -> tuple[Abi, MainHeader]:
    """Tell class, byte order and (32-bit) alignment; nothing in the file states them. Done once for a source.

    Of the readings under which all header fields make sense the likeliest counts (kdump sheet, sections 3 and 8).
    Where none makes sense the result is the one whose error the user should see.

    Raises:
        TruncatedDump: The file is shorter than a main header.
    """
    known = _ABIS.get(source)
    if known is None:
        known = _ABIS[source] = _detect_abi(source)
    return known


_ABIS: WeakKeyDictionary[ByteSource, tuple[Abi, MainHeader]] = WeakKeyDictionary()


def _detect_abi(source: ByteSource) -> tuple[Abi, MainHeader]:
    orders: tuple[ByteOrder, ...] = ("little", "big")
    possible: list[tuple[tuple[int, bool, bool], Abi, MainHeader]] = []
    hopeless: list[tuple[tuple[bool, bool, int], Abi, MainHeader]] = []
    for word_size in (8, 4):
        for byteorder in orders:
            header = read_main_header(source, byteorder, word_size)
            packs = (True, False) if word_size == 4 else (True,)
            for abi in (Abi(byteorder, word_size, pack) for pack in packs):
                sub = None
                if header.block_size_ok and header.sub_hdr_size > 0 and header.bitmap_blocks > 0:
                    sub = _try_sub_header(source, header, abi)
                likeness = _likeness(header, sub, abi)
                if sub is not None and _is_possible(source, header, sub):
                    possible.append((likeness, abi, header))
                order_fits = 0 <= header.version <= MAX_VERSION
                hopeless.append(((order_fits, header.block_size_ok, likeness[0]), abi, header))
    _, abi, header = max(possible or hopeless, key=lambda each: each[0])
    return abi, header


def _try_sub_header(source: ByteSource, header: MainHeader, abi: Abi) -> SubHeader | None:
    try:
        return read_sub_header(source, header, abi)
    except TruncatedDump:
        return None
