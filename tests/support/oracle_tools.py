# SPDX-License-Identifier: GPL-2.0-or-later
"""Finds and runs the independent programs of tests/oracle, and makes dumps for them; knows nothing of our product.

Every program runs in a subprocess with a time limit: some crash on odd input, and `makedumpfile -R` waits 600 seconds
for the rest of a stream that ends early.
"""

from __future__ import annotations

import ctypes.util
import fcntl
import gzip
import lzma
import os
import shlex
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

REPOSITORY = Path(__file__).resolve().parents[2]
VMLINUX_PLACES = ("/usr/lib/debug/boot", "/usr/lib/debug/lib/modules", "/boot")
ELF_MAGIC, KDUMP_MAGIC, FLAT_MAGIC = b"\x7fELF", b"KDUMP   ", b"makedumpfile\0\0\0\0"
PACKED = {b"\x28\xb5\x2f\xfd": ".zst", b"\xfd7zXZ\x00": ".xz", b"\x1f\x8b": ".gz"}
EM_X86_64 = 62
CRASH_CACHE = "DUMPCONV_TESTS_CRASH_CACHE"
SYSTEM_PYTHON = "/usr/bin/python3"  # the only one that Debian's kdumpfile module works in


@dataclass(frozen=True)
class Ran:
    """What a program did; `status` is None when it ran out of time, negative when a signal ended it."""

    argv: tuple[str, ...]
    status: int | None
    out: str
    err: str

    @property
    def ok(self) -> bool:
        return self.status == 0

    @property
    def why(self) -> str:
        """One line that says how it failed: the last line it wrote, or its status."""
        lines = [line.strip() for line in (self.out + "\n" + self.err).replace("\r", "\n").splitlines() if line.strip()]
        told = f"status {self.status}" if self.status is not None else "out of time"
        return f"{told}: {lines[-1][:160]}" if lines else told


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    timeout: float = 120,
    stdin: IO[bytes] | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Ran:
    """Run a program without a terminal; on a timeout its whole process group is killed."""
    command = tuple(os.fspath(part) for part in argv)
    settings = {**os.environ, "LC_ALL": "C", "TERM": "dumb", "COLUMNS": "200", **(env or {})}
    with subprocess.Popen(
        command,
        stdin=stdin if stdin is not None else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=settings,
        cwd=cwd,
        start_new_session=True,
    ) as process:
        status: int | None
        try:
            out, err = process.communicate(timeout=timeout)
            status = process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            status = None
    return Ran(command, status, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"))


# --- which programs there are -----------------------------------------------------------------------------------------


def tool(name: str) -> str | None:
    """The path of a program, looking where root's programs are as well, or None."""
    return shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")


def python_tool(name: str) -> str | None:
    """The path of a program installed with this Python (`drgn`, `vol`, `dumpconv`), or one in PATH, or None."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.is_file() else tool(name)


def libkdumpfile() -> str | None:
    """The name of the C library libkdumpfile for ctypes, or None."""
    return ctypes.util.find_library("kdumpfile")


def has_kdumpfile_module() -> bool:
    """Whether the system's Python has libkdumpfile's Python module."""
    return Path(SYSTEM_PYTHON).exists() and run([SYSTEM_PYTHON, "-c", "import kdumpfile"], timeout=30).ok


def dumpconv_command() -> list[str] | None:
    """The product as a command: DUMPCONV in the environment, else installed with this Python, else in PATH."""
    if os.environ.get("DUMPCONV"):
        return shlex.split(os.environ["DUMPCONV"])
    found = python_tool("dumpconv")
    return [found] if found else None


def find_vmlinux(release: str) -> Path | None:
    """The kernel with debug information for a release (`6.1.0-56-cloud-amd64`), where Debian puts them, or None."""
    for place in VMLINUX_PLACES:
        for name in (f"vmlinux-{release}", f"{release}/vmlinux"):
            if (found := Path(place) / name).is_file():
                return found
    return None


def for_crash(vmlinux: Path) -> Path:
    """A copy with gdb's index, made once in a run of the tests: crash and gdb start in 3 s with it, in 9 without.

    The file itself where no run says where the copy may lie (see tests/conftest.py), or gdb is not here.
    """
    folder = os.environ.get(CRASH_CACHE)
    if not folder or not tool("gdb-add-index") or not tool("gdb"):
        return vmlinux
    copy = Path(folder) / vmlinux.name
    with open(f"{copy}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not copy.exists():
            unfinished = copy.with_suffix(".unfinished")
            shutil.copyfile(vmlinux, unfinished)
            if not run(["gdb-add-index", unfinished], timeout=240).ok:
                shutil.copyfile(vmlinux, unfinished)
            unfinished.rename(copy)
    return copy


def real_dumps() -> Path | None:
    """The directory of real dumps: DUMPCONV_REAL, else ../shared/real beside the repository; None if there is none."""
    named = os.environ.get("DUMPCONV_REAL")
    place = Path(named) if named else REPOSITORY.parent / "shared" / "real"
    return place if place.is_dir() else None


# --- files ------------------------------------------------------------------------------------------------------------


def unpack(path: Path, folder: Path) -> Path:
    """The file itself, or what a .zst, .xz or .gz holds (told by content), unpacked into `folder`."""
    with open(path, "rb") as stream:
        head = stream.read(6)
    suffix = next((suffix for magic, suffix in PACKED.items() if head.startswith(magic)), None)
    if suffix is None:
        return path
    target = folder / path.name.removesuffix(suffix)
    folder.mkdir(parents=True, exist_ok=True)
    if suffix == ".zst":
        _unzstd(path, target)
    else:
        opener = lzma.open if suffix == ".xz" else gzip.open
        with opener(path, "rb") as source, open(target, "wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 22)
    return target


def _unzstd(path: Path, target: Path) -> None:
    if program := tool("zstd"):
        ran = run([program, "-d", "-q", "-f", "--long=27", "--sparse", path, "-o", target], timeout=300)
        if not ran.ok:
            raise RuntimeError(f"{path}: {ran.why}")
        return
    import zstandard

    with open(path, "rb") as source, open(target, "wb") as sink:
        zstandard.ZstdDecompressor(max_window_size=1 << 27).copy_stream(source, sink)


def kind_of(path: Path) -> str | None:
    """'elf' for an ELF core with segments (Xen's has none), 'kdump', 'flat' for a flattened stream, else None."""
    with open(path, "rb") as stream:
        head = stream.read(64)
    if head.startswith(KDUMP_MAGIC):
        return "kdump"
    if head.startswith(FLAT_MAGIC):
        return "flat"
    if head.startswith(ELF_MAGIC) and len(head) == 64:
        order = "<" if head[5] == 1 else ">"
        segments = struct.unpack_from(order + "H", head, 56 if head[4] == 2 else 44)[0]
        return "elf" if segments and struct.unpack_from(order + "H", head, 16) == (4,) else None
    return None


@dataclass(frozen=True)
class KdumpFacts:
    """What a kdump header says, read with struct alone (docs/formats/kdump.md, sections 2 and 3)."""

    order: str
    bits: int
    version: int
    machine: str
    status: int
    block_size: int
    split: bool
    notes: tuple[int, int]  # offset, size; 0, 0 when there are none
    head: bytes  # the main header's block: equal in every member of a split set


def kdump_facts(path: Path) -> KdumpFacts | None:
    """Read the headers of a compressed kdump; None if no byte order and word size make sense."""
    with open(path, "rb") as stream:
        head = stream.read(4096)
        for order in "<>":
            for bits, at in ((64, 424), (32, 412)):
                status, block_size, sub_hdr_size = struct.unpack_from(order + "Iii", head, at)
                if block_size in (1 << shift for shift in range(12, 19)) and 0 < sub_hdr_size < 1 << 20:
                    stream.seek(block_size)
                    sub = stream.read(104).ljust(104, b"\0")
                    return _kdump_facts(head, sub, (order, bits, status, block_size))
    return None


def _kdump_facts(head: bytes, sub: bytes, told: tuple[str, int, int, int]) -> KdumpFacts:
    order, bits, status, block_size = told
    version = struct.unpack_from(order + "i", head, 8)[0]
    machine = head[272:337].split(b"\0")[0].decode("latin-1")
    at_split, code, at_notes = 12, "QQ", 48
    if bits == 32:
        packed = struct.unpack_from(order + "Q", sub, 32)[0] == block_size + 80 or machine.startswith("i")
        at_split, code, at_notes = 8, "QI", 32 if packed else 40
    notes = struct.unpack_from(order + code, sub, at_notes) if version >= 4 else (0, 0)
    split = version >= 2 and struct.unpack_from(order + "i", sub, at_split)[0] == 1
    return KdumpFacts(order, bits, version, machine, status, block_size, split, notes, head)


def patched_copy(path: Path, target: Path, patches: Mapping[int, bytes]) -> Path:
    """Copy a file and overwrite bytes at the given offsets: the damaged twin for a negative self-check."""
    run(["cp", "--sparse=auto", path, target], timeout=120)
    target.chmod(0o600)
    with open(target, "r+b") as stream:
        for offset, data in patches.items():
            stream.seek(offset)
            stream.write(data)
    return target


# --- makedumpfile as a maker of dumps ---------------------------------------------------------------------------------


def make_dump(source: Path, target: Path, *options: str, timeout: float = 120) -> Ran:
    """Filter `source` with makedumpfile into `target`; with -F the stream is caught from its standard output."""
    target.unlink(missing_ok=True)
    if "-F" not in options:
        return run(["makedumpfile", *options, source, target], timeout=timeout)
    script = 'out=$1; shift; exec makedumpfile "$@" > "$out"'
    return run(["sh", "-c", script, "sh", target, *options, source], timeout=timeout)


def make_split(source: Path, targets: Sequence[Path], *options: str, timeout: float = 120) -> Ran:
    """Filter `source` into the members of a split set."""
    for target in targets:
        target.unlink(missing_ok=True)
    return run(["makedumpfile", "--split", *options, source, *targets], timeout=timeout)


def rearrange(stream: Path, target: Path, *, timeout: float = 60) -> Ran:
    """What `makedumpfile -R` makes of a flattened stream."""
    target.unlink(missing_ok=True)
    with open(stream, "rb") as source:
        return run(["makedumpfile", "-R", target], stdin=source, timeout=timeout)


def reassemble(members: Sequence[Path], target: Path, *, timeout: float = 120) -> Ran:
    """What `makedumpfile --reassemble` makes of a split set."""
    target.unlink(missing_ok=True)
    return run(["makedumpfile", "--reassemble", *members, target], timeout=timeout)
