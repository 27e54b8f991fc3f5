# SPDX-License-Identifier: GPL-2.0-or-later
"""Remarks of readers: a slug means one thing, whoever makes the remark, since finding codes hang on it."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

from dumpconv.verify import codes

REPOSITORY = Path(__file__).resolve().parents[2]

# Slugs that several modules make, and what they mean in all of them.
SHARED = {
    "bits-past-end": "a bitmap has bits past its end",
    "live": "the machine ran while it was dumped",
    "machine": "the dump does not say of which machine it is: one is assumed",
    "no-registers": "the dump has no registers that can be used",
    "notes-damaged": "notes stop in the middle",
    "notes-lost": "the output has no place for notes",
    "one-bitmap": "one bitmap instead of two",
    "page-size-assumed": "the dump does not say how large a page is",
    "registers": "registers are there, and cannot be used",
    "states-lost": "the output has no place for page states",
    "stored-not-ram": "frames are stored that the first bitmap calls no RAM",
    "utsname-shifted": "utsname lies behind its place",
    "version": "the header's version is not known",
    "zero-storage": "frames that are not in the file are zeros or holes",
}


def slugs() -> dict[str, set[str]]:
    """The modules that make each remark."""
    found: dict[str, set[str]] = defaultdict(set)
    for folder in ("formats", "convert"):
        for path in (REPOSITORY / folder).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                    function = node.func
                    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
                    if name in ("remark", "Finding") and isinstance(node.args[0].value, str):
                        found[node.args[0].value].add(f"{folder}/{path.name}")
    return found


def test_slugs_are_unique() -> None:
    several = {slug for slug, modules in slugs().items() if len(modules) > 1}
    assert several == set(SHARED), "a slug is of one module, or says the same in all: then it is in SHARED"


def test_the_test_sees_remarks() -> None:
    assert slugs()["arm-pfn"] == {"formats/kdump.py"}


def test_codes_hang_on_remarks_that_are_made() -> None:
    text = "\n".join(
        path.read_text() for folder in ("formats", "convert") for path in (REPOSITORY / folder).glob("*.py")
    )
    assert not [slug for slug in codes._REMARKS if f'"{slug}"' not in text]
