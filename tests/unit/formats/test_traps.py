# SPDX-License-Identifier: GPL-2.0-or-later
"""Traps of kdump, flattened, ELF and VMCOREINFO that no corpus case is about; docs/traps.md lists all."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from dumpconv.convert.convert import ConvertOptions, convert
from dumpconv.formats import detect, source
from dumpconv.formats.errors import CorruptDump, UnknownFormat
from dumpconv.formats.image import DumpImage
from dumpconv.formats.notes import find_note, nr_cpus
from dumpconv.formats.vaddr import AddressMap, derive
from support import build_elf, build_kdump, corpus_elf, notes, patterns, product, x86_memory
from support.build_elf import Segment


def elf(tmp_path: Path, **more: object) -> Path:
    return build_elf.build(corpus_elf.spec(**more)).write_to(tmp_path / "dump")  # type: ignore[arg-type]


def codes(reader: product.DumpReader) -> list[str]:
    return [finding.code for finding in reader.findings]


@pytest.mark.parametrize("order", ["<", ">"])
def test_ppc64_is_of_both_byte_orders(order: str, tmp_path: Path) -> None:
    reader = product.open_product(
        elf(tmp_path, arch="ppc64", order=order, notes=notes.machine_notes("ppc64", order=order))
    )
    assert (reader.machine.arch, reader.machine.byteorder) == ("ppc64", {"<": "little", ">": "big"}[order])
    assert nr_cpus(reader.notes) == 2
    assert product.view(reader).pages == corpus_elf.PAGES


@pytest.mark.parametrize(("bits", "name"), [(64, "s390x"), (32, "s390")])
def test_the_class_tells_s390_from_s390x(bits: int, name: str, tmp_path: Path) -> None:
    described = corpus_elf.spec(arch="s390x", bits=bits)
    path = build_elf.build(described).write_to(tmp_path / "dump")
    assert product.open_product(path).machine.arch == name


def test_the_hypervisors_vmcoreinfo_is_not_the_kernels(tmp_path: Path) -> None:
    xen = notes.vmcoreinfo(notes.vmcoreinfo_text(release="xen", page_size=65536), name=b"VMCOREINFO_XEN\0")
    path = elf(tmp_path, notes=notes.prstatus() + xen + notes.vmcoreinfo(notes.vmcoreinfo_text()))
    reader = product.open_product(path)
    assert reader.vmcoreinfo is not None
    assert reader.vmcoreinfo.text("OSRELEASE") == "6.1.0-test"
    assert reader.machine.page_size == 4096
    alone = product.open_product(elf(tmp_path, notes=xen))
    assert alone.vmcoreinfo is None
    assert find_note(alone.notes, b"VMCOREINFO_XEN") is not None


@pytest.mark.parametrize("pids", [[7], [3, 1, 2], [5, 5, 5, 5, 5]])
def test_registers_stay_in_the_order_of_the_notes(pids: list[int], tmp_path: Path) -> None:
    """A note is of some CPU; how many there are says nothing of how many CPUs were online."""
    blob = b"".join(notes.prstatus(pid=pid) for pid in pids) + notes.vmcoreinfo(notes.vmcoreinfo_text())
    reader = product.open_product(elf(tmp_path, notes=blob))
    assert nr_cpus(reader.notes) == len(pids)
    convert(reader, str(tmp_path / "out"), ConvertOptions(sync=False))
    again = product.open_product(tmp_path / "out")
    wanted = [notes.prstatus_desc("x86_64", pid=pid) for pid in pids]
    assert [note.desc() for note in again.notes if note.type == 1] == wanted


def test_device_dumps_of_many_megabytes_are_carried_over(tmp_path: Path) -> None:
    """LINUX with three NULs, type 0x700, 20 MiB: copied through, never cut."""
    device = b"device".ljust(44, b"\0") + bytes(range(256)) * (20 << 12)
    blob = notes.encode(b"LINUX\0\0\0", 0x700, device) + notes.machine_notes()
    reader = product.open_product(elf(tmp_path, notes=blob))
    convert(reader, str(tmp_path / "out"), ConvertOptions(sync=False))
    again = product.open_product(tmp_path / "out")
    note = find_note(again.notes, b"LINUX", 0x700)
    assert note is not None
    assert note.raw_name == b"LINUX\0\0\0"
    assert note.desc(1 << 30) == device
    assert again.vmcoreinfo is not None


def test_notes_of_structured_types_are_bytes(tmp_path: Path) -> None:
    """NT_FILE, NT_AUXV and NT_SIGINFO with contents that fit no structure: carried over as they are."""
    kinds = {0x46494C45: b"\xff" * 24, 6: b"x", 0x53494749: b""}
    blob = b"".join(notes.encode(b"CORE\0", kind, desc) for kind, desc in kinds.items()) + notes.machine_notes()
    reader = product.open_product(elf(tmp_path, notes=blob))
    assert {note.type: note.desc() for note in reader.notes[:3]} == kinds


@pytest.mark.parametrize("field", ["namesz", "descsz"])
@pytest.mark.parametrize("value", [1 << 20, 0xFFFFFFFC, 0xFFFFFFFF])
def test_a_note_longer_than_its_segment_ends_the_walk(field: str, value: int, tmp_path: Path) -> None:
    bad = notes.encode(b"CORE\0", 1, b"x" * 8, **{field: value})  # type: ignore[arg-type]
    reader = product.open_product(elf(tmp_path, notes=notes.machine_notes() + bad))
    assert "notes-damaged" in codes(reader)
    assert nr_cpus(reader.notes) == 2
    assert product.view(reader).pages == corpus_elf.PAGES


def test_a_process_core_is_told(tmp_path: Path) -> None:
    """No physical addresses, and notes that no kernel writes."""
    segments = [Segment(0, patterns.page(1), vaddr=0x400000), Segment(0, patterns.page(2), vaddr=0x7FFD0000)]
    blob = notes.prstatus() + notes.encode(b"CORE\0", 6, bytes(32))
    reader = product.open_product(elf(tmp_path, segments=segments, notes=blob))
    assert "userland" in codes(reader)


def test_program_headers_inside_the_elf_header(tmp_path: Path) -> None:
    path = elf(tmp_path, ehdr={"e_phoff": 8})
    with pytest.raises(CorruptDump, match="overlap the ELF header"):
        product.open_product(path)


def test_memory_past_the_end_of_all_addresses_is_clipped(tmp_path: Path) -> None:
    far = Segment((1 << 64) - 8192, corpus_elf.memory(1, 4), vaddr=0)
    reader = product.open_product(elf(tmp_path, segments=[corpus_elf.LOW, far]))
    assert "wraps" in codes(reader)
    last = (1 << 52) - 1
    assert sorted(product.view(reader).pages) == [1, 2, 3, last - 1, last]


def test_text_that_begins_like_a_stream_is_none(tmp_path: Path) -> None:
    """The signature is 16 bytes, NULs included; other texts of makedumpfile begin with its name, too."""
    path = tmp_path / "log"
    path.write_bytes(b"makedumpfile: version 1.7.2 (released on 27 November 2022)\n" * 200)
    with pytest.raises(UnknownFormat):
        detect(source.FileSource(str(path)))


def test_a_hundred_thousand_records_backwards(tmp_path: Path) -> None:
    """Sorting by insertion would take minutes."""
    image = build_elf.build(corpus_elf.spec()).to_bytes().ljust(200_000, b"\0")
    payload = [(at, image[at : at + 2]) for at in range(0, len(image), 2)][::-1]
    path = tmp_path / "stream"
    path.write_bytes(stream(payload))
    begin = time.process_time()
    assert product.view(product.open_product(path)).pages == corpus_elf.PAGES
    assert time.process_time() - begin < 5


def stream(records: list[tuple[int, bytes]]) -> bytes:
    head = b"makedumpfile\0\0\0\0" + (1).to_bytes(8, "big") + (1).to_bytes(8, "big")
    body = b"".join(at.to_bytes(8, "big") + len(data).to_bytes(8, "big") + data for at, data in records)
    return head.ljust(4096, b"\0") + body + b"\xff" * 16


def test_the_name_of_a_stream_tells_nothing(tmp_path: Path) -> None:
    """-F redirected to a regular file, under any name."""
    data = stream([(0, build_elf.build(corpus_elf.spec()).to_bytes())])
    for name in ("vmcore", "vmcore.elf", "dump.kdump"):
        (tmp_path / name).write_bytes(data)
        assert product.view(product.open_product(tmp_path / name)).pages == corpus_elf.PAGES


def derived(spec: build_kdump.KdumpSpec | build_elf.ElfSpec, path: Path) -> AddressMap:
    built = build_kdump.build(spec) if isinstance(spec, build_kdump.KdumpSpec) else build_elf.build(spec)
    built.write_to(path)
    reader = product.open_product(path)
    return derive(reader, DumpImage(reader))


@pytest.mark.parametrize("lie", [0, 0x1234000, 1 << 40, (1 << 64) - 0x1000000])
def test_the_headers_phys_base_is_a_hint_alone(lie: int, tmp_path: Path) -> None:
    """QEMU writes it wrong; VMCOREINFO and the page tables count."""
    memory = x86_memory.kaslr()
    found = derived(replace(memory.kdump_spec(), phys_base=lie), tmp_path / "dump")
    assert found.origin == "derived"
    assert found.text is not None
    assert found.text[:2] == (memory.text_paddr, memory.text_vaddr)
    assert found.ranges[0][1] == memory.direct_base


@pytest.mark.parametrize("moved", [-0x200000, 0x1000, 0x40000000])
def test_a_text_segment_that_lies(moved: int, tmp_path: Path) -> None:
    memory = x86_memory.kaslr()
    spec = memory.elf_spec()
    text = replace(spec.segments[0], vaddr=memory.text_vaddr + moved)
    found = derived(replace(spec, segments=[text, *spec.segments[1:]]), tmp_path / "dump")
    assert found.origin == "derived"
    assert found.text is not None
    assert found.text[:2] == (memory.text_paddr, memory.text_vaddr)


def test_the_vmcoreinfo_of_another_kernel(tmp_path: Path) -> None:
    """Of before a kexec: no page tables are where it says; the source's own addresses are all there is."""
    memory = x86_memory.kaslr()
    other = x86_memory.plain().vmcoreinfo
    spec = replace(memory.elf_spec(text_alias=False), notes=notes.machine_notes(text=other))
    found = derived(spec, tmp_path / "dump")
    assert found.origin == "source"
    assert found.ranges[0][1] == memory.direct_base + memory.text_paddr
