# SPDX-License-Identifier: GPL-2.0-or-later
"""What the running kernel says about its own memory: RAM, frames that read as zeros, why /proc/kcore does not open.

Source: docs/formats/kcore.md section 3; Linux Documentation/admin-guide/mm/pagemap.rst, fs/proc/kcore.c of v6.1.
"""

from __future__ import annotations

import errno
import os

import numpy as np
from numpy.typing import NDArray

__all__ = ["first_bytes", "in_procfs", "open_hint", "system_ram", "unreadable_frames"]

U64 = NDArray[np.uint64]

KCORE = "/proc/kcore"
IOMEM = "/proc/iomem"
PAGE_FLAGS = "/proc/kpageflags"
LOCKDOWN = "/sys/kernel/security/lockdown"

# Bits of /proc/kpageflags: HWPOISON, NOPAGE, OFFLINE. The kernel gives zeros for such frames (v5.14 and later);
# touching a poisoned one in an older kernel may end the machine.
_UNREADABLE = np.uint64(1 << 19 | 1 << 20 | 1 << 23)
_CHUNK_FRAMES = 1 << 16  # flags read at a time: 512 KiB


def in_procfs(status: os.stat_result) -> bool:
    """Return whether a file is one of /proc: made by the kernel as it is read."""
    try:
        return status.st_dev == os.stat("/proc/self").st_dev
    except OSError:
        return False


def first_bytes(fd: int) -> bool:
    """Return whether a file that claims to have no bytes has enough of them to be a dump."""
    try:
        return len(os.pread(fd, 64, 0)) == 64
    except OSError:
        return False


def open_hint(path: str, number: int | None) -> str | None:
    """Return why the kernel's memory cannot be opened, None where `path` is not /proc/kcore.

    Args:
        path: As the user gave it.
        number: errno, None where what opened is not the kernel's memory at all.
    """
    if os.path.realpath(path) != KCORE:
        return None
    if number == errno.EACCES:
        return "only root may read the memory of the running system"
    if number == errno.EPERM:
        return f"CAP_SYS_RAWIO is missing, or the kernel is locked down{_lockdown()}"
    return "this kernel has no /proc/kcore (CONFIG_PROC_KCORE), or a container hides it"


def _lockdown() -> str:
    try:
        with open(LOCKDOWN) as stream:
            return f" ({LOCKDOWN}: {stream.read(100).strip()})"
    except OSError:
        return ""


def system_ram() -> tuple[U64, U64] | None:
    """Return starts and ends in bytes of what /proc/iomem calls System RAM, sorted; None where it does not tell."""
    found: list[tuple[int, int]] = []
    try:
        with open(IOMEM) as stream:
            for line in stream:
                where, _, name = line.strip().partition(" : ")
                if name.startswith("System RAM"):
                    first, _, last = where.partition("-")
                    found.append((int(first, 16), int(last, 16) + 1))  # the file gives the last byte
    except (OSError, ValueError):
        return None
    if not any(start for start, _ in found):  # addresses are zero for who may not see them
        return None
    table = np.array(sorted(found), np.uint64)
    return table[:, 0].copy(), table[:, 1].copy()


def unreadable_frames(start: U64, end: U64) -> tuple[U64, U64] | None:
    """Return the runs of frames in [start, end) whose bytes the kernel does not give, None where it does not tell.

    Args:
        start, end: Frames of sorted, disjoint ranges.
    """
    parts: list[U64] = []
    try:
        descriptor = os.open(PAGE_FLAGS, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        for low, high in zip(start.tolist(), end.tolist(), strict=True):
            for first in range(low, high, _CHUNK_FRAMES):
                count = min(_CHUNK_FRAMES, high - first)
                raw = os.pread(descriptor, 8 * count, 8 * first)
                flags = np.frombuffer(raw[: len(raw) & ~7], np.uint64)
                bad = np.zeros(count + 2, np.int8)
                bad[1 : 1 + len(flags)] = (flags & _UNREADABLE) != 0
                bad[1 + len(flags) : -1] = 1  # past the last frame that the kernel has
                parts.append((np.flatnonzero(np.diff(bad)) + first).astype(np.uint64).reshape(-1, 2))
    except OSError:
        return None
    finally:
        os.close(descriptor)
    table = np.concatenate(parts) if parts else np.empty((0, 2), np.uint64)
    return table[:, 0].copy(), table[:, 1].copy()
