# SPDX-License-Identifier: GPL-2.0-or-later
"""The reference decoder for netdump: an ELF vmcore with rules of its own."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

from .reference_elf import PT_LOAD, PT_NOTE, ElfReference, parse_notes
from .reference_source import NO_DESCRIPTOR, ReferenceError, Source

EM_386 = 3


def netdump_align(source: Source) -> int | None:
    """Give p_align of the second program header if this is a netdump, else nothing."""
    if source.size < 52:
        return None
    ident = source.read(0, 16)
    if ident[:4] != b"\x7fELF" or ident[4] not in (1, 2) or ident[5] not in (1, 2):
        return None
    wide, order = ident[4] == 2, "<" if ident[5] == 1 else ">"
    if wide and source.size < 64:
        return None
    (kind,) = struct.unpack(order + "H", source.read(16, 2))
    (phoff,) = struct.unpack(order + ("Q" if wide else "I"), source.read(32 if wide else 28, 8 if wide else 4))
    size, count = struct.unpack(order + "HH", source.read(54 if wide else 42, 4))
    need = 56 if wide else 32
    if kind != 4 or size != need or count < 2 or phoff + 2 * need > source.size:
        return None
    rows = [struct.unpack(order + ("II6Q" if wide else "8I"), source.read(phoff + at, need)) for at in (0, need)]
    types = [row[0] for row in rows]
    offset = rows[1][2 if wide else 1]
    align = rows[1][7]
    start, length = (rows[0][2], rows[0][5]) if wide else (rows[0][1], rows[0][4])
    if types != [PT_NOTE, PT_LOAD] or align == 0 or offset == 0 or offset % 4096:
        return None
    if not 0 < length <= 65536 or start + length > source.size:
        return None
    found = parse_notes(source.read(start, length), order)
    names = [name.split(b"\0")[0] for name, _, _ in found]
    if names[:1] != [b"CORE"] or b"VMCOREINFO" in names or b"DUMPCONV" in names:
        return None
    marks = [
        name == b"CORE" and (kind == 0x70000001 or (kind == 4 and len(desc) <= 16))
        for name, (_, kind, desc) in zip(names, found, strict=True)
    ]
    return align if len(found[0][0]) == 4 or any(marks) else None


class NetdumpReference(ElfReference):
    """A netdump; `frames()` assembles it frame by frame."""

    def __init__(self, source: Source, align: int, *, page_size: int | None = None) -> None:
        if 4096 <= align <= 1 << 20 and align & (align - 1) == 0:
            page_size = align
        super().__init__(source, page_size=page_size)
        self.result.format = "netdump"
        if os.path.basename(str(source.stream.name)).startswith("vmcore-incomplete"):
            self.result.incomplete = True
            self.result.truncated = source.received is not None

    def _program_headers(self, phoff: int, phentsize: int, count: int) -> list[dict[str, int]]:
        headers = super()._program_headers(phoff, phentsize, count)
        loads = [header for header in headers if header["type"] == PT_LOAD]
        if self.bits == 32 and self.machine == EM_386 and len(loads) == 1 and loads[0]["paddr"] == 0:
            told, there = loads[0]["filesz"], self.source.size - loads[0]["offset"]
            if there < 0 or loads[0]["offset"] == 0:
                raise ReferenceError("netdump: memory begins outside of the file")
            whole = max(told, there)
            if there > 1 << 32 and told < 0xFFFF0000:
                whole = told
                while whole < there:
                    whole += 1 << 32
            loads[0]["filesz"] = loads[0]["memsz"] = whole
        return headers

    def frames(self) -> Iterator[tuple[int, str, bytes | str]]:
        """See `ElfReference.frames`."""
        for pfn, state, payload in super().frames():
            yield pfn, state, NO_DESCRIPTOR if state == "lost" and self.result.incomplete else payload
