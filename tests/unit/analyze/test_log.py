# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel log of every era from rings whose bytes are written out by hand, in both byte orders and word sizes."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from unit.analyze.fake_kernel import FakeKernel

from dumpconv.analyze.errors import MissingTable
from dumpconv.analyze.log import Record, line_record, panic_text, read_log, render
from dumpconv.formats.vmcoreinfo import VmcoreInfo

BASES = {"x86_64": 0xFFFF888000000000, "s390x": 0, "i386": 0xC0000000}


def kernel_of(arch: str) -> tuple[Any, int, str, str]:
    """Give a kernel, a place in it, the byte order and letter of a word."""
    base = BASES[arch]
    kernel = FakeKernel(arch, base, {"f": base + 0x1000})
    return kernel, base + 0x10000, ">" if arch == "s390x" else "<", "I" if arch == "i386" else "Q"


def info_of(rows: Mapping[str, int]) -> VmcoreInfo:
    """Give VMCOREINFO: symbols in hexadecimal, all else decimal, as the kernel writes it."""
    return VmcoreInfo(
        b"".join(f"{key}={value:x}\n".encode() if key.startswith("SYMBOL") else f"{key}={value}\n".encode()
                 for key, value in rows.items())
    )  # fmt: skip


# -- 5.10 and later: descriptors, infos, text -----------------------------------------------------------

REUSABLE, FINALIZED, COMMITTED, RESERVED = 3, 2, 1, 0


class Prb:
    """A printk_ringbuffer of 8 descriptors and 64 bytes of text."""

    def __init__(self, arch: str) -> None:
        self.kernel, self.at, self.mark, self.letter = kernel_of(arch)
        self.word = 4 if self.letter == "I" else 8
        self.wide = 8 * self.word
        self.descs, self.infos, self.text = self.at + 0x1000, self.at + 0x2000, self.at + 0x3000

    def words(self, *values: int) -> bytes:
        return struct.pack(f"{self.mark}{len(values)}{self.letter}", *values)

    def ring(self, tail: int, head: int) -> VmcoreInfo:
        word, ring = self.word, self.at + 0x100
        self.kernel.write(self.at, self.words(ring))
        # desc_ring: count_bits, descs, infos, head_id, tail_id; text_data_ring: size_bits, data
        self.kernel.write(ring, struct.pack(self.mark + "I", 3))
        self.kernel.write(ring + word, self.words(self.descs, self.infos, head, tail))
        self.kernel.write(ring + 6 * word, struct.pack(self.mark + "I", 6))
        self.kernel.write(ring + 7 * word, self.words(self.text))
        return info_of({
            "SYMBOL(prb)": self.at, "OFFSET(printk_ringbuffer.desc_ring)": 0,
            "OFFSET(printk_ringbuffer.text_data_ring)": 6 * word, "OFFSET(prb_desc_ring.count_bits)": 0,
            "OFFSET(prb_desc_ring.descs)": word, "OFFSET(prb_desc_ring.infos)": 2 * word,
            "OFFSET(prb_desc_ring.head_id)": 3 * word, "OFFSET(prb_desc_ring.tail_id)": 4 * word,
            "SIZE(prb_desc)": 3 * word, "OFFSET(prb_desc.state_var)": 0, "OFFSET(prb_desc.text_blk_lpos)": word,
            "OFFSET(prb_data_blk_lpos.begin)": 0, "OFFSET(prb_data_blk_lpos.next)": word,
            "SIZE(printk_info)": 88, "OFFSET(printk_info.seq)": 0, "OFFSET(printk_info.ts_nsec)": 8,
            "OFFSET(printk_info.text_len)": 16, "OFFSET(prb_data_ring.size_bits)": 0,
            "OFFSET(prb_data_ring.data)": word, "OFFSET(atomic_long_t.counter)": 0,
        })  # fmt: skip

    def record(
        self, identity: int, state: int, begin: int, following: int, text: bytes, *, sequence: int, ns: int = 0,
        level: int = 6, facility: int = 0, length: int | None = None, owner: int | None = None,
    ) -> None:  # fmt: skip
        slot = identity % 8
        owner = identity if owner is None else owner
        self.kernel.write(
            self.descs + 3 * self.word * slot, self.words(state << self.wide - 2 | owner, begin, following)
        )
        flags = level << 5 if self.mark == "<" else level
        info = struct.pack(
            self.mark + "QQHBBI", sequence, ns, len(text) if length is None else length, facility, flags, 0
        )
        self.kernel.write(self.infos + 88 * slot, info)
        if text:
            wrapped = begin // 64 != following // 64 and following % 64
            place = 0 if wrapped else begin % 64
            self.kernel.write(self.text + place, self.words(identity) + text)


@pytest.mark.parametrize("arch", ["x86_64", "s390x", "i386"])
def test_the_ring_of_descriptors(arch: str) -> None:
    prb = Prb(arch)
    word = prb.word
    prb.record(2, FINALIZED, 80, 104, b"first", sequence=10, ns=1_500_000_000, level=4, facility=3)
    prb.record(3, COMMITTED, 104, 120, b"second", sequence=11, ns=2_000_001_999)
    prb.record(4, RESERVED, 120, 128, b"", sequence=12)  # still being written
    prb.record(5, FINALIZED, 1, 1, b"", sequence=13, ns=3)  # no text
    prb.record(6, FINALIZED, 120, 144, b"wraps", sequence=14, ns=4)  # would cross the end: lies at the front
    prb.record(7, FINALIZED, 144, 168, b"", sequence=15, owner=15)  # of a later lap: torn
    records = read_log(prb.kernel.memory, prb.ring(2, 7))
    assert records == [
        Record(1_500_000_000, 4, 3, b"first", 10),
        Record(2_000_001_999, 6, 0, b"second", 11),
        Record(3, 6, 0, b"", 13),
        Record(4, 6, 0, b"wraps", 14),
    ]
    assert render(records[0]) == b"[    1.500000] first"
    assert render(records[1]) == b"[    2.000001] second"
    assert word in (4, 8)


def test_the_text_of_a_record_ends_with_its_block() -> None:
    prb = Prb("x86_64")
    prb.record(0, FINALIZED, 0, 16, b"eight by", sequence=0, length=5000)
    prb.record(1, FINALIZED, 48, 64, b"at end..", sequence=1)  # up to the ring's very end
    records = read_log(prb.kernel.memory, prb.ring(0, 1))
    assert [record.text for record in records] == [b"eight by", b"at end.."]


@pytest.mark.parametrize(("bits", "size_bits"), [(0, 6), (60, 6), (3, 0), (3, 200)])
def test_a_ring_of_senseless_size_is_refused(bits: int, size_bits: int) -> None:
    prb = Prb("x86_64")
    info = prb.ring(0, 1)
    prb.kernel.write(prb.at + 0x100, struct.pack("<I", bits))
    prb.kernel.write(prb.at + 0x100 + 48, struct.pack("<I", size_bits))
    with pytest.raises(MissingTable, match="log ring of"):
        read_log(prb.kernel.memory, info)


# -- 3.5 to 5.9: records in one ring --------------------------------------------------------------------


def records_ring(arch: str, name: str, parts: Sequence[tuple[int, bytes]], *, first: int, following: int) -> Any:
    """Lay records into a ring of 256 bytes, each (offset, bytes)."""
    kernel, at, mark, letter = kernel_of(arch)
    kernel.write(at, struct.pack(mark + letter, at + 0x100))
    kernel.write(at + 8, struct.pack(mark + "III", 256, first, following))
    kernel.write(at + 0x100, bytes(256))
    for offset, data in parts:
        kernel.write(at + 0x100 + offset, data)
    return kernel, info_of({
        "SYMBOL(log_buf)": at, "SYMBOL(log_buf_len)": at + 8, "SYMBOL(log_first_idx)": at + 12,
        "SYMBOL(log_next_idx)": at + 16, f"SIZE({name})": 16, f"OFFSET({name}.ts_nsec)": 0, f"OFFSET({name}.len)": 8,
        f"OFFSET({name}.text_len)": 10, f"OFFSET({name}.dict_len)": 12,
    })  # fmt: skip


def one(mark: str, ns: int, text: bytes, dictionary: bytes = b"", *, level: int = 6, facility: int = 0) -> bytes:
    """Give a record: ts_nsec, len, text_len, dict_len, facility, flags and level; padded to 4."""
    length = 16 + len(text) + len(dictionary) + 3 & ~3
    flags = level << 5 if mark == "<" else level
    head = struct.pack(mark + "QHHHBB", ns, length, len(text), len(dictionary), facility, flags)
    return (head + text + dictionary).ljust(length, b"\0")


@pytest.mark.parametrize("name", ["printk_log", "log"])  # 3.11 and later; before
@pytest.mark.parametrize("arch", ["x86_64", "s390x", "i386"])
def test_the_ring_of_records(arch: str, name: str) -> None:
    mark = ">" if arch == "s390x" else "<"
    front = one(mark, 9_000_000_000, b"third, at the front", level=2, facility=1)
    parts = [
        (0, front),
        (160, one(mark, 7_000_000_000, b"first", b"SUBSYSTEM=pci")),
        (196, one(mark, 8_000_000_000, b"second")),
        (220, bytes(16)),  # a length of 0: the rest is unused
    ]
    kernel, info = records_ring(arch, name, parts, first=160, following=len(front))
    assert read_log(kernel.memory, info) == [
        Record(7_000_000_000, 6, 0, b"first"),
        Record(8_000_000_000, 6, 0, b"second"),
        Record(9_000_000_000, 2, 1, b"third, at the front"),
    ]


def test_a_record_shorter_than_its_head_ends_the_log() -> None:
    kernel, info = records_ring(
        "x86_64", "printk_log", [(0, struct.pack("<QHHHBB", 1, 8, 0, 0, 0, 0))], first=0, following=64
    )
    with pytest.raises(MissingTable, match="log record of 8 bytes"):
        read_log(kernel.memory, info)
    kernel, info = records_ring("x86_64", "printk_log", [], first=4000, following=64)
    with pytest.raises(MissingTable, match="log record at"):
        read_log(kernel.memory, info)


def test_a_ring_that_never_comes_to_its_end_ends_all_the_same() -> None:
    kernel, info = records_ring("x86_64", "printk_log", [(0, one("<", 1, b"x"))], first=0, following=999)
    complaints: list[str] = []
    assert [each.text for each in read_log(kernel.memory, info, complaints)] == [b"x"]
    assert "length 0, and more is to come" in complaints[0]


def row(mark: str, count: int, *, since: int = 1_000) -> list[bytes]:
    """Give records of different lengths with growing times."""
    return [one(mark, since + number, b"record %d " % number + b"x" * (number % 9)) for number in range(count)]


def laid(parts: Sequence[bytes], start: int = 0) -> list[tuple[int, bytes]]:
    """Give (offset, bytes) of records one behind the other."""
    ends = [start]
    for part in parts:
        ends.append(ends[-1] + len(part))
    return list(zip(ends, parts, strict=False))


@pytest.mark.parametrize("damage", [b"\0" * 16, b"\xff" * 16, struct.pack("<QHHHBB", 1, 8, 0, 0, 0, 0)])
@pytest.mark.parametrize("arch", ["x86_64", "s390x"])
def test_behind_a_damaged_head_the_log_goes_on(arch: str, damage: bytes) -> None:
    records = row(">" if arch == "s390x" else "<", 8)
    parts = laid(records)
    kernel, info = records_ring(
        arch, "printk_log", [*parts, (parts[2][0], damage)], first=0, following=parts[-1][0] + len(parts[-1][1])
    )
    complaints: list[str] = []
    found = read_log(kernel.memory, info, complaints)
    assert [each.ns for each in found] == [1000, 1001, 1003, 1004, 1005, 1006, 1007]
    assert complaints[0].startswith("a part of the log cannot be read: log record ")
    assert complaints[0].endswith(f": {len(parts[2][1])} bytes of records from {parts[2][0]:#x} of the buffer on")
    with pytest.raises(MissingTable):
        read_log(kernel.memory, info)


def test_a_damaged_end_of_the_ring_does_not_cost_its_front() -> None:
    front, back = row("<", 3, since=5_000), row("<", 3)
    parts = [*laid(front), *laid(back, 150)]
    place = parts[-2][0]
    kernel, info = records_ring(
        "x86_64", "printk_log", [*parts, (place, b"\xff" * (256 - place))], first=150, following=sum(map(len, front))
    )
    complaints: list[str] = []
    assert [each.ns for each in read_log(kernel.memory, info, complaints)] == [1000, 5000, 5001, 5002]
    assert len(complaints) == 1


@pytest.mark.parametrize("lost", [(1,), (0,), (3,), (1, 2), (0, 3)])
def test_pages_of_the_ring_of_records_that_are_lost(lost: tuple[int, ...]) -> None:
    # four pages of records; what lies whole in the others is told, and what is missing
    kernel, at, _, letter = kernel_of("x86_64")
    records = row("<", 16_384 // 40)
    while sum(map(len, records)) > 16_384:
        records.pop()
    data = b"".join(records)
    kernel.write(at, struct.pack("<" + letter, at + 0x1000))
    kernel.write(at + 8, struct.pack("<III", 16_384, 0, len(data)))
    kernel.write(at + 0x1000, data.ljust(16_384, b"\0"))
    info = info_of({
        "SYMBOL(log_buf)": at, "SYMBOL(log_buf_len)": at + 8, "SYMBOL(log_first_idx)": at + 12,
        "SYMBOL(log_next_idx)": at + 16, "SIZE(printk_log)": 16, "OFFSET(printk_log.ts_nsec)": 0,
        "OFFSET(printk_log.len)": 8, "OFFSET(printk_log.text_len)": 10, "OFFSET(printk_log.dict_len)": 12,
    })  # fmt: skip
    for page in lost:
        del kernel.physical.pages[(at + 0x1000 - BASES["x86_64"] >> 12) + page]
    complaints: list[str] = []
    found = [each.ns for each in read_log(kernel.memory, info, complaints)]
    ends = laid(records)
    whole = [
        1_000 + number for number, (offset, part) in enumerate(ends)
        if not {offset >> 12, offset + 15 >> 12, offset + len(part.rstrip(b"\0")) - 1 >> 12} & set(lost)
    ]  # fmt: skip
    assert found == whole
    assert "cannot be read: not in the dump" in complaints[0]


# -- 2.4 and 2.6: characters ----------------------------------------------------------------------------


def characters(arch: str, ring: bytes, end: int, logged: int | None = None) -> Any:
    kernel, at, mark, letter = kernel_of(arch)
    kernel.write(at, struct.pack(mark + letter, at + 0x100))
    kernel.write(at + 8, struct.pack(mark + "III", len(ring), end, logged or 0))
    kernel.write(at + 0x100, ring)
    rows = {"SYMBOL(log_buf)": at, "SYMBOL(log_buf_len)": at + 8, "SYMBOL(log_end)": at + 12}
    return kernel, info_of(rows | ({"SYMBOL(logged_chars)": at + 16} if logged is not None else {}))


@pytest.mark.parametrize("arch", ["x86_64", "s390x", "i386"])
def test_the_ring_of_characters(arch: str) -> None:
    text = b"<4>Linux version 2.4.21\n<6>no level follows\nplain\n"
    kernel, info = characters(arch, text.ljust(64, b"\0"), len(text))
    assert read_log(kernel.memory, info) == [
        Record(None, 4, None, b"Linux version 2.4.21"),
        Record(None, 6, None, b"no level follows"),
        Record(None, None, None, b"plain"),
    ]


@pytest.mark.parametrize(
    ("line", "record"),
    [
        # CONFIG_PRINTK_TIME of 2.6.11 to 3.4 puts the time into the text
        (b"<0>[   12.000345] Kernel panic", Record(12_000_345_000, 0, None, b"Kernel panic")),
        (b"[123456.000001] no level", Record(123_456_000_001_000, None, None, b"no level")),
        (b"<4>[    0.000000] [<c1235fdd>] ? panic", Record(0, 4, None, b"[<c1235fdd>] ? panic")),
        # not as the kernel writes it: it would not come out as it went in
        (b"<6>[12.000345] said by a program", Record(None, 6, None, b"[12.000345] said by a program")),
        (b"<6>[   12.345] x", Record(None, 6, None, b"[   12.345] x")),
        (b"<6>[<c0100000>] x", Record(None, 6, None, b"[<c0100000>] x")),
    ],
)
def test_a_time_in_the_text_is_the_records(line: bytes, record: Record) -> None:
    assert line_record(line) == record
    assert (b"<%d>" % record.level if record.level is not None else b"") + render(record) == line


def test_the_ring_of_characters_has_wrapped() -> None:
    whole = b"<6>gone\n<6>older line\n<0>Kernel panic: the last words\n"
    ring = bytearray(32)
    for at, letter in enumerate(whole):  # log_end counts every character ever written
        ring[at % 32] = letter
    kernel, info = characters("i386", bytes(ring), len(whole))
    records = read_log(kernel.memory, info)
    assert b"\n".join(record.text for record in records).endswith(b"Kernel panic: the last words")
    kernel, info = characters("i386", bytes(ring), len(whole), logged=len(b"<0>Kernel panic: the last words\n"))
    assert read_log(kernel.memory, info) == [Record(None, 0, None, b"Kernel panic: the last words")]


def test_without_any_key_it_is_said() -> None:
    kernel, *_ = kernel_of("x86_64")
    with pytest.raises(MissingTable, match="no key of the kernel log"):
        read_log(kernel.memory, VmcoreInfo(b""))


def test_the_reason_of_the_end_is_the_first_line_that_has_one() -> None:
    records = [
        Record(1, 6, 0, b"fine"),
        Record(2, 0, 0, b"BUG: unable\nmore"),
        Record(3, 0, 0, b"Kernel panic - not syncing: x"),
    ]
    assert panic_text(records) == b"Kernel panic - not syncing: x"
    assert panic_text(records[:2]) == b"BUG: unable"
    assert panic_text(records[:1]) is None
    assert panic_text([records[0], Record(None, 0, None, b"Kernel panic: Attempted to kill init!")]) is not None
    assert panic_text([records[0], Record(None, 0, None, b"kernel BUG at mm/slab.c:1208!")]) is not None
