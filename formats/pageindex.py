# SPDX-License-Identifier: GPL-2.0-or-later
"""An index of page records for formats that have none: found by one scan, kept in columns of 16 to 20 bytes a page."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import CorruptDump
from .pages import EXTENT, MAX_PFN

__all__ = ["MAX_RECORD", "Duplicates", "PageIndex", "PageIndexBuilder"]

U64 = NDArray[np.uint64]

MAX_RECORD = (1 << 28) - 1  # bytes: size and codec share 32 bits
_MAX_CODEC = 14
_BAD = 15  # stands for codecs.BAD; the size column then holds the reason's number


class Duplicates(NamedTuple):
    """Records of frames that the file holds more than once.

    Attributes:
        kept, dropped: `EXTENT` rows of equal length: row i of `dropped` repeats the frame of row i of `kept`.
    """

    kept: NDArray[Any]
    dropped: NDArray[Any]


class PageIndexBuilder:
    """Collects page records in file order; the columns stay as small as their values allow.

    Args:
        bad_codec: The codec that stands for a record that leads nowhere (codecs.BAD).
    """

    def __init__(self, bad_codec: int = 255) -> None:
        self._bad = bad_codec
        self._pfns: list[NDArray[Any]] = []
        self._offsets: list[U64] = []
        self._sizes: list[NDArray[np.uint32]] = []
        self._files: list[tuple[int, int]] = []  # (file, records)

    def add(self, pfns: U64, offsets: U64, sizes: NDArray[Any], codec: NDArray[Any] | int, file: int = 0) -> None:
        """Add records that follow those added before.

        Args:
            pfns: Frame of each record.
            offsets, sizes: Its bytes in the file; for a bad one `sizes` is the number of the reason.
            codec: One number, or one a record.
            file: Index into the reader's sources.

        Raises:
            CorruptDump: A frame or a size that no machine has.
        """
        if not len(pfns):
            return
        if int(pfns.max()) >= MAX_PFN:
            raise CorruptDump(f"a page record is for pfn {int(pfns.max()):#x}, the limit is {MAX_PFN:#x}")
        if int(sizes.max()) > MAX_RECORD:
            raise CorruptDump(f"a page record of {int(sizes.max())} bytes, the limit is {MAX_RECORD}")
        code = np.asarray(codec, np.uint32)
        code = np.where(code == self._bad, np.uint32(_BAD), code)
        if int(code.max()) > _BAD:
            raise ValueError(f"codec {int(code.max())}")
        small = int(pfns.max()) < 1 << 32
        self._pfns.append(pfns.astype(np.uint32 if small else np.uint64))
        self._offsets.append(offsets.astype(np.uint64))
        self._sizes.append(sizes.astype(np.uint32) << np.uint32(4) | code.astype(np.uint32))
        if self._files and self._files[-1][0] == file:
            self._files[-1] = (file, self._files[-1][1] + len(pfns))
        else:
            self._files.append((file, len(pfns)))

    def build(self, keep: Literal["first", "last"] = "first") -> PageIndex:
        """Sort what was added; of several records of one frame keep the first or the last in file order."""
        pfns = _join(self._pfns, np.dtype(np.uint32))
        offsets = _join(self._offsets, np.dtype(np.uint64))
        sizes = _join(self._sizes, np.dtype(np.uint32))
        files = None
        if len({file for file, _ in self._files}) > 1 or any(file for file, _ in self._files):
            files = np.repeat(
                np.array([file for file, _ in self._files], np.uint16), [count for _, count in self._files]
            )
        dropped = None
        if not bool((pfns[1:] > pfns[:-1]).all()):
            order: NDArray[Any] = np.argsort(pfns, kind="stable")
            pfns = pfns[order]
            new = np.ones(len(pfns), bool)
            new[1:] = pfns[1:] != pfns[:-1]
            chosen = np.append(new[1:], True) if keep == "last" else new
            if not new.all():
                # few rows, so that no further column as long as the index is made
                lost = np.flatnonzero(~chosen)
                side: Literal["left", "right"] = "right" if keep == "last" else "left"
                where = np.searchsorted(pfns, pfns[lost], side) - (keep == "last")
                dropped = (pfns[lost], order[where], order[lost], offsets, sizes, files)
                order = order[chosen]
                pfns = pfns[chosen]
            kept = PageIndex(
                pfns, offsets[order], sizes[order], None if files is None else files[order], self._bad, None
            )
        else:
            kept = PageIndex(pfns, offsets, sizes, files, self._bad, None)
        if dropped is not None:
            kept.duplicates = _duplicates(dropped, self._bad)
        return kept


def _join(parts: list[NDArray[Any]], empty: np.dtype[Any]) -> NDArray[Any]:
    # one column; the parts are let go as they are copied, so that both never exist whole
    if not parts:
        return np.empty(0, empty)
    kind = max((part.dtype for part in parts), key=lambda each: each.itemsize)
    column = np.empty(sum(map(len, parts)), kind)
    at = 0
    for number, part in enumerate(parts):
        column[at : at + len(part)] = part
        at += len(part)
        parts[number] = part[:0]
    parts.clear()
    return column


def _duplicates(dropped: tuple[Any, ...], bad: int) -> Duplicates:
    pfns, winners, losers, offsets, sizes, files = dropped

    def rows(which: NDArray[Any]) -> NDArray[Any]:
        return _rows(pfns, offsets[which], sizes[which], None if files is None else files[which], bad)

    return Duplicates(rows(winners), rows(losers))


def _rows(pfns: NDArray[Any], offsets: U64, sizes: NDArray[np.uint32], files: Any, bad: int) -> NDArray[Any]:
    table = np.zeros(len(pfns), EXTENT)
    table["start_pfn"], table["nr_pages"], table["offset"] = pfns, 1, offsets
    size, codec = sizes >> np.uint32(4), (sizes & np.uint32(15)).astype(np.uint8)
    wrong = codec == _BAD
    table["stored_size"], table["codec"] = np.where(wrong, 0, size), np.where(wrong, np.uint8(bad), codec)
    table["page_offset"] = np.where(wrong, size, 0)
    if files is not None:
        table["file"] = files
    return table


class PageIndex:
    """Page records sorted by frame, each frame once.

    Attributes:
        pfns: Frames, ascending; uint32 while they fit.
        duplicates: What was dropped, None where every frame came once.
    """

    def __init__(
        self,
        pfns: NDArray[Any],
        offsets: U64,
        sizes: NDArray[np.uint32],
        files: NDArray[np.uint16] | None,
        bad: int,
        duplicates: Duplicates | None,
    ) -> None:
        self.pfns = pfns
        self._offsets = offsets
        self._sizes = sizes
        self._files = files
        self._bad = bad
        self.duplicates = duplicates

    def __len__(self) -> int:
        return len(self.pfns)

    def runs(self) -> tuple[U64, U64]:
        """Return starts and ends of the runs of frames that have a record."""
        if not len(self.pfns):
            return np.empty(0, np.uint64), np.empty(0, np.uint64)
        edge = np.flatnonzero(np.diff(self.pfns) != 1) + 1
        first = np.concatenate([[0], edge])
        last = np.concatenate([edge, [len(self.pfns)]]) - 1
        return self.pfns[first].astype(np.uint64), self.pfns[last].astype(np.uint64) + np.uint64(1)

    def extents(self, start_pfn: int, end_pfn: int) -> NDArray[Any]:
        """Return the `EXTENT` rows of the frames in [start_pfn, end_pfn), sorted."""
        limit = int(np.iinfo(self.pfns.dtype).max)
        low = int(np.searchsorted(self.pfns, self.pfns.dtype.type(start_pfn))) if start_pfn <= limit else len(self.pfns)
        high = int(np.searchsorted(self.pfns, self.pfns.dtype.type(end_pfn))) if end_pfn <= limit else len(self.pfns)
        where = slice(low, max(low, high))
        files = None if self._files is None else self._files[where]
        return _rows(self.pfns[where], self._offsets[where], self._sizes[where], files, self._bad)
