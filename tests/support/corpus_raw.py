# SPDX-License-Identifier: GPL-2.0-or-later
"""The corpus of raw memory: flat files, and what the user says of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from . import patterns
from .corpus_case import Case


def memory(start_pfn: int, end_pfn: int) -> bytes:
    return b"".join(patterns.page(pfn) for pfn in range(start_pfn, end_pfn))


def raw(name: str, hazard: str, files: list[bytes], pages: dict[int, bytes], said: dict[str, Any], **more: Any) -> Case:
    options = {"format": "raw", "machine": "x86_64"} | said
    return Case("raw", name, hazard, files, pages=pages, options=options, **more)


def cases() -> Iterator[Case]:
    low = patterns.pages(0, 4)
    yield raw("flat", "one file, address 0", [memory(0, 4)], low, {})
    yield raw("base", "the first byte has an address", [memory(0x80000, 0x80003)], patterns.pages(0x80000, 0x80003),
              {"base": 0x80000000})  # fmt: skip
    yield raw("offset-and-length", "memory inside a larger image", [b"\xee" * 100 + memory(0, 4) + b"\xee" * 5000], low,
              {"offset": 100, "length": 0x4000})  # fmt: skip
    yield raw("pieces", "several files, each at its address, not in order", [memory(0x100, 0x103), memory(0, 4)],
              low | patterns.pages(0x100, 0x103), {"bases": [0x100000, 0]})  # fmt: skip
    part = patterns.page(3)[:100].ljust(4096, b"\0")
    yield raw("end-inside-a-page", "a size that is no multiple of the page", [memory(0, 4)[: 3 * 4096 + 100]],
              patterns.pages(0, 3) | {3: part}, {}, partial={3: [(0, 100)]})  # fmt: skip
    halves = [memory(0, 4)[:0x1800], memory(0, 4)[0x1800:]]
    yield raw("pieces-share-a-page", "two files that meet inside a page", halves, low, {"bases": [0, 0x1800]})
    yield raw("shorter-than-said", "fewer bytes than the user says", [memory(0, 3)[:-10]], patterns.pages(0, 2),
              {"length": 0x4000}, lost=[2, 3], exit_code=3)  # fmt: skip
    yield raw("big-endian", "a big-endian machine", [memory(0, 4)], low, {"machine": "s390x"}, order=">")
    yield raw("i386", "a 32-bit machine", [memory(0, 4)], low, {"machine": "i386"}, bits=32)
    yield raw("looks-like-elf", "memory that begins like an ELF file is memory", [b"\x7fELF" + memory(0, 4)[4:]],
              low | {0: b"\x7fELF" + patterns.page(0)[4:]}, {})  # fmt: skip
    yield Case("raw", "no-machine", "the user does not say of which machine", [memory(0, 4)], refused=True, exit_code=2,
               options={"format": "raw"})  # fmt: skip
    yield Case("raw", "offset-beyond", "the memory is said to begin behind the end", [memory(0, 1)], refused=True,
               exit_code=2, options={"format": "raw", "machine": "x86_64", "offset": 5000})  # fmt: skip
