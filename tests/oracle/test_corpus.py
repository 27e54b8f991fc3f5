# SPDX-License-Identifier: GPL-2.0-or-later
"""Independent tools read the corpus as its descriptions say; where they do not, the reason is known and named."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from support import make_corpus, oracles
from support.reference import decode

pytestmark = pytest.mark.oracle
Need = Callable[..., None]

# What libkdumpfile 0.5.1 does otherwise (docs/formats/kdump.md section 6, elf.md section 9).
PAD = "reads max_mapnr_64 of every 32-bit file at the packed offset"
LENIENT = "takes what the codec library returns, and does not look whether all bytes were used"
DIFFERENT = {
    "kdump/descriptor-flags-several": "several flag bits: zlib first",
    "kdump/max-mapnr-saturated": "tests the bitmap's coverage against max_mapnr, not max_mapnr_64",
    "kdump/one-bitmap-nearly-empty": "halves a single block to zero",
    "kdump/pad-big-endian": PAD,
    "kdump/pad-v6": PAD,
    "kdump/pad-without-notes": PAD,
    "kdump/pad-without-vmcoreinfo": PAD,
    "kdump/truncated-last-page": "reads zeros up to the end of the host's page",
    "kdump/truncated-pages": "dies of SIGBUS: a mapped file that is too short",
    "kdump/usec-like-block-size": "takes microseconds for a 32-bit block size",
    "kdump/zlib-trailing": LENIENT,
    "kdump/zstd-skippable-first": LENIENT,
    "kdump/zstd-two-frames": LENIENT,
    "elf/filesz-above-memsz": "takes p_filesz",
    "elf/no-loads": "refuses a core without memory",
    "elf/offset-overflows": "fails without a message",
    "elf/truncated": "reads zeros beyond the end of the file",
    "elf/text-erased": "takes the bytes of the segment that was not erased",
    "elf/truncated-but-in-text": "reads the segment that is cut, not the copy",
}


def facts(description: Path) -> dict[str, object]:
    return tomllib.loads(description.read_text())["expected"]


def name_of(description: Path) -> str:
    return f"{description.parent.name}/{description.stem}"


ACCEPTED = [path for path in make_corpus.descriptions() if not facts(path)["refused"]]
PLAIN = [path for path in ACCEPTED if path.parent.name in ("kdump", "elf")]  # others have oracle tests of their own
STREAMS = [path for path in ACCEPTED if path.parent.name == "flattened" and facts(path)["exit_code"] == 0]


def files_of(description: Path) -> list[Path]:
    return [description.parent / name for name in tomllib.loads(description.read_text())["files"]]


def agrees(description: Path) -> bool:
    """Tell whether libkdumpfile has the same bytes for the present frames, and none for those that are not."""
    dump = decode(*files_of(description))
    expected = {pfn: hashlib.sha256(page).hexdigest() for pfn, page in dump.pages.items()}
    absent = {*dump.lost, *dump.damaged, *range(20, 23)} - set(expected)
    try:
        view = oracles.libkdumpfile(*files_of(description), pfns=expected.keys() | absent)
    except oracles.OracleError:
        return False
    return view.digests == expected | dict.fromkeys(absent)


@pytest.mark.parametrize("description", PLAIN, ids=name_of)
def test_libkdumpfile_reads_the_corpus(description: Path, need: Need) -> None:
    need("libkdumpfile")
    reason = DIFFERENT.get(name_of(description))
    if reason is None:
        assert agrees(description)
    elif agrees(description):
        pytest.skip(f"this libkdumpfile no longer differs: {reason}")


@pytest.mark.parametrize("description", STREAMS, ids=name_of)
def test_makedumpfile_rearranges_the_corpus(description: Path, tmp_path: Path, need: Need) -> None:
    need("makedumpfile")
    (stream,) = files_of(description)
    oracles.rearrange(stream, tmp_path / "out")
    dump, rearranged = decode(stream), decode(tmp_path / "out")
    assert rearranged.pages == dump.pages
    assert rearranged.excluded_runs == dump.excluded_runs
    assert rearranged.notes == dump.notes


def test_known_differences_name_cases() -> None:
    assert set(DIFFERENT) <= {name_of(path) for path in PLAIN}
