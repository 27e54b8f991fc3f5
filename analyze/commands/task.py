# SPDX-License-Identifier: GPL-2.0-or-later
"""`task`: the task_struct of tasks, or some of its members."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from ...formats.errors import DumpError
from ..btf import BtfType
from ..declare import value_lines, values
from ..errors import MissingTable
from ..kernel import Kernel
from ..tasks import Task
from . import Result, printable
from .bt import panicked_task
from .ps import selected


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument("words", nargs="*", metavar="PID|TASK|COMMAND", help="tasks (default: the one that panicked)")
    parser.add_argument(
        "-R", dest="members", action="append", metavar="MEMBER,...", help="only these members, or a.b.c"
    )


def run(kernel: Kernel, args: argparse.Namespace) -> Result:
    """Print task_struct of the tasks."""
    result = Result(data=[])
    members = [each for text in args.members or () for each in text.split(",") if each]
    for each in members:
        kernel.btf.offset("task_struct", each)  # wrong names are told before anything is printed
    wanted: list[Task] = [task for task in kernel.tasks if selected(task, args.words)]
    if not args.words:
        found = panicked_task(kernel)
        wanted = [] if found is None else [found]
    result.lines = _lines(kernel, wanted, members, result)
    return result


def _structure(kernel: Kernel) -> BtfType:
    found = kernel.btf.find("task_struct", "struct")
    if found is None:  # of a damaged table: tasks were found by the members of something else of that name
        raise MissingTable("BTF has no struct task_struct")
    return found


def _lines(kernel: Kernel, wanted: list[Task], members: list[str], result: Result) -> Iterator[str]:
    btf, memory = kernel.btf, kernel.memory
    found = _structure(kernel)
    for number, task in enumerate(wanted):
        if number:
            yield ""
        name = printable(task.comm)
        yield f'PID: {task.pid:<7}  TASK: {task.address:x}  CPU: {task.cpu:<3}  COMMAND: "{name}"'
        try:
            shown: dict[str, Any] = {}
            for each in members:
                bits, member = btf.member(found, each)
                shown[each] = values(btf, memory, member.type, task.address + bits // 8)
            if not members:
                shown = values(btf, memory, found.id, task.address)
        except DumpError as error:
            result.complain(f"task {task.pid}: {printable(str(error))}", 4)
            continue
        if not members:
            yield "struct task_struct {"
        yield from map(printable, value_lines(shown))
        if not members:
            yield "}"
        said = task.comm.decode("utf-8", "backslashreplace")
        result.data.append({"pid": task.pid, "task": f"{task.address:#x}", "comm": said, "values": shown})
    if not wanted:
        result.complain("no such task", 1)
    for text in kernel.tasks.complaints:
        result.complain(text, 4)
