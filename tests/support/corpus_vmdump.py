# SPDX-License-Identifier: GPL-2.0-or-later
"""The corpus of VMDUMP: one small file per hazard of the sheet."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Any

from . import patterns
from .build_s390 import Cpu
from .build_vmdump import PAGE, VmdumpSpec, build
from .corpus_case import Case

SPACE = 8 * PAGE  # of the ASIZBK
KEYS = 10 * PAGE  # of the first bit-key page
DATA = 11 * PAGE


def base(**more: Any) -> VmdumpSpec:
    """Four stored pages, twelve of zeros, two CPUs."""
    pages = patterns.pages(1, 4) | {9: patterns.page(9, kind="random")}
    cpus = [(0x4000, Cpu()), (0x6000, Cpu(psw=(1, 2)))]
    return VmdumpSpec(**({"pages": pages, "cpus": cpus} | more))


def case(name: str, hazard: str, spec: VmdumpSpec, *, present: Iterable[int] | None = None, lost: Iterable[int] = (),
         size: int | None = None, **more: Any) -> Case:  # fmt: skip
    lost = set(lost)
    frames = set(range(spec.nr_pages) if present is None else present) - lost
    pages = {pfn: spec.pages.get(pfn, bytes(PAGE)) for pfn in frames}
    values: dict[str, Any] = {"pages": pages, "lost": lost, "order": ">"}
    return Case("vmdump", name, hazard, [build(spec)[:size]], **(values | more))


def refused(name: str, hazard: str, spec: VmdumpSpec, exit_code: int = 3, size: int | None = None) -> Case:
    return Case("vmdump", name, hazard, [build(spec)[:size]], refused=True, exit_code=exit_code)


def cases() -> Iterator[Case]:
    yield case("big", "64-bit big: stored pages and zeros", base())
    yield case("one-cpu", "no further CPU", base(cpus=[(0x4000, Cpu())]))
    yield case("no-ranges", "no requested ranges: all of the defined storage", base(requested=[]))
    yield case("two-blocks", "an index bit for every 16 MiB, the second one not set", base(nr_pages=4100))
    yield case("key-bits", "the other bits of a key byte do not count", base(key=0xFE))
    ranges = [(0, 4 * PAGE - 1), (8 * PAGE, 12 * PAGE - 1)]
    yield case("requested", "what was not requested is excluded, not zero", base(requested=ranges),
               present=[*range(4), *range(8, 12)], excluded=[(4, 8), (12, 16)])  # fmt: skip
    yield case("unasked", "a stored page that nobody requested", base(requested=[(0, 4 * PAGE - 1), (10 * PAGE,
               12 * PAGE - 1)]), present=[*range(4), 9, 10, 11], excluded=[(4, 9), (12, 16)])  # fmt: skip
    yield case("not-online", "what is not online is a hole", base(requested=ranges, online=[(0, 6 * PAGE - 1)]),
               present=[*range(4), *range(8, 12)], excluded=[(4, 6)])  # fmt: skip
    yield case("far-access", "the access list at record 9", base(access=9))
    yield case("truncated", "the file ends in the pages", base(), lost=[3, 9], size=DATA + 2 * PAGE + 5, exit_code=3)
    yield case("keys-of-more", "key bytes behind the end of the storage do not count",
               base(patches={KEYS + 20: b"\x01"}))  # fmt: skip
    for name, kind in (("classic", 0x82), ("esa", 0x00), ("unknown", 0x33)):
        yield refused(f"format-{name}", f"another form: {name}", base(format=kind), 6)
    yield refused("record-0", "the access list is record 0", base(patches={PAGE + 16: bytes(4)}))
    yield refused("record-huge", "the access list is behind the file", base(patches={PAGE + 16: b"\x7f"}))
    yield refused("fir-huge", "the register record is behind the file", base(patches={PAGE + 8: b"\x7f"}))
    yield refused("no-fmbk", "the map record has another name", base(patches={PAGE: b"\0"}))
    yield refused("no-albk", "the access list has another name", base(patches={7 * PAGE: b"\0"}))
    yield refused("no-asizbk", "the address space record has another name", base(patches={SPACE: b"\0"}))
    yield refused("cpus-huge", "more CPUs than records", base(patches={2 * PAGE + 912: b"\xff\xff"}))
    yield refused("ranges-65", "more ranges than room", base(patches={SPACE + 216: struct.pack(">I", 65)}))
    yield refused("storage-0", "no storage", base(requested=[], size_def_store=0))
    yield refused("storage-huge", "2^63 bytes of storage", base(requested=[], size_def_store=1 << 63))
    yield refused("storage-more", "index pages that are not there", base(requested=[], size_def_store=1 << 52))
    yield refused("index-all", "bits for bit-key pages that are not there",
                  base(requested=[(0, (1 << 36) - 1)], patches={9 * PAGE: b"\xff" * PAGE}))  # fmt: skip
    yield refused("cut-keys", "the file ends in the bit-key page", base(), size=KEYS + 100)
    yield refused("cut-space", "the file ends in the address space record", base(), size=SPACE + 100)
