# SPDX-License-Identifier: GPL-2.0-or-later
"""Outer compression of a whole dump: gzip, xz, zstd, lz4, bzip2, lzop, zlib, told by content, decoded as a stream."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from .errors import CorruptStream, DumpError, TruncatedStream

__all__ = ["HEAD_SIZE", "OUTER", "PackedStream", "outer_kind", "unpack"]

_IN = 1 << 18
_IN_SALVAGE = 1 << 10  # a decoder that meets damage gives nothing of the piece it was given
_OUT = 1 << 20
HEAD_SIZE = 1024  # bytes that `outer_kind` needs: what a deflate block's tables take at most, and some data
OUTER: dict[str, bytes] = {
    "gzip": b"\x1f\x8b",
    "xz": b"\xfd7zXZ\0",
    "zstd": b"\x28\xb5\x2f\xfd",
    "lz4": b"\x04\x22\x4d\x18",
    "bzip2": b"BZh",
    "lzop": b"\x89LZO\0\r\n\x1a\n",
}


class PackedStream(Protocol):
    """What `unpack` needs of a stream."""

    def read(self, size: int, /) -> bytes:
        """Return 1 to `size` bytes, none at the end."""


def outer_kind(head: bytes) -> str | None:
    """Return the compression that a file beginning with `head` (`HEAD_SIZE` bytes) has, or None."""
    for name, magic in OUTER.items():
        if head.startswith(magic):
            return name
    return "zlib" if _is_zlib(head) else None


def _is_zlib(head: bytes) -> bool:
    # LiME's compress=1 is one bare zlib stream. Its two bytes are no signature: what follows must inflate, too.
    if len(head) < 2 or head[0] & 0xF != 8 or head[0] > 0x78 or head[1] & 0x20 or (head[0] << 8 | head[1]) % 31:
        return False
    try:
        return len(zlib.decompressobj().decompress(head, 64)) >= 16
    except zlib.error:
        return False


def unpack(kind: str, stream: PackedStream, name: str, *, salvage: bool = False) -> Iterator[bytes]:
    """Yield the unpacked bytes in chunks.

    Args:
        kind: See `outer_kind`.
        stream: The packed bytes.
        name: For messages.
        salvage: Go in small steps: all but the last kilobyte of packed bytes before damage comes out.

    Raises:
        CorruptStream: They do not unpack.
        TruncatedStream: The compressed file ends early.
    """
    try:
        if kind == "lzop":
            yield from _unpack_lzop(stream, name)
        else:
            step = _IN_SALVAGE if salvage else _IN
            yield from _unpack_members(_DECODERS[kind], stream, kind, name, step)
    except DumpError:
        raise
    except Exception as error:  # each library has its own error class
        raise CorruptStream(f"{kind} data does not unpack: {error}", path=name) from error


class _Deflate:
    # zlib's decoder with the interface of bz2's and lzma's: bounded output, `needs_input`.

    def __init__(self, wbits: int) -> None:
        self._decoder = zlib.decompressobj(wbits=wbits)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._decoder.decompress(self._decoder.unconsumed_tail + data, max_length)

    @property
    def needs_input(self) -> bool:
        return not self._decoder.unconsumed_tail

    @property
    def eof(self) -> bool:
        return self._decoder.eof

    @property
    def unused_data(self) -> bytes:
        return self._decoder.unused_data


def _gzip() -> Any:
    return _Deflate(31)


def _zlib() -> Any:
    return _Deflate(15)


def _xz() -> Any:
    import lzma

    return lzma.LZMADecompressor(memlimit=256 << 20)


def _bzip2() -> Any:
    import bz2

    return bz2.BZ2Decompressor()


def _lz4() -> Any:
    import lz4.frame

    return lz4.frame.LZ4FrameDecompressor()


class _Zstd:
    # The same over zstandard's decoder, which has no bound: it gets 1 KiB at a time, which makes 32 MiB at worst.

    def __init__(self) -> None:
        import zstandard

        self._decoder = zstandard.ZstdDecompressor(max_window_size=1 << 28).decompressobj()
        self._pending = memoryview(b"")

    def decompress(self, data: bytes, max_length: int) -> bytes:
        if data:  # comes only when nothing is pending
            self._pending = memoryview(data)
        piece, self._pending = self._pending[:1024], self._pending[1024:]
        return self._decoder.decompress(piece)

    @property
    def needs_input(self) -> bool:
        return not len(self._pending)

    @property
    def eof(self) -> bool:
        return self._decoder.eof

    @property
    def unused_data(self) -> bytes:
        return self._decoder.unused_data + bytes(self._pending)


_DECODERS: dict[str, Callable[[], Any]] = {
    "gzip": _gzip,
    "xz": _xz,
    "bzip2": _bzip2,
    "zstd": _Zstd,
    "lz4": _lz4,
    "zlib": _zlib,
}


def _unpack_members(make: Callable[[], Any], stream: PackedStream, kind: str, name: str, step: int) -> Iterator[bytes]:
    # Compressed files may be joined end to end; each member is whole. Output comes in bounded chunks: a bomb of
    # zeros costs time, not memory.
    decoder: Any = None
    data = b""
    while True:
        if not data and (decoder is None or decoder.needs_input):
            data = stream.read(step)
            if not data:
                break
        if decoder is None:
            if not data.strip(b"\0"):
                data = b""  # padding behind the last member
                continue
            decoder = make()
        chunk = decoder.decompress(data, _OUT)
        data = b""
        if chunk:
            yield chunk
        if decoder.eof:
            data, decoder = decoder.unused_data or b"", None
    if decoder is not None:
        raise TruncatedStream(f"{kind} data ends early: the compressed file is cut off", path=name)


def _unpack_lzop(stream: PackedStream, name: str) -> Iterator[bytes]:
    # lzop's container: header, then blocks of (size, packed size, checksums, LZO1X data). Source: lzop's manual
    # page and file(1)'s magic; fields by trial against lzop 1.04.
    flags = _lzop_header(stream, name)
    sums = [4 * bool(flags & bit) for bit in (0x1, 0x100)], [4 * bool(flags & bit) for bit in (0x2, 0x200)]
    while True:
        (size,) = struct.unpack(">I", _exactly(stream, 4, name))
        if size == 0:
            return
        (packed,) = struct.unpack(">I", _exactly(stream, 4, name))
        if size > 64 << 20 or packed > size:
            raise CorruptStream(f"lzop block of {packed} packed and {size} bytes", path=name)
        adler = _exactly(stream, sum(sums[0]), name)
        if packed < size:
            _exactly(stream, sum(sums[1]), name)
        data = _exactly(stream, packed, name)
        block = _lzo_block(data, size) if packed < size else data
        if len(block) != size:
            raise CorruptStream(f"lzop block unpacks to {len(block)} bytes, not {size}", path=name)
        if flags & 0x1 and zlib.adler32(block) != int.from_bytes(adler[:4], "big"):
            raise CorruptStream("lzop block has a wrong checksum", path=name)
        yield block


def _lzo_block(data: bytes, size: int) -> bytes:
    from .codecs import LZO, decode_page

    return decode_page(LZO, data, size)


def _lzop_header(stream: PackedStream, name: str) -> int:
    _exactly(stream, 9, name)
    version, _, needed = struct.unpack(">HHH", _exactly(stream, 6, name))
    if version < 0x0940 or needed > 0x1050:
        raise CorruptStream(f"lzop version {version:#x}", path=name)
    _exactly(stream, 2, name)  # method, level
    (flags,) = struct.unpack(">I", _exactly(stream, 4, name))
    if flags & 0x800:
        _exactly(stream, 4, name)  # filter
    _exactly(stream, 12, name)  # mode, modification time low and high
    length = _exactly(stream, 1, name)[0]
    _exactly(stream, length + 4, name)  # file name, header checksum
    if flags & 0x40:
        (extra,) = struct.unpack(">I", _exactly(stream, 4, name))
        _exactly(stream, min(extra, 1 << 20) + 4, name)
    return int(flags)


def _exactly(stream: PackedStream, size: int, name: str) -> bytes:
    data = b""
    while len(data) < size:
        part = stream.read(size - len(data))
        if not part:
            raise TruncatedStream("lzop data ends early: the compressed file is cut off", path=name)
        data += part
    return data
