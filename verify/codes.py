# SPDX-License-Identifier: GPL-2.0-or-later
"""What `dumpverify` may find: one table of stable codes, each with cause, remedy and exit code.

A code is never used again for something else. E: data or job is not as it should be; W: look at it; I: good to know.
docs/findings.md is made from this table.
"""

from __future__ import annotations

from typing import NamedTuple

from ..formats import codecs
from ..formats.errors import (
    CodecUnavailable,
    CorruptDump,
    CorruptStream,
    DumpError,
    FixityError,
    InputError,
    MissingPart,
    PageDecodeError,
    TruncatedDump,
    UnknownFormat,
    UnknownMachine,
    UnsupportedDump,
    UsageError,
)

__all__ = ["CODES", "Code", "code_of_error", "code_of_reason", "code_of_remark"]


class Code(NamedTuple):
    """One kind of finding.

    Attributes:
        code: E, W or I and three digits.
        title: A few words.
        cause: What brings it about.
        remedy: What to do.
        exit_code: What it makes of the exit status; 0 for I, 7 for W (with --strict).
    """

    code: str
    title: str
    cause: str
    remedy: str
    exit_code: int


def _table(*rows: tuple[str, int, str, str, str]) -> dict[str, Code]:
    return {code: Code(code, title, cause, remedy, exit_code) for code, exit_code, title, cause, remedy in rows}


_AGAIN = "fetch the file again from where it was made, or convert what is whole with --salvage"

CODES: dict[str, Code] = _table(
    # -- E1: the dump's bytes --------------------------------------------------------------------------------
    ("E101", 3, "headers contradict themselves", "a damaged header, or a writer's bug", _AGAIN),
    ("E102", 3, "shorter than its own tables say", "the copy was cut off, or the writer was", _AGAIN),
    ("E103", 3, "page does not decode", "flipped, lost or foreign bytes in its stored data", _AGAIN),
    ("E104", 3, "page data lies past the end of the file", "the copy was cut off", _AGAIN),
    ("E105", 3, "page table entry is impossible", "flipped bytes in the page descriptors", _AGAIN),
    ("E106", 3, "stored data of different pages overlaps", "a damaged table, or files spliced together", _AGAIN),
    ("E107", 3, "notes do not parse", "flipped bytes among the notes, or a writer's bug", "registers may be missing"),
    ("E108", 3, "page table and page map disagree", "a damaged bitmap or table", _AGAIN),
    ("E109", 3, "stream or outer compression is damaged", "the compressed file was cut off or changed", _AGAIN),
    ("E110", 5, "memory is not what its digest says", "the file changed since it was converted", "use another copy"),
    ("E111", 5, "page states are not what their digest says", "the file changed since then", "use another copy"),
    ("E112", 5, "file is not what the manifest says", "it changed since the manifest was made", "use another copy"),
    ("E113", 1, "file of the manifest is missing", "moved or deleted", "restore it, or make the manifest anew"),
    ("E114", 5, "memory is not what the manifest says", "page contents changed", "use another copy"),
    # -- E12: the canonical form ----------------------------------------------------------------------------------
    ("E121", 3, "canonical rule 1: header", "e_type, machine, class or byte order is not the rule's", "convert again"),
    ("E122", 3, "canonical rule 2: program headers", "not one PT_NOTE first, then PT_LOADs", "convert again"),
    ("E123", 3, "canonical rule 3: order in the file", "notes behind data, or bytes after the data", "convert again"),
    ("E124", 3, "canonical rule 4: PT_LOAD order", "unsorted, overlapping or unaligned segments", "convert again"),
    ("E125", 3, "canonical rule 5: sizes", "p_filesz is not p_memsz, or a segment is empty", "convert again"),
    ("E126", 3, "canonical rule 6: absent pages", "a frame noted as absent lies in a PT_LOAD", "convert again"),
    ("E127", 3, "canonical rule 7: addresses", "p_vaddr is not what memory says, or all zero", "convert again"),
    ("E128", 3, "canonical rule 8: fill", "pages noted as filled with zeros are not", "convert again"),
    ("E129", 3, "canonical rule 9: notes", "the source's notes are not first, or unpadded", "convert again"),
    ("E130", 3, "canonical rule 10: our notes", "the state or provenance note is not whole", "convert again"),
    ("E131", 3, "canonical rule 11: incomplete mark", "e_flags and the page states disagree", "convert again"),
    ("E132", 3, "canonical rule 12: repeatable", "converting it again would change it", "convert again"),
    # -- E14: the kernel in the memory ------------------------------------------------------------------------------
    ("E141", 3, "init_uts_ns is not what VMCOREINFO says", "memory and notes are of different kernels", _AGAIN),
    ("E142", 3, "page tables do not map the kernel text", "pages changed places, or are not of one machine", _AGAIN),
    ("E143", 3, "kernel log does not parse", "its pages are damaged, or were overwritten in the crash", "see the log"),
    ("E144", 3, "two copies of kernel memory differ", "one of them was changed after the dump was made", _AGAIN),
    # -- E15: the job -----------------------------------------------------------------------------------------------
    ("E150", 1, "cannot be read", "I/O error, permission, a file that is gone", "mend the storage, try again"),
    ("E151", 1, "changed while it was read", "somebody writes to it", "try again when it is at rest"),
    ("E152", 1, "part of a set is missing", "not all members of a split dump are here", "give all members"),
    ("E153", 10, "not checked: budget reached", "--max-duration or --max-bytes", "run again; --state goes on"),
    ("E154", 6, "format not recognised", "no dump, or damaged in its first bytes", "see `dumpconv formats`"),
    ("E155", 6, "variant or codec not supported", "a known format in an unknown form", "see the message"),
    ("E156", 2, "files are not one dump", "several files were given as one", "give them one by one"),
    ("E157", 3, "known to be bad, not checked again", "the budget ended before it", "see the report of that check"),
    (
        "E158",
        3,
        "was a dump when it was checked before",
        "its first bytes are damaged, or another file was put in its place",
        "use another copy, or --allow E158",
    ),
    (
        "E159",
        70,
        "not checked: a bug of dumpverify",
        "this file, and a mistake of ours",
        "report it; --debug shows where",
    ),
    # -- E2: incomplete at the source --------------------------------------------------------------------------------
    ("E201", 4, "incomplete by the writer's own word", "the dump device was full, or the machine died", "none"),
    ("E202", 4, "pages are missing from a set", "a split member is not here", "give all members"),
    # -- W2: doubtful -----------------------------------------------------------------------------------------------
    ("W210", 7, "header field is odd", "a writer's bug or a newer version", "see the message"),
    ("W211", 7, "bitmap is odd", "bits past the end, one bitmap for two, or pages stored where no RAM is", "none"),
    ("W212", 7, "machine or page size was guessed", "the header does not name it", "--machine, --page-size"),
    ("W213", 7, "segments are odd", "empty, overlapping, wrapping, or without physical addresses", "see the message"),
    (
        "W214",
        7,
        "copies of the same memory differ",
        "the machine ran while it was dumped, or one is damaged",
        "compare",
    ),
    ("W215", 7, "VMCOREINFO and header disagree", "notes of another kernel, or a writer's bug", "see both values"),
    ("W216", 7, "registers are missing or of an odd size", "a CPU did not answer, or a writer's bug", "none"),
    ("W217", 7, "no VMCOREINFO", "the writer had none", "analyze with --vmlinux or --system-map"),
    ("W218", 7, "page occurs more than once", "a writer's bug; the copies are equal, or the first was kept", "none"),
    ("W219", 7, "remark of the reader", "something unusual that loses nothing", "see the message"),
    ("W220", 7, "not all checks were possible", "too irregular for bounded memory", "see the message"),
    ("W221", 7, "manifest does not list the file", "the file came later, or was moved", "make the manifest anew"),
    ("W222", 7, "manifest is odd", "it contradicts itself, or has an algorithm that is not known", "see the message"),
    ("W223", 7, "bytes where pages should be belong to none", "a damaged bitmap, or bytes put into the file", _AGAIN),
    ("W224", 7, "link that leads nowhere", "what it names was moved or deleted", "restore that, or delete the link"),
    ("W225", 7, "state file is damaged", "the machine or its disk failed", "see to the disk; nothing else is lost"),
    # -- I3: good to know -------------------------------------------------------------------------------------------
    ("I301", 0, "no dump: skipped", "another file in the directory", "none"),
    ("I302", 0, "how the input was had", "stream, outer compression, spool file", "none"),
    ("I303", 0, "pages were left out on purpose", "filtered when the dump was made", "none"),
    ("I304", 0, "format cannot tell holes from excluded pages", "the format has no such field", "none"),
    ("I305", 0, "not canonical: rules that the file does not follow", "another program wrote it", "dumpconv IN OUT"),
    ("I307", 0, "no dump: only its digest was checked", "another file that the manifest lists", "none"),
    ("I308", 0, "checked here, not by the cluster", "a worker does not see the file, or sees another one", "share it"),
    ("I309", 0, "link to a directory elsewhere: not followed", "a link in a directory", "name it as a PATH of its own"),
    ("I306", 0, "known quirk of a writer", "see the quirk's name", "none"),
)

# Remarks of readers that are not W219.
_REMARKS = {
    "notes-damaged": "E107",
    "cut-off": "E102",
    "digest-differs": "E110",
    "version": "W210",
    "userland": "W210",
    "one-bitmap": "W211",
    "stored-not-ram": "W211",
    "bits-past-end": "W211",
    "arm-pfn": "W212",
    "machine-guessed": "W212",
    "block-size": "I306",
    "utsname-shifted": "I306",
    "empty-members": "I306",
    "empty-descriptors": "E201",
    "rle-dialect": "I306",
    "odd-end": "I306",
    "virtual-addresses": "I306",
    "page-size-differs": "W215",
    "page-size-assumed": "W212",
    "machine": "W212",
    "no-paddr": "W213",
    "filesz": "W213",
    "wraps": "W213",
    "overlap": "W220",
    "overlap-differs": "W214",
    "cut": "E104",
    "tail": "I304",
    "zero-storage": "I304",
    "size-limit": "I303",
    "source": "I302",
    "duplicates": "W218",
}

# The first class that an error is an instance of counts.
_ERRORS: tuple[tuple[type[DumpError], str], ...] = (
    (PageDecodeError, "E103"),
    (CorruptStream, "E109"),
    (TruncatedDump, "E102"),
    (CorruptDump, "E101"),
    (FixityError, "E110"),
    (MissingPart, "E152"),
    (UnknownFormat, "E154"),
    (UnsupportedDump, "E155"),
    (CodecUnavailable, "E155"),
    (UnknownMachine, "E155"),
    (UsageError, "E156"),
    (InputError, "E150"),
)

_REASONS = {"past_end": "E104", "no_descriptor": "E102", "empty": "E105", "message": "E103"}


def code_of_error(error: DumpError) -> str:
    """Return the code of what opening or reading a dump raised."""
    return next((code for kind, code in _ERRORS if isinstance(error, kind)), "E150")


def code_of_remark(slug: str) -> str:
    """Return the code of a reader's remark."""
    return _REMARKS.get(slug, "W219")


def code_of_reason(reason: int) -> str:
    """Return the code of an entry of `codecs.REASONS`: why a table entry leads to no page."""
    return _REASONS.get(codecs.REASONS[reason][0], "E105")
