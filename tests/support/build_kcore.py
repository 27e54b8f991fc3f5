# SPDX-License-Identifier: GPL-2.0-or-later
"""Builds files like /proc/kcore, packed by hand: address spaces of several architectures, old kernels, copies."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from . import notes
from .build_elf import EHDR_SIZE, PHDR_SIZE, pack_ehdr, pack_phdr
from .sparse import SparseFile

NOWHERE = None  # p_paddr of what is mapped elsewhere: all ones on the disk


@dataclass(frozen=True)
class Area:
    """One PT_LOAD: a range of kernel addresses. `data` None: its bytes are not put into the file."""

    vaddr: int
    size: int
    paddr: int | None = NOWHERE
    data: bytes | None = None


@dataclass
class KcoreSpec:
    """A kcore to build.

    `offset_base` is subtracted from an address to give its place in the file (PAGE_OFFSET on most architectures);
    `offset_mask` is applied instead where it is set (x86_64). Before both comes `data_start`.
    `size`: cut or extend the file.
    """

    areas: Sequence[Area]
    arch: str = "x86_64"
    order: str | None = None
    offset_base: int = 0
    offset_mask: int | None = None
    data_start: int = 4096
    no_paddr: bool = False  # a kernel before 4.11
    vmcoreinfo: bytes | None = None
    size: int | None = None
    fname: bytes = b"vmlinux"
    name: bytes = b"CORE\0"
    task_size: int = 200  # of the task_struct in the third note


@dataclass
class KcoreImage:
    spec: KcoreSpec
    file: SparseFile
    offsets: list[int]  # p_offset of each area

    def to_bytes(self) -> bytes:
        data = self.file.to_bytes()
        return data if self.spec.size is None else data[: self.spec.size].ljust(self.spec.size, b"\0")


def psinfo(bits: int, order: str, fname: bytes) -> bytes:
    """Pack elf_prpsinfo: state, sname, zomb, nice, flag, uid, gid, 4 ids, fname[16], psargs[80]."""
    if bits == 64:
        head = struct.pack(order + "bbbb4xQ6i", 0, ord("R"), 0, 0, 0, 0, 0, 0, 0, 0, 0)
    else:
        head = struct.pack(order + "bbbbI2H4i", 0, ord("R"), 0, 0, 0, 0, 0, 0, 0, 0, 0)
    return head + fname.ljust(16, b"\0") + b"root=/dev/vda console=ttyS0".ljust(80, b"\0")


def note_area(spec: KcoreSpec) -> bytes:
    """Give the notes: PRSTATUS of nobody, PRPSINFO, the task that reads, VMCOREINFO."""
    facts = notes.ARCHES[spec.arch]
    order = spec.order or facts.order
    out = notes.encode(spec.name, 1, bytes(facts.prstatus_size), order=order)
    out += notes.encode(spec.name, 3, psinfo(facts.bits, order, spec.fname), order=order)
    out += notes.encode(spec.name, 4, bytes(range(1, 251))[: spec.task_size], order=order)
    text = notes.vmcoreinfo_text() if spec.vmcoreinfo is None else spec.vmcoreinfo
    return out + (notes.vmcoreinfo(text, order=order) if text else b"")


def build(spec: KcoreSpec) -> KcoreImage:
    """Build the file; areas are in the order of the kernel's list."""
    facts = notes.ARCHES[spec.arch]
    bits, order = facts.bits, spec.order or facts.order
    file = SparseFile()
    count = 1 + len(spec.areas)
    values = {
        "e_type": 4, "e_machine": facts.machine, "e_version": 1, "e_phoff": EHDR_SIZE[bits],
        "e_ehsize": EHDR_SIZE[bits], "e_phentsize": PHDR_SIZE[bits], "e_phnum": count,
    }  # fmt: skip
    file.put(0, pack_ehdr(bits, order, values))
    area = note_area(spec)
    at = EHDR_SIZE[bits] + count * PHDR_SIZE[bits]
    headers = [{"p_type": 4, "p_offset": at, "p_filesz": len(area)}]
    file.put(at, area)
    if at + len(area) > spec.data_start:
        raise ValueError("the notes do not fit before the memory")
    offsets = []
    for each in spec.areas:
        inside = each.vaddr - spec.offset_base if spec.offset_mask is None else each.vaddr & spec.offset_mask
        offsets.append(inside + spec.data_start)
        paddr = 0 if spec.no_paddr else -1 if each.paddr is None else each.paddr
        headers.append(
            {
                "p_type": 1, "p_flags": 7, "p_offset": offsets[-1], "p_vaddr": each.vaddr, "p_paddr": paddr,
                "p_filesz": each.size, "p_memsz": each.size, "p_align": 4096,
            }
        )  # fmt: skip
        if each.data is not None:
            file.put(offsets[-1], each.data)
    file.put(EHDR_SIZE[bits], b"".join(pack_phdr(bits, order, header) for header in headers))
    return KcoreImage(spec, file, offsets)
