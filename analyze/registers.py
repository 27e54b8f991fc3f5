# SPDX-License-Identifier: GPL-2.0-or-later
"""Registers of the architectures: their order in NT_PRSTATUS and in struct pt_regs, and how they are shown.

Everywhere `ip` is the program counter and `sp` the stack pointer; the others have the architecture's names. Source:
Linux arch/*/include/uapi/asm/ptrace.h and arch/*/include/asm/elf.h, 6.12.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

__all__ = ["PT_REGS", "REGISTERS", "RegisterSet", "Registers", "arch_of"]

Registers = dict[str, int]

# struct pt_regs of x86_64, which is also the order in elf_gregset_t.
PT_REGS = (
    "r15", "r14", "r13", "r12", "bp", "bx", "r11", "r10", "r9", "r8", "ax", "cx", "dx", "si", "di", "orig_ax", "ip",
    "cs", "flags", "sp", "ss",
)  # fmt: skip
_I386 = (
    "bx", "cx", "dx", "si", "di", "bp", "ax", "ds", "es", "fs", "gs", "orig_ax", "ip", "cs", "flags", "sp", "ss",
)  # fmt: skip
_AARCH64 = (*(f"x{number}" for number in range(29)), "fp", "lr", "sp", "ip", "pstate")
_RISCV64 = (
    "ip", "ra", "sp", "gp", "tp", "t0", "t1", "t2", "fp", "s1", "a0", "a1", "a2", "a3", "a4", "a5", "a6", "a7", "s2",
    "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "t3", "t4", "t5", "t6",
)  # fmt: skip
_S390X = ("mask", "ip", *(f"r{number}" for number in range(15)), "sp")
_PPC64 = (
    "r0", "sp", *(f"r{number}" for number in range(2, 32)), "ip", "msr", "orig_r3", "ctr", "lr", "xer", "ccr", "softe",
    "trap", "dar", "dsisr", "result",
)  # fmt: skip
_ARM = (*(f"r{number}" for number in range(11)), "fp", "r12", "sp", "lr", "ip", "cpsr", "orig_r0")

Rows = tuple[tuple[tuple[str, str], ...], ...]


def _rows(names: tuple[str, ...], each: int, titles: dict[str, str]) -> Rows:
    cells = [(titles.get(name, name.upper()), name) for name in names]
    width = max(len(title) for title, _ in cells)
    cells = [(f"{title:>{width}}", name) for title, name in cells]
    return tuple(tuple(cells[at : at + each]) for at in range(0, len(cells), each))


class RegisterSet(NamedTuple):
    """Registers of one architecture.

    Attributes:
        names: In the order of elf_gregset_t.
        in_user_mode: Whether a set was saved in user mode.
        rows: (title, name) of those that are shown, line by line.
        frame: Name of the frame pointer, empty where there is none.
        link: Name of the register with the return address of a function that calls no other, empty likewise.
    """

    names: tuple[str, ...]
    in_user_mode: Callable[[Registers], bool]
    rows: Rows
    frame: str = ""
    link: str = ""


_X86_ROWS: Rows = (
    (("RIP", "ip"), ("RSP", "sp"), ("RFLAGS", "flags")),
    (("RAX", "ax"), ("RBX", "bx"), ("RCX", "cx")),
    (("RDX", "dx"), ("RSI", "si"), ("RDI", "di")),
    (("RBP", "bp"), (" R8", "r8"), (" R9", "r9")),
    (("R10", "r10"), ("R11", "r11"), ("R12", "r12")),
    (("R13", "r13"), ("R14", "r14"), ("R15", "r15")),
    (("ORIG_RAX", "orig_ax"), ("CS", "cs"), ("SS", "ss")),
)
_I386_ROWS: Rows = (
    (("EIP", "ip"), ("ESP", "sp"), ("EFLAGS", "flags"), ("EAX", "ax")),
    (("EBX", "bx"), ("ECX", "cx"), ("EDX", "dx"), ("ESI", "si")),
    (("EDI", "di"), ("EBP", "bp"), ("ORIG_EAX", "orig_ax")),
    (("CS", "cs"), ("DS", "ds"), ("ES", "es"), ("FS", "fs"), ("SS", "ss")),
)

REGISTERS: dict[str, RegisterSet] = {
    # kernels of Xen's paravirtual guests run in ring 3, too
    "x86_64": RegisterSet(
        PT_REGS, lambda found: bool(found.get("cs", 0) & 3) and not found["ip"] >> 63, _X86_ROWS, "bp"
    ),
    "i386": RegisterSet(_I386, lambda found: bool(found.get("cs", 0) & 3), _I386_ROWS, "bp"),
    "aarch64": RegisterSet(
        _AARCH64,
        lambda found: "pstate" in found and not found["pstate"] & 0xF,
        _rows(("ip", "lr", "sp", "pstate", "fp", *(f"x{n}" for n in range(28, -1, -1))), 3, {"ip": "PC", "fp": "X29"}),
        "fp",
        "lr",
    ),
    "riscv64": RegisterSet(
        _RISCV64,
        lambda found: "ra" in found and not found["ip"] >> 63,
        _rows(_RISCV64, 3, {"ip": "PC", "fp": "S0"}),
        "fp",
        "ra",
    ),
    "s390x": RegisterSet(
        _S390X,
        lambda found: bool(found.get("mask", 0) >> 48 & 1),
        _rows(_S390X, 4, {"mask": "PSW", "ip": "ADDR", "sp": "R15"}),
        "",
        "r14",
    ),
    "ppc64": RegisterSet(
        _PPC64,
        lambda found: bool(found.get("msr", 0) & 0x4000),
        _rows(_PPC64, 4, {"sp": "R1", "ip": "NIP"}),
        "",
        "lr",
    ),
    "arm": RegisterSet(
        _ARM,
        lambda found: found.get("cpsr", 0x13) & 0x1F == 0x10,
        _rows(_ARM, 4, {"ip": "PC"}),
        "fp",
        "lr",
    ),
}


def arch_of(found: Registers) -> str:
    """Return the architecture that has registers of these names."""
    return next((arch for arch, each in REGISTERS.items() if found.keys() <= set(each.names)), "x86_64")
