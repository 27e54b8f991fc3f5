# SPDX-License-Identifier: GPL-2.0-or-later
"""The page map behaves as a dictionary from frame to state would."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dumpconv.formats.errors import CorruptDump
from dumpconv.formats.pages import MAX_PFN, MemoryMap, MemoryMapBuilder, PageState, clip_runs, merge_runs

STATES = [PageState.STORED, PageState.EXCLUDED, PageState.LOST, PageState.DAMAGED]
Model = dict[int, PageState]


@st.composite
def models(draw: st.DrawFn) -> Model:
    """Draw a small map as a dictionary; far from 0 at times."""
    base = draw(st.sampled_from((0, 0, 1 << 20, (1 << 53) + 3, MAX_PFN - 60)))
    out: Model = {}
    position = base
    for gap, size, state in draw(
        st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6), st.sampled_from(STATES)), max_size=6)
    ):
        position += gap
        out |= dict.fromkeys(range(position, position + size), state)
        position += size
    return out


def to_map(model: Model) -> MemoryMap:
    return MemoryMap.from_runs([(pfn, pfn + 1, state) for pfn, state in model.items()])


def to_model(memory_map: MemoryMap) -> Model:
    return {pfn: run.state for run in memory_map for pfn in range(run.start_pfn, run.end_pfn)}


@given(models())
def test_a_map_holds_its_frames(model: Model) -> None:
    memory_map = to_map(model)
    assert to_model(memory_map) == model
    assert memory_map.end_pfn == max(model, default=-1) + 1
    for state in STATES:
        assert memory_map.count(state) == sum(each == state for each in model.values())


@given(models())
def test_runs_are_sorted_disjoint_and_merged(model: Model) -> None:
    runs = list(to_map(model))
    for run, after in pairwise(runs):
        assert run.end_pfn <= after.start_pfn
        assert run.end_pfn < after.start_pfn or run.state != after.state


@given(models(), st.integers(-3, 70))
def test_the_state_of_a_frame(model: Model, step: int) -> None:
    pfn = max(0, min(model, default=0) + step)
    memory_map = to_map(model)
    assert memory_map.state_of(pfn) == model.get(pfn, PageState.HOLE)
    assert memory_map.states_at(np.array([pfn], np.uint64)).tolist() == [model.get(pfn, PageState.HOLE)]


@given(models(), st.integers(-3, 60), st.integers(0, 60))
def test_a_slice_is_the_part(model: Model, step: int, size: int) -> None:
    low = max(0, min(model, default=0) + step)
    part = to_map(model).slice(low, low + size)
    assert to_model(part) == {pfn: state for pfn, state in model.items() if low <= pfn < low + size}


@given(models(), models())
def test_an_overlay_is_a_dictionary_union(below: Model, above: Model) -> None:
    assert to_model(to_map(below).overlay(to_map(above))) == below | above


@given(models(), models(), models())
def test_overlay_is_associative(one: Model, two: Model, three: Model) -> None:
    first, second, third = map(to_map, (one, two, three))
    assert first.overlay(second).overlay(third) == first.overlay(second.overlay(third))


@given(models(), st.integers(1, 7))
def test_a_builder_joins_across_chunks(model: Model, chunk: int) -> None:
    builder = MemoryMapBuilder()
    frames = sorted(model)
    for at in range(0, len(frames), chunk):
        pfns = np.array(frames[at : at + chunk], np.uint64)
        builder.add(pfns, pfns + np.uint64(1), np.array([model[int(pfn)] for pfn in pfns], np.uint8))
    assert builder.build() == to_map(model)


@given(models(), st.integers(-3, 60), st.integers(0, 60))
def test_clipping_is_intersection(model: Model, step: int, size: int) -> None:
    memory_map = to_map(model)
    low = max(0, min(model, default=0) + step)
    _, start, end = clip_runs(memory_map.start, memory_map.end, low, low + size)
    covered = {pfn for a, b in zip(start.tolist(), end.tolist(), strict=True) for pfn in range(a, b)}
    assert covered == {pfn for pfn in model if low <= pfn < low + size}


def test_merging_drops_empty_runs() -> None:
    start, end, state = (np.array(column) for column in ([1, 2, 2], [2, 2, 3], [1, 1, 1]))
    merged = merge_runs(start.astype(np.uint64), end.astype(np.uint64), state.astype(np.uint8))
    assert [column.tolist() for column in merged] == [[1], [3], [1]]


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([(0, 5, 1), (4, 6, 1)], "overlap or are inverted"),
        ([(0, MAX_PFN + 1, 1)], f"the limit is {MAX_PFN:#x}"),
    ],
)
def test_impossible_maps_are_refused(runs: list[tuple[int, int, int]], message: str) -> None:
    with pytest.raises(CorruptDump, match=message):
        MemoryMap.from_runs(runs)
