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
from ..formats.pages import MemoryMap, MemoryMapBuilder
from ..formats.reader import DumpReader, Options
from ..formats.source import ByteSource, FileSource
from .codes import code_of_error
from .display.picture import chart, draw
from .fixity import Fixity, FixityOptions, Leaves
from .manifest_write import Recorded
from .pagecheck import PageOptions, check_pages, compare_digests
from .structure import add_remarks, check_quick, check_structure
from .verdict import LEVELS, Level, TargetReport

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
    """

    level: Level = "pages"
    reading: Options = field(default_factory=Options)
    pages: PageOptions = field(default_factory=PageOptions)
    allowed: frozenset[str] = frozenset()
    fixity: FixityOptions | None = None
    picture: bool = False
    chart: bool = False

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
    begin, reached = time.monotonic(), False
    report = TargetReport(list(paths), options.level, allowed=options.allowed)
    before = stamp(paths)
    fixity = Fixity(options.fixity or FixityOptions())
    reader, leaves = None, Leaves()
    try:
        reader = open_dump(paths, options.reading._replace(salvage=True, tap=fixity.source.tap), opened=sources)
        report.files = [source.name for source in reader.files]
        report.places = [source.name if type(source) is FileSource else "" for source in reader.sources]
        before = {**stamp(report.files), **before}
        fixity.source.attach(reader.sources)
        leaves = _go_down(reader, report, options, progress, fixity)
    except BudgetReached as error:
        report.add("E153", f"{error} was reached after {report.bytes} bytes of its pages")
        reached = True
    except UnknownFormat as error:
        listed = in_directory and fixity.lists(paths[0])
        report.add("I307" if listed else "I301" if in_directory else "E154", error.message)
    except DumpError as error:
        report.add(code_of_error(error), error.message, offset=error.offset, pfn=error.pfn)
    except OSError as error:
        report.add("E150", f"{error.filename or paths[0]}: {error.strerror or error}")
    if options.fixity is not None and not reached:
        record(fixity.finish(report.files, reader, leaves, report))
    fixity.source.close()
    tell_changes(before, report)
    report.seconds = time.monotonic() - begin
    return report


def _go_down(
    reader: DumpReader,
    report: TargetReport,
    options: VerifyOptions,
    progress: Callable[[int], object],
    fixity: Fixity,
) -> Leaves:
    leaves = Leaves()
    check_quick(reader, report)
    try:
        if options.reaches("structure"):
            for source in reader.sources:
                source.finish()
            check_structure(reader, report)
            if reader.sources[0].size and not reader.sources[0].is_stream:
                from .canonical_rules import check_canonical

                check_canonical(reader, report)
        if options.reaches("pages"):
            report.ranges.clear()
            report.nr_bad = report.nr_ranges_left_out = 0
            seen = fixity.source.seen
            leaves = check_pages(reader, report, options.pages, progress, seen)
            compare_digests(reader, report)
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


def _with_damage(reader: DumpReader, report: TargetReport) -> MemoryMap:
    # the map with what did not decode; what the tables get wrong is drawn from them
    builder = MemoryMapBuilder()
    done = 0
    for bad in sorted(each for each in report.ranges if each.code in ("E103", "E150")):
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
