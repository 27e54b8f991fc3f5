# SPDX-License-Identifier: GPL-2.0-or-later
"""Builds mcore files of both versions from a description, by struct.pack and zlib alone."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

MAGIC = 0x9A8BCCDD


@dataclass
class McoreSpec:
    """An mcore file. `fields`: header fields that lie; `entries`: map entry -> fields that lie, by their names.

    `stored`: unit -> other bytes in its place (unpadded); `listed`: unit -> other addresses in its list;
    `units`: v2, the frames of each unit, else 128 a unit. v1 needs all frames of an entry: missing ones are zeros.
    """

    pages: Mapping[int, bytes]
    version: int = 2
    bits: int = 64
    order: str = "<"
    blk_size: int = 4096
    base: int = 0xFFFF888000000000
    units: list[list[int]] | None = None
    per_entry: int = 4  # v1: pages
    magic_tail: tuple[int, int, int] = (0, 0, 0)
    full: bool = False  # v2: units padded with zero pages to 128
    fields: dict[str, int] = field(default_factory=dict)
    entries: dict[int, dict[str, int]] = field(default_factory=dict)
    stored: dict[int, bytes] = field(default_factory=dict)
    listed: dict[int, list[int]] = field(default_factory=dict)
    terminate: bool = True
    header_blocks: tuple[int, ...] = (1,)  # v1: the pages are dealt out to so many headers
    list_tail: bool = True
    level: int = 6

    @property
    def word(self) -> str:
        return "I" if self.bits == 32 else "Q"

    @property
    def long(self) -> int:
        return self.bits // 8

    def va(self, pfn: int) -> int:
        return self.base + pfn * self.blk_size


def padded(data: bytes, size: int) -> bytes:
    return data + bytes(-len(data) % size)


def build(spec: McoreSpec) -> bytes:
    return _build_v2(spec) if spec.version == 2 else _build_v1(spec)


def unit_v2(spec: McoreSpec, pfns: list[int], listed: list[int] | None = None) -> bytes:
    """The plain bytes of a unit: list of addresses, then pages."""
    addresses = [spec.va(pfn) for pfn in pfns] if listed is None else listed
    head = struct.pack(f"{spec.order}{len(addresses)}{spec.word}", *addresses)
    size = -(-129 * spec.long // spec.blk_size) * spec.blk_size
    body = b"".join(spec.pages[pfn] for pfn in pfns)
    return head.ljust(size, b"\0") + (body.ljust(128 * spec.blk_size, b"\0") if spec.full else body)


def _build_v2(spec: McoreSpec) -> bytes:
    pfns = sorted(spec.pages)
    units = spec.units or [pfns[at : at + 128] for at in range(0, len(pfns), 128)]
    entry = struct.Struct(f"{spec.order}2{spec.word}2i")
    blocks = [
        padded(
            spec.stored.get(n, b"") or zlib.compress(unit_v2(spec, unit, spec.listed.get(n)), spec.level), spec.blk_size
        )
        for n, unit in enumerate(units)
    ]
    map_blocks = -(-(len(units) + spec.terminate) * entry.size // spec.blk_size)
    header = {"magic": MAGIC, "blk_size": spec.blk_size, "map_block": 1, "map_blocks": map_blocks} | spec.fields
    long = f"{spec.order}4{spec.word}3i"
    out = struct.pack(
        long, header["magic"], *spec.magic_tail, header["blk_size"], header["map_block"], header["map_blocks"]
    )
    table, at = b"", 1 + map_blocks
    for number, block in enumerate(blocks):
        start = spec.base if number == 0 else spec.va(units[number][0])
        values = {"start_va": start, "exp_data": 0, "start_blk": at, "num_blks": len(block) // spec.blk_size}
        table += entry.pack(*(values | spec.entries.get(number, {})).values())
        at += len(block) // spec.blk_size
    if spec.terminate:
        table += bytes(entry.size)
    return padded(out, spec.blk_size) + padded(table, spec.blk_size) + b"".join(blocks)


def _build_v1(spec: McoreSpec) -> bytes:
    size = spec.blk_size
    count = len(spec.header_blocks)
    cells = sorted({pfn // spec.per_entry for pfn in spec.pages})
    share = -(-len(cells) // count)
    positions, parts, at = [], [], 1
    for number in range(count):
        mine = cells[number * share : (number + 1) * share]
        part = _part_v1(spec, at, list(range(mine[0], mine[-1] + 1)))
        positions.append(at)
        parts.append(part)
        at += len(part) // size
    head = struct.pack(f"{spec.order}{count}i", *positions)
    head = padded(head + bytes(4), size) if spec.list_tail else (head * size)[:size]
    return head + b"".join(parts)


def _part_v1(spec: McoreSpec, position: int, cells: list[int]) -> bytes:
    size, per = spec.blk_size, spec.per_entry
    entry = struct.Struct(f"{spec.order}2{spec.word}3i" + ("4x" if spec.bits == 64 else ""))
    map_blocks = -(-len(cells) * entry.size // size)
    header = {
        "magic": MAGIC, "blk_size": size, "map_block": 1, "map_blocks": map_blocks, "map_entries": len(cells),
        "va_per_entry": per * size, "bytes_not_dumped": 0, "total_blocks": 0,
    } | spec.fields  # fmt: skip
    out = struct.pack(f"{spec.order}4{spec.word}4i", header["magic"], *spec.magic_tail, *list(header.values())[1:5])
    out += struct.pack(f"{spec.order}2{spec.word}i", *list(header.values())[5:])
    table, data, at = b"", b"", 1 + map_blocks
    for number, cell in enumerate(cells):
        plain = b"".join(spec.pages.get(pfn, bytes(size)) for pfn in range(cell * per, (cell + 1) * per))
        block = padded(spec.stored.get(number, b"") or zlib.compress(plain, spec.level), size)
        start = at + 100  # the header is block 100 of the swap device
        values = {
            "start_va": spec.va(cell * per), "exp_data": 0, "start_blk": start, "num_blks": len(block) // size,
            "chk_sum": 0,
        }  # fmt: skip
        table += entry.pack(*(values | spec.entries.get(number, {})).values())
        data += block
        at += len(block) // size
    return padded(out, size) + padded(table, size) + data
