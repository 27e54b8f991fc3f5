# SPDX-License-Identifier: GPL-2.0-or-later
"""What is made from the code is current: manual page, table of formats."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from dumpconv.cli import EXIT_CODES
from dumpconv.formats import FORMATS as READERS
from dumpconv.formats import codecs, listing

REPOSITORY = Path(__file__).resolve().parents[2]


def test_manual_pages_are_current() -> None:
    done = subprocess.run([sys.executable, REPOSITORY / "docs" / "make_man.py", "--check"], check=False)
    assert done.returncode == 0, "run: python docs/make_man.py"


def test_manual_pages_are_installed() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    listed = project["tool"]["setuptools"]["data-files"]["share/man/man1"]
    assert sorted(listed) == sorted(f"docs/{path.name}" for path in (REPOSITORY / "docs").glob("*.1"))


def test_the_page_of_findings_is_current() -> None:
    done = subprocess.run([sys.executable, REPOSITORY / "docs" / "make_findings.py", "--check"], check=False)
    assert done.returncode == 0, "run: python docs/make_findings.py"


def test_every_reader_is_listed() -> None:
    assert [reader.name for reader in READERS] == [row.name for row in listing.FORMATS if row.reads]


def test_every_codec_is_listed() -> None:
    names = {"raw"} | {row.name for row in listing.CODECS}
    assert {name for row in listing.FORMATS for name in row.codecs} <= names
    assert names == set(codecs.CODEC_NAMES.values()) - {"zero", "bad"}


def test_every_codec_has_a_colour() -> None:
    from dumpconv.verify.display.picture import KINDS

    assert set(codecs.CODEC_NAMES.values()) - {"bad"} <= {name for name, _ in KINDS}


def test_table_of_formats_in_the_readme_is_current() -> None:
    _, marked = (REPOSITORY / "README.md").read_text().split("<!-- dumpconv formats --markdown -->\n")
    table, _ = marked.split("<!-- end -->")
    wanted = "\n".join(listing.render_markdown()).strip("\n").splitlines()
    assert table.strip("\n").splitlines() == wanted, "put the output of `dumpconv formats --markdown` there"


@pytest.mark.parametrize("name", ["README.md", "docs/exit-codes.md"])
def test_tables_of_exit_codes_are_the_programs(name: str) -> None:
    text = (REPOSITORY / name).read_text()
    _, table = text.split("| code | meaning |\n|---|---|\n")
    rows = table.split("\n\n")[0].splitlines()
    assert rows == [f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items()] + ["| 128+N | signal N |"]


def cron_lines() -> list[str]:
    texts = [(REPOSITORY / name).read_text() for name in ("README.md", "docs/dumpverify.md")]
    return [
        line.strip() for text in texts for line in text.splitlines() if re.match(r"\s*[\d*]+ [\d*]+ \* \* \* ", line)
    ]


def test_the_cron_line_is_the_same_everywhere() -> None:
    lines = cron_lines()
    assert len(lines) == 2
    assert lines[0] == lines[1]


@pytest.mark.parametrize("damaged", [False, True])
def test_the_cron_line_works(tmp_path: Path, damaged: bool, need: Callable[..., None]) -> None:
    """As cron runs it: by sh, % unescaped; silent where all is good, a report for each day, none replaced."""
    need("nice", "ionice")
    line = cron_lines()[0].split(" ", 5)[5].replace("\\%", "%")
    for place in ("/var/lib/dumpverify", "/var/log/dumpverify", "/archive"):
        folder = tmp_path / Path(place).name if place != "/var/log/dumpverify" else tmp_path / "log"
        folder.mkdir()
        line = line.replace(place, str(folder))
    name = "codec-mixed.kdump"
    data = (REPOSITORY / "corpus" / "kdump" / name).read_bytes()
    (tmp_path / "archive" / name).write_bytes(data[:-100] if damaged else data)
    program = tmp_path / "dumpverify.sh"
    program.write_text(
        f'#!/bin/sh\nexec {sys.executable} -c "from dumpconv.cli import run_verify; run_verify()" "$@"\n'
    )
    program.chmod(0o755)
    (tmp_path / "bin").mkdir()
    program.rename(tmp_path / "bin" / "dumpverify")
    environment = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "HOME": "/"}

    def run() -> str:
        done = subprocess.run(["sh", "-c", line], env=environment, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    said = run()
    assert bool(said) == damaged
    assert not damaged or said.startswith(f"{tmp_path / 'archive' / name}: DAMAGED")
    (report,) = (tmp_path / "log").iterdir()
    before = report.read_bytes()
    assert name.encode() in before
    assert "the file exists" in run()  # the same day once more: the report stays
    assert report.read_bytes() == before
