# SPDX-License-Identifier: GPL-2.0-or-later
"""Known habits and bugs of dump writers: one table. A reader remarks on one, the report names it (I306).

docs/quirks.md is made from this table (`markdown`). A name is never used for something else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ..formats.reader import Finding

__all__ = ["QUIRKS", "Quirk", "markdown", "quirks_of"]


class Quirk(NamedTuple):
    """One quirk.

    Attributes:
        name: QK- and a few words.
        formats: Names of the readers that tell it.
        remark: Code of their remark.
        writer: Who does it.
        what: What the file has.
        done: What we do.
        source: The page of docs/formats that describes it.
    """

    name: str
    formats: tuple[str, ...]
    remark: str
    writer: str
    what: str
    done: str
    source: str


def _row(name: str, formats: str, remark: str, writer: str, what: str, done: str, source: str) -> Quirk:
    return Quirk(name, tuple(formats.split()), remark, writer, what, done, source)


QUIRKS: tuple[Quirk, ...] = (
    _row(
        "QK-NAMELESS",
        "kdump",
        "machine-guessed",
        "QEMU",
        "the header names no machine, or `Unknown`",
        "the size of the register notes tells the machine",
        "kdump",
    ),
    _row(
        "QK-ARM-PFN",
        "kdump",
        "arm-pfn",
        "makedumpfile on arm",
        "frames are numbered from the start of RAM",
        "the start of RAM is added",
        "kdump",
    ),
    _row(
        "QK-BLOCK-SIZE",
        "kdump",
        "block-size",
        "QEMU",
        "a block holds several pages of the kernel's",
        "blocks are divided into pages",
        "kdump",
    ),
    _row(
        "QK-ONE-BITMAP",
        "kdump diskdump",
        "one-bitmap",
        "diskdump",
        "one bitmap instead of two",
        "it is taken for both",
        "kdump",
    ),
    _row(
        "QK-NO-PADDR",
        "elf",
        "no-paddr",
        "kernels, for memory outside the direct map",
        "p_paddr of a segment is all ones: no physical address",
        "the segment is left out",
        "elf",
    ),
    _row(
        "QK-SHORT-FILESZ",
        "elf",
        "tail",
        "makedumpfile -E",
        "p_filesz is below p_memsz, and nothing says whether the rest is zero or was left out",
        "the rest is not made zero unless --tail-zero says so",
        "elf",
    ),
    _row(
        "QK-FILESZ-WRAPS",
        "netdump",
        "above-filesz",
        "netdump on i386",
        "p_filesz is 32 bits wide and cannot say how much memory there is",
        "the file's size counts",
        "netdump",
    ),
    _row(
        "QK-ZERO-FOR-ABSENT",
        "netdump",
        "holes",
        "netdump's savecore",
        "pages that never came or were left out are zeros in the file",
        "told; the file does not tell them from pages of zeros",
        "netdump",
    ),
    _row(
        "QK-ODD-END",
        "lkcd",
        "odd-end",
        "zfcpdump, vmconvert",
        "the last record again, instead of an END record",
        "it ends the dump as END does",
        "lkcd",
    ),
    _row(
        "QK-RECORD-UNIT",
        "lkcd",
        "record-unit",
        "LKCD on ia64 (2.5.44, SLES 9)",
        "records hold less than dh_page_size",
        "frames have the records' size",
        "lkcd",
    ),
    _row(
        "QK-VIRTUAL-ADDRESSES",
        "lkcd",
        "virtual-addresses",
        "LKCD version 1 on i386",
        "records have virtual addresses",
        "PAGE_OFFSET is subtracted",
        "lkcd",
    ),
    _row(
        "QK-NUM-PAGES",
        "lkcd",
        "num-pages",
        "LKCD",
        "dh_num_pages is stale after an interruption: the header counts other pages than there are records",
        "the records count",
        "lkcd",
    ),
    _row(
        "QK-ORPHAN-HEADERS",
        "avml lime",
        "orphans",
        "AVML 0.16 and 0.17",
        "headers of blocks of zeros without data behind them",
        "they are pages of zeros",
        "avml",
    ),
    _row(
        "QK-ZERO-BLOCKS",
        "avml lime",
        "zero-blocks",
        "AVML",
        "blocks of zeros are left out",
        "told; holes cannot be told from them",
        "avml",
    ),
    _row(
        "QK-PARTIAL-ZERO",
        "lime",
        "partial-zero",
        "LiME",
        "the rest of a frame that is partly RAM is zeros",
        "told",
        "lime",
    ),
    _row(
        "QK-KCORE-NO-PADDR",
        "kcore",
        "direct-map",
        "kernels before 4.11",
        "no physical addresses in /proc/kcore",
        "those of the direct map are taken",
        "kcore",
    ),
    _row(
        "QK-ZERO-STORAGE",
        "vmdump s390",
        "zero-storage",
        "z/VM, zipl's dump tools",
        "pages of zeros are left out",
        "told; holes of the storage cannot be told from them",
        "s390",
    ),
)


def quirks_of(reader: str, findings: Iterable[Finding]) -> Iterator[Quirk]:
    """Yield the quirks that a reader's remarks mean, each once, in the table's order."""
    told = {finding.code for finding in findings}
    return (quirk for quirk in QUIRKS if reader in quirk.formats and quirk.remark in told)


def markdown() -> str:
    """Return docs/quirks.md."""
    lines = [
        "# Quirks of dump writers",
        "",
        "`dumpverify` names each with I306. Made from `verify/quirks.py`.",
        "",
        "| Name | Writer | What the file has | What dumpconv does | Told by | Described in |",
        "|---|---|---|---|---|---|",
    ]
    for each in QUIRKS:
        told = ", ".join(f"{name}: `{each.remark}`" for name in each.formats)
        page = f"[{each.source}](formats/{each.source}.md)"
        lines.append(f"| `{each.name}` | {each.writer} | {each.what} | {each.done} | {told} | {page} |")
    return "\n".join(lines) + "\n"
