# SPDX-License-Identifier: GPL-2.0-or-later
"""LKCD: layouts by the sheet's offsets, registers by hand, records and ends that only a large file or a pipe shows."""

from __future__ import annotations

import gzip
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dumpconv.convert.convert import ConvertOptions, convert
from dumpconv.formats import codecs, lkcd_layout, lkcd_registers, lkcd_scan
from dumpconv.formats.errors import CorruptDump, InputError, TruncatedDump
from dumpconv.formats.notes import prstatus_registers
from dumpconv.formats.pages import PageState
from dumpconv.formats.source import ByteSource
from support import build_lkcd, patterns, product
from support.build_lkcd import COMPRESSED, END, GZIP, MCLX_V1, NONE, RLE, Cpu, LkcdSpec, Record, asm_header, build
from support.command import dumpconv, report
from support.corpus_lkcd import base, pages, records


def open_spec(spec: LkcdSpec, folder: Path, **more: object):  # type: ignore[no-untyped-def]
    return product.open_product(build(spec).write_to(folder / "dump"), **more)  # type: ignore[arg-type]


def codes(reader) -> list[str]:  # type: ignore[no-untyped-def]
    return [finding.code for finding in reader.findings]


# -- layouts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "bits", "size"),
    [(1, 32, 0x2CC), (1, 64, 0x2D8), (2, 32, 712), (2, 64, 728), (3, 64, 728), (5, 32, 724), (5, 64, 740), (7, 64, 740),
     (8, 32, 734), (8, 64, 734), (9, 64, 742), (10, 32, 742)],
)  # fmt: skip
def test_sizes_of_the_generic_header(version: int, bits: int, size: int) -> None:
    # of version 1 without dh_regs, of 5 to 7 without the padding at the struct's end
    assert lkcd_layout.generic_header("little", bits // 8, version).sizeof() == size


def test_sizes_of_the_architectures_headers() -> None:
    for arch, (fixed, per_cpu) in {
        "i386": (92, 72),
        "x86_64": (192, 192),
        "ppc64": (376, 376),
        "ia64": (504, 472),
    }.items():
        for cpus in (1, 32):
            assert lkcd_registers.asm_header("little", arch, cpus).sizeof() == fixed + cpus * per_cpu
    assert lkcd_registers.asm_header("big", "ppc64", 4, stack_ptr=False).sizeof() == 376 + 4 * 368
    assert lkcd_registers.asm_header("little", "i386", 0).sizeof() == 84


@pytest.mark.parametrize("order", ["little", "big"])
def test_schema_and_dtype_of_a_record_are_one(order: str) -> None:
    raw = bytes(range(16))
    schema, row = lkcd_layout.page_record(order).parse(raw), np.frombuffer(raw, lkcd_layout.record_dtype(order))[0]  # type: ignore[arg-type]
    assert {name: int(row[name]) for name in row.dtype.names} == {name: schema[name] for name in row.dtype.names}


def test_a_version_1_header_of_a_big_endian_machine_by_hand(tmp_path: Path) -> None:
    head = bytearray(65536)
    head[0:8] = bytes.fromhex("a8190173618f23ed")
    head[8:24] = struct.pack(">IIII", 1, 780, 4, 4096)
    head[0x38:0x3C] = struct.pack(">I", 1)
    head[0x3C:0x44] = b"panicked"
    head[0x13C:0x144] = struct.pack(">II", 1000000000, 7)
    for number, text in enumerate((b"Linux", b"host", b"2.4.9", b"#1", b"i686", b"")):
        head[0x144 + 65 * number : 0x144 + 65 * number + len(text)] = text
    head[0x308:0x30C] = struct.pack(">I", 0xC0123456)
    page = struct.pack(">QII", 0x7000, 3 * 16, 2) + b"\0\xff\x41" * 16
    (tmp_path / "dump").write_bytes(bytes(head) + page + struct.pack(">QII", 0, 0, 4))
    reader = product.open_product(tmp_path / "dump")
    assert product.view(reader).pages == {7: b"A" * 4096}
    assert (reader.machine.arch, reader.machine.byteorder) == ("i386", "big")
    facts = reader.facts
    assert (facts["panic_string"], facts["timestamp"], facts["current_task"]) == ("panicked", 1000000000, 0xC0123456)
    assert facts["utsname"]["release"] == "2.4.9"


def test_pages_of_64_kib_begin_at_256_kib_in_version_8(tmp_path: Path) -> None:
    stored = patterns.pages(2, 5, 65536)
    reader = open_spec(
        LkcdSpec(stored, page_size=65536, start=4 * 65536, uts={"machine": "ppc64"}, order=">"), tmp_path
    )
    assert product.view(reader).pages == stored
    assert "data-offset" in codes(reader)
    at_64k = open_spec(LkcdSpec(stored, page_size=65536, uts={"machine": "ppc64"}, order=">"), tmp_path)
    assert product.view(at_64k).pages == stored
    assert "data-offset" not in codes(at_64k)


def test_the_word_size_is_told_by_machine_not_by_luck(tmp_path: Path) -> None:
    # strings that look sound at the other word size's place, too: a nodename that says Linux
    for bits, machine in ((32, "i686"), (64, "x86_64")):
        uts = {"sysname": "Linux", "nodename": "Linux", "release": "2.4", "version": "1", "machine": machine}
        reader = open_spec(base("i386" if bits == 32 else "x86_64", version=5, bits=bits, uts=uts), tmp_path)
        assert reader.machine.word_size * 8 == bits
        assert product.view(reader).pages == pages()


def test_machine_overrides(tmp_path: Path) -> None:
    spec = base(uts={"machine": "pdp11"})
    assert open_spec(spec, tmp_path, machine="alpha").machine.arch == "alpha"


def test_page_size_overrides(tmp_path: Path) -> None:
    reader = open_spec(base(header={"dh_page_size": 3}), tmp_path, page_size=4096)
    assert product.view(reader).pages == pages()


# -- registers ---------------------------------------------------------------------------------------------------------


def registers(reader, number: int) -> tuple[int, ...]:  # type: ignore[no-untyped-def]
    found = prstatus_registers(reader.notes[number], reader.machine.arch, reader.machine.byteorder)
    assert found is not None
    return found


def test_registers_of_i386_by_hand(tmp_path: Path) -> None:
    # ebx ecx edx esi edi ebp eax ds es orig_eax eip cs eflags esp ss; a gregset has fs and gs in between
    words = [0xB, 0xC, 0xD, 0x51, 0xD1, 0xB9, 0xA, 0xD5, 0xE5, 0x0A, 0xC0100000, 0x60, 0x246, 0xC0200000, 0x68]
    reader = open_spec(base("i386", asm=asm_header("i386", "<", [Cpu(words)], version=3, slots=4)), tmp_path)
    expected = struct.pack("<17I", *words[:9], 0, 0, *words[9:])
    (note,) = reader.notes
    assert (note.name, note.type, note.size) == (b"CORE", 1, 144)
    assert note.desc()[72:140] == expected


def test_registers_of_x86_64_by_hand(tmp_path: Path) -> None:
    words = list(range(0x100, 0x115))
    asm = asm_header("x86_64", "<", [Cpu(), Cpu(words), Cpu()], version=2, slots=8, dumping=1)
    reader = open_spec(base(asm=asm), tmp_path)
    assert len(reader.notes) == 2  # CPU 0 is a gap, CPU 2 has none
    assert reader.notes[0].desc() == bytes(336)
    assert reader.notes[1].desc()[112 : 112 + 168] == struct.pack("<21Q", *words)
    assert registers(reader, 1)[21:] == (0,) * 6


def test_the_dumping_cpu_s_registers_fill_its_gap(tmp_path: Path) -> None:
    asm = asm_header("x86_64", "<", [Cpu([1] * 21), Cpu()], version=2, dumping=1, regs=[7] * 21)
    reader = open_spec(base(asm=asm), tmp_path)
    assert [registers(reader, cpu)[0] for cpu in (0, 1)] == [1, 7]
    asm = asm_header("x86_64", "<", [Cpu([1] * 21), Cpu([2] * 21)], version=2, dumping=1, regs=[7] * 21)
    assert registers(open_spec(base(asm=asm), tmp_path), 1)[0] == 2


def test_dha_regs_alone(tmp_path: Path) -> None:
    asm = asm_header("i386", "<", [], version=1, slots=0, regs=range(1, 16))  # 84 bytes: LKCD 2 and 3
    assert len(asm) == 84
    reader = open_spec(base("i386", version=3, asm=asm), tmp_path)
    assert registers(reader, 0) == (*range(1, 10), 0, 0, *range(10, 16))


@pytest.mark.parametrize("version", [5, 1])
def test_registers_of_big_endian_ppc64(version: int, tmp_path: Path) -> None:
    words = list(range(1, 45))
    asm = asm_header("ppc64", ">", [Cpu(words, 0xC000000000001000)], version=version, slots=2)
    reader = open_spec(base("ppc64", asm=asm), tmp_path)
    assert reader.notes[0].desc()[112 : 112 + 352] == struct.pack(">44Q", *words)
    assert reader.facts["cpu_current_task"] == [0xC000000000001000]


def test_registers_of_s390x_lie_in_lowcores(tmp_path: Path) -> None:
    low = bytearray(4096)
    struct.pack_into(">16Q", low, 0x280, *range(100, 116))  # general registers at 0x1280
    struct.pack_into(">2Q", low, 0x300, 0x0705000180000000, 0x10F00)  # PSW
    struct.pack_into(">16I", low, 0x340, *range(200, 216))  # access registers
    low[0x200:0x208] = b"\x40\x09\x21\xfb\x54\x44\x2d\x18"  # floating-point register 0
    low[0x318:0x31C] = b"\0\2\0\0"  # prefix
    struct.pack_into(">16Q", low, 0x380, *range(300, 316))  # control registers
    asm = build_lkcd.s390x_header([0x20000, 0x990000])
    reader = open_spec(base("s390x", version=8, pages=pages() | {0x21: bytes(low)}, asm=asm), tmp_path)
    desc = reader.notes[0].desc()
    assert desc[112:128] == struct.pack(">2Q", 0x0705000180000000, 0x10F00)
    assert desc[128:256] == struct.pack(">16Q", *range(100, 116))
    assert desc[256:320] == struct.pack(">16I", *range(200, 216))
    said = {note.type: note.desc() for note in reader.notes[1:-1]}
    assert list(said) == [2, 0x301, 0x302, 0x303, 0x304, 0x305]  # NT_FPREGSET, NT_S390_TIMER to NT_S390_PREFIX
    assert said[2] == bytes(8) + b"\x40\x09\x21\xfb\x54\x44\x2d\x18" + bytes(120)
    assert said[0x304] == struct.pack(">16Q", *range(300, 316))
    assert said[0x305] == b"\0\2\0\0"
    # a lowcore that is not there keeps the CPU's place: pr_pid and zeros
    assert (reader.notes[-1].type, reader.notes[-1].desc()) == (1, bytes(32) + b"\0\0\0\2" + bytes(300))
    assert "lowcore" in codes(reader)


def test_registers_of_version_1(tmp_path: Path) -> None:
    reader = open_spec(base("i386", version=1, regs=struct.pack("<15I", *range(1, 16)), task=0xC0FFEE00), tmp_path)
    assert registers(reader, 0) == (*range(1, 10), 0, 0, *range(10, 16))
    assert reader.facts["current_task"] == 0xC0FFEE00


@pytest.mark.parametrize("first", [False, True])
def test_both_layouts_of_ia64_version_5(first: bool, tmp_path: Path) -> None:
    cpus = [Cpu([1] * 44, 0xE000000001000000, 2, 3)]
    asm = asm_header("ia64", "<", cpus, version=5, slots=2, kernel_addr=0x4000000, kernel_addr_first=first)
    reader = open_spec(base("ia64", asm=asm), tmp_path)
    assert reader.facts["kernel_addr"] == 0x4000000
    assert reader.facts["cpu_current_task"] == [0xE000000001000000]
    assert reader.notes == []
    assert "no-registers" in codes(reader)


def test_the_architectures_header_lies_behind_the_table_of_mclx(tmp_path: Path) -> None:
    asm = asm_header("x86_64", "<", [Cpu([9] * 21)], version=2)
    for version in (5, 8):
        reader = open_spec(base(version=version, modifiers=MCLX_V1, asm=asm), tmp_path)
        assert registers(reader, 0)[0] == 9


@pytest.mark.parametrize("size", [0, 16, 183, 65536, 0xFFFFFFFF])
def test_a_size_of_the_architectures_header_that_cannot_be(size: int, tmp_path: Path) -> None:
    asm = asm_header("x86_64", "<", [Cpu([9] * 21)], version=2, size=size)
    reader = open_spec(base(asm=asm), tmp_path)
    assert reader.notes == []
    assert "asm-header" in codes(reader)


# -- records -----------------------------------------------------------------------------------------------------------


words = st.sampled_from(
    [0, 1, 2, 3, 4, 5, 8, 0x11, 0x1001, 1 << 30, 1 << 31, (1 << 31) + 1, (1 << 30) + 2, (1 << 32) - 1]
)
addresses = st.one_of(st.integers(0, (1 << 64) - 1), st.integers(0, 1 << 52).map(lambda pfn: pfn << 12 & (1 << 64) - 1))
sizes = st.sampled_from([0, 1, 100, 4095, 4096, 4097, 8192, 8193, 16384, 32768, 32769, (1 << 32) - 1])


@given(
    st.lists(st.tuples(addresses, sizes, words), min_size=1),
    st.sampled_from([0, 0xC0000000]),
    st.sampled_from([4096, 16384]),
)
def test_the_rule_for_one_record_is_that_for_many(rows: list[tuple[int, int, int]], base: int, unit: int) -> None:
    rule = lkcd_scan.Records(Endless(1), 0, "big", unit, 16384, base, codecs.RLE)
    table = np.array(rows, lkcd_layout.record_dtype("big"))
    assert rule.good(table).tolist() == [rule.is_good(*row) for row in rows]
    pfns, valid = rule.pfns(table)
    alone = [rule.pfn_of(address, flags) for address, _, flags in rows]
    assert [pfn if ok else None for pfn, ok in zip(pfns.tolist(), valid.tolist(), strict=True)] == alone


@pytest.mark.parametrize("window", [16, 40, 4112, 4120, 9000])
@pytest.mark.parametrize("method", [NONE, GZIP, RLE])
def test_windows_of_any_size_find_the_same(
    window: int, method: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = patterns.pages(1, 40, kind="mixed") | patterns.pages(50, 60)
    image = build(base(pages=stored, compress=method, shuffle=1))
    path = image.write_to(tmp_path / "dump")
    whole = product.open_product(path)
    monkeypatch.setattr(lkcd_scan, "_WINDOW", window)
    small = product.open_product(path)
    assert np.array_equal(small.extents(0, 100), whole.extents(0, 100))
    assert product.view(small).pages == stored
    assert small.facts == whole.facts


@pytest.mark.parametrize("window", [17, 100, 1 << 14])
@pytest.mark.parametrize("bad", [0, 5, 12])
def test_the_chain_is_taken_up_again_across_windows(
    bad: int, window: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lkcd_scan, "_FIRST_WINDOW", window)
    spec = base(pages=patterns.pages(0, 20))
    made = records(spec)
    made[bad] = replace(made[bad], size=0xFFFFFF00)
    reader = open_spec(replace(spec, records=made), tmp_path, salvage=True)
    assert product.view(reader).pages == {pfn: page for pfn, page in spec.pages.items() if pfn != bad}
    assert "chain-broken" in codes(reader)
    assert isinstance(reader.damage, CorruptDump)
    first = open_spec(replace(spec, records=made), tmp_path)
    assert product.view(first).pages == {pfn: page for pfn, page in spec.pages.items() if pfn < bad}
    message = str(first.damage)
    place = build(replace(spec, records=made)).places[bad]
    assert all(text in message for text in (f"{place:#x}", "size 4294967040", "--salvage"))


def test_a_size_that_jumps_past_the_end_says_both_values(tmp_path: Path) -> None:
    spec = base()
    data = build(spec).to_bytes()[:-2000]
    (tmp_path / "dump").write_bytes(data)
    reader = product.open_product(tmp_path / "dump")
    assert isinstance(reader.damage, TruncatedDump)
    assert "of which the file has" in str(reader.damage)


def test_many_breaks_end_soon(tmp_path: Path) -> None:
    # a bad record after each four good ones: a chain begins right behind it
    page = build_lkcd.compress(bytes(4096), GZIP)
    made: list[Record] = []
    for pfn in range(0, 80000, 4):
        made += [Record(4096 * (pfn + at), page, COMPRESSED) for at in range(4)]
        made.append(Record(8, b"", COMPRESSED))
    reader = open_spec(base(records=made, pages={}), tmp_path, salvage=True)
    assert reader.facts["end"] == "broken"
    assert reader.memory_map.count(PageState.STORED) == 4 * (lkcd_scan._MAX_BREAKS + 1)


def test_zeros_of_any_size_are_no_records(tmp_path: Path) -> None:
    path = build(base(pages={}, end=None)).write_to(tmp_path / "dump")
    with path.open("r+b") as stream:
        stream.truncate(1 << 42)
    reader = product.open_product(path)
    assert isinstance(reader.damage, CorruptDump)
    assert len(reader.memory_map) == 0


class Endless(ByteSource):
    """A dump of many pages of 8 stored bytes each, made as it is read: their frames jump about."""

    def __init__(self, count: int) -> None:
        self.name, self.count, self.size = "endless", count, 24 * count + 16

    def pread_into(self, view: memoryview, offset: int) -> int:
        size = min(len(view), self.size - offset)
        first, last = offset // 24, -(-(offset + size) // 24)
        rows = np.zeros(last - first, [("address", "<u8"), ("size", "<u4"), ("flags", "<u4"), ("data", "<u8")])
        number = np.arange(first, last, dtype=np.uint64)
        rows["address"] = number * np.uint64(0x9E3779B1) % np.uint64(1 << 26) << np.uint64(12)
        rows["size"], rows["flags"] = 8, np.where(number < self.count, COMPRESSED, END)
        rows["size"][number >= self.count] = 0
        view[:size] = rows.tobytes()[offset - 24 * first :][:size]
        return size


def test_an_index_of_a_million_pages_is_small() -> None:
    import tracemalloc

    rows = lkcd_scan.Records(Endless(1 << 20), 0, "little", 4096, 4096, 0, codecs.ZLIB_SLACK)
    tracemalloc.start()
    found = lkcd_scan.scan(rows, salvage=False)
    size, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (found.nr_records, len(found.index), found.end) == (1 << 20, 1 << 20, "end")
    assert size < 20 << 20
    assert peak < (20 << 20) + 39 * found.nr_records  # windows, and 39 bytes a page: 50 million in less than 2 GB


class Shrinking(Endless):
    """A file that somebody truncates when half of it is read."""

    def pread_into(self, view: memoryview, offset: int) -> int:
        left = max(0, self.size // 2 - offset)
        return super().pread_into(view[:left], offset) if left else 0


@pytest.mark.parametrize("salvage", [False, True])
def test_a_file_that_shrinks_while_it_is_walked(salvage: bool) -> None:
    source = Shrinking(1 << 19)
    with pytest.raises(InputError, match=f"ends at {source.size // 2} now, it had {source.size} bytes"):
        lkcd_scan.scan(lkcd_scan.Records(source, 0, "little", 4096, 4096, 0, codecs.ZLIB_SLACK), salvage=salvage)


# -- streams and reports ----------------------------------------------------------------------------------------------


def test_from_a_pipe_and_packed(tmp_path: Path) -> None:
    spec = base(pages=pages() | patterns.pages(100, 400, kind="mixed"), shuffle=9)
    plain = build(spec).write_to(tmp_path / "plain.lkcd")
    packed = tmp_path / "packed.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes(), 1))
    assert dumpconv(plain, tmp_path / "a.elf").returncode == 0
    assert dumpconv("-", tmp_path / "b.elf", input=plain.read_bytes()).returncode == 0
    done = dumpconv(packed, tmp_path / "c.elf")
    assert done.returncode == 0
    assert b"spooled in memory" in done.stdout + done.stderr
    with (tmp_path / "d.elf").open("wb") as out:
        assert dumpconv("-", "-", input=packed.read_bytes(), stdout=out).returncode == 0
    views = [product.view(product.open_product(tmp_path / f"{name}.elf")) for name in "abcd"]
    assert all(view.pages == spec.pages for view in views)
    assert dumpconv("compare", plain, packed).returncode == 0


def test_dialect_pages_are_counted(tmp_path: Path) -> None:
    spec = base(compress=RLE)
    changed = {pfn: Record(4096 * pfn, build_lkcd.rle_encode(pages()[pfn], 0), COMPRESSED) for pfn in (5, 9, 10)}
    path = build(replace(spec, records=records(spec, changed))).write_to(tmp_path / "dump")
    told = report(path, tmp_path / "out")
    assert [each["message"] for each in told["findings"] if each["code"] == "rle-dialect"] == [
        "3 RLE pages count a run of n bytes as n, not as n - 1 as kernels do: libkdumpfile dialect"
    ]


def test_copies_are_compared_by_their_pages(tmp_path: Path) -> None:
    spec = base()
    made = records(spec)
    raw = Record(5 * 4096, pages()[5])  # the same page, not the same bytes
    other = bytearray(pages()[6])
    other[:3] = b"xyz"
    broken = Record(7 * 4096, b"no zlib", COMPRESSED)
    for copies, expected in (([raw, Record(9 * 4096)], None), ([Record(6 * 4096, bytes(other))], 3), ([broken], 4096)):
        reader = open_spec(replace(spec, records=[*made, *copies]), tmp_path)
        assert f"{len(copies)} records repeat a frame" in next(
            f.message for f in reader.findings if f.code == "duplicates"
        )
        said = convert(reader, str(tmp_path / "out"), ConvertOptions(sync=False))
        (tmp_path / "out").unlink()
        told = [finding.message for finding in said.findings if finding.code == "overlap-differs"]
        wanted = f"{expected} bytes differ between records of one frame: the first ones were kept"
        assert told == ([] if expected is None else [wanted])


@pytest.mark.parametrize("version", [8, 9])
@pytest.mark.parametrize("codec", [[], ["-c"], ["--codec", "raw"]])
def test_what_dumpconv_writes(codec: list[str], version: int, tmp_path: Path) -> None:
    path = build(base(compress=RLE, shuffle=2)).write_to(tmp_path / "in.lkcd")
    done = dumpconv(path, tmp_path / "out.lkcd", "-O", "lkcd", "--lkcd-version", str(version), *codec)
    assert done.returncode == 0, done.stderr
    again = product.open_product(tmp_path / "out.lkcd")
    assert product.view(again).pages == pages()
    assert (again.facts["header_version"], again.facts["end"], again.incomplete) == (version, "end", False)


def test_a_picture_of_rle_pages(tmp_path: Path) -> None:
    spec = base(compress=RLE)
    path = build(spec).write_to(tmp_path / "in.lkcd")
    done = dumpconv("map", path, "--picture", tmp_path / "out.svg")
    assert done.returncode == 0, done.stderr
    count = sum(record.flags == COMPRESSED for record in records(spec))
    assert f"stored, rle: {count} pages" in (tmp_path / "out.svg").read_text()


def test_a_panic_string_is_shown_safe(tmp_path: Path) -> None:
    reader = open_spec(base(panic=b"Oops \x1b[2J\n\n"), tmp_path)
    assert reader.facts["panic_string"] == "Oops \\x1b[2J"
