# SPDX-License-Identifier: GPL-2.0-or-later
"""`dumpverify --html FILE`: all dumps' reports as one self-contained page, for phones, screens and paper.

No script, no font, no image and no address in it: nothing is fetched, and the page's own policy forbids it. All text
from dumps, file names and messages goes through `text`; numbers and our own words only are written as they are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from .codes import CODES
from .display.html import badge, check_free, check_page, facts, page, table, text, when, write_page
from .display.html_map import map_style, render_map
from .display.measure import human_size
from .verdict import ASSURANCE, TargetReport, VerifyFinding
from .verify_text import is_skipped, summary, verdict

__all__ = ["HtmlReport"]

_MAX_RANGES = 100
_MAX_CHARTS = 200  # dumps with a picture; more would make a page that no browser opens
_GRADES = {"good": "good", "skipped": "faint", "doubtful": "doubt", "incomplete": "doubt", "not checked": "doubt"}
_KINDS = {"E": "bad", "W": "doubt", "I": "note"}


class HtmlReport:
    """The page of a run; written when the run is over.

    Args:
        path: Its file.
        paths: What the run was asked to check.
        force: Whether the file may exist.

    Raises:
        UsageError: The file exists (without force), or is one of the paths.
    """

    def __init__(self, path: str, paths: Sequence[str], *, force: bool) -> None:
        self._path = path
        self._rows: list[tuple[str, str, str, str]] = []
        self._sections: list[str] = []
        self._nr_charts = 0
        check_page(path, paths)
        check_free(path, force=force)

    def add(self, report: TargetReport) -> None:
        """Add the report of one dump.

        Raises:
            UsageError: The page would replace one of the dump's files.
        """
        if is_skipped(report):
            return
        check_page(self._path, report.files)
        if report.chart is not None:
            self._nr_charts += 1
            if self._nr_charts > _MAX_CHARTS:
                report.chart = None
        number = len(self._rows) + 1
        self._rows.append((f"d{number}", report.files[0], verdict(report), report.format))
        self._sections.append("".join(_section(report, f"d{number}")))

    def write(self) -> None:
        """Write the page; it appears under its name only when it is whole.

        Raises:
            OutputError: It cannot be written.
        """
        write_page(self._path, page("dumpverify report", self._body(), map_style()))

    def _body(self) -> Iterator[str]:
        yield "<header>\n<h1>dumpverify report</h1>\n"
        counts = summary(row[2] for row in self._rows)
        words = ", ".join(f"{count} {word}" for word, count in counts.items()) or "none"
        yield f'<p class="faint">{when()}. {len(self._rows)} dump{"s" * (len(self._rows) != 1)}: {words}.</p>\n'
        if len(self._rows) > 1:
            links = [
                [f'<a href="#{key}">{text(name)}</a>', text(form), _badge(word)] for key, name, word, form in self._rows
            ]
            yield from table(("file", "format", "verdict"), links)
        yield "</header>\n<main>\n"
        yield from self._sections
        yield "</main>\n"


# -- one dump ------------------------------------------------------------------------------------------------------


def _badge(word: str) -> str:
    return badge(word, _GRADES.get(word, "bad"))


def _section(report: TargetReport, key: str) -> Iterator[str]:
    word = verdict(report)
    name = os.path.basename(report.files[0]) or report.files[0]
    yield f'<section id="{key}">\n<h2>{text(name)} {_badge(word)}</h2>\n'
    yield from _facts(report)
    if report.findings:
        yield "<h3>Findings</h3>\n"
        yield from _findings(report)
    if report.impact:
        yield "<h3>In the bad pages</h3>\n<ul>\n"
        yield "".join(f"<li>{text(line)}</li>\n" for line in report.impact) + "</ul>\n"
    if report.chart is not None:
        yield "<h3>Memory</h3>\n"
        yield from render_map(report.chart)
    yield '<div class="pair">\n'
    if any(report.pages.values()):
        yield "<div>\n<h3>Pages</h3>\n"
        yield from _pages(report)
        yield "</div>\n"
    if report.assurance:
        yield "<div>\n<h3>What was proven</h3>\n"
        rows = [[f"{count:,}", text(ASSURANCE[name])] for name, count in report.assurance.items()]
        yield from table(("pages", "proven"), rows, "numbers")
        yield "</div>\n"
    if report.proven:
        yield "<div>\n<h3>The kernel makes sense</h3>\n<ul>\n"
        yield "".join(f"<li>{text(line)}</li>\n" for line in report.proven) + "</ul>\n</div>\n"
    yield "</div>\n"
    if report.ranges:
        yield "<h3>Bad ranges</h3>\n"
        yield from _ranges(report)
    if report.digests:
        yield "<h3>Digests</h3>\n"
        digests = [[text(name), f"<code>{text(value)}</code>"] for name, value in report.digests.items()]
        yield from table(("digest", "value"), digests)
    yield "</section>\n"


def _facts(report: TargetReport) -> Iterator[str]:
    rows = [("file" if len(report.files) == 1 else "files", ", ".join(report.files))]
    rows += [("format", report.format), ("machine", report.arch), ("kernel", report.kernel)]
    rows += [("page size", human_size(report.page_size) if report.page_size else "")]
    done = f"{report.level}, {report.seconds:.1f} s"
    if report.bytes:
        done += f", {human_size(report.bytes)} of pages read"
    rows.append(("checked to level", done))
    yield from facts(rows)


def _findings(report: TargetReport) -> Iterator[str]:
    order = sorted(report.findings, key=lambda each: "EWI".index(each.code[0]))
    yield '<ul class="findings">\n'
    for each in order:
        code = CODES[each.code]
        allowed = ' <span class="badge faint">allowed</span>' if each.code in report.allowed else ""
        yield f'<li class="{_KINDS[each.code[0]]}"><p><b>{each.code} {text(code.title)}</b>{allowed}</p>\n'
        yield f"<p>{text(each.message)}{_place(each)}</p>\n"
        yield f'<p class="faint">Cause: {text(code.cause)}.'
        yield f" What to do: {text(code.remedy)}.</p></li>\n" if code.remedy != "none" else "</p></li>\n"
    yield "</ul>\n"


def _place(finding: VerifyFinding) -> str:
    places = [f"page frame {finding.pfn:#x}"] if finding.pfn is not None else []
    if finding.offset is not None:
        places.append(f"file offset {finding.offset:#x}")
    shown = f" <code>({', '.join(places)})</code>" if places else ""
    return shown + (f"; <b>{finding.number:,} in all</b>" if finding.number > 1 else "")


def _pages(report: TargetReport) -> Iterator[str]:
    rows = []
    for state, count in report.pages.items():
        if count:
            size = human_size(count * report.page_size) if report.page_size else ""
            rows.append([f"{count:,}", size, text(state)])
    if report.nr_bad:
        size = human_size(report.nr_bad * report.page_size) if report.page_size else ""
        rows.append([f"{report.nr_bad:,}", size, "<b>of these, bad</b>"])
    yield from table(("pages", "size", "state"), rows, "numbers")


def _ranges(report: TargetReport) -> Iterator[str]:
    rows = []
    for bad in report.ranges[:_MAX_RANGES]:
        last = bad.end_pfn - 1
        frames = f"{bad.start_pfn:#x}" + (f"-{last:#x}" if last > bad.start_pfn else "")
        place = f"{bad.start_offset:#x}-{bad.end_offset:#x}" if bad.end_offset > bad.start_offset else "not known"
        if len(report.files) > 1 and bad.file < len(report.files):
            place += f" of {os.path.basename(report.files[bad.file])}"
        count = f"{bad.end_pfn - bad.start_pfn:,}"
        cells = [text(bad.state.name.lower()), count, f"<code>{frames}</code>"]
        rows.append([*cells, f"<code>{text(place)}</code>", bad.code, text(bad.reason)])
    yield from table(("state", "pages", "page frames", "file bytes", "code", "reason"), rows)
    left = len(report.ranges) - len(rows) + report.nr_ranges_left_out
    more = f"; {left:,} more ranges are in the output of --json" if left else ""
    yield f'<p class="faint">{report.nr_bad:,} bad pages in all{more}.</p>\n'
