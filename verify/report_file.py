# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that `dumpverify` writes: never over a dump, and under their name only when they are whole."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from types import TracebackType

from ..formats import detect
from ..formats.archive import is_tar
from ..formats.errors import DumpError, OutputError, UnknownFormat, UsageError
from ..formats.open_source import open_source
from ..formats.reader import Options
from .report_forms import Form, make_form
from .verdict import TargetReport

__all__ = ["SUFFIX", "ReportFile", "Reports", "refuse_dump"]

SUFFIX = ".incomplete"


def refuse_dump(path: str, options: Options) -> None:
    """Refuse to write to a name under which a dump or an archive lies, named as an input or not.

    A dump in a directory to be checked, and a sister of a split member, are no PATH of the command line.

    Raises:
        UsageError: It is one, or cannot be told not to be one.
    """
    for name in (path, path + SUFFIX):  # the second is written first
        if not os.path.isfile(name):
            continue
        try:
            detect(open_source(name, options), options)
        except UnknownFormat:
            if not is_tar(name):
                continue
        except (DumpError, OSError):
            pass  # of a known kind, but broken; or unreadable: not ours to replace
        raise UsageError("is a dump, which nothing is written to", path=name, hint="name another file")


class ReportFile:
    """A report being written. A run that does not come to its end leaves the report of the run before as it was.

    What was written until then stays in FILE.incomplete: the state file counts those dumps as checked.
    A pipe or a device is written to directly.
    """

    def __init__(self, path: str) -> None:
        """Begin it.

        Raises:
            OutputError: It cannot be made.
        """
        self._path = path
        self._direct = os.path.exists(path) and not os.path.isfile(path)
        self._temporary = path if self._direct else path + SUFFIX
        try:
            if self._direct:
                self._file = open(path, "w", encoding="utf-8")  # noqa: SIM115 - closed by __exit__
            else:
                if os.path.lexists(self._temporary):
                    os.unlink(self._temporary)  # of a run that was ended, or a link: never followed
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                self._file = os.fdopen(os.open(self._temporary, flags, 0o666), "w", encoding="utf-8")
        except OSError as error:
            raise self._failed(error) from error

    def put(self, chunks: Iterable[str]) -> None:
        """Write and flush.

        Raises:
            OutputError: No space, and the like.
        """
        try:
            self._file.writelines(chunks)
            self._file.flush()
        except OSError as error:
            raise self._failed(error) from error

    def __enter__(self) -> ReportFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and not self._direct:
                self._file.flush()
                os.fsync(self._file.fileno())
            self._file.close()
            if kind is None and not self._direct:
                os.replace(self._temporary, self._path)
        except OSError as failed:
            if kind is None:
                raise self._failed(failed) from failed

    def _failed(self, error: OSError) -> OutputError:
        return OutputError(f"cannot write: {error.strerror}", path=self._path)


Put = Callable[[Iterable[str]], None]


class Reports:
    """All reports of a run, each in its form.

    When a run is ended, what forms keep for their end goes into FILE.incomplete; standard output gets nothing more.

    Args:
        wanted: (form, file) of each, None for standard output.
        to_stdout: Writes there.
        strict: Whether warnings count.
        quiet: See `Form`.

    Attributes:
        skipped: Files that the run left out by their age.
    """

    def __init__(self, wanted: Sequence[tuple[str, str | None]], to_stdout: Put, *, strict: bool, quiet: bool) -> None:
        self._wanted, self._to_stdout, self._strict, self._quiet = wanted, to_stdout, strict, quiet
        self._forms: list[tuple[Form, Put, bool]] = []
        self._stack = ExitStack()
        self.skipped = 0

    def add(self, report: TargetReport) -> None:
        """Write what can be written once a dump is checked."""
        for form, put, _ in self._forms:
            put(form.add(report))

    def _end(self, *, files_only: bool) -> None:
        for form, put, is_file in self._forms:
            if is_file or not files_only:
                form.skipped = self.skipped
                put(form.end())

    def __enter__(self) -> Reports:
        with ExitStack() as stack:
            for kind, name in self._wanted:
                put = self._to_stdout if name is None else stack.enter_context(ReportFile(name)).put
                self._forms.append((make_form(kind, strict=self._strict, quiet=self._quiet), put, name is not None))
            for form, put, _ in self._forms:
                put(form.begin())
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._end(files_only=kind is not None)
        except BaseException as failed:
            self._stack.__exit__(type(failed), failed, failed.__traceback__)
            raise
        self._stack.__exit__(kind, error, trace)
