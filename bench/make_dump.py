# SPDX-License-Identifier: GPL-2.0-or-later
"""Make a large kdump-compressed file of realistic memory for the benchmark.

The pages come from real files (programs, libraries, text; a real vmcore where one is given), in runs as a page
cache holds them. A page that is used twice is rotated and changed in a few words, so that no contestant profits
from repeats. Pages that do not compress are left out, but for the share asked for with --raw-share.
The same seed and sources give the same memory for every codec, so that codecs can be compared too.
"""

import argparse
import multiprocessing
import os
import random
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cramjam
import numpy as np
import zstandard
from kdumpfile import CODEC_FLAGS, DESCRIPTOR, PAGE_SIZE, KdumpLayout, fixture_pages

CHUNK_PAGES = 8192
SEGMENT_PAGES = 128
DEFAULT_SOURCES = ("/usr/lib", "/usr/bin", "/usr/share")
MIN_FILE_SIZE = 64 * 1024
# A page counts as compressible when snappy, the weakest codec here, takes this off it at least.
COMPRESSIBLE_SIZE = PAGE_SIZE * 15 // 16
MIN_NONZERO_WORDS = 24


@dataclass(frozen=True)
class Job:
    """What one worker does: fill the frames of one chunk from its segments, and compress them."""

    start_pfn: int
    stored: np.ndarray  # one bool a frame
    raw: np.ndarray  # one bool a frame: take a page that no codec shrinks
    segments: tuple[tuple[str, int], ...]  # file, first page
    codec: str
    seed: int


def compressor(codec: str) -> Callable[[bytes], bytes]:
    """Return the call that compresses one page as makedumpfile does."""
    if codec == "zlib":
        return lambda page: zlib.compress(page, 1)
    if codec == "snappy":
        return lambda page: bytes(cramjam.snappy.compress_raw(page))
    if codec == "zstd":
        return zstandard.ZstdCompressor(level=1, write_content_size=True, write_checksum=False).compress
    if codec == "lzo":
        try:
            import lzo
        except ImportError as error:
            raise SystemExit("make_dump: LZO dumps need python-lzo: pip install -e '.[lzo]'") from error

        return lambda page: lzo.compress(page, 1, False)
    return lambda page: page


def find_segments(sources: list[Path], seed: int) -> list[tuple[str, int]]:
    """Return (file, first page) of every run of SEGMENT_PAGES pages under the sources, shuffled by the seed."""
    files = []
    for source in sources:
        if source.is_file():
            files.append((str(source), source.stat().st_size))
            continue
        for folder, subfolders, names in os.walk(source):
            subfolders.sort()
            for name in sorted(names):
                path = Path(folder, name)
                if path.is_file() and not path.is_symlink():
                    files.append((str(path), path.stat().st_size))
    segments = [
        (path, page)
        for path, size in files
        if size >= MIN_FILE_SIZE
        for page in range(0, size // PAGE_SIZE, SEGMENT_PAGES)
    ]
    random.Random(seed).shuffle(segments)
    return segments


def harvest(segments: tuple[tuple[str, int], ...], rng: np.random.Generator) -> Iterator[bytes]:
    """Yield pages that compress, for ever: the segments once as they are, then changed a little each time."""
    seen: set[int] = set()
    generation = 0
    while True:
        found = 0
        for path, first in segments:
            with open(path, "rb") as file:
                file.seek(first * PAGE_SIZE)
                data = file.read(SEGMENT_PAGES * PAGE_SIZE)
            words = np.frombuffer(data, "<u8", count=len(data) // PAGE_SIZE * (PAGE_SIZE // 8)).reshape(-1, 512)
            for row in words[np.count_nonzero(words, axis=1) >= MIN_NONZERO_WORDS]:
                page = changed(row, rng) if generation else row.tobytes()
                key = hash(page)
                if key in seen or len(cramjam.snappy.compress_raw(page)) > COMPRESSIBLE_SIZE:
                    continue
                seen.add(key)
                found += 1
                yield page
        generation += 1
        if not found:
            raise SystemExit("make_dump: the sources hold no page that compresses")


def changed(row: np.ndarray, rng: np.random.Generator) -> bytes:
    """Return the page rotated by some words, with a few words of its own: different bytes, much the same statistics."""
    page = np.roll(row, int(rng.integers(1, 512)))
    places = rng.integers(0, 512, size=6)
    page[places] = rng.integers(0, 1 << 63, size=6, dtype=np.uint64)
    return page.tobytes()


def run_job(job: Job) -> tuple[bytes, np.ndarray]:
    """Return the data of a chunk back to back, and its descriptors with offsets from the chunk's start."""
    rng = np.random.default_rng([job.seed, job.start_pfn])
    compress = compressor(job.codec)
    flag = CODEC_FLAGS[job.codec]
    fixture = fixture_pages()
    pages = harvest(job.segments, rng)
    stored = np.flatnonzero(job.stored)
    table = np.zeros(len(stored), DESCRIPTOR)
    parts = []
    offset = 0
    for index, frame in enumerate(stored.tolist()):
        pfn = job.start_pfn + frame
        if pfn in fixture:
            page = fixture[pfn]
        elif job.raw[frame]:
            page = rng.bytes(PAGE_SIZE)
        else:
            page = next(pages)
        data = compress(page)
        small = flag != 0 and len(data) < PAGE_SIZE
        parts.append(data if small else page)
        table[index] = (offset, len(parts[-1]), flag if small else 0, 0)
        offset += len(parts[-1])
    return b"".join(parts), table


def memory_layout(nr_pages: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return (is RAM, is stored) a frame: the hole below 1 MiB, and half a percent excluded in short runs."""
    ram = np.ones(nr_pages, bool)
    ram[0xA0:0x100] = False
    stored = ram.copy()
    for start in rng.integers(0x100, nr_pages, size=nr_pages // 4096):
        stored[start : start + rng.integers(1, 40)] = False
    return ram, stored


def raw_frames(nr_pages: int, share: float, rng: np.random.Generator) -> np.ndarray:
    """Return which frames hold pages that do not compress: runs of 1 to some 100 pages, as a page cache has them."""
    raw = np.zeros(nr_pages, bool)
    pfn = 0
    while share and pfn < nr_pages:
        run = 1 + int(rng.exponential(48))
        raw[pfn : pfn + run] = rng.random() < share
        pfn += run
    return raw


def make_dump(  # the arguments of the command line
    out: Path, *, codec: str, size: int, raw_share: float, sources: list[Path], seed: int, jobs: int
) -> None:
    """Write the file; it appears under its name only when it is whole."""
    compressor(codec)  # fails here rather than in a worker
    nr_pages = size // PAGE_SIZE
    rng = np.random.default_rng(seed)
    ram, stored = memory_layout(nr_pages, rng)
    raw = raw_frames(nr_pages, raw_share, rng)
    starts = range(0, nr_pages, CHUNK_PAGES)
    segments = find_segments(sources, seed)
    if not segments:
        raise SystemExit(f"make_dump: no files of {MIN_FILE_SIZE} bytes or more in the sources")
    # Each chunk gets its share of all segments; a source too small to go round is dealt out again, and
    # then its pages are changed, since every chunk but the first counts as a repeat of the bytes.
    job_list = [
        Job(
            start,
            stored[start : start + CHUNK_PAGES],
            raw[start : start + CHUNK_PAGES],
            tuple(segments[index :: len(starts)] or [segments[index % len(segments)]]),
            codec,
            seed,
        )
        for index, start in enumerate(starts)
    ]
    layout = KdumpLayout(nr_pages, int(stored.sum()), status=CODEC_FLAGS[codec], dump_level=0)
    part = out.with_name(out.name + ".part")
    with part.open("wb") as file, multiprocessing.get_context("fork").Pool(jobs) as pool:
        file.write(layout.headers())
        layout.write_bitmaps(file, ram, stored)
        file.seek(layout.data_offset)
        offset = layout.data_offset
        tables = []
        for data, table in pool.imap(run_job, job_list):
            file.write(data)
            table["offset"] += offset
            offset += len(data)
            tables.append(table)
        file.seek(layout.table_offset)
        file.write(np.concatenate(tables).tobytes())
        file.flush()
        os.fsync(file.fileno())
    part.replace(out)


def parse_size(text: str) -> int:
    """Return the bytes of 4096, 64K, 16M or 2G, a multiple of the page size."""
    units = {"K": 10, "M": 20, "G": 30, "T": 40}
    shift = units.get(text[-1].upper(), 0)
    size = int(text[:-1] if shift else text) << shift
    if size <= 0 or size % (512 * PAGE_SIZE):
        raise argparse.ArgumentTypeError(f"{text} is not a multiple of {512 * PAGE_SIZE // 1024} KiB")
    return size


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--codec", choices=CODEC_FLAGS, default="zlib")
    parser.add_argument("--size", type=parse_size, default=parse_size("2G"), help="memory, default 2G")
    parser.add_argument("--raw-share", type=float, default=0.0, help="share of pages that do not compress, 0 to 1")
    parser.add_argument(
        "--source", type=Path, action="append", help="file or directory to take pages from (repeatable)"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    make_dump(
        args.out,
        codec=args.codec,
        size=args.size,
        raw_share=args.raw_share,
        sources=args.source or [Path(source) for source in DEFAULT_SOURCES],
        seed=args.seed,
        jobs=args.jobs,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
