# SPDX-License-Identifier: GPL-2.0-or-later
"""Stack traces: what all architectures have in common. Source: docs/analyze.md, "stacks".

A frame that is sure follows from registers, unwind tables or a chain of saved frames. One that is guessed was found by
looking through the stack for return addresses, and is marked so.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from ..formats.errors import DumpError
from ..formats.notes import NT_PRSTATUS, PRSTATUS_SIZES
from .calls import call_before
from .errors import MissingTable, Unreadable
from .kernel import Kernel
from .registers import REGISTERS, Registers
from .symbols import Symbol

__all__ = ["MAX_FRAMES", "Frame", "Saved", "Step", "Trace", "Unwinder", "make_unwinder"]

MAX_FRAMES = 200
_FAR = 1 << 17  # farther than any stack is long: a step over it leads to another stack
# where x86_64 kernels before ORC begin a stack, with a return address of 0 (arch/x86/kernel/{head,entry}_64.S)
_FIRST = frozenset(("x86_64_start_kernel", "start_secondary", "kernel_thread_helper", "child_rip"))
_MAX_SWITCHES = 8  # of the stack: task, interrupts, exceptions, overflow
_PID_OFFSET = {4: 24, 8: 32}


@dataclass(slots=True)
class Frame:
    """One frame.

    Attributes:
        ip: Address in it: of the next instruction for a caller.
        sp: Stack pointer in it, or where its frame record lies.
        name, offset: Function, and offset in it.
        module: Of the function, empty for the kernel.
        signal: It was interrupted, not called.
        guessed: Found by searching the stack.
        registers: The full set, where an interrupt or entry saved it here.
    """

    ip: int
    sp: int
    name: str = ""
    offset: int = 0
    module: str = ""
    signal: bool = False
    guessed: bool = False
    registers: Registers | None = None


@dataclass(slots=True)
class Trace:
    """A stack trace.

    Attributes:
        frames: The innermost first.
        user: Registers of user mode, where the trace ends there.
        stopped: Why it ended before its end, empty where it is whole.
    """

    frames: list[Frame] = field(default_factory=list)
    user: Registers | None = None
    stopped: str = ""


class Step(NamedTuple):
    """A step to the caller.

    Attributes:
        registers: The caller's, as far as they are known.
        called: ip is a return address, not an interrupted instruction.
        guessed: No more than likely.
    """

    registers: Registers
    called: bool
    guessed: bool = False


class Saved(NamedTuple):
    """Registers that a CPU saved.

    Attributes:
        pid: pr_pid of its note.
        registers: The full set.
    """

    pid: int
    registers: Registers


class Unwinder(ABC):
    """Makes traces of one kernel.

    Args:
        kernel: The kernel.

    Raises:
        MissingTable, Unreadable: What is needed is not in the dump.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.memory = kernel.memory
        self.arch = kernel.machine.arch
        self.set = REGISTERS[self.arch]
        self.word = kernel.machine.word_size

    # -- where to begin ----------------------------------------------------------------------------------------------

    def saved_registers(self) -> list[Saved]:
        """Return what the CPUs saved, in the order of their notes."""
        return list(_saved(self.kernel))

    def sleeping(self, task: int) -> Trace:
        """Trace a task that no CPU executes."""
        try:
            registers = self._switched(task)
        except DumpError as error:
            return Trace(stopped=error.message)
        return self.trace(registers, called=True)

    @abstractmethod
    def _switched(self, task: int) -> Registers:
        """Return the registers that a task had when another took its CPU."""

    @abstractmethod
    def trace(self, registers: Registers, *, called: bool = False) -> Trace:
        """Trace from a set of registers.

        Args:
            registers: At least ip, sp and what else the architecture's frames need.
            called: ip is a return address, not an interrupted instruction.
        """

    # -- steps -------------------------------------------------------------------------------------------------------

    def frame(self, now: Registers, called: bool, *, guessed: bool = False) -> Frame:
        """Return the frame that registers are in."""
        ip = now["ip"]
        frame = Frame(ip, now["sp"], signal=not called, guessed=guessed)
        found = self.lookup(ip - 1 if called else ip)
        if found is not None:
            symbol, offset = found
            frame.name, frame.offset, frame.module = symbol.name, offset + called, symbol.module
        return frame

    def lookup(self, address: int) -> tuple[Symbol, int] | None:
        """Return the symbol that an address lies in; None also where there are no symbols."""
        try:
            return self.kernel.lookup(address)
        except DumpError:
            return None

    def is_text(self, address: int) -> bool:
        """Whether an address is in a function."""
        found = self.lookup(address)
        return found is not None and found[0].letter in "tTwW"

    def function(self, address: int) -> int | None:
        """Return where the function begins that an address is in, None where it is in none."""
        found = self.lookup(address)
        return found[0].address if found is not None and found[0].letter in "tTwW" else None

    def called_from(self, address: int) -> int | None:
        """Return the target of the call that ends at an address: 0 an indirect one, None where none ends there."""
        return call_before(self.memory, self.arch, address)

    def plain(self, address: int) -> int:
        """Return an address without what an architecture keeps in its upper bits."""
        return address

    def search(self, trace: Trace) -> None:
        """Go on by every word of the stack that follows a call; the kernel's own oops marks those by `?`."""
        last = trace.frames[-1]
        size = self.kernel.stack_size
        end = (last.sp & -size) + size
        start = last.sp & -self.word
        raw, _ = self.memory.read_sparse(start, max(0, min(end - start, size)))
        found = 0
        for at in range(0, len(raw) - self.word + 1, self.word):
            value = self.plain(int.from_bytes(raw[at : at + self.word], self.kernel.machine.byteorder))
            if value and self.is_text(value - 1) and self.called_from(value) is not None:
                registers = {"ip": value, "sp": start + at + self.word}
                trace.frames.append(self.frame(registers, called=True, guessed=True))
                found += 1
                if found >= MAX_FRAMES:
                    break
        if found:
            trace.stopped += f"; {found} more by searching the stack"


class ChainUnwinder(Unwinder):
    """Follows frames that lead to each other; an architecture says how."""

    def trace(self, registers: Registers, *, called: bool = False) -> Trace:
        """Trace from a set of registers."""
        trace = Trace()
        if not called and self.set.in_user_mode(registers):
            trace.user = registers
            return trace
        self._follow(trace, dict(registers), called)
        if trace.stopped and len(trace.frames) <= 2:
            self.search(trace)
        return trace

    def _follow(self, trace: Trace, now: Registers, called: bool) -> None:
        seen, switches, guessed = set[int](), 0, False
        for _ in range(MAX_FRAMES):
            frame = self.frame(now, called, guessed=guessed)
            trace.frames.append(frame)
            seen.add(now["sp"])
            try:
                step = self._caller(now, called, frame)
            except DumpError as error:
                trace.stopped = error.message
                return
            if step is None:
                return
            following = step.registers
            if not step.called and self.set.in_user_mode(following):
                trace.user = following
                return
            if not self.is_text(following["ip"] - step.called):
                if following["ip"] == 0 and frame.name in _FIRST:
                    return
                trace.stopped = f"{following['ip']:#x} is no address of a function"
                return
            # it grows but for where a function has no frame, and where a handler's stack ends and leads to the stack
            # that was interrupted
            if (called or not step.called) and not step.guessed and following["sp"] <= now["sp"]:
                switches += 1
                near = now["sp"] - following["sp"] < _FAR and step.called
                if (following["sp"] in seen and near) or switches > _MAX_SWITCHES:
                    trace.stopped = f"stack pointer does not grow: {now['sp']:#x}, then {following['sp']:#x}"
                    return
            now, called, guessed = following, step.called, step.guessed
        trace.stopped = f"more than {MAX_FRAMES} frames"

    @abstractmethod
    def _caller(self, now: Registers, called: bool, frame: Frame) -> Step | None:
        """Return the step to the caller, None where the trace has come to its regular end.

        Args:
            now: Registers in the frame.
            called: As in `Step`.
            frame: Gets the registers that an interrupt or entry saved in it.

        Raises:
            MissingTable, Unreadable: The frame makes no sense, or is not in the dump.
        """

    def _without_frame(self, now: Registers, saved: int) -> Step | None:
        # A function that calls no other has no frame of its own: its caller is in the link register, and what the
        # stack says is about the caller's caller already.
        link = self.plain(now.get(self.set.link, 0)) if self.set.link else 0
        if not link or link == saved or not self.is_text(link - 1):
            return None
        function = self.function(now["ip"])
        if function is None or function == self.function(link - 1):
            return None
        target = self.called_from(link)
        if target is None:
            return None
        following = {name: value for name, value in now.items() if name in ("sp", self.set.frame)} | {"ip": link}
        # behind its beginning: functions may have several entries there
        return Step(following, called=True, guessed=not function <= target <= function + 8)


def _saved(kernel: Kernel) -> Iterator[Saved]:
    arch = kernel.machine.arch
    if arch not in REGISTERS or arch not in PRSTATUS_SIZES:
        return
    names, (size, start, length) = REGISTERS[arch].names, PRSTATUS_SIZES[arch]
    word = kernel.machine.word_size
    count = min(len(names), length // word)
    for note in kernel.reader.notes:
        if note.name == b"CORE" and note.type == NT_PRSTATUS and note.size >= start + count * word:
            desc = note.desc(max(size, start + count * word))
            order = kernel.reader.machine.byteorder
            values = [int.from_bytes(desc[at : at + word], order) for at in range(start, start + count * word, word)]
            found = dict(zip(names, values, strict=False))
            for segment in ("cs", "ss", "ds", "es", "fs", "gs") if arch == "i386" else ():
                found[segment] &= 0xFFFF
            pid = int.from_bytes(desc[_PID_OFFSET[word] :][:4], order, signed=True)
            yield Saved(pid, found)


def make_unwinder(kernel: Kernel) -> Unwinder:
    """Return what makes traces of a kernel.

    Raises:
        MissingTable, Unreadable: Its stacks cannot be unwound.
    """
    from .chain_unwind import Ppc64Unwinder, S390Unwinder
    from .frame_unwind import Arm64Unwinder, ArmUnwinder, RiscvUnwinder, X86FrameUnwinder, X86SearchUnwinder
    from .orc_unwind import OrcUnwinder

    arch = kernel.machine.arch
    if arch == "x86_64":
        try:
            return OrcUnwinder(kernel)
        except (MissingTable, Unreadable) as error:
            with suppress(DumpError):
                table = kernel.symbols
                if not table.gaps and table.address("__start_orc_unwind_ip") is None:
                    return X86FrameUnwinder(kernel)
            return X86SearchUnwinder(kernel, error.message)  # such a kernel keeps no frame pointers
    made: dict[str, type[Unwinder]] = {
        "i386": X86FrameUnwinder,
        "aarch64": Arm64Unwinder,
        "riscv64": RiscvUnwinder,
        "s390x": S390Unwinder,
        "ppc64": Ppc64Unwinder,
        "arm": ArmUnwinder,
    }
    if arch not in made:
        raise MissingTable(f"stacks of {arch} cannot be unwound")
    return made[arch](kernel)
