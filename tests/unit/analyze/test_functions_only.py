# SPDX-License-Identifier: GPL-2.0-or-later
"""A kernel whose kallsyms has functions only: a real one, with every other symbol taken out of its table.

What is found without them has to be what the whole table says.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dumpconv.analyze import kallsyms
from dumpconv.analyze.errors import MissingTable
from dumpconv.analyze.kernel import Kernel
from dumpconv.analyze.module_search import find_modules_head
from dumpconv.analyze.sources import per_cpu_variables, text_only
from dumpconv.analyze.symbols import SymbolTable
from dumpconv.formats import open_dump

START = 0xFFFFFFFF80000000


@pytest.fixture(scope="module")
def dump(real_dir: Path) -> Path:
    return real_dir / "vmcore.d31.zstd.kdump"


@pytest.fixture(scope="module")
def whole(dump: Path) -> Kernel:
    return Kernel(open_dump([str(dump)]))


@pytest.fixture(scope="module")
def bare(dump: Path) -> Kernel:
    decode = kallsyms.from_vmcoreinfo

    def functions(memory: Any, info: Any) -> kallsyms.RawSymbols:
        raw = decode(memory, info)
        kept = [index for index, name in enumerate(raw.names) if name[:1] in b"tTwW"]
        return kallsyms.RawSymbols(raw.addresses[kept], [raw.names[index] for index in kept], raw.how)

    kernel = Kernel(open_dump([str(dump)]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kallsyms, "from_vmcoreinfo", functions)
        assert kernel.symbols.functions_only
    return kernel


@pytest.mark.real
def test_tasks_and_modules_are_the_same(bare: Kernel, whole: Kernel) -> None:
    assert bare.symbols.address("modules") is None
    assert list(bare.tasks) == list(whole.tasks)
    assert [(each.name, each.base) for each in bare.modules] == [(each.name, each.base) for each in whole.modules]
    assert bare.cpus == whole.cpus
    assert bare.level[0] == "L2-"
    assert whole.level[0] == "L2"


@pytest.mark.real
def test_every_per_cpu_variable_is_where_it_was(bare: Kernel, whole: Kernel) -> None:
    found = per_cpu_variables(bare)
    assert len(found) > 300
    assert {name: whole.symbols.address(name) for name in found} == found
    assert bare.symbol("runqueues") == whole.symbol("runqueues")


@pytest.mark.real
def test_no_name_is_wrong(bare: Kernel, whole: Kernel) -> None:
    places: dict[bytes, set[int]] = {}
    for name, address in zip(whole.symbols.names, whole.symbols.addresses.tolist(), strict=True):
        places.setdefault(name[1:], set()).add(address)
    table = zip(bare.symbols.names, bare.symbols.addresses.tolist(), strict=True)
    wrong = [name for name, address in table if name[1:] in places and address not in places[name[1:]]]
    # VMCOREINFO names two things that are no symbols: what a pointer leads to, and a constant
    assert set(wrong) <= {b"?mem_section"}
    with pytest.raises(MissingTable, match="has functions only"):
        bare.symbol("tainted_mask")


@pytest.mark.parametrize(
    ("letters", "only"), [(b"tTwW", True), (b"tTwWdDbBrR", False), (b"t" * 400 + b"D", True), (b"T" * 10 + b"d", False)]
)
def test_when_a_table_has_functions_only(letters: bytes, only: bool) -> None:
    assert text_only([bytes([letter]) + b"name" for letter in letters]) is only


def some_kernel(exports: dict[str, int], rows: list[tuple[str, int, int, int]]) -> Any:
    names = [b"?" + name.encode() for name in exports]
    table = SymbolTable(np.array(list(exports.values()), np.uint64), names, START)
    return SimpleNamespace(symbols=table, btf=SimpleNamespace(section=lambda name: rows))


def test_where_per_cpu_variables_begin_is_what_most_exports_say() -> None:
    rows = [(f"v{number}", 1, 64 * number, 8) for number in range(6)]
    exports = {f"v{number}": START + 0x5000 + 64 * number for number in range(3)}
    assert per_cpu_variables(some_kernel({**exports, "v3": START}, rows))["v5"] == START + 0x5000 + 320
    with pytest.raises(MissingTable, match="do not agree"):
        per_cpu_variables(some_kernel({"v0": START, "v1": START + 0x100}, rows))
    with pytest.raises(MissingTable, match="in common"):
        per_cpu_variables(some_kernel({"other": START}, rows))


class Modules:
    """Modules in a row of pages, linked in a ring through a head in the kernel's image."""

    LIST, NAME, SIZE = 8, 24, 0x1000

    def __init__(self, names: list[bytes]) -> None:
        self.area, self.head = 0xFFFFFFFFC0000000, START + 0x2000
        self.words: dict[int, int] = {}
        self.names = {self.area + self.SIZE * index: name for index, name in enumerate(names)}
        ring = [self.head, *(place + self.LIST for place in self.names)]
        for index, entry in enumerate(ring):
            self.words[entry] = ring[(index + 1) % len(ring)]
            self.words[entry + 8] = ring[index - 1]

    def kernel(self) -> Any:
        def read(vaddr: int, size: int) -> bytes:
            if size == 8:
                return self.words.get(vaddr, 0).to_bytes(8, "little")
            page = bytearray(size)
            for place, name in self.names.items():
                if vaddr <= place < vaddr + size:
                    page[place - vaddr + self.NAME : place - vaddr + self.NAME + len(name)] = name
            for place, value in self.words.items():
                if vaddr <= place < vaddr + size:
                    page[place - vaddr : place - vaddr + 8] = value.to_bytes(8, "little")
            return bytes(page)

        def translate(vaddr: int) -> int:
            if not self.area <= vaddr < self.area + self.SIZE * len(self.names):
                raise MissingTable("not mapped")
            return vaddr

        memory = SimpleNamespace(
            word=8, read=read, translate=translate, translator=None,
            pointer=lambda vaddr: int.from_bytes(read(vaddr, 8), "little"),
        )  # fmt: skip
        fields = {"state": (0, 4, False), "list": (self.LIST, 16, False), "name": (self.NAME, 56, False)}
        structs = SimpleNamespace(
            field=lambda _, name: fields[name], offset=lambda _, name: fields[name][0],
            string=lambda place, *_: self.names.get(place, b""),
        )  # fmt: skip
        symbols = SimpleNamespace(addresses=np.array([START, START + 0x4000], np.uint64))
        machine = SimpleNamespace(arch="x86_64", page_size=4096, word_size=8, byteorder="little")
        bounds = {"MODULES_VADDR": self.area, "MODULES_END": self.area + 0x20000}
        info = SimpleNamespace(number=bounds.get)
        return SimpleNamespace(
            memory=memory, structs=structs, symbols=symbols, machine=machine, info=info, kernel_start=START
        )


def test_the_head_of_the_list_of_modules_is_the_one_in_the_image() -> None:
    assert find_modules_head(Modules([b"ext4", b"virtio"]).kernel()) == START + 0x2000


@pytest.mark.parametrize("spoil", ["no way back", "no head", "circle", "two heads", "nothing"])
def test_a_list_that_does_not_hold_together_has_none(spoil: str) -> None:
    made = Modules([b"ext4", b"virtio"] if spoil != "nothing" else [])
    first, second = made.area + made.LIST, made.area + made.SIZE + made.LIST
    if spoil == "no way back":
        made.words[second + 8] = made.head
        made.words[first + 8] = second
    elif spoil == "no head":
        made.words.update({second: first, first + 8: second})
    elif spoil == "circle":
        made.words.update({second: second, second + 8: second})
        made.words[first] = second
    elif spoil == "two heads":
        other = made.head + 0x100
        made.words.update({second: other, other: made.head, other + 8: second, made.head + 8: other})
    with pytest.raises(MissingTable):
        find_modules_head(made.kernel())
