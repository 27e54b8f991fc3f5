# SPDX-License-Identifier: GPL-2.0-or-later
"""Compressed kdump as an output: what makedumpfile -c/-l/-p/-z writes, header version 6.

    block 0      main header                         bitmaps    frames that exist; frames that have a descriptor
    block 1      sub header, notes (ours last)       D          descriptors, in frame order
    (after all)  erase info                          data       a page of zeros that all such frames share; the pages

LOST and DAMAGED frames have the empty descriptor that makedumpfile leaves when its disk is full, and the header says
incomplete; EXCLUDED ones are in the first bitmap alone. Source: docs/outputs.md, docs/formats/kdump.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..formats import codecs
from ..formats.errors import OutputError, UsageError
from ..formats.kdump_layout import (
    SATURATED,
    SIGNATURE,
    STATUS_INCOMPLETE,
    Abi,
    descriptor_dtype,
    main_header,
    sub_header,
)
from ..formats.notes import Note, find_note, nr_cpus
from ..formats.pages import PageState, clip_runs
from ..formats.vmcoreinfo import MAX_SIZE
from .encoders import check_encoder, encode_pages
from .output import (
    Contents,
    EncodedPlan,
    Move,
    OutputFormat,
    Piece,
    Placer,
    check_not_empty,
    note_chunks,
    place_notes,
)

__all__ = ["KdumpEncoder", "KdumpOutput", "KdumpPlan"]

U64 = NDArray[np.uint64]
FLAGS = {codecs.RAW: 0, codecs.ZLIB: 1, codecs.LZO: 2, codecs.SNAPPY: 4, codecs.ZSTD: 0x20}
STATUS_VMEMMAP = 0x10  # makedumpfile -e: carried over
_DESC_SIZE = 24
_BITMAP_PFNS = 1 << 23  # 1 MiB of bitmap at a time
_SPLIT_ALIGNMENT = 64  # frames: crash counts bits by words
_ARM_ALIGNMENT = 1 << 21  # of the start of RAM
_UTS_FIELDS = ("sysname", "nodename", "release", "version", "machine", "domainname")
# One row a page: stored bytes and flags; no bytes at all: the shared page of zeros.
STORED = np.dtype([("size", np.uint32), ("flags", np.uint32)])


@dataclass(frozen=True, slots=True)
class KdumpEncoder:
    """Compresses pages; one that does not shrink stays raw, as makedumpfile has it."""

    codec: int

    def encode(
        self, pfns: U64, pages: list[memoryview], zero: NDArray[np.bool_]
    ) -> tuple[list[bytes | memoryview], NDArray[Any]]:
        """See `Encoder.encode`; the rows are `STORED`."""
        rows = np.zeros(len(pages), STORED)
        keep = np.flatnonzero(~zero).tolist()
        kept = [pages[index] for index in keep]
        if self.codec == codecs.RAW or not kept:
            rows["size"][keep] = len(pages[0])
            return list(kept), rows
        stored: list[bytes | memoryview] = list(encode_pages(self.codec, kept))
        sizes = np.fromiter(map(len, stored), np.uint32, len(stored))
        raw = sizes >= len(pages[0])
        for index in np.flatnonzero(raw).tolist():
            stored[index] = kept[index]
        rows["size"][keep] = np.where(raw, len(pages[0]), sizes)
        rows["flags"][keep] = np.where(raw, 0, FLAGS[self.codec])
        return stored, rows


class KdumpPlan(EncodedPlan):
    """A planned kdump file, or set of files.

    Args:
        contents: See `Contents`.
        codec: Of the pages.
        nr_files: Members of a split set; 1: no set.

    Raises:
        OutputError: The bitmaps of this memory would be larger than the header can say.
    """

    def __init__(self, contents: Contents, codec: int, nr_files: int) -> None:
        self.machine = contents.machine
        self.nr_files = nr_files
        self.encoder = KdumpEncoder(codec)
        self.max_page_size = self._block = contents.machine.page_size
        self._codec = codec
        self._contents = contents
        self._abi = _abi(contents)
        self._pfn_base = _arm_pfn_base(contents)
        memory_map = contents.memory_map
        self._nr_pfns = memory_map.end_pfn - self._pfn_base
        self._notes, self._erase_moved = _own_notes(contents)
        self._place_tables()
        # the frames that have a descriptor, and where the STORED among them stand
        has = memory_map.state != PageState.EXCLUDED
        size = (memory_map.end - memory_map.start) * has
        first_rank = np.cumsum(size, dtype=np.uint64) - size
        stored = memory_map.state == PageState.STORED
        self._start = memory_map.start[stored]
        self._first_rank = first_rank[stored]
        count = memory_map.end[stored] - self._start
        self._first_ordinal = np.cumsum(count, dtype=np.uint64) - count
        self.nr_stored = int(count.sum())
        self.nr_descriptors = int(size.sum())
        self._ranges = self._split() if nr_files > 1 else [(0, self._nr_pfns)]
        self.first_ranks: list[int] = [self._rank_at(start) for start, _ in self._ranges]

    def _place_tables(self) -> None:
        block = self._block
        self._sub_size: int = sub_header(self._abi, 6).sizeof()
        self.note_offset = block + self._sub_size
        self._note_size = sum(note.stored_size for note in self._notes)
        self._sub_blocks = -(-(self._sub_size + self._note_size) // block)
        bitmap_blocks = -(-self._nr_pfns // (8 * block))
        if 2 * bitmap_blocks >= 1 << 32 or self._sub_blocks >= 1 << 31:
            raise OutputError(
                f"memory ends at frame {self._nr_pfns:#x}: the bitmaps of a kdump would take "
                f"{2 * bitmap_blocks} blocks, and its header counts to {(1 << 32) - 1}"
            )
        self._bitmap_offset = (1 + self._sub_blocks) * block
        self._bitmap_size = bitmap_blocks * block
        self.desc_offset: int = self._bitmap_offset + 2 * self._bitmap_size

    # -- split sets ------------------------------------------------------------------------------------------------

    def _split(self) -> list[tuple[int, int]]:
        # equal numbers of stored pages, cut where the words of the bitmap are
        cuts = [0]
        for number in range(1, self.nr_files):
            ordinal = self.nr_stored * number // self.nr_files
            row = int(np.searchsorted(self._first_ordinal, np.uint64(ordinal), side="right")) - 1
            pfn = int(self._start[row]) + ordinal - int(self._first_ordinal[row]) - self._pfn_base
            cuts.append(max(cuts[-1], pfn // _SPLIT_ALIGNMENT * _SPLIT_ALIGNMENT))
        return list(zip(cuts, [*cuts[1:], self._nr_pfns], strict=True))

    def _rank_at(self, pfn: int) -> int:
        memory_map = self._contents.memory_map
        below = memory_map.slice(0, pfn + self._pfn_base)
        return below.count(PageState.STORED) + below.count(PageState.LOST) + below.count(PageState.DAMAGED)

    def last_rank(self, file: int) -> int:
        """Return the number of descriptors before those of the next member."""
        return self.first_ranks[file + 1] if file + 1 < self.nr_files else self.nr_descriptors

    def data_offset(self, file: int) -> int:
        """Return where the pages of a member begin: with the page of zeros."""
        return self.desc_offset + _DESC_SIZE * (self.last_rank(file) - self.first_ranks[file])

    def ranks(self, ordinal: int, count: int) -> NDArray[np.int64]:
        """Return which descriptors `count` stored frames have, from the one with number `ordinal` on."""
        number = np.arange(ordinal, ordinal + count, dtype=np.uint64)
        row = np.searchsorted(self._first_ordinal, number, side="right") - 1
        return np.asarray(self._first_rank[row] + (number - self._first_ordinal[row]), np.int64)

    # -- headers ---------------------------------------------------------------------------------------------------

    def _main_header(self) -> bytes:
        contents, facts = self._contents, self._contents.facts
        status = FLAGS[self._codec] | STATUS_INCOMPLETE * contents.incomplete | facts.status & STATUS_VMEMMAP
        header: bytes = main_header(self._abi.byteorder, self._abi.word_size).build(
            {
                "signature": SIGNATURE,
                "header_version": 6,
                "utsname": [facts.utsname.get(name, b"")[:64].ljust(65, b"\0") for name in _UTS_FIELDS],
                "timestamp_sec": facts.timestamp & (1 << 8 * self._abi.word_size) - 1,
                "timestamp_usec": 0,
                "status": status,
                "block_size": self._block,
                "sub_hdr_size": self._sub_blocks,
                "bitmap_blocks": 2 * self._bitmap_size // self._block,
                "max_mapnr": min(self._nr_pfns, SATURATED),
                "total_ram_blocks": 0,
                "device_blocks": 0,
                "written_blocks": 0,
                "current_cpu": 0,
                "nr_cpus": nr_cpus(contents.notes),
            }
        )
        return header

    def sub_header(self, file: int, erase_offset: int = 0, erase_size: int = 0) -> Piece:
        """Return the sub header of a member."""
        contents = self._contents
        mask = (1 << 8 * self._abi.word_size) - 1
        info_offset, info_size = 0, 0
        for note, offset in place_notes(self._notes, self.note_offset):
            if note.name == b"VMCOREINFO":
                info_offset, info_size = offset, note.size
                break
        start, end = self._ranges[file] if self.nr_files > 1 else (0, 0)
        level = contents.facts.dump_level
        if level is None:  # all kinds of pages may be missing where any are
            level = 31 if contents.count(PageState.EXCLUDED) else 0
        data = sub_header(self._abi, 6).build(
            {
                "phys_base": (contents.facts.phys_base or 0) & mask,
                "dump_level": level,
                "split": int(self.nr_files > 1),
                "start_pfn": start & mask,
                "end_pfn": end & mask,
                "offset_vmcoreinfo": info_offset,
                "size_vmcoreinfo": info_size,
                "offset_note": self.note_offset if self._notes else 0,
                "size_note": self._note_size,
                "offset_eraseinfo": erase_offset,
                "size_eraseinfo": erase_size,
                "start_pfn_64": start,
                "end_pfn_64": end,
                "max_mapnr_64": self._nr_pfns,
            }
        )
        return Piece(file, self._block, data)

    def pieces(self) -> Iterator[Piece]:
        """See `Plan.pieces`."""
        for file in range(self.nr_files):
            yield Piece(file, 0, self._main_header())
            yield self.sub_header(file)
            offset = self.note_offset
            for chunk in note_chunks(self._notes, self.machine.byteorder):
                yield Piece(file, offset, chunk)
                offset += len(chunk)
            yield from self._bitmaps(file)
            yield Piece(file, self.data_offset(file), bytes(self._block))

    def _bitmaps(self, file: int) -> Iterator[Piece]:
        memory_map = self._contents.memory_map
        has = memory_map.state != PageState.EXCLUDED
        for number, keep in enumerate((np.ones(len(has), bool), has)):
            start, end = memory_map.start[keep], memory_map.end[keep]
            base = self._bitmap_offset + number * self._bitmap_size
            yield from (Piece(file, base + at, bits) for at, bits in _bitmap(start, end, self._pfn_base))

    def note_offsets(self) -> Iterator[tuple[Note, int, int]]:
        """See `Plan.note_offsets`."""
        for file in range(self.nr_files):
            for note, offset in place_notes(self._notes, self.note_offset):
                yield note, file, offset

    def placer(self) -> Placer:
        """See `EncodedPlan.placer`."""
        return _KdumpPlacer(self)


class _KdumpPlacer(Placer):
    # Where the next page of each member goes; descriptors as their tasks come.

    def __init__(self, plan: KdumpPlan) -> None:
        self._plan = plan
        self._ordinal = 0
        self._zero = [plan.data_offset(file) for file in range(plan.nr_files)]
        self._at = [zero + plan.machine.page_size for zero in self._zero]
        self._dtype = descriptor_dtype(plan.machine.byteorder)

    def place(self, rows: NDArray[Any], size: int) -> Iterator[Piece | Move]:
        ranks = self._plan.ranks(self._ordinal, len(rows))
        self._ordinal += len(rows)
        edges = np.searchsorted(ranks, self._plan.first_ranks[1:])
        low = 0
        for part in np.split(np.arange(len(rows)), edges):
            if not len(part):
                continue
            file = int(np.searchsorted(self._plan.first_ranks, ranks[part[0]], side="right")) - 1
            high = low + int(rows["size"][part].sum(dtype=np.uint64))
            yield from self._descriptors(file, ranks[part], rows[part])
            if high > low:
                yield Move(file, self._at[file], low, high)
            self._at[file] += high - low
            low = high

    def _descriptors(self, file: int, ranks: NDArray[np.int64], rows: NDArray[Any]) -> Iterator[Piece]:
        plan, page_size = self._plan, self._plan.machine.page_size
        size = rows["size"].astype(np.int64)
        table = np.zeros(len(rows), self._dtype)
        table["offset"] = self._at[file] + np.cumsum(size) - size
        table["size"], table["flags"] = size, rows["flags"]
        zero = size == 0
        table["offset"][zero], table["size"][zero] = self._zero[file], page_size
        ends = np.append(np.flatnonzero(np.diff(ranks) != 1) + 1, len(ranks)).tolist()  # lost frames lie between
        first = 0
        for end in ends:
            place = plan.desc_offset + _DESC_SIZE * (int(ranks[first]) - plan.first_ranks[file])
            yield Piece(file, place, table[first:end].tobytes())
            first = end

    def finish(self, notes: list[Note]) -> Iterator[Piece]:
        note = find_note(notes, b"ERASEINFO")
        if note is None or not note.size:
            return
        text = note.desc(MAX_SIZE)
        yield Piece(0, self._at[0], text)
        yield self._plan.sub_header(0, self._at[0], len(text))
        self._at[0] += len(text)

    def file_sizes(self) -> list[int]:
        return list(self._at)


def _abi(contents: Contents) -> Abi:
    # the alignment of the machine's own C compiler: only ARM, MIPS and PowerPC of 32 bits align longer integers
    machine = contents.machine
    pads = machine.word_size == 4 and machine.arch in ("arm", "mips", "ppc") and contents.facts.utsname.get("release")
    return Abi(machine.byteorder, machine.word_size, pack=not pads)


def _arm_pfn_base(contents: Contents) -> int:
    # makedumpfile and crash on ARM number frames from the start of RAM; told apart by the lowest frame's number
    base = contents.facts.phys_base or 0
    first = int(contents.memory_map.start[0])
    pfn = base >> contents.machine.page_shift
    if contents.machine.arch != "arm" or base & _ARM_ALIGNMENT - 1 or not 0 < pfn <= first < 2 * pfn:
        return 0
    return pfn


def _own_notes(contents: Contents) -> tuple[list[Note], bool]:
    # Erase info has a place of its own behind the pages. It leaves the notes where the reader will put it back.
    notes = contents.notes
    named = [note for note in notes if note.name == b"ERASEINFO"]
    moved = len(named) == 1 and notes[-1] is named[0] and (named[0].raw_name, named[0].type) == (b"ERASEINFO\0", 0)
    moved = moved and named[0].size <= MAX_SIZE
    return [*(notes[:-1] if moved else notes), *contents.ours], moved


def _bitmap(start: U64, end: U64, base: int) -> Iterator[tuple[int, bytes]]:
    # (byte offset, bytes) of a bitmap with the bits [start, end) less `base` set, where any is
    start, end = start - np.uint64(base), end - np.uint64(base)
    last = int(end[-1]) if len(end) else 0
    cell = int(start[0]) // _BITMAP_PFNS if len(start) else 0
    while cell * _BITMAP_PFNS < last:
        low = cell * _BITMAP_PFNS
        _, first, stop = clip_runs(start, end, low, low + _BITMAP_PFNS)
        if not len(first):  # on to the next run
            cell = int(start[int(np.searchsorted(start, np.uint64(low)))]) // _BITMAP_PFNS
            continue
        edges = np.zeros(int(stop[-1]) - low + 1, np.int8)
        edges[(first - np.uint64(low)).astype(np.int64)] = 1
        edges[(stop - np.uint64(low)).astype(np.int64)] -= 1
        bits = np.cumsum(edges[:-1], dtype=np.int8).view(np.bool_)
        yield low // 8, np.packbits(bits, bitorder="little").tobytes()
        cell += 1


class KdumpOutput(OutputFormat):
    """Compressed kdump.

    Args:
        codec: `codecs.RAW`, `ZLIB`, `LZO`, `SNAPPY` or `ZSTD`.
        nr_files: Members of a split set; 1: a single file.
        flattened: As makedumpfile's flattened stream.
    """

    name: ClassVar[str] = "kdump"
    needs_phys_base: ClassVar[bool] = True

    def __init__(self, codec: int = codecs.RAW, nr_files: int = 1, *, flattened: bool = False) -> None:
        if flattened and nr_files > 1:
            raise UsageError("a split set is not flattened: --split and -F exclude one another")
        check_encoder(codec)
        self._codec = codec
        self.nr_files = nr_files
        self.flattened = self.sequential = flattened

    def plan(self, contents: Contents) -> KdumpPlan:
        """See `OutputFormat.plan`."""
        check_not_empty(contents.memory_map)
        return KdumpPlan(contents, self._codec, self.nr_files)
