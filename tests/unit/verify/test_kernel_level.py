# SPDX-License-Identifier: GPL-2.0-or-later
"""`dumpverify --level kernel` on a real dump, whole and with damage at places that are known."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from dumpconv.analyze.kernel import Kernel
from dumpconv.formats import open_dump
from support import corrupt
from support.command import dumpverify

pytestmark = pytest.mark.real


@pytest.fixture
def dump(real_dir: Path, tmp_path: Path) -> Path:
    path = tmp_path / "vmcore"
    shutil.copyfile(real_dir / "vmcore.d31.zstd.kdump", path)
    return path


def verified(path: Path, code: int) -> dict[str, Any]:
    done = dumpverify("--json", "--level", "kernel", path)
    assert done.returncode == code, (done.stdout, done.stderr)
    dump: dict[str, Any] = json.loads(done.stdout)["dumps"][0]
    return dump


def place(path: Path, symbol: str) -> tuple[int, int]:
    """Where the page of a symbol lies in the file: offset, size."""
    kernel = Kernel(open_dump([str(path)]))
    pfn = kernel.memory.translate(kernel.symbol(symbol)) // 4096
    row = kernel.reader.extents(pfn, pfn + 1)[0]
    return int(row["offset"]), int(row["stored_size"])


def test_a_whole_dump_makes_sense(dump: Path) -> None:
    found = verified(dump, 0)
    assert [each["code"] for each in found["findings"]] == ["I303"]
    assert found["impact"] == []


@pytest.mark.parametrize(
    ("symbol", "what"),
    [("schedule", "kernel text"), ("linux_banner", "kernel read-only data"), ("init_task", "kernel data")],
)
def test_damage_is_named(dump: Path, symbol: str, what: str) -> None:
    offset, size = place(dump, symbol)
    corrupt.zero_file(dump, offset, offset + size)
    found = verified(dump, 3)
    assert found["bad_pages"] == 1
    assert any(line.startswith(f"{what}: 1 of ") for line in found["impact"])


def test_a_damaged_log_is_told(dump: Path) -> None:
    kernel = Kernel(open_dump([str(dump)]))
    ring = kernel.memory.pointer(kernel.symbol("prb"))
    address = kernel.structs.get(ring, "printk_ringbuffer", "text_data_ring.data")
    pfn = kernel.memory.translate(address) // 4096
    row = kernel.reader.extents(pfn, pfn + 1)[0]
    corrupt.zero_file(dump, int(row["offset"]), int(row["offset"] + row["stored_size"]))
    found = verified(dump, 3)
    if found["bad_pages"]:  # a raw page has nothing that tells
        assert "kernel log damaged" in found["impact"]


def test_memory_of_another_kernel_is_found(dump: Path) -> None:
    data = dump.read_bytes()
    at = data.index(b"OSRELEASE=6.1.0")
    corrupt.overwrite_file(dump, at + len(b"OSRELEASE="), b"7")
    found = verified(dump, 3)
    assert "E141" in [each["code"] for each in found["findings"]]


def test_page_tables_that_do_not_fit_are_found(dump: Path) -> None:
    data = dump.read_bytes()
    at = data.index(b"NUMBER(phys_base)=") + len(b"NUMBER(phys_base)=")
    end = data.index(b"\n", at)
    value = int(data[at:end]) + (2 << 20)
    assert len(str(value)) == end - at
    corrupt.overwrite_file(dump, at, str(value).encode())
    codes = [each["code"] for each in verified(dump, 3)["findings"]]
    assert {"E141", "E142"} & set(codes)
