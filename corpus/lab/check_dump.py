#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""check_dump.py DUMP MEMORY: does a dump hold what the machine's memory held?

MEMORY is a sparse file in which byte A is what guest-physical address A read as, MEMORY.json the ranges that are RAM.
Nothing of dumpconv is used here: struct, and the plain library call of each codec.
"""

import json
import os
import struct
import sys
import tempfile
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

CHUNK = 1 << 20
FLAT = b"makedumpfile\0\0\0\0"


def rearrange(stream: BinaryIO) -> BinaryIO:
    """Replay a flattened stream into a temporary file."""
    out: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115
    stream.seek(4096)
    while True:
        offset, size = struct.unpack(">qq", stream.read(16))
        if offset < 0:
            return out
        out.seek(offset)
        out.write(stream.read(size))


def inflate(flags: int, data: bytes, page: int) -> bytes | None:
    """One stored page; None when no library for its codec is here."""
    if flags & 7 == 0:
        return data
    if flags & 1:
        return zlib.decompress(data)
    try:
        if flags & 2:
            import lzo

            return bytes(lzo.decompress(data, False, page))
        import cramjam

        return bytes(cramjam.snappy.decompress_raw(data))
    except ImportError:
        return None


def elf_pieces(dump: BinaryIO) -> Iterator[tuple[int, int, bytes | None]]:
    """(address, length, bytes) of every PT_LOAD with data; bytes None marks what the dump cannot give."""
    head = dump.read(64)
    order = "<" if head[5] == 1 else ">"
    wide = head[4] == 2
    phoff, shoff = struct.unpack_from(order + ("QQ" if wide else "II"), head, 32 if wide else 28)
    count = struct.unpack_from(order + "H", head, 56 if wide else 44)[0]
    if count == 0xFFFF:
        dump.seek(shoff + (44 if wide else 28))
        count = struct.unpack(order + "I", dump.read(4))[0]
    for index in range(count):
        dump.seek(phoff + index * (56 if wide else 32))
        if wide:
            kind, _, offset, _, paddr, filesz, _, _ = struct.unpack(order + "IIQQQQQQ", dump.read(56))
        else:
            kind, offset, _, paddr, filesz, _, _, _ = struct.unpack(order + "8I", dump.read(32))
        if kind != 1:
            continue
        for start in range(0, filesz, CHUNK):
            size = min(CHUNK, filesz - start)
            dump.seek(offset + start)
            data = dump.read(size)
            yield paddr + start, size, data if len(data) == size else None


def kdump_header(dump: BinaryIO) -> dict[str, Any]:
    """The fields that lead to the pages, in whichever class and byte order makes sense."""
    head = dump.read(4096)
    for order in "<>":
        for base, wide in ((424, True), (412, False)):
            status, page, sub, blocks, mapnr = struct.unpack_from(order + "5I", head, base)
            if page in (4096, 8192, 16384, 65536) and 0 < sub < 65536 and blocks > 0 and 4 * blocks * page >= mapnr:
                return {
                    "order": order, "wide": wide, "status": status, "page": page, "sub": sub, "blocks": blocks,
                    "mapnr": mapnr, "version": struct.unpack_from(order + "i", head, 8)[0],
                    "machine": head[272:337].split(b"\0")[0].decode(),
                }  # fmt: skip
    raise ValueError("no layout fits the kdump header")


def kdump_pieces(dump: BinaryIO, head: dict[str, Any]) -> Iterator[tuple[int, int, bytes | None]]:
    """(address, length, bytes) of every stored page."""
    page = head["page"]
    half = head["blocks"] * page // 2
    start = (1 + head["sub"]) * page
    dump.seek(start + half)
    bitmap = dump.read(half)
    table = start + 2 * half
    rank = 0
    for pfn in range(head["mapnr"]):
        if not bitmap[pfn >> 3] >> (pfn & 7) & 1:
            continue
        dump.seek(table + 24 * rank)
        rank += 1
        offset, size, flags, _ = struct.unpack(head["order"] + "qIIQ", dump.read(24))
        dump.seek(offset)
        yield pfn * page, page, inflate(flags, dump.read(size), page)


def pieces(dump: BinaryIO) -> tuple[dict[str, Any], Iterator[tuple[int, int, bytes | None]]]:
    """What the dump is, and what it holds."""
    start = dump.read(16)
    dump.seek(0)
    facts: dict[str, Any] = {"flattened": start == FLAT}
    if start == FLAT:
        dump = rearrange(dump)
        dump.seek(0)
        start = dump.read(16)
        dump.seek(0)
    if start[:4] == b"\x7fELF":
        return facts | {"format": "elf", "class": 32 * start[4]}, elf_pieces(dump)
    head = kdump_header(dump)
    return facts | {"format": "kdump"} | head, kdump_pieces(dump, head)


def different(memory: int, address: int, size: int, data: bytes) -> list[int]:
    """Addresses of the 4 KiB pieces that are not what the memory held."""
    truth = os.pread(memory, size, address).ljust(size, b"\0")
    if truth == data:
        return []
    return [address + at for at in range(0, size, 4096) if truth[at : at + 4096] != data[at : at + 4096]]


def check(path: str, memory_path: str) -> dict[str, Any]:
    """Compare in units of 4 KiB; a byte that two segments hold counts once."""
    with open(memory_path + ".json") as stream:
        ram = [(int(first, 16), int(last, 16) + 1) for first, last, _ in json.load(stream)["ram"]]
    memory = os.open(memory_path, os.O_RDONLY)
    held: set[int] = set()
    wrong: set[int] = set()
    blind = 0
    with open(path, "rb") as dump:
        facts, content = pieces(dump)
        for address, size, data in content:
            if data is None:
                blind += size
                continue
            held.update(range(address >> 12, (address + size + 4095) >> 12))
            wrong.update(different(memory, address, size, data))
    os.close(memory)
    real = {frame for first, last in ram for frame in range(first >> 12, last >> 12)}
    return facts | {
        "held": len(held), "ram": len(real), "different": len(wrong & {frame << 12 for frame in real}),
        "ram_not_held": len(real - held), "held_not_ram": len(held - real), "undecoded_bytes": blind,
        "first_different": [hex(address) for address in sorted(wrong)[:3]],
        "first_held_not_ram": [hex(frame << 12) for frame in sorted(held - real)[:3]],
        "first_ram_not_held": [hex(frame << 12) for frame in sorted(real - held)[:3]],
    }  # fmt: skip


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    result = check(sys.argv[1], sys.argv[2])
    print(json.dumps(result))
    sys.exit(1 if result["different"] or result["undecoded_bytes"] else 0)
