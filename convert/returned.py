# SPDX-License-Identifier: GPL-2.0-or-later
"""Outputs that workers on other machines write, and pages that they return where they do not see the file.

What comes back is bounded by bytes, whatever the size of a page; a leaf of the content digest is bounded by frames, and
can only be hashed by who has its pages, so that of encoded pages is another task's work.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..formats.decode import DecodeJob, Task, TaskResult, run_task
from ..formats.digest import LEAF_PFNS, LeafHasher
from ..formats.executor import HandedBack, Remote, submit
from ..formats.rows import SharedSink, page_view
from .canonical import OutputFile

__all__ = ["MOST_RETURNED", "RETURNED_BYTES", "LeafTasks", "hashing", "remember", "shared_sink", "write_returned"]

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


def remember(tasks: Iterator[Task], waiting: dict[int, Task]) -> Iterator[Task]:
    """Pass tasks on, and keep each in `waiting` by its number."""
    for task in tasks:
        waiting[task.index] = task
        yield task


class LeafTasks:
    """Tasks that hash whole leaves, under way beside those that encode the same pages in smaller parts.

    Args:
        executor: Runs them.
        job: Hashes, and returns no pages.
        tasks: One a leaf, in frame order; None: no leaf is hashed.
        most: Under way at most.
    """

    def __init__(self, executor: Executor, job: DecodeJob, tasks: Iterator[Task] | None, most: int) -> None:
        self._executor, self._job, self._tasks, self._most = executor, job, tasks, most
        self._waiting: deque[tuple[Task, Future[TaskResult]]] = deque()
        self._done: list[TaskResult] = []

    def beside(self, parts: Iterator[Task]) -> Iterator[Task]:
        """Pass tasks on, in frame order; before the first one of a leaf the leaf's own begins.

        Raises:
            DumpError: See `run_task`.
        """
        leaf = -1
        for part in parts:
            found = int(part.extents["start_pfn"][0]) // LEAF_PFNS
            if self._tasks is not None and found != leaf:
                leaf = found
                if len(self._waiting) >= self._most:
                    self._take()
                task = next(self._tasks)
                self._waiting.append((task, submit(self._executor, run_task, self._job, task)))
            yield part

    def _take(self) -> None:
        task, future = self._waiting.popleft()
        found = future.result()
        result = run_task(self._job, task) if isinstance(found, HandedBack) else found
        self._done.append(TaskResult(result.index, first_pfn=result.first_pfn, leaf=result.leaf))

    def results(self) -> Iterator[TaskResult]:
        """Yield results that have leaves and no pages, in frame order, when all parts are done.

        Raises:
            DumpError: See `run_task`.
        """
        while self._waiting:
            self._take()
        yield from self._done

    def cancel(self) -> None:
        """Drop what is under way."""
        for _, future in self._waiting:
            future.cancel()


@contextmanager
def hashing(workers: Remote, job: DecodeJob, tasks: Iterator[Task] | None, most: int) -> Iterator[LeafTasks]:
    """Give `LeafTasks` on workers elsewhere; nothing of them is under way when the context ends."""
    try:
        with workers.executor() as executor:
            leaves = LeafTasks(executor, job, tasks, most)
            try:
                yield leaves
            finally:
                leaves.cancel()
    finally:
        job.forget()


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
