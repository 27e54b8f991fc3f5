# SPDX-License-Identifier: GPL-2.0-or-later
"""What a check of tests/oracle says, and what it is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from oracle import elf_struct

from support import oracle_tools as tools

SAME, DIFFERENT, UNREADABLE, MISSING = "same", "DIFFERENT", "not readable", "not installed"


@dataclass(frozen=True)
class Outcome:
    """One row of the table: what a tool says about one source and its converted file."""

    source: str
    tool: str
    check: str
    verdict: str
    count: int | None = None
    detail: str = ""

    def as_dict(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in ("source", "tool", "check", "verdict", "count", "detail")}


@dataclass
class Truth:
    """What the memory really was: a raw vmcore, or physical memory from `base` on as a flat file."""

    path: Path
    flat: bool = False
    base: int = 0


@dataclass
class Case:
    """A source dump, its converted file and what the checks share.

    `sources` are the files as given (several for a split set); `readable` is one file with the same content that tools
    take: what makedumpfile -R or --reassemble makes of it, else the source itself.
    """

    name: str
    kind: str
    sources: Sequence[Path]
    result: Path
    work: Path
    readable: Path | None = None
    vmlinux: Path | None = None
    truths: Sequence[Truth] = ()
    dumpconv: Sequence[str] = ()
    quick: bool = False
    notes: list[str] = field(default_factory=list)

    @cached_property
    def core(self) -> elf_struct.Core:
        """The headers of the converted file."""
        return elf_struct.read_core(self.result)

    @property
    def headers_of(self) -> Path:
        """The file whose headers tell about the source: `readable`, or any member of a set that could not be joined."""
        return self.readable or self.sources[0]

    @cached_property
    def source_kind(self) -> str | None:
        """What the source is once it is readable: 'elf', 'kdump' or 'flat'."""
        return tools.kind_of(self.headers_of)

    @cached_property
    def facts(self) -> tools.KdumpFacts | None:
        """The headers of a compressed kdump."""
        return tools.kdump_facts(self.headers_of) if self.source_kind == "kdump" else None

    @cached_property
    def source_core(self) -> elf_struct.Core | None:
        return elf_struct.read_core(self.headers_of) if self.source_kind == "elf" else None

    @cached_property
    def source_notes(self) -> list[elf_struct.Note] | None:
        """The notes of the source, read with struct; None where the format version holds none."""
        if self.source_core is not None:
            return list(self.source_core.notes)
        if self.facts is None or not self.facts.notes[1]:
            return None
        facts = self.facts
        with open(self.headers_of, "rb") as stream:
            stream.seek(facts.notes[0])
            return elf_struct.parse_notes(stream.read(facts.notes[1]), facts.order, facts.notes[0])

    @cached_property
    def vmcoreinfo(self) -> dict[str, str]:
        """The VMCOREINFO lines of the source."""
        text = next((note.desc for note in self.source_notes or () if note.name == b"VMCOREINFO\0"), b"")
        return elf_struct.lines_of(text)

    @property
    def page_size(self) -> int:
        if self.facts is not None:
            return self.facts.block_size
        return int(self.vmcoreinfo.get("PAGESIZE", "4096"))

    @property
    def is_x86_64(self) -> bool:
        return self.core.e_machine == tools.EM_X86_64

    @cached_property
    def codec_missing_in_makedumpfile(self) -> bool:
        """Whether Debian's makedumpfile (built without snappy and zstd) can't read the source."""
        return bool(self.facts and self.facts.status & 0x24)

    def holds_text(self, vaddr: int) -> bool:
        """Whether the converted file has the frame of an x86_64 kernel text address, by VMCOREINFO's phys_base."""
        paddr = vaddr - 0xFFFFFFFF80000000 + int(self.vmcoreinfo.get("NUMBER(phys_base)", "0"), 0)
        return any(load.p_paddr <= paddr < load.p_paddr + load.p_filesz for load in self.core.loads)

    def scratch(self, name: str) -> Path:
        """A fresh path in the work folder."""
        self.work.mkdir(parents=True, exist_ok=True)
        path = self.work / name
        path.unlink(missing_ok=True)
        return path

    def row(self, tool: str, check: str, verdict: str, count: int | None = None, detail: str = "") -> Outcome:
        return Outcome(self.name, tool, check, verdict, count, detail)

    def same(self, tool: str, check: str, equal: bool, count: int | None = None, detail: str = "") -> Outcome:
        return self.row(tool, check, SAME if equal else DIFFERENT, count, detail)


Check = Callable[[Case], list[Outcome]]


def first_difference(expected: str, got: str) -> str:
    """The first line in which two texts differ, or ''."""
    left, right = expected.splitlines(), got.splitlines()
    for number, (old, new) in enumerate(zip(left, right, strict=False), 1):
        if old != new:
            return f"line {number}: source {old[:120]!r}, converted {new[:120]!r}"
    if len(left) != len(right):
        return f"source {len(left)} lines, converted {len(right)}"
    return ""
