# SPDX-License-Identifier: GPL-2.0-or-later
"""What is found by looking through physical memory: VMCOREINFO and the kallsyms tables, where nothing names them.

Source: docs/analyze.md, "searching". Every hit is a candidate only: who asked for it verifies.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..formats.errors import DumpError
from ..formats.pages import PageState
from ..formats.vmcoreinfo import MAX_SIZE, VmcoreInfo
from .btf import MAX_BYTES, Btf
from .btf_repair import repaired
from .errors import MissingTable, Unreadable
from .kallsyms import MAX_SYMBOLS, RawSymbols, decode_names, decode_offsets, tokens
from .memory import PhysicalMemory

__all__ = ["ScannedTables", "find_btf", "find_kallsyms", "find_text", "find_vmcoreinfo", "pieces"]

_ORDERS: tuple[Literal["little", "big"], ...] = ("little", "big")
_CHUNK_PFNS = 2048
_MAX_HITS = 64
_PIECE = 4096  # bytes that are there or not together
_MIN_BTF = 1 << 19  # bytes of a kernel's types; a module's are fewer
_DIGITS = b"\0" + b"".join(b"%d\0" % digit for digit in range(10))  # tokens of the codes 0x30 to 0x39
_BACK = 8 << 20  # markers lie no farther before the token table
_STEP = (512, 51200)  # bytes that 256 compressed names take


def pieces(physical: PhysicalMemory) -> Iterator[tuple[int, bytes]]:
    """Yield (physical address, bytes) of all stored memory, cut at holes; each piece ends with its successor's start.

    What lies across two pieces is found too, since a piece repeats the last page of the one before.
    """
    size = physical.machine.page_size
    start, end = physical.memory_map.only(PageState.STORED)
    for low, high in zip(start.tolist(), end.tolist(), strict=True):
        tail = b""
        for pfn in range(low, high, _CHUNK_PFNS):
            last = min(high, pfn + _CHUNK_PFNS)
            try:
                data = physical.read(pfn * size, (last - pfn) * size)
            except DumpError:
                data = b"".join(_page(physical, each) for each in range(pfn, last))
            yield pfn * size - len(tail), tail + data
            tail = data[-size:]


def _page(physical: PhysicalMemory, pfn: int) -> bytes:
    try:
        return physical.page(pfn)
    except DumpError:
        return bytes(physical.machine.page_size)


def find_text(physical: PhysicalMemory, pattern: bytes) -> Iterator[int]:
    """Yield the physical addresses of a pattern."""
    last = -1
    for base, data in pieces(physical):
        at = data.find(pattern)
        while at >= 0:
            if base + at > last:
                last = base + at
                yield last
            at = data.find(pattern, at + 1)


def find_vmcoreinfo(physical: PhysicalMemory) -> Iterator[VmcoreInfo]:
    """Yield what may be the text of VMCOREINFO: an ELF note of that name in memory."""
    mark = "<III" if physical.machine.byteorder == "little" else ">III"
    for number, address in enumerate(find_text(physical, b"VMCOREINFO\0\0OSRELEASE=")):
        if number >= _MAX_HITS:
            return
        try:
            namesz, descsz, kind = struct.unpack(mark, physical.read(address - 12, 12))
            if (namesz, kind) == (11, 0) and 0 < descsz <= MAX_SIZE:
                yield VmcoreInfo(physical.read(address + 12, descsz))
        except DumpError:
            continue


def kernel_byteorder(physical: PhysicalMemory) -> Literal["little", "big"] | None:
    """Return the byte order that the kernel's own tables have, None where none is found.

    A container may say otherwise: QEMU writes that of the processor's reset for ppc64, whose kernels have either.
    """
    for number, address in enumerate(find_text(physical, b"VMCOREINFO\0\0OSRELEASE=")):
        if number >= _MAX_HITS:
            break
        try:
            raw = physical.read(address - 12, 12)
        except DumpError:
            continue
        for order in _ORDERS:
            namesz, descsz, kind = struct.unpack("<III" if order == "little" else ">III", raw)
            if (namesz, kind) == (11, 0) and 0 < descsz <= MAX_SIZE:
                return order
    return None


def find_btf(physical: PhysicalMemory, image: bytes = b"") -> Btf:
    """Find the kernel's types by their header: the kernel's image lies in one piece of physical memory.

    Args:
        physical: What is searched.
        image: A piece of the kernel's image, which is searched first: it is a small part of memory.

    Raises:
        MissingTable: There are none.
    """
    order = physical.machine.byteorder
    head = b"\x9f\xeb\x01\x00\x18\0\0\0" if order == "little" else b"\xeb\x9f\x01\x00\0\0\0\x18"
    why = "no BTF in memory"
    at = image.find(head)
    for _ in range(_MAX_HITS):
        if at < 0:
            break
        try:
            found = _btf_at(lambda start, size: image[start : start + size], at, order)
            if found is not None:
                return found
        except DumpError as error:
            why = error.message
        at = image.find(head, at + 1)
    for number, address in enumerate(find_text(physical, head)):
        if number >= _MAX_HITS:
            break
        try:
            found = _btf_at(physical.read, address, order)
            if found is not None:
                return found
        except DumpError as error:
            why = error.message
    raise MissingTable(why)


def _btf_at(read: Callable[[int, int], bytes], address: int, order: Literal["little", "big"]) -> Btf | None:
    head = read(address + 8, 16)
    if len(head) < 16:
        return None
    type_off, type_len, str_off, str_len = struct.unpack(("<" if order == "little" else ">") + "IIII", head)
    if type_off or str_off != type_len or not _MIN_BTF <= type_len + str_len <= MAX_BYTES:
        return None  # of a module or a program: too small for a kernel's
    size = 24 + type_len + str_len
    try:
        btf = Btf(read(address, size), order)
    except Unreadable:
        btf = _with_holes(read, address, size, order)
    return btf if btf.find("task_struct", "struct") is not None else None


def _with_holes(read: Callable[[int, int], bytes], address: int, size: int, order: Literal["little", "big"]) -> Btf:
    data, holes, at = bytearray(size), list[tuple[int, int, str]](), 0
    while at < size:
        count = min(size - at, _PIECE - (address + at) % _PIECE)
        try:
            data[at : at + count] = read(address + at, count)
        except Unreadable as error:
            start = holes.pop()[0] if holes and holes[-1][1:] == (at, error.why) else at
            holes.append((start, at + count, error.why))
        at += count
    return repaired(bytes(data), holes, order)


class ScannedTables(NamedTuple):
    """kallsyms tables found in memory.

    Attributes:
        number: Symbols.
        names: With their type letters.
        offsets, offsets_address: The 32-bit offsets, None where addresses are absolute; where they lie (physical).
        base: kallsyms_relative_base, None where there is none.
        addresses: Absolute addresses, None where there are offsets.
    """

    number: int
    names: list[bytes]
    offsets: NDArray[np.int64] | None
    offsets_address: int
    base: int | None
    addresses: NDArray[np.uint64] | None

    def symbols(self, stext: int | None, word: int) -> RawSymbols:
        """Return the symbols, by the coding of addresses that fits.

        Raises:
            MissingTable: None does.
        """
        if self.addresses is not None:
            return RawSymbols(self.addresses, self.names, "kallsyms found by its tokens, absolute addresses")
        assert self.offsets is not None  # noqa: S101 - one of the two
        found, how = decode_offsets(self.offsets, self.base, self.offsets_address, stext, self.names, word)
        return RawSymbols(found, self.names, f"kallsyms found by its tokens, {how}")


def find_kallsyms(physical: PhysicalMemory) -> ScannedTables:
    """Find the tables by their tokens.

    Raises:
        MissingTable: They are not there, or no candidate holds together.
    """
    why = "no kallsyms tables in memory"
    for number, address in enumerate(find_text(physical, _DIGITS)):
        if number >= _MAX_HITS:
            break
        try:
            return _Scan(physical, address + 1).tables()
        except DumpError as error:
            why = f"no kallsyms tables in memory (what looks like theirs: {error.message.removeprefix('kallsyms: ')})"
    raise MissingTable(why)


class _Scan:
    # One candidate: `digit` is the physical address of the token of code 0x30.

    def __init__(self, physical: PhysicalMemory, digit: int) -> None:
        self._physical = physical
        self._word = physical.machine.word_size
        self._mark = "<" if physical.machine.byteorder == "little" else ">"
        self._order = physical.machine.byteorder
        self._find_index(digit)

    def _find_index(self, digit: int) -> None:
        raw = self._readable(digit, digit + 256 * 65)
        offsets, at = [], 0
        for _ in range(0x30, 256):
            end = raw.find(b"\0", at, at + 65)
            if end < 0:
                raise MissingTable("kallsyms: tokens do not end")
            offsets.append(at)
            at = end + 1
        for shift in range(0, 264):
            place = at + shift
            if (digit + place) % 2 or place + 512 > len(raw):
                continue
            index = np.frombuffer(raw, self._mark + "u2", 256, place).astype(np.int64)
            if index[0] == 0 and bool((np.diff(index) > 0).all()) and (index[0x30:] - index[0x30]).tolist() == offsets:
                self._index_at = digit + place
                self._table_at = digit - int(index[0x30])
                table = self._physical.read(self._table_at, self._index_at - self._table_at)
                self._tokens = tokens(table, index.astype(np.uint16))
                return
        raise MissingTable("kallsyms: no token index after the tokens")

    def _readable(self, start: int, end: int) -> bytes:
        # bytes from start on, as far as they are in the dump
        size, parts, at = self._physical.machine.page_size, [], start
        while at < end:
            count = min(end - at, size - at % size)
            try:
                parts.append(self._physical.read(at, count))
            except DumpError:
                break
            at += count
        return b"".join(parts)

    def _before(self, end: int, limit: int) -> tuple[int, bytes]:
        # (start, bytes) before an address, as far back as they are in the dump
        size, parts, at = self._physical.machine.page_size, [], end
        while at > max(0, end - limit):
            low = max(0, (at - 1) // size * size)
            try:
                parts.append(self._physical.read(low, at - low))
            except DumpError:
                break
            at = low
        return at, b"".join(reversed(parts))

    def tables(self) -> ScannedTables:
        start, raw = self._before(self._table_at, _BACK)
        for width in dict.fromkeys((4, self._word)):
            for at, values in self._markers(start, raw, width):
                found = self._names(start, raw, at, values, width)
                if found is not None:
                    return self._with_addresses(*found)
        raise MissingTable("kallsyms: tokens without markers and names before them")

    def _markers(self, start: int, raw: bytes, width: int) -> list[tuple[int, NDArray[np.int64]]]:
        # runs that begin with 0 and grow by what 256 names take, the longest first
        skip = -start % width
        count = (len(raw) - skip) // width
        values = np.frombuffer(raw, f"{self._mark}u{width}", count, skip).astype(np.int64)
        step = np.diff(values)
        good = (step >= _STEP[0]) & (step <= _STEP[1])
        edge = np.flatnonzero(np.diff(np.concatenate([[0], good.astype(np.int8), [0]])))
        runs = [(int(low), int(high)) for low, high in zip(edge[::2], edge[1::2], strict=True) if high - low >= 3]
        found = []
        for low, high in sorted(runs, key=lambda run: run[0] - run[1])[:16]:
            zero = [index for index in range(low, min(low + 2, high)) if values[index] == 0]
            if zero:
                found.append((skip + width * zero[0], values[zero[0] : high + 1]))
        return found

    def _names(
        self, start: int, raw: bytes, at: int, markers: NDArray[np.int64], width: int
    ) -> tuple[int, int, list[bytes]] | None:
        # num_syms stands before the names, which end at the markers
        blocks = len(markers)
        least, most = 256 * (blocks - 1) + 1, 256 * blocks
        last = int(markers[-1])
        end = at - last
        for place in range(end, max(0, end - 256 * 66), -1):
            if (start + place) % width:
                continue
            number = int.from_bytes(raw[place : place + width], self._order)
            if not least <= number <= min(most, MAX_SYMBOLS):
                continue
            names_at = place + width + -(start + place + width) % self._word
            for big in (True, False):
                names = self._decode(raw[names_at:at], number, markers, big)
                if names is not None:
                    return number, start + place, names
        return None

    def _decode(self, raw: bytes, count: int, markers: NDArray[np.int64], big: bool) -> list[bytes] | None:
        at, marks = 0, markers.tolist()
        for block in range(len(marks) - 1):  # from every marker 256 lengths lead to the next
            at = marks[block]
            for _ in range(256):
                if at >= len(raw):
                    return None
                length = raw[at]
                at += 1
                if length >= 0x80 and big:
                    if at >= len(raw):
                        return None
                    length = length & 0x7F | raw[at] << 7
                    at += 1
                at += length
            if at != marks[block + 1]:
                return None
        try:
            return decode_names(raw, count, self._tokens, big=big)[0]
        except MissingTable:
            return None

    def _with_addresses(self, count: int, num_at: int, names: list[bytes]) -> ScannedTables:
        word = self._word
        # before num_syms (up to 6.3): addresses, or offsets and the base
        base_at = num_at - word - (num_at - word) % word
        offsets_at = (base_at - 4 * count) // word * word
        candidates = [(offsets_at, base_at)]
        # behind the token index (6.4 and later)
        later = self._index_at + 512 + -(self._index_at + 512) % word
        candidates.append((later, later + 4 * count + -(later + 4 * count) % word))
        for where, base_where in candidates:
            try:
                raw = np.frombuffer(self._physical.read(where, 4 * count), f"{self._mark}i4").astype(np.int64)
                base = int.from_bytes(self._physical.read(base_where, word), self._order)
            except DumpError:
                continue
            if self._plausible(raw, base):
                return ScannedTables(count, names, raw, where, base, None)
        for where in (num_at - word * count - (num_at - word * count) % word, later):
            try:
                data = self._physical.read(where, word * count)
            except DumpError:
                continue
            addresses = np.frombuffer(data, f"{self._mark}u{word}").astype(np.uint64)
            if bool((addresses[1:] >= addresses[:-1]).all()) and int(addresses[-1]) > 1 << (8 * word - 1):
                return ScannedTables(count, names, None, where, None, addresses)
        raise MissingTable("kallsyms: names without addresses")

    def _plausible(self, raw: NDArray[np.int64], base: int) -> bool:
        # symbols are in address order: offsets ascend, or descend below zero where per-CPU ones are absolute
        if base < 1 << (8 * self._word - 1) and self._word == 8:
            return False
        negative = raw < 0
        if negative.any() and not negative.all():
            magnitude = np.where(negative, -1 - raw, 0)
            tail = magnitude[negative]
            return bool((np.diff(tail) >= 0).mean() > 0.99)
        return bool((np.diff(raw & 0xFFFFFFFF) >= 0).mean() > 0.99)
