# SPDX-License-Identifier: GPL-2.0-or-later
"""The index of page records against a dictionary, and its size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dumpconv.formats import codecs
from dumpconv.formats.errors import CorruptDump
from dumpconv.formats.pageindex import MAX_RECORD, PageIndex, PageIndexBuilder
from dumpconv.formats.pages import MAX_PFN

Record = tuple[int, int, int, int]  # frame, offset, size, file


def index_of(records: list[Record], keep: str, pieces: int = 1) -> PageIndex:
    builder = PageIndexBuilder()
    for part in np.array_split(np.arange(len(records)), pieces):
        for number in part:
            pfn, offset, size, file = records[number]
            column = [np.array([value], np.uint64) for value in (pfn, offset, size)]
            builder.add(*column, codecs.ZLIB if size % 2 else codecs.RAW, file)
    return builder.build(keep)  # type: ignore[arg-type]


frames = st.one_of(st.integers(0, 40), st.integers(1 << 31, 1 << 34))
records = st.lists(
    st.tuples(frames, st.integers(0, 1 << 60), st.integers(1, MAX_RECORD), st.integers(0, 2)), max_size=60
)


@given(records, st.sampled_from(["first", "last"]))
def test_index_is_a_dictionary_by_frame(records: list[Record], keep: str) -> None:
    wanted: dict[int, Record] = {}
    dropped = []
    for record in records:
        if record[0] in wanted and keep == "first":
            dropped.append(record)
        elif record[0] in wanted:
            dropped.append(wanted[record[0]])
            wanted[record[0]] = record
        else:
            wanted[record[0]] = record
    index = index_of(records, keep)
    rows = index.extents(0, MAX_PFN)
    seen = [tuple(int(row[name]) for name in ("start_pfn", "offset", "stored_size", "file")) for row in rows]
    assert seen == [wanted[pfn] for pfn in sorted(wanted)]
    assert [int(each) for each in rows["codec"]] == [1 if wanted[pfn][2] % 2 else 0 for pfn in sorted(wanted)]
    got = index.duplicates
    pairs = [] if got is None else list(zip(got.kept, got.dropped, strict=True))
    assert sorted(int(row["offset"]) for _, row in pairs) == sorted(record[1] for record in dropped)
    assert all(int(row["offset"]) == wanted[int(row["start_pfn"])][1] for row, _ in pairs)
    start, end = index.runs()
    inside = {pfn for low, high in zip(start.tolist(), end.tolist(), strict=True) for pfn in range(low, high)}
    assert inside == set(wanted)
    assert bool((start[1:] > end[:-1]).all())


@given(records, frames, frames)
def test_a_range_gives_its_frames(records: list[Record], low: int, high: int) -> None:
    index = index_of(records, "first")
    assert [int(pfn) for pfn in index.extents(low, high)["start_pfn"]] == sorted(
        {record[0] for record in records if low <= record[0] < high}
    )


def test_a_bad_record_keeps_its_reason() -> None:
    builder = PageIndexBuilder(codecs.BAD)
    reason = codecs.REASON_CODES["past_end"] or 3
    one = np.ones(1, np.uint64)
    builder.add(one * np.uint64(7), one * np.uint64(99), np.array([reason]), codecs.BAD)
    row = builder.build().extents(0, 8)[0]
    assert (int(row["codec"]), int(row["page_offset"]), int(row["offset"])) == (codecs.BAD, reason, 99)


@pytest.mark.parametrize(("pfn", "size"), [(MAX_PFN, 1), (0, MAX_RECORD + 1)])
def test_what_no_machine_has_is_refused(pfn: int, size: int) -> None:
    with pytest.raises(CorruptDump, match="the limit is"):
        PageIndexBuilder().add(np.array([pfn], np.uint64), np.zeros(1, np.uint64), np.array([size]), codecs.RAW)


def test_a_page_costs_sixteen_bytes() -> None:
    builder, count = PageIndexBuilder(), 1 << 16
    pfns = np.arange(count, dtype=np.uint64)[::-1].copy()
    builder.add(pfns, pfns * np.uint64(4112), np.full(count, 4096), codecs.RAW)
    index = builder.build()
    assert index.pfns.nbytes + index._offsets.nbytes + index._sizes.nbytes == 16 * count
