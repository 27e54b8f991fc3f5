# SPDX-License-Identifier: GPL-2.0-or-later
"""The reference decoder for mcore: unit by unit, struct and zlib only. Contradictory tables are refused."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from .reference_source import ReferenceDump, ReferenceError, Source

MAGIC = 0x9A8BCCDD
SIZES = (4096, 8192, 1024, 2048, 16384, 32768, 65536)
LIMIT = 1 << 26


def magics(source: Source, at: int) -> list[tuple[str, int]]:
    """Give (byte order, bits) of which the magic may be at a place."""
    if not source.has(at, 48):
        return []
    head = source.read(at, 8)
    out = []
    for order, bits, code in (("<", 32, "<I"), ("<", 64, "<Q"), (">", 32, ">I"), (">", 64, ">Q")):
        if struct.unpack_from(code, head)[0] == MAGIC:
            out.append((order, bits))
    return out


def is_mcore(source: Source) -> bool:
    return bool(v2_kinds(source)) or v1_kind(source) is not None


def v2_kinds(source: Source) -> list[tuple[str, int]]:
    sizes = {kind: struct.unpack(kind[0] + "i", source.read(kind[1] // 2, 4))[0] for kind in magics(source, 0)}
    return [kind for kind, size in sizes.items() if size in SIZES]


def v1_kind(source: Source) -> tuple[str, int, int] | None:
    """Give (byte order, bits, page size)."""
    if source.size < 4096:
        return None
    for order in "<>":
        (position,) = struct.unpack(order + "i", source.read(0, 4))
        for size in SIZES if position > 0 else ():
            for found, bits in magics(source, position * size):
                if found == order and v1_header(source, order, bits, position * size, size) is not None:
                    return order, bits, size
    return None


def v1_header(source: Source, order: str, bits: int, at: int, size: int) -> tuple[int, ...] | None:
    """Give (map offset, entries, va_per_entry, bytes_not_dumped) of a header that can be one."""
    code = order + ("16x4i2Ii" if bits == 32 else "32x4i2Qi")
    if not source.has(at, struct.calcsize(code)):
        return None
    raw = source.read(at, struct.calcsize(code))
    blk_size, map_block, _, entries, per, missing, _ = struct.unpack(code, raw)
    if blk_size != size or map_block < 1 or entries < 1 or not 0 < per <= LIMIT or per % size:
        return None
    place = at + map_block * size
    need = 20 if bits == 32 else 32
    if not source.has(place, need):
        return None
    (start,) = struct.unpack(order + ("I" if bits == 32 else "Q"), source.read(place, bits // 8))
    return None if start == 0 or start % size else (place, entries, per, missing)


class McoreReference:
    """An mcore file; everything is inflated at once."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.seen: dict[int, bytes | str] = {}  # pfn -> page or state
        self.taken: list[tuple[int, int]] = []
        self.short = self.incomplete = False
        kinds = v2_kinds(source)
        if kinds:
            self.order, self.bits = self.choose(kinds)
            self.size = self.numbers(self.bits // 2, "i")[0]
            self.read_v2()
        else:
            kind = v1_kind(source)
            if kind is None:
                raise ReferenceError("no mcore file", "unknown")
            self.order, self.bits, self.size = kind
            self.read_v1()
        self.result = ReferenceDump(
            "mcore", self.size, self.order, self.bits, truncated=self.short, incomplete=self.incomplete
        )

    def numbers(self, at: int, code: str) -> tuple[int, ...]:
        code = self.order + code.replace("L", "I" if self.bits == 32 else "Q")
        return struct.unpack(code, self.source.read(at, struct.calcsize(code)))

    def choose(self, kinds: list[tuple[str, int]]) -> tuple[str, int]:
        good = []
        for order, bits in kinds:
            self.order, self.bits = order, bits
            size, block, blocks = self.numbers(bits // 2, "3i")
            if block < 1 or blocks < 1 or (block + blocks) * size > self.source.size:
                continue
            start, pointer, place, count = self.numbers(block * size, "2L2i")
            if start == 0 or start % size:
                continue
            inside = place > 0 and count > 0 and not pointer and self.source.has(place * size, 2)
            head = self.source.read(place * size, 2) if inside else b"\0\0"
            good.append((head[0] & 15 == 8 and int.from_bytes(head, "big") % 31 == 0, order, bits))
        if len(good) > 1:
            good = [entry for entry in good if entry[0]]
        if len(good) != 1:
            raise ReferenceError("32 or 64 bits: none fits, or both do")
        return good[0][1:]

    def take(self, place: int, count: int) -> bytes | None:
        """Give the stored bytes of a unit, None where there are none in the file."""
        if place < 1 or count < 1:
            raise ReferenceError(f"unit of {count} blocks at {place}")
        low, high = place * self.size, (place + count) * self.size
        if low >= self.source.size:
            self.short = True
            return None
        if any(start < high and low < end for start, end in self.taken):
            raise ReferenceError("units overlap")
        self.taken.append((low, high))
        return self.source.read(low, min(high, self.source.size) - low)

    def inflate(self, stored: bytes, limit: int, cut: bool) -> bytes | str:
        if cut and not is_whole(stored):
            self.short = True
            return "lost"
        decoder = zlib.decompressobj()
        try:
            plain = decoder.decompress(stored, limit + 1)
        except zlib.error:
            return "damaged"
        return "damaged" if not decoder.eof or len(plain) > limit else plain

    def put(self, pfn: int, page: bytes | str) -> None:
        """The first page of a frame counts; a page counts before the want of one ("?": not known to be there)."""
        before = self.seen.get(pfn)
        vague = before in ("lost?", "damaged?")
        if (
            before is None
            or (vague and page not in ("lost?", "damaged?"))
            or (before == "damaged?" and page == "lost?")
        ):
            self.seen[pfn] = page

    def read_v2(self) -> None:
        block, blocks = self.numbers(self.bits // 2 + 4, "2i")
        self.taken = [(0, self.size)]
        width = 16 if self.bits == 32 else 24
        entries = []
        for at in range(block * self.size, (block + blocks) * self.size - width + 1, width):
            entry = self.numbers(at, "2L2i")
            if entry[0] == 0:
                break
            entries.append(entry)
        else:
            raise ReferenceError("the map has no end")
        if not entries:
            raise ReferenceError("the map is empty")
        self.taken.append((block * self.size, block * self.size + width))
        if sorted({entry[0] for entry in entries}) != [entry[0] for entry in entries]:
            raise ReferenceError("the map is not in order")
        base = entries[0][0]
        following = [entry[0] for entry in entries[1:]] + [0]
        for (start, _, place, count), after in zip(entries, following, strict=True):
            self.unit_v2(start, after, base, place, count)

    def unit_v2(self, start: int, after: int, base: int, place: int, count: int) -> None:
        size = self.size
        head_size = -(-129 * self.bits // 8 // size) * size
        stored = self.take(place, count)
        cut = stored is not None and len(stored) < count * size
        plain = "lost" if stored is None else self.inflate(stored, head_size + 128 * size, cut)
        first, room = (start - base) // size, 128 if not after else min(128, (after - start) // size)
        if stored is None or (cut and plain == "lost"):
            for pfn in range(first, first + room):
                self.put(pfn, "lost?")
            return
        head = zlib_prefix(stored, head_size)
        if len(head) < head_size:
            for pfn in range(first, first + room):
                self.put(pfn, "damaged?")
            return
        listed = list(struct.unpack_from(f"{self.order}128{'I' if self.bits == 32 else 'Q'}", head))
        listed = listed[: listed.index(0)] if 0 in listed else listed
        if sorted(set(listed)) != listed or any(va < start or va % size != base % size for va in listed):
            raise ReferenceError("a list of pages is not in order")
        if after and any(va >= after for va in listed):
            raise ReferenceError("a list of pages goes beyond its range")
        for index, va in enumerate(listed):
            at = head_size + index * size
            if isinstance(plain, bytes) and at + size <= len(plain):
                self.put((va - base) // size, plain[at : at + size])
            else:
                self.put((va - base) // size, "damaged")

    def header_list(self) -> tuple[int, ...]:
        listed = struct.unpack(f"{self.order}{self.size // 4}i", self.source.read(0, self.size))
        if 0 not in listed:
            raise ReferenceError("the list of headers has no end")
        listed = listed[: listed.index(0)]
        if len(set(listed)) != len(listed) or min(listed) < 1:
            raise ReferenceError("the list of headers")
        return listed

    def read_v1(self) -> None:
        listed = self.header_list()
        headers = []
        for position in listed:
            at = position * self.size
            good = (self.order, self.bits) in magics(self.source, at)
            header = v1_header(self.source, self.order, self.bits, at, self.size)
            if header is None or not good:
                raise ReferenceError("a header that is none")
            headers.append((position, *header))
        width = 20 if self.bits == 32 else 32
        maps = []
        for position, place, entries, per, missing in headers:
            if not self.source.has(place, entries * width):
                raise ReferenceError("the map is not in the file")
            self.incomplete = self.incomplete or missing != 0
            self.taken += [(position * self.size, (position + 1) * self.size), (place, place + entries * width)]
            rows = [self.numbers(place + index * width, "2L2i") for index in range(entries)]
            maps.append((position, per, rows))
        base = min(rows[0][0] for _, _, rows in maps)
        for position, per, rows in maps:
            for index, (_, _, start, count) in enumerate(rows):
                first = (rows[0][0] - base + index * per) // self.size
                self.unit_v1(first, per, start - 100 + position, count)

    def unit_v1(self, first: int, per: int, place: int, count: int) -> None:
        stored = self.take(place, count)
        cut = stored is not None and len(stored) < count * self.size
        if stored is not None and per > 1032 * count * self.size:  # more than deflate can make of it
            plain: bytes | str = "damaged?"
        else:
            plain = "lost?" if stored is None else self.inflate(stored, per, cut)
        if isinstance(plain, bytes) and len(plain) != per:
            plain = "damaged"
        for number in range(per // self.size):
            if isinstance(plain, bytes):
                self.put(first + number, plain[number * self.size :][: self.size])
            else:
                self.put(first + number, "lost?" if plain == "lost" else plain)

    def frames(self) -> Iterator[tuple[int, str, bytes | str]]:
        """Give (pfn, "page", bytes), (pfn, "lost", reason) or (pfn, "damaged", reason) in pfn order."""
        for pfn in sorted(self.seen):
            page = self.seen[pfn]
            if isinstance(page, bytes):
                yield pfn, "page", page
            else:
                yield pfn, page.strip("?"), "its unit is not whole"


def is_whole(stored: bytes) -> bool:
    decoder = zlib.decompressobj()
    try:
        decoder.decompress(stored, 1 << 26)
    except zlib.error:
        return False
    return decoder.eof


def zlib_prefix(stored: bytes, size: int) -> bytes:
    """Give the first bytes that inflate, byte by byte where a stream is spoilt."""
    decoder, out = zlib.decompressobj(), b""
    try:
        for at in range(0, len(stored), 64):
            if len(out) >= size or decoder.eof:
                break
            out += decoder.decompress(decoder.unconsumed_tail + stored[at : at + 64], size - len(out))
        while len(out) < size and decoder.unconsumed_tail and not decoder.eof:
            out += decoder.decompress(decoder.unconsumed_tail, size - len(out))
    except zlib.error:
        return out
    return out
