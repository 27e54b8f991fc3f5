# SPDX-License-Identifier: GPL-2.0-or-later
"""LKCD beside kdump: the same memory, the same zlib streams, converted in turn; and how fast records are found.

A kdump has a table of its pages, an LKCD file is walked first. Bars: 1.3 times kdump's wall time (median of the ratios
within a round), and a million records a second of one core.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from contestants import find_dumpconv
from make_dump import parse_size
from measure import Timing, format_table, run_timed, wait_for_quiet, warm_cache

WALL_BAR = 1.3
RECORDS_BAR = 1e6

SCAN = """
import json, sys, time
from dumpconv.formats import lkcd_scan, open_dump
reader = open_dump([sys.argv[1]])
best = 1e9
for _ in range(7):
    begin = time.process_time()
    found = lkcd_scan.scan(reader._records, salvage=False)
    best = min(best, time.process_time() - begin)
print(json.dumps([found.nr_records, best]))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", type=Path, required=True, help="for the dumps, which are kept")
    parser.add_argument("--out", type=Path, default=Path("/dev/shm"), help="folder of the output")
    parser.add_argument("--size", type=parse_size, default=parse_size("1G"))
    parser.add_argument("--source", help="where pages come from (see make_dump.py)")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--patience", type=float, default=30, help="seconds to wait for a quiet machine before a run")
    args = parser.parse_args()
    dumpconv = find_dumpconv()
    dumps = make_dumps(args, dumpconv)
    out = args.out / "dumpconv-bench-lkcd.elf"
    options = ["--jobs", str(args.jobs), "--no-fsync", "--force"]
    digests = set()
    for dump in dumps.values():  # the warm-up shows that the memory is the same
        warm_cache(dump)
        told = subprocess.run([dumpconv, dump, out, *options, "--json"], check=True, capture_output=True)
        digests.add(json.loads(told.stdout)["content_digest"])
    if len(digests) != 1:
        print(f"not the same memory: {digests}")
        return 3
    runs: dict[str, list[Timing]] = {name: [] for name in dumps}
    for number in range(args.runs):
        names = list(dumps)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            wait_for_quiet(0.06, args.patience)
            runs[name].append(run_timed([dumpconv, dumps[name], out, *options]))
    out.unlink()
    rows, failed = [], []
    for name, timings in runs.items():
        pairs = list(zip(timings, runs["kdump zlib"], strict=True))
        wall, cpu = (statistics.median(getattr(a, key) / getattr(b, key) for a, b in pairs) for key in ("wall", "cpu"))
        walls = [timing.wall for timing in timings]
        others = statistics.median(timing.others for timing in timings)
        count, seconds = scan_rate(dumps[name]) if name != "kdump zlib" else (0, 0)
        rate = f"{count / seconds / 1e6:.2f}" if count else ""
        if name == "lkcd zlib" and wall > WALL_BAR:
            failed.append(f"lkcd zlib takes {wall:.2f} times kdump's time, the bar is {WALL_BAR}")
        if count and count / seconds < RECORDS_BAR:
            failed.append(f"{name}: {rate} million records a second")
        spread = f"{min(walls):.2f}..{max(walls):.2f}"
        rows.append(
            [name, f"{statistics.median(walls):.2f}", spread, f"{wall:.2f}", f"{cpu:.2f}", f"{others:.0%}", rate]
        )
    print(format_table(("dump", "wall s", "range", "x kdump", "x kdump, CPU", "others", "M records/s"), rows))
    print("\n".join(failed) or "pass")
    return 3 if failed else 0


def make_dumps(args: argparse.Namespace, dumpconv: str) -> dict[str, Path]:
    args.dir.mkdir(parents=True, exist_ok=True)
    stem = f"lkcd-{args.size}"
    kdump, packed, raw = (args.dir / f"{stem}.{suffix}" for suffix in ("kdump", "zlib.lkcd", "raw.lkcd"))
    if not kdump.exists():
        maker = [sys.executable, Path(__file__).with_name("make_dump.py"), kdump, "--size", str(args.size)]
        maker += ["--source", args.source] if args.source else []
        subprocess.run(list(map(str, maker)), check=True)
    for dump, codec in ((packed, "zlib"), (raw, "raw")):
        if not dump.exists():
            subprocess.run([dumpconv, kdump, dump, "-O", "lkcd", "--codec", codec, "--no-digest"], check=True)
    return {"kdump zlib": kdump, "lkcd zlib": packed, "lkcd raw": raw}


def scan_rate(dump: Path) -> tuple[int, float]:
    """Give the records of a dump and the CPU seconds that one walk takes."""
    done = subprocess.run([sys.executable, "-c", SCAN, dump], check=True, capture_output=True)
    count, seconds = json.loads(done.stdout)
    return count, seconds


if __name__ == "__main__":
    sys.exit(main())
