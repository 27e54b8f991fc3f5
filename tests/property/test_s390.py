# SPDX-License-Identifier: GPL-2.0-or-later
"""Any storage, in any form of the s390 family, comes back as it was."""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from support import patterns, product
from support.build_s390 import PAGE, S390Spec, Segment, build
from support.build_vmdump import VmdumpSpec
from support.build_vmdump import build as build_vmdump

NR_PAGES = 40


@st.composite
def storages(draw: st.DrawFn) -> dict[int, bytes]:
    pfns = draw(st.sets(st.integers(0, NR_PAGES - 1), max_size=NR_PAGES))
    return {pfn: patterns.page(pfn, kind=draw(st.sampled_from(patterns.KINDS))) for pfn in pfns}


@st.composite
def extended(draw: st.DrawFn) -> S390Spec:
    """Cut the storage into segments that cover what is not zero, some of them compressed."""
    pages = draw(storages())
    edges = sorted({0, NR_PAGES, *draw(st.sets(st.integers(0, NR_PAGES)))})
    entry_size = PAGE << draw(st.integers(0, 3))
    segments: list[Segment] = []
    for start, end in pairwise(edges):
        if any(any(pages.get(pfn, b"")) for pfn in range(start, end)) or draw(st.booleans()):
            entries = -(-(end - start) * PAGE // entry_size)
            as_is = tuple(draw(st.sets(st.integers(0, entries - 1))))
            segments.append(Segment(start, end, packed=draw(st.booleans()), as_is=as_is))
    # devices with blocks of 512 bytes never compress, and drawn memory may look like what must follow such a segment
    block_size = 512 if not any(each.packed for each in segments) else 4096
    if not segments:
        segments, pages = [Segment(0, 0)], {}
    return S390Spec(NR_PAGES, pages, segments, entry_size=entry_size, block_size=block_size)


def read(data: bytes, **more: Any) -> product.View:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dump"
        path.write_bytes(data)
        reader = product.open_product(path, **more)
        assert reader.damage is None
        return product.view(reader)


@given(extended())
def test_extended_is_what_went_in(spec: S390Spec) -> None:
    assert read(build(spec)).pages == spec.all_pages


@given(storages(), st.booleans())
def test_plain_and_tape_are_what_went_in(pages: dict[int, bytes], tape: bool) -> None:
    spec = S390Spec(NR_PAGES, pages, tape=tape)
    assert read(build(spec)).pages == spec.all_pages


@given(extended())
def test_plain_and_extended_have_one_digest(spec: S390Spec) -> None:
    assert read(build(spec)).digest == read(build(S390Spec(NR_PAGES, spec.pages))).digest


@given(storages(), st.lists(st.integers(0, NR_PAGES), min_size=2, max_size=6, unique=True))
def test_vmdump_is_what_went_in(pages: dict[int, bytes], edges: list[int]) -> None:
    edges = sorted(edges)[: len(edges) // 2 * 2]
    requested = [(low * PAGE, high * PAGE - 1) for low, high in zip(edges[::2], edges[1::2], strict=True)]
    asked = {pfn for low, high in zip(edges[::2], edges[1::2], strict=True) for pfn in range(low, high)}
    end = max(edges)
    stored = {pfn: page for pfn, page in pages.items() if pfn < end}
    seen = read(build_vmdump(VmdumpSpec(end, stored, requested=requested)))
    assert seen.pages == {pfn: stored.get(pfn, bytes(PAGE)) for pfn in asked | stored.keys()}
    gone = {pfn for low, high in seen.excluded for pfn in range(low, high)}
    assert gone == set(range(end)) - seen.pages.keys()
