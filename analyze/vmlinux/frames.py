# SPDX-License-Identifier: GPL-2.0-or-later
""".debug_frame for the places in a panic of which ORC says nothing: without it a debugger skips the function there."""

from __future__ import annotations

import struct

from ...formats.errors import DumpError
from ..kernel import Kernel
from ..orc_unwind import OrcUnwinder
from .dwarf import sleb, uleb

__all__ = ["NORMAL_FRAME", "SIGNAL_FRAME", "debug_frame", "entry_of_hole", "frame_entry", "holes"]

_SP, _RETURN = 7, 16
# What entries have in common: version 1, no augmentation, code factor 1, data factor -8, return address in column 16;
# the caller's frame is at r7 + 8, the return address below it.
_BEGIN, _FACTORS = struct.pack("<I", 0xFFFFFFFF) + b"\1", uleb(1) + sleb(-8) + bytes((_RETURN,))
_RULES = bytes((0x0C, _SP, 8, 0x80 | _RETURN, 1))
NORMAL_FRAME = _BEGIN + b"\0" + _FACTORS + _RULES
# The caller of such a frame was interrupted, not called: augmentation "zS", with no data.
SIGNAL_FRAME = _BEGIN + b"zS\0" + _FACTORS + b"\0" + _RULES


def holes(kernel: Kernel, offset: int) -> list[tuple[int, int]]:
    """Return (link-time address, bytes from sp to the caller's frame) of the stopped CPUs that stand in a hole."""
    if kernel.machine.arch != "x86_64":
        return []
    try:
        unwinder = OrcUnwinder(kernel)
        # a call of a null pointer stops at 0, where no image has a function
        registers = [each for _, each in unwinder.saved_registers() if each["ip"] >= kernel.kernel_start]
        found = {each["ip"] - offset: unwinder.hole(each) for each in registers}
    except DumpError:
        return []
    return sorted((address, size) for address, size in found.items() if size is not None and address >= 0)


def debug_frame(rows: list[tuple[int, int]]) -> bytes:
    """Return .debug_frame of x86_64: one entry of one byte for each address."""
    return frame_entry(NORMAL_FRAME) + b"".join(entry_of_hole(address, size) for address, size in rows)


def entry_of_hole(address: int, size: int) -> bytes:
    """Return the entry of one address, `size` bytes below its caller's frame."""
    return frame_entry(struct.pack("<IQQ", 0, address, 1) + bytes((0x0C, _SP)) + uleb(size))


def frame_entry(body: bytes, mark: str = "<") -> bytes:
    """Return an entry with its length before it, a multiple of 8 bytes."""
    body += bytes(-(len(body) + 4) % 8)  # DW_CFA_nop
    return struct.pack(f"{mark}I", len(body)) + body
