# SPDX-License-Identifier: GPL-2.0-or-later
"""Progress on a stream: a bar for people, JSON lines for programs, nothing for cron."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

__all__ = ["Meter", "progress_meter"]

_SECONDS = 0.5  # between two JSON lines
_NAME = 30  # characters of a file's name in the bar


class Meter:
    """How far a job is; this one tells nobody."""

    def begin(self, total: int) -> None:
        """It is so many bytes in all, where that was not known before."""

    def file(self, name: str) -> None:
        """This file is its turn."""

    def __call__(self, done: int) -> object:
        """So many bytes more are done."""
        return None


class _JsonMeter(Meter):
    def __init__(self, total: int, what: str, say: Callable[[str], None]) -> None:
        self._fields: dict[str, Any] = {"schema": "dumpconv.progress/1", "what": what, "total": total}
        self._done, self._say = 0, say
        self._start = self._last = time.monotonic()

    def begin(self, total: int) -> None:
        self._fields["total"] = total

    def file(self, name: str) -> None:
        self._fields["file"] = name

    def __call__(self, done: int) -> None:
        self._done += done
        now = time.monotonic()
        if self._done < self._fields["total"] and now - self._last < _SECONDS:
            return
        self._last, seconds = now, now - self._start
        left = self._fields["total"] - self._done
        fields = {**self._fields, "done": self._done, "seconds": round(seconds, 3)}
        if self._done > 0 and left >= 0:
            fields["eta"] = round(seconds * left / self._done, 1)
        self._say(json.dumps(fields))


class _Bar(Meter):
    def __init__(self, bar: Any) -> None:
        self._bar = bar

    def begin(self, total: int) -> None:
        self._bar.total = total
        self._bar.refresh()

    def file(self, name: str) -> None:
        clean = "".join(char if char.isprintable() else "?" for char in name)
        self._bar.set_postfix_str(clean if len(clean) <= _NAME else "..." + clean[3 - _NAME :])

    def __call__(self, done: int) -> object:
        return self._bar.update(done)


@contextmanager
def progress_meter(kind: str, total: int, what: str, say: Callable[[str], None]) -> Iterator[Meter]:
    """Give a meter.

    Args:
        kind: auto (a bar where stderr is a terminal), json or none.
        total: Bytes, 0 where they are told later.
        what: Doing what.
        say: Writes one line to stderr.
    """
    stream: TextIO | None = sys.stderr
    if kind == "json":
        yield _JsonMeter(total, what, say)
    elif kind == "none" or stream is None or not stream.isatty():
        yield Meter()
    else:
        from tqdm import tqdm

        tqdm.monitor_interval = 0  # a thread that would take signals from the one that acts on them
        with tqdm(total=total, desc=what, unit="B", unit_scale=True, leave=False, file=stream) as bar:
            yield _Bar(bar)
