# SPDX-License-Identifier: GPL-2.0-or-later
"""Byte intervals behave as a table of single bytes would."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dumpconv.formats.intervals import Pieces, inside_larger, latest_wins, resolve, subtract, union

ONES = (1 << 64) - 1
spans = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 15)), max_size=7)
segments = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 15), st.booleans()), max_size=7)


def column(values: list[int]) -> np.ndarray:
    return np.array(values, np.uint64)


def byte_set(start: np.ndarray, end: np.ndarray) -> set[int]:
    return {at for low, high in zip(start.tolist(), end.tolist(), strict=True) for at in range(low, high)}


def table(pieces: Pieces) -> dict[int, int]:
    """Give the file offset of each byte; no byte may be there twice."""
    out: dict[int, int] = {}
    last = 0
    for start, end, offset in pieces.rows():
        assert last <= start < end
        last = end
        for at in range(start, end):
            out[at] = ONES if offset == ONES else offset + at - start
    return out


def offsets(count: int) -> np.ndarray:
    return column([1000 * (index + 1) for index in range(count)])


def disjoint(items: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    return union(column([start for start, _ in items]), column([start + size for start, size in items]))


def pieces_of(items: list[tuple[int, int]]) -> Pieces:
    start, end = disjoint(items)
    return Pieces(start, end, offsets(len(start)))


@given(spans)
def test_union_covers_the_same_bytes_in_few_intervals(items: list[tuple[int, int]]) -> None:
    start, end = disjoint(items)
    assert byte_set(start, end) == {at for low, size in items for at in range(low, low + size)}
    assert bool((end[:-1] < start[1:]).all())
    assert bool((start < end).all())


@given(spans, spans)
def test_subtract_is_set_difference(items: list[tuple[int, int]], others: list[tuple[int, int]]) -> None:
    first, second = disjoint(items), disjoint(others)
    assert byte_set(*subtract(*first, *second)) == byte_set(*first) - byte_set(*second)


@given(segments)
def test_resolve_keeps_ram_and_the_first(items: list[tuple[int, int, bool]]) -> None:
    paddr, size = column([item[0] for item in items]), column([item[1] for item in items])
    is_text = np.array([item[2] for item in items], bool)
    at = offsets(len(items))
    kept, dropped = resolve(paddr, size, at, is_text)
    naive: dict[int, int] = {}
    for wanted in (False, True):
        for (start, count, text), offset in zip(items, at.tolist(), strict=True):
            if text == wanted:
                for byte in range(start, start + count):
                    naive.setdefault(byte, offset + byte - start)
    assert table(kept) == naive
    held = {(byte, offset + byte - start) for start, end, offset in dropped.rows() for byte in range(start, end)}
    losers = {
        (byte, offset + byte - start)
        for (start, count, _), offset in zip(items, at.tolist(), strict=True)
        for byte in range(start, start + count)
    } - set(naive.items())
    assert losers <= held


@given(spans)
def test_the_latest_write_wins(items: list[tuple[int, int]]) -> None:
    at = offsets(len(items))
    kept = latest_wins(column([item[0] for item in items]), column([item[1] for item in items]), at)
    naive = {
        byte: offset + byte - start
        for (start, size), offset in zip(items, at.tolist(), strict=True)
        for byte in range(start, start + size)
    }
    assert table(kept) == naive


@given(spans, st.integers(0, 60), st.integers(0, 30))
def test_clip_is_the_part(items: list[tuple[int, int]], low: int, size: int) -> None:
    pieces = pieces_of(items)
    expected = {at: offset for at, offset in table(pieces).items() if low <= at < low + size}
    assert table(pieces.clip(low, low + size)) == expected


@given(spans, st.lists(st.integers(0, 60), max_size=5))
def test_split_changes_no_byte_and_crosses_no_edge(items: list[tuple[int, int]], edges: list[int]) -> None:
    pieces = pieces_of(items)
    parts = pieces.split(column(edges))
    assert table(parts) == table(pieces)
    assert not any(start < edge < end for start, end, _ in parts.rows() for edge in edges)


@given(spans, spans)
def test_without_takes_out(items: list[tuple[int, int]], holes: list[tuple[int, int]]) -> None:
    pieces, gone = pieces_of(items), disjoint(holes)
    expected = {at: offset for at, offset in table(pieces).items() if at not in byte_set(*gone)}
    assert table(pieces.without(*gone)) == expected


@given(spans, spans)
def test_fill_adds_zeros_only(items: list[tuple[int, int]], tails: list[tuple[int, int]]) -> None:
    pieces, zeros = pieces_of(items), disjoint(tails)
    assert table(pieces.fill(*zeros)) == dict.fromkeys(byte_set(*zeros), ONES) | table(pieces)


@given(spans)
def test_what_lies_inside_a_larger_interval(items: list[tuple[int, int]]) -> None:
    start = column([item[0] for item in items])
    end = column([item[0] + item[1] for item in items])
    naive = [size > 0 and any(a <= low and low + size <= a + b and b > size for a, b in items) for low, size in items]
    assert inside_larger(start, end).tolist() == naive
