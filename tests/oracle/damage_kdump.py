# SPDX-License-Identifier: GPL-2.0-or-later
"""Kinds of damage to a compressed kdump: headers, notes, bitmaps, descriptors, page data, cut and spliced files."""

from __future__ import annotations

from oracle.damage_bases import LZO, PAGE, RAW, SNAPPY, ZLIB, ZSTD, Dump
from oracle.damage_model import Place, found, missed

# -- kdump: headers ---------------------------------------------------------------------------------------------------


@found("zstd", "bit flipped in the signature", "quick", "E101", 3)
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
