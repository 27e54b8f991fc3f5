# SPDX-License-Identifier: GPL-2.0-or-later
"""The kinds of damage, which check finds each and which none can: the table of docs/damage.md.

    python tests/oracle/damage_kinds.py          # print the tables for docs/damage.md

Each kind is a function that damages a copy of a dump and returns where: what `dumpverify` must name.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from oracle import damage_kdump, damage_others
from oracle.damage_model import KINDS, Kind, Place

__all__ = ["KINDS", "Kind", "Place", "tables"]

# Importing a module of kinds adds them to the list, in this order.
MODULES = (damage_kdump, damage_others)

# -- the note ---------------------------------------------------------------------------------------------------------


def tables() -> str:
    """Give the two tables of docs/damage.md."""
    lines = ["| damage | found by level | code | exit status |", "|---|---|---|---|"]
    lines += [f"| {kind.what} | {kind.level} | {kind.code} | {kind.exit_code} |" for kind in KINDS if kind.level]
    lines += ["", "| damage that no check finds | why, and what does |", "|---|---|"]
    lines += [f"| {kind.what} | {kind.why} |" for kind in KINDS if not kind.level]
    return "\n".join(lines)


if __name__ == "__main__":
    print(tables())
