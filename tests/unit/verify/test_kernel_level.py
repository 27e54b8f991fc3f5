# SPDX-License-Identifier: GPL-2.0-or-later
"""`dumpverify --level kernel` on a real dump, whole and with damage at places that are known."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NoReturn

import pytest

from dumpconv.analyze import scan
from dumpconv.analyze.errors import MissingTable
from dumpconv.analyze.kernel import Kernel
from dumpconv.formats import open_dump
from dumpconv.verify import kernelcheck
from dumpconv.verify.verdict import TargetReport
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


def without_vmcoreinfo(path: Path) -> None:
    """Make the notes and the sub header of a kdump have no VMCOREINFO."""
    data = path.read_bytes()
    at = data.index(b"VMCOREINFO\0")
    corrupt.overwrite_file(path, at, b"X")
    corrupt.overwrite_file(path, 4096 + 32, bytes(16))  # offset_vmcoreinfo, size_vmcoreinfo


def test_what_was_proven_is_said(dump: Path) -> None:
    proven = verified(dump, 0)["proven"]
    assert [line.split(":")[0].split(" says")[0].split(" map")[0] for line in proven] == [
        "init_uts_ns", "page tables", "kernel log",
    ]  # fmt: skip
    assert "6.1.0-56-cloud-amd64" in proven[0]


def test_vmcoreinfo_is_found_in_memory(dump: Path) -> None:
    without_vmcoreinfo(dump)
    found = verified(dump, 0)
    assert "VMCOREINFO was found in memory: 6.1.0-56-cloud-amd64" in found["proven"]
    assert any("init_uts_ns says 6.1.0-56-cloud-amd64" in line for line in found["proven"])


@pytest.fixture
def bare(dump: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dump without VMCOREINFO, and none to be found in its memory."""
    monkeypatch.setattr(scan, "find_vmcoreinfo", lambda physical: iter(()))
    without_vmcoreinfo(dump)
    return dump


def by_itself(path: Path) -> TargetReport:
    report = TargetReport([str(path)], "kernel")
    kernelcheck.check_kernel(open_dump([str(path)]), report)
    return report


def test_without_any_vmcoreinfo_one_is_made_from_the_symbols(bare: Path) -> None:
    report = by_itself(bare)
    assert report.proven[0] == "VMCOREINFO was made from kallsyms: 6.1.0-56-cloud-amd64"
    assert any(line.startswith("kernel log: ") for line in report.proven)
    assert not any("init_uts_ns" in line for line in report.proven)  # it was made of that
    assert report.findings == []


def test_without_symbols_the_header_is_held_against_the_banner(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(physical: object) -> NoReturn:
        raise MissingTable("none")

    monkeypatch.setattr(scan, "find_kallsyms", none)
    report = by_itself(bare)
    assert report.proven == ["memory has `Linux version 6.1.0-56-cloud-amd64`, as the header says"]
    assert [each.code for each in report.findings] == ["W220"]
    assert "page tables and log were not held against anything" in report.findings[0].message
    corrupt.overwrite_file(bare, 12 + 2 * 65, b"5.10.0-1\0")
    assert "E141" in [each.code for each in by_itself(bare).findings]


def test_a_header_of_another_kernel_is_found(bare: Path) -> None:
    corrupt.overwrite_file(bare, 12 + 2 * 65, b"5.10.0-1\0")
    assert "E141" in [each.code for each in by_itself(bare).findings]


def test_memory_too_large_to_be_searched_is_said(dump: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_vmcoreinfo(dump)
    monkeypatch.setattr(kernelcheck, "MAX_SEARCH", 1 << 20)
    report = by_itself(dump)
    assert [each.code for each in report.findings] == ["W220"]
    assert "were not searched" in report.findings[0].message


def test_a_dump_that_says_nothing_of_a_kernel(corpus_dir: Path) -> None:
    found = json.loads(
        dumpverify(
            "--json", "--level", "kernel", "-f", "raw", "--machine", "ppc64", corpus_dir / "elf" / "qemu.elf"
        ).stdout
    )["dumps"][0]
    (finding,) = [each for each in found["findings"] if each["code"] == "W220"]
    assert "memory has no VMCOREINFO and no `Linux version`" in finding["message"]
    assert found["proven"] == []
