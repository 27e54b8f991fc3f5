# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs `dumpconv` as users do, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

COMMAND = (sys.executable, "-m", "dumpconv")
VERIFY = (sys.executable, "-c", "from dumpconv.cli import run_verify; run_verify()")


def environment(**more: str) -> dict[str, str]:
    """Give this process's environment without what would change the program's output."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("DUMPCONV_", "COLUMNS"))}
    return {**clean, **more}


def dumpconv(
    *words: str | Path, input: bytes | None = None, timeout: float = 60, **more: Any
) -> subprocess.CompletedProcess[bytes]:
    """Run the command and wait; standard input is empty unless given."""
    return _run(COMMAND, words, input, timeout, more)


def dumpverify(*words: str | Path, timeout: float = 60, **more: Any) -> subprocess.CompletedProcess[bytes]:
    """Run `dumpverify` and wait."""
    return _run(VERIFY, words, None, timeout, more)


def _run(
    program: tuple[str, ...], words: tuple[str | Path, ...], input: bytes | None, timeout: float, more: dict[str, Any]
) -> subprocess.CompletedProcess[bytes]:
    if input is None and "stdin" not in more:
        more["stdin"] = subprocess.DEVNULL
    more.setdefault("env", environment())
    more.setdefault("cwd", "/")
    command = [*program, *map(str, words)]
    if "stdout" not in more:
        more["stdout"] = subprocess.PIPE
    return subprocess.run(command, input=input, stderr=subprocess.PIPE, timeout=timeout, check=False, **more)


def report(*words: str | Path, code: int = 0, input: bytes | None = None) -> Any:
    """Run a command with --json and give what it printed."""
    done = dumpconv(*words, "--json", input=input)
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


def one_line(done: subprocess.CompletedProcess[bytes]) -> str:
    """Give the only line on standard error; the rule for every error."""
    lines = done.stderr.decode().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("dumpconv: "), lines
    return lines[0]
