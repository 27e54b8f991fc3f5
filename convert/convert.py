# SPDX-License-Identifier: GPL-2.0-or-later
"""The conversion: plan, decode, write, prove; one function for every source format."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import __version__
from ..formats import codecs
from ..formats.arrays import unique
from ..formats.decode import Damage, DecodeJob, Task, TaskResult, run_task
from ..formats.digest import LEAF_PFNS, content_digest
from ..formats.errors import CorruptDump, DumpError, FixityError, OutputError, PageDecodeError
from ..formats.executor import ExecutorKind, make_executor, run
from ..formats.image import DumpImage
from ..formats.intervals import inside, union
from ..formats.notes import OUR_NAME, Note, build_note
from ..formats.pages import MemoryMap, MemoryMapBuilder, PageState
from ..formats.reader import DumpReader, Finding
from ..formats.rows import FileSink
from ..formats.statenote import (
    DIGEST_OFFSET,
    TYPE_PROVENANCE,
    TYPE_STATES,
    PageStates,
    build_provenance,
    build_state_notes,
    state_digest,
)
from ..formats.vaddr import AddressMap, derive, guess
from .canonical import OutputFile
from .layout import Layout, absent_runs, bridge_holes, plan
from .outside import check_fill, compare_duplicates
from .streaming import OutputImage, StreamWindow

__all__ = ["ConvertOptions", "ConvertReport", "convert"]

_MAX_TOLD = 10000  # damaged pages told one by one: a cut dump of 64 GiB loses millions
_PLAIN_TASK_PFNS = 8192  # frames of a task where no digest ties it to a leaf: 32 MiB of 4 KiB pages

Progress = Callable[[int], None]
U64 = NDArray[np.uint64]


class ConvertOptions(NamedTuple):
    """How to convert.

    Attributes:
        salvage: Decode twice: find damage, then write what is whole.
        digest: Compute the content digest.
        sync: fsync before the file gets its name.
        jobs, executor: How many workers, of which kind.
        batch_bytes: Bytes of pages that a worker decodes at a time.
        min_hole: Gaps shorter than this many frames are filled with zeros; 0: none is.
        elf64: ELFCLASS64 for 32-bit machines too.
    """

    salvage: bool = False
    digest: bool = True
    sync: bool = True
    jobs: int = 1
    executor: ExecutorKind = "auto"
    batch_bytes: int = 1 << 20
    min_hole: int = 0
    elf64: bool = False


@dataclass(slots=True)
class ConvertReport:
    """What was done.

    Attributes:
        pages: Frames by state name, and `zero` among the stored.
        filled: Frames that `min_hole` filled.
        file_size, bytes: Of the output; bytes of pages decoded.
        segments: PT_LOADs.
        content_digest, state_digest: Hexadecimal; the first is None where it was not computed.
        addresses: Where p_vaddr comes from.
        findings: Remarks.
        damage: The first 10000 frames lost to damage (salvage); nr_damaged: how many there are.
        incomplete: e_flags bit 0 is set.
        fixity_lost: The source's recorded content digest is not that of its memory (salvage).
    """

    pages: dict[str, int] = field(default_factory=dict)
    filled: int = 0
    file_size: int = 0
    bytes: int = 0
    segments: int = 0
    content_digest: str | None = None
    state_digest: str = ""
    addresses: str = ""
    findings: list[Finding] = field(default_factory=list)
    damage: list[Damage] = field(default_factory=list)
    nr_damaged: int = 0
    incomplete: bool = False
    fixity_lost: bool = False


def page_tasks(
    reader: DumpReader,
    memory_map: MemoryMap,
    layout: Layout | None,
    *,
    step: int,
    window: StreamWindow | None = None,
) -> Iterator[Task]:
    """Yield tasks that cover the STORED frames of `memory_map` exactly, none crossing a multiple of `step`.

    Raises:
        DumpError: The reader's tables end early, or do not have the frames that its map promises.
    """
    start, end = memory_map.only(PageState.STORED)
    width = np.uint64(step)
    cells = union(start // width, (end - np.uint64(1)) // width + np.uint64(1))
    index = 0
    for first, last in zip(cells[0].tolist(), cells[1].tolist(), strict=True):
        for cell in range(first, last):
            low, high = cell * step, (cell + 1) * step
            wanted = memory_map.slice(low, high)
            extents = _wanted(reader.extents(low, high), wanted, low, reader.machine.page_size)
            if window is not None:
                if not window.arrived(extents):  # the end came: now the tables know what lies past it
                    extents = _wanted(reader.extents(low, high), wanted, low, reader.machine.page_size)
                window.begin(index, extents)
            yield Task(index, extents, layout.out_runs(low, high) if layout is not None else None)
            index += 1


def _clip_raw(extents: NDArray[Any], start: U64, end: U64, page_size: int) -> NDArray[Any]:
    # What lies uncompressed may have lost single frames: cut such extents at the edges of the runs.
    first = extents["start_pfn"]
    last = first + extents["nr_pages"]
    low = np.searchsorted(end, first, side="right")
    whole = low < len(start)
    whole[whole] = (start[low[whole]] <= first[whole]) & (end[low[whole]] >= last[whole])
    cut = ~whole & (extents["nr_pages"] > 1) & ((extents["codec"] == codecs.RAW) | (extents["codec"] == codecs.ZERO))
    if not cut.any():
        return extents
    low, high = low[cut], np.searchsorted(start, last[cut], side="left")
    count = np.maximum(high - low, 0)
    rows = np.repeat(extents[cut], count)
    run = np.repeat(low, count) + np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count)
    begin = np.maximum(rows["start_pfn"], start[run])
    pages = np.minimum(rows["start_pfn"] + rows["nr_pages"], end[run]) - begin
    raw = rows["codec"] == codecs.RAW
    rows["offset"][raw] += ((begin - rows["start_pfn"]) * np.uint64(page_size))[raw]
    rows["start_pfn"], rows["nr_pages"], rows["stored_size"] = begin, pages, pages * np.uint64(page_size)
    table = np.concatenate([extents[~cut], rows])
    return table[np.lexsort((table["page_offset"], table["start_pfn"]))]


def _wanted(extents: NDArray[Any], memory_map: MemoryMap, start_pfn: int, page_size: int) -> NDArray[Any]:
    # only what the map still calls STORED (salvage took frames out); and all of that
    start, end = memory_map.only(PageState.STORED)
    extents = _clip_raw(extents, start, end, page_size)
    wanted = inside(start, end, extents["start_pfn"])
    if not wanted.all():
        extents = extents[wanted]
    new = np.ones(len(extents), bool)
    new[1:] = extents["start_pfn"][1:] != extents["start_pfn"][:-1]
    have, want = int(extents["nr_pages"][new].sum()), int((end - start).sum())
    if have != want:
        raise CorruptDump(f"the tables have {have} pages where the page map has {want}", pfn=start_pfn)
    return extents


def convert(
    reader: DumpReader,
    out: str | None,
    options: ConvertOptions,
    *,
    progress: Progress = lambda done: None,
    stream: BinaryIO | None = None,
) -> ConvertReport:
    """Convert one opened dump.

    Args:
        reader: The source.
        out: Name of the output, None for `stream`.
        options: See `ConvertOptions`.
        progress: Called with bytes of pages decoded since the last call.
        stream: Where the file goes, front to back, when `out` is None. Its digest fields are flagged absent.

    Raises:
        DumpError: By the kind of trouble; no output is left.
    """
    return _Conversion(reader, options, progress).run(out, stream)


class _Conversion:
    def __init__(self, reader: DumpReader, options: ConvertOptions, progress: Progress) -> None:
        self._reader = reader
        self._options = options
        self._progress = progress
        self._report = ConvertReport(findings=reader.findings)
        self._map = reader.memory_map
        self._fill = (np.empty(0, np.uint64), np.empty(0, np.uint64))
        streamed = reader.sources[0].is_stream and len(reader.sources) == 1 and not options.salvage
        streamed = streamed and not len(reader.fill_runs[0])  # what is filled in is checked beforehand
        self._window = StreamWindow(reader) if streamed else None
        if not streamed:
            for source in reader.sources:
                source.finish()  # several streams at once have no common order

    def run(self, out: str | None, stream: BinaryIO | None) -> ConvertReport:
        if self._reader.damage is not None and not self._options.salvage:
            raise self._reader.damage
        self._check_fill()
        if self._options.salvage:
            self._find_damage()
        if out is not None and self._window is not None:
            self._write_file(self._plan(guess(self._reader)), None, out)
            return self._report
        self._reader.finish_notes()
        addresses = derive(self._reader, DumpImage(self._reader))
        layout = self._plan(addresses)
        if out is None:
            if stream is None:
                raise OutputError("no output given")
            if self._window is None:
                self._check_tables()
            self._write_stream(layout, stream)
            self._finish_report(layout, addresses)
        else:
            self._write_file(layout, addresses, out)
        return self._report

    # -- planning ------------------------------------------------------------------------------------------------

    def _check_tables(self) -> None:
        # Before the first byte goes down a pipe: all that the tables can tell.
        for task in page_tasks(self._reader, self._map, None, step=LEAF_PFNS):
            bad = task.extents[task.extents["codec"] == codecs.BAD]
            if len(bad):
                _, text, _ = codecs.REASONS[int(bad[0]["page_offset"])]
                offset, size = int(bad[0]["offset"]), int(bad[0]["stored_size"])
                raise PageDecodeError(
                    text.format(offset=offset, size=size),
                    path=self._reader.sources[int(bad[0]["file"])].name,
                    offset=offset,
                    pfn=int(bad[0]["start_pfn"]),
                    hint="use --salvage for the other pages",
                )

    def _check_fill(self) -> None:
        try:
            check_fill(self._reader)
        except CorruptDump as error:
            if not self._options.salvage:
                raise
            self._reader.damage = self._reader.damage or error

    def _find_damage(self) -> None:
        job = self._job(None, salvage=True)
        builder = MemoryMapBuilder()
        for result in self._run(job, page_tasks(self._reader, self._map, None, step=_PLAIN_TASK_PFNS)):
            found = sorted(result.damage, key=lambda damage: damage.pfn)
            self._report.nr_damaged += len(found)
            self._report.damage += found[: max(0, _MAX_TOLD - len(self._report.damage))]
            pfns = np.array([each.pfn for each in found], np.uint64)
            builder.add(pfns, pfns + np.uint64(1), np.array([each.state for each in found], np.uint8))
        self._map = self._map.overlay(builder.build())

    def _plan(self, addresses: AddressMap) -> Layout:
        reader, options = self._reader, self._options
        runs = self._map.only(PageState.STORED)
        if options.min_hole:
            runs, self._fill = bridge_holes(*runs, options.min_hole)
        elif len(reader.fill_runs[0]):
            self._fill = reader.fill_runs
            runs = union(np.concatenate([runs[0], self._fill[0]]), np.concatenate([runs[1], self._fill[1]]))
        lost = self._map.count(PageState.LOST) + self._map.count(PageState.DAMAGED)
        incomplete = reader.incomplete or bool(lost)
        self._report.incomplete = incomplete
        states = PageStates(absent_runs(self._map), self._fill, reader.partial, reader.machine.page_shift)
        states.state_digest = state_digest(self._map, reader.machine.page_size)
        self._report.state_digest = states.state_digest.hex()
        recorded = reader.recorded_state_digest
        if recorded is not None and recorded != states.state_digest and not options.salvage:
            raise FixityError(
                f"the page states' digest is {states.state_digest.hex()}, the file's own note says {recorded.hex()}",
                path=reader.sources[0].name,
                hint="the file changed since it was made; use --salvage to convert it all the same",
            )
        notes = [*reader.notes, *build_state_notes(states), self._provenance()]
        return plan(reader.machine, runs, notes, addresses, e_flags=int(incomplete), force_elf64=options.elf64)

    def _provenance(self) -> Note:
        reader = self._reader
        if reader.provenance is not None:
            return build_note(OUR_NAME, TYPE_PROVENANCE, reader.provenance)
        return build_provenance(
            {
                "dumpconv": __version__,
                "format": reader.name,
                "source": reader.facts,
                "findings": [finding.code for finding in reader.findings],
                "salvaged": self._report.nr_damaged,
            }
        )

    # -- decoding ------------------------------------------------------------------------------------------------

    def _job(self, sink: FileSink | None, **options: bool) -> DecodeJob:
        reader = self._reader
        job = DecodeJob(
            os.urandom(16).hex(),
            tuple(source.worker_view() for source in reader.sources),
            reader.machine.page_size,
            sink=sink,
            unit_pages=reader.unit_pages,
            batch_bytes=self._options.batch_bytes,
            **options,
        )
        job.register()
        return job

    def _run(self, job: DecodeJob, tasks: Iterator[Task]) -> Iterator[TaskResult]:
        options = self._options
        size = self._map.count(PageState.STORED) * job.page_size
        try:
            with make_executor(options.executor, options.jobs, size) as executor:
                for _, result in run(executor, run_task, job, tasks, window=2 * options.jobs):
                    self._progress(result.nr_pages * job.page_size)
                    yield result
                    if self._window is not None:
                        self._window.end(result.index)
        finally:
            job.forget()

    # -- writing -------------------------------------------------------------------------------------------------

    def _write_file(self, layout: Layout, addresses: AddressMap | None, out: str) -> None:
        digest = self._options.digest
        with OutputFile(out) as file:
            if addresses is not None:
                file.write_headers(layout)
            file.resize(layout.file_size)
            job = self._job(file.sink, digest=digest)
            step = LEAF_PFNS if digest else _PLAIN_TASK_PFNS
            leaves = []
            for result in self._run(job, self._tasks(layout, step)):
                self._count(result)
                if result.leaf is not None:
                    leaves.append((result.first_pfn // LEAF_PFNS, result.leaf))
            compare_duplicates(self._reader)
            if addresses is None:
                layout, addresses = self._settle(file, layout)
            if digest:
                self._patch_digest(file, layout, content_digest(self._reader.machine.page_size, leaves))
            file.commit(sync=self._options.sync)
        self._finish_report(layout, addresses)

    def _tasks(self, layout: Layout, step: int) -> Iterator[Task]:
        return page_tasks(self._reader, self._map, layout, step=step, window=self._window)

    def _finish_stream(self) -> None:
        # the end of the stream may say that it was cut off, and bring the erase info
        for source in self._reader.sources:
            source.finish()
            if source.damage is not None:
                raise source.damage
        self._reader.finish_notes()

    def _settle(self, file: OutputFile, written: Layout) -> tuple[Layout, AddressMap]:
        # One pass: pages were written before page tables and erase info could be read. Plan again, and where
        # the headers need another number of blocks than was guessed, move the pages.
        self._finish_stream()
        addresses = derive(self._reader, OutputImage(file.fileno(), written, self._map))
        layout = self._plan(addresses)
        if layout.data_start != written.data_start:
            file.shift(written.data_start, layout.data_start, layout.file_size - layout.data_start)
        file.write_headers(layout)
        return layout, addresses

    def _patch_digest(self, file: OutputFile, layout: Layout, digest: bytes) -> None:
        recorded = self._reader.recorded_digest
        if recorded is not None and recorded != digest and self._options.salvage:
            self._report.fixity_lost = True
            self._reader.remark("digest-differs", f"the source's note has content digest {recorded.hex()}")
        elif recorded is not None and recorded != digest:
            raise FixityError(
                f"the memory's content digest is {digest.hex()}, the file's own note says {recorded.hex()}",
                path=self._reader.sources[0].name,
                hint="the file changed since it was made; use --salvage to convert it all the same",
            )
        self._report.content_digest = digest.hex()
        for note, offset in layout.note_offsets():
            if note.name == OUR_NAME and note.type == TYPE_STATES:
                file.write((1).to_bytes(4, "little") + digest, offset + DIGEST_OFFSET)

    def _write_stream(self, layout: Layout, stream: BinaryIO) -> None:
        at = 0
        try:
            for chunk in layout.header_chunks():
                stream.write(chunk)
                at += len(chunk)
            tasks = self._tasks(layout, max(1, (8 << 20) // layout.machine.page_size))
            waiting: dict[int, Task] = {}
            for result in self._run(self._job(None, payload=True), _remember(tasks, waiting)):
                self._count(result)
                at = self._send(stream, layout, waiting.pop(result.index), result.payload or b"", at)
            compare_duplicates(self._reader)
            if self._window is not None:
                had = len(self._reader.notes)
                self._finish_stream()
                if len(self._reader.notes) != had:
                    self._reader.remark("late-notes", "erase info came after the notes were sent: it is not in them")
            stream.write(bytes(layout.file_size - at))
            stream.flush()
        except BrokenPipeError as error:
            raise OutputError("the reader of our output went away", path="<stdout>") from error
        except OSError as error:
            raise OutputError(f"cannot write: {error.strerror}", path="<stdout>") from error
        except DumpError as error:
            if at:
                error.hint = "what was sent is unusable"
            raise

    def _send(self, stream: BinaryIO, layout: Layout, task: Task, payload: bytes, at: int) -> int:
        # fill runs lie between the frames of a task: send their zeros when the file offset jumps
        size = layout.machine.page_size
        table = task.extents
        first = table["start_pfn"]
        new = np.ones(len(table), bool)
        new[1:] = first[1:] != first[:-1]
        runs = union(first[new], first[new] + table["nr_pages"][new])
        done = 0
        for low, high in zip(runs[0].tolist(), runs[1].tolist(), strict=True):
            offset = layout.offset_of(low)
            if offset is None or offset < at:
                raise OutputError(f"page {low:#x} has no place in the output")
            stream.write(bytes(offset - at))
            count = (high - low) * size
            stream.write(payload[done : done + count])
            done, at = done + count, offset + count
        return at

    def _count(self, result: TaskResult) -> None:
        pages = self._report.pages
        pages["zero"] = pages.get("zero", 0) + result.nr_zero
        self._report.bytes += result.nr_pages * self._reader.machine.page_size

    def _finish_report(self, layout: Layout, addresses: AddressMap) -> None:
        report = self._report
        for state in (PageState.STORED, PageState.EXCLUDED, PageState.LOST, PageState.DAMAGED):
            report.pages[state.name.lower()] = self._map.count(state)
        for source in self._reader.sources:
            for note in source.notes:
                self._reader.remark("source", note)
        report.pages["partial"] = len(unique(self._reader.partial[:, 0]))
        report.filled = int((self._fill[1] - self._fill[0]).sum())
        report.file_size = layout.file_size
        report.segments = layout.nr_headers - 1
        report.addresses = f"{addresses.origin}: {addresses.how}"
        if layout.nr_headers >= 0xFFFF:
            self._reader.remark(
                "many-segments",
                f"{layout.nr_headers} program headers (PN_XNUM): crash and libkdumpfile search them one by one, "
                "volatility reads none; --holes min-run=N fills short gaps",
            )


def _remember(tasks: Iterator[Task], waiting: dict[int, Task]) -> Iterator[Task]:
    for task in tasks:
        waiting[task.index] = task
        yield task
