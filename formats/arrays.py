# SPDX-License-Identifier: GPL-2.0-or-later
"""Small numpy helpers that the whole package shares."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["distinct", "unique"]


def unique(values: NDArray[Any]) -> NDArray[Any]:
    """Return the distinct values, sorted: np.unique without its import of numpy.ma (10 ms of a short command)."""
    ordered = np.sort(values)
    if len(ordered) < 2:
        return ordered
    keep = np.empty(len(ordered), bool)
    keep[0] = True
    np.not_equal(ordered[1:], ordered[:-1], out=keep[1:])
    return ordered[keep]


def distinct(values: NDArray[np.integer[Any]]) -> list[int]:
    """Return the distinct values of a column of small non-negative integers (codecs, file numbers), ascending."""
    return np.flatnonzero(np.bincount(values)).tolist()
