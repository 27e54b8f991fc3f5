# SPDX-License-Identifier: GPL-2.0-or-later
"""No input is ever removed or replaced, however it came to be one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dumpconv.cli import main
from dumpconv.convert.canonical import OutputFile
from dumpconv.formats.errors import OutputError
from support import build_kdump, patterns
from support.build_kdump import KdumpSpec


def test_an_input_with_the_name_of_the_temporary_file(tmp_path: Path) -> None:
    path = build_kdump.build(KdumpSpec(patterns.pages(3, 9))).write_to(tmp_path / "out.incomplete")
    before = path.read_bytes()
    assert main([str(path), str(tmp_path / "out")]) == 2
    picture = path.rename(tmp_path / "map.svg.incomplete")
    assert main(["map", str(picture), "--picture", str(tmp_path / "map.svg")]) == 2
    assert picture.read_bytes() == before


def test_an_output_that_is_a_member_found_beside_the_input(tmp_path: Path) -> None:
    spec = KdumpSpec(patterns.pages(0, 40))
    members = build_kdump.build_split(spec, [(0, 20), (20, 40)])
    paths = [str(member.write_to(tmp_path / str(index))) for index, member in enumerate(members)]
    before = Path(paths[1]).read_bytes()
    assert main([*paths, "--force"]) == 2
    assert Path(paths[1]).read_bytes() == before


def test_an_output_that_is_standard_input(tmp_path: Path) -> None:
    path = build_kdump.build(KdumpSpec(patterns.pages(3, 9))).write_to(tmp_path / "dump")
    before = path.read_bytes()
    with path.open("rb") as stdin:
        command = [sys.executable, "-m", "dumpconv", "-", str(path), "--force"]
        done = subprocess.run(command, stdin=stdin, capture_output=True, check=False)
    assert done.returncode == 2
    assert path.read_bytes() == before


def test_a_temporary_file_that_another_process_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(OutputError, match="replaced while we wrote it"), OutputFile(str(out)) as file:
        os.unlink(file.temporary)
        Path(file.temporary).write_text("another's, not whole yet")
        file.commit(sync=False)
    assert not out.exists()
    assert Path(file.temporary).read_text() == "another's, not whole yet"
