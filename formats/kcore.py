# SPDX-License-Identifier: GPL-2.0-or-later
"""/proc/kcore: the memory of the running kernel as an ELF core file, and saved copies of it.

    Ehdr, PT_NOTE, PT_LOADs in the kernel's own order; notes CORE 1, 3 ("vmlinux") and 4, VMCOREINFO since 4.19.
    p_vaddr is the kernel's address, p_offset follows from it by one rule for all, so the file is as large as the
    address space. p_paddr: since 4.11 real for the direct map and the kernel's image, all ones for the rest (vmalloc,
    modules, page structures), whose memory lies in the direct map too; before, 0 everywhere.

Of the running system, /proc/iomem says what is RAM and /proc/kpageflags which frames the kernel gives as zeros
because they are offline or poisoned. Sheet: docs/formats/kcore.md.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .elf_layout import ALL_ONES, EHDR_SIZE, ELF_MAGIC, ET_CORE, PHDR_SIZE, PT_LOAD, PT_NOTE, elf_header, phdr_dtype
from .elfcore import ElfCore
from .errors import DumpError, InputError, UnsupportedDump
from .intervals import inside_larger, subtract, union
from .live import system_ram, unreadable_frames
from .machine import ByteOrder
from .notes import OUR_NAME, parse_notes
from .reader import Options, parse
from .segments import reach
from .source import ByteSource

__all__ = ["KcoreReader"]

U64 = NDArray[np.uint64]

_NT_PRPSINFO = 3
_MAX_PROBED = 4096  # program headers: one for each range of RAM and its page structures
_MAX_NOTE_BYTES = 1 << 20  # three notes of a task, and VMCOREINFO
_FNAME_END = 64  # pr_fname lies below, in every ABI
_VMALLOC_SIZE = np.uint64(1 << 44)  # x86_64 before 4.11: 32 TiB of vmalloc, never so much RAM
_MAX_STREAM = 1 << 40


class KcoreReader(ElfCore):
    """/proc/kcore or a copy of it; see `ElfCore`.

    Raises:
        UnsupportedDump: A kernel before 4.11 on an architecture whose direct map is not known; a stream.
        CorruptDump, TruncatedDump: As for any ELF file.
    """

    name: ClassVar[str] = "kcore"
    aligned_to_pages: ClassVar[bool] = True

    def __init__(self, sources: tuple[ByteSource, ...], options: Options) -> None:
        super().__init__(sources, options._replace(tail_zero=False))  # nothing here has a tail of zeros

    @staticmethod
    def probe(source: ByteSource) -> bool:
        """See `DumpReader.probe`."""
        try:
            return source.size >= 64 and source.pread(0, 4) == ELF_MAGIC and _is_kcore(source)
        except DumpError:
            return False

    # -- which segments are memory -------------------------------------------------------------------------------

    def _clip_to_file(self) -> None:
        self._live = self._source.live
        self._left_out: tuple[U64, U64] = np.empty(0, np.uint64), np.empty(0, np.uint64)
        total = len(self._paddr)
        self._origin = "p_paddr"
        if len(self._paddr) and not self._paddr.any():
            self._take(self._direct_map())
            self._origin = "direct map"
        else:
            self._take(self._paddr != np.uint64(ALL_ONES if self._word_size == 8 else 0xFFFFFFFF))
        self._nr_virtual = total - len(self._paddr)
        end = int((self._offset + self._filesz).max()) if len(self._offset) else 0
        if self._source.is_stream and end > _MAX_STREAM:
            raise UnsupportedDump(
                f"memory of /proc/kcore lies at up to {end:#x}: a stream would bring all the zeros before it",
                path=self._source.name,
                hint="give the name of the file; unpack a compressed copy (sparse) first",
            )
        if not self._live:
            self._drop_missing_aliases()
        super()._clip_to_file()
        if self._live:
            self._ask_the_kernel()

    def _take(self, rows: NDArray[Any]) -> None:
        for name in ("_offset", "_vaddr", "_paddr", "_filesz", "_memsz", "_align"):
            setattr(self, name, getattr(self, name)[rows])

    def _drop_missing_aliases(self) -> None:
        # A copy that ends behind the direct map lacks the second mapping of the image, and no memory.
        past = self._offset >= np.uint64(min(self._source.size, ALL_ONES))
        room = np.uint64(0) - self._paddr
        size = np.minimum(self._filesz, self._memsz)
        size = np.where((room > 0) & (size > room), room, size)
        alias = past & inside_larger(self._paddr, reach(self._paddr, size))
        if alias.any():
            self.remark("no-image", "the kernel image's own mapping is past the end of the file: the direct map has it")
            self._take(np.flatnonzero(~alias))

    def _direct_map(self) -> NDArray[np.intp]:
        # Kernels before 4.11: RAM is where the direct map is, below the vmalloc area, which comes first in the file
        # but for the image. Sets p_paddr of its segments; returns their rows.
        arch, vaddr = self.machine.arch, self._vaddr
        if arch == "x86_64":
            huge = vaddr[self._memsz >= _VMALLOC_SIZE]
            limit = int(huge.min()) if len(huge) else 0xFFFFFFFF80000000
            rows = np.flatnonzero((vaddr >= np.uint64(1 << 63)) & (vaddr < np.uint64(limit)))
            mask = (1 << 30) - 1  # KASLR moves the map by multiples of 1 GiB, and RAM begins below that
        elif arch == "i386":
            rows = np.flatnonzero(vaddr < vaddr[0])
            mask = (1 << 28) - 1  # every split of the address space that the kernel offers
        elif arch == "ppc64":
            rows = np.flatnonzero(vaddr >> np.uint64(60) == 0xC)
            mask = (1 << 60) - 1
        elif arch == "s390x":
            rows = np.flatnonzero(vaddr < vaddr[0])
            mask = ALL_ONES
        else:
            raise UnsupportedDump(
                "all p_paddr are 0 (a kernel before 4.11), and where its memory is mapped is not known on " + arch,
                path=self._source.name,
            )
        if len(rows):
            base = int(vaddr[rows].min()) & ~mask & ALL_ONES
            self._paddr[rows] = vaddr[rows] - np.uint64(base)
        self.remark("direct-map", "no p_paddr (a kernel before 4.11): physical addresses are those of the direct map")
        return rows

    # -- the running system --------------------------------------------------------------------------------------

    def _ask_the_kernel(self) -> None:
        ram = system_ram()
        if ram is None:
            self.remark("iomem", "/proc/iomem does not tell what is RAM: all that /proc/kcore has is taken")
        else:
            self._keep_ram(*union(*ram))
        shift = np.uint64(self.machine.page_shift)
        there = union(self._paddr >> shift, (self._paddr + self._filesz) >> shift)
        zeros = unreadable_frames(*there)
        if zeros is None:
            self.remark(
                "page-flags",
                "/proc/kpageflags cannot be read: frames that are offline or poisoned are zeros, and look like others",
            )
        elif len(zeros[0]):
            start, end = zeros[0] << shift, zeros[1] << shift
            inside = self._cut(start, end)
            self._stored[inside] = 0
            self.damage = self.damage or InputError(
                f"{int((zeros[1] - zeros[0]).sum())} pages cannot be read: the kernel gives zeros for what is offline "
                "(a balloon) or poisoned",
                path=self._source.name,
                pfn=int(zeros[0][0]),
                hint="--salvage takes the others and counts these as lost",
            )

    def _keep_ram(self, start: U64, end: U64) -> None:
        inside = self._cut(start, end)
        if not inside.all():
            self.remark("not-ram", f"{int(self._filesz[~inside].sum())} bytes are not System RAM: left out")
            self._take(np.flatnonzero(inside))
            self._stored = self._stored[inside]
        self._left_out = subtract(start, end, *union(self._paddr, self._paddr + self._memsz))
        pages = int(((self._left_out[1] - self._left_out[0]) >> np.uint64(self.machine.page_shift)).sum())
        if pages:
            self.remark("not-mapped", f"{pages} pages of System RAM are not in /proc/kcore (high memory)")

    def _cut(self, start: U64, end: U64) -> NDArray[np.bool_]:
        # Split the segments at the borders of sorted, disjoint ranges of physical memory; say which lie inside.
        edges = np.stack([start, end], axis=1).reshape(-1)
        stop = self._paddr + self._filesz
        low = np.searchsorted(edges, self._paddr, side="right")
        high = np.searchsorted(edges, stop, side="left")
        count = np.maximum(high - low, 0) + 1
        rows = np.repeat(np.arange(len(count)), count)
        number = np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count)
        before, after = low[rows] + number - 1, low[rows] + number
        padded = np.append(edges, np.uint64(0))
        first = np.where(number == 0, self._paddr[rows], padded[np.maximum(before, 0)])
        last = np.where(number == count[rows] - 1, stop[rows], padded[np.minimum(after, len(edges))])
        skipped = first - self._paddr[rows]
        stored = self._stored[rows]
        self._stored = np.minimum(stored - np.minimum(stored, skipped), last - first)
        self._offset, self._vaddr = self._offset[rows] + skipped, self._vaddr[rows] + skipped
        self._align = self._align[rows]
        self._paddr = first
        self._filesz = self._memsz = last - first
        return np.asarray(np.searchsorted(edges, first, side="right") % 2 == 1)

    def _tails(self) -> tuple[U64, U64]:
        # of the running system what the kernel left out of its RAM
        return self._left_out if self._live else super()._tails()

    # -- description ---------------------------------------------------------------------------------------------

    def _more_facts(self) -> dict[str, Any]:
        which = "the running system" if self._live else "a copy of /proc/kcore"
        self.remark("live", f"{which}: memory changed while it was read")
        return {"live": self._live, "virtual_segments": self._nr_virtual, "physical_addresses": self._origin}


def _is_kcore(source: ByteSource) -> bool:
    # ET_CORE; PT_NOTE, then PT_LOADs whose file offsets follow from their addresses by one rule; a note "vmlinux".
    ident = source.pread(4, 3)
    if ident[0] not in (1, 2) or ident[1] not in (1, 2):
        return False
    word_size = 4 * ident[0]
    byteorder: ByteOrder = "little" if ident[1] == 1 else "big"
    header = parse(elf_header(byteorder, word_size), source, 0, "ELF header")
    count, size = header.e_phnum, PHDR_SIZE[word_size]
    if header.e_type != ET_CORE or header.e_phoff != EHDR_SIZE[word_size] or header.e_phentsize != size:
        return False
    if not 3 <= count <= _MAX_PROBED:  # notes, vmalloc, RAM
        return False
    table = np.frombuffer(source.pread(header.e_phoff, count * size), phdr_dtype(byteorder, word_size))
    if table["p_type"][0] != PT_NOTE or (table["p_type"][1:] != PT_LOAD).any():
        return False
    distance = (table["p_offset"][1:].astype(np.uint64) - table["p_vaddr"][1:].astype(np.uint64)) & np.uint64(
        0xFFFFFFFF
    )
    if (distance != distance[0]).any():
        return False
    offset, claimed = int(table["p_offset"][0]), int(table["p_filesz"][0])
    source.ensure(offset, offset + min(claimed, _MAX_NOTE_BYTES))
    there = max(0, min(claimed, _MAX_NOTE_BYTES, source.size - offset))
    notes, _ = parse_notes(source, offset, there, byteorder)
    return not any(note.name == OUR_NAME for note in notes) and any(
        # netdump's notes are modelled on these, but count no NUL in the name
        note.raw_name == b"CORE\0" and note.type == _NT_PRPSINFO and b"vmlinux\0" in note.desc(_FNAME_END)
        for note in notes
    )
