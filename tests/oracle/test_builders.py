# SPDX-License-Identifier: GPL-2.0-or-later
"""Builders and reference decoder agree with libkdumpfile, crash, makedumpfile, drgn and the ELF tools."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from support import build_elf, build_flat, build_kdump, notes, oracles, patterns, x86_memory
from support.build_elf import ElfSpec, Segment
from support.build_kdump import KdumpSpec
from support.reference import decode, runs_of

pytestmark = pytest.mark.oracle
Need = Callable[..., None]
Kind = tuple[str, str, str]

KINDS = [
    ("64", "x86_64", "<"),
    ("64", "aarch64", "<"),
    ("64", "ppc64", ">"),
    ("64", "s390x", ">"),
    ("32pack", "i386", "<"),
    ("32pad", "arm", "<"),
    ("32pad", "ppc", ">"),
]
EXCLUDED = [(50, 99), (200, 300)]


def kdump_spec(layout: str = "64", arch: str = "x86_64", order: str = "<", **more: object) -> KdumpSpec:
    page_size = int(more.get("page_size", 4096))  # type: ignore[call-overload]
    text = notes.vmcoreinfo_text(page_size=page_size)
    pages = (
        patterns.pages(3, 40, page_size)
        | patterns.pages(45, 48, page_size, "random")
        | patterns.pages(100, 104, page_size, "zero")
        | patterns.pages(150, 155, page_size, "mixed")
    )
    values: dict[str, object] = {
        "pages": pages,
        "excluded": EXCLUDED,
        "layout": layout,
        "order": order,
        "notes": notes.machine_notes(arch, order=order, text=text),
        "vmcoreinfo": text,
        "uts": {"machine": notes.ARCHES[arch].uts_machine, "release": "6.1.0-test", "sysname": "Linux"},
        "nr_cpus": 2,
    }
    return KdumpSpec(**(values | more))  # type: ignore[arg-type]


def digests(pages: Mapping[int, bytes]) -> dict[int, str]:
    return {pfn: hashlib.sha256(page).hexdigest() for pfn, page in pages.items()}


def check_kdump(spec: KdumpSpec, path: Path) -> None:
    image = build_kdump.build(spec)
    image.write_to(path)
    if spec.layout == "32pad" and spec.version >= 6:
        # libkdumpfile 0.5.1 reads max_mapnr_64 of every 32-bit file at the packed offset: start_pfn_64 when padded.
        helped = replace(spec, sub_header={**spec.sub_header, "start_pfn_64": spec.max_mapnr or 300})
        view = oracles.libkdumpfile(build_kdump.build(helped).write_to(path.with_suffix(".helped")))
    else:
        view = oracles.libkdumpfile(path)
    limit = spec.max_mapnr or 1 << 64
    assert {pfn: digest for pfn, digest in view.digests.items() if pfn < limit} == digests(image.pages)
    assert view.page_size == spec.page_size
    assert view.byte_order == (1 if spec.order == "<" else 0)
    if not spec.single_bitmap:
        ram = set(image.pages) | {pfn for run in spec.excluded for pfn in range(*run)}
        assert {pfn for run in view.ram for pfn in range(*run) if pfn < limit} == ram - spec.second_only
    dump = decode(path)
    assert dump.pages == image.pages
    assert dump.excluded_runs == list(spec.excluded)
    assert (dump.order, dump.version, dump.exit_code) == (spec.order, spec.version, 0)
    assert spec.version < 3 or dump.layout == spec.layout


@pytest.mark.parametrize("version", range(1, 8))
@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_libkdumpfile_reads_every_version(kind: Kind, version: int, tmp_path: Path, need: Need) -> None:
    need("libkdumpfile")
    check_kdump(kdump_spec(*kind, version=version), tmp_path / "dump")


@pytest.mark.parametrize("codec", build_kdump.CODEC_FLAGS)
@pytest.mark.parametrize("kind", [KINDS[0], KINDS[3], KINDS[4], KINDS[6]], ids="-".join)
def test_libkdumpfile_reads_every_codec(kind: Kind, codec: str, tmp_path: Path, need: Need) -> None:
    need("libkdumpfile")
    check_kdump(kdump_spec(*kind, codec=codec), tmp_path / "dump")


@pytest.mark.parametrize(
    "more",
    [
        {"share_zero": True},
        {"shuffle": 7},
        {"data_gap": 12345},
        {"second_only": frozenset({5, 46})},
        {"surplus_blocks": 2},
        {"surplus_blocks": 6, "order": ">", "arch": "s390x"},
        {"page_size": 65536, "arch": "ppc64", "order": ">"},
        {"page_size": 16384, "arch": "aarch64"},
        {"share": {11: 3, 12: 3, 13: 45}},
        {"page_codecs": {3: "lzo", 4: "snappy", 5: "zstd", 6: "raw", 150: "lzo"}},
        {"eraseinfo": b"erase jiffies size 8\n"},
        {"single_bitmap": True, "excluded": (), "max_mapnr": 20000},
        {"single_bitmap": True, "excluded": (), "max_mapnr": 32768 + 20000},
        {"extra_bits1": [(400, 500)], "extra_bits2": [(400, 500)], "max_mapnr": 303},
        {"max_mapnr": 40000},
    ],
    ids=lambda more: "-".join(str(key) for key in more),
)
def test_libkdumpfile_reads_odd_but_legal_files(more: dict[str, object], tmp_path: Path, need: Need) -> None:
    need("libkdumpfile")
    check_kdump(kdump_spec(**more), tmp_path / "dump")  # type: ignore[arg-type]


def test_libkdumpfile_reads_frames_beyond_32_bits(tmp_path: Path, need: Need) -> None:
    need("libkdumpfile")
    far = 0x1_0000_0000 + 77
    image = build_kdump.build(
        KdumpSpec(pages={5: patterns.page(5), far: patterns.page(far)}, notes=notes.machine_notes())
    )
    path = image.write_to(tmp_path / "dump")
    assert decode(path).pages == image.pages
    assert oracles.libkdumpfile(path).digests == digests(image.pages)


@pytest.mark.parametrize("version", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("ranges", [[(0, 20), (20, 155)], [(0, 20), (20, 47), (47, 47), (47, 300)]])
def test_libkdumpfile_reads_split_sets(version: int, ranges: list[tuple[int, int]], tmp_path: Path, need: Need) -> None:
    need("libkdumpfile")
    spec = kdump_spec(version=version, share_zero=True, max_mapnr=ranges[-1][1], excluded=[(50, 99)])
    members = build_kdump.build_split(spec, ranges)
    paths = [member.write_to(tmp_path / f"member{index}") for index, member in enumerate(members)]
    whole = build_kdump.build(spec)
    assert oracles.libkdumpfile(*paths).digests == digests(whole.pages)
    assert decode(*reversed(paths)).pages == whole.pages


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5, 6])
def test_crash_prints_the_header_fields(version: int, tmp_path: Path, need: Need) -> None:
    need("crash")
    spec = kdump_spec(
        version=version, phys_base=0x10400000, dump_level=31, nr_cpus=2, tv_sec=1700000000, tv_usec=5,
        eraseinfo=b"erase x size 4\n", max_mapnr=12345,
    )  # fmt: skip
    image = build_kdump.build(spec)
    fields = oracles.crash_headers(image.write_to(tmp_path / "dump"))
    expected = {
        "header_version": version,
        "block_size": 4096,
        "sub_hdr_size": 1,
        "bitmap_blocks": 2,
        "max_mapnr": 12345,
        "status": 1,
        "nr_cpus": 2,
        "tv_usec": 5,
    }
    if version >= 3:
        text = notes.vmcoreinfo_text()
        place = image.notes_offset + (spec.notes.index(text) if version >= 4 else 0)
        expected |= {"offset_vmcoreinfo": place, "size_vmcoreinfo": len(text)}
    if version >= 4:
        expected |= {"offset_note": image.notes_offset, "size_note": len(spec.notes), "num_prstatus_notes": 2}
    if version >= 5:
        expected |= {"offset_eraseinfo": image.file.size - 15, "size_eraseinfo": 15}
    if version >= 6:
        expected |= {"max_mapnr_64": 12345}
    assert {name: int(fields[name].split()[0]) for name in expected} == expected
    assert fields["machine"] == "x86_64"
    assert fields["release"] == "6.1.0-test"
    assert int(fields["phys_base"], 16) == 0x10400000
    assert fields["dump_level"].startswith("31 ")


def test_crash_sees_a_split_member(tmp_path: Path, need: Need) -> None:
    need("crash")
    member = build_kdump.build_split(kdump_spec(), [(0, 64), (64, 300)])[1]
    fields = oracles.crash_headers(member.write_to(tmp_path / "dump"))
    assert fields["split"] == "1"
    assert int(fields["start_pfn_64"].split()[0]) == 64
    assert int(fields["end_pfn_64"].split()[0]) == 300


def test_file_names_the_version(tmp_path: Path, need: Need) -> None:
    need("file")
    for version in range(1, 7):
        path = build_kdump.build(kdump_spec(version=version)).write_to(tmp_path / "dump")
        told = oracles.run(["file", path])
        assert f"Kdump compressed dump v{version}" in told
        assert "x86_64" in told


def elf_variants() -> dict[str, ElfSpec]:
    ram = [
        Segment(0x1000, b"".join(patterns.page(pfn) for pfn in range(1, 9)), vaddr=0xFFFF888000001000),
        Segment(0x100000, b"".join(patterns.page(pfn) for pfn in range(0x100, 0x110)), vaddr=0xFFFF888000100000),
    ]
    text = Segment(0x102000, vaddr=0xFFFFFFFF81000000, same_as=(2, 0x2000), same_size=0x3000)
    small = [Segment(0x3000, patterns.page(3) * 2), Segment(0x8000, patterns.page(8), vaddr=0xC0008000)]
    tail = [replace(ram[0], memsz=0x20000), ram[1]]
    both = notes.machine_notes()
    return {
        "kernel": ElfSpec([text, *ram], notes=both),
        "packed": ElfSpec(ram, notes=both, placement="packed"),
        "qemu": ElfSpec(ram, notes=both, qemu=True),
        "xnum": ElfSpec(ram, notes=both, xnum=True),
        "xnum-no-sections-counted": ElfSpec(ram, notes=both, xnum=True, xnum_shnum=0),
        "notes-at-end": ElfSpec(ram, notes=both, notes_at_end=True, notes_last=True),
        "two-notes": ElfSpec(ram, notes=[notes.prstatus(), notes.vmcoreinfo(notes.vmcoreinfo_text())]),
        "unsorted": ElfSpec(ram[::-1], notes=both),
        "tail": ElfSpec(tail, notes=both),
        "big-endian": ElfSpec(ram, notes=notes.machine_notes("s390x"), order=">", machine=22),
        "arm32": ElfSpec(small, notes=notes.machine_notes("arm"), bits=32, machine=40),
        "ppc32": ElfSpec(small, notes=notes.machine_notes("ppc"), bits=32, order=">", machine=20),
        "i386-in-elf64": ElfSpec(small, notes=notes.machine_notes("i386"), machine=3),
        "far": ElfSpec([*ram, Segment(1 << 50, patterns.page(1))], notes=both),
        "many": ElfSpec([Segment(0x2000 * n, patterns.page(2 * n)) for n in range(1, 300)], notes=both),
    }


ELF_VARIANTS = elf_variants()


def elf_pages(spec: ElfSpec) -> dict[int, bytes]:
    pages = {}
    for segment in spec.segments:
        for start in range(0, len(segment.data), 4096):
            pages[(segment.paddr + start) // 4096] = segment.data[start : start + 4096]
    return pages


@pytest.mark.parametrize("name", ELF_VARIANTS)
def test_libkdumpfile_reads_elf(name: str, tmp_path: Path, need: Need) -> None:
    need("libkdumpfile")
    spec = ELF_VARIANTS[name]
    path = build_elf.build(spec).write_to(tmp_path / "core")
    pages = elf_pages(spec)
    dump = decode(path)
    assert dump.pages == pages
    assert oracles.libkdumpfile(path, pfns=pages).digests == digests(pages)
    assert dump.notes == (spec.notes if isinstance(spec.notes, bytes) else b"".join(spec.notes))


@pytest.mark.parametrize("name", ELF_VARIANTS)
def test_pyelftools_reads_elf(name: str, tmp_path: Path) -> None:
    image = build_elf.build(ELF_VARIANTS[name])
    with image.write_to(tmp_path / "core").open("rb") as stream:
        elf = ELFFile(stream)
        assert elf.header["e_type"] == "ET_CORE"
        assert elf.num_segments() == len(image.headers)
        seen = [segment.header for segment in elf.iter_segments()]
        for header, expected in zip(seen, image.headers, strict=True):
            names = ("p_offset", "p_vaddr", "p_paddr", "p_filesz", "p_memsz", "p_align")
            assert {name: header[name] for name in names} == {name: expected.get(name, 0) for name in names}


@pytest.mark.parametrize("name", ELF_VARIANTS)
def test_readelf_reads_elf(name: str, tmp_path: Path, need: Need) -> None:
    need("readelf")
    image = build_elf.build(ELF_VARIANTS[name])
    told = oracles.run(["readelf", "-hlnW", image.write_to(tmp_path / "core")])
    assert "CORE (Core file)" in told
    lines = [line for line in told.splitlines() if line.split()[:1] in (["LOAD"], ["NOTE"])]
    assert len(lines) == len(image.headers)
    for line, header in zip(lines, image.headers, strict=True):
        expected = [header.get(name, 0) for name in ("p_offset", "p_vaddr", "p_paddr", "p_filesz", "p_memsz")]
        assert [int(word, 16) for word in line.split()[1:6]] == expected
    assert "NT_PRSTATUS" in told


STREAMS = ["kdump", "kdump-data-first", "kdump-erase", "kdump-qemu", "kdump-cyclic", "elf", "elf-xnum", "plain"]


def stream_of(name: str) -> tuple[list[build_flat.Record], bytes]:
    kdump = build_kdump.build(kdump_spec(eraseinfo=b"erase x size 4\n" if name == "kdump-erase" else b""))
    elf = build_elf.build(ELF_VARIANTS["xnum" if name == "elf-xnum" else "kernel"])
    records = {
        "kdump": lambda: build_flat.kdump_makedumpfile(kdump),
        "kdump-erase": lambda: build_flat.kdump_makedumpfile(kdump),
        "kdump-data-first": lambda: build_flat.kdump_makedumpfile(kdump, chunk=3, data_first=True),
        "kdump-qemu": lambda: build_flat.kdump_qemu(kdump),
        "kdump-cyclic": lambda: build_flat.kdump_cyclic(kdump),
        "elf": lambda: build_flat.elf_makedumpfile(elf),
        "elf-xnum": lambda: build_flat.elf_makedumpfile(elf, size=1000),
        "plain": lambda: build_flat.split_plain(kdump.to_bytes()),
    }[name]()
    return records, elf.to_bytes() if name.startswith("elf") else kdump.to_bytes()


@pytest.mark.parametrize("name", STREAMS)
def test_makedumpfile_rearranges_our_streams(name: str, tmp_path: Path, need: Need) -> None:
    need("makedumpfile")
    records, whole = stream_of(name)
    assert build_flat.rearrange(records) == whole
    stream, plain = tmp_path / "stream", tmp_path / "plain"
    stream.write_bytes(build_flat.flatten(records))
    plain.write_bytes(whole)
    assert oracles.rearrange(stream, tmp_path / "out") == whole
    flat, direct = decode(stream), decode(plain)
    assert flat.flattened
    assert flat.pages == direct.pages
    assert flat.notes == direct.notes


def test_makedumpfile_lets_the_last_write_win(tmp_path: Path, need: Need) -> None:
    need("makedumpfile")
    whole = build_kdump.build(kdump_spec()).to_bytes()
    noise = [build_flat.Record(offset, b"\xee" * 7000) for offset in range(0, len(whole) - 7000, 9000)]
    records = noise + build_flat.split_plain(whole, 4999)[::-1]
    stream = tmp_path / "stream"
    stream.write_bytes(build_flat.flatten(records))
    assert oracles.rearrange(stream, tmp_path / "out") == whole == build_flat.rearrange(records)
    assert decode(stream).pages


MEMORIES = {"plain": x86_memory.plain, "kaslr": x86_memory.kaslr}


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("source", ["elf", "kdump"])
@pytest.mark.parametrize("options", [["-c", "-d", "0"], ["-l", "-d", "1"], ["-d", "1"]])
def test_makedumpfile_refilters_the_memory(
    memory: str, source: str, options: list[str], tmp_path: Path, need: Need
) -> None:
    need("makedumpfile")
    fixture = MEMORIES[memory]()
    built = (
        build_elf.build(fixture.elf_spec()) if source == "elf" else build_kdump.build(fixture.kdump_spec())
    ).write_to(tmp_path / "in")
    oracles.makedumpfile(options, built, tmp_path / "out")
    assert decode(tmp_path / "out").pages == decode(built).pages == fixture.pages


def test_reference_reads_what_makedumpfile_splits_and_flattens(tmp_path: Path, need: Need) -> None:
    need("makedumpfile")
    fixture = x86_memory.plain()
    source = build_elf.build(fixture.elf_spec()).write_to(tmp_path / "in")
    parts = oracles.makedumpfile(["-c", "-d", "1", "--split"], source, *(tmp_path / f"p{n}" for n in range(3)))
    assert decode(*parts).pages == fixture.pages
    oracles.makedumpfile(["-E", "-d", "1"], source, tmp_path / "elf")
    assert decode(tmp_path / "elf").pages == fixture.pages
    for options in (["-F", "-c", "-d", "1"], ["-F", "-E", "-d", "1"]):
        with (tmp_path / "flat").open("wb") as out:
            subprocess.run(
                ["makedumpfile", *options, source], stdout=out, stderr=subprocess.DEVNULL, check=True, timeout=60
            )
        dump = decode(tmp_path / "flat")
        assert dump.flattened
        assert dump.pages == fixture.pages


DRGN = """
import hashlib, json, sys
import drgn
prog = drgn.Program()
prog.set_core_dump(sys.argv[1])
out = {}
for kind, address, size in json.loads(sys.argv[2]):
    out[f"{kind}{address:x}"] = hashlib.sha256(prog.read(address, size, kind == "p")).hexdigest()
print("@" + json.dumps(out))
"""


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("form", ["elf", "kdump", "flattened"])
def test_drgn_reads_through_the_page_tables(memory: str, form: str, tmp_path: Path) -> None:
    pytest.importorskip("drgn")
    fixture = MEMORIES[memory]()
    path = tmp_path / "dump"
    if form == "elf":
        build_elf.build(fixture.elf_spec(with_vaddr=False, text_alias=False)).write_to(path)
    elif form == "kdump":
        build_kdump.build(fixture.kdump_spec()).write_to(path)
    else:
        path.write_bytes(build_flat.flatten(build_flat.kdump_makedumpfile(build_kdump.build(fixture.kdump_spec()))))
    paddr = (fixture.start_pfn + 9) * 4096
    wanted = [
        ("p", paddr, 4096),
        ("v", fixture.direct_base + paddr, 4096),
        ("v", fixture.text_vaddr + paddr - fixture.text_paddr, 4096),
    ]
    told = oracles.run([sys.executable, "-c", DRGN, path, json.dumps(wanted)])
    seen = json.loads(told[told.index("@") + 1 :].splitlines()[0])
    page = hashlib.sha256(fixture.pages[paddr // 4096]).hexdigest()
    assert seen == {f"{kind}{address:x}": page for kind, address, _ in wanted}


def test_runs_of_gives_half_open_runs() -> None:
    assert runs_of([5, 3, 4, 9]) == [(3, 6), (9, 10)]
