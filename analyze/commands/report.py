# SPDX-License-Identifier: GPL-2.0-or-later
"""`report`: the first answers in one pass: the end, stacks of the stopped CPUs, blocked tasks, modules, log tail.

Every part stands alone: what cannot be had is said in its place, and the rest is there.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any

from ...formats.errors import DumpError
from ...formats.pages import PageState
from ..kernel import Kernel
from ..log import panic_text, render
from ..tasks import Task
from ..unwind import Trace, Unwinder
from . import Result, bt, printable, sys

_TAIL = 40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument("--tail", type=int, default=_TAIL, metavar="N", help=f"lines of the log (default: {_TAIL})")


def run(kernel: Kernel, args: argparse.Namespace) -> Result:
    """Print the report."""
    result = Result()
    parts: list[tuple[str, Callable[[], tuple[list[str], Any]]]] = [
        ("system", lambda: _system(kernel, result)),
        ("panic", lambda: _panic(kernel)),
        ("stopped CPUs", lambda: _stopped(kernel)),
        ("blocked tasks", lambda: _blocked(kernel)),
        ("modules", lambda: _modules(kernel)),
        ("missing from the dump", lambda: _missing(kernel)),
        ("log tail", lambda: _tail(kernel, max(0, args.tail))),
    ]
    result.data = {}
    result.lines = _lines(parts, result)
    return result


def _lines(parts: list[tuple[str, Callable[[], tuple[list[str], Any]]]], result: Result) -> Iterator[str]:
    for number, (title, make) in enumerate(parts):
        if number:
            yield ""
        yield f"== {title} =="
        try:
            lines, data = make()
        except DumpError as error:
            lines, data = [f"not known: {error.message}"], None
            result.complain(f"{title}: {error.message}")
        yield from lines
        result.data[title.lower().replace(" ", "_")] = data


def _system(kernel: Kernel, result: Result) -> tuple[list[str], Any]:
    found = sys.run(kernel, argparse.Namespace(what=None))
    for text in found.complaints:
        result.complain(text)
    level, why = kernel.level
    lines = [*found.lines, f"{'LEVEL':>12}: {level}: {printable(why)}"]
    return lines, {**found.data, "level": level, "level_reason": why}


def _panic(kernel: Kernel) -> tuple[list[str], Any]:
    text = panic_text(kernel.log)
    if text is None:
        return ["the log holds no panic, BUG or oops"], None
    shown = text.decode("utf-8", "backslashreplace")
    return [printable(shown)], shown


def _stopped(kernel: Kernel) -> tuple[list[str], Any]:
    unwinder = Unwinder(kernel)
    words = argparse.Namespace(words=[], cpus=True, all=False)
    lines: list[str] = []
    data = []
    for task, name, trace in bt.traces(kernel, unwinder, words):
        lines += [*bt.render(task, name, trace, offsets=True), ""]
        data.append(bt.to_json(task, name, trace))
    return lines[:-1], data


def _blocked(kernel: Kernel) -> tuple[list[str], Any]:
    """Tasks in uninterruptible sleep, those with the same stack together."""
    unwinder = Unwinder(kernel)
    groups: dict[tuple[str, ...], list[tuple[Task, Trace]]] = {}
    for task in kernel.tasks:
        if task.state == "UN" and not task.running:
            trace = unwinder.sleeping(task.address)
            groups.setdefault(tuple(frame.name for frame in trace.frames), []).append((task, trace))
    lines: list[str] = []
    data = []
    for stack, members in sorted(groups.items(), key=lambda each: -len(each[1])):
        names = ", ".join(f"{printable(task.comm)} ({task.pid})" for task, _ in members[:8])
        more = f" and {len(members) - 8} more" if len(members) > 8 else ""
        lines.append(f"{len(members)} task{'s' * (len(members) != 1)}: {names}{more}")
        lines += [f"    {printable(name)}" for name in stack]
        pids = [task.pid for task, _ in members]
        data.append({"tasks": len(members), "pids": pids, "stack": list(stack)})
    return lines or ["none"], data


def _modules(kernel: Kernel) -> tuple[list[str], Any]:
    found = list(kernel.modules)
    tainting = [each for each in found if each.taints]
    lines = [f"{len(found)} loaded: {', '.join(printable(each.name) for each in found) or 'none'}"]
    lines += [f"taints {each.taints:#x}: {printable(each.name)}" for each in tainting]
    return lines, [{"name": each.name, "size": each.size, "taints": f"{each.taints:#x}"} for each in found]


def _missing(kernel: Kernel) -> tuple[list[str], Any]:
    counts = {
        state.name.lower(): kernel.physical.memory_map.count(state)
        for state in (PageState.EXCLUDED, PageState.LOST, PageState.DAMAGED)
    }
    reasons = {"excluded": "left out by the writer", "lost": "should be there and are not", "damaged": "do not decode"}
    lines = [f"{count} pages {reasons[name]}" for name, count in counts.items() if count]
    if kernel.reader.incomplete:
        lines.append("the writer marked the dump as incomplete")
    return lines or ["nothing"], {**counts, "incomplete": kernel.reader.incomplete}


def _tail(kernel: Kernel, count: int) -> tuple[list[str], Any]:
    text = [line for record in kernel.log for line in printable(render(record)).split("\n")]
    tail = text[len(text) - count :] if count < len(text) else text
    return tail, tail
