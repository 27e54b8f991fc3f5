# SPDX-License-Identifier: GPL-2.0-or-later
"""Every test and corpus case that docs/traps.md names exists, and every trap has one or says why not."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
LINES = (REPOSITORY / "docs" / "traps.md").read_text().splitlines()
ROWS = [line for line in LINES if line.startswith("| ") and not line.startswith("| trap ")]
NAMES = sorted({name for row in ROWS for name in re.findall(r"`([^`]+)`", row.split("|")[2])})


def test_there_are_rows() -> None:
    assert len(ROWS) > 70


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:40])
def test_a_trap_has_a_test_or_a_reason(row: str) -> None:
    covered = row.split("|")[2].strip()
    assert covered.startswith(("`", "no test"))


@pytest.mark.parametrize("name", [name for name in NAMES if "/" in name])
def test_what_is_named_exists(name: str) -> None:
    if not name.startswith("tests/"):
        assert (REPOSITORY / "corpus" / f"{name}.toml").is_file()
        return
    path, _, function = name.partition("::")
    tree = ast.parse((REPOSITORY / path).read_text())
    functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert function in functions or (not function and any(each.startswith("test_") for each in functions))
