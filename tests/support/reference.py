# SPDX-License-Identifier: GPL-2.0-or-later
"""The slow reference decoder: what pages a kdump, a flattened stream or an ELF vmcore holds, by the sheets alone."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from .reference_diskdump import DiskdumpReference, starts_like_one
from .reference_elf import ElfReference
from .reference_kcore import KcoreReference, is_kcore
from .reference_kdump import MAGIC, KdumpReference
from .reference_lime import LimeReference, is_lime
from .reference_lkcd import LkcdReference, is_lkcd
from .reference_mcore import McoreReference, is_mcore
from .reference_netdump import NetdumpReference, netdump_align
from .reference_raw import RawReference
from .reference_s390 import S390Reference
from .reference_s390 import starts_like_one as starts_like_s390
from .reference_source import ReferenceDump, ReferenceError, Source, open_source
from .reference_vmdump import VmdumpReference, is_vmdump
from .reference_xen import XenReference, open_xen
from .reference_xen import starts_like_one as is_xen

__all__ = ["ReferenceDump", "ReferenceError", "decode", "open_reference", "pages_digest", "runs_of"]

PathLike = str | os.PathLike[str]
Reference = (
    KdumpReference
    | DiskdumpReference
    | NetdumpReference
    | ElfReference
    | LimeReference
    | LkcdReference
    | RawReference
    | XenReference
    | S390Reference
    | McoreReference
    | VmdumpReference
)


@contextmanager
def open_reference(
    *paths: PathLike, salvage: bool = False, page_size: int | None = None, options: Mapping[str, Any] | None = None
) -> Iterator[Reference]:
    """Open a dump (several paths: a split set); `frames()` of what it yields decodes page by page.

    Args:
        paths: the file, or all members of a split set in any order.
        salvage: accept a split set with missing members.
        page_size: of an ELF vmcore whose notes do not say it (else 4096).
        options: what the user says of a dump that does not say it: format, base, bases, offset, length, machine.

    Raises:
        ReferenceError: the file as a whole is refused.
    """
    sources: list[Source] = []
    try:
        sources.extend(open_source(path) for path in paths)
        yield _reader(sources, salvage=salvage, page_size=page_size, options=options or {})
    finally:
        for source in sources:
            source.close()


def _reader(sources: list[Source], *, salvage: bool, page_size: int | None, options: Mapping[str, Any]) -> Reference:
    if options.get("format") == "raw":
        return RawReference(sources, options)
    heads = [source.read(0, min(8, source.size)) for source in sources]
    if all(head == MAGIC for head in heads):
        return KdumpReference(sources, salvage=salvage)
    if not any(head[:4] == b"\x7fELF" for head in heads) and all(starts_like_s390(source) for source in sources):
        return S390Reference(sources, salvage=salvage)
    if len(sources) > 1:
        raise ReferenceError("several files, but no split set", "usage")
    return _one_file(sources[0], heads[0], page_size)


def _one_file(source: Source, head: bytes, page_size: int | None) -> Reference:
    kinds: tuple[tuple[Callable[[Source], bool], Callable[[Source], Reference]], ...] = (
        (is_vmdump, VmdumpReference),
        (starts_like_one, DiskdumpReference),
        (is_xen, open_xen),
        (lambda _: head[:4] == b"\x7fELF", lambda source: _elf_reader(source, page_size)),
        (lambda _: is_lime(head), LimeReference),
        (is_lkcd, LkcdReference),
        (is_mcore, McoreReference),
    )
    for fits, opens in kinds:
        if fits(source):
            return opens(source)
    raise ReferenceError("no format known here", "unknown")


def _elf_reader(source: Source, page_size: int | None) -> Reference:
    if is_kcore(source):
        return KcoreReference(source, page_size=page_size)
    if (align := netdump_align(source)) is not None:
        return NetdumpReference(source, align, page_size=page_size)
    return ElfReference(source, page_size=page_size)


def decode(
    *paths: PathLike, salvage: bool = False, page_size: int | None = None, options: Mapping[str, Any] | None = None
) -> ReferenceDump:
    """Decode a whole dump into memory; see open_reference()."""
    with open_reference(*paths, salvage=salvage, page_size=page_size, options=options) as reader:
        result = reader.result
        for pfn, state, payload in reader.frames():
            if isinstance(payload, bytes):
                result.pages[pfn] = payload
            elif state == "lost":
                result.lost[pfn] = payload
            else:
                result.damaged[pfn] = payload
        return result


def runs_of(pfns: Iterable[int]) -> list[tuple[int, int]]:
    """Give sorted runs [start, end) of a set of frames."""
    runs: list[tuple[int, int]] = []
    for pfn in sorted(pfns):
        if runs and runs[-1][1] == pfn:
            runs[-1] = (runs[-1][0], pfn + 1)
        else:
            runs.append((pfn, pfn + 1))
    return runs


def pages_digest(pages: Mapping[int, bytes]) -> str:
    """Give the SHA-256 of (pfn as u64 little-endian, page) of each page in pfn order."""
    digest = hashlib.sha256()
    for pfn in sorted(pages):
        digest.update(struct.pack("<Q", pfn) + pages[pfn])
    return digest.hexdigest()
