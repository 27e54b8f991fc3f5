# SPDX-License-Identifier: GPL-2.0-or-later
"""`report`: the first answers in one pass, as text, as JSON, or as a page to attach to a ticket."""

from __future__ import annotations

import argparse

from ...formats.errors import UsageError
from ..kernel import Kernel
from ..report import gather, pages_of
from ..report_text import render_report
from . import Result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument("--tail", type=int, metavar="N", help="lines of the log (default: 40, more to show the panic)")
    parser.add_argument("--html", metavar="FILE", help="write one self-contained page instead of the text")
    parser.add_argument("--force", action="store_true", help="with --html: replace FILE")


def run(kernel: Kernel, args: argparse.Namespace) -> Result:
    """Gather the facts and print them, or write the page."""
    if args.force and args.html is None:
        raise UsageError("--force is about --html, which is not there")
    if args.html is not None:
        from ...verify.display.html import check_free, check_page

        check_page(args.html, [source.name for source in kernel.reader.sources])
        check_free(args.html, force=args.force)
    result = Result()
    drawn = pages_of(kernel)
    facts = result.data = gather(kernel, result, None if args.tail is None else max(0, args.tail), drawn)
    if args.html is None:
        result.lines = render_report(facts)
        return result
    from ..report_html import write_report

    write_report(kernel, facts, drawn, args.html)
    return result
