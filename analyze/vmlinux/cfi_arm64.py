# SPDX-License-Identifier: GPL-2.0-or-later
"""Call frame information of aarch64: its kernels keep frame records (x29), so one rule holds for all code.

A record has the caller's record and the return address, and what is called the frame's address here is its end. The
caller of a function that has not made its record yet, or makes none, is left out.

Source: DWARF for the Arm 64-bit Architecture; AAPCS64, "The Frame Pointer".
"""

from __future__ import annotations

import struct

from .dwarf import sleb, uleb
from .frames import frame_entry

__all__ = ["record_frames"]

_FP, _LR = 29, 30
_DEF_CFA, _OFFSET, _UNDEFINED = 0x0C, 0x80, 0x07
_CIE = 0xFFFFFFFF


def record_frames(mark: str, ranges: list[tuple[int, int]], ends: list[tuple[int, int]]) -> bytes:
    """Return .debug_frame at run-time addresses.

    Args:
        mark: struct's of the byte order.
        ranges: (start, end) of code.
        ends: (start, end) of code in them that nobody called: where user mode came in, where a task began.
    """
    common = struct.pack(f"{mark}I", _CIE) + b"\1\0" + uleb(1) + sleb(-8) + bytes((_LR,))
    common += bytes((_DEF_CFA, _FP, 16, _OFFSET | _FP, 2, _OFFSET | _LR, 1))
    out = frame_entry(common, mark)
    for start, end in ranges:
        at = start
        for first, last in sorted(ends):
            if not at <= first < last <= end:
                continue
            out += _entry(mark, at, first) + _entry(mark, first, last, bytes((_UNDEFINED, _LR)))
            at = last
        out += _entry(mark, at, end)
    return out


def _entry(mark: str, start: int, end: int, rules: bytes = b"") -> bytes:
    return frame_entry(struct.pack(f"{mark}IQQ", 0, start, end - start) + rules, mark) if start < end else b""
