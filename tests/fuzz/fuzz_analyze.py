# SPDX-License-Identifier: GPL-2.0-or-later
"""Mutates small dumps cut from real ones and runs every command of analyze on each.

    python tests/fuzz/fuzz_analyze.py CORE... --count 20000 --jobs 2 --seed 1 [--out DIR]
    python tests/fuzz/fuzz_analyze.py CORE... --seed 1 --only 4711       one mutation again, with its tracebacks
    python tests/fuzz/fuzz_analyze.py CORE... --check                    what the cut dumps answer, and how fast

What is hit is what the commands read: symbols, types, unwind tables, page tables, the log, tasks, modules, stacks,
notes and headers. A finding is an exception that is no DumpError, more than 3 seconds of CPU time or 300 MB in one
command, or more than a million lines. Every dump takes part with and without VMCOREINFO's note. Exit code 1 if there is
any finding.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    sys.path.insert(0, str(Path(__file__).resolve().parent))

from cut_kernel import Cut, cut

from dumpconv.analyze.command import run_words
from dumpconv.analyze.commands import COMMANDS
from dumpconv.analyze.kernel import Kernel
from dumpconv.analyze.report import pages_of
from dumpconv.analyze.report_html import render_page
from dumpconv.analyze.vmlinux.build import write_vmlinux
from dumpconv.formats import open_dump
from dumpconv.formats.errors import DumpError
from dumpconv.formats.reader import Options

SECONDS, HANG = 3.0, 20.0
MEMORY = 300 << 20
MAX_LINES = 1_000_000
KEPT = 3
VMLINUX_EVERY = 4
NUMBERS = (0, 1, 2, 3, 4, 8, 0x10, 0x20, 0x40, 0x7F, 0x80, 0xFF, 0x100, 0xFFF, 0x1000, 0x7FFF, 0x8000, 0xFFFF, 0x10000,
           0xFFFFFF, 1 << 24, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 32, 1 << 40, 1 << 47, (1 << 63) - 1, 1 << 63,
           (1 << 64) - 4096, (1 << 64) - 8, (1 << 64) - 1)  # fmt: skip

# Words of each command; one that is not here is run alone.
WORDS: dict[str, list[list[str]]] = {
    "bt": [[], ["-a"], ["-A", "-s"]],
    "btop": [["12345678"]],
    "dis": [["schedule"], ["-r", "panic+20"], ["linux_banner", "40"]],
    "foreach": [["kernel", "UN", "bt"]],
    "log": [[], ["-T"], ["-m"]],
    "mach": [[], ["-m"], ["-c"]],
    "ps": [[], ["-G"]],
    "mod": [[], ["-t"]],
    "pte": [["8000000012345067", "100"]],
    "ptob": [["5"]],
    "ptov": [["1000000"]],
    "rd": [["-s", "init_task", "64"], ["linux_banner", "16"]],
    "search": [["-c", "sysrq", "-x", "50"]],
    "struct": [["-o", "task_struct"], ["task_struct", "init_task"], ["module.name"], ["list_head", "modules"]],
    "sym": [["-q", "crash"], ["init_task"], ["-l"], ["-M"], ["-p", "-n", "runqueues"]],
    "sys": [[], ["config"], ["-c"]],
    "vtop": [["init_task", "modules"]],
    "report": [["--tail", "20"]],
}
NO_QUESTIONS = ("repl", "script")  # these run what a user writes


def lines_of_commands() -> list[list[str]]:
    """Give every command line that is run."""
    return [[name, *words] for name in COMMANDS if name not in NO_QUESTIONS for words in WORDS.get(name, [[]])]


class Hang(BaseException):
    """A command did not come back."""


def run_line(kernel: Kernel, words: list[str]) -> tuple[list[str], list[str]]:
    """Run one command; give lines and complaints.

    Raises:
        RuntimeError: It prints without end.
    """
    try:
        result = run_words(kernel, words)
        lines = []
        for line in result.lines:
            lines.append(line)
            if len(lines) > MAX_LINES:
                raise RuntimeError(f"more than {MAX_LINES} lines")
        json.dumps(result.data)
        if words[0] == "report":
            page = "".join(render_page(kernel, result.data, pages_of(kernel)))
            if not page.replace("\n", "").isprintable():
                raise RuntimeError("the page holds what does not print")
        return [str(line) for line in lines], result.complaints
    except DumpError as error:
        return [], [str(error)]


def run_all(kernel: Kernel, before: Callable[[str], None]) -> None:
    """Run every command: what the cut is made by."""
    for words in lines_of_commands():
        before(words[0])
        if words[0] != "search" and words != ["sys", "config"]:  # these read everything
            run_line(kernel, words)


def open_kernel(path: Path) -> Kernel:
    """Open a dump as the verb does."""
    return Kernel(open_dump([str(path)], Options(salvage=True)))


# -- mutations -------------------------------------------------------------------------------------------------------


def mutate(seed: Cut, rng: random.Random) -> tuple[str, dict[int, bytes]]:
    """Give what was hit, and new bytes by offset."""
    patches: dict[int, bytes] = {}
    tags = []
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 5, 8))):
        tag = rng.choice(sorted(seed.regions))
        tags.append(tag)
        start, size = rng.choice(seed.regions[tag])
        at = start + rng.randrange(size)
        aligned = at - (at - start) % rng.choice((1, 2, 4, seed.word, seed.word))
        patches |= _hit(seed, rng, aligned, start, size)
    return "+".join(dict.fromkeys(tags)), {at: new for at, new in patches.items() if at + len(new) <= len(seed.data)}


def _hit(seed: Cut, rng: random.Random, at: int, start: int, size: int) -> dict[int, bytes]:
    how = rng.randrange(7)
    order: Any = "little" if seed.mark == "<" else "big"
    if how == 0:
        return {at: bytes([seed.data[at] ^ 1 << rng.randrange(8)])}
    if how in (1, 2):
        width = rng.choice((1, 2, 4, seed.word))
        return {at: (rng.choice(NUMBERS) & (1 << 8 * width) - 1).to_bytes(width, order)}
    if how == 3 and seed.pointers:  # another address of the kernel: circles, and lists that lead into other things
        return {at: (rng.choice(seed.pointers) + rng.choice((0, 0, 0, 1, 8, -8))).to_bytes(seed.word, order)}
    if how == 4:  # what stands elsewhere in the same place
        width = min(rng.choice((4, 8, 16, 64, 256)), size)
        source = start + rng.randrange(size - width + 1)
        return {at: seed.data[source : source + width]}
    if how == 5:
        return {at: rng.choice((b"\0", b"\xff", rng.randbytes(1))) * rng.choice((1, 8, 64, 512, 4096))}
    width = rng.choice((1, 2, 4, 8))
    old = int.from_bytes(seed.data[at : at + width], order)
    return {at: (old + rng.choice((-4096, -8, -1, 1, 2, 8, 4096)) & (1 << 8 * width) - 1).to_bytes(width, order)}


# -- one mutation ----------------------------------------------------------------------------------------------------


def try_dump(path: Path, *, vmlinux: bool) -> tuple[list[tuple[str, str, str]], str, Counter[str]]:
    """Run every command on a file; give findings (command, kind, detail), a hash of all answers, and counts."""
    findings: list[tuple[str, str, str]] = []
    digest, counts = hashlib.sha256(), Counter[str]()

    def guarded(name: str, call: Callable[[], Any]) -> Any:
        begin = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, HANG)
        found = None
        try:
            found = call()
            counts["answers" if found is not None else "refusals"] += 1
        except DumpError:
            counts["refusals"] += 1
        except Hang:
            findings.append((name, "!hang", traceback.format_exc()))
        except MemoryError:
            findings.append((name, "!memory", traceback.format_exc()))
        except Exception as error:
            findings.append((name, f"!{type(error).__name__}", traceback.format_exc()))
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        took = time.process_time() - begin
        if took > SECONDS:
            findings.append((name, "!slow", f"{took:.1f} s"))
        return found

    kernel = guarded("open", lambda: open_kernel(path))
    if kernel is not None:
        for words in lines_of_commands():
            found = guarded(" ".join(words), lambda words=words: run_line(kernel, words))
            digest.update(repr(found).encode("utf-8", "backslashreplace"))
        if vmlinux:
            out = path.with_suffix(".vmlinux")
            guarded("--write-vmlinux", lambda: write_vmlinux(kernel, str(out), image=False) or True)
            out.unlink(missing_ok=True)
    return findings, digest.hexdigest(), counts


def limit() -> None:
    """Watch time and memory of this process; a warning is a traceback in the making."""
    warnings.simplefilter("error")

    def hang(signum: int, frame: FrameType | None) -> None:
        raise Hang

    signal.signal(signal.SIGPROF, hang)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))


class Workbench:
    """A file for each cut, changed in place and put right again."""

    def __init__(self, seeds: list[tuple[str, Cut]], folder: Path) -> None:
        self.seeds = seeds
        self.paths = [folder / str(number) for number in range(len(seeds))]
        for (_, seed), path in zip(seeds, self.paths, strict=True):
            path.write_bytes(seed.data)

    def make(self, run_seed: int, number: int) -> tuple[int, str, dict[int, bytes]]:
        """Give mutation `number`: which seed, what is hit, new bytes."""
        rng = random.Random(f"{run_seed}:{number}")
        which = rng.randrange(len(self.seeds))
        return which, *mutate(self.seeds[which][1], rng)

    def run(self, which: int, patches: dict[int, bytes], *, vmlinux: bool) -> Any:
        """Run all commands on a changed file."""
        _, seed = self.seeds[which]
        path = self.paths[which]
        try:
            self._write(path, patches)
            return try_dump(path, vmlinux=vmlinux)
        finally:
            self._write(path, {at: seed.data[at : at + len(new)] for at, new in patches.items()})

    @staticmethod
    def _write(path: Path, patches: dict[int, bytes]) -> None:
        with path.open("r+b") as file:
            for at, new in patches.items():
                file.seek(at)
                file.write(new)


def worker(options: argparse.Namespace, seeds: list[tuple[str, Cut]], first: int, queue: Any) -> None:
    """Run every --jobs'th mutation."""
    limit()
    counts: Counter[str] = Counter()
    findings: list[tuple[int, str, str, str, str]] = []
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        bench = Workbench(seeds, Path(folder))
        plain = [bench.run(which, {}, vmlinux=False)[1] for which in range(len(seeds))]
        for done, number in enumerate(range(first, options.count, options.jobs), 1):
            which, tag, patches = bench.make(options.seed, number)
            found, digest, more = bench.run(which, patches, vmlinux=number % VMLINUX_EVERY == 0)
            counts += more
            counts["mutations"] += 1
            counts["mutations of which no answer is the old one's"] += digest != plain[which]
            findings += [(number, f"{seeds[which][0]}: {tag}", *each) for each in found]
            if done % 50 == 0:
                gc.collect()
                queue.put((counts, findings))
                counts, findings = Counter(), []
    queue.put((counts, findings))
    queue.put(None)


def fuzz(options: argparse.Namespace, seeds: list[tuple[str, Cut]]) -> int:
    """Run all workers; print counts as they come; give the exit code."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=worker, args=(options, seeds, n, queue)) for n in range(options.jobs)]
    for process in processes:
        process.start()
    counts: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    running, begin, told = len(processes), time.monotonic(), 0.0
    while running:
        message = queue.get()
        if message is None:
            running -= 1
            continue
        counts += message[0]
        for number, tag, name, kind, detail in message[1]:
            key = f"{kind} {name} {_where(detail)}"
            kinds[key] += 1
            if kinds[key] <= KEPT:
                print(f"{number}: {tag}: {key}: {detail.splitlines()[-1:]}", flush=True)
                _save(options, number, tag, name, kind, detail)
        if time.monotonic() - told > 60:
            told = time.monotonic()
            print(f"{counts['mutations']} in {told - begin:.0f} s, {kinds.total()} findings", flush=True)
    for process in processes:
        process.join()
    for key, count in [*counts.most_common(), *kinds.most_common()]:
        print(f"{count:9} {key}")
    print(f"{counts['mutations']:9} mutations in {time.monotonic() - begin:.0f} s, seed {options.seed}")
    return int(bool(kinds))


def _where(detail: str) -> str:
    # the last place in our own code
    places = [line.split("/")[-1].strip() for line in detail.splitlines() if 'File "' in line]
    return places[-1] if places else ""


def _save(options: argparse.Namespace, number: int, tag: str, name: str, kind: str, detail: str) -> None:
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"seed": options.seed, "number": number, "hit": tag, "command": name, "kind": kind, "detail": detail}
    (folder / f"{kind.strip('!')}-{options.seed}-{number}.json").write_text(json.dumps(facts, indent=2) + "\n")


def comparable(command: str, lines: list[str]) -> list[str]:
    """Give lines without what tells a small dump from a large one: its name, its pages, shares of memory."""
    if command == "ps":
        return [line[:43] + line[49:] for line in lines]
    words = (
        "DUMPFILE:",
        "MEMORY",
        "FORMAT:",
        "pages left out",
        "missing from the dump",
        "nothing",
        "LEVEL:",
        " L0 ",
        "L0 pages",
        "L1 symbols",
    )
    return [line for line in lines if not any(word in line for word in words)]


def check(seeds: list[tuple[str, Cut]], paths: Iterable[str]) -> int:
    """Hold what the cut dumps answer against the whole dumps."""
    status = 0
    with tempfile.TemporaryDirectory() as folder:
        bench = Workbench(seeds, Path(folder))
        whole = {path: open_kernel(Path(path)) for path in paths}
        for (name, seed), path in zip(seeds, bench.paths, strict=True):
            begin = time.process_time()
            try_dump(path, vmlinux=False)
            print(f"{name}: {len(seed.data) >> 10} KiB, all commands in {time.process_time() - begin:.2f} s")
            kernel = open_kernel(path)
            for words in lines_of_commands():
                if words[0] in ("search", "info", "sym") or words == ["sys", "config"]:
                    continue
                (mine, why), (theirs, _) = run_line(kernel, words), run_line(whole[name.split(" ")[0]], words)
                mine, theirs = comparable(words[0], mine), comparable(words[0], theirs)
                same = mine == theirs
                print(f"  {'equal' if same else 'DIFFERS':8} {len(mine):6} lines  {' '.join(words)} {why[:1]}")
                if not same:
                    status = 1
                    for one, other in zip(mine, theirs, strict=False):
                        if one != other:
                            print(f"     cut: {one[:150]}\n    dump: {other[:150]}")
                            break
            for tag, found in sorted(seed.regions.items()):
                print(f"  {len(found):8} places, {sum(size for _, size in found):9} bytes: {tag}")
    return status


def main(arguments: list[str] | None = None) -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cores", nargs="+", metavar="CORE", help="real dumps of any format, best of several machines")
    parser.add_argument("--count", type=int, default=2000, help="mutations")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="fuzz-findings")
    parser.add_argument("--only", type=int, metavar="NUMBER")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args(arguments)
    seeds = []
    for core in options.cores:
        for note in (True, False):
            seeds.append((f"{core} {'with' if note else 'without'} note", cut(Path(core), run_all, note=note)))
    if options.check:
        return check(seeds, options.cores)
    if options.only is None:
        return fuzz(options, seeds)
    limit()
    with tempfile.TemporaryDirectory() as folder:
        bench = Workbench(seeds, Path(folder))
        which, tag, patches = bench.make(options.seed, options.only)
        print(f"{seeds[which][0]}: {tag}: " + ", ".join(f"{at:#x}: {new[:16].hex()}" for at, new in patches.items()))
        findings, _, counts = bench.run(which, patches, vmlinux=True)
    for each in findings:
        print(*each, sep="\n")
    print(dict(counts))
    return int(bool(findings))


if __name__ == "__main__":
    raise SystemExit(main())
