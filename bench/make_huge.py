# SPDX-License-Identifier: GPL-2.0-or-later
"""Make the dump of a machine with 1 TiB of memory, as a sparse file: 268 435 456 page frames.

By default as `makedumpfile -d 31` leaves such a machine: about 3 % of the frames stored, in some 300 000 runs; all
frames share the data of a few hundred compressed pages. With --full every frame of RAM is stored and refers to one
page of zeros: a descriptor table of 6.4 GB. Both are whole and valid dumps.
"""

import argparse
import sys
import zlib
from pathlib import Path

import numpy as np
from kdumpfile import CODEC_FLAGS, DESCRIPTOR, PAGE_SIZE, KdumpLayout, fixture_pages

NR_FRAMES = 1 << 28
NR_RUNS = 300_000
MEAN_RUN = 27
NR_DATA_PAGES = 256
CHUNK = 1 << 22
# RAM of a PC: below 640 KiB, from 1 MiB to 3 GiB, and from 4 GiB up.
RAM = ((0, 0xA0), (0x100, 0xC0000), (0x100000, NR_FRAMES))


def ram_frames() -> np.ndarray:
    """Return one bool a frame: is RAM."""
    ram = np.zeros(NR_FRAMES, bool)
    for start, end in RAM:
        ram[start:end] = True
    return ram


def stored_frames(ram: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return one bool a frame: kernel memory lies in runs, most short, some of many MiB, and in clusters."""
    stored = np.zeros(NR_FRAMES, bool)
    centres = rng.integers(0, NR_FRAMES, size=NR_RUNS // 40)
    starts = np.clip(rng.choice(centres, NR_RUNS) + rng.normal(0, 20_000, NR_RUNS), 0, NR_FRAMES - 1).astype(np.int64)
    lengths = 1 + rng.pareto(1.6, NR_RUNS) * MEAN_RUN * 0.6
    for start, length in zip(starts.tolist(), lengths.astype(np.int64).tolist(), strict=True):
        stored[start : start + length] = True
    stored[:0x40] = True
    return stored & ram


def data_pages(rng: np.random.Generator) -> list[bytes]:
    """Return compressed pages of half-random content, as small and as large as real ones."""
    pages = []
    for _ in range(NR_DATA_PAGES):
        page = np.zeros(PAGE_SIZE, np.uint8)
        used = int(rng.integers(16, PAGE_SIZE - 512))
        page[:used] = rng.integers(0, 200, size=used)
        pages.append(zlib.compress(page.tobytes(), 1))
    return pages


def make_huge(out: Path, *, full: bool, seed: int) -> None:
    """Write the file; it appears under its name only when it is whole."""
    rng = np.random.default_rng(seed)
    ram = ram_frames()
    stored = ram if full else stored_frames(ram, rng)
    nr_stored = int(stored.sum())
    layout = KdumpLayout(NR_FRAMES, nr_stored, status=CODEC_FLAGS["zlib"], dump_level=1 if full else 31, nr_cpus=2)
    # Zero page first, as makedumpfile has it; then the fixture's pages, then those that all others share.
    fixture = {pfn: zlib.compress(page, 1) for pfn, page in fixture_pages().items()}
    shared = [] if full else data_pages(rng)
    blobs = [bytes(PAGE_SIZE), *fixture.values(), *shared]
    rows = np.zeros(len(blobs), DESCRIPTOR)
    rows["size"] = [len(blob) for blob in blobs]
    rows["offset"] = layout.data_offset + np.concatenate(([0], np.cumsum(rows["size"])[:-1]))
    rows["flags"] = [0] + [CODEC_FLAGS["zlib"]] * (len(blobs) - 1)
    first_shared = 1 + len(fixture)

    part = out.with_name(out.name + ".part")
    with part.open("wb") as file:
        file.write(layout.headers())
        layout.write_bitmaps(file, ram, stored)
        file.seek(layout.table_offset)
        for start in range(0, nr_stored, CHUNK):
            count = min(CHUNK, nr_stored - start)
            table = np.repeat(rows[:1], count) if full else rows[first_shared + rng.integers(0, len(shared), count)]
            if start == 0:
                # Frames below 0x40 are all stored: there a rank is a frame number.
                for index, pfn in enumerate(fixture, 1):
                    table[pfn] = rows[index]
            file.write(table)
        file.write(b"".join(blobs))
    part.replace(out)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--full", action="store_true", help="store every frame (6.4 GB of descriptors)")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    make_huge(args.out, full=args.full, seed=args.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
