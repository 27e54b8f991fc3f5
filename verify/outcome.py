# SPDX-License-Identifier: GPL-2.0-or-later
"""What `dumpconv --verify` and `--manifest-out` do around a conversion: digests of the source, proof of the output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import NDArray

from ..formats.executor import ExecutorChoice, default_jobs
from ..formats.filedigest import DEFAULT_ALGORITHMS, SourceDigests, digest_file
from ..formats.reader import DumpReader, Options

__all__ = ["Proof"]


class Proof:
    """What is to be proven of one conversion.

    Args:
        verify: Read the output back.
        manifest: Name of the manifest to write, None for none.
        inputs: Names of the inputs, which the manifest must not replace.
        force: Replace a manifest that exists.

    Raises:
        UsageError: The manifest must not be written.
    """

    def __init__(self, verify: bool, manifest: str | None, inputs: Sequence[str], *, force: bool) -> None:
        self._verify = verify
        self._manifest = manifest
        self._digests: SourceDigests | None = None
        self._reading = Options()
        if manifest is not None:
            import os

            from ..formats.errors import UsageError
            from .manifest_write import check_target, form_of

            check_target(manifest, force=force)
            if form_of(manifest) != "json":
                raise UsageError("--manifest-out writes our JSON", path=manifest, hint="dumpverify writes other forms")
            if os.path.exists(manifest) and any(
                os.path.exists(name) and os.path.samefile(name, manifest) for name in inputs
            ):
                raise UsageError("the manifest and an input are the same file", path=manifest)
            self._digests = SourceDigests(lambda name: DEFAULT_ALGORITHMS)

    @property
    def tap(self) -> Callable[[str, bytes], None] | None:
        """See `Options.tap`."""
        return self._digests.tap if self._digests is not None else None

    def attach(self, reader: DumpReader) -> None:
        """Say what the source is."""
        if self._digests is not None:
            self._digests.attach(reader.sources)
        machine = reader.machine
        self._reading = Options(machine=machine.arch, page_size=machine.page_size)

    def seen(self, extents: NDArray[Any]) -> None:
        """See `page_tasks`."""
        if self._digests is not None:
            self._digests.seen(extents)

    def written(
        self,
        names: Sequence[str],
        expected: str | None,
        jobs: int,
        executor: ExecutorChoice,
        progress: Callable[[int], object],
    ) -> None:
        """Read the output back where that is wanted.

        Raises:
            CorruptDump, FixityError: It is not what it should be.
        """
        if self._verify and expected is not None:
            from .readback import read_back

            if not isinstance(executor, str):  # the output is here, and may be seen nowhere else
                executor, jobs = "auto", default_jobs()
            read_back(names, expected, self._reading, jobs=jobs, executor=executor, progress=progress)

    def finish(
        self,
        reader: DumpReader,
        outputs: Sequence[str],
        pages: dict[str, int],
        content: str | None,
        leaves: list[tuple[int, bytes]],
    ) -> None:
        """Write the manifest: source and output have the same memory, and each its own files.

        Raises:
            DumpError: A file cannot be read, or the manifest not be written.
        """
        if self._digests is None or self._manifest is None:
            return
        from .fixity import dump_facts
        from .manifest_write import Recorded, write_manifest

        facts = dump_facts(reader, pages, content, leaves)
        found = self._digests.finish([source.name for source in reader.files])
        source = Recorded([(name, *value) for name, value in found.items()], {"role": "source", **facts})
        made = [(name, *digest_file(name, DEFAULT_ALGORITHMS)) for name in outputs]
        keys = ("page_size", "content_digest", "leaves")
        output = Recorded(made, {"role": "output", **{key: facts[key] for key in keys}})
        write_manifest(self._manifest, [source, output] if made else [source])
