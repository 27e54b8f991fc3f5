# SPDX-License-Identifier: GPL-2.0-or-later
"""kallsyms where some of its pages cannot be read: the names of every block of 256 that is whole, and no others.

A name says where the next one begins, so that one lost page would take all names behind it along. The kernel keeps a
marker for every 256th name (kallsyms_markers: its place among the compressed names, behind which they lie).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .errors import MissingTable

__all__ = ["Hole", "decode_whole_blocks", "gaps_of", "readable"]

Hole = tuple[int, int]  # bytes [start, end) of a table that cannot be read

_BLOCK = 256
_STEP = (512, 51200)  # bytes that 256 compressed names take
_MAX_TRIES = 1 << 14


def readable(count: int, width: int, holes: list[Hole]) -> NDArray[np.bool_]:
    """Return which entries of a table of `count` times `width` bytes lie in no hole."""
    found = np.ones(count, np.bool_)
    for start, end in holes:
        found[start // width : -(-end // width)] = False
    return found


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
    """Decode the names of the blocks that no hole touches.

    Args:
        raw: The compressed names and what lies behind them, zeros in the holes.
        count: Names.
        words: The 256 tokens.
        mark: Byte order.
        holes: Bytes of `raw`.

    Returns:
        All names, empty where they cannot be had; how many these are.

    Raises:
        MissingTable: The markers cannot be had, or no block agrees with them.
    """
    markers = _markers(raw, -(-count // _BLOCK), mark, holes)
    whole = _untouched([*markers, markers[-1] + _STEP[1]], holes)
    rules = [big for big in (True, False) if _agrees(raw, markers, whole, big=big)]
    if not rules:
        raise MissingTable("kallsyms: the names do not agree with their markers")
    names: list[bytes] = []
    for number, start in enumerate(markers):
        size = min(_BLOCK, count - _BLOCK * number)
        found = _block(raw, start, size, words, big=rules[0]) if whole[number] else None
        names += found if found is not None else [b""] * size
    return names, names.count(b"")


def _markers(raw: bytes, blocks: int, mark: str, holes: list[Hole]) -> list[int]:
    # the first run of so many numbers that begins with 0 and grows as the places of names do
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
            return [int(each) for each in values[at : at + blocks]]
    raise MissingTable("kallsyms: some of its names cannot be read, and its markers neither")


def _untouched(edges: list[int], holes: list[Hole]) -> list[bool]:
    found = np.ones(len(edges) - 1, np.bool_)
    for start, end in holes:
        low = max(0, int(np.searchsorted(edges, start, side="right")) - 1)
        found[low : int(np.searchsorted(edges, end, side="left"))] = False
    return [bool(each) for each in found]


def _agrees(raw: bytes, markers: list[int], whole: list[bool], *, big: bool) -> bool:
    # whether the lengths of whole blocks lead from one marker to the next, and there are some
    wanted = [number for number in range(len(markers) - 1) if whole[number]]
    return bool(wanted) and all(_end(raw, markers[each], _BLOCK, big=big) == markers[each + 1] for each in wanted)


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
