# SPDX-License-Identifier: GPL-2.0-or-later
"""BLAKE3 (hash mode, 32 bytes) in plain Python, by section 2 of its paper: slow, and no library's."""

from __future__ import annotations

import struct

IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
CHUNK_START, CHUNK_END, PARENT, ROOT = 1, 2, 4, 8
MASK = 0xFFFFFFFF
QUARTERS = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
            (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))  # fmt: skip


def _rotate(value: int, count: int) -> int:
    return (value >> count | value << (32 - count)) & MASK


def _compress(chain: tuple[int, ...], block: bytes, counter: int, size: int, flags: int) -> tuple[int, ...]:
    words = list(struct.unpack("<16I", block.ljust(64, b"\0")))
    v = [*chain, *IV[:4], counter & MASK, counter >> 32, size, flags]
    for _ in range(7):
        for index, (a, b, c, d) in enumerate(QUARTERS):
            v[a] = (v[a] + v[b] + words[2 * index]) & MASK
            v[d] = _rotate(v[d] ^ v[a], 16)
            v[c] = (v[c] + v[d]) & MASK
            v[b] = _rotate(v[b] ^ v[c], 12)
            v[a] = (v[a] + v[b] + words[2 * index + 1]) & MASK
            v[d] = _rotate(v[d] ^ v[a], 8)
            v[c] = (v[c] + v[d]) & MASK
            v[b] = _rotate(v[b] ^ v[c], 7)
        words = [words[place] for place in PERMUTATION]
    return tuple(v[i] ^ v[i + 8] for i in range(8))


def _chunk(data: bytes, counter: int, flags: int) -> tuple[int, ...]:
    chain: tuple[int, ...] = IV
    blocks = [data[at : at + 64] for at in range(0, len(data), 64)] or [b""]
    for index, block in enumerate(blocks):
        more = CHUNK_START * (index == 0) | (CHUNK_END | flags) * (index == len(blocks) - 1)
        chain = _compress(chain, block, counter, len(block), more)
    return chain


def _tree(chunks: list[bytes], first: int, flags: int) -> tuple[int, ...]:
    if len(chunks) == 1:
        return _chunk(chunks[0], first, flags)
    left = 1 << (len(chunks) - 1).bit_length() - 1
    halves = _tree(chunks[:left], first, 0) + _tree(chunks[left:], first + left, 0)
    return _compress(IV, struct.pack("<16I", *halves), 0, 64, PARENT | flags)


def blake3(data: bytes) -> bytes:
    """Hash bytes."""
    chunks = [data[at : at + 1024] for at in range(0, len(data), 1024)] or [b""]
    return struct.pack("<8I", *_tree(chunks, 0, ROOT))
