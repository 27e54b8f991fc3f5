# SPDX-License-Identifier: GPL-2.0-or-later
"""`search`: values and strings in physical memory or a kernel range."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np

from ...formats.errors import DumpError, UsageError
from ...formats.pages import PageState
from ..kernel import Kernel
from . import Result

_CHUNK_PFNS = 256


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
    wanted = [((kernel.parse_address(word) & mask).to_bytes(size, order), size) for word in args.values]
    wanted += [(text.encode(), 1) for text in args.text]
    if not wanted:
        raise UsageError("search: no value and no -c STRING given")
    result = Result(data=[])
    result.lines = _lines(kernel, args, wanted, result)
    return result


def _lines(kernel: Kernel, args: argparse.Namespace, wanted: list[tuple[bytes, int]], result: Result) -> Iterator[str]:
    pieces = _virtual(kernel, args) if args.start else _physical(kernel)
    width = 2 * kernel.machine.word_size
    found = 0
    for base, data in pieces:
        hits = sorted((at, pattern) for pattern, step in wanted for at in _hits(data, pattern, step, base))
        for at, pattern in hits:
            text = pattern.decode("utf-8", "backslashreplace") if pattern in {t.encode() for t in args.text} else ""
            shown = text or f"{int.from_bytes(pattern, kernel.machine.byteorder):x}"
            yield f"{base + at:{width}x}: {shown}"
            result.data.append({"address": f"{base + at:#x}", "found": shown})
            found += 1
            if found >= args.limit:
                result.complain(f"stopped after {found}")
                return
    if not found:
        result.exit_codes.append(1)


def _hits(data: bytes, pattern: bytes, step: int, base: int) -> Iterator[int]:
    at = data.find(pattern)
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


def _virtual(kernel: Kernel, args: argparse.Namespace) -> Iterator[tuple[int, bytes]]:
    start = kernel.parse_address(args.start)
    end = kernel.parse_address(args.end) if args.end else start + int(args.length or "4096", 0)
    size = kernel.machine.page_size
    for at in np.arange(start - start % size, end, size, dtype=np.uint64).tolist() if end > start else ():
        low, high = max(at, start), min(at + size, end)
        try:
            yield low, kernel.memory.read(low, high - low)
        except DumpError:
            continue
