# SPDX-License-Identifier: GPL-2.0-or-later
"""What every output format gives to the pipeline: a plan made from tables alone, and rules for what follows.

A format is one of two kinds. A *placed* one (ELF, raw, LiME) stores pages as they are, so that each has its place in
the file before it is decoded: workers write it there. An *encoded* one (kdump, LKCD) stores pages in sizes that are
known only then: workers encode a task's pages back to back, and the parent gives them their place in task order.
Either way the file depends on memory and notes alone, not on who did what when.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ..formats.decode import Encoder
from ..formats.errors import CorruptDump
from ..formats.machine import ByteOrder, Machine
from ..formats.notes import Note
from ..formats.pages import MemoryMap, PageState
from ..formats.reader import Finding
from ..formats.vaddr import AddressMap

__all__ = [
    "Contents",
    "EncodedPlan",
    "Move",
    "OutputFormat",
    "Piece",
    "PlacedPlan",
    "Placer",
    "Plan",
    "SystemFacts",
    "check_not_empty",
    "file_names",
    "note_chunks",
    "place_notes",
]

U64 = NDArray[np.uint64]


class Piece(NamedTuple):
    """Bytes and where they go: which output file (of a split set), at which offset."""

    file: int
    offset: int
    data: bytes


class Move(NamedTuple):
    """Part of what a task encoded, bytes [low, high) of it, and where they go."""

    file: int
    offset: int
    low: int
    high: int


class SystemFacts(NamedTuple):
    """What headers other than ELF's say about the system that crashed; empty or 0 where nobody knows.

    Attributes:
        utsname: sysname, nodename, release, version, machine, domainname.
        timestamp: Seconds since 1970.
        dump_level: makedumpfile's, None where no header says it.
        status: Of a kdump header.
        phys_base: Of the kernel: x86_64, where it is loaded less where it is linked; arm, where RAM starts.
        kernel_offset: How far KASLR moved the kernel, None where nothing says it.
        panic_string: The line of the log that tells why the kernel stopped.
    """

    utsname: dict[str, bytes]
    timestamp: int = 0
    dump_level: int | None = None
    status: int = 0
    phys_base: int | None = None
    kernel_offset: int | None = None
    panic_string: bytes = b""


class Contents(NamedTuple):
    """All that goes into an output but the pages.

    Attributes:
        machine, memory_map: Of the dump; what is damaged is marked so in the map.
        runs: Frames to be held as columns (start, end): the STORED ones, and what `--holes` fills.
        notes, ours: The source's notes and the two kinds of our own.
        incomplete: Pages are missing that should be there.
        addresses: Where virtual addresses come from.
        facts: See `SystemFacts`.
        elf64: ELFCLASS64 for 32-bit machines too.
        mappings: What the kernel maps beside `addresses`, where the format asks for it.
    """

    machine: Machine
    memory_map: MemoryMap
    runs: tuple[U64, U64]
    notes: list[Note]
    ours: list[Note]
    incomplete: bool
    addresses: AddressMap
    facts: SystemFacts
    elf64: bool = False
    mappings: Sequence[tuple[int, int, int]] = ()

    def count(self, *states: PageState) -> int:
        """Return the frames in any of some states."""
        return sum(self.memory_map.count(state) for state in states)


class Plan(Protocol):
    """A planned output."""

    @property
    def machine(self) -> Machine:
        """The dumped machine."""

    @property
    def nr_segments(self) -> int:
        """Ranges of memory that its headers list, 0 where they list none."""

    def pieces(self) -> Iterator[Piece]:
        """Yield all bytes but the pages that are known before them; of each file by ascending offset."""

    def note_offsets(self) -> Iterator[tuple[Note, int, int]]:
        """Yield each note with the file and the offset of its descriptor there."""


class PlacedPlan(Plan, Protocol):
    """A plan that has a place for each page."""

    @property
    def data_start(self) -> int:
        """File offset of the first page."""

    @property
    def file_size(self) -> int:
        """Bytes."""

    def out_runs(self, start_pfn: int, end_pfn: int) -> tuple[U64, U64]:
        """Return (first frame, file offset) of the runs that frames of [start_pfn, end_pfn) fall into."""

    def offset_of(self, pfn: int) -> int | None:
        """Return the file offset of a frame, None where it has none."""


class Placer(ABC):
    """Gives encoded pages their places: called for each task, in order."""

    @abstractmethod
    def place(self, rows: NDArray[Any], size: int) -> Iterator[Piece | Move]:
        """Yield what to write for the next task: `size` encoded bytes, with the encoder's rows."""

    @abstractmethod
    def finish(self, notes: list[Note]) -> Iterator[Piece]:
        """Yield what comes when all pages are placed; `notes` are the source's, complete by now."""

    @abstractmethod
    def file_sizes(self) -> list[int]:
        """Return the length of each file, after `finish`."""


class EncodedPlan(ABC):
    """A `Plan` whose pages get their places as they come.

    Attributes:
        machine: The dumped machine.
        nr_segments: 0: headers list no ranges.
        encoder: What workers do to pages.
        max_page_size: Bytes that one encoded page takes at most.
    """

    machine: Machine
    nr_segments = 0
    encoder: Encoder
    max_page_size: int

    @abstractmethod
    def pieces(self) -> Iterator[Piece]:
        """See `Plan.pieces`."""

    def note_offsets(self) -> Iterator[tuple[Note, int, int]]:
        """See `Plan.note_offsets`."""
        return iter(())

    @abstractmethod
    def placer(self) -> Placer:
        """Return a new placer."""


class OutputFormat(ABC):
    """An output format with its options.

    Attributes:
        name: As `-O` takes it.
        nr_files: Files that it writes.
        late_headers: Headers depend on virtual addresses, which a stream tells only at its end: pages are written
            with a guess, and the headers planned again.
        needs_phys_base: Its header says where the kernel lies: a stream that does not tell is read whole first.
        bridges: Short gaps can be filled with zeros; our note says which.
        sequential: It can be written front to back.
        flattened: It goes out as makedumpfile's flattened stream.
        maps_kernel: It wants `Contents.mappings`.
    """

    name: ClassVar[str]
    nr_files: int = 1
    late_headers: ClassVar[bool] = False
    needs_phys_base: ClassVar[bool] = False
    bridges: ClassVar[bool] = False
    sequential: bool = True
    flattened: bool = False
    maps_kernel: bool = False

    @abstractmethod
    def plan(self, contents: Contents) -> PlacedPlan | EncodedPlan:
        """Plan the output.

        Raises:
            CorruptDump: There is no page to write.
            OutputError: The format cannot hold this memory.
        """

    def losses(self, contents: Contents) -> Iterator[Finding]:
        """Yield what the format cannot say, for the report."""
        if contents.addresses.origin == "source":
            yield Finding(
                "vaddr-lost", f"{self.name} has no virtual addresses: those of the source's headers are left out"
            )


def check_not_empty(memory_map: MemoryMap) -> None:
    """Refuse a dump without pages.

    Raises:
        CorruptDump: No frame at all.
    """
    if not memory_map.count(PageState.STORED):
        raise CorruptDump("the dump holds no page: nothing to write")


def note_chunks(notes: Iterable[Note], byteorder: ByteOrder) -> Iterator[bytes]:
    """Yield the bytes of notes, each padded to 4, in chunks of at most 1 MiB."""
    for note in notes:
        yield note.header(byteorder)
        for low in range(0, note.size, 1 << 20):
            yield note.source.pread(note.offset + low, min(1 << 20, note.size - low))
        yield bytes(-note.size % 4)


def place_notes(notes: Iterable[Note], offset: int) -> Iterator[tuple[Note, int]]:
    """Yield each note with the file offset of its descriptor; the first begins at `offset`."""
    for note in notes:
        yield note, offset + 12 + (len(note.raw_name) + 3 & ~3)
        offset += note.stored_size


def file_names(out: str, nr_files: int) -> list[str]:
    """Return the names of the files of an output: OUT, or OUT.1 to OUT.N of a split set."""
    return [out] if nr_files == 1 else [f"{out}.{number}" for number in range(1, nr_files + 1)]
