# SPDX-License-Identifier: GPL-2.0-or-later
"""Hypothesis strategies that draw dump descriptions for the builders; shrinking leads to small, plain dumps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from hypothesis import strategies as st

from . import build_flat, notes, patterns
from .build_elf import ElfSpec, Segment
from .build_kdump import CODEC_FLAGS, KdumpImage, KdumpSpec

Run = tuple[int, int]
KDUMP_KINDS = (
    ("64", "x86_64", "<"),
    ("64", "s390x", ">"),
    ("64", "ppc64le", "<"),
    ("64", "ppc64", ">"),
    ("32pack", "i386", "<"),
    ("32pad", "arm", "<"),
    ("32pad", "ppc", ">"),
)
ELF_ARCHES = ("x86_64", "i386", "arm", "aarch64", "ppc", "ppc64", "ppc64le", "s390x", "riscv64", "loongarch64")
HOLE, STORED, EXCLUDED = range(3)


@dataclass(frozen=True)
class MapDraw:
    """A drawn page map: stored frames with their patterns, excluded runs."""

    patterns: dict[int, str]
    excluded: tuple[Run, ...]
    page_size: int

    @property
    def pages(self) -> dict[int, bytes]:
        return {pfn: patterns.page(pfn, self.page_size, kind) for pfn, kind in self.patterns.items()}

    @property
    def end_pfn(self) -> int:
        return max([1, *(pfn + 1 for pfn in self.patterns), *(end for _, end in self.excluded)])


@st.composite
def page_maps(
    draw: st.DrawFn, *, max_runs: int = 6, page_sizes: Sequence[int] = (4096,), max_start: int = 70000
) -> MapDraw:
    """Draw a map of a few runs; neighbours may touch, word and byte edges of the bitmaps are likely."""
    page_size = draw(st.sampled_from(page_sizes))
    edges = (0, 1, 7, 8, 9, 63, 64, 65, 4095, 4096, 32767, 32768)
    position = draw(st.one_of(st.integers(0, 100), st.sampled_from(edges), st.integers(0, max_start)))
    kinds: dict[int, str] = {}
    excluded: list[Run] = []
    for state, size in draw(
        st.lists(st.tuples(st.sampled_from((HOLE, STORED, EXCLUDED)), st.integers(1, 40)), max_size=max_runs)
    ):
        if state == STORED:
            run = draw(st.lists(st.sampled_from(patterns.KINDS), min_size=1, max_size=4))
            kinds.update({position + index: run[index % len(run)] for index in range(min(size, 12))})
            size_used = min(size, 12)
        else:
            size_used = size
            if state == EXCLUDED:
                if excluded and excluded[-1][1] == position:
                    excluded[-1] = (excluded[-1][0], position + size)
                else:
                    excluded.append((position, position + size))
        position += size_used
    return MapDraw(kinds, tuple(excluded), page_size)


@st.composite
def kdump_specs(
    draw: st.DrawFn,
    *,
    versions: Sequence[int] = (1, 2, 3, 4, 5, 6),
    codecs: Sequence[str] = tuple(CODEC_FLAGS),
    page_sizes: Sequence[int] = (4096, 8192, 65536),
) -> KdumpSpec:
    """Draw an honest compressed kdump: every page is to be found as `build(spec).pages` says."""
    layout, arch, order = draw(st.sampled_from(KDUMP_KINDS))
    version = draw(st.sampled_from(versions))
    drawn = draw(page_maps(page_sizes=page_sizes))
    stored = sorted(drawn.patterns)
    some = st.sampled_from(stored) if stored else st.nothing()
    shared = draw(st.dictionaries(some, some, max_size=4)) if stored else {}
    share = {pfn: other for pfn, other in shared.items() if pfn != other and other not in shared}
    text = notes.vmcoreinfo_text(page_size=drawn.page_size)
    single = draw(st.booleans()) and not drawn.excluded
    return KdumpSpec(
        pages=drawn.pages,
        excluded=drawn.excluded,
        page_size=drawn.page_size,
        version=version,
        layout=layout,
        order=order,
        codec=draw(st.sampled_from(codecs)),
        page_codecs=draw(st.dictionaries(some, st.sampled_from(codecs), max_size=4)) if stored else {},
        share=share,
        share_zero=draw(st.booleans()),
        shuffle=draw(st.none() | st.integers(0, 9)),
        data_gap=draw(st.sampled_from((0, 0, 1, 4096))),
        single_bitmap=single,
        surplus_blocks=0 if single else draw(st.sampled_from((0, 0, 2, 4))),
        max_mapnr=drawn.end_pfn + draw(st.sampled_from((0, 0, 1, 7, 40000))),
        notes=notes.machine_notes(arch, order=order, cpus=draw(st.integers(0, 3)), text=text),
        vmcoreinfo=text,
        eraseinfo=draw(st.sampled_from((b"", b"erase jiffies size 8\n"))),
        uts={"machine": notes.ARCHES[arch].uts_machine, "release": "6.1.0-test"},
        phys_base=draw(st.sampled_from((0, 0x1000000))),
    )


@st.composite
def split_ranges(draw: st.DrawFn, end_pfn: int) -> list[Run]:
    """Draw ranges that tile 0..end_pfn; some may be empty."""
    cuts = sorted(draw(st.lists(st.integers(0, end_pfn), min_size=1, max_size=3)))
    edges = [0, *cuts, end_pfn]
    return list(pairwise(edges))


@st.composite
def elf_specs(draw: st.DrawFn, *, overlaps: bool = False) -> ElfSpec:
    """Draw an ELF vmcore of disjoint segments; `overlaps` adds a text alias with the same or other bytes."""
    arch = notes.ARCHES[draw(st.sampled_from(ELF_ARCHES))]
    bits = 64 if arch.bits == 64 else draw(st.sampled_from((32, 64)))
    position = draw(st.sampled_from((0, 0x1000, 0x9F000, 0x100000)))
    segments: list[Segment] = []
    for _ in range(draw(st.integers(0, 4))):
        position += draw(st.sampled_from((0, 0x1000, 0x5000, 0x400)))
        size = draw(st.sampled_from((0x1000, 0x2000, 0x5000, 0xC00, 0x1400, 0)))
        tail = draw(st.sampled_from((0, 0, 0x3000, 0x200)))
        segments.append(Segment(position, _content(position, size), memsz=size + tail))
        position += size + tail
    if draw(st.booleans()):
        segments.reverse()
    big = [segment for segment in segments if len(segment.data) >= 0x5000]
    if overlaps and big:
        inside = big[0].paddr + 0x1000
        data = _content(inside, 0x2000) if draw(st.booleans()) else bytes(0x2000)
        segments.insert(0, Segment(inside, data, vaddr=0xFFFFFFFF81000000 if bits == 64 else 0xC1000000))
    if draw(st.booleans()):
        segments.append(Segment(position + 0x10000, memsz=0x8000, fields={"p_offset": (1 << 64) - 1}))
    return ElfSpec(
        segments,
        notes=notes.machine_notes(arch.name, cpus=draw(st.integers(0, 2))),
        bits=bits,
        order=arch.order,
        machine=arch.machine,
        placement=draw(st.sampled_from(("page", "packed"))),
        qemu=draw(st.booleans()),
        xnum=draw(st.sampled_from((None, True))),
        notes_last=draw(st.booleans()),
        notes_at_end=draw(st.booleans()),
    )


def _content(paddr: int, size: int) -> bytes:
    """Patterned physical memory [paddr, paddr + size)."""
    first, last = paddr // 4096, (paddr + size + 4095) // 4096
    memory = b"".join(patterns.page(pfn) for pfn in range(first, last))
    return memory[paddr - first * 4096 :][:size]


@st.composite
def flat_records(draw: st.DrawFn, image: KdumpImage) -> list[build_flat.Record]:
    """Draw an order in which a kdump's bytes may come in a flattened stream."""
    shape = draw(st.sampled_from(("plain", "makedumpfile", "data-first", "qemu", "cyclic", "backwards", "twice")))
    data = image.to_bytes()
    size = draw(st.sampled_from((512, 4096, 5000, 65536)))
    if shape == "makedumpfile":
        return build_flat.kdump_makedumpfile(image)
    if shape == "data-first":
        return build_flat.kdump_makedumpfile(image, chunk=3, data_first=True)
    if shape == "qemu" and not image.spec.eraseinfo:
        return build_flat.kdump_qemu(image)
    if shape == "cyclic":
        return build_flat.kdump_cyclic(image)
    plain = build_flat.split_plain(data, size)
    if shape == "backwards":
        return plain[::-1]
    if shape == "twice":
        return [build_flat.Record(record.offset, b"\xee" * len(record.data)) for record in plain] + plain
    return plain
