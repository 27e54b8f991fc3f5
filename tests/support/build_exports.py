# SPDX-License-Identifier: GPL-2.0-or-later
"""Builds a piece of a kernel's image with tables of exported symbols, in every shape that kernels have had."""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any


@dataclass(frozen=True)
class Image:
    """Bytes at an address, what is exported there, and what kallsyms would know of it."""

    start: int
    raw: bytes
    exports: dict[str, int]
    namespaces: dict[str, str]
    functions: dict[bytes, set[int]]

    def memory(self, raw: bytes | None = None, *, word: int = 8, order: str = "little") -> Any:
        """What find_exports needs of KernelMemory; bytes outside of the image read as zeros."""
        data, start = self.raw if raw is None else raw, self.start

        def read_sparse(vaddr: int, size: int) -> tuple[bytes, list[tuple[int, int, str]]]:
            at = vaddr - start
            return data[at : at + size].ljust(size, b"\0"), []

        return SimpleNamespace(
            read_sparse=read_sparse, word=word, physical=SimpleNamespace(machine=SimpleNamespace(byteorder=order))
        )


def build(
    names: list[str],
    *,
    words: int = 3,
    relative: bool = True,
    word: int = 8,
    mark: str = "<",
    start: int = 0xFFFFFFFF82000000,
    namespaces: dict[str, str] | None = None,
    tails: dict[str, str] | None = None,
    seed: int = 0,
) -> Image:
    """Make an image: noise, the table, more noise, the strings.

    Args:
        names: What is exported, in the table's order.
        words: Of an entry: 2 before namespaces, 3 with them.
        relative: Entries are 32-bit distances from where they stand, else addresses.
        word: Bytes of an address.
        mark: Byte order, as struct writes it.
        start: Where it lies.
        namespaces: Of some names.
        tails: Names whose string is the tail of a longer one that the linker shares: name -> longer string.
        seed: Of the noise.
    """
    rng = random.Random(seed)
    width = 4 if relative else word
    noise = bytes(rng.choice((0, 0x20, 0xCC, 0x80, 0x31)) for _ in range(4096))
    table_at = len(noise)
    strings_at = table_at + words * width * len(names) + 512
    strings, places = bytearray(b"\0"), {}
    for text in dict.fromkeys([*names, *(namespaces or {}).values()]):
        longer = (tails or {}).get(text, text)
        assert longer.endswith(text)
        places[text] = strings_at + len(strings) + len(longer) - len(text)
        strings += longer.encode() + b"\0"
    values = {name: start + 0x100000 + 64 * index for index, name in enumerate(names)}
    table = bytearray()
    for name in names:
        targets = [values[name], start + places[name]]
        if words == 3:
            space = (namespaces or {}).get(name)
            targets.append(start + places[space] if space is not None else 0)
        for target in targets:
            own = start + table_at + len(table)
            if relative:
                table += struct.pack(mark + "i", target - own if target else 0)
            else:
                table += struct.pack(mark + ("Q" if word == 8 else "I"), target)
    raw = noise + bytes(table) + bytes(512) + bytes(strings)
    functions = {name.encode(): {values[name]} for index, name in enumerate(names) if index % 5}
    return Image(start, raw + bytes(-len(raw) % 16), values, namespaces or {}, functions)
