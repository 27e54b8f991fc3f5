# SPDX-License-Identifier: GPL-2.0-or-later
"""The head of the list of modules where no symbol names it: from any module that lies where modules are loaded.

A struct module is part of its module's data. It is known by its list pointers, its state and its name; the list leads
from one to the others and through its head, the only member that lies in the kernel's own image.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ..formats.errors import DumpError
from ..formats.pagetable import PageTable
from .errors import MissingTable

if TYPE_CHECKING:
    from .kernel import Kernel

__all__ = ["find_modules_head"]

_ALIGN = 64  # struct module is aligned to a cache line
_MAX_AREA = 2 << 30
_MAX_STEPS = 1 << 17  # pages asked for one by one where tables cannot be listed
_MAX_PAGES = 1 << 18
_MAX_MODULES = 1 << 16
_X86_64 = (0xFFFFFFFFC0000000, 0xFFFFFFFFFF000000)


def find_modules_head(kernel: Kernel) -> int:
    """Return the address of the list's head.

    Raises:
        MissingTable: No module is found, or its list has no head in the kernel's image.
    """
    start, end = _area(kernel)
    low, high = _image(kernel)
    for address in _candidates(kernel, start, end):
        head = _head(kernel, address, low, high)
        if head is not None:
            return head
    raise MissingTable("no symbol names the list of modules, and no module is found where they are loaded")


def _area(kernel: Kernel) -> tuple[int, int]:
    start, end = kernel.info.number("MODULES_VADDR"), kernel.info.number("MODULES_END")
    if start is None or end is None:
        if kernel.machine.arch != "x86_64":
            raise MissingTable("no symbol names the list of modules, and nothing tells where they are loaded")
        start, end = _X86_64
    if not 0 < end - start <= _MAX_AREA:
        raise MissingTable(f"modules from {start:#x} to {end:#x}")
    return start, end


def _image(kernel: Kernel) -> tuple[int, int]:
    # symbols of the kernel's own, a page more for what has none behind the last
    table = kernel.symbols.addresses
    low = int(np.searchsorted(table, np.uint64(kernel.kernel_start)))
    return int(table[low]), int(table[-1]) + (16 << 20)


def _pages(kernel: Kernel, start: int, end: int) -> Iterator[int]:
    # virtual addresses of the pages that are mapped there
    size, walker = kernel.machine.page_size, kernel.memory.translator
    if isinstance(walker, PageTable):
        for each in walker.mappings(start, end):
            yield from range(max(start, each.vaddr), min(end, each.vaddr + each.size), size)
        return
    for address in range(start, min(end, start + size * _MAX_STEPS), size):
        try:
            kernel.memory.translate(address)
        except DumpError:
            continue
        yield address


def _candidates(kernel: Kernel, start: int, end: int) -> Iterator[int]:
    # addresses of what looks like a struct module
    structs, word = kernel.structs, kernel.memory.word
    state, links, name = (structs.field("module", each)[0] for each in ("state", "list", "name"))
    order = "<" if kernel.machine.byteorder == "little" else ">"
    need = max(links + 2 * word, name + 8)
    if max(state, links, name) + 64 > kernel.machine.page_size:
        return
    for number, page in enumerate(_pages(kernel, start, end)):
        if number > _MAX_PAGES:
            return
        try:
            raw = kernel.memory.read(page, kernel.machine.page_size)
        except DumpError:
            continue
        # one that goes over the end of its page is found by its list from another
        places = np.arange(0, len(raw) - need, _ALIGN)
        states = np.frombuffer(raw, order + "u4")[(places + state) // 4]
        words = np.frombuffer(raw, f"{order}u{word}")
        following, before = words[(places + links) // word], words[(places + links) // word + 1]
        first = np.frombuffer(raw, np.uint8)[places + name]
        floor = np.array(kernel.kernel_start, words.dtype)
        good = (states <= 3) & (following >= floor) & (before >= floor) & (first > 0x20) & (first < 0x7F)
        for place in places[good].tolist():
            yield page + place


def _head(kernel: Kernel, address: int, low: int, high: int) -> int | None:
    # go through the list once around
    structs, memory = kernel.structs, kernel.memory
    entry = start = address + structs.offset("module", "list")
    head: int | None = None
    try:
        name = structs.string(address, "module", "name")
        if not name.isascii() or not name.decode().isprintable():
            return None
        for _ in range(_MAX_MODULES):
            following = memory.pointer(entry)
            if memory.pointer(following + memory.word) != entry:
                return None
            if low <= following < high:
                if head is not None:
                    return None
                head = following
            if following == start:
                return head
            entry = following
    except DumpError:
        return None
    return None
