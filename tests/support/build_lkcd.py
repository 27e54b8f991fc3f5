# SPDX-License-Identifier: GPL-2.0-or-later
"""Builds LKCD dumps, honest or hostile, from a description; packed by hand from the format sheet."""

from __future__ import annotations

import os
import random
import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

MAGIC, LIVE_MAGIC = 0xA8190173618F23ED, 0xA8190173618F23CD
RAW, COMPRESSED, END, TRUNCATED = 1, 2, 4, 8
MCLX_V0, MCLX_V1 = 0x80000000, 0x40000000
NONE, RLE, GZIP = 0, 1, 2
UTS_FIELDS = ("sysname", "nodename", "release", "version", "machine", "domainname")
ASM_MAGIC, S390_MAGIC = 0xDEADDEAD, 0x733339302D64756D

# By version and word size: field, offset, struct code (sheet 4.1 to 4.5). Strings have no code.
COMMON = (("dh_magic_number", 0, "Q"), ("dh_version", 8, "I"), ("dh_header_size", 12, "I"),
          ("dh_dump_level", 16, "I"), ("dh_page_size", 20, "I"), ("dh_memory_size", 24, "Q"),
          ("dh_memory_start", 32, "Q"), ("dh_memory_end", 40, "Q"))  # fmt: skip
FIELDS = {
    (1, 32): (("dh_esp", 0x30, "I"), ("dh_eip", 0x34, "I"), ("dh_num_pages", 0x38, "I"), ("tv_sec", 0x13C, "I"),
              ("tv_usec", 0x140, "I"), ("dh_current_task", 0x308, "I")),
    (1, 64): (("dh_esp", 0x30, "I"), ("dh_eip", 0x34, "I"), ("dh_num_pages", 0x38, "I"), ("tv_sec", 0x140, "Q"),
              ("tv_usec", 0x148, "Q"), ("dh_current_task", 0x380, "Q")),
    (2, 32): (("dh_num_pages", 0x30, "I"), ("tv_sec", 0x134, "I"), ("tv_usec", 0x138, "I"),
              ("dh_current_task", 0x2C4, "I")),
    (2, 64): (("dh_num_pages", 0x30, "I"), ("tv_sec", 0x138, "Q"), ("tv_usec", 0x140, "Q"),
              ("dh_current_task", 0x2D0, "Q")),
    (5, 32): (("dh_num_pages", 0x30, "I"), ("tv_sec", 0x134, "I"), ("tv_usec", 0x138, "I"),
              ("dh_current_task", 0x2C4, "I"), ("dh_dump_compress", 0x2C8, "I"), ("dh_dump_flags", 0x2CC, "I"),
              ("dh_dump_device", 0x2D0, "I")),
    (5, 64): (("dh_num_pages", 0x30, "I"), ("tv_sec", 0x138, "Q"), ("tv_usec", 0x140, "Q"),
              ("dh_current_task", 0x2D0, "Q"), ("dh_dump_compress", 0x2D8, "I"), ("dh_dump_flags", 0x2DC, "I"),
              ("dh_dump_device", 0x2E0, "I")),
    (8, 0): (("dh_num_pages", 0x30, "I"), ("tv_sec", 0x134, "Q"), ("tv_usec", 0x13C, "Q"),
             ("dh_current_task", 0x2CA, "Q"), ("dh_dump_compress", 0x2D2, "I"), ("dh_dump_flags", 0x2D6, "I"),
             ("dh_dump_device", 0x2DA, "I")),
    (9, 0): (("dh_num_pages", 0x30, "I"), ("tv_sec", 0x134, "Q"), ("tv_usec", 0x13C, "Q"),
             ("dh_current_task", 0x2CA, "Q"), ("dh_dump_compress", 0x2D2, "I"), ("dh_dump_flags", 0x2D6, "I"),
             ("dh_dump_device", 0x2DA, "I"), ("dh_dump_buffer_size", 0x2DE, "Q")),
}  # fmt: skip
PANIC_OFFSET = {1: 0x3C, 2: 0x34, 5: 0x34, 8: 0x34, 9: 0x34}
UTS_OFFSET = {(1, 32): 0x144, (1, 64): 0x150, (2, 32): 0x13C, (2, 64): 0x148, (5, 32): 0x13C, (5, 64): 0x148,
              (8, 0): 0x144, (9, 0): 0x144}  # fmt: skip
REGS_OFFSET = {32: 0x2CC, 64: 0x2D8}
SIZE = {(1, 32): 780, (1, 64): 904, (2, 32): 712, (2, 64): 728, (5, 32): 724, (5, 64): 744, (8, 0): 734, (9, 0): 742}

# Architecture header: bytes before regs[0], bytes of pt_regs, bytes of a pointer.
ASM = {"i386": (92, 60, 4), "x86_64": (192, 168, 8), "ppc64": (376, 352, 8), "ia64": (504, 448, 8)}


def family(version: int) -> int:
    return 1 if version == 1 else 2 if version < 4 else 5 if version < 8 else 8 if version == 8 else 9


@dataclass
class Record:
    """One page record as it lies in the file; `size` wins over the length of the data."""

    address: int
    data: bytes = b""
    flags: int = RAW
    size: int | None = None

    def pack(self, order: str) -> bytes:
        size = len(self.data) if self.size is None else self.size
        return struct.pack(order + "QII", self.address & (1 << 64) - 1, size, self.flags) + self.data


@dataclass
class Cpu:
    """What the architecture header has of one CPU: pt_regs as words, and three pointers."""

    regs: Sequence[int] = ()
    task: int = 0
    stack: int = 0
    stack_ptr: int = 0


@dataclass
class LkcdSpec:
    """An LKCD dump to build; the defaults give what an x86_64 kernel of SLES9 writes, version 8, gzip.

    `pages` are written in the order of the mapping, or shuffled. `records`, where given, are written instead (any
    bytes). `asm` is the packed architecture header. `header` (field -> value) and `patches` (offset -> bytes, last of
    all, relative to the header) win over everything computed. `end` None: no END record; `tail` follows it.
    """

    pages: Mapping[int, bytes] = field(default_factory=dict, repr=False)
    version: int = 8
    bits: int = 64
    order: str = "<"
    page_size: int = 4096
    unit: int | None = None  # bytes of a record
    compress: int = GZIP
    level: int = 6
    shuffle: int | None = None
    raw: frozenset[int] = frozenset()  # pages stored raw though they would shrink
    records: Sequence[Record] | None = None
    end: Record | None = field(default_factory=lambda: Record(0xDEADBEEF, flags=END))
    tail: bytes = b""
    uts: Mapping[str, str] = field(
        default_factory=lambda: {"sysname": "Linux", "release": "2.6.5", "version": "#1", "machine": "x86_64"}
    )
    panic: bytes = b"Oops\n"
    tv: tuple[int, int] = (1100000000, 5)
    task: int = 0
    start: int = 65536  # of the records, relative to the header
    base: int = 0  # of the header: a dump partition
    live: bool = False
    modifiers: int = 0
    asm: bytes = b""
    regs: bytes = b""  # version 1
    num_pages: int | None = None
    fill: int = 0  # byte between headers and records
    header: Mapping[str, int] = field(default_factory=dict)
    strings: Mapping[str, bytes] = field(default_factory=dict)
    patches: Mapping[int, bytes] = field(default_factory=dict)

    @property
    def key(self) -> tuple[int, int]:
        return family(self.version), 0 if self.version >= 8 else self.bits


@dataclass
class LkcdImage:
    """A built file and where its records lie."""

    spec: LkcdSpec
    data: bytes
    places: list[int]  # file offset of each record's header, END last
    records: list[Record]

    def to_bytes(self) -> bytes:
        return self.data

    def write_to(self, path: str | os.PathLike[str]) -> Path:
        target = Path(path)
        target.write_bytes(self.data)
        return target


_RUN = re.compile(rb"(.)\1{2,255}|\0\0?", re.DOTALL)
_RUN_SHORT = re.compile(rb"(.)\1{2,254}|\0\0?", re.DOTALL)


def rle_encode(page: bytes, more: int = 1) -> bytes:
    """Encode as the kernel does (more = 1: a run of n + 1 bytes says n) or as libkdumpfile's tests (more = 0)."""

    def run(match: re.Match[bytes]) -> bytes:
        length, value = len(match[0]), match[0][:1]
        return b"\0\0" if length == 1 else bytes([0, length - more]) + value

    return (_RUN if more else _RUN_SHORT).sub(run, page)


def compress(page: bytes, method: int, level: int = 6) -> bytes:
    """Encode one page."""
    return {NONE: lambda: page, RLE: lambda: rle_encode(page), GZIP: lambda: zlib.compress(page, level)}[method]()


def page_record(spec: LkcdSpec, address: int, page: bytes) -> Record:
    """A record as the kernel makes it: raw where it would not shrink."""
    method = RLE if spec.version < 5 else spec.compress
    if method != NONE and address // len(page) not in spec.raw:
        stored = compress(page, method, spec.level)
        if len(stored) < len(page):
            return Record(address, stored, COMPRESSED)
    return Record(address, page)


def asm_header(
    arch: str,
    order: str,
    cpus: Sequence[Cpu],
    *,
    version: int,
    slots: int | None = None,
    online: int | None = None,
    dumping: int = 0,
    regs: Sequence[int] = (),
    kernel_addr: int | None = None,
    kernel_addr_first: bool = False,
    size: int | None = None,
) -> bytes:
    """Pack the architecture header: arrays for `slots` CPUs (NR_CPUS of the kernel)."""
    fixed, regs_size, pointer = ASM[arch]
    code = "Q" if pointer == 8 else "I"
    slots = len(cpus) if slots is None else slots
    rows = [*cpus, *[Cpu()] * (slots - len(cpus))]
    has_ptr = not (arch == "ppc64" and version == 1)

    def words(values: Sequence[int]) -> bytes:
        return struct.pack(f"{order}{len(values)}{code}", *values).ljust(regs_size, b"\0")

    out = {"i386": struct.pack(order + "II", 0, 0), "ia64": struct.pack(order + "Q", 0xE000000000000000)}.get(arch, b"")
    out += words(regs)
    if arch == "ia64":
        out += struct.pack(order + "QQQ", 1, 2, 3)
    if slots:
        out += struct.pack(order + "Ii", len(cpus) if online is None else online, dumping)
    for row in rows:
        out += words(row.regs)
    for name in ("task", "stack", "stack_ptr")[: 3 if has_ptr else 2]:
        out += struct.pack(f"{order}{slots}{code}", *(getattr(row, name) for row in rows))
    if kernel_addr is not None:
        extra = struct.pack(order + "Q", kernel_addr)
        out = extra + out if kernel_addr_first else out + extra
    total = 16 + len(out)
    assert not slots or total - (8 if kernel_addr is not None else 0) == fixed + slots * (
        regs_size + pointer * (3 if has_ptr else 2)
    )
    return struct.pack(order + "QII", ASM_MAGIC, version, total if size is None else size) + out


def s390x_header(lowcores: Sequence[int], real: int | None = None) -> bytes:
    """Pack what zfcpdump puts behind the generic header."""
    table = [*lowcores, *[0] * (512 - len(lowcores))]
    return struct.pack(
        ">QIIHH512I", S390_MAGIC, 1, 2068, len(lowcores), len(lowcores) if real is None else real, *table
    )


def pack_header(spec: LkcdSpec, num_pages: int) -> bytes:
    """Pack the generic header, to its size by the version's C struct."""
    key = spec.key
    out = bytearray(SIZE[key])
    values = {
        "dh_magic_number": LIVE_MAGIC if spec.live else MAGIC,
        "dh_version": spec.version | spec.modifiers,
        "dh_header_size": SIZE[key],
        "dh_dump_level": 8,
        "dh_page_size": spec.page_size,
        "dh_memory_size": 0x10000,
        "dh_memory_start": 0xFFFF810000000000,
        "dh_memory_end": MAGIC,
        "dh_num_pages": num_pages,
        "tv_sec": spec.tv[0],
        "tv_usec": spec.tv[1],
        "dh_current_task": spec.task,
        "dh_dump_compress": spec.compress,
        "dh_dump_buffer_size": spec.start,
        **spec.header,
    }
    for name, offset, code in (*COMMON, *FIELDS[key]):
        mask = (1 << 8 * struct.calcsize("=" + code)) - 1
        struct.pack_into(spec.order + code, out, offset, values.get(name, 0) & mask)
    at = PANIC_OFFSET[key[0]]
    panic = spec.strings.get("panic", spec.panic)[:256]
    out[at : at + len(panic)] = panic
    for number, name in enumerate(UTS_FIELDS):
        text = spec.strings.get(name, spec.uts.get(name, "").encode())[:65]
        at = UTS_OFFSET[key] + 65 * number
        out[at : at + len(text)] = text
    if key[0] == 1 and spec.regs:
        at = REGS_OFFSET[spec.bits]
        out[at : at + len(spec.regs)] = spec.regs
    return bytes(out)


def head(spec: LkcdSpec, num_pages: int) -> bytes:
    """Everything before the first record."""
    out = bytes(spec.base) + pack_header(spec, num_pages)
    if spec.modifiers & MCLX_V1:
        out += bytes(32768)
    out += spec.asm
    out = out.ljust(spec.base + spec.start, bytes([spec.fill]))
    assert len(out) == spec.base + spec.start
    return out


def records_of(spec: LkcdSpec) -> Iterator[Record]:
    """The page records, in file order."""
    if spec.records is not None:
        yield from spec.records
        return
    unit = spec.unit or spec.page_size
    parts = [
        (pfn * spec.page_size + at, page[at : at + unit])
        for pfn, page in spec.pages.items()
        for at in range(0, len(page), unit)
    ]
    if spec.shuffle is not None:
        random.Random(spec.shuffle).shuffle(parts)
    for address, part in parts:
        yield page_record(spec, address, part)


def build(spec: LkcdSpec) -> LkcdImage:
    """Build one file in memory."""
    records = list(records_of(spec))
    pages = len(records) if spec.num_pages is None else spec.num_pages
    out = bytearray(head(spec, pages))
    if spec.end is not None:
        records.append(spec.end)
    places = []
    for record in records:
        places.append(len(out))
        out += record.pack(spec.order)
    out += spec.tail
    for offset, patch in spec.patches.items():
        at = spec.base + offset
        out[at : at + len(patch)] = patch
    return LkcdImage(spec, bytes(out), places, records)


def write_large(
    spec: LkcdSpec, pages: Iterable[tuple[int, bytes]], num_pages: int, path: str | os.PathLike[str]
) -> Path:
    """Write a dump of any size page by page."""
    target = Path(path)
    with target.open("wb") as stream:
        stream.write(head(spec, num_pages))
        for pfn, page in pages:
            stream.write(page_record(spec, pfn * spec.page_size, page).pack(spec.order))
        if spec.end is not None:
            stream.write(spec.end.pack(spec.order))
    return target
