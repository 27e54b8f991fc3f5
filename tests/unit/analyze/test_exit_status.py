# SPDX-License-Identifier: GPL-2.0-or-later
"""The exit status of commands on dumps that are cut off, damaged or incomplete: docs/exit-codes.md, "Analyzing"."""

from __future__ import annotations

import importlib.util
import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
from unit.analyze.fake_kernel import FakeKernel
from unit.analyze.test_log import FINALIZED, Prb, characters, one, records_ring

from dumpconv.analyze.answer import answer
from dumpconv.analyze.errors import Unreadable
from dumpconv.analyze.kernel import Kernel
from dumpconv.analyze.log import read_log
from dumpconv.analyze.system_map import load_system_map
from dumpconv.cli import worst
from dumpconv.formats import open_dump
from dumpconv.formats.errors import UsageError
from support import small_kernel
from support.command import dumpconv
from support.small_kernel import CODE, DATA, SmallKernel

RAM = 0x13A00000
BAD = DATA
CODE_PAGE = b"\x90" * 127 + b"\xc3"
WHOLE, CUT, DAMAGED, INCOMPLETE = "whole", "cut", "damaged", "incomplete"


@pytest.fixture(scope="module")
def dumps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SmallKernel]:
    folder = tmp_path_factory.mktemp("status")
    make = {
        WHOLE: {"damaged": frozenset[int]()},
        CUT: {},
        DAMAGED: {"damaged": frozenset({BAD})},
        INCOMPLETE: {"damaged": frozenset[int](), "missing": frozenset({BAD}), "status": 8},
    }
    found = {}
    for name, how in make.items():
        options: dict[str, Any] = {"code": CODE_PAGE, "symbols": {"variable": BAD + 8}, **how}
        found[name] = small_kernel.write(folder / name, **options)
    with open(found[CUT].dump, "r+b") as file:  # an ELF file that ends before the page
        file.truncate(os.path.getsize(found[CUT].dump) - 512 * 4096 + BAD)
    return found


def opened(small: SmallKernel) -> Kernel:
    kernel = Kernel(open_dump([str(small.dump)]))
    kernel.system_map = load_system_map(str(small.map), 8)
    return kernel


def asked(small: SmallKernel, *words: str, kernel: Kernel | None = None) -> tuple[list[str], list[str], set[int]]:
    result = answer(kernel or opened(small), words)
    return list(result.lines), result.complaints, set(result.exit_codes)


READS_BAD = (
    ("rd", "-p", f"{RAM + BAD:x}"),
    ("rd", "variable"),
    ("dis", "variable", "1"),
    ("search", "-c", "no such string anywhere"),
)
READS_GOOD = (("rd", "-p", f"{RAM + CODE:x}"), ("sym", "first"), ("vtop", "first"))


@pytest.mark.parametrize("words", READS_BAD)
@pytest.mark.parametrize(("which", "code"), [(CUT, 3), (DAMAGED, 3), (INCOMPLETE, 4)])
def test_what_meets_a_bad_page_says_so(
    dumps: dict[str, SmallKernel], which: str, code: int, words: tuple[str, ...]
) -> None:
    _, complaints, codes = asked(dumps[which], *words)
    assert worst(codes) == code
    if which == DAMAGED:
        frame = (RAM + BAD) >> 12
        assert any(
            f"1 page is damaged or cut off: the first is pfn {frame:#x}, damaged: " in each for each in complaints
        )
        assert any("`dumpverify vmcore` shows all" in each for each in complaints)
    if which == CUT:
        assert any("needs file bytes up to" in each for each in complaints)
        assert not any("--salvage" in each for each in complaints)
    if which == INCOMPLETE:
        assert any("marked it as incomplete" in each for each in complaints)


@pytest.mark.parametrize("words", READS_GOOD)
def test_what_meets_no_bad_page_is_whole(dumps: dict[str, SmallKernel], words: tuple[str, ...]) -> None:
    for which in (WHOLE, DAMAGED):
        lines, complaints, codes = asked(dumps[which], *words)
        assert lines
        assert (complaints, codes) == ([], set())


@pytest.mark.parametrize("words", READS_GOOD)
def test_a_dump_whose_reader_says_that_it_is_not_whole_is_never_answered_with_0(
    dumps: dict[str, SmallKernel], words: tuple[str, ...]
) -> None:
    for which, code in ((CUT, 3), (INCOMPLETE, 4)):
        lines, complaints, codes = asked(dumps[which], *words)
        assert lines
        assert len(complaints) == 1
        assert codes == {code}


def test_the_program_exits_with_it_and_prints_what_there_is(dumps: dict[str, SmallKernel], tmp_path: Path) -> None:
    for which, code in ((CUT, 3), (DAMAGED, 3), (INCOMPLETE, 4), (WHOLE, 0)):
        small = dumps[which]
        for words in (["info"], ["report", "--tail", "1"], ["rd", "-p", f"{RAM + BAD - 16:x}", "4"]):
            done = dumpconv("analyze", small.dump, "--system-map", small.map, *words)
            assert done.returncode == code, (which, words, done.stderr)
            assert done.stdout
    # what the writer left out by its own word is no damage, whether the map says it or a descriptor of zeros
    path = small_kernel.write(tmp_path, damaged=frozenset(), incomplete_from=RAM + CODE)
    for words in (["report"], ["rd", "-p", f"{RAM + CODE:x}"]):
        assert dumpconv("analyze", path.dump, *words).returncode == 4
    # an error that leaves nothing to print: what was met counts all the same
    small = dumps[CUT]
    done = dumpconv("analyze", small.dump, "--system-map", small.map, "ps", "--json")
    assert done.returncode == 3
    report = json.loads(done.stdout)
    assert report["result"] in (None, [])
    assert report["complaints"]
    # words that make no sense stay words that make no sense
    assert dumpconv("analyze", small.dump, "nosuch").returncode == 2


def test_at_a_prompt_the_dump_is_told_about_once(dumps: dict[str, SmallKernel]) -> None:
    kernel = opened(dumps[CUT])
    first, second = (asked(dumps[CUT], "sym", "first", kernel=kernel) for _ in range(2))
    assert (len(first[1]), len(second[1])) == (1, 0)
    assert first[2] == second[2] == {3}


def test_wrong_words_are_no_answer(dumps: dict[str, SmallKernel]) -> None:
    with pytest.raises(UsageError):
        asked(dumps[DAMAGED], "nosuch")
    with pytest.raises(UsageError):  # said while lines are made
        asked(dumps[DAMAGED], "vtop", "no_such_symbol")


@pytest.mark.skipif(importlib.util.find_spec("drgn") is None, reason="drgn is not installed")
def test_pages_that_drgn_met_count(dumps: dict[str, SmallKernel]) -> None:
    kernel = opened(dumps[DAMAGED])
    from dumpconv.analyze.through_drgn import _said

    with pytest.raises(Unreadable):
        kernel.physical.read(RAM + BAD, 8)
    message, met = json.loads(_said(kernel, "last words"))
    assert message == "last words"
    assert met == [[(RAM + BAD) >> 12, 3, met[0][2]]]
    assert met[0][2].startswith("damaged: ")


# -- the log: what can be read of it ----------------------------------------------------------------------------


def test_records_whose_pages_are_not_there_are_left_out() -> None:
    prb = Prb("x86_64")
    for number in range(4):
        prb.record(number, FINALIZED, 16 * number, 16 * number + 16, b"text %d" % number, sequence=number)
    info = prb.ring(0, 3)
    # the descriptors go on in a page that is not in the dump
    edge = prb.descs + 0x1000 - 48
    kernel: FakeKernel = prb.kernel
    kernel.write(edge, kernel.memory.read(prb.descs, 48))
    ring = prb.at + 0x100
    kernel.write(ring + 8, struct.pack("<Q", edge))
    del kernel.physical.pages[(prb.descs + 0x1000 - kernel.base) >> 12]
    kernel.write(ring + 16, struct.pack("<Q", prb.infos + 0x4000))
    for number in range(4):
        kernel.write(prb.infos + 0x4000 + 88 * number, struct.pack("<QQHBBI", number, number, 6, 0, 0xC0, 0))
    complaints: list[str] = []
    assert [each.text for each in read_log(kernel.memory, info, complaints)] == [b"text 0", b"text 1"]
    assert complaints == [
        f"2 parts of the log cannot be read: memory at {edge + 48:#x} cannot be read: not in the dump"
    ]
    with pytest.raises(Unreadable):
        read_log(kernel.memory, info)


def test_the_records_before_a_page_that_is_not_there_are_shown() -> None:
    record = one("<", 1, b"first")
    kernel, info = records_ring("x86_64", "printk_log", [(0, record), (len(record), record)], first=0, following=9999)
    at = kernel.base + 0x11000 - len(record)
    kernel.write(kernel.base + 0x10000, struct.pack("<Q", at))
    kernel.write(kernel.base + 0x10008, struct.pack("<I", 1 << 14))
    kernel.write(at, record)
    complaints: list[str] = []
    assert [each.text for each in read_log(kernel.memory, info, complaints)] == [b"first"]
    assert complaints == [
        f"a part of the log cannot be read: memory at {at + len(record):#x} cannot be read: not in the dump: "
        f"{9999 - len(record)} bytes of records from {len(record):#x} of the buffer on"
    ]


def test_characters_on_both_sides_of_a_page_that_is_not_there_are_shown() -> None:
    kernel, info = characters("i386", b"x", 3 * 4096)
    at = kernel.base + 0x12000
    kernel.write(kernel.base + 0x10000, struct.pack("<I", at))
    kernel.write(kernel.base + 0x10008, struct.pack("<I", 3 * 4096))
    kernel.write(at, b"<6>before\n" * 409)
    kernel.write(at + 8192, b"<4>behind\n" * 409 + b"<0>end")
    complaints: list[str] = []
    texts = [each.text for each in read_log(kernel.memory, info, complaints)]
    assert texts.count(b"before") == 409
    assert texts.count(b"behind") == 409
    assert complaints == [f"a part of the log cannot be read: memory at {at + 4096:#x} cannot be read: not in the dump"]
    with pytest.raises(Unreadable):
        read_log(kernel.memory, info)
