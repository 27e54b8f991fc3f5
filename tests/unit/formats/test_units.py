# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU on aarch64 writes blocks of 64 KiB for a kernel with pages of 4 KiB: a block is 16 pages."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest

from dumpconv.cli import main
from dumpconv.formats import open_dump
from dumpconv.formats.image import DumpImage
from support import build_kdump, notes, reference

BLOCK, PAGE = 65536, 4096


def _file(path: Path, codec: str) -> dict[int, bytes]:
    rng = random.Random(codec)
    blocks = {
        number: b"".join(
            struct.pack("<Q", number * 16 + page) + rng.randbytes(64) + bytes(PAGE - 72) for page in range(16)
        )
        for number in (0, 1, 5, 9)
    }
    text = notes.vmcoreinfo_text(page_size=PAGE)
    spec = build_kdump.KdumpSpec(
        pages=blocks, page_size=BLOCK, codec=codec, notes=notes.machine_notes("aarch64", text=text), vmcoreinfo=text
    )
    build_kdump.build(spec).write_to(path)
    return {
        number * 16 + page: data[page * PAGE : (page + 1) * PAGE]
        for number, data in blocks.items()
        for page in range(16)
    }


@pytest.mark.parametrize("codec", ["raw", "zlib", "lzo", "snappy", "zstd"])
def test_block_of_sixteen_pages(tmp_path: Path, codec: str) -> None:
    source = tmp_path / "dump"
    expected = _file(source, codec)
    reader = open_dump([str(source)])
    assert reader.machine.page_size == PAGE
    image = DumpImage(reader)
    assert {pfn: image.read_page(pfn) for pfn in expected} == expected
    out, again = tmp_path / "out", tmp_path / "again"
    assert main([str(source), str(out)]) == 0
    assert reference.decode(str(out)).pages == expected
    assert main([str(out), str(again)]) == 0
    assert out.read_bytes() == again.read_bytes()
