# SPDX-License-Identifier: GPL-2.0-or-later
"""A kernel of a few pages, made by hand: memory by address, symbols by name. What analysis of a real one rests on."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np

from dumpconv.analyze.errors import MissingTable, Unreadable
from dumpconv.analyze.memory import KernelMemory
from dumpconv.analyze.symbols import Symbol, SymbolTable
from dumpconv.formats.machine import ARCHITECTURES, Machine
from dumpconv.formats.vmcoreinfo import VmcoreInfo

PAGE = 4096


class FakePhysical:
    """Physical memory: pages by number, missing ones are not in the dump."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.pages: dict[int, bytearray] = {}

    def write(self, paddr: int, data: bytes) -> None:
        for at in range(len(data)):
            pfn, start = divmod(paddr + at, PAGE)
            self.pages.setdefault(pfn, bytearray(PAGE))[start] = data[at]

    def page(self, pfn: int) -> bytes:
        if pfn not in self.pages:
            raise Unreadable(pfn * PAGE, "not in the dump")
        return bytes(self.pages[pfn])

    def read(self, paddr: int, size: int) -> bytes:
        out = b""
        while len(out) < size:
            pfn, start = divmod(paddr + len(out), PAGE)
            out += self.page(pfn)[start : start + size - len(out)]
        return out

    read_physical = read


class FakeKernel:
    """What an unwinder needs of a kernel.

    Args:
        arch: Architecture.
        base: Kernel address of physical address 0.
        functions: Start addresses by name; the last one is 4 KiB long.
        order: Byte order where the architecture has both.
    """

    def __init__(self, arch: str, base: int, functions: Mapping[str, int], order: Any = None) -> None:
        known = ARCHITECTURES[arch]
        byteorder = order or ("big" if arch == "s390x" else "little")
        self.machine = Machine(arch, byteorder, known.word_size, PAGE, known.e_machine)
        self.physical: Any = FakePhysical(self.machine)
        self.base = base
        self.memory = KernelMemory(self.physical, None, [(base, 0, 1 << 30)])
        self.reader = SimpleNamespace(notes=[], machine=self.machine)
        self.info = VmcoreInfo(b"")
        self.stack_size = 8192
        self.kernel_start = 0 if arch == "s390x" else 1 << 8 * known.word_size - 1
        names = sorted(functions.items(), key=lambda each: each[1])
        addresses = np.array([address for _, address in names], np.uint64)
        self.symbols = SymbolTable(addresses, [b"t" + name.encode() for name, _ in names], self.kernel_start)
        self._end = names[-1][1] + PAGE

    @property
    def structs(self) -> Any:
        raise MissingTable("no types")

    def lookup(self, address: int) -> tuple[Symbol, int] | None:
        return self.symbols.lookup(address) if address < self._end else None

    def write(self, address: int, data: bytes) -> None:
        self.physical.write(address - self.base, data)

    def words(self, address: int, *values: int) -> None:
        letter = "Q" if self.machine.word_size == 8 else "I"
        mark = "<" if self.machine.byteorder == "little" else ">"
        self.write(address, struct.pack(f"{mark}{len(values)}{letter}", *values))
