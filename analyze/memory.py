# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory of the dumped machine: physical pages through the decoder, kernel addresses through its page tables."""

from __future__ import annotations

import os
import struct
from collections import OrderedDict
from collections.abc import Callable
from typing import Literal, Protocol

import numpy as np

from ..formats.decode import DecodeJob
from ..formats.errors import DumpError
from ..formats.machine import Machine
from ..formats.pages import MAX_PFN, MemoryMap, PageState
from ..formats.reader import DumpReader
from ..formats.rows import sub_batches
from .errors import MissingTable, Unreadable

__all__ = ["KernelMemory", "PhysicalMemory", "Translator"]

_CACHE_BYTES = 64 << 20
_AROUND = 8  # frames read together with the one that is asked for, aligned: what lies together is used together
_MAX_READ = 1 << 28
_MAX_MET = 1 << 16
_MASK = 0xFFFFFFFFFFFFFFFF


class PhysicalMemory:
    """The pages of a dump by physical address, decoded when they are asked for.

    Args:
        reader: The dump.

    Attributes:
        pages_read: Pages decoded so far: what analysis cost.
        met: Frames that were asked for and are damaged or lost: frame -> (exit code, why). The first 65536.
    """

    def __init__(self, reader: DumpReader) -> None:
        self.machine: Machine = reader.machine
        self.memory_map: MemoryMap = reader.memory_map
        self.pages_read = 0
        self.met: dict[int, tuple[int, str]] = {}
        self._reader = reader
        self._size = reader.machine.page_size
        for source in reader.sources:
            source.expect_jumps()
        job = DecodeJob(
            os.urandom(16).hex(),
            reader.sources,
            self._size,
            salvage=True,
            unit_pages=reader.unit_pages,
            batch_bytes=1 << 18,
        )
        self._worker, self._capacity = job.worker(), job.capacity
        self._pages: OrderedDict[int, bytes] = OrderedDict()
        self._bad: dict[int, str] = {}
        self._max_pages = max(64, _CACHE_BYTES // self._size)

    def page(self, pfn: int) -> bytes:
        """Return one page.

        Raises:
            Unreadable: It is not in the dump, or does not decode.
        """
        page = self._pages.get(pfn)
        if page is None:
            if not 0 <= pfn < MAX_PFN:
                raise Unreadable(pfn * self._size, "not in the dump")
            if pfn in self._bad or self.memory_map.state_of(pfn) != PageState.STORED:
                raise self._unreadable(pfn)
            around = max(_AROUND, self._reader.unit_pages)
            start = pfn - pfn % around
            self._load(start, start + around)
            page = self._pages.get(pfn)
            if page is None:
                raise self._unreadable(pfn)
        return page

    def _unreadable(self, pfn: int) -> Unreadable:
        state = self.memory_map.state_of(pfn)
        why = self._bad.get(pfn, "not in the dump" if state == PageState.HOLE else state.name.lower())
        if state not in (PageState.HOLE, PageState.EXCLUDED) and len(self.met) < _MAX_MET:
            # what is lost by the writer's own word is no damage
            at_source = state == PageState.LOST and pfn not in self._bad and self._reader.damage is None
            self.met.setdefault(pfn, (4 if at_source else 3, why))
        return Unreadable(pfn * self._size, why)

    def _load(self, start_pfn: int, end_pfn: int) -> None:
        if start_pfn < 0 or end_pfn > min(MAX_PFN, (1 << 63) // self._size):
            return
        extents = self._reader.extents(start_pfn, end_pfn)
        for part, row_of in sub_batches(extents, self._capacity, self._size):
            pfns, damage = self._worker.fill(part, row_of)
            bad = {each.pfn: f"{each.state.name.lower()}: {each.reason}" for each in damage}
            if len(self._bad) < 1 << 16:
                self._bad.update(bad)
            rows = self._worker.rows.views
            for row, pfn in enumerate(pfns.tolist()):
                if pfn not in bad:
                    self._pages[pfn] = bytes(rows[row])
            self.pages_read += len(pfns)
        while len(self._pages) > self._max_pages:
            self._pages.popitem(last=False)

    def read(self, paddr: int, size: int) -> bytes:
        """Return bytes of physical memory.

        Raises:
            Unreadable: Not all of them are there.
        """
        pfn, start = divmod(paddr, self._size)
        if start + size <= self._size:
            return self.page(pfn)[start : start + size]
        if size > _MAX_READ:
            raise Unreadable(paddr, f"{size} bytes are more than is ever read at once")
        last = (paddr + size - 1) // self._size
        if last - pfn > _AROUND and last - pfn < self._max_pages // 2:
            missing = [each for each in range(pfn, last + 1) if each not in self._pages]
            if missing:
                self._load(missing[0], missing[-1] + 1)
        whole = b"".join([self.page(each) for each in range(pfn, last + 1)])
        return whole[start : start + size]

    # the name that formats.image.MemoryImage gives it
    read_physical = read


class Translator(Protocol):
    """A page-table walker."""

    def translate(self, vaddr: int) -> int | None:
        """Return the physical address, None where nothing is mapped; DumpError where a table is missing."""


class KernelMemory:
    """Kernel virtual memory.

    Args:
        physical: The pages.
        translator: Page tables, None where there are none.
        linear: (vaddr, paddr, size) of ranges that are known without page tables, the first that fits counts.

    Attributes:
        physical, translator, linear: As given.
        word: Bytes of a machine word.
        mark: The byte order as struct and numpy write it.
    """

    def __init__(
        self, physical: PhysicalMemory, translator: Translator | None, linear: list[tuple[int, int, int]]
    ) -> None:
        self.physical = physical
        machine = physical.machine
        self.word = machine.word_size
        self._shift, self._size = machine.page_shift, machine.page_size
        self._limit = (1 << 8 * self.word) - 1
        self._order: Literal["little", "big"] = machine.byteorder
        mark = "<" if machine.byteorder == "little" else ">"
        self.mark = mark
        self._u32 = struct.Struct(mark + "I").unpack
        self._word = struct.Struct(mark + ("Q" if self.word == 8 else "I")).unpack
        self._spare: Callable[[], tuple[int, int, int] | None] | None = None
        self.translator = translator
        self.linear = linear
        self._frames: dict[int, int] = {}

    def use_pages(self, size: int) -> None:
        """Set the size of the kernel's pages: a format's own may be larger."""
        self._shift, self._size = size.bit_length() - 1, size

    def translate(self, vaddr: int) -> int:
        """Return the physical address.

        Raises:
            Unreadable: Nothing is mapped there, or a page table is not in the dump.
        """
        page = vaddr >> self._shift
        frame = self._frames.get(page)
        if frame is None:
            frame = self._frame(page << self._shift)
            if len(self._frames) > 1 << 20:
                self._frames.clear()
            self._frames[page] = frame
        return frame << self._shift | vaddr & self._size - 1

    def _frame(self, vaddr: int) -> int:
        if not 0 <= vaddr <= self._limit:
            raise Unreadable(vaddr, "no address of this machine")
        for start, paddr, size in self.linear:
            if start <= vaddr < start + size:
                return (paddr + vaddr - start & _MASK) >> self._shift
        if self.translator is None:
            raise Unreadable(vaddr, "no page tables")
        try:
            found = self.translator.translate(vaddr)
        except Unreadable as error:
            known = self._without_tables(vaddr)
            if known is None:
                raise Unreadable(vaddr, f"page table at {error.address:#x}: {error.why}") from error
            return known >> self._shift
        except DumpError as error:
            raise Unreadable(vaddr, f"page tables: {error.message}") from error
        if found is None:
            raise Unreadable(vaddr, "not mapped")
        return found >> self._shift

    def know_range(self, find: Callable[[], tuple[int, int, int] | None]) -> None:
        """Say who knows a range like those of `linear`: asked, once, when a page table is missing."""
        self._spare = find

    def _without_tables(self, vaddr: int) -> int | None:
        if self._spare is not None:
            find, self._spare = self._spare, None  # who is asked reads memory, too
            found = find()
            if found is not None:
                self.linear.append(found)
        for start, paddr, size in self.linear:
            if start <= vaddr < start + size:
                return paddr + vaddr - start
        return None

    def read(self, vaddr: int, size: int) -> bytes:
        """Return bytes of kernel memory.

        Raises:
            Unreadable: Not all of them are there; `address` is virtual.
        """
        start = vaddr & self._size - 1
        try:
            if start + size <= self._size:
                return self.physical.read(self.translate(vaddr), size)
        except Unreadable as error:
            raise Unreadable(vaddr, error.why) from error
        if size > _MAX_READ:
            raise Unreadable(vaddr, f"{size} bytes are more than is ever read at once")
        return self._read_long(vaddr, size)

    def _read_long(self, vaddr: int, size: int) -> bytes:
        parts, at, end = [], vaddr, vaddr + size
        while at < end:
            # physical pages that follow each other are read together
            paddr = self.translate(at)
            count = min(end - at, self._size - (at & self._size - 1))
            while at + count < end and count < 1 << 22:
                if self.translate(at + count) != paddr + count:
                    break
                count += min(end - at - count, self._size)
            try:
                parts.append(self.physical.read(paddr, count))
            except Unreadable as error:
                raise Unreadable(at + max(0, error.address - paddr), error.why) from error
            at += count
        return b"".join(parts)

    def read_sparse(self, vaddr: int, size: int) -> tuple[bytes, list[tuple[int, int, str]]]:
        """Return bytes with zeros where they cannot be read, and (start, end, why) of these."""
        parts: list[bytes] = []
        missing: list[tuple[int, int, str]] = []
        at, end = vaddr, vaddr + size
        while at < end:
            count = min(end - at, self._size - (at & self._size - 1))
            try:
                parts.append(self.read(at, count))
            except Unreadable as error:
                parts.append(bytes(count))
                if missing and missing[-1][1] == at and missing[-1][2] == error.why:
                    missing[-1] = (missing[-1][0], at + count, error.why)
                else:
                    missing.append((at, at + count, error.why))
            at += count
        return b"".join(parts), missing

    def u8(self, vaddr: int) -> int:
        """Return an unsigned byte."""
        return self.read(vaddr, 1)[0]

    def u16(self, vaddr: int) -> int:
        """Return an unsigned 16-bit value."""
        return int.from_bytes(self.read(vaddr, 2), self._order)

    def u32(self, vaddr: int) -> int:
        """Return an unsigned 32-bit value."""
        return int(self._u32(self.read(vaddr, 4))[0])

    def s32(self, vaddr: int) -> int:
        """Return a signed 32-bit value."""
        return int.from_bytes(self.read(vaddr, 4), self._order, signed=True)

    def u64(self, vaddr: int) -> int:
        """Return an unsigned 64-bit value."""
        return int.from_bytes(self.read(vaddr, 8), self._order)

    def pointer(self, vaddr: int) -> int:
        """Return a machine word."""
        return int(self._word(self.read(vaddr, self.word))[0])

    def integer(self, vaddr: int, size: int, *, signed: bool = False) -> int:
        """Return an integer of 1 to 16 bytes.

        Raises:
            MissingTable: It has more: then it is none, whatever a table says.
            Unreadable: It is not in the dump.
        """
        if size > 16:
            raise MissingTable(f"an integer of {size} bytes at {vaddr:#x}")
        return int.from_bytes(self.read(vaddr, size), self._order, signed=signed)

    def words(self, vaddr: int, count: int) -> list[int]:
        """Return machine words."""
        letter = "Q" if self.word == 8 else "I"
        return list(struct.unpack(f"{self.mark}{count}{letter}", self.read(vaddr, count * self.word)))

    def array(self, vaddr: int, kind: str, count: int) -> np.ndarray:
        """Return a numpy array in the machine's byte order; `kind` is a numpy type without order, like `u4`."""
        dtype = np.dtype(self.mark + kind)
        return np.frombuffer(self.read(vaddr, count * dtype.itemsize), dtype)

    def string(self, vaddr: int, limit: int = 1024) -> bytes:
        """Return the bytes up to the first NUL, at most `limit`.

        Raises:
            Unreadable: The first of them cannot be read.
        """
        found = b""
        while len(found) < limit:
            count = min(limit - len(found), self._size - (vaddr + len(found) & self._size - 1))
            try:
                part = self.read(vaddr + len(found), count)
            except Unreadable:
                if not found:
                    raise
                break
            nul = part.find(b"\0")
            if nul >= 0:
                return found + part[:nul]
            found += part
        return found
