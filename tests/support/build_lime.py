# SPDX-License-Identifier: GPL-2.0-or-later
"""Builds LiME and AVML files from a description, by struct.pack alone; no layout of the product is used."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import cramjam

LIME, AVML = 0x4C694D45, 0x4C4D5641
IDENTIFIER = b"\xff\x06\x00\x00sNaPpY"
CHUNK = 65536


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli), bit by bit through a table."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def _table() -> list[int]:
    out = []
    for value in range(256):
        crc = value
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        out.append(crc)
    return out


_TABLE = _table()


def masked(data: bytes) -> int:
    """The checksum as the framing stores it: rotated right by 15, plus a constant."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def chunk(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + len(body).to_bytes(3, "little") + body


def data_chunk(data: bytes, *, compress: bool = True) -> bytes:
    """One chunk of plain bytes, compressed or stored."""
    body = bytes(cramjam.snappy.compress_raw(data)) if compress else data
    return chunk(0 if compress else 1, struct.pack("<I", masked(data)) + body)


def stream(data: bytes, *, compress: bool = True, size: int = CHUNK, extra: bytes = b"") -> bytes:
    """A framed stream; `extra` goes between the identifier and the data."""
    parts = [data[at : at + size] for at in range(0, len(data), size)]
    return IDENTIFIER + extra + b"".join(data_chunk(part, compress=compress) for part in parts)


@dataclass
class Range:
    """One range: `data` from `start` on. An orphan has a size and no data.

    `size`: what the header claims. `body`, `trailer`: other bytes than ought to be behind it.
    """

    start: int
    data: bytes = b""
    size: int | None = None
    body: bytes | None = None
    trailer: bytes | None = None
    compress: bool = True
    orphan: bool = False
    fields: dict[str, int] = field(default_factory=dict)


def header(entry: Range, *, avml: bool, order: str = "<") -> bytes:
    size = len(entry.data) if entry.size is None else entry.size
    values = {
        "magic": AVML if avml else LIME,
        "version": 2 if avml else 1,
        "first": entry.start,
        "last": (entry.start + size - 1) % (1 << 64),  # inclusive
        "reserved": 0,
    } | entry.fields
    return struct.pack(order + "IIQQQ", *values.values())


def build(ranges: Sequence[Range], *, avml: bool = False, order: str = "<") -> bytes:
    """Give the file."""
    out = b""
    for entry in ranges:
        out += header(entry, avml=avml, order=order)
        if entry.orphan:
            continue
        if not avml:
            out += entry.data if entry.body is None else entry.body
            continue
        body = stream(entry.data, compress=entry.compress) if entry.body is None else entry.body
        out += body + (struct.pack("<Q", len(body)) if entry.trailer is None else entry.trailer)
    return out
