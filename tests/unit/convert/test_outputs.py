# SPDX-License-Identifier: GPL-2.0-or-later
"""The outputs beside ELF: headers byte by byte, page states, what goes together, what is told."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from dumpconv.cli import main
from support import build_elf, build_kdump, corpus_kdump, notes, patterns, reference_outputs, x86_memory
from support.build_kdump import KdumpSpec
from support.command import dumpconv, one_line
from support.reference import decode

UTS = {"sysname": "Linux", "nodename": "host", "release": "6.1.0-test", "version": "#1", "machine": "x86_64"}
PAGES = patterns.pages(3, 9) | {20: bytes(4096), 21: bytes(4096)} | patterns.pages(30, 33, kind="random")


def kdump(**more: Any) -> KdumpSpec:
    return corpus_kdump.base(**{"pages": PAGES, "excluded": [(10, 15)], "uts": UTS, **more})


def make(spec: KdumpSpec, folder: Path) -> Path:
    return build_kdump.build(spec).write_to(folder / "in")


def convert(source: Path, *words: str, code: int = 0) -> Path:
    out = source.with_name("out")
    assert main([str(source), str(out), "--no-fsync", "--no-sisters", "--force", *words]) == code
    return out


# -- kdump -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("letter", "status"), [((), 0), (("-c",), 1), (("-l",), 2), (("-p",), 4), (("-z",), 0x20), (("--codec", "raw"), 0)]
)
def test_kdump_of_64_bits_byte_by_byte(letter: tuple[str, ...], status: int, tmp_path: Path) -> None:
    text = notes.vmcoreinfo_text()
    blob = notes.machine_notes(cpus=2, text=text)
    source = make(kdump(notes=blob, vmcoreinfo=text, tv_sec=1700000000, dump_level=31, phys_base=0x1000000), tmp_path)
    data = convert(source, "-O", "kdump", *letter).read_bytes()
    assert data[:8] == b"KDUMP   "
    assert struct.unpack_from("<i", data, 8) == (6,)
    assert [data[12 + 65 * at :][:65].rstrip(b"\0").decode() for at in range(6)] == [*UTS.values(), ""]
    assert data[402:408] == bytes(6)
    # timestamp, usec, status, block_size, sub_hdr_size, bitmap_blocks, max_mapnr, 4 zeros, nr_cpus
    sub_blocks = struct.unpack_from("<i", data, 432)[0]
    assert struct.unpack_from("<QQIiiIIIIIIi", data, 408) == (
        1700000000, 0, status, 4096, sub_blocks, 2, 33, 0, 0, 0, 0, 2,
    )  # fmt: skip
    # phys_base, dump_level, split, start, end, vmcoreinfo, note, eraseinfo, start64, end64, max_mapnr_64
    sub = struct.unpack_from("<QiiQQQQQQQQQQQ", data, 4096)
    assert sub[:5] == (0x1000000, 31, 0, 0, 0)
    assert data[sub[5] : sub[5] + sub[6]] == text
    assert sub[7] == 4096 + 104
    assert data[sub[7] :].startswith(blob)
    assert sub[9:] == (0, 0, 0, 0, 33)
    ram = [*range(3, 9), *range(10, 15), 20, 21, 30, 31, 32]
    stored = [pfn for pfn in ram if not 10 <= pfn < 15]
    bitmap = (1 + sub_blocks) * 4096
    for offset, frames in ((bitmap, ram), (bitmap + 4096, stored)):
        bits = int.from_bytes(data[offset : offset + 4096], "little")
        assert bits == sum(1 << pfn for pfn in frames)
    table = bitmap + 8192
    rows = [struct.unpack_from("<qIIQ", data, table + 24 * rank) for rank in range(len(stored))]
    zero = (table + 24 * len(stored), 4096, 0, 0)
    assert [rows[stored.index(pfn)] for pfn in (20, 21)] == [zero, zero]
    assert data[zero[0] : zero[0] + 4096] == bytes(4096)
    at = zero[0] + 4096
    for pfn, row in zip(stored, rows, strict=True):
        if pfn in (20, 21):
            continue
        assert row[0] == at
        assert row[3] == 0
        assert row[2] in (0, status)
        assert row[2] or data[at : at + 4096] == PAGES[pfn]
        assert row[1] == 4096 if not row[2] else row[1] < 4096
        if pfn >= 30:  # random bytes do not shrink
            assert row[2] == 0
        at += row[1]
    assert at == len(data)


def test_kdump_of_32_bits_and_big_endian_byte_by_byte(tmp_path: Path) -> None:
    uts = {**UTS, "machine": "ppc"}
    blob = notes.machine_notes("ppc", order=">", cpus=1, text=notes.vmcoreinfo_text())
    spec = kdump(arch="ppc", layout="32pad", order=">", uts=uts, notes=blob, vmcoreinfo=notes.vmcoreinfo_text())
    data = convert(make(spec, tmp_path), "-O", "kdump", "-c").read_bytes()
    assert struct.unpack_from(">i", data, 8) == (6,)
    assert data[272:276] == b"ppc\0"
    sub_blocks = struct.unpack_from(">i", data, 420)[0]
    assert struct.unpack_from(">IIIiiIIIIIIi", data, 404) == (0, 0, 1, 4096, sub_blocks, 2, 33, 0, 0, 0, 0, 1)
    assert struct.unpack_from(">I", data, 4096 + 32)[0] == len(notes.vmcoreinfo_text())  # size_vmcoreinfo, padded
    assert struct.unpack_from(">Q", data, 4096 + 40) == (4096 + 96,)  # offset_note
    assert struct.unpack_from(">Q", data, 4096 + 88) == (33,)  # max_mapnr_64
    bitmap = (1 + sub_blocks) * 4096
    assert data[bitmap] == 0b11111000  # bits are counted from the least significant one on every machine
    offset, size, flags, zero = struct.unpack_from(">qIIQ", data, bitmap + 8192)
    assert (flags, zero) == (1, 0)
    assert offset == bitmap + 8192 + 24 * 11 + 4096
    assert size < 4096


def test_lost_and_damaged_frames_are_neither_zeros_nor_excluded(tmp_path: Path) -> None:
    stored = {5: (b"\x78\x01 no zlib stream", 1)}
    spec = kdump(stored=stored, incomplete_from=31)
    out = convert(make(spec, tmp_path), "-O", "kdump", "-c", "--salvage", code=3)
    data = out.read_bytes()
    assert struct.unpack_from("<I", data, 424) == (9,)  # zlib and incomplete
    dump = decode(out)
    assert set(dump.lost) == {5, 31, 32}  # empty descriptors, as a full disk leaves them
    assert dump.excluded_runs == [(10, 15)]
    assert dump.pages == {pfn: page for pfn, page in PAGES.items() if pfn not in (5, 31, 32)}
    (tmp_path / "in").unlink()
    out.rename(tmp_path / "in")
    assert main(["map", str(tmp_path / "in"), "--json"]) == 4  # our note tells damaged from lost
    back = convert(tmp_path / "in", code=4)
    assert json.loads(dumpconv("map", back, "--json").stdout)["runs"]


def test_damage_is_told_from_loss_by_our_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = kdump(stored={5: (b"\x78\x01 no zlib stream", 1)})
    out = convert(make(spec, tmp_path), "-O", "kdump", "--salvage", code=3)
    capsys.readouterr()
    assert main(["map", str(out)]) == 4
    told = capsys.readouterr().out
    assert "1 damaged" in told
    assert "lost" not in told


def test_without_salvage_damage_leaves_no_file(tmp_path: Path) -> None:
    source = make(kdump(stored={5: (b"\x78\x01 no zlib stream", 1)}), tmp_path)
    for words in (("kdump",), ("kdump", "-F"), ("kdump", "--split", "2"), ("lkcd",), ("raw",), ("lime",)):
        done = dumpconv(source, tmp_path / "out", "-O", *words)
        assert done.returncode == 3
        assert "pfn 0x5" in one_line(done)
        assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_erase_info_goes_behind_the_pages_and_comes_back(tmp_path: Path) -> None:
    source = make(kdump(eraseinfo=b"erase jiffies size 8\n"), tmp_path)
    elf = convert(source).read_bytes()
    out = convert(source, "-O", "kdump", "-c")
    data = out.read_bytes()
    offset, size = struct.unpack_from("<QQ", data, 4096 + 64)
    assert (data[offset:], size) == (b"erase jiffies size 8\n", 21)
    assert b"ERASEINFO" not in data
    out.rename(tmp_path / "in")
    assert convert(tmp_path / "in").read_bytes() == elf
    for words in (("-F",), ("--split", "3")):
        convert(tmp_path / "in", "-O", "kdump", *words)
        name = tmp_path / ("out" if words == ("-F",) else "out.2")
        if words == ("-F",):
            assert reference_outputs.unflatten(name.read_bytes()).endswith(b"erase jiffies size 8\n")
        else:
            assert main([*[str(tmp_path / f"out.{k}") for k in (1, 2, 3)], str(tmp_path / "e"), "--no-fsync"]) == 0
            assert (tmp_path / "e").read_bytes() == elf


def test_a_split_set_has_equal_tables_and_ranges_that_tile(tmp_path: Path) -> None:
    pages = patterns.pages(0, 700)
    convert(make(kdump(pages=pages, excluded=[(800, 810)]), tmp_path), "-O", "kdump", "-l", "--split", "3")
    members = [(tmp_path / f"out.{number}").read_bytes() for number in (1, 2, 3)]
    assert not (tmp_path / "out").exists()
    ranges = [struct.unpack_from("<QQ", data, 4096 + 80) for data in members]
    assert [start for start, _ in ranges] == [0, *(end for _, end in ranges[:-1])]
    assert ranges[-1][1] == 810
    assert all(start % 64 == 0 for start, _ in ranges)
    assert all(struct.unpack_from("<i", data, 4096 + 12) == (1,) for data in members)
    blocks = struct.unpack_from("<i", members[0], 432)[0]
    tables = [data[:4096] + data[(1 + blocks) * 4096 : (3 + blocks) * 4096] for data in members]
    assert tables[0] == tables[1] == tables[2]
    assert decode(*(tmp_path / f"out.{number}" for number in (2, 3, 1))).pages == pages


def test_a_far_frame_costs_no_bitmap_bytes_on_disk(tmp_path: Path) -> None:
    far = 0x1_0000_0000 + 77
    source = make(kdump(pages={5: patterns.page(5), far: patterns.page(far)}, excluded=()), tmp_path)
    out = convert(source, "-O", "kdump", "-c")
    assert out.stat().st_size > 1 << 30
    assert out.stat().st_blocks * 512 < 1 << 24
    with out.open("rb") as stream:
        head = stream.read(8192)
    assert struct.unpack_from("<I", head, 440) == (0xFFFFFFFF,)
    assert struct.unpack_from("<Q", head, 4096 + 96) == (far + 1,)


def test_memory_that_no_bitmap_covers_is_refused(tmp_path: Path) -> None:
    segment = build_elf.Segment(1 << 60, patterns.page(1))
    build_elf.build(build_elf.ElfSpec([segment], notes.machine_notes())).write_to(tmp_path / "in")
    done = dumpconv(tmp_path / "in", tmp_path / "out", "-O", "kdump")
    assert done.returncode == 1
    assert "bitmaps of a kdump would take" in one_line(done)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    for name in ("raw", "lime"):
        done = dumpconv(tmp_path / "in", tmp_path / "out", "-O", name)
        assert done.returncode == (1 if name == "raw" else 0), done.stderr


# -- LKCD --------------------------------------------------------------------------------------------------------


def registers(words: int, cpu: int) -> tuple[int, ...]:
    return tuple(0x1000 * (cpu + 1) + index for index in range(words))


def prstatus_blob(arch: str, order: str, cpus: int) -> bytes:
    facts = notes.ARCHES[arch]
    words = facts.regs_size // (4 if facts.bits == 32 else 8)
    out = b""
    for cpu in range(cpus):
        desc = bytearray(facts.prstatus_size)
        struct.pack_into(
            f"{order}{words}{'I' if facts.bits == 32 else 'Q'}", desc, facts.regs_offset, *registers(words, cpu)
        )
        out += notes.encode(b"CORE\0", 1, bytes(desc), order=order)
    return out


@pytest.mark.parametrize(
    ("arch", "layout", "order", "head", "words", "kept"),
    [
        ("x86_64", "64", "<", 0, 21, [*range(21)]),
        ("i386", "32pack", "<", 8, 15, [*range(9), *range(11, 17)]),  # neither fs nor gs
        ("ppc64", "64", ">", 0, 44, [*range(44)]),
    ],
)
def test_lkcd_registers(
    arch: str, layout: str, order: str, head: int, words: int, kept: list[int], tmp_path: Path
) -> None:
    blob = prstatus_blob(arch, order, 3)
    uts = {**UTS, "machine": notes.ARCHES[arch].uts_machine}
    spec = kdump(arch=arch, layout=layout, order=order, notes=blob, vmcoreinfo=b"", uts=uts)
    out = reference_outputs.lkcd(convert(make(spec, tmp_path), "-O", "lkcd").read_bytes())
    magic, version, size = struct.unpack_from(order + "QII", out.asm)
    assert (magic, version, size) == (0xDEADDEAD, {"x86_64": 2, "i386": 5, "ppc64": 5}[arch], len(out.asm))
    found = reference_outputs.asm_registers(out.asm, order, head, words, "I" if arch == "i386" else "Q")
    gregs = notes.ARCHES[arch].regs_size // (4 if arch == "i386" else 8)
    assert found == [tuple(registers(gregs, cpu)[index] for index in kept) for cpu in range(3)]
    assert out.uts[4].decode() == uts["machine"]
    assert out.pages == PAGES


def test_lkcd_of_s390x_has_the_prefix_pages(tmp_path: Path) -> None:
    blob = b"".join(
        prstatus_blob("s390x", ">", 1) + notes.encode(b"LINUX\0", 0x305, struct.pack(">I", prefix), order=">")
        for prefix in (0x1000, 0x7FFE000)
    )
    spec = kdump(arch="s390x", order=">", notes=blob, vmcoreinfo=b"", uts={**UTS, "machine": "s390x"})
    out = reference_outputs.lkcd(convert(make(spec, tmp_path), "-O", "lkcd").read_bytes())
    assert out.asm[:8] == b"s390-dum"
    assert struct.unpack_from(">IIHH", out.asm, 8) == (1, 2068, 2, 2)
    assert struct.unpack_from(">512I", out.asm, 20) == (0x1000, 0x7FFE000, *[0] * 510)
    assert out.header["memory_size"] == 16 * 4096  # bytes, as zfcpdump has them


def test_lkcd_header_fields(tmp_path: Path) -> None:
    spec = kdump(tv_sec=1234567890)
    out = reference_outputs.lkcd(convert(make(spec, tmp_path), "-O", "lkcd", "--lkcd-version", "9").read_bytes())
    wanted = {
        "version": 9, "header_size": 742, "level": 2, "page_size": 4096, "memory_size": 16, "memory_start": 0,
        "memory_end": 33 * 4096, "num_pages": 11, "sec": 1234567890, "usec": 0, "task": 0, "compress": 2,
        "flags": 0x80000000, "device": 0, "start": 65536,
    }  # fmt: skip
    assert {name: out.header[name] for name in wanted} == wanted
    assert [name.decode() for name in out.uts] == [*UTS.values(), ""]
    assert out.flags[30] == 1  # random bytes do not shrink


def test_lkcd_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = convert(make(kdump(incomplete_from=31), tmp_path), "-O", "lkcd", code=4)
    assert reference_outputs.lkcd(out.read_bytes()).end_flags == 4 | 8  # END, TRUNCATED
    told = capsys.readouterr().out
    assert "5 excluded, 2 lost are in no record" in told
    assert "LKCD has no notes" in told


def test_lkcd_with_more_cpus_than_version_8_has_room_for(tmp_path: Path) -> None:
    source = make(kdump(notes=prstatus_blob("x86_64", "<", 400), vmcoreinfo=b""), tmp_path)
    done = dumpconv(source, tmp_path / "out", "-O", "lkcd")
    assert done.returncode == 1
    assert "--lkcd-version 9 has room" in one_line(done)
    out = reference_outputs.lkcd(convert(source, "-O", "lkcd", "--lkcd-version", "9").read_bytes())
    assert out.header["start"] == 131072
    assert len(reference_outputs.asm_registers(out.asm, "<", 0, 21, "Q")) == 400
    assert out.pages == PAGES


def test_lkcd_tells_how_to_start_crash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    memory = x86_memory.kaslr()
    convert(make(memory.kdump_spec(), tmp_path), "-O", "lkcd")
    assert "-m phys_base=" in capsys.readouterr().out


# -- raw and LiME ------------------------------------------------------------------------------------------------


def test_raw_is_memory_at_its_address(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = convert(make(kdump(), tmp_path), "-O", "raw")
    data = out.read_bytes()
    assert len(data) == 33 * 4096
    for pfn in range(33):
        assert data[pfn * 4096 : (pfn + 1) * 4096] == PAGES.get(pfn, bytes(4096))
    told = capsys.readouterr().out
    assert "5 excluded read as zeros now" in told
    assert "17 frames between and before RAM read as zeros" in told
    assert "registers and VMCOREINFO are left out" in told


def test_lime_ranges_byte_by_byte(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = convert(make(kdump(), tmp_path), "-O", "lime").read_bytes()
    assert data[:32].hex() == "454d694c010000000030000000000000ff8f0000000000000000000000000000"
    assert reference_outputs.lime(data, 4096) == PAGES
    assert "5 excluded are in no range" in capsys.readouterr().out


# -- what goes together ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["-c"], "a codec (-c, -l, -p, -z, --codec) goes with -O kdump or lkcd, not with -O elf"),
        (["-O", "raw", "-l"], "not with -O raw"),
        (["-F"], "-F goes with -O kdump"),
        (["-O", "lime", "--split", "2"], "--split goes with -O kdump"),
        (["-O", "kdump", "-F", "--split", "2"], "exclude one another"),
        (["-O", "kdump", "--lkcd-version", "8"], "--lkcd-version goes with -O lkcd"),
        (["-O", "lkcd", "-z"], "LKCD has no zstd pages"),
        (["-O", "kdump", "--holes", "min-run=4"], "--holes goes with -O elf"),
        (["-O", "lkcd", "--elf64"], "--elf64 goes with -O elf"),
        (["-O", "kdump", "--split", "1"], "a number from 2 to 256"),
        (["-O", "dump"], "invalid choice"),
        (["-O", "kdump", "-c", "-l"], "not allowed with"),
    ],
)
def test_options_that_do_not_go_together(words: list[str], text: str, tmp_path: Path) -> None:
    done = dumpconv(make(kdump(), tmp_path), tmp_path / "out", *words)
    assert done.returncode == 2
    assert text in one_line(done)
    assert not (tmp_path / "out").exists()


def test_a_kdump_goes_to_a_pipe_only_flattened(tmp_path: Path) -> None:
    source = make(kdump(), tmp_path)
    done = dumpconv(source, "-", "-O", "kdump")
    assert (done.returncode, done.stdout) == (2, b"")
    assert "-F flattens it" in one_line(done)
    done = dumpconv(source, "-", "-O", "kdump", "-F", "-c")
    (tmp_path / "flat").write_bytes(done.stdout)
    assert decode(tmp_path / "flat").pages == PAGES


@pytest.mark.parametrize("name", ["kdump", "lkcd", "raw", "lime"])
def test_an_existing_output_is_not_replaced(name: str, tmp_path: Path) -> None:
    source = make(kdump(), tmp_path)
    taken = tmp_path / ("out.2" if name == "kdump" else "out")
    taken.write_bytes(b"mine")
    words = ["--split", "2"] if name == "kdump" else []
    done = dumpconv(source, tmp_path / "out", "-O", name, *words)
    assert done.returncode == 2
    assert taken.name in one_line(done)
    assert taken.read_bytes() == b"mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["in", taken.name])
    assert dumpconv(source, tmp_path / "out", "-O", name, *words, "--force").returncode == 0


def test_an_input_is_not_replaced(tmp_path: Path) -> None:
    source = make(kdump(), tmp_path)
    source.rename(tmp_path / "dump.1")
    done = dumpconv(tmp_path / "dump.1", tmp_path / "dump", "-O", "kdump", "--split", "2", "--force")
    assert done.returncode == 2
    assert "input and output are the same file" in one_line(done)


def test_a_refiltered_kdump_is_told_from_a_damaged_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = convert(make(kdump(), tmp_path), "-O", "kdump")
    data = bytearray(out.read_bytes())
    blocks = struct.unpack_from("<i", data, 432)[0]
    second = (2 + blocks) * 4096
    # what a filter does: take the last page out; its descriptor is the last one
    again = bytearray(data)
    again[second + 4] &= 0xFE
    (tmp_path / "in").write_bytes(again)
    assert main([str(tmp_path / "in"), str(tmp_path / "x"), "--no-fsync"]) == 0
    assert "filtered after our note was made" in capsys.readouterr().out
    # a frame that is no RAM any more is another matter
    broken = bytearray(data)
    broken[second - 4096 + 1] &= 0xFB  # frame 10, excluded
    (tmp_path / "in").write_bytes(broken)
    done = dumpconv(tmp_path / "in", tmp_path / "y")
    assert done.returncode == 5
    assert "the page states' digest is" in one_line(done)
