# SPDX-License-Identifier: GPL-2.0-or-later
"""Several dumps at a time: small ones each in a worker of its own, results in the order they were given.

What one file does to its worker stays with it: a worker that dies takes no other file's result along.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ..formats.archive import is_tar
from ..formats.executor import SMALL_JOB, ExecutorChoice, forks, make_executor, submit
from .archive import verify_archive
from .jobs import Stamp, stamp_of
from .manifest_write import Recorded
from .target import BudgetReached, VerifyOptions, verify_target
from .verdict import TargetReport
from .walk import report_no_file

__all__ = ["FileJob", "FilePool", "FileResult", "FileTask", "check_file", "failed", "reports_of", "stamps_of"]


class FileTask(NamedTuple):
    """One file to check.

    Attributes:
        path: As given or found.
        in_directory: Found by walking a directory.
        seconds, bytes: What the run's budget has left for it; None: no limit.
    """

    path: str
    in_directory: bool
    seconds: float | None = None
    bytes: int | None = None


class FileResult(NamedTuple):
    """What came of it.

    Attributes:
        reports: One, or several for an archive.
        recorded: For a manifest.
        before: Stamp of the file from before the check.
    """

    reports: list[TargetReport]
    recorded: list[Recorded]
    before: dict[str, Stamp]


def stamps_of(path: str) -> dict[str, Stamp]:
    """Return the stamp of a file by its name; nothing where it has none."""
    stamp = stamp_of(path)
    return {} if stamp is None else {path: stamp}


def reports_of(
    task: FileTask,
    options: VerifyOptions,
    progress: Callable[[int], object],
    record: Callable[[Recorded], object],
) -> Iterator[TargetReport]:
    """Check a file: yield its report, or those of an archive's members and of the archive.

    Never raises for what a file does to us: a bug of ours is E159 on it, and the others are checked.
    """
    try:
        other = report_no_file(task.path, options.level, options.allowed) if task.in_directory else None
        if other is not None:
            yield other
        elif options.reading.format is None and is_tar(task.path):
            yield from verify_archive(task.path, options, progress, record)
        else:
            yield verify_target([task.path], options, progress, in_directory=task.in_directory, record=record)
    except OSError as error:
        yield failed(task, options, "E150", f"{error.filename or task.path}: {error.strerror or error}")
    except MemoryError:
        yield failed(task, options, "E150", "there is not enough memory to check it")
    except Exception as error:
        if options.debug:
            raise
        yield failed(task, options, "E159", f"{type(error).__name__}: {error}")


def failed(task: FileTask, options: VerifyOptions, code: str, message: str) -> TargetReport:
    """Return the report of a file that could not be checked."""
    report = TargetReport([task.path], options.level, allowed=options.allowed)
    report.add(code, message)
    return report


@dataclass(frozen=True, eq=False)
class FileJob:
    """What all tasks have in common. Forked workers have it already: only its key is sent to them.

    Attributes:
        key: Unique in the life of all processes concerned.
        options: Of each check; without workers of their own.
        by_key: Whether workers inherit it.
    """

    key: str
    options: VerifyOptions
    by_key: bool

    @classmethod
    def make(cls, options: VerifyOptions, kind: ExecutorChoice) -> FileJob:
        """Make one known to workers that are forked from now on."""
        pages = options.pages._replace(jobs=1, executor="serial")
        job = cls(os.urandom(16).hex(), replace(options, pages=pages), forks(kind))
        _JOBS[job.key] = job
        return job

    @property
    def parts(self) -> tuple[()]:
        """See `formats.cluster.Job`: nothing that workers must see beforehand."""
        return ()

    def forget(self) -> None:
        """Drop it from this process."""
        _JOBS.pop(self.key, None)

    def __reduce__(self) -> tuple[object, ...]:
        return _restore, (self.key, None if self.by_key else pickle.dumps(self.options))


_JOBS: dict[str, FileJob] = {}


def _restore(key: str, options: bytes | None) -> FileJob:
    if options is None or key in _JOBS:
        return _JOBS[key]
    job = FileJob(key, pickle.loads(options), by_key=False)  # noqa: S301 - our own parent wrote it
    _JOBS.clear()
    _JOBS[key] = job
    return job


def check_file(job: FileJob, task: FileTask) -> FileResult:
    """Check one file in this process, within what the budget has left: the function that executors call."""
    begin, used = time.monotonic(), 0

    def count(size: int) -> None:
        nonlocal used
        used += size
        if task.seconds is not None and time.monotonic() - begin >= task.seconds:
            raise BudgetReached("--max-duration")
        if task.bytes is not None and used > task.bytes:
            raise BudgetReached("--max-bytes")

    recorded: list[Recorded] = []
    before = stamps_of(task.path)
    return FileResult(list(reports_of(task, job.options, count, recorded.append)), recorded, before)


def _killed(task: FileTask, options: VerifyOptions) -> FileResult:
    why = "the process that checked it was killed, twice (out of memory, or by someone)"
    return FileResult([failed(task, options, "E150", why)], [], {})


class FilePool:
    """Workers that check a file each.

    Args:
        options: Of the checks.
        jobs: Workers.
        kind: Processes, forked or spawned; for those elsewhere see `elsewhere.ElsewherePool`.
    """

    def __init__(self, options: VerifyOptions, jobs: int, kind: ExecutorChoice) -> None:
        self._job = FileJob.make(options, kind)
        self._jobs, self._kind = jobs, kind
        self._stack = ExitStack()
        self._executor: Executor | None = None
        self._waiting: deque[tuple[FileTask, Future[Any]]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def is_full(self) -> bool:
        """Whether enough files wait for all workers to be busy."""
        return len(self._waiting) >= 4 * self._jobs

    def submit(self, task: FileTask) -> None:
        """Add a file."""
        self._waiting.append((task, self._submit(task)))

    def take(self) -> tuple[FileTask, FileResult]:
        """Return the result for the file added first, when it is there.

        Raises:
            InputError: There is no cluster any more.
        """
        task, future = self._waiting[0]
        result = self._result(task, future)
        self._waiting.popleft()
        return task, result

    def close(self, *, at_once: bool = False) -> None:
        """End the workers; `at_once`: whatever they do."""
        for _, future in self._waiting:
            future.cancel()
        if at_once:
            for child in multiprocessing.active_children():
                child.terminate()
        self._stack.close()
        self._executor = None
        self._job.forget()

    @property
    def _workers(self) -> Executor:
        if self._executor is None:
            self._executor = self._stack.enter_context(make_executor(self._kind, self._jobs, SMALL_JOB))
        return self._executor

    def _result(self, task: FileTask, future: Future[Any]) -> FileResult:
        try:
            result: FileResult = future.result()
        except BrokenProcessPool:
            self._one_by_one()
            result = self._waiting[0][1].result()
        return result

    def _submit(self, task: FileTask) -> Future[Any]:
        try:
            return submit(self._workers, check_file, self._job, task)
        except BrokenProcessPool as error:  # told by the future, as if it had broken a moment later
            future: Future[FileResult] = Future()
            future.set_exception(error)
            return future

    def _one_by_one(self) -> None:
        # A worker died, and with it the pool: which file was it? All that have no result are checked alone.
        self._stack.close()
        self._executor = None
        self._job = replace(self._job, by_key=False)  # a library may have started threads since: they are spawned then
        for index, (task, future) in enumerate(self._waiting):
            if future.done() and not isinstance(future.exception(), BrokenProcessPool):
                continue
            again: Future[FileResult] = Future()
            with make_executor(self._kind if self._kind != "auto" else "processes", 1, SMALL_JOB) as alone:
                try:
                    again.set_result(submit(alone, check_file, self._job, task).result())
                except BrokenProcessPool:
                    again.set_result(_killed(task, self._job.options))
                except Exception as error:
                    again.set_exception(error)
            self._waiting[index] = (task, again)
