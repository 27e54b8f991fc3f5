# SPDX-License-Identifier: GPL-2.0-or-later
"""Walkers over the page tables that a canonical file does not need: i386, arm, riscv64, s390x, ppc64.

Source: Intel SDM volume 3, 4.3 and 4.4; ARM Architecture Reference Manual (ARMv7-A) B3; RISC-V privileged specification
4.4; z/Architecture principles of operation, chapter 3; Power ISA 3.0B book III, 5.7.10.
"""

from __future__ import annotations

from .errors import MissingTable
from .memory import PhysicalMemory

__all__ = ["ArmTables", "I386Tables", "Ppc64Tables", "RiscvTables", "S390Tables"]


class I386Tables:
    """i386: two levels of 4-byte entries, or with PAE three of 8-byte ones."""

    def __init__(self, physical: PhysicalMemory, root: int, *, pae: bool) -> None:
        self._physical, self._root, self._pae = physical, root, pae

    def translate(self, vaddr: int) -> int | None:
        """See `Translator`."""
        if not 0 <= vaddr < 1 << 32:
            return None
        size = 8 if self._pae else 4
        address, entry = (1 << 52) - 4096 if self._pae else 0xFFFFF000, 0
        table = self._root
        for shift, bits in ((30, 2), (21, 9), (12, 9)) if self._pae else ((22, 10), (12, 10)):
            index = vaddr >> shift & (1 << bits) - 1
            entry = int.from_bytes(self._physical.read(table + size * index, size), "little")
            if not entry & 1:
                return None
            if shift in (21, 22) and entry & 0x80:  # a large page
                return (entry & address & ~((1 << shift) - 1)) | (vaddr & (1 << shift) - 1)
            table = entry & address
        return table | vaddr & 0xFFF


class RiscvTables:
    """riscv64, Sv39, Sv48 or Sv57: an entry with a permission is a leaf at any level."""

    def __init__(self, physical: PhysicalMemory, root: int, levels: int) -> None:
        self._physical, self._root, self._levels = physical, root, levels

    def translate(self, vaddr: int) -> int | None:
        """See `Translator`."""
        table = self._root
        for level in range(self._levels - 1, -1, -1):
            shift = 12 + 9 * level
            raw = self._physical.read(table + 8 * (vaddr >> shift & 511), 8)
            entry = int.from_bytes(raw, "little")
            if not entry & 1:
                return None
            table = (entry >> 10 & (1 << 44) - 1) << 12
            if entry & 0xE:
                span = (1 << shift) - 1
                return (table & ~span) | (vaddr & span)
        return None


class S390Tables:
    """s390x: region and segment tables name their own level in bits 0xc of an entry; page tables hold 256 entries."""

    def __init__(self, physical: PhysicalMemory, root: int) -> None:
        self._physical, self._root = physical, root
        raw = physical.read(root, 2048 * 8)
        entries = (int.from_bytes(raw[at : at + 8], "big") for at in range(0, len(raw), 8))
        first = next((entry for entry in entries if not entry & 0x20), None)
        if first is None:
            raise MissingTable("the kernel's region table has no entry")
        self._level = first >> 2 & 3  # 3 region first, 2 second, 1 third, 0 segment

    def translate(self, vaddr: int) -> int | None:
        """See `Translator`."""
        table = self._root
        for level in range(self._level, -1, -1):
            shift = 20 + 11 * level
            if level == self._level and vaddr >> shift + 11:
                return None
            entry = self._entry(table + 8 * (vaddr >> shift & 2047))
            if entry & 0x20:  # invalid
                return None
            if level <= 1 and entry & 0x400:  # a segment or region frame
                span = (1 << shift) - 1
                return (entry & ~0xFFF & ~span) | (vaddr & span)
            table = entry & (~0xFFF if level else ~0x7FF)
        entry = self._entry(table + 8 * (vaddr >> 12 & 255))
        return None if entry & 0x400 else (entry & ~0xFFF) | (vaddr & 0xFFF)

    def _entry(self, address: int) -> int:
        return int.from_bytes(self._physical.read(address, 8), "big")


class ArmTables:
    """arm: two levels of 4-byte entries, or with LPAE three of 8-byte ones."""

    def __init__(self, physical: PhysicalMemory, root: int, *, lpae: bool) -> None:
        self._physical, self._root, self._lpae = physical, root, lpae

    def translate(self, vaddr: int) -> int | None:
        """See `Translator`."""
        if not 0 <= vaddr < 1 << 32:
            return None
        return self._long(vaddr) if self._lpae else self._short(vaddr)

    def _entry(self, address: int, size: int) -> int:
        return int.from_bytes(self._physical.read(address, size), self._physical.machine.byteorder)

    def _short(self, vaddr: int) -> int | None:
        first = self._entry(self._root + 4 * (vaddr >> 20), 4)
        if first & 3 == 2:  # a section of 1 MiB, or a supersection of 16
            span = (1 << 24) - 1 if first >> 18 & 1 else (1 << 20) - 1
            return (first & ~span & 0xFFFFFFFF) | (vaddr & span)
        if first & 3 != 1:
            return None
        second = self._entry((first & 0xFFFFFC00) + 4 * (vaddr >> 12 & 255), 4)
        if not second & 3:
            return None
        span = 0xFFFF if second & 3 == 1 else 0xFFF
        return (second & ~span & 0xFFFFFFFF) | (vaddr & span)

    def _long(self, vaddr: int) -> int | None:
        table = self._root
        for shift, bits in ((30, 2), (21, 9), (12, 9)):
            entry = self._entry(table + 8 * (vaddr >> shift & (1 << bits) - 1), 8)
            if not entry & 1:
                return None
            table = entry & 0xFFFFFFF000
            if shift > 12 and not entry & 2:
                span = (1 << shift) - 1
                return (table & ~span) | (vaddr & span)
        return table | vaddr & 0xFFF


class Ppc64Tables:
    """ppc64 with radix tables: big-endian whatever the kernel is, and each entry says how large the next table is.

    Raises:
        MissingTable: The first table is none of a radix tree: the kernel uses a hash table.
    """

    _ROOT_BITS, _VALID, _LEAF = 13, 1 << 63, 1 << 62

    def __init__(self, physical: PhysicalMemory, root: int) -> None:
        self._physical, self._root = physical, root
        raw = physical.read(root, 8 << self._ROOT_BITS)
        entries = {int.from_bytes(raw[at : at + 8], "big") for at in range(0, len(raw), 8)} - {0}
        if not entries or not all(entry & self._VALID for entry in entries):
            raise MissingTable("page tables of ppc64 with a hash table are not read")

    def translate(self, vaddr: int) -> int | None:
        """See `Translator`."""
        table, bits, shift = self._root, self._ROOT_BITS, 52 - self._ROOT_BITS
        while True:
            raw = self._physical.read(table + 8 * (vaddr >> shift & (1 << bits) - 1), 8)
            entry = int.from_bytes(raw, "big")
            if not entry & self._VALID:
                return None
            if entry & self._LEAF:
                span = (1 << shift) - 1
                return (entry & 0x01FFFFFFFFFFF000 & ~span) | (vaddr & span)
            table, bits = entry & 0x0FFFFFFFFFFFFF00, entry & 31
            if not 0 < bits <= shift - 12:
                return None
            shift -= bits
