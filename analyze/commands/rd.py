# SPDX-License-Identifier: GPL-2.0-or-later
"""`rd`: memory as numbers and text, in crash's columns."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

from ...formats.errors import UsageError
from ..errors import Unreadable
from ..kernel import Kernel
from . import Result, integer, printable

_MAX_BYTES = 1 << 26


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument(
        "address", metavar="ADDRESS|SYMBOL", help="where to begin: hexadecimal, or a symbol, or SYMBOL+N"
    )
    parser.add_argument("count", nargs="?", default="1", metavar="COUNT", help="units to read (default: 1)")
    parser.add_argument("-p", dest="physical", action="store_true", help="the address is physical")
    parser.add_argument("-s", dest="symbols", action="store_true", help="print kernel addresses as symbols")
    parser.add_argument("-a", dest="text", action="store_true", help="print characters")
    parser.add_argument("-e", dest="end", metavar="ADDRESS", help="read up to here instead of COUNT")
    for bits in (8, 16, 32, 64):
        parser.add_argument(f"-{bits}", dest="bits", action="store_const", const=bits, help=f"units of {bits} bits")


def run(kernel: Kernel, args: argparse.Namespace) -> Result:
    """Print memory."""
    start = kernel.parse_address(args.address)
    unit = 1 if args.text else (args.bits or 8 * kernel.machine.word_size) // 8
    count = (kernel.parse_address(args.end) - start) // unit if args.end else integer(args.count, "units")
    if not 0 < count <= _MAX_BYTES // unit:
        raise UsageError(f"rd: {count} units of {unit} bytes: from 1 to {_MAX_BYTES} bytes can be read")
    read: Callable[[int, int], bytes] = kernel.physical.read if args.physical else kernel.memory.read
    result = Result(data={"address": f"{start:#x}", "unit": unit, "values": []})
    result.lines = _lines(kernel, args, read, start, unit, count, result)
    return result


def _lines(
    kernel: Kernel,
    args: argparse.Namespace,
    read: Callable[[int, int], bytes],
    start: int,
    unit: int,
    count: int,
    result: Result,
) -> Iterator[str]:
    step, digits = (60 if args.text else 16), 2 * kernel.machine.word_size
    if args.symbols:
        step = 2 * unit
    order, end, at = kernel.machine.byteorder, start + unit * count, start
    while at < end:
        size = min(step, end - at)
        try:
            raw = read(at, size)
        except Unreadable as error:
            result.complain(error.message, 4 if error.why in ("lost", "excluded") else 1)
            return
        values = [int.from_bytes(raw[i : i + unit], order) for i in range(0, size, unit)]
        if args.text:
            yield f"{at:{digits}x}:  " + _characters(raw)
        elif args.symbols:
            cells = [_symbolic(kernel, value, digits) for value in values]
            yield f"{at:{digits}x}:  " + " ".join(f"{cell:<{digits}}" for cell in cells).rstrip()
        else:
            cells = [f"{value:0{2 * unit}x}" for value in values]
            width = 16 // unit * (2 * unit + 1)
            yield f"{at:{digits}x}:  " + f"{' '.join(cells):<{width}}" + "  " + _characters(raw)
        result.data["values"] += [f"{value:#x}" for value in values]
        at += size


def _characters(raw: bytes) -> str:
    return "".join(chr(each) if 32 <= each < 127 else "." for each in raw)


def _symbolic(kernel: Kernel, value: int, digits: int) -> str:
    found = kernel.symbols.lookup(value)
    if found is None:
        return f"{value:0{digits}x}"
    symbol, offset = found
    return printable(symbol.name) + (f"+{offset}" if offset else "")
