# SPDX-License-Identifier: GPL-2.0-or-later
"""Levels `pages` and `content`: every page is decoded, in parallel, and goes nowhere; and what that proves."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..formats import codecs
from ..formats.cluster import local_choice
from ..formats.decode import Damage, DecodeJob, Task, run_task
from ..formats.digest import LEAF_PFNS, content_digest
from ..formats.executor import ExecutorChoice, make_executor, run
from ..formats.pages import PageState
from ..formats.reader import DumpReader
from ..formats.statenote import state_digest
from ..formats.tasks import page_tasks
from ..formats.window import StreamWindow
from .codes import code_of_reason
from .verdict import BadRange, TargetReport

__all__ = ["PageOptions", "check_pages", "compare_digests"]

_TASK_PFNS = 8192  # where no digest ties a task to a leaf
_STREAM_PFNS = 2048  # of a stream, which holds the bytes of all tasks under way


class PageOptions(NamedTuple):
    """How to decode.

    Attributes:
        jobs, executor: How many workers, of which kind.
        digest: Compute the content digest, wanted or not.
    """

    jobs: int = 1
    executor: ExecutorChoice = "auto"
    digest: bool = False


def check_pages(
    reader: DumpReader,
    report: TargetReport,
    options: PageOptions,
    progress: Callable[[int], object],
    seen: Callable[[NDArray[Any]], None] = lambda extents: None,
    window: StreamWindow | None = None,
) -> list[tuple[int, bytes]]:
    """Decode every stored page.

    Args:
        reader: The dump.
        report: For what is found.
        options: See `PageOptions`.
        progress: Called with bytes of pages decoded.
        seen: See `page_tasks`.
        window: Of a stream that is not kept whole.

    Returns:
        (number, digest) of the leaves of the content digest, where it was computed.

    Raises:
        DumpError: The tables cannot be read, or the input.
    """
    digest = options.digest or reader.recorded_digest is not None
    job = DecodeJob(
        os.urandom(16).hex(),
        tuple(source.worker_view() for source in reader.sources),
        reader.machine.page_size,
        digest=digest,
        salvage=True,
        unit_pages=reader.unit_pages,
        count_checked=True,
    )
    job.register()
    counts = np.zeros(256, np.int64)
    blocks = np.array([_has_checksum(source) for source in reader.sources], bool)
    leaves: list[tuple[int, bytes]] = []
    checked = 0
    size = reader.memory_map.count(PageState.STORED) * reader.machine.page_size
    step = LEAF_PFNS if digest else _TASK_PFNS if window is None else _STREAM_PFNS
    first: dict[str, tuple[Damage, int]] = {}
    quirks: Counter[str] = Counter()
    codecs.take_quirks()  # what this thread decoded before is another dump's
    try:
        choice, jobs, _ = local_choice(options.executor, options.jobs, reader.sources)
        with make_executor(choice, jobs, size) as executor:
            tasks = page_tasks(reader, reader.memory_map, step=step, window=window, seen=seen)
            at_once = 2 * jobs if window is None else jobs + 1
            for task, result in run(executor, run_task, job, tasks, window=at_once):
                if window is not None:
                    window.end(task.index)
                checked += result.nr_checked + _count(task, blocks, counts)
                quirks.update(result.quirks)
                checked -= _add_damage(report, task, result.damage, first, blocks, counts)
                report.bytes += result.nr_pages * job.page_size
                progress(result.nr_pages * job.page_size)
                if result.leaf is not None:
                    leaves.append((result.first_pfn // LEAF_PFNS, result.leaf))
    finally:
        job.forget()
        # also when the check ends early: what was found counts
        for code, (damage, count) in first.items():
            report.add_all(code, damage.reason, offset=damage.offset, pfn=damage.pfn, number=count)
        for code, number in sorted(quirks.items()):
            reader.remark(code, codecs.QUIRKS[code].format(count=number))
    _assure(report, counts, checked)
    if digest:
        report.digests["content"] = content_digest(reader.machine.page_size, leaves).hex()
    return leaves


def _has_checksum(source: Any) -> bool:
    # sources that check what they decode say so (blocks of zlib, framed snappy)
    return bool(getattr(source, "checksummed", False))


def _count(task: Task, blocks: NDArray[np.bool_], counts: NDArray[np.int64]) -> int:
    # pages by codec; returns those whose source checks them
    table = task.extents
    new = np.ones(len(table), bool)
    new[1:] = table["start_pfn"][1:] != table["start_pfn"][:-1]
    pages = np.where(new, table["nr_pages"], 0)
    counts += np.bincount(table["codec"], weights=pages, minlength=256).astype(np.int64)
    return int(pages[blocks[table["file"]] & (table["codec"] == codecs.RAW)].sum()) if blocks.any() else 0


def _add_damage(
    report: TargetReport,
    task: Task,
    damage: list[Damage],
    first: dict[str, tuple[Damage, int]],
    blocks: NDArray[np.bool_],
    counts: NDArray[np.int64],
) -> int:
    # also takes the frames out of `counts`, and returns how many of them `_count` said to be checked by their source:
    # what could not be had was not proven
    known, not_checked, last = task.extents["start_pfn"], 0, -1
    for each in sorted(damage, key=lambda each: each.pfn):
        index = max(0, int(np.searchsorted(known, np.uint64(each.pfn), side="right")) - 1)
        row = task.extents[index]
        is_bad = int(row["codec"]) == codecs.BAD
        if not is_bad and each.pfn != last:
            counts[int(row["codec"])] -= 1
            not_checked += int(row["codec"]) == codecs.RAW and bool(blocks[int(row["file"])])
        last = each.pfn
        code = code_of_reason(int(row["page_offset"])) if is_bad else "E103"
        if each.state == PageState.LOST and not is_bad:
            code = "E150"
        size = 0 if is_bad else int(row["stored_size"]) // int(row["nr_pages"])
        start = each.offset + (each.pfn - int(row["start_pfn"])) * size * (int(row["nr_pages"]) > 1)
        kept, count = first.get(code, (each, 0))
        first[code] = (kept, count + 1)
        report.add_range(
            BadRange(each.pfn, each.pfn + 1, each.state, each.file, start, start + size, each.reason, code)
        )
    return not_checked


def _assure(report: TargetReport, counts: NDArray[np.int64], checked: int) -> None:
    raw = int(counts[codecs.RAW] + counts[codecs.ZERO])
    summed = int(counts[codecs.ZLIB] + counts[codecs.ZLIB_SLACK])
    proven = {"checksum": summed + checked, "bounds": raw}
    decoded = int(counts.sum()) - raw - summed - int(counts[codecs.BAD])
    proven["size"] = max(0, decoded - checked)
    proven["bounds"] -= max(0, checked - decoded)
    report.assurance = {name: count for name, count in proven.items() if count > 0}


def compare_digests(reader: DumpReader, report: TargetReport) -> None:
    """Hold the digests that a canonical file carries against its memory and states."""
    recorded = reader.recorded_digest
    if recorded is not None and "content" in report.digests:
        found = report.digests["content"]
        if found != recorded.hex():
            report.add("E110", f"the memory's content digest is {found}, the file's own note says {recorded.hex()}")
        else:
            report.assurance = {"digest": sum(report.assurance.values())}
    if reader.recorded_state_digest is not None:
        states = state_digest(reader.memory_map, reader.machine.page_size)
        report.digests["state"] = states.hex()
        if states != reader.recorded_state_digest:
            text = reader.recorded_state_digest.hex()
            report.add("E111", f"the page states' digest is {states.hex()}, the file's own note says {text}")
