# SPDX-License-Identifier: GPL-2.0-or-later
"""Diskdump and netdump, which no living machine writes: crash and libkdumpfile read what our builders make.

A real kernel's memory is put into both; crash must say of them, and of what we convert them to, what it says of that
kernel's ELF vmcore. The kernel was moved by KASLR, and neither format says by how much: crash is told.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from oracle.debuggers import MARK, normal

from support import build_elf, build_netdump, notes, oracle_tools, oracles, patterns
from support.build_diskdump import DiskdumpSpec, build
from support.corpus_case import Case
from support.corpus_diskdump import base
from support.corpus_netdump import cases as netdump_cases
from support.corpus_netdump import memory
from support.reference import decode
from support.reference_elf import parse_notes

pytestmark = pytest.mark.oracle
Need = Callable[..., None]
COMMANDS = ("sys", "bt", "log", "ps")
TEXT_BASE = 0xFFFFFFFF80000000


def digests(pages: Mapping[int, bytes]) -> dict[int, str]:
    return {pfn: hashlib.sha256(page).hexdigest() for pfn, page in pages.items()}


# -- headers and small files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [0, 1])
def test_crash_prints_the_header_of_a_diskdump(version: int, tmp_path: Path, need: Need) -> None:
    need("crash")
    spec = base(version=version, status=8, max_mapnr=40000)
    image = build(spec)
    fields = oracles.crash_headers(image.file.write_to(tmp_path / "dump"))
    expected = {
        "header_version": version, "block_size": 4096, "sub_hdr_size": 1, "bitmap_blocks": 4, "max_mapnr": 40000,
        "total_ram_blocks": 26, "status": 8, "current_cpu": 1, "nr_cpus": 2,
    }  # fmt: skip
    assert {name: int(fields[name].split()[0]) for name in expected} == expected
    assert fields["flags"].endswith("(DISKDUMP_LOCAL)")
    assert "DUMP_HEADER_COMPRESSED" in fields["status"]
    assert int(fields["data_offset"], 16) == image.data_offset
    assert (fields["machine"], fields["release"]) == ("x86_64", "2.6.9-test")
    assert (int(fields["tasks[nr_cpus]"], 16), int(fields["tv_sec"], 16)) == (spec.tasks[0], spec.tv_sec)


@pytest.mark.parametrize("arch", ["x86_64", "i386", "ppc64", "ia64"])
@pytest.mark.parametrize(
    "more", [{}, {"compressed": False}, {"single_bitmap": True, "excluded": [], "max_mapnr": 32768}]
)
def test_libkdumpfile_reads_version_1(arch: str, more: dict[str, object], tmp_path: Path, need: Need) -> None:
    """It reads every page of version 0 as excluded, since no sub header tells it the range of frames."""
    need("libkdumpfile")
    if arch == "ia64" and "max_mapnr" in more:
        more = {**more, "max_mapnr": 131072}  # a single bitmap less than half full is two to it
    spec = base(arch, version=1, **more)
    path = build(spec).file.write_to(tmp_path / "dump")
    assert decode(path).pages == spec.pages
    seen = oracles.libkdumpfile(path, pfns=spec.pages)
    assert (seen.digests, seen.page_size) == (digests(spec.pages), spec.page_size)


@pytest.mark.parametrize("name_size", [4, 5])
def test_crash_takes_it_for_netdump(name_size: int, tmp_path: Path, need: Need) -> None:
    need("crash")
    parts = [build_netdump.segment("x86_64", at, memory(at >> 12, (at >> 12) + 4)) for at in (0, 0x100000)]
    described = build_netdump.spec(
        "x86_64", parts, notes=build_netdump.netdump_notes(name=b"CORE\0"[:name_size], dump_level=0)
    )
    path = build_elf.build(described).write_to(tmp_path / "vmcore")
    fields = oracles.crash_headers(path)
    assert "NETDUMP_ELF64" in fields["flags"]
    assert (fields["page_size"], fields["num_pt_load_segments"], fields["num_prstatus_notes"]) == ("4096", "2", "1")
    # with a NUL in the name crash, which does not round n_namesz here, finds the pointer three bytes early
    assert (fields["task_struct"] == "ffff888000123000") == (name_size == 4)


# p_filesz is all that libkdumpfile goes by; without VMCOREINFO it knows no page size of the last two, and divides by 0
NOT_FOR_LIBKDUMPFILE = ("i386-filesz", "i386-memsz", "overlap", "align-", "ia64", "ppc64")
NETDUMPS = [
    case
    for case in netdump_cases()
    if not (case.refused or case.lost) and not case.name.startswith(NOT_FOR_LIBKDUMPFILE)
]


@pytest.mark.parametrize("case", NETDUMPS, ids=lambda case: case.name)
def test_libkdumpfile_reads_netdumps(case: Case, tmp_path: Path, need: Need) -> None:
    need("libkdumpfile")
    path = tmp_path / "vmcore"
    path.write_bytes(case.files[0])
    pages = {pfn: page for pfn, page in case.pages.items() if pfn not in case.partial}
    assert oracles.libkdumpfile(path, pfns=pages).digests == digests(pages)


def test_readelf_names_the_notes(tmp_path: Path, need: Need) -> None:
    need("readelf")
    described = build_netdump.spec("ppc64", [build_netdump.segment("ppc64", 0, patterns.page(0))])
    told = oracles.run(["readelf", "-nlW", build_elf.build(described).write_to(tmp_path / "vmcore")])
    for name in ("NT_PRSTATUS", "NT_PRPSINFO", "NT_TASKSTRUCT"):
        assert name in told
    assert "0x1000" in told.split("LOAD", 1)[1].splitlines()[0].split()[-1]  # p_align


# -- a real kernel's memory --------------------------------------------------------------------------------------------


@dataclass
class Kernel:
    """A real machine that crashed: its ELF vmcore, and what crash says of it."""

    elf: Path
    filtered: Path  # what makedumpfile -d 31 made of it
    work: Path
    vmlinux: Path
    vmcoreinfo: dict[str, str]
    statuses: list[bytes]
    said: dict[str, str] = field(default_factory=dict)

    @property
    def panic_task(self) -> int:
        return int(re.search(r"TASK: ([0-9a-f]+)", self.said["bt"])[1], 16)  # type: ignore[index]

    @property
    def panic_cpu(self) -> int:
        return int(re.search(r"CPU: (\d+)", self.said["bt"])[1])  # type: ignore[index]

    @property
    def registers(self) -> tuple[int, ...]:
        return struct.unpack_from("<27Q", self.statuses[self.panic_cpu], 112)

    @property
    def moved(self) -> list[str]:
        """crash's options for what VMCOREINFO would tell."""
        base = int(self.vmcoreinfo["NUMBER(phys_base)"]) & (1 << 64) - 1
        return [f"--kaslr=0x{self.vmcoreinfo['KERNELOFFSET']}", "-m", f"phys_base=0x{base:x}"]

    def crash(self, dump: Path, *options: str) -> dict[str, str]:
        """Give what crash prints for each command, the dump's name taken out."""
        script = self.work / "commands"
        script.write_text("".join(f"!echo '{MARK}{command}'\n{command}\n" for command in COMMANDS) + "quit\n")
        argv = ["crash", "-s", "--no_scroll", *options, "-i", script, oracle_tools.for_crash(self.vmlinux), dump]
        ran = oracle_tools.run(argv, timeout=240, env={"HOME": str(self.work), "EDITOR": "vi"})
        parts = re.split(rf"^{MARK}(.*)$", ran.out, flags=re.MULTILINE)
        told = {name: normal(text) for name, text in zip(parts[1::2], parts[2::2], strict=True)}
        assert set(told) == set(COMMANDS), ran.why
        return told

    def convert(self, dump: Path) -> Path:
        """Convert by the command; give the result."""
        out = dump.with_name(dump.name + ".out")
        ran = oracle_tools.run([*oracle_tools.dumpconv_command(), dump, out, "--no-fsync"])  # type: ignore[misc]
        assert ran.ok, ran.why
        return out


def info(path: Path) -> dict[str, object]:
    ran = oracle_tools.run([*oracle_tools.dumpconv_command(), "info", "--json", path])  # type: ignore[misc]
    assert ran.ok, ran.why
    return json.loads(ran.out)  # type: ignore[no-any-return]


def same_memory(first: Path, second: Path) -> str:
    return oracle_tools.run([*oracle_tools.dumpconv_command(), "compare", first, second]).out  # type: ignore[misc]


@pytest.fixture(scope="module")
def kernel(real_dir: Path, tmp_path_factory: pytest.TempPathFactory, need: Need) -> Iterator[Kernel]:
    need("crash", "zstd")
    work = tmp_path_factory.mktemp("kernel")
    elf = oracle_tools.unpack(real_dir / "vmcore.elf.zst", work)
    filtered = real_dir / "vmcore.d31.zstd.kdump"
    dump = decode(filtered)
    text = dict(line.split("=", 1) for line in dump.vmcoreinfo.decode().splitlines() if "=" in line)
    vmlinux = oracle_tools.find_vmlinux(text["OSRELEASE"])
    if vmlinux is None:
        pytest.skip(f"no vmlinux of {text['OSRELEASE']}")
    statuses = [desc for name, kind, desc in parse_notes(dump.notes, "<") if name == b"CORE\0" and kind == 1]
    made = Kernel(elf, filtered, work, vmlinux, text, statuses)
    made.said = made.crash(elf)
    assert "machine_kexec" in made.said["bt"]
    yield made
    shutil.rmtree(work, ignore_errors=True)


def diskdump_of(kernel: Kernel, **more: object) -> DiskdumpSpec:
    dump = decode(kernel.filtered)
    tasks = [0] * len(kernel.statuses)
    tasks[kernel.panic_cpu] = kernel.panic_task
    uts = {"sysname": "Linux", "release": kernel.vmcoreinfo["OSRELEASE"], "machine": "x86_64"}
    values: dict[str, object] = {
        "pages": dump.pages, "excluded": dump.excluded_runs, "registers": kernel.registers, "tasks": tasks,
        "current_cpu": kernel.panic_cpu, "uts": uts,
    }  # fmt: skip
    return DiskdumpSpec(**(values | more))  # type: ignore[arg-type]


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("version", [0, 1])
def test_crash_says_the_same_of_a_diskdump(version: int, kernel: Kernel, tmp_path: Path) -> None:
    dump = build(diskdump_of(kernel, version=version)).file.write_to(tmp_path / "vmcore")
    assert kernel.crash(dump, *kernel.moved) == kernel.said
    out = kernel.convert(dump)
    assert kernel.crash(out, *kernel.moved) == kernel.said
    assert "memory: the same" in same_memory(kernel.filtered, out)
    assert info(dump)["format"] == "diskdump"


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("compressed", [False, True])
def test_crash_says_the_same_of_a_converted_partition(compressed: bool, kernel: Kernel, tmp_path: Path) -> None:
    """crash reads no partition: the builder is tied by the file's memory, which crash and libkdumpfile read."""
    dump = build(diskdump_of(kernel, partition=True, compressed=compressed)).file.write_to(tmp_path / "partition")
    out = kernel.convert(dump)
    if compressed:  # ten seconds; the memory is compared both times
        assert kernel.crash(out, *kernel.moved) == kernel.said
    told = same_memory(kernel.filtered, out)
    assert "memory: the same" in told
    assert "states: the same" in told


@pytest.mark.real
@pytest.mark.slow
def test_libkdumpfile_reads_the_memory_of_a_diskdump(kernel: Kernel, tmp_path: Path, need: Need) -> None:
    need("libkdumpfile")
    spec = diskdump_of(kernel, version=1)
    path = build(spec).file.write_to(tmp_path / "vmcore")
    assert oracles.libkdumpfile(path, pfns=spec.pages).digests == digests(spec.pages)


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("single", [False, True], ids=["segments", "one-segment"])
def test_crash_says_the_same_of_a_netdump(single: bool, kernel: Kernel, tmp_path: Path) -> None:
    raw = build_netdump_of(kernel, tmp_path / "vmcore", single=single)
    fields = oracles.crash_headers(raw)
    assert "NETDUMP_ELF64" in fields["flags"]
    assert int(fields["task_struct"], 16) == kernel.panic_task
    assert frames(kernel.crash(raw, *kernel.moved)) == frames(kernel.said)
    out = kernel.convert(raw)
    assert frames(kernel.crash(out, *kernel.moved)) == frames(kernel.said)
    assert info(raw)["format"] == "netdump"
    if not single:  # with one segment the holes between are zeros, and present
        assert "memory: the same" in same_memory(kernel.elf, out)
        # the kernel's image is mapped twice in /proc/vmcore and once here, and no byte differs
        converted = kernel.work / "elf.out"
        ran = oracle_tools.run([*oracle_tools.dumpconv_command(), kernel.elf, converted, "--no-fsync", "--force"])  # type: ignore[misc]
        assert ran.ok, ran.why
        assert info(out)["content_digest"] == info(converted)["content_digest"]


def frames(said: Mapping[str, str]) -> dict[str, str]:
    """`sys` says how much memory the file holds; all else must be equal."""
    return {name: re.sub(r"MEMORY: .*", "", text) for name, text in said.items()}


def build_netdump_of(kernel: Kernel, path: Path, *, single: bool) -> Path:
    """Copy the RAM segments of the ELF vmcore into a netdump; a sparse file."""
    with kernel.elf.open("rb") as stream:
        head = stream.read(4096)
        phoff, count = struct.unpack_from("<Q", head, 32)[0], struct.unpack_from("<H", head, 56)[0]
        rows = [struct.unpack_from("<II6Q", head, phoff + 56 * number) for number in range(count)]
        loads = [row for row in rows if row[0] == 1 and row[3] < TEXT_BASE]
        told = build_netdump.netdump_notes(task=kernel.panic_task, registers=kernel.registers, pid=1)
        end = max(row[4] + row[5] for row in loads)
        parts, offset = [], 4096
        for row in [(1, 7, 0, loads[0][3] - loads[0][4], 0, end, end, 0)] if single else loads:
            place = 4096 if single else offset
            parts.append({"p_type": 1, "p_flags": 7, "p_offset": place, "p_vaddr": row[3], "p_paddr": row[4],
                          "p_filesz": row[5], "p_memsz": row[5], "p_align": 4096})  # fmt: skip
            offset = place + -(-row[5] // 4096) * 4096
        note = {"p_type": 4, "p_offset": 64 + 56 * (1 + len(parts)), "p_filesz": len(told), "p_memsz": len(told)}
        header = {"e_type": 4, "e_machine": 62, "e_version": 1, "e_phoff": 64, "e_ehsize": 64, "e_phentsize": 56,
                  "e_phnum": 1 + len(parts)}  # fmt: skip
        with path.open("wb") as out:
            out.write(build_elf.pack_ehdr(64, "<", header))
            out.write(b"".join(build_elf.pack_phdr(64, "<", row) for row in [note, *parts]) + told)
            for number, row in enumerate(loads):
                out.seek(4096 + row[4] if single else parts[number]["p_offset"])
                stream.seek(row[2])
                for left in range(row[5], 0, -(1 << 20)):
                    out.write(stream.read(min(left, 1 << 20)))
            out.truncate(offset)
    return path


def test_the_notes_of_the_builder_are_the_sheets() -> None:
    """n_namesz 4, no NUL, types 1, 3, 4, and the sizes of a 64-bit machine."""
    found = parse_notes(build_netdump.netdump_notes(), "<")
    assert [(name, kind, len(desc)) for name, kind, desc in found] == [
        (b"CORE", 1, notes.ARCHES["x86_64"].prstatus_size), (b"CORE", 3, 136), (b"CORE", 4, 8)
    ]  # fmt: skip
