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
from contextlib import contextmanager, suppress
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
    derived: dict[str, int] = field(default_factory=dict)  # symbols that follow from types


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
    recorder = _Recorder(second, overlay)
    recorder.run(run)
    kept = recorder.kept
    for found in list(scan.find_text(first.physical, b"VMCOREINFO\0\0OSRELEASE="))[:1]:
        size = reader.machine.page_size
        text, mark = info.to_bytes(), second.memory.mark
        raw = bytearray(first.physical.read(found - 12, 12 + 12 + 4096))
        raw[4:8] = struct.pack(mark + "I", len(text))
        raw[24 : 24 + len(text)] = text
        kept |= {pfn: first.physical.page(pfn) for pfn in range((found - 12) // size, (found + 4108) // size + 1)}
        _put(kept, found - 12, bytes(raw), size)
        recorder.reads["vmcoreinfo"].add((found - 12, 24 + len(text)))
    return _assemble(recorder, second, info if note else None)


# -- what is asked for -----------------------------------------------------------------------------------------------


def _watch(kernel: Kernel, run: Run) -> Asked:
    asked = Asked()
    symbols = kernel.symbols
    find, lookup = symbols.find, symbols.lookup
    pairs = zip(symbols.addresses.tolist(), symbols.names, strict=True)
    rows = {pair: row for row, pair in enumerate(pairs)}

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

    derive = kernel._derived

    def watched_derive(name: str) -> Any:
        found = derive(name)
        if found is not None:
            asked.derived[name] = found
        return found

    kernel._derived = watched_derive  # type: ignore[method-assign]
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
        new = _SmallerBtf(kernel.btf, asked.types).build()
        put(start, new)
        moved["__stop_BTF"] = start + len(new)
    except DumpError:
        _smaller_btf_in_place(kernel, asked.types, overlay)
    with suppress(DumpError):
        moved["__stop_orc_unwind_ip"] = _smaller_orc(kernel, asked.orc, put)
    places = _smaller_kallsyms(kernel, asked, moved, put)
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
    kernel: Kernel, asked: Asked, moved: dict[str, int], put: Callable[[int, bytes], None]
) -> dict[str, int]:
    table, mark, word = kernel.symbols, kernel.memory.mark, kernel.memory.word
    chosen = set(range(0, len(table), max(1, len(table) // FILLERS)))
    for row in asked.symbols:
        chosen |= {row, min(row + 1, len(table) - 1)}
    rows = [(address, b"D" + name.encode()) for name, address in asked.derived.items()]
    for row in sorted(chosen):
        name = table.names[row]
        if name[:1] == b"?":  # of a table of exports: here kallsyms has it, and the tables need not be searched for
            name = b"D" + name[1:]
        rows.append((moved.get(name[1:].decode("utf-8", "replace"), int(table.addresses[row])), name))
    rows.sort(key=lambda each: each[0])
    middle = rows[len(rows) // 2][0]
    rows = [row for row in rows if abs(row[0] - middle) < 1 << 30 or row[0] < 1 << 24]
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


_REFERRING = (2, 8, 9, 10, 11, 18)
_WORDS_OF_EACH = {4: 3, 5: 3, 6: 2, 19: 3}
_LEFT_OUT = (12, 13, 14, 15, 17)  # functions, variables, sections, tags


class _SmallerBtf:
    # The types asked for and what they hold by value; what they point to is there by name only.

    def __init__(self, btf: Btf, asked: set[int]) -> None:
        self._btf, self._mark = btf, btf.mark
        keep = self._closure(asked)
        for text in ("long unsigned int", "unsigned long", "int", "unsigned int", "char"):
            each = btf.find(text, "int")
            if each is not None:
                keep.add(each.id)
        self._order = sorted(number for number in keep if btf.type(number).kind not in _LEFT_OUT)
        self._new_id = {old: place for place, old in enumerate(self._order, 1)}
        self._forward: dict[str, int] = {}
        self._strings = bytearray(b"\0")
        self._interned: dict[str, int] = {"": 0}

    def _closure(self, asked: set[int]) -> set[int]:
        btf, keep = self._btf, set[int]()
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
                stack += list(struct.unpack_from(self._mark + "II", btf.data, found.position))
            elif found.kind in (8, 9, 10, 11, 18, 14):
                stack.append(found.size)
        return keep

    def _name(self, text: str) -> int:
        if text not in self._interned:
            self._interned[text] = len(self._strings)
            self._strings.extend(text.encode("utf-8", "replace") + b"\0")
        return self._interned[text]

    def _refer(self, old: int, depth: int = 0) -> int:
        if old in self._new_id or old == 0:
            return self._new_id.get(old, 0)
        target = self._btf.type(old)
        if target.kind in (4, 5, 7) and target.name:
            return self._forward.setdefault(target.name, len(self._order) + len(self._forward) + 1)
        return self._refer(target.size, depth + 1) if target.kind in _REFERRING[1:] and depth < 8 else 0

    def build(self) -> bytes:
        out = b"".join(self._type(old) for old in self._order)
        out += b"".join(struct.pack(self._mark + "III", self._name(text), 7 << 24, 0) for text in self._forward)
        strings = bytes(self._strings)
        head = struct.pack(self._mark + "HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(out), len(out), len(strings))
        return head + out + strings

    def _type(self, old: int) -> bytes:
        btf, mark, found = self._btf, self._mark, self._btf.type(old)
        info = struct.unpack_from(mark + "I", btf.data, found.position - 8)[0]
        size = self._refer(found.size) if found.kind in _REFERRING else found.size
        out = struct.pack(mark + "III", self._name(found.name), info, size)
        width = _WORDS_OF_EACH.get(found.kind, 0)
        for row in range(found.vlen if width else 0):
            words = list(struct.unpack_from(f"{mark}{width}I", btf.data, found.position + 4 * width * row))
            words[0] = self._name(btf.string(words[0]))
            if found.kind in (4, 5):
                words[1] = self._refer(words[1])
            out += struct.pack(f"{mark}{width}I", *words)
        if found.kind == 3:
            element, index, count = struct.unpack_from(mark + "III", btf.data, found.position)
            out += struct.pack(mark + "III", self._refer(element), self._refer(index), count)
        elif found.kind == 1:
            out += btf.data[found.position : found.position + 4]
        return out


def _smaller_btf_in_place(kernel: Kernel, asked: set[int], overlay: dict[int, bytes]) -> None:
    # found by its header, and large enough to be a kernel's
    try:
        old = kernel.btf.data
    except DumpError:
        return
    new = bytearray(_SmallerBtf(kernel.btf, asked).build())
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


class _Recorder:
    # Puts itself into a kernel's memory: notes what is read for which command, and which pages that needs.

    def __init__(self, kernel: Kernel, overlay: dict[int, bytes]) -> None:
        self.kept: dict[int, bytes] = {}
        self.reads: dict[str, set[tuple[int, int]]] = defaultdict(set)
        self.tag = "start"
        self._overlay, self._searching, self._walking = overlay, False, False
        self._kernel, physical = kernel, kernel.physical
        self._page, self._read = physical.page, physical.read
        physical.page, physical.read = self.page, self.read  # type: ignore[method-assign]
        physical.read_physical = self.read_table  # type: ignore[method-assign]
        self._virtual = kernel.memory.read
        self._sparse = kernel.memory.read_sparse
        kernel.memory.read, kernel.memory.read_sparse = self.read_virtual, self.read_sparse  # type: ignore[method-assign]

    def page(self, pfn: int) -> bytes:
        found = self._overlay.get(pfn)
        if found is None:
            found = self._page(pfn)
        if not self._searching:
            self.kept[pfn] = found
        return found

    def read(self, paddr: int, size: int) -> bytes:
        self._searching = size > SEARCH
        try:
            data = self._read(paddr, size)
        finally:
            self._searching = False
        if 0 < size <= SEARCH:
            self.reads["page tables" if self._walking else self.tag].add((paddr, size))
        return data

    def read_table(self, paddr: int, size: int) -> bytes:
        self._walking = True
        try:
            return self.read(paddr, size)
        finally:
            self._walking = False

    def read_sparse(self, vaddr: int, size: int) -> Any:
        if size <= SEARCH:
            return self._sparse(vaddr, size)
        return bytes(size), []  # a search for what is in the smaller tables already

    def read_virtual(self, vaddr: int, size: int) -> bytes:
        data = self._virtual(vaddr, size)
        if 0 < size <= self._kernel.machine.page_size:
            self.reads[self.tag].add((self._kernel.memory.translate(vaddr), size))
        return data

    def run(self, run: Run) -> None:
        def before(name: str) -> None:
            self.tag = name

        for name, value in (("symbols", "symbols"), ("types", "btf"), ("log", "log")):
            before(name)
            with suppress(DumpError):
                getattr(self._kernel, value)
        run(self._kernel, before)


def _assemble(recorder: _Recorder, kernel: Kernel, info: VmcoreInfo | None) -> Cut:
    machine, pages = kernel.machine, recorder.kept
    order = kernel.reader.machine.byteorder  # of the container and its notes
    if order != machine.byteorder:
        info = None
    mark = "<" if order == "little" else ">"
    notes = b"".join(
        _note(mark, each.name, each.type, each.desc(1 << 16))
        for each in kernel.reader.notes
        if each.name in (b"CORE", b"LINUX", b"QEMU") and each.size < 1 << 16
    )
    if info is not None:
        notes += _note(mark, b"VMCOREINFO", 0, info.to_bytes())
    runs: list[list[int]] = []
    for pfn in sorted(pages):
        if runs and runs[-1][-1] + 1 == pfn:
            runs[-1].append(pfn)
        else:
            runs.append([pfn])
    segments = [
        build_elf.Segment(each[0] * machine.page_size, b"".join(pages[pfn] for pfn in each), vaddr=0) for each in runs
    ]
    spec = build_elf.ElfSpec(
        segments, notes, bits=8 * machine.word_size, order=mark, machine=E_MACHINE[machine.arch], placement="packed"
    )
    image = build_elf.build(spec)
    data = image.to_bytes()
    offset_of: dict[int, int] = {}
    for each, index in zip(runs, image.load_headers, strict=True):
        for place, pfn in enumerate(each):
            offset_of[pfn] = image.headers[index]["p_offset"] + place * machine.page_size
    regions: dict[str, list[tuple[int, int]]] = {"headers": [(0, 64 + 56), (image.phoff, 56 * len(image.headers))]}
    regions["notes"] = [(offset, len(notes)) for offset in image.note_offsets]
    for name, found in recorder.reads.items():
        regions[name] = list(_in_file(sorted(found), offset_of, machine.page_size))
    regions = {name: each for name, each in regions.items() if each}
    return Cut(data, regions, _pointers(kernel, data), machine.word_size, kernel.memory.mark)


def _in_file(reads: list[tuple[int, int]], offset_of: dict[int, int], page: int) -> Iterator[tuple[int, int]]:
    for paddr, size in reads:
        at, end = paddr, paddr + size
        while at < end:
            count = min(end - at, page - at % page)
            if at // page in offset_of:
                yield offset_of[at // page] + at % page, count
            at += count


def _note(mark: str, name: bytes, kind: int, desc: bytes) -> bytes:
    named = name + b"\0"
    head = struct.pack(mark + "III", len(named), len(desc), kind)
    return head + named + bytes(-len(named) % 4) + desc + bytes(-len(desc) % 4)


def _pointers(kernel: Kernel, data: bytes) -> Sequence[int]:
    word = kernel.memory.word
    letter = "Q" if word == 8 else "I"
    low, found = kernel.kernel_start or 1 << 20, set()
    mark = kernel.memory.mark
    for (value,) in struct.iter_unpack(mark + letter, data[: len(data) // word * word]):
        if low <= value < (1 << 8 * word) - 4096 and len(found) < 20000:
            found.add(value)
    return sorted(found)
