# SPDX-License-Identifier: GPL-2.0-or-later
"""The corpus of mcore files: one small file per hazard of the sheet's Traps and Bad input."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any

from . import patterns
from .build_mcore import McoreSpec, build, unit_v2
from .corpus_case import Case

I386, ALPHA = 0xC0000000, 0xFFFFFC0000000000
PAGES = patterns.pages(1, 4) | patterns.pages(16, 20)
UNITS = [[1, 2, 3], [16, 17, 18, 19]]


def spec(**more: Any) -> McoreSpec:
    return McoreSpec(**({"pages": PAGES, "units": UNITS, "bits": 32, "base": I386} | more))


def v1(**more: Any) -> McoreSpec:
    pages = patterns.pages(0, 16)
    return McoreSpec(**({"pages": pages, "version": 1, "bits": 32, "base": I386} | more))


def good(name: str, hazard: str, described: McoreSpec, pages: dict[int, bytes] | None = None, **more: Any) -> Case:
    values: dict[str, Any] = {"pages": described.pages if pages is None else pages} | more
    values |= {"bits": described.bits, "order": described.order, "page_size": described.blk_size}
    return Case("mcore", name, hazard, [build(described)], **values)


def refused(name: str, hazard: str, data: bytes, exit_code: int = 3) -> Case:
    return Case("mcore", name, hazard, [data], refused=True, exit_code=exit_code)


def cases() -> Iterator[Case]:
    yield from _v2()
    yield from _v2_damage()
    yield from _v2_refused()
    yield from _v1()
    yield from _v1_bad()


def _v2() -> Iterator[Case]:
    yield good("v2-32", "i386", spec())
    yield good("v2-64", "alpha: pages of 8 KiB", spec(bits=64, base=ALPHA, blk_size=8192, pages=_sized(8192)))
    x86 = {"machine": "x86_64"}
    yield good("v2-64-x86", "64 bits, another base: the machine must be given", spec(bits=64, base=0xFFFF888000000000),
               options=x86)  # fmt: skip
    yield good("v2-32-big", "32 bits, big-endian", spec(order=">"), options={"machine": "ppc"})
    yield good("v2-64-big", "64 bits, big-endian", spec(bits=64, order=">", base=0xC000000000000000),
               options={"machine": "ppc64"})  # fmt: skip
    yield good("v2-magic-tail", "magic[1] is not zero: only 32 bits can be", spec(magic_tail=(5, 6, 7)))
    yield good("v2-full-units", "units padded to 128 pages", spec(full=True))
    many = {pfn: patterns.page(pfn, kind="byte") for pfn in range(0, 300)}
    yield good("v2-three-units", "128 pages a unit, no end in a full list", spec(pages=many, units=None))
    small = spec(bits=64, base=0xFFFF888000000000, blk_size=1024, pages=_sized(1024))
    yield good("v2-1024", "blocks of 1 KiB: the list of pages takes two", small, options=x86)
    crowd = {pfn: patterns.page(pfn, kind="byte") for pfn in range(2, 402, 2)}
    yield good("v2-map-of-two-blocks", "64-bit entries that straddle a block",
               spec(bits=64, base=0xFFFF888000000000, blk_size=1024,
                    pages={pfn: page[:1024] for pfn, page in list(crowd.items())[:50]},
                    units=[[pfn] for pfn in list(crowd)[:50]]), options=x86)  # fmt: skip
    data = build(spec())
    yield Case("mcore", "v2-unpadded", "the last unit's padding is not there", [data.rstrip(b"\0") + b""], pages=PAGES,
               bits=32)  # fmt: skip
    yield good(
        "v2-exp-data", "an address of the dead kernel in the map: not used", spec(entries={1: {"exp_data": 0xC1234567}})
    )


def _sized(size: int) -> dict[int, bytes]:
    return patterns.pages(1, 4, size) | patterns.pages(16, 20, size)


def _v2_damage() -> Iterator[Case]:
    plain = unit_v2(spec(), UNITS[1])
    low = patterns.pages(1, 4)
    stored = bytearray(zlib.compress(plain))
    stored[-2] ^= 1
    yield good("v2-adler", "a unit whose checksum is wrong", spec(stored={1: bytes(stored)}), low,
               damaged=range(16, 20), exit_code=3)  # fmt: skip
    yield good("v2-no-zlib", "a unit that is no zlib stream: which pages it had is not known",
               spec(stored={0: b"\xee" * 500}), patterns.pages(16, 20), damaged=range(0, 16), exit_code=3)  # fmt: skip
    yield good("v2-short-unit", "more pages listed than are there", spec(stored={1: zlib.compress(plain[:-5000])}),
               low | patterns.pages(16, 18), damaged=[18, 19], exit_code=3)  # fmt: skip
    yield good("v2-bomb", "a unit of more than 128 pages", spec(stored={1: zlib.compress(plain + bytes(1 << 20))}), low,
               damaged=range(16, 20), exit_code=3)  # fmt: skip
    data = build(spec())
    yield Case("mcore", "v2-cut", "the file ends inside a unit", [data[: len(data.rstrip(b"\0")) - 30]], pages=low,
               lost=range(16, 144), exit_code=3, bits=32)  # fmt: skip
    yield good("v2-unit-outside", "a unit beyond the end of the file", spec(entries={1: {"start_blk": 1 << 20}}), low,
               lost=range(16, 144), exit_code=3)  # fmt: skip


def _v2_refused() -> Iterator[Case]:
    yield refused("v2-blk-size-zero", "blk_size 0: no block can be read", build(spec(fields={"blk_size": 0})), 6)
    yield refused("v2-map-outside", "the map beyond the file", build(spec(fields={"map_block": 1 << 20})))
    yield refused("v2-map-blocks-huge", "2^31 - 1 blocks of map", build(spec(fields={"map_blocks": 0x7FFFFFFF})))
    yield refused("v2-map-blocks-negative", "a negative number of blocks", build(spec(fields={"map_blocks": -1})))
    yield refused("v2-empty-map", "the map's first entry ends it", build(spec(entries={0: {"start_va": 0}})))
    tiny = {pfn: bytes([pfn]) * 1024 for pfn in range(1, 65)}
    endless = spec(terminate=False, blk_size=1024, pages=tiny, units=[[pfn] for pfn in tiny])
    yield refused("v2-map-endless", "entries fill the map's blocks, none ends it", build(endless)[:50000])
    yield refused("v2-not-ascending", "map entries out of order", build(spec(entries={1: {"start_va": I386}})))
    yield refused("v2-units-overlap", "two entries of the same blocks", build(spec(entries={1: {"start_blk": 2}})))
    yield refused("v2-unit-in-map", "a unit in the map's block", build(spec(entries={1: {"start_blk": 1}})))
    yield refused("v2-num-blks-negative", "a negative length", build(spec(entries={1: {"num_blks": -1}})))
    backwards = [I386 + pfn * 4096 for pfn in (19, 18, 17, 16)]
    yield refused("v2-list-backwards", "a list of pages that descends", build(spec(listed={1: backwards})))
    twice = [I386 + pfn * 4096 for pfn in (16, 17, 17, 18)]
    yield refused("v2-list-twice", "a list that names a page twice", build(spec(listed={1: twice})))
    odd = [I386 + 16 * 4096 + 1, I386 + 17 * 4096]
    yield refused("v2-list-odd", "an address inside a page", build(spec(listed={1: odd})))
    beyond = [I386 + pfn * 4096 for pfn in (1, 2, 17)]
    yield refused("v2-list-beyond", "an address of the next unit's range", build(spec(listed={0: beyond})))


def _v1() -> Iterator[Case]:
    yield good("v1-32", "i386", v1())
    yield good("v1-64", "alpha", v1(bits=64, base=ALPHA, blk_size=8192, pages=patterns.pages(0, 16, 8192)))
    yield good("v1-32-big", "32 bits, big-endian", v1(order=">"), options={"machine": "ppc"})
    yield good("v1-two-headers", "two swap devices, each with a header", v1(header_blocks=(1, 2)))
    yield good("v1-not-dumped", "memory that had no room: incomplete", v1(fields={"bytes_not_dumped": 4096}),
               incomplete=True, exit_code=4)  # fmt: skip


def _v1_bad() -> Iterator[Case]:
    whole = b"".join(v1().pages[pfn] for pfn in range(4, 8))
    yield good("v1-short-unit", "a unit of less than va_per_entry", v1(stored={1: zlib.compress(whole[:-1])}),
               patterns.pages(0, 4) | patterns.pages(8, 16), damaged=range(4, 8), exit_code=3)  # fmt: skip
    data = build(v1())
    yield Case("mcore", "v1-cut", "the file ends inside the last unit", [data[: len(data.rstrip(b"\0")) - 10]],
               pages=patterns.pages(0, 12), lost=range(12, 16), exit_code=3, bits=32)  # fmt: skip
    yield refused("v1-list-endless", "a list of headers without end", build(v1(list_tail=False)))
    yield refused("v1-unit-before-the-file", "start_blk below 100", build(v1(entries={1: {"start_blk": 20}})))
    yield refused(
        "v1-unit-shared", "two entries of the same unit: a bomb", build(v1(entries={1: {"start_blk": 103 - 1}}))
    )
    yield refused("v1-map-outside", "more entries than the file has", build(v1(fields={"map_entries": 1 << 20})))
    yield refused("v1-va-per-entry-zero", "division by zero elsewhere", build(v1(fields={"va_per_entry": 0})), 6)
    yield refused("v1-va-per-entry-huge", "units of 2 GiB", build(v1(fields={"va_per_entry": 1 << 31})), 6)
    second = bytearray(build(v1(header_blocks=(1, 2))))
    struct.pack_into("<i", second, 4, 3)
    yield refused("v1-second-is-none", "the list's second header is none", bytes(second))
