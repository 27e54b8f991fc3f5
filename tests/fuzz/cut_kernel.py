# SPDX-License-Identifier: GPL-2.0-or-later
"""Cuts from a real dump a small one that every command of analyze answers alike: for the fuzzer.

Kept are the pages that the commands read. The large tables (kallsyms, BTF, ORC) are written anew with what the
commands ask them for and some more, so that one run over all commands takes a tenth of a second.
"""

from __future__ import annotations

import re
import struct
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dumpconv.analyze import orc, scan
from dumpconv.analyze.btf import KIND, Btf
from dumpconv.analyze.kernel import Kernel
from dumpconv.formats import open_dump
from dumpconv.formats.errors import DumpError
from dumpconv.formats.vmcoreinfo import VmcoreInfo
from support import build_elf

E_MACHINE = {"x86_64": 62, "aarch64": 183, "i386": 3, "s390x": 22, "riscv64": 243, "ppc64": 21, "arm": 40}
SEARCH = 1 << 20  # a larger read is a search through all memory
FILLERS = 1200  # symbols beside those that are asked for
_HEX = re.compile(rb"SYMBOL\((kallsyms_\w+)\)=([0-9a-fx]+)")

Run = Callable[[Kernel, Callable[[str], None]], None]


@dataclass
class Cut:
    """A small dump.

    Attributes:
        data: An ELF vmcore.
        regions: What was read for each command: (offset in `data`, bytes), the more often the likelier it is hit.
        pointers: Words of it that are addresses of the kernel.
        word, mark: Bytes of a word; byte order as struct has it.
    """

    data: bytes
    regions: dict[str, list[tuple[int, int]]]
    pointers: list[int]
    word: int
    mark: str


@dataclass
class Asked:
    """What the commands asked the tables for."""

    symbols: set[int] = field(default_factory=set)
    types: set[int] = field(default_factory=set)
    orc: set[int] = field(default_factory=set)


def cut(path: Path, run: Run, *, note: bool = True) -> Cut:
    """Cut a dump.

    Args:
        path: Of a dump of which all commands give something.
        run: Runs all commands; calls back with the name of each before it.
        note: Keep VMCOREINFO as a note; else it is only in memory.
    """
    reader = open_dump([str(path)])
    first = Kernel(reader)
    overlay, info = _rewrite(first, _watch(first, run))
    second = Kernel(reader)
    second._info, second._searched = info, True
    kept: dict[int, bytes] = {}
    reads: dict[str, set[tuple[int, int]]] = defaultdict(set)
    _record(second, run, overlay, kept, reads)
    for found in list(scan.find_text(first.physical, b"VMCOREINFO\0\0OSRELEASE="))[:1]:
        size = reader.machine.page_size
        text, mark = info.to_bytes(), second.memory._mark
        raw = bytearray(first.physical.read(found - 12, 12 + 12 + 4096))
        raw[4:8] = struct.pack(mark + "I", len(text))
        raw[24 : 24 + len(text)] = text
        kept |= {pfn: first.physical.page(pfn) for pfn in range((found - 12) // size, (found + 4108) // size + 1)}
        _put(kept, found - 12, bytes(raw), size)
        reads["vmcoreinfo"].add((found - 12, 24 + len(text)))
    return _assemble(second, kept, reads, info if note else None)


# -- what is asked for -----------------------------------------------------------------------------------------------


def _watch(kernel: Kernel, run: Run) -> Asked:
    asked = Asked()
    symbols = kernel.symbols
    find, lookup = symbols.find, symbols.lookup
    rows = {(int(address), name): row for row, (address, name) in enumerate(zip(symbols.addresses, symbols.names))}

    def note_symbol(found: Any) -> None:
        if found is not None:
            asked.symbols.add(rows.get((found.address, (found.letter + found.name).encode()), 0))

    def watched_find(name: str) -> Any:
        found = find(name)
        note_symbol(found)
        return found

    def watched_lookup(address: int) -> Any:
        found = lookup(address)
        note_symbol(found[0] if found else None)
        return found

    symbols.find, symbols.lookup = watched_find, watched_lookup  # type: ignore[method-assign]
    with _watched_orc(asked), _watched_types(kernel, asked):
        run(kernel, lambda name: None)
    for name in ("_stext", "_text", "_etext", "_end", "__start_BTF", "__stop_BTF", "init_task", "linux_banner"):
        watched_find(name)
    return asked


@contextmanager
def _watched_orc(asked: Asked) -> Iterator[None]:
    plain = orc.OrcTable.find

    def find(table: orc.OrcTable, address: int) -> Any:
        asked.orc.add(address)
        return plain(table, address)

    orc.OrcTable.find = find  # type: ignore[method-assign]
    try:
        yield
    finally:
        orc.OrcTable.find = plain  # type: ignore[method-assign]


@contextmanager
def _watched_types(kernel: Kernel, asked: Asked) -> Iterator[None]:
    try:
        btf = kernel.btf
    except DumpError:
        yield
        return
    plain, constant = btf.type, btf.constant
    quiet = [False]

    def watched(number: int) -> Any:
        if not quiet[0]:
            asked.types.add(number)
        return plain(number)

    def watched_constant(name: str) -> Any:
        quiet[0] = True
        try:
            for found in btf:
                if found.kind in (KIND["enum"], KIND["enum64"]) and name in btf.enumerators(found):
                    asked.types.add(found.id)
                    break
            return constant(name)
        finally:
            quiet[0] = False

    btf.type, btf.constant = watched, watched_constant  # type: ignore[method-assign]
    yield


# -- smaller tables --------------------------------------------------------------------------------------------------


def _rewrite(kernel: Kernel, asked: Asked) -> tuple[dict[int, bytes], VmcoreInfo]:
    # pages with the new tables, and VMCOREINFO with their new places
    overlay: dict[int, bytes] = {}
    size, memory = kernel.machine.page_size, kernel.memory

    def put(vaddr: int, data: bytes) -> None:
        for at in range(0, len(data), 1024):  # page boundaries of any size
            place = vaddr + at
            part = data[at : at + 1024]
            while part:
                count = min(len(part), size - place % size)
                paddr = memory.translate(place)
                if paddr // size not in overlay:
                    overlay[paddr // size] = kernel.physical.page(paddr // size)
                _put(overlay, paddr, part[:count], size)
                part, place = part[count:], place + count

    moved: dict[str, int] = {}
    try:
        start = kernel.symbol("__start_BTF")
        new = _smaller_btf(kernel.btf, asked.types)
        put(start, new)
        moved["__stop_BTF"] = start + len(new)
    except DumpError:
        _smaller_btf_in_place(kernel, asked.types, overlay)
    try:
        moved["__stop_orc_unwind_ip"] = _smaller_orc(kernel, asked.orc, put)
    except DumpError:
        pass
    places = _smaller_kallsyms(kernel, asked.symbols, moved, put)
    text = kernel.info.to_bytes()

    def change(found: re.Match[bytes]) -> bytes:
        value = places.get(found[1].decode())
        return found[0] if value is None else b"SYMBOL(%s)=%x" % (found[1], value)

    return overlay, VmcoreInfo(_HEX.sub(change, text))


def _put(pages: dict[int, bytes], paddr: int, data: bytes, size: int) -> None:
    while data:
        pfn, start = divmod(paddr, size)
        count = min(len(data), size - start)
        page = pages[pfn]
        pages[pfn] = page[:start] + data[:count] + page[start + count :]
        data, paddr = data[count:], paddr + count


def _smaller_kallsyms(
    kernel: Kernel, asked: set[int], moved: dict[str, int], put: Callable[[int, bytes], None]
) -> dict[str, int]:
    table, mark, word = kernel.symbols, kernel.memory._mark, kernel.memory.word
    chosen = set(range(0, len(table), max(1, len(table) // FILLERS)))
    for row in asked:
        chosen |= {row, min(row + 1, len(table) - 1)}
    rows = []
    for row in sorted(chosen):
        name = table.names[row]
        rows.append((moved.get(name[1:].decode("utf-8", "replace"), int(table.addresses[row])), name))
    rows.sort(key=lambda each: each[0])
    spellings = [bytes([code]) if code >= 0x20 and code < 0x7F else b"" for code in range(256)]
    tokens, index, at = b"", [], 0
    for each in spellings:
        index.append(at)
        tokens += each + b"\0"
        at = len(tokens)
    names, markers = b"", []
    big = _big_lengths(kernel)
    for number, (_, name) in enumerate(rows):
        if number % 256 == 0:
            markers.append(len(names))
        length = bytes([len(name) & 0x7F | 0x80, len(name) >> 7]) if len(name) > 0x7F and big else bytes([len(name)])
        names += length + name
    plain = [address for address, _ in rows if address >= kernel.kernel_start]
    base = min(plain, default=0)
    if any(address < base for address, _ in rows):  # absolute ones: x86_64 per-CPU symbols
        offsets = [address if address < base else base - 1 - address for address, _ in rows]
    else:
        offsets = [address - base for address, _ in rows]
    old = {name: kernel.info.symbol(f"kallsyms_{name}") for name in ("names", "offsets", "num_syms")}
    at = min(value for value in old.values() if value)
    out, places = b"", {}

    def add(name: str, data: bytes) -> None:
        nonlocal out
        out += bytes(-(at + len(out)) % word)
        places[f"kallsyms_{name}"] = at + len(out)
        out += data

    add("offsets", struct.pack(f"{mark}{len(offsets)}i", *offsets))
    add("relative_base", base.to_bytes(word, "little" if mark == "<" else "big"))
    add("num_syms", struct.pack(mark + "I", len(rows)))
    add("names", names)
    add("markers", struct.pack(f"{mark}{len(markers)}I", *markers))
    add("token_table", tokens)
    add("token_index", struct.pack(f"{mark}256H", *index))
    put(at, out)
    return places


def _big_lengths(kernel: Kernel) -> bool:
    numbers = re.findall(r"\d+", kernel.release)[:2]
    return tuple(map(int, numbers)) >= (6, 1)


def _smaller_orc(kernel: Kernel, asked: set[int], put: Callable[[int, bytes], None]) -> int:
    ip, entries = kernel.symbol("__start_orc_unwind_ip"), kernel.symbol("__start_orc_unwind")
    table = orc.Orc(kernel)._table
    addresses = table._addresses.tolist()
    rows = set(range(0, len(addresses), max(1, len(addresses) // 500)))
    for address in asked:
        if addresses[0] <= address <= addresses[-1]:
            row = int(table._addresses.searchsorted(address, side="right")) - 1
            rows |= {max(0, row - 1), row, min(row + 1, len(addresses) - 1)}
    chosen = sorted(rows)
    put(ip, b"".join(struct.pack("<i", addresses[row] - ip - 4 * place) for place, row in enumerate(chosen)))
    put(entries, b"".join(table._entries[row].tobytes() for row in chosen))
    return ip + 4 * len(chosen)


def _smaller_btf(btf: Btf, asked: set[int]) -> bytes:
    # The types asked for and what they hold by value; what they point to is there by name only.
    mark = btf.mark
    keep: set[int] = set()
    stack = [number for number in asked if number]
    while stack:
        number = stack.pop()
        if number in keep or number == 0:
            continue
        keep.add(number)
        found = btf.type(number)
        if found.kind in (4, 5):
            stack += [member.type for member in btf.members(found)]
        elif found.kind == 3:
            stack += list(struct.unpack_from(mark + "II", btf.data, found.position))
        elif found.kind in (8, 9, 10, 11, 18, 14):
            stack.append(found.size)
    for text in ("long unsigned int", "unsigned long", "int", "unsigned int", "char"):
        each = btf.find(text, "int")
        if each is not None:
            keep.add(each.id)
    order = sorted(number for number in keep if btf.type(number).kind not in (12, 13, 14, 15, 17))
    forward: dict[str, int] = {}
    new_id = {old: place for place, old in enumerate(order, 1)}
    strings = bytearray(b"\0")
    interned: dict[str, int] = {"": 0}

    def name(text: str) -> int:
        if text not in interned:
            interned[text] = len(strings)
            strings.extend(text.encode("utf-8", "replace") + b"\0")
        return interned[text]

    def refer(old: int, depth: int = 0) -> int:
        if old in new_id or old == 0:
            return new_id.get(old, 0)
        target = btf.type(old)
        if target.kind in (4, 5, 7) and target.name:
            if target.name not in forward:
                forward[target.name] = len(order) + len(forward) + 1
            return forward[target.name]
        if target.kind in (8, 9, 10, 11, 18) and depth < 8:
            return refer(target.size, depth + 1)
        return 0

    out = b""
    for old in order:
        found = btf.type(old)
        info = struct.unpack_from(mark + "I", btf.data, found.position - 8)[0]
        size = refer(found.size) if found.kind in (2, 8, 9, 10, 11, 18) else found.size
        out += struct.pack(mark + "III", name(found.name), info, size)
        if found.kind in (4, 5, 6, 19):
            width = {4: 3, 5: 3, 6: 2, 19: 3}[found.kind]
            for row in range(found.vlen):
                words = list(struct.unpack_from(f"{mark}{width}I", btf.data, found.position + 4 * width * row))
                words[0] = name(btf.string(words[0]))
                if found.kind in (4, 5):
                    words[1] = refer(words[1])
                out += struct.pack(f"{mark}{width}I", *words)
        elif found.kind == 3:
            element, index, count = struct.unpack_from(mark + "III", btf.data, found.position)
            out += struct.pack(mark + "III", refer(element), refer(index), count)
        elif found.kind == 1:
            out += btf.data[found.position : found.position + 4]
    for text in forward:
        out += struct.pack(mark + "III", name(text), 7 << 24, 0)
    head = struct.pack(mark + "HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(out), len(out), len(strings))
    return head + out + bytes(strings)


def _smaller_btf_in_place(kernel: Kernel, asked: set[int], overlay: dict[int, bytes]) -> None:
    # found by its header, and large enough to be a kernel's
    try:
        old = kernel.btf.data
    except DumpError:
        return
    new = bytearray(_smaller_btf(kernel.btf, asked))
    mark = kernel.btf.mark
    strings = scan._MIN_BTF - struct.unpack_from(mark + "I", new, 12)[0]
    struct.pack_into(mark + "I", new, 20, strings)
    new += bytes(24 + scan._MIN_BTF - len(new))
    size = kernel.machine.page_size
    for paddr in scan.find_text(kernel.physical, old[:64]):
        if kernel.physical.read(paddr, 4096) == old[:4096]:
            for pfn in range(paddr // size, (paddr + len(new)) // size + 1):
                overlay[pfn] = kernel.physical.page(pfn)
            _put(overlay, paddr, bytes(new), size)


# -- the pages -------------------------------------------------------------------------------------------------------


def _record(
    kernel: Kernel,
    run: Run,
    overlay: dict[int, bytes],
    kept: dict[int, bytes],
    reads: dict[str, set[tuple[int, int]]],
) -> None:
    physical = kernel.physical
    plain_page, plain_read = physical.page, physical.read
    tag = ["start"]
    walking, searching = [False], [False]

    def page(pfn: int) -> bytes:
        found = overlay.get(pfn)
        if found is None:
            found = plain_page(pfn)
        if not searching[0]:
            kept[pfn] = found
        return found

    def read(paddr: int, size: int) -> bytes:
        searching[0] = size > SEARCH
        try:
            data = plain_read(paddr, size)
        finally:
            searching[0] = False
        if 0 < size <= SEARCH:
            reads["page tables" if walking[0] else tag[0]].add((paddr, size))
        return data

    def read_table(paddr: int, size: int) -> bytes:
        walking[0] = True
        try:
            return read(paddr, size)
        finally:
            walking[0] = False

    physical.page, physical.read = page, read  # type: ignore[method-assign]
    physical.read_physical = read_table  # type: ignore[method-assign]

    memory = kernel.memory
    plain_virtual = memory.read

    def read_virtual(vaddr: int, size: int) -> bytes:
        data = plain_virtual(vaddr, size)
        if 0 < size <= kernel.machine.page_size:
            reads[tag[0]].add((memory.translate(vaddr), size))
        return data

    memory.read = read_virtual  # type: ignore[method-assign]

    def before(name: str) -> None:
        tag[0] = name

    for name, value in (("symbols", "symbols"), ("types", "btf"), ("log", "log")):
        before(name)
        try:
            getattr(kernel, value)
        except DumpError:
            pass
    run(kernel, before)


def _assemble(
    kernel: Kernel, pages: dict[int, bytes], reads: dict[str, set[tuple[int, int]]], info: VmcoreInfo | None
) -> Cut:
    machine = kernel.machine
    mark = "<" if machine.byteorder == "little" else ">"
    notes = b"".join(
        _note(mark, each.name, each.type, each.desc(1 << 16))
        for each in kernel.reader.notes
        if each.name in (b"CORE", b"LINUX", b"QEMU") and each.size < 1 << 16
    )
    if info is not None:
        notes += _note(mark, b"VMCOREINFO", 0, info.to_bytes())
    segments: list[build_elf.Segment] = []
    runs: list[list[int]] = []
    for pfn in sorted(pages):
        if runs and runs[-1][-1] + 1 == pfn:
            runs[-1].append(pfn)
        else:
            runs.append([pfn])
    for each in runs:
        data = b"".join(pages[pfn] for pfn in each)
        segments.append(build_elf.Segment(each[0] * machine.page_size, data, vaddr=0))
    spec = build_elf.ElfSpec(
        segments, notes, bits=8 * machine.word_size, order=mark, machine=E_MACHINE[machine.arch],
        placement="packed",
    )  # fmt: skip
    image = build_elf.build(spec)
    data = image.to_bytes()
    offset_of: dict[int, int] = {}
    for each, index in zip(runs, image.load_headers, strict=True):
        for place, pfn in enumerate(each):
            offset_of[pfn] = image.headers[index]["p_offset"] + place * machine.page_size
    regions: dict[str, list[tuple[int, int]]] = {"headers": [(0, 64 + 56), (image.phoff, 56 * len(image.headers))]}
    regions["notes"] = [(offset, len(notes)) for offset in image.note_offsets]
    for name, found in reads.items():
        regions[name] = []
        for paddr, size in sorted(found):
            pfn, start = divmod(paddr, machine.page_size)
            if pfn in offset_of:
                regions[name].append((offset_of[pfn] + start, min(size, machine.page_size - start)))
            if size > machine.page_size:
                for more in range(pfn + 1, (paddr + size) // machine.page_size):
                    if more in offset_of:
                        regions[name].append((offset_of[more], machine.page_size))
    return Cut(data, {name: each for name, each in regions.items() if each}, _pointers(kernel, data), machine.word_size, mark)


def _note(mark: str, name: bytes, kind: int, desc: bytes) -> bytes:
    named = name + b"\0"
    head = struct.pack(mark + "III", len(named), len(desc), kind)
    return head + named + bytes(-len(named) % 4) + desc + bytes(-len(desc) % 4)


def _pointers(kernel: Kernel, data: bytes) -> Sequence[int]:
    word = kernel.memory.word
    letter = "Q" if word == 8 else "I"
    low, found = kernel.kernel_start or 1 << 20, set()
    mark = kernel.memory._mark
    for (value,) in struct.iter_unpack(mark + letter, data[: len(data) // word * word]):
        if low <= value < (1 << 8 * word) - 4096 and len(found) < 20000:
            found.add(value)
    return sorted(found)
