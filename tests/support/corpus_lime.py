# SPDX-License-Identifier: GPL-2.0-or-later
"""The corpus of LiME and AVML files: one small file per hazard of their sheets."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

from . import build_lime, patterns
from .build_lime import IDENTIFIER, Range, build, chunk, data_chunk, stream
from .corpus_case import Case

# A PC: RAM below 640 KiB and from 1 MiB on. That is what tells the machine.
PAGES = patterns.pages(1, 4) | patterns.pages(256, 260)
OTHER = b"\xee" * 4096


def memory(start_pfn: int, end_pfn: int) -> bytes:
    return b"".join(patterns.page(pfn) for pfn in range(start_pfn, end_pfn))


LOW = Range(0x1000, memory(1, 4))
HIGH = Range(0x100000, memory(256, 260))


def lime(name: str, hazard: str, data: bytes, pages: dict[int, bytes] | None = None, **more: Any) -> Case:
    return Case("lime", name, hazard, [data], pages=PAGES if pages is None else pages, **more)


def avml(name: str, hazard: str, ranges: Sequence[Range], pages: dict[int, bytes] | None = None, **more: Any) -> Case:
    data = build(ranges, avml=True)
    return Case("avml", name, hazard, [data], pages=PAGES if pages is None else pages, **more)


def refused(format: str, name: str, hazard: str, data: bytes, exit_code: int = 3) -> Case:
    return Case(format, name, hazard, [data], refused=True, exit_code=exit_code)


def cases() -> Iterator[Case]:
    yield from _lime()
    yield from _lime_orphans()
    yield from _lime_damage()
    yield from _avml()
    yield from _avml_damage()


def _lime() -> Iterator[Case]:
    plain = build([LOW, HIGH])
    yield lime("plain", "two ranges of whole pages", plain)
    end = Range(0x1000, memory(1, 4)[:0x2C00])
    pages = PAGES | {3: patterns.page(3)[:0xC00].ljust(4096, b"\0")}
    yield lime("end-inside-a-page", "a range that ends inside a page", build([end, HIGH]), pages,
               partial={3: [(0, 0xC00)]})  # fmt: skip
    halves = [Range(0x1000, memory(1, 4)[:0x1800]), Range(0x2800, memory(1, 4)[0x1800:])]
    yield lime("two-halves", "two ranges that meet inside a page", build([*halves, HIGH]))
    byte = [LOW, Range(0x100000, b"x"), Range(0x101000, memory(257, 260))]
    yield lime("one-byte", "first and last address are the same", build(byte),
               patterns.pages(1, 4) | patterns.pages(257, 260) | {256: b"x".ljust(4096, b"\0")},
               partial={256: [(0, 1)]})  # fmt: skip
    yield lime(
        "reserved",
        "reserved bytes that are not zero",
        build([Range(0x1000, memory(1, 4), fields={"reserved": 5}), HIGH]),
    )
    yield lime("unsorted", "ranges not in order", build([HIGH, LOW]))
    again = Range(0x103000, OTHER + patterns.page(260))
    yield lime("overlap", "ranges that overlap and differ: the first counts", build([LOW, HIGH, again]),
               PAGES | {260: patterns.page(260)})  # fmt: skip
    far = Range((1 << 55) + 0x1000, memory(5, 6))
    yield lime("beyond-2-53", "an address that a double does not hold", build([LOW, HIGH, far]),
               PAGES | {(1 << 43) + 1: patterns.page(5)})  # fmt: skip
    inner = build([Range(0x200000, memory(1, 2))])[:4096]
    holds = Range(0x100000, inner + memory(257, 260))
    yield lime("header-in-ram", "memory that begins with a LiME header", build([LOW, holds]),
               PAGES | {256: inner})  # fmt: skip
    packer = zlib.compressobj(9, zlib.DEFLATED, 11)
    yield lime("zlib", "all of it as one zlib stream with a window of 2^11", packer.compress(plain) + packer.flush())
    big = build([LOW, HIGH], order=">")
    yield lime("big-endian", "headers of a big-endian machine", big, order=">", options={"machine": "s390x"})


def _lime_orphans() -> Iterator[Case]:
    zero = {pfn: bytes(4096) for pfn in range(8, 10)}
    orphan = Range(0x8000, size=0x2000, orphan=True)
    yield lime("orphan", "a header with nothing behind it: a block of zeros (AVML 0.16)", build([LOW, orphan, HIGH]),
               PAGES | zero)  # fmt: skip
    last = Range(0x200000, size=0x2000, orphan=True)
    yield lime("orphan-last", "two of them, the second at the end", build([LOW, orphan, HIGH, last]),
               PAGES | zero | {pfn: bytes(4096) for pfn in (512, 513)})  # fmt: skip
    yield lime("header-only-at-the-end", "no other orphan: that is a cut file", build([LOW, HIGH, last]),
               lost=[512, 513], exit_code=3)  # fmt: skip
    over = Range(0x2000, size=0x3000, orphan=True)
    yield lime("orphan-overlaps", "zeros that are claimed over memory", build([LOW, over, HIGH]),
               PAGES | {4: bytes(4096)})  # fmt: skip


def _lime_damage() -> Iterator[Case]:
    plain = build([LOW, HIGH])
    there = {pfn: page for pfn, page in PAGES.items() if pfn < 259}
    yield lime("truncated", "the file ends inside a page", plain[:-100], there,
               lost=[259], exit_code=3)  # fmt: skip
    huge = build([LOW, Range(0x100000, memory(256, 260), size=0x8000)])
    yield lime("longer-than-the-file", "a range longer than the file", huge, lost=range(260, 264), exit_code=3)
    yield refused("lime", "header-cut", "the file ends inside a header", plain + build([LOW])[:20])
    yield refused("lime", "first-header-cut", "the file ends inside the first header", plain[:20])
    yield refused("lime", "trailing", "bytes behind the last range", plain + b"\xee" * 40)
    broken = build([LOW, Range(0x100000, memory(256, 260), fields={"magic": 0x4C694D46})])
    yield refused("lime", "chain-breaks", "no header where one must be", broken)
    yield refused(
        "lime", "version-2", "an unknown version", build([Range(0x1000, memory(1, 4), fields={"version": 2})]), 6
    )
    yield refused("lime", "inverted", "last address below the first", build([Range(0x1000, fields={"last": 0xF00})]))
    yield refused("lime", "last-all-ones", "last address 2^64 - 1: + 1 would be 0",
                  build([Range(0x1000, memory(1, 2), fields={"last": (1 << 64) - 1})]))  # fmt: skip
    yield refused("lime", "inverted-later", "the same in a later range",
                  build([LOW, Range(0x100000, fields={"last": 0xF0000})]))  # fmt: skip


def _avml() -> Iterator[Case]:
    yield avml("plain", "two blocks", [LOW, HIGH])
    stored = [Range(each.start, each.data, compress=False) for each in (LOW, HIGH)]
    yield avml("stored-chunks", "chunks that are not compressed", stored)
    small = Range(0x1000, memory(1, 4), body=stream(memory(1, 4), size=5000))
    yield avml("small-chunks", "pages that cross chunks", [small, HIGH])
    extra = chunk(0xFE, bytes(7)) + chunk(0x80, b"skip me") + IDENTIFIER
    skips = Range(0x1000, memory(1, 4), body=stream(memory(1, 4), extra=extra))
    yield avml("skippable", "padding, a skippable chunk, the identifier once more", [skips, HIGH])
    many = {pfn: patterns.page(pfn, kind="random" if pfn == 270 else "byte") for pfn in range(256, 300)}
    yield avml("several-chunks", "a block of three chunks", [LOW, Range(0x100000, b"".join(many.values()))],
               patterns.pages(1, 4) | many)  # fmt: skip
    end = Range(0x1000, memory(1, 4)[:0x2C00])
    yield avml("end-inside-a-page", "a range that ends inside a page", [end, HIGH],
               PAGES | {3: patterns.page(3)[:0xC00].ljust(4096, b"\0")}, partial={3: [(0, 0xC00)]})  # fmt: skip
    orphans = [Range(0x8000, size=0x2000, orphan=True), Range(0x200000, size=0x1000, orphan=True)]
    yield avml("orphans", "headers with nothing behind them (0.16, 0.17), one at the end",
               [LOW, orphans[0], HIGH, orphans[1]],
               PAGES | {pfn: bytes(4096) for pfn in (8, 9, 512)})  # fmt: skip
    vast = Range(0x200000, size=1 << 40, orphan=True)
    yield refused("avml", "orphan-vast", "a header of more than a block with nothing behind it: not zeros",
                  build([LOW, HIGH, vast], avml=True))  # fmt: skip
    yield avml("overlap", "blocks that overlap and differ: the first counts", [LOW, HIGH, Range(0x103000, OTHER)])


def _avml_damage() -> Iterator[Case]:
    data = memory(256, 288)
    first, second = data_chunk(data[:65536]), data_chunk(data[65536:])
    pages = patterns.pages(1, 4) | patterns.pages(256, 288)
    wrong = second[:6] + bytes([second[6] ^ 1]) + second[7:]
    half = {pfn: page for pfn, page in pages.items() if pfn < 272}
    body = IDENTIFIER + first + wrong
    yield avml("crc", "a chunk whose CRC is wrong: its pages alone are damaged",
               [LOW, Range(0x100000, data, body=body)], half,
               damaged=range(272, 288), exit_code=3)  # fmt: skip
    spoilt = first[:20] + b"\xff" * 8 + first[28:]
    body = IDENTIFIER + spoilt + second
    yield avml("chunk-spoilt", "a chunk that does not decode", [LOW, Range(0x100000, data, body=body)],
               {pfn: page for pfn, page in pages.items() if not 256 <= pfn < 272}, damaged=range(256, 272),
               exit_code=3)  # fmt: skip
    lie = first[:8] + b"\x81\x80\x02" + first[11:]  # 32769 for 65536
    body = IDENTIFIER + lie + second
    yield avml("chunk-lies", "a chunk that says another length than it has: all behind it is misplaced",
               [LOW, Range(0x100000, data, body=body)], patterns.pages(1, 4), damaged=range(256, 288),
               exit_code=3)  # fmt: skip
    thirds = [data_chunk(data[at : at + 40000]) for at in (0, 40000, 80000)] + [data_chunk(data[120000:])]
    wrong = thirds[1][:8] + b"\xc1\xb8\x02" + thirds[1][11:]  # 40001 for 40000
    less = thirds[2][:8] + b"\xbf\xb8\x02" + thirds[2][11:]  # 39999
    body = IDENTIFIER + thirds[0] + wrong + less + thirds[3]
    yield avml("chunks-lie-in-turn", "two chunks that lie so that the sum is right",
               [LOW, Range(0x100000, data, body=body)], patterns.pages(1, 4) | patterns.pages(256, 265),
               damaged=range(265, 288), exit_code=3)  # fmt: skip
    bomb = chunk(0, struct.pack("<I", 0) + b"\xff\xff\xff\xff\x0f" + b"\0" * 9)
    yield refused("avml", "chunk-bomb", "a chunk of 4 GiB",
                  build([LOW, Range(0x100000, data, body=IDENTIFIER + bomb)], avml=True))  # fmt: skip
    more = Range(0x1000, memory(1, 4), size=0x2000)
    yield refused(
        "avml", "more-than-the-range", "chunks of more bytes than the range has", build([more, HIGH], avml=True)
    )
    reserved = Range(0x1000, memory(1, 4), body=stream(memory(1, 4), extra=chunk(0x42, b"?")))
    yield refused("avml", "reserved-chunk", "a chunk type that must not be skipped", build([reserved, HIGH], avml=True))
    bare = Range(0x1000, memory(1, 4), body=stream(memory(1, 4))[10:])
    yield refused("avml", "no-identifier", "a stream without its identifier", build([bare, HIGH], avml=True))
    trailer = Range(0x1000, memory(1, 4), trailer=struct.pack("<Q", 5))
    yield refused("avml", "trailer", "the length behind the stream is another", build([trailer, HIGH], avml=True))
    plain = build([LOW, Range(0x100000, data)], avml=True)
    yield avml_cut(
        "truncated", "the file ends inside the second chunk", plain[: -len(second) - 8 + 40], half, range(272, 288)
    )
    yield avml_cut("trailer-missing", "the file ends before the last length", plain[:-8], pages, ())
    yield refused(
        "avml",
        "version-3",
        "an unknown version",
        build([Range(0x1000, memory(1, 4), fields={"version": 3})], avml=True),
        6,
    )
    yield refused(
        "avml", "inverted", "last address below the first", build([Range(0x1000, fields={"last": 0xF00})], avml=True)
    )
    v1 = build([LOW], avml=True) + build([HIGH])
    yield refused("avml", "v1-inside", "a LiME header in a file of version 2", v1)


def avml_cut(name: str, hazard: str, data: bytes, pages: dict[int, bytes], lost: Sequence[int]) -> Case:
    return Case("avml", name, hazard, [data], pages=pages, lost=lost, exit_code=3)


__all__ = ["build_lime", "cases"]
