# SPDX-License-Identifier: GPL-2.0-or-later
"""The hot path: a worker reads a batch of extents, decodes it, hashes it, writes it. Knows no format.

A task carries coordinates, never payload. The worker cuts it into sub-batches that stay in the cache (1 MiB:
measured faster than 4 MiB by a quarter for snappy), and for each: read the stored bytes in few large reads,
decode into rows of one reused buffer, hash the rows, write those that are not zero.
"""

from __future__ import annotations

import pickle
import threading
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from . import codecs, fastcodecs
from .arrays import distinct
from .digest import LeafHasher
from .errors import InputError, PageDecodeError, TruncatedDump
from .pages import PageState
from .rows import FileSink, PageRows, page_view, sub_batches
from .source import ByteSource

__all__ = ["JOBS", "Damage", "DecodeJob", "Encoder", "Task", "TaskResult", "Worker", "run_task"]

SUB_BATCH_BYTES = 1 << 20
_CLUSTER_GAP = 4096  # stored bytes nearer than this are read in one go
_NOT_COMPRESSED = (codecs.RAW, codecs.ZERO, codecs.BAD)
_BRIDGE_PAGES = 4  # zero runs up to this are written, longer ones stay holes (perf: 1.9 against 5.5 us a page)

U64 = NDArray[np.uint64]


class Damage(NamedTuple):
    """A frame that could not be had: its number, what to call it, why."""

    pfn: int
    state: PageState
    reason: str
    file: int
    offset: int


class Encoder(Protocol):
    """Turns decoded pages into what an output format stores of them; pickles."""

    def encode(
        self, pfns: U64, pages: list[memoryview], zero: NDArray[np.bool_]
    ) -> tuple[list[bytes | memoryview], NDArray[Any]]:
        """Encode pages.

        Args:
            pfns: Their frames.
            pages: Their bytes, valid during the call and until the result is used.
            zero: Which of them hold nothing but zeros.

        Returns:
            What is stored, to be joined; and one row of the format's own for each page (or no rows at all).
        """


@dataclass(frozen=True, slots=True)
class Task:
    """A work order: frames in order, where their bytes lie, where they go.

    Attributes:
        index: Position in the job.
        extents: `EXTENT` rows, sorted by frame.
        out: Columns (start_pfn, file offset) of the output runs that the frames fall into, or None.
        scratch: Where in the job's sink encoded pages go, back to back, or None.
    """

    index: int
    extents: NDArray[Any]
    out: tuple[U64, U64] | None = None
    scratch: int | None = None


@dataclass(slots=True)
class TaskResult:
    """What a task reports.

    Attributes:
        nr_pages, nr_zero: Pages decoded, and how many of them are zero.
        first_pfn: Of the task, to know its leaf.
        leaf: Digest of the task's pages, where the job hashes.
        damage: Frames that could not be had (salvage only; otherwise they raise).
        nr_checked: zstd pages whose frames carry a checksum (where the job counts them).
        payload: The pages, or what the encoder made of them, where the job has no sink.
        rows: The encoder's rows.
        size: Bytes that the encoder made.
        quirks: Pages that decoded by a rule that no kernel follows, by `codecs.QUIRKS`.
    """

    index: int
    nr_pages: int = 0
    nr_zero: int = 0
    first_pfn: int = 0
    leaf: bytes | None = None
    damage: list[Damage] = field(default_factory=list)
    nr_checked: int = 0
    payload: bytes | None = None
    rows: NDArray[Any] = field(default_factory=lambda: np.empty(0, np.uint8), compare=False)
    size: int = 0
    quirks: dict[str, int] = field(default_factory=dict)


# Jobs known in this process. Forked workers inherit it and so do not open anything again; others fill it from
# the pickled description.
JOBS: dict[str, DecodeJob] = {}
_MAX_JOBS = 8  # in a worker that outlives its jobs (a cluster)


def _restore_job(key: str, description: bytes) -> DecodeJob:
    # the description opens files when it is unpickled: only where the job is not known yet
    job = JOBS.get(key)
    if job is None:
        if len(JOBS) > _MAX_JOBS:
            JOBS.pop(next(iter(JOBS)))
        job = JOBS[key] = DecodeJob(key, **pickle.loads(description))  # noqa: S301 - our own parent wrote it
    return job


class DecodeJob:
    """What all tasks of a job share.

    Args:
        key: Unique in the life of all processes concerned.
        sources: Files that extents point into.
        page_size: Bytes.
        sink: Where pages go, None to drop them or to return them.
        digest: Hash each task's pages.
        salvage: Report damage instead of raising.
        payload: Return the pages in the result.
        encoder: Encode the pages before they go to sink or result, None to pass them on as they are.
        unit_pages: See `DumpReader.unit_pages`.
        batch_bytes: Bytes of pages decoded at a time.
        count_checked: Count pages whose codec's own checksum was there to be checked.
    """

    def __init__(
        self,
        key: str,
        sources: tuple[ByteSource, ...],
        page_size: int,
        *,
        sink: FileSink | None = None,
        digest: bool = False,
        salvage: bool = False,
        payload: bool = False,
        encoder: Encoder | None = None,
        unit_pages: int = 1,
        batch_bytes: int = SUB_BATCH_BYTES,
        count_checked: bool = False,
    ) -> None:
        self.key = key
        self._fields = {
            "sources": sources,
            "page_size": page_size,
            "sink": sink,
            "digest": digest,
            "salvage": salvage,
            "payload": payload,
            "encoder": encoder,
            "unit_pages": unit_pages,
            "batch_bytes": batch_bytes,
            "count_checked": count_checked,
        }
        self._pickled: bytes | None = None
        self.sources = sources
        self.page_size = page_size
        self.sink = sink
        self.digest = digest
        self.salvage = salvage
        self.payload, self.encoder = payload, encoder
        self.unit_pages = unit_pages
        self.count_checked = count_checked
        self.capacity = max(1, batch_bytes // (page_size * unit_pages)) * unit_pages
        self._local = threading.local()

    def __reduce__(self) -> tuple[object, ...]:
        if self._pickled is None:
            self._pickled = pickle.dumps(self._fields)
        return _restore_job, (self.key, self._pickled)

    @property
    def parts(self) -> tuple[DecodeJob, ...]:
        """The jobs that this consists of: itself."""
        return (self,)

    def register(self) -> None:
        """Make the job known, so that workers forked from now on need not rebuild it."""
        JOBS[self.key] = self

    def forget(self) -> None:
        """Drop the job from this process, and its workers: a cycle, whose buffers the collector would get late."""
        JOBS.pop(self.key, None)
        self._local = threading.local()

    def worker(self) -> Worker:
        """Return this thread's worker."""
        worker = getattr(self._local, "worker", None)
        if worker is None:
            worker = self._local.worker = Worker(self)
        return worker


def run_task(job: DecodeJob, task: Task) -> TaskResult:
    """Run one task in this process: the function that executors call.

    Raises:
        PageDecodeError: A page does not decode (without salvage); the lowest frame of the task.
        InputError, OutputError: I/O.
        CodecUnavailable: No library.
    """
    result = job.worker().run(task)
    if job.sink is not None:
        job.sink.settle()
    return result


class Worker:
    """One thread's buffers and the loop over a task."""

    def __init__(self, job: DecodeJob) -> None:
        self._job = job
        self.rows = PageRows(job.page_size, job.capacity, with_pfn=job.digest)
        self._stored = memoryview(bytearray(2 * job.capacity * job.page_size))
        self._joined = (
            np.empty((job.capacity, job.page_size), np.uint8) if job.digest and job.page_size <= 65536 else None
        )
        self._units = Worker(self._unit_job()) if job.unit_pages > 1 else None
        self._hasher: LeafHasher | None = LeafHasher() if job.digest else None
        self.nr_checked = 0

    def _unit_job(self) -> DecodeJob:
        # the same files seen in units: what is compressed together is one page to it
        job = self._job
        size = job.page_size * job.unit_pages
        return DecodeJob(
            f"{job.key}/units", job.sources, size, salvage=job.salvage, batch_bytes=job.capacity * job.page_size
        )

    def run(self, task: Task) -> TaskResult:
        """Run one task; see `run_task`."""
        job, result = self._job, TaskResult(task.index)
        self.nr_checked = 0
        chunks: list[bytes] = []
        rows: list[NDArray[Any]] = []
        if self._hasher is not None:
            self._hasher.reset()
        for extents, row_of in sub_batches(task.extents, job.capacity, job.page_size):
            pfns, damage = self.fill(extents, row_of)
            if damage and not job.salvage:
                raise self._error(damage[0])
            result.damage += damage
            if not result.nr_pages:
                result.first_pfn = int(pfns[0])
            result.nr_pages += len(pfns)
            if self._hasher is not None:
                self.rows.set_pfns(pfns)
                self._hasher.update(self.rows.hashable(len(pfns)))
            zero = self.rows.is_zero(len(pfns))
            result.nr_zero += int(zero.sum())
            if job.encoder is not None:
                rows.append(self._encode(job.encoder, task, pfns, zero, result, chunks))
            elif job.sink is not None and task.out is not None:
                self._write(task.out, pfns, zero)
            elif job.payload:
                chunks.append(self.rows.pages[: len(pfns)].tobytes())
        if self._hasher is not None:
            result.leaf = self._hasher.digest()
        result.nr_checked = self.nr_checked
        result.payload = b"".join(chunks) if job.payload else None
        result.rows = np.concatenate(rows) if rows else result.rows
        result.quirks = dict(codecs.take_quirks())
        return result

    def _encode(
        self,
        encoder: Encoder,
        task: Task,
        pfns: U64,
        zero: NDArray[np.bool_],
        result: TaskResult,
        chunks: list[bytes],
    ) -> NDArray[Any]:
        # what the encoder makes of the rows goes to the task's scratch space, or into the result
        pieces, rows = encoder.encode(pfns, self.rows.views[: len(pfns)], zero)
        encoded = b"".join(pieces)
        if self._job.sink is not None and task.scratch is not None:
            self._job.sink.write([memoryview(encoded)], task.scratch + result.size)
        else:
            chunks.append(encoded)
        result.size += len(encoded)
        return rows

    def _error(self, damage: Damage) -> PageDecodeError | TruncatedDump:
        kind = TruncatedDump if damage.state == PageState.LOST else PageDecodeError
        return kind(
            damage.reason,
            path=self._job.sources[damage.file].name,
            offset=damage.offset,
            pfn=damage.pfn,
            hint="use --salvage for the other pages",
        )

    def _write(self, out: tuple[U64, U64], pfns: U64, zero: NDArray[np.bool_]) -> None:
        if self._job.sink is None:
            return
        start, offset = out
        first, last, count = int(pfns[0]), int(pfns[-1]), len(pfns)
        if last - first == count - 1 and not zero.any():
            run = int(np.searchsorted(start, pfns[0], side="right")) - 1
            if run + 1 == len(start) or int(start[run + 1]) > last:  # the usual case: one piece
                at = int(offset[run]) + (first - int(start[run])) * self._job.page_size
                self._job.sink.write(self.rows.span(0, count), at)
                return
        self._write_pieces(self._job.sink, out, pfns, zero)

    def _write_pieces(self, sink: FileSink, out: tuple[U64, U64], pfns: U64, zero: NDArray[np.bool_]) -> None:
        start, offset = out
        run = np.searchsorted(start, pfns, side="right") - 1
        at = offset[run] + (pfns - start[run]) * np.uint64(self._job.page_size)
        keep = np.flatnonzero(~zero)
        if not len(keep):
            return
        jump = keep[1:] - keep[:-1]
        straight = at[keep[1:]] - at[keep[:-1]] == (jump * self._job.page_size).astype(np.uint64)
        edge = np.flatnonzero((jump > _BRIDGE_PAGES) | ~straight) + 1
        lows = keep[np.concatenate([[0], edge])].tolist()
        highs = (keep[np.concatenate([edge - 1, [len(keep) - 1]])] + 1).tolist()
        for low, high in zip(lows, highs, strict=True):
            sink.write(self.rows.span(low, high), int(at[low]))

    # -- filling rows -----------------------------------------------------------------------------------------

    def fill(self, extents: NDArray[Any], row_of: NDArray[np.int64]) -> tuple[U64, list[Damage]]:
        """Decode one sub-batch into the rows.

        Returns:
            The frame of each row, and the frames that could not be had (their rows are zero).

        Raises:
            InputError: Stored bytes cannot be read (without salvage).
        """
        try:
            return self._fill(extents, row_of)
        except (PageDecodeError, InputError) as error:  # the first of a source that decodes as it is read
            if isinstance(error, InputError) and not self._job.salvage:
                raise
            return self._fill_careful(extents, row_of)

    def _fill_careful(self, extents: NDArray[Any], row_of: NDArray[np.int64]) -> tuple[U64, list[Damage]]:
        # Frame by frame, since some bytes cannot be had: what cannot be read is lost, what does not decode damaged.
        damage: list[Damage] = []
        for row, (table, _) in enumerate(sub_batches(extents, 1, self._job.page_size)):
            try:
                damage += self._fill(table, np.full(len(table), row, np.int64))[1]
            except (PageDecodeError, InputError) as error:
                if (lost := isinstance(error, InputError)) and not (self._job.salvage or damage):
                    raise
                pfn, file, offset = (int(table[name][0]) for name in ("start_pfn", "file", "offset"))
                state = PageState.LOST if lost else PageState.DAMAGED
                damage.append(Damage(pfn, state, error.message, file, error.offset or offset))
                self.rows.pages[row] = 0
        return self._frames(extents, row_of), damage

    def _fill(self, extents: NDArray[Any], row_of: NDArray[np.int64]) -> tuple[U64, list[Damage]]:
        if self._units is not None:
            return self._fill_units(self._units, extents, row_of)
        codec = extents["codec"]
        if extents["nr_pages"].max() == 1 and len(row_of) == int(row_of[-1]) + 1:
            pfns: U64 = np.ascontiguousarray(extents["start_pfn"])
            if int(codec[0]) not in _NOT_COMPRESSED and bool((codec == codec[0]).all()):
                damage: list[Damage] = []
                self._fill_codec(int(codec[0]), extents, self._load(extents), row_of, damage)
                return pfns, damage
        else:
            pfns = self._frames(extents, row_of)
        damage = []
        if (codec == codecs.RAW).all():
            self._fill_raw(extents, row_of)
            return pfns, damage
        for value in distinct(codec):
            if value in (codecs.ZERO, codecs.BAD):
                mask = codec == value
                self._clear(extents[mask], row_of[mask])
                if value == codecs.BAD:
                    damage += self._table_damage(extents[mask])
        self._fill_stored(extents, row_of, damage)
        damage.sort(key=lambda each: each.pfn)
        return pfns, damage

    def _fill_units(self, units: Worker, extents: NDArray[Any], row_of: NDArray[np.int64]) -> tuple[U64, list[Damage]]:
        unit = self._job.unit_pages
        table = extents.copy()
        table["start_pfn"] //= np.uint64(unit)
        table["nr_pages"] //= unit
        numbers, damage = units.fill(table, row_of // unit)
        count = len(numbers) * unit
        self.rows.pages[:count] = units.rows.pages[: len(numbers)].reshape(count, self._job.page_size)
        pfns: U64 = np.repeat(numbers * np.uint64(unit), unit)
        pfns += np.tile(np.arange(unit, dtype=np.uint64), len(numbers))
        return pfns, [each._replace(pfn=each.pfn * unit + page) for each in damage for page in range(unit)]

    @staticmethod
    def _frames(extents: NDArray[Any], row_of: NDArray[np.int64]) -> U64:
        count = int(row_of[-1]) + int(extents["nr_pages"][-1])
        pfns = np.empty(count, np.uint64)
        one = extents["nr_pages"] == 1
        pfns[row_of[one]] = extents["start_pfn"][one]
        for index in np.flatnonzero(~one).tolist():
            row, pages, first = int(row_of[index]), int(extents["nr_pages"][index]), int(extents["start_pfn"][index])
            pfns[row : row + pages] = np.arange(first, first + pages, dtype=np.uint64)
        return pfns

    def _clear(self, extents: NDArray[Any], row_of: NDArray[np.int64]) -> None:
        for row, pages in zip(row_of.tolist(), extents["nr_pages"].tolist(), strict=True):
            self.rows.pages[row : row + pages] = 0

    def _table_damage(self, extents: NDArray[Any]) -> list[Damage]:
        found = []
        for row in extents:
            _, text, state = codecs.REASONS[int(row["page_offset"])]
            offset, size = int(row["offset"]), int(row["stored_size"])
            reason = text.format(offset=offset, size=size)
            found.append(Damage(int(row["start_pfn"]), state, reason, int(row["file"]), offset))
        return found

    def _read(self, file: int, views: list[memoryview], offset: int) -> None:
        source = self._job.sources[file]
        wanted = sum(len(view) for view in views)
        if source.preadv(views, offset) != wanted:
            raise InputError(
                f"{wanted} bytes were there when the job began and are not now: the file shrank while it was read",
                path=source.name,
                offset=offset,
            )

    def _fill_raw(self, extents: NDArray[Any], row_of: NDArray[np.int64]) -> None:
        page_size = self._job.page_size
        size = extents["stored_size"]
        partial = size != extents["nr_pages"].astype(np.uint64) * np.uint64(page_size)
        if partial.any():
            self._clear(extents[partial], row_of[partial])
            self._fill_partial(extents[partial], row_of[partial])
            extents, row_of, size = extents[~partial], row_of[~partial], size[~partial]
            if not len(extents):
                return
        follows = (
            (extents["file"][1:] == extents["file"][:-1])
            & (extents["offset"][1:] == extents["offset"][:-1] + size[:-1])
            & (row_of[1:] == row_of[:-1] + extents["nr_pages"][:-1])
        )
        edge = np.flatnonzero(~follows) + 1
        first = np.concatenate([[0], edge])
        last = np.concatenate([edge, [len(extents)]]) - 1
        lows = row_of[first].tolist()
        highs = (row_of[last] + extents["nr_pages"][last]).tolist()
        offsets, files = extents["offset"][first].tolist(), extents["file"][first].tolist()
        for low, high, offset, file in zip(lows, highs, offsets, files, strict=True):
            self._read(file, self.rows.span(low, high), offset)

    def _fill_partial(self, extents: NDArray[Any], row_of: NDArray[np.int64]) -> None:
        for extent, row in zip(extents, row_of.tolist(), strict=True):
            start, size = int(extent["page_offset"]), int(extent["stored_size"])
            self._read(int(extent["file"]), [self.rows.views[row][start : start + size]], int(extent["offset"]))

    def _fill_stored(self, extents: NDArray[Any], row_of: NDArray[np.int64], damage: list[Damage]) -> None:
        # Mixed and compressed pages: read all stored bytes in few reads, then decode codec by codec.
        wanted = (extents["codec"] != codecs.BAD) & (extents["codec"] != codecs.ZERO)
        extents, row_of = extents[wanted], row_of[wanted]
        multi = (extents["codec"] == codecs.RAW) & (extents["stored_size"] != np.uint64(self._job.page_size))
        if multi.any():
            self._fill_raw(extents[multi], row_of[multi])
            extents, row_of = extents[~multi], row_of[~multi]
        if not len(extents):
            return
        places = self._load(extents)
        for codec in distinct(extents["codec"]):
            mask = extents["codec"] == codec
            if codec == codecs.RAW:
                self._copy_raw(places[mask], row_of[mask])
            else:
                self._fill_codec(codec, extents[mask], places[mask], row_of[mask], damage)

    def _fill_codec(
        self,
        codec: int,
        extents: NDArray[Any],
        places: NDArray[np.int64],
        row_of: NDArray[np.int64],
        damage: list[Damage],
    ) -> None:
        if codec == codecs.ZSTD and self._job.count_checked:
            # bit 2 of the frame header descriptor, RFC 8878, 3.1.1.1
            flags = np.frombuffer(self._stored, np.uint8)[np.minimum(places + 4, len(self._stored) - 1)]
            self.nr_checked += int(np.count_nonzero(flags & 4))
        for index in self._decode(codec, places, extents["stored_size"].astype(np.int64), row_of):
            damage.append(self._decode_damage(codec, extents[index], int(places[index])))
            self.rows.pages[int(row_of[index])] = 0

    def _decode_damage(self, codec: int, extent: NDArray[Any], place: int) -> Damage:
        size = int(extent["stored_size"])
        try:
            codecs.decode_page(codec, bytes(self._stored[place : place + size]), self._job.page_size)
            reason = f"{codecs.CODEC_NAMES[codec]}: does not decode"
        except ValueError as error:
            reason = str(error)
        file, offset = int(extent["file"]), int(extent["offset"])
        return Damage(int(extent["start_pfn"]), PageState.DAMAGED, f"page of {size} bytes: {reason}", file, offset)

    def _load(self, extents: NDArray[Any]) -> NDArray[np.int64]:
        # Read clusters of stored bytes that lie close together; return where each extent's bytes are now.
        offset, size = extents["offset"].astype(np.int64), extents["stored_size"].astype(np.int64)
        file = extents["file"]
        if bool((offset[1:] == offset[:-1] + size[:-1]).all()) and bool((file == file[0]).all()):
            total = int(offset[-1] + size[-1] - offset[0])  # back to back, as writers do it: one read
            if total <= len(self._stored):
                self._read(int(file[0]), [self._stored[:total]], int(offset[0]))
                return np.asarray(offset - offset[0], np.int64)
        order = np.lexsort((offset, extents["file"]))
        low, high = offset[order], (offset + size)[order]
        file = extents["file"][order]
        reach = np.maximum.accumulate(high)
        new = np.ones(len(order), bool)
        new[1:] = (low[1:] > reach[:-1] + _CLUSTER_GAP) | (file[1:] != file[:-1])
        if len(self._job.sources) > 1:
            # a running maximum across files is wrong: restart it in each cluster
            reach = _reach_by_file(high, file)
            new[1:] = (low[1:] > reach[:-1] + _CLUSTER_GAP) | (file[1:] != file[:-1])
        first = np.flatnonzero(new)
        start = low[first]
        stop = reach[np.append(first[1:], len(order)) - 1]
        base = np.concatenate([[0], np.cumsum(stop - start)])
        if int(base[-1]) > len(self._stored):
            self._stored = memoryview(bytearray(int(base[-1])))
        for number, (begin, end, at) in enumerate(zip(start.tolist(), stop.tolist(), base.tolist(), strict=False)):
            self._read(int(file[first[number]]), [self._stored[at : at + end - begin]], begin)
        cluster = np.cumsum(new) - 1
        places = np.empty(len(order), np.int64)
        places[order] = low - start[cluster] + base[cluster]
        return places

    def _copy_raw(self, places: NDArray[np.int64], row_of: NDArray[np.int64]) -> None:
        page_size = self._job.page_size
        stored = np.frombuffer(self._stored, np.uint8)
        follows = (places[1:] == places[:-1] + page_size) & (row_of[1:] == row_of[:-1] + 1)
        edge = np.flatnonzero(~follows) + 1
        lows, highs = np.concatenate([[0], edge]).tolist(), np.concatenate([edge, [len(places)]]).tolist()
        at, rows = places.tolist(), row_of.tolist()
        for low, high in zip(lows, highs, strict=True):
            count = high - low
            block = stored[at[low] : at[low] + count * page_size].reshape(count, page_size)
            self.rows.pages[rows[low] : rows[low] + count] = block

    def _decode(
        self, codec: int, places: NDArray[np.int64], sizes: NDArray[np.int64], row_of: NDArray[np.int64]
    ) -> list[int]:
        if codec == codecs.ZSTD and self._decode_joined(places, sizes, row_of):
            return []
        low, high = int(row_of[0]), int(row_of[-1]) + 1
        if high - low == len(row_of):
            views = self.rows.views[low:high]
        else:
            views = [self.rows.views[row] for row in row_of.tolist()]
        return fastcodecs.decode_batch(codec, self._stored, places.tolist(), (places + sizes).tolist(), views)

    def _decode_joined(self, places: NDArray[np.int64], sizes: NDArray[np.int64], row_of: NDArray[np.int64]) -> bool:
        # Adjacent zstd frames in one call (7.8 against 9.3 us a page). False: decode page by page.
        count = len(places)
        contiguous_rows = int(row_of[-1]) - int(row_of[0]) == count - 1
        if count < 32 or not contiguous_rows or bool((places[1:] != places[:-1] + sizes[:-1]).any()):
            return False
        stored = np.frombuffer(self._stored, np.uint8)
        if not fastcodecs.zstd_frames_are_pages(stored, places, sizes, self._job.page_size):
            return False
        span = self._stored[int(places[0]) : int(places[-1] + sizes[-1])]
        low, high = int(row_of[0]), int(row_of[0]) + count
        if self.rows.contiguous:
            return fastcodecs.zstd_joined(span, self.rows.span(low, high)[0])
        if self._joined is None:
            return False
        target = self._joined[:count]
        if not fastcodecs.zstd_joined(span, page_view(target)):
            return False
        self.rows.pages[low:high] = target
        return True


def _reach_by_file(high: NDArray[np.int64], file: NDArray[np.uint16]) -> NDArray[np.int64]:
    reach = np.empty_like(high)
    for value in distinct(file):
        mask = file == value
        reach[mask] = np.maximum.accumulate(high[mask])
    return reach
