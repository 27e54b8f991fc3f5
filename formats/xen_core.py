# SPDX-License-Identifier: GPL-2.0-or-later
"""xc_core: what `xl dump-core`, `xm dump-core` and `virsh dump` write of a Xen guest: an ELF core without segments.

    Ehdr, section headers, .note.Xen, .xen_prstatus, .xen_shared_info, pad, .xen_pages, .xen_p2m or .xen_pfn, .shstrtab

Page i of .xen_pages is frame pfn of row i of the map. .xen_pfn has frames alone: the guest's page tables hold them
too. .xen_p2m has pairs (frame, machine frame): a paravirtual guest, whose page tables hold machine frames.

Sheet: docs/formats/xc_core.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .elf_layout import ELF_MAGIC, ET_CORE, elf_header, section_header
from .errors import CorruptDump, DumpError, TruncatedDump, UnsupportedDump
from .machine import ARCHITECTURES, ByteOrder, Machine
from .machine_frames import MachineFrames, p2m_dtype, pair_runs
from .notes import Note, build_note, parse_notes
from .reader import Options, parse
from .segments import SegmentReader
from .source import ByteSource
from .xen_layout import (
    ALL_ONES,
    FORMAT_VERSION_1,
    MAX_GUEST_PFN,
    NAME_CORE,
    NAME_P2M,
    NAME_PFN,
    NAME_SHARED_INFO,
    NAME_STATUS,
    NOTE_FORMAT_VERSION,
    NOTE_HEADER,
    NOTE_NAME,
    NOTE_VERSION,
    XC_CORE_MAGIC,
    XC_CORE_MAGIC_HVM,
    dumpcore_header,
)
from .xen_registers import CONTEXT_SIZE, context_registers, context_root, register_note

__all__ = ["XenCoreReader"]

_MAX_SECTIONS = 64
_MAX_STRTAB = 1 << 16
_MAX_VCPUS = 8192
_MAX_NOTES = 1 << 20  # bytes; Xen's take 1400
_MAX_SHARED_INFO = 1 << 16
_ROWS = 1 << 16  # of the page map read at a time
_MAX_UNSORTED = 1 << 22  # rows of a map that must be sorted: Xen's are
_CAPABILITIES = 16 + 16 + 64 + 16 + 32 + 32  # offset in the XEN_VERSION note
_ELF_MACHINES = {62: "x86_64", 3: "i386", 40: "arm", 183: "aarch64", 50: "ia64"}
U64 = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class _Section:
    name: bytes
    offset: int
    size: int
    entsize: int


def _read_header(source: ByteSource) -> tuple[Any, ByteOrder, int]:
    ident = source.pread(0, 16)
    byteorder: ByteOrder = "little" if ident[5] == 1 else "big"
    word_size = 4 * ident[4]
    return parse(elf_header(byteorder, word_size), source, 0, "ELF header"), byteorder, word_size


def _read_sections(source: ByteSource, header: Any, byteorder: ByteOrder, word_size: int) -> list[_Section]:
    # Raises DumpError where the table or the names cannot be read.
    schema = section_header(byteorder, word_size)
    if header.e_shnum > _MAX_SECTIONS or header.e_shnum <= header.e_shstrndx:
        raise CorruptDump(
            f"ELF header: {header.e_shnum} sections with their names in section {header.e_shstrndx}, at most "
            f"{_MAX_SECTIONS} are expected",
            path=source.name,
        )
    if header.e_shentsize < schema.sizeof():
        raise CorruptDump(f"ELF header: e_shentsize {header.e_shentsize} < {schema.sizeof()}", path=source.name)
    raw = [
        parse(schema, source, header.e_shoff + number * header.e_shentsize, f"section header {number}")
        for number in range(header.e_shnum)
    ]
    strings = raw[header.e_shstrndx]
    names = source.pread(strings.sh_offset, min(strings.sh_size, _MAX_STRTAB))
    found = []
    for number, section in enumerate(raw):
        if section.sh_name >= len(names) and number:
            raise CorruptDump(
                f"section {number} has its name at {section.sh_name}, the names have {len(names)} bytes",
                path=source.name,
            )
        name = names[section.sh_name :].split(b"\0", 1)[0]
        found.append(_Section(name, section.sh_offset, section.sh_size, section.sh_entsize))
    return found


class XenCoreReader(SegmentReader):
    """An xc_core ELF file.

    Args:
        sources: One file.
        options: See `Options`.

    Raises:
        CorruptDump, TruncatedDump: The sections contradict themselves or the file.
        UnsupportedDump: No page map, or a machine that the sheet does not have.
    """

    name: ClassVar[str] = "xc_core"

    def __init__(self, sources: tuple[ByteSource, ...], options: Options) -> None:
        super().__init__(sources)
        self._source = sources[0]
        self._source.finish()  # the page map lies behind the pages
        self.scanned = True
        self._header, self._byteorder, self._word_size = _read_header(self._source)
        found = _read_sections(self._source, self._header, self._byteorder, self._word_size)
        self._sections = {section.name: section for section in reversed(found)}
        self._read_notes()
        self.machine = self._tell_machine(options)
        self._read_map()
        self._make_notes()
        self._describe()

    @staticmethod
    def probe(source: ByteSource) -> bool:
        """See `DumpReader.probe`."""
        try:
            if source.size < 64 or source.pread(0, 4) != ELF_MAGIC or source.pread(6, 1) != b"\1":
                return False
            ident = source.pread(4, 2)
            if ident[0] not in (1, 2) or ident[1] not in (1, 2):
                return False
            header, _, _ = _read_header(source)
            # no segments, but sections: nobody else writes such a core
            return bool(header.e_type == ET_CORE and header.e_phnum == 0 and header.e_shnum > 1)
        except DumpError:
            return False

    # -- notes ---------------------------------------------------------------------------------------------------

    def _read_notes(self) -> None:
        section = self._sections.get(NAME_CORE)
        found: list[Note] = []
        if section is not None:
            size = max(0, min(section.size, self._source.size - section.offset, _MAX_NOTES))
            found, stopped = parse_notes(self._source, section.offset, size, self._byteorder)
            if stopped:
                self.remark("notes-damaged", stopped)
        # Xen writes the name "Xen"; libkdumpfile looks for the section's name.
        self._xen_notes = [note for note in found if note.name in (NOTE_NAME, NAME_CORE)]
        self._core = None
        for note in self._xen_notes:
            if note.type == NOTE_HEADER and note.size >= 32:
                self._core = self._core_header(note)
            elif note.type == NOTE_FORMAT_VERSION and note.size >= 8:
                version = int.from_bytes(note.desc(8), self._byteorder)
                if version not in FORMAT_VERSION_1:
                    raise UnsupportedDump(
                        f"xc_core format version {version:#x}, 1 is known", path=self._source.name, offset=note.offset
                    )
        if self._core is None:
            self.remark("no-header-note", "no note says how many pages and CPUs there are: the sections count")

    def _core_header(self, note: Note) -> Any:
        header = parse(dumpcore_header(self._byteorder), note.source, note.offset, "note HEADER")
        if header.xch_magic not in (XC_CORE_MAGIC, XC_CORE_MAGIC_HVM):
            raise CorruptDump(
                f"note HEADER has magic {header.xch_magic:#x}, {XC_CORE_MAGIC:#x} and {XC_CORE_MAGIC_HVM:#x} are known",
                path=self._source.name,
                offset=note.offset,
            )
        return header

    def _capabilities(self) -> bytes:
        for note in self._xen_notes:
            if note.type == NOTE_VERSION:
                return note.desc(4096)[_CAPABILITIES : _CAPABILITIES + 1024].split(b"\0", 1)[0]
        return b""

    def _tell_machine(self, options: Options) -> Machine:
        e_machine = self._header.e_machine
        name = options.machine or _ELF_MACHINES.get(e_machine)
        if name == "arm" and not options.machine and b"aarch64" in self._capabilities():
            # Xen writes EM_ARM for both
            name = "aarch64"
            self.remark("arm", "e_machine is ARM's on a 64-bit host: aarch64 is assumed (--machine overrides)")
        if name is None:
            raise UnsupportedDump(f"ELF machine {e_machine} is not one of Xen's", path=self._source.name, offset=18)
        arch = ARCHITECTURES[name]
        noted = self._core.xch_page_size if self._core is not None else 0
        page_size = options.page_size or noted or arch.page_size
        if page_size & (page_size - 1) or not 4096 <= page_size <= 1 << 20:
            raise CorruptDump(
                f"note HEADER has page size {page_size}, no power of two from 4096 to 1048576",
                path=self._source.name,
                hint="--page-size overrides",
            )
        return Machine(arch.name, self._byteorder, arch.word_size, page_size, arch.e_machine)

    # -- the page map --------------------------------------------------------------------------------------------

    def _whole(self, section: _Section, what: str) -> None:
        if section.offset + section.size > self._source.size:
            raise TruncatedDump(
                f"{what} at {section.offset:#x}, {section.size} bytes, reaches past the end of the file "
                f"({self._source.size})",
                path=self._source.name,
                offset=section.offset,
                hint="it says which frames the pages are: without it nothing can be told",
            )

    def _read_map(self) -> None:
        pages = self._sections.get(b".xen_pages")
        table = self._sections.get(NAME_P2M) or self._sections.get(NAME_PFN)
        if pages is None or table is None:
            raise UnsupportedDump(
                "an ELF core without segments that has no section .xen_pages with .xen_p2m or .xen_pfn",
                path=self._source.name,
            )
        self._whole(table, table.name.decode())
        self._paired = table.name == NAME_P2M
        row_size = 16 if self._paired else 8
        page_size = self.machine.page_size
        nr_rows, nr_pages = table.size // row_size, pages.size // page_size
        claimed = self._core.xch_nr_pages if self._core is not None else nr_rows
        if len({claimed, nr_rows, nr_pages}) > 1:
            self.remark(
                "nr-pages", f"the note says {claimed} pages, {table.name.decode()} {nr_rows}, .xen_pages {nr_pages}"
            )
        self._table, self._nr_rows, self._row_size = table, nr_rows, row_size
        pfn, index, count = self._runs()
        shift = np.uint64(self.machine.page_shift)
        there = np.uint64(max(0, min(pages.size, self._source.size - pages.offset)) >> self.machine.page_shift)
        stored = np.minimum(np.maximum(there, index) - index, count)
        if bool((stored < count).any()):
            missing = int((count - stored).sum())
            kind = TruncatedDump if pages.offset + pages.size > self._source.size else CorruptDump
            self.damage = kind(
                f".xen_pages at {pages.offset:#x} has {int(there)} pages in the file, the map names {nr_rows}: "
                f"{missing} frames have none",
                path=self._source.name,
                hint="use --salvage for what is whole",
            )
        offset = np.uint64(pages.offset) + (index << shift)
        self.lay_out(pfn << shift, stored << shift, count << shift, offset)

    def _rows(self) -> Iterator[tuple[int, U64, U64 | None]]:
        # (number of the first row, frames, machine frames) of the table, some rows at a time
        mark = "<" if self._byteorder == "little" else ">"
        dtype = p2m_dtype(self._byteorder) if self._paired else np.dtype(mark + "u8")
        for first in range(0, self._nr_rows, _ROWS):
            count = min(_ROWS, self._nr_rows - first)
            raw = self._source.pread(self._table.offset + first * self._row_size, count * self._row_size)
            part = np.frombuffer(raw, dtype)
            if self._paired:
                yield first, part["pfn"].astype(np.uint64), part["gmfn"].astype(np.uint64)
            else:
                yield first, part.astype(np.uint64), None

    def _runs(self) -> tuple[U64, U64, U64]:
        # runs of frames that are neighbours, as are their pages: (first frame, first page, count), sorted, disjoint
        parts: list[tuple[U64, U64, U64]] = []
        self._nr_invalid = 0
        in_order, end = True, 0
        for first, frames, _ in self._rows():
            valid = frames != np.uint64(ALL_ONES)
            self._nr_invalid += len(frames) - int(valid.sum())
            pfn, index = frames[valid], np.arange(first, first + len(frames), dtype=np.uint64)[valid]
            if not len(pfn):
                continue
            if int(pfn.max()) >= MAX_GUEST_PFN:
                row = int(index[np.argmax(pfn)])
                raise CorruptDump(
                    f"row {row} of {self._table.name.decode()} has pfn {int(pfn.max()):#x}, the limit is "
                    f"{MAX_GUEST_PFN:#x}",
                    path=self._source.name,
                    offset=self._table.offset + row * self._row_size,
                )
            parts.append(pair_runs(pfn, index))
            in_order &= end <= int(pfn[0]) and bool((pfn[1:] > pfn[:-1]).all())
            end = int(pfn[-1]) + 1
            if not in_order and first > _MAX_UNSORTED:
                raise CorruptDump(
                    f"{self._table.name.decode()} has {self._nr_rows} rows that are not sorted, the limit is "
                    f"{_MAX_UNSORTED}",
                    path=self._source.name,
                    offset=self._table.offset,
                )
        if not parts:
            none = np.empty(0, np.uint64)
            return none, none, none
        pfn, index, count = (np.concatenate([part[at] for part in parts]) for at in range(3))
        return (pfn, index, count) if in_order else self._sort(pfn, index, count)

    def _sort(self, pfn: U64, index: U64, count: U64) -> tuple[U64, U64, U64]:
        # A foreign writer's: one row a page, sorted; of several pages of one frame the last counts.
        size = count.astype(np.int64)
        inside = (np.arange(int(size.sum())) - np.repeat(np.cumsum(size) - size, size)).astype(np.uint64)
        pfns, pages = np.repeat(pfn, size) + inside, np.repeat(index, size) + inside
        order = np.argsort(pfns, kind="stable")
        pfns, pages = pfns[order], pages[order]
        last = np.append(pfns[1:] != pfns[:-1], True)
        again = int((~last).sum())
        self.remark(
            "unsorted", f"the map is not sorted; {again} pages are of a frame that comes again: the last counts"
        )
        return pair_runs(pfns[last], pages[last])

    # -- registers and what else the notes keep ---------------------------------------------------------------------

    def _contexts(self) -> tuple[bytes, int]:
        # all contexts and the bytes from one to the next
        section = self._sections.get(NAME_STATUS)
        raw = b""
        count = 0
        if section is not None and section.entsize and self._source.size > section.offset:
            count = min(section.size, self._source.size - section.offset) // section.entsize
            claimed = self._core.xch_nr_vcpus if self._core is not None else count
            if count != claimed:
                self.remark("nr-vcpus", f"the note says {claimed} CPUs, .xen_prstatus has {count}")
            if count > _MAX_VCPUS:
                raise CorruptDump(
                    f".xen_prstatus claims {count} CPUs, the limit is {_MAX_VCPUS}", path=self._source.name
                )
            if section.entsize <= 2 * CONTEXT_SIZE[8]:
                raw = self._source.pread(section.offset, count * section.entsize)
        self._nr_vcpus = count
        return raw, section.entsize if section is not None else 0

    def _make_notes(self) -> None:
        raw, entsize = self._contexts()
        if self.machine.arch in ("x86_64", "i386"):
            self._registers(raw, entsize)
        elif self._nr_vcpus:
            self.remark("registers", f"contexts of {self.machine.arch} are not known: kept as they are")
        self.notes += [note for note in self._xen_notes if note.name == NOTE_NAME]
        if raw:
            self.notes.append(build_note(NAME_STATUS, 0, raw))
        shared = self._sections.get(NAME_SHARED_INFO)
        if shared is not None and shared.size <= _MAX_SHARED_INFO and shared.offset + shared.size <= self._source.size:
            self.notes.append(Note(NAME_SHARED_INFO + b"\0", 0, self._source, shared.offset, shared.size))
        if self._paired:
            self.machine_frames = MachineFrames.from_pairs(_pairs(self._rows()))
            if self._nr_rows and self._table.size < 1 << 32:
                self.notes.append(Note(NAME_P2M + b"\0", 0, self._source, self._table.offset, 16 * self._nr_rows))

    def _registers(self, raw: bytes, entsize: int) -> None:
        # The structure of a PV guest is its own; of others it is the 64-bit one. The stride is the toolstack's.
        hvm = self._core is not None and self._core.xch_magic == XC_CORE_MAGIC_HVM
        word_size = 8 if hvm or (entsize >= CONTEXT_SIZE[8] and self._header.e_machine == 62) else 4
        if word_size == 4 and self.machine.arch == "x86_64" and entsize >= CONTEXT_SIZE[8]:
            word_size = 8  # --machine says so
        if not raw or entsize < CONTEXT_SIZE[word_size]:
            return
        for cpu in range(len(raw) // entsize):
            context = raw[cpu * entsize : (cpu + 1) * entsize]
            registers = context_registers(context, word_size)
            self.notes.append(register_note(registers, self.machine.arch, self._byteorder, cpu))
            root = context_root(context, word_size)
            if root and self.machine.arch == "x86_64":
                self.page_table_roots.append((root, f"CR3 of vcpu {cpu}"))

    def _describe(self) -> None:
        names = [name.decode("latin-1") for name in self._sections if name]
        guest = "PV" if self._paired else "auto-translated"
        if self._core is not None and self._core.xch_magic == XC_CORE_MAGIC_HVM:
            guest = "HVM or PVH"
        version = next((note.desc(16) for note in self._xen_notes if note.type == NOTE_VERSION), b"")
        self.facts = {
            "class": 8 * self._word_size,
            "guest": guest,
            "vcpus": self._nr_vcpus,
            "rows": self._nr_rows,
            "empty_rows": self._nr_invalid,
            "sections": sorted(names),
        }
        if len(version) == 16:
            major, minor = (int.from_bytes(version[at : at + 8], self._byteorder) for at in (0, 8))
            self.facts["xen"] = f"{major}.{minor}"


def _pairs(rows: Iterator[tuple[int, U64, U64 | None]]) -> Iterator[tuple[U64, U64]]:
    for _, pfn, mfn in rows:
        if mfn is not None:
            valid = (pfn != np.uint64(ALL_ONES)) & (mfn != np.uint64(ALL_ONES))
            yield pfn[valid], mfn[valid]
