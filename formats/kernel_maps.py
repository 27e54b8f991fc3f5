# SPDX-License-Identifier: GPL-2.0-or-later
"""What the kernel maps beside its direct map and its image: vmalloc, modules, per-CPU areas, stacks, the page array.

A debugger that knows no page tables reads these only where a program header says where they lie.
"""

from __future__ import annotations

from collections.abc import Iterator

from .errors import DumpError
from .image import MemoryImage
from .pagetable import PageTable
from .reader import DumpReader
from .vaddr import AddressMap, kernel_table

__all__ = ["kernel_mappings"]

_MASK = 0xFFFFFFFFFFFFFFFF
_MAX_TABLES = 1 << 16  # 128 GiB in small pages
_MAX_RANGES = 1 << 20


def kernel_mappings(reader: DumpReader, image: MemoryImage, addresses: AddressMap) -> list[tuple[int, int, int]]:
    """Return (paddr, vaddr, size) of the kernel's mappings that `addresses` does not tell of, by vaddr.

    Neighbours that follow each other in both are one. Page tables that the dump lacks leave gaps; none is invented.

    Args:
        reader: The dump.
        image: Its memory.
        addresses: What is known already; the direct map is not walked, as it maps all memory once more.
    """
    table = kernel_table(reader, image, _MAX_TABLES)
    if table is None:
        return []
    found: list[tuple[int, int, int]] = []
    for paddr, vaddr, size in _entries(table, _spans(reader, addresses)):
        if _is_known(addresses, paddr, vaddr) or not _has_pages(reader, paddr, size):
            continue
        if found:
            before = found[-1]
            if before[0] + before[2] == paddr and before[1] + before[2] == vaddr:
                found[-1] = (before[0], before[1], before[2] + size)
                continue
        if len(found) >= _MAX_RANGES:
            break
        found.append((paddr, vaddr, size))
    return found


def _spans(reader: DumpReader, addresses: AddressMap) -> Iterator[tuple[int, int]]:
    # the kernel's half without the direct map of the memory that there is
    end = reader.memory_map.end_pfn << reader.machine.page_shift
    low = 0xFF00000000000000
    for paddr, vaddr, size in sorted(addresses.ranges, key=lambda each: each[1]):
        if vaddr < low:
            continue
        yield low, vaddr
        low = min(vaddr + min(size, max(0, end - paddr)), _MASK)
    yield low, _MASK


def _entries(table: PageTable, spans: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
    for start, end in spans:
        try:
            yield from ((each.paddr, each.vaddr, each.size) for each in table.mappings(start, end))
        except DumpError:
            continue


def _is_known(addresses: AddressMap, paddr: int, vaddr: int) -> bool:
    text = addresses.text
    if text is not None and text[0] <= paddr < text[0] + text[2] and vaddr - paddr == text[1] - text[0]:
        return True
    return any(
        start <= paddr < start + size and vaddr - paddr == base - start for start, base, size in addresses.ranges
    )


def _has_pages(reader: DumpReader, paddr: int, size: int) -> bool:
    shift = reader.machine.page_shift
    first, last = paddr >> shift, (paddr + size - 1) >> shift
    runs = reader.memory_map
    at = int(runs.end.searchsorted(first, side="right"))
    return at < len(runs.end) and int(runs.start[at]) <= last
