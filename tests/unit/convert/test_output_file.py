# SPDX-License-Identifier: GPL-2.0-or-later
"""The output file while it is made: moving pages keeps what is a hole a hole."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from dumpconv.convert import canonical
from dumpconv.convert.canonical import OutputFile

MIB = 1 << 20


@pytest.mark.parametrize("punches", [True, False], ids=["punch", "write"])
@pytest.mark.parametrize(("old", "new"), [(8192, 4096), (4096, 3 * MIB), (64 * MIB, 4096), (4096, 8192)])
def test_moved_pages(old: int, new: int, punches: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not punches:
        monkeypatch.setattr(canonical, "punch_hole", lambda *_: False)
    rng = random.Random(1)
    data = bytearray(40 * MIB)
    for at in (0, 4096, 5 * MIB, 20 * MIB + 4096, 40 * MIB - 8192):
        data[at : at + 6000] = rng.randbytes(min(6000, len(data) - at))
    with OutputFile(str(tmp_path / "out")) as file:
        file.resize(old + len(data))
        for at in range(0, len(data), 4096):
            if any(data[at : at + 4096]):
                file.write(bytes(data[at : at + 4096]), old + at)
        file.write(b"head", 0)
        file.shift(old, new, len(data))
        file.commit(sync=False)
    found = (tmp_path / "out").read_bytes()
    assert len(found) == new + len(data)
    assert found[:4] == b"head"
    assert found[new:] == data
    if punches:
        assert 512 * os.stat(tmp_path / "out").st_blocks < 200_000
