# SPDX-License-Identifier: GPL-2.0-or-later
"""The corpus of flattened streams: one small file per hazard of the sheet's Traps and Bad input."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

from . import build_elf, build_flat, build_kdump, corpus_elf, corpus_kdump
from .build_flat import Record, flatten, split_plain
from .corpus_case import Case


def cases() -> Iterator[Case]:
    yield from _writers()
    yield from _orders()
    yield from _ends()
    yield from _bad_records()


def _kdump(**more: Any) -> build_kdump.KdumpImage:
    return build_kdump.build(corpus_kdump.base(**more))


def good(name: str, hazard: str, stream: bytes, **more: Any) -> Case:
    values: dict[str, Any] = {"pages": _kdump().pages, "excluded": corpus_kdump.EXCLUDED} | more
    return Case("flattened", name, hazard, [stream], **values)


def refused(name: str, hazard: str, stream: bytes, exit_code: int = 3) -> Case:
    return Case("flattened", name, hazard, [stream], refused=True, exit_code=exit_code)


def _writers() -> Iterator[Case]:
    image = _kdump()
    shapes: dict[str, tuple[str, Callable[..., list[Record]], dict[str, Any]]] = {
        "kdump": ("makedumpfile -c -F: notes before the sub header", build_flat.kdump_makedumpfile, {"chunk": 3}),
        "kdump-data-first": (
            "data before its descriptors",
            build_flat.kdump_makedumpfile,
            {"chunk": 2, "data_first": True},
        ),
        "kdump-qemu": ("QEMU: bitmaps block by block, data first", build_flat.kdump_qemu, {}),
        "kdump-cyclic": ("cyclic mode: bitmaps between the pages", build_flat.kdump_cyclic, {"piece": 3}),
    }
    for name, (hazard, shape, options) in shapes.items():
        yield good(name, hazard, flatten(shape(image, **options)))
    erased = _kdump(eraseinfo=b"erase x size 4\n")
    yield good("kdump-eraseinfo", "the sub header comes a second time", flatten(build_flat.kdump_makedumpfile(erased)))
    big = build_kdump.build(corpus_kdump.base("s390x"))
    yield good("kdump-big-endian", "a big-endian dump", flatten(build_flat.kdump_makedumpfile(big)), order=">")
    for name, spec in {"elf": corpus_elf.spec(), "elf-xnum": corpus_elf.spec(xnum=True)}.items():
        records = build_flat.elf_makedumpfile(build_elf.build(spec))
        yield good(
            name,
            "makedumpfile -E -F: zero program headers first",
            flatten(records),
            pages=corpus_elf.PAGES,
            excluded=(),
        )


def _orders() -> Iterator[Case]:
    data = _kdump().to_bytes()
    plain = split_plain(data, 5000)
    noise = [Record(record.offset, b"\xee" * len(record.data)) for record in plain]
    shifted = [Record(offset, b"\xdd" * 6000) for offset in range(500, len(data) - 6000, 7000)]
    yield good("plain", "ascending records", flatten(plain))
    yield good("backwards", "descending records: the first is not offset 0", flatten(plain[::-1]))
    yield good("same-offsets-twice", "equal offsets: the last write wins", flatten(noise + plain))
    yield good("partial-overlaps", "overlapping records: the last write wins", flatten(shifted + plain))
    nonzero = [record for record in split_plain(data, 512) if any(record.data)]
    tail = [Record(len(data) - 1, data[-1:])]
    yield good("gaps", "what was never written is zero", flatten(nonzero + tail))
    tiny = split_plain(data[:600], 1) + split_plain(data, 4096)
    yield good("one-byte-records", "records of one byte", flatten(tiny))


def _ends() -> Iterator[Case]:
    image = _kdump()
    records = split_plain(image.to_bytes(), 1000)
    whole = flatten(records)
    last = image.data[50]
    yield good("no-end-record", "ends at a record border, all bytes there", whole[:-16], exit_code=3)
    kept = [record for record in records if record.offset + len(record.data) <= last[0] + 1500]
    pages = {pfn: page for pfn, page in image.pages.items() if pfn != 50}
    yield good(
        "stops-at-a-border",
        "ends at a record border, a page missing",
        flatten(kept, end=b""),
        pages=pages,
        lost=[50],
        exit_code=3,
    )
    yield good("stops-inside-a-record", "ends inside a record", whole[: -16 - 1], pages=pages, lost=[50], exit_code=3)
    # The record with the page's bytes never came, but one after it did: the gap must not read as zeros.
    hole = [record for record in records if not last[0] + 100 < record.offset < last[0] + 2000]
    yield good(
        "stops-with-a-gap",
        "a page in a gap of a truncated stream is lost, not zero",
        flatten(hole, end=b""),
        pages=pages,
        lost=[50],
        exit_code=3,
    )
    yield good("bytes-after-the-end", "something follows the end record", flatten(records, trailing=b"trailing"))
    elf = build_flat.elf_makedumpfile(build_elf.build(corpus_elf.spec()))
    yield good(
        "elf-stops-early", "the real program headers never came: nothing is mapped",
        flatten(elf[:4], end=b""), pages={}, excluded=(), exit_code=3,
    )  # fmt: skip


def _bad_records() -> Iterator[Case]:
    records = split_plain(_kdump().to_bytes(), 5000)
    first, rest = records[0], records[1:]
    bad = {
        "size-zero": (Record(9000, b"", 0), "a record without bytes"),
        "size-negative": (Record(9000, b"", -5), "a negative size"),
        "offset-negative": (Record(-2, b"abc"), "a negative offset"),
        "end-overflows": (Record((1 << 63) - 2, b"abc"), "offset + size beyond 2^63"),
        "end-half": (Record(-1, b"", 5), "offset -1 with a size that is not"),
    }
    for name, (record, hazard) in bad.items():
        yield refused(name, hazard, flatten([first, record, *rest]))
    yield good(
        "size-huge",
        "a last record of 2^62 bytes",
        flatten([*records, Record(1 << 20, b"abc", 1 << 62)], end=b""),
        exit_code=3,
    )
    yield refused("type-2", "another type", flatten(records, type_=2), 6)
    yield refused("version-2", "another version", flatten(records, version=2), 6)
    yield refused("nested", "a stream in a stream", flatten(split_plain(flatten(records), 8192)), 6)
    yield refused("payload-unknown", "a stream of something else", flatten([Record(0, b"no dump at all")]), 6)
    yield refused("header-short", "the header is cut", build_flat.header()[:100])
    yield refused("sparse-bomb", "one byte at 2^62", flatten([*records, Record(1 << 62, b"x")]))
    assert struct.calcsize(">qq") == len(build_flat.END)
