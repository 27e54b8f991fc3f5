# SPDX-License-Identifier: GPL-2.0-or-later
"""`union`: `struct` for unions only."""

from __future__ import annotations

import argparse

from ...formats.errors import UsageError
from ..kernel import Kernel
from . import Result, printable, struct
from .struct import add_arguments

__all__ = ["add_arguments", "run"]


def run(kernel: Kernel, args: argparse.Namespace) -> Result:
    """Print a layout or values."""
    name = args.name.partition(".")[0]
    btf = kernel.types_with(name)
    found = btf.find(name, "union", "typedef") or btf.find(name)
    if found is not None and btf.strip(found.id).kind_name != "union":
        raise UsageError(
            f"{printable(name)} is a {btf.strip(found.id).kind_name}, not a union", hint="struct, or whatis"
        )
    return struct.run(kernel, args)
