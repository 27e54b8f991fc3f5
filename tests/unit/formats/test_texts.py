# SPDX-License-Identifier: GPL-2.0-or-later
"""VMCOREINFO and erase info as text beside the notes of a kdump: carried over whole, whatever their size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dumpconv.cli import main
from dumpconv.formats.notes import find_note
from support import build_kdump, corpus_kdump, patterns, product
from support.build_kdump import KdumpSpec

LONG = b"".join(b"erase symbol_%d size 4\n" % number for number in range(60000))


def test_a_long_erase_info_is_carried_over_whole(tmp_path: Path) -> None:
    assert len(LONG) > 1 << 20
    path = build_kdump.build(corpus_kdump.base(eraseinfo=LONG)).write_to(tmp_path / "dump")
    assert main([str(path), str(tmp_path / "out")]) == 0
    assert LONG in (tmp_path / "out").read_bytes()


def test_a_long_vmcoreinfo_of_version_3_is_carried_over_whole(tmp_path: Path) -> None:
    text = b"OSRELEASE=6.1.0-test\nPAGESIZE=4096\n" + b"KEY=value\n" * 120000
    spec = corpus_kdump.base(version=3, vmcoreinfo=text)
    path = build_kdump.build(spec).write_to(tmp_path / "dump")
    reader = product.open_product(path)
    note = find_note(reader.notes, b"VMCOREINFO")
    assert note is not None
    assert note.desc() == text
    assert [finding.code for finding in reader.findings] == ["vmcoreinfo-long"]


def test_the_erase_info_of_a_set_is_joined_in_the_order_of_frames(tmp_path: Path) -> None:
    # makedumpfile gives each member the lines of its frames
    texts = [b"erase low size 8\n", b"", b"erase high.member nullify\n"]
    spec = KdumpSpec(pages={pfn: patterns.page(pfn) for pfn in range(64)})
    ranges = [(0, 24), (24, 40), (40, 64)]
    paths = []
    for number, (text, run) in enumerate(zip(texts, ranges, strict=True)):
        image = build_kdump.build(replace(spec, split=run, eraseinfo=text))
        paths.append(image.write_to(tmp_path / f"dump.{number}"))
    for order in ((0, 1, 2), (2, 0, 1)):
        reader = product.open_product(*(paths[number] for number in order))
        reader.finish_notes()
        note = find_note(reader.notes, b"ERASEINFO")
        assert note is not None
        assert note.desc() == b"".join(texts)
        assert note.source.pread(10, 20) == b"".join(texts)[10:30]
