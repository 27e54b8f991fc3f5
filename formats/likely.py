# SPDX-License-Identifier: GPL-2.0-or-later
"""What a file is that no signature fits: a kdump or an ELF core of which the first bytes are damaged.

It is told by what lies behind. Only what cannot be chance counts: pointers that lead to VMCOREINFO, program headers
whose notes are those of a dump.
Sheets: docs/formats/kdump.md, docs/formats/elf.md.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

from .elf_layout import EHDR_SIZE, PHDR_SIZE, PT_LOAD, PT_NOTE, phdr_dtype
from .errors import CorruptDump, DumpError, UnknownFormat
from .machine import ByteOrder
from .source import ByteSource
from .vmcoreinfo import printable

__all__ = ["unknown_format"]

_ORDERS: tuple[ByteOrder, ...] = ("little", "big")
_BLOCKS = tuple(1 << shift for shift in range(12, 17))
_POINTERS = ((8, 32, 48), (4, 20, 32), (4, 24, 40))  # word, where a sub header has offset_vmcoreinfo and offset_note
_VMCOREINFO = b"OSRELEASE="
_NOTE_NAMES = (b"CORE\0", b"VMCOREINFO\0", b"LINUX\0", b"QEMU\0", b"XEN CORE\0", b"DUMPCONV\0")
_MAX_HEADERS = 1 << 12
_ZEROS = 1 << 16
_STREAM_REACH = 1 << 20  # what is asked of a pipe before it is given up


def unknown_format(source: ByteSource) -> DumpError:
    """Return the error for a source that no format's signature fits."""
    source.ensure(0, _ZEROS)
    head = source.pread(0, min(_ZEROS, source.size))
    for told in (_kdump, _elf):
        found = told(source)
        if found is not None:
            message, hint = found
            return CorruptDump(message, path=source.name, offset=0, hint=hint)
    begins = head[:16].hex(" ") or "nothing (the file is empty)"
    hint = "`dumpconv formats` lists what can be read, and what other tools must convert first"
    if len(head) >= 512 and not any(head):
        more = "" if source.is_stream else f" of {source.size}"
        return UnknownFormat(
            f"no known dump format begins with zeros, and the first {len(head)} bytes{more} are",
            path=source.name,
            hint=f"a copy that did not end, or was never begun, looks so; {hint}",
        )
    at = head.find(_VMCOREINFO)
    if at >= 0:
        release = printable(head[at + len(_VMCOREINFO) :][:64].split(b"\n")[0])
        begins += f"; VMCOREINFO of a kernel {release} is at {at:#x}: what is before it may be damaged"
    return UnknownFormat(f"no known dump format begins with {begins}", path=source.name, hint=hint)


def _read(source: ByteSource, offset: int, size: int) -> bytes:
    # these bytes; fewer, or none, where the source has no more
    if offset < 0 or offset + size > (_STREAM_REACH if source.is_stream else 1 << 62):
        return b""
    source.ensure(offset, offset + size)
    count = max(0, min(size, source.size - offset))
    return source.pread(offset, count) if count else b""


# -- kdump -----------------------------------------------------------------------------------------------------


def _kdump(source: ByteSource) -> tuple[str, str] | None:
    for block in _BLOCKS:
        sub = _read(source, block, 128)
        if len(sub) < 128 or not any(sub):
            continue
        for order in _ORDERS:
            for word, vmcoreinfo, note in _POINTERS:
                if _leads(source, sub, order, word, vmcoreinfo, 0) or _leads(source, sub, order, word, note, 1):
                    return _kdump_words(source, block)
    return None


def _leads(source: ByteSource, sub: bytes, order: ByteOrder, word: int, at: int, is_note: int) -> bool:
    # whether a pointer and a size in a sub header are those of VMCOREINFO's text or of notes
    offset = int.from_bytes(sub[at : at + 8], order)
    size = int.from_bytes(sub[at + 8 : at + 8 + word], order)
    if not 512 <= offset <= 1 << 48 or not 16 <= size <= 1 << 30:
        return False
    if not is_note:
        return _read(source, offset, len(_VMCOREINFO)) == _VMCOREINFO
    return _is_note(_read(source, offset, 32), order)


def _is_note(raw: bytes, order: ByteOrder) -> bool:
    return len(raw) == 32 and any(
        raw.startswith(name, 12) and int.from_bytes(raw[:4], order) == len(name) for name in _NOTE_NAMES
    )


def _kdump_words(source: ByteSource, block: int) -> tuple[str, str]:
    system = _read(source, 12, 6)
    if system == b"Linux\0":  # only what is before it
        return (
            "a kdump by all but its signature and version, which are damaged",
            "-f kdump reads it if the version is right",
        )
    return (
        f"the first {block} bytes, a kdump's main header, are damaged; its sub header at {block:#x} is there",
        f"the main header of another kdump of this machine, with as much memory, will do: in a copy, "
        f"`dd if=OTHER of=COPY bs={block} count=1 conv=notrunc`",
    )


# -- ELF -------------------------------------------------------------------------------------------------------


def _elf(source: ByteSource) -> tuple[str, str] | None:
    for bits in (8, 4):
        for order in _ORDERS:
            count = sum(1 for _ in _headers(source, bits, order))
            if count:
                start = EHDR_SIZE[bits]
                return (
                    f"the first {start} bytes, an ELF header, are damaged; {count} program headers of an ELF core "
                    f"follow at {start:#x}",
                    f"the ELF header of another core of this machine will do, with e_phnum {count}: in a copy, "
                    f"`dd if=OTHER of=COPY bs={start} count=1 conv=notrunc`",
                )
    return None


def _headers(source: ByteSource, bits: int, order: ByteOrder) -> Iterator[int]:
    # p_type of the program headers behind where an ELF header ends; none unless they are a core's
    dtype = phdr_dtype(order, bits)
    start, size = EHDR_SIZE[bits], PHDR_SIZE[bits]
    found: list[int] = []
    is_core = False
    for number in range(_MAX_HEADERS):
        raw = _read(source, start + number * size, size)
        if len(raw) < size:
            break
        kind = struct.unpack_from("<I" if order == "little" else ">I", raw)[0]
        if kind not in (PT_LOAD, PT_NOTE):
            break
        row = np.frombuffer(raw, dtype)[0]
        offset, filesz, memsz = int(row["p_offset"]), int(row["p_filesz"]), int(row["p_memsz"])
        if offset < start or (kind == PT_LOAD and filesz > memsz):
            break
        is_core |= kind == PT_NOTE and _is_note(_read(source, offset, 32), order)
        found.append(kind)
    return iter(found if is_core and PT_LOAD in found else [])
