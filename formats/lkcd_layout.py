# SPDX-License-Identifier: GPL-2.0-or-later
"""Layout of LKCD: construct schemas of the generic header and the page record, and how a file's variant is told.

Names are the C structs'. Source: docs/formats/lkcd.md; LKCD's dump.h as far as kernel trees kept it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from construct import Array, Bytes, Padding, Struct

from .errors import CorruptDump, TruncatedDump, UnsupportedDump
from .machine import ARCHITECTURES, Architecture, ByteOrder, from_uts_machine
from .reader import Ints, parse
from .source import ByteSource
from .vmcoreinfo import printable

__all__ = [
    "COMPRESS_GZIP",
    "COMPRESS_NONE",
    "COMPRESS_RLE",
    "DP_COMPRESSED",
    "DP_END",
    "DP_MCLX",
    "DP_RAW",
    "DP_TRUNCATED",
    "HEADER_SPAN",
    "MCLX_V0",
    "MCLX_V1",
    "PAGE_HEADER_SIZE",
    "Header",
    "data_starts",
    "find_header",
    "generic_header",
    "page_record",
    "read_header",
    "record_dtype",
]

_MAGICS: dict[bytes, tuple[ByteOrder, bool]] = {}  # stored bytes: byte order, and whether the system lived on
for _number, _live in ((0xA8190173618F23ED, False), (0xA8190173618F23CD, True)):
    _MAGICS[_number.to_bytes(8, "little")] = "little", _live
    _MAGICS[_number.to_bytes(8, "big")] = "big", _live

# A dump partition keeps the header behind one page of the kernel's, for the swap signature; later drivers at 64 KiB.
_PARTITION_PLACES = (0x1000, 0x2000, 0x4000, 0x10000)

MCLX_V0, MCLX_V1 = 0x80000000, 0x40000000  # modifiers in dh_version and dp_flags
DP_RAW, DP_COMPRESSED, DP_END, DP_TRUNCATED = 1, 2, 4, 8
DP_MCLX = MCLX_V0 | MCLX_V1
COMPRESS_NONE, COMPRESS_RLE, COMPRESS_GZIP = 0, 1, 2
PAGE_HEADER_SIZE = 16
HEADER_SPAN = 65536  # bytes before the page records, where the header does not say it
_MCLX_TABLE = 4096 * 8
_MIN_PAGE, _MAX_PAGE = 4096, 1 << 18
_UTS = ("sysname", "nodename", "release", "version", "machine", "domainname")
_UTS_SIZE = 65 * len(_UTS)
_LATEST = 10
_VERSIONS = (1, 2, 3, 5, 6, 7, 8, 9, 10)

# Versions 1 to 7 were laid out by the dumping kernel's C compiler. By word size: where utsname lies.
_UTS_OFFSET = {1: {4: 0x144, 8: 0x150}, 2: {4: 0x13C, 8: 0x148}, 5: {4: 0x13C, 8: 0x148}}
_V1_REGS = {4: (0x2CC, 60), 8: (0x2D8, 168)}  # pt_regs of i386 and x86_64


def _family(version: int) -> int:
    return 1 if version == 1 else 2 if version <= 3 else 5 if version <= 7 else 8 if version == 8 else 9


@cache
def generic_header(byteorder: ByteOrder, word_size: int, version: int) -> Struct:
    """Schema of _dump_header; `word_size` counts for versions 1 to 7 only. Without dh_regs of version 1."""
    ints = Ints(byteorder, word_size)
    family = _family(version)
    first = [
        "dh_magic_number" / Bytes(8),  # 0x00
        "dh_version" / ints.u32,  # 0x08
        "dh_header_size" / ints.u32,  # 0x0c
        "dh_dump_level" / ints.u32,  # 0x10
        "dh_page_size" / ints.u32,  # 0x14
        "dh_memory_size" / ints.u64,  # 0x18, pages (zfcpdump: bytes)
        "dh_memory_start" / ints.u64,  # 0x20
        "dh_memory_end" / ints.u64,  # 0x28, no end: LKCD puts the magic number there
    ]
    names = "dh_utsname" / Array(6, Bytes(65))
    if family >= 8:
        return Struct(
            *first,
            "dh_num_pages" / ints.u32,  # 0x30
            "dh_panic_string" / Bytes(256),  # 0x34
            "tv_sec" / ints.u64,  # 0x134
            "tv_usec" / ints.u64,  # 0x13c
            names,  # 0x144
            "dh_current_task" / ints.u64,  # 0x2ca
            "dh_dump_compress" / ints.u32,  # 0x2d2
            "dh_dump_flags" / ints.u32,  # 0x2d6
            "dh_dump_device" / ints.u32,  # 0x2da, 734 bytes
            *(["dh_dump_buffer_size" / ints.u64] if family == 9 else []),  # 0x2de, 742 bytes
        )
    wide = word_size == 8
    pad = Padding(4 if wide else 0)
    registers = ["dh_esp" / ints.u32, "dh_eip" / ints.u32] if family == 1 else []  # 0x30
    task = "dh_current_task" / ints.ulong
    return Struct(
        *first,
        *registers,
        "dh_num_pages" / ints.u32,  # 0x38 / 0x30
        "dh_panic_string" / Bytes(256),  # 0x3c / 0x34
        pad,
        "tv_sec" / ints.ulong,  # v1: 0x13c, 0x140; v2: 0x134, 0x138
        "tv_usec" / ints.ulong,
        names,  # v1: 0x144, 0x150; v2: 0x13c, 0x148
        Padding(2),
        *([] if family == 1 else [task]),  # 0x2c4 / 0x2d0; v1: behind dh_regs
        *(["dh_dump_compress" / ints.u32, "dh_dump_flags" / ints.u32] if family == 5 else []),  # 0x2c8 / 0x2d8
        *(["dh_dump_device" / ints.u32] if family == 5 else []),  # 0x2d0 / 0x2e0
    )


@cache
def page_record(byteorder: ByteOrder) -> Struct:
    """Schema of a page record's header, 16 bytes. Records are read with `record_dtype`, the same layout."""
    ints = Ints(byteorder, 8)
    return Struct(
        "dp_address" / ints.u64,  # 0, physical
        "dp_size" / ints.u32,  # 8, bytes that follow
        "dp_flags" / ints.u32,  # 12
    )


@cache
def record_dtype(byteorder: ByteOrder) -> np.dtype[Any]:
    """The numpy form of `page_record`; a test proves both equal."""
    mark = "<" if byteorder == "little" else ">"
    return np.dtype([("dp_address", mark + "u8"), ("dp_size", mark + "u4"), ("dp_flags", mark + "u4")])


class Header(NamedTuple):
    """The generic header, of whatever version; sizes as stored.

    Attributes:
        base: File offset of the header: not 0 in images of a dump partition.
        byteorder, live: By the magic number; `live`: the system went on running.
        version, modifiers: dh_version without and its two MCLX bits.
        arch, word_size: Of the machine; `word_size` is the header's.
        size: Bytes of the header by our count, header_size by its own.
        page_size: dh_page_size.
        num_pages: Page records, by the kernel's count.
        compress: Method of compressed pages; None: the version has no such field, and RLE it is.
        buffer_size: Bytes before the page records; None before version 9.
        current_task: Virtual address of the task that ran on the dumping CPU.
        registers: Version 1: stored pt_regs.
    """

    base: int
    byteorder: ByteOrder
    live: bool
    version: int
    modifiers: int
    arch: Architecture
    word_size: int
    size: int
    header_size: int
    level: int
    page_size: int
    memory: tuple[int, int, int]
    num_pages: int
    panic_string: str
    time: tuple[int, int]
    utsname: dict[str, bytes]
    current_task: int
    compress: int | None
    flags: int
    buffer_size: int | None
    registers: bytes

    @property
    def asm_offsets(self) -> tuple[int, ...]:
        """Where the architecture's own header may begin, likeliest first; none in version 1."""
        if self.version == 1:
            return ()
        first = self.header_size if self.version >= 8 else self.size
        places = dict.fromkeys((first, self.size, self.header_size))
        if self.modifiers & MCLX_V1:
            places = dict.fromkeys([each + _MCLX_TABLE for each in places] + list(places))
        return tuple(self.base + each for each in places)


def find_header(source: ByteSource) -> int | None:
    """Return the file offset of the header by its magic number, None where there is none."""
    for offset in (0, *_PARTITION_PLACES):
        if not source.ensure(offset, offset + 8):
            return None
        if source.pread(offset, 8) in _MAGICS:
            return offset
    return None


def read_header(source: ByteSource, base: int, machine: str | None, page_size: int | None) -> Header:
    """Read the generic header at `base`.

    Args:
        machine: Architecture that overrides what the header says.
        page_size: Overrides dh_page_size.

    Raises:
        TruncatedDump: The file ends inside it.
        UnsupportedDump: Version or machine are not known.
        CorruptDump: The page size is impossible.
    """
    byteorder, live = _MAGICS[source.pread(base, 8)]
    raw_version = int.from_bytes(source.pread(base + 8, 4), byteorder)
    version = raw_version & ~DP_MCLX
    if version not in _VERSIONS:
        raise UnsupportedDump(
            f"LKCD header version {version}; 1 to 3 and 5 to {_LATEST} are known", path=source.name, offset=base + 8
        )
    arch, word_size = _tell_machine(source, base, byteorder, version, machine)
    raw = parse(generic_header(byteorder, word_size, version), source, base, "LKCD header")
    names = dict(zip(_UTS, (bytes(field).split(b"\0", 1)[0] for field in raw.dh_utsname), strict=True))
    size, registers, task = _tail(source, base, byteorder, version, arch)
    header = Header(
        base=base,
        byteorder=byteorder,
        live=live,
        version=version,
        modifiers=raw_version & DP_MCLX,
        arch=arch,
        word_size=word_size,
        size=size,
        header_size=raw.dh_header_size,
        level=raw.dh_dump_level,
        page_size=page_size or raw.dh_page_size,
        memory=(raw.dh_memory_size, raw.dh_memory_start, raw.dh_memory_end),
        num_pages=raw.dh_num_pages,
        panic_string=printable(raw.dh_panic_string.split(b"\0", 1)[0].strip()),
        time=(raw.tv_sec, raw.tv_usec),
        utsname=names,
        current_task=task if version == 1 else raw.dh_current_task,
        compress=raw.dh_dump_compress if version >= 5 else None,
        flags=raw.dh_dump_flags if version >= 5 else 0,
        buffer_size=raw.dh_dump_buffer_size if version >= 9 else None,
        registers=registers,
    )
    if not _MIN_PAGE <= header.page_size <= _MAX_PAGE or header.page_size & (header.page_size - 1):
        raise CorruptDump(
            f"LKCD header: dh_page_size {header.page_size} is no power of two in {_MIN_PAGE} to {_MAX_PAGE}",
            path=source.name,
            offset=base + 0x14,
            hint="--page-size overrides",
        )
    return header


def _tail(
    source: ByteSource, base: int, byteorder: ByteOrder, version: int, arch: Architecture
) -> tuple[int, bytes, int]:
    # size of the C struct; of version 1 the registers and the task that follow the schema's part
    family, word = _family(version), arch.word_size
    if family >= 8:
        return (734 if family == 8 else 742), b"", 0
    if family == 2:
        return (712 if word == 4 else 728), b"", 0
    if family == 5:
        return (744 if word == 8 else 724 if arch.name == "i386" else 728), b"", 0
    if arch.name not in ("i386", "x86_64"):
        return (780 if word == 4 else 904), b"", 0  # pt_regs of another machine: the rest is not known
    offset, size = _V1_REGS[word]
    registers = source.pread(base + offset, size)
    task = int.from_bytes(source.pread(base + offset + size, word), byteorder)
    return (780 if word == 4 else 904), registers, task


def _utsname(source: ByteSource, offset: int) -> list[bytes] | None:
    if not source.ensure(offset, offset + _UTS_SIZE):
        return None
    raw = source.pread(offset, _UTS_SIZE)
    return [raw[at : at + 65] for at in range(0, _UTS_SIZE, 65)]


def _tell_machine(
    source: ByteSource, base: int, byteorder: ByteOrder, version: int, machine: str | None
) -> tuple[Architecture, int]:
    # The architecture, and the word size that the header is laid out for.
    if version >= 8:
        names = _utsname(source, base + 0x144)
        if names is None:
            raise TruncatedDump("LKCD header: the file ends inside it", path=source.name, offset=base)
        shifted = _utsname(source, base + 0x144 + 8)
        if shifted is not None and shifted[0].startswith(b"Linux\0") and not names[0].startswith(b"Linux"):
            raise UnsupportedDump(
                "LKCD header with a field too many: made by a debug build of the dump driver (DUMP_DEBUG)",
                path=source.name,
                offset=base,
            )
        arch = ARCHITECTURES[machine] if machine else _named(names)
        if arch is None:
            raise _no_machine(source, base + 0x248, names[4])
        return arch, arch.word_size
    found: list[tuple[tuple[int, ...], Architecture, int]] = []
    texts = []
    for word_size, offset in _UTS_OFFSET[_family(version)].items():
        names = _utsname(source, base + offset)
        if names is None:
            continue
        texts.append(names[4])
        arch = ARCHITECTURES[machine] if machine else _named(names)
        if arch is not None:
            header_size = int.from_bytes(source.pread(base + 12, 4), byteorder)
            likeness = (
                int(arch.word_size == word_size),
                int(names[0].startswith(b"Linux\0")),
                int(all(not field[64] for field in names[:5]) and all(field[0] for field in names[2:5])),
                int(header_size == _tail_size(version, word_size)),
            )
            found.append((likeness, arch, word_size))
    if not texts:
        raise TruncatedDump("LKCD header: the file ends inside it", path=source.name, offset=base)
    best = max(found, key=lambda each: each[0], default=None)
    if best is None or not best[0][0]:
        raise _no_machine(source, base, texts[0])
    return best[1], best[2]


def _tail_size(version: int, word_size: int) -> int:
    return {1: (780, 904), 2: (712, 728), 5: (724, 744)}[_family(version)][word_size == 8]


def _named(names: list[bytes]) -> Architecture | None:
    return from_uts_machine(names[4].split(b"\0", 1)[0].decode("latin-1"))


def _no_machine(source: ByteSource, offset: int, text: bytes) -> UnsupportedDump:
    return UnsupportedDump(
        f"cannot tell the architecture: utsname.machine is {printable(text.split(bytes(1), 1)[0])!r}",
        path=source.name,
        offset=offset,
        hint="name it with --machine",
    )


def data_starts(header: Header) -> Iterator[int]:
    """Yield where the page records may begin, relative to the header, likeliest first."""
    if header.buffer_size is not None:
        yield header.buffer_size
    if header.buffer_size != HEADER_SPAN:
        yield HEADER_SPAN
    if header.version == 8 and header.page_size >= HEADER_SPAN:
        yield 4 * HEADER_SPAN  # the driver's buffer of that time, which version 8 does not record
