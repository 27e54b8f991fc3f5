# SPDX-License-Identifier: GPL-2.0-or-later
"""How fast compressed kdumps are written: `dumpconv -O kdump` beside makedumpfile on the same ELF vmcore.

makedumpfile runs with -d 0 (nothing is left out, as dumpconv does) and with as many threads as dumpconv has workers.
Contestants alternate after one warm-up each; figures are medians. Both outputs must hold the same memory.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from measure import Timing, environment, format_table, run_memory, run_timed

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


def same_memory(first: Path, second: Path) -> bool:
    """Whether two outputs hold the same pages; makedumpfile leaves out frames that the source has in part."""
    command = [sys.executable, "-m", "dumpconv", "compare", "--json", str(first), str(second)]
    done = subprocess.run(command, capture_output=True, cwd="/", env=environment(), check=False)
    if done.returncode not in (0, 1):
        return False
    pages = json.loads(done.stdout)["pages"]
    differing = sum(pages[name] for name in ("differing", "only_b", "damaged_a", "damaged_b", "partial_differing"))
    return not differing and pages["only_a"] <= pages["partial"]


def shares(timings: list[Timing], base: list[Timing] | None) -> Iterator[str]:
    """Give wall and CPU time against makedumpfile's of the same round: medians of the ratios."""
    for key in ("wall", "cpu"):
        pairs = zip(timings, base or (), strict=bool(base))
        ratios = [getattr(mine, key) / max(getattr(other, key), 0.01) for mine, other in pairs]
        yield f"{statistics.median(ratios):.2f}" if ratios else "-"


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
    rows, different = [], []
    try:
        for codec in args.codec or LETTERS:
            commands = contestants(args.source.resolve(), folder, codec, args.jobs)
            for command, _ in commands.values():
                run_timed(command)
            files = [path for _, path in commands.values()]
            different += [str(path.name) for path in files[1:] if not same_memory(files[0], path)]
            runs: dict[str, list[Timing]] = {name: [] for name in commands}
            for number in range(args.rounds):
                order = list(commands)
                for name in order[number % len(order) :] + order[: number % len(order)]:
                    runs[name].append(run_timed(commands[name][0]))
            base = runs.get("makedumpfile -d 0")
            for name, (command, path) in commands.items():
                timings = runs[name]
                peak = f"{run_memory(command) / 1e6:.0f}" if args.memory else "-"
                rows.append(
                    (
                        codec,
                        name,
                        f"{statistics.median(each.wall for each in timings):.2f}",
                        f"{statistics.median(each.cpu for each in timings):.2f}",
                        f"{path.stat().st_size / 1e6:.1f}",
                        peak,
                        *shares(timings, base),
                    )
                )
    finally:
        shutil.rmtree(folder)
    print(format_table(("codec", "contestant", "wall s", "CPU s", "MB", "peak MB", "x makedumpfile", "x, CPU"), rows))
    if different:
        print(f"not the same memory as dumpconv's: {', '.join(different)}")
    return 3 if different else 0


if __name__ == "__main__":
    sys.exit(main())
