# SPDX-License-Identifier: GPL-2.0-or-later
"""The reference decoder for raw memory: address = base + position - offset, and that is all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .reference_source import ReferenceDump, ReferenceError, Source

WORDS = {"x86_64": 64, "i386": 32, "s390x": 64, "alpha": 64}


class RawReference:
    """Flat files at addresses that the options give."""

    def __init__(self, sources: list[Source], options: Mapping[str, Any]) -> None:
        self.page_size = options.get("page_size", 4096)
        bases = options.get("bases", [options.get("base", 0)])
        if len(bases) != len(sources) or "machine" not in options:
            raise ReferenceError("no address for each piece, or no machine", "usage")
        self.memory: dict[int, bytes] = {}
        self.lost_from, self.end = 1 << 64, 0
        offset = options.get("offset", 0)
        for base, source in zip(bases, sources, strict=True):
            if offset > source.size:
                raise ReferenceError("offset beyond the file", "usage")
            data = source.read(offset, source.size - offset)
            length = options.get("length", len(data))
            self.memory[base] = data[:length]
            if length > len(data):
                self.lost_from, self.end = base + len(data), base + length
        self.result = ReferenceDump(
            "raw",
            self.page_size,
            ">" if options["machine"] == "s390x" else "<",
            WORDS[options["machine"]],
            truncated=self.lost_from < self.end,
        )

    def frames(self) -> Iterator[tuple[int, str, bytes | str]]:
        """Give (pfn, "page", bytes) or (pfn, "lost", reason) in pfn order."""
        size = self.page_size
        known: dict[int, dict[int, bytes]] = {}
        for base, data in self.memory.items():
            for pfn in range(base // size, -(-(base + len(data)) // size)):
                start = max(base, pfn * size)
                part = data[start - base : (pfn + 1) * size - base]
                known.setdefault(pfn, {})[start - pfn * size] = part
        lost = range(self.lost_from // size, -(-self.end // size)) if self.lost_from < self.end else range(0)
        for pfn in sorted({*known, *lost}):
            if pfn in lost:
                yield pfn, "lost", "the file ends before"
                continue
            page, runs = bytearray(size), []
            for at, part in sorted(known[pfn].items()):
                page[at : at + len(part)] = part
                if runs and runs[-1][1] == at:
                    runs[-1] = (runs[-1][0], at + len(part))
                else:
                    runs.append((at, at + len(part)))
            if runs != [(0, size)]:
                self.result.partial[pfn] = runs
            yield pfn, "page", bytes(page)
