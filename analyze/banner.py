# SPDX-License-Identifier: GPL-2.0-or-later
"""Who the kernel is where no table names its variables: its banner and its utsname, found by their text.

Source: init/version.c and include/linux/utsname.h, 2.4 to 6.12: struct new_utsname has six names of 65 bytes.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..formats.errors import DumpError
from .memory import PhysicalMemory
from .scan import find_text

__all__ = ["FIELD", "NAMES", "banners", "find_utsname"]

NAMES = ("sysname", "nodename", "release", "version", "machine", "domainname")
FIELD = 65
_MAX_BANNERS = 64
_MAX_HITS = 1 << 12
_WORDS = b"Linux version "


def banners(physical: PhysicalMemory) -> Iterator[tuple[int, str]]:
    """Yield physical address and release of each banner: the log and programs have such texts too."""
    for number, paddr in enumerate(find_text(physical, _WORDS)):
        if number >= _MAX_BANNERS:
            return
        try:
            text = physical.read(paddr, 128)
        except DumpError:
            continue
        release = text.split(b" ")[2].decode("ascii", "replace")
        if release[:1].isdigit() and release.isprintable() and release.isascii():
            yield paddr, release


def find_utsname(physical: PhysicalMemory) -> dict[str, str]:
    """Return the kernel's names of itself, those of the release whose banner is in memory; empty where none is found.

    Of several kernels (a capture kernel lies beside the one that died) the first in memory is taken.
    """
    known = {release for _, release in banners(physical)}
    for number, paddr in enumerate(find_text(physical, b"Linux" + bytes(FIELD - 5))):
        if number >= _MAX_HITS:
            break
        try:
            raw = physical.read(paddr, FIELD * len(NAMES))
        except DumpError:
            continue
        fields = [raw[at : at + FIELD] for at in range(0, len(raw), FIELD)]
        texts = [each.split(b"\0", 1)[0] for each in fields]
        if texts[2].decode("latin-1") in known and all(_is_name(each) for each in texts) and texts[3][:1] == b"#":
            return {name: text.decode("latin-1") for name, text in zip(NAMES, texts, strict=True)}
    return {}


def _is_name(text: bytes) -> bool:
    return len(text) < FIELD and all(0x20 <= each < 0x7F for each in text)
