# SPDX-License-Identifier: GPL-2.0-or-later
"""The interactive prompt, and files of commands: lines in, text out. Reads and prints through what it is given."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
from collections.abc import Callable, Generator, Iterable, Iterator

from ..formats.errors import DumpError
from .answer import answer
from .command import parse_line
from .commands import ALIASES, COMMANDS, RICH
from .kernel import Kernel

__all__ = ["Prompt", "lines_of_terminal"]

PROMPT = "dumpconv> "
_QUIT = ("quit", "exit", "q")
_MAX_COMPLETIONS = 200

Write = Callable[[Iterable[str]], None]


class Prompt:
    """Runs command lines one after another.

    Args:
        kernel: What they are about.
        write: Prints lines.
        complain: Prints one complaint.

    Attributes:
        exit_codes: What the lines came to.
    """

    def __init__(self, kernel: Kernel, write: Write, complain: Callable[[str], None]) -> None:
        self._kernel = kernel
        self._write = write
        self._complain = complain
        self.exit_codes: list[int] = []

    def run(self, lines: Iterable[str]) -> None:
        """Run lines until one says to stop, or they end."""
        try:
            for line in lines:
                if not self.run_line(line):
                    return
        finally:
            if isinstance(lines, Generator):
                lines.close()  # it keeps the history

    def run_line(self, line: str) -> bool:
        """Run one line; False for the one that ends the session. `command | program` pipes into a shell command."""
        text, pipe = _at_pipe(line)
        try:
            words = parse_line(text)
            if not words:
                return True
            if words[0] in _QUIT:
                return False
            self._run(words, pipe.strip())
        except DumpError as error:
            self._complain(str(error))
            self.exit_codes.append(error.exit_code)
        except KeyboardInterrupt:
            self._complain("interrupted")
        return True

    def _run(self, words: list[str], pipe: str) -> None:
        printed = io.StringIO()
        try:
            # a script prints by itself
            with contextlib.redirect_stdout(printed) if pipe else contextlib.nullcontext():
                result = answer(self._kernel, words)
        except SystemExit:  # --help has printed and wants to end the program
            self._write(printed.getvalue().splitlines())
            return
        if pipe:
            self._pipe([*printed.getvalue().splitlines(), *result.lines], pipe)
        else:
            self._write(result.lines)
        for text in result.complaints:
            self._complain(text)
        self.exit_codes += result.exit_codes

    def _pipe(self, lines: Iterable[str], command: str) -> None:
        # the user typed the command: a shell is what is expected here, and only here
        text = "".join(line + "\n" for line in lines)
        done = subprocess.run(  # noqa: S602 - typed by the user, never made from the dump
            command, shell=True, input=text.encode("utf-8", "replace"), stdout=subprocess.PIPE, check=False
        )
        self._write(done.stdout.decode("utf-8", "replace").splitlines())


def _at_pipe(line: str) -> tuple[str, str]:
    # what stands before and behind the first | that is not quoted
    quote, escaped = "", False
    for at, each in enumerate(line):
        if escaped:
            escaped = False
        elif each == "\\" and quote != "'":
            escaped = True
        elif quote:
            quote = "" if each == quote else quote
        elif each in "'\"":
            quote = each
        elif each == "|":
            return line[:at], line[at + 1 :]
    return line, ""


def lines_of_terminal(kernel: Kernel, read: Callable[[str], str]) -> Iterator[str]:
    """Yield lines that the user types, with history and completion of commands and symbols where the terminal can."""
    history = None
    try:
        import readline
    except ImportError:
        readline = None  # type: ignore[assignment]
    if readline is not None:
        history = os.path.join(os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state"), "dumpconv")
        _load_history(history)
        readline.set_completer(_Completer(kernel))
        readline.set_completer_delims(" \t|")
        readline.parse_and_bind("tab: complete")
    try:
        while True:
            try:
                yield read(PROMPT)
            except EOFError:
                return
            except KeyboardInterrupt:
                continue
    finally:
        if history is not None:
            _save_history(history)


def _load_history(folder: str) -> None:
    import readline

    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        readline.read_history_file(os.path.join(folder, "history"))
    except OSError:
        return  # there is none yet, or none can be kept


def _save_history(folder: str) -> None:
    import readline

    try:
        readline.set_history_length(1000)
        readline.write_history_file(os.path.join(folder, "history"))
    except OSError:
        return


class _Completer:
    # readline asks for the first, the second ... completion of a word

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._found: list[str] = []

    def __call__(self, text: str, state: int) -> str | None:
        import readline

        if state == 0:
            first = not readline.get_line_buffer()[: readline.get_begidx()].strip()
            names = sorted([*COMMANDS, *ALIASES, *RICH, *_QUIT]) if first else self._symbols(text)
            self._found = [name for name in names if name.startswith(text)][:_MAX_COMPLETIONS]
        return self._found[state] if state < len(self._found) else None

    def _symbols(self, text: str) -> list[str]:
        if not text:
            return []
        try:
            table = self._kernel.symbols
        except DumpError:
            return []
        start = text.encode()
        found = {name[1:].decode("utf-8", "replace") for name in table.names if name.startswith(start, 1)}
        return sorted(found)
