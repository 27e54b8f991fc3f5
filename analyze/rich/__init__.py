# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands of crash that drgn lacks, written on drgn's helpers: they run in drgn's child process, with its limits.

A command's module has a function `run(prog, words) -> Iterator[str]`: it yields lines, and tells what it could not have
at the end, by raising `Problem`.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

__all__ = ["OWN", "Problem", "Words", "context", "own_lines", "selected_tasks", "task_heading"]

OWN = {"fuser": "fuser", "sbitmapq": "sbitmapq"}
_SOCKETS = ("-s", "-S")


class Problem(Exception):
    """What could not be had, in one line; what could was printed before."""


class Words(argparse.ArgumentParser):
    """Words of a command: wrong ones are a `Problem`, not the end of the process."""

    def error(self, message: str) -> NoReturn:
        """Raise it."""
        raise Problem(message)


def own_lines(prog: Any, words: Sequence[str]) -> Iterator[str] | None:
    """Return the lines of a command that is ours; None for drgn's.

    Args:
        prog: drgn.Program.
        words: Command and its words.
    """
    name, rest = words[0], list(words[1:])
    if name in OWN:
        found: Iterator[str] = importlib.import_module(f".{OWN[name]}", __name__).run(prog, rest)
        return found
    if name == "net" and any(word[:2] in _SOCKETS for word in rest):
        from .sockets import run

        return run(prog, rest)
    if name == "foreach" and "net" in rest:
        from .sockets import run_for_each

        at = rest.index("net")
        return run_for_each(prog, rest[:at], rest[at + 1 :])
    return None


def selected_tasks(prog: Any, words: Sequence[str]) -> Iterator[Any]:
    """Yield the tasks that a user names, by PID, address or command; all for none. Idle tasks are first.

    Raises:
        Problem: Nothing is selected.
    """
    from drgn.helpers.linux.pid import for_each_task

    some = False
    for task in for_each_task(prog, idle=True):
        if not words or any(_is(task, word) for word in words):
            some = True
            yield task
    if not some:
        raise Problem("no such task")


def context(prog: Any) -> Any:
    """Return the task that a command without one is about: the one that panicked.

    Raises:
        Problem: It cannot be told.
    """
    try:
        from drgn.commands._crash.common import crash_get_context

        return crash_get_context(prog)
    except Exception as error:
        raise Problem(f"which task? The one that panicked cannot be told: {error}") from error


def _is(task: Any, word: str) -> bool:
    user = bool(task.mm)
    if word in ("user", "kernel"):
        return user == (word == "user")
    return word == str(task.pid.value_()) or word.removeprefix("0x") == f"{task.value_():x}" or word == command(task)


def command(task: Any) -> str:
    """Return a task's command, in one line whatever is in it."""
    from drgn.helpers.common.format import escape_ascii_string

    return escape_ascii_string(task.comm.string_(), escape_double_quote=True, escape_backslash=True)


def task_heading(task: Any) -> str:
    """Return the line that crash prints above what belongs to a task."""
    from drgn.helpers.linux.sched import task_cpu

    return f'PID: {task.pid.value_():<7}  TASK: {task.value_():x}  CPU: {task_cpu(task):<3}  COMMAND: "{command(task)}"'
