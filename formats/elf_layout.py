# SPDX-License-Identifier: GPL-2.0-or-later
"""Layout of ELF core files: construct schemas of the headers, and numpy forms of the program header table.

Source: docs/formats/elf.md section 1; System V gABI, chapters 4 and 5. The writer uses the same schemas.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from construct import Bytes, Const, Struct

from .machine import ByteOrder
from .reader import Ints

__all__ = [
    "ALL_ONES",
    "EHDR_SIZE",
    "ELF_MAGIC",
    "ET_CORE",
    "E_FLAGS_INCOMPLETE",
    "PHDR_SIZE",
    "PN_XNUM",
    "PT_LOAD",
    "PT_NOTE",
    "elf_header",
    "phdr_dtype",
    "program_header",
    "section_header",
]

ELF_MAGIC = b"\x7fELF"
ET_CORE, PT_LOAD, PT_NOTE, PN_XNUM = 4, 1, 4, 0xFFFF
E_FLAGS_INCOMPLETE = 1  # makedumpfile's mark: the writer ran out of space
ALL_ONES = 0xFFFFFFFFFFFFFFFF
EHDR_SIZE = {4: 52, 8: 64}
PHDR_SIZE = {4: 32, 8: 56}


@cache
def elf_header(byteorder: ByteOrder, word_size: int) -> Struct:
    """Schema of ElfN_Ehdr: 52 or 64 bytes."""
    ints = Ints(byteorder, word_size)
    return Struct(
        "ei_mag" / Const(ELF_MAGIC),  # 0
        "ei_class" / Bytes(1),  # 4
        "ei_data" / Bytes(1),  # 5
        "ei_version" / Bytes(1),  # 6
        "ei_rest" / Bytes(9),  # 7
        "e_type" / ints.u16,  # 16
        "e_machine" / ints.u16,  # 18
        "e_version" / ints.u32,  # 20
        "e_entry" / ints.ulong,  # 24
        "e_phoff" / ints.ulong,  # 28 / 32
        "e_shoff" / ints.ulong,  # 32 / 40
        "e_flags" / ints.u32,  # 36 / 48
        "e_ehsize" / ints.u16,  # 40 / 52
        "e_phentsize" / ints.u16,  # 42 / 54
        "e_phnum" / ints.u16,  # 44 / 56
        "e_shentsize" / ints.u16,  # 46 / 58
        "e_shnum" / ints.u16,  # 48 / 60
        "e_shstrndx" / ints.u16,  # 50 / 62
    )


@cache
def program_header(byteorder: ByteOrder, word_size: int) -> Struct:
    """Schema of ElfN_Phdr: 32 or 56 bytes. Tables are read with `phdr_dtype`, the same layout."""
    ints = Ints(byteorder, word_size)
    flags = ["p_flags" / ints.u32]
    middle = [
        "p_offset" / ints.ulong,  # 4 / 8
        "p_vaddr" / ints.ulong,  # 8 / 16
        "p_paddr" / ints.ulong,  # 12 / 24
        "p_filesz" / ints.ulong,  # 16 / 32
        "p_memsz" / ints.ulong,  # 20 / 40
    ]
    fields = [*flags, *middle] if word_size == 8 else [*middle, *flags]  # p_flags at 4 / 24
    return Struct("p_type" / ints.u32, *fields, "p_align" / ints.ulong)


@cache
def section_header(byteorder: ByteOrder, word_size: int) -> Struct:
    """Schema of ElfN_Shdr: 40 or 64 bytes; only the first is of interest (PN_XNUM)."""
    ints = Ints(byteorder, word_size)
    return Struct(
        "sh_name" / ints.u32,
        "sh_type" / ints.u32,
        "sh_flags" / ints.ulong,
        "sh_addr" / ints.ulong,
        "sh_offset" / ints.ulong,
        "sh_size" / ints.ulong,
        "sh_link" / ints.u32,
        "sh_info" / ints.u32,
        "sh_addralign" / ints.ulong,
        "sh_entsize" / ints.ulong,
    )


@cache
def phdr_dtype(byteorder: ByteOrder, word_size: int) -> np.dtype[Any]:
    """The numpy form of `program_header`; a property test proves both equal."""
    mark = "<" if byteorder == "little" else ">"
    word = f"{mark}u{word_size}"
    middle = [(name, word) for name in ("p_offset", "p_vaddr", "p_paddr", "p_filesz", "p_memsz")]
    flags = [("p_flags", mark + "u4")]
    fields = [*flags, *middle] if word_size == 8 else [*middle, *flags]
    return np.dtype([("p_type", mark + "u4"), *fields, ("p_align", word)])
