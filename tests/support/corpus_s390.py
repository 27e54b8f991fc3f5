# SPDX-License-Identifier: GPL-2.0-or-later
"""The corpus of s390 stand-alone dumps: one small file per hazard of the sheet's Traps and Bad input."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from . import patterns
from .build_s390 import (
    END,
    MAGIC,
    PAGE,
    TOD,
    Cpu,
    S390Spec,
    Segment,
    build,
    build_volumes,
    pack_header,
    store_status,
    unused_volume,
)
from .corpus_case import Case

PREFIX = 0x4000


def base(arch: int = 2, **more: Any) -> S390Spec:
    """Twelve pages: text, a lowcore with registers at PREFIX, noise, zeros."""
    lowcore = store_status(PREFIX, Cpu() if arch == 2 else Cpu(psw=(0x070C0000, 0x80012345)), arch)
    pages = patterns.pages(0, 4) | {8: patterns.page(8, kind="random"), 9: patterns.page(9, kind="mixed")}
    pages |= {PREFIX // PAGE + index: lowcore[index * PAGE :][:PAGE] for index in range(len(lowcore) // PAGE)}
    values: dict[str, Any] = {"pages": pages, "arch": arch, "prefixes": (PREFIX,)}
    return S390Spec(**(values | more))


def extended(**more: Any) -> S390Spec:
    """Stored, zlib and mixed segments with a hole between them and one behind."""
    segments = (Segment(0, 2), Segment(2, 6, packed=True), Segment(8, 10, packed=True, as_is=(0,)))
    return base(**({"segments": segments, "entry_size": 8192} | more))


def case(name: str, hazard: str, spec: S390Spec, *, lost: Iterable[int] = (), damaged: Iterable[int] = (),
         data: bytes | None = None, size: int | None = None, **more: Any) -> Case:  # fmt: skip
    """A dump whose pages are all there but those lost and damaged."""
    lost, damaged = set(lost), set(damaged)
    values: dict[str, Any] = {
        "pages": {pfn: page for pfn, page in spec.all_pages.items() if pfn not in lost | damaged},
        "lost": lost,
        "damaged": damaged,
        "bits": 32 if spec.arch == 1 else 64,
        "order": ">",
    }
    data = build(spec) if data is None else data
    return Case("s390", name, hazard, [data[:size]], **(values | more))


def bad(name: str, hazard: str, spec: S390Spec, **more: Any) -> Case:
    return case(name, hazard, spec, **({"exit_code": 3} | more))


def refused(name: str, hazard: str, spec: S390Spec | bytes, exit_code: int = 3) -> Case:
    data = spec if isinstance(spec, bytes) else build(spec)
    return Case("s390", name, hazard, [data], refused=True, exit_code=exit_code)


def cases() -> Iterator[Case]:
    yield from _plain()
    yield from _extended()
    yield from _tape()
    yield from _headers()
    yield from _ends()
    yield from _bad_segments()
    yield from _bad_entries()
    yield from _not_dumps()
    yield from _volumes()


def _plain() -> Iterator[Case]:
    for version in (1, 2, 3, 4, 5, 6):
        yield case(f"plain-{version}", f"plain, header version {version}", base(version=version))
    yield case("plain-31", "31 bits: lowcore of one page", base(1))
    yield case("plain-31-of-64", "a 31-bit dump of a 64-bit tool", base(1, header={"build_arch": 2}))
    yield case("build-arch-0", "build_arch 0, as zgetdump writes it", base(header={"build_arch": 0}))
    yield case("mem-end-last", "mem_end is the last byte", base(header={"mem_end": 12 * PAGE - 1}))
    yield case("partition", "a partition image with other bytes behind the dump", base(trailing=b"\xa5" * 5000))
    yield case("cpu-offline", "prefix 0 is a CPU that was offline", base(prefixes=(0, PREFIX)))
    yield case("cpu-outside", "a lowcore that is not in the dump", base(prefixes=(PREFIX, 12 * PAGE)))
    yield case("cpu-odd", "a prefix inside a page", base(prefixes=(PREFIX + 8,)))
    yield case("cpu-count-of-old-version", "version 4 has no CPU vector", base(version=4, header={"cpu_cnt": 0xFFFF}))
    yield case("size-limit", "less than the machine has was asked for", base(header={"mem_size_real": 20 * PAGE}),
               excluded=[(12, 20)])  # fmt: skip
    yield case("size-real-0", "mem_size_real is not given", base(header={"mem_size_real": 0}))


def _extended() -> Iterator[Case]:
    yield case("ext", "stored and zlib segments, gaps that are zeros", extended())
    yield case("ext-1", "version 1: nothing compressed", extended(version=1, segments=[Segment(0, 6), Segment(8, 10)]))
    yield case("ext-512", "blocks of 512 bytes", extended(block_size=512))
    yield case("ext-one-segment", "one segment, no gap", extended(segments=[Segment(0, 12)]))
    yield case("ext-31", "31 bits, extended", extended(arch=1, pages=base(1).pages))
    yield case("ext-zlib-flag-alone", "the zlib flag without a compressed segment", extended(segments=[Segment(0, 10)]))
    yield case("ext-not-compressed", "zlib_version 0: the segments decide", extended(header={"zlib_version_s390": 0}))
    yield case("ext-all-zero", "nothing but zeros: one empty segment", extended(pages={}, segments=[Segment(0, 0)]))
    yield case("ext-first-gap", "the storage begins with zeros",
               extended(pages={5: patterns.page(5)}, segments=[Segment(4, 8)], prefixes=()))  # fmt: skip
    yield case("ext-short-entry", "the last entry is shorter", extended(segments=[Segment(0, 9, packed=True)],
               pages={pfn: page for pfn, page in base().pages.items() if pfn < 9}))  # fmt: skip
    yield case("ext-lowcore-in-zlib", "registers inside a compressed segment",
               extended(segments=[Segment(0, 10, packed=True)]))  # fmt: skip


def _tape() -> Iterator[Case]:
    yield case("tape", "extended magic, plain body", base(tape=True))
    yield case("tape-short-marker", "an end marker of 8 bytes, without a time", base(tape=True, end=END))
    yield case("tape-zero-first-page", "a first page of zeros is no segment",
               base(tape=True, pages={pfn: page for pfn, page in base().pages.items() if pfn}))  # fmt: skip
    yield case("tape-zlib-flag", "a tape tool sets the zlib flag", base(tape=True, header={"zlib_version_s390": 1,
               "zlib_entry_size": 1 << 20}))  # fmt: skip
    yield case("tape-plain-magic", "an old tape: plain magic", base(version=3))


def _headers() -> Iterator[Case]:
    header = {
        "hdr-size": {"hdr_size": 8192}, "page-size": {"page_size": 65536}, "version-0": {"version": 0},
        "mem-start": {"mem_start": PAGE}, "mem-size-odd": {"mem_size": 12 * PAGE + 8}, "mem-size-0": {"mem_size": 0},
        "mem-size-huge": {"mem_size": 1 << 63}, "num-pages": {"num_pages": 13}, "num-pages-0": {"num_pages": 0},
        "mem-size-real-small": {"mem_size_real": PAGE},
    }  # fmt: skip
    for name, fields in header.items():
        yield refused(f"header-{name}", f"{name} cannot be", base(header=fields))
    yield refused("header-arch", "arch 3", base(header={"arch": 3}), 6)
    yield refused("header-cpu-cnt", "more CPUs than the vector has", base(header={"cpu_cnt": 513}), 6)
    yield refused("header-cut", "the file ends in the header", build(base())[:100])
    lost = range(12, 1 << 10)
    small = {"mem_size": PAGE << 10, "num_pages": 1 << 10, "mem_size_real": PAGE << 10}
    data = build(base(header=small))[: 13 * PAGE]
    yield bad("mem-size-more", "mem_size of more than the file has", base(), data=data, lost=lost, incomplete=True,
              pages=base().all_pages)  # fmt: skip


def _ends() -> Iterator[Case]:
    whole = build(base())
    yield bad("end-missing", "the dump tool did not finish", base(end=bytes(16)), incomplete=True)
    yield bad("end-older", "the end marker of an earlier dump", base(end=END + struct.pack(">Q", TOD - 1)),
              incomplete=True)  # fmt: skip
    yield case("end-same-time", "equal times: zgetdump writes zeros", base(tod=0, end=END + bytes(8)))
    yield bad("end-cut", "the file ends behind the storage", base(), size=13 * PAGE, incomplete=True)
    yield bad("end-half", "the file ends inside the marker", base(), size=len(whole) - 4, incomplete=True)
    yield bad("cut-at-a-page", "the file ends at a page", base(), size=9 * PAGE, lost=range(8, 12), incomplete=True)
    yield bad("cut-in-a-page", "the file ends in a page", base(), size=9 * PAGE + 77, lost=range(8, 12),
              incomplete=True)  # fmt: skip
    yield bad("ext-end-missing", "no marker behind the last segment", extended(end=bytes(16)), incomplete=True)
    data = build(extended())
    last = data.index(struct.pack(">QQ", 8 * PAGE, 2 * PAGE))
    yield bad("ext-cut-header", "the file ends in a segment header", extended(), size=last + 100, lost=range(6, 12))
    yield bad("ext-cut-entry", "the file ends in an entry that is stored", extended(), size=last + PAGE + PAGE + 5,
              lost=[9], incomplete=True)  # fmt: skip
    first = data.index(struct.pack(">QQ", 2 * PAGE, 4 * PAGE))
    yield bad("ext-cut-zlib", "the file ends in a zlib entry", extended(), size=first + 2 * PAGE + 5,
              lost=range(4, 12))  # fmt: skip
    stored = extended(segments=[Segment(0, 4), Segment(4, 10)])
    yield bad(
        "ext-cut-stored",
        "the file ends in a stored segment",
        stored,
        size=PAGE * 9 + 9,
        lost=range(6, 10),
        incomplete=True,
    )


def _bad_segments() -> Iterator[Case]:
    def second(**fields: int) -> S390Spec:
        return extended(segments=[Segment(0, 2), Segment(2, 6, fields=fields), Segment(8, 10)])

    rest = range(2, 12)
    for name, fields in {
        "below": {"start": PAGE}, "beyond": {"len": 11 * PAGE}, "overflow": {"len": (1 << 64) - 2 * PAGE},
        "start-huge": {"start": (1 << 64) - PAGE}, "start-odd": {"start": 2 * PAGE + 1}, "len-odd": {"len": 100},
        "empty": {"len": 0},
    }.items():  # fmt: skip
        yield bad(f"segment-{name}", f"a segment whose place cannot be: {name}", second(**fields), lost=rest)
    no_stop = extended(segments=[Segment(0, 2), Segment(2, 10, fields={"stop": 0})])
    yield bad("no-stop-marker", "the last segment does not say so", no_stop, lost=range(10, 12),
              data=build(no_stop)[:-16])  # fmt: skip
    yield bad("no-stop-but-end", "an end marker where a segment should be", no_stop, lost=range(10, 12))
    early = extended(segments=[Segment(0, 2, fields={"stop": 1}), Segment(2, 10)])
    pages = {pfn: early.pages.get(pfn, bytes(PAGE)) if pfn < 2 else bytes(PAGE) for pfn in range(12)}
    yield bad("stop-early", "a stop marker before the last segment", early, pages=pages, incomplete=True)


def _bad_entries() -> Iterator[Case]:
    def packed(**more: Any) -> S390Spec:
        return extended(segments=[Segment(0, 2), Segment(2, 10, packed=True, **more)])

    for name, fields in {
        "count-huge": {"entry_count": 1 << 31}, "count-1012": {"entry_count": 1012}, "count-0": {"entry_count": 0},
        "count-less": {"entry_count": 3},
    }.items():  # fmt: skip
        yield bad(f"entry-{name}", f"entry_count is not what the segment needs: {name}", packed(fields=fields),
                  lost=range(2, 12))  # fmt: skip
    for size in (0, 1024, 12288, 1 << 25, 0xFFFFFFFF):
        header = {"zlib_entry_size": size}
        yield bad(f"entry-size-{size}", f"entries of {size} bytes", replace(packed(), header=header), lost=range(2, 12))
    yield bad("entry-beyond", "an entry behind its segment", packed(entries={3: 100}), damaged=[6, 7, 8, 9])
    yield bad("entry-descends", "an entry before the one before", packed(entries={2: 0}), damaged=[4, 5, 6, 7])
    yield bad("entry-first", "the first entry is not at the start", packed(entries={0: 1}), damaged=[2, 3, 4, 5])
    bomb = zlib.compress(bytes(1 << 20), 9)
    yield bad("zlib-bomb", "an entry that decodes to a MiB", packed(payloads={1: bomb}), damaged=[4, 5])
    yield bad("zlib-short", "an entry that decodes to too little", packed(payloads={1: zlib.compress(bytes(4096))}),
              damaged=[4, 5])  # fmt: skip
    broken = bytearray(zlib.compress(patterns.page(1, 8192)))
    broken[-1] ^= 1
    yield bad("zlib-checksum", "an entry whose checksum is wrong", packed(payloads={1: bytes(broken)}), damaged=[4, 5])
    yield bad("ext-1-compressed", "version 1 knows no compression", replace(packed(), version=1), lost=range(2, 12))


def _not_dumps() -> Iterator[Case]:
    yield refused("zfcpdump-busy", "zfcpdump was at work", b"zfcpdump busy".ljust(8192, b"\0"), 6)
    yield refused("zfcpdump-superblock", "the superblock of a SCSI dump disk", b"ZFCPDUMP".ljust(4096, b"\0"), 6)
    yield refused("disk-eckd", "a DASD with the dump tool", bytes(0x3000) + b"XECKD64\2".ljust(4096, b"\0"), 6)
    yield refused("disk-fba", "an FBA disk with the dump tool", bytes(0x600) + b"XDFBA64\1".ljust(4096, b"\0"), 6)
    yield refused("unused-volume", "a volume prepared and not used", unused_volume()[:8192], 1)


def _volumes() -> Iterator[Case]:
    spec = base()
    volumes = build_volumes(spec, [5, 4, 3])
    plain = Case("s390", "volumes-plain", "an old multi-volume dump: one stream cut across partitions", volumes,
                 pages=spec.all_pages, order=">")  # fmt: skip
    yield plain
    yield replace(plain, name="volumes-any-order", hazard="volnr gives the order", files=volumes[::-1])
    yield replace(plain, name="volumes-unused", hazard="a prepared volume among them", files=[*volumes,
                  unused_volume(MAGIC)[:8192]])  # fmt: skip
    yield case("volume-single", "one volume of one", base(header={"mvdump": 1, "mvdump_sign": MAGIC}))
    two = [pack_header(spec, volnr=1, mvdump=1), build(base(header={"mvdump": 1}))]
    yield Case("s390", "volumes-of-two-dumps", "volumes that differ", [two[0].replace(b"\xd1\xa2", b"\xd1\xa3"),
               two[1]], refused=True, exit_code=2)  # fmt: skip
    yield Case("s390", "volumes-same-number", "one volume twice", [volumes[0], volumes[0]], refused=True, exit_code=2)
