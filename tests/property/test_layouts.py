# SPDX-License-Identifier: GPL-2.0-or-later
"""The numpy form of a table is the same layout as its construct schema, and both are the sheet's."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dumpconv.formats import elf_layout, kdump_layout
from dumpconv.formats.kdump_layout import Abi
from dumpconv.formats.machine import ByteOrder

ORDERS: list[ByteOrder] = ["little", "big"]
MARK = {"little": "<", "big": ">"}


@given(st.binary(min_size=24, max_size=24), st.sampled_from(ORDERS))
def test_page_descriptor(raw: bytes, order: ByteOrder) -> None:
    parsed = kdump_layout.page_descriptor(order).parse(raw)
    row = np.frombuffer(raw, kdump_layout.descriptor_dtype(order))[0]
    assert {name: parsed[name] for name in row.dtype.names} == {name: int(row[name]) for name in row.dtype.names}
    names = ("offset", "size", "flags", "page_flags")
    assert dict(zip(names, struct.unpack(MARK[order] + "qIIQ", raw), strict=True)) == {n: parsed[n] for n in names}


@given(st.binary(min_size=56, max_size=56), st.sampled_from(ORDERS), st.sampled_from((4, 8)))
def test_program_header(raw: bytes, order: ByteOrder, word_size: int) -> None:
    schema, dtype = elf_layout.program_header(order, word_size), elf_layout.phdr_dtype(order, word_size)
    assert schema.sizeof() == dtype.itemsize == elf_layout.PHDR_SIZE[word_size]
    parsed, row = schema.parse(raw), np.frombuffer(raw[: dtype.itemsize], dtype)[0]
    names = dtype.names or ()
    assert {name: parsed[name] for name in names} == {name: int(row[name]) for name in names}
    code = "8I" if word_size == 4 else "II6Q"
    assert struct.unpack(MARK[order] + code, raw[: dtype.itemsize]) == tuple(int(row[name]) for name in names)


def test_sizes_of_the_elf_sheet() -> None:
    assert [elf_layout.elf_header("little", word).sizeof() for word in (4, 8)] == [52, 64]
    assert [elf_layout.section_header("big", word).sizeof() for word in (4, 8)] == [40, 64]


def test_sizes_of_the_kdump_sheet() -> None:
    assert [kdump_layout.main_header("little", word).sizeof() for word in (4, 8)] == [452, 464]
    assert kdump_layout.page_descriptor("little").sizeof() == 24
    sizes = {
        Abi("little", 8): (16, 32, 48, 64, 80, 104),
        Abi("little", 4, pack=True): (8, 20, 32, 44, 56, 80),
        Abi("little", 4, pack=False): (8, 20, 40, 56, 72, 96),
    }
    for abi, expected in sizes.items():
        assert tuple(kdump_layout.sub_header(abi, version).sizeof() for version in range(1, 7)) == expected


# offsets of sheet section 3: 64-bit, pack, pad
SUB_OFFSETS = {
    "phys_base": (0, 0, 0), "dump_level": (8, 4, 4), "split": (12, 8, 8), "start_pfn": (16, 12, 12),
    "end_pfn": (24, 16, 16), "offset_vmcoreinfo": (32, 20, 24), "size_vmcoreinfo": (40, 28, 32),
    "offset_note": (48, 32, 40), "size_note": (56, 40, 48), "offset_eraseinfo": (64, 44, 56),
    "size_eraseinfo": (72, 52, 64), "start_pfn_64": (80, 56, 72), "end_pfn_64": (88, 64, 80),
    "max_mapnr_64": (96, 72, 88),
}  # fmt: skip


@pytest.mark.parametrize("name", SUB_OFFSETS)
@pytest.mark.parametrize("which", range(3))
def test_fields_of_the_sub_header(name: str, which: int) -> None:
    abi = (Abi("little", 8), Abi("little", 4, pack=True), Abi("little", 4, pack=False))[which]
    raw = bytearray(104)
    raw[SUB_OFFSETS[name][which]] = 0x5A
    parsed = kdump_layout.sub_header(abi, 6).parse(bytes(raw))
    assert {each: parsed[each] for each in SUB_OFFSETS} == dict.fromkeys(SUB_OFFSETS, 0) | {name: 0x5A}


MAIN_OFFSETS = {
    "header_version": (8, 8), "timestamp_sec": (404, 408), "timestamp_usec": (408, 416), "status": (412, 424),
    "block_size": (416, 428), "sub_hdr_size": (420, 432), "bitmap_blocks": (424, 436), "max_mapnr": (428, 440),
    "total_ram_blocks": (432, 444), "device_blocks": (436, 448), "written_blocks": (440, 452),
    "current_cpu": (444, 456), "nr_cpus": (448, 460),
}  # fmt: skip


@pytest.mark.parametrize("name", MAIN_OFFSETS)
@pytest.mark.parametrize("which", range(2))
def test_fields_of_the_main_header(name: str, which: int) -> None:
    raw = bytearray(464)
    raw[MAIN_OFFSETS[name][which]] = 0x5A
    parsed = kdump_layout.main_header("little", (4, 8)[which]).parse(bytes(raw))
    assert {each: parsed[each] for each in MAIN_OFFSETS} == dict.fromkeys(MAIN_OFFSETS, 0) | {name: 0x5A}
