# SPDX-License-Identifier: GPL-2.0-or-later
"""The output file: OUT.incomplete until it is whole, synced and renamed; removed on any failure."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterable
from itertools import pairwise
from types import TracebackType

import numpy as np

from ..formats.errors import OutputError, UsageError
from ..formats.rows import FileSink
from ..formats.stream import punch_hole
from ..formats.urls import Url, as_name
from .output import Piece

__all__ = ["OutputFile", "check_output"]

SUFFIX = ".incomplete"
_BLOCK = 4096


def check_output(path: str, inputs: list[str], *, force: bool) -> None:
    """Refuse an output that exists (without force), or that would replace one of the inputs.

    Raises:
        UsageError: Exit code 2.
    """
    if isinstance(url := as_name(path), Url):
        raise UsageError("outputs are files, not URLs", path=url)
    for name in inputs:
        if _is_same(path, name):
            raise UsageError("input and output are the same file", path=path)
        if _is_same(path + SUFFIX, name):  # it would be taken for what a killed run left
            raise UsageError(f"the output is written as {path + SUFFIX} first: that is an input", path=path)
    if not os.path.lexists(path):
        return
    if os.path.isdir(path):
        raise UsageError("the output is a directory", path=path, hint="name a file in it")
    if not force:
        raise UsageError("the output exists", path=path, hint="--force replaces it")
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise UsageError("the output exists and is no regular file", path=path)


def _is_same(path: str, name: str) -> bool:
    try:
        return os.path.samefile(path, "/dev/stdin" if name == "-" else name)
    except OSError:
        return False  # one of them is not there


class OutputFile:
    """A file that appears under its name only when it is whole.

    Args:
        path: The final name. `path + ".incomplete"` is used meanwhile, mode 0600, never through a symbolic link.

    Raises:
        OutputError: It cannot be made, or another process is writing it.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.temporary = path + SUFFIX
        self._committed = False
        self._remove_stale()
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            self._fd = os.open(self.temporary, flags, 0o600)
        except OSError as error:
            raise OutputError(f"cannot create: {error.strerror}", path=self.temporary) from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:  # another process took it for a stale one
            os.close(self._fd)
            raise OutputError("another process is writing this file", path=self.temporary) from error

    def _is_ours(self, fd: int) -> bool:
        # whether the temporary name still leads to the file behind a descriptor
        try:
            return os.path.samestat(os.fstat(fd), os.lstat(self.temporary))
        except OSError:
            return False

    def _remove_stale(self) -> None:
        # what a killed run left; a live run holds the lock
        try:
            fd = os.open(self.temporary, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return
        except OSError as error:
            raise OutputError(f"cannot replace: {error.strerror}", path=self.temporary) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self._is_ours(fd):  # else another process removed it, and the name is that one's by now
                os.unlink(self.temporary)
        except BlockingIOError as error:
            raise OutputError("another process is writing this file", path=self.temporary) from error
        except OSError as error:
            raise OutputError(f"cannot remove: {error.strerror}", path=self.temporary) from error
        finally:
            os.close(fd)

    def __enter__(self) -> OutputFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._committed and self._is_ours(self._fd):
            with contextlib.suppress(OSError):
                os.unlink(self.temporary)
        os.close(self._fd)

    @property
    def sink(self) -> FileSink:
        """What workers write pages through."""
        return FileSink(self.temporary, self._fd)

    def fileno(self) -> int:
        """The descriptor, to read back what was written."""
        return self._fd

    def write(self, data: bytes | memoryview, offset: int) -> None:
        """Write all of `data` at `offset`."""
        view = memoryview(data)
        try:
            while len(view):
                count = os.pwrite(self._fd, view, offset)
                view, offset = view[count:], offset + count
        except OSError as error:
            raise OutputError(f"cannot write: {error.strerror}", path=self.path, offset=offset) from error

    def resize(self, size: int) -> None:
        """Set the length; what is not written stays a hole."""
        try:
            os.ftruncate(self._fd, size)
        except OSError as error:
            raise OutputError(f"cannot make a file of {size} bytes: {error.strerror}", path=self.path) from error

    def write_pieces(self, pieces: Iterable[Piece]) -> None:
        """Write everything of a plan but the pages."""
        for piece in pieces:
            self.write(piece.data, piece.offset)

    def shift(self, old_start: int, new_start: int, size: int) -> None:
        """Move `size` bytes from `old_start` to `new_start` (they may overlap), and set the length.

        Blocks of zeros become holes, as they were.
        """
        self.resize(max(old_start, new_start) + size)
        step = 4 << 20
        places = range(0, size, step) if new_start < old_start else range((size - 1) // step * step, -1, -step)
        for at in places:
            data = os.pread(self._fd, min(step, size - at), old_start + at)
            self._write_or_punch(data, new_start + at)
        self.resize(new_start + size)

    def _write_or_punch(self, data: bytes, offset: int) -> None:
        # what was there before must go: zeros are punched, or written where that cannot be done
        blocks = np.frombuffer(data + bytes(-len(data) % _BLOCK), np.uint8).reshape(-1, _BLOCK)
        is_zero = np.logical_not(blocks.any(axis=1))
        edges = [0, *(np.flatnonzero(np.diff(is_zero)) + 1).tolist(), len(blocks)]
        for low, high in pairwise(edges):
            start, end = low * _BLOCK, min(high * _BLOCK, len(data))
            if not bool(is_zero[low]) or not punch_hole(self._fd, offset + start, offset + end):
                self.write(data[start:end], offset + start)

    def commit(self, *, sync: bool) -> None:
        """Make it durable (unless told not to) and give it its name."""
        try:
            if sync:
                os.fsync(self._fd)
            if not self._is_ours(self._fd):
                raise OutputError("it was removed or replaced while we wrote it", path=self.temporary)
            os.rename(self.temporary, self.path)
            self._committed = True
            if sync:
                parent = os.open(os.path.dirname(os.path.abspath(self.path)), os.O_RDONLY | os.O_DIRECTORY)
                try:
                    os.fsync(parent)
                finally:
                    os.close(parent)
        except OSError as error:
            raise OutputError(f"cannot finish: {error.strerror}", path=self.path) from error
