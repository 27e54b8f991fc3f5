# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the kernel's symbols come from: kallsyms, a System.map, exports, VMCOREINFO, per-CPU offsets in BTF.

kallsyms of a kernel built without CONFIG_KALLSYMS_ALL has functions only: then the others are added to it.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

import numpy as np

from ..formats.errors import DumpError, UsageError
from . import kallsyms
from .errors import MissingTable
from .exports import MAX_SCAN, exported, exports_alone, find_exports
from .symbols import Symbol, SymbolTable
from .system_map import SystemMap

if TYPE_CHECKING:
    from ..formats.vmcoreinfo import VmcoreInfo
    from .kernel import Kernel

__all__ = [
    "KernelSymbols",
    "find_symbols",
    "per_cpu_variables",
    "read_only_data",
    "text_only",
    "unknown_symbol",
    "vmcoreinfo_symbols",
]

_FUNCTIONS = frozenset(b"tTwWiIuU?")
_UNKNOWN = b"?"  # nm's letter where it is not known what a symbol is
_BANNER = b"Linux version "
_POINTER = b"mem_section"  # a pointer with SPARSEMEM_EXTREME, and VMCOREINFO_SYMBOL_ARRAY gives what it points to
_PAGE_OFFSET = 0xC0000000
_IMAGES = {"i386": 0xC0100000, "x86_64": 0xFFFFFFFF80100000}  # where kernels without kallsyms begin at the earliest
_SMALL = 16 << 20  # bytes of such a kernel
_WIDE = 64 << 20  # of image looked through for exports where nothing tells where its read-only data lie


class KernelSymbols(SymbolTable):
    """The kernel's symbols.

    Attributes:
        how: Where they come from, in one line.
        functions_only: Whether kallsyms lacks data: variables are known only as far as other tables name them.
        exports_only: There is no kallsyms: what lies between two symbols may be of a third that is not exported.
        gaps: (start, end) of addresses whose symbols could not be read, ascending: what lies there is not known.
    """

    how = ""
    functions_only = False
    exports_only = False
    gaps: tuple[tuple[int, int], ...] = ()

    def lookup(self, address: int) -> tuple[Symbol, int] | None:
        """Return the symbol that an address lies in and the offset, None where it lies in none, or nobody can say."""
        found = super().lookup(address)
        at = bisect_right(self.gaps, (address, 1 << 64)) - 1
        unknown = self.exports_only or (at >= 0 and address < self.gaps[at][1])
        return None if unknown and (found is None or found[1] != 0) else found

    def end_of(self, address: int) -> int:
        """Return the next different address in the table or where a gap begins, or the address itself at its end."""
        end = super().end_of(address)
        at = bisect_right(self.gaps, (address, 1 << 64))
        return min(end, self.gaps[at][0]) if at < len(self.gaps) and end > address else end


def find_symbols(kernel: Kernel, given: SystemMap | None, what: str = "System.map") -> KernelSymbols:
    """Return the kernel's symbols.

    Args:
        kernel: The kernel.
        given: The user's System.map or symbols of a vmlinux, None for what the dump has.
        what: Which of the two.

    Raises:
        MissingTable, Unreadable: They cannot be had.
        UsageError: The file is of another kernel.
    """
    if given is not None:
        return _from_map(kernel, given, what)
    try:
        raw = kallsyms.from_vmcoreinfo(kernel.memory, kernel.info)
    except DumpError as named:
        try:
            raw = kernel.scanned.symbols(kernel.info.symbol("_stext"), kernel.machine.word_size)
        except DumpError as found:
            if kernel.info.symbol("kallsyms_names") is None:
                return _exports_alone(kernel, found)
            raise MissingTable(f"{named.message}; by a search: {found.message}") from found
    if not text_only(raw.names):
        return _table(kernel, raw)
    return _with_more(kernel, raw)


def _exports_alone(kernel: Kernel, why: DumpError) -> KernelSymbols:
    start = _IMAGES.get(kernel.machine.arch)
    try:
        if start is None or kernel.info_origin != "none":
            raise why
        if kernel.machine.word_size == 4 and kernel.memory.linear:
            start += kernel.memory.linear[0][0] - _PAGE_OFFSET
        found, how = exports_alone(kernel.memory, start, _SMALL)
    except DumpError:
        raise why from None
    table = KernelSymbols(
        np.array(list(found.values()), np.uint64), [_UNKNOWN + name for name in found], kernel.kernel_start
    )
    table.how, table.functions_only, table.exports_only = how, True, True
    return table


def _table(kernel: Kernel, raw: kallsyms.RawSymbols) -> KernelSymbols:
    table = KernelSymbols(raw.addresses, raw.names, kernel.kernel_start)
    table.how, table.gaps = raw.how, raw.gaps
    return table


def text_only(names: list[bytes]) -> bool:
    """Whether a table has functions only; a few data that lie within the text do not count."""
    others = sum(1 for name in names if name[0] not in _FUNCTIONS)
    return 100 * others < len(names)


def vmcoreinfo_symbols(info: VmcoreInfo) -> dict[bytes, int]:
    """Return the addresses of symbols that VMCOREINFO gives."""
    found = {}
    for line in info.to_bytes().split(b"\n"):
        key = line.partition(b"=")[0]
        if key.startswith(b"SYMBOL(") and key.endswith(b")"):
            address = info.symbol(key[7:-1].decode("latin-1"))
            if address is not None and key[7:-1] != _POINTER:
                found[key[7:-1]] = address
    return found


# -- a System.map -----------------------------------------------------------------------------------------------


def _from_map(kernel: Kernel, given: SystemMap, what: str) -> KernelSymbols:
    start = kernel.kernel_start
    offset, why = given.offset(vmcoreinfo_symbols(kernel.info), start)
    raw = given.symbols(offset, start, f"{what}, {why}")
    table = _table(kernel, raw)
    banner, release = table.address("linux_banner"), kernel.release
    if banner is not None:
        try:
            text = kernel.memory.read(banner, 128)
        except DumpError:
            return table  # the page is not in the dump: the addresses of VMCOREINFO have to do
        if not text.startswith(_BANNER + release.encode()):
            raise UsageError(f"is of another kernel: linux_banner is not at {banner:#x}", path=given.path)
        table.how += ", linux_banner is there"
    return table


# -- functions only ---------------------------------------------------------------------------------------------


def _with_more(kernel: Kernel, raw: kallsyms.RawSymbols) -> KernelSymbols:
    known: dict[bytes, set[int]] = {}
    for name, address in zip(raw.names, raw.addresses.tolist(), strict=True):
        known.setdefault(name[1:], set()).add(address)
    more = vmcoreinfo_symbols(kernel.info)
    how = f"{raw.how}, functions only"
    for start, size in _places(kernel, known):
        try:
            found, why = find_exports(kernel.memory, start, size, known)
        except DumpError as error:
            missing = error.message
            continue
        more = {**exported(found), **more}
        how += f", {why}"
        break
    else:
        how += f", {missing}"
    added = [(address, name) for name, address in more.items() if name not in known]
    addresses = np.concatenate([raw.addresses, np.array([address for address, _ in added], np.uint64)])
    table = KernelSymbols(addresses, raw.names + [_UNKNOWN + name for _, name in added], kernel.kernel_start)
    table.how, table.functions_only, table.gaps = how, True, raw.gaps
    return table


def _places(kernel: Kernel, known: dict[bytes, set[int]]) -> list[tuple[int, int]]:
    # the read-only data lie behind the text and before what is freed after boot; else anywhere in the image
    def one(*names: str) -> int:
        return next((min(known[name.encode()]) for name in names if name.encode() in known), 0)

    start, end = one("_etext"), one("__init_begin", "_sinittext")
    wide = kernel.info.symbol("_stext") or one("_stext", "_text")
    places = [(start, end - start)] if start and 0 < end - start <= MAX_SCAN else []
    return [*places, (wide, _WIDE)]


def read_only_data(kernel: Kernel) -> bytes:
    """Return the part of the kernel's image where its tables are, empty where that is not known or not all there."""
    try:
        table = kernel.symbols
        if not table.functions_only:
            return b""
        borders = {name: table.address(name) for name in ("_etext", "__init_begin", "_sinittext")}
        known = {name.encode(): {address} for name, address in borders.items() if address is not None}
        start, size = _places(kernel, known)[0]
        return kernel.memory.read(start, size)
    except DumpError:
        return b""


# -- what follows from types ------------------------------------------------------------------------------------


def per_cpu_variables(kernel: Kernel) -> dict[str, int]:
    """Return the addresses of per-CPU variables, from their offsets in BTF and the start of their section.

    Where the section begins is what most exported per-CPU variables say.

    Raises:
        MissingTable: There are no types, or nothing tells the start.
    """
    rows = kernel.btf.section(".data..percpu")
    table = kernel.symbols
    start = table.address("__per_cpu_start")
    if start is None:
        said = [address - offset for name, _, offset, _ in rows if (address := table.address(name)) is not None]
        if not said:
            raise MissingTable("BTF and exports have no per-CPU variable in common")
        start = max(set(said), key=said.count)
        if 2 * said.count(start) <= len(said):
            raise MissingTable("exported per-CPU variables do not agree on where their section begins")
    return {name: start + offset for name, _, offset, _ in rows}


def unknown_symbol(address: int, name: str) -> Symbol:
    """Return a symbol of unknown kind."""
    return Symbol(address, name, _UNKNOWN.decode())
