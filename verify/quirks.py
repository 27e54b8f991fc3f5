# SPDX-License-Identifier: GPL-2.0-or-later
"""Known habits and bugs of dump writers: one table. A reader remarks on one, or a check of quirk_checks.py sees it.

The report names it (I306). docs/quirks.md is made from this table (`markdown`). A name is not used for something else.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ..formats.errors import DumpError
from ..formats.reader import DumpReader
from .quirk_checks import CHECKS

__all__ = ["QUIRKS", "Quirk", "markdown", "quirks_of"]


class Quirk(NamedTuple):
    """One quirk.

    Attributes:
        name: QK- and a few words.
        formats: Names of the readers that tell it, or whose dumps are looked at; none: all.
        remark: Code of their remark, "" where `CHECKS` has a check of this name.
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
    _row(
        "QK-PHYS-BASE",
        "kdump",
        "",
        "QEMU",
        "the sub header's phys_base is not VMCOREINFO's: QEMU reads the decimal number as hexadecimal",
        "VMCOREINFO's counts",
        "kdump",
    ),
    _row(
        "QK-PHYS-BASE-ZERO",
        "kdump",
        "",
        "QEMU, for a guest without VMCOREINFO",
        "phys_base in the sub header is 0, which says nothing",
        "it is searched for in memory where it is needed",
        "kdump",
    ),
    _row(
        "QK-SHIFTED-UTSNAME",
        "kdump diskdump",
        "utsname-shifted",
        "no released writer is known",
        "the six strings of utsname lie some bytes behind their place",
        "they are read where `Linux` begins",
        "kdump",
    ),
    _row(
        "QK-EMPTY-DESCRIPTORS",
        "kdump",
        "empty-descriptors",
        "makedumpfile, when the disk is full",
        "page descriptors of zeros: offset and size were never written",
        "their frames are lost",
        "kdump",
    ),
    _row(
        "QK-EMPTY-MEMBER",
        "kdump",
        "empty-members",
        "makedumpfile --split, on small machines",
        "a member of the set has no frames",
        "it takes part, and gives nothing",
        "kdump",
    ),
    _row(
        "QK-BUILD-ID",
        "",
        "",
        "Linux 5.15.168 and later, 6.1.113-118, 6.6.55-62, 6.10.14, 6.11.3-9",
        "BUILD-ID in VMCOREINFO has wrong bytes",
        "told: debuginfo is not to be chosen by it",
        "vmcoreinfo",
    ),
    _row(
        "QK-PID-ORDER",
        "elf kdump",
        "",
        "QEMU on a little-endian host, for a big-endian guest",
        "pr_pid in the register notes has the host's byte order",
        "notes are carried over as they are",
        "elf",
    ),
    _row(
        "QK-EHSIZE",
        "elf",
        "",
        "QEMU 7.2",
        "e_ehsize is 8",
        "the field is not used; our output has the right one",
        "elf",
    ),
    _row(
        "QK-NAME-WITHOUT-NUL",
        "netdump",
        "",
        "netdump, diskdump",
        "n_namesz is 4: the name CORE has no NUL",
        "names are compared up to a NUL or their end",
        "netdump",
    ),
    _row(
        "QK-RLE-DIALECT",
        "lkcd",
        "rle-dialect",
        "libkdumpfile's generator of test files",
        "RLE pages count a run of n bytes as n, not as n - 1",
        "pages that are whole by this rule alone are read by it",
        "lkcd",
    ),
    _row(
        "QK-NO-END",
        "lkcd",
        "no-end",
        "an interrupted LKCD, libkdumpfile's generator",
        "no END record",
        "the dump ends with its last whole record",
        "lkcd",
    ),
    _row(
        "QK-DATA-OFFSET",
        "lkcd",
        "data-offset",
        "LKCD with pages of 64 KiB, version 10",
        "page records begin elsewhere than the version has them",
        "they are looked for",
        "lkcd",
    ),
    _row(
        "QK-NO-VCPUS",
        "xc_core-old",
        "",
        "Xen 3.0.0, for a guest of one CPU",
        "nr_vcpus is 0",
        "read without registers",
        "xc_core-old",
    ),
    _row(
        "QK-EMPTY-ROWS",
        "xc_core",
        "",
        "Xen, for guests that gave memory back",
        "rows of .xen_pfn or .xen_p2m name no frame; their pages are zeros that belong nowhere",
        "left out",
        "xc_core",
    ),
    _row(
        "QK-XEN-ARM",
        "xc_core",
        "arm",
        "Xen on 64-bit ARM",
        "e_machine is that of 32-bit ARM",
        "the capabilities note tells",
        "xc_core",
    ),
    _row(
        "QK-EXP-DATA",
        "mcore",
        "exp-data",
        "no mcore of the kernel is known to",
        "map entries hold an address, which crash would follow",
        "never used",
        "mcore",
    ),
)


def quirks_of(reader: DumpReader) -> Iterator[Quirk]:
    """Yield the quirks that a dump has, each once, in the table's order."""
    told = {finding.code for finding in reader.findings}
    for quirk in QUIRKS:
        if (not quirk.formats or reader.name in quirk.formats) and (quirk.remark in told or _sees(quirk, reader)):
            yield quirk


def _sees(quirk: Quirk, reader: DumpReader) -> bool:
    try:
        return not quirk.remark and CHECKS[quirk.name](reader)
    except DumpError:  # what keeps it from being read is a finding of its own
        return False


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
        how = f": `{each.remark}`" if each.remark else ""
        told = ", ".join(name + how for name in each.formats) or "any format"
        page = f"[{each.source}](formats/{each.source}.md)"
        lines.append(f"| `{each.name}` | {each.writer} | {each.what} | {each.done} | {told} | {page} |")
    return "\n".join(lines) + "\n"
