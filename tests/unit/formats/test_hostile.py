# SPDX-License-Identifier: GPL-2.0-or-later
"""Headers that claim any size: one clear error within a second and 300 MB, in a process of its own."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import build_elf, build_kdump, corpus_elf, corpus_kdump, notes

SCRIPT = """
import json, resource, sys, time
import numpy, zstandard, blake3, construct
from dumpconv.formats import open_dump
from dumpconv.formats.errors import DumpError
from dumpconv.formats.reader import Options
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (300 << 20), resource.RLIM_INFINITY))
answers = []
for path in sys.argv[1:]:
    begin = time.process_time()
    try:
        reader = open_dump([path], Options(find_sisters=False))
        reader.finish_notes()
        reader.vmcoreinfo
        end = reader.memory_map.end_pfn
        reader.extents(0, min(end, 1 << 16))
        if reader.damage is not None:
            raise reader.damage
        answer = ["read", "", len(reader.memory_map)]
    except DumpError as error:
        answer = [type(error).__name__, str(error), error.exit_code]
    except MemoryError:
        answer = ["MemoryError", "", 0]
    answers.append([*answer, time.process_time() - begin])
print(json.dumps(answers))
"""
HUGE = (1 << 64) - 1


def kdumps() -> Iterator[tuple[str, bytes, str]]:
    """Give name, file, part of the message (empty: it may be read)."""
    base = corpus_kdump.base

    def made(**more: object) -> bytes:
        return build_kdump.build(base(**more)).to_bytes()  # type: ignore[arg-type]

    yield (
        "max-mapnr-and-blocks",
        made(header={"bitmap_blocks": 0xFFFFFFFF, "max_mapnr": 0xFFFFFFFF}, sub_header={"max_mapnr_64": HUGE}),
        "headers and bitmaps need",
    )
    yield (
        "max-mapnr",
        made(header={"max_mapnr": 0xFFFFFFFF}, sub_header={"max_mapnr_64": HUGE}),
        "cannot cover|impossible",
    )
    yield "sub-hdr-size", made(header={"sub_hdr_size": 0x7FFFFFFF}), "headers and bitmaps need"
    yield "sub-hdr-size-negative", made(header={"sub_hdr_size": -1}), "sub_hdr_size -1 is not positive"
    yield (
        "block-size",
        made(header={"block_size": 1 << 30}),
        "block_size 1073741824 is no power of two in 512 to 1048576",
    )
    yield "size-note", made(sub_header={"size_note": HUGE}), "notes at 0x1068, 18446744073709551615 bytes, reach past"
    yield "offset-note", made(sub_header={"offset_note": HUGE}), "notes at 0xffffffffffffffff, "
    yield "size-vmcoreinfo", made(sub_header={"size_vmcoreinfo": 1 << 62}), "VMCOREINFO at .* reach past"
    yield "size-eraseinfo", made(eraseinfo=b"x", sub_header={"size_eraseinfo": HUGE}), "erase info at .* reach past"
    namesz = notes.encode(b"CORE\0", 1, b"", namesz=0xFFFFFFFF)
    yield "note-namesz", made(notes=namesz), ""
    yield "note-descsz", made(notes=notes.encode(b"CORE\0", 1, b"", descsz=0xFFFFFFFF)), ""
    yield "empty-notes", made(notes=bytes(1 << 20)), ""
    many = made(notes=notes.encode(b"", 1, b"") * 140000)
    yield "many-notes", many, "more than 131072 notes"


def elf_files() -> Iterator[tuple[str, bytes, str]]:
    def made(**more: object) -> bytes:
        return build_elf.build(corpus_elf.spec(**more)).to_bytes()  # type: ignore[arg-type]

    yield "xnum", made(xnum=True, section0={"sh_info": 0xFFFFFFFF}), "4294967295 program headers of 56 bytes at 0x40"
    yield "phentsize", made(ehdr={"e_phentsize": 0xFFFF, "e_phnum": 0xFFFE}), "65534 program headers of 65535 bytes"
    yield "phoff", made(ehdr={"e_phoff": HUGE}), "program headers"
    far = [corpus_elf.ram(4 * n, 4 * n + 1, memsz=1 << 60) for n in range(200)]
    yield "tails", made(segments=far), ""
    claim = corpus_elf.ram(1, 4, fields={"p_filesz": 1 << 62, "p_memsz": 1 << 62})
    yield "filesz", made(segments=[claim]), "needs file bytes up to"
    wraps = corpus_elf.ram(1, 4, fields={"p_filesz": HUGE, "p_memsz": HUGE})
    yield "filesz-all-ones", made(segments=[wraps]), "needs file bytes up to"
    nested = [
        corpus_elf.Segment(n, b"", fields={"p_filesz": 60000 - 2 * n, "p_memsz": 60000 - 2 * n, "p_offset": 4096})
        for n in range(1000)
    ]
    yield "nested", made(segments=[*nested, corpus_elf.ram(64, 80)]), ""
    head = struct.pack("<II32s32sIIQ", 1, 0, b"", b"", 0, 1, HUGE)
    yield (
        "state-note",
        made(notes=notes.encode(b"DUMPCONV\0", 0x44430001, head + b"x")),
        "claims 18446744073709551615 bytes",
    )
    small = struct.pack("<II32s32sIIQ", 1, 0, b"", b"", 0, 1, 1 << 27)
    bomb = build_kdump.compress(bytes(1 << 26), "zstd")
    yield "state-note-bomb", made(notes=notes.encode(b"DUMPCONV\0", 0x44430001, small + bomb)), "unpacks to"
    yield "vmcoreinfo", made(notes=notes.vmcoreinfo(b"A=" * (8 << 20))), ""
    yield (
        "page-size",
        made(notes=notes.vmcoreinfo(b"PAGESIZE=1099511627776\n")),
        "PAGESIZE=1099511627776, which is no power",
    )


@pytest.mark.parametrize("cases", [kdumps, elf_files], ids=["kdump", "elf"])
def test_a_header_that_claims_any_size(cases: object, tmp_path: Path) -> None:
    made = list(cases())  # type: ignore[operator]
    paths = []
    for name, data, _ in made:
        path = tmp_path / name
        path.write_bytes(data)
        paths.append(str(path))
    done = subprocess.run([sys.executable, "-c", SCRIPT, *paths], capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr
    for (name, _, message), (kind, text, code, seconds) in zip(made, json.loads(done.stdout), strict=True):
        assert seconds < 1, name
        assert kind != "MemoryError", name
        if message:
            assert code == 3, (name, kind, text)
            assert re.search(message, text), (name, text)
            assert str(tmp_path / name) in text or "page-state note" in text, text
        else:
            assert kind == "read" or code in (3, 6), (name, kind, text)
