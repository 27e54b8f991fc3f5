# SPDX-License-Identifier: GPL-2.0-or-later
"""Stack traces on x86_64: from saved registers or a sleeping task's stack, frame by frame through ORC.

Source: docs/analyze.md, "stacks".
"""

from __future__ import annotations

from .errors import Unreadable
from .kernel import Kernel
from .orc import Orc, OrcEntry
from .registers import PT_REGS, Registers
from .unwind import MAX_FRAMES, Frame, Trace, Unwinder

__all__ = ["OrcUnwinder"]

_SCAN_BYTES = 4096  # of stack that is searched for a return address where ORC says nothing
_MASK = 0xFFFFFFFFFFFFFFFF


class OrcUnwinder(Unwinder):
    """Makes traces.

    Args:
        kernel: An x86_64 kernel.

    Raises:
        MissingTable, Unreadable: There is no ORC table.
    """

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel)
        self._orc = Orc(kernel)
        self._sp_indirect_first = kernel.version >= (5, 12) or not kernel.version

    def _switched(self, task: int) -> Registers:
        return self._inactive(self.kernel.structs.get(task, "task_struct", "thread.sp"))

    def _inactive(self, sp: int) -> Registers:
        structs = self.kernel.structs
        registers = {"sp": sp + structs.size("inactive_task_frame")}
        names = {"bx": "bx", "bp": "bp", "r12": "r12", "r13": "r13", "r14": "r14", "r15": "r15", "ret_addr": "ip"}
        for member, register in names.items():
            if structs.first("inactive_task_frame", member) is not None:
                registers[register] = structs.get(sp, "inactive_task_frame", member)
        return registers

    def hole(self, registers: Registers) -> int | None:
        """Return the bytes from sp to the caller's frame where ORC says nothing and the stack was searched, else None.

        Args:
            registers: Of a stopped CPU.
        """
        if self.set.in_user_mode(registers):
            return None
        entry = self._entry(registers["ip"], called=False)
        if entry is not None and entry.kind != "undefined":
            return None
        found = self._guess(registers)
        return None if found is None else found[0]["sp"] - registers["sp"]

    # -- steps ---------------------------------------------------------------------------------------------------

    def trace(self, registers: Registers, *, called: bool = False) -> Trace:
        """Trace from a set of registers.

        Args:
            registers: At least ip, sp and bp.
            called: ip is a return address, not an interrupted instruction.
        """
        trace = Trace()
        if self.set.in_user_mode(registers):
            trace.user = registers
            return trace
        self._go(trace, dict(registers), called, may_guess=True)
        if trace.stopped and self._orc.has_holes:
            self.search(trace)
        return trace

    def _go(self, trace: Trace, now: Registers, called: bool, *, may_guess: bool) -> Trace:
        guessed = False
        seen: set[int] = set()
        for _ in range(MAX_FRAMES):
            frame = self.frame(now, called)
            frame.guessed, guessed = guessed, False
            trace.frames.append(frame)
            entry = self._entry(now["ip"], called)
            if entry is not None and entry.kind == "end":
                return trace
            if entry is None or entry.kind == "undefined":
                guess = self._guess(now) if may_guess else None
                if guess is None:
                    trace.stopped = f"nothing is known of {now['ip']:#x}, and no return address lies above it"
                    return trace
                (now, guessed), called, may_guess = guess, True, False
                continue
            try:
                following = self._step(now, entry, frame)
            except Unreadable as error:
                trace.stopped = error.message
                return trace
            if self.set.in_user_mode(following) and entry.kind != "call":
                trace.user = following
                return trace
            # it grows but for where a handler's stack ends and leads to the stack that was interrupted, once for each
            seen.add(now["sp"])
            if entry.kind == "call" and following["sp"] in seen:
                trace.stopped = f"stack pointer comes back: {now['sp']:#x}, then {following['sp']:#x}"
                return trace
            now, called = following, entry.kind == "call"
        trace.stopped = f"more than {MAX_FRAMES} frames"
        return trace

    def _entry(self, ip: int, called: bool) -> OrcEntry | None:
        return self._orc.find(ip - 1 if called else ip)

    def _word(self, address: int) -> int:
        return self.memory.u64(address & _MASK)

    def _base(self, now: Registers, entry: OrcEntry) -> int | None:
        name, offset = entry.sp_register, entry.sp_offset
        if name == "bp_indirect":
            return self._word(now["bp"] + offset) if "bp" in now else None
        if name == "sp_indirect":
            if self._sp_indirect_first:
                return self._word(now["sp"]) + offset & _MASK
            return self._word(now["sp"] + offset)
        value = now.get(name)
        return None if value is None else value + offset & _MASK

    def _step(self, now: Registers, entry: OrcEntry, frame: Frame) -> Registers:
        cfa = self._base(now, entry)
        if cfa is None:
            raise Unreadable(now["sp"], f"the frame needs {entry.sp_register}, which is not known")
        if entry.kind == "call":
            following = {"ip": self._word(cfa - 8), "sp": cfa}
            if "bp" in now:
                following["bp"] = now["bp"]
        elif entry.kind == "regs":
            following = self._registers(cfa)
            frame.registers = following
            return dict(following)
        else:
            ip, cs, flags, sp, ss = self.memory.words(cfa, 5)
            following = {**now, "ip": ip, "cs": cs, "flags": flags, "sp": sp, "ss": ss}
        if entry.bp_register == "prev_sp":
            following["bp"] = self._word(cfa + entry.bp_offset)
        elif entry.bp_register == "bp" and "bp" in now:
            following["bp"] = self._word(now["bp"] + entry.bp_offset)
        return following

    def _registers(self, address: int) -> Registers:
        return dict(zip(PT_REGS, self.memory.words(address, len(PT_REGS)), strict=True))

    # -- where ORC says nothing ------------------------------------------------------------------------------------

    def _guess(self, now: Registers) -> tuple[Registers, bool] | None:
        # Registers of the caller, and whether it is no more than a guess. The first word above the stack pointer that
        # follows a call instruction and from which the trace ends regularly; one that follows a direct call of the
        # function we are in is preferred.
        function = self.lookup(now["ip"])
        start = function[0].address if function is not None else None
        raw, _ = self.memory.read_sparse(now["sp"], _SCAN_BYTES)
        first: Registers | None = None
        for at in range(0, len(raw) - 7, 8):
            value = int.from_bytes(raw[at : at + 8], "little")
            if not self.is_text(value):
                continue
            target = self.called_from(value)
            if target is None:
                continue
            candidate = {"ip": value, "sp": now["sp"] + at + 8}
            if "bp" in now:
                candidate["bp"] = now["bp"]
            stopped = self._go(Trace(), dict(candidate), called=True, may_guess=False).stopped
            if start is not None and target == start and (not stopped or self._orc.has_holes):
                return candidate, bool(stopped)
            if stopped:
                continue
            first = first or candidate
        return None if first is None else (first, True)
