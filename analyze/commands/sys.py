# SPDX-License-Identifier: GPL-2.0-or-later
"""`sys`: the machine and its end, in crash's lines; `sys config`: the kernel's configuration."""

from __future__ import annotations

import argparse
import zlib
from datetime import UTC, datetime

from ...formats.errors import DumpError
from ...formats.pages import PageState
from ..errors import MissingTable
from ..kernel import Kernel
from ..log import panic_text
from . import Result, printable

_UTS = ("sysname", "nodename", "release", "version", "machine", "domainname")
_UTS_FIELD = 65
_MAX_CONFIG = 1 << 22


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument("what", nargs="?", choices=("config",), help="config: the configuration in the kernel")


def run(kernel: Kernel, args: argparse.Namespace) -> Result:
    """Print what is known; what is not is left out and complained about."""
    if args.what == "config":
        return _config(kernel)
    return machine_of(kernel)


def machine_of(kernel: Kernel) -> Result:
    """Return the machine and its end."""
    result, rows = Result(), [("KERNEL", "none given: symbols and types are from the dump")]
    rows.append(("DUMPFILE", ", ".join(source.name for source in kernel.reader.sources)))
    for title, function in (
        ("CPUS", _cpus),
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


def _cpus(kernel: Kernel) -> str:
    return str(len(kernel.cpus))


def _date(kernel: Kernel) -> str:
    crashed = kernel.info.text("CRASHTIME")
    if crashed is None or not crashed.isdigit():
        raise MissingTable("VMCOREINFO has no CRASHTIME")
    return datetime.fromtimestamp(int(crashed), UTC).strftime("%a %b %e %H:%M:%S UTC %Y")


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
    raw = kernel.memory.read(kernel.symbol("init_uts_ns"), 512)
    at = raw.find(b"Linux\0")
    if at < 0:
        raise MissingTable("init_uts_ns holds no utsname")
    start = at + _UTS_FIELD * _UTS.index(name)
    return raw[start : start + _UTS_FIELD].split(b"\0", 1)[0].decode("utf-8", "backslashreplace")


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
    start = kernel.symbol("kernel_config_data")
    end = kernel.symbols.address("kernel_config_data_end") or start + _MAX_CONFIG
    if not 16 < end - start <= _MAX_CONFIG:
        raise MissingTable(f"kernel configuration of {end - start} bytes")
    raw, _ = kernel.memory.read_sparse(start, end - start)
    begin = raw.find(b"\x1f\x8b\x08")
    if begin < 0:
        raise MissingTable("kernel_config_data holds no gzip stream")
    try:
        text = zlib.decompressobj(31).decompress(raw[begin:], _MAX_CONFIG)
    except zlib.error as error:
        raise MissingTable(f"kernel_config_data: {error}") from error
    lines = text.decode("utf-8", "backslashreplace").splitlines()
    return Result((printable(line) for line in lines), lines)
