# SPDX-License-Identifier: GPL-2.0-or-later
"""Stack traces by back chains: s390x and ppc64. The word at the stack pointer is the caller's stack pointer.

Source: docs/analyze.md, "stacks"; the ELF ABI supplements; Linux arch/s390/kernel/unwind_bc.c and
arch/powerpc/kernel/process.c, 6.1 and 6.12.
"""

from __future__ import annotations

from .errors import MissingTable
from .registers import Registers
from .unwind import ChainUnwinder, Frame, Step

__all__ = ["Ppc64Unwinder", "S390Unwinder"]


_S390_FRAME = 160  # bytes, in both layouts
# Where the back chain and r14 lie in a frame: as the ABI has it, and packed (-mpacked-stack: Debian's kernels).
_S390_LAYOUTS = ((0, 112), (152, 136))
_S390_STACK = 1 << 15


class S390Unwinder(ChainUnwinder):
    """s390x: a function saves its caller's registers in the caller's frame, of which there are two layouts.

    Where the chain ends with 0, the registers of an interrupt or a system call follow behind the frame.
    """

    _layout: tuple[int, int] | None = None

    def _switched(self, task: int) -> Registers:
        sp = self.kernel.structs.get(task, "task_struct", "thread.ksp")
        return {"ip": self.memory.pointer(sp + self._layout_at(sp)[1]), "sp": sp}

    def _layout_at(self, sp: int) -> tuple[int, int]:
        # the one that leads to a return address, once it is found out
        for chain, link in _S390_LAYOUTS if self._layout is None else ():
            back = self.memory.pointer(sp + chain)
            if sp < back < sp + _S390_STACK and back & 7 == 0:
                address = self.memory.pointer(back + link)
                if self.is_text(address - 1) and self.called_from(address) is not None:
                    self._layout = chain, link
                    break
        return self._layout or _S390_LAYOUTS[0]

    def _caller(self, now: Registers, called: bool, frame: Frame) -> Step | None:
        sp = now["sp"]
        if sp == 0 or sp & 7:
            raise MissingTable(f"stack pointer {sp:#x}")
        chain, link = self._layout_at(sp)
        back = self.memory.pointer(sp + chain)
        if not called:
            leaf = self._without_frame(now, self.memory.pointer(back + link) if back else 0)
            if leaf is not None:
                return leaf
        if back:
            return Step({"ip": self.memory.pointer(back + link), "sp": back}, called=True)
        mask, address, *general = self.memory.words(sp + _S390_FRAME + 8, 18)
        saved = dict(zip(self.set.names, (mask, address, *general), strict=True))
        if address == 0 or (not self.set.in_user_mode(saved) and not self.is_text(address)):
            return None
        frame.registers = None if self.set.in_user_mode(saved) else saved
        return Step(saved, called=False)


# "regshere", and "REGS" since 5.18, in the machine's order.
_REGS_MARKS = frozenset((0x7265677368657265, 0x53474552, 0x52454753))
# Where mark and registers lie in a frame: both ABIs until 6.1, and ELFv2 from 6.2 on.
_REGS_PLACES = ((96, 112), (32, 48))


class Ppc64Unwinder(ChainUnwinder):
    """ppc64, both byte orders: a function saves its return address in its caller's frame, at 16.

    A frame with registers in it is marked.
    """

    def _switched(self, task: int) -> Registers:
        sp = self.kernel.structs.get(task, "task_struct", "thread.ksp")
        back = self.memory.pointer(sp)
        # _switch has a frame with registers of its own, which are not whole
        return {"ip": self.memory.pointer(back + 16), "sp": back}

    def _caller(self, now: Registers, called: bool, frame: Frame) -> Step | None:
        sp = now["sp"]
        if not called and sp >> 60 != 0xC:
            return None  # an interrupt's first instructions, still with the program's stack pointer
        if sp == 0 or sp & 7:
            raise MissingTable(f"stack pointer {sp:#x}")
        back = self.memory.pointer(sp)
        for mark, place in _REGS_PLACES if called else ():
            saved = self._saved_at(sp + place)
            # an entry that could come at any time has no mark yet; the frame it came upon is its proof then
            marked = self.memory.pointer(sp + mark) in _REGS_MARKS
            if not marked and not (back and saved["sp"] == back and self.set.in_user_mode(saved)):
                continue
            if self.set.in_user_mode(saved) or self.is_text(saved["ip"]):
                frame.registers = None if self.set.in_user_mode(saved) else saved
                return Step(saved, called=False)
        if back == 0:
            return None
        link = self.memory.pointer(back + 16)
        if not called:
            leaf = self._without_frame(now, link)
            if leaf is not None:
                return leaf
        if link == 0 and self.memory.pointer(back) == 0:
            return None
        return Step({"ip": link, "sp": back}, called=True)

    def _saved_at(self, address: int) -> Registers:
        return dict(zip(self.set.names, self.memory.words(address, len(self.set.names)), strict=True))
