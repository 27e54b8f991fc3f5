# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel model against what the real machine said of itself before it died, and against vmcore-dmesg."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from dumpconv.analyze.kernel import Kernel
from dumpconv.analyze.log import render
from dumpconv.formats import open_dump
from support.command import dumpconv

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def dump(real_dir: Path) -> Path:
    return real_dir / "vmcore.d31.zstd.kdump"


@pytest.fixture(scope="module")
def kernel(dump: Path) -> Kernel:
    return Kernel(open_dump([str(dump)]))


def truth(real_dir: Path, name: str) -> bytes:
    with (real_dir / "truth" / name).open("rb") as file:
        return zstandard.ZstdDecompressor().stream_reader(file).read()


def test_symbols_are_those_of_the_guest(kernel: Kernel, real_dir: Path) -> None:
    lines = truth(real_dir, "kallsyms.zst").decode().splitlines()
    wanted = [line for line in lines if "\t[" not in line and " [" not in line]
    assert [f"{each.address:016x} {each.letter} {each.name}" for each in kernel.symbols] == wanted


def test_types_are_those_of_the_guest(kernel: Kernel, real_dir: Path) -> None:
    assert kernel.btf.data == truth(real_dir, "btf.zst")


@pytest.mark.oracle
def test_the_log_is_that_of_vmcore_dmesg(kernel: Kernel, dump: Path, tmp_path: Path, need: Callable[..., None]) -> None:
    need("vmcore-dmesg")
    assert dumpconv(dump, tmp_path / "out.elf").returncode == 0
    done = subprocess.run(["vmcore-dmesg", tmp_path / "out.elf"], capture_output=True, check=True)
    assert b"".join(render(record) + b"\n" for record in kernel.log) == done.stdout
    assert dumpconv("analyze", dump, "log").stdout == done.stdout


def test_little_of_the_dump_is_read(dump: Path) -> None:
    kernel = Kernel(open_dump([str(dump)]))
    assert kernel.log
    assert kernel.physical.pages_read < 400
    assert kernel.symbols
    assert kernel.physical.pages_read < 1000


def test_what_cannot_be_had_is_one_line(dump: Path) -> None:
    done = dumpconv("analyze", dump, "rd", "ffff800000000000")
    assert done.returncode == 1
    assert done.stderr.decode().startswith("dumpconv: memory at 0xffff800000000000 cannot be read: ")
    assert dumpconv("analyze", dump, "nothing").returncode == 2
    assert dumpconv("analyze", dump, "sym", "no_such_symbol").returncode == 1
