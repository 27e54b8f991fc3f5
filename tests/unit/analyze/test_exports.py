# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables of exported symbols: every shape found, what contradicts kallsyms left out, damage survived."""

from __future__ import annotations

import random
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dumpconv.analyze.errors import MissingTable
from dumpconv.analyze.exports import MAX_SCAN, exported, exports_alone, find_exports
from dumpconv.analyze.kernel import Kernel
from dumpconv.analyze.sources import KernelSymbols
from dumpconv.formats import open_dump
from dumpconv.formats.errors import DumpError
from support import build_exports

VERBS = ("get", "put", "new", "kill", "add")
NOUNS = ("page", "dev", "key", "task", "inode", "timer", "irq", "queue", "list", "node", "lock", "map", "buf", "clk")
NAMES = sorted(f"{verb}_{noun}" for verb in VERBS for noun in NOUNS)
SHAPES = [
    pytest.param({"words": 3}, id="distances with namespaces"),
    pytest.param({"words": 2}, id="distances"),
    pytest.param({"words": 2, "relative": False}, id="addresses"),
    pytest.param({"words": 3, "relative": False}, id="addresses with namespaces"),
    pytest.param({"words": 3, "mark": ">"}, id="big-endian distances"),
    pytest.param({"words": 2, "relative": False, "mark": ">", "start": 0x100000}, id="s390x"),
    pytest.param({"words": 3, "relative": False, "word": 4, "start": 0xC0E00000}, id="arm"),
    pytest.param({"words": 2, "word": 4, "start": 0xC1000000}, id="i386"),
]


def found_in(image: build_exports.Image, shape: dict[str, object], raw: bytes | None = None) -> dict[bytes, int]:
    order = "big" if shape.get("mark") == ">" else "little"
    memory = image.memory(raw, word=int(str(shape.get("word", 8))), order=order)
    return exported(find_exports(memory, image.start, len(image.raw), image.functions)[0])


@pytest.mark.parametrize("shape", SHAPES)
def test_each_shape_is_found(shape: dict[str, object]) -> None:
    image = build_exports.build(NAMES, **shape)  # type: ignore[arg-type]
    assert found_in(image, shape) == {name.encode(): address for name, address in image.exports.items()}


def test_a_name_that_is_the_tail_of_another_counts() -> None:
    """The linker stores `task` inside `new_task`: no NUL stands before it."""
    image = build_exports.build(NAMES, tails={"get_task": "forget_task", "put_key": "output_key"})
    assert found_in(image, {})[b"get_task"] == image.exports["get_task"]
    assert len(found_in(image, {})) == len(NAMES)


def test_namespaces_are_told() -> None:
    image = build_exports.build(NAMES, namespaces={"get_page": "CRYPTO", "put_dev": "CXL"})
    found, how = find_exports(image.memory(), image.start, len(image.raw), image.functions)
    assert {each.name: each.namespace for each in found if each.namespace} == {
        b"get_page": b"CRYPTO",
        b"put_dev": b"CXL",
    }
    assert "3 words an entry" in how


def test_what_kallsyms_has_elsewhere_is_left_out() -> None:
    image = build_exports.build(NAMES)
    known = {**image.functions, NAMES[1].encode(): {0x1234}}
    found = exported(find_exports(image.memory(), image.start, len(image.raw), known)[0])
    assert NAMES[1].encode() not in found
    assert len(found) == len(NAMES) - 1


def test_a_table_that_kallsyms_knows_nothing_of_is_none() -> None:
    """Names beside addresses are common: commands, drivers, formats. Only functions tell exports from these."""
    image = build_exports.build(NAMES)
    with pytest.raises(MissingTable):
        find_exports(image.memory(), image.start, len(image.raw), {})
    wrong = {name: {address + 8 for address in places} for name, places in image.functions.items()}
    with pytest.raises(MissingTable):
        find_exports(image.memory(), image.start, len(image.raw), wrong)


@pytest.mark.parametrize("size", [0, MAX_SCAN + 1, -8])
def test_sizes_are_bounded(size: int) -> None:
    image = build_exports.build(NAMES)
    with pytest.raises(MissingTable):
        find_exports(image.memory(), image.start, size, image.functions)


@pytest.mark.parametrize("shape", SHAPES)
def test_damage_adds_no_wrong_function(shape: dict[str, object]) -> None:
    """Any bytes: an error of ours or a table of which no function is elsewhere than kallsyms has it."""
    image = build_exports.build(NAMES, **shape)  # type: ignore[arg-type]
    rng = random.Random(7)
    for _ in range(40):
        raw = bytearray(image.raw)
        for _ in range(rng.choice((1, 4, 64, 512))):
            raw[rng.randrange(len(raw))] = rng.choice((0, 0x41, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        try:
            found = found_in(image, shape, bytes(raw))
        except DumpError:
            continue
        for name, address in found.items():
            assert address in image.functions.get(name, {address})
            assert len(name) <= 512


# -- 2.4: no kallsyms, so that nothing can be checked against it ------------------------------------------------

ALONE = sorted([*(f"{name}_{number}" for name in NAMES for number in range(3)), "printk", "panic", "kfree"])
ROOM = 2 << 20  # the image ends behind what it exports
OLD: dict[str, object] = {"words": 2, "relative": False, "word": 4, "start": 0xC0100000}


@pytest.mark.parametrize("suffix", ["", "_R1b7d4074", "_Rsmp_dd132261"])
def test_exports_alone_are_the_large_table_that_has_what_all_kernels_export(suffix: str) -> None:
    image = build_exports.build([name + suffix for name in ALONE], **OLD)  # type: ignore[arg-type]
    found, how = exports_alone(image.memory(image.raw.ljust(ROOM, b"\0"), word=4), image.start, ROOM)
    assert found == {name.encode(): image.exports[name + suffix] for name in ALONE}
    assert f"{len(ALONE)} exports" in how


@pytest.mark.parametrize("names", [[name for name in ALONE if name != "printk"], [*NAMES, "printk", "panic", "kfree"]])
def test_a_table_of_something_else_is_none(names: list[str]) -> None:
    image = build_exports.build(names, **OLD)  # type: ignore[arg-type]
    with pytest.raises(MissingTable, match="no table of exported symbols"):
        exports_alone(image.memory(image.raw.ljust(ROOM, b"\0"), word=4), image.start, ROOM)


def test_between_exports_alone_nothing_is_named() -> None:
    """What lies behind an exported function may be of one that is not exported."""
    table = KernelSymbols(np.array([0xC0100000, 0xC0200000], np.uint64), [b"?printk", b"?panic"], 0x80000000)
    assert table.lookup(0xC0100010) == (table.find("printk"), 0x10)
    table.exports_only = True
    assert table.lookup(0xC0100000) == (table.find("printk"), 0)
    assert table.lookup(0xC0100010) is None


@pytest.mark.real
def test_exports_of_a_real_kernel_are_what_kallsyms_has(real_dir: Path) -> None:
    """x86_64 has them all in kallsyms too, so that every one can be checked."""
    kernel = Kernel(open_dump([str(real_dir / "vmcore.d31.zstd.kdump")]))
    table = kernel.symbols
    places: dict[bytes, set[int]] = {}
    for name, address in zip(table.names, table.addresses.tolist(), strict=True):
        places.setdefault(name[1:], set()).add(address)
    functions = {name[1:]: places[name[1:]] for name in table.names if name[:1] in b"tTW"}
    start, end = kernel.symbol("__start_rodata"), kernel.symbol("__end_rodata")
    found, _ = find_exports(kernel.memory, start, end - start, functions)
    assert len(found) == 9294  # lines of __ksymtab_ in this kernel's System.map
    assert [each.name for each in found if each.address not in places.get(each.name, ())] == []
    assert {b"init_task", b"nr_cpu_ids", b"jiffies_64", b"__per_cpu_offset"} <= {each.name for each in found}


def test_a_large_image_is_looked_through_piece_by_piece() -> None:
    """Its words led to places of 8 bytes each, all at once: more than a limit of 300 MB allows."""

    class Zeros:
        word = 8
        physical = SimpleNamespace(machine=SimpleNamespace(byteorder="little"))

        def read_sparse(self, start: int, size: int) -> tuple[bytes, list[tuple[int, int, str]]]:
            return bytes(size), []

    tracemalloc.start()
    try:
        with pytest.raises(MissingTable):
            find_exports(Zeros(), 0xFFFFFFFF81000000, 32 << 20, {})  # type: ignore[arg-type]
        assert tracemalloc.get_traced_memory()[1] < 4 * (32 << 20)
    finally:
        tracemalloc.stop()
