# SPDX-License-Identifier: GPL-2.0-or-later
"""`sym`: symbols by name and by address."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator

from ..kernel import Kernel
from ..symbols import Symbol
from . import Result, printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument("words", nargs="*", metavar="ADDRESS|SYMBOL", help="what to look up")
    parser.add_argument("-l", dest="all", action="store_true", help="all symbols, by address")
    parser.add_argument("-q", dest="search", metavar="STRING", help="all symbols with STRING in their names")


def run(kernel: Kernel, args: argparse.Namespace) -> Result:
    """Print symbols as crash does: address, (letter), name."""
    if args.all:
        return _listed(kernel.symbols)
    if args.search is not None:
        wanted = args.search.encode()
        names = kernel.symbols.names
        return _listed(kernel.symbols.symbol(index) for index, name in enumerate(names) if wanted in name[1:])
    result = Result(lines=[], data=[])
    for word in args.words:
        _look_up(kernel, word, result)
    return result


def _text(symbol: Symbol, offset: int = 0) -> str:
    place = f"+{offset}" if offset else ""
    module = f" [{printable(symbol.module)}]" if symbol.module else ""
    return f"{symbol.address + offset:x} ({symbol.letter}) {printable(symbol.name)}{place}{module}"


def _value(symbol: Symbol, offset: int = 0) -> dict[str, object]:
    return {
        "address": f"{symbol.address:#x}",
        "letter": symbol.letter,
        "name": symbol.name,
        "module": symbol.module or None,
        "offset": offset,
    }


def _listed(symbols: Iterable[Symbol]) -> Result:
    found = list(symbols)

    def lines() -> Iterator[str]:
        return (_text(each) for each in found)

    return Result(lines(), [_value(each) for each in found], [], [] if found else [1])


def _look_up(kernel: Kernel, word: str, result: Result) -> None:
    found: list[tuple[Symbol, int]] = []
    named = kernel.symbols.find(word)
    if named is not None:
        found.append((named, 0))
    else:
        try:
            address = int(word, 16)
        except ValueError:
            address = -1
        known = kernel.symbols.lookup(address) if address >= 0 else None
        if known is not None:
            found.append(known)
    if not found:
        result.complain(f"{printable(word)}: no symbol, and no address of one", 1)
    assert isinstance(result.lines, list)  # noqa: S101 - made so above
    for symbol, offset in found:
        result.lines.append(_text(symbol, offset))
        result.data.append(_value(symbol, offset))
