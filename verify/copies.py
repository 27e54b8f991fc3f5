# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory that a dump holds twice: both copies must be the same bytes.

/proc/vmcore has the kernel's image by its own mapping and again among RAM, at two places of the file: the same physical
frames. A crashed or stopped machine changes nothing, so a difference is damage, also in text that was patched after
boot. Where the machine ran on while it was read the copies may be of different moments.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..formats import codecs
from ..formats.errors import DumpError
from ..formats.intervals import text_range
from ..formats.notes import find_note
from ..formats.pages import PageState
from ..formats.reader import DumpReader
from .verdict import BadRange, TargetReport

__all__ = ["check_copies"]

_PIECE = 1 << 20
_MAX_PAIRS = 1 << 16  # the kernel's image is a few; a hostile file has every byte in thousands of segments
_MAX_RUNS = 1 << 12  # runs of differing frames that are kept
_PLAIN = (codecs.RAW, codecs.ZERO)


class _Run(NamedTuple):
    # adjacent frames that differ, and where both copies lie: the one that counts, the other
    start_pfn: int
    end_pfn: int
    file: int
    offset: int
    end_offset: int
    other: int


def check_copies(reader: DumpReader, report: TargetReport) -> None:
    """Compare all bytes that the dump holds twice, up to twice its memory."""
    found = _Compared(reader)
    found.look()
    if found.nr_frames:
        what = "kernel image" if found.is_image else reader.copies
        size = found.nr_bytes
        if found.runs:
            _tell(found, what, report)
        else:
            report.proven.append(f"{what}: {size} bytes held twice are equal")
    if found.left_out:
        report.add("W220", f"not all copies were compared: {found.left_out}")


def _tell(found: _Compared, what: str, report: TargetReport) -> None:
    first, reader = found.runs[0], found.reader
    text = (
        f"{found.nr_differing} of {found.nr_frames} frames of the {what} that the file holds twice differ, the first "
        f"at {first.offset:#x} and {first.other:#x}"
    )
    why = _may_differ(reader)
    if why:
        report.add("W214", f"{text}; {why}", offset=first.offset, pfn=first.start_pfn, number=found.nr_differing)
        return
    report.add("E144", text, offset=first.offset, pfn=first.start_pfn, number=found.nr_differing)
    for run in found.runs:
        reason = f"another copy, at {run.other:#x}, differs"
        place = run.start_pfn, run.end_pfn, PageState.DAMAGED, run.file, run.offset, run.end_offset
        report.add_range(BadRange(*place, reason, "E144"))


def _may_differ(reader: DumpReader) -> str:
    # why copies may differ without any being damaged, "" where they may not
    if find_note(reader.notes, b"ERASEINFO") is not None:
        return "makedumpfile erased data, in one of them only"
    if reader.name == "kcore" or any(source.live for source in reader.sources):
        return "the machine ran while it was dumped: a copy is of a later moment, or one is damaged"
    info = reader.vmcoreinfo
    stopped = find_note(reader.notes, b"QEMU") is not None or (info is not None and info.text("CRASHTIME") is not None)
    if stopped:
        return ""
    return "nothing says that the machine was at rest (no CRASHTIME in VMCOREINFO): taken live, or one is damaged"


class _Compared:
    # The comparison: counts, and the first runs of differing frames in the order of the file.

    def __init__(self, reader: DumpReader) -> None:
        self.reader = reader
        self.runs: list[_Run] = []
        self.nr_frames = self.nr_bytes = self.nr_differing = 0
        self.left_out = ""
        low, high = text_range(reader.machine.arch)
        image = reader.segments[(reader.segments["vaddr"] >= low) & (reader.segments["vaddr"] < high)]
        self._image = image["paddr"], image["paddr"] + image["size"]
        self.is_image = True

    def look(self) -> None:
        reader, size = self.reader, self.reader.machine.page_size
        budget = 2 * reader.memory_map.count(PageState.STORED) * size
        pairs = 0
        for kept, dropped in reader.duplicates():
            pairs += len(kept)
            budget -= int(kept["stored_size"].sum())
            if pairs > _MAX_PAIRS or budget < 0:
                self.left_out = f"{pairs} ranges or more overlap"
                return
            for left, right in zip(kept, dropped, strict=True):
                try:
                    self._pair(left, right)
                except DumpError as error:
                    self.left_out = error.message

    def _pair(self, left: Any, right: Any) -> None:
        size, start = self.reader.machine.page_size, int(left["start_pfn"])
        first, last = self._image
        address = start * size + int(left["page_offset"])
        self.is_image &= bool(((first <= address) & (address < last)).any())
        self.nr_frames += int(left["nr_pages"])
        for at, one, other in self._pieces(left, right):
            self.nr_bytes += len(one)
            if one != other:
                self._differ(left, right, at, one, other)

    def _pieces(self, left: Any, right: Any) -> Iterator[tuple[int, bytes, bytes]]:
        # (offset in the extent, bytes of one copy, of the other)
        length = int(left["stored_size"])
        if int(left["codec"]) in _PLAIN and int(right["codec"]) in _PLAIN and length == int(right["stored_size"]):
            for at in range(0, length, _PIECE):
                count = min(_PIECE, length - at)
                yield at, self._piece(left, at, count), self._piece(right, at, count)
            return
        yield 0, self._decoded(left), self._decoded(right)

    def _piece(self, row: Any, at: int, count: int) -> bytes:
        if int(row["codec"]) == codecs.ZERO:
            return bytes(count)
        return self.reader.sources[int(row["file"])].pread(int(row["offset"]) + at, count)

    def _decoded(self, row: Any) -> bytes:
        size, codec = self.reader.machine.page_size * self.reader.unit_pages, int(row["codec"])
        if codec == codecs.ZERO:
            return bytes(size)
        data = self.reader.sources[int(row["file"])].pread(int(row["offset"]), int(row["stored_size"]))
        try:
            return codecs.decode_page(codec, data, size)
        except (ValueError, KeyError):  # a copy that does not decode equals nothing
            return b""

    def _differ(self, left: Any, right: Any, at: int, one: bytes, other: bytes) -> None:
        size = self.reader.machine.page_size
        base = int(left["page_offset"]) + at  # from the start of the extent's first frame
        if len(one) == len(other):
            wrong = np.flatnonzero(np.frombuffer(one, np.uint8) != np.frombuffer(other, np.uint8))
        else:
            wrong = np.zeros(1, np.int64)
        frames: NDArray[Any] = np.unique((wrong + base) // size)
        self.nr_differing += len(frames)
        raw = int(left["codec"]) == codecs.RAW and int(right["codec"]) == codecs.RAW
        end = int(left["offset"]) + int(left["stored_size"])
        for frame in frames.tolist():
            skip = max(0, frame * size - int(left["page_offset"])) if raw else 0
            pfn, offset, twin = int(left["start_pfn"]) + frame, int(left["offset"]) + skip, int(right["offset"]) + skip
            run = _Run(pfn, pfn + 1, int(left["file"]), offset, min(end, offset + size), twin)
            last = self.runs[-1] if self.runs else None
            if raw and last is not None and (last.end_pfn, last.file, last.end_offset) == (pfn, run.file, offset):
                self.runs[-1] = last._replace(end_pfn=pfn + 1, end_offset=run.end_offset)
            elif len(self.runs) < _MAX_RUNS:
                self.runs.append(run)
