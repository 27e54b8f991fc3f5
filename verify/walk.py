# SPDX-License-Identifier: GPL-2.0-or-later
"""What lies below the directories to be checked. Nothing that may be a dump is left out without a word."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence

from .verdict import Level, TargetReport

__all__ = ["report_no_file", "targets"]


def targets(paths: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Yield (path, found in a directory) of everything to check, directories walked in order of names.

    Beside files that is what `report_no_file` has something to say of: directories that cannot be listed, links that
    lead nowhere or to directories elsewhere. Pipes, sockets and devices are passed over.
    """
    roots = [os.path.realpath(path) for path in paths if os.path.isdir(path)]
    for path in paths:
        if os.path.isdir(path):
            yield from ((found, True) for found in _walk(path, roots))
        else:
            yield path, False


def _walk(top: str, roots: Sequence[str]) -> Iterator[str]:
    failed: list[OSError] = []
    for folder, folders, names in os.walk(top, onerror=failed.append):
        yield from _unlisted(failed)
        folders.sort()
        for name in sorted(names):
            if _is_file(path := os.path.join(folder, name)):
                yield path
        for name in folders:
            path = os.path.join(folder, name)
            if os.path.islink(path) and not _is_below(os.path.realpath(path), roots):
                yield path
    yield from _unlisted(failed)


def _unlisted(failed: list[OSError]) -> Iterator[str]:
    yield from (each.filename for each in failed if os.path.lexists(each.filename) or each.errno != errno.ENOENT)
    failed.clear()


def _is_file(path: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        return os.path.islink(path)  # what is no link has gone since it was listed
    except OSError:
        return True  # why is told when it is opened


def _is_below(path: str, roots: Sequence[str]) -> bool:
    return any(path == root or path.startswith(root.rstrip("/") + "/") for root in roots)


def report_no_file(path: str, level: Level, allowed: frozenset[str]) -> TargetReport | None:
    """Return the report on what was found in a directory and is no file; None for a file."""
    report = TargetReport([path], level, allowed=allowed)
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        if not os.path.islink(path) or error.errno not in (errno.ENOENT, errno.ELOOP):
            return None
        report.add("W224", f"it leads to {os.readlink(path)}: {error.strerror}")
        return report
    if not stat.S_ISDIR(mode):
        return None
    if os.path.islink(path):
        report.add("I309", f"it leads to {os.path.realpath(path)}")
        return report
    try:
        with os.scandir(path):
            why = "could not be listed when its turn was"
    except OSError as error:
        why = f"cannot be listed: {error.strerror}"
    report.add("E150", f"a directory that {why}")
    return report
