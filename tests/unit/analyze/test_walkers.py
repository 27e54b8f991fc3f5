# SPDX-License-Identifier: GPL-2.0-or-later
"""Page tables whose entries are written out after the manuals: the physical address is worked out by hand.

That whole kernels are read so, too, is shown by traces: their stacks lie in vmalloc's range on aarch64, riscv64, s390x
and arm (tests/oracle/compare_stacks.py).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from unit.analyze.fake_kernel import FakePhysical

from dumpconv.analyze.errors import MissingTable, Unreadable
from dumpconv.analyze.kernel import Kernel
from dumpconv.analyze.walkers import ArmTables, I386Tables, Ppc64Tables, RiscvTables, S390Tables
from dumpconv.formats import open_dump
from dumpconv.formats.image import DumpImage
from dumpconv.formats.machine import Machine
from dumpconv.formats.machine_frames import MachineFrames
from dumpconv.formats.pagetable import Arm64PageTable
from dumpconv.formats.vaddr import kernel_table
from support import build_elf, notes
from support.build_elf import ElfSpec, Segment


def memory(kind: str, entries: Mapping[int, int], order: Any = "little") -> Any:
    """Give memory with entries of a struct kind by physical address."""
    found = FakePhysical(Machine("any", order, 8, 4096, 0))
    for address, value in entries.items():
        found.write(address, struct.pack(("<" if order == "little" else ">") + kind, value))
    return found


def test_i386_two_levels() -> None:
    # 0xC0801234: directory 0x302, table 1; 0xC0C01234: directory 0x303, a page of 4 MiB
    image = memory("I", {0x1000 + 4 * 0x302: 0x2063, 0x2000 + 4: 0x55063, 0x1000 + 4 * 0x303: 0x008000E3})
    tables = I386Tables(image, 0x1000, pae=False)
    assert tables.translate(0xC0801234) == 0x55234
    assert tables.translate(0xC0C01234) == 0x00801234
    assert tables.translate(0xC0802234) is None  # the entry is 0
    assert tables.translate(0xD0000000) is None
    assert tables.translate(1 << 32) is None


def test_i386_pae() -> None:
    # 0xC0201234: pointer 3, directory 1, table 1; 0xC0412345: a page of 2 MiB; bit 63 forbids execution
    entries = {
        0x1000 + 8 * 3: 0x2001,
        0x2000 + 8: 0x3063,
        0x3000 + 8: 1 << 63 | 0x9_8765_4063,
        0x2000 + 16: 0x1_2340_00E3,
    }
    tables = I386Tables(memory("Q", entries), 0x1000, pae=True)
    assert tables.translate(0xC0201234) == 0x9_8765_4234
    assert tables.translate(0xC0412345) == 0x1_2341_2345
    assert tables.translate(0x40000000) is None


def test_arm_short_descriptors() -> None:
    # 0xBF801234: entry 0xBF8, small page 1; 0xC0012345: a section; 0xD0012345: a supersection; 0xE0012345: 64 KiB page
    entries = {
        0x4000 + 4 * 0xBF8: 0x8401,
        0x8400 + 4: 0x4567E,
        0x4000 + 4 * 0xC00: 0x40000C0E,
        0x4000 + 4 * 0xD00: 0x51040C0E,
        0x4000 + 4 * 0xE00: 0x8801,
        0x8800 + 4 * 0x12: 0x00AB0001,
    }
    tables = ArmTables(memory("I", entries), 0x4000, lpae=False)
    assert tables.translate(0xBF801234) == 0x45234
    assert tables.translate(0xC0012345) == 0x40012345
    assert tables.translate(0xD0012345) == 0x51012345
    assert tables.translate(0xE0012345) == 0x00AB2345
    assert tables.translate(0xBF802234) is None
    assert tables.translate(0xC0200000) is None


def test_arm_long_descriptors() -> None:
    entries = {0x4000 + 8 * 3: 0x5003, 0x5000 + 8: 0x6003, 0x6000 + 8: 0x40_1234_5703, 0x5000 + 16: 0x40_8000_0701}
    tables = ArmTables(memory("Q", entries), 0x4000, lpae=True)
    assert tables.translate(0xC0201ABC) == 0x40_1234_5ABC
    assert tables.translate(0xC0412345) == 0x40_8001_2345
    assert tables.translate(0x80000000) is None


@pytest.mark.parametrize(
    ("levels", "vaddr"), [(3, 0xFFFFFFC000201ABC), (4, 0xFFFF800000201ABC), (5, 0xFF00000000201ABC)]
)
def test_riscv64(levels: int, vaddr: int) -> None:
    # a pointer is V alone; the page number begins at bit 10
    tables, entries = [0x10000 + 0x1000 * level for level in range(levels)], {}
    for place, level in enumerate(range(levels - 1, 0, -1)):
        entries[tables[place] + 8 * (vaddr >> 12 + 9 * level & 511)] = tables[place + 1] >> 12 << 10 | 1
    entries[tables[-1] + 8] = 0x80200 << 10 | 0xCF
    entries[tables[-2] + 16] = 0x80400 << 10 | 0xCF  # 2 MiB
    entries[tables[-1] + 16] = 0x80200 << 10  # not valid
    walker = RiscvTables(memory("Q", entries), tables[0], levels)
    assert walker.translate(vaddr) == 0x80200ABC
    assert walker.translate((vaddr & ~0x1FFFFF) + 0x212345) == 0x80412345
    assert walker.translate((vaddr & ~0xFFF) + 0x1ABC) is None


def test_s390x_from_the_third_region_table_on() -> None:
    # type 1 in bits 2 and 3; segment entries point to 256 page entries; bit 0x20 is invalid, 0x400 a frame
    entries = {0x10000 + 8 * at: 0x24 for at in range(2048)} | {0x18000 + 8 * at: 0x20 for at in range(2048)}
    entries[0x10000 + 8] = 0x18007  # region 1: 2 GiB
    entries[0x18000 + 16] = 0x1C800  # segment 2
    entries[0x18000 + 24] = 0x12300000 | 0x400  # segment 3: a frame of 1 MiB
    entries[0x1C800 + 8 * 5] = 0x7654000
    entries[0x1C800 + 8 * 6] = 0x7654400
    walker = S390Tables(memory("Q", entries, "big"), 0x10000)
    assert walker.translate(0x80205ABC) == 0x7654ABC
    assert walker.translate(0x80312345) == 0x12312345
    assert walker.translate(0x80206ABC) is None
    assert walker.translate(0x80400000) is None
    assert walker.translate(1 << 42) is None
    with pytest.raises(MissingTable):
        S390Tables(memory("Q", {0x10000 + 8 * at: 0x24 for at in range(2048)}, "big"), 0x10000)


def radix(*, page_bits: int) -> Any:
    # 0xC008000000212345: bit 51 of 52; tables of 13, 9, 9 and 5 (64 KiB pages) or 9 (4 KiB) bits; big-endian always
    image = FakePhysical(Machine("ppc64", "little", 8, 65536, 21))
    for pfn in range(0x100, 0x110):
        image.pages[pfn] = bytearray(4096)
    upper, last = 1 << 63, 1 << 63 | 1 << 62
    for address, value in {
        0x100000 + 8 * (1 << 12): upper | 0x110000 | 9,
        0x110000: upper | 0x120000 | 9,
        0x120000 + 8: upper | 0x130000 | page_bits,
        0x130000 + 8 * (1 if page_bits == 5 else 0x12): last | 0x00000345_60000000 | 0x18E,
        0x120000 + 16: last | 0x00000456_00200000 | 0x18E,
    }.items():
        image.write(address, struct.pack(">Q", value))
    return image


def test_ppc64_radix() -> None:
    assert Ppc64Tables(radix(page_bits=5), 0x100000).translate(0xC008000000212345) == 0x345_6000_2345
    assert Ppc64Tables(radix(page_bits=9), 0x100000).translate(0xC008000000212345) == 0x345_6000_0345
    tables = Ppc64Tables(radix(page_bits=5), 0x100000)
    assert tables.translate(0xC008000000412345) == 0x456_0021_2345  # 2 MiB
    assert tables.translate(0xC008000000000000) is None
    assert tables.translate(0xC009000000000000) is None


def test_ppc64_with_a_hash_table_is_not_read() -> None:
    image = radix(page_bits=5)
    image.write(0x100000, struct.pack(">Q", 0xC000000001230000))
    image.write(0x100008, struct.pack(">Q", 0x0000000001230000))
    with pytest.raises(MissingTable, match="hash table"):
        Ppc64Tables(image, 0x100000)


@pytest.mark.parametrize(
    ("shift", "bits", "vaddr", "levels"),
    [
        (12, 39, 0xFFFFFFC000201ABC, 3),
        (12, 48, 0xFFFF800000201ABC, 4),
        (14, 47, 0xFFFF800002004ABC, 3),
        (14, 48, 0xFFFF000002004ABC, 4),
        (16, 42, 0xFFFFFE0020010ABC, 2),
        (16, 48, 0xFFFF000020010ABC, 3),
    ],
)
def test_arm64_granules(shift: int, bits: int, vaddr: int, levels: int) -> None:
    tables, entries, each = [0x100000 + 0x10000 * level for level in range(levels)], {}, shift - 3
    top = bits - shift - each * (levels - 1)  # bits of the first table
    assert 0 < top <= each
    for place, level in enumerate(range(levels - 1, 0, -1)):
        index = vaddr >> shift + each * level & (1 << (top if place == 0 else each)) - 1
        entries[tables[place] + 8 * index] = tables[place + 1] | 3
    entries[tables[-1] + 8] = 0x4560000 | 0x703
    walker = Arm64PageTable(memory("Q", entries), tables[0], shift, bits)
    assert walker.translate(vaddr) == 0x4560000 | vaddr & (1 << shift) - 1
    assert walker.translate(vaddr + (1 << shift)) is None


def test_arm64_52_bit_addresses() -> None:
    # 64 KiB pages: bits 48 to 51 of an address are in bits 12 to 15; the first table has 1024 entries, 48-bit addresses
    # of the kernel being in its last 64
    entries = {0x100000 + 8 * 1023: 0x110003, 0x110000 + 8: 0x120003, 0x120000 + 8: 0x4560000 | 0xA703 & 0xF703}
    walker = Arm64PageTable(memory("Q", entries), 0x100000, 16, 52)
    assert walker.translate(0xFFFFFC0020011ABC) == 0xA000004561ABC
    # LPA2, 4 KiB pages, five levels: bits 50 and 51 are in 8 and 9, 48 and 49 in their places
    entries = {
        0x100000 + 8 * 15: 0x110003,
        0x110000 + 8 * 511: 0x120003,
        0x120000 + 8 * 511: 0x130003,
        0x130000: 0x140003,
        0x140000 + 8: 0x0001_0000_0456_0000 | 0x200 | 0x403,
    }
    walker = Arm64PageTable(memory("Q", entries), 0x100000, 12, 52)
    assert walker.translate(0xFFFFFFFFC0001ABC) == 0x9_0000_0456_0ABC


@pytest.mark.parametrize(
    ("va_bits", "t1sz", "text"),
    [
        (52, 12, 0xFFF0000008010000),  # a processor that can do 52 bits
        (52, 16, 0xFFFF800008010000),  # one that cannot: it is told 48, and the address of the last 64 entries
        (48, None, 0xFFFF000010080000),  # 5.0 to 5.3, built for programs of 52 bits: VA_BITS says 48
    ],
)
def test_arm64_64_kib_pages_have_a_table_of_all_that_the_kernel_was_built_for(
    va_bits: int, t1sz: int | None, text: int, tmp_path: Path
) -> None:
    """Text at `text` is at 0x40080000: tables of 10, 13 and 13 bits from 0x40100000 on."""
    root, voffset = 0x40100000, text - 0x40080000
    memory = bytearray(0x40000)
    for at, index, entry in (
        (0, text >> 42 & 1023, 0x40110003),
        (0x10000, text >> 29 & 8191, 0x40120003),
        (0x20000, text >> 16 & 8191, 0x40080703),
    ):
        struct.pack_into("<Q", memory, at + 8 * index, entry)
    keys = {
        "SYMBOL(swapper_pg_dir)": f"{root + voffset:x}",
        "SYMBOL(_stext)": f"{text:x}",
        "NUMBER(kimage_voffset)": f"{voffset:#x}",
        "NUMBER(VA_BITS)": str(va_bits),
        "NUMBER(PHYS_OFFSET)": "0x40000000",
        **({} if t1sz is None else {"NUMBER(TCR_EL1_T1SZ)": f"{t1sz:#x}"}),
    }
    blob = notes.machine_notes("aarch64", text=notes.vmcoreinfo_text(page_size=65536, keys=keys))
    ram = [Segment(0x40080000, bytes(0x10000)), Segment(root, bytes(memory))]
    made = build_elf.build(ElfSpec(ram, notes=blob, machine=183)).write_to(tmp_path / "dump")
    reader = open_dump([str(made)])
    table = kernel_table(reader, DumpImage(reader), 1000)
    assert table is not None
    assert table.translate(text + 0x1234) == 0x40081234
    assert table.translate(text + 0x10000) is None
    memory_of_kernel = Kernel(reader).memory
    assert memory_of_kernel.translator is not None
    assert memory_of_kernel.translator.translate(text + 0x1234) == 0x40081234


def test_a_table_that_is_not_in_the_dump_is_no_answer() -> None:
    image = memory("Q", {0x1000: 0x2001, 0x1008: 0x3001, 0x1010: 0x4001, 0x1018: 0x5001})
    with pytest.raises(Unreadable):
        I386Tables(image, 0x1000, pae=True).translate(0xC0000000)


def test_machine_frames_lead_there_and_back() -> None:
    frames = MachineFrames.from_pairs(
        [(np.array([0, 1, 2, 8, 9], np.uint64), np.array([90, 91, 92, 40, 41], np.uint64))]
    )
    assert frames.address_of(0x2ABC, 12) == 92 << 12 | 0xABC
    assert frames.address_of(0x9123, 12) == 41 << 12 | 0x123
    assert [frames.address_of(pfn << 12, 12) for pfn in (3, 7, 10, 1 << 53)] == [None] * 4
    assert frames.paddr_of(92 << 12 | 0xABC, 12) == 0x2ABC
