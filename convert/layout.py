# SPDX-License-Identifier: GPL-2.0-or-later
"""Where everything lies in a canonical file: pure arithmetic on page map, notes and address map; no I/O.

    Ehdr | PT_NOTE, text alias PT_LOADs, PT_LOADs by p_paddr | section header 0 beyond 65534 | notes | pad | pages

A paravirtual guest's has section headers behind the ELF header (sections.py).

The twelve rules are in docs/canonical.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..formats.arrays import unique
from ..formats.elf_layout import (
    EHDR_SIZE,
    ET_CORE,
    PHDR_SIZE,
    PN_XNUM,
    PT_LOAD,
    PT_NOTE,
    elf_header,
    phdr_dtype,
    section_header,
)
from ..formats.errors import CorruptDump
from ..formats.machine import Machine
from ..formats.notes import Note
from ..formats.pages import MemoryMap, PageState, clip_runs
from ..formats.reader import Finding
from ..formats.vaddr import AddressMap
from .output import Contents, OutputFormat, Piece, note_chunks, place_notes
from .sections import SHDR_SIZE, Sections, core_notes_size, is_core_note, plan_sections

__all__ = ["ElfOutput", "Layout", "absent_runs", "bridge_holes", "plan"]

U64 = NDArray[np.uint64]
_CHUNK = 1 << 16


class Layout(NamedTuple):
    """A planned canonical file.

    Attributes:
        machine: The dumped machine.
        word_size: Of the container: 4 or 8.
        start, end, offset: Columns of the PT_LOADs: frames [start, end) and the file offset of the first.
        vaddr: Column of p_vaddr.
        text: (paddr, vaddr, size, file offset) of the PT_LOADs of further mappings: the kernel's image, and others.
        notes: In file order, ours last.
        note_offset, note_size: Of the PT_NOTE.
        data_start, file_size: Bytes.
        e_flags: ELF header flags.
        sections: Of a paravirtual guest, None for all others.
    """

    machine: Machine
    word_size: int
    start: U64
    end: U64
    offset: U64
    vaddr: U64
    text: tuple[tuple[int, int, int, int], ...]
    notes: tuple[Note, ...]
    note_offset: int
    note_size: int
    data_start: int
    file_size: int
    e_flags: int
    sections: Sections | None = None

    @property
    def nr_headers(self) -> int:
        """Program headers in all."""
        return 1 + len(self.text) + len(self.start)

    def out_runs(self, start_pfn: int, end_pfn: int) -> tuple[U64, U64]:
        """Return (first frame, file offset) of the runs that frames of [start_pfn, end_pfn) fall into."""
        where, _, _ = clip_runs(self.start, self.end, start_pfn, end_pfn)
        return self.start[where], self.offset[where]

    def offset_of(self, pfn: int) -> int | None:
        """Return the file offset of a frame, None where it is in no PT_LOAD."""
        index = int(np.searchsorted(self.end, np.uint64(pfn), side="right"))
        if index == len(self.start) or int(self.start[index]) > pfn:
            return None
        return int(self.offset[index]) + (pfn - int(self.start[index])) * self.machine.page_size

    @property
    def nr_segments(self) -> int:
        """PT_LOADs."""
        return self.nr_headers - 1

    def note_offsets(self) -> Iterator[tuple[Note, int, int]]:
        """See `Plan.note_offsets`."""
        for note, offset in place_notes(self.notes, self.note_offset):
            yield note, 0, offset

    def pieces(self) -> Iterator[Piece]:
        """See `Plan.pieces`: everything before the pages, in order, `data_start` bytes in all."""
        done = 0
        for chunk in self._headers():
            yield Piece(0, done, chunk)
            done += len(chunk)
        yield Piece(0, done, bytes(self.data_start - done))

    def _headers(self) -> Iterator[bytes]:
        order, word = self.machine.byteorder, self.word_size
        xnum = self.nr_headers >= PN_XNUM
        sections = self.sections
        phdr_start = EHDR_SIZE[word] + (sections.size(word) if sections else 0)
        phdr_end = phdr_start + self.nr_headers * PHDR_SIZE[word]
        yield elf_header(order, word).build(
            {
                "ei_mag": b"\x7fELF",
                "ei_class": bytes([word // 4]),
                "ei_data": b"\x01" if order == "little" else b"\x02",
                "ei_version": b"\x01",
                "ei_rest": bytes(9),
                "e_type": ET_CORE,
                "e_machine": self.machine.e_machine,
                "e_version": 1,
                "e_entry": 0,
                "e_phoff": phdr_start,
                "e_shoff": EHDR_SIZE[word] if sections else phdr_end if xnum else 0,
                "e_flags": self.e_flags,
                "e_ehsize": EHDR_SIZE[word],
                "e_phentsize": PHDR_SIZE[word],
                "e_phnum": PN_XNUM if xnum else self.nr_headers,
                "e_shentsize": SHDR_SIZE[word] if xnum or sections else 0,
                "e_shnum": sections.count if sections else 1 if xnum else 0,
                "e_shstrndx": 1 if sections else 0,
            }
        )
        if sections:
            yield from sections.build(self.machine, word, self.nr_headers if xnum else 0, self._places())
        yield from self._program_headers()
        if xnum and not sections:
            names = [part.name for part in section_header(order, word).subcons]
            values: dict[str, int] = dict.fromkeys(names, 0)
            yield section_header(order, word).build({**values, "sh_size": 1, "sh_info": self.nr_headers})
        yield from note_chunks(self.notes, order)

    def _places(self) -> dict[bytes, tuple[int, int]]:
        # where the parts lie that sections name
        places = {
            note.name: (offset, note.size) for note, offset in reversed([*place_notes(self.notes, self.note_offset)])
        }
        first = next(offset for note, offset in place_notes(self.notes, self.note_offset) if is_core_note(note))
        places[b".note.Xen"] = first - 16, core_notes_size(self.notes)  # a header, and "Xen" with its NUL
        places[b".xen_pages"] = self.data_start, self.file_size - self.data_start
        return places

    def _program_headers(self) -> Iterator[bytes]:
        dtype = phdr_dtype(self.machine.byteorder, self.word_size)
        mask = 0xFFFFFFFF if self.word_size == 4 else 0xFFFFFFFFFFFFFFFF
        first = np.zeros(1 + len(self.text), dtype)
        first[0]["p_type"] = PT_NOTE
        first[0]["p_offset"], first[0]["p_filesz"] = self.note_offset, self.note_size
        first[0]["p_memsz"] = self.note_size
        for row, (paddr, vaddr, size, offset) in zip(first[1:], self.text, strict=True):
            row["p_type"], row["p_flags"] = PT_LOAD, 7
            row["p_paddr"], row["p_vaddr"], row["p_offset"] = paddr, vaddr & mask, offset
            row["p_filesz"] = row["p_memsz"] = size
        yield first.tobytes()
        shift = np.uint64(self.machine.page_shift)
        for low in range(0, len(self.start), _CHUNK):
            rows = slice(low, low + _CHUNK)
            table = np.zeros(len(self.start[rows]), dtype)
            table["p_type"], table["p_flags"] = PT_LOAD, 7
            table["p_paddr"] = self.start[rows] << shift
            table["p_vaddr"] = self.vaddr[rows] & np.uint64(mask)
            table["p_offset"] = self.offset[rows]
            table["p_filesz"] = table["p_memsz"] = (self.end[rows] - self.start[rows]) << shift
            yield table.tobytes()


def bridge_holes(start: U64, end: U64, min_run: int) -> tuple[tuple[U64, U64], tuple[U64, U64]]:
    """Join runs whose gap is shorter than `min_run` frames.

    Returns:
        The joined runs, and the gaps that were filled.
    """
    if len(start) < 2:
        return (start, end), (start[:0], end[:0])
    filled = start[1:] - end[:-1] < np.uint64(min_run)
    first = np.concatenate([[True], ~filled])
    last = np.append(np.flatnonzero(first)[1:], len(start)) - 1
    gaps = filled & (start[1:] > end[:-1])
    return (start[first], end[last]), (end[:-1][gaps], start[1:][gaps])


def plan(
    machine: Machine,
    runs: tuple[U64, U64],
    notes: Sequence[Note],
    addresses: AddressMap,
    *,
    e_flags: int,
    force_elf64: bool = False,
    mappings: Sequence[tuple[int, int, int]] = (),
) -> Layout:
    """Plan a file.

    Args:
        machine: The dumped machine.
        runs: Frames to be in PT_LOADs: start and end columns, sorted and disjoint.
        notes: In file order.
        addresses: Where p_vaddr comes from.
        e_flags: Of the ELF header.
        force_elf64: ELFCLASS64 for a 32-bit machine too.
        mappings: (paddr, vaddr, size) of memory that is to have further PT_LOADs, on the same bytes.

    Raises:
        CorruptDump: No frame at all.
    """
    start, end = _split_runs(*runs, addresses, machine.page_shift)
    if not len(start):
        raise CorruptDump("the dump holds no page: nothing to write")
    shift = np.uint64(machine.page_shift)
    pages_before = np.concatenate([np.zeros(1, np.uint64), np.cumsum(end - start, dtype=np.uint64)])
    vaddr = addresses.vaddr(start << shift)
    text = [
        segment
        for mapping in (addresses.text, *mappings)
        for segment in _text_segments(start, end, pages_before, mapping, machine.page_shift)
    ]
    note_size = sum(note.stored_size for note in notes)
    nr_headers = 1 + len(text) + len(start)
    data_size = int(pages_before[-1]) << machine.page_shift
    sections = plan_sections(machine, notes, *runs)

    def place(word_size: int) -> tuple[int, int]:
        extra = SHDR_SIZE[word_size] if nr_headers >= PN_XNUM else 0
        if sections:
            extra = sections.size(word_size)
        note_offset = EHDR_SIZE[word_size] + nr_headers * PHDR_SIZE[word_size] + extra
        data_start = note_offset + note_size + machine.page_size - 1 & ~(machine.page_size - 1)
        return note_offset, data_start

    word_size = _container(machine, int(end[-1]), nr_headers, place(4)[1] + data_size, force_elf64=force_elf64)
    note_offset, data_start = place(word_size)
    offset = (pages_before[:-1] << shift) + np.uint64(data_start)
    placed = tuple((paddr, va, size, data_start + at) for paddr, va, size, at in text)
    return Layout(
        machine, word_size, start, end, offset, vaddr, placed, tuple(notes),
        note_offset, note_size, data_start, data_start + data_size, e_flags, sections,
    )  # fmt: skip


def _container(machine: Machine, end_pfn: int, nr_headers: int, file_size: int, *, force_elf64: bool) -> int:
    # 32-bit machines get ELFCLASS32 while everything fits: addresses, file offsets, the 16-bit header count
    fits = end_pfn << machine.page_shift <= 1 << 32 and file_size < 1 << 32 and nr_headers < PN_XNUM
    return 4 if machine.word_size == 4 and fits and not force_elf64 else 8


def _split_runs(start: U64, end: U64, addresses: AddressMap, page_shift: int) -> tuple[U64, U64]:
    # one PT_LOAD has one p_vaddr: cut where the address map changes
    edges = [edge >> page_shift for edge in addresses.edges()]
    cuts = np.array([edge for edge in edges if 0 < edge < 1 << 55], np.uint64)
    where = np.searchsorted(end, cuts, side="right")
    inside = where < len(start)
    inside[inside] = start[where[inside]] < cuts[inside]
    cuts, where = cuts[inside], where[inside]
    if not len(cuts):
        return start, end
    all_start = unique(np.concatenate([start, cuts]))
    owner = np.searchsorted(end, all_start, side="right")
    all_end = end[owner]
    all_end[:-1] = np.minimum(all_end[:-1], np.where(owner[1:] == owner[:-1], all_start[1:], all_end[:-1]))
    return all_start, all_end


def _text_segments(
    start: U64, end: U64, pages_before: U64, text: tuple[int, int, int] | None, page_shift: int
) -> list[tuple[int, int, int, int]]:
    # the alias points at the same bytes as RAM: one PT_LOAD for each run of the image that is present
    if text is None:
        return []
    paddr, vaddr, size = text
    page_mask = (1 << page_shift) - 1
    low, high = paddr >> page_shift, (paddr + size + page_mask) >> page_shift
    where, clipped_start, clipped_end = clip_runs(start, end, low, high)
    found: list[tuple[int, int, int, int]] = []
    for first, last, own, before in zip(
        clipped_start.tolist(), clipped_end.tolist(), start[where].tolist(), pages_before[:-1][where].tolist(),
        strict=True,
    ):  # fmt: skip
        at = (before + first - own) << page_shift
        segment = (first << page_shift, vaddr - paddr + (first << page_shift), (last - first) << page_shift, at)
        if found and found[-1][0] + found[-1][2] == segment[0] and found[-1][3] + found[-1][2] == at:
            found[-1] = (*found[-1][:2], found[-1][2] + segment[2], found[-1][3])
        else:
            found.append(segment)
    return found


def absent_runs(memory_map: MemoryMap) -> MemoryMap:
    """Return the runs that a canonical file's note records: all that are not STORED."""
    keep = memory_map.state != PageState.STORED
    return MemoryMap(memory_map.start[keep], memory_map.end[keep], memory_map.state[keep])


class ElfOutput(OutputFormat):
    """The canonical ELF vmcore.

    Args:
        maps_kernel: PT_LOADs for all that the kernel maps, for debuggers that know no page tables.
    """

    name: ClassVar[str] = "elf"
    late_headers: ClassVar[bool] = True
    bridges: ClassVar[bool] = True

    def __init__(self, *, maps_kernel: bool = False) -> None:
        self.maps_kernel = maps_kernel

    def plan(self, contents: Contents) -> Layout:
        """See `OutputFormat.plan`."""
        return plan(
            contents.machine,
            contents.runs,
            [*contents.notes, *contents.ours],
            contents.addresses,
            e_flags=int(contents.incomplete),
            force_elf64=contents.elf64,
            mappings=contents.mappings,
        )

    def losses(self, contents: Contents) -> Iterator[Finding]:
        """See `OutputFormat.losses`: none."""
        return iter(())
