# SPDX-License-Identifier: GPL-2.0-or-later
"""`dumpconv compare A B`: is it the same memory, whatever the formats?

Memory is the same where both dumps hold the same set of present frames with the same bytes. Page states, partial
frames, registers and VMCOREINFO are told apart from it. Tasks of frames go to workers, which decode both sides and
compare rows; where both files carry a content digest and the caller trusts it, the headers are enough.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..formats.cluster import local_choice
from ..formats.decode import Damage, DecodeJob
from ..formats.errors import CorruptDump, InputError, PageDecodeError, UsageError
from ..formats.executor import ExecutorChoice, make_executor, run
from ..formats.image import DumpImage
from ..formats.intervals import inside, union
from ..formats.notes import NT_PRSTATUS, Note, find_note
from ..formats.pages import PageState, clip_runs
from ..formats.reader import DumpReader
from ..formats.rows import sub_batches
from ..formats.vmcoreinfo import MAX_SIZE
from .display.measure import slices

__all__ = ["CompareOptions", "CompareReport", "DifferingRange", "compare", "compare_task"]

_TASK_PFNS = 16384  # frames of a task: 64 MiB of 4 KiB pages
_MAX_DAMAGE = 1000  # frames listed one by one

U64 = NDArray[np.uint64]
Runs = tuple[U64, U64]


@dataclass(frozen=True, slots=True)
class CompareOptions:
    """How to compare.

    Attributes:
        trust_digest: Compare recorded digests instead of pages, if both sides have one.
        limit: Differing ranges to list.
        jobs, executor: How many workers, of which kind.
    """

    trust_digest: bool = False
    limit: int = 10
    jobs: int = 1
    executor: ExecutorChoice = "auto"


@dataclass(frozen=True, slots=True)
class DifferingRange:
    """Frames [start_pfn, end_pfn) that differ: `bytes`, `partial`, `only-a` or `only-b`."""

    start_pfn: int
    end_pfn: int
    kind: str


@dataclass(slots=True)
class CompareReport:
    """What was found.

    Attributes:
        by: `pages` or `digest`.
        same_memory: The same present frames with the same bytes.
        same_states: The same state for every frame.
        same_notes: The same machine, registers and VMCOREINFO.
        pages: Counts of frames: `compared`, `differing`, `only_a`, `only_b`, `damaged_a`, `damaged_b`; and of
            frames of which one side or both hold some bytes only: `partial`, those among them whose common bytes
            differ: `partial_differing`, and those where the bytes differ that one side does not hold:
            `partial_missing`.
        states: (state in A, state in B) -> frames, where they differ.
        ranges: The first differing ranges, ascending.
        nr_ranges_left_out: How many more there are at least.
        damage_a, damage_b: Frames that could not be decoded, the first of them.
        notes: Remarks on machine, registers, VMCOREINFO, one line each.
        remarks: What else the user should know.
    """

    by: str = "pages"
    same_memory: bool = True
    same_states: bool = True
    same_notes: bool = True
    pages: dict[str, int] = field(default_factory=dict)
    states: dict[tuple[str, str], int] = field(default_factory=dict)
    ranges: list[DifferingRange] = field(default_factory=list)
    nr_ranges_left_out: int = 0
    damage_a: list[Damage] = field(default_factory=list)
    damage_b: list[Damage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


# -- in the worker -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CompareJob:
    """What all tasks share: how each side is decoded."""

    a: DecodeJob
    b: DecodeJob

    @property
    def parts(self) -> tuple[DecodeJob, ...]:
        """Both."""
        return self.a, self.b


@dataclass(frozen=True, slots=True)
class CompareTask:
    """Extents of both sides that hold the frames to compare; frames in `skip` are compared elsewhere."""

    a: NDArray[Any]
    b: NDArray[Any]
    skip: U64
    expected: int


@dataclass(slots=True)
class CompareResult:
    """Frames compared, which of them differ, which could not be decoded."""

    compared: int
    differing: U64
    damage_a: list[Damage]
    damage_b: list[Damage]


class _Side:
    # Decodes one side's extents sub-batch by sub-batch; `pfns` is what is left of the current one.

    def __init__(self, job: DecodeJob, extents: NDArray[Any]) -> None:
        self._worker = job.worker()
        self._batches = sub_batches(extents, job.capacity, job.page_size)
        self.words = self._worker.rows.pages.view(np.uint64)
        self.damage: list[Damage] = []
        self.pfns: U64 = np.empty(0, np.uint64)
        self._base = 0

    def refill(self) -> bool:
        # take the next sub-batch once this one is used up; False at the end
        if len(self.pfns):
            return True
        self._base = 0
        for extents, row_of in self._batches:
            self.pfns, damage = self._worker.fill(extents, row_of)
            self.damage += damage
            return True
        return False

    def take(self, last_pfn: int) -> tuple[U64, NDArray[np.uint64]]:
        # the frames up to and with last_pfn, and their pages
        count = int(np.searchsorted(self.pfns, np.uint64(last_pfn), side="right"))
        pfns, words = self.pfns[:count], self.words[self._base : self._base + count]
        self.pfns = self.pfns[count:]
        self._base += count
        return pfns, words


def compare_task(job: CompareJob, task: CompareTask) -> CompareResult:
    """Decode and compare one task's frames: the function that executors call."""
    a, b = _Side(job.a, task.a), _Side(job.b, task.b)
    compared: list[U64] = []
    differing: list[U64] = []
    while a.refill() and b.refill():
        last_pfn = min(int(a.pfns[-1]), int(b.pfns[-1]))
        pfns_a, words_a = a.take(last_pfn)
        pfns_b, words_b = b.take(last_pfn)
        if not np.array_equal(pfns_a, pfns_b):
            pfns_a, rows_a, rows_b = np.intersect1d(pfns_a, pfns_b, assume_unique=True, return_indices=True)
            words_a, words_b = words_a[rows_a], words_b[rows_b]
        compared.append(pfns_a)
        if not np.array_equal(words_a, words_b):
            differing.append(pfns_a[(words_a != words_b).any(axis=1)])
    left_out = np.array([each.pfn for each in a.damage + b.damage], np.uint64)
    left_out = np.concatenate([left_out, task.skip])
    found, unequal = _join(compared), _join(differing)
    if len(left_out):
        found, unequal = found[~np.isin(found, left_out)], unequal[~np.isin(unequal, left_out)]
    damaged = len(np.setdiff1d(left_out, task.skip))
    if len(found) + damaged < task.expected:
        raise CorruptDump(f"the tables have {len(found) + damaged} pages where the page maps have {task.expected}")
    return CompareResult(len(found), unequal, a.damage, b.damage)


def _join(parts: list[U64]) -> U64:
    return np.concatenate(parts) if parts else np.empty(0, np.uint64)


# -- in the parent -----------------------------------------------------------------------------------------------


class _Comparison:
    def __init__(self, a: DumpReader, b: DumpReader, options: CompareOptions) -> None:
        self._a, self._b, self._options = a, b, options
        self.report = CompareReport()
        edges = np.unique(np.concatenate([a.memory_map.start, a.memory_map.end, b.memory_map.start, b.memory_map.end]))
        self._start, self._end = edges[:-1], edges[1:]
        self._state_a = a.memory_map.states_at(self._start)
        self._state_b = b.memory_map.states_at(self._start)
        self._partial = np.unique(np.concatenate([a.partial[:, 0], b.partial[:, 0]]))
        self._ranges: list[DifferingRange] = []

    def _runs(self, *, in_a: bool, in_b: bool) -> Runs:
        mask = ((self._state_a == PageState.STORED) == in_a) & ((self._state_b == PageState.STORED) == in_b)
        return union(self._start[mask], self._end[mask])

    def run(self, progress: Callable[[int], object]) -> CompareReport:
        report = self.report
        report.pages = dict.fromkeys(
            ("compared", "differing", "only_a", "only_b", "damaged_a", "damaged_b"), 0
        ) | dict.fromkeys(("partial", "partial_differing", "partial_missing"), 0)
        self._compare_states()
        self._compare_notes()
        if not self._trust_digests():
            common = self._runs(in_a=True, in_b=True)
            self._compare_pages(common, progress)
            self._compare_partial(common)
        pages = report.pages
        wrong = ("differing", "only_a", "only_b", "damaged_a", "damaged_b", "partial_differing", "partial_missing")
        report.same_memory = report.same_memory and not any(pages[key] for key in wrong)
        self._finish_ranges()
        return report

    # -- headers only --------------------------------------------------------------------------------------------

    def _compare_states(self) -> None:
        report = self.report
        unequal = self._state_a != self._state_b
        report.same_states = not unequal.any()
        size = self._end - self._start
        pairs = np.stack([self._state_a[unequal], self._state_b[unequal]], axis=1)
        for pair in np.unique(pairs, axis=0).tolist():
            mask = (self._state_a == pair[0]) & (self._state_b == pair[1])
            names = (PageState(pair[0]).name.lower(), PageState(pair[1]).name.lower())
            report.states[names] = int(size[mask].sum())
        for kind, (start, end) in (
            ("only_a", self._runs(in_a=True, in_b=False)),
            ("only_b", self._runs(in_a=False, in_b=True)),
        ):
            report.pages[kind] = int((end - start).sum())
            self._add_ranges(start, end, kind.replace("_", "-"))

    def _compare_notes(self) -> None:
        a, b, notes = self._a, self._b, self.report.notes
        if (a.machine.arch, a.machine.byteorder) != (b.machine.arch, b.machine.byteorder):
            notes.append(f"machine: {a.machine.arch} {a.machine.byteorder} and {b.machine.arch} {b.machine.byteorder}")
        first, second = _registers(a), _registers(b)
        if len(first) != len(second):
            notes.append(f"registers: {len(first)} and {len(second)} CPUs")
        unequal = sum(_unequal(*pair) for pair in zip(first, second, strict=False))
        if unequal:
            notes.append(f"registers: {unequal} of {min(len(first), len(second))} CPUs differ")
        text_a, text_b = (find_note(each.notes, b"VMCOREINFO") for each in (a, b))
        if (text_a is None) != (text_b is None):
            notes.append(f"VMCOREINFO: only in {'B' if text_a is None else 'A'}")
        elif text_a is not None and text_b is not None and _unequal(text_a, text_b):
            notes.append("VMCOREINFO: differs")
        self.report.same_notes = not notes

    def _trust_digests(self) -> bool:
        if not self._options.trust_digest:
            return False
        digests = self._a.recorded_digest, self._b.recorded_digest
        if None in digests:
            names = " and ".join(name for name, digest in zip("AB", digests, strict=True) if digest is None)
            self.report.remarks.append(f"no recorded digest in {names}: pages were compared")
            return False
        self.report.by = "digest"
        self.report.pages["partial"] = len(self._partial)
        self.report.same_memory = digests[0] == digests[1]
        return True

    # -- pages ---------------------------------------------------------------------------------------------------

    def _compare_pages(self, common: Runs, progress: Callable[[int], object]) -> None:
        options, page_size, pages = self._options, self._a.machine.page_size, self.report.pages
        total = int((common[1] - common[0]).sum()) * page_size
        job = CompareJob(_decode_job(self._a), _decode_job(self._b))
        try:
            executor, jobs, alone = local_choice(options.executor, options.jobs, (*self._a.sources, *self._b.sources))
            if alone:
                self.report.remarks.append("a side is a stream: no worker of the cluster sees it")
            with make_executor(executor, jobs, 2 * total) as pool:
                for task, result in run(pool, compare_task, job, self._tasks(common), window=2 * jobs):
                    pages["compared"] += result.compared
                    pages["differing"] += len(result.differing)
                    for side, damage in (("a", result.damage_a), ("b", result.damage_b)):
                        pages[f"damaged_{side}"] += len(damage)
                        listed = self.report.damage_a if side == "a" else self.report.damage_b
                        listed += damage[: max(0, _MAX_DAMAGE - len(listed))]
                    self._add_ranges(*union(result.differing, result.differing + np.uint64(1)), "bytes")
                    progress(task.expected * page_size)
        finally:
            job.a.forget()
            job.b.forget()

    def _tasks(self, common: Runs) -> Iterator[CompareTask]:
        for low, high in slices(*common, _TASK_PFNS):
            _, start, end = clip_runs(*common, low, high)
            first, last = np.searchsorted(self._partial, np.array([low, high], np.uint64))
            skip = self._partial[first:last]
            expected = int((end - start).sum()) - int(inside(start, end, skip).sum())
            if expected:
                sides = [_touching(reader.extents(low, high), (start, end)) for reader in (self._a, self._b)]
                yield CompareTask(sides[0], sides[1], skip, expected)

    def _compare_partial(self, common: Runs) -> None:
        images = DumpImage(self._a), DumpImage(self._b)
        pages = self.report.pages
        pages["partial"] = len(self._partial)
        for pfn in self._partial[inside(*common, self._partial)].tolist():
            rows = []
            for image, side in zip(images, "ab", strict=True):
                try:
                    rows.append(np.frombuffer(image.read_page(pfn), np.uint8))
                except PageDecodeError as error:
                    pages[f"damaged_{side}"] += 1
                    damage = Damage(pfn, PageState.DAMAGED, error.message, 0, error.offset or 0)
                    (self.report.damage_a if side == "a" else self.report.damage_b).append(damage)
            if len(rows) < 2:
                continue
            unequal = rows[0] != rows[1]
            if not unequal.any():
                continue
            both = _held(self._a, pfn) & _held(self._b, pfn)
            pages["partial_differing" if (unequal & both).any() else "partial_missing"] += 1
            one = np.array([pfn], np.uint64)
            self._add_ranges(one, one + np.uint64(1), "partial")

    # -- ranges --------------------------------------------------------------------------------------------------

    def _add_ranges(self, start: U64, end: U64, kind: str) -> None:
        # keeps twice the limit of each kind, so that joining neighbours leaves enough
        room = max(0, 2 * self._options.limit + 1 - sum(each.kind == kind for each in self._ranges))
        for low, high in zip(start[:room].tolist(), end[:room].tolist(), strict=True):
            if self._ranges and self._ranges[-1].kind == kind and self._ranges[-1].end_pfn == low:
                low = self._ranges.pop().start_pfn  # noqa: PLW2901 - the run goes on from the task before
            self._ranges.append(DifferingRange(low, high, kind))
        self.report.nr_ranges_left_out += max(0, len(start) - room)

    def _finish_ranges(self) -> None:
        ranges = sorted(self._ranges, key=lambda each: (each.start_pfn, each.kind))
        self.report.ranges = ranges[: self._options.limit]
        self.report.nr_ranges_left_out += max(0, len(ranges) - self._options.limit)


def _touching(extents: NDArray[Any], runs: Runs) -> NDArray[Any]:
    # the extents that hold a frame of the runs
    first = extents["start_pfn"]
    index = np.searchsorted(runs[1], first, side="right")
    start = np.append(runs[0], np.uint64(0xFFFFFFFFFFFFFFFF))[index]
    keep = start < first + extents["nr_pages"].astype(np.uint64)
    return extents if keep.all() else extents[keep]


def _held(reader: DumpReader, pfn: int) -> NDArray[np.bool_]:
    # which bytes of a frame the dump holds
    rows = reader.partial[reader.partial[:, 0] == pfn]
    held = np.full(reader.machine.page_size, not len(rows))
    for _, start, end in rows.tolist():
        held[start:end] = True
    return held


def _registers(reader: DumpReader) -> list[Note]:
    return [note for note in reader.notes if note.name == b"CORE" and note.type == NT_PRSTATUS]


def _unequal(first: Note, second: Note) -> bool:
    return first.size != second.size or first.desc(MAX_SIZE) != second.desc(MAX_SIZE)


def _decode_job(reader: DumpReader) -> DecodeJob:
    sources = tuple(source.worker_view() for source in reader.sources)
    job = DecodeJob(os.urandom(16).hex(), sources, reader.machine.page_size, salvage=True, unit_pages=reader.unit_pages)
    job.register()
    return job


def compare(
    a: DumpReader, b: DumpReader, options: CompareOptions, *, progress: Callable[[int], object] = lambda done: None
) -> CompareReport:
    """Compare two opened dumps.

    Args:
        a, b: The dumps; format and container do not matter.
        options: See `CompareOptions`.
        progress: Called with bytes of pages compared since the last call.

    Raises:
        UsageError: Pages of different sizes.
        CorruptDump: A table does not have the frames that its page map promises.
        InputError: I/O.
        CodecUnavailable: No library.
    """
    if a.machine.page_size != b.machine.page_size:
        raise UsageError(
            f"pages of {a.machine.page_size} bytes cannot be compared with pages of {b.machine.page_size}",
            hint="if one is a guess, --page-size corrects it",
        )
    for reader in (a, b):
        for source in reader.sources:
            if source.is_stream:
                source.finish()  # both sides are read in an order that no stream can follow
        reader.finish_notes()
    report = _Comparison(a, b, options).run(progress)
    for source in (*a.files, *b.files):
        if text := source.changed():
            raise InputError(text, path=source.name)
    return report
