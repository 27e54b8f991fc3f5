# SPDX-License-Identifier: GPL-2.0-or-later
"""The facts of `analyze report`, as plain values: what the text, the HTML page and --json show alike.

Every part stands alone: what cannot be had is None, with its reason in `not_known`, and the rest is there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..formats import codecs
from ..formats.errors import DumpError
from ..formats.pages import PageState
from ..verify.display.measure import slices
from ..verify.display.picture import PageChart, chart
from .advice import next_commands
from .blocked import Group, group_tasks
from .commands import Result, bt, printable, sys
from .errors import MissingTable
from .kernel import Kernel
from .log import panic_text, render
from .memory_use import memory_use
from .taints import kernel_taints, letters_of, words_of

__all__ = ["CRASH_PATH", "PARTS", "gather", "pages_of"]

CRASH_PATH = ("__crash_kexec", "crash_kexec", "panic", "machine_kexec", "die", "oops_end")
_TAIL = 40
_BEFORE_PANIC = 5  # lines of the log shown before the panic, where it is above the tail
_MAX_STRETCH = 10  # the tail grows up to this many times its length to have the panic in it
_MAX_LISTED = 200  # tasks of a group, one by one
_NAME_LIMIT = 4096

# What makedumpfile's dump level leaves out (makedumpfile(8), "dump_level").
_LEVEL_BITS = (
    (1, "pages of zeros"),
    (2, "page cache without private data"),
    (4, "page cache with private data"),
    (8, "memory of programs"),
    (16, "free pages"),
)
# Kinds that such dumps number otherwise, or not at all.
_LEVELS_AS_MAKEDUMPFILE = ("kdump", "elf", "diskdump")


def pages_of(kernel: Kernel) -> PageChart | None:
    """Return where which pages are, by the dump's tables: a page whose data are cut off is lost. None if unreadable."""
    try:
        return chart(kernel.reader, kernel.physical.memory_map)
    except DumpError:
        return None


def gather(kernel: Kernel, result: Result, tail: int | None = None, drawn: PageChart | None = None) -> dict[str, Any]:
    """Return all facts.

    Args:
        kernel: The kernel.
        result: Takes the complaints.
        tail: Lines of the log; None: 40, and those up to the panic if it is not far above.
        drawn: The pages; None: the map alone tells what is missing.
    """
    facts: dict[str, Any] = {"not_known": {}, "pages": _counts(kernel, drawn)}
    for key, title, make in PARTS:
        try:
            facts[key] = make(kernel, result, tail, facts)
        except DumpError as error:
            facts[key] = None
            facts["not_known"][key] = error.message
            result.complain(f"{title}: {error.message}")
    if not facts["levels"][1]["reached"]:
        result.complain(f"nothing is known of the kernel: {facts['levels'][1]['reason']}", 1)
    for thing in (kernel.tasks, kernel.modules) if facts["levels"][2]["reached"] else ():
        for text in thing.complaints:
            result.complain(text, 4)
    for text in kernel.log_complaints:
        result.complain(text, 4)
    if facts["pages"]["damaged"] or (facts["pages"]["lost"] and not _lost_at_source(kernel)):
        result.exit_codes.append(3)
    elif kernel.reader.incomplete:
        result.exit_codes.append(4)
    del facts["pages"]
    facts["complaints"] = list(result.complaints)
    return facts


def _lost_at_source(kernel: Kernel) -> bool:
    # whether the writer's own word explains every page that is lost
    if not kernel.reader.incomplete or kernel.reader.damage is not None:
        return False
    try:
        for low, high in slices(*kernel.physical.memory_map.only(PageState.STORED), 1 << 18):
            rows = kernel.reader.extents(low, high)
            reasons = rows["page_offset"][rows["codec"] == codecs.BAD]
            if any(codecs.REASONS[each][0] != "no_descriptor" for each in set(reasons.tolist())):
                return False
    except DumpError:
        return False
    return True


def _counts(kernel: Kernel, drawn: PageChart | None) -> dict[str, int]:
    if drawn is None:
        return {state.name.lower(): kernel.physical.memory_map.count(state) for state in _STATES}
    counts = {state.name.lower(): drawn.totals.get(state.name.lower(), 0) for state in _STATES}
    return {**counts, "stored": sum(drawn.totals.values()) - sum(counts.values())}


def _system(kernel: Kernel, result: Result, tail: int | None, facts: dict[str, Any]) -> dict[str, Any]:
    found = sys.machine_of(kernel)
    for text in found.complaints:
        result.complain(text)
    data = dict(found.data)
    if kernel.release:
        data.setdefault("release", kernel.release)
    for key, function in (("hardware", _hardware), ("command_line", _command_line)):
        try:
            value = function(kernel)
        except DumpError:
            continue  # not every architecture has them
        if value:
            data[key] = value
    level, why = kernel.level
    return {**data, "level": level, "level_reason": why}


def _hardware(kernel: Kernel) -> str:
    return kernel.memory.string(kernel.symbol("dump_stack_arch_desc_str"), 128).decode("utf-8", "backslashreplace")


def _command_line(kernel: Kernel) -> str:
    address = kernel.memory.pointer(kernel.symbol("saved_command_line"))
    return kernel.memory.string(address, _NAME_LIMIT).decode("utf-8", "backslashreplace").strip()


def _levels(kernel: Kernel, result: Result, tail: int | None, facts: dict[str, Any]) -> list[dict[str, Any]]:
    rows = [("L0", "pages", True, f"{facts['pages']['stored']} pages stored")]
    try:
        gaps = ", of data only those that are exported" if kernel.symbols.functions_only else ""
        rows.append(("L1", "symbols", True, f"{len(kernel.symbols)} symbols{gaps}"))
    except DumpError as error:
        rows.append(("L1", "symbols", False, error.message))
    try:
        if not rows[1][2]:
            raise MissingTable("types are of no use without symbols")
        rows.append(("L2", "types", True, f"{len(kernel.btf)} types"))
    except DumpError as error:
        rows.append(("L2", "types", False, error.message))
    if kernel.vmlinux is not None:
        why = facts["not_known"].get("source_lines")
        rows.append(("L3", "source lines", why is None, f"from {kernel.vmlinux}" if why is None else why))
    else:
        rows.append(("L3", "source lines", False, "they are in no dump; --vmlinux FILE with debuginfo adds them"))
    return [{"level": each[0], "adds": each[1], "reached": each[2], "reason": each[3]} for each in rows]


def _panic(kernel: Kernel, result: Result, tail: int | None, facts: dict[str, Any]) -> str | None:
    text = panic_text(kernel.log)
    return None if text is None else text.decode("utf-8", "backslashreplace")


def _stopped(kernel: Kernel, result: Result, tail: int | None, facts: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    seen: dict[tuple[str, ...], int] = {}
    for task, name, trace in bt.traces_of_cpus(kernel):
        data = bt.to_json(task, name, trace)
        data["panicked"] = any(frame.name in CRASH_PATH for frame in trace.frames)
        data["heading"] = printable(name)
        key = tuple(f"{frame.module}:{frame.name}" for frame in trace.frames)
        data["same_as"] = seen.get(key)  # the trace's place in this list: on many CPUs most are idle
        seen.setdefault(key, len(found))
        found.append(data)
        if trace.stopped:
            result.complain(f"{name}: the trace is not whole: {trace.stopped}")
    if not found:
        raise MissingTable("no CPU saved its registers")
    return found


def _source(kernel: Kernel, result: Result, tail: int | None, facts: dict[str, Any]) -> list[str] | None:
    """Return the panic's trace with source lines, where the user gave debuginfo: drgn reads it."""
    if kernel.vmlinux is None:
        return None
    from .through_drgn import run_drgn

    found = run_drgn(kernel, ["crash", "bt", "-l"], kernel.vmlinux)
    lines = list(found.lines)
    if not lines:
        raise MissingTable(found.complaints[0] if found.complaints else "drgn printed nothing")
    return lines


def _groups(kernel: Kernel, result: Result, tail: int | None, facts: dict[str, Any]) -> list[dict[str, Any]]:
    # one pass for the parts `blocked_tasks` and `same_stacks`
    groups, left_out = group_tasks(kernel)
    if left_out:
        result.complain(f"same stacks: {left_out} more tasks were not traced")
    others = [each for each in groups if each.state != "UN" and each.trace.frames and len(each.members) > 1]
    facts["same_stacks"] = [_group(each) for each in others]
    return [_group(each) for each in groups if each.state == "UN"]


def _group(group: Group) -> dict[str, Any]:
    listed = [
        {
            "pid": task.pid,
            "comm": task.comm.decode("utf-8", "backslashreplace"),
            "task": f"{task.address:#x}",
            "cpu": task.cpu,
            "seconds": None if seconds is None else round(seconds, 3),
        }
        for task, seconds in group.members
    ]
    return {
        "tasks": len(listed),
        "state": group.state,
        "pids": [each["pid"] for each in listed],
        "members": listed[:_MAX_LISTED],
        "stack": [frame.name for frame in group.trace.frames],
        "frames": bt.to_json(None, "", group.trace)["frames"],
        "stopped": group.trace.stopped or None,
    }


def _same_stacks(kernel: Kernel, result: Result, tail: int | None, facts: dict[str, Any]) -> list[dict[str, Any]]:
    if "same_stacks" not in facts:
        raise MissingTable(facts["not_known"]["blocked_tasks"])
    found: list[dict[str, Any]] = facts["same_stacks"]
    return found


def _modules(kernel: Kernel, result: Result, tail: int | None, facts: dict[str, Any]) -> list[dict[str, Any]]:
    found = list(kernel.modules)
    if not found and kernel.modules.complaints:
        raise MissingTable(kernel.modules.complaints[0])
    return [
        {
            "name": each.name,
            "base": f"{each.base:#x}",
            "size": each.size,
            "taints": f"{each.taints:#x}",
            "taint_words": words_of(each.taints),
        }
        for each in found
    ]


def _taints(kernel: Kernel, result: Result, tail: int | None, facts: dict[str, Any]) -> dict[str, Any]:
    mask = kernel_taints(kernel)
    return {"mask": f"{mask:#x}", "letters": letters_of(mask), "words": words_of(mask)}


def _memory(kernel: Kernel, result: Result, tail: int | None, facts: dict[str, Any]) -> dict[str, Any]:
    use = memory_use(kernel)
    return {
        "total": use.total,
        "uses": use.uses,
        "swap": None if use.swap is None else {"total": use.swap[0], "free": use.swap[1]},
        "largest": [
            {"pid": pid, "comm": comm.decode("utf-8", "backslashreplace"), "resident": size}
            for pid, comm, size in use.largest
        ],
    }


def _missing(kernel: Kernel, result: Result, tail: int | None, facts: dict[str, Any]) -> dict[str, Any]:
    reader = kernel.reader
    counts: dict[str, Any] = facts["pages"]
    reasons = []
    if counts["excluded"]:
        reasons.append(f"{counts['excluded']} pages left out by the writer{_level_words(kernel)}")
    if counts["lost"]:
        reasons.append(
            f"{counts['lost']} pages should be there and are not: the dump was cut off, or a part is missing"
        )
    if counts["damaged"]:
        reasons.append(f"{counts['damaged']} pages do not decode: their bytes were changed")
    if reader.incomplete:
        reasons.append("the writer marked the dump as incomplete")
    return {**counts, "page_size": kernel.machine.page_size, "incomplete": reader.incomplete, "reasons": reasons}


_STATES = (PageState.STORED, PageState.EXCLUDED, PageState.LOST, PageState.DAMAGED)


def _level_words(kernel: Kernel) -> str:
    level = kernel.reader.facts.get("dump_level")
    if not isinstance(level, int) or level <= 0 or kernel.reader.name not in _LEVELS_AS_MAKEDUMPFILE:
        return ""
    words = [name for bit, name in _LEVEL_BITS if level & bit]
    return f" (dump level {level}: {', '.join(words)})" if words and level < 32 else f" (dump level {level})"


def _tail(kernel: Kernel, result: Result, tail: int | None, facts: dict[str, Any]) -> list[str]:
    lines = [line for record in kernel.log for line in printable(render(record), "\n\t").split("\n")]
    if tail is not None:
        return lines[max(0, len(lines) - tail) :]
    start, panic = max(0, len(lines) - _TAIL), facts.get("panic")
    if panic is not None:
        shown = printable(panic)
        first = next((number for number, line in enumerate(lines) if shown in line), start)
        if first < start and len(lines) - first <= _MAX_STRETCH * _TAIL:
            start = max(0, first - _BEFORE_PANIC)
    return lines[start:]


def _next(kernel: Kernel, result: Result, tail: int | None, facts: dict[str, Any]) -> list[dict[str, str]]:
    return next_commands(kernel, facts)


_Make = Callable[[Kernel, Result, int | None, dict[str, Any]], Any]
# Key of --json, title in the text, how it is made; in the order of the report. Some look at what stands before them.
PARTS: tuple[tuple[str, str, _Make], ...] = (
    ("source_lines", "source lines", _source),
    ("levels", "levels", _levels),
    ("system", "system", _system),
    ("panic", "panic", _panic),
    ("stopped_cpus", "stopped CPUs", _stopped),
    ("blocked_tasks", "blocked tasks", _groups),
    ("same_stacks", "other tasks with the same stack", _same_stacks),
    ("modules", "modules", _modules),
    ("taints", "taints", _taints),
    ("memory", "memory use", _memory),
    ("missing_from_the_dump", "missing from the dump", _missing),
    ("log_tail", "log tail", _tail),
    ("next_commands", "next commands", _next),
)
