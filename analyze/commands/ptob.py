# SPDX-License-Identifier: GPL-2.0-or-later
"""`ptob`: the physical address of a page frame."""

from __future__ import annotations

import argparse

from ..kernel import Kernel
from . import Result, number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument("frames", nargs="+", metavar="FRAME", help="page frame number, hexadecimal")


def run(kernel: Kernel, args: argparse.Namespace) -> Result:
    """Print frame number and address, one line each."""
    shift = kernel.page_size.bit_length() - 1
    values = [number(word) for word in args.frames]
    return Result(
        [f"{value:x}: {value << shift:x}" for value in values],
        [{"pfn": f"{value:#x}", "physical": f"{value << shift:#x}"} for value in values],
    )
