# SPDX-License-Identifier: GPL-2.0-or-later
"""`ps`: tasks, in crash's columns."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from ...formats.pages import PageState
from ..kernel import Kernel
from ..tasks import Task
from . import Result, printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument("words", nargs="*", metavar="PID|TASK|COMMAND", help="only these")
    parser.add_argument("-u", dest="user", action="store_true", help="user tasks only")
    parser.add_argument("-k", dest="kernel", action="store_true", help="kernel threads only")
    parser.add_argument("-G", dest="leaders", action="store_true", help="leaders of thread groups only")


def run(kernel: Kernel, args: argparse.Namespace) -> Result:
    """Print the table of tasks."""
    result = Result()
    result.data = []
    result.lines = _lines(kernel, args, result)
    return result


def selected(task: Task, words: list[str]) -> bool:
    """Whether a task is one of those that a user names: by PID, address or name."""
    name = task.comm.decode("utf-8", "backslashreplace")
    return not words or any(
        word == str(task.pid) or word == name or word.removeprefix("0x") == f"{task.address:x}" for word in words
    )


def _lines(kernel: Kernel, args: argparse.Namespace, result: Result) -> Iterator[str]:
    width = 2 * kernel.machine.word_size
    memory = kernel.physical.memory_map
    ram = sum(
        memory.count(state) for state in (PageState.STORED, PageState.EXCLUDED, PageState.LOST, PageState.DAMAGED)
    )
    total = max(1, ram * kernel.machine.page_size // 1024)
    shown_any = not args.words
    yield f"      PID    PPID  CPU  {'TASK':^{width}}  ST  %MEM      VSZ      RSS  COMM"
    for task in kernel.tasks:
        if not selected(task, args.words):
            continue
        shown_any = True
        if (args.user and task.is_thread_of_kernel) or (args.kernel and not task.is_thread_of_kernel):
            continue
        if args.leaders and task.pid != task.tgid:
            continue
        name = printable(task.comm)
        shown = f"[{name}]" if task.is_thread_of_kernel else name
        share = 100 * task.rss / total
        yield (
            f"{'>' if task.running else ' '} {task.pid:>7} {task.ppid:>7} {task.cpu:>3}  {task.address:x}  "
            f"{task.state} {share:>5.1f} {task.vsz:>8} {task.rss:>8}  {shown}"
        )
        result.data.append(
            {
                "pid": task.pid,
                "ppid": task.ppid,
                "tgid": task.tgid,
                "cpu": task.cpu,
                "task": f"{task.address:#x}",
                "state": task.state,
                "running": task.running,
                "kernel": task.is_thread_of_kernel,
                "vsz_kib": task.vsz,
                "rss_kib": task.rss,
                "comm": task.comm.decode("utf-8", "backslashreplace"),
            }
        )
    if not shown_any:
        result.complain("no such task", 1)
    for text in kernel.tasks.complaints:
        result.complain(text, 4)
