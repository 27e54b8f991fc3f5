# SPDX-License-Identifier: GPL-2.0-or-later
"""What Linux on s390 leaves at fixed places of absolute storage: VMCOREINFO, the mark of a live dump, kdump's swap.

Source: docs/formats/s390.md section 6; Linux arch/s390/kernel/os_info.c and include/asm/lowcore.h.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np

from .errors import DumpError
from .image import DumpImage
from .notes import Note, build_note
from .reader import DumpReader
from .vmcoreinfo import MAX_SIZE

__all__ = ["ReadStorage", "look_into_storage", "storage_of"]

# read(address, size): the bytes, or None where they are not all in the dump
ReadStorage = Callable[[int, int], bytes | None]

_OS_INFO_POINTER = {"s390x": (0xE18, 8)}
_NOTE_POINTER = {"s390x": (0xE0C, 8), "s390": (0xE08, 4)}
_OS_INFO_MAGIC = b"OSINFOSZ"
_OS_INFO_ENTRIES = 0x20  # addr u64, size u64, csum u32 each; the first one is VMCOREINFO
_PAGE = 4096
_NAME = b"VMCOREINFO\0"
_LIVE = b"LIVEDUMP"
_OLD_MEMORY = 0x10418
_MIB = 1 << 20


def storage_of(reader: DumpReader, limit: int) -> ReadStorage:
    """Return how to read the absolute storage below `limit` of a reader whose map and extents are there."""
    image = DumpImage(reader)

    def read(address: int, size: int) -> bytes | None:
        if address + size > limit:
            return None
        try:
            return image.read_physical(address, size)
        except DumpError:
            return None

    return read


def look_into_storage(reader: DumpReader, read: ReadStorage) -> None:
    """Add the VMCOREINFO note, and say what must be known of the dump."""
    vmcoreinfo = _find_vmcoreinfo(reader.machine.arch, read)
    if vmcoreinfo is not None:
        reader.notes.append(vmcoreinfo)
    if _is_live(read):
        reader.remark("live", "the dump was taken while the kernel ran: its parts are of different moments")
    swapped = _old_memory(read) if reader.machine.arch == "s390x" else None
    if swapped is not None:
        base, size = swapped
        reader.remark(
            "kdump-inside",
            f"the dump was taken while a crash kernel ran: [0, {size:#x}) is its storage, that of the kernel that "
            f"crashed is at {base:#x}; nothing is swapped (zgetdump --select all)",
        )


def _find_vmcoreinfo(arch: str, read: ReadStorage) -> Note | None:
    """Return the VMCOREINFO that the kernel's pointers lead to: by os_info, else by the lowcore's note."""
    text = _by_os_info(arch, read)
    if text is None:
        text = _by_note(arch, read)
    return None if text is None else build_note(b"VMCOREINFO", 0, text)


def _pointer(place: tuple[int, int] | None, read: ReadStorage) -> int:
    raw = read(*place) if place is not None else None
    return int.from_bytes(raw, "big") if raw is not None else 0


def _cksm(data: bytes) -> int:
    # the checksum of the CKSM instruction: words added with the carry coming back in, the tail padded with zeros
    words = np.frombuffer(data + bytes(-len(data) % 4), ">u4")
    total = int(words.astype(np.uint64).sum())
    while total >> 32:
        total = (total & 0xFFFFFFFF) + (total >> 32)
    return total


def _by_os_info(arch: str, read: ReadStorage) -> bytes | None:
    address = _pointer(_OS_INFO_POINTER.get(arch), read)
    if address == 0 or address % _PAGE:
        return None
    page = read(address, _PAGE)
    if page is None or page[:8] != _OS_INFO_MAGIC or int.from_bytes(page[8:12], "big") != _cksm(page[12:]):
        return None
    start, size, checksum = struct.unpack_from(">QQI", page, _OS_INFO_ENTRIES)
    if start == 0 or not 0 < size <= MAX_SIZE:
        return None
    text = read(start, size)
    return text if text is not None and _cksm(text) == checksum else None


def _by_note(arch: str, read: ReadStorage) -> bytes | None:
    address = _pointer(_NOTE_POINTER.get(arch), read)
    if address == 0 or address & 1:  # an odd value is a KASLR offset, early in boot
        return None
    head = read(address, 24)
    if head is None or head[12:23] != _NAME:
        return None
    name_size, size, note_type = struct.unpack_from(">III", head)
    if name_size != len(_NAME) or note_type != 0 or not 0 < size <= MAX_SIZE:
        return None
    return read(address + 24, size)


def _is_live(read: ReadStorage) -> bool:
    """Whether the dump was taken from a running kernel by zgetdump."""
    return read(0, len(_LIVE)) == _LIVE


def _old_memory(read: ReadStorage) -> tuple[int, int] | None:
    """Return (address, size) of where a crash kernel that runs keeps the low storage of the kernel that crashed."""
    raw = read(_OLD_MEMORY, 16)
    if raw is None:
        return None
    base, size = struct.unpack(">QQ", raw)
    return (base, size) if base and size and base % _MIB == 0 and size % _MIB == 0 else None
