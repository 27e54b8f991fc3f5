# SPDX-License-Identifier: GPL-2.0-or-later
"""The kinds of damage, which check finds each and which none can: the table of docs/damage.md.

    python tests/oracle/damage_kinds.py          # print the tables for docs/damage.md

Each kind is a function that damages a copy of a dump and returns where: what `dumpverify` must name.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from oracle.damage_bases import LZO, NR_SMALL, PAGE, RAW, SNAPPY, ZLIB, ZSTD, Dump

EHDR, PHDR = 64, 56


@dataclass(frozen=True)
class Place:
    """Where damage lies; None: it has no such place.

    Attributes:
        frames: [start, end) of the bad frames in the damage map, all of them.
        data: [start, end) of their bytes in the file.
        pfn, offset: Of the finding.
        word: Text that the finding's message must have.
    """

    frames: tuple[int, int] | None = None
    data: tuple[int, int] | None = None
    pfn: int | None = None
    offset: int | None = None
    word: str = ""


@dataclass(frozen=True)
class Kind:
    """One kind of damage; `level` None: no check finds it, `why` says why and what would."""

    name: str
    base: str
    what: str
    level: str | None
    code: str
    exit_code: int
    why: str
    damage: Callable[[Dump], Place]


KINDS: list[Kind] = []
_Damage = Callable[[Dump], Place]


def found(base: str, what: str, level: str, code: str, exit_code: int = 3) -> Callable[[_Damage], _Damage]:
    """A kind that a level finds."""

    def add(damage: _Damage) -> _Damage:
        KINDS.append(Kind(damage.__name__.strip("_"), base, what, level, code, exit_code, "", damage))
        return damage

    return add


def missed(base: str, what: str, why: str) -> Callable[[_Damage], _Damage]:
    """A kind that no check can find."""

    def add(damage: _Damage) -> _Damage:
        KINDS.append(Kind(damage.__name__.strip("_"), base, what, None, "", 0, why, damage))
        return damage

    return add


# -- kdump: headers ---------------------------------------------------------------------------------------------------


@found("zstd", "bit flipped in the signature", "quick", "E154", 6)
def signature(dump: Dump) -> Place:
    dump.flip(2)
    return Place()


@found("zstd", "header version zeroed out to nonsense", "quick", "E101")
def version(dump: Dump) -> Place:
    dump.pack(8, "<i", -5)
    return Place()


@found("zstd", "block size zeroed", "quick", "E101")
def block_size_zero(dump: Dump) -> Place:
    dump.pack(428, "<i", 0)
    return Place()


@found("zstd", "block size doubled", "quick", "E101")
def block_size_doubled(dump: Dump) -> Place:
    dump.pack(428, "<i", 8192)
    return Place()


@found("zstd", "size of the bitmaps halved", "quick", "E101")
def bitmap_blocks_halved(dump: Dump) -> Place:
    dump.pack(436, "<I", dump.kdump.bitmap_blocks // 2 - 1)
    return Place()


@found("zstd", "number of bitmap blocks larger than the file", "quick", "E102")
def bitmap_blocks_huge(dump: Dump) -> Place:
    dump.pack(436, "<I", 0x7FFFFFFF)
    return Place()


@found("zstd", "max_mapnr of main header and sub header differ", "quick", "E101")
def max_mapnr(dump: Dump) -> Place:
    dump.pack(4096 + 96, "<Q", dump.kdump.max_pfn - 1000)
    return Place()


@found("zstd", "bit of `incomplete` set in the status", "quick", "E201", 4)
def status_incomplete(dump: Dump) -> Place:
    dump.flip(424, 3)
    return Place()


@found("zstd", "release in the header's utsname changed", "structure", "W215", 0)
def utsname_release(dump: Dump) -> Place:
    at = dump.get(0, 4096).index(b"6.1.0-")
    dump.flip(at)
    return Place(word="7.1.0-")


@found("zstd", "machine in the header's utsname changed", "structure", "W216", 0)
def utsname_machine(dump: Dump) -> Place:
    dump.put(272, b"aarch64\0")
    return Place(word="aarch64")


@missed("zstd", "codec bits of the header's status changed", "nobody needs them: each descriptor says its codec")
def status_codec(dump: Dump) -> Place:
    dump.flip(424, 0)
    return Place()


# -- kdump: notes -----------------------------------------------------------------------------------------------------


@found("zstd", "pointer to the notes past the end of the file", "quick", "E102")
def notes_pointer(dump: Dump) -> Place:
    dump.pack(4096 + 48, "<Q", 1 << 40)
    return Place()


@found("zstd", "size of the notes larger than the file", "quick", "E102")
def notes_size(dump: Dump) -> Place:
    dump.pack(4096 + 56, "<Q", 1 << 40)
    return Place()


@found("zstd", "size field of a note flipped", "quick", "E107")
def note_header(dump: Dump) -> Place:
    dump.flip(dump.kdump.notes[0] + 6)  # descsz of the first register note
    return Place()


@found("zstd", "notes zeroed", "structure", "W216", 0)
def notes_zeroed(dump: Dump) -> Place:
    start, size = dump.kdump.notes
    dump.put(start, bytes(size))
    return Place()


@found("zstd", "OSRELEASE in VMCOREINFO changed", "structure", "W215", 0)
def vmcoreinfo_release(dump: Dump) -> Place:
    start, size = dump.kdump.text
    at = start + dump.get(start, size).index(b"OSRELEASE=") + 10
    dump.flip(at)
    return Place(word="7.1.0-")


@found("zstd", "PAGESIZE in VMCOREINFO changed", "quick", "W215", 0)
def vmcoreinfo_page_size(dump: Dump) -> Place:
    start, size = dump.kdump.text
    at = start + dump.get(start, size).index(b"PAGESIZE=4") + 9
    dump.put(at, b"8192")
    return Place()


def _symbol_digit(dump: Dump, name: bytes) -> int:
    # the last but fourth digit: a page, not a byte
    start, size = dump.kdump.text
    return start + dump.get(start, size).index(b"SYMBOL(" + name + b")=") + 8 + len(name) + 1 + 11


@found("zstd", "address of init_uts_ns in VMCOREINFO changed", "kernel", "E141")
def vmcoreinfo_symbol(dump: Dump) -> Place:
    dump.flip(_symbol_digit(dump, b"init_uts_ns"), 1)
    return Place()


@found("zstd", "phys_base in VMCOREINFO changed", "kernel", "E141")
def vmcoreinfo_phys_base(dump: Dump) -> Place:
    start, size = dump.kdump.text
    text = dump.get(start, size)
    at = text.index(b"NUMBER(phys_base)=") + len(b"NUMBER(phys_base)=")
    dump.flip(start + text.index(b"\n", at) - 5)
    return Place()


@missed("zstd", "a register flipped in a note", "any value may be a register's; a manifest finds it")
def register(dump: Dump) -> Place:
    dump.flip(dump.kdump.notes[0] + 12 + 8 + 112 + 8 * 3)
    return Place()


# -- kdump: bitmaps ---------------------------------------------------------------------------------------------------


@found("zstd", "1st bitmap: a stored frame is called no RAM", "quick", "W211", 0)
def bitmap_1_cleared(dump: Dump) -> Place:
    pfn = int(dump.kdump.stored[5000])
    dump.flip(dump.kdump.bitmap1 + pfn // 8, pfn % 8)
    return Place(word="1 frames")


@missed("zstd", "1st bitmap: a hole becomes RAM", "an excluded page leaves no other trace; a manifest finds it")
def bitmap_1_set(dump: Dump) -> Place:
    kdump = dump.kdump
    pfn = next(pfn for pfn in range(0xA0, 0x100) if pfn not in set(kdump.ram[:1000].tolist()))
    dump.flip(kdump.bitmap1 + pfn // 8, pfn % 8)
    return Place()


@found("zstd", "2nd bitmap: an excluded frame becomes stored", "quick", "E105")
def bitmap_2_set(dump: Dump) -> Place:
    kdump = dump.kdump
    pfn = int(kdump.stored[5000])
    while pfn in kdump.stored:
        pfn += 1
    dump.flip(kdump.bitmap2 + pfn // 8, pfn % 8)
    last = int(kdump.stored[-1])  # its descriptor is now the first bytes of the data
    return Place(pfn=last)


@found("zstd", "2nd bitmap: a stored frame becomes excluded", "structure", "W223", 0)
def bitmap_2_cleared(dump: Dump) -> Place:
    pfn = int(dump.kdump.stored[5000])
    dump.flip(dump.kdump.bitmap2 + pfn // 8, pfn % 8)
    return Place(offset=dump.kdump.at(len(dump.kdump.stored) - 1), word="24 bytes")


@found("zstd", "2nd bitmap zeroed", "structure", "W223", 0)
def bitmap_2_zeroed(dump: Dump) -> Place:
    dump.put(dump.kdump.bitmap2, bytes(dump.kdump.table - dump.kdump.bitmap2))
    return Place(offset=dump.kdump.table)


@found("zstd", "block of the 2nd bitmap set to ones", "quick", "E105")
def bitmap_2_ones(dump: Dump) -> Place:
    dump.put(dump.kdump.bitmap2, b"\xff" * 4096)
    return Place()


# -- kdump: page descriptors ------------------------------------------------------------------------------------------


def _descriptor(dump: Dump, field: int, code: str, value: int, flags: int = ZSTD) -> tuple[int, tuple[int, int]]:
    rank = dump.kdump.middle(flags)
    pfn, *data = dump.kdump.place(rank)
    dump.pack(dump.kdump.at(rank) + field, code, value)
    return pfn, (data[0], data[1])


@found("zstd", "descriptor: offset past the end of the file", "structure", "E104")
def descriptor_offset_far(dump: Dump) -> Place:
    pfn, _ = _descriptor(dump, 0, "<Q", 1 << 40)
    return Place(frames=(pfn, pfn + 1), pfn=pfn, offset=1 << 40)


@found("zstd", "descriptor: offset one too large", "structure", "E106")
def descriptor_offset_off(dump: Dump) -> Place:
    kdump = dump.kdump
    rank = kdump.middle(ZSTD)
    start = int(kdump.rows[rank]["offset"]) + 1
    _descriptor(dump, 0, "<Q", start)
    return Place(offset=start)


@found("zstd", "descriptor: size 0", "structure", "E105")
def descriptor_size_zero(dump: Dump) -> Place:
    pfn, _ = _descriptor(dump, 8, "<I", 0)
    return Place(frames=(pfn, pfn + 1), pfn=pfn)


@found("zstd", "descriptor: size larger than a page", "structure", "E105")
def descriptor_size_large(dump: Dump) -> Place:
    pfn, _ = _descriptor(dump, 8, "<I", 1 << 20)
    return Place(frames=(pfn, pfn + 1), pfn=pfn)


@found("zstd", "descriptor: size one too small", "pages", "E103")
def descriptor_size_off(dump: Dump) -> Place:
    rank = dump.kdump.middle(ZSTD)
    pfn, data = _descriptor(dump, 8, "<I", int(dump.kdump.rows[rank]["size"]) - 1)
    return Place(frames=(pfn, pfn + 1), data=(data[0], data[1] - 1), pfn=pfn, offset=data[0])


@found("zstd", "descriptor: unknown flag", "structure", "E105")
def descriptor_flag_unknown(dump: Dump) -> Place:
    pfn, _ = _descriptor(dump, 12, "<I", 0x40)
    return Place(frames=(pfn, pfn + 1), pfn=pfn)


@found("zstd", "descriptor: compressed page called raw", "structure", "E105")
def descriptor_flag_none(dump: Dump) -> Place:
    pfn, _ = _descriptor(dump, 12, "<I", 0)
    return Place(frames=(pfn, pfn + 1), pfn=pfn)


@found("zstd", "descriptor: another codec's flag", "pages", "E103")
def descriptor_flag_other(dump: Dump) -> Place:
    pfn, data = _descriptor(dump, 12, "<I", ZLIB)
    return Place(frames=(pfn, pfn + 1), data=data, pfn=pfn, offset=data[0])


@missed("zstd", "descriptor: page_flags changed", "no reader uses the field; a manifest of the file finds it")
def descriptor_page_flags(dump: Dump) -> Place:
    _descriptor(dump, 16, "<Q", 0x1234)
    return Place()


@missed(
    "zstd",
    "descriptors of two pages swapped",
    "each decodes, and data may lie in any order; a manifest or a recorded digest finds it",
)
def descriptors_swapped(dump: Dump) -> Place:
    first, second = dump.kdump.pages(ZSTD)[-2:]
    dump.swap(dump.kdump.at(first), dump.kdump.at(second), 24)
    return Place()


@found("zstd", "descriptors swapped, one of them of the page with init_uts_ns", "kernel", "E141")
def descriptors_swapped_uts(dump: Dump) -> Place:
    dump.swap(dump.kdump.at(dump.kdump.rank_of("init_uts_ns")), dump.kdump.at(dump.kdump.middle(ZSTD)), 24)
    return Place()


@found("zstd", "descriptors swapped, one of them of the top page table", "kernel", "E142")
def descriptors_swapped_pgd(dump: Dump) -> Place:
    dump.swap(dump.kdump.at(dump.kdump.rank_of("swapper_pg_dir")), dump.kdump.at(dump.kdump.middle(ZSTD)), 24)
    return Place()


@found("zstd", "descriptors swapped, one of them of the page with the log's head", "kernel", "E143")
def descriptors_swapped_log(dump: Dump) -> Place:
    dump.swap(dump.kdump.at(dump.kdump.rank_of("prb")), dump.kdump.at(dump.kdump.middle(ZSTD)), 24)
    return Place()


@found("zstd", "block of the descriptor table zeroed", "structure", "E105")
def descriptors_zeroed(dump: Dump) -> Place:
    kdump = dump.kdump
    dump.put(kdump.at(8000), bytes(24 * 100))
    return Place(pfn=int(kdump.stored[8000]))


# -- kdump: page data -------------------------------------------------------------------------------------------------


def _flip_found(dump: Dump, flags: int) -> Place:
    rank, offset, bit = dump.kdump.flip_that(flags, decodes=False)
    pfn, start, end = dump.kdump.place(rank)
    dump.flip(offset, bit)
    return Place(frames=(pfn, pfn + 1), data=(start, end), pfn=pfn, offset=start)


def _flip_missed(dump: Dump, flags: int) -> Place:
    _, offset, bit = dump.kdump.flip_that(flags, decodes=True)
    dump.flip(offset, bit)
    return Place()


@found("zlib", "any bit of a zlib page", "pages", "E103")
def data_zlib(dump: Dump) -> Place:
    return _flip_found(dump, ZLIB)


@found("zstd", "bit of a zstd page that breaks its decoding", "pages", "E103")
def data_zstd(dump: Dump) -> Place:
    return _flip_found(dump, ZSTD)


@found("snappy", "bit of a snappy page that breaks its decoding", "pages", "E103")
def data_snappy(dump: Dump) -> Place:
    return _flip_found(dump, SNAPPY)


@found("lzo", "bit of an LZO page that breaks its decoding", "pages", "E103")
def data_lzo(dump: Dump) -> Place:
    return _flip_found(dump, LZO)


_LITERAL = "makedumpfile writes no checksum, and this bit decodes to another page; a manifest or a digest finds it"


@missed("zstd", "bit of a literal in a zstd page", _LITERAL)
def literal_zstd(dump: Dump) -> Place:
    return _flip_missed(dump, ZSTD)


@missed("snappy", "bit of a literal in a snappy page", _LITERAL)
def literal_snappy(dump: Dump) -> Place:
    return _flip_missed(dump, SNAPPY)


@missed("lzo", "bit of a literal in an LZO page", _LITERAL)
def literal_lzo(dump: Dump) -> Place:
    return _flip_missed(dump, LZO)


@missed("snappy", "bit of a raw page", "nothing in the file says what the page was; a manifest or a digest finds it")
def raw_page(dump: Dump) -> Place:
    _, start, _ = dump.kdump.place(dump.kdump.pages(RAW)[-1])
    dump.flip(start + 100)
    return Place()


@missed("snappy", "data of two raw pages swapped", "every page is whole; only a manifest or a digest knows the order")
def raw_pages_swapped(dump: Dump) -> Place:
    first, second = (dump.kdump.place(rank)[1] for rank in dump.kdump.pages(RAW)[-2:])
    dump.swap(first, second, PAGE)
    return Place()


@missed("snappy", "raw page zeroed", "a page of zeros is a page; a manifest or a digest finds it")
def raw_page_zeroed(dump: Dump) -> Place:
    dump.put(dump.kdump.place(dump.kdump.pages(RAW)[-1])[1], bytes(PAGE))
    return Place()


@found("snappy", "data of one page zeroed", "pages", "E103")
def data_zeroed(dump: Dump) -> Place:
    pfn, start, end = dump.kdump.place(dump.kdump.middle(SNAPPY))
    dump.put(start, bytes(end - start))
    return Place(frames=(pfn, pfn + 1), data=(start, end), pfn=pfn, offset=start)


@found("zstd", "64 KiB of data zeroed", "pages", "E103")
def data_hole(dump: Dump) -> Place:
    kdump = dump.kdump
    rank = kdump.middle(ZSTD)
    dump.put(kdump.place(rank)[1], bytes(1 << 16))
    return Place(pfn=kdump.place(rank)[0])


@found("zstd", "1 MiB of another dump over the data", "pages", "E103")
def data_foreign(dump: Dump) -> Place:
    kdump = dump.kdump
    rank = kdump.middle(ZSTD)
    dump.put(kdump.place(rank)[1], dump.get(1 << 20, 1 << 20)[::-1])
    return Place(pfn=kdump.place(rank)[0])


@found("zlib", "data of two compressed pages swapped, sizes kept", "pages", "E103")
def data_swapped(dump: Dump) -> Place:
    kdump = dump.kdump
    ranks = kdump.pages(ZLIB)
    first = ranks[200]
    second = next(rank for rank in ranks[201:] if kdump.rows[rank]["size"] == kdump.rows[first]["size"] + 40)
    one, two = kdump.blob(first), kdump.blob(second)
    dump.put(kdump.place(first)[1], two[: len(one)])
    dump.put(kdump.place(second)[1], one)
    return Place(pfn=kdump.place(first)[0])


# -- kdump: cut and spliced -------------------------------------------------------------------------------------------


@found("zstd", "last byte cut off", "quick", "E104")
def cut_last_byte(dump: Dump) -> Place:
    kdump = dump.kdump
    rank = int(kdump.rows["offset"].argmax())
    pfn, start, end = kdump.place(rank)
    dump.cut(end - 1)
    return Place(pfn=pfn, offset=start)


@found("zstd", "second half cut off", "quick", "E104")
def cut_half(dump: Dump) -> Place:
    dump.cut(dump.size // 2)
    return Place()


@found("zstd", "cut within the descriptors", "quick", "E102")
def cut_table(dump: Dump) -> Place:
    dump.cut(dump.kdump.at(1000) + 5)
    return Place()


@found("zstd", "cut within the bitmaps", "quick", "E102")
def cut_bitmap(dump: Dump) -> Place:
    dump.cut(dump.kdump.bitmap2 + 100)
    return Place()


@found("zstd", "cut within the headers", "quick", "E102")
def cut_header(dump: Dump) -> Place:
    dump.cut(4096 + 20)
    return Place()


@found("zstd", "1 MiB removed from the middle", "quick", "E104")
def middle_removed(dump: Dump) -> Place:
    half = dump.size // 2
    dump.remove(half, half + (1 << 20))
    return Place()


@found("zstd", "one block doubled in the middle: all after it moved", "pages", "E103")
def middle_doubled(dump: Dump) -> Place:
    data = dump.path.read_bytes()
    half = dump.kdump.place(dump.kdump.middle(ZSTD))[1]
    dump.path.write_bytes(data[:half] + data[half - 4096 : half] + data[half:])
    return Place()


@found("zstd", "another file's bytes appended", "structure", "W223", 0)
def appended(dump: Dump) -> Place:
    end = dump.size
    dump.put(end, dump.get(0, 1 << 16))
    return Place(offset=end, word="65536 bytes")


# -- split sets -------------------------------------------------------------------------------------------------------


@found("split", "a member is missing", "quick", "E152", 1)
def member_missing(dump: Dump) -> Place:
    dump.paths.pop().unlink()
    return Place()


@found("split", "a member cut off", "quick", "E104")
def member_cut(dump: Dump) -> Place:
    with open(dump.paths[-1], "r+b") as stream:
        stream.truncate(dump.paths[-1].stat().st_size - 5000)
    return Place()


@found("split", "a member's bitmap changed: no longer of the set", "quick", "E152", 1)
def member_foreign(dump: Dump) -> Place:
    at = dump.kdump.bitmap2 + 100
    data = bytearray(dump.paths[-1].read_bytes())
    data[at] ^= 1
    dump.paths[-1].write_bytes(data)
    return Place()


@found("split", "a member's frame range changed to reach past the end", "quick", "E101")
def member_range(dump: Dump) -> Place:
    dump.pack(4096 + 88, "<Q", 1 << 40)
    return Place()


@missed("split", "members' names exchanged", "no damage: the set is told by its headers")
def members_renamed(dump: Dump) -> Place:
    first, _, second = dump.paths
    first.rename(first.with_name("x"))
    second.rename(first)
    first.with_name("x").rename(second)
    return Place()


# -- flattened streams ------------------------------------------------------------------------------------------------


def _records(dump: Dump) -> Iterator[tuple[int, int, int]]:
    # (place of the record's head, offset, size) of each record
    at = 4096
    while True:
        offset, size = dump.unpack(at, ">qq")
        if offset < 0:
            yield at, offset, size
            return
        yield at, offset, size
        at += 16 + size


@found("flat", "type in the stream's header flipped", "quick", "E154", 6)
def flat_type(dump: Dump) -> Place:
    dump.flip(23, 3)
    return Place()


@found("flat", "offset of a record negative", "quick", "E109")
def flat_offset(dump: Dump) -> Place:
    at, _, _ = list(_records(dump))[20]
    dump.pack(at, ">q", -7)
    return Place()


@found("flat", "size of a record larger than the file", "quick", "E109")
def flat_size(dump: Dump) -> Place:
    at, _, _ = list(_records(dump))[20]
    dump.pack(at + 8, ">q", 1 << 40)
    return Place()


@found("flat", "size of a record smaller by 8", "quick", "E109")
def flat_size_off(dump: Dump) -> Place:
    at, _, size = list(_records(dump))[20]
    dump.pack(at + 8, ">q", size - 8)
    return Place()


@found("flat", "end record cut off", "quick", "E109")
def flat_no_end(dump: Dump) -> Place:
    dump.cut(list(_records(dump))[-1][0])
    return Place()


@found("flat", "cut in the middle", "quick", "E109")
def flat_cut(dump: Dump) -> Place:
    dump.cut(dump.size // 2)
    return Place()


# -- canonical ELF ----------------------------------------------------------------------------------------------------


@found("canonical", "magic number flipped", "quick", "E154", 6)
def elf_magic(dump: Dump) -> Place:
    dump.flip(1)
    return Place()


@found("canonical", "e_type changed", "quick", "E155", 6)
def elf_type(dump: Dump) -> Place:
    dump.pack(16, "<H", 2)
    return Place(word="type 2")


@found("canonical", "e_machine changed", "structure", "E124")
def elf_machine(dump: Dump) -> Place:
    dump.pack(18, "<H", 183)
    return Place()


@found("canonical", "e_phoff past the end", "quick", "E102")
def elf_phoff(dump: Dump) -> Place:
    dump.pack(32, "<Q", 1 << 40)
    return Place()


@found("canonical", "e_phnum one less: the last segment is gone", "structure", "E123")
def elf_phnum(dump: Dump) -> Place:
    (count,) = dump.unpack(56, "<H")
    dump.pack(56, "<H", count - 1)
    return Place(word="the file at")


@found("canonical", "e_flags says incomplete", "quick", "E201", 4)
def elf_flags(dump: Dump) -> Place:
    dump.flip(48)
    return Place()


def _ram(dump: Dump) -> tuple[int, int]:
    # (number of the first RAM segment among the program headers, of the last)
    loads = [index for index, phdr in enumerate(dump.core.phdrs) if phdr.p_type == 1]
    first = next(index for index in loads if dump.core.phdrs[index].p_vaddr < 0xFFFFFFFF80000000)
    return first, loads[-1]


def _phdr(index: int, field: int) -> int:
    return EHDR + PHDR * index + field


@found("canonical", "p_type of the notes changed", "structure", "W216", 0)
def phdr_note_type(dump: Dump) -> Place:
    dump.pack(_phdr(0, 0), "<I", 6)
    return Place()


@found("canonical", "p_filesz of the notes larger than the file", "quick", "E102")
def phdr_note_size(dump: Dump) -> Place:
    dump.pack(_phdr(0, 32), "<Q", 1 << 40)
    return Place()


@found("canonical", "p_align set", "structure", "E124")
def phdr_align(dump: Dump) -> Place:
    dump.pack(_phdr(_ram(dump)[0], 48), "<Q", 4096)
    return Place(word="p_align")


@found("canonical", "p_paddr of a segment into another one", "quick", "E101")
def phdr_paddr(dump: Dump) -> Place:
    first, _ = _ram(dump)
    dump.pack(_phdr(first + 2, 24), "<Q", dump.core.phdrs[first + 1].p_paddr)
    return Place(word="program headers")


@found("canonical", "p_memsz larger than p_filesz", "structure", "E125")
def phdr_memsz(dump: Dump) -> Place:
    first, _ = _ram(dump)
    dump.pack(_phdr(first, 40), "<Q", dump.core.phdrs[first].p_memsz + PAGE)
    return Place(word="p_memsz")


@found("canonical", "p_offset of the last segment past the end", "quick", "E102")
def phdr_offset(dump: Dump) -> Place:
    dump.pack(_phdr(_ram(dump)[1], 8), "<Q", 1 << 40)
    return Place()


@found("canonical", "p_vaddr zeroed everywhere", "structure", "E127")
def phdr_vaddr(dump: Dump) -> Place:
    for index in range(1, len(dump.core.phdrs)):
        dump.pack(_phdr(index, 16), "<Q", 0)
    return Place(word="p_vaddr")


@found("canonical", "text alias moved to other bytes of the file", "structure", "E124")
def phdr_alias(dump: Dump) -> Place:
    dump.pack(_phdr(1, 8), "<Q", dump.core.phdrs[1].p_offset + PAGE)
    return Place(word="alias")


@found("canonical", "bytes appended to a canonical file", "structure", "E123")
def elf_appended(dump: Dump) -> Place:
    dump.put(dump.size, b"more")
    return Place()


def _own_note(dump: Dump, kind: int) -> tuple[int, int]:
    # (place of the note, of its description) of one of our notes
    note = next(each for each in dump.core.notes if each.name == b"DUMPCONV\0" and each.type == kind)
    return note.offset, note.offset + 12 + 12


@found("canonical", "content digest in our note flipped", "pages", "E110", 5)
def note_digest(dump: Dump) -> Place:
    _, desc = _own_note(dump, 0x44430001)
    digest = _content_digest(dump)
    at = dump.get(desc, 4096).index(digest)
    dump.flip(desc + at)
    return Place(word=digest.hex())


def _content_digest(dump: Dump) -> bytes:
    # written by the program that converted; where it lies in the note is docs/canonical.md's
    _, desc = _own_note(dump, 0x44430001)
    return dump.get(desc + 8, 32)


@found("canonical", "state digest in our note flipped", "pages", "E111", 5)
def note_state_digest(dump: Dump) -> Place:
    _, desc = _own_note(dump, 0x44430001)
    dump.flip(desc + 8 + 32 + 3)
    return Place()


@found("canonical", "list of page states in our note flipped", "quick", "E101")
def note_states(dump: Dump) -> Place:
    note = next(each for each in dump.core.notes if each.name == b"DUMPCONV\0" and each.type == 0x44430001)
    dump.flip(note.offset + 24 + len(note.desc) - 6)
    return Place()


@found("canonical", "name of our provenance note flipped", "structure", "E130")
def note_provenance(dump: Dump) -> Place:
    at, _ = _own_note(dump, 0x44430002)
    dump.flip(at + 12)
    return Place()


@found("canonical", "name of our state note flipped", "structure", "E130")
def note_states_name(dump: Dump) -> Place:
    at, _ = _own_note(dump, 0x44430001)
    dump.flip(at + 12)
    return Place()


@found("canonical", "bit of a page of a canonical file", "pages", "E110", 5)
def elf_page(dump: Dump) -> Place:
    dump.flip(dump.size - 5000)
    return Place()


@found("canonical", "two pages of a canonical file swapped", "pages", "E110", 5)
def elf_pages_swapped(dump: Dump) -> Place:
    load = next(each for each in dump.core.loads if each.p_filesz > 64 * PAGE)
    dump.swap(load.p_offset + 10 * PAGE, load.p_offset + 20 * PAGE, PAGE)
    return Place()


@found("canonical", "last page of a canonical file cut off", "quick", "E102")
def elf_cut(dump: Dump) -> Place:
    dump.cut(dump.size - PAGE)
    return Place()


@missed("canonical", "p_flags of a segment changed", "no reader needs them; a manifest of the file finds it")
def phdr_flags(dump: Dump) -> Place:
    dump.pack(_phdr(1, 4), "<I", 4)
    return Place()


# -- other programs' ELF files -----------------------------------------------------------------------------------------


@found("other", "last page of makedumpfile's ELF cut off", "quick", "E102")
def other_cut(dump: Dump) -> Place:
    dump.cut(dump.size - PAGE)
    return Place()


@missed("other", "bit of a page of makedumpfile's ELF", "no checksum anywhere; a manifest finds it")
def other_page(dump: Dump) -> Place:
    load = max(dump.core.loads, key=lambda each: each.p_offset)
    dump.flip(load.p_offset + load.p_filesz - 100)
    return Place()


@found("s390x", "QEMU's s390x ELF cut to a half", "quick", "E102")
def s390x_cut(dump: Dump) -> Place:
    dump.cut(dump.size // 2)
    return Place()


@found("s390x", "note of QEMU's s390x ELF: its size flipped", "quick", "E107")
def s390x_note(dump: Dump) -> Place:
    dump.flip(dump.core.notes[0].offset + 4 + 1, 6)
    return Place()


# -- outer compression ------------------------------------------------------------------------------------------------


@found("outer-xz", "bit of an outer xz file", "quick", "E109")
def xz_flipped(dump: Dump) -> Place:
    dump.flip(dump.size // 2)
    return Place()


@found("outer-xz", "outer xz file cut off", "quick", "E109")
def xz_cut(dump: Dump) -> Place:
    dump.cut(dump.size // 2)
    return Place()


@found("outer-zst", "bit of an outer zstd file", "quick", "E109")
def zst_flipped(dump: Dump) -> Place:
    dump.flip(dump.size // 2)
    return Place()


@found("outer-zst", "outer zstd file cut off", "quick", "E109")
def zst_cut(dump: Dump) -> Place:
    dump.cut(dump.size // 2)
    return Place()


# -- LKCD, LiME, AVML, s390 with real pages ---------------------------------------------------------------------------


def _lkcd(dump: Dump) -> list[tuple[int, int, int, int]]:
    # (place, address, size, flags) of each record
    out, at = [], 65536
    while at + 16 <= dump.size:
        address, size, flags = dump.unpack(at, "<QII")
        out.append((at, address, size, flags))
        at += 16 + size
    return out


@found("lkcd", "bit of an LKCD page's gzip data", "pages", "E103")
def lkcd_data(dump: Dump) -> Place:
    at, address, size, _ = _lkcd(dump)[30]
    dump.flip(at + 16 + size // 2)
    pfn = address // PAGE
    return Place(frames=(pfn, pfn + 1), data=(at + 16, at + 16 + size), pfn=pfn)


@found("lkcd", "size in an LKCD record larger than a page", "quick", "E101")
def lkcd_size(dump: Dump) -> Place:
    at, _, _, _ = _lkcd(dump)[30]
    dump.pack(at + 8, "<I", 1 << 20)
    return Place()


@found("lkcd", "LKCD file cut within a page", "quick", "E102")
def lkcd_cut(dump: Dump) -> Place:
    at, _, size, _ = _lkcd(dump)[30]
    dump.cut(at + 16 + size // 2)
    return Place()


@found("lkcd", "END record of an LKCD file says `truncated`", "quick", "E201", 4)
def lkcd_end(dump: Dump) -> Place:
    at, _, _, flags = _lkcd(dump)[-1]
    dump.pack(at + 12, "<I", flags | 8)
    return Place()


@found("lkcd", "signature of LKCD flipped", "quick", "E154", 6)
def lkcd_signature(dump: Dump) -> Place:
    dump.flip(2)
    return Place()


@found("lime", "LiME range reversed", "quick", "E101")
def lime_range(dump: Dump) -> Place:
    at = 32 + NR_SMALL // 2 * PAGE
    dump.pack(at + 8, "<QQ", 0x90000, 0x80000)
    return Place()


@found("lime", "LiME file cut off", "quick", "E102")
def lime_cut(dump: Dump) -> Place:
    dump.cut(dump.size - PAGE)
    return Place()


@missed("lime", "bit of a LiME page", "raw pages without any checksum; a manifest finds it")
def lime_page(dump: Dump) -> Place:
    dump.flip(32 + 5 * PAGE)
    return Place()


@found("avml", "bit of a block of AVML: its CRC-32C is wrong", "pages", "E103")
def avml_block(dump: Dump) -> Place:
    dump.flip(dump.size - 8 - 1000)  # the last of two blocks of the second range
    return Place(frames=(0x80 + NR_SMALL // 4, 0x80 + NR_SMALL // 2), pfn=0x80 + NR_SMALL // 4)


@found("s390", "s390 dump cut before its end marker", "quick", "E102")
def s390_cut(dump: Dump) -> Place:
    dump.cut(dump.size - 20 * PAGE)
    return Place()


@missed("s390", "bit of a page of a plain s390 dump", "raw pages without any checksum; a manifest finds it")
def s390_page(dump: Dump) -> Place:
    dump.flip(PAGE + 7 * PAGE)
    return Place()


# -- the note ---------------------------------------------------------------------------------------------------------


def tables() -> str:
    """Give the two tables of docs/damage.md."""
    lines = ["| damage | found by level | code | exit status |", "|---|---|---|---|"]
    lines += [f"| {kind.what} | {kind.level} | {kind.code} | {kind.exit_code} |" for kind in KINDS if kind.level]
    lines += ["", "| damage that no check finds | why, and what does |", "|---|---|"]
    lines += [f"| {kind.what} | {kind.why} |" for kind in KINDS if not kind.level]
    return "\n".join(lines)


if __name__ == "__main__":
    print(tables())
