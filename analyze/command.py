# SPDX-License-Identifier: GPL-2.0-or-later
"""Arguments of `dumpconv analyze CORE [COMMAND ...]`, and the run of one command line. Light to import."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .commands import Result
    from .kernel import Kernel

__all__ = ["add_arguments", "parse_line", "run_words"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb itself."""
    from .commands import COMMANDS

    parser.add_argument("core", metavar="CORE", help="dump of any format; of a split set any member")
    parser.add_argument(
        "command", nargs=argparse.REMAINDER, metavar="COMMAND ...", help="command and its words; none: a prompt"
    )
    parser.add_argument("-i", dest="commands", metavar="FILE", help="run the commands in FILE, one a line")
    width = max(map(len, COMMANDS))
    lines = "".join(f"\n  {name:<{width}}  {entry.help}" for name, entry in COMMANDS.items())
    parser.epilog = f"commands (COMMAND --help says more):{lines}"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter


class _Words(argparse.ArgumentParser):
    # says what is wrong instead of ending the program: a prompt goes on
    def error(self, message: str) -> None:  # type: ignore[override]
        from ..formats.errors import UsageError

        raise UsageError(f"{self.prog}: {message}")


def parse_line(line: str) -> list[str]:
    """Cut a line as a shell does.

    Raises:
        UsageError: Quotes do not close.
    """
    try:
        return shlex.split(line, comments=True)
    except ValueError as error:
        from ..formats.errors import UsageError

        raise UsageError(f"{line}: {error}") from error


def run_words(kernel: Kernel, words: Sequence[str]) -> Result:
    """Run one command.

    Raises:
        UsageError: No such command, or wrong words.
        DumpError: Nothing of what was asked for can be had.
    """
    from ..formats.errors import UsageError
    from .commands import ALIASES, COMMANDS, load

    name = ALIASES.get(words[0], words[0])
    if name not in COMMANDS:
        raise UsageError(f"{words[0]} is no command of analyze", hint=f"known are {', '.join(COMMANDS)}")
    module = load(name)
    parser = _Words(name, description=COMMANDS[name].help, allow_abbrev=False)
    module.add_arguments(parser)
    return module.run(kernel, parser.parse_args(list(words[1:])))
