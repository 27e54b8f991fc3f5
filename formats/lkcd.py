# SPDX-License-Identifier: GPL-2.0-or-later
"""LKCD: Linux Kernel Crash Dump, what SUSE, MCL and IBM kernels and zfcpdump wrote before kdump; versions 1 to 10.

    0        generic header: version, page size, panic string, utsname
    header_size   architecture's header: registers of all CPUs
    D        page records: physical address, size, flags (16 bytes), then the page raw, run-length coded or as a
             zlib stream; in any order. D is 64 KiB, from version 9 on dh_dump_buffer_size.
    ...      a record with the END flag

No table tells which pages there are: the records are walked once. Sheet: docs/formats/lkcd.md.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator
from typing import Any, ClassVar

from numpy.typing import NDArray

from . import codecs
from .errors import CorruptDump, DumpError, TruncatedDump
from .image import DumpImage
from .lkcd_layout import (
    COMPRESS_GZIP,
    COMPRESS_NONE,
    COMPRESS_RLE,
    DP_COMPRESSED,
    DP_END,
    DP_RAW,
    HEADER_SPAN,
    PAGE_HEADER_SIZE,
    Header,
    data_starts,
    find_header,
    read_header,
)
from .lkcd_registers import AsmHeader, lowcore_registers, prstatus_notes, read_asm_header, version1_notes
from .lkcd_scan import Records, scan
from .machine import Machine
from .pages import MemoryMap, PageState
from .reader import DumpReader, Options
from .source import ByteSource
from .vmcoreinfo import printable

__all__ = ["LkcdReader"]

_PAGE_OFFSET_I386 = 0xC0000000
_CODECS = {COMPRESS_NONE: codecs.BAD, COMPRESS_RLE: codecs.RLE, COMPRESS_GZIP: codecs.ZLIB_SLACK}
_METHODS = {COMPRESS_NONE: "none", COMPRESS_RLE: "rle", COMPRESS_GZIP: "gzip"}
_MAX_STORED = 1 << 19  # of a record: 2 * the largest page
_SAMPLE = 16  # records that tell what a record expands to
_TOLD_CPUS = 64
_COPIES = 4096  # of frames, given at a time


def _plausible(source: ByteSource, header: Header, offset: int) -> bool:
    # Whether page records may begin here: with the end of the file, an END, or a page.
    records = Records(source, offset, header.byteorder, 4096, header.page_size, 0, codecs.RAW)
    if offset == source.size:
        return True
    found = records.header_at(offset)
    if found is None:
        return False
    address, size, flags = found
    if flags & DP_END or (address, size, flags) == (0, 4, 0):
        return size in (0, 4)
    kind = flags & (DP_RAW | DP_COMPRESSED)
    if kind == DP_RAW:
        return size == 0 or (4096 <= size <= header.page_size and size & (size - 1) == 0)
    return kind == DP_COMPRESSED and 0 < size <= 2 * header.page_size


class LkcdReader(DumpReader):
    """LKCD dumps, also images of a dump partition.

    Args:
        sources: One file.
        options: See `Options`.

    Raises:
        CorruptDump, TruncatedDump: Headers contradict themselves or the file.
        UnsupportedDump: A version or machine that is not known, or a debug build's file.
    """

    name: ClassVar[str] = "lkcd"

    def __init__(self, sources: tuple[ByteSource, ...], options: Options) -> None:
        super().__init__(sources)
        self._options = options
        self._source = source = sources[0]
        base = find_header(source)
        if base is None:
            raise CorruptDump("no LKCD magic number at the start of the file, nor of a partition", path=source.name)
        self._header = header = read_header(source, base, options.machine, options.page_size)
        source.spool_whole()  # the index needs every record
        start = self._find_start()
        compressed = COMPRESS_RLE if header.compress is None else header.compress
        codec = _CODECS.get(compressed, codecs.BAD)
        unit = self._find_unit(start, codec)
        self._records = Records(
            source, start, header.byteorder, unit, header.page_size, self._base_address(start), codec
        )
        arch = header.arch
        self.machine = Machine(arch.name, header.byteorder, arch.word_size, unit, arch.e_machine)
        self._scan = scan(self._records, salvage=options.salvage)
        self._index = self._scan.index
        self.damage = self.damage or self._scan.damage
        self.memory_map = self._build_map()
        self.incomplete = self._is_incomplete()
        self._asm: AsmHeader | None = None
        self.copies, self.preferred = "records of one frame", "the first ones"
        self._read_registers()
        self._describe(compressed)

    @staticmethod
    def probe(source: ByteSource) -> bool:
        """See `DumpReader.probe`."""
        return find_header(source) is not None

    # -- where the records are and how they read -------------------------------------------------------------------

    def _find_start(self) -> int:
        header, source = self._header, self._source
        claimed = header.base + (header.buffer_size if header.buffer_size is not None else HEADER_SPAN)
        end = header.base + header.size
        places = [header.base + each for each in data_starts(header)]
        possible = [each for each in places if end <= each <= source.size]
        start = next((each for each in possible if _plausible(source, header, each)), None)
        if claimed not in possible:
            error: CorruptDump
            if header.buffer_size is None:
                error = TruncatedDump(
                    f"page records begin at {claimed:#x}, the file ends at {source.size:#x}", path=source.name
                )
            else:
                error = CorruptDump(
                    f"dh_dump_buffer_size {header.buffer_size} does not lie between the header's end {header.size} "
                    f"and the file's {source.size - header.base}",
                    path=source.name,
                    offset=header.base + header.size - 8,
                    hint="use --salvage for what is whole",
                )
            if start is None:
                raise error
            self.damage = error
        if start is None:
            return claimed  # the walk says what is wrong there
        if start != claimed:
            self.remark("data-offset", f"page records begin at {start:#x}, not at {claimed:#x} as the header has it")
        return start

    def _base_address(self, start: int) -> int:
        # i386 kernels of the first version stored virtual addresses; only the very first record can tell
        header = self._header
        first = Records(self._source, start, header.byteorder, 4096, 4096, 0, codecs.RAW).header_at(start)
        if header.version == 1 and header.arch.name == "i386" and first is not None and first[0] == _PAGE_OFFSET_I386:
            self.remark("virtual-addresses", f"records have virtual addresses: {_PAGE_OFFSET_I386:#x} subtracted")
            return _PAGE_OFFSET_I386
        return 0

    def _find_unit(self, start: int, codec: int) -> int:
        # Some ia64 drivers dump 4 KiB at a time whatever the page size. Most of the first records decide.
        header, source = self._header, self._source
        size = header.page_size
        if size == 4096:
            return size
        sizes: Counter[int] = Counter()
        records = Records(source, start, header.byteorder, 4096, size, 0, codec)
        at = start
        for _ in range(_SAMPLE):
            found = records.header_at(at)
            if found is None:
                break
            _, stored, flags = found
            if flags & DP_END or stored > _MAX_STORED or not source.ensure(at, at + PAGE_HEADER_SIZE + stored):
                break
            if flags & DP_RAW:
                sizes[stored] += 1
            else:
                sizes[_decoded_size(source.pread(at + PAGE_HEADER_SIZE, stored), size, codec)] += 1
            at += PAGE_HEADER_SIZE + stored
        units = [each for each in sizes if 4096 <= each <= size and each & (each - 1) == 0]
        unit = max(units, key=lambda each: (sizes[each], each), default=size)
        if unit != size:
            self.remark("record-unit", f"records hold {unit} bytes each, dh_page_size is {size}: frames are of {unit}")
        return unit

    # -- map -------------------------------------------------------------------------------------------------------

    def _build_map(self) -> MemoryMap:
        found = self._scan
        runs = [(pfn, pfn + 1, int(PageState.DAMAGED)) for pfn in sorted(set(found.damaged) - set(found.lost))]
        runs += [(pfn, pfn + 1, int(PageState.LOST)) for pfn in sorted(set(found.lost))]
        bad = MemoryMap.from_runs(runs)
        return bad.overlay(MemoryMap.from_columns(*self._index.runs(), int(PageState.STORED)))

    def _is_incomplete(self) -> bool:
        found, claimed = self._scan, self._header.num_pages
        if found.end in ("truncated", "broken") or found.breaks:
            return True
        if found.end == "eof":
            return found.nr_records != claimed
        # drivers of 2.5 count the END record; the count of a dump that was cut short is too small, not too large
        return found.nr_records < claimed and found.nr_records + 1 != claimed

    def extents(self, start_pfn: int, end_pfn: int) -> NDArray[Any]:
        """See `DumpReader.extents`."""
        return self._index.extents(start_pfn, end_pfn)

    def duplicates(self) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        """See `DumpReader.duplicates`."""
        found = self._index.duplicates
        if found is None:
            return
        for at in range(0, len(found.kept), _COPIES):
            yield found.kept[at : at + _COPIES], found.dropped[at : at + _COPIES]

    # -- registers ---------------------------------------------------------------------------------------------------

    def _read_registers(self) -> None:
        header = self._header
        self.notes = version1_notes(header)
        try:
            asm = read_asm_header(self._source, header, self._records.start)
        except DumpError as error:
            self.remark("asm-header", f"the architecture's header cannot be used: {error}")
            return
        if asm is None:
            if header.version > 1:
                self.remark("no-registers", f"no header of {header.arch.name} with registers behind the main one")
            return
        self._asm = asm
        self.notes = prstatus_notes(asm, header.arch.name, header.byteorder)
        if asm.lowcores:
            self.notes, missing = lowcore_registers(asm, DumpImage(self))
            for text in missing[:4]:
                self.remark("lowcore", text)
        if header.arch.name == "ia64":
            self.remark("no-registers", "ia64: the stored registers lack the stacked ones; no register notes are made")

    # -- description -------------------------------------------------------------------------------------------------

    def _describe(self, compressed: int) -> None:
        header, found, asm = self._header, self._scan, self._asm
        self.facts = {
            "header_version": header.version,
            "utsname": {key: printable(value) for key, value in header.utsname.items()},
            "timestamp": header.time[0],
            "panic_string": header.panic_string,
            "dump_level": header.level,
            "dump_flags": header.flags,
            "compression": _METHODS.get(compressed, f"unknown {compressed}"),
            "live": header.live,
            "modifiers": header.modifiers,
            "page_size": header.page_size,
            "num_pages": header.num_pages,
            "records": found.nr_records,
            "end": found.end,
            "current_task": header.current_task,
            "header_offset": header.base,
            "data_offset": self._records.start - header.base,
            "memory": list(header.memory),
        }
        if asm is not None:
            self.facts |= {
                "asm_version": asm.version,
                "nr_cpus": asm.nr_cpus,
                "dumping_cpu": asm.dumping_cpu,
                "cpu_current_task": asm.current_task[: min(asm.nr_cpus, _TOLD_CPUS)],
                "cpu_stack": asm.stack[: min(asm.nr_cpus, _TOLD_CPUS)],
                "cpu_stack_ptr": asm.stack_ptr[: min(asm.nr_cpus, _TOLD_CPUS)],
            }
            if asm.kernel_addr is not None:
                self.facts["kernel_addr"] = asm.kernel_addr
        self._remark_scan(compressed)

    def _remark_scan(self, compressed: int) -> None:
        header, found = self._header, self._scan
        if compressed not in _CODECS:
            self.remark("compression", f"dh_dump_compress {compressed}: 0 none, 1 RLE and 2 GZIP are known")
        if self._index.duplicates is not None:
            count = len(self._index.duplicates.kept)
            self.remark("duplicates", f"{count} records repeat a frame: the first is kept")
        if found.breaks:
            self.remark(
                "chain-broken",
                f"the chain of records is broken at {found.breaks} places: {found.skipped} bytes skipped, "
                "which pages were there is not known",
            )
        if found.end == "eof":
            self.remark("no-end", "no END record at the end of the file")
        elif found.end == "copy":
            self.remark("odd-end", "ends as zfcpdump and vmconvert do it, without an END record")
        elif found.end == "truncated":
            self.remark("truncated", "the END record says that the dump device was full")
        if found.nr_records not in (header.num_pages, header.num_pages - 1):
            self.remark("num-pages", f"{header.num_pages} pages by the header, {found.nr_records} records in the file")


def _decoded_size(stored: bytes, page_size: int, codec: int) -> int:
    # What a compressed record expands to, if that is a power of two up to the page size; 0 for nothing known.
    if codec == codecs.ZLIB_SLACK:
        try:
            return len(zlib.decompressobj().decompress(stored, page_size + 1))
        except zlib.error:
            return 0
    if codec == codecs.RLE:
        for more in (1, 0):
            try:
                size = len(codecs.rle_expand(stored, page_size, more))
            except ValueError:
                continue
            if size and size & (size - 1) == 0:
                return size
    return 0
