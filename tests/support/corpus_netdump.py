# SPDX-License-Identifier: GPL-2.0-or-later
"""The corpus of netdump: one small file per hazard of the sheet's Traps and Bad input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from . import patterns
from .build_elf import Segment, build
from .build_netdump import KINDS, netdump_notes, segment, spec
from .corpus_case import Case
from .notes import ARCHES, encode


def memory(start: int, end: int, size: int = 4096) -> bytes:
    return b"".join(patterns.page(pfn, size) for pfn in range(start, end))


def pages_of(segments: Sequence[Segment], size: int) -> dict[int, bytes]:
    """The whole pages of segments; the first that has a page counts."""
    out: dict[int, bytes] = {}
    for each in segments:
        for at in range(0, len(each.data), size):
            out.setdefault((each.paddr + at) // size, each.data[at : at + size])
    return out


def case(name: str, hazard: str, arch: str, segments: Sequence[Segment], *, cut: int = 0, **more: Any) -> Case:
    """A file; `cut` bytes are missing at its end."""
    size = more.get("page_size", KINDS[arch].page_size)
    own = ("pages", "excluded", "lost", "exit_code", "incomplete", "refused", "page_size", "partial")
    expected = {key: value for key, value in more.items() if key in own}
    described = spec(arch, segments, **{key: value for key, value in more.items() if key not in own})
    data = build(described).to_bytes()
    values: dict[str, Any] = {"pages": pages_of(segments, size), "page_size": size}
    values |= {"bits": ARCHES[arch].bits, "order": ARCHES[arch].order}
    return Case("netdump", name, hazard, [data[: len(data) - cut]], **(values | expected))


def cases() -> Iterator[Case]:
    yield from _machines()
    yield from _i386()
    yield from _notes()
    yield from _incomplete()
    yield from _bad()


def _machines() -> Iterator[Case]:
    yield case("x86-64", "one segment from physical 0", "x86_64", [segment("x86_64", 0, memory(0, 9))])
    two = [segment("x86_64", 0, memory(0, 4)), segment("x86_64", 0x100000, memory(256, 261))]
    yield case("x86-64-two-segments", "two segments with a gap", "x86_64", two)
    yield case("x86-64-one-high", "one segment that does not begin at 0", "x86_64", two[1:])
    parts = [segment("ia64", 0x4000, memory(1, 2, 16384)), segment("ia64", 0x4000000, memory(4096, 4097, 16384))]
    yield case("ia64", "pages of 16 KiB by p_align, several segments", "ia64", parts,
               notes=netdump_notes("ia64", switch_stack=0xE000000004567000))  # fmt: skip
    yield case("ppc64", "big endian, pages of 4 KiB by p_align", "ppc64", [segment("ppc64", 0, memory(0, 5))])
    hole = [segment("x86_64", 0, memory(0, 2) + bytes(8192) + memory(4, 5))]
    yield case("hole", "what was never sent reads as zeros", "x86_64", hole)


def _i386() -> Iterator[Case]:
    whole = segment("i386", 0, memory(0, 6))
    yield case("i386", "one segment from physical 0", "i386", [whole])
    yield case(
        "i386-hugemem", "4G/4G split: p_vaddr 0x02000000", "i386", [segment("i386", 0, memory(0, 3), vaddr=0x2000000)]
    )

    def told(**fields: int) -> list[Segment]:
        return [segment("i386", 0, memory(0, 6), fields=fields)]

    yield case("i386-filesz-small", "memory goes on behind p_filesz", "i386", told(p_filesz=8192, p_memsz=8192))
    yield case("i386-filesz-zero", "p_filesz 0, as 4 GiB modulo 2^32", "i386", told(p_filesz=0, p_memsz=0))
    yield case("i386-memsz-smaller", "p_memsz below p_filesz is not looked at", "i386", told(p_memsz=4096))
    pages = {pfn: patterns.page(pfn) for pfn in range(4)}
    lost = {"lost": [4, 5], "pages": pages, "exit_code": 3}
    yield case("i386-truncated", "the file ends before p_filesz", "i386", [whole], cut=8192, **lost)
    part = memory(0, 6)[:-4000]
    partial = {pfn: patterns.page(pfn) for pfn in range(5)} | {5: patterns.page(5)[:96] + bytes(4000)}
    yield case("i386-ends-inside-a-page", "the file's length is no multiple of a page", "i386",
               [segment("i386", 0, part)], pages=partial, partial={5: [(0, 96)]})  # fmt: skip
    two = [segment("i386", 0, memory(0, 2)), segment("i386", 0x8000, memory(8, 10))]
    yield case("i386-two-segments", "no i386 netdump has two: the rule of the file's length is off", "i386", two)
    yield case("i386-header-size-beyond", "memory begins behind the end of the file", "i386",
               told(p_offset=1 << 20), refused=True, exit_code=3)  # fmt: skip


def _notes() -> Iterator[Case]:
    one = [segment("x86_64", 0, memory(0, 3))]
    yield case("names-of-five", "names with their NUL, as the general rule has them", "x86_64", one,
               notes=netdump_notes(name=b"CORE\0"))  # fmt: skip
    yield case("savecore", "a note of diskdump's savecore, dump level 0", "x86_64", one,
               notes=netdump_notes(dump_level=0))  # fmt: skip
    yield case("savecore-partial", "dump level 19: what is left out reads as zeros", "x86_64", one,
               notes=netdump_notes(dump_level=19))  # fmt: skip
    yield case("no-task", "no task structure", "x86_64", one, notes=netdump_notes(task=None))
    empty = netdump_notes(task=None) + encode(b"CORE", 4, b"")
    yield case("task-empty", "n_descsz 0: no task", "x86_64", one, notes=empty)
    bad = netdump_notes() + encode(b"CORE", 5, b"", descsz=1 << 30)
    yield case("note-too-long", "a note that leaves its segment", "x86_64", one, notes=bad)


def _incomplete() -> Iterator[Case]:
    one = [segment("x86_64", 0, memory(0, 6))]
    yield case("vmcore-incomplete", "the server's name for a dump whose client died", "x86_64", one,
               incomplete=True, exit_code=4)  # fmt: skip
    pages = {pfn: patterns.page(pfn) for pfn in range(4)}
    yield case("vmcore-incomplete-cut", "what never came was not written", "x86_64", one, cut=8192,
               pages=pages, lost=[4, 5], incomplete=True, exit_code=4)  # fmt: skip
    yield case("truncated", "a file of another name that is cut", "x86_64", one, cut=8192,
               pages=pages, lost=[4, 5], exit_code=3)  # fmt: skip


def _bad() -> Iterator[Case]:
    for align in (3, 4097, 1 << 40):
        one = [segment("x86_64", 0, memory(0, 3), align=align)]
        yield case(f"align-{align}", "a p_align that is no page size", "x86_64", one)
    over = [segment("x86_64", 0, memory(0, 4)), segment("x86_64", 0x2000, memory(100, 104))]
    yield case("overlap", "segments overlap: the first counts", "x86_64", over)
    wraps = {"p_filesz": (1 << 64) - 1, "p_memsz": (1 << 64) - 1}
    yield case("size-wraps", "p_offset + p_filesz beyond 2^64", "x86_64",
               [segment("x86_64", 0, memory(0, 3), fields=wraps)], refused=True, exit_code=3)  # fmt: skip
    far = segment("x86_64", 0x100000, memory(256, 258), fields={"p_offset": 1 << 40})
    yield case("offset-beyond", "the second segment lies beyond the file", "x86_64",
               [segment("x86_64", 0, memory(0, 3)), far], pages={pfn: patterns.page(pfn) for pfn in range(3)},
               lost=[256, 257], exit_code=3)  # fmt: skip
