# SPDX-License-Identifier: GPL-2.0-or-later
"""Outputs that hold pages as they are beside ELF: raw memory at physical offsets, and LiME.

    raw    byte A of the file is physical address A; what is not in the dump reads as zero, and nothing says so
    LiME   for each run of stored frames a header of 32 bytes and its bytes: magic, version 1, first address,
           last address (inclusive), 8 bytes of zeros

Source: docs/outputs.md; LiME src/lime.h.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..formats.errors import OutputError
from ..formats.machine import Machine
from ..formats.notes import Note
from ..formats.pages import PageState, clip_runs
from ..formats.reader import Finding
from .output import Contents, OutputFormat, Piece, PlacedPlan, check_not_empty

__all__ = ["LimeOutput", "RawOutput"]

U64 = NDArray[np.uint64]
LIME_MAGIC = 0x4C694D45
_HEADER_SIZE = 32
_CHUNK = 1 << 14
_ABSENT = (PageState.EXCLUDED, PageState.LOST, PageState.DAMAGED)


class _Runs:
    # Frames [start, end) at file offset `offset`, in columns.

    nr_segments = 0

    def __init__(self, machine: Machine, start: U64, end: U64, offset: U64, file_size: int) -> None:
        self.machine = machine
        self._start, self._end, self._offset = start, end, offset
        self.data_start, self.file_size = int(offset[0]), file_size

    def note_offsets(self) -> Iterator[tuple[Note, int, int]]:
        """See `Plan.note_offsets`."""
        return iter(())

    def out_runs(self, start_pfn: int, end_pfn: int) -> tuple[U64, U64]:
        """See `PlacedPlan.out_runs`."""
        where, _, _ = clip_runs(self._start, self._end, start_pfn, end_pfn)
        return self._start[where], self._offset[where]

    def offset_of(self, pfn: int) -> int | None:
        """See `PlacedPlan.offset_of`."""
        index = int(np.searchsorted(self._end, np.uint64(pfn), side="right"))
        if index == len(self._start) or int(self._start[index]) > pfn:
            return None
        return int(self._offset[index]) + (pfn - int(self._start[index])) * self.machine.page_size


class _RawPlan(_Runs):
    def pieces(self) -> Iterator[Piece]:
        return iter(())


class _LimePlan(_Runs):
    def pieces(self) -> Iterator[Piece]:
        mark = "<" if self.machine.byteorder == "little" else ">"
        fields = (("magic", "u4"), ("version", "u4"), ("s_addr", "u8"), ("e_addr", "u8"), ("reserved", "u8"))
        dtype = np.dtype([(name, mark + kind) for name, kind in fields])
        shift = np.uint64(self.machine.page_shift)
        for low in range(0, len(self._start), _CHUNK):
            rows = slice(low, low + _CHUNK)
            table = np.zeros(len(self._start[rows]), dtype)
            table["magic"], table["version"] = LIME_MAGIC, 1
            table["s_addr"] = self._start[rows] << shift
            table["e_addr"] = (self._end[rows] << shift) - np.uint64(1)  # inclusive; 2**64 wraps to where it should
            raw = table.tobytes()
            for index, offset in enumerate(self._offset[rows].tolist()):
                yield Piece(0, offset - _HEADER_SIZE, raw[index * _HEADER_SIZE : (index + 1) * _HEADER_SIZE])


def _told(contents: Contents, name: str, what: str) -> Iterator[Finding]:
    # what both formats cannot say
    absent = [f"{contents.count(state)} {state.name.lower()}" for state in _ABSENT if contents.count(state)]
    if absent:
        yield Finding("states-lost", f"{name} cannot say which pages are missing: {', '.join(absent)} {what}")
    if contents.notes:
        yield Finding("notes-lost", f"{name} has no notes: registers and VMCOREINFO are left out")


def _check_addresses(contents: Contents, bits: int) -> None:
    end = contents.memory_map.end_pfn << contents.machine.page_shift
    if end > 1 << bits:
        raise OutputError(f"memory ends at {end:#x}, past the {bits} bits that this format has for it")


class RawOutput(OutputFormat):
    """Physical memory, byte for byte at its address, as a sparse file."""

    name: ClassVar[str] = "raw"

    def plan(self, contents: Contents) -> PlacedPlan:
        """See `OutputFormat.plan`."""
        check_not_empty(contents.memory_map)
        start, end = contents.memory_map.only(PageState.STORED)
        offset = start << np.uint64(contents.machine.page_shift)
        size = contents.memory_map.end_pfn << contents.machine.page_shift
        _check_addresses(contents, 63)
        return _RawPlan(contents.machine, start, end, offset, size)

    def losses(self, contents: Contents) -> Iterator[Finding]:
        """See `OutputFormat.losses`."""
        yield from super().losses(contents)
        yield from _told(contents, "raw memory", "read as zeros now")
        start, end = contents.memory_map.start, contents.memory_map.end
        holes = int(start[0]) + int((start[1:] - end[:-1]).sum()) if len(start) else 0
        if holes:
            yield Finding("holes-zero", f"{holes} frames between and before RAM read as zeros")


class LimeOutput(OutputFormat):
    """LiME's format: what volatility reads."""

    name: ClassVar[str] = "lime"

    def plan(self, contents: Contents) -> PlacedPlan:
        """See `OutputFormat.plan`."""
        check_not_empty(contents.memory_map)
        start, end = contents.memory_map.only(PageState.STORED)
        size = (end - start) << np.uint64(contents.machine.page_shift)
        stop = np.cumsum(size + np.uint64(_HEADER_SIZE), dtype=np.uint64)
        _check_addresses(contents, 64)
        plan = _LimePlan(contents.machine, start, end, stop - size, int(stop[-1]))
        plan.nr_segments = len(start)
        return plan

    def losses(self, contents: Contents) -> Iterator[Finding]:
        """See `OutputFormat.losses`."""
        yield from super().losses(contents)
        yield from _told(contents, "LiME", "are in no range")
