# SPDX-License-Identifier: GPL-2.0-or-later
"""Puts the file together."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from ...formats.errors import DumpError
from ...formats.machine import ARCHITECTURES
from ..btf import KIND, Btf
from ..errors import MissingTable
from ..kernel import Kernel
from ..symbols import SymbolTable
from .cfi import call_frames
from .cfi_arm64 import record_frames
from .dwarf import Abbreviations, Function, Strings, TypeUnit, function_units
from .elf import Chunk, write_elf
from .frames import debug_frame, holes
from .layout import (
    EXECUTE,
    Section,
    SymbolSections,
    link_offset,
    memory_sections,
    module_sections,
    pieces,
    symbol_sections,
    symbols_with_modules,
)
from .variables import declare_all

__all__ = ["VERSION", "write_vmlinux"]

VERSION = 4  # of what is written: a change makes cached files stale


def write_vmlinux(kernel: Kernel, path: str, *, image: bool = True, for_gdb: bool = False) -> None:
    """Write a vmlinux.

    Args:
        kernel: Symbols and BTF are needed, and a 64-bit machine.
        path: The file; replaced if it is there, mode 0600: it has the kernel's memory in it.
        image: Write the contents of text and data too.
        for_gdb: Run-time addresses, modules' symbols and call frame information: plain gdb knows neither KASLR nor ORC.

    Raises:
        MissingTable, Unreadable: The dump does not have what is needed.
        OSError: The file cannot be written.
    """
    if kernel.machine.word_size != 8:
        raise MissingTable(f"a vmlinux of {kernel.machine.arch} is not written: 64-bit kernels only")
    try:
        _write(kernel, path, image, for_gdb)
    except (struct.error, OverflowError) as error:  # symbols lie further apart than any kernel's
        raise MissingTable(f"addresses or sizes of the symbols or types make no sense: {error}") from error


def _write(kernel: Kernel, path: str, image: bool, for_gdb: bool) -> None:
    offset, names = (0, symbols_with_modules(kernel)) if for_gdb else (link_offset(kernel), kernel.symbols)
    sections = memory_sections(kernel, offset)
    if for_gdb:
        sections += module_sections(kernel)
    symbols = symbol_sections(kernel, names, sections, offset)
    frames = _all_frames(kernel, names, sections) if for_gdb else _frames_of_holes(kernel, offset)
    chunks = [*_build_id(kernel), *_dwarf(kernel, names, sections, symbols, offset), *frames]
    chunks.append(Chunk(".symtab", 2, symbols.table.tobytes(), ".strtab", symbols.locals, 24, 8))
    chunks.append(Chunk(".strtab", 3, symbols.strings))
    memory: list[tuple[Section, Iterable[bytes]]] = [
        (each, pieces(kernel, each) if image and each.content is not None else ()) for each in sections
    ]
    write_elf(path, ARCHITECTURES[kernel.machine.arch].e_machine, kernel.btf.mark, memory, chunks)


def _build_id(kernel: Kernel) -> list[Chunk]:
    try:
        said = bytes.fromhex(kernel.info.text("BUILD-ID") or "")
    except ValueError:
        said = b""
    if not 8 <= len(said) <= 64:
        return []
    note = struct.pack(kernel.btf.mark + "III", 4, len(said), 3) + b"GNU\0" + said + bytes(-len(said) % 4)
    return [Chunk(".note.gnu.build-id", 7, note, align=4)]


def _dwarf(
    kernel: Kernel, names: SymbolTable, sections: list[Section], symbols: SymbolSections, offset: int
) -> list[Chunk]:
    btf = kernel.all_types  # the modules' too: the kernel's have the same numbers in it
    strings, shapes = Strings(btf.string_section), Abbreviations()
    types = TypeUnit(btf, strings, shapes)
    declare_all(kernel, types, offset)
    info = types.section()
    units, ranges = function_units(btf, types, strings, shapes, _functions(btf, names, sections, symbols), len(info))
    return [
        Chunk(".debug_info", 1, info + units),
        Chunk(".debug_abbrev", 1, shapes.section()),
        Chunk(".debug_str", 1, strings.section(), entry_size=1),
        Chunk(".debug_aranges", 1, ranges, align=16),
    ]


def _frames_of_holes(kernel: Kernel, offset: int) -> list[Chunk]:
    try:
        rows = holes(kernel, offset)
    except DumpError:
        return []
    return [Chunk(".debug_frame", 1, debug_frame(rows), align=8)] if rows else []


def _all_frames(kernel: Kernel, names: SymbolTable, sections: list[Section]) -> list[Chunk]:
    if kernel.machine.arch == "aarch64":
        code = [(each.start, each.end) for each in sections if each.flags & EXECUTE]
        return [Chunk(".debug_frame", 1, record_frames(kernel.btf.mark, code, _never_called(kernel)), align=8)]
    if kernel.machine.arch != "x86_64":
        raise MissingTable(f"no call frame information is made for {kernel.machine.arch}: x86_64 and aarch64 only")
    numbers = kernel.version
    frames = call_frames(kernel, names.addresses, indirect_first=numbers >= (5, 12) or not numbers)
    return [Chunk(".debug_frame", 1, frames, align=8)]


def _never_called(kernel: Kernel) -> list[tuple[int, int]]:
    # aarch64's entries from user mode (before Linux 5.14 el0_sync and the like), and where threads begin
    names = [f"el0{kind}_{event}" for kind in ("t_64", "t_32", "") for event in ("sync", "irq", "fiq", "error")]
    table = kernel.symbols
    places = [table.address(name) for name in (*names, "ret_from_fork", "__primary_switched", "__secondary_switched")]
    return [(each, table.end_of(each)) for each in places if each is not None]


def _functions(btf: Btf, table: SymbolTable, sections: list[Section], symbols: SymbolSections) -> list[Function]:
    # every text symbol that BTF has a prototype for; of several at one address the first has the range
    names, protos = table.names, _prototypes(btf)
    texts = {number for number, each in enumerate(sections, 1) if each.flags & EXECUTE}
    found: list[Function] = []
    last = -1
    rows = zip(names, symbols.links.tolist(), symbols.ends.tolist(), symbols.index.tolist(), strict=True)
    for name, address, end, index in rows:
        if name[:1] not in b"tTwW" or index not in texts:
            continue
        proto = protos.get(name[1:])
        if proto is None:
            continue
        size = end - address if address != last else 0
        if size <= 0 and address != last:
            continue
        last = address
        text = name[1:].decode("utf-8", "surrogateescape")
        found.append(Function(address, size, text, proto, name[:1] in b"TW"))
    return found


def _prototypes(btf: Btf) -> dict[bytes, int]:
    # by the names of functions
    unpack, data, strings = struct.Struct(f"{btf.mark}III").unpack_from, btf.data, btf.string_section
    rows = [(0, 0, 0), *(unpack(data, at) for at in btf.positions[1:])]
    found = {}
    for name, info, number in rows:
        if info >> 24 & 31 == KIND["func"] and number < len(rows) and rows[number][1] >> 24 & 31 == KIND["func_proto"]:
            found[strings[name : strings.find(b"\0", name)]] = number
    return found
