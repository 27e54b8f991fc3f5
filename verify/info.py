# SPDX-License-Identifier: GPL-2.0-or-later
"""`dumpconv info`: what headers, notes and tables say of a dump. Decodes no page.

Memory is bounded: the page descriptors are looked at a slice of frames at a time.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

from ..formats import codecs
from ..formats.arrays import distinct, unique
from ..formats.notes import NT_PRSTATUS, nr_cpus
from ..formats.pages import MemoryMap, MemoryMapBuilder, PageState
from ..formats.reader import DumpReader, Finding
from ..formats.source import UNKNOWN_SIZE
from ..formats.statenote import read_provenance
from ..formats.vmcoreinfo import printable
from .display.measure import bad_runs, human_size, slices

__all__ = [
    "CodecUse",
    "Info",
    "NoteGroup",
    "Scan",
    "collect",
    "render",
    "scan_tables",
    "to_json",
]

SCHEMA = "dumpconv.info/1"
# Frames looked at together: 256 Ki page descriptors and their columns stay in the cache (measured: 1 Mi is 1.4
# times slower).
_SLICE_PFNS = 1 << 18
_STATES = (PageState.STORED, PageState.EXCLUDED, PageState.LOST, PageState.DAMAGED)


@dataclass(frozen=True, slots=True)
class CodecUse:
    """Pages of one codec and the bytes that they take; data that pages share counts for each of them."""

    codec: str
    pages: int
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class NoteGroup:
    """Notes of one name, type and size."""

    name: str
    type: int
    size: int
    count: int


@dataclass(slots=True)
class Info:
    """What is known of a dump without decoding a page.

    Attributes:
        format: Name of the format, as `dumpconv formats` lists it.
        files: (name, size, remarks on how it was had) of each input.
        arch, byteorder, word_size, page_size: The machine.
        kernel, nodename, build_id, kaslr_offset: What VMCOREINFO or the header say, None where they do not.
        crash_time, dump_time: Seconds since 1970: of VMCOREINFO, of the header.
        cpus: Register notes.
        pages: Frames by state name, and `partial`.
        end_pfn, runs: Of the page map.
        codecs: By number of pages; None where it was not asked for.
        bad: Frames that cannot be had, by reason; looked for only together with the codecs.
        notes: In file order.
        facts: The format's own header fields.
        findings: Remarks.
        incomplete: The writer itself said so.
        damage: What the tables contradict, None for a whole dump.
        provenance: Of a canonical file, else None.
        content_digest: That a canonical file carries, hexadecimal.
    """

    format: str
    files: list[tuple[str, int, tuple[str, ...]]]
    arch: str
    byteorder: str
    word_size: int
    page_size: int
    kernel: str | None = None
    nodename: str | None = None
    build_id: str | None = None
    kaslr_offset: int | None = None
    crash_time: int | None = None
    dump_time: int | None = None
    cpus: int = 0
    pages: dict[str, int] = field(default_factory=dict)
    end_pfn: int = 0
    runs: int = 0
    codecs: list[CodecUse] | None = None
    bad: dict[str, int] = field(default_factory=dict)
    notes: list[NoteGroup] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    incomplete: bool = False
    damage: str | None = None
    provenance: dict[str, Any] | None = None
    content_digest: str | None = None


@dataclass(frozen=True, slots=True)
class Scan:
    """What the page descriptors say, all of them looked at.

    Attributes:
        codecs: The most used first.
        bad: Why frames cannot be had, and how many.
        memory_map: The reader's, with those frames as LOST or DAMAGED.
    """

    codecs: list[CodecUse]
    bad: dict[str, int]
    memory_map: MemoryMap


def scan_tables(reader: DumpReader) -> Scan:
    """Look at every page descriptor; decode nothing.

    Raises:
        DumpError: The tables cannot be read.
    """
    pages, sizes = np.zeros(256, np.int64), np.zeros(256, np.int64)
    reasons = np.zeros(len(codecs.REASONS), np.int64)
    builder = MemoryMapBuilder()
    for low, high in slices(*reader.memory_map.only(PageState.STORED), _SLICE_PFNS):
        rows = reader.extents(low, high)
        codec = rows["codec"]
        # of extents that share a frame the first counts it
        count = rows["nr_pages"].astype(np.int64)
        count[1:][rows["start_pfn"][1:] == rows["start_pfn"][:-1]] = 0
        for value in distinct(codec):
            mask = codec == value
            pages[value] += int(count[mask].sum())
            if value == codecs.BAD:
                bad = rows[mask]
                reasons += np.bincount(bad["page_offset"], minlength=len(reasons))
                builder.add(*bad_runs(bad))
            elif value != codecs.ZERO:
                sizes[value] += int(rows["stored_size"][mask].sum())
    names = [(value, name) for value, name in codecs.CODEC_NAMES.items() if pages[value] and value != codecs.BAD]
    found = [CodecUse(name, int(pages[value]), int(sizes[value])) for value, name in names]
    return Scan(
        sorted(found, key=lambda use: -use.pages),
        {codecs.REASONS[index][0]: int(reasons[index]) for index in np.flatnonzero(reasons).tolist()},
        reader.memory_map.overlay(builder.build()),
    )


def collect(reader: DumpReader, *, with_codecs: bool = True) -> Info:
    """Collect what is known of an opened dump.

    Args:
        reader: The dump.
        with_codecs: Look at every page descriptor to count codecs.

    Raises:
        DumpError: Notes or tables cannot be read.
    """
    reader.finish_notes()
    machine, memory_map = reader.machine, reader.memory_map
    scan = scan_tables(reader) if with_codecs else None
    if scan is not None:
        memory_map = scan.memory_map
    info = Info(
        format=reader.name,
        files=[(source.name, source.size, source.notes) for source in reader.files],
        arch=machine.arch,
        byteorder=machine.byteorder,
        word_size=machine.word_size,
        page_size=machine.page_size,
        cpus=nr_cpus(reader.notes),
        end_pfn=memory_map.end_pfn,
        runs=len(memory_map),
        facts=reader.facts,
        findings=list(reader.findings),
        incomplete=reader.incomplete,
        damage=None if reader.damage is None else str(reader.damage),
        notes=_note_groups(reader),
    )
    info.pages = {state.name.lower(): memory_map.count(state) for state in _STATES}
    info.pages["partial"] = len(unique(reader.partial[:, 0]))
    if scan is not None:
        info.codecs, info.bad = scan.codecs, scan.bad
    if reader.provenance is not None:
        info.provenance = read_provenance(reader.provenance)
    if reader.recorded_digest is not None:
        info.content_digest = reader.recorded_digest.hex()
    _add_kernel(info, reader)
    return info


def _add_kernel(info: Info, reader: DumpReader) -> None:
    names = reader.facts.get("utsname")
    if isinstance(names, dict):
        info.kernel = names.get("release") or None
        info.nodename = names.get("nodename") or None
    info.dump_time = reader.facts.get("timestamp") or None
    text = reader.vmcoreinfo
    if text is None:
        return
    info.kernel = text.text("OSRELEASE") or info.kernel
    info.build_id = text.text("BUILD-ID")
    info.kaslr_offset = text.hexadecimal("KERNELOFFSET")
    crash_time = text.text("CRASHTIME") or ""
    info.crash_time = int(crash_time) if crash_time.isdigit() and len(crash_time) < 12 else None


def _note_groups(reader: DumpReader) -> list[NoteGroup]:
    groups = Counter((note.name, note.type, note.size) for note in reader.notes)
    return [NoteGroup(printable(name), kind, size, count) for (name, kind, size), count in groups.items()]


# -- rendering ---------------------------------------------------------------------------------------------------


def to_json(info: Info) -> dict[str, Any]:
    """Return the facts as JSON values (docs/json.md)."""
    return {
        "schema": SCHEMA,
        "format": info.format,
        "files": [
            {"name": name, "size": None if size >= UNKNOWN_SIZE else size, "remarks": list(notes)}
            for name, size, notes in info.files
        ],
        "machine": {
            "arch": info.arch,
            "byteorder": info.byteorder,
            "word_size": info.word_size,
            "page_size": info.page_size,
        },
        "kernel": {
            "release": info.kernel,
            "nodename": info.nodename,
            "build_id": info.build_id,
            "kaslr_offset": info.kaslr_offset,
        },
        "crash_time": info.crash_time,
        "dump_time": info.dump_time,
        "cpus": info.cpus,
        "pages": info.pages,
        "end_pfn": info.end_pfn,
        "runs": info.runs,
        "codecs": None
        if info.codecs is None
        else [{"codec": use.codec, "pages": use.pages, "stored_bytes": use.stored_bytes} for use in info.codecs],
        "bad_descriptors": info.bad,
        "notes": [
            {"name": each.name, "type": each.type, "size": each.size, "count": each.count} for each in info.notes
        ],
        "facts": info.facts,
        "findings": [{"code": each.code, "message": each.message} for each in info.findings],
        "incomplete": info.incomplete,
        "damage": info.damage,
        "provenance": info.provenance,
        "content_digest": info.content_digest,
    }


def _when(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return f"{seconds} s after 1970"


def render(info: Info) -> list[str]:
    """Return the facts as lines for people."""
    rows = [("format", _format_text(info))]
    for name, size, remarks in info.files:
        size_text = "size not known yet" if size >= UNKNOWN_SIZE else human_size(size)
        rows.append(("file", ", ".join([name, size_text, *remarks])))
    bits = 8 * info.word_size
    rows.append(("machine", f"{info.arch}, {bits} bits, {info.byteorder}-endian, pages of {info.page_size} bytes"))
    rows += _kernel_rows(info)
    rows.append(("CPUs", f"{info.cpus} with registers"))
    rows += _page_rows(info)
    rows += [("note", _note_text(group)) for group in info.notes]
    if info.content_digest is not None:
        rows.append(("digest", f"{info.content_digest} (content, as recorded in the file)"))
    if info.provenance:
        rows.append(("made from", f"{info.provenance.get('format')} by dumpconv {info.provenance.get('dumpconv')}"))
    if info.incomplete:
        rows.append(("incomplete", "the writer said that pages are missing"))
    rows += [("remark", f"{each.message} [{each.code}]") for each in info.findings]
    return [f"{label:<11} {text}" for label, text in rows]


def _format_text(info: Info) -> str:
    facts = info.facts
    parts = [info.format]
    if "header_version" in facts:
        parts[0] += f", header version {facts['header_version']}"
    if facts.get("dump_level"):
        parts.append(f"dump level {facts['dump_level']}")
    if facts.get("split"):
        parts.append(f"split set of {facts['split']}")
    if info.provenance is not None:
        parts.append("canonical")
    return ", ".join(parts)


def _kernel_rows(info: Info) -> list[tuple[str, str]]:
    kernel = [info.kernel or "unknown"]
    if info.nodename:
        kernel.append(f"on {info.nodename}")
    if info.kaslr_offset:
        kernel.append(f"moved by {info.kaslr_offset:#x} (KASLR)")
    rows = [("kernel", ", ".join(kernel))]
    if info.build_id:
        rows.append(("build ID", info.build_id))
    if info.crash_time:
        rows.append(("crashed", _when(info.crash_time)))
    if info.dump_time:
        rows.append(("dumped", f"{_when(info.dump_time)} (by the header)"))
    return rows


def _page_rows(info: Info) -> list[tuple[str, str]]:
    rows = []
    for state, count in info.pages.items():
        if not count and state != "stored":
            continue
        rows.append(
            (state, f"{count} pages" + ("" if state == "partial" else f", {human_size(count * info.page_size)}"))
        )
    rows.append(("page map", f"{info.runs} runs, physical memory up to {info.end_pfn * info.page_size:#x}"))
    for use in info.codecs or []:
        rows.append(("codec", f"{use.codec}: {use.pages} pages in {human_size(use.stored_bytes)}"))
    rows += [("bad", f"{count} page descriptors: {reason.replace('_', ' ')}") for reason, count in info.bad.items()]
    return rows


def _note_text(group: NoteGroup) -> str:
    kind = " (PRSTATUS)" if group.name == "CORE" and group.type == NT_PRSTATUS else ""
    times = f"{group.count} x " if group.count > 1 else ""
    return f"{times}{group.name or '(no name)'} type {group.type:#x}{kind}, {group.size} bytes"
