# SPDX-License-Identifier: GPL-2.0-or-later
"""Builders and reference decoder: what was built is what is decoded, and damage never passes for content unseen."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from support import build_elf, build_flat, build_kdump, corrupt, strategies
from support.reference import ReferenceError, decode


def decoded(data: bytes, *more: bytes):  # type: ignore[no-untyped-def]
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / str(index) for index in range(1 + len(more))]
        for path, content in zip(paths, (data, *more), strict=True):
            path.write_bytes(content)
        return decode(*paths)


@given(strategies.kdump_specs())
def test_a_built_kdump_decodes_to_its_description(spec: build_kdump.KdumpSpec) -> None:
    image = build_kdump.build(spec)
    dump = decoded(image.to_bytes())
    assert dump.pages == image.pages
    assert dump.excluded_runs == list(spec.excluded)
    assert (dump.lost, dump.damaged, dump.exit_code) == ({}, {}, 0)


@given(strategies.kdump_specs(versions=(2, 3, 4, 5, 6)), st.data())
def test_a_split_set_decodes_as_the_whole(spec: build_kdump.KdumpSpec, data: st.DataObject) -> None:
    ranges = data.draw(strategies.split_ranges(spec.max_mapnr or 1))
    members = build_kdump.build_split(spec, ranges)
    assert decoded(*(member.to_bytes() for member in members)).pages == build_kdump.build(spec).pages


@given(strategies.kdump_specs(), st.data())
def test_a_flattened_kdump_decodes_as_the_plain_one(spec: build_kdump.KdumpSpec, data: st.DataObject) -> None:
    image = build_kdump.build(spec)
    records = data.draw(strategies.flat_records(image))
    assert decoded(build_flat.flatten(records)).pages == image.pages


@given(strategies.elf_specs(overlaps=True))
def test_elf_frames_are_whole_or_partial_and_never_lost(spec: build_elf.ElfSpec) -> None:
    dump = decoded(build_elf.build(spec).to_bytes())
    assert (dump.lost, dump.damaged, dump.exit_code) == ({}, {}, 0)
    touched = {
        pfn
        for segment in spec.segments
        if segment.data
        for pfn in range(segment.paddr // 4096, (segment.paddr + len(segment.data) + 4095) // 4096)
    }
    assert set(dump.pages) == touched
    assert not dump.excluded & touched


@given(strategies.elf_specs())
def test_elf_bytes_are_where_their_segments_say(spec: build_elf.ElfSpec) -> None:
    dump = decoded(build_elf.build(spec).to_bytes())
    for segment in spec.segments:
        got = b"".join(
            dump.pages.get(pfn, b"")
            for pfn in range(segment.paddr // 4096, (segment.paddr + len(segment.data) + 4095) // 4096)
        )
        assert got[segment.paddr % 4096 :][: len(segment.data)] == segment.data


@given(strategies.kdump_specs(codecs=("zlib", "raw"), page_sizes=(4096,)), st.integers(0, 1 << 32), st.integers(1, 3))
def test_a_mutated_kdump_gives_pages_or_a_refusal(spec: build_kdump.KdumpSpec, seed: int, count: int) -> None:
    data = corrupt.mutate(build_kdump.build(spec).to_bytes(), random.Random(seed), count=count)
    try:
        dump = decoded(data)
    except ReferenceError as error:
        assert error.exit_code in (1, 2, 3, 6)
    else:
        assert all(len(page) == dump.page_size for page in dump.pages.values())


def test_mutations_are_deterministic() -> None:
    data = bytes(range(256)) * 8
    first = [corrupt.mutate(data, random.Random(seed), count=3) for seed in range(20)]
    assert first == [corrupt.mutate(data, random.Random(seed), count=3) for seed in range(20)]
    assert len(set(first)) > 10
