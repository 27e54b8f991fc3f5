# SPDX-License-Identifier: GPL-2.0-or-later
"""s390 dumps against libkdumpfile, gdb and zgetdump.

zgetdump runs on s390 alone: DUMPCONV_ZGETDUMP is the command that runs it here, for example
`qemu-s390x-static -L ROOT ROOT/usr/sbin/zgetdump` with Debian's s390-tools, 2.35 or later, unpacked into ROOT. Without
it these tests are skipped. Extended dumps it reads from block devices only: a loop device, which takes root.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dumpconv.convert.convert import ConvertOptions, convert
from dumpconv.formats.reader import DumpReader
from support import build_s390, build_vmdump, corpus_s390, oracles, patterns, product
from support.build_s390 import PAGE, Cpu, S390Spec, Segment, build, store_status
from support.build_vmdump import VmdumpSpec

pytestmark = pytest.mark.oracle
Need = Callable[..., None]
NR_PAGES = 1024
PREFIXES = (0x40000, 0x42000)
AREA = 0x50000


def spec(arch: int = 2, **more: Any) -> S390Spec:
    """Four MiB: a lowcore for each of two CPUs, vectors, text, noise, and two MiB of zeros."""
    pages = patterns.pages(0, 8) | patterns.pages(200, 210, kind="random") | patterns.pages(768, 800, kind="mixed")
    for index, prefix in enumerate(PREFIXES):
        cpu = Cpu(gprs=tuple(range(0x1000 * index, 0x1000 * index + 16)), vector_area=AREA + 1024 * index)
        if arch == 1:
            cpu = Cpu(psw=(0x070C0000, 0x80012345 + index))
        lowcore = store_status(prefix, cpu, arch)
        pages |= {prefix // PAGE + at: lowcore[at * PAGE :][:PAGE] for at in range(len(lowcore) // PAGE)}
    noise = patterns.page(77, kind="random")
    fprs = [struct.pack(">Q", value) for value in Cpu().fprs]  # the left halves of the first 16 vector registers
    halves = b"".join(fpr + noise[16 * index + 8 :][:8] for index, fpr in enumerate(fprs))
    pages[AREA // PAGE] = (halves + noise[256:1024]) * 2 + bytes(2048)
    return S390Spec(**({"nr_pages": NR_PAGES, "pages": pages, "arch": arch, "prefixes": PREFIXES} | more))


def segments(**more: Any) -> S390Spec:
    """The same as segments of whole MiB, the second one in zlib entries of a MiB, as the dump tools write it."""
    return spec(segments=[Segment(0, 256), Segment(768, 1024, packed=True)], entry_size=1 << 20, **more)


def read(path: Path, data: bytes) -> DumpReader:
    path.write_bytes(data)
    return product.open_product(path)


def registers(reader: DumpReader) -> list[tuple[bytes, int, bytes]]:
    """Give the notes of the CPUs."""
    return [(note.name, note.type, note.desc()) for note in reader.notes if note.name in (b"CORE", b"LINUX")]


@pytest.mark.parametrize("arch", [1, 2])
def test_libkdumpfile_reads_the_same_pages(need: Need, tmp_path: Path, arch: int) -> None:
    need("libkdumpfile")
    path = tmp_path / "dump"
    ours = product.view(read(path, build(spec(arch))))
    theirs = oracles.libkdumpfile(path, pfns=range(NR_PAGES))
    assert theirs.arch == {1: "s390", 2: "s390x"}[arch]
    assert theirs.digests == {pfn: hashlib.sha256(page).hexdigest() for pfn, page in ours.pages.items()}
    assert theirs.max_pfn == NR_PAGES


def test_libkdumpfile_refuses_what_has_no_end_marker(need: Need, tmp_path: Path) -> None:
    need("libkdumpfile")
    path = tmp_path / "dump"
    assert read(path, build(spec(end=bytes(16)))).damage is not None
    with pytest.raises(oracles.OracleError, match="End marker not found"):
        oracles.libkdumpfile(path, pfns=[0])


@pytest.mark.parametrize("arch", [1, 2])
def test_gdb_shows_the_registers(need: Need, tmp_path: Path, arch: int) -> None:
    need("gdb-multiarch")
    out = tmp_path / "out"
    convert(read(tmp_path / "dump", build(spec(arch))), str(out), ConvertOptions(sync=False))
    commands = [f"set architecture s390:{ {1: '31-bit', 2: '64-bit'}[arch] }", f"core-file {out}", "thread 2"]
    shown = ["p/x $pswm", "p/x $pswa", "p/x $r0", "p/x $r15", "p/x $acr15", "p/x $fpc"]
    arguments = [part for command in [*commands, *shown] for part in ("-ex", command)]
    text = oracles.run(["gdb-multiarch", "-nx", "-batch", *arguments])
    values = [int(value, 16) for value in re.findall(r"^\$\d+ = (0x[0-9a-f]+)$", text, re.M)]
    if arch == 2:
        assert values == [0x0704C00180000000, 0x1122334455667788, 0x1000, 0x100F, 0x20F, 0x00880000], text
    else:
        assert values == [0x070C0000, 0x80012346, 0x100, 0x10F, 0x20F, 0], text


# -- zgetdump ------------------------------------------------------------------------------------------------------


@pytest.fixture
def zgetdump() -> Callable[..., bytes]:
    command = os.environ.get("DUMPCONV_ZGETDUMP")
    if not command:
        pytest.skip("DUMPCONV_ZGETDUMP names no zgetdump")

    def call(*arguments: str | Path) -> bytes:
        done = subprocess.run([*shlex.split(command), *arguments], capture_output=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr.decode("utf-8", "replace")[-500:]
        return done.stdout

    return call


@contextmanager
def loop_device(path: Path) -> Iterator[str]:
    """Give a loop device with blocks of 4096 bytes."""
    done = subprocess.run(
        ["losetup", "-f", "--show", "-b", "4096", path], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode:
        pytest.skip(f"no loop device: {done.stderr.strip()}")
    try:
        yield done.stdout.strip()
    finally:
        subprocess.run(["losetup", "-d", done.stdout.strip()], check=False)


def assert_same_but_for_numbers(ours: DumpReader, theirs: DumpReader) -> None:
    """The same memory, registers and VMCOREINFO; zgetdump adds a PRPSINFO."""
    mine, others = product.view(ours), product.view(theirs)
    assert mine.pages == others.pages
    assert registers(ours) == [note for note in registers(theirs) if note[1] != 3]
    assert [note.desc() for note in ours.notes if note.name == b"VMCOREINFO"] == [
        note.desc() for note in theirs.notes if note.name == b"VMCOREINFO"
    ]


def test_zgetdump_makes_the_same_elf_of_a_plain_dump(zgetdump: Callable[..., bytes], tmp_path: Path) -> None:
    ours = read(tmp_path / "dump", build(spec()))
    assert_same_but_for_numbers(ours, read(tmp_path / "elf", zgetdump("-f", "elf", tmp_path / "dump")))


def test_zgetdump_writes_what_we_read(zgetdump: Callable[..., bytes], tmp_path: Path) -> None:
    """Its plain dump of our ELF: zgetdump's header, registers that it put into the lowcores."""
    source = read(tmp_path / "dump", build(spec()))
    convert(source, str(tmp_path / "elf"), ConvertOptions(sync=False))
    again = read(tmp_path / "again", zgetdump("-f", "s390", tmp_path / "elf"))
    assert again.facts["header_version"] == 5
    assert product.view(again).pages == product.view(source).pages
    assert registers(again) == registers(source)


@pytest.mark.parametrize("packed", [False, True])
def test_zgetdump_reads_extended_dumps_alike(zgetdump: Callable[..., bytes], tmp_path: Path, packed: bool) -> None:
    dump = segments()
    dump.segments = [Segment(0, 256), Segment(768, 1024, packed=packed)]
    data = build(dump)
    ours = read(tmp_path / "dump", data + bytes(-len(data) % PAGE))
    with loop_device(tmp_path / "dump") as device:
        (tmp_path / "elf").write_bytes(zgetdump("-f", "elf", device))
    # zgetdump gives the zeros between segments no bytes of the file: p_filesz 0
    theirs = product.open_product(tmp_path / "elf", tail_zero=True)
    assert_same_but_for_numbers(ours, theirs)


@pytest.mark.parametrize("nr_pages", [1024, 9000])
def test_zgetdump_makes_the_same_elf_of_a_vmdump(zgetdump: Callable[..., bytes], tmp_path: Path, nr_pages: int) -> None:
    pages = patterns.pages(1, 9) | patterns.pages(900, 905, kind="random") | {nr_pages - 3: patterns.page(5)}
    # zgetdump does not take the TOD programmable register
    cpus = [(0x40000, Cpu(todpreg=0)), (0x42000, Cpu(psw=(7, 8), gprs=tuple(range(50, 66)), todpreg=0))]
    dump = build_vmdump.build(VmdumpSpec(nr_pages=nr_pages, pages=pages, cpus=cpus))
    ours = read(tmp_path / "dump", dump)
    (tmp_path / "elf").write_bytes(zgetdump("-f", "elf", tmp_path / "dump"))
    theirs = product.open_product(tmp_path / "elf", tail_zero=True)
    assert_same_but_for_numbers(ours, theirs)
    assert len([note for note in registers(ours) if note[1] == 1]) == 2


def test_zgetdump_and_we_refuse_the_same(zgetdump: Callable[..., bytes], tmp_path: Path) -> None:
    bad = {
        "no end marker": spec(end=bytes(16)),
        "older end marker": spec(end=build_s390.END + bytes(8)),
        "too many CPUs": corpus_s390.base(header={"cpu_cnt": 513}),
    }
    for name, each in bad.items():
        path = tmp_path / name
        path.write_bytes(build(each))
        with pytest.raises(AssertionError):
            zgetdump("-f", "elf", path)


def test_the_real_machine(zgetdump: Callable[..., bytes], real_dir: Path, tmp_path: Path) -> None:
    """QEMU's ELF of a real kernel through zgetdump -f s390: memory but for the lowcores, registers, VMCOREINFO."""
    packed = real_dir / "s390x-qemu.elf.zst"
    if not packed.exists():
        pytest.skip(f"no {packed.name}")
    machine = tmp_path / "machine.elf"
    subprocess.run(["zstd", "-q", "-d", "--long=27", packed, "-o", machine], check=True)
    source = product.open_product(machine)
    convert(source, str(tmp_path / "elf"), ConvertOptions(sync=False))
    plain = tmp_path / "plain"
    plain.write_bytes(zgetdump("-f", "s390", tmp_path / "elf"))
    dump = product.open_product(plain)
    lost = (0x303, 0x30B)  # TOD programmable register and guarded storage have no place that zgetdump writes
    mine = [(kind, desc[36:] if kind == 1 else desc) for _, kind, desc in registers(dump) if kind not in lost]
    theirs = [(kind, desc[36:] if kind == 1 else desc) for _, kind, desc in registers(source) if kind not in lost]
    assert sorted(mine) == sorted(theirs)
    assert dump.vmcoreinfo is not None
    (tmp_path / "back").write_bytes(zgetdump("-f", "elf", plain))
    assert_same_but_for_numbers(dump, product.open_product(tmp_path / "back"))
