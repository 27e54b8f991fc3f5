# SPDX-License-Identifier: GPL-2.0-or-later
"""What bad frames held: kernels of every era, small pages in large frames, modules that claim everything."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from dumpconv.analyze.errors import MissingTable, Unreadable
from dumpconv.formats.vmcoreinfo import VmcoreInfo
from dumpconv.verify import kernelcheck
from dumpconv.verify.verdict import TargetReport


class _Kernel:
    def __init__(self, info: bytes = b"", page: int = 4096, kernel_page: int = 4096, modules: Any = ()) -> None:
        self.info, self.page_size = VmcoreInfo(info), kernel_page
        self.machine = SimpleNamespace(page_size=page)
        self.modules = modules
        self.translated = 0
        self.memory: Any = self

    def translate(self, address: int) -> int:
        self.translated += 1
        return address & 0xFFFFF000

    def __getattr__(self, name: str) -> Any:
        if name in ("symbols", "tasks"):
            raise MissingTable(f"no {name}")
        raise AttributeError(name)


@pytest.mark.parametrize("key", ["prb", "log_next_idx", "log_end"])
def test_a_log_that_cannot_be_read_is_damaged_in_every_era(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(*words: object) -> None:
        raise Unreadable(0x1000, "damaged")

    monkeypatch.setattr(kernelcheck, "read_log", unreadable)
    kernel: Any = _Kernel(f"SYMBOL({key})=ffffffff81000000\n".encode())
    assert kernelcheck.impact(kernel, TargetReport([], "kernel")).lines() == ["kernel log damaged"]
    assert kernelcheck.impact(_Kernel(), TargetReport([], "kernel")).lines() == []  # type: ignore[arg-type]


def test_modules_that_claim_all_memory_are_not_gone_through() -> None:
    module = SimpleNamespace(name="m", ranges=((0xFFFFFFFFC0000000, 1 << 27),))
    kernel: Any = _Kernel(modules=[module] * 65536)
    found = list(kernelcheck._regions(kernel))
    assert len(found) == (2 << 30) // (1 << 27)
    assert kernel.translated == (2 << 30) // 4096


def test_pages_of_a_kernel_that_are_smaller_than_the_dumps_are_all_placed() -> None:
    kernel: Any = _Kernel(page=65536)
    places = {0x10000: 0x730000, 0x11000: 0x9A1000, 0x12000: 0x732000}
    kernel.translate = lambda address: places[address]
    assert kernelcheck._frames(kernel, 0x10000, 0x13000).tolist() == [0x73, 0x9A]
