# SPDX-License-Identifier: GPL-2.0-or-later
"""Bytes of a dump that are no page of the output: second copies, and zeros that an earlier conversion filled in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..formats import codecs
from ..formats.errors import CorruptDump, InputError, PageDecodeError
from ..formats.pages import PageState
from ..formats.reader import DumpReader
from ..formats.source import ByteSource

__all__ = ["check_at_end", "check_fill", "compared_duplicates"]

_MAX_RANGES = 1 << 16  # the kernel's image is a few
_PIECE = 1 << 20
_PLAIN = (codecs.RAW, codecs.ZERO)

Pair = tuple[NDArray[Any], NDArray[Any]]


def compared_duplicates(reader: DumpReader) -> Iterator[Pair | None]:
    """Yield (kept, dropped) extents, as many as make twice the memory; then None if there are more.

    A hostile file may have every byte in thousands of segments. A stream must hold back what will be compared.
    """
    budget = 2 * reader.memory_map.count(PageState.STORED) * reader.machine.page_size
    ranges = _MAX_RANGES
    for kept, dropped in reader.duplicates():
        budget -= int(kept["stored_size"].sum())
        ranges -= len(kept)
        if budget < 0 or ranges < 0:
            yield None
            return
        yield kept, dropped


def _compare_duplicates(reader: DumpReader) -> None:
    """Compare the copies; that some differ, or that there are too many, is a finding.

    Raises:
        DumpError: A copy cannot be read.
    """
    differing = 0
    for pair in compared_duplicates(reader):
        if pair is None:
            reader.remark("overlap", "segments overlap many times over: not all copies were compared")
        else:
            differing += _count_differing(reader, *pair)
    if differing:
        reader.remark(
            "overlap-differs", f"{differing} bytes differ between {reader.copies}: {reader.preferred} were kept"
        )


def check_at_end(reader: DumpReader) -> None:
    """Do what is left when the pages are read: compare the copies, and see that the source is what it was.

    Raises:
        InputError: The source changed.
        DumpError: A copy cannot be read.
    """
    _compare_duplicates(reader)
    for source in reader.files:
        if text := source.changed():
            raise InputError(text, path=source.name, hint="convert it when it is at rest")


def _count_differing(reader: DumpReader, kept: NDArray[Any], dropped: NDArray[Any]) -> int:
    differing, sources = 0, reader.sources
    for left, right in zip(kept, dropped, strict=True):
        if (
            left["stored_size"] != right["stored_size"]
            or int(left["codec"]) not in _PLAIN
            or left["codec"] != right["codec"]
        ):
            differing += _count_page(reader, left, right)
            continue
        for at in range(0, int(left["stored_size"]), _PIECE):
            count = min(_PIECE, int(left["stored_size"]) - at)
            try:
                first, second = (_read(sources, row, at, count) for row in (left, right))
            except PageDecodeError:  # a block of one of them; where it is the one that counts its frames are told
                differing += count
                continue
            if first != second:
                differing += int(np.count_nonzero(np.frombuffer(first, np.uint8) != np.frombuffer(second, np.uint8)))
    return differing


def _count_page(reader: DumpReader, left: Any, right: Any) -> int:
    # Two records of one page, of which one at least is compressed. What does not decode holds no byte that is equal;
    # where it is the one that counts its frame is told.
    size = reader.machine.page_size * reader.unit_pages
    pages = []
    for row in (left, right):
        codec, stored = int(row["codec"]), int(row["stored_size"])
        source = reader.sources[int(row["file"])]
        try:
            data = source.pread(int(row["offset"]), 0 if codec == codecs.ZERO else stored)
            pages.append(bytes(size) if codec == codecs.ZERO else codecs.decode_page(codec, data, size))
        except (ValueError, KeyError, PageDecodeError):  # a record that no codec reads; a block that does not decode
            return size
    return int(np.count_nonzero(np.frombuffer(pages[0], np.uint8) != np.frombuffer(pages[1], np.uint8)))


def _read(sources: tuple[ByteSource, ...], row: Any, at: int, count: int) -> bytes:
    if row["codec"] == codecs.ZERO:
        return bytes(count)
    return sources[int(row["file"])].pread(int(row["offset"]) + at, count)


def check_fill(reader: DumpReader) -> None:
    """Check that the frames which the source's note calls filled with zeros are zeros.

    Raises:
        CorruptDump: They hold something.
    """
    for row in reader.fill_extents():
        source, offset, end = (
            reader.sources[int(row["file"])],
            int(row["offset"]),
            int(row["offset"] + row["stored_size"]),
        )
        for low, high in source.data_ranges(offset, end):
            for at in range(low, high, _PIECE):
                data = source.pread(at, min(_PIECE, high - at))
                if data.count(0) != len(data):
                    place = at + len(data) - len(data.lstrip(b"\0"))
                    raise CorruptDump(
                        "the page-state note calls this frame filled with zeros, but it holds something",
                        path=source.name,
                        offset=place,
                        pfn=int(row["start_pfn"]) + (place - offset) // reader.machine.page_size,
                        hint="use --salvage to go by the note",
                    )
