# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables of a kernel that are made to lead astray: types in circles, huge numbers, lists in lists, wrong words.

Each was a traceback, a loop without end, or memory without bound. The expected words are those of the errors' rules:
one line that says what and both values.
"""

from __future__ import annotations

import argparse
import struct
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from unit.analyze.fake_kernel import FakeKernel

from dumpconv.analyze.answer import answer
from dumpconv.analyze.btf import Btf
from dumpconv.analyze.clock import boot_time
from dumpconv.analyze.commands import Result, printable
from dumpconv.analyze.commands.struct import _layout
from dumpconv.analyze.commands.task import _lines as task_lines
from dumpconv.analyze.declare import declaration, values
from dumpconv.analyze.errors import MissingTable
from dumpconv.analyze.kallsyms import decode_names
from dumpconv.analyze.kernel import Kernel
from dumpconv.analyze.modules import Modules
from dumpconv.analyze.scan import _Scan
from dumpconv.analyze.symbols import SymbolTable
from dumpconv.analyze.system_map import load_system_map
from dumpconv.analyze.table_search import _end_of
from dumpconv.analyze.tasks import Tasks
from dumpconv.analyze.vmlinux.variables import alignment
from dumpconv.formats import open_dump
from dumpconv.formats.errors import UsageError
from dumpconv.formats.vmcoreinfo import VmcoreInfo
from support import small_kernel
from support.build_btf import BtfBuilder
from support.command import dumpconv, environment, one_line
from support.small_kernel import CODE, DATA, SmallKernel

RAM = 0x13A00000


# -- types --------------------------------------------------------------------------------------------------------


def test_a_function_type_that_takes_itself_a_hundred_times_is_given_up() -> None:
    builder = BtfBuilder()
    pointer = builder.pointer(2)  # to the next one
    builder.proto(0, [(f"a{number}", pointer) for number in range(100)])
    begin = time.monotonic()
    with pytest.raises(MissingTable, match="a type of more than 65536 parts"):
        declaration(Btf(builder.build(), "little"), pointer)
    assert time.monotonic() - begin < 5


def test_a_structure_of_such_members_is_given_up_as_a_whole() -> None:
    builder = BtfBuilder()
    parameters = [(f"a{number}", 1) for number in range(1000)]
    builder.integer("int", 4)
    proto = builder.proto(1, parameters)
    pointer = builder.pointer(proto)
    builder.compound("s", 8, [(f"m{number}", pointer, 0, 0) for number in range(1000)])
    btf = Btf(builder.build(), "little")
    found = btf.find("s")
    assert found is not None
    with pytest.raises(MissingTable, match="more than 65536 parts"):
        _layout(btf, found, "", argparse.Namespace(offsets=False))


def test_anonymous_structures_within_each_other_are_looked_through_once() -> None:
    builder = BtfBuilder()
    builder.compound("s", 8, [("", 1 + number, 0, 0) for number in range(60)])
    for _ in range(60):  # each has all the others, and itself
        builder.compound("", 8, [("", 1 + number, 0, 0) for number in range(60)])
    btf = Btf(builder.build(), "little")
    begin = time.monotonic()
    assert not btf.has("s", "member")
    assert time.monotonic() - begin < 5


def test_the_alignment_of_structures_within_each_other_is_looked_for_once() -> None:
    builder = BtfBuilder()
    builder.integer("int", 4)
    for number in range(40):
        builder.compound(f"s{number}", 8, [("", 1, 0, 0), *(("m", 2 + other, 0, 0) for other in range(40))])
    begin = time.monotonic()
    assert alignment(Btf(builder.build(), "little"), 2) == 4
    assert time.monotonic() - begin < 5


def test_arrays_of_arrays_of_nothing_are_given_up() -> None:
    builder = BtfBuilder()
    builder.compound("empty", 0, [])
    builder.integer("int", 4)
    for number in range(3):
        builder.array(1 if number == 0 else 2 + number, 2, 4096)
    kernel = FakeKernel("x86_64", 0xFFFF888000000000, {"f": 0xFFFF888000001000})
    kernel.physical.write(0, b"x")
    with pytest.raises(MissingTable, match="more than 262144 values"):
        values(Btf(builder.build(), "little"), kernel.memory, 5, kernel.base)


def test_integers_of_kilobytes_are_none() -> None:
    kernel = FakeKernel("x86_64", 0xFFFF888000000000, {"f": 0xFFFF888000001000})
    kernel.physical.write(0, b"\xff" * 4096)
    with pytest.raises(MissingTable, match="an integer of 4000 bytes"):  # Python prints none of so many digits
        kernel.memory.integer(kernel.base, 4000)
    builder = BtfBuilder()
    number = builder.integer("long long int", 4000, encoding=1)
    with pytest.raises(MissingTable, match="of 4000 bytes"):
        values(Btf(builder.build(), "little"), kernel.memory, number, kernel.base)


def test_names_and_types_without_end_are_refused() -> None:
    builder = BtfBuilder()
    builder.integer("i" * 5000, 4)
    with pytest.raises(MissingTable, match="does not end within 1024 bytes"):
        Btf(builder.build(), "little").type(1)
    many = struct.pack("<III", 0, 7 << 24, 0) * (1 << 20)
    head = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(many), len(many), 1)
    with pytest.raises(MissingTable, match="more than 1048575 types"):
        Btf(head + many + b"\0", "little")
    names = bytes((1 << 22) + 2)
    head = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, 0, 0, len(names))
    with pytest.raises(MissingTable, match="more than 4194304 names"):
        Btf(head + names, "little").find("task_struct")


def test_a_modules_array_of_its_kernels_types_is_read_where_it_is() -> None:
    builder = BtfBuilder()
    number = builder.integer("int", 4)
    array = builder.array(number, number, 7)
    proto = builder.proto(number, [("a", number)])
    base = Btf(builder.build(), "little")
    more = BtfBuilder()
    more.compound("of_module", 28, [("member", array, 0, 0)])
    data = bytearray(more.build())
    struct.pack_into("<I", data, 24, base.string_size + 1)  # the name offsets go on from the kernel's
    struct.pack_into("<I", data, 36, base.string_size + 11)
    btf = Btf(bytes(data), "little", base)
    assert btf.array(btf.type(array)) == (number, 7)
    assert btf.parameters(btf.type(proto)) == [("a", number)]
    assert btf.size_of(array) == 28


# -- symbols --------------------------------------------------------------------------------------------------------


def test_names_that_grow_without_end_are_refused() -> None:
    words = [b"x" * 64] * 256
    with pytest.raises(MissingTable, match="go past their end, or are no names"):
        decode_names((b"\x7f" + bytes(127)) * 1000, 1000, words, big=False)


def test_a_name_length_cut_off_at_the_tables_end_is_no_name() -> None:
    scan = object.__new__(_Scan)
    scan._tokens = [b"a"] * 256
    names = b"\x01a" * 255 + b"\x80"  # the second byte of the last length would lie behind the end
    assert scan._decode(names, 257, np.array([0, 510]), True) is None


def test_a_million_symbols_at_one_address_are_not_all_looked_at() -> None:
    count = 1 << 19
    table = SymbolTable(np.full(count, 0xFFFFFFFF81000000, np.uint64), [b"tf"] * count, 1 << 63)
    begin = time.process_time()
    assert table.lookup(0xFFFFFFFF81000001) is not None
    assert time.process_time() - begin < 0.5


# -- modules, tasks -------------------------------------------------------------------------------------------------


class _Structs:
    # members by (structure, path), addresses of lists by head
    def __init__(self, **more: Any) -> None:
        self.__dict__.update(more)

    def get(self, address: int, structure: str, path: str) -> int:
        return 1

    def string(self, address: int, structure: str, path: str) -> bytes:
        return b"name"


def test_module_memory_in_steps_of_nothing_is_complained_about() -> None:
    structs = _Structs(
        first=lambda structure, *paths: "mem" if "mem" in paths else None,
        field=lambda structure, path: (0, 1 << 32, False),
        size=lambda structure: 0,
        list=lambda *words: iter([0x1000]),
    )
    kernel: Any = SimpleNamespace(structs=structs, symbol=lambda name: 0)
    modules = Modules(kernel)
    assert list(modules) == []
    assert modules.complaints == ["module 0x1000: module memory of 4294967296 bytes in steps of 0"]


def test_leaders_that_share_one_list_of_threads_end() -> None:
    leaders, threads = range(0x1000, 0x1000 + 4000), range(0x100000, 0x100000 + 20000)
    walked = 0

    def entries(head: int, structure: str, path: str) -> Any:
        nonlocal walked
        for each in leaders if path == "tasks" else threads:
            walked += 1
            yield each

    structs = _Structs(
        first=lambda structure, *paths: paths[0],
        offset=lambda structure, path: 0,
        list=entries,
    )
    kernel: Any = SimpleNamespace(structs=structs, symbol=lambda name: 0, per_cpu=lambda name: [])
    tasks = Tasks(kernel)
    assert len(list(tasks.addresses())) < 25000
    assert walked < 100000
    assert tasks.complaints == ["list of tasks: the list of tasks does not end"]


# -- VMCOREINFO -------------------------------------------------------------------------------------------------------


def test_addresses_of_more_than_64_bits_are_none() -> None:
    info = VmcoreInfo(b"SYMBOL(a)=-1\nSYMBOL(b)=10000000000000000\nSYMBOL(c)=ffffffffffffffff\n")
    assert (info.symbol("a"), info.symbol("b"), info.symbol("c")) == (None, None, 0xFFFFFFFFFFFFFFFF)


@pytest.mark.parametrize("said", ["9" * 14, "9" * 5000, "0", "-5"])
def test_a_crash_in_the_year_three_million_is_no_time(said: str) -> None:
    log = [SimpleNamespace(ns=10**9)]
    kernel: Any = SimpleNamespace(info=VmcoreInfo(f"CRASHTIME={said}\n".encode()), log=log)
    kernel.structs = None

    def symbol(name: str) -> int:
        raise MissingTable("none")

    kernel.symbol = symbol
    with pytest.raises(MissingTable, match="no CRASHTIME"):
        boot_time(kernel)


def test_a_release_of_digits_is_no_version() -> None:
    kernel = object.__new__(Kernel)
    kernel._searched, kernel._info = True, VmcoreInfo(b"OSRELEASE=" + b"9" * 9000 + b".1\n")
    assert len(str(kernel.version[0])) <= 64
    kernel._info = VmcoreInfo(b"OSRELEASE=6.1.0-56-cloud-amd64\n")
    assert kernel.version == (6, 1)


# -- what people type -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallKernel:
    data = bytes(0xFF8) + b"over the" + b" edge of the page".ljust(4096, b"\0")
    return small_kernel.write(
        tmp_path_factory.mktemp("typed"), code=b"\x90\xc3", data=data, symbols={"variable": DATA, "\udcff": CODE}
    )


@pytest.fixture(scope="module")
def kernel(small: SmallKernel) -> Kernel:
    found = Kernel(open_dump([str(small.dump)]))
    found.system_map = load_system_map(str(small.map), 8)
    return found


def run(kernel: Kernel, *words: str) -> Result:
    result = answer(kernel, words)
    result.lines = list(result.lines)
    return result


@pytest.mark.parametrize(
    "words",
    [
        ("rd", "f" * 20),
        ("dis", "f" * 20),
        ("vtop", "variable+-99999999999999999999999"),
        ("rd", "variable", "abc"),
        ("rd", "variable", "0"),
        ("rd", "-e", "10", "variable"),
        ("search", "-s", "variable", "-l", "zz", "1"),
        ("search", "-s", "variable", "-l", "-9", "1"),
        ("search", "-s", "variable", "-e", "f" * 22, "1"),
        ("search", "-x", "0", "1"),
        ("search", "-c", ""),
    ],
)
def test_words_that_make_no_sense_are_told_as_such(kernel: Kernel, words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError):
        run(kernel, *words)


def test_a_symbol_of_more_than_64_bits_is_none(kernel: Kernel) -> None:
    assert run(kernel, "sym", "f" * 20).complaints == ["f" * 20 + ": no symbol, and no address of one"]


def test_words_that_are_no_text_are_bytes(small: SmallKernel) -> None:
    common = ("analyze", small.dump, "--system-map", small.map)
    done = dumpconv(*common, "sym", "\udcff")
    assert done.returncode == 0
    assert b"\\xff" in done.stdout
    assert dumpconv(*common, "search", "-c", "\udcff\udcfe\udcff").returncode == 1
    done = dumpconv(*common, "rd", "esc\x1b[31m\udcff")
    assert done.returncode == 2
    assert "esc\\x1b[31m" in one_line(done)


def test_what_lies_across_two_pages_is_found_once(kernel: Kernel, small: SmallKernel) -> None:
    place = RAM + DATA + 0xFF8
    for text in ("over the edge", "the edge of"):
        found = run(kernel, "search", "-c", text)
        assert [row["address"] for row in found.data] == [f"{place + 'over the edge of'.index(text):#x}"]
    start = small.text + DATA
    found = run(kernel, "search", "-s", f"{start:x}", "-l", "8192", "-c", "the edge", "-c", "over")
    assert [row["address"] for row in found.data] == [f"{start + 0xFF8:#x}", f"{start + 0xFFD:#x}"]
    # a large range is that of what is mapped in it
    found = run(kernel, "search", "-s", f"{start - (5 << 30):x}", "-e", f"{start + 8192:x}", "-c", "the edge")
    assert [row["address"] for row in found.data] == [f"{start + 0xFFD:#x}"]


def test_what_is_not_there_is_said(kernel: Kernel) -> None:
    assert run(kernel, "search", "-c", "nowhere").complaints == ["search: not found"]


# -- terminals --------------------------------------------------------------------------------------------------------


def test_names_cannot_make_lines_or_colours() -> None:
    assert printable(b"a\nPID: 1\x1b[2J\xe2\x80\xae") == "a\\x0aPID: 1\\x1b[2J\\x202e"
    assert printable("a\tb\n", "\n\t") == "a\tb\n"
    result = Result()
    result.complain("symbols of module evil\x1b]0;title\x07: gone")
    assert result.complaints == ["symbols of module evil\\x1b]0;title\\x07: gone"]


def test_no_line_of_a_report_has_them(small: SmallKernel) -> None:
    name = small.dump.with_name("x\udcff\x1b[31m")
    name.write_bytes(small.dump.read_bytes())
    for verb in ("info", "map", "compare"):
        done = dumpconv(
            verb, name, *([small.dump] if verb == "compare" else []), env=environment(PYTHONIOENCODING="utf-8")
        )
        assert (done.returncode, done.stderr) == (0, b"")
        assert b"\x1b" not in done.stdout
    done = dumpconv("info", name)
    assert b"x\\udcff\\x1b[31m" in done.stdout
    made = small.dump.with_name("made")
    assert dumpconv(small.dump, made).returncode == 0
    data = made.read_bytes()
    said = b'"format":"elf","salvaged"'
    assert said in data  # in the provenance note, which is JSON
    made.write_bytes(data.replace(said, b'"format":"\\u001b[m","salv"'))
    done = dumpconv("info", made)
    assert b"\\x1b[m by dumpconv" in done.stdout


def test_no_line_on_standard_error_has_them(tmp_path: Path) -> None:
    done = dumpconv("info", tmp_path / "no\x1b[31m\udcff")
    assert "no\\x1b[31m\\udcff" in one_line(done)


@pytest.mark.parametrize(("pfn", "end"), [(1 << 20, 1 << 32), (1 << 52, (1 << 64) - 1), (1 << 60, (1 << 64) - 1)])
def test_the_end_of_memory_is_within_64_bits(pfn: int, end: int) -> None:
    """Where headers say that memory reaches it, the search for page tables was an OverflowError in all commands."""
    physical: Any = SimpleNamespace(memory_map=SimpleNamespace(end_pfn=pfn), machine=SimpleNamespace(page_shift=12))
    assert int(_end_of(physical)) == end


def test_task_where_its_structure_is_none() -> None:
    """Members were found in a union of that name; a structure is what would be printed."""
    kernel: Any = SimpleNamespace(btf=SimpleNamespace(find=lambda *words: None), memory=None)
    with pytest.raises(MissingTable, match="no struct task_struct"):
        list(task_lines(kernel, [], [], Result()))
