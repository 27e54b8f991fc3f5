# SPDX-License-Identifier: GPL-2.0-or-later
"""The reference decoder for diskdump, file and partition: page by page, struct and plain library calls."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from .reference_kdump import NARROW, WIDE, bitmap_runs, decode_page
from .reference_source import NO_DESCRIPTOR, ReferenceDump, ReferenceError, Source, subtract

MAGIC = b"DISKDUMP"
FORMATTED = b"diskdump"
MAX_MEMORY = 1 << 56
REGISTERS = {"i": (17, "I", 144, 72), "x86_64": (27, "Q", 336, 112), "ppc64": (48, "Q", 504, 112)}


@dataclass
class Header:
    """One reading of the main header."""

    order: str
    bits: int
    start: int  # offset of the main header
    version: int
    machine: str
    status: int
    block: int
    sub_hdr_size: int
    bitmap_blocks: int
    max_mapnr: int
    written_blocks: int

    @property
    def registers(self) -> int:
        return self.start + self.block

    @property
    def bitmap(self) -> int:
        return self.registers + self.sub_hdr_size * self.block

    @property
    def data(self) -> int:
        return self.bitmap + self.bitmap_blocks * self.block

    @property
    def need(self) -> int:
        return -(-self.max_mapnr // (8 * self.block))


def starts_like_one(source: Source) -> bool:
    """Whether this is a diskdump at all."""
    if source.read(0, min(8, source.size)) in (MAGIC, FORMATTED):
        return True
    return any(
        source.size >= size + 8 and source.read(size - 10, 10) == b"SWAPSPACE2" and source.read(size, 8) == MAGIC
        for size in (4096, 8192, 16384, 32768, 65536)
    )


def read_header(source: Source) -> Header:
    for start in (0, 4096, 8192, 16384, 32768, 65536):
        if start + 8 <= source.size and source.read(start, 8) == MAGIC:
            break
    else:
        if source.read(0, min(8, source.size)) == FORMATTED:
            raise ReferenceError("diskdump: formatted, empty", "missing")
        raise ReferenceError("diskdump: no header")
    found = [
        header for bits in (64, 32) for order in "<>" if (header := _reading(source, start, order, bits)) is not None
    ]
    if not found:
        raise ReferenceError("diskdump: headers make sense in no byte order and class")
    return max(found, key=_likeliness)


def _reading(source: Source, start: int, order: str, bits: int) -> Header | None:
    size, at = (464, 424) if bits == 64 else (452, 412)
    if start + size > source.size:
        return None
    raw = source.read(start, size)
    (version,) = struct.unpack_from(order + "i", raw, 8)
    status, block, sub, blocks, max_mapnr, _, _, written = struct.unpack_from(order + "IiiIIIII", raw, at)
    machine = raw[272:337].split(b"\0")[0].decode("latin-1").lower()
    if not 0 <= version < 0x10000 or block not in [1 << shift for shift in range(9, 21)] or start not in (0, block):
        return None
    header = Header(order, bits, start, version, machine, status, block, sub, blocks, max_mapnr, written)
    if sub < 0 or blocks == 0 or header.data > source.size or max_mapnr > 8 * blocks * block:
        return None
    if max_mapnr == 0 or max_mapnr * block > MAX_MEMORY or blocks < header.need:
        return None
    return header


def _likeliness(header: Header) -> int:
    if header.machine.startswith(WIDE):
        return 1 if header.bits == 64 else -1
    return (1 if header.bits == 32 else -1) if header.machine.startswith(NARROW) else 0


class DiskdumpReference:
    """A diskdump; `frames()` decodes it page by page."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.header = header = read_header(source)
        if not header.machine.startswith((*NARROW, *WIDE, "s390", "alpha")) and not re.fullmatch(
            "i.86", header.machine
        ):
            raise ReferenceError("diskdump: machine unknown", "unknown")
        if not source.has(header.bitmap, header.data - header.bitmap):
            raise ReferenceError("diskdump: the stream ends before its bitmaps are whole")
        self.incomplete = bool(header.status & 7)
        self.ram = bitmap_runs(source, header.bitmap, header.max_mapnr)
        self.truncated = source.received is not None
        self.lost: set[int] = set()  # by the driver's own word
        self.reason = NO_DESCRIPTOR
        self.stored = self._stored()
        self.result = ReferenceDump(
            "diskdump",
            header.block,
            header.order,
            header.bits,
            version=header.version,
            machine=header.machine,
            excluded_runs=self._excluded(),
            incomplete=self.incomplete,
            truncated=self.truncated,
            flattened=source.flattened,
            notes=self._notes(),
        )

    def _notes(self) -> bytes:
        header = self.header
        for name, (count, code, size, at) in REGISTERS.items():
            if header.sub_hdr_size and header.machine.startswith(name) and not header.machine.startswith("ia"):
                width = struct.calcsize("=" + code)
                raw = self.source.read(header.registers, count * width)
                if not any(raw):
                    return b""
                desc = bytes(at) + raw
                return struct.pack(header.order + "III", 5, size, 1) + b"CORE\0\0\0\0" + desc.ljust(size, b"\0")
        return b""

    def _stored(self) -> list[int]:
        header = self.header
        if not header.start:
            half = header.bitmap_blocks * header.block // 2 if header.bitmap_blocks >= 2 * header.need else 0
            return _frames(bitmap_runs(self.source, header.bitmap + half, header.max_mapnr))
        ram = _frames(self.ram)
        if header.bitmap_blocks == header.need:
            return ram
        stride = max(header.need, header.bitmap_blocks // 2)
        room = 8 * header.block * (header.bitmap_blocks - stride)
        bits = _frames(bitmap_runs(self.source, header.bitmap + stride * header.block, min(room, len(ram))))
        if self.incomplete:
            self.lost = set(ram[bits[-1] + 1 if bits else 0 :])
        return [ram[bit] for bit in bits]

    def _excluded(self) -> list[tuple[int, int]]:
        gone = [(pfn, pfn + 1) for pfn in sorted({*self.stored, *self.lost})]
        return subtract(self.ram, gone)

    def frames(self) -> Iterator[tuple[int, str, bytes | str]]:
        """Give (pfn, "page", bytes), (pfn, "lost", reason) or (pfn, "damaged", reason)."""
        for pfn, state, payload in self._frames():
            if isinstance(payload, bytes) and driver_says(payload, pfn):
                yield pfn, "lost", "the driver's message"
            else:
                yield pfn, state, payload

    def _frames(self) -> Iterator[tuple[int, str, bytes | str]]:
        for pfn in sorted(self.lost):
            yield pfn, "lost", NO_DESCRIPTOR
        if not self.header.start:
            for rank, pfn in enumerate(self.stored):
                yield pfn, *self._by_descriptor(self.header.data + 24 * rank)
            return
        end = self._end()
        for pfn, state, payload in self._entries(end) if self.header.status & 8 else self._plain(end):
            yield pfn, state, payload

    def _by_descriptor(self, place: int) -> tuple[str, bytes | str]:
        block = self.header.block
        if not self.source.has(place, 24):
            return "lost", f"descriptor at {place:#x} is not in the file"
        offset, size, flags, _ = struct.unpack(self.header.order + "qIIQ", self.source.read(place, 24))
        if offset == 0 and size == 0 and flags == 0:
            return "lost", NO_DESCRIPTOR
        if flags not in (0, 1, 2, 3):
            return "damaged", f"flags {flags:#x}"
        if offset <= 0 or size == 0 or size > 2 * block or (not flags & 1 and size != block):
            return "damaged", f"offset {offset}, stored size {size}"
        if not self.source.has(offset, size):
            return "lost", f"{size} bytes at {offset:#x} are not in the file"
        return self._decode(offset, size, flags)

    def _decode(self, offset: int, size: int, flags: int) -> tuple[str, bytes | str]:
        codec = "zlib" if flags & 1 else "raw"
        try:
            return "page", decode_page(self.source.read(offset, size), codec, self.header.block)
        except ValueError as error:
            return "damaged", str(error)

    def _end(self) -> int:
        """Offset behind what the driver wrote, as far as anything says."""
        header = self.header
        if header.written_blocks * header.block > header.data:
            return header.written_blocks * header.block
        if not self.incomplete or not self.stored:
            return 1 << 62
        last = self.source.size // header.block
        if not self._formatted(last - 1):
            self.result.truncated = True
            return 1 << 62
        low, high = header.data // header.block, last - 1
        while low < high:  # written in order: what is formatted lies behind what is not
            block = (low + high) // 2
            low, high = (low, block) if self._formatted(block) else (block + 1, high)
        return high * header.block

    def _formatted(self, block: int) -> bool:
        if (block + 1) * self.header.block > self.source.size or block * self.header.block < self.header.data:
            return False
        raw = self.source.read(block * self.header.block, self.header.block)
        words = struct.unpack(f"{self.header.order}{len(raw) // 4 - 2}I", raw[8:])
        series = all(after == (before + 7) * 11 & 0xFFFFFFFF for before, after in pairwise(words))
        return raw[:8] == FORMATTED and words[0] == block and series

    def _plain(self, end: int) -> Iterator[tuple[int, str, bytes | str]]:
        header = self.header
        for rank, pfn in enumerate(self.stored):
            offset = header.data + rank * header.block
            if offset + header.block > end:
                yield pfn, "lost", NO_DESCRIPTOR if self.incomplete else "behind written_blocks"
            elif not self.source.has(offset, header.block):
                yield pfn, "lost", "behind the end of the file"
            else:
                yield pfn, "page", self.source.read(offset, header.block)

    def _entries(self, end: int) -> Iterator[tuple[int, str, bytes | str]]:
        at = self.header.data
        end = min(end, self.source.size)
        whole = True
        for pfn in self.stored:
            found = self._entry(at, end) if whole else None
            if found is None:
                whole = False
                self.result.truncated |= not self.incomplete
                yield pfn, "lost", NO_DESCRIPTOR if self.incomplete else "the entries stop making sense"
                continue
            size, flags = found
            if self.source.has(at + 16, size):
                yield pfn, *self._decode(at + 16, size, flags)
            else:
                yield pfn, "lost", "not in the stream"
            at += 16 + size

    def _entry(self, at: int, end: int) -> tuple[int, int] | None:
        """Read the header of a compressed page; nothing if it makes no sense."""
        if at + 16 > end:
            return None
        _, size, flags = struct.unpack(self.header.order + "QII", self.source.read(at, 16))
        good = 0 < size <= self.header.block and flags < 4 and (flags & 1 or size == self.header.block)
        return (size, flags) if good and at + 16 + size <= end else None


def driver_says(page: bytes, pfn: int) -> bool:
    """Whether a page is what the driver writes where it could not read frame `pfn`: one line of text, or many."""
    line = page.partition(b"\n")[0]
    words = line.split(b" ")
    if words[:3] == [b"Bad", b"page.", b"PFN"] and len(words) == 6 and words[4] == b"flags":
        if not re.fullmatch(b"[0-9a-f]{1,16}", words[5]):
            return False
    elif words[:3] != [b"Unmapped", b"page.", b"PFN"] or len(words) != 4:
        return False
    if words[3].lstrip(b"0") != str(pfn).encode().lstrip(b"0") or not words[3].isdigit() or len(words[3]) > 20:
        return False
    line += b"\n"
    return page in (line.ljust(len(page), b"\0"), (line * len(page))[: len(page)])


def _frames(runs: list[tuple[int, int]]) -> list[int]:
    if sum(end - start for start, end in runs) > 1 << 24:
        raise ReferenceError("diskdump: more frames than the reference lists")
    return [pfn for start, end in runs for pfn in range(start, end)]
