# SPDX-License-Identifier: GPL-2.0-or-later
"""What the machine's memory was used for: the kernel's own counters, and the programs that held most of it.

The counters are those behind /proc/meminfo. Each CPU adds to them late: they may be off by some pages.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .errors import MissingTable
from .kernel import Kernel

__all__ = ["ROWS", "MemoryUse", "memory_use"]

_USERS = 5
_MAX_ITEMS = 1 << 10
_SIGN = 1 << 63

# Our key, what people read, the counter in vm_node_stat or vm_zone_stat (first name that the kernel has).
ROWS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("free", "free", ("NR_FREE_PAGES",)),
    ("anonymous", "programs: anonymous", ("NR_ANON_MAPPED", "NR_ANON_PAGES")),
    ("mapped", "programs: mapped files", ("NR_FILE_MAPPED",)),
    ("file", "page cache, with shared memory", ("NR_FILE_PAGES",)),
    ("shared", "shared memory, tmpfs", ("NR_SHMEM",)),
    ("dirty", "waits to be written", ("NR_FILE_DIRTY",)),
    ("writeback", "being written", ("NR_WRITEBACK",)),
    ("slab_reclaimable", "slab, reclaimable", ("NR_SLAB_RECLAIMABLE_B", "NR_SLAB_RECLAIMABLE")),
    ("slab_unreclaimable", "slab, not reclaimable", ("NR_SLAB_UNRECLAIMABLE_B", "NR_SLAB_UNRECLAIMABLE")),
    ("page_tables", "page tables", ("NR_PAGETABLE",)),
    ("unevictable", "locked", ("NR_UNEVICTABLE",)),
)


@dataclass(slots=True)
class MemoryUse:
    """Bytes by use.

    Attributes:
        total: RAM that the kernel manages.
        uses: Key of `ROWS` -> bytes; one that the kernel does not count is not there.
        swap: (all, free) bytes, None where that is not known.
        largest: (pid, name, resident bytes) of the processes that held most.
    """

    total: int
    uses: dict[str, int]
    swap: tuple[int, int] | None = None
    largest: list[tuple[int, bytes, int]] = field(default_factory=list)


def memory_use(kernel: Kernel) -> MemoryUse:
    """Read the counters.

    Raises:
        MissingTable, Unreadable: They cannot be had.
    """
    page = kernel.page_size
    memory, symbols = kernel.memory, kernel.symbols
    total = symbols.address("_totalram_pages")
    if total is None:
        total = kernel.symbol("totalram_pages")
    node, zone = _counters(kernel, "node"), _counters(kernel, "zone")
    if not node and not zone:
        raise MissingTable("the kernel has no counters vm_node_stat and vm_zone_stat")
    uses = {}
    for key, _, names in ROWS:
        for name in names:
            found = node.get(name, zone.get(name))
            if found is not None:
                uses[key] = found * page
                break
    use = MemoryUse(memory.pointer(total) * page, uses)
    swap = [symbols.address(name) for name in ("total_swap_pages", "nr_swap_pages")]
    if swap[0] is not None and swap[1] is not None:
        use.swap = (_signed(memory.pointer(swap[0])) * page, _signed(memory.pointer(swap[1])) * page)
    leaders = (task for task in kernel.tasks if task.pid == task.tgid and task.rss)
    largest = sorted(leaders, key=lambda task: (-task.rss, task.pid))[:_USERS]
    use.largest = [(task.pid, task.comm, task.rss * 1024) for task in largest]
    return use


def _signed(value: int) -> int:
    return 0 if value & _SIGN else value  # counters may be some pages below zero


def _counters(kernel: Kernel, kind: str) -> dict[str, int]:
    # counter -> pages; empty where the kernel has no such table (one table for both before 4.8)
    address = kernel.symbols.address(f"vm_{kind}_stat")
    if address is None:
        return {}
    places = kernel.structs.enumerators(f"{kind}_stat_item")
    count = min(max(places.values(), default=-1) + 1, _MAX_ITEMS)
    words = kernel.memory.words(address, count)
    return {name: _signed(words[place]) for name, place in places.items() if 0 <= place < count}
