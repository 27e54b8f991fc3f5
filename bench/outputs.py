# SPDX-License-Identifier: GPL-2.0-or-later
"""How fast compressed kdumps are written: `dumpconv -O kdump` beside makedumpfile on the same ELF vmcore.

makedumpfile runs with -d 0 (nothing is left out, as dumpconv does) and with as many threads as dumpconv has workers.
Contestants alternate after one warm-up each; figures are medians. Both outputs must hold the same memory.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from measure import format_table, run_memory

LETTERS = {"zlib": "-c", "lzo": "-l", "snappy": "-p", "zstd": "-z", "raw": ""}


def contestants(source: Path, folder: Path, codec: str, jobs: int) -> dict[str, tuple[list[str], Path]]:
    """Give commands by name, with the file that each writes."""
    letter = [LETTERS[codec]] if LETTERS[codec] else []
    base = [sys.executable, "-m", "dumpconv", "--no-fsync", "--force", "-j", str(jobs), "-O", "kdump", *letter]
    found = {
        "dumpconv": ([*base, str(source), str(folder / "ours")], folder / "ours"),
        "dumpconv --no-digest": ([*base, "--no-digest", str(source), str(folder / "bare")], folder / "bare"),
    }
    if shutil.which("makedumpfile"):
        theirs = folder / "theirs"
        threads = [f"--num-threads={jobs}"] if jobs > 1 else []
        command = ["makedumpfile", "-f", "--message-level", "1", *letter, "-d", "0", *threads, str(source), str(theirs)]
        if subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == 0:
            found["makedumpfile -d 0"] = (command, theirs)
    return found


def wall(command: list[str]) -> float:
    """Run once; give seconds."""
    begin = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", check=True)
    return time.perf_counter() - begin


def same_memory(first: Path, second: Path) -> bool:
    command = [sys.executable, "-m", "dumpconv", "compare", str(first), str(second)]
    return subprocess.run(command, stdout=subprocess.DEVNULL, cwd="/", check=False).returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="ELF vmcore; a makedumpfile of this machine's architecture reads it")
    parser.add_argument("--dir", type=Path, default=Path("/dev/shm"), help="where outputs go (default: /dev/shm)")
    parser.add_argument("--codec", choices=LETTERS, action="append", help="default: all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("-j", "--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--memory", action="store_true", help="measure peak memory too, in a run of its own")
    args = parser.parse_args()
    folder = args.dir / f"dumpconv-outputs-{os.getpid()}"
    folder.mkdir()
    rows, different = [], False
    try:
        for codec in args.codec or LETTERS:
            commands = contestants(args.source.resolve(), folder, codec, args.jobs)
            for command, _ in commands.values():
                wall(command)
            files = [path for _, path in commands.values()]
            different |= not all(same_memory(files[0], path) for path in files[1:])
            walls: dict[str, list[float]] = {name: [] for name in commands}
            for number in range(args.rounds):
                order = list(commands)
                for name in order[number % len(order) :] + order[: number % len(order)]:
                    walls[name].append(wall(commands[name][0]))
            base = walls.get("makedumpfile -d 0")
            for name, (command, path) in commands.items():
                share = statistics.median(a / b for a, b in zip(walls[name], base, strict=True)) if base else None
                peak = f"{run_memory(command) / 1e6:.0f}" if args.memory else "-"
                rows.append(
                    (
                        codec,
                        name,
                        f"{statistics.median(walls[name]):.2f}",
                        f"{path.stat().st_size / 1e6:.1f}",
                        peak,
                        "-" if share is None else f"{share:.2f}",
                    )
                )
    finally:
        shutil.rmtree(folder)
    print(format_table(("codec", "contestant", "wall s", "MB", "peak MB", "x makedumpfile"), rows))
    if different:
        print("the outputs do not hold the same memory")
    return 3 if different else 0


if __name__ == "__main__":
    sys.exit(main())
