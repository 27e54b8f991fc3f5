# SPDX-License-Identifier: GPL-2.0-or-later
"""Registers of Xen's guests: from vcpu_guest_context and the HVM context to notes of the canonical file.

Source: docs/formats/xen.md section 2; Xen xen/include/public/arch-x86/xen*.h, hvm/save.h (4.17).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from .machine import ByteOrder
from .notes import Note, build_note
from .prstatus import prstatus_note

__all__ = [
    "CONTEXT_MACHINES",
    "CONTEXT_SIZE",
    "HvmCpu",
    "context_registers",
    "context_root",
    "hvm_cpus",
    "register_note",
]

CONTEXT_MACHINES = ("x86_64", "i386")
CONTEXT_SIZE = {8: 5168, 4: 2800}  # vcpu_guest_context, by the guest's word
_IN_KERNEL = 1 << 2  # VGCF_in_kernel
_ONES = (1 << 64) - 1

# vcpu_guest_context of x86_64: where each register lies, and how long it is there.
_USER_64 = ("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi")
_USER_32 = ("rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rax")
_AT_64: dict[str, tuple[int, str]] = {
    **{name: (520 + 8 * number, "Q") for number, name in enumerate(_USER_64)},
    "rip": (648, "Q"), "cs": (656, "H"), "rflags": (664, "Q"), "rsp": (672, "Q"), "ss": (680, "H"),
    "es": (688, "H"), "ds": (696, "H"), "fs": (704, "H"), "gs": (712, "H"), "fs_base": (5144, "Q"),
}  # fmt: skip
_AT_32: dict[str, tuple[int, str]] = {
    **{name: (516 + 4 * number, "I") for number, name in enumerate(_USER_32)},
    "rip": (548, "I"), "cs": (552, "H"), "rflags": (556, "I"), "rsp": (560, "I"), "ss": (564, "H"),
    "es": (568, "H"), "ds": (572, "H"), "fs": (576, "H"), "gs": (580, "H"),
}  # fmt: skip
_CR3 = {8: (5008, "Q"), 4: (2728, "I")}

# Order of elf_gregset_t, by our one set of names.
_ORDER = {
    "x86_64": (*_USER_64, "orig_rax", "rip", "cs", "rflags", "rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs"),
    "i386": (*_USER_32, "ds", "es", "fs", "gs", "orig_rax", "rip", "cs", "rflags", "rsp", "ss"),
}


def context_registers(raw: bytes, word_size: int) -> dict[str, int]:
    """Return the registers of one vcpu_guest_context by name; `raw` is at least `CONTEXT_SIZE` long."""
    places = _AT_64 if word_size == 8 else _AT_32
    registers = {name: struct.unpack_from("<" + code, raw, at)[0] for name, (at, code) in places.items()}
    if word_size == 8:
        flags, kernel, user = (struct.unpack_from("<Q", raw, at)[0] for at in (512, 5152, 5160))
        registers["gs_base"] = kernel if flags & _IN_KERNEL else user
    return registers


def context_root(raw: bytes, word_size: int) -> int:
    """Return the address of the top page table that a vcpu_guest_context names, 0 where it names none.

    A machine address for a PV guest whose tables were not rewritten. 32-bit guests keep a frame above 4 GiB in the
    low bits: a rotated number.
    """
    at, code = _CR3[word_size]
    value: int = struct.unpack_from("<" + code, raw, at)[0]
    if word_size == 4:
        return (value >> 12 | value << 20 & 0xFFFFFFFF) << 12
    return value & 0x000FFFFFFFFFF000


def register_note(registers: Mapping[str, int], arch: str, byteorder: ByteOrder, cpu: int) -> Note:
    """Return the NT_PRSTATUS of one CPU.

    Args:
        registers: By name; of a 32-bit machine too by the 64-bit names. Those that are missing are 0, but for
            orig_rax, which is all ones: no system call.
        arch: `x86_64` or `i386`.
        byteorder: Of the machine.
        cpu: Number of the CPU; pr_pid is one more, as QEMU writes it.
    """
    mask = _ONES if arch == "x86_64" else 0xFFFFFFFF
    words = [registers.get(name, _ONES if name == "orig_rax" else 0) & mask for name in _ORDER[arch]]
    return prstatus_note(arch, byteorder, words, cpu + 1)


# -- HVM context: {typecode u16, instance u16, length u32} and so many bytes, again and again -------------------------

_HVM_END, _HVM_HEADER, _HVM_CPU = 0, 1, 2
_CPU_SIZE = 1024 - 24  # up to and with EFER
_NUMBERED = tuple(f"r{number}" for number in range(8, 16))
_GENERAL = ("rax", "rbx", "rcx", "rdx", "rbp", "rsi", "rdi", "rsp", *_NUMBERED, "rip", "rflags")
_SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldtr", "idtr", "gdtr")
_QEMU_ORDER = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp", *_NUMBERED, "rip", "rflags")
_QEMU_SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss", "ldtr", "tr", "gdtr", "idtr")
_LMA, _PAGING = 1 << 10, 1 << 31


@dataclass(frozen=True, slots=True)
class HvmCpu:
    """One CPU record of an HVM context.

    Attributes:
        cpu: Its number.
        registers: General registers and selectors by name, fs_base and gs_base.
        control: cr0, cr2, cr3, cr4.
        segments: (selector, limit, access bytes, base) by name; idtr and gdtr have limit and base.
        shadow_gs: The inactive GS base.
        efer: MSR_EFER.
    """

    cpu: int
    registers: dict[str, int]
    control: tuple[int, int, int, int]
    segments: dict[str, tuple[int, int, int, int]]
    shadow_gs: int
    efer: int

    @property
    def is_64bit(self) -> bool:
        """Whether the CPU was in long mode."""
        return bool(self.efer & _LMA)

    @property
    def pages(self) -> bool:
        """Whether paging was on: a CPU that never started tells nothing of its kernel."""
        return bool(self.control[0] & _PAGING)

    def qemu_note(self) -> Note:
        """Return the CPU's state as QEMU writes it: what crash and we find control registers in.

        Source: QEMU target/i386/arch_dump.c (7.2), QEMUCPUState: version, size, 18 registers, 10 segments of
        {selector, limit, flags, pad, base}, cr0 to cr4, kernel_gs_base.
        """
        desc = struct.pack("<II18Q", 1, 440, *(self.registers[name] for name in _QEMU_ORDER))
        for name in _QEMU_SEGMENTS:
            selector, limit, access, base = self.segments[name]
            # access bytes to the flags of a descriptor's second word: type to 8, AVL to G to 20
            flags = (access & 0xFF) << 8 | (access >> 8 & 0xF) << 20
            desc += struct.pack("<IIIIQ", selector, limit, flags, 0, base)
        cr0, cr2, cr3, cr4 = self.control
        desc += struct.pack("<6Q", cr0, 0, cr2, cr3, cr4, self.shadow_gs)
        return build_note(b"QEMU", 0, desc)


def _hvm_cpu(cpu: int, raw: bytes) -> HvmCpu:
    registers = dict(zip(_GENERAL, struct.unpack_from("<18Q", raw, 512), strict=True))
    control = struct.unpack_from("<4Q", raw, 656)
    selectors = dict(zip(_SEGMENTS[:8], struct.unpack_from("<8I", raw, 736), strict=True))
    limits = struct.unpack_from("<10I", raw, 768)
    bases = struct.unpack_from("<10Q", raw, 808)
    access = dict(zip(_SEGMENTS[:8], struct.unpack_from("<8I", raw, 888), strict=True))
    segments = {
        name: (selectors.get(name, 0), limit, access.get(name, 0), base)
        for name, limit, base in zip(_SEGMENTS, limits, bases, strict=True)
    }
    registers |= {name: selectors[name] for name in ("cs", "ds", "es", "fs", "gs", "ss")}
    registers |= {"fs_base": segments["fs"][3], "gs_base": segments["gs"][3]}
    shadow_gs, efer = (struct.unpack_from("<Q", raw, at)[0] for at in (944, 992))
    return HvmCpu(cpu, registers, control, segments, shadow_gs, efer)


def hvm_cpus(blob: bytes) -> tuple[list[HvmCpu], str | None]:
    """Return the CPU records of an HVM context in its order, and what stopped the walk early, None if nothing did."""
    found: list[HvmCpu] = []
    at = 0
    while at + 8 <= len(blob):
        code, instance, length = struct.unpack_from("<HHI", blob, at)
        if at + 8 + length > len(blob):
            return found, f"HVM record of type {code} at {at:#x} claims {length} bytes, {len(blob) - at - 8} are left"
        if code == _HVM_CPU:
            if length < _CPU_SIZE:
                return found, f"HVM CPU record at {at:#x} has {length} bytes, {_CPU_SIZE} are needed"
            found.append(_hvm_cpu(instance, blob[at + 8 : at + 8 + length]))
        at += 8 + length
        if code == _HVM_END:
            return found, None
    return found, "the HVM context has no end record"
