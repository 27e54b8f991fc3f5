# SPDX-License-Identifier: GPL-2.0-or-later
"""The corpus of Xen's guest dumps and save images: one small file per hazard of the sheet's Traps and Bad input."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from . import build_xen, patterns
from .build_xen import ONES, CoreSpec, Entry, LegacySpec
from .corpus_case import Case
from .x86_memory import pv_tables

PAGES = patterns.pages(3, 7) | {9: bytes(4096), 12: patterns.page(12, 4096, "random")}
MFNS = {pfn: 0x12345678 + 3 * pfn for pfn in PAGES}  # far beyond the number of pages
CONTEXTS = [build_xen.context(rip=0xFFFFFFFF81000100 + cpu, cs=0xE033, flags=4, rax=cpu) for cpu in range(2)]


def cases() -> Iterator[Case]:
    yield from _cores()
    yield from _bad_cores()
    yield from _old_cores()
    yield from _streams()
    yield from _bad_streams()
    yield from _legacy()
    yield from _wrappers()


def rows(pages: Mapping[int, bytes] = PAGES) -> list[tuple[int, int, bytes]]:
    return [(pfn, MFNS.get(pfn, pfn), content) for pfn, content in sorted(pages.items())]


def core_spec(**more: Any) -> CoreSpec:
    return CoreSpec(**({"rows": rows(), "contexts": CONTEXTS} | more))


def _format(name: str) -> str:
    return {"core": "xc_core", "old": "xc_core-old"}.get(name.split("-", maxsplit=1)[0], "xen-save")


def good(name: str, hazard: str, data: bytes, **more: Any) -> Case:
    return Case(_format(name), name, hazard, [data], **({"pages": PAGES} | more))


def refused(name: str, hazard: str, data: bytes, exit_code: int = 3) -> Case:
    return Case(_format(name), name, hazard, [data], refused=True, exit_code=exit_code)


# -- xc_core -------------------------------------------------------------------------------------------------------


def _cores() -> Iterator[Case]:
    def core(name: str, hazard: str, spec: CoreSpec, **more: Any) -> Case:
        return good(f"core-{name}", hazard, build_xen.core(spec), **more)

    yield core("pv", "machine frames far beyond the number of pages", core_spec())
    yield core("hvm", "frames alone, no pairs", core_spec(paired=False))
    empty = [(ONES, ONES, bytes(4096))] * 3
    yield core("empty-tail", "rows without a frame at the end", core_spec(rows=rows() + empty))
    yield core("empty-tail-hvm", "the same without pairs", core_spec(rows=rows() + empty, paired=False))
    thin = [build_xen.context(32, eip=0xC0100000, cs=0xE019)]
    yield core("pv-32", "a 32-bit guest on a 32-bit host", core_spec(machine=3, contexts=thin, stride=2800))
    yield core("pv-32-stride-64", "its contexts 5168 bytes apart", core_spec(machine=3, contexts=thin))
    yield core("class-32", "ELFCLASS32 of a development build", core_spec(machine=3, bits=32, contexts=thin), bits=32)
    high = {0x40000 + pfn: content for pfn, content in PAGES.items()}
    yield core("arm", "RAM from 0x40000000 on", core_spec(rows=rows(high), machine=40, paired=False), pages=high)
    yield core("arm64", "e_machine is ARM's for arm64 too",
               core_spec(machine=40, paired=False, capabilities=b"xen-3.0-aarch64 xen-3.0-armv7l"))  # fmt: skip
    big = patterns.pages(3, 5, 16384)
    yield core("ia64", "pages of 16 KiB", core_spec(rows=rows(big), machine=50, page_size=16384, stride=64,
               contexts=[bytes(64)]), pages=big, page_size=16384)  # fmt: skip
    yield core("note-name", "libkdumpfile's name of the notes", core_spec(note_name=b".note.Xen\0"))
    yield core("no-notes", "no note at all", core_spec(drop=[b".note.Xen"]))
    yield core("no-vcpus", "no contexts", core_spec(contexts=[]))
    yield core("no-shared-info", "no shared info", core_spec(shared_info=None))
    yield core("map-first", "the map before the pages", core_spec(map_before_pages=True))
    yield core("unsorted", "frames in no order", core_spec(rows=rows()[::-1]))
    again = [(5, 77, b"\xee" * 4096), *rows()]
    yield core("duplicate", "a frame twice: the last counts", core_spec(rows=again))
    yield core("nr-pages-large", "the note claims more pages than there are", core_spec(nr_pages=1 << 40))
    yield core("nr-pages-small", "the note claims fewer pages", core_spec(nr_pages=2))
    yield core("nr-vcpus-large", "the note claims more CPUs", core_spec(nr_vcpus=1 << 33))
    yield core("entsize-0", "contexts 0 bytes apart", core_spec(sections={b".xen_prstatus": {"sh_entsize": 0}}))
    yield core("machine-0", "an invalid machine frame", core_spec(rows=[(pfn, ONES, page) for pfn, _, page in rows()]))


def _bad_cores() -> Iterator[Case]:
    def bad(name: str, hazard: str, exit_code: int = 3, **more: Any) -> Case:
        return refused(f"core-{name}", hazard, build_xen.core(core_spec(**more)), exit_code)

    yield bad("shnum-huge", "65000 sections", ehdr={"e_shnum": 65000})
    yield bad("shstrndx-beyond", "names in no section", ehdr={"e_shstrndx": 60})
    yield bad("shentsize-short", "section headers of 8 bytes", ehdr={"e_shentsize": 8})
    yield bad("name-beyond", "a name outside of the names", sections={b".xen_pages": {"sh_name": 5000}})
    yield bad("strtab-beyond", "names outside of the file", sections={b".shstrtab": {"sh_offset": 1 << 40}})
    yield bad("map-beyond", "the map reaches past the end", sections={b".xen_p2m": {"sh_size": 1 << 40}})
    yield bad("no-map", "pages without a map", 6, drop=[b".xen_p2m"])
    yield bad("no-pages", "a map without pages", 6, drop=[b".xen_pages"])
    yield bad("pfn-huge", "a frame near 2^52", rows=[*rows(), (1 << 52, 5, bytes(4096))])
    yield bad("pfn-wraps", "a frame near 2^64", rows=[*rows(), (ONES - 1, 5, bytes(4096))])
    yield bad("magic", "an unknown magic", magic=0xF00FEBEF)
    yield bad("format-version", "another format version", 6, format_version=2 << 32)
    yield bad("page-size", "a page size of 5000", note_page_size=5000)
    yield bad("machine", "a machine that Xen does not run on", 6, machine=22)
    whole = build_xen.core(core_spec())
    yield refused("core-truncated", "cut inside the pages: the map is gone", whole[: len(whole) // 2])
    first = build_xen.core(core_spec(map_before_pages=True))
    kept = {pfn: page for pfn, page in PAGES.items() if pfn < 9}
    cut = first.index(PAGES[12]) - 4096 + 100
    yield good("core-truncated-pages", "cut inside the pages, the map is whole", first[:cut], pages=kept, lost=[9, 12],
               exit_code=3)  # fmt: skip
    short = build_xen.core(core_spec(sections={b".xen_pages": {"sh_size": 4 * 4096}}))
    yield good("core-pages-short", "fewer pages than rows", short, pages=kept, lost=[9, 12], exit_code=3)


# -- before ELF ----------------------------------------------------------------------------------------------------


def _old_cores() -> Iterator[Case]:
    for bits, shape in ((64, "64"), (32, "pae"), (32, "32")):
        memory, machine, root = pv_tables(shape)
        cr3 = root << 12 if bits == 64 else (root << 12 & 0xFFFFFFFF) | root >> 20
        contexts = [build_xen.context(bits, cr3=cr3)]
        pages = [(machine[pfn], memory[pfn]) for pfn in sorted(memory, key=lambda pfn: (pfn > 6, pfn * 7 % 11))]
        data = build_xen.old_core(pages, contexts, word=bits // 8)
        yield good(f"old-{shape}", "machine frames in any order: page tables tell", data, pages=memory, bits=bits)
        if shape == "64":
            lost = build_xen.old_core([*pages, (0x99999, b"\xaa" * 4096)], contexts)
            yield good(
                "old-unplaced", "a page that is mapped nowhere", lost, pages=memory, incomplete=True, exit_code=4
            )
            pages.insert(3, (ONES, bytes(4096)))
            yield good("old-invalid", "an empty entry", build_xen.old_core(pages, contexts), pages=memory)
            cut = len(data) - 4096 - 5
            last = [pfn for pfn in sorted(memory, key=lambda pfn: (pfn > 6, pfn * 7 % 11))][-2:]
            kept = {pfn: page for pfn, page in memory.items() if pfn not in last}
            yield good("old-truncated", "cut inside the pages", data[:cut], pages=kept, lost=last, exit_code=3)
    listed = [(0x500 + index, page) for index, page in enumerate(PAGES.values())]
    hvm = dict(enumerate(PAGES.values()))
    yield good("old-hvm", "no page table: the order of pages",
               build_xen.old_core(listed, CONTEXTS, magic=build_xen.HVM_MAGIC), pages=hvm)  # fmt: skip
    yield good("old-hvm-no-vcpus", "a uniprocessor guest of Xen 3.0.0: no context",
               build_xen.old_core(listed, magic=build_xen.HVM_MAGIC), pages=hvm)  # fmt: skip
    yield refused("old-no-tables", "no page table tells", build_xen.old_core(listed, CONTEXTS), 6)
    yield refused("old-vcpus-huge", "2^31 CPUs", build_xen.old_core(listed, CONTEXTS, nr_vcpus=1 << 31))
    yield refused("old-pages-huge", "2^32 pages", build_xen.old_core(listed, CONTEXTS, nr_pages=0xFFFFFFFF))
    yield refused("old-order", "the index before the contexts", build_xen.old_core(listed, CONTEXTS, index_offset=20))
    yield refused("old-pages-beyond", "pages past the end", build_xen.old_core(listed, CONTEXTS, pages_offset=1 << 30))
    yield refused("old-context-size", "contexts of 1 byte", build_xen.old_core(listed, CONTEXTS, nr_vcpus=8000))


# -- streams -------------------------------------------------------------------------------------------------------


def entries(pages: Mapping[int, bytes] = PAGES) -> list[Entry]:
    return [(0, pfn, content) for pfn, content in sorted(pages.items())]


def pv(batches: Iterable[Iterable[Entry]] | None = None, **more: Any) -> list[bytes]:
    return build_xen.pv_records([entries()] if batches is None else batches, CONTEXTS, **more)


def hvm(batches: Iterable[Iterable[Entry]] | None = None, cpus: Iterable[bytes] = (), **more: Any) -> list[bytes]:
    order = more.get("order", "<")
    out = [build_xen.record(0x10, order=order)]
    out += [build_xen.page_data(batch, order=order) for batch in ([entries()] if batches is None else batches)]
    blob = build_xen.hvm_context(list(cpus) or [build_xen.hvm_cpu()])
    return [*out, build_xen.record(8, bytes(24), order=order), build_xen.record(9, blob, order=order)]


def _streams() -> Iterator[Case]:
    libxc, libxl, record = build_xen.libxc, build_xen.libxl, build_xen.record
    yield good("libxc-pv", "a bare libxc image", libxc(pv()))
    yield good("libxc-pv-v2", "version 2", libxc(pv(version=2), version=2))
    yield good("libxc-big", "big-endian records", libxc(pv(order=">"), order=">"))
    yield good("libxl-hvm", "a bare libxl stream", libxl(libxc(hvm(), kind=2)))
    yield good("libxl-big", "big-endian records of libxl", libxl(libxc(hvm(), kind=2), order=">"))
    extra = record(2, b"xenstore\0data") + record(3, struct.pack("<II", 2, 0) + b"QEVM savevm") + record(4) + record(5)
    yield good(
        "libxl-records", "device models, checkpoints", libxl(libxc(hvm(), kind=2), before=record(2), after=extra)
    )
    yield good(
        "libxl-optional", "an unknown record that is optional", libxl(libxc(hvm(), kind=2), after=record(1 << 31))
    )
    stale = [(0, pfn, b"\xee" * 4096) for pfn in (3, 5, 12)]
    yield good("stream-live", "pages that come again: the last counts", libxc(pv([stale, stale, entries()])))
    without = [(0xF, 20, None), (0xF, 21, None), (0xE, 30, None), (0xE, 31, None)]
    yield good("stream-types", "frames without a page; page tables",
               libxc(pv([[*without, *((kind, pfn, page) for kind, (_, pfn, page) in zip((0, 1, 2, 9, 11, 12), entries(),
               strict=True))]])), excluded=[(30, 32)])  # fmt: skip
    gone = [(0xF, 3, None), (0xF, 4, None), (0xE, 5, None)]
    kept = {pfn: page for pfn, page in PAGES.items() if pfn > 5}
    yield good("stream-gone", "frames that lose their page later", libxc(pv([entries(), gone])), pages=kept,
               excluded=[(5, 6)])  # fmt: skip
    yield good("stream-back", "frames that get one later", libxc(pv([gone, entries()])))
    both = [(0, 3, b"\xee" * 4096), (0xF, 3, None), *entries()[1:], (0xF, 12, None)]
    kept = {pfn: page for pfn, page in PAGES.items() if pfn not in (3, 12)}
    yield good("stream-in-one-batch", "a page and none of it in one batch", libxc(pv([both])), pages=kept)
    hole = [(0xF, 0x100 + number, None) for number in range(1024)]
    yield good("stream-hole", "many frames without a page", libxc(hvm([hole, entries(), hole]), kind=2))
    broken = [*entries(), (0xD, 40, None)]
    yield good("stream-broken", "a frame that the machine lost", libxc(pv([broken])), lost=[40], incomplete=True,
               exit_code=4)  # fmt: skip
    verify = [*pv(), record(0xD), build_xen.page_data([(0, 5, b"\xee" * 4096)])]
    yield good("stream-verify", "pages sent again for checking", libxc(verify))
    yield good("stream-checkpoint", "checkpoints", libxc([*pv(), record(0xE), *pv([[(0, 3, PAGES[3])]])]))
    yield good("stream-empty-records", "records without a body", libxc([record(kind) for kind in (1, 4, 7)] + pv()))
    yield good("stream-optional", "an unknown record that is optional", libxc([record(0x80000099, b"abc"), *pv()]))
    thin = [build_xen.context(32, eip=0xC0100000)]
    yield good("stream-pv-32", "a 32-bit guest", libxc(build_xen.pv_records([entries()], thin, width=4)), bits=32)
    old = build_xen.hvm_cpu(efer=0)
    yield good("stream-hvm-32", "a 32-bit guest of an HVM kind", libxc(hvm(cpus=[old]), kind=2), bits=32)
    idle = build_xen.hvm_cpu(efer=0, control=(0x10, 0, 0, 0))
    yield good("stream-hvm-idle", "a CPU that never started", libxc(hvm(cpus=[build_xen.hvm_cpu(), idle]), kind=2))
    short = [build_xen.page_data(entries()), record(9, build_xen.hvm_context([build_xen.hvm_cpu()], end=False))]
    yield good("stream-hvm-context", "an HVM context without its end", libxc(short, kind=2))
    yield good("libxl-twice", "two images: the second overrides",
               libxl(libxc([build_xen.page_data(stale)]) + record(1) + libxc(pv())))  # fmt: skip


def _bad_streams() -> Iterator[Case]:
    libxc, libxl, record = build_xen.libxc, build_xen.libxl, build_xen.record
    whole = libxc(pv())
    yield good("stream-no-end", "no END record", libxc(pv(), end=False), exit_code=3)
    at = whole.index(PAGES[12]) + 50
    kept = {pfn: page for pfn, page in PAGES.items() if pfn != 12}
    yield good("stream-truncated", "cut inside a page", whole[:at], pages=kept, lost=[12], exit_code=3)
    again = libxc(pv([entries(), [(0, 12, b"\xee" * 4096), (0, 13, b"\xdd" * 4096)]]))
    at = again.index(b"\xee" * 4096) + 50
    yield good("stream-truncated-live", "cut inside a page that came before", again[:at], lost=[13], exit_code=3)
    inside = libxl(libxc(hvm(), kind=2), after=record(3, bytes(100)))
    yield good("libxl-truncated", "cut inside the device model", inside[:-60], exit_code=3)
    length = build_xen.page_data(entries())
    wrong = length[:4] + struct.pack("<I", len(length) - 8 - 8) + length[8:]
    yield good("stream-length", "entries and length disagree", libxc([length, wrong]), exit_code=3)
    yield refused("stream-length-first", "the same in the first record", libxc([wrong]))
    yield refused("stream-count", "a count of 2^32 - 1", libxc([build_xen.page_data(entries(), count=0xFFFFFFFF)]))
    yield refused("stream-count-0", "a count of 0", libxc([build_xen.page_data(entries(), count=0)]))
    yield refused("stream-pfn", "a frame near 2^52", libxc([build_xen.page_data([(0, (1 << 52) - 1, PAGES[3])])]))
    yield refused("stream-unknown", "an unknown record that counts", libxc([*pv(), record(0x99)]), 6)
    yield refused("stream-version", "libxc version 4", libxc(pv(), version=4), 6)
    yield refused("stream-page-shift", "pages of 64 KiB", libxc(pv(), page_shift=16), 6)
    yield refused("stream-domain", "a guest of type 7", libxc(pv(), kind=7), 6)
    yield refused("libxl-version", "libxl version 3", libxl(libxc(pv()), version=3), 6)
    yield refused("libxl-unknown", "an unknown record of libxl", libxl(libxc(pv()), after=record(77)), 6)
    yield refused("libxl-empty", "no image", libxl(b"")[:16] + record(0))
    yield refused("libxl-no-image", "something else for an image", libxl(b"no image at all, but bytes"))
    yield refused("stream-width", "a guest of 5 bytes", libxc([record(2, b"\5\4" + bytes(6)), *pv()]))


# -- legacy --------------------------------------------------------------------------------------------------------


def _legacy() -> Iterator[Case]:
    legacy, batch, xend = build_xen.legacy, build_xen.batch, build_xen.xend
    body = [batch(entries())]
    ext = [(b"vcpu", CONTEXTS[0]), (b"extv", b""), (b"xcnt", struct.pack("<I", 32))]
    tail = bytes(128) + struct.pack("<QQ", 7, 16) + bytes(16)
    vcpus = struct.pack("<iiQ", -2, 1, 3)

    def spec(**more: Any) -> LegacySpec:
        return LegacySpec(**({"body": body, "contexts": CONTEXTS[:1]} | more))

    yield good("xm-3.0", "no extended info", xend(legacy(spec())))
    narrow = [batch(entries(), 4)]
    thin = [build_xen.context(32, eip=0xC0100000)]
    yield good("xm-3.0-32", "a 32-bit toolstack", xend(legacy(spec(body=narrow, word=4, width=4, contexts=thin))),
               bits=32)  # fmt: skip
    full = spec(extended=ext, body=[vcpus, *body], contexts=CONTEXTS, after_context=tail, unmapped=[50, 51])
    yield good("xm-extended", "extended info, two CPUs, xsave", xend(legacy(full)))
    cross = spec(extended=[(b"vcpu", thin[0])], width=4, contexts=thin)
    yield good("xm-cross", "a 32-bit guest of a 64-bit toolstack", xend(legacy(cross)), bits=32)
    markers = [struct.pack("<iIQ", marker, 0, 1) for marker in (-3, -4, -8, -10, -11, -14, -15, -16, -17, -19, -20)]
    markers += [struct.pack("<iIQII", -7, 2, 0, 1, 0), struct.pack("<i", -9), struct.pack("<iI", -18, 5) + b"tools"]
    guest = LegacySpec([*markers, *body], hvm=True, hvm_blob=build_xen.hvm_context([build_xen.hvm_cpu()]),
                       after=b"QemuDeviceModelRecord" + bytes(50))  # fmt: skip
    yield good("xm-hvm", "all markers of an HVM guest, QEMU behind", xend(legacy(guest), b"(domain (image (hvm)))"))
    stale = batch([(0, 5, b"\xee" * 4096), (0xF, 20, None), (0xE, 21, None)])
    yield good("xm-live", "pages that come again", xend(legacy(spec(body=[stale, *body]))), excluded=[(21, 22)])
    verify = [*body, struct.pack("<i", -1), batch([(0, 5, b"\xee" * 4096)])]
    yield good("xm-verify", "pages sent again for checking", xend(legacy(spec(body=verify))))
    upper = [struct.pack("<iQ", 1, 0xABCD << 32 | 3) + PAGES[3], batch(entries())]
    yield good("xm-upper-half", "the upper half of a type word counts nothing", xend(legacy(spec(body=upper))))
    yield refused("xm-p2m-huge", "2^31 frames", xend(legacy(spec())[:0] + struct.pack("<Q", 1 << 31) + bytes(4096)))
    yield refused("xm-config-huge", "a configuration of 4 GiB", xend(legacy(spec()), length=0xFFFFFFFF))
    yield refused("xm-batch-1025", "a batch of 1025 pages", xend(legacy(spec(body=[batch(entries(), count=1025)]))))
    yield refused("xm-marker-first", "an unknown marker", xend(legacy(spec(body=[struct.pack("<i", -99)]))))
    yield good("xm-marker", "an unknown marker behind pages", xend(legacy(spec(body=[*body, struct.pack("<i", -99)]))),
               exit_code=3)  # fmt: skip
    yield refused(
        "xm-remus", "compressed pages", xend(legacy(spec(body=[*body, struct.pack("<iI", -12, 4), bytes(4)]))), 6
    )
    yield refused("xm-remus-on", "compression on", xend(legacy(spec(body=[*body, struct.pack("<i", -13)]))), 6)
    yield refused("xm-tmem", "transcendent memory", xend(legacy(spec(body=[*body, struct.pack("<i", -5)]))), 6)
    data = xend(legacy(spec()))
    yield good("xm-no-tail", "cut behind the pages", data[: data.index(PAGES[12]) + 4096 + 10], exit_code=3)
    kept = {pfn: page for pfn, page in PAGES.items() if pfn != 12}
    yield good("xm-truncated", "cut inside a page", data[: data.index(PAGES[12]) + 10], pages=kept, lost=[12],
               exit_code=3)  # fmt: skip
    yield refused("xm-vcpus-huge", "two thousand million CPUs",
                  xend(legacy(spec(body=[struct.pack("<ii", -2, 0x7FFFFFFF), *body]))))  # fmt: skip
    wrong = [(b"vcpu", bytes(100))]
    yield refused("xm-context-size", "contexts of 100 bytes", xend(legacy(spec(extended=wrong))))


def _wrappers() -> Iterator[Case]:
    libxc, libxl = build_xen.libxc, build_xen.libxl
    stream = libxl(libxc(pv()))
    old = build_xen.legacy(LegacySpec([build_xen.batch(entries())], contexts=CONTEXTS[:1]))
    for size in range(4):
        config = b'{ "type": "pv" }' + b" " * size + b"\0"
        yield good(f"xl-config-{size}", "the stream follows without alignment", build_xen.xl(stream, config))
    yield good("xl-big", "xl's own byte order", build_xen.xl(stream, order=">"))
    yield good("xl-legacy", "a legacy stream", build_xen.xl(old, flags=1))
    yield good("libvirt", "libvirt's wrapper", build_xen.libvirt(stream))
    yield good("libvirt-big", "libvirt's wrapper in the other order", build_xen.libvirt(stream, order=">"))
    yield good("libvirt-legacy", "libvirt's wrapper, a legacy stream", build_xen.libvirt(old, version=1))
    yield refused("xl-flags", "an unknown mandatory flag", build_xen.xl(stream, flags=7), 6)
    yield refused("xl-length", "a configuration of 4 GiB", build_xen.xl(stream, length=0xFFFFFFFF))
    mark = bytearray(build_xen.xl(stream))
    mark[32:36] = b"\1\1\1\1"
    yield refused("xl-mark", "no byte order", bytes(mark))
    yield refused("libvirt-version", "version 9", build_xen.libvirt(stream, version=9), 6)
    yield refused("libvirt-length", "an XML of 4 GiB", build_xen.libvirt(stream, length=0xFFFFFFFF))
    yield refused("xl-cut", "cut inside the header", build_xen.xl(stream)[:40])
