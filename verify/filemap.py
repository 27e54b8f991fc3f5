# SPDX-License-Identifier: GPL-2.0-or-later
"""The bad bytes of an input file as a ddrescue map file: `+` good, `-` bad; positions are offsets in the file.

`ddrescue --domain-mapfile` fetches those from another copy once their signs are changed (`ddrescuelog -t -`).
"""

from __future__ import annotations

import os

import numpy as np

from .. import __version__
from ..formats.errors import UsageError
from ..formats.intervals import union
from .manifest_write import write_text
from .verdict import TargetReport

__all__ = ["render_file_map", "write_file_maps"]


def render_file_map(size: int, bad: list[tuple[int, int]]) -> str:
    """Return the map file of a file.

    Args:
        size: Of the file, bytes.
        bad: Ranges of bytes that are bad, in any order; what lies past the end does not count.
    """
    clipped = [(low, min(high, size)) for low, high in bad if low < min(high, size)]
    table = np.array(clipped, np.uint64).reshape(-1, 2)
    rows = []
    at = 0
    for low, high in zip(*(column.tolist() for column in union(table[:, 0], table[:, 1])), strict=True):
        if low > at:
            rows.append((at, low - at, "+"))
        rows.append((low, high - low, "-"))
        at = high
    if at < size:
        rows.append((at, size - at, "+"))
    lines = [
        f"# Mapfile. Created by dumpverify {__version__}: positions are offsets in the dump's file",
        "# current_pos  current_status  current_pass",
        "0x00000000     +               1",
        "#      pos        size  status",
        *(f"0x{start:08X}  0x{length:08X}  {mark}" for start, length, mark in rows),
    ]
    return "\n".join(lines) + "\n"


def write_file_maps(report: TargetReport, path: str) -> list[str]:
    """Write the map of the dump's file; of a set, FILE.1, FILE.2 and so on in the order of its files.

    Returns:
        The names written.

    Raises:
        UsageError: The dump's offsets are not those of a file: it was unpacked on the way.
        OutputError: They cannot be written.
    """
    names = list(dict.fromkeys(report.places))
    if not names or "" in names:
        raise UsageError(
            "the dump is packed: places in it are not places in the file", path=report.files[0], hint="unpack it first"
        )
    written = []
    for number, name in enumerate(names, 1):
        bad = [
            (each.start_offset, each.end_offset)
            for each in report.ranges
            if each.file < len(report.places) and report.places[each.file] == name
        ]
        target = path if len(names) == 1 else f"{path}.{number}"
        write_text(target, render_file_map(os.path.getsize(name), bad))
        written.append(target)
    return written
