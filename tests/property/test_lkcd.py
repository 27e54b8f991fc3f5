# SPDX-License-Identifier: GPL-2.0-or-later
"""LKCD: its codecs' fast forms are the slow ones, and any dump that is built is read as it was described."""

from __future__ import annotations

import random
import tempfile
from itertools import accumulate
from pathlib import Path

import pytest
from fuzz import fuzz
from hypothesis import given, settings
from hypothesis import strategies as st

from dumpconv.formats import codecs, fastcodecs
from support import build_lkcd, corrupt, patterns, product
from support.build_lkcd import GZIP, NONE, RLE, LkcdSpec, rle_encode
from support.corpus_lkcd import MACHINES
from support.reference import decode
from support.reference_lkcd import inflate, rle

SIZES = st.sampled_from((4096, 8192))
contents = st.builds(patterns.page, st.integers(0, 1000), SIZES, st.sampled_from(patterns.KINDS))
# few values, so that runs and zeros of all lengths lie beside one another
speckled = st.lists(st.sampled_from(b"\0\0\0\1\2\xff"), max_size=80).map(bytes)
stored_bytes = st.one_of(st.binary(max_size=100), speckled)


def fast(codec: int, stored: list[bytes], size: int) -> list[bytes | None]:
    buffer = memoryview(bytearray(b"\xaa" * (len(stored) * size)))
    views = [buffer[at * size : (at + 1) * size] for at in range(len(stored))]
    highs = list(accumulate((len(data) for data in stored), initial=3))
    bad = fastcodecs.decode_batch(codec, memoryview(b"pad" + b"".join(stored) + b"pad"), highs[:-1], highs[1:], views)
    return [None if index in bad else bytes(view) for index, view in enumerate(views)]


def slow(codec: int, stored: bytes, size: int) -> bytes | None:
    try:
        return codecs.decode_page(codec, stored, size)
    except ValueError:
        return None


def by_reference(codec: int, stored: bytes, size: int) -> bytes | None:
    found = []
    for attempt in (lambda: rle(stored, size, 1), lambda: rle(stored, size, 0)) if codec == codecs.RLE else (
        lambda: inflate(stored, size),
    ):  # fmt: skip
        try:
            found.append(attempt())
        except ValueError:
            continue
    return next((page for page in found if len(page) == size), None)


@pytest.mark.parametrize(
    ("plain", "stored"),
    [
        (bytes(4096), b"\0\xff\0" * 16), (b"\x41", b"\x41"), (b"\x41" * 2, b"\x41\x41"), (b"\x41" * 3, b"\0\2\x41"),
        (b"\x41" * 257, b"\0\xff\x41\x41"), (b"\0", b"\0\0"), (b"\0\0", b"\0\1\0"),
    ],
)  # fmt: skip
def test_vectors_of_rle(plain: bytes, stored: bytes) -> None:
    assert rle_encode(plain) == stored
    assert codecs.decode_page(codecs.RLE, stored, len(plain)) == plain
    assert fast(codecs.RLE, [stored] * 3, len(plain)) == [plain] * 3


@given(st.lists(contents, min_size=1, max_size=5), st.sampled_from([0, 1]))
def test_honest_pages(pages: list[bytes], more: int) -> None:
    size = len(pages[0])
    pages = [page for page in pages if len(page) == size]
    for codec, stored in (
        (codecs.RLE, [rle_encode(page, more) for page in pages]),
        (codecs.ZLIB_SLACK, [build_lkcd.compress(page, GZIP) + b"junk" * more for page in pages]),
    ):
        assert fast(codec, stored, size) == pages == [slow(codec, data, size) for data in stored]


@given(st.lists(stored_bytes, min_size=1, max_size=70), st.sampled_from([1, 3, 16, 60, 256]))
def test_any_bytes_of_rle(stored: list[bytes], size: int) -> None:
    strict = [slow(codecs.RLE, data, size) for data in stored]
    assert fast(codecs.RLE, stored, size) == strict == [by_reference(codecs.RLE, data, size) for data in stored]


@pytest.mark.parametrize("seed", range(4))
def test_long_chains_of_zeros(seed: int) -> None:
    """Zeros that lie near each other over many words of bits, pages that end inside a run before pages of zeros."""
    rng, size = random.Random(seed), 256
    stored = [bytes(2 * size), b"\0\1\0" * (size // 2), b"\0", bytes(2 * size), b"\0\5", b"\0\0" * size, b""]
    for _ in range(300):
        page = bytes(rng.choices((0, 0, 1, 7), k=size)) if rng.random() < 0.5 else bytes(rng.choices((0, 9), k=size))
        made = rle_encode(page, 1)
        stored.append(rng.choice((made, made, made, made[:-1], made + b"\0", bytes(rng.choices((0, 0, 1), k=size)))))
    rng.shuffle(stored)
    strict = [slow(codecs.RLE, data, size) for data in stored]
    assert fast(codecs.RLE, stored, size) == strict == [by_reference(codecs.RLE, data, size) for data in stored]
    assert sum(page is None for page in strict) > 40
    assert sum(page is not None for page in strict) > 100


@given(st.sampled_from([codecs.RLE, codecs.ZLIB_SLACK]), contents, st.integers(0, 1 << 32), st.integers(1, 3))
def test_mutated_payloads(codec: int, page: bytes, seed: int, count: int) -> None:
    rng, size = random.Random(seed), len(page)
    honest = build_lkcd.compress(page, RLE if codec == codecs.RLE else GZIP)
    stored = [corrupt.mutate(honest, rng, count=count) for _ in range(4)] + [honest]
    got = fast(codec, stored, size)
    assert got == [slow(codec, data, size) for data in stored] == [fast(codec, [data], size)[0] for data in stored]
    assert got[-1] == page
    for mine, theirs in zip(got, (by_reference(codec, data, size) for data in stored), strict=True):
        # libdeflate takes some bits that zlib has no use for, where the page's sum is right
        assert mine == theirs or (codec == codecs.ZLIB_SLACK and theirs is None and mine == page)


def test_only_kdump_refuses_bytes_after_a_stream() -> None:
    page = patterns.page(1)
    stored = build_lkcd.compress(page, GZIP) + b"x"
    assert slow(codecs.ZLIB_SLACK, stored, 4096) == page
    assert slow(codecs.ZLIB, stored, 4096) is None
    assert fast(codecs.ZLIB, [stored], 4096) == [None]


def test_bombs_are_refused_small() -> None:
    assert fast(codecs.RLE, [b"\0\xffx" * 2700], 4096) == [None]
    assert fast(codecs.ZLIB_SLACK, [build_lkcd.compress(bytes(8 << 20), GZIP)], 4096) == [None]


@st.composite
def lkcd_specs(draw: st.DrawFn) -> LkcdSpec:
    """Draw an honest dump: every page is to be found."""
    arch = draw(st.sampled_from(sorted(MACHINES)))
    bits, order, machine = MACHINES[arch]
    version = draw(st.sampled_from((1, 2, 3, 5, 6, 7, 8, 9, 10)))
    size = draw(st.sampled_from((4096, 4096, 8192, 16384)))
    kinds = draw(
        st.dictionaries(st.one_of(st.integers(0, 40), st.integers(0, (1 << 50) - 1)), st.sampled_from(patterns.KINDS))
    )
    return LkcdSpec(
        {pfn: patterns.page(pfn, size, kind) for pfn, kind in kinds.items()},
        version=version,
        bits=bits,
        order=draw(st.sampled_from((order, "<", ">"))),
        page_size=size,
        unit=4096 if arch == "ia64" and draw(st.booleans()) else None,
        compress=draw(st.sampled_from((NONE, RLE, GZIP))),
        shuffle=draw(st.one_of(st.none(), st.integers(0, 100))),
        uts={"sysname": "Linux", "release": "2.6.5", "version": "#1", "machine": machine},
        start=draw(st.sampled_from((1024, 4096, 5000))) if version >= 9 else 65536,
        base=draw(st.sampled_from((0, 0, 0, 4096, 16384))),
        live=draw(st.booleans()),
        fill=draw(st.sampled_from((0, 0x62))),
        tail=draw(st.binary(max_size=40)),
    )


@settings(max_examples=100)
@given(lkcd_specs())
def test_a_built_dump_is_read_as_described(spec: LkcdSpec) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = build_lkcd.build(spec).write_to(Path(folder) / "dump")
        seen = product.view(product.open_product(path))
        reference = decode(path)
    pages = dict(spec.pages)
    if spec.unit and pages:
        parts = spec.page_size // spec.unit
        pages = {
            pfn * parts + part: page[part * 4096 : part * 4096 + 4096]
            for pfn, page in spec.pages.items()
            for part in range(parts)
        }
    assert seen.pages == pages == reference.pages
    assert (seen.lost, seen.damaged, seen.reader.damage, seen.reader.incomplete) == (set(), set(), None, False)
    assert (seen.reader.machine.byteorder, reference.exit_code) == ("little" if spec.order == "<" else "big", 0)


@settings(max_examples=60)
@given(lkcd_specs(), st.integers(0, 1 << 32), st.integers(1, 3))
def test_a_mutated_dump_is_what_the_reference_makes_of_it(spec: LkcdSpec, seed: int, count: int) -> None:
    data = corrupt.mutate(build_lkcd.build(spec).to_bytes(), random.Random(seed), count=count)
    with tempfile.TemporaryDirectory() as folder:
        outcome = fuzz.run_one([data], Path(folder), canonical=False, convert_too=True)
    assert not outcome[0].startswith("!"), outcome
