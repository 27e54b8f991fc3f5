# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs over archives: a budget of time and bytes, and the state that lets the next run go on where this one ended."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ..formats.errors import UsageError
from .manifest import Manifest
from .verdict import LEVELS, Level, TargetReport, worst

__all__ = ["SCHEMA", "Budget", "Checked", "State", "not_reached"]

SCHEMA = "dumpconv.verify-state/1"


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


class Checked(NamedTuple):
    """What is remembered of one file.

    Attributes:
        path: Absolute, links resolved.
        mtime_ns, size: Of the file when it was checked.
        level: Down to which.
        exit_code: What came of it, with warnings as 7; 10 where the budget ended the check.
        time: Seconds since 1970, when the check ended.
        allowed: Codes that were found and did not count.
        expected: Digests by algorithm that a manifest said of the file and it was held against, None for none.
    """

    path: str
    mtime_ns: int
    size: int
    level: Level
    exit_code: int
    time: float
    allowed: list[str]
    expected: dict[str, str] | None


class State:
    """The state file: a header line, then a JSON line for each file; replaced as a whole after each dump."""

    def __init__(self, path: str) -> None:
        """Read it.

        Raises:
            UsageError: It is something else, which must not be replaced.
            OSError: It cannot be read.
        """
        self.path = path
        self._known: dict[str, Checked] = {}
        if not os.path.exists(path):
            return
        try:
            with open(path, encoding="utf-8") as file:
                lines = file.read(1 << 30).splitlines()
            header = json.loads(lines[0]) if lines else {"schema": SCHEMA}
        except ValueError:
            header = None
        if not isinstance(header, dict) or header.get("schema") != SCHEMA:
            raise UsageError("is no state file of dumpverify", path=path, hint="name another --state FILE")
        for line in lines[1:]:
            entry = _entry(line)
            if entry is not None:  # a line that is not whole: its file counts as never checked
                self._known[entry.path] = entry

    def in_order(self, targets: Iterable[tuple[str, bool]]) -> list[tuple[str, bool]]:
        """Return targets never checked first, then those checked longest ago."""

        def when(target: tuple[str, bool]) -> float:
            known = self._known.get(os.path.realpath(target[0]))
            return known.time if known is not None else float("-inf")

        return sorted(targets, key=when)

    def is_fresh(
        self,
        path: str,
        level: Level,
        seconds: float,
        allowed: frozenset[str] = frozenset(),
        manifest: Manifest | None = None,
    ) -> bool:
        """Whether a file was found good within so many seconds, at this level or a deeper one, and is unchanged.

        Good is what it would be now: codes allowed then count unless they are allowed again, and a check that was not
        against what the manifest says of the file does not stand for one that is.
        """
        known = self._known.get(os.path.realpath(path))
        if known is None or known.exit_code or not 0 <= time.time() - known.time <= seconds:
            return False
        expected = _expected(manifest, path)
        if not allowed.issuperset(known.allowed) or expected not in (None, known.expected):
            return False
        try:
            status = os.stat(path)
        except OSError:
            return False
        unchanged = (status.st_mtime_ns, status.st_size) == (known.mtime_ns, known.size)
        return unchanged and LEVELS.index(known.level) >= LEVELS.index(level)

    def remember(
        self,
        path: str,
        before: dict[str, os.stat_result],
        reports: Sequence[TargetReport],
        allowed: frozenset[str] = frozenset(),
        manifest: Manifest | None = None,
    ) -> None:
        """Note what came of a target and write the file.

        Args:
            path: As given.
            before: Status of files from before the check: a change since then must not go unnoticed.
            reports: On it; several for an archive.
            allowed: Codes that do not count.
            manifest: What it was held against.
        """
        used = sorted(allowed & {finding.code for each in reports for finding in each.findings})
        code = worst(each.exit_code(strict=True) for each in reports)
        for name in dict.fromkeys([path, *(file for each in reports for file in each.files)]):
            try:
                status = before.get(name) or os.stat(name)
            except (OSError, ValueError):
                self._known.pop(os.path.realpath(name), None) if name == path else None
                continue
            real = os.path.realpath(name)
            now = round(time.time(), 3)
            facts = (status.st_mtime_ns, status.st_size, reports[0].level, code, now, used, _expected(manifest, name))
            self._known[real] = Checked(real, *facts)
        self._save()

    def _save(self) -> None:
        folder = os.path.dirname(os.path.abspath(self.path))
        handle, name = tempfile.mkstemp(prefix=os.path.basename(self.path) + ".", suffix=".incomplete", dir=folder)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(json.dumps({"schema": SCHEMA}) + "\n")
                file.writelines(json.dumps(each._asdict()) + "\n" for each in self._known.values())
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, self.path)
        except BaseException:
            if os.path.exists(name):
                os.unlink(name)
            raise


def _expected(manifest: Manifest | None, path: str) -> dict[str, str] | None:
    entry = None if manifest is None else manifest.entry(path)
    return None if entry is None else entry.digests


def _entry(line: str) -> Checked | None:
    try:
        entry = Checked(**json.loads(line))
    except (ValueError, TypeError):
        return None
    numbers = (entry.mtime_ns, entry.size, entry.exit_code)
    if not all(isinstance(each, int) for each in numbers) or not isinstance(entry.time, (int, float)):
        return None
    if not isinstance(entry.allowed, list) or not all(isinstance(each, str) for each in entry.allowed):
        return None
    return entry if isinstance(entry.path, str) and entry.level in LEVELS else None


def not_reached(path: str, level: Level, allowed: frozenset[str], why: str) -> TargetReport:
    """Return the report on a dump for which nothing was left."""
    report = TargetReport([path], level, allowed=allowed)
    report.add("E153", f"{why} was reached before it")
    return report
