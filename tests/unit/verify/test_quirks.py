# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of quirks: every remark exists, corpus files show the quirks, the page is the table's."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dumpconv.formats import FORMATS, codecs, open_dump
from dumpconv.verify.pagecheck import PageOptions
from dumpconv.verify.quirk_checks import CHECKS
from dumpconv.verify.quirks import QUIRKS, Quirk, markdown, quirks_of
from dumpconv.verify.target import VerifyOptions, verify_target
from support import notes
from support.build_elf import ElfSpec, Segment
from support.build_elf import build as build_elf
from support.build_kdump import KdumpSpec, build
from support.command import dumpverify

REPOSITORY = Path(__file__).resolve().parents[3]
SEEN = {
    "kdump/pack-qemu-nameless.kdump": "QK-NAMELESS",
    "kdump/one-bitmap-nearly-empty.kdump": "QK-ONE-BITMAP",
    "elf/paddr-all-ones.elf": "QK-NO-PADDR",
    "elf/end-inside-a-page-with-tail.elf": "QK-SHORT-FILESZ",
    "netdump/i386-filesz-small.netdump": "QK-FILESZ-WRAPS",
    "netdump/savecore-partial.netdump": "QK-ZERO-FOR-ABSENT",
    "lkcd/end-0-4-0.lkcd": "QK-ODD-END",
    "lkcd/unit-4096-gzip.lkcd": "QK-RECORD-UNIT",
    "lkcd/virtual-addresses.lkcd": "QK-VIRTUAL-ADDRESSES",
    "avml/orphans.avml": "QK-ORPHAN-HEADERS",
    "lime/end-inside-a-page.lime": "QK-PARTIAL-ZERO",
    "kcore/old-i386.kcore": "QK-KCORE-NO-PADDR",
    "kdump/incomplete.kdump": "QK-EMPTY-DESCRIPTORS",
    "kdump/split-empty-members.0.kdump": "QK-EMPTY-MEMBER",
    "kdump/qemu-sparse-utsname.kdump": "QK-PHYS-BASE-ZERO",
    "elf/qemu.elf": "QK-EHSIZE",
    "netdump/x86-64.netdump": "QK-NAME-WITHOUT-NUL",
    "lkcd/rle-dialect.lkcd": "QK-RLE-DIALECT",
    "lkcd/end-missing.lkcd": "QK-NO-END",
    "lkcd/version-10-64k.lkcd": "QK-DATA-OFFSET",
    "lkcd/count-too-large.lkcd": "QK-NUM-PAGES",
    "mcore/v2-exp-data.mcore": "QK-EXP-DATA",
    "xc_core/core-arm64.xc_core": "QK-XEN-ARM",
    "xc_core/core-empty-tail.xc_core": "QK-EMPTY-ROWS",
    "xc_core-old/old-hvm-no-vcpus.xc_core-old": "QK-NO-VCPUS",
}


def test_names_are_unique_and_of_one_form() -> None:
    names = [each.name for each in QUIRKS]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"QK-[A-Z]+(-[A-Z]+)*", name) for name in names)
    assert set(SEEN.values()) <= set(names)


@pytest.mark.parametrize("quirk", QUIRKS, ids=lambda quirk: quirk.name)
def test_something_tells_the_quirk(quirk: Quirk) -> None:
    """A remark that no reader makes any more would never be named."""
    each = quirk
    if each.remark in codecs.QUIRKS:
        return  # told by the decoder
    if each.remark:
        sources = "\n".join(path.read_text() for path in (REPOSITORY / "formats").glob("*.py"))
        assert re.search(rf'(remark\(|append\(\()\s*"{each.remark}"', sources)
    assert (each.name in CHECKS) == (not each.remark)
    assert set(each.formats) <= {entry.name for entry in FORMATS}
    assert (REPOSITORY / "docs" / "formats" / f"{each.source}.md").exists()


@pytest.mark.parametrize("name", SEEN)
def test_the_report_names_the_quirk(name: str) -> None:
    done = dumpverify("--json", REPOSITORY / "corpus" / name)
    found = json.loads(done.stdout)["dumps"][0]["findings"]
    told = [each["message"].split(":")[0] for each in found if each["code"] == "I306"]
    assert SEEN[name] in told


def test_quirks_of_pages_stay_with_their_dump() -> None:
    """What the kernel level decodes in this process is not counted for the next dump."""
    told = []
    for name in ("rle-dialect", "codec-rle", "rle-dialect"):
        options = VerifyOptions("kernel", pages=PageOptions(1, "serial"))
        report = verify_target([str(REPOSITORY / "corpus" / "lkcd" / f"{name}.lkcd")], options)
        told.append([each.message.split(" ")[0] for each in report.findings if "RLE pages" in each.message])
    assert told == [["2", "QK-RLE-DIALECT:"], [], ["2", "QK-RLE-DIALECT:"]]


PAGES = {pfn: bytes([pfn + 1]) * 4096 for pfn in range(4)}


def kdump(**fields: object) -> KdumpSpec:
    return KdumpSpec(pages=PAGES, **fields)  # type: ignore[arg-type]


def names(path: Path) -> set[str]:
    return {quirk.name for quirk in quirks_of(open_dump([str(path)]))}


def vmcoreinfo(*lines: str, release: str = "6.1.0-test") -> bytes:
    text = "\n".join([f"OSRELEASE={release}", "PAGESIZE=4096", *lines, ""]).encode()
    return notes.prstatus("x86_64") + notes.vmcoreinfo(text)


@pytest.mark.parametrize(
    ("phys_base", "is_told"),
    # QEMU takes the decimal 55574528 for hexadecimal; a kernel below its link address has a negative one
    [(0x55574528, True), (55574528, False), (0, True)],
)
def test_phys_base_that_is_not_vmcoreinfos(tmp_path: Path, phys_base: int, is_told: bool) -> None:
    text = vmcoreinfo("NUMBER(phys_base)=55574528")
    path = build(kdump(notes=text, vmcoreinfo=b"OSRELEASE", phys_base=phys_base)).write_to(tmp_path / "dump")
    assert ("QK-PHYS-BASE" in names(path)) == is_told


def test_a_negative_phys_base_is_the_same_in_64_bits(tmp_path: Path) -> None:
    text = vmcoreinfo("NUMBER(phys_base)=-16777216")
    spec = kdump(notes=text, vmcoreinfo=b"OSRELEASE", phys_base=(1 << 64) - 16777216)
    assert "QK-PHYS-BASE" not in names(build(spec).write_to(tmp_path / "dump"))


@pytest.mark.parametrize("shift", [1, 2, 6, 8])
def test_a_shifted_utsname_is_read_where_it_is(tmp_path: Path, shift: int) -> None:
    strings = [b"Linux", b"host", b"6.1.0-test", b"#1 SMP", b"aarch64", b"(none)"]
    moved = b"".join(each.ljust(65, b"\0") for each in strings)[: 390 - shift]
    spec = kdump(uts={}, patches={12: bytes(390), 12 + shift: moved})
    reader = open_dump([str(build(spec).write_to(tmp_path / "dump"))])
    assert (reader.machine.arch, reader.facts["utsname"]["release"]) == ("aarch64", "6.1.0-test")
    assert "QK-SHIFTED-UTSNAME" in {quirk.name for quirk in quirks_of(reader)}


def test_a_utsname_in_its_place_is_not_shifted(tmp_path: Path) -> None:
    uts = {"sysname": "NotLinux", "release": "6.1.0-test", "machine": "x86_64", "nodename": "Linux"}
    reader = open_dump([str(build(kdump(uts=uts)).write_to(tmp_path / "dump"))])
    assert (reader.machine.arch, reader.facts["utsname"]["sysname"]) == ("x86_64", "NotLinux")
    assert "QK-SHIFTED-UTSNAME" not in {quirk.name for quirk in quirks_of(reader)}


@pytest.mark.parametrize(
    ("release", "is_told"),
    [("6.11.3", True), ("6.11.10", False), ("6.1.112", False), ("6.1.113-custom", True), ("5.15.200", True),
     ("6.6.54", False), ("6.10.14", True), ("6.1.0-56-amd64", False), ("", False)],
)  # fmt: skip
def test_build_ids_of_kernels_that_got_them_wrong(tmp_path: Path, release: str, is_told: bool) -> None:
    text = vmcoreinfo("BUILD-ID=00112233445566778899aabbccddeeff00112233", release=release)
    path = build(kdump(notes=text, vmcoreinfo=b"OSRELEASE")).write_to(tmp_path / "dump")
    assert ("QK-BUILD-ID" in names(path)) == is_told


@pytest.mark.parametrize(("pid", "is_told"), [(0x01000000, True), (1, False), (0x00400000, False)])
def test_pids_in_the_hosts_byte_order(tmp_path: Path, pid: int, is_told: bool) -> None:
    blob = notes.prstatus("s390x", order=">", pid=pid)
    spec = ElfSpec([Segment(0, PAGES[0])], blob, order=">", machine=22)
    assert ("QK-PID-ORDER" in names(build_elf(spec).write_to(tmp_path / "dump"))) == is_told


def test_the_page_is_the_tables() -> None:
    assert (REPOSITORY / "docs" / "quirks.md").read_text() == markdown()
