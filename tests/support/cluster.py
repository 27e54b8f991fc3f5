# SPDX-License-Identifier: GPL-2.0-or-later
"""A dask.distributed cluster on this machine, of processes as an administrator starts them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

_WORKER = ("--nthreads", "1", "--no-dashboard", "--memory-limit", "0", "--host", "127.0.0.1")


class LocalCluster:
    """A scheduler and workers; each a process group of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._started = folder, 0
        self.workers: list[subprocess.Popen[bytes]] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        text, _ = self._start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", wait="Scheduler at")
        found = re.search(r"Scheduler at:\s*(tcp://\S+)", text)
        assert found is not None, text
        self.address = found[1]

    def _start(self, *words: str, wait: str) -> tuple[str, subprocess.Popen[bytes]]:
        log = self.folder / f"{words[0]}{self._started}.log"
        self._started += 1
        script = (
            "from distributed.cli.dask_scheduler import main; main()"
            if words[0] == "scheduler"
            else "from distributed.cli.dask_worker import main; main()"
        )
        environment = {**os.environ, "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "false"}
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-c", script, *words[1:]], stdout=file, stderr=file, cwd=self.folder, env=environment
            )
        self._processes.append(process)
        for _ in range(600):
            text = log.read_text(errors="replace")
            if wait in text:
                return text, process
            assert process.poll() is None, text
            time.sleep(0.05)
        raise AssertionError(text)

    def add_worker(self) -> None:
        """Start a worker and wait until it is there."""
        self.workers.append(self._start("worker", self.address, "--no-nanny", *_WORKER, wait="Registered to")[1])

    def stop_scheduler(self) -> None:
        """Stop the scheduler: it is there, and says nothing."""
        self._processes[0].send_signal(signal.SIGSTOP)

    def close(self) -> None:
        """End them all."""
        for process in reversed(self._processes):
            process.kill()
            process.wait()
