# SPDX-License-Identifier: GPL-2.0-or-later
"""Layout of Xen's files: construct schemas of all headers and records, and the numbers that stand in them.

Names are those of Xen's headers. Source: docs/formats/xen.md and the sheets that it names; Xen (4.17)
docs/misc/dump-core-format.txt,
docs/specs/libxc-migration-stream.pandoc, libxl-migration-stream.pandoc, tools/libs/guest/xg_core.h.
"""

from __future__ import annotations

from functools import cache

from construct import Array, Bytes, Struct

from .machine import ByteOrder
from .reader import Ints

__all__ = [
    "ALL_ONES",
    "FORMAT_VERSION_1",
    "MAX_GUEST_PFN",
    "NAME_CORE",
    "NAME_P2M",
    "NAME_PFN",
    "NAME_SHARED_INFO",
    "NAME_STATUS",
    "NOTE_FORMAT_VERSION",
    "NOTE_HEADER",
    "NOTE_NAME",
    "NOTE_NONE",
    "NOTE_VERSION",
    "XC_CORE_MAGIC",
    "XC_CORE_MAGIC_HVM",
    "core_header",
    "dumpcore_header",
    "legacy_header",
    "libvirt_header",
    "libxc_domain",
    "libxc_header",
    "libxl_header",
    "record_header",
    "xl_header",
]

ALL_ONES = 0xFFFFFFFFFFFFFFFF
MAX_GUEST_PFN = 1 << 40  # 4 PiB of guest; larger numbers are damage
XC_CORE_MAGIC, XC_CORE_MAGIC_HVM = 0xF00FEBED, 0xF00FEBEE

NOTE_NAME = b"Xen"
NOTE_NONE, NOTE_HEADER, NOTE_VERSION, NOTE_FORMAT_VERSION = 0x2000000, 0x2000001, 0x2000002, 0x2000003
FORMAT_VERSION_1 = (1, 1 << 32)  # (0, 1) as one u64, in both orders of its halves
NAME_CORE, NAME_STATUS, NAME_SHARED_INFO = b".note.Xen", b".xen_prstatus", b".xen_shared_info"
NAME_P2M, NAME_PFN = b".xen_p2m", b".xen_pfn"


@cache
def dumpcore_header(byteorder: ByteOrder) -> Struct:
    """Schema of struct xen_dumpcore_elfnote_header_desc: 32 bytes."""
    ints = Ints(byteorder, 8)
    return Struct(
        "xch_magic" / ints.u64,  # 0
        "xch_nr_vcpus" / ints.u64,  # 8
        "xch_nr_pages" / ints.u64,  # 16
        "xch_page_size" / ints.u64,  # 24
    )


@cache
def core_header() -> Struct:
    """Schema of struct xc_core_header, before ELF: 24 bytes, little-endian on every machine that wrote it."""
    ints = Ints("little", 4)
    return Struct(
        "xch_magic" / ints.u32,  # 0
        "xch_nr_vcpus" / ints.u32,  # 4
        "xch_nr_pages" / ints.u32,  # 8
        "xch_ctxt_offset" / ints.u32,  # 12
        "xch_index_offset" / ints.u32,  # 16
        "xch_pages_offset" / ints.u32,  # 20
    )


@cache
def legacy_header() -> Struct:
    """Schema of xend's file header: signature and length of the configuration."""
    return Struct(
        "signature" / Bytes(16),  # 0
        "config_len" / Ints("big", 4).u32,  # 16
    )


@cache
def xl_header(byteorder: ByteOrder) -> Struct:
    """Schema of xl's file header: struct save_file_header, 48 bytes."""
    ints = Ints(byteorder, 4)
    return Struct(
        "magic" / Bytes(32),  # 0
        "byteorder" / ints.u32,  # 32
        "mandatory_flags" / ints.u32,  # 36
        "optional_flags" / ints.u32,  # 40
        "optional_data_len" / ints.u32,  # 44
    )


@cache
def libvirt_header(byteorder: ByteOrder) -> Struct:
    """Schema of the libxl driver's file header: libxlSavefileHeader, 64 bytes."""
    ints = Ints(byteorder, 4)
    return Struct(
        "magic" / Bytes(16),  # 0
        "version" / ints.u32,  # 16
        "xmlLen" / ints.u32,  # 20
        "unused" / Array(10, ints.u32),  # 24
    )


@cache
def libxl_header() -> Struct:
    """Schema of a libxl stream's header: 16 bytes, big-endian whatever follows."""
    ints = Ints("big", 8)
    return Struct(
        "ident" / ints.u64,  # 0
        "version" / ints.u32,  # 8
        "options" / ints.u32,  # 12
    )


@cache
def libxc_header() -> Struct:
    """Schema of a libxc image's header: 24 bytes, big-endian whatever follows."""
    ints = Ints("big", 8)
    return Struct(
        "marker" / ints.u64,  # 0
        "id" / ints.u32,  # 8
        "version" / ints.u32,  # 12
        "options" / ints.u16,  # 16
        "reserved" / Bytes(6),  # 18
    )


@cache
def libxc_domain(byteorder: ByteOrder) -> Struct:
    """Schema of the domain header behind it: 16 bytes."""
    ints = Ints(byteorder, 8)
    return Struct(
        "type" / ints.u32,  # 0
        "page_shift" / ints.u16,  # 4
        "reserved" / ints.u16,  # 6
        "xen_major" / ints.u32,  # 8
        "xen_minor" / ints.u32,  # 12
    )


@cache
def record_header(byteorder: ByteOrder) -> Struct:
    """Schema of a record's header, in libxl and libxc streams: 8 bytes."""
    ints = Ints(byteorder, 8)
    return Struct(
        "type" / ints.u32,  # 0
        "length" / ints.u32,  # 4
    )
