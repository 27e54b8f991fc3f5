# SPDX-License-Identifier: GPL-2.0-or-later
"""Taint flags in words. Source: Documentation/admin-guide/tainted-kernels.rst; include/linux/panic.h (6.1 to 6.17)."""

from __future__ import annotations

import re

from ..formats.errors import DumpError
from .kernel import Kernel

__all__ = ["TAINTS", "kernel_taints", "letters_of", "words_of"]

# Bit: letter, what it says.
TAINTS: tuple[tuple[str, str], ...] = (
    ("P", "a module with a proprietary licence was loaded"),
    ("F", "a module was loaded by force"),
    ("S", "the processor or the system is out of its specification"),
    ("R", "a module was unloaded by force"),
    ("M", "the processor reported a machine check"),
    ("B", "a page in a bad state was met"),
    ("U", "a user program asked for this mark"),
    ("D", "the kernel died before: there was an oops or a BUG"),
    ("A", "an ACPI table was overridden"),
    ("W", "the kernel gave a warning"),
    ("C", "a staging driver was loaded"),
    ("I", "a firmware bug is worked around"),
    ("O", "a module from outside the kernel's tree was loaded"),
    ("E", "a module without a valid signature was loaded"),
    ("L", "a soft lockup occurred"),
    ("K", "the kernel was patched while it ran"),
    ("X", "auxiliary, as the distribution defines it"),
    ("T", "built with randomised structure layouts"),
    ("N", "an in-kernel test was run"),
    ("J", "a user program changed a device's firmware state"),
)


def letters_of(mask: int) -> str:
    """Return the letters that the kernel prints; a bit without one is `?`."""
    return "".join(TAINTS[bit][0] if bit < len(TAINTS) else "?" for bit in range(64) if mask >> bit & 1)


def words_of(mask: int) -> list[str]:
    """Return what each flag that is set says: `E: a module without a valid signature was loaded`."""
    return [
        f"{TAINTS[bit][0]}: {TAINTS[bit][1]}" if bit < len(TAINTS) else f"bit {bit}: not known"
        for bit in range(64)
        if mask >> bit & 1
    ]


def kernel_taints(kernel: Kernel) -> int:
    """Return the kernel's taint flags: its variable, or where no symbol names it the letters in its last words.

    Raises:
        MissingTable, Unreadable: They cannot be had.
    """
    try:
        return kernel.memory.pointer(kernel.symbol("tainted_mask"))
    except DumpError:
        for record in reversed(kernel.log):
            found = _SAID.search(record.text)
            if found is not None:
                letters = (found[1] or b"").decode()
                return sum(1 << bit for bit, (letter, _) in enumerate(TAINTS) if letter in letters)
        raise


# "Not tainted 6.1.0" or "Tainted: P           OE      6.1.0"; G stands for no P.
_SAID = re.compile(rb"(?:Not tainted|Tainted: ([A-Z ]+)) ")
