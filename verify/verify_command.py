# SPDX-License-Identifier: GPL-2.0-or-later
"""Arguments of `dumpverify`, and the run over its paths. Light: parsers are built before anything else is imported."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from .command import add_shared, reading_options

if TYPE_CHECKING:
    from .target import VerifyOptions
    from .verdict import TargetReport

__all__ = ["add_arguments", "run", "targets", "verify_options"]

_LEVELS = ("quick", "structure", "pages", "content", "kernel")


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError("a number above 0 expected")
    return int(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add all arguments of `dumpverify`."""
    parser.add_argument("paths", nargs="+", metavar="PATH", help="dump, directory of dumps, or member of a split set")
    parser.add_argument(
        "--level",
        choices=_LEVELS,
        default="pages",
        help="how deep: headers; all tables and notes; every page decodes; digests; the kernel makes sense "
        "(default: pages)",
    )
    parser.add_argument(
        "--allow", action="append", default=[], metavar="CODE", help="a finding that does not count, like W217"
    )
    parser.add_argument("-j", "--jobs", type=_positive, default=None, metavar="N", help="workers (default: CPUs)")
    parser.add_argument(
        "--executor",
        choices=("auto", "serial", "threads", "processes", "spawn"),
        default="auto",
        help="what workers are (default: forked processes, none for small dumps)",
    )
    add_shared(parser, reads=True)


def verify_options(args: argparse.Namespace) -> VerifyOptions:
    """Return the options of a run.

    Raises:
        UsageError: No such code, architecture or directory.
    """
    from ..formats.errors import UsageError
    from ..formats.executor import default_jobs
    from .codes import CODES
    from .pagecheck import PageOptions
    from .target import VerifyOptions

    unknown = [code for code in args.allow if code not in CODES]
    if unknown:
        raise UsageError(f"--allow {unknown[0]}: there is no such code", hint="docs/findings.md lists them")
    pages = PageOptions(args.jobs or default_jobs(), args.executor, args.level in ("content", "kernel"))
    return VerifyOptions(args.level, reading_options(args), pages, frozenset(args.allow))


def targets(paths: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Yield (file, found in a directory) of everything to check, directories walked in order of names."""
    for path in paths:
        if not os.path.isdir(path):
            yield path, False
            continue
        for folder, folders, names in os.walk(path):
            folders.sort()
            for name in sorted(names):
                full = os.path.join(folder, name)
                if os.path.isfile(full):
                    yield full, True


def run(args: argparse.Namespace, options: VerifyOptions, progress: Callable[[int], object]) -> Iterator[TargetReport]:
    """Yield the report of each dump, in order; members of a set that was checked are not checked again."""
    from .target import verify_target

    done: set[tuple[int, int]] = set()
    for path, in_directory in targets(args.paths):
        key = _identity(path)
        if key in done:
            continue
        report = verify_target([path], options, progress, in_directory=in_directory)
        done.update(key for key in map(_identity, [path, *report.files]) if key is not None)
        yield report


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
