# SPDX-License-Identifier: GPL-2.0-or-later
"""The view of dom0 into the dump of a whole Xen host (`--view dom0`).

A host's dump is numbered by machine frames: all guests and the hypervisor are in it. The hypervisor's note names the
machine frame of dom0's list of lists: three levels of pages with 512 machine frames each, the last of which say where
dom0's frames 0, 1, 2 ... are. The view is a reader over the reader of the dump, of whatever format that is.

Sheet: docs/formats/xen.md section 4.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from . import codecs
from .errors import CorruptDump, DumpError, UsageError
from .image import DumpImage
from .machine_frames import P2M_NOTE, MachineFrames, p2m_dtype, pair_runs
from .notes import XEN_CRASH_INFO, XEN_NAMES, Note, build_note
from .pages import EXTENT, MemoryMapBuilder, PageState
from .reader import DumpReader
from .xen_layout import (
    NOTE_FORMAT_VERSION,
    NOTE_HEADER,
    NOTE_NAME,
    NOTE_NONE,
    XC_CORE_MAGIC,
    dumpcore_header,
)

__all__ = ["Dom0View", "hypervisor_note"]

_CRASH_REGS = 0x1000002
_PER_PAGE = 512
_FLAGS = np.uint64(3 << 62)  # foreign frame, identity
_ONES = np.uint64(0xFFFFFFFFFFFFFFFF)
_IDENTITY = 1 << 20  # frames of devices below 4 GiB, which are in no dump
_MAX_GAP = 64  # frames that are asked for in vain, to ask once
U64 = NDArray[np.uint64]


def hypervisor_note(notes: list[Note]) -> Note | None:
    """Return the note that makes a dump one of a whole Xen host, None where there is none."""
    for note in notes:
        if note.name in XEN_NAMES and note.type == XEN_CRASH_INFO:
            return note
    return None


def list_frame(note: Note) -> int | None:
    """Return the machine frame of dom0's list of lists: the last word of 9 or more; None where the note has less."""
    words = np.frombuffer(note.desc(4096 & ~7)[: note.size & ~7], "<u8")
    return int(words[-1]) if len(words) >= 9 else None


class Dom0View(DumpReader):
    """dom0's memory in the dump of its host.

    Args:
        inner: Reader of the dump.

    Raises:
        UsageError: It is none of a Xen host.
        CorruptDump: dom0's list leads nowhere.
    """

    name: ClassVar[str] = "xen-dom0"

    def __init__(self, inner: DumpReader) -> None:
        super().__init__(inner.sources)
        self._inner = inner
        note = hypervisor_note(inner.notes)
        if note is None or inner.machine.arch != "x86_64" or inner.unit_pages != 1:
            raise UsageError(
                "--view dom0 is for dumps of a Xen host: a note of the hypervisor says where dom0 is",
                path=inner.sources[0].name,
            )
        frame = list_frame(note)
        if not frame:
            raise UsageError(
                "the hypervisor's note names no list of dom0's frames: dom0 is not paravirtual",
                path=inner.sources[0].name,
            )
        self.machine = inner.machine
        self._image = DumpImage(inner)
        self._nr_unread = 0
        self._pfn, self._mfn, self._count = self._walk(frame)
        if not len(self._pfn):
            raise CorruptDump(
                f"dom0's list of lists at machine frame {frame:#x} leads to no frame", path=inner.sources[0].name
            )
        if self._nr_unread:
            self.remark(
                "p2m", f"{self._nr_unread} pages of dom0's list are not in the dump: their frames are not known"
            )
        self.machine_frames = MachineFrames.from_pairs([self._pairs(0, 1 << 52)])
        self._build_map()
        self._take_over(frame)

    @staticmethod
    def probe(source: Any) -> bool:
        """See `DumpReader.probe`: no file has a signature of it."""
        return False

    # -- dom0's list ---------------------------------------------------------------------------------------------

    def _page(self, mfn: int) -> U64 | None:
        try:
            return np.frombuffer(self._image.read_page(mfn), "<u8").astype(np.uint64)
        except DumpError:
            self._nr_unread += 1
            return None

    def _walk(self, frame: int) -> tuple[U64, U64, U64]:
        # Slots that are not used name one shared page without frames, again and again: each page is read once.
        top = self._page(frame)
        parts: list[tuple[U64, U64]] = []
        seen: set[int] = {frame}
        known = int((self._inner.memory_map.end - self._inner.memory_map.start).sum())
        named, most = 0, 2 * known + _IDENTITY
        for high, middle in enumerate(top.tolist() if top is not None else []):
            if middle in (0, int(_ONES)) or middle in seen:
                continue
            seen.add(middle)
            leaves = self._page(middle)
            for low, leaf in enumerate(leaves.tolist() if leaves is not None else []):
                if leaf in (0, int(_ONES)) or leaf in seen:
                    continue
                seen.add(leaf)
                entries = self._page(leaf)
                if entries is None:
                    continue
                valid = entries != _ONES
                first = (high * _PER_PAGE + low) * _PER_PAGE
                pfn = np.arange(first, first + _PER_PAGE, dtype=np.uint64)[valid]
                named += len(pfn)
                if named > most:
                    raise CorruptDump(
                        f"dom0's list names more than {most} frames, the dump has {known}",
                        path=self.sources[0].name,
                        pfn=leaf,
                    )
                if len(pfn):
                    parts.append((pfn, entries[valid] & ~_FLAGS))
        return _runs(parts)

    def _pairs(self, start_pfn: int, end_pfn: int) -> tuple[U64, U64]:
        # frames of [start_pfn, end_pfn) and their machine frames
        low = int(np.searchsorted(self._pfn + self._count, np.uint64(start_pfn), side="right"))
        high = int(np.searchsorted(self._pfn, np.uint64(end_pfn)))
        pfn, mfn, count = (each[low : max(low, high)] for each in (self._pfn, self._mfn, self._count))
        size = count.astype(np.int64)
        inside = (np.arange(int(size.sum())) - np.repeat(np.cumsum(size) - size, size)).astype(np.uint64)
        pfns, mfns = np.repeat(pfn, size) + inside, np.repeat(mfn, size) + inside
        keep = (pfns >= np.uint64(start_pfn)) & (pfns < np.uint64(end_pfn))
        return pfns[keep], mfns[keep]

    # -- map and extents -----------------------------------------------------------------------------------------

    def _build_map(self) -> None:
        builder = MemoryMapBuilder()
        end = int(self._pfn[-1] + self._count[-1])
        for low in range(0, end, 1 << 20):
            pfn, mfn = self._pairs(low, low + (1 << 20))
            state = self._inner.memory_map.states_at(mfn)
            known = state != PageState.HOLE
            builder.add(pfn[known], pfn[known] + np.uint64(1), state[known])
        self.memory_map = builder.build()

    def extents(self, start_pfn: int, end_pfn: int) -> NDArray[Any]:
        """See `DumpReader.extents`."""
        pfn, mfn = self._pairs(start_pfn, end_pfn)
        if not len(pfn):
            return np.zeros(0, EXTENT)
        wanted = np.unique(mfn)
        edge = np.flatnonzero(np.diff(wanted) > np.uint64(_MAX_GAP)) + 1
        first, last = np.concatenate([[0], edge]), np.concatenate([edge, [len(wanted)]]) - 1
        rows = [
            _one_by_one(self._inner.extents(int(wanted[low]), int(wanted[high]) + 1), self.machine.page_size)
            for low, high in zip(first, last, strict=True)
        ]
        table = np.concatenate(rows)
        low, high = (np.searchsorted(table["start_pfn"], mfn, side=side) for side in ("left", "right"))
        size = high - low
        inside = np.arange(int(size.sum())) - np.repeat(np.cumsum(size) - size, size)
        found: NDArray[Any] = table[np.repeat(low, size) + inside]
        found["start_pfn"] = np.repeat(pfn, size)
        return found

    def finish_notes(self) -> None:
        """See `DumpReader.finish_notes`."""
        known = len(self._inner.notes)
        self._inner.finish_notes()
        self.notes += self._inner.notes[known:]
        self.damage = self.damage or self._inner.damage

    # -- notes and the rest ----------------------------------------------------------------------------------------

    def _take_over(self, frame: int) -> None:
        inner = self._inner
        self.damage, self.incomplete = inner.damage, inner.incomplete
        self.scanned = True  # machine frames come in any order
        self.findings += inner.findings
        rows = []
        for mfn, start, end in inner.partial.tolist():
            pfn = self.machine_frames.pfn_of(mfn) if self.machine_frames is not None else None
            if pfn is not None:
                rows.append((pfn, start, end))
        self.partial = np.array(sorted(rows), np.uint64).reshape(-1, 3)
        for note in inner.notes:
            if note.name in XEN_NAMES and note.type == _CRASH_REGS and note.size >= 32:
                root = int.from_bytes(note.desc(32)[16:24], "little") & 0x000FFFFFFFFFF000
                self.page_table_roots.append((root, "CR3 of the hypervisor's note"))
        # The hypervisor's note would make crash look for dom0 once more.
        self.notes = [note for note in inner.notes if not (note.name in XEN_NAMES and note.type == XEN_CRASH_INFO)]
        self._add_table()
        self.facts = {**inner.facts, "host": inner.name, "list_mfn": frame}

    def _add_table(self) -> None:
        pfn, mfn = self._pairs(0, 1 << 52)
        stored = self.memory_map.states_at(pfn) == PageState.STORED
        table = np.empty(int(stored.sum()), p2m_dtype("little"))
        table["pfn"], table["gmfn"] = pfn[stored], mfn[stored]
        header = dumpcore_header("little").build(
            {"xch_magic": XC_CORE_MAGIC, "xch_nr_vcpus": 0, "xch_nr_pages": len(table), "xch_page_size": 4096}
        )
        self.notes += [
            build_note(NOTE_NAME, NOTE_NONE, b""),
            build_note(NOTE_NAME, NOTE_HEADER, header),
            build_note(NOTE_NAME, NOTE_FORMAT_VERSION, (1).to_bytes(8, "little")),
            build_note(P2M_NOTE, 0, table.tobytes()),
        ]

    def duplicates(self) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        """See `DumpReader.duplicates`: the host's are none of dom0's business."""
        return iter(())


def _runs(parts: list[tuple[U64, U64]]) -> tuple[U64, U64, U64]:
    if not parts:
        none = np.empty(0, np.uint64)
        return none, none, none
    pfn, mfn = (np.concatenate([part[at] for part in parts]) for at in range(2))
    return pair_runs(pfn, mfn)


def _one_by_one(rows: NDArray[Any], page_size: int) -> NDArray[Any]:
    # extents of one frame each
    count = rows["nr_pages"].astype(np.int64)
    table = np.repeat(rows, count)
    inside = (np.arange(len(table)) - np.repeat(np.cumsum(count) - count, count)).astype(np.uint64)
    table["start_pfn"] += inside
    many = np.repeat(count > 1, count)
    moving = many & (table["codec"] == codecs.RAW)
    table["offset"][moving] += inside[moving] * np.uint64(page_size)
    table["stored_size"][many] = np.where(table["codec"][many] == codecs.ZERO, table["stored_size"][many], page_size)
    table["nr_pages"] = 1
    return table
