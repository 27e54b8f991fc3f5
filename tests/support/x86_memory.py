# SPDX-License-Identifier: GPL-2.0-or-later
"""A small x86_64 memory with real page tables that makedumpfile and drgn accept (docs/formats/elf.md section 10)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from . import notes, patterns
from .build_elf import ElfSpec, Segment
from .build_kdump import UTS_FIELDS, KdumpSpec

PAGE = 4096
TEXT_BASE = 0xFFFFFFFF80000000
PRESENT_LEAF = 0xE3  # present, writable, accessed, dirty, large
PRESENT_TABLE = 0x3
RELEASE = "6.1.0-test"


@dataclass(frozen=True)
class X86Memory:
    """RAM [start_pfn, end_pfn) and the facts a reader must derive from it."""

    pages: dict[int, bytes]
    start_pfn: int
    end_pfn: int
    direct_base: int  # virtual address of physical 0
    phys_base: int
    text_vaddr: int  # the kernel text alias
    text_paddr: int
    text_size: int
    vmcoreinfo: bytes

    @property
    def notes(self) -> bytes:
        return notes.machine_notes("x86_64", cpus=2, text=self.vmcoreinfo)

    @property
    def data(self) -> bytes:
        return b"".join(self.pages[pfn] for pfn in range(self.start_pfn, self.end_pfn))

    def elf_spec(self, *, with_vaddr: bool = True, text_alias: bool = True) -> ElfSpec:
        """Describe /proc/vmcore of this machine; without addresses p_vaddr is 0 everywhere."""
        ram_paddr = self.start_pfn * PAGE
        ram = Segment(ram_paddr, self.data, vaddr=self.direct_base + ram_paddr if with_vaddr else 0)
        segments = [ram]
        if text_alias:
            start = self.text_paddr - ram_paddr
            text = self.data[start : start + self.text_size]
            segments.insert(0, Segment(self.text_paddr, text, vaddr=self.text_vaddr if with_vaddr else 0))
        return ElfSpec(segments, notes=self.notes)

    def kdump_spec(self) -> KdumpSpec:
        """Describe a compressed kdump of this machine."""
        return KdumpSpec(
            pages=self.pages,
            notes=self.notes,
            vmcoreinfo=self.vmcoreinfo,
            phys_base=self.phys_base,
            nr_cpus=2,
            uts={"sysname": "Linux", "nodename": "host", "release": RELEASE, "version": "#1", "machine": "x86_64"},
        )


def plain(nr_pages: int = 512) -> X86Memory:
    """The sheet's fixture: RAM from 0, direct map 0xffff888000000000, phys_base 0."""
    return _memory(nr_pages, start=0, direct_base=0xFFFF888000000000, phys_base=0, kernel_offset=0)


def kaslr(nr_pages: int = 512, *, direct_base: int = 0xFFFF9B8E40000000) -> X86Memory:
    """The same with KASLR: a direct map at any multiple of 1 GiB, text moved, RAM where the kernel was loaded."""
    return _memory(nr_pages, start=0x13A00000, direct_base=direct_base, phys_base=0x10400000, kernel_offset=0x2600000)


def _memory(nr_pages: int, *, start: int, direct_base: int, phys_base: int, kernel_offset: int) -> X86Memory:
    """Pages 2-5 hold the tables, 7 the utsname, 8 the mem_map pointer, counted from the start of RAM."""
    first = start // PAGE
    pages = patterns.pages(first, first + nr_pages)
    text_vaddr = start - phys_base + TEXT_BASE  # virtual address of the start of RAM in the text mapping
    direct_pud, text_pud, text_pmd = (start + PAGE * index for index in (3, 4, 5))
    pages[first + 2] = _table(
        {_index(direct_base, 39): direct_pud | PRESENT_TABLE, _index(TEXT_BASE, 39): text_pud | PRESENT_TABLE}
    )
    pages[first + 3] = _table({_index(direct_base, 30): PRESENT_LEAF})
    pages[first + 4] = _table({_index(TEXT_BASE, 30): text_pmd | PRESENT_TABLE})
    size = nr_pages * PAGE
    pages[first + 5] = _table(
        {_index(text_vaddr + step, 21): (start + step) | PRESENT_LEAF for step in range(0, size, 1 << 21)}
    )
    uts = {"sysname": "Linux", "nodename": "host", "release": RELEASE, "version": "#1", "machine": "x86_64"}
    names = b"".join(uts.get(name, "").encode().ljust(65, b"\0") for name in UTS_FIELDS)
    pages[first + 7] = (bytes(4) + names).ljust(PAGE, b"\0")
    direct = direct_base + start
    pages[first + 8] = struct.pack("<Q", direct + 0x100000).ljust(PAGE, b"\0")
    keys = {
        "SYMBOL(init_uts_ns)": f"{direct + 0x7000:x}",
        "OFFSET(uts_namespace.name)": "4",
        "SYMBOL(swapper_pg_dir)": f"{text_vaddr + 0x2000:x}",
        "SYMBOL(init_top_pgt)": f"{text_vaddr + 0x2000:x}",
        "SYMBOL(_stext)": f"{text_vaddr + 0x1000:x}",
        "NUMBER(phys_base)": str(phys_base),
        "KERNELOFFSET": f"{kernel_offset:x}",
        "NUMBER(pgtable_l5_enabled)": "0",
        "NUMBER(sme_mask)": "0",
        "NUMBER(KERNEL_IMAGE_SIZE)": "1073741824",
        "SYMBOL(mem_map)": f"{direct + 0x8000:x}",
        "SIZE(page)": "64",
        "OFFSET(page.flags)": "0",
        "OFFSET(page._refcount)": "52",
        "OFFSET(page.mapping)": "24",
        "OFFSET(page.lru)": "8",
    }
    return X86Memory(
        pages,
        first,
        first + nr_pages,
        direct_base,
        phys_base,
        text_vaddr,
        start,
        min(size, 1 << 21),
        notes.vmcoreinfo_text(release=RELEASE, keys=keys),
    )


def _index(vaddr: int, shift: int) -> int:
    return vaddr >> shift & 511


def _table(entries: dict[int, int]) -> bytes:
    out = bytearray(PAGE)
    for index, entry in entries.items():
        struct.pack_into("<Q", out, 8 * index, entry)
    return bytes(out)


def pv_tables(shape: str, nr_data: int = 5) -> tuple[dict[int, bytes], dict[int, int], int]:
    """Give a small paravirtual guest that maps all its memory at the base of its direct map.

    Args:
        shape: "64": 4 levels at 0xffff880000000000; "pae": 3 at 0xc0000000; "32": 2 there, entries of 4 bytes.
        nr_data: Pages besides the tables.

    Returns:
        Pages by frame, machine frame by frame, machine frame of the top table.
    """
    levels = {"64": 4, "pae": 3, "32": 2}[shape]
    entry = 4 if shape == "32" else 8
    base = 0xFFFF880000000000 if shape == "64" else 0xC0000000
    total = levels + nr_data
    machine = {pfn: 0x54321 + 7 * (pfn * 5 % total) for pfn in range(total)}
    code = "<Q" if entry == 8 else "<I"
    memory = {pfn: struct.pack("<Q8s", pfn, b"-pvpage-") * (PAGE // 16) for pfn in range(levels, total)}
    for level in range(levels, 0, -1):  # the table of a level lies at frame level - 1
        page = bytearray(PAGE)
        bits = 9 if entry == 8 else 10
        index = base >> 12 + bits * (level - 1) & (1 << bits) - 1
        if shape == "pae" and level == 3:
            index = 3
        targets = range(total) if level == 1 else [level - 2]
        for number, pfn in enumerate(targets):
            struct.pack_into(code, page, entry * (index + number), machine[pfn] << 12 | 0x3)
        memory[level - 1] = bytes(page)
    return memory, machine, machine[levels - 1]
