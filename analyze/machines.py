# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernel virtual memory of each architecture: linear maps, and page tables where they are known.

Source: docs/analyze.md, "what it needs"; Linux arch/*/include/asm/{page,pgtable}.h.
"""

from __future__ import annotations

from contextlib import suppress

from ..formats.errors import DumpError
from ..formats.machine_frames import frames_of_notes
from ..formats.pages import PageState
from ..formats.pagetable import Arm64PageTable, X86PageTable
from ..formats.reader import DumpReader
from ..formats.vmcoreinfo import VmcoreInfo
from .control import lowmem_size, memory_by_registers
from .errors import MissingTable
from .memory import KernelMemory, PhysicalMemory, Translator
from .walkers import ArmTables, I386Tables, Ppc64Tables, RiscvTables, S390Tables

__all__ = ["open_memory"]

_MASK = 0xFFFFFFFFFFFFFFFF
_X86_TEXT, _X86_IMAGE = 0xFFFFFFFF80000000, 1 << 30
_PPC64_LINEAR = 0xC000000000000000


def open_memory(
    reader: DumpReader, physical: PhysicalMemory, info: VmcoreInfo, *, search: bool = False
) -> KernelMemory:
    """Return the kernel's memory.

    Args:
        reader, physical: The dump and its memory.
        info: What says where the kernel lies.
        search: Look through memory for page tables where nothing does.

    Raises:
        MissingTable: Addresses cannot be translated: keys are missing, or the architecture is not known.
    """
    arch = reader.machine.arch
    if arch not in _OPEN:
        raise MissingTable(f"kernel addresses of {arch} are not known")
    try:
        return _OPEN[arch](reader, physical, info)
    except MissingTable:
        found = memory_by_registers(reader, physical, search=search)
        if found is None:
            raise
        return found


def _need(value: int | None, what: str) -> int:
    if value is None:
        raise MissingTable(f"VMCOREINFO does not give {what}: kernel addresses cannot be translated")
    return value


def _x86_64(reader: DumpReader, physical: PhysicalMemory, info: VmcoreInfo) -> KernelMemory:
    base = info.number("phys_base")
    if base is None:
        base = reader.phys_base
    root = info.symbol("init_top_pgt") or info.symbol("init_level4_pgt") or info.symbol("swapper_pg_dir")
    base, root = _need(base, "NUMBER(phys_base)"), _need(root, "SYMBOL(init_top_pgt)")
    levels = 5 if info.number("pgtable_l5_enabled") else 4
    mask = info.number("sme_mask") or 0
    frames = reader.machine_frames or frames_of_notes(reader.notes, reader.machine.byteorder)
    top = (root - _X86_TEXT + base & _MASK) & ~mask
    if frames is not None:  # a walk begins at a machine address there, and VMCOREINFO gives the guest's own
        top = _need(frames.address_of(top, 12), "a page table that is the guest's")
    walker = X86PageTable(physical, top, levels, mask, frames=frames)
    return KernelMemory(physical, walker, [(_X86_TEXT, base & _MASK, _X86_IMAGE)])


def _aarch64(reader: DumpReader, physical: PhysicalMemory, info: VmcoreInfo) -> KernelMemory:
    offset = _need(info.number("kimage_voffset"), "NUMBER(kimage_voffset)")
    root = _need(info.symbol("swapper_pg_dir"), "SYMBOL(swapper_pg_dir)")
    bits = _need(info.number("VA_BITS"), "NUMBER(VA_BITS)")
    t1sz = info.number("TCR_EL1_T1SZ")
    shift = (info.page_size or reader.machine.page_size).bit_length() - 1
    stext = info.symbol("_stext")
    widths = Arm64PageTable.widths(shift, bits, t1sz)
    if not widths:
        raise MissingTable(f"page tables for {bits} bits of address with pages of {1 << shift} are none of aarch64")
    walkers = [Arm64PageTable(physical, root - offset & _MASK, shift, width) for width in widths]
    walker = next((each for each in walkers if _leads(each, stext, offset)), walkers[0])
    linear = [(stext & ~0xFFFF, (stext & ~0xFFFF) - offset & _MASK, 1 << 24)] if stext is not None else []
    return KernelMemory(physical, walker, linear)


def _leads(walker: Arm64PageTable, stext: int | None, offset: int) -> bool:
    # to where the kernel's text is known to be
    try:
        return stext is not None and walker.translate(stext) == stext - offset & _MASK
    except DumpError:
        return False


def _i386(reader: DumpReader, physical: PhysicalMemory, info: VmcoreInfo) -> KernelMemory:
    root = _need(info.symbol("swapper_pg_dir"), "SYMBOL(swapper_pg_dir)")
    start = root & 0xC0000000 or 0xC0000000  # PAGE_OFFSET is a multiple of 1 GiB but for odd configurations
    size = min(lowmem_size(reader), (1 << 32) - start)  # vmalloc begins where RAM ends
    walker = I386Tables(physical, root - start, pae=info.text("CONFIG_X86_PAE") == "y")
    return KernelMemory(physical, walker, [(start, 0, size)])


def _arm(reader: DumpReader, physical: PhysicalMemory, info: VmcoreInfo) -> KernelMemory:
    stext = _need(info.symbol("_stext"), "SYMBOL(_stext)")
    stored, _ = reader.memory_map.only(PageState.STORED)
    if not len(stored):
        raise MissingTable("the dump has no page")
    ram = (int(stored[0]) << reader.machine.page_shift) & ~((1 << 21) - 1)
    start = stext & 0xC0000000
    root = info.symbol("swapper_pg_dir")
    walker = None
    if root is not None:
        walker = ArmTables(physical, root - start + ram, lpae=info.text("CONFIG_ARM_LPAE") == "y")
    # what is mapped linearly ends before vmalloc's range: tables know where, a page's size and the dump's end bound it
    end = reader.memory_map.end_pfn << reader.machine.page_shift
    size = min(0x30000000, max(0, end - ram))
    return KernelMemory(physical, walker, [(start, ram, size)])


def _s390x(reader: DumpReader, physical: PhysicalMemory, info: VmcoreInfo) -> KernelMemory:
    linear = []
    kernel, place = info.hexadecimal("KERNELOFFSET"), info.hexadecimal("KERNELOFFPHYS")
    identity = info.hexadecimal("IDENTITYBASE") or 0
    if kernel and place is not None:  # 6.9 and later: the image is mapped apart from memory
        linear.append((kernel, place, 1 << 28))
    linear.append((identity, 0, 1 << 42))
    root = info.symbol("swapper_pg_dir")
    walker: S390Tables | None = None
    if root is not None:
        try:
            walker = S390Tables(physical, root - kernel + place if kernel and place is not None else root)
        except DumpError:
            walker = None
    # below the end of memory addresses are physical; tables are for what lies above
    top = reader.memory_map.end_pfn << reader.machine.page_shift
    linear[-1] = (identity, 0, top)
    return KernelMemory(physical, walker, linear)


def _riscv64(reader: DumpReader, physical: PhysicalMemory, info: VmcoreInfo) -> KernelMemory:
    link = info.number("KERNEL_LINK_ADDR") or 0xFFFFFFFF80000000
    offset = info.number("va_kernel_pa_offset")
    ram = _need(info.number("phys_ram_base"), "NUMBER(phys_ram_base)")
    if offset is None:
        offset = link - ram
    base = _need(info.number("PAGE_OFFSET"), "NUMBER(PAGE_OFFSET)")
    root = _need(info.symbol("swapper_pg_dir"), "SYMBOL(swapper_pg_dir)")
    levels = {39: 3, 48: 4, 57: 5}.get(info.number("VA_BITS") or 39, 3)
    walker = RiscvTables(physical, root - offset & _MASK, levels)
    size = (reader.memory_map.end_pfn << reader.machine.page_shift) - ram
    linear = [(link, link - offset & _MASK, 1 << 28), (base, ram, max(0, size))]
    return KernelMemory(physical, walker, linear)


def _ppc64(reader: DumpReader, physical: PhysicalMemory, info: VmcoreInfo) -> KernelMemory:
    size = reader.memory_map.end_pfn << reader.machine.page_shift
    root = info.symbol("swapper_pg_dir")
    walker: Translator | None = None
    if root is not None and root >> 60 == _PPC64_LINEAR >> 60:
        with suppress(DumpError):
            walker = Ppc64Tables(physical, root - _PPC64_LINEAR)
    return KernelMemory(physical, walker, [(_PPC64_LINEAR, 0, size)])


_OPEN = {
    "x86_64": _x86_64,
    "aarch64": _aarch64,
    "i386": _i386,
    "arm": _arm,
    "s390x": _s390x,
    "riscv64": _riscv64,
    "ppc64": _ppc64,
}
