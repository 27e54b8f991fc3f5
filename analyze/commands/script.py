# SPDX-License-Identifier: GPL-2.0-or-later
"""`script`: run a Python file with the dump at hand."""

from __future__ import annotations

import argparse
import contextlib
import io

from ..kernel import Kernel
from ..scripting import run_file
from . import Result, printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument("file", metavar="FILE.py", help="Python; it finds `dump`, and `prog` where drgn is installed")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARGS", help="sys.argv of the script")


def run(kernel: Kernel, args: argparse.Namespace) -> Result:
    """Run it; what it prints is printed as it comes, with --json it is the result."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out) if kernel.wants_values else contextlib.nullcontext():
        status, words = run_file(kernel, args.file, args.arguments)
    result = Result()
    if kernel.wants_values:
        lines = out.getvalue().splitlines()
        result.lines, result.data = map(printable, lines), {"status": status, "output": lines}
    if words:
        result.complain(printable(words), status)
    elif status:
        result.exit_codes.append(status)
    return result
