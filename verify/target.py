# SPDX-License-Identifier: GPL-2.0-or-later
"""`dumpverify` of one dump: open it, go down the levels, say what was found. Never raises for what a file holds."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..formats import open_dump
from ..formats.errors import DumpError, UnknownFormat
from ..formats.intervals import union
from ..formats.open_source import is_packed
from ..formats.pages import MemoryMap, MemoryMapBuilder
from ..formats.reader import DumpReader, Options
from ..formats.source import ByteSource, FileSource
from ..formats.tasks import page_tasks
from ..formats.urls import as_name
from ..formats.window import StreamWindow
from .codes import CODES, code_of_error
from .display.picture import chart, draw
from .fixity import Fixity, FixityOptions, Leaves
from .manifest_write import Recorded
from .pagecheck import PageOptions, check_pages, compare_digests
from .structure import add_remarks, check_quick, check_structure
from .verdict import LEVELS, Level, TargetReport

_STEP = 2048  # frames of a stream that go by at a time

__all__ = ["BudgetReached", "VerifyOptions", "stamp", "tell_changes", "verify_target"]


class BudgetReached(Exception):
    """Raised by a `progress` callback to end the check of a dump there; its text names the limit."""


@dataclass(frozen=True)
class VerifyOptions:
    """How to verify.

    Attributes:
        level: Down to which.
        reading: How to open; salvage is implied.
        pages: How to decode.
        allowed: Finding codes that do not count.
        fixity: Digests of files to compute and to hold against a manifest, None for none.
        picture: Draw the memory with what is bad.
        chart: Make a map of the pages for a picture.
        debug: A bug of ours ends the run with its traceback.
    """

    level: Level = "pages"
    reading: Options = field(default_factory=Options)
    pages: PageOptions = field(default_factory=PageOptions)
    allowed: frozenset[str] = frozenset()
    fixity: FixityOptions | None = None
    picture: bool = False
    chart: bool = False
    debug: bool = False

    def reaches(self, level: Level) -> bool:
        """Whether the checks of a level are wanted."""
        return LEVELS.index(self.level) >= LEVELS.index(level)


def verify_target(
    paths: Sequence[str],
    options: VerifyOptions,
    progress: Callable[[int], object] = lambda done: None,
    *,
    in_directory: bool = False,
    sources: Sequence[ByteSource] | None = None,
    record: Callable[[Recorded], object] = lambda recorded: None,
) -> TargetReport:
    """Check one dump.

    Args:
        paths: Its files, or one member of a set.
        options: See `VerifyOptions`.
        progress: Called with bytes of pages decoded since the last call.
        in_directory: Found by walking a directory: a file of no known format is no error.
        sources: Of the files, where they are not files of their own.
        record: Given what a manifest says of the dump, where digests are computed.
    """
    paths = [as_name(path) for path in paths]
    run = _Run(paths, options, progress, in_directory=in_directory, record=record)
    again = options.picture or options.chart or options.level == "kernel"  # memory is looked at once more
    if sources is None and not again and all(map(_is_packed_file, paths)):
        report = run.check(None, once=True)
        if report is not None:
            return report
    report = run.check(sources, once=False)
    assert report is not None  # noqa: S101 - only `once` gives up
    return report


def _is_packed_file(path: str) -> bool:
    try:
        return os.path.isfile(path) and is_packed(path)
    except DumpError:
        return False  # said when it is opened


class _Run:
    # The check of one dump: of a stream in one pass, and once more with all of it kept if anything is wrong.

    def __init__(
        self,
        paths: Sequence[str],
        options: VerifyOptions,
        progress: Callable[[int], object],
        *,
        in_directory: bool,
        record: Callable[[Recorded], object],
    ) -> None:
        self._paths, self._options, self._progress = paths, options, progress
        self._in_directory, self._record = in_directory, record

    def check(self, sources: Sequence[ByteSource] | None, *, once: bool) -> TargetReport | None:
        """Return the report; None where `once` was not enough."""
        paths, options = self._paths, self._options
        begin, reached, trouble = time.monotonic(), False, False
        report = TargetReport(list(paths), options.level, allowed=options.allowed)
        before = stamp(paths)
        fixity = Fixity(options.fixity or FixityOptions())
        reader, leaves, window = None, Leaves(), None
        try:
            reading = options.reading._replace(salvage=True, once=once, tap=fixity.source.tap)
            reader = open_dump(paths, reading, opened=sources)
            window = _window(reader) if once else None
            report.files = [source.name for source in reader.files]
            report.places = [source.name if type(source) is FileSource else "" for source in reader.sources]
            before = {**stamp(report.files), **before}
            fixity.source.attach(reader.sources)
            leaves = _go_down(reader, report, options, self._progress, fixity, window)
        except BudgetReached as error:
            report.add("E153", f"{error} was reached after {report.bytes} bytes of its pages")
            reached = True
        except UnknownFormat as error:
            listed = self._in_directory and fixity.lists(paths[0])
            report.add("I307" if listed else "I301" if self._in_directory else "E154", error.message)
        except DumpError as error:
            report.add(code_of_error(error), error.message, offset=error.offset, pfn=error.pfn)
            trouble = reader is None or window is not None
        except OSError as error:
            report.add("E150", f"{error.filename or paths[0]}: {error.strerror or error}")
        if once and (trouble or (window is not None and _is_bad(reader, report))) and not reached:
            fixity.source.close()
            return None
        if options.fixity is not None and not reached:
            self._record(fixity.finish(report.files, reader, leaves, report))
        fixity.source.close()
        tell_changes(before, report)
        for source in () if reader is None else reader.files:
            if text := source.changed():
                report.add("E151", f"{source.name}: {text}")
        report.sizes = {path: was[1] for path, was in before.items()}
        report.seconds = time.monotonic() - begin
        return report


def _window(reader: DumpReader) -> StreamWindow | None:
    # of a stream that can be read once, front to back; any other is kept whole from here on
    source = reader.sources[0]
    if len(reader.sources) == 1 and source.is_stream and not reader.scanned and not len(reader.fill_runs[0]):
        place = [(note.offset, note.offset + note.size) for note in reader.notes if note.source is source]
        table = np.array(place, np.uint64).reshape(-1, 2)
        edge = np.uint64(1 << 12)  # the notes' headers are before them, and are looked at again
        return StreamWindow(source, union(table[:, 0] - np.minimum(table[:, 0], edge), table[:, 1]))
    for each in reader.sources:
        each.spool_whole()
    return None


def _is_bad(reader: DumpReader | None, report: TargetReport) -> bool:
    sources = () if reader is None else reader.sources
    damaged = reader is not None and reader.damage is not None
    found = any(CODES[each.code].exit_code == 3 for each in report.findings)
    return damaged or found or report.nr_bad > 0 or any(source.damage is not None for source in sources)


def _go_down(
    reader: DumpReader,
    report: TargetReport,
    options: VerifyOptions,
    progress: Callable[[int], object],
    fixity: Fixity,
    window: StreamWindow | None,
) -> Leaves:
    leaves = Leaves()
    if window is not None and options.reaches("structure"):  # what lies before and behind the pages stays
        leaves = _pass(reader, report, options, progress, fixity, window)
    check_quick(reader, report)
    try:
        if options.reaches("structure"):
            for source in reader.sources:
                source.finish()
            check_structure(reader, report)
            if reader.sources[0].size:
                from .canonical_rules import check_canonical

                check_canonical(reader, report)
        if options.reaches("pages") and window is None:
            report.ranges.clear()
            report.nr_bad = report.nr_ranges_left_out = 0
            leaves = _pass(reader, report, options, progress, fixity, window)
        if options.reaches("kernel"):
            from .kernelcheck import check_kernel

            check_kernel(reader, report)
        if options.picture:
            report.picture = draw(
                reader, os.path.basename(reader.sources[0].name), progress, _with_damage(reader, report)
            )
    finally:
        if options.chart:
            with contextlib.suppress(DumpError, OSError):  # what keeps the map from being made is a finding already
                report.chart = chart(reader, _with_damage(reader, report))
        add_remarks(reader, report)
    return leaves


def _pass(
    reader: DumpReader,
    report: TargetReport,
    options: VerifyOptions,
    progress: Callable[[int], object],
    fixity: Fixity,
    window: StreamWindow | None,
) -> Leaves:
    # over the pages: decode them, or let them go by
    if not options.reaches("pages"):
        assert window is not None  # noqa: S101 - only a stream has to go by
        for task in page_tasks(reader, reader.memory_map, step=_STEP, window=window):
            window.end(task.index)
        return Leaves()
    leaves = check_pages(reader, report, options.pages, progress, fixity.source.seen, window)
    compare_digests(reader, report)
    return leaves


def _with_damage(reader: DumpReader, report: TargetReport) -> MemoryMap:
    # the map with what did not decode; what the tables get wrong is drawn from them
    builder = MemoryMapBuilder()
    done = 0
    for bad in sorted(each for each in report.ranges if each.code in ("E103", "E144", "E150")):
        if bad.start_pfn < done:
            continue
        done = bad.end_pfn
        builder.add(
            np.array([bad.start_pfn], np.uint64), np.array([bad.end_pfn], np.uint64), np.array([bad.state], np.uint8)
        )
    return reader.memory_map.overlay(builder.build())


def stamp(paths: Sequence[str]) -> dict[str, tuple[int, int, int]]:
    """Return what changes when a file does: inode, size, time of its last change."""
    found = {}
    for path in paths:
        try:
            status = os.stat(path)
        except OSError:
            continue
        found[path] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return found


def tell_changes(before: dict[str, tuple[int, int, int]], report: TargetReport) -> None:
    """Add E151 for files that are not what `stamp` said."""
    after = stamp(list(before))
    for path, was in before.items():
        now = after.get(path)
        if now is None:
            report.add("E151", f"{path}: gone since the check began")
        elif now != was:
            report.add("E151", f"{path}: changed while it was read: {was[1]} bytes then, {now[1]} now")
