# SPDX-License-Identifier: GPL-2.0-or-later
"""What is made from the code is current: manual page, table of formats."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from dumpconv.formats import FORMATS as READERS
from dumpconv.formats import codecs, listing

REPOSITORY = Path(__file__).resolve().parents[2]


def test_manual_page_is_current() -> None:
    done = subprocess.run([sys.executable, REPOSITORY / "docs" / "make_man.py", "--check"], check=False)
    assert done.returncode == 0, "run: python docs/make_man.py"


def test_every_reader_is_listed() -> None:
    assert [reader.name for reader in READERS] == [row.name for row in listing.FORMATS if row.reads]


def test_every_codec_is_listed() -> None:
    names = {"raw"} | {row.name for row in listing.CODECS}
    assert {name for row in listing.FORMATS for name in row.codecs} <= names
    assert names == set(codecs.CODEC_NAMES.values()) - {"zero", "bad"}
