# SPDX-License-Identifier: GPL-2.0-or-later
"""`repl`: Python's prompt with the dump at hand; drgn's own where it is installed."""

from __future__ import annotations

import argparse
import code
import importlib.util

from ...formats.errors import DumpError
from ..kernel import Kernel
from ..scripting import Names
from ..through_drgn import interact
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
            interact(kernel, Names(kernel), _BANNER.format(more=""))
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
