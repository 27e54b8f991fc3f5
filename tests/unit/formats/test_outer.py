# SPDX-License-Identifier: GPL-2.0-or-later
"""Outer compression: joined members, cut files, bombs; packed by each format's own tool."""

from __future__ import annotations

import io
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dumpconv.formats.errors import TruncatedDump
from dumpconv.formats.outer import outer_kind, unpack

TOOLS = {"gzip": "gzip", "xz": "xz", "zstd": "zstd", "lz4": "lz4", "bzip2": "bzip2", "lzop": "lzop"}
DATA = b"".join(random.Random(1).randbytes(700) + bytes(900) for _ in range(900))


def _pack(tool: str, data: bytes) -> bytes:
    return subprocess.run([tool, "-c"], input=data, stdout=subprocess.PIPE, check=True).stdout


def _unpacked(kind: str, packed: bytes) -> bytes:
    return b"".join(unpack(kind, io.BytesIO(packed), "packed"))


@pytest.mark.parametrize("kind", TOOLS)
def test_what_the_tool_packed(kind: str, need: Callable[..., None]) -> None:
    need(TOOLS[kind])
    packed = _pack(TOOLS[kind], DATA)
    assert outer_kind(packed[:9]) == kind
    assert _unpacked(kind, packed) == DATA


@pytest.mark.parametrize("kind", [kind for kind in TOOLS if kind != "lzop"])
def test_joined_members(kind: str, need: Callable[..., None]) -> None:
    need(TOOLS[kind])
    packed = _pack(TOOLS[kind], DATA[:5000]) + _pack(TOOLS[kind], DATA[5000:])
    assert _unpacked(kind, packed) == DATA


@pytest.mark.parametrize("kind", TOOLS)
def test_cut_file(kind: str, need: Callable[..., None]) -> None:
    need(TOOLS[kind])
    packed = _pack(TOOLS[kind], DATA)
    with pytest.raises(TruncatedDump, match="cut off"):
        _unpacked(kind, packed[: len(packed) // 2])


_BOMB = """
import io, resource, sys
from dumpconv.formats.outer import unpack
resource.setrlimit(resource.RLIMIT_AS, (700 << 20, 700 << 20))
print(sum(len(chunk) for chunk in unpack(sys.argv[1], open(sys.argv[2], "rb"), "bomb")))
"""


@pytest.mark.parametrize("kind", ["gzip", "bzip2", "zstd"])
def test_bomb_costs_no_memory(kind: str, tmp_path: Path, need: Callable[..., None]) -> None:
    need(TOOLS[kind])
    size = 768 << 20
    bomb = tmp_path / "bomb"
    line = f"head -c {size} /dev/zero | {TOOLS[kind]} -1 -c"
    with bomb.open("wb") as file:
        subprocess.run(["sh", "-c", line], stdout=file, check=True)
    result = subprocess.run([sys.executable, "-c", _BOMB, kind, str(bomb)], capture_output=True, text=True, check=True)
    assert int(result.stdout) == size
