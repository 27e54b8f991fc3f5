# SPDX-License-Identifier: GPL-2.0-or-later
"""`vtop`: virtual to physical addresses."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from ...formats.errors import DumpError
from ..kernel import Kernel
from . import Result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument("addresses", nargs="+", metavar="ADDRESS|SYMBOL", help="kernel virtual address")


def run(kernel: Kernel, args: argparse.Namespace) -> Result:
    """Print physical addresses and what the dump has of their pages."""
    result = Result(data=[])
    result.lines = _lines(kernel, args, result)
    return result


def _lines(kernel: Kernel, args: argparse.Namespace, result: Result) -> Iterator[str]:
    width = 2 * kernel.machine.word_size
    yield f"{'VIRTUAL':<{width}}  {'PHYSICAL':<{width}}  PAGE"
    for word in args.addresses:
        address = kernel.parse_address(word)
        try:
            physical = kernel.memory.translate(address)
        except DumpError as error:
            result.complain(error.message, 1)
            continue
        state = kernel.physical.memory_map.state_of(physical >> kernel.machine.page_shift).name.lower()
        yield f"{address:<{width}x}  {physical:<{width}x}  {state}"
        result.data.append({"virtual": f"{address:#x}", "physical": f"{physical:#x}", "page": state})
