# SPDX-License-Identifier: GPL-2.0-or-later
"""A raw diskdump partition: which frames its dense bitmap means, how far the driver came, and where each page lies.

Uncompressed pages lie one after another; compressed ones are a stream of headers and data, found by one scan.
Source: docs/formats/diskdump.md, "The partition"; RHEL4 kernel (2.6.9) drivers/block/diskdump.c.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import codecs
from .bitmap import RankIndex
from .descriptors import DISKDUMP_CODECS, is_covered
from .diskdump_layout import ENTRY_SIZE, STATUS_COMPRESSED, STATUS_INCOMPLETE, Layout, end_of_written
from .errors import CorruptDump, DumpError, TruncatedDump
from .pageindex import PageIndex, PageIndexBuilder
from .pages import EXTENT, MemoryMap, MemoryMapBuilder, PageState, merge_runs
from .source import ByteSource

__all__ = ["Partition"]

U64 = NDArray[np.uint64]
_FRAMES_AT_ONCE = 1 << 18
_SCANNED_AT_ONCE = 4 << 20
_MAX_FLAGS = 3


class Partition:
    """Map and extents of a partition.

    Args:
        source: The partition.
        layout: Its headers, checked.
        salvage: Take what nothing proves to have been written.

    Attributes:
        memory_map: See `DumpReader`.
        nr_ram: Frames of RAM.
        damage: What the headers contradict, or None.
        remarks: (code, message).

    Raises:
        CorruptDump, TruncatedDump: The bitmaps do not cover the frames, or are not there.
    """

    def __init__(self, source: ByteSource, layout: Layout, *, salvage: bool) -> None:
        self._source, self._layout, self._salvage = source, layout, salvage
        self.damage: DumpError | None = None
        self.remarks: list[tuple[str, str]] = []
        self._block = layout.header.block_size
        self._incomplete = bool(layout.header.status & STATUS_INCOMPLETE)
        compressed = bool(layout.header.status & STATUS_COMPRESSED)
        self._open_bitmaps()
        if compressed:
            source.finish()  # nothing but the stream itself says where a page is
        self._end = self._data_end()
        self._scan: PageIndex | None = None
        if compressed:
            self._scan = self._index_entries()
            self._nr_pages = len(self._scan)
        else:
            self._nr_pages = self._count_pages()
        self._known = self._last_dumped() if self._incomplete and self._dumped is not None else self.nr_ram
        self.memory_map = self._build_map()

    # -- bitmaps ---------------------------------------------------------------------------------------------

    def _open_bitmaps(self) -> None:
        header, layout, source = self._layout.header, self._layout, self._source
        needed = -(-header.max_mapnr // (8 * self._block))
        if header.bitmap_blocks < needed:
            raise CorruptDump(
                f"{header.bitmap_blocks} bitmap blocks of {self._block} bytes cannot cover {header.max_mapnr} frames, "
                f"which need {needed}",
                path=source.name,
            )
        source.ensure(layout.bitmap_offset, layout.data_offset)
        if not is_covered(source, layout.bitmap_offset, layout.data_offset - layout.bitmap_offset):
            raise TruncatedDump("the dump is cut off before its bitmaps are whole", path=source.name)
        self._ram = RankIndex(source, layout.bitmap_offset, header.max_mapnr)
        self.nr_ram = self._ram.total
        self._dumped: RankIndex | None = None
        if header.bitmap_blocks == needed:
            return
        stride = max(needed, header.bitmap_blocks // 2)
        room = 8 * self._block * (header.bitmap_blocks - stride)
        if room < self.nr_ram:
            self.remarks.append(
                (
                    "short-bitmap",
                    f"the bitmap of dumped frames has {room} bits for {self.nr_ram} frames: the rest was not",
                )
            )
        self._dumped = RankIndex(source, layout.bitmap_offset + stride * self._block, min(room, self.nr_ram))

    @property
    def _nr_dumped(self) -> int:
        return self.nr_ram if self._dumped is None else self._dumped.total

    def _last_dumped(self) -> int:
        # Bits of the second bitmap that were written for certain: up to the last one that is set. What follows in a
        # dump that was cut is not known to have been left out.
        last = 0
        if self._dumped is not None:
            for low, high in self._dumped.cells(_FRAMES_AT_ONCE):
                _, found = self._dumped.set_pfns(low, high)
                last = int(found[-1]) + 1
        return last

    def _frames(self, start_pfn: int, end_pfn: int) -> tuple[int, U64, int, NDArray[np.int64]]:
        # rank of the first frame of RAM, the frames of RAM, rank among the dumped, and which of the frames are
        rank, pfns = self._ram.set_pfns(start_pfn, end_pfn)
        if self._dumped is None:
            return rank, pfns, rank, np.arange(len(pfns))
        first, dumped = self._dumped.set_pfns(rank, rank + len(pfns))
        return rank, pfns, first, dumped.astype(np.int64) - rank

    # -- how far the driver came ---------------------------------------------------------------------------------

    def _data_end(self) -> int:
        # Offset behind the last byte that the driver wrote, as far as it says.
        header, block = self._layout.header, self._block
        end = header.written_blocks * block  # counts from block 0
        if end > self._layout.data_offset:
            return min(end, self._source.size)
        if not self._incomplete or self._nr_dumped == 0:
            return self._source.size
        # The driver rewrites its count at the end, or as often as it fills a block of the second bitmap.
        self._source.finish()
        last = self._source.size // block
        found = end_of_written(self._source, self._layout.data_offset // block, last, block, self._layout.byteorder)
        if found is not None:
            self.remarks.append(("interrupted", f"the dump was interrupted: from block {found} on nothing was written"))
            return found * block
        self.damage = TruncatedDump(
            f"the dump was interrupted, written_blocks {header.written_blocks} counts no page and no block has the "
            "formatter's pattern: nothing tells how far it came",
            path=self._source.name,
            hint="--salvage takes all blocks to the end; the last ones may be older than the dump",
        )
        return self._source.size

    def _count_pages(self) -> int:
        # Uncompressed pages that were written. What the file lacks beyond that is found page by page.
        header, offset = self._layout.header, self._layout.data_offset
        end = header.written_blocks * self._block
        if end <= offset:
            end = self._end if self._incomplete and self.damage is None else offset + self._nr_dumped * self._block
        count = max(0, end - offset) // self._block
        if count < self._nr_dumped and not self._incomplete:
            self.damage = CorruptDump(
                f"written_blocks {header.written_blocks} has room for {count} pages, the bitmaps tell of "
                f"{self._nr_dumped}, and status {header.status} says that the dump is complete",
                path=self._source.name,
                hint="use --salvage for what is whole",
            )
        return min(count, self._nr_dumped)

    # -- compressed pages ------------------------------------------------------------------------------------

    def _index_entries(self) -> PageIndex:
        builder = PageIndexBuilder(codecs.BAD)
        entries = self._entries()
        for low, high in self._ram.cells(_FRAMES_AT_ONCE):
            _, pfns, _, chosen = self._frames(low, high)
            pfns = pfns[chosen]
            found = np.array(list(islice(entries, len(pfns))), np.uint64).reshape(-1, 3)
            codec = DISKDUMP_CODECS[found[:, 2].astype(np.int64)]
            builder.add(pfns[: len(found)], found[:, 0], found[:, 1], codec)
            if len(found) < len(pfns):
                break
        return builder.build()

    def _entries(self) -> Iterator[tuple[int, int, int]]:
        # Yield (offset, size, flags) of the stream's pages, until it ends or makes no sense.
        source, page = self._source, self._block
        unpack = struct.Struct("<II" if self._layout.byteorder == "little" else ">II").unpack_from
        at, end = self._layout.data_offset, min(self._end, source.size)
        base, buffer = at, b""
        for number in range(self._nr_dumped):
            if at + ENTRY_SIZE > base + len(buffer):
                base, buffer = at, source.pread(at, max(0, min(_SCANNED_AT_ONCE, end - at)))
            if len(buffer) - (at - base) < ENTRY_SIZE:
                return self._stop(number, at, f"the entries end at {end:#x}")
            size, flags = unpack(buffer, at - base + 8)
            if not 0 < size <= page or flags > _MAX_FLAGS or (not flags & 1 and size != page):
                return self._stop(number, at, f"an entry of size {size} and flags {flags:#x}, which no page has")
            if at + ENTRY_SIZE + size > end:
                return self._stop(number, at, f"an entry of {size} bytes crosses the end at {end:#x}")
            yield at + ENTRY_SIZE, size, flags
            at += ENTRY_SIZE + size
        return None

    def _stop(self, number: int, at: int, why: str) -> None:
        message = f"{number} of {self._nr_dumped} compressed pages found: {why}"
        if self._incomplete:
            self.remarks.append(("cut", message))
            return
        self.damage = self.damage or TruncatedDump(
            message, path=self._source.name, offset=at, hint="use --salvage for what is whole"
        )

    # -- map and extents -------------------------------------------------------------------------------------

    def _build_map(self) -> MemoryMap:
        builder = MemoryMapBuilder()
        for low, high in self._ram.cells(_FRAMES_AT_ONCE):
            rank, pfns, first, chosen = self._frames(low, high)
            states = np.full(len(pfns), PageState.EXCLUDED, np.uint8)
            states[max(0, self._known - rank) :] = PageState.LOST
            states[chosen] = PageState.STORED
            states[chosen[max(0, self._nr_pages - first) :]] = PageState.LOST
            builder.add(*merge_runs(pfns, pfns + np.uint64(1), states))
        return builder.build()

    def extents(self, start_pfn: int, end_pfn: int) -> NDArray[Any]:
        """See `DumpReader.extents`."""
        if self._scan is not None:
            return self._scan.extents(start_pfn, end_pfn)
        _, pfns, first, chosen = self._frames(start_pfn, end_pfn)
        chosen = chosen[: max(0, self._nr_pages - first)]
        rows = np.zeros(len(chosen), EXTENT)
        rows["start_pfn"], rows["nr_pages"], rows["codec"] = pfns[chosen], 1, codecs.RAW
        place = np.arange(first, first + len(chosen), dtype=np.uint64)
        rows["offset"] = np.uint64(self._layout.data_offset) + place * np.uint64(self._block)
        rows["stored_size"] = self._block
        if len(rows):
            self._source.ensure(int(rows["offset"][0]), int(rows["offset"][-1]) + self._block)
        there = rows["offset"] + rows["stored_size"] <= np.uint64(self._source.size)
        if self._source.damage is not None:
            there &= self._source.covered(rows["offset"], rows["stored_size"])
        rows["codec"][~there] = codecs.BAD
        rows["page_offset"][~there] = codecs.REASON_CODES["past_end"]
        return rows
