# SPDX-License-Identifier: GPL-2.0-or-later
"""Levels `quick` and `structure`: headers, tables, notes; no page is decoded."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..formats import codecs
from ..formats.notes import NT_PRSTATUS, PRSTATUS_SIZES
from ..formats.pages import PageState
from ..formats.reader import DumpReader
from ..formats.source import UNKNOWN_SIZE
from .codes import code_of_error, code_of_reason, code_of_remark
from .display.measure import slices
from .quirks import quirks_of
from .verdict import BadRange, TargetReport

__all__ = ["check_quick", "check_structure"]

_SLICE_PFNS = 1 << 18
_TAIL_PFNS = 1 << 16  # frames at each end of the dump whose table entries the quick level looks at
_MAX_SUSPECTS = 1 << 21  # table entries out of file order that are kept for the overlap check: 48 MiB


def check_quick(reader: DumpReader, report: TargetReport) -> None:
    """Look at what opening found, and at the table entries at both ends of the dump.

    Writers put pages down in order: a file that was cut off lacks the last ones.
    """
    machine = reader.machine
    report.format, report.arch, report.page_size = reader.name, machine.arch, machine.page_size
    info = reader.vmcoreinfo
    utsname = reader.facts.get("utsname")
    header = utsname.get("release") if isinstance(utsname, dict) else None
    report.kernel = (info.text("OSRELEASE") if info is not None else None) or header or ""
    for state in (PageState.STORED, PageState.EXCLUDED, PageState.LOST, PageState.DAMAGED):
        report.pages[state.name.lower()] = reader.memory_map.count(state)
    if reader.damage is not None:
        report.add(code_of_error(reader.damage), reader.damage.message, offset=reader.damage.offset)
    if reader.incomplete:
        report.add("E201", "the writer marked the dump as incomplete")
    if report.pages["excluded"]:
        report.add("I303", f"{report.pages['excluded']} pages were left out by the writer")
    start, end = reader.memory_map.only(PageState.STORED)
    if len(start):
        low, high = int(start[0]), int(end[-1])
        middle = min(high, low + _TAIL_PFNS)
        ends = ((low, middle), (max(middle, high - _TAIL_PFNS), high))
        bad = [row for first, last in ends if first < last for row in _bad_rows(reader.extents(first, last))]
        if bad:
            row = bad[0]
            code = code_of_reason(int(row["page_offset"]))
            report.add(code, _reason(row), offset=int(row["offset"]), pfn=int(row["start_pfn"]), number=len(bad))


def _bad_rows(rows: NDArray[Any]) -> NDArray[Any]:
    bad: NDArray[Any] = rows[rows["codec"] == codecs.BAD]
    return bad


def _reason(row: NDArray[Any]) -> str:
    _, text, _ = codecs.REASONS[int(row["page_offset"])]
    return text.format(offset=int(row["offset"]), size=int(row["stored_size"]))


def add_remarks(reader: DumpReader, report: TargetReport) -> None:
    """Add the reader's remarks. Called last: some are made only when a stream has ended or pages were read."""
    for finding in reader.findings:
        report.add(code_of_remark(finding.code), finding.message)
    for quirk in quirks_of(reader):
        report.add("I306", f"{quirk.name}: {quirk.what} ({quirk.writer}); {quirk.done}")
    for source in reader.files:
        for note in source.notes:
            report.add("I302", note)


def check_structure(reader: DumpReader, report: TargetReport) -> None:
    """Look at every table entry and note.

    Raises:
        DumpError: The tables cannot be read.
    """
    reader.finish_notes()
    _check_tables(reader, report)
    _check_notes(reader, report)
    _check_kernel_words(reader, report)


def _check_tables(reader: DumpReader, report: TargetReport) -> None:
    overlap = _Overlap()
    named = _Named(len(reader.sources))
    found: dict[str, tuple[NDArray[Any], int]] = {}
    stored = reader.memory_map.only(PageState.STORED)
    for low, high in slices(*stored, _SLICE_PFNS):
        rows = reader.extents(low, high)
        wanted = reader.memory_map.slice(low, high).count(PageState.STORED)
        new = np.ones(len(rows), bool)
        new[1:] = rows["start_pfn"][1:] != rows["start_pfn"][:-1]
        have = int(rows["nr_pages"][new].sum())
        if have != wanted:
            report.add("E108", f"the tables have {have} pages where the page map has {wanted}", pfn=low)
        bad = _bad_rows(rows)
        for row in bad:
            code = code_of_reason(int(row["page_offset"]))
            first, count = found.get(code, (row, 0))
            found[code] = (first, count + 1)
            report.add_range(_bad_range(row, code))
        rows = rows[(rows["codec"] != codecs.BAD) & (rows["codec"] != codecs.ZERO)]
        overlap.add(rows)
        named.add(rows)
    for code, (row, count) in found.items():
        offset, pfn = int(row["offset"]), int(row["start_pfn"])
        report.add_all(code, _reason(row), offset=offset, pfn=pfn, number=count)
    if overlap.suspects:
        for low, high in slices(*stored, _SLICE_PFNS):
            overlap.look_again(reader.extents(low, high))
    overlap.tell(report)
    if not found and reader.damage is None and not reader.incomplete:
        named.tell(reader, report)


def _bad_range(row: NDArray[Any], code: str) -> BadRange:
    _, _, state = codecs.REASONS[int(row["page_offset"])]
    pfn, offset = int(row["start_pfn"]), int(row["offset"])
    # what the entry says of itself is not trusted for a length
    return BadRange(pfn, pfn + int(row["nr_pages"]), state, int(row["file"]), offset, offset, _reason(row), code)


class _Named:
    # The first and the last byte of each file that a page table names.

    def __init__(self, nr_files: int) -> None:
        self._low: list[int | None] = [None] * nr_files
        self._high = [0] * nr_files

    def add(self, rows: NDArray[Any]) -> None:
        for file in np.unique(rows["file"]).tolist():
            part = rows[rows["file"] == file]
            low, high = int(part["offset"].min()), int((part["offset"] + part["stored_size"]).max())
            before = self._low[file]
            self._low[file] = low if before is None else min(before, low)
            self._high[file] = max(self._high[file], high)

    def tell(self, reader: DumpReader, report: TargetReport) -> None:
        for file, source in enumerate(reader.sources):
            place = reader.page_data(file)
            if place is None or source.size >= UNKNOWN_SIZE:
                continue
            start, end = place
            low, high = self._low[file], self._high[file]
            gaps = [(start, end)] if low is None else [(start, low), (high, end)]
            gaps = [(first, last) for first, last in gaps if first < last]
            if gaps:
                text = " and ".join(f"{last - first} bytes at {first:#x}" for first, last in gaps)
                report.add("W223", f"{source.name}: no page has the {text}", offset=gaps[0][0])


class _Overlap:
    # Stored ranges of different pages must not overlap; pages may share one range exactly (the zero page). Entries in
    # file order need no memory; the others ("suspects") are kept, sorted, and every entry is held against them.

    def __init__(self) -> None:
        self.suspects = 0
        self._reach: dict[int, int] = {}
        self._shared: set[tuple[int, int, int]] = set()
        self._columns: list[NDArray[np.uint64]] = []
        self._kept: NDArray[np.uint64] | None = None
        self._first: tuple[int, int, int, int] | None = None
        self._count = 0
        self._given_up = False

    def add(self, rows: NDArray[Any]) -> None:
        for file in np.flatnonzero(np.bincount(rows["file"])).tolist() if len(rows) else ():
            part = rows[rows["file"] == file]
            start = part["offset"]
            end = start + part["stored_size"]
            before = np.maximum.accumulate(np.concatenate([[np.uint64(self._reach.get(file, 0))], end]))[:-1]
            late = np.flatnonzero(start < before)
            self._reach[file] = max(self._reach.get(file, 0), int(end.max()))
            if len(late):
                self._suspect(file, start[late], end[late])

    def _suspect(self, file: int, start: NDArray[np.uint64], end: NDArray[np.uint64]) -> None:
        # entries that share one range count once: the zero page is shared by a third of all frames
        table = np.unique(np.stack([np.full(len(start), file, np.uint64), start, end], axis=1), axis=0)
        keys = [tuple(row) for row in table[:8].tolist()] if len(table) <= 8 else []
        if keys and all(key in self._shared for key in keys):
            return
        self._shared.update(keys)
        self.suspects += len(table)
        if self.suspects > _MAX_SUSPECTS:
            self._given_up = True
            return
        self._columns.append(table)

    def look_again(self, rows: NDArray[Any]) -> None:
        if self._given_up:
            return
        if self._kept is None:
            self._kept = np.unique(np.concatenate(self._columns), axis=0)
        rows = rows[(rows["codec"] != codecs.BAD) & (rows["codec"] != codecs.ZERO)]
        for file in np.unique(rows["file"]).tolist():
            table = self._kept[self._kept[:, 0] == file][:, 1:]
            part = rows[rows["file"] == file]
            start, end = part["offset"], part["offset"] + part["stored_size"]
            reach = np.maximum.accumulate(table[:, 1]) if len(table) else table[:, 1]
            last = np.searchsorted(table[:, 0], end, side="left")  # suspects that begin before the entry ends
            touched = np.flatnonzero(last > 0)
            touched = touched[reach[last[touched] - 1] > start[touched]]
            for index in touched[:4096].tolist():
                mine = (int(start[index]), int(end[index]))
                for other in table[max(0, int(last[index]) - 64) : int(last[index])].tolist():
                    if tuple(other) != mine and other[1] > mine[0]:
                        self._count += 1
                        self._first = self._first or (*mine, other[0], int(part["start_pfn"][index]))
                        break

    def tell(self, report: TargetReport) -> None:
        if self._given_up:
            report.add("W220", f"more than {_MAX_SUSPECTS} pages are out of file order: overlaps were not looked for")
        elif self._first is not None:
            start, end, other, pfn = self._first
            text = f"stored data [{start:#x}, {end:#x}) overlaps that of another page at {other:#x}"
            report.add("E106", text, offset=start, pfn=pfn, number=self._count)


def _check_notes(reader: DumpReader, report: TargetReport) -> None:
    machine = reader.machine
    sizes = [note.size for note in reader.notes if note.name == b"CORE" and note.type == NT_PRSTATUS]
    expected = PRSTATUS_SIZES.get(machine.arch, (0, 0, 0))[0]
    odd = [size for size in sizes if expected and size != expected]
    if odd:
        report.add("W216", f"{len(odd)} register notes of {odd[0]} bytes, {machine.arch} has {expected}")
    cpus = reader.facts.get("nr_cpus")
    if isinstance(cpus, int) and sizes and 0 < cpus != len(sizes):
        report.add("W216", f"registers of {len(sizes)} CPUs, the header says {cpus}", number=abs(cpus - len(sizes)))
    elif not sizes:
        report.add("W216", "no registers of any CPU")


def _check_kernel_words(reader: DumpReader, report: TargetReport) -> None:
    info = reader.vmcoreinfo
    if info is None:
        report.add("W217", "the dump has no VMCOREINFO")
        return
    page_size = info.page_size
    if page_size is not None and page_size != reader.machine.page_size:
        report.add("W215", f"VMCOREINFO says PAGESIZE={page_size}, the dump {reader.machine.page_size}")
    utsname = reader.facts.get("utsname")
    header = utsname.get("release", "") if isinstance(utsname, dict) else ""
    release = info.text("OSRELEASE")
    if header and release and header != release:
        report.add("W215", f"the header is of kernel {header}, VMCOREINFO of {release}")
