# SPDX-License-Identifier: GPL-2.0-or-later
"""s390 stand-alone dumps: what the dump tools of zipl leave on a DASD partition or a tape, and what zgetdump writes.

    plain       header, 4096 bytes          extended    header
                storage 0 to mem_size                   segment header, 4096 bytes; its storage, as it is or zlib
                end marker                              ... more segments; what lies between them is zeros
                                                        end marker

A tape has the extended magic and the plain body. A multi-volume dump is one of these, cut across partitions that each
begin with a header. Registers lie in the storage itself, at the prefix of each CPU.

Sheet: docs/formats/s390.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from .errors import CorruptDump, DumpError, MissingPart, TruncatedDump, UnsupportedDump
from .intervals import union
from .machine import ARCHITECTURES, Machine
from .reader import Neighbours, Options, parse
from .s390_layout import (
    END_MARKER,
    HEADER_SIZE,
    MAX_STORAGE,
    PAGE_SIZE,
    end_marker,
    read_dump_header,
    tod_to_unix,
)
from .s390_registers import LOWCORE_SIZE, VECTOR_SIZE, cpu_notes, parse_lowcore, vector_area
from .s390_segments import Ranges, SegmentChain, looks_like_segment
from .s390_storage import ReadStorage, look_into_storage, storage_of
from .s390_volumes import complete_volumes, refuse_what_is_no_dump
from .segments import FILE_SHIFT, NOWHERE, SegmentReader
from .source import ByteSource

__all__ = ["S390Reader"]

_ARCHS = {1: "s390", 2: "s390x"}
_MAX_VERSION = {False: 5, True: 2}
_HINT = "use --salvage for what is whole"


class S390Reader(SegmentReader):
    """A stand-alone dump, plain, extended or of a tape.

    Args:
        sources: One file, or the volumes of a multi-volume dump in any order.
        options: See `Options`.

    Raises:
        CorruptDump, TruncatedDump: The header contradicts itself or the file.
        MissingPart: Volumes that were prepared for a dump and have none.
        UnsupportedDump: Something around a dump, and not the dump.
    """

    name: ClassVar[str] = "s390"

    def __init__(self, sources: tuple[ByteSource, ...], options: Options) -> None:
        super().__init__(sources)
        self._options = options
        for source in sources:
            refuse_what_is_no_dump(source)
            source.finish()  # the registers, which go first, lie in the pages: a stream is taken in whole
        self._headers = [read_dump_header(source) for source in sources]
        order = sorted(range(len(sources)), key=lambda index: self._headers[index].volnr)
        self._headers = [self._headers[index] for index in order]
        self._volumes = tuple(sources[index] for index in order)
        self.sources = self._volumes
        self._header = self._headers[0]
        arch = self._tell_arch()
        self.machine = Machine(arch, "big", ARCHITECTURES[arch].word_size, PAGE_SIZE, ARCHITECTURES[arch].e_machine)
        self._size, self._limit = self._tell_size()
        self._check_header()
        self._form = self._tell_form()
        self._ranges = Ranges()
        if self._form == "extended":
            self._read_segments()
        else:
            self._read_plain()
        self._lay_out()
        read = storage_of(self, self._limit)
        self._read_registers(read)
        look_into_storage(self, read)
        self._describe()

    @staticmethod
    def probe(source: ByteSource) -> bool:
        """See `DumpReader.probe`."""
        return True  # the signatures of the registration are all there is

    @classmethod
    def complete_set(
        cls, sources: list[ByteSource], paths: Sequence[str], options: Options, neighbours: Neighbours
    ) -> list[ByteSource]:
        """See `DumpReader.complete_set`: the volumes of one dump have equal times and sizes in their headers."""
        return complete_volumes(sources, options, neighbours)

    # -- header ----------------------------------------------------------------------------------------------

    def _contradict(self, message: str, offset: int) -> None:
        # What must not be; with salvage the reader goes by what the others would.
        error = CorruptDump(f"s390 dump header: {message}", path=self._volumes[0].name, offset=offset, hint=_HINT)
        if not self._options.salvage:
            raise error
        self._spoil(error)

    def _spoil(self, error: DumpError) -> None:
        self.damage = self.damage or error

    def _tell_arch(self) -> str:
        if self._options.machine is not None:
            return self._options.machine
        arch = self._header.arch
        if arch not in _ARCHS:
            raise UnsupportedDump(
                f"s390 dump header: arch {arch}, known are 1 (31 bits) and 2 (64 bits)",
                path=self._volumes[0].name,
                offset=0x48,
                hint="--machine s390 or --machine s390x overrides",
            )
        return _ARCHS[arch]

    def _tell_size(self) -> tuple[int, int]:
        # Bytes of storage that the dump holds, and the most that it may hold where the header is of two minds.
        header = self._header
        if header.mem_size == 0 or header.mem_size > MAX_STORAGE:
            raise CorruptDump(
                f"s390 dump header: mem_size {header.mem_size:#x} is not in 1 to {MAX_STORAGE:#x}",
                path=self._volumes[0].name,
                offset=0x18,
            )
        size = header.mem_size
        if size % PAGE_SIZE:
            self._contradict(f"mem_size {size:#x} is no multiple of {PAGE_SIZE}", 0x18)
            size -= size % PAGE_SIZE
        others = []
        if header.num_pages != size // PAGE_SIZE % (1 << 32):
            self._contradict(f"mem_size {size:#x} is {size // PAGE_SIZE} pages, num_pages {header.num_pages}", 0x30)
            others.append(header.num_pages * PAGE_SIZE)
        real = header.mem_size_real
        if real and real < size:
            self._contradict(f"mem_size {size:#x} is more than the machine has, mem_size_real {real:#x}", 0x54)
            others.append(real - real % PAGE_SIZE)
        possible = [each for each in (size, *others) if each]
        if others and len(self._volumes) == 1:
            proved = [each for each in possible if _has_end_marker(self._volumes[0], HEADER_SIZE + each)]
            possible = proved[:1] or possible
        if not possible:
            raise CorruptDump(
                f"s390 dump header: mem_size {header.mem_size:#x} is less than a page",
                path=self._volumes[0].name,
                offset=0x18,
            )
        return min(possible), max(possible)

    def _check_header(self) -> None:
        header, newest = self._header, _MAX_VERSION[self._header.extended]
        if header.version == 0:
            self._contradict("version 0", 0x08)
        if header.version > newest:
            self.remark("version", f"header version {header.version} is newer than {newest}: read as {newest}")
        for what, value, offset in (("hdr_size", header.hdr_size, 0x0C), ("page_size", header.page_size, 0x14)):
            if value != PAGE_SIZE:
                self._contradict(f"{what} {value}, always {PAGE_SIZE}", offset)
        if header.mem_start:
            self._contradict(f"mem_start {header.mem_start:#x}, always 0", 0x20)
        if header.build_arch not in (0, 1, 2):
            self.remark("build-arch", f"build_arch is {header.build_arch}, known are 1 and 2")

    def _tell_form(self) -> str:
        header, source = self._header, self._volumes[0]
        if not header.extended:
            return "plain"
        # Tape tools write the extended magic before a plain body.
        if looks_like_segment(source, HEADER_SIZE, 0, self._limit):
            return "extended"
        return "tape" if _has_end_marker(source, HEADER_SIZE + self._size) else "extended"

    # -- body ------------------------------------------------------------------------------------------------

    def _missing_volumes(self, file: int) -> bool:
        # whether a volume is missing between this one and the one before
        return self._header.mvdump and self._headers[file].volnr != (self._headers[file - 1].volnr + 1 if file else 0)

    def _miss(self, file: int, end: int) -> None:
        # volumes before `file` are missing, or the one behind the last
        first = self._headers[file - 1].volnr + 1 if file else 0
        last = self._headers[file].volnr - 1 if file < len(self._headers) else first
        missing = f"volume {first} is" if last == first else f"volumes {first} to {last} are"
        numbers = ", ".join(str(header.volnr) for header in self._headers)
        self._spoil(
            MissingPart(
                f"multi-volume dump is not whole: {missing} missing, with the storage from {end:#x} on; found are "
                f"{numbers}",
                path=self._volumes[0].name,
                hint="give all volumes, or use --salvage",
            )
        )

    def _read_plain(self) -> None:
        # One stream of storage, cut across volumes, each of which is filled to its end.
        at = 0
        offset = HEADER_SIZE
        for file, source in enumerate(self._volumes):
            if self._missing_volumes(file):
                self._miss(file, at)
                break
            rest = self._size - at
            is_last = file == len(self._volumes) - 1
            takes = max(0, -(-source.size // PAGE_SIZE) * PAGE_SIZE - HEADER_SIZE) if self._header.mvdump else rest
            takes = min(rest, takes)
            have = min(takes, max(0, source.size - HEADER_SIZE))
            self._ranges.add(at, have, takes, HEADER_SIZE | file << FILE_SHIFT)
            if have < takes:
                self._spoil(
                    TruncatedDump(
                        f"{takes} bytes of storage at {HEADER_SIZE:#x} end at {HEADER_SIZE + takes:#x}, "
                        f"the file has {source.size} bytes",
                        path=source.name,
                        hint=_HINT,
                    )
                )
            at, offset = at + takes, HEADER_SIZE + takes
            if at == self._size or is_last:
                break
        if at < self._size:
            self._ranges.add(at, 0, self._size - at, NOWHERE)
            if self.damage is None:
                self._miss(len(self._headers), at)
        if self.damage is None or self._options.salvage:
            self._check_end(self._volumes[file], offset)

    def _read_segments(self) -> None:
        header, nr_files = self._header, len(self._volumes)
        chain = self._chain = SegmentChain(nr_files, self._limit, header.entry_size, header.version)
        chain.ranges = self._ranges
        offset, file = 0, 0
        for file, source in enumerate(self._volumes):
            missing = self._missing_volumes(file)
            if missing:
                self._miss(file, chain.end)
            offset = chain.follow(source, file, whole_partition=header.mvdump, gap_known=not missing)
            if chain.stopped or chain.trouble is not None:
                break
        for error in (chain.trouble, chain.damaged):
            if error is not None:
                self._spoil(error)
        if not chain.stopped and chain.trouble is None:
            self._miss(len(self._headers), chain.end)
        chain.finish(self._size, whole=chain.stopped)
        blocks = chain.block_source(self._volumes[0])
        if blocks is not None:
            self.sources = (*self._volumes, blocks)
        if chain.stopped:
            self._check_end(self._volumes[file], offset)

    def _check_end(self, source: ByteSource, offset: int) -> None:
        # The tool writes its marker last, with a time not before that of the header.
        self._end_tod = 0
        error: DumpError | None = None
        if not _has_end_marker(source, offset):
            cut = offset + len(END_MARKER) > source.size
            error = (TruncatedDump if cut else CorruptDump)(
                f"no end marker behind the storage: the dump tool did not finish, or the file (of {source.size} bytes) "
                "was cut",
                path=source.name,
                offset=offset,
                hint=_HINT,
            )
        elif offset + end_marker().sizeof() <= source.size:
            self._end_tod = parse(end_marker(), source, offset, "end marker").tod
            if self._end_tod < self._header.tod and self._form != "tape":
                error = CorruptDump(
                    f"the end marker is of an earlier dump: its time {self._end_tod:#x} is before that of the header, "
                    f"{self._header.tod:#x}",
                    path=source.name,
                    offset=offset,
                    hint=_HINT,
                )
        elif self._form != "tape":
            error = TruncatedDump(
                f"the end marker needs {end_marker().sizeof()} bytes, the file has {source.size}",
                path=source.name,
                offset=offset,
                hint=_HINT,
            )
        if error is not None:
            self.incomplete = True
            self._spoil(error)

    def _lay_out(self) -> None:
        paddr, stored, claimed, offset, state = self._ranges.columns()
        tails = None
        real = self._header.mem_size_real
        if self._size == self._limit and self._size < real <= MAX_STORAGE and real % PAGE_SIZE == 0:
            tails = union(np.array([self._size], np.uint64), np.array([real], np.uint64))
            self.remark(
                "size-limit",
                f"the machine had {real} bytes of storage, the dump tool was told to take {self._size}: the rest is "
                "excluded",
            )
        self.lay_out(paddr, stored, claimed, offset, absent=state.astype(np.uint8), tails=tails)

    # -- what the storage holds ------------------------------------------------------------------------------

    def _read_registers(self, read: ReadStorage) -> None:
        arch, header = self.machine.arch, self._header
        size = LOWCORE_SIZE.get(arch)
        if size is None or not header.prefixes:
            self.remark("no-registers", "the header has no CPUs: no registers")
            return
        lost: list[str] = []
        nr_cpus = 0
        for index, prefix in enumerate(header.prefixes):
            if prefix == 0:  # a CPU that was offline
                continue
            lowcore = read(prefix, size) if prefix % PAGE_SIZE == 0 else None
            if lowcore is None:
                lost.append(f"{index} (prefix {prefix:#x})")
                continue
            area = vector_area(lowcore) if arch == "s390x" else None
            cpu = parse_lowcore(arch, lowcore, None if area is None else read(area, VECTOR_SIZE))
            if cpu.prefix != prefix:
                self.remark(
                    "prefix",
                    f"CPU {index}: prefix {cpu.prefix:#x} in its save area, {prefix:#x} in the header, is used",
                )
            nr_cpus += 1
            self.notes += cpu_notes(arch, cpu._replace(prefix=prefix), nr_cpus)
        if lost:
            told = ", ".join(lost[:8]) + (" ..." if len(lost) > 8 else "")
            self.remark("cpu-lost", f"{len(lost)} CPUs have their lowcore not in the dump, so no registers: {told}")

    def _describe(self) -> None:
        header = self._header
        self.facts = {
            "form": self._form,
            "header_version": header.version,
            "arch_bits": 31 if self.machine.arch == "s390" else 64,
            "created_us": tod_to_unix(header.tod),
            "ended_us": tod_to_unix(getattr(self, "_end_tod", 0)),
            "cpu_id": f"{header.cpu_id:#018x}",
            "mem_size": header.mem_size,
            "mem_size_real": header.mem_size_real,
            "cpus": header.cpu_cnt,
            "cpus_real": header.real_cpu_cnt,
            "volumes": len(self._volumes) if header.mvdump else 0,
        }
        if self._form != "extended":
            return
        chain = self._chain
        self.facts |= {
            "segments": chain.nr_segments,
            "zlib_entries": chain.nr_entries,
            "block_size": chain.block_size,
        }
        if chain.nr_zero:
            self.remark(
                "zero-storage",
                f"{chain.nr_zero // PAGE_SIZE} pages are in no segment: the format says that they are zeros, and does "
                "not tell holes of the storage from pages that were all zero",
            )


def _has_end_marker(source: ByteSource, offset: int) -> bool:
    size = len(END_MARKER)
    return offset + size <= source.size and source.pread(offset, size) == END_MARKER
