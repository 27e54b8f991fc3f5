# SPDX-License-Identifier: GPL-2.0-or-later
"""Page contents that name their own frame, so that a wrong offset or rank shows at once."""

from __future__ import annotations

import random
import struct

KINDS = ("zero", "text", "mixed", "random", "byte")


def page(pfn: int, page_size: int = 4096, kind: str = "text") -> bytes:
    """Give the content of a frame.

    zero: zeros; byte: one repeated byte derived from the pfn; text: the pfn again and again (compresses well);
    mixed: half noise, half text (compresses a little); random: noise from the pfn (does not compress).
    """
    if kind == "zero":
        return bytes(page_size)
    if kind == "byte":
        return bytes([pfn % 255 + 1]) * page_size
    noise = random.Random(pfn)
    if kind == "random":
        return noise.randbytes(page_size)
    line = struct.pack("<Q8s", pfn, b"-frame--")
    text = (line * (page_size // len(line) + 1))[:page_size]
    if kind == "text":
        return text
    if kind == "mixed":
        half = page_size // 2
        return noise.randbytes(half) + text[half:]
    raise ValueError(f"unknown pattern {kind!r}")


def pages(start_pfn: int, end_pfn: int, page_size: int = 4096, kind: str = "text") -> dict[int, bytes]:
    """Give a run of frames as pfn -> content."""
    return {pfn: page(pfn, page_size, kind) for pfn in range(start_pfn, end_pfn)}
