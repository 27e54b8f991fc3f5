# SPDX-License-Identifier: GPL-2.0-or-later
"""VMDUMP: registers by hand, index pages, hostile sizes, messages."""

from __future__ import annotations

import struct
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from dumpconv.formats import vmdump
from dumpconv.formats.errors import CorruptDump, TruncatedDump, UnsupportedDump
from dumpconv.formats.pages import PageState
from dumpconv.formats.reader import DumpReader
from support import corpus_vmdump, patterns, product
from support.build_s390 import Cpu
from support.build_vmdump import PAGE, VmdumpSpec, build


def opened(tmp_path: Path, spec: VmdumpSpec, **more: Any) -> DumpReader:
    path = tmp_path / "dump"
    path.write_bytes(build(spec))
    return product.open_product(path, **more)


def test_sizes_are_the_sheets() -> None:
    assert vmdump.first_cpu().sizeof() == 1104
    assert vmdump.other_cpu().sizeof() == 552
    assert vmdump.map_record().sizeof() == 32
    assert vmdump.address_space().sizeof() == 1376


def test_registers(tmp_path: Path) -> None:
    others = Cpu(gprs=tuple(range(16)), psw=(3, 4), acrs=(9,) * 16, fpc=5, todpreg=6, timer=7, todcmp=8)
    reader = opened(tmp_path, corpus_vmdump.base(cpus=[(0x4000, Cpu()), (0x6000, others)]))
    kinds = [note.type for note in reader.notes]
    assert kinds == [1, 2, 0x301, 0x302, 0x303, 0x304, 0x305] * 2
    first, second = reader.notes[0].desc(), reader.notes[7].desc()
    assert first[112:136] == bytes.fromhex("0704c00180000000 1122334455667788 0000000000000100")
    assert first[256:260] == bytes.fromhex("00000200")
    assert second[32:36] == bytes.fromhex("00000002")
    assert second[112:144] == bytes.fromhex("0000000000000003 0000000000000004 0000000000000000 0000000000000001")
    assert second[256:260] == bytes.fromhex("00000009")
    assert [note.desc() for note in reader.notes[2:5]] == [
        bytes.fromhex("7fffffff12345678"), bytes.fromhex("00d1a2b3c4d5e6f7"), bytes.fromhex("00000017"),
    ]  # fmt: skip
    assert [note.desc() for note in reader.notes[9:12]] == [bytes(7) + b"\7", bytes(7) + b"\x08", bytes(3) + b"\6"]
    assert [reader.notes[at].desc() for at in (6, 13)] == [bytes.fromhex("00004000"), bytes.fromhex("00006000")]
    assert reader.notes[8].desc()[:16] == bytes.fromhex("00000005 00000000 0000000000000400")


def test_two_index_pages(tmp_path: Path) -> None:
    """Bit 32768 is in the second index page, behind the bit-key pages of the first."""
    far = 32768 * 4096 + 5
    pages = {7: patterns.page(7), far: patterns.page(far)}
    zeros = 32768 * 4096 * PAGE
    spec = VmdumpSpec(nr_pages=far + 10, pages=pages, requested=[(0, 16 * PAGE - 1), (zeros, (far + 10) * PAGE - 1)])
    reader = opened(tmp_path, spec, salvage=False)
    assert reader.damage is None
    seen = product.view(reader).pages
    assert seen[7] == pages[7]
    assert seen[far] == pages[far]
    assert sorted(seen) == [*range(16), *range(far - 5, far + 10)]


@pytest.mark.parametrize("size", [1 << 39, 1 << 50, 1 << 53])
def test_huge_storage_costs_little(tmp_path: Path, size: int) -> None:
    tracemalloc.start()
    begin = time.monotonic()
    try:
        spec = corpus_vmdump.base(requested=[(0, size - 1)], online=[])
        reader = opened(tmp_path, spec)
        assert reader.memory_map.end_pfn == size // PAGE
    except TruncatedDump:
        assert size > 1 << 39
    assert time.monotonic() - begin < 2
    assert tracemalloc.get_traced_memory()[1] < 100 << 20
    tracemalloc.stop()


def test_truncated_pages_are_lost_and_zeros_are_not(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    path.write_bytes(build(corpus_vmdump.base())[: corpus_vmdump.DATA + PAGE])
    reader = product.open_product(path, salvage=True)
    seen = product.view(reader)
    assert seen.lost == {2, 3, 9}
    assert set(seen.pages) == set(range(16)) - seen.lost
    assert isinstance(reader.damage, TruncatedDump)


@pytest.mark.parametrize(("kind", "text"), [(0x82, "64-bit, before z/VM 5.2"), (0x00, "31-bit"), (0x44, "unknown")])
def test_other_forms_are_explained(tmp_path: Path, kind: int, text: str) -> None:
    with pytest.raises(UnsupportedDump, match=f"format {kind:#04x} .{text}.: only 0x02"):
        opened(tmp_path, corpus_vmdump.base(format=kind))


def test_messages_have_both_values(tmp_path: Path) -> None:
    with pytest.raises(CorruptDump, match=r"65535 further CPUs of 552 bytes at 0x2450 .* access list at 0x7000"):
        opened(tmp_path, corpus_vmdump.base(patches={2 * PAGE + 912: b"\xff\xff"}))
    with pytest.raises(TruncatedDump, match="record 2130706440, the file has 15"):
        opened(tmp_path, corpus_vmdump.base(patches={PAGE + 16: b"\x7f"}))


def test_findings(tmp_path: Path) -> None:
    vector = {PAGE + 12: struct.pack(">I", 7)}
    reader = opened(tmp_path, corpus_vmdump.base(patches=vector, bits=[0]))
    assert {finding.code for finding in reader.findings} == {"zero-storage", "vectors"}
    assert reader.memory_map.count(PageState.STORED) == 16


@pytest.mark.parametrize("machine", ["s390", "x86_64"])
def test_another_machine_is_refused(tmp_path: Path, machine: str) -> None:
    with pytest.raises(UnsupportedDump, match=f"format 0x02 is of s390x, not {machine}"):
        opened(tmp_path, corpus_vmdump.base(), machine=machine)
    assert opened(tmp_path, corpus_vmdump.base(), machine="s390x").notes
