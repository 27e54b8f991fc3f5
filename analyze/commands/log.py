# SPDX-License-Identifier: GPL-2.0-or-later
"""`log`: the kernel log."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from ...formats.errors import DumpError
from ..kernel import Kernel
from ..log import Record, render
from . import Result, printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("-t", dest="times", action="store_false", help="no times")
    group.add_argument("-T", dest="wall", action="store_true", help="wall-clock times")
    parser.add_argument("-m", dest="levels", action="store_true", help="log level before each text, as <n>")


def run(kernel: Kernel, args: argparse.Namespace) -> Result:
    """Print the log."""
    records, boot = kernel.log, None
    result = Result()
    for text in kernel.log_complaints:
        result.complain(text, 4)
    if args.wall:
        try:
            boot = kernel.boot_time
        except DumpError as error:
            result.complain(f"times of day are not known: {error.message}")
    result.lines = _lines(records, args, boot)
    result.data = [
        {
            "seconds": None if each.ns is None else each.ns / 1e9,
            "level": each.level,
            "facility": each.facility,
            "text": each.text.decode("utf-8", "backslashreplace"),
        }
        for each in records
    ]
    return result


def _lines(records: list[Record], args: argparse.Namespace, boot: float | None) -> Iterator[str]:
    # without options it is what vmcore-dmesg writes; with them what crash shows
    indent = bool(args.levels or args.wall)
    for record in records:
        text = render(record, times=args.times, boot=boot, level=args.levels, indent=indent)
        yield from printable(text, "\n\t").split("\n")
