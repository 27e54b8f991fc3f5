# SPDX-License-Identifier: GPL-2.0-or-later
"""The reference decoder for Xen's guest dumps and save images: struct and dictionaries, one page at a time."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from .reference_source import NO_DESCRIPTOR, ReferenceDump, ReferenceError, Source

ONES = (1 << 64) - 1
MAX_PFN = 1 << 40
WRAPPERS = (
    b"LinuxGuestRecord", b"Xen saved domain, xl format\n \0 \r", b"libvirt-xml\n \0 \r", b"LibxlFmt",
    b"\xff" * 8 + b"XENF",
)  # fmt: skip
OLD = (b"\xed\xeb\x0f\xf0", b"\xee\xeb\x0f\xf0")
MACHINES = {62: 64, 3: 32, 40: 32, 183: 64, 50: 64}


class XenReference:
    """What was found: `places` has the offset of each frame's page, None where the file lacks it."""

    def __init__(self, source: Source, name: str) -> None:
        self.source = source
        self.places: dict[int, int | None] = {}
        self.broken: set[int] = set()  # by the writer's own word
        self.result = ReferenceDump(name, 4096, "<", 64)

    def frames(self) -> Iterator[tuple[int, str, bytes | str]]:
        """Give (pfn, "page", bytes) or (pfn, "lost", reason) in pfn order."""
        size = self.result.page_size
        for pfn in sorted(self.places):
            at = self.places[pfn]
            if at is not None and self.source.has(at, size):
                yield pfn, "page", self.source.read(at, size)
            else:
                yield pfn, "lost", NO_DESCRIPTOR if pfn in self.broken else "the file ends before the page"


def starts_like_one(source: Source) -> bool:
    """Whether this is one of Xen's: told by its signature, of an ELF core by its headers."""
    head = source.read(0, min(64, source.size))
    if head.startswith(WRAPPERS) or (len(head) >= 24 and head.startswith(OLD)):
        return True
    if len(head) < 64 or head[:4] != b"\x7fELF" or head[4] not in (1, 2) or head[5] not in (1, 2) or head[6] != 1:
        return False
    order = "<" if head[5] == 1 else ">"
    fields = struct.unpack_from(order + ("HHIQQQIHHHHHH" if head[4] == 2 else "HHIIIIIHHHHHH"), head, 16)
    if (fields[8], fields[9]) not in ((56, 0), (32, 0)) or fields[8] != (56 if head[4] == 2 else 32):
        return False
    return bool(fields[0] == 4 and fields[11] > 1)


def open_xen(source: Source) -> XenReference:
    """Decode the headers.

    Raises:
        ReferenceError: The file as a whole is refused.
    """
    head = source.read(0, min(64, source.size))
    if head[:4] == b"\x7fELF":
        return _core(source)
    if head.startswith(OLD):
        return _old_core(source)
    return _saved(source)


# -- xc_core -------------------------------------------------------------------------------------------------------


def _sections(source: Source, order: str, bits: int) -> dict[bytes, tuple[int, int, int]]:
    head = source.read(0, 64)
    fields = struct.unpack_from(order + ("HHIQQQIHHHHHH" if bits == 64 else "HHIIIIIHHHHHH"), head, 16)
    shoff, shentsize, shnum, shstrndx = fields[5], fields[10], fields[11], fields[12]
    code = "IIQQQQIIQQ" if bits == 64 else "10I"
    if shnum > 64 or shstrndx >= shnum or shentsize < struct.calcsize(order + code):
        raise ReferenceError("section table")
    rows = [
        struct.unpack(order + code, source.read(shoff + index * shentsize, struct.calcsize(order + code)))
        for index in range(shnum)
    ]
    names = source.read(rows[shstrndx][4], min(rows[shstrndx][5], 1 << 16))
    found: dict[bytes, tuple[int, int, int]] = {}
    for index, row in enumerate(rows):
        if row[0] >= len(names) and index:
            raise ReferenceError("section name")
        found.setdefault(names[row[0] :].split(b"\0")[0], (row[4], row[5], row[9]))
    return found


def _core(source: Source) -> XenReference:
    from .reference_elf import parse_notes

    head = source.read(0, 64)
    order, bits = "<" if head[5] == 1 else ">", 32 * head[4]
    (machine,) = struct.unpack_from(order + "H", head, 18)
    sections = _sections(source, order, bits)
    dump = XenReference(source, "xc_core")
    page_size = 0
    offset, size, _ = sections.get(b".note.Xen", (0, 0, 0))
    area = (
        source.read(offset, max(0, min(size, source.size - offset, 1 << 20))) if size and offset < source.size else b""
    )
    for name, kind, desc in parse_notes(area, order):
        if len(name) > 256:
            break  # no note's: what follows is not one either
        if name.split(b"\0")[0] not in (b"Xen", b".note.Xen"):
            continue
        if kind == 0x2000001 and len(desc) >= 32:
            magic, _, _, page_size = struct.unpack_from(order + "4Q", desc)
            if magic not in (0xF00FEBED, 0xF00FEBEE):
                raise ReferenceError("magic")
        elif kind == 0x2000003 and len(desc) >= 8 and struct.unpack_from(order + "Q", desc)[0] not in (1, 1 << 32):
            raise ReferenceError("format version", "unknown")
    if machine not in MACHINES:
        raise ReferenceError("machine", "unknown")
    page_size = page_size or (16384 if machine == 50 else 4096)
    if page_size not in [1 << shift for shift in range(12, 21)]:
        raise ReferenceError("page size")
    dump.result.page_size, dump.result.order = page_size, order
    # info tells the container's class, as for other ELF files
    dump.result.bits, dump.result.machine = bits, machine
    _core_map(source, sections, order, dump)
    return dump


def _core_map(source: Source, sections: dict[bytes, tuple[int, int, int]], order: str, dump: XenReference) -> None:
    table = sections.get(b".xen_p2m", sections.get(b".xen_pfn"))
    if table is None or b".xen_pages" not in sections:
        raise ReferenceError("no page map", "unknown")
    row = 16 if b".xen_p2m" in sections else 8
    page_size = dump.result.page_size
    pages, pages_size, _ = sections[b".xen_pages"]
    if table[0] + table[1] > source.size:
        raise ReferenceError("the map is not in the file")
    for index in range(table[1] // row):
        (pfn,) = struct.unpack(order + "Q", source.read(table[0] + index * row, 8))
        if pfn == ONES:
            continue
        if pfn >= MAX_PFN:
            raise ReferenceError("pfn")
        inside = (index + 1) * page_size <= min(pages_size, max(0, source.size - pages))
        dump.places[pfn] = pages + index * page_size if inside else None
        dump.result.truncated |= not inside
    if not dump.places:
        return


def _old_core(source: Source) -> XenReference:
    magic, vcpus, nr_pages, contexts, index, pages = struct.unpack("<6I", source.read(0, 24))
    dump = XenReference(source, "xc_core-old")
    if vcpus > 8192 or not 24 <= contexts <= index <= pages <= source.size or 4 * nr_pages > pages - index:
        raise ReferenceError("header")
    size = (index - contexts) // vcpus if vcpus else 0
    if vcpus and size not in (5168, 2800):
        raise ReferenceError("contexts")
    wide = pages - index >= 8 * max(1, nr_pages)
    halves = struct.unpack(f"<{2 * min(64, nr_pages)}I", source.read(index, 8 * min(64, nr_pages))) if wide else ()
    word = 8 if wide and (size != 2800 or all(half in (0, 0xFFFFFFFF) for half in halves[1::2])) else 4
    bits = {5168: 64, 2800: 32}.get(size, 64 if wide else 32)
    dump.result.bits = bits
    entries = struct.unpack(f"<{nr_pages}{'Q' if word == 8 else 'I'}", source.read(index, nr_pages * word))
    valid = {page: mfn for page, mfn in enumerate(entries) if mfn != (1 << 8 * word) - 1}
    if magic == 0xF00FEBEE:
        order = {page: page for page in valid}
    else:
        found = _walk_all(source, dump, (vcpus, size, contexts), entries, pages, len(valid))
        if found is None:
            raise ReferenceError("no page table tells", "unknown")
        order = found
        dump.result.incomplete = len(order) < len(valid)
    for pfn, page in order.items():
        at = pages + page * 4096
        dump.places[pfn] = at if at + 4096 <= source.size else None
        dump.result.truncated |= at + 4096 > source.size
    return dump


def _walk_all(
    source: Source, dump: XenReference, vcpus: tuple[int, int, int], entries: tuple[int, ...], pages: int, valid: int
) -> dict[int, int] | None:
    count, size, contexts = vcpus
    where: dict[int, int] = {}
    for page, mfn in enumerate(entries):
        where.setdefault(mfn, page)
    for cpu in range(min(count, 8)):
        raw = source.read(contexts + cpu * size, size)
        if size == 5168:
            root = struct.unpack_from("<Q", raw, 5008)[0] >> 12 & (1 << 40) - 1
            shapes = [(8, 4, base) for base in (0xFFFF810000000000, 0xFFFF880000000000, 0xFFFFFF8000000000)]
        else:
            value = struct.unpack_from("<I", raw, 2728)[0]
            root = value >> 12 | value << 20 & 0xFFFFFFFF
            shapes = [(8, 3, 0xC0000000), (4, 2, 0xC0000000)]
        for entry, levels, base in shapes:
            found: dict[int, int] = {}
            taken: set[int] = set()
            for pfn in range(len(entries)):
                mfn = _translate(source, where, pages, root, entry, levels, base + pfn * 4096)
                page = where.get(mfn) if mfn is not None else None
                if page is not None and page not in taken:
                    found[pfn] = page
                    taken.add(page)
            if 2 * len(found) >= valid or (size == 2800 and len(found) >= 0x20000):
                return found
    return None


def _translate(
    source: Source, where: dict[int, int], pages: int, root: int, entry: int, levels: int, vaddr: int
) -> int | None:
    bits = 9 if entry == 8 else 10
    mfn = root
    for level in range(levels, 0, -1):
        page = where.get(mfn)
        if page is None or pages + page * 4096 + 4096 > source.size:
            return None
        index = vaddr >> 12 + bits * (level - 1) & (1 << bits) - 1
        raw = source.read(pages + page * 4096 + index * entry, entry)
        value = int.from_bytes(raw, "little")
        if not value & 1 or (value & 0x80 and 1 < level < 4):
            return None
        mfn = value >> 12 & ((1 << 40) - 1)
    return mfn


# -- save images ---------------------------------------------------------------------------------------------------


class _Saved:
    """Pages of a save image as they come; None as a place says that the file ends before them."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.pages: dict[int, int] = {}
        self.cut: set[int] = set()
        self.without: dict[int, int] = {}
        self.any = False
        self.broken = False
        self.verifying = False
        self.hvm = True
        self.width = 0
        self.context = b""
        self.damaged = False

    def add(self, kind: int, pfn: int, offset: int | None) -> None:
        if pfn >= MAX_PFN:
            raise ReferenceError("pfn")
        self.any = True
        if kind >= 0xD:
            self.broken |= kind == 0xD
            self.pages.pop(pfn, None)
            self.without[pfn] = kind
        elif offset is None:
            self.cut.add(pfn)
        else:
            self.pages[pfn] = offset
            self.without.pop(pfn, None)


def _saved(source: Source) -> XenReference:
    head = source.read(0, min(64, source.size))
    saved = _Saved(source)
    if head.startswith(WRAPPERS[0]):
        (length,) = struct.unpack(">I", source.read(16, 4))
        offset, config = 20 + length, source.read(20, length)
        _guarded(saved, lambda: _legacy(saved, offset, config))
    elif head.startswith(WRAPPERS[1]):
        mark = source.read(32, 16)
        order = "<" if mark[:4] == b"\4\3\2\1" else ">" if mark[:4] == b"\1\2\3\4" else None
        if order is None:
            raise ReferenceError("byte order mark")
        _, flags, _, length = struct.unpack(order + "4I", mark)
        if flags & ~3:
            raise ReferenceError("flags", "unknown")
        offset, config = 48 + length, source.read(48, length)
        _guarded(saved, (lambda: _libxl(saved, offset)) if flags & 2 else (lambda: _legacy(saved, offset, config)))
    elif head.startswith(WRAPPERS[2]):
        raw = source.read(0, 64)
        orders = [order for order in "<>" if struct.unpack_from(order + "I", raw, 16)[0] in (1, 2)]
        if not orders:
            raise ReferenceError("version", "unknown")
        version, length = struct.unpack_from(orders[0] + "II", raw, 16)
        offset, config = 64 + length, source.read(64, length)
        _guarded(saved, (lambda: _libxl(saved, offset)) if version == 2 else (lambda: _legacy(saved, offset, config)))
    elif head.startswith(WRAPPERS[3]):
        _guarded(saved, lambda: _libxl(saved, 0))
    else:
        _guarded(saved, lambda: _libxc(saved, 0))
    return _result(saved)


def _guarded(saved: _Saved, walk: object) -> None:
    # what comes behind the first page may be damaged: the pages before it count
    try:
        walk()  # type: ignore[operator]
    except ReferenceError as error:
        if not saved.any or error.kind == "unknown":
            raise
        saved.damaged = True


def _result(saved: _Saved) -> XenReference:
    dump = XenReference(saved.source, "xen-save")
    dump.places.update(saved.pages)
    for pfn in saved.cut:
        dump.places.setdefault(pfn, None)
    lost = {pfn for pfn, kind in saved.without.items() if kind == 0xD and pfn not in dump.places}
    dump.places.update(dict.fromkeys(lost))
    dump.broken = lost
    excluded = sorted(pfn for pfn, kind in saved.without.items() if kind == 0xE and pfn not in dump.places)
    for pfn in excluded:
        runs = dump.result.excluded_runs
        if runs and runs[-1][1] == pfn:
            runs[-1] = (runs[-1][0], pfn + 1)
        else:
            runs.append((pfn, pfn + 1))
    dump.result.truncated = saved.damaged
    dump.result.incomplete = saved.broken
    dump.result.bits = _saved_bits(saved)
    return dump


def _saved_bits(saved: _Saved) -> int:
    if saved.width:
        return 8 * saved.width
    at, modes = 0, []
    while at + 8 <= len(saved.context):
        kind, _, length = struct.unpack_from("<HHI", saved.context, at)
        if at + 8 + length > len(saved.context) or (kind == 2 and length < 1000) or kind == 0:
            break
        if kind == 2:
            raw = saved.context[at + 8 : at + 8 + length]
            if struct.unpack_from("<Q", raw, 656)[0] >> 31 & 1:
                modes.append(struct.unpack_from("<Q", raw, 992)[0] >> 10 & 1)
        at += 8 + length
    return 32 if modes and not any(modes) else 64


def _libxl(saved: _Saved, at: int) -> None:
    ident, version, options = struct.unpack(">8sII", saved.source.read(at, 16))
    if ident != b"LibxlFmt":
        raise ReferenceError("ident")
    if version != 2:
        raise ReferenceError("version", "unknown")
    order, at, images, more = "<>"[options & 1], at + 16, 0, True
    while more:
        try:
            at, is_image, more = _libxl_record(saved, order, at)
        except ReferenceError as error:
            if images and not saved.any and error.kind != "unknown":
                saved.damaged = True
                return
            raise
        images += is_image
    if not images:
        raise ReferenceError("no image")


def _libxl_record(saved: _Saved, order: str, at: int) -> tuple[int, bool, bool]:
    # one record: where the next is, whether this was an image, whether there are more
    kind, length = struct.unpack(order + "II", saved.source.read(at, 8))
    following = at + 8 + (length + 7) // 8 * 8
    if kind == 1:
        return _libxc(saved, following), True, True
    if kind > 5 and not kind >> 31:
        raise ReferenceError("record", "unknown")
    if at + 8 + length > saved.source.size:
        raise ReferenceError("record ends behind the file")
    return following, False, kind != 0


def _libxc(saved: _Saved, at: int) -> int:
    source = saved.source
    marker, ident, version, options = struct.unpack(">QIIH6x", source.read(at, 24))
    if marker != ONES or ident != 0x58454E46:
        raise ReferenceError("libxc header")
    if version not in (2, 3):
        raise ReferenceError("version", "unknown")
    order = "<>"[options & 1]
    kind, shift = struct.unpack_from(order + "IH", source.read(at + 24, 16))
    if kind not in (1, 2) or shift != 12:
        raise ReferenceError("domain", "unknown")
    saved.hvm = kind == 2
    saved.verifying = False
    at += 40
    while True:
        kind, length = struct.unpack(order + "II", source.read(at, 8))
        body, at = at + 8, at + 8 + (length + 7) // 8 * 8
        if kind == 0:
            return at
        if kind == 1:
            _page_data(saved, order, body, length)
            continue
        if kind > 0x12 and not kind >> 31:
            raise ReferenceError("record", "unknown")
        if body + length > source.size:
            raise ReferenceError("record ends behind the file")
        checks = {0xD: _verify, 2: _pv_info, 3: _p2m_frames, 4: _vcpu, 7: _blob, 9: _blob}
        if kind in checks:
            checks[kind](saved, order, kind, (body, length))


def _verify(saved: _Saved, order: str, kind: int, place: tuple[int, int]) -> None:
    saved.verifying = True


def _pv_info(saved: _Saved, order: str, kind: int, place: tuple[int, int]) -> None:
    if place[1] >= 2:
        width = saved.source.read(place[0], 1)[0]
        if width not in (4, 8):
            raise ReferenceError("width")
        saved.width = width


def _p2m_frames(saved: _Saved, order: str, kind: int, place: tuple[int, int]) -> None:
    if place[1] >= 8:
        start, end = struct.unpack(order + "II", saved.source.read(place[0], 8))
        if start > end:
            raise ReferenceError("p2m frames")


def _vcpu(saved: _Saved, order: str, kind: int, place: tuple[int, int]) -> None:
    if place[1] > 8 and (
        struct.unpack(order + "I", saved.source.read(place[0], 4))[0] >= 8192 or place[1] - 8 > 1 << 24
    ):
        raise ReferenceError("vcpu")


def _blob(saved: _Saved, order: str, kind: int, place: tuple[int, int]) -> None:
    if place[1] > 1 << 24:
        raise ReferenceError("blob")
    if kind == 9 and place[1]:
        saved.context = saved.source.read(*place)


def _page_data(saved: _Saved, order: str, body: int, length: int) -> None:
    source = saved.source
    if length == 0:
        return
    (count,) = struct.unpack(order + "I", source.read(body, 4)) if length >= 8 else (0,)
    if not 0 < count <= 1 << 20 or 8 + 8 * count > length:
        raise ReferenceError("page data")
    entries = struct.unpack(f"{order}{count}Q", source.read(body + 8, 8 * count))
    stored = sum(1 for entry in entries if entry >> 60 < 0xD)
    if 8 + 8 * count + 4096 * stored != length:
        raise ReferenceError("page data")
    offset = body + 8 + 8 * count
    _take(saved, [(entry >> 60, entry & (1 << 52) - 1) for entry in entries], offset)
    if body + length > source.size:
        raise ReferenceError("page data ends behind the file")


def _take(saved: _Saved, entries: list[tuple[int, int]], offset: int) -> None:
    if saved.verifying:
        return
    if any(pfn >= MAX_PFN for _, pfn in entries):
        raise ReferenceError("pfn")
    for kind, pfn in entries:
        if kind >= 0xD:
            saved.add(kind, pfn, None)
            continue
        saved.add(kind, pfn, offset if offset + 4096 <= saved.source.size else None)
        offset += 4096


class _Reader:
    def __init__(self, source: Source, at: int) -> None:
        self.source, self.at = source, at

    def take(self, size: int) -> bytes:
        raw = self.source.read(self.at, size)
        self.at += size
        return raw

    def number(self, code: str) -> int:
        return int(struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0])

    def skip(self, size: int) -> None:
        if self.at + size > self.source.size:
            raise ReferenceError("the file ends inside something")
        self.at += size


def _legacy(saved: _Saved, at: int, config: bytes) -> None:
    source = saved.source
    reader = _Reader(source, at)
    word = 8 if source.read(at + 4, 4) == bytes(4) else 4
    code = "Q" if word == 8 else "I"
    saved.hvm = any(text in config[: 1 << 20].lower() for text in (b"(hvm", b'"hvm"', b">hvm<"))
    p2m_size = reader.number(code)
    size, extended, xsave = 0, False, 0
    if not saved.hvm:
        saved.width = word
        mark = reader.at
        if reader.number(code) == (1 << 8 * word) - 1:
            size, extended, xsave = _extended(saved, reader)
        else:
            reader.at = mark
        size = size or (5168 if saved.width == 8 else 2800)
        if not 0 < p2m_size <= 1 << 36:
            raise ReferenceError("p2m_size")
        reader.skip(((p2m_size - 1) // (4096 // saved.width) + 1) * word)
    vcpus = 1
    while True:
        marker = reader.number("i")
        if marker == 0:
            break
        if marker > 0:
            _legacy_batch(saved, reader, marker, code)
        elif marker == -2:
            last = reader.number("i")
            if not 0 <= last <= 8191:
                raise ReferenceError("vcpus")
            bitmap = int.from_bytes(reader.take(8 * (last // 64 + 1)), "little") & (1 << last + 1) - 1
            vcpus = bitmap.bit_count()
        else:
            _legacy_marker(saved, reader, marker)
    _legacy_tail(saved, reader, word, vcpus, (size, extended, xsave))


def _extended(saved: _Saved, reader: _Reader) -> tuple[int, bool, int]:
    size, extended, xsave = 0, False, 0
    total = reader.number("I")
    if total > 1 << 20:
        raise ReferenceError("extended info")
    end = reader.at + total
    while reader.at < end:
        name, length = reader.take(4), reader.number("I")
        if reader.at + length > end:
            raise ReferenceError("extended info block")
        if name == b"vcpu":
            if length not in (5168, 2800):
                raise ReferenceError("context size")
            size, saved.width = length, 8 if length == 5168 else 4
        elif name == b"extv":
            extended = True
        elif name == b"xcnt" and length >= 4:
            (xsave,) = struct.unpack("<I", reader.source.read(reader.at, 4))
        reader.skip(length)
    return size, extended, xsave


def _legacy_batch(saved: _Saved, reader: _Reader, count: int, code: str) -> None:
    if count > 1024:
        raise ReferenceError("batch")
    raw = reader.take(count * struct.calcsize("<" + code))
    entries = [entry & 0xFFFFFFFF for entry in struct.unpack(f"<{count}{code}", raw)]
    _take(saved, [(entry >> 28, entry & (1 << 28) - 1) for entry in entries], reader.at)
    reader.skip(4096 * sum(1 for entry in entries if entry >> 28 < 0xD))


def _legacy_marker(saved: _Saved, reader: _Reader, marker: int) -> None:
    if marker in (-12, -13, -5, -6):
        raise ReferenceError("compressed or tmem", "unknown")
    if marker == -1:
        saved.verifying = True
    elif marker == -7:
        reader.skip(20)
    elif marker == -18:
        reader.skip(reader.number("I"))
    elif marker in (-3, -4, -8, -10, -11, -14, -15, -16, -17, -19, -20):
        reader.skip(12)
    elif marker != -9:
        raise ReferenceError("marker")


def _legacy_tail(saved: _Saved, reader: _Reader, word: int, vcpus: int, how: tuple[int, bool, int]) -> None:
    if saved.hvm:
        reader.skip(24)
        length = reader.number("I")
        if length > 1 << 24:
            raise ReferenceError("HVM context")
        saved.context = reader.take(length)
        return
    size, extended, xsave = how
    reader.skip(reader.number("I") * word)
    for _ in range(vcpus):
        reader.skip(size)
        reader.skip(128 if extended else 0)
        if xsave:
            reader.skip(8)
            reader.skip(reader.number("Q"))
    reader.skip(4096)
