# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows of call frame information: bytes written by hand from DWARF 4, 6.4.2 and 7.7, and ORC's rules."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
from elftools.dwarf.callframe import CallFrameInfo, RegisterRule
from elftools.dwarf.structs import DWARFStructs

from dumpconv.analyze.errors import MissingTable
from dumpconv.analyze.orc import OrcEntry
from dumpconv.analyze.vmlinux import cfi, frames
from dumpconv.analyze.vmlinux.cfi import row_of
from dumpconv.analyze.vmlinux.cfi_arm64 import record_frames

SAME_BP = "08 06"


@pytest.mark.parametrize(
    ("entry", "row"),
    [
        # caller's frame at sp + 8: DW_CFA_def_cfa r7, 8
        (OrcEntry("sp", 8, "undefined", 0, "call", False), "0c 07 08 " + SAME_BP),
        # at bp + 16, bp saved 16 below it: DW_CFA_offset_extended_sf r6, 2
        (OrcEntry("bp", 16, "prev_sp", -16, "call", False), "0c 06 10 11 06 02"),
        (OrcEntry("r10", 200, "undefined", 0, "call", False), "0c 0a c8 01 " + SAME_BP),
        # a negative offset takes an expression: DW_OP_breg7 -8
        (OrcEntry("sp", -8, "undefined", 0, "call", False), "0f 02 77 78 " + SAME_BP),
        # bp lies at bp + 0: DW_CFA_expression r6, DW_OP_breg6 0
        (OrcEntry("sp", 16, "bp", 0, "call", False), "0c 07 10 10 06 02 76 00"),
        # at what bp - 8 points to
        (OrcEntry("bp_indirect", -8, "undefined", 0, "call", False), "0f 03 76 78 06 " + SAME_BP),
        # sp_indirect: *sp, and 8 to it
        (OrcEntry("sp_indirect", 8, "undefined", 0, "call", False), "0f 06 77 00 06 11 08 22 " + SAME_BP),
        # an iret frame at sp: caller's sp is in its fourth word, its address in the first
        (OrcEntry("sp", 0, "undefined", 0, "regs_partial", True), "0f 05 77 00 23 18 06 10 10 02 77 00 " + SAME_BP),
        (OrcEntry("sp", 0, "undefined", 0, "end", False), "07 10"),
    ],
)
def test_rows(entry: OrcEntry, row: str) -> None:
    assert row_of(entry, indirect_first=True) == bytes.fromhex(row)


def test_sp_indirect_of_old_kernels_adds_first() -> None:
    entry = OrcEntry("sp_indirect", 8, "undefined", 0, "call", False)
    assert row_of(entry, indirect_first=False) == bytes.fromhex("0f 03 77 08 06 " + SAME_BP)


def test_saved_registers_are_all_found() -> None:
    row = row_of(OrcEntry("sp", 16, "undefined", 0, "regs", True), indirect_first=True)
    assert row is not None
    # sp at +152 is the caller's frame, ip at +128 its address, r15 at +0, di (r5) at +112
    assert row.startswith(bytes.fromhex("0f 06 77 10 23 98 01 06 10 10 05 77 10 23 80 01"))
    assert bytes.fromhex("10 0f 02 77 10") in row
    assert bytes.fromhex("10 05 04 77 10 23 70") in row


@pytest.mark.parametrize(
    "entry",
    [
        OrcEntry("undefined", 0, "undefined", 0, "undefined", False),
        OrcEntry("prev_sp", 0, "undefined", 0, "call", False),
    ],
)
def test_what_orc_does_not_say_has_no_row(entry: OrcEntry) -> None:
    assert row_of(entry, indirect_first=True) is None


def test_frame_records_of_aarch64_by_another_reader() -> None:
    """pyelftools: the caller's frame is at x29 + 16, its x29 and address below; user mode is no caller."""
    data = record_frames("<", [(0x1000, 0x3000), (0x8000, 0x8010)], [(0x1800, 0x1804), (0x2FFC, 0x3000), (0, 4)])
    structs = DWARFStructs(little_endian=True, dwarf_format=32, address_size=8)
    entries = CallFrameInfo(io.BytesIO(data), len(data), 0, structs).get_entries()
    found = []
    for each in entries[1:]:
        (row,) = each.get_decoded().table
        start = each["initial_location"]
        found.append((start, start + each["address_range"], row[30].type))
        assert (row["pc"], row["cfa"].reg, row["cfa"].offset) == (start, 29, 16)
        assert (row[29].type, row[29].arg) == (RegisterRule.OFFSET, -16)
    calls, none = RegisterRule.OFFSET, RegisterRule.UNDEFINED
    assert found == [
        (0x1000, 0x1800, calls), (0x1800, 0x1804, none), (0x1804, 0x2FFC, calls), (0x2FFC, 0x3000, none),
        (0x8000, 0x8010, calls),
    ]  # fmt: skip
    assert entries[0]["return_address_register"] == 30
    (row,) = entries[1].get_decoded().table
    assert row[30].arg == -8


def test_a_cpu_that_called_a_null_pointer_has_no_hole(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopped:
        def __init__(self, kernel: Any) -> None:
            pass

        def saved_registers(self) -> list[tuple[int, dict[str, int]]]:
            return [(0, {"ip": 0}), (1, {"ip": 0x1000}), (2, {"ip": 0xFFFFFFFF81000000})]

        def hole(self, registers: dict[str, int]) -> int:
            return 16

    monkeypatch.setattr(frames, "OrcUnwinder", Stopped)
    kernel: Any = SimpleNamespace(machine=SimpleNamespace(arch="x86_64"), kernel_start=1 << 63)
    assert frames.holes(kernel, 0x1000000) == [(0xFFFFFFFF80000000, 16)]
    assert frames.holes(kernel, 1 << 64) == []


def test_entries_too_far_apart_are_none() -> None:
    assert cfi._advance((1 << 32) - 1) == b"\4\xff\xff\xff\xff"
    with pytest.raises(MissingTable):
        cfi._advance(1 << 32)
