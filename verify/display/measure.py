# SPDX-License-Identifier: GPL-2.0-or-later
"""Sizes as people read them, and a page map cut into slices of bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...formats import codecs

__all__ = ["bad_runs", "human_size", "slices"]

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def human_size(size: int) -> str:
    """Return bytes with a binary unit: `1.5 GiB`."""
    value, unit = float(size), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{size} B" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"


def bad_runs(rows: NDArray[Any]) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint8]]:
    """Return start, end and state of the frames of extents that cannot be decoded."""
    states = np.array([state for _, _, state in codecs.REASONS], np.uint8)
    start = rows["start_pfn"].astype(np.uint64)
    return start, start + rows["nr_pages"].astype(np.uint64), states[rows["page_offset"]]


def slices(start: NDArray[np.uint64], end: NDArray[np.uint64], width: int) -> Iterator[tuple[int, int]]:
    """Yield slices of `width` frames, cut at its multiples, that touch the sorted, disjoint runs."""
    step, done = np.uint64(width), 0
    for first, last in zip((start // step).tolist(), ((end - np.uint64(1)) // step).tolist(), strict=True):
        for cell in range(max(first, done), last + 1):
            yield cell * width, (cell + 1) * width
        done = last + 1
