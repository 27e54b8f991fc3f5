# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs over many files: what one check leaves behind, and what an archive's tree holds beside dumps."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from dumpconv.formats import decode, kdump_layout
from dumpconv.verify.pagecheck import PageOptions
from dumpconv.verify.target import VerifyOptions, verify_target
from support import notes, patterns
from support.build_kdump import KdumpSpec, build_split
from support.small_dump import made

COUNT = 12
ALONE = VerifyOptions(pages=PageOptions(1, "serial"))


def test_a_check_leaves_no_buffers_to_the_collector(tmp_path: Path) -> None:
    made(tmp_path / "dump", COUNT)
    gc.collect()
    gc.disable()
    try:
        assert verify_target([str(tmp_path / "dump")], ALONE).pages["stored"] > 0
        left = [each for each in gc.get_objects() if isinstance(each, (decode.Worker, decode.DecodeJob))]
    finally:
        gc.enable()
    assert not left


def test_headers_are_understood_once_for_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = {16 + index: patterns.page(16 + index) for index in range(COUNT)}
    spec = KdumpSpec(pages=pages, notes=notes.machine_notes(cpus=1))
    for number, member in enumerate(build_split(spec, [(0, 20), (20, 24), (24, 28)])):
        member.write_to(tmp_path / f"part.{number}")
    names: list[str] = []
    inner = kdump_layout._detect_abi

    def counted(source: kdump_layout.ByteSource) -> tuple[kdump_layout.Abi, kdump_layout.MainHeader]:
        names.append(Path(source.name).name)
        return inner(source)

    monkeypatch.setattr(kdump_layout, "_detect_abi", counted)
    assert len(verify_target([str(tmp_path / "part.1")], ALONE).files) == 3
    assert sorted(names) == ["part.0", "part.1", "part.2"]
