# SPDX-License-Identifier: GPL-2.0-or-later
"""Arguments of `dumpverify`. Light: parsers are built before anything else is imported."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from .command import add_shared, reading_options, take_urls
from .display.amounts import duration, scaled

if TYPE_CHECKING:
    from .fixity import FixityOptions
    from .report_html import HtmlReport
    from .target import VerifyOptions

__all__ = [
    "add_arguments",
    "check_jobs",
    "html_name",
    "html_page",
    "identity",
    "take_urls",
    "verify_options",
    "wanted_reports",
]

_LEVELS = ("quick", "structure", "pages", "content", "kernel")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add all arguments of `dumpverify`."""
    parser.add_argument(
        "paths",
        nargs="*",
        metavar="PATH",
        help="dump or URL, directory of dumps, or member of a split set (default with --manifest: all that it lists)",
    )
    parser.add_argument(
        "--level",
        choices=_LEVELS,
        default="pages",
        help="how deep: headers; all tables and notes; every page decodes; digests; the kernel makes sense "
        "(default: pages)",
    )
    parser.add_argument(
        "--allow", action="append", default=[], metavar="CODE", help="a finding that does not count, like W217"
    )
    _add_fixity(parser)
    _add_jobs(parser)
    add_shared(parser, reads=True, works=True)


def _bytes(text: str) -> int:
    return scaled(text, {unit: 1024**power for power, unit in enumerate("KMGTP", 1)}, "a number with K, M, G, T or P")


def _add_jobs(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("archives and reports (docs/dumpverify.md)")
    group.add_argument("--max-duration", type=duration, metavar="TIME", help="end the run after this: 90s, 30m, 2h")
    group.add_argument("--max-bytes", type=_bytes, metavar="SIZE", help="end it after so many bytes of pages: 500G, 1T")
    group.add_argument(
        "--state", metavar="FILE", help="remember what was checked; the oldest is checked first, the next run goes on"
    )
    group.add_argument(
        "--max-age", type=duration, metavar="TIME", help="with --state: skip what was good within it, unchanged: 90d"
    )
    group.add_argument(
        "--report",
        action="append",
        default=[],
        type=_report,
        metavar="KIND[=FILE]",
        help="form of the report: text, json, jsonl, csv, junit or premis; with =FILE one more report (or html) there",
    )
    group.add_argument("--output", metavar="FILE", help="write the report there")
    group.add_argument(
        "-q", "--quiet", action="store_true", help="text: only of dumps that are not good; nothing where all are"
    )


def _report(text: str) -> tuple[str, str]:
    from .report_forms import KINDS

    kind, _, name = text.partition("=")
    if (kind not in KINDS and not (kind == "html" and name)) or ("=" in text and not name):
        raise argparse.ArgumentTypeError(f"one of {', '.join(KINDS)} or html=FILE expected")
    return kind, name


def _algorithms(text: str) -> tuple[str, ...]:
    from ..formats.filedigest import ALGORITHMS

    names = tuple(dict.fromkeys(text.lower().replace("b2sum", "blake2b").split(",")))
    unknown = [name for name in names if name not in ALGORITHMS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]} is not known; known are {', '.join(ALGORITHMS)}")
    return names


def _picture(text: str) -> str:
    if not text.lower().endswith((".png", ".svg")):
        raise argparse.ArgumentTypeError("a name that ends in .png or .svg expected")
    return text


def _add_fixity(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("manifests and maps (docs/manifest.md)")
    group.add_argument(
        "--manifest",
        metavar="FILE",
        help="check against a manifest: ours, of sha256sum and its sisters, or a BagIt bag (its directory)",
    )
    group.add_argument(
        "--write-manifest",
        metavar="FILE",
        help="write one: our JSON; sha256sum's form where FILE ends in .sha256, .sha512, .sha1, .md5 or .b2; "
        "the tag files of a bag where it is called bagit.txt",
    )
    group.add_argument(
        "--algorithm",
        type=_algorithms,
        default=None,
        metavar="NAME,...",
        help="digests to write: md5, sha1, sha224, sha256, sha384, sha512, blake2b, blake3 (default: sha256,blake3)",
    )
    group.add_argument(
        "--ddrescue", metavar="FILE", help="write a ddrescue map file of the bad bytes of the dump's file"
    )
    group.add_argument("--picture", type=_picture, metavar="FILE", help="draw the memory and its damage, .svg or .png")
    group.add_argument("--html", metavar="FILE", help="write the report as one HTML page, with a map of the memory")
    group.add_argument("--force", action="store_true", help="replace such a FILE if it exists")


def _fixity_options(args: argparse.Namespace) -> FixityOptions | None:
    from ..formats.errors import UsageError
    from .display.drawing import check_picture
    from .fixity import FixityOptions
    from .manifest import read_manifest
    from .manifest_write import check_target

    if not args.paths and args.manifest is None:
        raise UsageError("PATH or --manifest is missing")
    alone = len(args.paths) == 1 and not os.path.isdir(args.paths[0])
    for flag, name in (("--ddrescue", args.ddrescue), ("--picture", args.picture)):
        if name is not None and not alone:
            raise UsageError(f"{flag} is of one dump: name one file")
    if args.picture is not None:
        check_picture(args.picture, args.paths, force=args.force)
    for name in (args.ddrescue, args.write_manifest):
        if name is not None:
            check_target(name, force=args.force)
            if identity(name) is not None and identity(name) in map(identity, args.paths):
                raise UsageError("would replace what is to be checked", path=name)
    manifest = None if args.manifest is None else read_manifest(args.manifest)
    algorithms = _algorithms_to_write(args)
    return FixityOptions(manifest, algorithms) if manifest is not None or algorithms else None


def _algorithms_to_write(args: argparse.Namespace) -> tuple[str, ...]:
    from ..formats.errors import UsageError
    from ..formats.filedigest import DEFAULT_ALGORITHMS
    from .manifest_write import form_of

    if args.write_manifest is None:
        if args.algorithm is not None:
            raise UsageError("--algorithm goes with --write-manifest")
        return ()
    form = form_of(args.write_manifest)
    default = {"json": DEFAULT_ALGORITHMS, "bagit": ("sha256", "sha512")}.get(form, (form,))
    algorithms: tuple[str, ...] = args.algorithm or default
    if form not in ("json", "bagit") and algorithms != (form,):
        raise UsageError(f"{args.write_manifest} holds {form}: --algorithm {','.join(algorithms)} does not fit")
    return algorithms


def verify_options(args: argparse.Namespace) -> VerifyOptions:
    """Return the options of a run.

    Raises:
        UsageError: No such code, architecture or directory; files that must not be written.
        DumpError: The manifest cannot be read.
    """
    from ..formats.cluster import choose_workers
    from ..formats.errors import UsageError
    from .codes import CODES
    from .pagecheck import PageOptions
    from .target import VerifyOptions

    unknown = [code for code in args.allow if code not in CODES]
    if unknown:
        raise UsageError(f"--allow {unknown[0]}: there is no such code", hint="docs/findings.md lists them")
    fixity = _fixity_options(args)
    digest = args.level in ("content", "kernel") or fixity is not None
    executor, jobs = choose_workers(args.cluster, args.executor, args.jobs)
    pages = PageOptions(jobs, executor, digest)
    draws = (args.picture is not None, html_name(args) is not None)
    debug = args.debug or os.environ.get("DUMPCONV_DEBUG") == "1"
    return VerifyOptions(args.level, reading_options(args), pages, frozenset(args.allow), fixity, *draws, debug)


def check_jobs(args: argparse.Namespace) -> None:
    """Refuse options of a run that do not go together, and files that must not be written.

    Raises:
        UsageError: Such.
    """
    from ..formats.errors import UsageError
    from .manifest_write import check_target
    from .report_file import refuse_dump

    if args.max_age is not None and args.state is None:
        raise UsageError("--max-age goes with --state")
    if args.max_age is not None and args.write_manifest is not None:
        raise UsageError("--write-manifest is of all dumps, --max-age skips some: give one")
    reports = [name for _, name in wanted_reports(args) if name is not None]
    written = [*reports, *filter(None, [args.state, args.write_manifest, args.ddrescue, args.picture, html_name(args)])]
    if len({os.path.realpath(name) for name in written}) < len(written):
        raise UsageError("two outputs have one name", path=max(written, key=written.count))
    for name in (args.state, *reports):
        if name is not None and identity(name) is not None and identity(name) in map(identity, args.paths):
            raise UsageError("would replace what is to be checked", path=name)
    for name in reports:
        check_target(name, force=args.force)
    for name in (*reports, args.write_manifest, args.ddrescue, args.picture):
        if name is not None and args.force:
            refuse_dump(name, reading_options(args))


def html_page(args: argparse.Namespace) -> HtmlReport | None:
    """Return the page to add reports to, None where none is wanted.

    Raises:
        UsageError: It must not be written.
    """
    name = html_name(args)
    if name is None:
        return None
    from .report_html import HtmlReport

    return HtmlReport(name, args.paths, force=args.force)


def html_name(args: argparse.Namespace) -> str | None:
    """Return where the page goes, None where none is wanted.

    Raises:
        UsageError: To two places.
    """
    from ..formats.errors import UsageError

    names = [name for kind, name in args.report if kind == "html"] + ([args.html] if args.html is not None else [])
    if len(names) > 1:
        raise UsageError("one HTML page is written: give --html FILE or --report html=FILE once")
    return names[0] if names else None


def wanted_reports(args: argparse.Namespace) -> list[tuple[str, str | None]]:
    """Return (form, file) of the reports to write, the main one first; None: standard output.

    Raises:
        UsageError: More than one main form.
    """
    from ..formats.errors import UsageError

    main = [kind for kind, name in args.report if not name] + (["json"] if args.json else [])
    if len(set(main)) > 1:
        raise UsageError(f"{main[0]} and {main[1]} are two forms of one report: give one, or {main[1]}=FILE")
    more = [(kind, name) for kind, name in args.report if name and kind != "html"]
    return [(main[0] if main else "text", args.output), *more]


def identity(path: str) -> tuple[int, int] | None:
    """Return what tells a file from all others, None for no file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
