# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel model: what is known of the dumped kernel, found lazily, with the reason where something is not.

Nothing is read that nobody asks for: `log` needs no symbols, `sym` no types.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from ..formats.errors import DumpError, UsageError
from ..formats.reader import DumpReader
from ..formats.vmcoreinfo import VmcoreInfo
from . import scan
from .banner import find_utsname
from .bootstrap import make_vmcoreinfo
from .btf import MAX_BYTES, Btf
from .btf_repair import repaired
from .clock import boot_time
from .command import MAX_SECONDS
from .errors import MissingTable, Unreadable
from .log import Record, read_log
from .machines import open_memory
from .memory import KernelMemory, PhysicalMemory
from .once import once
from .sources import KernelSymbols, find_symbols, per_cpu_variables, read_only_data, unknown_symbol, vmcoreinfo_symbols
from .structs import Structs
from .symbols import Symbol, SymbolTable

if TYPE_CHECKING:
    from .debuginfo import Debuginfo
    from .modules import Modules
    from .system_map import SystemMap
    from .tasks import Tasks

__all__ = ["Kernel"]

_MAX_CPUS = 8192
_MAX_RELEASE = 64  # struct new_utsname has that many bytes for it
_NO_LINES = "no source lines (they need --vmlinux)"
_BOTH_ORDERS = frozenset(("ppc64", "ppc"))  # kernels of either byte order, whatever the container says


class Kernel:
    """The kernel in a dump.

    Args:
        reader: The dump.
        search: Look through memory for VMCOREINFO where no note has it.

    Attributes:
        reader, machine: The dump, and its machine.
        physical: Its pages.
        info_origin: Where VMCOREINFO comes from: `note`, `found in memory`, `made from ...`, `none`.
        wants_values: Nothing may be printed but what a command returns: somebody reads JSON.
        system_map: Symbols that the user gave, None for the dump's own.
        vmlinux: Debuginfo that the user gave, for the commands that use drgn.
        max_duration: Seconds that one of these may take.
        log_complaints: What of the log could not be read, once it was.
        told: Complaints about the dump itself that the user has had.
    """

    def __init__(self, reader: DumpReader, *, search: bool = True) -> None:
        self.reader = reader
        self.machine = reader.machine
        self.physical = PhysicalMemory(reader)
        found = reader.vmcoreinfo
        self.info_origin = "note" if found is not None else "none"
        self._searched, self._may_search = found is not None or not search, search
        self._info = found or VmcoreInfo(b"")
        if found is None and search and self.machine.arch in _BOTH_ORDERS:
            order = scan.kernel_byteorder(self.physical)
            if order is not None and order != self.machine.byteorder:
                self.machine = self.physical.machine = self.machine._replace(byteorder=order)
        self.vmlinux: str | None = None
        self.max_duration = MAX_SECONDS
        self.system_map: SystemMap | None = None
        self.wants_values = False
        self.log_complaints: list[str] = []
        self.told: set[str] = set()

    @property
    def info(self) -> VmcoreInfo:
        """VMCOREINFO: the note, what is found in memory, or what is made from symbols; empty where there is none."""
        if not self._searched:
            self._searched = True
            for candidate in scan.find_vmcoreinfo(self.physical):
                self._info = candidate
                if self._fits(candidate):
                    self.info_origin = "found in memory"
                    return candidate
            self._info = VmcoreInfo(b"")
            self._info = self._made()
        return self._info

    def _made(self) -> VmcoreInfo:
        try:
            if self.system_map is not None:
                found = make_vmcoreinfo(self.physical, self.system_map.address, lambda: self.btf_in_memory, moved=True)
                self.info_origin = "made from System.map"
            else:
                raw = self.scanned.symbols(None, self.machine.word_size)
                table = SymbolTable(raw.addresses, raw.names, self.kernel_start)
                found = make_vmcoreinfo(self.physical, table.address, lambda: self.btf_in_memory, moved=False)
                self.info_origin = "made from kallsyms"
        except DumpError:
            return self._made_from_vmlinux()
        return found

    def _made_from_vmlinux(self) -> VmcoreInfo:
        try:
            given = self.debuginfo
            if given is None or self.system_map is not None:
                return VmcoreInfo(b"")
            find = given.symbols().address
            found = make_vmcoreinfo(self.physical, find, lambda: self.btf_in_memory, moved=True)
        except DumpError:
            return VmcoreInfo(b"")
        self.info_origin = "made from vmlinux"
        return found

    @once
    def debuginfo(self) -> Debuginfo | None:
        """The vmlinux that the user gave, None without one.

        Raises:
            UsageError: It is no vmlinux of this machine.
        """
        if self.vmlinux is None:
            return None
        from .debuginfo import open_debuginfo

        try:
            return open_debuginfo(self.vmlinux, self.machine.word_size, self.machine.byteorder)
        except OSError as error:
            raise UsageError(f"cannot be read: {error.strerror}", path=self.vmlinux) from error

    def _fits(self, info: VmcoreInfo) -> bool:
        # of several kernels' texts that one counts whose init_uts_ns is there and says the same release
        address, release = info.symbol("init_uts_ns"), info.text("OSRELEASE")
        try:
            memory = self._open_memory()
            return address is not None and release is not None and release.encode() in memory.read(address, 512)
        except DumpError:
            return False

    @once
    def utsname(self) -> dict[str, str]:
        """What the kernel says of itself, by a search of memory; empty where it is not found."""
        return find_utsname(self.physical)

    @property
    def release(self) -> str:
        """The kernel's release, empty where it is not known."""
        return self.info.text("OSRELEASE") or self.utsname.get("release", "")

    @property
    def version(self) -> tuple[int, ...]:
        """The first two numbers of the release, empty where it is not known. Structure tests tell more."""
        parts = self.release[:_MAX_RELEASE].split("-")[0].split(".")[:2]
        return tuple(int(part) for part in parts if part.isdecimal())

    @once
    def memory(self) -> KernelMemory:
        """Kernel virtual memory.

        Raises:
            MissingTable: Page tables cannot be found, or this architecture's are not known.
        """
        self.info  # noqa: B018 - searched for first
        memory = self._open_memory(search=self._may_search)
        memory.know_range(self._known_range)
        return memory

    def _known_range(self) -> tuple[int, int, int] | None:
        from .direct_map import known_range

        return known_range(self)

    def _open_memory(self, *, search: bool = False) -> KernelMemory:
        memory = open_memory(self.reader, self.physical, self._info, search=search)
        if self._info.page_size is not None and self._info.page_size < self.machine.page_size:
            memory.use_pages(self._info.page_size)  # QEMU writes dumps of aarch64 in blocks of 64 KiB
        return memory

    @property
    def page_size(self) -> int:
        """Bytes of the kernel's pages."""
        return self.info.page_size or self.machine.page_size

    @once
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
        with suppress(DumpError):
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

    @once
    def scanned(self) -> scan.ScannedTables:
        """The kallsyms tables that a search of memory finds.

        Raises:
            MissingTable: None.
        """
        return scan.find_kallsyms(self.physical)

    @once
    def symbols(self) -> KernelSymbols:
        """The kernel's symbols.

        Raises:
            MissingTable, Unreadable: They cannot be had.
            UsageError: The System.map or vmlinux that was given is of another kernel.
        """
        try:
            found = find_symbols(self, self.system_map)
        except UsageError:
            raise
        except DumpError:
            given = self.debuginfo
            if given is None:
                raise
            return find_symbols(self, given.symbols(), "vmlinux")
        if found.gaps and self.vmlinux is not None:
            with suppress(DumpError):  # stripped, or none for this: the dump's own do
                return find_symbols(self, self.debuginfo.symbols(), "vmlinux")  # type: ignore[union-attr]
        return found

    @once
    def _per_cpu_variables(self) -> dict[str, int]:
        return per_cpu_variables(self)

    @once
    def _modules_head(self) -> int:
        from .module_search import find_modules_head

        return find_modules_head(self)

    def _derived(self, name: str) -> int | None:
        # what no table of symbols names, but types and memory tell
        if name == "modules":
            return self._modules_head
        try:
            return self._per_cpu_variables.get(name)
        except DumpError:
            return None

    def _named(self, name: str) -> int | None:
        found = self.info.symbol(name)
        return self.symbols.address(name) if found is None else found

    def symbol(self, name: str) -> int:
        """Return the address of a symbol, from VMCOREINFO, the table, or what follows from types.

        Raises:
            MissingTable: There is none.
        """
        found = self._named(name)
        if found is None and self.symbols.functions_only:
            found = self._derived(name)
        if found is None:
            why = ", whose symbol table has functions only" if self.symbols.functions_only else ""
            raise MissingTable(f"the kernel has no symbol {name}{why}")
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
            UsageError: It is neither, or has more than 64 bits.
        """
        found = self._parse_address(text)
        if not 0 <= found < 1 << 64:
            raise UsageError(f"{text} is no address: it has more than 64 bits")
        return found

    def _parse_address(self, text: str) -> int:
        name, _, offset = text.partition("+")
        try:
            more = int(offset, 0) if offset else 0
        except ValueError as error:
            raise UsageError(f"{text}: {offset} is no number") from error
        try:
            value = int(name, 16) + more
        except ValueError:
            value = None
        # `add` and `feed` are numbers and may be symbols, of which the symbol is meant; `ffffffff81000000` is none
        if value is not None and (not name[:1].isalpha() or len(name) >= 2 * self.machine.word_size):
            return value
        try:
            found = self.find(name)
        except DumpError:
            if value is None:
                raise
            found = None
        if found is not None:
            return found + more
        if value is None:
            raise UsageError(f"{text} is no address and no symbol")
        return value

    def find(self, name: str) -> int | None:
        """Return the address of a symbol of the kernel or of a module, None where there is none."""
        found = self.find_symbol(name)
        return None if found is None else found.address

    def find_symbol(self, name: str) -> Symbol | None:
        """Return a symbol of the kernel, of a module, or what follows from types; None where there is none."""
        found = self.symbols.find(name)
        if found is not None:
            return found
        address = self.info.symbol(name)
        try:
            if address is None and self.symbols.functions_only:
                address = self._derived(name)
            return self.modules.find(name) if address is None else unknown_symbol(address, name)
        except DumpError:
            return None

    def neighbours(self, symbol: Symbol) -> tuple[Symbol | None, Symbol | None]:
        """Return the symbols before and behind one, in its own table."""
        if not symbol.module:
            return self.symbols.neighbours(symbol.address)
        module = next((each for each in self.modules if each.name == symbol.module), None)
        return (None, None) if module is None else self.modules.symbols(module).neighbours(symbol.address)

    def end_of(self, address: int) -> int:
        """Return where the function or variable ends that an address lies in: the next symbol, or the address itself.

        Raises:
            MissingTable, Unreadable: There are no symbols.
        """
        try:
            module = self.modules.at(address)
        except DumpError:
            module = None
        if module is None:
            return self.symbols.end_of(address)
        end = self.modules.symbols(module).end_of(address)
        inside = next((start + size for start, size in module.ranges if start <= address < start + size), address)
        return min(end, inside) if end > address else inside

    @once
    def boot_time(self) -> float:
        """Unix time of boot.

        Raises:
            MissingTable: It cannot be told.
        """
        return boot_time(self)

    @once
    def btf_in_memory(self) -> Btf:
        """The kernel's types, found by their header.

        Raises:
            MissingTable: There are none.
        """
        return scan.find_btf(self.physical)

    @once
    def btf(self) -> Btf:
        """The kernel's types: the dump's, else those of the vmlinux that the user gave.

        Raises:
            MissingTable, Unreadable: They cannot be had.
        """
        try:
            return self._btf_of_dump()
        except DumpError:
            found = self._types_of_vmlinux()
            if found is None:
                raise
            return found

    def _btf_of_dump(self) -> Btf:
        try:
            start, stop = self._named("__start_BTF"), self._named("__stop_BTF")
        except DumpError:
            start = stop = None
        if start is None or stop is None:
            # the kernel's image is a small part of memory
            image = read_only_data(self)
            return scan.find_btf(self.physical, image) if image else self.btf_in_memory
        if not 24 <= stop - start <= MAX_BYTES:
            raise MissingTable(f"BTF of {stop - start} bytes")
        try:
            return Btf(self.memory.read(start, stop - start), self.machine.byteorder)
        except Unreadable:
            raw, holes = self.memory.read_sparse(start, stop - start)
            parts = [(low - start, high - start, why) for low, high, why in holes]
            return repaired(raw, parts, self.machine.byteorder)

    def _types_of_vmlinux(self) -> Btf | None:
        given = self.debuginfo
        raw = None if given is None else given.btf()
        return None if raw is None else Btf(raw, self.machine.byteorder)

    @once
    def all_types(self) -> Btf:
        """The kernel's types and behind them those of its modules.

        Raises:
            MissingTable, Unreadable: The kernel's own cannot be had.
        """
        from .module_types import all_types

        return all_types(self)

    def types_with(self, name: str) -> Btf:
        """Return the types to look a name up in: the kernel's, or all where only a module has it."""
        return self.btf if self.btf.find(name) is not None else self.all_types

    @once
    def structs(self) -> Structs:
        """Structures in memory by name; needs BTF."""
        return Structs(self.memory, self.btf)

    @once
    def tasks(self) -> Tasks:
        """The tasks; needs BTF."""
        from .tasks import Tasks

        return Tasks(self)

    @once
    def modules(self) -> Modules:
        """The loaded modules; needs BTF."""
        from .modules import Modules

        return Modules(self)

    @once
    def cpus(self) -> list[int]:
        """Numbers of the CPUs that the machine had: a panic takes those that it stops offline.

        Raises:
            MissingTable: There is no mask of them, or they are empty.
        """
        found = sorted({*self._mask("present"), *self.online_cpus})
        if not found:
            raise MissingTable("no CPU was present or online")
        return found

    @once
    def online_cpus(self) -> list[int]:
        """Numbers of the CPUs that were online at the end."""
        return self._mask("online")

    def _mask(self, name: str) -> list[int]:
        count = self.memory.u32(self.symbol("nr_cpu_ids"))
        mask = self.symbols.address(f"__cpu_{name}_mask") or self.symbols.address(f"cpu_{name}_mask")
        if mask is None or not 0 < count <= _MAX_CPUS:
            raise MissingTable(f"no mask of {name} CPUs, or {count} CPUs")
        word = 8 * self.machine.word_size
        words = self.memory.words(mask, -(-count // word))
        return [cpu for cpu in range(count) if words[cpu // word] >> cpu % word & 1]

    def per_cpu(self, name: str) -> list[tuple[int, int]]:
        """Return (CPU, address) of a per-CPU variable for each CPU."""
        base = self.symbol(name)
        offsets = self.symbols.address("__per_cpu_offset")
        if offsets is None:
            return [(0, base)]
        word = self.machine.word_size
        mask = (1 << 8 * word) - 1
        return [(cpu, base + self.memory.pointer(offsets + word * cpu) & mask) for cpu in self.cpus]

    @once
    def log(self) -> list[Record]:
        """The kernel log, as far as it can be read; `log_complaints` has the rest.

        Raises:
            MissingTable, Unreadable: Nothing of it can be had.
        """
        try:
            return read_log(self.memory, self.info, self.log_complaints)
        except DumpError as error:
            from .log_search import search_log

            try:
                found, how = search_log(self.physical)
            except DumpError:
                raise error from None
            self.log_complaints.append(f"the log was searched for and found {how}: {error.message}")
            return found

    @once
    def level(self) -> tuple[str, str]:
        """How much is known, L0 to L3, and one line on why not more."""
        try:
            count, functions_only = len(self.symbols), self.symbols.functions_only
        except DumpError as error:
            return "L0", f"no symbols: {error.message}"
        if self.symbols.exports_only:
            return "L0+", f"{count} symbols, only those that are exported: no kallsyms, and no types"
        symbols = f"{count} symbols" + (", of data only those that are exported" if functions_only else "")
        try:
            types = f"{len(self.btf)} types"
            types += f" ({self.btf.lost})" if self.btf.lost else ""
        except DumpError as error:
            types, level = f"no types: {error.message}", "L1"
        else:
            level = "L2-" if functions_only else "L2"
        try:
            given = self.debuginfo
            if given is None:
                return level, f"{symbols}; {types}" if level == "L1" else f"{symbols}, {types}; {_NO_LINES}"
            given.symbols().offset(vmcoreinfo_symbols(self.info), self.kernel_start)
        except DumpError as error:
            return level, f"{symbols}, {types}; no source lines: {self.vmlinux} {error.message}"
        if not given.has_lines:
            return level, f"{symbols}, {types}; no source lines: {self.vmlinux} has no DWARF"
        return "L3", f"{symbols}, {types}; source lines by drgn from {self.vmlinux}"
