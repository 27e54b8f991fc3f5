# SPDX-License-Identifier: GPL-2.0-or-later
"""Signals, full disks, vanishing inputs: the right exit code, one line, never a file under the final name.

The large input is a sparse ELF file of zeros: it takes seconds to convert and no room.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import build_elf, notes, patterns
from support.build_kdump import KdumpSpec, build
from support.command import COMMAND, dumpconv, environment, one_line

GIB = 1 << 30
LARGE = 24 * GIB
SMALL_PAGES = 600


@pytest.fixture
def small(tmp_path: Path) -> Path:
    spec = KdumpSpec(pages=patterns.pages(16, 16 + SMALL_PAGES, kind="random"), notes=notes.machine_notes())
    return build(spec).write_to(tmp_path / "small.kdump")


@pytest.fixture
def large(tmp_path: Path) -> Path:
    segment = build_elf.Segment(0x100000, b"\1" * 4096, fields={"p_filesz": LARGE, "p_memsz": LARGE})
    path = build_elf.build(build_elf.ElfSpec([segment], notes.machine_notes())).write_to(tmp_path / "large.elf")
    os.truncate(path, LARGE + (1 << 20))
    return path


def children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            found += [int(word) for word in (task / "children").read_text().split()]
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_until(what: Callable[[], bool], seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if what():
            return True
        time.sleep(0.02)
    return False


@contextlib.contextmanager
def converting(source: Path, out: Path, *words: str) -> Iterator[tuple[subprocess.Popen[bytes], list[int]]]:
    """Give a conversion in full swing, in a process group of its own, and its workers."""
    command = [*COMMAND, str(source), str(out), "-j", "2", "--progress", "json", *words]
    with subprocess.Popen(
        command,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        try:
            assert process.stderr is not None
            first = process.stderr.readline()  # some pages are done
            assert b"dumpconv.progress/1" in first, first
            assert out.with_name(out.name + ".incomplete").exists()
            yield process, children(process.pid)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def errors(process: subprocess.Popen[bytes]) -> list[str]:
    _, text = process.communicate(timeout=30)
    return [line for line in text.decode().splitlines() if "dumpconv.progress" not in line]


def leftovers(out: Path) -> list[str]:
    return [path.name for path in out.parent.iterdir() if path.name.startswith(out.name)]


@pytest.mark.parametrize("executor", ["serial", "threads", "processes", "spawn"])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_the_conversion_and_removes_the_output(
    large: Path, tmp_path: Path, signum: signal.Signals, executor: str
) -> None:
    if executor in ("threads", "spawn") and signum != signal.SIGINT:
        pytest.skip("one signal is enough for the lesser used executors")
    out = tmp_path / "out.elf"
    with converting(large, out, "--executor", executor) as (process, workers):
        assert bool(workers) == (executor in ("processes", "spawn"))
        process.send_signal(signum)
        assert errors(process) == [f"dumpconv: interrupted by {signum.name}"]
        assert process.returncode == 128 + signum
        assert leftovers(out) == []
        assert wait_until(lambda: not any(map(is_alive, workers)))


@pytest.mark.parametrize("executor", ["serial", "processes"])
@pytest.mark.parametrize("words", [["kdump", "-c"], ["kdump", "-F"], ["lkcd"], ["lime"]], ids=" ".join)
def test_a_signal_stops_every_kind_of_output(large: Path, tmp_path: Path, words: list[str], executor: str) -> None:
    out = tmp_path / "out"
    with converting(large, out, "--executor", executor, "-O", *words) as (process, workers):
        process.send_signal(signal.SIGTERM)
        assert errors(process) == ["dumpconv: interrupted by SIGTERM"]
        assert process.returncode == 128 + signal.SIGTERM
        assert sorted(path.name for path in tmp_path.iterdir()) == ["large.elf"]  # no scratch file either
        assert wait_until(lambda: not any(map(is_alive, workers)))


def test_ctrl_c_reaches_the_whole_group_and_gives_one_line(large: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.elf"
    with converting(large, out, "--executor", "processes") as (process, workers):
        os.killpg(process.pid, signal.SIGINT)
        assert errors(process) == ["dumpconv: interrupted by SIGINT"]
        assert process.returncode == 130
        assert leftovers(out) == []
        assert wait_until(lambda: not any(map(is_alive, workers)))


def test_an_impatient_second_signal_does_not_disturb_the_cleaning(large: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.elf"
    with converting(large, out, "--executor", "processes") as (process, _):
        for _ in range(5):
            process.send_signal(signal.SIGINT)
            time.sleep(0.01)
        assert errors(process) == ["dumpconv: interrupted by SIGINT"]
        assert process.returncode == 130
        assert leftovers(out) == []


def test_a_signal_during_start_up_gives_one_line(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.elf"
    for delay in (0.05, 0.08, 0.1, 0.12, 0.14, 0.16, 0.18, 0.2, 0.25):
        with subprocess.Popen(
            [*COMMAND, str(small), str(out), "--force"],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            time.sleep(delay)
            process.send_signal(signal.SIGTERM)
            _, text = process.communicate(timeout=30)
        # before our handler is there the signal has its default effect
        assert process.returncode in (-signal.SIGTERM, 143, 0), text
        assert b"Traceback" not in text
        assert text.decode() in ("", "dumpconv: interrupted by SIGTERM\n")
        assert not out.with_name("out.elf.incomplete").exists()


SWALLOWED = """
import signal, time, weakref
from dumpconv import cli

class Thing:
    pass

def command():
    thing = Thing()
    watch = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGTERM))
    del thing  # as in an import's lock: what a callback raises is dropped
    time.sleep(20)
    return 0

raise SystemExit(cli._guarded(command))
"""


def test_a_signal_that_python_drops_comes_again() -> None:
    done = subprocess.run([sys.executable, "-c", SWALLOWED], capture_output=True, timeout=15, check=False)
    assert (done.returncode, done.stderr) == (143, b"dumpconv: interrupted by SIGTERM\n")


def test_after_sigkill_no_worker_lives_and_the_next_run_cleans_up(large: Path, small: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.elf"
    with converting(large, out, "--executor", "processes") as (process, workers):
        assert workers
        process.kill()
        process.wait(30)
        assert wait_until(lambda: not any(map(is_alive, workers)))
    assert leftovers(out) == ["out.elf.incomplete"]
    done = dumpconv(small, out)
    assert done.returncode == 0, done.stderr
    assert leftovers(out) == ["out.elf"]


def test_a_killed_worker_is_an_error_not_a_hang(large: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.elf"
    with converting(large, out, "--executor", "processes") as (process, workers):
        os.kill(workers[0], signal.SIGKILL)
        (line,) = errors(process)
        assert "a worker process was killed" in line
        assert process.returncode == 1
        assert leftovers(out) == []


def test_two_runs_do_not_write_one_file(large: Path, small: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.elf"
    with converting(large, out) as (process, _):
        done = dumpconv(small, out)
        assert done.returncode == 1
        assert "another process is writing this file" in one_line(done)
        assert out.with_name("out.elf.incomplete").exists()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert leftovers(out) == []


@pytest.mark.parametrize("executor", ["serial", "processes"])
def test_input_truncated_while_it_is_read(large: Path, tmp_path: Path, executor: str) -> None:
    out = tmp_path / "out.elf"
    with converting(large, out, "--executor", executor) as (process, _):
        os.truncate(large, 1 << 20)
        (line,) = errors(process)
        assert "large.elf" in line
        assert "shrank while it was read" in line
        assert process.returncode == 1
        assert leftovers(out) == []


def test_input_truncated_while_info_reads_it_is_no_crash(small: Path) -> None:
    size = small.stat().st_size
    for keep in (size // 2, 9000, 4096, 100, 1):
        os.truncate(small, keep)
        done = dumpconv("info", small)
        assert done.returncode in (3, 6), (keep, done.stderr)
        assert b"bad " in done.stdout or one_line(done)


# -- disks -------------------------------------------------------------------------------------------------------


def on_tmpfs(options: str, folder: Path, *words: str | Path) -> subprocess.CompletedProcess[bytes]:
    """Run dumpconv in a mount namespace of its own, where `folder` is a tmpfs."""
    probe = subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("no mount namespaces for this user")
    script = 'mount -t tmpfs -o "$1" tmpfs "$2" && cd / && shift 2 && "$@"; code=$?; ls -A "$FOLDER" >&2; exit $code'
    command = ["unshare", "-rm", "sh", "-c", script, "sh", options, str(folder), *COMMAND, *map(str, words)]
    return subprocess.run(
        command, env=environment(FOLDER=str(folder)), capture_output=True, timeout=60, check=False, cwd="/"
    )


@pytest.mark.parametrize("executor", ["serial", "processes"])
def test_disk_full_while_pages_are_written(small: Path, tmp_path: Path, executor: str) -> None:
    folder = tmp_path / "full"
    folder.mkdir()
    done = on_tmpfs("size=1m", folder, small, folder / "out.elf", "--executor", executor, "-j", "2")
    assert done.returncode == 1
    assert "No space left on device" in one_line(done)  # and `ls` shows no file


@pytest.mark.parametrize("words", [["kdump", "-c"], ["kdump", "--split", "2"], ["kdump", "-F"], ["lkcd"]], ids=" ".join)
def test_disk_full_while_an_encoded_output_is_written(small: Path, tmp_path: Path, words: list[str]) -> None:
    folder = tmp_path / "full"
    folder.mkdir()
    done = on_tmpfs("size=1m", folder, small, folder / "out", "--executor", "processes", "-j", "2", "-O", *words)
    assert done.returncode == 1
    assert "No space left on device" in one_line(done)


def test_read_only_file_system(small: Path, tmp_path: Path) -> None:
    folder = tmp_path / "ro"
    folder.mkdir()
    done = on_tmpfs("ro", folder, small, folder / "out.elf")
    assert done.returncode == 1
    assert "Read-only file system" in one_line(done)


def test_file_size_limit(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.elf"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    done = dumpconv(small, out, preexec_fn=limit)
    assert done.returncode == 1
    assert "File too large" in one_line(done)
    assert leftovers(out) == []


def test_standard_output_full(small: Path) -> None:
    for words in ([small, "-"], ["info", small], ["map", small, "--json"]):
        with open("/dev/full", "wb") as full:
            done = dumpconv(*words, stdout=full)
        assert done.returncode == 1, words
        assert "No space left on device" in one_line(done)


def test_reader_of_the_report_goes_away(small: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as pipe:
        done = dumpconv("map", small, stdout=pipe)
    assert done.returncode == 128 + signal.SIGPIPE
    assert done.stderr == b""


def test_reader_of_the_output_goes_away(small: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as pipe:
        done = dumpconv(small, "-", stdout=pipe)
    assert done.returncode == 1
    assert "went away" in one_line(done)


def test_closed_streams_are_no_crash(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.elf"
    for words in (["info", str(small)], ["map", str(small)], [str(small), str(out), "--force"]):
        script = '"$@" >&- 2>&- <&-'
        done = subprocess.run(["sh", "-c", script, "sh", *COMMAND, *words], env=environment(), check=False, timeout=60)
        assert done.returncode == 0, words
    done = subprocess.run(
        ["sh", "-c", '"$@" >&-', "sh", *COMMAND, str(small), "-"],
        env=environment(),
        check=False,
        stderr=subprocess.PIPE,
    )
    assert done.returncode == 2


# -- names -------------------------------------------------------------------------------------------------------


def test_output_exists(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.elf"
    out.write_bytes(b"precious")
    done = dumpconv(small, out)
    assert done.returncode == 2
    assert "--force" in one_line(done)
    assert out.read_bytes() == b"precious"
    assert dumpconv(small, out, "--force").returncode == 0
    assert out.read_bytes()[:4] == b"\x7fELF"
    assert stat.S_IMODE(out.stat().st_mode) == 0o600


def test_a_failure_leaves_the_old_output_alone(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.elf"
    out.write_bytes(b"precious")
    os.truncate(small, small.stat().st_size - 5000)
    done = dumpconv(small, out, "--force")
    assert done.returncode == 3
    assert "--salvage" in one_line(done)
    assert out.read_bytes() == b"precious"
    assert leftovers(out) == ["out.elf"]


@pytest.mark.parametrize("kind", ["same", "hard link", "symbolic link", "among several"])
def test_output_is_an_input(small: Path, tmp_path: Path, kind: str) -> None:
    before = small.read_bytes()
    out = small if kind in ("same", "among several") else tmp_path / "other"
    if kind == "hard link":
        out.hardlink_to(small)
    elif kind == "symbolic link":
        out.symlink_to(small)
    inputs = [tmp_path / "missing", small] if kind == "among several" else [small]
    done = dumpconv(*inputs, out, "--force")
    assert done.returncode == 2
    assert "same file" in one_line(done)
    assert small.read_bytes() == before


def test_output_is_a_directory(small: Path, tmp_path: Path) -> None:
    for words in ([small, tmp_path], [small, tmp_path, "--force"]):
        done = dumpconv(*words)
        assert done.returncode == 2
        assert "directory" in one_line(done)


def test_output_in_a_directory_that_is_not_there(small: Path, tmp_path: Path) -> None:
    done = dumpconv(small, tmp_path / "nowhere" / "out.elf")
    assert done.returncode == 1
    assert "No such file or directory" in one_line(done)


def test_the_temporary_name_follows_no_symbolic_link(small: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "out.elf.incomplete").symlink_to(victim)
    done = dumpconv(small, tmp_path / "out.elf")
    assert done.returncode == 1
    assert one_line(done)
    assert victim.read_bytes() == b"precious"


@pytest.mark.parametrize("command", ["convert", "info", "map", "compare"])
@pytest.mark.parametrize("trouble", ["missing", "directory", "no permission", "empty", "no dump"])
def test_unreadable_input(tmp_path: Path, command: str, trouble: str) -> None:
    tmp_path.chmod(0o755)
    bad = tmp_path / "bad"
    more: dict[str, object] = {}
    if trouble == "directory":
        bad.mkdir()
    elif trouble != "missing":
        bad.write_bytes(b"" if trouble == "empty" else b"certainly not a dump" * 100)
    if trouble == "no permission":
        bad.chmod(0)
        if os.geteuid() == 0:  # root may read anything: give that up, but stay able to reach the folder
            more["preexec_fn"] = drop_permission_override
    out = tmp_path / "out.elf"
    words = {"convert": [bad, out], "compare": ["compare", bad, bad]}.get(command, [command, bad])
    done = dumpconv(*words, **more)
    line = one_line(done)
    assert str(bad) in line
    assert done.returncode == (6 if trouble in ("empty", "no dump") else 1)
    assert {"missing": "No such file", "directory": "is a directory", "no permission": "Permission denied"}.get(
        trouble, "no known dump format"
    ) in line
    assert done.stdout == b""
    assert leftovers(out) == []


def drop_permission_override() -> None:
    """Take CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH out of the bounding set: gone after exec."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    for capability in (1, 2):
        if libc.prctl(24, capability, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")
