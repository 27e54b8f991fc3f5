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

from dumpconv.cli import main
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


def hostile_tables(nr_pages: int = 512) -> X86Memory:
    """The plain memory with a direct map, and a text range that is mapped page by page, all of it, to one table."""
    memory = x86_memory.plain(nr_pages)
    pages = dict(memory.pages)
    pages[4] = table(dict.fromkeys(range(512), 0x5000 | PRESENT_TABLE))
    pages[5] = table(dict.fromkeys(range(512), 0x6000 | PRESENT_TABLE))
    pages[6] = table({index: (index % nr_pages << 12) | 0x63 for index in range(512)})
    return X86Memory(pages, 0, memory.end_pfn, memory.direct_base, 0, memory.text_vaddr, 0, 0, memory.vmcoreinfo)


@pytest.mark.parametrize("nr_bases", [0, 1000])
def test_text_range_full_of_pages_is_walked_once(nr_bases: int, tmp_path: Path) -> None:
    # each text segment is a place where the kernel may have been loaded, and where its tables may be
    spec = hostile_tables().elf_spec(text_alias=False)
    spec.segments += [Segment(8 * at, bytes(8), vaddr=TEXT_BASE - (at % 3 << 12)) for at in range(nr_bases)]
    reader = product.open_product(build_elf.build(spec).write_to(tmp_path / "dump"))
    begin = time.process_time()
    derive(reader, DumpImage(reader))
    assert time.process_time() - begin < 4


def test_addresses_of_more_segments_than_are_looked_at_one_by_one(tmp_path: Path) -> None:
    # the source has them in falling order, its copy in rising order: both give each frame the same address
    nr_segments = 70000
    places = {"p_offset": 1 << 23, "p_filesz": 4096, "p_memsz": 4096}
    segments = [
        Segment(at << 14, b"", vaddr=0xFFFF888000000000 + (at << 15), fields=places) for at in range(nr_segments, 0, -1)
    ]
    segments.append(Segment(0, patterns.page(1), vaddr=0xFFFF888000000000, fields={"p_offset": 1 << 23}))
    image = build_elf.build(ElfSpec(segments, notes=notes.machine_notes(), xnum=True))
    image.file.put(1 << 23, patterns.page(1))
    source, first, second = (str(tmp_path / name) for name in ("source", "first", "second"))
    image.write_to(source)
    assert main([source, first, "--no-fsync"]) == 0
    found = {paddr: vaddr for vaddr, paddr in loads(Path(first))}
    assert len(found) == nr_segments + 1
    assert all(vaddr == 0xFFFF888000000000 + 2 * paddr for paddr, vaddr in found.items())
    assert main([first, second, "--no-fsync"]) == 0
    with open(first, "rb") as one, open(second, "rb") as other:
        while data := one.read(1 << 24):
            assert data == other.read(1 << 24)
        assert not other.read(1)


def loads(path: Path) -> list[tuple[int, int]]:
    """Give p_vaddr and p_paddr of a 64-bit little-endian file's PT_LOADs."""
    with path.open("rb") as stream:
        head = stream.read(64)
        count = struct.unpack_from("<H", head, 56)[0]
        if count == 0xFFFF:
            stream.seek(struct.unpack_from("<Q", head, 40)[0])
            count = struct.unpack_from("<I", stream.read(64), 44)[0]
        stream.seek(64)
        rows = struct.iter_unpack("<II6Q", stream.read(56 * count))
        return [(row[3], row[4]) for row in rows if row[0] == 1]


def test_memory_of_unknown_address_between_segments_of_one_offset(tmp_path: Path) -> None:
    page, base = patterns.page(1), 0xFFFF888000000000
    segments = [Segment(0x1000, page, vaddr=base + 0x1000), Segment(0x8000, page, vaddr=base + 0x8000)]
    spec = ElfSpec([*segments, Segment(0x4000, page, vaddr=ONES)], notes=notes.machine_notes())
    found = derived(spec, tmp_path)
    assert [vaddr(found, paddr) for paddr in (0x1000, 0x4000, 0x8000)] == [base + 0x1000, ONES, base + 0x8000]
    # over a hole one offset is one range: --holes need not cut there
    assert derived(ElfSpec(segments, notes=notes.machine_notes()), tmp_path).edges() == [0x1000, 0x9000]
