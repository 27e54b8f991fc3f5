# SPDX-License-Identifier: GPL-2.0-or-later
"""The linear map of a kernel whose dump has nothing of it."""

from __future__ import annotations

import pytest
from unit.analyze.fake_kernel import FakeKernel

from dumpconv.analyze.direct_map import page_offset
from dumpconv.analyze.errors import MissingTable
from dumpconv.formats.pages import MemoryMap


def test_arm_without_a_page_has_no_linear_map() -> None:
    kernel = FakeKernel("arm", 0xC0000000, {"_stext": 0xC0300000})
    kernel.physical.memory_map = MemoryMap.from_runs([])
    with pytest.raises(MissingTable, match="the dump has no page"):
        page_offset(kernel)  # type: ignore[arg-type]
