# SPDX-License-Identifier: GPL-2.0-or-later
"""Files checked by workers on other machines, one each: that it is the same file there, and its report has our names.

What a worker cannot do because of where it runs it hands back, and the file is checked here.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Executor, Future
from contextlib import ExitStack
from dataclasses import replace
from typing import NamedTuple

from ..formats.cluster import WorkersLost, print_of
from ..formats.errors import DumpError
from ..formats.executor import HandedBack, Remote, make_executor, submit
from ..formats.source import FileSource
from .files import FileJob, FileResult, FileTask, check_file, failed, stamps_of
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


class _Waiting(NamedTuple):
    task: FileTask
    before: dict[str, Stamp]
    future: Future[FileResult | HandedBack]


class ElsewherePool:
    """Workers of a cluster that check a file each; like `files.FilePool`.

    Args:
        options: Of the checks.
        jobs: Tasks that the cluster does at a time.
        cluster: The workers.
    """

    def __init__(self, options: VerifyOptions, jobs: int, cluster: Remote) -> None:
        self._job = FileJob.make(options, "spawn")
        self._jobs, self._cluster = jobs, cluster
        self._stack = ExitStack()
        self._executor: Executor | None = None
        self._waiting: deque[_Waiting] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def is_full(self) -> bool:
        """Whether enough files wait for all workers to be busy."""
        return len(self._waiting) >= 4 * self._jobs

    def submit(self, task: FileTask) -> None:
        """Add a file."""
        future: Future[FileResult | HandedBack] = Future()
        before = stamps_of(task.path)
        try:
            there = ElsewhereTask.make(task)
        except (DumpError, OSError):  # it cannot be read here: what is wrong with it is found here
            future.set_result(HandedBack(""))
        else:
            if self._executor is None:
                self._executor = self._stack.enter_context(make_executor(self._cluster, self._jobs, 0))
            future = submit(self._executor, check_elsewhere, self._job, there)
        self._waiting.append(_Waiting(task, before, future))

    def take(self) -> tuple[FileTask, FileResult]:
        """Return the result for the file added first, when it is there.

        Raises:
            InputError: There is no cluster any more.
        """
        task, before, future = self._waiting[0]
        try:
            result = future.result()
        except WorkersLost:
            result = FileResult([failed(task, self._job.options, "E150", _LOST)], [], before)
        self._waiting.popleft()
        if isinstance(result, HandedBack):
            why = result.why
            result = check_file(self._job, task)
            if why:
                result.reports[-1].add("I308", f"checked here: {why}")
        return task, result._replace(before=before)

    def close(self, *, at_once: bool = False) -> None:
        """Hang up; `at_once`: whatever they do."""
        for each in self._waiting:
            each.future.cancel()
        self._stack.close()
        self._executor = None
        self._job.forget()
