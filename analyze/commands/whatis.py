# SPDX-License-Identifier: GPL-2.0-or-later
"""`whatis`: the definition of a type, or the type of a function or variable."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from ...formats.errors import UsageError
from ..btf import Btf, BtfType
from ..declare import declaration, layout
from ..kernel import Kernel
from ..vmlinux.variables import declaration_of
from . import Result, printable

_TAGS = ("struct", "union", "enum")
_KINDS = (*_TAGS, "enum64", "typedef", "int", "float")
_MAX_DEPTH = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument(
        "words", nargs="+", metavar="[struct|union|enum] TYPE|SYMBOL", help="type, function or variable"
    )
    parser.add_argument("-o", dest="offsets", action="store_true", help="offsets of the members")


def run(kernel: Kernel, args: argparse.Namespace) -> Result:
    """Print what a name is."""
    *tag, name = args.words
    if len(tag) > 1 or (tag and tag[0] not in _TAGS):
        raise UsageError("whatis: one type or symbol at a time")
    btf = kernel.types_with(name)
    found = btf.find(name, *(tag or _KINDS))
    if found is not None:
        lines = list(definition(btf, found, offsets=args.offsets))
        return Result(lines, _data(name, found.kind_name, lines, btf.size_of(found.id)))
    text = None if tag else _symbol(kernel, name)
    if text is not None:
        return Result([text], _data(name, "symbol", [text], None))
    if not tag:
        for each in btf:
            if each.kind_name in ("enum", "enum64") and name in btf.enumerators(each):
                said = f"{f'enum {printable(each.name)}' if each.name else 'enum'} = {btf.enumerators(each)[name]}"
                return Result([said], _data(name, "enumerator", [said], btf.size_of(each.id)))
    raise UsageError(f"the kernel has no type and no symbol {printable(' '.join(args.words))}")


def _data(name: str, kind: str, lines: list[str], size: int | None) -> dict[str, object]:
    return {"name": name, "kind": kind, "definition": "\n".join(lines), "size": size}


def definition(btf: Btf, found: BtfType, *, offsets: bool = False) -> Iterator[str]:
    """Yield the lines of a type's definition, typedefs gone through, and its size."""
    target = found
    for _ in range(_MAX_DEPTH):
        if target.kind_name != "typedef":
            break
        target = btf.type(target.size)
    alias = printable(found.name) if target is not found else ""
    if target.kind_name in ("struct", "union", "enum", "enum64"):
        lines = [printable(each) for each in layout(btf, target, offsets=offsets)]
        if alias:
            lines[0] = f"typedef {lines[0]}"
            lines[-2] = f"}} {alias};"
        yield from lines
        return
    yield printable(f"typedef {declaration(btf, target.id, alias)};" if alias else declaration(btf, found.id))
    if target.kind_name != "func_proto":
        yield f"SIZE: {btf.size_of(target.id)}"


def _symbol(kernel: Kernel, name: str) -> str | None:
    """Return the declaration of a symbol; what is not typed is told as gdb tells it."""
    btf = kernel.btf
    found = btf.find(name, "func", "var")
    if found is None and kernel.find(name) is not None:
        btf = kernel.all_types
        found = btf.find(name, "func", "var")
    if found is not None:
        return printable(f"{_without_names(btf, found, name)};")
    symbol = kernel.find_symbol(name)
    if symbol is None:
        return None
    text = declaration_of(kernel, name)
    if text is not None:
        return f"{text};"
    what = "text" if symbol.letter in "tTwW" else "data"
    return f"<{what} variable, no debug info> {printable(name)};"


def _without_names(btf: Btf, found: BtfType, name: str) -> str:
    if found.kind_name == "var":
        return declaration(btf, found.size, name)
    prototype = btf.type(found.size)
    words = ["..." if not each and not kind else declaration(btf, kind) for each, kind in btf.parameters(prototype)]
    return declaration(btf, prototype.size, f"{name}({', '.join(words) or 'void'})")
