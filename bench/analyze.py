# SPDX-License-Identifier: GPL-2.0-or-later
"""`dumpconv analyze` beside crash and drgn on the kernel's real debuginfo: the first answers, cold and warm.

    python bench/analyze.py DUMP... --vmlinux FILE [--rounds 5] [--peer-rounds 1] [--json FILE]

Every question is a process of its own, as somebody asks it. Cold: the pages of the dump and of the debuginfo are put
out of the page cache and what dumpconv keeps is removed before the run (but for "next", which is about what it keeps).
Warm: the same again, at once. Questions and contestants alternate within a round.

How much of a dump was read is asked of the kernel, not of the reader: the pages of the file that are in the page cache
after a cold run (mincore), read-ahead of the kernel included. Memory is taken in runs of its own, as measure.py says.
DUMP must lie on a disk: what is on tmpfs is always in memory.
"""

import argparse
import ctypes
import json
import mmap
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from measure import CommandError, drop_from_cache, format_table, run_memory, run_timed, wait_for_quiet

QUESTIONS = ("log", "sys", "ps", "mod", "bt")
RICH = "mount"  # what only drgn answers for us
# Seconds from a cold start, of dumpconv.
BARS = {"log": 0.5, "sys": 1.0, "ps": 1.0, "mod": 1.0, "bt": 1.0, "vmlinux": 2.5, "next": 0.5}
MEMORY_BAR = 200e6
DRGN = """
import sys, drgn
from drgn.commands import run_command
import drgn.commands._crash
prog = drgn.Program()
prog.set_core_dump(sys.argv[1])
prog.set_enabled_debug_info_finders([])
prog.load_debug_info([sys.argv[2]])
prog.config["crash_scroll"] = False
run_command(prog, "crash " + sys.argv[3], globals={})
"""


@dataclass
class Row:
    """All runs of one question by one contestant on one dump: wall seconds, and bytes of the dump after cold runs."""

    dump: str
    question: str
    who: str
    cold: list[float] = field(default_factory=list)
    warm: list[float] = field(default_factory=list)
    read: list[int] = field(default_factory=list)
    peak: int = 0


@dataclass
class Asker:
    """How one contestant is asked.

    Attributes:
        who, question: Names.
        command: Its words.
        inputs: Files that are put out of the page cache before a cold run.
        forget: Remove what dumpconv keeps before a cold run.
    """

    who: str
    question: str
    command: list[str]
    inputs: list[Path]
    forget: bool = True


def in_page_cache(path: Path) -> int:
    """Return how many bytes of a file are in the page cache."""
    size = path.stat().st_size
    pages = -(-size // mmap.PAGESIZE)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    with path.open("rb") as file:
        address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
    if address in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), f"cannot map {path}")
    vector = ctypes.create_string_buffer(pages)
    try:
        if libc.mincore(address, size, vector):
            raise OSError(ctypes.get_errno(), f"mincore of {path}")
    finally:
        libc.munmap(address, size)
    return mmap.PAGESIZE * sum(value & 1 for value in vector.raw[:pages])


def askers(dump: Path, vmlinux: Path, scratch: Path) -> list[Asker]:
    """Give all contestants' commands for a dump."""
    ours = [sys.executable, "-m", "dumpconv", "analyze", str(dump)]
    found = [Asker("dumpconv", each, [*ours, each], [dump]) for each in QUESTIONS]
    made = scratch / "vmlinux"
    found.append(Asker("dumpconv", "vmlinux", [*ours, "--write-vmlinux", str(made), "--force"], [dump]))
    found.append(Asker("dumpconv", RICH, [*ours, RICH], [dump]))
    found.append(Asker("dumpconv", "next", [*ours, RICH], [dump], forget=False))
    for each in (*QUESTIONS, RICH):
        script = scratch / f"{each}.crash"
        script.write_text(f"{each}\nquit\n")
        words = ["crash", "-s", "--no_scroll", "-i", str(script), str(vmlinux), str(dump)]
        if shutil.which("crash"):
            found.append(Asker("crash", each, words, [dump, vmlinux]))
        words = [sys.executable, "-c", DRGN, str(dump), str(vmlinux), each]
        found.append(Asker("drgn", each, words, [dump, vmlinux]))
    return found


def ask(asker: Asker, row: Row, dump: Path, kept: Path) -> None:
    """Ask cold, then warm."""
    if asker.forget:
        shutil.rmtree(kept, ignore_errors=True)
    for path in [*asker.inputs, *(each for each in kept.rglob("*") if each.is_file())]:
        drop_from_cache(path)
    before = in_page_cache(dump)
    row.cold.append(run_timed(asker.command).wall)
    row.read.append(in_page_cache(dump) - before)
    row.warm.append(run_timed(asker.command).wall)


def measure(dump: Path, args: argparse.Namespace, scratch: Path, kept: Path) -> list[Row]:
    """Run everything on one dump."""
    rows: dict[tuple[str, str], Row] = {}
    every = [each for each in askers(dump, args.vmlinux, scratch) if args.only is None or each.who in args.only]
    for asker in every:  # what Python compiles, and the programs themselves, are not measured
        try:
            run_timed(asker.command)
            rows[asker.who, asker.question] = Row(dump.name, asker.question, asker.who)
        except CommandError as error:
            print(f"{asker.who} {asker.question} takes no part: {error}"[:300], file=sys.stderr)
    for number in range(args.rounds):
        for asker in every:
            row = rows.get((asker.who, asker.question))
            if row is not None and (asker.who == "dumpconv" or number < args.peer_rounds):
                wait_for_quiet(0.1, args.patience)
                ask(asker, row, dump, kept)
    for asker in every:
        row = rows.get((asker.who, asker.question))
        if row is not None and (asker.who == "dumpconv" or not args.no_peer_memory):
            if asker.forget:
                shutil.rmtree(kept, ignore_errors=True)
            row.peak = run_memory(asker.command)
    return list(rows.values())


def failures(rows: Sequence[Row]) -> list[str]:
    """Say which bars were not reached."""
    found = []
    for row in rows:
        if row.who != "dumpconv":
            continue
        cold, bar = statistics.median(row.cold), BARS.get(row.question)
        if bar is not None and cold > bar:
            found.append(f"{row.dump} {row.question}: {cold:.2f} s, the bar is {bar} s")
        if row.peak > MEMORY_BAR:
            found.append(f"{row.dump} {row.question}: {row.peak / 1e6:.0f} MB, the bar is {MEMORY_BAR / 1e6:.0f} MB")
        others = [each for each in rows if (each.dump, each.question) == (row.dump, row.question) and each is not row]
        least = min((statistics.median(each.read) for each in others if each.read), default=None)
        if least is not None and statistics.median(row.read) > least:
            found.append(f"{row.dump} {row.question}: more of the dump is read than by another")
    return found


def table(rows: Sequence[Row], sizes: dict[str, int]) -> str:
    """Give the table."""
    cells = []
    for row in rows:
        read = statistics.median(row.read) if row.read else 0
        cells.append(
            [
                row.dump,
                f"{row.question}, {row.who}",
                f"{statistics.median(row.cold):.2f}" if row.cold else "-",
                f"{statistics.median(row.warm):.2f}" if row.warm else "-",
                f"{row.peak / 1e6:.0f}" if row.peak else "-",
                f"{read / 1e6:.1f}",
                f"{100 * read / sizes[row.dump]:.1f} %",
                f"{BARS[row.question]}" if row.who == "dumpconv" and row.question in BARS else "",
            ]
        )
    return format_table(("dump", "question", "cold s", "warm s", "MB", "dump read, MB", "of it", "bar s"), cells)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dumps", nargs="+", type=Path, metavar="DUMP", help="of one kernel; formats that all read")
    parser.add_argument("--vmlinux", type=Path, required=True, help="the kernel's debuginfo, for crash and drgn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer-rounds", type=int, default=1, help="of crash and drgn, which take long")
    parser.add_argument("--no-peer-memory", action="store_true", help="do not run crash and drgn for their memory")
    parser.add_argument("--only", action="append", help="a contestant: dumpconv, crash, drgn")
    parser.add_argument("--patience", type=float, default=5.0, help="seconds to wait for a quiet machine before a run")
    parser.add_argument("--json", type=Path, help="write every run here")
    args = parser.parse_args()
    args.dumps, args.vmlinux = [each.resolve() for each in args.dumps], args.vmlinux.resolve()
    args.json = args.json and args.json.resolve()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="dumpconv-bench-") as name:
        scratch = Path(name)
        os.environ["XDG_CACHE_HOME"] = str(scratch / "cache")
        os.chdir(scratch)
        if subprocess.run([sys.executable, "-c", "import drgn"], capture_output=True, check=False).returncode:
            print(f"{sys.executable} has no drgn", file=sys.stderr)
            return 2
        for dump in args.dumps:
            rows += measure(dump, args, scratch, scratch / "cache" / "dumpconv")
    print(table(rows, {each.name: each.stat().st_size for each in args.dumps}))
    for text in (failed := failures(rows)):
        print(text)
    if not failed:
        print("all bars are reached")
    if args.json:
        args.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    return 3 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
