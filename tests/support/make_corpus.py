# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes the corpus of small dumps, or checks with --check that it is whole and that the reference decoder agrees.

Run as `python tests/support/make_corpus.py [--check] [NAME...]`. The stored bytes count: other versions of the
compressors may write other bytes, which --check does not mind.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from support import (
    corpus_diskdump,
    corpus_elf,
    corpus_flat,
    corpus_kcore,
    corpus_kdump,
    corpus_lime,
    corpus_lkcd,
    corpus_mcore,
    corpus_netdump,
    corpus_raw,
    corpus_s390,
    corpus_vmdump,
    corpus_xen,
)
from support.corpus_case import MAX_SIZE, MAX_SIZES, Case, to_toml
from support.reference import ReferenceError, decode, pages_digest, runs_of

CORPUS = Path(__file__).resolve().parent.parent.parent / "corpus"
FORMATS = (
    "kdump",
    "diskdump",
    "netdump",
    "elf",
    "kcore",
    "flattened",
    "s390",
    "vmdump",
    "lime",
    "avml",
    "lkcd",
    "raw",
    "mcore",
    "xc_core",
    "xc_core-old",
    "xen-save",
)


def all_cases() -> Iterator[Case]:
    """Give every case; names are unique within a format."""
    yield from corpus_kdump.cases()
    yield from corpus_diskdump.cases()
    yield from corpus_netdump.cases()
    yield from corpus_elf.cases()
    yield from corpus_flat.cases()
    yield from corpus_lime.cases()
    yield from corpus_raw.cases()
    yield from corpus_xen.cases()
    yield from corpus_s390.cases()
    yield from corpus_kcore.cases()
    yield from corpus_mcore.cases()
    yield from corpus_vmdump.cases()
    yield from corpus_lkcd.cases()


def write(case: Case, corpus: Path = CORPUS) -> None:
    """Write the files of a case and its description."""
    folder = corpus / case.format
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in zip(case.file_names(), case.files, strict=True):
        if len(data) > MAX_SIZES.get(case.format, MAX_SIZE):
            raise ValueError(f"{case.format}/{name}: {len(data)} bytes are too many")
        (folder / name).write_bytes(data)
    (folder / f"{case.name}.toml").write_text(to_toml(case.description()))


def observed(paths: list[Path], options: dict[str, Any] | None = None) -> dict[str, Any]:
    """Give what the reference decoder finds, in the words of the description."""
    try:
        dump = decode(*paths, options=options)
    except ReferenceError as error:
        return {"exit_code": error.exit_code, "refused": True}
    return {
        "exit_code": dump.exit_code,
        "refused": False,
        "incomplete": dump.incomplete,
        "page_size": dump.page_size,
        "bits": dump.bits,
        "byte_order": "little" if dump.order == "<" else "big",
        "present": _lists(runs_of(dump.pages)),
        "excluded": _lists(dump.excluded_runs),
        "lost": _lists(runs_of(dump.lost)),
        "damaged": _lists(runs_of(dump.damaged)),
        "partial": [[pfn, *run] for pfn, runs in sorted(dump.partial.items()) for run in runs],
        "pages_sha256": pages_digest(dump.pages),
    }


def _lists(runs: list[tuple[int, int]]) -> list[list[int]]:
    return [list(run) for run in runs]


def check(description: Path) -> list[str]:
    """Give what is wrong with one stored case."""
    facts = tomllib.loads(description.read_text())
    paths = [description.parent / name for name in facts["files"]]
    problems = [f"{path.name} is missing" for path in paths if not path.is_file()]
    if problems:
        return problems
    for path, digest in zip(paths, facts["sha256"], strict=True):
        if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            problems.append(f"{path.name}: SHA-256 differs")
        limit = MAX_SIZES.get(description.parent.name, MAX_SIZE)
        if path.stat().st_size > limit:
            problems.append(f"{path.name}: larger than {limit} bytes")
    seen = observed(paths, facts.get("options"))
    expected = facts["expected"]
    problems += [
        f"{key}: expected {expected.get(key)!r}, decoded {seen.get(key)!r}"
        for key in sorted(expected.keys() | seen.keys())
        if expected.get(key) != seen.get(key)
    ]
    return problems


def stray_files(corpus: Path = CORPUS) -> list[Path]:
    """Give the files that no description names."""
    named = set()
    for description in descriptions(corpus):
        named.add(description)
        named |= {description.parent / name for name in tomllib.loads(description.read_text())["files"]}
    return [path for name in FORMATS for path in sorted((corpus / name).glob("*")) if path not in named]


def descriptions(corpus: Path = CORPUS) -> list[Path]:
    return [path for name in FORMATS for path in sorted((corpus / name).glob("*.toml"))]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    parser.add_argument("names", nargs="*", help="only these cases")
    options = parser.parse_args(arguments)
    if not options.check:
        for case in all_cases():
            if not options.names or case.name in options.names:
                write(case)
    problems = [f"{path}: described nowhere" for path in stray_files()]
    for description in descriptions():
        if not options.names or description.stem in options.names:
            problems += [f"{description.parent.name}/{description.stem}: {problem}" for problem in check(description)]
    print("\n".join(problems) or f"{len(descriptions())} cases are as described")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
