# SPDX-License-Identifier: GPL-2.0-or-later
"""Readers of dump formats. `FORMATS` is the registration; `open_dump` finds who reads a file."""

from __future__ import annotations

import os
from collections.abc import Sequence

from .elfcore import ElfReader
from .errors import DumpError, MissingPart, UnknownFormat, UsageError
from .kdump import KdumpReader, is_split, same_set, split_range
from .open_source import open_source
from .reader import DumpReader, Options
from .source import ByteSource

__all__ = ["FORMATS", "detect", "open_dump"]

FORMATS: tuple[type[DumpReader], ...] = (KdumpReader, ElfReader)


def detect(source: ByteSource) -> type[DumpReader]:
    """Return the reader whose signature the source has.

    Raises:
        UnknownFormat: None has.
    """
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
    kinds = {detect(source) for source in sources}
    if len(kinds) > 1:
        names = ", ".join(sorted(kind.name for kind in kinds))
        raise UsageError(f"the inputs are of several formats ({names}), not one set")
    kind = kinds.pop()
    if kind is KdumpReader:
        sources = _complete_set(sources, list(paths), options)
    elif len(sources) > 1:
        raise UsageError(f"{len(sources)} inputs: files of format {kind.name} do not come in sets")
    reader = kind(tuple(sources), options)  # type: ignore[call-arg]
    for source in reader.sources:
        reader.damage = source.damage or reader.damage  # the cause before what follows from it
    return reader


def _complete_set(sources: list[ByteSource], paths: list[str], options: Options) -> list[ByteSource]:
    if len(sources) > 1:
        for source in sources[1:]:
            if not (is_split(sources[0]) and same_set(sources[0], source)):
                raise UsageError(f"{source.name} and {sources[0].name} are not members of one split set")
        return sources
    if not (options.find_sisters and paths[0] != "-" and is_split(sources[0])):
        return sources
    return sources + _fitting(sources[0], _sisters(sources[0], paths[0], options))


def _fitting(source: ByteSource, sisters: list[ByteSource]) -> list[ByteSource]:
    # Nobody named the sisters: a copy of a member, or one whose range cannot be, does not spoil the set.
    taken = [split_range(source)]
    kept = []
    for sister in sisters:
        start, end = split_range(sister)
        if start <= end and not any(start < other_end and other_start < end for other_start, other_end in taken):
            taken.append((start, end))
            kept.append(sister)
    return kept


def _sisters(source: ByteSource, path: str, options: Options) -> list[ByteSource]:
    folder = os.path.dirname(os.path.abspath(path))
    found: list[ByteSource] = []
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise MissingPart(f"cannot look for the other members: {error.strerror}", path=folder) from error
    for entry in entries:
        try:
            if not entry.is_file() or os.path.samefile(entry.path, path):
                continue
            other = open_source(entry.path, options, plain=True)
            if KdumpReader.probe(other) and same_set(source, other):
                found.append(other)
        except (DumpError, OSError):
            continue  # a neighbour that is no dump at all
    return found
