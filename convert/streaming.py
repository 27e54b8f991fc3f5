# SPDX-License-Identifier: GPL-2.0-or-later
"""Converting a stream in one pass: what must not be released, and reading back the output."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from ..formats import codecs
from ..formats.errors import PageDecodeError
from ..formats.intervals import union
from ..formats.machine import Machine
from ..formats.pages import MemoryMap
from ..formats.reader import DumpReader
from .output import PlacedPlan
from .outside import compared_duplicates

__all__ = ["OutputImage", "held_twice"]

U64 = NDArray[np.uint64]


def held_twice(reader: DumpReader) -> tuple[U64, U64]:
    """Return the file ranges of bytes that the dump holds at two places, and that are compared at the end."""
    found = [np.empty((0, 2), np.uint64)]
    for pair in compared_duplicates(reader):
        if pair is None:
            break
        rows = np.concatenate(pair)
        rows = rows[rows["codec"] != codecs.ZERO]
        found.append(np.stack(union(rows["offset"], rows["offset"] + rows["stored_size"]), axis=1))
    table = np.concatenate(found)
    return union(table[:, 0], table[:, 1])


class OutputImage:
    """Memory as it stands in the output file: for page tables when the source is gone."""

    def __init__(self, fd: int, layout: PlacedPlan, memory_map: MemoryMap) -> None:
        self._fd = fd
        self._layout = layout
        self.machine: Machine = layout.machine
        self.memory_map = memory_map

    def read_physical(self, paddr: int, size: int) -> bytes:
        """See `MemoryImage.read_physical`."""
        parts = []
        while size > 0:
            pfn, start = divmod(paddr, self.machine.page_size)
            offset = self._layout.offset_of(pfn)
            if offset is None:
                raise PageDecodeError("page is not in the dump", pfn=pfn)
            count = min(size, self.machine.page_size - start)
            parts.append(os.pread(self._fd, count, offset + start))
            paddr, size = paddr + count, size - count
        return b"".join(parts)
