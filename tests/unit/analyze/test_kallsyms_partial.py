# SPDX-License-Identifier: GPL-2.0-or-later
"""kallsyms with pages that cannot be read: every name that comes out is the right one, and only its block is missing.

The tables are written here by a plain encoder of one token a character; the oracle is the list that was encoded.
"""

from __future__ import annotations

import struct
from typing import Any

import pytest
from unit.analyze.fake_kernel import PAGE, FakeKernel

from dumpconv.analyze.errors import AnalyzeError, MissingTable
from dumpconv.analyze.kallsyms import RawSymbols, from_vmcoreinfo
from dumpconv.analyze.sources import KernelSymbols
from dumpconv.formats.vmcoreinfo import VmcoreInfo

BASE = 0xFFFF888000000000
START = 0xFFFFFFFF81000000
COUNT = 4 * 256 + 77
NAMES = [f"T{'_stext' if number == 0 else f'symbol_{number}_of_the_kernel'}" for number in range(COUNT)]
NAMES[600] = "Dprb"
NAMES[-1] = "Dinit_uts_ns"
ADDRESSES = [START + 16 * number for number in range(COUNT)]


def tables(*, lost: tuple[int, ...] = (), per_cpu: bool = False) -> tuple[FakeKernel, VmcoreInfo, dict[str, int]]:
    """Lay offsets, base, number, names, markers, tokens and index into memory; leave pages out, counted from 0."""
    kernel = FakeKernel("x86_64", BASE, {"f": BASE + 0x1000})
    encoded, markers = b"", []
    for number, name in enumerate(NAMES):
        if number % 256 == 0:
            markers.append(len(encoded))
        encoded += bytes([len(name)]) + name.encode()
    words = b"".join(bytes([code or 1]) + b"\0" for code in range(256))
    sign = -1 if per_cpu else 1  # offsets below zero: base - 1 - offset; per-CPU symbols are absolute
    offsets = struct.pack(f"<{COUNT}i", *(sign * (address - START) - per_cpu for address in ADDRESSES))
    parts = [
        ("offsets", offsets), ("relative_base", struct.pack("<Q", START)), ("num_syms", struct.pack("<I", COUNT)),
        ("names", encoded), ("markers", struct.pack(f"<{len(markers)}I", *markers)), ("token_table", words),
        ("token_index", struct.pack("<256H", *range(0, 512, 2))),
    ]  # fmt: skip
    at, places = 0x10000, {}
    for name, data in parts:
        at += -at % 8
        places[name] = BASE + at
        kernel.physical.write(at, data)
        at += len(data)
    for page in lost:
        del kernel.physical.pages[0x10 + page]
    rows = {f"kallsyms_{name}": place for name, place in places.items() if name != "markers"}
    rows |= {"_stext": START, "init_uts_ns": ADDRESSES[-1], "prb": ADDRESSES[600]}
    return kernel, VmcoreInfo("".join(f"SYMBOL({name})={each:x}\n" for name, each in rows.items()).encode()), places


def found(raw: RawSymbols) -> dict[str, int]:
    return dict(zip((name.decode() for name in raw.names), raw.addresses.tolist(), strict=True))


WHOLE = dict(zip(NAMES, ADDRESSES, strict=True))


@pytest.mark.parametrize("per_cpu", [False, True])
def test_a_whole_table_is_whole(per_cpu: bool) -> None:
    kernel, info, _ = tables(per_cpu=per_cpu)
    assert found(from_vmcoreinfo(kernel.memory, info)) == WHOLE


@pytest.mark.parametrize("per_cpu", [False, True])
def test_every_page_missing_in_turn_costs_its_blocks_only(per_cpu: bool) -> None:
    _, _, places = tables()
    pages = range((places["token_index"] - BASE - 0x10000) // PAGE)
    answered = 0
    for page in pages:
        kernel, info, _ = tables(lost=(page,), per_cpu=per_cpu)
        try:
            raw = from_vmcoreinfo(kernel.memory, info)
        except AnalyzeError as error:
            low = BASE + 0x10000 + page * PAGE
            needed = ("token_table",)
            assert any(low <= places[name] < low + PAGE for name in needed), error
            continue
        answered += 1
        names = found(raw)
        assert names.items() <= WHOLE.items()
        assert len(names) >= COUNT - 1024 - 256
        table = KernelSymbols(raw.addresses, raw.names, BASE)
        table.gaps = raw.gaps
        for name, address in WHOLE.items():  # what lies in a function is told as in that one, or not at all
            there = table.lookup(address + 8)
            assert there is None or (there[0].name, there[1]) == (name[1:], 8)
            assert (there is not None) <= (name in names)
            if name in names:
                assert table.lookup(address) is not None
                assert table.end_of(address) <= address + 16 or name == NAMES[-1]
        assert sum(table.lookup(address + 8) is not None for address in ADDRESSES) >= len(names) - 8
        lost = COUNT - len(names)  # and one, where their number is that of the offsets with what fills them up
        assert any(f"{lost + more} of {COUNT + more} cannot be read" in raw.how for more in (0, 1))
    assert answered >= 5


def test_addresses_that_contradict_the_others_are_left_out() -> None:
    kernel, info, places = tables()
    at = places["offsets"] - BASE
    kernel.physical.write(at + 4 * 700, struct.pack("<i", 16 * 20))  # one too low
    kernel.physical.write(at + 4 * 800, struct.pack("<20i", *range(1, 1000000, 50000)))
    kernel.physical.write(at + 4 * 810, struct.pack("<i", 16 * 810))  # right by chance, among wrong ones
    raw = from_vmcoreinfo(kernel.memory, info)
    names = found(raw)
    assert names.items() <= WHOLE.items()
    assert set(WHOLE) - set(names) == {NAMES[700], *NAMES[800:820]}
    table = KernelSymbols(raw.addresses, raw.names, BASE)
    table.gaps = raw.gaps
    assert table.lookup(ADDRESSES[700] + 8) is None
    assert table.lookup(ADDRESSES[798] + 8) is not None  # where the one before a gap ends is not known
    assert table.lookup(ADDRESSES[819] + 8) is None
    assert table.lookup(ADDRESSES[820] + 8) is not None


@pytest.mark.parametrize("with_hole", [False, True])
def test_a_wrong_length_costs_its_block_only(with_hole: bool) -> None:
    kernel, info, places = tables()
    if with_hole:
        del kernel.physical.pages[(places["names"] - BASE) // PAGE + 4]
    place = places["names"] - BASE + 300  # a length in the first block
    for at in range(place, place + 40):
        kernel.physical.write(at, b"\x05")
    raw = from_vmcoreinfo(kernel.memory, info)
    names = found(raw)
    assert names.items() <= WHOLE.items()
    assert set(WHOLE) - set(names) >= set(NAMES[:256])
    assert len(names) == COUNT - 256 if not with_hole else COUNT - 4 * 256 <= len(names) < COUNT - 256


def test_names_that_disagree_with_their_markers_are_none() -> None:
    kernel, info, places = tables()
    for number in range(4):
        place = places["names"] - BASE + number * 6000 + 300
        for at in range(place, place + 40):
            kernel.physical.write(at, b"\x05")
    with pytest.raises(MissingTable, match="do not agree with their markers"):
        from_vmcoreinfo(kernel.memory, info)


def test_without_a_landmark_nothing_is_guessed() -> None:
    kernel, info, _ = tables(lost=(0,), per_cpu=True)
    said: Any = VmcoreInfo(
        b"\n".join(line for line in info.to_bytes().split(b"\n") if b"init_uts_ns" not in line and b"prb" not in line)
    )
    with pytest.raises(MissingTable, match="nothing tells how addresses are coded"):
        from_vmcoreinfo(kernel.memory, said)
