# SPDX-License-Identifier: GPL-2.0-or-later
"""The corpus of /proc/kcore copies: small address spaces whose direct map begins near the start of the file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from . import notes, patterns
from .build_kcore import Area, KcoreSpec, build
from .corpus_case import Case

DIRECT, VMALLOC, VMEMMAP, TEXT = 0xFFFF888000000000, 0xFFFFC90000000000, 0xFFFFEA0000000000, 0xFFFFFFFF81000000
REAL = Path(__file__).resolve().parent.parent.parent / "corpus" / "kcore" / "debian-6.1-headers.kcore"


def memory(start_pfn: int, end_pfn: int) -> bytes:
    return b"".join(patterns.page(pfn) for pfn in range(start_pfn, end_pfn))


def ram(start_pfn: int, end_pfn: int, base: int = DIRECT, physical: int = 0) -> Area:
    """Give a range of the direct map; `physical`: where the first frame of memory is."""
    size, paddr = (end_pfn - start_pfn) * 4096, physical + start_pfn * 4096
    return Area(base + start_pfn * 4096, size, paddr, memory(paddr >> 12, (paddr + size) >> 12))


PAGES = patterns.pages(1, 4) | patterns.pages(6, 12)


def x86_64(**more: Any) -> KcoreSpec:
    """What a 6.x kernel shows: image, vmalloc, modules, RAM and the page structures of each."""
    areas = [
        Area(TEXT, 3 * 4096, 7 * 4096),
        Area(VMALLOC, 0x1FFFFFFFFFFF),
        Area(0xFFFFFFFFC0000000, 0x3F000000),
        ram(1, 4),
        Area(VMEMMAP, 4096),
        ram(6, 12),
        Area(VMEMMAP + 4096, 4096),
    ]
    return KcoreSpec(**{"areas": areas, "offset_base": DIRECT, **more})


def case(
    name: str, hazard: str, spec: KcoreSpec, pages: Mapping[int, bytes] = PAGES, **more: Any
) -> Case:  # fmt: skip
    facts = notes.ARCHES[spec.arch]
    values = {"pages": pages, "bits": facts.bits, "order": spec.order or facts.order} | more
    return Case("kcore", name, hazard, [build(spec).to_bytes()], **values)


def cases() -> Iterator[Case]:
    yield case("x86-64", "a copy that ends behind the direct map: the image's own mapping is not in it", x86_64())
    whole = len(build(x86_64()).to_bytes())
    yield case(
        "cut", "a copy that ends inside the direct map", x86_64(size=whole - 2 * 4096 - 100),
        patterns.pages(1, 4) | patterns.pages(6, 9), lost=[9, 10, 11], exit_code=3,
    )  # fmt: skip
    yield case(
        "headers", "headers alone: all memory is lost", x86_64(size=4096), {}, lost=[*range(1, 4), *range(6, 12)],
        exit_code=3,
    )  # fmt: skip
    yield case("no-vmcoreinfo", "a kernel of 4.11 to 4.18: p_paddr, no VMCOREINFO", x86_64(vmcoreinfo=b""))
    yield from _architectures()
    yield from _old_kernels()
    if REAL.exists():
        yield _real()


def _architectures() -> Iterator[Case]:
    base, first = 0xFFFF000000000000, 0x40000000
    areas = [Area(0xFFFF800008000000, 0x7DFFBFFF0000), ram(0, 4, base, first), ram(6, 9, base, first)]
    pages = patterns.pages(0x40000, 0x40004) | patterns.pages(0x40006, 0x40009)
    yield case(
        "aarch64", "RAM from 1 GiB on, mapped at the start", KcoreSpec(areas, "aarch64", offset_base=base), pages
    )
    base = 0xC000000000000000
    areas = [Area(0xC008000000000000, 1 << 42), ram(0, 5, base)]
    big = KcoreSpec(areas, "ppc64", offset_base=base)
    yield case("ppc64", "big endian; physical address 0 is memory", big, patterns.pages(0, 5))
    areas = [Area(0x3FFE0000000, 1 << 30), ram(0, 5, 0)]
    yield case("s390x", "virtual is physical", KcoreSpec(areas, "s390x"), patterns.pages(0, 5))
    areas = [Area(0xE0800000, 0x1F000000), ram(0, 6, 0xC0000000)]
    low = KcoreSpec(areas, "i386", offset_base=0xC0000000)
    yield case("i386", "32 bits: low memory alone, p_paddr of vmalloc is 2^32 - 1", low, patterns.pages(0, 6))
    arm = KcoreSpec([Area(0xF0800000, 0xF000000), ram(0, 6, 0xC0000000, 0x60000000)], "arm", offset_base=0xC0000000)
    yield case("arm", "32 bits: RAM from 1.5 GiB on", arm, patterns.pages(0x60000, 0x60006))
    yield case(
        "x86-64-five-levels", "RAM at 0xff11000000000000",
        KcoreSpec([Area(TEXT, 4096, 4096), Area(0xFFA0000000000000, 1 << 53), ram(1, 6, 0xFF11000000000000)],
                  offset_base=0xFF11000000000000), patterns.pages(1, 6),
    )  # fmt: skip


def _old_kernels() -> Iterator[Case]:
    yield case("old-x86-64", "before 4.11: p_paddr 0 everywhere", x86_64(no_paddr=True, vmcoreinfo=b""))
    base = 0xFFFF9D4040000000  # the direct map moved by 1 GiB steps
    areas = [Area(TEXT, 8192), Area(0xFFFFAE6680000000, 0x1FFFFFFFFFFF), ram(1, 4, base), Area(VMEMMAP, 4096)]
    moved = KcoreSpec(areas, offset_base=base, no_paddr=True, vmcoreinfo=b"")
    yield case("old-x86-64-kaslr", "before 4.11 with KASLR", moved, patterns.pages(1, 4))
    areas = [Area(0xE0800000, 0x1F000000), ram(0, 6, 0xC0000000)]
    low = KcoreSpec(areas, "i386", offset_base=0xC0000000, no_paddr=True, vmcoreinfo=b"")
    yield case("old-i386", "before 4.11, 32 bits", low, patterns.pages(0, 6))
    areas = [Area(0xD000000000000000, 1 << 43), ram(0, 5, 0xC000000000000000)]
    big = KcoreSpec(areas, "ppc64", offset_base=0xC000000000000000, no_paddr=True, vmcoreinfo=b"")
    yield case("old-ppc64", "before 4.11, big endian", big, patterns.pages(0, 5))
    areas = [Area(0x3E000000000, 1 << 30), ram(1, 5, 0)]
    same = KcoreSpec(areas, "s390x", no_paddr=True, vmcoreinfo=b"")
    yield case("old-s390x", "before 4.11, virtual is physical", same, patterns.pages(1, 5))
    areas = [Area(0xFFFF000008000000, 1 << 40), ram(0, 4, 0xFFFF800000000000, 0x40000000)]
    arm = KcoreSpec(areas, "aarch64", offset_base=0xFFFF800000000000, no_paddr=True, vmcoreinfo=b"")
    files = [build(arm).to_bytes()]
    hazard = "before 4.11 where nothing tells physical addresses"
    yield Case("kcore", "old-aarch64", hazard, files, refused=True, exit_code=6)


def _real() -> Case:
    # RAM as the guest's /proc/iomem had it, less its last page that is not whole: Linux rounds inwards
    ranges = [(0x1, 0x9F), (0x100, 0x3FFDD)]
    lost = [pfn for low, high in ranges for pfn in range(low, high)]
    return Case(
        "kcore", REAL.stem, "the first bytes of a real /proc/kcore", [REAL.read_bytes()], lost=lost, exit_code=3,
        origin="/proc/kcore of a Debian guest (6.1.0-56-cloud-amd64), made by corpus/lab/live-guest",
    )  # fmt: skip
