# SPDX-License-Identifier: GPL-2.0-or-later
"""What drgn says about a dump, as one JSON object; runs as a subprocess: `drgn_worker.py CORE VMLINUX-or-'' PFN...`."""

from __future__ import annotations

import hashlib
import json
import sys
from typing import Any


def frames(trace: Any) -> list[str]:
    """A stack trace, one line a frame, with its program counter."""
    lines = []
    for frame in trace:
        try:
            lines.append(f"{frame.pc:#x} {frame}")
        except LookupError:
            lines.append(str(frame))
    return lines


def with_types(program: Any) -> dict[str, Any]:
    from drgn.helpers.linux.cpumask import for_each_online_cpu
    from drgn.helpers.linux.list import list_for_each_entry
    from drgn.helpers.linux.pid import for_each_task
    from drgn.helpers.linux.sched import cpu_curr, task_state_to_char

    tasks = [
        [int(task.pid), task.comm.string_().decode("latin-1"), task_state_to_char(task), hex(task.value_())]
        for task in for_each_task(program)
    ]
    cpus = {}
    for cpu in for_each_online_cpu(program):
        task = cpu_curr(program, cpu)
        try:
            cpus[cpu] = [int(task.pid), *frames(program.stack_trace(task))]
        except Exception as error:  # any of drgn's, told and compared as text
            cpus[cpu] = [int(task.pid), f"{type(error).__name__}: {error}"]
    modules = list_for_each_entry("struct module", program["modules"].address_of_(), "list")
    names = [module.name.string_().decode("latin-1") for module in modules]
    crashed = program.crashed_thread()
    banner = program["linux_banner"].string_().decode("latin-1")
    trace = frames(crashed.stack_trace())
    return {"tasks": tasks, "cpus": cpus, "modules": names, "crashed": [crashed.tid, *trace], "banner": banner}


def physical(program: Any, pfns: list[int]) -> dict[str, str]:
    """A digest of each frame, or that drgn finds nothing there."""
    import drgn

    found = {}
    for pfn in pfns:
        try:
            found[hex(pfn)] = hashlib.sha256(program.read(pfn << 12, 4096, True)).hexdigest()[:16]
        except drgn.FaultError:
            found[hex(pfn)] = "fault"
    return found


def main() -> None:
    import drgn

    core, vmlinux, *pfns = sys.argv[1:]
    program = drgn.Program()
    program.set_core_dump(core)
    answer: dict[str, Any] = {"platform": str(program.platform)}
    answer["physical"] = physical(program, [int(pfn) for pfn in pfns])
    try:
        answer["release"] = program["UTS_RELEASE"].string_().decode()
    except KeyError:
        answer["release"] = None
    if vmlinux:
        program.load_debug_info([vmlinux])
        answer |= with_types(program)
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
