# SPDX-License-Identifier: GPL-2.0-or-later
"""ELF notes: walk them in a file without trusting a length, build them, know a PRSTATUS by its size."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

from .errors import CorruptDump
from .machine import ByteOrder
from .source import ByteSource, BytesSource

__all__ = [
    "NT_PRSTATUS",
    "OUR_NAME",
    "PRSTATUS_SIZES",
    "XEN_CRASH_INFO",
    "XEN_NAMES",
    "Note",
    "build_note",
    "find_note",
    "nr_cpus",
    "parse_notes",
    "prstatus_registers",
]

NT_PRSTATUS = 1
XEN_CRASH_INFO = 0x1000001  # of the hypervisor, in the dump of a whole host; its names:
XEN_NAMES = (b"Xen", b"XEN CORE")
OUR_NAME = b"DUMPCONV"  # the notes that the converter adds: statenote.py

# Descriptor size of NT_PRSTATUS and where its registers start and end. docs/formats/elf.md section 6.
PRSTATUS_SIZES: dict[str, tuple[int, int, int]] = {
    "i386": (144, 72, 68),
    "x86_64": (336, 112, 216),
    "arm": (148, 72, 72),
    "aarch64": (392, 112, 272),
    "ppc": (268, 72, 192),
    "ppc64": (504, 112, 384),
    "s390": (224, 72, 140),
    "s390x": (336, 112, 216),
    "ia64": (1144, 112, 1024),
    "riscv64": (376, 112, 256),
    "loongarch64": (480, 112, 360),
    "mips64": (480, 112, 360),
    "mips": (256, 72, 180),
}

_MAX_NOTES = 1 << 17  # 8192 CPUs with a dozen notes each; every note costs a Python object
_MAX_NAME = 256
_CHUNK = 1 << 16


class Note(NamedTuple):
    """One ELF note; its descriptor stays in the file until asked for (device dumps are tens of MiB).

    Attributes:
        raw_name: The name field as stored, `n_namesz` bytes with its NULs.
        type: n_type.
        source, offset, size: Where the descriptor lies.
    """

    raw_name: bytes
    type: int
    source: ByteSource
    offset: int
    size: int

    @property
    def name(self) -> bytes:
        """The name up to the first NUL."""
        return self.raw_name.split(b"\0", 1)[0]

    def desc(self, limit: int = 1 << 24) -> bytes:
        """Return at most `limit` bytes of the descriptor."""
        return self.source.pread(self.offset, min(self.size, limit))

    @property
    def stored_size(self) -> int:
        """Bytes of the note as we write it: header, padded name, padded descriptor."""
        return 12 + (len(self.raw_name) + 3 & ~3) + (self.size + 3 & ~3)

    def header(self, byteorder: ByteOrder) -> bytes:
        """Return header and padded name in the given byte order."""
        mark = "<" if byteorder == "little" else ">"
        head = struct.pack(mark + "III", len(self.raw_name), self.size, self.type)
        return head + self.raw_name + bytes(-len(self.raw_name) % 4)


def build_note(name: bytes, note_type: int, desc: bytes) -> Note:
    """Return a note held in memory; the name gets its NUL."""
    return Note(name + b"\0", note_type, BytesSource(desc), 0, len(desc))


def _skip_zeros(source: ByteSource, offset: int, end: int) -> int:
    # Old kernels leave all-zero headers as padding; a hostile file leaves gigabytes of them.
    while offset < end:
        chunk = source.pread(offset, min(_CHUNK, end - offset))
        stripped = len(chunk) - len(chunk.lstrip(b"\0"))
        if stripped < len(chunk):
            return offset + (stripped & ~3)
        offset += len(chunk)
    return end


def parse_notes(source: ByteSource, offset: int, size: int, byteorder: ByteOrder) -> tuple[list[Note], str | None]:
    """Walk the notes in [offset, offset + size).

    Returns:
        The notes in file order, and what stopped the walk early, if anything did (a remark for the user:
        the notes before it are good).

    Raises:
        TruncatedDump: The range is not in the source.
        CorruptDump: More notes than any machine has.
    """
    mark = "<III" if byteorder == "little" else ">III"
    notes: list[Note] = []
    end = offset + size
    while end - offset >= 12:
        namesz, descsz, note_type = struct.unpack(mark, source.pread(offset, 12))
        if namesz == 0 and descsz == 0 and note_type == 0:
            offset = _skip_zeros(source, offset, end)
            continue
        desc_offset = offset + 12 + (namesz + 3 & ~3)
        if namesz > _MAX_NAME or desc_offset + descsz > end:
            return notes, f"note at {offset:#x} claims {namesz} + {descsz} bytes, {end - offset - 12} are left"
        notes.append(Note(source.pread(offset + 12, namesz), note_type, source, desc_offset, descsz))
        if len(notes) > _MAX_NOTES:
            raise CorruptDump(f"more than {_MAX_NOTES} notes", path=source.name, offset=offset)
        offset = desc_offset + (descsz + 3 & ~3)
    return notes, None


def find_note(notes: Iterable[Note], name: bytes, note_type: int | None = None) -> Note | None:
    """Return the first note with exactly this name (and type), or None."""
    for note in notes:
        if note.name == name and (note_type is None or note.type == note_type):
            return note
    return None


def nr_cpus(notes: Iterable[Note]) -> int:
    """Return the number of NT_PRSTATUS notes: CPUs that saved their registers."""
    return sum(1 for note in notes if note.name == b"CORE" and note.type == NT_PRSTATUS)


def prstatus_registers(note: Note, arch: str, byteorder: ByteOrder) -> tuple[int, ...] | None:
    """Return the register words of a PRSTATUS note, None where its size is not the architecture's."""
    if arch not in PRSTATUS_SIZES or note.size != PRSTATUS_SIZES[arch][0]:
        return None
    size, start, length = PRSTATUS_SIZES[arch]
    word = 8 if start == 112 else 4
    mark = "<" if byteorder == "little" else ">"
    return struct.unpack_from(f"{mark}{length // word}{'Q' if word == 8 else 'I'}", note.desc(size), start)
