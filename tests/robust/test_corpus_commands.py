# SPDX-License-Identifier: GPL-2.0-or-later
"""Every small dump of the corpus through every reporting command: a code of the table, no bug, at most a second."""

from __future__ import annotations

import time
import tomllib
from pathlib import Path

import pytest

from dumpconv.cli import EXIT_CODES, main

CORPUS = Path(__file__).resolve().parents[2] / "corpus"
DUMPS = sorted(path for path in CORPUS.glob("*/*") if path.is_file() and path.suffix not in (".toml", ".md", ".py"))


SAID = ("machine", "format", "base", "offset", "page_size")


def options_of(path: Path) -> list[str]:
    """What the user must say of a file that does not tell: from its description."""
    for description in path.parent.glob("*.toml"):
        told = tomllib.loads(description.read_text())
        if path.name in told["files"]:
            said = {name: value for name, value in told.get("options", {}).items() if name in SAID}
            return [f"--{name.replace('_', '-')}={value}" for name, value in said.items()]
    return []


@pytest.mark.parametrize("path", DUMPS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_reporting_commands(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = str(tmp_path / "map.svg")
    begin = time.monotonic()
    for words in (["info"], ["map", "--ddrescue"], ["map", "--picture", picture], ["compare", str(path), "-j", "1"]):
        code = main([words[0], *options_of(path), str(path), *words[1:]])
        if code == 2 and path.parent.name == "raw":
            continue  # flat memory says nothing of itself: what was said, or left out, is the user's mistake
        assert code in set(EXIT_CODES) - {2, 70}, words
        shown = capsys.readouterr()
        assert code in (0, 1, 3, 4) or (not shown.out and len(shown.err.splitlines()) == 1), words
    assert time.monotonic() - begin < 4
