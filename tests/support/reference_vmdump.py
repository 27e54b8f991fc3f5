# SPDX-License-Identifier: GPL-2.0-or-later
"""The reference decoder for VMDUMP, 64-bit big: byte by byte, struct alone."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from .reference_source import ReferenceDump, ReferenceError, Source, subtract, union

PAGE, BLOCK = 4096, 4096
MAX_FRAMES = 1 << 22


def is_vmdump(source: Source) -> bool:
    return (
        source.size >= 64
        and source.read(0, 2) == b"\xe2\xd9"
        and source.read(0x38, 8) == bytes.fromhex("e5d4c4e4d4d74040")
    )


def _ranges(pairs: tuple[int, ...]) -> list[tuple[int, int]]:
    found = [(pairs[at], pairs[at + 1] + 1) for at in range(0, len(pairs), 2) if pairs[at + 1] + 1 > pairs[at] + 1]
    rounded = [(start // PAGE * PAGE, min(-(-end // PAGE) * PAGE, 1 << 63)) for start, end in found]
    return union([(min(start, 1 << 63), end) for start, end in rounded if end > start])


class VmdumpReference:
    """One dump; `frames()` decodes it.

    Raises:
        ReferenceError: it is refused.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.result = ReferenceDump("vmdump", PAGE, ">", 64)
        if self._at(2, 8) != bytes.fromhex("c8c3d7c4c6d4c2d2"):
            raise ReferenceError("vmdump: no FMBK")
        fir, _, access = struct.unpack(">3I", source.read(PAGE + 8, 12))
        head = self._at(fir, 1104)
        if head[187] != 2:
            raise ReferenceError(f"vmdump: format {head[187]:#x}", "unknown")
        (others,) = struct.unpack_from(">H", head, 912)
        start = (fir - 1) * PAGE + 1104
        if others and start + 552 * others > (access - 1) * PAGE:
            raise ReferenceError("vmdump: too many CPUs")
        if self._at(access, 8) != bytes.fromhex("c8c3d7c4c1d3c2d2"):
            raise ReferenceError("vmdump: no ALBK")
        space = self._at(access + 1, PAGE)
        if space[:8] != bytes.fromhex("c1e2c9e9c2d24040"):
            raise ReferenceError("vmdump: no ASIZBK")
        (defined,) = struct.unpack_from(">Q", space, 72)
        (count,) = struct.unpack_from(">I", space, 216)
        if count > 64:
            raise ReferenceError("vmdump: too many ranges")
        online = _ranges(struct.unpack_from(">16Q", space, 224))
        self.requested = _ranges(struct.unpack_from(f">{2 * count}Q", space, 352))
        end = max((stop for _, stop in self.requested), default=defined)
        if not 0 < end <= 1 << 53 or end % PAGE:
            raise ReferenceError(f"vmdump: storage up to {end:#x}")
        self.requested = self.requested or [(0, end)]
        self.nr_pages = end // PAGE
        self.stored, self.data = self._keys((access + 1) * PAGE)
        excluded = [(low // PAGE, high // PAGE) for low, high in subtract(online, self.requested)]
        self.result.excluded_runs = subtract(excluded, union((pfn, pfn + 1) for pfn in self.stored))
        self.result.truncated = self.data + len(self.stored) * PAGE > source.size

    def _at(self, record: int, size: int) -> bytes:
        if record == 0 or record * PAGE > self.source.size:
            raise ReferenceError(f"vmdump: record {record} is not there")
        return self.source.read((record - 1) * PAGE, size)

    def _keys(self, at: int) -> tuple[list[int], int]:
        stored = []
        nr_blocks = -(-self.nr_pages // BLOCK)
        for first in range(0, nr_blocks, 8 * PAGE):
            index = self.source.read(at, PAGE)
            at += PAGE
            for bit in range(min(8 * PAGE, nr_blocks - first)):
                if not index[bit // 8] << bit % 8 & 0x80:
                    continue
                keys = self.source.read(at, PAGE)
                at += PAGE
                base = (first + bit) * BLOCK
                stored += [
                    base + number for number in range(BLOCK) if keys[number] & 1 and base + number < self.nr_pages
                ]
        return stored, at

    def frames(self) -> Iterator[tuple[int, str, bytes | str]]:
        """Give (pfn, "page", bytes) or (pfn, "lost", reason)."""
        if sum(end - start for start, end in self.requested) > MAX_FRAMES * PAGE:
            raise ReferenceError("vmdump: more frames than the reference lists")
        places = {pfn: self.data + rank * PAGE for rank, pfn in enumerate(self.stored)}
        asked = {pfn for start, end in self.requested for pfn in range(start // PAGE, end // PAGE)}
        for pfn in sorted(asked | places.keys()):
            place = places.get(pfn)
            if place is None:
                yield pfn, "page", bytes(PAGE)
            elif self.source.has(place, PAGE):
                yield pfn, "page", self.source.read(place, PAGE)
            else:
                yield pfn, "lost", "behind the end of the file"
