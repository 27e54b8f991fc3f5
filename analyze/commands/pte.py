# SPDX-License-Identifier: GPL-2.0-or-later
"""`pte`: what a page-table entry says, in crash's columns."""

from __future__ import annotations

import argparse

from ..entries import decode_entry
from ..kernel import Kernel
from . import Result, number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument("entries", nargs="+", metavar="ENTRY", help="content of a page-table entry, hexadecimal")


def run(kernel: Kernel, args: argparse.Namespace) -> Result:
    """Print address and flags of each entry.

    Raises:
        MissingTable: The machine's entries are not known.
    """
    lines: list[str] = []
    data = []
    pae = kernel.machine.arch == "i386" and kernel.info.text("CONFIG_X86_PAE") == "y"
    for word in args.entries:
        value = number(word)
        entry = decode_entry(value, kernel.machine.arch, pae=pae)
        flags = "|".join(entry.flags) if entry.present else "not present" if value else "no mapping"
        text, place = f"{value:x}", f"{entry.physical:x}"
        widths = max(len(text), 3), max(len(place), 8)
        lines.append(f"{'PTE':^{widths[0]}}  {'PHYSICAL':^{widths[1]}}  FLAGS")
        lines.append(f"{_middle(text, widths[0])}  {_middle(place, widths[1])}  ({flags})")
        data.append(
            {
                "entry": f"{value:#x}",
                "present": entry.present,
                "physical": f"{entry.physical:#x}" if entry.present else None,
                "flags": list(entry.flags),
            }
        )
    return Result(lines, data)


def _middle(text: str, width: int) -> str:
    # in the middle of a column, rather right than left, as crash has it
    return (" " * ((width - len(text) + 1) // 2) + text).ljust(width)
