# SPDX-License-Identifier: GPL-2.0-or-later
"""What all ELF vmcores share: elf.py and netdump.py read them by this base, each with its own quirks.

    Ehdr, program headers (at 192 in newer QEMU), notes, segments. p_paddr counts; p_vaddr is a remark.
    p_filesz < p_memsz: the tail was left out. Segments may overlap: the kernel's text is there twice.

Sheet: docs/formats/elf.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .elf_layout import (
    ALL_ONES,
    E_FLAGS_INCOMPLETE,
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
from .errors import CorruptDump, TruncatedDump, UnsupportedDump
from .intervals import inside_larger, text_range, union
from .machine import ARCHITECTURES, Architecture, ByteOrder, Machine, from_e_machine
from .notes import OUR_NAME, XEN_CRASH_INFO, XEN_NAMES, Note, find_note, parse_notes
from .pages import MemoryMap, PageState
from .reader import SEGMENT, Options, parse
from .segments import SegmentReader, reach
from .source import ByteSource
from .statenote import TYPE_PROVENANCE, PageStates, parse_state_notes, take_our_notes

__all__ = ["ElfCore"]

_PHDR_BYTES = 4 << 20  # of the program header table read at a time
# e_machine of architectures whose own ABI uses bit 0 of e_flags: mips, ppc64, arm, riscv
_E_FLAGS_TAKEN = (8, 21, 40, 243)
_MAX_NOTE_SEGMENTS = 4096
_EM_S390 = 22
_NT_S390_PV_CPU_DATA = 0x30E


class ElfCore(SegmentReader):
    """An ELF core file of a machine. A format may override `_adjust` and `_more_facts`.

    Attributes:
        aligned_to_pages: Whether p_align is the page size in every file of the format.

    Args:
        sources: One file.
        options: See `Options`.

    Raises:
        CorruptDump, TruncatedDump: The headers contradict themselves or the file.
        UnsupportedDump: An ELF file, but no core, or of a machine that is not known.
    """

    aligned_to_pages: ClassVar[bool] = False

    def __init__(self, sources: tuple[ByteSource, ...], options: Options) -> None:
        super().__init__(sources)
        self._options = options
        self._source = sources[0]
        self._read_header()
        self._read_program_headers()
        self._read_notes()
        self.machine = self._tell_machine()
        self._adjust()
        self._clip_to_file()
        self.lay_out(
            self._paddr,
            self._stored,
            self._filesz,
            self._offset,
            is_text=self._which_yield(),
            tails=self._tails(),
            tail_zero=options.tail_zero,
        )
        self._apply_our_notes()
        self._describe()

    # -- what formats differ in --------------------------------------------------------------------------------

    def _adjust(self) -> None:
        # change the columns of the PT_LOADs and what is known of them, before they are held against the file
        pass

    def _default_page_size(self, arch: Architecture) -> tuple[int, bool]:
        # bytes of a page where no note says, and whether that is no more than likely
        align = int(self._align[0]) if self.aligned_to_pages and len(self._align) else 0
        if 4096 <= align <= 1 << 20 and align & (align - 1) == 0:
            return align, False
        return arch.page_size, not arch.fixed_page_size

    def _more_facts(self) -> dict[str, Any]:
        return {}

    # -- headers ---------------------------------------------------------------------------------------------

    def _corrupt(self, message: str, offset: int = 0) -> CorruptDump:
        return CorruptDump(f"ELF header: {message}", path=self._source.name, offset=offset)

    def _read_header(self) -> None:
        source = self._source
        ident = source.pread(0, 16)
        if ident[4] not in (1, 2) or ident[5] not in (1, 2) or ident[6] != 1:
            raise UnsupportedDump(
                f"ELF class {ident[4]}, data {ident[5]}, version {ident[6]}: 1 or 2, 1 or 2, and 1 are known",
                path=source.name,
                offset=4,
            )
        self._word_size = 4 * ident[4]
        self._byteorder: ByteOrder = "little" if ident[5] == 1 else "big"
        header = parse(elf_header(self._byteorder, self._word_size), source, 0, "ELF header")
        if header.e_type != ET_CORE:
            raise UnsupportedDump(
                f"ELF file of type {header.e_type}, not a core dump (4)", path=source.name, hint="is it a vmlinux?"
            )
        if header.e_version != 1:
            raise UnsupportedDump(f"ELF version {header.e_version}, 1 is known", path=source.name, offset=20)
        self._header = header
        self._check_table()

    def _check_table(self) -> None:
        # how many program headers there are, and that they are in the file
        source, header = self._source, self._header
        if header.e_phentsize < PHDR_SIZE[self._word_size]:
            raise self._corrupt(f"e_phentsize {header.e_phentsize} < {PHDR_SIZE[self._word_size]}")
        if header.e_phoff < EHDR_SIZE[self._word_size]:
            raise self._corrupt(f"program headers at {header.e_phoff:#x} overlap the ELF header")
        self._phnum = header.e_phnum
        if header.e_phnum == PN_XNUM:
            if header.e_shoff == 0:
                raise self._corrupt("65535 program headers and no section header that has the real count")
            section = parse(
                section_header(self._byteorder, self._word_size), source, header.e_shoff, "section header 0"
            )
            self._phnum = section.sh_info
        end = header.e_phoff + self._phnum * header.e_phentsize
        if end > source.size:
            raise TruncatedDump(
                f"{self._phnum} program headers of {header.e_phentsize} bytes at {header.e_phoff:#x} end at {end:#x}, "
                f"the file has {source.size} bytes",
                path=source.name,
            )

    def _read_program_headers(self) -> None:
        header = self._header
        dtype = phdr_dtype(self._byteorder, self._word_size)
        size = header.e_phentsize
        columns: dict[str, list[NDArray[np.uint64]]] = {
            name: [] for name in ("p_offset", "p_vaddr", "p_paddr", "p_filesz", "p_memsz", "p_align")
        }
        self._note_segments: list[tuple[int, int]] = []
        for first, count in self._rows_to_read(size):
            raw = np.frombuffer(self._source.pread(header.e_phoff + first * size, count * size), np.uint8)
            table = np.ascontiguousarray(raw.reshape(count, size)[:, : dtype.itemsize]).view(dtype).reshape(-1)
            loads = table[table["p_type"] == PT_LOAD]
            for name, parts in columns.items():
                parts.append(loads[name].astype(np.uint64))
            notes = table[table["p_type"] == PT_NOTE]
            pairs = zip(notes["p_offset"].tolist(), notes["p_filesz"].tolist(), strict=True)
            self._note_segments += [pair for pair in pairs if pair[1]]
            if len(self._note_segments) > _MAX_NOTE_SEGMENTS:
                raise self._corrupt(f"more than {_MAX_NOTE_SEGMENTS} note segments")
        joined = {name: np.concatenate(parts) if parts else np.empty(0, np.uint64) for name, parts in columns.items()}
        self._offset, self._vaddr, self._paddr, self._filesz, self._memsz, self._align = joined.values()
        self._nr_loads = len(self._paddr)
        if self._phnum and not self._nr_loads and not self._note_segments and not self._header.e_shoff:
            self.damage = self._corrupt(
                f"none of its {self._phnum} program headers is of memory or notes: they are damaged",
                header.e_phoff,
            )

    def _rows_to_read(self, size: int) -> Iterator[tuple[int, int]]:
        # (first, count) of program headers of `size` bytes that may be read at once: a stream's end is not known, so
        # no claim of the header is allocated whole. In a hole of the file all are PT_NULL.
        source, start, step = self._source, self._header.e_phoff, _PHDR_BYTES // size
        end = start + self._phnum * size
        whole = source.is_stream or source.live
        ranges = iter([(start, end)]) if whole else source.data_ranges(start, end)
        done = 0
        for low, high in ranges:
            stop = -(-(high - start) // size)
            for first in range(max(done, (low - start) // size), stop, step):
                yield first, min(step, stop - first)
            done = stop

    def _read_notes(self) -> None:
        found: list[Note] = []
        for offset, claimed in self._note_segments:
            size = claimed
            if offset + size > self._source.size:
                self.damage = self.damage or TruncatedDump(
                    f"notes at {offset:#x}, {size} bytes, reach past the end of the file ({self._source.size})",
                    path=self._source.name,
                    offset=offset,
                )
                size = max(0, self._source.size - offset)
            notes, stopped = parse_notes(self._source, offset, size, self._byteorder)
            found += notes
            if stopped:
                self.remark("notes-damaged", stopped)
        self._refuse_encrypted(found)
        self.notes, self._our_notes = take_our_notes(found)
        self._states = self._parse_our_notes()
        newer = sum(note.name == OUR_NAME for note in self.notes)
        if newer:
            self.remark("unknown-note", f"{newer} DUMPCONV notes of types not known here: carried over as they are")
        # In our own files the bit always means it.
        means_it = bool(self._our_notes) or self._header.e_machine not in _E_FLAGS_TAKEN
        self.incomplete = means_it and bool(self._header.e_flags & E_FLAGS_INCOMPLETE)

    def _refuse_encrypted(self, notes: list[Note]) -> None:
        if self._header.e_machine == _EM_S390 and any(note.type == _NT_S390_PV_CPU_DATA for note in notes):
            raise UnsupportedDump(
                "the dump of a protected guest (Secure Execution): its memory and registers are encrypted",
                path=self._source.name,
                hint="decrypt it by zgetdump --key on the system that has the customer communication key",
            )

    def _parse_our_notes(self) -> PageStates | None:
        try:
            return parse_state_notes(self._our_notes)
        except CorruptDump as error:
            if not self._options.salvage:
                raise
            self.damage = self.damage or error
            return None

    def _noted_page_size(self) -> int | None:
        return 1 << self._states.page_shift if self._states and self._states.page_shift else None

    def _tell_machine(self) -> Machine:
        options, e_machine = self._options, self._header.e_machine
        arch = ARCHITECTURES[options.machine] if options.machine else from_e_machine(e_machine, self._word_size)
        if arch.name.startswith("unknown"):
            raise UnsupportedDump(f"ELF machine {e_machine} is not known", path=self._source.name, offset=18)
        info = self.vmcoreinfo
        page_size = options.page_size or self._noted_page_size()
        if info is not None and page_size is None and info.page_size is None and info.text("PAGESIZE"):
            raise CorruptDump(
                f"VMCOREINFO says PAGESIZE={info.text('PAGESIZE')}, which is no power of two in 4096 to 1048576",
                path=self._source.name,
                hint="--page-size overrides",
            )
        page_size = page_size or (info.page_size if info else None)
        if page_size is None:
            page_size, doubtful = self._default_page_size(arch)
            if doubtful:
                self.remark(
                    "page-size-assumed", f"no VMCOREINFO: page size {page_size} is assumed (--page-size overrides)"
                )
        return Machine(arch.name, self._byteorder, arch.word_size, page_size, arch.e_machine)

    # -- segments ----------------------------------------------------------------------------------------------

    def _clip_to_file(self) -> None:
        # Drop what has no physical address, clip what claims too much; every clip is told.
        ones = np.uint64(ALL_ONES if self._word_size == 8 else 0xFFFFFFFF)
        no_paddr = (self._paddr == ones) & ((self._memsz > 0) | (self._filesz > 0))
        if no_paddr.any():
            self.remark("no-paddr", f"{int(no_paddr.sum())} segments have no physical address: left out")
        keep = ~no_paddr & ((self._memsz > 0) | (self._filesz > 0))
        for name in ("_offset", "_vaddr", "_paddr", "_filesz", "_memsz", "_align"):
            setattr(self, name, getattr(self, name)[keep])
        too_big = self._filesz > self._memsz
        if too_big.any():
            self.remark("filesz", f"{int(too_big.sum())} segments have p_filesz > p_memsz: the smaller is used")
            self._filesz = np.minimum(self._filesz, self._memsz)
        room = np.uint64(0) - self._paddr  # 2**64 - paddr; 0 for paddr 0, where nothing is too large
        wraps = (room > 0) & (self._memsz > room)
        if wraps.any():
            self.remark("wraps", f"{int(wraps.sum())} segments reach past 2**64: clipped")
            self._memsz[wraps] = room[wraps]
            self._filesz = np.minimum(self._filesz, self._memsz)
        if (self._paddr + self._memsz == np.uint64(ALL_ONES)).any():  # an end that 64 bits and `reach` cannot tell
            self.remark("last-byte", "a segment ends one byte below 2**64: its last byte is left out")
        self._find_truncation()

    def _find_truncation(self) -> None:
        size = self._source.size
        room = np.uint64(size) - np.minimum(self._offset, np.uint64(size))
        stored = np.minimum(self._filesz, room)
        short = np.flatnonzero(stored < self._filesz)
        if len(short) and self.incomplete:  # the disk was full, and the writer said so
            self.remark("cut", f"{len(short)} segments end past the end of the file ({size}): the rest is lost")
        elif len(short) and self.damage is None:
            first = int(short[0])
            self.damage = TruncatedDump(
                f"segment of physical address {int(self._paddr[first]):#x} needs file bytes up to "
                f"{int(self._offset[first]) + int(self._filesz[first]):#x}, the file has {size}",
                path=self._source.name,
                hint="use --salvage for what is whole",
            )
        self._stored = stored

    def _which_yield(self) -> NDArray[np.bool_]:
        # The kernel image's second mapping yields to RAM. But makedumpfile -E blanks what it was told to erase in
        # that mapping alone: there its bytes are what the user wants to be seen.
        is_text = self._is_text()
        if find_note(self.notes, b"ERASEINFO") is None or self._our_notes or not is_text.any():
            return is_text
        self.preferred = "the erased ones"
        return np.logical_not(is_text)

    def _tails(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        return union(reach(self._paddr, self._filesz), reach(self._paddr, self._memsz))

    def _is_text(self) -> NDArray[np.bool_]:
        # The kernel's image, mapped a second time: by its address, or as it lies inside a larger segment.
        low, high = text_range(self.machine.arch)
        by_address = (self._vaddr >= np.uint64(low)) & (self._vaddr < np.uint64(high))
        return by_address | inside_larger(self._paddr, reach(self._paddr, self._filesz))

    # -- our own notes -------------------------------------------------------------------------------------------

    def _apply_our_notes(self) -> None:
        states = self._states
        provenance = find_note(self._our_notes, OUR_NAME, TYPE_PROVENANCE)
        if provenance is not None:
            self.provenance = provenance.desc()
        if states is None:
            return
        absent = self.noted_absent = states.absent
        stored = self.memory_map
        filled = MemoryMap.from_columns(*states.fill, int(PageState.STORED))
        overlap, nr_filled = _overlap(absent, stored), filled.count(PageState.STORED)
        wrong = f"the page-state note calls {overlap} frames absent that the program headers hold" if overlap else ""
        if _overlap(filled, stored) != nr_filled:
            wrong = f"the page-state note calls {nr_filled} frames filled that the program headers do not all hold"
        if wrong:
            error = CorruptDump(wrong, path=self._source.name, hint="use --salvage to go by the program headers")
            if not self._options.salvage:
                raise error
            self.damage = self.damage or error
            return
        if nr_filled:
            stored, self.fill_runs = self._without_fill(stored, states.fill)
        self.memory_map = stored.overlay(absent)
        present = self.memory_map.states_at(states.partial[:, 0]) == PageState.STORED
        self.partial = states.partial[present]
        self.recorded_digest = states.content_digest
        self.recorded_state_digest = states.state_digest

    def _without_fill(
        self, stored: MemoryMap, fill: tuple[NDArray[np.uint64], NDArray[np.uint64]]
    ) -> tuple[MemoryMap, tuple[NDArray[np.uint64], NDArray[np.uint64]]]:
        # split pieces at the fill's edges, so that no extent crosses one
        shift = np.uint64(self.machine.page_shift)
        self.pieces = self.pieces.split(np.concatenate([fill[0], fill[1]]) << shift)
        marked = stored.overlay(MemoryMap.from_columns(fill[0], fill[1], 255))
        keep = marked.state != 255
        return MemoryMap(marked.start[keep], marked.end[keep], marked.state[keep]), fill

    # -- description -----------------------------------------------------------------------------------------

    def _describe(self) -> None:
        self.segments = np.empty(len(self._paddr), SEGMENT)
        self.segments["paddr"], self.segments["vaddr"] = self._paddr, self._vaddr
        self.segments["size"] = self._memsz
        header = self._header
        self.facts = {
            "class": 8 * self._word_size,
            "e_flags": header.e_flags,
            "e_phoff": header.e_phoff,
            "program_headers": self._phnum,
            "load_segments": self._nr_loads,
            "canonical": self.provenance is not None,
            **self._more_facts(),
        }
        if any(find_note(self.notes, name, XEN_CRASH_INFO) is not None for name in XEN_NAMES):
            self.facts["xen_host"] = True  # all guests are inside: --view dom0 shows the first
        tails = int((self._memsz > self._filesz).sum())
        if tails and not self._options.tail_zero:
            self.remark(
                "tail",
                f"{tails} segments have p_filesz < p_memsz: the rest is excluded or zero, the writer did not say "
                "(--tail-zero makes it zeros)",
            )
        if len(self._paddr) > 1 and not self._paddr.any():
            self.remark("userland", "all physical addresses are 0: this looks like a process core, not a vmcore")


def _overlap(first: MemoryMap, second: MemoryMap) -> int:
    # frames that both know
    total = sum(first.count(state) for state in PageState) + sum(second.count(state) for state in PageState)
    both = first.overlay(second)
    return total - sum(both.count(state) for state in PageState)
