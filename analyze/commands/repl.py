# SPDX-License-Identifier: GPL-2.0-or-later
"""`repl`: Python's prompt with the dump at hand; drgn's own where it is installed."""

from __future__ import annotations

import argparse
import code
import importlib.util

from ...formats.errors import DumpError
from ..kernel import Kernel
from ..scripting import Names
from . import Result

_BANNER = "dump: the dump, see help(dump); prog: drgn's program{more}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument("--plain", action="store_true", help="without drgn, although it is installed")


def run(kernel: Kernel, args: argparse.Namespace) -> Result:
    """Read, evaluate, print until the input ends."""
    result = Result()
    if not args.plain and importlib.util.find_spec("drgn") is not None:
        try:
            _with_drgn(kernel)
        except DumpError as error:
            result.complain(f"without drgn's program: {error.message}")
        else:
            return result
    more = ", made when it is used first" if importlib.util.find_spec("drgn") else ", not here: drgn is not installed"
    try:
        code.interact(_BANNER.format(more=more), local=Names(kernel), exitmsg="")
    except SystemExit as end:
        return Result(exit_codes=[end.code] if isinstance(end.code, int) and end.code else [])
    return result


def _with_drgn(kernel: Kernel) -> None:
    names = Names(kernel)
    prog = names["prog"]
    from drgn.cli import run_interactive

    def banner(text: str) -> str:
        return f"{text}\n{_BANNER.format(more='')}"

    run_interactive(prog, banner_func=banner, globals_func=lambda found: {**found, "dump": names["dump"]}, quiet=True)
