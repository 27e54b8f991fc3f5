# SPDX-License-Identifier: GPL-2.0-or-later
"""Xen's save stream before 4.6: words of the toolstack's size, page batches behind markers, no lengths.

    p2m_size | PV: (ones, extended info) list of p2m frames | {marker, payload}... 0 | tail

Payloads have no length of their own: an unknown marker ends all reading. Sheet: docs/formats/xen-save.md section 2.
"""

from __future__ import annotations

import struct

import numpy as np

from .errors import CorruptDump, TruncatedDump, UnsupportedDump
from .source import ByteSource
from .xen_guest import GuestImage, SavedPages
from .xen_registers import CONTEXT_SIZE

__all__ = ["read_legacy"]

_MAX_BATCH = 1024
_MAX_EXTENDED = 1 << 20
_MAX_BLOB = 1 << 24
_MAX_VCPU_ID = 8191
_PFN_MASK, _TYPE_SHIFT = np.uint64((1 << 28) - 1), np.uint64(28)
_SHARED_INFO = 4096
_EXTENDED_VCPU = 128

# Markers below 0. Those of HVM parameters have a pad and a value.
_VERIFY, _VCPUS, _TMEM, _TMEM_EXTRA, _TSC, _LAST_CHECKPOINT = -1, -2, -5, -6, -7, -9
_COMPRESSED, _COMPRESSION_ON, _TOOLSTACK = -12, -13, -18
_PARAMETERS = (-3, -4, -8, -10, -11, -14, -15, -16, -17, -19, -20)


class _Cursor:
    """Reads on and on from a place in the file."""

    def __init__(self, source: ByteSource, offset: int, word_size: int) -> None:
        self.source, self.offset, self.word_size = source, offset, word_size

    def take(self, size: int) -> bytes:
        """Return the next bytes."""
        raw = self.source.pread(self.offset, size)
        self.offset += size
        return raw

    def number(self, code: str) -> int:
        """Return the next integer: little-endian, as all hosts of these streams but IA-64 in big mode were."""
        value: int = struct.unpack("<" + code, self.take(struct.calcsize(code)))[0]
        return value

    def word(self) -> int:
        """Return the next word."""
        return self.number("Q" if self.word_size == 8 else "I")

    def skip(self, size: int, what: str) -> None:
        """Step over bytes that must be there."""
        if size > self.source.size - self.offset and not self.source.ensure(self.offset, self.offset + size):
            raise TruncatedDump(
                f"{what} of {size} bytes at {self.offset:#x}, the file has {self.source.size}",
                path=self.source.name,
                offset=self.offset,
            )
        self.offset += size


def read_legacy(source: ByteSource, offset: int, *, hvm: bool) -> GuestImage:
    """Walk a legacy stream.

    Args:
        source: The file.
        offset: Of the stream.
        hvm: What the configuration says of the guest.

    Raises:
        DumpError: There is not even a first page; else `GuestImage.damage` says what ended the walk.
    """
    # 64-bit toolstacks write p2m_size as 64 bits, the upper half of which no guest needs
    word_size = 8 if source.pread(offset + 4, 4) == bytes(4) else 4
    walk = _Legacy(_Cursor(source, offset, word_size), hvm=hvm)
    try:
        walk.head()
        while walk.step():
            pass
        walk.tail()
    except CorruptDump as error:
        if not walk.image.pages.types.any():
            raise
        walk.image.damage = error
    walk.image.end_offset = walk.cursor.offset
    return walk.image


class _Legacy:
    """One legacy stream under way."""

    def __init__(self, cursor: _Cursor, *, hvm: bool) -> None:
        self.cursor = cursor
        self.image = GuestImage(SavedPages(cursor.source.name), kind="HVM" if hvm else "PV")
        self._verifying = False
        self._vcpus = [0]
        self._context_size = 0
        self._extended_vcpu = False
        self._xsave = 0

    def _corrupt(self, message: str, offset: int) -> CorruptDump:
        return CorruptDump(f"legacy stream: {message}", path=self.cursor.source.name, offset=offset)

    # -- head ----------------------------------------------------------------------------------------------------

    def head(self) -> None:
        """Read what comes before the batches."""
        cursor, image = self.cursor, self.image
        p2m_size = cursor.word()
        image.facts |= {"word_size": cursor.word_size, "p2m_size": p2m_size}
        if image.kind == "HVM":
            return
        at = cursor.offset
        ones = (1 << 8 * cursor.word_size) - 1
        if cursor.word() == ones:
            self._extended_info()
        else:
            cursor.offset = at
            image.word_size = cursor.word_size
        width = image.word_size or cursor.word_size
        image.word_size = width
        self._context_size = self._context_size or CONTEXT_SIZE[width]
        if not 0 < p2m_size <= 1 << 36:
            raise self._corrupt(f"p2m_size is {p2m_size}", at - cursor.word_size)
        frames = (p2m_size - 1) // (4096 // width) + 1
        cursor.skip(frames * cursor.word_size, f"list of {frames} p2m frames for p2m_size {p2m_size}")

    def _extended_info(self) -> None:
        cursor = self.cursor
        at = cursor.offset
        total = cursor.number("I")
        if total > _MAX_EXTENDED:
            raise self._corrupt(f"extended info of {total} bytes, the limit is {_MAX_EXTENDED}", at)
        end = cursor.offset + total
        while cursor.offset < end:
            at = cursor.offset
            name, size = cursor.take(4), cursor.number("I")
            if cursor.offset + size > end:
                raise self._corrupt(f"extended info block {name!r} of {size} bytes ends behind the info", at)
            if name == b"vcpu":
                widths = {context: width for width, context in CONTEXT_SIZE.items()}
                if size not in widths:
                    raise self._corrupt(f"a context of {size} bytes, {' and '.join(map(str, widths))} are known", at)
                self._context_size, self.image.word_size = size, widths[size]
            elif name == b"extv":
                self._extended_vcpu = True
            elif name == b"xcnt" and size >= 4:
                self._xsave = struct.unpack("<I", cursor.source.pread(cursor.offset, 4))[0]
            cursor.skip(size, "extended info block")

    # -- batches -------------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Take one marker and its payload in; False behind the last."""
        cursor = self.cursor
        at = cursor.offset
        marker = cursor.number("i")
        if marker == 0:
            return False
        if marker > 0:
            self._batch(marker, at)
        elif marker in (_COMPRESSED, _COMPRESSION_ON, _TMEM, _TMEM_EXTRA):
            what = "transcendent memory" if marker in (_TMEM, _TMEM_EXTRA) else "compressed pages of Remus"
            raise UnsupportedDump(f"{what} (marker {marker}) cannot be read", path=cursor.source.name, offset=at)
        else:
            self._marker(marker, at)
        return True

    def _marker(self, marker: int, at: int) -> None:
        cursor = self.cursor
        if marker == _VERIFY:
            self._verifying = True
        elif marker == _VCPUS:
            last = cursor.number("i")
            if not 0 <= last <= _MAX_VCPU_ID:
                raise self._corrupt(f"the highest vcpu is {last}, 0 to {_MAX_VCPU_ID} are expected", at)
            bitmap = int.from_bytes(cursor.take(8 * (last // 64 + 1)), "little")
            self._vcpus = [cpu for cpu in range(last + 1) if bitmap >> cpu & 1]
        elif marker in _PARAMETERS:
            cursor.skip(12, "HVM parameter")
        elif marker == _TSC:
            cursor.skip(20, "TSC info")
        elif marker == _LAST_CHECKPOINT:
            self.image.count("checkpoints")
        elif marker == _TOOLSTACK:
            cursor.skip(cursor.number("I"), "toolstack data")
        else:
            raise self._corrupt(f"marker {marker}", at)

    def _batch(self, count: int, at: int) -> None:
        cursor = self.cursor
        if count > _MAX_BATCH:
            raise self._corrupt(f"a batch of {count} pages, the limit is {_MAX_BATCH}", at)
        raw = cursor.take(count * cursor.word_size)
        entries = np.frombuffer(raw, f"<u{cursor.word_size}").astype(np.uint64) & np.uint64(0xFFFFFFFF)
        offset, source = cursor.offset, cursor.source
        types, pfns = entries >> _TYPE_SHIFT, entries & _PFN_MASK
        size = 4096 * int((types < 0xD).sum())
        source.ensure(offset, offset + size)
        if not self._verifying:
            self.image.pages.add(pfns, types, offset, source.size - offset)
        self.image.count("batches")
        cursor.skip(size, "batch")

    # -- tail ----------------------------------------------------------------------------------------------------

    def tail(self) -> None:
        """Read what comes behind the batches."""
        if self.image.kind == "HVM":
            self._hvm_tail()
        else:
            self._pv_tail()

    def _hvm_tail(self) -> None:
        cursor = self.cursor
        cursor.skip(24, "magic frames")
        size = cursor.number("I")
        if size > _MAX_BLOB:
            raise self._corrupt(f"HVM context of {size} bytes, the limit is {_MAX_BLOB}", cursor.offset - 4)
        self.image.hvm_context = cursor.take(size)

    def _pv_tail(self) -> None:
        cursor, image = self.cursor, self.image
        cursor.skip(cursor.number("I") * cursor.word_size, "list of unmapped frames")
        for cpu in self._vcpus:
            image.contexts[cpu] = cursor.take(self._context_size)
            if self._extended_vcpu:
                cursor.skip(_EXTENDED_VCPU, "extended context")
            if self._xsave:
                cursor.skip(8, "xcr mask")
                cursor.skip(cursor.number("Q"), "xsave area")
        image.shared_info = cursor.take(_SHARED_INFO)
