# SPDX-License-Identifier: GPL-2.0-or-later
"""`bt`: stack traces of the CPUs that were stopped, and of tasks, in crash's form."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from ...formats.errors import DumpError
from ...formats.machine import ARCHITECTURES
from ..errors import MissingTable
from ..kernel import Kernel
from ..registers import REGISTERS, Registers, arch_of
from ..tasks import Task
from ..unwind import Frame, Trace, Unwinder, make_unwinder
from . import Result, printable
from .ps import selected

_PANICKING = ("__crash_kexec", "crash_kexec", "panic", "machine_kexec", "die", "disabled_wait")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument("words", nargs="*", metavar="PID|TASK|COMMAND", help="tasks (default: the one that panicked)")
    parser.add_argument("-a", dest="cpus", action="store_true", help="the task that each CPU executed")
    parser.add_argument("-A", dest="all", action="store_true", help="all tasks")
    parser.add_argument("-s", dest="offsets", action="store_true", help="offsets in functions")


def run(kernel: Kernel, args: argparse.Namespace) -> Result:
    """Print traces."""
    result = Result(data=[])
    result.lines = _lines(kernel, args, result)
    return result


def _lines(kernel: Kernel, args: argparse.Namespace, result: Result) -> Iterator[str]:
    unwinder = make_unwinder(kernel)
    first = True
    for task, name, trace in traces(kernel, unwinder, args):
        if not first:
            yield ""
        first = False
        yield from render(name, trace, kernel.machine.arch, offsets=args.offsets)
        result.data.append(to_json(task, name, trace))
        if trace.stopped:
            result.complain(f"{name}: the trace is not whole: {trace.stopped}")
    if first:
        result.complain("no such task", 1)


def traces(kernel: Kernel, unwinder: Unwinder, args: argparse.Namespace) -> Iterator[tuple[Task | None, str, Trace]]:
    """Yield task, heading and trace of what was asked for."""
    try:
        tasks = list(kernel.tasks)
    except DumpError:
        if args.words or args.all:
            raise  # there is nothing to choose from: why counts
        tasks = []
    stopped = _stopped(kernel, unwinder, tasks)
    if not args.words and not args.all:
        wanted = stopped if args.cpus else [_panicked(kernel, unwinder, stopped)]
        for task, registers in wanted:
            yield task, _heading(task), unwinder.trace(registers)
        return
    at_work = {task.address: registers for task, registers in stopped if task is not None}
    for task in tasks:
        if args.all or selected(task, args.words):
            at = at_work.get(task.address)
            trace = unwinder.trace(at) if at is not None else unwinder.sleeping(task.address)
            yield task, _heading(task), trace


def panicked_task(kernel: Kernel) -> Task | None:
    """Return the task that panicked, as far as it can be told.

    Raises:
        MissingTable, Unreadable: Nothing tells it.
    """
    unwinder = make_unwinder(kernel)
    return _panicked(kernel, unwinder, _stopped(kernel, unwinder, list(kernel.tasks)))[0]


def traces_of_cpus(kernel: Kernel) -> Iterator[tuple[Task | None, str, Trace]]:
    """Yield task, heading and trace of each CPU that saved its registers.

    Raises:
        MissingTable, Unreadable: Stacks cannot be had.
    """
    words = argparse.Namespace(words=[], cpus=True, all=False)
    yield from traces(kernel, make_unwinder(kernel), words)


def _stopped(kernel: Kernel, unwinder: Unwinder, tasks: list[Task]) -> list[tuple[Task | None, Registers]]:
    # Registers are in the order of the CPUs that saved them. pr_pid tells whose they are where it is not 0 (an idle
    # task's), and where it is not the number of the CPU, counted from 1: QEMU writes that.
    saved = unwinder.saved_registers()
    running = {task.cpu: task for task in tasks if task.running}
    numbered = [pid for pid, _ in saved] == list(range(1, len(saved) + 1))
    found: list[tuple[Task | None, Registers]] = []
    for number, (pid, registers) in enumerate(saved):
        by_cpu = running.get(sorted(running)[number]) if number < len(running) else None
        if numbered:
            found.append((running.get(number), registers))
            continue
        task = next((each for each in running.values() if pid and each.pid == pid), None)
        if task is None and (pid == 0 or len(saved) == len(running)):
            task = by_cpu
        found.append((task, registers))
    return found


def _panicked(
    kernel: Kernel, unwinder: Unwinder, stopped: list[tuple[Task | None, Registers]]
) -> tuple[Task | None, Registers]:
    # the CPU that called panic: its registers point into the crash path, or its trace goes through it
    if not stopped:
        raise MissingTable("no CPU saved its registers")
    for task, registers in stopped:
        found = unwinder.lookup(registers["ip"]) if not unwinder.set.in_user_mode(registers) else None
        if found is not None and found[0].name in _PANICKING:
            return task, registers
    try:
        cpu = kernel.memory.s32(kernel.symbol("panic_cpu"))
    except DumpError:
        cpu = -1
    for task, registers in stopped:
        if task is not None and task.cpu == cpu:
            return task, registers
    for task, registers in stopped:
        frames = unwinder.trace(registers).frames[:8]
        if any(frame.name in _PANICKING for frame in frames):
            return task, registers
    return next((each for each in stopped if not unwinder.set.in_user_mode(each[1])), stopped[0])


def _heading(task: Task | None) -> str:
    if task is None:
        return "task not known"
    return f'PID: {task.pid:<8} TASK: {task.address:x}  CPU: {task.cpu:<4} COMMAND: "{printable(task.comm)}"'


def render(heading: str, trace: Trace, arch: str, *, offsets: bool) -> Iterator[str]:
    """Yield the lines of one trace."""
    digits = 16 if ARCHITECTURES[arch].word_size == 8 else 8
    yield heading
    for number, frame in enumerate(trace.frames):
        sure, said = ("? ", " (guessed)") if frame.guessed else ("", "")
        yield f"{f'#{number}':>3} [{frame.sp:0{digits}x}] {sure}{_name(frame, offsets)} at {frame.ip:x}{said}"
        if frame.registers is not None:
            yield from register_lines(frame.registers)
    if trace.user is not None:
        if not trace.frames:
            yield "    the CPU was in user mode"
        if not (trace.frames and trace.frames[-1].registers is not None):
            yield from register_lines(trace.user)


def _name(frame: Frame, offsets: bool) -> str:
    name = printable(frame.name) or "(unknown)"
    name += f"+{frame.offset}" if offsets and frame.name else ""
    return name + (f" [{printable(frame.module)}]" if frame.module else "")


def register_lines(registers: Registers) -> Iterator[str]:
    """Yield registers as crash lays them out."""
    arch = arch_of(registers)
    digits = 16 if ARCHITECTURES[arch].word_size == 8 else 8
    for row in REGISTERS[arch].rows:
        cells = []
        for title, key in row:
            if key in registers:
                width = 4 if len(key) == 2 and key[1] == "s" else 8 if key == "flags" else digits
                cells.append(f"{title}: {registers[key]:0{width}x}")
        if cells:
            yield "    " + "  ".join(cells)


def to_json(task: Task | None, heading: str, trace: Trace) -> dict[str, Any]:
    """Return one trace as JSON values."""

    def registers(found: Registers | None) -> dict[str, str] | None:
        return None if found is None else {name: f"{value:#x}" for name, value in found.items()}

    return {
        "pid": task.pid if task is not None else None,
        "task": f"{task.address:#x}" if task is not None else None,
        "cpu": task.cpu if task is not None else None,
        "comm": task.comm.decode("utf-8", "backslashreplace") if task is not None else None,
        "frames": [
            {
                "ip": f"{each.ip:#x}",
                "sp": f"{each.sp:#x}",
                "function": each.name or None,
                "offset": each.offset,
                "module": each.module or None,
                "guessed": each.guessed,
                "registers": registers(each.registers),
            }
            for each in trace.frames
        ],
        "user_registers": registers(trace.user),
        "stopped": trace.stopped or None,
    }
