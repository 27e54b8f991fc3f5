# SPDX-License-Identifier: GPL-2.0-or-later
"""`dumpconv IN... OUT`: its arguments and how its report is shown."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .convert import ConvertOptions, ConvertReport
    from .output import OutputFormat

OUTPUTS = ("elf", "kdump", "lkcd", "raw", "lime")
# makedumpfile's letters
_CODECS = (
    ("c", "zlib", "compress pages with zlib"),
    ("l", "lzo", "compress pages with LZO"),
    ("p", "snappy", "compress pages with snappy"),
    ("z", "zstd", "compress pages with zstd"),
)
_MAX_MEMBERS = 256

__all__ = ["OUTPUTS", "add_arguments", "render", "to_json", "to_options", "to_output"]


def _holes(text: str) -> int:
    key, equals, value = text.partition("=")
    if text == "exact":
        return 0
    if key != "min-run" or not equals or not value.isdigit() or not 0 < int(value) < 1 << 40:
        raise argparse.ArgumentTypeError("`exact` or `min-run=N` expected")
    return int(value)


def _members(text: str) -> int:
    if not text.isdigit() or not 2 <= int(text) <= _MAX_MEMBERS:
        raise argparse.ArgumentTypeError(f"a number from 2 to {_MAX_MEMBERS} expected")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError("a number above 0 expected")
    return int(text)


def _add_output(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what to write")
    group.add_argument(
        "-O",
        "--output-format",
        choices=OUTPUTS,
        default="elf",
        metavar="FORMAT",
        help=f"{', '.join(OUTPUTS)} (default: elf, the canonical ELF vmcore)",
    )
    codec = group.add_mutually_exclusive_group()
    for letter, name, what in _CODECS:
        codec.add_argument(f"-{letter}", dest="codec", action="store_const", const=name, help=what)
    codec.add_argument(
        "--codec",
        choices=("raw", *(name for _, name, _ in _CODECS)),
        default=None,
        help="the same by name (default: raw for kdump, zlib for LKCD)",
    )
    group.add_argument(
        "-F", "--flatten", action="store_true", help="-O kdump: makedumpfile's flattened stream, which may go to a pipe"
    )
    group.add_argument(
        "--split", type=_members, default=1, metavar="N", help="-O kdump: a split set of N files, OUT.1 to OUT.N"
    )
    group.add_argument(
        "--lkcd-version", type=int, choices=(8, 9), default=None, help="-O lkcd: header version (default: 8)"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the conversion's arguments."""
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="IN",
        help="dump, or the members of a split set, files or URLs; - is stdin",
    )
    parser.add_argument("output", metavar="OUT", help="the file to write; - is stdout")
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")
    parser.add_argument("--salvage", action="store_true", help="write what is whole of a damaged or partial dump")
    _add_output(parser)
    parser.add_argument(
        "--holes",
        type=_holes,
        default=0,
        metavar="exact|min-run=N",
        help="fill gaps shorter than N pages with zeros, recorded in our note (default: exact)",
    )
    parser.add_argument("--elf64", action="store_true", help="ELFCLASS64 for a 32-bit machine too (volatility)")
    parser.add_argument(
        "--map-kernel", action="store_true", help="program headers for all that the kernel maps: modules, vmalloc (gdb)"
    )
    parser.add_argument("--no-digest", dest="digest", action="store_false", help="do not compute the content digest")
    parser.add_argument("--verify", action="store_true", help="read OUT back before it gets its name, and prove it")
    parser.add_argument(
        "--manifest-out",
        metavar="FILE",
        help="write a manifest of IN, hashed in the same pass, and of OUT (docs/manifest.md)",
    )
    parser.add_argument("--no-fsync", dest="fsync", action="store_false", help="do not wait until OUT is on the disk")
    parser.add_argument(
        "--batch",
        type=_positive,
        default=1024,
        metavar="KIB",
        help="pages that a worker decodes at a time, in KiB (default: 1024)",
    )


def _check_output_options(args: argparse.Namespace) -> None:
    # options that mean nothing to the format asked for
    from ..formats.errors import UsageError

    kind = args.output_format
    given = (
        ("a codec (-c, -l, -p, -z, --codec)", args.codec is not None, ("kdump", "lkcd")),
        ("-F", args.flatten, ("kdump",)),
        ("--split", args.split > 1, ("kdump",)),
        ("--lkcd-version", args.lkcd_version is not None, ("lkcd",)),
        ("--holes", args.holes > 0, ("elf",)),
        ("--elf64", args.elf64, ("elf",)),
        ("--map-kernel", args.map_kernel, ("elf",)),
    )
    for name, is_given, kinds in given:
        if is_given and kind not in kinds:
            raise UsageError(f"{name} goes with -O {' or '.join(kinds)}, not with -O {kind}")


def to_output(args: argparse.Namespace) -> OutputFormat:
    """Return the output format from parsed arguments.

    Raises:
        UsageError: The options do not go together.
        CodecUnavailable: No library compresses the pages.
    """
    from ..formats.codecs import CODEC_NAMES, ZLIB_SLACK
    from ..formats.errors import UsageError

    _check_output_options(args)
    numbers = {name: number for number, name in CODEC_NAMES.items() if number != ZLIB_SLACK}  # for reading only
    output: OutputFormat
    # each with its own import: start-up counts
    if args.output_format == "kdump":
        from .kdump import KdumpOutput

        output = KdumpOutput(numbers[args.codec or "raw"], args.split, flattened=args.flatten)
    elif args.output_format == "lkcd":
        from .lkcd import LkcdOutput

        output = LkcdOutput(args.lkcd_version or 8, numbers[args.codec or "zlib"])
    elif args.output_format in ("raw", "lime"):
        from .placed import LimeOutput, RawOutput

        output = RawOutput() if args.output_format == "raw" else LimeOutput()
    else:
        from .layout import ElfOutput

        output = ElfOutput(maps_kernel=args.map_kernel)
    if args.verify and (not args.digest or args.output == "-" or output.flattened or output.name == "raw"):
        raise UsageError(
            "--verify needs a file as OUT, with the content digest; neither -F nor -O raw can be held against it"
        )
    if args.output == "-" and not output.sequential:
        raise UsageError("a kdump is not written front to back: none goes to standard output", hint="-F flattens it")
    return output


def to_options(args: argparse.Namespace) -> ConvertOptions:
    """Return the conversion's options from parsed arguments."""
    from ..formats.cluster import choose_workers
    from .convert import ConvertOptions

    output = to_output(args)
    executor, jobs = choose_workers(args.cluster, args.executor, args.jobs)
    return ConvertOptions(
        salvage=args.salvage,
        digest=args.digest,
        sync=args.fsync,
        jobs=jobs,
        executor=executor,
        batch_bytes=args.batch << 10,
        min_hole=args.holes,
        elf64=args.elf64,
        output=output,
    )


def to_json(report: ConvertReport, source_format: str, seconds: float, peak: int | None) -> dict[str, Any]:
    """Return the report as JSON values (docs/json.md)."""
    return {
        "schema": "dumpconv.convert/1",
        "format": source_format,
        "output": report.output,
        "files": report.files,
        "pages": report.pages,
        "filled": report.filled,
        "bytes": report.bytes,
        "file_size": report.file_size,
        "segments": report.segments,
        "content_digest": report.content_digest,
        "state_digest": report.state_digest,
        "addresses": report.addresses,
        "incomplete": report.incomplete,
        "findings": [{"code": each.code, "message": each.message} for each in report.findings],
        "nr_damaged": report.nr_damaged,
        "damage": [
            {"pfn": each.pfn, "state": each.state.name.lower(), "reason": each.reason, "offset": each.offset}
            for each in report.damage
        ],
        "seconds": round(seconds, 3),
        "peak_memory": peak,
    }


def render(report: ConvertReport, seconds: float, peak: int | None) -> list[str]:
    """Return the report's lines; the last one sums up."""
    lines = [f"note: {finding.message} [{finding.code}]" for finding in report.findings]
    for damage in report.damage[:20]:
        lines.append(f"{damage.state.name.lower()}: pfn {damage.pfn:#x}: {damage.reason}")
    if report.nr_damaged > 20:
        lines.append(f"... {report.nr_damaged - 20} more damaged pages (--json has up to 10000)")
    if report.addresses and not report.addresses.startswith("derived"):
        lines.append(f"note: p_vaddr {report.addresses}")
    if report.filled:
        lines.append(f"note: {report.filled} pages of gaps filled with zeros (--holes)")
    pages = report.pages
    counts = [f"{pages['stored']} pages stored ({pages.get('zero', 0)} zero)"]
    counts += [f"{pages[state]} {state}" for state in ("excluded", "lost", "damaged", "partial") if pages[state]]
    if report.incomplete:
        counts.append("marked incomplete")
    speed = f"{report.bytes / max(seconds, 1e-9) / 1e9:.2f} GB/s"
    memory = "" if peak is None else f", peak {peak / 1e6:.0f} MB (this process and its largest worker)"
    where = f" {report.segments} segments;" if report.segments else ""
    lines.append(f"{', '.join(counts)};{where} {seconds:.2f} s, {speed}{memory}")
    return lines
