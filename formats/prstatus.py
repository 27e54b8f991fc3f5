# SPDX-License-Identifier: GPL-2.0-or-later
"""NT_PRSTATUS notes for formats that keep registers in headers of their own."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from .machine import ARCHITECTURES, ByteOrder
from .notes import NT_PRSTATUS, PRSTATUS_SIZES, Note, build_note

__all__ = ["prstatus_note"]

# Where pr_pid lies, by the size of a long (struct elf_prstatus, Linux include/linux/elfcore.h).
_PID_OFFSET = {4: 24, 8: 32}


def prstatus_note(arch: str, byteorder: ByteOrder, words: Sequence[int], pid: int = 0) -> Note:
    """Return the NT_PRSTATUS note of one CPU.

    Args:
        arch: A key of `notes.PRSTATUS_SIZES`.
        byteorder: Of the dumped machine.
        words: Registers of the architecture's elf_gregset_t in its order, unsigned, each one machine word; those
            that the source does not know are left out at the end and become 0.
        pid: pr_pid.

    Raises:
        ValueError: More words than the architecture has; a caller's bug.
    """
    size, start, length = PRSTATUS_SIZES[arch]
    word_size = ARCHITECTURES[arch].word_size
    if len(words) * word_size > length:
        raise ValueError(f"{len(words)} registers, {arch} has {length // word_size}")
    mark = "<" if byteorder == "little" else ">"
    desc = bytearray(size)
    struct.pack_into(f"{mark}i", desc, _PID_OFFSET[word_size], pid)
    struct.pack_into(f"{mark}{len(words)}{'Q' if word_size == 8 else 'I'}", desc, start, *words)
    return build_note(b"CORE", NT_PRSTATUS, bytes(desc))
