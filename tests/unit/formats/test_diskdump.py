# SPDX-License-Identifier: GPL-2.0-or-later
"""Diskdump: registers, tasks, a 32-bit machine beyond 4 GiB, where a partition's header is, what the driver wrote."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from dumpconv.formats import diskdump_layout
from dumpconv.formats.errors import DumpError, MissingPart
from dumpconv.formats.notes import prstatus_registers
from dumpconv.formats.pages import PageState
from dumpconv.formats.source import BytesSource
from support import build_diskdump, command, notes, patterns, product
from support.build_diskdump import DiskdumpSpec, build
from support.corpus_diskdump import REGISTERS, base


def opened(spec: DiskdumpSpec, tmp_path: Path, **more: object):  # type: ignore[no-untyped-def]
    return product.open_product(build(spec).file.write_to(tmp_path / "dump"), salvage=True, **more)


def codes(reader) -> list[str]:  # type: ignore[no-untyped-def]
    return [finding.code for finding in reader.findings]


@pytest.mark.parametrize("partition", [False, True], ids=["file", "partition"])
@pytest.mark.parametrize("arch", ["i386", "x86_64", "ppc64"])
def test_the_registers_become_a_prstatus(arch: str, partition: bool, tmp_path: Path) -> None:
    words = tuple(0xC0000000 + index for index in range(REGISTERS[arch]))
    reader = opened(base(arch, registers=words, partition=partition), tmp_path)
    (note,) = reader.notes
    assert (note.raw_name, note.type, note.size) == (b"CORE\0", 1, notes.ARCHES[arch].prstatus_size)
    assert prstatus_registers(note, arch, reader.machine.byteorder) == words


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        (base(registers=None), None),
        (base(registers=(0,) * 27), "registers"),
        (base("ia64", pages={1: patterns.page(1, 16384)}), "registers"),
    ],
)
def test_no_registers_are_invented(spec: DiskdumpSpec, code: str | None, tmp_path: Path) -> None:
    reader = opened(spec, tmp_path)
    assert reader.notes == []
    assert [found for found in codes(reader) if found == "registers"] == ([code] if code else [])


def test_the_task_of_the_cpu_that_dumped(tmp_path: Path) -> None:
    facts = opened(base(), tmp_path).facts
    assert facts["tasks"] == ["0xffff810001234000", "0xffff810005678000"]
    assert (facts["panic_task"], facts["current_cpu"], facts["nr_cpus"]) == ("0xffff810005678000", 1, 2)


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"current_cpu": 2}, "panic-task"),
        ({"header": {"current_cpu": 0xFFFFFFFF}}, "panic-task"),
        ({"header": {"nr_cpus": 455}}, "tasks"),  # 464 + 8 * 455 > 4096
        ({"header": {"nr_cpus": 0x7FFFFFFF}}, "tasks"),
        ({"header": {"nr_cpus": -1}}, "tasks"),
        ({"tasks": ()}, "tasks"),
    ],
)
def test_cpus_that_cannot_be(more: dict[str, object], code: str, tmp_path: Path) -> None:
    reader = opened(base(**more), tmp_path)
    assert reader.facts["panic_task"] is None
    assert code in codes(reader)


def test_the_last_cpu_that_fits(tmp_path: Path) -> None:
    tasks = tuple(range(1, 455))  # 464 + 8 * 454 = 4096
    assert opened(base(tasks=tasks, current_cpu=453), tmp_path).facts["panic_task"] == "0x1c6"


def test_a_32_bit_machine_beyond_4_gib(tmp_path: Path) -> None:
    far = 0x100003
    pages = {3: patterns.page(3), far: patterns.page(far)}
    for partition in (False, True):
        reader = opened(base("i386", pages=pages, excluded=[], partition=partition), tmp_path)
        assert product.view(reader).pages == pages


@pytest.mark.parametrize("size", [4096, 8192, 16384, 32768, 65536])
@pytest.mark.parametrize("block0", ["formatted", "swap"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_partition_of_any_block_size(size: int, block0: str, order: str, tmp_path: Path) -> None:
    arch = "ia64" if order == "<" else "ppc64"
    pages = patterns.pages(3, 5, size)
    spec = base(arch, pages=pages, page_size=size, partition=True, block0=block0, registers=None, order=order)
    reader = opened(spec, tmp_path)
    assert (reader.facts["form"], reader.machine.page_size) == ("partition", size)
    assert product.view(reader).pages == pages


def test_block_0_of_zeros_needs_the_option(tmp_path: Path) -> None:
    spec = base(partition=True, block0="zeros")
    with pytest.raises(DumpError, match="no known dump format"):
        opened(spec, tmp_path)
    assert product.view(opened(spec, tmp_path, format="diskdump")).pages == spec.pages


def test_the_formatters_series_is_the_sheets() -> None:
    """words 0-1 the text, word 2 the number, each following (word + 7) * 11."""
    raw = build_diskdump.format_block(3, 4096, "<")
    assert raw[:20] == b"diskdump" + struct.pack("<III", 3, (3 + 7) * 11, ((3 + 7) * 11 + 7) * 11)
    for order, name in (("<", "little"), (">", "big")):
        source = BytesSource(b"".join(build_diskdump.format_block(number, 4096, order) for number in range(5)))
        for number in range(5):
            assert diskdump_layout.is_formatted(source, number, 4096, name)  # type: ignore[arg-type]
    changed = BytesSource(raw[:4092] + b"\0\0\0\0")
    assert not diskdump_layout.is_formatted(changed, 0, 4096, "little")


@pytest.mark.parametrize("formatted", range(9))
def test_the_first_block_that_was_not_written(formatted: int) -> None:
    blocks = [
        b"x" * 4096 if number < formatted else build_diskdump.format_block(number, 4096, "<") for number in range(8)
    ]
    found = diskdump_layout.end_of_written(BytesSource(b"".join(blocks)), 0, 8, 4096, "little")
    assert found == (formatted if formatted < 8 else None)


def test_an_empty_partition_is_not_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "partition"
    path.write_bytes(build_diskdump.formatted_partition(9))
    with pytest.raises(MissingPart, match="formatted and empty"):
        product.open_product(path)


@pytest.mark.parametrize("compressed", [False, True])
def test_an_interrupted_dump_without_any_mark_needs_salvage(compressed: bool, tmp_path: Path) -> None:
    spec = base(partition=True, compressed=compressed, status=1 | 8 * compressed, spare=0, written_blocks=2)
    reader = product.open_product(build(spec).file.write_to(tmp_path / "dump"))
    with pytest.raises(DumpError, match="nothing tells how far it came"):
        raise reader.damage  # type: ignore[misc]
    assert product.view(opened(spec, tmp_path)).pages == spec.pages


def test_what_the_driver_did_not_decide_on_is_lost_not_excluded(tmp_path: Path) -> None:
    spec = base(partition=True, compressed=False, status=2, flushed=2)
    memory_map = opened(spec, tmp_path).memory_map
    assert memory_map.count(PageState.EXCLUDED) == 0
    assert memory_map.count(PageState.STORED) == 2
    whole = opened(base(partition=True, compressed=False), tmp_path).memory_map
    assert whole.count(PageState.EXCLUDED) == 20


def test_a_header_byte_by_byte(tmp_path: Path) -> None:
    """Written out by hand: big-endian 32-bit, an i386 never is; one raw page of frame 2 in a single bitmap."""
    head = bytearray(4096)
    head[0:8] = b"DISKDUMP"
    head[272:278] = b"ppc\0\0\0"
    struct.pack_into(">IIIiiIIIIIIi", head, 404, 1, 2, 0, 4096, 0, 1, 3, 1, 0, 0, 0, 1)
    struct.pack_into(">I", head, 452, 0xC0DE0000)
    bitmap = b"\x04".ljust(4096, b"\0")
    descriptor = struct.pack(">qIIQ", 8192 + 24, 4096, 0, 0)
    path = tmp_path / "dump"
    path.write_bytes(bytes(head) + bitmap + descriptor + patterns.page(2))
    reader = product.open_product(path)
    assert (reader.machine.arch, reader.machine.byteorder, reader.facts["panic_task"]) == ("ppc", "big", "0xc0de0000")
    assert product.view(reader).pages == {2: patterns.page(2)}


def test_the_schema_of_a_page_entry() -> None:
    schema = diskdump_layout.page_entry("big")
    assert schema.sizeof() == diskdump_layout.ENTRY_SIZE == 16
    parsed = schema.parse(bytes.fromhex("0000000000000040 00000123 00000003"))
    assert (parsed.page_flags, parsed.size, parsed.flags) == (0x40, 0x123, 3)


@pytest.mark.parametrize("partition", [False, True], ids=["file", "partition"])
@pytest.mark.parametrize("arch", ["i386", "x86_64", "ppc64"])
def test_a_stream_has_no_size_that_would_tell_the_order(arch: str, partition: bool, tmp_path: Path) -> None:
    """Version 0 and 4096 make sense in both byte orders."""
    spec, out = base(arch, partition=partition), tmp_path / "out"
    done = command.dumpconv("-", out, "--no-fsync", input=build(spec).to_bytes())
    assert done.returncode == 0, done.stderr
    reader = product.open_product(out)
    assert (reader.machine.arch, product.view(reader).pages) == (arch, spec.pages)


def text_page(line: bytes, *, repeated: bool = False, size: int = 4096) -> bytes:
    return (line * size)[:size] if repeated else line + bytes(size - len(line))


MESSAGES = {  # frame: what the driver wrote where it could not read it; RHEL4 drivers/block/diskdump.c
    3: text_page(b"Unmapped page. PFN 3\n"),
    4: text_page(b"Bad page. PFN 4 flags 20000000000001\n"),
    5: text_page(b"Unmapped page. PFN 5\n", repeated=True),
}
MEMORY = {  # frame: a page that is memory all the same
    6: text_page(b"Unmapped page. PFN 3\n"),  # the driver's own buffer, dumped after frame 3
    7: text_page(b"Unmapped page. PFN 7\n")[:-1] + b"x",
    8: text_page(b"Unmapped page. PFN 8"),
    9: text_page(b"Bad page. PFN 9\n"),
    10: text_page(b"Bad page. PFN 10 flags xyz\n"),
    11: text_page(b"Unmapped page. PFN 111\n"),
}


@pytest.mark.parametrize("compressed", [False, True], ids=["raw", "zlib"])
@pytest.mark.parametrize("partition", [False, True], ids=["file", "partition"])
def test_the_drivers_messages_are_no_memory(partition: bool, compressed: bool, tmp_path: Path) -> None:
    pages = {1: patterns.page(1), 2: bytes(4096), **MESSAGES, **MEMORY, 12: patterns.page(12)}
    spec = base(pages=pages, excluded=[], partition=partition, compressed=compressed)
    seen = product.view(opened(spec, tmp_path))
    assert (seen.lost, seen.damaged) == ({3, 4, 5}, set())
    assert seen.pages == {pfn: page for pfn, page in pages.items() if pfn not in MESSAGES}
    # one pipe through: the same
    out = tmp_path / "out"
    done = command.dumpconv("--salvage", "--no-fsync", "-", out, input=(tmp_path / "dump").read_bytes())
    assert done.returncode == 3, done.stderr
    again = product.view(product.open_product(out, salvage=True))
    assert (again.lost, again.pages) == (seen.lost, seen.pages)
    refused = command.dumpconv("--no-fsync", tmp_path / "dump", tmp_path / "other")
    assert refused.returncode == 3
    assert "wrote a line of text in its place" in command.one_line(refused)
