# SPDX-License-Identifier: GPL-2.0-or-later
"""A mutated file is what the reference decoder makes of it, or one DumpError, in bounded time and memory."""

from __future__ import annotations

import random
import tempfile
from argparse import Namespace
from pathlib import Path

import pytest
from fuzz import fuzz
from hypothesis import given, settings
from hypothesis import strategies as st

from support import build_elf, build_kdump, corrupt, strategies


def outcome(data: bytes) -> tuple[str, str]:
    with tempfile.TemporaryDirectory() as folder:
        return fuzz.run_one([data], Path(folder), canonical=False, convert_too=True)


@settings(max_examples=60)
@given(strategies.kdump_specs(page_sizes=(4096,)), st.integers(0, 1 << 32), st.integers(0, 3))
def test_drawn_kdumps(spec: build_kdump.KdumpSpec, seed: int, count: int) -> None:
    data = corrupt.mutate(build_kdump.build(spec).to_bytes(), random.Random(seed), count=count)
    assert not outcome(data)[0].startswith("!")


@settings(max_examples=60)
@given(strategies.elf_specs(overlaps=True), st.integers(0, 1 << 32), st.integers(0, 3))
def test_drawn_elf_files(spec: build_elf.ElfSpec, seed: int, count: int) -> None:
    data = corrupt.mutate(build_elf.build(spec).to_bytes(), random.Random(seed), count=count)
    assert not outcome(data)[0].startswith("!")


@pytest.mark.parametrize("kind", ["kdump", "elf", "lime", "avml", "lkcd", "raw", "mcore"])
def test_the_corpus(kind: str, tmp_path: Path) -> None:
    """A short run of the fuzzer, always the same."""
    seeds, options = fuzz.seeds(kind), Namespace(seed=20, format=kind)
    found = []
    for number in range(500):
        seed, files = fuzz.make(options, seeds, number)
        result = fuzz.run_one(
            files, tmp_path, canonical=seed.canonical, convert_too=number % 16 == 0, options=seed.options
        )
        if result[0].startswith("!"):
            found.append((number, seed.name, *result))
    assert found == []
