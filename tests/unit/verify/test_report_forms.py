# SPDX-License-Identifier: GPL-2.0-or-later
"""Forms of the report, read back by the standard library's parsers, with names that want to do harm."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from dumpconv.verify.report_forms import KINDS, make_form
from dumpconv.verify.verdict import TargetReport
from support.command import dumpverify

HOSTILE = "=cmd|' /C calc'!A0,\x1b]0;owned\x07\x00\ufffe\u202e<&\">\n\x9b2J\udcff"
SHOWN = "=cmd|' /C calc'!A0,\\x1b]0;owned\\x07\\x00\\ufffe\\u202e<&\">\\x0a\\x9b2J\\xff"


def text_of(kind: str, *reports: TargetReport, **more: bool) -> str:
    form = make_form(kind, **more)
    return "".join([*form.begin(), *(chunk for each in reports for chunk in form.add(each)), *form.end()])


def report(*codes: str, name: str = "dump") -> TargetReport:
    made = TargetReport([name], "pages", format="kdump")
    for code in codes:
        made.add(code, f"about {name}")
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_no_form_passes_on_what_a_terminal_obeys(kind: str) -> None:
    text = text_of(kind, report("E103", name=HOSTILE))
    text.encode("utf-8")  # no lone surrogates
    assert all(char.isprintable() or char == "\n" for char in text)


def test_json_lines_one_a_dump_with_the_name_as_it_is() -> None:
    lines = [json.loads(line) for line in text_of("jsonl", report(name=HOSTILE), report("E103")).splitlines()]
    assert [(each["files"], each["exit_code"]) for each in lines] == [([HOSTILE], 0), (["dump"], 3)]


def test_csv_has_a_row_for_each_finding_and_no_formula() -> None:
    text = text_of("csv", report(name=HOSTILE), report("E103", "W217"), report(name="\t@SUM(1)"))
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [each["path"] for each in rows] == ["'" + SHOWN, "dump", "dump", "\\x09@SUM(1)"]
    assert [(each["code"], each["exit_code"]) for each in rows] == [("", "0"), ("E103", "3"), ("W217", "3"), ("", "0")]


@pytest.mark.parametrize("start", "=+-@")
def test_csv_formulas_are_quoted(start: str) -> None:
    rows = list(csv.DictReader(io.StringIO(text_of("csv", report(name=f" {start}1")))))
    assert rows[0]["path"] == f"' {start}1"


def test_junit_counts_failures_errors_and_what_is_no_dump() -> None:
    reports = [report(name=HOSTILE), report("W217", "E103"), report("E150"), report("E153"), report("I301")]
    root = ET.fromstring(text_of("junit", *reports))  # noqa: S314 - our own
    (suite,) = root
    assert [suite.get(key) for key in ("tests", "failures", "errors", "skipped")] == ["5", "1", "2", "1"]
    assert suite[0].get("name") == SHOWN
    kinds = [(case[0].tag, case[0].get("type")) for case in suite]
    errors = [("error", "E150"), ("error", "E153")]
    assert kinds == [("system-out", None), ("failure", "E103"), *errors, ("skipped", None)]


def test_output_is_written_once_and_not_over_the_dump(tmp_path: Path) -> None:
    dump = tmp_path / "dump"
    dump.write_bytes(b"no dump")
    out = tmp_path / "out.jsonl"
    words = ("--report", "jsonl", "--output", out, dump)
    assert (dumpverify(*words).returncode, json.loads(out.read_text())["exit_code"]) == (6, 6)
    assert dumpverify(*words).returncode == 2  # it exists
    assert dumpverify("--force", *words).stdout == b""
    assert dumpverify("--force", "--output", dump, dump).returncode == 2
    assert dump.read_bytes() == b"no dump"
    assert dumpverify("--json", "--report", "csv", dump).returncode == 2


def test_premis_has_no_fixity_check_of_a_file_that_the_manifest_does_not_list() -> None:
    def events(*codes: str, assurance: str = "size") -> dict[str, str]:
        report = TargetReport(["a"], "pages", assurance={assurance: 1})
        for code in codes:
            report.add(code, "words")
        root = ET.fromstring(text_of("premis", report))  # noqa: S314 - our own
        name = "{http://www.loc.gov/premis/v3}"
        found = root.iter(f"{name}event")
        return {str(each.findtext(f"{name}eventType")): str(each.findtext(f".//{name}eventOutcome")) for each in found}

    assert events("W221") == {"validation": "pass"}
    assert events("W221", "E112") == {"fixity check": "fail", "validation": "pass"}
    assert events(assurance="fixity") == {"fixity check": "pass", "validation": "pass"}


def test_many_dumps_name_the_bad_ones_once_more_the_worst_first() -> None:
    reports = [report("I303", name=f"good-{number}") for number in range(7)]
    reports += [
        report("E150", name="a\x1b"),
        report("W217", name="b"),
        report("W217", "E103", name="c"),
        report("E153"),
    ]
    *_, blank, first, second, last = text_of("text", *reports).split("\n")[:-1]
    assert (blank, first) == ("", "DAMAGED: c (E103 page does not decode)")
    assert second == "NOT CHECKED: a\\x1b (E150 cannot be read)"
    assert last == "11 dumps: 1 DAMAGED, 1 NOT CHECKED, 1 doubtful, 7 good, 1 not checked"
    assert "doubtful: b (W217" in text_of("text", *reports, strict=True)
    assert "\n\n" not in text_of("text", *reports[:9])
    many = text_of("text", *reports, *[report("E103")] * 60).splitlines()
    assert many[-2] == "and 12 more, above" and many[-3].startswith("DAMAGED: dump ")


def test_quiet_tells_only_what_is_not_good() -> None:
    fine = [report("I303"), report("E153"), report("I301"), report("W217")]
    assert text_of("text", *fine, quiet=True) == ""
    assert text_of("text", *fine, quiet=True, strict=True).startswith("dump: doubtful")
    lines = text_of("text", *fine, report("E103", name="bad"), *fine, quiet=True).splitlines()
    assert lines[0].startswith("bad: DAMAGED") and lines[1].startswith("  E103")
    assert lines[2:] == ["7 dumps: 1 DAMAGED, 2 doubtful, 2 good, 2 not checked, 2 skipped"]
    assert len(text_of("jsonl", *fine, quiet=True).splitlines()) == 4


def test_json_is_as_json_dumps_writes_it() -> None:
    for reports in ([], [report(name=HOSTILE)], [report("E103"), report()]):
        text = text_of("json", *reports)
        assert text == json.dumps(json.loads(text), indent=2) + "\n"
