# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel model against what the real machine said of itself before it died, and against vmcore-dmesg."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from dumpconv.analyze import scan
from dumpconv.analyze.command import run_words
from dumpconv.analyze.direct_map import known_range
from dumpconv.analyze.errors import Unreadable
from dumpconv.analyze.kernel import Kernel
from dumpconv.analyze.log import render
from dumpconv.analyze.orc_unwind import OrcUnwinder
from dumpconv.analyze.unwind import Trace, make_unwinder
from dumpconv.formats import open_dump
from support.command import dumpconv

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def dump(real_dir: Path) -> Path:
    return real_dir / "vmcore.d31.zstd.kdump"


@pytest.fixture(scope="module")
def kernel(dump: Path) -> Kernel:
    return Kernel(open_dump([str(dump)]))


def truth(real_dir: Path, name: str) -> bytes:
    with (real_dir / "truth" / name).open("rb") as file:
        return zstandard.ZstdDecompressor().stream_reader(file).read()


def test_symbols_are_those_of_the_guest(kernel: Kernel, real_dir: Path) -> None:
    lines = truth(real_dir, "kallsyms.zst").decode().splitlines()
    wanted = [line for line in lines if "\t[" not in line and " [" not in line]
    assert [f"{each.address:016x} {each.letter} {each.name}" for each in kernel.symbols] == wanted


def test_types_are_those_of_the_guest(kernel: Kernel, real_dir: Path) -> None:
    assert kernel.btf.data == truth(real_dir, "btf.zst")


@pytest.mark.oracle
def test_the_log_is_that_of_vmcore_dmesg(kernel: Kernel, dump: Path, tmp_path: Path, need: Callable[..., None]) -> None:
    need("vmcore-dmesg")
    assert dumpconv(dump, tmp_path / "out.elf").returncode == 0
    done = subprocess.run(["vmcore-dmesg", tmp_path / "out.elf"], capture_output=True, check=True)
    assert b"".join(render(record) + b"\n" for record in kernel.log) == done.stdout
    assert dumpconv("analyze", dump, "log").stdout == done.stdout


def test_little_of_the_dump_is_read(dump: Path) -> None:
    kernel = Kernel(open_dump([str(dump)]))
    assert kernel.log
    assert kernel.physical.pages_read < 400
    assert kernel.symbols
    assert kernel.physical.pages_read < 1000


def test_what_cannot_be_had_is_one_line(dump: Path) -> None:
    done = dumpconv("analyze", dump, "rd", "ffff800000000000")
    assert done.returncode == 1
    assert done.stderr.decode().startswith("dumpconv: memory at 0xffff800000000000 cannot be read: ")
    assert dumpconv("analyze", dump, "nothing").returncode == 2
    assert dumpconv("analyze", dump, "sym", "no_such_symbol").returncode == 1


def test_tasks_are_those_of_the_guest(kernel: Kernel, real_dir: Path) -> None:
    said = {
        (int(line.split()[0].removeprefix("/proc/")), line.split()[1][:15])
        for line in truth_text(real_dir, "procs")
        if line.startswith("/proc/") and "kworker" not in line  # procfs adds what these are at
    }
    found = {(task.pid, task.comm.decode()) for task in kernel.tasks}
    assert len(said) > 30
    # the disk that this was written to was unmounted before the crash
    assert {name for _, name in said - found} == {"ext4-rsv-conver", "jbd2/vda-8"}


def test_modules_are_those_of_the_guest(kernel: Kernel, real_dir: Path) -> None:
    said = [line.split() for line in truth_text(real_dir, "modules")]
    assert {(module.name, module.size, module.base) for module in kernel.modules} == {
        (words[0], int(words[1]), int(words[5], 16)) for words in said
    }


def truth_text(real_dir: Path, name: str) -> list[str]:
    return (real_dir / "truth" / name).read_text().splitlines()


def test_the_panic_is_traced_through_the_hole_in_orc(kernel: Kernel) -> None:
    """The functions that the kernel itself printed in its last words."""
    unwinder = make_unwinder(kernel)
    traces = [unwinder.trace(registers) for _, registers in unwinder.saved_registers()]
    names = [frame.name for frame in next(trace for trace in traces if trace.frames).frames]
    last_words = [record.text.decode() for record in kernel.log]
    spoken = [text.split("+")[0].strip() for text in last_words[-60:] if "+0x" in text and "RIP" not in text]
    assert names[0] == "__crash_kexec"
    assert names[1:] == [name for name in spoken if not name.startswith("?") and name != "dump_stack_lvl"]


def lose(kernel: Kernel, *ranges: tuple[int, int]) -> None:
    """Take the pages of kernel addresses [start, end) out of a dump."""
    lose_frames(
        kernel, {kernel.memory.translate(at) // 4096 for start, end in ranges for at in range(start & -4096, end, 4096)}
    )


def lose_frames(kernel: Kernel, gone: set[int]) -> None:
    page = kernel.physical.page

    def without(pfn: int) -> bytes:
        if pfn in gone:
            raise Unreadable(pfn * 4096, "lost")
        return page(pfn)

    kernel.physical.page = without  # type: ignore[method-assign]
    kernel.physical._pages.clear()


def panicked(kernel: Kernel) -> Trace:
    unwinder = make_unwinder(kernel)
    traces = [unwinder.trace(registers) for _, registers in unwinder.saved_registers()]
    return next(trace for trace in traces if trace.frames)


def test_a_page_of_orc_costs_the_functions_in_it(dump: Path) -> None:
    """From there the stack is searched, and marked; frame pointers, which it does not keep, are not followed."""
    whole, kernel = Kernel(open_dump([str(dump)])), Kernel(open_dump([str(dump)]))
    frames = panicked(whole).frames
    wanted = [frame.ip for frame in frames]
    start, stop = (kernel.symbol(f"__{each}_orc_unwind_ip") for each in ("start", "stop"))
    entries = kernel.symbol("__start_orc_unwind")
    addresses, _ = next(OrcUnwinder(whole)._orc.tables())[0].columns()
    place = int(addresses.searchsorted(wanted[-3]))  # vfs_write
    lose(kernel, (start + 4 * place, start + 4 * place + 1))
    trace = panicked(kernel)
    assert [frame.ip for frame in trace.frames][: len(wanted) - 3] == wanted[: len(wanted) - 3]
    assert trace.stopped is not None
    assert f"nothing is known of {wanted[-4]:#x}" in trace.stopped
    assert {frame.ip for frame in trace.frames if frame.guessed} >= set(wanted[-3:])
    # none of it can be read
    kernel = Kernel(open_dump([str(dump)]))
    lose(kernel, (entries, entries + 6 * ((stop - start) // 4)))
    trace = panicked(kernel)
    assert trace.stopped is not None
    assert trace.stopped.startswith("ORC: memory at ")
    assert all(frame.guessed for frame in trace.frames[1:])
    assert {frame.ip for frame in trace.frames} >= set(wanted)


def test_without_symbols_the_cpus_still_say_where_they_stood(dump: Path) -> None:
    kernel = Kernel(open_dump([str(dump)]))
    table = kernel.info.symbol("kallsyms_token_table")
    assert table is not None
    lose(kernel, (table, table + 1024))
    for words in (["bt"], ["bt", "-a"]):
        result = run_words(kernel, words)
        lines = list(result.lines)
        assert any(line.startswith(" #0 [ffffcd6400013c48] (unknown) at ffffffffae56475a") for line in lines)
        assert any("the trace is not whole: ORC: " in each for each in result.complaints)


def test_page_tables_of_the_linear_map_are_not_needed(dump: Path) -> None:
    """All of memory lies there in its order: a variable says where, or the tables that are left."""
    whole = Kernel(open_dump([str(dump)]))
    asked: set[int] = set()
    page = whole.physical.page
    whole.physical.page = lambda pfn: asked.add(pfn) or page(pfn)  # type: ignore[method-assign,func-returns-value]
    walker = whole.memory.translator
    assert walker is not None
    init = next(task for task in whole.tasks if task.pid == 1).address
    asked.clear()
    walker.translate(init)
    tables = asked - {whole.symbol("init_top_pgt") - 0xFFFFFFFF80000000 + whole.info.number("phys_base") >> 12}
    assert tables
    kernel = Kernel(open_dump([str(dump)]))
    lose_frames(kernel, tables)
    start, _, size = known_range(kernel) or (0, 0, 0)
    assert start <= init < start + size
    assert [task.address for task in kernel.tasks] == [task.address for task in whole.tasks]
    assert walker.translate(init) == kernel.memory.translate(init)


def test_symbols_are_found_where_nothing_names_them(kernel: Kernel) -> None:
    """The scan through memory gives the very table that VMCOREINFO's keys lead to."""
    found = scan.find_kallsyms(kernel.physical).symbols(None, kernel.machine.word_size)
    assert found.names == kernel.symbols.names
    assert found.addresses.tolist() == kernel.symbols.addresses.tolist()


def test_vmcoreinfo_is_found_in_memory(kernel: Kernel) -> None:
    found = [info.text("OSRELEASE") for info in scan.find_vmcoreinfo(kernel.physical)]
    assert kernel.release in found


def test_a_big_endian_machine_without_note(real_dir: Path) -> None:
    """s390x: VMCOREINFO is found in memory, log and symbols by it; the machine wrote a marker before it was dumped."""
    done = dumpconv("analyze", real_dir / "s390x-qemu.elf.zst", "log")
    assert done.returncode == 0
    assert done.stdout.decode().splitlines()[-1].endswith("] dumpconv-lab: marker line")
    found = dumpconv("analyze", real_dir / "s390x-qemu.elf.zst", "sym", "_stext")
    assert found.stdout == b"100000 (T) _stext\n"


def test_a_paravirtual_guest_of_xen(real_dir: Path) -> None:
    """Its page tables hold machine addresses, and its kernel runs in ring 3: the trace is that of its last words."""
    folder = real_dir / "xen"
    kernel = Kernel(open_dump([str(folder / "pv2-crashed.core.zst")]))
    unwinder = make_unwinder(kernel)
    names = [frame.name for frame in unwinder.trace(unwinder.saved_registers()[0].registers).frames]
    words = (folder / "pv2-crashed.console.log").read_text(errors="replace").splitlines()
    start = max(number for number, line in enumerate(words) if line.endswith("  panic+0x118/0x2f4"))
    spoken = [
        line.split("]", 1)[1].split("+")[0].strip() for line in words[start:] if "+0x" in line and "? " not in line
    ]
    assert names[names.index("panic") :] == spoken
    assert len(spoken) == 9
