# SPDX-License-Identifier: GPL-2.0-or-later
"""Compressed blocks of many pages as a source of their plain bytes: extents into it are raw."""

from __future__ import annotations

import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .errors import PageDecodeError
from .source import ByteSource

__all__ = ["MAX_BLOCK", "BlockDecoder", "BlockSource", "zlib_block"]

MAX_BLOCK = 1 << 26  # plain bytes of one block at most
_KEPT_BYTES = 1 << 24  # decoded blocks that a process keeps
_KEPT_FAILURES = 1024  # blocks that do not decode, remembered

# decode(stored, size) -> `size` plain bytes; ValueError says why not. Fewer: what is not there cannot be had, and the
# rest can. A module-level function, or a partial of one: it is pickled.
BlockDecoder = Callable[[bytes, int], bytes]


def zlib_block(stored: bytes, size: int) -> bytes:
    """Decode one zlib stream (RFC 1950) of exactly `size` bytes; what follows it is padding.

    Raises:
        ValueError: It is no such stream.
    """
    decoder = zlib.decompressobj()
    try:
        plain = decoder.decompress(stored, size + 1)
        if len(plain) <= size and not decoder.eof:
            plain += decoder.decompress(decoder.unconsumed_tail, 1)
    except zlib.error as error:
        raise ValueError(f"zlib: {error}") from error
    if len(plain) != size:
        raise ValueError(f"zlib: decodes to {'more than ' * (len(plain) > size)}{min(len(plain), size)} bytes")
    if not decoder.eof:
        raise ValueError("zlib: the stream ends early")
    return plain


class BlockSource(ByteSource):
    """The plain bytes of compressed blocks, one after another.

    A block is decoded when a byte of it is asked for. One that does not decode raises PageDecodeError, which the
    pipeline turns into damage of the frames concerned.

    Args:
        source: Where the stored blocks lie.
        offsets, stored_sizes: Of each block there.
        plain_sizes: Bytes that each decodes to; none is more than `MAX_BLOCK`.
        decode: See `BlockDecoder`.
    """

    def __init__(
        self,
        source: ByteSource,
        offsets: NDArray[np.uint64],
        stored_sizes: NDArray[np.uint64],
        plain_sizes: NDArray[np.uint64],
        decode: BlockDecoder,
    ) -> None:
        if len(plain_sizes) and int(plain_sizes.max()) > MAX_BLOCK:
            raise ValueError(f"block of {int(plain_sizes.max())} bytes")
        self.name = source.name
        self.notes = source.notes
        self.damage = source.damage
        self.is_stream = source.is_stream
        self._source = source
        self._offsets = offsets.astype(np.uint64)
        self._stored = stored_sizes.astype(np.uint64)
        self._plain = plain_sizes.astype(np.uint64)
        self._decode = decode
        self._starts = np.concatenate([np.zeros(1, np.uint64), np.cumsum(self._plain, dtype=np.uint64)])
        self.size = int(self._starts[-1])
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._failed: dict[int, str] = {}  # asked for page by page: each page would decode it again
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[object, ...]:
        return BlockSource, (self._source, self._offsets, self._stored, self._plain, self._decode)

    @property
    def stored(self) -> ByteSource:
        """Where the stored blocks lie."""
        return self._source

    def spool_whole(self) -> None:
        """See `ByteSource.spool_whole`."""
        self._source.spool_whole()
        self.is_stream = self._source.is_stream

    def starts(self) -> NDArray[np.uint64]:
        """Return where each block's plain bytes begin here, and the size as last value."""
        return self._starts

    def block(self, number: int) -> bytes:
        """Return one block's plain bytes.

        Raises:
            PageDecodeError: It does not decode.
            TruncatedDump, InputError: It cannot be read.
        """
        with self._lock:
            plain = self._kept.get(number)
            if plain is not None:
                self._kept.move_to_end(number)
                return plain
            failed = self._failed.get(number)
        offset, stored_size = int(self._offsets[number]), int(self._stored[number])
        if failed is not None:
            raise PageDecodeError(failed, path=self.name, offset=offset)
        stored = self._source.pread(offset, stored_size)
        try:
            plain = self._decode(stored, int(self._plain[number]))
        except ValueError as error:
            told = f"block of {stored_size} bytes: {error}"
            with self._lock:
                if len(self._failed) >= _KEPT_FAILURES:
                    self._failed.pop(next(iter(self._failed)))
                self._failed[number] = told
            raise PageDecodeError(told, path=self.name, offset=offset) from error
        with self._lock:
            self._kept[number] = plain
            while sum(map(len, self._kept.values())) > _KEPT_BYTES and len(self._kept) > 1:
                self._kept.popitem(last=False)
        return plain

    def pread_into(self, view: memoryview, offset: int) -> int:
        """See `ByteSource.pread_into`."""
        done, end = 0, min(len(view), self.size - offset)
        number = int(np.searchsorted(self._starts, np.uint64(offset), side="right")) - 1
        while done < end:
            plain = self.block(number)
            skip = offset + done - int(self._starts[number])
            wanted = min(int(self._plain[number]), skip + end - done)
            if wanted > len(plain):
                raise PageDecodeError(
                    f"block decodes to {len(plain)} bytes, {int(self._plain[number])} should be there",
                    path=self.name,
                    offset=int(self._offsets[number]),
                )
            part = memoryview(plain)[skip:wanted]
            view[done : done + len(part)] = part
            done += len(part)
            number += 1
        return max(0, done)

    def _touched(self, start_offset: int, end_offset: int) -> range:
        low = int(np.searchsorted(self._starts, np.uint64(start_offset), side="right")) - 1
        high = int(np.searchsorted(self._starts, np.uint64(end_offset), side="left"))
        return range(low, min(high, len(self._plain)))

    def ensure(self, start_offset: int, end_offset: int) -> bool:
        """See `ByteSource.ensure`."""
        return end_offset <= self.size and all(
            self._source.ensure(int(self._offsets[each]), int(self._offsets[each] + self._stored[each]))
            for each in self._touched(start_offset, end_offset)
        )

    def finish(self) -> None:
        """See `ByteSource.finish`."""
        self._source.finish()

    @property
    def elsewhere(self) -> bool:
        """See `ByteSource.elsewhere`."""
        return self._source.elsewhere

    def changed(self) -> str | None:
        """See `ByteSource.changed`."""
        return self._source.changed()

    def worker_view(self) -> ByteSource:
        """See `ByteSource.worker_view`."""
        return BlockSource(self._source.worker_view(), self._offsets, self._stored, self._plain, self._decode)
