# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernel addresses and names where no symbol and no VMCOREINFO tells them, from memory that is written out by hand."""

from __future__ import annotations

import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dumpconv.analyze.banner import banners, find_utsname
from dumpconv.analyze.errors import MissingTable, Unreadable
from dumpconv.analyze.kernel import Kernel
from dumpconv.analyze.machines import open_memory
from dumpconv.formats import open_dump
from dumpconv.formats.vmcoreinfo import VmcoreInfo
from support import build_elf, notes, x86_memory
from support.build_elf import ElfSpec, Segment
from support.command import dumpconv

PAGE = 4096
PAGING, PAE, LA57 = 0x80050033, 0x6F0, 0x16F0
OLD = "2.4.26"
UTS = ("Linux", "box", OLD, "#1 SMP Sa Apr 17 19:33:42 CEST 2004", "i686", "(none)")


def utsname(texts: tuple[str, ...]) -> bytes:
    return b"".join(text.encode().ljust(65, b"\0") for text in texts)


def opened(folder: Path, pages: dict[int, bytes], note: bytes, *, bits: int, machine: int) -> Kernel:
    """Give the kernel of a dump of these pages, each a segment of its own."""
    segments = [Segment(PAGE * pfn, page.ljust(PAGE, b"\0")) for pfn, page in sorted(pages.items())]
    spec = ElfSpec(segments, notes=note, bits=bits, machine=machine)
    build_elf.build(spec).write_to(folder / "vmcore")
    return Kernel(open_dump([str(folder / "vmcore")]))


# -- x86_64 -------------------------------------------------------------------------------------------------------


def x86_64(folder: Path, control: tuple[int, ...], more: dict[int, bytes] | None = None) -> Kernel:
    memory = x86_memory.kaslr(16)
    pages = {pfn: page for pfn, page in memory.pages.items() if pfn - memory.start_pfn != 7} | (more or {})
    note = notes.machine_notes("x86_64", cpus=1, text=b"") + notes.qemu_x86(control=control)
    return opened(folder, pages, note, bits=64, machine=62)


@pytest.mark.parametrize("low", [0, 0xABC])  # a process's number is in the low bits with PCID
def test_the_page_tables_of_a_cpu_are_the_kernels(tmp_path: Path, low: int) -> None:
    memory = x86_memory.kaslr(16)
    root = PAGE * (memory.start_pfn + 2)
    kernel = x86_64(tmp_path, (PAGING, 0, 0, root | low, PAE))
    assert kernel.memory.translate(memory.text_vaddr + 0x3004) == memory.text_paddr + 0x3004
    assert kernel.memory.read(memory.direct_base + PAGE * memory.start_pfn, 64) == memory.data[:64]


def test_of_a_cpu_in_user_mode_the_kernels_half_counts(tmp_path: Path) -> None:
    memory = x86_memory.kaslr(16)
    first = memory.start_pfn
    assert first % 2 == 0
    root = PAGE * (first + 2)  # the kernel's; user mode's is the page behind it, and maps one page only
    user = bytearray(PAGE)
    struct.pack_into("<Q", user, 8 * 511, PAGE * (first + 9) | 3)
    tables = {first + 3: bytes(user), first + 9: bytearray(PAGE), first + 10: bytearray(PAGE)}
    # the direct map's table moves, since its place is taken
    top = bytearray(memory.pages[first + 2])
    index = memory.direct_base >> 39 & 511
    struct.pack_into("<Q", top, 8 * index, PAGE * (first + 11) | 3)
    tables[first + 2], tables[first + 11] = bytes(top), memory.pages[first + 3]
    kernel = x86_64(tmp_path, (PAGING, 0, 0, root | PAGE, PAE), {pfn: bytes(page) for pfn, page in tables.items()})
    assert kernel.memory.translate(memory.text_vaddr + 5) == memory.text_paddr + 5


@pytest.mark.parametrize("control", [(0x10, 0, 0, 0, 0), (PAGING, 0, 0, 0x5000_0000, PAE)])
def test_without_tables_that_map_a_kernel_it_is_said(tmp_path: Path, control: tuple[int, ...]) -> None:
    with pytest.raises(MissingTable, match="cannot be translated"):
        assert x86_64(tmp_path, control).memory


# -- i386 ---------------------------------------------------------------------------------------------------------


def i386_pages(*, pae: bool) -> dict[int, bytes]:
    """Give 2 MiB of memory from 1 MiB on as lowmem, and one page of vmalloc at 0xc2800000."""
    pages = {pfn: b"page %d" % pfn for pfn in (0x100, 0x101, 0x2FF)}
    if pae:
        top = struct.pack("<4Q", 0, 0, 0, 0x11_001)
        middle = bytearray(PAGE)
        struct.pack_into("<2Q", middle, 0, 0x000_0E3, 0x200_0E3)  # two large pages
        struct.pack_into("<Q", middle, 8 * (0x2800000 >> 21), 0x12_003)
        low = struct.pack("<Q", 0x101_003)
        return pages | {0x10: top, 0x11: bytes(middle), 0x12: low}
    directory = bytearray(PAGE)
    struct.pack_into("<I", directory, 4 * (0xC0000000 >> 22), 0x0E3)
    struct.pack_into("<I", directory, 4 * (0xC2800000 >> 22), 0x12_003)
    return pages | {0x10: bytes(directory), 0x12: struct.pack("<I", 0x101_003)}


@pytest.mark.parametrize("pae", [False, True])
def test_i386_by_registers(tmp_path: Path, pae: bool) -> None:
    pages = i386_pages(pae=pae)
    note = notes.machine_notes("i386", cpus=1, text=b"")
    note += notes.qemu_x86(control=(PAGING, 0, 0, 0x10_000, 0x20 if pae else 0))
    kernel = opened(tmp_path, pages, note, bits=32, machine=3)
    assert kernel.memory.read(0xC0100000, 8) == b"page 256"
    assert kernel.memory.read(0xC2800000, 8) == b"page 257"  # behind RAM: not what lies at that distance
    assert kernel.memory.translate(0xC02FF000) == 0x2FF000
    with pytest.raises(Unreadable, match="not mapped"):
        kernel.memory.read(0xC2C00000, 1)


def test_i386_by_rule(tmp_path: Path) -> None:
    """Without registers: memory is mapped at 3 GiB, as it is but for odd configurations."""
    kernel = opened(tmp_path, {0x100: b"page 256"}, notes.machine_notes("i386", cpus=1, text=b""), bits=32, machine=3)
    assert kernel.memory.read(0xC0100000, 8) == b"page 256"
    with pytest.raises(Unreadable):
        kernel.memory.read(0xC2800000, 1)


def test_vmalloc_of_i386_is_not_taken_for_ram(tmp_path: Path) -> None:
    """With a swapper_pg_dir too: 32-bit kernels map vmalloc right behind RAM, below 896 MiB in small machines."""
    note = notes.machine_notes("i386", cpus=1, text=b"")
    kernel = opened(tmp_path, i386_pages(pae=False), note, bits=32, machine=3)
    memory = open_memory(kernel.reader, kernel.physical, VmcoreInfo(b"SYMBOL(swapper_pg_dir)=c0010000\n"))
    assert memory.read(0xC2800000, 8) == b"page 257"
    assert memory.read(0xC02FF000, 8) == b"page 767"


# -- names --------------------------------------------------------------------------------------------------------


def named(folder: Path, banner: str, texts: tuple[str, ...], *, decoy: bytes = b"") -> Kernel:
    page = decoy.ljust(512, b"\0") + f"Linux version {banner} (root@box) (gcc version 2.95.4) #1\n".encode()
    pages = {0x100: page.ljust(2048, b"\0") + utsname(texts)}
    return opened(folder, pages, notes.machine_notes("i386", cpus=1, text=b""), bits=32, machine=3)


def test_what_a_kernel_says_of_itself(tmp_path: Path) -> None:
    kernel = named(tmp_path, OLD, UTS, decoy=b"Linux version %s (%s)\0Linux version is old\0" + utsname(("Linux",)))
    assert [release for _, release in banners(kernel.physical)] == [OLD]
    assert kernel.utsname["nodename"] == "box"
    assert (kernel.release, kernel.version) == (OLD, (2, 4))
    done = dumpconv("analyze", tmp_path / "vmcore", "sys")
    for line in ("NODENAME: box", "RELEASE: 2.4.26", "VERSION: #1 SMP Sa Apr 17 19:33:42 CEST 2004", "MACHINE: i686"):
        assert line in done.stdout.decode()


@pytest.mark.parametrize(
    ("banner", "texts"),
    [
        ("2.4.27", UTS),  # of no kernel that is here
        (OLD, (*UTS[:3], "SMP", *UTS[4:])),  # versions begin with a number
        (OLD, (*UTS[:1], "b\x1b[31m", *UTS[2:])),
    ],
)
def test_what_is_no_utsname(tmp_path: Path, banner: str, texts: tuple[str, ...]) -> None:
    kernel = named(tmp_path, banner, texts)
    assert find_utsname(kernel.physical) == {}
    assert kernel.release == ""


def test_control_registers_that_are_cut(tmp_path: Path) -> None:
    """A note too short for the registers tells nothing."""
    from dumpconv.analyze.control import memory_by_registers

    kernel = x86_64(tmp_path, (PAGING, 0, 0, PAGE * (x86_memory.kaslr(16).start_pfn + 2), PAE))
    whole = next(note for note in kernel.reader.notes if note.name == b"QEMU")
    short = whole._replace(size=400)
    reader: Any = SimpleNamespace(
        machine=kernel.machine, notes=[short], page_table_roots=[], machine_frames=None, memory_map=None
    )
    assert memory_by_registers(reader, kernel.physical, search=False) is None


# -- page tables found by a search --------------------------------------------------------------------------------

NO_REGISTERS = notes.machine_notes("x86_64", cpus=1, text=b"")


def moved(pages: dict[int, bytes], text: bytes) -> dict[int, bytes]:
    """Give pages with a banner in the last one."""
    last = max(pages)
    return pages | {last: text.ljust(PAGE, b"\0")}


def test_x86_64_tables_are_known_by_where_they_lead(tmp_path: Path) -> None:
    memory = x86_memory.kaslr(16)
    banner = f"Linux version {x86_memory.RELEASE} (gcc)".encode()
    kernel = opened(tmp_path, moved(memory.pages, banner), NO_REGISTERS, bits=64, machine=62)
    assert kernel.info_origin == "none"
    assert kernel.memory.translate(memory.text_vaddr + 0x3004) == memory.text_paddr + 0x3004
    assert kernel.memory.read(memory.direct_base + PAGE * memory.start_pfn, 64) == memory.data[:64]


@pytest.mark.parametrize("broken", ["banner", "root", "last"])
def test_what_leads_nowhere_is_no_table(tmp_path: Path, broken: str) -> None:
    memory = x86_memory.kaslr(16)
    pages = moved(memory.pages, b"" if broken == "banner" else b"Linux version 2.6.9 (gcc)")
    root = memory.start_pfn + 2
    top = bytearray(pages[root])
    if broken == "root":  # an entry that is not present
        struct.pack_into("<Q", top, 8 * 300, 2)
    elif broken == "last":  # beyond memory
        struct.pack_into("<Q", top, 8 * 511, 1 << 45 | 3)
    kernel = opened(tmp_path, pages | {root: bytes(top)}, NO_REGISTERS, bits=64, machine=62)
    with pytest.raises(MissingTable, match="cannot be translated"):
        assert kernel.memory


@pytest.mark.parametrize("pae", [False, True])
def test_i386_tables_are_known_by_where_they_lead(tmp_path: Path, pae: bool) -> None:
    pages = i386_pages(pae=pae)
    decoy = bytearray(PAGE)  # has the right entry, and leads elsewhere
    struct.pack_into("<I", decoy, 4 * (0xC0000000 >> 22), 0x12_003)
    note = notes.machine_notes("i386", cpus=1, text=b"")
    kernel = opened(tmp_path, pages | {0x0F: bytes(decoy)}, note, bits=32, machine=3)
    assert kernel.memory.read(0xC0100000, 8) == b"page 256"
    assert kernel.memory.read(0xC2800000, 8) == b"page 257"


def test_i386_tables_of_a_kernel_at_two_gib(tmp_path: Path) -> None:
    pages = i386_pages(pae=False)
    directory = struct.pack("<I", 0x0E3)
    pages[0x10] = bytes(4 * (0x80000000 >> 22)) + directory
    kernel = opened(tmp_path, pages, notes.machine_notes("i386", cpus=1, text=b""), bits=32, machine=3)
    assert kernel.memory.read(0x80101000, 8) == b"page 257"
    with pytest.raises(Unreadable):
        kernel.memory.read(0xC0100000, 1)


def test_without_leave_to_search_nothing_is_searched(tmp_path: Path) -> None:
    memory = x86_memory.kaslr(16)
    opened(tmp_path, moved(memory.pages, b"Linux version 2.6.9 (gcc)"), NO_REGISTERS, bits=64, machine=62)
    kernel = Kernel(open_dump([str(tmp_path / "vmcore")]), search=False)
    with pytest.raises(MissingTable):
        assert kernel.memory
