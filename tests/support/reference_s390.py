# SPDX-License-Identifier: GPL-2.0-or-later
"""The reference decoder for s390 stand-alone dumps: page by page, struct and plain library calls."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from .reference_source import MISSING_MEMBER, ReferenceDump, ReferenceError, Source

PLAIN, EXTENDED = bytes.fromhex("a8190173618f23fd"), bytes.fromhex("a8190173618f23fe")
TOOLS = (b"XECKD64", b"XDFBA64", b"XMULT64", b"ZECKD31", b"ZECKD64", b"ZDFBA31", b"ZDFBA64", b"ZMULT64")
PAGE, MIB = 4096, 1 << 20
MAX_FRAMES = 1 << 22


@dataclass
class Header:
    """The fields that count; those that the version does not have are 0."""

    extended: bool
    version: int
    hdr_size: int
    page_size: int
    mem_size: int
    mem_start: int
    num_pages: int
    tod: int
    cpu_id: int
    arch: int
    volnr: int
    real: int
    mvdump: bool
    cpu_cnt: int
    entry_size: int
    zipl_time: int


@dataclass
class Span:
    """Addresses [start, end): where their bytes are, or what they are called."""

    start: int
    end: int
    kind: str  # zero, raw, zlib, lost, damaged
    source: Source | None = None
    offset: int = 0
    size: int = 0
    plain: list[bytes | None] = field(default_factory=list)


def starts_like_one(source: Source) -> bool:
    """Whether a reader of this family must say something about the file."""

    def at(offset: int, size: int) -> bytes:
        return source.read(offset, size) if offset + size <= source.size else b""

    return (
        at(0, 8) in (PLAIN, EXTENDED)
        or at(0x200, 8) in (PLAIN, EXTENDED)
        or at(0, 13) == b"zfcpdump busy"
        or at(0, 8) == b"ZFCPDUMP"
        or any(at(offset, 7) in TOOLS for offset in (0x600, 0x3000))
    )


def read_header(source: Source) -> Header:
    head = source.read(0, min(8, source.size))
    if head not in (PLAIN, EXTENDED):
        unused = source.size >= 0x208 and source.read(0x200, 8) in (PLAIN, EXTENDED)
        others = head == b"ZFCPDUMP" or source.read(0, min(13, source.size)) == b"zfcpdump busy"
        disk = any(o + 7 <= source.size and source.read(o, 7) in TOOLS for o in (0x600, 0x3000))
        kind = "unknown" if others or disk else "missing" if unused else "damaged"
        raise ReferenceError("s390: no dump here", kind)
    raw = source.read(0, PAGE)
    version, hdr_size, _, page_size = struct.unpack_from(">4I", raw, 8)
    mem_size, mem_start, _, num_pages = struct.unpack_from(">3QI", raw, 0x18)
    tod, cpu_id, arch, volnr = struct.unpack_from(">QQII", raw, 0x38)
    real, mvdump, cpu_cnt, _, _, entry_size = struct.unpack_from(">QBHHBI", raw, 0x54)
    extended = head == EXTENDED
    third, fifth = extended or version >= 3, extended or version >= 5
    if fifth and cpu_cnt > 512:
        raise ReferenceError(f"s390: {cpu_cnt} CPUs", "unknown")
    if arch not in (1, 2):
        raise ReferenceError(f"s390: arch {arch}", "unknown")
    return Header(
        extended, version, hdr_size, page_size, mem_size, mem_start, num_pages, tod, cpu_id, arch, volnr,
        real * third, bool(mvdump) and third, cpu_cnt * fifth, entry_size, struct.unpack_from(">Q", raw, 0x208)[0],
    )  # fmt: skip


class S390Reference:
    """One dump; `frames()` decodes it.

    Raises:
        ReferenceError: the header is refused.
    """

    def __init__(self, sources: list[Source], *, salvage: bool = False) -> None:
        if len(sources) > 1:
            sources = [source for source in sources if starts_like_a_dump(source)] or sources[:1]
        pairs = sorted(((read_header(source), source) for source in sources), key=lambda pair: pair[0].volnr)
        self.headers, self.sources = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        self.header = header = self.headers[0]
        self._same_set()
        self.wrong = False
        self.spans: list[Span] = []
        bits = 31 if header.arch == 1 else 64
        self.result = ReferenceDump("s390", PAGE, ">", 32 if bits == 31 else 64, version=header.version)
        self.size, self.limit = self._sizes()
        if header.version == 0 or header.mem_start or (header.hdr_size, header.page_size) != (PAGE, PAGE):
            self.wrong = True
        if self.wrong and not salvage:
            raise ReferenceError("s390: the header contradicts itself")
        self.result.truncated = self.wrong
        if header.extended and not self._is_tape():
            self._segments()
        else:
            self._plain()
        if self.size == self.limit and self.size < header.real <= 1 << 53 and header.real % PAGE == 0:
            self.result.excluded_runs = [(self.size // PAGE, header.real // PAGE)]

    def _same_set(self) -> None:
        keys = {(h.extended, h.mem_size, h.tod, h.zipl_time, h.mvdump, h.cpu_id, h.arch) for h in self.headers}
        numbers = {h.volnr for h in self.headers}
        if len(self.headers) > 1 and (len(keys) > 1 or len(numbers) < len(self.headers) or not self.header.mvdump):
            raise ReferenceError("s390: not one set", "usage")

    def _sizes(self) -> tuple[int, int]:
        header = self.header
        size = header.mem_size
        if not 0 < size <= 1 << 53:
            raise ReferenceError(f"s390: mem_size {size:#x}")
        self.wrong |= size % PAGE != 0
        size -= size % PAGE
        claims = [size]
        if header.num_pages != size // PAGE % (1 << 32):
            claims.append(header.num_pages * PAGE)
        if 0 < header.real < size:
            claims.append(header.real - header.real % PAGE)
        self.wrong |= len(claims) > 1
        claims = [claim for claim in claims if claim]
        if not claims:
            raise ReferenceError("s390: mem_size is less than a page")
        if (self.wrong and len(claims) > 1) or header.num_pages == 0:
            for claim in claims:
                if len(self.sources) == 1 and len(claims) > 1 and self._marker(self.sources[0], PAGE + claim):
                    return claim, claim
        return min(claims), max(claims)

    @staticmethod
    def _marker(source: Source, offset: int) -> bool:
        return offset + 8 <= source.size and source.read(offset, 8) == b"DUMP_END"

    def _is_tape(self) -> bool:
        source = self.sources[0]
        if source.size >= PAGE + PAGE and self._possible(self._segment(source, PAGE), 0):
            return False
        return self._marker(source, PAGE + self.size)

    def _end(self, source: Source, offset: int) -> None:
        tape = self.header.extended and self._is_tape()
        good = self._marker(source, offset)
        if good and offset + 16 <= source.size:
            good = tape or struct.unpack(">Q", source.read(offset + 8, 8))[0] >= self.header.tod
        elif good:
            good = tape
        if not good:
            self.result.incomplete = self.result.truncated = True

    # -- plain and tape ----------------------------------------------------------------------------------------

    def _plain(self) -> None:
        at, offset, source = 0, PAGE, self.sources[0]
        expected = 0
        gap = False
        for header, source in zip(self.headers, self.sources, strict=True):
            if self.header.mvdump and header.volnr != expected:
                gap = True
                break
            expected = header.volnr + 1
            take = self.size - at
            if self.header.mvdump:
                take = min(take, max(0, -(-source.size // PAGE) * PAGE - PAGE))
            if take:
                self.spans.append(Span(at, at + take, "raw", source, PAGE))
            self.result.truncated |= PAGE + take > source.size
            at, offset = at + take, PAGE + take
            if at == self.size:
                break
        if at < self.size:
            reason = "missing" if gap or not self.result.truncated else "cut"
            self.spans.append(Span(at, self.size, f"lost {reason}"))
            self.missing = True
        if not gap and not (at < self.size):
            self._end(source, offset)
        elif self.header.mvdump:
            self.result.incomplete = True

    # -- extended ----------------------------------------------------------------------------------------------

    @staticmethod
    def _segment(source: Source, offset: int) -> tuple[int, int, int, int, int]:
        start, length, stop, blocks, count = struct.unpack(">QQQI20xI", source.read(offset, 52))
        return start, length, stop, blocks, count

    def _possible(self, segment: tuple[int, int, int, int, int], end: int) -> bool:
        start, length, stop, _, _ = segment
        aligned = start % PAGE == 0 and length % PAGE == 0
        return aligned and (length > 0 or stop != 0) and end <= start and start + length <= self.limit

    def _segments(self) -> None:  # noqa: C901 - one pass, as slow and plain as can be
        end, expected, stopped, broken = 0, 0, False, False
        self.block = 0
        offset, source = PAGE, self.sources[0]
        for header, source in zip(self.headers, self.sources, strict=True):
            gap = self.header.mvdump and header.volnr != expected
            expected = header.volnr + 1
            self.result.truncated |= gap
            offset = PAGE
            while not stopped and not broken:
                if self.header.mvdump and (offset >= source.size - MIB - PAGE or offset == source.size):
                    break
                segment = self._segment(source, offset) if offset + PAGE <= source.size else None
                if segment is None or not self._possible(segment, end) or not self._packing(segment):
                    broken = True
                    break
                if segment[0] > end:
                    self.spans.append(Span(end, segment[0], "lost missing" if gap else "zero"))
                gap = False
                end = segment[0] + segment[1]
                stopped = segment[2] != 0
                if segment[3]:
                    offset = self._unpack(source, offset, segment)
                else:
                    if segment[1]:
                        self.spans.append(Span(segment[0], end, "raw", source, offset + PAGE))
                    offset += PAGE + segment[1]
                broken = offset > source.size
            if stopped or broken:
                break
        self.result.truncated |= broken or not stopped
        if end < self.size:
            self.spans.append(Span(end, self.size, "zero" if stopped else "lost cut"))
        if stopped:
            self._end(source, offset)

    def _packing(self, segment: tuple[int, int, int, int, int]) -> bool:
        _, length, _, blocks, count = segment
        size = self.header.entry_size
        if not blocks:
            return True
        if length == 0 or len(self.sources) > 1 or self.header.version < 2:
            return False
        return size in [1 << bit for bit in range(12, 25)] and count == -(-length // size) and count <= 1011

    def _unpack(self, source: Source, offset: int, segment: tuple[int, int, int, int, int]) -> int:
        start, length, _, blocks, count = segment
        table = struct.unpack(f">{count}I", source.read(offset + 52, 4 * count))
        data = offset + PAGE
        block = self.block or self._block_size(source, data, table, segment)
        for number, entry in enumerate(table):
            low = (entry & 0x7FFFFFFF) * block
            high = ((table[number + 1] & 0x7FFFFFFF) if number + 1 < count else blocks) * block
            first = start + number * self.header.entry_size
            plain = min(self.header.entry_size, start + length - first)
            if number + 1 == count:
                high = blocks * block
            others = [table[each] & 0x7FFFFFFF for each in range(number)]
            taken = any(other < blocks and low <= other * block for other in others) or (number == 0 and low > 0)
            bad = taken or high <= low or high > blocks * block or (entry >> 31 and high - low < plain)
            if bad:
                self.spans.append(Span(first, first + plain, "damaged"))
                self.result.truncated = True
            elif entry >> 31:
                self.spans.append(Span(first, first + plain, "raw", source, data + low))
            else:
                self.spans.append(
                    Span(first, first + plain, "zlib", source, data + low, min(high - low, 2 * self.header.entry_size))
                )
        return data + blocks * block

    def _block_size(
        self, source: Source, data: int, table: tuple[int, ...], segment: tuple[int, int, int, int, int]
    ) -> int:
        ranked = []
        for number, block in enumerate((4096, 512, 1024, 2048)):
            fits = True
            for entry in table[:2]:
                at = data + (entry & 0x7FFFFFFF) * block
                if not entry >> 31 and at + 2 <= source.size:
                    first, second = source.read(at, 2)
                    fits &= first & 15 == 8 and (first << 8 | second) % 31 == 0
            ended, headers = self._walk(source, data, segment, block)
            ranked.append((not ended, not fits, -headers, number, block))
        ended, _, headers, _, block = min(ranked)
        if not ended or headers:
            self.block = block
        return block

    def _walk(self, source: Source, data: int, segment: tuple[int, int, int, int, int], block: int) -> tuple[bool, int]:
        """Whether the segments lead to the end marker if blocks have this size; and over how many headers."""
        headers = 0
        while headers < 4096:
            data += segment[3] * block or segment[1]
            if segment[2]:
                return self._marker(source, data), headers
            if data + PAGE > source.size:
                return False, headers
            following = self._segment(source, data)
            if not self._possible(following, segment[0] + segment[1]) or not self._packing(following):
                return False, headers
            segment, data, headers = following, data + PAGE, headers + 1
        return True, headers

    # -- pages -------------------------------------------------------------------------------------------------

    def frames(self) -> Iterator[tuple[int, str, bytes | str]]:
        """Give (pfn, "page", bytes), (pfn, "lost", reason) or (pfn, "damaged", reason)."""
        if sum(span.end - span.start for span in self.spans) > MAX_FRAMES * PAGE:
            raise ReferenceError("s390: more frames than the reference lists")
        for span in self.spans:
            for address in range(span.start, span.end, PAGE):
                yield address // PAGE, *self._page(span, address - span.start)

    def _page(self, span: Span, inside: int) -> tuple[str, bytes | str]:
        if span.kind == "zero":
            return "page", bytes(PAGE)
        if span.kind.startswith("lost"):
            return "lost", MISSING_MEMBER if span.kind == "lost missing" else "behind the end"
        if span.kind == "damaged" or span.source is None:
            return "damaged", "entry where none can be"
        if span.kind == "raw":
            if not span.source.has(span.offset + inside, PAGE):
                return "lost", "not in the file"
            return "page", span.source.read(span.offset + inside, PAGE)
        if not span.source.has(span.offset, span.size):
            return "lost", "not in the file"
        if not span.plain:
            span.plain.append(_inflate(span.source.read(span.offset, span.size), span.end - span.start))
        whole = span.plain[0]
        return ("damaged", "zlib") if whole is None else ("page", whole[inside : inside + PAGE])


def _inflate(stored: bytes, size: int) -> bytes | None:
    stream = zlib.decompressobj()
    try:
        plain = stream.decompress(stored)
    except zlib.error:
        return None
    return plain if stream.eof and len(plain) == size else None


def starts_like_a_dump(source: Source) -> bool:
    return source.size >= 8 and source.read(0, 8) in (PLAIN, EXTENDED)
