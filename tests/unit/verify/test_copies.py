# SPDX-License-Identifier: GPL-2.0-or-later
"""Level `kernel`: memory that an ELF dump holds twice, the kernel's image by its own mapping and among RAM."""

from __future__ import annotations

from pathlib import Path

import pytest

from dumpconv.formats import open_dump
from dumpconv.verify.copies import check_copies
from dumpconv.verify.verdict import TargetReport
from support import corrupt, notes
from support.build_elf import ElfImage, ElfSpec, Segment, build

TEXT = b"".join(bytes([number]) * 4096 for number in range(1, 9))
RAM = bytes(4096) + TEXT + bytes(4096)
BASE = 0x1000000
CRASHED = notes.vmcoreinfo(b"OSRELEASE=6.1.0\nPAGESIZE=4096\nCRASHTIME=1700000000\n")
UNKNOWN = notes.vmcoreinfo(b"OSRELEASE=6.1.0\nPAGESIZE=4096\n")


def image(blob: bytes = CRASHED, *, text: bytes = TEXT) -> ElfImage:
    """The kernel's image first, as /proc/vmcore has it, then RAM."""
    mapped = Segment(BASE + 4096, text, vaddr=0xFFFFFFFF81000000)
    return build(ElfSpec([mapped, Segment(BASE, RAM, vaddr=0xFFFF888000000000 + BASE)], notes.prstatus() + blob))


def checked(path: Path) -> TargetReport:
    report = TargetReport([str(path)], "kernel")
    check_copies(open_dump([str(path)]), report)
    return report


def place(made: ElfImage, segment: int) -> int:
    return made.headers[made.load_headers[segment]]["p_offset"]


def test_equal_copies_are_proven(tmp_path: Path) -> None:
    report = checked(image().write_to(tmp_path / "dump"))
    assert (report.findings, report.ranges) == ([], [])
    assert report.proven == [f"kernel image: {len(TEXT)} bytes held twice are equal"]


@pytest.mark.parametrize("segment", [0, 1])
def test_a_flipped_byte_in_either_copy_is_damage_at_its_frame(tmp_path: Path, segment: int) -> None:
    made = image()
    path = made.write_to(tmp_path / "dump")
    inside = 3 * 4096 + 77
    corrupt.flip_file(path, 8 * (place(made, segment) + inside + (4096 if segment else 0)) + 5)
    report = checked(path)
    kept, other = place(made, 1) + 4 * 4096, place(made, 0) + 3 * 4096  # RAM's copy counts
    (finding,) = report.findings
    assert (finding.code, finding.pfn, finding.offset, finding.number) == ("E144", BASE // 4096 + 4, kept, 1)
    assert f"{kept:#x} and {other:#x}" in finding.message
    (bad,) = report.ranges
    assert (bad.start_pfn, bad.end_pfn, bad.start_offset, bad.end_offset) == (
        BASE // 4096 + 4, BASE // 4096 + 5, kept, kept + 4096,
    )  # fmt: skip
    assert report.exit_code() == 3


def test_adjacent_frames_are_one_range_and_all_are_counted(tmp_path: Path) -> None:
    made = image(text=TEXT[:4096] + bytes(3 * 4096) + TEXT[4 * 4096 : 6 * 4096] + bytes(4096) + TEXT[7 * 4096 :])
    report = checked(made.write_to(tmp_path / "dump"))
    first = BASE // 4096 + 1
    assert [(bad.start_pfn, bad.end_pfn) for bad in report.ranges] == [(first + 1, first + 4), (first + 6, first + 7)]
    assert (report.nr_bad, report.findings[0].number) == (4, 4)
    assert report.findings[0].message.startswith("4 of 8 frames")


@pytest.mark.parametrize(
    ("blob", "code", "why"),
    [
        (UNKNOWN, "W214", "no CRASHTIME"),
        (b"", "W214", "no CRASHTIME"),
        (UNKNOWN + notes.qemu_x86(), "E144", "differ"),  # QEMU stops the machine
        (CRASHED + notes.eraseinfo(b"erase x\n"), "W214", "makedumpfile erased"),
    ],
    ids=["unknown", "none", "qemu", "erased"],
)
def test_whether_the_machine_was_at_rest_decides(tmp_path: Path, blob: bytes, code: str, why: str) -> None:
    report = checked(image(blob, text=TEXT[:-1] + b"x").write_to(tmp_path / "dump"))
    assert [finding.code for finding in report.findings] == [code]
    assert why in report.findings[0].message
    assert bool(report.ranges) == (code == "E144")


def test_a_running_machine_may_have_changed_between(tmp_path: Path) -> None:
    # a copy of /proc/kcore: notes of the kernel, and its text twice
    reader = open_dump([str(image(CRASHED, text=TEXT[:-1] + b"x").write_to(tmp_path / "dump"))])
    reader.sources[0].live = True
    report = TargetReport(["dump"], "kernel")
    check_copies(reader, report)
    assert [finding.code for finding in report.findings] == ["W214"]
    assert "ran while it was dumped" in report.findings[0].message


def test_copies_without_end_are_bounded(tmp_path: Path) -> None:
    many = [Segment(BASE, RAM, vaddr=0xFFFF888000000000 + BASE) for _ in range(40)]
    path = build(ElfSpec(many, notes.prstatus() + CRASHED)).write_to(tmp_path / "dump")
    report = checked(path)
    assert [finding.code for finding in report.findings] == ["W220"]
    assert "overlap" in report.findings[0].message
