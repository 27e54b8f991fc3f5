# SPDX-License-Identifier: GPL-2.0-or-later
"""LiME, AVML, mcore and raw memory: what volatility3 and crash read in the builders' files, and in ours made of them.

A real kernel's memory goes into files of the builders, which know nothing of our layouts. volatility3 must find each
page, crash its tasks and its log: then the builders are right, and our readers are held against the same files.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import cramjam
import pytest
from elftools.elf.elffile import ELFFile

from support import build_lime, build_mcore, make_corpus, oracle_tools
from support.reference import runs_of

pytestmark = pytest.mark.oracle
Need = Callable[..., None]

WORKER = Path(__file__).with_name("volatility_worker.py")
DIRECT = 0xFFFF888000000000
TEXT = 0xFFFFFFFF80000000
BLOCK = 16 << 20
RAW = "vmcore.elf.zst"
# Corpus cases of whole pages that volatility's rules allow: ascending, no orphan, nothing behind the end.
LIME = ("plain", "two-halves", "reserved", "header-in-ram", "beyond-2-53")
AVML = ("plain", "small-chunks", "several-chunks")  # it takes for ever over a stream that is larger than its memory


def volatility(kind: str, path: Path, runs: list[list[int]]) -> str:
    pytest.importorskip("volatility3")
    done = subprocess.run(
        [sys.executable, WORKER, kind, path],
        input=json.dumps(runs),
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-500:]
    return done.stdout.strip()


@pytest.mark.parametrize("name", [f"lime/{name}" for name in LIME] + [f"avml/{name}" for name in AVML])
def test_volatility_reads_what_was_built(name: str) -> None:
    description = make_corpus.CORPUS / f"{name}.toml"
    facts = tomllib.loads(description.read_text())
    path = description.parent / facts["files"][0]
    expected = facts["expected"]
    assert volatility(description.parent.name, path, expected["present"]) == expected["pages_sha256"]


# -- a real kernel's memory ----------------------------------------------------------------------------------------


class Memory:
    """The RAM segments of the real vmcore."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with open(path, "rb") as stream:
            self.segments = [
                (segment["p_paddr"], segment["p_filesz"], segment["p_offset"])
                for segment in ELFFile(stream).iter_segments()
                if segment["p_type"] == "PT_LOAD" and segment["p_vaddr"] < TEXT
            ]
        text = path.read_bytes()[: 1 << 20]
        self.kaslr = int(re.search(rb"KERNELOFFSET=([0-9a-f]+)", text)[1], 16)  # type: ignore[index]
        self.phys_base = int(re.search(rb"NUMBER\(phys_base\)=(-?\d+)", text)[1])  # type: ignore[index]
        self.release = re.search(rb"OSRELEASE=(\S+)", text)[1].decode()  # type: ignore[index]

    def pieces(self, size: int = 1 << 62) -> Iterator[tuple[int, bytes]]:
        with open(self.path, "rb") as stream:
            for paddr, filesz, offset in self.segments:
                for at in range(0, filesz, size):
                    stream.seek(offset + at)
                    yield paddr + at, stream.read(min(size, filesz - at))

    def pages(self) -> dict[int, bytes]:
        return {
            (paddr + at) // 4096: data[at : at + 4096]
            for paddr, data in self.pieces()
            for at in range(0, len(data) - len(data) % 4096, 4096)
        }


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory, real_dir: Path) -> Memory:
    source = real_dir / RAW
    if not source.is_file():
        pytest.skip(f"{source} is missing")
    return Memory(oracle_tools.unpack(source, tmp_path_factory.mktemp("real")))


def digest_of(pages: dict[int, bytes]) -> str:
    digest = hashlib.sha256()
    for pfn in sorted(pages):
        digest.update(struct.pack("<Q", pfn) + pages[pfn])
    return digest.hexdigest()


def write_lime(memory: Memory, path: Path) -> None:
    with open(path, "wb") as out:
        for paddr, data in memory.pieces():
            out.write(build_lime.header(build_lime.Range(paddr, data), avml=False) + data)


def write_avml(memory: Memory, path: Path) -> None:
    """As AVML does it: blocks of 16 MiB, those of zeros left out. Google's format by another library than libsnappy."""
    with open(path, "wb") as out:
        for paddr, data in memory.pieces(BLOCK):
            if data.count(0) == len(data):
                continue
            body = bytes(cramjam.snappy.compress(data))
            out.write(build_lime.header(build_lime.Range(paddr, data), avml=True) + body + struct.pack("<Q", len(body)))


def dumpconv(*words: object) -> subprocess.CompletedProcess[str]:
    command = oracle_tools.dumpconv_command()
    assert command is not None
    return subprocess.run([*command, *map(str, words)], capture_output=True, text=True, check=False)


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lime", "avml"])
def test_volatility_and_we_read_real_memory(kind: str, memory: Memory, tmp_path: Path) -> None:
    path, out = tmp_path / f"memory.{kind}", tmp_path / "out"
    {"lime": write_lime, "avml": write_avml}[kind](memory, path)
    pages = memory.pages()
    if kind == "avml":
        zero = {at for at, data in memory.pieces(BLOCK) if data.count(0) == len(data)}
        pages = {
            pfn: page
            for pfn, page in pages.items()
            if not any(at <= pfn * 4096 < at + BLOCK for at in zero)
        }  # fmt: skip
    assert volatility(kind, path, [list(run) for run in runs_of(pages)]) == digest_of(pages)
    done = dumpconv(path, out)
    assert done.returncode == 0, done.stderr
    with open(out, "rb") as stream:
        converted = Memory.__new__(Memory)
        converted.path = out
        converted.segments = [
            (segment["p_paddr"], segment["p_filesz"], segment["p_offset"])
            for segment in ELFFile(stream).iter_segments()
            if segment["p_type"] == "PT_LOAD"
        ]
    ours = converted.pages()
    assert digest_of({pfn: page for pfn, page in ours.items() if pfn in pages}) == digest_of(pages)
    assert len(ours) == len(pages) + 1  # the frame of which LiME has a part


def write_mcore(memory: Memory, path: Path, version: int) -> str:
    spec = build_mcore.McoreSpec(memory.pages(), version=version, base=DIRECT, per_entry=128, level=1)
    path.write_bytes(build_mcore.build(spec))
    return str(path)


def write_raw(memory: Memory, path: Path) -> str:
    words = []
    for number, (paddr, data) in enumerate(memory.pieces()):
        piece = path.with_suffix(f".{number}")
        piece.write_bytes(data)
        words.append(f"{piece}@{paddr:x}")
    return ",".join(words)


WRITERS: dict[str, Callable[[Memory, Path], str]] = {
    "mcore-v1": lambda memory, path: write_mcore(memory, path, 1),
    "mcore-v2": lambda memory, path: write_mcore(memory, path, 2),
    "raw": write_raw,
}
COMMANDS = ("sys", "bt", "log", "ps", "mod")


def crash(memory: Memory, dump: str, folder: Path) -> dict[str, str]:
    vmlinux = oracle_tools.find_vmlinux(memory.release)
    if vmlinux is None:
        pytest.skip(f"vmlinux of {memory.release} is missing")
    script = folder / "commands"
    script.write_text("".join(f"!echo '=== {command}'\n{command}\n" for command in COMMANDS) + "quit\n")
    how = [f"--kaslr={memory.kaslr:#x}", "--machdep", f"phys_base={memory.phys_base}"]
    argv = ["crash", "-s", "--no_scroll", *how, "-i", script, oracle_tools.for_crash(vmlinux), dump]
    ran = oracle_tools.run(argv, timeout=240)
    parts = re.split(r"^=== (.*)$", ran.out, flags=re.MULTILINE)
    said = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert set(said) == set(COMMANDS), ran.why
    # `sys` names the files, one a line
    said["sys"] = re.sub(r" *DUMPFILES?:.*?(?=\n *CPUS:)", "", said["sys"], flags=re.DOTALL)
    # where a stack begins is crash's own choice for each kind of dump (it knows machine_kexec in vmcores alone)
    said["bt"] = said["bt"].partition(" #1 ")[2]
    return said


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("kind", WRITERS)
def test_crash_sees_the_same_in_the_builders_file_and_in_ours(
    kind: str, memory: Memory, tmp_path: Path, need: Need
) -> None:
    need("crash")
    dump, out = WRITERS[kind](memory, tmp_path / "dump"), tmp_path / "out"
    told = ["--machine", "x86_64", *(["-f", "raw"] if kind == "raw" else [])]
    done = dumpconv(*told, dump, out)
    assert done.returncode == 0, done.stderr
    built, ours = crash(memory, dump, tmp_path), crash(memory, str(out), tmp_path)
    assert "Kernel panic - not syncing: sysrq triggered crash" in built["sys"]
    assert "sysrq_handle_crash" in built["bt"]
    assert built["log"].count("\n") > 300
    assert ours == built
