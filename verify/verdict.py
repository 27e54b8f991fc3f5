# SPDX-License-Identifier: GPL-2.0-or-later
"""What `dumpverify` says of one dump: findings with their places, assurance, exit code."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from ..formats.pages import PageState
from .codes import CODES

if TYPE_CHECKING:
    from .display.picture import PageChart, Picture

__all__ = ["ASSURANCE", "LEVELS", "BadRange", "Level", "TargetReport", "VerifyFinding", "severity", "worst"]

Level = Literal["quick", "structure", "pages", "content", "kernel"]
LEVELS: tuple[Level, ...] = ("quick", "structure", "pages", "content", "kernel")

_WORST_FIRST = (3, 5, 70, 4, 6, 1, 10, 7, 2)
_MAX_RANGES = 1 << 16  # kept one by one; more are counted

# What was proven of a page, the strongest first.
ASSURANCE = {
    "digest": "equal to a recorded digest",
    "fixity": "its file is what the manifest says",
    "checksum": "decoded, and its own checksum is right",
    "size": "decoded to exactly one page; the format has no checksum",
    "bounds": "its bytes are in the file; nothing tells whether they are right",
    "none": "not looked at",
}


class VerifyFinding(NamedTuple):
    """One finding.

    Attributes:
        code: A key of `codes.CODES`.
        message: One line with both values.
        offset: File offset, None where it has none.
        pfn: First frame concerned, None likewise.
        number: How many like it there are; the places are in `TargetReport.ranges`.
    """

    code: str
    message: str
    offset: int | None = None
    pfn: int | None = None
    number: int = 1


class BadRange(NamedTuple):
    """Adjacent frames with the same trouble, and the file bytes that should hold them.

    Attributes:
        start_pfn, end_pfn: Frames.
        state: LOST or DAMAGED.
        file: Number of the input file.
        start_offset, end_offset: Bytes of it; equal where no place is known.
        reason: Of the first frame.
        code: A key of `codes.CODES`.
    """

    start_pfn: int
    end_pfn: int
    state: PageState
    file: int
    start_offset: int
    end_offset: int
    reason: str
    code: str


def worst(codes: Iterable[int]) -> int:
    """Return the exit code that wins: 3 > 5 > 70 > 4 > 6 > 1 > 10 > 7, 0 for none."""
    return min(set(codes) & set(_WORST_FIRST), key=_WORST_FIRST.index, default=0)


def severity(code: int) -> int:
    """Return the place of an exit code among all, the worst first: for sorting."""
    return _WORST_FIRST.index(code)


@dataclass(slots=True)
class TargetReport:
    """All about one dump.

    Attributes:
        files: Names of its files.
        level: Down to which it was checked.
        format, arch, kernel: As far as known.
        page_size: Bytes, 0 where unknown.
        pages: Frames by state name.
        bytes: Bytes of pages decoded.
        findings: In the order found, one for each code and kind.
        ranges: Bad frames in order of frame numbers; nr_ranges_left_out: how many more there are.
        nr_bad: Bad frames in all.
        assurance: Pages by key of `ASSURANCE`.
        digests: Hexadecimal by name: content, state, and of files.
        file_digests: Of each file that was hashed, hexadecimal by algorithm.
        sizes: Bytes of each file, as far as known.
        changed: Runs of frames among which some are not what the manifest says, whole leaves of the digest.
        places: Of each source the file that its offsets are in, "" where that is packed.
        picture: Of the memory with its damage, where it was asked for.
        impact: What the bad frames held, one line each (level kernel).
        proven: What was found to be right in the kernel, one line each (level kernel).
        allowed: Codes that the user allowed.
        seconds: Of the check.
        chart: The page map for a picture, where one was asked for.
    """

    files: list[str]
    level: Level
    format: str = ""
    arch: str = ""
    kernel: str = ""
    page_size: int = 0
    pages: dict[str, int] = field(default_factory=dict)
    bytes: int = 0
    findings: list[VerifyFinding] = field(default_factory=list)
    ranges: list[BadRange] = field(default_factory=list)
    nr_ranges_left_out: int = 0
    nr_bad: int = 0
    assurance: dict[str, int] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    file_digests: dict[str, dict[str, str]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    impact: list[str] = field(default_factory=list)
    proven: list[str] = field(default_factory=list)
    changed: list[tuple[int, int]] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    picture: Picture | None = None
    allowed: frozenset[str] = frozenset()
    seconds: float = 0.0
    chart: PageChart | None = None

    def add(
        self, code: str, message: str, *, offset: int | None = None, pfn: int | None = None, number: int = 1
    ) -> None:
        """Add a finding.

        Raises:
            KeyError: No such code: a bug.
        """
        CODES[code]
        self.findings.append(VerifyFinding(code, message, offset, pfn, number))

    def add_all(
        self, code: str, message: str, *, offset: int | None = None, pfn: int | None = None, number: int = 1
    ) -> None:
        """Add a finding, or to one of its code how many there are: what looked at all, behind what took a sample."""
        for at, each in enumerate(self.findings):
            if each.code == code:
                self.findings[at] = each._replace(number=max(each.number, number))
                return
        self.add(code, message, offset=offset, pfn=pfn, number=number)

    def add_range(self, bad: BadRange) -> None:
        """Add bad frames; joined with the range before where they go on from it."""
        self.nr_bad += bad.end_pfn - bad.start_pfn
        last = self.ranges[-1] if self.ranges else None
        nowhere = last is not None and last.start_offset == last.end_offset and bad.start_offset == bad.end_offset
        if (
            last is not None
            and (last.end_pfn, last.state, last.file, last.code) == (bad.start_pfn, bad.state, bad.file, bad.code)
            and (bad.start_offset in (last.end_offset, last.start_offset) or nowhere)
        ):
            end = last.end_offset if nowhere else max(last.end_offset, bad.end_offset)
            self.ranges[-1] = last._replace(end_pfn=bad.end_pfn, end_offset=end)
        elif len(self.ranges) < _MAX_RANGES:
            self.ranges.append(bad)
        else:
            self.nr_ranges_left_out += 1

    def exit_code(self, *, strict: bool = False) -> int:
        """Return the exit code that the findings make."""
        codes = [CODES[each.code].exit_code for each in self.findings if each.code not in self.allowed]
        return worst(code for code in codes if strict or code != 7)
