# SPDX-License-Identifier: GPL-2.0-or-later
"""Design section 3 (the canonical ELF) checked on a converted file with struct alone, no product code."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from pathlib import Path

from oracle import elf_struct
from oracle.elf_struct import PT_LOAD, PT_NOTE, Core, Note, Phdr
from oracle.outcome import DIFFERENT, SAME, UNREADABLE, Case, Outcome

OURS = b"DUMPCONV\0"
TYPE_STATES, TYPE_PROVENANCE = (
    0x44430001,
    0x44430002,
)  # rule 10's type 1 and 2: crash and gdb take 1 and 2 for registers
TYPE2_SIZE = 4096  # of the whole note, header and name included
TEXT_BASE = 0xFFFFFFFF80000000
ADDED = (OURS, b"ERASEINFO\0")  # notes that a conversion may add


def split_loads(core: Core) -> tuple[list[Phdr], list[Phdr]]:
    """(text alias segments, RAM segments): RAM is the longest tail of the table that is sorted and disjoint."""
    loads = core.loads
    first = len(loads) - 1
    while first > 0 and loads[first - 1].p_paddr + loads[first - 1].p_memsz <= loads[first].p_paddr:
        first -= 1
    return loads[: max(first, 0)], loads[max(first, 0) :]


def header_findings(core: Core) -> list[str]:
    """Rules 2 and 3: where headers, notes and data lie."""
    found = []
    if core.e_phoff != elf_struct.EHDR_SIZE[core.bits]:
        found.append(f"rule 2: e_phoff {core.e_phoff}")
    kinds = [phdr.p_type for phdr in core.phdrs]
    if kinds[:1] != [PT_NOTE] or set(kinds[1:]) != {PT_LOAD}:
        found.append(f"rule 2: program header types {kinds[:6]}, not one PT_NOTE and then PT_LOADs")
    if not core.loads:
        return [*found, "rule 2: no PT_LOAD"]
    data = min(load.p_offset for load in core.loads)
    before = max([core.headers_end, *(phdr.p_offset + phdr.p_filesz for phdr in core.phdrs if phdr.p_type == PT_NOTE)])
    if before > data:
        found.append(f"rule 3: headers and notes end at {before:#x}, data begins at {data:#x}")
    end = max(load.p_offset + load.p_filesz for load in core.loads)
    if core.size != end:
        found.append(f"rule 3: file ends at {core.size:#x}, the last PT_LOAD at {end:#x}")
    for phdr in core.phdrs:
        if phdr.p_type == PT_NOTE and (phdr.p_offset < core.headers_end or phdr.p_filesz != phdr.p_memsz):
            found.append(f"PT_NOTE: offset {phdr.p_offset:#x}, size {phdr.p_filesz}/{phdr.p_memsz}")
    return found


def load_findings(core: Core, page_size: int) -> list[str]:
    """Rules 4, 5 and 7: each PT_LOAD by itself."""
    found = []
    for number, load in enumerate(core.loads):
        where = f"PT_LOAD {number} at {load.p_paddr:#x}"
        if load.p_align:
            found.append(f"rule 4: {where}: p_align {load.p_align}")
        if load.p_offset % page_size or load.p_paddr % page_size:
            found.append(f"rule 4: {where}: not page aligned (p_offset {load.p_offset:#x})")
        if load.p_filesz != load.p_memsz or not load.p_filesz or load.p_filesz % page_size:
            found.append(f"rule 5: {where}: p_filesz {load.p_filesz:#x}, p_memsz {load.p_memsz:#x}")
        if load.p_offset + load.p_filesz > core.size:
            found.append(f"rule 5: {where}: ends beyond the file")
    if core.loads and not any(load.p_vaddr for load in core.loads) and len(core.loads) > 1:
        found.append("rule 7: p_vaddr all zero")
    return found


def order_findings(core: Core) -> list[str]:
    """Rule 4: RAM sorted and disjoint in memory and in the file, the text alias first and without bytes of its own."""
    aliases, ram = split_loads(core)
    found = []
    for alias in aliases:
        if not _covered(alias, ram):
            found.append(f"rule 4: PT_LOAD {alias.p_paddr:#x} is no alias of RAM segments' file bytes")
    places = sorted((load.p_offset, load.p_offset + load.p_filesz) for load in ram)
    for (_, end), (start, _) in pairwise(places):
        if start < end:
            found.append(f"rule 4: RAM segments share file bytes at {start:#x}")
    if [load.p_offset for load in ram] != sorted(load.p_offset for load in ram):
        found.append("rule 4: RAM segments' file data is not in the order of p_paddr")
    return found


def _covered(alias: Phdr, ram: list[Phdr]) -> bool:
    # An alias may span several RAM segments if their bytes follow one another in the file as in memory.
    at, end = alias.p_paddr, alias.p_paddr + alias.p_filesz
    for load in ram:
        if load.p_paddr <= at < load.p_paddr + load.p_filesz:
            if load.p_offset + at - load.p_paddr != alias.p_offset + at - alias.p_paddr:
                return False
            at = min(end, load.p_paddr + load.p_filesz)
    return at == end


def x86_findings(case: Case) -> list[str]:
    """Rule 7 on x86_64: phys_base of the text alias by VMCOREINFO; one direct map base, that of the source or truth."""
    aliases, ram = split_loads(case.core)
    found = []
    told = case.vmcoreinfo.get("NUMBER(phys_base)")
    for alias in aliases:
        base = alias.p_paddr - (alias.p_vaddr - TEXT_BASE)
        if alias.p_vaddr < TEXT_BASE or (told is not None and base != int(told, 0)):
            found.append(f"rule 7: alias {alias.p_vaddr:#x} -> {alias.p_paddr:#x} gives phys_base {base}, not {told}")
    tables = int(case.vmcoreinfo.get("SYMBOL(swapper_pg_dir)", "0"), 16)
    if told is not None and not aliases and case.holds_text(tables):
        found.append("rule 7: no text alias")
    bases = {load.p_vaddr - load.p_paddr for load in ram}
    if case.core.e_flags & 1 and not aliases and bases == {0}:
        return []  # incomplete, and the page tables are among what is lost: p_vaddr = p_paddr is the rule's last resort
    if len(bases) != 1:
        found.append(f"rule 7: several direct map bases {sorted(hex(base) for base in bases)[:4]}")
    expected = direct_map_base(case)
    if expected is not None and bases != {expected}:
        found.append(f"rule 7: direct map base {[hex(base) for base in bases][:4]}, the raw vmcore says {expected:#x}")
    return found


def direct_map_base(case: Case) -> int | None:
    """What a kernel-made vmcore of this crash (truth or source) says about the direct map, or None."""
    cores = [elf_struct.read_core(truth.path) for truth in case.truths if not truth.flat]
    for core in [*cores, *([case.source_core] if case.source_core else [])]:
        bases = {load.p_vaddr - load.p_paddr for load in core.loads if 0xFFFF800000000000 <= load.p_vaddr < TEXT_BASE}
        if len(bases) == 1:
            return bases.pop()
    return None


def check_rules(case: Case) -> list[Outcome]:
    """All of section 3 that a file alone, or a file and its source, can show."""
    core = case.core
    found = header_findings(core) + load_findings(core, case.page_size) + order_findings(core) + own_note_findings(core)
    if case.is_x86_64 and case.source_notes:
        found += x86_findings(case)
    aliases, ram = split_loads(core)
    words = f"{len(ram)} RAM segments, {len(aliases)} alias"
    rows = [
        case.row(
            "struct", "canonical ELF rules", DIFFERENT if found else SAME, len(core.phdrs), "; ".join(found) or words
        )
    ]
    rows.append(check_notes(case))
    return rows


def own_note_findings(core: Core) -> list[str]:
    """Rules 9 and 10: our two notes come last, type 2 has its fixed size, the names are what readers expect."""
    found = []
    ours = [note for note in core.notes if note.name == OURS]
    types = [note.type for note in ours]
    if (
        not types
        or set(types) != {TYPE_STATES, TYPE_PROVENANCE}
        or types != sorted(types)
        or types.count(TYPE_PROVENANCE) != 1
    ):
        found.append(f"rule 10: DUMPCONV notes of types {[hex(kind) for kind in types]}")
    if list(core.notes[len(core.notes) - len(ours) :]) != ours:
        found.append("rule 9: our notes are not the last")
    for note in ours:
        if note.type == TYPE_PROVENANCE and note_size(note) != TYPE2_SIZE:
            found.append(f"rule 10: type 2 note is {note_size(note)} bytes")
    if any(not note.name.endswith(b"\0") for note in core.notes):
        found.append("rule 9: a note's name has no NUL")
    return found


def note_size(note: Note) -> int:
    return 12 + (len(note.name) + 3 & ~3) + (len(note.desc) + 3 & ~3)


def check_notes(case: Case) -> Outcome:
    """Rule 9: the source's notes, in order and byte for byte, but for those that a conversion adds."""
    if case.source_notes is None:
        return case.row(
            "struct", "notes", UNREADABLE, detail="the source has no note area (docs/formats/kdump.md section 3)"
        )
    old = [note.key for note in case.source_notes]
    new = [note.key for note in case.core.notes]
    kept = [key for key in new if key[0] not in ADDED or key in old]
    if kept == old:
        return case.row("struct", "notes", SAME, len(old))
    names = [[key[0].rstrip(b"\0").decode("latin-1") for key in keys] for keys in (old, kept)]
    return case.row("struct", "notes", DIFFERENT, len(old), f"source {names[0][:12]}, converted {names[1][:12]}")


def file_digest(path: Path) -> str:
    """SHA-256 of a converted file without its type 2 note: must not depend on the source's format (rule 12)."""
    core = elf_struct.read_core(path)
    blank = next((note for note in core.notes if note.name == OURS and note.type == TYPE_PROVENANCE), None)
    hasher = hashlib.sha256()
    with open(path, "rb") as stream:
        if blank:
            hasher.update(stream.read(blank.offset))
            stream.seek(blank.offset + note_size(blank))
        while piece := stream.read(1 << 22):
            hasher.update(piece)
    return hasher.hexdigest()
