# SPDX-License-Identifier: GPL-2.0-or-later
"""p_vaddr by architecture, as section 3 of the ELF sheet has it; page tables that lead nowhere good."""

from __future__ import annotations

import struct
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dumpconv.formats.errors import DumpError, PageDecodeError
from dumpconv.formats.image import DumpImage
from dumpconv.formats.pagetable import X86PageTable
from dumpconv.formats.vaddr import AddressMap, derive
from support import build_elf, build_kdump, notes, patterns, product, x86_memory
from support.build_elf import ElfSpec, Segment
from support.x86_memory import PRESENT_LEAF, PRESENT_TABLE, TEXT_BASE, X86Memory

ONES = (1 << 64) - 1


def derived(spec: ElfSpec | build_kdump.KdumpSpec, folder: Path) -> AddressMap:
    made = build_elf.build(spec) if isinstance(spec, ElfSpec) else build_kdump.build(spec)
    reader = product.open_product(made.write_to(folder / "dump"))
    return derive(reader, DumpImage(reader))


def vaddr(found: AddressMap, paddr: int) -> int:
    return int(found.vaddr(np.array([paddr], np.uint64))[0])


@pytest.mark.parametrize("memory", [x86_memory.plain(), x86_memory.kaslr()], ids=["plain", "kaslr"])
def test_x86_64_by_its_page_tables(memory: X86Memory, tmp_path: Path) -> None:
    for spec in (memory.kdump_spec(), memory.elf_spec(), memory.elf_spec(with_vaddr=False, text_alias=False)):
        found = derived(spec, tmp_path)
        assert found.origin == "derived"
        assert vaddr(found, memory.start_pfn << 12) == memory.direct_base + (memory.start_pfn << 12)
        assert found.text is not None
        assert found.text[:2] == (memory.text_paddr, memory.text_vaddr)


def five_levels(direct_base: int = 0xFF11000000000000) -> X86Memory:
    """The plain memory below a fifth level of tables: page 9 is the new top."""
    memory = x86_memory.plain()
    pages = dict(memory.pages)
    index = [direct_base >> shift & 511 for shift in (48, 39, 30)]
    pages[2] = table({index[1]: 0x3000 | PRESENT_TABLE})  # P4D of the direct map
    pages[3] = table({index[2]: PRESENT_LEAF})
    pages[10] = table({511: 0x4000 | PRESENT_TABLE})  # P4D of the text
    pages[9] = table({index[0]: 0x2000 | PRESENT_TABLE, 511: 0xA000 | PRESENT_TABLE})
    text = memory.vmcoreinfo.replace(b"pgtable_l5_enabled)=0", b"pgtable_l5_enabled)=1")
    text = text.replace(b"ffffffff80002000", b"ffffffff80009000").replace(b"ffff888000007000", b"ff11000000007000")
    return X86Memory(pages, 0, memory.end_pfn, direct_base, 0, memory.text_vaddr, 0, memory.text_size, text)


def table(entries: dict[int, int]) -> bytes:
    out = bytearray(4096)
    for index, entry in entries.items():
        struct.pack_into("<Q", out, 8 * index, entry)
    return bytes(out)


def test_x86_64_with_five_levels(tmp_path: Path) -> None:
    found = derived(five_levels().kdump_spec(), tmp_path)
    assert (found.origin, vaddr(found, 0x5000)) == ("derived", 0xFF11000000005000)
    assert "5 levels" in found.how
    assert found.text is not None
    assert found.text[:2] == (0, TEXT_BASE)


def test_x86_64_without_tables_takes_the_sources_addresses(tmp_path: Path) -> None:
    data = b"".join(patterns.pages(1, 9).values())
    text = Segment(0x3000, data[0x2000:0x4000], vaddr=0xFFFFFFFF81000000)
    ram = Segment(0x1000, data, vaddr=0xFFFF888000001000)
    found = derived(ElfSpec([text, ram], notes=notes.machine_notes()), tmp_path)
    assert (found.origin, vaddr(found, 0x3000)) == ("source", 0xFFFF888000003000)
    assert found.text == (0x3000, 0xFFFFFFFF81000000, 0x2000)
    for nothing in (ONES, 0, None):
        found = derived(ElfSpec([Segment(0x1000, data, vaddr=nothing)], notes=notes.machine_notes()), tmp_path)
        assert (found.origin, vaddr(found, 0x3000), found.text) == ("physical", 0x3000, None)


ARCHITECTURES: dict[str, tuple[dict[str, str], int, int]] = {
    # VMCOREINFO, a physical address of memory from 0x80000000 on, its virtual one
    "ppc64": ({}, 0x80001000, 0xC000000080001000),
    "ia64": ({}, 0x80001000, 0xE000000080001000),
    "loongarch64": ({}, 0x80001000, 0x9000000080001000),
    "mips64": ({}, 0x80001000, 0x9800000080001000),
    "s390x": ({}, 0x80001000, 0x80001000),
    "arm": ({}, 0x80001000, 0xC0001000),
    "riscv64": (
        {"NUMBER(phys_ram_base)": "0x80000000", "NUMBER(PAGE_OFFSET)": "0xff60000000000000"},
        0x80001000,
        0xFF60000000001000,
    ),
    "aarch64": ({"NUMBER(VA_BITS)": "48", "NUMBER(PHYS_OFFSET)": "0x80000000"}, 0x80001000, 0xFFFF000000001000),
}


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_other_architectures_by_rule(arch: str, tmp_path: Path) -> None:
    keys, paddr, expected = ARCHITECTURES[arch]
    facts = notes.ARCHES[arch]
    blob = notes.machine_notes(arch, text=notes.vmcoreinfo_text(keys=keys))
    data = b"".join(patterns.pages(0, 4).values())
    spec = ElfSpec([Segment(0x80000000, data)], notes=blob, bits=facts.bits, order=facts.order, machine=facts.machine)
    found = derived(spec, tmp_path)
    assert (found.origin, vaddr(found, paddr)) == ("derived", expected)


def test_i386_has_no_address_for_high_memory(tmp_path: Path) -> None:
    data = b"".join(patterns.pages(0, 4).values())
    spec = ElfSpec(
        [Segment(0x1000, data), Segment(0x40000000, data)], notes=notes.machine_notes("i386"), bits=32, machine=3
    )
    found = derived(spec, tmp_path)
    assert (vaddr(found, 0x1000), vaddr(found, 0x40000000)) == (0xC0001000, ONES)


class Loop:
    """Memory in which every table is full of entries that lead to table 0."""

    machine: Any = SimpleNamespace(page_size=4096)
    memory_map: Any = None

    def __init__(self, entry: int) -> None:
        self.page = struct.pack("<Q", entry) * 512
        self.reads = 0

    def read_physical(self, paddr: int, size: int) -> bytes:
        self.reads += 1
        if paddr >> 52:
            raise PageDecodeError("not there")
        return self.page[:size]


@pytest.mark.parametrize("entry", [0x3, 0x1003, 0x000FFFFFFFFFF003, ONES, 0x83])
@pytest.mark.parametrize("levels", [4, 5])
def test_tables_that_lead_in_a_loop_end(entry: int, levels: int) -> None:
    memory = Loop(entry)
    tables = X86PageTable(memory, 0, levels)
    begin = time.process_time()
    for number, _ in enumerate(tables.mappings(0xFFFF880000000000, ONES)):
        if number > 100000:
            break
    assert time.process_time() - begin < 2
    assert memory.reads < 5000
    try:
        tables.translate(TEXT_BASE)
    except DumpError as error:
        assert "lead on and on" in str(error)
