# SPDX-License-Identifier: GPL-2.0-or-later
"""What the reference decoder reads from and what it answers with: sources, flattened streams, results, refusals."""

from __future__ import annotations

import os
import struct
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

FLAT_SIGNATURE = b"makedumpfile\0\0\0\0"
NO_DESCRIPTOR = "descriptor is all zero"
MISSING_MEMBER = "split member is missing"
EXIT_CODES = {"missing": 1, "usage": 2, "damaged": 3, "unknown": 6}


class ReferenceError(Exception):
    """The file as a whole cannot be decoded.

    kind: unknown (not a format we know, exit 6), damaged (3), missing (a split member, 1), usage (inputs are not one
    set, 2).
    """

    def __init__(self, reason: str, kind: str = "damaged") -> None:
        super().__init__(reason)
        self.reason = reason
        self.kind = kind
        self.exit_code = EXIT_CODES[kind]


@dataclass
class ReferenceDump:
    """Everything that is in a dump."""

    format: str
    page_size: int
    order: str
    bits: int
    version: int = 0
    layout: str = ""
    machine: str | int = ""
    pages: dict[int, bytes] = field(default_factory=dict)
    excluded_runs: list[tuple[int, int]] = field(default_factory=list)
    lost: dict[int, str] = field(default_factory=dict)
    damaged: dict[int, str] = field(default_factory=dict)
    partial: dict[int, list[tuple[int, int]]] = field(default_factory=dict)  # pfn -> byte ranges that are present
    incomplete: bool = False
    truncated: bool = False
    flattened: bool = False
    notes: bytes = b""
    vmcoreinfo: bytes = b""
    eraseinfo: bytes = b""
    findings: list[str] = field(default_factory=list)

    @property
    def excluded(self) -> set[int]:
        return {pfn for start, end in self.excluded_runs for pfn in range(start, end)}

    @property
    def exit_code(self) -> int:
        """The exit code of a conversion by design.md's table."""
        allowed = {MISSING_MEMBER} | ({NO_DESCRIPTOR} if self.incomplete else set())
        if self.damaged or self.truncated or any(reason not in allowed for reason in self.lost.values()):
            return 3
        return 4 if self.incomplete or self.lost else 0


class Source:
    """A file or a rearranged stream; `received` lists the byte ranges a truncated stream brought."""

    def __init__(self, stream: BinaryIO, received: list[tuple[int, int]] | None = None) -> None:
        self.stream = stream
        self.size = os.fstat(stream.fileno()).st_size
        self.received = received
        self.flattened = False
        self.findings: list[str] = []

    def close(self) -> None:
        self.stream.close()

    def read(self, offset: int, size: int) -> bytes:
        """Read exactly; a range outside the file is damage."""
        if offset < 0 or size < 0 or offset + size > self.size:
            raise ReferenceError(f"{size} bytes at {offset:#x} are not inside the file of {self.size}")
        out = b""
        while len(out) < size:
            got = os.pread(self.stream.fileno(), size - len(out), offset + len(out))
            if not got:
                raise ReferenceError(f"file ended at {offset + len(out):#x}")
            out += got
        return out

    def has(self, offset: int, size: int) -> bool:
        """Tell whether a range is inside the file and, for a truncated stream, was received in full."""
        if offset < 0 or offset + size > self.size:
            return False
        if self.received is None or size == 0:
            return True
        return any(start <= offset and offset + size <= end for start, end in self.received)

    def data_extents(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Give the ranges that are no holes of the file system; what lies between reads as zeros."""
        while start < end:
            try:
                first = os.lseek(self.stream.fileno(), start, os.SEEK_DATA)
            except OSError:
                return
            if first >= end:
                return
            hole = os.lseek(self.stream.fileno(), first, os.SEEK_HOLE)
            yield first, min(hole, end)
            start = hole


def open_source(path: str | os.PathLike[str]) -> Source:
    """Open a file; a flattened stream is replayed into a temporary file, one level deep."""
    stream = open(path, "rb")  # noqa: SIM115 - the Source closes it
    head = stream.read(32)
    if len(head) > 1 and head[0] & 15 == 8 and int.from_bytes(head[:2], "big") % 31 == 0:
        return _inflated(stream)
    if head[:16] != FLAT_SIGNATURE:
        return Source(stream)
    with stream:
        return _rearranged(stream, head)


def _inflated(stream: BinaryIO) -> Source:
    """One zlib stream around the whole file (LiME); what only looks like one is the file itself."""
    stream.seek(0)
    decoder = zlib.decompressobj()
    try:
        plain = decoder.decompress(stream.read(), 1 << 28)
    except zlib.error:
        return Source(stream)
    stream.close()
    if not decoder.eof:
        raise ReferenceError("zlib stream is cut off")
    out = tempfile.TemporaryFile()  # noqa: SIM115 - the Source closes it
    out.write(plain)
    out.flush()
    return Source(out)


def _rearranged(stream: BinaryIO, head: bytes) -> Source:
    if len(head) < 32 or struct.unpack(">qq", head[16:32]) != (1, 1):
        raise ReferenceError("flattened stream: type and version are not 1", "unknown")
    if os.fstat(stream.fileno()).st_size < 4096:
        raise ReferenceError("flattened stream: shorter than its header")
    stream.seek(4096)
    out = tempfile.TemporaryFile()  # noqa: SIM115 - the Source closes it
    try:
        received, complete, findings = _replay(stream, out)
    except BaseException:
        out.close()
        raise
    out.flush()
    source = Source(out, None if complete else union(received))
    source.flattened = True
    source.findings = findings
    return source


def _replay(stream: BinaryIO, out: BinaryIO) -> tuple[list[tuple[int, int]], bool, list[str]]:
    received: list[tuple[int, int]] = []
    while True:
        head = stream.read(16)
        if len(head) < 16:
            return received, False, ["flattened stream: no end record"]
        offset, size = struct.unpack(">qq", head)
        if (offset, size) == (-1, -1):
            trailing = stream.read(1)
            return received, True, ["flattened stream: bytes after the end record"] if trailing else []
        if offset < 0 or size <= 0 or offset + size > (1 << 63) - 1:
            raise ReferenceError(f"flattened stream: record of {size} bytes for offset {offset}")
        position = offset
        while position < offset + size:
            data = stream.read(min(1 << 20, offset + size - position))
            if not data:
                return received, False, ["flattened stream: ends inside a record"]
            try:
                os.pwrite(out.fileno(), data, position)
            except OSError as error:
                raise ReferenceError(f"flattened stream: cannot place a record at {position:#x}: {error}") from error
            received.append((position, position + len(data)))
            position += len(data)


def union(runs: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Give sorted, disjoint runs that cover the same."""
    out: list[tuple[int, int]] = []
    for start, end in sorted(runs):
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(out[-1][1], end))
        else:
            out.append((start, end))
    return out


def subtract(runs: list[tuple[int, int]], others: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Give the parts of sorted runs that lie in none of the other sorted runs."""
    out = []
    first = 0
    for start, end in runs:
        while first < len(others) and others[first][1] <= start:
            first += 1
        position, index = start, first
        while index < len(others) and others[index][0] < end:
            if others[index][0] > position:
                out.append((position, others[index][0]))
            position = max(position, others[index][1])
            index += 1
        if position < end:
            out.append((position, end))
    return out
