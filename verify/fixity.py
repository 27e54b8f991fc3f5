# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixity of one dump: digests of its files in the pass over its pages, held against a manifest, kept for a new one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..formats.digest import LEAF_PFNS, content_digest
from ..formats.errors import DumpError
from ..formats.filedigest import SourceDigests
from ..formats.pages import PageState
from ..formats.reader import DumpReader
from ..formats.statenote import state_digest
from .manifest import Entry, Manifest, Memory
from .manifest_write import Recorded
from .verdict import TargetReport

__all__ = ["Fixity", "FixityOptions", "dump_facts"]

_MAX_TOLD = 8  # changed ranges named in one line; the report has all

Leaves = list[tuple[int, bytes]]


class FixityOptions(NamedTuple):
    """What to hold files against.

    Attributes:
        manifest: None to check nothing.
        algorithms: What to compute beside what the manifest needs.
    """

    manifest: Manifest | None = None
    algorithms: tuple[str, ...] = ()


class Fixity:
    """The digests of one dump.

    Args:
        options: See `FixityOptions`.
    """

    def __init__(self, options: FixityOptions) -> None:
        self._options = options
        self.source = SourceDigests(self._algorithms)

    def _entry(self, name: str) -> Entry | None:
        return None if self._options.manifest is None else self._options.manifest.entry(name)

    def _algorithms(self, name: str) -> Sequence[str]:
        entry = self._entry(name)
        return list(dict.fromkeys([*self._options.algorithms, *(entry.digests if entry else ())]))

    def lists(self, name: str) -> bool:
        """Whether the manifest has a digest of a file."""
        entry = self._entry(name)
        return entry is not None and bool(entry.digests)

    def finish(self, names: Sequence[str], reader: DumpReader | None, leaves: Leaves, report: TargetReport) -> Recorded:
        """Hash what is left of the files, compare, and return what a manifest would say."""
        try:
            found = self.source.finish(names)
        except DumpError as error:
            report.add("E150", error.message, offset=error.offset)
            found = {}
        for name, (_, digests) in found.items():
            if digests:
                report.file_digests[name] = digests
            for kind, value in digests.items():
                report.digests[kind if len(names) == 1 else f"{os.path.basename(name)}: {kind}"] = value
        manifest = self._options.manifest
        if manifest is not None:
            right = [self._check_file(name, *found[name], manifest, report) for name in names if name in found]
            if reader is not None:
                self._check_memory(names, leaves, report)
                if right and all(right) and len(right) == len(names):
                    report.assurance = {"fixity": report.pages.get("stored", 0) - report.nr_bad}
        facts = {} if reader is None else dump_facts(reader, report.pages, report.digests.get("content"), leaves)
        return Recorded([(name, *found[name]) for name in names if name in found], facts)

    def _check_file(
        self, name: str, size: int, digests: dict[str, str], manifest: Manifest, report: TargetReport
    ) -> bool:
        entry = manifest.entry(name)
        if entry is None or not entry.digests:
            if manifest.kind != "bagit":  # a bag must list all: told once, with the bag
                report.add("W221", f"{name}: {manifest.path} says nothing of it")
            return False
        wrong = [kind for kind, value in entry.digests.items() if digests[kind] != value]
        if entry.ambiguous and len(wrong) < len(entry.digests):
            wrong = []
        parts = [f"{kind} is {digests[kind]}, the manifest says {entry.digests[kind]}" for kind in wrong]
        if entry.size is not None and entry.size != size:
            parts.insert(0, f"{size} bytes, the manifest says {entry.size}")
        if parts:
            report.add("E112", f"{name}: {'; '.join(parts)}")
        return not parts

    def _check_memory(self, names: Sequence[str], leaves: Leaves, report: TargetReport) -> None:
        entry = next((each for each in map(self._entry, names) if each is not None and each.memory is not None), None)
        found = report.digests.get("content")
        if entry is None or entry.memory is None or found is None:
            return
        memory = entry.memory
        if not _agrees_with_itself(memory):
            report.add("W222", f"the leaves of {entry.name} do not make its content digest {memory.content_digest}")
        if found == memory.content_digest:
            return
        now = {number: leaf.hex() for number, leaf in leaves}
        changed = sorted(each for each in now.keys() | memory.leaves.keys() if now.get(each) != memory.leaves.get(each))
        for each in changed:
            start, end = each * LEAF_PFNS, (each + 1) * LEAF_PFNS
            if report.changed and report.changed[-1][1] == start:
                report.changed[-1] = report.changed[-1][0], end
            else:
                report.changed.append((start, end))
        told = [f"{start:#x}-{end - 1:#x}" for start, end in report.changed[:_MAX_TOLD]]
        more = f" and {len(report.changed) - _MAX_TOLD} more ranges" if len(report.changed) > _MAX_TOLD else ""
        where = f"; pages changed among pfn {', '.join(told)}{more}" if told else ""
        report.add(
            "E114",
            f"content digest is {found}, the manifest says {memory.content_digest}{where}",
            pfn=report.changed[0][0] if report.changed else None,
        )


def _agrees_with_itself(memory: Memory) -> bool:
    try:
        leaves = [(number, bytes.fromhex(memory.leaves[number])) for number in sorted(memory.leaves)]
        return content_digest(memory.page_size, leaves).hex() == memory.content_digest
    except (ValueError, OverflowError):
        return False


def dump_facts(reader: DumpReader, pages: dict[str, int], content: str | None, leaves: Leaves) -> dict[str, Any]:
    """Return what our manifest says of a dump beside its files."""
    info = reader.vmcoreinfo
    return {
        "format": reader.name,
        "arch": reader.machine.arch,
        "kernel": (info.text("OSRELEASE") if info is not None else None) or None,
        "page_size": reader.machine.page_size,
        "pages": {state.name.lower(): pages.get(state.name.lower(), 0) for state in PageState if state},
        "state_digest": state_digest(reader.memory_map, reader.machine.page_size).hex(),
        "content_digest": content,
        "leaves": [[number, leaf.hex()] for number, leaf in leaves],
    }
