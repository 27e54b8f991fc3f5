# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows of pages that a worker decodes into, how extents are cut to fit them, and the file that they go to."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import codecs
from .errors import OutputError

__all__ = ["FileSink", "PageRows", "ScratchSink", "SharedSink", "page_view", "sub_batches"]

_MAX_IOV = 1024  # IOV_MAX of Linux
_SAMPLE = 64  # words between two that tell most pages from zeros: 8 of a page of 4096 bytes
U64 = NDArray[np.uint64]


class FileSink:
    """Writes pages at file positions; pickles as its path.

    Args:
        path: The file, which exists.
        fd: An open descriptor of it that forked workers share, or None to open the path.
    """

    _flags = os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW

    def __init__(self, path: str, fd: int | None = None) -> None:
        self.path = path
        self._fd = os.open(path, self._flags) if fd is None else fd
        if fd is None:  # a worker of a cluster outlives its jobs
            weakref.finalize(self, os.close, self._fd)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.path,)

    def settle(self) -> None:
        """Make sure that what was written is where others see it: a task is done then."""

    def write(self, views: list[memoryview], offset: int) -> None:
        """Write views back to back at `offset`."""
        try:
            for low in range(0, len(views), _MAX_IOV):
                part = views[low : low + _MAX_IOV]
                offset += self._write_all(part, offset)
        except OSError as error:
            raise OutputError(f"cannot write: {error.strerror}", path=self.path, offset=offset) from error

    def _write_all(self, views: list[memoryview], offset: int) -> int:
        total = sum(len(view) for view in views) if len(views) < 3 else len(views) * len(views[0])
        done = os.pwritev(self._fd, views, offset)
        while done < total:  # a short write means that the next one fails, or a signal came
            rest = b"".join(views)[done:]
            done += os.pwrite(self._fd, rest, offset + done)
        return total


class SharedSink(FileSink):
    """The same for a file that other machines write, too: pickles as its path, and as what shows that it is the file.

    Args:
        path: See `FileSink`, absolute.
        place, mark: Bytes that only this file has at an offset.
        fd: See `FileSink`.

    Raises:
        OutputError: The path leads to another file, or to none.
    """

    _flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW

    def __init__(self, path: str, place: int, mark: bytes, fd: int | None = None) -> None:
        try:
            super().__init__(path, fd)
            found = mark if fd is not None else os.pread(self._fd, len(mark), place)
        except OSError as error:
            raise OutputError(f"cannot open: {error.strerror}", path=path) from error
        if found != mark:
            raise OutputError("is another file here", path=path)
        self._place, self._mark = place, mark

    def __reduce__(self) -> tuple[object, ...]:
        return SharedSink, (self.path, self._place, self._mark)

    def settle(self) -> None:
        """See `FileSink.settle`: a file server has it, not only this machine's cache."""
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise OutputError(f"cannot write: {error.strerror}", path=self.path) from error


class ScratchSink(FileSink):
    """The same for a file without a name: pickles as its place in /proc, which its owner's children can open.

    Args:
        path: See `scratch_path`.
        fd: See `FileSink`.
    """

    _flags = os.O_WRONLY | os.O_CLOEXEC

    @staticmethod
    def scratch_path(fd: int) -> str:
        """Return the name by which other processes reach a descriptor of this one."""
        return f"/proc/{os.getpid()}/fd/{fd}"


def page_view(array: NDArray[np.uint8]) -> memoryview:
    """Return all bytes of a contiguous array."""
    return memoryview(array).cast("B")  # type: ignore[arg-type]


class PageRows:
    """A reused buffer of pages, each with its frame number before it where pages are to be hashed.

    Args:
        page_size: Bytes.
        capacity: Rows.
        with_pfn: Keep 8 bytes before each page, so that rows are hashed in one call.
    """

    def __init__(self, page_size: int, capacity: int, with_pfn: bool) -> None:
        self.page_size = page_size
        self.capacity = capacity
        head = 8 if with_pfn else 0
        self.rows = np.zeros((capacity, head + page_size), np.uint8)
        self.pages = self.rows[:, head:]
        self.contiguous = not with_pfn
        flat = page_view(self.rows)
        stride = head + page_size
        self.views = [flat[row * stride + head : (row + 1) * stride] for row in range(capacity)]
        self._flat = flat
        self._words = self.rows.view(np.uint64)[:, head // 8 :]

    def set_pfns(self, pfns: U64) -> None:
        """Write the frame numbers, little-endian, before their pages."""
        self.rows[: len(pfns), :8] = pfns.astype("<u8").view(np.uint8).reshape(-1, 8)

    def hashable(self, count: int) -> memoryview:
        """Return the first rows, numbers and pages."""
        return self._flat[: count * self.rows.shape[1]]

    def span(self, low: int, high: int) -> list[memoryview]:
        """Return views of pages [low, high), as few as the layout allows."""
        if self.contiguous:
            return [self._flat[low * self.page_size : high * self.page_size]]
        return self.views[low:high]

    def is_zero(self, count: int) -> NDArray[np.bool_]:
        """Return which of the first pages hold nothing but zeros."""
        # most pages tell by one of a few words; only the others are looked at whole
        zero: NDArray[np.bool_] = np.bitwise_or.reduce(self._words[:count, ::_SAMPLE], axis=1) == 0
        unsure = np.flatnonzero(zero)
        if len(unsure):
            zero[unsure] = np.bitwise_or.reduce(self._words[unsure], axis=1) == 0
        return zero


def sub_batches(
    extents: NDArray[Any], capacity: int, page_size: int
) -> Iterator[tuple[NDArray[Any], NDArray[np.int64]]]:
    """Cut extents into pieces of at most `capacity` frames.

    Yields:
        Extents of one sub-batch and the row of each within it. Extents that share a frame share a row.
    """
    if not len(extents):
        return
    if int(extents["nr_pages"].max()) > capacity:
        extents = _split_long(extents, capacity, page_size)
    new = np.ones(len(extents), bool)
    new[1:] = extents["start_pfn"][1:] != extents["start_pfn"][:-1]
    ends = np.cumsum(np.where(new, extents["nr_pages"], 0).astype(np.int64))
    rows = ends - extents["nr_pages"]
    at = 0
    while at < len(extents):
        base = int(rows[at])
        until = int(np.searchsorted(ends, base + capacity, side="right"))
        yield extents[at:until], rows[at:until] - base
        at = until


def _split_long(extents: NDArray[Any], capacity: int, page_size: int) -> NDArray[Any]:
    pieces = -(-extents["nr_pages"].astype(np.int64) // capacity)
    table = np.repeat(extents, pieces)
    first = np.repeat(np.cumsum(pieces) - pieces, pieces)
    number = np.arange(len(table)) - first
    skip = number * capacity
    count = np.minimum(capacity, np.repeat(extents["nr_pages"].astype(np.int64), pieces) - skip)
    split = np.repeat(pieces, pieces) > 1
    table["start_pfn"] += skip.astype(np.uint64)
    stored_zero = table["codec"] == codecs.ZERO
    table["offset"] += np.where(stored_zero, 0, skip * page_size).astype(np.uint64)
    table["stored_size"][split] = (count[split] * page_size).astype(np.uint64)
    table["nr_pages"] = count
    return table
