# SPDX-License-Identifier: GPL-2.0-or-later
"""The corpus of diskdump: one small file per hazard of the sheet's Traps and Bad input."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from . import notes, patterns
from .build_diskdump import ANON, DiskdumpImage, DiskdumpSpec, build, format_block, formatted_partition, ram_frames
from .corpus_case import Case

EXCLUDED = [(20, 40)]
VICTIM = 5
REGISTERS = {"i386": 17, "x86_64": 27, "ppc64": 48, "ia64": 200}


def base(arch: str = "x86_64", **more: Any) -> DiskdumpSpec:
    """A small dump: text, zero and noise pages, an excluded run."""
    facts = notes.ARCHES[arch]
    size = more.get("page_size", 16384 if arch == "ia64" else 4096)
    pages = patterns.pages(3, 7, size) | {9: bytes(size), 50: patterns.page(50, size, "random")}
    values: dict[str, Any] = {
        "pages": pages,
        "excluded": EXCLUDED,
        "page_size": size,
        "bits": facts.bits,
        "order": facts.order,
        "registers": tuple(range(0x1000, 0x1000 + REGISTERS[arch])),
        "uts": {"sysname": "Linux", "machine": facts.uts_machine, "release": "2.6.9-test"},
    }
    return DiskdumpSpec(**(values | more))


def case(name: str, hazard: str, spec: DiskdumpSpec, *, gone: Iterable[int] = (), **more: Any) -> Case:
    """A file whose pages are all there but for those `gone`."""
    gone = set(gone)
    values: dict[str, Any] = {
        "pages": {pfn: page for pfn, page in spec.pages.items() if pfn not in gone},
        "excluded": spec.excluded,
        "page_size": spec.page_size,
        "bits": spec.bits,
        "order": spec.order,
    }
    return Case("diskdump", name, hazard, [build(spec).to_bytes()], **(values | more))


def refused(name: str, hazard: str, spec: DiskdumpSpec, exit_code: int = 3) -> Case:
    return Case("diskdump", name, hazard, [build(spec).to_bytes()], refused=True, exit_code=exit_code)


def hurt(name: str, hazard: str, *, state: str = "damaged", **more: Any) -> Case:
    """The base dump with one page that must not decode."""
    return case(name, hazard, base(**more), gone=[VICTIM], exit_code=3, **{state: [VICTIM]})


def cut(name: str, hazard: str, image: DiskdumpImage, size: int, lost: list[int], **more: Any) -> Case:
    """A dump cut to `size` bytes."""
    spec = image.spec
    pages = {pfn: page for pfn, page in spec.pages.items() if pfn not in lost}
    values: dict[str, Any] = {"pages": pages, "excluded": spec.excluded, "lost": lost, "exit_code": 3}
    return Case("diskdump", name, hazard, [image.to_bytes()[:size]], **(values | more))


def cases() -> Iterator[Case]:
    yield from _machines()
    yield from _files()
    yield from _partitions()
    yield from _interrupted()
    yield from _bad_pages()
    yield from _bad_headers()
    yield from _bad_partitions()


def _machines() -> Iterator[Case]:
    for arch in REGISTERS:
        small: dict[str, Any] = {}
        if arch == "ia64":
            small = {"pages": patterns.pages(3, 5, 16384), "excluded": [], "single_bitmap": True}
        yield case(f"file-{arch}", f"the file of {arch}", base(arch, **small))
        if arch != "ia64":
            for compressed in (False, True):
                name = f"partition-{arch}-{'zlib' if compressed else 'raw'}"
                spec = base(arch, partition=True, compressed=compressed)
                yield case(name, f"the partition of {arch}", spec)
    yield case(
        "partition-ia64", "blocks of 16 KiB: the header lies at 16384",
        base("ia64", partition=True, pages=patterns.pages(3, 5, 16384), excluded=[], single_bitmap=True,
             spare=0, registers=None),
    )  # fmt: skip


def _files() -> Iterator[Case]:
    yield case("version-1", "header version 1", base(version=1))
    yield case("raw", "no page is compressed", base(compressed=False))
    yield case("one-bitmap", "one bitmap: all RAM is stored", base(single_bitmap=True, excluded=[], max_mapnr=32768))
    yield case("one-bitmap-nearly-empty", "one bitmap less than half full", base(single_bitmap=True, excluded=[]))
    yield case("anonymous", "the bit of anonymous memory is no codec", base(flags={4: ANON, 50: ANON}))
    yield case("no-registers", "sub_hdr_size 0: no registers", base(registers=None))
    yield case("registers-zero", "a register block of zeros is no registers", base(registers=(0,) * 27))
    yield case("no-tasks", "nr_cpus 0: no task", base(tasks=()))
    yield case("tasks-beyond-the-block", "nr_cpus that fills more than the block", base(header={"nr_cpus": 455}))
    yield case("nr-cpus-huge", "nr_cpus of 2^31 - 1", base(header={"nr_cpus": 0x7FFFFFFF}))
    yield case("nr-cpus-negative", "nr_cpus below zero", base(header={"nr_cpus": -1}))
    yield case("current-cpu-beyond", "current_cpu is a CPU number, nr_cpus a count", base(current_cpu=7))
    yield case("status-compressed", "status 8 of the driver is not kdump's incomplete", base(status=8))
    yield case("usec-like-block-size", "nanoseconds that look like a 32-bit block size", base(header={"tv_usec": 8192}))
    bits = struct.pack("B", 0x10)
    spec = base(max_mapnr=51)
    yield case("bits-beyond-max-mapnr", "a bit past the end is ignored",
               replace(spec, patches={build(spec).bitmap1_offset + 6: bytes([0x1C | bits[0]])}))  # fmt: skip


def _partitions() -> Iterator[Case]:
    for block0 in ("swap", "formatted"):
        yield case(f"partition-on-{block0}", f"block 0 is {block0}", base(partition=True, block0=block0))
    yield case("partition-strict", "one bitmap, nothing compressed: all RAM",
               base(partition=True, single_bitmap=True, excluded=[], compressed=False))  # fmt: skip
    dense = base(
        partition=True, pages=patterns.pages(100, 104) | patterns.pages(300, 303), excluded=[(0, 90), (200, 250)]
    )
    yield case("partition-dense-bitmap", "the second bitmap counts frames of RAM, not frames", dense)
    yield case("partition-dense-bitmap-raw", "the same, uncompressed", replace(dense, compressed=False))
    yield case("partition-no-spare", "the partition ends with the dump", base(partition=True, spare=0))
    yield case("partition-written-beyond", "written_blocks beyond the file: the file's size counts",
               base(partition=True, written_blocks=0x7FFFFFFF))  # fmt: skip
    yield case("partition-raw-written-beyond", "the same, uncompressed",
               base(partition=True, compressed=False, written_blocks=0x7FFFFFFF))  # fmt: skip
    yield case("partition-written-zero", "written_blocks counts nothing in a complete dump",
               base(partition=True, compressed=False, written_blocks=0))  # fmt: skip
    noise = {3: patterns.page(3, kind="random"), 4: patterns.page(4), 50: patterns.page(50, kind="random")}
    yield case("partition-entries-raw", "pages that did not shrink, between compressed ones",
               base(partition=True, pages=noise, flags={3: ANON}))  # fmt: skip


def _interrupted() -> Iterator[Case]:
    def stopped(name: str, hazard: str, spec: DiskdumpSpec, gone: list[int], **more: Any) -> Case:
        values: dict[str, Any] = {"lost": gone, "incomplete": True, "exit_code": 4}
        return case(name, hazard, spec, gone=gone, **(values | more))

    tail = [6, 9, 50]
    yield stopped("file-incomplete", "descriptors of zeros, and status says so", base(status=1, written=3), tail)
    yield stopped("file-incomplete-none-lost", "status 1, all is there", base(status=1), [])
    for compressed in (False, True):
        kind = "zlib" if compressed else "raw"
        one = {"partition": True, "compressed": compressed}
        flag = 8 if compressed else 0
        yield stopped(f"partition-{kind}-short-area", "status 4: cut for lack of room, written_blocks tells",
                      base(**one, written=3, status=4 | flag, spare=0, flushed=3), tail,
                      excluded=[], **_unknown(range(20, 40), tail))  # fmt: skip
        yield stopped(f"partition-{kind}-in-progress", "status 2: bits that never came leave frames unknown",
                      base(**one, status=2 | flag, flushed=2), [5, *tail],
                      excluded=[], **_unknown(range(20, 40), [5, *tail]))  # fmt: skip
        head = build(base(**one)).data_offset // 4096
        yield stopped(f"partition-{kind}-interrupted", "status 1, nothing counted: the formatter's pattern tells",
                      base(**one, written=3, status=1 | flag, written_blocks=head), tail)  # fmt: skip
    spec = base(partition=True, compressed=False, status=1, block0="swap", stale=True, written_blocks=5)
    yield case("partition-interrupted-unknown", "status 1, nothing tells how far it came",
               spec, incomplete=True, exit_code=3)  # fmt: skip


def _unknown(frames: Iterable[int], lost: list[int]) -> dict[str, Any]:
    # frames behind the last bit that is set: whether they were left out is not known
    return {"lost": sorted({*frames, *lost})}


def _bad_pages() -> Iterator[Case]:
    page = patterns.page(VICTIM)
    bad = {
        "flags-unknown": ({"flags": 4}, "a flag that is none of diskdump's", "damaged"),
        "flags-huge": ({"flags": 0xFFFFFFFF}, "all flags", "damaged"),
        "offset-zero": ({"offset": 0}, "offset 0 with a size", "damaged"),
        "offset-negative": ({"offset": -4096}, "a negative offset", "damaged"),
        "offset-past-end": ({"offset": 1 << 40}, "an offset beyond the file", "lost"),
        "offset-overflows": ({"offset": (1 << 63) - 1}, "offset + size beyond 2^63", "lost"),
        "size-zero": ({"size": 0}, "a codec without bytes", "damaged"),
        "size-4-gib": ({"size": 0xFFFFFFFF}, "a stored size of 4 GiB", "damaged"),
        "raw-short": ({"flags": 0, "size": 100}, "raw of another size than a page", "damaged"),
        "zero": ({"offset": 0, "size": 0, "flags": 0}, "a descriptor of zeros in a complete dump", "lost"),
    }
    for name, (fields, hazard, state) in bad.items():
        yield hurt(f"descriptor-{name}", hazard, state=state, descriptors={VICTIM: fields})
    streams = {
        "zlib-bomb": (zlib.compress(bytes(4 << 20), 9), "inflates to 4 MiB"),
        "zlib-short-page": (zlib.compress(page[:-1], 1), "inflates to one byte less than a page"),
        "zlib-trailing": (zlib.compress(page, 1) + b"junk", "bytes after the zlib stream"),
    }
    for name, (stored, hazard) in streams.items():
        yield hurt(name, hazard, stored={VICTIM: (stored, 1)})
    yield hurt("partition-zlib-bad-adler", "a wrong Adler-32 between good pages", partition=True,
               stored={VICTIM: (zlib.compress(page, 1)[:-1] + b"!", 1)})  # fmt: skip
    image = build(base())
    end = len(image.to_bytes())
    yield cut("truncated-last-page", "the last page lacks its last byte", image, end - 1, [50])
    yield cut(
        "truncated-table", "cut inside the descriptor table", image, image.places[6] + 5, sorted(image.spec.pages)
    )
    raw = build(base(partition=True, compressed=False))
    yield cut(
        "partition-truncated", "the image of a partition is cut inside a page", raw, raw.places[6] + 5, [6, 9, 50]
    )


def _bad_headers() -> Iterator[Case]:
    for name, value in {"0": 0, "negative": -4096, "3": 3, "2-gib": -(1 << 31), "256": 256}.items():
        yield refused(f"block-size-{name}", "an impossible block size", base(header={"block_size": value}))
    for name, value in {"negative": -1, "huge": 0x7FFFFFFF}.items():
        yield refused(f"sub-hdr-size-{name}", "an impossible sub header size", base(header={"sub_hdr_size": value}))
    yield refused("bitmap-blocks-zero", "no bitmap", base(header={"bitmap_blocks": 0}))
    yield refused("bitmap-blocks-huge", "a bitmap of 16 TiB", base(header={"bitmap_blocks": 0xFFFFFFFF}))
    yield refused("max-mapnr-zero", "no frame", base(header={"max_mapnr": 0}))
    yield refused("max-mapnr-huge", "more frames than the bitmap has bits", base(header={"max_mapnr": 1 << 31}))
    yield refused("version-negative", "a negative header version", base(header={"header_version": -1}))
    yield refused("machine-unknown", "nothing tells the architecture", base(uts={"machine": "pdp11"}), exit_code=6)
    image = build(base())
    data = image.to_bytes()
    for name, place in {"bitmap": image.bitmap2_offset + 10, "sub-header": 4096 + 50, "main-header": 300}.items():
        yield Case("diskdump", f"truncated-{name}", f"cut inside the {name}", [data[:place]], refused=True, exit_code=3)


def _bad_partitions() -> Iterator[Case]:
    def alone(name: str, hazard: str, data: bytes, exit_code: int) -> Case:
        return Case("diskdump", name, hazard, [data], refused=True, exit_code=exit_code)

    yield alone("partition-empty", "formatted, and no dump on it", formatted_partition(6), 1)
    yield alone("partition-empty-one-block", "the first block of a formatted partition", format_block(0, 4096, "<"), 1)
    wrong = base(partition=True, header={"block_size": 8192})
    yield refused("partition-block-size-differs", "the header is not in the block that it says", wrong)
    spec = base(partition=True, compressed=False)
    head = build(spec).data_offset // 4096
    lost = [6, 9, 50]
    yield case("partition-written-short", "complete, but written_blocks has room for fewer pages",
               replace(spec, written_blocks=head + 3), gone=lost, lost=lost, exit_code=3)  # fmt: skip
    bad = {
        "size-huge": ({"size": 5000}, "an entry larger than a page"),
        "size-zero": ({"size": 0}, "an entry without bytes"),
        "flags": ({"flags": 8}, "an entry of unknown flags"),
        "raw-short": ({"flags": 0}, "an entry that is raw and no page long"),
    }
    lost = [5, 6, 9, 50]
    for name, (fields, hazard) in bad.items():
        yield case(f"partition-entry-{name}", f"{hazard}: the rest cannot be found",
                   base(partition=True, entries={VICTIM: fields}), gone=lost, lost=lost, exit_code=3)  # fmt: skip
    yield case("partition-entry-crosses-the-end", "the last entry is longer than the partition",
               base(partition=True, spare=0, entries={50: {"size": 4096, "flags": 1}},
                    pages=patterns.pages(3, 7) | {50: bytes(4096)}),
               gone=[50], lost=[50], exit_code=3)  # fmt: skip
    # 3 bitmap blocks where one bitmap needs 2: the dense one has bits for 32768 frames of RAM only
    wide = base(partition=True, compressed=False, pages={1: patterns.page(1)}, excluded=[(2, 40000)], max_mapnr=40000)
    image = build(wide)
    data = image.to_bytes()
    place = image.bitmap2_offset
    short = data[: place + 4096] + data[place + 8192 :]
    short = short[: 4096 + 436] + struct.pack("<I", 3) + short[4096 + 440 :]
    short = short[: 4096 + 452] + struct.pack("<I", image.data_offset // 4096) + short[4096 + 456 :]
    assert len(ram_frames(wide)) > 32768
    yield Case("diskdump", "partition-dense-bitmap-short", "fewer bits than frames of RAM: the rest was not dumped",
               [short], pages=wide.pages, excluded=wide.excluded)  # fmt: skip
