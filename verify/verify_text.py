# SPDX-License-Identifier: GPL-2.0-or-later
"""What `dumpverify` prints: lines for people, and JSON values (docs/json.md)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from .codes import CODES
from .display.measure import human_size
from .verdict import ASSURANCE, TargetReport

__all__ = ["SCHEMA", "is_skipped", "render", "render_line", "render_summary", "summary", "to_json", "verdict"]

SCHEMA = "dumpconv.verify/1"
_VERDICTS = {
    0: "good",
    1: "NOT CHECKED",
    3: "DAMAGED",
    4: "incomplete",
    5: "CHANGED",
    6: "not recognised",
    7: "doubtful",
    10: "not checked",
    2: "usage",
    70: "NOT CHECKED",
}
_MAX_RANGES = 20


def render(report: TargetReport) -> Iterator[str]:
    """Yield the lines on one dump."""
    if is_skipped(report) and report.findings[0].code == "I301":
        return
    name = report.files[0] + (f" and {len(report.files) - 1} more" if len(report.files) > 1 else "")
    what = " ".join(word for word in (report.format, report.arch, report.kernel) if word)
    yield f"{name}: {verdict(report)}" + (f" ({what})" if what else "")
    if report.pages:
        counts = [f"{count} {state}" for state, count in report.pages.items() if count]
        rate = report.bytes / report.seconds if report.seconds else 0
        speed = f", {human_size(report.bytes)} decoded at {human_size(int(rate))}/s" if report.bytes else ""
        yield f"  pages: {', '.join(counts) or 'none'}; level {report.level}, {report.seconds:.2f} s{speed}"
    for key, count in report.assurance.items():
        yield f"  proven of {count} pages: {ASSURANCE[key]}"
    for line in report.proven:
        yield f"  kernel: {line}"
    for finding in report.findings:
        where = [f"pfn {finding.pfn:#x}" if finding.pfn is not None else ""]
        where.append(f"file offset {finding.offset:#x}" if finding.offset is not None else "")
        places = ", ".join(each for each in where if each)
        more = f"; {finding.number} in all" if finding.number > 1 else ""
        allowed = " [allowed]" if finding.code in report.allowed else ""
        title = CODES[finding.code].title
        yield f"  {finding.code} {title}: {finding.message}{f' ({places})' if places else ''}{more}{allowed}"
    for bad in report.ranges[:_MAX_RANGES]:
        place = f"file bytes {bad.start_offset:#x}-{bad.end_offset:#x}" if bad.end_offset > bad.start_offset else ""
        yield f"    {bad.state.name.lower()} pfn {bad.start_pfn:#x}-{bad.end_pfn - 1:#x} {place} {bad.code}".rstrip()
    left = len(report.ranges) - _MAX_RANGES + report.nr_ranges_left_out
    if left > 0:
        yield f"    and {left} more ranges, {report.nr_bad} pages in all (--json has them)"
    if report.impact:
        yield f"  in the bad pages: {', '.join(report.impact)}"
    for name, value in report.digests.items():
        yield f"  {name} digest {value}"


def render_line(report: TargetReport, *, strict: bool) -> str:
    """Return one line on a dump that is not good: verdict, name, the worst that was found."""
    code = report.exit_code(strict=strict)
    worst = (each.code for each in report.findings if CODES[each.code].exit_code == code)
    found = next(each for each in worst if each not in report.allowed)
    return f"{verdict(report)}: {report.files[0]} ({found} {CODES[found].title})"


def is_skipped(report: TargetReport) -> bool:
    """Whether it is a file of a directory that is no dump at all, or a link that is not followed."""
    return any(each.code in ("I301", "I309") for each in report.findings) and not report.exit_code()


def verdict(report: TargetReport) -> str:
    """Return the word on one dump."""
    return "skipped" if is_skipped(report) else _VERDICTS[report.exit_code(strict=True)]


def summary(verdicts: Iterable[str]) -> dict[str, int]:
    """Return how many dumps came out how."""
    return dict(sorted(Counter(verdicts).items()))


def render_summary(verdicts: Sequence[str], skipped_by_age: int = 0) -> str:
    """Return the closing line."""
    skipped = verdicts.count("skipped")
    counts = ", ".join(f"{count} {word}" for word, count in summary(verdicts).items())
    dumps = len(verdicts) - skipped
    later = f"; {skipped_by_age} good before and not due (--max-age)" if skipped_by_age else ""
    return f"{dumps} dump{'s' * (dumps != 1)}: {counts or 'none'}{later}"


def to_json(report: TargetReport) -> dict[str, Any]:
    """Return one dump's report as JSON values."""
    return {
        "files": report.files,
        "verdict": verdict(report),
        "exit_code": report.exit_code(),
        "level": report.level,
        "format": report.format or None,
        "arch": report.arch or None,
        "kernel": report.kernel or None,
        "page_size": report.page_size or None,
        "pages": report.pages,
        "assurance": report.assurance,
        "digests": report.digests,
        "seconds": round(report.seconds, 3),
        "bytes": report.bytes,
        "findings": [
            {
                "code": each.code,
                "title": CODES[each.code].title,
                "message": each.message,
                "offset": each.offset,
                "pfn": each.pfn,
                "number": each.number,
                "allowed": each.code in report.allowed,
            }
            for each in report.findings
        ],
        "bad": [
            {
                "start_pfn": each.start_pfn,
                "end_pfn": each.end_pfn,
                "state": each.state.name.lower(),
                "file": each.file,
                "start_offset": each.start_offset,
                "end_offset": each.end_offset,
                "reason": each.reason,
                "code": each.code,
            }
            for each in report.ranges
        ],
        "changed": [{"start_pfn": start, "end_pfn": end} for start, end in report.changed],
        "bad_ranges_left_out": report.nr_ranges_left_out,
        "bad_pages": report.nr_bad,
        "impact": report.impact,
        "proven": report.proven,
    }
