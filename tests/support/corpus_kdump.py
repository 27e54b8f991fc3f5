# SPDX-License-Identifier: GPL-2.0-or-later
"""The corpus of compressed kdump: one small file per hazard of the sheet's Traps and Bad input."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import zstandard

from . import notes, patterns
from .build_kdump import CODEC_FLAGS, KdumpImage, KdumpSpec, build, build_split, compress
from .corpus_case import Case

TEXT = notes.vmcoreinfo_text()
EXCLUDED = [(20, 40)]
VICTIM = 5


def base(arch: str = "x86_64", **more: Any) -> KdumpSpec:
    """A small dump: text, zero and noise pages, an excluded run, notes of two CPUs."""
    facts = notes.ARCHES[arch]
    order = more.get("order", facts.order)
    size = more.get("page_size", 4096)
    text = more.get("vmcoreinfo", notes.vmcoreinfo_text(page_size=size))
    pages = patterns.pages(3, 9, size) | {9: bytes(size), 10: bytes(size), 50: patterns.page(50, size, "random")}
    values: dict[str, Any] = {
        "pages": pages,
        "excluded": EXCLUDED,
        "order": order,
        "layout": "64" if facts.bits == 64 else "32pack" if arch == "i386" else "32pad",
        "vmcoreinfo": text,
        "notes": notes.machine_notes(arch, order=order, text=text),
        "nr_cpus": 2,
        "uts": {"sysname": "Linux", "machine": facts.uts_machine, "release": "6.1.0-test"},
    }
    return KdumpSpec(**(values | more))


def good(name: str, hazard: str, spec: KdumpSpec, **more: Any) -> Case:
    """A file whose every page is there, unless `more` says otherwise."""
    image = build(spec)
    values: dict[str, Any] = {
        "pages": {pfn: page for pfn, page in image.pages.items()},
        "excluded": spec.excluded,
        "page_size": spec.page_size,
        "bits": 64 if spec.layout == "64" else 32,
        "order": spec.order,
    }
    return Case("kdump", name, hazard, [image.to_bytes()], **(values | more))


def refused(name: str, hazard: str, spec: KdumpSpec, exit_code: int = 3) -> Case:
    return Case("kdump", name, hazard, [build(spec).to_bytes()], refused=True, exit_code=exit_code)


def hurt(name: str, hazard: str, *, state: str = "damaged", **more: Any) -> Case:
    """The base dump with one page that must not decode."""
    spec = base(**more)
    image = build(spec)
    pages = {pfn: page for pfn, page in image.pages.items() if pfn != VICTIM}
    return Case(
        "kdump", name, hazard, [image.to_bytes()], pages=pages, excluded=spec.excluded, exit_code=3, **{state: [VICTIM]}
    )


def cut(name: str, hazard: str, image: KdumpImage, size: int, lost: list[int]) -> Case:
    """The base dump cut to `size` bytes."""
    pages = {pfn: page for pfn, page in image.pages.items() if pfn not in lost}
    data = image.to_bytes()[:size]
    return Case("kdump", name, hazard, [data], pages=pages, excluded=image.spec.excluded, lost=lost, exit_code=3)


def cases() -> Iterator[Case]:
    yield from _versions_and_layouts()
    yield from _codecs_and_sharing()
    yield from _maps()
    yield from _odd_headers()
    yield from _split_sets()
    yield from _incomplete()
    yield from _bad_descriptors()
    yield from _bad_streams()
    yield from _bad_headers()


def _versions_and_layouts() -> Iterator[Case]:
    for version in range(1, 7):
        yield good(f"version-{version}", f"header version {version}", base(version=version))
    yield good("version-7-unknown", "a version that does not exist yet has the fields of version 6", base(version=7))
    for version in (2, 3, 4, 5, 6):
        yield good(f"pack-v{version}", "32-bit, 64-bit integers packed", base("i386", version=version))
        yield good(f"pad-v{version}", "32-bit, 64-bit integers aligned to 8", base("arm", version=version))
    yield good("pad-big-endian", "32-bit padded layout, big endian", base("ppc"))
    yield good(
        "pad-without-vmcoreinfo", "looks packed to a reader that tests VMCOREINFO only", base("arm", vmcoreinfo=b"")
    )
    yield good(
        "pad-without-notes",
        "nothing but max_mapnr_64 and the machine string tell the layout",
        base("arm", vmcoreinfo=b"", notes=b""),
    )
    yield good(
        "pack-qemu-nameless", "32-bit from QEMU: no uts machine that means anything",
        base("i386", uts={"machine": "Unknown"}),
    )  # fmt: skip
    yield good(
        "big-endian-s390x", "big-endian integers, bitmap bits least significant first all the same", base("s390x")
    )
    yield good("big-endian-ppc64", "64-bit big endian", base("ppc64"))
    yield good("page-size-8192", "pages of 8 KiB", base("ia64", page_size=8192))


def _codecs_and_sharing() -> Iterator[Case]:
    for codec in CODEC_FLAGS:
        yield good(f"codec-{codec}", f"pages stored as {codec}, noise raw", base(codec=codec))
    names = dict(zip((3, 4, 5, 6, 7), CODEC_FLAGS, strict=True))
    yield good("codec-mixed", "each page has its own codec, status says zlib", base(page_codecs=names))
    yield good("status-lies", "status says LZO, the descriptors zlib", base(status=2))
    yield good("zero-pages-share", "zero pages share one raw block", base(share_zero=True))
    yield good("sharing-arbitrary", "frames share a compressed block", base(share={60: 3, 61: 3, 62: 50, 63: 9}))
    yield good("data-shuffled", "offsets do not ascend", base(shuffle=11))
    yield good("data-after-gap", "a gap between table and data", base(data_gap=5000))
    stored = {VICTIM: (zlib.compress(patterns.page(VICTIM), 9), 1)}
    yield good(
        "zlib-level-9", "a zlib stream of another level",
        base(stored=stored), pages=build(base()).pages,
    )  # fmt: skip


def _maps() -> Iterator[Case]:
    yield good("one-bitmap", "one bitmap in both roles", base(single_bitmap=True, excluded=(), max_mapnr=32768))
    yield good(
        "one-bitmap-nearly-empty", "one bitmap less than half full: one block, not half a block",
        base(single_bitmap=True, excluded=()),
    )  # fmt: skip
    yield good("bitmap-surplus-blocks", "the 2nd bitmap starts at half of bitmap_blocks", base(surplus_blocks=2))
    yield good(
        "bits-beyond-max-mapnr", "bits past the end are ignored",
        base(extra_bits1=[(70, 90)], extra_bits2=[(70, 80)], max_mapnr=64),
    )  # fmt: skip
    yield good("second-bitmap-only", "stored without a bit in the 1st bitmap", base(second_only=frozenset({4, 50})))
    yield good("no-pages", "nothing stored, all excluded", base(pages={}), pages={})
    yield good("max-mapnr-larger", "max_mapnr far beyond the last page", base(max_mapnr=30001))
    yield good(
        "max-mapnr-saturated", "max_mapnr 0xffffffff: max_mapnr_64 counts",
        base(header={"max_mapnr": 0xFFFFFFFF}),
    )  # fmt: skip
    pages = {pfn: patterns.page(pfn) for pfn in (0, 7, 8, 63, 64, 4095, 32767, 32768, 40000)}
    yield good("bitmap-edges", "frames at byte, word and block edges of the bitmap", base(pages=pages))


def _odd_headers() -> Iterator[Case]:
    yield good("usec-like-block-size", "microseconds that look like a 32-bit block size", base(tv_sec=1, tv_usec=8192))
    yield good(
        "phys-base-negative", "phys_base is signed on x86", base(phys_base=-0x1000000),
    )  # fmt: skip
    yield good("eraseinfo", "erase info after the pages", base(eraseinfo=b"erase jiffies size 8\nerase x nullify\n"))
    yield good(
        "qemu-sparse-utsname", "QEMU fills the machine only, and has no VMCOREINFO pointer",
        base(uts={"machine": "x86_64"}, vmcoreinfo=b"", notes=notes.machine_notes(text=b"") + notes.qemu_x86()),
    )  # fmt: skip
    yield good("qemu-s390x-upper-case", "QEMU writes S390X", base("s390x", uts={"machine": "S390X"}))
    unterminated = {name: b"x" * 65 for name in ("sysname", "nodename", "version", "domainname")}
    yield good("utsname-unterminated", "header strings without NUL", base(header=unterminated))
    yield good("nr-cpus-negative", "nr_cpus is no size", base(header={"nr_cpus": -5}))
    yield good("nr-cpus-huge", "nr_cpus is no count of pointers to read", base(header={"nr_cpus": 0x7FFFFFFF}))
    yield good("no-notes", "a dump without notes", base(notes=b"", vmcoreinfo=b""))


def _split_sets() -> Iterator[Case]:
    def members(name: str, hazard: str, images: list[KdumpImage], **more: Any) -> Case:
        spec = images[0].spec
        pages = {pfn: page for image in images for pfn, page in image.pages.items()}
        values: dict[str, Any] = {"pages": pages, "excluded": spec.excluded}
        return Case("kdump", name, hazard, [image.to_bytes() for image in images], **(values | more))

    whole = base(max_mapnr=64)
    yield members("split-two", "two members", build_split(whole, [(0, 8), (8, 64)]))
    yield members("split-any-order", "members in any order", build_split(whole, [(8, 64), (0, 8)]))
    yield members("split-empty-members", "members without frames", build_split(whole, [(0, 64), (64, 64), (64, 64)]))
    yield members("split-unaligned", "ranges that cut a bitmap byte", build_split(whole, [(0, 5), (5, 7), (7, 64)]))
    yield members(
        "split-version-2", "ranges in the old 64-bit fields", build_split(replace(whole, version=2), [(0, 8), (8, 64)])
    )
    yield members(
        "split-pad-version-5", "ranges in the old 32-bit fields",
        build_split(base("arm", version=5, max_mapnr=64), [(0, 8), (8, 64)]), bits=32,
    )  # fmt: skip
    yield members(
        "split-own-zero-page", "each member has its own zero page",
        build_split(replace(whole, share_zero=True), [(0, 10), (10, 64)]),
    )  # fmt: skip
    parts = build_split(whole, [(0, 8), (8, 20), (20, 64)])
    yield members("split-member-missing", "the middle is not there", [parts[0], parts[2]], refused=True, exit_code=1)
    yield members("split-alone", "one member of a set", parts[:1], refused=True, exit_code=1)
    overlapping = build_split(whole, [(0, 10), (8, 64)])
    yield members("split-overlap", "ranges overlap", overlapping, refused=True, exit_code=2)
    other = build_split(replace(whole, tv_sec=7), [(8, 64)])
    yield members("split-two-dumps", "members of two dumps", [parts[0], *other], refused=True, exit_code=2)
    reversed_range = build(replace(whole, split=(0, 64), sub_header={"start_pfn_64": 64, "end_pfn_64": 0}))
    yield members("split-reversed", "start beyond end", [reversed_range], refused=True, exit_code=3)


def _incomplete() -> Iterator[Case]:
    spec = base(incomplete_from=8)
    image = build(spec)
    yield good(
        "incomplete",
        "status 0x08: the rest of the descriptors is zero",
        spec,
        lost=image.lost,
        exit_code=4,
        incomplete=True,
    )
    yield good(
        "incomplete-none-lost", "status 0x08, but every page is there", base(status=9), exit_code=4, incomplete=True
    )
    zero = {"offset": 0, "size": 0, "flags": 0}
    yield hurt("descriptor-zero", "a zero descriptor without status 0x08", state="lost", descriptors={VICTIM: zero})

    image = build(base())
    offset, size, _ = image.data[50]
    yield cut("truncated-last-page", "the last page lacks its last byte", image, offset + size - 1, [50])
    yield cut("truncated-pages", "cut between two pages", image, image.data[7][0], [7, 8, 9, 10, 50])
    table_end = image.descriptor_offsets[8]
    yield cut("truncated-table", "cut inside the descriptor table", image, table_end + 5, sorted(image.pages))
    data = image.to_bytes()
    places = {
        "bitmap": image.bitmap2_offset + 10, "sub-header": 4096 + 50, "main-header": 300, "signature": 8,
    }  # fmt: skip
    for name, place in places.items():
        yield Case("kdump", f"truncated-{name}", f"cut inside the {name}", [data[:place]], refused=True, exit_code=3)


def _bad_descriptors() -> Iterator[Case]:
    page = patterns.page(VICTIM)
    bad = {
        "flags-unknown": ({"flags": 0x40}, "an unknown flag", "damaged"),
        "flags-several": ({"flags": 3}, "two codecs at once", "damaged"),
        "flags-status-bit": ({"flags": 8}, "a flag that is none of a page", "damaged"),
        "offset-zero": ({"offset": 0}, "offset 0 with a size", "damaged"),
        "offset-negative": ({"offset": -4096}, "a negative offset", "damaged"),
        "offset-past-end": ({"offset": 1 << 40}, "an offset beyond the file", "lost"),
        "offset-overflows": ({"offset": (1 << 63) - 1}, "offset + size beyond 2^63", "lost"),
        "size-zero": ({"size": 0}, "a codec without bytes", "damaged"),
        "size-4-gib": ({"size": 0xFFFFFFFF}, "a stored size of 4 GiB", "damaged"),
        "raw-short": ({"flags": 0, "size": 100}, "raw of another size than a page", "damaged"),
        "raw-zero-size": ({"flags": 0, "size": 0}, "raw without bytes", "damaged"),
    }
    for name, (fields, hazard, state) in bad.items():
        yield hurt(f"descriptor-{name}", hazard, state=state, descriptors={VICTIM: fields})
    yield hurt("raw-long", "raw, longer than a page", stored={VICTIM: (page + b"x", 0)})
    yield hurt("codec-confused", "LZO bytes with the zlib flag", stored={VICTIM: (compress(page, "lzo"), 1)})


def _bad_streams() -> Iterator[Case]:
    page = patterns.page(VICTIM)
    dictionary = zlib.compressobj(1, zdict=page[:64])
    with_dictionary = dictionary.compress(page) + dictionary.flush()
    unsized = zstandard.ZstdCompressor(level=1, write_content_size=False)
    good_zlib, good_lzo, good_snappy, good_zstd = (compress(page, codec) for codec in ("zlib", "lzo", "snappy", "zstd"))
    streams = {
        "zlib-trailing": (good_zlib + b"junk", 1, "bytes after the zlib stream"),
        "zlib-truncated": (good_zlib[:-3], 1, "a zlib stream without its end"),
        "zlib-bad-adler": (good_zlib[:-1] + bytes([good_zlib[-1] ^ 1]), 1, "a wrong Adler-32"),
        "zlib-preset-dictionary": (with_dictionary, 1, "a zlib stream that needs a dictionary"),
        "zlib-short-page": (zlib.compress(page[:-1], 1), 1, "inflates to one byte less than a page"),
        "zlib-long-page": (zlib.compress(page + b"x", 1), 1, "inflates to one byte more than a page"),
        "zlib-bomb": (zlib.compress(bytes(4 << 20), 9), 1, "inflates to 4 MiB"),
        "zlib-raw-deflate": (good_zlib[2:-4], 1, "deflate without the zlib header"),
        "lzo-trailing": (good_lzo + b"junk", 2, "bytes after the LZO end marker"),
        "lzo-truncated": (good_lzo[:-3], 2, "LZO without the end marker"),
        "lzo-short-page": (compress(page[:-96], "lzo"), 2, "LZO of a short page"),
        "lzo-long-page": (compress(page + page[:100], "lzo"), 2, "LZO of more than a page"),
        "snappy-trailing": (good_snappy + b"\0", 4, "bytes after the snappy block"),
        "snappy-truncated": (good_snappy[:-2], 4, "a snappy block without its end"),
        "snappy-short-page": (compress(page[:-1], "snappy"), 4, "snappy of a short page"),
        "snappy-announces-4-gib": (b"\xff\xff\xff\xff\x0f" + good_snappy[2:], 4, "snappy that announces 4 GiB"),
        "zstd-trailing": (good_zstd + b"junk", 0x20, "bytes after the zstd frame"),
        "zstd-truncated": (good_zstd[:-2], 0x20, "a zstd frame without its end"),
        "zstd-two-frames": (compress(page[:2048], "zstd") + compress(page[2048:], "zstd"), 0x20, "two frames"),
        "zstd-skippable-first": (struct.pack("<II", 0x184D2A50, 4) + b"skip" + good_zstd, 0x20, "a skippable frame"),
        "zstd-bomb": (compress(bytes(64 << 20), "zstd"), 0x20, "a zstd frame of 64 MiB"),
        "zstd-unsized-bomb": (unsized.compress(bytes(16 << 20)), 0x20, "a zstd frame of unsaid size, 16 MiB"),
        "zstd-huge-window": (b"\x28\xb5\x2f\xfd\x00\xf8" + good_zstd[7:], 0x20, "a zstd frame with a window of 2 TiB"),
        "zstd-short-page": (compress(page[:-1], "zstd"), 0x20, "zstd of a short page"),
    }
    for name, (stored, flag, hazard) in streams.items():
        yield hurt(name, hazard, stored={VICTIM: (stored, flag)})


def _bad_headers() -> Iterator[Case]:
    for name, value in {"0": 0, "negative": -4096, "3": 3, "2-gib": -(1 << 31), "256": 256}.items():
        yield refused(f"block-size-{name}", "an impossible block size", base(header={"block_size": value}))
    for name, value in {"zero": 0, "negative": -1, "huge": 0x7FFFFFFF}.items():
        yield refused(f"sub-hdr-size-{name}", "an impossible sub header size", base(header={"sub_hdr_size": value}))
    yield refused("bitmap-blocks-zero", "no bitmap", base(header={"bitmap_blocks": 0}))
    yield refused("bitmap-blocks-huge", "a bitmap of 16 TiB", base(header={"bitmap_blocks": 0xFFFFFFFF}))
    yield refused("max-mapnr-disagrees", "max_mapnr and max_mapnr_64 differ", base(sub_header={"max_mapnr_64": 99}))
    huge = {"max_mapnr": 0xFFFFFFFF}
    yield refused(
        "max-mapnr-64-huge", "2^64-1 frames in a bitmap of two blocks",
        base(header=huge, sub_header={"max_mapnr_64": (1 << 64) - 1}),
    )  # fmt: skip
    yield refused(
        "max-mapnr-huge", "more frames than the bitmap has bits", base(version=5, header={"max_mapnr": 1 << 31})
    )
    for what in ("note", "vmcoreinfo", "eraseinfo"):
        spec = base(eraseinfo=b"erase x size 4\n")
        yield refused(
            f"{what}-size-huge", f"{what} larger than the file", replace(spec, sub_header={f"size_{what}": 1 << 60})
        )
        yield refused(
            f"{what}-offset-outside", f"{what} beyond the file", replace(spec, sub_header={f"offset_{what}": 1 << 40})
        )
    yield refused("version-negative", "a negative header version", base(header={"header_version": -1}))
