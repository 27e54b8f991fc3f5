# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine of dumps that do not name it: what the user says, else what the dump gives reason to assume."""

from __future__ import annotations

from .errors import UnknownMachine
from .machine import ARCHITECTURES, ByteOrder, Machine
from .reader import DumpReader, Options

__all__ = ["assumed_machine"]


def assumed_machine(
    reader: DumpReader,
    options: Options,
    byteorder: ByteOrder,
    evidence: tuple[str, str] | None,
    *,
    page_size: int | None = None,
) -> Machine:
    """Return the machine; what is assumed becomes a finding of the reader.

    Args:
        reader: The dump.
        options: `machine` and `page_size` count before everything.
        byteorder: Of the dumped machine.
        evidence: Architecture that the dump gives reason to assume, and the reason.
        page_size: What the dump says, in bytes.

    Raises:
        UnknownMachine: There is neither word nor evidence.
    """
    if options.machine is not None:
        arch = ARCHITECTURES[options.machine]
    elif evidence is not None:
        arch = ARCHITECTURES[evidence[0]]
        reader.remark(
            "machine", f"the dump does not say: {evidence[1]}, so {arch.name} is assumed (--machine overrides)"
        )
    else:
        raise UnknownMachine(
            f"a dump of format {reader.name} does not say of which machine it is",
            path=reader.sources[0].name,
            hint=f"--machine ARCH does: {', '.join(ARCHITECTURES)}",
        )
    size = options.page_size or page_size
    if size is None:
        size = arch.page_size
        if not arch.fixed_page_size:
            reader.remark("page-size-assumed", f"page size {size} is assumed (--page-size overrides)")
    return Machine(arch.name, byteorder, arch.word_size, size, arch.e_machine)
