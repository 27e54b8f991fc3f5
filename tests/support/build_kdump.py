# SPDX-License-Identifier: GPL-2.0-or-later
"""Builds compressed kdump files, honest or hostile, from a description; packed by hand from the format sheet."""

from __future__ import annotations

import os
import random
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import cramjam
import lzo
import zstandard

from .sparse import SparseFile

Run = tuple[int, int]  # [start, end)

CODEC_FLAGS = {"raw": 0, "zlib": 1, "lzo": 2, "snappy": 4, "zstd": 0x20}
STATUS_INCOMPLETE = 0x08
STATUS_EXCLUDED_VMEMMAP = 0x10
UTS_FIELDS = ("sysname", "nodename", "release", "version", "machine", "domainname")
MASK_BITS = {"I": 32, "Q": 64}

# Main header: name, struct code; 32-bit and 64-bit ABI differ in padding and in the two longs only.
HEADER_FIELDS = (
    ("tv_sec", "L"), ("tv_usec", "L"), ("status", "I"), ("block_size", "i"), ("sub_hdr_size", "i"),
    ("bitmap_blocks", "I"), ("max_mapnr", "I"), ("total_ram_blocks", "I"), ("device_blocks", "I"),
    ("written_blocks", "I"), ("current_cpu", "I"), ("nr_cpus", "i"),
)  # fmt: skip
HEADER_SIZE = {"64": 464, "32pack": 452, "32pad": 452}

# Sub header: name, since version, (offset, code) for each layout.
SUB_FIELDS = (
    ("phys_base", 0, {"64": (0, "Q"), "32pack": (0, "I"), "32pad": (0, "I")}),
    ("dump_level", 1, {"64": (8, "i"), "32pack": (4, "i"), "32pad": (4, "i")}),
    ("split", 2, {"64": (12, "i"), "32pack": (8, "i"), "32pad": (8, "i")}),
    ("start_pfn", 2, {"64": (16, "Q"), "32pack": (12, "I"), "32pad": (12, "I")}),
    ("end_pfn", 2, {"64": (24, "Q"), "32pack": (16, "I"), "32pad": (16, "I")}),
    ("offset_vmcoreinfo", 3, {"64": (32, "Q"), "32pack": (20, "Q"), "32pad": (24, "Q")}),
    ("size_vmcoreinfo", 3, {"64": (40, "Q"), "32pack": (28, "I"), "32pad": (32, "I")}),
    ("offset_note", 4, {"64": (48, "Q"), "32pack": (32, "Q"), "32pad": (40, "Q")}),
    ("size_note", 4, {"64": (56, "Q"), "32pack": (40, "I"), "32pad": (48, "I")}),
    ("offset_eraseinfo", 5, {"64": (64, "Q"), "32pack": (44, "Q"), "32pad": (56, "Q")}),
    ("size_eraseinfo", 5, {"64": (72, "Q"), "32pack": (52, "I"), "32pad": (64, "I")}),
    ("start_pfn_64", 6, {"64": (80, "Q"), "32pack": (56, "Q"), "32pad": (72, "Q")}),
    ("end_pfn_64", 6, {"64": (88, "Q"), "32pack": (64, "Q"), "32pad": (80, "Q")}),
    ("max_mapnr_64", 6, {"64": (96, "Q"), "32pack": (72, "Q"), "32pad": (88, "Q")}),
)
SUB_SIZE = {
    "64": (8, 16, 32, 48, 64, 80, 104),
    "32pack": (4, 8, 20, 32, 44, 56, 80),
    "32pad": (4, 8, 20, 40, 56, 72, 96),
}
DESCRIPTOR_SIZE = 24
BITMAP_CHUNK = 4096  # bitmaps are kept in touched chunks, so that a far pfn costs one chunk


@dataclass
class KdumpSpec:
    """A compressed kdump to build; the defaults give what makedumpfile -c writes on x86_64.

    Frames: `pages` are stored, `excluded` runs are RAM without bytes, all others are holes. `second_only` frames are
    stored but have no bit in the 1st bitmap. `share[a] = b` gives frame a the descriptor of frame b; `share_zero`
    writes one raw zero page first and points every zero page at it.
    Codecs: `codec` is what the writer was asked for, `page_codecs` what single frames use; a page that does not
    shrink is stored raw unless `fallback` is off. `stored[pfn] = (bytes, flags)` bypasses the codecs.
    Hostility: `header`, `sub_header` (field -> value; header also takes raw "signature" and UTS fields as bytes),
    `descriptors[pfn]` (offset, size, flags, page_flags) and `patches` (offset -> bytes, last of all) win over
    everything computed.
    """

    pages: Mapping[int, bytes] = field(default_factory=dict)
    excluded: Sequence[Run] = ()
    second_only: frozenset[int] = frozenset()
    extra_bits1: Sequence[Run] = ()
    extra_bits2: Sequence[Run] = ()
    page_size: int = 4096
    version: int = 6
    layout: str = "64"  # "64", "32pack", "32pad"
    order: str = "<"
    codec: str = "zlib"
    page_codecs: Mapping[int, str] = field(default_factory=dict)
    fallback: bool = True
    stored: Mapping[int, tuple[bytes, int]] = field(default_factory=dict)
    share: Mapping[int, int] = field(default_factory=dict)
    share_zero: bool = False
    shuffle: int | None = None  # seed for the order of the page data; None = by pfn
    data_gap: int = 0  # bytes between descriptor table and data
    single_bitmap: bool = False
    surplus_blocks: int = 0  # bitmap blocks beyond what max_mapnr needs
    max_mapnr: int | None = None
    status: int | None = None
    incomplete_from: int | None = None  # frames from here on have zeroed descriptors, and status bit 0x08 is set
    notes: bytes = b""  # v4+, verbatim
    vmcoreinfo: bytes = b""  # v3: stored as text; v4+: looked up inside `notes`
    eraseinfo: bytes = b""  # v5+
    uts: Mapping[str, str] = field(default_factory=lambda: {"machine": "x86_64", "release": "6.1.0-test"})
    phys_base: int = 0
    dump_level: int = 1
    nr_cpus: int = 1
    tv_sec: int = 0
    tv_usec: int = 0
    split: Run | None = None
    header: Mapping[str, int | bytes] = field(default_factory=dict)
    sub_header: Mapping[str, int] = field(default_factory=dict)
    descriptors: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    patches: Mapping[int, bytes] = field(default_factory=dict)


@dataclass
class KdumpImage:
    """A built file and where its parts lie."""

    spec: KdumpSpec
    file: SparseFile
    sub_header_offset: int
    notes_offset: int
    bitmap1_offset: int
    bitmap2_offset: int
    table_offset: int
    descriptor_offsets: dict[int, int]  # pfn -> file offset of its descriptor
    data: dict[int, tuple[int, int, int]]  # pfn -> offset, size, flags as honestly written
    pages: dict[int, bytes]  # what a reader must find (without regard to the overrides)
    lost: frozenset[int]  # frames with a zeroed descriptor
    max_mapnr: int

    def to_bytes(self) -> bytes:
        return self.file.to_bytes()

    def write_to(self, path: str | os.PathLike[str]) -> Path:
        return self.file.write_to(path)


def compress(page: bytes, codec: str) -> bytes:
    """Encode one page as makedumpfile does."""
    if codec == "raw":
        return page
    if codec == "zlib":
        return zlib.compress(page, 1)
    if codec == "lzo":
        return bytes(lzo.compress(page, 1, False))
    if codec == "snappy":
        return bytes(cramjam.snappy.compress_raw(page))
    if codec == "zstd":
        return zstandard.ZstdCompressor(level=1).compress(page)
    raise ValueError(f"unknown codec {codec!r}")


def pack_header(layout: str, order: str, values: Mapping[str, int | bytes]) -> bytes:
    """Pack the main header; missing fields are zero."""
    wide = layout == "64"
    out = bytearray(HEADER_SIZE[layout])
    out[0:8] = bytes(values.get("signature", b"KDUMP   "))  # type: ignore[arg-type]
    struct.pack_into(order + "i", out, 8, values.get("header_version", 6))
    for index, name in enumerate(UTS_FIELDS):
        text = values.get(name, b"")
        out[12 + 65 * index : 12 + 65 * index + len(text)] = text  # type: ignore[arg-type]
    position = 408 if wide else 404
    for name, kind in HEADER_FIELDS:
        code = ("Q" if wide else "I") if kind == "L" else kind
        struct.pack_into(order + code, out, position, values.get(name, 0))
        position += struct.calcsize("=" + code)
    return bytes(out)


def pack_sub_header(layout: str, order: str, version: int, values: Mapping[str, int]) -> bytes:
    """Pack the sub header as long as its version makes it."""
    out = bytearray(sub_header_size(layout, version))
    for name, since, places in SUB_FIELDS:
        if since > version:
            continue
        offset, code = places[layout]
        value = values.get(name, 0)
        if code in MASK_BITS:
            value &= (1 << MASK_BITS[code]) - 1
        struct.pack_into(order + code, out, offset, value)
    return bytes(out)


def blocks_of(max_mapnr: int, block_size: int) -> int:
    """Give the blocks that one bitmap needs."""
    bitmap_size = (max_mapnr + 7) // 8
    return (bitmap_size + block_size - 1) // block_size


def sub_header_size(layout: str, version: int) -> int:
    return SUB_SIZE[layout][max(0, min(version, 6))]


class Bitmap:
    """A bitmap of which only touched chunks exist; least significant bit first on every machine."""

    def __init__(self) -> None:
        self.chunks: dict[int, bytearray] = {}

    def set(self, pfn: int) -> None:
        index, position = divmod(pfn >> 3, BITMAP_CHUNK)
        self.chunks.setdefault(index, bytearray(BITMAP_CHUNK))[position] |= 1 << (pfn & 7)

    def set_run(self, start_pfn: int, end_pfn: int) -> None:
        per_chunk = BITMAP_CHUNK * 8
        pfn = start_pfn
        while pfn < end_pfn:
            if pfn % per_chunk == 0 and end_pfn - pfn >= per_chunk:
                self.chunks[pfn // per_chunk] = bytearray(b"\xff" * BITMAP_CHUNK)
                pfn += per_chunk
            else:
                self.set(pfn)
                pfn += 1

    def put(self, file: SparseFile, offset: int, size: int, kind: str) -> None:
        """Place the bitmap; a small one in one piece, a huge one chunk by chunk."""
        if size <= 1 << 20:
            out = bytearray(size)
            for index, chunk in self.chunks.items():
                out[index * BITMAP_CHUNK : (index + 1) * BITMAP_CHUNK] = chunk
            file.put(offset, bytes(out[:size]), kind)
            return
        for index, chunk in sorted(self.chunks.items()):
            file.put(offset + index * BITMAP_CHUNK, bytes(chunk), kind)


def build(spec: KdumpSpec) -> KdumpImage:
    """Build one file: the whole dump, or the member `spec.split` of a split set."""
    file = SparseFile()
    block = spec.page_size
    stored = sorted(set(spec.pages) | set(spec.share) | set(spec.stored))
    max_mapnr = _max_mapnr(spec, stored)
    need = blocks_of(max_mapnr, block)
    bitmap_blocks = (need if spec.single_bitmap else 2 * need) + spec.surplus_blocks

    notes_offset = block + sub_header_size(spec.layout, spec.version)
    in_header = spec.notes if spec.version >= 4 else spec.vmcoreinfo if spec.version == 3 else b""
    sub_hdr_size = -(-(notes_offset - block + len(in_header)) // block)
    bitmap1 = (1 + sub_hdr_size) * block
    stride = 0 if spec.single_bitmap else bitmap_blocks * block // 2
    table = bitmap1 + bitmap_blocks * block

    own = [pfn for pfn in stored if spec.split is None or spec.split[0] <= pfn < spec.split[1]]
    lost = frozenset(pfn for pfn in own if spec.incomplete_from is not None and pfn >= spec.incomplete_from)
    # makedumpfile puts a member's data where the table of all pages would end.
    data_offset = table + DESCRIPTOR_SIZE * len(stored) + spec.data_gap
    data, data_end = _put_data(file, spec, [pfn for pfn in own if pfn not in lost], data_offset)
    descriptor_offsets = _put_table(file, spec, own, table, data)
    file.extend(table)

    eraseinfo_offset = 0
    if spec.eraseinfo and spec.version >= 5:
        eraseinfo_offset = data_end
        file.put(data_end, spec.eraseinfo, "eraseinfo")
    _put_bitmaps(file, spec, stored, (bitmap1, bitmap1 + stride, table))
    if in_header:
        file.put(notes_offset, in_header, "notes")
    file.put(0, _header(spec, max_mapnr, sub_hdr_size, bitmap_blocks), "header")
    file.put(block, _sub_header(spec, max_mapnr, notes_offset, eraseinfo_offset), "sub_header")
    for offset, patch in spec.patches.items():
        file.put(offset, patch, "patch")
    pages = {pfn: _content(spec, pfn) for pfn in own if pfn not in lost and spec.share.get(pfn, pfn) not in spec.stored}
    return KdumpImage(
        spec,
        file,
        block,
        notes_offset,
        bitmap1,
        bitmap1 + stride,
        table,
        descriptor_offsets,
        data,
        pages,
        lost,
        max_mapnr,
    )


def build_split(spec: KdumpSpec, ranges: Sequence[Run]) -> list[KdumpImage]:
    """Build the members of a split set; an empty range (a, a) gives an empty member."""
    return [build(replace(spec, split=run)) for run in ranges]


def _content(spec: KdumpSpec, pfn: int) -> bytes:
    return spec.pages[spec.share.get(pfn, pfn)]


def _max_mapnr(spec: KdumpSpec, stored: list[int]) -> int:
    if spec.max_mapnr is not None:
        return spec.max_mapnr
    return max([1, *(pfn + 1 for pfn in stored[-1:]), *(end for _, end in spec.excluded)])


def _put_data(
    file: SparseFile, spec: KdumpSpec, pfns: list[int], offset: int
) -> tuple[dict[int, tuple[int, int, int]], int]:
    data: dict[int, tuple[int, int, int]] = {}
    zero = None
    if spec.share_zero:
        zero = (offset, spec.page_size, 0)
        offset = file.put(offset, bytes(spec.page_size), "data")
    # A frame that shares with one of another split member has its own copy there.
    present = set(pfns)
    sharing = {pfn: spec.share[pfn] for pfn in pfns if spec.share.get(pfn) in present}
    writing = [pfn for pfn in pfns if pfn not in sharing]
    if spec.shuffle is not None:
        random.Random(spec.shuffle).shuffle(writing)
    for pfn in writing:
        if pfn in spec.stored:
            payload, flags = spec.stored[pfn]
        elif zero and not any(_content(spec, pfn)):
            data[pfn] = zero
            continue
        else:
            payload, flags = _encode(spec, pfn)
        data[pfn] = (offset, len(payload), flags)
        offset = file.put(offset, payload, "data")
    data.update({pfn: data[other] for pfn, other in sharing.items()})
    return data, offset


def _encode(spec: KdumpSpec, pfn: int) -> tuple[bytes, int]:
    page = _content(spec, pfn)
    codec = spec.page_codecs.get(pfn, spec.codec)
    payload = compress(page, codec)
    if spec.fallback and len(payload) >= len(page):
        return page, 0
    return payload, CODEC_FLAGS[codec]


def _put_table(
    file: SparseFile, spec: KdumpSpec, own: list[int], table: int, data: Mapping[int, tuple[int, int, int]]
) -> dict[int, int]:
    places: dict[int, int] = {}
    out = bytearray()
    for rank, pfn in enumerate(own):
        offset, size, flags = data.get(pfn, (0, 0, 0))
        values = {"offset": offset, "size": size, "flags": flags, "page_flags": 0, **spec.descriptors.get(pfn, {})}
        out += struct.pack(spec.order + "qIIQ", values["offset"], values["size"], values["flags"], values["page_flags"])
        places[pfn] = table + DESCRIPTOR_SIZE * rank
    file.put(table, bytes(out), "descriptors")
    return places


def _put_bitmaps(file: SparseFile, spec: KdumpSpec, stored: list[int], places: tuple[int, int, int]) -> None:
    first, second = Bitmap(), Bitmap()
    for pfn in stored:
        second.set(pfn)
        if pfn not in spec.second_only:
            first.set(pfn)
    for run in (*spec.excluded, *spec.extra_bits1):
        first.set_run(*run)
    for run in spec.extra_bits2:
        second.set_run(*run)
    begin, middle, end = places
    if middle > begin:
        first.put(file, begin, middle - begin, "bitmap1")
    second.put(file, middle, end - middle, "bitmap2" if middle > begin else "bitmap1")


def _header(spec: KdumpSpec, max_mapnr: int, sub_hdr_size: int, bitmap_blocks: int) -> bytes:
    status = spec.status
    if status is None:
        status = CODEC_FLAGS[spec.codec] | (STATUS_INCOMPLETE if spec.incomplete_from is not None else 0)
    values: dict[str, int | bytes] = {
        "header_version": spec.version,
        "tv_sec": spec.tv_sec,
        "tv_usec": spec.tv_usec,
        "status": status,
        "block_size": spec.page_size,
        "sub_hdr_size": sub_hdr_size,
        "bitmap_blocks": bitmap_blocks,
        "max_mapnr": min(max_mapnr, 0xFFFFFFFF),
        "nr_cpus": spec.nr_cpus,
        **{name: text.encode() for name, text in spec.uts.items()},
        **spec.header,
    }
    return pack_header(spec.layout, spec.order, values)


def _sub_header(spec: KdumpSpec, max_mapnr: int, notes_offset: int, eraseinfo_offset: int) -> bytes:
    place = spec.notes.find(spec.vmcoreinfo) if spec.vmcoreinfo and spec.version >= 4 else 0
    has_text = bool(spec.vmcoreinfo) and spec.version >= 3 and place >= 0
    start, end = spec.split or (0, 0)
    old = spec.version < 6
    values = {
        "phys_base": spec.phys_base,
        "dump_level": spec.dump_level,
        "split": 0 if spec.split is None else 1,
        "start_pfn": start if old else 0,
        "end_pfn": end if old else 0,
        "offset_vmcoreinfo": notes_offset + place if has_text else 0,
        "size_vmcoreinfo": len(spec.vmcoreinfo) if has_text else 0,
        "offset_note": notes_offset if spec.notes else 0,
        "size_note": len(spec.notes),
        "offset_eraseinfo": eraseinfo_offset,
        "size_eraseinfo": len(spec.eraseinfo) if eraseinfo_offset else 0,
        "start_pfn_64": start,
        "end_pfn_64": end,
        "max_mapnr_64": max_mapnr,
        **spec.sub_header,
    }
    return pack_sub_header(spec.layout, spec.order, spec.version, values)
