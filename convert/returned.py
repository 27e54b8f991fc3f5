# SPDX-License-Identifier: GPL-2.0-or-later
"""Outputs that workers on other machines write, and pages that they return where they do not see the file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..formats.decode import Task, TaskResult
from ..formats.digest import LEAF_PFNS, LeafHasher
from ..formats.rows import SharedSink, page_view
from .canonical import OutputFile

__all__ = ["MOST_RETURNED", "RETURNED_BYTES", "shared_sink", "write_returned"]

RETURNED_BYTES = 8 << 20  # of pages that come back at a time
MOST_RETURNED = 512 << 20  # under way or waiting for their turn
_MARK = 32

U64 = NDArray[np.uint64]


@contextmanager
def shared_sink(file: OutputFile, file_size: int) -> Iterator[SharedSink]:
    """Give what workers elsewhere write an output through: while the context lasts the file ends in a mark of its own.

    A file of the same name on another machine may be what another run left there: the mark tells.
    """
    mark = os.urandom(_MARK)
    file.resize(file_size)
    file.write(mark, file_size)
    os.fsync(file.fileno())  # other machines see what the file server has
    yield SharedSink(os.path.abspath(file.temporary), file_size, mark, file.fileno())
    file.resize(file_size)


def _frames(extents: NDArray[Any]) -> U64:
    # the frames of a task, each once
    first = extents["start_pfn"]
    new = np.ones(len(extents), bool)
    new[1:] = first[1:] != first[:-1]
    first, count = first[new], extents["nr_pages"][new].astype(np.int64)
    starts = np.repeat(np.cumsum(count) - count, count).astype(np.uint64)
    return np.asarray(np.repeat(first, count) + (np.arange(count.sum(), dtype=np.uint64) - starts), np.uint64)


def write_returned(
    results: Iterator[TaskResult], tasks: dict[int, Task], file: OutputFile, page_size: int, *, digest: bool
) -> Iterator[TaskResult]:
    """Write the pages that workers returned, and hash them; yield results with the leaves where they are whole.

    Args:
        results: In order; of each the payload.
        tasks: By number; those that are done are taken out.
        file: Where the pages go.
        page_size: Bytes.
        digest: Compute the leaves of the content digest.
    """
    hasher, held = LeafHasher(), None
    for result in results:
        task = tasks.pop(result.index)
        pfns = _frames(task.extents)
        pages = np.frombuffer(result.payload or b"", np.uint8).reshape(-1, page_size)
        _write(file, task, pfns, pages)
        result.payload = None
        if digest:
            if held is not None and held.first_pfn // LEAF_PFNS != result.first_pfn // LEAF_PFNS:
                held.leaf = hasher.digest()
                hasher.reset()
            rows = np.empty((len(pages), 8 + page_size), np.uint8)
            rows[:, :8] = pfns.astype("<u8").view(np.uint8).reshape(-1, 8)
            rows[:, 8:] = pages
            hasher.update(page_view(rows))
        if held is not None:
            yield held
        held = result
    if held is not None:
        held.leaf = hasher.digest() if digest else None
        yield held


def _write(file: OutputFile, task: Task, pfns: U64, pages: NDArray[np.uint8]) -> None:
    # pages of zeros stay holes
    assert task.out is not None  # noqa: S101 - tasks of outputs with places have them
    start, offset = task.out
    run = np.searchsorted(start, pfns, side="right") - 1
    at = offset[run] + (pfns - start[run]) * np.uint64(pages.shape[1])
    keep = np.flatnonzero(pages.any(axis=1))
    if not len(keep):
        return
    follows = (np.diff(keep) == 1) & (np.diff(at[keep]) == pages.shape[1])
    edges = np.concatenate([[0], np.flatnonzero(~follows) + 1, [len(keep)]]).tolist()
    for low, high in pairwise(edges):
        rows = pages[int(keep[low]) : int(keep[high - 1]) + 1]
        file.write(page_view(rows), int(at[keep[low]]))
