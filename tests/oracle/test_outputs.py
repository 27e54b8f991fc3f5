# SPDX-License-Identifier: GPL-2.0-or-later
"""What dumpconv writes beside ELF is read by others as the original is: libkdumpfile, makedumpfile, crash, drgn,
volatility."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from support import build_elf, build_kdump, notes, oracle_tools, oracles, patterns, x86_memory
from support.build_kdump import KdumpSpec
from support.command import dumpconv, report
from support.reference import decode

pytestmark = pytest.mark.oracle
Need = Callable[..., None]
KINDS = [
    ("64", "x86_64", "<"),
    ("64", "aarch64", "<"),
    ("64", "ppc64", ">"),
    ("64", "s390x", ">"),
    ("32pack", "i386", "<"),
]
CODECS = {"raw": [], "zlib": ["-c"], "lzo": ["-l"], "snappy": ["-p"], "zstd": ["-z"]}
PAGES = patterns.pages(3, 40) | patterns.pages(45, 48, kind="random") | patterns.pages(100, 104, kind="zero")
EXCLUDED = [(50, 99), (200, 300)]


def source(kind: tuple[str, str, str], folder: Path) -> Path:
    layout, arch, order = kind
    text = notes.vmcoreinfo_text()
    spec = KdumpSpec(
        PAGES,
        EXCLUDED,
        layout=layout,
        order=order,
        notes=notes.machine_notes(arch, order=order, text=text),
        vmcoreinfo=text,
        uts={"machine": notes.ARCHES[arch].uts_machine, "release": "6.1.0-test", "sysname": "Linux"},
        nr_cpus=2,
    )
    return build_kdump.build(spec).write_to(folder / "in")


def digests(pages: Mapping[int, bytes]) -> dict[int, str]:
    return {pfn: hashlib.sha256(page).hexdigest() for pfn, page in pages.items()}


def written(path: Path, out: Path, *words: str) -> Path:
    done = dumpconv(path, out, "--no-fsync", "--force", *words)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_libkdumpfile_reads_our_kdump(kind: tuple[str, str, str], codec: str, tmp_path: Path, need: Need) -> None:
    need("libkdumpfile")
    out = written(source(kind, tmp_path), tmp_path / "out", "-O", "kdump", *CODECS[codec])
    view = oracles.libkdumpfile(out)
    assert view.digests == digests(PAGES)
    ram = set(PAGES) | {pfn for run in EXCLUDED for pfn in range(*run)}
    assert {pfn for run in view.ram for pfn in range(*run)} == ram
    assert view.byte_order == (1 if kind[2] == "<" else 0)


def test_libkdumpfile_reads_our_split_set(tmp_path: Path, need: Need) -> None:
    need("libkdumpfile")
    written(source(KINDS[0], tmp_path), tmp_path / "out", "-O", "kdump", "-c", "--split", "3")
    assert oracles.libkdumpfile(*(tmp_path / f"out.{n}" for n in (3, 1, 2))).digests == digests(PAGES)


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
@pytest.mark.parametrize("words", [["--lkcd-version", "8"], ["--lkcd-version", "9"], ["--codec", "raw"]], ids=" ".join)
def test_libkdumpfile_reads_our_lkcd(kind: tuple[str, str, str], words: list[str], tmp_path: Path, need: Need) -> None:
    need("libkdumpfile")
    out = written(source(kind, tmp_path), tmp_path / "out", "-O", "lkcd", *words)
    view = oracles.libkdumpfile(out, pfns=sorted(PAGES))
    assert view.digests == digests(PAGES)
    assert view.byte_order == (1 if kind[2] == "<" else 0)


def test_libkdumpfile_has_no_bytes_for_lost_frames(tmp_path: Path, need: Need) -> None:
    need("libkdumpfile")
    spec = KdumpSpec(PAGES, EXCLUDED, notes=notes.machine_notes(), stored={5: (b"\x78\x01 broken", 1)})
    path = build_kdump.build(spec).write_to(tmp_path / "in")
    done = dumpconv(path, tmp_path / "out", "-O", "kdump", "-c", "--salvage")
    assert done.returncode == 3
    view = oracles.libkdumpfile(tmp_path / "out")
    assert view.digests == digests({pfn: page for pfn, page in PAGES.items() if pfn != 5}) | {5: None}


def test_crash_sees_our_header(tmp_path: Path, need: Need) -> None:
    need("crash")
    fields = oracles.crash_headers(written(source(KINDS[0], tmp_path), tmp_path / "out", "-O", "kdump", "-z"))
    wanted = {"header_version": 6, "block_size": 4096, "status": 0x20, "nr_cpus": 2, "max_mapnr_64": 300}
    assert {name: int(fields[name].split()[0], 0) for name in wanted if name != "status"} == {
        name: value for name, value in wanted.items() if name != "status"
    }
    assert (fields["machine"], fields["release"]) == ("x86_64", "6.1.0-test")
    assert int(fields["num_prstatus_notes"].split()[0]) == 2


def test_makedumpfile_puts_our_parts_together(tmp_path: Path, need: Need) -> None:
    need("makedumpfile")
    path = x86_memory.kaslr().elf_spec()
    build_elf.build(path).write_to(tmp_path / "in")
    whole = written(tmp_path / "in", tmp_path / "whole", "-O", "kdump", "-c")
    written(tmp_path / "in", tmp_path / "part", "-O", "kdump", "-c", "--split", "3")
    parts = [str(tmp_path / f"part.{n}") for n in (2, 3, 1)]
    oracles.run(["makedumpfile", "--reassemble", *parts, tmp_path / "again"])
    assert decode(tmp_path / "again").pages == decode(whole).pages


def test_makedumpfile_rearranges_our_stream(tmp_path: Path, need: Need) -> None:
    need("makedumpfile")
    path = source(KINDS[0], tmp_path)
    plain = written(path, tmp_path / "plain", "-O", "kdump", "-l", "--no-digest").read_bytes()
    stream = tmp_path / "stream"
    stream.write_bytes(dumpconv(path, "-", "-O", "kdump", "-F", "-l").stdout)
    assert oracles.rearrange(stream, tmp_path / "out") == plain


@pytest.mark.parametrize("codec", ["raw", "zlib", "lzo"])
def test_makedumpfile_filters_ours_as_the_original(codec: str, tmp_path: Path, need: Need) -> None:
    need("makedumpfile")
    build_elf.build(x86_memory.kaslr().elf_spec()).write_to(tmp_path / "in")
    ours = written(tmp_path / "in", tmp_path / "ours", "-O", "kdump", *CODECS[codec])
    for name in ("in", "ours"):
        oracles.run(["makedumpfile", "-l", "-d", "1", tmp_path / name, tmp_path / f"{name}.filtered"])
    assert ours.exists()
    first, second = decode(tmp_path / "in.filtered"), decode(tmp_path / "ours.filtered")
    assert (first.pages, first.excluded_runs) == (second.pages, second.excluded_runs)
    # our notes travel along, and what comes of it is the same file again
    assert dumpconv(tmp_path / "ours.filtered", tmp_path / "back", "--no-fsync").returncode == 0


# -- a real kernel -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(real_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("real")
    yield written(real_dir / "vmcore.elf.zst", folder / "vmcore.elf")
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def vmlinux(real: Path, need: Need) -> Path:
    need("crash")
    release = report("info", real)["kernel"]["release"]
    found = oracle_tools.find_vmlinux(release)
    if found is None:
        pytest.skip(f"no vmlinux of {release}")
    return oracle_tools.for_crash(found)


@pytest.fixture(scope="module")
def said(real: Path, vmlinux: Path) -> str:
    return crash(real, vmlinux)


def crash(path: Path, vmlinux: Path, *options: str, commands: str = "sys\nlog\nps\nbt\nquit\n") -> str:
    done = subprocess.run(
        ["crash", "-s", *options, str(vmlinux), str(path)],
        input=commands,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    return done.stdout


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("words", [["kdump", "-c"], ["kdump", "-z"], ["kdump", "-F", "-l"], ["lkcd"]], ids=" ".join)
def test_crash_says_of_ours_what_it_says_of_the_original(
    real: Path, vmlinux: Path, said: str, words: list[str], tmp_path: Path
) -> None:
    told = report(real, tmp_path / "out", "--no-fsync", "-O", *words)
    options: list[str] = []
    for finding in told["findings"]:
        if finding["code"] == "crash-options":
            options = finding["message"].split("crash ")[1].split()
    assert bool(options) == (words == ["lkcd"])
    first, second = said, crash(tmp_path / "out", vmlinux, *options)
    assert "PANIC:" in first
    if words != ["lkcd"]:
        assert re.sub("DUMPFILE: .*", "", second) == re.sub("DUMPFILE: .*", "", first)
        return
    # crash starts at the saved registers here, and searches the stack there; it prints the panic line as it finds it
    frames = [re.findall(r"^ *#\d+ (\[\w+\] \S+ at \w+)", text, re.MULTILINE) for text in (first, second)]
    assert len(frames[1]) > 8
    assert frames[0][-len(frames[1]) + 1 :] == frames[1][1:]
    panic = "Kernel panic - not syncing: sysrq triggered crash"
    assert f'PANIC: "{panic}"' in second
    for text in ("RELEASE:", "UPTIME:", "NODENAME:", "MEMORY:", "CPUS:"):
        line = re.search(f"{text}.*", first)
        assert line is not None
        assert line[0] in second
    log = [line for line in first.splitlines() if line.startswith("[")]
    assert [line for line in second.splitlines() if line.startswith("[")] == log


@pytest.mark.real
@pytest.mark.slow
def test_volatility_reads_our_lime(real: Path, tmp_path: Path) -> None:
    pytest.importorskip("volatility3")
    out = written(real, tmp_path / "out.lime", "-O", "lime")
    code = "import sys; sys.argv[0] = 'vol'; from volatility3.cli import main; main()"
    words = ["-q", "-r", "json", "-f", str(out), "banners.Banners"]
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    release = report("info", real)["kernel"]["release"]
    assert [each for each in found if f"Linux version {release}" in each["Banner"]]
