# SPDX-License-Identifier: GPL-2.0-or-later
"""A file under construction: pieces at offsets, written without touching the gaps between them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Piece:
    """One write: where, what, and what it is for (`build_flat` orders pieces by kind)."""

    offset: int
    data: bytes
    kind: str = ""

    @property
    def end(self) -> int:
        return self.offset + len(self.data)


@dataclass
class SparseFile:
    """Pieces in the order they were put (a later piece wins over an earlier one) and the file's size."""

    pieces: list[Piece] = field(default_factory=list)
    size: int = 0

    def put(self, offset: int, data: bytes, kind: str = "") -> int:
        """Add a piece and return the offset after it."""
        piece = Piece(offset, bytes(data), kind)
        self.pieces.append(piece)
        self.size = max(self.size, piece.end)
        return piece.end

    def extend(self, size: int) -> None:
        """Make the file at least `size` bytes long."""
        self.size = max(self.size, size)

    def to_bytes(self, limit: int = 1 << 30) -> bytes:
        """Give the whole file; refuse to fill more than `limit` bytes of memory."""
        if self.size > limit:
            raise ValueError(f"{self.size} bytes: use write_to(), which leaves holes")
        out = bytearray(self.size)
        for piece in self.pieces:
            out[piece.offset : piece.end] = piece.data
        return bytes(out)

    def write_to(self, path: str | os.PathLike[str]) -> Path:
        """Write the file; gaps become holes."""
        target = Path(path)
        with target.open("wb") as stream:
            for piece in self.pieces:
                stream.seek(piece.offset)
                stream.write(piece.data)
            stream.truncate(self.size)
        return target
