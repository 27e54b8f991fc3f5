# SPDX-License-Identifier: GPL-2.0-or-later
"""System.map: symbols from a file that the user has, moved to where the kernel was loaded.

nm's lines: address, letter, name. /proc/kallsyms and the output of `nm vmlinux` are read too.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..formats.errors import UsageError
from .errors import MissingTable
from .kallsyms import MAX_SYMBOLS, RawSymbols

__all__ = ["SystemMap", "load_system_map"]

_MAX_FILE = 256 << 20
_MIN_SYMBOLS = 1000  # Debian's own System.map is a single line that says where the real one is
_MAX_NAME = 1024
_MIN_SHARE = 0.9  # of the addresses that are known otherwise, how many have to agree


class SystemMap(NamedTuple):
    """A file's symbols.

    Attributes:
        path: The file.
        addresses: As linked, u64.
        names: Letter and name.
    """

    path: str
    addresses: NDArray[np.uint64]
    names: list[bytes]

    def address(self, name: str) -> int | None:
        """Return the address of a symbol as linked."""
        wanted = name.encode()
        found = next((index for index, each in enumerate(self.names) if each[1:] == wanted), None)
        return None if found is None else int(self.addresses[found])

    def offset(self, known: Mapping[bytes, int], start: int) -> tuple[int, str]:
        """Return how far the kernel was moved from where it was linked, and one line on how that is known.

        Args:
            known: Addresses of symbols at run time.
            start: Addresses below are of no code or data: they are not moved.

        Raises:
            UsageError: The file is of another kernel.
        """
        moved: defaultdict[int, set[bytes]] = defaultdict(set)  # by name: several static variables may share one
        for name, address in zip(self.names, self.addresses.tolist(), strict=True):
            there = known.get(name[1:])
            if there is not None and address >= start and there >= start:
                moved[there - address].add(name[1:])
        if not moved:
            raise MissingTable("no symbol of System.map has a known address")
        offset = max(moved, key=lambda each: len(moved[each]))
        count, total = len(moved[offset]), len(set().union(*moved.values()))
        if count < _MIN_SHARE * total:
            raise UsageError(
                f"is of another kernel: {total - count} of {total} known addresses do not fit", path=self.path
            )
        return offset, f"moved by {offset:#x}, {count} of {total} known addresses agree"

    def symbols(self, offset: int, start: int, how: str) -> RawSymbols:
        """Return the symbols at run time.

        Args:
            offset: What `offset` returned.
            start: Addresses below stay.
            how: One line on where the offset comes from.
        """
        moved = self.addresses + np.uint64(offset & 0xFFFFFFFFFFFFFFFF)
        return RawSymbols(np.where(self.addresses >= np.uint64(start), moved, self.addresses), self.names, how)


def load_system_map(path: str, word: int) -> SystemMap:
    """Read a file.

    Args:
        path: Its name.
        word: Bytes of an address of the machine.

    Raises:
        UsageError: It is no System.map, or one without symbols.
        OSError: It cannot be read.
    """
    if os.path.getsize(path) > _MAX_FILE:
        raise UsageError(f"has {os.path.getsize(path)} bytes: no System.map is that large", path=path)
    with open(path, "rb") as file:
        lines = file.read(_MAX_FILE).splitlines()
    addresses, names = [], []
    for line in lines:
        parts = line.split()
        # of a module: /proc/kallsyms has them, and the dump too, where they belong
        if len(parts) != 3 or len(parts[1]) != 1 or len(parts[2]) > _MAX_NAME or len(parts[0]) > 2 * word:
            continue
        try:
            addresses.append(int(parts[0], 16))
        except ValueError:
            continue
        names.append(parts[1] + parts[2])
        if len(names) > MAX_SYMBOLS:
            raise UsageError(f"has more than {MAX_SYMBOLS} symbols", path=path)
    if len(names) < _MIN_SYMBOLS:
        raise UsageError(
            f"is no System.map: {len(names)} symbols in {len(lines)} lines",
            hint="a distribution may put the real one into its debuginfo package",
            path=path,
        )
    if not any(addresses):
        raise UsageError("has no addresses: /proc/kallsyms hides them from whoever is not root", path=path)
    table = np.array(addresses, np.uint64)
    order = np.argsort(table, kind="stable")
    return SystemMap(path, table[order], [names[index] for index in order.tolist()])
