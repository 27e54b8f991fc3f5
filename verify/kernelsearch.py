# SPDX-License-Identifier: GPL-2.0-or-later
"""Level `kernel` of a dump without VMCOREINFO: what memory itself tells of the kernel that it holds.

The banner that every kernel prints first (`Linux version ...`) lies in its read-only data. With the symbol table, found
by its shape, the distance from the banner's address to its place is known, and so where init_uts_ns must lie.
"""

from __future__ import annotations

import re

from ..analyze.kernel import Kernel
from ..analyze.scan import find_kallsyms, find_text
from ..formats.errors import DumpError
from .verdict import TargetReport

__all__ = ["MAX_SEARCH", "check_by_search"]

MAX_SEARCH = 4 << 30  # bytes of memory that are searched: a pass of one worker, a second or more each GiB
_MAX_BANNERS = 256  # the image's, the log's, and copies in files' pages
_BANNER = re.compile(rb"Linux version ([!-~]{1,64}) ")
_UTS_FIELD = 65


def check_by_search(kernel: Kernel, said: str, report: TargetReport) -> str:
    """Look for the kernel's banner and symbols, and hold them against the header.

    Args:
        kernel: The kernel.
        said: Release by the dump's header, "" where it has none.
        report: For what is found.

    Returns:
        Why nothing could be proven, "" where something was.
    """
    banners = _banners(kernel)
    if not banners:
        return "memory has no VMCOREINFO and no `Linux version`"
    releases = set(banners.values())
    shown = ", ".join(sorted(releases)[:4])
    if said and said not in releases:
        report.add("E141", f"memory has Linux version {shown}, the header says {said}")
        return ""
    if said:
        report.proven.append(f"memory has `Linux version {said}`, as the header says")
    else:
        report.kernel = report.kernel or min(releases) if len(releases) == 1 else report.kernel
    why = _check_symbols(kernel, banners, report)
    return f"memory has Linux version {shown}, but {why}" if why and not said else ""


def _banners(kernel: Kernel) -> dict[int, str]:
    # release by physical address of the banner
    found: dict[int, str] = {}
    for number, address in enumerate(find_text(kernel.physical, b"Linux version ")):
        if number >= _MAX_BANNERS:
            break
        try:
            raw = kernel.physical.read(address, 96)
        except DumpError:
            continue
        match = _BANNER.match(raw)
        if match is not None and match[1][:1].isdigit():
            found[address] = match[1].decode()
    return found


def _check_symbols(kernel: Kernel, banners: dict[int, str], report: TargetReport) -> str:
    # why init_uts_ns could not be looked at, "" where it was and says what a banner says
    try:
        raw = find_kallsyms(kernel.physical).symbols(None, kernel.machine.word_size)
    except DumpError as error:
        return error.message
    report.proven.append(f"kallsyms: {len(raw.names)} symbols hold together")
    places = {name[1:]: int(address) for name, address in zip(raw.names, raw.addresses.tolist(), strict=True)}
    banner, names = places.get(b"linux_banner"), places.get(b"init_uts_ns")
    if banner is None or names is None:
        return "its symbols do not have linux_banner and init_uts_ns"
    for address, release in banners.items():
        try:
            data = kernel.physical.read(address + names - banner, 512)
        except DumpError:
            continue
        at = data.find(b"Linux\0")
        if at >= 0 and data[at + 2 * _UTS_FIELD :].split(b"\0", 1)[0] == release.encode():
            report.kernel = report.kernel or release
            report.proven.append(f"init_uts_ns says {release}, as linux_banner does")
            return ""
    return "init_uts_ns is not where its symbols and banners say"
