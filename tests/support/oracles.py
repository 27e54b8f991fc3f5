# SPDX-License-Identifier: GPL-2.0-or-later
"""Asks other tools what they see in a dump; each runs in a subprocess with a time limit, since some crash on odd input.

Run as a script it is the helper that loads libkdumpfile: `python oracles.py PFNS FILE...` prints JSON. It uses the
shared library itself, because the Python binding of 0.5.1 opens no split sets and aborts on the attempt.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TIMEOUT = 60
MACHPHYSADDR = 1
LIBRARY = ctypes.util.find_library("kdumpfile")


class OracleError(Exception):
    """The tool refused the file, or died."""


@dataclass
class KdumpfileView:
    """What libkdumpfile sees: page digests by pfn (None = error), and the frames of its page maps."""

    arch: str
    byte_order: int
    page_size: int
    phys_base: int | None
    max_pfn: int
    stored: list[tuple[int, int]]
    ram: list[tuple[int, int]]
    digests: dict[int, str | None]
    errors: dict[int, str]


def has_libkdumpfile() -> bool:
    return LIBRARY is not None


def has_tool(name: str) -> bool:
    return shutil.which(name) is not None


def run(arguments: Sequence[str | os.PathLike[str]], *, stdin: str | os.PathLike[str] = os.devnull) -> str:
    """Run a tool and give stdout and stderr; a failure or a time-out is an OracleError."""
    with open(stdin, "rb") as source:
        try:
            done = subprocess.run(
                [str(argument) for argument in arguments],
                stdin=source,
                capture_output=True,
                timeout=TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise OracleError(f"{arguments[0]} did not end") from error
    text = done.stdout.decode("utf-8", "replace") + done.stderr.decode("utf-8", "replace")
    if done.returncode:
        raise OracleError(f"{arguments[0]}: exit {done.returncode}: {text[-2000:]}")
    return text


def libkdumpfile(*paths: Path, pfns: Iterable[int] | None = None) -> KdumpfileView:
    """Read the named frames of a dump (several paths: a split set) with libkdumpfile; None = all that it has."""
    wanted = "null" if pfns is None else json.dumps(sorted(pfns))
    raw = json.loads(run([sys.executable, __file__, wanted, *paths]))
    digests = {int(pfn): digest for pfn, digest in raw.pop("digests").items()}
    errors = {int(pfn): error for pfn, error in raw.pop("errors").items()}
    runs = {name: [(start, end) for start, end in raw.pop(name)] for name in ("stored", "ram")}
    return KdumpfileView(**raw, **runs, digests=digests, errors=errors)


def crash_headers(path: Path) -> dict[str, str]:
    """Give the `name: value` lines that `crash -d8` prints of a dump's headers; the first of a name counts."""
    done = subprocess.run(
        ["crash", "-d8", str(path)], stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT, check=False
    )
    fields: dict[str, str] = {}
    for line in done.stdout.decode("utf-8", "replace").splitlines():
        if match := re.match(r"\s*([\w\[\]. ]+?): (.*)", line):
            fields.setdefault(match[1], match[2].strip())
    return fields


def rearrange(stream: Path, out: Path) -> bytes:
    """Give what `makedumpfile -R` makes of a flattened stream."""
    run(["makedumpfile", "-R", out], stdin=stream)
    return out.read_bytes()


def makedumpfile(options: Sequence[str], source: Path, *outputs: Path) -> list[Path]:
    """Re-filter a dump; with --split there are several outputs."""
    run(["makedumpfile", *options, source, *outputs])
    return list(outputs)


class _Attr(ctypes.Structure):
    _fields_ = (("type", ctypes.c_int), ("value", ctypes.c_uint64))


class _Library:
    """The few calls of libkdumpfile that the helper needs."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.lib = lib = ctypes.CDLL(LIBRARY)
        lib.kdump_new.restype = ctypes.c_void_p
        lib.kdump_get_err.restype = ctypes.c_char_p
        self.context = ctypes.c_void_p(lib.kdump_new())
        self.files = [open(path, "rb") for path in paths]  # noqa: SIM115 - the process ends with them
        fds = (ctypes.c_int * len(paths))(*(file.fileno() for file in self.files))
        if lib.kdump_open_fdset(self.context, len(paths), fds):
            raise SystemExit(self.error())

    def error(self) -> str:
        return self.lib.kdump_get_err(self.context).decode("utf-8", "replace")

    def attribute(self, name: str) -> int | None:
        attr = _Attr()
        failed = self.lib.kdump_get_attr(self.context, name.encode(), ctypes.byref(attr))
        return None if failed else attr.value

    def text(self, name: str) -> str:
        value = self.attribute(name)
        return ctypes.string_at(value).decode() if value else ""

    def runs(self, name: str) -> list[tuple[int, int]]:
        bitmap = self.attribute(name)
        out: list[tuple[int, int]] = []
        position = ctypes.c_uint64(0)
        while bitmap and not self.lib.kdump_bmp_find_set(ctypes.c_void_p(bitmap), ctypes.byref(position)):
            start = position.value
            if self.lib.kdump_bmp_find_clear(ctypes.c_void_p(bitmap), ctypes.byref(position)):
                raise SystemExit(f"{name}: no end of the run at {start}")
            if position.value <= start:  # 0.5.1 stands still where ELF segments overlap
                return []
            out.append((start, position.value))
        return out

    def read(self, address: int, size: int) -> bytes | None:
        buffer = ctypes.create_string_buffer(size)
        length = ctypes.c_size_t(size)
        failed = self.lib.kdump_read(self.context, MACHPHYSADDR, ctypes.c_uint64(address), buffer, ctypes.byref(length))
        return None if failed else buffer.raw


def _main(wanted: list[int] | None, paths: Sequence[str]) -> None:
    library = _Library(paths)
    page_size = library.attribute("arch.page_size") or 4096
    stored, ram = library.runs("file.pagemap"), library.runs("memory.pagemap")
    digests: dict[int, str | None] = {}
    errors: dict[int, str] = {}
    for pfn in [pfn for run in stored for pfn in range(*run)] if wanted is None else wanted:
        page = library.read(pfn * page_size, page_size)
        digests[pfn] = None if page is None else hashlib.sha256(page).hexdigest()
        if page is None:
            errors[pfn] = library.error()
    view: dict[str, Any] = {
        "arch": library.text("arch.name"),
        "byte_order": library.attribute("arch.byte_order"),
        "page_size": page_size,
        "phys_base": library.attribute("linux.phys_base"),
        "max_pfn": library.attribute("max_pfn"),
        "stored": stored,
        "ram": ram,
        "digests": digests,
        "errors": errors,
    }
    print(json.dumps(view))


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]), sys.argv[2:])
