# SPDX-License-Identifier: GPL-2.0-or-later
"""`dumpconv analyze` beside crash and drgn on the kernel's real debuginfo: the first answers, cold and warm.

    python bench/analyze.py DUMP... --vmlinux FILE [--rounds 5] [--peer-rounds 1] [--json FILE]

Every question is a process of its own, as somebody asks it. Cold: the pages of the dump and of the debuginfo are put
out of the page cache and what dumpconv keeps is removed before the run (but for "next", which is about what it keeps).
Warm: the same again, at once. Questions and contestants alternate within a round.

How much of a dump was read is asked of the kernel, not of the reader: the pages of the file that are in the page cache
after a cold run (mincore), what the kernel read ahead included. Memory is taken in runs of its own, as measure.py says.
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
# Seconds of dumpconv, cold; of "next" warm.
BARS = {"log": 0.5, "sys": 1.0, "ps": 1.0, "mod": 1.0, "bt": 1.0, "vmlinux": 2.5, "next": 0.5}
MEMORY_BAR = 200e6
# What a question has to read at least, of the tables in the kernel: the bar is twice that (its own data, modules', and
# what shares pages with it), and 1 MiB.
NEED = {"log": (), "bt": ("symbols", "types", "stacks"), "vmlinux": ("image",)}
MORE = 1 << 20
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


def tables(vmlinux: Path) -> dict[str, int]:
    """Return the bytes of the kernel's tables, as binutils have them of the debuginfo."""

    def lines(*command: str) -> list[list[str]]:
        done = subprocess.run([*command, str(vmlinux)], capture_output=True, text=True, check=True)
        return [line.replace("[", " ").replace("]", " ").split() for line in done.stdout.splitlines()]

    sections = {row[1]: row for row in lines("readelf", "-SW") if len(row) > 8 and row[0].isdigit()}
    size = {name: int(row[5], 16) for name, row in sections.items()}
    marks = {row[2]: int(row[0], 16) for row in lines("nm") if len(row) == 3 and row[2].startswith("kallsyms_")}
    names = ("offsets", "addresses", "names", "markers", "token_table", "token_index")
    tokens = [marks[f"kallsyms_{each}"] for each in names if f"kallsyms_{each}" in marks]
    return {
        "symbols": max(tokens) + 512 - min(tokens),
        "types": size[".BTF"],
        "stacks": size[".orc_unwind"] + size[".orc_unwind_ip"],
        "image": sum(int(row[5], 16) for row in sections.values() if "A" in row[7] and row[2] == "PROGBITS"),
    }


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


def time_all(dump: Path, args: argparse.Namespace, every: list[Asker], kept: Path) -> list[Row]:
    """Run all rounds on one dump."""
    rows = {(each.who, each.question): Row(dump.name, each.question, each.who) for each in every}
    for asker in every:  # what Python compiles is not measured
        if asker.who == "dumpconv":
            run_timed(asker.command)
    for number in range(max(args.rounds, args.peer_rounds)):
        for asker in every:
            row = rows.get((asker.who, asker.question))
            if row is None or number >= (args.rounds if asker.who == "dumpconv" else args.peer_rounds):
                continue
            wait_for_quiet(0.1, args.patience)
            try:
                ask(asker, row, dump, kept)
            except CommandError as error:
                print(f"{asker.who} {asker.question} takes no part: {error}"[:300], file=sys.stderr)
                del rows[asker.who, asker.question]
    return list(rows.values())


def take_memory(rows: Sequence[Row], every: list[Asker], kept: Path) -> None:
    """Run each once more for its peak memory."""
    for row in rows:
        asker = next(each for each in every if (each.who, each.question) == (row.who, row.question))
        if asker.forget:
            shutil.rmtree(kept, ignore_errors=True)
        row.peak = run_memory(asker.command)


def failures(rows: Sequence[Row], known: dict[str, int]) -> list[str]:
    """Say which bars were not reached."""
    found = []
    for row in rows:
        if row.who != "dumpconv":
            continue
        # what follows the first command finds the dump in memory
        seconds = statistics.median(row.warm if row.question == "next" else row.cold)
        bar = BARS.get(row.question)
        if bar is not None and seconds > bar:
            found.append(f"{row.dump} {row.question}: {seconds:.2f} s, the bar is {bar} s")
        if row.peak > MEMORY_BAR:
            found.append(f"{row.dump} {row.question}: {row.peak / 1e6:.0f} MB, the bar is {MEMORY_BAR / 1e6:.0f} MB")
        if row.read:
            needed = sum(known[each] for each in NEED.get(row.question, ("symbols", "types")))
            read, limit = statistics.median(row.read), 2 * needed + MORE
            if read > limit:
                found.append(f"{row.dump} {row.question}: {read / 1e6:.1f} MB read, the bar is {limit / 1e6:.1f} MB")
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
        kept = scratch / "cache" / "dumpconv"
        who = args.only or ("dumpconv", "crash", "drgn")
        every = {dump: [each for each in askers(dump, args.vmlinux, scratch) if each.who in who] for dump in args.dumps}
        timed = [(dump, time_all(dump, args, every[dump], kept)) for dump in args.dumps]
        print("timed; memory is next, which no other process disturbs", file=sys.stderr)
        for dump, found in timed:
            take_memory(found, every[dump], kept)
            rows += found
    print(table(rows, {each.name: each.stat().st_size for each in args.dumps}))
    for text in (failed := failures(rows, tables(args.vmlinux))):
        print(text)
    if not failed:
        print("all bars are reached")
    if args.json:
        args.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    return 3 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
