# SPDX-License-Identifier: GPL-2.0-or-later
"""The corpus is whole, small, described file by file, and the reference decoder finds what the descriptions say."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import make_corpus

DESCRIPTIONS = make_corpus.descriptions()


@pytest.mark.parametrize("description", DESCRIPTIONS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_case_is_as_described(description: Path) -> None:
    assert make_corpus.check(description) == []


def test_every_file_has_a_description() -> None:
    assert make_corpus.stray_files() == []


def test_every_case_is_stored() -> None:
    made = {(case.format, case.name) for case in make_corpus.all_cases()}
    assert made == {(path.parent.name, path.stem) for path in DESCRIPTIONS}


def test_names_are_unique() -> None:
    names = [(case.format, name) for case in make_corpus.all_cases() for name in case.file_names()]
    assert len(names) == len(set(names))
