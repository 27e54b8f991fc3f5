# SPDX-License-Identifier: GPL-2.0-or-later
"""Dumps in tar archives, one after the other; nothing is extracted.

A member of a plain archive is a range of its file, a member of a packed one a stream of its own. What tarfile may read
between two members is bounded: headers of a hostile archive claim any size, and tarfile takes them in whole.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from typing import Any

from .errors import CorruptDump, DumpError, TruncatedDump
from .open_source import is_packed, open_range, open_unpacked, stream_source
from .reader import Options
from .source import ByteSource, FileSource, RangeSource

__all__ = ["is_tar", "tar_members"]

_CHUNK = 1 << 20
_MAX_HEADERS = 16 << 20  # bytes of headers before one member
_TAIL = 4 * tarfile.RECORDSIZE  # bytes that are kept of a packed archive: tarfile reads ahead of what it looks at


def is_tar(path: str) -> bool:
    """Whether a regular file is a tar archive, packed or not; False where it cannot be read."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        with open_unpacked(path) as stream:
            return stream.peek(512)[257:262] == b"ustar"
    except (DumpError, OSError):
        return False


class _Bounded:
    # a packed archive as tarfile reads it: counts between members, keeps the end

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.left: int | None = _MAX_HEADERS
        self.tail = b""
        self._at = 0

    def read(self, size: int) -> bytes:
        parts = []
        while size and (part := self._stream.read(size)):
            parts.append(part)
            size -= len(part)
        data = b"".join(parts)
        self._at += len(data)
        self.tail = (self.tail + data)[-_TAIL:]
        if self.left is not None:
            self.left = _count(self.left, len(data))
        return data

    def block(self, offset: int) -> bytes:
        """Return the block at an offset, as far as it is still known."""
        at = offset - (self._at - len(self.tail))
        return self.tail[at : at + 512] if at >= 0 else b""


class _InPlace(io.RawIOBase):
    # a plain archive as tarfile reads it: headers only

    def __init__(self, source: FileSource) -> None:
        self.source = source
        self.left: int | None = _MAX_HEADERS
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self.source.size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = max(0, self.source.size - self._at)
        size = left if size < 0 else min(size, left)
        if self.left is not None:
            self.left = _count(self.left, size)
        data = self.source.pread(self._at, size)
        self._at += size
        return data

    def block(self, offset: int) -> bytes:
        """Return the block at an offset."""
        return self.source.pread(offset, max(0, min(512, self.source.size - offset)))


def _count(left: int, size: int) -> int:
    if left < size:
        raise tarfile.ReadError(f"more than {_MAX_HEADERS} bytes of headers before one member")
    return left - size


def tar_members(
    path: str, options: Options, tap: Callable[[str, bytes], None] | None = None
) -> Iterator[tuple[str, ByteSource | DumpError]]:
    """Yield name and source of each regular member, in order; an error where one cannot be had. Use each at once.

    Args:
        path: The archive.
        options: For the spool directory.
        tap: See `Options.tap`: of a packed archive's own bytes.

    Raises:
        TruncatedDump, CorruptDump: The archive is cut off or damaged.
        InputError: It cannot be read.
    """
    inner = options._replace(tap=None)
    try:
        if is_packed(path):
            with open_unpacked(path, tap) as stream:
                yield from _in_order(path, _Bounded(stream), inner)
        else:
            with contextlib.closing(_InPlace(FileSource(path))) as file:
                yield from _in_place(path, file, inner)
    except (tarfile.TarError, ValueError, OSError, EOFError) as error:
        raise CorruptDump(f"the archive cannot be read on: {error}", path=path) from error


def _in_order(path: str, stream: _Bounded, options: Options) -> Iterator[tuple[str, ByteSource | DumpError]]:
    # a packed archive: each member as it comes by
    with tarfile.open(fileobj=stream, mode="r|", bufsize=tarfile.RECORDSIZE) as archive:  # type: ignore[call-overload]
        for member in _members(archive, stream):
            file = archive.extractfile(member)
            if file is None:
                continue
            name = f"{path}!{member.name}"
            data = _Member(file, name, member.size)
            try:
                yield name, stream_source(data, name, options)  # type: ignore[arg-type]
            except DumpError as error:
                yield name, error
            while data.read(_CHUNK):  # what the reader had no use for
                pass
        end = archive.offset
    block = stream.block(end)
    while stream.read(_CHUNK):
        pass
    _check_end(path, block, stream.tail[-512:], end)


def _in_place(path: str, file: _InPlace, options: Options) -> Iterator[tuple[str, ByteSource | DumpError]]:
    # each member is a range of the file; only a sparse one has to be put together
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for member in _members(archive, file):
            name = f"{path}!{member.name}"
            try:
                if member.issparse():
                    data = _Member(archive.extractfile(member), name, member.size)
                    yield name, stream_source(data, name, options)  # type: ignore[arg-type]
                else:
                    start = min(member.offset_data, file.source.size)
                    size = max(0, min(member.size, file.source.size - start))
                    yield name, open_range(RangeSource(file.source, start, size, name), options)
            except DumpError as error:
                yield name, error
        end = archive.offset
    size = file.source.size
    _check_end(path, file.block(end), file.source.pread(max(0, size - 512), min(512, size)), end)


def _members(archive: tarfile.TarFile, file: _Bounded | _InPlace) -> Iterator[tarfile.TarInfo]:
    # opening has read the first header; `left` was set before
    while (member := archive.next()) is not None:
        file.left = None
        if member.isreg():
            yield member
        archive.members.clear()  # type: ignore[attr-defined]  # it keeps all it saw
        file.left = _MAX_HEADERS
    file.left = None


def _check_end(path: str, block: bytes, last: bytes, offset: int) -> None:
    # tarfile takes a header that is damaged for the end
    if block.strip(b"\0"):
        raise CorruptDump("the archive has no header where the next member must be", path=path, offset=offset)
    if len(block) < 512 or last.strip(b"\0"):
        raise TruncatedDump("the archive has no end: it is cut off", path=path)


class _Member:
    # one member's bytes; an archive that ends in them is an error of ours

    def __init__(self, file: Any, name: str, size: int) -> None:
        self._file, self._name, self._left = file, name, size

    def read(self, size: int) -> bytes:
        size = min(size, self._left)
        try:
            data: bytes = self._file.read(size) if size else b""
        except tarfile.TarError as error:
            raise TruncatedDump(f"the archive cannot be read on: {error}", path=self._name) from error
        if size and not data:
            raise TruncatedDump(f"the archive ends {self._left} bytes before the member does", path=self._name)
        self._left -= len(data)
        return data
