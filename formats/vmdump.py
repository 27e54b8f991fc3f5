# SPDX-License-Identifier: GPL-2.0-or-later
"""VMDUMP of z/VM, the big 64-bit form: EBCDIC text, records of 4096 bytes, one key byte for each page.

    1            symptom record               8, or as the map says   access list
    2            map of the records           9                       address space: sizes and ranges
    3 to 7       registers                    10 and on               index and bit-key pages, then stored pages

An index page has a bit for each 16 MiB; for a set one a bit-key page follows, with a byte for each page of the 16 MiB:
bit 0x01 says that the page is stored. Stored pages lie in the order of their addresses; the others are zeros.

Sheet: docs/formats/vmdump.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar

import numpy as np
from construct import Array, Bytes, Padding, Struct
from numpy.typing import NDArray

from . import codecs
from .errors import CorruptDump, TruncatedDump, UnsupportedDump
from .intervals import subtract, union
from .machine import ARCHITECTURES, Machine
from .pages import EXTENT, MemoryMap, PageState
from .reader import DumpReader, Ints, Options, parse
from .s390_layout import MAX_STORAGE, PAGE_SIZE, tod_to_unix
from .s390_registers import CpuState, cpu_notes
from .s390_storage import look_into_storage, storage_of
from .source import ByteSource

__all__ = ["VmdumpReader"]

_ADSR_ID, _VMDUMP = b"\xe2\xd9", bytes.fromhex("e5d4c4e4d4d74040")  # SR, VMDUMP in EBCDIC
_FMBK_ID = bytes.fromhex("c8c3d7c4c6d4c2d2")  # HCPDFMBK
_ALBK_ID = bytes.fromhex("c8c3d7c4c1d3c2d2")  # HCPDALBK
_ASIZBK_ID = bytes.fromhex("c1e2c9e9c2d24040")  # ASIZBK
_FIR_SIZE, _OTHER_SIZE = 1104, 552
_FIR_FORMAT = 187
_BIG, _CLASSIC, _ESA = 0x02, 0x82, 0x00
_BLOCK_PAGES = 4096  # pages of which one bit-key page tells
_BITS = 8 * PAGE_SIZE  # of an index page
_STORED = 0x01
_INTS = Ints("big", 8)
U64 = NDArray[np.uint64]


@cache
def map_record() -> Struct:
    """Schema of the FMBK: where the records are, counted from 1."""
    return Struct(
        "id" / Bytes(8),  # 0
        "rec_nr_fir" / _INTS.u32,  # 8
        "rec_nr_vector" / _INTS.u32,  # 12
        "rec_nr_access" / _INTS.u32,  # 16
        "num_acc_recs" / _INTS.u32,  # 20
        "num_addr_spaces" / _INTS.u32,  # 24
        "rec_nr_asibk" / _INTS.u32,  # 28
    )


@cache
def first_cpu() -> Struct:
    """Schema of the FIR of 64 bits: the machine and its first CPU, 1104 bytes; clocks are not aligned."""
    return Struct(
        "id" / Bytes(8),  # 0
        Padding(8),
        "gprs" / Bytes(128),  # 16
        "prefix" / _INTS.u32,  # 144
        Padding(5),
        "tod" / _INTS.u64,  # 153
        Padding(8),
        "cpu_timer" / Bytes(8),  # 169
        Padding(10),
        "fir_format" / Bytes(1),  # 187
        Padding(4),
        "psw" / Bytes(16),  # 192
        "crs" / Bytes(128),  # 208
        "fprs" / Bytes(128),  # 336
        Padding(1),
        "clock_cmp" / Bytes(8),  # 465
        Padding(3),
        "tod_prog" / Bytes(4),  # 476
        Padding(80),
        "acrs" / Bytes(64),  # 560
        Padding(16),
        "storage_size" / _INTS.u64,  # 640
        Padding(264),
        "online_cpus" / _INTS.u16,  # 912, besides this one
        "cpu_addr" / _INTS.u16,  # 914
        Padding(52),
        "fpc" / Bytes(4),  # 968
        Padding(132),
    )


@cache
def other_cpu() -> Struct:
    """Schema of each other CPU, 552 bytes."""
    return Struct(
        "cpu_addr" / _INTS.u16,  # 0
        Padding(14),
        "fprs" / Bytes(128),  # 16
        "gprs" / Bytes(128),  # 144
        "psw" / Bytes(16),  # 272
        Padding(8),
        "prefix" / _INTS.u32,  # 296
        "fpc" / Bytes(4),  # 300
        Padding(4),
        "tod_prog" / Bytes(4),  # 308
        "cpu_timer" / Bytes(8),  # 312
        "clock_cmp" / Bytes(8),  # 320
        Padding(8),
        "acrs" / Bytes(64),  # 336
        "crs" / Bytes(128),  # 400
        Padding(24),
    )


@cache
def address_space() -> Struct:
    """Schema of the ASIZBK; ranges are (first byte, last byte)."""
    return Struct(
        "id" / Bytes(8),  # 0
        Padding(43),
        "asizbk_format" / Bytes(1),  # 51
        Padding(12),
        "size_with_dcss" / _INTS.u64,  # 64
        "size_def_store" / _INTS.u64,  # 72
        Padding(136),
        "range_cnt" / _INTS.u32,  # 216
        "dcss_cnt" / _INTS.u32,  # 220
        "online" / Array(16, _INTS.u64),  # 224
        "requested" / Array(128, _INTS.u64),  # 352
    )


class VmdumpReader(DumpReader):
    """A VMDUMP file, as VMUR fetches it.

    Args:
        sources: One file.
        options: See `Options`.

    Raises:
        CorruptDump, TruncatedDump: The records contradict themselves or the file.
        UnsupportedDump: A form of before z/VM 5.2, or another machine was named.
    """

    name: ClassVar[str] = "vmdump"

    def __init__(self, sources: tuple[ByteSource, ...], options: Options) -> None:
        super().__init__(sources)
        self._options = options
        self._source = source = sources[0]
        source.finish()  # the key pages come first, but VMCOREINFO, which goes before all pages, lies in one
        arch = ARCHITECTURES["s390x"]
        if options.machine not in (None, arch.name):
            raise UnsupportedDump(
                f"VMDUMP of format {_BIG:#04x} is of {arch.name}, not {options.machine}", path=source.name
            )
        self.machine = Machine(arch.name, "big", arch.word_size, PAGE_SIZE, arch.e_machine)
        self._records = self._read_map_record()
        self._read_registers()
        self._read_address_space()
        self._read_keys()
        self._build_map()
        look_into_storage(self, storage_of(self, self._nr_pages * PAGE_SIZE))
        self._describe()

    @staticmethod
    def probe(source: ByteSource) -> bool:
        """See `DumpReader.probe`."""
        return source.size >= 64 and source.pread(0, 2) == _ADSR_ID

    # -- records ---------------------------------------------------------------------------------------------

    def _record(self, number: int, identity: bytes, what: str) -> int:
        # the offset of a record that begins with its name
        offset = (number - 1) * PAGE_SIZE
        if number == 0 or offset + PAGE_SIZE > self._source.size:
            kind = CorruptDump if number == 0 else TruncatedDump
            raise kind(
                f"VMDUMP: {what} is said to be record {number}, the file has {self._source.size // PAGE_SIZE}",
                path=self._source.name,
            )
        found = self._source.pread(offset, len(identity))
        if found != identity:
            raise CorruptDump(
                f"VMDUMP: {what} begins with {found.hex(' ')}, not {identity.hex(' ')}",
                path=self._source.name,
                offset=offset,
            )
        return offset

    def _read_map_record(self) -> Any:
        if self._source.size < 64 or self._source.pread(0x38, 8) != _VMDUMP:
            raise CorruptDump("no VMDUMP symptom record", path=self._source.name, offset=0)
        return parse(map_record(), self._source, self._record(2, _FMBK_ID, "the map record (FMBK)"), "FMBK")

    def _read_registers(self) -> None:
        records, source = self._records, self._source
        offset = self._record(records.rec_nr_fir, b"", "the register record (FIR)")
        kind = source.pread(offset + _FIR_FORMAT, 1)[0]
        if kind != _BIG:
            names = {_CLASSIC: "64-bit, before z/VM 5.2", _ESA: "31-bit"}
            raise UnsupportedDump(
                f"VMDUMP of format {kind:#04x} ({names.get(kind, 'unknown')}): only 0x02 (64-bit big) is read",
                path=source.name,
                offset=offset + _FIR_FORMAT,
                hint="vmconvert of s390-tools 2.28 and before makes an LKCD dump of it, which is read",
            )
        first = parse(first_cpu(), source, offset, "FIR")
        self._tod = first.tod
        end = (records.rec_nr_access - 1) * PAGE_SIZE
        others = offset + _FIR_SIZE
        if others + first.online_cpus * _OTHER_SIZE > max(end, others):
            raise CorruptDump(
                f"VMDUMP: {first.online_cpus} further CPUs of {_OTHER_SIZE} bytes at {others:#x} reach past the access "
                f"list at {end:#x}",
                path=source.name,
                offset=offset,
            )
        cpus = [first, *(parse(other_cpu(), source, others + _OTHER_SIZE * n, "CPU") for n in range(first.online_cpus))]
        for number, cpu in enumerate(cpus, 1):
            state = CpuState(
                psw=cpu.psw,
                gprs=cpu.gprs,
                acrs=cpu.acrs,
                ctrs=cpu.crs,
                fprs=cpu.fprs,
                fpc=cpu.fpc,
                prefix=cpu.prefix,
                timer=cpu.cpu_timer,
                todcmp=cpu.clock_cmp,
                todpreg=cpu.tod_prog,
            )
            self.notes += cpu_notes(self.machine.arch, state, number)

    def _read_address_space(self) -> None:
        access = self._record(self._records.rec_nr_access, _ALBK_ID, "the access list (ALBK)")
        offset = self._record(self._records.rec_nr_access + 1, _ASIZBK_ID, "the address space record (ASIZBK)")
        space = self._space = parse(address_space(), self._source, offset, "ASIZBK")
        self._keys_offset = access + 2 * PAGE_SIZE
        if space.range_cnt > 64:
            raise CorruptDump(
                f"VMDUMP: {space.range_cnt} requested ranges, there is room for 64",
                path=self._source.name,
                offset=offset + 216,
            )
        self._requested = _ranges(space.requested[: 2 * space.range_cnt])
        end = int(self._requested[1].max()) if len(self._requested[1]) else space.size_def_store
        if not 0 < end <= MAX_STORAGE or end % PAGE_SIZE:
            raise CorruptDump(
                f"VMDUMP: storage up to {end:#x} is not in whole pages, or more than {MAX_STORAGE:#x}",
                path=self._source.name,
                offset=offset,
            )
        self._nr_pages = end // PAGE_SIZE

    # -- which pages are stored ------------------------------------------------------------------------------

    def _read_keys(self) -> None:
        # The blocks that have a bit-key page, where it lies, and how many pages are stored before the block's first.
        nr_blocks = -(-self._nr_pages // _BLOCK_PAGES)
        offset, source = self._keys_offset, self._source
        blocks: list[U64] = []
        places: list[U64] = []
        for first in range(0, nr_blocks, _BITS):
            bits = np.unpackbits(np.frombuffer(self._key_page(offset), np.uint8))
            offset += PAGE_SIZE
            used = np.flatnonzero(bits[: nr_blocks - first]).astype(np.uint64)
            if bits[nr_blocks - first :].any():
                self.remark("index-bits", "an index page has bits behind the end of the storage: ignored")
            blocks.append(used + np.uint64(first))
            places.append(offset + np.arange(len(used), dtype=np.uint64) * np.uint64(PAGE_SIZE))
            offset += len(used) * PAGE_SIZE
            if offset > source.size:
                raise TruncatedDump(
                    f"VMDUMP: bit-key pages end at {offset:#x}, the file has {source.size} bytes", path=source.name
                )
        self._blocks, self._key_places = np.concatenate(blocks), np.concatenate(places)
        self._data_offset = offset
        counts = [int(np.count_nonzero(self._stored(block))) for block in self._blocks.tolist()]
        self._ranks = np.concatenate([np.zeros(1, np.uint64), np.cumsum(np.array(counts, np.uint64), dtype=np.uint64)])
        end = offset + int(self._ranks[-1]) * PAGE_SIZE
        if end > source.size:
            self.damage = TruncatedDump(
                f"VMDUMP: {int(self._ranks[-1])} stored pages at {offset:#x} end at {end:#x}, the file has "
                f"{source.size} bytes",
                path=source.name,
                hint="use --salvage for what is whole",
            )

    def _key_page(self, offset: int) -> bytes:
        if offset + PAGE_SIZE > self._source.size:
            raise TruncatedDump(
                f"VMDUMP: an index page is wanted, the file has {self._source.size} bytes",
                path=self._source.name,
                offset=offset,
            )
        return self._source.pread(offset, PAGE_SIZE)

    def _index(self, block: int) -> int | None:
        index = int(np.searchsorted(self._blocks, np.uint64(block)))
        return index if index < len(self._blocks) and int(self._blocks[index]) == block else None

    def _stored(self, block: int) -> NDArray[np.bool_]:
        # which pages of a block are in the file
        count = min(_BLOCK_PAGES, self._nr_pages - block * _BLOCK_PAGES)
        index = self._index(block)
        if index is None:
            return np.zeros(count, bool)
        return (np.frombuffer(self._source.pread(int(self._key_places[index]), count), np.uint8) & _STORED) != 0  # type: ignore[no-any-return]

    def _build_map(self) -> None:
        # What was requested is there: a page, or zeros. What was not is excluded, where the machine has storage.
        requested = self._requested
        if not len(requested[0]):
            requested = np.zeros(1, np.uint64), np.array([self._nr_pages * PAGE_SIZE], np.uint64)
        online = _ranges(self._space.online)
        excluded = _pages(subtract(*online, *requested), PageState.EXCLUDED)
        self.memory_map = excluded.overlay(_pages(requested, PageState.STORED))
        gaps = subtract(np.zeros(1, np.uint64), np.array([self._nr_pages * PAGE_SIZE], np.uint64), *requested)
        unasked = MemoryMap.from_runs(list(self._unasked(*gaps)))
        if len(unasked):
            self.remark("unasked", f"{unasked.count(PageState.STORED)} pages are stored that nobody requested")
            self.memory_map = self.memory_map.overlay(unasked)

    def _unasked(self, start: U64, end: U64) -> Iterator[tuple[int, int, int]]:
        # stored pages outside of the requested ranges
        for low, high in zip((start // PAGE_SIZE).tolist(), (end // PAGE_SIZE).tolist(), strict=True):
            edges = np.array([low // _BLOCK_PAGES, -(-high // _BLOCK_PAGES)], np.uint64)
            for block in self._blocks[slice(*np.searchsorted(self._blocks, edges).tolist())].tolist():
                first, last, kinds = self._runs(block, low, high)
                for run in np.flatnonzero(kinds).tolist():
                    yield int(first[run]), int(last[run]), int(PageState.STORED)

    def _runs(self, block: int, low: int, high: int) -> tuple[U64, U64, NDArray[np.bool_]]:
        # runs of pages of a block that are stored or are not, clipped to [low, high)
        base = block * _BLOCK_PAGES
        stored = self._stored(block)[max(0, low - base) : max(0, high - base)]
        edges = np.flatnonzero(stored[1:] != stored[:-1]) + 1
        first = np.concatenate([[0], edges]).astype(np.uint64)
        last = np.concatenate([edges, [len(stored)]]).astype(np.uint64)
        return first + np.uint64(max(base, low)), last + np.uint64(max(base, low)), stored[first]

    # -- extents ---------------------------------------------------------------------------------------------

    def extents(self, start_pfn: int, end_pfn: int) -> NDArray[Any]:
        """See `DumpReader.extents`."""
        start, end = self.memory_map.slice(start_pfn, end_pfn).only(PageState.STORED)
        parts = [
            self._block_extents(block, max(low, block * _BLOCK_PAGES), min(high, (block + 1) * _BLOCK_PAGES))
            for low, high in zip(start.tolist(), end.tolist(), strict=True)
            for block in range(low // _BLOCK_PAGES, -(-high // _BLOCK_PAGES))
        ]
        return np.concatenate(parts) if parts else np.empty(0, EXTENT)

    def _block_extents(self, block: int, low: int, high: int) -> NDArray[Any]:
        index = self._index(block)
        if index is None:
            first, last, kinds = np.array([low], np.uint64), np.array([high], np.uint64), np.zeros(1, bool)
        else:
            first, last, kinds = self._runs(block, low, high)
        rows = np.zeros(len(first), EXTENT)
        rows["start_pfn"], rows["nr_pages"] = first, last - first
        rows["stored_size"] = (last - first) * np.uint64(PAGE_SIZE)
        before = int(np.count_nonzero(self._stored(block)[: low - block * _BLOCK_PAGES])) if kinds.any() else 0
        counts = np.where(kinds, last - first, np.uint64(0))
        ranks = self._ranks[index or 0] + np.uint64(before) + np.cumsum(counts, dtype=np.uint64) - counts
        rows["offset"] = np.where(kinds, np.uint64(self._data_offset) + ranks * np.uint64(PAGE_SIZE), np.uint64(0))
        rows["codec"] = np.where(kinds, codecs.RAW, codecs.ZERO)
        beyond = kinds & (rows["offset"] + rows["stored_size"] > np.uint64(self._source.size))
        if self._source.damage is not None:
            beyond |= kinds & ~self._source.covered(rows["offset"], rows["stored_size"])
        return self._cut(rows, beyond) if beyond.any() else rows

    def _cut(self, rows: NDArray[Any], beyond: NDArray[np.bool_]) -> NDArray[Any]:
        # extents that reach past the end, page by page
        repeat = np.where(beyond, rows["nr_pages"], 1).astype(np.int64)
        table = np.repeat(rows, repeat)
        number = (np.arange(len(table)) - np.repeat(np.cumsum(repeat) - repeat, repeat)).astype(np.uint64)
        split = np.repeat(beyond, repeat)
        table["start_pfn"] += number
        table["offset"] += number * np.uint64(PAGE_SIZE)
        table["nr_pages"][split] = 1
        table["stored_size"][split] = PAGE_SIZE
        gone = split & (table["offset"] + table["stored_size"] > np.uint64(self._source.size))
        if self._source.damage is not None:
            gone |= split & ~self._source.covered(table["offset"], table["stored_size"])
        table["codec"][gone] = codecs.BAD
        table["page_offset"][gone] = codecs.REASON_CODES["past_end"]
        return table

    def _describe(self) -> None:
        space = self._space
        self.facts = {
            "fir_format": _BIG,
            "created_us": tod_to_unix(self._tod),
            "size_def_store": space.size_def_store,
            "requested_ranges": space.range_cnt,
            "dcss": space.dcss_cnt,
            "stored_pages": int(self._ranks[-1]),
        }
        if self._records.rec_nr_vector:
            self.remark("vectors", f"vector registers in record {self._records.rec_nr_vector} are not converted")
        zeros = self.memory_map.count(PageState.STORED) - int(self._ranks[-1])
        if zeros > 0:
            self.remark("zero-storage", f"{zeros} requested pages are not in the file: z/VM leaves out pages of zeros")


def _ranges(pairs: list[int]) -> tuple[U64, U64]:
    # sorted, disjoint [start, end) of (first byte, last byte); unused entries are zeros
    table = [(start, end + 1) for start, end in zip(pairs[::2], pairs[1::2], strict=True) if end > start]
    table = [(start & -PAGE_SIZE, min(-(-end // PAGE_SIZE) * PAGE_SIZE, 1 << 63)) for start, end in table]
    start = np.array([min(low, 1 << 63) for low, _ in table], np.uint64)
    return union(start, np.array([high for _, high in table], np.uint64))


def _pages(ranges: tuple[U64, U64], state: PageState) -> MemoryMap:
    start, end = ranges[0] // np.uint64(PAGE_SIZE), ranges[1] // np.uint64(PAGE_SIZE)
    keep = end > start
    return MemoryMap.from_columns(start[keep], end[keep], int(state))
