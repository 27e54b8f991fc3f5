# SPDX-License-Identifier: GPL-2.0-or-later
"""The other files of a directory, among which the members of a split set are looked for.

A directory may hold thousands of sets. Looking into all of its files for each set takes hours then: where it is known
how a member begins, an index of the first bytes of all is kept for a moment.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from hashlib import blake2b
from typing import NamedTuple

from .errors import DumpError, MissingPart
from .open_source import open_source
from .reader import Options
from .source import ByteSource
from .urls import Url, as_name

__all__ = ["neighbours"]

_HEAD = 512  # bytes
_LIFE = 5.0  # seconds that an index serves at least: meanwhile files may be written in place


class _Index(NamedTuple):
    # names by a digest of the first bytes; of a directory changed when, good until
    changed: int
    end: float
    names: dict[bytes, list[str]]


_LAST: dict[str, _Index] = {}  # of one directory


def neighbours(path: str, options: Options, head: bytes = b"") -> Iterator[ByteSource]:
    """Yield the other files of a file's directory, in order of names; those that are no dump at all are left out.

    Args:
        path: The file.
        options: For opening.
        head: How they begin; as far as the first 512 bytes tell.

    Raises:
        MissingPart: The directory cannot be listed.
    """
    if path == "-" or isinstance(as_name(path), Url):  # all members of a set at URLs are named
        return
    folder = os.path.dirname(path)  # members are called as the one that was named
    try:
        if len(head) < _HEAD:
            names = sorted(os.listdir(folder or "."))
        else:
            names = _index(folder, options).names.get(_key(head), [])
    except OSError as error:
        raise MissingPart(f"cannot look for the other members: {error.strerror}", path=folder or ".") from error
    for name in names:
        try:
            other = os.path.join(folder, name)
            if os.path.isfile(other) and not os.path.samefile(other, path):
                yield open_source(other, options, plain=True)
        except (DumpError, OSError):
            continue


def _key(head: bytes) -> bytes:
    return blake2b(head[:_HEAD], digest_size=16).digest()


def _index(folder: str, options: Options) -> _Index:
    here = os.path.abspath(folder)
    changed = os.stat(here).st_mtime_ns
    last = _LAST.get(here)
    if last is not None and last.changed == changed and time.monotonic() < last.end:
        return last
    begin, names = time.monotonic(), dict[bytes, list[str]]()
    for entry in sorted(os.scandir(here), key=lambda each: each.name):
        try:
            if entry.is_file() and entry.stat().st_size >= _HEAD:
                head = open_source(entry.path, options, plain=True).pread(0, _HEAD)
                names.setdefault(_key(head), []).append(entry.name)
        except (DumpError, OSError):
            continue
    end = time.monotonic()
    _LAST.clear()
    found = _LAST[here] = _Index(changed, end + max(_LIFE, 4 * (end - begin)), names)
    return found
