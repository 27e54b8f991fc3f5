# SPDX-License-Identifier: GPL-2.0-or-later
"""Exported symbols: names of data where kallsyms has functions only (CONFIG_KALLSYMS_ALL=n).

The kernel's read-only data hold a table of what modules may use: for each symbol its place, its name and, since 5.4,
a namespace; as distances from where they are written (4.19 and later, most architectures), else as addresses. Nothing
says where the table is. It is found by what it is made of: words at an even distance that lead to names. Names that
kallsyms has too decide which of the readings is right. Source: docs/analyze.md, "exports"; Linux include/linux/
export.h 4.18 to 6.12.

All of it is hostile: every distance is checked against the memory that was read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import MissingTable
from .memory import KernelMemory

__all__ = ["MAX_SCAN", "Export", "exported", "exports_alone", "find_exports"]

MAX_SCAN = 96 << 20  # bytes of the kernel's image that are looked through
_CHUNK = 1 << 18  # words looked at together
_MAX_NAME = 512
_MIN_RUN = 8  # entries that follow each other before they are looked at
_MIN_KNOWN = 16  # functions of a table that kallsyms has at the same address, at least this many ...
_MIN_SHARE = 0.1  # ... and this share: other tables of names and addresses have none
_ENOUGH = 256  # no other reading is tried then
_MAX_WRONG = 0.05  # of these, how many may lie elsewhere
_MIN_ALONE = 128  # entries of a kernel's table
_EVERYWHERE = frozenset((b"printk", b"panic", b"kfree"))  # what all these kernels export
_VERSION = re.compile(rb"_R(?:smp_|up_)?[0-9a-f]{8}$")  # CONFIG_MODVERSIONS of 2.4 puts a checksum into names
_FIRST = np.zeros(256, np.bool_)  # what a name begins with
_FIRST[[*range(0x41, 0x5B), *range(0x61, 0x7B), 0x5F]] = True
_LATER = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.$")


class Export(NamedTuple):
    """One exported symbol.

    Attributes:
        name: As the table has it.
        address: At run time.
        namespace: Empty for none.
    """

    name: bytes
    address: int
    namespace: bytes


class _Reading(NamedTuple):
    # One way to read the image: how wide a word is, whether it is a distance, and how many an entry has.
    width: int
    relative: bool
    words: int

    @property
    def how(self) -> str:
        kind = "distances" if self.relative else "addresses"
        return f"{kind}, {self.words} words an entry"


def find_exports(memory: KernelMemory, start: int, size: int, known: dict[bytes, set[int]]) -> tuple[list[Export], str]:
    """Find the tables of exported symbols in a piece of the kernel's image.

    Args:
        memory: Kernel memory.
        start, size: The piece.
        known: Addresses of functions by name: what decides between readings.

    Returns:
        The symbols, without those that `known` has elsewhere, and one line on how they were found.

    Raises:
        MissingTable: There is none, or none that agrees with `known`.
    """
    if not 0 < size <= MAX_SCAN:
        raise MissingTable(f"exports: {size} bytes to look through")
    start &= -8
    raw = memory.read_sparse(start, size & -8)[0]
    mark = "<" if memory.physical.machine.byteorder == "little" else ">"
    best: tuple[int, list[Export], str] = (0, [], "")
    for reading in _readings(memory.word):
        right, dropped, kept = 0, 0, list[Export]()
        for table in _Image(raw, start, mark, reading, memory.word).tables():
            here = sum(1 for each in table if each.address in known.get(each.name, ()))
            wrong = sum(1 for each in table if each.name in known) - here
            if here >= max(_MIN_KNOWN, _MIN_SHARE * len(table)) and wrong <= _MAX_WRONG * here:
                right, dropped = right + here, dropped + wrong
                kept += [each for each in table if each.address in known.get(each.name, (each.address,))]
        if right > best[0]:
            best = right, kept, f"{len(kept)} exports ({reading.how}), {right} checked by kallsyms, {dropped} dropped"
        if right >= _ENOUGH:
            break
    if not best[0]:
        raise MissingTable("no table of exported symbols in the kernel's read-only data")
    return best[1], best[2]


def exports_alone(memory: KernelMemory, start: int, size: int) -> tuple[dict[bytes, int], str]:
    """Find the exported symbols of a kernel of 2.4 to 4.18 that has no kallsyms: the one large table of addresses.

    Args:
        memory, start, size: As in `find_exports`.

    Raises:
        MissingTable: There is none, or no telling which.
    """
    start, size = start & -8, min(size, MAX_SCAN)
    raw = memory.read_sparse(start, size & -8)[0]
    mark = "<" if memory.physical.machine.byteorder == "little" else ">"
    for table in _Image(raw, start, mark, _Reading(memory.word, False, 2), memory.word).tables():
        found = {_VERSION.sub(b"", each.name): each.address for each in table}
        inside = sum(1 for address in found.values() if start <= address < start + size)
        if len(found) >= _MIN_ALONE and inside >= 0.9 * len(found) and found.keys() >= _EVERYWHERE:
            return found, f"no kallsyms; {len(found)} exports ({_Reading(memory.word, False, 2).how})"
    raise MissingTable("no table of exported symbols")


def _readings(word: int) -> list[_Reading]:
    absolute = [_Reading(word, False, 3), _Reading(word, False, 2)]
    return [_Reading(4, True, 3), _Reading(4, True, 2), *absolute]


class _Image:
    # The bytes of the image under one reading.

    def __init__(self, raw: bytes, start: int, mark: str, reading: _Reading, word: int) -> None:
        self._raw, self._start, self._reading = raw, start, reading
        self._bytes = np.frombuffer(raw, np.uint8)
        self._mask = (1 << 8 * word) - 1
        count = len(raw) // reading.width
        kind = f"i{reading.width}" if reading.relative else f"u{reading.width}"
        self._values = np.frombuffer(raw, mark + kind, count)

    def _places(self, low: int, high: int) -> NDArray[np.int64]:
        # where in `raw` words lead to
        values = self._values[low:high]
        if self._reading.relative:
            places: NDArray[np.int64] = np.arange(low, low + len(values), dtype=np.int64) * self._reading.width + values
            return places
        with np.errstate(over="ignore"):
            return (values.astype(np.uint64) - np.uint64(self._start)).view(np.int64)

    def _place(self, index: int) -> int:
        return int(self._places(index, index + 1)[0])

    def tables(self) -> Iterator[list[Export]]:
        """Yield what may be tables."""
        step = self._reading.words
        names, whole = self._lead_to_names()
        # a name's word belongs to an entry where those of enough neighbours stand at the same distance
        for phase in range(step):
            column, certain = names[phase::step], np.flatnonzero(whole[phase::step])
            edge = np.flatnonzero(np.diff(np.concatenate([[0], column.astype(np.int8), [0]])))
            for low, high in zip(edge[::2].tolist(), edge[1::2].tolist(), strict=True):
                # the linker lets a name be the tail of another, but not at both ends of a table
                inside = certain[np.searchsorted(certain, low) : np.searchsorted(certain, high)]
                if len(inside) >= max(_MIN_RUN, (high - low) // 4):
                    yield self._run([phase + step * each - 1 for each in range(int(inside[0]), int(inside[-1]) + 1)])

    def _lead_to_names(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        # words that lead to what may begin a name, and of these the ones that lead to a string's begin
        raw, count = self._bytes, len(self._values)
        names, whole = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
        for low in range(0, count, _CHUNK):
            places = self._places(low, low + _CHUNK)
            inside = (places > 0) & (places < len(raw) - 1)
            safe = np.where(inside, places, 1)
            names[low : low + _CHUNK] = inside & _FIRST[raw[safe]]
            whole[low : low + _CHUNK] = names[low : low + _CHUNK] & (raw[safe - 1] == 0)
        return names, whole

    def _run(self, entries: list[int]) -> list[Export]:
        found = []
        for index in entries:
            if index < 0:
                continue
            name = self._name(self._place(index + 1))
            address = self._start + self._place(index) & self._mask
            if name is None or (not self._reading.relative and not address):
                continue
            found.append(Export(name, address, self._namespace(index + 2)))
        return found

    def _name(self, place: int) -> bytes | None:
        end = self._raw.find(b"\0", place, place + _MAX_NAME)
        name = self._raw[place:end] if end > place else b""
        return name if name and _LATER.issuperset(name) else None

    def _namespace(self, index: int) -> bytes:
        if self._reading.words < 3 or index >= len(self._values):
            return b""
        place = self._place(index)
        own = index * self._reading.width  # a distance of zero is none
        return self._name(place) or b"" if 0 < place < len(self._raw) and place != own else b""


def exported(found: list[Export]) -> dict[bytes, int]:
    """Return addresses by name, the first of each."""
    table: dict[bytes, int] = {}
    for each in found:
        table.setdefault(each.name, each.address)
    return table
