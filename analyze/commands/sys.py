# SPDX-License-Identifier: GPL-2.0-or-later
"""`sys`: the machine and its end, in crash's lines; its configuration; its system calls."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime

from ...formats.errors import DumpError, UsageError
from ...formats.pages import PageState
from ..banner import FIELD, NAMES
from ..clock import crash_time
from ..errors import MissingTable
from ..kernel import Kernel
from ..kernel_config import kernel_config
from ..log import panic_text
from . import Result, printable

_MAX_CALLS = 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument("words", nargs="*", metavar="config|CALL", help="config: the configuration in the kernel")
    parser.add_argument("-c", dest="calls", action="store_true", help="system calls: all, or by part of name or number")


def run(kernel: Kernel, args: argparse.Namespace) -> Result:
    """Print what is known; what is not is left out and complained about."""
    if args.calls:
        return _system_calls(kernel, args.words)
    if args.words == ["config"]:
        return _config(kernel)
    if args.words:
        raise UsageError(f"sys does not know {printable(args.words[0])}", hint="sys config, or sys -c CALL")
    return machine_of(kernel)


def machine_of(kernel: Kernel) -> Result:
    """Return the machine and its end."""
    result, rows = Result(), [("KERNEL", "none given: symbols and types are from the dump")]
    rows.append(("DUMPFILE", ", ".join(source.name for source in kernel.reader.sources)))
    for title, function in (
        ("CPUS", cpu_count),
        ("DATE", _date),
        ("UPTIME", _uptime),
        ("LOAD AVERAGE", _load),
        ("TASKS", _tasks),
        ("NODENAME", lambda each: _uts(each, "nodename")),
        ("RELEASE", lambda each: _uts(each, "release")),
        ("VERSION", lambda each: _uts(each, "version")),
        ("MACHINE", lambda each: _uts(each, "machine")),
        ("MEMORY", _memory),
        ("PANIC", _panic),
    ):
        try:
            value = function(kernel)
        except DumpError as error:
            result.complain(f"{title}: {error.message}")
            continue
        if value:
            rows.append((title, value))
    result.lines = [f"{title:>12}: {printable(value)}" for title, value in rows]
    result.data = {title.lower().replace(" ", "_"): value for title, value in rows}
    return result


def cpu_count(kernel: Kernel) -> str:
    """Return the number of CPUs, and of those that were offline at the end."""
    offline = len(set(kernel.cpus) - set(kernel.online_cpus))
    return f"{len(kernel.cpus)} [OFFLINE: {offline}]" if offline else str(len(kernel.cpus))


def _date(kernel: Kernel) -> str:
    return datetime.fromtimestamp(crash_time(kernel), UTC).strftime("%a %b %e %H:%M:%S UTC %Y")


def _uptime(kernel: Kernel) -> str:
    times = [record.ns for record in kernel.log if record.ns is not None]
    if not times:
        raise MissingTable("the log has no times")
    minutes, seconds = divmod(times[-1] // 10**9, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{f'{days} days, ' if days else ''}{hours:02}:{minutes:02}:{seconds:02}"


def _load(kernel: Kernel) -> str:
    # fixed point with 11 bits after the point, rounded as the kernel prints it
    averages = [each + (1 << 11) // 200 for each in kernel.memory.words(kernel.symbol("avenrun"), 3)]
    return ", ".join(f"{each >> 11}.{(each & 0x7FF) * 100 >> 11:02}" for each in averages)


def _tasks(kernel: Kernel) -> str:
    return str(sum(1 for _ in kernel.tasks.addresses()))


def _uts(kernel: Kernel, name: str) -> str:
    try:
        raw = kernel.memory.read(kernel.symbol("init_uts_ns"), 512)
        at = raw.find(b"Linux\0")
        if at < 0:
            raise MissingTable("init_uts_ns holds no utsname")
    except DumpError:
        if not kernel.utsname:
            raise
        return kernel.utsname[name]
    start = at + FIELD * NAMES.index(name)
    return raw[start : start + FIELD].split(b"\0", 1)[0].decode("utf-8", "backslashreplace")


def _memory(kernel: Kernel) -> str:
    frames = kernel.present_pages
    if frames is None:
        frames = sum(kernel.physical.memory_map.count(state) for state in PageState if state != PageState.HOLE)
    size = frames * kernel.machine.page_size
    return f"{size / (1 << 30):.1f} GB" if size >= 1 << 30 else f"{size / (1 << 20):.1f} MB"


def _panic(kernel: Kernel) -> str:
    text = panic_text(kernel.log)
    return f'"{text.decode("utf-8", "backslashreplace")}"' if text is not None else ""


def _config(kernel: Kernel) -> Result:
    lines = kernel_config(kernel)
    return Result((printable(line, keep="\t") for line in lines), lines)


def _system_calls(kernel: Kernel, words: list[str]) -> Result:
    # entries of the table up to the first that is no function
    table, word = kernel.symbol("sys_call_table"), kernel.machine.word_size
    end = kernel.end_of(table)
    count = min((end - table) // word if end > table else _MAX_CALLS, _MAX_CALLS)
    result, lines, data = Result(), [f"{'NUM':>3}  SYSTEM CALL"], []
    for number, address in enumerate(kernel.memory.words(table, count)):
        found = kernel.lookup(address)
        if found is None or found[1]:
            break
        name = found[0].name
        if words and not any(each in name or each == str(number) for each in words):
            continue
        lines.append(f"{number:>3}  {printable(name)}")
        data.append({"number": number, "name": name, "address": f"{address:#x}"})
    if not data:
        result.complain("no such system call" if words else "sys_call_table leads to no function", 1)
    result.lines, result.data = lines, data
    return result
