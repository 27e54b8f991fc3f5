# SPDX-License-Identifier: GPL-2.0-or-later
""".debug_frame for the places in a panic of which ORC says nothing: without it a debugger skips the function there."""

from __future__ import annotations

import struct

from ...formats.errors import DumpError
from ..kernel import Kernel
from ..orc_unwind import OrcUnwinder
from .dwarf import sleb, uleb

__all__ = ["debug_frame", "holes"]

_SP, _RETURN = 7, 16
_NEVER = 0xFFFFFFFF


def holes(kernel: Kernel, offset: int) -> list[tuple[int, int]]:
    """Return (link-time address, bytes from sp to the caller's frame) of the stopped CPUs that stand in a hole."""
    if kernel.machine.arch != "x86_64":
        return []
    try:
        unwinder = OrcUnwinder(kernel)
        registers = [each for _, each in unwinder.saved_registers()]
        found = {each["ip"] - offset: unwinder.hole(each) for each in registers}
    except DumpError:
        return []
    return sorted((address, size) for address, size in found.items() if size is not None)


def debug_frame(rows: list[tuple[int, int]]) -> bytes:
    """Return .debug_frame of x86_64: one entry of one byte for each address."""
    # version 1, no augmentation, code factor 1, data factor -8, return address in column 16;
    # the caller's frame is at r7 + 8, the return address below it
    start = b"\1\0" + uleb(1) + sleb(-8) + bytes((_RETURN,)) + bytes((0x0C, _SP, 8, 0x80 | _RETURN, 1))
    out = _entry(struct.pack("<I", _NEVER) + start)
    for address, size in rows:
        out += _entry(struct.pack("<IQQ", 0, address, 1) + bytes((0x0C, _SP)) + uleb(size))
    return out


def _entry(body: bytes) -> bytes:
    body += bytes(-(len(body) + 4) % 8)  # DW_CFA_nop
    return struct.pack("<I", len(body)) + body
