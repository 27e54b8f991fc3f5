# SPDX-License-Identifier: GPL-2.0-or-later
"""The memory of a real crash, packed into LKCD files by hand: is the builder right, and then the reader?

No living machine writes LKCD. So crash must say the same of the built file as of the kernel's own vmcore, and
libkdumpfile must read the same bytes; then what we convert it to must say the same again.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from oracle import elf_struct
from oracle.debuggers import normal

from support import build_lkcd, oracle_tools, oracles
from support.build_lkcd import GZIP, NONE, RLE, Cpu, LkcdSpec

pytestmark = [pytest.mark.real, pytest.mark.oracle]

COMMANDS = ("sys", "bt", "bt -a", "log", "ps")
# name -> version, method, where the records begin
VARIANTS = {"v8-gzip": (8, GZIP, 65536), "v9-raw": (9, NONE, 131072), "v8-rle": (8, RLE, 65536)}


@dataclass
class Crash:
    """A crashed machine by its raw vmcore."""

    vmcore: Path
    vmlinux: Path | None
    kaslr: str
    phys_base: str
    uts: dict[str, str]
    registers: list[tuple[int, ...]]
    places: dict[int, tuple[int, int]]  # pfn -> file offset, bytes of the frame that are stored

    def pages(self) -> Iterator[tuple[int, bytes]]:
        with self.vmcore.open("rb") as stream:
            for pfn in sorted(self.places):
                offset, size = self.places[pfn]
                stream.seek(offset)
                yield pfn, stream.read(size).ljust(4096, b"\0")


@pytest.fixture(scope="module")
def crashed(real_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Crash:
    packed = real_dir / "vmcore.elf.zst"
    if not packed.exists():
        pytest.skip(f"{packed} is missing")
    path = oracle_tools.unpack(packed, tmp_path_factory.mktemp("real"))
    core = elf_struct.read_core(path)
    info = elf_struct.lines_of(core.vmcoreinfo)
    data = path.read_bytes()
    places: dict[int, tuple[int, int]] = {}
    for load in core.loads:
        if load.p_vaddr >= 0xFFFFFFFF80000000:
            continue  # the kernel's text once more
        for at in range(0, load.p_filesz, 4096):
            places[(load.p_paddr + at) // 4096] = load.p_offset + at, min(4096, load.p_filesz - at)
    registers, at = [], next(phdr.p_offset for phdr in core.phdrs if phdr.p_type == 4)
    while struct.unpack_from("<III", data, at) == (5, 336, 1):
        registers.append(struct.unpack_from("<21Q", data, at + 20 + 112))  # r15 to ss, as in pt_regs
        at += 20 + 336
    release = info["OSRELEASE"]
    return Crash(
        path,
        oracle_tools.find_vmlinux(release),
        "0x" + info["KERNELOFFSET"],
        info["NUMBER(phys_base)"],
        {"sysname": "Linux", "nodename": "(none)", "release": release, "version": "#1 SMP", "machine": "x86_64"},
        registers,
        places,
    )


def ask_crash(crashed: Crash, dump: Path, *options: str) -> dict[str, str]:
    """What crash prints for each command."""
    script = dump.with_suffix(".cmds")
    script.write_text("".join(f"!echo '=== {command}'\n{command}\n" for command in COMMANDS) + "quit\n")
    argv = ["crash", "-s", "--no_scroll", *options, "-i", script, oracle_tools.for_crash(crashed.vmlinux), dump]
    ran = oracle_tools.run(argv, timeout=300, env={"HOME": str(dump.parent)})
    parts = re.split(r"^=== (.*)$", ran.out, flags=re.MULTILINE)
    told = {name: normal(text) for name, text in zip(parts[1::2], parts[2::2], strict=True)}
    assert set(told) == set(COMMANDS), ran.why
    return told


def where(crashed: Crash) -> tuple[str, ...]:
    """LKCD says nowhere where the kernel lies."""
    return f"--kaslr={crashed.kaslr}", "-m", f"phys_base={crashed.phys_base}"


@pytest.fixture(scope="module")
def said(crashed: Crash, need: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    need("crash")
    if crashed.vmlinux is None:
        pytest.skip("no vmlinux with debug information")
    link = tmp_path_factory.mktemp("said") / "vmcore.elf"
    link.symlink_to(crashed.vmcore)
    return ask_crash(crashed, link)


def tasks(text: str) -> dict[int, int]:
    """Task of each CPU, out of `bt -a`."""
    return {int(cpu): int(task, 16) for task, cpu in re.findall(r"TASK: (\w+) +CPU: (\d+)", text)}


@pytest.fixture(scope="module", params=VARIANTS)
def built(request: pytest.FixtureRequest, crashed: Crash, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    version, method, start = VARIANTS[request.param]
    told = request.getfixturevalue("said")
    task = tasks(told["bt -a"])
    panicked = int(re.findall(r"CPU: (\d+)", told["bt"])[0])
    cpus = [Cpu(words, task[cpu]) for cpu, words in enumerate(crashed.registers)]
    asm = build_lkcd.asm_header("x86_64", "<", cpus, version=2, slots=32, dumping=panicked, regs=cpus[panicked].regs)
    spec = LkcdSpec(
        version=version, compress=method, start=start, level=1, asm=asm, uts=crashed.uts, task=task[panicked],
        panic=re.findall(r'PANIC: "(.*)"', told["sys"])[0].encode() + b"\n",
    )  # fmt: skip
    folder = tmp_path_factory.mktemp(request.param)
    yield build_lkcd.write_large(spec, crashed.pages(), len(crashed.places), folder / f"{request.param}.lkcd")
    for path in folder.iterdir():
        path.unlink()


def frames(text: str, first: str) -> list[str]:
    """The frames of a backtrace from a function on, without their numbers."""
    lines = [line.split(" ", 1)[-1] for line in map(str.strip, text.splitlines()) if line.startswith("#")]
    return lines[next(at for at, line in enumerate(lines) if f" {first} at " in line) :]


def test_crash_says_the_same_of_the_built_file(built: Path, crashed: Crash, said: dict[str, str]) -> None:
    told = ask_crash(crashed, built, *where(crashed))
    assert {name: told[name] for name in ("sys", "log", "ps")} == {name: said[name] for name in ("sys", "log", "ps")}
    # of LKCD crash looks for the stack's end by itself (x86_64_get_dumpfile_stack_frame), two frames above
    assert frames(told["bt"], "panic") == frames(said["bt"], "panic")
    assert len(frames(said["bt"], "panic")) > 8


def test_libkdumpfile_reads_the_same_bytes(built: Path, crashed: Crash, need: Callable[..., None]) -> None:
    need("libkdumpfile")
    if "rle" in built.name:
        pytest.skip("libkdumpfile takes run lengths for one less than they are")
    wanted = {pfn: hashlib.sha256(page).hexdigest() for pfn, page in crashed.pages()}
    pfns = sorted(wanted)
    for at in range(0, len(pfns), 10000):  # they go by the command line
        view = oracles.libkdumpfile(built, pfns=pfns[at : at + 10000])
        assert (view.arch, view.page_size) == ("x86_64", 4096)
        assert view.digests == {pfn: wanted[pfn] for pfn in pfns[at : at + 10000]}


def test_the_converted_file_says_the_same(built: Path, crashed: Crash, said: dict[str, str]) -> None:
    command = oracle_tools.dumpconv_command()
    if command is None:
        pytest.skip("dumpconv is not installed")
    out, straight = built.with_suffix(".elf"), built.with_suffix(".straight")
    digests = []
    for source, target in ((built, out), (crashed.vmcore, straight)):
        ran = oracle_tools.run([*command, source, target, "--json", "--no-fsync"], timeout=300)
        assert ran.ok, ran.why
        digests.append(json.loads(ran.out)["content_digest"])
    assert digests[0] == digests[1]
    notes = elf_struct.read_core(out).notes
    assert [note.type for note in notes if note.name.rstrip(b"\0") == b"CORE"] == [1] * len(crashed.registers)
    assert ask_crash(crashed, out, *where(crashed)) == said
