# SPDX-License-Identifier: GPL-2.0-or-later
"""Symbols and types of a vmlinux that the user gives: packed by hand, in both sizes and orders; and hostile ones."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from dumpconv.analyze.debuginfo import Debuginfo, open_debuginfo
from dumpconv.formats.errors import UsageError

NAMES = b"\0.text\0.data\0.BTF\0.debug_info\0.symtab\0.strtab\0.shstrtab\0"
SYMBOLS = b"\0first\0second\0gone\0file.c\0third\0"


def vmlinux(bits: int = 64, mark: str = "<", *, lines: bool = True) -> bytes:
    """Sections: text, data, BTF, DWARF, symbols, their names, the sections' names."""
    wide = bits == 64
    head, entry = (64, 64) if wide else (52, 40)

    def symbol(name: bytes, value: int, info: int, section: int) -> bytes:
        at = SYMBOLS.index(b"\0" + name + b"\0") + 1
        if wide:
            return struct.pack(mark + "IBBHQQ", at, info, 0, section, value, 4)
        return struct.pack(mark + "IIIBBH", at, value, 4, info, 0, section)

    table = bytes(24 if wide else 16)
    table += symbol(b"third", 0xC0003000, 0x21, 2)  # weak data
    table += symbol(b"first", 0xC0001000, 0x12, 1)  # global function
    table += symbol(b"second", 0xC0002000, 0x01, 2)  # local data
    table += symbol(b"gone", 0, 0x10, 0) + symbol(b"file.c", 0, 0x04, 0xFFF1)
    parts = [(b".text", 1, 6, b"code"), (b".data", 1, 3, b"data"), (b".BTF", 1, 0, b"types"),
             (b".debug_info" if lines else b"", 1, 0, b"dwarf"), (b".symtab", 2, 0, table), (b".strtab", 3, 0, SYMBOLS),
             (b".shstrtab", 3, 0, NAMES)]  # fmt: skip
    body, rows = b"", [bytes(entry)]
    for name, kind, flags, data in parts:
        place = NAMES.index(b"\0" + name + b"\0") + 1 if name else 0
        values = (place, kind, flags, 0, head + len(body), len(data), 6 if kind == 2 else 0, 0, 1, 0)
        rows.append(struct.pack(mark + ("IIQQQQIIQQ" if wide else "10I"), *values))
        body += data
    ident = b"\x7fELF" + bytes([2 if wide else 1, 1 if mark == "<" else 2, 1]) + bytes(9)
    tail = (head, 0, 0, entry, len(rows), 7)
    word = "Q" if wide else "I"
    header = ident + struct.pack(f"{mark}HHI3{word}I6H", 2, 62, 1, 0, 0, head + len(body), 0, *tail)
    return header + body + b"".join(rows)


@pytest.mark.parametrize("bits", [64, 32])
@pytest.mark.parametrize("mark", ["<", ">"])
def test_symbols_and_types(bits: int, mark: str, tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(vmlinux(bits, mark))
    found = open_debuginfo(str(path), bits // 8, "little" if mark == "<" else "big")
    table = found.symbols()
    assert list(zip(table.addresses.tolist(), table.names, strict=True)) == [
        (0xC0001000, b"Tfirst"), (0xC0002000, b"dsecond"), (0xC0003000, b"Wthird"),
    ]  # fmt: skip
    assert found.btf() == b"types"
    assert found.has_lines
    with pytest.raises(UsageError, match="is of another machine"):
        open_debuginfo(str(path), bits // 8, "big" if mark == "<" else "little")


def test_one_without_dwarf(tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(vmlinux(lines=False))
    assert not Debuginfo(str(path)).has_lines


def test_what_is_no_vmlinux(tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    for data in (b"", b"0" * 100, b"\x7fELF" + bytes(60), vmlinux()[:-1], vmlinux()[:80]):
        path.write_bytes(data)
        with pytest.raises(UsageError):
            Debuginfo(str(path))


def test_every_byte_may_be_wrong(tmp_path: Path) -> None:
    """It is refused, or gives something: nothing else."""
    path, good = tmp_path / "vmlinux", vmlinux()
    for at in range(len(good)):
        path.write_bytes(good[:at] + bytes([(0, 0x7F, 0xFF)[at % 3]]) + good[at + 1 :])
        try:
            found = Debuginfo(str(path))
            found.btf()
            found.symbols()
        except UsageError:
            continue
