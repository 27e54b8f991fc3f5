# SPDX-License-Identifier: GPL-2.0-or-later
"""Sleeping tasks with the same stack together, and for how long each has not run.

A task's scheduler notes when it last came to a CPU (sched_info.last_arrival). The time of the crash on the same clock
is the latest that a runqueue or the log knows.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import cached_property

from ..formats.errors import DumpError
from .errors import MissingTable
from .kernel import Kernel
from .tasks import Task
from .unwind import Trace, make_unwinder

__all__ = ["Group", "LastRun", "group_tasks"]

MAX_TASKS = 5000  # traced, of all that sleep; blocked ones come first
_MAX_NS = 1 << 62


class LastRun:
    """When tasks last ran.

    Args:
        kernel: The kernel; BTF is needed.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    @cached_property
    def now(self) -> int:
        """The time of the crash, in ns of the scheduler's clock.

        Raises:
            MissingTable: No runqueue tells.
        """
        structs = self._kernel.structs
        clocks = []
        for _, address in self._kernel.per_cpu("runqueues"):
            try:
                clocks.append(structs.get(address, "rq", "clock"))
            except DumpError:
                continue
        with contextlib.suppress(DumpError):
            clocks += [record.ns for record in self._kernel.log[-1:] if record.ns is not None]
        possible = [clock for clock in clocks if 0 < clock < _MAX_NS]
        if not possible:
            raise MissingTable("no runqueue has a clock")
        return max(possible)

    def seconds(self, task: Task) -> float | None:
        """Return for how many seconds a task has not run; None where that cannot be told."""
        structs = self._kernel.structs
        try:
            if structs.first("task_struct", "sched_info.last_arrival") is None:
                return None
            arrived = structs.get(task.address, "task_struct", "sched_info.last_arrival")
            return (self.now - arrived) / 1e9 if 0 < arrived <= self.now else None
        except DumpError:
            return None


@dataclass(slots=True)
class Group:
    """Tasks with one stack, the one that has waited longest first.

    Attributes:
        state: crash's two letters.
        trace: Of the first.
        members: (task, seconds since it ran).
    """

    state: str
    trace: Trace
    members: list[tuple[Task, float | None]]


def group_tasks(kernel: Kernel) -> tuple[list[Group], int]:
    """Return sleeping tasks by state and stack, blocked ones (UN) first, then large groups; and how many were left out.

    Where stacks cannot be had the groups are by state alone, with the reason in the trace.

    Raises:
        DumpError: There are no tasks to be had.
    """
    last_run = LastRun(kernel)
    unwinder, why = None, ""
    try:
        unwinder = make_unwinder(kernel)
    except DumpError as error:
        why = error.message
    tasks = [task for task in kernel.tasks if not task.running]
    tasks.sort(key=lambda task: task.state != "UN")
    groups: dict[tuple[str, ...], Group] = {}
    for task in tasks[:MAX_TASKS]:
        trace = unwinder.sleeping(task.address) if unwinder is not None else Trace(stopped=why)
        key = (task.state, trace.stopped, *(f"{frame.module}:{frame.name}" for frame in trace.frames))
        group = groups.setdefault(key, Group(task.state, trace, []))
        group.members.append((task, last_run.seconds(task)))
    for group in groups.values():
        group.members.sort(key=lambda each: (-(each[1] or 0), each[0].pid))
    ordered = sorted(groups.values(), key=lambda each: (each.state != "UN", -len(each.members)))
    return ordered, max(0, len(tasks) - MAX_TASKS)
