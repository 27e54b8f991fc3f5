# SPDX-License-Identifier: GPL-2.0-or-later
"""The comparators of this folder must see what is wrong: each one is given a true pair and damaged twins of it.

No product code runs here: "source" and "converted" are built from the sheets by tests/support.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from oracle import elf_struct, pages
from oracle.openers import check_pyelftools, check_readelf
from oracle.outcome import DIFFERENT, SAME, Case, Truth
from oracle.pages import check_pages, check_truth, content_key
from oracle.rules import TYPE2_SIZE, TYPE_PROVENANCE, TYPE_STATES, check_rules, file_digest

from support import build_elf, build_kdump, notes, oracle_tools, patterns

pytestmark = pytest.mark.oracle

PAGE = 4096
RUNS = [(1, 9), (16, 40), (100, 130)]
EXCLUDED = [(9, 16), (60, 70)]
NOTES = notes.machine_notes(cpus=2)
DIRECT_MAP, TEXT = 0xFFFF888000000000, 0xFFFFFFFF81000000
TYPE2_DESC = TYPE2_SIZE - 12 - 12  # header and name "DUMPCONV", padded
OUR_NOTES = notes.encode(b"DUMPCONV\0", TYPE_STATES, b"states") + notes.encode(
    b"DUMPCONV\0", TYPE_PROVENANCE, bytes(TYPE2_DESC)
)
Change = Callable[[build_elf.ElfSpec], build_elf.ElfSpec]

needs_libkdumpfile = pytest.mark.skipif(oracle_tools.libkdumpfile() is None, reason="libkdumpfile is missing")


def content(start: int, end: int) -> bytes:
    return b"".join(patterns.page(pfn) for pfn in range(start, end))


def canonical() -> build_elf.ElfSpec:
    """What a converted file should be: a text alias without bytes of its own, then RAM."""
    ram = [build_elf.Segment(start * PAGE, content(start, end), vaddr=DIRECT_MAP + start * PAGE) for start, end in RUNS]
    alias = build_elf.Segment(18 * PAGE, vaddr=TEXT, same_as=(2, 2 * PAGE), same_size=4 * PAGE)
    return build_elf.ElfSpec(segments=[alias, *ram], notes=NOTES + OUR_NOTES)


def kdump_source(path: Path) -> Path:
    stored = {pfn: patterns.page(pfn) for start, end in RUNS for pfn in range(start, end)}
    spec = build_kdump.KdumpSpec(pages=stored, excluded=EXCLUDED, notes=NOTES, vmcoreinfo=notes.vmcoreinfo_text())
    return build_kdump.build(spec).write_to(path)


def case_of(tmp_path: Path, change: Change = lambda spec: spec) -> Case:
    """A kdump source and an ELF result, the result changed."""
    source = kdump_source(tmp_path / "source.kdump")
    result = build_elf.build(change(canonical())).write_to(tmp_path / "result.elf")
    return Case("made", "kdump", [source], Path(result), tmp_path / "work", readable=source)


def segment(number: int, **fields: object) -> Change:
    """Change the fields of one segment."""

    def change(spec: build_elf.ElfSpec) -> build_elf.ElfSpec:
        segments = list(spec.segments)
        segments[number] = dataclasses.replace(segments[number], **fields)
        return dataclasses.replace(spec, segments=segments)

    return change


def spec_with(**fields: object) -> Change:
    return lambda spec: dataclasses.replace(spec, **fields)


def without_last(spec: build_elf.ElfSpec) -> build_elf.ElfSpec:
    return dataclasses.replace(spec, segments=list(spec.segments)[:-1])


def with_more(start: int, end: int) -> Change:
    def change(spec: build_elf.ElfSpec) -> build_elf.ElfSpec:
        more = build_elf.Segment(start * PAGE, content(start, end), vaddr=DIRECT_MAP + start * PAGE)
        return dataclasses.replace(spec, segments=sorted([*spec.segments, more], key=lambda one: one.paddr))

    return change


def swapped(spec: build_elf.ElfSpec) -> build_elf.ElfSpec:
    alias, first, *rest = spec.segments
    alias = dataclasses.replace(alias, same_as=(1, 2 * PAGE))
    return dataclasses.replace(spec, segments=[alias, rest[0], first, *rest[1:]])


def flipped(pfn: int) -> Change:
    start = RUNS[2][0]
    data = bytearray(content(*RUNS[2]))
    data[(pfn - start) * PAGE + 77] ^= 1
    return segment(3, data=bytes(data))


@needs_libkdumpfile
def test_a_true_pair_passes_everything(tmp_path: Path) -> None:
    case = case_of(tmp_path)
    rows = check_pages(case) + check_rules(case) + check_readelf(case) + check_pyelftools(case)
    assert [row for row in rows if row.verdict == DIFFERENT] == []
    told = {row.check: row.count for row in rows if row.verdict == SAME}
    assert told["pages"] == told["pages by the PT_LOADs"] == sum(end - start for start, end in RUNS)


@needs_libkdumpfile
@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(flipped(117), "1 frames differ, first ['0x75']", id="one bit of one page"),
        pytest.param(without_last, "30 frames missing", id="a segment dropped"),
        pytest.param(with_more(60, 62), "2 excluded frames are in a PT_LOAD", id="excluded frames as pages"),
        pytest.param(with_more(50, 51), "1 frames invented", id="a hole as a page"),
        pytest.param(segment(3, paddr=101 * PAGE), "frames missing", id="a segment moved"),
    ],
)
def test_pages_that_differ_are_reported(tmp_path: Path, change: Change, words: str) -> None:
    rows = check_pages(case_of(tmp_path, change))
    assert {row.check for row in rows if row.verdict == DIFFERENT} == {"pages", "pages by the PT_LOADs"}
    assert any(words in row.detail for row in rows)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(segment(1, align=PAGE), "p_align 4096", id="p_align"),
        pytest.param(segment(3, memsz=40 * PAGE), "rule 5", id="a tail that is not in the file"),
        pytest.param(
            segment(0, same_as=None, same_size=0, data=content(18, 22)), "no alias", id="alias with own bytes"
        ),
        pytest.param(swapped, "rule 4", id="RAM not sorted"),
        pytest.param(segment(2, vaddr=0xFFFF888100000000), "direct map bases", id="two direct maps"),
        pytest.param(spec_with(notes_at_end=True), "rule 3", id="notes after the data"),
        pytest.param(spec_with(notes_last=True), "rule 2", id="PT_NOTE not first"),
        pytest.param(spec_with(notes=[NOTES, OUR_NOTES]), "rule 2", id="two PT_NOTE"),
        pytest.param(spec_with(phoff=192), "e_phoff 192", id="headers elsewhere"),
        pytest.param(
            spec_with(placement="packed", notes=NOTES + OUR_NOTES + bytes(12)), "rule 4", id="data not aligned"
        ),
        pytest.param(spec_with(notes=NOTES), "DUMPCONV", id="our notes missing"),
        pytest.param(
            spec_with(
                notes=NOTES + notes.encode(b"DUMPCONV\0", 1, b"") + notes.encode(b"DUMPCONV\0", 2, bytes(TYPE2_DESC))
            ),
            "rule 10",
            id="note types that crash takes for registers",
        ),
        pytest.param(spec_with(notes=OUR_NOTES + NOTES), "not the last", id="our notes first"),
        pytest.param(spec_with(notes=NOTES[:-4] + b"oops" + OUR_NOTES), "source [", id="a note's byte"),
        pytest.param(
            spec_with(notes=NOTES + OUR_NOTES + notes.encode(b"DUMPCONV\0", TYPE_PROVENANCE, b"")),
            "rule 10",
            id="a second type 2",
        ),
    ],
)
def test_broken_rules_are_reported(tmp_path: Path, change: Change, words: str) -> None:
    rows = [row for row in check_rules(case_of(tmp_path, change)) if row.verdict == DIFFERENT]
    assert any(words in row.detail for row in rows), rows


def test_bytes_after_the_last_segment_are_reported(tmp_path: Path) -> None:
    case = case_of(tmp_path)
    with open(case.result, "ab") as stream:
        stream.write(b"\0")
    assert "rule 3: file ends at" in check_rules(case)[0].detail


def test_a_zeroed_vaddr_column_is_reported(tmp_path: Path) -> None:
    def zeroed(spec: build_elf.ElfSpec) -> build_elf.ElfSpec:
        return dataclasses.replace(spec, segments=[dataclasses.replace(one, vaddr=0) for one in spec.segments])

    assert "p_vaddr all zero" in check_rules(case_of(tmp_path, zeroed))[0].detail


@pytest.mark.parametrize("flat", [False, True])
def test_the_truth_is_compared_byte_by_byte(tmp_path: Path, flat: bool) -> None:
    case = case_of(tmp_path)
    truth = tmp_path / "truth"
    if flat:
        truth.write_bytes(content(0, 140))
    else:
        build_elf.build(build_elf.ElfSpec(segments=[build_elf.Segment(0, content(0, 140))])).write_to(truth)
    case.truths = [Truth(truth, flat=flat)]
    assert [row.verdict for row in check_truth(case)] == [SAME]
    offset = 117 * PAGE if flat else elf_struct.read_core(truth).loads[0].p_offset + 117 * PAGE
    oracle_tools.patched_copy(truth, tmp_path / "lie", {offset: b"\xff"})
    case.truths = [Truth(tmp_path / "lie", flat=flat)]
    assert "1 frames differ, first ['0x75']" in check_truth(case)[0].detail


def test_the_digest_leaves_out_the_type_2_note_only(tmp_path: Path) -> None:
    names = ("a", "b", "c")
    second = notes.encode(b"DUMPCONV\0", TYPE_PROVENANCE, b"x" * TYPE2_DESC)
    first = notes.encode(b"DUMPCONV\0", TYPE_STATES, b"STATES") + notes.encode(
        b"DUMPCONV\0", TYPE_PROVENANCE, bytes(TYPE2_DESC)
    )
    for name, ours in zip(names, (OUR_NOTES, OUR_NOTES[: -len(second)] + second, first), strict=True):
        build_elf.build(dataclasses.replace(canonical(), notes=NOTES + ours)).write_to(tmp_path / name)
    a, b, c = (file_digest(tmp_path / name) for name in names)
    assert a == b
    assert a != c


@needs_libkdumpfile
def test_the_content_key_tells_sources_apart(tmp_path: Path) -> None:
    case = case_of(tmp_path)
    assert content_key(case) == content_key(case_of(tmp_path))
    other = build_kdump.KdumpSpec(
        pages={1: patterns.page(2)}, notes=NOTES, vmcoreinfo=notes.vmcoreinfo_text(), excluded=EXCLUDED
    )
    path = Path(build_kdump.build(other).write_to(tmp_path / "other.kdump"))
    assert content_key(Case("b", "kdump", [path], case.result, tmp_path, readable=path)) != content_key(case)


def test_readelf_complains_about_a_torn_file(tmp_path: Path) -> None:
    case = case_of(tmp_path)
    torn = case.result.read_bytes()[:300]
    _ = case.core  # what the headers said before
    case.result.write_bytes(torn)
    assert {row.verdict for row in check_readelf(case) if row.tool == "readelf"} <= {DIFFERENT, "not installed"}
    assert [row.verdict for row in check_pyelftools(case)] == [DIFFERENT]


@needs_libkdumpfile
def test_a_worker_that_fails_is_no_pass(tmp_path: Path) -> None:
    case = case_of(tmp_path)
    (tmp_path / "nothing").write_bytes(bytes(PAGE))
    answer = pages.ask(PAGE, pages.kdumpfile_side(tmp_path / "nothing"), pages.elf_side(case.result))
    assert "error" in answer
    assert pages.pages_row(case, "libkdumpfile", "pages", answer).verdict != SAME


def test_a_program_that_hangs_is_ended(tmp_path: Path) -> None:
    ran = oracle_tools.run(["sh", "-c", "sleep 60 & sleep 60"], timeout=1)
    assert ran.status is None
    assert not ran.ok
