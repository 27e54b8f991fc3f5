# SPDX-License-Identifier: GPL-2.0-or-later
"""Page codecs: numbers for extents, and for each a function that decodes many pages into a buffer.

The one place that checks output sizes. Every fast path is backed by a strict slow one that gives the verdict
where the fast one is not sure: the bytes of a page, or the reason why there are none.
"""

from __future__ import annotations

import threading
import zlib
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any

from .errors import CodecUnavailable
from .pages import PageState

__all__ = [
    "BAD",
    "CODEC_NAMES",
    "LZO",
    "LZO_END",
    "QUIRKS",
    "RAW",
    "REASONS",
    "REASON_CODES",
    "RLE",
    "SNAPPY",
    "ZERO",
    "ZLIB",
    "ZLIB_SLACK",
    "ZSTD",
    "decode_page",
    "lzo_decompress",
    "rle_expand",
    "set_lzo_library",
    "take_quirks",
    "zstd_decompressor",
]

RAW, ZLIB, LZO, SNAPPY, ZSTD, ZERO, RLE, ZLIB_SLACK, BAD = 0, 1, 2, 3, 4, 5, 6, 7, 255
CODEC_NAMES = {
    RAW: "raw",
    ZLIB: "zlib",
    LZO: "lzo",
    SNAPPY: "snappy",
    ZSTD: "zstd",
    ZERO: "zero",
    RLE: "rle",
    ZLIB_SLACK: "zlib",  # LKCD: bytes after the end of the stream are allowed
    BAD: "bad",
}

# Why a table entry cannot be decoded at all, and what that makes of its frame. An extent with codec BAD carries
# the index in `page_offset`.
REASONS: tuple[tuple[str, str, PageState], ...] = (
    ("past_end", "stored data [{offset:#x}, +{size}) reaches past the end of the file", PageState.LOST),
    ("raw_size", "raw page stored in {size} bytes, not in one page", PageState.DAMAGED),
    ("flags", "unknown compression flags in the page descriptor", PageState.DAMAGED),
    ("too_large", "stored size {size} is more than any codec makes of a page", PageState.DAMAGED),
    ("empty", "the page descriptor is empty: it was never written", PageState.LOST),
    ("offset", "stored data at file offset {offset:#x}, where none can be", PageState.DAMAGED),
    ("no_bytes", "page stored in no bytes at all", PageState.DAMAGED),
    ("no_descriptor", "the page descriptor lies past the end of the file", PageState.LOST),
    ("method", "compressed page, but the header names no compression method that is known", PageState.DAMAGED),
    ("message", "the dump driver could not read this page and wrote a line of text in its place", PageState.LOST),
)
REASON_CODES = {reason[0]: index for index, reason in enumerate(REASONS)}

LZO_END = b"\x11\0\0"  # the last bytes of every LZO1X block

# Pages that decoded only by a rule that no writer's kernel follows: the finding's code and its text.
QUIRKS = {
    "rle-dialect": "{count} RLE pages count a run of n bytes as n, not as n - 1 as kernels do: libkdumpfile dialect",
}
_seen = threading.local()

_lzo_choice = ""


def take_quirks() -> Counter[str]:
    """Return how many pages of each code in `QUIRKS` this thread decoded since the last call."""
    found: Counter[str] = getattr(_seen, "quirks", None) or Counter()
    _seen.quirks = Counter()
    return found


def _note_quirk(code: str) -> None:
    if getattr(_seen, "quirks", None) is None:
        _seen.quirks = Counter()
    _seen.quirks[code] += 1


def set_lzo_library(name: str) -> None:
    """Choose `lzallright` or `lzo` (python-lzo) for this process; empty: the first that is installed."""
    global _lzo_choice  # noqa: PLW0603 - a process-wide choice, for tests and benchmarks
    _lzo_choice = name
    lzo_decompress.cache_clear()


@cache
def lzo_decompress() -> Callable[[memoryview, int], bytes]:
    """Return decompress(stored, size) of the LZO library in use; `size` is a hint to it, no bound.

    Raises:
        CodecUnavailable: None is installed.
    """
    # lzallright first: faster, memory-safe, wheels everywhere (4.2 against 5.2 us a page).
    if _lzo_choice in ("", "lzallright"):
        try:
            from lzallright import LZOCompressor
        except ImportError:
            pass
        else:
            return LZOCompressor.decompress
    try:
        import lzo
    except ImportError as error:
        raise CodecUnavailable(
            "these pages are LZO and no LZO library is installed", hint="pip install lzallright"
        ) from error

    def by_python_lzo(stored: memoryview, size: int) -> bytes:
        return lzo.decompress(bytes(stored), False, size)  # type: ignore[no-any-return]

    return by_python_lzo


def _slow_zlib(stored: bytes, size: int) -> bytes:
    # libdeflate, the fast path, takes streams that zlib does not: where a Huffman code has one symbol, either bit
    # says it. The page is proved by its checksum, and the verdict must not depend on the path.
    import deflate

    try:
        return _strict_zlib(stored, size)
    except (ValueError, zlib.error):
        try:
            page = bytes(deflate.zlib_decompress(stored, size))
        except (deflate.DeflateError, ValueError):
            page = b""
        if len(page) != size or zlib.adler32(page).to_bytes(4, "big") != stored[-4:]:
            raise
        return page


def _slow_zlib_slack(stored: bytes, size: int) -> bytes:
    # as above; where the stream ends is libdeflate's to say, which has checked the sum that lies there
    import deflate

    try:
        return _strict_zlib(stored, size, slack=True)
    except (ValueError, zlib.error):
        try:
            page = bytes(deflate.zlib_decompress(stored, size))
        except (deflate.DeflateError, ValueError):
            page = b""
        if len(page) != size:
            raise
        return page


def _strict_zlib(stored: bytes, size: int, *, slack: bool = False) -> bytes:
    decoder = zlib.decompressobj()
    page = decoder.decompress(stored, size + 1)
    if len(page) <= size:
        # at exactly `size` bytes zlib may not have looked at the checksum yet
        page += decoder.decompress(decoder.unconsumed_tail, 1)
    if len(page) > size:
        raise ValueError(f"decodes to more than {size} bytes")
    if not decoder.eof:
        raise ValueError("zlib stream ends early")
    if (decoder.unused_data or decoder.unconsumed_tail) and not slack:
        raise ValueError(f"{len(decoder.unused_data)} bytes after the end of the zlib stream")
    return page


def _slow_lzo(stored: bytes, size: int) -> bytes:
    if stored[-3:] != LZO_END:
        raise ValueError("the end marker is not there")
    return lzo_decompress()(memoryview(stored), size)


def _slow_snappy(stored: bytes, size: int) -> bytes:
    import cramjam

    length = shift = 0
    for byte in stored[:5]:
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    if length != size:
        raise ValueError(f"snappy block of {length} bytes")
    page = bytearray(size)
    count = cramjam.snappy.decompress_raw_into(stored, page)
    return bytes(page[:count])


@cache
def zstd_decompressor() -> Any:
    """Return this process's zstd decompressor; a new context a page would cost twice the decoding."""
    import zstandard

    return zstandard.ZstdDecompressor(max_window_size=1 << 23)


def _slow_zstd(stored: bytes, size: int) -> bytes:
    import zstandard

    content = zstandard.frame_content_size(stored)
    if content not in (-1, size):
        raise ValueError(f"zstd frame of {content} bytes")
    page = zstd_decompressor().decompress(stored, max_output_size=size, allow_extra_data=False)
    return page  # type: ignore[no-any-return]


def rle_expand(stored: bytes, size: int, more: int = 1) -> bytes:
    """Expand a page of LKCD's RLE: 0 0 is one zero; 0 n v is v, n + `more` times; any other byte is itself.

    Args:
        stored: The whole of it.
        size: Bytes of a page.
        more: 1 as kernels write it (Linux drivers/dump/dump_rle.c of the LKCD patches), 0 as libkdumpfile reads it.

    Returns:
        At most `size` bytes.

    Raises:
        ValueError: It ends inside a run, or gives more than `size` bytes.
    """
    out, at, end = bytearray(), 0, len(stored)
    while at < end:
        zero = stored.find(0, at)
        if zero < 0:
            zero = end
        out += stored[at:zero]
        if zero < end:
            count = stored[zero + 1] if zero + 1 < end else -1
            if count < 0 or (count and zero + 2 >= end):
                raise ValueError("ends inside a run")
            out += stored[zero + 2 : zero + 3] * (count + more) if count else b"\0"
        at = zero + (3 if zero < end and count else 2)
        if len(out) > size:
            raise ValueError(f"decodes to more than {size} bytes")
    return bytes(out)


def _slow_rle(stored: bytes, size: int) -> bytes:
    try:
        return rle_expand(stored, size)
    except ValueError:
        # the lengths by the two rules differ by the number of runs: at most one of them is a page
        try:
            page = rle_expand(stored, size, 0)
        except ValueError:
            page = b""
        if len(page) != size:
            raise
        _note_quirk("rle-dialect")
        return page


def _slow_raw(stored: bytes, size: int) -> bytes:
    return stored


_SLOW: dict[int, Callable[[bytes, int], bytes]] = {
    RAW: _slow_raw,
    ZLIB: _slow_zlib,
    LZO: _slow_lzo,
    SNAPPY: _slow_snappy,
    ZSTD: _slow_zstd,
    RLE: _slow_rle,
    ZLIB_SLACK: _slow_zlib_slack,
}


def decode_page(codec: int, stored: bytes, page_size: int) -> bytes:
    """Decode one page, strictly: exactly `page_size` bytes from all of `stored`.

    Raises:
        ValueError: It does not decode to that; the message says how.
        CodecUnavailable: No library.
    """
    try:
        page = _SLOW[codec](stored, page_size)
    except (CodecUnavailable, MemoryError):
        raise
    except Exception as error:  # each library has its own error class, some plain Exception
        raise ValueError(f"{CODEC_NAMES[codec]}: {str(error) or type(error).__name__}") from error
    if len(page) != page_size:
        raise ValueError(f"{CODEC_NAMES[codec]}: decodes to {len(page)} bytes, not {page_size}")
    return page
