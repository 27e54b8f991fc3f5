# SPDX-License-Identifier: GPL-2.0-or-later
"""Where bytes come from: `ByteSource`, read by position, safe from any thread, picklable as a description."""

from __future__ import annotations

import errno
import os
import stat
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from .errors import DumpError, InputError, TruncatedDump
from .live import first_bytes, in_procfs, open_hint

__all__ = ["UNKNOWN_SIZE", "ByteSource", "BytesSource", "FileSource", "JoinedSource", "RangeSource", "file_data_ranges"]

# The size of a stream whose end has not come yet. Comparisons with it never refuse anything.
UNKNOWN_SIZE = 1 << 63


class ByteSource(ABC):
    """Bytes addressed by position. No seek pointer.

    Attributes:
        name: For messages.
        size: Bytes; `UNKNOWN_SIZE` for a stream that has not ended.
        notes: Remarks on how the bytes are had (spooled, decompressed), for reports.
        live: A file of /proc: the kernel makes the bytes as they are read.
    """

    name: str
    size: int
    notes: tuple[str, ...] = ()
    live: bool = False

    @abstractmethod
    def pread_into(self, view: memoryview, offset: int) -> int:
        """Fill `view` with the bytes at `offset`; return how many there were (less only at the end)."""

    def expect_jumps(self) -> None:  # noqa: B027 - most sources have nothing to do
        """Be told that reads will be here and there: what nobody asks for need not be read ahead."""

    def preadv(self, views: list[memoryview], offset: int) -> int:
        """Fill the views one after another; return how many bytes there were."""
        done = 0
        for view in views:
            count = self.pread_into(view, offset + done)
            done += count
            if count < len(view):
                break
        return done

    def pread(self, offset: int, size: int) -> bytes:
        """Return exactly `size` bytes at `offset`.

        Raises:
            TruncatedDump: The source ends before.
            InputError: It cannot be read.
        """
        if offset < 0 or size < 0 or offset + size > self.size:
            self._short(offset, size)
        buffer = bytearray(size)
        if self.pread_into(memoryview(buffer), offset) != size:
            self._short(offset, size)
        return bytes(buffer)

    def _short(self, offset: int, size: int) -> None:
        has = f"has {self.size}" if self.size < UNKNOWN_SIZE else "ends before"
        raise TruncatedDump(f"{size} bytes wanted at {offset:#x}, but the file {has}", path=self.name, offset=offset)

    # What only streams do more about:

    damage: DumpError | None = None  # why the source itself is not whole
    is_stream: bool = False

    def ensure(self, start_offset: int, end_offset: int) -> bool:
        """Wait until the bytes have arrived; return whether the source has (or may have) them."""
        return end_offset <= self.size

    def release(self, start_offset: int, end_offset: int) -> None:  # noqa: B027 - a file needs nothing
        """Say that the bytes in the range are not needed again."""

    def finish(self) -> None:  # noqa: B027
        """Take in the rest."""

    def spool_whole(self) -> None:  # noqa: B027
        """Take in everything now: the source cannot be understood, or not be read in order, before its end."""

    def covered(self, offset: NDArray[np.uint64], size: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Return whether the bytes of each range were ever written; False only in a source with `damage`."""
        return np.ones(len(offset), bool)

    def gaps(self, start_offset: int, end_offset: int) -> list[tuple[int, int]]:
        """Return the parts of a range that were never written, ascending; some only in a source with `damage`."""
        return []

    def data_ranges(self, start_offset: int, end_offset: int) -> Iterator[tuple[int, int]]:
        """Yield the parts of a range that may hold other bytes than zeros: ascending, disjoint, none empty."""
        if start_offset < end_offset:
            yield start_offset, end_offset

    def changed(self) -> str | None:
        """Say how the bytes are others than when they were opened; None where that is not so, or cannot be told."""
        return None

    def worker_view(self) -> ByteSource:
        """Return what workers read instead of this source."""
        return self

    @property
    def elsewhere(self) -> bool:
        """Whether a process on another machine may have the bytes, by what this pickles to."""
        return False


def file_data_ranges(fd: int, start_offset: int, end_offset: int) -> Iterator[tuple[int, int]]:
    """Yield the parts of a file that are no holes, by lseek(2); all of it where the file system cannot tell.

    The descriptor's position moves: nothing of ours reads by it.
    """
    at = start_offset
    while at < end_offset:
        try:
            low = os.lseek(fd, at, os.SEEK_DATA)
            high = min(end_offset, os.lseek(fd, low, os.SEEK_HOLE)) if low < end_offset else low
        except OSError as error:
            if error.errno != errno.ENXIO:  # which says that there is no more data
                yield at, end_offset
            return
        if low < end_offset and high <= low:  # the file changes under our hands
            high = end_offset
        if low < high:
            yield low, high
        at = high


class FileSource(ByteSource):
    """A regular file or block device, opened read-only; pickles as its path."""

    def __init__(self, path: str) -> None:
        self.name = path
        self._path = os.path.abspath(path)
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise InputError(f"cannot open: {error.strerror}", path=path, hint=open_hint(path, error.errno)) from error
        weakref.finalize(self, os.close, self._fd)
        status = os.fstat(self._fd)
        if stat.S_ISDIR(status.st_mode):
            raise InputError("is a directory, not a dump", path=path)
        regular = stat.S_ISREG(status.st_mode)
        self.size = status.st_size if regular else os.lseek(self._fd, 0, os.SEEK_END)
        self.live = regular and in_procfs(status)
        if self.live and self.size == 0 and first_bytes(self._fd):
            self.size = UNKNOWN_SIZE  # the kernel does not say how much there is

    def __reduce__(self) -> tuple[object, ...]:
        return FileSource, (self._path,)

    @property
    def path(self) -> str:
        """Absolute path."""
        return self._path

    def fileno(self) -> int:
        """The descriptor, for `preadv` straight into page buffers."""
        return self._fd

    def expect_jumps(self) -> None:
        """See `ByteSource.expect_jumps`."""
        with suppress(OSError, AttributeError):  # not all systems have it, nor all files
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_RANDOM)

    def pread_into(self, view: memoryview, offset: int) -> int:
        """See `ByteSource.pread_into`."""
        done = 0
        try:
            while done < len(view):
                count = os.preadv(self._fd, [view[done:]], offset + done)
                if count == 0:
                    break
                done += count
        except (OSError, OverflowError) as error:
            raise InputError(f"cannot read {len(view)} bytes: {error}", path=self.name, offset=offset) from error
        return done

    @property
    def elsewhere(self) -> bool:
        """See `ByteSource.elsewhere`: the path must lead there to the same file."""
        return not self.live and not self._path.startswith("/proc/")

    def data_ranges(self, start_offset: int, end_offset: int) -> Iterator[tuple[int, int]]:
        """See `ByteSource.data_ranges`."""
        return file_data_ranges(self._fd, start_offset, end_offset)

    def preadv(self, views: list[memoryview], offset: int) -> int:
        """See `ByteSource.preadv`: one system call for up to 1024 views."""
        done = 0
        try:
            for low in range(0, len(views), 1024):
                part = views[low : low + 1024]
                count = os.preadv(self._fd, part, offset + done)
                done += count
                if count != sum(len(view) for view in part):
                    return self._finish(views, offset, done)
        except (OSError, OverflowError) as error:
            raise InputError(f"cannot read: {error}", path=self.name, offset=offset) from error
        return done

    def _finish(self, views: list[memoryview], offset: int, done: int) -> int:
        # a read came back short: go on view by view from where it stopped
        skipped = 0
        for view in views:
            if skipped + len(view) > done:
                inside = done - skipped
                count = self.pread_into(view[inside:], offset + done)
                done += count
                if count < len(view) - inside:
                    break
            skipped += len(view)
        return done


class RangeSource(ByteSource):
    """A range of another source: a member of an archive that is not packed.

    Args:
        inner: The other source.
        start: Offset of the first byte in it.
        size: Bytes.
        name: For messages.
    """

    def __init__(self, inner: ByteSource, start: int, size: int, name: str) -> None:
        self.name, self.size = name, size
        self._inner, self._start = inner, start

    def __reduce__(self) -> tuple[object, ...]:
        return RangeSource, (self._inner, self._start, self.size, self.name)

    def pread_into(self, view: memoryview, offset: int) -> int:
        """See `ByteSource.pread_into`."""
        count = max(0, min(len(view), self.size - offset))
        return self._inner.pread_into(view[:count], self._start + offset) if count else 0

    @property
    def elsewhere(self) -> bool:
        """See `ByteSource.elsewhere`."""
        return self._inner.elsewhere

    def expect_jumps(self) -> None:
        """See `ByteSource.expect_jumps`."""
        self._inner.expect_jumps()

    def preadv(self, views: list[memoryview], offset: int) -> int:
        """See `ByteSource.preadv`."""
        if offset + sum(len(view) for view in views) > self.size:
            return super().preadv(views, offset)
        return self._inner.preadv(views, self._start + offset)

    def data_ranges(self, start_offset: int, end_offset: int) -> Iterator[tuple[int, int]]:
        """See `ByteSource.data_ranges`."""
        start, end = self._start + start_offset, self._start + min(end_offset, self.size)
        for low, high in self._inner.data_ranges(start, end):
            yield low - self._start, high - self._start


class BytesSource(ByteSource):
    """Bytes in memory."""

    def __init__(self, data: bytes, name: str = "<memory>") -> None:
        self.name = name
        self._data = data
        self.size = len(data)

    @property
    def elsewhere(self) -> bool:
        """See `ByteSource.elsewhere`."""
        return True

    def pread_into(self, view: memoryview, offset: int) -> int:
        """See `ByteSource.pread_into`."""
        part = self._data[offset : offset + len(view)]
        view[: len(part)] = part
        return len(part)


class JoinedSource(ByteSource):
    """Pieces of other sources, one behind the other.

    Args:
        pieces: (source, offset, size) of each.
        name: For messages.
    """

    def __init__(self, pieces: list[tuple[ByteSource, int, int]], name: str) -> None:
        self.name = name
        self._pieces = pieces
        self.size = sum(size for _, _, size in pieces)

    @property
    def elsewhere(self) -> bool:
        """See `ByteSource.elsewhere`."""
        return all(source.elsewhere for source, _, _ in self._pieces)

    def pread_into(self, view: memoryview, offset: int) -> int:
        """See `ByteSource.pread_into`."""
        done = start = 0
        for source, at, size in self._pieces:
            skip = max(0, offset + done - start)
            count = min(size - skip, len(view) - done)
            if count > 0:
                if source.pread_into(view[done : done + count], at + skip) != count:
                    break
                done += count
            start += size
        return done
