# SPDX-License-Identifier: GPL-2.0-or-later
"""LKCD as an output, versions 8 and 9: for tools that know nothing newer.

    0                header, 734 bytes (v9: 742, with dh_dump_buffer_size at its end)
    dh_header_size   "asm" header: registers of all CPUs, where the architecture has one
    D                records in frame order: address u64, size u32, flags u32, then `size` bytes
                     END record; flag TRUNCATED where pages are missing that should be there

D is 65536, in version 9 more where the registers of many CPUs need it. Source: docs/outputs.md.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from construct import Array, Bytes, Struct
from numpy.typing import NDArray

from ..formats import codecs
from ..formats.errors import OutputError, UsageError
from ..formats.machine import ByteOrder, Machine
from ..formats.notes import NT_PRSTATUS, Note, prstatus_registers
from ..formats.pages import PageState
from ..formats.reader import Finding, Ints
from .encoders import encode_pages
from .output import Contents, EncodedPlan, Move, OutputFormat, Piece, Placer, check_not_empty

__all__ = ["LkcdEncoder", "LkcdOutput", "LkcdPlan", "asm_header", "lkcd_header"]

U64 = NDArray[np.uint64]
MAGIC = 0xA8190173618F23ED
ASM_MAGIC = 0xDEADDEAD
S390_ASM_MAGIC = 0x733339302D64756D  # "s390-dum"
RAW, COMPRESSED, END, TRUNCATED = 1, 2, 4, 8
COMPRESS_NONE, COMPRESS_GZIP = 0, 2
LEVEL_KERNEL, LEVEL_ALL = 0x2, 0x8
FLAGS_DISK = 0x80000000
BUFFER_SIZE = 65536
HEADER_SIZE = {8: 734, 9: 742}
NT_S390_PREFIX = 0x305
_RECORD_SIZE = 16
_S390_CPUS = 512
_UTS_FIELDS = ("sysname", "nodename", "release", "version", "machine", "domainname")


def lkcd_header(byteorder: ByteOrder, version: int) -> Struct:
    """Schema of the generic header of version 8 or 9: packed, the same on all machines."""
    ints = Ints(byteorder, 8)
    fields = [
        "dh_magic_number" / ints.u64,  # 0x00
        "dh_version" / ints.u32,  # 0x08
        "dh_header_size" / ints.u32,  # 0x0c
        "dh_dump_level" / ints.u32,  # 0x10
        "dh_page_size" / ints.u32,  # 0x14
        "dh_memory_size" / ints.u64,  # 0x18
        "dh_memory_start" / ints.u64,  # 0x20
        "dh_memory_end" / ints.u64,  # 0x28
        "dh_num_pages" / ints.u32,  # 0x30
        "dh_panic_string" / Bytes(256),  # 0x34
        "dh_time_sec" / ints.u64,  # 0x134
        "dh_time_usec" / ints.u64,  # 0x13c
        "dh_utsname" / Array(6, Bytes(65)),  # 0x144
        "dh_current_task" / ints.u64,  # 0x2ca
        "dh_dump_compress" / ints.u32,  # 0x2d2
        "dh_dump_flags" / ints.u32,  # 0x2d6
        "dh_dump_device" / ints.u32,  # 0x2da
    ]
    if version >= 9:
        fields.append("dh_dump_buffer_size" / ints.u64)  # 0x2de
    return Struct(*fields)


@dataclass(frozen=True, slots=True)
class _AsmLayout:
    # An architecture's asm header: version, registers of one CPU in words, and how they come from a PRSTATUS.
    version: int
    word: str  # struct letter of a register
    head: int  # bytes of what i386 has before dha_regs: esp and eip
    words: int
    slices: tuple[slice, ...]  # of the elf_gregset words


_ASM = {
    # pt_regs has neither fs nor gs between es and orig_eax
    "i386": _AsmLayout(5, "I", 8, 15, (slice(0, 9), slice(11, 17))),
    "x86_64": _AsmLayout(2, "Q", 0, 21, (slice(0, 21),)),
    "ppc64": _AsmLayout(5, "Q", 0, 44, (slice(0, 44),)),
}


def asm_header(machine: Machine, notes: list[Note]) -> bytes:
    """Return the asm header: the registers of all CPUs that have a PRSTATUS note, in the notes' order.

    On s390x it has the addresses of the CPUs' prefix pages instead. Empty where there is nothing to say, or the
    architecture's layout is not known. Current tasks and stacks are 0: no note has them.
    """
    mark = "<" if machine.byteorder == "little" else ">"
    cpus = [note for note in notes if note.name == b"CORE" and note.type == NT_PRSTATUS]
    if machine.arch == "s390x":
        return _s390_asm_header(notes)
    layout = _ASM.get(machine.arch)
    if layout is None or not cpus:
        return b""
    empty = (0,) * layout.words
    regs = []
    for note in cpus:
        words = prstatus_registers(note, machine.arch, machine.byteorder)
        regs.append(empty if words is None else tuple(word for part in layout.slices for word in words[part]))
    one = struct.Struct(f"{mark}{layout.words}{layout.word}")
    pointers = 3 * len(cpus) * struct.calcsize(mark + layout.word)
    size = 16 + layout.head + one.size + 8 + len(cpus) * one.size + pointers
    head = struct.pack(mark + "QII", ASM_MAGIC, layout.version, size) + bytes(layout.head + one.size)
    counts = struct.pack(mark + "Ii", len(cpus), 0)
    return head + counts + b"".join(one.pack(*words) for words in regs) + bytes(pointers)


def _s390_asm_header(notes: list[Note]) -> bytes:
    prefixes = [
        struct.unpack(">I", note.desc(4))[0] for note in notes if note.type == NT_S390_PREFIX and note.size == 4
    ]
    if not prefixes or len(prefixes) > _S390_CPUS:
        return b""
    size = 20 + 4 * _S390_CPUS
    head = struct.pack(">QIIHH", S390_ASM_MAGIC, 1, size, len(prefixes), len(prefixes))
    return head + struct.pack(f">{_S390_CPUS}I", *prefixes, *[0] * (_S390_CPUS - len(prefixes)))


@dataclass(frozen=True, slots=True)
class LkcdEncoder:
    """Makes records: gzip (zlib streams) or raw. A page that does not shrink stays raw."""

    byteorder: ByteOrder
    page_shift: int
    compress: bool

    def encode(
        self, pfns: U64, pages: list[memoryview], zero: NDArray[np.bool_]
    ) -> tuple[list[bytes | memoryview], NDArray[Any]]:
        """See `Encoder.encode`; there are no rows."""
        mark = "<" if self.byteorder == "little" else ">"
        page_size = 1 << self.page_shift
        heads = np.zeros(
            len(pages), np.dtype([("address", mark + "u8"), ("size", mark + "u4"), ("flags", mark + "u4")])
        )
        heads["address"] = pfns << np.uint64(self.page_shift)
        heads["size"], heads["flags"] = page_size, RAW
        data: list[bytes | memoryview] = list(pages)
        if self.compress:
            data = self._compressed(pages, zero)
            sizes = np.fromiter(map(len, data), np.uint32, len(data))
            heads["size"], heads["flags"] = sizes, np.where(sizes < page_size, COMPRESSED, RAW)
        raw = memoryview(heads.tobytes())
        out: list[bytes | memoryview] = [b""] * (2 * len(pages))
        out[::2] = [raw[at : at + _RECORD_SIZE] for at in range(0, len(raw), _RECORD_SIZE)]
        out[1::2] = data
        return out, np.empty(0, np.uint8)

    def _compressed(self, pages: list[memoryview], zero: NDArray[np.bool_]) -> list[bytes | memoryview]:
        wanted = ~zero
        if zero.any():
            wanted[int(zero.argmax())] = True  # one page of zeros stands for all
        stored = iter(encode_pages(codecs.ZLIB, [pages[index] for index in np.flatnonzero(wanted).tolist()]))
        data: list[bytes | memoryview] = [next(stored) if each else b"" for each in wanted.tolist()]
        blank = data[int(zero.argmax())]
        for index in np.flatnonzero(zero).tolist():
            data[index] = blank
        return [page if len(each) >= len(page) else each for each, page in zip(data, pages, strict=True)]


class LkcdPlan(EncodedPlan):
    """A planned LKCD file.

    Args:
        contents: See `Contents`.
        version: 8 or 9.
        compress: gzip the pages.

    Raises:
        OutputError: The registers do not fit in front of the pages.
    """

    def __init__(self, contents: Contents, version: int, *, compress: bool) -> None:
        machine = self.machine = contents.machine
        if contents.memory_map.end_pfn << machine.page_shift > 1 << 64:
            raise OutputError("memory ends past the 64 bits that a record has for its address")
        self._contents, self._version, self._compress = contents, version, compress
        self.encoder = LkcdEncoder(machine.byteorder, machine.page_shift, compress)
        self.max_page_size = machine.page_size + _RECORD_SIZE
        self._asm = asm_header(machine, contents.notes)
        needed = HEADER_SIZE[version] + len(self._asm)
        self.data_offset = max(BUFFER_SIZE, machine.page_size) if version >= 9 else BUFFER_SIZE
        if version >= 9:
            self.data_offset = max(self.data_offset, -(-needed // BUFFER_SIZE) * BUFFER_SIZE)
        elif needed > BUFFER_SIZE:
            raise OutputError(
                f"headers and registers of all CPUs take {needed} bytes, LKCD version 8 has {BUFFER_SIZE} for them",
                hint="--lkcd-version 9 has room",
            )

    def pieces(self) -> Iterator[Piece]:
        """See `Plan.pieces`."""
        header = self._header()
        yield Piece(0, 0, (header + self._asm).ljust(self.data_offset, b"\0"))

    def _header(self) -> bytes:
        contents, facts, memory_map = self._contents, self._contents.facts, self._contents.memory_map
        known = contents.count(PageState.STORED, PageState.EXCLUDED, PageState.LOST, PageState.DAMAGED)
        # zfcpdump, the one writer on s390x, has bytes there
        memory_size = known << self.machine.page_shift if self.machine.arch == "s390x" else known
        header: bytes = lkcd_header(self.machine.byteorder, self._version).build(
            {
                "dh_magic_number": MAGIC,
                "dh_version": self._version,
                "dh_header_size": HEADER_SIZE[self._version],
                "dh_dump_level": LEVEL_KERNEL if contents.count(PageState.EXCLUDED) else LEVEL_ALL,
                "dh_page_size": self.machine.page_size,
                "dh_memory_size": memory_size,
                "dh_memory_start": 0,
                "dh_memory_end": min(memory_map.end_pfn << self.machine.page_shift, (1 << 64) - 1),
                "dh_num_pages": min(contents.count(PageState.STORED), 0xFFFFFFFF),
                "dh_panic_string": facts.panic_string[:255].ljust(256, b"\0"),
                "dh_time_sec": facts.timestamp,
                "dh_time_usec": 0,
                "dh_utsname": [facts.utsname.get(name, b"")[:64].ljust(65, b"\0") for name in _UTS_FIELDS],
                "dh_current_task": 0,
                "dh_dump_compress": COMPRESS_GZIP if self._compress else COMPRESS_NONE,
                "dh_dump_flags": FLAGS_DISK,
                "dh_dump_device": 0,
                "dh_dump_buffer_size": self.data_offset,
            }
        )
        return header

    def end_record(self) -> bytes:
        """Return the record that ends the file."""
        mark = "<" if self.machine.byteorder == "little" else ">"
        return struct.pack(mark + "QII", 0, 0, END | TRUNCATED * self._contents.incomplete)

    def placer(self) -> Placer:
        """See `EncodedPlan.placer`."""
        return _LkcdPlacer(self)


class _LkcdPlacer(Placer):
    # Records follow one another.

    def __init__(self, plan: LkcdPlan) -> None:
        self._plan = plan
        self._at = plan.data_offset

    def place(self, rows: NDArray[Any], size: int) -> Iterator[Piece | Move]:
        yield Move(0, self._at, 0, size)
        self._at += size

    def finish(self, notes: list[Note]) -> Iterator[Piece]:
        data = self._plan.end_record()
        yield Piece(0, self._at, data)
        self._at += len(data)

    def file_sizes(self) -> list[int]:
        return [self._at]


class LkcdOutput(OutputFormat):
    """LKCD.

    Args:
        version: 8 or 9.
        codec: `codecs.ZLIB` or `codecs.RAW`.

    Raises:
        UsageError: Another version or codec.
    """

    name: ClassVar[str] = "lkcd"

    def __init__(self, version: int = 8, codec: int = codecs.ZLIB) -> None:
        if version not in HEADER_SIZE:
            raise UsageError(f"LKCD version {version} is not written, 8 and 9 are")
        if codec not in (codecs.RAW, codecs.ZLIB):
            raise UsageError(f"LKCD has no {codecs.CODEC_NAMES[codec]} pages, only zlib (-c) and raw ones")
        self._version, self._codec = version, codec

    def plan(self, contents: Contents) -> LkcdPlan:
        """See `OutputFormat.plan`."""
        check_not_empty(contents.memory_map)
        return LkcdPlan(contents, self._version, compress=self._codec == codecs.ZLIB)

    def losses(self, contents: Contents) -> Iterator[Finding]:
        """See `OutputFormat.losses`."""
        yield from super().losses(contents)
        absent = [
            f"{contents.count(state)} {state.name.lower()}"
            for state in (PageState.EXCLUDED, PageState.LOST, PageState.DAMAGED)
            if contents.count(state)
        ]
        if absent:
            yield Finding("states-lost", f"LKCD cannot say why pages are missing: {', '.join(absent)} are in no record")
        if contents.notes:
            kept = bool(asm_header(contents.machine, contents.notes))
            what = "VMCOREINFO and all but the general registers are" if kept else "registers and VMCOREINFO are"
            yield Finding("notes-lost", f"LKCD has no notes: {what} left out")
        facts = contents.facts
        if contents.machine.arch == "x86_64" and (facts.phys_base or facts.kernel_offset):
            options = f"--kaslr={facts.kernel_offset:#x} " if facts.kernel_offset else ""
            yield Finding(
                "crash-options",
                f"nothing in LKCD says where the kernel was loaded: crash {options}-m phys_base={facts.phys_base or 0}",
            )
