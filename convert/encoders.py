# SPDX-License-Identifier: GPL-2.0-or-later
"""Encoding pages: for each codec the loop with the fewest Python operations a page. Runs in the workers.

Levels are makedumpfile's (zlib 1, LZO1X-1, zstd 1). Measured on real pages that are not zero, us a page and size:
zlib 1 91 (0.411), libdeflate 1 28 (0.425); python-lzo 7 (0.548), lzallright 64 (0.465); snappy 6.4 (0.567); zstd 1
14 (0.431), zstd 3 18 (0.421).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from ..formats import codecs
from ..formats.errors import CodecUnavailable

__all__ = ["check_encoder", "encode_pages", "lzo_library"]

_Pages = list[memoryview]


def _zlib(pages: _Pages) -> list[bytes]:
    import deflate

    compress = deflate.zlib_compress
    return [bytes(compress(page, 1)) for page in pages]


@cache
def lzo_library() -> str:
    """Return which LZO library compresses: python-lzo, nine times faster and makedumpfile's bytes, or lzallright.

    Raises:
        CodecUnavailable: Neither is installed.
    """
    for name in ("lzo", "lzallright"):
        try:
            __import__(name)
        except ImportError:
            continue
        return name
    raise CodecUnavailable("no LZO library is installed", hint="pip install python-lzo or lzallright")


@cache
def _lzo_compress() -> Callable[[memoryview], bytes]:
    if lzo_library() == "lzo":
        import lzo

        return lambda page: lzo.compress(bytes(page), 1, False)
    from lzallright import LZOCompressor

    compress = LZOCompressor().compress
    return lambda page: bytes(compress(page))


def _lzo(pages: _Pages) -> list[bytes]:
    return list(map(_lzo_compress(), pages))


def _snappy(pages: _Pages) -> list[bytes]:
    import cramjam

    compress = cramjam.snappy.compress_raw
    return [bytes(compress(page)) for page in pages]


@cache
def _zstd_compress() -> Callable[[memoryview], bytes]:
    import zstandard

    return zstandard.ZstdCompressor(level=1, write_content_size=True, write_checksum=False).compress


def _zstd(pages: _Pages) -> list[bytes]:
    return list(map(_zstd_compress(), pages))


_LOOPS: dict[int, Callable[[_Pages], list[bytes]]] = {
    codecs.ZLIB: _zlib,
    codecs.LZO: _lzo,
    codecs.SNAPPY: _snappy,
    codecs.ZSTD: _zstd,
}


def check_encoder(codec: int) -> None:
    """Find out before anything is written whether a codec's library is there.

    Raises:
        CodecUnavailable: It is not.
    """
    if codec == codecs.LZO:
        lzo_library()


def encode_pages(codec: int, pages: _Pages) -> list[bytes]:
    """Compress pages one by one; `codec` is one of `codecs.ZLIB`, `LZO`, `SNAPPY`, `ZSTD`."""
    return _LOOPS[codec](pages)
