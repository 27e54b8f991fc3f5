# SPDX-License-Identifier: GPL-2.0-or-later
"""BTF types as C: declarations, structure layouts, and values in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .btf import KIND, Btf, BtfType, Member
from .errors import MissingTable
from .memory import KernelMemory

__all__ = ["Steps", "declaration", "layout", "value_lines", "values"]

_MAX_DEPTH = 32
_MAX_ELEMENTS = 4096
_MAX_SCALAR = 16
_MAX_STEPS = 1 << 16  # types that a declaration is made of, lines of a layout: types may lead in a circle
_MAX_VALUES = 1 << 18
# BTF has the compiler's names of integers; people and gdb write them so.
_AS_GDB = {
    "long unsigned int": "unsigned long",
    "long int": "long",
    "short unsigned int": "unsigned short",
    "short int": "short",
    "long long unsigned int": "unsigned long long",
    "long long int": "long long",
}
_QUALIFIER = {KIND["const"]: "const ", KIND["volatile"]: "volatile ", KIND["restrict"]: "restrict "}
_TAGGED = {KIND["struct"]: "struct", KIND["union"]: "union", KIND["enum"]: "enum", KIND["enum64"]: "enum"}


class Steps:
    """Counts what a type is made of.

    Args:
        what: What is counted.
        limit: How many are the most.
    """

    def __init__(self, what: str, limit: int = _MAX_STEPS) -> None:
        self._what, self._left, self._limit = what, limit, limit

    def take(self) -> None:
        """Count one.

        Raises:
            MissingTable: It is one too many.
        """
        self._left -= 1
        if self._left < 0:
            raise MissingTable(f"BTF has a type of more than {self._limit} {self._what}")


def declaration(btf: Btf, number: int, name: str = "", steps: Steps | None = None) -> str:
    """Return the C declaration of a type, of a variable or member `name` if given.

    Args:
        btf: The types.
        number: The type's.
        name: The variable's.
        steps: Counts the parts, for many declarations together.

    Raises:
        MissingTable: It has no end.
    """
    return _declaration(btf, number, name, 0, steps or Steps("parts"))


def _declaration(btf: Btf, number: int, name: str, depth: int, steps: Steps) -> str:
    steps.take()
    if depth > _MAX_DEPTH:
        return f"... {name}".rstrip()
    found = btf.type(number)
    if found.kind == KIND["ptr"]:
        inner = btf.type(found.size)
        pointer = f"*{name}"
        if inner.kind in (KIND["func_proto"], KIND["array"]):
            pointer = f"({pointer})"
        return _declaration(btf, found.size, pointer, depth + 1, steps)
    if found.kind == KIND["array"]:
        element, count = btf.array(found)
        return _declaration(btf, element, f"{name}[{count}]", depth + 1, steps)
    if found.kind == KIND["func_proto"]:
        words = [
            "..." if not each and not kind else _declaration(btf, kind, each, depth + 1, steps)
            for each, kind in btf.parameters(found)
        ]
        return _declaration(btf, found.size, f"{name}({', '.join(words) or 'void'})", depth + 1, steps)
    if found.kind in _QUALIFIER or found.kind == KIND["type_tag"]:
        word = _QUALIFIER.get(found.kind, "")
        behind = btf.type(found.size).kind == KIND["ptr"]
        inner_name, before = (f"{word}{name}", "") if behind else (name, word)
        return before + _declaration(btf, found.size, inner_name, depth + 1, steps)
    return f"{_base_name(found)} {name}".rstrip()


def _base_name(found: BtfType) -> str:
    if found.kind == KIND["void"]:
        return "void"
    if found.kind == KIND["fwd"]:
        return f"{'union' if found.kflag else 'struct'} {found.name}"
    tag = _TAGGED.get(found.kind)
    if tag is not None:
        return f"{tag} {found.name}" if found.name else tag + " {...}"
    return _AS_GDB.get(found.name, found.name) or found.kind_name


def layout(btf: Btf, found: BtfType, *, offsets: bool = False, base: int = 0) -> Iterator[str]:
    """Yield the lines of a structure or union as C, with byte offsets before the members if asked for."""
    if found.kind in (KIND["enum"], KIND["enum64"]):
        yield f"enum {found.name} {{"
        for name, value in btf.enumerators(found).items():
            yield f"    {name} = {value},"
        yield "}"
    else:
        yield f"{_base_name(found)} {{" if found.name else f"{found.kind_name} {{"
        yield from _members(btf, found, 0, 1, (offsets, base), Steps("parts"))
        yield "}"
    yield f"SIZE: {btf.size_of(found.id)}"


def _members(btf: Btf, found: BtfType, bits: int, depth: int, shown: tuple[bool, int], steps: Steps) -> Iterator[str]:
    for member in btf.members(found):
        steps.take()
        at = bits + member.bit_offset
        margin = _margin(at, depth, *shown)
        inner = btf.strip(member.type)
        if inner.kind in (KIND["struct"], KIND["union"]) and not inner.name and depth < _MAX_DEPTH:
            plain = btf.type(member.type)
            if plain.kind in (KIND["struct"], KIND["union"]):
                yield f"{margin}{inner.kind_name} {{"
                yield from _members(btf, inner, at, depth + 1, shown, steps)
                yield f"{' ' * len(margin)}}}{' ' + member.name if member.name else ''};"
                continue
        width = f" : {member.bit_size}" if member.bit_size else ""
        yield f"{margin}{declaration(btf, member.type, member.name, steps)}{width};"


def _margin(bits: int, depth: int, offsets: bool, base: int) -> str:
    if not offsets:
        return "    " * depth
    label = f"[{base + bits // 8:x}]" if base else f"[{bits // 8}]"
    return f"{label:>{18 if base else 8}} " + "    " * (depth - 1)


# -- values --------------------------------------------------------------------------------------------------------


def values(btf: Btf, memory: KernelMemory, number: int, address: int) -> Any:
    """Return what lies at an address as JSON values: structures as objects, pointers and large numbers as `0x...`.

    Raises:
        MissingTable: It has no end.
        Unreadable: It is not in the dump.
    """
    return _values(btf, memory, number, address, 0, Steps("values", _MAX_VALUES))


def _values(btf: Btf, memory: KernelMemory, number: int, address: int, depth: int, steps: Steps) -> Any:
    steps.take()
    found = btf.strip(number)
    if found.kind in (KIND["struct"], KIND["union"]):
        if depth > _MAX_DEPTH:
            return None
        result: dict[str, Any] = {}
        for member in btf.members(found):
            value = _member_value(btf, memory, member, address, depth, steps)
            if not member.name and isinstance(value, dict):
                result.update(value)
            else:
                result[member.name] = value
        return result
    if found.kind == KIND["array"]:
        element, count = btf.array(found)
        if _is_char(btf, element):
            text = memory.read(address, min(count, 1 << 16)).split(b"\0", 1)[0]
            return text.decode("utf-8", "backslashreplace")
        size = btf.size_of(element)
        return [
            _values(btf, memory, element, address + size * index, depth + 1, steps)
            for index in range(min(count, _MAX_ELEMENTS))
        ]
    size = max(1, btf.size_of(found.id))
    if size > _MAX_SCALAR:
        raise MissingTable(f"BTF has {found.kind_name} {found.name} of {size} bytes")
    return _scalar(btf, found, memory.read(address, size))


def _member_value(btf: Btf, memory: KernelMemory, member: Member, address: int, depth: int, steps: Steps) -> Any:
    if member.bit_size:
        return _bits(btf, memory, member, address)
    return _values(btf, memory, member.type, address + member.bit_offset // 8, depth + 1, steps)


def _bits(btf: Btf, memory: KernelMemory, member: Member, address: int) -> int:
    first, last = member.bit_offset // 8, (member.bit_offset + member.bit_size - 1) // 8
    raw = memory.read(address + first, last - first + 1)
    start = member.bit_offset - 8 * first
    if btf.byteorder == "big":
        start = 8 * len(raw) - start - member.bit_size
    value = int.from_bytes(raw, btf.byteorder) >> start & (1 << member.bit_size) - 1
    inner = btf.strip(member.type)
    if inner.kind == KIND["int"] and btf.int_encoding(inner) & 1 and value >> member.bit_size - 1:
        value -= 1 << member.bit_size
    return value


def _is_char(btf: Btf, number: int) -> bool:
    found = btf.strip(number)
    return found.kind == KIND["int"] and found.size == 1 and found.name == "char"


def _scalar(btf: Btf, found: BtfType, raw: bytes) -> Any:
    value = int.from_bytes(raw, btf.byteorder)
    if found.kind == KIND["ptr"]:
        return f"{value:#x}"
    if found.kind == KIND["int"] and btf.int_encoding(found) & 1 and value >> 8 * len(raw) - 1:
        return value - (1 << 8 * len(raw))
    if found.kind in (KIND["enum"], KIND["enum64"]):
        for name, number in btf.enumerators(found).items():
            if number & (1 << 8 * len(raw)) - 1 == value:
                return name
    return f"{value:#x}" if value > 1 << 53 else value


def value_lines(value: Any, indent: int = 1) -> Iterator[str]:
    """Yield lines of a structure's values, as crash shows them."""
    margin = "  " * indent
    for name, each in value.items():
        if isinstance(each, dict):
            yield f"{margin}{name} = {{"
            yield from value_lines(each, indent + 1)
            yield f"{margin}}},"
        elif isinstance(each, list) and each and isinstance(each[0], dict):
            yield f"{margin}{name} = {{"
            for one in each:
                yield f"{margin}  {{"
                yield from value_lines(one, indent + 2)
                yield f"{margin}  }},"
            yield f"{margin}}},"
        elif isinstance(each, list):
            yield f"{margin}{name} = {{{', '.join(map(str, each))}}},"
        elif isinstance(each, str) and not each.startswith("0x") and not each.isupper():
            yield f'{margin}{name} = "{each}",'
        else:
            yield f"{margin}{name} = {each},"
