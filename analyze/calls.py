# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a call instruction ends where a return address points: what tells return addresses from other words.

Source: the architectures' instruction set manuals.
"""

from __future__ import annotations

from collections.abc import Callable

from ..formats.errors import DumpError
from .memory import KernelMemory

__all__ = ["call_before"]

_MASK = 0xFFFFFFFFFFFFFFFF
_LONGEST = 8


def call_before(memory: KernelMemory, arch: str, address: int) -> int | None:
    """Return the target of the direct call that ends at an address, 0 for an indirect one, None where none ends there.

    Args:
        memory: The kernel's.
        arch: Of the kernel; of one that is not known every address is taken for that of an indirect call.
        address: What may be a return address.
    """
    find = _FIND.get(arch)
    if find is None:
        return 0
    try:
        code = memory.read(address - _LONGEST, _LONGEST)
    except DumpError:
        return None
    order = memory.physical.machine.byteorder
    return find(code, address, 1 if order == "little" else -1)


def _word(code: bytes, at: int, step: int) -> int:
    return int.from_bytes(code[at : at + 4], "little" if step == 1 else "big")


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> bits - 1 & 1 else value


def _x86(code: bytes, address: int, _: int) -> int | None:
    if code[3] == 0xE8:
        return address + int.from_bytes(code[4:], "little", signed=True) & _MASK
    for size in (2, 3, 6, 7):
        part = code[8 - size :]
        if size in (3, 7) and part[0] & 0xF0 == 0x40:
            part = part[1:]
        if part[0] == 0xFF and part[1] >> 3 & 7 == 2:
            return 0
    return None


def _i386(code: bytes, address: int, step: int) -> int | None:
    found = _x86(code, address, step)
    return None if found is None else found & 0xFFFFFFFF


def _aarch64(code: bytes, address: int, _: int) -> int | None:
    word = _word(code, 4, 1)  # instructions are little-endian always
    if word >> 26 == 0x25:
        return address - 4 + 4 * _signed(word & 0x3FFFFFF, 26) & _MASK
    if word & 0xFFFFFC1F == 0xD63F0000 or word & 0xFEFFF800 == 0xD63F0800:  # blr; blraa, blrab and their kin
        return 0
    return None


def _riscv64(code: bytes, address: int, _: int) -> int | None:
    word = _word(code, 4, 1)
    if word & 0xFFF == 0x0EF:  # jal ra
        imm = word >> 21 & 0x3FF | (word >> 20 & 1) << 10 | (word >> 12 & 0xFF) << 11 | word >> 31 << 19
        return address - 4 + 2 * _signed(imm, 20) & _MASK
    if word & 0x7FFF == 0x0E7:  # jalr ra
        before, base = _word(code, 0, 1), word >> 15 & 31
        if before & 0x7F == 0x17 and before >> 7 & 31 == base:  # auipc in front of it
            far = _signed(before >> 12, 20) << 12
            return address - 8 + far + _signed(word >> 20, 12) & _MASK
        return 0
    short = int.from_bytes(code[6:], "little")
    return 0 if short & 0xF07F == 0x9002 and short & 0xF80 else None  # c.jalr


def _s390x(code: bytes, address: int, _: int) -> int | None:
    if code[2] == 0xC0 and code[3] == 0xE5:  # brasl %r14
        return address - 6 + 2 * int.from_bytes(code[4:], "big", signed=True) & _MASK
    if code[4] == 0xA7 and code[5] == 0xE5:  # bras %r14
        return address - 4 + 2 * int.from_bytes(code[6:], "big", signed=True) & _MASK
    return 0 if code[6] == 0x0D and code[7] >> 4 == 0xE else None  # basr %r14


def _ppc64(code: bytes, address: int, step: int) -> int | None:
    word = _word(code, 4, step)
    if word & 0xFC000003 == 0x48000001:
        return address - 4 + _signed(word & 0x3FFFFFC, 26) & _MASK
    return 0 if word in (0x4E800421, 0x4E800021) else None  # bctrl, blrl


def _arm(code: bytes, address: int, _: int) -> int | None:
    word = _word(code, 4, 1)
    if word & 0x0F000000 == 0x0B000000 and word >> 28 != 15:
        return address + 4 + 4 * _signed(word & 0xFFFFFF, 24) & 0xFFFFFFFF
    if word & 0x0FFFFFF0 == 0x012FFF30 and word >> 28 != 15:  # blx register
        return 0
    return None


_FIND: dict[str, Callable[[bytes, int, int], int | None]] = {
    "x86_64": _x86,
    "i386": _i386,
    "aarch64": _aarch64,
    "riscv64": _riscv64,
    "s390x": _s390x,
    "ppc64": _ppc64,
    "arm": _arm,
}
