# SPDX-License-Identifier: GPL-2.0-or-later
"""Netdump: which ELF files are one, the i386 rule beyond 4 GiB, notes without NUL, the page size of p_align."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import pytest

from dumpconv.formats.errors import DumpError
from dumpconv.formats.notes import prstatus_registers
from dumpconv.formats.pages import PageState
from support import build_netdump, command, corpus_netdump, notes, patterns, product
from support.build_elf import ElfSpec, build
from support.build_netdump import netdump_notes, segment, spec

ONE = [segment("x86_64", 0, corpus_netdump.memory(0, 3))]


def opened(described: ElfSpec, tmp_path: Path, name: str = "vmcore", **more: object):  # type: ignore[no-untyped-def]
    return product.open_product(build(described).write_to(tmp_path / name), salvage=True, **more)


@pytest.mark.parametrize(
    ("described", "name"),
    [
        (spec("x86_64", ONE), "netdump"),
        (spec("x86_64", [replace(ONE[0], align=0)]), "elf"),  # /proc/vmcore, makedumpfile, QEMU
        (spec("x86_64", ONE, placement="packed"), "elf"),  # p_offset is not on a page border
        (spec("x86_64", ONE, notes=netdump_notes() + notes.vmcoreinfo(notes.vmcoreinfo_text())), "elf"),
        (spec("x86_64", ONE, notes=netdump_notes(name=b"CORE\0")), "netdump"),
        (spec("x86_64", ONE, notes=netdump_notes(name=b"CORE\0", task=None)), "elf"),
        (spec("x86_64", ONE, notes=netdump_notes(name=b"CORE\0", task=None, dump_level=0)), "netdump"),
        (spec("x86_64", ONE, notes=netdump_notes(task=None)), "netdump"),
        # a process core of Linux 2.4: NT_TASKSTRUCT holds the whole structure
        (spec("x86_64", ONE, notes=notes.prstatus() + notes.encode(b"CORE\0", 4, bytes(1600))), "elf"),
        (spec("x86_64", ONE, notes=notes.qemu_x86() + netdump_notes()), "elf"),  # the first note is another's
        (spec("x86_64", ONE, notes_last=True), "elf"),
        (spec("x86_64", ONE, notes=[]), "elf"),  # one program header
    ],
)
def test_what_is_a_netdump(described: ElfSpec, name: str, tmp_path: Path) -> None:
    assert opened(described, tmp_path).name == name


def test_the_option_decides(tmp_path: Path) -> None:
    assert opened(spec("x86_64", ONE), tmp_path, format="elf").name == "elf"
    assert opened(spec("x86_64", ONE, notes=notes.prstatus()), tmp_path, format="netdump").name == "netdump"


@pytest.mark.parametrize("told", ["modulo", "saturated"])
def test_i386_beyond_4_gib(told: str, tmp_path: Path) -> None:
    """p_filesz has 32 bits; the file has 4 GiB and 3 pages. A sparse file: the frames between are zeros."""
    last = (1 << 20) + 2
    filesz = 3 * 4096 if told == "modulo" else 0xFFFFF000
    described = spec("i386", [segment("i386", 0, patterns.page(0), fields={"p_filesz": filesz, "p_memsz": filesz})])
    path = build(described).write_to(tmp_path / "vmcore")
    with path.open("r+b") as stream:
        stream.seek(4096 + last * 4096)
        stream.write(patterns.page(last))
    reader = product.open_product(path)
    assert reader.damage is None
    assert [tuple(run) for run in reader.memory_map] == [(0, last + 1, PageState.STORED)]
    found = product.image_pages(reader, [0, 5, last])
    assert found == {0: patterns.page(0), 5: bytes(4096), last: patterns.page(last)}


def test_i386_beyond_4_gib_and_cut(tmp_path: Path) -> None:
    """4 GiB and 2 pages are there, p_filesz says 3 pages modulo 2^32: the third is lost."""
    described = spec("i386", [segment("i386", 0, patterns.page(0), fields={"p_filesz": 3 * 4096, "p_memsz": 3 * 4096})])
    path = build(described).write_to(tmp_path / "vmcore")
    with path.open("r+b") as stream:
        stream.truncate(4096 + (1 << 32) + 2 * 4096)
    reader = product.open_product(path, salvage=True)
    whole = (1 << 20) + 2
    assert [tuple(run) for run in reader.memory_map] == [
        (0, whole, PageState.STORED), (whole, whole + 1, PageState.LOST)
    ]  # fmt: skip
    with pytest.raises(DumpError, match=r"needs file bytes up to 0x100004000, the file has 4294979584"):
        raise reader.damage  # type: ignore[misc]


@pytest.mark.parametrize("arch", build_netdump.KINDS)
def test_registers_and_task(arch: str, tmp_path: Path) -> None:
    facts = notes.ARCHES[arch]
    count = facts.regs_size // (facts.bits // 8)
    registers = [0x1234 + index for index in range(count)]
    size = build_netdump.KINDS[arch].page_size
    described = spec(
        arch,
        [segment(arch, 0, patterns.page(0, size))],
        notes=netdump_notes(arch, registers=registers, task=0xC0123000, switch_stack=0xE5678000, dump_level=3),
    )
    reader = opened(described, tmp_path)
    assert prstatus_registers(reader.notes[0], arch, reader.machine.byteorder) == tuple(registers)
    assert [(note.raw_name, note.type) for note in reader.notes] == [
        (b"CORE", 1), (b"CORE", 3), (b"CORE", 4), (b"CORE", 0x70000001)
    ]  # fmt: skip
    facts_told = {key: reader.facts[key] for key in ("panic_task", "switch_stack", "dump_level")}
    assert facts_told == {"panic_task": "0xc0123000", "switch_stack": "0xe5678000", "dump_level": 3}
    assert "holes" in [finding.code for finding in reader.findings]


def test_a_task_of_no_bytes_is_no_task(tmp_path: Path) -> None:
    empty = netdump_notes(task=None) + notes.encode(b"CORE", 4, b"")
    assert opened(spec("x86_64", ONE, notes=empty), tmp_path).facts["panic_task"] is None


@pytest.mark.parametrize(
    ("align", "size"), [(16384, 16384), (65536, 65536), (3, 16384), (1 << 40, 16384), (512, 16384)]
)
def test_the_page_size_is_that_of_p_align(align: int, size: int, tmp_path: Path) -> None:
    part = segment("ia64", 0, patterns.page(0, 65536), align=align)
    assert opened(spec("ia64", [part], notes=netdump_notes("ia64")), tmp_path).machine.page_size == size


def test_incomplete_by_name(tmp_path: Path) -> None:
    assert not opened(spec("x86_64", ONE), tmp_path, "vmcore").incomplete
    reader = opened(spec("x86_64", ONE), tmp_path, "vmcore-incomplete")
    assert reader.incomplete
    assert "zeros" in next(finding.message for finding in reader.findings if finding.code == "holes")


def test_the_source_s_addresses_are_kept(tmp_path: Path) -> None:
    reader = opened(spec("x86_64", ONE), tmp_path)
    assert [tuple(row) for row in reader.segments[["paddr", "vaddr"]].tolist()] == [(0, 0x10000000000)]


def test_a_big_endian_file_byte_by_byte(tmp_path: Path) -> None:
    """Written out by hand: ppc64, one page at physical 0x1000, the note's name without NUL."""
    ident = bytes.fromhex("7f454c46 02 02 01 00 0000000000000000")
    ehdr = struct.pack(">HHIQQQIHHHHHH", 4, 21, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    note = bytes.fromhex("00000004 00000008 00000004 434f5245 c000000001230000")
    note_phdr = struct.pack(">IIQQQQQQ", 4, 0, 64 + 112, 0, 0, len(note), len(note), 0)
    load = struct.pack(">IIQQQQQQ", 1, 7, 4096, 0xC000000000001000, 0x1000, 4096, 4096, 4096)
    data = (ident + ehdr + note_phdr + load + note).ljust(4096, b"\0") + patterns.page(1)
    path = tmp_path / "vmcore"
    path.write_bytes(data)
    reader = product.open_product(path)
    assert (reader.name, reader.machine.arch, reader.machine.byteorder) == ("netdump", "ppc64", "big")
    assert (reader.machine.page_size, reader.facts["panic_task"]) == (4096, "0xc000000001230000")
    assert product.view(reader).pages == {1: patterns.page(1)}


@pytest.mark.parametrize("split", [0xC0000000, 0x02000000])
def test_the_split_of_i386_is_the_sources(split: int, tmp_path: Path) -> None:
    """Hugemem kernels (4G/4G): PAGE_OFFSET is 0x02000000, and p_vaddr tells."""
    described = spec("i386", [segment("i386", 0, corpus_netdump.memory(0, 3), vaddr=split)])
    out = tmp_path / "out"
    done = command.dumpconv(build(described).write_to(tmp_path / "vmcore"), out, "--no-fsync")
    assert done.returncode == 0, done.stderr
    load = struct.unpack_from("<8I", out.read_bytes(), 52 + 32)
    assert (load[0], load[2], load[3]) == (1, split, 0)
