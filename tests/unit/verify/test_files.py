# SPDX-License-Identifier: GPL-2.0-or-later
"""Several dumps at a time, several reports of a run, and the state file as a journal."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dumpconv.verify.files import FilePool, FileResult, FileTask, check_file
from dumpconv.verify.jobs import State
from dumpconv.verify.target import VerifyOptions
from dumpconv.verify.verdict import TargetReport
from support import corrupt, notes, patterns
from support.build_kdump import KdumpSpec, build_split
from support.command import dumpverify, environment
from support.small_dump import made

COUNT = 12


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    folder = tmp_path / "archive"
    folder.mkdir()
    for index in range(12):
        image = made(folder / f"d{index:02}", COUNT, first=16 + index, codec="zlib", fallback=False)
        if index == 7:
            offset, size, _ = image.data[25]
            corrupt.zero_file(folder / "d07", offset, offset + size)
    (folder / "note.txt").write_text("no dump")
    return folder


def told(*words: str | Path, code: int) -> list[tuple[str, list[str]]]:
    done = dumpverify("--json", *words)
    assert (done.returncode, done.stderr) == (code, b""), done
    dumps = json.loads(done.stdout)["dumps"]
    return [(os.path.basename(each["files"][0]), [one["code"] for one in each["findings"]]) for each in dumps]


def test_any_number_of_workers_tells_the_same_in_the_same_order(archive: Path) -> None:
    alone = told("--jobs", "1", archive, code=3)
    assert alone == [*((f"d{n:02}", ["E103"] if n == 7 else []) for n in range(12)), ("note.txt", ["I301"])]
    for words in (["--jobs", "2"], ["--jobs", "5"], ["--jobs", "2", "--executor", "spawn"], ["--executor", "threads"]):
        assert told(*words, archive, code=3) == alone


def test_manifests_are_the_same(archive: Path, tmp_path: Path) -> None:
    texts = set()
    for jobs in ("1", "3"):
        done = dumpverify("--jobs", jobs, "--write-manifest", tmp_path / f"m{jobs}.sha256", archive)
        assert done.returncode == 3
        texts.add((tmp_path / f"m{jobs}.sha256").read_text())
    assert len(texts) == 1 and texts.pop().count("\n") == 13
    assert told("--jobs", "3", "--manifest", tmp_path / "m3.sha256", archive, code=3)[0] == ("d00", [])
    (archive / "d05").write_bytes((archive / "d05").read_bytes() + b"x")
    found = dict(told("--jobs", "3", "--manifest", tmp_path / "m3.sha256", archive, code=3))
    assert "E112" in found["d05"] and found["d04"] == []


def test_members_of_a_set_are_one_dump(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    pages = {16 + index: patterns.page(16 + index) for index in range(COUNT)}
    spec = KdumpSpec(pages=pages, notes=notes.machine_notes(cpus=1))
    for number, member in enumerate(build_split(spec, [(0, 20), (20, 24), (24, 28)])):
        member.write_to(folder / f"part.{number}")
    made(folder / "z", COUNT)
    one, other = (told("--jobs", jobs, folder, code=0) for jobs in ("1", "4"))
    assert one == other and len(one) == 2


def deadly(job: object, task: FileTask) -> FileResult:
    if task.path.endswith("d03"):
        os.kill(os.getpid(), signal.SIGKILL)
    return check_file(job, task)  # type: ignore[arg-type]


def test_a_file_that_kills_its_worker_takes_no_other_along(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dumpconv.verify.files.check_file", deadly)
    pool = FilePool(VerifyOptions(), 2, "processes")
    paths = [str(archive / f"d{index:02}") for index in range(6)]
    for path in paths:
        pool.submit(FileTask(path, in_directory=True))
    found = [pool.take() for _ in paths]
    pool.close()
    assert [task.path for task, _ in found] == paths
    codes = [[each.code for each in result.reports[0].findings] for _, result in found]
    assert codes == [[], [], [], ["E150"], [], []]
    assert "killed" in found[3][1].reports[0].findings[0].message


BUG = """
import sys
import dumpconv.verify.files as files
good = files.verify_target
def bad(paths, *words, **more):
    if paths[0].endswith("d03"):
        raise ZeroDivisionError("of ours")
    return good(paths, *words, **more)
files.verify_target = bad
from dumpconv.cli import run_verify
run_verify()
"""


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_bug_of_ours_ends_one_check_only(jobs: str, archive: Path, tmp_path: Path) -> None:
    """In a run over years of dumps; it is no verdict on the file, which is due again at once."""

    def ran(*words: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", BUG, "--json", "--jobs", jobs, *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment())

    state = tmp_path / "state"
    done = ran("--state", state, archive)
    assert (done.returncode, done.stderr) == (3, "")
    dumps = {os.path.basename(each["files"][0]): each for each in json.loads(done.stdout)["dumps"]}
    assert len(dumps) == 13
    assert dumps["d03"]["findings"][0]["code"] == "E159"
    assert dumps["d03"]["findings"][0]["message"] == "ZeroDivisionError: of ours"
    (archive / "d07").unlink()
    done = ran("--state", state, "--max-age", "1d", archive)
    assert done.returncode == 70
    assert [os.path.basename(each["files"][0]) for each in json.loads(done.stdout)["dumps"]] == ["d03"]
    done = ran("--debug", archive)
    assert done.returncode in (1, 70) and "Traceback" in done.stderr and "ZeroDivisionError: of ours" in done.stderr


def test_several_reports_of_one_run(archive: Path, tmp_path: Path) -> None:
    names = {kind: tmp_path / f"r.{kind}" for kind in ("json", "jsonl", "csv", "junit", "premis", "html")}
    words = [f"--report={kind}={name}" for kind, name in names.items()]
    done = dumpverify(*words, archive)
    assert done.returncode == 3
    assert b"12 dumps: 1 DAMAGED, 11 good, 1 skipped" in done.stdout
    assert len(json.loads(names["json"].read_text())["dumps"]) == 13
    assert len(names["jsonl"].read_text().splitlines()) == 13
    rows = list(csv.reader(names["csv"].read_text().splitlines()))
    assert [row[7] for row in rows if row[0].endswith("d07")] == ["E103"]
    assert 'failures="1"' in names["junit"].read_text() and "<premis" in names["premis"].read_text()
    assert "E103" in names["html"].read_text()
    assert sorted(os.listdir(tmp_path)) == ["archive", *sorted(name.name for name in names.values())]


@pytest.mark.parametrize(
    "words",
    [
        ["--report", "nothing=x"],
        ["--report", "csv="],
        ["--report", "html"],
        ["--report", "csv", "--report", "json"],
        ["--report", "csv=DIR/r", "--report", "json=DIR/r"],
        ["--report", "csv=DIR/archive/d01", "--force"],
        ["--report", "html=DIR/a", "--html", "DIR/b"],
    ],
)
def test_reports_that_do_not_go_together(words: list[str], archive: Path, tmp_path: Path) -> None:
    before = (archive / "d01").read_bytes()
    done = dumpverify(*(word.replace("DIR", str(tmp_path)) for word in words), archive)
    assert done.returncode == 2 and done.stdout == b"" and len(done.stderr.splitlines()) == 1
    assert sorted(os.listdir(tmp_path)) == ["archive"] and (archive / "d01").read_bytes() == before


def test_what_is_not_due_is_counted(archive: Path, tmp_path: Path) -> None:
    words = ["--state", tmp_path / "state", "--max-age", "90d"]
    assert dumpverify(*words, archive).returncode == 3
    done = dumpverify(*words, archive)
    assert done.returncode == 3
    assert done.stdout.decode().splitlines()[-1] == "1 dump: 1 DAMAGED; 12 good before and not due (--max-age)"
    assert json.loads(dumpverify("--json", *words, archive).stdout)["skipped_by_age"] == 12


def test_the_budget_takes_no_damage_back(archive: Path, tmp_path: Path) -> None:
    words = ["--state", tmp_path / "state", "--max-age", "90d"]
    assert dumpverify(*words, archive).returncode == 3
    for _ in range(2):
        found = dict(told(*words, "--max-bytes", "1", archive, code=3))
        assert set(found["d07"]) >= {"E153"} and {"E103", "E157"} & set(found["d07"])


def test_what_is_known_bad_is_told_with_the_time_it_was_found(archive: Path, tmp_path: Path) -> None:
    """Runs that do not reach it are no later finding: the time stays, and an older state's only time is taken."""
    state = tmp_path / "state"
    assert dumpverify("--state", state, archive).returncode == 3
    header, *lines = map(json.loads, state.read_text().splitlines())
    entry = next(each for each in lines if each["path"].endswith("d07"))
    assert (entry["bad"], entry["bad_time"]) == (3, entry["time"])
    entry["bad_time"] = 1700000000.25
    for dropped, time, exact in (
        ((), 1700000000.25, "2023-11-14 22:13:20 UTC"),
        (("bad", "bad_time"), 1500000000.75, "2017-07-14 02:40:00 UTC"),
    ):
        kept = {key: value for key, value in {**entry, "time": 1500000000.75}.items() if key not in dropped}
        state.write_text("".join(json.dumps(each) + "\n" for each in (header, kept)))
        dumps = json.loads(dumpverify("--json", "--state", state, "--max-bytes", "1", archive).stdout)["dumps"]
        found = next(each["findings"] for each in dumps if each["files"][0].endswith("d07"))
        assert [each["code"] for each in found] == ["E153", "E157"], found
        assert found[1]["message"] == f"found damaged at {exact}"
        path, journal = str(archive / "d07"), State(str(state))
        for _ in range(2):  # begun, and cut off before what is bad
            report = TargetReport([path], "pages")
            report.add("E153", "cut off")
            report.add("E157", journal.known_bad(path))
            journal.remember(path, {}, [report])
        journal.close()
        last = json.loads(state.read_text().splitlines()[-1])
        assert (last["exit_code"], last["bad"], last["bad_time"]) == (3, 3, time) and last["time"] > 1.7e9


def test_the_state_is_a_journal(archive: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    assert dumpverify("--state", state, archive).returncode == 3
    whole = state.read_bytes()
    assert whole.count(b"\n") == 14
    for cut in (len(whole) - 1, len(whole) - 30, whole.index(b"\n"), 0):
        state.write_bytes(whole[:cut])
        assert dumpverify("--state", state, "--max-age", "90d", archive).returncode == 3
        lines = state.read_bytes().splitlines()
        assert all(isinstance(json.loads(line), dict) for line in lines)
        assert {os.path.basename(json.loads(line)["path"]) for line in lines[1:]} == set(os.listdir(archive))
    with open(state, "a", encoding="utf-8") as file:
        file.write(whole.decode().splitlines()[1] + "\n")
        file.writelines(whole.decode().splitlines()[2] + "\n" for _ in range(1500))
    assert dumpverify("--state", state, "--max-age", "90d", archive).returncode == 3
    assert len(state.read_bytes().splitlines()) < 30  # written anew


def test_one_run_at_a_time_uses_a_state(archive: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.touch()
    with open(state, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = dumpverify("--state", state, archive)
    assert done.returncode == 2 and b"another run uses this state file" in done.stderr


def test_progress_names_the_file_and_what_is_left(archive: Path) -> None:
    done = dumpverify("--progress", "json", "--jobs", "2", archive)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    size = sum(each.stat().st_size for each in archive.iterdir())
    assert {line["total"] for line in lines} == {size} and lines[-1]["done"] == size
    assert lines[-1]["file"] == str(archive / "note.txt") and lines[-1]["eta"] == 0
