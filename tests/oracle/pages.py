# SPDX-License-Identifier: GPL-2.0-or-later
"""Are the pages the same? libkdumpfile on source and result, the raw vmcore, and the result's program headers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from oracle import elf_struct
from oracle.outcome import DIFFERENT, MISSING, UNREADABLE, Case, Outcome, Truth

from support import oracle_tools as tools

WORKER = Path(__file__).with_name("page_worker.py")
Side = dict[str, Any]


def kdumpfile_side(*files: Path) -> Side:
    return {"how": "kdumpfile", "library": tools.libkdumpfile(), "files": [str(file) for file in files]}


def elf_side(file: Path) -> Side:
    return {"how": "elf", "files": [str(file)]}


def truth_side(truth: Truth) -> Side:
    if truth.flat:
        return {"how": "flat", "files": [str(truth.path)], "base": truth.base}
    return elf_side(truth.path)


def ask(page_size: int, a: Side, b: Side | None = None, *, timeout: float = 300, **more: Any) -> dict[str, Any]:
    """Run the worker; a failure comes back as {"error": one line}."""
    request = {"page_size": page_size, "a": a, **({"b": b} if b else {}), **more}
    ran = tools.run([sys.executable, WORKER, json.dumps(request)], timeout=timeout)
    return json.loads(ran.out) if ran.ok else {"error": ran.why}


def source_side(case: Case) -> Side:
    """libkdumpfile on the source: every member of a split set together, a flattened stream as -R makes it."""
    if case.kind == "split":
        return kdumpfile_side(*case.sources)
    return kdumpfile_side(case.readable or case.sources[0])


def describe(answer: dict[str, Any]) -> str:
    """The differences in words, '' when there are none."""
    said = []
    if answer["different"]:
        said.append(f"{answer['different']} frames differ, first {[hex(pfn) for pfn in answer['different_first']]}")
    for side, words in (("only_a", "missing in the converted file"), ("only_b", "invented in the converted file")):
        if answer[side]:
            runs = ", ".join(f"{start:#x}-{end:#x}" for start, end in answer[f"{side}_first"])
            said.append(f"{answer[side]} frames {words}: {runs}")
    if answer["lost_in_b"]:
        said.append(f"{answer['lost_in_b']} frames that the source can't give are in a PT_LOAD")
    if answer["excluded_in_b"]:
        said.append(f"{answer['excluded_in_b']} excluded frames are in a PT_LOAD")
    return "; ".join(said)


def pages_row(case: Case, tool: str, check: str, answer: dict[str, Any]) -> Outcome:
    """One row of a comparison that must be exact."""
    if "error" in answer:
        return case.row(tool, check, UNREADABLE, detail=answer["error"])
    detail = describe(answer)
    return case.same(tool, check, not detail, answer["compared"], detail or excluded_words(answer))


def excluded_words(answer: dict[str, Any]) -> str:
    told = [(answer["excluded_a"], "excluded"), (answer["lost"], "lost")]
    words = [f"{number} {word} frames, none in a PT_LOAD" for number, word in told if number]
    if answer.get("alias"):
        words.append(f"of {answer['alias']} frames erased in the text alias alone the erased copy is kept")
    return ", ".join(words)


def check_pages(case: Case) -> list[Outcome]:
    """Source against result: by libkdumpfile on both, and by the result's program headers."""
    if tools.libkdumpfile() is None:
        return [case.row("libkdumpfile", "pages", MISSING)]
    if case.readable is None and case.kind != "split":
        return [case.row("libkdumpfile", "pages", DIFFERENT, detail="; ".join(case.notes))]
    kernels = int(case.vmcoreinfo.get("PAGESIZE", case.page_size))
    if kernels != case.page_size:  # QEMU on aarch64
        reason = f"takes the kernel's pages of {kernels} bytes for the file's of {case.page_size}"
        rows = [case.row("libkdumpfile", "pages of the source", UNREADABLE, detail=reason)]
        for truth in case.truths:
            answer = ask(kernels, truth_side(truth), kdumpfile_side(case.result))
            if "error" not in answer:
                answer |= {"only_a": 0, "excluded_in_b": 0}
            rows.append(
                _must_be_readable(case, pages_row(case, "libkdumpfile", f"pages against {truth.path.name}", answer))
            )
        return rows
    source = source_side(case)
    by_headers = ask(case.page_size, source, elf_side(case.result))
    rows = []
    if "error" in by_headers and case.source_core is not None:
        rows.append(case.row("libkdumpfile", "pages of the source", UNREADABLE, detail=by_headers["error"]))
        source = elf_side(case.headers_of)
        by_headers = ask(case.page_size, source, elf_side(case.result))
    by_library = ask(case.page_size, source, kdumpfile_side(case.result))
    for answer in (by_headers, by_library):
        forgive_alias(case, answer)
    rows.append(pages_row(case, "struct", "pages by the PT_LOADs", by_headers))
    rows.append(pages_row(case, "libkdumpfile", "pages", by_library))
    if case.source_core is not None:
        # The same by our own reading of the source's program headers, since libkdumpfile must not be the only witness.
        answer = ask(case.page_size, elf_side(case.headers_of), elf_side(case.result))
        forgive_alias(case, answer)
        rows.append(pages_row(case, "struct", "pages, both by struct", answer))
    return [_must_be_readable(case, row) for row in rows]


def forgive_alias(case: Case, answer: dict[str, Any]) -> None:
    """Erased frames whose copies in the source differ: by struct RAM's counts, in the converted file the alias's."""
    if case.source_core is None or not answer.get("different") or answer["different"] > len(answer["different_first"]):
        return
    ask_of = [note for note in case.core.notes if note.name == b"ERASEINFO\0"]
    if ask_of and all(copies_differ(case.source_core, pfn, case.page_size) for pfn in answer["different_first"]):
        answer |= {"different": 0, "alias": answer["different"]}


def copies_differ(core: elf_struct.Core, pfn: int, page_size: int) -> bool:
    """Whether two segments of a file hold different bytes for one frame."""
    copies = set()
    address = pfn * page_size
    with open(core.path, "rb") as stream:
        for load in core.loads:
            if load.p_paddr <= address < load.p_paddr + load.p_filesz:
                stream.seek(load.p_offset + address - load.p_paddr)
                copies.add(stream.read(page_size))
    return len(copies) > 1


def _must_be_readable(case: Case, row: Outcome) -> Outcome:
    # What can't be read on either side proves nothing: that is a failure of the proof, not a pass.
    if row.verdict == UNREADABLE and row.check != "pages of the source":
        return case.row(row.tool, row.check, DIFFERENT, detail=f"unreadable: {row.detail}")
    return row


def check_truth(case: Case) -> list[Outcome]:
    """The result against what memory really was: no byte differs and no frame is invented."""
    rows = []
    for truth in case.truths:
        side = truth_side(truth)
        answer = ask(case.page_size, side, elf_side(case.result))
        name = f"pages against {truth.path.name}"
        if "error" in answer:
            rows.append(case.row("struct", name, DIFFERENT, detail=answer["error"]))
            continue
        answer |= {"only_a": 0, "excluded_in_b": 0}  # a filter may leave out what the truth holds
        detail = describe(answer)
        rows.append(case.same("struct", name, not detail, answer["compared"], detail))
    return rows


def content_key(case: Case) -> str | None:
    """Equal for sources that hold the same frames, bytes, excluded frames and notes; None if it can't be told."""
    if case.source_notes is None:
        return None
    answer = ask(case.page_size, source_side(case), digest=True)
    if "error" in answer:
        answer = ask(case.page_size, elf_side(case.headers_of), digest=True) if case.source_core else answer
    if "error" in answer:
        return None
    notes = [(note.name.hex(), note.type, note.desc.hex()) for note in case.source_notes]
    return json.dumps([answer["digest"], answer["memory"], notes])


def partial_frames(core: elf_struct.Core, page_size: int) -> list[tuple[int, int]]:
    """The frames of which segments hold some bytes only: both ends of byte ranges that are not page aligned."""
    ranges = elf_struct.union([(load.p_paddr, load.p_paddr + load.p_filesz) for load in core.loads])
    edges = [edge // page_size for pair in ranges for edge in pair if edge % page_size]
    return elf_struct.union([(pfn, pfn + 1) for pfn in edges])
