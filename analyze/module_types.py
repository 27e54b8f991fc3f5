# SPDX-License-Identifier: GPL-2.0-or-later
"""Types of modules: each has a BTF of its own that continues its kernel's. Joined, they are one table again.

A module's types are numbered on from the kernel's last, and its name offsets from the end of the kernel's strings: all
modules begin with the same numbers. Source: docs/analyze.md, "types".
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np

from ..formats.errors import DumpError
from .btf import KIND, MAX_BYTES, Btf
from .errors import MissingTable
from .kernel import Kernel

__all__ = ["ModuleTypes", "all_types", "join", "modules_with_types"]

_MAX_MODULES = 1 << 14
_HEADER = 24


class ModuleTypes(NamedTuple):
    """The BTF of one module.

    Attributes:
        name: Of the module.
        address: Where its BTF lies.
        data: The bytes.
    """

    name: str
    address: int
    data: bytes


def modules_with_types(kernel: Kernel, complaints: list[str] | None = None) -> list[ModuleTypes]:
    """Return the BTF of each module that has one, the first loaded first.

    Args:
        kernel: Its BTF is needed.
        complaints: Gets a line for each module whose types cannot be read.
    """
    said = complaints if complaints is not None else []
    structs, memory = kernel.structs, kernel.memory
    found: list[ModuleTypes] = []
    head = kernel.symbols.address("btf_modules")
    if head is None or structs.btf.find("btf_module", "struct") is None:
        return found  # no types of modules in this kernel
    left = MAX_BYTES
    try:
        for entry in structs.list(head, "btf_module", "list"):
            if len(found) >= _MAX_MODULES:
                raise MissingTable("the list of the modules' types does not end")
            name = f"at {entry:#x}"
            try:
                module = structs.get(entry, "btf_module", "module")
                name = structs.string(module, "module", "name").decode("utf-8", "backslashreplace")
                place = structs.get(entry, "btf_module", "btf")
                data, size = structs.get(place, "btf", "data"), structs.get(place, "btf", "data_size")
                if not _HEADER <= size <= left:
                    raise MissingTable(f"BTF of {size} bytes")
                found.append(ModuleTypes(name, data, memory.read(data, size)))
                left -= size
            except DumpError as error:
                said.append(f"types of module {name}: {error.message}")
    except DumpError as error:
        said.append(f"list of the modules' types: {error.message}")
    return found


def all_types(kernel: Kernel) -> Btf:
    """Return the kernel's types with those of its modules behind them; the kernel's alone where modules have none.

    Modules are taken by name, as the order in which they were loaded differs from boot to boot.
    """
    modules = sorted(modules_with_types(kernel), key=lambda each: each.name)
    return join(kernel.btf, [each.data for each in modules])[0] if modules else kernel.btf


def join(base: Btf, modules: list[bytes]) -> tuple[Btf, int]:
    """Return one table of a kernel's types and those of its modules, and how many modules' are in it.

    Args:
        base: The kernel's types. Their numbers stay.
        modules: BTF of each module; one that is damaged is left out.
    """
    types = [base.data[base.positions[1] : base.positions[-1] + _size_of_last(base)] if len(base) > 1 else b""]
    strings = [base.string_section]
    number, text = len(base), len(base.string_section)
    taken = 0
    for data in modules:
        try:
            own = Btf(data, base.byteorder, base)
            part = _renumbered(own, base, number - len(base), text - base.string_size)
        except (MissingTable, OverflowError):
            continue
        if text + len(own.string_section) > MAX_BYTES // 2 or sum(map(len, types)) + len(part) > MAX_BYTES // 2:
            break
        types.append(part)
        strings.append(own.string_section)
        number, text, taken = number + len(own.positions), text + len(own.string_section), taken + 1
    body, names = b"".join(types), b"".join(strings)
    head = struct.pack(base.mark + "HBBIIIII", 0xEB9F, 1, 0, _HEADER, 0, len(body), len(body), len(names))
    return Btf(head + body + names, base.byteorder), taken


def _size_of_last(btf: Btf) -> int:
    return btf.types_end - btf.positions[-1]


def _renumbered(own: Btf, base: Btf, types: int, strings: int) -> bytes:
    # a module's types with `types` added to its own numbers and `strings` to its own name offsets
    words = own.words.copy()
    names, numbers = _references(own)
    for places, first, more in ((names, base.string_size, strings), (numbers, len(base), types)):
        rows = np.array(places, np.int64)
        if len(rows) and int(rows[-1]) >= len(words):
            raise MissingTable("BTF types reach past their section")
        values = words[rows]
        words[rows] = np.where(values >= np.uint32(first), values + np.uint32(more), values)
    return words.astype(own.mark + "u4").tobytes()


_ONE_TYPE = frozenset(
    KIND[name]
    for name in ("ptr", "typedef", "volatile", "const", "restrict", "func", "func_proto", "var", "decl_tag", "type_tag")
)


def _references(btf: Btf) -> tuple[list[int], list[int]]:
    # the words that are name offsets, and those that are numbers of types
    names: list[int] = []
    numbers: list[int] = []
    words, start = btf.words.tolist(), btf.positions[0] if btf.positions else 0
    for position in btf.positions:
        at = (position - start) // 4
        info = words[at + 1]
        kind, count = info >> 24 & 31, info & 0xFFFF
        names.append(at)
        if kind in _ONE_TYPE:
            numbers.append(at + 2)
        if kind == 3:  # an array: of what, and by what it is counted
            numbers += (at + 3, at + 4)
        elif kind in (4, 5):
            names += range(at + 3, at + 3 + 3 * count, 3)
            numbers += range(at + 4, at + 4 + 3 * count, 3)
        elif kind == 6:
            names += range(at + 3, at + 3 + 2 * count, 2)
        elif kind == 19:
            names += range(at + 3, at + 3 + 3 * count, 3)
        elif kind == 13:
            names += range(at + 3, at + 3 + 2 * count, 2)
            numbers += range(at + 4, at + 4 + 2 * count, 2)
        elif kind == 15:
            numbers += range(at + 3, at + 3 + 3 * count, 3)
    return names, numbers
