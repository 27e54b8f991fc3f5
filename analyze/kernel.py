# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel model: what is known of the dumped kernel, found lazily, with the reason where something is not.

Nothing is read that nobody asks for: `log` needs no symbols, `sym` no types.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from ..formats.errors import DumpError, UsageError
from ..formats.reader import DumpReader
from ..formats.vmcoreinfo import VmcoreInfo
from . import kallsyms, scan
from .btf import MAX_BYTES, Btf
from .errors import MissingTable
from .log import Record, read_log
from .machines import open_memory
from .memory import KernelMemory, PhysicalMemory
from .structs import Structs
from .symbols import Symbol, SymbolTable

if TYPE_CHECKING:
    from .modules import Modules
    from .tasks import Tasks

__all__ = ["Kernel"]

_MAX_CPUS = 8192


class Kernel:
    """The kernel in a dump.

    Args:
        reader: The dump.

    Attributes:
        reader, machine: The dump, and its machine.
        physical: Its pages.
        info_origin: Where VMCOREINFO comes from: `note`, `found in memory`, `none`.
        symbols_how: Where the symbols come from, once they were asked for.
        vmlinux: Debuginfo that the user gave, for the commands that use drgn.
    """

    def __init__(self, reader: DumpReader) -> None:
        self.reader = reader
        self.machine = reader.machine
        self.physical = PhysicalMemory(reader)
        found = reader.vmcoreinfo
        self.info_origin = "note" if found is not None else "none"
        self._searched = found is not None
        self._info = found or VmcoreInfo(b"")
        self.vmlinux: str | None = None

    @property
    def info(self) -> VmcoreInfo:
        """VMCOREINFO: the note, or what is found in memory; empty where there is none."""
        if not self._searched:
            self._searched = True
            for candidate in scan.find_vmcoreinfo(self.physical):
                self._info = candidate
                if self._fits(candidate):
                    self.info_origin = "found in memory"
                    return candidate
            self._info = VmcoreInfo(b"")
        return self._info

    def _fits(self, info: VmcoreInfo) -> bool:
        # of several kernels' texts that one counts whose init_uts_ns is there and says the same release
        address, release = info.symbol("init_uts_ns"), info.text("OSRELEASE")
        try:
            memory = self._open_memory()
            return address is not None and release is not None and release.encode() in memory.read(address, 512)
        except DumpError:
            return False

    @property
    def release(self) -> str:
        """The kernel's release, empty where it is not known."""
        return self.info.text("OSRELEASE") or ""

    @cached_property
    def memory(self) -> KernelMemory:
        """Kernel virtual memory.

        Raises:
            MissingTable: Page tables cannot be found, or this architecture's are not known.
        """
        self.info  # noqa: B018 - searched for first
        return self._open_memory()

    def _open_memory(self) -> KernelMemory:
        return open_memory(self.reader, self.physical, self._info)

    @cached_property
    def present_pages(self) -> int | None:
        """Pages of RAM that the kernel had, summed over its nodes; None where that cannot be told."""
        try:
            nodes = self.info.number("MAX_NUMNODES") or self.info.text("LENGTH(node_data)")
            table = self.symbols.address("node_data")
            if table is None:
                return self.structs.get(self.symbol("contig_page_data"), "pglist_data", "node_present_pages")
            count = min(int(nodes or 1), 1 << 10)
            found = [each for each in self.memory.words(table, count) if each]
            return sum(self.structs.get(each, "pglist_data", "node_present_pages") for each in found)
        except (DumpError, ValueError):
            return None

    @property
    def stack_size(self) -> int:
        """Bytes of a task's kernel stack: from the first task's, whose ends are symbols."""
        start, end = self.symbols.address("init_stack"), self.symbols.address("__end_init_task")
        if start is not None and end is not None and 4096 <= end - start <= 1 << 17:
            return end - start
        return 16384 if self.machine.word_size == 8 else 8192

    @property
    def kernel_start(self) -> int:
        """Lowest address that code or data of the kernel may have."""
        if self.machine.word_size == 4:
            return 0x80000000
        return 0x8000000000000000 if self.machine.arch != "s390x" else 0

    @cached_property
    def symbols(self) -> SymbolTable:
        """The kernel's symbols.

        Raises:
            MissingTable, Unreadable: They cannot be had.
        """
        try:
            raw = kallsyms.from_vmcoreinfo(self.memory, self.info)
        except DumpError:
            raw = scan.find_kallsyms(self.physical).symbols(self.info.symbol("_stext"), self.machine.word_size)
        self.symbols_how = raw.how
        return SymbolTable(raw.addresses, raw.names, self.kernel_start)

    def symbol(self, name: str) -> int:
        """Return the address of a symbol, from VMCOREINFO or the table.

        Raises:
            MissingTable: There is none.
        """
        found = self.info.symbol(name)
        if found is None:
            found = self.symbols.address(name)
        if found is None:
            raise MissingTable(f"the kernel has no symbol {name}")
        return found

    def lookup(self, address: int) -> tuple[Symbol, int] | None:
        """Return the symbol that an address lies in, of the kernel or a module, and the offset."""
        try:
            found = self.modules.lookup(address)
        except DumpError:
            found = None
        return found or self.symbols.lookup(address)

    def parse_address(self, text: str) -> int:
        """Return the address that a user means: hexadecimal, a symbol, or SYMBOL+OFFSET.

        Raises:
            UsageError: It is neither.
        """
        name, _, offset = text.partition("+")
        try:
            more = int(offset, 0) if offset else 0
        except ValueError as error:
            raise UsageError(f"{text}: {offset} is no number") from error
        try:
            return int(name, 16) + more
        except ValueError:
            found = self.info.symbol(name) or self.symbols.address(name)
        if found is None:
            raise UsageError(f"{text} is no address and no symbol")
        return found + more

    @cached_property
    def boot_time(self) -> float:
        """Unix time of boot, by VMCOREINFO's CRASHTIME and the last record of the log.

        Raises:
            MissingTable: One of them is not there.
        """
        crashed = self.info.text("CRASHTIME")
        times = [record.ns for record in self.log if record.ns is not None]
        if crashed is None or not crashed.isdigit() or not times:
            raise MissingTable("VMCOREINFO has no CRASHTIME, or the log no times")
        return int(crashed) - times[-1] // 10**9

    @cached_property
    def btf(self) -> Btf:
        """The kernel's types.

        Raises:
            MissingTable, Unreadable: They cannot be had.
        """
        try:
            start, stop = self.symbol("__start_BTF"), self.symbol("__stop_BTF")
        except DumpError:
            return scan.find_btf(self.physical)
        if not 24 <= stop - start <= MAX_BYTES:
            raise MissingTable(f"BTF of {stop - start} bytes")
        return Btf(self.memory.read(start, stop - start), self.machine.byteorder)

    @cached_property
    def structs(self) -> Structs:
        """Structures in memory by name; needs BTF."""
        return Structs(self.memory, self.btf)

    @cached_property
    def tasks(self) -> Tasks:
        """The tasks; needs BTF."""
        from .tasks import Tasks

        return Tasks(self)

    @cached_property
    def modules(self) -> Modules:
        """The loaded modules; needs BTF."""
        from .modules import Modules

        return Modules(self)

    @cached_property
    def cpus(self) -> list[int]:
        """Numbers of the CPUs that were online.

        Raises:
            MissingTable: The mask is not there, or empty.
        """
        count = self.memory.u32(self.symbol("nr_cpu_ids"))
        mask = self.symbols.address("__cpu_online_mask") or self.symbols.address("cpu_online_mask")
        if mask is None or not 0 < count <= _MAX_CPUS:
            raise MissingTable(f"no mask of online CPUs, or {count} CPUs")
        word = 8 * self.machine.word_size
        words = self.memory.words(mask, -(-count // word))
        found = [cpu for cpu in range(count) if words[cpu // word] >> cpu % word & 1]
        if not found:
            raise MissingTable("no CPU was online")
        return found

    def per_cpu(self, name: str) -> list[tuple[int, int]]:
        """Return (CPU, address) of a per-CPU variable for each CPU that was online."""
        base = self.symbol(name)
        offsets = self.symbols.address("__per_cpu_offset")
        if offsets is None:
            return [(0, base)]
        word = self.machine.word_size
        mask = (1 << 8 * word) - 1
        return [(cpu, base + self.memory.pointer(offsets + word * cpu) & mask) for cpu in self.cpus]

    @cached_property
    def log(self) -> list[Record]:
        """The kernel log.

        Raises:
            MissingTable, Unreadable: It cannot be had.
        """
        return read_log(self.memory, self.info)

    @cached_property
    def level(self) -> tuple[str, str]:
        """How much is known, L0 to L2, and one line on why not more."""
        try:
            count = len(self.symbols)
        except DumpError as error:
            return "L0", f"no symbols: {error.message}"
        try:
            types = len(self.btf)
        except DumpError as error:
            return "L1", f"{count} symbols; no types: {error.message}"
        return "L2", f"{count} symbols, {types} types; no source lines (they need --vmlinux)"
