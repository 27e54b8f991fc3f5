# SPDX-License-Identifier: GPL-2.0-or-later
"""Stack traces by frame pointers: aarch64, riscv64, i386, x86_64 without ORC; arm, where they are searched for.

A frame record is the caller's frame pointer and the return address. Where an interrupt or a system call came in, the
record lies inside (or beside) the registers that were saved: those are then taken, and the trace goes on from them.
Source: docs/analyze.md, "stacks"; Linux arch/{arm64,riscv,x86}/kernel/{stacktrace,unwind_frame}.c, 6.1 and 6.12.
"""

from __future__ import annotations

from contextlib import suppress

from ..formats.errors import DumpError
from .errors import MissingTable
from .kernel import Kernel
from .registers import Registers
from .unwind import ChainUnwinder, Frame, Step

__all__ = ["Arm64Unwinder", "ArmUnwinder", "RiscvUnwinder", "X86FrameUnwinder", "X86SearchUnwinder"]

_MASK = 0xFFFFFFFFFFFFFFFF
_META_REGISTERS = 2  # the type of an empty record that registers lie around (6.13 and later)
_RISCV_ENDS = frozenset(("ret_from_fork", "_start_kernel", "secondary_start_common", "ret_from_fork_kernel_asm"))
_RISCV_ENTRIES = frozenset(("handle_exception", "ret_from_exception", "handle_kernel_stack_overflow"))
_X86_ENTRIES = ("entry_", "asm_", "ret_from_", "common_interrupt", "do_", "error_", "page_fault")


class Arm64Unwinder(ChainUnwinder):
    """aarch64: x29 points to (x29, x30) of the caller; in struct pt_regs a record of its own joins the chain."""

    def __init__(self, kernel: object) -> None:
        super().__init__(kernel)  # type: ignore[arg-type]
        info = self.kernel.info
        mask = info.number("KERNELPACMASK") or 0
        if not mask:
            bits = info.number("VA_BITS") or 48
            mask = _MASK & ~((1 << max(36, min(bits, 52))) - 1)
        self._pac = mask
        # of the frame record in struct pt_regs, which moved when it became longer (6.13)
        self._in_regs = [304]
        with suppress(DumpError):
            self._in_regs.insert(0, self.kernel.structs.offset("pt_regs", "stackframe"))

    def _switched(self, task: int) -> Registers:
        get = self.kernel.structs.get
        names = {"fp": "fp", "sp": "sp", "ip": "pc"}
        found = {each: get(task, "task_struct", f"thread.cpu_context.{name}") for each, name in names.items()}
        found["ip"] = self.plain(found["ip"])
        return found

    def plain(self, address: int) -> int:
        """Return an address without the bits of pointer authentication."""
        return address | self._pac if address >> 55 & 1 else address

    def _caller(self, now: Registers, called: bool, frame: Frame) -> Step | None:
        record = now["fp"]
        if record == 0 and called:
            return None
        if record & 7:
            raise MissingTable(f"frame record at {record:#x}, which is not aligned")
        following, link = self.memory.words(record, 2)
        plain = self.plain(link)
        if not called:
            leaf = self._without_frame(now, plain)
            if leaf is not None:
                return leaf
        saved = self._saved_around(record, following, link)
        if saved is not None:
            if not self.set.in_user_mode(saved):
                frame.registers = saved
            return Step(saved, called=False)
        if following == link == 0:
            return None
        return Step({"ip": plain, "fp": following, "sp": record + 16}, called=True)

    def _saved_around(self, record: int, following: int, link: int) -> Registers | None:
        # the registers that a frame record lies in: it repeats two of them, or is empty where the trace ends
        for offset in self._in_regs:
            saved = self._saved_at(record - offset)
            if saved is None:
                continue
            if following or link:
                found = (saved["fp"], saved["ip"]) == (following, link)
            elif self.set.in_user_mode(saved):
                found = bool(saved["ip"])
            else:
                found = self.memory.pointer(record + 16) == _META_REGISTERS and self.is_text(saved["ip"])
            if found:
                return saved
        return None

    def _saved_at(self, address: int) -> Registers | None:
        try:
            return dict(zip(self.set.names, self.memory.words(address, len(self.set.names)), strict=True))
        except DumpError:
            return None


class RiscvUnwinder(ChainUnwinder):
    """riscv64: s0 is the stack pointer of the caller; below it lie its s0 and the return address."""

    def _switched(self, task: int) -> Registers:
        get = self.kernel.structs.get
        offset, _, _ = self.kernel.structs.field("task_struct", "thread.s")
        return {
            "ip": get(task, "task_struct", "thread.ra"),
            "sp": get(task, "task_struct", "thread.sp"),
            "fp": self.memory.pointer(task + offset),
        }

    def _caller(self, now: Registers, called: bool, frame: Frame) -> Step | None:
        record = now["fp"]
        if frame.name in _RISCV_ENDS or record == 0:
            return None
        if called and frame.name in _RISCV_ENTRIES:
            saved = dict(zip(self.set.names, self.memory.words(now["sp"], len(self.set.names)), strict=True))
            if saved["ip"]:
                frame.registers = None if self.set.in_user_mode(saved) else saved
                return Step(saved, called=False)
        if record & 7:
            raise MissingTable(f"frame at {record:#x}, which is not aligned")
        following, link = self.memory.words(record - 16, 2)
        if not called and not self.is_text(link - 1) and self.is_text(now["ra"] - 1):
            # a function that calls no other saves s0 alone
            return Step({"ip": now["ra"], "sp": record, "fp": link}, called=True)
        step = None if called else self._without_frame(now, link)
        if step is None and (following or link):
            step = Step({"ip": link, "fp": following, "sp": record}, called=True)
        return step


class X86FrameUnwinder(ChainUnwinder):
    """i386, and x86_64 without ORC: bp points to (bp, return address) of the caller.

    A bp that is marked (x86_64 by bit 0, i386 by bit 31 cleared) points to the registers that an interrupt saved.
    """

    def _switched(self, task: int) -> Registers:
        structs = self.kernel.structs
        sp = structs.get(task, "task_struct", structs.first("task_struct", "thread.sp", "thread.rsp") or "thread.esp")
        try:
            found = {"sp": sp + structs.size("inactive_task_frame")}
            members = {"bp": "bp", "ret_addr": "ip"}
            return found | {
                register: structs.get(sp, "inactive_task_frame", member) for member, register in members.items()
            }
        except DumpError:  # before 4.9 bp alone is pushed
            return {"sp": sp, "bp": self.memory.pointer(sp), "ip": self.kernel.symbol("thread_return")}

    def _regs_of(self, frame_pointer: int) -> int | None:
        if self.word == 8:
            return frame_pointer - 1 if frame_pointer & 1 else None
        return frame_pointer | 1 << 31 if frame_pointer >> 31 == 0 else None

    def _read_regs(self, address: int) -> Registers:
        found = dict(zip(self.set.names, self.memory.words(address, len(self.set.names)), strict=True))
        for segment in ("cs", "ss", "ds", "es", "fs", "gs"):
            if segment in found:
                found[segment] &= 0xFFFF
        return found

    def _plausible(self, found: Registers) -> bool:
        # the selectors of Linux, and an address that fits them
        if found["cs"] & 3:
            return found["cs"] in (0x33, 0x23, 0x73) and bool(found["ip"]) and found["ss"] in (0x2B, 0x7B)
        return found["cs"] in (0x10, 0x60) and self.is_text(found["ip"])

    def _caller(self, now: Registers, called: bool, frame: Frame) -> Step | None:
        record = now["bp"]
        saved = self._saved_here(now, frame) if called else None
        if saved is not None:
            frame.registers = saved
            return Step(saved, called=False)
        marked = self._regs_of(record)
        if marked is not None and record:
            found = self._read_regs(marked)
            if self._plausible(found):
                frame.registers = found
                return Step(found, called=False)
        if record == 0 or frame.name in ("ret_from_fork", "startup_32_smp", "secondary_startup_64"):
            return None
        if record < self.kernel.kernel_start or record % self.word:
            raise MissingTable(f"frame pointer {record:#x} points to no stack")
        following, link = self.memory.words(record, 2)
        return Step({"ip": link, "bp": following, "sp": record + 2 * self.word}, called=True)

    def _saved_here(self, now: Registers, frame: Frame) -> Registers | None:
        # entry code has the saved registers on top of its stack, and bp still the interrupted one's
        if not frame.name.startswith(_X86_ENTRIES):
            return None
        if frame.name.startswith("do_") and self.word == 4:
            return None
        try:
            found = self._read_regs(now["sp"])
        except DumpError:
            return None
        return found if self._plausible(found) else None


class X86SearchUnwinder(X86FrameUnwinder):
    """x86_64 with ORC that cannot be read: there are no frame pointers, so that the stack is searched.

    Args:
        kernel: The kernel.
        why: What ORC lacks.
    """

    def __init__(self, kernel: Kernel, why: str) -> None:
        super().__init__(kernel)
        self._why = f"ORC: {why}"

    def _caller(self, now: Registers, called: bool, frame: Frame) -> Step | None:
        raise MissingTable(self._why)


class ArmUnwinder(ChainUnwinder):
    """arm: r11 points behind (fp, sp, lr, pc) where the kernel has frame pointers; most have unwind tables instead.

    Those tables are not read: what is not a frame by its pointers is searched for.
    """

    def _switched(self, task: int) -> Registers:
        structs = self.kernel.structs
        stack = structs.get(task, "task_struct", "stack")
        path = structs.first("task_struct", "thread_info.cpu_context")
        base, owner = (task, "task_struct") if path is not None else (stack, "thread_info")
        prefix = "thread_info." if path is not None else ""
        get = structs.get
        return {name: get(base, owner, f"{prefix}cpu_context.{member}")
                for name, member in (("fp", "fp"), ("sp", "sp"), ("ip", "pc"))}  # fmt: skip

    def _caller(self, now: Registers, called: bool, frame: Frame) -> Step | None:
        record = now.get("fp", 0)
        if record % 4 or record < now["sp"] or record - now["sp"] > 8192:
            raise MissingTable("the kernel has no frame pointers")
        fp, sp, link, pc = self.memory.words(record - 12, 4)
        start = self.function(pc - 16)
        if start is None or not now["sp"] <= sp <= record + 64 or not self.is_text(link - 1):
            raise MissingTable("the kernel has no frame pointers")
        return Step({"ip": link, "fp": fp, "sp": sp}, called=True)
