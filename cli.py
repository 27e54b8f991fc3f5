# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line: entry point, parsers, exit codes, progress; the only module that prints or exits."""

from __future__ import annotations

import argparse
import os
import sys

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    from .convert import command
    from .convert.convert import ConvertOptions, convert
    from .formats import open_dump
    from .formats.errors import DumpError
    from .formats.executor import default_jobs
    from .formats.reader import Options
    import time

    parser = argparse.ArgumentParser("dumpconv")
    command.add_arguments(parser)
    args = parser.parse_args(argv)
    t = time.time()
    try:
        reader = open_dump(args.inputs, Options(salvage=args.salvage))
        report = convert(
            reader,
            args.output,
            ConvertOptions(args.salvage, args.digest, args.fsync, args.jobs or default_jobs(), args.executor, args.batch << 10, args.holes, args.elf64),
        )
    except DumpError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    for line in command.render(report, time.time() - t, None):
        print(line)
    return 0
