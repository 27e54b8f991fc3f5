# SPDX-License-Identifier: GPL-2.0-or-later
"""kallsyms where some pages cannot be read or have wrong bytes: the names of every block of 256 that is whole.

A name says where the next one begins, so that one lost page, or one wrong length, would take all names behind it along.
The kernel keeps a marker for every 256th name (kallsyms_markers: its place among the compressed names, behind which
they lie).
"""

from __future__ import annotations

from bisect import bisect_right

import numpy as np
from numpy.typing import NDArray

from .errors import MissingTable

__all__ = ["Hole", "decode_whole_blocks", "gaps_of", "in_order", "markers_behind", "readable"]

Hole = tuple[int, int]  # bytes [start, end) of a table that cannot be read

_BLOCK = 256
_STEP = (512, 51200)  # bytes that 256 compressed names take
_MAX_TRIES = 1 << 14
_SHORT_RUN = 64  # entries that may be in their order by chance


def readable(count: int, width: int, holes: list[Hole]) -> NDArray[np.bool_]:
    """Return which entries of a table of `count` times `width` bytes lie in no hole."""
    found = np.ones(count, np.bool_)
    for start, end in holes:
        found[start // width : -(-end // width)] = False
    return found


def in_order(addresses: NDArray[np.uint64], known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which entries can be believed: a table ascends, and what contradicts most of it has wrong bytes.

    Args:
        addresses: Of all symbols.
        known: Which of these could be read.
    """
    where = np.flatnonzero(known)
    values = addresses[where]
    if not bool((values[1:] < values[:-1]).any()):
        return known
    kept = _ascending(values.tolist())
    if 2 * len(kept) < len(where):
        return known
    good = np.zeros(len(where), np.bool_)
    good[kept] = True
    edge = np.flatnonzero(np.diff(np.concatenate([[False], good, [False]]).astype(np.int8)))
    for first, last in zip(edge[::2].tolist(), edge[1::2].tolist(), strict=True):
        if last - first < _SHORT_RUN and first and last < len(good):
            good[first:last] = False
    found = np.zeros(len(known), np.bool_)
    found[where[good]] = True
    return found


def _ascending(values: list[int]) -> list[int]:
    # places of the longest part that never goes down
    ends: list[int] = []  # the lowest end of a part of each length
    places: list[int] = []
    before = [-1] * len(values)
    for place, value in enumerate(values):
        at = bisect_right(ends, value)
        before[place] = places[at - 1] if at else -1
        ends[at : at + 1] = [value]
        places[at : at + 1] = [place]
    found, place = [], places[-1] if places else -1
    while place >= 0:
        found.append(place)
        place = before[place]
    return found[::-1]


def gaps_of(
    addresses: NDArray[np.uint64], known: NDArray[np.bool_], kept: NDArray[np.bool_]
) -> tuple[tuple[int, int], ...]:
    """Return the ranges of addresses of which nobody can say what lies there: up to the next symbol that is kept.

    Args:
        addresses: Of all symbols, ascending but for those below the kernel.
        known: Which of these could be read.
        kept: Which symbols have a name, too.
    """
    edge = np.flatnonzero(np.diff(np.concatenate([[True], kept, [True]]).astype(np.int8)))
    found = []
    for first, last in zip(edge[::2].tolist(), edge[1::2].tolist(), strict=True):
        end = int(addresses[last]) if last < len(addresses) else 1 << 64
        before = int(addresses[first - 1]) + 1 if first else 0
        start = int(addresses[first]) if known[first] else before
        if start < end:
            found.append((start, end))
    return tuple(sorted(found))


def decode_whole_blocks(
    raw: bytes, count: int, words: list[bytes], mark: str, holes: list[Hole]
) -> tuple[list[bytes], int]:
    """Decode the names of the blocks that no hole touches, and that end where the next one begins.

    Args:
        raw: The compressed names and what lies behind them, zeros in the holes.
        count: Names.
        words: The 256 tokens.
        mark: Byte order.
        holes: Bytes of `raw`.

    Returns:
        All names, empty where they cannot be had; how many these are.

    Raises:
        MissingTable: The markers cannot be had, or fewer than half of the blocks agree with them.
    """
    markers, place = _markers(raw, -(-count // _BLOCK), mark, holes)
    whole = _untouched([*markers, markers[-1] + _STEP[1]], holes)
    sizes = [min(_BLOCK, count - _BLOCK * number) for number in range(len(markers))]
    agreed = {big: _agreeing(raw, markers, place, sizes, whole, big=big) for big in (True, False)}
    big = agreed[True].count(True) >= agreed[False].count(True)
    if 2 * agreed[big].count(True) < max(2, whole.count(True)):
        raise MissingTable("kallsyms: the names do not agree with their markers")
    names: list[bytes] = []
    for start, size, good in zip(markers, sizes, agreed[big], strict=True):
        found = _block(raw, start, size, words, big=big) if good else None
        names += found if found is not None else [b""] * size
    return names, names.count(b"")


def markers_behind(raw: bytes, end: int, blocks: int, mark: str, holes: list[Hole]) -> list[int] | None:
    """Return the markers that lie behind the names, which end at `end`; None where none can be read there."""
    for start in dict.fromkeys((end + -end % 4, end + -end % 8)):
        stop = start + 4 * blocks
        if blocks < 2 or stop > len(raw) or any(low < stop and start < high for low, high in holes):
            continue
        found: list[int] = np.frombuffer(raw, mark + "u4", blocks, start).tolist()
        if found[0] == 0 and _STEP[0] <= found[1] <= _STEP[1]:
            return found
    return None


def _markers(raw: bytes, blocks: int, mark: str, holes: list[Hole]) -> tuple[list[int], int]:
    # the first run of so many numbers that begins with 0 and grows as the places of names do, and where it lies
    values = np.frombuffer(raw, mark + "u4", len(raw) // 4).astype(np.int64)
    last = len(values) - blocks
    if blocks < 2 or last < 0:
        raise MissingTable("kallsyms: no room for its markers")
    first = np.flatnonzero(
        (values[:last] == 0) & (values[1 : last + 1] >= _STEP[0]) & (values[1 : last + 1] <= _STEP[1])
    )
    for at in first[:_MAX_TRIES].tolist():
        steps = np.diff(values[at : at + blocks])
        inside = any(start < 4 * (at + blocks) and 4 * at < end for start, end in holes)
        if not inside and bool(((steps >= _STEP[0]) & (steps <= _STEP[1])).all()) and values[at + blocks - 1] < 4 * at:
            return [int(each) for each in values[at : at + blocks]], 4 * at
    raise MissingTable("kallsyms: some of its names cannot be read, and its markers neither")


def _untouched(edges: list[int], holes: list[Hole]) -> list[bool]:
    found = np.ones(len(edges) - 1, np.bool_)
    for start, end in holes:
        low = max(0, int(np.searchsorted(edges, start, side="right")) - 1)
        found[low : int(np.searchsorted(edges, end, side="left"))] = False
    return [bool(each) for each in found]


def _agreeing(
    raw: bytes, markers: list[int], place: int, sizes: list[int], whole: list[bool], *, big: bool
) -> list[bool]:
    # of which whole blocks the lengths lead to the next marker, of the last one to the markers themselves
    found = []
    for number, (start, size) in enumerate(zip(markers, sizes, strict=True)):
        end = _end(raw, start, size, big=big) if whole[number] else -1
        is_last = number + 1 == len(markers)
        found.append(end >= 0 and (0 <= place - end < 8 if is_last else end == markers[number + 1]))
    return found


def _end(raw: bytes, at: int, count: int, *, big: bool) -> int:
    for _ in range(count):
        length, at = _length(raw, at, big=big)
        at += length
    return at


def _length(raw: bytes, at: int, *, big: bool) -> tuple[int, int]:
    # a name's tokens, and where they begin; 0 behind the end
    if at + 1 >= len(raw):
        return 0, at
    length = raw[at]
    if length >= 0x80 and big:
        return length & 0x7F | raw[at + 1] << 7, at + 2
    return length, at + 1


def _block(raw: bytes, at: int, count: int, words: list[bytes], *, big: bool) -> list[bytes] | None:
    found = []
    for _ in range(count):
        length, at = _length(raw, at, big=big)
        name = b"".join([words[each] for each in raw[at : at + length]])
        if not 1 < len(name) <= 1024 or at + length > len(raw):
            return None
        found.append(name)
        at += length
    return found
