# SPDX-License-Identifier: GPL-2.0-or-later
"""The corpus of LKCD dumps: one small file per hazard of the sheet's Traps and Bad input."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from . import patterns
from .build_lkcd import (
    COMPRESSED,
    END,
    GZIP,
    MCLX_V0,
    MCLX_V1,
    NONE,
    RAW,
    RLE,
    SIZE,
    TRUNCATED,
    Cpu,
    LkcdSpec,
    Record,
    asm_header,
    build,
    compress,
    page_record,
    rle_encode,
    s390x_header,
)
from .corpus_case import Case

VICTIM = 5
SMALL = 4096  # where records begin: version 9 has it in the header, and the files stay small
UTS = {"sysname": "Linux", "nodename": "host", "release": "2.6.5-7.97", "version": "#1 SMP"}
MACHINES = {"i386": (32, "<", "i686"), "x86_64": (64, "<", "x86_64"), "ppc64": (64, ">", "ppc64"),
            "ia64": (64, "<", "ia64"), "s390x": (64, ">", "s390x"), "alpha": (64, "<", "alpha"),
            "arm": (32, "<", "armv7l")}  # fmt: skip


def pages(size: int = 4096) -> dict[int, bytes]:
    """Pages of all kinds: text, zeros, noise."""
    return patterns.pages(3, 9, size) | {
        9: bytes(size), 10: patterns.page(10, size, "byte"), 50: patterns.page(50, size, "random"),
        52: patterns.page(52, size, "mixed"),
    }  # fmt: skip


def base(arch: str = "x86_64", **more: Any) -> LkcdSpec:
    """A small dump of version 9, gzip."""
    bits, order, machine = MACHINES[arch]
    version = more.get("version", 9)
    size = more.get("page_size", 4096)
    values: dict[str, Any] = {
        "pages": pages(size),
        "version": version,
        "bits": bits,
        "order": order,
        "start": SMALL if version >= 9 else 65536,
        "uts": UTS | {"machine": machine},
    }
    return LkcdSpec(**(values | more))


def good(name: str, hazard: str, spec: LkcdSpec, **more: Any) -> Case:
    """A file whose every page is there, unless `more` says otherwise."""
    values: dict[str, Any] = {
        "pages": dict(spec.pages),
        "page_size": spec.page_size,
        "bits": spec.bits,
        "order": spec.order,
    }
    return Case("lkcd", name, hazard, [build(spec).to_bytes()], **(values | more))


def refused(name: str, hazard: str, spec: LkcdSpec, exit_code: int = 3) -> Case:
    return Case("lkcd", name, hazard, [build(spec).to_bytes()], refused=True, exit_code=exit_code)


def records(spec: LkcdSpec, changed: Mapping[int, Record] | None = None) -> list[Record]:
    """The records of a description's pages, some of them replaced."""
    made = [page_record(spec, pfn * spec.page_size, page) for pfn, page in spec.pages.items()]
    return [(changed or {}).get(record.address // spec.page_size, record) for record in made]


def without(*pfns: int) -> dict[int, bytes]:
    return {pfn: page for pfn, page in pages().items() if pfn not in pfns}


def cases() -> Iterator[Case]:
    yield from _versions()
    yield from _codecs()
    yield from _orders_and_copies()
    yield from _ends()
    yield from _headers()
    yield from _registers()
    yield from _odd_records()
    yield from _bad_records()
    yield from _bad_pages()
    yield from _bad_headers()


def _versions() -> Iterator[Case]:
    for version in (1, 2, 3):
        yield good(f"version-{version}-i386", f"version {version}, 32 bits, RLE", base("i386", version=version))
        yield good(f"version-{version}-x86_64", f"version {version}, 64 bits, RLE", base(version=version))
    for version in (5, 6, 7):
        yield good(f"version-{version}-i386", f"version {version}, 32 bits", base("i386", version=version))
    yield good("version-5-arm", "u64 aligned to 8 in a 32-bit header", base("arm", version=5))
    yield good("version-7-x86_64", "the struct ends with padding: 744 bytes, not 740", base(version=7))
    yield good("version-5-ppc64", "version 5, big endian", base("ppc64", version=5))
    yield good("version-8", "the first packed header", base(version=8))
    yield good("version-9", "dh_dump_buffer_size says where the pages begin", base())
    yield good("version-10", "version 10 as version 9", base(version=10))
    yield good(
        "version-10-64k", "version 10 of which the pages begin at 64 KiB whatever the buffer size",
        base(version=10, start=65536, header={"dh_dump_buffer_size": 8192}),
    )  # fmt: skip
    yield good("big-endian-s390x", "big endian, as zfcpdump writes it", base("s390x", version=8))
    yield good("big-endian-ppc64", "big endian", base("ppc64"))
    yield good("alpha", "pages of 8 KiB", base("alpha", page_size=8192))
    yield good("ia64-16k", "pages of 16 KiB", base("ia64", page_size=16384, pages=patterns.pages(3, 6, 16384)))
    yield good("live", "the magic number of a live dump", base(live=True))
    for place in (0x1000, 0x2000, 0x4000, 0x10000):
        yield good(f"partition-{place:x}", "image of a dump partition: the header is not at 0", base(base=place))


def _codecs() -> Iterator[Case]:
    for name, method in (("none", NONE), ("rle", RLE), ("gzip", GZIP)):
        yield good(f"codec-{name}", f"compression {name}", base(compress=method))
    yield good("codec-rle-big-endian", "RLE in a big-endian dump", base("ppc64", compress=RLE))
    yield good("gzip-level-9", "a zlib stream of another level", base(level=9))
    yield good("raw-though-it-shrinks", "the kernel stores its own stack raw", base(raw=frozenset({4, 5})))
    page = pages()[VICTIM]
    trailing = Record(VICTIM * 4096, compress(page, GZIP) + b"\0junk", COMPRESSED)
    spec = base()
    yield good(
        "gzip-trailing",
        "bytes after the zlib stream are allowed",
        replace(spec, records=records(spec, {VICTIM: trailing})),
    )
    spec = base(compress=RLE)
    dialect = Record(VICTIM * 4096, rle_encode(page, 0), COMPRESSED)
    zero = Record(9 * 4096, rle_encode(bytes(4096), 0), COMPRESSED)
    yield good(
        "rle-dialect", "RLE as libkdumpfile reads it: runs of n, not of n + 1",
        replace(spec, records=records(spec, {VICTIM: dialect, 9: zero})),
    )  # fmt: skip
    spec = base()
    yield good(
        "raw-without-bytes",
        "RAW of size 0 is a page of zeros",
        replace(spec, records=records(spec, {9: Record(9 * 4096)})),
    )
    long = Record(10 * 4096, b"".join(bytes([0, 0]) if not byte else bytes([byte]) for byte in bytes(4096)), COMPRESSED)
    spec = base(compress=RLE, pages=pages() | {10: bytes(4096)})
    yield good(
        "rle-longer-than-page",
        "RLE that grew: two bytes for each zero",
        replace(spec, records=records(spec, {10: long})),
    )


def _orders_and_copies() -> Iterator[Case]:
    yield good("order-shuffled", "records in any order", base(shuffle=11))
    passes = {pfn: patterns.page(pfn) for pfn in (6, 9, 40, 3, 5, 41, 1, 60)}
    yield good("order-passes", "addresses rise within a pass and start again", base(pages=passes))
    spec = base()
    made = records(spec)
    yield good("copies-equal", "a page twice", replace(spec, records=[*made, made[2]]))
    other = page_record(spec, VICTIM * 4096, patterns.page(99))
    yield good(
        "copies-differ", "a frame twice, the bytes differ: the first is kept", replace(spec, records=[*made, other])
    )
    recoded = Record(VICTIM * 4096, pages()[VICTIM], RAW)
    yield good("copies-recoded", "a page twice, once raw", replace(spec, records=[*made, recoded]))
    far = {3: patterns.page(3), 1 << 40: patterns.page(7), (1 << 32) + 3: patterns.page(8)}
    yield good("frames-beyond-32-bits", "page numbers that alias modulo 2^32", base(pages=far))


def _ends() -> Iterator[Case]:
    spec = base()
    image = build(spec)
    data, last = image.to_bytes(), image.places[-2]
    yield good("end-missing", "no END, but all pages by the header's count", base(end=None))
    yield good(
        "end-missing-count-stale", "no END, and the count of the header is another",
        base(end=None, num_pages=5), incomplete=True, exit_code=4,
    )  # fmt: skip
    yield good(
        "end-truncated", "END with TRUNCATED: the device was full",
        base(end=Record(0, flags=END | TRUNCATED)), incomplete=True, exit_code=4,
    )  # fmt: skip
    yield good("end-filled", "the last buffer is filled by 0x6d", base(tail=b"m" * 3000))
    stray = Record(70 * 4096, bytes(4096), RAW).pack("<")
    yield good("end-then-records", "what follows END means nothing", base(tail=stray + stray))
    yield good("end-counted", "the count includes END", base(num_pages=len(spec.pages) + 1))
    yield good("count-too-small", "a count that was never updated", base(num_pages=2))
    yield good("count-too-large", "END, but pages are missing", base(num_pages=40), incomplete=True, exit_code=4)
    final = image.records[-2]
    yield good(
        "end-zfcpdump",
        "the header of the last page instead of END",
        base(end=Record(final.address, size=len(final.data), flags=final.flags)),
    )
    yield good("end-vmconvert", "the last page twice, no END", base(end=final))
    yield good("end-0-4-0", "address 0, size 4, flags 0", base(end=Record(0, size=4, flags=0), tail=b"\0" * 7))
    cut: dict[str, Any] = {"incomplete": True, "exit_code": 3}
    yield Case(
        "lkcd", "cut-in-page", "the last page lacks bytes", [data[: last + 100]], pages=without(52), lost=[52], **cut
    )
    yield Case(
        "lkcd",
        "cut-after-header",
        "a record without its data",
        [data[: last + 16]],
        pages=without(52),
        lost=[52],
        **cut,
    )
    yield Case(
        "lkcd",
        "cut-in-record-header",
        "the file ends in a record's header",
        [data[: last + 7]],
        pages=without(52),
        **cut,
    )
    yield Case(
        "lkcd", "cut-between", "the file ends between two pages", [data[:last]],
        pages=without(52), incomplete=True, exit_code=4,
    )  # fmt: skip
    for name, place in {"header": 300, "version": 10, "headers": SMALL - 1}.items():
        yield Case("lkcd", f"cut-{name}", f"cut inside the {name}", [data[:place]], refused=True, exit_code=3)
    yield good("header-only", "level 1: the header and nothing else", base(pages={}, end=None))


def _headers() -> Iterator[Case]:
    strings = {name: b"x" * 65 for name in ("nodename", "domainname", "version")}
    yield good(
        "strings-unterminated", "panic string and names without NUL", base(strings=strings | {"panic": b"p" * 256}),
    )  # fmt: skip
    yield good("panic-bytes", "a panic string that is none", base(panic=b"\x01\xff\n\x1b[2J"))
    yield good("filled-after-header", "0x62 behind the header", base(fill=0x62))
    only = {"machine": "s390x"}
    yield good(
        "zfcpdump", "only the machine is named, sizes in bytes",
        base("s390x", version=8, uts=only, header={"dh_memory_start": 0, "dh_memory_end": 1 << 26}),
    )  # fmt: skip
    yield good("memory-fields", "none of the memory fields is a bound", base(header={"dh_memory_size": 0}))
    yield good(
        "mclx-v1-table", "a table behind the header, then the architecture's",
        base(version=8, modifiers=MCLX_V1, asm=asm_header("x86_64", "<", [Cpu([1] * 21)], version=2)),
    )  # fmt: skip
    yield good("polling-flag", "dh_dump_flags holds something else", base(header={"dh_dump_flags": 0xFFFFFFFF}))


def _registers() -> Iterator[Case]:
    words = {"i386": 15, "x86_64": 21, "ppc64": 44, "ia64": 44}
    for arch, count in words.items():
        cpus = [
            Cpu([100 * cpu + at for at in range(count)], 0x1000 + cpu, 0x2000 + cpu, 0x3000 + cpu)
            for cpu in range(1, 3)
        ]
        order = MACHINES[arch][1]
        asm = asm_header(arch, order, cpus, version=5, slots=3, kernel_addr=0x4000000 if arch == "ia64" else None)
        yield good(f"registers-{arch}", f"registers of {arch}, arrays longer than the CPUs", base(arch, asm=asm))
    low = bytearray(patterns.page(17))
    low[0x280:0x380] = bytes(range(256))
    with_lowcore = pages() | {16: patterns.page(16), 17: bytes(low)}
    yield good(
        "registers-s390x", "registers in the lowcore of each CPU",
        base("s390x", version=8, pages=with_lowcore, asm=s390x_header([0x10000, 0x90000])),
    )  # fmt: skip
    yield good(
        "registers-v1-i386",
        "registers in the main header",
        base("i386", version=1, regs=struct.pack("<15I", *range(15))),
    )
    short = asm_header("x86_64", "<", [Cpu([1] * 21)], version=2, size=100)
    yield good("asm-size-too-small", "dha_header_size below the fixed part", base(asm=short))
    long = asm_header("x86_64", "<", [Cpu([1] * 21)], version=2, size=0xFFFFFFFF)
    yield good("asm-size-4-gib", "dha_header_size of 4 GiB", base(asm=long))
    yield good("header-size-4-gib", "dh_header_size of 4 GiB", base(header={"dh_header_size": 0xFFFFFFFF}))


def _odd_records() -> Iterator[Case]:
    for name, more in {"none": {"compress": NONE}, "gzip": {}, "rle": {"compress": RLE}}.items():
        big = patterns.pages(3, 6, 16384, "mixed") | {7: bytes(16384)}
        small = {
            4 * pfn + part: page[4096 * part : 4096 * part + 4096] for pfn, page in big.items() for part in range(4)
        }
        spec = base("ia64", page_size=16384, pages=big, unit=4096, **more)
        yield good(f"unit-4096-{name}", "records of 4096 bytes, pages of 16384", spec, pages=small, page_size=4096)
    spec = base(version=8, modifiers=MCLX_V0)
    numbered = [
        replace(record, address=record.address // 4096, flags=record.flags | MCLX_V0) for record in records(spec)
    ]
    yield good("mclx-page-numbers", "records carry page numbers", replace(spec, records=numbered))
    mixed = [numbered[0], *records(spec)[1:]]
    yield good("mclx-mixed", "the flag counts record by record", replace(spec, records=mixed))
    first = {0: patterns.page(0)} | pages()
    spec = base("i386", version=1, pages=first)
    virtual = [replace(record, address=record.address + 0xC0000000) for record in records(spec)]
    yield good("virtual-addresses", "version 1 of i386 with kernel virtual addresses", replace(spec, records=virtual))
    spec = base("i386", version=1, pages={0xC0001: patterns.page(1), 0xC0000: patterns.page(0)})
    yield good("not-virtual", "0xc0000000 is not in the first record: an address", spec)
    spec = base()
    tested = [replace(record, flags=record.flags | 0x10) for record in records(spec)]
    yield good("flag-test-pattern", "a flag that debug builds set", replace(spec, records=tested))
    marked = [replace(record, flags=record.flags | TRUNCATED | 0x100) for record in records(spec)]
    yield good("flags-other", "other bits mean nothing", replace(spec, records=marked))
    top = pages() | {(1 << 52) - 2: patterns.page(1)}
    yield good("address-high", "the last page but one of 2^64 bytes", base(pages=top))


def _hurt(name: str, hazard: str, record: Record, **more: Any) -> Case:
    spec = base()
    data = build(replace(spec, records=records(spec, {VICTIM: record}))).to_bytes()
    values: dict[str, Any] = {"incomplete": True, "exit_code": 3}
    return Case("lkcd", name, hazard, [data], **({"pages": without(VICTIM)} | values | more))


def _bad_records() -> Iterator[Case]:
    spec = base()
    page = pages()[VICTIM]
    at = VICTIM * 4096
    packed = page_record(spec, at, page)
    known: dict[str, Any] = {"damaged": [VICTIM]}
    yield _hurt("flags-none", "neither raw nor compressed", replace(packed, flags=0), **known)
    yield _hurt("flags-both", "raw and compressed", replace(packed, flags=3), **known)
    yield _hurt("raw-short", "raw, shorter than a page", Record(at, page[:100], RAW), **known)
    yield _hurt("raw-long", "raw, longer than a page", Record(at, page + b"x", RAW), **known)
    yield _hurt("compressed-without-bytes", "compressed of size 0", Record(at, b"", COMPRESSED), **known)
    yield _hurt("size-4-gib", "a size of 4 GiB: the chain is lost", replace(packed, size=0xFFFFFFFF))
    yield _hurt(
        "size-one-less",
        "a size that leads into a page's last byte",
        replace(packed, size=len(packed.data) - 1),
        damaged=[VICTIM],
    )
    yield _hurt("size-zero", "a compressed page of size 0 that has bytes", replace(packed, size=0))
    yield _hurt("address-unaligned", "an address within a page", replace(packed, address=at + 8))
    numbered = Record((1 << 52) + 1, packed.data, COMPRESSED | MCLX_V0)
    yield _hurt("page-number-huge", "a page number beyond 2^64 bytes", numbered)
    made = records(spec)
    image = build(spec)
    hole = bytearray(image.to_bytes())
    begin, end = image.places[2], image.places[4] + 16
    hole[begin:end] = bytes(end - begin)
    yield Case(
        "lkcd", "zeros-between", "zeros over some records", [bytes(hole)],
        pages=without(5, 6, 7), incomplete=True, exit_code=3,
    )  # fmt: skip
    zeros = replace(spec, records=[], end=None, tail=bytes(8192), num_pages=3)
    yield good("zeros-only", "no record at all, zeros", zeros, pages={}, incomplete=True, exit_code=3)
    first = replace(spec, records=[replace(made[0], size=0xFFFFFFF0), *made[1:]])
    yield good(
        "first-record-bad", "the first record leads nowhere", first, pages=without(3), incomplete=True, exit_code=3
    )


def _bad_pages() -> Iterator[Case]:
    page = pages()[VICTIM]
    gzip, run = compress(page, GZIP), rle_encode(page)
    streams = {
        "gzip-truncated": (GZIP, gzip[:-3], "a zlib stream without its end"),
        "gzip-bad-adler": (GZIP, gzip[:-1] + bytes([gzip[-1] ^ 1]), "a wrong Adler-32"),
        "gzip-short": (GZIP, zlib.compress(page[:-1]), "inflates to one byte less than a page"),
        "gzip-long": (GZIP, zlib.compress(page + b"x"), "inflates to one byte more than a page"),
        "gzip-bomb": (GZIP, zlib.compress(bytes(4 << 20), 9), "inflates to 4 MiB"),
        "gzip-raw-deflate": (GZIP, gzip[2:-4], "deflate without the zlib header"),
        "gzip-is-rle": (GZIP, run, "RLE bytes where the header says gzip"),
        "rle-escape-last": (RLE, run + b"\0", "ends with an escape byte"),
        "rle-run-cut": (RLE, run[:-1] + b"\0\5", "ends inside a run"),
        "rle-short": (RLE, rle_encode(page[:-1]), "one byte less than a page"),
        "rle-long": (RLE, rle_encode(page + b"x"), "one byte more than a page"),
        "rle-overrun": (RLE, run + b"\0\xffA", "a run that leaves the page"),
        "rle-is-gzip": (RLE, gzip, "a zlib stream where the header says RLE"),
        "method-none": (NONE, gzip, "a compressed page where the header names no method"),
        "method-unknown": (7, gzip, "a compressed page by a method that nobody knows"),
    }
    for name, (method, stored, hazard) in streams.items():
        spec = (
            base(compress=method) if method in (RLE, GZIP) else base(compress=NONE, header={"dh_dump_compress": method})
        )
        made = records(spec, {VICTIM: Record(VICTIM * 4096, stored, COMPRESSED)})
        yield good(name, hazard, replace(spec, records=made), pages=without(VICTIM), damaged=[VICTIM], exit_code=3)


def _bad_headers() -> Iterator[Case]:
    for version in (0, 4, 11):
        spec = base(header={"dh_version": version})
        yield refused(f"version-{version}-unknown", f"version {version}", spec, exit_code=6)
    for size in (0, 1, 512, 4095, 12288, 1 << 19, 1 << 31):
        yield refused(f"page-size-{size}", f"a page size of {size}", base(header={"dh_page_size": size}))
    yield refused(
        "machine-unknown", "no machine that means anything", base(uts=UTS | {"machine": "pdp11"}), exit_code=6
    )
    yield refused("machine-empty-v5", "neither word size fits", base(version=5, uts={"machine": ""}), exit_code=6)
    debug = bytearray(build(base()).to_bytes())
    debug[0x38 : SIZE[9, 0] + 8] = debug[0x30 : SIZE[9, 0]]
    debug[0x30:0x38] = bytes(8)
    yield Case("lkcd", "debug-build", "an extra field in the header", [bytes(debug)], refused=True, exit_code=6)
    for name, size in {"zero": 0, "in-header": 700, "past-end": 1 << 30, "max": (1 << 64) - 1}.items():
        spec = base(header={"dh_dump_buffer_size": size})
        yield refused(f"buffer-size-{name}", f"pages that begin at {size:#x}", spec)
    yield good(
        "buffer-size-wrong", "an impossible dh_dump_buffer_size, and the pages at 64 KiB",
        base(start=65536, header={"dh_dump_buffer_size": 0}), exit_code=3,
    )  # fmt: skip
