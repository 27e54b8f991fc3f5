# SPDX-License-Identifier: GPL-2.0-or-later
"""Structures in kernel memory by BTF: offsets looked up once, members read as integers, strings, lists."""

from __future__ import annotations

from collections.abc import Iterator

from .btf import KIND, Btf, BtfType
from .errors import MissingTable
from .memory import KernelMemory

__all__ = ["MAX_LIST", "Structs"]

MAX_LIST = 1 << 20  # entries of a list: it is a circle that never closes otherwise


class Structs:
    """Members of structures in memory.

    Args:
        memory: Kernel memory.
        btf: Its types.
    """

    def __init__(self, memory: KernelMemory, btf: Btf) -> None:
        self.memory = memory
        self.btf = btf
        self._fields: dict[tuple[str, str], tuple[int, int, bool]] = {}

    def field(self, structure: str, path: str) -> tuple[int, int, bool]:
        """Return byte offset, size and signedness of a member.

        Raises:
            MissingTable: There is none.
        """
        key = (structure, path)
        found = self._fields.get(key)
        if found is None:
            outer = self.btf.find(structure, "struct", "union", "typedef")
            if outer is None:
                raise MissingTable(f"BTF has no struct {structure}")
            bits, member = self.btf.member(self.btf.strip(outer.id), path)
            inner = self.btf.strip(member.type)
            found = self._fields[key] = (bits // 8, self.btf.size_of(member.type), self._is_signed(inner))
        return found

    def _is_signed(self, found: BtfType) -> bool:
        return found.kind == KIND["int"] and bool(self.btf.int_encoding(found) & 1)

    def first(self, structure: str, *paths: str) -> str | None:
        """Return the first of the paths that the structure has: names change between versions."""
        return next((path for path in paths if self.btf.has(structure, path)), None)

    def offset(self, structure: str, path: str) -> int:
        """Return the byte offset of a member."""
        return self.field(structure, path)[0]

    def get(self, address: int, structure: str, path: str) -> int:
        """Return an integer or pointer member."""
        offset, size, signed = self.field(structure, path)
        return self.memory.integer(address + offset, size, signed=signed)

    def member_kind(self, structure: str, path: str) -> str:
        """Return what a member is: `number` (integer, enumeration, pointer), `text` (array of characters) or `other`.

        Raises:
            MissingTable: There is none.
        """
        outer = self.btf.find(structure, "struct", "union", "typedef")
        if outer is None:
            raise MissingTable(f"BTF has no struct {structure}")
        found = self.btf.strip(self.btf.member(self.btf.strip(outer.id), path)[1].type)
        if found.kind in (KIND["int"], KIND["ptr"], KIND["enum"], KIND["enum64"]):
            return "number"
        if found.kind == KIND["array"]:
            element = self.btf.strip(self.btf.array(found)[0])
            if element.kind == KIND["int"] and element.name in ("char", "signed char", "unsigned char"):
                return "text"
        return "other"

    def string(self, address: int, structure: str, path: str) -> bytes:
        """Return a member that is an array of characters, up to its NUL."""
        offset, size, _ = self.field(structure, path)
        return self.memory.read(address + offset, size).split(b"\0", 1)[0]

    def size(self, structure: str) -> int:
        """Return the size of a structure."""
        found = self.btf.find(structure, "struct", "union", "typedef")
        if found is None:
            raise MissingTable(f"BTF has no struct {structure}")
        return self.btf.size_of(found.id)

    def list(self, head: int, structure: str, path: str) -> Iterator[int]:
        """Yield the addresses of the structures in a list_head list; `path` is their list member.

        Raises:
            MissingTable: The list leads back to an entry that is not its head, or does not end.
            Unreadable: An entry is not in the dump.
        """
        offset, seen = self.offset(structure, path), {head}
        entry = self.memory.pointer(head)
        while entry != head:
            if entry in seen or len(seen) > MAX_LIST:
                raise MissingTable(f"list of {structure} at {head:#x} does not come back to its head")
            seen.add(entry)
            yield entry - offset
            entry = self.memory.pointer(entry)

    def enumerators(self, name: str) -> dict[str, int]:
        """Return the values of an enum, empty where there is none."""
        found = self.btf.find(name, "enum", "enum64")
        return self.btf.enumerators(found) if found is not None else {}

    def constant(self, name: str) -> int | None:
        """Return an enumerator of any enum."""
        return self.btf.constant(name)
