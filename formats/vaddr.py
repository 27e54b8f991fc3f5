# SPDX-License-Identifier: GPL-2.0-or-later
"""Virtual addresses for a canonical file, derived from the machine, for every source format alike.

Where the machine does not tell, the source's own p_vaddr is used, and failing that p_paddr; the report says which.
Source: docs/formats/elf.md section 3.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .arrays import unique
from .errors import DumpError
from .image import MemoryImage
from .intervals import Pieces, inside_larger, resolve, text_range, union
from .notes import Note
from .pagetable import Arm64PageTable, Budget, PageTable, X86PageTable
from .reader import DumpReader
from .vmcoreinfo import VmcoreInfo

__all__ = ["AddressMap", "derive", "guess", "kernel_table"]

U64 = NDArray[np.uint64]
_MASK = 0xFFFFFFFFFFFFFFFF
_TEXT_BASE = 0xFFFFFFFF80000000
_TEXT_END = 0xFFFFFFFFC0000000
_ARM64_IMAGE = 256 << 20  # no kernel image is larger
# PAGE_OFFSET of i386: CONFIG_VMSPLIT_* of Linux arch/x86/Kconfig, and Red Hat's 4G/4G split ("hugemem")
_I386_SPLITS = (0xC0000000, 0xB0000000, 0x80000000, 0x78000000, 0x40000000, 0x02000000)
_MAX_BASES = 64  # places where the kernel may have been loaded: a dump has one or two
_QEMU_CR3 = 392 + 3 * 8
_ALL_ONES = np.uint64(_MASK)


class AddressMap(NamedTuple):
    """How physical addresses appear in p_vaddr.

    Attributes:
        origin: `derived`, `source` or `physical`, for the report.
        how: One line that says from what.
        ranges: (paddr, vaddr, size) of linear maps, disjoint; a frame in none has no virtual address.
        text: The kernel image's second mapping: (paddr, vaddr, size), None where there is none.
    """

    origin: str
    how: str
    ranges: tuple[tuple[int, int, int], ...]
    text: tuple[int, int, int] | None = None

    def vaddr(self, paddr: U64) -> U64:
        """Return the virtual address of each physical one, all ones where it has none."""
        result = np.full(len(paddr), _ALL_ONES, np.uint64)
        if not self.ranges:
            return result
        ranges = sorted(self.ranges)
        start, base, size = (np.array([each[at] & _MASK for each in ranges], np.uint64) for at in range(3))
        row = np.maximum(np.searchsorted(start, paddr, side="right"), 1) - 1
        inside = (paddr >= start[row]) & (paddr - start[row] < size[row])
        result[inside] = (paddr + (base[row] - start[row]))[inside]
        return result

    def edges(self) -> list[int]:
        """Return the physical addresses at which the map changes."""
        return sorted({start for start, _, _ in self.ranges} | {start + size for start, _, size in self.ranges})


def derive(reader: DumpReader, image: MemoryImage) -> AddressMap:
    """Derive the map from the machine, else take the source's, else the physical addresses."""
    info = reader.vmcoreinfo or VmcoreInfo(b"")
    arch = reader.machine.arch
    try:
        if arch == "x86_64":
            found = _x86_64(reader, image, info)
        elif arch == "aarch64":
            found = _aarch64(reader, image, info)
        else:
            found = _by_rule(reader, info)
    except DumpError:
        found = None
    if found is not None:
        return found
    vaddr = reader.segments["vaddr"]
    known = (vaddr != _ALL_ONES) & (vaddr != np.uint64(0xFFFFFFFF))
    told = reader.segments[known & (reader.segments["size"] > 0)]
    if told["vaddr"].any() and (told["vaddr"] != told["paddr"]).any():
        return _from_source(reader.segments, known, arch, reader.machine.page_size)
    return AddressMap("physical", "nothing tells virtual addresses: p_vaddr is p_paddr", ((0, 0, _MASK),))


def kernel_table(reader: DumpReader, image: MemoryImage, max_tables: int) -> PageTable | None:
    """Return the kernel's page tables, proved by a known symbol; None where they cannot be had.

    Args:
        reader, image: The dump and its memory.
        max_tables: How many tables all walks together may read.
    """
    info = reader.vmcoreinfo or VmcoreInfo(b"")
    budget = Budget()
    budget.tables = max_tables
    try:
        if reader.machine.arch == "x86_64":
            found = _x86_64_table(reader, image, info, budget)
            return None if found is None else found[0]
        return _aarch64_table(reader, image, info, budget) if reader.machine.arch == "aarch64" else None
    except DumpError:
        return None


def guess(reader: DumpReader) -> AddressMap:
    """Return a map of the likely shape before memory can be read: for the size of the headers only."""
    info = reader.vmcoreinfo or VmcoreInfo(b"")
    if reader.machine.arch == "aarch64":
        return _aarch64_linear(info) or AddressMap("physical", "not known yet", ((0, 0, _MASK),))
    if reader.machine.arch != "x86_64":
        return _by_rule(reader, info) or AddressMap("physical", "not known yet", ((0, 0, _MASK),))
    start, base = info.symbol("_stext"), info.number("phys_base")
    text = None
    if start is not None and base is not None and start >= _TEXT_BASE:
        text = (start - _TEXT_BASE + base, start, 42 << 20)
    return AddressMap("physical", "not known yet", ((0, 0, _MASK),), text)


def _from_source(segments: NDArray[Any], known: NDArray[np.bool_], arch: str, page_size: int) -> AddressMap:
    # The kernel image's second mapping stays one; of RAM segments that overlap the first in the file counts.
    # Neighbours with one offset are joined: a copy of our own output must cut where the first one did.
    paddr, vaddr, size = segments["paddr"], segments["vaddr"], segments["size"]
    end = np.where(paddr + size < paddr, _ALL_ONES, paddr + size)
    inside = inside_larger(paddr, end)
    # whole pages, as the output has them
    mask = np.uint64(page_size - 1)
    paddr, vaddr = paddr & ~mask, vaddr - (paddr & mask)
    end = np.where(end > ~mask, _ALL_ONES, (end + mask) & ~mask)
    low, high = (np.uint64(each) for each in text_range(arch))
    is_text = (((vaddr >= low) & (vaddr < high)) | inside) & known & (size > 0)
    is_ram = known & ~is_text & (size > 0)
    kept, _ = resolve(paddr[is_ram], (end - paddr)[is_ram], vaddr[is_ram], np.zeros(int(is_ram.sum()), bool))
    ranges = _joined(kept, union(paddr[~known], end[~known]))
    text = None
    first = np.flatnonzero(is_text)[:1]
    if len(first):
        same = is_text & (vaddr - paddr == (vaddr - paddr)[first])
        start, stop = int(paddr[same].min()), int(end[same].max())
        text = (start, int((vaddr - paddr)[first][0]) + start & _MASK, stop - start)
    return AddressMap("source", "p_vaddr of the source's program headers", ranges, text)


def _joined(pieces: Pieces, unknown: tuple[U64, U64]) -> tuple[tuple[int, int, int], ...]:
    # Ranges of one offset each, over gaps too, but not over memory whose address is not known.
    if not len(pieces.start):
        return ()
    delta = pieces.offset - pieces.start
    start, end = unknown
    between = np.searchsorted(end, pieces.end[:-1], side="right") < np.searchsorted(start, pieces.start[1:])
    new = np.ones(len(delta), bool)
    new[1:] = (delta[1:] != delta[:-1]) | between
    first = np.flatnonzero(new)
    last = np.append(first[1:], len(delta)) - 1
    size = pieces.end[last] - pieces.start[first]
    return tuple(zip(pieces.start[first].tolist(), pieces.offset[first].tolist(), size.tolist(), strict=True))


# -- x86_64 ------------------------------------------------------------------------------------------------------


def _x86_64(reader: DumpReader, image: MemoryImage, info: VmcoreInfo) -> AddressMap | None:
    found = _x86_64_table(reader, image, info, Budget())
    return None if found is None else found[1]


def _x86_64_table(
    reader: DumpReader, image: MemoryImage, info: VmcoreInfo, budget: Budget
) -> tuple[PageTable, AddressMap] | None:
    levels = 5 if info.number("pgtable_l5_enabled") == 1 else 4
    mask = info.number("sme_mask") or 0
    for root, how in _x86_roots(reader, info):
        for depth in (levels, 9 - levels):
            table = X86PageTable(image, root, depth, mask, budget, reader.machine_frames)
            found = _x86_from_root(reader, info, table, depth, how)
            if found is not None:
                return table, found
    return None


def _x86_roots(reader: DumpReader, info: VmcoreInfo) -> list[tuple[int, str]]:
    # candidates for the physical address of the kernel's top table
    bases = []
    if info.number("phys_base") is not None:
        bases.append(info.number("phys_base") or 0)
    low, high = text_range("x86_64")
    vaddr = reader.segments["vaddr"]
    text = reader.segments[(vaddr >= np.uint64(low)) & (vaddr < np.uint64(high))][:_MAX_BASES]
    bases += [paddr - (vaddr - _TEXT_BASE) for paddr, vaddr, _ in text.tolist()]
    if reader.phys_base is not None:
        bases.append(reader.phys_base)
    roots = []
    for name in ("init_top_pgt", "swapper_pg_dir", "init_level4_pgt"):
        symbol = info.symbol(name)
        if symbol is not None and symbol >= _TEXT_BASE:
            roots += [(symbol - _TEXT_BASE + base & _MASK, f"page tables at SYMBOL({name})") for base in bases]
    roots += [(cr3, "page tables at CR3 of QEMU's CPU note") for cr3 in _qemu_cr3(reader.notes)]
    roots += [(root, f"page tables at {how}") for root, how in reader.page_table_roots]
    return list(dict.fromkeys(roots))[:64]


def _qemu_cr3(notes: Sequence[Note]) -> list[int]:
    found = []
    for note in notes:
        if note.name == b"QEMU" and note.size >= _QEMU_CR3 + 8:
            cr3 = struct.unpack_from("<Q", note.desc(4096), _QEMU_CR3)[0]
            found.append(cr3 & 0x000FFFFFFFFFF000)
    return found


def _x86_from_root(reader: DumpReader, info: VmcoreInfo, table: PageTable, levels: int, how: str) -> AddressMap | None:
    lowest = 0xFF11000000000000 if levels == 5 else 0xFFFF880000000000
    first = next(table.mappings(lowest, 0xFFFFFE0000000000), None)
    if first is None:
        return None
    base = first.vaddr - first.paddr & _MASK
    text = _text_map(reader, table, _TEXT_BASE, _TEXT_END)
    if text is None or not _x86_verified(info, table, base, text):
        return None
    size = _MASK - base if base else _MASK
    return AddressMap("derived", f"{how}, {levels} levels: direct map at {base:#x}", ((0, base, size),), text)


def _text_map(reader: DumpReader, table: PageTable, start: int, stop: int) -> tuple[int, int, int] | None:
    # The entries of [start, stop) that map RAM, by their common offset: the image has holes where the kernel
    # unmapped its init sections, and modules above it come from elsewhere.
    found = [(each.vaddr, each.paddr, each.size) for each in table.mappings(start, stop)]
    vaddr, paddr, size = np.array(found, np.uint64).reshape(-1, 3).T
    shift, memory_map = np.uint64(reader.machine.page_shift), reader.memory_map
    first = np.searchsorted(memory_map.end, paddr >> shift, side="right")
    is_ram = first < np.searchsorted(memory_map.start, (paddr + size) >> shift)
    vaddr, delta, size = vaddr[is_ram], (vaddr - paddr)[is_ram], size[is_ram]
    if not len(vaddr):
        return None
    order = np.lexsort((vaddr, delta))
    vaddr, delta, size = vaddr[order], delta[order], size[order]
    first = np.flatnonzero(np.concatenate([[True], delta[1:] != delta[:-1]]))
    last = np.append(first[1:], len(delta)) - 1
    total = np.add.reduceat(size, first)
    best = np.lexsort((vaddr[first], ~total))[0]  # the largest, and of equal ones the lowest
    low, high = int(vaddr[first[best]]), int(vaddr[last[best]]) + int(size[last[best]])
    return low - int(delta[first[best]]) & _MASK, low, high - low


def _x86_verified(info: VmcoreInfo, table: PageTable, base: int, text: tuple[int, int, int]) -> bool:
    # A known symbol must be reached at the same place through the text map, the tables and the direct map.
    symbol = info.symbol("init_uts_ns") or info.symbol("_stext") or text[1]
    if not text[1] <= symbol < text[1] + text[2]:
        symbol = text[1]
    expected = symbol - text[1] + text[0]
    return table.translate(symbol) == expected and table.translate(base + expected & _MASK) == expected


# -- the other architectures -------------------------------------------------------------------------------------


def _by_rule(reader: DumpReader, info: VmcoreInfo) -> AddressMap | None:
    arch = reader.machine.arch
    lowest = int(reader.memory_map.start[0]) << reader.machine.page_shift if len(reader.memory_map) else 0
    if arch == "riscv64":
        return _riscv64(info)
    if arch == "i386":
        return _i386(reader)
    if arch == "arm":
        return AddressMap("derived", "arm direct map of low memory at 0xc0000000", ((lowest, 0xC0000000, 0x2F800000),))
    fixed = {
        "ppc64": 0xC000000000000000,
        "ia64": 0xE000000000000000,
        "loongarch64": 0x9000000000000000,
        "mips64": 0x9800000000000000,
        "s390x": 0,
        "s390": 0,
        "ppc": 0xC0000000,
        "mips": 0x80000000,
    }
    if arch not in fixed:
        return None
    if arch == "s390x" and (info.hexadecimal("IDENTITYBASE") or 0) > 0:
        base = info.hexadecimal("IDENTITYBASE") or 0
        return AddressMap("derived", "VMCOREINFO IDENTITYBASE", ((0, base, _MASK - base),))
    size = {"ppc": 0x30000000, "mips": 0x20000000}.get(arch, 1 << 60)
    return AddressMap("derived", f"{arch} maps all memory at {fixed[arch]:#x}", ((0, fixed[arch], size),))


def _i386(reader: DumpReader) -> AddressMap:
    # Where user and kernel space are split is a choice of the build: taken from the source's own segments where
    # they name one of the places there are.
    low = reader.segments[reader.segments["paddr"] < np.uint64(896 << 20)]
    told = unique(low["vaddr"] - low["paddr"]).tolist()
    base = told[0] if len(told) == 1 and told[0] in _I386_SPLITS else _I386_SPLITS[0]
    size = (1 << 32) - (128 << 20) - base  # the last 128 MiB are for vmalloc
    return AddressMap("derived", f"i386 direct map at {base:#x}, {size >> 20} MiB", ((0, base, size),))


def _riscv64(info: VmcoreInfo) -> AddressMap | None:
    base, ram = info.number("PAGE_OFFSET"), info.number("phys_ram_base")
    if base is None or ram is None:
        return None
    linear = ((ram, base & _MASK, _MASK - (base & _MASK)),)
    return AddressMap("derived", "VMCOREINFO PAGE_OFFSET and phys_ram_base", linear)


def _aarch64(reader: DumpReader, image: MemoryImage, info: VmcoreInfo) -> AddressMap | None:
    found, start = _aarch64_linear(info), info.symbol("_stext")
    if found is None or start is None:
        return found
    # The image's map: from its first page on, as far as the same distance holds.
    table = _aarch64_table(reader, image, info, Budget())
    text = None if table is None else _text_map(reader, table, start & ~0x1FFFFF, start + _ARM64_IMAGE)
    return found if text is None else found._replace(text=text, how=found.how + "; page tables for the image")


def _aarch64_table(reader: DumpReader, image: MemoryImage, info: VmcoreInfo, budget: Budget) -> PageTable | None:
    root, voffset, start = info.symbol("swapper_pg_dir"), info.number("kimage_voffset"), info.symbol("_stext")
    if root is None or voffset is None or start is None:
        return None
    shift = (info.page_size or reader.machine.page_size).bit_length() - 1
    for bits in Arm64PageTable.widths(shift, info.number("VA_BITS") or 48, info.number("TCR_EL1_T1SZ")):
        table = Arm64PageTable(image, root - voffset & _MASK, shift, bits, budget)
        with suppress(DumpError):
            if table.translate(start) == start - voffset & _MASK:
                return table
    return None


def _aarch64_linear(info: VmcoreInfo) -> AddressMap | None:
    bits, ram = info.number("VA_BITS"), info.number("PHYS_OFFSET")
    if bits is None or ram is None or not 36 <= bits <= 52:
        return None
    # Since 5.4 the linear map is the lower half of the kernel's space; before, the upper. Linux commit
    # 14c127c957c1 ("arm64: mm: Flip kernel VA space"). VMALLOC_START tells which.
    base = -1 << bits & _MASK
    vmalloc = info.number("VMALLOC_START")
    if vmalloc is not None and (vmalloc & _MASK) < (-1 << (bits - 1) & _MASK):
        base = -1 << (bits - 1) & _MASK
    # With KASLR PHYS_OFFSET may lie below 0: the sum counts, modulo 2**64.
    linear = ((0, base - ram & _MASK, _MASK),)
    return AddressMap("derived", "VMCOREINFO VA_BITS and PHYS_OFFSET", linear)
