# SPDX-License-Identifier: GPL-2.0-or-later
"""The process that drgn runs in: each of its limits ends it with one line and status 1, and it never outlives ours."""

from __future__ import annotations

import faulthandler
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("drgn")

from dumpconv.analyze import rich, through_drgn
from dumpconv.analyze.commands import Result
from support.command import environment

Helper = Callable[[], Iterator[str]]
# instead of a kernel: what the child asks of it before it runs anything
KERNEL: Any = SimpleNamespace(
    machine=SimpleNamespace(arch="x86_64"),
    physical=SimpleNamespace(met={}),
    reader=SimpleNamespace(sources=()),
    info=None,
    max_duration=600,
)


def install(patch: pytest.MonkeyPatch, helper: Helper) -> None:
    """Let the child run a function in place of a command."""
    patch.setattr(through_drgn, "open_program", lambda kernel, vmlinux: SimpleNamespace(config={}))
    patch.setattr(rich, "own_lines", lambda prog, words: helper())


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Helper], Result]:
    def run(helper: Helper) -> Result:
        install(monkeypatch, helper)
        (tmp_path / "vmlinux").write_bytes(b"")
        return through_drgn.run_drgn(KERNEL, ["fuser", "a b"], str(tmp_path / "vmlinux"))

    return run


def ended(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def told(result: Result, exit_code: int = 1) -> tuple[list[str], str]:
    """What was printed but for the first line, the process's number; and the one complaint."""
    number, *lines = result.lines
    assert ended(int(number))
    (complaint,) = result.complaints
    assert result.exit_codes == [exit_code]
    assert "\n" not in complaint
    return lines, complaint


def test_one_that_loops_is_ended(run: Callable[[Helper], Result], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KERNEL, "max_duration", 1)

    def loops() -> Iterator[str]:
        yield str(os.getpid())
        yield "found before"
        while True:
            pass

    def sleeps() -> Iterator[str]:
        yield str(os.getpid())
        yield "found before"
        time.sleep(60)

    def prints() -> Iterator[str]:
        yield str(os.getpid())
        while True:
            time.sleep(0.3)
            yield "found before"

    said = (
        "fuser 'a b': drgn was ended after 1 s: --max-duration gives it more, "
        "or the dump is damaged where this command reads"
    )
    assert told(run(loops), 10) == (["found before"], said)
    assert told(run(sleeps), 10) == (["found before"], said)
    lines, complaint = told(run(prints), 10)
    assert set(lines) == {"found before"}
    assert complaint == said


def test_who_reads_slowly_is_waited_for(run: Callable[[Helper], Result], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KERNEL, "max_duration", 1)

    def helper() -> Iterator[str]:
        yield str(os.getpid())
        for _ in range(20000):
            yield "a line that fills the pipe with its like"

    result = run(helper)
    lines = iter(result.lines)
    next(lines)
    time.sleep(1.2)
    assert sum(1 for _ in lines) == 20000
    assert result.exit_codes == []


def test_lines_and_characters_that_are_cut_between_two_reads_are_whole(run: Callable[[Helper], Result]) -> None:
    text = "\u20ac" * 30000

    def helper() -> Iterator[str]:
        yield text
        yield "x\udc80"

    assert list(run(helper).lines) == [text, "x\\udc80"]


def test_one_that_takes_memory_is_told(run: Callable[[Helper], Result], monkeypatch: pytest.MonkeyPatch) -> None:
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    monkeypatch.setattr(through_drgn, "_MEMORY", limit := now + (512 << 20))

    def helper() -> Iterator[str]:
        yield str(os.getpid())
        kept = []
        while True:
            kept.append(bytes(64 << 20))

    _, said = told(run(helper))
    assert said == f"fuser 'a b': more than {limit >> 20} MiB of memory would be needed, which is the limit of drgn"


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS])
def test_one_that_dies_by_a_signal_is_told(run: Callable[[Helper], Result], number: signal.Signals) -> None:
    def helper() -> Iterator[str]:
        yield str(os.getpid())
        yield "found before"
        faulthandler.disable()  # pytest's
        os.kill(os.getpid(), number)

    lines, said = told(run(helper))
    assert lines == ["found before"]
    assert said.startswith(f"fuser 'a b': drgn died by {number.name}: ")


def test_one_that_is_killed_or_leaves_is_told(run: Callable[[Helper], Result]) -> None:
    def killed() -> Iterator[str]:
        yield str(os.getpid())
        os.kill(os.getpid(), signal.SIGKILL)

    def leaves() -> Iterator[str]:
        yield str(os.getpid())
        os._exit(7)

    assert told(run(killed))[1] == "fuser 'a b': drgn was killed from outside: the system may be short of memory"
    assert told(run(leaves))[1] == "fuser 'a b': drgn ended with status 7"


def test_it_writes_no_file(run: Callable[[Helper], Result], tmp_path: Path) -> None:
    def helper() -> Iterator[str]:
        yield str(os.getpid())
        (tmp_path / "written").write_bytes(b"x")

    assert "File too large" in told(run(helper))[1]
    assert not (tmp_path / "written").stat().st_size


def test_it_ends_when_nobody_reads_on(run: Callable[[Helper], Result]) -> None:
    def helper() -> Iterator[str]:
        yield str(os.getpid())
        time.sleep(60)

    lines = iter(run(helper).lines)
    number = int(next(lines))
    assert not ended(number)
    lines.close()  # type: ignore[attr-defined]
    assert ended(number)


def test_it_ends_when_no_vmlinux_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(kernel: Any) -> str:
        raise LookupError

    made: list[int] = []
    fork = os.fork
    monkeypatch.setattr(os, "fork", lambda: made.append(fork()) or made[-1])
    monkeypatch.setattr(through_drgn, "_made", fails)
    with pytest.raises(LookupError):
        through_drgn.run_drgn(KERNEL, ["mount"], None)
    assert ended(made[0])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_it_does_not_outlive_us(tmp_path: Path, number: signal.Signals) -> None:
    """Whoever ends dumpconv, by a signal that it cannot see even, ends drgn's process."""
    (tmp_path / "vmlinux").write_bytes(b"")
    script = (
        "import os, sys, time\nfrom types import SimpleNamespace as N\n"
        "from dumpconv.analyze import rich, through_drgn\n"
        "def helper():\n    yield str(os.getpid())\n    time.sleep(60)\n"
        "through_drgn.open_program = lambda *words: N(config={})\nrich.own_lines = lambda *words: helper()\n"
        "kernel = N(machine=N(arch='x86_64'), physical=N(met={}), reader=N(sources=()),\n"
        "    info=None, max_duration=600)\n"
        "for line in through_drgn.run_drgn(kernel, ['mount'], sys.argv[1]).lines:\n    print(line, flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, tmp_path / "vmlinux"], stdout=subprocess.PIPE, text=True, env=environment()
    ) as ours:
        assert ours.stdout is not None
        child = int(ours.stdout.readline())
        assert not ended(child)
        ours.send_signal(number)
        ours.wait(timeout=10)
    deadline = time.monotonic() + 10
    while not _gone(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert _gone(child)


def _gone(pid: int) -> bool:
    # whoever inherits it need not have waited for it yet
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True
