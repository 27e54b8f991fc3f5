# SPDX-License-Identifier: GPL-2.0-or-later
"""What headers say about the system that crashed: from the source's header, its memory, or its notes, in this order."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

from ..formats.errors import DumpError, PageDecodeError
from ..formats.image import MemoryImage
from ..formats.machine import Machine
from ..formats.reader import DumpReader
from ..formats.statenote import read_provenance
from ..formats.vaddr import AddressMap
from ..formats.vmcoreinfo import VmcoreInfo
from .output import SystemFacts

__all__ = ["knows_phys_base", "system_facts"]

_UTS_FIELDS = ("sysname", "nodename", "release", "version", "machine", "domainname")
_UTS_LENGTH = 65
_MAX_LOG_BITS = 25  # the kernel's own limit of CONFIG_LOG_BUF_SHIFT
_PANIC = re.compile(rb"Kernel panic - not syncing: [\x20-\x7e]{1,200}")
_TEXT_BASE = 0xFFFFFFFF80000000
# `uname -m` where it is not our name of the architecture
_UTS_MACHINES = {("i386", "little"): b"i686", ("arm", "little"): b"armv7l", ("arm", "big"): b"armv7b"}


T = TypeVar("T")


def _uts_machine(machine: Machine) -> bytes:
    if machine.arch == "ppc64" and machine.byteorder == "little":
        return b"ppc64le"
    return _UTS_MACHINES.get((machine.arch, machine.byteorder), machine.arch.encode())


def knows_phys_base(reader: DumpReader) -> bool:
    """Whether headers and notes tell the kernel's place; else its memory must be read."""
    info = reader.vmcoreinfo or VmcoreInfo(b"")
    return reader.machine.arch != "x86_64" or info.number("phys_base") is not None or reader.phys_base is not None


def _phys_base(reader: DumpReader, addresses: AddressMap | None, info: VmcoreInfo) -> int | None:
    # QEMU's header has a wrong one: the kernel's own word first
    known = info.number("phys_base") if reader.machine.arch == "x86_64" else None
    if known is not None:
        return known
    if reader.phys_base is not None:
        return reader.phys_base
    if reader.machine.arch == "x86_64" and addresses is not None and addresses.text is not None:
        return addresses.text[0] - (addresses.text[1] - _TEXT_BASE)
    return None


class _Kernel:
    # The kernel's memory by its virtual addresses, as far as the address map has them.

    def __init__(self, image: MemoryImage, addresses: AddressMap, info: VmcoreInfo) -> None:
        self._image, self._addresses, self.info = image, addresses, info

    def read(self, vaddr: int, size: int) -> bytes:
        text = self._addresses.text
        for paddr, base, length in [*([text] if text is not None else []), *self._addresses.ranges]:
            if base <= vaddr < base + length:
                return self._image.read_physical(vaddr - base + paddr, size)
        raise PageDecodeError(f"nothing tells where {vaddr:#x} is")

    def integer(self, vaddr: int, size: int) -> int:
        return int.from_bytes(self.read(vaddr, size), self._image.machine.byteorder)

    def pointer(self, vaddr: int) -> int:
        return self.integer(vaddr, self._image.machine.word_size)

    def utsname(self) -> dict[str, bytes]:
        # init_uts_ns.name, as makedumpfile finds it
        symbol, offset = self.info.symbol("init_uts_ns"), self.info.offset_of("uts_namespace.name")
        if symbol is None or offset is None:
            return {}
        raw = self.read(symbol + offset, len(_UTS_FIELDS) * _UTS_LENGTH)
        parts = (raw[at : at + _UTS_LENGTH].split(b"\0")[0] for at in range(0, len(raw), _UTS_LENGTH))
        found = dict(zip(_UTS_FIELDS, parts, strict=True))
        return found if found["sysname"] == b"Linux" else {}

    def panic_string(self) -> bytes:
        # The log's line that tells why the kernel stopped: in printk's ring (since 5.10), or in log_buf before.
        if self.info.symbol("prb") is not None:
            return self._panic_in_ring(self.pointer(self.info.symbol("prb") or 0))
        buffer, length = self.info.symbol("log_buf"), self.info.symbol("log_buf_len")
        if buffer is None or length is None:
            return b""
        found = _PANIC.search(self.read(self.pointer(buffer), min(self.integer(length, 4), 1 << _MAX_LOG_BITS)))
        return found[0] if found else b""

    def _panic_in_ring(self, ring: int) -> bytes:
        # A text follows the number of its record, and ends where that record's printk_info says.
        wanted = (
            "printk_ringbuffer.text_data_ring",
            "printk_ringbuffer.desc_ring",
            "prb_data_ring.size_bits",
            "prb_data_ring.data",
            "prb_desc_ring.count_bits",
            "prb_desc_ring.infos",
            "printk_info.text_len",
        )
        at = {name.rpartition(".")[2]: self.info.offset_of(name) for name in wanted}
        info_size = self.info.size_of("printk_info")
        if info_size is None or None in at.values():
            return b""
        place = {name: offset or 0 for name, offset in at.items()}
        text, descs = ring + place["text_data_ring"], ring + place["desc_ring"]
        size = 1 << min(self.integer(text + place["size_bits"], 4), _MAX_LOG_BITS)
        data = self.read(self.pointer(text + place["data"]), size)
        found, word = _PANIC.search(data), self._image.machine.word_size
        if found is None or found.start() < word:
            return b""
        number = int.from_bytes(data[found.start() - word : found.start()], self._image.machine.byteorder)
        index = number % (1 << min(self.integer(descs + place["count_bits"], 4), _MAX_LOG_BITS))
        info = self.pointer(descs + place["infos"]) + index * info_size
        return found[0][: self.integer(info + place["text_len"], 2)]


def _try(read: Callable[[], T], otherwise: T) -> T:
    try:
        return read()
    except DumpError:
        return otherwise


def _of_source(reader: DumpReader) -> dict[str, Any]:
    # the header of the dump that a canonical file was made from, else of the dump itself
    facts: dict[str, Any] = reader.facts
    if reader.provenance is not None:
        source = read_provenance(reader.provenance).get("source")
        facts = {**facts, **(source if isinstance(source, dict) else {})}
    return facts


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and 0 <= value < 1 << 64 else None


def system_facts(reader: DumpReader, image: MemoryImage | None, addresses: AddressMap | None) -> SystemFacts:
    """Collect what is known.

    Args:
        reader: The source.
        image, addresses: Its memory and address map, None where they cannot be had yet (a stream).
    """
    info = reader.vmcoreinfo or VmcoreInfo(b"")
    source = _of_source(reader)
    named = source.get("utsname")
    uts = {key: str(value).encode() for key, value in named.items()} if isinstance(named, dict) else {}
    panic_string = b""
    if image is not None and addresses is not None:
        kernel = _Kernel(image, addresses, info)
        if not uts.get("release"):
            uts = _try(kernel.utsname, {}) or uts
        panic_string = _try(kernel.panic_string, b"")
    release = (info.text("OSRELEASE") or "").encode()
    uts["release"] = uts.get("release") or release
    uts["machine"] = _uts_machine(reader.machine)
    if uts["release"]:
        uts["sysname"] = uts.get("sysname") or b"Linux"
    crashed = info.text("CRASHTIME") or ""
    timestamp = _number(source.get("timestamp")) or (int(crashed) if crashed.isdigit() and len(crashed) < 16 else 0)
    level = _number(source.get("dump_level"))
    return SystemFacts(
        uts,
        timestamp=timestamp,
        dump_level=level if level is not None and level < 1 << 31 else None,
        status=(_number(source.get("status")) or 0) if "dump_level" in source else 0,
        phys_base=_phys_base(reader, addresses, info),
        kernel_offset=info.hexadecimal("KERNELOFFSET"),
        panic_string=panic_string,
    )
