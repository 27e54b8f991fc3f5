# SPDX-License-Identifier: GPL-2.0-or-later
"""s390 stand-alone dumps: layouts by hand, registers, what Linux leaves in the storage, sets, messages."""

from __future__ import annotations

import gzip
import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from dumpconv.convert.convert import ConvertOptions, convert
from dumpconv.formats import open_dump
from dumpconv.formats import s390_layout as layout
from dumpconv.formats.errors import CorruptDump, MissingPart, UnsupportedDump, UsageError
from dumpconv.formats.notes import Note
from dumpconv.formats.pages import PageState
from dumpconv.formats.reader import DumpReader, Options
from support import build_s390, corpus_s390, patterns, product
from support.build_flat import flatten, split_plain
from support.build_s390 import PAGE, Cpu, S390Spec, Segment, build, build_volumes, store_status, unused_volume

MIB = 1 << 20


def opened(path: Path, data: bytes, **more: Any) -> DumpReader:
    path.write_bytes(data)
    return product.open_product(path, **more)


def codes(reader: DumpReader) -> set[str]:
    return {finding.code for finding in reader.findings}


def by_type(notes: Sequence[Note], note_type: int) -> list[bytes]:
    return [note.desc() for note in notes if note.type == note_type and note.name in (b"CORE", b"LINUX")]


# -- layouts -------------------------------------------------------------------------------------------------------

# The start of a dump as zgetdump 2.16 wrote it of a machine with two CPUs and 256 MiB (version 5, one lowcore).
ZGETDUMP_HEADER = bytes.fromhex(
    "a819017361 8f23fd 00000005 00001000 00000004 00001000 0000000010000000"
    "0000000000000000 0000000010000000 00010000 00000000 0000000000000000"
    "0000000000000000 00000002 00000000 00000000 0000000000000000 00 0002 0000 00 00000000"
)


def test_header_as_zgetdump_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    head = ZGETDUMP_HEADER.ljust(0x800, b"\0") + struct.pack(">II", 0x0199C000, 0x0199E000)
    path.write_bytes(head.ljust(PAGE, b"\0") + bytes(256 * MIB // 64))
    from dumpconv.formats.source import FileSource

    header = layout.read_dump_header(FileSource(str(path)))
    assert (header.version, header.mem_size, header.num_pages, header.arch) == (5, 256 * MIB, 65536, 2)
    assert (header.cpu_cnt, header.real_cpu_cnt, header.prefixes) == (2, 0, (0x0199C000, 0x0199E000))
    assert not header.extended
    assert not header.mvdump


def test_sizes_are_the_sheets() -> None:
    assert layout.dump_header().sizeof() == 0x210
    assert layout.segment_header().sizeof() == 0x34
    assert layout.end_marker().sizeof() == 16
    assert 0x34 + 4 * layout.MAX_ENTRIES == PAGE


def test_tod_is_microseconds_of_unix() -> None:
    assert layout.tod_to_unix(0) == 0
    tod_1970 = 0x7D91048BCA000000  # the well-known constant of s390 kernels (TOD_UNIX_EPOCH)
    assert layout.tod_to_unix(tod_1970 + (1_700_000_000_123_456 << 12)) == 1_700_000_000_123_456


# -- registers -----------------------------------------------------------------------------------------------------


def test_registers_of_64_bits(tmp_path: Path) -> None:
    area = 0x7000
    vectors = b"".join(bytes([0x10 + index]) * 8 + bytes([0x80 + index]) * 8 for index in range(32))
    lowcore = store_status(corpus_s390.PREFIX, Cpu(vector_area=area))
    pages = {4: lowcore[:PAGE], 5: lowcore[PAGE:], 7: vectors.ljust(PAGE, b"\xff")}
    reader = opened(tmp_path / "dump", build(corpus_s390.base(pages=pages)))
    notes = reader.notes
    assert [note.type for note in notes] == [1, 2, 0x301, 0x302, 0x303, 0x304, 0x305, 0x309, 0x30A]
    assert [note.name for note in notes] == [b"CORE"] * 2 + [b"LINUX"] * 7
    prstatus = by_type(notes, 1)[0]
    assert len(prstatus) == 336
    assert prstatus[32:36] == bytes.fromhex("00000001")  # pr_pid
    assert prstatus[112:128] == bytes.fromhex("0704c00180000000 1122334455667788")  # PSW
    assert prstatus[128:144] == bytes.fromhex("0000000000000100 0000000000000101")  # GPR 0, 1
    assert prstatus[248:264] == bytes.fromhex("000000000000010f 00000200 00000201")  # GPR 15, AR 0, 1
    assert prstatus[316:] == bytes.fromhex("0000020f 0000000000000000 00000000 00000000")  # AR 15, orig_gpr2, fpvalid
    assert by_type(notes, 2)[0][:24] == bytes.fromhex("00880000 00000000 0000000000000400 0000000000000401")
    assert by_type(notes, 0x301) == [bytes.fromhex("7fffffff12345678")]
    assert by_type(notes, 0x302) == [bytes.fromhex("00d1a2b3c4d5e6f7")]  # the zero byte of store-status stays
    assert by_type(notes, 0x303) == [bytes.fromhex("00000017")]
    assert by_type(notes, 0x304)[0][-16:] == bytes.fromhex("000000000000030e 000000000000030f")
    assert by_type(notes, 0x305) == [bytes.fromhex("00004000")]
    assert by_type(notes, 0x309) == [b"".join(bytes([0x80 + index]) * 8 for index in range(16))]
    assert by_type(notes, 0x30A) == [vectors[256:]]


@pytest.mark.parametrize("area", [0, 0x700B, 0x7200, 0x100000, (1 << 64) - 1024])
def test_vectors_are_taken_only_where_the_tool_saves_them(tmp_path: Path, area: int) -> None:
    lowcore = store_status(corpus_s390.PREFIX, Cpu(vector_area=area))
    pages = {4: lowcore[:PAGE], 5: lowcore[PAGE:], 7: b"\xff" * PAGE}
    reader = opened(tmp_path / "dump", build(corpus_s390.base(pages=pages)))
    assert [note.type for note in reader.notes] == [1, 2, 0x301, 0x302, 0x303, 0x304, 0x305]


def test_registers_of_31_bits(tmp_path: Path) -> None:
    reader = opened(tmp_path / "dump", build(corpus_s390.base(1)))
    machine = reader.machine
    assert (machine.arch, machine.byteorder, machine.word_size, machine.e_machine) == ("s390", "big", 4, 22)
    assert [note.type for note in reader.notes] == [1, 2, 0x301, 0x302, 0x304, 0x305]
    prstatus = by_type(reader.notes, 1)[0]
    assert len(prstatus) == 224
    assert prstatus[24:28] == bytes.fromhex("00000001")  # pr_pid
    assert prstatus[72:88] == bytes.fromhex("070c0000 80012345 00000100 00000101")  # PSW, GPR 0, 1
    assert prstatus[140:152] == bytes.fromhex("0000010f 00000200 00000201")  # GPR 15, AR 0, 1
    assert prstatus[204:] == bytes.fromhex("0000020f") + bytes(16)
    fpregs = by_type(reader.notes, 2)[0]
    assert len(fpregs) == 136
    assert fpregs[8:48] == bytes.fromhex(  # FPR 0, 2, 4; the odd ones are not saved
        "0000000000000400 0000000000000000 0000000000000401 0000000000000000 0000000000000402"
    )
    assert len(by_type(reader.notes, 0x304)[0]) == 64
    assert by_type(reader.notes, 0x305) == [bytes.fromhex("00004000")]


def test_31_bits_become_elf32(tmp_path: Path) -> None:
    reader, out = opened(tmp_path / "dump", build(corpus_s390.base(1))), tmp_path / "out"
    convert(reader, str(out), ConvertOptions(sync=False))
    assert out.read_bytes()[:20] == bytes.fromhex("7f454c46 01 02 01 00 0000000000000000 0004 0016")


def test_cpus_come_in_the_order_of_the_header(tmp_path: Path) -> None:
    prefixes = (0x8000, 0x4000, 0, 0x6000)
    pages: dict[int, bytes] = {}
    for index, prefix in enumerate(prefixes):
        if prefix:
            lowcore = store_status(prefix, Cpu(psw=(1, index)))
            pages |= {prefix // PAGE: lowcore[:PAGE], prefix // PAGE + 1: lowcore[PAGE:]}
    reader = opened(tmp_path / "dump", build(S390Spec(pages=pages, prefixes=prefixes)))
    found = by_type(reader.notes, 1)
    assert [struct.unpack_from(">I", note, 32)[0] for note in found] == [1, 2, 3]
    assert [struct.unpack_from(">Q", note, 120)[0] for note in found] == [0, 1, 3]
    assert "cpu-lost" not in codes(reader)


def test_a_cpu_whose_lowcore_is_missing_is_told(tmp_path: Path) -> None:
    reader = opened(tmp_path / "dump", build(corpus_s390.base(prefixes=(0xB000, corpus_s390.PREFIX, 0x20000))))
    assert len(by_type(reader.notes, 1)) == 1
    assert "cpu-lost" in codes(reader)


def test_old_dumps_have_no_registers(tmp_path: Path) -> None:
    reader = opened(tmp_path / "dump", build(corpus_s390.base(version=4)))
    assert reader.notes == []
    assert "no-registers" in codes(reader)


# -- what Linux leaves in the storage ------------------------------------------------------------------------------

TEXT = b"OSRELEASE=6.1.0-test\nPAGESIZE=4096\n"


def cksm(data: bytes) -> int:
    total = sum(struct.unpack(f">{-(-len(data) // 4)}I", data + bytes(-len(data) % 4)))
    while total > 0xFFFFFFFF:
        total = (total & 0xFFFFFFFF) + (total >> 32)
    return total


def os_info(address: int, size: int, checksum: int, page_checksum: int | None = None) -> bytes:
    page = struct.pack(">HHQQ", 1, 1, 0x10000000, 0x8000000) + struct.pack(">QQI", address, size, checksum)
    page = page.ljust(PAGE - 12, b"\0")
    return b"OSINFOSZ" + struct.pack(">I", cksm(page) if page_checksum is None else page_checksum) + page


def storage(**pieces: bytes) -> dict[int, bytes]:
    """Pages 0 to 3 with pieces at the addresses that their names give (x18 is 0x18)."""
    data = bytearray(4 * PAGE)
    for name, piece in pieces.items():
        at = int(name[1:], 16)
        data[at : at + len(piece)] = piece
    return {pfn: bytes(data[pfn * PAGE :][:PAGE]) for pfn in range(4)}


def note_at_0xe0c(**more: Any) -> dict[int, bytes]:
    note = struct.pack(">III", 11, len(TEXT), 0) + b"VMCOREINFO\0\0" + TEXT
    return storage(**({"xe0c": struct.pack(">Q", 0x2010), "x2010": note} | more))


VMCOREINFO: Mapping[str, tuple[dict[int, bytes], bytes | None]] = {
    "note": (note_at_0xe0c(), TEXT),
    "os_info": (
        storage(xe18=struct.pack(">Q", 0x1000), x1000=os_info(0x2100, len(TEXT), cksm(TEXT)), x2100=TEXT), TEXT,
    ),
    "os_info first": (
        note_at_0xe0c(xe18=struct.pack(">Q", 0x1000), x1000=os_info(0x2100, 5, cksm(b"HALLO")), x2100=b"HALLO"),
        b"HALLO",
    ),
    "os_info checksum": (
        note_at_0xe0c(xe18=struct.pack(">Q", 0x1000), x1000=os_info(0x2100, 5, 1, 7), x2100=b"HALLO"), TEXT,
    ),
    "text checksum": (
        note_at_0xe0c(xe18=struct.pack(">Q", 0x1000), x1000=os_info(0x2100, 5, 7), x2100=b"HALLO"), TEXT,
    ),
    "kaslr offset, not a pointer": (note_at_0xe0c(xe0c=struct.pack(">Q", 0x2011)), None),
    "pointer outside": (note_at_0xe0c(xe0c=struct.pack(">Q", (1 << 64) - 8)), None),
    "os_info outside": (storage(xe18=struct.pack(">Q", 1 << 63)), None),
    "no note": (note_at_0xe0c(x2010=bytes(24)), None),
    "size huge": (note_at_0xe0c(x2010=struct.pack(">III", 11, 0xFFFFFFFF, 0)), None),
    "nothing": ({}, None),
}  # fmt: skip


@pytest.mark.parametrize("name", VMCOREINFO)
def test_vmcoreinfo(tmp_path: Path, name: str) -> None:
    pages, text = VMCOREINFO[name]
    reader = opened(tmp_path / "dump", build(S390Spec(pages=pages)))
    found = [note.desc() for note in reader.notes if note.name == b"VMCOREINFO"]
    assert found == ([] if text is None else [text])


def test_vmcoreinfo_of_31_bits(tmp_path: Path) -> None:
    pages = note_at_0xe0c(xe0c=bytes(8), xe08=struct.pack(">I", 0x2010))
    reader = opened(tmp_path / "dump", build(S390Spec(pages=pages, arch=1)))
    assert [note.desc() for note in reader.notes] == [TEXT]


def test_a_live_dump_is_told(tmp_path: Path) -> None:
    reader = opened(tmp_path / "dump", build(S390Spec(pages={0: b"LIVEDUMP".ljust(PAGE, b"\0")})))
    assert "live" in codes(reader)


@pytest.mark.parametrize(
    ("base", "size", "told"), [(MIB, MIB, True), (0, MIB, False), (MIB, 0, False), (4096, MIB, False)]
)
def test_a_crash_kernel_at_work_is_told_and_nothing_swapped(tmp_path: Path, base: int, size: int, told: bool) -> None:
    pages = {0: patterns.page(0), 16: bytes(0x418) + struct.pack(">QQ", base, size) + bytes(PAGE - 0x428)}
    reader = opened(tmp_path / "dump", build(S390Spec(nr_pages=20, pages=pages)))
    assert ("kdump-inside" in codes(reader)) == told
    assert product.view(reader).pages[0] == patterns.page(0)


# -- zeros ---------------------------------------------------------------------------------------------------------


def test_plain_and_extended_hold_the_same_memory(tmp_path: Path) -> None:
    plain = product.view(opened(tmp_path / "plain", build(corpus_s390.base())))
    other = opened(tmp_path / "extended", build(corpus_s390.extended()))
    seen = product.view(other)
    assert seen.digest == plain.digest
    assert seen.pages == plain.pages
    assert other.memory_map == plain.reader.memory_map
    assert "zero-storage" in codes(other)
    assert [f.message.split()[0] for f in other.findings if f.code == "zero-storage"] == ["4"]  # pages 6, 7, 10, 11


def test_gigabytes_of_zeros_cost_nothing(tmp_path: Path) -> None:
    size = 1 << 36
    header = {"mem_size": size, "num_pages": size // PAGE, "mem_size_real": size}
    begin = time.monotonic()
    reader = opened(tmp_path / "dump", build(corpus_s390.extended(header=header)))
    assert reader.memory_map.count(PageState.STORED) == size // PAGE
    assert len(reader.extents(1 << 20, 1 << 21)) == 1
    assert time.monotonic() - begin < 1


def test_a_size_limit_is_no_truncation(tmp_path: Path) -> None:
    reader = opened(tmp_path / "dump", build(corpus_s390.base(header={"mem_size_real": 16 * PAGE})))
    assert reader.damage is None
    assert list(reader.memory_map) == [(0, 12, PageState.STORED), (12, 16, PageState.EXCLUDED)]
    assert "size-limit" in codes(reader)


# -- hostile sizes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [PAGE << 20, 1 << 44, 1 << 52])
def test_mem_size_beyond_the_file_is_told_at_once(tmp_path: Path, size: int) -> None:
    header = {"mem_size": size, "num_pages": size // PAGE % (1 << 32), "mem_size_real": size}
    begin = time.monotonic()
    reader = opened(tmp_path / "dump", build(corpus_s390.base(header=header)))
    assert "the file has 53264 bytes" in str(reader.damage)
    assert reader.memory_map.count(PageState.LOST) == size // PAGE - 12
    assert time.monotonic() - begin < 1


def test_header_contradictions_name_both_values(tmp_path: Path) -> None:
    with pytest.raises(CorruptDump, match=r"mem_size 0xc000 is 12 pages, num_pages 99 .*0x30.*--salvage"):
        opened(tmp_path / "dump", build(corpus_s390.base(header={"num_pages": 99})))
    with pytest.raises(CorruptDump, match="hdr_size 8192, always 4096"):
        opened(tmp_path / "dump", build(corpus_s390.base(header={"hdr_size": 8192})))


@pytest.mark.parametrize("header", [{"mem_size": 40 * PAGE}, {"num_pages": 40}, {"mem_size_real": 3 * PAGE}])
def test_salvage_goes_by_the_end_marker(tmp_path: Path, header: dict[str, int]) -> None:
    reader = opened(tmp_path / "dump", build(corpus_s390.base(header=header)), salvage=True)
    assert next(iter(reader.memory_map)) == (0, 12, PageState.STORED)
    assert reader.damage is not None
    assert product.view(reader).pages == corpus_s390.base().all_pages


def test_segments_do_not_loop(tmp_path: Path) -> None:
    empty = [Segment(0, 2), *(Segment(2, 2) for _ in range(200)), Segment(2, 4)]
    reader = opened(tmp_path / "dump", build(corpus_s390.extended(segments=empty)))
    assert "segment 1: it is empty and not the last" in str(reader.damage)


@pytest.mark.parametrize("block_size", [512, 1024, 2048, 4096])
def test_block_size_is_found(tmp_path: Path, block_size: int) -> None:
    spec = corpus_s390.extended(block_size=block_size)
    reader = opened(tmp_path / "dump", build(spec))
    assert reader.facts["block_size"] == block_size
    assert product.view(reader).pages == spec.all_pages


@pytest.mark.parametrize("stop", [0, 1], ids=["another segment", "the last one"])
def test_memory_that_looks_like_a_segment_does_not_mislead(stop: int, tmp_path: Path) -> None:
    # 16 blocks of 512 bytes from file offset 20480 on: blocks of 4096 would lead to 86016, which is frame 17
    fake = struct.pack(">QQQI", 30 * 4096, 4096, stop, 0).ljust(4096, b"\0")
    segments = (Segment(0, 2), Segment(2, 4, packed=True, as_is=(0,)), Segment(4, 64))
    spec = corpus_s390.extended(nr_pages=64, pages={17: fake, 40: patterns.page(40)}, segments=segments, block_size=512)
    data = build(spec)
    assert data[86016 : 86016 + 4096] == fake
    reader = opened(tmp_path / "dump", data)
    assert reader.facts["block_size"] == 512
    assert reader.damage is None
    assert product.view(reader).pages == spec.all_pages


# -- sets ----------------------------------------------------------------------------------------------------------

SEGMENTS = [Segment(0, 256), Segment(256, 512), Segment(1024, 1280), Segment(1280, 1536)]


def volume_spec() -> S390Spec:
    return S390Spec(nr_pages=2048, pages={pfn: patterns.page(pfn) for pfn in (0, 255, 256, 511, 1024, 1300, 1535)},
                    segments=SEGMENTS)  # fmt: skip


@pytest.fixture
def volumes(tmp_path: Path) -> list[Path]:
    """Three partitions of 4 MiB with two segments, one and one; the rest of each is something old."""
    paths = []
    for number, data in enumerate(build_volumes(volume_spec(), [2, 1, 1], partition=None)):
        path = tmp_path / f"volume{2 - number}"
        path.write_bytes(data + b"\xa5" * (MIB + PAGE if number < 2 else 777))
        paths.append(path)
    (tmp_path / "other").write_bytes(build(corpus_s390.base()))
    return paths


def pages_of(reader: DumpReader) -> dict[int, bytes]:
    return product.view(reader).pages


@pytest.mark.parametrize("given", [0, 1, 2])
def test_volumes_are_found_by_any_one(volumes: list[Path], given: int) -> None:
    reader = open_dump([str(volumes[given])], Options())
    assert reader.damage is None
    assert [source.name.rsplit("/", 1)[-1] for source in reader.sources] == ["volume2", "volume1", "volume0"]
    assert pages_of(reader) == volume_spec().all_pages
    assert reader.facts["volumes"] == 3


def test_a_neighbour_that_cannot_be_does_not_spoil_the_set(volumes: list[Path], tmp_path: Path) -> None:
    data = bytearray(build(corpus_s390.base()))
    data[8:12], data[0x5D:0x5F] = struct.pack(">I", 5), b"\xff\xff"  # version 5 and cpu_cnt
    (tmp_path / "a-neighbour").write_bytes(data)
    assert pages_of(open_dump([str(volumes[0])], Options())) == volume_spec().all_pages


def test_volumes_in_any_order_with_one_unused(volumes: list[Path], tmp_path: Path) -> None:
    unused = tmp_path / "unused"
    unused.write_bytes(unused_volume())
    reader = product.open_product(volumes[1], unused, volumes[2], volumes[0])
    assert reader.damage is None
    assert pages_of(reader) == volume_spec().all_pages
    with pytest.raises(MissingPart, match="prepared for a multi-volume dump that holds none"):
        product.open_product(unused)


def test_a_missing_volume_in_the_middle_is_lost_not_zero(volumes: list[Path]) -> None:
    reader = product.open_product(volumes[0], volumes[2], salvage=True)
    assert isinstance(reader.damage, MissingPart)
    assert "volume 1 is missing, with the storage from 0x200000 on; found are 0, 2" in str(reader.damage)
    assert list(reader.memory_map) == [
        (0, 512, PageState.STORED), (512, 1280, PageState.LOST), (1280, 2048, PageState.STORED),
    ]  # fmt: skip


def test_a_missing_last_volume_is_lost(volumes: list[Path]) -> None:
    reader = product.open_product(volumes[0], volumes[1], salvage=True)
    assert isinstance(reader.damage, MissingPart)
    assert list(reader.memory_map) == [(0, 1280, PageState.STORED), (1280, 2048, PageState.LOST)]


def test_a_missing_first_volume_is_lost(volumes: list[Path]) -> None:
    reader = product.open_product(volumes[1], volumes[2], salvage=True)
    assert isinstance(reader.damage, MissingPart)
    assert list(reader.memory_map) == [(0, 1024, PageState.LOST), (1024, 2048, PageState.STORED)]


def test_old_volumes_are_one_stream(tmp_path: Path) -> None:
    spec = corpus_s390.base()
    paths = []
    for number, data in enumerate(build_volumes(spec, [5, 4, 3])):
        path = tmp_path / str(number)
        path.write_bytes(data)
        paths.append(path)
    assert pages_of(product.open_product(*paths[::-1])) == spec.all_pages
    reader = product.open_product(*paths[:2], salvage=True)
    assert list(reader.memory_map) == [(0, 9, PageState.STORED), (9, 12, PageState.LOST)]
    assert isinstance(reader.damage, MissingPart)
    reader = product.open_product(paths[0], paths[2], salvage=True)
    assert list(reader.memory_map) == [(0, 5, PageState.STORED), (5, 12, PageState.LOST)]


def test_volumes_of_two_dumps_are_no_set(volumes: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "of another dump"
    other.write_bytes(build_volumes(S390Spec(nr_pages=2048, segments=SEGMENTS, tod=build_s390.TOD + 1), [2, 1, 1])[1])
    with pytest.raises(UsageError, match="are not volumes of one dump"):
        product.open_product(volumes[0], other)
    with pytest.raises(UsageError, match="both volume 0"):
        product.open_product(volumes[0], volumes[0])
    with pytest.raises(UsageError, match="are not volumes of one dump"):
        product.open_product(tmp_path / "other", volumes[0])


def test_a_compressed_segment_on_a_volume_is_damage(tmp_path: Path) -> None:
    spec = corpus_s390.extended()
    paths = []
    for number, data in enumerate(build_volumes(spec, [1, 2])):
        path = tmp_path / str(number)
        path.write_bytes(data + b"\xa5" * (MIB + PAGE))
        paths.append(path)
    path = paths[1]
    reader = product.open_product(*paths, salvage=True)
    assert isinstance(reader.damage, CorruptDump)
    assert "compressed" in str(reader.damage)


# -- streams, refusals ---------------------------------------------------------------------------------------------


# A stream is closed when it is collected: the process ends with its dump.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("spec", [corpus_s390.base(), corpus_s390.extended()], ids=["plain", "extended"])
def test_a_compressed_file_is_a_stream(tmp_path: Path, spec: S390Spec) -> None:
    whole = product.view(opened(tmp_path / "dump", build(spec)))
    packed = opened(tmp_path / "dump.gz", gzip.compress(build(spec)))
    assert product.view(packed).pages == spec.all_pages
    assert [note.desc() for note in packed.notes] == [note.desc() for note in whole.reader.notes]
    convert(packed, str(tmp_path / "out"), ConvertOptions(sync=False))
    assert product.view(product.open_product(tmp_path / "out")).digest == whole.digest


@pytest.mark.parametrize("packed", [False, True])
def test_a_gap_in_a_cut_stream_is_lost_not_zero(tmp_path: Path, packed: bool) -> None:
    pages = {pfn: patterns.page(pfn, kind="random") for pfn in range(10)}
    spec = corpus_s390.extended(pages=pages, prefixes=(), segments=[Segment(0, 2), Segment(2, 10, packed=packed)])
    data = build(spec)
    gap = data.index(pages[6]) if not packed else 3 * PAGE + 2 * PAGE + 5 * PAGE  # in the entry of frames 6 and 7
    records = [each for each in split_plain(data, 512) if not gap <= each.offset < gap + 1024]
    reader = opened(tmp_path / "dump.flat", flatten(records, end=b""), salvage=True)
    seen = product.view(reader)
    assert reader.damage is not None
    lost = {6} if not packed else seen.lost
    assert seen.lost == lost
    assert lost
    assert len(lost) <= 2
    assert seen.pages == {pfn: page for pfn, page in spec.all_pages.items() if pfn not in lost}


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"zfcpdump busy".ljust(PAGE, b"\0"), "zfcpdump was at work"),
        (b"ZFCPDUMP".ljust(PAGE, b"\0"), "superblock of a SCSI dump disk"),
        (bytes(0x3000) + b"XMULT64\2".ljust(PAGE, b"\0"), "whole disk with the dump tool XMULT64 at 0x3000"),
        (bytes(0x600) + b"ZDFBA31\5".ljust(PAGE, b"\0"), "whole disk with the dump tool ZDFBA31 at 0x600"),
    ],
)
def test_what_is_no_dump_is_explained(tmp_path: Path, data: bytes, text: str) -> None:
    with pytest.raises(UnsupportedDump, match=text):
        opened(tmp_path / "dump", data)


def test_a_forced_format_is_checked(tmp_path: Path) -> None:
    with pytest.raises(CorruptDump, match="no magic of an s390 dump"):
        opened(tmp_path / "dump", bytes(PAGE), format="s390")


def test_protected_guests_are_refused(tmp_path: Path) -> None:
    note = struct.pack(">III", 6, 1568, 0x30E) + b"LINUX\0\0\0" + bytes(1568)
    head = b"\x7fELF\2\2\1".ljust(16, b"\0") + struct.pack(">HHIQQQIHHHHHH", 4, 22, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    phdrs = struct.pack(">IIQQQQQQ", 4, 0, 0xB0, 0, 0, len(note), 0, 0)
    phdrs += struct.pack(">IIQQQQQQ", 1, 7, 0x1000, 0, 0, PAGE, PAGE, 0)
    with pytest.raises(UnsupportedDump, match="protected guest"):
        opened(tmp_path / "dump", (head + phdrs + note).ljust(0x1000, b"\0") + bytes(PAGE))


def test_the_tape_is_told_from_segments(tmp_path: Path) -> None:
    assert opened(tmp_path / "tape", build(corpus_s390.base(tape=True))).facts["form"] == "tape"
    assert opened(tmp_path / "extended", build(corpus_s390.extended())).facts["form"] == "extended"


def test_blocks_are_no_file_of_their_own(tmp_path: Path) -> None:
    reader = opened(tmp_path / "dump", build(corpus_s390.extended()))
    assert len(reader.sources) == 2
    assert [(source.name, source.size) for source in reader.files] == [
        (str(tmp_path / "dump"), len(build(corpus_s390.extended())))
    ]
