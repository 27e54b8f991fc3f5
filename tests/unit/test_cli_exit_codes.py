# SPDX-License-Identifier: GPL-2.0-or-later
"""The exit codes of design and manual, each from a dump built to cause it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from support import build_elf, notes, patterns
from support.build_kdump import KdumpImage, KdumpSpec, build, build_split
from support.command import dumpconv, one_line, report

PAGES = patterns.pages(16, 80)


def spec(**more: object) -> KdumpSpec:
    return KdumpSpec(**{"pages": PAGES, "notes": notes.machine_notes(), **more})  # type: ignore[arg-type]


def write(image: KdumpImage, path: Path) -> Path:
    return image.write_to(path)


def codes(source: Path, tmp_path: Path, *words: str) -> dict[str, int]:
    out = tmp_path / "out.elf"
    return {
        "convert": dumpconv(source, out, "--force", *words).returncode,
        "salvage": dumpconv(source, out, "--force", "--salvage", *words).returncode,
        "info": dumpconv("info", source, *words).returncode,
        "map": dumpconv("map", source, *words).returncode,
        "compare": dumpconv("compare", source, source, *words).returncode,
    }


def test_whole_dump(tmp_path: Path) -> None:
    source = write(build(spec()), tmp_path / "in")
    assert codes(source, tmp_path) == {"convert": 0, "salvage": 0, "info": 0, "map": 0, "compare": 0}


def test_incomplete_by_the_writers_word_is_4(tmp_path: Path) -> None:
    source = write(build(spec(incomplete_from=40)), tmp_path / "in")
    assert codes(source, tmp_path) == {"convert": 4, "salvage": 4, "info": 4, "map": 4, "compare": 0}
    assert report("info", source, code=4)["pages"]["stored"] == 40 - 16


def test_incomplete_by_e_flags_is_4(tmp_path: Path) -> None:
    segment = build_elf.Segment(0x10000, patterns.page(16))
    image = build_elf.build(build_elf.ElfSpec([segment], notes.machine_notes(), e_flags=1))
    source = image.write_to(tmp_path / "in")
    assert codes(source, tmp_path) == {"convert": 4, "salvage": 4, "info": 4, "map": 4, "compare": 0}


def test_page_that_does_not_decode_is_3(tmp_path: Path) -> None:
    image = build(spec())
    offset, size, _ = image.data[50]
    image = build(spec(patches={offset: b"\xff" * size}))
    source = write(image, tmp_path / "in")
    # neither info nor map decodes
    assert codes(source, tmp_path) == {"convert": 3, "salvage": 3, "info": 0, "map": 0, "compare": 3}
    out = tmp_path / "out.elf"
    assert "pfn 0x32" in one_line(dumpconv(source, out, "--force"))
    salvaged = report(source, out, "--force", "--salvage", code=3)
    assert [each["pfn"] for each in salvaged["damage"]] == [50]
    assert salvaged["pages"]["damaged"] == 1
    assert salvaged["pages"]["stored"] == len(PAGES) - 1
    assert report("map", out, code=4)["pages"]["damaged"] == 1


def test_without_salvage_damage_leaves_no_output(tmp_path: Path) -> None:
    image = build(spec())
    source = write(build(spec(patches={image.data[50][0]: b"\xff" * 8})), tmp_path / "in")
    assert dumpconv(source, tmp_path / "out.elf").returncode == 3
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_truncated_file_is_3_for_all(tmp_path: Path) -> None:
    image = build(spec())
    source = tmp_path / "in"
    cut = image.data[60][0]
    source.write_bytes(image.to_bytes()[:cut])
    assert codes(source, tmp_path) == {"convert": 3, "salvage": 3, "info": 3, "map": 3, "compare": 3}
    shown = report("map", source, code=3)
    assert shown["pages"]["lost"] == 20  # frames 60 to 79
    assert shown["runs"][-1] == {"start_pfn": 60, "end_pfn": 80, "state": "lost"}


def test_missing_member_is_1_and_4_when_salvaged(tmp_path: Path) -> None:
    first, _, third = build_split(spec(), [(0, 30), (30, 50), (50, 80)])
    write(first, tmp_path / "d.1")
    write(third, tmp_path / "d.3")
    source = tmp_path / "d.1"
    assert codes(source, tmp_path) == {"convert": 1, "salvage": 4, "info": 1, "map": 1, "compare": 1}
    line = one_line(dumpconv(source, tmp_path / "new.elf"))
    assert "0x1e-0x31" in line
    assert report(source, tmp_path / "new.elf", "--salvage", code=4)["pages"]["lost"] == 20


def test_unknown_format_is_6(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.write_bytes(b"PNG, say" * 1000)
    assert set(codes(source, tmp_path).values()) == {6}


@pytest.mark.parametrize("words", [[], ["--strict"]])
def test_remarks_are_7_with_strict_only(tmp_path: Path, words: Sequence[str]) -> None:
    source = write(build(spec(single_bitmap=True)), tmp_path / "in")  # excluded cannot be told from holes
    expected = 7 if words else 0
    assert set(codes(source, tmp_path, *words).values()) == {expected}


def test_fixity_mismatch_is_5(tmp_path: Path) -> None:
    out = tmp_path / "out.elf"
    assert dumpconv(write(build(spec()), tmp_path / "in"), out).returncode == 0
    raw = bytearray(out.read_bytes())
    raw[-100] ^= 1
    out.write_bytes(raw)
    done = dumpconv(out, tmp_path / "two.elf")
    assert done.returncode == 5
    assert one_line(done)
    assert not (tmp_path / "two.elf").exists()


def test_report_goes_to_stderr_when_output_is_stdout(tmp_path: Path) -> None:
    source = write(build(spec()), tmp_path / "in")
    done = dumpconv(source, "-")
    assert done.returncode == 0
    assert done.stdout[:4] == b"\x7fELF"
    assert b"64 pages stored" in done.stderr
    piped = dumpconv("-", tmp_path / "out.elf", input=done.stdout)
    assert piped.returncode == 0, piped.stderr
    assert dumpconv("compare", source, tmp_path / "out.elf", "--states", "--notes").returncode == 0


def test_last_line_of_a_conversion(tmp_path: Path) -> None:
    source = write(build(spec(excluded=[(80, 90)])), tmp_path / "in")
    last = dumpconv(source, tmp_path / "out.elf").stdout.decode().splitlines()[-1]
    for part in ("64 pages stored", "10 excluded", "GB/s", "peak ", " MB"):
        assert part in last


def test_the_hint_at_salvage_is_given_where_it_can_be_used(tmp_path: Path) -> None:
    first, _ = build_split(spec(), [(0, 24), (24, 80)])
    source, out = write(first, tmp_path / "member"), tmp_path / "out"
    missing = f"dumpconv: {source}: split set is not whole: no member has frames 0x18-0x4f (56 stored pages); "
    assert dumpconv(source, out).stderr.decode() == f"{missing}1 member(s) found; give all members, or use --salvage\n"
    for verb in ("info", "map"):
        assert dumpconv(verb, source).stderr.decode() == f"{missing}1 member(s) found; give all members\n"
    # what is damaged is told with --salvage too
    assert dumpconv("--salvage", source, out).stderr.decode() == f"{missing}1 member(s) found; give all members\n"


@pytest.mark.parametrize("verb", ["info", "map"])
def test_standard_input_is_read_once(verb: str) -> None:
    done = dumpconv(verb, "-", "-")
    assert (done.returncode, done.stderr.decode()) == (2, "dumpconv: - (standard input) can be given once only\n")
