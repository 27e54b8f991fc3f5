# SPDX-License-Identifier: GPL-2.0-or-later
"""Each rule of the canonical ELF broken in a canonical file, byte by byte; and other writers' files."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support import build_elf, notes, patterns
from support.build_kdump import KdumpSpec, build
from support.command import dumpconv, dumpverify

EHDR, PHDR = struct.Struct("<16sHHIQQQIHHHHHH"), struct.Struct("<IIQQQQQQ")


class Canonical:
    """A canonical file as bytes with its header fields at hand."""

    def __init__(self, path: Path) -> None:
        self.data = bytearray(path.read_bytes())
        self.count = EHDR.unpack_from(self.data)[10]

    def phdr(self, index: int) -> list[int]:
        return list(PHDR.unpack_from(self.data, 64 + 56 * index))

    def set(self, index: int, **fields: int) -> None:
        names = ("type", "flags", "offset", "vaddr", "paddr", "filesz", "memsz", "align")
        values = dict(zip(names, self.phdr(index), strict=True)) | fields
        PHDR.pack_into(self.data, 64 + 56 * index, *values.values())


def swap(file: Canonical, at: int = 120) -> None:
    middle, end = at + 56, at + 112
    file.data[at:end] = file.data[middle:end] + file.data[at:middle]


def forget_note(file: Canonical) -> None:
    at = file.data.index(b"DUMPCONV\0")
    file.data[at : at + 8] = b"SOMEBODY"


def no_addresses(file: Canonical) -> None:
    for index in range(1, file.count):
        file.set(index, vaddr=0)


BREAKS: dict[str, tuple[str, Callable[[Canonical], object]]] = {
    "no core at all": ("E155", lambda file: file.data.__setitem__(slice(16, 18), b"\x02\0")),
    "the note is not first": ("E122", lambda file: swap(file, 64)),
    "bytes after the last segment": ("E123", lambda file: file.data.extend(bytes(4096))),
    "segments in another order": ("E124", swap),
    "an alignment": ("E124", lambda file: file.set(1, align=4096)),
    "a tail": ("E125", lambda file: file.set(2, memsz=file.phdr(2)[6] + 4096)),
    "no virtual addresses": ("E127", no_addresses),
}


@pytest.fixture
def canonical(tmp_path: Path) -> Path:
    pages = {pfn: patterns.page(pfn) for pfn in (16, 17, 20, 21, 30)}
    text = notes.vmcoreinfo_text(release="6.1.0-test")
    spec = KdumpSpec(pages=pages, excluded=[(22, 24)], notes=notes.machine_notes(cpus=1, text=text))
    source = build(spec).write_to(tmp_path / "source")
    out = tmp_path / "out.elf"
    assert dumpconv(source, out).returncode == 0
    return out


def codes(path: Path, level: str = "structure") -> tuple[int, list[str]]:
    done = dumpverify("--json", "--level", level, path)
    return done.returncode, [each["code"] for each in json.loads(done.stdout)["dumps"][0]["findings"]]


def test_what_the_converter_writes_breaks_no_rule(canonical: Path) -> None:
    assert codes(canonical) == (0, ["I303"])


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_rule_is_reported_with_its_code(canonical: Path, name: str) -> None:
    code, breaking = BREAKS[name]
    file = Canonical(canonical)
    breaking(file)
    canonical.write_bytes(file.data)
    exit_code, found = codes(canonical)
    assert code in found
    assert exit_code == (6 if code == "E155" else 3)


def test_a_note_of_ours_that_is_gone_makes_it_another_writers_file(canonical: Path) -> None:
    file = Canonical(canonical)
    forget_note(file)
    canonical.write_bytes(file.data)
    assert codes(canonical)[1] != ["I303"]


@pytest.mark.parametrize("qemu", [False, True])
def test_other_writers_files_are_not_canonical_and_good(tmp_path: Path, qemu: bool) -> None:
    segments = [
        build_elf.Segment(0x10000, patterns.page(16)),
        build_elf.Segment(0x20000, patterns.page(32), align=4096),
    ]
    text = notes.vmcoreinfo_text(release="6.1.0-test")
    spec = build_elf.ElfSpec(segments=segments, notes=notes.machine_notes(cpus=1, text=text), qemu=qemu)
    exit_code, found = codes(build_elf.build(spec).write_to(tmp_path / "vmcore"))
    assert exit_code == 0
    assert "I305" in found


def test_a_file_of_thousands_of_segments_is_checked_at_once(tmp_path: Path) -> None:
    # every second frame is excluded: each run was held against each segment, a minute for 80 MB
    count = 6000
    pages = dict.fromkeys(range(16, 16 + 2 * count, 2), b"\1" * 4096)
    excluded = [(pfn + 1, pfn + 2) for pfn in list(pages)[:-1]]
    build(KdumpSpec(pages=pages, excluded=excluded, notes=notes.machine_notes(cpus=1))).write_to(tmp_path / "kdump")
    assert dumpconv(tmp_path / "kdump", tmp_path / "elf").returncode == 0
    begin = time.monotonic()
    assert dumpverify("--level", "structure", tmp_path / "elf").returncode == 0
    assert time.monotonic() - begin < 5
    # and a frame that is noted as excluded and lies in a segment is found among them
    file = Canonical(tmp_path / "elf")
    last = next(index for index in range(file.count - 1, 0, -1) if file.phdr(index)[0] == 1) - 1
    file.set(last, filesz=8192, memsz=8192)
    (tmp_path / "broken").write_bytes(file.data)
    done = dumpverify("--level", "structure", "--json", tmp_path / "broken")
    found = [each["message"] for each in json.loads(done.stdout)["dumps"][0]["findings"] if each["code"] == "E126"]
    pfn = file.phdr(last)[4] // 4096 + 1
    assert found == [f"frames {pfn:#x}-{pfn:#x} are noted as excluded, but lie in a PT_LOAD"]
