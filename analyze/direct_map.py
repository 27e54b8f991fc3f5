# SPDX-License-Identifier: GPL-2.0-or-later
"""Physical to virtual: where the kernel has all of memory mapped.

Source: Linux Documentation/arch/x86/x86_64/mm.rst, arch/{arm64,riscv,powerpc,s390}/include/asm/page.h 4.4 to 6.12.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..formats.errors import DumpError
from ..formats.pages import PageState
from .errors import MissingTable, Unreadable

if TYPE_CHECKING:
    from .kernel import Kernel

__all__ = ["known_range", "page_offset", "to_virtual"]

_MASK = 0xFFFFFFFFFFFFFFFF
_LOWMEM = 0x38000000  # 896 MiB
_MAX_PROBES = 64


def page_offset(kernel: Kernel) -> tuple[int, int]:
    """Return virtual and physical address of where the linear map of memory begins.

    Raises:
        MissingTable: The architecture's is not known, or what tells it is missing.
    """
    find = _ARCHITECTURES.get(kernel.machine.arch)
    if find is None:
        raise MissingTable(f"the linear map of {kernel.machine.arch} is not known")
    return find(kernel)


def to_virtual(kernel: Kernel, paddr: int) -> int:
    """Return the virtual address of physical memory in the linear map.

    Raises:
        Unreadable: Memory there is not in the linear map.
        MissingTable: See `page_offset`.
    """
    start, base = page_offset(kernel)
    vaddr = start + paddr - base & (1 << 8 * kernel.machine.word_size) - 1
    try:
        back = kernel.memory.translate(vaddr)
    except Unreadable as error:
        raise Unreadable(paddr, f"the linear map has it at {vaddr:#x}, which is {error.why}") from error
    if back != paddr:
        raise Unreadable(paddr, f"not in the linear map: {vaddr:#x} is of {back:#x}")
    return vaddr


def known_range(kernel: Kernel) -> tuple[int, int, int] | None:
    """Return (virtual, physical address, bytes) of the linear map, for where the tables that map it are missing.

    None where nothing but a guess says where it is, or tables that are there contradict it. Of x86_64 only: the other
    architectures' memory has it without page tables, or tells it by them.
    """
    if kernel.machine.arch != "x86_64" or kernel.memory.translator is None:
        return None
    said = _variable(kernel)
    start = _x86_64(kernel)[0] if said is None else said
    map_, shift = kernel.physical.memory_map, kernel.machine.page_shift
    firsts, _ = map_.only(PageState.STORED)
    agree = 0
    for pfn in firsts[:: max(1, len(firsts) // _MAX_PROBES)].tolist():
        try:
            found = kernel.memory.translator.translate(start + (pfn << shift))
        except DumpError:
            continue
        if found is not None and found != pfn << shift:
            return None
        agree += found is not None
    return (start, 0, map_.end_pfn << shift) if agree or said is not None else None


def _variable(kernel: Kernel) -> int | None:
    try:  # randomised since 4.8: a variable says where
        found = kernel.memory.u64(kernel.symbol("page_offset_base"))
    except DumpError:
        return None
    return found if found >> 47 & 1 and not found & 0x3FFFFFFF else None


def _x86_64(kernel: Kernel) -> tuple[int, int]:
    found = _variable(kernel)
    if found is not None:
        return found, 0
    if kernel.info.number("pgtable_l5_enabled"):
        return 0xFF11000000000000, 0
    return (0xFFFF888000000000 if kernel.version >= (4, 20) else 0xFFFF880000000000), 0


def _i386(kernel: Kernel) -> tuple[int, int]:
    return kernel.symbol("_stext") & 0xC0000000, 0


def _arm(kernel: Kernel) -> tuple[int, int]:
    start, _ = kernel.physical.memory_map.only(PageState.STORED)
    if not len(start):
        raise MissingTable("the dump has no page")
    ram = (int(start[0]) << kernel.machine.page_shift) & ~((1 << 21) - 1)
    return kernel.symbol("_stext") & 0xC0000000, ram


def _aarch64(kernel: Kernel) -> tuple[int, int]:
    bits, physical = kernel.info.number("VA_BITS"), kernel.info.number("PHYS_OFFSET")
    if bits is None or physical is None or not 30 <= bits <= 52:
        raise MissingTable("VMCOREINFO does not give NUMBER(VA_BITS) and NUMBER(PHYS_OFFSET)")
    # the linear map is the lower half of the kernel's addresses since 5.4, the upper one before: the tables tell
    for start in (-1 << bits, -1 << bits - 1):
        try:
            first, _ = kernel.physical.memory_map.only(PageState.STORED)
            paddr = int(first[0]) << kernel.machine.page_shift
            if kernel.memory.translate((start + paddr - physical) & _MASK) == paddr:
                return start & _MASK, physical
        except (DumpError, IndexError):
            continue
    return -1 << bits & _MASK, physical


def _riscv64(kernel: Kernel) -> tuple[int, int]:
    start, physical = kernel.info.number("PAGE_OFFSET"), kernel.info.number("phys_ram_base")
    if start is None or physical is None:
        raise MissingTable("VMCOREINFO does not give NUMBER(PAGE_OFFSET) and NUMBER(phys_ram_base)")
    return start & _MASK, physical


def _s390x(kernel: Kernel) -> tuple[int, int]:
    return kernel.info.hexadecimal("IDENTITYBASE") or 0, 0


def _ppc64(kernel: Kernel) -> tuple[int, int]:
    return 0xC000000000000000, 0


_ARCHITECTURES = {
    "x86_64": _x86_64,
    "i386": _i386,
    "arm": _arm,
    "aarch64": _aarch64,
    "riscv64": _riscv64,
    "s390x": _s390x,
    "ppc64": _ppc64,
}
