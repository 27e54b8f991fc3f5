# SPDX-License-Identifier: GPL-2.0-or-later
"""The reference decoder for LiME and AVML: range by range, struct and plain library calls only.

A chain of headers that breaks is refused: what is behind the break is another question than what a file holds.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import cramjam

from .reference_source import ReferenceDump, ReferenceError, Source

LIME, AVML = 0x4C694D45, 0x4C4D5641
IDENTIFIER = b"\xff\x06\x00\x00sNaPpY"
BLOCK = 16 << 20
PAGE = 4096
MAX_CLAIM = 1 << 32


def is_lime(head: bytes) -> bool:
    return head[:4] in (b"EMiL", b"AVML") or head[:8] == b"LiME\0\0\0\1"


class LimeReference:
    """A LiME or AVML file; memory is kept as byte ranges, the first of overlapping ones counts."""

    def __init__(self, source: Source) -> None:
        self.source = source
        head = source.read(0, min(8, source.size))
        self.avml = head[:4] == b"AVML"
        self.order = ">" if head[:4] == b"LiME" else "<"
        # (start, end, bytes or state) in file order
        self.ranges: list[tuple[int, int, bytes | str]] = []
        self.short = False
        self.orphans = 0
        first = self.header(0)
        if first is None:
            values = struct.unpack(self.order + "IIQQQ", source.read(0, 32))
            raise ReferenceError(
                f"no first header: {values}", "unknown" if values[1] != 2 - (not self.avml) else "damaged"
            )
        at = 0
        while at < source.size:
            found = self.header(at)
            if found is None:
                raise ReferenceError(f"no header at {at:#x}")
            at = self.take_avml(at + 32, *found) if self.avml else self.take_lime(at + 32, *found)
        self.result = ReferenceDump(
            "avml" if self.avml else "lime", PAGE, self.order, 64, truncated=self.short, machine="x86_64"
        )

    def header(self, at: int) -> tuple[int, int] | None:
        """Give (start, end) of a header that can be one."""
        if not self.source.has(at, 32):
            return None
        magic, version, first, last, _ = struct.unpack(self.order + "IIQQQ", self.source.read(at, 32))
        if (magic, version) != ((AVML, 2) if self.avml else (LIME, 1)) or last < first or last == (1 << 64) - 1:
            return None
        return first, last + 1

    def follows(self, at: int, end: int) -> bool:
        found = self.header(at)
        return found is not None and found[0] >= end

    def take_lime(self, at: int, start: int, end: int) -> int:
        size, room = end - start, self.source.size - at
        if size == room or (size < room and self.header(at + size) is not None):
            self.ranges.append((start, end, self.source.read(at, size)))
            return at + size
        if size <= BLOCK and (self.follows(at, end) or (room == 0 and self.orphans)):
            self.orphans += 1
            self.ranges.append((start, end, bytes(size)))
            return at
        if size < room:
            return at + size  # no header there: refused in the next round
        if size - room > MAX_CLAIM:
            raise ReferenceError(f"range of {size} bytes, the file has {room}")
        self.short = True
        room = self.early(at, end) - at
        if room:
            self.ranges.append((start, start + room, self.source.read(at, room)))
        self.ranges.append((start + room, end, "lost"))
        return at + room

    def early(self, at: int, end: int) -> int:
        """Give where the next header lies in a range that the file's end cuts: its writer gave up there."""
        size, magic = self.source.size, struct.pack(self.order + "I", LIME)
        data = self.source.read(0, size)
        place = data.find(magic, at)
        while place >= 0:
            found = self.header(place)
            if found is not None and found[0] >= end:
                behind = place + 32 + found[1] - found[0]
                if behind == size or self.header(behind) is not None:
                    return place
            place = data.find(magic, place + 1)
        return size

    def take_avml(self, at: int, start: int, end: int) -> int:
        size, begin = end - start, at
        head = self.source.read(at, min(10, self.source.size - at))
        if size <= BLOCK and (not head or (head != IDENTIFIER and self.follows(at, end))):
            self.ranges.append((start, end, bytes(size)))
            return at
        done = count = 0
        first = len(self.ranges)
        while done < size:
            head = self.source.read(at, min(4, self.source.size - at))
            length = int.from_bytes(head[1:], "little")
            if len(head) < 4 or not self.source.has(at, 4 + length):
                self.doubt(first, end, cut=True)
                self.lose(start + done, end)
                return self.search(at, end)
            if at == begin and head != IDENTIFIER[:4]:
                raise ReferenceError("no stream identifier")
            done += self.take_chunk(head[0], self.source.read(at + 4, length), start + done, end)
            at += 4 + length
            count += 1
            if count > 64 + size // 512:
                raise ReferenceError("more crumbs than an encoder makes")
        self.doubt(first, end, cut=False)
        if not self.source.has(at, 8):
            return self.lose(end, end)
        if int.from_bytes(self.source.read(at, 8), "little") != at - begin:
            raise ReferenceError("the stream's length is not what is behind it")
        return at + 8

    def doubt(self, first: int, end: int, *, cut: bool) -> None:
        """What is behind a chunk that fails is misplaced if that chunk lied about its size: unless all are alike."""
        chunks = [entry for entry in self.ranges[first:] if entry[1] > entry[0]]
        alike = len({high - low for low, high, _ in chunks[:-1]}) < 2
        for index, (low, _, data) in enumerate(chunks):
            if data == "damaged" and (cut or not alike):
                self.ranges[first:] = [*chunks[:index], (low, end, "damaged")]
                return

    def search(self, at: int, end: int) -> int:
        """Give the place of the next header of memory above `end`, or the end of the file."""
        data = self.source.read(0, self.source.size)
        at = data.find(b"AVML\2\0\0\0", at)
        while at >= 0:
            if self.follows(at, end):
                return at
            at = data.find(b"AVML\2\0\0\0", at + 1)
        return len(data)

    def lose(self, start: int, end: int) -> int:
        if end - start > MAX_CLAIM:
            raise ReferenceError("too much is lost to list")
        self.short = True
        self.ranges.append((start, end, "lost"))
        return self.source.size

    def take_chunk(self, kind: int, body: bytes, start: int, end: int) -> int:
        """Add one chunk; give its plain bytes."""
        if kind == 0xFF and body != IDENTIFIER[4:]:
            raise ReferenceError("a stream identifier that is none")
        if kind >= 0x80:
            return 0
        if kind > 1:
            raise ReferenceError(f"reserved chunk type {kind:#x}")
        plain = len(body) - 4 if kind else claimed_size(body)
        if len(body) < 4 or not 0 <= plain <= min(65536, end - start):
            raise ReferenceError(f"chunk of {plain} plain bytes")
        self.ranges.append((start, start + plain, decoded(kind, body, plain)))
        return plain

    def frames(self) -> Iterator[tuple[int, str, bytes | str]]:
        """Give (pfn, "page", bytes), (pfn, "lost", reason) or (pfn, "damaged", reason) in pfn order."""
        touching: dict[int, list[tuple[int, int, bytes | str]]] = {}
        for start, end, data in self.ranges:
            for pfn in range(start // PAGE, -(-end // PAGE)):
                touching.setdefault(pfn, []).append((start, end, data))
        for pfn in sorted(touching):
            yield pfn, *self.frame(pfn, touching[pfn])

    def frame(self, pfn: int, ranges: list[tuple[int, int, bytes | str]]) -> tuple[str, bytes | str]:
        page, base = bytearray(PAGE), pfn * PAGE
        known, lost = bytearray(PAGE), bytearray(PAGE)  # known: 1 a byte, 2 a byte that does not decode
        for start, end, data in reversed(ranges):  # painted from the last: the first stays
            low, high = max(start, base), min(end, base + PAGE)
            where = slice(low - base, high - base)
            if data == "lost":
                lost[where] = b"\1" * (high - low)
                continue
            known[where] = (b"\1" if isinstance(data, bytes) else b"\2") * (high - low)
            if isinstance(data, bytes):
                page[where] = data[low - start : high - start]
        if any(gone and not there for gone, there in zip(lost, known, strict=True)):
            return "lost", "the file ends before the frame's bytes"
        if 2 in known:
            return "damaged", "a chunk does not decode"
        if 0 in known:
            self.result.partial[pfn] = runs_of_set(known)
        return "page", bytes(page)


def runs_of_set(mask: bytes) -> list[tuple[int, int]]:
    """Give the runs of bytes that are not zero."""
    edges = [at for at in range(len(mask) + 1) if bool(at < len(mask) and mask[at]) != bool(at > 0 and mask[at - 1])]
    return list(zip(edges[::2], edges[1::2], strict=True))


def claimed_size(body: bytes) -> int:
    value = 0
    for index, byte in enumerate(body[4:9]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value
    return -1


def decoded(kind: int, body: bytes, plain: int) -> bytes | str:
    """Decode one chunk by a whole stream of its own; the library checks the CRC."""
    if not plain:
        return b""
    chunk = bytes([kind]) + len(body).to_bytes(3, "little") + body
    try:
        data = bytes(cramjam.snappy.decompress(IDENTIFIER + chunk))
    except cramjam.DecompressionError:
        return "damaged"
    return data if len(data) == plain else "damaged"
