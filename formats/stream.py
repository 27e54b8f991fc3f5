# SPDX-License-Identifier: GPL-2.0-or-later
"""A dump from a pipe: spooled as far as someone asks, and released behind.

The conversion reads tables and pages in order, so the spool holds a window of the stream, not the stream. It is
in memory up to a limit, and an unlinked temporary file beyond. The bytes are pulled in the calling thread when they are
needed; workers read the spool.
"""

from __future__ import annotations

import bisect
import contextlib
import ctypes
import os
import tempfile
import weakref
from collections.abc import Iterator
from typing import IO

import numpy as np
from numpy.typing import NDArray

from .errors import CorruptDump, CorruptStream, DumpError, InputError, OutputError, TruncatedDump, TruncatedStream
from .flattened import HEADER_SIZE, RECORD, check_header, check_record, intervals_cover, intervals_gaps, is_flattened
from .source import UNKNOWN_SIZE, ByteSource, FileSource, file_data_ranges

__all__ = ["StreamSource", "punch_hole"]

_PUNCH_HOLE, _KEEP_SIZE = 2, 1
_ZEROS = bytes(1 << 20)
IN_MEMORY = 128 << 20  # bytes that a spool holds before it becomes a file: the window of two workers on raw pages


class _Feed:
    # Bytes of an iterator of chunks, in the amounts asked for.

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")
        self.position = 0

    def some(self, limit: int) -> memoryview:
        """Return 1 to `limit` bytes, none at the end."""
        while not len(self._rest):
            chunk = next(self._chunks, None)
            if chunk is None:
                return memoryview(b"")
            self._rest = memoryview(chunk)
        part, self._rest = self._rest[:limit], self._rest[limit:]
        self.position += len(part)
        return part

    def exactly(self, size: int) -> bytes:
        """Return `size` bytes, fewer at the end."""
        data = b""
        while len(data) < size and len(part := self.some(size - len(data))):
            data += part
        return data

    def unread(self, data: bytes) -> None:
        """Put bytes back."""
        self._rest = memoryview(data + bytes(self._rest))
        self.position -= len(data)


class _SpoolFile(FileSource):
    # What workers read: the spool through its descriptors, or through /proc where they do not share them. What the
    # one in memory lacks is in the file: when the spool moves there the memory is cut to nothing, after the copy.

    def __init__(self, path: str, later: str | None, name: str) -> None:
        super().__init__(path)
        self.name = name
        self._places = path, later
        self._later = None if later is None else FileSource(later)
        self.size = UNKNOWN_SIZE

    def __reduce__(self) -> tuple[object, ...]:
        return _SpoolFile, (*self._places, self.name)

    def pread_into(self, view: memoryview, offset: int) -> int:
        count = super().pread_into(view, offset)
        if count < len(view) and self._later is not None:
            count += self._later.pread_into(view[count:], offset + count)
        return count

    def preadv(self, views: list[memoryview], offset: int) -> int:
        count = super().preadv(views, offset)
        if self._later is None or count == sum(len(view) for view in views):
            return count
        return ByteSource.preadv(self, views, offset)


def _memory_file() -> IO[bytes] | None:
    try:
        return os.fdopen(os.memfd_create("dumpconv"), "w+b", buffering=0)
    except (OSError, AttributeError):
        return None


class StreamSource(ByteSource):
    """A stream as a `ByteSource`; flattened streams are rearranged on the way.

    Args:
        chunks: The bytes, in order.
        name: For messages.
        spool_dir: Where the spool's file lies, None for the system's temporary directory.
        why: What makes this a stream, for the report.
        salvage: Take a stream that breaks off, or does not unpack from some place on, for one that ends there.

    Attributes:
        damage: Why the stream is not whole; known at its end.
        is_stream: True: the pipeline releases what it no longer needs.
    """

    is_stream = True

    def __init__(
        self, chunks: Iterator[bytes], name: str, spool_dir: str | None, why: str, *, salvage: bool = False
    ) -> None:
        self.name = name
        self._salvage = salvage
        self.size = UNKNOWN_SIZE
        self.damage: DumpError | None = None
        self._feed = _Feed(chunks)
        self._ended = False
        self._why = why
        self._held = self._peak = self._length = 0
        self._whole = False
        try:
            self._file: IO[bytes] = tempfile.TemporaryFile(dir=spool_dir, prefix="dumpconv-")  # noqa: SIM115
        except OSError as error:
            raise OutputError(
                f"cannot make a spool file: {error.strerror}", hint="--spool-dir names a place"
            ) from error
        weakref.finalize(self, self._file.close)
        self._memory = _memory_file()
        if self._memory is not None:
            weakref.finalize(self, self._memory.close)
        self._fd = (self._memory or self._file).fileno()  # where the bytes are now
        self._starts: list[int] = []
        self._ends: list[int] = []
        head = self._feed.exactly(32)
        self._flat = is_flattened(head)
        if self._flat:
            check_header(head, name)
            rest = self._feed.exactly(HEADER_SIZE - 32)
            if len(rest) < HEADER_SIZE - 32:
                raise TruncatedDump(
                    f"flattened stream header needs {HEADER_SIZE} bytes, {32 + len(rest)} came", path=name
                )
        else:
            self._feed.unread(head)
        self._view: _SpoolFile | None = None

    @property
    def flattened(self) -> bool:
        """Whether the stream is a flattened one."""
        return self._flat

    def starts_with(self, magic: bytes) -> bool:
        """Whether the rearranged file begins so, as far as has come until its first bytes have."""
        view = bytearray(len(magic))
        return self.pread_into(memoryview(view), 0) == len(magic) and bytes(view) == magic

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """How the stream was had."""
        found = [self._why] if self._why else []
        if self._flat:
            found.append("flattened stream")
        if self._fd == self._file.fileno():
            found.append(f"spooled to a temporary file, {self._peak} bytes at most")
        elif self._whole:
            found.append(f"spooled in memory, {self._peak} bytes")
        return tuple(found)

    def worker_view(self) -> ByteSource:
        """See `ByteSource.worker_view`."""
        if self._view is None:
            folder, file = f"/proc/{os.getpid()}/fd", self._file.fileno()
            now, later = (f"{folder}/{self._fd}", None if self._fd == file else f"{folder}/{file}")
            self._view = _SpoolFile(now, later, self.name)
        return self._view

    # -- arriving ------------------------------------------------------------------------------------------------

    def _store(self, data: memoryview, offset: int) -> None:
        end = offset + len(data)
        try:
            if data != _ZEROS[: len(data)]:
                view, at = data, offset
                while len(view):
                    count = os.pwrite(self._fd, view, at)
                    view, at = view[count:], at + count
            else:
                if self._flat:
                    punch_hole(self._fd, offset, end)  # a rewrite by zeros
                if end > self._length:
                    os.ftruncate(self._fd, end)  # workers read the file: zeros at its end must be there
        except OSError as error:
            raise OutputError(
                f"cannot write the spool file: {error.strerror}", hint="--spool-dir names a place with room"
            ) from error
        self._length = max(self._length, end)
        self._held += len(data)
        self._peak = max(self._peak, self._held)
        self._arrive(offset, end)
        if self._held > IN_MEMORY and self._fd != self._file.fileno():
            self._move()

    def _move(self) -> None:
        # from memory to the file: what is held is copied, the rest stays a hole
        source, target = self._fd, self._file.fileno()
        try:
            for start, end in file_data_ranges(source, 0, self._length):
                for at in range(start, end, 1 << 20):
                    view, place = memoryview(os.pread(source, min(1 << 20, end - at), at)), at
                    while len(view):
                        count = os.pwrite(target, view, place)
                        view, place = view[count:], place + count
            os.ftruncate(target, self._length)
        except OSError as error:
            raise OutputError(
                f"cannot write the spool file: {error.strerror}", hint="--spool-dir names a place with room"
            ) from error
        self._fd = target
        os.ftruncate(source, 0)  # last: a worker that reads at this moment finds the rest in the file

    def _arrive(self, start: int, end: int) -> None:
        low = bisect.bisect_left(self._ends, start)
        high = bisect.bisect_right(self._starts, end)
        if low < high:
            start = min(start, self._starts[low])
            end = max(end, self._ends[high - 1])
        self._starts[low:high] = [start]
        self._ends[low:high] = [end]

    def _pull(self) -> None:
        # take in one chunk (plain) or one record (flattened)
        if not self._flat:
            at = self._feed.position
            data = self._feed.some(1 << 20)
            if len(data):
                self._store(data, at)
            else:
                self._end(None)
            return
        at = self._feed.position
        raw = self._feed.exactly(RECORD.size)
        if len(raw) < RECORD.size:
            self._end(self._cut("flattened stream has no end record: it is cut off", at))
            return
        offset, size = RECORD.unpack(raw)
        try:
            more = check_record(offset, size, self.name, at)
        except CorruptStream as error:  # what came before is whole
            error.hint = error.hint or "use --salvage for what is whole"
            self._end(error)
            return
        if not more:
            self._end(None)
            return
        while size:
            data = self._feed.some(min(size, 1 << 20))
            if not len(data):
                self._end(self._cut("flattened stream ends inside a record", self._feed.position))
                return
            self._store(data, offset)
            offset, size = offset + len(data), size - len(data)

    def _cut(self, message: str, at: int) -> TruncatedStream:
        return TruncatedStream(message, path=self.name, offset=at, hint="use --salvage for what is whole")

    def _end(self, damage: DumpError | None) -> None:
        self._ended = True
        self.damage = damage
        self.size = self._ends[-1] if self._ends else 0
        self._written = np.array(self._starts, np.uint64), np.array(self._ends, np.uint64)
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, self.size)

    # -- reading -------------------------------------------------------------------------------------------------

    def _has(self, start: int, end: int) -> bool:
        index = bisect.bisect_right(self._starts, start) - 1
        return index >= 0 and self._ends[index] >= end

    def ensure(self, start_offset: int, end_offset: int) -> bool:
        """See `ByteSource.ensure`."""
        while not self._ended and not self._has(start_offset, end_offset):
            self._take()
        return not self._ended or end_offset <= self.size

    def finish(self) -> None:
        """Take in the rest of the stream."""
        while not self._ended:
            self._take()

    def _take(self) -> None:
        try:
            self._pull()
        except CorruptDump as error:  # the stream ends here; whoever asks next must know why
            if not self._salvage:
                error.hint = error.hint or "use --salvage for what came before"
            elif not isinstance(error, TruncatedDump):
                error.hint = error.hint or "what came before is taken, and nothing tells how much of it is right"
            self._end(error)
            if not self._salvage:
                raise

    def spool_whole(self) -> None:
        """See `ByteSource.spool_whole`. From here on this is as good as a file: nothing is released."""
        self._whole = True
        self.finish()
        self.is_stream = False

    def pread_into(self, view: memoryview, offset: int) -> int:
        """See `ByteSource.pread_into`."""
        self.ensure(offset, offset + len(view))
        count = max(0, min(len(view), self.size - offset)) if self._ended else len(view)
        done = 0
        try:
            while done < count:
                part = os.preadv(self._fd, [view[done:count]], offset + done)
                if part == 0:  # a hole at the end that ftruncate has not made yet
                    view[done:count] = bytes(count - done)
                    break
                done += part
        except OSError as error:
            raise InputError(f"cannot read the spool: {error.strerror}", path=self.name) from error
        return count

    def covered(self, offset: NDArray[np.uint64], size: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """See `ByteSource.covered`."""
        if self.damage is None:
            return np.ones(len(offset), bool)
        return intervals_cover(*self._written, offset, size)

    def gaps(self, start_offset: int, end_offset: int) -> list[tuple[int, int]]:
        """See `ByteSource.gaps`."""
        if self.damage is None:
            return []
        return intervals_gaps(*self._written, start_offset, end_offset)

    def data_ranges(self, start_offset: int, end_offset: int) -> Iterator[tuple[int, int]]:
        """See `ByteSource.data_ranges`: waits for the bytes; runs of zeros are holes of the spool file."""
        self.ensure(start_offset, end_offset)
        return file_data_ranges(self._fd, start_offset, end_offset)

    # -- releasing -----------------------------------------------------------------------------------------------

    def release(self, start_offset: int, end_offset: int) -> None:
        """See `ByteSource.release`."""
        if end_offset > start_offset:
            punch_hole(self._fd, start_offset, end_offset)
            self._held -= end_offset - start_offset


def punch_hole(fd: int, start: int, end: int) -> bool:
    """Make bytes [start, end) of a file a hole, which reads as zeros; False where the file system cannot."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        where = ctypes.c_long(start), ctypes.c_long(end - start)
        return libc.fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, *where) == 0  # type: ignore[no-any-return]
    except (OSError, AttributeError):
        return False
