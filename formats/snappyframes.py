# SPDX-License-Identifier: GPL-2.0-or-later
"""Framed Snappy streams: where their chunks lie, and one chunk decoded with its CRC-32C checked.

    chunk: type (u8), length (u24, little-endian), body
    0xff stream identifier; 0x00 compressed, 0x01 stored: u32 masked CRC-32C of the plain bytes, data;
    0xfe padding; 0x80 to 0xfd may be skipped; 0x02 to 0x7f must not

Source: google/snappy, framing_format.txt, version of 2013-10-25.
"""

from __future__ import annotations

from array import array
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import CorruptDump, DumpError, TruncatedDump
from .source import ByteSource

__all__ = ["MAX_CHUNK", "STREAM_ID", "ChunkTable", "Stop", "snappy_chunk"]

STREAM_ID = b"\xff\x06\0\0sNaPpY"
MAX_CHUNK = 65536  # plain bytes of one chunk at most
_COMPRESSED, _STORED, _PADDING, _IDENTIFIER, _SKIPPABLE = 0, 1, 0xFE, 0xFF, 0x80
_MAX_SKIPPED = 1024  # chunks without data in one stream: an encoder writes one
_HEAD = 13  # type and length, CRC, and what the plain length may take (5 bytes)


def snappy_chunk(stored: bytes, size: int) -> bytes:
    """Decode one chunk, its header included, to exactly `size` bytes; see `blocks.BlockDecoder`.

    Raises:
        ValueError: It does not decode, or not to its CRC.
    """
    import cramjam

    # one byte more than wanted: a chunk that decodes to more must not fit
    plain = bytearray(size + 1)
    try:
        count = cramjam.snappy.decompress_into(STREAM_ID + stored, plain)
    except Exception as error:  # cramjam.DecompressionError, of which mypy knows nothing
        raise ValueError(str(error) or "snappy: does not decode") from error
    if count != size:
        raise ValueError(f"snappy: chunk of {count} bytes, not {size}")
    return bytes(plain[:size])


class Stop(NamedTuple):
    """How a stream's scan ended.

    Attributes:
        offset: Where it stopped.
        error: What is wrong with the stream, None if nothing is.
        ended: It came to the stream's regular end.
    """

    offset: int
    error: DumpError | None
    ended: bool


class ChunkTable:
    """Columns of the data chunks of streams, in file order: 24 bytes a chunk of 64 KiB.

    Attributes:
        plain_size: Bytes that all chunks so far decode to.
    """

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._offsets, self._stored, self._plain = array("Q"), array("Q"), array("Q")
        self.plain_size = 0

    def __len__(self) -> int:
        return len(self._offsets)

    def columns(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]:
        """Return offset, stored size (both with the chunk's header) and plain size of each chunk."""
        columns = (np.array(column, np.uint64) for column in (self._offsets, self._stored, self._plain))
        offsets, stored, plain = columns
        return offsets, stored, plain

    def scan(self, start_offset: int, size: int) -> Stop:
        """Take in the chunks of one stream, up to `size` plain bytes; whatever error stops it is returned.

        A chunk that says a wrong length moves all that follow. Encoders fill their chunks, so that a length that is
        unlike the first one's, or an error, makes all chunks of the stream suspect: then each is decoded, and what
        follows one that fails is left out.

        Args:
            start_offset: Of the stream identifier.
            size: Plain bytes of the stream.
        """
        first = len(self)
        at, error = self._walk(start_offset, size)
        plain = self._plain[first:]
        if error is None and all(each == plain[0] for each in plain[:-1]):
            return Stop(at, None, True)
        return Stop(at, self._prove(first) or error, error is None)

    def _prove(self, first: int) -> DumpError | None:
        # drop the first chunk that does not decode, and those behind it
        for number in range(first, len(self)):
            offset, size = self._offsets[number], self._plain[number]
            try:
                snappy_chunk(self._source.pread(offset, self._stored[number]), size)
            except ValueError as error:
                self.plain_size -= sum(self._plain[number:])
                del self._offsets[number:], self._stored[number:], self._plain[number:]
                return self._error(CorruptDump, f"{error}: where the chunks behind it belong is not known", offset)
        return None

    def _walk(self, start_offset: int, size: int) -> tuple[int, DumpError | None]:
        at, done, skipped = start_offset, 0, 0
        # AVML and every other encoder fill their chunks: a stream of crumbs would cost time and memory
        most = len(self) + 64 + size // 512
        while done < size:
            head = self._source.pread(at, min(_HEAD, max(0, self._source.size - at)))
            length = int.from_bytes(head[1:4], "little")
            if len(head) < 4 or at + 4 + length > self._source.size:
                return at, self._error(TruncatedDump, f"stream of {size} plain bytes ends after {done}", at)
            kind = head[0]
            if at == start_offset and (kind != _IDENTIFIER or length != 6):
                return at, self._error(CorruptDump, f"no Snappy stream begins with {head[:4].hex(' ')}", at)
            wrong = self._take(at, kind, length, head, size - done)
            if isinstance(wrong, str):
                return at, self._error(CorruptDump, wrong, at)
            done += wrong
            skipped += not wrong
            at += 4 + length
            if skipped > _MAX_SKIPPED or len(self) > most:
                return at, self._error(CorruptDump, f"{size} plain bytes in more than {most} chunks", at)
        return at, None

    def _take(self, at: int, kind: int, length: int, head: bytes, room: int) -> int | str:
        # plain bytes of one chunk, or what is wrong with it
        if kind == _IDENTIFIER:
            data = self._source.pread(at + 4, min(length, 6))
            return 0 if data == STREAM_ID[4:] and length == 6 else "a stream identifier that is none"
        if kind >= _SKIPPABLE:
            return 0
        if kind > _STORED:
            return f"chunk of the reserved type {kind:#x}"
        plain = length - 4 if kind == _STORED else _plain_length(head[8 : 4 + length])
        if length < 4 or not 0 <= plain <= MAX_CHUNK:
            return f"chunk of {length} bytes that decodes to {plain}, {MAX_CHUNK} is the limit"
        if plain > room:
            return f"chunk of {plain} plain bytes where the range has {room} left"
        if plain:
            self._offsets.append(at)
            self._stored.append(4 + length)
            self._plain.append(plain)
            self.plain_size += plain
        return plain

    def _error(self, kind: type[DumpError], message: str, offset: int) -> DumpError:
        return kind(f"Snappy: {message}", path=self._source.name, offset=offset, hint="use --salvage for what is whole")


def _plain_length(data: bytes) -> int:
    # the number at the front of a raw Snappy block, 7 bits a byte; -1 where there is none
    value = shift = 0
    for byte in data[:5]:
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value
        shift += 7
    return -1
