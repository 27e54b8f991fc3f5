# SPDX-License-Identifier: GPL-2.0-or-later
"""Digests of whole files, several at once, made while their pages are read: the storage is read once.

The calling thread hashes a file up to where the next task's pages end before a worker gets the task: the worker
finds the bytes in the page cache. Whatever no task needs is read at the end.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import blake3
import numpy as np
from numpy.typing import NDArray

from .blocks import BlockSource
from .errors import InputError
from .remote import RemoteSource
from .source import ByteSource, FileSource

__all__ = ["ALGORITHMS", "DEFAULT_ALGORITHMS", "FileDigester", "SourceDigests", "digest_file"]

_CHUNK = 4 << 20
DEFAULT_ALGORITHMS = ("sha256", "blake3")


class _Hash(Protocol):
    def update(self, data: bytes | memoryview, /) -> object: ...

    def hexdigest(self) -> str: ...


def _of_hashlib(name: str) -> Callable[[], Any]:
    return lambda: hashlib.new(name, usedforsecurity=False)


# Name as `--algorithm` takes it, and bytes of the digest; blake2b is b2sum's.
ALGORITHMS: dict[str, int] = {
    "md5": 16,
    "sha1": 20,
    "sha224": 28,
    "sha256": 32,
    "sha384": 48,
    "sha512": 64,
    "blake2b": 64,
    "blake3": 32,
}


def _hasher(name: str) -> _Hash:
    return blake3.blake3() if name == "blake3" else _of_hashlib(name)()


class FileDigester:
    """Hashes one file from its first byte to its last, in as many steps as wanted.

    Args:
        path: Regular file or device; opened when first read.
        algorithms: Keys of `ALGORITHMS`.
        source: What to read instead, where it is no file here.

    Attributes:
        position: Bytes hashed.
    """

    def __init__(self, path: str, algorithms: Sequence[str], source: ByteSource | None = None) -> None:
        self.path = path
        self._source = source
        self.position = 0
        self._hashes = {name: _hasher(name) for name in algorithms}
        self._fd: int | None = None

    def update(self, data: bytes | memoryview) -> None:
        """Add the next bytes, where someone else reads them."""
        for each in self._hashes.values():
            each.update(data)
        self.position += len(data)

    def upto(self, offset: int | None) -> None:
        """Read and hash up to an offset; to the end for None.

        Raises:
            InputError: The file cannot be read.
        """
        if not self._hashes:
            return
        try:
            if self._fd is None and self._source is None:
                self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            buffer = memoryview(bytearray(_CHUNK))
            while offset is None or self.position < offset:
                want = _CHUNK if offset is None else min(_CHUNK, offset - self.position)
                count = self._read(buffer[:want])
                if count == 0:
                    break
                self.update(buffer[:count])
        except OSError as error:
            raise InputError(
                f"cannot read for its digest: {error.strerror}", path=self.path, offset=self.position
            ) from error

    def _read(self, view: memoryview) -> int:
        if self._source is not None:
            return self._source.pread_into(view, self.position)
        return os.preadv(-1 if self._fd is None else self._fd, [view], self.position)

    def finish(self) -> dict[str, str]:
        """Hash the rest and return the digests in hexadecimal.

        Raises:
            InputError: The file cannot be read.
        """
        try:
            if self._source is not None or os.path.exists(self.path):  # else a stream: all of it has passed
                self.upto(None)
        finally:
            self.close()
        return {name: each.hexdigest() for name, each in self._hashes.items()}

    def close(self) -> None:
        """Close the file."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def digest_file(path: str, algorithms: Sequence[str]) -> tuple[int, dict[str, str]]:
    """Return size and digests of a file.

    Raises:
        InputError: The file cannot be read.
    """
    digester = FileDigester(path, algorithms)
    found = digester.finish()
    return digester.position, found


class SourceDigests:
    """Digests of all files of a dump, made in the pass over its pages.

    Args:
        algorithms: Gives for the name of a file what to compute, keys of `ALGORITHMS`.
    """

    def __init__(self, algorithms: Callable[[str], Sequence[str]]) -> None:
        self._algorithms = algorithms
        self._digesters: dict[str, FileDigester] = {}
        self._plain: list[FileDigester | None] = []

    def _of(self, name: str, path: str | None = None, source: ByteSource | None = None) -> FileDigester:
        if name not in self._digesters:
            self._digesters[name] = FileDigester(path or name, self._algorithms(name), source)
        return self._digesters[name]

    def tap(self, name: str, data: bytes) -> None:
        """Take bytes of a stream as they pass, in order (`Options.tap`)."""
        self._of(name).update(data)

    def attach(self, sources: Iterable[ByteSource]) -> None:
        """Say which files the extents point into. Where a source is no plain file, offsets are not the file's."""
        self._plain = [self._attach(each) for each in sources]

    def _attach(self, source: ByteSource) -> FileDigester | None:
        if type(source) is FileSource:
            return self._of(source.name, source.path)
        stored = source.stored if isinstance(source, BlockSource) else source
        found = self._of(source.name, source=stored) if isinstance(stored, RemoteSource) else None
        return found if stored is source else None

    def seen(self, extents: NDArray[Any]) -> None:
        """Hash up to the end of what a task is about to read.

        Raises:
            InputError: A file cannot be read.
        """
        for number in np.unique(extents["file"]).tolist() if self._plain else ():
            digester = self._plain[number]
            if digester is not None:
                rows = extents[extents["file"] == number]
                digester.upto(int((rows["offset"] + rows["stored_size"]).max()))

    def finish(self, names: Iterable[str]) -> dict[str, tuple[int, dict[str, str]]]:
        """Hash what is left; return size and digests of each file by name, those that a set brought included.

        Raises:
            InputError: A file cannot be read.
        """
        found = {}
        for name in names:
            digester = self._of(name)
            digests = digester.finish()
            found[name] = digester.position, digests
        self._digesters.clear()
        return found

    def close(self) -> None:
        """Close the files, whatever happened."""
        for each in self._digesters.values():
            each.close()
