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
    some = max(1, _RLE_BYTES // len(pages[0]))
    for first in range(0, len(pages), some):
        last = first + some
        found = _rle_some(stored, lows[first:last], highs[first:last], pages[first:last])
        doubtful += [first + index for index in found]
    return doubtful


def _rle_some(stored: memoryview, lows: list[int], highs: list[int], pages: list[memoryview]) -> list[int]:
    # All pages at once: how often each stored byte comes out, then one numpy.repeat. Two bytes that are not zero
    # follow each page: a run that its page cuts off takes them in, and nothing of the next page.
    size = len(pages[0])
    joined = _RLE_GAP.join([stored[low:high] for low, high in zip(lows, highs, strict=True)])
    joined += b"\1" * (2 + -(len(joined) + 2) % 64)
    data = np.frombuffer(joined, np.uint8)
    times = _rle_times(data)
    sizes = np.array(highs) - np.array(lows)
    ends = np.cumsum(sizes + 2) - 2
    wrong = times[ends] != 1  # ends inside a run
    times[ends] = times[ends + 1] = 0
    times[int(ends[-1]) :] = 0
    starts = ends - sizes
    wrong |= np.add.reduceat(times, starts) != size
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


def _rle_times(data: NDArray[np.uint8]) -> NDArray[np.int64]:
    # A zero byte opens a run (0 0, or 0 n v) unless the run before it took it in, as its second or third byte. So
    # among zeros that lie at most two bytes apart every other one opens a run, beginning with the first. One bit a
    # byte, 64 in a word: `spans` covers such zeros and what lies between, `odd` tells whether the number of zeros up to
    # and with a byte is odd, and adding a span's first bit to the span carries through all of it.
    zeros = np.packbits(data == 0, bitorder="little").view("<u8")
    spans = zeros | (_later(zeros, 1) & _earlier(zeros, 1))
    odd = zeros.copy()
    for shift in _DOUBLING:
        odd ^= odd << shift
    odd[1:] ^= (-np.bitwise_xor.accumulate((odd >> _TOP).view(np.int64))[:-1]).view(np.uint64)
    begin_odd = spans & ~_later(spans, 1) & odd
    begin_odd = spans & ~_sum(spans, begin_odd)  # of the spans' first bits, all of their bits
    opens = zeros & ~(begin_odd ^ odd)
    counts = _later(opens, 1) & ~zeros
    times = np.unpackbits((~(opens | counts)).view(np.uint8), bitorder="little").astype(np.uint16)
    more = np.unpackbits(counts.view(np.uint8), bitorder="little")
    more *= data
    times[1:] += more[:-1]
    return times.astype(np.int64)  # which the sums and numpy.repeat would do, each


def _later(bits: NDArray[np.uint64], places: int) -> NDArray[np.uint64]:
    moved = bits << np.uint64(places)
    moved[1:] |= bits[:-1] >> np.uint64(64 - places)
    return moved


def _earlier(bits: NDArray[np.uint64], places: int) -> NDArray[np.uint64]:
    moved = bits >> np.uint64(places)
    moved[:-1] |= bits[1:] << np.uint64(64 - places)
    return moved


def _sum(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> NDArray[np.uint64]:
    # Two long numbers, least word first. A carry goes on only through words that are all ones, which is rare.
    total = first + second
    at = np.flatnonzero(total[:-1] < first[:-1]) + 1
    while len(at):
        total[at] += np.uint64(1)
        at = at[(total[at] == 0) & (at + 1 < len(total))] + 1
    return total


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
_RLE_BYTES = 512 << 10  # of pages at a time: what is made of them stays in the cache
_RLE_GAP = b"\1\1"
_DOUBLING = [np.uint64(shift) for shift in (1, 2, 4, 8, 16, 32)]
_TOP = np.uint64(63)
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
