# SPDX-License-Identifier: GPL-2.0-or-later
"""The digests by an implementation of BLAKE3 and of the tree that shares nothing with the product."""

from __future__ import annotations

import struct
from pathlib import Path

import blake3 as library
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dumpconv.formats.digest import LEAF_PFNS, LeafHasher, content_digest
from dumpconv.formats.pages import MemoryMap
from dumpconv.formats.statenote import state_digest
from support import patterns
from support.blake3_reference import blake3


def straightforward(pages: dict[int, bytes], page_size: int) -> bytes:
    """The content digest as the design words it."""
    leaves: dict[int, bytes] = {}
    for pfn in sorted(pages):
        leaves[pfn // 65536] = leaves.get(pfn // 65536, b"") + struct.pack("<Q", pfn) + pages[pfn]
    root = struct.pack("<Q", page_size)
    for number in sorted(leaves):
        root += struct.pack("<Q", number) + blake3(leaves[number])
    return blake3(root)


def by_product(pages: dict[int, bytes], page_size: int) -> bytes:
    leaves: dict[int, LeafHasher] = {}
    for pfn in sorted(pages):
        hasher = leaves.setdefault(pfn // LEAF_PFNS, LeafHasher())
        hasher.update(memoryview(struct.pack("<Q", pfn) + pages[pfn]))
    return content_digest(page_size, [(number, hasher.digest()) for number, hasher in leaves.items()])


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 1023, 1024, 1025, 2048, 2049, 3072, 5000])
def test_the_reference_is_blake3(size: int) -> None:
    data = bytes(index % 251 for index in range(size))
    assert blake3(data) == library.blake3(data).digest()


@settings(max_examples=12)
@given(st.sets(st.sampled_from((0, 1, 2, 65535, 65536, 65537, 1 << 40)), max_size=4))
def test_content_digest(pfns: set[int]) -> None:
    pages = {pfn: patterns.page(pfn, 4096, ("text", "zero", "mixed")[pfn % 3]) for pfn in pfns}
    assert by_product(pages, 4096) == straightforward(pages, 4096)


def test_the_page_size_counts() -> None:
    assert by_product({}, 4096) != by_product({}, 8192)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 1 << 40), st.integers(1, 4)), max_size=6))
def test_state_digest(rows: list[tuple[int, int, int]]) -> None:
    runs, position = [], 0
    for gap, size, state in rows:
        position += gap
        runs.append((position, position + size, state))
        position += size
    expected = struct.pack("<Q", 4096)
    for start, end, state in runs:
        expected += struct.pack("<QQQ", start, end - start, state)
    assert state_digest(MemoryMap.from_runs(runs), 4096) == blake3(expected)


def test_state_digest_of_many_runs() -> None:
    start = np.arange(0, 3 * 70000, 3, dtype=np.uint64)
    memory_map = MemoryMap.from_columns(start, start + np.uint64(1), 1)
    table = b"".join(struct.pack("<QQQ", pfn, 1, 1) for pfn in start.tolist())
    assert state_digest(memory_map, 4096) == library.blake3(struct.pack("<Q", 4096) + table).digest()


DOCUMENT = (Path(__file__).parents[2] / "docs" / "digest.md").read_text()
ROWS = [[word.strip(" `") for word in line.split("|")] for line in DOCUMENT.splitlines()]
# what the document says of its three memories: page size, stored frames, runs of states
MEMORIES: dict[str, tuple[int, list[int], list[tuple[int, int, int]]]] = {
    "A": (4096, [1], [(1, 2, 1)]),
    "B": (4096, [0, 1, 2, 65535, 65536], [(0, 3, 1), (3, 16, 2), (65535, 65537, 1)]),
    "C": (65536, [7, 8], [(7, 9, 1)]),
}


@pytest.mark.parametrize("name", MEMORIES)
def test_vectors_of_the_documentation(name: str) -> None:
    size, pfns, runs = MEMORIES[name]
    pages = {pfn: bytes([pfn & 0xFF]) * size for pfn in pfns}
    states = blake3(struct.pack("<Q", size) + b"".join(struct.pack("<QQQ", a, b - a, c) for a, b, c in runs))
    expected = ["", name, straightforward(pages, size).hex(), states.hex(), ""]
    assert expected in ROWS
    assert by_product(pages, size).hex() == expected[2]
    assert state_digest(MemoryMap.from_runs(runs), size).hex() == expected[3]
