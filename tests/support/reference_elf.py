# SPDX-License-Identifier: GPL-2.0-or-later
"""The reference decoder for ELF vmcores: frame by frame, struct only."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from .reference_source import ReferenceDump, ReferenceError, Source, subtract, union

PT_LOAD, PT_NOTE = 1, 4
# Machines whose own ABI uses e_flags bit 0, so that it does not say "incomplete": mips, ppc64, arm, riscv.
FLAGS_TAKEN = (8, 21, 40, 243)
X86_64_TEXT = (0xFFFFFFFF80000000, 0xFFFFFFFFFF600000)
MAX_LOST = 1 << 32  # lost frames are listed one by one: refuse a segment that claims absurdly more
Span = tuple[int, int]


@dataclass
class Load:
    """A PT_LOAD in physical bytes: [start, stored) present, [stored, claimed) beyond the file, [claimed, end) tail."""

    index: int
    vaddr: int
    start: int
    stored: int
    claimed: int
    end: int
    offset: int
    is_text: bool = False


class ElfReference:
    """An ELF vmcore; `frames()` assembles it frame by frame."""

    def __init__(self, source: Source, *, page_size: int | None = None) -> None:
        self.source = source
        ident = source.read(0, min(16, source.size))
        if len(ident) < 16 or ident[4] not in (1, 2) or ident[5] not in (1, 2) or ident[6] != 1:
            raise ReferenceError("ELF: class, byte order or version unknown", "unknown")
        self.bits = 32 * ident[4]
        self.order = "<" if ident[5] == 1 else ">"
        self.findings = list(source.findings)
        code = self.order + ("HHIIIIIHHHHHH" if self.bits == 32 else "HHIQQQIHHHHHH")
        (e_type, self.machine, e_version, _, phoff, shoff, e_flags, _, phentsize, phnum, _, _, _) = struct.unpack(
            code, source.read(16, struct.calcsize(code))
        )
        if e_type != 4:
            raise ReferenceError(f"ELF: type {e_type} is no core", "unknown")
        if e_version != 1:
            raise ReferenceError(f"ELF: version {e_version}", "unknown")
        headers = self._program_headers(phoff, phentsize, self._count(phnum, shoff))
        notes, vmcoreinfo = self._notes(headers)
        self.page_size = page_size or _page_size(vmcoreinfo)
        self.is_short = source.received is not None
        self.loads = self._loads(headers)
        self.result = ReferenceDump(
            "elf",
            self.page_size,
            self.order,
            self.bits,
            machine=self.machine,
            incomplete=bool(e_flags & 1) and self.machine not in FLAGS_TAKEN,
            truncated=self.is_short,
            flattened=source.flattened,
            notes=notes,
            vmcoreinfo=vmcoreinfo,
            findings=self.findings,
        )
        self.result.excluded_runs = self._excluded_runs()

    def _count(self, phnum: int, shoff: int) -> int:
        if phnum != 0xFFFF:
            return phnum
        if shoff == 0:
            raise ReferenceError("ELF: PN_XNUM without a section table")
        place = shoff + (28 if self.bits == 32 else 44)
        (count,) = struct.unpack(self.order + "I", self.source.read(place, 4))
        return count

    def _program_headers(self, phoff: int, phentsize: int, count: int) -> list[dict[str, int]]:
        need = 32 if self.bits == 32 else 56
        if count and phentsize < need:
            raise ReferenceError(f"ELF: e_phentsize {phentsize}")
        if not self.source.has(phoff, count * phentsize):
            raise ReferenceError(f"ELF: {count} program headers at {phoff:#x} are not inside the file")
        if self.bits == 32:
            code, names = "8I", ("type", "offset", "vaddr", "paddr", "filesz", "memsz", "flags", "align")
        else:
            code, names = "II6Q", ("type", "flags", "offset", "vaddr", "paddr", "filesz", "memsz", "align")
        out = []
        for index in range(count):
            raw = self.source.read(phoff + index * phentsize, need)
            out.append(dict(zip(names, struct.unpack(self.order + code, raw), strict=True)))
        return out

    def _notes(self, headers: list[dict[str, int]]) -> tuple[bytes, bytes]:
        """Give all notes, padded to 4 and without terminators, and the VMCOREINFO text."""
        out, text = b"", b""
        names: set[tuple[bytes, bool]] = set()
        for header in headers:
            if header["type"] != PT_NOTE or header["filesz"] == 0:
                continue
            if not self.source.has(header["offset"], header["filesz"]):
                raise ReferenceError("ELF: notes are not inside the file")
            area = self.source.read(header["offset"], header["filesz"])
            for name, note_type, desc in parse_notes(area, self.order, self.findings):
                out += struct.pack(self.order + "III", len(name), len(desc), note_type)
                out += name + bytes(-len(name) % 4) + desc + bytes(-len(desc) % 4)
                if name.rstrip(b"\0") == b"VMCOREINFO" and not text:
                    text = desc
                names.add((name.split(b"\0")[0], note_type in (0x44430001, 0x44430002)))
        self.is_erased = any(name == b"ERASEINFO" for name, _ in names) and (b"DUMPCONV", True) not in names
        return out, text

    def _loads(self, headers: list[dict[str, int]]) -> list[Load]:
        ones = (1 << self.bits) - 1
        loads = []
        for index, header in enumerate(headers):
            if header["type"] != PT_LOAD or header["paddr"] == ones:
                continue
            filesz, memsz, paddr = header["filesz"], header["memsz"], header["paddr"]
            if filesz > memsz:
                self.findings.append(f"segment {index}: p_filesz > p_memsz")
                filesz = memsz
            if paddr + memsz > 1 << 64:
                self.findings.append(f"segment {index}: runs beyond 2^64")
                memsz = (1 << 64) - paddr
                filesz = min(filesz, memsz)
            inside = max(0, min(filesz, self.source.size - header["offset"]))
            if inside < filesz:
                self.findings.append(f"segment {index}: the file ends before it does")
                self.is_short = True
                if filesz - inside > MAX_LOST:
                    raise ReferenceError(f"ELF: segment {index} claims {filesz} bytes, the file has {inside}")
            load = Load(index, header["vaddr"], paddr, paddr + inside, paddr + filesz, paddr + memsz, header["offset"])
            loads.append(load)
        for load in loads:
            load.is_text = self._is_text(load, loads)
        return loads

    def _is_text(self, load: Load, loads: list[Load]) -> bool:
        """The kernel text alias: mapped in the text window, or lying inside a larger segment."""
        if self.machine == 62 and X86_64_TEXT[0] <= load.vaddr < X86_64_TEXT[1]:
            return True
        size = load.claimed - load.start
        return any(
            other.start <= load.start and load.claimed <= other.claimed and other.claimed - other.start > size
            for other in loads
        )

    def _excluded_runs(self) -> list[Span]:
        """Frames that a tail touches and no claimed byte does."""
        claimed = union(
            (load.start // self.page_size, -(-load.claimed // self.page_size))
            for load in self.loads
            if load.claimed > load.start
        )
        tails = union(
            (load.claimed // self.page_size, -(-load.end // self.page_size))
            for load in self.loads
            if load.end > load.claimed
        )
        return subtract(tails, claimed)

    def frames(self) -> Iterator[tuple[int, str, bytes | str]]:
        """Give (pfn, "page", bytes) or (pfn, "lost", reason) in pfn order; fills the result's `partial`."""
        touching: dict[int, list[Load]] = {}
        for load in self.loads:
            if load.claimed > load.start:
                for pfn in range(load.start // self.page_size, (load.claimed - 1) // self.page_size + 1):
                    touching.setdefault(pfn, []).append(load)
        for pfn in sorted(touching):
            yield pfn, *self._frame(pfn, touching[pfn])

    def _frame(self, pfn: int, loads: list[Load]) -> tuple[str, bytes | str]:
        base, size = pfn * self.page_size, self.page_size
        page = bytearray(size)
        present: list[Span] = []
        absent: list[Span] = []
        # Later writes win: text first, then RAM, and among equals the first in the file last.
        # With erase info (and no note of dumpconv's) the text has what makedumpfile blanked: then RAM comes first.
        for load in sorted(loads, key=lambda item: (item.is_text == self.is_erased, -item.index)):
            start, stored = max(load.start, base), min(load.stored, base + size)
            if start < stored:
                offset = load.offset + start - load.start
                if self.source.has(offset, stored - start):
                    page[start - base : stored - base] = self.source.read(offset, stored - start)
                    present.append((start - base, stored - base))
                else:
                    absent.append((start - base, stored - base))
            gone, claimed = max(load.stored, load.start, base), min(load.claimed, base + size)
            if gone < claimed:
                absent.append((gone - base, claimed - base))
        present = union(present)
        if subtract(union(absent), present):
            return "lost", "the file ends before the frame's bytes"
        if present != [(0, size)]:
            self.result.partial[pfn] = present
        return "page", bytes(page)


def parse_notes(area: bytes, order: str, findings: list[str] | None = None) -> list[tuple[bytes, int, bytes]]:
    """Give (name with its NULs, type, descriptor) of each whole note; padding is 4, all-zero headers are skipped."""
    out = []
    position = 0
    while position + 12 <= len(area):
        namesz, descsz, note_type = struct.unpack_from(order + "III", area, position)
        position += 12
        if namesz == descsz == note_type == 0:
            while position < len(area) and area[position] == 0:  # padding of any length: notes begin at words
                position += 1
            position -= position % 4
            continue
        desc_start = position + (namesz + 3) // 4 * 4
        if desc_start + descsz > len(area):
            if findings is not None:
                findings.append("a note runs beyond its segment")
            break
        out.append((area[position : position + namesz], note_type, area[desc_start : desc_start + descsz]))
        position = desc_start + (descsz + 3) // 4 * 4
    return out


def _page_size(vmcoreinfo: bytes) -> int:
    for line in vmcoreinfo.split(b"\n"):
        if line.startswith(b"PAGESIZE="):
            try:
                value = int(line[9:].rstrip(b"\0"))
            except ValueError:
                value = 0
            if value < 4096 or value > 1 << 20 or value & (value - 1):
                raise ReferenceError(f"ELF: {line!r}")
            return value
    return 4096
