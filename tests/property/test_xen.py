# SPDX-License-Identifier: GPL-2.0-or-later
"""Xen: whatever order, types and repeats a file has, each frame is what its last entry says; both readers agree."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from dumpconv.formats.machine_frames import MachineFrames
from support import build_xen, patterns, product
from support.reference import decode

PFNS = st.one_of(st.integers(0, 12), st.integers(1000, 1004))


@st.composite
def batches(draw: st.DrawFn, last_pfn: int = (1 << 40) - 1) -> list[list[build_xen.Entry]]:
    """Draw page batches: repeats, entries without a page, all types."""
    entry = st.tuples(st.sampled_from((0, 1, 4, 9, 12, 13, 14, 15)), PFNS | st.just(last_pfn))
    drawn = draw(st.lists(st.lists(entry, min_size=1, max_size=6), max_size=6))
    number = iter(range(1000))
    return [
        [(kind, pfn, patterns.page(next(number), kind="byte") if kind < 13 else None) for kind, pfn in batch]
        for batch in drawn
    ]


def last_words(drawn: list[list[build_xen.Entry]]) -> dict[int, tuple[int, bytes | None]]:
    return {pfn: (kind, content) for batch in drawn for kind, pfn, content in batch}


def check(data: bytes, drawn: list[list[build_xen.Entry]]) -> None:
    last = last_words(drawn)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "save"
        path.write_bytes(data)
        seen = product.view(product.open_product(path, salvage=True))
        reference = decode(path)
    assert seen.pages == reference.pages == {pfn: page for pfn, (_, page) in last.items() if page is not None}
    assert seen.lost == set(reference.lost) == {pfn for pfn, (kind, _) in last.items() if kind == 13}
    excluded = {pfn for start, end in seen.excluded for pfn in range(start, end)}
    assert excluded == reference.excluded == {pfn for pfn, (kind, _) in last.items() if kind == 14}
    assert seen.reader.incomplete == reference.incomplete


@given(batches(), st.sampled_from("<>"), st.sampled_from((2, 3)), st.booleans())
def test_the_last_entry_of_a_stream_counts(
    drawn: list[list[build_xen.Entry]], order: str, version: int, libxl: bool
) -> None:
    records = build_xen.pv_records(drawn, [bytes(5168)], order=order, version=version)
    data = build_xen.libxc(records, order=order, version=version)
    check(build_xen.xl(build_xen.libxl(data, order=order)) if libxl else data, drawn)


@given(batches(last_pfn=(1 << 28) - 1), st.sampled_from((4, 8)))
def test_the_last_entry_of_a_legacy_stream_counts(drawn: list[list[build_xen.Entry]], word: int) -> None:
    spec = build_xen.LegacySpec(
        [build_xen.batch(batch, word) for batch in drawn],
        word=word,
        width=word,
        contexts=[bytes(5168 if word == 8 else 2800)],
    )
    check(build_xen.xend(build_xen.legacy(spec)), drawn)


@given(
    st.lists(st.tuples(PFNS, st.integers(0, 1 << 50)), max_size=20, unique_by=lambda row: row[1]),
    st.booleans(),
    st.sampled_from((3, 62)),
    st.booleans(),
)
def test_rows_of_an_xc_core_file_in_any_order(
    drawn: list[tuple[int, int]], paired: bool, machine: int, in_order: bool
) -> None:
    rows = [(pfn, mfn, patterns.page(number, kind="byte")) for number, (pfn, mfn) in enumerate(drawn)]
    if in_order:
        rows.sort(key=lambda row: row[0])
    rows += [((1 << 64) - 1, (1 << 64) - 1, bytes(4096))]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "core"
        path.write_bytes(build_xen.core(build_xen.CoreSpec(rows, paired=paired, machine=machine)))
        seen = product.view(product.open_product(path))
        assert decode(path).pages == seen.pages
    assert seen.pages == {pfn: page for pfn, _, page in rows[:-1]}


@given(st.dictionaries(st.integers(0, 50), st.integers(0, 60)))
def test_machine_frames_find_every_frame(pairs: dict[int, int]) -> None:
    import numpy as np

    unique = {mfn: pfn for pfn, mfn in pairs.items()}
    rows = sorted((pfn, mfn) for mfn, pfn in unique.items())
    columns = np.array(rows, np.uint64).reshape(-1, 2)
    halves = [(part[:, 0], part[:, 1]) for part in (columns[: len(rows) // 2], columns[len(rows) // 2 :])]
    frames = MachineFrames.from_pairs(halves)
    assert {mfn: frames.pfn_of(mfn) for mfn in range(70)} == {mfn: unique.get(mfn) for mfn in range(70)}
