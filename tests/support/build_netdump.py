# SPDX-License-Identifier: GPL-2.0-or-later
"""Describes netdump's ELF vmcores for `build_elf`: aligned PT_LOADs, and notes whose names have no NUL."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from . import notes
from .build_elf import ElfSpec, Segment

NT_PRSTATUS, NT_PRPSINFO, NT_TASKSTRUCT, NT_DISKDUMP = 1, 3, 4, 0x70000001
NAME = b"CORE"


@dataclass(frozen=True)
class Kind:
    """What the sheet says of one machine."""

    arch: str
    page_size: int
    page_offset: int  # of the direct map: p_vaddr - p_paddr


KINDS = {
    kind.arch: kind
    for kind in (
        Kind("i386", 4096, 0xC0000000),
        Kind("x86_64", 4096, 0x10000000000),
        Kind("ia64", 16384, 0xE000000000000000),
        Kind("ppc64", 4096, 0xC000000000000000),
    )
}


def netdump_notes(
    arch: str = "x86_64",
    *,
    task: int | None = 0xFFFF888000123000,
    switch_stack: int | None = None,
    dump_level: int | None = None,
    registers: Sequence[int] | None = None,
    pid: int = 7,
    name: bytes = NAME,
) -> bytes:
    """Pack the notes in the writers' order."""
    facts = notes.ARCHES[arch]
    order, word = facts.order, "Q" if facts.bits == 64 else "I"
    mask = (1 << facts.bits) - 1
    state = notes.prstatus_desc(arch, order=order, pid=pid, registers=registers)
    out = notes.encode(name, NT_PRSTATUS, state, order=order)
    info = bytearray(136 if facts.bits == 64 else 124)
    info[1:2] = b"R"
    info[40 if facts.bits == 64 else 28 :][:7] = b"vmlinux"
    out += notes.encode(name, NT_PRPSINFO, bytes(info), order=order)
    if task is not None:
        words = [task & mask] if switch_stack is None else [task & mask, switch_stack & mask]
        out += notes.encode(name, NT_TASKSTRUCT, struct.pack(f"{order}{len(words)}{word}", *words), order=order)
    if dump_level is not None:
        out += notes.encode(name, NT_DISKDUMP, struct.pack(order + "i", dump_level), order=order)
    return out


def segment(arch: str, paddr: int, data: bytes, **more: object) -> Segment:
    """Describe one PT_LOAD."""
    kind = KINDS[arch]
    values: dict[str, object] = {"vaddr": kind.page_offset + paddr, "align": kind.page_size}
    return Segment(paddr, data, **(values | more))  # type: ignore[arg-type]


def spec(arch: str, segments: Sequence[Segment], **more: object) -> ElfSpec:
    """Describe a whole file."""
    facts = notes.ARCHES[arch]
    values: dict[str, object] = {
        "segments": segments,
        "bits": facts.bits,
        "order": facts.order,
        "machine": facts.machine,
        "page_size": KINDS[arch].page_size,
        "notes": netdump_notes(arch),
    }
    return ElfSpec(**(values | more))  # type: ignore[arg-type]
