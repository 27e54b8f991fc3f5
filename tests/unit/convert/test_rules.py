# SPDX-License-Identifier: GPL-2.0-or-later
"""The twelve rules of the canonical file, one test each, read by struct and pyelftools alone."""

from __future__ import annotations

import struct
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile

from dumpconv.cli import main
from support import build_elf, build_kdump, corpus_elf, corpus_kdump, notes, patterns, x86_memory
from support.build_elf import ElfSpec, Segment
from support.build_kdump import KdumpSpec

Header = dict[str, int]


class Output:
    """A converted file, picked apart by struct."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.wide, self.order = data[4] == 2, "<" if data[5] == 1 else ">"
        code = "HHIQQQIHHHHHH" if self.wide else "HHIIIIIHHHHHH"
        names = [
            "e_type",
            "e_machine",
            "e_version",
            "e_entry",
            "e_phoff",
            "e_shoff",
            "e_flags",
            "e_ehsize",
            "e_phentsize",
            "e_phnum",
            "e_shentsize",
            "e_shnum",
            "e_shstrndx",
        ]
        self.ehdr: Header = dict(zip(names, struct.unpack_from(self.order + code, data, 16), strict=True))
        count = self.ehdr["e_phnum"]
        if count == 0xFFFF:
            (count,) = struct.unpack_from(self.order + "I", data, self.ehdr["e_shoff"] + (44 if self.wide else 28))
        self.phdrs = [self._phdr(index) for index in range(count)]
        self.loads = self.phdrs[1:]

    def _phdr(self, index: int) -> Header:
        if self.wide:
            names, code, size = "type flags offset vaddr paddr filesz memsz align", "II6Q", 56
        else:
            names, code, size = "type offset vaddr paddr filesz memsz flags align", "8I", 32
        values = struct.unpack_from(self.order + code, self.data, self.ehdr["e_phoff"] + index * size)
        return dict(zip(names.split(), values, strict=True))

    @property
    def ram(self) -> list[Header]:
        """The PT_LOADs without the text alias, which shares its file bytes with RAM."""
        aliases = [at for at, load in enumerate(self.loads) if any(
            other["paddr"] <= load["paddr"] and load["paddr"] + load["memsz"] <= other["paddr"] + other["memsz"]
            for other in self.loads[at + 1 :]
        )]  # fmt: skip
        return [load for at, load in enumerate(self.loads) if at not in aliases]

    def notes(self) -> list[tuple[bytes, int, bytes]]:
        at, out = self.phdrs[0]["offset"], []
        end = at + self.phdrs[0]["filesz"]
        while at < end:
            namesz, descsz, kind = struct.unpack_from(self.order + "III", self.data, at)
            desc = at + 12 + (namesz + 3) // 4 * 4
            out.append((self.data[at + 12 : at + 12 + namesz], kind, self.data[desc : desc + descsz]))
            at = desc + (descsz + 3) // 4 * 4
        assert at == end
        return out


def convert(spec: KdumpSpec | ElfSpec, folder: Path, *more: str, code: int = 0) -> Output:
    made = build_kdump.build(spec) if isinstance(spec, KdumpSpec) else build_elf.build(spec)
    made.write_to(folder / "in")
    assert main([str(folder / "in"), str(folder / "out"), "--no-fsync", "--no-sisters", "--force", *more]) == code
    return Output((folder / "out").read_bytes())


def kdump(**more: Any) -> KdumpSpec:
    return corpus_kdump.base(**more)


def test_rule_1_class_machine_and_order(tmp_path: Path) -> None:
    machines = (
        ("x86_64", True, 62, "<"),
        ("i386", False, 3, "<"),
        ("s390x", True, 22, ">"),
        ("arm", False, 40, "<"),
        ("ppc", False, 20, ">"),
        ("ppc64", True, 21, ">"),
    )
    for arch, wide, machine, order in machines:
        out = convert(kdump(arch=arch), tmp_path)
        assert (out.wide, out.ehdr["e_machine"], out.order) == (wide, machine, order)
        assert out.ehdr["e_type"] == 4
    assert convert(kdump(arch="i386"), tmp_path, "--elf64").wide
    high = kdump(arch="i386", pages=patterns.pages(0x100000, 0x100002), excluded=())
    assert convert(high, tmp_path).wide  # memory above 4 GiB


def test_rule_2_program_headers(tmp_path: Path) -> None:
    for spec in (kdump(), kdump(arch="i386"), corpus_elf.spec(qemu=True), corpus_elf.spec(notes_last=True)):
        out = convert(spec, tmp_path)
        assert out.ehdr["e_phoff"] == out.ehdr["e_ehsize"] == (64 if out.wide else 52)
        assert [phdr["type"] for phdr in out.phdrs] == [4] + [1] * (len(out.phdrs) - 1)
        assert out.loads
        assert (out.phdrs[0]["align"], out.phdrs[0]["vaddr"], out.phdrs[0]["paddr"]) == (0, 0, 0)


def test_rule_3_nothing_of_ours_behind_the_data(tmp_path: Path) -> None:
    out = convert(kdump(eraseinfo=b"erase x size 4\n"), tmp_path)
    first = min(load["offset"] for load in out.loads)
    table = out.ehdr["e_phoff"] + len(out.phdrs) * out.ehdr["e_phentsize"]
    assert table <= out.phdrs[0]["offset"]
    assert out.phdrs[0]["offset"] + out.phdrs[0]["filesz"] <= first
    assert len(out.data) == max(load["offset"] + load["filesz"] for load in out.loads)


def test_rule_4_alignment_and_order(tmp_path: Path) -> None:
    for spec in (kdump(), corpus_elf.spec([corpus_elf.HIGH, corpus_elf.LOW], placement="packed"),
                 x86_memory.kaslr().kdump_spec()):  # fmt: skip
        out = convert(spec, tmp_path)
        assert {load["align"] for load in out.loads} == {0}
        assert not any(load["offset"] % 4096 or load["paddr"] % 4096 for load in out.loads)
        ends = [(load["paddr"], load["paddr"] + load["memsz"]) for load in out.ram]
        assert ends == sorted(ends)
        assert all(before[1] <= after[0] for before, after in pairwise(ends))


def test_rule_5_filesz_is_memsz_and_zeros_are_holes(tmp_path: Path) -> None:
    out = convert(kdump(pages=patterns.pages(0, 64) | patterns.pages(64, 2000, kind="zero")), tmp_path)
    assert all(load["filesz"] == load["memsz"] > 0 for load in out.loads)
    status = (tmp_path / "out").stat()
    assert status.st_blocks * 512 < 100 * 4096 < status.st_size


def test_rule_6_what_is_absent_is_in_no_segment(tmp_path: Path) -> None:
    for state in ({"flags": 0x40}, {"offset": 1 << 40}):
        out = convert(kdump(descriptors={5: state}), tmp_path, "--salvage", code=3)
        frames = {pfn for load in out.loads for pfn in range(load["paddr"] >> 12, load["paddr"] + load["memsz"] >> 12)}
        assert frames == {3, 4, 6, 7, 8, 9, 10, 50}


def test_rule_7_addresses_are_the_machines(tmp_path: Path) -> None:
    memory = x86_memory.kaslr()
    for spec in (memory.kdump_spec(), memory.elf_spec(with_vaddr=False), memory.elf_spec(text_alias=False)):
        out = convert(spec, tmp_path)
        (ram,) = out.ram
        assert (ram["paddr"], ram["vaddr"]) == (memory.start_pfn << 12, memory.direct_base + (memory.start_pfn << 12))
        alias = out.loads[0]
        assert (alias["paddr"], alias["vaddr"]) == (memory.text_paddr, memory.text_vaddr)
        assert alias["offset"] == ram["offset"] + alias["paddr"] - ram["paddr"]
    out = convert(kdump(), tmp_path)
    assert all(load["vaddr"] == load["paddr"] for load in out.loads)  # nothing tells


def test_rule_8_holes_are_exact_unless_bridged(tmp_path: Path) -> None:
    pages = {pfn: patterns.page(pfn) for pfn in (0, 1, 3, 6)}
    runs = [
        (load["paddr"] >> 12, load["memsz"] >> 12) for load in convert(kdump(pages=pages, excluded=()), tmp_path).loads
    ]
    assert runs == [(0, 2), (3, 1), (6, 1)]
    out = convert(kdump(pages=pages, excluded=()), tmp_path, "--holes", "min-run=2")
    assert [(load["paddr"] >> 12, load["memsz"] >> 12) for load in out.loads] == [(0, 4), (6, 1)]
    assert out.data[out.loads[0]["offset"] + 2 * 4096 :][:4096] == bytes(4096)


def test_rule_8_many_segments_use_pn_xnum(tmp_path: Path) -> None:
    pages = {2 * pfn: bytes(512) for pfn in range(65534)}
    spec = KdumpSpec(pages, page_size=512, codec="raw", share_zero=True, vmcoreinfo=b"", notes=b"")
    out = convert(spec, tmp_path)
    assert out.ehdr["e_phnum"] == 0xFFFF
    assert len(out.phdrs) == 65535
    assert (out.ehdr["e_shnum"], out.ehdr["e_shentsize"]) == (1, 64)
    assert out.ehdr["e_shoff"] == 64 + 65535 * 56
    with open(tmp_path / "out", "rb") as stream:
        assert ELFFile(stream).num_segments() == 65535


def test_rule_9_the_sources_notes_come_first_and_unchanged(tmp_path: Path) -> None:
    blob = notes.machine_notes(cpus=3) + notes.qemu_x86() + notes.encode(b"LINUX\0\0\0", 0x700, bytes(50)) + bytes(24)
    out = convert(corpus_elf.spec(notes=blob), tmp_path)
    assert out.data[out.phdrs[0]["offset"] :].startswith(blob[:-24])
    assert [note[0] for note in out.notes()[-2:]] == [b"DUMPCONV\0", b"DUMPCONV\0"]
    erased = convert(kdump(eraseinfo=b"erase x size 4\n"), tmp_path).notes()
    assert erased[-3][:2] == (b"ERASEINFO\0", 0)
    assert erased[-3][2] == b"erase x size 4\n"
    assert not [
        each for each in convert(kdump(notes=b"", vmcoreinfo=b""), tmp_path).notes() if each[0] == b"VMCOREINFO\0"
    ]


def test_rule_10_two_notes_of_ours(tmp_path: Path) -> None:
    first, second = convert(kdump(), tmp_path).notes()[-2:]
    assert (first[1], second[1]) == (0x44430001, 0x44430002)
    assert len(second[2]) == 4096 - 12 - 12
    version, flags, content, states, part, parts, _ = struct.unpack_from("<II32s32sIIQ", first[2])
    assert (version, flags, part, parts) == (2, 1, 0, 1)
    assert any(content)
    assert any(states)
    bare = convert(kdump(), tmp_path, "--no-digest").notes()[-2][2]
    assert struct.unpack_from("<II32s", bare) == (2, 0, bytes(32))


@pytest.mark.parametrize("arch", ["x86_64", "ppc64", "arm", "riscv64"])
def test_rule_11_the_incomplete_flag(arch: str, tmp_path: Path) -> None:
    assert convert(kdump(arch=arch), tmp_path).ehdr["e_flags"] == 0
    assert convert(kdump(arch=arch, status=9), tmp_path, code=4).ehdr["e_flags"] == 1
    first = (tmp_path / "out").read_bytes()
    (tmp_path / "out").rename(tmp_path / "first")
    assert main([str(tmp_path / "first"), str(tmp_path / "out"), "--no-fsync"]) == 4
    assert (tmp_path / "out").read_bytes() == first


def test_rule_12_memory_and_notes_alone(tmp_path: Path) -> None:
    def without_provenance(out: Output) -> bytes:
        at = out.data.index(struct.pack("<III", 9, 4072, 0x44430002)) + 24
        return out.data[:at] + out.data[at + 4072 :]

    blob = notes.machine_notes()
    pages = patterns.pages(1, 9)
    memory = b"".join(pages.values())
    outputs = {
        without_provenance(convert(spec, tmp_path))
        for spec in (
            *(kdump(pages=pages, excluded=(), codec=codec, notes=blob) for codec in build_kdump.CODEC_FLAGS),
            ElfSpec([Segment(4096, memory)], notes=blob),
            ElfSpec([Segment(5 * 4096, memory[4 * 4096 :]), Segment(4096, memory[: 4 * 4096])], notes=blob, xnum=True),
        )
    }
    assert len(outputs) == 1
