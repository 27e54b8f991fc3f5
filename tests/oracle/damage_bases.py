# SPDX-License-Identifier: GPL-2.0-or-later
"""Real dumps in many forms to be damaged, and what struct alone reads of them; shares no code with the product."""

from __future__ import annotations

import lzma
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import cramjam
import lzo
import numpy as np
import zstandard
from oracle.elf_struct import Core, lines_of, read_core

from support import build_lime, build_lkcd, build_s390, oracle_tools
from support.command import dumpconv

PAGE = 4096
RAW, ZLIB, LZO, SNAPPY, ZSTD = 0, 1, 2, 4, 0x20
NR_SMALL = 64  # real pages in the formats that are built
KERNEL_MAP = 0xFFFFFFFF80000000  # __START_KERNEL_map of x86_64


def decoded(flags: int, data: bytes) -> bytes | None:
    """One page as the plain library decodes it, None where it refuses."""
    try:
        if flags == ZLIB:
            return zlib.decompress(data)
        if flags == LZO:
            return bytes(lzo.decompress(data, False, PAGE))
        if flags == SNAPPY:
            return bytes(cramjam.snappy.decompress_raw(data))
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=PAGE)
    except Exception:  # every library has its own
        return None


class Dump:
    """Files of one dump, being damaged."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    @property
    def path(self) -> Path:
        return self.paths[0]

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    def get(self, offset: int, size: int) -> bytes:
        with open(self.path, "rb") as stream:
            stream.seek(offset)
            return stream.read(size)

    def put(self, offset: int, data: bytes) -> None:
        with open(self.path, "r+b") as stream:
            stream.seek(offset)
            stream.write(data)

    def pack(self, offset: int, code: str, *values: int) -> None:
        self.put(offset, struct.pack(code, *values))

    def unpack(self, offset: int, code: str) -> tuple[int, ...]:
        return struct.unpack(code, self.get(offset, struct.calcsize(code)))

    def flip(self, offset: int, bit: int = 0) -> None:
        self.put(offset, bytes([self.get(offset, 1)[0] ^ 1 << bit]))

    def cut(self, size: int) -> None:
        with open(self.path, "r+b") as stream:
            stream.truncate(size)

    def remove(self, start: int, end: int) -> None:
        data = self.path.read_bytes()
        self.path.write_bytes(data[:start] + data[end:])

    def swap(self, first: int, second: int, size: int) -> None:
        one, two = self.get(first, size), self.get(second, size)
        self.put(first, two)
        self.put(second, one)

    @cached_property
    def kdump(self) -> Kdump:
        return Kdump(self.path)

    @cached_property
    def core(self) -> Core:
        return read_core(self.path)


class Kdump:
    """Where things are in a 64-bit little-endian kdump of version 6."""

    def __init__(self, path: Path) -> None:
        data = path.read_bytes()
        self.block, self.sub_blocks, self.bitmap_blocks, _ = struct.unpack_from("<iiII", data, 428)
        self.sub = self.block
        self.max_pfn, *_ = struct.unpack_from("<Q", data, self.sub + 96)
        self.text = struct.unpack_from("<QQ", data, self.sub + 32)
        self.notes = struct.unpack_from("<QQ", data, self.sub + 48)
        self.bitmap1 = (1 + self.sub_blocks) * self.block
        self.bitmap2 = self.bitmap1 + self.bitmap_blocks * self.block // 2
        self.table = self.bitmap1 + self.bitmap_blocks * self.block
        self.ram, self.stored = (
            np.flatnonzero(
                np.unpackbits(
                    np.frombuffer(data, np.uint8, (self.max_pfn + 7) // 8, at), bitorder="little", count=self.max_pfn
                )
            )
            for at in (self.bitmap1, self.bitmap2)
        )
        kind = np.dtype([("offset", "<u8"), ("size", "<u4"), ("flags", "<u4"), ("page_flags", "<u8")])
        split, start, end = (
            *struct.unpack_from("<i", data, self.sub + 12),
            *struct.unpack_from("<QQ", data, self.sub + 80),
        )
        if split:
            self.stored = self.stored[(self.stored >= start) & (self.stored < end)]
        self.rows = np.frombuffer(data, kind, len(self.stored), self.table)
        self.info = lines_of(data[self.text[0] : sum(self.text)])
        self.data = data

    def at(self, rank: int) -> int:
        """File offset of a descriptor."""
        return self.table + 24 * rank

    def place(self, rank: int) -> tuple[int, int, int]:
        """(frame, first byte, end) of a stored page."""
        row = self.rows[rank]
        return int(self.stored[rank]), int(row["offset"]), int(row["offset"]) + int(row["size"])

    def blob(self, rank: int) -> bytes:
        _, start, end = self.place(rank)
        return self.data[start:end]

    def pages(self, flags: int, low: int = 300, high: int = 3500) -> list[int]:
        """Ranks of pages with this codec and a stored size in between, that share their data with none."""
        _, where, count = np.unique(self.rows["offset"], return_inverse=True, return_counts=True)
        size = self.rows["size"]
        good = (self.rows["flags"] == flags) & (count[where] == 1)
        return np.flatnonzero(good if flags == RAW else good & (size >= low) & (size <= high)).tolist()

    def middle(self, flags: int) -> int:
        """Rank of one such page in the middle of the dump."""
        found = self.pages(flags)
        return int(found[len(found) // 2])

    def rank_of(self, symbol: str) -> int:
        """Rank of the page that holds a symbol of the kernel image."""
        pfn = self.paddr(symbol) // PAGE
        rank = int(np.searchsorted(self.stored, pfn))
        assert self.stored[rank] == pfn
        return rank

    def paddr(self, symbol: str) -> int:
        return int(self.info[f"SYMBOL({symbol})"], 16) - KERNEL_MAP + int(self.info["NUMBER(phys_base)"])

    def flip_that(self, flags: int, *, decodes: bool) -> tuple[int, int, int]:
        """(rank, file offset, bit) of a flip that the plain library notices, or takes for another page."""
        for rank in self.pages(flags)[100:160]:
            blob = self.blob(rank)
            for index in range(len(blob) // 2, len(blob)):
                bad = bytearray(blob)
                bad[index] ^= 1
                found = decoded(flags, bytes(bad))
                whole = found is not None and len(found) == PAGE
                if whole == decodes and found != decoded(flags, blob):
                    return rank, self.place(rank)[1] + index, 0
        raise AssertionError("no such flip")


class Bases:
    """Makes each form once, and gives copies of it."""

    def __init__(self, real: Path, folder: Path) -> None:
        self.real, self.folder = real, folder
        self._made: dict[str, list[Path]] = {}

    def copy(self, name: str, target: Path) -> Dump:
        """A dump to be damaged."""
        target.mkdir(parents=True, exist_ok=True)
        paths = []
        for path in self.made(name):
            paths.append(target / path.name)
            shutil.copyfile(path, paths[-1])
        return Dump(paths)

    def made(self, name: str) -> list[Path]:
        """The undamaged files."""
        if name not in self._made:
            makers: dict[str, Callable[[Path], list[Path]]] = {
                "zstd": lambda to: [self._copied("vmcore.d31.zstd.kdump", to)],
                "snappy": lambda to: [self._unpacked("vmcore.d31.snappy.kdump.xz", to)],
                "s390x": lambda to: [self._unpacked("s390x-qemu.elf.zst", to)],
                "vmcore": lambda to: [self._unpacked("vmcore.elf.zst", to)],
                "zlib": lambda to: self._filtered(to, "-c"),
                "lzo": lambda to: self._filtered(to, "-l"),
                "flat": lambda to: self._filtered(to, "-F", "-l"),
                "other": lambda to: self._filtered(to, "-E"),
                "split": self._split,
                "canonical": self._canonical,
                "outer-xz": lambda to: self._outer(to, "xz"),
                "outer-zst": lambda to: self._outer(to, "zst"),
                "lkcd": self._lkcd,
                "lime": lambda to: self._lime(to, avml=False),
                "avml": lambda to: self._lime(to, avml=True),
                "s390": self._s390,
            }
            self._made[name] = makers[name](self.folder / name)
        return self._made[name]

    def _copied(self, name: str, to: Path) -> Path:
        shutil.copyfile(self.real / name, to)
        return to

    def _unpacked(self, name: str, to: Path) -> Path:
        if name.endswith(".xz"):
            with lzma.open(self.real / name) as source, open(to, "wb") as out:
                shutil.copyfileobj(source, out, 1 << 20)
        else:
            subprocess.run(["zstd", "-q", "-d", "--long=27", self.real / name, "-o", to], check=True, timeout=120)
        return to

    def _filtered(self, to: Path, *options: str) -> list[Path]:
        ran = oracle_tools.make_dump(self.made("vmcore")[0], to, "-d", "31", *options)
        assert ran.ok, ran.why
        return [to]

    def _split(self, to: Path) -> list[Path]:
        to.mkdir()
        targets = [to / f"part{number}" for number in range(3)]
        ran = oracle_tools.make_split(self.made("vmcore")[0], targets, "-l", "-d", "31")
        assert ran.ok, ran.why
        return targets[::-1]  # all pages of this machine are in the first: what is damaged, comes last

    def _canonical(self, to: Path) -> list[Path]:
        done = dumpconv(self.made("zstd")[0], to)
        assert done.returncode == 0, done.stderr
        return [to]

    def _outer(self, to: Path, kind: str) -> list[Path]:
        data = self.made("lzo")[0].read_bytes()
        to = to.with_name(f"packed.{kind}")
        if kind == "xz":
            to.write_bytes(lzma.compress(data, preset=0))
        else:
            to.write_bytes(zstandard.ZstdCompressor(level=1, write_checksum=True).compress(data))
        return [to]

    def _real_pages(self) -> dict[int, bytes]:
        # pages of kernel text from the raw vmcore: all compress, none is zero
        core = read_core(self.made("vmcore")[0])
        info = lines_of(core.vmcoreinfo)
        first = int(info["SYMBOL(_stext)"], 16)
        load = next(each for each in core.loads if each.p_vaddr <= first < each.p_vaddr + each.p_filesz)
        with open(core.path, "rb") as stream:
            stream.seek(load.p_offset + first - load.p_vaddr)
            return {16 + number: stream.read(PAGE) for number in range(NR_SMALL)}

    def _lkcd(self, to: Path) -> list[Path]:
        return [build_lkcd.build(build_lkcd.LkcdSpec(pages=self._real_pages())).write_to(to)]

    def _lime(self, to: Path, *, avml: bool) -> list[Path]:
        pages = self._real_pages()
        halves = [b"".join(pages[16 + at + index] for index in range(NR_SMALL // 2)) for at in (0, NR_SMALL // 2)]
        ranges = [build_lime.Range(0x10000, halves[0]), build_lime.Range(0x80000, halves[1])]
        to.write_bytes(build_lime.build(ranges, avml=avml))
        return [to]

    def _s390(self, to: Path) -> list[Path]:
        pages = {number: page for number, page in enumerate(self._real_pages().values())}
        to.write_bytes(build_s390.build(build_s390.S390Spec(nr_pages=NR_SMALL, pages=pages)))
        return [to]
