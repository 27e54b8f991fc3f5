# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs over archives: a budget of time and bytes, and the state that lets the next run go on where this one ended."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import IO, NamedTuple

from ..formats.errors import OutputError, UsageError
from ..formats.urls import Url
from .manifest import Manifest
from .verdict import LEVELS, Level, TargetReport, worst

__all__ = ["SCHEMA", "Budget", "Checked", "Stamp", "State", "not_reached", "stamp_of"]

SCHEMA = "dumpconv.verify-state/1"
_MAX_HEAD = 4096  # characters of the first line
_FEW_LINES = 1000  # that no longer count
_LAST_SECOND = 1 << 36  # no time is later


@dataclass(slots=True)
class Budget:
    """What a run may use.

    Attributes:
        seconds, bytes: At most; None: no limit. Bytes are those of decoded pages.
        used: Bytes so far.
        begin: When the run began, of the monotonic clock.
    """

    seconds: float | None = None
    bytes: int | None = None
    used: int = 0
    begin: float = field(default_factory=time.monotonic)

    @property
    def spent(self) -> str:
        """Which limit is reached, empty while none is."""
        if self.seconds is not None and time.monotonic() - self.begin >= self.seconds:
            return "--max-duration"
        return "--max-bytes" if self.bytes is not None and self.used > self.bytes else ""

    @property
    def left(self) -> tuple[float | None, int | None]:
        """Seconds and bytes that are left, None for no limit."""
        seconds = None if self.seconds is None else self.begin + self.seconds - time.monotonic()
        return seconds, None if self.bytes is None else self.bytes - self.used


class Stamp(NamedTuple):
    """What tells a file from what it was.

    Attributes:
        mtime_ns, size: Of a file; of an object at a URL 0, and its size.
        version: Of an object at a URL what its server says: ETag, time of change.
    """

    mtime_ns: int
    size: int
    version: dict[str, str]


def stamp_of(path: str) -> Stamp | None:
    """Return what a file or an object is now, None where there is none or its server does not answer."""
    if isinstance(path, Url):
        from ..formats.remote import version_now

        found = version_now(path)
        return None if found is None else Stamp(0, *found)
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return Stamp(status.st_mtime_ns, status.st_size, {})


def _key(path: str) -> str:
    # of a URL what is shown of it: no secrets
    return str(path) if isinstance(path, Url) else os.path.realpath(path)


class Checked(NamedTuple):
    """What is remembered of one file.

    Attributes:
        path: Absolute, links resolved; or a URL without user, password, query and fragment.
        mtime_ns, size: Of the file when it was checked; -1 of an object whose size is not known.
        level: Down to which.
        exit_code: What came of it, with warnings as 7; 10 where the budget ended the check.
        time: Seconds since 1970, when the check ended.
        allowed: Codes that were found and did not count.
        expected: Digests by algorithm that a manifest said of the file and it was held against, None for none.
        format: Name of its format; of a file that is no dump now that of the last time it was one, "" for none.
        bad: 3 or 5 where it is known to be damaged or changed, 0 where not.
        bad_time: When that was found: a check that the budget cut off later finds nothing, and takes nothing back.
        version: See `Stamp`.
    """

    path: str
    mtime_ns: int
    size: int
    level: Level
    exit_code: int
    time: float
    allowed: list[str]
    expected: dict[str, str] | None
    format: str = ""
    bad: int = 0
    bad_time: float = 0
    version: dict[str, str] | None = None

    @property
    def last_bad(self) -> tuple[int, float]:
        """`bad` and `bad_time`, also of a line that was written before there were such."""
        if self.bad or self.exit_code not in (3, 5):
            return self.bad, self.bad_time
        return self.exit_code, self.time


class State:
    """The state file: a header line, then a JSON line for each check; of a file the last one counts.

    A check is one line more, so that a run over 50,000 dumps does not write the file 50,000 times. It is written anew,
    as a whole, when a run finds many lines that no longer count, or a last line that is torn. One run uses it at a
    time.

    Attributes:
        problem: What of it could not be read, empty if all could.
    """

    def __init__(self, path: str) -> None:
        """Read it, and keep other runs from it.

        Raises:
            UsageError: It is something else, which must not be replaced; or another run uses it.
            OSError: It cannot be read or written.
        """
        self.path = path
        self.problem = ""
        self._known: dict[str, Checked] = {}
        self._file = self._open()
        try:
            nr_lines, whole = self._read()
            if not whole or self.problem or nr_lines > 2 * len(self._known) + _FEW_LINES:
                self._save()
        except BaseException:
            self._file.close()
            raise

    def _open(self) -> IO[str]:
        while True:
            file = open(self.path, "a+", encoding="utf-8", errors="surrogateescape")  # noqa: SIM115 - closed by `close`
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(file.fileno()), os.stat(self.path)):
                    return file
            except BlockingIOError as error:
                file.close()
                raise UsageError("another run uses this state file", path=self.path) from error
            except FileNotFoundError:
                pass
            file.close()  # replaced by a run that ended just now

    def _read(self) -> tuple[int, bool]:
        # fills in what is known; returns the number of lines, and whether header and last line are whole
        self._file.seek(0)
        head = self._file.readline(_MAX_HEAD)
        self._check_schema(head)
        *lines, torn = self._file.read(1 << 30).split("\n")  # torn: when the machine went down
        nr_bad = 0
        for line in lines:
            path, entry = _entry(line)
            if entry is not None:  # a line that is not whole: its file counts as checked before
                self._known[path] = entry
            elif path:
                self._known.pop(path, None)
            elif line:
                nr_bad += 1
        if nr_bad:
            self.problem = f"{nr_bad} of {len(lines)} lines cannot be read: what they said is forgotten"
        return 1 + len(lines), head.endswith("\n") and not torn

    def _check_schema(self, head: str) -> None:
        try:
            header = json.loads(head) if head else {"schema": SCHEMA}
        except (ValueError, RecursionError):
            header = None
        schema = header.get("schema") if isinstance(header, dict) else None
        if schema == SCHEMA:
            return
        hint = "name another --state FILE"
        if isinstance(schema, str) and schema.startswith(SCHEMA.rpartition("/")[0]):
            message = f"is a state file of another version of dumpverify: {schema}, this one has {SCHEMA}"
            raise UsageError(message, path=self.path, hint=hint)
        raise UsageError("is no state file of dumpverify", path=self.path, hint=hint)

    def close(self) -> None:
        """Let other runs use it."""
        with contextlib.suppress(OSError):  # of a line that `remember` could not write
            self._file.close()

    def in_order(self, targets: Iterable[tuple[str, bool]]) -> list[tuple[str, bool]]:
        """Return targets never checked first, then those checked longest ago."""

        def when(target: tuple[str, bool]) -> float:
            known = self._known.get(_key(target[0]))
            return known.time if known is not None else float("-inf")

        return sorted(targets, key=when)

    def known_bad(self, path: str) -> str:
        """Return what the last check said of a file that is damaged or changed, empty if it was neither."""
        known = self._known.get(_key(path))
        code, when = (0, 0.0) if known is None else known.last_bad
        return f"found {'damaged' if code == 3 else 'changed'} at {_utc(when)}" if code else ""

    def known_dump(self, path: str) -> str:
        """Return what a file was said to be that is no dump now, empty if it was never one."""
        known = self._known.get(_key(path))
        if known is None or not known.format:
            return ""
        when = _utc(known.time)
        return f"it was a dump (format {known.format}) when it was checked before ({when} last), and is none now"

    def is_fresh(
        self,
        path: str,
        level: Level,
        seconds: float,
        allowed: frozenset[str] = frozenset(),
        manifest: Manifest | None = None,
        *,
        strict: bool = False,
    ) -> bool:
        """Whether a file was found good within so many seconds, at this level or a deeper one, and is unchanged.

        Good is what it would be now: codes allowed then count unless they are allowed again, warnings if `strict`, and
        a check that was not against what the manifest says of the file does not stand for one that is.
        """
        known = self._known.get(_key(path))
        if (
            known is None
            or known.exit_code not in ((0,) if strict else (0, 7))
            or not 0 <= time.time() - known.time <= seconds
        ):
            return False
        expected = _expected(manifest, path)
        if not allowed.issuperset(known.allowed) or expected not in (None, known.expected):
            return False
        if LEVELS.index(known.level) < LEVELS.index(level):
            return False
        now = stamp_of(path)
        if isinstance(path, Url) and (now is None or not now.version):
            return False  # nothing would tell that it changed, or that the query asks for another object
        return now == Stamp(known.mtime_ns, known.size, known.version or {})

    def remember(
        self,
        path: str,
        before: dict[str, Stamp],
        reports: Sequence[TargetReport],
        allowed: frozenset[str] = frozenset(),
        manifest: Manifest | None = None,
    ) -> None:
        """Note what came of a target, in the file too.

        Args:
            path: As given.
            before: Stamps of files from before the check: a change since then must not go unnoticed.
            reports: On it; several for an archive.
            allowed: Codes that do not count.
            manifest: What it was held against.
        """
        used = sorted(allowed & {finding.code for each in reports for finding in each.findings})
        code = worst(each.exit_code(strict=True) for each in reports)
        formats = {file: each.format for each in reports for file in each.files}
        not_again = any(finding.code == "E157" for each in reports for finding in each.findings)
        lines = []
        for name in dict.fromkeys([path, *(file for each in reports for file in each.files)]):
            real = _key(name)
            stamp = before.get(name) or stamp_of(name)
            if stamp is None and isinstance(name, Url):
                stamp = Stamp(0, -1, {})  # its turn comes again after the others
            if stamp is None:
                if name == path and self._known.pop(real, None) is not None:
                    lines.append(json.dumps({"path": real, "gone": True}))
                continue
            now = round(time.time(), 3)
            facts = (stamp.mtime_ns, stamp.size, reports[0].level, code, now, used, _expected(manifest, name))
            known = self._known.get(real)
            kind = formats.get(name) or (known.format if known is not None else "")
            bad = (code, now) if code in (3, 5) else (0, 0)
            if not_again and known is not None:
                bad = known.last_bad
            self._known[real] = Checked(real, *facts, kind, bad[0], bad[1], stamp.version)
            lines.append(json.dumps(self._known[real]._asdict()))
        try:
            self._file.writelines(line + "\n" for line in lines)
            self._file.flush()
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> OutputError:
        return OutputError(f"cannot write: {error.strerror}", path=self.path)

    def _save(self) -> None:
        folder = os.path.dirname(os.path.abspath(self.path))
        handle, name = tempfile.mkstemp(prefix=os.path.basename(self.path) + ".", suffix=".incomplete", dir=folder)
        file = os.fdopen(handle, "a", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            os.fchmod(handle, stat.S_IMODE(os.fstat(self._file.fileno()).st_mode))
            file.write(json.dumps({"schema": SCHEMA}) + "\n")
            file.writelines(json.dumps(each._asdict()) + "\n" for each in self._known.values())
            file.flush()
            os.fsync(file.fileno())
            os.replace(name, self.path)
        except BaseException as error:
            with contextlib.suppress(OSError):
                file.close()
            if os.path.exists(name):
                os.unlink(name)
            if isinstance(error, OSError):
                raise self._failed(error) from error
            raise
        self._file.close()
        self._file = file


_NEEDED = set(Checked._fields) - set(Checked._field_defaults)


def _utc(when: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(when))


def _expected(manifest: Manifest | None, path: str) -> dict[str, str] | None:
    entry = None if manifest is None else manifest.entry(path)
    return None if entry is None else entry.digests


def _entry(line: str) -> tuple[str, Checked | None]:
    # a line's path, and what it says: nothing more where the file is gone, or an older version knew less; no path where
    # the line is damaged. A newer version may say more.
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return "", None
    if not isinstance(fields, dict) or not isinstance(fields.get("path"), str):
        return "", None
    if any(name not in fields for name in _NEEDED):
        return fields["path"], None
    entry = Checked(**{name: value for name, value in fields.items() if name in Checked._fields})
    numbers, times = (entry.mtime_ns, entry.size, entry.exit_code, entry.bad), (entry.time, entry.bad_time)
    if not all(isinstance(each, int) for each in numbers) or not all(
        isinstance(each, (int, float)) and 0 <= each < _LAST_SECOND for each in times
    ):
        return "", None
    if (
        not isinstance(entry.format, str)
        or not isinstance(entry.version, (dict, type(None)))
        or not isinstance(entry.allowed, list)
        or not all(isinstance(each, str) for each in entry.allowed)
    ):
        return "", None
    return (entry.path, entry) if isinstance(entry.path, str) and entry.level in LEVELS else ("", None)


def not_reached(path: str, level: Level, allowed: frozenset[str], why: str) -> TargetReport:
    """Return the report on a dump for which nothing was left."""
    report = TargetReport([path], level, allowed=allowed)
    report.add("E153", f"{why} was reached before it")
    return report
