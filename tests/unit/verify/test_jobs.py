# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs over archives: budget, state, age; and that nothing that one file does ends the run."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from dumpconv.verify import verify_command
from dumpconv.verify.display.meter import Meter
from dumpconv.verify.run import Run
from support import corrupt, patterns
from support.command import VERIFY, dumpverify, environment
from support.small_dump import made

COUNT, PAGE = 24, 4096


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    folder = tmp_path / "archive"
    folder.mkdir()
    for name in "abc":
        made(folder / name, COUNT)
    return folder


def checked(*words: str | Path, code: int = 0) -> dict[str, list[str]]:
    """Give the findings' codes by name of file, in the order of the report."""
    done = dumpverify("--json", *words)
    assert (done.returncode, done.stderr) == (code, b""), done
    dumps = json.loads(done.stdout)["dumps"]
    return {os.path.basename(each["files"][0]): [one["code"] for one in each["findings"]] for each in dumps}


def entries(state: Path) -> dict[str, dict[str, Any]]:
    header, *lines = map(json.loads, state.read_text().splitlines() or ['{"schema": "dumpconv.verify-state/1"}'])
    assert header == {"schema": "dumpconv.verify-state/1"}
    last = {os.path.basename(each["path"]): each for each in lines}
    return {name: each for name, each in last.items() if "gone" not in each}


def test_bytes_end_the_run_between_dumps_and_inside(archive: Path) -> None:
    assert checked("--max-bytes", str(2 * COUNT * PAGE), archive, code=10) == {"a": [], "b": [], "c": ["E153"]}
    assert checked("--max-bytes", str(3 * COUNT * PAGE), archive) == {"a": [], "b": [], "c": []}
    assert checked("--max-bytes", "1K", archive, code=10) == {name: ["E153"] for name in "abc"}


def test_time_ends_the_run(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parser = argparse.ArgumentParser()
    verify_command.add_arguments(parser)
    args = parser.parse_args(["--max-duration", "2h", "--executor", "serial", str(archive)])
    assert args.max_duration == 7200
    run = Run(args, verify_command.verify_options(args), Meter()).reports()
    assert next(run).exit_code() == 0
    later = time.monotonic() + 7201
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert [each.exit_code() for each in run] == [10, 10]


def test_damage_counts_though_the_budget_ended_the_check(tmp_path: Path) -> None:
    image = made(tmp_path / "bad", COUNT, codec="zlib", fallback=False)
    offset, size, _ = image.data[20]
    corrupt.zero_file(tmp_path / "bad", offset, offset + size)
    assert checked("--max-bytes", "1K", tmp_path / "bad", code=3) == {"bad": ["E103", "E153"]}


@pytest.mark.parametrize("words", [["--max-bytes", "-1"], ["--max-duration", "2x"], ["--max-age", "90d"]])
def test_odd_limits_are_refused(archive: Path, words: list[str]) -> None:
    assert dumpverify(*words, archive).returncode == 2


def test_the_next_run_begins_with_what_was_not_checked(archive: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    budget = ("--state", state, "--max-bytes", str(COUNT * PAGE))
    assert checked(*budget, archive, code=10) == {"a": [], "b": ["E153"], "c": ["E153"]}
    first = entries(state)
    assert first["a"]["exit_code"] == 0 and first["a"]["level"] == "pages"
    status = (archive / "a").stat()
    assert (first["a"]["mtime_ns"], first["a"]["size"]) == (status.st_mtime_ns, status.st_size)
    second = list(checked(*budget, archive, code=10))
    assert second[0] == "c" and second.index("a") < second.index("b")  # b was begun after a was done
    assert set(entries(state)) == set("abc")
    assert sorted(os.listdir(tmp_path)) == ["archive", "state"]


def test_a_dump_larger_than_the_budget_does_not_hold_up_the_rest(archive: Path, tmp_path: Path) -> None:
    pages = {16 + index: patterns.page(index) for index in range(4 * COUNT)}
    made(archive / "a-large", COUNT, pages=pages)
    budget = ("--state", tmp_path / "state", "--max-bytes", str(3 * COUNT * PAGE))
    good: set[str] = set()
    for _ in range(3):
        good |= {name for name, codes in checked(*budget, archive, code=10).items() if not codes}
    assert good == set("abc")


def test_age_skips_what_is_good_and_unchanged(archive: Path, tmp_path: Path) -> None:
    words = ("--state", tmp_path / "state", "--max-age", "90d")
    assert set(checked(*words, archive)) == set("abc")
    assert checked(*words, archive) == {}
    assert set(checked(*words, "--level", "content", archive)) == set("abc")  # deeper than what was done
    assert checked(*words, "--level", "quick", archive) == {}
    os.utime(archive / "b", ns=(1, 1))
    assert set(checked(*words, archive)) == {"b"}
    lines = (tmp_path / "state").read_text().splitlines()
    old = [json.dumps({**json.loads(line), "time": time.time() - 91 * 86400}) for line in lines[1:]]
    (tmp_path / "state").write_text("\n".join([lines[0], *old]) + "\n")
    assert set(checked(*words, archive)) == set("abc")


def test_age_never_skips_what_was_bad(archive: Path, tmp_path: Path) -> None:
    (archive / "b").write_bytes((archive / "b").read_bytes()[:-5000])
    words = ("--state", tmp_path / "state", "--max-age", "90d", archive)
    assert set(checked(*words, code=3)) == set("abc")
    assert set(checked(*words, code=3)) == {"b"}


def test_an_unreadable_file_in_the_middle(archive: Path, tmp_path: Path) -> None:
    (archive / "b").unlink()
    (archive / "b").symlink_to("b")  # cannot be opened, by root neither
    found = checked("--state", tmp_path / "state", archive / "a", archive / "b", archive / "c", code=1)
    assert (found["a"], found["b"], found["c"]) == ([], ["E150"], [])


def test_a_file_that_disappears(archive: Path, tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    verify_command.add_arguments(parser)
    state = tmp_path / "state"
    args = parser.parse_args(["--jobs", "1", "--state", str(state), *(str(archive / name) for name in "abc")])
    run = Run(args, verify_command.verify_options(args), Meter()).reports()
    assert next(run).exit_code() == 0
    (archive / "b").unlink()
    assert [each.exit_code() for each in run] == [1, 0]
    assert set(entries(state)) == set("ac")


def test_a_signal_leaves_a_state_from_which_a_run_goes_on(archive: Path, tmp_path: Path) -> None:
    os.mkfifo(archive / "z")  # the run waits there: named, a pipe is opened
    state = tmp_path / "state"
    words = [*VERIFY, "--state", str(state), *(str(archive / name) for name in "abcz")]
    with subprocess.Popen(words, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd="/") as run:
        deadline = time.monotonic() + 30
        try:
            while not (state.exists() and len(entries(state)) == 3) and time.monotonic() < deadline:
                time.sleep(0.05)
            run.send_signal(signal.SIGINT)
            run.communicate(timeout=30)
        finally:
            run.kill()  # else a failure would wait for it for ever
    assert run.returncode == 128 + signal.SIGINT
    assert set(entries(state)) == set("abc")
    (archive / "z").unlink()
    made(archive / "z", COUNT)
    assert list(checked("--state", state, archive)) == ["z", "a", "b", "c"]


def test_another_file_is_no_state(archive: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("precious\n")
    assert dumpverify("--state", other, archive).returncode == 2
    assert dumpverify("--state", archive / "a", archive / "a").returncode == 2
    assert other.read_text() == "precious\n"


# -- what must never be skipped, lost or replaced ------------------------------------------------------------------


def test_what_was_allowed_once_is_not_good_for_ever(tmp_path: Path) -> None:
    image = made(tmp_path / "bad", COUNT, codec="zlib", fallback=False)
    offset, size, _ = image.data[20]
    corrupt.zero_file(tmp_path / "bad", offset, offset + size)
    words = ("--state", tmp_path / "state", "--max-age", "90d", tmp_path / "bad")
    assert checked("--allow", "E103", *words) == {"bad": ["E103"]}
    assert checked("--allow", "E103", *words) == {}
    assert checked(*words, code=3) == {"bad": ["E103"]}


def test_age_does_not_skip_what_a_manifest_was_never_held_against(archive: Path, tmp_path: Path) -> None:
    """Only the manifest finds a byte of a raw page that changed while the file's time did not."""
    image = made(archive / "b", COUNT, codec="raw")
    manifest = tmp_path / "sums.sha256"
    sums = {name: hashlib.sha256((archive / name).read_bytes()).hexdigest() for name in "abc"}
    manifest.write_text("".join(f"{value}  {archive / name}\n" for name, value in sums.items()))
    words = ("--state", tmp_path / "state", "--max-age", "90d")
    assert set(checked(*words, archive)) == set("abc")
    offset, times = image.data[20][0], (archive / "b").stat()
    with (archive / "b").open("r+b") as file:
        file.seek(offset + 9)
        byte = file.read(1)[0]
        file.seek(offset + 9)
        file.write(bytes([byte ^ 1]))
    os.utime(archive / "b", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert checked(*words, archive) == {}
    found = checked(*words, "--manifest", manifest, archive, code=5)
    assert set(found) == set("abc")
    assert "E112" in found["b"]
    assert set(checked(*words, "--manifest", manifest, archive, code=5)) == {"b"}
    manifest.write_text(manifest.read_text().replace(f"{sums['a']}  {archive}/a", f"{'0' * 64}  {archive}/a"))
    assert set(checked(*words, "--manifest", manifest, archive, code=5)) == {"a", "b"}


def test_a_state_line_without_these_fields_counts_as_never_checked(archive: Path, tmp_path: Path) -> None:
    words = ("--state", tmp_path / "state", "--max-age", "90d", archive)
    checked(*words)
    header, *lines = (tmp_path / "state").read_text().splitlines()
    old = [json.dumps({k: v for k, v in json.loads(line).items() if k != "allowed"}) for line in lines]
    (tmp_path / "state").write_text("\n".join([header, *old]) + "\n")
    assert set(checked(*words)) == set("abc")


def test_a_manifest_is_of_all_dumps(archive: Path, tmp_path: Path) -> None:
    words = ("--state", tmp_path / "state", "--max-age", "90d", "--write-manifest", tmp_path / "m.json")
    assert dumpverify(*words, archive).returncode == 2
    assert not (tmp_path / "m.json").exists()


@pytest.mark.parametrize("flag", ["--output", "--write-manifest"])
@pytest.mark.parametrize("suffix", ["", ".incomplete"])
def test_nothing_is_written_to_a_dump_of_a_directory(archive: Path, flag: str, suffix: str) -> None:
    made(archive / f"d{suffix}", COUNT)
    before = {path.name: path.read_bytes() for path in archive.iterdir()}
    done = dumpverify("--force", flag, archive / "d", archive)
    assert done.returncode == 2
    assert b"is a dump" in done.stderr
    assert {path.name: path.read_bytes() for path in archive.iterdir()} == before


def test_nothing_is_written_to_a_dump_elsewhere_or_an_archive(archive: Path, tmp_path: Path) -> None:
    subprocess.run(["tar", "-C", archive, "-cf", tmp_path / "t.tar", "b"], check=True)
    for other in (archive / "b", tmp_path / "t.tar"):  # a sister of a split member is such
        before = other.read_bytes()
        assert dumpverify("--force", "--output", other, archive / "a").returncode == 2
        assert other.read_bytes() == before


@pytest.mark.parametrize("kind", ["text", "json", "jsonl", "csv", "junit", "premis"])
def test_a_signal_leaves_the_report_of_the_run_before(archive: Path, tmp_path: Path, kind: str) -> None:
    """And what was done until then beside it, whole in its form: the state counts those dumps as checked."""
    os.mkfifo(archive / "z")
    report, part, state = tmp_path / "report", tmp_path / "report.incomplete", tmp_path / "state"
    report.write_text("of last night\n")
    words = [*VERIFY, "--state", str(state), "--report", kind, "--force", "--output", str(report)]
    words += [str(archive / name) for name in "abcz"]
    with subprocess.Popen(words, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd="/") as run:
        deadline = time.monotonic() + 30
        try:
            while not (state.exists() and len(entries(state)) == 3) and time.monotonic() < deadline:
                time.sleep(0.05)
            run.send_signal(signal.SIGTERM)
            run.communicate(timeout=30)
        finally:
            run.kill()  # else a failure would wait for it for ever
    assert run.returncode == 128 + signal.SIGTERM
    assert report.read_text() == "of last night\n"
    text = part.read_text()
    assert all(str(archive / name) in text for name in "abc")
    if kind in ("junit", "premis"):
        root = ElementTree.fromstring(text)  # noqa: S314 - our own
        assert sum(each.tag.rpartition("}")[2] in ("testcase", "event") for each in root.iter()) == 3
    if kind == "json":
        assert len(json.loads(text)["dumps"]) == 3


def test_a_report_goes_into_a_pipe(archive: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE) as reader:
        assert dumpverify("--force", "--report", "jsonl", "--output", pipe, archive).returncode == 0
        assert reader.stdout is not None
        assert len(reader.stdout.read().splitlines()) == 3
    assert pipe.is_fifo()


def test_a_dump_that_lost_its_first_bytes_is_damaged_not_skipped(archive: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    (archive / "notes.txt").write_text("no dump")
    assert checked("--state", state, archive) == {"a": [], "b": [], "c": [], "notes.txt": ["I301"]}
    assert entries(state)["a"]["format"] == "kdump"
    corrupt.zero_file(archive / "b", 0, 8192)
    expected = {"a": [], "b": ["I301", "E158"], "c": [], "notes.txt": ["I301"]}
    assert checked("--state", state, archive, code=3) == expected
    done = dumpverify("--state", state, archive)  # and stays so
    assert done.returncode == 3
    assert b"b: DAMAGED" in done.stdout
    assert b"it was a dump (format kdump) when it was checked before" in done.stdout
    assert checked(archive / "b", "--state", state, code=3) == {"b": ["E154", "E158"]}


def test_nested_brackets_are_no_state_and_no_manifest(archive: Path, tmp_path: Path) -> None:
    deep = tmp_path / "deep"
    dump = '{"files": [{"path": "a", "digests": {}, "size": 1e999}]}'
    for text in ('{"schema":' + "[" * 200000, '{"schema": "dumpconv.manifest/1", "dumps": [' + dump + "]}"):
        deep.write_text(text)
        for flag in ("--state", "--manifest"):
            done = dumpverify(flag, deep, archive)
            assert done.returncode in (2, 3), done.stderr
            assert b"a bug" not in done.stderr
    state = tmp_path / "state"
    state.write_text('{"schema": "dumpconv.verify-state/1"}\n' + "[" * 200000 + "\n")
    assert checked("--state", state, archive) == {"a": [], "b": [], "c": [], "state": ["W225"]}
    assert checked("--state", state, archive) == {"a": [], "b": [], "c": []}
