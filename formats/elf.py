# SPDX-License-Identifier: GPL-2.0-or-later
"""ELF vmcores: /proc/vmcore, makedumpfile -E, QEMU's dump-guest-memory, and our own canonical files.

Sheet: docs/formats/elf.md.
"""

from __future__ import annotations

from typing import ClassVar

from .elf_layout import ELF_MAGIC
from .elfcore import ElfCore
from .source import ByteSource

__all__ = ["ElfReader"]


class ElfReader(ElfCore):
    """An ELF core file of a machine; see `ElfCore`."""

    name: ClassVar[str] = "elf"

    @staticmethod
    def probe(source: ByteSource) -> bool:
        """See `DumpReader.probe`."""
        return source.size >= 4 and source.pread(0, 4) == ELF_MAGIC
