# SPDX-License-Identifier: GPL-2.0-or-later
"""ORC: how to step from one frame to its caller on x86_64. Source: docs/analyze.md, "ORC".

An entry says for an address where the caller's stack pointer is (register and offset), where its base pointer was
saved, and what kind of frame it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..formats.errors import DumpError
from .errors import MissingTable, Unreadable
from .kernel import Kernel

__all__ = ["Orc", "OrcEntry", "OrcTable"]

_MAX_ENTRIES = 1 << 23

# Hashes of struct orc_entry that the kernel keeps in .orc_header.
_VERSIONS = {
    "fe5d32bf581bd63b2ca9a5c65ba5a625eab3fe24": 3,
    "db84aed4103b31dd51e017f8f79783ca985c2c51": 2,
    "137c36ad7627c4dd55932176bb0ecdbd5041fc82": 4,
}
_REGISTERS = ("undefined", "prev_sp", "dx", "di", "bp", "sp", "r10", "r13", "bp_indirect", "sp_indirect", "ax")
_REGISTERS_4 = ("undefined", "ax", "dx", "sp", "bp", "di", "r10", "r13", "prev_sp", "sp_indirect", "bp_indirect")


class OrcEntry(NamedTuple):
    """One decoded entry.

    Attributes:
        sp_register, sp_offset: Where the caller's stack pointer comes from.
        bp_register, bp_offset: Where its base pointer was saved.
        kind: `undefined`, `end`, `call`, `regs` or `regs_partial`.
        signal: The frame was interrupted: its address is that of an instruction not yet done.
    """

    sp_register: str
    sp_offset: int
    bp_register: str
    bp_offset: int
    kind: str
    signal: bool


class OrcTable:
    """The entries of the kernel or one module.

    Args:
        addresses: Of the entries, u64, any order.
        entries: Rows (sp_offset, bp_offset, flags).
        version: 1 to 4.
    """

    def __init__(self, addresses: NDArray[np.uint64], entries: NDArray[np.void], version: int) -> None:
        if bool((addresses[1:] < addresses[:-1]).any()):
            order = np.argsort(addresses, kind="stable")
            addresses, entries = addresses[order], entries[order]
        self._addresses, self._entries = addresses, entries
        self._version = version
        self._names = _REGISTERS_4 if version == 4 else _REGISTERS

    def __len__(self) -> int:
        return len(self._addresses)

    def find(self, address: int) -> OrcEntry | None:
        """Return the entry for an address, None below the first one."""
        index = int(np.searchsorted(self._addresses, np.uint64(address), side="right")) - 1
        if index < 0:
            return None
        found = self._decode(index)
        # of several at one address the last that says something counts
        while found.kind == "undefined" and index and self._addresses[index - 1] == self._addresses[index]:
            index -= 1
            found = self._decode(index)
        return found

    def columns(self) -> tuple[NDArray[np.uint64], NDArray[np.void]]:
        """Return the addresses, ascending, and the rows as they are stored."""
        return self._addresses, self._entries

    def _decode(self, index: int) -> OrcEntry:
        return self.decode(self._entries[index])

    def decode(self, row: np.void) -> OrcEntry:
        """Decode one row."""
        sp_offset, bp_offset, flags = int(row["sp"]), int(row["bp"]), int(row["flags"])
        sp, bp = flags & 15, flags >> 4 & 15
        names = self._names
        sp_name = names[sp] if sp < len(names) else "undefined"
        bp_name = names[bp] if bp < len(names) else "undefined"
        if self._version >= 3:
            kind = ("undefined", "end", "call", "regs", "regs_partial")[min(flags >> 8 & 7, 4)]
            signal = bool(flags >> 11 & 1)
        else:
            kind = ("call", "regs", "regs_partial", "undefined")[flags >> 8 & 3]
            end_bit = 10 if self._version == 1 else 11
            signal = kind != "call" if self._version == 1 else bool(flags >> 10 & 1)
            if flags >> end_bit & 1:
                kind = "end"
            elif sp_name == "undefined":
                kind = "undefined"
        return OrcEntry(sp_name, sp_offset, bp_name, bp_offset, kind, signal)


class Orc:
    """All ORC entries of a kernel: its own, and those of its modules when they are needed.

    Attributes:
        has_holes: Some could not be read: nothing is known of their addresses.

    Raises:
        MissingTable, Unreadable: The kernel's own table is not there.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.has_holes = False
        symbol = kernel.symbol
        self.version = self._tell_version()
        ip, ip_end = symbol("__start_orc_unwind_ip"), symbol("__stop_orc_unwind_ip")
        entries = symbol("__start_orc_unwind")
        count = (ip_end - ip) // 4
        if not 0 < count <= _MAX_ENTRIES:
            raise MissingTable(f"ORC table of {count} entries")
        self._table = self._read(ip, entries, count)
        self._modules: dict[int, OrcTable | None] = {}
        self._text = (symbol("_text"), kernel.symbols.address("_end") or symbol("_etext"))

    def _tell_version(self) -> int:
        kernel = self._kernel
        header = kernel.symbols.address("__start_orc_header")
        if header is not None:
            try:
                return _VERSIONS.get(kernel.memory.read(header, 20).hex(), 3)
            except DumpError:
                return 3
        numbers = kernel.version
        return 3 if numbers >= (6, 4) else 2 if numbers == (6, 3) else 1

    def _read(self, ip: int, entries: int, count: int) -> OrcTable:
        # of what cannot be read nothing is known, in any version: zeros are "undefined"
        raw, holes = self._sparse(ip, 4 * count)
        offsets = np.frombuffer(raw, "<i4").astype(np.int64)
        addresses = (np.uint64(ip) + 4 * np.arange(count, dtype=np.uint64)) + offsets.astype(np.uint64)
        raw, more = self._sparse(entries, 6 * count)
        rows = np.frombuffer(raw, np.dtype([("sp", "<i2"), ("bp", "<i2"), ("flags", "<u2")])).copy()
        for start, end in more:
            rows[start // 6 : -(-end // 6)] = 0
        for start, end in holes:  # from behind the last entry that is known, as a table ascends
            first, last = start // 4, -(-end // 4)
            addresses[first:last] = addresses[first - 1] + np.uint64(1) if first else 0
            rows[first:last] = 0
        return OrcTable(addresses, rows, self.version)

    def _sparse(self, start: int, size: int) -> tuple[bytes, list[tuple[int, int]]]:
        raw, holes = self._kernel.memory.read_sparse(start, size)
        if sum(end - low for low, end, _ in holes) >= size:
            raise Unreadable(start, holes[0][2])
        self.has_holes |= bool(holes)
        return raw, [(low - start, end - start) for low, end, _ in holes]

    def find(self, address: int) -> OrcEntry | None:
        """Return the entry for a text address, None where nothing is known of it."""
        if self._text[0] <= address < self._text[1]:
            return self._table.find(address)
        try:
            module = self._kernel.modules.at(address)
        except DumpError:
            return None
        if module is None:
            return None
        if module.address not in self._modules:
            self._modules[module.address] = self._module_table(module.address)
        table = self._modules[module.address]
        return table.find(address) if table is not None else None

    def tables(self) -> Iterator[tuple[OrcTable, int]]:
        """Yield the tables of the kernel and of each module that has one, and where the text of each ends."""
        yield self._table, self._text[1]
        try:
            modules = list(self._kernel.modules)
        except DumpError:
            return
        for module in modules:
            table = self._module_table(module.address)
            if table is not None and module.ranges:
                yield table, module.ranges[0][0] + module.ranges[0][1]

    def _module_table(self, module: int) -> OrcTable | None:
        structs = self._kernel.structs
        try:
            count = structs.get(module, "module", "arch.num_orcs")
            ip = structs.get(module, "module", "arch.orc_unwind_ip")
            entries = structs.get(module, "module", "arch.orc_unwind")
            if not 0 < count <= _MAX_ENTRIES:
                return None
            return self._read(ip, entries, count)
        except DumpError:
            return None
