# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that `dumpverify` writes: never over a dump, and under their name only when they are whole."""

from __future__ import annotations

import os
from collections.abc import Iterable
from types import TracebackType

from ..formats import detect
from ..formats.archive import is_tar
from ..formats.errors import DumpError, OutputError, UnknownFormat, UsageError
from ..formats.open_source import open_source
from ..formats.reader import Options

__all__ = ["SUFFIX", "ReportFile", "refuse_dump"]

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
