# SPDX-License-Identifier: GPL-2.0-or-later
"""Proves by programs that are not ours that converted dumps say what their sources say.

    python tests/oracle/prove.py [--dumps DIR...] [--vmlinux FILE] [--dumpconv CMD] [--work DIR] [--json OUT]

Every compressed kdump, split set, flattened stream and ELF vmcore under the given files and folders (.zst, .xz and
.gz are unpacked first) is converted with `dumpconv SRC OUT --force`, and then:

* libkdumpfile reads every stored page of source and result, struct the result's program headers;
  `--truth vmcore.elf` (the raw vmcore of the crash), `--truth-raw FILE` (flat physical memory) and a `memory.raw`
  beside the dump are compared too;
* crash prints sys, bt, bt -a, log, mod and ps, drgn its tasks, stacks and modules, gdb registers and virtual memory;
* readelf, eu-readelf, pyelftools, volatility3, makedumpfile and vmcore-dmesg open the result;
* the rules of the canonical ELF are checked, a second conversion must change nothing, and sources with the same memory
  and notes must give the same file but for the type 2 note.

A row for each source, tool and check: same, DIFFERENT, not readable (by this tool, with the reason), not installed.
Exits with 1 if anything differs, 2 if there was nothing to compare.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import shlex
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from oracle import elf_struct, pages
from oracle.debuggers import check_attributes, check_crash, check_crash_notes, check_drgn, check_gdb
from oracle.openers import check_again, check_dmesg, check_pyelftools, check_readelf, check_refilter, check_volatility
from oracle.outcome import DIFFERENT, SAME, Case, Check, Outcome, Truth
from oracle.pages import check_pages, check_truth
from oracle.rules import check_rules, file_digest

from support import oracle_tools as tools

CHECKS: dict[str, Check] = {
    "pages": check_pages,
    "truth": check_truth,
    "rules": check_rules,
    "attributes": check_attributes,
    "readelf": check_readelf,
    "pyelftools": check_pyelftools,
    "gdb": check_gdb,
    "drgn": check_drgn,
    "crash": check_crash,
    "crash-notes": check_crash_notes,
    "dmesg": check_dmesg,
    "refilter": check_refilter,
    "volatility": check_volatility,
    "again": check_again,
}
CONVERTED = (0, 4)  # exit status: done; incomplete at the source, what is there is good
CONVERT_TIMEOUT = 600


# --- the sources ------------------------------------------------------------------------------------------------------


def files_below(places: Iterable[Path]) -> list[Path]:
    """The files themselves and every dump-like file in the folders, sorted by name."""
    found: list[Path] = []
    for place in places:
        found += sorted(path for path in place.rglob("*") if path.is_file()) if place.is_dir() else [place]
    return found


def find_sources(places: Iterable[Path], work: Path) -> list[tuple[str, str, list[Path]]]:
    """(name, kind, files) of each dump: 'kdump', 'elf', 'flat', or 'split' with all members in one entry."""
    sources: list[tuple[str, str, list[Path]]] = []
    sets: dict[tuple[bytes, Path, str], list[Path]] = {}
    paths = files_below(places)
    twice = {name for name, number in Counter(path.name for path in paths).items() if number > 1}
    for path in paths:
        if path.suffix in (".raw", ".json", ".md", ".txt") or path.stat().st_size < 4096:
            continue
        plain = tools.unpack(path, work / "unpacked")
        kind = tools.kind_of(plain)
        facts = tools.kdump_facts(plain) if kind == "kdump" else None
        if facts is not None and facts.split:
            key = facts.head, path.parent, path.name.rstrip("0123456789")
            if key not in sets:
                sets[key] = []
                sources.append((f"{path.name}...", "split", sets[key]))
            sets[key].append(plain)
        elif kind is not None:
            sources.append((f"{path.parent.name}/{path.name}" if path.name in twice else path.name, kind, [plain]))
    return sources


def make_case(name: str, kind: str, files: Sequence[Path], work: Path) -> Case:
    """A case without its result; a flattened stream or a split set is first made one file that every tool takes."""
    case = Case(name=name, kind=kind, sources=list(files), result=work / "converted.elf", work=work)
    work.mkdir(parents=True, exist_ok=True)
    if kind == "flat":
        ran = tools.rearrange(files[0], work / "readable")
    elif kind == "split":
        ran = tools.reassemble(files, work / "readable")
    else:
        case.readable = files[0]
        return case
    if ran.ok:
        case.readable = work / "readable"
    else:
        case.notes.append(f"makedumpfile {'-R' if kind == 'flat' else '--reassemble'}: {ran.why}")
    return case


def truths_for(case: Case, truths: Sequence[tuple[str, Truth]]) -> list[Truth]:
    """The truths named for this source, and the unnamed raw vmcores that carry its VMCOREINFO."""
    found = []
    for pattern, truth in truths:
        if pattern:
            if fnmatch.fnmatch(case.name, pattern):
                found.append(truth)
        elif truth.flat or elf_struct.lines_of(elf_struct.read_core(truth.path).vmcoreinfo) == case.vmcoreinfo:
            found.append(truth)
    beside = case.sources[0].with_name("memory.raw")
    return [*found, Truth(beside, flat=True)] if beside.is_file() else found


# --- proving ----------------------------------------------------------------------------------------------------------


def convert(case: Case) -> Outcome:
    """Run the product on the source as the user has it."""
    case.result.unlink(missing_ok=True)
    began = time.monotonic()
    ran = tools.run([*case.dumpconv, *case.sources, case.result, "--force"], timeout=CONVERT_TIMEOUT)
    took = f"{time.monotonic() - began:.1f} s"
    if ran.status in CONVERTED and case.result.exists():
        told = took if ran.ok else f"{took}, {ran.why}"
        expected = 4 if is_incomplete(case) else 0
        if ran.status != expected or bool(case.core.e_flags & 1) != bool(expected):
            told = f"status {ran.status}, e_flags {case.core.e_flags:#x}, expected status {expected}: {ran.why}"
            return case.row("dumpconv", "convert", DIFFERENT, case.result.stat().st_size, told)
        return case.row("dumpconv", "convert", SAME, case.result.stat().st_size, told)
    lines = [line for line in ran.err.strip().splitlines() if line]
    return case.row("dumpconv", "convert", DIFFERENT, None, f"status {ran.status}: {' | '.join(lines[-3:])[:400]}")


def is_incomplete(case: Case) -> bool:
    """Whether the writer itself said so: status bit 0x08 of a kdump, e_flags bit 0 of an ELF."""
    if case.facts is not None:
        return bool(case.facts.status & 8)
    return case.source_core is not None and bool(case.source_core.e_flags & 1)


def prove(case: Case, names: Iterable[str] = tuple(CHECKS)) -> list[Outcome]:
    """Convert one source and run the named checks; a check that fails in itself is a difference."""
    rows = [convert(case)]
    if not case.result.exists():
        return rows
    for name in names:
        try:
            rows += CHECKS[name](case)
        except Exception as error:  # an oracle that can't follow must not end the others, nor pass
            rows.append(case.row(name, "check", DIFFERENT, None, f"{type(error).__name__}: {error}"))
    return rows


def compare_groups(digests: dict[str, list[tuple[str, str]]]) -> list[Outcome]:
    """Sources with the same memory, excluded frames and notes: the same bytes but for the type 2 note."""
    rows = []
    for members in digests.values():
        first, expected = members[0]
        for name, digest in members[1:]:
            verdict = SAME if digest == expected else DIFFERENT
            rows.append(Outcome(name, "sha256", f"same file as from {first}", verdict))
    return rows


def table(rows: Sequence[Outcome]) -> str:
    """The rows as aligned text."""
    cells = [("source", "tool", "check", "verdict", "count", "")]
    cells += [(r.source, r.tool, r.check, r.verdict, "" if r.count is None else str(r.count), r.detail) for r in rows]
    widths = [max(len(cell[column]) for cell in cells) for column in range(5)]
    return "\n".join("  ".join([*(cell[i].ljust(widths[i]) for i in range(5)), cell[5]]).rstrip() for cell in cells)


def parse_truth(text: str, *, flat: bool) -> tuple[str, Truth]:
    """[PATTERN=]FILE[@BASE]."""
    pattern, equals, rest = text.rpartition("=")
    path, at, base = rest.rpartition("@") if flat and "@" in rest else (rest, "", "0")
    return pattern if equals else "", Truth(Path(path), flat=flat, base=int(base, 0) if at else 0)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dumps", nargs="+", type=Path, help="dumps and folders of dumps (default: the real dumps)")
    parser.add_argument("--vmlinux", type=Path, help="kernel with debug information (default: found by OSRELEASE)")
    parser.add_argument("--dumpconv", help="the product as a command (default: DUMPCONV, else the installed one)")
    parser.add_argument("--work", type=Path, help="folder for what is made on the way (default: a temporary one)")
    parser.add_argument("--json", type=Path, help="write the rows there as well")
    parser.add_argument(
        "--truth", action="append", default=[], metavar="[PATTERN=]FILE", help="the raw vmcore of a crash"
    )
    parser.add_argument("--truth-raw", action="append", default=[], metavar="[PATTERN=]FILE[@BASE]", help="flat memory")
    parser.add_argument("--only", nargs="+", choices=[*CHECKS], default=[*CHECKS], help="run these checks only")
    parser.add_argument("--match", default="*", help="only sources whose name matches this pattern")
    parser.add_argument("--keep", action="store_true", help="keep the converted files")
    return parser.parse_args()


def run_all(options: argparse.Namespace, work: Path) -> list[Outcome]:
    command = shlex.split(options.dumpconv) if options.dumpconv else tools.dumpconv_command()
    if not command:
        raise SystemExit("prove: no dumpconv: give --dumpconv CMD")
    places = options.dumps or [place for place in [tools.real_dumps()] if place]
    truths = [parse_truth(text, flat=False) for text in options.truth]
    truths += [parse_truth(text, flat=True) for text in options.truth_raw]
    rows: list[Outcome] = []
    digests: dict[str, list[tuple[str, str]]] = {}
    for number, (name, kind, files) in enumerate(find_sources(places, work)):
        if not fnmatch.fnmatch(name, options.match):
            continue
        case = make_case(name, kind, files, work / f"{number:03}")
        case.dumpconv = command
        case.vmlinux = options.vmlinux or tools.find_vmlinux(case.vmcoreinfo.get("OSRELEASE", "-"))
        case.truths = truths_for(case, truths)
        new = prove(case, options.only)
        for line in table(new).splitlines()[1:]:
            print(line, flush=True)
        rows += new
        if case.result.exists():
            key = pages.content_key(case)
            if key is not None:
                digests.setdefault(key, []).append((name, file_digest(case.result)))
        if not options.keep:
            shutil.rmtree(case.work)
    return rows + compare_groups(digests)


def main() -> int:
    """Run the proof; the exit status says whether all was the same."""
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="prove.", dir=options.work) as folder:
        work = options.work if options.work and options.keep else Path(folder)
        rows = run_all(options, work)
    print()
    print(table(rows))
    verdicts = [row.verdict for row in rows]
    print()
    print(", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in dict.fromkeys(verdicts)))
    if options.json:
        options.json.write_text(json.dumps([row.as_dict() for row in rows], indent=1) + "\n")
    if not rows:
        return 2
    return 1 if DIFFERENT in verdicts else 0


if __name__ == "__main__":
    sys.exit(main())
