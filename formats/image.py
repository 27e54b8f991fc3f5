# SPDX-License-Identifier: GPL-2.0-or-later
"""Physical memory by address: `MemoryImage`, and `DumpImage`, which gives it for any reader, page by page."""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

from . import codecs
from .errors import PageDecodeError
from .machine import Machine
from .pages import MemoryMap, PageState
from .reader import DumpReader

__all__ = ["DumpImage", "MemoryImage"]

_CACHE_PAGES = 256


class MemoryImage(Protocol):
    """All that comparison and analysis may know of a dump."""

    machine: Machine
    memory_map: MemoryMap

    def read_physical(self, paddr: int, size: int) -> bytes:
        """Return bytes of physical memory; PageDecodeError where a page is not there."""


class DumpImage:
    """Random access to a reader's pages, with a small cache. Slow and strict: one page at a time."""

    def __init__(self, reader: DumpReader) -> None:
        self._reader = reader
        self.machine = reader.machine
        self.memory_map = reader.memory_map
        self._cache: OrderedDict[int, bytes] = OrderedDict()

    def read_page(self, pfn: int) -> bytes:
        """Return one page.

        Raises:
            PageDecodeError: The page is not in the dump, or does not decode.
        """
        page = self._cache.get(pfn)
        if page is None:
            page = self._cache[pfn] = self._decode(pfn)
            if len(self._cache) > _CACHE_PAGES:
                self._cache.popitem(last=False)
        else:
            self._cache.move_to_end(pfn)
        return page

    def _decode(self, pfn: int) -> bytes:
        size = self.machine.page_size
        unit = self._reader.unit_pages
        page = bytearray(size * unit)
        extents = self._reader.extents(pfn, pfn + 1)
        if not len(extents):
            state = self.memory_map.state_of(pfn)
            state = PageState.LOST if state == PageState.STORED else state
            raise PageDecodeError(f"page is not in the dump: {state.name.lower()}", pfn=pfn)
        for extent in extents:
            source = self._reader.sources[int(extent["file"])]
            codec, offset, stored = int(extent["codec"]), int(extent["offset"]), int(extent["stored_size"])
            if codec == codecs.BAD:
                text = codecs.REASONS[int(extent["page_offset"])][1]
                raise PageDecodeError(text.format(offset=offset, size=stored), path=source.name, pfn=pfn)
            if codec == codecs.ZERO:
                continue
            data = source.pread(offset, stored)
            if codec == codecs.RAW:
                start = int(extent["page_offset"])
                page[start : start + stored] = data
                continue
            try:
                page[:] = codecs.decode_page(codec, data, size * unit)
            except ValueError as error:
                raise PageDecodeError(str(error), path=source.name, offset=offset, pfn=pfn) from error
        inside = pfn % unit * size
        return bytes(page[inside : inside + size])

    def read_physical(self, paddr: int, size: int) -> bytes:
        """See `MemoryImage.read_physical`."""
        parts = []
        while size > 0:
            pfn, start = divmod(paddr, self.machine.page_size)
            part = self.read_page(pfn)[start : start + size]
            parts.append(part)
            paddr += len(part)
            size -= len(part)
        return b"".join(parts)
