# SPDX-License-Identifier: GPL-2.0-or-later
"""Plain gdb on a vmlinux and a core made for it: traces to the system call, modules' code and data, vmalloc."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from dumpconv.formats import open_dump
from support.command import dumpconv

pytestmark = [pytest.mark.real, pytest.mark.oracle, pytest.mark.slow]


@pytest.fixture(scope="module")
def dump(real_dir: Path) -> Path:
    return real_dir / "vmcore.d31.zstd.kdump"


@pytest.fixture(scope="module")
def files(dump: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("gdb")
    vmlinux, core = folder / "vmlinux", folder / "core"
    done = dumpconv("analyze", dump, "--write-vmlinux", vmlinux, "--for", "gdb")
    assert (done.returncode, done.stderr) == (0, b"")
    assert dumpconv("--map-kernel", "--no-fsync", dump, core).returncode == 0
    return vmlinux, core


@pytest.fixture(scope="module")
def gdb(files: tuple[Path, Path]) -> Callable[..., str]:
    program = shutil.which("gdb-multiarch") or shutil.which("gdb")
    if program is None:
        pytest.skip("gdb is not installed")

    def run(*commands: str) -> str:
        words = [program, "-nx", "-batch", "-ex", "set pagination off"]
        for each in commands:
            words += ["-ex", each]
        done = subprocess.run([*words, *files], capture_output=True, text=True, check=False, timeout=120)
        return done.stdout

    return run


def test_it_walks_from_the_panic_to_the_system_call(gdb: Callable[..., str], dump: Path) -> None:
    threads = gdb("info threads")
    stopped = next(line.split()[0] for line in threads.splitlines() if "__crash_kexec" in line)
    told = gdb(f"thread {stopped}", "bt")
    frames = [line.split() for line in told[told.rindex("#0 ") :].splitlines() if line.startswith("#")]
    names = [words[3] if words[2] == "in" else words[1] for words in frames]
    said = dumpconv("analyze", dump, "--json", "bt").stdout
    (trace,) = json.loads(said)["result"]
    ours = [each["function"] for each in trace["frames"]]
    assert names == ours
    assert names[1:3] == ["panic", "sysrq_handle_crash"]
    assert names[-2:] == ["do_syscall_64", "entry_SYSCALL_64_after_hwframe"]


def test_it_reads_what_page_tables_map(gdb: Callable[..., str], dump: Path) -> None:
    modules = json.loads(dumpconv("analyze", dump, "--json", "mod").stdout)["result"]
    one = next(each for each in modules if each["name"] == "virtio_blk")
    told = gdb(
        f"p ((struct module *){one['module']})->name", f"info symbol {one['base']}", "p init_task.comm",
        f"x/2i {one['base']}", "p __per_cpu_offset[1]",
        "p *(unsigned long *)(__per_cpu_offset[1] + (long)&this_cpu_off)",
    ).splitlines()  # fmt: skip
    assert told[-1].split(" = ")[1] == told[-2].split(" = ")[1]  # a per-CPU variable of the second CPU
    text = "\n".join(told)
    assert '"virtio_blk"' in text
    assert "in section .module.virtio_blk.0" in text
    assert '"swapper/0' in text
    assert "Cannot access" not in text


def test_the_core_is_the_canonical_file_with_more_headers(files: tuple[Path, Path], dump: Path, tmp_path: Path) -> None:
    _, core = files
    plain, again = tmp_path / "plain", tmp_path / "again"
    assert dumpconv("--no-fsync", dump, plain).returncode == 0
    assert dumpconv("--no-fsync", core, again).returncode == 0
    assert again.read_bytes() == plain.read_bytes()
    with core.open("rb") as file, plain.open("rb") as other:
        ours, theirs = ([*ELFFile(each).iter_segments("PT_LOAD")] for each in (file, other))
        assert len(ours) > len(theirs) + 100
        place = {}  # each physical page is in the file once
        for each in ours:
            for offset in range(0, each["p_filesz"], 4096):
                assert (
                    place.setdefault(each["p_paddr"] + offset, each["p_offset"] + offset) == each["p_offset"] + offset
                )
        addresses = sorted((each["p_vaddr"], each["p_vaddr"] + each["p_memsz"]) for each in ours)
        assert all(first[1] <= second[0] for first, second in pairwise(addresses))
    stored = open_dump([str(core)]).memory_map.count
    assert [stored(state) for state in range(5)] == [open_dump([str(plain)]).memory_map.count(s) for s in range(5)]


def test_frames_are_read_by_another_reader(files: tuple[Path, Path]) -> None:
    """pyelftools takes all of .debug_frame; ranges do not overlap."""
    with files[0].open("rb") as file:
        info = ELFFile(file).get_dwarf_info()
        entries = [each for each in info.CFI_entries() if "initial_location" in each.header]
        ranges = sorted(
            (each["initial_location"], each["initial_location"] + each["address_range"]) for each in entries
        )
        assert len(entries) > 40_000
        assert sum(first[1] > second[0] for first, second in pairwise(ranges)) == 0
        for each in entries[::500]:
            assert each.get_decoded().table


@pytest.mark.parametrize(
    "words",
    [["--for", "gdb", "log"], ["--write-vmlinux", "x", "--for", "lldb"], ["--for"]],
)
def test_wrong_words(dump: Path, words: list[str]) -> None:
    assert dumpconv("analyze", dump, *words).returncode == 2


def test_only_elf_has_headers_for_it(dump: Path, tmp_path: Path) -> None:
    assert dumpconv("--map-kernel", "-O", "kdump", dump, tmp_path / "out").returncode == 2
