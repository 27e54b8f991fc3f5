# SPDX-License-Identifier: GPL-2.0-or-later
"""`sym`: symbols by name and by address, of the kernel and of its modules."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator

from ...formats.errors import DumpError, UsageError
from ..kernel import Kernel
from ..symbols import Symbol
from . import Result, number, printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument("words", nargs="*", metavar="ADDRESS|SYMBOL", help="what to look up")
    parser.add_argument("-l", dest="all", action="store_true", help="all symbols, by address")
    parser.add_argument("-M", dest="modules", action="store_true", help="all symbols of modules")
    parser.add_argument("-m", dest="module", metavar="MODULE", help="all symbols of a module")
    parser.add_argument("-q", dest="search", metavar="STRING", help="all symbols with STRING in their names")
    parser.add_argument("-p", dest="before", action="store_true", help="the symbol before it too")
    parser.add_argument("-n", dest="after", action="store_true", help="the symbol behind it too")


def run(kernel: Kernel, args: argparse.Namespace) -> Result:
    """Print symbols as crash does: address, (letter), name."""
    listing = _listing(kernel, args)
    if listing is not None:
        return listing
    if not args.words:
        raise UsageError("sym needs a symbol or an address")
    result = Result(lines=[], data=[])
    for word in args.words:
        _look_up(kernel, word, args, result)
    return result


def _listing(kernel: Kernel, args: argparse.Namespace) -> Result | None:
    if args.all:
        return _listed([*kernel.symbols, *_of_modules(kernel)])
    if args.modules:
        return _listed(_of_modules(kernel))
    if args.module is not None:
        named = [module for module in kernel.modules if module.name == args.module]
        if not named:
            raise UsageError(f"{printable(args.module)} is no loaded module")
        return _listed(kernel.modules.symbols(named[0]))
    if args.search is not None:
        wanted = os.fsencode(args.search)
        names = kernel.symbols.names
        own = [kernel.symbols.symbol(index) for index, name in enumerate(names) if wanted in name[1:]]
        return _listed([*own, *(each for each in _of_modules(kernel) if args.search in each.name)])
    return None


def _of_modules(kernel: Kernel) -> list[Symbol]:
    # none where there are no types to find them by
    found: list[Symbol] = []
    try:
        for module in sorted(kernel.modules, key=lambda each: each.base):
            found += kernel.modules.symbols(module)
    except DumpError:
        return found
    return found


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


def _find(kernel: Kernel, word: str) -> list[tuple[Symbol, int]]:
    named = kernel.symbols.find_all(word)
    if named:
        return [(each, 0) for each in named]
    elsewhere = kernel.find_symbol(word)
    if elsewhere is not None:
        return [(elsewhere, 0)]
    name, plus, _ = word.partition("+")
    try:
        if plus and kernel.find_symbol(name) is None:
            return []
        address = kernel.parse_address(word) if plus else number(word)
    except DumpError:
        return []
    known = kernel.lookup(address)
    return [known] if known is not None else []


def _look_up(kernel: Kernel, word: str, args: argparse.Namespace, result: Result) -> None:
    found = _find(kernel, word)
    if not found:
        result.complain(f"{printable(word)}: no symbol, and no address of one", 1)
    assert isinstance(result.lines, list)  # noqa: S101 - made so above
    for symbol, offset in found:
        shown = [(symbol, offset)]
        if args.before:
            shown = [(each, 0) for each in kernel.neighbours(symbol)[:1] if each is not None] + shown
        if args.after:
            shown += [(each, 0) for each in kernel.neighbours(symbol)[1:] if each is not None]
        for each, at in shown:
            result.lines.append(_text(each, at))
            result.data.append(_value(each, at))
