# SPDX-License-Identifier: GPL-2.0-or-later
"""Packed dumps: one pass with a window of the stream where the format lets it; all is kept where not, or if damaged."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dumpconv.formats import stream
from dumpconv.formats.stream import StreamSource
from dumpconv.verify import pagecheck
from dumpconv.verify.fixity import FixityOptions
from dumpconv.verify.manifest_write import Recorded
from dumpconv.verify.pagecheck import PageOptions
from dumpconv.verify.target import VerifyOptions, verify_target
from dumpconv.verify.verdict import TargetReport
from support import build_flat, corrupt, notes, patterns
from support.build_elf import ElfSpec, Segment
from support.build_elf import build as build_elf
from support.build_kdump import KdumpImage, KdumpSpec, build

NR_PAGES = 3000
TEXT = notes.vmcoreinfo_text(release="6.1.0-test")
SERIAL = VerifyOptions(pages=PageOptions(1, "serial"))


def kdump_image(codec: str = "raw") -> KdumpImage:
    pages = {pfn: patterns.page(pfn) for pfn in range(NR_PAGES)}
    return build(KdumpSpec(pages=pages, notes=notes.machine_notes(cpus=1, text=TEXT), codec=codec))


def kdump(codec: str = "raw") -> bytes:
    return kdump_image(codec).to_bytes()


def elf() -> bytes:
    memory = b"".join(patterns.page(pfn) for pfn in range(NR_PAGES))
    return build_elf(ElfSpec([Segment(0, memory)], notes.machine_notes(cpus=1, text=TEXT))).to_bytes()


MADE: dict[str, Callable[[], bytes]] = {"kdump": kdump, "elf": elf}


@pytest.fixture
def spools(monkeypatch: pytest.MonkeyPatch) -> list[StreamSource]:
    """Every stream that is opened."""
    found: list[StreamSource] = []
    begin = StreamSource.__init__

    def init(self: StreamSource, *words: object, **more: object) -> None:
        begin(self, *words, **more)  # type: ignore[arg-type]
        found.append(self)

    monkeypatch.setattr(StreamSource, "__init__", init)
    return found


def packed(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "dump.gz"
    path.write_bytes(gzip.compress(data, 1))
    return path


def same(one: TargetReport, other: TargetReport) -> None:
    skip = ("files", "places", "seconds", "sizes", "findings", "file_digests")
    fields = [name for name in TargetReport.__slots__ if name not in skip]
    assert [getattr(one, name) for name in fields] == [getattr(other, name) for name in fields]
    kept = [[each for each in report.findings if each.code != "I302"] for report in (one, other)]
    assert kept[0] == kept[1]


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("level", ["quick", "structure", "pages", "content"])
def test_a_packed_dump_is_the_same_as_the_plain_one(
    tmp_path: Path, name: str, level: str, spools: list[StreamSource]
) -> None:
    data = MADE[name]()
    options = replace(SERIAL, level=level, pages=PageOptions(1, "serial", level == "content"))  # type: ignore[arg-type]
    (tmp_path / "plain").write_bytes(data)
    report = verify_target([str(packed(tmp_path, data))], options)
    same(report, verify_target([str(tmp_path / "plain")], options))
    assert report.exit_code() == 0
    (source,) = spools  # opened once
    assert source.is_stream


@pytest.mark.parametrize("name", MADE)
def test_what_was_read_is_let_go(
    tmp_path: Path, name: str, spools: list[StreamSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pagecheck, "_STREAM_PFNS", 256)
    data = MADE[name]()
    verify_target([str(packed(tmp_path, data))], SERIAL)
    (source,) = spools
    assert len(data) > 10 << 20
    assert source._peak < 6 << 20
    assert "spooled" not in " ".join(source.notes)


@pytest.mark.parametrize("what", ["page", "cut", "stream"])
def test_a_damaged_one_is_looked_at_again_with_all_of_it_kept(
    tmp_path: Path, what: str, spools: list[StreamSource]
) -> None:
    data = kdump("zlib")
    bad = {"page": corrupt.zero(data, len(data) - 40, len(data)), "cut": data[: len(data) * 2 // 3], "stream": data}[
        what
    ]
    (tmp_path / "plain").write_bytes(bad)
    path = packed(tmp_path, bad)
    if what == "stream":
        path.write_bytes(path.read_bytes()[:-5000])
    report = verify_target([str(path)], SERIAL)
    assert len(spools) == 2
    if what == "stream":
        assert {each.code for each in report.findings} == {"E109", "E104", "I302"}
    else:
        same(report, verify_target([str(tmp_path / "plain")], SERIAL))
        assert report.nr_bad


@pytest.mark.parametrize("writer", ["makedumpfile", "qemu"])
def test_flattened_ones_in_the_order_of_their_writers(tmp_path: Path, writer: str, spools: list[StreamSource]) -> None:
    image = kdump_image("zlib")
    records = build_flat.kdump_qemu(image) if writer == "qemu" else build_flat.kdump_makedumpfile(image)
    report = verify_target([str(packed(tmp_path, build_flat.flatten(records)))], SERIAL)
    (tmp_path / "plain").write_bytes(image.to_bytes())
    same(report, verify_target([str(tmp_path / "plain")], SERIAL))
    assert len(spools) == 1


def test_digests_of_a_packed_file_are_of_the_file(tmp_path: Path) -> None:
    import hashlib

    path = packed(tmp_path, kdump())
    recorded: list[Recorded] = []
    options = replace(SERIAL, fixity=FixityOptions(None, ("sha256",)))
    verify_target([str(path)], options, record=recorded.append)
    assert [each.files for each in recorded] == [
        [(str(path), path.stat().st_size, {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()})]
    ]


def test_a_file_that_is_no_dump_is_not_unpacked(tmp_path: Path, spools: list[StreamSource]) -> None:
    path = packed(tmp_path, b"x" * (64 << 20))
    report = verify_target([str(path)], SERIAL)
    assert [each.code for each in report.findings] == ["E154"]
    assert all(source._peak <= 4 << 20 for source in spools)


def test_a_spool_moves_from_memory_to_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What workers have open goes on giving the same bytes."""
    monkeypatch.setattr(stream, "IN_MEMORY", 1 << 20)
    data = os.urandom(3 << 20) + bytes(1 << 20) + os.urandom(1 << 20)
    chunks = (data[at : at + (256 << 10)] for at in range(0, len(data), 256 << 10))
    source = StreamSource(chunks, "x", str(tmp_path), "")
    assert source.pread(0, 1 << 19) == data[: 1 << 19]
    view = source.worker_view()
    assert view.pread(100, 5000) == data[100:5100]
    assert source.notes == ()
    source.finish()
    assert view.pread(0, len(data)) == data
    pieces = [bytearray(1 << 20), bytearray(1 << 19)]
    assert view.preadv([memoryview(each) for each in pieces], 7) == 3 << 19
    assert b"".join(pieces) == data[7 : 7 + (3 << 19)]
    assert source.notes == (f"spooled to a temporary file, {len(data)} bytes at most",)
    source.release(0, 1 << 20)
    assert view.pread(0, 4096) == bytes(4096)
    assert source.pread(2 << 20, 4096) == data[2 << 20 : (2 << 20) + 4096]
    assert not list(tmp_path.iterdir())


def test_without_memory_files_the_spool_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> int:
        raise OSError(38, "no such call")

    monkeypatch.setattr(os, "memfd_create", refuse)
    source = StreamSource(iter([b"abc" * 100]), "x", str(tmp_path), "")
    source.finish()
    assert source.worker_view().pread(0, 6) == b"abcabc"
    assert source.notes == ("spooled to a temporary file, 300 bytes at most",)
