# SPDX-License-Identifier: GPL-2.0-or-later
"""`mod`: loaded modules, in crash's columns."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from ..kernel import Kernel
from ..modules import Module
from . import Result, printable

_STATES = {0: "live", 1: "coming", 2: "going", 3: "unformed"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument("-t", dest="taints", action="store_true", help="modules that taint the kernel only")


def run(kernel: Kernel, args: argparse.Namespace) -> Result:
    """Print the table of modules, by address of their struct as crash does."""
    found = sorted(kernel.modules, key=lambda each: each.address)
    if args.taints:
        found = [each for each in found if each.taints]
    data = [
        {
            "module": f"{each.address:#x}",
            "name": each.name,
            "base": f"{each.base:#x}",
            "size": each.size,
            "state": _STATES.get(each.state, str(each.state)),
            "taints": f"{each.taints:#x}",
        }
        for each in found
    ]
    result = Result(_lines(kernel, found), data)
    for text in kernel.modules.complaints:
        result.complain(text, 4)
    return result


def _lines(kernel: Kernel, found: list[Module]) -> Iterator[str]:
    width = 2 * kernel.machine.word_size
    name_width = max([4, *(len(printable(each.name)) for each in found)])
    yield f"{'MODULE':^{width}}  {'NAME':<{name_width}}  {'TEXT_BASE':^{width}}  {'SIZE':>8}  STATE"
    for each in found:
        state = _STATES.get(each.state, str(each.state)) + (f", taints {each.taints:#x}" if each.taints else "")
        name = printable(each.name)
        yield f"{each.address:0{width}x}  {name:<{name_width}}  {each.base:0{width}x}  {each.size:>8}  {state}"
