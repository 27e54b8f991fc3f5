# SPDX-License-Identifier: GPL-2.0-or-later
"""`--cluster`: a scheduler and two workers on this machine, one of them killed; workers that see other files."""

from __future__ import annotations

import gzip
import json
import pickle
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("distributed", reason="dumpconv[cluster] is not installed")

from dumpconv.convert import convert
from dumpconv.convert.kdump import KdumpOutput
from dumpconv.convert.lkcd import LkcdOutput
from dumpconv.convert.output import OutputFormat
from dumpconv.formats import codecs, open_dump
from dumpconv.formats.cluster import Cluster, WorkersLost
from dumpconv.formats.errors import OutputError
from dumpconv.formats.executor import HandedBack, SerialExecutor, run
from dumpconv.formats.rows import SharedSink
from dumpconv.verify.elsewhere import ElsewherePool
from dumpconv.verify.files import FileTask
from dumpconv.verify.pagecheck import PageOptions
from dumpconv.verify.target import VerifyOptions
from support import corrupt, notes, patterns
from support.build_kdump import KdumpSpec, build, build_split
from support.cluster import LocalCluster
from support.command import dumpconv, dumpverify, one_line
from support.range_server import serve
from support.small_dump import made

LEAVES, EACH = 12, 128  # 6 MiB in as many tasks


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Give a scheduler and two workers of one thread, whose working directory has other files than ours."""
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "other").write_bytes(b"another file\n" * 1000)
    (folder / "stale.incomplete").write_bytes(b"of another run\n")
    found = LocalCluster(folder)
    try:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda number: found.add_worker(), range(2)))
        yield found
    finally:
        found.close()


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dump") / "vmcore"
    pages = {
        leaf * 65536 + index: patterns.page(leaf * 65536 + index) if index % 9 else bytes(4096)
        for leaf in range(LEAVES)
        for index in range(EACH)
    }
    text = notes.vmcoreinfo_text()
    build(KdumpSpec(pages=pages, notes=notes.machine_notes(cpus=1, text=text), codec="raw")).write_to(path)
    return path


@pytest.fixture(scope="module")
def converted(dump: Path) -> Path:
    """The dump as this machine alone converts it."""
    out = dump.with_name("local.elf")
    assert dumpconv(dump, out, "--executor", "serial").returncode == 0
    return out


def on(cluster: LocalCluster) -> tuple[str, str]:
    return "--cluster", cluster.address


def test_the_same_file_whatever_works(cluster: LocalCluster, dump: Path, converted: Path, tmp_path: Path) -> None:
    done = dumpconv(dump, tmp_path / "o.elf", "--verify", *on(cluster))
    assert (done.returncode, done.stderr) == (0, b""), done
    assert b"return" not in done.stdout
    assert (tmp_path / "o.elf").read_bytes() == converted.read_bytes()
    assert (tmp_path / "o.elf").stat().st_blocks <= converted.stat().st_blocks + 16  # zeros are holes
    done = dumpconv("compare", dump, tmp_path / "o.elf", "--json", *on(cluster))
    assert json.loads(done.stdout)["pages"]["compared"] == LEAVES * EACH


def sparse_pages(frames: Sequence[int], size: int) -> dict[int, bytes]:
    return {pfn: patterns.page(pfn, size) if pfn % 5 else bytes(size) for pfn in frames}


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dump with pages of 64 KiB, more than come back at a time; in two leaves of the digest, and a few in a third."""
    path = tmp_path_factory.mktemp("wide") / "vmcore"
    pages = sparse_pages([*range(65536 - 150, 65536 + 140), *range(200000, 200004)], 65536)
    text = notes.vmcoreinfo_text(page_size=65536)
    spec = KdumpSpec(page_size=65536, pages=pages, notes=notes.machine_notes("aarch64", cpus=1, text=text), codec="raw")
    build(replace(spec, uts={"machine": "aarch64", "release": "6.1.0-test"})).write_to(path)
    return path


@pytest.mark.parametrize(
    "kind",
    [("wide", "-O", "kdump", "-z"), ("wide", "-O", "lkcd"), ("dump", "-O", "kdump", "-z", "--no-digest")],
    ids=["kdump", "lkcd", "no-digest"],
)
def test_encoded_pages_come_back(
    kind: tuple[str, ...], cluster: LocalCluster, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    source, *options = kind
    told = {}
    for name, more in (("a", ("--executor", "serial")), ("b", on(cluster))):
        done = dumpconv(request.getfixturevalue(source), tmp_path / name, "--json", *options, *more)
        assert done.returncode == 0, done
        report = json.loads(done.stdout)
        told[name] = report["pages"], report["content_digest"]
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert told["a"] == told["b"]


class Counting(Cluster):
    """Workers of this process: how many bytes of pages may come back of what was asked for and not taken yet."""

    def __init__(self) -> None:
        self.threads, self.now, self.most = 100, 0, 0

    @contextmanager
    def executor(self) -> Iterator[Executor]:
        yield CountingExecutor(self)


class CountingExecutor(SerialExecutor):
    def __init__(self, counts: Counting) -> None:
        self.counts = counts

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        job, task = args
        future = super().submit(fn, *args, **kwargs)
        held = int(task.extents["nr_pages"].sum()) * job.page_size if job.payload else 0
        counts = self.counts
        counts.now += held
        counts.most = max(counts.most, counts.now)

        class Taken(Future[Any]):
            def result(self, timeout: float | None = None) -> Any:
                counts.now -= held
                return future.result()

        return Taken()


@pytest.mark.parametrize("output", [KdumpOutput(codecs.ZSTD), LkcdOutput()], ids=["kdump", "lkcd"])
def test_what_comes_back_is_bounded_by_bytes(
    output: OutputFormat, wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A smaller bound than the product's, and 18 MiB of pages."""
    monkeypatch.setattr(convert, "RETURNED_BYTES", 1 << 20)
    monkeypatch.setattr(convert, "MOST_RETURNED", 5 << 20)
    found = {}
    for name, executor in (("local", "serial"), ("elsewhere", counts := Counting())):
        options = convert.ConvertOptions(jobs=100, executor=executor, output=output, sync=False)
        found[name] = convert.convert(open_dump([str(wide)]), str(tmp_path / name), options)
    assert (tmp_path / "local").read_bytes() == (tmp_path / "elsewhere").read_bytes()
    assert found["local"].content_digest == found["elsewhere"].content_digest
    assert 3 << 20 < counts.most <= 5 << 20
    assert counts.now == 0


def test_workers_that_see_another_output_return_their_pages(
    cluster: LocalCluster, dump: Path, converted: Path, tmp_path: Path
) -> None:
    """The directory is the working directory: each process has its own, as machines without shared disks have."""
    (tmp_path / "here").symlink_to("/proc/self/cwd")
    stale = cluster.folder / "stale.incomplete"
    before = stale.read_bytes()
    done = dumpconv(dump, tmp_path / "here" / "stale", *on(cluster), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b""), done
    assert b"2 workers return pages" in done.stdout
    assert b"is another file here" in done.stdout
    assert (tmp_path / "stale").read_bytes() == converted.read_bytes()
    assert stale.read_bytes() == before


def test_workers_that_do_not_see_the_input(cluster: LocalCluster, dump: Path, tmp_path: Path) -> None:
    (tmp_path / "here").symlink_to("/proc/self/cwd")
    for name, why in (("only-here", "cannot open: No such file or directory"), ("other", "is another file here")):
        (tmp_path / name).write_bytes(dump.read_bytes())
        done = dumpconv(tmp_path / "here" / name, tmp_path / "o.elf", *on(cluster), cwd=tmp_path)
        line = one_line(done)
        assert done.returncode == 1
        assert "2 of 2 workers of the cluster do not see the input" in line
        assert why in line
        assert not list(tmp_path.glob("o.elf*"))


def test_a_stream_stays_here(cluster: LocalCluster, dump: Path, converted: Path, tmp_path: Path) -> None:
    (tmp_path / "d.gz").write_bytes(gzip.compress(dump.read_bytes(), 1))
    done = dumpconv(tmp_path / "d.gz", tmp_path / "o.elf", *on(cluster))
    assert done.returncode == 0
    assert b"no worker of the cluster sees it" in done.stdout
    assert dumpconv("compare", tmp_path / "o.elf", converted).returncode == 0


def verdict(*words: str | Path, code: int, cwd: Path = Path("/")) -> Any:
    done = dumpverify("--json", *words, cwd=cwd)
    assert (done.returncode, done.stderr) == (code, b""), done
    found = json.loads(done.stdout)
    for each in found["dumps"]:
        each.pop("seconds")
    found.pop("seconds", None)
    return found["dumps"]


def test_dumpverify_finds_the_same(cluster: LocalCluster, dump: Path, converted: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.elf"
    bad.write_bytes(corrupt.flip(converted.read_bytes(), 8 * (converted.stat().st_size - 5000)))
    local = verdict(bad, code=5)
    assert "E110" in {each["code"] for each in local[0]["findings"]}
    assert verdict(bad, *on(cluster), code=5) == local


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    folder = tmp_path / "archive"
    folder.mkdir()
    for index in range(6):
        image = made(folder / f"d{index}", 12, first=16 + index, codec="zlib", fallback=False)
        if index == 3:
            offset, size, _ = image.data[20]
            corrupt.zero_file(folder / "d3", offset, offset + size)
    spec = KdumpSpec(pages=patterns.pages(0, 40), notes=notes.machine_notes(cpus=1, text=notes.vmcoreinfo_text()))
    for number, member in enumerate(build_split(spec, [(0, 20), (20, 40)])):
        member.write_to(folder / f"set.{number}")
    (folder / "note.txt").write_text("no dump")
    (folder / "z.gz").write_bytes(gzip.compress((folder / "d0").read_bytes()))
    return folder


def test_small_dumps_are_checked_by_a_worker_each(cluster: LocalCluster, archive: Path, tmp_path: Path) -> None:
    """Named by a relative path, which is another one for workers; remembered as if they were checked here."""
    local = verdict("archive", "-j1", code=3, cwd=tmp_path)
    assert [each["files"][0] for each in local][:2] == ["archive/d0", "archive/d1"]
    assert ["archive/set.0", "archive/set.1"] in [each["files"] for each in local]
    state = ("--state", tmp_path / "state")
    assert verdict("archive", *on(cluster), *state, code=3, cwd=tmp_path) == local
    assert len(verdict("archive", *state, "--max-age", "1d", code=3, cwd=tmp_path)) == 1  # the bad one
    manifest = [tmp_path / "one.sha256", tmp_path / "two.sha256"]
    for name, more in zip(manifest, ([], on(cluster)), strict=True):
        assert dumpverify("archive", "--write-manifest", name, *more, cwd=tmp_path).returncode == 3
    assert manifest[0].read_text() == manifest[1].read_text()


def test_small_dumps_that_no_worker_sees(cluster: LocalCluster, archive: Path, tmp_path: Path) -> None:
    (tmp_path / "here").symlink_to("/proc/self/cwd")
    (archive / "other").write_bytes((archive / "d0").read_bytes())
    folder = tmp_path / "here"
    local = verdict(*(folder / name for name in ("archive/d1", "archive/d3", "archive/other")), code=3, cwd=tmp_path)
    names = [folder / name for name in ("archive/d1", "archive/d3", "archive/other")]
    found = verdict(*names, *on(cluster), code=3, cwd=tmp_path)
    for each in found:
        told = each["findings"].pop()
        assert told["code"] == "I308"
        assert told["message"].startswith(f"checked here: {each['files'][0]}: cannot open")
    assert found == local


class Losing(Executor):
    """A cluster that loses each worker over one file."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        job, task = args
        if task.file.path.endswith("d1"):
            future.set_exception(WorkersLost("cluster: KilledWorker"))
        else:
            future.set_result(fn(job, task))
        return future

    @contextmanager
    def executor(self) -> Iterator[Executor]:
        yield self


def test_a_file_that_workers_are_lost_over_takes_no_other_along(archive: Path) -> None:
    pool = ElsewherePool(VerifyOptions(pages=PageOptions(1, "serial")), 2, Losing())
    for name in ("d0", "d1", "d2", "gone"):
        pool.submit(FileTask(str(archive / name), False))
    codes = {}
    while len(pool):
        task, result = pool.take()
        codes[task.path[-2:]] = [each.code for each in result.reports[0].findings]
    pool.close()
    assert codes == {"d0": [], "d1": ["E150"], "d2": [], "ne": ["E150"]}


def test_what_cannot_be(dump: Path, tmp_path: Path) -> None:
    done = dumpconv(dump, tmp_path / "o", "--cluster", "tcp://127.0.0.1:1", "--executor", "threads")
    assert done.returncode == 2
    assert one_line(done).startswith("dumpconv: --cluster and --executor threads are two kinds of workers")
    done = dumpconv(dump, tmp_path / "o", "--cluster", "nosuch://127.0.0.1:1")
    assert (done.returncode, one_line(done)) == (
        1,
        "dumpconv: cluster nosuch://127.0.0.1:1: no scheduler answers; `dask scheduler` starts one",
    )


def test_what_a_worker_hands_back_is_done_here() -> None:
    """A worker that joins later may see other files than those that were asked at the start."""

    def work(job: str, task: int) -> Any:
        calls.append(task)
        return HandedBack("no such file") if calls.count(task) == 1 and task % 2 else f"{job} {task}"

    calls: list[int] = []
    with ThreadPoolExecutor(1) as pool:
        assert list(run(pool, work, "job", range(4), window=2)) == [(each, f"job {each}") for each in range(4)]
    assert sorted(calls) == [0, 1, 1, 2, 3, 3]


# in a process of its own: dask's threads stay, and other tests fork
ALONE = """
import sys, time
from dumpconv.formats import cluster
from dumpconv.formats.decode import DecodeJob
from dumpconv.formats.errors import InputError

def sleep(job, task):
    time.sleep(60)

cluster._ALONE_SECONDS, cluster._LOOK_SECONDS, cluster._ANSWER_SECONDS = 1.0, 0.1, 0.5
with cluster.Cluster(sys.argv[1]).executor() as executor:
    future = executor.submit(sleep, DecodeJob("alone", (), 4096), 0)
    try:
        future.result(timeout=1.5)
    except TimeoutError:
        print("works", flush=True)  # as long as it does nobody gives up
    try:
        future.result(timeout=30)
    except InputError as error:
        print(error, flush=True)
    cluster._ASKED_SECONDS = 1.0
    try:
        print(executor._cluster.give(DecodeJob("another", (), 4096)), flush=True)
        print(executor._cluster.unable(None), flush=True)
    except InputError as error:
        print(error, flush=True)
"""


@pytest.mark.parametrize("scheduler", [False, True])
def test_a_cluster_that_does_nothing_is_not_waited_for(scheduler: bool, tmp_path: Path) -> None:
    """Its workers are gone; or its scheduler is stopped, and does not even say that."""
    mine = LocalCluster(tmp_path)
    try:
        mine.add_worker()
        with subprocess.Popen([sys.executable, "-c", ALONE, mine.address], stdout=subprocess.PIPE) as asking:
            assert asking.stdout is not None
            assert asking.stdout.readline() == b"works\n"
            if scheduler:
                mine.stop_scheduler()
            else:
                mine.workers[0].kill()
            assert b"has had no worker for 1 seconds" in asking.stdout.readline()
            if scheduler:
                assert b"TimeoutError: no answer in 1 seconds" in asking.stdout.readline()
    finally:
        mine.close()


def test_an_output_is_known_by_its_mark(tmp_path: Path) -> None:
    path = tmp_path / "o"
    path.write_bytes(b"....mark")
    with path.open("r+b") as file:
        pickled = pickle.dumps(SharedSink(str(path), 4, b"mark", file.fileno()))
    pickle.loads(pickled).write([memoryview(b"ab")], 1)  # noqa: S301
    assert path.read_bytes() == b".ab.mark"
    for damage in (b"....kram", b"...."):
        path.write_bytes(damage)
        with pytest.raises(OutputError, match="another file"):
            pickle.loads(pickled)  # noqa: S301
        assert path.read_bytes() == damage
    path.unlink()
    with pytest.raises(OutputError, match="No such file"):
        pickle.loads(pickled)  # noqa: S301


def test_a_worker_that_is_killed_in_the_middle(
    cluster: LocalCluster, dump: Path, converted: Path, tmp_path: Path
) -> None:
    """The dump is at a URL: the server ends a worker while it reads. The other worker does what is left."""
    pytest.importorskip("fsspec", reason="dumpconv[remote] is not installed")
    victim, _ = cluster.workers

    def kill(number: int) -> None:
        start = int(site.asked[number][1].removeprefix("bytes=").partition("-")[0])
        if 2 << 20 < start < 5 << 20 and victim.poll() is None:  # pages: both workers are at work
            victim.kill()
            victim.wait()

    with serve(files={"/d": dump.read_bytes()}, after=kill) as site:
        done = dumpconv(f"{site.url}/d", tmp_path / "o.elf", *on(cluster))
    assert (done.returncode, done.stderr) == (0, b""), done
    assert victim.poll() == -9
    assert (tmp_path / "o.elf").read_bytes() == converted.read_bytes()
    assert verdict(dump, *on(cluster), code=0) == verdict(dump, code=0)  # by one worker
