# SPDX-License-Identifier: GPL-2.0-or-later
"""A dump at a URL, read by ranges through fsspec: a bounded cache of blocks, retries, and whether it changed.

Each process connects for itself when it first reads; the first of them says what size and version the object has, and
the others hold theirs against it.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

from .errors import InputError
from .http_range import NoRanges, Refused, get_range
from .schemes import is_http, open_system
from .source import UNKNOWN_SIZE, ByteSource
from .urls import Url

__all__ = ["RemoteSource", "WholeReader", "open_remote", "version_now"]

_BLOCK = 1 << 20
_KEPT_BLOCKS = 32  # of each source in each process
_MAX_AHEAD = 8  # blocks of one request, while reads go on where the last one ended
_DELAYS = (0.1, 0.3, 1.0, 3.0)  # seconds before the second try, the third ...
# What tells one version of an object from another, as the file systems of fsspec name it.
_VERSION = (
    *("ETag", "etag", "Last-Modified", "LastModified", "last_modified", "mtime", "md5Hash", "generation"),
    *("VersionId", "version_id", "ino"),
)
_FINAL = (
    Refused,
    FileNotFoundError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
    ImportError,
    ValueError,
    TypeError,
)
_FINAL_NAMES = ("HostKeyNotVerifiable", "PermissionDenied", "SFTPNoSuchFile", "SFTPPermissionDenied")  # of asyncssh
_AGAIN = (408, 425, 429)  # of the 4xx

T = TypeVar("T")


class _Connection:
    # One process's way to an object: the file system and the open file; whatever it raises is one of ours.

    def __init__(self, url: Url) -> None:
        self.url = url
        self._file: Any = None
        self._fs: Any = None
        self._path = ""
        self._http = is_http(url)

    def _system(self) -> Any:
        if self._fs is None:
            self._fs, self._path = open_system(self.url)
        return self._fs

    def info(self, tries: int = len(_DELAYS) + 1) -> dict[str, Any]:
        """Return what the object is now."""

        def ask() -> dict[str, Any]:
            system = self._system()
            system.invalidate_cache()
            return dict(system.info(self._path))

        return self._try("cannot open", None, ask, tries)

    def read(self, offset: int, size: int, of: int, tag: str | None = None) -> bytes | bytearray:
        """Return exactly these bytes of an object of `of` bytes and, as far as it is known, this ETag."""

        def ask() -> bytes | bytearray:
            if self._http:
                from fsspec.asyn import sync

                system = self._system()
                return sync(system.loop, get_range, system, self._path, offset, size, of, tag)  # type: ignore[no-any-return]
            if self._file is None:
                block = {} if self.url.scheme in ("ssh", "sftp") else {"block_size": _BLOCK}  # ssh: as the server says
                self._file = self._system().open(self._path, "rb", cache_type="none", **block)
                # at exit, while the thread of fsspec's requests still runs: later, closing it waits for ever
                weakref.finalize(self, _close, self._file)
            self._file.seek(offset)
            data = b""
            while len(data) < size and (part := self._file.read(size - len(data))):
                data += part
            if len(data) != size:
                raise OSError(f"{len(data)} bytes came")
            return data

        return self._try(f"cannot read {size} bytes", offset, ask)

    def stream(self) -> Any:
        """Return the object as a file that is read front to back."""

        def ask() -> Any:
            whole = {"block_size": 0} if self._http else {"cache_type": "readahead"}
            return self._system().open(self._path, "rb", **whole)

        return self._try("cannot open", None, ask)

    def _try(self, what: str, offset: int | None, ask: Callable[[], T], limit: int = len(_DELAYS) + 1) -> T:
        tries = 0
        while True:
            tries += 1
            try:
                return ask()
            except Exception as error:
                if isinstance(error, NoRanges):
                    raise
                cause = _cause(error)
                if isinstance(cause, InputError):
                    raise InputError(
                        cause.message, path=cause.path or self.url, offset=offset, hint=cause.hint
                    ) from error
                if _is_final(cause) or tries >= limit:
                    raise self.error(what, cause, offset, tries) from error
                if self._file is not None:
                    _close(self._file)
                self._file = None
                time.sleep(_DELAYS[tries - 1])

    def error(self, what: str, cause: BaseException, offset: int | None = None, tries: int = 1) -> InputError:
        """Return an error without secrets."""
        status, hint = getattr(cause, "status", None), None
        if status == 0:
            why = "redirects, and those redirect again"  # aiohttp's TooManyRedirects
        elif isinstance(status, int) and hasattr(cause.__cause__, "code"):  # aiohttp's HttpProcessingError
            why = f"the answer is not HTTP: {getattr(cause, 'message', '')}"
        elif isinstance(status, int):
            why = f"HTTP status {status} {getattr(cause, 'message', '')}"
        elif type(cause).__name__ == "HostKeyNotVerifiable":
            why, hint = str(cause), "~/.ssh/known_hosts tells which keys to trust; `ssh HOST` adds to it"
        elif isinstance(cause, FileNotFoundError) or type(cause).__name__ == "SFTPNoSuchFile":
            why = "there is nothing"
        elif isinstance(cause, Refused):
            why = str(cause)
        elif isinstance(cause, TimeoutError):
            why = str(cause) or str(cause.__cause__ or "") or "no answer in time"
        elif isinstance(cause, ssl.SSLCertVerificationError):
            found = getattr(cause, "certificate_error", cause)  # where it is aiohttp's, which says much around it
            why = f"its certificate is not trusted: {found.verify_message}"
            hint = "SSL_CERT_FILE=FILE names a file (PEM) of the certificates to trust"
        else:
            why = f"{type(cause).__name__}: {cause}".rstrip(": ")
        why = " ".join(self.url.scrub(why).split())[:300]
        again = f" ({tries} tries)" if tries > 1 else ""
        return InputError(f"{what}: {why}{again}", path=self.url, offset=offset, hint=hint)


def _close(file: Any) -> None:
    with contextlib.suppress(Exception):
        file.close()


def _cause(error: BaseException) -> BaseException:
    # fsspec calls every failure to ask for a size a file that is not there
    inner = error.__cause__
    return inner if isinstance(error, FileNotFoundError) and inner is not None else error


def _is_final(error: BaseException) -> bool:
    status = getattr(error, "status", None)
    if isinstance(status, int) and (status == 0 or 400 <= status < 500):
        return status not in _AGAIN
    return isinstance(error, _FINAL) or type(error).__name__ in _FINAL_NAMES


def _version(info: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((key, str(info[key])) for key in _VERSION if info.get(key) is not None)


class RemoteSource(ByteSource):
    """An object at a URL that gives ranges; pickles as its URL, size and version.

    Args:
        url: Where it is.
        size: Bytes.
        version: See `_version`; what it was when it was first opened.
    """

    def __init__(self, url: Url, size: int, version: tuple[tuple[str, str], ...]) -> None:
        self.name = url
        self.url = url
        self.size = size
        self._version = version
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, bytes | bytearray] = OrderedDict()
        self._next, self._ahead = -1, 1
        self._connection: _Connection | None = None
        self._pid = 0
        self._checked = False

    def __reduce__(self) -> tuple[object, ...]:
        return RemoteSource, (self.url, self.size, self._version)

    @property
    def elsewhere(self) -> bool:
        """See `ByteSource.elsewhere`."""
        return self.url.scheme not in ("memory", "file", "local")

    def trust(self, connection: _Connection) -> None:
        """Use a connection over which size and version were asked just now."""
        self._connection, self._pid, self._checked = connection, os.getpid(), True

    def _connected(self) -> _Connection:
        if self._connection is None or self._pid != os.getpid():  # threads of a library do not survive a fork
            self._connection, self._pid = _Connection(self.url), os.getpid()
        if not self._checked:
            if text := self.changed():
                raise InputError(text, path=self.name)
            self._checked = True
        return self._connection

    def changed(self) -> str | None:
        """See `ByteSource.changed`."""
        connection = self._connection if self._pid == os.getpid() else None
        try:
            info = (connection or _Connection(self.url)).info()
        except InputError as error:
            return f"gone since it was opened: {error.message}"
        if info.get("size") != self.size:
            return f"changed while it was read: {self.size} bytes then, {info.get('size')} now"
        now = dict(_version(info))
        for key, before in self._version:
            if now.get(key, before) != before:
                return f"changed while it was read: {key} {before} then, {now[key]} now"
        return None

    def pread_into(self, view: memoryview, offset: int) -> int:
        """See `ByteSource.pread_into`."""
        count = max(0, min(len(view), self.size - offset))
        done = 0
        with self._lock:
            while done < count:
                number, skip = divmod(offset + done, _BLOCK)
                data = self._kept.get(number)
                if data is None:
                    data = self._fetch(number, (offset + count - 1) // _BLOCK)
                else:
                    self._kept.move_to_end(number)
                part = memoryview(data)[skip : skip + count - done]
                view[done : done + len(part)] = part
                done += len(part)
        return count

    def _fetch(self, first: int, last: int) -> bytes | bytearray:
        # blocks from `first` on that are not kept, up to `last`, further where reading goes on from the last request
        self._ahead = min(2 * self._ahead, _MAX_AHEAD) if first == self._next else 1
        end = -(-self.size // _BLOCK)
        stop = min(max(last + 1, first + self._ahead), first + _MAX_AHEAD, end)
        for number in range(first + 1, stop):
            if number in self._kept:
                stop = number
                break
        self._next = stop
        low, high = first * _BLOCK, min(stop * _BLOCK, self.size)
        try:
            data = self._connected().read(low, high - low, self.size, dict(self._version).get("ETag"))
        except NoRanges:
            raise InputError(
                f"bytes {low}-{high - 1} were asked for, and all of it would come: the server gives no ranges any more",
                path=self.name,
                offset=low,
            ) from None
        for number in range(first, stop):
            self._kept[number] = data[number * _BLOCK - low : (number + 1) * _BLOCK - low]
        while len(self._kept) > _KEPT_BLOCKS:
            self._kept.popitem(last=False)
        return self._kept[first]


class WholeReader:
    """The object of a server that gives no ranges, as a raw stream.

    Args:
        connection: To it.
    """

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self._file = connection.stream()
        self._at = 0

    def read(self, size: int) -> bytes:
        """Return 1 to `size` bytes, none at the end."""
        try:
            data: bytes = self._file.read(size)
        except Exception as error:
            raise self._connection.error("cannot read on", error, self._at) from error
        self._at += len(data)
        return data

    def close(self) -> None:
        """Hang up."""
        with contextlib.suppress(Exception):
            self._file.close()


def open_remote(url: Url) -> RemoteSource | WholeReader:
    """Open an object.

    Returns:
        A source; where the server gives no ranges (or no size), a stream to read once.

    Raises:
        InputError: It cannot be had.
    """
    connection = _Connection(url)
    info = connection.info(tries=2)  # nothing is lost yet
    if info.get("type") == "directory":
        raise InputError("is a directory, not a dump", path=url)
    size = info.get("size")
    if not isinstance(size, int) or info.get("partial") is False:
        return WholeReader(connection)
    if not 0 <= size < UNKNOWN_SIZE:
        raise InputError(f"cannot be: the server says that it has {size} bytes", path=url)
    source = RemoteSource(url, size, _version(info))
    source.trust(connection)
    if size > 0:
        try:
            connection.read(
                size - 1, 1, size, info.get("ETag")
            )  # a server that ignores ranges shows here, before it sends everything
        except NoRanges:
            return WholeReader(connection)
    return source


def version_now(url: Url) -> tuple[int, dict[str, str]] | None:
    """Return size (-1 where it is not told) and version of an object, None where it cannot be had."""
    try:
        info = _Connection(url).info(tries=2)
    except InputError:
        return None
    size = info.get("size")
    return size if isinstance(size, int) else -1, dict(_version(info))
