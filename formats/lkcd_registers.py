# SPDX-License-Identifier: GPL-2.0-or-later
"""Registers in LKCD dumps: the architecture's own header behind the generic one, and NT_PRSTATUS notes from it.

From version 2 on a second header holds pt_regs of the dumping CPU and arrays for all CPUs; of s390x the addresses
of lowcores, which hold the registers. Sheet: docs/formats/lkcd.md.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

from construct import Array, Struct

from .errors import CorruptDump, DumpError
from .image import MemoryImage
from .lkcd_layout import Header
from .machine import ByteOrder
from .notes import Note
from .prstatus import prstatus_note
from .reader import Ints, parse
from .s390_registers import VECTOR_SIZE, cpu_notes, parse_lowcore, vector_area
from .source import ByteSource

__all__ = ["AsmHeader", "asm_header", "lowcore_registers", "prstatus_notes", "read_asm_header", "version1_notes"]

MAGIC = 0xDEADDEAD
S390_MAGIC = 0x733339302D64756D
_SAVE_AREAS = 0x1000  # of a lowcore: its second half has them
_MAX_CPUS = 8192  # crash's limit on x86_64


class _Arch(NamedTuple):
    # pt_regs: bytes, words of it that have a place in elf_gregset_t; arrays of u64 or u32 behind the registers
    regs_size: int
    word_size: int
    fixed: int  # bytes before regs[0]
    nr_words: int
    has_notes: bool = True


_ARCHES = {
    "i386": _Arch(60, 4, 92, 15),
    "x86_64": _Arch(168, 8, 192, 21),
    "ppc64": _Arch(352, 8, 376, 44),
    "ia64": _Arch(448, 8, 504, 0, has_notes=False),
}


@dataclass(frozen=True, slots=True)
class AsmHeader:
    """The architecture's header.

    Attributes:
        version, size: Its own.
        nr_cpus: CPUs that were online; 0 where it does not say.
        dumping_cpu: Number of the CPU that wrote the dump.
        registers: pt_regs of each CPU as words, empty where all are zero.
        dumping_registers: pt_regs of the dumping CPU (dha_regs), empty where zero.
        current_task, stack, stack_ptr: Of each CPU; `stack` is a copy made at dump time.
        lowcores: s390x: absolute addresses.
        kernel_addr: ia64: where the kernel was loaded, None where not known.
    """

    version: int
    size: int
    nr_cpus: int = 0
    dumping_cpu: int = 0
    registers: list[tuple[int, ...]] = field(default_factory=list)
    dumping_registers: tuple[int, ...] = ()
    current_task: list[int] = field(default_factory=list)
    stack: list[int] = field(default_factory=list)
    stack_ptr: list[int] = field(default_factory=list)
    lowcores: list[int] = field(default_factory=list)
    kernel_addr: int | None = None


@cache
def asm_header(byteorder: ByteOrder, arch: str, nr_cpus: int, *, stack_ptr: bool = True) -> Struct:
    """Schema of _dump_header_asm up to the arrays, which hold `nr_cpus` entries; 0: up to dha_regs (i386 v1)."""
    what = _ARCHES[arch]
    ints = Ints(byteorder, what.word_size)
    word = ints.ulong
    regs = Array(what.regs_size // what.word_size, word)
    fields: list[Any] = [
        "dha_magic_number" / ints.u64,  # 0x00
        "dha_version" / ints.u32,  # 0x08
        "dha_header_size" / ints.u32,  # 0x0c
    ]
    if arch == "i386":
        fields += ["dha_esp" / ints.u32, "dha_eip" / ints.u32]  # 0x10
    if arch == "ia64":
        fields.append("dha_pt_regs" / ints.u64)  # 0x10, a pointer
    fields.append("dha_regs" / regs)
    if arch == "ia64":
        fields += ["dha_rnat" / ints.u64, "dha_pfs" / ints.u64, "dha_bspstore" / ints.u64]  # 0x1d8
    if nr_cpus:
        fields += [
            "dha_smp_num_cpus" / ints.u32,
            "dha_dumping_cpu" / ints.s32,
            "dha_smp_regs" / Array(nr_cpus, regs),
            "dha_smp_current_task" / Array(nr_cpus, word),
            "dha_stack" / Array(nr_cpus, word),
            *(["dha_stack_ptr" / Array(nr_cpus, word)] if stack_ptr else []),
        ]
    return Struct(*fields)


@cache
def _s390x_header() -> Struct:
    ints = Ints("big", 8)
    return Struct(
        "magic" / ints.u64,  # 0x00
        "version" / ints.u32,  # 0x08
        "size" / ints.u32,  # 0x0c
        "cpu_cnt" / ints.u16,  # 0x10
        "real_cpu_cnt" / ints.u16,  # 0x12
        "lowcore_address" / Array(512, ints.u32),  # 0x14, 2068 bytes
    )


def read_asm_header(source: ByteSource, header: Header, end_offset: int) -> AsmHeader | None:
    """Read the architecture's header.

    Args:
        header: The generic header.
        end_offset: Where the page records begin; the header lies before.

    Returns:
        None where there is none, or none that we know.

    Raises:
        CorruptDump: It contradicts itself.
    """
    for offset in header.asm_offsets:
        if offset < header.base or offset + 16 > end_offset or not source.ensure(offset, offset + 16):
            continue
        raw = source.pread(offset, 16)
        magic, version, size = struct.unpack("<QII" if header.byteorder == "little" else ">QII", raw)
        if magic == MAGIC and header.arch.name in _ARCHES:
            return _read(source, header, offset, version, size, end_offset)
        if magic == S390_MAGIC and header.arch.name == "s390x":
            return _read_s390x(source, offset, version, end_offset)
    return None


def _read(source: ByteSource, header: Header, offset: int, version: int, size: int, end_offset: int) -> AsmHeader:
    name = header.arch.name
    what = _ARCHES[name]
    has_stack_ptr = not (name == "ppc64" and version == 1)
    per_cpu = what.regs_size + what.word_size * (3 if has_stack_ptr else 2)
    short = what.fixed - 8  # what ends with dha_regs
    if size < short or offset + size > end_offset:
        raise CorruptDump(
            f"dha_header_size {size}: {short} is the least, {end_offset - offset} fit before the pages",
            path=source.name,
            offset=offset + 12,
        )
    # the arrays are as long as the kernel's NR_CPUS, which nothing but the size tells
    nr_cpus = max(0, size - what.fixed) // per_cpu
    if nr_cpus > _MAX_CPUS:
        raise CorruptDump(f"registers of {nr_cpus} CPUs; {_MAX_CPUS} is the most", path=source.name, offset=offset)
    schema = asm_header(header.byteorder, name, nr_cpus, stack_ptr=has_stack_ptr)
    shift = _kernel_addr_first(source, header, offset, version)
    raw = parse(schema, source, offset + shift, "architecture header")
    kernel_addr = None
    if name == "ia64" and version >= 5:
        place = offset + 16 if shift else offset + schema.sizeof()
        if place + 8 <= end_offset:
            kernel_addr = int.from_bytes(source.pread(place, 8), header.byteorder)
    if not nr_cpus:
        return AsmHeader(version, size, dumping_registers=_words(raw.dha_regs), kernel_addr=kernel_addr)
    return AsmHeader(
        version,
        size,
        nr_cpus=raw.dha_smp_num_cpus,
        dumping_cpu=raw.dha_dumping_cpu,
        registers=[_words(each) for each in raw.dha_smp_regs],
        dumping_registers=_words(raw.dha_regs),
        current_task=list(raw.dha_smp_current_task),
        stack=list(raw.dha_stack),
        stack_ptr=list(raw.dha_stack_ptr) if has_stack_ptr else [],
        kernel_addr=kernel_addr,
    )


def _kernel_addr_first(source: ByteSource, header: Header, offset: int, version: int) -> int:
    # ia64 version 5 comes in two layouts of one size: dha_kernel_addr last, or (a patch of 2005) first, which moves
    # all by 8 bytes. There lies then a small physical address, in the other layout a kernel pointer or 0.
    if header.arch.name != "ia64" or version < 5 or offset + 24 > source.size:
        return 0
    first = int.from_bytes(source.pread(offset + 16, 8), header.byteorder)
    return 8 if 0 < first < 1 << 50 else 0


def _read_s390x(source: ByteSource, offset: int, version: int, end_offset: int) -> AsmHeader:
    if offset + _s390x_header().sizeof() > end_offset:
        raise CorruptDump("the list of lowcores reaches into the pages", path=source.name, offset=offset)
    raw = parse(_s390x_header(), source, offset, "architecture header")
    if raw.cpu_cnt > 512:
        raise CorruptDump(f"cpu_cnt {raw.cpu_cnt}; 512 is the most", path=source.name, offset=offset + 0x10)
    return AsmHeader(version, raw.size, nr_cpus=raw.real_cpu_cnt, lowcores=list(raw.lowcore_address[: raw.cpu_cnt]))


def _words(values: Sequence[int]) -> tuple[int, ...]:
    return tuple(values) if any(values) else ()


def prstatus_notes(asm: AsmHeader, arch: str, byteorder: ByteOrder) -> list[Note]:
    """Return a PRSTATUS note for each CPU up to the last with registers; note i is CPU i, gaps are zero."""
    if arch not in _ARCHES or not _ARCHES[arch].has_notes:
        return []
    cpus = list(asm.registers)
    if asm.dumping_registers:
        cpu = asm.dumping_cpu if 0 <= asm.dumping_cpu < max(1, len(cpus)) else 0
        cpus += [()] * (cpu + 1 - len(cpus))
        cpus[cpu] = cpus[cpu] or asm.dumping_registers
    while cpus and not cpus[-1]:
        cpus.pop()
    return [prstatus_note(arch, byteorder, _gregset(arch, words)) for words in cpus]


def _gregset(arch: str, words: tuple[int, ...]) -> tuple[int, ...]:
    # pt_regs in the order of elf_gregset_t; what pt_regs does not have at the end is left out
    if arch == "i386" and words:
        return (*words[:9], 0, 0, *words[9:])  # fs and gs
    return words


def version1_notes(header: Header) -> list[Note]:
    """Return the one PRSTATUS note that a version 1 header has registers for."""
    if not any(header.registers):
        return []
    what = _ARCHES[header.arch.name]
    mark = "<" if header.byteorder == "little" else ">"
    words = struct.unpack(f"{mark}{what.nr_words}{'Q' if what.word_size == 8 else 'I'}", header.registers)
    return [prstatus_note(header.arch.name, header.byteorder, _gregset(header.arch.name, words))]


def lowcore_registers(asm: AsmHeader, image: MemoryImage) -> tuple[list[Note], list[str]]:
    """Return the notes of s390x CPUs from their lowcores, and what could not be had.

    A CPU whose lowcore is not in the dump keeps its place: a PRSTATUS of zeros.
    """
    notes, missing = [], []
    for number, address in enumerate(asm.lowcores):
        try:
            lowcore = bytes(_SAVE_AREAS) + image.read_physical(address + _SAVE_AREAS, _SAVE_AREAS)
        except DumpError as error:
            missing.append(f"lowcore of CPU {number} at {address:#x}: {error.message}")
            notes.append(prstatus_note("s390x", "big", (), number + 1))
            continue
        vectors, place = None, vector_area(lowcore)
        if place is not None:
            try:
                vectors = image.read_physical(place, VECTOR_SIZE)
            except DumpError as error:
                missing.append(f"vector registers of CPU {number} at {place:#x}: {error.message}")
        notes += cpu_notes("s390x", parse_lowcore("s390x", lowcore, vectors), number + 1)
    return notes, missing
