# SPDX-License-Identifier: GPL-2.0-or-later
"""Files checked by workers on other machines, one each: that it is the same file there, and its report has our names.

What a worker cannot do because of where it runs it hands back, and the file is checked here.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, NamedTuple

from ..formats.cluster import WorkersLost, print_of
from ..formats.errors import DumpError
from ..formats.executor import ExecutorChoice, HandedBack, submit
from ..formats.source import FileSource
from .files import FileJob, FilePool, FileResult, FileTask, check_file, failed, stamps_of
from .jobs import Stamp
from .manifest_write import Recorded
from .target import VerifyOptions
from .verdict import TargetReport

__all__ = ["ElsewherePool", "ElsewhereTask", "check_elsewhere"]

_LOST = "the workers of the cluster that checked it were lost, one after another (out of memory, or by someone)"


class ElsewhereTask(NamedTuple):
    """One file for a worker elsewhere.

    Attributes:
        file: As it is called here.
        folder: What relative names are relative to.
        mark: See `formats.cluster.print_of`.
    """

    file: FileTask
    folder: str
    mark: str

    @classmethod
    def make(cls, task: FileTask) -> ElsewhereTask:
        """Make one.

        Raises:
            DumpError: The file cannot be read.
        """
        return cls(task, os.getcwd(), print_of(FileSource(task.path)))


def check_elsewhere(job: FileJob, task: ElsewhereTask) -> FileResult | HandedBack:
    """Check a file in this process if it is the one that the submitter means: the function that workers call."""
    path = os.path.join(task.folder, task.file.path)
    try:
        if print_of(FileSource(path)) != task.mark:
            return HandedBack(f"{task.file.path}: is another file there")
    except DumpError as error:
        return HandedBack(f"{task.file.path}: {error.message}")
    result = check_file(job, task.file._replace(path=path))
    return result if path == task.file.path else _renamed(result, path.removesuffix(task.file.path))


def _renamed(result: FileResult, prefix: str) -> FileResult:
    # what the submitter calls by a relative name is called by that
    def name(text: str) -> str:
        return text.replace(prefix, "")

    def report(each: TargetReport) -> TargetReport:
        return replace(
            each,
            files=[name(file) for file in each.files],
            places=[name(file) for file in each.places],
            findings=[found._replace(message=name(found.message)) for found in each.findings],
            sizes={name(file): size for file, size in each.sizes.items()},
            file_digests={name(file): digests for file, digests in each.file_digests.items()},
        )

    def recorded(each: Recorded) -> Recorded:
        return each._replace(files=[(name(file), size, digests) for file, size, digests in each.files])

    return FileResult([report(each) for each in result.reports], [recorded(each) for each in result.recorded], {})


class ElsewherePool(FilePool):
    """Workers of a cluster that check a file each; see `FilePool`."""

    def __init__(self, options: VerifyOptions, jobs: int, kind: ExecutorChoice) -> None:
        super().__init__(options, jobs, kind)
        self._before: deque[dict[str, Stamp]] = deque()

    def _submit(self, task: FileTask) -> Future[Any]:
        self._before.append(stamps_of(task.path))
        try:
            there = ElsewhereTask.make(task)
        except (DumpError, OSError):  # it cannot be read here: what is wrong with it is found here
            future: Future[Any] = Future()
            future.set_result(HandedBack(""))
            return future
        return submit(self._workers, check_elsewhere, self._job, there)

    def _result(self, task: FileTask, future: Future[Any]) -> FileResult:
        before = self._before.popleft()
        try:
            result: FileResult | HandedBack = future.result()
        except WorkersLost:
            return FileResult([failed(task, self._job.options, "E150", _LOST)], [], before)
        if isinstance(result, HandedBack):
            why = result.why
            result = check_file(self._job, task)
            if why:
                result.reports[-1].add("I308", f"checked here: {why}")
        return result._replace(before=before)
