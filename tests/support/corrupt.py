# SPDX-License-Identifier: GPL-2.0-or-later
"""Deterministic damage to bytes and files: flips, cuts, splices, zeroed and overwritten ranges."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path

PathLike = str | os.PathLike[str]


def flip(data: bytes, bit: int) -> bytes:
    """Flip one bit; bit 0 is the lowest of byte 0."""
    out = bytearray(data)
    out[bit >> 3] ^= 1 << (bit & 7)
    return bytes(out)


def truncate(data: bytes, size: int) -> bytes:
    """Keep the first `size` bytes."""
    return data[:size]


def zero(data: bytes, start: int, end: int) -> bytes:
    """Zero the range [start, end) without changing the length."""
    end = min(end, len(data))
    return data[:start] + bytes(max(0, end - start)) + data[max(start, end) :]


def overwrite(data: bytes, offset: int, new: bytes) -> bytes:
    """Put bytes over others; the length grows only past the end."""
    return data[:offset].ljust(offset, b"\0") + new + data[offset + len(new) :]


def splice(data: bytes, start: int, end: int, new: bytes = b"") -> bytes:
    """Replace [start, end) by bytes of any length, so that all after it moves."""
    return data[:start] + new + data[end:]


def flip_file(path: PathLike, bit: int) -> None:
    """Flip one bit of a file in place."""
    with open(path, "r+b") as stream:
        stream.seek(bit >> 3)
        (byte,) = stream.read(1)
        stream.seek(bit >> 3)
        stream.write(bytes([byte ^ 1 << (bit & 7)]))


def truncate_file(path: PathLike, size: int) -> None:
    """Cut a file."""
    os.truncate(path, size)


def overwrite_file(path: PathLike, offset: int, new: bytes) -> None:
    """Put bytes over others in place."""
    with open(path, "r+b") as stream:
        stream.seek(offset)
        stream.write(new)


def zero_file(path: PathLike, start: int, end: int) -> None:
    """Zero [start, end) in place."""
    overwrite_file(path, start, bytes(end - start))


def flip_somewhere(data: bytes, source: random.Random) -> bytes:
    return flip(data, source.randrange(8 * len(data)))


def truncate_somewhere(data: bytes, source: random.Random) -> bytes:
    return truncate(data, source.randrange(len(data)))


def zero_somewhere(data: bytes, source: random.Random) -> bytes:
    start = source.randrange(len(data))
    return zero(data, start, start + source.choice((1, 4, 8, 24, 512, 4096)))


def overwrite_somewhere(data: bytes, source: random.Random) -> bytes:
    """Put an interesting integer, or noise, over some bytes."""
    offset = source.randrange(len(data))
    number = source.choice((0, 1, 0x7F, 0x80, 0xFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, (1 << 63) - 1, (1 << 64) - 1))
    width = max(1, (number.bit_length() + 7) // 8)
    new = source.choice((number.to_bytes(width, "little"), number.to_bytes(width, "big"), source.randbytes(8)))
    return overwrite(data, offset, new)[: len(data)]


def splice_somewhere(data: bytes, source: random.Random) -> bytes:
    """Remove, repeat or insert a short range."""
    start = source.randrange(len(data))
    end = min(len(data), start + source.randrange(1, 64))
    return splice(data, start, end, source.choice((b"", data[start:end] * 2, source.randbytes(16) + data[start:end])))


MUTATIONS: Sequence[Callable[[bytes, random.Random], bytes]] = (
    flip_somewhere,
    truncate_somewhere,
    zero_somewhere,
    overwrite_somewhere,
    splice_somewhere,
)


def mutate(data: bytes, source: random.Random, *, count: int = 1) -> bytes:
    """Apply `count` random mutations; the same Random state gives the same bytes. Empty data stays as it is."""
    for _ in range(count):
        if data:
            data = source.choice(MUTATIONS)(data, source)
    return data


def mutate_file(path: PathLike, out: PathLike, source: random.Random, *, count: int = 1) -> Path:
    """Write a mutated copy of a file."""
    target = Path(out)
    target.write_bytes(mutate(Path(path).read_bytes(), source, count=count))
    return target
