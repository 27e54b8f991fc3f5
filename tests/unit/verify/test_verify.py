# SPDX-License-Identifier: GPL-2.0-or-later
"""`dumpverify`: what each level finds in dumps that were damaged at a known place, and what it says was proven."""

from __future__ import annotations

import json
import lzma
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dumpconv.verify import structure
from dumpconv.verify.codes import CODES
from dumpconv.verify.target import VerifyOptions, verify_target
from support import build_elf, build_lime, corrupt, notes, patterns
from support.build_kdump import KdumpImage, KdumpSpec, build
from support.command import dumpconv, dumpverify

FIRST, COUNT = 16, 24
CODECS = ("zlib", "zstd", "snappy", "lzo")
DESCRIPTOR = struct.Struct("<QIIQ")


def spec(**more: Any) -> KdumpSpec:
    pages = {FIRST + index: patterns.page(FIRST + index) for index in range(COUNT)}
    text = notes.vmcoreinfo_text(release="6.1.0-test")
    return KdumpSpec(**{"pages": pages, "notes": notes.machine_notes(cpus=1, text=text), **more})


def made(tmp_path: Path, **more: Any) -> tuple[KdumpImage, Path]:
    image = build(spec(**more))
    return image, image.write_to(tmp_path / "dump")


def verified(*words: str | Path, code: int) -> dict[str, Any]:
    done = dumpverify("--json", *words)
    assert done.returncode == code, (done.stdout, done.stderr)
    assert not done.stderr
    whole = json.loads(done.stdout)
    assert whole["schema"] == "dumpconv.verify/1"
    dump: dict[str, Any] = whole["dumps"][0]
    return dump


def codes(dump: Mapping[str, Any]) -> list[str]:
    return [each["code"] for each in dump["findings"]]


@pytest.mark.parametrize("level", ["quick", "structure", "pages", "content"])
@pytest.mark.parametrize("codec", CODECS)
def test_a_whole_dump_is_good(tmp_path: Path, level: str, codec: str) -> None:
    _, path = made(tmp_path, codec=codec)
    dump = verified("--level", level, path, code=0)
    assert (dump["verdict"], codes(dump), dump["bad"]) == ("good", [], [])
    assert dump["pages"]["stored"] == COUNT


@pytest.mark.parametrize(
    ("codec", "proven"), [("zlib", "checksum"), ("zstd", "size"), ("snappy", "size"), ("lzo", "size")]
)
def test_assurance_claims_what_was_checked(tmp_path: Path, codec: str, proven: str) -> None:
    image, path = made(tmp_path, codec=codec)
    raw = sum(1 for _, _, flags in image.data.values() if flags == 0)
    assert verified(path, code=0)["assurance"] == {proven: COUNT - raw} | ({"bounds": raw} if raw else {})
    assert verified("--level", "structure", path, code=0)["assurance"] == {}


@pytest.mark.parametrize("codec", CODECS)
def test_a_page_that_does_not_decode_is_placed(tmp_path: Path, codec: str) -> None:
    image, path = made(tmp_path, codec=codec, fallback=False)
    pfn = FIRST + 5
    offset, size, _ = image.data[pfn]
    corrupt.zero_file(path, offset, offset + size)
    dump = verified(path, code=3)
    assert codes(dump) == ["E103"]
    assert dump["findings"][0]["pfn"] == pfn
    assert [(bad["start_pfn"], bad["end_pfn"], bad["start_offset"], bad["end_offset"]) for bad in dump["bad"]] == [
        (pfn, pfn + 1, offset, offset + size)
    ]
    assert verified("--level", "structure", path, code=0)["verdict"] == "good"  # that level decodes nothing


def test_a_flip_in_a_raw_page_is_not_claimed_to_be_found(tmp_path: Path) -> None:
    image, path = made(tmp_path, page_codecs={FIRST + index: "raw" for index in range(COUNT)})
    corrupt.flip_file(path, 8 * image.data[FIRST + 3][0] + 5)
    dump = verified(path, code=0)
    assert dump["assurance"] == {"bounds": COUNT}


@pytest.mark.parametrize("level", ["quick", "structure", "pages"])
def test_a_cut_file_is_found_at_every_level(tmp_path: Path, level: str) -> None:
    image, path = made(tmp_path)
    last = max(image.data.values())
    corrupt.truncate_file(path, last[0] + last[1] - 1)
    dump = verified("--level", level, path, code=3)
    assert codes(dump) == ["E104"]


@pytest.mark.parametrize(
    ("field", "value", "code"), [("flags", 0x40, "E105"), ("size", 0, "E105"), ("offset", 1 << 40, "E104")]
)
def test_an_impossible_descriptor_is_found_by_the_tables(tmp_path: Path, field: str, value: int, code: str) -> None:
    _, path = made(tmp_path, descriptors={FIRST + 7: {field: value}})
    for level in ("structure", "pages"):
        dump = verified("--level", level, path, code=3)
        assert codes(dump) == [code]
        assert [(bad["start_pfn"], bad["end_pfn"]) for bad in dump["bad"]] == [(FIRST + 7, FIRST + 8)]


def test_overlapping_data_is_found(tmp_path: Path) -> None:
    image = build(spec())
    offset, _, _ = image.data[FIRST + 4]
    _, path = made(tmp_path, descriptors={FIRST + 9: {"offset": offset + 1}})
    dump = verified("--level", "structure", path, code=3)
    assert "E106" in codes(dump)


def test_sharing_one_place_is_no_overlap(tmp_path: Path) -> None:
    pages = {FIRST + index: bytes(4096) if index % 3 else patterns.page(index) for index in range(COUNT)}
    _, path = made(tmp_path, pages=pages, share_zero=True)
    assert codes(verified("--level", "structure", path, code=0)) == []


def test_out_of_order_data_is_no_overlap(tmp_path: Path) -> None:
    _, path = made(tmp_path, shuffle=3)
    assert codes(verified("--level", "structure", path, code=0)) == []


def test_a_kernel_that_differs_from_the_header_is_doubtful(tmp_path: Path) -> None:
    _, path = made(tmp_path, uts={"machine": "x86_64", "release": "5.0.0-other"})
    dump = verified(path, code=0)
    assert (codes(dump), dump["verdict"]) == (["W215"], "doubtful")
    verified("--strict", path, code=7)
    assert verified("--strict", "--allow", "W215", path, code=0)["findings"][0]["allowed"]


def test_incomplete_by_the_writers_word(tmp_path: Path) -> None:
    _, path = made(tmp_path, incomplete_from=FIRST + 20)
    dump = verified(path, code=4)
    assert "E201" in codes(dump)
    assert dump["pages"]["lost"] == 4


def test_a_changed_canonical_file_is_told_by_its_own_digest(tmp_path: Path) -> None:
    _, path = made(tmp_path)
    out = tmp_path / "out.elf"
    assert dumpconv(path, out).returncode == 0
    dump = verified(out, code=0)
    assert dump["assurance"] == {"digest": COUNT}
    corrupt.flip_file(out, 8 * (out.stat().st_size - 100))
    dump = verified(out, code=5)
    assert (codes(dump), dump["verdict"]) == (["E110"], "CHANGED")


def test_one_bad_file_never_stops_the_rest(tmp_path: Path) -> None:
    image, _ = made(tmp_path)
    for name in ("a", "c"):
        image.write_to(tmp_path / name)
    (tmp_path / "b").write_bytes(image.to_bytes()[:5000])
    (tmp_path / "text").write_text("no dump")
    (tmp_path / "sub").mkdir()
    image.write_to(tmp_path / "sub" / "d")
    done = dumpverify(tmp_path)
    assert done.returncode == 3
    lines = done.stdout.decode().splitlines()
    verdicts = {
        os.path.basename(line.split(":")[0]): line.split(": ")[1].split(" ")[0] for line in lines if line[0] == "/"
    }
    assert verdicts == {"a": "good", "b": "DAMAGED", "c": "good", "dump": "good", "d": "good"}
    assert lines[-1] == "5 dumps: 1 DAMAGED, 4 good, 1 skipped"


def test_a_split_set_is_checked_once(tmp_path: Path) -> None:
    from support.build_kdump import build_split

    for number, image in enumerate(build_split(spec(), [(0, FIRST + 9), (FIRST + 9, FIRST + COUNT)])):
        image.write_to(tmp_path / f"part{number}")
    done = dumpverify("--json", tmp_path)
    found = json.loads(done.stdout)["dumps"]
    assert done.returncode == 0
    assert [len(each["files"]) for each in found] == [2]


def test_a_missing_member_is_told(tmp_path: Path) -> None:
    from support.build_kdump import build_split

    build_split(spec(), [(0, FIRST + 9), (FIRST + 9, FIRST + COUNT)])[1].write_to(tmp_path / "part1")
    assert "E152" in codes(verified(tmp_path / "part1", code=1))


def test_what_is_not_there_is_one_finding(tmp_path: Path) -> None:
    assert codes(verified(tmp_path / "nowhere", code=1)) == ["E150"]
    (tmp_path / "text").write_text("no dump at all")
    assert codes(verified(tmp_path / "text", code=6)) == ["E154"]


def test_an_elf_is_checked_like_any(tmp_path: Path) -> None:
    segments = [build_elf.Segment(0x1000 * FIRST, b"".join(patterns.page(index) for index in range(COUNT)))]
    text = notes.vmcoreinfo_text(release="6.1.0-test")
    image = build_elf.build(build_elf.ElfSpec(segments=segments, notes=notes.machine_notes(cpus=1, text=text)))
    path = image.write_to(tmp_path / "vmcore")
    assert verified(path, code=0)["assurance"] == {"bounds": COUNT}
    corrupt.truncate_file(path, path.stat().st_size - 4097)
    assert codes(verified("--level", "quick", path, code=3))[0] in ("E102", "E104")


def test_a_bit_lost_in_the_second_bitmap_leaves_a_descriptor_over(tmp_path: Path) -> None:
    image, path = made(tmp_path)
    stored = image.to_bytes()
    pfn = FIRST + 7
    blocks = struct.unpack_from("<I", stored, 436)[0]
    second = 4096 * (1 + struct.unpack_from("<i", stored, 432)[0]) + 4096 * blocks // 2
    corrupt.flip_file(path, 8 * second + pfn)
    dump = verified("--level", "structure", path, code=0)
    assert codes(dump) == ["I303", "W223"]
    assert "the 24 bytes at" in dump["findings"][1]["message"]
    verified("--level", "structure", "--strict", path, code=7)


def test_bytes_behind_the_last_page_belong_to_none(tmp_path: Path) -> None:
    _, path = made(tmp_path)
    size = path.stat().st_size
    corrupt.overwrite_file(path, size, b"of another file")
    (finding,) = verified("--level", "structure", path, code=0)["findings"]
    assert (finding["code"], finding["offset"]) == ("W223", size)


def test_erase_info_behind_the_pages_is_no_surplus(tmp_path: Path) -> None:
    _, path = made(tmp_path, eraseinfo=b"erase jiffies size 8\n")
    assert codes(verified("--level", "structure", path, code=0)) == []


def test_entries_at_both_ends_are_counted_once(tmp_path: Path) -> None:
    _, path = made(tmp_path, descriptors={FIRST + 7: {"flags": 0x40}})
    (finding,) = verified("--level", "quick", path, code=3)["findings"]
    assert finding["number"] == 1


@pytest.mark.parametrize("cut", [False, True])
def test_damage_of_the_outer_compression_has_its_code(tmp_path: Path, cut: bool) -> None:
    image, _ = made(tmp_path)
    packed = lzma.compress(image.to_bytes())
    path = tmp_path / "dump.xz"
    path.write_bytes(packed[: len(packed) // 2] if cut else corrupt.flip(packed, 8 * (len(packed) // 2)))
    found = codes(verified("--level", "quick", path, code=3))
    if cut:  # what unpacks is looked at, too: pages and notes lie behind its end
        assert set(found) == {"E109", "E104", "I302"}
    else:
        assert found == ["E109"]


def test_a_machine_that_nobody_names_is_no_usage_error(tmp_path: Path) -> None:
    path = tmp_path / "lime"
    path.write_bytes(build_lime.build([build_lime.Range(0x10000, bytes(range(256)) * 64)]))
    assert codes(verified(path, code=6)) == ["E155"]
    verified("--machine", "x86_64", path, code=0)


def test_a_wrong_code_is_a_usage_error(tmp_path: Path) -> None:
    done = dumpverify("--allow", "E999", tmp_path)
    assert done.returncode == 2
    assert b"no such code" in done.stderr


def test_codes_are_told_apart() -> None:
    assert all(code[0] in "EWI" and len(code) == 4 and code[1:].isdigit() for code in CODES)
    assert all(row.title and row.cause and row.remedy for row in CODES.values())
    assert all((row.exit_code == 7) == (code[0] == "W") for code, row in CODES.items())
    assert all((row.exit_code == 0) == (code[0] == "I") for code, row in CODES.items())


def test_what_did_not_decode_is_proven_of_no_class(tmp_path: Path) -> None:
    # zlib checks its sum, lzo only the size: a damaged page of one does not take from the other
    first = min(spec().pages)
    codecs = {first + index: "lzo" if index % 2 else "zlib" for index in range(COUNT)}
    for broken, expected in ((first, {"checksum": COUNT // 2 - 1, "size": COUNT // 2}),
                             (first + 1, {"checksum": COUNT // 2, "size": COUNT // 2 - 1})):  # fmt: skip
        flags = 2 if (broken - first) % 2 else 1
        pages = {pfn: bytes([pfn % 251]) * 4096 for pfn in spec().pages}
        image = build(spec(pages=pages, page_codecs=codecs, stored={broken: (b"neither", flags)}))
        image.write_to(tmp_path / "mixed")
        dump = verified(tmp_path / "mixed", code=3)
        assert dump["bad_pages"] == 1
        assert dump["assurance"] == expected


def test_all_entries_without_data_are_counted_not_those_at_both_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(structure, "_TAIL_PFNS", 4)
    _, path = made(tmp_path, descriptors={pfn: {"offset": 1 << 40} for pfn in spec().pages})
    for level, number in (("quick", 8), ("structure", COUNT), ("pages", COUNT)):
        report = verify_target([str(path)], VerifyOptions(level))
        assert [(each.code, each.number) for each in report.findings] == [("E104", number)]
