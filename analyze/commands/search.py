# SPDX-License-Identifier: GPL-2.0-or-later
"""`search`: values and strings in physical memory or a kernel range."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator

from ...formats.errors import DumpError, UsageError
from ...formats.pages import PageState
from ...formats.pagetable import PageTable
from ..errors import MissingTable
from ..kernel import Kernel
from . import Result, integer, printable

_CHUNK_PFNS = 256
_SMALL = 4 << 30  # bytes of addresses that are tried page by page
_MAX_MAPPINGS = 1 << 22


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument("values", nargs="*", metavar="VALUE|SYMBOL", help="machine words to look for")
    parser.add_argument("-c", dest="text", action="append", default=[], metavar="STRING", help="look for a string")
    parser.add_argument("-p", dest="physical", action="store_true", help="all of physical memory (the default)")
    parser.add_argument("-s", dest="start", metavar="ADDRESS", help="from this kernel address on")
    parser.add_argument("-e", dest="end", metavar="ADDRESS", help="up to this kernel address")
    parser.add_argument("-l", dest="length", metavar="BYTES", help="so many bytes from -s")
    parser.add_argument("-x", dest="limit", type=int, default=10000, metavar="N", help="stop after N (default: 10000)")


def run(kernel: Kernel, args: argparse.Namespace) -> Result:
    """Print the addresses of what was found."""
    size, order = kernel.machine.word_size, kernel.machine.byteorder
    mask = (1 << 8 * size) - 1
    wanted = [((kernel.parse_address(word) & mask).to_bytes(size, order), size, "") for word in args.values]
    wanted += [(os.fsencode(text), 1, text) for text in args.text]
    if not wanted or not all(pattern for pattern, _, _ in wanted):
        raise UsageError("search: no value and no -c STRING given")
    if args.limit < 1:
        raise UsageError(f"search: -x {args.limit}: 1 or more expected")
    pieces = _virtual(kernel, *_range(kernel, args)) if args.start else _physical(kernel)
    result = Result(data=[])
    result.lines = _lines(kernel, args.limit, wanted, pieces, result)
    return result


def _range(kernel: Kernel, args: argparse.Namespace) -> tuple[int, int]:
    start = kernel.parse_address(args.start)
    end = kernel.parse_address(args.end) if args.end else start + integer(args.length or "4096", "bytes")
    if end <= start:
        raise UsageError(f"search: from {start:#x} to {end:#x} is no range")
    return start, end


def _lines(
    kernel: Kernel,
    limit: int,
    wanted: list[tuple[bytes, int, str]],
    pieces: Iterator[tuple[int, bytes]],
    result: Result,
) -> Iterator[str]:
    width = 2 * kernel.machine.word_size
    found = 0
    for base, data, old in _joined(pieces, max(len(pattern) for pattern, _, _ in wanted) - 1):
        hits = sorted((at, row) for row in wanted for at in _hits(data, row, base, old))
        for at, (pattern, _, text) in hits:
            shown = text or f"{int.from_bytes(pattern, kernel.machine.byteorder):x}"
            yield f"{base + at:{width}x}: {printable(shown)}"
            result.data.append({"address": f"{base + at:#x}", "found": shown})
            found += 1
            if found >= limit:
                result.complain(f"stopped after {found}")
                return
    if not found:
        result.complain("search: not found", 1)


def _joined(pieces: Iterator[tuple[int, bytes]], keep: int) -> Iterator[tuple[int, bytes, int]]:
    # each piece behind the end of the one before it, where that is its neighbour; and how long that end is
    tail, end = b"", -1
    for base, data in pieces:
        if base != end:
            tail = b""
        whole, old = tail + data, len(tail)
        yield base - old, whole, old
        tail, end = whole[-keep:] if keep else b"", base + len(data)


def _hits(data: bytes, row: tuple[bytes, int, str], base: int, old: int) -> Iterator[int]:
    pattern, step, _ = row
    at = data.find(pattern, max(0, old - len(pattern) + 1))
    while at >= 0:
        if (base + at) % step == 0:
            yield at
        at = data.find(pattern, at + 1)


def _physical(kernel: Kernel) -> Iterator[tuple[int, bytes]]:
    size = kernel.machine.page_size
    start, end = kernel.physical.memory_map.only(PageState.STORED)
    for low, high in zip(start.tolist(), end.tolist(), strict=True):
        for pfn in range(low, high, _CHUNK_PFNS):
            last = min(high, pfn + _CHUNK_PFNS)
            try:
                yield pfn * size, kernel.physical.read(pfn * size, (last - pfn) * size)
            except DumpError:
                for each in range(pfn, last):
                    try:
                        yield each * size, kernel.physical.page(each)
                    except DumpError:
                        continue


def _virtual(kernel: Kernel, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    size = kernel.machine.page_size
    for page in _pages(kernel, start, end):
        low, high = max(page, start), min(page + size, end)
        try:
            yield low, kernel.memory.read(low, high - low)
        except DumpError:
            continue


def _pages(kernel: Kernel, start: int, end: int) -> Iterator[int]:
    # addresses of the pages of a range; of a large one those that are mapped
    size, walker = kernel.machine.page_size, kernel.memory.translator
    if end - start <= _SMALL:
        yield from range(start - start % size, end, size)
    elif isinstance(walker, PageTable):
        for number, each in enumerate(walker.mappings(start, end)):
            if number > _MAX_MAPPINGS:
                raise MissingTable(f"search: more than {_MAX_MAPPINGS} mappings: give a smaller range")
            yield from range(max(each.vaddr, start - start % size), min(each.vaddr + each.size, end), size)
    else:
        raise UsageError(
            f"search: {end - start} bytes of addresses are too many", hint=f"up to {_SMALL} can be searched"
        )
