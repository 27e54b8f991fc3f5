# SPDX-License-Identifier: GPL-2.0-or-later
"""Readers of dump formats. `FORMATS` is the registration; `open_dump` finds who reads a file.

A reader's module is imported when a file may be of its format: ten of them would cost a second of start-up in five.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from .errors import UnsupportedDump, UsageError
from .open_source import open_source
from .reader import DumpReader, Options
from .sisters import neighbours
from .source import ByteSource

__all__ = ["EXPLAINED", "FORMATS", "Registration", "detect", "open_dump"]


class Registration(NamedTuple):
    """Where a format's reader is.

    Attributes:
        name: The reader's `name`.
        module, reader: Module in this package, class in it.
        signatures: (offset, bytes) of which a file of this format has one; empty: only the reader's probe can tell.
    """

    name: str
    module: str
    reader: str
    signatures: tuple[tuple[int, bytes], ...] = ()

    def load(self) -> type[DumpReader]:
        """Return the reader."""
        return getattr(importlib.import_module(f".{self.module}", __name__), self.reader)  # type: ignore[no-any-return]

    def probe(self, source: ByteSource) -> bool:
        """Whether the source is of this format, as far as its signature tells."""
        return (not self.signatures or any(_has(source, *each) for each in self.signatures)) and self.load().probe(
            source
        )


def _has(source: ByteSource, offset: int, signature: bytes) -> bool:
    end = offset + len(signature)
    source.ensure(offset, end)
    if end > source.size:
        return False
    found = bytearray(len(signature))
    return source.pread_into(memoryview(found), offset) == len(found) and found == signature


# LKCD's number of a dump and of a live dump, in both byte orders; images of a dump partition have it further in.
_LKCD = tuple(
    (place, number.to_bytes(8, order))
    for place in (0, 0x1000, 0x2000, 0x4000, 0x10000)
    for number in (0xA8190173618F23ED, 0xA8190173618F23CD)
    for order in ("little", "big")
)
_S390_MAGIC = b"\xa8\x19\x01\x73\x61\x8f\x23"
_S390_TOOLS = (b"XECKD64", b"XDFBA64", b"XMULT64", b"ZECKD31", b"ZECKD64", b"ZDFBA31", b"ZDFBA64", b"ZMULT64")

# In the order of probing: a format that is a special case of another comes before it, weak signatures last.
FORMATS: tuple[Registration, ...] = (
    Registration("kdump", "kdump", "KdumpReader", ((0, b"KDUMP   "),)),
    Registration(
        "diskdump",
        "diskdump",
        "DiskdumpReader",
        # a file; a formatted partition; a dump on a swap partition with pages of 4 to 64 KiB
        ((0, b"DISKDUMP"), (0, b"diskdump"), *(((1 << shift) - 10, b"SWAPSPACE2") for shift in range(12, 17))),
    ),
    # an ELF core whose program headers are 56 or 32 bytes long, and none is there
    Registration(
        "xc_core",
        "xen_core",
        "XenCoreReader",
        ((54, b"\x38\0\0\0"), (54, b"\0\x38\0\0"), (42, b"\x20\0\0\0"), (42, b"\0\x20\0\0")),
    ),
    Registration(
        "xc_core-old", "xen_core_old", "OldXenCoreReader", ((0, b"\xed\xeb\x0f\xf0"), (0, b"\xee\xeb\x0f\xf0"))
    ),
    Registration(
        "xen-save",
        "xen_save",
        "XenSaveReader",
        (
            (0, b"LinuxGuestRecord"),
            (0, b"Xen saved domain, xl format\n \0 \r"),
            (0, b"libvirt-xml\n \0 \r"),
            (0, b"LibxlFmt"),
            (0, b"\xff\xff\xff\xff\xff\xff\xff\xffXENF"),
        ),
    ),
    Registration("kcore", "kcore", "KcoreReader", ((0, b"\x7fELF"),)),
    Registration("netdump", "netdump", "NetdumpReader", ((0, b"\x7fELF"),)),
    Registration("elf", "elf", "ElfReader", ((0, b"\x7fELF"),)),
    Registration(
        "s390",
        "s390",
        "S390Reader",
        (
            # a dump, or a volume prepared for one
            *((offset, _S390_MAGIC + form) for offset in (0, 0x200) for form in (b"\xfd", b"\xfe")),
            # what is refused with a word: zfcpdump at work, its superblock, a disk with a dump tool in its block 3
            *((0, text) for text in (b"zfcpdump busy", b"ZFCPDUMP")),
            *((offset, tool) for offset in (0x600, 0x3000) for tool in _S390_TOOLS),
        ),
    ),
    Registration("vmdump", "vmdump", "VmdumpReader", ((0x38, b"\xe5\xd4\xc4\xe4\xd4\xd7\x40\x40"),)),
    Registration("lime", "lime", "LimeReader", ((0, b"EMiL"), (0, b"LiME\0\0\0\1"))),
    Registration("avml", "lime", "AvmlReader", ((0, b"AVML"),)),
    Registration("lkcd", "lkcd", "LkcdReader", _LKCD),
    Registration("raw", "raw", "RawReader"),
    Registration("mcore", "mcore", "McoreReader"),
)

# What has no reader on purpose, for who names it: message and what to do.
EXPLAINED = {
    "mkdump": (
        "the layout of a raw MKdump device is not documented, and is not guessed",
        "MKdump's own mkd_conv or mkd2lkcd makes an LKCD file of it, which is read; where the memory is known to lie "
        "flat, -f raw --base ADDR --offset BYTES --length BYTES --machine ARCH reads that",
    ),
}


def detect(source: ByteSource, options: Options | None = None) -> type[DumpReader]:
    """Return the reader whose signature the source has, or that the options name.

    Raises:
        UnknownFormat: None has.
        CorruptDump: None has, but it is a dump by what lies behind its first bytes.
        UsageError: No format has the name.
        UnsupportedDump: It is known why there is no reader.
    """
    if options is not None and options.format is not None:
        for entry in FORMATS:
            if entry.name == options.format:
                return entry.load()
        if options.format in EXPLAINED:
            message, hint = EXPLAINED[options.format]
            raise UnsupportedDump(message, path=source.name, hint=hint)
        names = ", ".join(entry.name for entry in FORMATS)
        raise UsageError(f"no format is called {options.format}", hint=f"known are {names}")
    source.ensure(0, 16)  # a stream shorter than any signature has its size from here on
    for entry in FORMATS:
        if entry.probe(source):
            return entry.load()
    from .likely import unknown_format

    raise unknown_format(source)


def open_dump(
    paths: Sequence[str], options: Options | None = None, *, opened: Sequence[ByteSource] | None = None
) -> DumpReader:
    """Open a dump, or a split set by all or any one of its members.

    Args:
        paths: File names; `-` is standard input.
        options: See `Options`.
        opened: Their sources, where they are not files (members of an archive).

    Raises:
        DumpError: By the kind of trouble; see each reader.
    """
    options = options or Options()
    named = next((entry for entry in FORMATS if entry.name == options.format), None)
    if named is not None:
        paths, options = named.load().interpret(paths, options)
    sources = list(opened or [open_source(path, options) for path in paths])
    kinds = {detect(source, options) for source in sources}
    if len(kinds) > 1:
        names = ", ".join(sorted(kind.name for kind in kinds))
        raise UsageError(f"the inputs are of several formats ({names}), not one set")
    kind = kinds.pop()

    sources = kind.complete_set(sources, paths, options, partial(neighbours, paths[0], options))
    reader = kind(tuple(sources), options)  # type: ignore[call-arg]
    reader = _view(reader, options)
    for source in reader.sources:
        reader.damage = source.damage or reader.damage  # the cause before what follows from it
    return reader


def _view(reader: DumpReader, options: Options) -> DumpReader:
    if options.view is None or options.view in reader.views:
        return reader
    if options.view != "dom0":
        raise UsageError(f"--view {options.view} is not for files of format {reader.name}")
    from .xen_dom0 import Dom0View

    return Dom0View(reader)
