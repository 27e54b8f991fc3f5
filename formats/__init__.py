# SPDX-License-Identifier: GPL-2.0-or-later
"""Readers of dump formats. `FORMATS` is the registration; `open_dump` finds who reads a file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from .elfcore import ElfReader
from .errors import DumpError, MissingPart, UnknownFormat, UsageError
from .kdump import KdumpReader
from .open_source import open_source
from .reader import DumpReader, Options
from .source import ByteSource

__all__ = ["FORMATS", "detect", "open_dump"]

FORMATS: tuple[type[DumpReader], ...] = (KdumpReader, ElfReader)


def detect(source: ByteSource, options: Options | None = None) -> type[DumpReader]:
    """Return the reader whose signature the source has, or that the options name.

    Raises:
        UnknownFormat: None has.
        UsageError: No format has the name.
    """
    if options is not None and options.format is not None:
        for reader in FORMATS:
            if reader.name == options.format:
                return reader
        names = ", ".join(reader.name for reader in FORMATS)
        raise UsageError(f"no format is called {options.format}", hint=f"known are {names}")
    source.ensure(0, 16)  # a stream shorter than any signature has its size from here on
    for reader in FORMATS:
        if reader.probe(source):
            return reader
    head = source.pread(0, min(16, source.size)).hex(" ")
    raise UnknownFormat(
        f"no known dump format begins with {head or 'nothing (the file is empty)'}",
        path=source.name,
        hint="`dumpconv formats` lists what can be read",
    )


def open_dump(paths: Sequence[str], options: Options | None = None) -> DumpReader:
    """Open a dump, or a split set by all or any one of its members.

    Args:
        paths: File names; `-` is standard input.
        options: See `Options`.

    Raises:
        DumpError: By the kind of trouble; see each reader.
    """
    options = options or Options()
    sources = [open_source(path, options) for path in paths]
    kinds = {detect(source, options) for source in sources}
    if len(kinds) > 1:
        names = ", ".join(sorted(kind.name for kind in kinds))
        raise UsageError(f"the inputs are of several formats ({names}), not one set")
    kind = kinds.pop()

    def neighbours() -> Iterator[ByteSource]:
        return _neighbours(paths[0], options)

    sources = kind.complete_set(sources, paths, options, neighbours)
    reader = kind(tuple(sources), options)  # type: ignore[call-arg]
    for source in reader.sources:
        reader.damage = source.damage or reader.damage  # the cause before what follows from it
    return reader


def _neighbours(path: str, options: Options) -> Iterator[ByteSource]:
    if path == "-":
        return
    folder = os.path.dirname(os.path.abspath(path))
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise MissingPart(f"cannot look for the other members: {error.strerror}", path=folder) from error
    for entry in entries:
        try:
            if entry.is_file() and not os.path.samefile(entry.path, path):
                yield open_source(entry.path, options, plain=True)
        except (DumpError, OSError):
            continue  # a neighbour that is no dump at all
