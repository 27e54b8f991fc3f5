# SPDX-License-Identifier: GPL-2.0-or-later
"""Call frame information of x86_64 from ORC: what plain gdb needs to walk through kernel and modules.

An ORC entry holds from its address to the next one's; so does a row of DWARF's table. Rows of one function and one kind
of frame are an entry of .debug_frame. Source: DWARF Debugging Information Format 4, 6.4; docs/analyze.md, "for gdb".
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from ..errors import MissingTable
from ..kernel import Kernel
from ..orc import Orc, OrcEntry, OrcTable
from .dwarf import sleb, uleb
from .frames import NORMAL_FRAME, SIGNAL_FRAME, entry_of_hole, frame_entry, holes

__all__ = ["call_frames", "row_of"]

_MAX_ROWS = 1 << 22
_DEF_CFA, _CFA_EXPRESSION, _EXPRESSION, _OFFSET_SF, _SAME, _UNDEFINED = 0x0C, 0x0F, 0x10, 0x11, 0x08, 0x07
_DEREF, _PLUS, _PLUS_UCONST, _CONSTS, _BREG0 = 0x06, 0x22, 0x23, 0x11, 0x70
_RETURN, _BP, _SP = 16, 6, 7
# DWARF's numbers, System V ABI of x86-64, figure 3.36
_NUMBERS = {"ax": 0, "dx": 1, "di": 5, "bp": _BP, "sp": _SP, "r10": 10, "r13": 13}
# where struct pt_regs has them
_PT_REGS = {
    15: 0, 14: 8, 13: 16, 12: 24, _BP: 32, 3: 40, 11: 48, 10: 56, 9: 64, 8: 72, 0: 80, 2: 88, 1: 96, 4: 104, 5: 112,
}  # fmt: skip
_PT_IP, _PT_SP, _IRET_SP = 128, 152, 24
_NONE, _CALL, _END, _REGS, _PARTIAL = range(5)
_KINDS = {"undefined": _NONE, "call": _CALL, "end": _END, "regs": _REGS, "regs_partial": _PARTIAL}


def call_frames(kernel: Kernel, starts: NDArray[np.uint64], *, indirect_first: bool) -> bytes:
    """Return .debug_frame at run-time addresses.

    Args:
        kernel: An x86_64 kernel with ORC.
        starts: Addresses of all symbols: a function's rows stand together.
        indirect_first: sp_indirect loads from sp and then adds (Linux 5.12 and later).

    Raises:
        MissingTable, Unreadable: There is no ORC.
    """
    orc = Orc(kernel)
    normal = frame_entry(NORMAL_FRAME)
    # a signal frame's caller was interrupted: its address is that of the instruction itself
    signal = frame_entry(SIGNAL_FRAME)
    out = bytearray(normal + signal)
    places = {_CALL: 0, _END: 0, _REGS: len(normal), _PARTIAL: len(normal)}
    for table, end in orc.tables():
        _of_table(out, kernel, table, end, starts, places, indirect_first)
    for address, size in holes(kernel, 0):
        out += entry_of_hole(address, size)
    return bytes(out)


def _of_table(
    out: bytearray,
    kernel: Kernel,
    table: OrcTable,
    end: int,
    starts: NDArray[np.uint64],
    places: dict[int, int],
    first: bool,
) -> None:
    addresses, rows = table.columns()
    if len(addresses) > _MAX_ROWS:
        raise MissingTable(f"ORC table of {len(addresses)} entries")
    kept = addresses < np.uint64(end)
    addresses, rows = addresses[kept], rows[kept]
    parts = [rows[name].astype(np.uint16).astype(np.int64) for name in ("sp", "bp", "flags")]
    packed = parts[0] | parts[1] << 16 | parts[2] << 32
    _, where, which = np.unique(packed, return_index=True, return_inverse=True)
    decoded = [table.decode(rows[index]) for index in where.tolist()]
    made = [row_of(each, indirect_first=first) for each in decoded]
    of_made = [_NONE if row is None else _KINDS[each.kind] for each, row in zip(decoded, made, strict=True)]
    kinds = np.array(of_made, np.int64)[which]
    # of several at one address the last that says something counts
    wanted = np.ones(len(addresses), bool)
    same = addresses[1:] == addresses[:-1]
    wanted[:-1] &= ~(same & (kinds[1:] != _NONE))
    wanted[1:] &= ~(same & (kinds[1:] == _NONE))
    addresses, kinds, which = addresses[wanted], kinds[wanted], which[wanted]
    cut = np.ones(len(addresses), bool)
    cut[1:] = (kinds[1:] != kinds[:-1]) | np.isin(addresses[1:], starts)
    firsts = np.flatnonzero(cut)
    at, number = addresses.tolist(), which.tolist()
    for low, high in zip(firsts.tolist(), [*firsts[1:].tolist(), len(at)], strict=True):
        kind = int(kinds[low])
        stop = at[high] if high < len(at) else end
        if kind == _NONE or stop <= at[low]:
            continue
        place = places[kind] if not _is_system_call(kernel, at[low]) else 0
        body = bytearray(struct.pack("<IQQ", place, at[low], stop - at[low]))
        body += b"\0" if place else b""  # no augmentation data, where the rules have a word for them
        place, before = at[low], -1
        for index in range(low, high):
            if number[index] == before:
                continue
            before = number[index]
            body += _advance(at[index] - place) + (made[before] or b"")
            place = at[index]
        out += frame_entry(bytes(body))


def _is_system_call(kernel: Kernel, address: int) -> bool:
    # who calls the kernel is not interrupted: gdb then prints the entry's name, not that a signal came
    found = kernel.symbols.lookup(address)
    return found is not None and found[0].name.startswith("entry_SYS")


def _advance(delta: int) -> bytes:
    if not delta:
        return b""
    if delta >= 1 << 32:
        raise MissingTable(f"ORC entries are {delta:#x} bytes apart")
    if delta < 64:
        return bytes((0x40 | delta,))
    if delta < 1 << 8:
        return bytes((2, delta))
    return b"\3" + struct.pack("<H", delta) if delta < 1 << 16 else b"\4" + struct.pack("<I", delta)


def row_of(entry: OrcEntry, *, indirect_first: bool) -> bytes | None:
    """Return the instructions of one row; None where ORC says nothing that can be said.

    Args:
        entry: One ORC entry.
        indirect_first: See `call_frames`.
    """
    if entry.kind == "undefined":
        return None
    if entry.kind == "end":
        return bytes((_UNDEFINED, _RETURN))
    frame = _place(entry, indirect_first)
    if frame is None:
        return None
    if entry.kind == "call":
        number = _NUMBERS.get(entry.sp_register)
        if number is not None and entry.sp_offset >= 0:
            row = bytes((_DEF_CFA, number)) + uleb(entry.sp_offset)
        else:
            row = bytes((_CFA_EXPRESSION,)) + _block(frame)
        return row + _bp_rule(entry, frame)
    partial = entry.kind == "regs_partial"
    row = bytes((_CFA_EXPRESSION,)) + _block(frame + _add(_IRET_SP if partial else _PT_SP) + bytes((_DEREF,)))
    row += bytes((_EXPRESSION, _RETURN)) + _block(frame + _add(0 if partial else _PT_IP))
    if partial:
        return row + _bp_rule(entry, frame)
    for register, offset in _PT_REGS.items():
        row += bytes((_EXPRESSION, register)) + _block(frame + _add(offset))
    return row


def _place(entry: OrcEntry, indirect_first: bool) -> bytes | None:
    # the operations that give the address that sp's part of an entry means
    name, offset = entry.sp_register, entry.sp_offset
    if name == "bp_indirect":
        return bytes((_BREG0 + _BP,)) + sleb(offset) + bytes((_DEREF,))
    if name == "sp_indirect":
        if indirect_first:
            return bytes((_BREG0 + _SP, 0, _DEREF, _CONSTS)) + sleb(offset) + bytes((_PLUS,))
        return bytes((_BREG0 + _SP,)) + sleb(offset) + bytes((_DEREF,))
    return bytes((_BREG0 + _NUMBERS[name],)) + sleb(offset) if name in _NUMBERS else None


def _bp_rule(entry: OrcEntry, frame: bytes) -> bytes:
    offset = entry.bp_offset
    if entry.bp_register == "prev_sp":
        if entry.kind == "call" and offset % 8 == 0:
            return bytes((_OFFSET_SF, _BP)) + sleb(offset // -8)
        return bytes((_EXPRESSION, _BP)) + _block(frame + bytes((_CONSTS,)) + sleb(offset) + bytes((_PLUS,)))
    if entry.bp_register == "bp":
        return bytes((_EXPRESSION, _BP)) + _block(bytes((_BREG0 + _BP,)) + sleb(offset))
    return bytes((_SAME, _BP))


def _add(value: int) -> bytes:
    return bytes((_PLUS_UCONST,)) + uleb(value) if value else b""


def _block(operations: bytes) -> bytes:
    return uleb(len(operations)) + operations
