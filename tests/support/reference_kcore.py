# SPDX-License-Identifier: GPL-2.0-or-later
"""The reference decoder for copies of /proc/kcore: an ELF vmcore whose p_paddr may be missing; struct only."""

from __future__ import annotations

import struct

from .reference_elf import ElfReference, Load, parse_notes
from .reference_source import ReferenceError, Source

UNMASKED = {62: 1 << 30, 3: 1 << 28}  # x86_64, i386: the direct map begins at a multiple of this


def is_kcore(source: Source) -> bool:
    """Say whether an ELF file is one: places follow from addresses, and a note names vmlinux."""
    head = source.read(0, min(64, source.size))
    if len(head) < 64 or head[4] not in (1, 2) or head[5] not in (1, 2):
        return False
    order, wide = "<" if head[5] == 1 else ">", head[4] == 2
    e_type = struct.unpack_from(order + "H", head, 16)[0]
    phoff = struct.unpack_from(order + ("Q" if wide else "I"), head, 32 if wide else 28)[0]
    phentsize, phnum = struct.unpack_from(order + "HH", head, 54 if wide else 42)
    size = 56 if wide else 32
    if e_type != 4 or phoff != (64 if wide else 52) or phentsize != size or not 3 <= phnum <= 4096:
        return False
    if not source.has(phoff, phnum * size):
        return False
    rows = []
    for index in range(phnum):
        raw = source.read(phoff + index * size, size)
        if wide:
            kind, _, offset, vaddr, _, filesz, _, _ = struct.unpack(order + "II6Q", raw)
        else:
            kind, offset, vaddr, _, filesz, _, _, _ = struct.unpack(order + "8I", raw)
        rows.append((kind, offset, vaddr, filesz))
    if rows[0][0] != 4 or any(kind != 1 for kind, _, _, _ in rows[1:]):
        return False
    if len({(offset - vaddr) % (1 << 32) for _, offset, vaddr, _ in rows[1:]}) != 1:
        return False
    start, claimed = rows[0][1], min(rows[0][3], 1 << 20)
    area = source.read(start, max(0, min(claimed, source.size - start)))
    found = parse_notes(area, order)
    return not any(name.split(b"\0")[0] == b"DUMPCONV" for name, _, _ in found) and any(
        name == b"CORE\0" and kind == 3 and b"vmlinux\0" in desc[:64] for name, kind, desc in found
    )


class KcoreReference(ElfReference):
    """A copy of /proc/kcore."""

    def _loads(self, headers: list[dict[str, int]]) -> list[Load]:
        loads = [header for header in headers if header["type"] == 1]
        if loads and not any(header["paddr"] for header in loads):
            headers = self._by_direct_map(loads)
        else:
            headers = [header for header in loads if header["paddr"] != (1 << self.bits) - 1]
        kept = []
        spans = [(each["paddr"], min(each["paddr"] + min(each["filesz"], each["memsz"]), 1 << 64)) for each in headers]
        for header, (start, end) in zip(headers, spans, strict=True):
            # of memory that another segment holds too, what is past the end is not missed
            covered = any(low <= start and end <= high and high - low > end - start for low, high in spans)
            if not (header["offset"] >= self.source.size and covered and end > start):
                kept.append(header)
        return super()._loads(kept)

    def _by_direct_map(self, loads: list[dict[str, int]]) -> list[dict[str, int]]:
        first = loads[0]["vaddr"]
        if self.machine == 62:
            limit = min((each["vaddr"] for each in loads if each["memsz"] >= 1 << 44), default=0xFFFFFFFF80000000)
            kept = [each for each in loads if 1 << 63 <= each["vaddr"] < limit]
        elif self.machine == 3 or (self.machine == 22 and self.bits == 64):
            kept = [each for each in loads if each["vaddr"] < first]
        elif self.machine == 21:
            kept = [each for each in loads if each["vaddr"] >> 60 == 0xC]
        else:
            raise ReferenceError("kcore: no physical addresses", "unknown")
        lowest = min((each["vaddr"] for each in kept), default=0)
        base = lowest - lowest % UNMASKED[self.machine] if self.machine in UNMASKED else 0
        if self.machine == 21:
            base = 0xC << 60
        return [each | {"paddr": each["vaddr"] - base} for each in kept]
