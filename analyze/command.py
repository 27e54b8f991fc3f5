# SPDX-License-Identifier: GPL-2.0-or-later
"""Arguments of `dumpconv analyze CORE [COMMAND ...]`, and the run of one command line. Light to import."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..verify.display.amounts import duration

if TYPE_CHECKING:
    from .commands import Result
    from .kernel import Kernel

__all__ = ["add_arguments", "parse_line", "parser_of", "prepare", "run_words", "settle"]


MAX_SECONDS = 600  # for one command through drgn


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb itself."""
    from .commands import COMMANDS, RICH

    parser.add_argument("core", metavar="CORE", help="dump of any format, or its URL; of a split set any member")
    parser.add_argument(
        "command", nargs=argparse.REMAINDER, metavar="COMMAND ...", help="command and its words; none: a prompt"
    )
    parser.add_argument("-i", dest="commands", metavar="FILE", help="run the commands in FILE, one a line")
    parser.add_argument(
        "--write-vmlinux", metavar="FILE", help="write a vmlinux made from the dump: crash, drgn and gdb take it"
    )
    parser.add_argument("--no-image", action="store_true", help="with --write-vmlinux: without contents of memory")
    parser.add_argument(
        "--for", dest="debugger", choices=("any", "gdb"), default="any", help="with --write-vmlinux: gdb without help"
    )
    parser.add_argument("--force", action="store_true", help="with --write-vmlinux: replace FILE")
    parser.add_argument("--vmlinux", metavar="FILE", help="debuginfo for the commands that use drgn")
    parser.add_argument(
        "--max-duration",
        type=duration,
        default=MAX_SECONDS,
        metavar="TIME",
        help="end a command through drgn after this: 90s, 30m, 2h (default 10m)",
    )
    parser.add_argument(
        "--system-map", metavar="FILE", help="symbols from a System.map or the output of nm, instead of the dump's own"
    )
    width = max(map(len, COMMANDS))
    lines = "".join(f"\n  {name:<{width}}  {entry.help}" for name, entry in COMMANDS.items())
    parser.epilog = f"commands (COMMAND --help says more):{lines}\n\nthrough drgn, where it is installed: "
    parser.epilog += f"{', '.join(RICH)};\n`crash COMMAND ...` runs any of its commands"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter


_FLAGS = ("--no-image", "--force")
_VALUES = ("--write-vmlinux", "--vmlinux", "--system-map", "-i", "--for", "--max-duration")
_OTHER_NAMES = {"-i": "commands", "--for": "debugger"}


def settle(args: argparse.Namespace) -> None:
    """Take the verb's own options from where its command should be: they may stand behind CORE.

    Raises:
        UsageError: One lacks its value.
    """
    from ..formats.errors import UsageError

    words: list[str] = args.command
    while words and words[0].split("=")[0] in (*_FLAGS, *_VALUES):
        option, equals, value = words.pop(0).partition("=")
        name = _OTHER_NAMES.get(option) or option[2:].replace("-", "_")
        if option in _FLAGS:
            setattr(args, name, True)
            continue
        if not equals and not words:
            raise UsageError(f"{option} needs a value")
        value = value if equals else words.pop(0)
        try:
            setattr(args, name, duration(value) if name == "max_duration" else value)
        except argparse.ArgumentTypeError as error:
            raise UsageError(f"{option} {value}: {error}") from error
    if args.debugger not in ("any", "gdb"):
        raise UsageError(f"--for {args.debugger}: any or gdb expected")
    if args.debugger == "gdb" and args.write_vmlinux is None:
        raise UsageError("--for is about --write-vmlinux, which is not there")
    if args.no_image and args.write_vmlinux is None:
        raise UsageError("--no-image is about --write-vmlinux, which is not there")


def prepare(kernel: Kernel, args: argparse.Namespace) -> None:
    """Give a kernel the files that the user named.

    Raises:
        UsageError, OSError: One is not what it should be.
    """
    kernel.vmlinux = args.vmlinux
    kernel.max_duration = args.max_duration
    kernel.wants_values = bool(args.json)
    if args.system_map is not None:
        from .system_map import load_system_map

        kernel.system_map = load_system_map(args.system_map, kernel.machine.word_size)


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
    from .commands import ALIASES, FOREACH, RICH, load

    words = [*ALIASES.get(words[0], words[0]).split(" "), *words[1:]]
    name = words[0]
    of_foreach = next((word for word in words[1:] if word in ("bt", *FOREACH)), "bt") if name == "foreach" else "bt"
    if name in (*RICH, "crash") or of_foreach != "bt":
        from .through_drgn import run_drgn

        return run_drgn(kernel, words, kernel.vmlinux)
    args = parser_of(name).parse_args(words[1:])
    return load(name).run(kernel, args)


def parser_of(name: str) -> argparse.ArgumentParser:
    """Return the parser of a command's words.

    Raises:
        UsageError: No such command.
    """
    from ..formats.errors import UsageError
    from .commands import COMMANDS, RICH, load

    if name not in COMMANDS:
        known = ", ".join(COMMANDS)
        raise UsageError(f"{name} is no command of analyze", hint=f"known are {known}; through drgn {', '.join(RICH)}")
    parser = _Words(name, description=COMMANDS[name].help, allow_abbrev=False)
    load(name).add_arguments(parser)
    return parser
