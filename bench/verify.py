# SPDX-License-Identifier: GPL-2.0-or-later
"""`dumpverify`: level pages beside `dumpconv --no-digest` on the same dump; level quick on a large sparse dump.

Bars: level pages takes no longer than the conversion; level quick of 64 GiB takes 1 second and 200 MB. Exit status 3
where one is missed.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from contestants import find_dumpconv, find_dumpverify
from kdumpfile import CODEC_FLAGS, DESCRIPTOR, PAGE_SIZE, KdumpLayout
from make_dump import parse_size
from measure import CommandError, format_table, run_memory, run_timed, warm_cache

WALL_BAR = 1.0
MEMORY_BAR = 200_000_000
HEAD = ("dump", "command", "wall s", "range", "GB/s", "CPU s", "others", "peak MB", "bars")
CODECS = ("zlib", "lzo", "snappy", "zstd")
CHUNK = 1 << 22


def ensure_dump(folder: Path, codec: str, size: int) -> Path:
    """Return the dump for a codec, made now if the directory does not hold it; the names are bench/run.py's."""
    path = folder / f"bench-{codec}-{size >> 20}M-seed1.kdump"
    if not path.exists():
        print(f"making {path.name}", file=sys.stderr)
        maker = Path(__file__).with_name("make_dump.py")
        words = [sys.executable, maker, path, "--codec", codec, "--size", f"{size >> 20}M", "--seed", "1"]
        subprocess.run([str(word) for word in words], check=True)
    return path


def make_sparse(path: Path, size: int) -> None:
    """Write a dump that stores every frame of a machine; all share a few pages. Its bitmaps and table are real."""
    nr_pfns = size // PAGE_SIZE
    layout = KdumpLayout(nr_pfns, nr_pfns, status=CODEC_FLAGS["zlib"], dump_level=0, nr_cpus=2)
    blobs = [zlib.compress(bytes([number]) * PAGE_SIZE, 1) for number in range(256)]
    rows = np.zeros(len(blobs), DESCRIPTOR)
    rows["size"] = [len(blob) for blob in blobs]
    rows["offset"] = layout.data_offset + np.concatenate(([0], np.cumsum(rows["size"])[:-1]))
    rows["flags"] = CODEC_FLAGS["zlib"]
    every = np.ones(nr_pfns, bool)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write(layout.headers())
        layout.write_bitmaps(file, every, every)
        file.seek(layout.table_offset)
        for start in range(0, nr_pfns, CHUNK):
            file.write(rows[np.arange(start, min(start + CHUNK, nr_pfns)) % len(rows)])
        file.write(b"".join(blobs))
    part.replace(path)


def pages_rows(dump: Path, out: Path, size: int, args: argparse.Namespace) -> list[list[str]]:
    """Run both in turn and return a row each; a round starts with the other one."""
    jobs = ["--jobs", str(args.jobs)]
    commands = {
        "dumpconv --no-digest": [find_dumpconv(), str(dump), str(out), "--force", "--no-digest", *jobs],
        "dumpverify --level pages": [*find_dumpverify(), "--level", "pages", *jobs, str(dump)],
    }
    warm_cache(dump)
    names = list(commands)
    for name in names:
        run_timed(commands[name])
    runs = {name: [] for name in names}
    for number in range(args.runs):
        for name in names[:: 1 if number % 2 else -1]:
            out.unlink(missing_ok=True)
            runs[name].append(run_timed(commands[name]))
    convert, verify = (runs[name] for name in names)
    ratio = statistics.median(b.wall / a.wall for a, b in zip(convert, verify, strict=True))
    rows = []
    for name in names:
        bar = "" if name == names[0] else f"{'pass' if ratio <= args.ratio else 'FAIL'} ({ratio:.2f} x)"
        rows.append(row(dump.name, name, runs[name], size, run_memory(commands[name]), bar))
    out.unlink(missing_ok=True)
    return rows


def quick_row(dump: Path, size: int, args: argparse.Namespace) -> list[str]:
    """Run level quick and return its row."""
    command = [*find_dumpverify(), "--level", "quick", str(dump)]
    run_timed(command)
    runs = [run_timed(command) for _ in range(args.runs)]
    peak = run_memory(command)
    passed = statistics.median(run.wall for run in runs) <= WALL_BAR and peak <= MEMORY_BAR
    return row(f"sparse, {size >> 20} MiB", "dumpverify --level quick", runs, None, peak, "pass" if passed else "FAIL")


def row(dump: str, name: str, runs: Sequence[object], size: int | None, peak: int, bar: str) -> list[str]:
    """Return a row of the table."""
    walls = [run.wall for run in runs]
    wall = statistics.median(walls)
    return [
        dump,
        name,
        f"{wall:.2f}",
        f"{min(walls):.2f}..{max(walls):.2f}",
        f"{size / wall / 1e9:.2f}" if size else "",
        f"{statistics.median(run.cpu for run in runs):.2f}",
        f"{max(run.others for run in runs):.0%}",
        f"{peak / 1e6:.0f}",
        bar,
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", type=Path, help="keep the dumps here; default: temporary")
    parser.add_argument("--size", type=parse_size, default=2 << 30, help="memory of the dumps decoded, default 2G")
    parser.add_argument("--quick-size", type=parse_size, help="memory of the sparse dump, default 32 times --size")
    parser.add_argument("--codec", choices=CODECS, action="append", help="repeatable; default: all")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--ratio", type=float, default=1.0, help="bar: wall time of verification / conversion")
    args = parser.parse_args()
    quick_size = args.quick_size or 32 * args.size
    rows = []
    with tempfile.TemporaryDirectory(prefix="dumpconv-bench-") as scratch:
        folder = args.dir or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        shared = Path("/dev/shm")  # memory, so that no disk is measured
        out = (shared if shared.is_dir() else folder) / f"verify-{os.getpid()}.elf"
        try:
            for codec in args.codec or CODECS:
                rows += pages_rows(ensure_dump(folder, codec, args.size), out, args.size, args)
            sparse = folder / f"sparse-{quick_size >> 20}M.kdump"
            if not sparse.exists():
                make_sparse(sparse, quick_size)
            rows.append(quick_row(sparse, quick_size, args))
        except CommandError as error:
            print(f"bench: {error}", file=sys.stderr)
            return 1
        finally:
            out.unlink(missing_ok=True)
    print(format_table(HEAD, rows))
    return 3 if any("FAIL" in each[-1] for each in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
