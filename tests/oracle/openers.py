# SPDX-License-Identifier: GPL-2.0-or-later
"""Do readelf, eu-readelf, pyelftools, volatility3, makedumpfile and vmcore-dmesg take the converted file?"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from oracle import elf_struct, pages
from oracle.outcome import DIFFERENT, MISSING, UNREADABLE, Case, Outcome, first_difference

from support import oracle_tools as tools

PYELFTOOLS = """
import sys
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import NoteSegment
with open(sys.argv[1], "rb") as stream:
    core = ELFFile(stream)
    for segment in core.iter_segments():
        print(segment["p_type"], segment["p_offset"], segment["p_paddr"], segment["p_filesz"], segment["p_memsz"])
        if isinstance(segment, NoteSegment):
            for note in segment.iter_notes():
                print("note", note["n_name"], note["n_descsz"], note["n_offset"])
"""
MAKEDUMPFILE_REASON = "Debian's makedumpfile is built without snappy and zstd (docs/formats/kdump.md)"
MACHINE_REASON = "makedumpfile reads its own machine's dumps only (docs/formats/elf.md section 9)"


def check_readelf(case: Case) -> list[Outcome]:
    """readelf and eu-readelf: headers, segments and notes without a word of complaint."""
    rows = []
    for program, options in (("readelf", "-hlnW"), ("eu-readelf", "-hln")):
        if not tools.tool(program):
            rows.append(case.row(program, options, MISSING))
            continue
        ran = tools.run([program, options, case.result], timeout=60)
        words = [
            line for line in (ran.err + ran.out).splitlines() if re.search(r"\b(warning|error)\b", line, re.IGNORECASE)
        ]
        complaint = ran.err.strip().splitlines() or words
        segments = len(re.findall(r"^\s+LOAD\s", ran.out, re.MULTILINE))
        good = ran.ok and not complaint and segments == len(case.core.loads)
        detail = "" if good else (complaint[0] if complaint else f"{segments} LOAD segments, {ran.why}")
        rows.append(case.same(program, options, good, segments, detail[:200]))
    return rows


def check_pyelftools(case: Case) -> list[Outcome]:
    """pyelftools: the segments and notes that struct reads."""
    ran = tools.run([sys.executable, "-c", PYELFTOOLS, case.result], timeout=120)
    if not ran.ok:
        return [
            case.row("pyelftools", "segments, notes", MISSING if "No module" in ran.err else DIFFERENT, detail=ran.why)
        ]
    names = {1: "PT_LOAD", 4: "PT_NOTE"}
    expected = []
    for phdr in case.core.phdrs:
        kind = names.get(phdr.p_type, str(phdr.p_type))
        expected.append(f"{kind} {phdr.p_offset} {phdr.p_paddr} {phdr.p_filesz} {phdr.p_memsz}")
        if phdr.p_type == elf_struct.PT_NOTE:
            expected += [
                f"note {note.name.rstrip(chr(0).encode()).decode('latin-1')} {len(note.desc)} {note.offset}"
                for note in case.core.notes
            ]
    detail = first_difference("\n".join(expected), ran.out.rstrip("\n"))
    return [case.same("pyelftools", "segments, notes", not detail, len(expected), detail)]


def check_volatility(case: Case) -> list[Outcome]:
    """volatility3: banners.Banners lists the addresses at which the source holds kernel banners."""
    program = tools.python_tool("vol")
    if program is None:
        return [case.row("volatility3", "banners", MISSING)]
    if case.core.bits != 64 or case.core.order != "<" or len(case.core.phdrs) >= elf_struct.PN_XNUM:
        return [
            case.row(
                "volatility3", "banners", UNREADABLE, detail="reads 64-bit little-endian ELF below 65535 headers only"
            )
        ]
    side: dict[str, Any] = pages.elf_side(case.result)
    if case.readable is not None:
        side = pages.source_side(case) if case.source_core is None else pages.elf_side(case.readable)
    expected = pages.ask(case.page_size, side, banners=True)
    ran = tools.run([program, "--offline", "-q", "-f", case.result, "banners.Banners"], timeout=300)
    if "error" in expected:
        return [case.row("volatility3", "banners", UNREADABLE, detail=expected["error"])]
    got = sorted(int(hit, 16) for hit in re.findall(r"^(0x[0-9a-f]+)\tLinux version", ran.out, re.MULTILINE))
    wanted = sorted(expected["banners"])
    good = got == wanted
    return [
        case.same(
            "volatility3", "banners", good, len(got), "" if good else f"source {wanted[:6]}, vol {got[:6]}; {ran.why}"
        )
    ]


# --- makedumpfile -----------------------------------------------------------------------------------------------------


def no_makedumpfile(case: Case) -> str:
    if not case.is_x86_64:
        return MACHINE_REASON
    return MAKEDUMPFILE_REASON if case.codec_missing_in_makedumpfile else ""


def check_refilter(case: Case) -> list[Outcome]:
    """makedumpfile takes the converted file as it takes the source, and what it writes holds the same pages."""
    if not tools.tool("makedumpfile"):
        return [case.row("makedumpfile", "re-filter", MISSING)]
    if not case.is_x86_64:
        return [case.row("makedumpfile", "re-filter", UNREADABLE, detail=MACHINE_REASON)]
    rows = []
    for options in (
        (("-c", "-d", "31"), ("-E", "-d", "31"))
        if case.quick
        else (("-l", "-d", "0"), ("-c", "-d", "31"), ("-E", "-d", "31"))
    ):
        rows.append(refilter(case, options))
    return rows


def refilter(case: Case, options: tuple[str, ...]) -> Outcome:
    """One re-filtering, against the same of the source where makedumpfile can make it, else against the result."""
    check = f"re-filter {' '.join(options)}"
    ran = tools.make_dump(case.result, case.scratch("refilter.out"), *options)
    new = case.work / "refilter.out"
    old = case.scratch("refilter.src")
    comparable = (
        case.readable is not None and not no_makedumpfile(case) and not ("-E" in options and case.source_core is None)
    )
    made = tools.make_dump(case.readable, old, *options) if comparable and case.readable else None
    if not ran.ok:
        verdict = UNREADABLE if made is not None and not made.ok else DIFFERENT
        return case.row(
            "makedumpfile", check, verdict, detail=f"converted: {ran.why}; source: {made.why if made else 'not tried'}"
        )
    side = pages.elf_side if "-E" in options else pages.kdumpfile_side
    if made is not None and made.ok:
        answer = pages.ask(case.page_size, side(old), side(new))
        against = "the source's"
        forgive_partial(case, answer)
    else:
        answer = pages.ask(case.page_size, pages.elf_side(case.result), side(new))
        against = "the result"
        if "-d 0" not in check:
            answer |= {"only_a": 0}
    answer |= {"excluded_in_b": 0}
    if "error" in answer:
        return case.row("makedumpfile", check, DIFFERENT, detail=answer["error"])
    detail = pages.describe(answer)
    return case.same("makedumpfile", check, not detail, answer["compared"], detail or f"against {against}")


def forgive_partial(case: Case, answer: dict[str, Any]) -> None:
    """makedumpfile 1.7.2 leaves out a frame that a segment covers in part (docs/formats/elf.md, 4); we keep it."""
    if case.source_core is None or "error" in answer or not answer["only_b"]:
        return
    partial = pages.partial_frames(case.source_core, case.page_size)
    if elf_struct.subtract([tuple(run) for run in answer["only_b_first"]], partial) == []:
        answer |= {"only_b": 0}


def check_dmesg(case: Case) -> list[Outcome]:
    """makedumpfile --dump-dmesg and vmcore-dmesg: byte equal logs."""
    rows = []
    if not tools.tool("makedumpfile") or not case.is_x86_64:
        verdict, reason = (UNREADABLE, MACHINE_REASON) if tools.tool("makedumpfile") else (MISSING, "")
        rows.append(case.row("makedumpfile", "--dump-dmesg", verdict, detail=reason))
    else:
        rows.append(dump_dmesg(case))
    rows.append(vmcore_dmesg(case))
    return rows


def dmesg_of(case: Case, dump: Path, name: str) -> bytes | str:
    target = case.scratch(name)
    ran = tools.run(["makedumpfile", "--dump-dmesg", dump, target], timeout=60)
    return target.read_bytes() if ran.ok else ran.why


def dump_dmesg(case: Case) -> Outcome:
    new = dmesg_of(case, case.result, "dmesg.result")
    old = (
        dmesg_of(case, case.readable, "dmesg.source")
        if case.readable and not no_makedumpfile(case)
        else no_makedumpfile(case)
    )
    if isinstance(new, str):
        verdict = DIFFERENT if isinstance(old, bytes) or not old else UNREADABLE
        return case.row("makedumpfile", "--dump-dmesg", verdict, detail=f"converted: {new}")
    if isinstance(old, str):
        return case.row("makedumpfile", "--dump-dmesg", UNREADABLE, new.count(b"\n"), f"the source only: {old}")
    detail = first_difference(old.decode("latin-1"), new.decode("latin-1"))
    return case.same("makedumpfile", "--dump-dmesg", old == new, new.count(b"\n"), detail)


def vmcore_dmesg(case: Case) -> Outcome:
    """Against vmcore-dmesg of an ELF source; of a kdump, against makedumpfile's, which indents continued lines."""
    if not tools.tool("vmcore-dmesg"):
        return case.row("vmcore-dmesg", "log", MISSING)
    if len(case.core.phdrs) >= elf_struct.PN_XNUM:
        return case.row("vmcore-dmesg", "log", UNREADABLE, detail="knows no PN_XNUM (docs/canonical.md, rule 8)")
    new = tools.run([str(tools.tool("vmcore-dmesg")), case.result], timeout=60)
    if case.source_core is not None:
        old = tools.run([str(tools.tool("vmcore-dmesg")), case.source_core.path], timeout=60)
        old_text, new_text = old.out, new.out
        if not old.ok:
            return case.row("vmcore-dmesg", "log", UNREADABLE, detail=f"source: {old.why}; converted: {new.why}")
    else:
        reference = (
            dmesg_of(case, case.result, "dmesg.reference")
            if case.is_x86_64 and tools.tool("makedumpfile")
            else "no reference"
        )
        if isinstance(reference, str):
            return case.row("vmcore-dmesg", "log", UNREADABLE, detail=reference)
        old_text, new_text = (unindented(text) for text in (reference.decode("utf-8", "replace"), new.out))
    detail = first_difference(old_text, new_text) or ("" if new.ok else new.why)
    return case.same("vmcore-dmesg", "log", not detail, new_text.count("\n"), detail)


def unindented(text: str) -> str:
    return "\n".join(line.strip() for line in text.splitlines())


# --- the product on its own output ------------------------------------------------------------------------------------


def check_again(case: Case) -> list[Outcome]:
    """A second conversion gives the same file, byte for byte (design section 3, rule 12)."""
    if not case.dumpconv:
        return []
    again = case.scratch("again.elf")
    ran = tools.run([*case.dumpconv, case.result, again, "--force"], timeout=300)
    if ran.status != (4 if case.core.e_flags & 1 else 0):
        return [case.row("dumpconv", "second conversion", DIFFERENT, detail=ran.why)]
    ran = tools.run(["cmp", case.result, again], timeout=120)
    again.unlink()
    return [case.same("dumpconv", "second conversion", ran.ok, case.core.size, "" if ran.ok else ran.out.strip())]
