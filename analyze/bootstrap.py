# SPDX-License-Identifier: GPL-2.0-or-later
"""A VMCOREINFO where the dump has none: made from symbols, the kernel's banner in memory, and types.

The banner ("Linux version ...") is found by its text, which gives its physical address; a symbol table gives its
virtual one. Both together say where the kernel lies. The result holds what the rest of analyze asks for, no more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ..formats.errors import DumpError
from ..formats.pagetable import Arm64PageTable, X86PageTable
from ..formats.vmcoreinfo import VmcoreInfo
from .banner import banners
from .errors import MissingTable

if TYPE_CHECKING:
    from .btf import Btf
    from .memory import PhysicalMemory

__all__ = ["make_vmcoreinfo"]

Find = Callable[[str], int | None]

_MASK = 0xFFFFFFFFFFFFFFFF
_X86_TEXT, _X86_MODULES = 0xFFFFFFFF80000000, 0xFFFFFFFFC0000000
_SYMBOLS = (
    "_stext", "init_uts_ns", "swapper_pg_dir", "init_top_pgt", "init_level4_pgt", "log_buf", "log_buf_len", "log_end",
    "logged_chars", "log_first_idx", "log_next_idx", "prb",
)  # fmt: skip
_SIZES = ("prb_desc", "printk_info", "printk_log")
_OFFSETS = (
    "printk_ringbuffer.desc_ring", "printk_ringbuffer.text_data_ring", "prb_desc_ring.count_bits",
    "prb_desc_ring.descs", "prb_desc_ring.infos", "prb_desc_ring.head_id", "prb_desc_ring.tail_id",
    "prb_desc.state_var", "prb_desc.text_blk_lpos", "prb_data_blk_lpos.begin", "prb_data_blk_lpos.next",
    "printk_info.seq", "printk_info.ts_nsec", "printk_info.text_len", "prb_data_ring.size_bits", "prb_data_ring.data",
    "atomic_long_t.counter", "printk_log.ts_nsec", "printk_log.len", "printk_log.text_len",
)  # fmt: skip


def make_vmcoreinfo(physical: PhysicalMemory, find: Find, types: Callable[[], Btf], *, moved: bool) -> VmcoreInfo:
    """Make it.

    Args:
        physical: The dump's memory.
        find: Gives the address of a symbol.
        types: Gives the kernel's types, raising MissingTable where there are none.
        moved: The addresses are those of the link: the kernel may run elsewhere.

    Raises:
        MissingTable: The banner is not in memory, or lies where these symbols do not have it.
    """
    banner = find("linux_banner")
    if banner is None:
        raise MissingTable("VMCOREINFO cannot be made: no symbol linux_banner")
    place = _PLACES.get(physical.machine.arch)
    if place is None:
        raise MissingTable(f"VMCOREINFO of {physical.machine.arch} cannot be made")
    for paddr, release in banners(physical):
        try:
            found = place(physical, find, banner, paddr)
        except DumpError:
            continue
        if found is None or (found[0] and not moved):
            continue
        offset, lines = found
        lines = [f"OSRELEASE={release}", *lines, f"PAGESIZE={physical.machine.page_size}"]
        for name in _SYMBOLS:
            address = find(name)
            if address is None and name == "swapper_pg_dir":  # of x86_64 a macro, which VMCOREINFO has by its name
                address = find("init_top_pgt") or find("init_level4_pgt")
            if address is not None:
                lines.append(f"SYMBOL({name})={address + offset & _MASK:x}")
        if moved:
            lines.append(f"KERNELOFFSET={offset & _MASK:x}")
        return VmcoreInfo("\n".join([*lines, *_layout(types), ""]).encode())
    raise MissingTable("VMCOREINFO cannot be made: no kernel in memory lies where its symbols say")


def _x86_64(physical: PhysicalMemory, find: Find, banner: int, paddr: int) -> tuple[int, list[str]] | None:
    top = find("init_top_pgt") or find("init_level4_pgt") or find("swapper_pg_dir")
    if top is None:
        return None
    root = paddr + top - banner
    if root & 0xFFF or root < 0:
        return None
    for levels in (4, 5):
        walker = X86PageTable(physical, root, levels)
        for each in walker.mappings(_X86_TEXT, _X86_MODULES):
            if each.paddr <= paddr < each.paddr + each.size:
                vaddr = each.vaddr + paddr - each.paddr
                lines = [f"NUMBER(phys_base)={paddr - (vaddr - _X86_TEXT)}"]
                lines.append(f"NUMBER(pgtable_l5_enabled)={levels - 4}")
                return vaddr - banner, lines
    return None


def _lowmem(physical: PhysicalMemory, find: Find, banner: int, paddr: int) -> tuple[int, list[str]] | None:
    # i386: memory is mapped at PAGE_OFFSET, and so is the kernel
    start = banner & 0xC0000000 or 0xC0000000
    offset = start + paddr - banner
    lines = ["CONFIG_X86_PAE=y"] if _has_pae(physical, find, start, offset) else []
    return offset, lines


def _has_pae(physical: PhysicalMemory, find: Find, start: int, offset: int) -> bool:
    # the kernel's quarter of the top level is one entry with PAE, 256 without
    top = find("swapper_pg_dir")
    if top is None:
        return False
    raw = physical.read(top + offset - start, 4096)
    index = start >> 22
    plain = [raw[4 * each] & 1 for each in range(index, index + 16)]
    return not all(plain)


def _arm(physical: PhysicalMemory, find: Find, banner: int, paddr: int) -> tuple[int, list[str]] | None:
    # the same linear map, but RAM begins anywhere
    return (0, []) if (banner - paddr) & 0xFFFFF == 0 else None


def _aarch64(physical: PhysicalMemory, find: Find, banner: int, paddr: int) -> tuple[int, list[str]] | None:
    top = find("swapper_pg_dir")
    if top is None or (banner - paddr) & 0xFFF:
        return None
    voffset = banner - paddr & _MASK
    for shift, bits in ((12, 48), (12, 39), (16, 48), (16, 42), (14, 47), (14, 36), (16, 52)):
        walker = Arm64PageTable(physical, top - voffset & _MASK, shift, bits)
        if walker.translate(banner) == paddr:
            return 0, [f"NUMBER(kimage_voffset)={voffset:#x}", f"NUMBER(VA_BITS)={bits}", f"PAGESIZE={1 << shift}"]
    return None


def _linear(physical: PhysicalMemory, find: Find, banner: int, paddr: int) -> tuple[int, list[str]] | None:
    # s390x: addresses are physical; ppc64: above 0xc000...
    return (0, []) if banner & 0x0FFFFFFFFFFFFFFF == paddr else None


_PLACES = {
    "x86_64": _x86_64,
    "i386": _lowmem,
    "arm": _arm,
    "aarch64": _aarch64,
    "s390x": _linear,
    "ppc64": _linear,
}


def _layout(types: Callable[[], Btf]) -> Iterator[str]:
    # what the log needs, where the kernel has types
    try:
        btf = types()
    except DumpError:
        return
    for name in _SIZES:
        found = btf.find(name, "struct")
        if found is not None:
            yield f"SIZE({name})={found.size}"
    for path in _OFFSETS:
        structure, _, member = path.partition(".")
        try:
            yield f"OFFSET({path})={btf.offset(structure, member)}"
        except DumpError:
            continue
