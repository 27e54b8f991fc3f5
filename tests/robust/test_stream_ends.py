# SPDX-License-Identifier: GPL-2.0-or-later
"""Streams whose end, or whose header, is not what a file's would be."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from support import build_elf, build_flat, build_kdump
from support.build_elf import ElfSpec, Segment

PAGES = random.Random(3).randbytes(20 * 4096)


def piped(data: bytes, *args: str) -> tuple[int, str]:
    done = subprocess.run([sys.executable, "-m", "dumpconv", *args], input=data, capture_output=True, check=False)
    return done.returncode, done.stderr.decode()


def test_zeros_at_the_end_of_a_stream(tmp_path: Path) -> None:
    data = build_elf.build(ElfSpec([Segment(0x100000, PAGES + bytes(400 * 4096))])).to_bytes()
    code, text = piped(data, "-", str(tmp_path / "out"))
    assert (code, text) == (0, "")
    assert (tmp_path / "out").read_bytes()[-420 * 4096 :] == PAGES + bytes(400 * 4096)


@pytest.mark.parametrize("out", ["file", "pipe"])
def test_an_elf_stream_that_is_cut_off(out: str, tmp_path: Path) -> None:
    data = build_elf.build(ElfSpec([Segment(0x100000, PAGES)])).to_bytes()[:-9000]
    code, text = piped(data, "-", str(tmp_path / "out") if out == "file" else "-")
    assert code == 3
    assert f"the stream ended after {len(data)}" in text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("data", [b"", b"abc"])
def test_a_stream_too_short_for_any_format(data: bytes) -> None:
    code, text = piped(data, "info", "-")
    assert code == 6
    assert "no known dump format begins with" in text


def test_a_segment_at_an_offset_that_no_stream_has(tmp_path: Path) -> None:
    segment = Segment(0x100000, PAGES, fields={"p_offset": 0xFFFFFFFFFFFFFFFF})
    code, text = piped(build_elf.build(ElfSpec([segment])).to_bytes(), "-", str(tmp_path / "out"))
    assert code == 3, text
    assert not list(tmp_path.iterdir())


def test_program_headers_of_any_size_are_not_allocated() -> None:
    data = bytearray(build_elf.build(ElfSpec([Segment(0x100000, PAGES)])).to_bytes())
    struct.pack_into("<HH", data, 54, 65535, 65534)
    script = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        "from dumpconv.cli import main\n"
        "sys.exit(main(['info', '-']))"
    )
    done = subprocess.run([sys.executable, "-c", script], input=bytes(data), capture_output=True, check=False)
    assert done.returncode == 3, done.stderr


def test_a_cut_stream_that_claims_terabytes(tmp_path: Path) -> None:
    segment = Segment(0, PAGES, fields={"p_filesz": 1 << 41, "p_memsz": 1 << 41})
    data = build_elf.build(ElfSpec([segment])).to_bytes()
    path = tmp_path / "cut"
    path.write_bytes(build_flat.flatten([build_flat.Record(0, data), build_flat.Record(1 << 42, b"x")], end=b""))
    script = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        "from dumpconv.cli import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", script, str(path), str(tmp_path / "out"), "--salvage"]
    done = subprocess.run(command, capture_output=True, check=False, text=True, timeout=20)
    assert done.returncode == 3, done.stderr
    assert f"{len(PAGES) // 4096} pages stored (0 zero), {(1 << 29) - len(PAGES) // 4096} lost" in done.stdout


def test_a_shared_page_at_the_edge_of_what_is_kept(tmp_path: Path) -> None:
    # frame 256 lies across the first MiB of page data, which is kept; the last frame wants it again
    rng = random.Random(1)
    pages = {0: b"ab" * 2048} | {pfn: rng.randbytes(4096) for pfn in range(1, 400)}
    pages |= {65536 * number: rng.randbytes(4096) for number in range(1, 6)}
    pages[65536 * 5] = pages[256]
    data = build_kdump.build(build_kdump.KdumpSpec(pages, share={65536 * 5: 256})).to_bytes()
    code, text = piped(data, "-", str(tmp_path / "out"), "--jobs", "1")
    assert (code, "out of order" in text) == (1, True)
    assert not list(tmp_path.iterdir())
