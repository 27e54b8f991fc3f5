# SPDX-License-Identifier: GPL-2.0-or-later
"""`dis` against GNU objdump, on the text of a real kernel as it lay in memory."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from dumpconv.analyze.disasm import Disassembler
from dumpconv.analyze.kernel import Kernel
from dumpconv.formats import open_dump

pytestmark = [pytest.mark.real, pytest.mark.oracle]

SIZE = 64 << 10


@pytest.mark.parametrize("start", ["vfs_read", "schedule", "do_syscall_64"])
def test_objdump_says_the_same(real_dir: Path, tmp_path: Path, need: Callable[..., None], start: str) -> None:
    need("objdump")
    kernel = Kernel(open_dump([str(real_dir / "vmcore.d31.zstd.kdump")]))
    address = kernel.symbol(start)
    code = kernel.memory.read(address, SIZE)
    (tmp_path / "code").write_bytes(code)
    command = ["objdump", "-D", "-w", "-b", "binary", "-m", "i386:x86-64", "--no-show-raw-insn"]
    command += [f"--adjust-vma={address:#x}", str(tmp_path / "code")]
    said: dict[int, tuple[str, ...]] = {}
    for line in subprocess.run(command, capture_output=True, check=True, text=True).stdout.splitlines():
        parts = re.match(r"\s*([0-9a-f]+):\t(.*)$", line)
        if parts is not None:
            text = parts[2].split("#")[0].split("<")[0]
            said[int(parts[1], 16)] = tuple(text.split())
    different = []
    found = list(Disassembler(kernel.machine).instructions(kernel.memory.read, address, address + SIZE - 64))
    for each in found:
        ours = tuple(f"{each.mnemonic} {each.operands}".split())
        if ours != said.get(each.address):
            different.append((hex(each.address), ours, said.get(each.address)))
    assert len(found) > 10000
    assert different[:40] == []
