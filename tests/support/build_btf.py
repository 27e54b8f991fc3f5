# SPDX-License-Identifier: GPL-2.0-or-later
"""Builds BTF by hand: `struct.pack` only. Source: docs/analyze.md, the kernel's Documentation/bpf/btf.rst."""

from __future__ import annotations

import struct


class BtfBuilder:
    """Types one after another, numbered from 1."""

    def __init__(self, mark: str = "<") -> None:
        self.mark = mark
        self.strings = b"\0"
        self.types = b""
        self.count = 0

    def name(self, text: str) -> int:
        if not text:
            return 0
        place = len(self.strings)
        self.strings += text.encode() + b"\0"
        return place

    def add(self, kind: int, name: str, vlen: int, size: int, rest: bytes = b"", *, kflag: bool = False) -> int:
        info = vlen | kind << 24 | kflag << 31
        self.types += struct.pack(self.mark + "III", self.name(name), info, size) + rest
        self.count += 1
        return self.count

    def integer(self, name: str, size: int, encoding: int = 0, bits: int | None = None, offset: int = 0) -> int:
        word = encoding << 24 | offset << 16 | (8 * size if bits is None else bits)
        return self.add(1, name, 0, size, struct.pack(self.mark + "I", word))

    def pointer(self, to: int) -> int:
        return self.add(2, "", 0, to)

    def array(self, element: int, index: int, count: int) -> int:
        return self.add(3, "", 0, 0, struct.pack(self.mark + "III", element, index, count))

    def compound(
        self, name: str, size: int, members: list[tuple[str, int, int, int]], *, union: bool = False, kflag: bool = True
    ) -> int:
        """Members are (name, type, bit offset, bit size); without kflag the bit size is not written."""
        rest = b"".join(
            struct.pack(self.mark + "III", self.name(each), number, offset | (bits << 24 if kflag else 0))
            for each, number, offset, bits in members
        )
        return self.add(5 if union else 4, name, len(members), size, rest, kflag=kflag)

    def enum(self, name: str, values: list[tuple[str, int]], *, signed: bool = False) -> int:
        rest = b"".join(struct.pack(self.mark + "II", self.name(each), value & 0xFFFFFFFF) for each, value in values)
        return self.add(6, name, len(values), 4, rest, kflag=signed)

    def proto(self, returns: int, parameters: list[tuple[str, int]]) -> int:
        rest = b"".join(struct.pack(self.mark + "II", self.name(each), number) for each, number in parameters)
        return self.add(13, "", len(parameters), returns, rest)

    def build(self) -> bytes:
        head = struct.pack(
            self.mark + "HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(self.types), len(self.types), len(self.strings)
        )
        return head + self.types + self.strings
