# SPDX-License-Identifier: GPL-2.0-or-later
"""Bytes that an ELF file holds twice: compared on every way in and out, and never without end."""

from __future__ import annotations

import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support import build_elf, build_lime, notes, patterns
from support.build_elf import ElfSpec, Segment


def run(data: bytes, folder: Path, way: str) -> subprocess.CompletedProcess[bytes]:
    """Convert from and to files and pipes."""
    (folder / "in").write_bytes(data)
    source = "-" if way.startswith("pipe") else str(folder / "in")
    out = "-" if way.endswith("pipe") else str(folder / "out")
    command = [sys.executable, "-m", "dumpconv", "--executor", "serial", "--no-fsync", source, out]
    return subprocess.run(command, input=data, capture_output=True, check=False, timeout=60)


WAYS = ["file to file", "pipe to file", "file to pipe", "pipe to pipe"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("nr_differing", [0, 3])
def test_copies_are_compared(way: str, nr_differing: int, tmp_path: Path) -> None:
    data = b"".join(patterns.pages(0, 64).values())
    text = bytearray(data[0x4000:0x8000])
    for at in range(nr_differing):
        text[at << 12] ^= 0x55
    segments = [Segment(0x4000, bytes(text), vaddr=0xFFFFFFFF81000000), Segment(0, data, vaddr=0xFFFF888000000000)]
    done = run(build_elf.build(ElfSpec(segments, notes=notes.machine_notes())).to_bytes(), tmp_path, way)
    said = done.stderr + (done.stdout if way.endswith("file") else b"")
    assert done.returncode == 0, said
    assert (b"3 bytes differ between overlapping segments: RAM's were kept [overlap-differs]" in said) == bool(
        nr_differing
    )


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("step", [0, 8])
def test_comparing_ends_however_often_segments_overlap(way: str, step: int, tmp_path: Path) -> None:
    # 20000 segments over 8 MiB, one in the other or all alike, each from other bytes of the file
    size, first = 8 << 20, 2 << 20
    segments = [
        Segment(
            at * step,
            fields={
                "p_filesz": size - 2 * at * step,
                "p_memsz": size - 2 * at * step,
                "p_offset": first + at * 512 % (1 << 20),
            },
        )
        for at in range(20000)
    ]
    image = build_elf.build(ElfSpec(segments))
    image.file.extend(first + size + (1 << 20))
    begin = time.monotonic()
    done = run(image.to_bytes(), tmp_path, way)
    said = done.stderr + (done.stdout if way.endswith("file") else b"")
    assert done.returncode == 0, said
    assert b"not all copies were compared [overlap]" in said
    assert time.monotonic() - begin < 10


def test_a_block_that_does_not_decode_is_told_once(tmp_path: Path) -> None:
    # its frames are damaged, and a header without data (a block of zeros) has them once more
    broken = bytearray(build_lime.stream(patterns.page(1)))
    broken[20] ^= 0x55
    length = struct.pack("<Q", len(broken))
    ranges = [
        build_lime.Range(0x1000, patterns.page(1), body=bytes(broken), trailer=length),
        build_lime.Range(0, size=0xA000, orphan=True),
        build_lime.Range(0x100000, patterns.page(2)),
    ]
    (tmp_path / "in").write_bytes(build_lime.build(ranges, avml=True))
    command = [sys.executable, "-m", "dumpconv", "--salvage", "--no-fsync", str(tmp_path / "in"), str(tmp_path / "out")]
    done = subprocess.run([*command, "--machine", "x86_64"], capture_output=True, check=False, timeout=60, text=True)
    assert done.returncode == 3, done.stderr
    assert "1 damaged" in done.stdout, done.stdout
    assert "4096 bytes differ between overlapping segments" in done.stderr + done.stdout
