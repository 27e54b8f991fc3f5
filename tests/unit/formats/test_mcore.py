# SPDX-License-Identifier: GPL-2.0-or-later
"""mcore: layouts byte by byte, units, the word size that is nowhere written, claims that cost nothing."""

from __future__ import annotations

import os
import time
import zlib
from pathlib import Path
from typing import Any

import pytest

from dumpconv.formats.errors import CorruptDump, UsageError
from dumpconv.formats.mcore import McoreReader, mcore_unit
from dumpconv.formats.mcore_layout import Layout, header_v1, header_v2, map_entry, tell_layout
from dumpconv.formats.pages import PageState
from dumpconv.formats.reader import DumpReader, Ints
from dumpconv.formats.source import BytesSource
from support import corpus_mcore, patterns, product
from support.build_mcore import McoreSpec, build

# docs/formats/mcore.md: offsets by (32 bits, 64 bits)
V2 = {"blk_size": (16, 32), "map_block": (20, 36), "map_blocks": (24, 40)}
V1 = V2 | {"map_entries": (28, 44), "va_per_entry": (32, 48), "bytes_not_dumped": (36, 56), "total_blocks": (40, 64)}
ENTRY = {"start_va": (0, 0), "exp_data": (4, 8), "start_blk": (8, 16), "num_blks": (12, 20)}


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize(("schema", "offsets"), [(header_v2, V2), (header_v1, V1)])
def test_header_offsets(order: Any, bits: int, schema: Any, offsets: dict[str, tuple[int, int]]) -> None:
    made = schema(Ints(order, bits // 8))
    for name, places in offsets.items():
        raw = bytearray(made.sizeof())
        at = places[bits == 64]
        width = bits // 8 if name in ("va_per_entry", "bytes_not_dumped") else 4
        raw[at : at + width] = (0x1234).to_bytes(width, order)
        header = made.parse(bytes(raw))
        assert {key: getattr(header, key) for key in offsets} == {key: 0x1234 * (key == name) for key in offsets}


@pytest.mark.parametrize(("version", "sizes"), [(2, (16, 24)), (1, (20, 32))])
def test_map_entries(version: int, sizes: tuple[int, int]) -> None:
    for bits, size in zip((32, 64), sizes, strict=True):
        dtype = map_entry(Layout(version, "big", bits // 8))
        assert dtype.itemsize == size
        assert {name: dtype.fields[name][1] for name in ENTRY} == {name: at[bits == 64] for name, at in ENTRY.items()}  # type: ignore[index]


BIG_32 = bytes.fromhex("9a8bccdd 00000000 00000000 00000000 00001000 00000001 00000001")
BIG_64 = bytes.fromhex("000000009a8bccdd" + "00" * 24 + "00001000 00000001 00000001")
LITTLE_64 = bytes.fromhex("ddcc8b9a00000000" + "00" * 24 + "00100000 01000000 01000000")


@pytest.mark.parametrize(
    ("raw", "entry", "layout"),
    [
        (BIG_32, "c0000000 00000000 00000002 00000001", Layout(2, "big", 4)),
        (BIG_64, "c000000000000000 0000000000000000 00000002 00000001", Layout(2, "big", 8)),
        (LITTLE_64, "00000000 00fcffff 0000000000000000 02000000 01000000", Layout(2, "little", 8)),
    ],
)
def test_layouts_written_by_hand(raw: bytes, entry: str, layout: Layout) -> None:
    data = raw.ljust(4096, b"\0") + bytes.fromhex(entry).ljust(4096, b"\0") + b"\x78\x9c".ljust(4096, b"\0")
    source = BytesSource(data)
    assert McoreReader.probe(source)
    assert tell_layout(source) == layout


def test_a_sign_extended_magic_is_none() -> None:
    assert not McoreReader.probe(BytesSource(b"\xdd\xcc\x8b\x9b" + b"\xff" * 5000))
    assert not McoreReader.probe(BytesSource(b"\xff\xff\xff\xff\x9a\x8b\xcc\xdd" + bytes(5000)))


@pytest.mark.parametrize(
    "data", [bytes(8192), b"\1\0\0\0".ljust(9000, b"\0"), bytes(range(256)) * 64, b"\1\0\0\0" * 4096]
)
def test_other_files_are_not_taken_for_version_1(data: bytes) -> None:
    assert not McoreReader.probe(BytesSource(data))


def opened(folder: Path, spec: McoreSpec, **more: Any) -> DumpReader:
    path = folder / "dump"
    path.write_bytes(build(spec))
    return product.open_product(path, **more)


def test_the_machine_of_64_bits_must_be_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="format mcore does not say of which machine it is"):
        opened(tmp_path, corpus_mcore.spec(bits=64, base=0xFFFF888000000000))


def test_base_overrides_what_the_map_says(tmp_path: Path) -> None:
    reader = opened(tmp_path, corpus_mcore.spec(base=0xC0001000), base=0xC0000000, machine="i386")
    assert product.view(reader).pages == {pfn + 1: page for pfn, page in corpus_mcore.PAGES.items()}


@pytest.mark.parametrize("base", [0xFFFFFFFFF0000000, 0xFFFF888000000001])
def test_a_base_that_cannot_be_is_damage(tmp_path: Path, base: int) -> None:
    spec = McoreSpec({pfn: patterns.page(pfn) for pfn in range(8)}, version=1)
    reader = opened(tmp_path, spec, salvage=True, machine="x86_64", base=base)
    assert f"unit of 0xffff888000000000 is no number of pages above the base, {base:#x}" in str(reader.damage)
    assert reader.memory_map.count(PageState.STORED) == 0


def test_a_base_that_no_kernel_has_is_told(tmp_path: Path) -> None:
    reader = opened(tmp_path, corpus_mcore.spec(base=0x10000000), machine="i386")
    assert "base" in [finding.code for finding in reader.findings]


def test_the_first_of_a_frames_pages_counts(tmp_path: Path) -> None:
    spec = corpus_mcore.spec(listed={1: [0xC0000000 + pfn * 4096 for pfn in (16, 2, 18, 19)]})
    seen = product.view(opened(tmp_path, spec, salvage=True))
    assert seen.pages[2] == patterns.page(2)
    assert sorted(seen.pages) == [1, 2, 3, 16, 18, 19]


def test_a_unit_ends_where_its_stream_does() -> None:
    packed = zlib.compress(b"ab" * 100)
    assert mcore_unit(packed + b"padding", 150, 200) == (b"ab" * 100)[:150]
    assert mcore_unit(packed, 250, 300) == b"ab" * 100  # fewer than wanted: what is there
    for stored, message in ((packed[:-1], "ends early"), (packed[:-1] + b"?", "zlib: "), (b"", "ends early")):
        with pytest.raises(ValueError, match=message):
            mcore_unit(stored, 150, 200)
    with pytest.raises(ValueError, match="more than 199 bytes"):
        mcore_unit(packed, 150, 199)


@pytest.mark.parametrize(
    "fields", [{"map_blocks": 0x7FFFFFFF}, {"map_block": 0x7FFFFFFF}, {"map_blocks": -1}, {"map_block": -5}]
)
def test_claims_cost_nothing(tmp_path: Path, fields: dict[str, int]) -> None:
    begin = time.process_time()
    with pytest.raises(CorruptDump, match="read as 32 bits: map"):
        opened(tmp_path, corpus_mcore.spec(fields=fields))
    assert time.process_time() - begin < 1


@pytest.mark.parametrize(("entries", "headers"), [(1 << 22, (1,)), ((1 << 19) // 2 + 1, (1, 2))])
def test_a_map_of_zeros_behind_a_claim_costs_nothing(tmp_path: Path, entries: int, headers: tuple[int, ...]) -> None:
    pages = {pfn: patterns.page(pfn) for pfn in range(8)}
    data = build(McoreSpec(pages, version=1, fields={"map_entries": entries}, header_blocks=headers))
    path = tmp_path / "dump"
    path.write_bytes(data)
    os.truncate(path, len(data) + 32 * entries)  # a hole as large as the claim
    begin = time.process_time()
    with pytest.raises(CorruptDump, match=f"maps of {entries * len(headers)} units, 524288 is the limit"):
        product.open_product(path, salvage=True, machine="x86_64")
    assert time.process_time() - begin < 1


def test_units_that_cannot_be_cost_little(tmp_path: Path) -> None:
    entries = 1 << 17
    pages = {pfn: patterns.page(pfn) for pfn in range(8)}
    data = build(McoreSpec(pages, version=1, fields={"map_entries": entries}))
    path = tmp_path / "dump"
    path.write_bytes(data)
    os.truncate(path, len(data) + 32 * entries)
    begin = time.process_time()
    reader = product.open_product(path, salvage=True, machine="x86_64")
    assert time.process_time() - begin < 1
    # all frames that the entries name, also those whose entry is the bytes of a unit that the map overlaps
    missing = [reader.memory_map.count(state) for state in (PageState.DAMAGED, PageState.LOST)]
    assert sum(missing) == 4 * entries
