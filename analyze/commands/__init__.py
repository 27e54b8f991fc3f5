# SPDX-License-Identifier: GPL-2.0-or-later
"""The commands of `dumpconv analyze`: a table of modules, each imported when it is used.

A command's module has two functions:

    add_arguments(parser)              its own words, as crash has them
    run(kernel, args) -> Result        lines for people, values for --json, complaints about what could not be read
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import argparse

    from ..kernel import Kernel

__all__ = [
    "ALIASES",
    "COMMANDS",
    "FOREACH",
    "RICH",
    "Command",
    "Entry",
    "Result",
    "integer",
    "load",
    "number",
    "printable",
]


@dataclass
class Result:
    """What a command found.

    Attributes:
        lines: For people; made while they are printed.
        data: For --json: plain values with stable keys, addresses as `0x...` strings.
        complaints: What could not be had and why, one line each; complete only after `lines` ended.
        exit_codes: Of the complaints: 3 damaged data, 4 missing at the source, 1 nothing to show.
    """

    lines: Iterable[str] = ()
    data: Any = None
    complaints: list[str] = field(default_factory=list)
    exit_codes: list[int] = field(default_factory=list)

    def complain(self, text: str, exit_code: int = 0) -> None:
        """Add a complaint; names in it are bytes that somebody else chose."""
        text = printable(text)
        if text not in self.complaints:
            self.complaints.append(text)
        self.exit_codes.append(exit_code)


class Command(Protocol):
    """A command's module."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's own arguments."""

    def run(self, kernel: Kernel, args: argparse.Namespace) -> Result:
        """Run it."""


class Entry(NamedTuple):
    """One command: module in this package, what it does in one line."""

    module: str
    help: str


COMMANDS: dict[str, Entry] = {
    "bt": Entry("bt", "stack trace: [PID|TASK|COMMAND ...], -a of every CPU, -A of every task, -s offsets"),
    "btop": Entry("btop", "page frame of a physical address: ADDRESS ..."),
    "dis": Entry("dis", "machine code: SYMBOL|ADDRESS [COUNT], -r up to ADDRESS, -f from it, -x hexadecimal offsets"),
    "foreach": Entry("foreach", "a command for many tasks: [user|kernel|active|STATE|PID|TASK|COMMAND ...] bt"),
    "help": Entry("help", "the commands, or the words of one: [COMMAND]"),
    "info": Entry("info", "what is known of the kernel, and why not more"),
    "log": Entry("log", "the kernel log: -t no times, -T wall-clock times, -m levels"),
    "mach": Entry("mach", "the processor's side: HZ, page and stack sizes, bases; -m memory map, -c processors"),
    "mod": Entry("mod", "loaded modules; -t those that taint the kernel"),
    "ptob": Entry("ptob", "physical address of a page frame: FRAME ..."),
    "ptov": Entry("ptov", "physical to virtual address, in the linear map: ADDRESS ..."),
    "ps": Entry("ps", "tasks: [PID|TASK|COMMAND ...], -u user, -k kernel, -G thread group leaders"),
    "pte": Entry("pte", "what a page-table entry says: ENTRY ..."),
    "rd": Entry("rd", "read memory: ADDRESS|SYMBOL [COUNT], -p physical, -8 -16 -32 -64, -a text, -s symbols"),
    "repl": Entry("repl", "Python's prompt with the dump at hand (drgn's where it is installed): --plain"),
    "report": Entry("report", "the first answers in one pass: end, stacks, blocked tasks, modules, log tail"),
    "script": Entry("script", "run a Python file with the dump at hand: FILE.py [ARGS]"),
    "search": Entry("search", "find words and strings: VALUE|SYMBOL ..., -c STRING, -s ADDRESS -e ADDRESS"),
    "struct": Entry("struct", "layout of a type, or what lies at an address: NAME[.MEMBER] [ADDRESS], -o offsets"),
    "sym": Entry("sym", "symbol of an address, address of a symbol: -l all, -q STRING search"),
    "sys": Entry("sys", "the machine and its end; `sys config`: the configuration in the kernel; -c system calls"),
    "task": Entry("task", "the task_struct of tasks: [PID|TASK|COMMAND ...], -R MEMBER,... some members"),
    "union": Entry("union", "`struct` for unions: NAME[.MEMBER] [ADDRESS], -o offsets"),
    "vtop": Entry("vtop", "virtual to physical address: ADDRESS|SYMBOL ..."),
    "whatis": Entry("whatis", "definition of a type, type of a symbol: [struct|union|enum] NAME, -o offsets"),
}

# Commands of crash that drgn 0.3 has and we do not, or that we have on its helpers; and what foreach does beside ours.
RICH = (
    "ascii", "bpf", "dev", "eval", "files", "fuser", "ipcs", "irq", "kmem", "list", "mount", "net", "p",
    "runq", "sbitmapq", "set", "sig", "swap", "timer", "tree", "vm", "waitq",
)  # fmt: skip
FOREACH = ("files", "net", "ps", "set", "sig", "task", "vm")

# Names that crash and lcrash users know, with the words that they stand for.
ALIASES = {
    "*": "struct",
    "?": "help",
    "base": "eval",
    "deftask": "set",
    "dmesg": "log",
    "dump": "rd",
    "findsym": "sym",
    "mmap": "vm",
    "module": "mod",
    "page": "kmem -p",
    "print": "p",
    "sizeof": "struct",
    "stat": "sys",
    "strace": "bt",
    "symtab": "sym",
    "trace": "bt",
    "walk": "list",
}


def load(name: str) -> Command:
    """Return the module of a command."""
    return importlib.import_module(f".{COMMANDS[name].module}", __name__)


def number(text: str) -> int:
    """Return a hexadecimal number that a user typed.

    Raises:
        UsageError: It is none.
    """
    try:
        value = int(text, 16)
    except ValueError:
        value = -1
    if not 0 <= value < 1 << 64:
        from ...formats.errors import UsageError

        raise UsageError(f"{printable(text)} is no hexadecimal number")
    return value


def integer(text: str, what: str) -> int:
    """Return a number that a user typed: decimal, or hexadecimal with 0x.

    Raises:
        UsageError: It is none.
    """
    try:
        return int(text, 0)
    except ValueError as error:
        from ...formats.errors import UsageError

        raise UsageError(f"{printable(text)} is no number of {what}") from error


def printable(text: bytes | str, keep: str = "\t") -> str:
    """Return text that does no harm on a terminal: control characters and bytes that are no UTF-8 are escaped.

    Args:
        text: What somebody else chose.
        keep: Control characters that stay; not the newline, with which a name would look like another line.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in keep else f"\\x{ord(each):02x}" for each in text)
