# SPDX-License-Identifier: GPL-2.0-or-later
"""Start-up: `dumpconv info` of a small dump, beside the bare interpreter. The bar is 0.25 seconds."""

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from contestants import find_dumpconv
from measure import format_table, run_timed

WALL_BAR = 0.25


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=21)
    args = parser.parse_args()
    dumpconv = find_dumpconv()
    with tempfile.TemporaryDirectory(prefix="dumpconv-bench-") as scratch:
        dump = Path(scratch) / "small.kdump"
        maker = [sys.executable, str(Path(__file__).with_name("make_dump.py")), str(dump), "--size", "16M"]
        subprocess.run(maker, check=True)
        commands = {
            "dumpconv info": [dumpconv, "info", str(dump)],
            "dumpconv map": [dumpconv, "map", str(dump)],
            "dumpconv --help": [dumpconv, "--help"],
            "python -c pass": [sys.executable, "-c", "pass"],
        }
        walls: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(args.runs):
            for name, command in commands.items():
                walls[name].append(run_timed(command).wall)
    rows = [
        ["16 MiB", name, f"{statistics.median(times):.3f}", f"{min(times):.3f}..{max(times):.3f}"]
        for name, times in walls.items()
    ]
    print(format_table(("dump", "command", "wall s", "range"), rows))
    return 0 if statistics.median(walls["dumpconv info"]) <= WALL_BAR else 3


if __name__ == "__main__":
    sys.exit(main())
