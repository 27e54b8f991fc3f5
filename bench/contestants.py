# SPDX-License-Identifier: GPL-2.0-or-later
"""Who takes part: dumpconv, its peers and the limit; how each is started, and how its output is checked."""

import hashlib
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

PEERS = Path(__file__).resolve().parent / "peers"
CFLAGS = ("-O2", "-Wall", "-Wextra")
PT_LOAD = 1
BLOCK_SIZE = 4 << 20


@dataclass(frozen=True)
class Contestant:
    """One command. `payload` returns the digest of the pages in its output, or is None where it cannot be compared."""

    name: str
    command: Callable[[Path, Path, bool], list[str]]  # (in, out, fsync)
    payload: Callable[[Path], str] | None
    codecs: tuple[str, ...] = ("zlib", "lzo", "snappy", "zstd", "raw")


def compile_peers(folder: Path) -> None:
    """Compile the C programs into the folder.

    Raises:
        SystemExit: no compiler, or a library's development files are missing.
    """
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "libkdumpfile"], capture_output=True, text=True, check=False
    )
    if flags.returncode:
        raise SystemExit(f"bench: libkdumpfile's development files are missing: {flags.stderr.strip()}")
    jobs = {"kdf_copy": flags.stdout.split(), "limit": ["-ldeflate", "-llzo2", "-lsnappy", "-lzstd", "-lpthread"]}
    for name, libraries in jobs.items():
        command = ["gcc", *CFLAGS, "-o", str(folder / name), str(PEERS / f"{name}.c"), *libraries]
        if subprocess.run(command, check=False).returncode:
            raise SystemExit(f"bench: cannot compile {name}.c (see bench/README.md for the packages)")


_VERIFY = "from dumpconv.cli import run_verify; run_verify()"


def find_dumpconv() -> str:
    """Return the dumpconv beside this interpreter, or on PATH.

    Raises:
        SystemExit: there is none.
    """
    beside = Path(sys.executable).with_name("dumpconv")
    found = str(beside) if beside.exists() else shutil.which("dumpconv")
    if found is None:
        raise SystemExit("bench: dumpconv is not installed: pip install -e .")
    return found


def find_dumpverify() -> list[str]:
    """Return the command: dumpverify beside dumpconv, else its entry point in this interpreter."""
    beside = Path(find_dumpconv()).with_name("dumpverify")
    return [str(beside)] if beside.exists() else [sys.executable, "-c", _VERIFY]


def all_contestants(folder: Path, threads: int) -> list[Contestant]:
    """Return those that can run here, the product first; `folder` holds the compiled peers."""
    found = []
    try:
        dumpconv = find_dumpconv()
    except SystemExit as error:
        print(error, file=sys.stderr)
    else:

        def convert(*options: str) -> Callable[[Path, Path, bool], list[str]]:
            return lambda source, out, fsync: [
                dumpconv, str(source), str(out), "--jobs", str(threads), *options, *([] if fsync else ["--no-fsync"]),
            ]  # fmt: skip

        found += [
            Contestant("dumpconv", convert(), elf_payload),
            Contestant("dumpconv --no-digest", convert("--no-digest"), elf_payload),
        ]

    def peer(name: str, *words: str) -> Callable[[Path, Path, bool], list[str]]:
        program = str(folder / name)
        return lambda source, out, fsync: [program, str(source), str(out), *words, *(["sync"] if fsync else [])]

    found += [
        Contestant("libkdumpfile, C, 1 thread", peer("kdf_copy"), file_payload),
        Contestant(f"limit, C, {threads} threads", peer("limit", str(threads)), file_payload),
    ]
    makedumpfile = shutil.which("makedumpfile")
    if makedumpfile:
        # It refuses kdump -> ELF; decoding into a kdump of raw pages is the nearest that it does.
        codecs = ("zlib", "raw", *makedumpfile_codecs(makedumpfile))
        found.append(
            Contestant(
                "makedumpfile -d 0",
                lambda source, out, _: [makedumpfile, "-d", "0", str(source), str(out)],
                None,
                codecs,
            )
        )
    elftool = shutil.which("kdump-elftool")
    if elftool:
        found.append(
            Contestant(
                "kdump-elftool topelf",
                lambda source, out, _: [
                    *(elftool, "topelf", "-I", "kdump", "-l", "all"),
                    *("-i", str(source), "-o", str(out)),
                ],
                elf_payload,
                ("zlib", "lzo", "raw"),
            )
        )
    return found


def makedumpfile_codecs(program: str) -> list[str]:
    """Return the optional codecs that makedumpfile was built with, by its -v."""
    told = subprocess.run([program, "-v"], capture_output=True, text=True, check=False)
    words = [line.split() for line in (told.stdout + told.stderr).splitlines()]
    return [
        line[0] for line in words if len(line) == 2 and line[1] == "enabled" and line[0] in ("lzo", "snappy", "zstd")
    ]


def hash_ranges(path: Path, ranges: list[tuple[int, int]]) -> str:
    """Return the sha256 of the (offset, size) ranges of a file, one after the other."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for offset, size in ranges:
            file.seek(offset)
            left = size
            while left:
                block = file.read(min(left, BLOCK_SIZE))
                if not block:
                    raise ValueError(f"{path}: ends inside its data")
                digest.update(block)
                left -= len(block)
    return digest.hexdigest()


def file_payload(path: Path) -> str:
    """Return the digest of a file that holds stored pages and nothing else."""
    return hash_ranges(path, [(0, path.stat().st_size)])


def elf_payload(path: Path) -> str:
    """Return the digest of the present memory of an ELF vmcore, in order of physical address.

    A segment that another one covers (the kernel text's alias) is left out.
    """
    kept: list[tuple[int, int]] = []
    end = 0
    # Of segments that start together, the longest comes first: an alias never outlives its RAM segment.
    for paddr, offset, size in sorted(elf_segments(path), key=lambda segment: (segment[0], -segment[2])):
        if paddr + size <= end:
            continue
        if paddr < end:
            raise ValueError(f"{path}: segment at {paddr:#x} overlaps the one before it in part")
        kept.append((offset, size))
        end = paddr + size
    return hash_ranges(path, kept)


def elf_segments(path: Path) -> Iterator[tuple[int, int, int]]:
    """Yield (p_paddr, p_offset, p_filesz) of each PT_LOAD of an ELF64 little-endian file."""
    with path.open("rb") as file:
        head = file.read(64)
        start, section_start = struct.unpack_from("<QQ", head, 32)
        (count,) = struct.unpack_from("<H", head, 56)
        if count == 0xFFFF:
            file.seek(section_start + 44)
            (count,) = struct.unpack("<I", file.read(4))
        file.seek(start)
        table = file.read(count * 56)
    for kind, _, offset, _, paddr, size, _, _ in struct.iter_unpack("<IIQQQQQQ", table):
        if kind == PT_LOAD and size:
            yield paddr, offset, size
