# SPDX-License-Identifier: GPL-2.0-or-later
"""Dumps in tar archives: each member is checked by itself, and a cut archive is found wherever it was cut."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import lzma
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from support import corrupt, notes, patterns
from support.build_kdump import KdumpSpec, build
from support.command import dumpverify

FIRST, COUNT = 16, 24


def dump(codec: str = "zlib") -> bytes:
    pages = {FIRST + index: patterns.page(FIRST + index) for index in range(COUNT)}
    text = notes.vmcoreinfo_text(release="6.1.0-test")
    return build(KdumpSpec(pages=pages, notes=notes.machine_notes(cpus=1, text=text), codec=codec)).to_bytes()


def archive(path: Path, members: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as file:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def reports(*words: str | Path, code: int) -> dict[str, dict[str, Any]]:
    done = dumpverify("--json", *words)
    assert done.returncode == code, (done.stdout, done.stderr)
    assert not done.stderr
    return {each["files"][0].rpartition("/")[2]: each for each in json.loads(done.stdout)["dumps"]}


def codes(found: dict[str, Any]) -> list[str]:
    return [each["code"] for each in found["findings"] if each["code"] != "I302"]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_each_member_is_a_dump_of_its_own(tmp_path: Path, form: int) -> None:
    bad = bytearray(dump())
    bad[-20:] = bytes(20)  # of the last page's stored data
    members = {"a": dump(), "b": bytes(bad), "c.xz": lzma.compress(dump("zstd")), "text": b"x" * 5000, "empty": b""}
    found = reports(archive(tmp_path / "x.tar", members, form), code=3)
    assert list(found) == ["x.tar!a", "x.tar!b", "x.tar!c.xz", "x.tar!text", "x.tar!empty", "x.tar"]
    assert [codes(each) for each in found.values()] == [[], ["E103"], [], ["I301"], ["I301"], []]
    assert found["x.tar!a"]["pages"]["stored"] == found["x.tar!c.xz"]["pages"]["stored"] == COUNT
    assert found["x.tar!a"]["assurance"]


def test_a_packed_archive(tmp_path: Path) -> None:
    inner = archive(tmp_path / "x.tar", {"a": dump(), "b": dump()}).read_bytes()
    (tmp_path / "x.tar").unlink()
    (tmp_path / "x.tgz").write_bytes(gzip.compress(inner))
    assert [codes(each) for each in reports(tmp_path, code=0).values()] == [[], [], []]
    corrupt.truncate_file(tmp_path / "x.tgz", (tmp_path / "x.tgz").stat().st_size - 9)
    assert codes(reports(tmp_path, code=3)["x.tgz"]) == ["E109"]


@pytest.mark.parametrize("where", ["in the data", "between members", "before the end"])
def test_a_cut_archive_is_told(tmp_path: Path, where: str) -> None:
    data = dump()
    path = archive(tmp_path / "x.tar", {"a": data, "b": data}, tarfile.USTAR_FORMAT)
    member = 512 + (len(data) + 511 & ~511)
    cut = {"in the data": 2 * member - 3000, "between members": member, "before the end": 2 * member}[where]
    corrupt.truncate_file(path, cut)
    found = reports(path, code=3)
    assert codes(found["x.tar!a"]) == []
    assert "E109" in codes(found["x.tar"])
    assert ("x.tar!b" in found) == (where != "between members")
    if where == "in the data":
        assert codes(found["x.tar!b"])[0] == "E102"  # what is there of it is looked at


def test_a_manifest_knows_the_archive(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.tar", {"a": dump()})
    out = tmp_path / "m.json"
    reports(path, "--write-manifest", out, code=0)
    digests = json.loads(out.read_text())["dumps"][0]["files"][0]["digests"]
    assert digests["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert codes(reports(path, "--manifest", out, code=0)["x.tar"]) == []
    corrupt.flip_file(path, 8 * (512 + 8000))
    assert "E112" in codes(reports("--level", "quick", path, "--manifest", out, code=5)["x.tar"])


def test_headers_that_claim_any_size_are_refused_in_bounded_memory(tmp_path: Path) -> None:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1 << 32
    path = tmp_path / "x.tar"
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT))
    with path.open("r+b") as file:
        file.truncate(1 << 32)
    found = reports(path, code=3)
    assert codes(found["x.tar"]) == ["E109"]
    assert "bytes of headers" in found["x.tar"]["findings"][0]["message"]


def test_members_of_a_plain_archive_are_read_in_place(tmp_path: Path) -> None:
    """No spool: with no room for one all is well, at every level that has no other need of it."""
    path = archive(tmp_path / "x.tar", {"a": dump(), "b": dump("raw")})
    found = reports("--level", "content", path, code=0)
    assert [[each["code"] for each in report["findings"]] for report in found.values()] == [[], [], []]
    alone = tmp_path / "alone"
    alone.write_bytes(dump())
    assert (
        found["x.tar!a"]["digests"]["content"]
        == reports("--level", "content", alone, code=0)["alone"]["digests"]["content"]
    )


def test_damage_of_a_member_is_placed_in_the_member(tmp_path: Path) -> None:
    data = dump()
    path = archive(tmp_path / "x.tar", {"a": b"x" * 700, "b": data}, tarfile.USTAR_FORMAT)
    start = 512 + 1024 + 512
    alone = tmp_path / "alone"
    alone.write_bytes(data[:-30] + bytes(30))
    corrupt.overwrite_file(path, start + len(data) - 30, bytes(30))
    found, wanted = reports(path, code=3)["x.tar!b"], reports(alone, code=3)["alone"]
    assert found["bad"] == wanted["bad"]
    assert found["bad"][0]["end_offset"] == len(data)


def test_a_sparse_member_is_put_together(tmp_path: Path) -> None:
    (tmp_path / "dump").write_bytes(dump())
    with (tmp_path / "dump").open("r+b") as file:
        file.truncate(len(dump()) + (4 << 20))
    subprocess.run(["tar", "-C", tmp_path, "--sparse", "-cf", tmp_path / "x.tar", "dump"], check=True)
    with tarfile.open(tmp_path / "x.tar") as made:
        assert made.getmembers()[0].issparse()
    found = reports(tmp_path / "x.tar", code=0)["x.tar!dump"]
    assert found["pages"]["stored"] == COUNT


@pytest.mark.parametrize("packed", [False, True])
def test_a_damaged_header_is_not_the_end(tmp_path: Path, packed: bool) -> None:
    data = dump() * 40  # what follows is more than tarfile reads ahead
    path = archive(tmp_path / "x.tar", {"a": dump(), "b": data}, tarfile.USTAR_FORMAT)
    corrupt.overwrite_file(path, 512 + (len(dump()) + 511 & ~511), b"\xff" * 512)
    if packed:
        path.write_bytes(gzip.compress(path.read_bytes()))
    found = reports(path, code=3)
    assert list(found) == ["x.tar!a", "x.tar"]
    assert codes(found["x.tar"]) == ["E109"]
    assert "no header where the next member must be" in found["x.tar"]["findings"][0]["message"]
