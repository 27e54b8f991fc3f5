# SPDX-License-Identifier: GPL-2.0-or-later
"""The text of `analyze report`, from the facts alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ..verify.display.measure import human_size
from .commands import printable
from .commands.bt import register_lines
from .memory_use import ROWS

__all__ = ["ago", "render_report"]

_MAX_NAMES = 8  # of the tasks of a group
_Facts = dict[str, Any]


def ago(seconds: float | None) -> str:
    """Return a time span as people say it: `0.4 s`, `12 s`, `3 min 5 s`, `2 h 10 min`; `not known`."""
    if seconds is None:
        return "not known"
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def render_report(facts: _Facts) -> Iterator[str]:
    """Yield the lines."""
    for number, (title, key, render) in enumerate(_PARTS):
        if key == "source_lines" and facts[key] is None and key not in facts["not_known"]:
            continue  # not asked for
        if number:
            yield ""
        yield f"== {title} =="
        value = facts.get(key)
        why = facts["not_known"].get(key)
        if why is not None:
            yield f"not known: {printable(why)}"
        elif value is None or value == []:
            yield _NOTHING.get(key, "none")
        else:
            yield from render(value)


_Render = Callable[[Any], Iterator[str]]
_NOTHING = {"panic": "the log holds no panic, BUG or oops"}


def _system(system: _Facts) -> Iterator[str]:
    for key, value in system.items():
        if not key.startswith("level"):
            yield f"{key.upper().replace('_', ' '):>12}: {printable(value)}"


def _levels(levels: list[_Facts]) -> Iterator[str]:
    for each in levels:
        yield f"{each['level']} {each['adds']:<12}  {'yes' if each['reached'] else 'no '}  {printable(each['reason'])}"


def _stopped(traces: list[_Facts]) -> Iterator[str]:
    for place, each in enumerate(traces):
        if each["same_as"] is not None:
            continue
        if place:
            yield ""
        yield printable(each["heading"]) + ("  <- panicked" if each["panicked"] else "")
        yield from _frames(each["frames"])
        user = each["user_registers"]
        if user is not None and not (each["frames"] and each["frames"][-1]["registers"]):
            if not each["frames"]:
                yield "    the CPU was in user mode"
            yield from _registers(user)
        if each["stopped"]:
            yield f"    the trace is not whole: {printable(each['stopped'])}"
        for other in traces:
            if other["same_as"] == place:
                yield f"    the same stack: {printable(other['heading'])}"


def _frames(frames: list[_Facts]) -> Iterator[str]:
    for number, each in enumerate(frames):
        name = f"{printable(each['function'])}+{each['offset']}" if each["function"] else "(unknown)"
        name += f" [{printable(each['module'])}]" if each["module"] else ""
        guessed = " (guessed)" if each["guessed"] else ""
        yield f"{f'#{number}':>3} [{int(each['sp'], 16):016x}] {name} at {each['ip'][2:]}{guessed}"
        if each["registers"] is not None:
            yield from _registers(each["registers"])


def _registers(registers: dict[str, str]) -> Iterator[str]:
    yield from register_lines({name: int(value, 16) for name, value in registers.items()})


def _blocked(groups: list[_Facts]) -> Iterator[str]:
    yield from _groups(groups, times=True)


def _groups(groups: list[_Facts], *, times: bool = False) -> Iterator[str]:
    for each in groups:
        shown = each["members"][: None if times else _MAX_NAMES]
        names = ", ".join(f"{printable(one['comm'])} ({one['pid']})" for one in shown)
        more = each["tasks"] - len(shown)
        head = f"{each['tasks']} {each['state']} task{'s' * (each['tasks'] != 1)}"
        if times:
            yield f"{head}, with the time since they ran:"
            yield from (f"  {printable(one['comm'])} ({one['pid']})  {ago(one['seconds'])}" for one in shown)
        else:
            yield f"{head}: {names}"
        if more > 0:
            yield f"  and {more} more"
        yield from (f"    {printable(name) or '(unknown)'}" for name in each["stack"])
        if each["stopped"]:
            yield f"    the trace is not whole: {printable(each['stopped'])}"


def _modules(modules: list[_Facts]) -> Iterator[str]:
    yield f"{len(modules)} loaded: {', '.join(printable(each['name']) for each in modules)}"
    for each in modules:
        for words in each["taint_words"]:
            yield f"{printable(each['name'])} taints the kernel: {words}"


def _taints(taints: _Facts) -> Iterator[str]:
    if not taints["words"]:
        yield "none"
        return
    yield f"{taints['letters']} ({taints['mask']})"
    yield from taints["words"]


def _memory(memory: _Facts) -> Iterator[str]:
    rows = [("total", memory["total"])]
    rows += [(title, memory["uses"][key]) for key, title, _ in ROWS if key in memory["uses"]]
    if memory["swap"] is not None:
        rows += [("swap", memory["swap"]["total"]), ("swap, free", memory["swap"]["free"])]
    width = max(len(title) for title, _ in rows)
    for title, size in rows:
        share = 100 * size / memory["total"] if memory["total"] else 0
        yield f"{title:<{width}}  {human_size(size):>10}" + (
            f"  {share:3.0f} %" if not title.startswith("swap") else ""
        )
    if memory["largest"]:
        listed = (f"{printable(one['comm'])} ({one['pid']}) {human_size(one['resident'])}" for one in memory["largest"])
        yield f"largest programs: {', '.join(listed)}"


def _missing(missing: _Facts) -> Iterator[str]:
    yield from (printable(reason) for reason in missing["reasons"] or ["nothing"])


def _tail(tail: list[str]) -> Iterator[str]:
    yield from (printable(line) for line in tail)


def _next(commands: list[_Facts]) -> Iterator[str]:
    for each in commands:
        yield printable(each["command"])
        yield f"    {printable(each['why'])}"


_PARTS: tuple[tuple[str, str, _Render], ...] = (
    ("system", "system", _system),
    ("levels", "levels", _levels),
    ("panic", "panic", lambda text: iter([printable(text)])),
    ("stopped CPUs", "stopped_cpus", _stopped),
    ("source lines", "source_lines", _tail),
    ("blocked tasks", "blocked_tasks", _blocked),
    ("other tasks with the same stack", "same_stacks", _groups),
    ("memory use", "memory", _memory),
    ("modules", "modules", _modules),
    ("taints", "taints", _taints),
    ("missing from the dump", "missing_from_the_dump", _missing),
    ("log tail", "log_tail", _tail),
    ("next commands", "next_commands", _next),
)
