# SPDX-License-Identifier: GPL-2.0-or-later
"""Diskdump and netdump of any map, content and state: built, read by product and reference, equal."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from support import build_diskdump, build_elf, build_netdump, notes, patterns, product, strategies
from support.build_diskdump import DiskdumpSpec, ram_frames
from support.corpus_diskdump import REGISTERS
from support.reference import decode


@st.composite
def diskdumps(draw: st.DrawFn) -> DiskdumpSpec:
    """Draw an honest diskdump; `written` and `flushed` of an interrupted partition agree."""
    arch = draw(st.sampled_from(("i386", "x86_64", "ppc64")))
    facts = notes.ARCHES[arch]
    drawn = draw(strategies.page_maps(page_sizes=(4096, 8192)))
    partition = draw(st.booleans())
    single = draw(st.booleans()) and not drawn.excluded
    stored = sorted(drawn.patterns)
    written = draw(st.none() | st.integers(0, len(stored))) if stored else None
    return DiskdumpSpec(
        pages=drawn.pages,
        excluded=drawn.excluded,
        page_size=drawn.page_size,
        version=draw(st.sampled_from((0, 1))),
        bits=facts.bits,
        order=facts.order,
        compressed=draw(st.booleans()) and not (single and partition),
        single_bitmap=single,
        partition=partition,
        block0=draw(st.sampled_from(("formatted", "swap"))),
        spare=draw(st.integers(0, 3)),
        written=written,
        status=None if written is None else 4 | 8 * draw(st.booleans()),
        max_mapnr=drawn.end_pfn + draw(st.sampled_from((0, 1, 7, 40000))),
        registers=draw(st.none() | st.just(tuple(range(1, 1 + REGISTERS[arch])))),
        tasks=tuple(range(draw(st.integers(0, 4)))),
        current_cpu=draw(st.integers(0, 5)),
        flags=draw(st.dictionaries(st.sampled_from(stored), st.just(build_diskdump.ANON))) if stored else {},
        uts={"machine": facts.uts_machine, "release": "2.6.9-test"},
    )


def expected(spec: DiskdumpSpec) -> tuple[dict[int, bytes], set[int]]:
    """Give the pages that must be found, and the frames that must be lost."""
    stored = sorted(spec.pages)
    kept = stored if spec.written is None else stored[: spec.written]
    lost = set(stored) - set(kept)
    if spec.partition and spec.written is not None and not spec.single_bitmap:
        ram = ram_frames(spec)
        lost |= set(ram[ram.index(stored[-1]) + 1 :])  # bits behind the last one set were perhaps never written
    return {pfn: spec.pages[pfn] for pfn in kept}, lost


@given(diskdumps())
def test_a_built_diskdump_is_what_is_read(spec: DiskdumpSpec) -> None:
    if spec.partition and spec.status is not None:
        status = 4 | (8 if spec.compressed else 0)
        spec.status = status
    with tempfile.TemporaryDirectory() as folder:
        path = build_diskdump.build(spec).file.write_to(Path(folder) / "dump")
        pages, lost = expected(spec)
        salvage = spec.partition and spec.written == 0  # nothing counted, and perhaps no pattern to go by
        reader = product.open_product(path, salvage=salvage)
        seen, dump = product.view(reader), decode(path)
        if not salvage:
            assert (seen.pages, seen.lost) == (pages, lost)
            assert reader.damage is None
        assert (seen.pages, seen.lost, seen.excluded) == (dump.pages, set(dump.lost), dump.excluded_runs)
        assert (seen.damaged, dump.damaged) == (set(), {})
        assert (reader.incomplete, dump.incomplete) == (spec.written is not None, spec.written is not None)
        assert bool(reader.notes) == bool(dump.notes)
        assert b"".join(note.header(reader.machine.byteorder) + note.desc() for note in reader.notes) == dump.notes


@given(
    st.sampled_from(sorted(build_netdump.KINDS)),
    st.lists(st.tuples(st.integers(0, 6), st.integers(1, 5)), min_size=1, max_size=4),
    st.sampled_from((b"CORE", b"CORE\0")),
    st.integers(0, 1 << 32),
)
def test_a_built_netdump_is_what_is_read(arch: str, runs: list[tuple[int, int]], name: bytes, told: int) -> None:
    size, pfn = build_netdump.KINDS[arch].page_size, 0
    parts, pages = [], {}
    for gap, count in runs[:1] if arch == "i386" else runs:
        pfn += 0 if arch == "i386" else gap
        here = patterns.pages(pfn, pfn + count, size)
        # i386: p_filesz may say anything up to the size of the file
        fields = {"p_filesz": told % (count * size + 1), "p_memsz": told} if arch == "i386" else {}
        parts.append(build_netdump.segment(arch, pfn * size, b"".join(here.values()), fields=fields))
        pages |= here
        pfn += count
    described = build_netdump.spec(arch, parts, notes=build_netdump.netdump_notes(arch, name=name))
    with tempfile.TemporaryDirectory() as folder:
        path = build_elf.build(described).write_to(Path(folder) / "vmcore")
        reader = product.open_product(path)
        assert (reader.name, reader.machine.page_size, reader.damage) == ("netdump", size, None)
        seen, dump = product.view(reader), decode(path)
        assert seen.pages == dump.pages == pages
        assert (seen.lost, seen.excluded, seen.partial) == (set(), [], {})
        mine = b"".join(_padded(note.header(reader.machine.byteorder) + note.desc()) for note in reader.notes)
        assert mine == dump.notes


def _padded(note: bytes) -> bytes:
    return note + bytes(-len(note) % 4)
