# SPDX-License-Identifier: GPL-2.0-or-later
"""Compressed kdump: what makedumpfile -c/-l/-p/-z and QEMU's kdump-* formats write, alone or as a split set.

    0        main header, one block                        B = (1 + sub_hdr_size) * block_size
    block    sub header, then VMCOREINFO or ELF notes
    B        1st bitmap: frames that exist; 2nd bitmap, half of bitmap_blocks later: frames that are stored
    D        page descriptors, 24 bytes, one for each set bit of the 2nd bitmap, in frame order
    ...      page data anywhere; several descriptors may share one place (the zero page)

Sheet: docs/formats/kdump.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .bitmap import BitmapPair, RankIndex, bitmap_chunks, state_runs
from .descriptors import (
    DESC_SIZE,
    DESCRIPTORS_AT_ONCE,
    Descriptors,
    descriptor_rows,
    empty_map,
    is_covered,
    read_descriptors,
)
from .errors import CorruptDump, DumpError, MissingPart, TruncatedDump, UnsupportedDump, UsageError
from .kdump_layout import SIGNATURE, STATUS_INCOMPLETE, Abi, SubHeader, detect_abi, read_sub_header
from .machine import ARCHITECTURES, Architecture, Machine, from_uts_machine
from .main_header import MAX_MEMORY, SATURATED, MainHeader, check_main_header
from .notes import NT_PRSTATUS, PRSTATUS_SIZES, Note, find_note, parse_notes
from .ownstates import apply_our_notes
from .pages import EXTENT, MemoryMap, PageState
from .reader import DumpReader, Neighbours, Options
from .source import ByteSource, JoinedSource
from .statenote import take_our_notes
from .vmcoreinfo import printable

__all__ = ["KdumpReader"]

_MAX_DESC = 0xFFFFFFFF  # n_descsz is 32 bits
_ARM_ALIGNMENT = 1 << 21  # of the start of RAM that a kernel accepts


class _Member:
    # One file of a set: its descriptors are those of [start_pfn, end_pfn), counted from start_pfn.

    def __init__(self, source: ByteSource, header: MainHeader, sub: SubHeader) -> None:
        self.source = source
        self.header = header
        self.sub = sub
        self.start_pfn = 0
        self.end_pfn = 0
        self.first_rank = 0


def _bitmap_offset(header: MainHeader) -> int:
    return (1 + header.sub_hdr_size) * header.block_size


def _nr_pfns(header: MainHeader, sub: SubHeader) -> int:
    # max_mapnr_64 is always valid in version 6; max_mapnr saturates.
    return sub.max_mapnr_64 if header.version >= 6 else header.max_mapnr


def _open_member(source: ByteSource, abi: Abi, header: MainHeader) -> _Member:
    check_main_header(source, header, "kdump")
    return _Member(source, header, read_sub_header(source, header, abi))


def is_split(source: ByteSource) -> bool:
    """Whether a kdump file is a member of a split set."""
    abi, header = detect_abi(source)
    return header.version >= 2 and header.block_size_ok and read_sub_header(source, header, abi).split == 1


def split_range(source: ByteSource) -> tuple[int, int]:
    """Return the frames [start, end) that a split member says it has."""
    abi, header = detect_abi(source)
    sub = read_sub_header(source, header, abi)
    return sub.start_pfn, sub.end_pfn


def same_set(first: ByteSource, other: ByteSource) -> bool:
    """Whether two kdump files are members of one split set: equal main headers and bitmaps, both split."""
    abi, header = detect_abi(first)
    size = header.block_size
    if other.size < _bitmap_offset(header) or first.pread(0, size) != other.pread(0, size):
        return False
    if read_sub_header(other, header, abi).split != 1:
        return False
    end = _bitmap_offset(header) + header.bitmap_blocks * header.block_size
    if other.size < end:
        return False
    for source in (first, other):  # what is a hole in both is equal unread
        for low, high in source.data_ranges(_bitmap_offset(header), end):
            for offset in range(low, high, 1 << 20):
                count = min(1 << 20, high - offset)
                if first.pread(offset, count) != other.pread(offset, count):
                    return False
    return True


class KdumpReader(DumpReader):
    """Compressed kdump, header versions 1 to 6 (and 0, and larger ones read as 6).

    Args:
        sources: One file, or the members of a split set in any order.
        options: See `Options`.

    Raises:
        CorruptDump, TruncatedDump: Headers or bitmaps contradict themselves or the file.
        UsageError: Ranges of the members overlap.
        MissingPart: A split member is not there (without salvage).
        UnsupportedDump: The architecture cannot be told.
    """

    name: ClassVar[str] = "kdump"

    def __init__(self, sources: tuple[ByteSource, ...], options: Options) -> None:
        super().__init__(sources)
        self._options = options
        source = sources[0]
        self._abi, header = detect_abi(source)
        self._members = [_open_member(source, self._abi, header)]
        self._header, self._sub = header, self._members[0].sub
        for other in sources[1:]:
            member = _open_member(other, self._abi, header)
            if member.sub.max_mapnr_64 != self._sub.max_mapnr_64:
                raise CorruptDump(
                    f"max_mapnr_64 is {member.sub.max_mapnr_64:#x}, in {source.name} {self._sub.max_mapnr_64:#x}",
                    path=other.name,
                )
            self._members.append(member)
        self._nr_pfns = _nr_pfns(header, self._sub)
        self._check_bitmaps()
        self._desc_offset = _bitmap_offset(header) + header.bitmap_blocks * header.block_size
        self._index = RankIndex(source, self._bitmaps.second, self._nr_pfns)
        self._place_members()
        self._sub = self._members[0].sub  # the lowest member's, in whatever order they were given
        self._read_notes()
        self.machine = self._tell_machine()
        self.incomplete = bool(header.status & STATUS_INCOMPLETE)
        self._pfn_base = self._arm_pfn_base()
        self.memory_map = self._in_pages(self._build_map())
        apply_our_notes(self, self._our_notes, salvage=options.salvage)
        self.phys_base = self._sub.phys_base
        self._describe()

    @staticmethod
    def probe(source: ByteSource) -> bool:
        """See `DumpReader.probe`."""
        return source.size >= 8 and source.pread(0, 8) == SIGNATURE

    @classmethod
    def complete_set(
        cls, sources: list[ByteSource], paths: Sequence[str], options: Options, neighbours: Neighbours
    ) -> list[ByteSource]:
        """See `DumpReader.complete_set`: members have equal main headers and bitmaps."""
        first = sources[0]
        for other in sources[1:]:
            if not (is_split(first) and same_set(first, other)):
                raise UsageError(f"{other.name} and {first.name} are not members of one split set")
        if len(sources) > 1 or not (options.find_sisters and paths[0] != "-" and is_split(first)):
            return sources
        # Nobody named the sisters: a copy of a member, or one whose range cannot be, does not spoil the set.
        taken = [split_range(first)]
        for other in neighbours(head=first.pread(0, 512)):  # main headers are equal, and no block is smaller
            try:
                if not (cls.probe(other) and same_set(first, other)):
                    continue
                start, end = split_range(other)
            except DumpError:
                continue
            if start <= end and not any(start < other_end and other_start < end for other_start, other_end in taken):
                taken.append((start, end))
                sources = [*sources, other]
        return sources

    # -- headers ---------------------------------------------------------------------------------------------

    def _check_bitmaps(self) -> None:
        header, path = self._header, self.sources[0].name
        if header.max_mapnr not in (SATURATED, self._nr_pfns):
            raise CorruptDump(
                f"max_mapnr is {header.max_mapnr:#x}, but max_mapnr_64 {self._nr_pfns:#x}: the headers disagree",
                path=path,
            )
        if self._nr_pfns == 0 or self._nr_pfns * header.block_size > MAX_MEMORY:
            raise CorruptDump(
                f"max_mapnr {self._nr_pfns:#x} is impossible: no machine addresses more than {MAX_MEMORY:#x} bytes",
                path=path,
            )
        self._bitmaps = BitmapPair.place(
            self.sources[0], _bitmap_offset(header), header.bitmap_blocks, header.block_size, self._nr_pfns
        )
        if self._bitmaps.is_single:
            self.remark("one-bitmap", "the file has one bitmap: excluded frames cannot be told from holes")

    def _read_notes(self) -> None:
        source, sub, version = self.sources[0], self._sub, self._header.version
        notes: list[Note] = []
        if version >= 4 and self._is_there(source, sub.offset_note, sub.size_note, "notes"):
            notes, stopped = parse_notes(source, sub.offset_note, sub.size_note, self._abi.byteorder)
            if stopped:
                self.remark("notes-damaged", stopped)
        has_text = version >= 3 and self._is_there(source, sub.offset_vmcoreinfo, sub.size_vmcoreinfo, "VMCOREINFO")
        if has_text and find_note(notes, b"VMCOREINFO") is None:
            notes.append(self._text_note(b"VMCOREINFO", [(source, sub.offset_vmcoreinfo, sub.size_vmcoreinfo)]))
        self.notes, self._our_notes = take_our_notes(notes)

    def _is_there(self, source: ByteSource, offset: int, size: int, what: str) -> bool:
        # Whether a header's pointer leads to something. A pointer out of the file is damage; in a stream that was
        # cut off it is no more than what the cut took.
        if size == 0:
            return False
        if source.damage is not None and not is_covered(source, offset, size):
            self.remark("cut-off", f"{what} at {offset:#x}, {size} bytes: the stream was cut off before")
            return False
        if offset + size > source.size:
            raise TruncatedDump(
                f"{what} at {offset:#x}, {size} bytes, reach past the end of the file ({source.size})",
                path=source.name,
                offset=offset,
            )
        return True

    def _text_note(self, name: bytes, pieces: list[tuple[ByteSource, int, int]]) -> Note:
        # The text stays where it is: it is carried over whole, whatever its size.
        text = JoinedSource(pieces, self.sources[0].name)
        if text.size > _MAX_DESC:
            raise CorruptDump(
                f"{name.decode()} text of {text.size} bytes: a note holds {_MAX_DESC}",
                path=text.name,
                offset=pieces[0][1],
            )
        return Note(name + b"\0", 0, text, 0, text.size)

    def _erase_info(self) -> list[tuple[ByteSource, int, int]]:
        # Lies after the page data, so a stream has it only at its end; each member has its own.
        parts: list[tuple[ByteSource, int, int]] = []
        for member in sorted(self._members, key=lambda each: each.start_pfn):
            sub = read_sub_header(member.source, member.header, self._abi) if self._header.version >= 5 else member.sub
            has_text = self._header.version >= 5 and self._is_there(
                member.source, sub.offset_eraseinfo, sub.size_eraseinfo, "erase info"
            )
            if has_text:
                parts.append((member.source, sub.offset_eraseinfo, sub.size_eraseinfo))
        return parts

    def _tell_machine(self) -> Machine:
        arch = self._architecture()
        block_size, info = self._header.block_size, self.vmcoreinfo
        page_size = self._options.page_size or (info.page_size if info is not None else None) or block_size
        if page_size < block_size:
            # QEMU takes the largest page of an architecture for its blocks, whatever the guest's kernel uses
            self.unit_pages = block_size // page_size
            self.remark("block-size", f"blocks of {block_size} bytes hold {self.unit_pages} pages of the kernel's")
        else:
            page_size = block_size
        return Machine(arch.name, self._abi.byteorder, arch.word_size, page_size, arch.e_machine)

    def _architecture(self) -> Architecture:
        if self._options.machine is not None:
            return ARCHITECTURES[self._options.machine]
        arch = from_uts_machine(self._header.utsname["machine"].decode("latin-1"))
        if arch is not None:
            return arch
        # QEMU writes `Unknown` for some targets: the size of the registers tells
        note = find_note(self.notes, b"CORE", NT_PRSTATUS)
        for name, (size, _, _) in PRSTATUS_SIZES.items():
            if note is None or note.size != size or ARCHITECTURES[name].word_size != self._abi.word_size:
                continue
            if (name == "x86_64" and self._abi.byteorder == "big") or (
                name == "s390x" and self._abi.byteorder == "little"
            ):
                continue
            self.remark("machine-guessed", f"the header names no machine; {size} bytes of registers mean {name}")
            return ARCHITECTURES[name]
        raise UnsupportedDump(
            f"cannot tell the architecture: utsname.machine is "
            f"{printable(self._header.utsname['machine'])!r} and no register note helps",
            path=self.sources[0].name,
            hint="name it with --machine",
        )

    # -- split sets --------------------------------------------------------------------------------------------

    def _place_members(self) -> None:
        if not (self._header.version >= 2 and self._sub.split):
            self._members[0].end_pfn = self._nr_pfns
            return
        for member in self._members:
            member.start_pfn, member.end_pfn = member.sub.start_pfn, member.sub.end_pfn
            if not member.start_pfn <= member.end_pfn <= self._nr_pfns:
                raise CorruptDump(
                    f"split range {member.start_pfn:#x}-{member.end_pfn:#x} is not within 0-{self._nr_pfns:#x}",
                    path=member.source.name,
                )
        self._members.sort(key=lambda member: (member.start_pfn, member.end_pfn))
        self.sources = tuple(member.source for member in self._members)
        for before, after in zip(self._members, self._members[1:], strict=False):
            if after.start_pfn < before.end_pfn:
                raise UsageError(
                    f"split ranges overlap, not one set: {before.source.name} has "
                    f"{before.start_pfn:#x}-{before.end_pfn:#x}, this file {after.start_pfn:#x}-{after.end_pfn:#x}",
                    path=after.source.name,
                )
        for member in self._members:
            member.first_rank = self._rank(member.start_pfn)
        empty = [member.source.name for member in self._members if member.start_pfn == member.end_pfn]
        if empty:
            self.remark("empty-members", f"{len(empty)} members of the split set have no frames: {empty[0]}")

    def _rank(self, pfn: int) -> int:
        return self._index.set_pfns(pfn, pfn + 1)[0] if pfn < self._nr_pfns else self._index.total

    def _missing_ranges(self) -> list[tuple[int, int]]:
        missing, covered = [], 0
        for member in self._members:
            if member.start_pfn > covered:
                missing.append((covered, member.start_pfn))
            covered = max(covered, member.end_pfn)
        if covered < self._nr_pfns:
            missing.append((covered, self._nr_pfns))
        return missing

    def _arm_pfn_base(self) -> int:
        # makedumpfile on ARM numbers frames from the start of RAM; QEMU does not, and the file does not say.
        base = self._sub.phys_base >> (self._header.block_size.bit_length() - 1)
        if self.machine.arch != "arm" or base == 0 or self._sub.phys_base & _ARM_ALIGNMENT - 1:
            return 0
        for chunk in bitmap_chunks(self.sources[0], (self._bitmaps.first,), self._nr_pfns):
            starts, _, _ = state_runs(chunk.bits(0), chunk.first_pfn)
            if len(starts):
                if int(starts[0]) >= base:
                    return 0
                self.remark("arm-pfn", f"frames are numbered from the start of RAM: {base:#x} added")
                return base
        return 0

    # -- map -----------------------------------------------------------------------------------------------------

    def _build_map(self) -> MemoryMap:
        memory_map, unexpected = self._bitmaps.build_map(self._pfn_base)
        if unexpected:
            self.remark("stored-not-ram", f"{unexpected} frames are stored though the 1st bitmap calls them no RAM")
        if self._bitmaps.has_surplus_bits:
            self.remark("bits-past-end", f"a bitmap has bits set at or past max_mapnr {self._nr_pfns:#x}: ignored")
        missing = self._missing_ranges()
        if missing:
            lost = [memory_map.slice(start + self._pfn_base, end + self._pfn_base) for start, end in missing]
            memory_map = self._lose(memory_map, lost, missing)
        if self.incomplete:
            empty = self._empty_descriptors()
            if len(empty):
                text = f"{empty.count(PageState.LOST)} page descriptors are zeros: they were never written"
                self.remark("empty-descriptors", text)
            memory_map = memory_map.overlay(empty)
        self._check_descriptor_tables()
        return memory_map

    def _lose(self, memory_map: MemoryMap, lost: list[MemoryMap], missing: list[tuple[int, int]]) -> MemoryMap:
        frames = ", ".join(f"{start:#x}-{end - 1:#x}" for start, end in missing[:4])
        nr_lost = sum(part.count(PageState.STORED) for part in lost)
        error = MissingPart(
            f"split set is not whole: no member has frames {frames}{' ...' if len(missing) > 4 else ''} "
            f"({nr_lost} stored pages); {len(self._members)} member(s) found",
            path=self.sources[0].name,
            hint="give all members, or use --salvage",
        )
        self.damage = self.damage or error
        for part in lost:
            start, end = part.only(PageState.STORED)
            memory_map = memory_map.overlay(MemoryMap.from_columns(start, end, int(PageState.LOST)))
        return memory_map

    def _empty_descriptors(self) -> MemoryMap:
        return empty_map(
            (
                found
                for low, high in self._index.cells(DESCRIPTORS_AT_ONCE)
                for _, found in self._descriptors(low, high)
            ),
            self._pfn_base,
        )

    def _check_descriptor_tables(self) -> None:
        for member in self._members:
            end = self._desc_offset + DESC_SIZE * (self._rank(member.end_pfn) - member.first_rank)
            if end > member.source.size and self.damage is None:
                self.damage = TruncatedDump(
                    f"the page descriptors end at {end:#x}, the file at {member.source.size:#x}",
                    path=member.source.name,
                    hint="use --salvage for what is whole",
                )

    def _in_pages(self, blocks: MemoryMap) -> MemoryMap:
        unit = np.uint64(self.unit_pages)
        return blocks if unit == 1 else MemoryMap(blocks.start * unit, blocks.end * unit, blocks.state)

    # -- extents -------------------------------------------------------------------------------------------------

    def _descriptors(self, start_pfn: int, end_pfn: int) -> Iterator[tuple[int, Descriptors]]:
        # Yield (member, descriptors) of the stored frames; frames as numbered in the bitmaps.
        for number, member in enumerate(self._members):
            low, high = max(start_pfn, member.start_pfn), min(end_pfn, member.end_pfn)
            if low >= high:
                continue
            rank, pfns = self._index.set_pfns(low, high)
            if not len(pfns):
                continue
            offset = self._desc_offset + DESC_SIZE * (rank - member.first_rank)
            yield number, read_descriptors(member.source, offset, self._abi.byteorder, pfns)

    def extents(self, start_pfn: int, end_pfn: int) -> NDArray[Any]:
        """See `DumpReader.extents`."""
        base, unit = self._pfn_base, self.unit_pages
        start_pfn, end_pfn = start_pfn // unit, -(-end_pfn // unit)
        parts = []
        for number, found in self._descriptors(max(0, start_pfn - base), max(0, end_pfn - base)):
            source, kept = self.sources[number], found.written() if self.incomplete else found
            parts.append(descriptor_rows(source, kept, self._header.block_size, number=number, pfn_base=base))
        table = np.concatenate(parts) if parts else np.empty(0, EXTENT)
        if unit > 1:
            table["start_pfn"] *= np.uint64(unit)
            table["nr_pages"] = unit
        return table

    def page_data(self, file: int) -> tuple[int, int] | None:
        """See `DumpReader.page_data`: pages lie directly behind the descriptors, erase info behind the pages.

        Members of a split set leave room for the descriptors of all.
        """
        if self._sub.split:
            return None
        member = self._members[file]
        start = self._desc_offset + DESC_SIZE * (self._rank(member.end_pfn) - member.first_rank)
        end = member.source.size
        if self._header.version >= 5 and member.sub.size_eraseinfo and start <= member.sub.offset_eraseinfo < end:
            end = member.sub.offset_eraseinfo
        return start, end

    # -- description -----------------------------------------------------------------------------------------

    def finish_notes(self) -> None:
        """Add what lies behind the page data (erase info). On a stream this waits for the end.

        Raises:
            TruncatedDump: It is not there (with salvage: only noted as damage).
        """
        try:
            erased = self._erase_info()
            if erased and find_note(self.notes, b"ERASEINFO") is None:
                self.notes.append(self._text_note(b"ERASEINFO", erased))
        except DumpError as error:
            if not self._options.salvage:
                raise
            self.damage = self.damage or error

    def _describe(self) -> None:
        header, sub = self._header, self._sub
        self.facts = {
            "header_version": header.version,
            "utsname": {key: printable(value) for key, value in header.utsname.items()},
            "timestamp": header.timestamp[0],
            "status": header.status,
            "dump_level": sub.dump_level,
            "nr_cpus": header.nr_cpus,
            "max_mapnr": self._nr_pfns,
            "phys_base": sub.phys_base,
            "split": len(self._members) if sub.split else 0,
        }
        info = self.vmcoreinfo
        if info is not None and (info.page_size or 0) > header.block_size:
            self.remark(
                "page-size-differs", f"block_size is {header.block_size}, VMCOREINFO says PAGESIZE={info.page_size}"
            )
        if header.uts_shift:
            self.remark("utsname-shifted", f"utsname lies {header.uts_shift} bytes behind its place")
        if header.version > 6:
            self.remark("version", f"header version {header.version} is newer than 6: read as 6")
