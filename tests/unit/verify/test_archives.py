# SPDX-License-Identifier: GPL-2.0-or-later
"""Dumps in tar archives: each member is checked by itself, and a cut archive is found wherever it was cut."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import lzma
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
        assert codes(found["x.tar!b"]) == ["E109"]


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
