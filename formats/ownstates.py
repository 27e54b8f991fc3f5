# SPDX-License-Identifier: GPL-2.0-or-later
"""Our notes in a container that has page states of its own (kdump): what they add, and whether they still fit.

The container's tables count. The note adds what they cannot say: which of the missing frames are DAMAGED, which
frames are partial, the digests. A program that filters the file again keeps our notes as they were; that is seen.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .errors import CorruptDump
from .notes import OUR_NAME, Note, find_note
from .pages import MemoryMap, PageState
from .reader import DumpReader
from .statenote import TYPE_PROVENANCE, PageStates, parse_state_notes, state_digest

__all__ = ["apply_our_notes"]


def apply_our_notes(reader: DumpReader, ours: Sequence[Note], *, salvage: bool) -> None:
    """Complete a reader's map and digests by what our notes say.

    Raises:
        CorruptDump: They contradict themselves or the tables (without salvage).
    """
    provenance = find_note(ours, OUR_NAME, TYPE_PROVENANCE)
    if provenance is not None:
        reader.provenance = provenance.desc()
    try:
        states = parse_state_notes(ours)
        if states is not None:
            _apply(reader, states)
    except CorruptDump as error:
        if not salvage:
            raise
        reader.damage = reader.damage or error


def _apply(reader: DumpReader, states: PageStates) -> None:
    memory_map = reader.memory_map
    stored = MemoryMap.from_columns(*memory_map.only(PageState.STORED), int(PageState.STORED))
    total = stored.count(PageState.STORED) + sum(states.absent.count(state) for state in PageState)
    both = stored.overlay(states.absent)
    overlap = total - sum(both.count(state) for state in PageState)
    if overlap:
        raise CorruptDump(
            f"the page-state note calls {overlap} frames absent that have descriptors",
            path=reader.sources[0].name,
            hint="--salvage goes by the descriptors",
        )
    for state in (PageState.LOST, PageState.DAMAGED):
        memory_map = memory_map.overlay(MemoryMap.from_columns(*states.absent.only(state), int(state)))
    reader.memory_map = memory_map
    present = memory_map.states_at(states.partial[:, 0]) == PageState.STORED
    reader.partial = states.partial[present]
    if _filtered_again(memory_map, states, reader.machine.page_size):
        reader.remark("filtered-again", "the file was filtered after our note was made: its digests no longer count")
        return
    reader.recorded_digest = states.content_digest
    reader.recorded_state_digest = states.state_digest


def _filtered_again(memory_map: MemoryMap, states: PageStates, page_size: int) -> bool:
    # Whether the noted states come out when the frames that are excluded now and were not then are STORED.
    if state_digest(memory_map, page_size) == states.state_digest:
        return False
    start, end = memory_map.only(PageState.EXCLUDED)
    before = MemoryMap.from_columns(start, end, int(PageState.STORED)).overlay(states.absent)
    start, end = before.only(PageState.STORED)
    if not len(start):
        return False
    earlier = memory_map.overlay(MemoryMap.from_columns(start, end, np.full(len(start), PageState.STORED, np.uint8)))
    return state_digest(earlier, page_size) == states.state_digest
