# SPDX-License-Identifier: GPL-2.0-or-later
"""Save images of Xen guests: `xm save`, `xl save`, `virsh save`, and the bare streams inside them.

    LinuxGuestRecord    | length, configuration        | legacy stream
    Xen saved domain... | flags, configuration         | legacy stream, or libxl stream (flag 2)
    libvirt-xml...      | version, length, XML         | legacy stream, or libxl stream (version 2)
    LibxlFmt, ones XENF |                              | libxl stream, libxc image

A stream holds pages in batches of (type, frame) entries; a frame may come again and again while the guest runs on: the
last page counts. Page tables of PV guests were rewritten by the saver: they hold frames, not machine frames.

Sheet: docs/formats/xen-save.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

from numpy.typing import NDArray

from .errors import CorruptDump, TruncatedDump, UnsupportedDump
from .machine import ARCHITECTURES, ByteOrder, Machine
from .notes import Note, build_note
from .pages import PageState
from .reader import DumpReader, Options, parse
from .source import ByteSource
from .xen_guest import GuestImage
from .xen_layout import (
    ALL_ONES,
    NAME_P2M,
    NAME_SHARED_INFO,
    NAME_STATUS,
    NOTE_FORMAT_VERSION,
    NOTE_HEADER,
    NOTE_NAME,
    NOTE_NONE,
    XC_CORE_MAGIC,
    dumpcore_header,
    legacy_header,
    libvirt_header,
    xl_header,
)
from .xen_legacy import read_legacy
from .xen_registers import (
    CONTEXT_MACHINES,
    CONTEXT_SIZE,
    context_registers,
    context_root,
    hvm_cpus,
    register_note,
)
from .xen_stream import LIBXC_ID, LIBXL_IDENT, read_libxc, read_libxl
from .xen_tables import IdentityTable

__all__ = ["SIGNATURES", "XenSaveReader"]

_XEND = b"LinuxGuestRecord"
_XL = b"Xen saved domain, xl format\n \0 \r"
_LIBVIRT = b"libvirt-xml\n \0 \r"
_LIBXL = LIBXL_IDENT.to_bytes(8, "big")
_LIBXC = ALL_ONES.to_bytes(8, "big") + LIBXC_ID.to_bytes(4, "big")
SIGNATURES = (_XEND, _XL, _LIBVIRT, _LIBXL, _LIBXC)

_XL_ORDER = 0x01020304
_XL_JSON, _XL_STREAM_V2 = 1, 2
_MAX_CONFIG_READ = 1 << 20  # of the configuration, to find what kind of guest it was
HVM_NOTE = b".xen_hvm_context"


class _Wrapper(NamedTuple):
    # what is around a stream: the wrapper's name, where the stream begins and which it is, the guest's configuration
    name: str
    offset: int
    stream: str  # legacy, libxl or libxc
    config: bytes


class XenSaveReader(DumpReader):
    """A save image of a Xen guest.

    Args:
        sources: One file.
        options: See `Options`.

    Raises:
        CorruptDump, TruncatedDump: There is not even a first page.
        UnsupportedDump: A version, record or kind of guest that the sheet does not have.
    """

    name: ClassVar[str] = "xen-save"

    def __init__(self, sources: tuple[ByteSource, ...], options: Options) -> None:
        super().__init__(sources)
        self._source = sources[0]
        self._source.finish()  # the last page of a frame counts: all must be seen
        self.scanned = True
        self._wrapper = self._unwrap()
        self._image = self._read_stream()
        self.damage = self._image.damage
        # a frame that the machine lost while the guest ran
        self.incomplete = bool(self._image.pages.types[0xD])
        self._index, self.memory_map, overridden = self._image.pages.build()
        self._cpus, stopped = hvm_cpus(self._image.hvm_context) if self._image.hvm_context else ([], None)
        if stopped:
            self.remark("hvm-context", stopped)
        self.machine = self._tell_machine(options)
        self._make_notes()
        self._describe(overridden)

    @staticmethod
    def probe(source: ByteSource) -> bool:
        """See `DumpReader.probe`."""
        head = source.pread(0, min(32, source.size))
        return any(head.startswith(signature) for signature in SIGNATURES)

    def extents(self, start_pfn: int, end_pfn: int) -> NDArray[Any]:
        """See `DumpReader.extents`."""
        return self._index.extents(start_pfn, end_pfn)

    # -- the wrapper ---------------------------------------------------------------------------------------------

    def _unwrap(self) -> _Wrapper:
        head = self._source.pread(0, min(32, self._source.size))
        if head.startswith(_XEND):
            raw = parse(legacy_header(), self._source, 0, "xend's header")
            return self._behind("xm save", 20, raw.config_len, "legacy")
        if head.startswith(_XL):
            return self._unwrap_xl()
        if head.startswith(_LIBVIRT):
            return self._unwrap_libvirt()
        if head.startswith(_LIBXL):
            return _Wrapper("bare", 0, "libxl", b"")
        return _Wrapper("bare", 0, "libxc", b"")

    def _behind(self, name: str, offset: int, size: int, stream: str) -> _Wrapper:
        self._source.ensure(offset, offset + size)
        if offset + size > self._source.size:
            raise TruncatedDump(
                f"{name}: a configuration of {size} bytes at {offset}, the file has {self._source.size}",
                path=self._source.name,
                offset=offset,
            )
        config = self._source.pread(offset, min(size, _MAX_CONFIG_READ))
        return _Wrapper(name, offset + size, stream, config)

    def _unwrap_xl(self) -> _Wrapper:
        raw = self._source.pread(32, 4)
        orders: dict[bytes, ByteOrder] = {
            _XL_ORDER.to_bytes(4, "little"): "little",
            _XL_ORDER.to_bytes(4, "big"): "big",
        }
        if raw not in orders:
            raise CorruptDump(
                f"xl's byte order mark is {raw.hex()}, 01020304 in one order or the other is expected",
                path=self._source.name,
                offset=32,
            )
        header = parse(xl_header(orders[raw]), self._source, 0, "xl's header")
        unknown = header.mandatory_flags & ~(_XL_JSON | _XL_STREAM_V2)
        if unknown:
            raise UnsupportedDump(
                f"xl's header has mandatory flags {unknown:#x} that are not known", path=self._source.name, offset=36
            )
        stream = "libxl" if header.mandatory_flags & _XL_STREAM_V2 else "legacy"
        return self._behind("xl save", 48, header.optional_data_len, stream)

    def _unwrap_libvirt(self) -> _Wrapper:
        orders: tuple[ByteOrder, ...] = ("little", "big")
        headers = [parse(libvirt_header(order), self._source, 0, "libvirt's header") for order in orders]
        header = next((each for each in headers if each.version in (1, 2)), None)
        if header is None:
            raise UnsupportedDump(
                f"libvirt save image of version {headers[0].version}, 1 and 2 are known",
                path=self._source.name,
                offset=16,
            )
        return self._behind("virsh save", 64, header.xmlLen, "libxl" if header.version == 2 else "legacy")

    def _read_stream(self) -> GuestImage:
        wrapper = self._wrapper
        if wrapper.stream == "libxl":
            return read_libxl(self._source, wrapper.offset)
        if wrapper.stream == "libxc":
            return read_libxc(self._source, wrapper.offset)
        hvm = any(word in wrapper.config.lower() for word in (b"(hvm", b'"hvm"', b">hvm<"))
        return read_legacy(self._source, wrapper.offset, hvm=hvm)

    # -- machine and notes ---------------------------------------------------------------------------------------

    def _tell_machine(self, options: Options) -> Machine:
        image = self._image
        running = [cpu for cpu in self._cpus if cpu.pages]
        name = "x86_64"
        if image.word_size == 4 or (running and not any(cpu.is_64bit for cpu in running)):
            name = "i386"
        elif image.kind == "HVM" and not running:
            self.remark("machine", "no CPU tells whether the guest is 64-bit: x86_64 is assumed (--machine overrides)")
        arch = ARCHITECTURES[options.machine or name]
        if arch.name not in CONTEXT_MACHINES:
            raise UnsupportedDump(
                f"save images are of {' and '.join(CONTEXT_MACHINES)}, not {arch.name}", path=self._source.name
            )
        return Machine(arch.name, "little", arch.word_size, 4096, arch.e_machine)

    def _make_notes(self) -> None:
        image, arch = self._image, self.machine.arch
        if image.kind == "PV":
            self._pv_notes()
        for cpu in self._cpus:
            self.notes.append(register_note(cpu.registers, arch, "little", cpu.cpu))
        if arch == "x86_64":
            self.notes += [cpu.qemu_note() for cpu in self._cpus]
        if image.hvm_context:
            self.notes.append(build_note(HVM_NOTE, 0, image.hvm_context))
        if image.shared_info:
            self.notes.append(build_note(NAME_SHARED_INFO, 0, image.shared_info))
        if image.kind == "PV":
            self._pv_table()

    def _pv_notes(self) -> None:
        image = self._image
        width = image.word_size or 8
        size = CONTEXT_SIZE[width]
        whole = {cpu: raw for cpu, raw in sorted(image.contexts.items()) if len(raw) >= size}
        if len(whole) < len(image.contexts):
            self.remark("registers", f"{len(image.contexts) - len(whole)} contexts have less than {size} bytes")
        for cpu, raw in whole.items():
            self.notes.append(register_note(context_registers(raw, width), self.machine.arch, "little", cpu))
            root = context_root(raw, width)
            if root and self.machine.arch == "x86_64":
                self.page_table_roots.append((root, f"CR3 of vcpu {cpu}"))
        # as in an xc_core file: what crash wants to know of a paravirtual guest
        nr_pages = self.memory_map.count(PageState.STORED)
        header = dumpcore_header("little").build(
            {"xch_magic": XC_CORE_MAGIC, "xch_nr_vcpus": len(whole), "xch_nr_pages": nr_pages, "xch_page_size": 4096}
        )
        self.notes += [
            build_note(NOTE_NAME, NOTE_NONE, b""),
            build_note(NOTE_NAME, NOTE_HEADER, header),
            build_note(NOTE_NAME, NOTE_FORMAT_VERSION, (1).to_bytes(8, "little")),
        ]
        if whole:
            self.notes.append(build_note(NAME_STATUS, 0, b"".join(raw[:size] for raw in whole.values())))
        self.remark(
            "canonical-tables",
            "page tables of this guest hold frames where they held machine frames when it ran; its p2m list does not",
        )

    def _pv_table(self) -> None:
        # Its page tables hold frames: frame n is "machine frame" n.
        start, end = self.memory_map.only(PageState.STORED)
        table = IdentityTable(start, end)
        if 0 < table.size < 1 << 32:
            self.notes.append(Note(NAME_P2M + b"\0", 0, table, 0, table.size))

    def _describe(self, overridden: int) -> None:
        image = self._image
        names = {0xD: "broken", 0xE: "allocated_only", 0xF: "not_there"}
        self.facts = {
            "wrapper": self._wrapper.name,
            "stream": f"{self._wrapper.stream} {image.version}" if image.version else "legacy",
            "guest": image.kind,
            "xen": image.xen,
            "vcpus": len(image.contexts) or len(self._cpus),
            "entries": int(image.pages.types.sum()),
            "page_tables": int(image.pages.types[[1, 2, 3, 4, 9, 10, 11, 12]].sum()),
            **{name: int(image.pages.types[kind]) for kind, name in names.items()},
            "overridden": overridden,
            **image.facts,
        }

    def duplicates(self) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        """See `DumpReader.duplicates`: an older page of a frame is no copy of the newer one, so there are none."""
        return iter(())
