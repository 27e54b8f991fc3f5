# SPDX-License-Identifier: GPL-2.0-or-later
"""The conversion: plan, decode, write, prove; one function for every source format."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import __version__
from ..formats import codecs
from ..formats.arrays import unique
from ..formats.cluster import Cluster, local_choice
from ..formats.decode import Damage, DecodeJob, Encoder, Task, TaskResult, run_task
from ..formats.digest import LEAF_PFNS, content_digest
from ..formats.errors import CorruptDump, DumpError, FixityError, OutputError, PageDecodeError
from ..formats.executor import ExecutorChoice, make_executor, run
from ..formats.image import DumpImage, MemoryImage
from ..formats.intervals import union
from ..formats.kernel_maps import kernel_mappings
from ..formats.notes import OUR_NAME, Note, build_note
from ..formats.pages import MemoryMapBuilder, PageState
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
from ..formats.tasks import page_tasks
from ..formats.vaddr import AddressMap, derive, guess
from ..formats.window import StreamWindow
from .canonical import OutputFile
from .facts import knows_phys_base, system_facts
from .layout import ElfOutput, absent_runs, bridge_holes
from .output import Contents, EncodedPlan, OutputFormat, Piece, PlacedPlan, Placer, Plan, file_names
from .outside import check_at_end, check_fill
from .returned import MOST_RETURNED, RETURNED_BYTES, hashing, remember, shared_sink, write_returned
from .streaming import OutputImage, held_twice
from .writing import FileStream, FlatStream, PeekIterator, PlainStream, Scratch, StreamWriter, stream_errors

__all__ = ["ConvertOptions", "ConvertReport", "Hooks", "convert"]

_MAX_TOLD = 10000  # damaged pages told one by one: a cut dump of 64 GiB loses millions
_PLAIN_TASK_PFNS = 8192  # frames of a task where no digest ties it to a leaf: 32 MiB of 4 KiB pages

Progress = Callable[[int], object]
Leaves = list[tuple[int, bytes]]


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
        output: Format of the output.
    """

    salvage: bool = False
    digest: bool = True
    sync: bool = True
    jobs: int = 1
    executor: ExecutorChoice = "auto"
    batch_bytes: int = 1 << 20
    min_hole: int = 0
    elf64: bool = False
    output: OutputFormat = ElfOutput()


@dataclass(slots=True)
class ConvertReport:
    """What was done.

    Attributes:
        pages: Frames by state name, and `zero` among the stored.
        filled: Frames that `min_hole` filled.
        file_size, bytes: Of the output; bytes of pages decoded.
        output, files: Name of its format, and the names of its files; none where it went to a pipe.
        segments: PT_LOADs, or ranges of other formats; 0 where it has none.
        content_digest, state_digest: Hexadecimal; the first is None where it was not computed.
        addresses: Where p_vaddr comes from; empty where the output has none.
        findings: Remarks.
        damage: The first 10000 frames lost to damage (salvage); nr_damaged: how many there are.
        incomplete: e_flags bit 0 is set.
        leaves: (number, digest) of the leaves of the content digest.
        fixity_lost: The source's recorded content digest is not that of its memory (salvage).
    """

    output: str = "elf"
    files: list[str] = field(default_factory=list)
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
    leaves: Leaves = field(default_factory=list)


class Hooks(NamedTuple):
    """Who else wants to know.

    Attributes:
        seen: Told the extents that each task is about to read: see `page_tasks`.
        written: Called when all is written, before any file has its name, with the names that they have now. What it
            raises ends the job, and no output is left.
    """

    seen: Callable[[NDArray[Any]], None] = lambda extents: None
    written: Callable[[list[str], ConvertReport], None] = lambda names, report: None


def convert(
    reader: DumpReader,
    out: str | None,
    options: ConvertOptions,
    *,
    progress: Progress = lambda done: None,
    stream: BinaryIO | None = None,
    hooks: Hooks | None = None,
) -> ConvertReport:
    """Convert one opened dump.

    Args:
        reader: The source.
        out: Name of the output, None for `stream`; of a split set the names are OUT.1, OUT.2 and so on.
        options: See `ConvertOptions`.
        progress: Called with bytes of pages decoded since the last call.
        stream: Where the file goes, front to back, when `out` is None. Its digest fields are flagged absent.
        hooks: Who else wants to know; see `Hooks`.

    Raises:
        DumpError: By the kind of trouble; no output is left.
    """
    return _Conversion(reader, options, progress, hooks or Hooks()).run(out, stream)


class _Conversion:
    def __init__(self, reader: DumpReader, options: ConvertOptions, progress: Progress, hooks: Hooks) -> None:
        self._reader = reader
        self._hooks = hooks
        executor, jobs, alone = local_choice(options.executor, options.jobs, reader.sources)
        if alone:
            reader.remark(
                "cluster", "the source is a stream, or this machine's memory: no worker of the cluster sees it"
            )
        self._options = options = options._replace(executor=executor, jobs=jobs)
        self._format = options.output
        self._progress = progress
        self._report = ConvertReport(output=options.output.name, findings=reader.findings)
        self._map = reader.memory_map
        self._quirks: Counter[str] = Counter()
        self._fill = (np.empty(0, np.uint64), np.empty(0, np.uint64))
        self._losses: list[Finding] = []
        streamed = reader.sources[0].is_stream and len(reader.sources) == 1 and not options.salvage
        # a reader that had to see all of it may have its pages in any order: nothing is released then
        streamed = streamed and not reader.scanned
        streamed = streamed and not len(reader.fill_runs[0])  # what is filled in is checked beforehand
        if self._format.needs_phys_base and not knows_phys_base(reader):
            streamed = False
        self._window = StreamWindow(reader.sources[0], held_twice(reader)) if streamed else None
        if not streamed:
            for source in reader.sources:
                source.finish()  # several streams at once have no common order

    def run(self, out: str | None, stream: BinaryIO | None) -> ConvertReport:
        if self._reader.damage is not None and not self._options.salvage:
            raise self._reader.damage
        self._check_fill()
        if self._options.salvage:
            self._find_damage()
        late = self._format.late_headers
        if self._window is not None and (out is not None or not late):
            # page tables lie in the pages: what the headers say of addresses is a guess, or not needed
            addresses, image = guess(self._reader), None
        else:
            self._reader.finish_notes()
            image = DumpImage(self._reader)
            addresses = derive(self._reader, image)
        plan = self._plan(addresses, image)
        self._report.files = [] if out is None else file_names(out, self._format.nr_files)
        if out is None:
            self._write_pipe(plan, stream)
        elif self._format.flattened:
            with OutputFile(out) as file:
                writer = FlatStream(FileStream(file))
                self._write_stream(plan, writer)
                self._report.file_size = writer.sent
                file.commit(sync=self._options.sync)
        elif isinstance(plan, EncodedPlan):
            self._write_encoded(plan, self._report.files)
        else:
            plan, addresses = self._write_placed(plan, addresses, out)
        self._finish_report(plan, addresses if late or image is not None else None)
        return self._report

    # -- planning ------------------------------------------------------------------------------------------------

    def _check_tables(self) -> None:
        # Before the first byte goes down a pipe: all that the tables can tell.
        for task in page_tasks(self._reader, self._map, step=LEAF_PFNS):
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
        for result in self._run(job, page_tasks(self._reader, self._map, step=_PLAIN_TASK_PFNS)):
            found = sorted(result.damage, key=lambda damage: damage.pfn)
            self._report.nr_damaged += len(found)
            self._report.damage += found[: max(0, _MAX_TOLD - len(self._report.damage))]
            pfns = np.array([each.pfn for each in found], np.uint64)
            builder.add(pfns, pfns + np.uint64(1), np.array([each.state for each in found], np.uint8))
        self._map = self._map.overlay(builder.build())

    def _plan(self, addresses: AddressMap, image: MemoryImage | None) -> PlacedPlan | EncodedPlan:
        reader, options = self._reader, self._options
        runs = self._map.only(PageState.STORED)
        if options.min_hole and self._format.bridges:
            runs, self._fill = bridge_holes(*runs, options.min_hole)
        elif len(reader.fill_runs[0]) and self._format.bridges:
            self._fill = reader.fill_runs
            runs = union(np.concatenate([runs[0], self._fill[0]]), np.concatenate([runs[1], self._fill[1]]))
        lost = self._map.count(PageState.LOST) + self._map.count(PageState.DAMAGED)
        incomplete = reader.incomplete or bool(lost)
        self._report.incomplete = incomplete
        contents = Contents(
            reader.machine,
            self._map,
            runs,
            list(reader.notes),
            [*build_state_notes(self._states()), self._provenance()],
            incomplete,
            addresses,
            system_facts(reader, image, addresses),
            options.elf64,
            kernel_mappings(reader, image, addresses) if image is not None and self._format.maps_kernel else (),
        )
        plan = self._format.plan(contents)
        self._losses = list(self._format.losses(contents))
        return plan

    def _states(self) -> PageStates:
        reader = self._reader
        states = PageStates(absent_runs(self._map), self._fill, reader.partial, reader.machine.page_shift)
        states.state_digest = state_digest(self._map, reader.machine.page_size)
        self._report.state_digest = states.state_digest.hex()
        recorded = reader.recorded_state_digest
        if recorded is not None and recorded != states.state_digest and not self._options.salvage:
            raise FixityError(
                f"the page states' digest is {states.state_digest.hex()}, the file's own note says {recorded.hex()}",
                path=reader.sources[0].name,
                hint="the file changed since it was made; use --salvage to convert it all the same",
            )
        return states

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

    def _job(self, sink: FileSink | None, encoder: Encoder | None = None, **options: bool) -> DecodeJob:
        reader = self._reader
        job = DecodeJob(
            os.urandom(16).hex(),
            tuple(source.worker_view() for source in reader.sources),
            reader.machine.page_size,
            sink=sink,
            encoder=encoder,
            unit_pages=reader.unit_pages,
            batch_bytes=self._options.batch_bytes,
            **options,
        )
        job.register()
        return job

    @property
    def _at_once(self) -> int:
        # tasks under way or waiting for their turn
        return 2 * self._options.jobs

    def _run(self, job: DecodeJob, tasks: Iterator[Task], most: int | None = None) -> Iterator[TaskResult]:
        options, window = self._options, self._at_once if most is None else max(2, min(most, self._at_once))
        size = self._map.count(PageState.STORED) * job.page_size
        try:
            with make_executor(options.executor, options.jobs, size) as executor:
                for _, result in run(executor, run_task, job, tasks, window=window):
                    self._progress(result.nr_pages * job.page_size)
                    yield result
                    if self._window is not None:
                        self._window.end(result.index)
        finally:
            job.forget()

    def _tasks(self, layout: PlacedPlan | None, step: int) -> Iterator[Task]:
        out = layout.out_runs if layout is not None else None
        return page_tasks(self._reader, self._map, step=step, out=out, window=self._window, seen=self._hooks.seen)

    @property
    def _step(self) -> int:
        return LEAF_PFNS if self._options.digest else _PLAIN_TASK_PFNS

    # -- writing files -------------------------------------------------------------------------------------------

    def _write_placed(self, plan: PlacedPlan, addresses: AddressMap, out: str) -> tuple[PlacedPlan, AddressMap]:
        late = self._window is not None and self._format.late_headers
        with OutputFile(out) as file:
            if not late:
                file.write_pieces(plan.pieces())
            file.resize(plan.file_size)
            leaves = self._collect(self._placed(file, plan))
            check_at_end(self._reader)
            if self._window is not None:
                self._finish_stream()
            if late:
                plan, addresses = self._settle(file, plan)
            self._record_digest([file], plan, leaves)
            self._report.file_size = plan.file_size
            self._hooks.written([file.temporary], self._report)
            file.commit(sync=self._options.sync)
        return plan, addresses

    def _placed(self, file: OutputFile, plan: PlacedPlan) -> Iterator[TaskResult]:
        # Workers write the pages at their places. Those of a cluster may not see the file: then they return them.
        if isinstance(self._options.executor, Cluster):
            with shared_sink(file, plan.file_size) as sink:
                blind = self._options.executor.unable(sink)
                if not blind:
                    yield from self._run(self._job(sink, digest=self._options.digest), self._tasks(plan, self._step))
                    return
            worker, why = next(iter(blind.items()))
            self._reader.remark("cluster", f"{len(blind)} workers return pages, {worker} for one: {why}")
            waiting: dict[int, Task] = {}
            tasks = remember(self._tasks(plan, RETURNED_BYTES // plan.machine.page_size), waiting)
            results = self._run(self._job(None, payload=True), tasks, most=MOST_RETURNED // RETURNED_BYTES)
            yield from write_returned(results, waiting, file, plan.machine.page_size, digest=self._options.digest)
            return
        yield from self._run(self._job(file.sink, digest=self._options.digest), self._tasks(plan, self._step))

    def _collect(self, results: Iterator[TaskResult]) -> list[tuple[int, bytes]]:
        leaves = self._report.leaves
        leaves.clear()
        for result in results:
            self._count(result)
            if result.leaf is not None:
                leaves.append((result.first_pfn // LEAF_PFNS, result.leaf))
        return leaves

    def _settle(self, file: OutputFile, written: PlacedPlan) -> tuple[PlacedPlan, AddressMap]:
        # One pass: pages were written before page tables and erase info could be read. Plan again, and where
        # the headers need another number of blocks than was guessed, move the pages.
        image = OutputImage(file.fileno(), written, self._map)
        addresses = derive(self._reader, image)
        plan = self._plan(addresses, image)
        if isinstance(plan, EncodedPlan):
            raise OutputError("the format has no places for pages")
        if plan.data_start != written.data_start:
            file.shift(written.data_start, plan.data_start, plan.file_size - plan.data_start)
        file.write_pieces(plan.pieces())
        return plan, addresses

    def _write_encoded(self, plan: EncodedPlan, names: list[str]) -> None:
        # Workers encode into scratch space, the parent copies each task's bytes to their place, in task order.
        placer = plan.placer()
        with ExitStack() as stack:
            files = [stack.enter_context(OutputFile(name)) for name in names]
            for piece in plan.pieces():
                files[piece.file].write(piece.data, piece.offset)
            folder = os.path.dirname(os.path.abspath(names[0]))
            scratch = stack.enter_context(closing(Scratch(folder, self._at_once, self._step * plan.max_page_size)))
            if isinstance(self._options.executor, Cluster):
                results = self._encoded_elsewhere(self._options.executor, plan)
            else:
                job = self._job(scratch.sink, plan.encoder, digest=self._options.digest)
                tasks = (replace(task, scratch=scratch.place(task.index)) for task in self._tasks(None, self._step))
                results = self._run(job, tasks)
            leaves = self._collect(self._place(placer, files, scratch, results))
            check_at_end(self._reader)
            if self._window is not None:
                self._finish_stream()
            for piece in placer.finish(self._reader.notes):
                files[piece.file].write(piece.data, piece.offset)
            self._record_digest(files, plan, leaves)
            sizes = placer.file_sizes()
            for file, size in zip(files, sizes, strict=True):
                file.resize(size)
            self._report.file_size = sum(sizes)
            self._hooks.written([file.temporary for file in files], self._report)
            for file in files:
                file.commit(sync=self._options.sync)

    def _encoded_elsewhere(self, cluster: Cluster, plan: EncodedPlan) -> Iterator[TaskResult]:
        # a cluster reaches no scratch file: what it encodes comes back, in parts that are less than a leaf
        step = RETURNED_BYTES // plan.machine.page_size
        most, job = MOST_RETURNED // (step * plan.max_page_size), self._job(None, plan.encoder, payload=True)
        leaves = page_tasks(self._reader, self._map, step=LEAF_PFNS) if self._options.digest else None
        with hashing(cluster, self._job(None, digest=True), leaves, min(most, self._at_once)) as beside:
            yield from self._run(job, beside.beside(self._tasks(None, step)), most)
            yield from beside.results()

    @staticmethod
    def _place(
        placer: Placer, files: list[OutputFile], scratch: Scratch, results: Iterator[TaskResult]
    ) -> Iterator[TaskResult]:
        for result in results:
            for each in placer.place(result.rows, result.size) if result.nr_pages else ():
                if isinstance(each, Piece):
                    files[each.file].write(each.data, each.offset)
                elif result.payload is not None:
                    files[each.file].write(result.payload[each.low : each.high], each.offset)
                else:
                    scratch.move(result.index, each.low, each.high, files[each.file], each.offset)
            scratch.free(result.index, result.size if result.payload is None else 0)
            yield result

    def _finish_stream(self) -> None:
        # the end of the stream may say that it was cut off, and bring the erase info
        for source in self._reader.sources:
            source.finish()
            if source.damage is not None:
                raise source.damage
        self._reader.finish_notes()

    def _record_digest(self, files: list[OutputFile], plan: Plan, leaves: list[tuple[int, bytes]]) -> None:
        if not self._options.digest:
            return
        digest = content_digest(self._reader.machine.page_size, leaves)
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
        for note, file, offset in plan.note_offsets():
            if note.name == OUR_NAME and note.type == TYPE_STATES:
                files[file].write((1).to_bytes(4, "little") + digest, offset + DIGEST_OFFSET)

    # -- writing streams -----------------------------------------------------------------------------------------

    def _write_pipe(self, plan: PlacedPlan | EncodedPlan, stream: BinaryIO | None) -> None:
        if stream is None:
            raise OutputError("no output given")
        if self._window is None:
            self._check_tables()
        with stream_errors("<stdout>"):
            writer = FlatStream(stream) if self._format.flattened else PlainStream(stream)
            try:
                self._write_stream(plan, writer)
            except DumpError as error:
                if writer.sent:
                    error.hint = "what was sent is unusable"
                raise
        self._report.file_size = writer.sent

    def _write_stream(self, plan: PlacedPlan | EncodedPlan, writer: StreamWriter) -> None:
        # Workers return their bytes; no digest, since a leaf of pages is more than is kept in memory.
        step = max(1, (8 << 20) // plan.machine.page_size)
        if isinstance(plan, EncodedPlan):
            self._stream_encoded(plan, writer, step)
        else:
            self._stream_placed(plan, writer, step)

    def _stream_placed(self, plan: PlacedPlan, writer: StreamWriter, step: int) -> None:
        pieces = PeekIterator(plan.pieces())
        waiting: dict[int, Task] = {}
        for result in self._run(self._job(None, payload=True), remember(self._tasks(plan, step), waiting), 64):
            self._count(result)
            self._send(writer, plan, pieces, waiting.pop(result.index), result.payload or b"")
        for piece in pieces.until(plan.file_size):
            writer.put(piece.offset, piece.data)
        check_at_end(self._reader)
        if self._window is not None:
            had = len(self._reader.notes)
            self._finish_stream()
            if len(self._reader.notes) != had and self._format.late_headers:
                self._reader.remark("late-notes", "erase info came after the notes were sent: it is not in them")
        writer.finish(plan.file_size)

    def _send(self, writer: StreamWriter, plan: PlacedPlan, pieces: PeekIterator, task: Task, payload: bytes) -> None:
        # headers and fill runs lie between the frames of a task: they come first
        size = plan.machine.page_size
        table = task.extents
        first = table["start_pfn"]
        new = np.ones(len(table), bool)
        new[1:] = first[1:] != first[:-1]
        runs = union(first[new], first[new] + table["nr_pages"][new])
        done = 0
        for low, high in zip(runs[0].tolist(), runs[1].tolist(), strict=True):
            offset = plan.offset_of(low)
            if offset is None:
                raise OutputError(f"page {low:#x} has no place in the output")
            for piece in pieces.until(offset):
                writer.put(piece.offset, piece.data)
            count = (high - low) * size
            writer.put(offset, payload[done : done + count])
            done += count

    def _stream_encoded(self, plan: EncodedPlan, writer: StreamWriter, step: int) -> None:
        placer = plan.placer()
        for piece in plan.pieces():
            writer.put(piece.offset, piece.data)
        job = self._job(None, plan.encoder, payload=True)
        for result in self._run(job, self._tasks(None, step), 64):
            self._count(result)
            payload = result.payload or b""
            for each in placer.place(result.rows, result.size):
                writer.put(each.offset, each.data if isinstance(each, Piece) else payload[each.low : each.high])
        check_at_end(self._reader)
        if self._window is not None:
            self._finish_stream()
        for piece in placer.finish(self._reader.notes):
            writer.put(piece.offset, piece.data)
        writer.finish(placer.file_sizes()[0])

    # -- the report ----------------------------------------------------------------------------------------------

    def _count(self, result: TaskResult) -> None:
        pages = self._report.pages
        pages["zero"] = pages.get("zero", 0) + result.nr_zero
        self._quirks.update(result.quirks)
        self._report.bytes += result.nr_pages * self._reader.machine.page_size

    def _finish_report(self, plan: Plan, addresses: AddressMap | None) -> None:
        report = self._report
        for finding in self._losses:
            self._reader.remark(finding.code, finding.message)
        for state in (PageState.STORED, PageState.EXCLUDED, PageState.LOST, PageState.DAMAGED):
            report.pages[state.name.lower()] = self._map.count(state)
        for source in self._reader.files:
            for note in source.notes:
                self._reader.remark("source", note)
        for code, count in sorted(self._quirks.items()):
            self._reader.remark(code, codecs.QUIRKS[code].format(count=count))
        report.pages["partial"] = len(unique(self._reader.partial[:, 0]))
        report.filled = int((self._fill[1] - self._fill[0]).sum())
        report.segments = plan.nr_segments
        if addresses is not None and self._format.late_headers:
            report.addresses = f"{addresses.origin}: {addresses.how}"
        if self._format.late_headers and plan.nr_segments >= 0xFFFE:
            self._reader.remark(
                "many-segments",
                f"{plan.nr_segments + 1} program headers (PN_XNUM): crash and libkdumpfile search them one by one, "
                "volatility reads none; --holes min-run=N fills short gaps",
            )
