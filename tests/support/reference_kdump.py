# SPDX-License-Identifier: GPL-2.0-or-later
"""The reference decoder for compressed kdump: page by page, struct and plain library calls."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import cramjam
import lzo
import zstandard

from .reference_source import MISSING_MEMBER, NO_DESCRIPTOR, ReferenceDump, ReferenceError, Source, subtract

MAGIC = b"KDUMP   "
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
ZSTD_WINDOW = 1 << 27
CODECS = {0: "raw", 1: "zlib", 2: "lzo", 4: "snappy", 0x20: "zstd"}
NARROW = ("i386", "i486", "i586", "i686", "arm", "ppc", "mips")
WIDE = ("x86_64", "aarch64", "ppc64", "s390x", "ia64", "mips64", "riscv64", "loongarch64", "sparc64")

# name -> (since version, (offset, code) in the 64-bit, pack and pad layouts)
SUB = {
    "phys_base": (0, (0, "Q"), (0, "I"), (0, "I")),
    "split": (2, (12, "i"), (8, "i"), (8, "i")),
    "start_pfn": (2, (16, "Q"), (12, "I"), (12, "I")),
    "end_pfn": (2, (24, "Q"), (16, "I"), (16, "I")),
    "offset_vmcoreinfo": (3, (32, "Q"), (20, "Q"), (24, "Q")),
    "size_vmcoreinfo": (3, (40, "Q"), (28, "I"), (32, "I")),
    "offset_note": (4, (48, "Q"), (32, "Q"), (40, "Q")),
    "size_note": (4, (56, "Q"), (40, "I"), (48, "I")),
    "offset_eraseinfo": (5, (64, "Q"), (44, "Q"), (56, "Q")),
    "size_eraseinfo": (5, (72, "Q"), (52, "I"), (64, "I")),
    "start_pfn_64": (6, (80, "Q"), (56, "Q"), (72, "Q")),
    "end_pfn_64": (6, (88, "Q"), (64, "Q"), (80, "Q")),
    "max_mapnr_64": (6, (96, "Q"), (72, "Q"), (88, "Q")),
}
LAYOUTS = ("64", "32pack", "32pad")
SIZES = {
    "64": (8, 16, 32, 48, 64, 80, 104),
    "32pack": (4, 8, 20, 32, 44, 56, 80),
    "32pad": (4, 8, 20, 40, 56, 72, 96),
}


@dataclass
class Header:
    """One reading of the headers, under one assumption about byte order and layout."""

    order: str
    layout: str
    version: int
    machine: str
    status: int
    block_size: int
    sub_hdr_size: int
    bitmap_blocks: int
    max_mapnr: int
    sub: dict[str, int]
    raw: bytes

    @property
    def bitmap_offset(self) -> int:
        return (1 + self.sub_hdr_size) * self.block_size

    @property
    def table_offset(self) -> int:
        return (1 + self.sub_hdr_size + self.bitmap_blocks) * self.block_size

    @property
    def blocks_per_bitmap(self) -> int:
        return ((self.max_mapnr + 7) // 8 + self.block_size - 1) // self.block_size

    @property
    def second_bitmap_offset(self) -> int:
        if self.bitmap_blocks >= 2 * self.blocks_per_bitmap:
            return self.bitmap_offset + self.bitmap_blocks * self.block_size // 2
        return self.bitmap_offset

    @property
    def range(self) -> tuple[int, int]:
        """The frames whose descriptors are in this file."""
        if not self.sub["split"]:
            return 0, self.max_mapnr
        if self.version >= 6:
            return self.sub["start_pfn_64"], self.sub["end_pfn_64"]
        return self.sub["start_pfn"], self.sub["end_pfn"]


def read_header(source: Source) -> Header:
    """Find the byte order and layout under which the headers make sense."""
    readings = [
        reading
        for layout, order in (
            ("64", "<"),
            ("64", ">"),
            ("32pack", "<"),
            ("32pad", "<"),
            ("32pack", ">"),
            ("32pad", ">"),
        )
        if (reading := _reading(source, order, layout)) is not None
    ]
    if not readings:
        raise ReferenceError("kdump: headers make sense in no byte order and layout")
    return max(readings, key=_likeliness)  # the first one of equals


def _reading(source: Source, order: str, layout: str) -> Header | None:
    wide = layout == "64"
    raw = source.read(0, min(464 if wide else 452, source.size))
    if len(raw) < (464 if wide else 452):
        return None
    (version,) = struct.unpack_from(order + "i", raw, 8)
    machine = raw[272 : 272 + 65].split(b"\0")[0].decode("latin-1")
    status, block_size, sub_hdr_size, bitmap_blocks, max_mapnr = struct.unpack_from(
        order + "IiiII", raw, 424 if wide else 412
    )
    if not 0 <= version < 0x10000:
        return None
    if block_size < 512 or block_size > 1 << 20 or block_size & (block_size - 1):
        return None
    if sub_hdr_size <= 0 or bitmap_blocks <= 0:
        return None
    if (1 + sub_hdr_size + bitmap_blocks) * block_size > source.size:
        return None
    sub = _sub_header(source, order, layout, version, block_size)
    if version >= 6:
        if max_mapnr not in (sub["max_mapnr_64"], 0xFFFFFFFF):
            return None
        max_mapnr = sub["max_mapnr_64"]
    if max_mapnr > 8 * bitmap_blocks * block_size:
        return None
    return Header(order, layout, version, machine, status, block_size, sub_hdr_size, bitmap_blocks, max_mapnr, sub, raw)


def _sub_header(source: Source, order: str, layout: str, version: int, block_size: int) -> dict[str, int]:
    raw = source.read(block_size, SIZES[layout][min(version, 6)])
    out = {}
    for name, (since, *places) in SUB.items():
        offset, code = places[LAYOUTS.index(layout)]
        out[name] = struct.unpack_from(order + code, raw, offset)[0] if since <= version else 0
    return out


def _likeliness(reading: Header) -> tuple[int, int, int]:
    """Machine string first, then notes just behind the sub header, then its usual 32-bit layout."""
    name = reading.machine.lower()
    wide = name.startswith(WIDE)
    narrow = not wide and name.startswith(NARROW)
    fits = (wide and reading.layout == "64") or (narrow and reading.layout != "64")
    contrary = (wide or narrow) and not fits
    behind = reading.block_size + SIZES[reading.layout][min(reading.version, 6)]
    first = reading.sub["offset_note"] or reading.sub["offset_vmcoreinfo"]
    usual = "32pack" if name.startswith("i") else "32pad" if narrow else ""
    return (1 if fits else -1 if contrary else 0), int(first == behind), int(reading.layout == usual)


def bitmap_runs(source: Source, offset: int, max_mapnr: int) -> list[tuple[int, int]]:
    """Read a bitmap as sorted runs [start, end); bits at or beyond max_mapnr are ignored."""
    size = (max_mapnr + 7) // 8
    runs: list[tuple[int, int]] = []

    def add(start: int, end: int) -> None:
        end = min(end, max_mapnr)
        if start >= end:
            return
        if runs and runs[-1][1] == start:
            runs[-1] = (runs[-1][0], end)
        else:
            runs.append((start, end))

    for first, last in source.data_extents(offset, offset + size):
        for index, byte in enumerate(source.read(first, last - first), first - offset):
            if byte == 0xFF:
                add(8 * index, 8 * index + 8)
            elif byte:
                for bit in range(8):
                    if byte >> bit & 1:
                        add(8 * index + bit, 8 * index + bit + 1)
    return runs


class KdumpReference:
    """A kdump of one or several files; `frames()` decodes it page by page."""

    def __init__(self, sources: list[Source], *, salvage: bool = False) -> None:
        self.members = sorted(((read_header(source), source) for source in sources), key=lambda item: item[0].range)
        header, source = self.members[0]
        self.header = header
        self.stored = self._bitmap(source, header.second_bitmap_offset)
        self.ram = self._bitmap(source, header.bitmap_offset)
        self.missing = self._check_set(salvage=salvage)
        self.result = ReferenceDump(
            "kdump",
            header.block_size,
            header.order,
            64 if header.layout == "64" else 32,
            version=header.version,
            layout=header.layout,
            machine=header.machine,
            excluded_runs=subtract(self.ram, self.stored),
            incomplete=bool(header.status & 8),
            flattened=any(member.flattened for _, member in self.members),
            truncated=any(member.received is not None for _, member in self.members),
            findings=[finding for _, member in self.members for finding in member.findings],
        )
        self.result.notes = self._part(header, source, 4, "note")
        self.result.vmcoreinfo = self._part(header, source, 3, "vmcoreinfo")
        self.result.eraseinfo = b"".join(self._part(head, member, 5, "eraseinfo") for head, member in self.members)

    def _bitmap(self, source: Source, offset: int) -> list[tuple[int, int]]:
        if not source.has(offset, (self.header.max_mapnr + 7) // 8):
            raise ReferenceError("kdump: the stream ends before its bitmaps are whole")
        return bitmap_runs(source, offset, self.header.max_mapnr)

    def _check_set(self, *, salvage: bool) -> list[tuple[int, int]]:
        header = self.header
        for other, source in self.members if len(self.members) > 1 else []:
            if not other.sub["split"]:
                raise ReferenceError("kdump: an input is no split member", "usage")
            same = other.raw == header.raw and self._bitmap(source, header.second_bitmap_offset) == self.stored
            if not same or self._bitmap(source, header.bitmap_offset) != self.ram:
                raise ReferenceError("kdump: headers or bitmaps differ: not one set", "usage")
        position, missing = 0, []
        for start, end in (member.range for member, _ in self.members):
            if not start <= end <= header.max_mapnr:
                raise ReferenceError(f"kdump: split range {start:#x}-{end:#x} is reversed or beyond the end")
            if start < position:
                raise ReferenceError("kdump: split ranges overlap", "usage")
            if start > position:
                missing.append((position, start))
            position = end
        if position < header.max_mapnr:
            missing.append((position, header.max_mapnr))
        if missing and not salvage:
            raise ReferenceError(f"kdump: split members are missing: {missing}", "missing")
        return missing

    @staticmethod
    def _part(header: Header, source: Source, since: int, what: str) -> bytes:
        size = header.sub[f"size_{what}"]
        if header.version < since or size == 0:
            return b""
        offset = header.sub[f"offset_{what}"]
        if not source.has(offset, size):
            if source.received is not None:
                return b""
            raise ReferenceError(f"kdump: {what} of {size} bytes at {offset:#x} is not inside the file")
        return source.read(offset, size)

    def frames(self) -> Iterator[tuple[int, str, bytes | str]]:
        """Give (pfn, "page", bytes), (pfn, "lost", reason) or (pfn, "damaged", reason) in pfn order."""
        members = iter(self.members)
        header, source = next(members)
        rank = 0
        for start, end in self.stored:
            for pfn in range(start, end):
                if any(first <= pfn < last for first, last in self.missing):
                    yield pfn, "lost", MISSING_MEMBER
                    continue
                while not header.range[0] <= pfn < header.range[1]:
                    header, source = next(members)
                    rank = 0
                yield pfn, *self._page(source, header.table_offset + 24 * rank)
                rank += 1

    def _page(self, source: Source, place: int) -> tuple[str, bytes | str]:
        block = self.header.block_size
        if not source.has(place, 24):
            return "lost", f"descriptor at {place:#x} is not in the file"
        offset, size, flags, _ = struct.unpack(self.header.order + "qIIQ", source.read(place, 24))
        if offset == 0 and size == 0 and flags == 0:
            return "lost", NO_DESCRIPTOR
        if flags not in CODECS:
            return "damaged", f"flags {flags:#x} are no single known codec"
        if offset <= 0:
            return "damaged", f"offset {offset}"
        if size == 0 or size > 2 * block or (flags == 0 and size != block):
            return "damaged", f"stored size {size}"
        if not source.has(offset, size):
            return "lost", f"{size} bytes at {offset:#x} are not in the file"
        try:
            return "page", decode_page(source.read(offset, size), CODECS[flags], block)
        except ValueError as error:
            return "damaged", str(error)


def decode_page(stored: bytes, codec: str, page_size: int) -> bytes:
    """Decode one page strictly; ValueError says what is wrong."""
    page = {"raw": bytes, "zlib": _zlib, "lzo": _lzo, "snappy": _snappy, "zstd": _zstd}[codec](
        stored, *(() if codec == "raw" else (page_size,))
    )
    if len(page) != page_size:
        raise ValueError(f"{codec}: {len(page)} bytes instead of {page_size}")
    return page


def _zlib(stored: bytes, page_size: int) -> bytes:
    decoder = zlib.decompressobj()
    try:
        page = decoder.decompress(stored, page_size + 1)
    except zlib.error as error:
        raise ValueError(f"zlib: {error}") from error
    if len(page) > page_size:
        raise ValueError("zlib: page too long")
    if not decoder.eof:
        raise ValueError("zlib: stream does not end")
    if decoder.unused_data:
        raise ValueError("zlib: bytes after the stream")
    return page


def _lzo(stored: bytes, page_size: int) -> bytes:
    if stored[-3:] != b"\x11\0\0":  # liblzo takes an end marker of any length
        raise ValueError("lzo: no end marker")
    try:
        return bytes(lzo.decompress(stored, False, page_size))
    except lzo.error as error:
        raise ValueError(f"lzo: {error}") from error


def _snappy(stored: bytes, page_size: int) -> bytes:
    try:
        if cramjam.snappy.decompress_raw_len(stored) != page_size:
            raise ValueError("snappy: announces another size")
        return bytes(cramjam.snappy.decompress_raw(stored))
    except cramjam.DecompressionError as error:
        raise ValueError(f"snappy: {error}") from error


def _zstd(stored: bytes, page_size: int) -> bytes:
    if stored[:4] != ZSTD_MAGIC:
        raise ValueError("zstd: no frame")
    try:
        facts = zstandard.get_frame_parameters(stored)
        if facts.dict_id:
            raise ValueError("zstd: needs a dictionary")
        if facts.content_size not in (page_size, zstandard.CONTENTSIZE_UNKNOWN):
            raise ValueError("zstd: announces another size")
        decoder = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW)
        with decoder.stream_reader(io.BytesIO(stored)) as reader:
            if len(reader.read(page_size + 1)) > page_size:
                raise ValueError("zstd: page too long")
        # The output is known to be small now: decode again in a way that tells where the frame ended.
        whole = decoder.decompressobj()
        page = whole.decompress(stored)
    except zstandard.ZstdError as error:
        raise ValueError(f"zstd: {error}") from error
    if not whole.eof or whole.unused_data:
        raise ValueError("zstd: frame does not end where the stored bytes do")
    return page
