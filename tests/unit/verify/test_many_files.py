# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs over many files: what one check leaves behind, and what an archive's tree holds beside dumps."""

from __future__ import annotations

import errno
import gc
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from dumpconv.formats import decode, kdump_layout, sisters
from dumpconv.formats.errors import OutputError
from dumpconv.verify.jobs import State
from dumpconv.verify.pagecheck import PageOptions
from dumpconv.verify.target import VerifyOptions, verify_target
from dumpconv.verify.verdict import TargetReport
from dumpconv.verify.walk import report_no_file, targets
from support import corrupt, notes, patterns
from support.build_kdump import KdumpSpec, build_split
from support.command import dumpverify, one_line
from support.small_dump import made

COUNT = 12
UTS = {"machine": "x86_64", "release": "6.1.0-test"}
ALONE = VerifyOptions(pages=PageOptions(1, "serial"))


def test_a_check_leaves_no_buffers_to_the_collector(tmp_path: Path) -> None:
    made(tmp_path / "dump", COUNT)
    gc.collect()
    gc.disable()
    try:
        assert verify_target([str(tmp_path / "dump")], ALONE).pages["stored"] > 0
        left = [each for each in gc.get_objects() if isinstance(each, (decode.Worker, decode.DecodeJob))]
    finally:
        gc.enable()
    assert not left


def test_headers_are_understood_once_for_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = {16 + index: patterns.page(16 + index) for index in range(COUNT)}
    spec = KdumpSpec(pages=pages, notes=notes.machine_notes(cpus=1))
    for number, member in enumerate(build_split(spec, [(0, 20), (20, 24), (24, 28)])):
        member.write_to(tmp_path / f"part.{number}")
    names: list[str] = []
    inner = kdump_layout._detect_abi

    def counted(source: kdump_layout.ByteSource) -> tuple[kdump_layout.Abi, kdump_layout.MainHeader]:
        names.append(Path(source.name).name)
        return inner(source)

    monkeypatch.setattr(kdump_layout, "_detect_abi", counted)
    assert len(verify_target([str(tmp_path / "part.1")], ALONE).files) == 3
    assert sorted(names) == ["part.0", "part.1", "part.2"]


def test_a_directory_of_many_sets_is_looked_through_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(number: int) -> None:
        pages = {16 + index: patterns.page(number + index) for index in range(COUNT)}
        spec = KdumpSpec(pages=pages, notes=notes.machine_notes(cpus=1), uts={**UTS, "nodename": f"host{number}"})
        for part, member in enumerate(build_split(spec, [(0, 20), (20, 28)])):
            member.write_to(tmp_path / f"{number}.{part}")

    opened: list[str] = []
    inner = sisters.open_source

    def counted(path: str, *words: Any, **more: Any) -> Any:
        opened.append(path)
        return inner(path, *words, **more)

    monkeypatch.setattr(sisters, "open_source", counted)
    for number in range(6):
        make(number)
    for number in range(6):
        files = verify_target([str(tmp_path / f"{number}.1")], ALONE).files
        assert sorted(map(os.path.basename, files)) == [f"{number}.0", f"{number}.1"]
    assert len(opened) == 12 + 6  # all for the index, then the one other member of each
    make(6)  # while the index is kept
    assert len(verify_target([str(tmp_path / "6.0")], ALONE).files) == 2


def found_in(folder: Path, *words: str | Path, code: int = 0) -> dict[str, list[str]]:
    """Give the codes by the path below `folder`."""
    done = dumpverify("--json", *words, folder)
    assert (done.returncode, done.stderr) == (code, b""), done
    dumps = json.loads(done.stdout)["dumps"]
    return {os.path.relpath(each["files"][0], folder): [one["code"] for one in each["findings"]] for each in dumps}


def test_nothing_in_a_tree_is_left_out_without_a_word(tmp_path: Path) -> None:
    tree, elsewhere = tmp_path / "tree", tmp_path / "elsewhere"
    for folder in (tree / "sub", elsewhere):
        folder.mkdir(parents=True)
        made(folder / "dump", COUNT)
    (tree / "dangling").symlink_to("nothing")
    (tree / "loop").symlink_to("loop")
    (tree / "link").symlink_to("../elsewhere/dump")
    (tree / "up").symlink_to("..")
    (tree / "inside").symlink_to("sub")
    os.mkfifo(tree / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tree / "socket"))
        found = found_in(tree)
    links = {"dangling": ["W224"], "loop": ["W224"], "up": ["I309"]}
    assert found == {"sub/dump": [], "link": [], **links}
    assert found_in(tree, "--strict", code=7) == found
    done = dumpverify(tree)
    assert b"2 doubtful, 2 good, 1 skipped" in done.stdout
    assert f"I309 link to a directory elsewhere: not followed: it leads to {tmp_path}\n" in done.stdout.decode()


def test_a_name_that_is_too_long_to_open_is_told(tmp_path: Path) -> None:
    here = os.getcwd()
    try:
        os.chdir(tmp_path)
        for _ in range(22):
            os.mkdir("d" * 200)
            os.chdir("d" * 200)
    finally:
        os.chdir(here)
    assert list(found_in(tmp_path, code=1).values()) == [["E150"]]


def test_directories_and_files_that_cannot_be_looked_at_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(tmp_path / "good", COUNT)
    (tmp_path / "bad").mkdir()
    (tmp_path / "gone").mkdir()
    made(tmp_path / "stale", COUNT)
    scandir, status = os.scandir, os.stat

    def list_(path: str) -> Any:
        if path.endswith("gone"):
            (tmp_path / "gone").rmdir()
        if path.endswith("bad"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return scandir(path)

    def look(path: Any, **more: Any) -> os.stat_result:
        if str(path).endswith("stale"):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)
        return status(path, **more)

    monkeypatch.setattr(os, "scandir", list_)
    monkeypatch.setattr(os, "stat", look)
    found = [path for path, _ in targets([str(tmp_path)])]
    assert [os.path.basename(path) for path in found] == ["good", "stale", "bad"]
    report = report_no_file(str(tmp_path / "bad"), "pages", frozenset())
    assert report is not None and report.exit_code() == 1
    assert report.findings[0].message == "a directory that cannot be listed: Input/output error"
    assert report_no_file(str(tmp_path / "good"), "pages", frozenset()) is None


def test_a_state_with_damage_in_its_middle(tmp_path: Path) -> None:
    tree, state = tmp_path / "tree", tmp_path / "state"
    tree.mkdir()
    for name in "abc":
        made(tree / name, COUNT)
    words = ("--state", state, "--max-age", "90d")
    assert set(found_in(tree, *words)) == set("abc")
    state.chmod(0o640)
    lines = state.read_bytes().splitlines(keepends=True)
    state.write_bytes(b"".join([lines[0], lines[1], bytes(4096), b"\xff" + lines[2][5:], *lines[3:]]))
    assert found_in(tree, *words) == {"b": [], os.path.relpath(state, tree): ["W225"]}
    assert found_in(tree, *words) == {}
    assert state.stat().st_mode & 0o777 == 0o640


def test_age_skips_what_has_only_warnings_but_not_when_they_count(tmp_path: Path) -> None:
    made(tmp_path / "dump", COUNT, notes=b"")
    words = ("--state", tmp_path / "state", "--max-age", "90d")
    assert found_in(tmp_path / "dump", *words) == {".": ["W216", "W217"]}
    assert found_in(tmp_path / "dump", *words) == {}
    assert found_in(tmp_path / "dump", *words, "--strict", code=7) == {".": ["W216", "W217"]}
    assert found_in(tmp_path / "dump", *words) == {}


def test_states_of_other_versions(tmp_path: Path) -> None:
    made(tmp_path / "dump", COUNT)
    state = tmp_path / "state"
    words = ("--state", state, "--max-age", "90d")
    assert len(found_in(tmp_path / "dump", *words)) == 1
    head, line = state.read_text().splitlines()
    state.write_text("\n".join([head, json.dumps({**json.loads(line), "moon": "full"})]) + "\n")
    assert found_in(tmp_path / "dump", *words) == {}  # a newer one that says more
    state.write_text(head.replace("state/1", "state/2") + "\n" + line + "\n")
    before = state.read_bytes()
    done = dumpverify(*words, tmp_path / "dump")
    assert done.returncode == 2
    assert "verify-state/2, this one has dumpconv.verify-state/1" in one_line(done)
    assert state.read_bytes() == before


def test_what_was_found_stays_found_when_a_report_cannot_be_written(tmp_path: Path) -> None:
    image = made(tmp_path / "dump", COUNT, codec="zlib", fallback=False)
    for code in (1, 3):
        done = dumpverify("--report", "json", "--output", "/dev/full", "--force", tmp_path / "dump")
        assert (done.returncode, done.stdout) == (code, b"")
        assert one_line(done) == "dumpconv: /dev/full: cannot write: No space left on device"
        offset, size, _ = image.data[20]
        corrupt.zero_file(tmp_path / "dump", offset, offset + size)
    with open("/dev/full", "wb") as full:
        done = dumpverify(tmp_path / "dump", stdout=full)
    assert done.returncode == 3
    assert one_line(done) == "dumpconv: standard output: No space left on device"


def test_a_state_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    made(tmp_path / "dump", COUNT)
    state = State(str(tmp_path / "state"))
    state._file.close()
    with open("/dev/full", "a", encoding="utf-8") as state._file:
        with pytest.raises(OutputError, match="state: cannot write: No space left"):
            state.remember(str(tmp_path / "dump"), {}, [TargetReport([str(tmp_path / "dump")], "pages")])
        state.close()
