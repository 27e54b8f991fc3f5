# SPDX-License-Identifier: GPL-2.0-or-later
"""What the save streams of Xen have in common: pages with types in file order, contexts, and what becomes of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from . import codecs
from .errors import CorruptDump, DumpError
from .intervals import union
from .pageindex import PageIndex, PageIndexBuilder
from .pages import MemoryMap, PageState
from .xen_layout import MAX_GUEST_PFN

__all__ = ["PAGE_SIZE", "GuestImage", "SavedPages"]

U64 = NDArray[np.uint64]

PAGE_SIZE = 4096
# Page types: 0 normal, 1 to 4 page tables by level, 8 more where pinned; from here on no page follows the entry.
_BROKEN, _ALLOCATE, _INVALID = 0xD, 0xE, 0xF
_STATES = {_BROKEN: PageState.LOST, _ALLOCATE: PageState.EXCLUDED, _INVALID: PageState.HOLE}


class SavedPages:
    """Collects page batches in file order; a later entry of a frame overrides an earlier one, a page or none."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._builder = PageIndexBuilder()
        # entries without a page: first frame, end, type, place in the file
        self._without: list[NDArray[np.uint64]] = []
        self._missing: list[U64] = []
        self.types: NDArray[np.int64] = np.zeros(16, np.int64)

    def add(self, pfns: U64, types: U64, offset: int, there: int) -> int:
        """Add one batch.

        Args:
            pfns, types: Of each entry.
            offset: Of the first page in the file.
            there: Bytes of the file from there on that may belong to the batch.

        Returns:
            How many bytes of pages the batch has; more than `there` where the file ends inside it.

        Raises:
            CorruptDump: A frame number that no guest has.
        """
        if len(pfns) and int(pfns.max()) >= MAX_GUEST_PFN:
            raise CorruptDump(
                f"a batch has pfn {int(pfns.max()):#x}, the limit is {MAX_GUEST_PFN:#x}", path=self._name, offset=offset
            )
        self.types += np.bincount(types.astype(np.int64), minlength=16)
        has = types < _BROKEN
        stored = pfns[has]
        whole = min(len(stored), max(0, there) // PAGE_SIZE)
        places = np.uint64(offset) + np.arange(len(stored), dtype=np.uint64) * np.uint64(PAGE_SIZE)
        sizes = np.full(whole, PAGE_SIZE, np.uint32)
        self._builder.add(stored[:whole], places[:whole], sizes, codecs.RAW)
        if whole < len(stored):
            self._missing.append(stored[whole:])
        if not has.all():
            # an entry overrides the pages before it
            place = np.uint64(offset) + np.cumsum(has).astype(np.uint64) * np.uint64(PAGE_SIZE)
            self._add_without(pfns[~has], types[~has], place[~has])
        return len(stored) * PAGE_SIZE

    def _add_without(self, pfns: U64, types: U64, place: U64) -> None:
        # runs of them: the hole below 4 GiB of a guest is a million entries
        follows = (pfns[1:] == pfns[:-1] + np.uint64(1)) & (types[1:] == types[:-1]) & (place[1:] == place[:-1])
        first = np.concatenate([[0], np.flatnonzero(~follows) + 1])
        count = np.diff(np.append(first, len(pfns))).astype(np.uint64)
        self._without.append(np.stack([pfns[first], pfns[first] + count, types[first], place[first]], axis=1))

    def build(self) -> tuple[PageIndex, MemoryMap, int]:
        """Return the index of the pages that count, the page map, and how many pages were overridden."""
        index = self._builder.build(keep="last")
        overridden = len(index.duplicates.dropped) if index.duplicates is not None else 0
        without = np.concatenate(self._without) if self._without else np.empty((0, 4), np.uint64)
        dropped = _older_pages(index, without)
        if dropped.any():
            index = _without_pages(index, ~dropped)
        stored = MemoryMap.from_columns(*index.runs(), int(PageState.STORED))
        states = _state_map(without)
        if self._missing:
            gone = np.concatenate(self._missing)
            states = states.overlay(MemoryMap.from_columns(*union(gone, gone + np.uint64(1)), int(PageState.LOST)))
        return index, states.overlay(stored), overridden + int(dropped.sum())


def _older_pages(index: PageIndex, without: NDArray[np.uint64]) -> NDArray[np.bool_]:
    # which pages lie in the file before an entry that says that their frame has none
    dropped = np.zeros(len(index), bool)
    if not len(index) or not len(without):
        return dropped
    pfns = index.pfns.astype(np.uint64)
    low, high = np.searchsorted(pfns, without[:, 0]), np.searchsorted(pfns, without[:, 1])
    for row in np.flatnonzero(high > low).tolist():
        part = slice(int(low[row]), int(high[row]))
        start, end = int(without[row, 0]), int(without[row, 1])
        dropped[part] |= index.extents(start, end)["offset"] < without[row, 3]
    return dropped


def _without_pages(index: PageIndex, keep: NDArray[np.bool_]) -> PageIndex:
    rows = index.extents(0, MAX_GUEST_PFN)[keep]
    builder = PageIndexBuilder()
    builder.add(rows["start_pfn"], rows["offset"], rows["stored_size"], codecs.RAW)
    return builder.build()


def _state_map(without: NDArray[np.uint64]) -> MemoryMap:
    # states of the frames without a page, whatever pages lie over them; of several entries the last counts
    if not len(without):
        return MemoryMap.from_runs([])
    order = np.argsort(without[:, 0], kind="stable")
    start, end, kind = (without[order, at] for at in range(3))
    if bool((start[1:] < end[:-1]).any()):
        size = (without[:, 1] - without[:, 0]).astype(np.int64)
        inside = (np.arange(int(size.sum())) - np.repeat(np.cumsum(size) - size, size)).astype(np.uint64)
        frames = np.repeat(without[:, 0], size) + inside
        kinds = np.repeat(without[:, 2], size)
        order = np.argsort(frames, kind="stable")
        last = np.append(frames[order][1:] != frames[order][:-1], True)
        start, kind = frames[order][last], kinds[order][last]
        end = start + np.uint64(1)
    found = MemoryMap.from_runs([])
    for number, state in _STATES.items():
        rows = kind == number
        if rows.any() and state != PageState.HOLE:
            found = found.overlay(MemoryMap.from_columns(start[rows], end[rows], int(state)))
    return found


@dataclass
class GuestImage:
    """What a save stream says of its guest but for the wrapper around it.

    Attributes:
        pages: The page batches.
        kind: `PV`, or `HVM` (PVH too).
        version: Of the stream: 0 for the legacy one.
        word_size: Of a PV guest, 0 where not told.
        contexts: vcpu_guest_context by CPU of a PV guest.
        shared_info: The shared info page, empty where there is none.
        hvm_context: The HVM context, empty where there is none.
        xen: Version of the hypervisor, empty where not told.
        damage: What ended the walk early, None where it came to the end.
        facts: For `info`.
        remarks: (code, text).
        end_offset: Where the walk ended.
    """

    pages: SavedPages
    kind: str = "HVM"
    version: int = 0
    word_size: int = 0
    contexts: dict[int, bytes] = field(default_factory=dict)
    shared_info: bytes = b""
    hvm_context: bytes = b""
    xen: str = ""
    damage: DumpError | None = None
    facts: dict[str, int] = field(default_factory=dict)
    remarks: list[tuple[str, str]] = field(default_factory=list)
    end_offset: int = 0

    def count(self, what: str) -> None:
        """Count something for `info`."""
        self.facts[what] = self.facts.get(what, 0) + 1
