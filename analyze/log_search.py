# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel log where nothing says where it lies: found by its text, in every era's buffer. Approximate, and said so.

A record is known by words that every boot or every end prints. From there its neighbours are found: since 5.10 by the
numbers before the texts, which count up; from 3.5 to 5.9 by the lengths in the records' heads; before that, and in
files that hold a log, the text is one run.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import numpy as np

from ..formats.errors import DumpError
from .errors import MissingTable
from .log import Record, level_mark, line_record
from .memory import PhysicalMemory
from .scan import pieces

__all__ = ["search_log"]

_MARKS = (b"Linux version ", b"Kernel panic - not syncing: ", b"Kernel panic: ", b"Command line: ")
_MAX_HITS = 64  # of each mark
_AROUND = 2 << 20  # bytes looked at before and behind a hit: buffers are 16 KiB to 1 MiB, seldom more
_NEAR = 16384  # the same for a first look
_MAX_BLOCK = 4096  # bytes from one text to the next
_MAX_SKIP = 64  # numbers without a text, one after another: empty lines have none
_MAX_RECORDS = 1 << 20
_LEAST = 3  # fewer records are chance
_LEVEL_MARK = 2  # KERN_SOH and a digit
_CONTINUED = b"\x01c"  # KERN_CONT: more of the line came, and was put before it
_HEADS = (16, 20, 24)  # bytes before the text: without and with the caller's number
_MAX_TEXT = 1024
_IS_TEXT = np.zeros(256, np.bool_)
_PRINTABLE = bytes(range(32, 127)) + b"\t\n\r" + bytes(range(128, 256))
_IS_TEXT[list(_PRINTABLE)] = True


class _Window:
    # memory around a hit, as far as it is in one piece; `at` is the hit's offset in it

    def __init__(self, physical: PhysicalMemory, paddr: int, around: int) -> None:
        size = physical.machine.page_size
        page = paddr - paddr % size
        low, high = _reach(physical, page - size, -size, around), _reach(physical, page, size, around)
        self.data = physical.read(low, high - low) if high > low else b""
        self.at = paddr - low
        self.order, self.word = physical.machine.byteorder, physical.machine.word_size
        self.mark = "<" if self.order == "little" else ">"


def _reach(physical: PhysicalMemory, paddr: int, step: int, around: int) -> int:
    # the end of readable memory from a page on, in one direction
    for _ in range(-(-around // abs(step))):
        try:
            physical.page(paddr // abs(step))
        except DumpError:
            break
        paddr += step
    return paddr if step > 0 else paddr - step


def search_log(physical: PhysicalMemory) -> tuple[list[Record], str]:
    """Return the records in order, and one line on how they were found.

    Raises:
        MissingTable: Nothing in memory looks like a log.
    """
    best: list[Record] = []
    how, most = "", 0
    for paddr in _hits(physical):
        near = _Window(physical, paddr, _NEAR)
        ways = [each for each in _WAYS if len(each[2](near)) >= _LEAST]
        window = _Window(physical, paddr, _AROUND) if ways else near
        for words, proves, find in ways:
            found = find(window)
            if len(found) >= _LEAST and proves * len(found) > most:
                best, how, most = found, words, proves * len(found)
    if not best:
        raise MissingTable("nothing in memory looks like a kernel log")
    return best, how


def _hits(physical: PhysicalMemory) -> Iterator[int]:
    # one pass for all marks
    found: dict[bytes, list[int]] = {mark: [] for mark in _MARKS}
    for base, data in pieces(physical):
        for mark, places in found.items():
            at = data.find(mark)
            while at >= 0 and len(places) < _MAX_HITS:
                if not places or base + at > places[-1]:
                    places.append(base + at)
                at = data.find(mark, at + 1)
    for places in found.values():
        yield from places


# -- 5.10 and later -------------------------------------------------------------------------------------------------


def _numbered(window: _Window) -> list[Record]:
    word, at = window.word, window.at
    if at % word or at < word:
        return []
    mask = (1 << 8 * word - 2) - 1  # two bits of a word are the state, elsewhere
    first = int.from_bytes(window.data[at - word : at], window.order)
    if first > mask:
        return []
    dtype = np.dtype(f"{window.mark}u{word}")
    words = np.frombuffer(window.data, dtype, len(window.data) // word).astype(np.uint64)
    near = (words - np.uint64(first) + np.uint64(_MAX_RECORDS)) & np.uint64(mask)
    places: dict[int, list[int]] = {}
    behind = np.append(np.frombuffer(window.data, np.uint8)[word::word], 0)[: len(words)]
    for index in np.flatnonzero((near < 2 * _MAX_RECORDS) & (words <= mask) & _IS_TEXT[behind]).tolist():
        places.setdefault(int(words[index]), []).append((index + 1) * word)
    before = list(_chain(places, first, at, -1, mask))[::-1]
    starts = [*before, at, *_chain(places, first, at, 1, mask)]
    found = [_text(window, start, starts[number + 1 : number + 2]) for number, start in enumerate(starts)]
    return _around(found, len(before))


def _around(found: list[bytes], place: int) -> list[Record]:
    # the texts around one, as far as they are text
    low = high = place
    while low > 0 and found[low - 1] and not found[low - 1].strip(_PRINTABLE):
        low -= 1
    while high < len(found) and found[high] and not found[high].strip(_PRINTABLE):
        high += 1
    return [Record(None, None, None, text) for text in found[low:high]]


def _chain(places: dict[int, list[int]], number: int, at: int, step: int, mask: int) -> Iterator[int]:
    # where the texts behind (or before) one begin; over the end of the ring if the numbers go on there
    for _ in range(_MAX_RECORDS):
        found = None
        for skip in range(1, _MAX_SKIP):
            wanted = number + step * skip & mask
            near = [each for each in places.get(wanted, ()) if 0 < (each - at) * step <= _MAX_BLOCK]
            if near:
                found = wanted, min(near, key=lambda each: abs(each - at))
                break
        if found is None:
            found = _over_the_end(places, number, at, step, mask)
        if found is None:
            return
        number, at = found
        yield at


def _over_the_end(places: dict[int, list[int]], number: int, at: int, step: int, mask: int) -> tuple[int, int] | None:
    wanted, further = number + step & mask, number + 2 * step & mask
    for each in places.get(wanted, ()):
        there = places.get(further, ())
        if (each - at) * step < 0 and any(0 < (other - each) * step <= _MAX_BLOCK for other in there):
            return wanted, each
    return None


def _text(window: _Window, start: int, following: list[int]) -> bytes:
    if not following or not 0 < following[0] - start <= _MAX_BLOCK:
        raw = window.data[start : start + _MAX_TEXT]
        raw = raw[: len(raw) - len(raw.lstrip(_PRINTABLE))]
    else:
        raw = window.data[start : following[0] - window.word]
        nul = raw.find(b"\0", max(0, len(raw) - window.word - _LEVEL_MARK))  # what fills the last word
        raw = raw if nul < 0 else raw[:nul]
    # the text came with a level, over which it was moved, and mostly a newline: its end is there twice
    raw = raw.partition(_CONTINUED)[0]
    whole = raw.removesuffix(b"\n")
    end = whole[-_LEVEL_MARK:]
    if len(whole) > _LEVEL_MARK and end == whole[-2 * _LEVEL_MARK : -_LEVEL_MARK] and end != b"00":  # of a number
        return whole[:-_LEVEL_MARK]
    return whole


# -- 3.5 to 5.9 -----------------------------------------------------------------------------------------------------


def _with_lengths(window: _Window) -> list[Record]:
    best: list[Record] = []
    for head in _HEADS:
        found = list(_records(window, window.at - head, head))
        if len(found) > len(best):
            best = found
    return best


def _records(window: _Window, at: int, head: int) -> Iterator[Record]:
    unpack = struct.Struct(window.mark + "QHHHBB").unpack_from
    while at >= 0 and at + head <= len(window.data):
        ns, length, text_length, more, facility, flags = unpack(window.data, at)
        if not 0 <= length - head - text_length - more < 8 or not text_length or ns >> 60:
            return
        text = window.data[at + head : at + head + text_length]
        if text.strip(_PRINTABLE):
            return
        yield Record(ns, flags >> 5 if window.order == "little" else flags & 7, facility, text)
        at += length


# -- a ring of characters, or a file --------------------------------------------------------------------------------


def _run(window: _Window) -> tuple[bytes, int]:
    # the printable bytes around the hit, and where it is in them
    before, behind = window.data[: window.at], window.data[window.at :]
    low, high = len(before.rstrip(_PRINTABLE)), len(behind) - len(behind.lstrip(_PRINTABLE))
    return before[low:] + behind[:high], window.at - low


def _characters(window: _Window) -> list[Record]:
    text, _ = _run(window)
    marked = [level_mark(line) for line in text.split(b"\n")]
    levels = sum(level is not None for level, _ in marked)
    if levels < _LEAST or 2 * levels < len(marked):
        return []
    return [record for record in map(line_record, text.split(b"\n")) if record.text]


def _file(window: _Window) -> list[Record]:
    text, at = _run(window)
    lines = text[max(0, text.rfind(b"\n", 0, at) + 1) :].split(b"\n")
    found = []
    for line in lines:
        if not line.startswith(b"[") or b"] " not in line[:20]:
            break
        found.append(line_record(line))
    return found


# Words, how much a record found so proves, and the way itself: a file may hold an older log, and a longer one.
_WAYS: tuple[tuple[str, int, Callable[[_Window], list[Record]]], ...] = (
    ("by the numbers of its texts: without times", 8, _numbered),
    ("by the lengths of its records", 8, _with_lengths),
    ("as text with levels", 4, _characters),
    ("as text in a file", 1, _file),
)
