# SPDX-License-Identifier: GPL-2.0-or-later
"""What every format module gives to the pipeline: `DumpReader`; and `parse`, the one way into construct."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from construct import Construct, ConstructError, FormatField
from numpy.typing import NDArray

from .errors import CorruptDump, DumpError, UsageError
from .machine import ByteOrder, Machine
from .machine_frames import MachineFrames
from .notes import Note, find_note
from .pages import EXTENT, MemoryMap
from .source import ByteSource
from .vmcoreinfo import MAX_SIZE, VmcoreInfo

__all__ = ["SEGMENT", "DumpReader", "Finding", "Ints", "Neighbours", "Options", "parse"]


@dataclass(frozen=True, slots=True)
class Ints:
    """The integer types of one byte order and word size, for schema factories."""

    byteorder: ByteOrder
    word_size: int

    def _field(self, letter: str) -> FormatField:
        return FormatField("<" if self.byteorder == "little" else ">", letter)

    @property
    def u16(self) -> FormatField:
        """Unsigned 16 bits."""
        return self._field("H")

    @property
    def u32(self) -> FormatField:
        """Unsigned 32 bits."""
        return self._field("L")

    @property
    def s32(self) -> FormatField:
        """Signed 32 bits."""
        return self._field("l")

    @property
    def u64(self) -> FormatField:
        """Unsigned 64 bits."""
        return self._field("Q")

    @property
    def s64(self) -> FormatField:
        """Signed 64 bits."""
        return self._field("q")

    @property
    def ulong(self) -> FormatField:
        """Unsigned, of the machine's word size."""
        return self.u64 if self.word_size == 8 else self.u32


_SIZES: WeakKeyDictionary[Construct[Any, Any], int] = WeakKeyDictionary()


def parse(schema: Construct[Any, Any], source: ByteSource, offset: int, what: str) -> Any:
    """Parse one fixed-size structure.

    Raises:
        TruncatedDump: The source ends inside it.
        CorruptDump: The bytes do not fit the schema.
    """
    size = _SIZES.get(schema)
    if size is None:  # construct adds the sizes of all fields up each time, which takes as long as to parse them
        size = _SIZES[schema] = schema.sizeof()
    raw = source.pread(offset, size)
    try:
        return schema.parse(raw)
    except ConstructError as error:
        raise CorruptDump(f"{what}: {error}", path=source.name, offset=offset) from error


class Finding(NamedTuple):
    """A remark on the dump: nothing was lost, but the user should know.

    Attributes:
        code: Short stable word.
        message: One line.
    """

    code: str
    message: str


# What a source said about virtual addresses: bytes [paddr, paddr + size) are seen at vaddr.
SEGMENT = np.dtype([("paddr", np.uint64), ("vaddr", np.uint64), ("size", np.uint64)])


class Options(NamedTuple):
    """How to open.

    Attributes:
        salvage: Keep going past damage; what is not whole becomes LOST or DAMAGED.
        tail_zero: ELF: the tail p_memsz > p_filesz is zeros, not excluded.
        machine: Architecture name that overrides what the dump says.
        page_size: Bytes, overrides what the dump says (ELF without VMCOREINFO).
        find_sisters: Look for the other members of a split set beside the one given.
        spool_dir: Directory for spooled streams, None for the system's.
        format: Name of the format, None: by content. `raw` has no signature and must be named.
        base: Raw memory: physical address of its first byte. mcore: kernel address of physical address 0, where the
            dump is wrong about it (0: the dump is right).
        offset: Raw memory: bytes before it in the file.
        length: Raw memory: bytes of it, None for all that follow.
        byteorder: Raw memory: of the machine, None for what is usual.
        bases: Raw memory in several pieces: physical address of each.
        view: Whose memory: None for the dump's own, `dom0` for that of a Xen host's first guest, `machine` for
            memory by machine frames where a guest's own are not known.
        once: Pages are read once, in the order of frames: a stream is not kept whole even with `salvage`. What is
            found to be wrong with it then may be less than it is: the dump is to be opened again without.
        tap: Given the name and the bytes of each stream as they come in: pipes, and compressed files as stored.
    """

    salvage: bool = False
    tail_zero: bool = False
    machine: str | None = None
    page_size: int | None = None
    find_sisters: bool = True
    spool_dir: str | None = None
    format: str | None = None
    base: int = 0
    offset: int = 0
    length: int | None = None
    byteorder: ByteOrder | None = None
    bases: tuple[int, ...] = ()
    view: str | None = None
    once: bool = False
    tap: Callable[[str, bytes], None] | None = None


# Opens the other files in the directory of a dump, those that can be opened at all.
Neighbours = Callable[..., Iterator[ByteSource]]  # see `sisters.neighbours`; called with `head` or without


@dataclass
class DumpReader(ABC):
    """One opened dump. Immutable once built; knows headers, notes, map and extents, decodes nothing.

    Attributes:
        name: The format's name, as `dumpconv formats` lists it.
        views: Values of `Options.view` that the reader itself knows.
        sources: Files that extents point into.
        machine: The dumped machine.
        notes: In the source's order, ours taken out.
        memory_map: States of all frames known of.
        facts: Format-specific header fields for `info` and provenance: plain JSON values.
        findings: Remarks, in file order.
        incomplete: The writer itself said that pages are missing.
        damage: First thing that the tables contradict; None for a dump whose tables are whole.
        segments: `SEGMENT` rows: virtual addresses as the source gave them, in file order.
        partial: (pfn, start byte, end byte) of frames of which only these bytes are in the dump.
        provenance: Descriptor of our type 2 note, where the source is canonical.
        noted_absent: Frames that a canonical source's own note calls absent, whatever its headers say.
        recorded_state_digest: State digest that a canonical source carries.
        recorded_digest: Content digest that a canonical source carries.
        fill_runs: Frames that a canonical source holds as filled zeros (`--holes min-run`).
        unit_pages: Frames that one compressed extent holds: more than 1 where a writer's block is larger than
            the kernel's page. Then all extents hold exactly so many, aligned.
        copies: What holds the same bytes twice; for the report.
        preferred: Of bytes that the dump holds twice, which ones count; for the report.
        scanned: The reader saw its whole source before its map was made: pages may lie in any order.
        phys_base: x86_64: what the source's header claims, None where it has no such field.
        page_table_roots: x86_64: (address, what said so) of top page tables that registers name.
        machine_frames: Where page tables and `page_table_roots` hold machine frames, which of them is which frame.
    """

    name: ClassVar[str]
    views: ClassVar[tuple[str, ...]] = ()
    sources: tuple[ByteSource, ...]
    machine: Machine = field(init=False)
    notes: list[Note] = field(default_factory=list, init=False)
    memory_map: MemoryMap = field(init=False)
    facts: dict[str, Any] = field(default_factory=dict, init=False)
    findings: list[Finding] = field(default_factory=list, init=False)
    incomplete: bool = field(default=False, init=False)
    damage: DumpError | None = field(default=None, init=False)
    segments: NDArray[Any] = field(default_factory=lambda: np.empty(0, SEGMENT), init=False)
    partial: NDArray[np.uint64] = field(default_factory=lambda: np.empty((0, 3), np.uint64), init=False)
    provenance: bytes | None = field(default=None, init=False)
    recorded_digest: bytes | None = field(default=None, init=False)
    noted_absent: MemoryMap | None = field(default=None, init=False)
    recorded_state_digest: bytes | None = field(default=None, init=False)
    fill_runs: tuple[NDArray[np.uint64], NDArray[np.uint64]] = field(
        default_factory=lambda: (np.empty(0, np.uint64), np.empty(0, np.uint64)), init=False
    )
    unit_pages: int = field(default=1, init=False)
    copies: str = field(default="overlapping segments", init=False)
    preferred: str = field(default="RAM's", init=False)
    scanned: bool = field(default=False, init=False)
    phys_base: int | None = field(default=None, init=False)
    page_table_roots: list[tuple[int, str]] = field(default_factory=list, init=False)
    machine_frames: MachineFrames | None = field(default=None, init=False)

    @staticmethod
    @abstractmethod
    def probe(source: ByteSource) -> bool:
        """Look at the signature only; never raise on content."""

    @classmethod
    def interpret(cls, paths: Sequence[str], options: Options) -> tuple[list[str], Options]:
        """Return file names and options from what the user gave, where the user named this format.

        Raises:
            UsageError: It says nothing that can be.
        """
        return list(paths), options

    @classmethod
    def complete_set(
        cls, sources: list[ByteSource], paths: Sequence[str], options: Options, neighbours: Neighbours
    ) -> list[ByteSource]:
        """Return the sources that make one dump: those given, and of a set the members that lie beside them.

        Args:
            sources, paths: What the user gave.
            options: See `Options`; `find_sisters` says whether to look.
            neighbours: Gives the other files of the directory; those that begin with `head`, where one is given.

        Raises:
            UsageError: The sources are not one dump.
        """
        if len(sources) > 1:
            raise UsageError(f"{len(sources)} inputs: files of format {cls.name} do not come in sets")
        return sources

    @abstractmethod
    def extents(self, start_pfn: int, end_pfn: int) -> NDArray[Any]:
        """Return the `EXTENT` rows of the STORED frames in [start_pfn, end_pfn), sorted by frame.

        Raises:
            TruncatedDump: The tables themselves end early.
        """

    def finish_notes(self) -> None:  # noqa: B027 - most formats have nothing behind their pages
        """Add notes that lie behind the page data. On a stream this waits for the end."""

    def page_data(self, file: int) -> tuple[int, int] | None:
        """Return the bytes [start, end) of a file that hold nothing but pages, None where a format knows no such."""
        return None

    def duplicates(self) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        """Yield (kept, dropped) extents of bytes that the dump holds twice at different places."""
        return iter(())

    def fill_extents(self) -> NDArray[Any]:
        """Return the `EXTENT` rows of `fill_runs`: where zeros must be."""
        return np.empty(0, EXTENT)

    @property
    def files(self) -> tuple[ByteSource, ...]:
        """The sources that are files, without those that hold the plain bytes of blocks in one of them."""
        first = {source.name: source for source in reversed(self.sources)}
        return tuple(source for source in self.sources if first[source.name] is source)

    @property
    def vmcoreinfo(self) -> VmcoreInfo | None:
        """The parsed VMCOREINFO note, None where the dump has none."""
        note = find_note(self.notes, b"VMCOREINFO")
        if note is None:
            return None
        if note.size > MAX_SIZE:
            remark = Finding("vmcoreinfo-long", f"VMCOREINFO has {note.size} bytes: only the first {MAX_SIZE} are read")
            if remark not in self.findings:
                self.findings.append(remark)
        return VmcoreInfo(note.desc(MAX_SIZE))

    def remark(self, code: str, message: str) -> None:
        """Add a finding."""
        self.findings.append(Finding(code, message))
