# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel log in every era's buffer, from VMCOREINFO's keys alone. Source: docs/analyze.md, "log".

5.10 and later   printk_ringbuffer: descriptors, infos, text blocks
3.5 to 5.9       records {ts_nsec, len, text_len, dict_len, ...} in one ring
before           a ring of characters with <n> level marks
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

from ..formats.errors import DumpError
from ..formats.vmcoreinfo import VmcoreInfo
from .errors import MissingTable, Unreadable
from .memory import KernelMemory
from .record_chain import Heads, resume

__all__ = ["Record", "level_mark", "line_record", "read_log", "render"]

_MAX_RECORDS = 1 << 24
_MAX_RING = 1 << 30
_TIME = re.compile(rb"\[ *([0-9]{1,9})\.([0-9]{6})\] ")
# how the kernel's end begins, the surest first: without "- not syncing" in 2.4 and the first 2.6
_ENDS = (
    b"Kernel panic - not syncing: ", b"Kernel panic: ", b"BUG: ", b"kernel BUG at ", b"Oops: ",
    b"sysrq: Trigger a crash", b"Unable to handle",
)  # fmt: skip
_MAX_HOLED = 1 << 26  # bytes of a ring with holes: kernels allow 32 MiB
_MAX_UNUSED = 4096  # bytes at a ring's end that a record did not fit into: one has about 1 KiB at most


class Record(NamedTuple):
    """One record.

    Attributes:
        ns: Nanoseconds since boot, None where the buffer has no times of its own.
        level: 0 (emergency) to 7 (debug), None where it is not known.
        facility: syslog's, None likewise.
        text: As logged, without the newline at its end.
        sequence: Number of the record, -1 where the buffer does not count.
    """

    ns: int | None
    level: int | None
    facility: int | None
    text: bytes
    sequence: int = -1


def read_log(memory: KernelMemory, info: VmcoreInfo, complaints: list[str] | None = None) -> list[Record]:
    """Return the records in order.

    Args:
        memory: The kernel's.
        info: Says where the log is.
        complaints: Takes what of the log cannot be read, and the rest is returned; None: it must be whole.

    Raises:
        MissingTable: VMCOREINFO does not say where the log is, or the buffer makes no sense.
        Unreadable: It is not in the dump.
    """
    eras = {"prb": _printk_ringbuffer, "log_next_idx": _records, "log_end": _characters}
    era = next((eras[key] for key in eras if info.symbol(key) is not None), None)
    if era is None:
        raise MissingTable("VMCOREINFO has no key of the kernel log")
    records: list[Record] = []
    failed: list[DumpError] = []
    for each in era(memory, info):
        if isinstance(each, Record):
            records.append(each)
        elif complaints is None:
            raise each
        else:
            failed.append(each)
    if failed and not records:
        raise failed[0]
    if failed and complaints is not None:
        what = "a part" if len(failed) == 1 else f"{len(failed)} parts"
        complaints.append(f"{what} of the log cannot be read: {failed[0].message}")
    return records


def _offset(info: VmcoreInfo, name: str) -> int:
    value = info.offset_of(name)
    if value is None or not 0 <= value < 1 << 16:
        raise MissingTable(f"VMCOREINFO does not give OFFSET({name})")
    return value


def _size(info: VmcoreInfo, name: str) -> int:
    value = info.size_of(name)
    if value is None or not 0 < value < 1 << 16:
        raise MissingTable(f"VMCOREINFO does not give SIZE({name})")
    return value


def _symbol(info: VmcoreInfo, name: str) -> int:
    value = info.symbol(name)
    if value is None:
        raise MissingTable(f"VMCOREINFO does not give SYMBOL({name})")
    return value


class _Whole:
    # A ring read at once where all of its pages are there, else piece by piece.

    def __init__(self, memory: KernelMemory, address: int, size: int) -> None:
        self._memory, self._address, self._size = memory, address, size
        self._holed: bytes | None = None
        try:
            self._bytes: bytes | None = memory.read(address, size)
        except Unreadable:
            self._bytes = None

    def get(self, offset: int, size: int) -> bytes:
        if self._bytes is not None:
            return self._bytes[offset : offset + size]
        return self._memory.read(self._address + offset, size)

    def sparse(self) -> bytes:
        """Return all of it, zeros where it cannot be read; nothing where it is too long to be true."""
        if self._bytes is None and self._holed is None:
            self._holed = self._memory.read_sparse(self._address, self._size)[0] if self._size <= _MAX_HOLED else b""
        return self._bytes or self._holed or b""


# Each era's reader yields records, and an error in the place of one that cannot be read. Without a ring it raises.


def _printk_ringbuffer(memory: KernelMemory, info: VmcoreInfo) -> Iterator[Record | DumpError]:
    ring = memory.pointer(_symbol(info, "prb"))
    descs = ring + _offset(info, "printk_ringbuffer.desc_ring")
    texts = ring + _offset(info, "printk_ringbuffer.text_data_ring")
    bits = memory.u32(descs + _offset(info, "prb_desc_ring.count_bits"))
    size_bits = memory.u32(texts + _offset(info, "prb_data_ring.size_bits"))
    if not 0 < bits <= 24 or not 0 < size_bits <= 30:
        raise MissingTable(f"log ring of 2**{bits} records and 2**{size_bits} bytes")
    count, size, word = 1 << bits, 1 << size_bits, memory.word
    desc_size, info_size = _size(info, "prb_desc"), _size(info, "printk_info")
    counter = info.offset_of("atomic_long_t.counter") or 0
    tail = memory.pointer(descs + _offset(info, "prb_desc_ring.tail_id") + counter)
    head = memory.pointer(descs + _offset(info, "prb_desc_ring.head_id") + counter)
    states = _Whole(memory, memory.pointer(descs + _offset(info, "prb_desc_ring.descs")), count * desc_size)
    infos = _Whole(memory, memory.pointer(descs + _offset(info, "prb_desc_ring.infos")), count * info_size)
    data = _Whole(memory, memory.pointer(texts + _offset(info, "prb_data_ring.data")), size)
    at_state = _offset(info, "prb_desc.state_var") + counter
    at_block = _offset(info, "prb_desc.text_blk_lpos")
    at_begin = at_block + _offset(info, "prb_data_blk_lpos.begin")
    at_next = at_block + _offset(info, "prb_data_blk_lpos.next")
    at_seq, at_ns = _offset(info, "printk_info.seq"), _offset(info, "printk_info.ts_nsec")
    at_length = _offset(info, "printk_info.text_len")
    little = memory.physical.machine.byteorder == "little"
    order, mark = ("little", "<") if little else ("big", ">")
    u64, u16 = struct.Struct(mark + "Q"), struct.Struct(mark + "H")
    mask = (1 << 8 * word - 2) - 1

    def integer(raw: bytes, at: int) -> int:
        return int.from_bytes(raw[at : at + word], order)  # type: ignore[arg-type]

    def record(identity: int) -> Record | None:
        slot = identity & count - 1
        desc = states.get(slot * desc_size, desc_size)
        state = integer(desc, at_state)
        if state >> 8 * word - 2 not in (1, 2) or state & mask != identity:
            return None  # being written, or of another lap
        begin, following = integer(desc, at_begin), integer(desc, at_next)
        head_info = infos.get(slot * info_size, info_size)
        length = u16.unpack_from(head_info, at_length)[0]
        text = _block(data, begin, following, size, word, length)
        flags = head_info[at_length + 3]
        level = flags >> 5 if little else flags & 7
        sequence, ns = u64.unpack_from(head_info, at_seq)[0], u64.unpack_from(head_info, at_ns)[0]
        return Record(ns, level, head_info[at_length + 2], text, sequence)

    identity = tail & mask
    for _ in range(count):
        try:
            found: Record | DumpError | None = record(identity)
        except Unreadable as error:
            found = error
        if found is not None:
            yield found
        if identity == head & mask:
            return
        identity = identity + 1 & mask


def _block(data: _Whole, begin: int, following: int, size: int, word: int, length: int) -> bytes:
    # the text of a record: begin and following are logical positions, equal laps lie together
    if begin & 1 and following & 1:
        return b""
    start, end = begin % size, following % size
    if begin // size != following // size and end != 0:
        start = 0  # a block that would not fit at the ring's end starts at its front
    elif end == 0 and following:
        end = size
    if end <= start + word:
        return b""
    return data.get(start + word, min(length, end - start - word))


def _ring_of_records(memory: KernelMemory, info: VmcoreInfo) -> tuple[_Whole, int, Heads]:
    name = "printk_log" if info.size_of("printk_log") is not None else "log"
    head = _size(info, name)
    at_ns, at_len, at_text = (_offset(info, f"{name}.{each}") for each in ("ts_nsec", "len", "text_len"))
    if max(at_ns + 8, at_len + 2, at_text + 4) > head:
        raise MissingTable(f"log records whose heads have {head} bytes, and fields behind them")
    buffer = memory.pointer(_symbol(info, "log_buf"))
    size = memory.u32(_symbol(info, "log_buf_len"))
    if not head <= size <= _MAX_RING:
        raise MissingTable(f"log buffer of {size} bytes")
    mark = "<" if memory.physical.machine.byteorder == "little" else ">"
    return _Whole(memory, buffer, size), size, Heads(mark, head, at_ns, at_len, at_text)


def _records(memory: KernelMemory, info: VmcoreInfo) -> Iterator[Record | DumpError]:
    ring, size, heads = _ring_of_records(memory, info)
    index, stop = memory.u32(_symbol(info, "log_first_idx")), memory.u32(_symbol(info, "log_next_idx"))
    wrapped, since = index <= stop, 0  # they lie in one piece, or go on at the ring's front
    for _ in range(_MAX_RECORDS):
        if index == stop and wrapped:
            return
        end = min(stop, size) if wrapped else size
        try:
            length, record = _one_record(ring, index, end, heads)
            if length == 0 and (wrapped or end - index > _MAX_UNUSED):
                raise MissingTable(f"log record at {index:#x} of length 0, and more is to come")
        except DumpError as error:  # where the next one begins is not known
            behind = resume(ring.sparse(), index + 1, end, heads, since, wraps=not wrapped)
            yield _gap(error, index, end if behind is None else behind)
            if behind is None and wrapped:
                return
            index, wrapped = (0, True) if behind is None else (behind, wrapped)
            continue
        if record is None:  # the rest of the ring is unused
            index, wrapped = 0, True
            continue
        if isinstance(record, Record):
            since = record.ns or since
        yield record
        index += length
        if index + heads.size > size and not wrapped:
            index, wrapped = 0, True


def _one_record(ring: _Whole, index: int, end: int, heads: Heads) -> tuple[int, Record | DumpError | None]:
    # its length, and what of it can be had: None where the length is 0
    if index + heads.size > end:
        raise MissingTable(f"log record at {index:#x} of records that end at {end:#x}")
    raw = ring.get(index, heads.size)
    length = struct.unpack_from(heads.mark + "H", raw, heads.length)[0]
    if length == 0:
        return 0, None
    text_length, more = struct.unpack_from(heads.mark + "HH", raw, heads.text)
    if length < heads.size:
        raise MissingTable(f"log record of {length} bytes, its head alone has {heads.size}")
    if heads.size + text_length + more > length or index + length > end:
        raise MissingTable(f"log record at {index:#x} of {length} bytes does not fit its texts, or what is there")
    at = heads.text + 4
    flags = raw[at + 1] if at + 1 < heads.size else None
    level = None if flags is None else (flags >> 5 if heads.mark == "<" else flags & 7)
    facility = raw[at] if at < heads.size else None
    try:
        text = ring.get(index + heads.size, text_length)
    except Unreadable as error:
        return length, error
    return length, Record(struct.unpack_from(heads.mark + "Q", raw, heads.ns)[0], level, facility, text)


def _gap(error: DumpError, start: int, end: int) -> DumpError:
    # what is told of records that nobody can find
    return MissingTable(f"{error.message}: {max(0, end - start)} bytes of records from {start:#x} of the buffer on")


def _characters(memory: KernelMemory, info: VmcoreInfo) -> Iterator[Record | DumpError]:
    size = memory.u32(_symbol(info, "log_buf_len"))
    if not 0 < size <= _MAX_RING:
        raise MissingTable(f"log buffer of {size} bytes")
    end = memory.u32(_symbol(info, "log_end"))
    logged = info.symbol("logged_chars")
    count = min(end, size, memory.u32(logged) if logged is not None else size)
    address = memory.pointer(_symbol(info, "log_buf"))
    start = (end - count) % size
    raw, missing = b"", []
    for begin, length in ((start, min(count, size - start)), (0, max(0, count - (size - start)))):
        part, holes = memory.read_sparse(address + begin, length)
        missing += [(len(raw) + low - address - begin, len(raw) + high - address - begin, why, low)
                    for low, high, why in holes]  # fmt: skip
        raw += part
    at = 0
    for low, high, why, place in missing:
        yield from _lines_of(raw[at:low])
        yield Unreadable(place, why)
        at = high
    yield from _lines_of(raw[at:])


def _lines_of(raw: bytes) -> Iterator[Record]:
    for line in raw.rstrip(b"\n").split(b"\n") if raw else ():
        yield line_record(line)


def line_record(line: bytes) -> Record:
    """Return a line of a log that is text as a record: with its level, and its time where the kernel put one there."""
    level, text = level_mark(line)
    found = _TIME.match(text)
    if found is None:
        return Record(None, level, None, text)
    ns = int(found[1]) * 10**9 + int(found[2]) * 1000
    return Record(ns, level, None, text[found.end() :]) if _time(ns) == found[0] else Record(None, level, None, text)


def level_mark(line: bytes) -> tuple[int | None, bytes]:
    """Return the level that a line begins with as `<n>`, None without one, and the line without it."""
    if len(line) >= 3 and line[:1] == b"<" and line[2:3] == b">" and line[1:2].isdigit():
        return int(line[1:2]), line[3:]
    return None, line


def _time(ns: int) -> bytes:
    # as vmcore-dmesg prints it, and the kernel itself where it keeps text
    return b"[%5d.%06d] " % (ns // 10**9, ns % 10**9 // 1000)


def render(
    record: Record, *, times: bool = True, boot: float | None = None, level: bool = False, indent: bool = False
) -> bytes:
    """Return a record as vmcore-dmesg prints it: further lines of a record have no time of their own.

    Args:
        record: The record.
        times: With the time.
        boot: Unix time of boot: print wall-clock time.
        level: With the level, as `<n>`.
        indent: Further lines begin below the first one's text, as in crash.
    """
    if record.ns is None or not times:
        prefix = b""
    elif boot is not None:
        from datetime import UTC, datetime

        when = datetime.fromtimestamp(boot + record.ns // 10**9, UTC)
        prefix = b"[" + when.strftime("%a %b %e %H:%M:%S UTC %Y").encode() + b"] "
    else:
        prefix = _time(record.ns)
    if level and record.level is not None:
        prefix += b"<%d>" % record.level
    return prefix + (record.text.replace(b"\n", b"\n" + b" " * len(prefix)) if indent else record.text)


def panic_text(records: list[Record]) -> bytes | None:
    """Return the first line that says why the kernel died."""
    for mark in _ENDS:
        for record in records:
            if mark in record.text:
                return record.text.split(b"\n")[0]
    return None
