# SPDX-License-Identifier: GPL-2.0-or-later
"""DWARF 4 from BTF: types in one unit, functions in many small ones, and the table that leads to them.

A debugger that looks for the function at an address goes through the entries of one unit: small ones keep that fast.
Source: DWARF Debugging Information Format 4; docs/analyze.md, "a vmlinux from the dump".
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np

from ..btf import KIND, Btf
from ..errors import MissingTable

__all__ = ["Abbreviations", "Attribute", "Form", "Function", "Made", "Strings", "Tag", "TypeUnit", "function_units"]

_PER_UNIT = 64
_MAX_DEPTH = 32
_VERSION = 4
_C99 = 0x0C
PRODUCER = "dumpconv"


class Tag:
    """DW_TAG values."""

    array, enumeration, parameter, member, pointer, unit, structure = 0x01, 0x04, 0x05, 0x0D, 0x0F, 0x11, 0x13
    subroutine, typedef, union, unspecified, subrange, base = 0x15, 0x16, 0x17, 0x18, 0x21, 0x24
    const, enumerator, subprogram, variable, volatile, restrict = 0x26, 0x28, 0x2E, 0x34, 0x35, 0x37


class Attribute:
    """DW_AT values."""

    location, name, byte_size, bit_size, low_pc, high_pc, language = 0x02, 0x03, 0x0B, 0x0D, 0x11, 0x12, 0x13
    comp_dir, const_value, producer, prototyped, upper_bound = 0x1B, 0x1C, 0x25, 0x27, 0x2F
    member_location, declaration, encoding, external, type, bit_offset = 0x38, 0x3C, 0x3E, 0x3F, 0x49, 0x6B


class Form:
    """DW_FORM values."""

    addr, data4, data1, sdata, strp, udata, ref_addr, ref4, exprloc, flag = (
        0x01, 0x06, 0x0B, 0x0D, 0x0E, 0x0F, 0x10, 0x13, 0x18, 0x19,
    )  # fmt: skip


_NAME = (Attribute.name, Form.strp)
_TYPE = (Attribute.type, Form.ref4)
_FAR_TYPE = (Attribute.type, Form.ref_addr)
_SIZE1 = (Attribute.byte_size, Form.data1)
_SIZE4 = (Attribute.byte_size, Form.data4)
_EXTERNAL = (Attribute.external, Form.flag)
_PROTOTYPED = (Attribute.prototyped, Form.flag)
_PLACE = (Attribute.member_location, Form.data4)
_BITS = ((Attribute.bit_size, Form.data1), (Attribute.bit_offset, Form.data4))
_UNIT = (
    (Attribute.producer, Form.strp), (Attribute.language, Form.data1), _NAME, (Attribute.comp_dir, Form.strp),
)  # fmt: skip
_RANGE = ((Attribute.low_pc, Form.addr), (Attribute.high_pc, Form.data4))
_COMPOUND = {4: Tag.structure, 5: Tag.union}
_QUALIFIER = {9: Tag.volatile, 10: Tag.const, 11: Tag.restrict}
_THROUGH = frozenset((KIND["type_tag"], KIND["func"]))
_NO_TYPE = frozenset((0, KIND["func"], KIND["var"], KIND["datasec"], KIND["decl_tag"], KIND["type_tag"]))


def uleb(value: int) -> bytes:
    """Encode an unsigned number."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def sleb(value: int) -> bytes:
    """Encode a signed number."""
    out = bytearray()
    while not -64 <= value < 64:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value & 0x7F)
    return bytes(out)


class Abbreviations:
    """The shapes of entries that were used, numbered as they come."""

    def __init__(self) -> None:
        self._codes: dict[tuple[object, ...], bytes] = {}
        self._data = bytearray()

    def code(self, tag: int, children: bool, *pairs: tuple[int, int]) -> bytes:
        """Return the number of a shape, encoded."""
        key = (tag, children, *pairs)
        found = self._codes.get(key)
        if found is None:
            found = self._codes[key] = uleb(len(self._codes) + 1)
            self._data += found + uleb(tag) + bytes((children,))
            for attribute, form in pairs:
                self._data += uleb(attribute) + uleb(form)
            self._data += b"\0\0"
        return found

    def section(self) -> bytes:
        """Return .debug_abbrev."""
        return bytes(self._data) + b"\0"


class Strings:
    """.debug_str: the strings of BTF as they stand, so that its name offsets are ours; more behind them.

    Args:
        start: BTF's string section.
    """

    def __init__(self, start: bytes) -> None:
        self.limit = len(start)  # a BTF name at or behind it is none
        self._data = bytearray(start)
        if not start.endswith(b"\0"):
            self._data.append(0)
        self._known: dict[str, int] = {}

    def add(self, text: str) -> int:
        """Return the offset of a string."""
        found = self._known.get(text)
        if found is None:
            found = self._known[text] = len(self._data)
            self._data += text.encode("utf-8", "surrogateescape") + b"\0"
        return found

    def section(self) -> bytes:
        """Return .debug_str."""
        return bytes(self._data)


class Made(NamedTuple):
    """A type that BTF does not have, for a declaration.

    Attributes:
        kind: `ptr`, `const`, `volatile`, `array` or `struct`.
        type: Of what; for a structure unused.
        size: Elements of an array (0: not known), bytes of a structure.
        members: Of a structure: (name, type, byte offset).
    """

    kind: str
    type: int
    size: int = 0
    members: tuple[tuple[str, int, int], ...] = ()


class TypeUnit:
    """The unit of types and variables, the first of .debug_info.

    Args:
        btf: The types.
        strings, shapes: Shared by all units.

    Attributes:
        word: Bytes of an address.
    """

    def __init__(self, btf: Btf, strings: Strings, shapes: Abbreviations) -> None:
        self._btf, self._strings, self._shapes = btf, strings, shapes
        self._mark = "<" if btf.byteorder == "little" else ">"
        self._u32 = struct.Struct(self._mark + "I").pack
        self._word = self.word = btf.pointer_size
        self._count = len(btf)
        self._partial: dict[int, bool] = {}
        self._kinds, self._targets = self._survey()
        self._offsets = [0] * self._count
        self._made: dict[Made, int] = {}
        self._places: list[int] = []  # of references, and what they refer to
        self._wanted: list[int] = []
        self._out = bytearray(unit_header(self._mark, self._word))
        self._out += self._shapes.code(Tag.unit, True, *_UNIT)
        self._out += unit_start(self._mark, strings, "types")
        self._types()

    def _survey(self) -> tuple[list[int], list[int]]:
        # kinds, and for each type the one that a reference to it means: tags and functions are gone through
        unpack, data = struct.Struct(self._mark + "II").unpack_from, self._btf.data
        rows = [(0, 0), *(unpack(data, at + 4) for at in self._btf.positions[1:])]
        kinds = [info >> 24 & 31 for info, _ in rows]
        targets = list(range(self._count))
        for number, kind in enumerate(kinds):
            if kind not in _NO_TYPE:
                continue
            target = number
            for _ in range(_MAX_DEPTH):
                if kinds[target] not in _THROUGH:
                    break
                target = rows[target][1] if rows[target][1] < self._count else 0
            targets[number] = 0 if kinds[target] in _NO_TYPE else target
        return kinds, targets

    def target(self, number: int) -> int:
        """Return the type that a reference means, 0 for void."""
        if number < self._count:
            return self._targets[number]
        return number if number - self._count < len(self._made) else 0

    def offset(self, number: int) -> int:
        """Return the place of a type's entry in .debug_info, 0 for void."""
        return self._offsets[self.target(number)]

    def make(self, made: Made) -> int:
        """Return the number of a type that BTF does not have."""
        found = self._made.get(made)
        if found is None:
            found = self._made[made] = self._count + len(self._made)
            self._offsets.append(len(self._out))
            self._emit_made(made)
        return found

    def variable(self, name: str, number: int, address: int) -> None:
        """Add a variable at an address."""
        out = self._out
        pairs = (_NAME, *self._type_pair(number), _EXTERNAL, (Attribute.location, Form.exprloc))
        out += self._shapes.code(Tag.variable, False, *pairs)
        out += self._u32(self._strings.add(name))
        self._refer(number)
        out += bytes((1 + self._word, 3)) + address.to_bytes(self._word, self._btf.byteorder)

    def constant(self, name: str, number: int, value: int) -> None:
        """Add a constant that has no place in memory."""
        pairs = (_NAME, *self._type_pair(number), _EXTERNAL, (Attribute.const_value, Form.sdata))
        self._out += self._shapes.code(Tag.variable, False, *pairs)
        self._out += self._u32(self._strings.add(name))
        self._refer(number)
        self._out += sleb(value)

    def section(self) -> bytearray:
        """Return the unit, with its references in place."""
        self._out.append(0)
        _close(self._out, self._mark)
        values = np.array(self._offsets, np.uint32)[np.array(self._wanted, np.int64)]
        view = np.frombuffer(self._out, np.uint8)
        places = np.array(self._places, np.int64)
        for byte in range(4):
            shift = 8 * (byte if self._mark == "<" else 3 - byte)
            view[places + byte] = (values >> np.uint32(shift) & np.uint32(0xFF)).astype(np.uint8)
        return self._out

    # -- entries -----------------------------------------------------------------------------------------------

    def _refer(self, number: int) -> None:
        number = self.target(number)
        if number:
            self._places.append(len(self._out))
            self._wanted.append(number)
            self._out += b"\0\0\0\0"

    def _type_pair(self, number: int) -> tuple[tuple[int, int], ...]:
        return (_TYPE,) if self.target(number) else ()

    def _name(self, offset: int) -> bytes:
        return self._u32(offset) if 0 < offset < self._strings.limit else b""

    def _types(self) -> None:
        unpack = struct.Struct(self._mark + "III").unpack_from
        data, offsets, out = self._btf.data, self._offsets, self._out
        emit = {
            1: self._int, 16: self._int, 2: self._pointer, 3: self._array, 4: self._compound, 5: self._compound,
            6: self._enum, 19: self._enum, 7: self._forward, 8: self._typedef, 9: self._qualifier,
            10: self._qualifier, 11: self._qualifier, 13: self._proto,
        }  # fmt: skip
        for number, at in enumerate(self._btf.positions):
            kind = self._kinds[number]
            if kind in emit:
                offsets[number] = len(out)
                emit[kind](kind, at + 12, *unpack(data, at))

    def _int(self, kind: int, at: int, name: int, info: int, size: int) -> None:
        encoding = 4
        if kind == KIND["int"]:
            word = struct.unpack_from(self._mark + "I", self._btf.data, at)[0]
            bits = word >> 24 & 15
            # BTF calls no integer a character, the names of C's characters do
            is_char = bits & 2 or (size == 1 and self._btf.string(name) in ("char", "signed char", "unsigned char"))
            encoding = 2 if bits & 4 else (6 if is_char else 5) if bits & 1 else (8 if is_char else 7)
        self._out += self._shapes.code(Tag.base, False, _NAME, _SIZE1, (Attribute.encoding, Form.data1))
        self._out += self._u32(name if name < self._strings.limit else 0) + bytes((size & 0xFF, encoding))

    def _pointer(self, kind: int, at: int, name: int, info: int, size: int) -> None:
        self._out += self._shapes.code(Tag.pointer, False, _SIZE1, *self._type_pair(size))
        self._out.append(self._word)
        self._refer(size)

    def _array(self, kind: int, at: int, name: int, info: int, size: int) -> None:
        unpack = struct.Struct(self._mark + "III").unpack_from
        element, _, count = unpack(self._btf.data, at)
        counts = [count]
        while element < self._count and self._kinds[element] == KIND["array"] and len(counts) < _MAX_DEPTH:
            element, _, count = unpack(self._btf.data, self._btf.positions[element] + 12)
            counts.append(count)
        self._emit_array(element, counts)

    def _emit_array(self, element: int, counts: list[int]) -> None:
        self._out += self._shapes.code(Tag.array, True, *self._type_pair(element))
        self._refer(element)
        for count in counts:
            if count:
                self._out += self._shapes.code(Tag.subrange, False, (Attribute.upper_bound, Form.data4))
                self._out += self._u32(count - 1)
            else:
                self._out += self._shapes.code(Tag.subrange, False)
        self._out.append(0)

    def _compound(self, kind: int, at: int, name: int, info: int, size: int) -> None:
        count, text = info & 0xFFFF, self._name(name)
        pairs = (_NAME, _SIZE4) if text else (_SIZE4,)
        out, u32 = self._out, self._u32
        out += self._shapes.code(_COMPOUND[kind], bool(count), *pairs)
        out += text + u32(size)
        if not count:
            return
        values = struct.unpack_from(f"{self._mark}{3 * count}I", self._btf.data, at)
        for index in range(0, 3 * count, 3):
            bits, offset = 0, values[index + 2]
            if info >> 31:
                bits, offset = offset >> 24, offset & 0xFFFFFF
            elif self._is_partial(values[index + 1]):
                bits, offset = self._old_bits(values[index + 1], offset)
            self._member(self._name(values[index]), values[index + 1], offset, bits)
        out.append(0)

    def _member(self, name: bytes, number: int, offset: int, bits: int) -> None:
        pairs = (*((_NAME,) if name else ()), *self._type_pair(number), *(_BITS if bits else (_PLACE,)))
        self._out += self._shapes.code(Tag.member, False, *pairs)
        self._out += name
        self._refer(number)
        self._out += bytes((bits,)) + self._u32(offset) if bits else self._u32(offset // 8)

    def _old_int(self, number: int) -> tuple[int, int, int] | None:
        # bytes, bits and first bit of an integer: before kflag a bit field had an integer type of its own
        try:
            found = self._btf.strip(number)
        except MissingTable:
            return None
        if found.kind != KIND["int"]:
            return None
        word = struct.unpack_from(self._mark + "I", self._btf.data, found.position)[0]
        return found.size, word & 0xFF, word >> 16 & 0xFF

    def _is_partial(self, number: int) -> bool:
        known = self._partial.get(number)
        if known is None:
            found = self._old_int(number) if self._kinds[self.target(number)] in (1, 8, 9, 10) else None
            known = self._partial[number] = found is not None and (found[1] != 8 * found[0] or found[2] != 0)
        return known

    def _old_bits(self, number: int, offset: int) -> tuple[int, int]:
        found = self._old_int(number)
        return (found[1], offset + found[2]) if found is not None else (0, offset)

    def _enum(self, kind: int, at: int, name: int, info: int, size: int) -> None:
        count, text, is_signed = info & 0xFFFF, self._name(name), bool(info >> 31)
        if not count:
            self._declare(Tag.enumeration, text)
            return
        pairs = (_NAME, _SIZE1) if text else (_SIZE1,)
        self._out += self._shapes.code(Tag.enumeration, True, *pairs)
        self._out += text + bytes((size & 0xFF,))
        form = Form.sdata if is_signed else Form.udata
        code = self._shapes.code(Tag.enumerator, False, _NAME, (Attribute.const_value, form))
        wide = kind == KIND["enum64"]
        step = struct.Struct(self._mark + ("III" if wide else "II"))
        for each, *words in (step.unpack_from(self._btf.data, at + step.size * index) for index in range(count)):
            value, bits = (words[0] | words[1] << 32, 64) if wide else (words[0], 32)
            if is_signed and value >> bits - 1:
                value -= 1 << bits
            self._out += code + self._u32(each if each < self._strings.limit else 0)
            self._out += sleb(value) if is_signed else uleb(value)
        self._out.append(0)

    def _forward(self, kind: int, at: int, name: int, info: int, size: int) -> None:
        self._declare(Tag.union if info >> 31 else Tag.structure, self._name(name))

    def _declare(self, tag: int, text: bytes) -> None:
        declared = (Attribute.declaration, Form.flag)
        self._out += self._shapes.code(tag, False, *((_NAME, declared) if text else (declared,)))
        self._out += text

    def _typedef(self, kind: int, at: int, name: int, info: int, size: int) -> None:
        self._out += self._shapes.code(Tag.typedef, False, _NAME, *self._type_pair(size))
        self._out += self._u32(name if name < self._strings.limit else 0)
        self._refer(size)

    def _qualifier(self, kind: int, at: int, name: int, info: int, size: int) -> None:
        self._out += self._shapes.code(_QUALIFIER[kind], False, *self._type_pair(size))
        self._refer(size)

    def _proto(self, kind: int, at: int, name: int, info: int, size: int) -> None:
        count = info & 0xFFFF
        self._out += self._shapes.code(Tag.subroutine, bool(count), _PROTOTYPED, *self._type_pair(size))
        self._refer(size)
        if not count:
            return
        for number in struct.unpack_from(f"{self._mark}{2 * count}I", self._btf.data, at)[1::2]:
            if self.target(number):
                self._out += self._shapes.code(Tag.parameter, False, _TYPE)
                self._refer(number)
            else:
                self._out += self._shapes.code(Tag.unspecified, False)
        self._out.append(0)

    def _emit_made(self, made: Made) -> None:
        if made.kind == "ptr":
            self._pointer(0, 0, 0, 0, made.type)
        elif made.kind == "array":
            self._emit_array(made.type, [made.size])
        elif made.kind == "struct":
            self._out += self._shapes.code(Tag.structure, True, _SIZE4) + self._u32(made.size)
            for name, number, offset in made.members:
                self._member(self._u32(self._strings.add(name)), number, 8 * offset, 0)
            self._out.append(0)
        else:
            self._qualifier(KIND[made.kind], 0, 0, 0, made.type)


# -- functions -------------------------------------------------------------------------------------------------


class Function(NamedTuple):
    """A function that has a symbol and a prototype.

    Attributes:
        address: Link-time address.
        size: Bytes up to the next symbol; 0 for a further name of an address.
        name: Of the symbol.
        proto: Number of the FUNC_PROTO.
        is_global: The symbol is.
    """

    address: int
    size: int
    name: str
    proto: int
    is_global: bool


def function_units(
    btf: Btf, types: TypeUnit, strings: Strings, shapes: Abbreviations, functions: list[Function], start: int
) -> tuple[bytes, bytes]:
    """Return the units of functions and .debug_aranges.

    Args:
        btf, types, strings, shapes: As of the type unit, which is complete.
        functions: By ascending address.
        start: Offset in .debug_info that the first unit will have.
    """
    mark, word = "<" if btf.byteorder == "little" else ">", types.word
    address = struct.Struct(mark + ("Q" if word == 8 else "I"))
    info, ranges = bytearray(), bytearray()
    padding = -12 % (2 * word)
    for first in range(0, len(functions), _PER_UNIT):
        part = functions[first : first + _PER_UNIT]
        low, high = part[0].address, max(each.address + each.size for each in part)
        place = start + len(info)
        unit = bytearray(unit_header(mark, word))
        unit += shapes.code(Tag.unit, True, *_UNIT, *_RANGE) + unit_start(mark, strings, "functions")
        unit += address.pack(low) + struct.pack(mark + "I", high - low)
        for each in part:
            _function(unit, btf, types, strings, shapes, each)
        unit.append(0)
        _close(unit, mark)
        info += unit
        body = struct.pack(mark + "HIBB", 2, place, word, 0) + bytes(padding)
        body += address.pack(low) + address.pack(high - low) + bytes(2 * word)
        ranges += struct.pack(mark + "I", len(body)) + body
    return bytes(info), bytes(ranges)


def _function(
    unit: bytearray, btf: Btf, types: TypeUnit, strings: Strings, shapes: Abbreviations, function: Function
) -> None:
    mark, word = "<" if btf.byteorder == "little" else ">", types.word
    u32 = struct.Struct(mark + "I").pack
    at = btf.positions[function.proto]
    info, result = struct.unpack_from(mark + "II", btf.data, at + 4)
    parameters = struct.unpack_from(f"{mark}{2 * (info & 0xFFFF)}I", btf.data, at + 12)
    returns = types.offset(result)
    pairs = (
        _NAME,
        *((_FAR_TYPE,) if returns else ()),
        *(_RANGE if function.size else ()),
        *((_EXTERNAL,) if function.is_global else ()),
        _PROTOTYPED,
    )
    unit += shapes.code(Tag.subprogram, bool(parameters), *pairs) + u32(strings.add(function.name))
    if returns:
        unit += u32(returns)
    if function.size:
        unit += function.address.to_bytes(word, btf.byteorder) + u32(function.size)
    if not parameters:
        return
    for index in range(0, len(parameters), 2):
        name, place = parameters[index], types.offset(parameters[index + 1])
        if not place:
            unit += shapes.code(Tag.unspecified, False)
        elif 0 < name < strings.limit:
            unit += shapes.code(Tag.parameter, False, _NAME, _FAR_TYPE) + u32(name) + u32(place)
        else:
            unit += shapes.code(Tag.parameter, False, _FAR_TYPE) + u32(place)
    unit.append(0)


def unit_header(mark: str, word: int) -> bytes:
    """Return a unit's header, its length still 0."""
    return struct.pack(mark + "IHIB", 0, _VERSION, 0, word)


def unit_start(mark: str, strings: Strings, name: str) -> bytes:
    """Return the values of a unit's first attributes."""
    pack = struct.Struct(mark + "I").pack
    return pack(strings.add(PRODUCER)) + bytes((_C99,)) + pack(strings.add(name)) + pack(strings.add(""))


def _close(unit: bytearray, mark: str) -> None:
    struct.pack_into(mark + "I", unit, 0, len(unit) - 4)
