# SPDX-License-Identifier: GPL-2.0-or-later
"""Keeps a vmlinux for each kernel build in the user's cache, and finds it again without decoding anything.

Two names lead to a file. The file's own is the hash of all that it is made from: to know it, symbols are decoded, lists
walked and stacks searched. A note for each dump says which file that was, what the types' bytes hash to, and where they
lie: the note's name is a hash of bytes that VMCOREINFO leads to, so that nothing is decoded for the next command. What
a note says holds only if the types in this dump are those bytes still.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import struct
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ...formats.errors import DumpError
from ...formats.notes import NT_PRSTATUS
from ..btf import MAX_BYTES
from ..kallsyms import MAX_SYMBOLS
from ..kernel import Kernel
from ..module_types import modules_with_types
from .build import VERSION, write_vmlinux
from .frames import holes
from .layout import link_offset

__all__ = ["cached_vmlinux", "content_key"]

_MAX_KEPT, _MAX_NOTES = 8, 64
_NOTE_BYTES = 1 << 20
_STACK = 4096  # what is searched of a stopped CPU's stack
_NAME = re.compile(r"vmlinux-[0-9a-f]{64}")


def cached_vmlinux(kernel: Kernel) -> str:
    """Return the path of a vmlinux without contents, made now or found in the user's cache.

    Raises:
        MissingTable, Unreadable, OSError: As `write_vmlinux`.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "dumpconv")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    quick = _quick_key(kernel)
    note = folder / f"dump-{quick}"
    if quick:
        known = _noted(kernel, folder, note)
        if known is not None:
            return known
    path = folder / f"vmlinux-{content_key(kernel)}"
    if path.exists():
        os.utime(path)
    else:
        write_vmlinux(kernel, str(path), image=False)
        _drop_old(folder, "vmlinux-*", _MAX_KEPT)
    if quick:
        _take_note(kernel, note, path)
        _drop_old(folder, "dump-*", _MAX_NOTES)
    return str(path)


def content_key(kernel: Kernel) -> str:
    """Return the SHA-256 of what the file is made from: build ids are not to be trusted, some kernels export another's.

    The banner, BTF with the modules', symbols at link-time addresses, the places that ORC leaves out, and the writer's
    version.
    """
    offset = link_offset(kernel)
    symbols = kernel.symbols
    banner = symbols.address("linux_banner")
    banner_text = kernel.memory.string(banner, 512) if banner is not None else b""
    high = symbols.addresses >= np.uint64(kernel.kernel_start)
    links = np.where(high, symbols.addresses - np.uint64(offset & 0xFFFFFFFFFFFFFFFF), symbols.addresses)
    parts = [str(VERSION).encode(), banner_text, kernel.all_types.data, links.astype("<u8").tobytes()]
    return _digest([*parts, b"\0".join(symbols.names), repr(holes(kernel, offset)).encode()])


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def _drop_old(folder: Path, pattern: str, kept: int) -> None:
    # another process may remove the same ones
    ages = []
    for each in folder.glob(pattern):
        with contextlib.suppress(OSError):
            ages.append((each.stat().st_mtime_ns, each))
    for _, old in sorted(ages)[:-kept]:
        old.unlink(missing_ok=True)


# -- the note of a dump ------------------------------------------------------------------------------------------


def _quick_key(kernel: Kernel) -> str:
    # what the symbols, their addresses and the frames are made from, as it lies in memory; empty where VMCOREINFO does
    # not lead there
    info, memory = kernel.info, kernel.memory
    places = {name: info.symbol(f"kallsyms_{name}") for name in ("names", "num_syms", "token_index", "offsets")}
    names, number, index = places["names"], places["num_syms"], places["token_index"]
    offsets, wide = places["offsets"] or info.symbol("kallsyms_addresses"), places["offsets"] is None
    if names is None or number is None or index is None or offsets is None:
        return ""
    try:
        count = memory.u32(number)
        if not (0 < count <= MAX_SYMBOLS and 0 < index - names <= 64 * MAX_SYMBOLS):
            return ""
        base = info.symbol("kallsyms_relative_base")
        parts = [str(VERSION).encode(), info.to_bytes(), memory.read(names, index - names + 512)]
        parts.append(memory.read(offsets, count * (memory.word if wide else 4)))
        parts.append(memory.read(base, memory.word) if base is not None else b"")
        parts += [note.desc(1 << 12) for note in kernel.reader.notes if note.name == b"CORE"]
        parts += [memory.read_sparse(sp, _STACK)[0] for sp in _stack_pointers(kernel)]
    except DumpError:
        return ""
    return _digest(parts)


def _stack_pointers(kernel: Kernel) -> list[int]:
    # of the stopped CPUs: the frames of places that ORC leaves out depend on the stacks, on x86_64 alone
    if kernel.machine.arch != "x86_64":
        return []
    notes = [each for each in kernel.reader.notes if each.name == b"CORE" and each.type == NT_PRSTATUS]
    found = [struct.unpack_from("<QQQ", each.desc(336), 112 + 8 * 17) for each in notes if each.size >= 336]
    return [sp for cs, _, sp in found if not cs & 3]


def _noted(kernel: Kernel, folder: Path, note: Path) -> str | None:
    try:
        with note.open("rb") as file:
            said: Any = json.loads(file.read(_NOTE_BYTES))
        name, types = str(said["vmlinux"]), [(int(at), int(size), str(sum_)) for at, size, sum_ in said["types"]]
        path = folder / name
        if not _NAME.fullmatch(name) or not types or not all(0 < size <= MAX_BYTES for _, size, _ in types):
            return None
        if _modules_list(kernel, said) != said["list"] or not path.exists():
            return None
        for at, size, wanted in types:
            if hashlib.sha256(kernel.memory.read(at, size)).hexdigest() != wanted:
                return None
        os.utime(path)
        os.utime(note)
    except (OSError, ValueError, KeyError, TypeError, DumpError):
        return None
    return str(path)


def _modules_list(kernel: Kernel, said: Any) -> list[int]:
    # the two ends of the list of the modules' types: other modules, other ends
    head = int(said["head"])
    return kernel.memory.words(head, 2) if head else []


def _take_note(kernel: Kernel, note: Path, path: Path) -> None:
    start = kernel.symbols.address("__start_BTF")
    if start is None:
        return
    types = [(start, kernel.btf.data), *((each.address, each.data) for each in modules_with_types(kernel))]
    head = kernel.symbols.address("btf_modules") or 0
    said: dict[str, Any] = {"vmlinux": path.name, "head": head, "list": []}
    said["types"] = [(at, len(data), hashlib.sha256(data).hexdigest()) for at, data in types]
    with contextlib.suppress(OSError, DumpError):  # without a note the next command takes longer, nothing else
        said["list"] = _modules_list(kernel, said)
        handle, temporary = tempfile.mkstemp(prefix=".dump-", dir=note.parent)  # mode 0600
        with os.fdopen(handle, "w", encoding="ascii") as file:
            json.dump(said, file)
        os.replace(temporary, note)
