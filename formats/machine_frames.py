# SPDX-License-Identifier: GPL-2.0-or-later
"""Machine frames of a paravirtual guest: its page tables hold other frame numbers than its memory is numbered by.

A guest of Xen that is paravirtual (PV) sees its memory as frames 0, 1, 2 ... (pfn); where the hypervisor put them
(mfn) stands in page tables and in the control register that names them. Who walks such tables needs the pairs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .machine import ByteOrder
from .notes import Note, find_note

__all__ = ["P2M_NOTE", "MachineFrames", "frames_of_notes", "p2m_dtype", "p2m_rows", "pair_runs"]

U64 = NDArray[np.uint64]

# Name of the note in a canonical file whose descriptor is the table of pairs, as in the section of an xc_core file.
P2M_NOTE = b".xen_p2m"
_ROWS = 1 << 16  # of the table read at a time: 1 MiB


def p2m_dtype(byteorder: ByteOrder) -> np.dtype[Any]:
    """Return the layout of one pair: struct xen_dumpcore_p2m."""
    mark = "<" if byteorder == "little" else ">"
    return np.dtype([("pfn", mark + "u8"), ("gmfn", mark + "u8")])


def p2m_rows(note: Note, byteorder: ByteOrder) -> Iterable[NDArray[Any]]:
    """Yield the pairs of a table note, some at a time."""
    dtype = p2m_dtype(byteorder)
    size = note.size - note.size % dtype.itemsize
    for at in range(0, size, _ROWS * dtype.itemsize):
        raw = note.source.pread(note.offset + at, min(_ROWS * dtype.itemsize, size - at))
        yield np.frombuffer(raw, dtype)


@dataclass(frozen=True)
class MachineFrames:
    """Runs of frames that are neighbours in both numberings, by machine frame.

    Attributes:
        mfn, pfn: First machine frame and first frame of each run; sorted by `mfn`.
        count: Frames of each run.
    """

    mfn: U64
    pfn: U64
    count: U64

    @classmethod
    def from_pairs(cls, chunks: Iterable[tuple[U64, U64]]) -> MachineFrames:
        """Build from (pfn, mfn) columns, any number of them; memory depends on the runs only."""
        runs = [pair_runs(pfn, mfn) for pfn, mfn in chunks if len(pfn)]
        if not runs:
            empty = np.empty(0, np.uint64)
            return cls(empty, empty, empty)
        pfn, mfn, count = (np.concatenate([run[at] for run in runs]) for at in range(3))
        order = np.argsort(mfn, kind="stable")
        return cls(mfn[order], pfn[order], count[order])

    def pfn_of(self, mfn: int) -> int | None:
        """Return the frame that lies in a machine frame, None where none of this guest does."""
        if not len(self.mfn) or mfn >= 1 << 64:
            return None
        row = int(np.searchsorted(self.mfn, np.uint64(mfn), side="right")) - 1
        if row < 0 or mfn - int(self.mfn[row]) >= int(self.count[row]):
            return None
        return int(self.pfn[row]) + mfn - int(self.mfn[row])

    def paddr_of(self, address: int, page_shift: int) -> int | None:
        """Return the physical address of the guest that a machine address is, None where it is none of its own."""
        pfn = self.pfn_of(address >> page_shift)
        return None if pfn is None else pfn << page_shift | address & (1 << page_shift) - 1

    def address_of(self, paddr: int, page_shift: int) -> int | None:
        """Return the machine address of a physical address of the guest, None where it has none."""
        pfn = paddr >> page_shift
        rows = np.flatnonzero(self.pfn <= np.uint64(pfn)) if 0 <= pfn < 1 << 52 else np.empty(0, np.int64)
        rows = rows[np.uint64(pfn) - self.pfn[rows] < self.count[rows]] if len(rows) else rows
        if not len(rows):
            return None
        mfn = int(self.mfn[rows[0]]) + pfn - int(self.pfn[rows[0]])
        return mfn << page_shift | paddr & (1 << page_shift) - 1


def pair_runs(pfn: U64, other: U64) -> tuple[U64, U64, U64]:
    """Join neighbours in both columns; return where runs begin in each and how long they are."""
    if not len(pfn):
        return pfn, other, np.empty(0, np.uint64)
    one = np.uint64(1)
    follows = (pfn[1:] == pfn[:-1] + one) & (other[1:] == other[:-1] + one)
    first = np.concatenate([[0], np.flatnonzero(~follows) + 1])
    count = np.diff(np.append(first, len(pfn))).astype(np.uint64)
    return pfn[first], other[first], count


def frames_of_notes(notes: Iterable[Note], byteorder: ByteOrder) -> MachineFrames | None:
    """Return what a canonical file's table says, None where it has no such note."""
    note = find_note(notes, P2M_NOTE)
    if note is None:
        return None
    rows = p2m_rows(note, byteorder)
    return MachineFrames.from_pairs((part["pfn"].astype(np.uint64), part["gmfn"].astype(np.uint64)) for part in rows)
