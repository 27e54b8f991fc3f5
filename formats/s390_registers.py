# SPDX-License-Identifier: GPL-2.0-or-later
"""Registers of s390 CPUs: out of the save areas in their lowcores, into notes in the order in which zgetdump has them.

Source: docs/formats/s390.md section 5; z/Architecture Principles of Operation, assigned storage locations.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from .machine import ByteOrder
from .notes import Note, build_note
from .prstatus import prstatus_note

__all__ = ["LOWCORE_SIZE", "VECTOR_SIZE", "CpuState", "cpu_notes", "parse_lowcore", "vector_area"]

LOWCORE_SIZE = {"s390": 0x1000, "s390x": 0x2000}
VECTOR_SIZE = 512  # 32 vector registers of 16 bytes
_BIG: ByteOrder = "big"
_NT_FPREGSET = 2
_NT_TIMER, _NT_TODCMP, _NT_TODPREG, _NT_CTRS, _NT_PREFIX = 0x301, 0x302, 0x303, 0x304, 0x305
_NT_VXRS_LOW, _NT_VXRS_HIGH = 0x309, 0x30A
_VECTOR_POINTER = 0x11B0


class CpuState(NamedTuple):
    """Registers of one CPU, as stored: bytes where the note holds the same bytes.

    Attributes:
        psw: Mask and address, words of the machine; none where the source does not have them.
        gprs, ctrs: 16 words of the machine.
        acrs: 16 words of 4 bytes.
        fprs: 16 registers of 8 bytes; on 31-bit machines the source has 0, 2, 4 and 6.
        fpc: Floating-point control.
        prefix: Address of the lowcore.
        timer, todcmp: CPU timer and clock comparator, 8 bytes each.
        todpreg: TOD programmable register, 4 bytes.
        vectors: 512 bytes, or none.
    """

    psw: bytes
    gprs: bytes
    acrs: bytes
    ctrs: bytes
    fprs: bytes
    fpc: bytes
    prefix: int
    timer: bytes
    todcmp: bytes
    todpreg: bytes | None
    vectors: bytes | None = None


def parse_lowcore(arch: str, lowcore: bytes, vectors: bytes | None = None) -> CpuState:
    """Take the registers out of the `LOWCORE_SIZE` bytes at a CPU's prefix, where store-status left them."""

    def at(offset: int, size: int) -> bytes:
        return lowcore[offset : offset + size]

    if arch == "s390x":
        return CpuState(
            psw=at(0x1300, 16),
            gprs=at(0x1280, 128),
            acrs=at(0x1340, 64),
            ctrs=at(0x1380, 128),
            fprs=at(0x1200, 128),
            fpc=at(0x131C, 4),
            prefix=int.from_bytes(at(0x1318, 4), "big"),
            timer=at(0x1328, 8),
            todcmp=at(0x1330, 8),
            todpreg=at(0x1324, 4),
            vectors=vectors,
        )
    even = [at(0x160 + 8 * index, 8) + bytes(8) for index in range(4)]  # FPR 0, 2, 4, 6; the odd ones are not saved
    return CpuState(
        psw=at(0x100, 8),
        gprs=at(0x180, 64),
        acrs=at(0x120, 64),
        ctrs=at(0x1C0, 64),
        fprs=b"".join(even) + bytes(64),
        fpc=bytes(4),
        prefix=int.from_bytes(at(0x108, 4), "big"),
        timer=at(0xD8, 8),
        todcmp=at(0xE0, 8),
        todpreg=None,
    )


def vector_area(lowcore: bytes) -> int | None:
    """Return where a 64-bit CPU's vector registers were saved, None where they were not.

    The dump tool saves them where the pointer is a multiple of 1024, unmasked, and nowhere else (s390-tools
    zipl/boot/stage2dump.c): a pointer that carries a length in its low bits leads to something older.
    """
    pointer: int = struct.unpack_from(">Q", lowcore, _VECTOR_POINTER)[0]
    return pointer if pointer and pointer % 1024 == 0 else None


def cpu_notes(arch: str, cpu: CpuState, number: int) -> list[Note]:
    """Return the notes of one CPU: PRSTATUS, floating point, timer, clock comparator, TOD programmable register,
    control registers, prefix, vectors. What the source does not have makes no note.

    Args:
        arch: `s390` or `s390x`.
        cpu: Its registers.
        number: pr_pid; counted from 1, as the kernel's /proc/vmcore and zgetdump do.
    """
    word, letter = (8, "Q") if arch == "s390x" else (4, "I")
    registers = cpu.psw + cpu.gprs + cpu.acrs
    words = struct.unpack(f">{len(registers) // word}{letter}", registers)
    notes = [
        prstatus_note(arch, _BIG, words, number),
        build_note(b"CORE", _NT_FPREGSET, cpu.fpc + bytes(4) + cpu.fprs),
        build_note(b"LINUX", _NT_TIMER, cpu.timer),
        build_note(b"LINUX", _NT_TODCMP, cpu.todcmp),
    ]
    if cpu.todpreg is not None:
        notes.append(build_note(b"LINUX", _NT_TODPREG, cpu.todpreg))
    notes.append(build_note(b"LINUX", _NT_CTRS, cpu.ctrs))
    notes.append(build_note(b"LINUX", _NT_PREFIX, cpu.prefix.to_bytes(4, "big")))
    if cpu.vectors is not None:
        right = b"".join(cpu.vectors[16 * index + 8 : 16 * index + 16] for index in range(16))
        notes.append(build_note(b"LINUX", _NT_VXRS_LOW, right))
        notes.append(build_note(b"LINUX", _NT_VXRS_HIGH, cpu.vectors[256:VECTOR_SIZE]))
    return notes
