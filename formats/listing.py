# SPDX-License-Identifier: GPL-2.0-or-later
"""`dumpconv formats`: what can be read and written. The one place with these tables; README takes them from here."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from .machine import ARCHITECTURES

__all__ = ["CODECS", "FORMATS", "OUTER", "CodecRow", "FormatRow", "render", "render_markdown", "to_json"]

SCHEMA = "dumpconv.formats/1"


class FormatRow(NamedTuple):
    """One format.

    Attributes:
        name: As readers and `info` call it.
        reads, writes: What dumpconv does with it.
        versions: Which are known.
        made_by: Programs that write it.
        codecs: Of its pages.
    """

    name: str
    reads: bool
    writes: bool
    versions: str
    made_by: str
    codecs: tuple[str, ...]


FORMATS: tuple[FormatRow, ...] = (
    FormatRow(
        "kdump",
        reads=True,
        writes=True,
        versions="header 0 to 6, also flattened and split sets",
        made_by="makedumpfile -c -l -p -z, QEMU",
        codecs=("raw", "zlib", "lzo", "snappy", "zstd"),
    ),
    FormatRow(
        "diskdump",
        reads=True,
        writes=False,
        versions="header 0 and 1, file and dump partition",
        made_by="savecore of diskdumputils, the diskdump driver (RHEL 3 and 4)",
        codecs=("raw", "zlib"),
    ),
    FormatRow(
        "xc_core",
        reads=True,
        writes=False,
        versions="guests with and without machine frames; a whole host is elf, --view dom0 its first guest",
        made_by="xl dump-core, xm dump-core, virsh dump on Xen",
        codecs=("raw",),
    ),
    FormatRow(
        "xc_core-old",
        reads=True,
        writes=False,
        versions="before ELF, Xen up to 3.0.4",
        made_by="xm dump-core",
        codecs=("raw",),
    ),
    FormatRow(
        "xen-save",
        reads=True,
        writes=False,
        versions="legacy stream, migration stream 2 and 3",
        made_by="xm save, xl save, virsh save on Xen",
        codecs=("raw",),
    ),
    FormatRow(
        "kcore",
        reads=True,
        writes=False,
        versions="the running system, and copies of the file",
        made_by="/proc/kcore",
        codecs=("raw",),
    ),
    FormatRow(
        "netdump",
        reads=True,
        writes=False,
        versions="ELFCLASS32 and 64",
        made_by="netdump-server (RHEL 2.1 to 4), savecore of diskdumputils",
        codecs=("raw",),
    ),
    FormatRow(
        "elf",
        reads=True,
        writes=True,
        versions="ELFCLASS32 and 64, also flattened and with PN_XNUM",
        made_by="/proc/vmcore, makedumpfile -E, QEMU, dumpconv (canonical)",
        codecs=("raw",),
    ),
    FormatRow(
        "s390",
        reads=True,
        writes=False,
        versions="1 to 5, extended 1 and 2, 31 and 64 bits, tape, multi-volume sets",
        made_by="zipl's dump tools, zgetdump -f s390",
        codecs=("raw", "zlib"),
    ),
    FormatRow(
        "vmdump",
        reads=True,
        writes=False,
        versions="64-bit big (z/VM 5.2 and later)",
        made_by="z/VM's VMDUMP command",
        codecs=("raw",),
    ),
    FormatRow(
        "lime",
        reads=True,
        writes=True,
        versions="1, which is AVML's 1 too; also packed by zlib",
        made_by="LiME, AVML, dumpconv",
        codecs=("raw",),
    ),
    FormatRow("avml", reads=True, writes=False, versions="2", made_by="AVML -c", codecs=("snappy",)),
    FormatRow(
        "lkcd",
        reads=True,
        writes=True,
        versions="1 to 3, 5 to 10, also images of dump partitions; written: 8, 9",
        made_by="LKCD kernels, zfcpdump, dumpconv",
        codecs=("raw", "rle", "zlib"),
    ),
    FormatRow(
        "raw",
        reads=True,
        writes=True,
        versions="flat memory, with -f raw and its addresses; pieces as FILE@HEXADDR",
        made_by="dd, LiME padded, ramdump tools, dumpconv",
        codecs=("raw",),
    ),
    FormatRow(
        "mcore",
        reads=True,
        writes=False,
        versions="1 and 2, 32 and 64 bits",
        made_by="Mission Critical Linux's crash dump (1999 to 2001)",
        codecs=("zlib",),
    ),
    FormatRow(
        "mkdump",
        reads=False,
        writes=False,
        versions="raw device: to be converted by MKdump's mkd_conv first",
        made_by="MKdump (mini kernel dump)",
        codecs=(),
    ),
)


class CodecRow(NamedTuple):
    """A page codec or outer compression, and the packages that decode it: (import name, distribution)."""

    name: str
    libraries: tuple[tuple[str, str], ...]


# The first library that is installed is used.
CODECS: tuple[CodecRow, ...] = (
    CodecRow("zlib", (("deflate", "deflate"), ("zlib", "Python"))),
    CodecRow("lzo", (("lzallright", "lzallright"), ("lzo", "python-lzo"))),
    CodecRow("snappy", (("cramjam", "cramjam"),)),
    CodecRow("zstd", (("zstandard", "zstandard"),)),
    CodecRow("rle", (("numpy", "numpy"),)),
)
OUTER = ("gz", "xz", "zst", "lz4", "bz2", "lzo", "zlib")


def _library(row: CodecRow) -> str | None:
    for module, distribution in row.libraries:
        if importlib.util.find_spec(module) is None:
            continue
        try:
            return f"{distribution} {importlib.metadata.version(distribution)}"
        except importlib.metadata.PackageNotFoundError:
            return distribution
    return None


def to_json() -> dict[str, Any]:
    """Return everything as JSON values (docs/json.md)."""
    return {
        "schema": SCHEMA,
        "formats": [
            {
                "name": row.name,
                "reads": row.reads,
                "writes": row.writes,
                "versions": row.versions,
                "made_by": row.made_by,
                "codecs": list(row.codecs),
            }
            for row in FORMATS
        ],
        "architectures": [
            {"name": arch.name, "e_machine": arch.e_machine, "word_size": arch.word_size}
            for arch in ARCHITECTURES.values()
        ],
        "codecs": [{"name": row.name, "library": _library(row)} for row in CODECS],
        "outer_compression": list(OUTER),
    }


_HEAD = ("format", "read", "write", "versions", "made by", "page codecs")


def _rows() -> Iterable[tuple[str, ...]]:
    for row in FORMATS:
        yield (
            row.name,
            "yes" if row.reads else "no",
            "yes" if row.writes else "no",
            row.versions,
            row.made_by,
            ", ".join(row.codecs),
        )


def render() -> list[str]:
    """Return the tables for a terminal."""
    lines = _align([_HEAD, *_rows()])
    lines += ["", "codecs:"]
    for row in CODECS:
        missing = f"no library: pip install {row.libraries[0][1]}"
        lines.append(f"  {row.name:<7} {_library(row) or missing}")
    lines += ["", f"architectures: {', '.join(ARCHITECTURES)}"]
    lines.append(f"outer compression, by content: {', '.join(OUTER)}")
    return lines


def _align(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def render_markdown() -> list[str]:
    """Return the tables of the README: what depends on the installation is left out."""
    lines = ["| " + " | ".join(_HEAD) + " |", "|" + "---|" * len(_HEAD)]
    lines += ["| " + " | ".join(row) + " |" for row in _rows()]
    lines += ["", f"Architectures: {', '.join(ARCHITECTURES)}."]
    lines.append(f"Outer compression, recognised by content: {', '.join(OUTER)}.")
    return lines
