# SPDX-License-Identifier: GPL-2.0-or-later
"""The benchmark: make dumps, run dumpconv and its peers in turn, print ratios with wall, CPU and peak memory.

Contestants alternate (A B C A B C ...) after one warm-up each, and ratios are medians of the ratios within a round:
a machine that slows down for a while slows all of them. A run during which other processes took CPU time is repeated,
since a contestant with one thread suffers less from them than one with several.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from contestants import Contestant, all_contestants, compile_peers
from kdumpfile import payload_size
from make_dump import parse_size
from measure import (
    CommandError,
    Timing,
    drop_from_cache,
    format_table,
    run_memory,
    run_timed,
    wait_for_quiet,
    warm_cache,
)

CODECS = ("zlib", "lzo", "snappy", "zstd")
MEMORY_BAR = 300_000_000
# Wall time at most this share of the libkdumpfile program's, and of the limit's (with digest, without).
PEER_BARS = {"zlib": 0.33, "lzo": 0.45, "snappy": 0.33, "zstd": 0.33}
LIMIT_BARS = {"dumpconv": 1.40, "dumpconv --no-digest": 1.25}
HEAD = (
    "dump",
    "contestant",
    "wall s",
    "range",
    "GB/s",
    "CPU s",
    "others",
    "peak MB",
    "x libkdumpfile",
    "x limit",
    "bars",
)


@dataclass
class Result:
    """All runs of one contestant on one dump."""

    contestant: str
    runs: list[Timing] = field(default_factory=list)
    peak_memory: int | None = None

    @property
    def walls(self) -> list[float]:
        return [run.wall for run in self.runs]


def ratio(result: Result, base: Result | None) -> float | None:
    """Return the median over rounds of wall / the base's wall in the same round."""
    if base is None or not base.runs:
        return None
    return statistics.median(a / b for a, b in zip(result.walls, base.walls, strict=True))


def base_of(results: list[Result], prefix: str) -> Result | None:
    return next((result for result in results if result.contestant.startswith(prefix)), None)


def ensure_dump(args: argparse.Namespace, codec: str) -> Path:
    """Return the dump for a codec, made now if the directory does not hold it."""
    share = f"-raw{args.raw_share:g}" if args.raw_share else ""
    path: Path = args.dir / f"bench-{codec}-{args.size >> 20}M{share}-seed{args.seed}.kdump"
    if not path.exists():
        print(f"making {path.name}", file=sys.stderr)
        command = [sys.executable, Path(__file__).with_name("make_dump.py"), path, "--codec", codec]
        command += ["--size", f"{args.size >> 20}M", "--raw-share", str(args.raw_share), "--seed", str(args.seed)]
        for source in args.source or ():
            command += ["--source", source]
        if subprocess.run([str(word) for word in command], check=False).returncode:
            raise SystemExit(f"bench: cannot make {path.name}")
    return path


def verify(contestants: list[Contestant], dump: Path, out: Path) -> None:
    """Run each contestant once (the warm-up) and require the same pages of all.

    Raises:
        SystemExit: two contestants disagree.
    """
    digests = {}
    for contestant in contestants:
        out.unlink(missing_ok=True)
        run_timed(contestant.command(dump, out, False))
        if contestant.payload:
            digests[contestant.name] = contestant.payload(out)
    out.unlink(missing_ok=True)
    if len(set(digests.values())) > 1:
        raise SystemExit(f"bench: outputs differ for {dump.name}: {json.dumps(digests, indent=1)}")
    print(f"{dump.name}: {len(digests)} outputs hold the same pages", file=sys.stderr)


def measure(contestants: list[Contestant], dump: Path, out: Path, args: argparse.Namespace) -> list[Result]:
    """Return the timed runs, alternated, and then one memory run each."""
    verify(contestants, dump, out)
    results = {contestant.name: Result(contestant.name) for contestant in contestants}
    for round_number in range(args.runs):
        # Each round starts with another contestant: nobody always follows the same neighbour's leavings.
        turn = round_number % len(contestants)
        for contestant in contestants[turn:] + contestants[:turn]:
            results[contestant.name].runs.append(quiet_run(contestant, dump, out, args))
    if args.memory:
        for contestant in contestants:
            out.unlink(missing_ok=True)
            results[contestant.name].peak_memory = run_memory(contestant.command(dump, out, args.fsync))
    out.unlink(missing_ok=True)
    return list(results.values())


def quiet_run(contestant: Contestant, dump: Path, out: Path, args: argparse.Namespace) -> Timing:
    """Return one run; where others disturbed it more than allowed it is made again, and the least disturbed counts."""
    tries: list[Timing] = []
    while len(tries) < args.tries and (not tries or tries[-1].others > args.disturbance):
        out.unlink(missing_ok=True)
        if args.cold:
            drop_from_cache(dump)
        else:
            warm_cache(dump)
        wait_for_quiet(args.disturbance, args.patience)
        tries.append(run_timed(contestant.command(dump, out, args.fsync)))
    return min(tries, key=lambda timing: timing.others)


def failed_bars(codec: str, result: Result, to_peer: float | None, to_limit: float | None) -> list[str]:
    """Return the bars that a dumpconv result misses, each as what it is."""
    failed = []
    if to_peer is not None and to_peer > PEER_BARS.get(codec, 1.0):
        failed.append(f"x libkdumpfile > {PEER_BARS.get(codec, 1.0)}")
    if to_limit is not None and to_limit > LIMIT_BARS[result.contestant]:
        failed.append(f"x limit > {LIMIT_BARS[result.contestant]}")
    if result.peak_memory is not None and result.peak_memory > MEMORY_BAR:
        failed.append(f"peak > {MEMORY_BAR // 1_000_000} MB")
    return failed


def rows_of(codec: str, results: list[Result], nr_bytes: int, args: argparse.Namespace) -> Iterator[list[str]]:
    """Yield the table's rows for one dump."""
    peer, limit = base_of(results, "libkdumpfile"), base_of(results, "limit")
    label = codec + (f", {args.raw_share:.0%} raw" if args.raw_share else "")
    for result in results:
        wall = statistics.median(result.walls)
        to_peer, to_limit = ratio(result, peer), ratio(result, limit)
        bars = ""
        if result.contestant in LIMIT_BARS and not (args.cold or args.fsync or args.raw_share):
            bars = "; ".join(failed_bars(codec, result, to_peer, to_limit)) or "pass"
        yield [
            label,
            result.contestant,
            f"{wall:.2f}",
            f"{min(result.walls):.2f}..{max(result.walls):.2f}",
            f"{nr_bytes / wall / 1e9:.2f}",
            f"{statistics.median(run.cpu for run in result.runs):.2f}",
            f"{statistics.median(run.others for run in result.runs):.0%}",
            "" if result.peak_memory is None else f"{result.peak_memory / 1e6:.0f}",
            "" if to_peer is None else f"{to_peer:.2f}",
            "" if to_limit is None else f"{to_limit:.2f}",
            bars,
        ]


def as_json(codec: str, results: list[Result], nr_bytes: int) -> dict[str, object]:
    peer, limit = base_of(results, "libkdumpfile"), base_of(results, "limit")
    return {
        "codec": codec,
        "bytes": nr_bytes,
        "results": [
            {
                "contestant": result.contestant,
                "wall_seconds": result.walls,
                "cpu_seconds": [run.cpu for run in result.runs],
                "others": [run.others for run in result.runs],
                "peak_memory_bytes": result.peak_memory,
                "to_libkdumpfile": ratio(result, peer),
                "to_limit": ratio(result, limit),
            }
            for result in results
        ],
    }


@contextmanager
def directories(args: argparse.Namespace) -> Iterator[tuple[Path, Path]]:
    """Yield (compiled peers, output) directories, removed at the end; the dump directory too if it was not given."""
    with tempfile.TemporaryDirectory(prefix="dumpconv-bench-") as scratch:
        if args.dir is None:
            args.dir = Path(scratch)
        args.dir.mkdir(parents=True, exist_ok=True)
        # fsync means something on a disk only.
        memory = Path("/dev/shm")
        parent = args.out or (args.dir if args.fsync or not memory.is_dir() else memory)
        with tempfile.TemporaryDirectory(prefix="dumpconv-bench-", dir=parent) as out:
            yield Path(scratch), Path(out)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--codec", action="append", choices=(*CODECS, "raw"), help="repeatable; default: all four")
    parser.add_argument("--runs", type=int, default=7, help="timed rounds, default 7")
    parser.add_argument("--threads", type=int, default=2, help="workers of dumpconv and of the limit, default 2")
    parser.add_argument("--size", type=parse_size, default=parse_size("2G"), help="memory in the dump, default 2G")
    parser.add_argument("--raw-share", type=float, default=0.0, help="share of pages that do not compress")
    parser.add_argument("--source", type=Path, action="append", help="where make_dump.py takes pages from")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dir", type=Path, help="keep the dumps here (2 to 3 GB for four codecs); default: temporary")
    parser.add_argument("--out", type=Path, help="write here; default /dev/shm, with --fsync the dumps' directory")
    parser.add_argument("--cold", action="store_true", help="drop the dump from the page cache before each run")
    parser.add_argument("--fsync", action="store_true", help="all contestants that can flush their output to disk")
    parser.add_argument(
        "--disturbance", type=float, default=0.06, help="share of CPU time that others may take in a run"
    )
    parser.add_argument("--patience", type=float, default=30.0, help="seconds to wait for a quiet machine before a run")
    parser.add_argument("--tries", type=int, default=4, help="how often a disturbed run is made")
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="leave out the memory runs")
    parser.add_argument("--only", action="append", help="contestants whose name contains this (repeatable)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all runs here too")
    return parser.parse_args()


def main() -> int:
    args = parse_arguments()
    rows: list[list[str]] = []
    record = []
    with directories(args) as (folder, out_folder):
        compile_peers(folder)
        contestants = all_contestants(folder, args.threads)
        if args.only:
            contestants = [one for one in contestants if any(word in one.name for word in args.only)]
        for codec in args.codec or CODECS:
            dump = ensure_dump(args, codec)
            taking_part = [one for one in contestants if codec in one.codecs]
            try:
                results = measure(taking_part, dump, out_folder / "out", args)
            except CommandError as error:
                print(f"bench: {error}", file=sys.stderr)
                return 1
            nr_bytes = payload_size(dump)
            new = list(rows_of(codec, results, nr_bytes, args))
            rows += new
            record.append(as_json(codec, results, nr_bytes))
            print(format_table(HEAD, new), file=sys.stderr, flush=True)  # not lost if a later codec is interrupted
            if args.json:
                facts = {"runs": args.runs, "cold": args.cold, "fsync": args.fsync, "dumps": record}
                args.json.write_text(json.dumps(facts, indent=1))
    print(
        f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}; {args.runs} rounds; ", end=""
    )
    print(f"cache {'cold' if args.cold else 'warm'}, fsync {'on' if args.fsync else 'off'}\n")
    print(format_table(HEAD, rows))
    return 0 if all(row[-1] in ("", "pass") for row in rows) else 3


if __name__ == "__main__":
    sys.exit(main())
