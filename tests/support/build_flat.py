# SPDX-License-Identifier: GPL-2.0-or-later
"""Wraps files into makedumpfile's flattened streams, in the orders real writers use and in hostile ones."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .build_elf import PHDR_SIZE, ElfImage
from .build_kdump import DESCRIPTOR_SIZE, KdumpImage
from .sparse import Piece, SparseFile

SIGNATURE = b"makedumpfile\0\0\0\0"
HEADER_SIZE = 4096
END = struct.pack(">qq", -1, -1)


@dataclass(frozen=True)
class Record:
    """One record; `size` overrides the honest size of `data`."""

    offset: int
    data: bytes
    size: int | None = None

    def pack(self) -> bytes:
        return struct.pack(">qq", self.offset, len(self.data) if self.size is None else self.size) + self.data


def header(*, signature: bytes = SIGNATURE, type_: int = 1, version: int = 1) -> bytes:
    """Pack the 4096-byte header of a stream."""
    return (signature + struct.pack(">qq", type_, version)).ljust(HEADER_SIZE, b"\0")


def flatten(
    records: Iterable[Record],
    *,
    end: bytes = END,
    trailing: bytes = b"",
    signature: bytes = SIGNATURE,
    type_: int = 1,
    version: int = 1,
) -> bytes:
    """Give a stream; `end=b""` leaves the end record out, `trailing` follows it."""
    body = b"".join(record.pack() for record in records)
    return header(signature=signature, type_=type_, version=version) + body + end + trailing


def rearrange(records: Iterable[Record]) -> bytes:
    """Give the file that the honest records describe: gaps are zero, the last write wins."""
    file = SparseFile()
    for record in records:
        file.put(record.offset, record.data)
    return file.to_bytes()


def split_plain(data: bytes, size: int = 5000) -> list[Record]:
    """Cut a file into ascending records of one size."""
    return [Record(start, data[start : start + size]) for start in range(0, len(data), size)]


def chop(pieces: Iterable[Piece], size: int) -> list[Record]:
    """Cut pieces into records of at most `size` bytes, keeping their order."""
    return [
        Record(piece.offset + start, piece.data[start : start + size])
        for piece in pieces
        for start in range(0, len(piece.data), size)
    ]


def _of_kind(file: SparseFile, *kinds: str) -> list[Piece]:
    return [piece for piece in file.pieces if piece.kind in kinds]


def _trimmed_bitmaps(image: KdumpImage) -> list[Piece]:
    # makedumpfile writes ceil(max_mapnr / 8) bytes of a bitmap, not whole blocks. Where no page follows, the whole
    # blocks are kept: else the stream would end before the place of the descriptor table.
    pieces = _of_kind(image.file, "bitmap1", "bitmap2")
    if not image.descriptor_offsets:
        return pieces
    size = (image.max_mapnr + 7) // 8
    return [Piece(piece.offset, piece.data[:size], piece.kind) for piece in pieces]


def _interleave(image: KdumpImage, *, chunk: int, data_first: bool) -> list[Record]:
    descriptors = chop(_of_kind(image.file, "descriptors"), chunk * DESCRIPTOR_SIZE)
    data = _of_kind(image.file, "data")
    groups = [data[start : start + chunk] for start in range(0, len(data), chunk)]
    out: list[Record] = []
    for index in range(max(len(descriptors), len(groups))):
        table = descriptors[index : index + 1]
        pages = [_joined(groups[index])] if index < len(groups) else []
        last = index >= len(groups) - 1
        out += pages + table if data_first or last else table + pages
    return out


def _joined(pieces: Sequence[Piece]) -> Record:
    return Record(pieces[0].offset, b"".join(piece.data for piece in pieces))


def kdump_makedumpfile(image: KdumpImage, *, chunk: int = 16, data_first: bool = False) -> list[Record]:
    """Give records as makedumpfile -F writes them: notes before the sub header, data and descriptors alternating.

    With erase info the sub header is written a second time at the end.
    """
    sub_header = chop(_of_kind(image.file, "sub_header"), 1 << 30)
    out = chop(_of_kind(image.file, "header"), 1 << 30) + chop(_of_kind(image.file, "notes"), 1 << 30) + sub_header
    out += chop(_trimmed_bitmaps(image), 1 << 30)
    out += _interleave(image, chunk=chunk, data_first=data_first)
    erase = chop(_of_kind(image.file, "eraseinfo"), 1 << 30)
    return out + (erase + sub_header if erase else []) + chop(_of_kind(image.file, "patch"), 1 << 30)


def kdump_qemu(image: KdumpImage) -> list[Record]:
    """Give records as QEMU writes them: sub header before notes, bitmaps page by page alternating, data first."""
    block = image.spec.page_size
    out = chop(_of_kind(image.file, "header", "sub_header"), 1 << 30) + chop(_of_kind(image.file, "notes"), 1 << 30)
    first, second = (chop(_of_kind(image.file, kind), block) for kind in ("bitmap1", "bitmap2"))
    for index in range(max(len(first), len(second))):
        out += first[index : index + 1] + second[index : index + 1]
    return out + _interleave(image, chunk=4, data_first=True) + chop(_of_kind(image.file, "patch"), 1 << 30)


def kdump_cyclic(image: KdumpImage, *, piece: int = 16) -> list[Record]:
    """Give records as cyclic mode writes them: bitmaps in small pieces between the pages of their cycle."""
    out = chop(_of_kind(image.file, "header", "notes", "sub_header"), 1 << 30)
    pages = _interleave(image, chunk=8, data_first=False)
    first, second = (chop(_of_kind(image.file, kind), piece) for kind in ("bitmap1", "bitmap2"))
    for index in range(max(len(first), len(second), len(pages))):
        out += first[index : index + 1] + second[index : index + 1] + pages[index : index + 1]
    return out + chop(_of_kind(image.file, "eraseinfo", "patch"), 1 << 30)


def elf_makedumpfile(image: ElfImage, *, size: int = 65536) -> list[Record]:
    """Give records as makedumpfile -E -F writes them: zero program headers first, the real ones next to last."""
    headers = chop(_of_kind(image.file, "phdrs"), PHDR_SIZE[image.spec.bits] * 64)
    data = chop(_of_kind(image.file, "data"), size)
    out = [Record(record.offset, bytes(len(record.data))) for record in headers]
    out += chop(_of_kind(image.file, "shdrs"), 1 << 30) + chop(_of_kind(image.file, "ehdr"), 1 << 30)
    out += chop(_of_kind(image.file, "notes"), 1 << 30) + data[:-1] + headers + data[-1:]
    return out + chop(_of_kind(image.file, "shstrtab", "patch"), 1 << 30)
