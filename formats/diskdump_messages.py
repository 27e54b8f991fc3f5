# SPDX-License-Identifier: GPL-2.0-or-later
"""Pages that diskdump's driver could not read: it wrote a line of text in their place.

    "Unmapped page. PFN <frame>\\n"            the kernel had no mapping
    "Bad page. PFN <frame> flags <hex>\\n"     struct page contradicts itself

and zeros behind it, or the line again and again. A frame is taken for one only if the number is its own and nothing
else is in the page: the driver's buffer is memory, too, and may hold the line of another frame.

Source: docs/formats/diskdump.md section 7; RHEL4 kernel (2.6.9) drivers/block/diskdump.c.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import codecs
from .errors import DumpError
from .source import ByteSource

__all__ = ["is_message", "mark_messages"]

_LINE = re.compile(rb"(?:Unmapped page\. PFN (\d{1,20})|Bad page\. PFN (\d{1,20}) flags [0-9a-f]{1,16})\n")
_HEADS = (b"Unma", b"Bad ")
_WORDS = np.array([int.from_bytes(head, "little") for head in _HEADS], "<u4")
_MOST_PACKED = 256  # bytes that deflate makes of such a page at most; measured: below 90
_READ = 1 << 20


def is_message(page: bytes, pfn: int) -> bool:
    """Whether a page is the message of frame `pfn` and nothing else."""
    found = _LINE.match(page)
    if found is None or int(found[1] or found[2]) != pfn:
        return False
    line = found[0]
    return not any(page[len(line) :]) or (line * (len(page) // len(line) + 1))[: len(page)] == page


def mark_messages(source: ByteSource, rows: NDArray[Any], page_size: int) -> NDArray[Any]:
    """Give the rows of messages codec BAD and the reason.

    Args:
        source: The dump.
        rows: `EXTENT` rows of one page each, which are changed.
        page_size: Bytes.

    Returns:
        `rows`.

    Reads the first bytes of raw pages, and decodes what is packed as small as a message is.
    """
    for first, last in _raw_runs(rows):
        data = np.frombuffer(_read(source, rows, first, last, page_size), np.uint8).reshape(-1, page_size)
        for index in np.flatnonzero(np.isin(data[:, :4].copy().view("<u4")[:, 0], _WORDS)).tolist():
            _mark(rows, first + index, data[index].tobytes())
    small = (rows["codec"] == codecs.ZLIB) & (rows["stored_size"] <= _MOST_PACKED)
    for index in np.flatnonzero(small).tolist():
        offset, size = int(rows["offset"][index]), int(rows["stored_size"][index])
        source.ensure(offset, offset + size)
        try:
            stored = source.pread(offset, size)
            page = codecs.decode_page(codecs.ZLIB, stored, page_size)
        except (ValueError, DumpError):
            continue  # told where pages are decoded
        _mark(rows, index, page)
    return rows


def _read(source: ByteSource, rows: NDArray[Any], first: int, last: int, page_size: int) -> bytes:
    # whole pages, as many as there are: what is missing is told where pages are decoded
    offset = int(rows["offset"][first])
    source.ensure(offset, offset + (last - first) * page_size)
    count = min(last - first, max(0, source.size - offset) // page_size)
    try:
        return source.pread(offset, count * page_size)
    except DumpError:
        return b""


def _mark(rows: NDArray[Any], index: int, page: bytes) -> None:
    if is_message(page, int(rows["start_pfn"][index])):
        rows["codec"][index] = codecs.BAD
        rows["page_offset"][index] = codecs.REASON_CODES["message"]


def _raw_runs(rows: NDArray[Any]) -> list[tuple[int, int]]:
    # [first, last) of rows of raw pages that follow one another in the file, at most a MiB each
    raw = np.flatnonzero(rows["codec"] == codecs.RAW)
    if not len(raw):
        return []
    follows = (np.diff(raw) == 1) & (
        rows["offset"][raw[1:]] == rows["offset"][raw[:-1]] + rows["stored_size"][raw[:-1]]
    )
    cuts = [0, *(np.flatnonzero(~follows) + 1).tolist(), len(raw)]
    step = max(1, _READ // max(1, int(rows["stored_size"][raw[0]])))
    return [
        (int(raw[at]), int(raw[min(at + step, high) - 1]) + 1)
        for low, high in pairwise(cuts)
        for at in range(low, high, step)
    ]
