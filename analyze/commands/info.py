# SPDX-License-Identifier: GPL-2.0-or-later
"""`info`: what is known of the kernel, at which level, and why not more."""

from __future__ import annotations

import argparse

from ...formats.errors import DumpError
from ..kernel import Kernel
from . import Result, printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments: none."""


def run(kernel: Kernel, args: argparse.Namespace) -> Result:
    """Print level and sources."""
    level, why = kernel.level
    machine = kernel.machine
    rows = [
        ("DUMPFILE", ", ".join(source.name for source in kernel.reader.sources)),
        ("FORMAT", kernel.reader.name),
        (
            "MACHINE",
            f"{machine.arch}, {8 * machine.word_size} bit, {machine.byteorder}-endian, pages of {machine.page_size}",
        ),
        ("RELEASE", kernel.release or "not known"),
        ("VMCOREINFO", kernel.info_origin),
        ("LEVEL", f"{level}: {why}"),
    ]
    if level != "L0":
        rows.append(("SYMBOLS", kernel.symbols.how))
    try:
        rows.append(("LOG", f"{len(kernel.log)} records"))
    except DumpError as error:
        rows.append(("LOG", f"none: {error.message}"))
    width = max(len(name) for name, _ in rows)
    return Result(
        [f"{name:>{width}}: {printable(value)}" for name, value in rows], {name.lower(): value for name, value in rows}
    )
