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
        if lines:
            lines.append("")
        flags = f"({'|'.join(entry.flags)})" if entry.flags else "(no mapping)"
        width = max(len(f"{value:x}"), len("PTE"))
        place = f"{entry.physical:x}" if entry.present else ""
        across = max(len(place), len("PHYSICAL"))
        if entry.present:
            lines += [
                f"{'PTE':^{width}}  {'PHYSICAL':^{across}}  FLAGS",
                f"{value:^{width}x}  {place:^{across}}  {flags}",
            ]
        else:
            lines += [f"{'PTE':^{width}}  FLAGS", f"{value:^{width}x}  {flags if value else '(no mapping)'}"]
        data.append(
            {
                "entry": f"{value:#x}",
                "present": entry.present,
                "physical": f"{entry.physical:#x}" if entry.present else None,
                "flags": list(entry.flags),
            }
        )
    return Result(lines, data)
