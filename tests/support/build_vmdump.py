# SPDX-License-Identifier: GPL-2.0-or-later
"""Builds VMDUMP files of z/VM, 64-bit big, honest or hostile; packed by hand."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .build_s390 import Cpu

PAGE = 4096
BLOCK = 4096  # pages of which one bit-key page tells
FIR = 3


@dataclass
class VmdumpSpec:
    """A dump to build: `nr_pages` of storage, `pages` of it stored, the others zeros.

    `requested` and `online`: (first byte, last byte); None: one range of all. Hostility: `bits` sets further index
    bits, `patches` win over all computed.
    """

    nr_pages: int = 16
    pages: Mapping[int, bytes] = field(default_factory=dict)
    cpus: Sequence[tuple[int, Cpu]] = ((0x4000, Cpu()),)
    requested: Sequence[tuple[int, int]] | None = None
    online: Sequence[tuple[int, int]] | None = None
    size_def_store: int | None = None
    format: int = 0x02
    fir: int = FIR
    access: int = 8
    key: int = 0x10
    bits: Sequence[int] = ()
    patches: Mapping[int, bytes] = field(default_factory=dict)


def first_cpu(prefix: int, cpu: Cpu, others: int, kind: int) -> bytes:
    """Give the FIR, 1104 bytes."""
    out = bytearray(1104)
    struct.pack_into(">16Q", out, 16, *cpu.gprs)
    struct.pack_into(">I", out, 144, prefix)
    struct.pack_into(">Q", out, 153, 0xD1A2B3C4D5E6F708)
    struct.pack_into(">Q", out, 169, cpu.timer)
    out[187] = kind
    struct.pack_into(">QQ", out, 192, *cpu.psw)
    struct.pack_into(">16Q", out, 208, *cpu.ctrs)
    struct.pack_into(">16Q", out, 336, *cpu.fprs)
    struct.pack_into(">Q", out, 465, cpu.todcmp)
    struct.pack_into(">I", out, 476, cpu.todpreg)
    struct.pack_into(">16I", out, 560, *cpu.acrs)
    struct.pack_into(">HH", out, 912, others, 0)
    struct.pack_into(">I", out, 968, cpu.fpc)
    return bytes(out)


def other_cpu(number: int, prefix: int, cpu: Cpu) -> bytes:
    """Give the 552 bytes of another CPU."""
    out = bytearray(552)
    struct.pack_into(">H", out, 0, number)
    struct.pack_into(">16Q", out, 16, *cpu.fprs)
    struct.pack_into(">16Q", out, 144, *cpu.gprs)
    struct.pack_into(">QQ", out, 272, *cpu.psw)
    struct.pack_into(">II", out, 296, prefix, cpu.fpc)
    struct.pack_into(">I", out, 308, cpu.todpreg)
    struct.pack_into(">QQ", out, 312, cpu.timer, cpu.todcmp)
    struct.pack_into(">16I", out, 336, *cpu.acrs)
    struct.pack_into(">16Q", out, 400, *cpu.ctrs)
    return bytes(out)


def _keys(spec: VmdumpSpec) -> bytes:
    nr_blocks = -(-spec.nr_pages // BLOCK)
    out = b""
    for first in range(0, nr_blocks, 8 * PAGE):
        index, keys = bytearray(PAGE), b""
        for block in range(first, min(nr_blocks, first + 8 * PAGE)):
            pfns = range(block * BLOCK, (block + 1) * BLOCK)
            if any(pfn in spec.pages for pfn in pfns) or block in spec.bits:
                index[(block - first) // 8] |= 0x80 >> block % 8
                keys += bytes(spec.key | (pfn in spec.pages) for pfn in pfns)
        out += bytes(index) + keys
    return out


def build(spec: VmdumpSpec) -> bytes:
    """Give the file."""
    adsr = bytearray(PAGE)
    adsr[:2] = b"\xe2\xd9"
    adsr[0x38:0x40] = bytes.fromhex("e5d4c4e4d4d74040")
    fmbk = bytes.fromhex("c8c3d7c4c6d4c2d2") + struct.pack(">6I", spec.fir, 0, spec.access, 1, 1, spec.access + 1)
    out = bytes(adsr) + fmbk.ljust(PAGE, b"\0")
    out = out.ljust((spec.fir - 1) * PAGE, b"\0")
    out += first_cpu(*spec.cpus[0], len(spec.cpus) - 1, spec.format)
    out += b"".join(other_cpu(number, *cpu) for number, cpu in enumerate(spec.cpus[1:], 1))
    out = out.ljust((spec.access - 1) * PAGE, b"\0")
    out += bytes.fromhex("c8c3d7c4c1d3c2d2").ljust(PAGE, b"\0")
    size = spec.nr_pages * PAGE
    whole = [(0, size - 1)]
    space = bytearray(PAGE)
    space[:8] = bytes.fromhex("c1e2c9e9c2d24040")
    defined = size if spec.size_def_store is None else spec.size_def_store
    struct.pack_into(">QQ", space, 64, defined, defined)
    requested = whole if spec.requested is None else spec.requested
    struct.pack_into(">II", space, 216, len(requested), 0)
    for number, run in enumerate(whole if spec.online is None else spec.online):
        struct.pack_into(">QQ", space, 224 + 16 * number, *run)
    for number, run in enumerate(requested):
        struct.pack_into(">QQ", space, 352 + 16 * number, *run)
    out += bytes(space) + _keys(spec) + b"".join(page for _, page in sorted(spec.pages.items()))
    data = bytearray(out)
    for offset, patch in spec.patches.items():
        data[offset : offset + len(patch)] = patch
    return bytes(data)
