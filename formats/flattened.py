# SPDX-License-Identifier: GPL-2.0-or-later
"""makedumpfile's flattened stream: a log of (offset, bytes) writes; here as an index over a seekable file.

    0     "makedumpfile", type 1, version 1, all big-endian; zero up to 4096
    4096  records: s64 offset, s64 size, data; no alignment. End record: both -1.

The last write wins; what was never written is zero. Sheet: docs/formats/flattened.md.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from construct import Const, Padding, Struct
from numpy.typing import NDArray

from .errors import CorruptDump, CorruptStream, DumpError, TruncatedDump, TruncatedStream, UnsupportedDump
from .intervals import latest_wins
from .pages import clip_runs
from .reader import Ints
from .source import ByteSource

__all__ = ["HEADER", "HEADER_SIZE", "RECORD", "FlattenedSource", "check_header", "check_record", "is_flattened"]

_INTS = Ints("big", 8)
SIGNATURE = b"makedumpfile\0\0\0\0"
HEADER_SIZE = 4096
RECORD = struct.Struct(">qq")
MAX_END = 1 << 56  # nothing larger can be addressed by a dump
HEADER = Struct(
    "signature" / Const(SIGNATURE),  # 0
    "type" / _INTS.s64,  # 16
    "version" / _INTS.s64,  # 24
    Padding(4064),  # 32
)
_CHUNK = 1 << 16


def is_flattened(head: bytes) -> bool:
    """Whether a file that begins with `head` (24 bytes or more) is a flattened stream."""
    return head[:16] == SIGNATURE and head[16:24] == (1).to_bytes(8, "big")


def check_header(head: bytes, name: str) -> None:
    """Refuse a header of another version.

    Raises:
        UnsupportedDump: Version is not 1.
    """
    version = int.from_bytes(head[24:32], "big", signed=True)
    if version != 1:
        raise UnsupportedDump(f"flattened stream of version {version}, this program knows 1", path=name, offset=24)


def check_record(offset: int, size: int, name: str, at: int) -> bool:
    """Judge one record header; return False for the end record.

    Raises:
        CorruptStream: Neither a record nor the end.
    """
    if offset == -1 and size == -1:
        return False
    if offset < 0 or size <= 0 or offset + size > MAX_END:
        raise CorruptStream(f"flattened record of offset {offset} and size {size}", path=name, offset=at)
    return True


@dataclass(slots=True)
class _Scan:
    start: NDArray[np.uint64]
    size: NDArray[np.uint64]
    place: NDArray[np.uint64]
    end: int
    damage: DumpError | None


def _records(inner: ByteSource) -> Iterator[tuple[int, int, int]]:
    # Yield (offset, size, place of the data) and, last, (-1, 0, end). One short read a record: payloads are
    # stepped over. What came of a record that is cut off is yielded before the error.
    at = HEADER_SIZE
    while True:
        if at + RECORD.size > inner.size:
            raise TruncatedStream("flattened stream has no end record: it is cut off", path=inner.name, offset=at)
        offset, size = RECORD.unpack(inner.pread(at, RECORD.size))
        more = check_record(offset, size, inner.name, at)
        at += RECORD.size
        if not more:
            yield -1, 0, at
            return
        if at + size > inner.size:
            if inner.size > at:
                yield offset, inner.size - at, at
            raise TruncatedStream(
                f"flattened stream ends inside a record: {size} bytes at {at:#x}, the file has {inner.size}",
                path=inner.name,
                offset=at,
            )
        yield offset, size, at
        at += size


def _scan(inner: ByteSource) -> _Scan:
    parts: list[NDArray[np.uint64]] = [np.empty((3, 0), np.uint64)]
    rows: list[tuple[int, int, int]] = []
    end = inner.size
    damage: DumpError | None = None
    try:
        for record in _records(inner):
            if record[0] < 0:
                end = record[2]
                break
            rows.append(record)
            if len(rows) == _CHUNK:
                parts.append(np.array(rows, np.uint64).T)
                rows = []
    except CorruptDump as error:
        damage = error
        if isinstance(error, TruncatedDump):
            error.hint = "use --salvage for what is whole"
    parts.append(np.array(rows, np.uint64).reshape(-1, 3).T)
    start, size, place = np.concatenate(parts, axis=1)
    return _Scan(start, size, place, end, damage)


class FlattenedSource(ByteSource):
    """The rearranged file that a flattened stream describes; reads are pieced together from its records.

    Attributes:
        damage: Why the stream is not whole, None for a whole one. Then bytes never written count as missing,
            not as zero.
    """

    def __init__(self, inner: ByteSource) -> None:
        self.name = inner.name
        self._inner = inner
        check_header(inner.pread(0, 32), inner.name)
        if inner.size < HEADER_SIZE:
            raise TruncatedDump(
                f"flattened stream header needs {HEADER_SIZE} bytes, the file has {inner.size}", path=inner.name
            )
        scan = _scan(inner)
        self.damage = scan.damage
        pieces = latest_wins(scan.start, scan.size, scan.place)
        self._start, self._end, self._place = pieces.start, pieces.end, pieces.offset
        self.size = int(self._end[-1]) if len(self._end) else 0
        notes = [f"flattened stream of {len(scan.start)} records"]
        if scan.damage is None and scan.end < inner.size:
            notes.append(f"{inner.size - scan.end} bytes after the end record: ignored")
        self.notes = tuple(notes)

    def __reduce__(self) -> tuple[object, ...]:
        return FlattenedSource, (self._inner,)

    @property
    def elsewhere(self) -> bool:
        """See `ByteSource.elsewhere`."""
        return self._inner.elsewhere

    def changed(self) -> str | None:
        """See `ByteSource.changed`."""
        return self._inner.changed()

    def covered(self, offset: NDArray[np.uint64], size: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """See `ByteSource.covered`."""
        if self.damage is None:
            return np.ones(len(offset), bool)
        return intervals_cover(self._start, self._end, offset, size)

    def gaps(self, start_offset: int, end_offset: int) -> list[tuple[int, int]]:
        """See `ByteSource.gaps`."""
        return [] if self.damage is None else intervals_gaps(self._start, self._end, start_offset, end_offset)

    def data_ranges(self, start_offset: int, end_offset: int) -> Iterator[tuple[int, int]]:
        """See `ByteSource.data_ranges`."""
        where, start, end = clip_runs(self._start, self._end, start_offset, end_offset)
        place = self._place[where] + (start - self._start[where])
        for low, high, at in zip(start.tolist(), end.tolist(), place.tolist(), strict=True):
            for first, last in self._inner.data_ranges(at, at + high - low):
                yield low + first - at, low + last - at

    def pread_into(self, view: memoryview, offset: int) -> int:
        """See `ByteSource.pread_into`."""
        count = max(0, min(len(view), self.size - offset))
        view = view[:count]
        at = offset
        index = int(np.searchsorted(self._end, np.uint64(offset), side="right"))
        while at < offset + count:
            start = int(self._start[index]) if index < len(self._start) else offset + count
            if start > at:  # a gap reads as zeros
                gap = min(start, offset + count) - at
                view[at - offset : at - offset + gap] = bytes(gap)
                at += gap
                continue
            stop = min(int(self._end[index]), offset + count)
            part = view[at - offset : stop - offset]
            if self._inner.pread_into(part, int(self._place[index]) + at - start) != len(part):
                return at - offset
            at = stop
            index += 1
        return count


def intervals_cover(
    start: NDArray[np.uint64], end: NDArray[np.uint64], offset: NDArray[np.uint64], size: NDArray[np.uint64]
) -> NDArray[np.bool_]:
    """Whether each [offset, offset + size) lies within the union of the sorted, disjoint intervals."""
    if not len(start):
        return np.zeros(len(offset), bool)
    new = np.concatenate([[True], start[1:] > end[:-1]])
    last = np.append(np.flatnonzero(new)[1:], len(start)) - 1
    start, end = start[new], end[last]
    index = np.minimum(np.searchsorted(end, offset, side="right"), len(start) - 1)
    return (start[index] <= offset) & (offset + size <= end[index])


def intervals_gaps(start: NDArray[np.uint64], end: NDArray[np.uint64], low: int, high: int) -> list[tuple[int, int]]:
    """Return the parts of [low, high) that lie in none of the sorted, disjoint intervals."""
    _, start, end = clip_runs(start, end, low, high)
    edges = [low, *np.stack([start, end], axis=1).reshape(-1).tolist(), high]
    return [(first, last) for first, last in zip(edges[::2], edges[1::2], strict=True) if first < last]
