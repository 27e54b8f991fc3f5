# SPDX-License-Identifier: GPL-2.0-or-later
"""`dumpverify` of a directory of many small dumps: files a second, memory over the run, the state file; interrupted.

Bars: memory of all processes 200 MB; the last quarter of the files takes no more than 4/3 of the CPU time of the first;
every verdict is the one that the tree was made with; an interrupted run and the one after it check all, and nothing
twice but what was in hand; a run with --max-age checks only what was not good. Exit status 3 where one is missed.
"""

import argparse
import collections
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from contestants import find_dumpverify
from make_archive import make
from measure import environment, format_table, session_cpu, session_memory

MEMORY_BAR = 200_000_000
GROWTH_BAR = 4 / 3
IN_HAND = 8  # files, with two workers
NO_ROOT = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]  # root would read what is unreadable
HEAD = ("files", "run", "wall s", "files/s", "CPU s", "peak MB", "reports", "exit", "bars")
SECONDS = 0.1


@dataclass
class Done:
    """One command: times, exit status, what it said on standard error; memory and CPU time of its session at times."""

    wall: float
    cpu: float
    status: int
    stderr: str
    memory: list[int] = field(default_factory=list)
    spent: list[tuple[float, float]] = field(default_factory=list)


def run(command: Sequence[str | Path], until: Callable[[], bool] = lambda: False) -> Done:
    """Run a command; SIGTERM once `until`."""
    begin, memory, spent = time.perf_counter(), [], []
    process = subprocess.Popen(
        [str(word) for word in ([*NO_ROOT, *command] if os.geteuid() == 0 else command)],
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stderr is not None  # noqa: S101 (asked for with PIPE)
    told = False
    while (done := os.wait4(process.pid, os.WNOHANG))[0] == 0:
        memory.append(session_memory(process.pid))
        spent.append((time.time(), session_cpu(process.pid)))
        if not told and until():
            process.send_signal(signal.SIGTERM)
            told = True
        time.sleep(SECONDS)
    wall = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(done[1])
    with process.stderr:
        stderr = process.stderr.read().decode(errors="replace")
    return Done(wall, done[2].ru_utime + done[2].ru_stime, process.returncode, stderr, memory, spent)


class Archive:
    """One tree, and the rows and misses of what was run over it."""

    def __init__(self, folder: Path, scratch: Path, count: int, jobs: int) -> None:
        self.tree, self._scratch, self._jobs = folder / f"archive-{count}", scratch, jobs
        self.verdicts = make(self.tree, count)
        self.expected = {name: each for name, each in self.verdicts.items() if each}
        self.rows: list[list[str]] = []

    def verify(self, name: str, *words: str, until: Callable[[], bool] = lambda: False) -> tuple[Done, list[str]]:
        """Run dumpverify; return what came of it and the files of which there is a report."""
        report = self._scratch / f"{name}.jsonl"
        reported = ["--report", "jsonl", "--output", str(report)]
        done = run([*find_dumpverify(), "--jobs", str(self._jobs), *reported, *words, self.tree], until)
        lines = report if report.exists() else report.with_name(report.name + ".incomplete")
        self.found = [json.loads(line) for line in lines.read_text().splitlines()]
        return done, [str(Path(each["files"][0]).relative_to(self.tree)) for each in self.found]

    def wrong(self, reported: Sequence[str]) -> str:
        """Return how reports are not what the tree was made for, empty where they are."""
        verdicts = dict(zip(reported, (each["verdict"] for each in self.found), strict=True))
        wrong = [name for name, verdict in verdicts.items() if self.expected.get(name) != verdict]
        return f"FAIL: {len(wrong)} verdicts, {wrong[0]}" if wrong else ""

    def row(self, name: str, done: Done, reports: int | None, bars: Sequence[str]) -> None:
        """Add a row."""
        peak = f"{max(done.memory) / 1e6:.0f}" if done.memory else ""
        times = [f"{done.wall:.1f}", f"{len(self.verdicts) / done.wall:.0f}", f"{done.cpu:.1f}", peak]
        told = [each for each in bars if each] + ([f"FAIL: {done.stderr.strip()[-200:]}"] if done.stderr else [])
        shown = "" if reports is None else str(reports)
        self.rows.append([str(len(self.verdicts)), name, *times, shown, str(done.status), "; ".join(told) or "pass"])

    def check_sums(self) -> None:
        """sha256sum of the same files: what no check of bytes can be faster than."""
        run(["find", self.tree, "-type", "f", "-exec", "cat", "{}", "+"])
        done = run(["find", self.tree, "-type", "f", "-exec", "sha256sum", "{}", "+"])
        done.memory, done.stderr, done.status = [], "", 0
        self.row("sha256sum, one process", done, None, [])

    def whole(self, state: Path) -> None:
        """A first run, and one with --max-age after it."""
        done, reported = self.verify("first", "--state", str(state))
        bars = [self.wrong(reported), "" if set(reported) == set(self.expected) else "FAIL: not all reported"]
        bars.append("" if max(done.memory) <= MEMORY_BAR else "FAIL: memory")
        times = [json.loads(line)["time"] for line in state.read_text().splitlines()[1:]]
        quarter = len(times) // 4
        cpu = np.interp(times, *zip(*done.spent, strict=True))  # wall time is others' too
        growth = (cpu[-1] - cpu[-quarter]) / (cpu[quarter] - cpu[0])
        bars.append(("" if growth <= GROWTH_BAR else "FAIL: ") + f"last quarter {growth:.2f} x the first")
        early, line = done.memory[len(done.memory) // 4], state.stat().st_size / len(times)
        bars.append(f"{early / 1e6:.0f} MB after a quarter, state {line:.0f} bytes a file")
        self.row("first run", done, len(reported), bars)
        again, reported = self.verify("again", "--state", str(state), "--max-age", "90d", "--force")
        bad = {name for name, verdict in self.expected.items() if verdict not in ("good", "doubtful", "skipped")}
        few = len(set(reported) - bad)
        bars = [self.wrong(reported), "" if not few else f"FAIL: {few} checked again"]
        self.row("--max-age 90d", again, len(reported), bars)

    def interrupted(self, state: Path) -> None:
        """A run that SIGTERM ends in its middle, and one that goes on."""
        lines = len(self.verdicts) // 2

        def half() -> bool:
            return state.exists() and state.read_bytes().count(b"\n") > lines

        done, before = self.verify("half", "--state", str(state), until=half)
        bars = [self.wrong(before), "" if done.status == 128 + signal.SIGTERM else "FAIL: exit status"]
        done.stderr = done.stderr.replace("dumpconv: interrupted by SIGTERM\n", "")
        self.row("ended by SIGTERM", done, len(before), bars)
        done, after = self.verify("rest", "--state", str(state), "--max-age", "90d")
        bad = {name for name, verdict in self.expected.items() if verdict not in ("good", "skipped")}
        twice = [name for name, number in collections.Counter([*before, *after]).items() if number > 1]
        twice = [name for name in twice if name not in bad]
        bars = [self.wrong(after), f"{len(twice)} twice" if len(twice) <= IN_HAND else f"FAIL: {len(twice)} twice"]
        missing = set(self.expected) - set(before) - set(after)
        bars.append(f"FAIL: {len(missing)} never" if missing else "none left out")
        self.row("the run after it", done, len(after), bars)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", type=Path, help="keep the trees here (55 KB a file); default: temporary")
    parser.add_argument("--files", type=int, action="append", help="repeatable; default 2000 and 20000")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="dumpconv-bench-") as temporary:
        folder = (args.dir or Path(temporary)).absolute()
        for count in args.files or (2000, 20000):
            scratch = Path(tempfile.mkdtemp(dir=temporary))
            archive = Archive(folder, scratch, count, args.jobs)
            archive.check_sums()
            archive.whole(scratch / "state")
            archive.interrupted(scratch / "state-2")
            rows += archive.rows
    print(format_table(HEAD, rows))
    return 3 if any("FAIL" in row[-1] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
