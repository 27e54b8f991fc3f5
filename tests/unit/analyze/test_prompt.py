# SPDX-License-Identifier: GPL-2.0-or-later
"""The prompt on a terminal: commands, pipes, aliases, completion, history, interrupts; and files of commands."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import small_kernel
from support.command import COMMAND, dumpconv, environment
from support.small_kernel import SmallKernel

PROMPT = b"dumpconv> "


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallKernel:
    return small_kernel.write(tmp_path_factory.mktemp("small"), code=b"\x55\xc3")


class Terminal:
    """A session on a pseudo-terminal."""

    def __init__(self, small: SmallKernel, state: Path) -> None:
        self.master, slave = pty.openpty()
        command = [*COMMAND, "analyze", "--system-map", str(small.map), str(small.dump)]
        env = environment(XDG_STATE_HOME=str(state), TERM="dumb", INPUTRC="/dev/null")
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, cwd="/", env=env, start_new_session=True, close_fds=True
        )
        os.close(slave)
        self.until(PROMPT)

    def until(self, mark: bytes) -> str:
        """Read until `mark` comes; give what came."""
        seen, end = b"", time.monotonic() + 20
        while not seen.endswith(mark):
            ready, _, _ = select.select([self.master], [], [], max(0, end - time.monotonic()))
            assert ready, seen
            seen += os.read(self.master, 1)
        return seen.decode().replace("\r\n", "\n")

    def type(self, text: bytes) -> str:
        """Type; give what came before the next prompt."""
        os.write(self.master, text)
        return self.until(PROMPT)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
            os.close(self.master)

    def close(self) -> int:
        os.write(self.master, b"quit\n")
        code = self.process.wait(20)
        os.close(self.master)
        return code


@pytest.fixture
def terminal(small: SmallKernel, tmp_path: Path) -> Iterator[Terminal]:
    with Terminal(small, tmp_path) as found:
        yield found


def test_a_session(terminal: Terminal, small: SmallKernel, tmp_path: Path) -> None:
    first = f"{small.text + small_kernel.CODE:x} (T) first"
    assert first in terminal.type(b"sym first\n")
    assert first in terminal.type(b"findsym first\n")
    said = terminal.type(b"dis first 2 | grep -c ret\n")
    assert said.splitlines()[-2] == "1"
    # what goes wrong does not end it
    assert "dumpconv: nothing is no command" in terminal.type(b"nothing\n")
    assert "dumpconv: dis: " in terminal.type(b"dis\n")
    assert "No closing quotation" in terminal.type(b"sym 'first\n")
    assert "usage: pte" in terminal.type(b"pte --help\n")
    assert "machine code" in terminal.type(b"?\n")
    # completion: of symbols, and of commands at the start of a line
    assert f"{small.text + small_kernel.CODE + 0x80:x} (T) second" in terminal.type(b"sym seco\t\n")
    assert "5000: 5" in terminal.type(b"bto\t 5000\n")
    # an interrupt gives up the line, not the session
    assert first in terminal.type(b"sym no_such\x03sym first\n") + terminal.type(b"\n")
    assert terminal.close() == 0
    history = tmp_path / "dumpconv" / "history"
    lines = history.read_text().splitlines()
    assert "findsym first" in lines
    assert "sym second" in " ".join(lines)
    assert history.stat().st_mode & 0o077 == 0


def test_history_comes_back(small: SmallKernel, tmp_path: Path) -> None:
    with Terminal(small, tmp_path) as first:
        first.type(b"btop 7123\n")
        assert first.close() == 0
    with Terminal(small, tmp_path) as second:
        assert "7123: 7" in second.type(b"\x1b[A\x1b[A\n")  # arrow up, past the `quit`
        assert second.close() == 0


def test_a_file_of_commands_and_its_exit_status(small: SmallKernel, tmp_path: Path) -> None:
    path = tmp_path / "commands"
    path.write_text("# a comment\nbtop 5000\n\nptob 5 | cat\nquit\nnothing\n")
    done = dumpconv("analyze", "-i", path, "--system-map", small.map, small.dump)
    assert (done.returncode, done.stdout) == (0, b"5000: 5\n5: 5000\n")
    path.write_text("nothing\nbtop 5000\n")
    done = dumpconv("analyze", small.dump, "--system-map", small.map, "-i", path)
    assert (done.returncode, done.stdout) == (2, b"5000: 5\n")
    assert dumpconv("analyze", "-i", tmp_path / "none", small.dump).returncode == 1


def test_what_a_script_prints_goes_through_a_pipe_too(small: SmallKernel, tmp_path: Path) -> None:
    script = tmp_path / "s.py"
    script.write_text("print(hex(dump.symbol('first')))\nprint('another line')\n")
    typed = f"script {script} | grep -c 0x\nscript {script}\n".encode()
    done = dumpconv("analyze", "--system-map", small.map, small.dump, input=typed)
    assert done.stdout.decode().splitlines() == ["1", hex(small.text + small_kernel.CODE), "another line"]


def test_no_name_of_the_dump_reaches_the_shell(tmp_path: Path) -> None:
    """What is behind the bar is what the user typed; a symbol's name is only text that flows through it."""
    mark = tmp_path / "made"
    kernel = small_kernel.write(tmp_path / "k", symbols={f"x;touch${{IFS}}{mark}": small_kernel.CODE + 8})
    done = dumpconv("analyze", "--system-map", kernel.map, kernel.dump, input=b"sym -q touch | cat\n")
    assert b"x;touch" in done.stdout
    assert not mark.exists()


def test_a_quoted_bar_is_no_pipe(small: SmallKernel, tmp_path: Path) -> None:
    commands, touched = tmp_path / "commands", tmp_path / "touched"
    commands.write_text(
        f"search -c 'no|touch {touched}'\nsearch -c \"no|touch {touched}\"\nsearch -c no\\|touch\nptob 1 | tr 1 7\n"
    )
    done = dumpconv("analyze", "--system-map", small.map, "-i", commands, small.dump)
    assert not touched.exists()
    assert done.stderr.decode().splitlines() == ["dumpconv: search: not found"] * 3
    assert b"7: 7000" in done.stdout
