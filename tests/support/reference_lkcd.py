# SPDX-License-Identifier: GPL-2.0-or-later
"""The slow reference decoder of LKCD dumps: record by record, by the sheet alone."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from .reference_source import ReferenceDump, ReferenceError, Source

MAGICS = {
    bytes.fromhex(text): order
    for text, order in (
        ("ed238f61730119a8", "<"),
        ("cd238f61730119a8", "<"),
        ("a8190173618f23ed", ">"),
        ("a8190173618f23cd", ">"),
    )
}
PLACES = (0, 0x1000, 0x2000, 0x4000, 0x10000)
RAW, COMPRESSED, END, TRUNCATED = 1, 2, 4, 8
MCLX = 0xC0000000
IGNORED = MCLX | 0x30
CHAIN = 4
# bits of a long by `uname -m`
MACHINES = {"x86_64": 64, "ia64": 64, "alpha": 64, "ppc64": 64, "s390x": 64, "aarch64": 64, "mips64": 64,
            "riscv64": 64, "sparc64": 64, "loongarch64": 64, "arm": 32, "ppc": 32, "s390": 32, "mips": 32}  # fmt: skip
UTS = {1: (0x144, 0x150), 2: (0x13C, 0x148), 3: (0x13C, 0x148), 5: (0x13C, 0x148), 6: (0x13C, 0x148),
       7: (0x13C, 0x148)}  # fmt: skip
SIZES = {1: (780, 904), 2: (712, 728), 3: (712, 728), 5: (724, 744), 6: (724, 744), 7: (724, 744)}


def bits_of(machine: bytes) -> int:
    """The word size of a machine by its name, 0 where the name says nothing."""
    name = machine.split(b"\0")[0].decode("latin-1").lower()
    if len(name) == 4 and name[0] == "i" and name.endswith("86"):
        return 32
    for known in sorted(MACHINES, key=len, reverse=True):
        if name.startswith(known):
            return MACHINES[known]
    return 0


def is_lkcd(source: Source) -> bool:
    return any(source.has(place, 8) and source.read(place, 8) in MAGICS for place in PLACES)


def rle(data: bytes, size: int, more: int) -> bytes:
    """Expand; ValueError where it does not work out."""
    out = bytearray()
    position = 0
    while position < len(data):
        byte = data[position]
        if byte:
            out.append(byte)
            position += 1
            continue
        if position + 1 >= len(data):
            raise ValueError("rle: ends after an escape")
        count = data[position + 1]
        if count == 0:
            out.append(0)
            position += 2
            continue
        if position + 2 >= len(data):
            raise ValueError("rle: ends inside a run")
        out.extend([data[position + 2]] * (count + more))
        position += 3
        if len(out) > size:
            break
    if len(out) > size:
        raise ValueError("rle: page too long")
    return bytes(out)


def inflate(data: bytes, size: int) -> bytes:
    decoder = zlib.decompressobj()
    try:
        page = decoder.decompress(data, size + 1)
    except zlib.error as error:
        raise ValueError(f"zlib: {error}") from error
    if len(page) > size:
        raise ValueError("zlib: page too long")
    if not decoder.eof:
        raise ValueError("zlib: stream does not end")
    return page


class LkcdReference:
    """One LKCD file."""

    def __init__(self, source: Source, *, page_size: int | None = None) -> None:
        self.source = source
        self.blob = source.read(0, source.size) if source.size <= 1 << 20 else None  # a walk reads byte by byte
        self.base = next(place for place in PLACES if source.has(place, 8) and source.read(place, 8) in MAGICS)
        self.order = MAGICS[source.read(self.base, 8)]
        raw_version = self._u32(8)
        self.version = raw_version & ~MCLX
        if self.version not in (1, 2, 3, 5, 6, 7, 8, 9, 10):
            raise ReferenceError(f"lkcd: version {self.version}", "unknown")
        self.bits, self.machine = self._layout()
        self._fields()
        size = self.page_size = page_size or self._u32(0x14)
        if size not in [1 << shift for shift in range(12, 19)]:
            raise ReferenceError(f"lkcd: page size {size}")
        self.start, odd_start = self._find_start()
        self.unit = self._find_unit()
        first = self._record(self.start)
        quirk = self.version == 1 and self._is_i386() and first is not None and first[0] == 0xC0000000
        self.subtract = 0xC0000000 if quirk else 0
        self.stored: dict[int, tuple[int, int, int]] = {}  # pfn -> offset, size, flags
        self.lost: dict[int, str] = {}
        self.damaged: dict[int, str] = {}
        self.records = 0
        self.breaks = 0
        self.end = self._walk()
        dump = self.result = ReferenceDump(
            "lkcd", self.unit, self.order, self.bits, version=self.version, machine=self.machine.decode("latin-1")
        )
        dump.truncated = odd_start or self.end == "broken" or self.breaks > 0
        if self.end in ("truncated", "broken") or self.breaks:
            dump.incomplete = True
        elif self.end == "eof":
            dump.incomplete = self.records != self.num_pages
        else:
            dump.incomplete = self.records < self.num_pages - 1

    def _u32(self, offset: int) -> int:
        return int(struct.unpack(self.order + "I", self.source.read(self.base + offset, 4))[0])

    def _u64(self, offset: int) -> int:
        return int(struct.unpack(self.order + "Q", self.source.read(self.base + offset, 8))[0])

    def _is_i386(self) -> bool:
        return self.bits == 32 and self.machine[:1].lower() == b"i"

    def _strings(self, offset: int) -> list[bytes] | None:
        if not self.source.has(self.base + offset, 390):
            return None
        raw = self.source.read(self.base + offset, 390)
        return [raw[at : at + 65] for at in range(0, 390, 65)]

    def _layout(self) -> tuple[int, bytes]:
        if self.version >= 8:
            strings = self._strings(0x144)
            if strings is None:
                raise ReferenceError("lkcd: header is cut off")
            moved = self._strings(0x14C)
            if moved and moved[0].startswith(b"Linux\0") and not strings[0].startswith(b"Linux"):
                raise ReferenceError("lkcd: debug build", "unknown")
            if not bits_of(strings[4]):
                raise ReferenceError("lkcd: no machine", "unknown")
            return bits_of(strings[4]), strings[4].split(b"\0")[0]
        found = []
        there = False
        for index, bits in ((0, 32), (1, 64)):
            strings = self._strings(UTS[self.version][index])
            there |= strings is not None
            if strings is None or bits_of(strings[4]) != bits:
                continue
            terminated = all(text[64] == 0 for text in strings[:5]) and all(text[0] for text in strings[2:5])
            same_size = self._u32(12) == SIZES[self.version][index]
            score = (strings[0].startswith(b"Linux\0"), terminated, same_size, -index)
            found.append((score, bits, strings[4].split(b"\0")[0]))
        if not there:
            raise ReferenceError("lkcd: header is cut off")
        if not found:
            raise ReferenceError("lkcd: no machine", "unknown")
        return max(found)[1:]

    def _fields(self) -> None:
        wide = self.bits == 64
        version = self.version
        self.num_pages = self._u32(0x38 if version == 1 else 0x30)
        self.buffer_size = 0
        self.method = 1
        self.size = {1: (780, 904), 2: (712, 728), 3: (712, 728)}.get(version, (724 if self._is_i386() else 728, 744))[
            wide
        ]
        if version >= 8:
            self.method = self._u32(0x2D2)
            self.size = 734 if version == 8 else 742
        elif version >= 5:
            self.method = self._u32(0x2D8 if wide else 0x2C8)
        if version >= 9:
            self.buffer_size = self._u64(0x2DE)
        # all fields that the version has must be there
        last = {1: 0x2CC if not wide else 0x2D8, 2: 0x2C8 if not wide else 0x2D8}
        last[3] = last[2]
        end = last.get(version, 0x2D4 if not wide else 0x2E4) if version < 8 else self.size
        if version == 1 and (self._is_i386() or self.machine.startswith(b"x86_64")):
            end = 780 if not wide else 904
        self.source.read(self.base, end)

    def _plausible(self, offset: int) -> bool:
        if offset == self.source.size:
            return True
        record = self._record(offset)
        if record is None:
            return False
        _, size, flags = record
        if flags & END or record == (0, 4, 0):
            return size in (0, 4)
        if flags & 3 == RAW:
            return size in (0, *[1 << shift for shift in range(12, 19) if 1 << shift <= self.page_size])
        return flags & 3 == COMPRESSED and 0 < size <= 2 * self.page_size

    def _find_start(self) -> tuple[int, bool]:
        claimed = self.buffer_size if self.version >= 9 else 65536
        places = [claimed, 65536]
        if self.version == 8 and self.page_size >= 65536:
            places.append(262144)
        possible = [place for place in places if self.size <= place <= self.source.size - self.base]
        good = [place for place in possible if self._plausible(self.base + place)]
        if claimed not in possible and not good:
            raise ReferenceError(f"lkcd: records cannot begin at {claimed:#x}")
        return self.base + (good[0] if good else claimed), claimed not in possible

    def _find_unit(self) -> int:
        if self.page_size == 4096:
            return 4096
        seen: list[int] = []
        position = self.start
        for _ in range(16):
            record = self._record(position)
            if record is None:
                break
            _, size, flags = record
            if flags & END or size > 1 << 19 or not self.source.has(position + 16, size):
                break
            seen.append(size if flags & RAW else self._expanded(self.source.read(position + 16, size)))
            position += 16 + size
        units = [1 << shift for shift in range(12, 19) if 1 << shift <= self.page_size and 1 << shift in seen]
        return max(units, key=lambda unit: (seen.count(unit), unit), default=self.page_size)

    def _expanded(self, data: bytes) -> int:
        if self.method == 2:
            try:
                return len(zlib.decompressobj().decompress(data, self.page_size + 1))
            except zlib.error:
                return 0
        if self.method == 1:
            for more in (1, 0):
                try:
                    size = len(rle(data, self.page_size, more))
                except ValueError:
                    continue
                if size and size & (size - 1) == 0:
                    return size
        return 0

    # -- records -----------------------------------------------------------------------------------------------------

    def _record(self, offset: int) -> tuple[int, int, int] | None:
        if not 0 <= offset <= self.source.size - 16:
            return None
        raw = self.source.read(offset, 16) if self.blob is None else self.blob[offset : offset + 16]
        address, size, flags = struct.unpack(self.order + "QII", raw)
        return address, size, flags

    def _pfn(self, address: int, flags: int) -> int | None:
        if (address % self.unit and not flags & MCLX) or address < self.subtract:
            return None
        address -= self.subtract
        if flags & MCLX:
            address *= self.page_size
            if address >= 1 << 64:
                return None
        return address // self.unit

    def _good(self, record: tuple[int, int, int]) -> bool:
        address, size, flags = record
        if flags & END or flags & 3 not in (RAW, COMPRESSED) or self._pfn(address, flags) is None:
            return False
        return size in (0, self.unit) if flags & RAW else 0 < size <= 2 * self.unit

    def _walk(self) -> str:
        position, last, before = self.start, -1, -2
        size = self.source.size
        while True:
            record = self._record(position)
            if record is None:
                if position < size:
                    return "broken"
                return "copy" if last == before else "eof"
            address, length, flags = record
            if self._good(record) and position + 16 + length <= size:
                self.records += 1
                pfn = self._pfn(address, flags)
                assert pfn is not None
                self.stored.setdefault(pfn, (position + 16, length, flags))
                before, last = last, address
                position += 16 + length
                continue
            if flags & END:
                return "truncated" if flags & TRUNCATED else "end"
            if record == (0, 4, 0):
                return "copy"
            if self._good(record) and address == last and position + 16 == size:
                return "copy"
            again = self._broken(position, record)
            if again is None:
                return "broken"
            position = again

    def _broken(self, position: int, record: tuple[int, int, int]) -> int | None:
        self.records += 1
        again = self._resume(position, record)
        pfn = self._pfn(record[0], record[2])
        if again is None:
            if self._good(record) and pfn is not None:
                self.lost.setdefault(pfn, "record is cut off")
            return None
        self.breaks += 1
        if again == position + 16 + record[1] and pfn is not None:
            self.damaged.setdefault(pfn, f"record {record}")
        return again

    def _resume(self, position: int, record: tuple[int, int, int]) -> int | None:
        past = position + 16 + record[1]
        if record[1] <= 2 * self.unit and self._chain(past, 0):
            return past
        for place in range(position + 1, self.source.size - 15):
            candidate = self._record(place)
            if candidate and candidate[2] & ~IGNORED in (RAW, COMPRESSED) and self._chain(place, 1):
                return place
        return None

    def _chain(self, position: int, least: int) -> bool:
        for count in range(CHAIN):
            if position == self.source.size:
                return count >= least
            record = self._record(position)
            if record is None:
                return False
            if record[1] == 0 and record[2] in (END, END | TRUNCATED):
                return count >= least
            if record[2] & ~IGNORED not in (RAW, COMPRESSED) or not self._good(record):
                return False
            position += 16 + record[1]
        return position <= self.source.size

    def frames(self) -> Iterator[tuple[int, str, bytes | str]]:
        """Give (pfn, "page", bytes), (pfn, "lost", reason) or (pfn, "damaged", reason) in pfn order."""
        for pfn in sorted({*self.stored, *self.lost, *self.damaged}):
            if pfn in self.stored:
                yield pfn, *self._page(*self.stored[pfn])
            elif pfn in self.lost:
                yield pfn, "lost", self.lost[pfn]
            else:
                yield pfn, "damaged", self.damaged[pfn]

    def _page(self, offset: int, size: int, flags: int) -> tuple[str, bytes | str]:
        data = self.source.read(offset, size)
        if flags & RAW:
            return "page", data or bytes(self.unit)
        try:
            if self.method == 1:
                page = self._expand(data)
            elif self.method == 2:
                page = inflate(data, self.unit)
            else:
                return "damaged", f"compressed by method {self.method}"
        except ValueError as error:
            return "damaged", str(error)
        if len(page) != self.unit:
            return "damaged", f"{len(page)} bytes instead of {self.unit}"
        return "page", page

    def _expand(self, data: bytes) -> bytes:
        try:
            return rle(data, self.unit, 1)
        except ValueError:
            page = rle(data, self.unit, 0)
            if len(page) != self.unit:
                raise
            return page
