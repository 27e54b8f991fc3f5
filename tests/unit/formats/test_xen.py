# SPDX-License-Identifier: GPL-2.0-or-later
"""Xen: registers word by word, the sections of a converted paravirtual guest, remarks, views."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from dumpconv.convert.convert import ConvertOptions, convert
from dumpconv.formats.errors import CorruptDump, DumpError, UnsupportedDump, UsageError
from dumpconv.formats.notes import build_note, find_note
from dumpconv.formats.reader import DumpReader
from dumpconv.formats.xen_layout import (
    core_header,
    dumpcore_header,
    legacy_header,
    libvirt_header,
    libxc_domain,
    libxc_header,
    libxl_header,
    record_header,
    xl_header,
)
from dumpconv.formats.xen_tables import IdentityTable
from support import build_elf, build_xen, corpus_xen, notes, patterns, product
from support.x86_memory import pv_tables

ONES = (1 << 64) - 1


def opened(data: bytes, folder: Path, **more: Any) -> DumpReader:
    path = folder / "dump"
    path.write_bytes(data)
    return product.open_product(path, **more)


def descs(reader: DumpReader, name: bytes, kind: int = 1) -> list[bytes]:
    return [note.desc() for note in reader.notes if note.name == name and note.type == kind]


# -- layouts: sizes by the sheet -----------------------------------------------------------------------------------


def test_sizes_of_headers() -> None:
    assert dumpcore_header("little").sizeof() == 32
    assert core_header().sizeof() == 24
    assert legacy_header().sizeof() == 20
    assert xl_header("little").sizeof() == 48
    assert libvirt_header("little").sizeof() == 64
    assert libxl_header().sizeof() == 16
    assert libxc_header().sizeof() == 24
    assert libxc_domain("big").sizeof() == 16
    assert record_header("little").sizeof() == 8


# -- registers -----------------------------------------------------------------------------------------------------

IN_KERNEL = {
    "r15": 1, "r14": 2, "r13": 3, "r12": 4, "rbp": 5, "rbx": 6, "r11": 7, "r10": 8, "r9": 9, "r8": 10, "rax": 11,
    "rcx": 12, "rdx": 13, "rsi": 14, "rdi": 15, "rip": 0xFFFFFFFF81000010, "cs": 0xE033, "rflags": 0x246,
    "rsp": 0xFFFFC90000001000, "ss": 0xE02B, "es": 20, "ds": 21, "fs": 22, "gs": 23, "fs_base": 24,
    "gs_base_kernel": 25, "gs_base_user": 26,
}  # fmt: skip


@pytest.mark.parametrize(("flags", "gs_base"), [(4, 25), (0, 26)])
def test_context_of_a_64_bit_guest(flags: int, gs_base: int, tmp_path: Path) -> None:
    raw = build_xen.context(64, flags=flags, **IN_KERNEL)
    reader = opened(build_xen.core(corpus_xen.core_spec(contexts=[bytes(5168), raw])), tmp_path)
    _, desc = descs(reader, b"CORE")
    assert len(desc) == 336
    assert struct.unpack_from("<i", desc, 32) == (2,)  # pr_pid: the CPU's number and one
    words = struct.unpack_from("<27Q", desc, 112)
    assert words[:15] == tuple(range(1, 16))
    assert words[15:] == (
        ONES, 0xFFFFFFFF81000010, 0xE033, 0x246, 0xFFFFC90000001000, 0xE02B, 24, gs_base, 21, 20, 22, 23
    )  # fmt: skip
    assert descs(reader, b".xen_prstatus", 0) == [bytes(5168) + raw]


@pytest.mark.parametrize("stride", [2800, 5168])
def test_context_of_a_32_bit_guest(stride: int, tmp_path: Path) -> None:
    raw = build_xen.context(
        32, ebx=1, ecx=2, edx=3, esi=4, edi=5, ebp=6, eax=7, eip=0xC0100000, cs=0xE019, eflags=0x202, esp=0xC1000000,
        ss=0xE021, es=11, ds=12, fs=13, gs=14,
    )  # fmt: skip
    reader = opened(build_xen.core(corpus_xen.core_spec(contexts=[raw], stride=stride, machine=3)), tmp_path)
    (desc,) = descs(reader, b"CORE")
    assert len(desc) == 144
    assert struct.unpack_from("<17I", desc, 72) == (
        1, 2, 3, 4, 5, 6, 7, 12, 11, 13, 14, 0xFFFFFFFF, 0xC0100000, 0xE019, 0x202, 0xC1000000, 0xE021
    )  # fmt: skip


def test_context_of_a_big_endian_file_has_big_endian_notes(tmp_path: Path) -> None:
    # no such host exists; the header of the file counts all the same
    spec = corpus_xen.core_spec(order=">", contexts=[build_xen.context(64, rax=0x1122334455667788)])
    reader = opened(build_xen.core(spec), tmp_path)
    assert product.view(reader).pages == corpus_xen.PAGES
    (desc,) = descs(reader, b"CORE")
    assert desc[112 + 80 : 112 + 88] == bytes.fromhex("1122334455667788")


def test_hvm_context_becomes_prstatus_and_qemus_note(tmp_path: Path) -> None:
    reader = opened(build_xen.libxc(corpus_xen.hvm(), kind=2), tmp_path)
    (desc,) = descs(reader, b"CORE")
    # rax rbx rcx rdx rbp rsi rdi rsp r8-r15 rip rflags are 0x100, 0x101 ... in the record
    assert struct.unpack_from("<27Q", desc, 112) == (
        0x10F, 0x10E, 0x10D, 0x10C, 0x104, 0x101, 0x10B, 0x10A, 0x109, 0x108, 0x100, 0x102, 0x103, 0x105, 0x106, ONES,
        0x110, 0x10, 0x111, 0x107, 0x1C, 0x7F00, 0xFFFF888000000000, 0x18, 0x19, 0x1A, 0x1B,
    )  # fmt: skip
    (qemu,) = descs(reader, b"QEMU", 0)
    # access bytes 0xa9b, 0xc93, 0x8b as in the second word of a descriptor
    code, data, tss = 0xA09B00, 0xC09300, 0x8B00
    expected = notes.qemu_x86(
        registers=(0x100, 0x101, 0x102, 0x103, 0x105, 0x106, 0x107, 0x104, *range(0x108, 0x112)),
        segments=[
            (0x10, 0x1000, code, 0), (0x18, 0x1001, data, 0), (0x19, 0x1002, data, 0), (0x1A, 0x1003, 0, 0x7F00),
            (0x1B, 0x1004, 0, 0xFFFF888000000000), (0x1C, 0x1005, data, 0), (0, 0x1007, 0, 0), (0x40, 0x1006, tss, 1),
            (0, 0x1009, 0, 3), (0, 0x1008, 0, 2),
        ],
        control=(0x80050033, 0, 0, 0x2000, 0x6F0), kernel_gs_base=0x5678,
    )  # fmt: skip
    assert qemu == expected[12 + 8 :]
    assert descs(reader, b".xen_hvm_context", 0) == [build_xen.hvm_context([build_xen.hvm_cpu()])]


# -- sections of a converted guest -----------------------------------------------------------------------------------


def sections_of(data: bytes) -> dict[str, tuple[int, int, int]]:
    shoff, (shentsize, shnum, shstrndx) = struct.unpack_from("<Q", data, 40)[0], struct.unpack_from("<3H", data, 58)
    rows = [struct.unpack_from("<IIQQQQIIQQ", data, shoff + index * shentsize) for index in range(shnum)]
    names = data[rows[shstrndx][4] :][: rows[shstrndx][5]]
    return {names[row[0] :].split(b"\0")[0].decode(): (row[4], row[5], row[9]) for row in rows[1:]}


def converted(reader: DumpReader, folder: Path) -> bytes:
    convert(reader, str(folder / "out"), ConvertOptions(sync=False))
    return (folder / "out").read_bytes()


def test_a_converted_pv_guest_is_an_xc_core_file_too(tmp_path: Path) -> None:
    original = build_xen.core(corpus_xen.core_spec(rows=[*corpus_xen.rows(), (ONES, ONES, bytes(4096))]))
    data = converted(opened(original, tmp_path), tmp_path)
    before, after = sections_of(original), sections_of(data)
    assert list(after) == [".shstrtab", ".note.Xen", ".xen_prstatus", ".xen_shared_info", ".xen_pages", ".xen_p2m"]
    for name in (".note.Xen", ".xen_prstatus", ".xen_shared_info", ".xen_p2m"):
        (old, old_size, old_entry), (new, new_size, new_entry) = before[name], after[name]
        assert data[new : new + new_size] == original[old : old + old_size], name
        assert new_entry == old_entry
    offset, size, _ = after[".xen_pages"]
    assert data[offset : offset + size] == b"".join(page for _, page in sorted(corpus_xen.PAGES.items()))
    assert offset + size == len(data)
    # crash takes what has its program headers in the first 192 bytes for a kdump
    assert struct.unpack_from("<Q", data, 32)[0] > 192


@pytest.mark.parametrize(
    "spec",
    [
        corpus_xen.core_spec(paired=False),
        corpus_xen.core_spec(rows=corpus_xen.rows()[::-1]),
        corpus_xen.core_spec(drop=[b".note.Xen"]),
    ],
    ids=["hvm", "unsorted", "no-notes"],
)
def test_no_sections_where_they_would_not_tell_the_truth(spec: build_xen.CoreSpec, tmp_path: Path) -> None:
    data = converted(opened(build_xen.core(spec), tmp_path), tmp_path)
    assert struct.unpack_from("<QQ", data, 32) == (64, 0)


def test_a_saved_guest_has_a_table_of_its_own_frames(tmp_path: Path) -> None:
    data = converted(opened(build_xen.libxc(corpus_xen.pv()), tmp_path), tmp_path)
    offset, size, _ = sections_of(data)[".xen_p2m"]
    assert size == 16 * len(corpus_xen.PAGES)
    pairs = list(struct.iter_unpack("<QQ", data[offset : offset + size]))
    assert pairs == [(pfn, pfn) for pfn in sorted(corpus_xen.PAGES)]


def test_the_made_table_reads_the_same_by_any_pieces() -> None:
    import numpy as np

    table = IdentityTable(np.array([3, 100], np.uint64), np.array([6, 102], np.uint64))
    whole = b"".join(struct.pack("<QQ", pfn, pfn) for pfn in (3, 4, 5, 100, 101))
    assert table.pread(0, table.size) == whole
    for start in range(0, 80, 7):
        for size in (0, 1, 5, 16, 33):
            if start + size <= 80:
                assert table.pread(start, size) == whole[start : start + size]


# -- remarks and refusals ------------------------------------------------------------------------------------------

CASES = {case.name: case for case in corpus_xen.cases()}


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("core-arm64", "arm"), ("core-ia64", "registers"), ("core-no-notes", "no-header-note"),
        ("core-unsorted", "unsorted"), ("core-duplicate", "unsorted"), ("core-nr-pages-large", "nr-pages"),
        ("core-nr-vcpus-large", "nr-vcpus"), ("old-unplaced", "unplaced"), ("old-hvm", "frames-assumed"),
        ("stream-hvm-context", "hvm-context"), ("libxc-pv", "canonical-tables"),
    ],
)  # fmt: skip
def test_what_is_odd_is_told(name: str, code: str, tmp_path: Path) -> None:
    assert code in [finding.code for finding in opened(CASES[name].files[0], tmp_path).findings]


@pytest.mark.parametrize(
    ("name", "kind", "text"),
    [
        ("core-pfn-huge", CorruptDump, "row 6 of .xen_p2m has pfn 0x10000000000000, the limit is 0x10000000000"),
        ("core-shnum-huge", CorruptDump, "65000 sections with their names in section 1, at most 64 are expected"),
        ("core-map-beyond", CorruptDump, "reaches past the end of the file"),
        ("core-no-map", UnsupportedDump, "no section .xen_pages with .xen_p2m or .xen_pfn"),
        ("old-no-tables", UnsupportedDump, "no page table tells which frame of the guest a page is"),
        ("stream-count", CorruptDump, "claims 4294967295 entries"),
        ("stream-unknown", UnsupportedDump, "libxc record of type 0x99 is not known and not optional"),
        ("xm-remus", UnsupportedDump, "compressed pages of Remus (marker -12) cannot be read"),
        ("xl-length", CorruptDump, "a configuration of 4294967295 bytes at 48"),
        ("xl-flags", UnsupportedDump, "mandatory flags 0x4"),
    ],
)
def test_refusals_name_both_values(name: str, kind: type[DumpError], text: str, tmp_path: Path) -> None:
    with pytest.raises(kind) as caught:
        opened(CASES[name].files[0], tmp_path)
    assert text in str(caught.value)


def test_damage_behind_the_pages_is_kept_with_salvage(tmp_path: Path) -> None:
    reader = opened(CASES["xm-marker"].files[0], tmp_path, salvage=True)
    assert isinstance(reader.damage, CorruptDump)
    assert "marker -99" in str(reader.damage)
    assert product.view(reader).pages == corpus_xen.PAGES


def test_arm_and_the_option_that_overrides(tmp_path: Path) -> None:
    data = CASES["core-arm64"].files[0]
    assert opened(data, tmp_path).machine.arch == "aarch64"
    assert opened(data, tmp_path, machine="arm").machine.arch == "arm"
    assert opened(CASES["core-arm"].files[0], tmp_path).machine.arch == "arm"
    assert opened(CASES["core-hvm"].files[0], tmp_path, machine="i386").machine.arch == "i386"


# -- views ---------------------------------------------------------------------------------------------------------


def test_machine_view_of_an_old_core(tmp_path: Path) -> None:
    pages = [(0x500, patterns.page(1)), (0x4FF, patterns.page(2))]
    data = build_xen.old_core(pages, corpus_xen.CONTEXTS)
    view = product.view(opened(data, tmp_path, view="machine"))
    assert view.pages == dict(pages)
    with pytest.raises(UsageError, match="--view machine is not for files of format xc_core"):
        opened(build_xen.core(corpus_xen.core_spec()), tmp_path, view="machine")


LIST, MIDDLE, LEAF, EMPTY, DATA = 0x900, 0x901, 0x902, 0x903, 0x100


def host(words: int = 10, name: bytes = b"Xen\0", **changed: bytes) -> tuple[bytes, dict[int, bytes]]:
    """Build a host of five list pages and eight of dom0's; give it and dom0's memory."""
    entries = [ONES] * 512
    for pfn in range(6):
        entries[pfn] = DATA + 7 - pfn
    entries[6] = DATA | 1 << 62  # identity
    entries[7] = DATA + 1 | 1 << 63  # foreign
    entries[9] = 0x7777  # not in the dump
    pages = {DATA + index: patterns.page(index) for index in range(8)}
    tables = {
        "LIST": struct.pack("<512Q", MIDDLE, *[MIDDLE + 3] * 10, *[0] * 501),
        "MIDDLE": struct.pack("<512Q", LEAF, *[EMPTY] * 511),
        "LEAF": struct.pack("<512Q", *entries),
        "EMPTY": struct.pack("<512Q", *[ONES] * 512),
        "OTHER": struct.pack("<512Q", *[EMPTY] * 512),
    } | changed
    memory = pages | dict(zip(range(LIST, LIST + 5), tables.values(), strict=True))
    segments = [build_elf.Segment(pfn << 12, data) for pfn, data in sorted(memory.items())]
    note = notes.encode(name, 0x1000001, struct.pack(f"<{words}Q", *range(1, words), LIST))
    area = notes.machine_notes(text=b"") + note + notes.encode(b"Xen\0", 0x1000002, struct.pack("<4Q", 1, 2, 3, 4))
    dom0 = {pfn: pages[DATA + 7 - pfn] for pfn in range(6)} | {6: pages[DATA], 7: pages[DATA + 1]}
    return build_elf.build(build_elf.ElfSpec(segments, notes=area)).to_bytes(), dom0


@pytest.mark.parametrize(("words", "name"), [(10, b"Xen\0"), (9, b"Xen\0"), (10, b"XEN CORE\0")])
def test_dom0_of_a_host(words: int, name: bytes, tmp_path: Path) -> None:
    data, dom0 = host(words, name)
    reader = opened(data, tmp_path, view="dom0")
    view = product.view(reader)
    assert view.pages == dom0
    assert product.image_pages(reader, list(dom0)) == dom0
    assert find_note(reader.notes, b"Xen", 0x1000001) is None  # crash would look for dom0 once more
    assert find_note(reader.notes, b"Xen", 0x1000002) is not None
    whole = opened(data, tmp_path)
    assert whole.facts["xen_host"]
    assert find_note(whole.notes, name.rstrip(b"\0"), 0x1000001) is not None
    assert len(product.view(whole).pages) == 13


def test_dom0_has_notes_that_lie_behind_the_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def finish(inner: DumpReader) -> None:  # as a kdump's erase info
        inner.notes.append(build_note(b"ERASEINFO", 0, b"erased"))

    monkeypatch.setattr("dumpconv.formats.elf.ElfReader.finish_notes", finish)
    reader = opened(host()[0], tmp_path, view="dom0")
    reader.finish_notes()
    assert descs(reader, b"ERASEINFO", 0) == [b"erased"]


def test_dom0_survives_the_conversion(tmp_path: Path) -> None:
    data, dom0 = host()
    converted(opened(data, tmp_path, view="dom0"), tmp_path)
    assert product.view(product.open_product(tmp_path / "out")).pages == dom0


def test_dom0_where_the_list_runs_in_circles(tmp_path: Path) -> None:
    data, dom0 = host(LIST=struct.pack("<512Q", *[MIDDLE] * 512), MIDDLE=struct.pack("<512Q", LEAF, *[LIST] * 511))
    assert product.view(opened(data, tmp_path, view="dom0")).pages == dom0


def test_dom0_with_more_frames_than_its_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of 134 million frames takes as many pages of a few bytes each; what is made of it would be gigabytes."""
    data, _ = host(LEAF=struct.pack("<512Q", *range(512)))
    opened(data, tmp_path, view="dom0")
    monkeypatch.setattr("dumpconv.formats.xen_dom0._IDENTITY", 0)
    with pytest.raises(CorruptDump, match="names more than 26 frames, the dump has 13"):
        opened(data, tmp_path, view="dom0")


def test_dom0_where_the_list_is_not_in_the_dump(tmp_path: Path) -> None:
    data, dom0 = host(LIST=struct.pack("<512Q", MIDDLE, *range(0x5000, 0x5000 + 511)))
    reader = opened(data, tmp_path, view="dom0")
    assert product.view(reader).pages == dom0
    assert "511 pages of dom0's list are not in the dump" in str(reader.findings)
    with pytest.raises(CorruptDump, match="leads to no frame"):
        opened(host(LIST=bytes(4096))[0], tmp_path, view="dom0")


@pytest.mark.parametrize("data", [host(8)[0], build_elf.build(build_elf.ElfSpec()).to_bytes()], ids=["8", "none"])
def test_dom0_of_something_else_is_a_usage_error(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        opened(data, tmp_path, view="dom0")


def test_a_small_old_guest_gets_the_addresses_of_its_tables(tmp_path: Path) -> None:
    memory, machine, root = pv_tables("64")
    pages = [(machine[pfn], memory[pfn]) for pfn in sorted(memory)]
    reader = opened(build_xen.old_core(pages, [build_xen.context(64, cr3=root << 12)]), tmp_path)
    assert reader.page_table_roots == [(root << 12, "CR3 of vcpu 0")]
    assert reader.machine_frames is not None
    assert {pfn: reader.machine_frames.pfn_of(mfn) for pfn, mfn in machine.items()} == {pfn: pfn for pfn in machine}
    assert reader.machine_frames.pfn_of(5) is None


@pytest.mark.parametrize("machine", ["aarch64", "s390x"])
def test_old_dumps_of_another_machine_are_refused(machine: str, tmp_path: Path) -> None:
    pages = [(0x100 + n, patterns.page(n)) for n in range(4)]
    data = build_xen.old_core(pages, corpus_xen.CONTEXTS)
    with pytest.raises(UnsupportedDump, match=f"dumps of Xen 3.0 are of x86_64 and i386, not {machine}"):
        opened(data, tmp_path, view="machine", machine=machine)


def test_an_image_is_kept_where_the_next_one_is_damaged(tmp_path: Path) -> None:
    pages = {pfn: patterns.page(pfn) for pfn in range(4)}
    image = build_xen.libxc([build_xen.page_data([(0, pfn, page) for pfn, page in pages.items()])], kind=2)
    data = build_xen.libxl(image, after=build_xen.record(1) + bytes(64))
    reader = opened(data, tmp_path, salvage=True)
    assert product.view(reader).pages == pages
    assert "a libxc image should begin with ones and 0x58454e46, here is 0x0 0x0" in str(reader.damage)
    with pytest.raises(CorruptDump, match="a libxc image should begin with ones"):
        converted(opened(data, tmp_path), tmp_path)
