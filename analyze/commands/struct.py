# SPDX-License-Identifier: GPL-2.0-or-later
"""`struct`, `*`: the layout of a type, and what lies at an address."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from ...formats.errors import UsageError
from ..btf import Btf, BtfType
from ..declare import Steps, declaration, layout, value_lines, values
from ..kernel import Kernel
from . import Result, printable
from .whatis import definition


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument("name", metavar="NAME[.MEMBER]", help="structure, union, enum or typedef; a member, or a.b.c")
    parser.add_argument("address", nargs="?", metavar="ADDRESS|SYMBOL", help="show what lies there")
    parser.add_argument("count", nargs="?", type=int, default=1, metavar="COUNT", help="so many one after another")
    parser.add_argument("-o", dest="offsets", action="store_true", help="offsets of the members")


def run(kernel: Kernel, args: argparse.Namespace) -> Result:
    """Print a layout or values."""
    name, _, path = args.name.partition(".")
    btf = kernel.types_with(name)
    outer = btf.find(name, "struct", "union", "typedef", "enum", "enum64")
    if outer is None:
        raise UsageError(f"BTF has no structure, union, enumeration or typedef {name}")
    found = btf.strip(outer.id)
    if args.address is None:
        return _layout(btf, outer, path, args)
    return _values(kernel, btf, found, path, kernel.parse_address(args.address), args)


def _layout(btf: Btf, outer: BtfType, path: str, args: argparse.Namespace) -> Result:
    found = btf.strip(outer.id)
    if path:
        bits, member = btf.member(found, path)
        text = f"struct {found.name} {{\n   [{bits // 8}] {declaration(btf, member.type, member.name)};\n}}"
        size = btf.size_of(member.type)
        data = {"name": found.name, "member": path, "offset": bits // 8, "bit_offset": bits, "size": size}
        return Result(printable(text, "\n\t").split("\n"), data)
    data = {"name": found.name, "kind": found.kind_name, "size": btf.size_of(found.id)}
    steps = Steps("parts")
    if found.kind_name in ("struct", "union"):
        data["members"] = [
            {
                "name": each.name or None,
                "type": declaration(btf, each.type, steps=steps),
                "offset": each.bit_offset // 8,
                "bit_offset": each.bit_offset,
                "bit_size": each.bit_size,
            }
            for each in btf.members(found)
        ]
    else:
        data["values"] = btf.enumerators(found)
        if found.kind_name not in ("enum", "enum64"):
            return Result(definition(btf, outer), data)
    return Result((printable(line) for line in layout(btf, found, offsets=args.offsets)), data)


def _values(kernel: Kernel, btf: Btf, found: BtfType, path: str, address: int, args: argparse.Namespace) -> Result:
    memory = kernel.memory
    size = btf.size_of(found.id)
    if not 0 < args.count <= 1 << 16:
        raise UsageError(f"{args.count} structures: from 1 to 65536 can be shown")
    shown = []
    for number in range(args.count):
        at = address + size * number
        if path:
            bits, member = btf.member(found, path)
            shown.append({path: values(btf, memory, member.type, at + bits // 8)})
        else:
            shown.append(values(btf, memory, found.id, at))

    def lines() -> Iterator[str]:
        for each in shown:
            if path:
                yield from (printable(line) for line in value_lines(each))
                continue
            yield f"{found.kind_name} {printable(found.name)} {{"
            yield from (printable(line) for line in value_lines(each))
            yield "}"

    return Result(lines(), {"address": f"{address:#x}", "values": shown})
