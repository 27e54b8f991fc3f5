# SPDX-License-Identifier: GPL-2.0-or-later
"""Names in a dump that would be commands of a shell, and escapes of a terminal: no command line is made of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from dumpconv.analyze.kernel import Kernel
from dumpconv.formats import open_dump
from support.command import dumpconv, environment

pytestmark = [pytest.mark.real, pytest.mark.oracle, pytest.mark.slow]

COMMAND = b'`>t`;\x1b[1m\n|"x\0'  # 16 bytes are there
ENTRY = b"$(>t)\x1b[2J;|\n`>t`\0"  # 40
DEVICE = b"\x1b;|\0"  # 8
LINES = """
ps|ps 105|bt 105|task -R comm 105|foreach IN bt|report|crash ps|crash ps -a|files 105|foreach 105 files
foreach user files|fuser /dev/console|net -s 105|foreach user net -s|mount|sig 105|crash task -R comm 105|vm 105
runq|runq -g|set 105
""".strip().replace("\n", "|").split("|")  # fmt: skip


@pytest.fixture(scope="module")
def core(real_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real dump with a task, a directory entry and a device of such names."""
    path = tmp_path_factory.mktemp("hostile") / "core"
    assert dumpconv("--no-fsync", real_dir / "vmcore.d31.zstd.kdump", path).returncode == 0
    path.chmod(0o600)
    kernel = Kernel(open_dump([str(path)]))
    task = next(each for each in kernel.tasks if each.pid == 105)
    structs, memory = kernel.structs, kernel.memory
    names = {task.address + structs.offset("task_struct", "comm"): COMMAND}
    space = memory.pointer(task.address + structs.offset("task_struct", "nsproxy"))
    mounts = memory.pointer(space + structs.offset("nsproxy", "mnt_ns"))
    head = mounts + structs.offset("mnt_namespace", "list")
    place = memory.pointer(head)
    while place != head:
        mount = place - structs.offset("mount", "mnt_list")
        device = memory.pointer(mount + structs.offset("mount", "mnt_devname"))
        if memory.read(device, 4) == b"tmp\0":
            names[device] = DEVICE
            entry = memory.pointer(mount + structs.offset("mount", "mnt_mountpoint"))
            names[entry + structs.offset("dentry", "d_iname")] = ENTRY
        place = memory.pointer(place)
    assert len(names) == 3
    with path.open("r+b") as file:
        loads = [each.header for each in ELFFile(file).iter_segments("PT_LOAD")]
        for address, name in names.items():
            physical = memory.translate(address)
            load = next(each for each in loads if 0 <= physical - each["p_paddr"] < each["p_filesz"])
            file.seek(load["p_offset"] + physical - load["p_paddr"])
            file.write(name)
    return path


def test_they_start_nothing_and_reach_no_terminal(core: Path, tmp_path: Path) -> None:
    pytest.importorskip("drgn")
    (tmp_path / "lines").write_text("\n".join(LINES))
    work = tmp_path / "work"
    work.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "dumpconv", "analyze", core, "-i", tmp_path / "lines"], cwd=work, capture_output=True,
        timeout=120, check=False, env=environment(XDG_CACHE_HOME=str(tmp_path / "cache")),
    )  # fmt: skip
    said = (done.stdout + done.stderr).decode()
    assert not list(work.iterdir())
    assert all(each.isprintable() or each in "\n\t" for each in said)
    assert not [line for line in said.splitlines() if line.startswith(('|"x', "`>t`"))]  # no line of its own
    for each in ("`>t`;\\x1b[1m", "$(>t)\\x1b[2J;|", "\\x1b;|"):
        assert each in said
    assert said.count("`>t`;") > 15
