# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads and compares pages of dumps; runs as a subprocess, since libkdumpfile may end its process on odd input.

    python page_worker.py '{"a": {...}, "b": {...}, "page_size": 4096}'

A side is `{"how": "kdumpfile", "files": [...]}` (libkdumpfile by ctypes; several files: one split set),
`{"how": "elf", "files": [one]}` (program headers read with struct) or `{"how": "flat", "files": [one]}` (physical
memory from address 0). Prints one JSON object: see `compare`. libkdumpfile's Python module opens one file
only; the C library below it takes sets.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from oracle import elf_struct

Runs = list[tuple[int, int]]
KDUMP_OK, KDUMP_ERR_NODATA, KDUMP_ERR_NOKEY = 0, 3, 6
MACHPHYSADDR = 1
CHUNK = 1 << 22
BANNER = re.compile(rb"Linux version [0-9]+\.[0-9]+\.[0-9]+")
BANNER_CHARS = b" #()+,;/-.0123456789:@ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~"
BANNER_SIZE = 0xFFF
SHOWN = 8  # frames named of each kind of difference


class Reader(Protocol):
    """One dump: the frames whose bytes it holds, those that it calls memory, and their bytes."""

    stored: Runs
    memory: Runs

    def read(self, pfn: int, count: int) -> bytes: ...


class Attr(ctypes.Structure):
    """kdump_attr_t of libkdumpfile 0.5: a type and a union of eight bytes."""

    _fields_ = (("type", ctypes.c_int), ("value", ctypes.c_uint64))


class KdumpfileReader:
    """A dump through libkdumpfile."""

    def __init__(self, files: list[str], page_size: int, library: str) -> None:
        lib = ctypes.CDLL(library)
        lib.kdump_new.restype = ctypes.c_void_p
        for name in ("kdump_get_err", "kdump_bmp_get_err"):
            getattr(lib, name).restype = ctypes.c_char_p
        self.lib, self.page_size = lib, page_size
        self.fds = [os.open(name, os.O_RDONLY) for name in files]
        self.ctx = ctypes.c_void_p(lib.kdump_new())
        self._check(lib.kdump_open_fdset(self.ctx, len(self.fds), (ctypes.c_int * len(self.fds))(*self.fds)))
        self.stored, self.memory = self._pagemap(b"file.pagemap"), self._pagemap(b"memory.pagemap")
        if is_elf(files[0]):
            self._trust_headers(files[0])
        self.buffer = ctypes.create_string_buffer(CHUNK + page_size)

    def _trust_headers(self, path: str) -> None:
        # 0.5.1's page maps of an ELF file end where a segment ends that lies inside another (the text alias): they miss
        # RAM that `read` finds. So the frames come from the program headers, and libkdumpfile has to read each of them.
        headers = ElfReader(path, self.page_size)
        beyond = elf_struct.subtract(self.stored, headers.stored)
        if beyond:
            raise OSError(f"libkdumpfile sees frames that are in no segment: {beyond[:SHOWN]}")
        self.stored, self.memory = headers.stored, headers.memory

    def _check(self, status: int) -> None:
        if status != KDUMP_OK:
            raise OSError(f"libkdumpfile: {self.lib.kdump_get_err(self.ctx).decode('utf-8', 'replace')}")

    def _pagemap(self, key: bytes) -> Runs:
        attr = Attr()
        self._check(self.lib.kdump_get_attr(self.ctx, key, ctypes.byref(attr)))
        bitmap, at, runs = ctypes.c_void_p(attr.value), ctypes.c_uint64(0), []
        while self.lib.kdump_bmp_find_set(bitmap, ctypes.byref(at)) == KDUMP_OK:
            start = at.value
            self.lib.kdump_bmp_find_clear(bitmap, ctypes.byref(at))
            if at.value <= start:
                break
            runs.append((start, at.value))
        return elf_struct.union(runs)  # of a split set it ends a run where a member ends

    def read(self, pfn: int, count: int) -> bytes:
        size = ctypes.c_size_t(count * self.page_size)
        status = self.lib.kdump_read(
            self.ctx, MACHPHYSADDR, ctypes.c_uint64(pfn * self.page_size), self.buffer, ctypes.byref(size)
        )
        if status != KDUMP_OK:
            where = pfn + size.value // self.page_size
            told = self.lib.kdump_get_err(self.ctx).decode("utf-8", "replace")
            raise OSError(f"libkdumpfile: frame {where:#x}: {told}")
        return ctypes.string_at(self.buffer, size.value)


class ElfReader:
    """An ELF core by its program headers; where segments overlap the later one wins (RAM lies after the text alias)."""

    def __init__(self, path: str, page_size: int) -> None:
        core = elf_struct.read_core(Path(path))
        self.page_size, self.fd = page_size, os.open(path, os.O_RDONLY)
        loads = [load for load in core.loads if load.p_filesz and load.p_paddr != elf_struct.all_ones(core)]
        self.loads = [whole for load in loads if (whole := clipped(load, core.size, page_size)).p_filesz]
        self.stored = elf_struct.union([elf_struct.paged(load, page_size) for load in self.loads])
        ends = [(load.p_paddr // page_size, -(-(load.p_paddr + load.p_memsz) // page_size)) for load in core.loads]
        self.memory = elf_struct.union(ends)
        self.index = sorted(range(len(self.loads)), key=lambda i: self.loads[i].p_paddr)
        self.overlapping = any(
            self.loads[a].p_paddr + self.loads[a].p_filesz > self.loads[b].p_paddr
            for a, b in zip(self.index, self.index[1:], strict=False)
        )
        self.starts = [self.loads[i].p_paddr for i in self.index]
        self.longest = max((load.p_filesz for load in self.loads), default=0)

    def read(self, pfn: int, count: int) -> bytes:
        from bisect import bisect_left, bisect_right

        start, end = pfn * self.page_size, (pfn + count) * self.page_size
        data = bytearray(end - start)
        low, high = bisect_left(self.starts, start - self.longest), bisect_right(self.starts, end)
        for number in sorted(self.index[low:high]):
            load = self.loads[number]
            first, last = max(start, load.p_paddr), min(end, load.p_paddr + load.p_filesz)
            if first < last:
                piece = os.pread(self.fd, last - first, load.p_offset + first - load.p_paddr)
                if len(piece) != last - first:
                    raise OSError(f"segment of {load.p_paddr:#x} ends beyond the file")
                data[first - start : last - start] = piece
        return bytes(data)


def clipped(load: elf_struct.Phdr, file_size: int, page_size: int) -> elf_struct.Phdr:
    """The segment without what a file that ends too early does not hold; a frame cut in two is not there."""
    room = max(0, file_size - load.p_offset)
    if load.p_filesz <= room:
        return load
    return replace(load, p_filesz=max(0, (load.p_paddr + room) // page_size * page_size - load.p_paddr))


class FlatReader:
    """Physical memory as one flat file from address 0 (QEMU's pmemsave)."""

    def __init__(self, path: str, page_size: int, base: int) -> None:
        self.fd, self.page_size, self.base = os.open(path, os.O_RDONLY), page_size, base
        first = base // page_size
        self.stored = [(first, first + os.fstat(self.fd).st_size // page_size)]
        self.memory = self.stored

    def read(self, pfn: int, count: int) -> bytes:
        return os.pread(self.fd, count * self.page_size, pfn * self.page_size - self.base)


def is_elf(path: str) -> bool:
    with open(path, "rb") as stream:
        return stream.read(4) == b"\x7fELF"


def open_side(side: dict[str, Any], page_size: int) -> Reader:
    if side["how"] == "kdumpfile":
        return KdumpfileReader(side["files"], page_size, side["library"])
    if side["how"] == "elf":
        return ElfReader(side["files"][0], page_size)
    return FlatReader(side["files"][0], page_size, side.get("base", 0))


def digest(reader: Reader, page_size: int) -> str:
    """SHA-256 over (start, end, bytes) of the stored runs."""
    hasher = hashlib.sha256()
    step = CHUNK // page_size
    for start, end in reader.stored:
        hasher.update(f"{start} {end} ".encode())
        for at in range(start, end, step):
            hasher.update(reader.read(at, min(step, end - at)))
    return hasher.hexdigest()


def different_frames(left: bytes, right: bytes, pfn: int, page_size: int) -> list[int]:
    if left == right:
        return []
    pairs = range(0, max(len(left), len(right)), page_size)
    return [pfn + at // page_size for at in pairs if left[at : at + page_size] != right[at : at + page_size]]


def read_what_is_there(reader: Reader, pfn: int, count: int, lost: list[int]) -> list[tuple[int, bytes]]:
    """Pieces that can be read; frames that can't (an incomplete dump's) are added to `lost`, one by one."""
    try:
        return [(pfn, reader.read(pfn, count))]
    except OSError:
        if count == 1:
            lost.append(pfn)
            return []
    half = count // 2
    return read_what_is_there(reader, pfn, half, lost) + read_what_is_there(reader, pfn + half, count - half, lost)


def compare(a: Reader, b: Reader, page_size: int) -> dict[str, Any]:
    """Compare byte by byte the frames that both hold, and name those that one alone holds."""
    common = elf_struct.intersect(a.stored, b.stored)
    step = CHUNK // page_size
    different: list[int] = []
    lost: list[int] = []
    for start, end in common:
        for at in range(start, end, step):
            for pfn, piece in read_what_is_there(a, at, min(step, end - at), lost):
                different += different_frames(piece, b.read(pfn, len(piece) // page_size), pfn, page_size)
    only_a, only_b = elf_struct.subtract(a.stored, b.stored), elf_struct.subtract(b.stored, a.stored)
    gone: list[int] = []
    for start, end in only_a:
        for at in range(start, end, step):
            read_what_is_there(a, at, min(step, end - at), gone)
    only_a = elf_struct.subtract(only_a, elf_struct.union([(pfn, pfn + 1) for pfn in gone]))
    excluded = elf_struct.subtract(a.memory, a.stored)
    return {
        "compared": elf_struct.count(common) - len(lost),
        "lost_in_b": len(lost),
        "lost": len(lost) + len(gone),
        "different": len(different),
        "different_first": different[:SHOWN],
        "only_a": elf_struct.count(only_a),
        "only_a_first": only_a[:SHOWN],
        "only_b": elf_struct.count(only_b),
        "only_b_first": only_b[:SHOWN],
        "stored_a": elf_struct.count(a.stored),
        "stored_b": elf_struct.count(b.stored),
        "excluded_a": elf_struct.count(excluded),
        "excluded_in_b": elf_struct.count(elf_struct.intersect(excluded, b.stored)),
    }


def banners(reader: Reader, page_size: int) -> list[int]:
    """Physical addresses of what volatility's banners.Banners lists, found by its rule in the stored frames."""
    found: dict[int, None] = {}
    step = CHUNK // page_size
    for start, end in reader.stored:
        before = b""
        for at in range(start, end, step):
            data = before + reader.read(at, min(step, end - at))
            base = at * page_size - len(before)
            found |= {base + hit: None for hit in _banner_hits(data)}
            before = data[-BANNER_SIZE:]
    return list(found)


def _banner_hits(data: bytes) -> list[int]:
    hits = []
    for match in BANNER.finditer(data):
        text = data[match.start() : match.start() + BANNER_SIZE].split(b"\0", 1)
        if len(text) == 2 and not set(text[0].strip()) - set(BANNER_CHARS):
            hits.append(match.start())
    return hits


def main() -> None:
    request = json.loads(sys.argv[1])
    page_size = request["page_size"]
    a = open_side(request["a"], page_size)
    answer: dict[str, Any] = {}
    if "b" in request:
        answer |= compare(a, open_side(request["b"], page_size), page_size)
    if request.get("digest"):
        answer |= {"digest": digest(a, page_size), "memory": elf_struct.count(a.memory), "runs": len(a.stored)}
    if request.get("banners"):
        answer["banners"] = banners(a, page_size)
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
