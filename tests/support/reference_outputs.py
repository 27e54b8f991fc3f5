# SPDX-License-Identifier: GPL-2.0-or-later
"""Slow readers of what dumpconv writes beside ELF and kdump: LKCD 8 and 9, LiME, raw memory; struct and zlib alone."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field

LKCD_MAGIC = 0xA8190173618F23ED
LIME_MAGIC = 0x4C694D45


@dataclass
class Lkcd:
    """An LKCD file picked apart: header fields by name, asm header, pages, flags of the END record."""

    order: str
    header: dict[str, int] = field(default_factory=dict)
    uts: list[bytes] = field(default_factory=list)
    panic: bytes = b""
    asm: bytes = b""
    pages: dict[int, bytes] = field(default_factory=dict)
    flags: dict[int, int] = field(default_factory=dict)
    end_flags: int = 0
    records: list[int] = field(default_factory=list)


def lkcd(data: bytes) -> Lkcd:
    """Read a whole file; every byte of it must be accounted for."""
    order = "<" if data[0] == 0xED else ">"
    out = Lkcd(order)
    names = ("magic", "version", "header_size", "level", "page_size", "memory_size", "memory_start", "memory_end")
    out.header = dict(zip(names, struct.unpack_from(order + "QIIIIQQQ", data, 0), strict=True))
    assert out.header["magic"] == LKCD_MAGIC
    (out.header["num_pages"],) = struct.unpack_from(order + "I", data, 0x30)
    out.panic = data[0x34:0x134].split(b"\0")[0]
    out.header["sec"], out.header["usec"] = struct.unpack_from(order + "QQ", data, 0x134)
    out.uts = [data[0x144 + 65 * index :][:65].rstrip(b"\0") for index in range(6)]
    tail = struct.unpack_from(order + "QIII", data, 0x2CA)
    out.header |= dict(zip(("task", "compress", "flags", "device"), tail, strict=True))
    start = 65536
    if out.header["version"] >= 9:
        (start,) = struct.unpack_from(order + "Q", data, 0x2DE)
    out.header["start"] = start
    at = out.header["header_size"]
    assert at == {8: 734, 9: 742}[out.header["version"]]
    magic, _, size = struct.unpack_from(order + "QII", data, at)
    if magic:
        out.asm = data[at : at + size]
        at += size
    assert at <= start
    assert not any(data[at:start])
    _records(out, data, start)
    return out


def _records(out: Lkcd, data: bytes, at: int) -> None:
    size = out.header["page_size"]
    while True:
        address, stored_size, flags = struct.unpack_from(out.order + "QII", data, at)
        at += 16
        if flags & 4:
            assert (address, stored_size, at) == (0, 0, len(data))
            out.end_flags = flags
            return
        stored = data[at : at + stored_size]
        assert len(stored) == stored_size
        assert flags in (1, 2)
        assert address % size == 0
        assert flags == 1 or stored_size < size
        page = stored if flags == 1 else zlib.decompress(stored)
        assert len(page) == size
        assert address // size not in out.pages
        out.pages[address // size] = page
        out.flags[address // size] = flags
        out.records.append(address // size)
        at += stored_size


def lime(data: bytes, page_size: int, order: str = "<") -> dict[int, bytes]:
    """Read a LiME file: ranges ascending, nothing between or behind them."""
    pages: dict[int, bytes] = {}
    at, last = 0, -1
    while at < len(data):
        magic, version, first, end, reserved = struct.unpack_from(order + "IIQQQ", data, at)
        assert (magic, version, reserved) == (LIME_MAGIC, 1, 0)
        assert last < first <= end
        at, last = at + 32, end
        assert at + end - first < len(data)
        for address in range(first, end + 1, page_size):
            pages[address // page_size] = data[at : at + page_size]
            at += page_size
    assert at == len(data)
    return pages


def asm_registers(asm: bytes, order: str, head: int, words: int, letter: str) -> list[tuple[int, ...]]:
    """Give the registers of all CPUs in an asm header; `head` bytes lie before dha_regs."""
    size = words * struct.calcsize(order + letter)
    count, dumping = struct.unpack_from(order + "Ii", asm, 16 + head + size)
    assert dumping == 0
    first = 16 + head + size + 8
    assert len(asm) == first + count * (size + 3 * struct.calcsize(order + letter))
    return [struct.unpack_from(f"{order}{words}{letter}", asm, first + cpu * size) for cpu in range(count)]


def unflatten(data: bytes) -> bytes:
    """Give the file in a flattened stream: gaps are zero, the last write wins."""
    assert data[:32] == b"makedumpfile\0\0\0\0" + struct.pack(">qq", 1, 1)
    assert not any(data[32:4096])
    at, out = 4096, bytearray()
    while True:
        offset, size = struct.unpack_from(">qq", data, at)
        at += 16
        if (offset, size) == (-1, -1):
            assert at == len(data)
            return bytes(out)
        assert offset >= 0
        assert 0 < size <= 1 << 16
        out.extend(bytes(max(0, offset + size - len(out))))
        out[offset : offset + size] = data[at : at + size]
        at += size
