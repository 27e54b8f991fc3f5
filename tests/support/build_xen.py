# SPDX-License-Identifier: GPL-2.0-or-later
"""Builds Xen's guest dumps and save images, honest or hostile, packed by hand from the format sheet."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from .build_elf import pack_ehdr, pack_shdr
from .notes import encode

ONES = (1 << 64) - 1
PAGE = 4096
PV_MAGIC, HVM_MAGIC = 0xF00FEBED, 0xF00FEBEE
CONTEXT_SIZE = {64: 5168, 32: 2800}
# section 1.4 of the sheet, written out once more
USER_64 = ("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi")
USER_32 = ("ebx", "ecx", "edx", "esi", "edi", "ebp", "eax")
AT_64 = {name: (520 + 8 * index, "Q") for index, name in enumerate(USER_64)} | {
    "flags": (512, "Q"), "rip": (648, "Q"), "cs": (656, "H"), "rflags": (664, "Q"), "rsp": (672, "Q"),
    "ss": (680, "H"), "es": (688, "H"), "ds": (696, "H"), "fs": (704, "H"), "gs": (712, "H"), "cr3": (5008, "Q"),
    "fs_base": (5144, "Q"), "gs_base_kernel": (5152, "Q"), "gs_base_user": (5160, "Q"),
}  # fmt: skip
AT_32 = {name: (516 + 4 * index, "I") for index, name in enumerate(USER_32)} | {
    "flags": (512, "I"), "eip": (548, "I"), "cs": (552, "H"), "eflags": (556, "I"), "esp": (560, "I"),
    "ss": (564, "H"), "es": (568, "H"), "ds": (572, "H"), "fs": (576, "H"), "gs": (580, "H"), "cr3": (2728, "I"),
}  # fmt: skip


def context(bits: int = 64, **registers: int) -> bytes:
    """Pack a vcpu_guest_context."""
    raw = bytearray(CONTEXT_SIZE[bits])
    places = AT_64 if bits == 64 else AT_32
    for name, value in registers.items():
        at, code = places[name]
        struct.pack_into("<" + code, raw, at, value)
    return bytes(raw)


def version_note(capabilities: bytes = b"xen-3.0-x86_64 hvm-3.0-x86_64", order: str = "<") -> bytes:
    """Pack the descriptor of XEN_VERSION: 1280 bytes."""
    strings = (b".7", b"gcc", b"builder", b"example.org", b"Mon Nov 23 2026", capabilities, b"changeset")
    sizes = (16, 64, 16, 32, 32, 1024, 64)
    text = b"".join(string.ljust(size, b"\0") for string, size in zip(strings, sizes, strict=True))
    out = struct.pack(order + "QQ", 4, 17) + text + struct.pack(order + "QQ", 0xFFFF800000000000, PAGE)
    assert len(out) == 1280
    return out


@dataclass
class CoreSpec:
    """An xc_core file.

    `rows` are (pfn, machine frame or None, content) in the file's order; a pfn of all ones is an empty row.
    `paired` writes .xen_p2m, else .xen_pfn; `map_before_pages` has map and names before the pages.
    What is not None overrides the honest value.
    """

    rows: Sequence[tuple[int, int, bytes]]
    paired: bool = True
    contexts: Sequence[bytes] = ()
    stride: int = 5168
    bits: int = 64
    order: str = "<"
    machine: int = 62
    magic: int | None = None
    note_name: bytes = b"Xen\0"
    shared_info: bytes | None = bytes(PAGE)
    page_size: int = PAGE
    nr_pages: int | None = None
    nr_vcpus: int | None = None
    note_page_size: int | None = None
    format_version: int = 1
    notes: bool = True
    capabilities: bytes = b"xen-3.0-x86_64"
    map_before_pages: bool = False
    sections: Mapping[bytes, Mapping[str, int]] = field(default_factory=dict)  # fields of a section that lie
    drop: Sequence[bytes] = ()
    ehdr: Mapping[str, int] = field(default_factory=dict)
    cut: int | None = None


def core(spec: CoreSpec) -> bytes:
    """Build the file as Xen lays it out: headers, notes, contexts, shared info, pages, map, names."""
    order = spec.order
    names = [b".note.Xen", b".xen_prstatus"]
    names += [b".xen_shared_info"] if spec.shared_info is not None else []
    table_name = b".xen_p2m" if spec.paired else b".xen_pfn"
    names += [table_name, b".xen_pages"] if spec.map_before_pages else [b".xen_pages", table_name]
    names = [name for name in names if name not in spec.drop]
    parts = {
        b".note.Xen": _core_notes(spec) if spec.notes else b"",
        b".xen_prstatus": b"".join(raw.ljust(spec.stride, b"\0") for raw in spec.contexts),
        b".xen_shared_info": spec.shared_info or b"",
        b".xen_pages": b"".join(content for _, _, content in spec.rows),
        table_name: b"".join(
            struct.pack(order + "QQ", pfn, mfn) if spec.paired else struct.pack(order + "Q", pfn)
            for pfn, mfn, _ in spec.rows
        ),
    }
    entsize = {
        b".xen_prstatus": spec.stride, b".xen_shared_info": PAGE, b".xen_pages": spec.page_size, b".xen_p2m": 16,
        b".xen_pfn": 8,
    }  # fmt: skip
    header_size, shdr_size = (64, 64) if spec.bits == 64 else (52, 40)
    strings = b"\0.shstrtab\0" + b"".join(name + b"\0" for name in names)
    out = bytearray(header_size + (2 + len(names)) * shdr_size)
    places = {}
    strings_offset = len(out)
    out += strings if spec.map_before_pages else b""
    for name in names:
        if name == b".xen_pages":
            out += bytes(-len(out) % spec.page_size)
        places[name] = len(out)
        out += parts[name]
    if not spec.map_before_pages:  # as Xen has them: last
        strings_offset = len(out)
        out += strings
    headers = pack_shdr(spec.bits, order, {})
    strtab = {"sh_name": 1, "sh_type": 3, "sh_offset": strings_offset, "sh_size": len(strings)}
    headers += pack_shdr(spec.bits, order, strtab | dict(spec.sections.get(b".shstrtab", {})))
    for name in names:
        fields = {
            "sh_name": strings.index(b"\0" + name + b"\0") + 1,
            "sh_type": 7 if name == b".note.Xen" else 1,
            "sh_offset": places[name],
            "sh_size": len(parts[name]),
            "sh_addralign": 0 if name == b".note.Xen" else spec.page_size if name == b".xen_pages" else 8,
            "sh_entsize": entsize.get(name, 0),
        }
        headers += pack_shdr(spec.bits, order, fields | dict(spec.sections.get(name, {})))
    ehdr = {
        "e_type": 4, "e_machine": spec.machine, "e_version": 1, "e_shoff": header_size, "e_ehsize": header_size,
        "e_phentsize": 56 if spec.bits == 64 else 32, "e_shentsize": shdr_size, "e_shnum": 2 + len(names),
        "e_shstrndx": 1, **spec.ehdr,
    }  # fmt: skip
    out[:header_size] = pack_ehdr(spec.bits, order, ehdr, {8: 1})
    out[header_size : header_size + len(headers)] = headers
    return bytes(out if spec.cut is None else out[: spec.cut])


def _core_notes(spec: CoreSpec) -> bytes:
    magic = spec.magic if spec.magic is not None else PV_MAGIC if spec.paired else HVM_MAGIC
    header = struct.pack(
        spec.order + "4Q",
        magic,
        len(spec.contexts) if spec.nr_vcpus is None else spec.nr_vcpus,
        len(spec.rows) if spec.nr_pages is None else spec.nr_pages,
        spec.page_size if spec.note_page_size is None else spec.note_page_size,
    )
    descs = (
        (0x2000000, b""),
        (0x2000001, header),
        (0x2000002, version_note(spec.capabilities, spec.order)),
        (0x2000003, struct.pack(spec.order + "Q", spec.format_version)),
    )
    return b"".join(encode(spec.note_name, kind, desc, order=spec.order) for kind, desc in descs)


def old_core(
    pages: Sequence[tuple[int, bytes]],
    contexts: Sequence[bytes] = (),
    *,
    magic: int = PV_MAGIC,
    word: int = 8,
    **fields: int,
) -> bytes:
    """Build an xc_core file before ELF: `pages` are (machine frame, content); fields override the header's."""
    size = len(contexts[0]) if contexts else 0
    index_offset = 24 + len(contexts) * size
    index = b"".join(struct.pack("<Q" if word == 8 else "<I", mfn & (1 << 8 * word) - 1) for mfn, _ in pages)
    pages_offset = -(-(index_offset + len(index)) // PAGE) * PAGE
    header = {
        "magic": magic, "nr_vcpus": len(contexts), "nr_pages": len(pages), "ctxt_offset": 24,
        "index_offset": index_offset, "pages_offset": pages_offset,
    } | fields  # fmt: skip
    out = struct.pack("<6I", *header.values()) + b"".join(contexts) + index
    return out.ljust(pages_offset, b"\0") + b"".join(content for _, content in pages)


# -- streams v2 and v3 ---------------------------------------------------------------------------------------------

Entry = tuple[int, int, bytes | None]  # type, frame, content


def record(kind: int, body: bytes = b"", *, order: str = "<", length: int | None = None) -> bytes:
    """Pack one record of libxc or libxl."""
    return struct.pack(order + "II", kind, len(body) if length is None else length) + body + bytes(-len(body) % 8)


def page_data(entries: Iterable[Entry], *, order: str = "<", count: int | None = None) -> bytes:
    """Pack one PAGE_DATA record."""
    entries = list(entries)
    body = struct.pack(order + "II", len(entries) if count is None else count, 0)
    body += b"".join(struct.pack(order + "Q", kind << 60 | pfn) for kind, pfn, _ in entries)
    body += b"".join(content for _, _, content in entries if content is not None)
    return record(1, body, order=order)


def libxc(
    records: Iterable[bytes],
    *,
    kind: int = 1,
    version: int = 3,
    order: str = "<",
    page_shift: int = 12,
    end: bool = True,
) -> bytes:
    """Pack a libxc image: kind 1 is PV, 2 HVM."""
    header = struct.pack(">QIIH6x", ONES, 0x58454E46, version, int(order == ">"))
    header += struct.pack(order + "IHHII", kind, page_shift, 0, 4, 17)
    return header + b"".join(records) + (record(0, order=order) if end else b"")


def libxl(image: bytes, *, order: str = "<", before: bytes = b"", after: bytes = b"", version: int = 2) -> bytes:
    """Pack a libxl stream around a libxc image."""
    header = struct.pack(">8sII", b"LibxlFmt", version, int(order == ">"))
    return header + before + record(1, order=order) + image + after + record(0, order=order)


def pv_records(
    batches: Iterable[Iterable[Entry]],
    contexts: Sequence[bytes] = (),
    *,
    width: int = 8,
    order: str = "<",
    shared_info: bytes = bytes(PAGE),
    version: int = 3,
) -> list[bytes]:
    """Give the records of a PV image in Xen's order."""
    out = [record(2, struct.pack("BB6x", width, 4 if width == 8 else 3), order=order)]
    if version == 3:
        out += [record(0x11, bytes(24), order=order), record(0x12, bytes(16), order=order), record(0x10, order=order)]
    out.append(record(3, struct.pack(order + "IIQQ", 0, 1023, 5, 6), order=order))
    out += [page_data(batch, order=order) for batch in batches]
    out.append(record(8, bytes(24), order=order))
    out.append(record(7, shared_info, order=order))
    for cpu, raw in enumerate(contexts):
        head = struct.pack(order + "II", cpu, 0)
        out += [record(4, head + raw, order=order), record(5, head + bytes(128), order=order)]
    return out


def hvm_context(cpus: Sequence[bytes], *, end: bool = True) -> bytes:
    """Pack the chain of an HVM context."""
    chain = struct.pack("<HHI", 1, 0, 24) + struct.pack("<IIQIi", 0x54381286, 2, 0, 0, 0)
    for number, raw in enumerate(cpus):
        chain += struct.pack("<HHI", 2, number, len(raw)) + raw
    return chain + (struct.pack("<HHI", 0, 0, 0) if end else b"")


def hvm_cpu(
    general: Sequence[int] = tuple(range(0x100, 0x112)),
    control: Sequence[int] = (0x80050033, 0, 0x2000, 0x6F0),
    selectors: Sequence[int] = (0x10, 0x18, 0x19, 0x1A, 0x1B, 0x1C, 0x40, 0),
    bases: Sequence[int] = (0, 0, 0, 0x7F00, 0xFFFF888000000000, 0, 1, 0, 2, 3),
    *,
    efer: int = 0xD01,
    shadow_gs: int = 0x5678,
) -> bytes:
    """Pack an HVM CPU record: general is rax rbx rcx rdx rbp rsi rdi rsp r8-r15 rip rflags."""
    raw = bytearray(1032)
    struct.pack_into("<18Q", raw, 512, *general)
    struct.pack_into("<4Q", raw, 656, *control)
    struct.pack_into("<8I", raw, 736, *selectors)
    struct.pack_into("<10I", raw, 768, *range(0x1000, 0x100A))
    struct.pack_into("<10Q", raw, 808, *bases)
    struct.pack_into("<8I", raw, 888, 0xA9B, 0xC93, 0xC93, 0, 0, 0xC93, 0x8B, 0)
    struct.pack_into("<Q", raw, 944, shadow_gs)
    struct.pack_into("<Q", raw, 992, efer)
    return bytes(raw)


# -- legacy stream -------------------------------------------------------------------------------------------------


def batch(entries: Iterable[Entry], word: int = 8, *, count: int | None = None) -> bytes:
    """Pack one batch of a legacy stream."""
    entries = list(entries)
    code = "<Q" if word == 8 else "<I"
    out = struct.pack("<i", len(entries) if count is None else count)
    out += b"".join(struct.pack(code, kind << 28 | pfn) for kind, pfn, _ in entries)
    return out + b"".join(content for _, _, content in entries if content is not None)


@dataclass
class LegacySpec:
    """A legacy stream: `body` are packed batches and markers, in order."""

    body: Sequence[bytes]
    p2m_size: int = 600
    word: int = 8
    hvm: bool = False
    extended: Sequence[tuple[bytes, bytes]] | None = None  # blocks of the extended info; None: there is none
    width: int = 8
    contexts: Sequence[bytes] = ()
    after_context: bytes = b""
    unmapped: Sequence[int] = ()
    shared_info: bytes = bytes(PAGE)
    hvm_blob: bytes = b""
    after: bytes = b""


def legacy(spec: LegacySpec) -> bytes:
    """Pack a legacy stream."""
    code = "<Q" if spec.word == 8 else "<I"
    out = struct.pack(code, spec.p2m_size)
    if not spec.hvm:
        if spec.extended is not None:
            blocks = b"".join(name + struct.pack("<I", len(data)) + data for name, data in spec.extended)
            out += struct.pack(code, (1 << 8 * spec.word) - 1) + struct.pack("<I", len(blocks)) + blocks
        frames = (spec.p2m_size - 1) // (PAGE // spec.width) + 1
        out += b"".join(struct.pack(code, 0x100 + number) for number in range(frames))
    out += b"".join(spec.body) + struct.pack("<i", 0)
    if spec.hvm:
        out += struct.pack("<3Q", 1, 2, 3) + struct.pack("<I", len(spec.hvm_blob)) + spec.hvm_blob
    else:
        out += struct.pack("<I", len(spec.unmapped)) + b"".join(struct.pack(code, pfn) for pfn in spec.unmapped)
        out += b"".join(raw + spec.after_context for raw in spec.contexts) + spec.shared_info
    return out + spec.after


# -- wrappers ------------------------------------------------------------------------------------------------------


def xend(stream: bytes, config: bytes = b"(domain (domid 1) (image (linux)))", length: int | None = None) -> bytes:
    """Wrap as `xm save` does."""
    return b"LinuxGuestRecord" + struct.pack(">I", len(config) if length is None else length) + config + stream


def xl(
    stream: bytes,
    config: bytes = b'{ "c_info": { "type": "pv" } }\0',
    *,
    flags: int = 3,
    order: str = "<",
    length: int | None = None,
) -> bytes:
    """Wrap as `xl save` does; flags 3: configuration in JSON, stream v2."""
    optional = struct.pack(order + "I", len(config)) + config
    head = b"Xen saved domain, xl format\n \0 \r"
    head += struct.pack(order + "IIII", 0x01020304, flags, 0, len(optional) if length is None else length)
    return head + optional + stream


def libvirt(
    stream: bytes,
    xml: bytes = b"<domain type='xen'><os><type>linux</type></os></domain>\0",
    *,
    version: int = 2,
    order: str = "<",
    length: int | None = None,
) -> bytes:
    """Wrap as libvirt's libxl driver does."""
    head = b"libvirt-xml\n \0 \r" + struct.pack(order + "II", version, len(xml) if length is None else length)
    return head + bytes(40) + xml + stream
