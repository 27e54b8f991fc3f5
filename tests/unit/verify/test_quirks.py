# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of quirks: every remark exists, corpus files show the quirks, the page is the table's."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dumpconv.formats import FORMATS
from dumpconv.verify.quirks import QUIRKS, markdown
from support.command import dumpverify

REPOSITORY = Path(__file__).resolve().parents[3]
SEEN = {
    "kdump/pack-qemu-nameless.kdump": "QK-NAMELESS",
    "kdump/one-bitmap-nearly-empty.kdump": "QK-ONE-BITMAP",
    "elf/paddr-all-ones.elf": "QK-NO-PADDR",
    "elf/end-inside-a-page-with-tail.elf": "QK-SHORT-FILESZ",
    "netdump/i386-filesz-small.netdump": "QK-FILESZ-WRAPS",
    "netdump/savecore-partial.netdump": "QK-ZERO-FOR-ABSENT",
    "lkcd/end-0-4-0.lkcd": "QK-ODD-END",
    "lkcd/unit-4096-gzip.lkcd": "QK-RECORD-UNIT",
    "lkcd/virtual-addresses.lkcd": "QK-VIRTUAL-ADDRESSES",
    "avml/orphans.avml": "QK-ORPHAN-HEADERS",
    "lime/end-inside-a-page.lime": "QK-PARTIAL-ZERO",
    "kcore/old-i386.kcore": "QK-KCORE-NO-PADDR",
}


def test_names_are_unique_and_of_one_form() -> None:
    names = [each.name for each in QUIRKS]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"QK-[A-Z]+(-[A-Z]+)*", name) for name in names)
    assert set(SEEN.values()) <= set(names)


@pytest.mark.parametrize("quirk", QUIRKS, ids=lambda quirk: quirk.name)
def test_formats_have_the_remark(quirk: object) -> None:
    """A remark that no reader makes any more would never be named."""
    each = next(row for row in QUIRKS if row is quirk)
    sources = "\n".join(path.read_text() for path in (REPOSITORY / "formats").glob("*.py"))
    assert re.search(rf'(remark\(|append\(\()\s*"{each.remark}"', sources)
    assert set(each.formats) <= {entry.name for entry in FORMATS}
    assert (REPOSITORY / "docs" / "formats" / f"{each.source}.md").exists()


@pytest.mark.parametrize("name", SEEN)
def test_the_report_names_the_quirk(name: str) -> None:
    done = dumpverify("--json", REPOSITORY / "corpus" / name)
    found = json.loads(done.stdout)["dumps"][0]["findings"]
    told = [each["message"].split(":")[0] for each in found if each["code"] == "I306"]
    assert SEEN[name] in told


def test_the_page_is_the_tables() -> None:
    assert (REPOSITORY / "docs" / "quirks.md").read_text() == markdown()
