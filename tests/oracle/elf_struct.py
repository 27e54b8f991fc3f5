# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads an ELF core's headers and notes with struct alone (docs/formats/elf.md section 1), sharing no code with us."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

PT_LOAD, PT_NOTE = 1, 4
PN_XNUM = 0xFFFF
PHDR_SIZE = {32: 32, 64: 56}
EHDR_SIZE = {32: 52, 64: 64}
MAX_NOTES = 1 << 28  # bytes; no real note segment comes near


@dataclass(frozen=True)
class Phdr:
    """One program header, in file order."""

    p_type: int
    p_offset: int
    p_vaddr: int
    p_paddr: int
    p_filesz: int
    p_memsz: int
    p_flags: int
    p_align: int


@dataclass(frozen=True)
class Note:
    """One ELF note; `offset` is where its header begins in the file."""

    name: bytes
    type: int
    desc: bytes
    offset: int

    @property
    def key(self) -> tuple[bytes, int, bytes]:
        return self.name, self.type, self.desc


@dataclass(frozen=True)
class Core:
    """An ELF core file's headers and notes."""

    path: Path
    size: int
    bits: int
    order: str
    e_machine: int
    e_flags: int
    e_phoff: int
    phdrs: tuple[Phdr, ...]
    notes: tuple[Note, ...]
    headers_end: int  # end of the program headers and of section header 0 if there is one

    @property
    def loads(self) -> list[Phdr]:
        return [phdr for phdr in self.phdrs if phdr.p_type == PT_LOAD]

    @property
    def vmcoreinfo(self) -> bytes:
        return next((note.desc for note in self.notes if note.name == b"VMCOREINFO\0"), b"")

    @property
    def page_size(self) -> int:
        return int(lines_of(self.vmcoreinfo).get("PAGESIZE", "4096"))


def lines_of(vmcoreinfo: bytes) -> dict[str, str]:
    """The KEY=value lines of a VMCOREINFO text; the first of a kind wins."""
    found: dict[str, str] = {}
    for line in vmcoreinfo.decode("latin-1").split("\n"):
        key, equals, value = line.partition("=")
        if equals:
            found.setdefault(key, value)
    return found


def read_core(path: Path) -> Core:
    """Parse headers and notes; raises struct.error or ValueError on what is no ELF core."""
    with open(path, "rb") as stream:
        head = stream.read(64)
        if head[:4] != b"\x7fELF":
            raise ValueError(f"{path}: not ELF")
        bits, order = {1: 32, 2: 64}[head[4]], {1: "<", 2: ">"}[head[5]]
        fields = struct.unpack_from(order + ("HHIIIIIHHHHHH" if bits == 32 else "HHIQQQIHHHHHH"), head, 16)
        _, machine, _, _, phoff, shoff, flags, _, phentsize, phnum, _, _, _ = fields
        headers_end = phoff
        if phnum == PN_XNUM:
            stream.seek(shoff + (28 if bits == 32 else 44))
            phnum = struct.unpack(order + "I", stream.read(4))[0]
            headers_end = shoff + (40 if bits == 32 else 64)
        stream.seek(phoff)
        table = stream.read(phnum * phentsize)
        phdrs = tuple(_phdr(table, at, bits, order) for at in range(0, phnum * phentsize, phentsize))
        size = stream.seek(0, 2)
        notes: list[Note] = []
        for phdr in phdrs:
            if phdr.p_type == PT_NOTE:
                stream.seek(phdr.p_offset)
                notes += parse_notes(stream.read(min(phdr.p_filesz, MAX_NOTES)), order, phdr.p_offset)
    headers_end = max(headers_end, phoff + phnum * phentsize)
    return Core(Path(path), size, bits, order, machine, flags, phoff, phdrs, tuple(notes), headers_end)


def _phdr(table: bytes, at: int, bits: int, order: str) -> Phdr:
    if bits == 64:
        kind, flags, *rest = struct.unpack_from(order + "II6Q", table, at)
        offset, vaddr, paddr, filesz, memsz, align = rest
    else:
        kind, offset, vaddr, paddr, filesz, memsz, flags, align = struct.unpack_from(order + "8I", table, at)
    return Phdr(kind, offset, vaddr, paddr, filesz, memsz, flags, align)


def parse_notes(area: bytes, order: str, base: int = 0) -> list[Note]:
    """The notes of a note segment (4-byte padding); all-zero headers are padding of old kernels and are left out."""
    notes = []
    at = 0
    while at + 12 <= len(area):
        namesz, descsz, kind = struct.unpack_from(order + "III", area, at)
        name_at = at + 12
        desc_at = name_at + (namesz + 3 & ~3)
        if namesz or descsz or kind:
            notes.append(Note(area[name_at : name_at + namesz], kind, area[desc_at : desc_at + descsz], base + at))
        at = desc_at + (descsz + 3 & ~3)
    return notes


def all_ones(core: Core) -> int:
    return (1 << core.bits) - 1


def paged(load: Phdr, page_size: int) -> tuple[int, int]:
    """The frames that the stored bytes of a segment touch: start and end, end exclusive."""
    if not load.p_filesz:
        return 0, 0
    return load.p_paddr // page_size, -(-(load.p_paddr + load.p_filesz) // page_size)


def union(runs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sort runs, drop empty ones and join those that touch or overlap."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(run for run in runs if run[0] < run[1]):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


def intersect(left: list[tuple[int, int]], right: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The frames in both; both sorted and disjoint."""
    common = []
    i = j = 0
    while i < len(left) and j < len(right):
        start, end = max(left[i][0], right[j][0]), min(left[i][1], right[j][1])
        if start < end:
            common.append((start, end))
        if left[i][1] <= right[j][1]:
            i += 1
        else:
            j += 1
    return common


def subtract(left: list[tuple[int, int]], right: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The frames of `left` that are not in `right`; both sorted and disjoint."""
    rest = []
    for start, end in left:
        at = start
        for other_start, other_end in _overlapping(right, start, end):
            if at < other_start:
                rest.append((at, other_start))
            at = max(at, other_end)
        if at < end:
            rest.append((at, end))
    return rest


def _overlapping(runs: list[tuple[int, int]], start: int, end: int) -> list[tuple[int, int]]:
    from bisect import bisect_left

    low = bisect_left(runs, (start, start))
    low = max(0, low - 1)
    found = []
    for other in runs[low:]:
        if other[0] >= end:
            break
        if other[1] > start:
            found.append(other)
    return found


def count(runs: list[tuple[int, int]]) -> int:
    return sum(end - start for start, end in runs)
