# SPDX-License-Identifier: GPL-2.0-or-later
"""Loaded modules and their symbols. Source: docs/analyze.md, "modules"."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..formats.errors import DumpError
from .errors import MissingTable
from .kernel import Kernel
from .symbols import Symbol, SymbolTable

__all__ = ["Module", "Modules"]

_MAX_MODULES = 1 << 16
_MAX_SYMBOLS = 1 << 18
_MAX_STRINGS = 1 << 24
_MAX_NAME = 1024
_MAX_KINDS = 64  # of a module's memory: text, data, read-only data ...


@dataclass(frozen=True, slots=True)
class Module:
    """One module.

    Attributes:
        address: Of its struct module.
        name: Its name.
        base, size: Of its text and data (its core).
        state: 0 live, 1 coming, 2 going.
        taints: Bits.
        ranges: (start, size) of all memory that it has.
    """

    address: int
    name: str
    base: int
    size: int
    state: int
    taints: int
    ranges: tuple[tuple[int, int], ...]


class Modules:
    """The modules of a kernel.

    Args:
        kernel: The kernel; BTF is needed.

    Attributes:
        complaints: What could not be read.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.complaints: list[str] = []
        self._tables: dict[int, SymbolTable] = {}

    @cached_property
    def all(self) -> list[Module]:
        """The modules, the one loaded last first, as in the kernel's list."""
        structs = self._kernel.structs
        found: list[Module] = []
        try:
            for address in structs.list(self._kernel.symbol("modules"), "module", "list"):
                if len(found) >= _MAX_MODULES:
                    raise MissingTable("the list of modules does not end")
                try:
                    found.append(self._read(address))
                except DumpError as error:
                    self.complaints.append(f"module {address:#x}: {error.message}")
        except DumpError as error:
            self.complaints.append(f"list of modules: {error.message}")
        return found

    def __iter__(self) -> Iterator[Module]:
        return iter(self.all)

    def _read(self, address: int) -> Module:
        structs = self._kernel.structs
        get = structs.get
        if structs.first("module", "core_layout") is not None:  # 4.5 to 6.3
            base, size = get(address, "module", "core_layout.base"), get(address, "module", "core_layout.size")
            ranges = [(base, size)]
            init = get(address, "module", "init_layout.base")
            if init:
                ranges.append((init, get(address, "module", "init_layout.size")))
        elif structs.first("module", "mem") is not None:  # 6.4 and later
            offset, total, _ = structs.field("module", "mem")
            step = structs.size("module_memory")
            if not 0 < step <= total <= _MAX_KINDS * step:
                raise MissingTable(f"module memory of {total} bytes in steps of {step}")
            ranges = []
            for place in range(address + offset, address + offset + total, step):
                start, length = get(place, "module_memory", "base"), get(place, "module_memory", "size")
                if start and length:
                    ranges.append((start, length))
            base = ranges[0][0] if ranges else 0
            size = sum(length for _, length in ranges)
        else:
            base, size = get(address, "module", "module_core"), get(address, "module", "core_size")
            ranges = [(base, size)]
        taints = get(address, "module", "taints") if structs.first("module", "taints") else 0
        name = structs.string(address, "module", "name").decode("utf-8", "backslashreplace")
        return Module(address, name, base, size, get(address, "module", "state"), taints, tuple(ranges))

    def at(self, address: int) -> Module | None:
        """Return the module whose memory holds an address."""
        for module in self.all:
            for start, size in module.ranges:
                if start <= address < start + size:
                    return module
        return None

    def symbols(self, module: Module) -> SymbolTable:
        """Return a module's symbols.

        Raises:
            MissingTable, Unreadable: They cannot be had.
        """
        table = self._tables.get(module.address)
        if table is None:
            table = self._tables[module.address] = self._read_symbols(module)
        return table

    def _read_symbols(self, module: Module) -> SymbolTable:
        structs, memory = self._kernel.structs, self._kernel.memory
        kallsyms = structs.get(module.address, "module", "kallsyms")
        count = structs.get(kallsyms, "mod_kallsyms", "num_symtab")
        if not 0 <= count <= _MAX_SYMBOLS:
            raise MissingTable(f"module {module.name} with {count} symbols")
        symtab, strtab = (structs.get(kallsyms, "mod_kallsyms", name) for name in ("symtab", "strtab"))
        wide = memory.word == 8
        mark = "<" if self._kernel.machine.byteorder == "little" else ">"
        entry = struct.Struct(mark + ("IBBHQQ" if wide else "IIIBBH"))
        rows = list(entry.iter_unpack(memory.read(symtab, count * entry.size)))
        largest = max((row[0] for row in rows), default=0)
        if largest > _MAX_STRINGS:
            raise MissingTable(f"module {module.name}: symbol name at {largest:#x}")
        strings = memory.read(strtab, largest) + memory.string(strtab + largest) + b"\0"
        has_letters = structs.first("mod_kallsyms", "typetab") is not None
        letters = memory.read(structs.get(kallsyms, "mod_kallsyms", "typetab"), count) if has_letters else b""
        addresses, names = [], []
        for index, row in enumerate(rows):
            name, info, section, value = (row[0], row[1], row[3], row[4]) if wide else (row[0], row[3], row[5], row[1])
            text = strings[name : max(name, strings.find(b"\0", name, name + _MAX_NAME))]
            if not text or not section:
                continue
            letter = letters[index : index + 1] if has_letters else bytes([info])
            addresses.append(value)
            names.append(letter + text)
        return SymbolTable(np.array(addresses, np.uint64), names, self._kernel.kernel_start, module.name)

    def find(self, name: str) -> Symbol | None:
        """Return the first symbol of a name in any module."""
        for module in self.all:
            try:
                found = self.symbols(module).find(name)
            except DumpError as error:
                self._complain(f"symbols of module {module.name}: {error.message}")
                continue
            if found is not None:
                return found
        return None

    def _complain(self, text: str) -> None:
        if len(self.complaints) < 100 and text not in self.complaints:
            self.complaints.append(text)

    def lookup(self, address: int) -> tuple[Symbol, int] | None:
        """Return the symbol of a module that an address lies in, and the offset."""
        module = self.at(address)
        if module is None:
            return None
        try:
            return self.symbols(module).lookup(address)
        except DumpError as error:
            self._complain(f"symbols of module {module.name}: {error.message}")
            return None
