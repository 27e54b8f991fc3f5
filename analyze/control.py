# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernel memory of x86 where no symbol names the kernel's page tables: by the registers of the CPUs, or by rule.

Kernels before 4.x leave no VMCOREINFO in memory that is not their own to find, and none at all before 2.6.24; kallsyms
without data has no swapper_pg_dir. The CPUs knew where their page tables are, and each process's have the kernel.
Source: QEMU target/i386/arch_dump.c (QEMUCPUState); Intel SDM volume 3, 2.5 and 4.1; Linux Documentation/x86/pti.rst.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

from ..formats.errors import DumpError
from ..formats.machine_frames import frames_of_notes
from ..formats.pagetable import X86PageTable
from ..formats.reader import DumpReader
from .memory import KernelMemory, PhysicalMemory
from .table_search import find_i386_tables, find_x86_64_tables
from .walkers import I386Tables

__all__ = ["LOWMEM", "lowmem_size", "memory_by_registers"]

LOWMEM = 0x38000000  # 896 MiB: what 32-bit kernels map at PAGE_OFFSET
_CR0 = 392  # offset of cr[5] in QEMU's note
_PAGING, _PAE, _LA57 = 1 << 31, 1 << 5, 1 << 12
_FRAME = 0x000FFFFFFFFFF000
_TEXT, _TEXT_END = 0xFFFFFFFF80000000, 0xFFFFFFFFC0000000
_USER_HALF = 0x1000  # with page-table isolation the tables of user mode lie behind the kernel's
_STARTS = (0xC0000000, 0x80000000, 0xB0000000, 0x40000000)  # PAGE_OFFSET: CONFIG_VMSPLIT_* of arch/x86/Kconfig
_IMAGE = 1 << 20  # i386 kernels are not loaded below


def memory_by_registers(reader: DumpReader, physical: PhysicalMemory, *, search: bool) -> KernelMemory | None:
    """Return the kernel's memory by the CPUs' control registers, a search, or the rule of i386; None without.

    Args:
        reader, physical: The dump and its memory.
        search: Look through memory for page tables where no register names them.
    """
    arch = reader.machine.arch
    if arch == "x86_64":
        return _x86_64(reader, physical, search)
    return _i386(reader, physical, search) if arch == "i386" else None


def _control_registers(reader: DumpReader) -> Iterator[tuple[int, int]]:
    # CR3 and CR4 of each CPU that had paging on
    for note in reader.notes:
        if note.name == b"QEMU" and note.size >= _CR0 + 40:
            cr0, _, _, cr3, cr4 = struct.unpack_from("<5Q", note.desc(4096), _CR0)
            if cr0 & _PAGING:
                yield cr3, cr4
    for root, _ in reader.page_table_roots:
        yield root, 0


def _x86_64(reader: DumpReader, physical: PhysicalMemory, search: bool) -> KernelMemory | None:
    frames = reader.machine_frames or frames_of_notes(reader.notes, reader.machine.byteorder)
    best: tuple[int, X86PageTable] | None = None
    for cr3, cr4 in dict.fromkeys(_control_registers(reader)):
        for root in dict.fromkeys((cr3 & _FRAME & ~_USER_HALF, cr3 & _FRAME)):
            walker = X86PageTable(physical, root, 5 if cr4 & _LA57 else 4, frames=frames)
            mapped = sum(each.size for each in walker.mappings(_TEXT, _TEXT_END))
            if mapped and (best is None or mapped > best[0]):
                best = mapped, walker
    if best is not None:
        return KernelMemory(physical, best[1], [])
    found = find_x86_64_tables(physical) if search else None
    return None if found is None else KernelMemory(physical, found, [])


def _i386(reader: DumpReader, physical: PhysicalMemory, search: bool) -> KernelMemory | None:
    size = lowmem_size(reader)
    for cr3, cr4 in dict.fromkeys(_control_registers(reader)):
        pae = bool(cr4 & _PAE)
        walker = I386Tables(physical, cr3 & (0xFFFFFFE0 if pae else 0xFFFFF000), pae=pae)
        for start in _STARTS:
            if _leads(walker, start + _IMAGE, _IMAGE):
                return KernelMemory(physical, walker, [(start, 0, min(size, (1 << 32) - start))])
    if not size:
        return None
    found = find_i386_tables(physical, _STARTS, size) if search else None
    tables, start = found or (None, _STARTS[0])
    return KernelMemory(physical, tables, [(start, 0, min(size, (1 << 32) - start))])


def _leads(walker: I386Tables, vaddr: int, paddr: int) -> bool:
    try:
        return walker.translate(vaddr) == paddr
    except DumpError:
        return False


def lowmem_size(reader: DumpReader) -> int:
    """Return the bytes that an i386 kernel maps linearly: up to 896 MiB, and what lies behind RAM is vmalloc's."""
    shift = reader.machine.page_shift
    known = reader.memory_map
    low = known.end[known.start < np.uint64(LOWMEM >> shift)]
    return min(LOWMEM, int(low[-1]) << shift) if len(low) else 0
