# SPDX-License-Identifier: GPL-2.0-or-later
"""A real kernel's memory in every kind of container: analysis says of each what the machine itself and drgn said.

Of the containers of old and odd formats none tells where the kernel lies. With tables taken out of the memory each
level of knowledge is reached, said, and gives what docs/analyze.md promises of it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import zstandard

from dumpconv.analyze.command import run_words
from dumpconv.analyze.kernel import Kernel
from dumpconv.analyze.log import render
from dumpconv.analyze.scan import find_text
from dumpconv.analyze.system_map import load_system_map
from dumpconv.analyze.unwind import make_unwinder
from dumpconv.formats import open_dump
from dumpconv.formats.pagetable import X86PageTable
from dumpconv.formats.reader import Options
from support import build_lkcd, build_vmdump, oracle_tools
from support.command import dumpconv
from support.real_kernel import CONTAINERS, PAGE, TEXT_BASE, RealKernel

pytestmark = [pytest.mark.real, pytest.mark.oracle]

ONE_CPU = ("netdump", "diskdump")  # they have the registers of one
SILENT = ("mcore", "lime")  # they have no registers, and do not say of which machine they are


@dataclass
class Said:
    """What the machine and other programs say.

    Attributes:
        symbols: (address, letter and name) in the machine's order.
        log: vmcore-dmesg's.
        tasks, modules: Of /proc.
        sleeping: Task -> program counters, by drgn with DWARF; empty without them.
        panic: The same of the CPU that panicked.
        kallsyms: As the machine wrote it.
    """

    symbols: list[tuple[int, bytes]]
    log: bytes
    tasks: set[tuple[int, str]]
    modules: set[tuple[str, int, int]]
    kallsyms: bytes
    sleeping: dict[int, list[int]] = field(default_factory=dict)
    panic: list[int] = field(default_factory=list)


@pytest.fixture(scope="module")
def dump(real_dir: Path) -> Path:
    return real_dir / "vmcore.d31.zstd.kdump"


@pytest.fixture(scope="module")
def real(dump: Path) -> RealKernel:
    return read_kernel(dump)


@pytest.fixture(scope="module")
def said(dump: Path, real_dir: Path, need: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Said:
    need("vmcore-dmesg")
    core = tmp_path_factory.mktemp("said") / "core"
    assert dumpconv(dump, core).returncode == 0
    log = subprocess.run(["vmcore-dmesg", core], capture_output=True, check=True).stdout
    with (real_dir / "truth" / "kallsyms.zst").open("rb") as file:
        kallsyms = zstandard.ZstdDecompressor().stream_reader(file).read()
    rows = [line.split(b" ", 2) for line in kallsyms.splitlines() if b"[" not in line]
    procs = [line.split() for line in (real_dir / "truth" / "procs").read_text().splitlines()]
    modules = [line.split() for line in (real_dir / "truth" / "modules").read_text().splitlines()]
    found = Said(
        [(int(address, 16), letter + name) for address, letter, name in rows],
        log,
        {
            (int(words[0].removeprefix("/proc/")), words[1][:15])
            for words in procs
            if words[0].startswith("/proc/") and "kworker" not in words[1]  # procfs adds what these are at
        },
        {(words[0], int(words[1]), int(words[5], 16)) for words in modules},
        kallsyms,
    )
    ask_drgn(found, core)
    core.unlink()
    return found


def read_kernel(dump: Path) -> RealKernel:
    """Read a dump of x86_64, as far as the commands of analyze ask for pages."""
    kernel = Kernel(open_dump([str(dump)]))
    for words in ("log", "sys", "ps", "mod", "bt -a", "bt -A", "sym -M", "log -T"):
        list(run_words(kernel, words.split()).lines)
    # what shows where the kernel lies
    kernel.memory.read(kernel.symbol("linux_banner"), 256)
    tables = kernel.memory.translator
    assert isinstance(tables, X86PageTable)
    assert list(tables.mappings(TEXT_BASE, TEXT_BASE + (1 << 30)))
    pages = dict(kernel.physical._pages)
    for paddr in find_text(kernel.physical, b"VMCOREINFO\0\0OSRELEASE="):
        pages[paddr // PAGE] = kernel.physical.page(paddr // PAGE)
    text = dict(line.split("=", 1) for line in kernel.info.to_bytes().decode().splitlines() if "=" in line)
    statuses = tuple(note.desc(4096) for note in kernel.reader.notes if (note.name, note.type) == (b"CORE", 1))
    return RealKernel(pages, text, statuses)


def ask_drgn(found: Said, core: Path) -> None:
    """Trace all tasks by drgn, where it and the kernel's debuginfo are here."""
    vmlinux = oracle_tools.find_vmlinux("6.1.0-56-cloud-amd64")
    try:
        import drgn
        from drgn.helpers.linux.pid import for_each_task
    except ImportError:
        return
    if vmlinux is None:
        return
    prog = drgn.Program()
    prog.set_core_dump(str(core))
    prog.set_enabled_debug_info_finders([])
    prog.load_debug_info([str(vmlinux)])

    def frames(trace: object) -> list[int]:
        # ours end where user mode begins
        return [frame.pc for frame in trace if not frame.is_inline and frame.pc >> 47]  # type: ignore[attr-defined]

    crashed = prog.crashed_thread()
    found.panic = frames(crashed.stack_trace())
    for task in for_each_task(prog):
        if not task.on_cpu.value_():
            found.sleeping[task.value_()] = frames(prog.stack_trace(task))


def opened(name: str, real: RealKernel, folder: Path, **more: str | None) -> Kernel:
    path = folder / "dump"
    path.write_bytes(CONTAINERS[name](real))
    kernel = Kernel(open_dump([str(path)], Options(machine="x86_64" if name in SILENT else None)))
    if more.get("system_map"):
        kernel.system_map = load_system_map(str(more["system_map"]), 8)
    kernel.vmlinux = more.get("vmlinux")
    return kernel


def log_of(kernel: Kernel) -> bytes:
    return b"".join(render(record) + b"\n" for record in kernel.log)


def info_of(kernel: Kernel) -> dict[str, str]:
    result = run_words(kernel, ["info"])
    list(result.lines)
    found: dict[str, str] = result.data
    return found


def check_symbols(kernel: Kernel, said: Said) -> None:
    table = kernel.symbols
    assert table.addresses.tolist() == [address for address, _ in said.symbols]
    assert table.names == [name for _, name in said.symbols]


def check_tasks(kernel: Kernel, said: Said) -> None:
    # the disk that the machine wrote its words to was unmounted before the crash
    found = {(task.pid, task.comm.decode()) for task in kernel.tasks}
    assert {name for _, name in said.tasks - found} == {"ext4-rsv-conver", "jbd2/vda-8"}
    assert {(module.name, module.size, module.base) for module in kernel.modules} == said.modules


def check_stacks(kernel: Kernel, said: Said, *, cpus: int) -> None:
    unwinder = make_unwinder(kernel)
    traces = [unwinder.trace(registers) for _, registers in unwinder.saved_registers()]
    assert len(traces) == cpus
    if not said.panic:
        pytest.skip("no drgn, or no debuginfo of this kernel: stacks were not compared")
    if cpus:
        assert said.panic in [[frame.ip for frame in trace.frames] for trace in traces]
    asleep = {task.address: task for task in kernel.tasks if not task.running}
    mine = {address: [frame.ip for frame in unwinder.sleeping(address).frames] for address in asleep}
    assert {address: mine.get(address) for address in said.sleeping} == said.sleeping
    assert len(said.sleeping) > 50


@pytest.mark.parametrize("name", CONTAINERS)
def test_each_container_says_what_the_machine_said(name: str, real: RealKernel, said: Said, tmp_path: Path) -> None:
    kernel = opened(name, real, tmp_path)
    assert kernel.level[0] == "L2"
    assert kernel.info_origin == "found in memory"
    check_symbols(kernel, said)
    assert log_of(kernel) == said.log
    assert kernel.log_complaints == []
    check_tasks(kernel, said)
    check_stacks(kernel, said, cpus=0 if name in SILENT else 1 if name in ONE_CPU else 2)


# Container, what is taken out of memory, what the user gives, what `info` says of VMCOREINFO and of the level, and
# whether the log is whole: else it is found by its text.
LEVELS = [
    ("lkcd", "vmcoreinfo", None, "made from kallsyms", "L2: 87347 symbols, 95247 types; no source lines", True),
    ("netdump", "types", None, "found in memory", "L1: 87347 symbols; no types: ", True),
    ("diskdump", "vmcoreinfo types", None, "made from kallsyms", "L1: 87347 symbols; no types: ", False),
    ("mcore", "symbols", None, "found in memory", "L0: no symbols: ", True),
    ("xen-core", "vmcoreinfo symbols", None, "none", "L0: no symbols: ", False),
    ("lime", "vmcoreinfo symbols types", None, "none", "L0: no symbols: ", False),
    ("mcore", "symbols", "map", "found in memory", "L2: 87347 symbols, 95247 types; no source lines", True),
    ("xen-save", "vmcoreinfo symbols", "map", "made from System.map", "L2: 87347 symbols, 95247 types;", True),
    ("diskdump", "vmcoreinfo symbols types", "map", "made from System.map", "L1: 87347 symbols; no types: ", False),
    ("netdump", "symbols", "vmlinux", "found in memory", "L3: ", True),
    ("lkcd", "vmcoreinfo symbols", "vmlinux", "made from vmlinux", "L3: ", True),
    ("xen-core", "types", "vmlinux", "found in memory", "L3: 87347 symbols, 95247 types; source lines by drgn", True),
]


@pytest.mark.parametrize(("name", "gone", "given", "origin", "level", "whole"), LEVELS)
def test_each_level_is_said_with_its_reason(
    name: str, gone: str, given: str | None, origin: str, level: str, whole: bool, real: RealKernel, said: Said,
    tmp_path: Path,
) -> None:  # fmt: skip
    more: dict[str, str | None] = {}
    if given == "map":
        (tmp_path / "System.map").write_bytes(real.system_map(said.kallsyms))
        more["system_map"] = str(tmp_path / "System.map")
    elif given == "vmlinux":
        found = oracle_tools.find_vmlinux("6.1.0-56-cloud-amd64")
        if found is None:
            pytest.skip("no debuginfo of this kernel")
        more["vmlinux"] = str(found)
    kernel = opened(name, real.without(*gone.split()), tmp_path, **more)
    told = info_of(kernel)
    assert told["vmcoreinfo"] == origin
    assert told["level"].startswith(level)
    assert told["format"] == kernel.reader.name
    if whole:
        assert log_of(kernel) == said.log
        assert kernel.log_complaints == []
    else:
        check_searched_log(kernel, said)
    reached = told["level"][:2]
    if reached != "L0" and given != "vmlinux":
        check_symbols(kernel, said)
    if reached in ("L2", "L3"):
        check_tasks(kernel, said)
    elif reached == "L1":  # the CPUs' stacks need no types
        unwinder = make_unwinder(kernel)
        traces = [unwinder.trace(registers) for _, registers in unwinder.saved_registers()]
        assert any(trace.frames[0].name == "__crash_kexec" for trace in traces)
        assert run_words(kernel, ["sym", "panic"]).data[0]["name"] == "panic"


def check_searched_log(kernel: Kernel, said: Said) -> None:
    """All records in order, without times; of a few the end is in doubt."""
    texts = [render(record) for record in kernel.log]
    wanted = [line.split(b"] ", 1)[1] for line in said.log.splitlines() if line.startswith(b"[") and b"] " in line]
    wanted = [text for text in wanted if text]
    found = [text.split(b"\n")[0] for text in texts]
    assert len(found) == len(wanted)
    assert sum(mine == theirs for mine, theirs in zip(found, wanted, strict=True)) > 0.97 * len(wanted)
    assert all(mine.startswith(theirs) or theirs.startswith(mine) for mine, theirs in zip(found, wanted, strict=True))
    assert len(kernel.log_complaints) == 1
    assert kernel.log_complaints[0].startswith("the log was searched for and found by the numbers of its texts: ")


def test_a_kernel_of_s390x_without_types_in_its_own_containers(real_dir: Path, tmp_path: Path) -> None:
    """VMDUMP and LKCD: functions and exports, the log up to what the machine wrote before it was dumped."""
    source = open_dump([str(real_dir / "s390x-qemu.elf.zst")])
    info = Kernel(source).info
    kernel = Kernel(source)
    kernel._info, kernel._searched = info, True
    assert kernel.log
    assert kernel.symbols
    kernel.memory.read(kernel.symbol("init_uts_ns"), 512)
    pages = dict(kernel.physical._pages)
    for paddr in find_text(kernel.physical, b"VMCOREINFO\0\0OSRELEASE="):
        pages[paddr // PAGE] = kernel.physical.page(paddr // PAGE)
    uts = {"sysname": "Linux", "release": "2.6.5", "version": "#1", "machine": "s390x"}
    lkcd = build_lkcd.LkcdSpec(pages=pages, order=">", level=1, version=9, uts=uts)
    vmdump = build_vmdump.VmdumpSpec(nr_pages=65536, pages=pages)
    for name, data in (("lkcd", build_lkcd.build(lkcd).to_bytes()), ("vmdump", build_vmdump.build(vmdump))):
        path = tmp_path / name
        path.write_bytes(data)
        found = Kernel(open_dump([str(path)]))
        told = info_of(found)
        assert (told["format"], told["vmcoreinfo"]) == (name, "found in memory")
        assert told["level"].endswith("of data only those that are exported; no types: no BTF in memory")
        assert log_of(found).endswith(b"] dumpconv-lab: marker line\n")
        assert run_words(found, ["sym", "_stext"]).data[0]["address"] == "0x100000"
