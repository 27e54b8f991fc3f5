# SPDX-License-Identifier: GPL-2.0-or-later
"""Where outputs go: files with scratch space beside them, a pipe front to back, a flattened stream."""

from __future__ import annotations

import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Protocol

from ..formats.errors import OutputError
from ..formats.flattened import HEADER, RECORD
from ..formats.rows import ScratchSink
from ..formats.stream import punch_hole
from .canonical import OutputFile
from .output import Piece

__all__ = [
    "FileStream",
    "FlatStream",
    "PeekIterator",
    "PlainStream",
    "Scratch",
    "StreamWriter",
    "copy_range",
    "stream_errors",
]

_ZEROS = bytes(1 << 20)
_RECORD_BYTES = 1 << 16  # of payload, as makedumpfile has it
# what copy_file_range says where it cannot: other file systems, old kernels, containers
_NO_COPY = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)


class _Writable(Protocol):
    def write(self, data: bytes, /) -> object: ...

    def flush(self) -> object: ...


class StreamWriter(ABC):
    """Writes pieces of a file to something that cannot seek."""

    def __init__(self, stream: _Writable) -> None:
        self._stream = stream
        self.sent = 0  # bytes

    def _write(self, data: bytes) -> None:
        self._stream.write(data)
        self.sent += len(data)

    @abstractmethod
    def put(self, offset: int, data: bytes) -> None:
        """Write `data` at `offset` of the file."""

    @abstractmethod
    def finish(self, file_size: int) -> None:
        """Write what ends the file."""


class PlainStream(StreamWriter):
    """The file itself: by ascending offset, gaps as zeros."""

    def put(self, offset: int, data: bytes) -> None:
        """See `StreamWriter.put`."""
        if offset < self.sent:
            raise OutputError(f"bytes at {offset:#x} have no place in the output: {self.sent:#x} is written")
        self._fill(offset)
        self._write(data)

    def _fill(self, offset: int) -> None:
        while self.sent < offset:
            self._write(_ZEROS[: offset - self.sent])

    def finish(self, file_size: int) -> None:
        """See `StreamWriter.finish`."""
        self._fill(file_size)
        self._stream.flush()


class FlatStream(StreamWriter):
    """makedumpfile's flattened stream: records of offset and bytes, in any order."""

    def __init__(self, stream: _Writable) -> None:
        super().__init__(stream)
        self._write(HEADER.build({"type": 1, "version": 1}))

    def put(self, offset: int, data: bytes) -> None:
        """See `StreamWriter.put`."""
        for low in range(0, len(data), _RECORD_BYTES):
            part = data[low : low + _RECORD_BYTES]
            self._write(RECORD.pack(offset + low, len(part)))
            self._write(part)

    def finish(self, file_size: int) -> None:
        """See `StreamWriter.finish`."""
        self._write(RECORD.pack(-1, -1))
        self._stream.flush()


class FileStream:
    """An output file written from its front."""

    def __init__(self, file: OutputFile) -> None:
        self._file, self._at = file, 0

    def write(self, data: bytes, /) -> None:
        """Append."""
        self._file.write(data, self._at)
        self._at += len(data)

    def flush(self) -> None:
        """Do nothing."""


class PeekIterator:
    """Pieces in ascending order, taken as far as wanted."""

    def __init__(self, pieces: Iterator[Piece]) -> None:
        self._pieces = pieces
        self._next = next(pieces, None)

    def until(self, offset: int) -> Iterator[Piece]:
        """Take all that begin before an offset."""
        while self._next is not None and self._next.offset < offset:
            yield self._next
            self._next = next(self._pieces, None)


@contextmanager
def stream_errors(name: str) -> Iterator[None]:
    """Turn errors of writing into ours.

    Raises:
        OutputError: The pipe's reader went away, or it cannot be written.
    """
    try:
        yield
    except BrokenPipeError as error:
        raise OutputError("the reader of our output went away", path=name) from error
    except OSError as error:
        raise OutputError(f"cannot write: {error.strerror}", path=name) from error


class Scratch:
    """Space beside the output where workers put what they encoded, until it has its place.

    An unlinked file: it is gone with this process, whatever ends it.

    Args:
        directory: Of the output.
        slots, slot_size: How many tasks are under way at most, and the bytes that each may need.
    """

    def __init__(self, directory: str, slots: int, slot_size: int) -> None:
        import tempfile  # 10 ms that few conversions need

        try:
            self._file: IO[bytes] = tempfile.TemporaryFile(dir=directory, prefix="dumpconv-")  # noqa: SIM115
        except OSError as error:
            raise OutputError(f"cannot make a scratch file: {error.strerror}", path=directory) from error
        self._slots, self._slot_size = slots, slot_size

    @property
    def sink(self) -> ScratchSink:
        """What workers write through."""
        fd = self._file.fileno()
        return ScratchSink(ScratchSink.scratch_path(fd), fd)

    def place(self, index: int) -> int:
        """Return where the task with number `index` writes."""
        return index % self._slots * self._slot_size

    def move(self, index: int, low: int, high: int, target: OutputFile, offset: int) -> None:
        """Copy bytes [low, high) of a task's to their place."""
        start = self.place(index)
        copy_range(self._file.fileno(), start + low, target.fileno(), offset, high - low, target.path)

    def free(self, index: int, size: int) -> None:
        """Forget a task's bytes."""
        if size:
            punch_hole(self._file.fileno(), self.place(index), self.place(index) + size)

    def close(self) -> None:
        """Give it back."""
        self._file.close()


def copy_range(source: int, start: int, target: int, offset: int, size: int, path: str) -> None:
    """Copy bytes between files, in the kernel where it can.

    Raises:
        OutputError: They cannot be written.
    """
    in_kernel = hasattr(os, "copy_file_range")
    try:
        while size:
            count = 0
            if in_kernel:
                try:
                    count = os.copy_file_range(source, target, size, start, offset)
                except OSError as error:
                    if error.errno not in _NO_COPY:
                        raise
                in_kernel = count > 0
            if not count:
                data = os.pread(source, min(size, 1 << 20), start)
                if not data:
                    raise OutputError("the scratch file is shorter than what was written to it", path=path)
                count = os.pwrite(target, data, offset)
            start, offset, size = start + count, offset + count, size - count
    except OSError as error:
        raise OutputError(f"cannot write: {error.strerror}", path=path, offset=offset) from error
