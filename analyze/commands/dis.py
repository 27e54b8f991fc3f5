# SPDX-License-Identifier: GPL-2.0-or-later
"""`dis`: machine code, in crash's columns: address, symbol and offset, instruction, where it leads to."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from ...formats.errors import UsageError
from ..disasm import Disassembler, Instruction
from ..errors import Unreadable
from ..kernel import Kernel
from . import Result, printable

_MAX_COUNT = 1 << 20
_MAX_FUNCTION = 1 << 24
_LONGEST = 16
_PADDING = frozenset(("nop", "nopl", "nopw", "c.nop"))
_TRAP = b"\xcc"
_FILLERS = (bytes.fromhex("6690"), _TRAP)
_TRAPS = 4  # behind a return that was patched in; more are padding
_FTRACE_NOP = bytes.fromhex("0f1f440000")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument(
        "place", metavar="SYMBOL|ADDRESS", help="function, whole; or where to begin: hexadecimal, or SYMBOL+N"
    )
    parser.add_argument("count", nargs="?", metavar="COUNT", help="instructions (default: a function, or one)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("-r", dest="reverse", action="store_true", help="from the start of the function to ADDRESS")
    which.add_argument("-f", dest="forward", action="store_true", help="from ADDRESS to the end of the function")
    base = parser.add_mutually_exclusive_group()
    base.add_argument("-x", dest="hexadecimal", action="store_true", help="offsets as hexadecimal numbers")
    base.add_argument("-d", dest="hexadecimal", action="store_false", help="offsets as decimal numbers (the default)")
    parser.add_argument("-b", dest="raw", action="store_true", help="the bytes before each instruction")


def run(kernel: Kernel, args: argparse.Namespace) -> Result:
    """Disassemble.

    Raises:
        UsageError: No such place, or a wrong count.
        MissingProgram, MissingTable: capstone is not there, or does not know the machine.
    """
    count = _count(args.count)
    address = kernel.parse_address(args.place)
    disassembler = Disassembler(kernel.machine)
    names = _Names(kernel, hexadecimal=args.hexadecimal)
    found = names.lookup(address)
    start, end = address, address + _LONGEST * (count or 1)
    whole = args.forward or (not args.reverse and count is None and found is not None and found[1] == 0)
    if args.reverse or whole:
        if found is None:
            raise UsageError(f"{args.place} lies in no function: give a count")
        start, end = names.bounds(address)
        if end - start > _MAX_FUNCTION:
            raise UsageError(f"{found[0]} has {end - start} bytes: give a count")
        if args.reverse:
            end = address + 1
        elif args.forward:
            start = address
        count = _MAX_COUNT if count is None or args.reverse else count
    result = Result(data=[])
    result.lines = _lines(kernel, disassembler, names, args, (start, end, count or 1), result, whole=whole)
    return result


def _count(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        count = int(text, 0)
    except ValueError as error:
        raise UsageError(f"{text} is no count of instructions") from error
    if not 0 < count <= _MAX_COUNT:
        raise UsageError(f"{count} instructions: from 1 to {_MAX_COUNT} can be shown")
    return count


class _Names:
    # symbols of addresses, with what was looked up last: it is the same function for long

    def __init__(self, kernel: Kernel, *, hexadecimal: bool) -> None:
        self._kernel, self._format = kernel, "#x" if hexadecimal else ""
        self._low = self._high = 0
        self._name: str = ""

    def lookup(self, address: int) -> tuple[str, int] | None:
        if not self._low <= address < self._high:
            found = self._kernel.lookup(address)
            if found is None:
                return None
            self._name, self._low = found[0].name, address - found[1]
            self._high = max(self._kernel.end_of(address), address + 1)
        return self._name, address - self._low

    def bounds(self, address: int) -> tuple[int, int]:
        self.lookup(address)
        return self._low, self._high

    def text(self, address: int) -> str:
        found = self.lookup(address)
        if found is None:
            return ""
        name, offset = found
        return f"<{printable(name)}+{format(offset, self._format)}>" if offset else f"<{printable(name)}>"


def _lines(
    kernel: Kernel,
    disassembler: Disassembler,
    names: _Names,
    args: argparse.Namespace,
    place: tuple[int, int, int],
    result: Result,
    *,
    whole: bool,
) -> Iterator[str]:
    start, end, count = place
    targets = _Names(kernel, hexadecimal=args.hexadecimal)
    at = start
    try:
        found = disassembler.instructions(kernel.memory.read, start, end)
        for each in _without_padding(found, end) if whole else found:
            if count == 0:
                return
            count -= 1
            here = names.text(each.address)
            there = targets.text(each.target) if each.target is not None else ""
            if each.raw == _FTRACE_NOP and "+" not in here:
                there = "[FTRACE NOP]"
            result.data.append(_value(each, names, targets))
            raw = f"{each.raw.hex(' '):<{3 * _LONGEST}}" if args.raw else ""
            yield f"{each.address:#x} {here}:\t{raw}{_instruction(each, there)}".rstrip()
            at = each.address + len(each.raw)
    except Unreadable as error:
        text = f"text from {max(at, error.address):#x} on cannot be shown: {error.why}"
        result.complain(text, 4 if error.why in ("lost", "excluded") else 1)


def _without_padding(found: Iterator[Instruction], end: int) -> Iterator[Instruction]:
    # what fills the space up to the next function is of neither; symbols have no sizes
    held: list[Instruction] = []
    first = True
    for each in found:
        if not first and (each.mnemonic.split(" ")[-1] in _PADDING or each.raw in _FILLERS):
            held.append(each)
            continue
        yield from held
        held.clear()
        yield each
        first = False
    if held and held[-1].address + len(held[-1].raw) < end:  # the text ends, not the function
        yield from held
    else:
        for each in held[:_TRAPS]:
            if each.raw != _TRAP:
                return
            yield each


def _instruction(each: Instruction, there: str) -> str:
    name, operands = each.mnemonic, each.operands
    if each.raw == _FTRACE_NOP and there:
        operands = f"{operands} {there}"
    elif each.target is not None and each.branch:
        operands = f"{operands} {there}".rstrip()
    elif each.target is not None:
        operands = f"{operands}        # {each.target:#x} {there}".rstrip()
    return f"{name:<6} {operands}".rstrip()


def _value(each: Instruction, names: _Names, targets: _Names) -> dict[str, object]:
    here = names.lookup(each.address)
    there = targets.lookup(each.target) if each.target is not None else None
    return {
        "address": f"{each.address:#x}",
        "symbol": here[0] if here else None,
        "offset": here[1] if here else None,
        "bytes": each.raw.hex(),
        "mnemonic": each.mnemonic,
        "operands": each.operands,
        "target": None if each.target is None else f"{each.target:#x}",
        "target_symbol": there[0] if there else None,
        "target_offset": there[1] if there else None,
    }
