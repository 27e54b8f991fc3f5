# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine that was dumped: architecture, byte order, word size, page size."""

from __future__ import annotations

from typing import Literal, NamedTuple

__all__ = ["ARCHITECTURES", "Architecture", "ByteOrder", "Machine", "from_e_machine", "from_uts_machine"]

ByteOrder = Literal["little", "big"]


class Architecture(NamedTuple):
    """What an architecture name implies.

    Attributes:
        name: The name that Linux gives (`uname -m`), 32-bit x86 as `i386`.
        e_machine: ELF machine number.
        word_size: Bytes of a `long`: 4 or 8.
        page_size: The page size when nothing says otherwise, in bytes.
        fixed_page_size: Whether the kernel knows no other page size on it.
    """

    name: str
    e_machine: int
    word_size: int
    page_size: int = 4096
    fixed_page_size: bool = True


# Source: docs/formats/elf.md section 1; page sizes: arch/*/Kconfig of Linux 6.12.
ARCHITECTURES: dict[str, Architecture] = {
    arch.name: arch
    for arch in (
        Architecture("i386", 3, 4),
        Architecture("x86_64", 62, 8),
        Architecture("arm", 40, 4),
        Architecture("aarch64", 183, 8, fixed_page_size=False),
        Architecture("ppc", 20, 4, fixed_page_size=False),
        Architecture("ppc64", 21, 8, 65536, fixed_page_size=False),
        Architecture("s390", 22, 4),
        Architecture("s390x", 22, 8),
        Architecture("ia64", 50, 8, 16384, fixed_page_size=False),
        Architecture("riscv64", 243, 8),
        Architecture("mips", 8, 4, fixed_page_size=False),
        Architecture("mips64", 8, 8, fixed_page_size=False),
        Architecture("loongarch64", 258, 8, 16384, fixed_page_size=False),
        Architecture("sparc64", 43, 8, 8192),
        Architecture("alpha", 0x9026, 8, 8192),
    )
}

_UTS_PREFIXES: tuple[tuple[str, str], ...] = (
    ("x86_64", "x86_64"),
    ("aarch64", "aarch64"),
    ("arm", "arm"),
    ("ppc64", "ppc64"),
    ("ppc", "ppc"),
    ("s390x", "s390x"),
    ("s390", "s390"),
    ("ia64", "ia64"),
    ("riscv64", "riscv64"),
    ("mips64", "mips64"),
    ("mips", "mips"),
    ("loongarch64", "loongarch64"),
    ("sparc64", "sparc64"),
    ("alpha", "alpha"),
)


class Machine(NamedTuple):
    """The dumped machine.

    Attributes:
        arch: A key of `ARCHITECTURES`, or `unknown-N` for ELF machine number N.
        byteorder: Of the dumped machine.
        word_size: Bytes of a `long`: 4 or 8.
        page_size: Bytes of a page, a power of two.
        e_machine: ELF machine number.
    """

    arch: str
    byteorder: ByteOrder
    word_size: int
    page_size: int
    e_machine: int

    @property
    def page_shift(self) -> int:
        """log2 of the page size."""
        return self.page_size.bit_length() - 1


def from_e_machine(e_machine: int, word_size: int) -> Architecture:
    """Return the architecture of an ELF machine number.

    Args:
        e_machine: ELF machine number.
        word_size: 4 or 8, the container's class; it decides only where one number serves both.
    """
    found = [arch for arch in ARCHITECTURES.values() if arch.e_machine == e_machine]
    for arch in found:
        if arch.word_size == word_size:
            return arch
    if found:
        return found[0]
    return Architecture(f"unknown-{e_machine}", e_machine, word_size, fixed_page_size=False)


def from_uts_machine(name: str) -> Architecture | None:
    """Return the architecture of a `uname -m` string, None if it names none (empty, `Unknown`)."""
    text = name.lower()  # QEMU writes S390X
    if len(text) == 4 and text[0] == "i" and text[2:] == "86":
        return ARCHITECTURES["i386"]
    for prefix, arch in _UTS_PREFIXES:
        if text.startswith(prefix):
            return ARCHITECTURES[arch]
    return None
