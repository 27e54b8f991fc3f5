# SPDX-License-Identifier: GPL-2.0-or-later
"""`analyze report --html FILE`: the facts as one self-contained page to attach to a ticket.

It looks like dumpverify's page and keeps its rules: nothing is fetched or run, what comes from the dump goes through
`text`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

from .. import __version__
from ..verify.display.html import badge, facts, page, table, text, when, write_page
from ..verify.display.html_map import map_style, render_map
from ..verify.display.measure import human_size
from ..verify.display.picture import PageChart
from .advice import DYING, culprit
from .kernel import Kernel
from .memory_use import ROWS
from .report_style import STYLE, USES
from .report_text import ago

__all__ = ["render_page", "write_report"]

_MAX_TRACES = 64  # distinct ones
_MAX_GROUPS = 50
_MAX_MODULES = 1000
_STATES = {
    "UN": "blocked", "IN": "asleep", "ID": "idle kernel threads", "RU": "ready to run", "ST": "stopped", "TR": "traced",
    "PA": "parked", "DE": "dead", "ZO": "zombies",
}  # fmt: skip
_Facts = dict[str, Any]


def write_report(kernel: Kernel, found: _Facts, drawn: PageChart | None, path: str) -> None:
    """Write the page.

    Args:
        kernel: The kernel.
        found: The facts.
        drawn: Its pages, None where the dump's tables cannot be read.
        path: The page's file.

    Raises:
        OutputError: It cannot be written.
    """
    write_page(path, render_page(kernel, found, drawn))


def render_page(kernel: Kernel, found: _Facts, drawn: PageChart | None) -> Iterator[str]:
    """Yield the page."""
    yield from page("Crash report", _body(kernel, found, drawn), map_style() + STYLE)


def _body(kernel: Kernel, found: _Facts, drawn: PageChart | None) -> Iterator[str]:
    name = ", ".join(os.path.basename(source.name) for source in kernel.reader.sources)
    yield "<header>\n<h1>Crash report</h1>\n"
    yield f'<p class="faint">{text(name)}. Written {when()} by dumpconv {text(__version__)}.</p>\n'
    yield from _summary(found)
    yield "</header>\n<main>\n"
    for title, key, render in _PARTS:
        if key == "source_lines" and found[key] is None and key not in found["not_known"]:
            continue  # not asked for
        yield f"<section>\n<h2>{title}</h2>\n"
        why = found["not_known"].get(key)
        if why is not None:
            yield f'<p class="unknown">Not known: {text(why)}</p>\n'
        else:
            yield from render(found[key], found)
        yield "</section>\n"
    yield "<section>\n<h2>Memory map</h2>\n"
    if drawn is not None:
        yield from render_map(drawn)
    else:
        yield '<p class="unknown">Not known: the tables of pages cannot be read</p>\n'
    yield "</section>\n"
    yield "<section>\n<h2>Next commands</h2>\n"
    yield from _next(found["next_commands"] or [])
    yield "</section>\n</main>\n"


def _summary(found: _Facts) -> Iterator[str]:
    system = found["system"] or {}
    panic = found["panic"] or "The log holds no panic, BUG or oops."
    if "panic" in found["not_known"]:
        panic = f"The end is not known: {found['not_known']['panic']}"
    yield f'<p class="panic{"" if found["panic"] else " none"}">{text(panic)}</p>\n'
    chosen = next((each for each in found["stopped_cpus"] or [] if each["panicked"]), None)
    if chosen is not None:
        place = culprit(chosen["frames"])
        where = f"In <code>{text(place['function'])}+{place['offset']}</code>, on" if place is not None else "On"
        yield f"<p>{where} {_who(chosen)}</p>\n"
    blocked = sum(each["tasks"] for each in found["blocked_tasks"] or [])
    yield '<p class="badges">'
    if found["levels"]:
        reached = [each["level"] for each in found["levels"] if each["reached"]]
        yield badge(f"level {reached[-1]}", "good" if len(reached) > 2 else "doubt") + " "
    if found["blocked_tasks"] is not None:
        yield badge(f"{blocked} blocked task{'s' * (blocked != 1)}", "bad" if blocked else "good") + " "
    if found["taints"] is not None:
        letters = found["taints"]["letters"]
        yield badge(f"tainted {letters}" if letters else "not tainted", "doubt" if letters else "good") + " "
    missing = found["missing_from_the_dump"] or {}
    if missing.get("lost") or missing.get("damaged") or missing.get("incomplete"):
        yield badge("the dump is damaged or not whole", "bad")
    yield "</p>\n"
    rows = [(key, system.get(key.replace(" ", "_"))) for key in ("release", "date", "uptime", "cpus", "memory")]
    yield from facts([*rows, ("hardware", system.get("hardware"))])


def _list(words: Iterable[str], kind: str) -> str:
    return f'<ul class="{kind}">' + "".join(f"<li>{each}</li>" for each in words) + "</ul>\n"


# -- stacks ------------------------------------------------------------------------------------------------------


def _stopped(traces: list[_Facts], found: _Facts) -> Iterator[str]:
    distinct = [place for place, each in enumerate(traces) if each["same_as"] is None]
    distinct.sort(key=lambda place: (not traces[place]["panicked"], place))
    for place in distinct[:_MAX_TRACES]:
        each = traces[place]
        cpus = [each, *(other for other in traces if other["same_as"] == place)]
        names = ", ".join(_who(one) for one in cpus)
        mark = " " + badge("panicked", "bad") if any(one["panicked"] for one in cpus) else ""
        yield f"<h3>{names}{mark}</h3>\n"
        if len(cpus) > 1:
            yield f'<p class="faint">The same stack on {len(cpus)} CPUs; registers are those of the first.</p>\n'
        if not each["frames"] and each["user_registers"]:
            yield "<p>In user mode, outside the kernel.</p>\n"
        yield from _trace(each["frames"], each["stopped"])
        user = each["user_registers"]
        if user and not (each["frames"] and each["frames"][-1]["registers"]):
            yield "<h4>Registers of user mode</h4>\n" + _registers(user)
    if len(distinct) > _MAX_TRACES:
        yield f'<p class="faint">{len(distinct) - _MAX_TRACES} more: <code>bt -a</code> shows them.</p>\n'


def _who(trace: _Facts) -> str:
    if trace["cpu"] is None:
        return "a CPU whose task is not known"
    return f"CPU {text(trace['cpu'])}, task {text(trace['comm'])} (PID {text(trace['pid'])})"


def _trace(frames: list[_Facts], stopped: str | None, *, registers: bool = True) -> Iterator[str]:
    place = culprit(frames) if any(each["function"] in DYING for each in frames) else None
    if frames:
        yield '<ol class="trace" start="0">\n'
        for each in frames:
            name = f"<b>{text(each['function'])}</b>+{each['offset']}" if each["function"] else "<b>(unknown)</b>"
            module = f" [{text(each['module'])}]" if each["module"] else ""
            guessed = ' <span class="faint">guessed</span>' if each["guessed"] else ""
            hit = ' class="hit"' if each is place else ""
            address = f'<span class="at">{text(each["ip"][2:])}</span>'
            yield f"<li{hit}><code>{name}{module}</code>{guessed} {address}"
            yield (_registers(each["registers"]) if each["registers"] and registers else "") + "</li>\n"
        yield "</ol>\n"
    if stopped:
        yield f'<p class="unknown">The trace is not whole: {text(stopped)}</p>\n'


def _registers(registers: dict[str, str]) -> str:
    cells = (f"<i>{text(name)}</i> {int(value, 16):016x}" for name, value in registers.items())
    return _list(cells, "registers")


def _blocked(groups: list[_Facts], found: _Facts) -> Iterator[str]:
    if not groups:
        yield "<p>None: no task was in uninterruptible sleep.</p>\n"
        return
    for each in groups[:_MAX_GROUPS]:
        count = each["tasks"]
        yield f"<h3>{count} task{'s' * (count != 1)}{' with one stack' if count > 1 else ''}</h3>\n"
        rows = [
            [text(ago(one["seconds"])), text(one["comm"]), text(one["pid"]), text(one["cpu"])]
            for one in each["members"]
        ]
        yield from table(("blocked for", "task", "PID", "CPU"), rows, "tasks")
        yield from _more(count - len(rows))
        yield from _trace(each["frames"], each["stopped"], registers=False)
    yield from _more(len(groups) - _MAX_GROUPS)
    yield '<p class="faint">Blocked for: the time since the task last ran.</p>\n'


def _same(groups: list[_Facts], found: _Facts) -> Iterator[str]:
    if not groups:
        yield "<p>None.</p>\n"
    for each in groups[:_MAX_GROUPS]:
        yield f"<h3>{each['tasks']} tasks, {_STATES.get(each['state'], text(each['state']))}</h3>\n"
        names = [f"{text(one['comm'])} <span class=faint>{text(one['pid'])}</span>" for one in each["members"][:40]]
        yield _list([*names, *([f"and {each['tasks'] - 40} more"] if each["tasks"] > 40 else [])], "names")
        yield f'<p class="path"><code>{" &larr; ".join(text(name) or "?" for name in each["stack"])}</code></p>\n'
    yield from _more(len(groups) - _MAX_GROUPS)


def _more(count: int) -> Iterator[str]:
    if count > 0:
        yield f'<p class="faint">and {count} more</p>\n'


# -- the rest ----------------------------------------------------------------------------------------------------


def _log(lines: list[str], found: _Facts) -> Iterator[str]:
    panic = found["panic"]
    yield '<pre class="log">'
    for line in lines:
        shown = text(line.replace("\t", "        "))
        yield f"<mark>{shown}</mark>\n" if panic is not None and text(panic) in shown else f"{shown}\n"
    yield "</pre>\n"


def _source(lines: list[str], found: _Facts) -> Iterator[str]:
    yield '<pre class="log">' + "".join(f"{text(line)}\n" for line in lines) + "</pre>\n"


def _memory(memory: _Facts, found: _Facts) -> Iterator[str]:
    total, uses = max(1, memory["total"]), dict(memory["uses"])
    yield from _bar(total, uses)
    rows = [[human_size(memory["total"]), "", "all that the kernel manages"]]
    rows += [
        [human_size(uses[key]), f"{100 * uses[key] / total:.0f} %", title] for key, title, _ in ROWS if key in uses
    ]
    if memory["swap"] is not None and memory["swap"]["total"]:
        swap = memory["swap"]
        rows += [[human_size(swap["total"]), "", f"swap, {human_size(swap['free'])} of it free"]]
    yield '<div class="pair"><div>\n'
    yield from table(("bytes", "share", "use"), rows, "numbers shares")
    yield "</div><div>\n"
    if memory["largest"]:
        users = [[human_size(one["resident"]), text(one["comm"]), text(one["pid"])] for one in memory["largest"]]
        yield from table(("resident", "program", "PID"), users, "numbers")
    yield "</div></div>\n"
    if memory["swap"] is not None and not memory["swap"]["total"]:
        yield '<p class="faint">No swap.</p>\n'


def _bar(total: int, uses: dict[str, int]) -> Iterator[str]:
    parts = {
        "anonymous": uses.get("anonymous", 0),
        "shared": uses.get("shared", 0),
        "file": max(0, uses.get("file", 0) - uses.get("shared", 0)),
        "slab": uses.get("slab_reclaimable", 0) + uses.get("slab_unreclaimable", 0),
        "tables": uses.get("page_tables", 0),
        "free": uses.get("free", 0),
    }
    parts["other"] = max(0, total - sum(parts.values()))
    scale = 1000 / max(1, sum(parts.values()))
    yield '<svg class="bar" viewBox="0 0 1000 24" preserveAspectRatio="none" role="img" aria-label="use of memory">'
    yield "<title>use of memory</title>\n"
    at = 0.0
    for key, _ in USES:
        width = parts[key] * scale
        yield f'<path class="u-{key}" d="M{at:.1f} 0h{width:.1f}v24H{at:.1f}z"/>\n'
        at += width
    yield "</svg>\n"
    yield _list((f'<i class="u-{key}"></i>{title}: {human_size(parts[key])}' for key, title in USES), "legend")


def _modules(modules: list[_Facts], found: _Facts) -> Iterator[str]:
    taints = found["taints"]
    if taints is not None:
        if taints["words"]:
            yield f"<h3>The kernel is tainted: {text(taints['letters'])}</h3>\n"
            yield _list((text(words) for words in taints["words"]), "taints")
        else:
            yield "<p>The kernel is not tainted.</p>\n"
    rows = [[text(each["name"]), text("; ".join(each["taint_words"]))] for each in modules if each["taint_words"]]
    if rows:
        yield "<h3>Modules that taint it</h3>\n"
        yield from table(("module", "why"), rows)
    yield f"<h3>{len(modules)} loaded</h3>\n"
    yield _list((text(each["name"]) for each in modules[:_MAX_MODULES]), "names")
    yield from _more(len(modules) - _MAX_MODULES)


def _missing(missing: _Facts, found: _Facts) -> Iterator[str]:
    size = missing["page_size"]
    if missing["reasons"]:
        yield _list((text(reason) for reason in missing["reasons"]), "taints")
    else:
        yield "<p>Nothing.</p>\n"
    names = ("stored", "excluded", "lost", "damaged")
    rows = [[f"{missing[name]:,}", human_size(missing[name] * size), name] for name in names if missing[name]]
    yield from table(("pages", "size", "state"), rows, "numbers")
    complaints = found["complaints"]
    if complaints:
        yield "<h3>What could not be read</h3>\n"
        yield _list((text(each) for each in complaints[:_MAX_GROUPS]), "taints")
        yield from _more(len(complaints) - _MAX_GROUPS)


def _levels(levels: list[_Facts], found: _Facts) -> Iterator[str]:
    rows = [
        [
            each["level"],
            each["adds"],
            badge("yes", "good") if each["reached"] else badge("no", "doubt"),
            text(each["reason"]),
        ]
        for each in levels
    ]
    yield from table(("level", "adds", "reached", "why"), rows)


def _machine(system: _Facts, found: _Facts) -> Iterator[str]:
    yield from facts((key.replace("_", " "), value) for key, value in system.items() if not key.startswith("level"))


def _next(commands: list[_Facts]) -> Iterator[str]:
    yield '<ul class="commands">\n'
    yield (
        "".join(f"<li><code>{text(each['command'])}</code><br>{text(each['why'])}</li>\n" for each in commands)
        + "</ul>\n"
    )


_PARTS = (
    ("Stopped CPUs", "stopped_cpus", _stopped),
    ("Source lines", "source_lines", _source),
    ("Blocked tasks", "blocked_tasks", _blocked),
    ("Log", "log_tail", _log),
    ("Other tasks with the same stack", "same_stacks", _same),
    ("Memory use", "memory", _memory),
    ("Modules and taints", "modules", _modules),
    ("Missing from the dump", "missing_from_the_dump", _missing),
    ("What is known", "levels", _levels),
    ("Machine", "system", _machine),
)
