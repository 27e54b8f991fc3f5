# SPDX-License-Identifier: GPL-2.0-or-later
"""Types of the kernel's variables: BTF has them for per-CPU ones only, so the others that debuggers need stand here.

Several declarations of one name are of different versions: the first counts whose types are in BTF and whose size fits
before the next symbol. `[*]` is an array that ends there, of constant pointers before the zeros that
follow it.
"""

from __future__ import annotations

import re
from typing import Protocol

from ..btf import KIND, Btf
from ..errors import MissingTable, Unreadable
from ..kernel import Kernel
from .dwarf import Made, TypeUnit

__all__ = ["DECLARATIONS", "Declarer", "declaration_of", "declare_all"]

# type: names. A name in several rows has several declarations, in this order.
DECLARATIONS: tuple[tuple[str, str], ...] = (
    ("struct task_struct", "init_task"),
    ("struct mm_struct", "init_mm"),
    ("struct pid_namespace", "init_pid_ns"),
    ("struct uts_namespace", "init_uts_ns"),
    ("struct ipc_namespace", "init_ipc_ns"),
    ("struct net", "init_net"),
    ("struct task_group", "root_task_group"),
    ("struct list_head", "modules net_namespace_list pci_root_buses slab_caches vmap_area_list super_blocks"),
    ("struct rb_root", "vmap_area_root"),
    ("struct idr", "btf_idr link_idr map_idr prog_idr"),
    ("struct xarray", "irq_desc_tree"),
    ("struct radix_tree_root", "irq_desc_tree"),
    ("struct maple_tree", "sparse_irqs"),
    ("struct cpumask", "__cpu_online_mask __cpu_possible_mask __cpu_present_mask"),
    ("const struct cpumask *const", "cpu_online_mask cpu_possible_mask cpu_present_mask"),
    ("nodemask_t [NR_NODE_STATES]", "node_states"),
    ("struct resource", "ioport_resource iomem_resource"),
    ("struct memblock", "memblock"),
    ("struct mod_tree_root", "mod_tree"),
    ("struct neigh_table", "arp_tbl"),
    ("struct percpu_counter", "vm_committed_as"),
    ("struct timer_list", "poll_spurious_irq_timer"),
    ("struct cgroup_root", "cgrp_dfl_root"),
    ("struct bus_type", "memory_subsys pci_bus_type"),
    ("struct class", "block_class"),
    ("struct kobj_type", "bus_ktype class_ktype device_ktype driver_ktype module_ktype"),
    ("struct kset *", "bus_kset class_kset slab_kset"),
    ("struct kernfs_node *", "sysfs_root_kn"),
    ("struct kmem_cache *", "task_struct_cachep"),
    ("struct kobj_map *", "cdev_map"),
    ("struct super_block *", "blockdev_superblock"),
    ("struct printk_ringbuffer *", "prb"),
    ("struct mem_section **", "mem_section"),
    ("struct mem_section *[*]", "mem_section"),
    ("struct page *", "mem_map"),
    ("struct pglist_data", "contig_page_data"),
    ("struct pglist_data *[*]", "node_data"),
    ("struct swap_info_struct *[*]", "swap_info"),
    ("struct address_space *[*]", "swapper_spaces"),
    ("unsigned int [*]", "nr_swapper_spaces"),
    ("struct hstate [*]", "hstates"),
    ("struct hlist_head [*]", "uidhash_table"),
    ("struct hlist_head *", "pid_hash"),
    ("struct char_device_struct *[255]", "chrdevs"),
    ("struct blk_major_name *[255]", "major_names"),
    ("struct softirq_action [NR_SOFTIRQS]", "softirq_vec"),
    ("gate_desc [256]", "idt_table"),
    ("const struct taint_flag [*]", "taint_flags"),
    ("const char *const [*]", "task_state_array"),
    ("const char *[DMI_STRING_MAX]", "dmi_ident"),
    ("const struct file_operations", "ns_file_operations"),
    ("note_buf_t *", "crash_notes"),
    ("atomic_t", "panic_cpu"),
    ("atomic_long_t", "_totalram_pages nr_swap_pages"),
    ("unsigned long", "totalram_pages"),
    ("atomic_long_t [NR_VM_ZONE_STAT_ITEMS]", "vm_zone_stat vm_stat"),
    ("atomic_long_t [NR_VM_NODE_STAT_ITEMS]", "vm_node_stat"),
    ("atomic_long_t [NR_VM_NUMA_EVENT_ITEMS]", "vm_numa_event"),
    ("u64", "jiffies_64"),
    ("volatile unsigned long", "jiffies"),
    (
        "unsigned long",
        "max_pfn max_low_pfn min_low_pfn page_offset_base vmalloc_base vmemmap_base tainted_mask "
        "__highest_present_section_nr sysctl_overcommit_kbytes tick_nsec loops_per_jiffy vmap_zone_size",
    ),
    ("unsigned long [3]", "avenrun"),
    ("unsigned long [*]", "__per_cpu_offset"),
    ("unsigned int", "nr_cpu_ids nr_node_ids nr_swapfiles nr_vmap_nodes"),
    ("struct vmap_node *", "vmap_nodes"),
    (
        "int",
        "crashing_cpu nr_irqs nr_threads hugetlb_max_hstate ipc_mni_shift sections_per_block sysctl_overcommit_ratio",
    ),
    ("long", "total_swap_pages"),
    ("char *", "log_buf saved_command_line"),
    ("void *[*]", "stack_slabs"),
    ("u32", "log_first_idx log_next_idx log_buf_len"),
    ("const unsigned long [65][*]", "cpu_bit_bitmap"),
    ("const int", "write_expire"),
    ("struct { seqcount_raw_spinlock_t seq; struct timekeeper timekeeper; }", "tk_core"),
    ("struct { seqcount_t seq; struct timekeeper timekeeper; }", "tk_core"),
    ("struct tk_data", "tk_core"),
    ("struct tk_data [*]", "timekeeper_data"),
)

_INTEGERS = {
    "unsigned long": "long unsigned int",
    "long": "long int",
    "unsigned int": "unsigned int",
    "int": "int",
    "char": "char",
}
_WORD = re.compile(r"\w+|[*;{}]|\[[^]]*\]")
_MAX_DEPTH = 16
_MAX_POINTERS = 512


class _Maker(Protocol):
    def make(self, made: Made) -> int: ...


class _Sizes:
    # makes nothing: for a declaration of which only the size counts
    def make(self, made: Made) -> int:
        return 0


class Declarer:
    """Makes types from C declarations.

    Args:
        btf: Types by name.
        unit: Where types are made that BTF does not have.
    """

    def __init__(self, btf: Btf, unit: _Maker) -> None:
        self._btf, self._unit = btf, unit

    def resolve(self, text: str, room: int) -> tuple[int, int]:
        """Return number and size of a declaration's type.

        Args:
            text: As in `DECLARATIONS`.
            room: Bytes that the variable has, for `[*]`.

        Raises:
            MissingTable: A type of it is not in BTF.
        """
        words = _WORD.findall(text)
        if words[:2] == ["struct", "{"]:
            return self._structure(words[2:-1])
        return self._plain(words, room)

    def _plain(self, words: list[str], room: int) -> tuple[int, int]:
        before = [words.pop(0)] if words[0] in ("const", "volatile") else []
        base = []
        while words and words[0][0] not in "*[" and words[0] != "const":
            base.append(words.pop(0))
        number, size = self._named(base)
        for word in before:
            number = self._unit.make(Made(word, number))
        for word in [word for word in words if word[0] != "["]:
            if word == "*":
                number, size = self._unit.make(Made("ptr", number)), self._btf.pointer_size
            else:
                number = self._unit.make(Made(word, number))
        # C has the innermost dimension last
        dimensions = [word[1:-1] for word in words if word[0] == "["]
        for text in dimensions if "*" in dimensions[1:] else reversed(dimensions):
            count = self._count(str(room // size) if text == "*" and size else text)
            number, size = self._unit.make(Made("array", number, count)), size * count
        return number, size

    def _named(self, words: list[str]) -> tuple[int, int]:
        if words == ["void"]:
            return 0, 0
        name = " ".join(words)
        if len(words) == 2 and words[0] in ("struct", "union", "enum"):
            found = self._btf.find(words[1], words[0])
        elif name in _INTEGERS:
            found = self._btf.find(_INTEGERS[name], "int") or self._btf.find(name, "int")
        else:
            found = self._btf.find(name, "typedef")
        if found is None:
            raise MissingTable(f"BTF has no {name}")
        return found.id, self._btf.size_of(found.id)

    def _count(self, text: str) -> int:
        found = int(text) if text.isdigit() else self._btf.constant(text)
        if found is None or not 0 <= found < 1 << 20:
            raise MissingTable(f"BTF has no {text}")
        return found

    def _structure(self, words: list[str]) -> tuple[int, int]:
        members, at, biggest = [], 0, 1
        while words:
            end = words.index(";")
            *kind, name = words[:end]
            words = words[end + 1 :]
            number, size = self._plain(kind, 0)
            align = alignment(self._btf, number)
            at += -at % align
            members.append((name, number, at))
            at, biggest = at + size, max(biggest, align)
        at += -at % biggest
        if at >= 1 << 32:
            raise MissingTable(f"BTF makes a structure of {at} bytes")
        return self._unit.make(Made("struct", 0, at, tuple(members))), at


def alignment(btf: Btf, number: int) -> int:
    """Return the natural alignment of a type: BTF does not say it."""
    return _alignment(btf, number, 0, {})


def _alignment(btf: Btf, number: int, depth: int, known: dict[int, int]) -> int:
    # each type once: structures may have each other as members, a thousand times
    found = btf.strip(number)
    if depth > _MAX_DEPTH or found.id in known:
        return known.get(found.id, 1)
    known[found.id] = 1
    if found.kind in (KIND["struct"], KIND["union"]):
        known[found.id] = max((_alignment(btf, each.type, depth + 1, known) for each in btf.members(found)), default=1)
    elif found.kind == KIND["array"]:
        known[found.id] = _alignment(btf, btf.array(found)[0], depth + 1, known)
    else:
        size = btf.size_of(found.id)
        known[found.id] = size if size in (1, 2, 4, 8, 16) else 1
    return known[found.id]


def declaration_of(kernel: Kernel, name: str) -> str | None:
    """Return the C declaration of a variable that BTF has no type of; None if it is not one of those known here."""
    place = kernel.symbols.address(name)
    if place is None or place < kernel.kernel_start:
        return None
    room = kernel.symbols.end_of(place) - place
    declarer = Declarer(kernel.btf, _Sizes())
    for text, names in DECLARATIONS:
        if name not in names.split():
            continue
        try:
            size = declarer.resolve(text, room)[1]
        except MissingTable:
            continue
        if 0 < size <= room:
            before, bracket, after = ("struct {...}", "", "") if "{" in text else text.partition("[")
            before = before.rstrip()
            return f"{before}{'' if before.endswith('*') else ' '}{name}{(bracket + after).replace('*', '')}"
    return None


def declare_all(kernel: Kernel, unit: TypeUnit, offset: int) -> int:
    """Add all variables whose types are known to the unit; return how many.

    Args:
        kernel: Symbols, BTF.
        unit: Where they are added.
        offset: Run-time less link-time address.
    """
    btf, symbols = kernel.btf, kernel.symbols
    done: set[str] = set()
    start = symbols.address("__per_cpu_start")
    for name, number, place, _ in btf.section(".data..percpu"):
        # where the table has functions only, exported variables have told where the section begins
        address = start + place if start is not None else kernel.find(name)
        if name not in done and address is not None:
            done.add(name)
            unit.variable(name, number, address - offset if address >= kernel.kernel_start else address)
    declarer = Declarer(btf, unit)
    for text, names in DECLARATIONS:
        for name in names.split():
            address = symbols.address(name) or 0
            if name in done or address < kernel.kernel_start or not address:
                continue
            room = symbols.end_of(address) - address
            try:
                if text.startswith("const") and text.endswith("*const [*]"):
                    room = _without_padding(kernel, address, room)
                number, size = declarer.resolve(text, room)
            except (MissingTable, Unreadable):
                continue
            if 0 < size <= room:
                done.add(name)
                unit.variable(name, number, address - offset)
    _hz(kernel, declarer, unit, done)
    return len(done)


def _without_padding(kernel: Kernel, address: int, room: int) -> int:
    word = kernel.machine.word_size
    words = kernel.memory.words(address, min(room // word, _MAX_POINTERS))
    while words and not words[-1]:
        words.pop()
    return word * len(words)


def _hz(kernel: Kernel, declarer: Declarer, unit: TypeUnit, done: set[str]) -> None:
    # crash takes the timer frequency from the I/O scheduler's 5 s; where that is a module, it has no such symbol
    place = kernel.symbols.address("tick_nsec")
    if place is None or "write_expire" in done:
        return
    nanoseconds = kernel.memory.pointer(place)
    if 10**5 <= nanoseconds <= 10**8:
        unit.constant("write_expire", declarer.resolve("const int", 0)[0], 5 * round(10**9 / nanoseconds))
