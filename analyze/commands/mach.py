# SPDX-License-Identifier: GPL-2.0-or-later
"""`mach`: what the machine is like, in crash's lines; -m its memory map, -c its processors."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any

from ...formats.errors import DumpError, UsageError
from ...formats.pages import PageState
from ..clock import ticks_per_second
from ..declare import value_lines, values
from ..direct_map import page_offset
from ..errors import MissingTable
from ..kernel import Kernel
from . import Result, printable
from .sys import cpu_count

_MAX_RANGES = 4096
_MAX_RESOURCES = 1 << 14
# x86: what firmware says of memory
_E820 = {1: "E820_RAM", 2: "E820_RESERVED", 3: "E820_ACPI", 4: "E820_NVS", 5: "E820_UNUSABLE", 7: "E820_PMEM"}
_STACKS = {
    "DF_stack": "DOUBLEFAULT", "NMI_stack": "NMI", "DB_stack": "DEBUG", "MCE_stack": "MCE", "VC_stack": "VC",
}  # fmt: skip
_PROCESSORS = {"x86_64": ("cpuinfo_x86", "cpu_info"), "i386": ("cpuinfo_x86", "cpu_info"),
               "aarch64": ("cpuinfo_arm64", "cpu_data"), "arm": ("cpuinfo_arm", "cpu_data")}  # fmt: skip

Row = tuple[str, Callable[[Kernel], Any]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("-m", dest="memory", action="store_true", help="the map of physical memory")
    which.add_argument("-c", dest="processors", action="store_true", help="what the kernel knows of each processor")


def run(kernel: Kernel, args: argparse.Namespace) -> Result:
    """Print what is known; what is not is left out and complained about."""
    if args.memory:
        return _memory_map(kernel)
    if args.processors:
        return _processors(kernel)
    result, rows = Result(), []
    for title, function in _rows(kernel):
        try:
            value = function(kernel)
        except DumpError as error:
            result.complain(f"{title}: {error.message}")
            continue
        if value is not None:
            rows.append((title, value))
    result.data = {title.lower().replace(" ", "_"): value for title, value in rows}
    result.lines = _lines(rows)
    return result


def _lines(rows: list[tuple[str, Any]]) -> Iterator[str]:
    for title, value in rows:
        if isinstance(value, dict):
            yield f"{title:>22}:"
            for cpu, address in value.items():
                yield f"{f'CPU {cpu}':>22}: {address.removeprefix('0x')}"
        else:
            yield f"{title:>22}: {printable(str(value)).removeprefix('0x')}"


def _known(value: Any) -> Callable[[Kernel], Any]:
    return lambda _: value


def _rows(kernel: Kernel) -> list[Row]:
    rows: list[Row] = [
        ("MACHINE TYPE", lambda each: each.machine.arch),
        ("MEMORY SIZE", _memory_size),
        ("CPUS", cpu_count),
        ("PROCESSOR SPEED", _speed),
        ("HZ", ticks_per_second),
        ("PAGE SIZE", lambda each: each.page_size),
        ("KERNEL VIRTUAL BASE", lambda each: f"{page_offset(each)[0]:#x}"),
    ]
    if kernel.machine.arch == "x86_64":
        rows += [
            ("KERNEL VMALLOC BASE", lambda each: _base(each, "vmalloc_base")),
            ("KERNEL VMEMMAP BASE", lambda each: _base(each, "vmemmap_base")),
            ("KERNEL START MAP", _known("0xffffffff80000000")),
            ("KERNEL MODULES BASE", _known("0xffffffffc0000000")),
        ]
    else:
        for title, key in (
            ("KERNEL VMALLOC BASE", "VMALLOC_START"),
            ("KERNEL VMEMMAP BASE", "VMEMMAP_START"),
            ("KERNEL MODULES BASE", "MODULES_VADDR"),
        ):
            value = kernel.info.number(key)
            if value is not None:
                rows.append((title, _known(f"{value & 0xFFFFFFFFFFFFFFFF:#x}")))
    rows.append(("KERNEL STACK SIZE", lambda each: each.stack_size))
    if kernel.machine.arch == "x86_64":
        rows.append(("IRQ STACK SIZE", _known(16384)))
        rows.append(("IRQ STACKS", _irq_stacks))
        rows += _exception_stacks(kernel)
    return rows


def _memory_size(kernel: Kernel) -> str:
    frames = kernel.present_pages
    if frames is None:
        frames = sum(kernel.physical.memory_map.count(state) for state in PageState if state != PageState.HOLE)
        return f"{frames * kernel.machine.page_size / (1 << 20):.0f} MB"
    size = frames * kernel.page_size
    return f"{size / (1 << 30):.1f} GB" if size >= 1 << 30 else f"{size / (1 << 20):.1f} MB"


def _speed(kernel: Kernel) -> str | None:
    if kernel.machine.arch not in ("x86_64", "i386"):
        return None
    return f"{kernel.memory.u32(kernel.symbol('cpu_khz')) // 1000} Mhz"


def _base(kernel: Kernel, name: str) -> str:
    return f"{kernel.memory.u64(kernel.symbol(name)):#x}"


def _irq_stacks(kernel: Kernel) -> dict[str, str]:
    # the pointer is to the top of the stack, less a word
    top = next((name for name in ("hardirq_stack_ptr", "irq_stack_ptr") if kernel.find(name) is not None), None)
    if top is not None:
        return {
            str(cpu): f"{(kernel.memory.pointer(address) + 0xFFF & ~0xFFF) - 16384:#x}"
            for cpu, address in kernel.per_cpu(top)
        }
    offset = kernel.structs.offset("pcpu_hot", "hardirq_stack_ptr")  # 6.2 to 6.14
    return {
        str(cpu): f"{(kernel.memory.pointer(address + offset) + 0xFFF & ~0xFFF) - 16384:#x}"
        for cpu, address in kernel.per_cpu("pcpu_hot")
    }


def _exception_stacks(kernel: Kernel) -> list[Row]:
    # 5.1 and later: one structure for each processor, with a page between two stacks
    rows: list[Row] = []
    try:
        found = kernel.btf.find("cea_exception_stacks", "struct")
        members = kernel.btf.members(found) if found is not None else []
        places = [(cpu, kernel.memory.pointer(address)) for cpu, address in kernel.per_cpu("cea_exception_stacks")]
    except DumpError:
        return rows
    for member in members:
        name = _STACKS.get(member.name)
        if name is None:
            continue
        size = kernel.btf.size_of(member.type)
        stacks = {str(cpu): _stack(kernel, place + member.bit_offset // 8) for cpu, place in places}
        rows.append((f"{name} STACK SIZE", _known(size)))
        rows.append((f"{name} STACKS", _known(stacks)))
    return rows


def _stack(kernel: Kernel, address: int) -> str:
    try:
        kernel.memory.translate(address)
    except DumpError:
        return f"{address:#x} [unavailable]"
    return f"{address:#x}"


# -- -m -----------------------------------------------------------------------------------------------------------


def _memory_map(kernel: Kernel) -> Result:
    if kernel.machine.arch in ("x86_64", "i386"):
        return _e820(kernel)
    rows = list(_resources(kernel))
    lines = [f"{'PHYSICAL ADDRESS RANGE':<37}  TYPE"]
    lines += [f"{start:016x} - {end + 1:016x}  {'  ' * depth}{printable(name)}" for start, end, depth, name in rows]
    data = [
        {"start": f"{start:#x}", "end": f"{end + 1:#x}", "depth": depth, "type": name}
        for start, end, depth, name in rows
    ]
    return Result(lines, data)


def _e820(kernel: Kernel) -> Result:
    name = "e820_table" if kernel.find("e820_table") is not None else "e820"
    table = kernel.symbol(name)
    if name == "e820_table":  # 4.12 and later: a pointer
        table = kernel.memory.pointer(table)
    count = kernel.memory.u32(table)
    if not 0 < count <= _MAX_RANGES:
        raise MissingTable(f"a memory map of {count} ranges")
    lines, data = ["      PHYSICAL ADDRESS RANGE         TYPE"], []
    for index in range(count):
        raw = kernel.memory.read(table + 4 + 20 * index, 20)
        start, size, kind = (int.from_bytes(raw[a:b], "little") for a, b in ((0, 8), (8, 16), (16, 20)))
        kind_name = _E820.get(kind, f"type {kind}")
        lines.append(f"{start:016x} - {start + size:016x}  {kind_name}")
        data.append({"start": f"{start:#x}", "end": f"{start + size:#x}", "type": kind_name})
    return Result(lines, data)


def _resources(kernel: Kernel) -> Iterator[tuple[int, int, int, str]]:
    # the tree of /proc/iomem, top to bottom
    structs, root = kernel.structs, kernel.symbol("iomem_resource")
    waiting, seen = [(structs.get(root, "resource", "child"), 0)], set[int]()
    while waiting:
        address, depth = waiting.pop()
        if not address:
            continue
        if address in seen or len(seen) >= _MAX_RESOURCES:
            raise MissingTable("the tree of memory resources leads in a circle")
        seen.add(address)
        name = structs.get(address, "resource", "name")
        text = kernel.memory.string(name, 128).decode("utf-8", "backslashreplace") if name else ""
        yield structs.get(address, "resource", "start"), structs.get(address, "resource", "end"), depth, text
        waiting.append((structs.get(address, "resource", "sibling"), depth))
        waiting.append((structs.get(address, "resource", "child"), depth + 1))


# -- -c -----------------------------------------------------------------------------------------------------------


def _processors(kernel: Kernel) -> Result:
    known = _PROCESSORS.get(kernel.machine.arch)
    if known is None:
        raise UsageError(f"mach -c is not known for {kernel.machine.arch}")
    structure, variable = known
    found = kernel.btf.find(structure, "struct")
    if found is None:
        raise MissingTable(f"BTF has no struct {structure}")
    data = {str(cpu): values(kernel.btf, kernel.memory, found.id, place) for cpu, place in kernel.per_cpu(variable)}

    def lines() -> Iterator[str]:
        for cpu, each in data.items():
            yield f"CPU {cpu}:"
            yield f"struct {structure} {{"
            yield from (printable(line) for line in value_lines(each))
            yield "}"
            yield ""

    return Result(lines(), data)
