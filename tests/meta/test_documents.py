# SPDX-License-Identifier: GPL-2.0-or-later
"""What is made from the code is current: manual page, table of formats."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dumpconv.cli import EXIT_CODES
from dumpconv.formats import FORMATS as READERS
from dumpconv.formats import codecs, listing

REPOSITORY = Path(__file__).resolve().parents[2]


def test_manual_page_is_current() -> None:
    done = subprocess.run([sys.executable, REPOSITORY / "docs" / "make_man.py", "--check"], check=False)
    assert done.returncode == 0, "run: python docs/make_man.py"


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
