# SPDX-License-Identifier: GPL-2.0-or-later
"""Raw memory: flat files without any header, read only where the user says so and where they lie.

    address = base + position in the file - offset

Pieces are named as crash names them: FILE@HEXADDR, several separated by commas or as several inputs.

Sheet: docs/formats/raw.md.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from .assume import assumed_machine
from .errors import TruncatedDump, UsageError
from .reader import Neighbours, Options
from .segments import FILE_SHIFT, SegmentReader
from .source import ByteSource

__all__ = ["RawReader"]

# Linux on these is big-endian (mips, arm and ppc64 may be either: what is common today counts, --byte-order overrides).
_BIG_ENDIAN = ("ppc", "s390", "s390x", "sparc64")
_MAX_PIECES = 1 << 15  # their numbers stand above FILE_SHIFT


class RawReader(SegmentReader):
    """Flat memory.

    Args:
        sources: The pieces.
        options: `base` or `bases`, `offset`, `length`, `machine`; see `Options`.

    Raises:
        UsageError: The layout contradicts itself or the files, or the machine is not given.
    """

    name: ClassVar[str] = "raw"

    def __init__(self, sources: tuple[ByteSource, ...], options: Options) -> None:
        super().__init__(sources)
        order = options.byteorder or ("big" if options.machine in _BIG_ENDIAN else "little")
        self.machine = assumed_machine(self, options, order, None)
        self._bases = options.bases or (options.base,)
        self._check(options)
        pieces = [self._piece(number, options) for number in range(len(sources))]
        start, stored, claimed, offset = (np.array(column, np.uint64) for column in zip(*pieces, strict=True))
        self.lay_out(start, stored, claimed, offset)
        self.facts = {"pieces": [{"paddr": row[0], "size": row[2]} for row in pieces], "offset": options.offset}

    @staticmethod
    def probe(source: ByteSource) -> bool:
        """See `DumpReader.probe`: there is no signature."""
        return False

    @classmethod
    def interpret(cls, paths: Sequence[str], options: Options) -> tuple[list[str], Options]:
        """See `DumpReader.interpret`: FILE@HEXADDR names a piece and its address."""
        words = [word for path in paths for word in _split(path)]
        pieces = [_name_and_address(word) for word in words]
        if all(address is None for _, address in pieces):
            return [name for name, _ in pieces], options
        for name, address in pieces:
            if address is None:
                raise UsageError(f"{name}: no address; FILE@HEXADDR gives each piece one")
        return [name for name, _ in pieces], options._replace(bases=tuple(each or 0 for _, each in pieces))

    @classmethod
    def complete_set(
        cls, sources: list[ByteSource], paths: Sequence[str], options: Options, neighbours: Neighbours
    ) -> list[ByteSource]:
        """See `DumpReader.complete_set`: the pieces are those given."""
        return sources

    def _check(self, options: Options) -> None:
        if len(self._bases) != len(self.sources):
            raise UsageError(
                f"{len(self.sources)} pieces of raw memory and {len(self._bases)} address",
                hint="name them FILE@HEXADDR",
            )
        if len(self.sources) > _MAX_PIECES:
            raise UsageError(f"{len(self.sources)} pieces of raw memory, {_MAX_PIECES} is the limit")
        if len(self.sources) > 1 and (options.offset or options.length is not None):
            raise UsageError("--offset and --length are for one file of raw memory, not for several")

    def _piece(self, number: int, options: Options) -> tuple[int, int, int, int]:
        # (address, bytes there, bytes that should be, offset with the file's number)
        source, base = self.sources[number], self._bases[number]
        if options.length is None or len(self.sources) > 1:
            source.finish()
        room = source.size - options.offset
        if room < 0 or (len(self.sources) > 1 and room >= 1 << FILE_SHIFT):
            raise UsageError(f"--offset {options.offset} in a file of {source.size} bytes", path=source.name)
        size = room if options.length is None else options.length
        if base + size > 1 << 64:
            raise UsageError(f"{size} bytes from {base:#x} on reach past 2**64", path=source.name)
        for other, earlier in enumerate(self._bases[:number]):
            if earlier < base + size and base < earlier + self.sources[other].size:
                raise UsageError(
                    f"pieces overlap: {earlier:#x} has {self.sources[other].size} bytes, the next is at {base:#x}",
                    path=source.name,
                )
        if (base | size) & (self.machine.page_size - 1):
            self.remark("size", f"{size} bytes from {base:#x} on are no whole pages: frames at the ends are partial")
        stored = min(size, room)
        if stored < size:
            self.damage = TruncatedDump(
                f"{size} bytes of memory expected, the file has {stored}",
                path=source.name,
                offset=options.offset,
                hint="use --salvage for what is whole",
            )
        return base, stored, size, options.offset + (number << FILE_SHIFT)


def _split(path: str) -> list[str]:
    # crash separates pieces by commas; a name may have one, too
    return [path] if os.path.lexists(path) or "@" not in path else path.split(",")


def _name_and_address(word: str) -> tuple[str, int | None]:
    name, at, text = word.rpartition("@")
    if not at or os.path.lexists(word):
        return word, None
    try:
        address = int(text, 16)
    except ValueError:
        address = -1
    if not name or not 0 <= address < 1 << 64 or text.startswith(("+", "-")):
        raise UsageError(f"{word}: FILE@HEXADDR expected, {text!r} is no hexadecimal address")
    return name, address
