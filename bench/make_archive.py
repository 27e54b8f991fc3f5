# SPDX-License-Identifier: GPL-2.0-or-later
"""A directory tree of many small dumps, no two alike, and what `dumpverify` must say of each.

Of a hundred files 70 are kdump, 8 packed by gzip, 8 by zstd, 5 ELF, 4 LiME (LiME dumps are "doubtful" by nature: no
notes), 2 no dump, one is damaged, one cannot be read, and the last is a split set of two.
"""

import argparse
import gzip
import json
import random
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from kdumpfile import CODEC_FLAGS, DESCRIPTOR, PAGE_SIZE, KdumpLayout

CORPUS = Path(__file__).parent.parent / "corpus"
NR_PAGES, MAX_MAPNR, PER_FOLDER = 24, 64, 500


class Maker:
    """Makes files by number; the same number gives the same bytes."""

    def __init__(self) -> None:
        source = random.Random(1)
        words = [bytes(source.choices(range(97, 123), k=source.randint(2, 9))) for _ in range(300)]
        self._pages = [zlib.compress(b" ".join(source.choices(words, k=900))[:PAGE_SIZE], 1) for _ in range(256)]
        self._layout = KdumpLayout(MAX_MAPNR, NR_PAGES, status=CODEC_FLAGS["zlib"], dump_level=0, nr_cpus=1)
        bits = np.packbits(np.arange(MAX_MAPNR) < NR_PAGES, bitorder="little").tobytes()
        self._head = self._layout.headers() + bits.ljust(self._layout.bitmap_size, b"\0") * 2
        self._elf = (CORPUS / "elf" / "qemu.elf").read_bytes()
        self._lime = (CORPUS / "lime" / "plain.lime").read_bytes()
        self._split = [(CORPUS / "kdump" / f"split-two.{part}.kdump").read_bytes() for part in (0, 1)]

    def kdump(self, number: int, *, damaged: bool = False) -> bytes:
        """Return a kdump of 24 zlib pages, the first of which holds the number."""
        own = zlib.compress((b"file %d\n" % number * PAGE_SIZE)[:PAGE_SIZE], 1)
        blobs = [own, *(self._pages[(number * 7 + index * (number % 13 + 1)) % 256] for index in range(1, NR_PAGES))]
        rows = np.zeros(NR_PAGES, DESCRIPTOR)
        rows["size"] = [len(blob) for blob in blobs]
        rows["offset"] = self._layout.data_offset + np.concatenate(([0], np.cumsum(rows["size"])[:-1]))
        rows["flags"] = CODEC_FLAGS["zlib"]
        if damaged:
            blobs[5] = bytes(len(blobs[5]))
        return self._head + rows.tobytes() + b"".join(blobs)

    def files(self, count: int) -> Iterator[tuple[str, bytes, str]]:
        """Yield path, bytes and verdict of each; "" for a member of a set that its first one stands for."""
        for number in range(count):
            path = f"{number // PER_FOLDER:03}/{number:06}"
            yield from ((path + name, data, verdict) for name, data, verdict in self._file(number))

    def _file(self, number: int) -> Iterator[tuple[str, bytes, str]]:
        kind = number % 100
        if kind < 86:
            packed = pack(self.kdump(number), "" if kind < 70 else ".gz" if kind < 78 else ".zst")
            yield ".kdump" + packed[0], packed[1], "good"
        elif kind < 91:
            yield ".elf", _stamped(self._elf, number), "good"
        elif kind < 95:
            yield ".lime", _stamped(self._lime, number), "doubtful"
        elif kind < 97:
            yield ".txt", b"no dump, number %d\n" % number, "skipped"
        elif kind < 98:
            yield ".damaged", self.kdump(number, damaged=True), "DAMAGED"
        elif kind < 99:
            yield ".unreadable", self.kdump(number), "NOT CHECKED"
        else:
            name = (b"machine%d" % number).ljust(65, b"\0")  # utsname.nodename: members of one set have the same
            for part, data in enumerate(self._split):
                yield f".split.{part}", data[:77] + name + data[142:], "" if part else "good"


def pack(data: bytes, suffix: str) -> tuple[str, bytes]:
    """Return the suffix with the data packed so."""
    import zstandard

    return suffix, {"": bytes, ".gz": lambda each: gzip.compress(each, 1, mtime=0), ".zst": zstandard.compress}[suffix](
        data
    )


def _stamped(data: bytes, number: int) -> bytes:
    # the last page of these is stored raw at the end of the file
    return data[:-8] + struct.pack("<Q", number)


def make(folder: Path, count: int) -> dict[str, str]:
    """Make the tree, unless it is there; return each file's verdict by its path in the tree."""
    told = folder.with_name(folder.name + ".json")
    if told.exists():
        verdicts: dict[str, str] = json.loads(told.read_text())
        return verdicts
    verdicts = {}
    for name, data, verdict in Maker().files(count):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        if verdict == "NOT CHECKED":
            path.chmod(0)
        verdicts[name] = verdict
    told.write_text(json.dumps(verdicts))
    return verdicts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--files", type=int, default=2000)
    args = parser.parse_args()
    verdicts = make(args.folder, args.files)
    print(f"{len(verdicts)} files", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
