# SPDX-License-Identifier: GPL-2.0-or-later
"""Machine code as text, by capstone, in the words of GNU's disassembler: what crash and gdb show.

capstone is imported when something is disassembled, never before. Addresses and mnemonics are those of objdump;
operands are AT&T syntax on x86 and the assembler's own elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from .errors import MissingProgram, MissingTable, Unreadable

if TYPE_CHECKING:
    from ..formats.machine import Machine

__all__ = ["Disassembler", "Instruction"]

_CHUNK = 4096
_NOTHING = (0, 0, "", "")
_MASK = 0xFFFFFFFFFFFFFFFF
# Architecture: capstone's names of it and its modes; the byte order is added. The longest instruction, and the unit
# that is skipped where nothing decodes.
_ARCHITECTURES: dict[str, tuple[str, tuple[str, ...], int, int]] = {
    "x86_64": ("X86", ("64",), 15, 1),
    "i386": ("X86", ("32",), 15, 1),
    "aarch64": ("ARM64", (), 4, 4),
    "arm": ("ARM", ("ARM",), 4, 4),
    "s390x": ("SYSZ", (), 6, 2),
    "ppc64": ("PPC", ("64",), 4, 4),
    "ppc": ("PPC", ("32",), 4, 4),
    "riscv64": ("RISCV", ("RISCV64", "RISCVC"), 4, 2),
    "mips": ("MIPS", ("MIPS32",), 4, 4),
    "mips64": ("MIPS", ("MIPS64",), 4, 4),
    "sparc64": ("SPARC", ("V9",), 4, 4),
}


class Instruction(NamedTuple):
    """One instruction.

    Attributes:
        address: Where it is.
        raw: Its bytes.
        mnemonic: `(bad)` or `.word` for what is none.
        operands: As text, empty where there are none.
        target: Where it jumps or calls to, or what it addresses relative to itself; None where that is not in it.
        branch: Whether `target` is the one operand: a jump's or call's.
    """

    address: int
    raw: bytes
    mnemonic: str
    operands: str
    target: int | None = None
    branch: bool = False


class Disassembler:
    """Turns bytes of one machine into instructions.

    Args:
        machine: Whose they are.

    Raises:
        MissingProgram: capstone is not installed.
        MissingTable: It does not know this architecture.
    """

    def __init__(self, machine: Machine) -> None:
        try:
            import capstone
        except ImportError as error:
            raise MissingProgram("dis needs capstone, which is not installed", hint="pip install capstone") from error
        if machine.arch not in _ARCHITECTURES:
            raise MissingTable(f"instructions of {machine.arch} are not known")
        arch, modes, self._longest, self._unit = _ARCHITECTURES[machine.arch]
        mode = sum(getattr(capstone, f"CS_MODE_{name}") for name in modes)
        if machine.byteorder == "big":
            mode += capstone.CS_MODE_BIG_ENDIAN
        number = getattr(capstone, f"CS_ARCH_{arch}")
        try:
            self._engine = capstone.Cs(number, mode)
        except capstone.CsError as error:
            raise MissingTable(f"this capstone does not know {machine.arch}: {error}") from error
        self._engine.detail = True
        self._order = machine.byteorder
        self._jump, self._call = capstone.CS_GRP_JUMP, capstone.CS_GRP_CALL
        self._relative = capstone.CS_GRP_BRANCH_RELATIVE
        self._plain: Any = None
        self._riscv = arch == "RISCV"
        self._upper: tuple[int, int, int] = (0, 0, -1)
        if arch == "X86":
            self._engine.syntax = capstone.CS_OPT_SYNTAX_ATT
            self._engine.imm_unsigned = True
            self._plain = capstone.Cs(number, mode)
            self._rip = capstone.x86.X86_REG_RIP
        self._mask = (1 << 8 * machine.word_size) - 1

    def instructions(self, read: Callable[[int, int], bytes], start: int, end: int) -> Iterator[Instruction]:
        """Yield the instructions from `start` on that begin before `end`.

        Args:
            read: Reads memory (address, size), raising Unreadable.
            start, end: Addresses.

        Raises:
            Unreadable: Text is not in the dump; what lies before it has been yielded.
        """
        at, code = start, b""
        missing: Unreadable | None = None
        while at < end:
            if missing is None and len(code) < self._longest:
                try:
                    # a page at a time: what lies behind a missing one is not asked for
                    code += read(at + len(code), _CHUNK - (at + len(code)) % _CHUNK)
                except Unreadable as error:
                    missing = error
                    if not code:
                        raise
                if missing is None and len(code) < self._longest:
                    continue
            used = 0
            for each in self._decode(code, at, last=missing is not None):
                if each.address >= end:
                    return
                used += len(each.raw)
                yield each
            at, code = at + used, code[used:]
            if missing is not None and at < end:
                raise missing

    def _decode(self, code: bytes, address: int, *, last: bool) -> Iterator[Instruction]:
        # all instructions that begin in the bytes and cannot go past them, or in the last bytes all that do not
        # (what the end of memory cuts off cannot be told from what is none: it is left)
        at, limit = 0, len(code) if last else len(code) - self._longest + 1
        while at < limit:
            plain = self._plain.disasm_lite(code[at:], address + at) if self._plain is not None else None
            for each in self._engine.disasm(code[at:], address + at):
                if at >= limit:
                    return
                yield self._instruction(each, next(plain, _NOTHING)[2] if plain is not None else "")
                at += each.size
            if at < limit:
                size = self._bad(code[at])
                later = _later(code[at : at + 5]) if self._plain is not None else None
                if later is not None:
                    yield Instruction(address + at, later, _LATER[later], "")
                    at += len(later)
                    continue
                if at + (self._longest if last else size) > len(code):
                    return
                raw = code[at : at + size]
                if self._plain is not None:
                    yield Instruction(address + at, raw, "(bad)", "")
                else:
                    name = {2: ".short", 4: ".long", 6: ".long"}[size]
                    yield Instruction(address + at, raw, name, f"{int.from_bytes(raw, self._order):#0{2 * size + 2}x}")
                at += size

    def _bad(self, first: int) -> int:
        if self._longest == 6:  # s390x: the two highest bits say the length
            return (2, 4, 4, 6)[first >> 6]
        if self._unit == 2:  # riscv: the two lowest bits
            return 4 if first & 3 == 3 else 2
        return self._unit

    def _instruction(self, found: Any, intel: str) -> Instruction:
        if self._riscv:
            self._remember(found)
        groups = set(found.groups)
        branch = bool(groups & {self._jump, self._call, self._relative})
        if self._longest == 6:  # s390x: capstone has calls and jumps that are in no group
            branch = branch or found.mnemonic.startswith(("j", "bras", "brc", "brx"))
        target = self._target(found) if branch else None
        operands = found.op_str
        mnemonic = found.mnemonic
        if self._plain is not None:
            mnemonic, operands = _gnu(found, intel)
            if target is None:
                target = self._relative_data(found)
                branch = False
        elif target is not None and found.mnemonic != "jalr":  # absolute, whatever the architecture writes
            operands = re.sub(r"#?-?(0x[0-9a-f]+|\d+)$", f"{target:#x}", operands)
        return Instruction(found.address, bytes(found.bytes), mnemonic, operands, target, branch and target is not None)

    def _target(self, found: Any) -> int | None:
        # the immediate that is the place to go to: the last one, as capstone has it absolute
        values = [each.imm for each in found.operands if each.type == 2]
        if not values:
            return None
        value = int(values[-1])
        if not self._riscv:
            return value & self._mask
        if found.mnemonic == "jalr":  # relative to a register, which the instruction before it may have set
            register, start, behind = self._upper
            base = found.operands[-2].reg if len(found.operands) > 1 else None
            known = bool((base, found.address) == (register, behind))
            return start + value & self._mask if known else None
        return value + int(found.address) & self._mask

    def _remember(self, found: Any) -> None:
        # riscv: auipc adds its immediate's upper 20 bits to its own address
        if found.mnemonic == "auipc":
            register, upper = found.operands[0].reg, int(found.operands[1].imm) & 0xFFFFF
            upper -= (upper & 0x80000) << 1
            self._upper = register, found.address + (upper << 12), found.address + found.size

    def _relative_data(self, found: Any) -> int | None:
        for each in found.operands:
            if each.type == 3 and each.mem.base == self._rip:
                return int(found.address + found.size + each.mem.disp) & _MASK
        return None


# -- x86: from capstone's AT&T text to GNU's --------------------------------------------------------------------

_NUMBER = re.compile(r"(?<![\w%])(-?)(0x[0-9a-f]+|\d+)(?=[(,\s]|$)")
_PAIR = re.compile(r"\((%\w+), ?(%\w+)\)")
_ONLY_INDEX = re.compile(r"\(, ?(%\w+)\)")
_WIDTHS = "bwlq"
# The suffix stays although a register is an operand: it is not the register's width that counts.
_KEEP = frozenset(("sysret", "sysexit", "iret", "lret"))
_SHIFTS = frozenset(("shl", "shr", "sar", "rol", "ror", "rcl", "rcr", "sal"))
_ALWAYS_BARE = frozenset(("call", "ret", "jmp", "push", "pop", "leave"))
_RENAMED = {
    "pushfq": "pushf", "popfq": "popf", "lgdtq": "lgdt", "lidtq": "lidt", "sgdtq": "sgdt", "sidtq": "sidt",
    "wait": "fwait",
}  # fmt: skip
_STRING = re.compile(r"^((?:\w+ )?)(stos|lods|scas|movs|cmps|ins|outs)([bwlq])$")
# What capstone 5 does not know and kernels have, and what it has in other words.
_LATER = {bytes.fromhex("0f01e8"): "serialize", bytes.fromhex("c4e27849c0"): "tilerelease"}
_WHOLE = {
    bytes.fromhex("0f01c8"): ("monitor", "%rax,%ecx,%edx"),
    bytes.fromhex("0f01c9"): ("mwait", "%eax,%ecx"),
    bytes.fromhex("f30f01d9"): ("vmgexit", ""),
    bytes.fromhex("f20f01d9"): ("vmgexit", ""),
}
_PREFIXES = frozenset((0x66, 0x2E, 0x36, 0x3E, 0x26, 0x64, 0x65, 0xF0, 0xF2, 0xF3, *range(0x40, 0x50)))


def _gnu(found: Any, intel: str) -> tuple[str, str]:
    # capstone writes every suffix, small numbers as decimals, and no displacement of 0
    mnemonic, operands = found.mnemonic, _ONLY_INDEX.sub(r"(,\1,1)", _PAIR.sub(r"(\1,\2,1)", found.op_str))
    parts = [_operand(part) for part in _split(operands)]
    if found.encoding.disp_size:
        parts = [_with_displacement(part) for part in parts]
    string = _STRING.match(mnemonic)
    if string is not None:
        return _string(string, parts)
    raw = bytes(found.bytes)
    if raw in _WHOLE:
        return _WHOLE[raw]
    if mnemonic.rpartition(" ")[2] in ("nop", "nopl", "nopw"):
        return _no_operation(raw, parts)
    opcode = next((each for each in raw if each not in _PREFIXES), 0)
    if opcode in (0xD0, 0xD1) and parts[:1] == ["$0x1"]:
        parts = parts[1:]
    if opcode in (0xEC, 0xED, 0xEE, 0xEF):  # in, out
        parts = [part.replace("%dx", "(%dx)") for part in parts]
    name = _RENAMED.get(mnemonic) or _mnemonic(intel, mnemonic, parts)
    if name.startswith("sal"):
        name = f"shl{name[3:]}"
    if raw[0] == 0x2E and name in ("call", "jmp"):  # longer by a prefix, so that the kernel can patch it
        name = f"cs {name}"
    return name, ",".join(parts)


def _later(code: bytes) -> bytes | None:
    return next((each for each in _LATER if code.startswith(each)), None)


def _operand(part: str) -> str:
    if part.startswith("%dr"):
        return f"%db{part[3:]}"
    dollar = "$" if part.startswith("$") else ""
    head, bracket, rest = part[len(dollar) :].partition("(")
    head = _NUMBER.sub(lambda each: f"{each[1]}{int(each[2], 0):#x}", head)
    return f"{dollar}{head}{bracket}{rest.replace(' ', '')}"


def _with_displacement(part: str) -> str:
    head, bracket, rest = part.partition("(")
    return f"{head}0x0({rest}" if bracket and (not head or head.endswith(":")) else part


def _string(found: re.Match[str], parts: list[str]) -> tuple[str, str]:
    # one operand is a register, so that no suffix is needed; segments are written out
    parts = [part.replace("(%rdi)", "%es:(%rdi)").replace("(%edi)", "%es:(%edi)") for part in parts]
    parts = [re.sub(r"^\(%([re])si\)", r"%ds:(%\1si)", part) for part in parts]
    parts = ["(%dx)" if part == "%dx" else part for part in parts]
    bare = any(part.startswith("%") and "(" not in part for part in parts)
    return found[1] + found[2] + ("" if bare else found[3]), ",".join(parts)


def _no_operation(raw: bytes, parts: list[str]) -> tuple[str, str]:
    # padding: prefixes make it longer
    wide = raw[: raw.index(0x0F)].count(0x66) if 0x0F in raw else 0
    if raw == b"\x66\x90":
        return "xchg", "%ax,%ax"
    if 0x0F not in raw:
        return "nop", ""
    segment = "cs " if 0x2E in raw[: raw.index(0x0F)] else ""
    name = "data16 " * max(0, wide - 1) + segment + ("nopw" if wide else "nopl")
    return name, ",".join(part.removeprefix("%cs:") for part in parts)


def _split(operands: str) -> list[str]:
    # at the commas outside of parentheses
    parts, depth, current = [], 0, ""
    for character in operands:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append(current.strip())
            current = ""
        else:
            current += character
    return [*parts, current.strip()] if current.strip() else parts


def _mnemonic(intel: str, mnemonic: str, parts: list[str]) -> str:
    if mnemonic == intel or mnemonic[:-1] != intel or mnemonic[-1] not in _WIDTHS:
        return mnemonic
    name = intel.rpartition(" ")[2]
    if name in _KEEP:
        return mnemonic
    if name in _ALWAYS_BARE:
        return intel
    registers = [part for part in parts if part.startswith("%") and "(" not in part and ":" not in part]
    if name in _SHIFTS and len(parts) == 2 and parts[0] == "%cl":
        registers = [part for part in parts[1:] if part in registers]
    return intel if registers else mnemonic
