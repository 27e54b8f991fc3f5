# SPDX-License-Identifier: GPL-2.0-or-later
"""A canonical file that changed since it was made is not passed on as if it were whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import zstandard

from dumpconv.cli import main
from dumpconv.formats.fastcodecs import zstd_frames_are_pages
from support import build_kdump, patterns


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
