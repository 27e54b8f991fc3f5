# SPDX-License-Identifier: GPL-2.0-or-later
"""Tasks: idle tasks of the CPUs, then every process with its threads. Source: docs/analyze.md, "tasks"."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from ..formats.errors import DumpError
from .errors import MissingTable
from .kernel import Kernel

__all__ = ["Task", "Tasks"]

_MAX_CPUS = 8192
_MAX_TASKS = 1 << 22
_MAX_AGAIN = 1 << 12
_STATES = {0x1: "IN", 0x2: "UN", 0x4: "ST", 0x8: "TR", 0x10: "DE", 0x20: "ZO", 0x40: "PA"}
_NOLOAD = 0x400
_PF_KTHREAD = 0x00200000


@dataclass(frozen=True, slots=True)
class Task:
    """One task.

    Attributes:
        address: Of its task_struct.
        pid, ppid, tgid: Numbers.
        cpu: Where it runs or ran last.
        state: crash's two letters: RU, IN, UN, ST, TR, DE, ZO, PA, ID.
        comm: Name.
        is_thread_of_kernel: Whether it has no user memory of its own.
        running: Whether a CPU executes it.
        vsz, rss: KiB, 0 for a kernel thread.
        stack: Lowest address of its kernel stack.
    """

    address: int
    pid: int
    ppid: int
    tgid: int
    cpu: int
    state: str
    comm: bytes
    is_thread_of_kernel: bool
    running: bool
    vsz: int
    rss: int
    stack: int


class Tasks:
    """All tasks of a kernel.

    Args:
        kernel: The kernel; BTF is needed.

    Attributes:
        complaints: What could not be read.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._structs = kernel.structs
        self.complaints: list[str] = []

    @cached_property
    def running(self) -> dict[int, int]:
        """The task that each CPU was executing: CPU -> task_struct."""
        return self._per_cpu("curr")

    def _per_cpu(self, member: str) -> dict[int, int]:
        found = {}
        for cpu, address in self._kernel.per_cpu("runqueues"):
            try:
                found[cpu] = self._structs.get(address, "rq", member)
            except DumpError as error:
                self._complain(f"runqueue of CPU {cpu}: {error.message}")
        return found

    def _complain(self, text: str) -> None:
        if len(self.complaints) < 100:
            self.complaints.append(text)

    def addresses(self) -> Iterator[int]:
        """Yield task_struct addresses: idle tasks by CPU, then leaders in order of creation, each with its threads."""
        seen: set[int] = set()
        for address in self._per_cpu("idle").values():
            if address not in seen:
                seen.add(address)
                yield address
        init, again = self._kernel.symbol("init_task"), 0
        try:
            for leader in self._structs.list(
                init + self._structs.offset("task_struct", "tasks"), "task_struct", "tasks"
            ):
                for address in self._threads(leader):
                    if address not in seen:
                        seen.add(address)
                        yield address
                    else:  # a leader is in the list of its own threads, no other task is twice in any
                        again += 1
                    if len(seen) > _MAX_TASKS or again > len(seen) + _MAX_AGAIN:
                        raise MissingTable("the list of tasks does not end")
        except DumpError as error:
            self._complain(f"list of tasks: {error.message}")

    def _threads(self, leader: int) -> Iterator[int]:
        yield leader
        structs = self._structs
        try:
            if structs.first("signal_struct", "thread_head") is not None:
                signal = structs.get(leader, "task_struct", "signal")
                head = signal + structs.offset("signal_struct", "thread_head")
                yield from structs.list(head, "task_struct", "thread_node")
            else:
                head = leader + structs.offset("task_struct", "thread_group")
                yield from structs.list(head, "task_struct", "thread_group")
        except DumpError as error:
            self._complain(f"threads of task {leader:#x}: {error.message}")

    def __iter__(self) -> Iterator[Task]:
        for address in self.addresses():
            try:
                yield self.read(address)
            except DumpError as error:
                self._complain(f"task {address:#x}: {error.message}")

    def read(self, address: int) -> Task:
        """Read one task.

        Raises:
            Unreadable, MissingTable: Its task_struct is not in the dump, or BTF lacks a member.
        """
        get, structs = self._structs.get, self._structs
        flags = get(address, "task_struct", "flags")
        mm = get(address, "task_struct", "mm")
        parent = get(address, "task_struct", "real_parent")
        try:
            ppid = get(parent, "task_struct", "tgid") if get(address, "task_struct", "pid") else 0
        except DumpError:
            ppid = 0
        vsz, rss = self._memory_use(mm) if mm else (0, 0)
        running = self.running.get(self._cpu(address)) == address
        return Task(
            address=address,
            pid=get(address, "task_struct", "pid"),
            ppid=ppid,
            tgid=get(address, "task_struct", "tgid"),
            cpu=self._cpu(address),
            state=self._state(address),
            comm=structs.string(address, "task_struct", "comm"),
            is_thread_of_kernel=bool(flags & _PF_KTHREAD) or not mm,
            running=running,
            vsz=vsz,
            rss=rss,
            stack=get(address, "task_struct", "stack"),
        )

    def _cpu(self, address: int) -> int:
        structs = self._structs
        path = structs.first("task_struct", "cpu", "thread_info.cpu")
        if path is not None:
            return structs.get(address, "task_struct", path)
        return structs.get(structs.get(address, "task_struct", "stack"), "thread_info", "cpu")

    def _state(self, address: int) -> str:
        structs = self._structs
        path = structs.first("task_struct", "__state", "state") or "state"
        state = structs.get(address, "task_struct", path)
        left = structs.get(address, "task_struct", "exit_state")
        if left & 0x20:
            return "ZO"
        if left & 0x10:
            return "DE"
        if state & 0x7F == 0 and not state & 0x80:
            return "RU"
        if state & _NOLOAD and state & 2:
            return "ID"
        return next((name for bit, name in _STATES.items() if state & bit), "??")

    def _memory_use(self, mm: int) -> tuple[int, int]:
        structs, page = self._structs, self._kernel.page_size // 1024
        try:
            total = structs.get(mm, "mm_struct", "total_vm")
            return total * page, max(0, self._resident(mm)) * page
        except DumpError:
            return 0, 0

    def _resident(self, mm: int) -> int:
        # file, anonymous and shared pages: counters that changed their shape several times
        structs, memory = self._structs, self._kernel.memory
        indices = [structs.constant(name) for name in ("MM_FILEPAGES", "MM_ANONPAGES", "MM_SHMEMPAGES")]
        wanted = [index for index in indices if index is not None]
        if structs.btf.find("mm_rss_stat", "struct") is not None:
            base = mm + structs.offset("mm_struct", "rss_stat")
            offset, size, _ = structs.field("mm_rss_stat", "count")
            word = memory.word
            return sum(memory.integer(base + offset + word * index, word, signed=True) for index in wanted)
        offset, _, _ = structs.field("mm_struct", "rss_stat")
        size = structs.size("percpu_counter")
        counter = structs.offset("percpu_counter", "count")
        return sum(memory.integer(mm + offset + size * index + counter, 8, signed=True) for index in wanted)
