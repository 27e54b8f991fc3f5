# SPDX-License-Identifier: GPL-2.0-or-later
"""kallsyms: the kernel's own symbol table, decoded from its memory. Source: docs/analyze.md, "kallsyms".

All of it is hostile: counts are bounded, every step is checked against the tables' ends.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..formats.vmcoreinfo import VmcoreInfo
from .errors import MissingTable, Unreadable
from .kallsyms_partial import Hole, decode_whole_blocks, gaps_of, in_order, markers_behind, readable
from .memory import KernelMemory

__all__ = ["MAX_SYMBOLS", "RawSymbols", "decode_names", "from_vmcoreinfo"]

MAX_SYMBOLS = 1 << 22
_MAX_NAME = 1024
_MAX_NAMES = 1 << 28  # bytes of all names
_LANDMARKS = (b"_stext", b"init_uts_ns", b"swapper_pg_dir", b"init_top_pgt", b"prb", b"node_online_map", b"log_buf")
_MAX_TOKENS = 256 * 65


class RawSymbols(NamedTuple):
    """A decoded table, in its own order (by address).

    Attributes:
        addresses: Run-time addresses, u64.
        names: Type letter and name together, as the table has them.
        how: One line on where the table was found and how addresses are coded.
        gaps: (start, end) of addresses whose symbols could not be read, ascending.
    """

    addresses: NDArray[np.uint64]
    names: list[bytes]
    how: str
    gaps: tuple[tuple[int, int], ...] = ()


def tokens(table: bytes, index: NDArray[np.uint16]) -> list[bytes]:
    """Cut the token table into its 256 strings.

    Raises:
        MissingTable: It is no token table.
    """
    starts = index.astype(np.int64).tolist()
    if len(starts) != 256 or starts[0] != 0 or any(b <= a for a, b in pairwise(starts)):
        raise MissingTable("kallsyms: the token index does not ascend")
    found = []
    for start in starts:
        end = table.find(b"\0", start, start + 65)
        if end < 0:
            raise MissingTable("kallsyms: a token does not end")
        found.append(table[start:end])
    return found


def decode_names(
    names: bytes, count: int, words: list[bytes], *, big: bool, starts: list[int] | None = None
) -> tuple[list[bytes], int]:
    """Decode `count` names.

    Args:
        names: The compressed names, at least all of them.
        count: How many.
        words: The 256 tokens.
        big: A length byte with bit 7 set has a second byte (Linux 6.1 and later).
        starts: Takes where every 256th name begins.

    Returns:
        The names with their type letters, and the bytes used.

    Raises:
        MissingTable: They go past their end, or one is longer than any name.
    """
    found, at, end, total = [], 0, len(names), 0
    join, get = b"".join, words.__getitem__
    try:
        for number in range(count):
            if starts is not None and not number & 255:
                starts.append(at)
            length = names[at]
            at += 1
            if length >= 0x80 and big:
                length = length & 0x7F | names[at] << 7
                at += 1
            name = join(map(get, names[at : at + length]))
            total += len(name)
            if len(name) > _MAX_NAME or total > _MAX_NAMES:
                break
            found.append(name)
            at += length
    except IndexError as error:
        raise MissingTable("kallsyms: the names go past their end") from error
    if at > end or len(found) < count or not all(found):
        raise MissingTable("kallsyms: the names go past their end, or are no names")
    return found, at


def from_vmcoreinfo(memory: KernelMemory, info: VmcoreInfo) -> RawSymbols:
    """Decode the table whose parts VMCOREINFO names (Linux 6.0 and later).

    Raises:
        MissingTable: Keys are missing, or the tables make no sense.
        Unreadable: They are not in the dump.
    """
    keys = {name: info.symbol(f"kallsyms_{name}") for name in ("names", "num_syms", "token_table", "token_index")}
    names, num, table, index = keys["names"], keys["num_syms"], keys["token_table"], keys["token_index"]
    if names is None or num is None or table is None or index is None:
        raise MissingTable("VMCOREINFO does not name the kallsyms tables")
    count = _count(memory, info, num)
    if not 256 <= count <= MAX_SYMBOLS:
        raise MissingTable(f"kallsyms_num_syms is {count}, from 256 to {MAX_SYMBOLS} expected")
    size = index - table
    if not 256 <= size <= _MAX_TOKENS:
        raise MissingTable(f"kallsyms token table of {size} bytes")
    words = tokens(memory.read(table, size), memory.array(index, "u2", 256))
    raw, holes = _sparse(memory, names, table - names if 0 < table - names <= 64 * count else 16 * count)
    decoded, lost = _names(raw, count, words, memory.mark, holes)
    addresses, how, known = _addresses(memory, info, count, decoded)
    known = in_order(addresses, known)
    how = f"kallsyms by VMCOREINFO, {how}"
    if not lost and known.all():
        return RawSymbols(addresses, decoded, how)
    kept = known & np.array([bool(name) for name in decoded])
    how += f", {count - int(kept.sum())} of {count} cannot be read"
    names_kept = [decoded[index] for index in np.flatnonzero(kept).tolist()]
    return RawSymbols(addresses[kept], names_kept, how, gaps_of(addresses, known, kept))


def _count(memory: KernelMemory, info: VmcoreInfo, num: int) -> int:
    # the number of symbols; where its page is lost the size of the offsets, between which and the next table is no
    # more than an entry of zero
    try:
        return memory.u32(num)
    except Unreadable:
        start, end = info.symbol("kallsyms_offsets"), info.symbol("kallsyms_relative_base")
        if start is None or end is None or not 1024 <= end - start <= 4 * MAX_SYMBOLS:
            raise
    count = (end - start) // 4
    try:
        return count - (memory.u32(end - 4) == 0)
    except Unreadable:
        return count


def _names(raw: bytes, count: int, words: list[bytes], mark: str, holes: list[Hole]) -> tuple[list[bytes], int]:
    # names, empty where they cannot be had, and how many these are
    starts: list[int] = []
    try:
        decoded, end = decode_names(raw, count, words, big=_lengths_are_big(raw, count, words), starts=starts)
    except MissingTable:
        return decode_whole_blocks(raw, count, words, mark, holes)
    if not holes or end <= holes[0][0]:
        said = markers_behind(raw, end, len(starts), mark, holes)
        if said is None or said == starts:
            return decoded, 0
    return decode_whole_blocks(raw, count, words, mark, holes)


def _sparse(memory: KernelMemory, start: int, size: int) -> tuple[bytes, list[Hole]]:
    # a table, and what of it cannot be read
    try:
        return memory.read(start, size), []
    except Unreadable as error:
        raw, holes = memory.read_sparse(start, size)
        if sum(end - low for low, end, _ in holes) >= size:
            raise error
        return raw, [(low - start, end - start) for low, end, _ in holes]


def _lengths_are_big(raw: bytes, count: int, words: list[bytes]) -> bool:
    # Whether bit 7 of a length means a second byte: of the two rules one leads astray soon
    def whole(big: bool) -> bool:
        at = 0
        for _ in range(min(count, 100000)):
            if at >= len(raw):
                return False
            length = raw[at]
            at += 1
            if length >= 0x80 and big:
                if at >= len(raw):
                    return False
                length = length & 0x7F | raw[at] << 7
                at += 1
            if length == 0 or at >= len(raw):
                return False
            letter = words[raw[at]][:1]
            if not (letter.isalpha() or letter == b"?"):
                return False
            at += length
        return True

    return whole(True) or not whole(False)


def _addresses(
    memory: KernelMemory, info: VmcoreInfo, count: int, names: list[bytes]
) -> tuple[NDArray[np.uint64], str, NDArray[np.bool_]]:
    # addresses, how they are coded, which of them can be read
    absolute, offsets = info.symbol("kallsyms_addresses"), info.symbol("kallsyms_offsets")
    if offsets is None:
        if absolute is None:
            raise MissingTable("VMCOREINFO names no kallsyms addresses")
        raw, holes = _sparse(memory, absolute, memory.word * count)
        addresses = np.frombuffer(raw, f"{memory.mark}u{memory.word}").astype(np.uint64)
        return addresses, "absolute addresses", readable(count, memory.word, holes)
    raw, holes = _sparse(memory, offsets, 4 * count)
    numbers = np.frombuffer(raw, memory.mark + "i4").astype(np.int64)
    known = readable(count, 4, holes)
    mark, address = _landmark(info, names, known)
    base = _base(memory, info, numbers, names, (mark, address))
    addresses, how = decode_offsets(numbers, base, offsets, address, names, memory.word, mark)
    return addresses, how, known


def _base(
    memory: KernelMemory,
    info: VmcoreInfo,
    numbers: NDArray[np.int64],
    names: list[bytes],
    mark: tuple[bytes, int | None],
) -> int | None:
    # what offsets are from; where its page is lost what puts a landmark at its address
    relative = info.symbol("kallsyms_relative_base")
    if relative is None:
        return None
    try:
        return memory.pointer(relative)
    except Unreadable:
        where = next((index for index, name in enumerate(names) if name[1:] == mark[0]), None)
        if where is None or mark[1] is None:
            raise
        number = int(numbers[where])
        return mark[1] + number + 1 if number < 0 else mark[1] - number


def _landmark(info: VmcoreInfo, names: list[bytes], known: NDArray[np.bool_]) -> tuple[bytes, int | None]:
    # a symbol whose entry can be read and whose address VMCOREINFO says
    for name in _LANDMARKS if not known.all() else _LANDMARKS[:1]:
        address = info.symbol(name.decode())
        if address is not None and any(known[at] for at, each in enumerate(names) if each[1:] == name):
            return name, address
    if known.all():
        return _LANDMARKS[0], info.symbol("_stext")
    raise MissingTable("kallsyms: nothing tells how addresses are coded: too much of them cannot be read")


def decode_offsets(
    raw: NDArray[np.int64],
    base: int | None,
    place: int,
    stext: int | None,
    names: list[bytes],
    word: int,
    landmark: bytes = b"_stext",
) -> tuple[NDArray[np.uint64], str]:
    """Turn 32-bit offsets into addresses by the rule that gives a symbol its known address.

    Args:
        raw: The offsets, signed.
        base: kallsyms_relative_base, None where there is none.
        place: Address of the offsets themselves.
        stext: Known address of the landmark, None where it is not known.
        names: With their type letters.
        word: 4 or 8.
        landmark: The symbol whose address is known.

    Raises:
        MissingTable: No rule fits.
    """
    mask = np.uint64((1 << 8 * word) - 1)
    candidates: list[tuple[str, NDArray[np.uint64]]] = []
    if base is not None:
        start = np.uint64(base)
        below = np.uint64(base - 1 & 0xFFFFFFFFFFFFFFFF) - raw.astype(np.uint64)
        percpu = np.where(raw >= 0, raw.astype(np.uint64), below) & mask
        plain = (start + (raw & 0xFFFFFFFF).astype(np.uint64)) & mask
        rules = [("offsets, absolute below zero", percpu), ("offsets from a base", plain)]
        candidates = rules if bool((raw < 0).any()) else rules[::-1]
    own = np.uint64(place) + 4 * np.arange(len(raw), dtype=np.uint64)
    candidates.append(("offsets from their own place", (own + raw.astype(np.uint64)) & mask))
    if stext is None:
        return candidates[0][1], candidates[0][0]
    where = [index for index, name in enumerate(names) if name[1:] == landmark][:1]
    for how, addresses in candidates:
        if where and int(addresses[where[0]]) == stext:
            return addresses, how
    if where:
        raise MissingTable(f"kallsyms: no coding of addresses puts {landmark.decode()} at {stext:#x}")
    return candidates[0][1], candidates[0][0]
