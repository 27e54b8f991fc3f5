# SPDX-License-Identifier: GPL-2.0-or-later
"""Dumps in tar archives, packed or not: each member a stream of its own, one after the other; nothing is extracted.

tarfile in stream mode reads front to back. What it may read between two members is bounded: headers of a hostile
archive claim any size, and tarfile takes them in whole.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from typing import Any

from .errors import CorruptDump, DumpError, TruncatedDump
from .open_source import open_unpacked, stream_source
from .reader import Options
from .source import ByteSource

__all__ = ["is_tar", "tar_members"]

_CHUNK = 1 << 20
_MAX_HEADERS = 16 << 20  # bytes of headers before one member


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
    # the archive as tarfile reads it: counts between members, keeps the end

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.left: int | None = None
        self.tail = b""

    def read(self, size: int) -> bytes:
        parts = []
        while size and (part := self._stream.read(size)):
            parts.append(part)
            size -= len(part)
        data = b"".join(parts)
        self.tail = (self.tail + data)[-512:]
        if self.left is not None:
            self.left -= len(data)
            if self.left < 0:
                raise tarfile.ReadError(f"more than {_MAX_HEADERS} bytes of headers before one member")
        return data


def tar_members(
    path: str, options: Options, tap: Callable[[str, bytes], None] | None = None
) -> Iterator[tuple[str, ByteSource | DumpError]]:
    """Yield name and source of each regular member, in order; an error where one cannot be had. Use each at once.

    Args:
        path: The archive.
        options: For the spool directory.
        tap: See `Options.tap`: of the archive's own bytes.

    Raises:
        TruncatedDump, CorruptDump: The archive is cut off or damaged.
        InputError: It cannot be read.
    """
    inner = options._replace(tap=None)
    with open_unpacked(path, tap) as stream:
        bounded = _Bounded(stream)
        try:
            bounded.left = _MAX_HEADERS
            with tarfile.open(fileobj=bounded, mode="r|", bufsize=tarfile.RECORDSIZE) as archive:  # type: ignore[call-overload]
                while (member := archive.next()) is not None:
                    bounded.left = None
                    file = archive.extractfile(member) if member.isreg() else None
                    if file is not None:
                        name = f"{path}!{member.name}"
                        data = _Member(file, name, member.size)
                        try:
                            yield name, stream_source(data, name, inner)  # type: ignore[arg-type]
                        except DumpError as error:
                            yield name, error
                        while data.read(_CHUNK):  # what the reader had no use for
                            pass
                    archive.members.clear()  # it keeps all it saw  # type: ignore[attr-defined]
                    bounded.left = _MAX_HEADERS
            bounded.left = None
            while bounded.read(_CHUNK):
                pass
        except (tarfile.TarError, ValueError, OSError, EOFError) as error:
            raise CorruptDump(f"the archive cannot be read on: {error}", path=path) from error
        if bounded.tail.strip(b"\0"):
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
