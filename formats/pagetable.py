# SPDX-License-Identifier: GPL-2.0-or-later
"""Page-table reading, as far as virtual addresses of a canonical file need it: x86_64 and aarch64.

Every table is hostile input: walks are bounded by level, table size and a budget of tables read.
Source: Intel SDM volume 3, 4.5; Arm ARM D8.3; Linux Documentation/arch/{x86/x86_64/mm,arm64/memory}.rst.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

from .errors import DumpError
from .image import MemoryImage
from .machine_frames import MachineFrames

__all__ = ["Arm64PageTable", "Budget", "Mapping", "PageTable", "X86PageTable"]

_PRESENT, _LARGE, _TABLE = 1, 1 << 7, 1 << 1
_MASK = 0xFFFFFFFFFFFFFFFF
# For all walks over one memory together. The kernel's image and modules fill 512 tables of 4 KiB pages at most; an
# entry costs 0.4 us to look at.
_MAX_TABLES = 2048


class Mapping(NamedTuple):
    """`size` bytes at `vaddr` are at physical `paddr`."""

    vaddr: int
    paddr: int
    size: int


class Budget:
    """How many tables may yet be read: one for all walks of a job."""

    def __init__(self) -> None:
        self.tables = _MAX_TABLES


class PageTable(ABC):
    """A walker over one root table of 64-bit entries.

    Args:
        image: Where tables are read from.
        root_paddr: Physical address of the top table.
        page_shift: log2 of the granule; a table has 2 ** (page_shift - 3) entries.
        va_bits: Bits of a virtual address that are translated; the others repeat the highest of them.
        address: Bits of an entry that are an address.
        budget: Shared with other walkers, None for one of its own.
        frames: Where tables and their root hold machine addresses: how to get at physical ones.
    """

    def __init__(
        self,
        image: MemoryImage,
        root_paddr: int,
        page_shift: int,
        va_bits: int,
        address: int,
        budget: Budget | None = None,
        frames: MachineFrames | None = None,
    ) -> None:
        self._image = image
        self._frames = frames
        self._root = root_paddr & address
        self._shift = page_shift
        self._index_bits = page_shift - 3
        self._va_bits = va_bits
        self._levels = -(-(va_bits - page_shift) // self._index_bits)
        self._address = address
        self._budget = budget or Budget()

    @abstractmethod
    def _is_leaf(self, entry: int, level: int) -> bool: ...

    def _address_in(self, entry: int) -> int:
        # the address of a table or page in an entry
        return entry & self._address

    def _level_shift(self, level: int) -> int:
        return self._shift + self._index_bits * (level - 1)

    def _own(self, address: int) -> int | None:
        # the physical address that an address from a table means
        return address if self._frames is None else self._frames.paddr_of(address, self._shift)

    def _bytes(self, address: int, start: int, size: int) -> bytes:
        # of the table at an address, as tables have it
        paddr = self._own(address)
        if paddr is None:
            raise DumpError(f"no page table of this guest is at machine address {address:#x}")
        return self._image.read_physical(paddr + start, size)

    def _table(self, address: int, level: int) -> tuple[int, ...]:
        if self._budget.tables == 0:
            raise DumpError("page tables lead on and on")
        self._budget.tables -= 1
        bits = self._va_bits - self._level_shift(level) if level == self._levels else self._index_bits
        return struct.unpack(f"<{1 << bits}Q", self._bytes(address, 0, 8 << bits))

    def _canonical(self, vaddr: int) -> int:
        sign = vaddr >> (self._va_bits - 1) & 1
        return (vaddr | -1 << self._va_bits) & _MASK if sign else vaddr

    def translate(self, vaddr: int) -> int | None:
        """Return the physical address, None where nothing is mapped.

        Raises:
            DumpError: A table is not in the dump.
        """
        address = self._root
        for level in range(self._levels, 0, -1):
            shift = self._level_shift(level)
            # one entry is read, not the table: a walk needs no budget
            bits = self._va_bits - shift if level == self._levels else self._index_bits
            index = vaddr >> shift & (1 << bits) - 1
            entry = int.from_bytes(self._bytes(address, 8 * index, 8), "little")
            if not entry & _PRESENT:
                return None
            if self._is_leaf(entry, level):
                span = (1 << shift) - 1
                return self._own((self._address_in(entry) & ~span) | (vaddr & span))
            address = self._address_in(entry)
        return None

    def mappings(self, start: int, end: int) -> Iterator[Mapping]:
        """Yield the leaf mappings that begin in [start, end), ascending, as far as their tables are in the dump."""
        yield from self._walk(self._root, self._levels, 0, start, end)

    def _walk(self, address: int, level: int, base: int, start: int, end: int) -> Iterator[Mapping]:
        shift = self._level_shift(level)
        try:
            table = self._table(address, level)
        except DumpError:
            return
        for index, entry in enumerate(table):
            vaddr = base + (index << shift)
            if level == self._levels:
                vaddr = self._canonical(vaddr)
            if not entry & _PRESENT or vaddr + (1 << shift) <= start or vaddr >= end:
                continue
            if self._is_leaf(entry, level):
                paddr = self._own(self._address_in(entry) & ~((1 << shift) - 1))
                if paddr is not None:
                    yield Mapping(vaddr, paddr, 1 << shift)
            elif level > 1:
                yield from self._walk(self._address_in(entry), level - 1, vaddr, start, end)


class X86PageTable(PageTable):
    """x86_64, 4 or 5 levels.

    Args:
        image, root_paddr: See `PageTable`.
        levels: 4 or 5.
        mask: Bits that are no address (memory encryption's).
        budget, frames: See `PageTable`.
    """

    def __init__(
        self,
        image: MemoryImage,
        root_paddr: int,
        levels: int,
        mask: int = 0,
        budget: Budget | None = None,
        frames: MachineFrames | None = None,
    ) -> None:
        super().__init__(image, root_paddr, 12, 12 + 9 * levels, 0x000FFFFFFFFFF000 & ~mask, budget, frames)

    def _is_leaf(self, entry: int, level: int) -> bool:
        return level == 1 or (level <= 3 and bool(entry & _LARGE))


class Arm64PageTable(PageTable):
    """aarch64 with any granule, the kernel's half of the address space, addresses of 48 or 52 bits.

    Args:
        image, root_paddr: See `PageTable`.
        page_shift: 12, 14 or 16.
        va_bits: 64 less TCR_EL1's T1SZ.
        budget: See `PageTable`.
    """

    def __init__(
        self, image: MemoryImage, root_paddr: int, page_shift: int, va_bits: int, budget: Budget | None = None
    ) -> None:
        super().__init__(image, root_paddr, page_shift, va_bits, (1 << 48) - (1 << page_shift), budget)

    def _address_in(self, entry: int) -> int:
        # bits 48 to 51: in 12 to 15 with 64 KiB pages (zero without them), in 8 and 9 with LPA2 tables of 52 bits
        if self._shift == 16:
            return (entry & self._address) | (entry >> 12 & 15) << 48
        if self._va_bits > 48:
            return (entry & ((1 << 50) - (1 << self._shift))) | (entry >> 8 & 3) << 50
        return entry & self._address

    def _canonical(self, vaddr: int) -> int:
        return (vaddr | -1 << self._va_bits) & _MASK  # all of TTBR1's space is the upper one

    def _is_leaf(self, entry: int, level: int) -> bool:
        return level == 1 or not entry & _TABLE

    @staticmethod
    def widths(page_shift: int, va_bits: int, t1sz: int | None) -> list[int]:
        """Return how many bits of an address swapper_pg_dir may translate, the likeliest first.

        Args:
            page_shift: 12, 14 or 16.
            va_bits: NUMBER(VA_BITS): what the kernel was built for.
            t1sz: NUMBER(TCR_EL1_T1SZ): what the processor was told; None where VMCOREINFO lacks it.

        With 64 KiB pages the table has room for all that the kernel was built for: a processor that can do 48 bits
        only is given the address of its last entries (Linux arch/arm64/include/asm/assembler.h, offset_ttbr1; 5.0 to
        5.3 say 48 and have tables of 52). With others the kernel leaves the top level out (pi/map_kernel.c).
        """
        told = [] if t1sz is None else [64 - t1sz]
        found = [va_bits, 52, *told] if page_shift == 16 else [*told, va_bits]
        return [bits for bits in dict.fromkeys(found) if page_shift < bits <= 52]
