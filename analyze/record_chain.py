# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the records of a 3.5 to 5.9 log go on behind one whose head cannot be read or makes no sense.

Each record says only how long it is, so that a damaged head hides where the next one begins. It is looked for: a place
from which records follow each other, whole ones with growing times, to the end of the log or the next damage.
Source: kernel/printk.c and kernel/printk/printk.c, struct printk_log (struct log before 3.11), 3.5 to 5.9.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Heads", "resume"]

_STEP = 4  # records begin at multiples of their head's alignment: 4 or 8
_LEAST = 3  # fewer records in a row are chance, unless they end where the log does
_MAX_NS = 1 << 60  # 36 years
_MAX_TRIED = 1 << 14  # places that look like a head and are none
_CHUNK = 1 << 16
_CLOCKS = 10**9  # CPUs' clocks differ, and so may the order of two records' times
_FACILITIES = 24  # of syslog
_TEXT = bytes(range(32, 256)) + b"\t\n\r\x1b"
_DICT = _TEXT + b"\0"


class Heads(NamedTuple):
    """Where a record's head has its fields.

    Attributes:
        mark: The byte order, as struct writes it.
        size: Bytes of the head.
        ns, length, text: Offsets of ts_nsec, len and text_len; dict_len, facility and flags follow the last.
    """

    mark: str
    size: int
    ns: int
    length: int
    text: int

    def whole(self, raw: bytes, at: int, end: int, since: int) -> tuple[int, int] | None:
        """Return length and time of a record that is whole and makes sense, None where there is none."""
        if at + self.size > end:
            return None
        length = int(struct.unpack_from(self.mark + "H", raw, at + self.length)[0])
        text, more = struct.unpack_from(self.mark + "HH", raw, at + self.text)
        ns = int(struct.unpack_from(self.mark + "Q", raw, at + self.ns)[0])
        filled = self.size + text + more
        if length % _STEP or not filled <= length < filled + 8 or at + length > end:
            return None
        if not 0 <= ns < _MAX_NS or ns + _CLOCKS < since:
            return None
        if self.text + 4 < self.size and raw[at + self.text + 4] >= _FACILITIES:
            return None
        body = raw[at + self.size : at + length]
        if body[:text].strip(_TEXT) or body[text : text + more].strip(_DICT) or body[text + more :].strip(b"\0"):
            return None
        return length, ns


def resume(raw: bytes, start: int, end: int, heads: Heads, since: int, *, wraps: bool) -> int | None:
    """Return where the records go on, None where nothing tells.

    Args:
        raw: The ring; a part that cannot be read is zeros.
        start: The first place that is possible.
        end: Where the records end: the next one's place, or the end of the ring.
        heads: Where a head has its fields.
        since: The time of the last record before the damage.
        wraps: The log goes on at the front of the ring: its end here is a head of zeros, or that of the ring.
    """
    for number, at in enumerate(_candidates(raw, start, end, heads)):
        if number >= _MAX_TRIED:
            return None
        ends = list(islice(_chain(raw, at, end, heads, since), _LEAST))
        if len(ends) == _LEAST:
            return at
        stop = ends[-1] if ends else at
        if ends and (stop == end or (wraps and not raw[stop : min(end, stop + heads.size)].strip(b"\0"))):
            return at
    return None


def _candidates(raw: bytes, start: int, end: int, heads: Heads) -> Iterator[int]:
    # places whose three lengths fit each other
    dtype, end = heads.mark + "u2", min(end, len(raw))
    for low in range(-(-start // _STEP) * _STEP, end - heads.size + 1, _CHUNK):
        count = min(_CHUNK, end - heads.size + 1 - low + _STEP - 1) // _STEP

        def column(offset: int, low: int = low, count: int = count) -> NDArray[np.int64]:
            first = low + offset
            whole = np.frombuffer(raw[first : first + _STEP * (count - 1) + 2], np.uint8)
            both = np.stack([whole[::_STEP], whole[1::_STEP]], axis=1).copy()
            return both.view(dtype)[:, 0].astype(np.int64)

        length = column(heads.length)
        filled = heads.size + column(heads.text) + column(heads.text + 2)
        good = (length % _STEP == 0) & (filled <= length) & (length < filled + 8)
        yield from (low + _STEP * np.flatnonzero(good)).tolist()


def _chain(raw: bytes, at: int, end: int, heads: Heads, since: int) -> Iterator[int]:
    # the end of each record of a row
    while (found := heads.whole(raw, at, end, since)) is not None:
        at, since = at + found[0], found[1]
        yield at
