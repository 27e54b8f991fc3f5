# SPDX-License-Identifier: GPL-2.0-or-later
"""A small whole kdump in a file, for tests of runs over many."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import notes, patterns
from .build_kdump import KdumpImage, KdumpSpec, build


def made(path: Path, count: int, first: int = 16, **more: Any) -> KdumpImage:
    """Write `count` pages from frame `first` on; `more` are fields of `KdumpSpec`."""
    pages = {first + index: patterns.page(first + index) for index in range(count)}
    text = notes.vmcoreinfo_text(release="6.1.0-test")
    image = build(KdumpSpec(**{"pages": pages, "notes": notes.machine_notes(cpus=1, text=text), **more}))
    image.write_to(path)
    return image
