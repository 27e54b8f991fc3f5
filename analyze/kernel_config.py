# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's configuration: a gzip stream in its read-only data, where it was built with CONFIG_IKCONFIG.

Source: Linux kernel/configs.c, 2.6 to 6.12. All of it is hostile: the stream's output is bounded.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from .errors import MissingTable

if TYPE_CHECKING:
    from .kernel import Kernel

__all__ = ["kernel_config"]

_START, _GZIP = b"IKCFG_ST", b"\x1f\x8b\x08"
_MAX_STORED, _MAX_TEXT = 1 << 20, 8 << 20
_IMAGE = 64 << 20  # bytes that are searched where no symbol says where it is


def kernel_config(kernel: Kernel) -> list[str]:
    """Return its lines.

    Raises:
        MissingTable: The kernel does not carry it, or it does not decode.
        Unreadable: It is not in the dump.
    """
    place = kernel.find("kernel_config_data")
    raw = b""
    if place is not None:
        # up to 5.1 the symbol is of the mark, and later of what follows it
        raw = kernel.memory.read_sparse(place, _MAX_STORED)[0]
        start = raw.find(_GZIP, 0, 64)
        raw = raw[start:] if start >= 0 else b""
    elif kernel.symbols.functions_only:
        stext = kernel.symbol("_stext")
        image = kernel.memory.read_sparse(stext, _IMAGE)[0]
        start = image.find(_START + _GZIP)
        raw = image[start + len(_START) :][:_MAX_STORED] if start >= 0 else b""
    if not raw:
        where = f"/boot/config-{kernel.release}" if kernel.release else "the package of the kernel"
        raise MissingTable(
            "the kernel does not carry its configuration (CONFIG_IKCONFIG is off, or a module)",
            hint=f"on the machine it is in {where}",
        )
    decoder = zlib.decompressobj(31)
    try:
        text = decoder.decompress(raw, _MAX_TEXT)
    except zlib.error as error:
        raise MissingTable(f"the kernel's configuration does not decode: {error}") from error
    if not decoder.eof:
        raise MissingTable("the kernel's configuration has no end: pages are missing, or it is damaged")
    return text.decode("utf-8", "backslashreplace").splitlines()
