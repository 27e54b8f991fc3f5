# SPDX-License-Identifier: GPL-2.0-or-later
"""Arguments of the commands that report on dumps, `info`, `map` and `compare`, and those that all commands share.

Light: parsers are built from this before anything else is imported.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..formats.reader import Options
    from .compare import CompareOptions

__all__ = ["ADD_ARGUMENTS", "add_shared", "compare_options", "reading_options", "take_urls"]

_IN = "dump, or the members of a split set, files or URLs; - is stdin"
DEFAULT_LIMIT = 100


def _size(text: str) -> int:
    value = int(text) if text.isdigit() else 0
    if value & (value - 1) or not 512 <= value <= 1 << 20:
        raise argparse.ArgumentTypeError("a power of two from 512 to 1048576 expected")
    return value


def _address(text: str) -> int:
    try:
        value = int(text, 0)
    except ValueError:
        value = -1
    if not 0 <= value < 1 << 64:
        raise argparse.ArgumentTypeError("a number from 0 to 2**64 - 1 expected, 0x for hexadecimal")
    return value


def add_shared(parser: argparse.ArgumentParser, *, reads: bool, works: bool = False) -> None:
    """Add what all commands take: JSON, progress; how to read a dump (`reads`); who decodes its pages (`works`)."""
    group = parser.add_argument_group("shared options")
    group.add_argument("--json", action="store_true", help="report as JSON (docs/json.md)")
    group.add_argument("--debug", action="store_true", help="show the traceback of an unexpected error")
    if not reads:
        return
    group.add_argument("--strict", action="store_true", help="exit with 7 where there are remarks")
    group.add_argument(
        "--progress",
        choices=("auto", "none", "json"),
        default="auto",
        help="progress on stderr: a bar on a terminal, nothing, or JSON lines (default: auto)",
    )
    if works:
        _add_workers(parser.add_argument_group("workers"))
    group = parser.add_argument_group("how to read the input")
    group.add_argument(
        "-f", "--format", metavar="FORMAT", help="format of IN, where its content does not tell (`raw` never tells)"
    )
    group.add_argument(
        "--base",
        type=_address,
        default=0,
        metavar="ADDR",
        help="-f raw: physical address of the first byte (default: 0); mcore: kernel address of physical address 0",
    )
    group.add_argument(
        "--offset", type=_address, default=0, metavar="BYTES", help="-f raw: bytes before it in the file (default: 0)"
    )
    group.add_argument("--length", type=_address, metavar="BYTES", help="-f raw: bytes of memory (default: the rest)")
    group.add_argument(
        "--byte-order",
        choices=("little", "big"),
        help="-f raw: of the machine (default: big for ppc, s390, s390x and sparc64)",
    )
    group.add_argument(
        "--view",
        choices=("dom0", "machine"),
        help="Xen: the memory of a host's dom0; pages of an old guest dump by machine frame",
    )
    group.add_argument(
        "--tail-zero", action="store_true", help="ELF: memory beyond the bytes of a segment is zeros, not left out"
    )
    group.add_argument("--machine", metavar="ARCH", help="architecture, where the dump does not say (x86_64, ...)")
    group.add_argument("--page-size", type=_size, metavar="BYTES", help="page size, where the dump does not say")
    group.add_argument(
        "--no-sisters",
        dest="sisters",
        action="store_false",
        help="do not look for the other members of a split set beside the one given",
    )
    group.add_argument("--spool-dir", metavar="DIR", help="where streams are spooled (default: the system's)")


def _add_workers(group: argparse._ArgumentGroup) -> None:
    # `formats.cluster.choose_workers` understands what is given
    group.add_argument("-j", "--jobs", type=_positive, default=None, metavar="N", help="workers (default: CPUs)")
    group.add_argument(
        "--executor",
        choices=("auto", "serial", "threads", "processes", "spawn"),
        default="auto",
        help="what workers are (default: forked processes, none for small dumps)",
    )
    group.add_argument(
        "--cluster",
        metavar="ADDRESS",
        help="workers are those of the dask.distributed scheduler there (docs/scale-out.md)",
    )


def _count(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError("a number expected")
    return int(text)


def _positive(text: str) -> int:
    if _count(text) < 1:
        raise argparse.ArgumentTypeError("a number above 0 expected")
    return int(text)


def _picture(text: str) -> str:
    if not text.lower().endswith((".png", ".svg")):
        raise argparse.ArgumentTypeError("a name that ends in .png or .svg expected")
    return text


def _add_info(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inputs", nargs="+", metavar="IN", help=_IN)
    parser.add_argument(
        "--no-codecs",
        dest="codecs",
        action="store_false",
        help="do not count codecs: skips reading the page descriptors",
    )


def _add_map(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inputs", nargs="+", metavar="IN", help=_IN)
    parser.add_argument(
        "--limit",
        type=_count,
        default=DEFAULT_LIMIT,
        metavar="N",
        help=f"runs in the table, 0 for all (default: {DEFAULT_LIMIT})",
    )
    parser.add_argument(
        "--ddrescue",
        action="store_true",
        help="print a ddrescue map file of physical memory: + stored, - lost or damaged, ? excluded or no RAM",
    )
    parser.add_argument(
        "--picture",
        type=_picture,
        metavar="FILE",
        help="write a picture of the whole memory, .svg or .png (needs dumpconv[picture])",
    )
    parser.add_argument("--force", action="store_true", help="replace FILE if it exists")


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", metavar="A", help="dump; of a split set any member; - is stdin")
    parser.add_argument("b", metavar="B", help="dump to compare it with")
    parser.add_argument(
        "--trust-digest",
        action="store_true",
        help="compare the digests that both files carry instead of the pages, if they do",
    )
    parser.add_argument("--states", action="store_true", help="differing page states count as a difference (exit 1)")
    parser.add_argument(
        "--notes", action="store_true", help="differing registers or VMCOREINFO count as a difference (exit 1)"
    )
    parser.add_argument("--limit", type=_count, default=10, metavar="N", help="differing ranges to show (default: 10)")


def reading_options(args: argparse.Namespace) -> Options:
    """Return how to open dumps.

    Raises:
        UsageError: No such architecture or directory.
    """

    from ..formats.errors import UsageError
    from ..formats.machine import ARCHITECTURES
    from ..formats.reader import Options

    if args.machine is not None and args.machine not in ARCHITECTURES:
        raise UsageError(f"--machine {args.machine} is not known", hint=f"known are {', '.join(ARCHITECTURES)}")
    if args.spool_dir is not None and not os.path.isdir(args.spool_dir):
        raise UsageError("--spool-dir is no directory", path=args.spool_dir)
    salvage = getattr(args, "salvage", False)
    return Options(
        salvage=salvage,
        tail_zero=args.tail_zero,
        machine=args.machine,
        page_size=args.page_size,
        find_sisters=args.sisters,
        spool_dir=args.spool_dir,
        format=args.format,
        base=args.base,
        offset=args.offset,
        length=args.length,
        byteorder=args.byte_order,
        view=args.view,
    )


def take_urls(args: argparse.Namespace) -> None:
    """Make URLs of the dumps that are named by one: from here on their secrets are not shown.

    Raises:
        UsageError: Two of them differ in nothing that is shown, and reports and digests go by what is.
    """
    given = [vars(args)[key] for key in ("inputs", "paths", "a", "b", "core") if vars(args).get(key)]
    if not any("://" in text for each in given for text in ([each] if isinstance(each, str) else each)):
        return
    from ..formats.errors import UsageError
    from ..formats.urls import Url, as_name  # which imports numpy

    for key in ("inputs", "paths", "a", "b", "core"):
        value = vars(args).get(key)
        if value:
            setattr(args, key, as_name(value) if isinstance(value, str) else [as_name(each) for each in value])
    full: dict[str, str] = {}
    for key in ("inputs", "paths", "a", "b", "core"):
        value = vars(args).get(key) or ()
        for url in [value] if isinstance(value, str) else value:
            if isinstance(url, Url) and full.setdefault(url, url.full) != url.full:
                raise UsageError(
                    "two URLs differ only in user, password or query, which are not shown",
                    path=url,
                    hint="give them in two runs",
                )


def compare_options(args: argparse.Namespace) -> CompareOptions:
    """Return the options of `compare`."""
    from ..formats.cluster import choose_workers
    from .compare import CompareOptions

    executor, jobs = choose_workers(args.cluster, args.executor, args.jobs)
    return CompareOptions(args.trust_digest, args.limit, jobs, executor)


ADD_ARGUMENTS: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "info": _add_info,
    "map": _add_map,
    "compare": _add_compare,
}
