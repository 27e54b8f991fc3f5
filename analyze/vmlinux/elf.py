# SPDX-License-Identifier: GPL-2.0-or-later
"""The file: an ELF64 ET_EXEC with one program header for each section in memory. Sparse, mode 0600, all or nothing."""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from .layout import ALLOC, NOBITS, PAGE, Section

__all__ = ["Chunk", "write_elf"]

_EHDR, _PHDR, _SHDR = 64, 56, 64
_X86_TEXT = 0xFFFFFFFF80000000
_MASK = 0xFFFFFFFFFFFFFFFF


@dataclass(slots=True)
class Chunk:
    """A section that is in the file only.

    Attributes:
        name, type, data: As in its header.
        link, info, entry_size, align: sh_link (name of a section), sh_info, sh_entsize, sh_addralign.
    """

    name: str
    type: int
    data: bytes | bytearray | memoryview
    link: str = ""
    info: int = 0
    entry_size: int = 0
    align: int = 1


@dataclass(slots=True)
class _Placed:
    name: str
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    align: int
    entry_size: int


def write_elf(
    path: str, machine: int, mark: str, memory: list[tuple[Section, Iterable[bytes]]], chunks: list[Chunk]
) -> None:
    """Write the file.

    Args:
        path: Replaced if it is there.
        machine: e_machine.
        mark: `<` or `>`.
        memory: Sections in memory and their contents, in the order of the program headers.
        chunks: Sections in the file only; .shstrtab is added.
    """
    folder = os.path.dirname(os.path.abspath(path))
    handle, temporary = tempfile.mkstemp(prefix=f".{os.path.basename(path)}.", dir=folder)  # mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            _fill(file, machine, mark, memory, chunks)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _fill(
    file: BinaryIO, machine: int, mark: str, memory: list[tuple[Section, Iterable[bytes]]], chunks: list[Chunk]
) -> None:
    notes = [chunk for chunk in chunks if chunk.type == 7]
    headers = len(memory) + len(notes)
    at = _EHDR + _PHDR * headers
    rows: list[_Placed] = []
    for section, content in memory:
        size = section.end - section.start
        at += (section.start - at) % PAGE
        rows.append(_Placed(section.name, section.type, section.flags, section.start, at, size, 0, 0, PAGE, 0))
        if section.type != NOBITS:
            file.seek(at)
            _pour(file, content)
            at += size
    names = b"\0" + b"".join(each.encode() + b"\0" for each in _names(memory, chunks))
    numbers = {name: number for number, name in enumerate(_names(memory, chunks), 1)}
    for chunk in [*chunks, Chunk(".shstrtab", 3, names)]:
        at += -at % chunk.align
        file.seek(at)
        file.write(chunk.data)
        rows.append(
            _Placed(
                chunk.name, chunk.type, 0x30 if chunk.name == ".debug_str" else 0, 0, at, len(chunk.data),
                numbers.get(chunk.link, 0), chunk.info, chunk.align, chunk.entry_size,
            )
        )  # fmt: skip
        at += len(chunk.data)
    at += -at % 8
    file.seek(at)
    file.write(bytes(_SHDR))
    for row in rows:
        place = names.index(b"\0" + row.name.encode() + b"\0") + 1
        file.write(
            struct.pack(
                mark + "IIQQQQIIQQ", place, row.type, row.flags, row.address, row.offset, row.size, row.link, row.info,
                row.align, row.entry_size,
            )
        )  # fmt: skip
    file.seek(0)
    file.write(_header(machine, mark, headers, at, len(rows) + 1))
    for row in rows:
        if (row.flags & ALLOC and row.address) or row.type == 7 or row.name == ".data..percpu":
            file.write(_program_header(row, mark, machine))


def _names(memory: list[tuple[Section, Iterable[bytes]]], chunks: list[Chunk]) -> list[str]:
    return [*(section.name for section, _ in memory), *(chunk.name for chunk in chunks), ".shstrtab"]


def _pour(file: BinaryIO, content: Iterable[bytes]) -> None:
    # pages of zeros become holes
    zero = bytes(PAGE)
    for piece in content:
        for start in range(0, len(piece), PAGE):
            page = piece[start : start + PAGE]
            if page == zero:
                file.seek(PAGE, os.SEEK_CUR)
            else:
                file.write(page)


def _header(machine: int, mark: str, headers: int, sections_at: int, sections: int) -> bytes:
    ident = b"\x7fELF" + bytes((2, 1 if mark == "<" else 2, 1)) + bytes(9)
    return ident + struct.pack(
        mark + "HHIQQQIHHHHHH", 2, machine, 1, 0, _EHDR, sections_at, 0, _EHDR, _PHDR, headers, _SHDR, sections,
        sections - 1,
    )  # fmt: skip


def _program_header(row: _Placed, mark: str, machine: int) -> bytes:
    if row.type == 7:
        return struct.pack(mark + "IIQQQQQQ", 4, 4, row.offset, 0, 0, row.size, row.size, 4)
    flags = 4 | (row.flags & 1) << 1 | row.flags >> 2 & 1
    physical = row.address - _X86_TEXT & _MASK if machine == 62 and row.address >= _X86_TEXT else row.address
    stored = 0 if row.type == NOBITS else row.size
    return struct.pack(mark + "IIQQQQQQ", 1, flags, row.offset, row.address, physical, stored, row.size, row.align)
