# SPDX-License-Identifier: GPL-2.0-or-later
"""From a name to a `ByteSource`: file, standard input, outer compression, flattened stream; all by content."""

from __future__ import annotations

import os
import stat
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, Protocol

from .elf_layout import ELF_MAGIC
from .errors import DumpError, InputError
from .flattened import FlattenedSource, is_flattened
from .live import open_hint
from .outer import HEAD_SIZE, PackedStream, outer_kind, unpack
from .reader import Options
from .source import ByteSource, FileSource, RangeSource
from .stream import StreamSource
from .urls import Url, as_name

__all__ = ["Peekable", "Readable", "is_packed", "open_range", "open_source", "open_unpacked", "stream_source"]

_CHUNK = 1 << 20
_KDUMP_MAGIC = b"KDUMP   "
_MAX_LAYERS = 3  # .kdump.xz.gz has been seen; nobody packs deeper by accident


class Readable(Protocol):
    """What a stream is read from."""

    def read(self, size: int, /) -> bytes:
        """Return 1 to `size` bytes, none at the end."""

    def close(self) -> object:
        """Give it back."""


def open_source(path: str, options: Options, *, plain: bool = False) -> ByteSource:
    """Open a name for reading.

    Args:
        path: File name; `-` is standard input; a URL that fsspec knows is one.
        options: For the spool directory.
        plain: Do not unpack outer compression: for a look at neighbours.

    Raises:
        InputError: It cannot be opened or read.
    """
    if path == "-":
        return _open_stdin(options)
    if isinstance(path := as_name(path), Url):
        return _open_url(path, options, plain=plain)
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise InputError(f"cannot open: {error.strerror}", path=path, hint=open_hint(path, error.errno)) from error
    if stat.S_ISCHR(mode) and (hint := open_hint(path, None)):
        raise InputError("is a character device, not the kernel's memory", path=path, hint=hint)
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        return _open_stream(_open_binary(path), path, options)
    return _wrap(FileSource(path), options, plain=plain)


def _open_url(url: Url, options: Options, *, plain: bool) -> ByteSource:
    from .remote import RemoteSource, open_remote

    opened = open_remote(url)
    if not isinstance(opened, RemoteSource):
        return _open_stream(opened, url, options, "the server gives no ranges: read as a stream")
    head = opened.pread(0, min(HEAD_SIZE, opened.size))
    # a flattened stream is rearranged as it comes: its records cannot be found without reading it all
    if (len(head) >= 32 and is_flattened(head)) or (not plain and outer_kind(head) is not None):
        return _open_stream(_Reader(opened), url, options)
    return opened


def _wrap(source: FileSource, options: Options, *, plain: bool) -> ByteSource:
    head = source.pread(0, min(HEAD_SIZE, source.size))
    if len(head) >= 32 and is_flattened(head):
        return FlattenedSource(source)
    if not plain and outer_kind(head) is not None:
        return _open_stream(_open_binary(source.path), source.name, options)
    return source


def _open_binary(path: str) -> BinaryIO:
    try:
        return open(path, "rb", buffering=0)
    except OSError as error:
        raise InputError(f"cannot open: {error.strerror}", path=path) from error


def _open_stdin(options: Options) -> ByteSource:
    try:
        mode = os.fstat(0).st_mode
    except OSError as error:
        raise InputError("standard input is closed", path="<stdin>") from error
    if stat.S_ISREG(mode) and os.lseek(0, 0, os.SEEK_CUR) == 0:
        source = FileSource("/proc/self/fd/0")
        source.name = "<stdin>"
        return _wrap(source, options, plain=False)
    return _open_stream(open(0, "rb", buffering=0, closefd=False), "<stdin>", options)


class _Reader:
    # a source as a stream to read from, front to back

    def __init__(self, source: ByteSource) -> None:
        self._source, self._at = source, 0

    def read(self, size: int) -> bytes:
        view = bytearray(max(0, min(size, self._source.size - self._at)))
        count = self._source.pread_into(memoryview(view), self._at)
        self._at += count
        return bytes(view[:count])

    def close(self) -> None:
        pass


def open_range(source: RangeSource, options: Options) -> ByteSource:
    """Return what a range of a file holds: as it is, rearranged, or as a stream with its compression taken off.

    Raises:
        DumpError: It cannot be read, or does not unpack.
    """
    head = source.pread(0, min(HEAD_SIZE, source.size))
    if len(head) >= 32 and is_flattened(head):
        return FlattenedSource(source)
    if outer_kind(head) is not None:
        return stream_source(_Reader(source), source.name, options)
    return source


class Peekable:
    """A raw stream whose first bytes can be looked at.

    Args:
        stream: What to read.
        name: For messages.
        tap: See `Options.tap`.
    """

    def __init__(self, stream: PackedStream, name: str, tap: Callable[[str, bytes], None] | None = None) -> None:
        self._stream = stream
        self._tap = tap
        self._name = name
        self._head = b""
        self._error: DumpError | None = None  # met while peeking: what came before it is read first

    def peek(self, size: int) -> bytes:
        """Return up to `size` bytes that `read` gives again; fewer where an error follows, which `read` raises."""
        while len(self._head) < size and self._error is None:
            try:
                part = self._raw(size - len(self._head))
            except DumpError as error:
                self._error = error
                break
            if not part:
                break
            self._head += part
        return self._head[:size]

    def _raw(self, size: int) -> bytes:
        try:
            data = self._stream.read(size) or b""
        except OSError as error:
            raise InputError(f"cannot read: {error.strerror}", path=self._name) from error
        if data and self._tap is not None:
            self._tap(self._name, data)
        return data

    def read(self, size: int) -> bytes:
        """Return 1 to `size` bytes, none at the end."""
        if self._head:
            part, self._head = self._head[:size], self._head[size:]
            return part
        if self._error is not None:
            raise self._error
        return self._raw(size)


class _Chunks:
    # An iterator of chunks as a stream to read from.

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")  # a slice of bytes would copy the rest each time

    def read(self, size: int) -> bytes:
        if not len(self._rest):
            self._rest = memoryview(next(self._chunks, b""))
        part, self._rest = self._rest[:size], self._rest[size:]
        return bytes(part)


def _read_chunks(stream: Peekable) -> Iterator[bytes]:
    while chunk := stream.read(_CHUNK):
        yield chunk


def _open_stream(stream: Readable, name: str, options: Options, why: str = "") -> ByteSource:
    try:
        source = stream_source(stream, name, options, why)
    except BaseException:
        stream.close()
        raise
    weakref.finalize(source, stream.close)
    return source


def _unpack_layers(peekable: Peekable, name: str, *, salvage: bool = False) -> tuple[Peekable, list[str]]:
    kinds: list[str] = []
    while len(kinds) < _MAX_LAYERS and (kind := outer_kind(peekable.peek(HEAD_SIZE))) is not None:
        kinds.append(kind)
        peekable = Peekable(_Chunks(unpack(kind, peekable, name, salvage=salvage)), name)
    return peekable, kinds


@contextmanager
def open_unpacked(path: str, tap: Callable[[str, bytes], None] | None = None) -> Iterator[Peekable]:
    """Open a file as a stream, outer compression taken off.

    Raises:
        InputError: It cannot be opened or read.
        CorruptDump: It does not unpack.
    """
    with _open_binary(path) as raw:
        yield _unpack_layers(Peekable(raw, path, tap), path)[0]


def is_packed(path: str) -> bool:
    """Whether a file has an outer compression.

    Raises:
        InputError: It cannot be opened or read.
    """
    with _open_binary(path) as raw:
        return outer_kind(Peekable(raw, path).peek(HEAD_SIZE)) is not None


def stream_source(stream: Readable, name: str, options: Options, why: str = "") -> StreamSource:
    """Return a stream as a source, outer compression taken off.

    Args:
        stream: What to read.
        name: For messages.
        options: For the spool directory.
        why: What makes this a stream, for the report.

    Raises:
        DumpError: It cannot be read, or does not unpack.
    """
    reasons = ["read as a stream"] if name == "<stdin>" else [why] if why else []
    peekable, kinds = _unpack_layers(Peekable(stream, name, options.tap), name, salvage=options.salvage)
    reasons += [f"{kind}-compressed" for kind in kinds]
    why = ", ".join(reasons)
    source = StreamSource(_read_chunks(peekable), name, options.spool_dir, why, salvage=options.salvage)
    if source.flattened and source.starts_with(ELF_MAGIC):
        source.spool_whole()  # its real program headers come last
    elif options.once and source.flattened and not source.starts_with(_KDUMP_MAGIC):
        source.spool_whole()  # its first bytes may come once more
    elif options.salvage and not options.once:
        source.spool_whole()  # decoded twice
    return source
