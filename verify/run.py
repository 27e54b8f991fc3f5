# SPDX-License-Identifier: GPL-2.0-or-later
"""The run of `dumpverify` over its paths: in which order, several at a time, within a budget, remembered."""

from __future__ import annotations

import argparse
import os
import stat
from collections.abc import Iterator

from .display.meter import Meter
from .files import FilePool, FileResult, FileTask, reports_of, stamps_of
from .jobs import Budget, State, not_reached
from .manifest import Manifest
from .manifest_write import Recorded, write_manifest
from .target import BudgetReached, VerifyOptions
from .verdict import TargetReport
from .verify_command import identity, wanted_reports
from .walk import targets

__all__ = ["Run"]

_LARGE = 64 << 20  # stored bytes; a larger dump has all workers to itself
_KEPT_BYTES = 1 << 30  # of a budget: nearer to its end files are checked one by one, so that it ends where it says


class Run:
    """One run.

    Args:
        args: Of the command line.
        options: Of each check.
        meter: Told how far it is, in stored bytes of files.

    Attributes:
        skipped: Files that --max-age left out so far.
    """

    def __init__(self, args: argparse.Namespace, options: VerifyOptions, meter: Meter) -> None:
        self._args, self._options, self._meter = args, options, meter
        self._manifest: Manifest | None = options.fixity.manifest if options.fixity is not None else None
        self._recorded: list[Recorded] = []
        self._done: set[tuple[int, int]] = set()
        self._state: State | None = None
        self._budget = Budget(args.max_duration, args.max_bytes)
        self.skipped = 0

    def reports(self) -> Iterator[TargetReport]:
        """Yield the report of each dump; members of a set that was checked are not checked again.

        In order, or with --state those never checked first, then those checked longest ago. Nothing that a file does
        ends the run; the budget does, and each dump that it leaves is told by E153.
        """
        args = self._args
        ours = [args.write_manifest, args.manifest, args.state, *(name for _, name in wanted_reports(args))]
        left_out = {os.path.realpath(each) for each in ours if each}
        if args.state is not None:
            self._state = State(args.state)
        found = [each for each in self._due() if os.path.realpath(each[0]) not in left_out]
        self._meter.begin(sum(map(_size, (path for path, _ in found))))
        pool = self._pool() if len(found) > 1 else None
        try:
            yield from self._all(found, pool)
        except BaseException:
            if pool is not None:
                pool.close(at_once=True)
            raise
        finally:
            if self._state is not None:
                self._state.close()
        if pool is not None:
            pool.close()
        yield from self._finish()

    def _pool(self) -> FilePool | None:
        kind, jobs = self._options.pages.executor, self._options.pages.jobs
        if not isinstance(kind, str):
            from .elsewhere import ElsewherePool

            return ElsewherePool(self._options, jobs, kind)
        return FilePool(self._options, jobs, kind) if jobs > 1 and kind in ("auto", "processes", "spawn") else None

    def _due(self) -> Iterator[tuple[str, bool]]:
        args, manifest = self._args, self._manifest
        found = _listed(manifest) if manifest is not None and not args.paths else targets(args.paths)
        if self._state is None:
            yield from found
            return
        for path, in_directory in self._state.in_order(found):
            fresh = args.max_age is not None and self._state.is_fresh(
                path, self._options.level, args.max_age, self._options.allowed, manifest, strict=args.strict
            )
            if fresh:
                self.skipped += 1
            else:
                yield path, in_directory

    def _all(self, found: list[tuple[str, bool]], pool: FilePool | None) -> Iterator[TargetReport]:
        for path, in_directory in found:
            if identity(path) in self._done:
                self._meter(_size(path))
                continue
            if pool is not None and _is_small(path) and self._has_room(len(pool)):
                pool.submit(FileTask(path, in_directory, *self._budget.left))
                while pool.is_full:
                    yield from self._take(pool)
                continue
            while pool is not None and len(pool):
                yield from self._take(pool)
            if identity(path) in self._done:  # a member of a set that was under way
                self._meter(_size(path))
            elif why := self._budget.spent:
                yield self._left(path, why)
            else:
                yield from self._one(path, in_directory)
        while pool is not None and len(pool):
            yield from self._take(pool)

    def _has_room(self, waiting: int) -> bool:
        seconds, size = self._budget.left
        return (seconds is None or seconds > 0) and (size is None or size > (waiting + 1) * _KEPT_BYTES)

    def _left(self, path: str, why: str) -> TargetReport:
        report = not_reached(path, self._options.level, self._options.allowed, why)
        self._tell_known(path, report)
        return report

    def _tell_known(self, path: str, report: TargetReport) -> None:
        # a check that the budget kept from its end takes nothing back; and first bytes that are gone make no dump of
        # another kind of file
        if self._state is None:
            return
        if report.exit_code() == 10 and (known := self._state.known_bad(path)):
            report.add("E157", known)
        unknown = any(each.code in ("I301", "E154") for each in report.findings)
        if unknown and (known := self._state.known_dump(report.files[0])):
            report.add("E158", known)

    def _one(self, path: str, in_directory: bool) -> Iterator[TargetReport]:
        # in this process, with all workers for its pages
        size, told = _size(path), 0

        def count(done: int) -> None:
            nonlocal told
            step = min(done, size - told)  # pages are more bytes than what is stored of them
            told += step
            self._meter(step)
            self._budget.used += done
            if why := self._budget.spent:
                raise BudgetReached(why)

        self._meter.file(path)
        before = {} if self._state is None else stamps_of(path)
        reports: list[TargetReport] = []
        task = FileTask(path, in_directory)
        for report in reports_of(task, self._options, count, self._recorded.append):
            self._done.update(key for key in map(identity, [path, *report.files]) if key is not None)
            _write_maps(self._args, report)
            self._tell_known(path, report)
            reports.append(report)
            yield report
        self._meter(size - told)
        self._remember(path, FileResult(reports, [], before))

    def _take(self, pool: FilePool) -> Iterator[TargetReport]:
        task, result = pool.take()
        self._meter.file(task.path)
        self._meter(_size(task.path))
        if identity(task.path) in self._done:  # a member of a set that another one stood for
            return
        self._recorded += result.recorded
        for report in result.reports:
            self._done.update(key for key in map(identity, [task.path, *report.files]) if key is not None)
            self._budget.used += report.bytes
            self._tell_known(task.path, report)
            yield report
        self._remember(task.path, result)

    def _remember(self, path: str, result: FileResult) -> None:
        # after the report went out: one that was never seen is made again
        if self._state is not None:
            self._state.remember(path, result.before, result.reports, self._options.allowed, self._manifest)

    def _finish(self) -> Iterator[TargetReport]:
        args = self._args
        if self._state is not None and self._state.problem:
            report = TargetReport([args.state], self._options.level, format="state", allowed=self._options.allowed)
            report.add("W225", self._state.problem)
            yield report
        if self._manifest is not None and (report := _of_manifest(self._manifest, args, self._options)).findings:
            yield report
        if args.write_manifest is not None:
            write_manifest(args.write_manifest, [each for each in self._recorded if each.files])


def _size(path: str) -> int:
    try:
        status = os.stat(path)
    except OSError:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


def _is_small(path: str) -> bool:
    return os.path.isfile(path) and _size(path) < _LARGE  # others may block, and are opened where a signal is heard


def _listed(manifest: Manifest) -> Iterator[tuple[str, bool]]:
    for entry in manifest.entries.values():
        if os.path.exists(entry.path):
            yield entry.path, True


def _write_maps(args: argparse.Namespace, report: TargetReport) -> None:
    if args.ddrescue is not None and report.places:
        from .filemap import write_file_maps

        write_file_maps(report, args.ddrescue)
    if args.picture is not None and report.picture is not None:
        from .display.drawing import write_picture

        write_picture(report.picture, args.picture)


def _of_manifest(manifest: Manifest, args: argparse.Namespace, options: VerifyOptions) -> TargetReport:
    # what is wrong with the manifest itself, and files that it lists below the PATHs and that are not there
    from .verdict import TargetReport

    report = TargetReport([manifest.path], options.level, format=f"manifest, {manifest.kind}", allowed=options.allowed)
    for code, message in manifest.problems:
        report.add(code, message)
    roots = [os.path.realpath(path) for path in args.paths]
    for path, entry in manifest.entries.items():
        below = not roots or any(path == root or path.startswith(root.rstrip("/") + "/") for root in roots)
        if below and not os.path.exists(path):
            report.add("E113", f"{entry.name} is not there")
    return report
