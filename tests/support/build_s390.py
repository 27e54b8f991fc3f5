# SPDX-License-Identifier: GPL-2.0-or-later
"""Builds s390 stand-alone dumps, honest or hostile: plain, extended, tape, volumes; packed by hand."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

MAGIC, MAGIC_EXT = 0xA8190173618F23FD, 0xA8190173618F23FE
PAGE = 4096
TOD = 0xD1A2B3C4D5E6F708
END = b"DUMP_END"
STORED = 1 << 31
HEADER = {  # name: (offset, struct code); unaligned from 0x54 on
    "magic": (0x00, "Q"), "version": (0x08, "I"), "hdr_size": (0x0C, "I"), "dump_level": (0x10, "I"),
    "page_size": (0x14, "I"), "mem_size": (0x18, "Q"), "mem_start": (0x20, "Q"), "mem_end": (0x28, "Q"),
    "num_pages": (0x30, "I"), "tod": (0x38, "Q"), "cpu_id": (0x40, "Q"), "arch": (0x48, "I"), "volnr": (0x4C, "I"),
    "build_arch": (0x50, "I"), "mem_size_real": (0x54, "Q"), "mvdump": (0x5C, "B"), "cpu_cnt": (0x5D, "H"),
    "real_cpu_cnt": (0x5F, "H"), "zlib_version_s390": (0x61, "B"), "zlib_entry_size": (0x62, "I"),
    "mvdump_sign": (0x200, "Q"), "mvdump_zipl_time": (0x208, "Q"),
}  # fmt: skip


@dataclass
class Segment:
    """One segment of an extended dump: frames [start, end). `packed`: zlib entries; `as_is`: entries that are not.

    Hostility: `fields` (start, len, stop, size_on_disk, entry_count), `entries[i]` and `payloads[i]` win.
    """

    start: int
    end: int
    packed: bool = False
    as_is: Sequence[int] = ()
    fields: Mapping[str, int] = field(default_factory=dict)
    entries: Mapping[int, int] = field(default_factory=dict)
    payloads: Mapping[int, bytes] = field(default_factory=dict)


@dataclass
class S390Spec:
    """A dump to build; the defaults give what zgetdump writes.

    `nr_pages` frames of storage from 0 on; those not in `pages` are zeros. `segments` makes it extended. `tape`:
    extended magic and plain body. `prefixes` go into lc_vec. `end`: bytes of the end marker. Hostility: `header`,
    `patches` (file offset: bytes) win over all computed.
    """

    nr_pages: int = 12
    pages: Mapping[int, bytes] = field(default_factory=dict, repr=False)  # hypothesis tells its examples
    segments: Sequence[Segment] | None = None
    tape: bool = False
    version: int | None = None
    arch: int = 2
    prefixes: Sequence[int] = ()
    entry_size: int = 8192
    block_size: int = 4096
    tod: int = TOD
    end: bytes | None = None
    header: Mapping[str, int] = field(default_factory=dict)
    patches: Mapping[int, bytes] = field(default_factory=dict)
    trailing: bytes = b""

    @property
    def storage(self) -> bytes:
        return b"".join(self.pages.get(pfn, bytes(PAGE)) for pfn in range(self.nr_pages))

    @property
    def all_pages(self) -> dict[int, bytes]:
        return {pfn: self.pages.get(pfn, bytes(PAGE)) for pfn in range(self.nr_pages)}


def pack_header(spec: S390Spec, **more: int) -> bytes:
    """Give the 4096 bytes of the header."""
    size = spec.nr_pages * PAGE
    extended = spec.segments is not None or spec.tape
    values: dict[str, int] = {
        "magic": MAGIC_EXT if extended else MAGIC, "version": spec.version or (2 if extended else 5),
        "hdr_size": PAGE, "dump_level": 4, "page_size": PAGE, "mem_size": size, "mem_end": size,
        "num_pages": spec.nr_pages, "tod": spec.tod, "cpu_id": 0xFF12345629648000, "arch": spec.arch,
        "build_arch": spec.arch, "mem_size_real": size, "cpu_cnt": len(spec.prefixes),
        "real_cpu_cnt": len(spec.prefixes),
    }  # fmt: skip
    if spec.segments is not None:
        values |= {"zlib_version_s390": 1, "zlib_entry_size": spec.entry_size}
    out = bytearray(PAGE)
    for name, value in (values | more | dict(spec.header)).items():
        offset, code = HEADER[name]
        struct.pack_into(">" + code, out, offset, value)
    struct.pack_into(f">{len(spec.prefixes)}I", out, 0x800, *spec.prefixes)
    return bytes(out)


def end_marker(spec: S390Spec) -> bytes:
    return spec.end if spec.end is not None else END + struct.pack(">Q", spec.tod + (1 << 32))


def _entries(spec: S390Spec, segment: Segment) -> tuple[list[int], bytes]:
    data = spec.storage[segment.start * PAGE : segment.end * PAGE]
    table, out = [], b""
    for number, at in enumerate(range(0, len(data), spec.entry_size)):
        plain = data[at : at + spec.entry_size]
        as_is = number in segment.as_is
        stored = segment.payloads.get(number, plain if as_is else zlib.compress(plain, 1))
        table.append(segment.entries.get(number, len(out) // spec.block_size | (STORED if as_is else 0)))
        out += stored + bytes(-len(stored) % max(PAGE, spec.block_size))
    return table, out


def pack_segment(spec: S390Spec, segment: Segment, *, last: bool) -> bytes:
    """Give header and data of one segment."""
    table, payload = [], spec.storage[segment.start * PAGE : segment.end * PAGE]
    if segment.packed:
        table, payload = _entries(spec, segment)
    values = {
        "start": segment.start * PAGE,
        "len": (segment.end - segment.start) * PAGE,
        "stop": (1 << 64) - 1 if last else 0,
        "size_on_disk": len(payload) // spec.block_size if segment.packed else 0,
        "entry_count": len(table),
    } | dict(segment.fields)
    head = struct.pack(
        ">QQQI20xI", values["start"], values["len"], values["stop"], values["size_on_disk"], values["entry_count"]
    )
    head += struct.pack(f">{len(table)}I", *table)
    return head + bytes(PAGE - len(head)) + payload


def build(spec: S390Spec) -> bytes:
    """Give the file of a single volume."""
    out = bytearray(pack_header(spec))
    if spec.segments is None:
        out += spec.storage
    else:
        for number, segment in enumerate(spec.segments):
            out += pack_segment(spec, segment, last=number == len(spec.segments) - 1)
    out += end_marker(spec) + spec.trailing
    for offset, patch in spec.patches.items():
        out[offset : offset + len(patch)] = patch
    return bytes(out)


def build_volumes(spec: S390Spec, cuts: Sequence[int], *, partition: int | None = None) -> list[bytes]:
    """Give the volumes of a multi-volume dump.

    Args:
        spec: The dump.
        cuts: Extended: how many segments each volume takes; plain: how many pages fit on each.
        partition: Bytes of each extended volume, which the used part is padded to; None: as many as are used.
    """
    volumes = []
    sign = MAGIC if spec.segments is None else MAGIC_EXT
    first = 0
    for number, count in enumerate(cuts):
        values = {"volnr": number, "mvdump": 1, "mvdump_sign": sign, "mvdump_zipl_time": 0x1234, "zlib_entry_size": 0}
        out = pack_header(spec, **values)
        is_last = number == len(cuts) - 1
        if spec.segments is None:
            out += spec.storage[first * PAGE : (first + count) * PAGE]
        else:
            for index in range(first, first + count):
                out += pack_segment(spec, spec.segments[index], last=index == len(spec.segments) - 1)
        if is_last:
            out += end_marker(spec)
        if partition is not None and spec.segments is not None:
            out += b"\xa5" * (partition - len(out))
        volumes.append(out)
        first += count
    return volumes


def unused_volume(magic: int = MAGIC_EXT) -> bytes:
    """Give the 64 KiB with which zipl prepares a volume."""
    return bytes(0x200) + struct.pack(">QQ", magic, 0x1234) + bytes(0x10000 - 0x210)


@dataclass
class Cpu:
    """Registers to put into a lowcore; see `store_status`."""

    gprs: Sequence[int] = tuple(range(0x100, 0x110))
    psw: tuple[int, int] = (0x0704C00180000000, 0x1122334455667788)
    acrs: Sequence[int] = tuple(range(0x200, 0x210))
    ctrs: Sequence[int] = tuple(range(0x300, 0x310))
    fprs: Sequence[int] = tuple(range(0x400, 0x410))
    fpc: int = 0x00880000
    todpreg: int = 0x17
    timer: int = 0x7FFFFFFF12345678
    todcmp: int = 0x00D1A2B3C4D5E6F7
    vector_area: int = 0


def store_status(prefix: int, cpu: Cpu, arch: int = 2) -> bytes:
    """Give a lowcore, 8192 or 4096 bytes, with the registers where the machine stores them."""
    if arch == 1:
        out = bytearray(0x1000)
        struct.pack_into(">QQ", out, 0xD8, cpu.timer, cpu.todcmp)
        struct.pack_into(">III", out, 0x100, *cpu.psw, prefix)
        struct.pack_into(">16I", out, 0x120, *cpu.acrs)
        struct.pack_into(">4Q", out, 0x160, *cpu.fprs[:4])
        struct.pack_into(">16I", out, 0x180, *cpu.gprs)
        struct.pack_into(">16I", out, 0x1C0, *cpu.ctrs)
        return bytes(out)
    out = bytearray(0x2000)
    struct.pack_into(">Q", out, 0x11B0, cpu.vector_area)
    struct.pack_into(">16Q", out, 0x1200, *cpu.fprs)
    struct.pack_into(">16Q", out, 0x1280, *cpu.gprs)
    struct.pack_into(">QQ", out, 0x1300, *cpu.psw)
    struct.pack_into(">II4xI", out, 0x1318, prefix, cpu.fpc, cpu.todpreg)
    struct.pack_into(">QQ", out, 0x1328, cpu.timer, cpu.todcmp)
    struct.pack_into(">16I", out, 0x1340, *cpu.acrs)
    struct.pack_into(">16Q", out, 0x1380, *cpu.ctrs)
    return bytes(out)
