# SPDX-License-Identifier: GPL-2.0-or-later
"""Workers on other machines: tasks go to a `dask.distributed` cluster through its executor.

A task is coordinates, and what it writes it writes at its place: a worker that is lost may be followed by another that
does the same again. What a worker cannot do because of where it runs (it does not see the input, or sees another file
under its name) it hands back, and the task is done here.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import pickle
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor, Future, InvalidStateError
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, TypeVar

from .. import __version__
from . import decode
from .blocks import BlockSource
from .errors import DumpError, InputError, UsageError
from .executor import ExecutorChoice, ExecutorKind, HandedBack, default_jobs, note_threads
from .rows import SharedSink
from .source import ByteSource

__all__ = ["Cluster", "Job", "WorkersLost", "choose_workers", "local_choice", "print_of"]

_CONNECT_SECONDS = 10
_WORKERS_SECONDS = 30
_ALONE_SECONDS = 60.0  # without any worker, while there is work
_LOOK_SECONDS = 1.0
_ANSWER_SECONDS = 20.0  # for what takes milliseconds
_ASKED_SECONDS = 60.0  # for what workers must open files for
_EDGE = 1 << 16  # bytes at both ends of a file that tell it from another


T = TypeVar("T")


class WorkersLost(InputError):
    """Workers were lost over one task, one after another."""


class Job(Protocol):
    """What tasks share."""

    @property
    def parts(self) -> tuple[decode.DecodeJob, ...]:
        """The jobs of decoding in it. None: each worker is given it once, and the tasks say which files they need."""


class _Sealed(NamedTuple):
    # A pickled job that no log of the cluster shows (URLs in it have secrets), and what its files must look like.

    data: bytes
    key: str
    prints: tuple[str, ...]

    def __repr__(self) -> str:
        return f"<job {self.key[:8]}>"


def print_of(source: ByteSource) -> str:
    """Return what tells a file from another of that name: its size, and a digest of its first and last 64 KiB."""
    while isinstance(source, BlockSource):
        source = source.stored
    edge = min(_EDGE, source.size)
    found = hashlib.blake2b(source.pread(0, edge) + source.pread(source.size - edge, edge), digest_size=16)
    return f"{source.size} {found.hexdigest()}"


def _seal(job: Job) -> _Sealed:
    sources = [source for part in job.parts for source in part.sources]
    return _Sealed(pickle.dumps(job), job.parts[0].key, tuple(map(print_of, sources)))


# -- in the worker -----------------------------------------------------------------------------------------------

_seen: dict[str, str] = {}  # by job: why this process cannot do it, empty where it can


def _open(sealed: _Sealed) -> tuple[Job | None, str]:
    # the job, and why this worker cannot do it
    try:
        job: Job = pickle.loads(sealed.data)  # noqa: S301 - our own submitter wrote it
        if sealed.key not in _seen:
            sources = [source for part in job.parts for source in part.sources]
            for source, wanted in zip(sources, sealed.prints, strict=True):
                if print_of(source) != wanted:
                    _seen[sealed.key] = f"{source.name}: is another file here"
                    break
            else:
                _seen[sealed.key] = ""
            while len(_seen) > 64:
                _seen.pop(next(iter(_seen)))
        return job, _seen.get(sealed.key, "")
    except (DumpError, OSError) as error:
        return None, str(error)


def _run_sealed(sealed: _Sealed, function: Callable[[Any, Any], Any], task: object) -> Any:
    job, why = _open(sealed)
    return HandedBack(why) if why else function(job, task)


def _blind(sealed: _Sealed) -> str:
    return _open(sealed)[1]


def _cannot_write(sink: bytes) -> str:
    try:
        pickle.loads(sink)  # noqa: S301
    except (DumpError, OSError) as error:
        return str(error)
    return ""


_given: dict[str, bytes] = {}  # by key: pickled jobs of many tasks


def _run_given(key: str, function: Callable[[Any, Any], Any], task: object) -> Any:
    data = _given.get(key)
    if data is None:
        return HandedBack("the worker has another version of dumpconv")
    return function(pickle.loads(data), task)  # noqa: S301 - our own submitter wrote it


def _plugin(key: str, data: bytes) -> object:
    # what workers do when they are given a job, those too that come later
    from distributed import WorkerPlugin

    version = __version__

    class GivenJob(WorkerPlugin):
        name = f"dumpconv-{key}"

        def setup(self, worker: object) -> None:
            from dumpconv.formats import cluster  # this class travels by value, and has no module there

            if cluster._version() == version:
                cluster._given[key] = data

        def teardown(self, worker: object) -> None:
            from dumpconv.formats import cluster

            cluster._given.pop(key, None)

    return GivenJob()


async def _forget(keys: list[str]) -> None:
    for key in keys:
        decode.JOBS.pop(key, None)
        _seen.pop(key, None)


def _version() -> str:
    return __version__


# -- in the submitter --------------------------------------------------------------------------------------------


def _answer(seconds: float, function: Callable[..., T], *args: object, **more: object) -> T:
    """Return what a function of dask does, which waits for ever where a machine is there and says nothing.

    Raises:
        TimeoutError: It says nothing for so long.
    """
    found: Future[T] = Future()

    def ask() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # they are the main thread's
        try:
            found.set_result(function(*args, **more))
        except BaseException as error:
            found.set_exception(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        return found.result(seconds)
    except TimeoutError:
        raise TimeoutError(f"no answer in {seconds:.0f} seconds") from None


class Cluster:
    """A cluster of workers.

    Args:
        address: Of its scheduler, like `tcp://host:8786`.

    Attributes:
        threads: Tasks that it does at a time.

    Raises:
        InputError: There is no scheduler, no worker, or one with another version of this program.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        try:
            import distributed

            connect: Any = distributed.Client
        except ImportError as error:
            raise InputError(
                "--cluster works through dask.distributed, which is not here", hint="install dumpconv[cluster]"
            ) from error
        for name in list(logging.root.manager.loggerDict):  # they tell on stderr what becomes an error of ours
            if name.partition(".")[0] in ("distributed", "tornado"):
                logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        note_threads()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # versions of libraries that differ: ours is asked for below
                self._client: Any = connect(address, timeout=_CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError, TimeoutError, ImportError) as error:
            raise InputError(f"cluster {address}: no scheduler answers", hint="`dask scheduler` starts one") from error
        try:
            self._client.wait_for_workers(1, timeout=_WORKERS_SECONDS)
        except TimeoutError as error:
            raise InputError(f"cluster {address} has no workers", hint="`dask worker ADDRESS` starts one") from error
        for worker, version in self._ask(_version).items():
            if version != __version__:
                raise InputError(f"cluster {address}: worker {worker} has dumpconv {version}, this is {__version__}")
        self.threads = sum(self._within(self._client.nthreads).values())

    def close(self) -> None:
        """Hang up."""
        self._client.close()

    def _within(self, function: Callable[..., Any], *args: object, **more: object) -> Any:
        try:
            return _answer(_ASKED_SECONDS, function, *args, **more)
        except Exception as error:
            raise InputError(f"cluster {self.address}: {type(error).__name__}: {error}"[:300]) from error

    def _ask(self, function: Callable[..., str], *args: object) -> dict[str, str]:
        # what each worker that is there now says
        found: dict[str, Any] = self._within(self._client.run, function, *args, on_error="return")
        # a worker that was lost meanwhile does not matter while there is another
        found = {worker: answer for worker, answer in found.items() if not isinstance(answer, OSError)}
        if not found:
            raise InputError(f"cluster {self.address}: no worker answers")
        for worker, answer in found.items():
            if isinstance(answer, BaseException):
                raise InputError(
                    f"cluster {self.address}: worker {worker}: {type(answer).__name__}: {answer}"[:300],
                    hint="each worker needs dumpconv, of this version",
                )
        return found

    def unable(self, sink: SharedSink) -> dict[str, str]:
        """Return the workers that cannot write an output, and why."""
        return {worker: why for worker, why in self._ask(_cannot_write, pickle.dumps(sink)).items() if why}

    @contextmanager
    def executor(self) -> Iterator[Executor]:
        """See `executor.Remote`."""
        executor = _ClusterExecutor(self, self._client.get_executor(pure=False))
        ended = threading.Event()
        threading.Thread(target=self._watch, args=(executor, ended), daemon=True).start()
        try:
            yield executor
        finally:
            ended.set()
            with contextlib.suppress(Exception):  # a courtesy: what they know of jobs is small
                _answer(_ANSWER_SECONDS, self._clear, executor)

    def _clear(self, executor: _ClusterExecutor) -> None:
        executor.shutdown(wait=False)
        if executor.keys:
            self._client.run(_forget, executor.keys, wait=False)
        for name in executor.given:
            self._client.unregister_worker_plugin(name)

    def _watch(self, executor: _ClusterExecutor, ended: threading.Event) -> None:
        # ends the work when nobody has been there to do it: the scheduler alone would wait for ever
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # they are the main thread's
        seen = time.monotonic()
        while not ended.wait(_LOOK_SECONDS):
            with contextlib.suppress(Exception):  # no answer is no worker; a lost scheduler is told by the tasks
                if not executor.waiting or _answer(_ANSWER_SECONDS, self._client.nthreads):
                    seen = time.monotonic()
            if time.monotonic() - seen >= _ALONE_SECONDS:
                executor.give_up(
                    InputError(
                        f"cluster {self.address} has had no worker for {_ALONE_SECONDS:.0f} seconds",
                        hint="`dask worker ADDRESS` starts one; then run this again",
                    )
                )
                return

    def give(self, job: Job) -> str:
        """Give all workers a job, those too that come later; return its key.

        Raises:
            InputError: They cannot be reached.
        """
        key = hashlib.blake2b(os.urandom(16), digest_size=16).hexdigest()
        self._within(self._client.register_plugin, _plugin(key, pickle.dumps(job)))
        return key

    def check(self, sealed: _Sealed) -> None:
        """See that each worker has the inputs of a job.

        Raises:
            InputError: One has not.
        """
        found = self._ask(_blind, sealed)
        blind = {worker: why for worker, why in found.items() if why}
        if blind:
            worker, why = next(iter(blind.items()))
            raise InputError(
                f"{len(blind)} of {len(found)} workers of the cluster do not see the input; {worker}: {why}",
                hint="each needs it under the same path, or give a URL",
            )


class _ClusterExecutor(Executor):
    # Submits sealed jobs; errors of the cluster become ours.

    def __init__(self, cluster: Cluster, inner: Executor) -> None:
        self._cluster, self._inner = cluster, inner
        self._sealed: dict[int, _Sealed] = {}
        self._waiting: set[Future[Any]] = set()
        self._given: dict[int, str] = {}
        self.keys: list[str] = []

    @property
    def given(self) -> list[str]:
        """Names of what workers were given."""
        return [f"dumpconv-{key}" for key in self._given.values()]

    @property
    def waiting(self) -> bool:
        """Whether tasks are under way."""
        return bool(self._waiting)

    def give_up(self, error: InputError) -> None:
        """Let all tasks under way fail."""
        for future in list(self._waiting):
            with contextlib.suppress(InvalidStateError):
                future.set_exception(error)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        job, task = args
        sealed, key = (self._seal(job), "") if job.parts else (None, self._give(job))
        outer: Future[Any] = Future()
        self._waiting.add(outer)
        outer.add_done_callback(self._waiting.discard)
        if sealed is not None:
            inner = self._inner.submit(_run_sealed, sealed, fn, task)
        else:
            inner = self._inner.submit(_run_given, key, fn, task)
        inner.add_done_callback(lambda done: _pass_on(done, outer, self._cluster.address))
        outer.add_done_callback(lambda done: inner.cancel() if done.cancelled() else None)
        return outer

    def _seal(self, job: Job) -> _Sealed:
        sealed = self._sealed.get(id(job))
        if sealed is None:
            sealed = self._sealed[id(job)] = _seal(job)
            self.keys += [part.key for part in job.parts]
            self._cluster.check(sealed)
        return sealed

    def _give(self, job: Job) -> str:
        key = self._given.get(id(job))
        if key is None:
            key = self._given[id(job)] = self._cluster.give(job)
        return key

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._inner.shutdown(wait=wait)


def _pass_on(done: Future[Any], outer: Future[Any], address: str) -> None:
    with contextlib.suppress(InvalidStateError):  # cancelled meanwhile
        if done.cancelled():
            outer.set_exception(InputError(f"cluster {address}: the scheduler went away, or forgot a task"))
            return
        error = done.exception()
        if error is None:
            outer.set_result(done.result())
        elif type(error).__module__.startswith("distributed") or isinstance(error, CancelledError):
            what = f"{type(error).__name__}: {error}".replace("\n", " ")[:200]
            kind = WorkersLost if type(error).__name__ == "KilledWorker" else InputError
            outer.set_exception(
                kind(f"cluster {address}: {what}", hint="a task that ends several workers needs more memory")
            )
        else:
            outer.set_exception(error)


def choose_workers(cluster: str | None, executor: ExecutorKind, jobs: int | None) -> tuple[ExecutorChoice, int]:
    """Return who works and how many tasks are done at a time, from `--cluster`, `--executor` and `--jobs`.

    Raises:
        UsageError: Two were given.
        InputError: There is no such cluster.
    """
    if cluster is None:
        return executor, jobs or default_jobs()
    if executor != "auto":
        raise UsageError(f"--cluster and --executor {executor} are two kinds of workers: give one")
    found = Cluster(cluster)
    return found, jobs or found.threads


def local_choice(
    executor: ExecutorChoice, jobs: int, sources: tuple[ByteSource, ...]
) -> tuple[ExecutorChoice, int, bool]:
    """Return who can work on sources, how many at a time, and whether a cluster was left out.

    A stream's bytes, and those of the running kernel, are on this machine only.
    """
    if isinstance(executor, str) or all(source.worker_view().elsewhere for source in sources):
        return executor, jobs, False
    return "auto", default_jobs(), True
