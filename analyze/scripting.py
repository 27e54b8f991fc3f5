# SPDX-License-Identifier: GPL-2.0-or-later
"""The interface of scripts: a `dump` object with what most scripts ask, and a run of a script's file.

A script is the user's own code: it runs in this process, with this user's rights.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..formats.errors import DumpError, InputError, UsageError
from .errors import MissingTable

if TYPE_CHECKING:
    from .kernel import Kernel
    from .log import Record
    from .modules import Module
    from .tasks import Task

__all__ = ["Dump", "Names", "run_file"]

_MAX_SCRIPT = 16 << 20


class Dump:
    """What a script may ask of a dump: `dump` in `script` and `repl`.

    Addresses are integers, in the kernel's address space where nothing else is said. What cannot be had raises
    `dump.Error`, which says why.

    Args:
        kernel: The kernel.

    Attributes:
        Error: What every method raises where the dump lacks what is asked for.
        kernel: The kernel model, for what is not here; not a stable interface.
        arch: `x86_64`, `aarch64` ...
        byteorder: `little` or `big`.
        word_size: Bytes of an address, 4 or 8.
        page_size: Bytes of the kernel's pages.
    """

    Error = DumpError

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.arch = kernel.machine.arch
        self.byteorder = kernel.machine.byteorder
        self.word_size = kernel.machine.word_size

    @property
    def page_size(self) -> int:
        """Bytes of the kernel's pages."""
        return self.kernel.page_size

    @property
    def release(self) -> str:
        """The kernel's release, empty where it is not known."""
        return self.kernel.release

    # -- memory ----------------------------------------------------------------------------------------------

    def read(self, address: int, size: int) -> bytes:
        """Return `size` bytes of kernel memory."""
        return self.kernel.memory.read(address, size)

    def read_physical(self, address: int, size: int) -> bytes:
        """Return `size` bytes of physical memory."""
        return self.kernel.physical.read(address, size)

    def read_words(self, address: int, count: int) -> list[int]:
        """Return `count` machine words (4 or 8 bytes each)."""
        return self.kernel.memory.words(address, count)

    def read_string(self, address: int, limit: int = 1024) -> bytes:
        """Return the bytes up to the first NUL, at most `limit`."""
        return self.kernel.memory.string(address, limit)

    def translate(self, address: int) -> int:
        """Return the physical address of a kernel address."""
        return self.kernel.memory.translate(address)

    # -- symbols ---------------------------------------------------------------------------------------------

    def symbol(self, name: str) -> int:
        """Return the address of a symbol of the kernel or of a module."""
        found = self.kernel.find(name)
        if found is None:
            raise MissingTable(f"the kernel has no symbol {name}")
        return found

    def name(self, address: int) -> str:
        """Return `symbol+offset` of an address, empty where it lies in no function or variable."""
        found = self.kernel.lookup(address)
        if found is None:
            return ""
        symbol, offset = found
        return f"{symbol.name}+{offset:#x}" if offset else symbol.name

    def value(self, name: str, size: int | None = None, *, signed: bool = False) -> int:
        """Return the integer in a variable: a machine word, or `size` bytes."""
        return self.kernel.memory.integer(self.symbol(name), size or self.word_size, signed=signed)

    def per_cpu(self, name: str) -> dict[int, int]:
        """Return the address of a per-CPU variable for each CPU."""
        return dict(self.kernel.per_cpu(name))

    # -- structures; these need the kernel's types -------------------------------------------------------------

    def member(self, address: int, structure: str, path: str) -> int | bytes:
        """Return a member of the structure at an address.

        Args:
            address: Of the structure.
            structure: Its name, without `struct`.
            path: The member, or `a.b.c`.

        Returns:
            An integer for integers, enumerations and pointers; the bytes of anything else; of an array of characters
            those before the first NUL.
        """
        structs = self.kernel.structs
        offset, size, signed = structs.field(structure, path)
        kind = structs.member_kind(structure, path)
        if kind == "text":
            return structs.string(address, structure, path)
        if kind == "number":
            return self.kernel.memory.integer(address + offset, size, signed=signed)
        return self.read(address + offset, size)

    def offset(self, structure: str, path: str) -> int:
        """Return the byte offset of a member."""
        return self.kernel.structs.offset(structure, path)

    def size(self, structure: str) -> int:
        """Return the bytes of a structure."""
        return self.kernel.structs.size(structure)

    def list(self, head: int, structure: str, path: str) -> Iterator[int]:
        """Yield the addresses of the structures in a list; `path` is their list_head."""
        return self.kernel.structs.list(head, structure, path)

    # -- what commands show ------------------------------------------------------------------------------------

    def tasks(self) -> Sequence[Task]:
        """Return all tasks: `address`, `pid`, `ppid`, `tgid`, `cpu`, `state`, `comm`, `running`, `stack` ..."""
        return [*self.kernel.tasks]

    def modules(self) -> Sequence[Module]:
        """Return the loaded modules: `address`, `name`, `base`, `size` ..."""
        return [*self.kernel.modules]

    def log(self) -> Sequence[Record]:
        """Return the kernel log: `ns`, `level`, `text` ..."""
        return self.kernel.log

    def run(self, line: str) -> Any:
        """Run a command of analyze; return what it gives with --json."""
        from .command import parse_line, run_words

        words = parse_line(line)
        if not words:
            raise UsageError("an empty command")
        result = run_words(self.kernel, words)
        for _ in result.lines:  # its values are complete after the last line
            pass
        if result.data is None and result.complaints:
            raise MissingTable(result.complaints[0])
        return result.data


class Names(dict[str, Any]):
    """Names that a script begins with. `prog`, drgn's program, is made when it is asked for first.

    Args:
        kernel: The kernel.
        more: Further names.
    """

    def __init__(self, kernel: Kernel, **more: Any) -> None:
        super().__init__(dump=Dump(kernel), **more)
        self._kernel = kernel

    def __missing__(self, name: str) -> Any:
        if name != "prog":
            raise KeyError(name)
        from .through_drgn import program_of

        self[name] = program_of(self._kernel)
        return self[name]


def run_file(kernel: Kernel, path: str, arguments: Sequence[str]) -> tuple[int, str]:
    """Run a script, as Python itself would; its own traceback goes to standard error.

    Args:
        kernel: What it is about.
        path: Its file.
        arguments: `sys.argv[1:]` for it.

    Returns:
        The exit status (what it gave to sys.exit, 1 after an error) and its last words, if these are what it gave.

    Raises:
        InputError, UsageError: The file cannot be read, or is no Python.
    """
    code = _compiled(path)
    names = Names(kernel, __name__="__main__", __file__=path)
    with _as_program(path, arguments):
        try:
            exec(code, names)  # noqa: S102 - what the command is for
        except SystemExit as end:
            return _status(end)
        except Exception as error:
            _show(error, path)
            return 1, ""
    return 0, ""


def _compiled(path: str) -> Any:
    try:
        with open(path, "rb") as file:
            source = file.read(_MAX_SCRIPT + 1)
    except OSError as error:
        raise InputError(f"the script cannot be read: {error.strerror}", path=path) from error
    if len(source) > _MAX_SCRIPT:
        raise UsageError(f"a script of more than {_MAX_SCRIPT} bytes", path=path)
    try:
        return compile(source, path, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        line = f"line {error.lineno}: {error.msg}" if isinstance(error, SyntaxError) else str(error)
        raise UsageError(f"is no Python: {line}", path=path) from error


@contextlib.contextmanager
def _as_program(path: str, arguments: Sequence[str]) -> Iterator[None]:
    argv, paths = sys.argv, list(sys.path)
    sys.argv = [path, *arguments]
    sys.path.insert(0, os.path.dirname(os.path.abspath(path)))
    try:
        yield
    finally:
        sys.argv, sys.path[:] = argv, paths


def _status(end: SystemExit) -> tuple[int, str]:
    if end.code is None or isinstance(end.code, int):
        return (end.code or 0) & 0xFF, ""
    return 1, str(end.code)


def _show(error: BaseException, path: str) -> None:
    # from the script's first frame on, without ours: how a script came to run is no matter of its author
    sys.stdout.flush()
    ours = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # this package
    frames: list[TracebackType] = []
    trace = error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if name == path or (frames and not os.path.abspath(name).startswith(ours + os.sep)):
            frames.append(trace)
        trace = trace.tb_next
    shown: TracebackType | None = None
    for each in reversed(frames):
        shown = TracebackType(shown, each.tb_frame, each.tb_lasti, each.tb_lineno)
    traceback.print_exception(type(error), error, shown, chain=False)
