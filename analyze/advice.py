# SPDX-License-Identifier: GPL-2.0-or-later
"""Which commands to try after a report: by what is in it."""

from __future__ import annotations

import re
import shlex
from typing import Any

from .commands import COMMANDS
from .kernel import Kernel

__all__ = ["DYING", "culprit", "next_commands"]

_RELEASE = re.compile(r"[0-9][0-9A-Za-z.+_~-]{0,63}")  # of a name that is put into a path


def next_commands(kernel: Kernel, facts: dict[str, Any]) -> list[dict[str, str]]:
    """Return commands with the reason for each; words of the dump are in one only if they are plain names.

    Args:
        kernel: The kernel.
        facts: Of the report, all but these.
    """
    names = [source.name for source in kernel.reader.sources]
    core = shlex.quote(names[0] if names else "CORE")
    analyze = f"dumpconv analyze {core}"
    found: list[tuple[str, str]] = []
    missing = facts["missing_from_the_dump"] or {}
    if missing.get("lost") or missing.get("damaged") or missing.get("incomplete"):
        found.append((f"dumpverify --level content {core}", "which pages are bad, why, and what they held"))
    reached = [each["reached"] for each in facts["levels"] or []]
    if facts["stopped_cpus"]:
        found += _of_the_trace(analyze, facts["stopped_cpus"])
    if facts["blocked_tasks"]:
        found.append((f"{analyze} foreach UN bt", "each blocked task's stack, with addresses"))
    if facts["log_tail"]:
        found.append((f"{analyze} log -T", "the whole log with the time of day"))
    if reached[2:3] == [True]:
        found.append((f"{analyze} ps", "all tasks"))
    if reached[2:3] == [True] and kernel.machine.arch == "x86_64":
        found.append((f"{analyze} --write-vmlinux vmlinux", "debuginfo from the dump, for the next command"))
        image = core if kernel.reader.name in ("elf", "kdump") else "vmcore.elf"
        if image != core:
            found.append((f"dumpconv {core} vmcore.elf", "an ELF that crash, drgn and gdb open"))
        found.append((f"crash vmlinux {image}", "crash's prompt, with types and symbols"))
    release = kernel.release
    if reached[2:4] == [True, False] and kernel.machine.arch == "x86_64" and release and _RELEASE.fullmatch(release):
        path = f"/usr/lib/debug/boot/vmlinux-{release}"
        found.append(
            (f"{analyze} --vmlinux {path} crash bt -l", f"the same with source lines: needs {_package(facts, release)}")
        )
    return [{"command": command, "why": why} for command, why in found]


def _of_the_trace(analyze: str, traces: list[dict[str, Any]]) -> list[tuple[str, str]]:
    found = [(f"{analyze} bt -a -s", "these traces, with all registers")]
    chosen = next((each for each in traces if each["panicked"]), traces[0])
    place = culprit(chosen["frames"])
    if place is not None and "dis" in COMMANDS:
        found.append((f"{analyze} dis -r {place['ip'][2:]}", f"the code of {place['function']} up to where it stood"))
    if chosen["task"] is not None:
        task = f"task_struct {chosen['task'][2:]}"
        found.append((f"{analyze} struct {task}", f"the task that CPU {chosen['cpu']} executed"))
    return found


# What a kernel goes through when it dies: not the place to look at first.
DYING = frozenset((
    "__crash_kexec", "crash_kexec", "panic", "machine_kexec", "die", "__die", "die_addr", "oops_end",
    "dump_stack_lvl", "page_fault_oops", "kernelmode_fixup_or_oops", "bad_area_nosemaphore",
    "__bad_area_nosemaphore", "do_user_addr_fault", "exc_page_fault", "asm_exc_page_fault", "exc_invalid_op",
    "asm_exc_invalid_op", "handle_bug", "do_error_trap", "do_trap", "exc_general_protection",
    "asm_exc_general_protection", "crash_nmi_callback", "nmi_handle", "default_do_nmi", "exc_nmi",
    "end_repeat_nmi", "asm_exc_nmi", "stop_this_cpu", "__sysvec_reboot", "sysvec_reboot", "asm_sysvec_reboot",
))  # fmt: skip


def culprit(frames: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the frame to look at first: that below the kernel's own way of dying, else the innermost."""
    dying = [number for number, each in enumerate(frames) if each["function"] in DYING]
    start = dying[-1] + 1 if dying else 0
    return next((each for each in frames[start:] if each["function"]), None)


def _package(facts: dict[str, Any], release: str) -> str:
    if "Debian" in (facts["system"] or {}).get("version", ""):
        return f"Debian's linux-image-{release}-dbg"
    return "the distribution's debuginfo package of this kernel"
