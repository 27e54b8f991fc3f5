# SPDX-License-Identifier: GPL-2.0-or-later
"""Types of modules behind those of their kernel; and types looked up by name."""

from __future__ import annotations

import contextlib
import struct
from random import Random
from typing import Literal

import pytest

from dumpconv.analyze.btf import Btf
from dumpconv.analyze.errors import MissingTable
from dumpconv.analyze.module_types import join

ORDERS: list[Literal["little", "big"]] = ["little", "big"]


def blob(mark: str, types: list[bytes], strings: bytes) -> bytes:
    body = b"".join(types)
    return struct.pack(mark + "HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(body), len(body), len(strings)) + body + strings


def head(mark: str, name: int, kind: int, count: int, third: int, *more: int, flag: int = 0) -> bytes:
    return struct.pack(f"{mark}{3 + len(more)}I", name, flag << 31 | kind << 24 | count, third, *more)


def kernel_blob(mark: str) -> bytes:
    # 1 int, 2 struct base { int a; }, 3 pointer to it, 4 enum { ONE = 1 }
    strings = b"\0int\0base\0a\0number\0ONE\0"
    types = [
        head(mark, 1, 1, 0, 4, 1 << 24 | 32), head(mark, 5, 4, 1, 4, 10, 1, 0), head(mark, 0, 2, 0, 2),
        head(mark, 12, 6, 1, 4, 19, 1),
    ]  # fmt: skip
    return blob(mark, types, strings)


def module_blob(mark: str, name: bytes, base_types: int = 5, base_strings: int = 23) -> bytes:
    # struct NAME { struct base *link; struct NAME *next; int list[3]; }; void f(struct NAME *x); enum64
    own, strings = base_strings, b"\0" + name + b"\0link\0next\0list\0x\0BIG\0call\0"
    at = {word: own + strings.index(b"\0" + word + b"\0") + 1 for word in strings.split(b"\0") if word}
    first = base_types
    types = [
        head(mark, at[name], 4, 3, 32, at[b"link"], 3, 0, at[b"next"], first + 1, 64, at[b"list"], first + 2, 128),
        head(mark, 0, 2, 0, first),
        head(mark, 0, 3, 0, 0, 1, 1, 3),
        head(mark, 0, 13, 1, 0, at[b"x"], first + 1),
        head(mark, at[b"call"], 12, 1, first + 3),
        head(mark, 0, 19, 1, 8, at[b"BIG"], 5, 1),
    ]
    return blob(mark, types, strings)


@pytest.mark.parametrize("order", ORDERS)
def test_modules_are_behind_their_kernel(order: Literal["little", "big"]) -> None:
    mark = "<" if order == "little" else ">"
    base = Btf(kernel_blob(mark), order)
    both, taken = join(base, [module_blob(mark, b"one"), module_blob(mark, b"two")])
    assert taken == 2
    assert len(both) == 5 + 6 + 6
    assert [both.type(number)[:4] for number in range(1, 5)] == [base.type(number)[:4] for number in range(1, 5)]
    for number, name in ((5, "one"), (11, "two")):
        found = both.find(name, "struct")
        assert found is not None and found.id == number
        link, following, array = both.members(found)
        assert [(each.name, each.bit_offset) for each in (link, following, array)] == [
            ("link", 0), ("next", 64), ("list", 128),
        ]  # fmt: skip
        assert both.type(both.type(link.type).size).name == "base"
        assert both.type(both.type(following.type).size).name == name
        assert both.array(both.type(array.type)) == (1, 3)
        proto = both.type(both.type(number + 4).size)
        assert both.type(number + 4).name == "call"
        assert both.parameters(proto) == [("x", number + 1)]
    assert both.constant("BIG") == 5 + (1 << 32)
    assert both.constant("ONE") == base.constant("ONE") == 1
    assert both.constant("NONE") is None


def test_a_damaged_module_is_left_out() -> None:
    base = Btf(kernel_blob("<"), "little")
    bad = bytearray(module_blob("<", b"bad"))
    bad[24 + 7] = 0x7F  # an unknown kind
    both, taken = join(base, [bytes(bad), b"", module_blob("<", b"good")])
    assert taken == 1
    assert both.find("bad") is None
    assert both.find("good") is not None


def test_names_are_found_as_ends_of_others_and_in_order() -> None:
    # "base" as the end of "database": no writer joins strings so, but nothing forbids it
    strings = b"\0int\0database\0"
    types = [head("<", 1, 1, 0, 4, 1 << 24 | 32), head("<", 9, 4, 0, 1), head("<", 9, 4, 0, 2), head("<", 5, 5, 0, 4)]
    btf = Btf(blob("<", types, strings), "little")
    found = btf.find("base", "struct")
    assert found is not None and (found.id, found.size) == (2, 1)
    assert btf.find("database", "struct") is None
    assert btf.find("database", "union") is not None
    assert btf.find("") is None


def test_hostile_modules_end() -> None:
    random = Random(5)
    base = Btf(kernel_blob("<"), "little")
    for _ in range(400):
        data = bytearray(module_blob("<", b"one"))
        for _ in range(random.randint(1, 6)):
            data[random.randrange(len(data))] = random.randrange(256)
        both, taken = join(base, [bytes(data)])
        for each in range(1, len(both)):
            try:
                both.size_of(both.type(each).id)
                found = both.strip(each)
                if found.kind_name in ("struct", "union"):
                    both.members(found)
            except MissingTable:
                continue
        assert taken in (0, 1)
        with contextlib.suppress(MissingTable):
            both.find("one")
            both.constant("BIG")
