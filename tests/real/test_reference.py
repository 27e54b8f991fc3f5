# SPDX-License-Identifier: GPL-2.0-or-later
"""The reference decoder reads real dumps: each page stored in a kdump equals the page of the raw vmcore."""

from __future__ import annotations

import lzma
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from support import oracles
from support.reference import decode, open_reference

pytestmark = pytest.mark.real
# Facts of the dumped machine: makedumpfile reported the counts, readelf the partial segment end.
STORED_PAGES = 16620
PARTIAL_PFN = 0x9F


@pytest.fixture(scope="module")
def vmcore(real_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpack the raw vmcore that the kdumps were made from."""
    if shutil.which("zstd") is None:
        pytest.skip("zstd is missing")
    path = tmp_path_factory.mktemp("real") / "vmcore.elf"
    packed = real_dir / "vmcore.elf.zst"
    subprocess.run(["zstd", "-q", "-d", "--long=27", packed, "-o", path], check=True, timeout=120)
    return path


@pytest.fixture(params=["zstd", "snappy"])
def kdump(request: pytest.FixtureRequest, real_dir: Path, tmp_path: Path) -> Path:
    if request.param == "zstd":
        return real_dir / "vmcore.d31.zstd.kdump"
    path = tmp_path / "kdump"
    with lzma.open(real_dir / "vmcore.d31.snappy.kdump.xz") as packed:
        path.write_bytes(packed.read())
    return path


def check_against(pages: dict[int, bytes], vmcore: Path) -> None:
    """Each page must be in the vmcore with the same bytes."""
    rest = dict(pages)
    with open_reference(vmcore) as reader:
        for pfn, _, payload in reader.frames():
            if pfn in rest:
                assert rest.pop(pfn) == payload, f"pfn {pfn:#x}"
        assert set(reader.result.partial) == {PARTIAL_PFN}
    assert not rest


def test_stored_pages_equal_the_raw_vmcore(kdump: Path, vmcore: Path) -> None:
    dump = decode(kdump)
    assert len(dump.pages) == STORED_PAGES
    assert (dump.lost, dump.damaged, dump.exit_code) == ({}, {}, 0)
    check_against(dump.pages, vmcore)


def test_notes_of_the_kdump_are_those_of_the_vmcore(kdump: Path, vmcore: Path) -> None:
    with open_reference(kdump) as first, open_reference(vmcore) as second:
        assert first.result.notes == second.result.notes
        assert first.result.vmcoreinfo == second.result.vmcoreinfo


@pytest.mark.oracle
@pytest.mark.parametrize("options", [["-c", "-d", "31"], ["-l", "-d", "0"], ["-E", "-d", "31"]], ids="".join)
def test_what_makedumpfile_makes_of_the_vmcore(
    options: list[str], vmcore: Path, tmp_path: Path, need: Callable[..., None]
) -> None:
    need("makedumpfile")
    oracles.makedumpfile(options, vmcore, tmp_path / "out")
    dump = decode(tmp_path / "out")
    assert (dump.lost, dump.damaged, dump.exit_code) == ({}, {}, 0)
    assert len(dump.pages) > 16000  # -E drops long runs of zero pages, which a kdump keeps as shared ones
    dump.pages.pop(PARTIAL_PFN, None)
    check_against(dump.pages, vmcore)


@pytest.mark.oracle
@pytest.mark.parametrize("options", [["-c", "-d", "31"], ["-E", "-d", "31"]], ids="".join)
def test_flattened_stream_of_the_vmcore(
    options: list[str], vmcore: Path, tmp_path: Path, need: Callable[..., None]
) -> None:
    need("makedumpfile")
    plain, stream = tmp_path / "plain", tmp_path / "stream"
    oracles.makedumpfile(options, vmcore, plain)
    with stream.open("wb") as out:
        subprocess.run(
            ["makedumpfile", "-F", *options, vmcore], stdout=out, stderr=subprocess.DEVNULL, check=True, timeout=60
        )
    first, second = decode(plain), decode(stream)
    assert second.flattened
    assert (second.pages, second.excluded_runs) == (first.pages, first.excluded_runs)


@pytest.mark.oracle
def test_split_set_of_the_vmcore(vmcore: Path, tmp_path: Path, need: Callable[..., None]) -> None:
    need("makedumpfile")
    parts = [tmp_path / f"part{number}" for number in range(3)]
    oracles.makedumpfile(["-c", "-d", "31", "--split"], vmcore, *parts)
    dump = decode(*parts)
    assert len(dump.pages) == STORED_PAGES
    check_against(dump.pages, vmcore)
