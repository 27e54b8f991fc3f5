# SPDX-License-Identifier: GPL-2.0-or-later
"""A canonical file that changed since it was made is not passed on as if it were whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zstandard

from dumpconv.cli import main
from dumpconv.formats.fastcodecs import zstd_frames_are_pages
from support import build_elf, build_kdump, corpus_elf, notes, patterns, product
from support.build_elf import ElfSpec, Segment


def _canonical(folder: Path) -> tuple[Path, bytearray]:
    spec = build_kdump.KdumpSpec(pages={pfn: patterns.page(pfn) for pfn in (3, 4, 9)}, excluded=[(5, 7)], codec="zlib")
    build_kdump.build(spec).write_to(folder / "dump")
    assert main([str(folder / "dump"), str(folder / "whole")]) == 0
    return folder / "changed", bytearray((folder / "whole").read_bytes())


def test_changed_page(tmp_path: Path) -> None:
    path, raw = _canonical(tmp_path)
    raw[-100] ^= 1
    path.write_bytes(raw)
    out = tmp_path / "out"
    assert main([str(path), str(out)]) == 5
    assert not out.exists()
    assert main(["--salvage", str(path), str(out)]) == 5
    assert out.exists()


def test_changed_state_digest(tmp_path: Path) -> None:
    path, raw = _canonical(tmp_path)
    desc = raw.index(b"DUMPCONV\0") + 12
    raw[desc + 8 + 32] ^= 1
    path.write_bytes(raw)
    assert main([str(path), str(tmp_path / "out")]) == 5
    assert not (tmp_path / "out").exists()


def _is_one_frame(piece: bytes) -> bool:
    stored = np.frombuffer(piece, np.uint8)
    return zstd_frames_are_pages(stored, np.array([0]), np.array([len(piece)]), 4096)


def test_joined_zstd_takes_exactly_one_frame_a_page() -> None:
    pack = zstandard.ZstdCompressor(level=1).compress
    for page in (patterns.page(7), bytes(4096)):
        frame = pack(page)
        assert _is_one_frame(frame)
        assert not _is_one_frame(frame + pack(b""))
        assert not _is_one_frame(frame + b"\x50\x2a\x4d\x18\x00\x00\x00\x00")
        assert not _is_one_frame(frame[:-1])


@pytest.mark.parametrize("way", ["file", "pipe"])
def test_filled_frame_that_holds_something(way: str, tmp_path: Path) -> None:
    pages = {pfn: patterns.page(pfn) for pfn in (3, 4, 9)}
    build_kdump.build(build_kdump.KdumpSpec(pages=pages)).write_to(tmp_path / "dump")
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert main([str(tmp_path / "dump"), str(whole), "--holes", "min-run=100"]) == 0
    raw = bytearray(whole.read_bytes())
    assert len(raw) % 4096 == 0
    assert raw[-4096:] == pages[9]
    raw[-8192 + 5] = 1  # in frame 8
    (tmp_path / "changed").write_bytes(raw)

    def converted(name: str, *options: str) -> tuple[int, str]:
        source = "-" if way == "pipe" else str(tmp_path / name)
        command = [sys.executable, "-m", "dumpconv", *options, source, str(out)]
        done = subprocess.run(command, input=(tmp_path / name).read_bytes(), capture_output=True, check=False)
        return done.returncode, done.stderr.decode()

    code, text = converted("changed")
    assert code == 3
    assert f"filled with zeros, but it holds something (file offset {len(raw) - 8192 + 5:#x}, pfn 0x8)" in text
    assert not out.exists()
    assert converted("changed", "--salvage")[0] == 3
    out.unlink()
    assert converted("whole")[0] == 0
    assert out.read_bytes() == whole.read_bytes()


def test_note_of_a_type_to_come_is_carried_over(tmp_path: Path) -> None:
    later = notes.encode(b"DUMPCONV\0", 0x44430003, b"of a later version")
    build_elf.build(corpus_elf.spec(notes=notes.machine_notes() + later)).write_to(tmp_path / "dump")
    for source, out in (("dump", "first"), ("first", "second")):
        assert main([str(tmp_path / source), str(tmp_path / out)]) == 0
        assert later in (tmp_path / out).read_bytes()
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    codes = [finding.code for finding in product.open_product(tmp_path / "dump").findings]
    assert codes == ["unknown-note"]


def test_segment_that_ends_one_byte_below_the_end_of_all_addresses(tmp_path: Path) -> None:
    data = patterns.page(7)[:-1]
    spec = ElfSpec([Segment((1 << 64) - 4096, data)], notes=notes.machine_notes())
    reader = product.open_product(build_elf.build(spec).write_to(tmp_path / "dump"))
    assert "last-byte" in [finding.code for finding in reader.findings]
    last = (1 << 52) - 1
    assert product.view(reader).pages == {last: data[:-1] + bytes(2)}
    assert reader.partial.tolist() == [[last, 0, 4094]]
