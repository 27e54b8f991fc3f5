# SPDX-License-Identifier: GPL-2.0-or-later
"""VMCOREINFO: the text that the crashed kernel exports about itself.

Whole keys at line starts only; a missing key is None, never 0.
"""

from __future__ import annotations

__all__ = ["MAX_SIZE", "VmcoreInfo", "printable"]

MAX_SIZE = 1 << 20  # the kernel's own limit is a page; a hostile note claims gigabytes


def printable(raw: bytes) -> str:
    """Return text safe for a terminal and a file name: control and non-ASCII bytes are escaped."""
    return "".join(chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}" for byte in raw)


class VmcoreInfo:
    """Parsed `KEY=value` lines. Where a key comes twice the first wins (as in crash).

    Args:
        raw: The text, without its note header. More than 1 MiB is cut.
    """

    def __init__(self, raw: bytes) -> None:
        self._values: dict[bytes, bytes] = {}
        for line in raw[:MAX_SIZE].split(b"\n"):
            key, equals, value = line.partition(b"=")
            if equals:
                self._values.setdefault(key, value.rstrip(b"\0\r"))

    def __len__(self) -> int:
        return len(self._values)

    def to_bytes(self) -> bytes:
        """Return the text again."""
        return b"".join(key + b"=" + value + b"\n" for key, value in self._values.items())

    def text(self, key: str) -> str | None:
        """Return the value as printable text."""
        value = self._values.get(key.encode())
        return None if value is None else printable(value)

    def _integer(self, key: str, base: int) -> int | None:
        value = self._values.get(key.encode("utf-8", "surrogateescape"))
        if value is None or len(value) > 40:
            return None
        try:
            return int(value, base)
        except ValueError:
            return None

    def symbol(self, name: str) -> int | None:
        """Return an address of at most 64 bits: hexadecimal without 0x."""
        value = self._integer(f"SYMBOL({name})", 16)
        return value if value is not None and 0 <= value < 1 << 64 else None

    def number(self, name: str) -> int | None:
        """Return a NUMBER: signed decimal, or 0x and hexadecimal on some architectures."""
        return self._integer(f"NUMBER({name})", 0)

    def size_of(self, name: str) -> int | None:
        """Return a SIZE in bytes."""
        return self._integer(f"SIZE({name})", 0)

    def offset_of(self, name: str) -> int | None:
        """Return an OFFSET in bytes."""
        return self._integer(f"OFFSET({name})", 0)

    def hexadecimal(self, key: str) -> int | None:
        """Return a bare key that is hexadecimal without 0x: KERNELOFFSET."""
        return self._integer(key, 16)

    @property
    def page_size(self) -> int | None:
        """PAGESIZE if it is a power of two in 4 KiB to 1 MiB, else None."""
        value = self._integer("PAGESIZE", 10)
        if value is None or value & (value - 1) or not 4096 <= value <= 1 << 20:
            return None
        return value
