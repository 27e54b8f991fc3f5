# SPDX-License-Identifier: GPL-2.0-or-later
"""Level `kernel` of a dump that no VMCOREINFO can be had of: what memory itself tells of the kernel that it holds.

The banner that every kernel prints first (`Linux version ...`) lies in its read-only data and in its log.
"""

from __future__ import annotations

import re

from ..analyze.kernel import Kernel
from ..analyze.scan import find_text
from ..formats.errors import DumpError
from .verdict import TargetReport

__all__ = ["MAX_SEARCH", "check_by_search"]

MAX_SEARCH = 16 << 30  # bytes of memory that are searched: a pass of one worker, a second or more each GiB
_MAX_BANNERS = 256  # the image's, the log's, and copies in files' pages
_BANNER = re.compile(rb"Linux version ([!-~]{1,64}) ")


def check_by_search(kernel: Kernel, said: str, report: TargetReport) -> str:
    """Look for the kernel's banner, and hold it against the header.

    Args:
        kernel: The kernel.
        said: Release by the dump's header, "" where it has none.
        report: For what is found.

    Returns:
        Why nothing could be proven, "" where something was.
    """
    releases = _banners(kernel)
    if not releases:
        return "memory has no VMCOREINFO and no `Linux version`"
    shown = ", ".join(sorted(releases)[:4])
    if not said:
        report.kernel = report.kernel or (min(releases) if len(releases) == 1 else "")
        return f"memory has Linux version {shown}, the header says nothing"
    if said not in releases:
        report.add("E141", f"memory has Linux version {shown}, the header says {said}")
    else:
        report.proven.append(f"memory has `Linux version {said}`, as the header says")
    return ""


def _banners(kernel: Kernel) -> set[str]:
    found: set[str] = set()
    for number, address in enumerate(find_text(kernel.physical, b"Linux version ")):
        if number >= _MAX_BANNERS:
            break
        try:
            raw = kernel.physical.read(address, 96)
        except DumpError:
            continue
        match = _BANNER.match(raw)
        if match is not None and match[1][:1].isdigit():
            found.add(match[1].decode())
    return found
