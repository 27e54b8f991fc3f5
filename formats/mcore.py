# SPDX-License-Identifier: GPL-2.0-or-later
"""mcore: the crash dumps of Mission Critical Linux (1999 to 2001), kernel memory in zlib units by virtual address.

    v2   block 0: header; map: {start_va, 0, start_blk, num_blks} up to a start_va of 0; units
         unit: zlib( addresses of up to 128 pages, padded to blocks; those pages )
    v1   block 0: numbers of the blocks with headers, up to 0; header: header, map with a count; units
         unit: zlib( va_per_entry bytes of memory )

Byte order and `long` are the machine's, and told by the magic. Physical address = virtual address - the lowest one.

Sheet: docs/formats/mcore.md.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import codecs
from .assume import assumed_machine
from .blocks import MAX_BLOCK, BlockSource, zlib_block
from .errors import CorruptDump, DumpError, TruncatedDump
from .intervals import union
from .mcore_layout import (
    MAX_BLOCK_SIZE,
    SUBMAP_PAGES,
    Header,
    Layout,
    candidates_v2,
    find_v1,
    map_entry,
    read_headers,
    tell_layout,
)
from .pageindex import PageIndexBuilder
from .pages import MemoryMap, PageState
from .reader import SEGMENT, DumpReader, Options
from .source import ByteSource

__all__ = ["McoreReader", "mcore_unit"]

U64 = NDArray[np.uint64]

_MAP_BYTES = 4 << 20  # of a map read at a time
_DEFLATE_RATIO = 1032  # bytes that deflate makes of one at most (258 for 2 bits)
_MAX_UNITS = 1 << 19  # of all maps: 256 GiB in units of 128 pages of 4 KiB, more than machines of that time had
# PAGE_OFFSET of kernels that were dumped so. Source: docs/formats/mcore.md section 5.
_I386_BASES = (0x40000000, 0x78000000, 0x80000000, 0xB0000000, 0xC0000000, 0xE0000000)
_ALPHA_BASES = (0xFFFFFC0000000000, 0xFFFF800000000000)


def mcore_unit(stored: bytes, size: int, limit: int) -> bytes:
    """Decode the first `size` bytes of a unit, fewer if it has fewer; all of it must be whole.

    Args:
        stored: The unit; what follows the zlib stream is padding.
        size: Bytes wanted.
        limit: Bytes that a unit may have.

    Raises:
        ValueError: It is no zlib stream, or one of more than `limit` bytes.
    """
    decoder = zlib.decompressobj()
    try:
        plain = decoder.decompress(stored, size)
        rest = len(plain)
        while not decoder.eof and rest <= limit and (more := decoder.decompress(decoder.unconsumed_tail, 1 << 16)):
            rest += len(more)
    except zlib.error as error:
        raise ValueError(f"zlib: {error}") from error
    if rest > limit:
        raise ValueError(f"zlib: decodes to more than {limit} bytes")
    if not decoder.eof:
        raise ValueError("zlib: the stream ends early")
    return plain


class _Units(NamedTuple):
    # Columns, in map order: address, where the next one begins (0: not known), and the file bytes of each unit.
    start: U64
    following: U64
    offset: U64
    size: U64
    bad: NDArray[np.uint8]  # state of the frames of a unit that cannot be: LOST, DAMAGED, or 0


class McoreReader(DumpReader):
    """An mcore dump; sources[0] is the plain bytes of its units.

    Args:
        sources: One file.
        options: `base` overrides the address of physical address 0.

    Raises:
        CorruptDump, TruncatedDump: Headers or map contradict themselves or the file.
        UsageError: Nothing tells the machine.
    """

    name: ClassVar[str] = "mcore"

    def __init__(self, sources: tuple[ByteSource, ...], options: Options) -> None:
        super().__init__(sources)
        self._source = source = sources[0]
        source.finish()
        self._layout: Layout = tell_layout(source)
        headers = read_headers(source, self._layout)
        self._block = headers[0].blk_size
        if any(header.blk_size != self._block for header in headers):
            raise CorruptDump("headers of different block sizes", path=source.name)
        self._nr_claimed = 0
        parts = [self._units_of(header) for header in headers]
        units = _Units(*(np.concatenate(column) for column in zip(*parts, strict=True)))
        self._base = options.base or int(units.start.min() if self._layout.version == 1 else units.start[0])
        self.machine = assumed_machine(self, options, self._layout.byteorder, self._evidence(), page_size=self._block)
        self._submap = -(-(SUBMAP_PAGES + 1) * self._layout.word_size // self._block) * self._block
        self._read_units(self._mark_overlaps(units, headers))
        self._describe(headers, len(units.start))

    @staticmethod
    def probe(source: ByteSource) -> bool:
        """See `DumpReader.probe`."""
        return any(True for _ in candidates_v2(source)) or find_v1(source) is not None

    def _note(self, error: DumpError) -> None:
        self.damage = self.damage or error

    def _corrupt(self, message: str, offset: int, kind: type[DumpError] = CorruptDump) -> None:
        error = kind(message, path=self._source.name, offset=offset, hint="use --salvage for what is whole")
        self._note(error)

    # -- maps ----------------------------------------------------------------------------------------------------

    def _entries(self, header: Header) -> NDArray[Any]:
        # The map's table: v2 up to start_va 0, v1 by the header's count.
        dtype = map_entry(self._layout)
        size = self._source.size
        room = min(header.map_blocks * self._block, size - header.map_offset) // dtype.itemsize
        room = min(room, _MAX_UNITS + 1)  # one more is refused below
        if self._layout.version == 1:
            room = (size - header.map_offset) // dtype.itemsize
            if header.map_entries > room:
                raise TruncatedDump(f"map of {header.map_entries} entries, the file has {room}", path=self._source.name)
            room = header.map_entries
            self._nr_claimed += room
            if self._nr_claimed > _MAX_UNITS:
                raise CorruptDump(
                    f"maps of {self._nr_claimed} units, {_MAX_UNITS} is the limit",
                    path=self._source.name,
                    offset=header.offset,
                )
        step = _MAP_BYTES // dtype.itemsize
        tables: list[NDArray[Any]] = []
        for first in range(0, room, step):
            count = min(step, room - first)
            raw = self._source.pread(header.map_offset + first * dtype.itemsize, count * dtype.itemsize)
            table = np.frombuffer(raw, dtype)
            if self._layout.version == 2:
                end = np.flatnonzero(table["start_va"] == 0)
                if len(end):
                    tables.append(table[: end[0]])
                    return self._joined(tables, header)
            tables.append(table)
        if self._layout.version == 2:
            self._corrupt(f"the map's {header.map_blocks} blocks have no end", header.map_offset)
        return self._joined(tables, header)

    def _joined(self, tables: list[NDArray[Any]], header: Header) -> NDArray[Any]:
        table = np.concatenate(tables) if tables else np.empty(0, map_entry(self._layout))
        if not len(table):
            raise CorruptDump("the map is empty", path=self._source.name, offset=header.map_offset)
        if len(table) > _MAX_UNITS:
            raise CorruptDump(f"map of {len(table)} units, {_MAX_UNITS} is the limit", path=self._source.name)
        if bool(table["exp_data"].any()):
            self.remark("exp-data", f"{np.count_nonzero(table['exp_data'])} map entries hold an address: not used")
        return table

    def _units_of(self, header: Header) -> _Units:
        table, size = self._entries(header), self._source.size
        blocks = table["start_blk"].astype(np.int64) + header.unit_block
        count = table["num_blks"].astype(np.int64)
        if self._layout.version == 1:
            index = np.arange(len(table), dtype=np.uint64)
            start = np.uint64(table["start_va"][0]) + index * np.uint64(header.va_per_entry)
            following = start + np.uint64(header.va_per_entry)
        else:
            start = table["start_va"].astype(np.uint64)
            following = np.append(start[1:], np.uint64(0))
            if bool((start[1:] <= start[:-1]).any()):
                self._corrupt("the map's entries are not in ascending order", header.map_offset)
        bad = np.where((blocks < 1) | (count < 1), np.uint8(PageState.DAMAGED), np.uint8(0))
        offset = np.maximum(blocks, 0).astype(np.uint64) * np.uint64(self._block)
        stored = np.maximum(count, 0).astype(np.uint64) * np.uint64(self._block)
        bad[(bad == 0) & (offset >= np.uint64(size))] = PageState.LOST
        if self._layout.version == 1:
            too_small = stored * np.uint64(_DEFLATE_RATIO) < np.uint64(header.va_per_entry)
            bad[(bad == 0) & too_small] = PageState.DAMAGED
        if bool(bad.any()):
            first = int(np.flatnonzero(bad)[0])
            kind = TruncatedDump if bad[first] == PageState.LOST else CorruptDump
            self._corrupt(
                f"unit of {int(start[first]):#x}: {int(count[first])} blocks at block {int(blocks[first])} "
                f"of a file of {size} bytes cannot hold it",
                header.map_offset,
                kind,
            )
        return _Units(start, following, offset, stored, bad)

    def _mark_overlaps(self, units: _Units, headers: list[Header]) -> _Units:
        # A block belongs to one unit: else a small file could claim any amount of memory.
        good = np.flatnonzero(units.bad == 0)
        order = good[np.lexsort((good, units.offset[good]))]
        start, end = units.offset[order], (units.offset + units.size)[order]
        reach = np.maximum.accumulate(end)
        wrong = np.zeros(len(order), bool)
        wrong[1:] = start[1:] < reach[:-1]
        low, high = self._taken(headers)
        at = np.searchsorted(high, start, side="right")
        wrong |= np.append(low, np.uint64((1 << 64) - 1))[at] < end
        if wrong.any():
            row = int(order[np.flatnonzero(wrong)[0]])
            self._corrupt(
                f"the blocks of the unit of {int(units.start[row]):#x} are those of another, of the map or the header",
                int(units.offset[row]),
            )
            units.bad[order[wrong]] = PageState.DAMAGED
        return units

    def _taken(self, headers: list[Header]) -> tuple[U64, U64]:
        # the sorted, disjoint byte ranges of headers and maps
        row = map_entry(self._layout).itemsize
        taken = [(header.offset, header.offset + self._block) for header in headers]
        taken += [(header.map_offset, header.map_offset + max(1, header.map_entries) * row) for header in headers]
        start, end = np.array(taken, np.uint64).T
        return union(start, end)

    # -- units ---------------------------------------------------------------------------------------------------

    def _read_units(self, units: _Units) -> None:
        builder = PageIndexBuilder(codecs.BAD)
        plain_sizes = np.zeros(len(units.start), np.uint64)
        at = 0
        for row in np.flatnonzero(units.bad == 0).tolist():
            pfns, head = self._pages_of(units, row)
            if not len(pfns):
                continue
            sizes = np.full(len(pfns), self._block, np.uint64)
            offsets = np.uint64(at + head) + np.arange(len(pfns), dtype=np.uint64) * np.uint64(self._block)
            known = pfns != _NO_PFN
            builder.add(pfns[known], offsets[known], sizes[known], codecs.RAW)
            plain_sizes[row] = head + len(pfns) * self._block
            at += int(plain_sizes[row])
        self._index = builder.build("first")
        there = plain_sizes > 0
        limit = self._submap + SUBMAP_PAGES * self._block
        decode = zlib_block if self._layout.version == 1 else partial(mcore_unit, limit=limit)
        room = np.uint64(self._source.size) - np.minimum(units.offset, np.uint64(self._source.size))
        stored = np.minimum(units.size, room)
        self.sources = (BlockSource(self._source, units.offset[there], stored[there], plain_sizes[there], decode),)
        held = MemoryMap.from_columns(*self._index.runs(), int(PageState.STORED))
        absent = MemoryMap.from_runs([])
        for state in (PageState.DAMAGED, PageState.LOST):
            missing = self._missing(units, units.bad == state)
            absent = absent.overlay(MemoryMap.from_columns(*missing, int(state)))
        self.memory_map = absent.overlay(held)

    def _pages_of(self, units: _Units, row: int) -> tuple[U64, int]:
        # Frames of a unit in the order of its pages, and the plain bytes before them. None for one that cannot be had.
        start, offset = int(units.start[row]), int(units.offset[row])
        size = int(units.size[row])
        cut = offset + size > self._source.size and not self._is_whole(offset)
        if cut:
            self._corrupt(
                f"unit of {start:#x} needs file bytes up to {offset + size:#x}, the file has {self._source.size}",
                offset,
                TruncatedDump,
            )
            units.bad[row] = PageState.LOST
            return np.empty(0, np.uint64), 0
        if self._layout.version == 1:
            first, inside = divmod(start - self._base, self._block)
            if first < 0 or inside:
                self._corrupt(f"unit of {start:#x} is no number of pages above the base, {self._base:#x}", offset)
                units.bad[row] = PageState.DAMAGED
                return np.empty(0, np.uint64), 0
            count = (int(units.following[row]) - start) // self._block
            return np.arange(first, first + count, dtype=np.uint64), 0
        return self._submap_of(units, row, start, offset, size)

    def _submap_of(self, units: _Units, row: int, start: int, offset: int, size: int) -> tuple[U64, int]:
        head = self._inflate(offset, size, self._submap)
        if len(head) < self._submap:
            self._corrupt(f"unit of {start:#x}: its list of pages does not inflate", offset)
            units.bad[row] = PageState.DAMAGED
            return np.empty(0, np.uint64), 0
        word = "<" if self._layout.byteorder == "little" else ">"
        listed = np.frombuffer(head, f"{word}u{self._layout.word_size}")[:SUBMAP_PAGES].astype(np.uint64)
        end = np.flatnonzero(listed == 0)
        listed = listed[: end[0]] if len(end) else listed
        if not len(listed):
            self.remark("empty-unit", f"unit of {start:#x} lists no page")
        base, mask = np.uint64(self._base), np.uint64(self._block - 1)
        unreachable = (listed < base) | ((listed & mask) != (base & mask))
        following = int(units.following[row])
        odd = unreachable.any() or (listed[1:] <= listed[:-1]).any() or (listed < np.uint64(start)).any()
        if odd or (following > start and (listed >= np.uint64(following)).any()):
            self._corrupt(
                f"unit of {start:#x} lists pages out of order, out of its range or not on page borders", offset
            )
        return np.where(unreachable, _NO_PFN, (listed - base) // np.uint64(self._block)), self._submap

    def _inflate(self, offset: int, size: int, wanted: int) -> bytes:
        # the first bytes of a unit, fewer if it does not inflate
        decoder, plain = zlib.decompressobj(), b""
        end = min(offset + size, self._source.size)
        while len(plain) < wanted and offset < end and not decoder.eof:
            piece = self._source.pread(offset, min(8192, end - offset))
            offset += len(piece)
            try:
                plain += decoder.decompress(decoder.unconsumed_tail + piece, wanted - len(plain))
            except zlib.error:
                break
        return plain

    def _is_whole(self, offset: int) -> bool:
        # whether a unit that is said to reach past the end of the file lacks padding only
        decoder, done = zlib.decompressobj(), 0
        limit = MAX_BLOCK if self._layout.version == 1 else self._submap + SUBMAP_PAGES * MAX_BLOCK_SIZE
        try:
            while offset < self._source.size and not decoder.eof and done <= limit:
                piece = self._source.pread(offset, min(1 << 16, self._source.size - offset))
                offset += len(piece)
                while piece and not decoder.eof and done <= limit:
                    done += len(decoder.decompress(piece, 1 << 20))
                    piece = decoder.unconsumed_tail
        except zlib.error:
            return False
        if decoder.eof:
            self.remark("padding", "the last unit's padding is not in the file")
        return decoder.eof

    def _missing(self, units: _Units, rows: NDArray[np.bool_]) -> tuple[U64, U64]:
        # Which pages a unit holds is inside it: at most 128 from its address on, at most up to the next unit.
        base, block = np.uint64(self._base), np.uint64(self._block)
        rows = rows & (units.start >= base)
        start, following = units.start[rows], units.following[rows]
        span = (following - start) // block
        if self._layout.version == 2:
            span = np.minimum(span, np.uint64(SUBMAP_PAGES))
        count = np.where(following > start, span, np.uint64(SUBMAP_PAGES))
        first = (start - base) // block
        return union(first, first + count)

    # -- the rest ------------------------------------------------------------------------------------------------

    def extents(self, start_pfn: int, end_pfn: int) -> NDArray[Any]:
        """See `DumpReader.extents`."""
        return self._index.extents(start_pfn, end_pfn)

    def duplicates(self) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        """See `DumpReader.duplicates`."""
        found = self._index.duplicates
        if found is not None:
            yield found.kept, found.dropped

    def _evidence(self) -> tuple[str, str] | None:
        layout = self._layout
        if layout.byteorder == "little" and layout.word_size == 4 and self._base in _I386_BASES:
            return "i386", f"32 bits and memory from {self._base:#x} on"
        if (
            layout.byteorder == "little"
            and layout.word_size == 8
            and self._base in _ALPHA_BASES
            and self._block == 8192
        ):
            return "alpha", f"pages of 8192 bytes and memory from {self._base:#x} on"
        return None

    def _describe(self, headers: list[Header], nr_units: int) -> None:
        layout = self._layout
        not_dumped = sum(header.bytes_not_dumped for header in headers)
        if not_dumped:
            self.incomplete = True
            self.remark("not-dumped", f"{not_dumped} bytes of memory had no room in the swap space")
        if self._base < (0x40000000 if layout.word_size == 4 else 1 << 63):
            self.remark("base", f"memory from {self._base:#x} on is no kernel's (--base ADDR overrides)")
        self.segments = np.zeros(1, SEGMENT)
        self.segments["vaddr"] = self._base
        self.segments["size"] = self.memory_map.end_pfn * self._block
        self.facts = {
            "version": layout.version,
            "word_size": layout.word_size,
            "blk_size": self._block,
            "base": self._base,
            "headers": len(headers),
            "units": nr_units,
            "bytes_not_dumped": not_dumped,
        }


_NO_PFN = np.uint64((1 << 64) - 1)  # of a page whose address no page can have
