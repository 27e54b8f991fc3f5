#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""live_guest.py OUTDIR qemu-system-ARCH ARGUMENT...: run live-guest's guest, move its balloon, dump it in the end."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from dump_guest import Monitor, dump_all

BALLOON_LEFT = 768 << 20  # bytes that the guest keeps while the balloon is full
LIMIT = 1500


def wait_for(log: Path, text: bytes, guest: "subprocess.Popen[bytes]") -> None:
    """Wait until the console says something."""
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline and guest.poll() is None:
        if log.exists() and text in log.read_bytes():
            return
        time.sleep(1)
    raise RuntimeError(f"the guest did not say {text.decode()}: see {log}")


def main() -> int:
    """Run the guest given on the command line."""
    out, *command = sys.argv[1:]
    folder = Path(out)
    control, log = folder / "qmp.sock", folder / "serial.log"
    for stale in (control, log):
        stale.unlink(missing_ok=True)
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
    with (folder / "qemu.log").open("wb") as errors:
        guest = subprocess.Popen(["nice", "-n", "5", *command], stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)
    try:
        monitor = Monitor(str(control))
        full = monitor("query-balloon")["actual"]
        wait_for(log, b"live BALLOON", guest)
        monitor("balloon", value=min(BALLOON_LEFT, full))
        wait_for(log, b"live BALLOON OFF", guest)
        facts: dict[str, Any] = {"memory": full, "ballooned": monitor("query-balloon")["actual"]}
        monitor("balloon", value=full)
        wait_for(log, b"live DONE", guest)
        wait_for(log, b"end Kernel panic", guest)
        time.sleep(3)
        monitor("stop")
        facts |= {"qemu": monitor("query-version")["qemu"], "command": command, "dumps": dump_all(monitor, out)}
        (folder / "truth.json").write_text(json.dumps(facts, indent=1))
        return 0
    finally:
        guest.terminate()
        guest.wait()
        control.unlink(missing_ok=True)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(main())
