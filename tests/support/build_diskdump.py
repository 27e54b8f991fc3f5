# SPDX-License-Identifier: GPL-2.0-or-later
"""Builds diskdumps, honest or hostile: the file of savecore and the driver's partition; packed by hand.

The main header, bitmaps and page codecs are those of `build_kdump`: one C struct serves both.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from .build_kdump import CODEC_FLAGS, HEADER_SIZE, Bitmap, blocks_of, compress, pack_header
from .sparse import SparseFile

Run = tuple[int, int]  # [start, end)

STATUS_COMPLETED, STATUS_INCOMPLETED, STATUS_IN_PROGRESS, STATUS_SHORT_AREA, STATUS_COMPRESSED = 0, 1, 2, 4, 8
ANON = 2  # page flag: anonymous memory


@dataclass
class DiskdumpSpec:
    """A diskdump to build; the defaults give what savecore makes of a partial, compressed x86_64 dump.

    Frames: `pages` are stored, `excluded` runs are RAM without bytes, all others are holes. `single_bitmap`: RAM only.
    `partition` gives the driver's form; `block0` is its block 0: "formatted", "swap" or "zeros". `written` cuts
    what the driver wrote to that many pages, as an interrupted dump does; the rest of the partition, `spare` blocks
    more than the pages need, keeps the formatter's pattern (or what `stale` says: zeros).
    `flags[pfn]` is or-ed into a page's flags. `stored[pfn] = (bytes, flags)` bypasses the codec.
    Hostility: `header`, `descriptors[pfn]`, `entries[pfn]` (size, flags), `patches` win over all computed.
    """

    pages: Mapping[int, bytes] = field(default_factory=dict)
    excluded: Sequence[Run] = ()
    page_size: int = 4096
    version: int = 0
    bits: int = 64
    order: str = "<"
    compressed: bool = True
    single_bitmap: bool = False
    partition: bool = False
    block0: str = "formatted"
    spare: int = 3
    stale: bool = False
    written: int | None = None
    flushed: int | None = None  # bits of the dense second bitmap that reached the disk
    written_blocks: int | None = None
    max_mapnr: int | None = None
    registers: Sequence[int] | None = tuple(range(0x1000, 0x1000 + 27))
    tasks: Sequence[int] = (0xFFFF810001234000, 0xFFFF810005678000)
    current_cpu: int = 1
    status: int | None = None
    uts: Mapping[str, str] = field(
        default_factory=lambda: {"sysname": "Linux", "machine": "x86_64", "release": "2.6.9-test"}
    )
    tv_sec: int = 1100000000
    flags: Mapping[int, int] = field(default_factory=dict)
    stored: Mapping[int, tuple[bytes, int]] = field(default_factory=dict)
    header: Mapping[str, int | bytes] = field(default_factory=dict)
    descriptors: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    entries: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    patches: Mapping[int, bytes] = field(default_factory=dict)


@dataclass
class DiskdumpImage:
    """A built file and where its parts lie."""

    spec: DiskdumpSpec
    file: SparseFile
    bitmap1_offset: int
    bitmap2_offset: int
    data_offset: int
    places: dict[int, int]  # pfn -> offset of its descriptor (file) or of its page or entry (partition)

    def to_bytes(self) -> bytes:
        return self.file.to_bytes()


def build(spec: DiskdumpSpec) -> DiskdumpImage:
    """Build the dump."""
    file = SparseFile()
    bs, first = spec.page_size, int(spec.partition)
    stored = sorted(spec.pages)
    limit = max([1, *(pfn + 1 for pfn in stored[-1:]), *(end for _, end in spec.excluded)])
    limit = limit if spec.max_mapnr is None else spec.max_mapnr
    need = blocks_of(limit, bs)
    sub_hdr_size = 0 if spec.registers is None else -(-len(spec.registers) * spec.bits // 8 // bs)
    bitmap1 = (first + 1 + sub_hdr_size) * bs
    bitmap_blocks = need if spec.single_bitmap else 2 * need
    data = bitmap1 + bitmap_blocks * bs
    if spec.partition:
        places, end, written = _put_partition(file, spec, stored, data)
    else:
        places, end, written = *_put_file(file, spec, stored, data), 0
    ram, second = Bitmap(), Bitmap()
    for pfn in stored:
        ram.set(pfn)
    for run in spec.excluded:
        ram.set_run(*run)
    for bit in _second_bits(spec, stored):
        second.set(bit)
    ram.put(file, bitmap1, need * bs, "bitmap1")
    if not spec.single_bitmap:
        second.put(file, bitmap1 + need * bs, need * bs, "bitmap2")
    code = "Q" if spec.bits == 64 else "I"
    if spec.registers is not None:
        file.put(
            (first + 1) * bs, struct.pack(f"{spec.order}{len(spec.registers)}{code}", *spec.registers), "registers"
        )
    file.extend(end)
    nr_ram = len(stored) + sum(stop - start for start, stop in spec.excluded)
    values = {
        "bitmap_blocks": bitmap_blocks, "max_mapnr": limit, "sub_hdr_size": sub_hdr_size, "total_ram_blocks": nr_ram,
        "device_blocks": end // bs, "written_blocks": written if spec.written_blocks is None else spec.written_blocks,
    }  # fmt: skip
    file.put(first * bs, _header(spec, values), "header")
    for offset, patch in spec.patches.items():
        file.put(offset, patch, "patch")
    return DiskdumpImage(spec, file, bitmap1, bitmap1 + need * bs, data, places)


def ram_frames(spec: DiskdumpSpec) -> list[int]:
    """Give all frames of RAM."""
    return sorted({*spec.pages, *(pfn for run in spec.excluded for pfn in range(*run))})


def _second_bits(spec: DiskdumpSpec, stored: list[int]) -> Iterator[int]:
    # In a file by frame, on a partition by the n-th frame of RAM.
    if not spec.partition:
        yield from stored
        return
    for bit, pfn in enumerate(ram_frames(spec)):
        if pfn in spec.pages and (spec.flushed is None or bit < spec.flushed):
            yield bit


def _encode(spec: DiskdumpSpec, pfn: int) -> tuple[bytes, int]:
    if pfn in spec.stored:
        return spec.stored[pfn]
    page, flags = spec.pages[pfn], spec.flags.get(pfn, 0)
    payload = compress(page, "zlib") if spec.compressed else page
    if len(payload) >= len(page):
        return page, flags
    return payload, flags | CODEC_FLAGS["zlib"]


def _put_file(file: SparseFile, spec: DiskdumpSpec, stored: list[int], table: int) -> tuple[dict[int, int], int]:
    places: dict[int, int] = {}
    out = bytearray()
    offset = table + 24 * len(stored)
    for rank, pfn in enumerate(stored):
        places[pfn] = table + 24 * rank
        values = {"offset": 0, "size": 0, "flags": 0, "page_flags": 0}
        if spec.written is None or rank < spec.written:
            payload, flags = _encode(spec, pfn)
            values |= {"offset": offset, "size": len(payload), "flags": flags, "page_flags": 0x40}
            offset = file.put(offset, payload, "data")
        values |= spec.descriptors.get(pfn, {})
        out += struct.pack(spec.order + "qIIQ", values["offset"], values["size"], values["flags"], values["page_flags"])
    file.put(table, bytes(out), "descriptors")
    return places, offset


def _put_partition(
    file: SparseFile, spec: DiskdumpSpec, stored: list[int], data: int
) -> tuple[dict[int, int], int, int]:
    bs, offset = spec.page_size, data
    places: dict[int, int] = {}
    stream = bytearray()
    for pfn in stored[: spec.written]:
        places[pfn] = data + len(stream)
        if spec.compressed:
            payload, flags = _encode(spec, pfn)
            entry = {"size": len(payload), "flags": flags, **spec.entries.get(pfn, {})}
            stream += struct.pack(spec.order + "QII", 0x40, entry["size"], entry["flags"]) + payload
        else:
            stream += spec.pages[pfn]
    if spec.compressed:
        stream += b"m" * (-len(stream) % bs)
    offset = file.put(data, bytes(stream), "data")
    written = offset // bs
    unwritten = (0 if spec.written is None else max(0, len(stored) - spec.written)) + spec.spare
    for block in range(written, written + unwritten):
        file.put(block * bs, bytes(bs) if spec.stale else format_block(block, bs, spec.order), "format")
    if spec.block0 == "formatted":
        file.put(0, format_block(0, bs, spec.order), "block0")
    elif spec.block0 == "swap":
        file.put(bs - 10, b"SWAPSPACE2", "block0")
    return places, (written + unwritten) * bs, written


def format_block(number: int, size: int, order: str) -> bytes:
    """Give what the formatter writes into a block: its text, the number, and a series of words."""
    words, word = [], number & 0xFFFFFFFF
    for _ in range(size // 4 - 2):
        words.append(word)
        word = (word + 7) * 11 & 0xFFFFFFFF
    return b"diskdump" + struct.pack(f"{order}{len(words)}I", *words)


def formatted_partition(blocks: int, size: int = 4096, order: str = "<") -> bytes:
    """Give a partition on which no dump is."""
    return b"".join(format_block(number, size, order) for number in range(blocks))


def _header(spec: DiskdumpSpec, computed: Mapping[str, int]) -> bytes:
    status = STATUS_COMPLETED if spec.status is None else spec.status
    if spec.status is None and spec.partition and spec.compressed:
        status |= STATUS_COMPRESSED
    values: dict[str, int | bytes] = {
        "signature": b"DISKDUMP",
        "header_version": spec.version,
        "tv_sec": spec.tv_sec,
        "status": status,
        "block_size": spec.page_size,
        "current_cpu": spec.current_cpu,
        "nr_cpus": len(spec.tasks),
        **computed,
        **{name: text.encode() for name, text in spec.uts.items()},
        **spec.header,
    }
    layout = "64" if spec.bits == 64 else "32pack"
    code = "Q" if spec.bits == 64 else "I"
    mask = (1 << spec.bits) - 1
    tasks = struct.pack(f"{spec.order}{len(spec.tasks)}{code}", *(task & mask for task in spec.tasks))
    head = pack_header(layout, spec.order, values)
    assert len(head) == HEADER_SIZE[layout]
    return head + tasks
