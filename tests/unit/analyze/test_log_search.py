# SPDX-License-Identifier: GPL-2.0-or-later
"""The log that nothing names: found by its text in every era's buffer, whose bytes are written out by hand."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from unit.analyze.fake_kernel import PAGE, FakePhysical

from dumpconv.analyze.errors import MissingTable
from dumpconv.analyze.log import Record, render
from dumpconv.analyze.log_search import search_log
from dumpconv.formats.machine import Machine
from dumpconv.formats.pages import PageState

BANNER = b"Linux version 5.10.0 (gcc) #1 SMP"
TEXTS = [BANNER, b"Command line: quiet", b"x86/fpu: x87 FPU", b"one\ntwo", b"Kernel panic - not syncing: test"]


class Stored:
    """Which frames of a fake memory are stored."""

    def __init__(self, memory: FakePhysical) -> None:
        self._memory = memory

    def only(self, state: PageState) -> Any:
        import numpy as np

        pfns = np.array(sorted(self._memory.pages), np.uint64)
        return pfns, pfns + np.uint64(1)


def memory_of(arch: str = "x86_64") -> Any:
    word, order = {"x86_64": (8, "little"), "i386": (4, "little"), "s390x": (8, "big")}[arch]
    found: Any = FakePhysical(Machine(arch, order, word, PAGE, 0))  # type: ignore[arg-type]
    found.memory_map = Stored(found)
    for pfn in range(4):
        found.write(PAGE * pfn, bytes(PAGE))
    return found


def mark(memory: Any) -> str:
    return "<" if memory.machine.byteorder == "little" else ">"


def block(memory: Any, number: int, text: bytes, filler: bytes = b"\0") -> bytes:
    """Give a block of the text ring: number, text, filled up to a word."""
    word = memory.machine.word_size
    raw = struct.pack(mark(memory) + ("Q" if word == 8 else "I"), number) + text
    return raw + (filler * word)[: -len(raw) % word]


@pytest.mark.parametrize("arch", ["x86_64", "i386", "s390x"])
def test_texts_with_numbers(arch: str) -> None:
    """5.10 and later: the first number is just below zero; records without text (7, here) have no block."""
    memory = memory_of(arch)
    zero = 1 << 8 * memory.machine.word_size - 2
    numbers = [zero - 2, zero - 1, 0, 2, 3]
    ring = b"".join(block(memory, number, text) for number, text in zip(numbers, TEXTS, strict=True))
    memory.write(0x1040, ring)
    found, how = search_log(memory)
    assert found == [Record(None, None, None, text) for text in TEXTS]
    assert how == "by the numbers of its texts: without times"


def test_a_ring_that_went_round() -> None:
    """The oldest records lie behind the newest; the hit is the last of them."""
    memory = memory_of()
    texts = {number: b"record %d" % number for number in range(100, 120)} | {120: TEXTS[-1]}
    new = b"".join(block(memory, number, texts[number]) for number in range(110, 121))
    old = b"".join(block(memory, number, texts[number]) for number in range(100, 110))
    memory.write(0x1000, new + b"\0" * 64 + old)
    found, _ = search_log(memory)
    assert [record.text for record in found] == [texts[number] for number in range(100, 121)]


def test_what_the_level_leaves_behind_a_text_is_no_text() -> None:
    """A text is moved over its level: two characters and the newline stay, where they fill the block; a number may
    end in 0000."""
    memory = memory_of()
    written = [BANNER + b"MP\n", b"Registered governor 'step'p'\n", b"usable\n\x01c", b"class 0x060000\n", TEXTS[-1]]
    memory.write(0x1000, b"".join(block(memory, number, text) for number, text in enumerate(written, 50)))
    found, _ = search_log(memory)
    wanted = [BANNER, b"Registered governor 'step'", b"usable", b"class 0x060000", TEXTS[-1]]
    assert [record.text for record in found] == wanted


@pytest.mark.parametrize(("arch", "caller"), [("x86_64", False), ("x86_64", True), ("s390x", False)])
def test_records_with_lengths(arch: str, caller: bool) -> None:
    """3.5 to 5.9: u64 nanoseconds, u16 length, u16 text, u16 dictionary, u8 facility, u8 flags and level."""
    memory = memory_of(arch)
    ring = b""
    for number, text in enumerate(TEXTS):
        head, more = 20 if caller else 16, b"SUBSYSTEM=pci" if number == 2 else b""
        length = -(-(head + len(text) + len(more)) // 8) * 8
        flags = 6 << 5 if arch == "x86_64" else 6
        raw = struct.pack(mark(memory) + "QHHHBB", number * 10**9, length, len(text), len(more), 3, flags)
        ring += (raw + (b"\1\0\0\x80" if caller else b"") + text + more).ljust(length, b"\0")
    memory.write(0x1000, ring)
    found, how = search_log(memory)
    assert found == [Record(number * 10**9, 6, 3, text) for number, text in enumerate(TEXTS)]
    assert how == "by the lengths of its records"


def test_a_ring_of_characters() -> None:
    """2.4 and 2.6."""
    memory = memory_of("i386")
    memory.write(0x1000, b"\0\0<4>Linux version 2.4.21 #1\n<6>BIOS-provided physical RAM map:\n<1>Unable to handle\n\0")
    found, how = search_log(memory)
    assert [(record.level, record.text) for record in found] == [
        (4, b"Linux version 2.4.21 #1"), (6, b"BIOS-provided physical RAM map:"), (1, b"Unable to handle"),
    ]  # fmt: skip
    assert how == "as text with levels"


def test_a_file_counts_where_there_is_no_buffer() -> None:
    memory = memory_of()
    lines = [b"[%12.6f] " % number + text for number, text in enumerate([BANNER, b"second", b"third"])]
    memory.write(0x1000, b"\n".join([b"other text", *lines, b"not of the log"]))
    found, how = search_log(memory)
    assert [render(record) for record in found] == lines
    assert [record.ns for record in found] == [0, 10**9, 2 * 10**9]
    assert how == "as text in a file"
    longer = b"".join(block(memory, number, text) for number, text in enumerate(TEXTS, 9))
    memory.write(0x3000, longer)
    assert [record.text for record in search_log(memory)[0]] == TEXTS


def test_words_that_are_no_log_are_none() -> None:
    memory = memory_of()
    memory.write(0x1000, b"%s version %s\0" + BANNER + b"\n\0" + struct.pack("<40Q", *range(40)))
    memory.write(0x2FF8, b"Linux version ")  # the memory ends in it
    with pytest.raises(MissingTable, match="nothing in memory looks like a kernel log"):
        search_log(memory)
    with pytest.raises(MissingTable):
        search_log(memory_of("s390x"))
