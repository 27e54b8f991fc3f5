# SPDX-License-Identifier: GPL-2.0-or-later
"""`ptov`: physical to virtual addresses, in crash's columns."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from ...formats.errors import DumpError
from ..direct_map import to_virtual
from ..kernel import Kernel
from . import Result, number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument("addresses", nargs="+", metavar="ADDRESS", help="physical address, hexadecimal")


def run(kernel: Kernel, args: argparse.Namespace) -> Result:
    """Print where the kernel has memory mapped linearly."""
    result = Result(data=[])
    result.lines = _lines(kernel, [number(word) for word in args.addresses], result)
    return result


def _lines(kernel: Kernel, addresses: list[int], result: Result) -> Iterator[str]:
    width = 2 * kernel.machine.word_size
    for index, physical in enumerate(addresses):
        try:
            virtual = to_virtual(kernel, physical)
        except DumpError as error:
            result.complain(error.message, 1)
            continue
        if index:
            yield ""
        yield f"{'VIRTUAL':<{width}}  PHYSICAL        "
        yield f"{virtual:<{width}x}  {physical:x}"
        result.data.append({"physical": f"{physical:#x}", "virtual": f"{virtual:#x}"})
