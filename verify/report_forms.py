# SPDX-License-Identifier: GPL-2.0-or-later
"""Forms of `dumpverify`'s report: text, JSON, JSON lines, CSV and JUnit (PREMIS 3 is in report_premis.py).

Names of files and texts from dumps are hostile: no form lets them steer a terminal, a spreadsheet or a parser.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from xml.etree import ElementTree as ET

from .codes import CODES
from .verdict import TargetReport, severity
from .verify_text import SCHEMA, is_skipped, render, render_line, render_summary, summary, to_json, verdict

__all__ = ["KINDS", "Form", "clean", "make_form"]

KINDS = ("text", "json", "jsonl", "csv", "junit", "premis")
_MANY = 10  # dumps, of which the bad ones are named once more at the end
_MAX_BAD = 50  # of them
_COLUMNS = ("path", "verdict", "exit_code", "level", "format", "arch", "kernel", "code", "message", "offset", "pfn")


def clean(text: str) -> str:
    """Return text with everything that a terminal obeys or XML forbids written as an escape: \\x1b, \\u202e."""
    return "".join(char if char.isprintable() else _escape(ord(char)) for char in text)


def _escape(value: int) -> str:
    if 0xDC80 <= value <= 0xDCFF:
        return f"\\x{value - 0xDC00:02x}"  # a byte of a name that is no UTF-8
    return f"\\x{value:02x}" if value < 0x100 else f"\\u{value:04x}" if value < 0x10000 else f"\\U{value:08x}"


def _cell(value: object) -> str:
    # a spreadsheet takes a cell that begins so for a formula
    text = clean("" if value is None else str(value))
    return "'" + text if text.lstrip()[:1] in ("=", "+", "-", "@") and text.strip() else text


class Form:
    """A form of the report; this one is text.

    Attributes:
        strict: Whether warnings count.
        quiet: Tell only of dumps that were checked and are not good (text).
        verdicts: One for each dump so far.
        skipped: Files that --max-age left out, by the end.
    """

    def __init__(self, *, strict: bool = False, quiet: bool = False) -> None:
        self.strict, self.quiet = strict, quiet
        self.verdicts: list[str] = []
        self.skipped = 0
        self._bad: dict[int, list[str]] = {}  # lines by exit code
        self._nr_bad = 0

    def begin(self) -> Iterator[str]:
        """Yield what comes before all."""
        yield from ()

    def add(self, report: TargetReport) -> Iterator[str]:
        """Yield what can be written once a dump is checked."""
        self.verdicts.append(verdict(report))
        code = report.exit_code(strict=self.strict)
        if code not in (0, 10):
            lines = self._bad.setdefault(code, [])
            self._nr_bad += 1
            if len(lines) < _MAX_BAD:
                lines.append(clean(render_line(report, strict=self.strict)))
        elif self.quiet:
            return
        for line in render(report):
            yield clean(line) + "\n"

    def end(self) -> Iterator[str]:
        """Yield the rest: of many dumps what is not good, the worst first, and how many came out how."""
        if self.quiet and not self._bad:
            return
        if len(self.verdicts) >= _MANY and not self.quiet:
            lines = [line for code in sorted(self._bad, key=severity) for line in self._bad[code]]
            yield from ("\n" * (number == 0) + line + "\n" for number, line in enumerate(lines[:_MAX_BAD]))
            if self._nr_bad > _MAX_BAD:
                yield f"and {self._nr_bad - _MAX_BAD} more, above\n"
        if len(self.verdicts) != 1 or self.skipped:
            yield render_summary(self.verdicts, self.skipped) + "\n"


class _Json(Form):
    def __init__(self, *, strict: bool = False) -> None:
        super().__init__(strict=strict)
        self._found: list[str] = []  # a fifth of what the values would take

    def add(self, report: TargetReport) -> Iterator[str]:
        self.verdicts.append(verdict(report))
        self._found.append(json.dumps(to_json(report), indent=2).replace("\n", "\n    "))
        yield from ()

    def end(self) -> Iterator[str]:
        yield f'{{\n  "schema": {json.dumps(SCHEMA)},\n  "dumps": ['
        for number, text in enumerate(self._found):
            yield f"{',' * (number > 0)}\n    {text}"
        found = {"summary": summary(self.verdicts), "skipped_by_age": self.skipped}
        yield "\n  " * bool(self._found) + "]," + json.dumps(found, indent=2)[1:] + "\n"


class _JsonLines(Form):
    def add(self, report: TargetReport) -> Iterator[str]:
        yield json.dumps({"schema": SCHEMA, **to_json(report)}) + "\n"

    def end(self) -> Iterator[str]:
        yield from ()


class _Csv(Form):
    def begin(self) -> Iterator[str]:
        yield ",".join(_COLUMNS) + "\n"

    def add(self, report: TargetReport) -> Iterator[str]:
        whole = (verdict(report), report.exit_code(strict=self.strict), report.level)
        head = (report.files[0], *whole, report.format, report.arch, report.kernel)
        found = [(each.code, each.message, each.offset, each.pfn) for each in report.findings]
        for row in found or [("", "", None, None)]:
            line = io.StringIO()
            csv.writer(line, lineterminator="\n").writerow([_cell(value) for value in (*head, *row)])
            yield line.getvalue()

    def end(self) -> Iterator[str]:
        yield from ()


class _JUnit(Form):
    def __init__(self, *, strict: bool = False) -> None:
        super().__init__(strict=strict)
        self._counts = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
        self._seconds = 0.0
        self._root = ET.Element("testsuites")
        self._suite = ET.SubElement(self._root, "testsuite", name="dumpverify")

    def add(self, report: TargetReport) -> Iterator[str]:
        self._counts["tests"] += 1
        self._seconds += report.seconds
        case = ET.SubElement(self._suite, "testcase", classname=f"dumpverify.{report.level}")
        case.set("name", clean(report.files[0]))
        case.set("time", f"{report.seconds:.3f}")
        code = report.exit_code(strict=self.strict)
        text = "\n".join(clean(line) for line in render(report))
        if is_skipped(report):
            self._counts["skipped"] += 1
            ET.SubElement(case, "skipped")
        elif code:
            kind = "failure" if code in (3, 4, 5, 7) else "error"
            self._counts[kind + "s"] += 1
            worst = next(e for e in report.findings if CODES[e.code].exit_code == code and e.code not in report.allowed)
            ET.SubElement(case, kind, type=worst.code, message=clean(worst.message)).text = text
        else:
            ET.SubElement(case, "system-out").text = text
        yield from ()

    def end(self) -> Iterator[str]:
        for name, count in self._counts.items():
            self._suite.set(name, str(count))
        self._suite.set("time", f"{self._seconds:.3f}")
        ET.indent(self._root)
        yield '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(self._root, encoding="unicode") + "\n"


_FORMS: dict[str, type[Form]] = {
    "json": _Json,
    "jsonl": _JsonLines,
    "csv": _Csv,
    "junit": _JUnit,
}


def make_form(kind: str, *, strict: bool = False, quiet: bool = False) -> Form:
    """Return the form of a name of `KINDS`."""
    if kind == "premis":
        from .report_premis import Premis

        return Premis(strict=strict)
    return Form(strict=strict, quiet=quiet) if kind == "text" else _FORMS[kind](strict=strict)
