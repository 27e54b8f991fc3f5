# SPDX-License-Identifier: GPL-2.0-or-later
"""Section headers of a paravirtual Xen guest's canonical file: the same file is an xc_core file too.

The guest's page tables hold machine frames. crash translates them by the table of an xc_core file (kernels since
4.0 have no list that it can read otherwise), and takes a file for one only if it is no kdump. So the program headers
move behind section headers that name the parts of the file as Xen does: notes, contexts, pages, table. Nothing is
there twice. Everybody else goes by the program headers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..formats.elf_layout import EHDR_SIZE, section_header
from ..formats.machine import Machine
from ..formats.machine_frames import P2M_NOTE, p2m_rows
from ..formats.notes import Note, find_note

__all__ = ["SHDR_SIZE", "Sections", "plan_sections"]

U64 = NDArray[np.uint64]

SHDR_SIZE = {4: 40, 8: 64}
_SHT_PROGBITS, _SHT_STRTAB, _SHT_NOTE = 1, 3, 7
_NAMES = (b".shstrtab", b".note.Xen", b".xen_prstatus", b".xen_shared_info", b".xen_pages", b".xen_p2m")
_HEADER_NOTE, _NOTE_TYPES = 0x2000001, range(0x2000000, 0x2000004)
_ONES = np.uint64(0xFFFFFFFFFFFFFFFF)


@dataclass(frozen=True)
class Sections:
    """What the section headers will say.

    Attributes:
        notes: The file's notes, in order.
        page_size: Bytes of a page.
        nr_vcpus: Contexts in the note `.xen_prstatus`.
    """

    notes: tuple[Note, ...]
    page_size: int
    nr_vcpus: int

    def names(self) -> list[bytes]:
        """Return the names of the sections but the first, in order."""
        there = {note.name for note in self.notes} | {b".shstrtab", b".note.Xen", b".xen_pages"}
        return [name for name in _NAMES if name in there]

    def _strings(self) -> bytes:
        return b"\0" + b"".join(name + b"\0" for name in self.names())

    def size(self, word_size: int) -> int:
        """Return the bytes of section headers and names."""
        return (1 + len(self.names())) * SHDR_SIZE[word_size] + (len(self._strings()) + 7 & ~7)

    @property
    def count(self) -> int:
        """Section headers, the empty first one too."""
        return 1 + len(self.names())

    def build(
        self, machine: Machine, word_size: int, nr_headers: int, places: dict[bytes, tuple[int, int]]
    ) -> Iterator[bytes]:
        """Yield headers and names.

        Args:
            machine: The dumped machine.
            word_size: Of the container.
            nr_headers: Program headers, where their number is in the first section; else 0.
            places: File offset and bytes of the parts by section name.
        """
        schema = section_header(machine.byteorder, word_size)
        empty: dict[str, int] = dict.fromkeys([part.name for part in schema.subcons], 0)
        yield schema.build({**empty, "sh_info": nr_headers})
        strings = self._strings()
        places = {**places, b".shstrtab": (EHDR_SIZE[word_size] + self.count * SHDR_SIZE[word_size], len(strings))}
        at = 1
        for name in self.names():
            kind = {b".shstrtab": _SHT_STRTAB, b".note.Xen": _SHT_NOTE}.get(name, _SHT_PROGBITS)
            offset, size = places[name]
            entry = {
                b".xen_prstatus": size // max(1, self.nr_vcpus),
                b".xen_shared_info": 4096,
                b".xen_pages": self.page_size,
                b".xen_p2m": 16,
            }
            yield schema.build(
                {
                    **empty, "sh_name": at, "sh_type": kind, "sh_offset": offset, "sh_size": size,
                    "sh_addralign": 0 if name not in entry else self.page_size if name == b".xen_pages" else 4,
                    "sh_entsize": entry.get(name, 0),
                }
            )  # fmt: skip
            at += len(name) + 1
        yield strings + bytes(-len(strings) % 8)


def plan_sections(machine: Machine, notes: Sequence[Note], start: U64, end: U64) -> Sections | None:
    """Return the sections that a file with these notes and frames [start, end) has; None for all but PV guests.

    The pages lie back to back in the file: the table must have exactly their frames, in their order.
    """
    table = find_note(notes, P2M_NOTE)
    header = find_note(notes, b"Xen", _HEADER_NOTE)
    if table is None or header is None or header.size < 32:
        return None
    core = [number for number, note in enumerate(notes) if is_core_note(note)]
    if core[-1] - core[0] >= len(core) or any(len(notes[number].raw_name) != 4 for number in core):
        return None  # the section holds them as they are, one after another
    nr_vcpus, nr_pages, page_size = (
        int.from_bytes(header.desc(32)[at : at + 8], machine.byteorder) for at in (8, 16, 24)
    )
    if nr_pages * 16 > table.size or page_size != machine.page_size or not _fits(machine, table, start, end):
        return None
    return Sections(tuple(notes), machine.page_size, nr_vcpus)


def _fits(machine: Machine, table: Note, start: U64, end: U64) -> bool:
    before = np.concatenate([np.zeros(1, np.uint64), np.cumsum(end - start)]).astype(np.uint64)
    done, total = 0, int(before[-1])
    if table.size // 16 < total:
        return False
    for rows in p2m_rows(table, machine.byteorder):
        pfns = rows["pfn"].astype(np.uint64)
        count = min(len(pfns), total - done)
        index = np.arange(done, done + count, dtype=np.uint64)
        run = np.searchsorted(before, index, side="right") - 1
        if bool((pfns[:count] != start[run] + (index - before[run])).any()) or bool((pfns[count:] != _ONES).any()):
            return False
        done += count
    return True


def core_notes_size(notes: Sequence[Note]) -> int:
    """Return how many bytes Xen's own notes take, which stand one after another."""
    return sum(note.stored_size for note in notes if is_core_note(note))


def is_core_note(note: Note) -> bool:
    """Whether it is one of the notes that describe an xc_core file."""
    return note.name == b"Xen" and note.type in _NOTE_TYPES
