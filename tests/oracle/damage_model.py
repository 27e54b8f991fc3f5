# SPDX-License-Identifier: GPL-2.0-or-later
"""What a kind of damage is, and the list that the modules of kinds fill."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from oracle.damage_bases import Dump


@dataclass(frozen=True)
class Place:
    """Where damage lies; None: it has no such place.

    Attributes:
        frames: [start, end) of the bad frames in the damage map, all of them.
        data: [start, end) of their bytes in the file.
        pfn, offset: Of the finding.
        word: Text that the finding's message must have.
    """

    frames: tuple[int, int] | None = None
    data: tuple[int, int] | None = None
    pfn: int | None = None
    offset: int | None = None
    word: str = ""


@dataclass(frozen=True)
class Kind:
    """One kind of damage; `level` None: no check finds it, `why` says why and what would."""

    name: str
    base: str
    what: str
    level: str | None
    code: str
    exit_code: int
    why: str
    damage: Callable[[Dump], Place]


KINDS: list[Kind] = []
_Damage = Callable[[Dump], Place]


def found(base: str, what: str, level: str, code: str, exit_code: int = 3) -> Callable[[_Damage], _Damage]:
    """A kind that a level finds."""

    def add(damage: _Damage) -> _Damage:
        KINDS.append(Kind(damage.__name__.strip("_"), base, what, level, code, exit_code, "", damage))
        return damage

    return add


def missed(base: str, what: str, why: str) -> Callable[[_Damage], _Damage]:
    """A kind that no check can find."""

    def add(damage: _Damage) -> _Damage:
        KINDS.append(Kind(damage.__name__.strip("_"), base, what, None, "", 0, why, damage))
        return damage

    return add
