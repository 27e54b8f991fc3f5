# SPDX-License-Identifier: GPL-2.0-or-later
"""The rules of the canonical ELF, checked on a file's own headers through pyelftools: no code of the writer.

Broken in a file that carries our note: an error each (E121 to E131). In any other file: one remark (I305).
The rules are in docs/canonical.md.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise
from typing import IO, NamedTuple, cast

import numpy as np
from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from ..formats.intervals import text_range, union
from ..formats.machine import ARCHITECTURES
from ..formats.pages import PageState
from ..formats.reader import DumpReader
from ..formats.source import ByteSource
from .verdict import TargetReport

__all__ = ["Broken", "broken_rules", "check_canonical"]

_OUR_NAME = b"DUMPCONV\0"
_STATES, _PROVENANCE = 0x44430001, 0x44430002
_PROVENANCE_SIZE = 4096
_MAX = (1 << 64) - 1
_MAX_HEADERS = 1 << 20  # looked at one by one
_CODES = {rule: f"E{120 + rule}" for rule in range(1, 13)}


class Broken(NamedTuple):
    """One rule that a file does not follow."""

    rule: int
    message: str


class _Load(NamedTuple):
    paddr: int
    vaddr: int
    offset: int
    filesz: int
    memsz: int
    align: int


class _File:
    # what pyelftools wants of a file: seek, tell, read

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._at = 0

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._source.size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._source.size - self._at)
        size = left if size < 0 else min(size, left)
        data = self._source.pread(self._at, size)
        self._at += size
        return data

    def close(self) -> None:
        """Nothing: the source is the reader's."""


def check_canonical(reader: DumpReader, report: TargetReport) -> None:
    """Add what a file breaks of the rules."""
    source = reader.sources[0]
    if source.pread(0, min(4, source.size)) != b"\x7fELF":
        return
    found = broken_rules(reader)
    if reader.provenance is not None or reader.recorded_state_digest is not None:  # one of our notes may be lost
        for each in found:
            report.add(_CODES[each.rule], each.message)
    elif found:
        rules = ", ".join(str(rule) for rule in sorted({each.rule for each in found}))
        report.add("I305", f"rules {rules}; the first: {found[0].message}", number=len(found))


def broken_rules(reader: DumpReader) -> list[Broken]:
    """Return what an ELF file breaks of the rules 1 to 7, 10 and 11, in the order of the rules."""
    source = reader.sources[0]
    try:
        elf = ELFFile(cast("IO[bytes]", _File(source)))
    except ELFError as error:
        return [Broken(1, f"no ELF header: {error}")]
    found: list[Broken] = []
    header = elf.header
    word = 8 if elf.elfclass == 64 else 4
    count, start, size = _headers(elf)
    loads, notes = [], []
    kinds = []
    for index in range(min(count, _MAX_HEADERS)):
        raw = elf._get_segment_header(index)
        kinds.append(raw["p_type"])
        if raw["p_type"] == "PT_LOAD":
            loads.append(
                _Load(raw["p_paddr"], raw["p_vaddr"], raw["p_offset"], raw["p_filesz"], raw["p_memsz"], raw["p_align"])
            )
        elif raw["p_type"] == "PT_NOTE":
            notes.append((raw["p_offset"], raw["p_filesz"]))
    _rule_1(reader, header, loads, word, found)
    _rule_2(header, kinds, found)
    headers_end = start + count * size
    _rule_3(source, loads, notes, headers_end, found)
    aliases, ram = _split(loads, reader.machine.arch)
    _rules_4_and_5(reader, aliases, ram, found)
    _rules_6_and_7(reader, ram, found)
    _rules_10_and_11(reader, elf, notes, found)
    return sorted(found, key=lambda each: each.rule)


def _headers(elf: ELFFile) -> tuple[int, int, int]:
    count = elf.header["e_phnum"]
    if count == 0xFFFF and elf.header["e_shoff"]:
        count = elf._get_section_header(0)["sh_info"]
    return int(count), int(elf.header["e_phoff"]), int(elf.header["e_phentsize"])


def _rule_1(reader: DumpReader, header: object, loads: list[_Load], word: int, found: list[Broken]) -> None:
    if header["e_type"] != "ET_CORE":  # type: ignore[index]
        found.append(Broken(1, f"e_type is {header['e_type']}, not ET_CORE"))  # type: ignore[index]
    arch = ARCHITECTURES.get(reader.machine.arch)
    end = max((load.paddr + load.memsz for load in loads), default=0)
    if arch is not None and arch.word_size == 8 and word == 4:
        found.append(Broken(1, f"ELFCLASS32 for {arch.name}"))
    if arch is not None and arch.word_size == 4 and word == 4 and end > 1 << 32:
        found.append(Broken(1, f"ELFCLASS32, but memory ends at {end:#x}"))


def _rule_2(header: object, kinds: list[object], found: list[Broken]) -> None:
    offset, size = header["e_phoff"], header["e_ehsize"]  # type: ignore[index]
    expected = {64: 64, 52: 52}.get(size, 64)
    if offset != expected:
        found.append(Broken(2, f"program headers at {offset:#x}, not directly after the ELF header at {expected:#x}"))
    if kinds[:1] != ["PT_NOTE"] or kinds.count("PT_NOTE") != 1:
        found.append(Broken(2, f"{kinds.count('PT_NOTE')} PT_NOTE, the first program header is {kinds[:1]}"))
    if "PT_LOAD" not in kinds:
        found.append(Broken(2, "no PT_LOAD"))
    others = {str(kind) for kind in kinds} - {"PT_NOTE", "PT_LOAD"}
    if others:
        found.append(Broken(2, f"program headers of type {', '.join(sorted(others))}"))


def _rule_3(
    source: ByteSource, loads: list[_Load], notes: list[tuple[int, int]], headers_end: int, found: list[Broken]
) -> None:
    if not loads:
        return
    data = min(load.offset for load in loads if load.filesz) if any(load.filesz for load in loads) else source.size
    before = max([headers_end, *(offset + size for offset, size in notes)])
    if before > data:
        found.append(Broken(3, f"headers and notes end at {before:#x}, data begins at {data:#x}"))
    end = max(load.offset + load.filesz for load in loads)
    if end != source.size:
        found.append(Broken(3, f"the last PT_LOAD ends at {end:#x}, the file at {source.size:#x}"))


def _split(loads: list[_Load], arch: str) -> tuple[list[_Load], list[_Load]]:
    # segments before the RAM ones that alias the kernel text
    low, high = text_range(arch)
    last = max(0, len(loads) - 1)
    count = next((at for at, load in enumerate(loads[:last]) if not low <= load.vaddr < high), last)
    return loads[:count], loads[count:]


def _rules_4_and_5(reader: DumpReader, aliases: list[_Load], ram: list[_Load], found: list[Broken]) -> None:
    _each_load([*aliases, *ram], reader.machine.page_size, found)
    _order(aliases, ram, found)


def _each_load(loads: list[_Load], page: int, found: list[Broken]) -> None:
    for load in loads:
        where = f"PT_LOAD at {load.paddr:#x}"
        if load.align:
            found.append(Broken(4, f"{where}: p_align is {load.align:#x}, not 0"))
        if load.offset % page or load.paddr % page:
            found.append(Broken(4, f"{where}: file offset {load.offset:#x} or address is not page aligned"))
        if load.filesz != load.memsz or not load.filesz:
            found.append(Broken(5, f"{where}: p_filesz {load.filesz:#x}, p_memsz {load.memsz:#x}"))
        if len(found) > 1000:
            return


def _order(aliases: list[_Load], ram: list[_Load], found: list[Broken]) -> None:
    for first, second in pairwise(ram):
        if second.paddr < first.paddr + first.memsz:
            found.append(Broken(4, f"PT_LOADs at {first.paddr:#x} and {second.paddr:#x} overlap or are not sorted"))
        if len(found) > 1000:
            return
    places = sorted(ram, key=lambda load: load.paddr)
    starts = [load.paddr for load in places]
    for alias in aliases:
        at = bisect_right(starts, alias.paddr) - 1
        load = places[at] if at >= 0 else alias
        same = alias.offset - load.offset == alias.paddr - load.paddr
        if at < 0 or alias.paddr >= load.paddr + load.memsz or not same:
            found.append(Broken(4, f"text alias at {alias.paddr:#x} has file bytes of its own"))
        if len(found) > 1000:
            return


def _rules_6_and_7(reader: DumpReader, ram: list[_Load], found: list[Broken]) -> None:
    if len(ram) > 1 and not any(load.vaddr for load in ram):
        found.append(Broken(7, "p_vaddr is 0 everywhere"))
    memory, shift = reader.noted_absent, np.uint64(reader.machine.page_shift)
    if memory is None:
        return
    table = np.array([(load.paddr, min(load.paddr + load.memsz, _MAX)) for load in ram], np.uint64).reshape(-1, 2)
    low, high = table[:, 0] >> shift, table[:, 1] >> shift
    low, high = union(low[low < high], high[low < high])
    for state in (PageState.EXCLUDED, PageState.LOST, PageState.DAMAGED):
        start, end = memory.only(state)
        behind = np.searchsorted(high, start, side="right")  # the first run that ends behind the start
        inside = np.append(low, np.uint64(_MAX))[behind] < end
        if inside.any():
            first = int(np.flatnonzero(inside)[0])
            frames = f"{int(start[first]):#x}-{int(end[first]) - 1:#x}"
            found.append(Broken(6, f"frames {frames} are noted as {state.name.lower()}, but lie in a PT_LOAD"))
            return


def _rules_10_and_11(reader: DumpReader, elf: ELFFile, notes: list[tuple[int, int]], found: list[Broken]) -> None:
    names: list[tuple[int, int]] = []
    others_after = False
    for offset, size in notes:
        for kind, length, ours in _walk(reader, offset, size):
            if ours:
                names.append((kind, length))
            elif names:
                others_after = True
    kinds = [kind for kind, _ in names]
    if _STATES not in kinds or kinds.count(_PROVENANCE) != 1:
        found.append(Broken(10, "our two notes are not there"))
    elif others_after:
        found.append(Broken(9, "other notes come after ours"))
    for kind, length in names:
        if kind == _PROVENANCE and length != _PROVENANCE_SIZE:
            found.append(Broken(10, f"the provenance note has {length} bytes, not {_PROVENANCE_SIZE}"))
    lost = reader.memory_map.count(PageState.LOST) + reader.memory_map.count(PageState.DAMAGED)
    if lost and not elf.header["e_flags"] & 1:
        found.append(Broken(11, f"{lost} pages are lost or damaged, but bit 0 of e_flags is clear"))


def _walk(reader: DumpReader, offset: int, size: int) -> list[tuple[int, int, bool]]:
    # (type, bytes in the file, ours) of each note
    source, order = reader.sources[0], reader.machine.byteorder
    at, end = offset, min(offset + size, source.size)
    found: list[tuple[int, int, bool]] = []
    while end - at >= 12 and len(found) < 1 << 17:
        head = source.pread(at, 12)
        namesz, descsz, kind = (int.from_bytes(head[i : i + 4], order) for i in (0, 4, 8))
        length = 12 + (namesz + 3 & ~3) + (descsz + 3 & ~3)
        if at + length > end:
            break
        found.append((kind, length, namesz == len(_OUR_NAME) and source.pread(at + 12, namesz) == _OUR_NAME))
        at += length
    return found
