# SPDX-License-Identifier: GPL-2.0-or-later
"""xc_core before ELF: what `xm dump-core` of Xen 3.0 wrote.

    magic, vcpus, pages, three offsets | contexts | index: one machine frame a page | pad | pages

The index is the hypervisor's list of the guest's pages, in the order in which they were given: no file says which
frame of the guest a page is. A paravirtual guest's own page tables do: its kernel maps frame n at base + n pages, and
the entry there names the machine frame. High memory of 32-bit guests is mapped nowhere.

Sheet: docs/formats/xc_core-old.md.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .errors import CorruptDump, TruncatedDump, UnsupportedDump
from .machine import ARCHITECTURES, Machine
from .machine_frames import P2M_NOTE, MachineFrames, p2m_dtype, pair_runs
from .notes import build_note
from .reader import Options, parse
from .segments import SegmentReader
from .source import ByteSource
from .xen_layout import (
    NAME_STATUS,
    NOTE_FORMAT_VERSION,
    NOTE_HEADER,
    NOTE_NAME,
    NOTE_NONE,
    XC_CORE_MAGIC,
    XC_CORE_MAGIC_HVM,
    core_header,
    dumpcore_header,
)
from .xen_registers import CONTEXT_MACHINES, CONTEXT_SIZE, context_registers, context_root, register_note

__all__ = ["OldXenCoreReader"]

_PAGE = 4096
_HEADER = 24
_MAX_VCPUS = 8192
U64 = NDArray[np.uint64]
# Direct maps of the kernels of that time, by word size: base, and shapes of tables: (bytes of an entry, levels).
_BASES = {8: (0xFFFF810000000000, 0xFFFF880000000000, 0xFFFFFF8000000000), 4: (0xC0000000,)}
_SHAPES = {8: ((8, 4),), 4: ((8, 3), (4, 2))}
_PRESENT, _LARGE = 1, 0x80
_MAX_TABLES = 1 << 14
_MAX_PAGES = 1 << 23  # 32 GiB, more than guests of that time had


class OldXenCoreReader(SegmentReader):
    """An xc_core file of Xen 3.0.

    Args:
        sources: One file.
        options: See `Options`; `view` "machine" numbers pages by machine frames.

    Raises:
        CorruptDump, TruncatedDump: The header contradicts itself or the file.
        UnsupportedDump: No page table tells which frame a page is.
    """

    name: ClassVar[str] = "xc_core-old"
    views: ClassVar[tuple[str, ...]] = ("machine",)

    def __init__(self, sources: tuple[ByteSource, ...], options: Options) -> None:
        super().__init__(sources)
        self._source = sources[0]
        self._source.finish()
        self.scanned = True
        self._read_header()
        self._read_contexts()
        arch = ARCHITECTURES[options.machine or ("x86_64" if self._word_size == 8 else "i386")]
        if arch.name not in CONTEXT_MACHINES:
            raise UnsupportedDump(
                f"dumps of Xen 3.0 are of {' and '.join(CONTEXT_MACHINES)}, not {arch.name}", path=self._source.name
            )
        self.machine = Machine(arch.name, "little", arch.word_size, _PAGE, arch.e_machine)
        self._read_index()
        pfn, page = self._place(options.view == "machine")
        self._make_notes(pfn, page, options.view == "machine")
        self._lay_out(pfn, page)

    @staticmethod
    def probe(source: ByteSource) -> bool:
        """See `DumpReader.probe`."""
        magics = [magic.to_bytes(4, "little") for magic in (XC_CORE_MAGIC, XC_CORE_MAGIC_HVM)]
        return source.size >= _HEADER and source.pread(0, 4) in magics

    # -- header, contexts, index ---------------------------------------------------------------------------------

    def _corrupt(self, message: str, offset: int = 0) -> CorruptDump:
        return CorruptDump(f"xc_core header: {message}", path=self._source.name, offset=offset)

    def _read_header(self) -> None:
        header = self._header = parse(core_header(), self._source, 0, "xc_core header")
        if header.xch_nr_vcpus > _MAX_VCPUS:
            raise self._corrupt(f"{header.xch_nr_vcpus} CPUs, the limit is {_MAX_VCPUS}", 4)
        if not _HEADER <= header.xch_ctxt_offset <= header.xch_index_offset <= header.xch_pages_offset:
            raise self._corrupt(
                f"contexts at {header.xch_ctxt_offset:#x}, index at {header.xch_index_offset:#x}, pages at "
                f"{header.xch_pages_offset:#x}: not one after another",
                12,
            )
        if header.xch_pages_offset > self._source.size:
            raise TruncatedDump(
                f"pages begin at {header.xch_pages_offset:#x}, the file has {self._source.size} bytes",
                path=self._source.name,
            )
        if header.xch_nr_pages > _MAX_PAGES:
            raise self._corrupt(f"{header.xch_nr_pages} pages, the limit is {_MAX_PAGES}", 8)
        room = header.xch_pages_offset - header.xch_index_offset
        if 4 * header.xch_nr_pages > room:
            raise self._corrupt(f"{header.xch_nr_pages} pages, their index has {room} bytes", 8)

    def _read_contexts(self) -> None:
        header = self._header
        room = header.xch_index_offset - header.xch_ctxt_offset
        size = room // header.xch_nr_vcpus if header.xch_nr_vcpus else 0
        words = {context: word for word, context in CONTEXT_SIZE.items()}
        if header.xch_nr_vcpus and size not in words:
            raise self._corrupt(f"{header.xch_nr_vcpus} contexts of {size} bytes, {list(words)} are known", 16)
        self._context_size = size
        wide = header.xch_pages_offset - header.xch_index_offset >= 8 * max(1, header.xch_nr_pages)
        self._word_size = words.get(size, 8 if wide else 4)
        self._entry_size = 8 if wide and (size != CONTEXT_SIZE[4] or self._upper_halves_empty()) else 4
        self._contexts = self._source.pread(header.xch_ctxt_offset, size * header.xch_nr_vcpus)

    def _upper_halves_empty(self) -> bool:
        # A small index of 4-byte entries has room for 8 in its last page. Machine frames have at most 28 bits then.
        count = min(64, self._header.xch_nr_pages)
        raw = np.frombuffer(self._source.pread(self._header.xch_index_offset, 8 * count), "<u4")
        return not bool(((raw[1::2] != 0) & (raw[1::2] != 0xFFFFFFFF)).any())

    def _read_index(self) -> None:
        header = self._header
        raw = self._source.pread(header.xch_index_offset, header.xch_nr_pages * self._entry_size)
        mfns = np.frombuffer(raw, f"<u{self._entry_size}")
        self._valid = mfns != np.array(-1).astype(mfns.dtype)
        self._mfns = mfns.astype(np.uint64, copy=False)

    # -- which frame is it? --------------------------------------------------------------------------------------

    def _place(self, by_machine: bool) -> tuple[U64, U64]:
        # frames and the number of their page in the file
        pages = np.flatnonzero(self._valid).astype(np.uint64)
        if by_machine:
            order = np.argsort(self._mfns[self._valid], kind="stable")
            return self._mfns[self._valid][order], pages[order]
        if self._header.xch_magic == XC_CORE_MAGIC_HVM:
            self.remark(
                "frames-assumed",
                "no file of this format says which frame a page is: the order of pages is taken for it",
            )
            return pages, pages
        found = self._walk()
        if found is None:
            raise UnsupportedDump(
                "no page table tells which frame of the guest a page is",
                path=self._source.name,
                hint="--view machine numbers pages by machine frames, which a debugger with symbols can sort out",
            )
        pfn, page = found
        lost = len(pages) - len(pfn)
        if lost:
            self.incomplete = True
            self.remark("unplaced", f"{lost} of {len(pages)} pages are mapped nowhere: their frame is not known")
        return pfn, page

    def _walk(self) -> tuple[U64, U64] | None:
        order = np.argsort(self._mfns, kind="stable")
        tables = _Tables(self._source, self._header.xch_pages_offset, self._mfns[order], order)
        nr_pages = len(self._mfns)
        for cpu in range(min(self._header.xch_nr_vcpus, 8)):
            raw = self._contexts[cpu * self._context_size :]
            root = context_root(raw, self._word_size) >> 12
            for entry_size, levels in _SHAPES[self._word_size]:
                top = root if entry_size == 8 else context_root(raw, 4) >> 12
                for base in _BASES[self._word_size]:
                    pfn, mfn = tables.direct_map(top, entry_size, levels, base, nr_pages)
                    page = tables.pages_of(mfn)
                    known = page >= 0
                    pfn, page = pfn[known], page[known]
                    _, first = np.unique(page, return_index=True)
                    first.sort()
                    # half of its memory at least is where a kernel has its direct map, and nowhere else
                    if 2 * len(first) >= int(self._valid.sum()) or (self._word_size == 4 and len(first) >= 0x20000):
                        self._root = root
                        return pfn[first], page[first].astype(np.uint64)
        return None

    # -- results -------------------------------------------------------------------------------------------------

    def _make_notes(self, pfn: U64, page: U64, by_machine: bool) -> None:
        header = self._header
        for cpu in range(header.xch_nr_vcpus):
            raw = self._contexts[cpu * self._context_size : (cpu + 1) * self._context_size]
            registers = context_registers(raw, self._word_size)
            self.notes.append(register_note(registers, self.machine.arch, "little", cpu))
            root = context_root(raw, self._word_size)
            if root and self.machine.arch == "x86_64":
                self.page_table_roots.append((root, f"CR3 of vcpu {cpu}"))
        paired = header.xch_magic == XC_CORE_MAGIC and not by_machine
        if paired:
            desc = dumpcore_header("little").build(
                {
                    "xch_magic": header.xch_magic, "xch_nr_vcpus": header.xch_nr_vcpus,
                    "xch_nr_pages": len(pfn), "xch_page_size": _PAGE,
                }
            )  # fmt: skip
            self.notes += [
                build_note(NOTE_NAME, NOTE_NONE, b""),
                build_note(NOTE_NAME, NOTE_HEADER, desc),
                build_note(NOTE_NAME, NOTE_FORMAT_VERSION, (1).to_bytes(8, "little")),
            ]
        if self._contexts:
            self.notes.append(build_note(NAME_STATUS, 0, self._contexts))
        if paired:
            mfn = self._mfns[page]
            self.machine_frames = MachineFrames.from_pairs([(pfn, mfn)])
            table = np.empty(len(pfn), p2m_dtype("little"))
            table["pfn"], table["gmfn"] = pfn, mfn
            self.notes.append(build_note(P2M_NOTE, 0, table.tobytes()))
        self.facts = {
            "guest": "PV" if header.xch_magic == XC_CORE_MAGIC else "HVM",
            "vcpus": header.xch_nr_vcpus,
            "pages": header.xch_nr_pages,
            "empty_entries": int((~self._valid).sum()),
        }

    def _lay_out(self, pfn: U64, page: U64) -> None:
        shift = np.uint64(12)
        there = max(0, self._source.size - self._header.xch_pages_offset) >> 12
        pfn, page, count = pair_runs(pfn, page)
        stored = np.minimum(np.maximum(np.uint64(there), page) - page, count)
        if bool((stored < count).any()):
            self.damage = TruncatedDump(
                f"{self._header.xch_nr_pages} pages from {self._header.xch_pages_offset:#x} on, the file has {there}",
                path=self._source.name,
                hint="use --salvage for what is whole",
            )
        offset = np.uint64(self._header.xch_pages_offset) + (page << shift)
        self.lay_out(pfn << shift, stored << shift, count << shift, offset)


class _Tables:
    """Page tables among pages that are known by machine frame."""

    def __init__(self, source: ByteSource, offset: int, mfns: U64, order: NDArray[Any]) -> None:
        self._source, self._offset, self._mfns, self._order = source, offset, mfns, order
        self._read = 0

    def pages_of(self, mfn: U64) -> NDArray[np.int64]:
        """Return the number of the page that holds each machine frame, -1 where none does."""
        row = np.minimum(np.searchsorted(self._mfns, mfn), max(0, len(self._mfns) - 1))
        if not len(self._mfns):
            return np.full(len(mfn), -1, np.int64)
        return np.where(self._mfns[row] == mfn, self._order[row], -1).astype(np.int64)

    def _entries(self, mfn: int, entry_size: int) -> NDArray[Any] | None:
        page = int(self.pages_of(np.array([mfn], np.uint64))[0])
        at = self._offset + (page << 12)
        self._read += 1
        if page < 0 or at + _PAGE > self._source.size or self._read > _MAX_TABLES:
            return None
        return np.frombuffer(self._source.pread(at, _PAGE), f"<u{entry_size}").astype(np.uint64)

    def direct_map(self, root: int, entry_size: int, levels: int, base: int, nr_pages: int) -> tuple[U64, U64]:
        """Return frames and machine frames that the tables map from `base` on, at most `nr_pages` of them."""
        bits = 9 if entry_size == 8 else 10
        found: list[tuple[U64, U64]] = []
        self._read = 0
        vaddr = base & ((1 << 48) - 1 if levels == 4 else 0xFFFFFFFF)
        self._level(root, levels, bits, entry_size, vaddr >> 12, nr_pages, 0, found)
        if not found:
            return np.empty(0, np.uint64), np.empty(0, np.uint64)
        return np.concatenate([each[0] for each in found]), np.concatenate([each[1] for each in found])

    def _level(
        self, mfn: int, level: int, bits: int, entry_size: int, first: int, count: int, start: int,
        found: list[tuple[U64, U64]],
    ) -> None:  # fmt: skip
        # The entries of this table for the pages [first, first + count) of the virtual space; `start` is the page
        # that the table begins with.
        table = self._entries(mfn, entry_size)
        if table is None:
            return
        span = 1 << bits * (level - 1)
        low = max(0, (first - start) // span)
        high = min(len(table), -(-(first + count - start) // span))
        entries = table[low:high]
        mask = np.uint64(0x000FFFFFFFFFF000 if entry_size == 8 else 0xFFFFF000)
        present = (entries & np.uint64(_PRESENT)) != 0
        if level == 1:
            pages = np.arange(start + low, start + high, dtype=np.uint64) - np.uint64(first)
            found.append((pages[present], (entries[present] & mask) >> np.uint64(12)))
            return
        for index in np.flatnonzero(present).tolist():
            entry = int(entries[index])
            if not entry & _LARGE or level == 4:
                self._level(
                    (entry & int(mask)) >> 12, level - 1, bits, entry_size, first, count,
                    start + (low + index) * span, found,
                )  # fmt: skip
