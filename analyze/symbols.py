# SPDX-License-Identifier: GPL-2.0-or-later
"""Symbols by name and by address, whatever table they come from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Symbol", "SymbolTable"]

_MAX_SAME = 255  # symbols at one address that are looked at; kernels have some dozens
_MAX_SPAN = 1 << 24  # no function or variable is larger: beyond it an address belongs to no symbol


class Symbol(NamedTuple):
    """One symbol.

    Attributes:
        address: At run time.
        name: Printable.
        letter: nm's type letter.
        module: Name of its module, empty for the kernel.
    """

    address: int
    name: str
    letter: str
    module: str = ""


class SymbolTable:
    """A table sorted by address, names kept as the table has them.

    Args:
        addresses: u64, any order.
        names: Type letter and name.
        kernel_start: Addresses below are of no code or data (per-CPU offsets, absolute values).
        module: Name of the module, empty for the kernel.
    """

    def __init__(self, addresses: NDArray[np.uint64], names: list[bytes], kernel_start: int, module: str = "") -> None:
        self.addresses, self.names = addresses, names
        if bool((addresses[1:] < addresses[:-1]).any()):
            order = np.argsort(addresses, kind="stable")
            self.addresses = addresses[order]
            self.names = [names[index] for index in order.tolist()]
        self.kernel_start = kernel_start
        self.module = module
        self._by_name: dict[bytes, int] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def symbol(self, index: int) -> Symbol:
        """Return a symbol by its place in the table."""
        name = self.names[index]
        text = name[1:].decode("utf-8", "backslashreplace")
        return Symbol(int(self.addresses[index]), text, name[:1].decode("latin-1"), self.module)

    def __iter__(self) -> Iterator[Symbol]:
        return (self.symbol(index) for index in range(len(self.names)))

    def find(self, name: str) -> Symbol | None:
        """Return the first symbol of a name."""
        if self._by_name is None:
            self._by_name = {}
            for index in range(len(self.names) - 1, -1, -1):
                self._by_name[self.names[index][1:]] = index
        found = self._by_name.get(os.fsencode(name))
        return None if found is None else self.symbol(found)

    def find_all(self, name: str) -> list[Symbol]:
        """Return every symbol of a name, by address: static functions of several files may share one."""
        wanted = os.fsencode(name)
        if self.find(name) is None:
            return []
        return [self.symbol(index) for index, each in enumerate(self.names) if each[1:] == wanted]

    def address(self, name: str) -> int | None:
        """Return the address of a name."""
        found = self.find(name)
        return None if found is None else found.address

    def at(self, address: int) -> list[Symbol]:
        """Return the symbols at exactly an address."""
        low = int(np.searchsorted(self.addresses, np.uint64(address), side="left"))
        high = int(np.searchsorted(self.addresses, np.uint64(address), side="right"))
        return [self.symbol(index) for index in range(low, high)]

    def neighbours(self, address: int) -> tuple[Symbol | None, Symbol | None]:
        """Return the last symbol before an address and the first behind it."""
        low = int(np.searchsorted(self.addresses, np.uint64(address), side="left"))
        high = int(np.searchsorted(self.addresses, np.uint64(address), side="right"))
        before = self.symbol(low - 1) if low else None
        return before, self.symbol(high) if high < len(self.addresses) else None

    def lookup(self, address: int) -> tuple[Symbol, int] | None:
        """Return the symbol that an address lies in and the offset, None where it lies in none."""
        if address < self.kernel_start:
            return None
        index = int(np.searchsorted(self.addresses, np.uint64(address), side="right")) - 1
        if index < 0 or int(self.addresses[index]) < self.kernel_start:
            return None
        start = int(self.addresses[index])
        if address - start > _MAX_SPAN:
            return None
        return self._best(start, index), address - start

    def _best(self, start: int, index: int) -> Symbol:
        # of several at one address: none that marks a border, a global one, the first of the table
        first = int(np.searchsorted(self.addresses, np.uint64(start), side="left"))
        first = max(first, index - _MAX_SAME)
        found = [self.symbol(each) for each in range(first, index + 1)]
        return min(found, key=lambda each: (each.name.startswith(("__start_", "__stop_")), not each.letter.isupper()))

    def end_of(self, address: int) -> int:
        """Return the next different address in the table, or the address itself at its end."""
        index = int(np.searchsorted(self.addresses, np.uint64(address), side="right"))
        return int(self.addresses[index]) if index < len(self.addresses) else address
