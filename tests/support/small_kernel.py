# SPDX-License-Identifier: GPL-2.0-or-later
"""A dump of a few pages that is enough of an x86_64 kernel for commands, and a System.map of it.

The memory is that of `x86_memory.kaslr`: real page tables, a kernel that was moved from where it was linked.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from . import build_elf, build_kdump, notes, x86_memory

CODE, BANNER, DATA = 0x10000, 0x20000, 0x30000  # offsets in the image of what a test may put there
OFFSET = 0x2600000  # from where it was linked
BANNER_TEXT = f"Linux version {x86_memory.RELEASE} (builder@host) (gcc) #1 SMP\n".encode()
FILLERS = 1100


@dataclass(frozen=True)
class SmallKernel:
    """Two files.

    Attributes:
        dump: An ELF vmcore.
        map: Its System.map.
        text: Run-time address of offset 0 of the image.
    """

    dump: Path
    map: Path
    text: int


def write(
    folder: Path,
    *,
    code: bytes = b"\x90",
    data: bytes = b"",
    symbols: dict[str, int] | None = None,
    note: bool = True,
    missing: frozenset[int] = frozenset(),
    damaged: frozenset[int] | None = None,
    status: int | None = None,
    incomplete_from: int | None = None,
) -> SmallKernel:
    """Write a dump and its System.map.

    Args:
        folder: Where.
        code: At CODE, where the function `first` is.
        data: At DATA.
        symbols: More of them: name -> offset in the image.
        note: With VMCOREINFO.
        missing: Offsets of pages that the dump lacks.
        damaged: Write a kdump (zlib), where the pages at these offsets do not decode.
        status: That kdump's own word on itself.
        incomplete_from: Physical address from which on its pages were never written.
    """
    memory = x86_memory.kaslr()
    start = memory.start_pfn
    pages = dict(memory.pages)
    for offset, content in ((CODE, code.ljust(4096, b"\xcc")), (BANNER, BANNER_TEXT + b"\0"), (DATA, data)):
        for at in range(0, len(content), 4096):
            pages[start + (offset + at) // 4096] = content[at : at + 4096].ljust(4096, b"\0")
    memory = replace(memory, pages=pages)
    folder.mkdir(exist_ok=True)
    if damaged is not None:
        bad = {start + offset // 4096: (b"no zlib stream", 1) for offset in damaged}
        kept = {pfn: page for pfn, page in pages.items() if (pfn - start) * 4096 not in missing}
        never = None if incomplete_from is None else incomplete_from // 4096
        form = replace(memory.kdump_spec(), pages=kept, stored=bad, status=status, incomplete_from=never)
        build_kdump.build(form).write_to(folder / "vmcore")
        return _with_map(folder, memory, symbols)
    spec = memory.elf_spec(text_alias=False)
    whole = spec.segments[0]
    left, segments = sorted(set(range(512)) - {offset // 4096 for offset in missing}), []
    while left:  # one segment for each run of pages
        count = next((index for index, page in enumerate(left) if page != left[0] + index), len(left))
        content = memory.data[left[0] * 4096 : (left[0] + count) * 4096]
        shift = left[0] * 4096
        segments.append(replace(whole, paddr=whole.paddr + shift, data=content, vaddr=whole.vaddr + shift))
        left = left[count:]
    text = memory.vmcoreinfo if note else b""
    spec = replace(spec, segments=segments, notes=notes.machine_notes("x86_64", cpus=2, text=text))
    build_elf.build(spec).write_to(folder / "vmcore")
    return _with_map(folder, memory, symbols)


def _with_map(folder: Path, memory: x86_memory.X86Memory, symbols: dict[str, int] | None) -> SmallKernel:
    linked = memory.text_vaddr - OFFSET
    rows = {"_stext": 0x1000, "init_top_pgt": 0x2000, "first": CODE, "second": CODE + 0x80, "linux_banner": BANNER}
    rows |= symbols or {}
    rows |= {f"filler_{number}": 0x100000 + 16 * number for number in range(FILLERS)}
    lines = [f"{linked + offset:016x} {'T' if offset < BANNER else 'D'} {name}" for name, offset in rows.items()]
    lines.insert(0, "0000000000000000 A per_cpu_thing")
    (folder / "System.map").write_bytes(os.fsencode("\n".join(lines) + "\n"))
    return SmallKernel(folder / "vmcore", folder / "System.map", memory.text_vaddr)
