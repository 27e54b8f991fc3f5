# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of page descriptors of diskdump and compressed kdump: from frames to extents, a batch at a time.

A frame's descriptor is the one of its rank among the stored frames. Source: docs/formats/kdump.md section 5.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import codecs
from .machine import ByteOrder
from .main_header import descriptor_dtype
from .pages import EXTENT, MemoryMap, MemoryMapBuilder, PageState, merge_runs
from .source import ByteSource

__all__ = [
    "DESCRIPTORS_AT_ONCE",
    "DESC_SIZE",
    "DISKDUMP_CODECS",
    "KDUMP_CODECS",
    "Descriptors",
    "descriptor_rows",
    "empty_map",
    "is_covered",
    "read_descriptors",
]

DESC_SIZE = 24
DESCRIPTORS_AT_ONCE = 1 << 18  # 6 MiB


def _codec_table(codec_of_flags: dict[int, int]) -> NDArray[np.uint8]:
    # codec by flags, BAD for those that are none; the last entry stands for all larger ones
    table = np.full(0x22, codecs.BAD, np.uint8)
    for flags, codec in codec_of_flags.items():
        table[flags] = codec
    return table


KDUMP_CODECS = _codec_table({0: codecs.RAW, 1: codecs.ZLIB, 2: codecs.LZO, 4: codecs.SNAPPY, 0x20: codecs.ZSTD})
# diskdump's bit 1 says that the page was anonymous memory
DISKDUMP_CODECS = _codec_table({0: codecs.RAW, 1: codecs.ZLIB, 2: codecs.RAW, 3: codecs.ZLIB})


def is_covered(source: ByteSource, offset: int, size: int) -> bool:
    """Return whether the source has these bytes; a stream that was cut off has gaps."""
    if offset + size > source.size:
        return False
    return bool(source.covered(np.array([offset], np.uint64), np.array([size], np.uint64))[0])


@dataclass(frozen=True, eq=False)
class Descriptors:
    """Descriptors of some frames.

    Attributes:
        pfns: Frames, ascending.
        table: One `descriptor_dtype` row each, zeros where it is not in the file.
        there: Which of them are in the file.
    """

    pfns: NDArray[np.uint64]
    table: NDArray[Any]
    there: NDArray[np.bool_]

    @property
    def empty(self) -> NDArray[np.bool_]:
        """Which ones a writer without space left unwritten."""
        table = self.table
        return (table["offset"] == 0) & (table["size"] == 0) & (table["flags"] == 0)  # type: ignore[no-any-return]

    def written(self) -> Descriptors:
        """Return those that are not empty."""
        keep = ~self.empty
        return Descriptors(self.pfns[keep], self.table[keep], self.there[keep])


def read_descriptors(source: ByteSource, offset: int, byteorder: ByteOrder, pfns: NDArray[np.uint64]) -> Descriptors:
    """Read the descriptors of `pfns`, which lie one after another from `offset` on."""
    wanted = DESC_SIZE * len(pfns)
    source.ensure(offset, offset + wanted)
    have = max(0, min(wanted, source.size - offset))
    raw = source.pread(offset, have) if have else b""
    raw += bytes(wanted - have)
    there = np.arange(1, len(pfns) + 1) <= have // DESC_SIZE
    if source.damage is not None:
        places = np.uint64(offset) + np.arange(len(pfns), dtype=np.uint64) * np.uint64(DESC_SIZE)
        there &= source.covered(places, np.full(len(pfns), DESC_SIZE, np.uint64))
    return Descriptors(pfns, np.frombuffer(raw, descriptor_dtype(byteorder)), there)


def empty_map(parts: Iterable[Descriptors], pfn_base: int = 0) -> MemoryMap:
    """Return as LOST the frames whose descriptors a writer without space left unwritten.

    Args:
        parts: Descriptors of ascending frames.
        pfn_base: Added to all frames.
    """
    builder = MemoryMapBuilder()
    for part in parts:
        empty = part.pfns[part.empty] + np.uint64(pfn_base)
        states = np.full(len(empty), PageState.LOST, np.uint8)
        builder.add(*merge_runs(empty, empty + np.uint64(1), states))
    return builder.build()


def descriptor_rows(
    source: ByteSource,
    descriptors: Descriptors,
    page_size: int,
    codec_table: NDArray[np.uint8] = KDUMP_CODECS,
    *,
    number: int = 0,
    pfn_base: int = 0,
) -> NDArray[Any]:
    """Return the `EXTENT` rows of descriptors; those that lead to no page get codec BAD and the reason.

    Args:
        source: The file that they point into.
        descriptors: See there.
        page_size: Bytes of the writer's block.
        codec_table: `KDUMP_CODECS` or `DISKDUMP_CODECS`.
        number: Index of the file among the reader's sources.
        pfn_base: Added to all frames.
    """
    table = descriptors.table
    rows = np.zeros(len(table), EXTENT)
    rows["start_pfn"], rows["nr_pages"], rows["file"] = descriptors.pfns + np.uint64(pfn_base), 1, number
    rows["offset"] = table["offset"].astype(np.uint64)
    rows["stored_size"] = table["size"].astype(np.uint64)
    codec = codec_table[np.minimum(table["flags"], np.uint32(len(codec_table) - 1))]
    bad = _reasons(source, descriptors, page_size, codec)
    is_bad = bad >= 0
    if is_bad.any():
        codec[is_bad] = codecs.BAD
        rows["page_offset"][is_bad] = bad[is_bad]
    rows["codec"] = codec
    return rows


def _reasons(
    source: ByteSource, descriptors: Descriptors, page_size: int, codec: NDArray[np.uint8]
) -> NDArray[np.int8]:
    # Why a descriptor leads to no page, -1 where it may. The last line that applies counts: a descriptor that
    # no writer makes is damage, wherever it points.
    table, reason = descriptors.table, codecs.REASON_CODES
    offset, size = table["offset"].astype(np.uint64), table["size"].astype(np.uint64)
    bad = np.full(len(table), -1, np.int8)
    # u64 arithmetic: the size is 32 bits, and an offset that would wrap is past the end by itself
    bad[(offset > np.uint64(source.size)) | (offset + size > np.uint64(source.size))] = reason["past_end"]
    if source.damage is not None:
        bad[~source.covered(offset, size)] = reason["past_end"]
    bad[size > 2 * page_size] = reason["too_large"]
    bad[size == 0] = reason["no_bytes"]
    bad[(codec == codecs.RAW) & (size != page_size)] = reason["raw_size"]
    bad[table["offset"] <= 0] = reason["offset"]
    bad[codec == codecs.BAD] = reason["flags"]
    bad[descriptors.empty] = reason["empty"]
    bad[~descriptors.there] = reason["no_descriptor"]
    return bad
