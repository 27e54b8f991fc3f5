# SPDX-License-Identifier: GPL-2.0-or-later
"""`dumpverify` of a tar archive: a report for each dump in it, named `ARCHIVE!MEMBER`, and one for the archive."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from ..formats.archive import tar_members
from ..formats.errors import CorruptDump, DumpError
from ..formats.source import ByteSource
from .codes import code_of_error
from .fixity import Fixity, FixityOptions
from .manifest_write import Recorded
from .target import VerifyOptions, stamp, tell_changes, verify_target
from .verdict import TargetReport

__all__ = ["verify_archive"]


def verify_archive(
    path: str,
    options: VerifyOptions,
    progress: Callable[[int], object] = lambda done: None,
    record: Callable[[Recorded], object] = lambda recorded: None,
) -> Iterator[TargetReport]:
    """Yield the report of each regular member, then the archive's own: cut or damaged is E109, digests are its file's.

    Args:
        path: The archive.
        options: See `VerifyOptions`; a manifest knows the archive, not its members.
        progress: Called with bytes of pages decoded.
        record: See `verify_target`.
    """
    begin = time.monotonic()
    report = TargetReport([path], options.level, format="tar", allowed=options.allowed)
    before = stamp([path])
    fixity = Fixity(options.fixity or FixityOptions())
    inner = replace(options, fixity=None, picture=False)
    try:
        for name, source in tar_members(path, options.reading._replace(salvage=True), fixity.source.tap):
            yield _member(name, source, inner, progress)
    except CorruptDump as error:
        report.add("E109", error.message, offset=error.offset)
    except DumpError as error:
        report.add(code_of_error(error), error.message, offset=error.offset)
    except OSError as error:
        report.add("E150", f"{path}: {error.strerror or error}")
    if options.fixity is not None:
        record(fixity.finish([path], None, [], report))
    fixity.source.close()
    tell_changes(before, report)
    report.sizes = {name: was[1] for name, was in before.items()}
    report.seconds = time.monotonic() - begin
    yield report


def _member(
    name: str, source: ByteSource | DumpError, options: VerifyOptions, progress: Callable[[int], object]
) -> TargetReport:
    if isinstance(source, ByteSource):
        return verify_target([name], options, progress, in_directory=True, sources=[source])
    report = TargetReport([name], options.level, allowed=options.allowed)
    report.add("E109" if isinstance(source, CorruptDump) else code_of_error(source), source.message)
    return report
