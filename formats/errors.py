# SPDX-License-Identifier: GPL-2.0-or-later
"""The errors that users see: one tree, each class with its exit code.

A message says what, where, both values and what to do. Every error crosses process borders, so all of
them pickle through one `__reduce__`.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "CodecUnavailable",
    "CorruptDump",
    "CorruptStream",
    "DumpError",
    "FixityError",
    "InputError",
    "MissingPart",
    "OutputError",
    "PageDecodeError",
    "TruncatedDump",
    "TruncatedStream",
    "UnknownFormat",
    "UnknownMachine",
    "UnsupportedDump",
    "UsageError",
]


def _rebuild(cls: type[DumpError], message: str, fields: dict[str, object]) -> DumpError:
    return cls(message, **fields)  # type: ignore[arg-type]


class DumpError(Exception):
    """Base of all errors that bad input or a bad environment may cause.

    Args:
        message: What is wrong, with both values where two disagree.
        path: Name of the file concerned.
        offset: File offset in bytes.
        pfn: Page frame number concerned.
        hint: What the user can do.
    """

    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        message: str,
        *,
        path: str | None = None,
        offset: int | None = None,
        pfn: int | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.path = path
        self.offset = offset
        self.pfn = pfn
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        fields = {"path": self.path, "offset": self.offset, "pfn": self.pfn, "hint": self.hint}
        return _rebuild, (type(self), self.message, fields)

    def plain(self) -> str:
        """Return what and where, without what to do about it."""
        where = []
        if self.offset is not None:
            where.append(f"file offset {self.offset:#x}")
        if self.pfn is not None:
            where.append(f"pfn {self.pfn:#x}")
        text = self.message
        if where:
            text += f" ({', '.join(where)})"
        if self.path is not None:
            text = f"{self.path}: {text}"
        return text

    def __str__(self) -> str:
        return self.plain() if self.hint is None else f"{self.plain()}; {self.hint}"


class UsageError(DumpError):
    """The command line asks for something impossible."""

    exit_code = 2


class UnknownMachine(UsageError):
    """The dump does not say of which machine it is, and the user neither."""


class InputError(DumpError):
    """The input cannot be read: I/O error, permission, changed while read."""


class MissingPart(DumpError):
    """A member of a split set is not there."""


class OutputError(DumpError):
    """The output cannot be written."""


class UnknownFormat(DumpError):
    """No reader knows the signature."""

    exit_code = 6


class UnsupportedDump(DumpError):
    """The format is known, this variant of it is not."""

    exit_code = 6


class CodecUnavailable(DumpError):
    """The library that decodes these pages is not installed."""

    exit_code = 6


class CorruptDump(DumpError):
    """The dump contradicts itself."""

    exit_code = 3


class TruncatedDump(CorruptDump):
    """The file is shorter than its own tables say."""


class CorruptStream(CorruptDump):
    """What is around a dump, outer compression or a flattened stream, is damaged."""


class TruncatedStream(CorruptStream, TruncatedDump):
    """What is around a dump ends early."""


class PageDecodeError(CorruptDump):
    """A stored page does not decode to exactly one page."""


class FixityError(DumpError):
    """The memory decodes, but its digest is not the recorded one."""

    exit_code = 5
