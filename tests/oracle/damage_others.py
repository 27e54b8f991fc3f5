# SPDX-License-Identifier: GPL-2.0-or-later
"""Kinds of damage to split sets, flattened streams, ELF files, packed files and other formats."""

from __future__ import annotations

from collections.abc import Iterator

from oracle.damage_bases import NR_SMALL, PAGE, Dump
from oracle.damage_model import Place, found, missed

EHDR, PHDR = 64, 56

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


@found("canonical", "magic number flipped", "quick", "E101", 3)
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


@found("outer-xz", "bit of an outer xz file", "structure", "E109")
def xz_flipped(dump: Dump) -> Place:
    dump.flip(dump.size // 2)
    return Place()


@found("outer-xz", "outer xz file cut off", "structure", "E109")
def xz_cut(dump: Dump) -> Place:
    dump.cut(dump.size // 2)
    return Place()


@found("outer-zst", "bit of an outer zstd file", "structure", "E109")
def zst_flipped(dump: Dump) -> Place:
    dump.flip(dump.size // 2)
    return Place()


@found("outer-zst", "outer zstd file cut off", "structure", "E109")
def zst_cut(dump: Dump) -> Place:
    dump.cut(dump.size // 2)
    return Place()


# -- memory that /proc/vmcore holds twice: the kernel's image, and RAM -----------------------------------------------


def _twice(dump: Dump) -> tuple[int, int, int]:
    # a frame of the image, its place in the image's own segment, its place in RAM's
    loads = [each for each in dump.core.phdrs if each.p_type == 1]
    image = next(each for each in loads if each.p_vaddr >= 0xFFFFFFFF80000000)
    address = image.p_paddr + 300 * PAGE
    ram = next(each for each in loads if each is not image and each.p_paddr <= address < each.p_paddr + each.p_filesz)
    return address // PAGE, image.p_offset + 300 * PAGE, ram.p_offset + address - ram.p_paddr


def _one_of_two(dump: Dump, *, image: bool) -> Place:
    pfn, in_image, in_ram = _twice(dump)
    dump.flip((in_image if image else in_ram) + 1234)
    return Place((pfn, pfn + 1), (in_ram, in_ram + PAGE), pfn, in_ram, f"at {in_ram:#x} and {in_image:#x}")


@found("vmcore", "bit of kernel text in the image's own segment", "kernel", "E144")
def text_in_image(dump: Dump) -> Place:
    return _one_of_two(dump, image=True)


@found("vmcore", "bit of kernel text among RAM", "kernel", "E144")
def text_in_ram(dump: Dump) -> Place:
    return _one_of_two(dump, image=False)


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
