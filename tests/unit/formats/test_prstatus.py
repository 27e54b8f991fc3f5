# SPDX-License-Identifier: GPL-2.0-or-later
"""NT_PRSTATUS notes: bytes written out from the C layout."""

from __future__ import annotations

import pytest

from dumpconv.formats.notes import PRSTATUS_SIZES
from dumpconv.formats.prstatus import prstatus_note


def test_x86_64() -> None:
    note = prstatus_note("x86_64", "little", [0x0123456789ABCDEF, 2], pid=0x11)
    desc = note.desc()
    assert (note.name, note.type, len(desc)) == (b"CORE", 1, 336)
    assert desc[32:36] == b"\x11\0\0\0"
    assert desc[112:128] == bytes.fromhex("efcdab8967452301 0200000000000000")
    assert not any(desc[:32]) and not any(desc[36:112]) and not any(desc[128:])


def test_big_endian_and_32_bit() -> None:
    assert prstatus_note("s390x", "big", [0x0404C00180000000]).desc()[112:120] == bytes.fromhex("0404c00180000000")
    desc = prstatus_note("i386", "little", [0xDEADBEEF], pid=3).desc()
    assert (len(desc), desc[24:28], desc[72:76]) == (144, b"\3\0\0\0", b"\xef\xbe\xad\xde")


@pytest.mark.parametrize("arch", sorted(PRSTATUS_SIZES))
def test_no_more_words_than_registers(arch: str) -> None:
    word = 4 if PRSTATUS_SIZES[arch][1] == 72 else 8
    count = PRSTATUS_SIZES[arch][2] // word
    assert prstatus_note(arch, "little", [1] * count).size == PRSTATUS_SIZES[arch][0]
    with pytest.raises(ValueError, match="registers"):
        prstatus_note(arch, "little", [1] * (count + 1))
