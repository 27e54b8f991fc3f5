# SPDX-License-Identifier: GPL-2.0-or-later
"""Quirks of dump writers that no reader needs to know of: seen in headers and notes, by `dumpverify` alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

from ..formats.notes import NT_PRSTATUS, PRSTATUS_SIZES, find_note
from ..formats.reader import DumpReader

__all__ = ["CHECKS"]

_MAX_PID = 1 << 22  # PID_MAX_LIMIT, include/linux/threads.h
_MASK = (1 << 64) - 1
# (major, minor): first and last patch level, None for all later ones. Source: drgn's list of affected kernels.
_BUILD_IDS = {(5, 15): (168, None), (6, 1): (113, 118), (6, 6): (55, 62), (6, 10): (14, None), (6, 11): (3, 9)}


def _phys_base(reader: DumpReader) -> bool:
    info = reader.vmcoreinfo
    told = info.number("phys_base") if info is not None else None
    if reader.machine.arch != "x86_64" or told is None or reader.phys_base is None:
        return False
    return (told ^ reader.phys_base) & _MASK != 0


def _phys_base_zero(reader: DumpReader) -> bool:
    is_qemu = find_note(reader.notes, b"QEMU") is not None
    return is_qemu and reader.machine.arch == "x86_64" and reader.vmcoreinfo is None and reader.phys_base == 0


def _build_id(reader: DumpReader) -> bool:
    info = reader.vmcoreinfo
    if info is None or info.text("BUILD-ID") is None:
        return False
    found = re.match(r"(\d{1,4})\.(\d{1,4})\.(\d{1,6})", info.text("OSRELEASE") or "")
    if found is None:
        return False
    major, minor, patch = map(int, found.groups())
    first, last = _BUILD_IDS.get((major, minor), (1 << 30, None))
    return first <= patch and (last is None or patch <= last)


def _pid_order(reader: DumpReader) -> bool:
    machine = reader.machine
    if machine.byteorder != "big" or machine.arch not in PRSTATUS_SIZES:
        return False
    size, registers, _ = PRSTATUS_SIZES[machine.arch]
    place = 32 if registers == 112 else 24  # pr_pid
    for note in reader.notes:
        if note.name == b"CORE" and note.type == NT_PRSTATUS and note.size == size:
            raw = note.desc(place + 4)[place:]
            orders: tuple[Literal["big", "little"], ...] = ("big", "little")
            here, there = (int.from_bytes(raw, order) for order in orders)
            if there <= _MAX_PID < here:
                return True
    return False


def _ehsize(reader: DumpReader) -> bool:
    machine = reader.machine
    raw = reader.sources[0].pread(40 if reader.facts.get("class") == 32 else 52, 2)
    return int.from_bytes(raw, machine.byteorder) == 8


def _name_without_nul(reader: DumpReader) -> bool:
    return any(note.raw_name == b"CORE" for note in reader.notes)


def _no_vcpus(reader: DumpReader) -> bool:
    return reader.facts.get("vcpus") == 0


def _empty_rows(reader: DumpReader) -> bool:
    return bool(reader.facts.get("empty_rows"))


CHECKS: dict[str, Callable[[DumpReader], bool]] = {
    "QK-PHYS-BASE": _phys_base,
    "QK-PHYS-BASE-ZERO": _phys_base_zero,
    "QK-BUILD-ID": _build_id,
    "QK-PID-ORDER": _pid_order,
    "QK-EHSIZE": _ehsize,
    "QK-NAME-WITHOUT-NUL": _name_without_nul,
    "QK-NO-VCPUS": _no_vcpus,
    "QK-EMPTY-ROWS": _empty_rows,
}
