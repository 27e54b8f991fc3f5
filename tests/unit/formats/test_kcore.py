# SPDX-License-Identifier: GPL-2.0-or-later
"""/proc/kcore as of the running system, by files that stand for those of /proc; and what is told from it."""

from __future__ import annotations

import errno
import gzip
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dumpconv.convert.convert import ConvertOptions, convert
from dumpconv.formats import detect, live, open_dump, source
from dumpconv.formats.errors import DumpError, InputError
from dumpconv.formats.reader import Options
from support import build_elf, command, corpus_elf, corpus_kcore, notes, patterns, product
from support.build_kcore import Area, KcoreSpec, build
from support.corpus_kcore import DIRECT, TEXT, VMALLOC, ram, x86_64

IOMEM = """\
00000000-00000fff : Reserved
00001000-{end:08x} : System RAM
  00003000-00003fff : Kernel code
00020000-00020fff : PCI Bus 0000:00
"""
NOPAGE, POISONED, OFFLINE = 1 << 20, 1 << 19, 1 << 23


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Give a function that puts a kcore, iomem and kpageflags into place, and says that the first is in procfs."""

    def make(
        spec: KcoreSpec, *, iomem: str | None = None, flags: dict[int, int] | None = None, frames: int = 64
    ) -> Path:
        path = tmp_path / "kcore"
        path.write_bytes(build(spec).to_bytes())
        (tmp_path / "iomem").write_text(IOMEM.format(end=0xBFFF) if iomem is None else iomem)
        table = np.zeros(frames, np.uint64)
        for pfn, value in (flags or {}).items():
            table[pfn] = value
        table.tofile(tmp_path / "kpageflags")
        monkeypatch.setattr(live, "IOMEM", str(tmp_path / "iomem"))
        monkeypatch.setattr(live, "PAGE_FLAGS", str(tmp_path / "kpageflags"))
        monkeypatch.setattr(source, "in_procfs", lambda status: True)
        return path

    return make


def codes(reader: product.DumpReader) -> list[str]:
    return [finding.code for finding in reader.findings]


# The image's mapping is in the file of a running system: a small one, for a file that is no 128 TiB.
def spec(*areas: Area) -> KcoreSpec:
    image = Area(DIRECT + 0x40000, 3 * 4096, 7 * 4096, b"".join(patterns.page(pfn) for pfn in (7, 8, 9)))
    return KcoreSpec([image, Area(VMALLOC, 1 << 45), *(areas or (ram(1, 4), ram(6, 12)))], offset_base=DIRECT)


def test_the_running_system(running: Callable[..., Path]) -> None:
    reader = product.open_product(running(spec()))
    seen = product.view(reader)
    assert reader.name == "kcore"
    assert seen.pages == corpus_kcore.PAGES
    assert (seen.lost, seen.damaged) == (set(), set())
    assert reader.facts["live"] is True
    assert reader.facts["virtual_segments"] == 1
    assert codes(reader)[-1] == "live"
    assert reader.damage is None


def test_ram_alone_is_taken(running: Callable[..., Path]) -> None:
    """iomem ends in the middle of frame 9, and knows of RAM in frames 4 and 5 that kcore does not have."""
    reader = product.open_product(running(spec(), iomem=IOMEM.format(end=0x9BFF)))
    seen = product.view(reader)
    assert sorted(seen.pages) == [1, 2, 3, 6, 7, 8, 9]
    assert seen.partial == {9: [(0, 0xC00)]}
    assert seen.pages[9] == patterns.page(9)[:0xC00] + bytes(0x400)
    assert seen.excluded == [(4, 6)]
    assert {"not-ram", "not-mapped"} <= set(codes(reader))


@pytest.mark.parametrize("text", ["", "00000000-00000000 : System RAM\n", "x-y : System RAM\n"])
def test_iomem_that_tells_nothing(running: Callable[..., Path], text: str) -> None:
    reader = product.open_product(running(spec(), iomem=text))
    assert product.view(reader).pages == corpus_kcore.PAGES
    assert "iomem" in codes(reader)


@pytest.mark.parametrize("flag", [NOPAGE, POISONED, OFFLINE])
def test_frames_that_the_kernel_gives_as_zeros_are_lost(
    running: Callable[..., Path], tmp_path: Path, flag: int
) -> None:
    path = running(spec(), flags={2: flag | 4, 7: flag, 8: flag, 11: flag, 20: flag})
    reader = product.open_product(path)
    assert isinstance(reader.damage, InputError)
    assert "4 pages cannot be read" in str(reader.damage)
    assert "--salvage" in str(reader.damage)
    with pytest.raises(InputError):
        convert(reader, str(tmp_path / "out"), ConvertOptions(sync=False))
    assert not (tmp_path / "out").exists()
    seen = product.view(product.open_product(path, salvage=True))
    assert sorted(seen.pages) == [1, 3, 6, 9, 10]
    assert seen.lost == {2, 7, 8, 11}  # the image's own mapping of 7 and 8 leads to the same frames
    report = convert(seen.reader, str(tmp_path / "out"), ConvertOptions(sync=False, salvage=True))
    assert report.incomplete
    again = product.view(product.open_product(tmp_path / "out"))
    assert again.pages == seen.pages
    assert again.lost == seen.lost


def test_flags_that_cannot_be_read(running: Callable[..., Path], tmp_path: Path) -> None:
    path = running(spec())
    (tmp_path / "kpageflags").unlink()
    reader = product.open_product(path)
    assert product.view(reader).pages == corpus_kcore.PAGES
    assert "page-flags" in codes(reader)


def test_flags_that_end_early(running: Callable[..., Path]) -> None:
    """The kernel has no page structures from frame 10 on."""
    seen = product.view(product.open_product(running(spec(), frames=10), salvage=True))
    assert seen.lost == {10, 11}


def test_many_frames_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = np.zeros(200, np.uint64)
    table[[3, 4, 5, 99, 100, 101, 150, 199]] = OFFLINE
    table.tofile(tmp_path / "flags")
    monkeypatch.setattr(live, "PAGE_FLAGS", str(tmp_path / "flags"))
    monkeypatch.setattr(live, "_CHUNK_FRAMES", 5)
    start, end = np.array([0, 99, 190], np.uint64), np.array([50, 160, 210], np.uint64)
    found = live.unreadable_frames(start, end)
    assert found is not None
    frames = {pfn for low, high in zip(*(each.tolist() for each in found), strict=True) for pfn in range(low, high)}
    assert frames == {3, 4, 5, 99, 100, 101, 150, *range(199, 210)}


def test_pages_that_do_not_read(running: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EFAULT for one page: one line without --salvage, that page lost with it."""
    path = running(spec(ram(1, 4), ram(6, 12)))
    bad = build(spec()).offsets[2] + 4096  # of frame 2
    real = os.preadv

    def preadv(fd: int, views: list[memoryview], offset: int) -> int:
        if os.fstat(fd).st_ino == path.stat().st_ino and offset <= bad < offset + sum(map(len, views)):
            raise OSError(errno.EFAULT, "Bad address")
        return real(fd, views, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    with pytest.raises(InputError, match="Bad address"):
        convert(product.open_product(path), str(tmp_path / "out"), ConvertOptions(sync=False))
    reader = product.open_product(path, salvage=True)
    report = convert(reader, str(tmp_path / "out"), ConvertOptions(sync=False, salvage=True))
    assert [(each.pfn, each.state.name) for each in report.damage] == [(2, "LOST")]
    assert report.pages["lost"] == 1
    again = product.view(product.open_product(tmp_path / "out"))
    assert again.pages == {pfn: page for pfn, page in corpus_kcore.PAGES.items() if pfn != 2}


def test_the_image_and_its_alias_differ_by_now(running: Callable[..., Path], tmp_path: Path) -> None:
    changed = Area(DIRECT + 0x40000, 4096, 7 * 4096, b"x" + patterns.page(7)[1:])
    path = running(KcoreSpec([changed, Area(VMALLOC, 1 << 45), ram(6, 12)], offset_base=DIRECT))
    report = convert(product.open_product(path), str(tmp_path / "out"), ConvertOptions(sync=False))
    assert "overlap-differs" in [finding.code for finding in report.findings]
    assert product.view(product.open_product(tmp_path / "out")).pages == patterns.pages(6, 12)


@pytest.mark.parametrize("claimed", [0, 0x7FFFFF602000])
def test_the_size_that_stat_gives_does_not_count(tmp_path: Path, claimed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """0, or the whole address space: the bytes are there all the same."""
    path = tmp_path / "kcore"
    path.write_bytes(build(x86_64()).to_bytes())
    real = os.fstat

    def fstat(fd: int) -> os.stat_result:
        fields = list(real(fd))
        return os.stat_result([*fields[:6], claimed, *fields[7:]])

    monkeypatch.setattr(source, "in_procfs", lambda status: True)
    monkeypatch.setattr(live, "IOMEM", "/nowhere")
    monkeypatch.setattr(live, "PAGE_FLAGS", "/nowhere")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fstat", fstat)
        reader = product.open_product(path)
    assert reader.memory_map.count(product.PageState.STORED) == 9
    assert sorted(product.image_pages(reader, [1, 6, 11]).items()) == sorted(
        (pfn, corpus_kcore.PAGES[pfn]) for pfn in (1, 6, 11)
    )


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.EACCES, "only root"),
        (errno.EPERM, "locked down"),
        (errno.ENOENT, "CONFIG_PROC_KCORE"),
        (None, "container"),
    ],
)
def test_why_it_does_not_open(number: int | None, told: str) -> None:
    assert told in (live.open_hint("/proc/kcore", number) or "")
    assert told in (live.open_hint("/proc/../proc/kcore", number) or "")
    assert live.open_hint("/proc/vmcore", number) is None


def test_lockdown_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lockdown").write_text("none integrity [confidentiality]\n")
    monkeypatch.setattr(live, "LOCKDOWN", str(tmp_path / "lockdown"))
    assert "none integrity [confidentiality]" in (live.open_hint("/proc/kcore", errno.EPERM) or "")


def test_this_systems_kcore_is_one_line_or_a_dump() -> None:
    try:
        reader = open_dump(["/proc/kcore"])
    except DumpError as error:
        assert error.hint
        assert "\n" not in str(error)
    else:
        assert reader.facts["live"] is True


def test_procfs_is_known() -> None:
    assert live.in_procfs(os.stat("/proc/version"))
    assert not live.in_procfs(os.stat(__file__))
    assert source.FileSource("/proc/version").live
    assert not source.FileSource(__file__).live


def test_a_stream_is_refused(tmp_path: Path) -> None:
    """Before the memory come terabytes of zeros, and nothing can skip them."""
    mask = (1 << 47) - 1
    described = KcoreSpec(
        [Area(TEXT, 4096, 4096), Area(VMALLOC, 1 << 45), Area(DIRECT + 4096, 4096, 4096)], offset_mask=mask
    )
    head = b"".join(piece.data for piece in sorted(build(described).file.pieces, key=lambda piece: piece.offset))
    packed = tmp_path / "kcore.gz"
    packed.write_bytes(gzip.compress(head.ljust(8192, b"\0")))
    for words, data in ((["-"], head.ljust(8192, b"\0")), ([packed], None)):
        done = command.dumpconv("info", *words, input=data)
        assert done.returncode == 6
        assert "all the zeros before it" in command.one_line(done)


# -- what is one -------------------------------------------------------------------------------------------------


def kind(tmp_path: Path, data: bytes) -> str:
    path = tmp_path / "dump"
    path.write_bytes(data)
    return detect(source.FileSource(str(path))).name


def test_what_is_a_kcore_and_what_is_not(tmp_path: Path) -> None:
    assert kind(tmp_path, build(x86_64()).to_bytes()) == "kcore"
    assert kind(tmp_path, build(x86_64(name=b"CORE", vmcoreinfo=b"")).to_bytes()) == "netdump"  # counts no NUL
    assert kind(tmp_path, build(x86_64(fname=b"bash")).to_bytes()) == "elf"
    assert kind(tmp_path, build(KcoreSpec([ram(1, 4)], offset_base=DIRECT)).to_bytes()) == "elf"  # no vmalloc
    assert kind(tmp_path, build_elf.build(corpus_elf.spec()).to_bytes()) == "elf"
    packed = build_elf.build(corpus_elf.spec(placement="packed", notes=build_notes())).to_bytes()
    assert kind(tmp_path, packed) == "elf"  # another program's copy of a kcore


def build_notes() -> bytes:
    from support.build_kcore import note_area

    return note_area(x86_64())


def test_our_own_output_of_it_is_no_kcore(tmp_path: Path) -> None:
    """One segment and its alias keep one distance, and the notes are kcore's."""
    path = tmp_path / "kcore"
    path.write_bytes(build(x86_64()).to_bytes())
    convert(product.open_product(path), str(tmp_path / "out"), ConvertOptions(sync=False))
    again = product.open_product(tmp_path / "out")
    assert again.name == "elf"
    assert product.view(again).pages == corpus_kcore.PAGES
    names = [(note.name, note.type) for note in again.notes]
    assert names == [(b"CORE", 1), (b"CORE", 3), (b"CORE", 4), (b"VMCOREINFO", 0)]


@pytest.mark.parametrize("size", [0, 16, 63, 64, 100, 400, 512, 700, 1200])
def test_headers_cut_anywhere(tmp_path: Path, size: int) -> None:
    path = tmp_path / "kcore"
    path.write_bytes(build(x86_64(size=size)).to_bytes())
    try:
        reader = product.open_product(path, salvage=True)
    except DumpError as error:
        assert error.exit_code in (3, 6)
    else:
        assert reader.damage is not None
        assert not product.view(reader).pages


def test_a_tail_is_never_zeros(tmp_path: Path) -> None:
    """--tail-zero is for ELF files whose writer left zeros out; the kernel leaves none out."""
    path = tmp_path / "kcore"
    path.write_bytes(build(x86_64()).to_bytes())
    reader = open_dump([str(path)], Options(tail_zero=True))
    assert product.view(reader).pages == corpus_kcore.PAGES


def test_the_page_size_is_in_the_program_headers(tmp_path: Path) -> None:
    """Without VMCOREINFO: ppc64 would be taken for 64 KiB otherwise."""
    areas = [Area(0xC008000000000000, 1 << 42), ram(0, 5, 0xC000000000000000)]
    path = tmp_path / "kcore"
    path.write_bytes(build(KcoreSpec(areas, "ppc64", offset_base=0xC000000000000000, vmcoreinfo=b"")).to_bytes())
    assert product.open_product(path).machine.page_size == 4096
    assert product.open_product(path, page_size=65536).machine.page_size == 65536
    assert notes.ARCHES["ppc64"].order == ">"
