# SPDX-License-Identifier: GPL-2.0-or-later
"""`dumpconv map`: the page map as a table, as JSON, and as a ddrescue map file. All are streamed.

In the ddrescue file positions are physical addresses in bytes: `+` stored, `-` lost or damaged, `?` all that was
never to be read: excluded frames and addresses that are no RAM.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ..formats.arrays import unique
from ..formats.pages import MemoryMap, PageState, merge_runs
from ..formats.reader import DumpReader
from .display.measure import human_size

__all__ = ["page_counts", "render", "render_ddrescue", "render_json"]

SCHEMA = "dumpconv.map/1"
_CHUNK = 4096  # runs put together for one write
STATES = (PageState.STORED, PageState.EXCLUDED, PageState.LOST, PageState.DAMAGED)
_DDRESCUE = {PageState.STORED: "+", PageState.LOST: "-", PageState.DAMAGED: "-"}


def page_counts(memory_map: MemoryMap) -> dict[str, int]:
    """Return frames by state name."""
    return {state.name.lower(): memory_map.count(state) for state in STATES}


def _chunks(memory_map: MemoryMap, limit: int) -> Iterator[list[tuple[int, int, int]]]:
    # runs as Python numbers, some at a time
    for low in range(0, limit, _CHUNK):
        rows = slice(low, min(low + _CHUNK, limit))
        columns = (memory_map.start[rows], memory_map.end[rows], memory_map.state[rows])
        yield list(zip(*(column.tolist() for column in columns), strict=True))


def render(reader: DumpReader, memory_map: MemoryMap, limit: int) -> Iterator[str]:
    """Yield the table, line ends included.

    Args:
        reader: The dump.
        memory_map: Its map, with what the page descriptors say of it.
        limit: Runs to show, 0 for all.
    """
    shift = reader.machine.page_shift
    shown = min(limit or len(memory_map), len(memory_map))
    digits = max(9, (memory_map.end_pfn << shift).bit_length() // 4 + 3)
    width = max(9, len(f"{memory_map.end_pfn:#x}"))
    names = [state.name.lower() for state in PageState]
    yield (
        f"{'start pfn':>{width}} {'end pfn':>{width}}  {'from':>{digits}} {'to (exclusive)':>{max(digits, 14)}}"
        f"  {'state':<8} {'pages':>10}  size\n"
    )
    for chunk in _chunks(memory_map, shown):
        yield "".join(
            f"{start:>#{width}x} {end:>#{width}x}  {start << shift:>#{digits}x} {end << shift:>#{max(digits, 14)}x}"
            f"  {names[state]:<8} {end - start:>10}  {human_size(end - start << shift)}\n"
            for start, end, state in chunk
        )
    if shown < len(memory_map):
        yield f"... {len(memory_map) - shown} more runs (--limit 0 shows all)\n"
    counts = page_counts(memory_map)
    counts["partial"] = len(unique(reader.partial[:, 0]))
    parts = [f"{count} {name}" for name, count in counts.items() if count or name == "stored"]
    yield f"{len(memory_map)} runs of pages of {reader.machine.page_size} bytes: {', '.join(parts)}\n"


def render_json(reader: DumpReader, memory_map: MemoryMap) -> Iterator[str]:
    """Yield the map as one JSON object, one run a line (docs/json.md)."""
    names = [state.name.lower() for state in PageState]
    head = {
        "schema": SCHEMA,
        "format": reader.name,
        "page_size": reader.machine.page_size,
        "pages": page_counts(memory_map),
        "incomplete": reader.incomplete,
        "damage": None if reader.damage is None else str(reader.damage),
        "partial": [{"pfn": pfn, "start_byte": start, "end_byte": end} for pfn, start, end in reader.partial.tolist()],
    }
    yield json.dumps(head)[:-1] + ', "runs": ['
    separator = "\n"
    for chunk in _chunks(memory_map, len(memory_map)):
        yield separator + ",\n".join(
            f'{{"start_pfn": {start}, "end_pfn": {end}, "state": "{names[state]}"}}' for start, end, state in chunk
        )
        separator = ",\n"
    yield "\n]}\n"


def _with_gaps(memory_map: MemoryMap) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint8]]:
    # runs of ddrescue's statuses from address 0 on, without gaps: 0 `?`, 1 `+`, 2 `-`
    code = np.zeros(len(PageState), np.uint8)
    for state, mark in _DDRESCUE.items():
        code[state] = "?+-".index(mark)
    edges = unique(np.concatenate([np.zeros(1, np.uint64), memory_map.start, memory_map.end]))
    start, end = edges[:-1], edges[1:]
    if not len(memory_map):
        return start, end, np.empty(0, np.uint8)
    run = np.searchsorted(memory_map.end, start, side="right")
    known = memory_map.start[run] <= start
    return merge_runs(start, end, np.where(known, code[memory_map.state[run]], np.uint8(0)))


def render_ddrescue(reader: DumpReader, memory_map: MemoryMap, version: str) -> Iterator[str]:
    """Yield a ddrescue map file of physical memory, positions in bytes."""
    shift = reader.machine.page_shift
    start, end, code = _with_gaps(memory_map)
    yield f"# Mapfile. Created by dumpconv {version}: positions are physical addresses\n"
    yield "# + stored, - lost or damaged, ? excluded or no RAM\n"
    yield "# current_pos  current_status  current_pass\n0x00000000     +               1\n"
    yield "#      pos        size  status\n"
    for low in range(0, len(start), _CHUNK):
        rows = slice(low, low + _CHUNK)
        columns = zip(start[rows].tolist(), end[rows].tolist(), code[rows].tolist(), strict=True)
        yield "".join(
            f"0x{first << shift:08X}  0x{last - first << shift:08X}  {'?+-'[mark]}\n" for first, last, mark in columns
        )
