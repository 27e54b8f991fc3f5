#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""dump_guest.py OUTDIR SECONDS qemu-system-ARCH ARGUMENT...: run a guest until it panics, and dump it from outside.

At one stop of the machine: its whole memory by pmemsave (memory.raw, sparse, byte A is physical address A), then
dump-guest-memory in every format that this QEMU has. Each dump is compared with memory.raw; results go to truth.json.
"""

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from check_dump import check

PANIC = re.compile(rb"end Kernel panic|disabled_wait|Kernel panic - not syncing[^\n]*\n")
ZERO = bytes(4096)


class Monitor:
    """QEMU's control socket."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(900)
        deadline = time.monotonic() + 30
        while True:
            try:
                self.socket.connect(path)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
        self.stream = self.socket.makefile("rw")
        self.stream.readline()
        self("qmp_capabilities")

    def __call__(self, name: str, **arguments: Any) -> Any:
        self.stream.write(json.dumps({"execute": name, "arguments": arguments}) + "\n")
        self.stream.flush()
        while True:
            reply = json.loads(self.stream.readline())
            if "return" in reply:
                return reply["return"]
            if "error" in reply:
                raise RuntimeError(reply["error"]["desc"])

    def human(self, line: str) -> str:
        """Run one command of the human monitor."""
        return str(self("human-monitor-command", **{"command-line": line}))


def ram_ranges(mtree: str) -> list[tuple[str, str, str]]:
    """First and last address and name of every range that the CPUs see as RAM or ROM."""
    for view in mtree.split("FlatView #"):
        if not re.search(r'AS "memory"', view):
            continue
        lines = re.findall(r"^ +([0-9a-f]{16})-([0-9a-f]{16}) \(prio \S+ (ram|rom)\): (\S+)", view, re.MULTILINE)
        return [("0x" + first, "0x" + last, f"{kind} {name}") for first, last, kind, name in lines]
    raise RuntimeError("no memory view in QEMU's answer")


def save_memory(monitor: Monitor, out: str) -> list[tuple[str, str, str]]:
    """The machine's memory as one sparse file, by a way that dump-guest-memory does not use."""
    mtree = monitor.human("info mtree -f")
    ranges = ram_ranges(mtree)
    with open(f"{out}/memory.raw", "wb") as memory:
        for first, last, _ in ranges:
            start, size, part = int(first, 16), int(last, 16) + 1 - int(first, 16), f"{out}/part.tmp"
            monitor("pmemsave", val=start, size=size, filename=part)
            with open(part, "rb") as source:
                for address in range(start, start + size, 4096):
                    page = source.read(4096)
                    if page != ZERO[: len(page)]:
                        memory.seek(address)
                        memory.write(page)
            Path(part).unlink()
        memory.truncate(int(ranges[-1][1], 16) + 1)
    with open(f"{out}/memory.raw.json", "w") as stream:
        json.dump({"ram": ranges}, stream, indent=1)
    with open(f"{out}/mtree.txt", "w") as stream:
        stream.write(mtree)
    return ranges


def dump_all(monitor: Monitor, out: str) -> dict[str, Any]:
    """Dump in every format, and say for each whether it holds the memory."""
    ranges = save_memory(monitor, out)
    registers = monitor.human("info registers -a")
    with open(f"{out}/registers.txt", "w") as stream:
        stream.write(registers)
    first = int(ranges[0][0], 16)
    jobs: list[tuple[str, dict[str, Any]]] = [
        ("elf", {"format": "elf", "paging": False}),
        ("elf-paging", {"format": "elf", "paging": True}),
        # A window: what lies outside becomes a header without data.
        ("elf-window", {"paging": False, "begin": first + (16 << 20), "length": 32 << 20}),
    ]
    formats = monitor("query-dump-guest-memory-capability")["formats"]
    jobs += [(kind, {"format": kind, "paging": False}) for kind in formats if kind.startswith("kdump")]
    jobs += [("win-dmp", {"format": "win-dmp", "paging": False})] if "win-dmp" in formats else []
    results: dict[str, Any] = {}
    for name, arguments in jobs:
        path = f"{out}/{name}.dump"
        try:
            monitor("dump-guest-memory", protocol=f"file:{path}", detach=False, **arguments)
        except RuntimeError as error:
            results[name] = {"error": str(error)}
            Path(path).unlink(missing_ok=True)
            continue
        subprocess.run(["fallocate", "-d", path], check=False)
        results[name] = {"bytes": Path(path).stat().st_size} | check(path, f"{out}/memory.raw")
        print(name, json.dumps(results[name]), flush=True)
    return results


def wait_for_panic(guest: "subprocess.Popen[bytes]", log: str, seconds: float) -> bool:
    """True once the console tells of the panic."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and guest.poll() is None:
        time.sleep(1)
        if Path(log).exists():
            with open(log, "rb") as stream:
                if PANIC.search(stream.read()):
                    time.sleep(3)
                    return True
    return False


def main() -> int:
    """Run the guest given on the command line."""
    out, seconds, *command = sys.argv[1:]
    os.makedirs(out, exist_ok=True)
    control, log = f"{out}/qmp.sock", f"{out}/serial.log"
    for stale in (control, log):
        Path(stale).unlink(missing_ok=True)
    command += [
        "-display",
        "none",
        "-monitor",
        "none",
        "-serial",
        f"file:{log}",
        "-no-reboot",
        "-action",
        "panic=pause",
    ]
    command += ["-qmp", f"unix:{control},server=on,wait=off"]
    with open(f"{out}/qemu.log", "wb") as errors:
        guest = subprocess.Popen(["nice", "-n", "10", *command], stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)
    try:
        monitor = Monitor(control)
        panicked = wait_for_panic(guest, log, float(seconds))
        if guest.poll() is not None:
            print("the guest is gone: see", log, file=sys.stderr)
            return 1
        monitor("stop")
        truth: dict[str, Any] = {"panicked": panicked, "qemu": monitor("query-version")["qemu"], "command": command}
        truth["dumps"] = dump_all(monitor, out)
        with open(f"{out}/truth.json", "w") as stream:
            json.dump(truth, stream, indent=1)
        return 0 if panicked else 1
    finally:
        guest.terminate()
        guest.wait()
        Path(control).unlink(missing_ok=True)


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    sys.exit(main())
