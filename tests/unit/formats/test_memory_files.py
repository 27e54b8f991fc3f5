# SPDX-License-Identifier: GPL-2.0-or-later
"""LiME, AVML and raw memory: headers byte by byte, broken chains salvaged, what the user must say."""

from __future__ import annotations

import subprocess
import sys
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from dumpconv.formats.errors import CorruptDump, TruncatedDump, UnsupportedDump, UsageError
from dumpconv.formats.lime import range_header
from dumpconv.formats.outer import HEAD_SIZE, outer_kind
from dumpconv.formats.raw import RawReader
from dumpconv.formats.reader import DumpReader, Ints, Options
from dumpconv.formats.snappyframes import snappy_chunk
from support import build_lime, patterns, product
from support.build_lime import IDENTIFIER, Range, build, data_chunk


def memory(start_pfn: int, end_pfn: int) -> bytes:
    return b"".join(patterns.page(pfn) for pfn in range(start_pfn, end_pfn))


LOW, HIGH, TOP = Range(0x1000, memory(1, 4)), Range(0x100000, memory(256, 260)), Range(0x200000, memory(512, 514))
PAGES = patterns.pages(1, 4) | patterns.pages(256, 260)


def opened(folder: Path, data: bytes, *, salvage: bool = False, **more: object) -> DumpReader:
    path = folder / "dump"
    path.write_bytes(data)
    return product.open_product(path, salvage=salvage, **more)


# -- headers -------------------------------------------------------------------------------------------------------

LITTLE = bytes.fromhex("454d694c 01000000 0010000000000000 fffb090000000000 0000000000000000")
BIG = bytes.fromhex("4c694d45 00000001 0000000000001000 000000000009fbff 0000000000000000")


@pytest.mark.parametrize(("order", "raw"), [("little", LITTLE), ("big", BIG)])
def test_the_header_is_what_lime_writes(order: str, raw: bytes) -> None:
    schema = range_header(Ints(order, 8))  # type: ignore[arg-type]
    assert schema.sizeof() == 32
    header = schema.parse(raw)
    assert (header.magic, header.version, header.s_addr, header.e_addr, header.reserved) == (
        0x4C694D45, 1, 0x1000, 0x9FBFF, 0,
    )  # fmt: skip
    assert build_lime.header(Range(0x1000, size=0x9EC00), avml=False, order="<" if order == "little" else ">") == raw


def test_bytes_of_a_big_endian_file(tmp_path: Path) -> None:
    raw = bytes.fromhex("4c694d45 00000001 0000000000001000 0000000000001fff 0000000000000000") + patterns.page(1)
    reader = opened(tmp_path, raw, machine="s390x")
    assert reader.machine.byteorder == "big"
    assert product.view(reader).pages == patterns.pages(1, 2)


def test_a_file_that_is_no_pc_needs_its_machine(tmp_path: Path) -> None:
    arm = build([Range(0x80000000, memory(1, 4))])
    with pytest.raises(UsageError, match=r"lime does not say of which machine it is; --machine ARCH"):
        opened(tmp_path, arm)
    reader = opened(tmp_path, arm, machine="aarch64")
    assert (reader.machine.arch, [finding.code for finding in reader.findings]) == ("aarch64", ["page-size-assumed"])


def test_what_is_assumed_is_told(tmp_path: Path) -> None:
    reader = opened(tmp_path, build([LOW, HIGH]))
    assert reader.machine.arch == "x86_64"
    assert "machine" in [finding.code for finding in reader.findings]
    assert "machine" not in [finding.code for finding in opened(tmp_path, build([LOW, HIGH]), machine="i386").findings]


def test_zero_blocks_are_told_of_every_avml_file(tmp_path: Path) -> None:
    codes = [finding.code for finding in opened(tmp_path, build([LOW, HIGH], avml=True)).findings]
    assert "zero-blocks" in codes


# -- broken chains ---------------------------------------------------------------------------------------------------


def test_a_spoilt_header_loses_its_range_alone(tmp_path: Path) -> None:
    broken = Range(HIGH.start, HIGH.data, fields={"magic": 0})
    reader = opened(tmp_path, build([LOW, broken, TOP]), salvage=True)
    assert isinstance(reader.damage, CorruptDump)
    assert "header is expected, and there is 00 00 00 00" in str(reader.damage)
    assert product.view(reader).pages == patterns.pages(1, 4) | patterns.pages(512, 514)
    told = {finding.code: finding.message for finding in reader.findings}
    assert told["skipped"].startswith(f"{32 + 4 * 4096} bytes")


def test_a_header_that_comes_early_cuts_the_range_before_it(tmp_path: Path) -> None:
    data = build([LOW, Range(HIGH.start, HIGH.data[: 2 * 4096 + 100], size=4 * 4096), TOP])
    # so that the lost bytes lead neither to a header nor to the end of the file
    reader = opened(tmp_path, data + build([Range(0x300000, memory(768, 800))]), salvage=True)
    seen = product.view(reader)
    expected = patterns.pages(1, 4) | patterns.pages(256, 258) | patterns.pages(512, 514) | patterns.pages(768, 800)
    assert seen.pages == expected
    assert seen.lost == {258, 259}
    assert isinstance(reader.damage, CorruptDump)


def test_an_early_header_in_a_range_that_reaches_past_the_end(tmp_path: Path) -> None:
    data = build([LOW, Range(HIGH.start, HIGH.data[:4096], size=64 * 4096), TOP])
    seen = product.view(opened(tmp_path, data, salvage=True))
    assert seen.pages == patterns.pages(1, 4) | patterns.pages(256, 257) | patterns.pages(512, 514)
    assert seen.lost == set(range(257, 320))
    with pytest.raises(TruncatedDump, match="range from 0x100000 has 262144 bytes, the file has"):
        raise opened(tmp_path, data).damage  # type: ignore[misc]


def test_the_block_after_a_spoilt_stream_is_found(tmp_path: Path) -> None:
    bad = Range(HIGH.start, HIGH.data, body=IDENTIFIER + build_lime.chunk(0x42, b"x") + data_chunk(HIGH.data))
    reader = opened(tmp_path, build([LOW, bad, TOP], avml=True), salvage=True)
    seen = product.view(reader)
    assert seen.pages == patterns.pages(1, 4) | patterns.pages(512, 514)
    assert seen.damaged == {256, 257, 258, 259}
    assert "reserved type 0x42" in str(reader.damage)


def test_a_wrong_length_behind_a_stream_loses_nothing(tmp_path: Path) -> None:
    wrong = Range(HIGH.start, HIGH.data, trailer=bytes(8))
    reader = opened(tmp_path, build([LOW, wrong, TOP], avml=True), salvage=True)
    assert "the length behind it says 0" in str(reader.damage)
    assert product.view(reader).pages == PAGES | patterns.pages(512, 514)


@pytest.mark.parametrize("size", [1 << 40, 1 << 60])
def test_claims_cost_nothing(tmp_path: Path, size: int) -> None:
    begin = time.process_time()
    for avml in (False, True):
        reader = opened(tmp_path, build([LOW, Range(0x100000, HIGH.data, size=size)], avml=avml), salvage=True)
        assert isinstance(reader.damage, CorruptDump)
    assert time.process_time() - begin < 1


# -- Snappy ----------------------------------------------------------------------------------------------------------


def test_the_checksum_is_that_of_the_standard() -> None:
    # RFC 3720, appendix B.4
    assert build_lime.crc32c(bytes(32)) == 0x8A9136AA
    assert build_lime.crc32c(b"\xff" * 32) == 0x62A8AB43
    assert build_lime.crc32c(bytes(range(32))) == 0x46DD794E


@pytest.mark.parametrize("compress", [True, False])
def test_a_chunk_is_proved_by_its_checksum(compress: bool) -> None:
    page = patterns.page(7)
    good = data_chunk(page, compress=compress)
    assert snappy_chunk(good, 4096) == page
    bad = good[:5] + bytes([good[5] ^ 1]) + good[6:]
    for stored, size in ((bad, 4096), (good, 4095), (good, 4097), (good[:-1], 4096), (b"\x42" + good[1:], 4096)):
        with pytest.raises(ValueError, match=r"."):
            snappy_chunk(stored, size)


# -- zlib around it all ------------------------------------------------------------------------------------------------


def packed(data: bytes, window: int) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, window)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize("window", [9, 11, 15])
def test_a_bare_zlib_stream_is_told_by_inflating(window: int) -> None:
    assert outer_kind(packed(build([LOW, HIGH]), window)[:HEAD_SIZE]) == "zlib"


@pytest.mark.parametrize("head", [b"\x78\x9c" + b"\xff" * 900, b"\x38\x8d", b"\x78\x9c", b"x\x01 text", b"", b"\x08"])
def test_two_bytes_are_no_zlib_stream(head: bytes) -> None:
    assert outer_kind(head) is None


def test_a_cut_zlib_stream_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TruncatedDump, match="zlib data ends early"):
        opened(tmp_path, packed(build([LOW, HIGH]), 11)[:-10])


# -- raw memory ------------------------------------------------------------------------------------------------------


def interpreted(*paths: str) -> tuple[list[str], Sequence[int]]:
    names, options = RawReader.interpret(paths, Options(format="raw"))
    return names, options.bases


def test_pieces_are_named_as_crash_names_them(tmp_path: Path) -> None:
    assert interpreted("a@1000") == (["a"], (0x1000,))
    assert interpreted("a@0,b@0x80000000") == (["a", "b"], (0, 0x80000000))
    assert interpreted("a@0", "dir@b/c@ffff") == (["a", "dir@b/c"], (0, 0xFFFF))
    assert interpreted("plain,name") == (["plain,name"], ())
    really = tmp_path / "a@10,b@20"
    really.touch()
    assert interpreted(str(really)) == ([str(really)], ())


@pytest.mark.parametrize("word", ["a@", "a@xyz", "@1000", "a@-1", "a@10000000000000000"])
def test_words_that_name_no_piece(word: str) -> None:
    with pytest.raises(UsageError, match="FILE@HEXADDR expected"):
        interpreted(word)


def test_each_piece_needs_an_address() -> None:
    with pytest.raises(UsageError, match="b: no address"):
        interpreted("a@0", "b")


def raw(folder: Path, sizes: Sequence[int], **more: object) -> DumpReader:
    paths = [folder / str(number) for number in range(len(sizes))]
    for path, size in zip(paths, sizes, strict=True):
        path.write_bytes(bytes(size))
    return product.open_product(*paths, **({"format": "raw", "machine": "x86_64"} | more))


@pytest.mark.parametrize(
    ("sizes", "more", "message"),
    [
        ([4096, 4096], {"bases": (0, 4095)}, "pieces overlap: 0x0 has 4096 bytes, the next is at 0xfff"),
        ([4096, 4096], {}, "2 pieces of raw memory and 1 address"),
        ([4096], {"base": (1 << 64) - 1}, "4096 bytes from 0xffffffffffffffff on reach past 2\\*\\*64"),
        ([4096], {"offset": 4097}, "--offset 4097 in a file of 4096 bytes"),
        ([4096, 4096], {"bases": (0, 4096), "offset": 1}, "are for one file"),
        ([4096], {"machine": None}, "format raw does not say of which machine it is; --machine ARCH"),
    ],
)
def test_layouts_that_cannot_be(tmp_path: Path, sizes: list[int], more: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        raw(tmp_path, sizes, **more)


def test_memory_up_to_the_last_byte_there_is(tmp_path: Path) -> None:
    assert [tuple(run) for run in raw(tmp_path, [4096], base=(1 << 64) - 4096).memory_map] == [
        ((1 << 52) - 1, 1 << 52, 1)
    ]


def test_a_size_that_is_no_multiple_of_the_page_is_told(tmp_path: Path) -> None:
    reader = raw(tmp_path, [5000])
    assert [finding.code for finding in reader.findings] == ["size"]
    assert reader.partial.tolist() == [[1, 0, 904]]


@pytest.mark.parametrize(
    ("machine", "said", "order"), [("s390x", None, "big"), ("ppc64", None, "little"), ("ppc64", "big", "big")]
)
def test_byte_order_is_the_usual_one_or_what_was_said(
    tmp_path: Path, machine: str, said: str | None, order: str
) -> None:
    assert raw(tmp_path, [65536], machine=machine, byteorder=said).machine.byteorder == order


def test_raw_memory_is_never_guessed(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    path.write_bytes(memory(0, 4))
    with pytest.raises(Exception, match="no known dump format begins with"):
        product.open_product(path)


def test_mkdump_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "partition"
    path.write_bytes(memory(0, 4))
    with pytest.raises(UnsupportedDump, match=r"layout of a raw MKdump device is not documented.*mkd_conv"):
        product.open_product(path, format="mkdump")
    done = subprocess.run(
        [sys.executable, "-m", "dumpconv", "-f", "mkdump", path, tmp_path / "out"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n")) == (6, 1)
