# SPDX-License-Identifier: GPL-2.0-or-later
"""Headers that claim any size: one clear answer within a second and 300 MB, in a process of its own."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from support import (
    build_diskdump,
    build_elf,
    build_flat,
    build_kdump,
    build_lkcd,
    build_xen,
    corpus_diskdump,
    corpus_elf,
    corpus_kdump,
    corpus_lkcd,
    corpus_xen,
    notes,
    patterns,
    product,
)
from support.sparse import SparseFile

SCRIPT = """
import json, os, resource, sys, threading, time
import numpy, zstandard, blake3, construct
from dumpconv.formats import open_dump
from dumpconv.formats.errors import DumpError
from dumpconv.formats.reader import Options
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (300 << 20), resource.RLIM_INFINITY))
threading.stack_size(1 << 20)
answers = []

def feed(path, fifo):
    try:
        with open(path, "rb") as source, open(fifo, "wb", buffering=0) as stream:
            while data := source.read(1 << 20):
                stream.write(data)
    except BrokenPipeError:
        pass

for path in sys.argv[2:]:
    if sys.argv[1] == "pipe":
        os.mkfifo(path + ".fifo")
        threading.Thread(target=feed, args=(path, path + ".fifo"), daemon=True).start()
        path += ".fifo"
    begin = time.process_time()
    try:
        reader = open_dump([path], Options(find_sisters=False))
        for source in reader.sources:
            source.finish()
            if source.damage is not None:
                raise source.damage
        reader.finish_notes()
        reader.vmcoreinfo
        end = reader.memory_map.end_pfn
        reader.extents(0, min(end, 1 << 16))
        if reader.damage is not None:
            raise reader.damage
        codes = "".join(f" [{each.code}]" for each in reader.findings)
        answer = [f"read, {len(reader.memory_map)} runs{codes}", 0]
    except DumpError as error:
        answer = [str(error), error.exit_code]
    except MemoryError:
        answer = ["MemoryError", 0]
    answers.append([*answer, time.process_time() - begin])
print(json.dumps(answers))
sys.stdout.flush()
os._exit(0)
"""
HUGE = (1 << 64) - 1
# name, file, what comes of it: the error's text, or that it is read, and with which finding
Cases = Iterator[tuple[str, SparseFile, str]]


def kdump(**more: object) -> SparseFile:
    return build_kdump.build(corpus_kdump.base(**more)).file  # type: ignore[arg-type]


def kdumps() -> Cases:
    everything = {"bitmap_blocks": 0xFFFFFFFF, "max_mapnr": 0xFFFFFFFF}
    yield (
        "max-mapnr-and-blocks",
        kdump(header=everything, sub_header={"max_mapnr_64": HUGE}),
        "headers and bitmaps need|impossible",
    )
    for name, claim in (("max-mapnr", HUGE), ("max-mapnr-2-45", 1 << 45)):
        file = kdump(header={"max_mapnr": 0xFFFFFFFF}, sub_header={"max_mapnr_64": claim})
        yield name, file, f"max_mapnr {claim:#x} is impossible: no machine addresses more than 0x100000000000000 bytes"
    file = kdump(header={"max_mapnr": 0xFFFFFFFF}, sub_header={"max_mapnr_64": 1 << 44})
    yield "max-mapnr-2-44", file, "2 bitmap blocks of 4096 bytes cannot cover 17592186044416 frames"
    yield "sub-hdr-size", kdump(header={"sub_hdr_size": 0x7FFFFFFF}), "headers and bitmaps need|bytes wanted at"
    yield "sub-hdr-size-negative", kdump(header={"sub_hdr_size": -1}), "sub_hdr_size -1 is not positive"
    yield (
        "block-size",
        kdump(header={"block_size": 1 << 30}),
        "block_size 1073741824 is no power of two in 512 to 1048576",
    )
    yield "size-note", kdump(sub_header={"size_note": HUGE}), "notes at 0x1068, 18446744073709551615 bytes, reach past"
    yield "offset-note", kdump(sub_header={"offset_note": HUGE}), "notes at 0xffffffffffffffff, "
    yield "size-vmcoreinfo", kdump(sub_header={"size_vmcoreinfo": 1 << 62}), "VMCOREINFO at .* reach past"
    yield "size-eraseinfo", kdump(eraseinfo=b"x", sub_header={"size_eraseinfo": HUGE}), "erase info at .* reach past"
    namesz = notes.encode(b"CORE\0", 1, b"", namesz=0xFFFFFFFF)
    yield "note-namesz", kdump(notes=namesz), r"read.*\[notes-damaged\]"
    descsz = notes.encode(b"CORE\0", 1, b"", descsz=0xFFFFFFFF)
    yield "note-descsz", kdump(notes=descsz), r"read.*\[notes-damaged\]"
    yield "empty-notes", kdump(notes=bytes(1 << 20)), "read"
    yield "many-notes", kdump(notes=notes.encode(b"", 1, b"") * 140000), "more than 131072 notes"


def holes() -> Cases:
    """Bitmaps of any size that are holes but for a few bytes, or altogether."""
    for bits in (36, 40, 44):
        empty = kdump(pages={}, excluded=[], max_mapnr=1 << bits)
        if bits < 44:  # ext4's largest file has 16 TiB
            yield f"sparse-2-{bits}", empty, "read, 0 runs"
        yield f"flattened-2-{bits}", flattened(empty), "read, 0 runs"
        yield f"flattened-incomplete-2-{bits}", flattened(empty, status=8), "read, 0 runs"
    far = kdump(pages={(1 << 36) - 7: bytes(4096)}, excluded=[(1 << 35, (1 << 35) + 8)], max_mapnr=1 << 36)
    yield "sparse-far", far, "read, 2 runs"
    yield "flattened-far", flattened(far), "read, 2 runs"
    # a byte in each of 5000 places: 2.5 GiB of bitmap if each chunk were read around it
    image = build_kdump.build(corpus_kdump.base(pages={}, excluded=[], max_mapnr=1 << 44))
    for number in range(5000):
        image.file.put(image.bitmap1_offset + (number << 25), b"\1")
    yield "flattened-specks", flattened(image.file), "read, 5000 runs"
    # every other frame is RAM, over a terabyte: 32 KiB when packed
    image = build_kdump.build(corpus_kdump.base(pages={}, excluded=[], max_mapnr=1 << 27))
    image.file.put(image.bitmap1_offset, b"\x55" * (1 << 24))
    yield "alternating", image.file, "more than 16777216 runs"
    # one record of a stream as long as the bitmap, itself in a hole
    head = kdump(pages={}, excluded=[], max_mapnr=1 << 36).pieces
    stream = SparseFile()
    body = b"".join(build_flat.Record(piece.offset, piece.data).pack() for piece in head if piece.data)
    size = 2 << 33
    end = stream.put(0, build_flat.header() + body + build_flat.Record(8192, b"", size=size).pack())
    stream.put(end + size, build_flat.END)
    yield "flattened-hole-record", stream, "read, 0 runs"


def flattened(file: SparseFile, **header: int) -> SparseFile:
    """The stream of a file's pieces; its last byte ends it where the file ends."""
    out = SparseFile()
    records = [build_flat.Record(piece.offset, piece.data) for piece in file.pieces if piece.data]
    records += [build_flat.Record(424, struct.pack("<I", status)) for status in header.values()]
    out.put(0, build_flat.flatten([*records, build_flat.Record(file.size, b"\0")]))
    return out


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def elf(**more: object) -> SparseFile:
    return build_elf.build(corpus_elf.spec(**more)).file  # type: ignore[arg-type]


def elf_files() -> Cases:
    cut = "|bytes wanted at"  # a pipe's size is not known before
    yield (
        "xnum",
        elf(xnum=True, section0={"sh_info": 0xFFFFFFFF}),
        "4294967295 program headers of 56 bytes at 0x40" + cut,
    )
    yield (
        "phentsize",
        elf(ehdr={"e_phentsize": 0xFFFF, "e_phnum": 0xFFFE}),
        "65534 program headers of 65535 bytes" + cut,
    )
    yield "phoff", elf(ehdr={"e_phoff": HUGE}), "program headers" + cut
    far = [corpus_elf.ram(4 * n, 4 * n + 1, memsz=1 << 60) for n in range(200)]
    yield "tails", elf(segments=far), r"read, 400 runs.*\[tail\]"
    claim = corpus_elf.ram(1, 4, fields={"p_filesz": 1 << 62, "p_memsz": 1 << 62})
    yield "filesz", elf(segments=[claim]), "needs file bytes up to|the stream ended after"
    wraps = corpus_elf.ram(1, 4, fields={"p_filesz": HUGE, "p_memsz": HUGE})
    yield "filesz-all-ones", elf(segments=[wraps]), "needs file bytes up to|the stream ended after"
    nested = [
        corpus_elf.Segment(n, b"", fields={"p_filesz": 60000 - 2 * n, "p_memsz": 60000 - 2 * n, "p_offset": 4096})
        for n in range(1000)
    ]
    yield "nested", elf(segments=[*nested, corpus_elf.ram(64, 80)]), "read, 2 runs"
    head = struct.pack("<II32s32sIIQ", 1, 0, b"", b"", 0, 1, HUGE)
    note = notes.encode(b"DUMPCONV\0", 0x44430001, head + b"x")
    yield "state-note", elf(notes=note), "claims 18446744073709551615 bytes"
    small = struct.pack("<II32s32sIIQ", 1, 0, b"", b"", 0, 1, 1 << 27)
    bomb = notes.encode(b"DUMPCONV\0", 0x44430001, small + build_kdump.compress(bytes(1 << 26), "zstd"))
    yield "state-note-bomb", elf(notes=bomb), "unpacks to"
    for name, gap, count in (("fill", 1 << 20, 5), ("fill-huge", 1 << 54, 1 << 53)):
        runs = b"".join(varint(number) for number in (12, 0, 0, 0, 1, gap, count, 0))
        head = struct.pack("<II32s32sIIQ", 1, 0, b"", b"", 0, 1, len(runs))
        note = notes.encode(b"DUMPCONV\0", 0x44430001, head + build_kdump.compress(runs, "zstd"))
        yield name, elf(notes=note), f"calls {count} frames filled that the program headers do not all hold"
    yield "vmcoreinfo", elf(notes=notes.vmcoreinfo(b"A=" * (8 << 20))), r"read.*\[vmcoreinfo-long\]"
    size = notes.vmcoreinfo(b"PAGESIZE=1099511627776\n")
    yield "page-size", elf(notes=size), "PAGESIZE=1099511627776, which is no power"


def diskdump_files() -> Cases:
    cut = "|bytes wanted at|cut off before"  # a pipe's size is not known before

    def made(**more: object) -> SparseFile:
        return build_diskdump.build(corpus_diskdump.base(**more)).file

    most = {"bitmap_blocks": 0xFFFFFFFF, "max_mapnr": 0xFFFFFFFF}
    for partition in (False, True):
        form = "partition" if partition else "file"
        yield f"{form}-all", made(partition=partition, header=most), "headers and bitmaps need" + cut
        yield (
            f"{form}-max-mapnr",
            made(partition=partition, header={"max_mapnr": 0xFFFFFFFF}),
            "2 bitmap blocks of 4096 bytes cannot cover 4294967295 frames" + cut,
        )
        yield f"{form}-nr-cpus", made(partition=partition, header={"nr_cpus": 0x7FFFFFFF}), r"read.*\[tasks\]"
        size = made(partition=partition, header={"sub_hdr_size": 0x7FFFFFFF})
        yield f"{form}-sub-hdr-size", size, "headers and bitmaps need" + cut
    # 4 GiB of frames, all RAM and all dumped by the bitmaps' last block; nothing of it is in the file
    far = corpus_diskdump.base(max_mapnr=1 << 31, pages={}, excluded=[((1 << 31) - 32768, 1 << 31)])
    for compressed in (False, True):
        spec = replace(far, partition=True, compressed=compressed, spare=0)
        image = build_diskdump.build(spec)
        image.file.put(image.bitmap2_offset, b"\xff" * 4096)
        yield f"partition-all-dumped-{compressed}", image.file, "of 32768 compressed pages found|read, 1 runs"


def lkcds() -> Cases:
    def made(size: int = 0, **more: object) -> SparseFile:
        file = SparseFile()
        file.put(0, build_lkcd.build(corpus_lkcd.base(**more)).to_bytes())  # type: ignore[arg-type]
        file.extend(size)
        return file

    yield "buffer-size", made(header={"dh_dump_buffer_size": HUGE}), f"dh_dump_buffer_size {HUGE} does not lie"
    yield "page-size", made(header={"dh_page_size": 1 << 31}), "dh_page_size 2147483648 is no power of two"
    yield "num-pages", made(header={"dh_num_pages": 0xFFFFFFFF}), r"read, 3 runs.*\[num-pages\]"
    yield "header-size", made(header={"dh_header_size": 0xFFFFFFFF}), r"read, 3 runs.*\[no-registers\]"
    asm = build_lkcd.asm_header("x86_64", "<", [build_lkcd.Cpu([1] * 21)], version=2, size=0xFFFFFFFF)
    yield "asm-size", made(asm=asm), r"read, 3 runs.*\[asm-header\]"
    far = made(4 << 40, asm=asm, start=1 << 24)  # room for 87381 CPUs in the header, and the file
    yield "asm-size-in-file", far, r"read, 3 runs.*\[asm-header\]"
    yield "zeros", made(4 << 40, pages={}, end=None), "no page record: address 0x0, size 0, flags 0x0"
    jump = [build_lkcd.Record(0x1000, size=0xFFFFFFF0, flags=2)]
    yield "size", made(4 << 40, records=jump), "no page record: address 0x1000, size 4294967280, flags 0x2"
    rows = [build_lkcd.Record(pfn << 12, size=0) for pfn in range(0, 2 << 18, 2)]
    yield "holes", made(records=rows, pages={}), "read, 262144 runs"


def xens() -> Cases:
    def core(table: int, pages: int, size: int = 1 << 42, **more: object) -> SparseFile:
        sections = {b".xen_p2m": {"sh_offset": 1 << 20, "sh_size": table}, b".xen_pages": {"sh_size": pages}}
        return sparse(build_xen.core(corpus_xen.core_spec(sections=sections, **more)), size)

    def sparse(data: bytes, size: int) -> SparseFile:
        file = SparseFile()
        file.put(0, data)
        file.extend(size)
        return file

    yield "xc-core-map-in-a-hole", core(1 << 40, 1 << 41), "68719476736 rows that are not sorted, the limit is 4194304"
    yield "xc-core-map-beyond", core(1 << 50, 1 << 60, 1 << 21), "reaches past the end of the file"
    vcpus = {b".xen_prstatus": {"sh_size": 1 << 40, "sh_entsize": 1}}
    yield "xc-core-vcpus", sparse(build_xen.core(corpus_xen.core_spec(sections=vcpus)), 1 << 41), "the limit is 8192"
    notes_in_a_hole = {b".note.Xen": {"sh_offset": 1 << 20, "sh_size": 1 << 40}}
    yield "xc-core-notes", sparse(build_xen.core(corpus_xen.core_spec(sections=notes_in_a_hole)), 1 << 41), "read"
    old = {"nr_pages": 1 << 28, "pages_offset": 0xFFFFF000}
    yield "xc-core-old-pages", sparse(build_xen.old_core([], [], **old), 1 << 33), "268435456 pages, the limit is"
    most = {"nr_pages": 1 << 23, "pages_offset": 0xFFFFF000}
    yield "xc-core-old-most", sparse(build_xen.old_core([], [], magic=build_xen.HVM_MAGIC, **most), 1 << 36), "read"
    count = build_xen.record(1, struct.pack("<II", 1 << 20, 0), length=0xFFFFFFF0)
    yield "save-count", sparse(build_xen.libxc([count]), 1 << 40), "PAGE_DATA of 4294967280 bytes has 1048576 entries"
    yield "save-config", sparse(build_xen.xl(b"", length=0xFFFFFFFF), 1 << 21), "a configuration of 4294967295 bytes"
    yield "save-legacy", sparse(build_xen.xend(struct.pack("<Q", 1 << 31)), 1 << 21), "list of 4194304 p2m frames"
    blob = build_xen.record(9, length=0xFFFFFFFF)
    yield (
        "save-hvm-context",
        sparse(build_xen.libxc([blob], kind=2), 1 << 40),
        "4294967295 bytes, the limit is 1677",
    )


def check(made: list[tuple[str, SparseFile, str]], where: Path, how: str) -> None:
    paths = [str(file.write_to(where / name)) for name, file, _ in made]
    command = [sys.executable, "-c", SCRIPT, how, *paths]
    done = subprocess.run(command, capture_output=True, check=False, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for (name, _, message), (text, code, seconds) in zip(made, json.loads(done.stdout), strict=True):
        print(f"{name:30} {seconds:6.3f} {text}")
        assert seconds < (4 if name == "alternating" else 1), name  # its bits are there to be read
        assert re.search(message, text), (name, text)
        assert code == (0 if text.startswith("read") else 3), (name, code, text)
        assert text.startswith("read") or str(where) in text or "page-state note" in text, text


@pytest.mark.parametrize("how", ["file", "pipe"])
@pytest.mark.parametrize(
    "cases",
    [kdumps, holes, elf_files, diskdump_files, lkcds, xens],
    ids=["kdump", "holes", "elf", "diskdump", "lkcd", "xen"],
)
def test_a_header_that_claims_any_size(cases: Callable[[], Cases], how: str, tmp_path: Path) -> None:
    made = [case for case in cases() if how == "file" or case[1].size < 1 << 28]
    check(made, tmp_path, how)


def test_program_headers_in_a_hole_are_stepped_over(tmp_path: Path) -> None:
    count = 1 << 26
    spec = build_elf.ElfSpec([build_elf.Segment(0, patterns.page(1))], xnum=True, section0={"sh_info": count})
    path = tmp_path / "dump"
    path.write_bytes(build_elf.build(spec).to_bytes())
    end = path.stat().st_size
    with path.open("r+b") as file:  # the table moves behind everything, into a hole, and its last row is a segment
        head = struct.unpack("<16sHHIQQQIHHHHHH", file.read(64))
        file.seek(head[5])
        rows = file.read(56 * 2)
        table = -(-end // 4096) * 4096
        file.seek(0)
        file.write(struct.pack("<16sHHIQQQIHHHHHH", *head[:5], table, *head[6:]))
        file.seek(table)
        file.write(rows[:56])
        file.seek(table + 56 * (count - 1))
        file.write(rows[56:])
    begin = time.process_time()
    reader = product.open_product(path)
    assert time.process_time() - begin < 1
    assert reader.facts["program_headers"] == count
    assert product.view(reader).pages == {0: patterns.page(1)}
