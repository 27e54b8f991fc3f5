# SPDX-License-Identifier: GPL-2.0-or-later
"""ELF notes of kernel dumps, packed by hand: PRSTATUS of every architecture, VMCOREINFO, QEMU, ERASEINFO."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Arch:
    """What the sheet says of one architecture (docs/formats/elf.md, sections 1 and 6)."""

    name: str
    machine: int
    bits: int
    order: str  # usual byte order, "<" or ">"
    prstatus_size: int
    regs_offset: int
    regs_size: int
    uts_machine: str


ARCHES: dict[str, Arch] = {
    arch.name: arch
    for arch in (
        Arch("i386", 3, 32, "<", 144, 72, 68, "i686"),
        Arch("x86_64", 62, 64, "<", 336, 112, 216, "x86_64"),
        Arch("arm", 40, 32, "<", 148, 72, 72, "armv7l"),
        Arch("aarch64", 183, 64, "<", 392, 112, 272, "aarch64"),
        Arch("ppc", 20, 32, ">", 268, 72, 192, "ppc"),
        Arch("ppc64", 21, 64, ">", 504, 112, 384, "ppc64"),
        Arch("ppc64le", 21, 64, "<", 504, 112, 384, "ppc64le"),
        Arch("s390x", 22, 64, ">", 336, 112, 216, "s390x"),
        Arch("ia64", 50, 64, "<", 1144, 112, 1024, "ia64"),
        Arch("riscv64", 243, 64, "<", 376, 112, 256, "riscv64"),
        Arch("loongarch64", 258, 64, "<", 480, 112, 360, "loongarch64"),
        Arch("mips64", 8, 64, ">", 480, 112, 360, "mips64"),
        Arch("mips", 8, 32, ">", 256, 72, 180, "mips"),
    )
}


def encode(
    name: bytes,
    note_type: int,
    desc: bytes,
    *,
    order: str = "<",
    align: int = 4,
    namesz: int | None = None,
    descsz: int | None = None,
) -> bytes:
    """Pack one note; `name` holds its NULs, `namesz` and `descsz` override the honest sizes."""
    header = struct.pack(
        order + "III",
        len(name) if namesz is None else namesz,
        len(desc) if descsz is None else descsz,
        note_type,
    )
    return header + name + bytes(-len(name) % align) + desc + bytes(-len(desc) % align)


def prstatus_desc(
    arch: str, *, order: str | None = None, pid: int = 1, registers: Sequence[int] | None = None
) -> bytes:
    """Pack a PRSTATUS descriptor; registers default to 0x1000 * pid + index."""
    facts = ARCHES[arch]
    order = order or facts.order
    desc = bytearray(facts.prstatus_size)
    struct.pack_into(order + "i", desc, 32 if facts.bits == 64 else 24, pid)
    width, code = (8, "Q") if facts.bits == 64 else (4, "I")
    count = facts.regs_size // width
    values = list(registers) if registers is not None else [0x1000 * pid + index for index in range(count)]
    struct.pack_into(f"{order}{len(values)}{code}", desc, facts.regs_offset, *values)
    return bytes(desc)


def prstatus(arch: str = "x86_64", *, order: str | None = None, pid: int = 1, **more: Sequence[int] | None) -> bytes:
    """Pack a whole CORE/1 note."""
    order = order or ARCHES[arch].order
    return encode(b"CORE\0", 1, prstatus_desc(arch, order=order, pid=pid, **more), order=order)


def vmcoreinfo_text(
    *, release: str = "6.1.0-test", page_size: int = 4096, keys: Mapping[str, str] | None = None
) -> bytes:
    """Give a VMCOREINFO text: OSRELEASE, PAGESIZE, then `keys` as they come."""
    lines = [f"OSRELEASE={release}", f"PAGESIZE={page_size}"]
    lines += [f"{key}={value}" for key, value in (keys or {}).items()]
    return "".join(line + "\n" for line in lines).encode()


def vmcoreinfo(text: bytes, *, order: str = "<", name: bytes = b"VMCOREINFO\0") -> bytes:
    """Pack a VMCOREINFO note around a text."""
    return encode(name, 0, text, order=order)


def eraseinfo(text: bytes, *, order: str = "<") -> bytes:
    """Pack the note that makedumpfile -E appends."""
    return encode(b"ERASEINFO\0", 0, text, order=order)


def qemu_x86(
    *,
    registers: Sequence[int] = tuple(range(1, 19)),
    segments: Sequence[tuple[int, int, int, int]] = ((0, 0, 0, 0),) * 10,
    control: Sequence[int] = (0x80050033, 0, 0, 0x2000, 0x6F0),
    kernel_gs_base: int | None = 0,
) -> bytes:
    """Pack QEMU's x86 CPU state note: 18 registers, 10 segments (selector, limit, flags, base), cr0-cr4."""
    size = 432 if kernel_gs_base is None else 440
    desc = struct.pack("<II18Q", 1, size, *registers)
    for selector, limit, flags, base in segments:
        desc += struct.pack("<IIIIQ", selector, limit, flags, 0, base)
    desc += struct.pack("<5Q", *control)
    if kernel_gs_base is not None:
        desc += struct.pack("<Q", kernel_gs_base)
    return encode(b"QEMU\0", 0, desc)


def machine_notes(arch: str = "x86_64", *, order: str | None = None, cpus: int = 2, text: bytes | None = None) -> bytes:
    """Give what /proc/vmcore has: PRSTATUS of each CPU, then VMCOREINFO (none for an empty text)."""
    order = order or ARCHES[arch].order
    out = b"".join(prstatus(arch, order=order, pid=cpu + 1) for cpu in range(cpus))
    text = vmcoreinfo_text() if text is None else text
    return out + (vmcoreinfo(text, order=order) if text else b"")
