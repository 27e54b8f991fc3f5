# SPDX-License-Identifier: GPL-2.0-or-later
"""What a page-table entry says: address and flags, by architecture.

Source: Intel SDM volume 3, 4.5; Linux arch/*/include/asm/pgtable*.h 6.1; Arm ARM D8.3; RISC-V privileged 4.4;
z/Architecture principles of operation, chapter 3.
"""

from __future__ import annotations

from typing import NamedTuple

from .errors import MissingTable

__all__ = ["Entry", "decode_entry"]


class Entry(NamedTuple):
    """An entry.

    Attributes:
        present: Whether it maps something.
        physical: The address of what it maps; 0 where it maps nothing.
        flags: Names of the bits that are set, in crash's words.
    """

    present: bool
    physical: int
    flags: tuple[str, ...]


class _Layout(NamedTuple):
    # present: mask and value that tell; address: its bits, shifted left; flags: (mask, value, name)
    present: tuple[int, int]
    address: tuple[int, int]
    flags: tuple[tuple[int, int, str], ...]


def _bits(**names: int) -> tuple[tuple[int, int, str], ...]:
    return tuple((1 << bit, 1 << bit, name) for name, bit in names.items())


_X86_FLAGS = _bits(PRESENT=0, RW=1, USER=2, PWT=3, PCD=4, ACCESSED=5, DIRTY=6, PSE=7, GLOBAL=8)
_LAYOUTS = {
    "x86_64": _Layout((1, 1), (0x000FFFFFFFFFF000, 0), (*_X86_FLAGS, *_bits(NX=63))),
    "i386": _Layout((1, 1), (0xFFFFF000, 0), _X86_FLAGS),
    "i386-pae": _Layout((1, 1), (0x000FFFFFFFFFF000, 0), (*_X86_FLAGS, *_bits(NX=63))),
    "aarch64": _Layout(
        (1, 1),
        (0x0000FFFFFFFFF000, 0),
        (
            (3, 3, "VALID"), (1 << 6, 1 << 6, "USER"), (1 << 7, 1 << 7, "RDONLY"), (3 << 8, 3 << 8, "SHARED"),
            *_bits(AF=10, NG=11, DBM=51, PXN=53, UXN=54, DIRTY=55, SPECIAL=56),
        ),
    ),
    "riscv64": _Layout(
        (1, 1), ((1 << 54) - (1 << 10), 2), _bits(PRESENT=0, READ=1, WRITE=2, EXEC=3, USER=4, GLOBAL=5, ACCESSED=6,
                                                 DIRTY=7, SOFT=8)
    ),
    "s390x": _Layout(
        (0x400, 0), (0xFFFFFFFFFFFFF000, 0), _bits(INVALID=10, PROTECT=9, NOEXEC=8, READ=4, WRITE=5, DIRTY=3, YOUNG=2)
    ),
}  # fmt: skip


def decode_entry(value: int, arch: str, *, pae: bool = False) -> Entry:
    """Return what an entry says.

    Args:
        value: The entry, of the lowest level.
        arch: Machine.
        pae: i386 with 8-byte entries.

    Raises:
        MissingTable: The architecture's entries are not known.
    """
    layout = _LAYOUTS.get("i386-pae" if arch == "i386" and pae else arch)
    if layout is None:
        raise MissingTable(f"page-table entries of {arch} are not known")
    (mask, wanted), (bits, shift) = layout.present, layout.address
    # x86: PROT_NONE pages are not present for the processor, but are for the kernel: GLOBAL then marks them
    present = value & mask == wanted or (arch in ("x86_64", "i386") and value & 0x101 == 0x100)
    physical = (value & bits) << shift if present else 0
    flags = tuple(name for flag, want, name in layout.flags if value & flag == want)
    if present and value & mask != wanted:
        flags = ("PROTNONE", *flags)
    return Entry(present, physical, flags)
