# SPDX-License-Identifier: GPL-2.0-or-later
"""Any memory in LiME, AVML, mcore and raw files: what was built is what the product and the reference read."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from support import build_lime, build_mcore, patterns, product
from support.build_lime import Range
from support.reference import decode

PAGE = 4096


def read(data: list[bytes], options: dict[str, Any]) -> product.View:
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / str(number) for number in range(len(data))]
        for path, content in zip(paths, data, strict=True):
            path.write_bytes(content)
        seen = product.view(product.open_product(*paths, **options))
        dump = decode(*paths, options=options)
    assert seen.pages == dump.pages
    assert seen.partial == dump.partial
    assert (seen.lost, seen.damaged, seen.reader.damage) == (set(), set(), None)
    assert (dump.lost, dump.damaged) == ({}, {})
    return seen


@st.composite
def ranges(draw: st.DrawFn) -> list[Range]:
    """Ranges of memory, ascending; they may begin and end inside pages, and touch."""
    at = draw(st.sampled_from((0, 0x1000, 0x1200, 0x9F000)))
    found = []
    for _ in range(draw(st.integers(1, 5))):
        size = draw(
            st.one_of(st.integers(1, 20), st.integers(1, 5 * PAGE), st.sampled_from((PAGE, 4 * PAGE, 17 * PAGE)))
        )
        kind = draw(st.sampled_from(patterns.KINDS))
        first = at // PAGE
        data = b"".join(patterns.page(pfn, PAGE, kind) for pfn in range(first, (at + size) // PAGE + 1))
        found.append(Range(at, data[at - first * PAGE :][:size], compress=draw(st.booleans())))
        at += size + draw(st.sampled_from((0, 0, 1, 0x400, PAGE, 1 << 32)))
    return found


def frames(found: list[Range]) -> tuple[dict[int, bytes], dict[int, bytes]]:
    """Pages, and which of their bytes are known."""
    pages: dict[int, bytearray] = {}
    known: dict[int, bytearray] = {}
    for entry in found:
        for at in range(0, len(entry.data)):
            pfn, inside = divmod(entry.start + at, PAGE)
            if pfn not in pages:
                pages[pfn], known[pfn] = bytearray(PAGE), bytearray(PAGE)
            pages[pfn][inside], known[pfn][inside] = entry.data[at], 1
    return {pfn: bytes(page) for pfn, page in pages.items()}, {pfn: bytes(mask) for pfn, mask in known.items()}


@given(ranges(), st.booleans(), st.sampled_from((1000, 5000, 65536)))
def test_ranges_are_read_byte_by_byte(found: list[Range], avml: bool, chunk: int) -> None:
    for entry in found if avml else ():
        entry.body = build_lime.stream(entry.data, compress=entry.compress, size=chunk)
    seen = read([build_lime.build(found, avml=avml)], {"machine": "x86_64"})
    pages, known = frames(found)
    assert seen.pages == pages
    assert set(seen.partial) == {pfn for pfn, mask in known.items() if 0 in mask}


@given(ranges())
def test_pieces_of_raw_memory(found: list[Range]) -> None:
    options = {"format": "raw", "machine": "x86_64", "bases": [entry.start for entry in found]}
    assert read([entry.data for entry in found], options).pages == frames(found)[0]


@given(
    st.sets(st.integers(0, 700), min_size=1, max_size=60),
    st.sampled_from((32, 64)),
    st.sampled_from("<>"),
    st.sampled_from((1024, 4096, 8192)),
    st.booleans(),
    st.data(),
)
def test_mcore_2(pfns: set[int], bits: int, order: str, size: int, full: bool, data: st.DataObject) -> None:
    ordered = sorted(pfns)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(ordered)), max_size=5)) | {len(ordered)})
    units = [ordered[low:high] for low, high in zip([0, *cuts], cuts, strict=False)]
    pages = {pfn: patterns.page(pfn, size) for pfn in pfns}
    machine = {(32, "<"): "i386", (64, "<"): "x86_64", (32, ">"): "ppc", (64, ">"): "s390x"}[bits, order]
    base = 0xC0000000 if bits == 32 else 0xFFFF888000000000
    spec = build_mcore.McoreSpec(pages, bits=bits, order=order, blk_size=size, base=base, units=units, full=full)
    assert read([build_mcore.build(spec)], {"machine": machine}).pages == pages


@given(
    st.integers(1, 40),
    st.integers(1, 5),
    st.sampled_from((32, 64)),
    st.sampled_from("<>"),
    st.sampled_from((1024, 4096)),
    st.integers(1, 3),
)
def test_mcore_1(cells: int, per: int, bits: int, order: str, size: int, headers: int) -> None:
    headers = min(headers, cells)
    share = -(-cells // headers)
    headers = -(-cells // share)
    pages = {pfn: patterns.page(pfn, size) for pfn in range(cells * per)}
    base = 0xC0000000 if bits == 32 else 0xFFFF888000000000
    spec = build_mcore.McoreSpec(
        pages, version=1, bits=bits, order=order, blk_size=size, base=base, per_entry=per,
        header_blocks=tuple(range(headers)),
    )  # fmt: skip
    machine = {(32, "<"): "i386", (64, "<"): "x86_64", (32, ">"): "ppc", (64, ">"): "s390x"}[bits, order]
    assert read([build_mcore.build(spec)], {"machine": machine}).pages == pages
