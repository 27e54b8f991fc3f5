# SPDX-License-Identifier: GPL-2.0-or-later
"""Netdump: what netdump-server of RHEL 2.1 to 4 wrote, and diskdump's savecore for a full, uncompressed dump.

    Ehdr, PT_NOTE, one or more PT_LOADs with p_align = page size, notes, memory from a page border on.
    Notes: one PRSTATUS, PRPSINFO, the panicking task, savecore's dump level; names of 4 bytes without NUL.
    i386: p_filesz cannot say more than 4 GiB; memory is the file behind its header, whatever the PT_LOAD says.

Sheet: docs/formats/netdump.md.
"""

from __future__ import annotations

import os
import struct
from typing import Any, ClassVar

import numpy as np

from .elf_layout import ELF_MAGIC, ET_CORE, PHDR_SIZE, PT_LOAD, PT_NOTE, elf_header, program_header
from .elfcore import ElfCore
from .errors import CorruptDump, DumpError
from .machine import ByteOrder
from .notes import OUR_NAME, Note, find_note, parse_notes
from .reader import parse
from .source import ByteSource

__all__ = ["NetdumpReader"]

_NT_TASKSTRUCT, _NT_DISKDUMP = 4, 0x70000001
_EM_386 = 3
_BLOCK = 4096  # of the header, on every machine
_MAX_NOTES_SIZE = 1 << 16
_SATURATED = 0xFFFF0000  # p_filesz from here on is "4 GiB or more"
_4_GIB = 1 << 32
_INCOMPLETE_NAME = "vmcore-incomplete"


def _is_mark(note: Note) -> bool:
    # a note that only these writers make; a process core's task_struct is larger than two addresses
    if note.name != b"CORE":
        return False
    return note.type == _NT_DISKDUMP or (note.type == _NT_TASKSTRUCT and note.size <= 16)


def _looks_like_netdump(source: ByteSource) -> bool:
    ident = source.pread(0, 16)
    if ident[:4] != ELF_MAGIC or ident[4] not in (1, 2) or ident[5] not in (1, 2):
        return False
    word: int = 4 * ident[4]
    order: ByteOrder = "little" if ident[5] == 1 else "big"
    header = parse(elf_header(order, word), source, 0, "ELF header")
    if header.e_type != ET_CORE or header.e_phnum < 2 or header.e_phentsize != PHDR_SIZE[word]:
        return False
    schema = program_header(order, word)
    first, second = (
        parse(schema, source, header.e_phoff + number * PHDR_SIZE[word], "program header") for number in (0, 1)
    )
    if first.p_type != PT_NOTE or second.p_type != PT_LOAD or not 0 < first.p_filesz <= _MAX_NOTES_SIZE:
        return False
    if second.p_align == 0 or second.p_offset == 0 or second.p_offset % _BLOCK:
        return False
    notes, _ = parse_notes(source, first.p_offset, first.p_filesz, order)
    if not notes or notes[0].name != b"CORE" or any(note.name in (b"VMCOREINFO", OUR_NAME) for note in notes):
        return False
    return len(notes[0].raw_name) == 4 or any(map(_is_mark, notes))


class NetdumpReader(ElfCore):
    """An ELF vmcore of netdump-server or of diskdump's savecore; see `ElfCore`."""

    name: ClassVar[str] = "netdump"
    aligned_to_pages: ClassVar[bool] = True

    @staticmethod
    def probe(source: ByteSource) -> bool:
        """See `DumpReader.probe`: the alignment by which crash tells netdump, and its notes."""
        try:
            return _looks_like_netdump(source)
        except DumpError:
            return False

    def _adjust(self) -> None:
        if os.path.basename(self._source.name).startswith(_INCOMPLETE_NAME):
            self.incomplete = True  # netdump-server renames the file when the client is done
            self.remark("holes", f"the file is called {_INCOMPLETE_NAME}: pages that never came are zeros in it")
        level = self._dump_level()
        if level:
            self.remark("holes", f"savecore's dump level is {level}: pages left out are zeros in the file")
        if self._word_size == 4 and self._header.e_machine == _EM_386:
            if self._nr_loads == 1 and not self._paddr[0]:
                self._extend_to_end()
            else:
                self.remark("segments", f"{self._nr_loads} segments; an i386 netdump has one, from address 0")

    def _extend_to_end(self) -> None:
        # i386: the file behind the header is the memory; p_filesz is its size modulo 2**32, or as much as fits.
        source, header_size, told = self._source, int(self._offset[0]), int(self._filesz[0])
        source.finish()
        if header_size == 0 or header_size > source.size:
            raise CorruptDump(
                f"memory begins at {header_size:#x}, the file has {source.size} bytes", path=source.name, offset=0
            )
        size = source.size - header_size
        whole = max(size, told)
        if size > _4_GIB and told < _SATURATED:
            whole = size + (told - size) % _4_GIB
        if size > told:
            self.remark(
                "above-filesz", f"p_filesz {told:#x} cannot say how much memory is in the file: {whole:#x} bytes"
            )
        self._filesz = self._memsz = np.array([whole], np.uint64)

    # -- notes -----------------------------------------------------------------------------------------------

    def _words(self, note_type: int, size: int) -> tuple[int, ...]:
        # the unsigned words, of `size` bytes each, in a CORE note's descriptor; at most two
        note = find_note(self.notes, b"CORE", note_type)
        if note is None or note.size < size:
            return ()
        raw = note.desc(2 * size if note.size >= 2 * size else size)
        mark = "<" if self._byteorder == "little" else ">"
        return struct.unpack(f"{mark}{len(raw) // size}{'Q' if size == 8 else 'I'}", raw)

    def _dump_level(self) -> int | None:
        words = self._words(_NT_DISKDUMP, 4)
        return words[0] if words else None

    def _more_facts(self) -> dict[str, Any]:
        task = self._words(_NT_TASKSTRUCT, self._word_size)
        return {
            "panic_task": f"{task[0]:#x}" if task else None,
            "switch_stack": f"{task[1]:#x}" if len(task) > 1 else None,
            "dump_level": self._dump_level(),
        }
