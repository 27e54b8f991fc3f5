# SPDX-License-Identifier: GPL-2.0-or-later
"""Sections of a vmlinux from the symbols that mark their ends, and its symbol table."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...formats.errors import DumpError
from ..errors import MissingTable
from ..kernel import Kernel
from ..symbols import SymbolTable

__all__ = ["ELF_SYMBOL", "Section", "SymbolSections", "link_offset", "memory_sections", "symbol_sections"]

PAGE = 4096
_X86_STEXT = 0xFFFFFFFF81000000
_MAX_IMAGE = 1 << 30

PROGBITS, NOBITS = 1, 8
WRITE, ALLOC, EXECUTE = 1, 2, 4
_OBJECT, _FUNC, _SECTION = 1, 2, 3
_LOCAL, _GLOBAL, _WEAK = 0, 1, 2
_ABSOLUTE = 0xFFF1

ELF_SYMBOL = np.dtype(
    [("name", "u4"), ("info", "u1"), ("other", "u1"), ("section", "u2"), ("value", "u8"), ("size", "u8")]
)


@dataclass(slots=True)
class Section:
    """A section that is in memory.

    Attributes:
        name: Its name.
        start, end: Link-time addresses.
        type, flags: sh_type, sh_flags.
        content: Where it is at run time, None for a hole.
    """

    name: str
    start: int
    end: int
    type: int = PROGBITS
    flags: int = ALLOC | WRITE
    content: int | None = None


# name, symbols of start and end, type, flags, content. The per-CPU one is not the first or last: debuggers take the
# image's range from these.
_SECTIONS = (
    (".text", "_text", "_etext", PROGBITS, ALLOC | EXECUTE, True),
    (".rodata", "__start_rodata", "__end_rodata", PROGBITS, ALLOC | WRITE, True),
    (".data", "_sdata", "_edata", PROGBITS, ALLOC | WRITE, True),
    (".data..percpu", "__per_cpu_start", "__per_cpu_end", PROGBITS, ALLOC | WRITE, False),
    (".init.text", "_sinittext", "_einittext", PROGBITS, ALLOC | EXECUTE, False),
    (".init.data", "", "__init_end", NOBITS, ALLOC | WRITE, False),
    (".bss", "__bss_start", "__bss_stop", NOBITS, ALLOC | WRITE, False),
    (".brk", "__brk_base", "__brk_limit", NOBITS, ALLOC | WRITE, False),
)


def link_offset(kernel: Kernel) -> int:
    """Return run-time less link-time address of the kernel image.

    Raises:
        MissingTable: VMCOREINFO says one that cannot be.
    """
    said = kernel.info.hexadecimal("KERNELOFFSET")
    if said is not None:
        if not 0 <= said < 1 << 62:
            raise MissingTable(f"VMCOREINFO has a KERNELOFFSET of {said:#x}")
        return said
    stext = kernel.info.symbol("_stext") or kernel.symbols.address("_stext")
    return stext - _X86_STEXT if stext is not None and kernel.machine.arch == "x86_64" else 0


def memory_sections(kernel: Kernel, offset: int) -> list[Section]:
    """Return the sections that symbols tell of, in the order of the file.

    Args:
        kernel: Its symbols.
        offset: Run-time less link-time address.

    Raises:
        MissingTable: Symbols tell of no text.
    """
    address, floor = kernel.symbols.address, kernel.kernel_start
    found: list[Section] = []
    end_of_last = 0
    for name, first, last, kind, flags, has_content in _SECTIONS:
        start = address(first) if first else end_of_last + offset if found else None
        if start is None and first == "_text":  # not a function: kernels that name functions only have the next one
            start = address("_stext")
        end = address(last)
        if start is None or end is None or not start < end <= start + _MAX_IMAGE:
            continue
        shift = offset if start >= floor else 0
        section = Section(name, start - shift, end - shift, kind, flags, start if has_content else None)
        if shift or start >= floor:  # the per-CPU one may lie at 0, apart from the others
            late = max(0, end_of_last - section.start)
            section.start += late
            if section.content is not None:
                section.content += late
            if section.start >= section.end:
                continue
            end_of_last = section.end
        found.append(section)
    if not found or found[0].name != ".text":
        raise MissingTable("the symbols _text, _stext and _etext give no section .text")
    _close_gap(kernel.symbols, found, end_of_last, offset)
    return found


def _close_gap(symbols: SymbolTable, found: list[Section], end: int, offset: int) -> None:
    # crash relocates only symbols inside sections: what lies behind the last one gets one more
    last = int(symbols.addresses[-1]) - offset
    if end <= last < end + _MAX_IMAGE:
        stop = (last // PAGE + 1) * PAGE
        found.append(Section(".init.scratch", end, stop, NOBITS))


@dataclass(slots=True)
class SymbolSections:
    """Contents of .symtab and .strtab.

    Attributes:
        table: Rows of `ELF_SYMBOL`.
        strings: Their names.
        locals: Number of the first global symbol.
        links: Link-time addresses in the order of the kernel's table.
        ends: Where each of these ends.
        index: Section of each.
    """

    table: NDArray[np.void]
    strings: bytes
    locals: int
    links: NDArray[np.uint64]
    ends: NDArray[np.uint64]
    index: NDArray[np.uint16]


def module_sections(kernel: Kernel) -> list[Section]:
    """Return a section for each range of memory that a module has, its text first, at run-time addresses."""
    try:
        modules = sorted(kernel.modules, key=lambda each: each.base)
    except DumpError:
        return []
    return [
        Section(f".module.{each.name}.{number}", start, start + size, NOBITS, ALLOC | (WRITE if number else EXECUTE))
        for each in modules
        for number, (start, size) in enumerate(each.ranges)
        if 0 < size <= _MAX_IMAGE and start >= kernel.kernel_start
    ]


def symbols_with_modules(kernel: Kernel) -> SymbolTable:
    """Return the kernel's symbols and those of all modules, by address."""
    tables: list[SymbolTable] = [kernel.symbols]
    with contextlib.suppress(DumpError):
        for each in kernel.modules:
            with contextlib.suppress(DumpError):
                tables.append(kernel.modules.symbols(each))
    addresses = np.concatenate([each.addresses for each in tables])
    return SymbolTable(addresses, [name for each in tables for name in each.names], kernel.kernel_start)


def symbol_sections(kernel: Kernel, symbols: SymbolTable, sections: list[Section], offset: int) -> SymbolSections:
    """Return the symbol table.

    Args:
        kernel: The kernel.
        symbols: Its symbols.
        sections: As `memory_sections` gives them; numbered from 1.
        offset: Run-time less link-time address.
    """
    high = symbols.addresses >= np.uint64(kernel.kernel_start)
    links = np.where(high, symbols.addresses - np.uint64(offset & 0xFFFFFFFFFFFFFFFF), symbols.addresses)
    index, ends = _places(links, high, sections)
    letters = np.frombuffer(b"".join(name[:1] for name in symbols.names), "u1")
    binding = _bindings(letters)
    outside = index == _ABSOLUTE
    texts = np.array([0, *(int(bool(each.flags & EXECUTE)) for each in sections)], bool)
    is_code = ~outside & np.isin(letters, np.frombuffer(b"tTwW", "u1")) & texts[np.where(outside, 0, index)]
    is_data = ~outside & np.isin(letters, np.frombuffer(b"bBdDrRgGsSvVA", "u1")) & ~is_code
    order = np.concatenate([np.flatnonzero(binding == _LOCAL), np.flatnonzero(binding != _LOCAL)])
    names = [name[1:] for name in symbols.names]
    starts = np.fromiter(accumulate((len(name) + 1 for name in names), initial=1), np.uint32, len(names) + 1)[:-1]
    mark: Literal["<", ">"] = "<" if kernel.machine.byteorder == "little" else ">"
    first = 1 + len(sections)
    table = np.zeros(first + len(names), ELF_SYMBOL.newbyteorder(mark))
    for number, section in enumerate(sections, 1):
        table[number] = (0, _SECTION, 0, number, section.start, 0)
    rows = table[first:]
    rows["name"] = starts[order]
    rows["info"] = (binding << 4 | is_code * np.uint8(_FUNC) | is_data * np.uint8(_OBJECT))[order]
    rows["section"] = index[order]
    rows["value"] = links[order]
    rows["size"] = np.where(outside, 0, ends - links)[order]
    strings = b"\0" + b"\0".join(names) + b"\0"
    return SymbolSections(table, strings, first + int((binding == _LOCAL).sum()), links, ends, index)


def _bindings(letters: NDArray[np.uint8]) -> NDArray[np.uint8]:
    upper = (letters >= ord("A")) & (letters <= ord("Z")) & (letters != ord("A"))
    weak = np.isin(letters, np.frombuffer(b"wWvV", "u1"))
    return np.where(weak, _WEAK, np.where(upper, _GLOBAL, _LOCAL)).astype(np.uint8)


def _places(
    links: NDArray[np.uint64], high: NDArray[np.bool_], sections: list[Section]
) -> tuple[NDArray[np.uint16], NDArray[np.uint64]]:
    # the section of each symbol, and where it ends: at the next address, or with its section
    index = np.full(len(links), _ABSOLUTE, np.uint16)
    following = np.append(links, links[-1:])[np.searchsorted(links, links, side="right")] if len(links) else links
    ends = np.maximum(links, following)
    image = sorted((each for each in enumerate(sections, 1) if each[1].name != ".data..percpu"), key=_start)
    for number, section in image:  # a symbol in a gap counts to the section before it
        inside = high & (links >= np.uint64(section.start))
        index[inside] = number
    index[links > np.uint64(max(section.end for _, section in image))] = _ABSOLUTE
    for number, section in enumerate(sections, 1):
        if section.name == ".data..percpu":
            index[(links >= np.uint64(section.start)) & (links < np.uint64(section.end))] = number
    for number, section in enumerate(sections, 1):
        mine = index == number
        ends[mine] = np.maximum(links[mine], np.minimum(ends[mine], np.uint64(section.end)))
    return index, ends


def _start(numbered: tuple[int, Section]) -> int:
    return numbered[1].start


def pieces(kernel: Kernel, section: Section) -> Iterator[bytes]:
    """Yield a section's contents in pieces, zeros where memory cannot be read."""
    from ..errors import Unreadable

    assert section.content is not None  # noqa: S101 - the caller asks for sections with contents
    at, end = section.content, section.content + section.end - section.start
    while at < end:
        count = min(1 << 20, end - at)
        try:
            yield kernel.memory.read(at, count)
        except Unreadable:
            yield kernel.memory.read_sparse(at, count)[0]
        at += count
