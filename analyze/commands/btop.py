# SPDX-License-Identifier: GPL-2.0-or-later
"""`btop`: the page frame number of a physical address."""

from __future__ import annotations

import argparse

from ..kernel import Kernel
from . import Result, number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument("addresses", nargs="+", metavar="ADDRESS", help="physical address, hexadecimal")


def run(kernel: Kernel, args: argparse.Namespace) -> Result:
    """Print address and frame number, one line each."""
    shift = kernel.page_size.bit_length() - 1
    values = [number(word) for word in args.addresses]
    return Result(
        [f"{value:x}: {value >> shift:x}" for value in values],
        [{"physical": f"{value:#x}", "pfn": f"{value >> shift:#x}"} for value in values],
    )
