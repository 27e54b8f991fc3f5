# SPDX-License-Identifier: GPL-2.0-or-later
"""Builds ELF vmcores, honest or hostile, from a description; packed by hand from the format sheet."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .sparse import SparseFile

PT_LOAD, PT_NOTE = 1, 4
PN_XNUM = 0xFFFF
ALL_ONES = {32: (1 << 32) - 1, 64: (1 << 64) - 1}
EHDR_SIZE = {32: 52, 64: 64}
PHDR_SIZE = {32: 32, 64: 56}
SHDR_SIZE = {32: 40, 64: 64}
EHDR_FIELDS = (
    "e_type", "e_machine", "e_version", "e_entry", "e_phoff", "e_shoff", "e_flags", "e_ehsize", "e_phentsize",
    "e_phnum", "e_shentsize", "e_shnum", "e_shstrndx",
)  # fmt: skip
EHDR_CODE = {32: "HHIIIIIHHHHHH", 64: "HHIQQQIHHHHHH"}
PHDR_FIELDS = {
    32: ("p_type", "p_offset", "p_vaddr", "p_paddr", "p_filesz", "p_memsz", "p_flags", "p_align"),
    64: ("p_type", "p_flags", "p_offset", "p_vaddr", "p_paddr", "p_filesz", "p_memsz", "p_align"),
}
PHDR_CODE = {32: "8I", 64: "II6Q"}
SHDR_CODE = {32: "10I", 64: "IIQQQQIIQQ"}
SHSTRTAB = b"\0.shstrtab\0"


@dataclass
class Segment:
    """One program header and its bytes.

    `memsz` beyond the data makes a tail. `same_as` points at the bytes of another segment (index into `segments`,
    byte offset) instead of having its own. `fields` (p_offset, p_filesz, ...) win over everything computed.
    """

    paddr: int
    data: bytes = b""
    vaddr: int | None = None  # None = paddr
    memsz: int | None = None
    type: int = PT_LOAD
    flags: int = 7
    align: int = 0
    same_as: tuple[int, int] | None = None
    same_size: int = 0
    fields: Mapping[str, int] = field(default_factory=dict)

    @property
    def filesz(self) -> int:
        return self.same_size if self.same_as else len(self.data)


@dataclass
class ElfSpec:
    """An ELF vmcore to build; the defaults give what the kernel's /proc/vmcore looks like.

    `notes` is one PT_NOTE, or several when it is a list; `notes_last` puts their headers after the PT_LOADs,
    `notes_at_end` their bytes after the memory. `phoff` moves the program headers. `qemu` lays the file out as
    QEMU >= 7.2: section table after the Ehdr, program headers behind it, e_ehsize 8, string table at the end.
    `xnum` True forces PN_XNUM, None uses it from 65535 headers on. `placement`: "page" keeps p_offset congruent to
    p_paddr, "packed" puts the data back to back (makedumpfile -E).
    """

    segments: Sequence[Segment] = ()
    notes: bytes | Sequence[bytes] = b""
    bits: int = 64
    order: str = "<"
    machine: int = 62
    e_flags: int = 0
    page_size: int = 4096
    placement: str = "page"
    phoff: int | None = None
    phentsize: int | None = None
    qemu: bool = False
    xnum: bool | None = None
    xnum_shnum: int = 1
    notes_last: bool = False
    notes_at_end: bool = False
    note_align: int = 0
    ident: Mapping[int, int] = field(default_factory=dict)  # byte index in e_ident -> value
    ehdr: Mapping[str, int] = field(default_factory=dict)
    section0: Mapping[str, int] = field(default_factory=dict)  # sh_info, sh_size, sh_type
    patches: Mapping[int, bytes] = field(default_factory=dict)


@dataclass
class ElfImage:
    """A built file and where its parts lie."""

    spec: ElfSpec
    file: SparseFile
    phoff: int
    headers: list[dict[str, int]]  # every program header, in file order
    load_headers: list[int]  # index of the program header of each segment
    note_offsets: list[int]

    def to_bytes(self) -> bytes:
        return self.file.to_bytes()

    def write_to(self, path: str | os.PathLike[str]) -> Path:
        return self.file.write_to(path)


def pack_ehdr(bits: int, order: str, values: Mapping[str, int], ident: Mapping[int, int] | None = None) -> bytes:
    """Pack an ELF header; missing fields are zero."""
    start = bytearray(b"\x7fELF" + bytes([1 if bits == 32 else 2, 1 if order == "<" else 2, 1]) + bytes(9))
    for index, value in (ident or {}).items():
        start[index] = value
    return bytes(start) + struct.pack(order + EHDR_CODE[bits], *(values.get(name, 0) for name in EHDR_FIELDS))


def pack_phdr(bits: int, order: str, values: Mapping[str, int]) -> bytes:
    """Pack a program header; values are cut to the field's width."""
    mask = ALL_ONES[bits]
    return struct.pack(order + PHDR_CODE[bits], *(values.get(name, 0) & mask for name in PHDR_FIELDS[bits]))


def pack_shdr(bits: int, order: str, values: Mapping[str, int]) -> bytes:
    """Pack a section header."""
    names = (
        "sh_name", "sh_type", "sh_flags", "sh_addr", "sh_offset", "sh_size", "sh_link", "sh_info", "sh_addralign",
        "sh_entsize",
    )  # fmt: skip
    return struct.pack(order + SHDR_CODE[bits], *(values.get(name, 0) for name in names))


def build(spec: ElfSpec) -> ElfImage:
    """Build the file."""
    file = SparseFile()
    bits = spec.bits
    note_blobs = [spec.notes] if isinstance(spec.notes, bytes) else list(spec.notes)
    count = len(note_blobs) + len(spec.segments)
    phentsize = PHDR_SIZE[bits] if spec.phentsize is None else spec.phentsize
    stride = max(phentsize, PHDR_SIZE[bits])
    use_xnum = spec.xnum if spec.xnum is not None else count >= PN_XNUM
    nr_sections = 2 if spec.qemu else (1 if use_xnum else 0)
    phoff, shoff = _places(spec, nr_sections)
    position = phoff + stride * count
    if nr_sections and not spec.qemu:
        shoff = position
        position += SHDR_SIZE[bits]

    note_offsets: list[int] = []
    if not spec.notes_at_end:
        position = _put_notes(file, spec, note_blobs, position, note_offsets)
    offsets, position = _put_segments(file, spec, position)
    if spec.notes_at_end:
        position = _put_notes(file, spec, note_blobs, position, note_offsets)

    headers = _program_headers(spec, note_blobs, note_offsets, offsets)
    table = b"".join(pack_phdr(bits, spec.order, header).ljust(stride, b"\0") for header in headers)
    file.put(phoff, table, "phdrs")
    if nr_sections:
        _put_sections(file, spec, shoff, position, count if use_xnum else 0)
    values = {
        "e_type": 4,
        "e_machine": spec.machine,
        "e_version": 1,
        "e_phoff": phoff,
        "e_shoff": shoff if nr_sections else 0,
        "e_flags": spec.e_flags,
        "e_ehsize": 8 if spec.qemu else EHDR_SIZE[bits],
        "e_phentsize": phentsize,
        "e_phnum": PN_XNUM if use_xnum else count,
        "e_shentsize": SHDR_SIZE[bits] if nr_sections else 0,
        "e_shnum": spec.xnum_shnum if use_xnum and not spec.qemu else nr_sections,
        "e_shstrndx": 1 if spec.qemu else 0,
        **spec.ehdr,
    }
    file.put(0, pack_ehdr(bits, spec.order, values, spec.ident), "ehdr")
    for offset, patch in spec.patches.items():
        file.put(offset, patch, "patch")
    first = 0 if spec.notes_last else len(note_blobs)
    load_headers = list(range(first, first + len(spec.segments)))
    return ElfImage(spec, file, phoff, headers, load_headers, note_offsets)


def _places(spec: ElfSpec, nr_sections: int) -> tuple[int, int]:
    # Offsets of the program headers and of the section table as QEMU places it.
    ehdr = EHDR_SIZE[spec.bits]
    if spec.qemu:
        shoff = ehdr
        return (ehdr + nr_sections * SHDR_SIZE[spec.bits] if spec.phoff is None else spec.phoff), shoff
    return (ehdr if spec.phoff is None else spec.phoff), 0


def _put_notes(file: SparseFile, spec: ElfSpec, blobs: Sequence[bytes], position: int, offsets: list[int]) -> int:
    for blob in blobs:
        position = -(-position // 4) * 4
        offsets.append(position)
        position = file.put(position, blob, "notes")
    return position


def _put_segments(file: SparseFile, spec: ElfSpec, position: int) -> tuple[list[int], int]:
    offsets: list[int] = []
    for segment in spec.segments:
        if segment.same_as:
            index, inside = segment.same_as
            offsets.append(-1 if index >= len(offsets) else offsets[index] + inside)
            continue
        if not segment.data:
            offsets.append(0)
            continue
        if spec.placement == "page":
            position += (segment.paddr - position) % spec.page_size
        offsets.append(position)
        position = file.put(position, segment.data, "data")
    for number, segment in enumerate(spec.segments):
        if segment.same_as and offsets[number] < 0:
            offsets[number] = offsets[segment.same_as[0]] + segment.same_as[1]
    return offsets, position


def _program_headers(
    spec: ElfSpec, blobs: Sequence[bytes], note_offsets: Sequence[int], offsets: Sequence[int]
) -> list[dict[str, int]]:
    notes = [
        {"p_type": PT_NOTE, "p_offset": offset, "p_filesz": len(blob), "p_memsz": len(blob), "p_align": spec.note_align}
        for blob, offset in zip(blobs, note_offsets, strict=True)
    ]
    loads = [
        {
            "p_type": segment.type,
            "p_flags": segment.flags,
            "p_offset": offset,
            "p_vaddr": segment.paddr if segment.vaddr is None else segment.vaddr,
            "p_paddr": segment.paddr,
            "p_filesz": segment.filesz,
            "p_memsz": segment.filesz if segment.memsz is None else segment.memsz,
            "p_align": segment.align,
            **segment.fields,
        }
        for segment, offset in zip(spec.segments, offsets, strict=True)
    ]
    return loads + notes if spec.notes_last else notes + loads


def _put_sections(file: SparseFile, spec: ElfSpec, shoff: int, end: int, xnum: int) -> None:
    null = {"sh_size": 0 if spec.qemu else 1, "sh_info": xnum, **spec.section0}
    table = pack_shdr(spec.bits, spec.order, null)
    if spec.qemu:
        strings = {"sh_name": 1, "sh_type": 3, "sh_offset": end, "sh_size": len(SHSTRTAB)}
        table += pack_shdr(spec.bits, spec.order, strings)
        file.put(end, SHSTRTAB, "shstrtab")
    file.put(shoff, table, "shdrs")
