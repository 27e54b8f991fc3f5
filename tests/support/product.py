# SPDX-License-Identifier: GPL-2.0-or-later
"""What the product makes of a dump, in the words of the corpus's descriptions, to be held against the reference."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dumpconv.formats import open_dump
from dumpconv.formats.decode import DecodeJob, run_task
from dumpconv.formats.digest import LEAF_PFNS, content_digest
from dumpconv.formats.errors import DumpError, PageDecodeError
from dumpconv.formats.image import DumpImage
from dumpconv.formats.pages import PageState
from dumpconv.formats.reader import DumpReader, Options
from dumpconv.formats.tasks import page_tasks

from .reference import pages_digest, runs_of


class TooMany(DumpError):
    """More frames than a test lists one by one."""


PathLike = str | os.PathLike[str]
Runs = list[tuple[int, int]]
MAX_FRAMES = 1 << 20  # frames listed one by one


@dataclass
class View:
    """A dump as the product has it: stored pages, and the frames that are missing, by state."""

    reader: DumpReader
    pages: dict[int, bytes] = field(default_factory=dict)
    excluded: Runs = field(default_factory=list)
    lost: set[int] = field(default_factory=set)
    damaged: set[int] = field(default_factory=set)
    digest: bytes = b""

    @property
    def partial(self) -> dict[int, Runs]:
        """Byte ranges of the frames of which only these are in the dump; not of frames that do not decode."""
        out: dict[int, Runs] = {}
        for pfn, start, end in self.reader.partial.tolist():
            if pfn in self.damaged:
                continue
            out.setdefault(pfn, []).append((start, end))
        return out

    def description(self) -> dict[str, Any]:
        """Give what the corpus's TOML files say, but for the exit code."""
        machine = self.reader.machine
        return {
            "incomplete": self.reader.incomplete,
            "page_size": machine.page_size,
            "bits": self.reader.facts.get("class", 8 * machine.word_size),
            "byte_order": machine.byteorder,
            "present": [list(run) for run in runs_of(self.pages)],
            "excluded": [list(run) for run in self.excluded],
            "lost": [list(run) for run in runs_of(self.lost)],
            "damaged": [list(run) for run in runs_of(self.damaged)],
            "partial": [[pfn, *run] for pfn, runs in sorted(self.partial.items()) for run in runs],
            "pages_sha256": pages_digest(self.pages),
        }


def open_product(*paths: PathLike, salvage: bool = False, **more: Any) -> DumpReader:
    """Open files with the product; only those given."""
    return open_dump([os.fspath(path) for path in paths], Options(salvage=salvage, find_sisters=False, **more))


def frames_of(reader: DumpReader, state: PageState) -> Iterator[int]:
    """Give the frames that the map has in a state; few, or none at all."""
    start, end = reader.memory_map.only(state)
    if int((end - start).sum()) > MAX_FRAMES:
        raise TooMany(f"{int((end - start).sum())} frames are {state.name}")
    for low, high in zip(start.tolist(), end.tolist(), strict=True):
        yield from range(low, high)


def view(reader: DumpReader, *, batch_bytes: int = 1 << 16) -> View:
    """Decode everything by the worker, with the digest."""
    lost, damaged = (set(frames_of(reader, state)) for state in (PageState.LOST, PageState.DAMAGED))
    seen = View(reader, excluded=runs_in(reader, PageState.EXCLUDED), lost=lost, damaged=damaged)
    size = reader.machine.page_size
    job = DecodeJob(
        uuid.uuid4().hex,
        reader.sources,
        size,
        digest=True,
        salvage=True,
        payload=True,
        batch_bytes=batch_bytes,
        unit_pages=reader.unit_pages,
    )
    leaves = []
    for task in page_tasks(reader, reader.memory_map, step=LEAF_PFNS):
        result = run_task(job, task)
        if not result.nr_pages or result.leaf is None or result.payload is None:
            continue
        leaves.append((result.first_pfn // LEAF_PFNS, result.leaf))
        bad = {damage.pfn: damage.state for damage in result.damage}
        payload = memoryview(result.payload)
        for row, pfn in enumerate(frames_in(task.extents)):
            if pfn not in bad:
                seen.pages[pfn] = bytes(payload[row * size : (row + 1) * size])
        seen.lost |= {pfn for pfn, state in bad.items() if state == PageState.LOST}
        seen.damaged |= {pfn for pfn, state in bad.items() if state == PageState.DAMAGED}
    seen.digest = content_digest(size, leaves)
    return seen


def runs_in(reader: DumpReader, state: PageState) -> Runs:
    """Give the map's runs in one state."""
    start, end = reader.memory_map.only(state)
    return list(zip(start.tolist(), end.tolist(), strict=True))


def frames_in(extents: Any) -> list[int]:
    """Give the frames of extents, each once, ascending."""
    first = extents["start_pfn"]
    new = np.ones(len(first), bool)
    new[1:] = first[1:] != first[:-1]
    rows = extents[new]
    return [
        pfn
        for start, count in zip(rows["start_pfn"].tolist(), rows["nr_pages"].tolist(), strict=True)
        for pfn in range(start, start + count)
    ]


def image_pages(reader: DumpReader, pfns: Sequence[int]) -> dict[int, bytes | None]:
    """Read frames one by one by `DumpImage`; None for those that it refuses."""
    image = DumpImage(reader)
    out: dict[int, bytes | None] = {}
    for pfn in pfns:
        try:
            out[pfn] = image.read_page(pfn)
        except PageDecodeError:
            out[pfn] = None
    return out
