# SPDX-License-Identifier: GPL-2.0-or-later
"""Types of which a page cannot be read: what is left is what the whole table has, under the same numbers."""

from __future__ import annotations

import struct

import pytest

from dumpconv.analyze.btf import KIND, Btf
from dumpconv.analyze.btf_repair import repair, repaired
from dumpconv.analyze.errors import MissingTable
from dumpconv.analyze.module_types import join
from support.build_btf import BtfBuilder

LOST = "unreadable"


def build(mark: str = "<", *, functions: int = 60, apart: int = 1) -> bytes:
    """Give a table like a kernel's: structures, pointers to them, prototypes, functions, an enumeration."""
    builder = BtfBuilder(mark)
    number = builder.integer("int", 4, 1)
    structs = []
    for index in range(120):
        members = [(f"first_{index}", number, 0, 0), (f"second_{index}", number, 32, 0)][: 1 + index % 2]
        structs.append(builder.compound(f"struct_{index}", 8, members))
        builder.pointer(structs[-1])
    protos = [
        builder.proto(number, [(f"arg_{index}", structs[index])] * (index % apart + 1)) for index in range(functions)
    ]
    builder.enum("choice", [("CHOICE_A", 1), ("CHOICE_B", 2)])
    for index, proto in enumerate(protos):
        builder.add(KIND["func"], f"function_{index}", 1, proto)
    builder.pointer(structs[0])
    return builder.build()


def torn(data: bytes, *holes: tuple[int, int]) -> bytes:
    whole = bytearray(data)
    for low, high in holes:
        whole[low:high] = bytes(high - low)
    return bytes(whole)


def compare(found: Btf, expected: Btf) -> tuple[int, int]:
    """Give how many types and names are told as unreadable; everything else has to be as it was."""
    assert len(found) == len(expected)
    types = names = 0
    for one, other in zip(found, expected, strict=True):
        if one.name == LOST and one.kind == KIND["fwd"] and other.kind != KIND["fwd"]:
            types += 1
            continue
        assert (one.id, one.kind, one.vlen, one.size) == (other.id, other.kind, other.vlen, other.size)
        rows = [(one.name, other.name)]
        if one.kind_name == "struct":
            pairs = list(zip(found.members(one), expected.members(other), strict=True))
            assert all(a[1:] == b[1:] for a, b in pairs)
            rows += [(a.name, b.name) for a, b in pairs]
        elif one.kind_name == "enum":
            rows += list(zip(found.enumerators(one), expected.enumerators(other), strict=True))
        elif one.kind_name == "func_proto":
            rows += [(a[0], b[0]) for a, b in zip(found.parameters(one), expected.parameters(other), strict=True)]
        for name, right in rows:
            assert name in (right, LOST)
            names += name == LOST
    return types, names


@pytest.mark.parametrize("mark", ["<", ">"])
@pytest.mark.parametrize("start", [100, 512, 1001, 1500, 2222])
def test_types_around_a_hole_keep_their_numbers(mark: str, start: int) -> None:
    data, order = build(mark), "little" if mark == "<" else "big"
    expected = Btf(data, order)  # type: ignore[arg-type]
    found = repaired(torn(data, (start, start + 600)), [(start, start + 600, "lost")], order)  # type: ignore[arg-type]
    types, names = compare(found, expected)
    assert 600 // 36 <= types <= 600 // 12 + 2
    assert names == 0
    assert found.lost == f"{types} types cannot be read: lost"
    last = found.find("function_59", "func")
    assert last is not None
    assert found.type(last.size).kind_name == "func_proto"


def test_what_is_between_two_holes_is_lost_with_them() -> None:
    data = build()
    holes = [(200, 300, "lost"), (500, 600, "damaged")]
    found = repaired(torn(data, (200, 300), (500, 600)), holes, "little")
    assert compare(found, Btf(data, "little"))[0] >= 400 // 36


@pytest.mark.parametrize("offset", [5, 40, 333])
def test_names_in_a_hole_are_said_to_be_unreadable(offset: int) -> None:
    data = build()
    expected = Btf(data, "little")
    start = data.index(expected.string_section) + offset
    found = repaired(torn(data, (start, start + 64)), [(start, start + 64, "not in the dump")], "little")
    types, names = compare(found, expected)
    assert types == 0
    # a name that the hole cuts is lost, and no longer found by its first half
    cut = expected.string_section[offset : offset + 64].count(b"\0")
    assert cut <= names
    assert found.lost.endswith("names of types and members cannot be read: not in the dump")
    section = expected.string_section
    head = section[section.rfind(b"\0", 0, offset) + 1 : offset].decode()
    named = Btf(data, "little").find(head)
    assert found.find(head) == named


def test_a_hole_over_types_and_names() -> None:
    data = build()
    expected = Btf(data, "little")
    border = data.index(expected.string_section)
    data = torn(data, (700, 900), (border + 64, border + 128))
    found = repaired(data, [(700, 900, "lost"), (border + 64, border + 128, "lost")], "little")
    assert " types and " in found.lost
    assert found.find("function_59", "func") is not None


@pytest.mark.parametrize(
    ("low", "high", "functions", "why"),
    [
        (0, 100, 60, "cannot be read"),  # the header
        (500, 700, 4, "the numbers of its types"),  # too few functions agree
        (-40, 0, 60, "go on"),  # the last types: nothing behind them
    ],
)
def test_where_nothing_tells_what_is_lost_there_are_no_types(low: int, high: int, functions: int, why: str) -> None:
    data = build(functions=functions)
    if low < 0:
        border = data.index(Btf(data, "little").string_section)
        low, high = border + low, border + high
    with pytest.raises(MissingTable, match=why):
        repair(torn(data, (low, high)), [(low, high, "lost")], "little")


def test_a_modules_types_go_on_behind_what_is_left() -> None:
    data = build()
    whole = Btf(data, "little")
    module = BtfBuilder()
    module.strings, module.count = b"", len(whole) - 1
    start = len(whole.string_section)
    names = b"\0of_module\0"
    head = module.mark + "HBBIIIII"
    types = struct.pack("<III", start + 1, 4 << 24 | 1, 4) + struct.pack("<III", start + 1, 1, 0)
    raw = struct.pack(head, 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(names)) + types + names
    found = repaired(torn(data, (700, 900)), [(700, 900, "lost")], "little")
    for own in (Btf(raw, "little", found), join(found, [raw])[0]):
        one = own.find("of_module", "struct")
        assert one is not None and one.id == len(whole)
        assert [member.name for member in own.members(one)] == ["of_module"]
        assert any(each.name == LOST for each in found)


def test_hostile_headers_are_refused() -> None:
    data = bytearray(build())
    for at, value in ((4, 1 << 31), (8, 3), (12, 1 << 30), (16, 0), (20, 1 << 31)):
        wrong = bytearray(data)
        wrong[at : at + 4] = value.to_bytes(4, "little")
        with pytest.raises(MissingTable):
            repair(torn(bytes(wrong), (500, 600)), [(500, 600, "lost")], "little")
