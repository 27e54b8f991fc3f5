# SPDX-License-Identifier: GPL-2.0-or-later
"""Volumes of multi-volume s390 dumps, and what looks like an s390 dump and is none.

Source: docs/formats/s390.md sections 4 and 7.
"""

from __future__ import annotations

from .errors import CorruptDump, DumpError, MissingPart, UnsupportedDump, UsageError
from .reader import Neighbours, Options
from .s390_layout import HEADER_SIZE, MAGIC, MAGIC_EXT, SIGN_OFFSET, DumpHeader, read_dump_header
from .source import ByteSource

__all__ = ["TOOL_MAGICS", "complete_volumes", "is_unused_volume", "refuse_what_is_no_dump"]

MAX_VOLUMES = 32
_TOOL_BLOCK = 3  # of the disk: where the dump tool lies
TOOL_MAGICS = (b"XECKD64", b"XDFBA64", b"XMULT64", b"ZECKD31", b"ZECKD64", b"ZDFBA31", b"ZDFBA64", b"ZMULT64")
_BLOCK_SIZES = (512, 4096)
_BUSY = b"zfcpdump busy"
_SUPERBLOCK = b"ZFCPDUMP"


def _at(source: ByteSource, offset: int, size: int) -> bytes:
    return source.pread(offset, size) if offset + size <= source.size else b""


def _is_dump(source: ByteSource) -> bool:
    return _at(source, 0, 8) in (MAGIC, MAGIC_EXT)


def is_unused_volume(source: ByteSource) -> bool:
    """Whether this is a partition that was prepared for a multi-volume dump and has none."""
    return not _is_dump(source) and _at(source, SIGN_OFFSET, 8) in (MAGIC, MAGIC_EXT)


def refuse_what_is_no_dump(source: ByteSource) -> None:
    """Raise where the signature is of something around a dump.

    Raises:
        CorruptDump: Nothing known.
        UnsupportedDump: zfcpdump at work, its superblock, or a whole disk with a dump tool.
        MissingPart: A volume without a dump.
    """
    if _is_dump(source):
        return
    if _at(source, 0, len(_BUSY)) == _BUSY:
        raise UnsupportedDump(
            "zfcpdump was at work or was stopped here: the ELF headers, which it writes last, are not there",
            path=source.name,
            hint="nothing can be read from it; repeat the dump",
        )
    if _at(source, 0, len(_SUPERBLOCK)) == _SUPERBLOCK:
        raise UnsupportedDump(
            "the superblock of a SCSI dump disk, not the dump",
            path=source.name,
            hint="the dump is the ELF file in the disk's dump partition: give that",
        )
    for size in _BLOCK_SIZES:
        tool = _at(source, _TOOL_BLOCK * size, 7)
        if tool in TOOL_MAGICS:
            raise UnsupportedDump(
                f"a whole disk with the dump tool {tool.decode()} at {_TOOL_BLOCK * size:#x}, not a dump",
                path=source.name,
                hint="the dump is in the disk's dump partition: give an image of that",
            )
    if is_unused_volume(source):
        raise MissingPart(
            "a volume prepared for a multi-volume dump that holds none",
            path=source.name,
            hint="give the volumes in use",
        )
    raise CorruptDump(
        f"begins with {_at(source, 0, 8).hex(' ') or 'too few bytes'}, no magic of an s390 dump",
        path=source.name,
        offset=0,
    )


def _same_dump(first: DumpHeader, other: DumpHeader) -> bool:
    # volnr apart, what the tool writes on each volume; the header is copied from volume to volume
    key = ("extended", "mem_size", "tod", "zipl_time", "mvdump", "cpu_id", "arch")
    return all(getattr(first, name) == getattr(other, name) for name in key)


def _neighbour_header(source: ByteSource) -> DumpHeader | None:
    # of a file that nobody named: what is wrong with it is no concern of ours
    try:
        return read_dump_header(source) if _is_dump(source) else None
    except DumpError:
        return None


def complete_volumes(sources: list[ByteSource], options: Options, neighbours: Neighbours) -> list[ByteSource]:
    """Return the volumes that make one dump: those given that are in use, and those that lie beside one given alone.

    Raises:
        UsageError: The files are not volumes of one dump.
    """
    used = [source for source in sources if not is_unused_volume(source)] or sources[:1]
    if not _is_dump(used[0]) or used[0].size < HEADER_SIZE:
        if len(used) > 1:
            raise UsageError(f"{len(used)} inputs: {used[0].name} is no volume of a dump")
        return used
    first = read_dump_header(used[0])
    numbers = {first.volnr: used[0].name}
    for source in used[1:]:
        header = read_dump_header(source) if _is_dump(source) else None
        if header is None or not (first.mvdump and _same_dump(first, header)):
            raise UsageError(f"{source.name} and {used[0].name} are not volumes of one dump")
        if header.volnr in numbers:
            raise UsageError(f"{source.name} and {numbers[header.volnr]} are both volume {header.volnr}")
        numbers[header.volnr] = source.name
    if len(sources) == 1 and options.find_sisters and first.mvdump:
        for source in neighbours():
            header = _neighbour_header(source)
            if header is None or not _same_dump(first, header):
                continue
            if header.volnr not in numbers and header.volnr < MAX_VOLUMES:
                numbers[header.volnr] = source.name
                used.append(source)
    return used
