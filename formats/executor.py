# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs tasks over any `concurrent.futures.Executor` in a bounded window; results in task order.

Default: forked processes (perf: 1.9 to 2 times with two, threads gain little from calls of 3 to 10 us); the
calling process itself for small dumps, since a worker costs more to start than they take.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from .errors import InputError

__all__ = [
    "ExecutorChoice",
    "ExecutorKind",
    "HandedBack",
    "Remote",
    "SerialExecutor",
    "default_jobs",
    "forks",
    "make_executor",
    "note_threads",
    "run",
    "submit",
]

ExecutorKind = Literal["auto", "serial", "threads", "processes", "spawn"]
# Below this many bytes of pages one process is faster than two that must be started (measured: break-even at
# 60 to 100 MB of zlib pages).
SMALL_JOB = 48 << 20

T = TypeVar("T")
R = TypeVar("R")


class Remote(Protocol):
    """Workers elsewhere: see `formats.cluster`."""

    def executor(self) -> AbstractContextManager[Executor]:
        """Give an executor for one job; nothing of it is under way when that ends."""


ExecutorChoice = ExecutorKind | Remote


class HandedBack(NamedTuple):
    """What a worker returns that cannot do a task, for a reason that lies with the worker: the caller does it."""

    why: str


_threads = False


def note_threads() -> None:
    """Say that a library runs threads in this process: from now on workers are spawned.

    A forked child would find their locks as they are at that moment, for ever.
    """
    global _threads  # noqa: PLW0603 - it is the process that has threads
    _threads = True


class SerialExecutor(Executor):
    """Runs everything at once in the calling thread."""

    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> Future[R]:
        """See `concurrent.futures.Executor.submit`."""
        future: Future[R] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def default_jobs() -> int:
    """Return the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def forks(kind: ExecutorChoice) -> bool:
    """Return whether workers of a kind inherit what this process knows."""
    return kind in ("serial", "threads") or (kind in ("auto", "processes") and not _threads)


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def submit(executor: Executor, function: Callable[..., R], *args: object) -> Future[R]:
    """Submit a task; threads that this starts leave signals to the calling one.

    A signal that the kernel hands to another thread does not wake this one from what it waits for, and only this one
    acts on it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        return executor.submit(function, *args)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(parent: int) -> None:
    # Ctrl-C reaches the whole foreground group: the parent decides, workers finish their task. A worker whose
    # parent was killed goes too (PR_SET_PDEATHSIG).
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    try:
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0)
    except (OSError, AttributeError):
        return
    if os.getppid() != parent:
        os._exit(1)


def _has_semaphores() -> bool:
    # A pool of processes needs them; a rescue system may have no /dev/shm to keep them in.
    try:
        multiprocessing.Lock()
    except OSError:
        return False
    return True


@contextmanager
def make_executor(kind: ExecutorChoice, jobs: int, job_size: int) -> Iterator[Executor]:
    """Give an executor for a job of `job_size` bytes of pages; on error nothing not yet started is run."""
    if not isinstance(kind, str):
        with kind.executor() as remote:
            yield remote
        return
    if kind == "auto":
        kind = "processes" if jobs > 1 and job_size >= SMALL_JOB and _has_semaphores() else "serial"
    if kind == "serial":
        yield SerialExecutor()
        return
    pool: Executor
    if kind == "threads":
        pool = ThreadPoolExecutor(jobs)
    else:
        context = multiprocessing.get_context("fork" if kind == "processes" and not _threads else "spawn")
        pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_start_worker, initargs=(os.getpid(),))
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def run(
    executor: Executor, function: Callable[..., R], job: object, tasks: Iterable[T], *, window: int
) -> Iterator[tuple[T, R]]:
    """Run `function(job, task)` for each task, at most `window` at a time; yield in task order.

    Raises:
        DumpError: The error of the first task that failed, after all started ones have ended; the tasks come in
            frame order, so it is the one with the lowest frame.
    """
    waiting: deque[tuple[T, Future[R]]] = deque()
    try:
        for task in tasks:
            waiting.append((task, _submit(executor, function, job, task)))
            if len(waiting) >= window:
                yield _finish(waiting, function, job)
        while waiting:
            yield _finish(waiting, function, job)
    finally:
        for _, future in waiting:
            future.cancel()
        for _, future in waiting:
            if not future.cancelled():
                future.exception()


_KILLED = "a worker process was killed (out of memory, or by someone)"


def _submit(executor: Executor, function: Callable[..., R], job: object, task: object) -> Future[R]:
    try:
        return submit(executor, function, job, task)
    except BrokenProcessPool as error:
        raise InputError(_KILLED, hint="try --jobs 1") from error


def _finish(waiting: deque[tuple[T, Future[R]]], function: Callable[..., R], job: object) -> tuple[T, R]:
    task, future = waiting.popleft()
    try:
        result = future.result()
    except BrokenProcessPool as error:
        raise InputError(_KILLED, hint="try --jobs 1") from error
    return task, function(job, task) if isinstance(result, HandedBack) else result
