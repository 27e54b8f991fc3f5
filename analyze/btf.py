# SPDX-License-Identifier: GPL-2.0-or-later
"""BTF: the kernel's own description of its types, decoded lazily. Source: docs/analyze.md, "BTF".

All of it is hostile: every offset is checked, chains of modifiers are bounded, an unknown kind ends the table.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import accumulate
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import MissingTable

__all__ = ["KIND", "Btf", "BtfType", "Member", "TypeSizes"]

MAX_BYTES = 64 << 20
_MAX_TYPES = 0xFFFFF  # BTF_MAX_TYPE (include/uapi/linux/btf.h)
_MAX_STRINGS = 1 << 22
_MAX_NAME = 1024
_MAX_DEPTH = 64
_HEADER = "HBBIIIII"

KIND = {
    "void": 0, "int": 1, "ptr": 2, "array": 3, "struct": 4, "union": 5, "enum": 6, "fwd": 7, "typedef": 8,
    "volatile": 9, "const": 10, "restrict": 11, "func": 12, "func_proto": 13, "var": 14, "datasec": 15, "float": 16,
    "decl_tag": 17, "type_tag": 18, "enum64": 19,
}  # fmt: skip
_NAMES = {value: name for name, value in KIND.items()}
# Bytes after the 12 of a type: fixed, and for each of its vlen entries.
_FIXED = {1: 4, 3: 12, 14: 4, 17: 4}
_EACH = {4: 12, 5: 12, 6: 8, 13: 8, 15: 12, 19: 12}
_MODIFIERS = frozenset((8, 9, 10, 11, 18))
_NAMED = ("struct", "union", "typedef", "enum", "enum64", "int", "float")  # what a name of a type means, in this order
_MAX_SAME = 1 << 12
_MAX_INNER = 256  # anonymous types within one that are looked through


class TypeSizes(dict[int, int]):
    """Info word of a type -> words that it takes; KeyError for an unknown kind."""

    def __missing__(self, info: int) -> int:
        kind = info >> 24 & 31
        if kind not in _NAMES or kind == 0:
            raise KeyError(kind)
        size = 12 + _FIXED.get(kind, 0) + _EACH.get(kind, 0) * (info & 0xFFFF)
        self[info] = size // 4
        return size // 4


class BtfType(NamedTuple):
    """One type.

    Attributes:
        id: Its number.
        kind: A value of `KIND`.
        name: Empty for an anonymous one.
        vlen: Number of members, enumerators or parameters.
        kflag: Bit 31 of info.
        size: Bytes, or the number of the type that it refers to (see `KIND`).
        position: Of what follows its 12 bytes.
    """

    id: int
    kind: int
    name: str
    vlen: int
    kflag: bool
    size: int
    position: int

    @property
    def kind_name(self) -> str:
        """The kind's name."""
        return _NAMES[self.kind]


class Member(NamedTuple):
    """One member of a structure or union.

    Attributes:
        name: Empty for an anonymous member.
        type: Number of its type.
        bit_offset: From the start of the outer type.
        bit_size: Of a bit field, 0 for any other.
    """

    name: str
    type: int
    bit_offset: int
    bit_size: int


class Btf:
    """The types of a kernel, or of a module on top of its kernel.

    Args:
        data: The section.
        byteorder: Of the machine.
        base: The kernel's types, for a module.

    Attributes:
        lost: What of the table could not be read, empty where it is whole.
        added: Bytes of names at its end that the kernel's table does not have: modules' names go on before them.

    Raises:
        MissingTable: The bytes are no BTF.
    """

    lost = ""
    added = 0

    def __init__(self, data: bytes, byteorder: Literal["little", "big"], base: Btf | None = None) -> None:
        self._mark = mark = "<" if byteorder == "little" else ">"
        if not 24 <= len(data) <= MAX_BYTES:
            raise MissingTable(f"BTF of {len(data)} bytes")
        parts: tuple[int, ...] = struct.unpack_from(mark + _HEADER, data)
        magic, version, _, head, type_off, type_len, str_off, str_len = parts
        if magic != 0xEB9F or version != 1 or head < 24:
            raise MissingTable(f"BTF magic {magic:#x}, version {version}")
        if head + max(type_off + type_len, str_off + str_len) > len(data):
            raise MissingTable("BTF sections reach past its end")
        self.data = data
        self.byteorder = byteorder
        self.base = base
        self._first: int = len(base) if base is not None else 1
        self._string_base: int = base.string_size if base is not None else 0
        self._strings = head + str_off
        self._strings_size: int = str_len
        self._types = struct.Struct(mark + "III")
        self._member = struct.Struct(mark + "III")
        self._types_end: int = head + type_off + type_len
        self._positions, self._words = self._index(head + type_off, head + type_off + type_len)
        self._places: dict[bytes, int] | None = None
        self._found: dict[tuple[str, tuple[str, ...]], int | None] = {}
        self._members: dict[int, list[Member]] = {}
        self._paths: dict[tuple[int, str], tuple[int, Member]] = {}
        self._enumerators: tuple[NDArray[np.int64], NDArray[np.uint32]] | None = None
        self._constants: dict[str, int | None] = {}

    def _index(self, start: int, end: int) -> tuple[list[int], NDArray[np.uint32]]:
        # the positions of all types, and all words of them: a type's size follows from its second word
        if start % 4 or end % 4 or start > end:
            raise MissingTable(f"BTF types from {start} to {end} are not aligned")
        words = np.frombuffer(self.data, self._mark + "u4", (end - start) // 4, start).astype(np.uint32)
        infos, sizes = memoryview(words.data), TypeSizes()
        places: list[int] = []
        add, at, last = places.append, 0, len(words)
        try:
            while at < last:
                add(at)
                at += sizes[infos[at + 1]]
                if len(places) > _MAX_TYPES:
                    raise MissingTable(f"BTF with more than {_MAX_TYPES} types")
        except (KeyError, IndexError) as error:
            raise MissingTable(f"BTF type {self._first + len(places) - 1} is of an unknown kind, or cut") from error
        if at != last:
            raise MissingTable("BTF types reach past their section")
        headers = np.array(places, np.int64)
        self._name_offsets, self._infos = words[headers], words[np.minimum(headers + 1, max(last - 1, 0))]
        self._kinds = (self._infos >> np.uint32(24) & np.uint32(31)).astype(np.uint8)
        positions = [start + 4 * place for place in places]
        return positions if self.base is not None else [-1, *positions], words

    def __len__(self) -> int:
        return (self._first if self.base is not None else 0) + len(self._positions)

    @property
    def string_size(self) -> int:
        """End of the string offsets that the kernel's table has."""
        return self._string_base + self._strings_size - self.added

    @property
    def mark(self) -> str:
        """The byte order as struct writes it."""
        return self._mark

    @property
    def positions(self) -> list[int]:
        """Offsets of the types' headers in `data`, by number; number 0 (void) has -1."""
        return self._positions

    @property
    def words(self) -> NDArray[np.uint32]:
        """All 32-bit words of the types."""
        return self._words

    @property
    def types_end(self) -> int:
        """Offset in `data` behind the last type."""
        return self._types_end

    @property
    def string_section(self) -> bytes:
        """This table's own strings."""
        return self.data[self._strings : self._strings + self._strings_size]

    def string(self, offset: int) -> str:
        """Return a name by its string offset."""
        if offset < self._string_base:
            return self.base.string(offset) if self.base is not None else ""
        at = self._strings + offset - self._string_base
        limit = self._strings + self._strings_size
        end = self.data.find(b"\0", at, min(limit, at + _MAX_NAME + 1))
        if at >= limit or end < 0:
            raise MissingTable(f"BTF name at {offset:#x} does not end within {_MAX_NAME} bytes")
        return self.data[at:end].decode("utf-8", "backslashreplace")

    def type(self, number: int) -> BtfType:
        """Return a type by number.

        Raises:
            MissingTable: There is none.
        """
        if self.base is not None and number < self._first:
            return self.base.type(number)
        if number == 0:
            return BtfType(0, 0, "void", 0, False, 0, -1)
        index = number - self._first if self.base is not None else number
        if not 0 <= index < len(self._positions):
            raise MissingTable(f"BTF has no type {number}")
        position = self._positions[index]
        name, info, size = self._types.unpack_from(self.data, position)
        return BtfType(number, info >> 24 & 31, self.string(name), info & 0xFFFF, bool(info >> 31), size, position + 12)

    def __iter__(self) -> Iterator[BtfType]:
        """Go through this table's own types."""
        first = self._first if self.base is not None else 1
        return (self.type(number) for number in range(first, len(self)))

    def find(self, name: str, *kinds: str) -> BtfType | None:
        """Return the first type of a name; of the kinds, or any structure, union, enum, typedef, int or float."""
        key = (name, kinds)
        if key not in self._found:
            self._found[key] = self._find(name, [KIND[kind] for kind in kinds or _NAMED])
        number = self._found[key]
        if number is not None:
            return self.type(number)
        return self.base.find(name, *kinds) if self.base is not None else None

    def _find(self, name: str, kinds: list[int]) -> int | None:
        if not name:
            return None
        rows = np.flatnonzero(np.isin(self._name_offsets, self._offsets_of(name))).tolist()
        for kind in kinds:
            for row in rows:
                if self._kinds[row] == kind:
                    return int(row + self._first)
        return None

    def _offsets_of(self, name: str) -> list[int]:
        # where a name stands in the strings, as name offsets have it: a module uses its kernel's strings too
        strings, text = self.string_section, name.encode("utf-8", "surrogateescape")
        if self._places is None:
            if strings.count(b"\0") > _MAX_STRINGS:
                raise MissingTable(f"BTF with more than {_MAX_STRINGS} names")
            parts = strings.split(b"\0")
            starts = accumulate(map(len, parts), lambda at, size: at + size + 1, initial=0)
            self._places = dict(zip(reversed(parts), reversed([*starts][:-1]), strict=True))
        found = [] if self.base is None else self.base._offsets_of(name)
        at = self._places.get(text)
        if at is not None:
            return [*found, at + self._string_base]
        at = strings.find(text + b"\0")  # a name may be the end of another, though no writer does that
        while at >= 0 and len(found) < _MAX_SAME:
            found.append(at + self._string_base)
            at = strings.find(text + b"\0", at + 1)
        return found

    def strip(self, number: int) -> BtfType:
        """Return the type behind typedefs, const, volatile and tags."""
        for _ in range(_MAX_DEPTH):
            found = self.type(number)
            if found.kind not in _MODIFIERS:
                return found
            number = found.size
        raise MissingTable("BTF typedefs lead in a circle")

    def size_of(self, number: int) -> int:
        """Return the bytes of a type."""
        count = 1
        for _ in range(_MAX_DEPTH):
            found = self.strip(number)
            if found.kind == KIND["array"]:
                number, elements = self.array(found)
                count *= elements
                continue
            if found.kind == KIND["ptr"]:
                return count * self.pointer_size
            return count * (found.size if found.kind in (1, 4, 5, 6, 15, 16, 19) else 0)
        raise MissingTable("BTF arrays of arrays without end")

    @property
    def pointer_size(self) -> int:
        """Bytes of a pointer: those of unsigned long."""
        found = self.find("long unsigned int", "int") or self.find("unsigned long", "int")
        return found.size if found is not None and found.size in (4, 8) else 8

    def _of_base(self, found: BtfType) -> bool:
        # a module's types go on where its kernel's end: what follows a type lies in the table that has it
        return self.base is not None and found.id < self._first

    def array(self, found: BtfType) -> tuple[int, int]:
        """Return element type and number of elements of an array."""
        if self._of_base(found):
            return self.base.array(found)  # type: ignore[union-attr]
        element, _, count = self._member.unpack_from(self.data, found.position)
        return int(element), int(count)

    def members(self, found: BtfType) -> list[Member]:
        """Return the members of a structure or union."""
        cached = self._members.get(found.id)
        if cached is None:
            if self._of_base(found):
                return self.base.members(found)  # type: ignore[union-attr]
            cached = []
            for index in range(found.vlen):
                name, number, offset = self._member.unpack_from(self.data, found.position + 12 * index)
                bits = 0
                if found.kflag:
                    offset, bits = offset & 0xFFFFFF, offset >> 24
                cached.append(Member(self.string(name), number, offset, bits))
            self._members[found.id] = cached
        return cached

    def member(self, found: BtfType, path: str) -> tuple[int, Member]:
        """Return the bit offset of a member and the member.

        Args:
            found: Structure or union, modifiers already stripped.
            path: Its name, or `a.b.c`; anonymous members are looked into.

        Raises:
            MissingTable: There is no such member.
        """
        key = (found.id, path)
        result = self._paths.get(key)
        if result is None:
            offset, current = 0, found
            member: Member | None = None
            for name in path.split("."):
                if member is not None:
                    current = self.strip(member.type)
                step = self._find_member(current, name, set())
                if step is None:
                    raise MissingTable(f"{found.kind_name} {found.name} has no member {path}")
                offset, member = offset + step[0], step[1]
            assert member is not None  # noqa: S101 - a path has a part
            result = self._paths[key] = (offset, member)
        return result

    def _find_member(self, found: BtfType, name: str, seen: set[int]) -> tuple[int, Member] | None:
        # `seen`: where it is not; types may lead in a circle
        if found.kind not in (KIND["struct"], KIND["union"]) or found.id in seen or len(seen) > _MAX_INNER:
            return None
        seen.add(found.id)
        members = self.members(found)
        for member in members:
            if member.name == name:
                return member.bit_offset, member
        for member in members:
            if not member.name:
                inner = self._find_member(self.strip(member.type), name, seen)
                if inner is not None:
                    return member.bit_offset + inner[0], inner[1]
        return None

    def offset(self, structure: str, path: str) -> int:
        """Return the byte offset of a member, by names.

        Raises:
            MissingTable: No such structure or member.
        """
        found = self.find(structure, "struct", "union", "typedef")
        if found is None:
            raise MissingTable(f"BTF has no struct {structure}")
        return self.member(self.strip(found.id), path)[0] // 8

    def has(self, structure: str, path: str) -> bool:
        """Whether a structure has a member."""
        try:
            self.offset(structure, path)
        except MissingTable:
            return False
        return True

    def int_encoding(self, found: BtfType) -> int:
        """Return an INT's encoding bits: 1 signed, 2 char, 4 bool."""
        if self._of_base(found):
            return self.base.int_encoding(found)  # type: ignore[union-attr]
        return int(struct.unpack_from(self._mark + "I", self.data, found.position)[0]) >> 24 & 15

    def enumerators(self, found: BtfType) -> dict[str, int]:
        """Return names and values of an enumeration."""
        if self._of_base(found):
            return self.base.enumerators(found)  # type: ignore[union-attr]
        values, at = {}, found.position
        for _ in range(found.vlen):
            if found.kind == KIND["enum64"]:
                name, low, high = self._member.unpack_from(self.data, at)
                value, bits, at = low | high << 32, 64, at + 12
            else:
                name, value = struct.unpack_from(self._mark + "II", self.data, at)
                bits, at = 32, at + 8
            if found.kflag == (found.kind in (KIND["enum"], KIND["enum64"])) and value >> bits - 1:
                value -= 1 << bits
            values[self.string(name)] = value
        return values

    def constant(self, name: str) -> int | None:
        """Return the value of an enumerator of any enumeration."""
        if name not in self._constants:
            self._constants[name] = self._constant(name)
        return self._constants[name]

    def _constant(self, name: str) -> int | None:
        if self._enumerators is None:
            rows = np.flatnonzero((self._kinds == KIND["enum"]) | (self._kinds == KIND["enum64"]))
            counts = (self._infos[rows] & np.uint32(0xFFFF)).astype(np.int64)
            steps = np.where(self._kinds[rows] == KIND["enum"], 2, 3)
            owners = np.repeat(rows, counts)
            inner = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
            first = self._positions[0 if self.base is not None else 1] if len(self._kinds) else 0
            lead = 1 if self.base is None else 0
            starts = np.array([(self._positions[row + lead] - first) // 4 + 3 for row in rows.tolist()], np.int64)
            places = np.repeat(starts, counts) + inner * np.repeat(steps, counts)
            self._enumerators = owners, self._words[places]
        owners, names = self._enumerators
        for at in np.flatnonzero(np.isin(names, self._offsets_of(name)))[:1].tolist() if name else ():
            return self.enumerators(self.type(int(owners[at]) + self._first)).get(name)
        return self.base.constant(name) if self.base is not None else None

    def parameters(self, found: BtfType) -> list[tuple[str, int]]:
        """Return names and types of a FUNC_PROTO's parameters; a last ("", 0) stands for further ones."""
        if self._of_base(found):
            return self.base.parameters(found)  # type: ignore[union-attr]
        step = struct.Struct(self._mark + "II")
        return [
            (self.string(name), number)
            for name, number in (step.unpack_from(self.data, found.position + 8 * index) for index in range(found.vlen))
        ]

    def section(self, name: str) -> list[tuple[str, int, int, int]]:
        """Return (name, type, offset, size) of the variables of a DATASEC, empty where there is none."""
        found = self.find(name, "datasec")
        if found is not None and self._of_base(found):
            return self.base.section(name)  # type: ignore[union-attr]
        rows = []
        for index in range(found.vlen if found is not None else 0):
            assert found is not None  # noqa: S101 - vlen
            number, offset, size = self._member.unpack_from(self.data, found.position + 12 * index)
            variable = self.type(number)
            rows.append((variable.name, variable.size, offset, size))
        return rows
