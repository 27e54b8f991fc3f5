# SPDX-License-Identifier: GPL-2.0-or-later
"""Diskdump: what savecore of diskdumputils leaves, and the raw dump partition that the kernel's driver wrote.

    file                                   partition, one block later
    0        main header, tasks[]          block 1
    block    registers of one CPU          block 2
    B        bitmap of RAM; then, of a partial or compressed dump, of stored frames
             (indexed by frame)            (indexed by the n-th frame of RAM)
    D        descriptors, then page data   page data alone, or each page behind a header of its own

Sheet: docs/formats/diskdump.md.
"""

from __future__ import annotations

import struct
from typing import Any, ClassVar

from numpy.typing import NDArray

from .bitmap import BitmapPair, RankIndex
from .descriptors import (
    DESC_SIZE,
    DESCRIPTORS_AT_ONCE,
    DISKDUMP_CODECS,
    Descriptors,
    descriptor_rows,
    empty_map,
    read_descriptors,
)
from .diskdump_layout import (
    HEADER_SIZE,
    STATUS_COMPRESSED,
    STATUS_INCOMPLETE,
    Layout,
    find_layout,
    looks_like_diskdump,
)
from .diskdump_messages import mark_messages
from .diskdump_partition import Partition
from .errors import CorruptDump, TruncatedDump, UnsupportedDump
from .machine import ARCHITECTURES, Machine, from_uts_machine
from .main_header import MAX_MEMORY, check_main_header
from .pages import MemoryMap
from .prstatus import prstatus_note
from .reader import DumpReader, Options
from .source import ByteSource
from .vmcoreinfo import printable

__all__ = ["DiskdumpReader"]

_REGISTERS = {"i386": 17, "x86_64": 27, "ppc64": 48}  # words of elf_gregset_t; ia64's block is laid out in its own way
_TASKS_TOLD = 64


class _File:
    # The vmcore file: pages by a table of descriptors, as in a kdump.

    def __init__(self, source: ByteSource, layout: Layout, bitmaps: BitmapPair, *, incomplete: bool) -> None:
        self._source, self._layout, self._incomplete = source, layout, incomplete
        self._index = RankIndex(source, bitmaps.second, bitmaps.nr_pfns)
        self.memory_map, self.unexpected = bitmaps.build_map()
        if incomplete:
            cells = self._index.cells(DESCRIPTORS_AT_ONCE)
            self.memory_map = self.memory_map.overlay(empty_map(self._descriptors(*cell) for cell in cells))

    @property
    def table_end(self) -> int:
        """Offset behind the descriptors."""
        return self._layout.data_offset + DESC_SIZE * self._index.total

    def _descriptors(self, start_pfn: int, end_pfn: int) -> Descriptors:
        rank, pfns = self._index.set_pfns(start_pfn, end_pfn)
        offset = self._layout.data_offset + DESC_SIZE * rank
        return read_descriptors(self._source, offset, self._layout.byteorder, pfns)

    def extents(self, start_pfn: int, end_pfn: int) -> NDArray[Any]:
        """See `DumpReader.extents`."""
        found = self._descriptors(start_pfn, end_pfn)
        kept = found.written() if self._incomplete else found
        return descriptor_rows(self._source, kept, self._layout.header.block_size, DISKDUMP_CODECS)


class DiskdumpReader(DumpReader):
    """A diskdump, as a file or as a partition.

    Args:
        sources: One file or block device.
        options: See `Options`.

    Raises:
        CorruptDump, TruncatedDump: Headers or bitmaps contradict themselves or the file.
        MissingPart: A formatted partition on which no dump is.
        UnsupportedDump: The architecture cannot be told.
    """

    name: ClassVar[str] = "diskdump"

    def __init__(self, sources: tuple[ByteSource, ...], options: Options) -> None:
        super().__init__(sources)
        self._source = source = sources[0]
        self._options = options
        self._layout = layout = find_layout(source)
        self._header = header = layout.header
        check_main_header(source, header, "diskdump", first_block=layout.first_block, sub_header_needed=False)
        self._check_size()
        self.machine = self._tell_machine()
        self.incomplete = bool(header.status & STATUS_INCOMPLETE)
        self._tasks = self._read_tasks()
        self._read_registers()
        self._store = self._open_partition() if layout.first_block else self._open_file()
        self.memory_map: MemoryMap = self._store.memory_map
        self._describe()

    @staticmethod
    def probe(source: ByteSource) -> bool:
        """See `DumpReader.probe`."""
        return looks_like_diskdump(source)

    # -- headers ---------------------------------------------------------------------------------------------

    def _check_size(self) -> None:
        header, path, offset = self._header, self._source.name, self._layout.header_offset
        if offset not in (0, header.block_size):
            raise CorruptDump(
                f"diskdump main header: block_size {header.block_size}, but that of a partition lies in its block 1",
                path=path,
                offset=offset,
            )
        if header.max_mapnr == 0 or header.max_mapnr * header.block_size > MAX_MEMORY:
            raise CorruptDump(
                f"max_mapnr {header.max_mapnr:#x} is impossible: no machine addresses more than {MAX_MEMORY:#x} bytes",
                path=path,
                offset=offset,
            )

    def _tell_machine(self) -> Machine:
        name = self._header.utsname["machine"]
        arch = from_uts_machine(name.decode("latin-1"))
        if self._options.machine is not None:
            arch = ARCHITECTURES[self._options.machine]
        if arch is None:
            raise UnsupportedDump(
                f"cannot tell the architecture: utsname.machine is {printable(name)!r}",
                path=self._source.name,
                hint="name it with --machine",
            )
        return Machine(arch.name, self._layout.byteorder, arch.word_size, self._header.block_size, arch.e_machine)

    def _read_tasks(self) -> tuple[int, ...]:
        # the current task of each CPU, by CPU number; none where nr_cpus cannot be true
        header, word = self._header, self._layout.word_size
        size = word * header.nr_cpus
        if header.nr_cpus <= 0 or HEADER_SIZE[word] + size > header.block_size:
            self.remark("tasks", f"nr_cpus {header.nr_cpus}: no tasks[] of that size is in the header's block, ignored")
            return ()
        raw = self._source.pread(self._layout.header_offset + HEADER_SIZE[word], size)
        mark = "<" if self._layout.byteorder == "little" else ">"
        return struct.unpack(f"{mark}{header.nr_cpus}{'Q' if word == 8 else 'I'}", raw)

    def _read_registers(self) -> None:
        # of the CPU that dumped
        arch, word, header = self.machine.arch, self.machine.word_size, self._header
        if header.sub_hdr_size == 0:
            return
        if arch not in _REGISTERS or word != self._layout.word_size:
            self.remark("registers", f"the register block of {arch} is not understood: no registers")
            return
        count = _REGISTERS[arch]
        raw = self._source.pread(self._layout.sub_header_offset, count * word)
        if not any(raw):
            self.remark("registers", "the register block is all zeros: no registers")
            return
        mark = "<" if self._layout.byteorder == "little" else ">"
        words = struct.unpack(f"{mark}{count}{'Q' if word == 8 else 'I'}", raw)
        self.notes.append(prstatus_note(arch, self.machine.byteorder, words))

    # -- pages -----------------------------------------------------------------------------------------------

    def _open_file(self) -> _File:
        header, layout = self._header, self._layout
        bitmaps = BitmapPair.place(
            self._source, layout.bitmap_offset, header.bitmap_blocks, header.block_size, header.max_mapnr
        )
        if bitmaps.is_single:
            self.remark("one-bitmap", "the file has one bitmap: all RAM is stored")
        self._tell_surplus_bits(surplus=bitmaps.has_surplus_bits)
        store = _File(self._source, layout, bitmaps, incomplete=self.incomplete)
        if store.unexpected:
            count = store.unexpected
            self.remark("stored-not-ram", f"{count} frames are stored though the 1st bitmap calls them no RAM")
        if store.table_end > self._source.size:
            self.damage = TruncatedDump(
                f"the page descriptors end at {store.table_end:#x}, the file at {self._source.size:#x}",
                path=self._source.name,
                hint="use --salvage for what is whole",
            )
        return store

    def _open_partition(self) -> Partition:
        store = Partition(self._source, self._layout, salvage=self._options.salvage)
        self.damage = store.damage
        for code, message in store.remarks:
            self.remark(code, message)
        total, told = store.nr_ram, self._header.total_ram_blocks
        if told not in (0, total):
            self.remark("ram-count", f"the bitmap has {total} frames of RAM, total_ram_blocks says {told}")
        return store

    def _tell_surplus_bits(self, *, surplus: bool) -> None:
        if surplus:
            limit = self._header.max_mapnr
            self.remark("bits-past-end", f"a bitmap has bits set at or past max_mapnr {limit:#x}: ignored")

    def extents(self, start_pfn: int, end_pfn: int) -> NDArray[Any]:
        """See `DumpReader.extents`."""
        return mark_messages(self._source, self._store.extents(start_pfn, end_pfn), self.machine.page_size)

    # -- description -----------------------------------------------------------------------------------------

    def _describe(self) -> None:
        header, cpu = self._header, self._header.current_cpu
        self.facts = {
            "form": "partition" if self._layout.first_block else "file",
            "header_version": header.version,
            "utsname": {key: printable(value) for key, value in header.utsname.items()},
            "timestamp": header.timestamp[0],
            "status": header.status,
            "compressed": bool(header.status & STATUS_COMPRESSED),
            "nr_cpus": header.nr_cpus,
            "current_cpu": cpu,
            "panic_task": f"{self._tasks[cpu]:#x}" if cpu < len(self._tasks) else None,
            "tasks": [f"{task:#x}" for task in self._tasks[:_TASKS_TOLD]],
            "max_mapnr": header.max_mapnr,
            "total_ram_blocks": header.total_ram_blocks,
            "device_blocks": header.device_blocks,
            "written_blocks": header.written_blocks,
        }
        if header.uts_shift:
            self.remark("utsname-shifted", f"utsname lies {header.uts_shift} bytes behind its place")
        if header.version > 1:
            self.remark("version", f"header version {header.version}; 0 and 1 are known")
        if self._tasks and cpu >= len(self._tasks):
            self.remark("panic-task", f"current_cpu {cpu} of {header.nr_cpus} CPUs online: no task of it is told")
