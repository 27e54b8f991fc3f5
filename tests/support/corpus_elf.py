# SPDX-License-Identifier: GPL-2.0-or-later
"""The corpus of ELF vmcores: one small file per hazard of the sheet's Traps and Bad input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from . import notes, patterns
from .build_elf import ElfSpec, Segment, build
from .corpus_case import Case

ONES = (1 << 64) - 1
DIRECT = 0xFFFF888000000000


def memory(start_pfn: int, end_pfn: int) -> bytes:
    return b"".join(patterns.page(pfn) for pfn in range(start_pfn, end_pfn))


def ram(start_pfn: int, end_pfn: int, **more: Any) -> Segment:
    values = {"vaddr": DIRECT + start_pfn * 4096} | more
    return Segment(start_pfn * 4096, memory(start_pfn, end_pfn), **values)


LOW, HIGH = ram(1, 4), ram(16, 20)
PAGES = patterns.pages(1, 4) | patterns.pages(16, 20)


def spec(segments: Sequence[Segment] = (LOW, HIGH), arch: str = "x86_64", **more: Any) -> ElfSpec:
    facts = notes.ARCHES[arch]
    values = {
        "segments": segments,
        "notes": notes.machine_notes(arch),
        "bits": facts.bits,
        "order": facts.order,
        "machine": facts.machine,
    } | more
    return ElfSpec(**values)


def good(name: str, hazard: str, described: ElfSpec, pages: dict[int, bytes] | None = None, **more: Any) -> Case:
    values: dict[str, Any] = {"pages": PAGES if pages is None else pages} | more
    values |= {"bits": described.bits, "order": described.order}
    return Case("elf", name, hazard, [build(described).to_bytes()], **values)


def refused(name: str, hazard: str, described: ElfSpec, exit_code: int = 3) -> Case:
    return Case("elf", name, hazard, [build(described).to_bytes()], refused=True, exit_code=exit_code)


def cases() -> Iterator[Case]:
    yield from _producers()
    yield from _classes()
    yield from _tails_and_partial_frames()
    yield from _overlaps()
    yield from _odd_fields()
    yield from _bad_headers()
    yield from _truncated()


def _producers() -> Iterator[Case]:
    text = Segment(17 * 4096, memory(17, 19), vaddr=0xFFFFFFFF81000000)
    yield good("kernel", "/proc/vmcore: text segment first, page aligned", spec([text, LOW, HIGH]))
    yield good("packed", "makedumpfile -E: data packed, p_offset unaligned", spec(placement="packed"))
    yield good("qemu", "QEMU >= 7.2: sections first, program headers at 192, e_ehsize 8", spec(qemu=True))
    yield good("xnum", "PN_XNUM with few segments", spec(xnum=True))
    yield good("xnum-no-section-count", "PN_XNUM, e_shnum 0", spec(xnum=True, xnum_shnum=0))
    yield good("xnum-qemu", "PN_XNUM in QEMU's layout", spec(qemu=True, xnum=True))
    yield good("notes-last", "PT_NOTE after the PT_LOADs", spec(notes_last=True))
    yield good("notes-at-end", "note bytes at the end of the file", spec(notes_at_end=True))
    two = [notes.prstatus(), notes.vmcoreinfo(notes.vmcoreinfo_text())]
    yield good("two-notes", "two PT_NOTE segments", spec(notes=two))
    yield good("phoff-192", "a gap before the program headers", spec(phoff=192))
    yield good("phentsize-larger", "program headers with a larger stride", spec(phentsize=64))
    yield good("vaddr-zero", "p_vaddr 0 everywhere", spec([ram(1, 4, vaddr=0), ram(16, 20, vaddr=0)]))
    yield good("vaddr-all-ones", "p_vaddr unknown", spec([ram(1, 4, vaddr=ONES), ram(16, 20, vaddr=ONES)]))


def _classes() -> Iterator[Case]:
    small = [ram(1, 4, vaddr=0xC0001000), ram(16, 20, vaddr=0xC0010000)]
    yield good("elf32-little", "ELFCLASS32", spec(small, "i386"))
    yield good("elf32-big", "ELFCLASS32, big endian", spec(small, "ppc"))
    yield good("elf32-xnum", "PN_XNUM in ELFCLASS32", spec(small, "arm", xnum=True))
    yield good("elf64-of-i386", "a 32-bit machine in ELFCLASS64", spec(small, "i386", bits=64))
    yield good("elf64-big", "ELFCLASS64, big endian", spec(arch="s390x"))
    top = Segment((1 << 32) - 8192, memory(0xFFFFE, 0x100000))
    yield good(
        "elf32-ends-at-4-gib", "p_paddr + p_memsz is 2^32", spec([top], "i386"), patterns.pages(0xFFFFE, 0x100000)
    )
    far = ram((1 << 43) + 5, (1 << 43) + 7)
    yield good(
        "beyond-2-53", "addresses that a double does not hold",
        spec([LOW, far]), patterns.pages(1, 4) | patterns.pages((1 << 43) + 5, (1 << 43) + 7),
    )  # fmt: skip
    last = ram((1 << 52) - 2, 1 << 52, vaddr=0)
    yield good(
        "ends-at-2-64",
        "p_paddr + p_memsz is 2^64",
        spec([LOW, last]),
        patterns.pages(1, 4) | patterns.pages((1 << 52) - 2, 1 << 52),
    )


def _tails_and_partial_frames() -> Iterator[Case]:
    yield good("tail", "p_memsz > p_filesz", spec([replace(LOW, memsz=10 * 4096), HIGH]), excluded=[(4, 11)])
    yield good(
        "tail-only", "p_filesz 0 and p_offset 0: wholly excluded",
        spec([LOW, HIGH, Segment(32 * 4096, memsz=8 * 4096)]), excluded=[(32, 40)],
    )  # fmt: skip
    yield good(
        "offset-all-ones", "p_filesz 0 and p_offset all ones (QEMU, outside the filter)",
        spec([LOW, HIGH, Segment(32 * 4096, memsz=4096, fields={"p_offset": ONES})]), excluded=[(32, 33)],
    )  # fmt: skip
    yield good(
        "tail-huge", "2^60 bytes of tail: nothing may be as large as it",
        spec([LOW, HIGH, Segment(1 << 32, memsz=1 << 60)]), excluded=[(1 << 20, (1 << 20) + (1 << 48))],
    )  # fmt: skip
    yield good(
        "tail-under-present", "a tail over frames that another segment holds",
        spec([replace(LOW, memsz=19 * 4096), HIGH]), excluded=[(4, 16)],
    )  # fmt: skip
    part = Segment(32 * 4096, memory(32, 34)[:0x1C00])
    yield good(
        "end-inside-a-page", "a segment that ends inside a page",
        spec([LOW, HIGH, part]), PAGES | {32: patterns.page(32), 33: patterns.page(33)[:0xC00].ljust(4096, b"\0")},
        partial={33: [(0, 0xC00)]},
    )  # fmt: skip
    start = Segment(32 * 4096 + 0x400, memory(32, 34)[0x400:])
    yield good(
        "start-inside-a-page", "a segment that starts inside a page",
        spec([LOW, HIGH, start]), PAGES | {32: bytes(0x400) + patterns.page(32)[0x400:], 33: patterns.page(33)},
        partial={32: [(0x400, 0x1000)]},
    )  # fmt: skip
    halves = [Segment(32 * 4096, memory(32, 33)[:0x800]), Segment(32 * 4096 + 0x800, memory(32, 33)[0x800:])]
    yield good(
        "two-halves", "two segments that make one page", spec([LOW, HIGH, *halves]), PAGES | patterns.pages(32, 33)
    )
    apart = [halves[0], Segment(32 * 4096 + 0xC00, memory(32, 33)[0xC00:])]
    page = patterns.page(32)
    yield good(
        "two-parts-with-a-gap", "two segments in one page, a hole between",
        spec([LOW, HIGH, *apart]), PAGES | {32: page[:0x800] + bytes(0x400) + page[0xC00:]},
        partial={32: [(0, 0x800), (0xC00, 0x1000)]},
    )  # fmt: skip
    yield good(
        "end-inside-a-page-with-tail", "the rest of a partial page is tail",
        spec([LOW, HIGH, replace(part, memsz=0x4000)]),
        PAGES | {32: patterns.page(32), 33: patterns.page(33)[:0xC00].ljust(4096, b"\0")},
        partial={33: [(0, 0xC00)]}, excluded=[(34, 36)],
    )  # fmt: skip


def _overlaps() -> Iterator[Case]:
    other = bytes([0xEE]) * 8192
    text = Segment(17 * 4096, other, vaddr=0xFFFFFFFF81000000)
    yield good("text-differs", "the text segment has other bytes: RAM's are kept", spec([text, LOW, HIGH]))
    erased = notes.machine_notes() + notes.encode(b"ERASEINFO\0", 0, b"erase init_task.comm size 16\n")
    pages = patterns.pages(1, 4) | patterns.pages(16, 20) | {17: other[:4096], 18: other[4096:]}
    yield good(
        "text-erased",
        "makedumpfile -E erased in the text segment alone: its bytes are kept",
        spec([text, LOW, HIGH], notes=erased),
        pages,
    )
    yield good("text-differs-last", "the same with the text segment last", spec([LOW, HIGH, text]))
    shared = Segment(17 * 4096, vaddr=0xFFFFFFFF81000000, same_as=(2, 4096), same_size=8192)
    yield good("text-shares-bytes", "the text segment points at RAM's bytes", spec([shared, LOW, HIGH]))
    again = Segment(18 * 4096, other + other, vaddr=DIRECT + 18 * 4096)
    yield good(
        "ram-overlaps", "two RAM segments differ: the first in the file is kept",
        spec([LOW, HIGH, again]), PAGES | {20: other[:4096], 21: other[:4096]},
    )  # fmt: skip
    yield good("unsorted", "segments not in order of address", spec([HIGH, LOW]))


def _odd_fields() -> Iterator[Case]:
    yield good(
        "flags-incomplete", "e_flags bit 0: the writer ran out of space", spec(e_flags=1), exit_code=4, incomplete=True
    )
    yield good("flags-of-the-abi", "ppc64's e_flags 1 is its ABI", spec(arch="ppc64", e_flags=1))
    stack = Segment(0, type=0x6474E551)
    yield good("gnu-stack", "a program header of another type", spec([LOW, stack, HIGH]))
    none = ram(40, 42, fields={"p_paddr": ONES})
    yield good("paddr-all-ones", "a segment without a physical address", spec([LOW, none, HIGH]))
    yield good("filesz-above-memsz", "p_filesz > p_memsz: the smaller counts", spec([LOW, ram(16, 24, memsz=4 * 4096)]))
    yield good("no-notes", "no PT_NOTE", spec(notes=[]))
    yield good("no-loads", "no PT_LOAD", spec([]), {})
    zeros = notes.machine_notes() + bytes(24)
    yield good("notes-zero-terminated", "zero note headers at the end", spec(notes=zeros))
    yield good(
        "xnum-not-meant", "section 0 lies, e_phnum is no PN_XNUM", spec(qemu=True, section0={"sh_info": 0xFFFFFFFF})
    )
    first = ram(0, 2, vaddr=0)
    yield good(
        "frame-zero", "memory from address 0", spec([first, HIGH]), patterns.pages(0, 2) | patterns.pages(16, 20)
    )
    many = [Segment(2 * n * 4096 + 0x10, b"%04d" % n, fields={"p_align": 0}) for n in range(300)]
    pages = {2 * n: (bytes(16) + b"%04d" % n).ljust(4096, b"\0") for n in range(300)}
    yield good(
        "many-tiny", "300 segments of four bytes", spec(many, placement="packed"), pages,
        partial={2 * n: [(16, 20)] for n in range(300)},
    )  # fmt: skip


def _bad_headers() -> Iterator[Case]:
    yield refused("type-exec", "not a core", spec(ehdr={"e_type": 2}), 6)
    yield refused("class-unknown", "EI_CLASS 3", spec(ident={4: 3}), 6)
    yield refused("order-unknown", "EI_DATA 0", spec(ident={5: 0}), 6)
    yield refused("phentsize-zero", "e_phentsize 0", spec(ehdr={"e_phentsize": 0}))
    yield refused("phentsize-small", "e_phentsize of the other class", spec(ehdr={"e_phentsize": 32}))
    yield refused("phoff-outside", "program headers beyond the file", spec(ehdr={"e_phoff": 1 << 40}))
    yield refused("phoff-overflows", "e_phoff + table beyond 2^64", spec(ehdr={"e_phoff": ONES - 10}))
    yield refused("phnum-large", "more program headers than the file has bytes", spec(ehdr={"e_phnum": 0xFFFE}))
    yield refused("xnum-without-section", "PN_XNUM and no section table", spec(ehdr={"e_phnum": 0xFFFF}))
    yield refused("xnum-huge", "2^32-1 program headers", spec(xnum=True, section0={"sh_info": 0xFFFFFFFF}))
    yield refused(
        "xnum-section-outside", "PN_XNUM, section table beyond the file", spec(xnum=True, ehdr={"e_shoff": 1 << 50})
    )
    outside = build(spec()).headers[0]["p_offset"]
    place = 64 + 8
    yield refused(
        "notes-outside", "PT_NOTE beyond the file", spec(patches={place: (outside + (1 << 40)).to_bytes(8, "little")})
    )


def _truncated() -> Iterator[Case]:
    image = build(spec())
    data = image.to_bytes()
    cut = data[: -4096 - 100]
    pages = {pfn: page for pfn, page in PAGES.items() if pfn < 18}
    yield Case("elf", "truncated", "the file ends inside a page", [cut], pages=pages, lost=[18, 19], exit_code=3)
    yield Case("elf", "truncated-notes", "the file ends inside the notes", [data[:400]], refused=True, exit_code=3)
    yield Case(
        "elf", "truncated-phdrs", "the file ends inside the program headers", [data[:100]], refused=True, exit_code=3
    )
    yield Case("elf", "truncated-ehdr", "the file ends inside the ELF header", [data[:40]], refused=True, exit_code=3)
    beyond = ram(40, 42, fields={"p_offset": ONES - 100})
    yield good(
        "offset-overflows", "p_offset + p_filesz beyond 2^64", spec([LOW, HIGH, beyond]), lost=[40, 41], exit_code=3
    )
    text = Segment(18 * 4096, memory(18, 20), vaddr=0xFFFFFFFF81000000)
    lost_copy = build(spec([text, LOW, HIGH])).to_bytes()[:-8192]
    yield Case(
        "elf",
        "truncated-but-in-text",
        "lost in RAM's copy, present in the text segment",
        [lost_copy],
        pages=PAGES,
        exit_code=3,
    )
