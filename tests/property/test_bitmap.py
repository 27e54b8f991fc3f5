# SPDX-License-Identifier: GPL-2.0-or-later
"""Bitmaps against three naive lines, at every start bit and across every border of the fast path."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dumpconv.formats import bitmap
from dumpconv.formats.bitmap import RankIndex, bitmap_chunks, read_bits, state_runs
from dumpconv.formats.flattened import FlattenedSource
from dumpconv.formats.source import BytesSource, FileSource
from support import build_flat
from support.sparse import SparseFile


def naive(data: bytes, start: int, end: int) -> list[int]:
    return [pfn for pfn in range(start, end) if data[pfn >> 3] >> (pfn & 7) & 1]


def sample(nr_pfns: int, seed: int = 0) -> bytes:
    rng = random.Random(seed)
    runs = b"".join(rng.choice((b"\0", b"\xff", rng.randbytes(1))) * rng.randrange(1, 40) for _ in range(nr_pfns // 8))
    return runs[: -(-nr_pfns // 8)]


@pytest.mark.parametrize("start", range(70))
def test_rank_and_frames_from_every_start_bit(start: int) -> None:
    nr_pfns = 4096 * 2 + 77
    data = sample(nr_pfns)
    index = RankIndex(BytesSource(b"pad" + data), 3, nr_pfns)
    for base in (0, 4096 - 35, 8192 - 35):
        for size in (0, 1, 7, 8, 9, 63, 64, 65, 4100):
            rank, pfns = index.set_pfns(base + start, base + start + size)
            low, high = min(base + start, nr_pfns), min(base + start + size, nr_pfns)
            assert pfns.tolist() == naive(data, low, high)
            if low < high:
                assert rank == len(naive(data, 0, low))


@given(st.binary(min_size=1, max_size=1200), st.integers(0, 7), st.data())
def test_the_total_ignores_bits_past_the_end(data: bytes, cut: int, drawn: st.DataObject) -> None:
    nr_pfns = max(1, 8 * len(data) - cut)
    index = RankIndex(BytesSource(data), 0, nr_pfns)
    assert index.total == len(naive(data, 0, nr_pfns))
    start = drawn.draw(st.integers(0, nr_pfns))
    rank, pfns = index.set_pfns(start, 1 << 40)
    assert rank == len(naive(data, 0, start))
    assert pfns.tolist() == naive(data, start, nr_pfns)


@given(st.binary(min_size=1, max_size=600), st.integers(1, 40), st.integers(1, 9))
def test_chunks_do_not_show(data: bytes, start: int, chunk: int) -> None:
    whole = RankIndex(BytesSource(data), 0, 8 * len(data))
    kept = bitmap.CHUNK_PFNS
    bitmap.CHUNK_PFNS = 4096 * chunk
    try:
        cut = RankIndex(BytesSource(data), 0, 8 * len(data))
    finally:
        bitmap.CHUNK_PFNS = kept
    first, second = whole.set_pfns(start, 5000), cut.set_pfns(start, 5000)
    assert (first[0], first[1].tolist()) == (second[0], second[1].tolist())


@given(st.binary(min_size=1, max_size=64), st.integers(0, 7), st.data())
def test_bits_are_least_significant_first(data: bytes, byte: int, drawn: st.DataObject) -> None:
    start = 8 * min(byte, len(data) - 1)
    end = drawn.draw(st.integers(start + 1, 8 * len(data)))
    bits = read_bits(BytesSource(data), 0, start, end)
    assert [start + index for index, bit in enumerate(bits.tolist()) if bit] == naive(data, start, end)


@given(st.lists(st.integers(0, 3), max_size=200), st.integers(0, 1 << 54))
def test_state_runs_are_the_states(states: list[int], base: int) -> None:
    start, end, value = state_runs(np.array(states, np.uint8), base)
    seen = {
        pfn: state
        for low, high, state in zip(start.tolist(), end.tolist(), value.tolist(), strict=True)
        for pfn in range(low, high)
    }
    assert seen == {base + index: state for index, state in enumerate(states) if state}
    joined = [a == b and v == w for a, b, v, w in zip(end[:-1], start[1:], value[:-1], value[1:], strict=True)]
    assert not any(joined)


Runs = list[tuple[int, int]]


class Gappy(BytesSource):
    """Knows what was written of it."""

    def __init__(self, pieces: list[tuple[int, bytes]], size: int) -> None:
        data = bytearray(size)
        for at, part in pieces:
            data[at : at + len(part)] = part
        super().__init__(bytes(data))
        self._ranges: Runs = []
        for at, part in sorted(pieces):
            low, high = max(at, self._ranges[-1][1] if self._ranges else 0), min(size, at + len(part))
            if low < high:
                self._ranges.append((low, high))

    def data_ranges(self, start_offset: int, end_offset: int) -> Runs:  # type: ignore[override]
        clipped = [(max(low, start_offset), min(high, end_offset)) for low, high in self._ranges]
        return iter([(low, high) for low, high in clipped if low < high])  # type: ignore[return-value]


SIZE = 12000
PIECES = st.lists(st.tuples(st.integers(0, SIZE - 1), st.binary(min_size=1, max_size=700)), max_size=12)


@given(PIECES, st.integers(1, 8 * SIZE // 2), st.integers(0, 40), st.integers(1, 5))
def test_gaps_of_a_bitmap_are_zeros(pieces: list[tuple[int, bytes]], nr_pfns: int, first: int, chunk: int) -> None:
    source = Gappy(pieces, SIZE)
    offsets = (first, SIZE // 2)
    nr_pfns = min(nr_pfns, 8 * (SIZE // 2 - first))
    kept = bitmap.CHUNK_PFNS
    bitmap.CHUNK_PFNS = 4096 * chunk
    try:
        chunks = list(bitmap_chunks(source, offsets, nr_pfns))
        index = RankIndex(source, first, nr_pfns)
    finally:
        bitmap.CHUNK_PFNS = kept
    for number, offset in enumerate(offsets):
        found = []
        for each in chunks:
            assert len(each.first_pfn) <= chunk
            for start, end, _ in zip(*(a.tolist() for a in state_runs(each.bits(number), each.first_pfn)), strict=True):
                found += range(start, end)
        assert found == naive(source.pread(offset, (nr_pfns + 7) // 8), 0, nr_pfns)
    wanted = naive(source.pread(first, (nr_pfns + 7) // 8), 0, nr_pfns)
    assert index.total == len(wanted)
    assert [pfn for cell in index.cells(8192) for pfn in index.set_pfns(*cell)[1].tolist()] == wanted
    for start in (0, nr_pfns // 3, nr_pfns - 1):
        assert index.set_pfns(start, start + 5000)[0] == sum(pfn < start for pfn in wanted)


def test_what_a_file_and_a_flattened_stream_know_of_their_holes(tmp_path: Path) -> None:
    far = 1 << 40
    file = SparseFile()
    file.put(far, b"\1")
    file.extend(far + (1 << 30))
    source = FileSource(str(file.write_to(tmp_path / "sparse")))
    ranges = list(source.data_ranges(1000, source.size))
    assert sum(high - low for low, high in ranges) < 1 << 20
    assert [low <= far < high for low, high in ranges] == [True]
    assert list(source.data_ranges(far + (1 << 29), source.size)) == []
    records = [build_flat.Record(far, b"\1"), build_flat.Record(5, b"abc"), build_flat.Record(7, b"de")]
    (tmp_path / "flat").write_bytes(build_flat.flatten(records))
    flat = FlattenedSource(FileSource(str(tmp_path / "flat")))
    assert list(flat.data_ranges(0, flat.size)) == [(5, 7), (7, 9), (far, far + 1)]
    assert list(flat.data_ranges(6, 8)) == [(6, 7), (7, 8)]
