# SPDX-License-Identifier: GPL-2.0-or-later
"""`dumpconv --verify`: reads an output back before it gets its name, and proves that its memory is the source's.

An ELF file is read by pyelftools' headers and a loop of its own, hashed by the words of docs/digest.md: nothing of the
writer, of our ELF reader or of the pipeline. Other formats are read by our readers (which other programs have checked)
and decoded by the pipeline of `dumpverify`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

import blake3
import numpy as np
from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from ..formats import open_dump
from ..formats.errors import CorruptDump, FixityError
from ..formats.executor import ExecutorChoice
from ..formats.intervals import inside
from ..formats.pages import PageState
from ..formats.reader import DumpReader, Options
from .canonical_rules import broken_rules
from .pagecheck import PageOptions, check_pages
from .verdict import TargetReport

__all__ = ["ReadBack", "elf_content_digest", "read_back"]

_LEAF = 65536  # frames; docs/digest.md
_CHUNK = 1 << 20
Progress = Callable[[int], object]


class ReadBack(NamedTuple):
    """What the output's bytes prove.

    Attributes:
        content_digest: Hexadecimal, of the memory in the output.
        pages: Frames read.
    """

    content_digest: str
    pages: int


def read_back(
    paths: Sequence[str],
    expected: str,
    reading: Options,
    *,
    jobs: int = 1,
    executor: ExecutorChoice = "auto",
    progress: Progress = lambda done: None,
) -> ReadBack:
    """Read an output, and compare its memory with the source's.

    Args:
        paths: Its files, under the names that they have now.
        expected: Content digest of the source, hexadecimal.
        reading: How to open it.
        jobs, executor: Workers, for formats that must be decoded.
        progress: Called with bytes of pages read.

    Raises:
        CorruptDump: The output is not well formed, or does not decode: exit code 3.
        FixityError: Its memory is not the source's: exit code 5.
    """
    reader = open_dump(paths, reading._replace(salvage=False, find_sisters=False, tap=None))
    if reader.damage is not None:
        raise reader.damage
    if reader.name == "elf":
        broken = broken_rules(reader)
        if broken:
            raise CorruptDump(f"the output breaks canonical rule {broken[0].rule}: {broken[0].message}", path=paths[0])
        found = elf_content_digest(paths[0], reader, progress)
    else:
        found = _decoded(reader, paths[0], PageOptions(jobs, executor, True), progress)
    if found.content_digest != expected:
        raise FixityError(
            f"read back, the output's content digest is {found.content_digest}, the source's is {expected}",
            path=paths[0],
            hint="the output was not kept: look at the disk and the memory of this machine",
        )
    return found


def _decoded(reader: DumpReader, path: str, options: PageOptions, progress: Progress) -> ReadBack:
    report = TargetReport([path], "content")
    check_pages(reader, report, options, progress)
    bad = next((each for each in report.findings if each.code[0] == "E"), None)
    if bad is not None:
        raise CorruptDump(f"read back, the output is damaged: {bad.message}", path=path, offset=bad.offset, pfn=bad.pfn)
    return ReadBack(report.digests["content"], reader.memory_map.count(PageState.STORED))


class _Segment(NamedTuple):
    paddr: int
    offset: int
    size: int


def elf_content_digest(path: str, reader: DumpReader, progress: Progress = lambda done: None) -> ReadBack:
    """Hash the memory in an ELF core file by docs/digest.md, in one thread and one pass.

    Args:
        path: The file.
        reader: For its page size, and which frames are filled (they count as absent).
        progress: Called with bytes read.

    Raises:
        CorruptDump: Its headers do not parse, or a segment does not fit in.
    """
    size = reader.machine.page_size
    fill = reader.fill_runs
    root = blake3.blake3(struct.pack("<Q", size))
    leaf_number, leaf, pages = -1, blake3.blake3(), 0
    with open(path, "rb", buffering=0) as file:
        for segment in _segments(path, size):
            done = 0
            while done < segment.size:
                pfn = (segment.paddr + done) // size
                room = (_LEAF - pfn % _LEAF) * size
                want = min(_CHUNK // size * size or size, segment.size - done, room)
                file.seek(segment.offset + done)
                data = file.read(want)
                if len(data) != want:
                    raise CorruptDump(
                        f"{want} bytes wanted, {len(data)} there", path=path, offset=segment.offset + done
                    )
                if pfn // _LEAF != leaf_number:
                    _end_leaf(root, leaf_number, leaf)
                    leaf_number, leaf = pfn // _LEAF, blake3.blake3()
                records = np.empty((want // size, 8 + size), np.uint8)
                pfns = np.arange(pfn, pfn + len(records), dtype="<u8")
                records[:, :8] = pfns.view(np.uint8).reshape(-1, 8)
                records[:, 8:] = np.frombuffer(data, np.uint8).reshape(-1, size)
                if len(fill[0]):
                    records = records[~inside(*fill, pfns.astype(np.uint64))]
                if len(records):
                    leaf.update(np.ascontiguousarray(records).tobytes())
                    pages += len(records)
                done += want
                progress(want)
    _end_leaf(root, leaf_number, leaf)
    return ReadBack(root.hexdigest(), pages)


def _end_leaf(root: blake3.blake3, number: int, leaf: blake3.blake3) -> None:
    if number >= 0 and leaf.hexdigest() != blake3.blake3().hexdigest():  # an empty leaf does not count
        root.update(struct.pack("<Q", number) + leaf.digest())


def _segments(path: str, page_size: int) -> list[_Segment]:
    # PT_LOADs in order of addresses; the alias of the kernel's text points at bytes of another and is left out
    found: list[_Segment] = []
    try:
        with open(path, "rb") as file:
            elf = ELFFile(file)
            for segment in elf.iter_segments("PT_LOAD"):
                head = segment.header
                found.append(_Segment(head["p_paddr"], head["p_offset"], head["p_filesz"]))
    except ELFError as error:
        raise CorruptDump(f"the output's headers do not parse: {error}", path=path) from error
    kept: list[_Segment] = []
    for each in sorted(found, key=lambda each: (each.paddr, -each.size)):
        if each.paddr % page_size or each.size % page_size:
            raise CorruptDump(f"segment at {each.paddr:#x} of {each.size} bytes is no whole pages", path=path)
        if kept and each.paddr < kept[-1].paddr + kept[-1].size:
            last = kept[-1]
            same = each.offset - last.offset == each.paddr - last.paddr
            if not same or each.paddr + each.size > last.paddr + last.size:
                raise CorruptDump(f"segments at {last.paddr:#x} and {each.paddr:#x} overlap", path=path)
            continue
        kept.append(each)
    return kept
