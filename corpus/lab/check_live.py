#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""check_live.py LIVE.ELF MEMORY KALLSYMS: how much of a dump of the running system did the machine hold later on?

The kernel's code and constants must be equal page by page, wherever the rest has moved on. MEMORY is that of
dump_guest.py, taken minutes later. Nothing of dumpconv is used here. Exit status 1: too much differs.
"""

import json
import os
import struct
import sys
from typing import Any

from check_dump import elf_pieces

TEXT_WINDOW = 0xFFFFFFFF80000000


def symbols(path: str, names: tuple[str, ...]) -> dict[str, int]:
    """Addresses of some symbols, as the guest said before."""
    found = {}
    with open(path) as stream:
        for line in stream:
            address, _, name = line.split()[:3]
            if name in names:
                found.setdefault(name, int(address, 16))
    return found


def text_segment(path: str) -> tuple[int, int]:
    """(address, physical address) of the first segment in the kernel's text window."""
    with open(path, "rb") as dump:
        head = dump.read(64)
        phoff, count = struct.unpack_from("<Q", head, 32)[0], struct.unpack_from("<H", head, 56)[0]
        for index in range(count):
            dump.seek(phoff + 56 * index)
            kind, _, _, vaddr, paddr, _, _, _ = struct.unpack("<IIQQQQQQ", dump.read(56))
            if kind == 1 and vaddr >= TEXT_WINDOW:
                return vaddr, paddr
    raise SystemExit(f"{path} has no segment of the kernel's image")


def main() -> int:
    """Compare the files named on the command line."""
    live, memory_path, kallsyms = sys.argv[1:]
    memory = os.open(memory_path, os.O_RDONLY)
    names = ("_stext", "_etext", "__start_rodata", "__end_rodata")
    places = symbols(kallsyms, names)
    vaddr, paddr = text_segment(live)
    ranges = {}
    for name, (first, last) in {"text": ("_stext", "_etext"), "rodata": ("__start_rodata", "__end_rodata")}.items():
        ranges[name] = (places[first] - vaddr + paddr) >> 12, (places[last] - vaddr + paddr) >> 12
    counts: dict[str, dict[str, int]] = {name: {"same": 0, "other": 0} for name in ("all", "zero", *ranges)}
    seen: set[int] = set()
    with open(live, "rb") as dump:
        for address, size, data in elf_pieces(dump):
            for at in range(0, size, 4096):
                frame = (address + at) >> 12
                if frame in seen or data is None:
                    continue
                seen.add(frame)
                page = data[at : at + 4096]
                answer = (
                    "same" if os.pread(memory, len(page), address + at).ljust(len(page), b"\0") == page else "other"
                )
                counts["all"][answer] += 1
                if not any(page):
                    counts["zero"][answer] += 1
                for name, (low, high) in ranges.items():
                    if low <= frame < high:
                        counts[name][answer] += 1
    os.close(memory)
    result: dict[str, Any] = {"frames": len(seen), "image_moved_by": hex(vaddr - 0xFFFFFFFF81000000), "pages": counts}
    print(json.dumps(result))
    # Code is patched while the system runs (static branches, tracing): a few pages may differ.
    good = all(each["same"] > 0 and each["other"] * 100 <= each["same"] for each in (counts["text"], counts["rodata"]))
    return 0 if good else 1


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    sys.exit(main())
