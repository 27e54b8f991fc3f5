# SPDX-License-Identifier: GPL-2.0-or-later
"""What a vmlinux has that needs no reader of DWARF: symbols, BTF, and whether there is DWARF at all.

Source: elf(5); include/uapi/linux/elf.h. The file is the user's, and as hostile as a dump.
"""

from __future__ import annotations

import os
import struct
from typing import Any, Literal, NamedTuple

import numpy as np

from ..formats.errors import UsageError
from .kallsyms import MAX_SYMBOLS
from .system_map import SystemMap

__all__ = ["Debuginfo", "open_debuginfo"]

_SHT_SYMTAB, _SHT_NOBITS = 2, 8
_SHN_ABS = 0xFFF1
_WRITE, _ALLOC, _EXECUTE = 1, 2, 4
_OBJECTS = (0, 1, 2)  # STT_NOTYPE, STT_OBJECT, STT_FUNC
_LOCAL, _WEAK = 0, 2
_MAX_SECTIONS = 1 << 16
_MAX_BYTES = 256 << 20
_MAX_NAME = 1024


class _Section(NamedTuple):
    name: bytes
    type: int
    flags: int
    offset: int
    size: int
    link: int


class Debuginfo:
    """A vmlinux.

    Attributes:
        path: The file.
        has_lines: There is DWARF.

    Raises:
        UsageError: It is no vmlinux.
        OSError: It cannot be read.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        with open(path, "rb") as file:
            self._size = os.fstat(file.fileno()).st_size
            ident = file.read(64)
            if len(ident) < 64 or ident[:4] != b"\x7fELF" or ident[4] not in (1, 2) or ident[5] not in (1, 2):
                raise UsageError("is no ELF file: a vmlinux with symbols is expected", path=path)
            self.word = 4 * ident[4]
            self.byteorder: Literal["little", "big"] = "little" if ident[5] == 1 else "big"
            self._mark = "<" if ident[5] == 1 else ">"
            self._sections = self._read_sections(file, ident)
        self.has_lines = any(each.name in (b".debug_info", b".zdebug_info") for each in self._sections)

    def _read_sections(self, file: Any, ident: bytes) -> list[_Section]:
        place, size = (40, 8) if self.word == 8 else (32, 4)
        offset = int.from_bytes(ident[place : place + size], self.byteorder)
        at = 58 if self.word == 8 else 46
        entry, count, names = struct.unpack_from(self._mark + "HHH", ident, at)
        layout = struct.Struct(self._mark + ("IIQQQQIIQQ" if self.word == 8 else "IIIIIIIIII"))
        if not count or entry != layout.size or count > _MAX_SECTIONS:
            raise UsageError("has no sections: a vmlinux with symbols is expected", path=self.path)
        raw = self._bytes(file, offset, entry * count)
        rows = [layout.unpack_from(raw, entry * index) for index in range(count)]
        texts = self._bytes(file, rows[names][4], rows[names][5]) if names < count else b""
        return [
            _Section(texts[row[0] :].split(b"\0", 1)[0][:64], row[1], row[2], row[4], row[5], row[6]) for row in rows
        ]

    def _bytes(self, file: Any, offset: int, size: int) -> bytes:
        if size > _MAX_BYTES or offset + size > self._size:
            raise UsageError(f"is cut off or damaged: {size} bytes at {offset:#x} of {self._size}", path=self.path)
        file.seek(offset)
        found: bytes = file.read(size)
        if len(found) != size:
            raise UsageError(f"cannot be read: {size} bytes at {offset:#x}", path=self.path)
        return found

    def btf(self) -> bytes | None:
        """Return the kernel's types, None without them."""
        section = next((each for each in self._sections if each.name == b".BTF" and each.type != _SHT_NOBITS), None)
        if section is None:
            return None
        with open(self.path, "rb") as file:
            return self._bytes(file, section.offset, section.size)

    def symbols(self) -> SystemMap:
        """Return its symbols.

        Raises:
            UsageError: It has none.
        """
        table = next((each for each in self._sections if each.type == _SHT_SYMTAB), None)
        if table is None or table.link >= len(self._sections):
            raise UsageError("has no symbols: it was stripped", path=self.path)
        names = self._sections[table.link]
        with open(self.path, "rb") as file:
            raw, texts = (self._bytes(file, each.offset, each.size) for each in (table, names))
        fields: list[tuple[str, str]] = (
            [("name", "u4"), ("info", "u1"), ("other", "u1"), ("section", "u2"), ("value", "u8"), ("size", "u8")]
            if self.word == 8
            else [("name", "u4"), ("value", "u4"), ("size", "u4"), ("info", "u1"), ("other", "u1"), ("section", "u2")]
        )
        kind = np.dtype([(name, self._mark + each) for name, each in fields])
        rows = np.frombuffer(raw, kind, len(raw) // kind.itemsize)
        rows = rows[np.isin(rows["info"] & 15, _OBJECTS) & (rows["section"] > 0) & (rows["name"] > 0)]
        if len(rows) > MAX_SYMBOLS:
            raise UsageError(f"has more than {MAX_SYMBOLS} symbols", path=self.path)
        rows = rows[np.argsort(rows["value"], kind="stable")]
        found = []
        for name, info, section in zip(*(rows[each].tolist() for each in ("name", "info", "section")), strict=True):
            end = texts.find(b"\0", name, name + _MAX_NAME)
            found.append(self._letter(section, info >> 4) + texts[name : end if end > 0 else name + _MAX_NAME])
        return SystemMap(self.path, rows["value"].astype(np.uint64), found)

    def _letter(self, number: int, binding: int) -> bytes:
        # as nm has it
        if binding == _WEAK:
            return b"W"
        if number == _SHN_ABS:
            letter = b"a"
        elif number >= len(self._sections) or not self._sections[number].flags & _ALLOC:
            letter = b"n"
        else:
            section = self._sections[number]
            if section.flags & _EXECUTE:
                letter = b"t"
            elif section.type == _SHT_NOBITS:
                letter = b"b"
            else:
                letter = b"d" if section.flags & _WRITE else b"r"
        return letter if binding == _LOCAL else letter.upper()


def open_debuginfo(path: str, word: int, byteorder: str) -> Debuginfo:
    """Open a vmlinux for a machine.

    Raises:
        UsageError: It is no vmlinux, or one of another machine.
        OSError: It cannot be read.
    """
    found = Debuginfo(path)
    if (found.word, found.byteorder) != (word, byteorder):
        raise UsageError(f"is of another machine: {8 * found.word} bit, {found.byteorder}-endian", path=path)
    return found
