# SPDX-License-Identifier: GPL-2.0-or-later
"""Members of a split set that are found beside the one named: copies and impossible ranges do not spoil the set."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dumpconv.formats import open_dump
from dumpconv.formats.errors import UsageError
from support import build_kdump, patterns, product

PAGES = {pfn: patterns.page(pfn) for pfn in range(64)}


def _set(folder: Path) -> list[Path]:
    spec = build_kdump.KdumpSpec(pages=PAGES, codec="zlib")
    paths = []
    for number, image in enumerate(build_kdump.build_split(spec, [(0, 24), (24, 40), (40, 64)])):
        path = folder / f"dump.{number}"
        image.write_to(path)
        paths.append(path)
    return paths


def test_copy_of_a_sister_is_left_out(tmp_path: Path) -> None:
    paths = _set(tmp_path)
    shutil.copy(paths[1], tmp_path / "dump.1.bak")
    assert product.view(open_dump([str(paths[0])])).pages == PAGES


def test_copy_of_the_named_member_is_left_out(tmp_path: Path) -> None:
    paths = _set(tmp_path)
    shutil.copy(paths[2], tmp_path / "a-copy")
    assert product.view(open_dump([str(paths[2])])).pages == PAGES


def test_named_copies_are_refused(tmp_path: Path) -> None:
    paths = _set(tmp_path)
    shutil.copy(paths[1], tmp_path / "dump.1.bak")
    with pytest.raises(UsageError, match="overlap"):
        product.open_product(*paths, tmp_path / "dump.1.bak")
