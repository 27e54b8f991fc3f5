# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's page tables found by what they are, where neither a symbol nor a register says where they lie.

Containers of old kernels (LKCD, diskdump, netdump, mcore, LiME) have no control registers, and the kernels no
VMCOREINFO. Every process's top table has the kernel's half: a page of memory is one if a walk from it leads where the
kernel is known to be. Source: Intel SDM volume 3, 4.3 to 4.5; Linux arch/x86/include/asm/pgtable*.h, 2.6 to 5.9.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ..formats.errors import DumpError
from ..formats.pagetable import X86PageTable
from .banner import banners
from .memory import PhysicalMemory
from .scan import pieces
from .walkers import I386Tables

__all__ = ["find_i386_tables", "find_x86_64_tables"]

_PAGE = 4096
_TEXT, _TEXT_END = 0xFFFFFFFF80000000, 0xFFFFFFFFC0000000
_LEAST = 1 << 20  # no kernel is smaller
_MAX_TRIED = 1 << 12
_FRAME = np.uint64(0x000FFFFFFFFFF000)
_PRESENT = np.uint64(1)


def find_x86_64_tables(physical: PhysicalMemory) -> X86PageTable | None:
    """Return page tables that map the kernel's image: its banner is in what they map; None where there are none."""
    known = [paddr for paddr, _ in banners(physical)]
    if not known:
        return None
    for tried, root in enumerate(_x86_64_roots(physical)):
        if tried >= _MAX_TRIED:
            break
        walker = X86PageTable(physical, root, 4)
        found = [(each.paddr, each.size) for each in walker.mappings(_TEXT, _TEXT_END)]
        if sum(size for _, size in found) < _LEAST:
            continue
        if any(start <= paddr < start + size for start, size in found for paddr in known):
            return X86PageTable(physical, root, 4)
    return None


def _end_of(physical: PhysicalMemory) -> np.uint64:
    # headers may claim memory up to the end of 64 bits
    return np.uint64(min(physical.memory_map.end_pfn << physical.machine.page_shift, (1 << 64) - 1))


def _x86_64_roots(physical: PhysicalMemory) -> Iterator[int]:
    # pages whose last entry leads to a table in memory: the kernel's image, and half empty or more
    end = _end_of(physical)
    for base, data in pieces(physical):
        table = np.frombuffer(data, "<u8", len(data) // _PAGE * 512).reshape(-1, 512)
        last = table[:, 511]
        good = (last & np.uint64(0x81) == _PRESENT) & (last & _FRAME != 0) & (last & _FRAME < end)
        for row in np.flatnonzero(good).tolist():
            used = table[row][table[row] != 0]
            if len(used) <= 256 and bool((used & _PRESENT).all()):
                yield base + _PAGE * row


def find_i386_tables(physical: PhysicalMemory, starts: Sequence[int], memory: int) -> tuple[I386Tables, int] | None:
    """Return page tables that map the beginning of memory, and the address where; None where there are none.

    Args:
        physical: The dump's memory.
        starts: What may be PAGE_OFFSET, the likely first.
        memory: Bytes that are mapped there.
    """
    places = [place for place in (0x100000, 0x200000, memory - _PAGE) if 0 < place < memory]
    for tried, (root, start, pae) in enumerate(_i386_roots(physical, starts)):
        if tried >= _MAX_TRIED or not places:
            break
        walker = I386Tables(physical, root, pae=pae)
        try:
            if all(walker.translate(start + place) == place for place in places):
                return walker, start
        except DumpError:
            continue
    return None


def _i386_roots(physical: PhysicalMemory, starts: Sequence[int]) -> Iterator[tuple[int, int, bool]]:
    # two levels: the entry of PAGE_OFFSET leads to a large page at 0 or to a table; three: four entries in 32 bytes
    end = _end_of(physical)
    for base, data in pieces(physical):
        whole = len(data) // _PAGE * _PAGE
        entries = np.frombuffer(data, "<u4", whole // 4).reshape(-1, 1024)
        top = np.frombuffer(data, "<u8", whole // 8).reshape(-1, 4)
        present = (top & np.uint64(0xFFF) == _PRESENT) & (top < end)
        shape = ((top == 0) | present).all(axis=1)
        for start in starts:
            entry = entries[:, start >> 22].astype(np.uint64)
            kind, frame = entry & np.uint64(0x81), entry & np.uint64(0xFFFFF000)
            good = ((kind == 0x81) & (frame == 0)) | ((kind == 1) & (frame != 0) & (frame < end))
            yield from ((base + _PAGE * row, start, False) for row in np.flatnonzero(good).tolist())
            good = shape & present[:, start >> 30]
            yield from ((base + 32 * row, start, True) for row in np.flatnonzero(good).tolist())
