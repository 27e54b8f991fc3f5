# SPDX-License-Identifier: GPL-2.0-or-later
"""Page-table reading, as far as virtual addresses of a canonical file need it: x86_64, 4 and 5 levels.

Every table is hostile input: walks are bounded by level, table size and a count of tables read.
Source: Intel SDM volume 3, 4.5; Linux Documentation/arch/x86/x86_64/mm.rst.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from .errors import DumpError
from .image import MemoryImage

__all__ = ["Mapping", "X86PageTable"]

_PRESENT, _LARGE = 1, 1 << 7
_ADDRESS = 0x000FFFFFFFFFF000
_MAX_TABLES = 4096


@dataclass(frozen=True, slots=True)
class Mapping:
    """`size` bytes at `vaddr` are at physical `paddr`."""

    vaddr: int
    paddr: int
    size: int


class X86PageTable:
    """A walker over one root table.

    Args:
        image: Where tables are read from.
        root_paddr: Physical address of the top table.
        levels: 4 or 5.
        mask: Bits that are no address (memory encryption's).
    """

    def __init__(self, image: MemoryImage, root_paddr: int, levels: int, mask: int = 0) -> None:
        self._image = image
        self._root = root_paddr & _ADDRESS & ~mask
        self._levels = levels
        self._address = _ADDRESS & ~mask
        self._read = 0

    def _table(self, paddr: int) -> tuple[int, ...]:
        self._read += 1
        if self._read > _MAX_TABLES:
            raise DumpError("page tables lead on and on")
        return struct.unpack("<512Q", self._image.read_physical(paddr, 4096))

    def _canonical(self, vaddr: int) -> int:
        bits = 12 + 9 * self._levels
        return vaddr | (-1 << bits & 0xFFFFFFFFFFFFFFFF) if vaddr >> (bits - 1) & 1 else vaddr

    def translate(self, vaddr: int) -> int | None:
        """Return the physical address, None where nothing is mapped.

        Raises:
            DumpError: A table is not in the dump.
        """
        paddr = self._root
        for level in range(self._levels, 0, -1):
            shift = 12 + 9 * (level - 1)
            entry = self._table(paddr)[vaddr >> shift & 511]
            if not entry & _PRESENT:
                return None
            if level == 1 or (entry & _LARGE and level <= 3):
                span = (1 << shift) - 1
                return (entry & self._address & ~span) | (vaddr & span)
            paddr = entry & self._address
        return None

    def mappings(self, start: int, end: int) -> Iterator[Mapping]:
        """Yield the leaf mappings that begin in [start, end), ascending, as far as their tables are in the dump."""
        yield from self._walk(self._root, self._levels, 0, start, end)

    def _walk(self, paddr: int, level: int, base: int, start: int, end: int) -> Iterator[Mapping]:
        shift = 12 + 9 * (level - 1)
        try:
            table = self._table(paddr)
        except DumpError:
            return
        for index, entry in enumerate(table):
            vaddr = self._canonical(base + (index << shift)) if level == self._levels else base + (index << shift)
            if not entry & _PRESENT or vaddr + (1 << shift) <= start or vaddr >= end:
                continue
            if level == 1 or (entry & _LARGE and level <= 3):
                yield Mapping(vaddr, entry & self._address & ~((1 << shift) - 1), 1 << shift)
            else:
                yield from self._walk(entry & self._address, level - 1, vaddr, start, end)
