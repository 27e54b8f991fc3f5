# SPDX-License-Identifier: GPL-2.0-or-later
"""`info`, `map` and `formats` on dumps whose content is known from their builders."""

from __future__ import annotations

import os
from pathlib import Path
from xml.etree import ElementTree  # our own pictures

import pytest

from support import build_elf, notes, patterns
from support.build_kdump import KdumpSpec, build
from support.command import dumpconv, one_line, report

CODECS = {16: "raw", 17: "raw", 18: "zlib", 19: "zstd", 20: "zstd", 21: "lzo", 40: "snappy", 41: "zlib"}


@pytest.fixture
def kdump(tmp_path: Path) -> Path:
    text = notes.vmcoreinfo_text(release="5.10.0-known", keys={"CRASHTIME": "1700000000", "KERNELOFFSET": "2d400000"})
    spec = KdumpSpec(
        pages={pfn: patterns.page(pfn) for pfn in CODECS},
        page_codecs=CODECS,
        excluded=[(22, 30), (50, 60)],
        notes=notes.machine_notes(cpus=3, text=text),
        dump_level=31,
        tv_sec=1700000100,
    )
    return build(spec).write_to(tmp_path / "known.kdump")


def test_info_tells_what_was_built(kdump: Path) -> None:
    info = report("info", kdump)
    assert info["schema"] == "dumpconv.info/1"
    assert info["format"] == "kdump"
    assert info["machine"] == {"arch": "x86_64", "byteorder": "little", "word_size": 8, "page_size": 4096}
    assert info["kernel"]["release"] == "5.10.0-known"
    assert info["kernel"]["kaslr_offset"] == 0x2D400000
    assert (info["crash_time"], info["dump_time"]) == (1700000000, 1700000100)
    assert info["cpus"] == 3
    assert info["pages"] == {"stored": 8, "excluded": 18, "lost": 0, "damaged": 0, "partial": 0}
    assert info["end_pfn"] == 60
    assert {use["codec"]: use["pages"] for use in info["codecs"]} == {
        "raw": 2, "zlib": 2, "zstd": 2, "lzo": 1, "snappy": 1,
    }  # fmt: skip
    assert next(use for use in info["codecs"] if use["codec"] == "raw")["stored_bytes"] == 8192
    assert [(note["name"], note["count"]) for note in info["notes"]] == [("CORE", 3), ("VMCOREINFO", 1)]
    assert report("info", "--no-codecs", kdump)["codecs"] is None


def test_info_for_people(kdump: Path) -> None:
    text = dumpconv("info", kdump).stdout.decode()
    for part in ("5.10.0-known", "2023-11-14 22:13:20 UTC", "8 pages", "18 pages", "dump level 31", "3 with registers"):
        assert part in text


def test_map_tells_what_was_built(kdump: Path) -> None:
    runs = [(each["start_pfn"], each["end_pfn"], each["state"]) for each in report("map", kdump)["runs"]]
    assert runs == [(16, 22, "stored"), (22, 30, "excluded"), (40, 42, "stored"), (50, 60, "excluded")]


def test_map_limit(kdump: Path) -> None:
    lines = dumpconv("map", kdump, "--limit", "1").stdout.decode().splitlines()
    assert len(lines) == 4
    assert lines[1].split()[:5] == ["0x10", "0x16", "0x10000", "0x16000", "stored"]
    assert "3 more runs" in lines[2]
    assert len(dumpconv("map", kdump, "--limit", "0").stdout.decode().splitlines()) == 6


def test_ddrescue_map_covers_all_addresses(kdump: Path) -> None:
    lines = dumpconv("map", kdump, "--ddrescue").stdout.decode().splitlines()
    rows = [line.split() for line in lines if not line.startswith("#")]
    assert rows[0] == ["0x00000000", "+", "1"]
    spans = [(int(start, 16), int(size, 16), mark) for start, size, mark in rows[1:]]
    page = 4096
    assert spans == [
        (0, 16 * page, "?"),
        (16 * page, 6 * page, "+"),
        (22 * page, 18 * page, "?"),
        (40 * page, 2 * page, "+"),
        (42 * page, 18 * page, "?"),
    ]


def test_partial_frames_are_told(tmp_path: Path) -> None:
    segment = build_elf.Segment(0x10000, patterns.page(16) + b"x" * 100)
    path = build_elf.build(build_elf.ElfSpec([segment], notes.machine_notes())).write_to(tmp_path / "partial.elf")
    shown = report("map", path)
    assert shown["partial"] == [{"pfn": 17, "start_byte": 0, "end_byte": 100}]
    assert shown["pages"]["stored"] == 2
    assert report("info", path)["pages"]["partial"] == 1


def test_empty_memory(tmp_path: Path) -> None:
    path = build(KdumpSpec(excluded=[(5, 9)], notes=notes.machine_notes())).write_to(tmp_path / "none.kdump")
    assert report("map", path)["runs"] == [{"start_pfn": 5, "end_pfn": 9, "state": "excluded"}]
    assert report("info", path)["codecs"] == []
    assert dumpconv("map", path, "--picture", tmp_path / "map.svg").returncode == 0


def strokes(picture: Path) -> dict[str, int]:
    """Give the length drawn in each colour of the raster, from the SVG alone."""
    found: dict[str, int] = {}
    for path in ElementTree.parse(picture).iter("{http://www.w3.org/2000/svg}path"):  # noqa: S314
        lengths = [int(part.split("h")[1]) for part in path.attrib["d"].split("M")[1:]]
        found[path.attrib["stroke"]] = sum(lengths)
    return found


def test_svg_has_a_cell_for_each_page(kdump: Path, tmp_path: Path) -> None:
    picture = tmp_path / "map.svg"
    assert dumpconv("map", kdump, "--picture", picture).returncode == 0
    lengths = sorted(strokes(picture).values())
    assert lengths == sorted([2, 2, 2, 1, 1, 18, 256 - 8 - 18])  # raw, zlib, zstd, lzo, snappy, excluded, hole
    text = picture.read_text()
    assert "<script" not in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "5.10.0-known" in text


def test_a_name_that_does_not_print_is_shown_escaped(kdump: Path, tmp_path: Path) -> None:
    """XML has no control characters, and UTF-8 no lone surrogates, which stand for bytes of names."""
    source = kdump.rename(tmp_path / os.fsdecode(b"a\x01\x1b[31m<&\xff.kdump"))
    picture = tmp_path / "map.svg"
    assert dumpconv("map", source, "--picture", picture).returncode == 0
    (title,) = ElementTree.parse(picture).iter("{http://www.w3.org/2000/svg}title")  # noqa: S314
    assert (title.text or "").startswith("a\\x01\\x1b[31m<&\\udcff.kdump")
    pytest.importorskip("PIL.Image")
    assert dumpconv("map", source, "--picture", tmp_path / "map.png").returncode == 0


def test_png(kdump: Path, tmp_path: Path) -> None:
    image_module = pytest.importorskip("PIL.Image")
    picture = tmp_path / "map.png"
    assert dumpconv("map", kdump, "--picture", picture).returncode == 0
    with image_module.open(picture) as image:
        assert image.format == "PNG"
        assert len(image.convert("RGB").getcolors(1 << 16)) > 6
    assert dumpconv("map", kdump, "--picture", picture).returncode == 2
    assert dumpconv("map", kdump, "--picture", picture, "--force").returncode == 0


def test_picture_never_replaces_its_input(kdump: Path, tmp_path: Path) -> None:
    source = kdump.rename(tmp_path / "dump.svg")
    before = source.read_bytes()
    done = dumpconv("map", source, "--picture", source, "--force")
    assert done.returncode == 2
    assert "same file" in one_line(done)
    assert source.read_bytes() == before


def test_formats() -> None:
    listed = report("formats")
    assert listed["schema"] == "dumpconv.formats/1"
    assert {"kdump", "elf"} <= {row["name"] for row in listed["formats"]}
    assert next(row for row in listed["codecs"] if row["name"] == "lzo")["library"]
    assert dumpconv("formats", "--markdown").stdout.startswith(b"| format |")


@pytest.mark.parametrize("what", ["link", "file"])
def test_picture_is_not_written_through_what_lies_at_its_temporary_name(what: str, kdump: Path, tmp_path: Path) -> None:
    victim, temporary = tmp_path / "victim", tmp_path / "map.svg.incomplete"
    victim.write_text("dear")
    if what == "link":
        temporary.symlink_to(victim)
    else:
        temporary.write_text("left by a killed run")
    assert dumpconv("map", "--picture", tmp_path / "map.svg", kdump).returncode == 0
    assert victim.read_text() == "dear"
    assert (tmp_path / "map.svg").read_text().startswith("<svg")
    assert not (tmp_path / "map.svg").is_symlink()
    assert not os.path.lexists(temporary)
