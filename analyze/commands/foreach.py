# SPDX-License-Identifier: GPL-2.0-or-later
"""`foreach`: one command for many tasks: all, user, kernel, active, a state, or names and numbers."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from ...formats.errors import UsageError
from ..kernel import Kernel
from ..tasks import Task
from ..unwind import make_unwinder
from . import Result, bt
from .ps import selected

_COMMANDS = ("bt",)
_STATES = ("RU", "IN", "UN", "ST", "TR", "DE", "ZO", "ID")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument(
        "words",
        nargs="+",
        metavar="WORD",
        help="user, kernel, active, a state (UN, ...), PID, TASK or COMMAND, any number of them; then bt",
    )
    parser.add_argument("-s", dest="offsets", action="store_true", help="offsets in functions")


def run(kernel: Kernel, args: argparse.Namespace) -> Result:
    """Run the command for each task selected."""
    *words, command = args.words
    if command not in _COMMANDS:
        raise UsageError(f"foreach: {command} is no command for it", hint=f"known are {', '.join(_COMMANDS)}")
    result = Result(data=[])
    result.lines = _lines(kernel, words, args.offsets, result)
    return result


def _wanted(task: Task, words: list[str]) -> bool:
    kinds = {
        "user": not task.is_thread_of_kernel,
        "kernel": task.is_thread_of_kernel,
        "active": task.running,
    } | {state: task.state == state for state in _STATES}
    if not all(kinds[word] for word in words if word in kinds):
        return False
    names = [word for word in words if word not in kinds]
    return selected(task, names)


def _lines(kernel: Kernel, words: list[str], offsets: bool, result: Result) -> Iterator[str]:
    unwinder = make_unwinder(kernel)
    choice = argparse.Namespace(words=[], cpus=False, all=True)
    shown = 0
    for task, name, trace in bt.traces(kernel, unwinder, choice):
        if task is None or not _wanted(task, words):
            continue
        if shown:
            yield ""
        shown += 1
        yield from bt.render(name, trace, kernel.machine.arch, offsets=offsets)
        result.data.append(bt.to_json(task, name, trace))
    if not shown:
        result.complain("no such task", 1)
