# SPDX-License-Identifier: GPL-2.0-or-later
"""Level `kernel`: whether the memory makes sense as a kernel's, and what damaged frames held.

This module and kernelsearch.py are the ones of this package that use the kernel model of `analyze`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ..analyze.kernel import Kernel
from ..analyze.log import read_log
from ..formats.errors import DumpError
from ..formats.pages import PageState
from ..formats.reader import DumpReader
from .copies import check_copies
from .kernelsearch import MAX_SEARCH, check_by_search
from .verdict import TargetReport

__all__ = ["Impact", "check_kernel", "impact"]

_UTS_FIELD = 65  # struct new_utsname: six strings of so many bytes (include/uapi/linux/utsname.h)
_MAX_STACK = 1 << 16
_MAX_MODULES_BYTES = 2 << 30  # of all modules: there is no room for more where they are loaded
_SECTIONS = (
    ("kernel text", "_stext", "_etext"),
    ("kernel read-only data", "__start_rodata", "__end_rodata"),
    ("kernel data", "_sdata", "_edata"),
    ("kernel bss", "__bss_start", "__bss_stop"),
)


def check_kernel(reader: DumpReader, report: TargetReport) -> None:
    """Hold the kernel in memory against the notes; say what damaged frames held, and what could not be looked at."""
    check_copies(reader, report)
    size = reader.memory_map.count(PageState.STORED) * reader.machine.page_size
    kernel = Kernel(reader, search=size <= MAX_SEARCH)
    unknown = _check_memory(kernel, report)
    if not len(kernel.info):
        unknown = _without_vmcoreinfo(kernel, size, report)
    if unknown:
        report.add("W220", f"the kernel was not looked at in all: {'; '.join(unknown)}", number=len(unknown))
    if report.nr_bad:
        try:
            kernel.memory  # noqa: B018 - nothing can be placed without
        except DumpError:
            return
        report.impact = impact(kernel, report).lines()


def _check_memory(kernel: Kernel, report: TargetReport) -> list[str]:
    # what could not be looked at, and why
    try:
        kernel.memory  # noqa: B018 - page tables are found here or not at all
    except DumpError as error:
        return [error.message]
    if kernel.info_origin not in ("note", "none"):
        report.proven.append(f"VMCOREINFO was {kernel.info_origin}: {kernel.release}")
        report.kernel = report.kernel or kernel.release
        said = _header_release(kernel)
        if said and kernel.release and said != kernel.release:
            report.add("E141", f"memory has Linux version {kernel.release}, the header says {said}")
    steps = (_check_utsname, _check_text_mapping, _check_log)
    return [why for step in steps if (why := step(kernel, report))]


def _without_vmcoreinfo(kernel: Kernel, size: int, report: TargetReport) -> list[str]:
    if size > MAX_SEARCH:
        return [f"no VMCOREINFO, and {size} bytes of memory were not searched for it ({MAX_SEARCH} at most)"]
    try:
        why = check_by_search(kernel, _header_release(kernel), report)
    except DumpError as error:
        why = error.message
    rest = "page tables and log were not held against anything"
    return [f"no VMCOREINFO: {why or rest}" + (f"; {rest}" if why else "")]


def _header_release(kernel: Kernel) -> str:
    utsname = kernel.reader.facts.get("utsname")
    return str(utsname.get("release") or "") if isinstance(utsname, dict) else ""


def _check_utsname(kernel: Kernel, report: TargetReport) -> str:
    if kernel.info_origin.startswith("made"):
        return ""  # from what would be looked at
    address, said = kernel.info.symbol("init_uts_ns"), kernel.release
    if address is None or not said:
        return "VMCOREINFO does not have init_uts_ns and OSRELEASE"
    try:
        raw = kernel.memory.read(address, 512)
    except DumpError as error:
        return f"init_uts_ns: {error.message}"
    at = raw.find(b"Linux\0")
    found = raw[at + 2 * _UTS_FIELD : at + 3 * _UTS_FIELD].split(b"\0", 1)[0] if at >= 0 else b""
    if found.decode("utf-8", "replace") != said:
        shown = found.decode("ascii", "backslashreplace") or "nothing of a utsname"
        report.add("E141", f"init_uts_ns at {address:#x} says {shown}, VMCOREINFO {said}")
    else:
        report.proven.append(f"init_uts_ns says {said}, as VMCOREINFO does")
    return ""


def _check_text_mapping(kernel: Kernel, report: TargetReport) -> str:
    start, walker = kernel.info.symbol("_stext"), kernel.memory.translator
    if start is None:
        return "VMCOREINFO does not have _stext"
    if walker is None:
        return f"page tables of {kernel.machine.arch} are not known here"
    try:
        expected = kernel.memory.translate(start)
        found = walker.translate(start)
    except DumpError as error:
        return f"page tables: {error.message}"
    if found != expected:
        shown = "nothing" if found is None else f"{found:#x}"
        report.add("E142", f"page tables map _stext {start:#x} to {shown}, VMCOREINFO's phys_base to {expected:#x}")
    else:
        report.proven.append(f"page tables map _stext to {expected:#x}, as VMCOREINFO does")
    return ""


def _has_log(kernel: Kernel) -> bool:
    return any(kernel.info.symbol(name) is not None for name in ("prb", "log_next_idx", "log_end"))


def _check_log(kernel: Kernel, report: TargetReport) -> str:
    if not _has_log(kernel):
        return "VMCOREINFO does not say where the kernel log is"
    try:
        records = read_log(kernel.memory, kernel.info)
    except DumpError as error:
        if "excluded" in error.message or "not in the dump" in error.message:
            return f"kernel log: {error.message}"
        report.add("E143", f"kernel log: {error.message}")
        return ""
    if not records:
        report.add("E143", "the kernel log's buffer holds no record")
        return ""
    times = [record.ns for record in records if record.ns is not None]
    back = sum(1 for first, second in pairwise(times) if second < first - 10**9)
    if back:
        report.add("E143", f"times in the kernel log run backwards {back} times by more than a second")
    else:
        report.proven.append(f"kernel log: {len(records)} records")
    return ""


# -- what bad frames held ------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Impact:
    """What lies in bad frames, as far as it can be told.

    Attributes:
        regions: (what, bad frames, frames in all), those with bad frames and the log.
        stacks: (tasks whose stacks are touched, tasks in all), None where tasks cannot be listed.
        log_intact: Whether the whole log can be read; None where there is none.
        elsewhere: Bad frames in none of these: page cache, user memory, slabs, free memory.
    """

    regions: list[tuple[str, int, int]] = field(default_factory=list)
    stacks: tuple[int, int] | None = None
    log_intact: bool | None = None
    elsewhere: int = 0

    def lines(self) -> list[str]:
        """Return one line for each thing known."""
        found = []
        if self.log_intact is not None:
            found.append("kernel log intact" if self.log_intact else "kernel log damaged")
        found += [f"{what}: {bad} of {total} pages" for what, bad, total in self.regions if bad]
        if self.stacks is not None:
            found.append(f"stacks: {self.stacks[0]} of {self.stacks[1]} tasks damaged")
        if self.elsewhere:
            found.append(f"elsewhere (user memory, page cache, slabs, free pages): {self.elsewhere} pages")
        return found


def impact(kernel: Kernel, report: TargetReport) -> Impact:
    """Tell what the report's bad frames held."""
    result = Impact()
    starts = np.array([bad.start_pfn for bad in report.ranges], np.uint64)
    ends = np.array([bad.end_pfn for bad in report.ranges], np.uint64)
    order = np.argsort(starts)
    starts, ends = starts[order], ends[order]
    told: set[int] = set()
    for what, frames in _regions(kernel):
        bad = frames[_inside(frames, starts, ends)]
        told.update(bad.tolist())
        result.regions.append((what, len(bad), len(frames)))
    result.stacks = _stacks(kernel, starts, ends, told)
    try:
        result.log_intact = bool(read_log(kernel.memory, kernel.info))
    except DumpError:
        result.log_intact = False if _has_log(kernel) else None
    result.elsewhere = report.nr_bad - len(told)
    return result


def _inside(frames: NDArray[np.uint64], start: NDArray[np.uint64], end: NDArray[np.uint64]) -> NDArray[np.bool_]:
    if not len(start):
        return np.zeros(len(frames), bool)
    where = np.searchsorted(start, frames, side="right") - 1
    return np.asarray((where >= 0) & (frames < end[np.maximum(where, 0)]), bool)


def _regions(kernel: Kernel) -> Iterator[tuple[str, NDArray[np.uint64]]]:
    try:
        symbols = kernel.symbols
    except DumpError:
        symbols = None
    for what, first, last in _SECTIONS:
        low = symbols.address(first) if symbols is not None else kernel.info.symbol(first)
        high = symbols.address(last) if symbols is not None else None
        if low is not None and high is not None and 0 < high - low < 1 << 30:
            yield what, _frames(kernel, low, high)
    left = _MAX_MODULES_BYTES
    try:
        for module in kernel.modules:
            for start, size in module.ranges:
                if 0 < size <= left:
                    left -= size
                    yield f"module {module.name}", _frames(kernel, start, start + size)
    except DumpError:
        return


def _frames(kernel: Kernel, low: int, high: int) -> NDArray[np.uint64]:
    # the frames behind a virtual range, as far as they are mapped
    size, found = kernel.machine.page_size, []
    step = min(size, kernel.page_size)  # QEMU's dumps of aarch64 are in blocks of 64 KiB, their kernel's pages smaller
    for address in range(low - low % step, high, step):
        try:
            found.append(kernel.memory.translate(address) // size)
        except DumpError:
            continue
    return np.unique(np.array(found, np.uint64))


def _stacks(
    kernel: Kernel, start: NDArray[np.uint64], end: NDArray[np.uint64], told: set[int]
) -> tuple[int, int] | None:
    try:
        tasks = list(kernel.tasks)
        size = kernel.stack_size
    except DumpError:
        return None
    touched = 0
    for task in tasks:
        frames = _frames(kernel, task.stack, task.stack + min(size, _MAX_STACK))
        bad = frames[_inside(frames, start, end)]
        told.update(bad.tolist())
        touched += bool(len(bad))
    return touched, len(tasks)
