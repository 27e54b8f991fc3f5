# SPDX-License-Identifier: GPL-2.0-or-later
"""What may go wrong in reading a kernel's memory and tables; every command goes on with what it has."""

from __future__ import annotations

from ..formats.errors import DumpError

__all__ = ["AnalyzeError", "MissingProgram", "MissingTable", "Unreadable"]


class AnalyzeError(DumpError):
    """Something of the kernel cannot be had from this dump."""


class Unreadable(AnalyzeError):
    """Memory that cannot be read.

    Attributes:
        address: The first address that failed.
        why: `excluded`, `lost`, `damaged`, `not in the dump` or `not mapped`.
    """

    def __init__(self, address: int, why: str) -> None:
        super().__init__(f"memory at {address:#x} cannot be read: {why}")
        self.address = address
        self.why = why

    def __reduce__(self) -> tuple[object, ...]:
        return Unreadable, (self.address, self.why)


class MissingTable(AnalyzeError):
    """A table of the kernel (symbols, types, log) is not there or makes no sense."""


class MissingProgram(AnalyzeError):
    """A program or library that the command needs is not installed."""

    exit_code = 6
