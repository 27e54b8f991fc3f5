# SPDX-License-Identifier: GPL-2.0-or-later
"""The answer to one command line, for whoever prints it: errors become complaints, and what was met decides the status.

The only place that decides it, for every command: 3 where damaged pages or ones that were cut off were asked for, or
the dump contradicts itself; 4 where its writer left something out or says so; else what the command itself says.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from ..formats.errors import DumpError, UsageError
from .command import run_words
from .commands import Result

if TYPE_CHECKING:
    from .kernel import Kernel

__all__ = ["answer", "standing"]

_WORDS = {3: "damaged or cut off", 4: "missing at the source"}


def answer(kernel: Kernel, words: Sequence[str]) -> Result:
    """Run one command.

    Args:
        kernel: The dump; what it was said to be is said once.
        words: The command and its words.

    Returns:
        What it found. Complaints and exit codes are complete after the last line.

    Raises:
        UsageError: No such command, or wrong words; also while lines are made.
    """
    result = Result()
    try:
        result = run_words(kernel, words)
    except UsageError:
        raise
    except DumpError as error:
        result.complain(str(error), error.exit_code)
    result.lines = _lines(kernel, result, result.lines)
    return result


def _lines(kernel: Kernel, result: Result, lines: Iterable[str]) -> Iterator[str]:
    try:
        yield from lines
    except UsageError:
        raise
    except DumpError as error:
        result.complain(str(error), error.exit_code)
    for text, code in standing(kernel):
        result.exit_codes.append(code)
        if text not in kernel.told:
            kernel.told.add(text)
            result.complain(text, code)


def standing(kernel: Kernel) -> Iterator[tuple[str, int]]:
    """Yield what the reader says of the dump, and what was asked for and could not be read: a line, an exit code."""
    reader = kernel.reader
    name = os.path.basename(reader.sources[0].name)
    if reader.damage is not None:
        yield f"{reader.damage.plain()}; `dumpverify {name}` shows all that is wrong", reader.damage.exit_code
    for code, kind in _WORDS.items():
        found = [(pfn, why) for pfn, (its, why) in kernel.physical.met.items() if its == code]
        if found:
            pages = "1 page is" if len(found) == 1 else f"{len(found)} pages are"
            advice = f"; `dumpverify {name}` shows all" if code == 3 else ""
            yield (
                f"of what was looked at {pages} {kind}: the first is pfn {found[0][0]:#x}, {found[0][1]}{advice}",
                code,
            )
    if reader.incomplete:
        yield "the writer of the dump marked it as incomplete: what is not there cannot be shown", 4
