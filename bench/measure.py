# SPDX-License-Identifier: GPL-2.0-or-later
"""Running commands and measuring them: wall time, CPU time of the whole process tree, peak memory.

Time and memory are taken in separate runs: reading smaps_rollup walks page tables and would slow the contestant.
"""

import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SAMPLE_SECONDS = 0.02
# Anonymous and shared memory only: mapped files are the page cache's and can be dropped at any time.
MEMORY_KEYS = (b"Pss_Anon:", b"Pss_Shmem:")


@dataclass(frozen=True)
class Timing:
    """One run: wall and CPU seconds (user + system, children included), and how undisturbed it was."""

    wall: float
    cpu: float
    others: float  # share of the machine's CPU time that went to anybody else meanwhile, 0 to 1


class CommandError(Exception):
    """A contestant ended with an error: its output is in the message."""


def environment() -> dict[str, str]:
    """Return this environment, in which Python keeps what it compiled: as where dumpconv is installed.

    A lab may forbid it (PYTHONDONTWRITEBYTECODE), and then each start of a checkout takes 0.3 s more.
    """
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {"PYTHONPYCACHEPREFIX": str(Path(tempfile.gettempdir()) / f"dumpconv-bench-pyc-{os.getuid()}"), **kept}


def _start(command: Sequence[str | Path]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [str(word) for word in command],
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def run_timed(command: Sequence[str | Path]) -> Timing:
    """Run the command to its end and return its times.

    Raises:
        CommandError: the exit status is not 0.
    """
    ticks = busy_seconds()
    start = time.perf_counter()
    process = _start(command)
    assert process.stdout is not None  # noqa: S101 (asked for with PIPE)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    ticks = busy_seconds() - ticks
    process.stdout.close()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise CommandError(f"{' '.join(map(str, command))}: exit {process.returncode}\n{output[-2000:].decode()}")
    cpu = usage.ru_utime + usage.ru_stime
    return Timing(wall, cpu, max(0.0, ticks - cpu) / (wall * (os.cpu_count() or 1)))


def busy_seconds() -> float:
    """Return the CPU seconds that the machine has used since its start, those stolen by its host included."""
    with open("/proc/stat", "rb") as file:
        fields = [int(word) for word in file.readline().split()[1:9]]
    idle, waiting = fields[3], fields[4]
    return (sum(fields) - idle - waiting) / os.sysconf("SC_CLK_TCK")


def wait_for_quiet(share: float, seconds: float) -> None:
    """Wait until others use less than this share of the machine's CPU time, but no longer than the seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        before, start = busy_seconds(), time.perf_counter()
        time.sleep(0.5)
        if busy_seconds() - before < share * (time.perf_counter() - start) * (os.cpu_count() or 1):
            return


def run_memory(command: Sequence[str | Path]) -> int:
    """Run the command and return the peak over time of the memory of its session's processes, in bytes.

    The session is the whole tree: contestants start no session of their own. Sampled, so a peak shorter than
    SAMPLE_SECONDS can be missed.
    """
    with open(os.devnull, "wb") as null:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=null,
            stderr=null,
            start_new_session=True,
        )
    peak = 0
    while process.poll() is None:
        peak = max(peak, session_memory(process.pid))
        time.sleep(SAMPLE_SECONDS)
    if process.returncode:
        raise CommandError(f"{' '.join(map(str, command))}: exit {process.returncode} in the memory run")
    return peak


def session_memory(session: int) -> int:
    """Return the memory of all processes of a session now, in bytes; processes that have just ended count nothing."""
    total = 0
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            if os.getsid(int(process.name)) != session:
                continue
            with (process / "smaps_rollup").open("rb") as file:
                total += sum(int(line.split()[1]) for line in file if line.startswith(MEMORY_KEYS))
        except OSError:
            continue
    return total * 1024


def session_cpu(session: int) -> float:
    """Return the CPU seconds that the living processes of a session have used so far."""
    total = 0
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and os.getsid(int(process.name)) == session:
                fields = (process / "stat").read_bytes().rpartition(b")")[2].split()
                total += int(fields[11]) + int(fields[12])
        except OSError:
            continue
    return total / os.sysconf("SC_CLK_TCK")


def drop_from_cache(path: Path) -> None:
    """Put the file's pages out of the page cache, so that the next reader finds them on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def warm_cache(path: Path) -> None:
    """Read the file once."""
    with path.open("rb", buffering=0) as file:
        buffer = bytearray(4 << 20)
        while file.readinto(buffer):
            pass


def format_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, padded so that it reads well on a terminal too; the first two columns are text."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "| " + " | ".join(padded) + " |"

    rule = ["-" * width if column < 2 else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    return "\n".join([line(head), line(rule), *map(line, rows)])
