# SPDX-License-Identifier: GPL-2.0-or-later
"""`dumpverify` says the same of a file packed as of the file: one pass over a stream loses nothing."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from dumpconv.formats.reader import Options
from dumpconv.verify.pagecheck import PageOptions
from dumpconv.verify.target import VerifyOptions, verify_target
from dumpconv.verify.verdict import TargetReport

CORPUS = Path(__file__).resolve().parents[2] / "corpus"
ALL = sorted(path for path in CORPUS.glob("*/*.*") if path.suffix != ".toml" and path.parent.name not in ("lab", "raw"))
# every seventh file, and all flattened ones: a stream reads these by code of its own
FILES = [path for number, path in enumerate(ALL) if number % 7 == 0 or path.parent.name == "flattened"]
# a place of a cut: the end of the file, or of the stream that it held
PLACE = {"stops-inside-a-record.flat"}


def said(report: TargetReport, *, places: bool) -> object:
    findings = [
        (each.code, each.offset if places else None, each.pfn, each.number)
        for each in report.findings
        if each.code != "I302"
    ]
    return findings, report.ranges, report.digests, report.assurance, report.pages


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_packed_file_is_like_the_plain_one(path: Path, tmp_path: Path) -> None:
    data = path.read_bytes()
    options = VerifyOptions("content", Options(find_sisters=False), PageOptions(1, "serial", True))
    found = []
    for folder, content in (("plain", data), ("packed", gzip.compress(data, 1))):
        (tmp_path / folder).mkdir()
        copy = tmp_path / folder / path.name  # a name can say something: vmcore-incomplete
        copy.write_bytes(content)
        found.append(said(verify_target([str(copy)], options), places=path.name not in PLACE))
    assert found[0] == found[1]
