# SPDX-License-Identifier: GPL-2.0-or-later
"""`help`: the commands, or the words of one."""

from __future__ import annotations

import argparse

from ..kernel import Kernel
from . import ALIASES, COMMANDS, RICH, Result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument("command", nargs="?", metavar="COMMAND", help="one command")


def run(kernel: Kernel, args: argparse.Namespace) -> Result:
    """Print all commands in a line each, or what one takes.

    Raises:
        UsageError: No such command.
    """
    if args.command is not None:
        from ..command import parser_of

        name = ALIASES.get(args.command, args.command)
        return Result(parser_of(name).format_help().splitlines(), {"command": name, "help": _help_of(name)})
    width = max(map(len, COMMANDS))
    lines = [f"{name:<{width}}  {entry.help}" for name, entry in COMMANDS.items()]
    lines += [
        "",
        f"through drgn, where it is installed: {', '.join(RICH)}; `crash COMMAND ...` runs any of its commands",
    ]
    lines += [f"names of lcrash: {', '.join(f'{old} = {new}' for old, new in ALIASES.items())}"]
    lines += ["at the prompt: COMMAND | PROGRAM, quit"]
    return Result(lines, {name: entry.help for name, entry in COMMANDS.items()})


def _help_of(name: str) -> str:
    return COMMANDS[name].help
