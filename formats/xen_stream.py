# SPDX-License-Identifier: GPL-2.0-or-later
"""Xen's migration stream, versions 2 and 3: records in a libxc image, records of libxl around it.

    libxl: "LibxlFmt" version options | {type, length, body}... | END       headers big-endian
    libxc: ones "XENF" version options | type page_shift xen | {type, length, body}... | END

Bodies are padded to 8 bytes. A record of libxl says that a libxc image follows, up to and including its END.

Sheet: docs/formats/xen-save.md section 3.
"""

from __future__ import annotations

import struct

import numpy as np

from .errors import CorruptDump, TruncatedDump, UnsupportedDump
from .machine import ByteOrder
from .reader import parse
from .source import ByteSource
from .xen_guest import PAGE_SIZE, GuestImage, SavedPages
from .xen_layout import ALL_ONES, libxc_domain, libxc_header, libxl_header, record_header

__all__ = ["LIBXC_ID", "LIBXL_IDENT", "read_libxc", "read_libxl"]

LIBXL_IDENT = 0x4C6962786C466D74  # "LibxlFmt"
LIBXC_ID = 0x58454E46  # "XENF"

_OPTIONAL = 1 << 31
_MAX_BATCH = 1 << 20  # entries; Xen writes 1024
_MAX_BLOB = 1 << 24  # of a context; HVM contexts of 8192 CPUs are as large
_MAX_VCPUS = 8192
_TYPE_SHIFT = np.uint64(60)
_PFN_MASK = np.uint64((1 << 52) - 1)

(_END, _PAGE_DATA, _PV_INFO, _P2M_FRAMES, _VCPU_BASIC, _VCPU_EXTENDED, _VCPU_XSAVE, _SHARED_INFO, _TSC_INFO,
 _HVM_CONTEXT, _HVM_PARAMS, _TOOLSTACK, _VCPU_MSRS, _VERIFY, _CHECKPOINT, _DIRTY_PFNS, _STATIC_DATA_END, _CPUID,
 _MSR) = range(19)  # fmt: skip
_LIBXL_END, _LIBXL_CONTEXT = 0, 1
_LIBXL_KNOWN = range(6)


def _order(options: int) -> ByteOrder:
    return "big" if options & 1 else "little"


class _Records:
    """Walks the records of one layer; each advances at least by its header."""

    def __init__(self, source: ByteSource, offset: int, byteorder: ByteOrder, layer: str) -> None:
        self.source, self.offset, self.byteorder, self.layer = source, offset, byteorder, layer
        self.mark = "<" if byteorder == "little" else ">"

    def header(self) -> tuple[int, int, int]:
        """Return type, length, offset of the body, and step over all of it."""
        at = self.offset
        raw = parse(record_header(self.byteorder), self.source, at, f"{self.layer} record")
        self.offset = at + 8 + (raw.length + 7 & ~7)
        return raw.type, raw.length, at + 8

    def whole(self, kind: int, length: int, body: int) -> None:
        """Check that the file holds the body.

        Raises:
            TruncatedDump: It does not.
        """
        self.source.ensure(body, body + length)
        if body + length > self.source.size:
            raise TruncatedDump(
                f"{self.layer} record of type {kind:#x} has {length} bytes, {max(0, self.source.size - body)} are left",
                path=self.source.name,
                offset=body - 8,
                hint="use --salvage for the pages before it",
            )

    def corrupt(self, message: str, body: int) -> CorruptDump:
        """Return an error at a record."""
        return CorruptDump(f"{self.layer} {message}", path=self.source.name, offset=body - 8)


def read_libxl(source: ByteSource, offset: int) -> GuestImage:
    """Walk a libxl stream.

    Raises:
        UnsupportedDump: A version or a record that the sheet does not have.
        DumpError: There is not even a first page; else `GuestImage.damage` says what ended the walk.
    """
    header = parse(libxl_header(), source, offset, "libxl header")
    if header.ident != LIBXL_IDENT:
        raise CorruptDump(
            f"a libxl stream should begin with {LIBXL_IDENT:#x}, here is {header.ident:#x}",
            path=source.name,
            offset=offset,
        )
    if header.version != 2:
        raise UnsupportedDump(
            f"libxl stream of version {header.version}, 2 is known", path=source.name, offset=offset + 8
        )
    records = _Records(source, offset + 16, _order(header.options), "libxl")
    image: GuestImage | None = None
    more = True
    try:
        while more:
            image, more = _libxl_record(records, image)
    except CorruptDump as error:
        if image is None:
            raise
        image.damage = image.damage or error
    if image is None:
        raise CorruptDump("the libxl stream holds no libxc image", path=source.name, offset=offset)
    image.end_offset = records.offset
    return image


def _libxl_record(records: _Records, image: GuestImage | None) -> tuple[GuestImage | None, bool]:
    # one record of libxl; whether there are more
    kind, length, body = records.header()
    if kind == _LIBXL_CONTEXT:
        image = read_libxc(records.source, records.offset, image)
        records.offset = image.end_offset
        return image, image.damage is None
    if kind not in _LIBXL_KNOWN and not kind & _OPTIONAL:
        raise UnsupportedDump(f"libxl record of type {kind:#x}", path=records.source.name, offset=body - 8)
    records.whole(kind, length, body)
    return image, kind != _LIBXL_END


def read_libxc(source: ByteSource, offset: int, before: GuestImage | None = None) -> GuestImage:
    """Walk a libxc image up to and including its END.

    Args:
        source: The file.
        offset: Of its header.
        before: An image of the same stream: its pages are overridden.

    Raises:
        UnsupportedDump, CorruptDump: See `read_libxl`; damage behind the first page is `GuestImage.damage`.
    """
    header = parse(libxc_header(), source, offset, "libxc header")
    if header.marker != ALL_ONES or header.id != LIBXC_ID:
        raise CorruptDump(
            f"a libxc image should begin with ones and {LIBXC_ID:#x}, here is {header.marker:#x} {header.id:#x}",
            path=source.name,
            offset=offset,
        )
    if header.version not in (2, 3):
        raise UnsupportedDump(
            f"libxc image of version {header.version}, 2 and 3 are known", path=source.name, offset=offset + 12
        )
    order = _order(header.options)
    domain = parse(libxc_domain(order), source, offset + 24, "libxc domain header")
    if domain.type not in (1, 2):
        raise UnsupportedDump(
            f"libxc image of a guest of type {domain.type}, 1 (PV) and 2 (HVM) are known",
            path=source.name,
            offset=offset + 24,
        )
    if domain.page_shift != 12:
        raise UnsupportedDump(
            f"libxc image with pages of 2^{domain.page_shift} bytes, 2^12 is known",
            path=source.name,
            offset=offset + 28,
        )
    image = before or GuestImage(SavedPages(source.name))
    image.kind = "PV" if domain.type == 1 else "HVM"
    image.version = header.version
    image.xen = f"{domain.xen_major}.{domain.xen_minor}"
    walk = _Image(source, _Records(source, offset + 40, order, "libxc"), image)
    try:
        while walk.step():
            pass
    except CorruptDump as error:
        if not image.pages.types.any():
            raise
        image.damage = image.damage or error
    image.end_offset = walk.records.offset
    return image


class _Image:
    """One libxc image under way."""

    def __init__(self, source: ByteSource, records: _Records, image: GuestImage) -> None:
        self._source, self.records, self._image = source, records, image
        self._verifying = False

    def step(self) -> bool:
        """Take one record in; False behind END."""
        kind, length, body = self.records.header()
        if kind == _END:
            return False
        if kind == _PAGE_DATA:
            self._page_data(length, body)
            return True
        if kind >= _MSR + 1:
            if not kind & _OPTIONAL:
                raise UnsupportedDump(
                    f"libxc record of type {kind:#x} is not known and not optional",
                    path=self._source.name,
                    offset=body - 8,
                )
            self._image.count("unknown_records")
        self.records.whole(kind, length, body)
        self._other(kind, length, body)
        return True

    def _page_data(self, length: int, body: int) -> None:
        if length == 0:
            return  # an old bug of Xen
        records, source = self.records, self._source
        count = struct.unpack(records.mark + "I", source.pread(body, 4))[0] if length >= 8 else 0
        if not 0 < count <= _MAX_BATCH or 8 + 8 * count > length:
            raise records.corrupt(f"PAGE_DATA of {length} bytes claims {count} entries", body)
        raw = source.pread(body + 8, 8 * count)
        entries = np.frombuffer(raw, records.mark + "u8").astype(np.uint64)
        types, pfns = entries >> _TYPE_SHIFT, entries & _PFN_MASK
        size = 8 + 8 * count + PAGE_SIZE * int((types < 0xD).sum())
        if size != length:
            raise records.corrupt(f"PAGE_DATA of {length} bytes has {count} entries that need {size}", body)
        source.ensure(body, body + length)
        if not self._verifying:
            there = source.size - (body + 8 + 8 * count)
            self._image.pages.add(pfns, types, body + 8 + 8 * count, there)
        self._image.count("batches")
        records.whole(_PAGE_DATA, length, body)

    def _other(self, kind: int, length: int, body: int) -> None:
        image = self._image
        if kind == _VERIFY:
            self._verifying = True
            image.count("verify_records")
        elif kind == _CHECKPOINT:
            image.count("checkpoints")
        elif kind == _SHARED_INFO and length:
            image.shared_info = self._blob(kind, body, length)
        elif kind == _HVM_CONTEXT and length:
            image.hvm_context = self._blob(kind, body, length)
        else:
            self._of_pv(kind, length, body)

    def _of_pv(self, kind: int, length: int, body: int) -> None:
        image, mark = self._image, self.records.mark
        if kind == _PV_INFO and length >= 2:
            width, levels = self._source.pread(body, 2)
            if width not in (4, 8):
                raise self.records.corrupt(f"PV_INFO has a guest width of {width} bytes, 4 and 8 are known", body)
            image.word_size = width
            image.facts["levels"] = levels
        elif kind == _P2M_FRAMES and length >= 8:
            start, end = struct.unpack(mark + "II", self._source.pread(body, 8))
            if start > end:
                raise self.records.corrupt(f"P2M_FRAMES from {start:#x} to {end:#x}", body)
            image.facts["p2m_end_pfn"] = end + 1  # the last one is part of it
        elif kind == _VCPU_BASIC and length > 8:
            cpu = struct.unpack(mark + "I", self._source.pread(body, 4))[0]
            if cpu >= _MAX_VCPUS:
                raise self.records.corrupt(f"VCPU_BASIC of vcpu {cpu}, the limit is {_MAX_VCPUS}", body)
            image.contexts[cpu] = self._blob(kind, body + 8, length - 8)

    def _blob(self, kind: int, offset: int, size: int) -> bytes:
        if size > _MAX_BLOB:
            raise self.records.corrupt(f"record of type {kind:#x} has {size} bytes, the limit is {_MAX_BLOB}", offset)
        return self._source.pread(offset, size)
