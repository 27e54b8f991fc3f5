# SPDX-License-Identifier: GPL-2.0-or-later
"""DWARF that is made from BTF, read back with pyelftools: members, sizes, functions."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any, Literal

import pytest
from elftools.dwarf.die import DIE
from elftools.elf.elffile import ELFFile
from hypothesis import given
from hypothesis import strategies as st

from dumpconv.analyze.btf import Btf
from dumpconv.analyze.vmlinux.dwarf import Abbreviations, Function, Made, Strings, TypeUnit, function_units
from dumpconv.analyze.vmlinux.elf import Chunk, write_elf
from dumpconv.analyze.vmlinux.layout import ALLOC, EXECUTE, Section
from dumpconv.analyze.vmlinux.variables import Declarer, alignment
from dumpconv.formats.errors import DumpError
from support.build_btf import BtfBuilder

Order = Literal["little", "big"]


class Read:
    """A file's DWARF: entries by tag and name."""

    def __init__(self, path: Path) -> None:
        self.elf = ELFFile(BytesIO(path.read_bytes()))
        self.info = self.elf.get_dwarf_info()
        self.units = list(self.info.iter_CUs())
        self.entries = [die for unit in self.units for die in unit.iter_DIEs() if die.tag is not None]

    def find(self, tag: str, name: str | None) -> DIE:
        wanted = name.encode() if name is not None else None
        return next(die for die in self.entries if die.tag == f"DW_TAG_{tag}" and value(die, "name") == wanted)


def value(die: DIE, name: str) -> Any:
    found = die.attributes.get(f"DW_AT_{name}")
    return None if found is None else found.value


def target(die: DIE) -> DIE:
    return die.get_DIE_from_attribute("DW_AT_type")


def write(path: Path, builder: BtfBuilder, functions: list[Function], made: list[Made] | None = None) -> Read:
    order: Order = "little" if builder.mark == "<" else "big"
    btf = Btf(builder.build(), order)
    strings, shapes = Strings(btf.string_section), Abbreviations()
    unit = TypeUnit(btf, strings, shapes)
    for number, each in enumerate(made or ()):
        unit.variable(f"made{number}", unit.make(each), 0x1000 + number)
    info = unit.section()
    units, ranges = function_units(btf, unit, strings, shapes, functions, len(info))
    text = Section(".text", 0x400000, 0x500000, 1, ALLOC | EXECUTE)
    chunks = [
        Chunk(".debug_info", 1, info + units),
        Chunk(".debug_abbrev", 1, shapes.section()),
        Chunk(".debug_str", 1, strings.section()),
        Chunk(".debug_aranges", 1, ranges, align=16),
    ]
    write_elf(str(path), 62, builder.mark, [(text, ())], chunks)
    return Read(path)


@pytest.mark.parametrize("mark", ["<", ">"])
def test_every_kind(tmp_path: Path, mark: str) -> None:
    types = BtfBuilder(mark)
    u64 = types.integer("long unsigned int", 8)
    s32 = types.integer("int", 4, 1)
    char = types.integer("char", 1, 1)
    boolean = types.integer("_Bool", 1, 4)
    inner = types.array(s32, u64, 3)
    outer = types.array(inner, u64, 2)
    empty = types.array(char, u64, 0)
    color = types.enum("color", [("red", 0), ("blue", 0xFFFFFFFF)])
    level = types.enum("level", [("low", -5), ("high", 300)], signed=True)
    ahead = types.add(7, "ahead", 0, 0)
    thing = types.compound(
        "thing",
        40,
        [("table", outer, 0, 0), ("on", boolean, 192, 0), ("low", s32, 200, 3), ("rest", s32, 203, 21), ("", 0, 0, 0)],
    )
    types.compound("nothing", 0, [])
    either = types.compound("either", 8, [("word", u64, 0, 0), ("bytes", empty, 0, 0)], union=True)
    const = types.add(10, "", 0, thing)
    tag = types.add(18, "user", 0, const)
    pointer = types.pointer(tag)
    types.add(8, "thing_t", 0, pointer)
    types.add(8, "nowhere", 0, types.pointer(0))
    proto = types.proto(s32, [("what", pointer), ("", either), ("", 0)])
    types.add(12, "do_it", 1, proto)
    types.add(16, "double", 0, 8)
    read = write(tmp_path / "out", types, [Function(0x400010, 0x20, "do_it", proto, True)])

    assert read.elf.little_endian == (mark == "<")
    assert value(read.find("base_type", "_Bool"), "encoding") == 2
    assert value(read.find("base_type", "double"), "encoding") == 4
    assert [value(read.find("base_type", name), "encoding") for name in ("int", "char", "long unsigned int")] == [
        5,
        6,
        7,
    ]
    table, on, low, rest, _ = read.find("structure_type", "thing").iter_children()
    assert value(on, "data_member_location") == 24
    assert (value(low, "bit_size"), value(low, "data_bit_offset")) == (3, 200)
    assert (value(rest, "bit_size"), value(rest, "data_bit_offset")) == (21, 203)
    assert [value(each, "upper_bound") for each in target(table).iter_children()] == [1, 2]
    assert not read.find("structure_type", "nothing").has_children
    assert value(read.find("structure_type", "ahead"), "declaration") is True
    word, tail = read.find("union_type", "either").iter_children()
    assert target(word).offset == read.find("base_type", "long unsigned int").offset
    assert [value(each, "upper_bound") for each in target(tail).iter_children()] == [None]
    assert [value(each, "const_value") for each in read.find("enumeration_type", "color").iter_children()] == [
        0,
        2**32 - 1,
    ]
    assert [value(each, "const_value") for each in read.find("enumeration_type", "level").iter_children()] == [-5, 300]
    through = target(target(read.find("typedef", "thing_t")))  # the tag is gone
    assert through.tag == "DW_TAG_const_type"
    assert "DW_AT_type" not in target(read.find("typedef", "nowhere")).attributes
    function = read.find("subprogram", "do_it")
    assert (value(function, "low_pc"), value(function, "high_pc")) == (0x400010, 0x20)
    assert [die.tag for die in function.iter_children()] == [
        "DW_TAG_formal_parameter", "DW_TAG_formal_parameter", "DW_TAG_unspecified_parameters",
    ]  # fmt: skip
    assert color and level and ahead


def test_bit_fields_of_old_kernels(tmp_path: Path) -> None:
    """Without kflag a bit field has an integer type that is narrower than its bytes, or starts inside them."""
    types = BtfBuilder()
    whole, three = types.integer("unsigned int", 4), types.integer("unsigned int", 4, 0, 3)
    shifted = types.integer("unsigned int", 4, 0, 5, 3)
    types.compound("flags", 8, [("a", three, 0, 0), ("b", shifted, 0, 0), ("c", whole, 32, 0)], kflag=False)
    first, second, third = write(tmp_path / "out", types, []).find("structure_type", "flags").iter_children()
    assert (value(first, "bit_size"), value(first, "data_bit_offset")) == (3, 0)
    assert (value(second, "bit_size"), value(second, "data_bit_offset")) == (5, 3)
    assert (value(third, "bit_size"), value(third, "data_member_location")) == (None, 4)


def test_functions_are_in_small_units_that_a_table_leads_to(tmp_path: Path) -> None:
    types = BtfBuilder()
    proto = types.proto(0, [])
    functions = [Function(0x400000 + 16 * number, 16, f"f{number}", proto, True) for number in range(130)]
    functions.insert(1, Function(0x400000, 0, "alias", proto, False))
    read = write(tmp_path / "out", types, functions)
    assert len(read.units) == 1 + 3
    ranges = read.info.get_aranges()
    for function in functions:
        unit = next(each for each in read.units if each.cu_offset == ranges.cu_offset_at_addr(function.address))
        names = [value(die, "name") for die in unit.get_top_DIE().iter_children()]
        assert function.name.encode() in names
    assert "DW_AT_low_pc" not in read.find("subprogram", "alias").attributes


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 200), st.integers(1, 64)), min_size=1, max_size=30))
def test_members_come_back(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int, int]]) -> None:
    types = BtfBuilder()
    kinds = [types.integer(f"int{size}", size) for size in (1, 2, 4, 8)] + [types.pointer(0), 0, 1, 4]
    members = [(f"m{number}", kinds[kind], 8 * place, 0) for number, (kind, place, _) in enumerate(rows)]
    bits = [(f"b{number}", kinds[3], place, size) for number, (_, place, size) in enumerate(rows)]
    types.compound("plain", 4096, members)
    types.compound("bits", 77, bits)
    read = write(tmp_path_factory.mktemp("dwarf") / "out", types, [])
    plain, packed = read.find("structure_type", "plain"), read.find("structure_type", "bits")
    assert (value(plain, "byte_size"), value(packed, "byte_size")) == (4096, 77)
    assert [(value(die, "name"), value(die, "data_member_location")) for die in plain.iter_children()] == [
        (name.encode(), offset // 8) for name, _, offset, _ in members
    ]
    assert [
        (value(die, "name"), value(die, "data_bit_offset"), value(die, "bit_size")) for die in packed.iter_children()
    ] == [(name.encode(), offset, size) for name, _, offset, size in bits]


@pytest.mark.parametrize(
    ("text", "room", "size"),
    [
        ("unsigned long", 8, 8),
        ("struct pair *[*]", 64, 64),
        ("const struct pair [*]", 64, 64),
        ("const unsigned long [65][*]", 65 * 8 * 4, 65 * 8 * 4),
        ("const char *const [*]", 24, 24),
        ("struct { int seq; struct pair pair; }", 0, 24),
        ("int [NR_THINGS]", 99, 28),
    ],
)
def test_declarations(text: str, room: int, size: int) -> None:
    types = BtfBuilder()
    u64, s32 = types.integer("long unsigned int", 8), types.integer("int", 4, 1)
    types.integer("char", 1, 1)
    pair = types.compound("pair", 16, [("a", s32, 0, 0), ("b", u64, 64, 0)])
    types.enum("", [("NR_THINGS", 7)])
    btf = Btf(types.build(), "little")
    unit = TypeUnit(btf, Strings(btf.string_section), Abbreviations())
    assert Declarer(btf, unit).resolve(text, room)[1] == size
    assert alignment(btf, pair) == 8


def test_hostile_references_end(tmp_path: Path) -> None:
    """Types that name themselves, or none that there is, become void or stay as they are: nothing runs away."""
    types = BtfBuilder()
    types.add(18, "tag", 0, 1)
    types.add(8, "loop", 0, 2)
    types.pointer(99)
    types.array(4, 1, 2)
    types.compound("s", 8, [("x", 999, 0, 0), ("y", 1, 0, 0), ("z", 4, 0, 0)], kflag=False)
    types.add(13, "", 1, 77, b"\xff" * 8)
    read = write(tmp_path / "out", types, [Function(0x400000, 1, "f", 6, False)])
    assert [value(die, "name") for die in read.find("structure_type", "s").iter_children()] == [b"x", b"y", b"z"]


@given(st.randoms(use_true_random=False))
def test_damaged_types_never_end_in_a_traceback(random: Random) -> None:
    types = BtfBuilder()
    u64, char = types.integer("long unsigned int", 8), types.integer("char", 1, 1)
    thing = types.compound("thing", 24, [("a", u64, 0, 0), ("b", u64, 64, 3), ("", 4, 128, 0)])
    types.compound("other", 8, [("c", char, 0, 0)], union=True, kflag=False)
    types.array(thing, u64, 4)
    types.enum("color", [("red", 0), ("blue", 7)], signed=True)
    types.add(8, "thing_t", 0, types.pointer(thing))
    proto = types.proto(u64, [("what", thing), ("", 0)])
    types.add(12, "do_it", 1, proto)
    data = bytearray(types.build())
    for _ in range(random.randint(1, 8)):
        data[random.randrange(24, len(data))] = random.choice((0, 1, 4, 0x7F, 0x80, 0xFF, random.randrange(256)))
    try:
        btf = Btf(bytes(data), "little")
        strings, shapes = Strings(btf.string_section), Abbreviations()
        unit = TypeUnit(btf, strings, shapes)
        Declarer(btf, unit).resolve("struct { int seq; struct thing thing; }", 64)
    except DumpError:
        return
    assert len(unit.section()) < 1 << 20
