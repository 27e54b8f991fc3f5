# SPDX-License-Identifier: GPL-2.0-or-later
"""From a name to a `ByteSource`: file, standard input, outer compression, flattened stream; by content."""

from __future__ import annotations

import os
import stat

from .errors import InputError
from .reader import Options
from .source import ByteSource, FileSource

__all__ = ["open_source"]


def open_source(path: str, options: Options, *, plain: bool = False) -> ByteSource:
    """Open a name for reading.

    Args:
        path: File name; `-` is standard input.
        options: For the spool directory.
        plain: Files and flattened files only: nothing that must be spooled.

    Raises:
        InputError: It cannot be opened or read.
    """
    return FileSource(path)
