# SPDX-License-Identifier: GPL-2.0-or-later
"""Dumps whose first bytes are damaged are told as such, by what lies behind; what is no dump is not."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from dumpconv.formats import open_dump
from dumpconv.formats.errors import CorruptDump, DumpError, UnknownFormat
from support import build_elf, build_kdump, notes
from support.build_elf import ElfSpec, Segment
from support.command import dumpconv, dumpverify, one_line

PAGES = {pfn: bytes([pfn]) * 4096 for pfn in range(1, 9)}
TEXT = b"OSRELEASE=6.1.0-test\nPAGESIZE=4096\n"


UTS = {"<": {"machine": "x86_64", "sysname": "Linux"}, ">": {"machine": "ppc64", "sysname": "Linux"}}


def kdump(folder: Path, *, text: bytes = TEXT, **more: Any) -> Path:
    path = folder / "dump"
    note = notes.encode(b"VMCOREINFO\0", 0, text, order=more.get("order", "<"))
    spec = build_kdump.KdumpSpec(**{"pages": PAGES, "notes": note, "vmcoreinfo": text, "uts": UTS["<"], **more})
    path.write_bytes(build_kdump.build(spec).to_bytes())
    return path


def elf(folder: Path) -> Path:
    path = folder / "dump"
    parts = [Segment(pfn * 4096, page) for pfn, page in PAGES.items()]
    note = notes.encode(b"VMCOREINFO\0", 0, TEXT)
    path.write_bytes(build_elf.build(ElfSpec(parts, notes=note)).to_bytes())
    return path


def damage(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def refused(path: Path) -> DumpError:
    with pytest.raises(DumpError) as caught:
        open_dump([str(path)])
    return caught.value


@pytest.mark.parametrize(("block_size", "order"), [(4096, "<"), (65536, ">")])
@pytest.mark.parametrize("data", [bytes(512), bytes(4096), random.Random(1).randbytes(64)])
def test_a_kdump_without_its_main_header(tmp_path: Path, data: bytes, block_size: int, order: str) -> None:
    text = TEXT.replace(b"4096", str(block_size).encode())
    pages = {pfn: bytes([pfn]) * block_size for pfn in range(1, 4)}
    path = kdump(tmp_path, text=text, pages=pages, page_size=block_size, order=order, uts=UTS[order])
    whole = path.read_bytes()
    damage(path, 0, data)
    error = refused(path)
    assert isinstance(error, CorruptDump)
    assert error.message.startswith(f"the first {block_size} bytes, a kdump's main header, are damaged")
    assert f"bs={block_size} count=1" in str(error)
    damage(path, 0, whole[:block_size])  # what the hint says
    assert open_dump([str(path)]).name == "kdump"


def test_a_kdump_without_its_signature_can_be_forced(tmp_path: Path) -> None:
    path = kdump(tmp_path)
    damage(path, 0, b"\0")
    done = dumpconv("info", path)
    assert done.returncode == 3
    assert "a kdump by all but its signature" in one_line(done)
    assert dumpconv("info", "-f", "kdump", path).returncode == 0
    assert dumpverify("--level", "structure", path).returncode == 3


@pytest.mark.parametrize("size", [4, 64])
def test_an_elf_core_without_its_header(tmp_path: Path, size: int) -> None:
    path = elf(tmp_path)
    whole = path.read_bytes()
    damage(path, 0, bytes(size))
    error = refused(path)
    assert isinstance(error, CorruptDump)
    assert "9 program headers of an ELF core follow at 0x40" in error.message
    assert "e_phnum 9" in str(error)
    damage(path, 0, whole[:64])
    assert open_dump([str(path)]).name == "elf"


def test_an_elf_core_without_its_program_headers_is_damaged(tmp_path: Path) -> None:
    path = elf(tmp_path)
    damage(path, 64, bytes(9 * 56))
    done = dumpconv("info", path)
    assert done.returncode == 3
    assert "none of its 9 program headers is of memory or notes" in one_line(done)


def test_what_is_no_dump_is_none(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for data, said in (
        (b"", "nothing (the file is empty)"),
        (b"hello\n" * 1000, "begins with 68 65 6c 6c 6f 0a"),
        (bytes(1 << 17), "begins with zeros, and the first 65536 bytes of 131072 are"),
        (bytes(4096) + TEXT, "VMCOREINFO of a kernel 6.1.0-test is at 0x1000"),
        (random.Random(3).randbytes(1 << 17), "no known dump format begins with"),
        (b"\x01" * (1 << 17), "begins with 01 01"),
        (b"\x04\0\0\0" * (1 << 15), "begins with 04 00"),
    ):
        path.write_bytes(data)
        error = refused(path)
        assert isinstance(error, UnknownFormat)
        assert said in error.message
    done = dumpconv("info", "-", input=random.Random(4).randbytes(1 << 17))
    assert done.returncode == 6
    assert "no known dump format" in one_line(done)
