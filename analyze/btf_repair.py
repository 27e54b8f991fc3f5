# SPDX-License-Identifier: GPL-2.0-or-later
"""BTF of which some pages cannot be read: what is whole, with types that say so in the place of those that are lost.

A type's number is its place in the table, so that a hole makes all later numbers unknown. Where the table goes on is
found by its shape: from there the sizes lead exactly to its end. How many types are lost follows from the functions
behind the hole: each refers to a prototype by number, and only with the right count do they all hit one.
Source: Linux Documentation/bpf/btf.rst; include/uapi/linux/btf.h.
"""

from __future__ import annotations

import struct
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .btf import KIND, Btf, TypeSizes
from .errors import MissingTable

__all__ = ["repair", "repaired"]

Hole = tuple[int, int, str]
Words = NDArray[np.uint32]

_HEADER = "HBBIIIII"
_HEAD = 24
_MAX_HOLES = 256
_MAX_WALKED = 1 << 21  # types, in all tries
_MAX_LOST = 1 << 15
_SAMPLE = 512  # functions that are asked first
_LEAST = 8  # functions that have to agree
_TRIED = 1 << 14  # words behind a hole where the table may go on
_UNKNOWN = b"unreadable\0"
_ENTRY = {KIND["struct"]: 3, KIND["union"]: 3, KIND["enum"]: 2, KIND["func_proto"]: 2, KIND["enum64"]: 3}


def repaired(data: bytes, holes: list[Hole], order: Literal["little", "big"]) -> Btf:
    """Return the types of a section with holes; see `repair`."""
    whole, lost = repair(data, holes, order)
    found = Btf(whole, order)
    found.lost, found.added = lost, len(_UNKNOWN)
    return found


def repair(data: bytes, holes: list[Hole], order: Literal["little", "big"]) -> tuple[bytes, str]:
    """Return BTF that is whole, and one line on what of it is lost.

    Args:
        data: The section, zeros where it cannot be read.
        holes: (start, end, why) of these, as offsets in it, ascending.
        order: Byte order.

    Raises:
        MissingTable: Nothing tells how much is lost, or the header is.
    """
    mark = "<" if order == "little" else ">"
    magic, version, flags, head, type_off, type_len, str_off, str_len = struct.unpack_from(mark + _HEADER, data)
    types, strings = head + type_off, head + str_off
    if holes[0][0] < _HEAD or magic != 0xEB9F or version != 1 or len(holes) > _MAX_HOLES:
        raise MissingTable(f"BTF cannot be read: {holes[0][2]}")
    if types % 4 or type_len % 4 or strings < types + type_len or strings + str_len > len(data):
        raise MissingTable(f"BTF whose parts do not fit each other, and which cannot be read whole: {holes[0][2]}")
    words = np.frombuffer(data, mark + "u4", type_len // 4, types).astype(np.uint32)
    text = data[strings : strings + str_len]
    gaps = [(max(low, types), min(high, types + type_len)) for low, high, _ in holes]
    gaps = [((low - types) // 4, -(-(high - types) // 4)) for low, high in gaps if low < high]
    lost = 0
    if gaps:  # what is between two of them is lost with them
        words, lost = _closed(words, gaps[0][0], gaps[-1][1], text, str_len)
    names = [(max(low - strings, 0), high - strings) for low, high, _ in holes if high > strings]
    gone, text = _forget(words, text, names, str_len)
    body = words.astype(mark + "u4").tobytes()
    header = struct.pack(mark + _HEADER, magic, version, flags, _HEAD, 0, len(body), len(body), str_len + len(_UNKNOWN))
    parts = [f"{lost} types"] * bool(lost) + [f"{gone} names of types and members"] * bool(gone)
    return header + body + text + _UNKNOWN, f"{' and '.join(parts) or 'nothing used'} cannot be read: {holes[0][2]}"


# -- types ----------------------------------------------------------------------------------------------------------


def _closed(words: Words, low: int, high: int, text: bytes, unknown: int) -> tuple[Words, int]:
    # the words with fillers in the place of the types that touch [low, high), and how many
    (before, start), budget = _walk(words, 0, low), _MAX_WALKED
    for at in range(high, min(len(words) - 2, high + _TRIED)):
        name = int(words[at])
        if name >= len(text) or (name and text[name - 1]):
            continue  # a name begins behind another one's end
        places, end = _walk(words, at, len(words))
        budget -= len(places)
        if budget < 0:
            break
        if end == len(words):
            count = _count(words, places, len(before) + 1, (at - start) // 3)
            filler = np.array([unknown, KIND["fwd"] << 24, 0], np.uint32)
            return np.concatenate([words[:start], np.tile(filler, count), words[at:]]), count
    raise MissingTable("BTF with a hole, behind which nothing tells where its types go on")


def _walk(words: Words, at: int, stop: int) -> tuple[list[int], int]:
    # where types begin, and the end of the last one, as far as they end before `stop`
    view, sizes, places = memoryview(words.data), TypeSizes(), list[int]()
    try:
        while at + 2 < stop:
            end = at + sizes[view[at + 1]]
            if end > stop:
                break
            places.append(at)
            at = end
    except KeyError:
        pass
    return places, at


def _count(words: Words, places: list[int], first: int, most: int) -> int:
    # how many types are lost: with the right number all functions refer to prototypes
    heads = np.array(places, np.int64)
    kinds = (words[heads + 1] >> np.uint32(24) & np.uint32(31)).astype(np.int64)
    functions = np.flatnonzero(kinds == KIND["func"])
    targets = words[heads[functions] + 2].astype(np.int64)

    def agree(wanted: NDArray[np.int64], count: int) -> tuple[bool, int]:
        index = wanted - (first + count)
        inside = index[(index >= 0) & (index < len(places))]
        right = int((kinds[inside] == KIND["func_proto"]).sum())
        return right == len(inside), right

    some = targets[:: max(1, len(targets) // _SAMPLE)]
    likely = [count for count in range(min(most, _MAX_LOST) + 1) if agree(some, count)[0]]
    sure = [count for count in likely[:_SAMPLE] if agree(targets, count) >= (True, _LEAST)]
    if len(sure) != 1:
        raise MissingTable("BTF with a hole, behind which nothing tells the numbers of its types")
    return sure[0]


# -- names ----------------------------------------------------------------------------------------------------------


def _forget(words: Words, text: bytes, holes: list[tuple[int, int]], unknown: int) -> tuple[int, bytes]:
    # name offsets whose name cannot be read lead to one that says so; how many, and the names without what is cut
    if not holes:
        return 0, text
    fields, kept = _name_fields(words), bytearray(text)
    offsets = words[fields].astype(np.int64)
    bad = np.zeros(len(fields), np.bool_)
    for low, high in holes:
        start = max(1, text.rfind(b"\0", 0, low) + 1)  # a name that is cut begins before the hole
        bad |= (offsets >= start) & (offsets < high)
        end = high if (offsets == high).any() else text.find(b"\0", high)
        kept[start : max(end, high)] = bytes(max(end, high) - start)
    words[fields[bad]] = unknown
    return int(bad.sum()), bytes(kept[: len(text)])


def _name_fields(words: Words) -> NDArray[np.int64]:
    places, _ = _walk(words, 0, len(words))
    heads = np.array(places, np.int64)
    infos = words[heads + 1]
    kinds, counts = infos >> np.uint32(24) & np.uint32(31), (infos & np.uint32(0xFFFF)).astype(np.int64)
    found = [heads]
    for kind, step in _ENTRY.items():
        rows = kinds == kind
        owner = np.repeat(heads[rows], counts[rows])
        inner = np.arange(len(owner)) - np.repeat(np.cumsum(counts[rows]) - counts[rows], counts[rows])
        found.append(owner + 3 + step * inner)
    return np.concatenate(found)
