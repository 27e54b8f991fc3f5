# SPDX-License-Identifier: GPL-2.0-or-later
"""`dumpconv info` and `map` of a 1 TiB machine's dump: wall time and peak memory.

The bar is 10 seconds and 500 MB, for the filtered dump; --full adds the dump that stores all frames.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from contestants import find_dumpconv
from measure import CommandError, format_table, run_memory, run_timed

WALL_BAR = 10.0
MEMORY_BAR = 500_000_000
HEAD = ("dump", "command", "wall s", "CPU s", "peak MB", "bars")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", type=Path, help="keep the dumps here (0.3 GB, with --full 7 GB); default: temporary")
    parser.add_argument("--full", action="store_true", help="also the dump that stores every frame")
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    dumpconv = find_dumpconv()
    rows = []
    with tempfile.TemporaryDirectory(prefix="dumpconv-bench-") as scratch:
        folder = args.dir or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for name in ["filtered", *(["full"] if args.full else [])]:
            dump = folder / f"huge-{name}.kdump"
            if not dump.exists():
                print(f"making {dump.name}", file=sys.stderr)
                words = [sys.executable, Path(__file__).with_name("make_huge.py"), dump]
                subprocess.run([str(word) for word in words] + ["--full"] * (name == "full"), check=True)
            for words in (["info"], ["info", "--json"], ["map"], ["map", "--json"]):
                command = [dumpconv, words[0], str(dump), *words[1:]]
                try:
                    runs = [run_timed(command) for _ in range(args.runs)]
                    peak = run_memory(command)
                except CommandError as error:
                    print(f"bench: {error}", file=sys.stderr)
                    return 1
                wall = statistics.median(run.wall for run in runs)
                cpu = statistics.median(run.cpu for run in runs)
                passed = wall <= WALL_BAR and peak <= MEMORY_BAR
                rows.append(
                    [
                        name,
                        " ".join(words),
                        f"{wall:.2f}",
                        f"{cpu:.2f}",
                        f"{peak / 1e6:.0f}",
                        "pass" if passed else "FAIL",
                    ]
                )
    print(format_table(HEAD, rows))
    return 0 if all(row[-1] == "pass" for row in rows) else 3


if __name__ == "__main__":
    sys.exit(main())
