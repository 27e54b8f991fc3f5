# SPDX-License-Identifier: GPL-2.0-or-later
"""The decoding loops of the hot path: many pages of one codec from one buffer into rows.

Each loop is the fewest Python operations a page that its library allows; whatever goes wrong in one sends the
batch to the strict decoder of `codecs`, page by page, which gives the verdict. Tests prove both equal.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from . import codecs

__all__ = ["decode_batch", "zstd_frames_are_pages", "zstd_joined"]

# decode(stored, lows, highs, pages): decode stored[low:high] into each page; False where any is in doubt, or a
# list of doubtful indices
_Loop = Callable[[memoryview, list[int], list[int], list[memoryview]], "list[int] | None"]


def _zlib(stored: memoryview, lows: list[int], highs: list[int], pages: list[memoryview]) -> list[int] | None:
    import deflate

    decompress, size = deflate.zlib_decompress, len(pages[0])
    for low, high, page in zip(lows, highs, pages, strict=True):
        page[:] = decompress(stored[low:high], size)
    # libdeflate accepts bytes after the stream: the last four stored bytes must be the page's Adler-32
    sums = np.fromiter(map(deflate.adler32, pages), np.uint32, len(pages))
    tail = np.array(highs)[:, None] + np.arange(-4, 0)
    wanted = np.frombuffer(stored, np.uint8)[tail].copy().view(">u4").reshape(-1)
    wrong = np.flatnonzero(sums != wanted)
    return wrong.tolist() if len(wrong) else None


def _zlib_slack(stored: memoryview, lows: list[int], highs: list[int], pages: list[memoryview]) -> list[int] | None:
    import deflate

    decompress, size = deflate.zlib_decompress, len(pages[0])  # it checks the sum where the stream ends
    for low, high, page in zip(lows, highs, pages, strict=True):
        page[:] = decompress(stored[low:high], size)
    return None


def _rle(stored: memoryview, lows: list[int], highs: list[int], pages: list[memoryview]) -> list[int] | None:
    doubtful = []
    for first in range(0, len(pages), _RLE_PAGES):
        last = first + _RLE_PAGES
        found = _rle_some(stored, lows[first:last], highs[first:last], pages[first:last])
        doubtful += [first + index for index in found]
    return doubtful


def _rle_some(stored: memoryview, lows: list[int], highs: list[int], pages: list[memoryview]) -> list[int]:
    # All pages at once: how often each stored byte comes out, then one numpy.repeat.
    count, size = len(pages), len(pages[0])
    data = np.frombuffer(b"".join([stored[low:high] for low, high in zip(lows, highs, strict=True)]), np.uint8)
    ends = np.cumsum(np.array(highs) - np.array(lows))
    starts = np.concatenate([[0], ends[:-1]])
    if int((ends - starts).min()) == 0:
        return list(range(count))
    times = _rle_times(data, starts)
    if not times[ends - 1].all():  # a page that ends inside a run, which would reach into the next
        return list(range(count))
    wrong = np.add.reduceat(times, starts) != size
    doubtful: list[int] = np.flatnonzero(wrong).tolist()
    for index in doubtful:
        times[starts[index] : ends[index]] = 0
    out = memoryview(np.repeat(data, times))  # type: ignore[arg-type]
    at = 0
    for index, page in enumerate(pages):
        if not (doubtful and wrong[index]):
            page[:] = out[at : at + size]
            at += size
    return doubtful


def _rle_times(data: NDArray[np.uint8], starts: NDArray[np.int64]) -> NDArray[np.int64]:
    # A zero byte opens a run (0 0, or 0 n v) unless the run before it took it in, as its second or third byte. So
    # among zeros that lie at most two bytes apart every other one opens a run, beginning with the first.
    times = np.ones(len(data) + 2, np.int64)
    zeros = np.flatnonzero(data == 0)
    if not len(zeros):
        return times[: len(data)]
    first = np.empty(len(zeros), bool)
    np.greater(zeros[1:] - zeros[:-1], 2, out=first[1:])
    first[0] = True
    of_page = np.searchsorted(zeros, starts)
    first[of_page[of_page < len(zeros)]] = True
    odd = np.zeros(len(zeros), np.uint8)  # whether the place among all zeros is; then that of the first of its group
    odd[1::2] = 1
    group = np.flatnonzero(first)
    opens = zeros.compress(odd == np.repeat(odd.take(group), np.diff(group, append=len(zeros))))
    length = data.take(opens + 1, mode="clip")
    times[opens] = 0
    opens += 1
    runs = np.flatnonzero(length)
    place = opens.take(runs)
    times[place] = 0
    place += 1
    times[place] = length.take(runs).astype(np.int64) + 1
    return times[: len(data)]


def _lzo(stored: memoryview, lows: list[int], highs: list[int], pages: list[memoryview]) -> list[int] | None:
    decompress, size = codecs.lzo_decompress(), len(pages[0])
    for low, high, page in zip(lows, highs, pages, strict=True):
        page[:] = decompress(stored[low:high], size)
    # each library takes other bits of the end marker for unused: it must be the one that compressors write
    tail = np.array(highs)[:, None] + np.arange(-3, 0)
    wrong = np.flatnonzero((np.frombuffer(stored, np.uint8)[tail] != _LZO_END).any(axis=1))
    return wrong.tolist() if len(wrong) else None


def _snappy(stored: memoryview, lows: list[int], highs: list[int], pages: list[memoryview]) -> list[int] | None:
    import cramjam

    pieces = [stored[low:high] for low, high in zip(lows, highs, strict=True)]
    counts = list(map(cramjam.snappy.decompress_raw_into, pieces, pages))
    size = len(pages[0])
    return None if counts.count(size) == len(pages) else [i for i, count in enumerate(counts) if count != size]


def _zstd(stored: memoryview, lows: list[int], highs: list[int], pages: list[memoryview]) -> list[int] | None:
    import zstandard

    size, content = len(pages[0]), zstandard.frame_content_size
    decompress = codecs.zstd_decompressor().decompress
    for low, high, page in zip(lows, highs, pages, strict=True):
        piece = stored[low:high]
        if content(piece) != size:  # the library ignores its limit where a frame states its size
            raise ValueError("frame of another size")
        page[:] = decompress(piece, max_output_size=size, allow_extra_data=False)
    return None


_LZO_END = np.frombuffer(codecs.LZO_END, np.uint8)
_RLE_PAGES = 64  # whose bytes stay in the cache: more or fewer are slower by a tenth
_LOOPS: dict[int, _Loop] = {
    codecs.ZLIB: _zlib,
    codecs.LZO: _lzo,
    codecs.SNAPPY: _snappy,
    codecs.ZSTD: _zstd,
    codecs.RLE: _rle,
    codecs.ZLIB_SLACK: _zlib_slack,
}


@cache
def _check_available(codec: int) -> None:
    if codec == codecs.LZO:
        codecs.lzo_decompress()


def decode_batch(
    codec: int, stored: memoryview, lows: list[int], highs: list[int], pages: list[memoryview]
) -> list[int]:
    """Decode many pages.

    Args:
        codec: A compressing one.
        stored: Buffer that holds the stored bytes.
        lows, highs: Where each page's stored bytes lie in it.
        pages: Where each page goes.

    Returns:
        Indices of pages that do not decode, ascending; their rows hold anything.

    Raises:
        CodecUnavailable: No library for the codec is installed.
    """
    _check_available(codec)
    suspects: list[int] | None
    try:
        suspects = _LOOPS[codec](stored, lows, highs, pages)
    except Exception:  # every library raises a class of its own: the strict decoder judges page by page
        suspects = list(range(len(pages)))
    bad = []
    for index in suspects or ():
        try:
            pages[index][:] = codecs.decode_page(codec, bytes(stored[lows[index] : highs[index]]), len(pages[index]))
        except ValueError:
            bad.append(index)
    return bad


def zstd_frames_are_pages(
    stored: NDArray[np.uint8], places: NDArray[np.int64], sizes: NDArray[np.int64], page_size: int
) -> bool:
    """Whether each stored piece is exactly one zstd frame of one block that states one page of content.

    Source: RFC 8878, 3.1.1: magic, header descriptor 0x60 (single segment, 2-byte content size less 256, no
    checksum), content size, block header (last, type, size in 24 bits), block.
    """
    if page_size > 65536 + 255:
        return False
    expected = np.frombuffer(b"\x28\xb5\x2f\xfd\x60" + (page_size - 256).to_bytes(2, "little"), np.uint8)
    if int(sizes.min()) < len(expected) + 3:
        return False
    heads = stored[places[:, None] + np.arange(len(expected) + 3)]
    if not (heads[:, :7] == expected).all():
        return False
    block = heads[:, 7:].astype(np.int64) @ np.array([1, 1 << 8, 1 << 16])
    last, kind, size = block & 1, block >> 1 & 3, block >> 3
    stored_size = np.where(kind == 1, 1, size)  # a run-length block stores one byte
    return bool((last == 1).all() and (len(expected) + 3 + stored_size == sizes).all())


def zstd_joined(span: memoryview, out: memoryview) -> bool:
    """Decode adjacent frames in one call; False unless they fill `out` exactly."""
    import cramjam

    try:
        return int(cramjam.zstd.decompress_into(span, out)) == len(out)
    except cramjam.DecompressionError:
        return False
