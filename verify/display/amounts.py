# SPDX-License-Identifier: GPL-2.0-or-later
"""Amounts as people type them: `90s`, `30m`, `500G`. Light: parsers are built from it."""

from __future__ import annotations

import argparse

__all__ = ["duration", "scaled"]


def scaled(text: str, units: dict[str, int], what: str) -> int:
    """Return a positive number that may have a unit behind it, for argparse."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in units else (text, "")
    if not (number.isascii() and number.isdigit()) or int(number) < 1:
        raise argparse.ArgumentTypeError(f"{what} expected")
    return int(number) * units.get(unit, 1)


def duration(text: str) -> int:
    """Return seconds: `90s`, `30m`, `2h`, `90d`."""
    return scaled(text, {"s": 1, "m": 60, "h": 3600, "d": 86400}, "a number with s, m, h or d")
