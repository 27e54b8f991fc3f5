# SPDX-License-Identifier: GPL-2.0-or-later
"""Wall-clock time of a kernel: from its timekeeper, else from VMCOREINFO's CRASHTIME and the log.

Source: Linux kernel/time/timekeeping.c and include/linux/timekeeper_internal.h, 3.17 to 6.12.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..formats.errors import DumpError
from .errors import MissingTable

if TYPE_CHECKING:
    from .kernel import Kernel

__all__ = ["boot_time", "crash_time", "ticks_per_second"]

_SECOND = 10**9
_DIGITS = 10
_FIRST, _LAST = 946684800, 1 << 33  # 2000 to 2242: a clock that was never set counts from 1970


def boot_time(kernel: Kernel) -> float:
    """Return Unix time of boot, in seconds: what a time in the log is added to.

    Raises:
        MissingTable: Neither the timekeeper nor CRASHTIME with times in the log is there.
    """
    try:
        keeper = _timekeeper(kernel)
        # monotonic time and this make real time; the log's clock starts with the monotonic one
        found = kernel.structs.get(keeper, "timekeeper", "offs_real") / _SECOND
        if _FIRST <= found <= _LAST:
            return found
    except DumpError:
        pass
    crashed = _crashed(kernel)
    times = [record.ns for record in kernel.log if record.ns is not None]
    if crashed is None or not times:
        raise MissingTable("no timekeeper is known, and VMCOREINFO has no CRASHTIME or the log no times")
    return crashed - times[-1] // _SECOND


def _crashed(kernel: Kernel) -> int | None:
    said = kernel.info.text("CRASHTIME")
    if said is None or not said.isdecimal() or len(said) > _DIGITS or not _FIRST <= int(said) <= _LAST:
        return None
    return int(said)


def crash_time(kernel: Kernel) -> int:
    """Return Unix time of the crash, or of the dump where there was none.

    Raises:
        MissingTable, Unreadable: It cannot be told.
    """
    crashed = _crashed(kernel)
    if crashed is not None:
        return crashed
    try:
        found = kernel.structs.get(_timekeeper(kernel), "timekeeper", "xtime_sec")
    except DumpError as error:
        raise MissingTable(f"VMCOREINFO has no CRASHTIME, and the timekeeper is not known: {error.message}") from error
    if not _FIRST <= found <= _LAST:
        raise MissingTable(f"the kernel's clock was not set: {found} s")
    return found


def _timekeeper(kernel: Kernel) -> int:
    structs = kernel.structs
    core = kernel.symbol("tk_core")
    if structs.btf.find("tk_data", "struct") is not None:  # 6.13 and later
        return core + structs.offset("tk_data", "timekeeper")
    for name in ("seqcount_raw_spinlock_t", "seqcount_t"):
        if structs.btf.find(name, "typedef", "struct") is not None:
            return core + -(-structs.size(name) // 8) * 8
    raise MissingTable("BTF has no seqcount_t")


def ticks_per_second(kernel: Kernel) -> int:
    """Return HZ.

    Raises:
        MissingTable, Unreadable: It cannot be told.
    """
    ticks = kernel.memory.integer(kernel.symbol("tick_nsec"), kernel.memory.word)
    if not 10**5 <= ticks <= 10**8:
        raise MissingTable(f"a tick of {ticks} ns")
    return round(_SECOND / ticks)
