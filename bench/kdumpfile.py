# SPDX-License-Identifier: GPL-2.0-or-later
"""The kdump-compressed container (version 6, x86_64), written for the benchmark with struct and numpy alone.

It shares no code with dumpconv, so that a slip in dumpconv's layout knowledge cannot hide in its own benchmark.
The first pages hold what makedumpfile needs to re-filter the file: a kernel release string, page tables that
map physical memory at 0xffff888000000000 and at 0xffffffff80000000, and a flat memory model.
"""

import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np

PAGE_SIZE = 4096
DESCRIPTOR = np.dtype([("offset", "<i8"), ("size", "<u4"), ("flags", "<u4"), ("page_flags", "<u8")])
RELEASE = "6.1.0-bench"
SUB_HEADER_SIZE = 104
CODEC_FLAGS = {"raw": 0, "zlib": 1, "lzo": 2, "snappy": 4, "zstd": 0x20}

_VMCOREINFO = f"""OSRELEASE={RELEASE}
PAGESIZE=4096
SYMBOL(init_uts_ns)=ffff888000007000
OFFSET(uts_namespace.name)=4
SYMBOL(swapper_pg_dir)=ffffffff80002000
SYMBOL(init_top_pgt)=ffffffff80002000
SYMBOL(_stext)=ffffffff80001000
NUMBER(phys_base)=0
KERNELOFFSET=0
NUMBER(pgtable_l5_enabled)=0
NUMBER(sme_mask)=0
NUMBER(KERNEL_IMAGE_SIZE)=1073741824
SYMBOL(mem_map)=ffff888000008000
SIZE(page)=64
OFFSET(page.flags)=0
OFFSET(page._refcount)=52
OFFSET(page.mapping)=24
OFFSET(page.lru)=8
SIZE(list_head)=16
OFFSET(list_head.next)=0
OFFSET(list_head.prev)=8
CRASHTIME=1700000000
"""


def utsname() -> bytes:
    """Return the 390 bytes of struct new_utsname."""
    fields = ("Linux", "bench", RELEASE, "#1 SMP", "x86_64", "(none)")
    return b"".join(field.encode().ljust(65, b"\0") for field in fields)


def fixture_pages() -> dict[int, bytes]:
    """Return the pages, by frame number, that let makedumpfile accept the memory as a kernel's."""

    def table(entries: dict[int, int]) -> bytes:
        words = [0] * 512
        for index, entry in entries.items():
            words[index] = entry
        return struct.pack("<512Q", *words)

    # The unused bytes are filled by nothing: makedumpfile reads only what is set here.
    return {
        2: table({273: 0x3003, 511: 0x4003}),
        3: table({0: 0xE3}),
        4: table({510: 0xE3}),
        7: (b"\1\0\0\0" + utsname()).ljust(PAGE_SIZE, b"\0"),
        8: struct.pack("<Q", 0xFFFF888000100000).ljust(PAGE_SIZE, b"\0"),
    }


def _note(name: bytes, kind: int, data: bytes) -> bytes:
    head = struct.pack("<III", len(name), len(data), kind)
    return head + name.ljust(-(-len(name) // 4) * 4, b"\0") + data.ljust(-(-len(data) // 4) * 4, b"\0")


def notes(nr_cpus: int) -> tuple[bytes, int, int]:
    """Return the notes, and the offset and size of the VMCOREINFO text in them."""
    out = b""
    for cpu in range(nr_cpus):
        status = bytearray(336)
        struct.pack_into("<i", status, 32, cpu + 1)
        struct.pack_into("<Q", status, 112 + 16 * 8, 0xFFFFFFFF80001000 + cpu)  # rip
        struct.pack_into("<Q", status, 112 + 19 * 8, 0xFFFF888000100000)  # rsp
        out += _note(b"CORE\0", 1, bytes(status))
    text = _VMCOREINFO.encode()
    text_offset = len(out) + 12 + 12
    return out + _note(b"VMCOREINFO\0", 0, text), text_offset, len(text)


class KdumpLayout:
    """Offsets of one file: headers, two bitmaps of `max_mapnr` bits, `nr_stored` descriptors, data."""

    def __init__(self, max_mapnr: int, nr_stored: int, *, status: int, dump_level: int, nr_cpus: int = 2) -> None:
        self.max_mapnr = max_mapnr
        self.status = status
        self.dump_level = dump_level
        self.nr_cpus = nr_cpus
        self.notes, self._text_offset, self._text_size = notes(nr_cpus)
        self.sub_header_blocks = -(-(SUB_HEADER_SIZE + len(self.notes)) // PAGE_SIZE)
        self.bitmap_size = -(-max_mapnr // (8 * PAGE_SIZE)) * PAGE_SIZE
        self.bitmap_offset = (1 + self.sub_header_blocks) * PAGE_SIZE
        self.table_offset = self.bitmap_offset + 2 * self.bitmap_size
        self.data_offset = self.table_offset + nr_stored * DESCRIPTOR.itemsize

    def headers(self) -> bytes:
        """Return the main and sub header blocks with the notes."""
        main = bytearray(PAGE_SIZE)
        main[0:8] = b"KDUMP   "
        struct.pack_into("<i", main, 8, 6)
        main[12:402] = utsname()
        struct.pack_into("<QQ", main, 408, 1700000000, 0)
        bitmap_blocks = 2 * self.bitmap_size // PAGE_SIZE
        struct.pack_into(
            "<IiiII", main, 424, self.status, PAGE_SIZE, self.sub_header_blocks, bitmap_blocks, self.max_mapnr
        )
        struct.pack_into("<i", main, 460, self.nr_cpus)
        sub = bytearray(self.sub_header_blocks * PAGE_SIZE)
        notes_offset = PAGE_SIZE + SUB_HEADER_SIZE
        struct.pack_into("<Qii", sub, 0, 0, self.dump_level, 0)
        struct.pack_into("<QQ", sub, 32, notes_offset + self._text_offset, self._text_size)
        struct.pack_into("<QQ", sub, 48, notes_offset, len(self.notes))
        struct.pack_into("<Q", sub, 96, self.max_mapnr)
        sub[SUB_HEADER_SIZE : SUB_HEADER_SIZE + len(self.notes)] = self.notes
        return bytes(main + sub)

    def write_bitmaps(self, file: BinaryIO, ram: np.ndarray, stored: np.ndarray) -> None:
        """Write both bitmaps, given as one bool a frame."""
        for index, bits in enumerate((ram, stored)):
            file.seek(self.bitmap_offset + index * self.bitmap_size)
            file.write(np.packbits(bits, bitorder="little").tobytes())


def payload_size(path: Path) -> int:
    """Return the bytes that the stored pages of a file written here decode to."""
    with path.open("rb") as file:
        main = file.read(PAGE_SIZE)
        sub_blocks, bitmap_blocks = struct.unpack_from("<iI", main, 432)
        bitmap_size = bitmap_blocks * PAGE_SIZE // 2
        file.seek((1 + sub_blocks) * PAGE_SIZE + bitmap_size)
        bits = np.frombuffer(file.read(bitmap_size), np.uint8)
    return int(np.bitwise_count(bits).sum()) * PAGE_SIZE
