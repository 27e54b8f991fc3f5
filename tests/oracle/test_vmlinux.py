# SPDX-License-Identifier: GPL-2.0-or-later
"""The vmlinux made from a real dump: accepted by llvm-dwarfdump, gdb, drgn and crash, with the types that BTF has."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from dumpconv.analyze.kernel import Kernel
from dumpconv.analyze.vmlinux import cache as vmlinux_cache
from dumpconv.formats import open_dump
from support.command import dumpconv, environment, one_line

pytestmark = [pytest.mark.real, pytest.mark.oracle, pytest.mark.slow]


@pytest.fixture(scope="module")
def dump(real_dir: Path) -> Path:
    return real_dir / "vmcore.d31.zstd.kdump"


@pytest.fixture(scope="module")
def vmlinux(dump: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vmlinux") / "vmlinux"
    done = dumpconv("analyze", dump, "--write-vmlinux", path)
    assert (done.returncode, done.stderr) == (0, b"")
    return path


def run(*words: str | Path, **more: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=300, **more).stdout  # type: ignore[call-overload]


def test_it_is_private_sparse_and_always_the_same(vmlinux: Path, dump: Path, tmp_path: Path) -> None:
    assert stat.S_IMODE(vmlinux.stat().st_mode) == 0o600
    assert dumpconv("analyze", "--write-vmlinux", tmp_path / "again", dump).returncode == 0
    assert (tmp_path / "again").read_bytes() == vmlinux.read_bytes()
    assert dumpconv("analyze", dump, "--write-vmlinux", tmp_path / "again").returncode == 2
    assert dumpconv("analyze", dump, "--write-vmlinux", tmp_path / "again", "--no-image", "--force").returncode == 0
    assert 512 * (tmp_path / "again").stat().st_blocks < 12 << 20


def test_llvm_finds_no_error(vmlinux: Path, need: Callable[..., None]) -> None:
    need("llvm-dwarfdump")
    assert run("llvm-dwarfdump", "--verify", vmlinux).splitlines()[-1] == "No errors."


def test_structures_are_those_of_btf(vmlinux: Path, dump: Path) -> None:
    """All of them, by pyelftools: name, size, and each member's name and place."""
    btf = Kernel(open_dump([str(dump)])).all_types  # those of modules too
    wanted = []
    for each in btf:
        if each.kind_name in ("struct", "union"):
            members = [
                (member.name, member.bit_offset if member.bit_size else member.bit_offset // 8, member.bit_size)
                for member in btf.members(each)
            ]
            wanted.append((each.name, each.size, members))
    with vmlinux.open("rb") as file:
        unit = next(ELFFile(file).get_dwarf_info().iter_CUs())
        found = []
        for die in unit.iter_DIEs():
            if die.tag in ("DW_TAG_structure_type", "DW_TAG_union_type") and "DW_AT_declaration" not in die.attributes:
                got = {name: each.value for name, each in die.attributes.items()}
                rows = []
                for child in die.iter_children():
                    has = {name: each.value for name, each in child.attributes.items()}
                    place = has.get("DW_AT_data_bit_offset", has.get("DW_AT_data_member_location"))
                    rows.append((has.get("DW_AT_name", b"").decode(), place, has.get("DW_AT_bit_size", 0)))
                found.append((got.get("DW_AT_name", b"").decode(), got["DW_AT_byte_size"], rows))
    assert found[: len(wanted)] == wanted
    assert len(wanted) > 9000
    assert [name for name, *_ in found[len(wanted) :]] == [""]  # tk_core's, which BTF does not have


def test_types_of_modules_are_in_it(vmlinux: Path, dump: Path, need: Callable[..., None]) -> None:
    need("gdb")
    command = "print &((struct virtio_blk *)0)->tag_set"
    told = run("gdb", "-nx", "-batch", "-ex", "ptype /o struct virtio_blk", "-ex", command, vmlinux)
    assert "struct virtio_device *vdev;" in told
    assert "struct blk_mq_tag_set *" in told
    ours = dumpconv("analyze", dump, "struct", "virtio_blk", "-o").stdout.decode()
    size = told.rsplit("total size (bytes):", 1)[1].split()[0]
    assert f"SIZE: {size}" in ours
    assert "struct virtio_device *vdev;" in ours


def test_gdb_shows_types_data_and_code(vmlinux: Path, need: Callable[..., None]) -> None:
    need("gdb")
    commands = ["ptype struct list_head", "print sizeof(struct task_struct)", "ptype panic", "x/s &linux_banner"]
    told = run("gdb", "-nx", "-batch", *(word for each in commands for word in ("-ex", each)), vmlinux)
    assert "struct list_head *next;\n    struct list_head *prev;" in told
    assert '"Linux version 6.1' in told
    assert "void (const char *, ...)" in told


def test_drgn_walks_to_the_system_call(vmlinux: Path, real_dir: Path) -> None:
    pytest.importorskip("drgn")
    script = (
        "import drgn, sys\nprog = drgn.Program()\nprog.set_core_dump(sys.argv[1])\n"
        "prog.set_enabled_debug_info_finders([])\nprog.load_debug_info([sys.argv[2]])\n"
        "print([frame.name for frame in prog.crashed_thread().stack_trace()])\n"
        "print(prog['init_task'].comm.string_().decode(), prog['nr_cpu_ids'].value_())"
    )
    lines = run(sys.executable, "-c", script, real_dir / "vmcore.d31.zstd.kdump", vmlinux).splitlines()
    assert "'__crash_kexec', 'panic', 'sysrq_handle_crash'" in lines[0]
    assert "entry_SYSCALL_64_after_hwframe" in lines[0]
    assert lines[1].startswith("swapper/0 ")


def test_crash_opens_it(vmlinux: Path, real_dir: Path, dump: Path, tmp_path: Path, need: Callable[..., None]) -> None:
    need("crash")
    core = tmp_path / "core"
    assert dumpconv(dump, core).returncode == 0
    script = tmp_path / "script"
    script.write_text("sys\nps\nbt\nlog\nmod\nstruct list_head -o\nq\n")
    told = run("crash", "-s", vmlinux, core, "-i", script, env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"})
    assert "PANIC: " in told
    assert "#0 " in told and "sysrq_handle_crash" in told
    assert "[0] struct list_head *next;" in told
    assert "Linux version 6.1" in told
    assert "virtio_blk" in told or "MODULE" in told


# -- commands that drgn runs -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    pytest.importorskip("drgn")
    return environment(XDG_CACHE_HOME=str(tmp_path_factory.mktemp("cache")))


def test_the_vmlinux_is_made_once_and_private(dump: Path, cache: dict[str, str]) -> None:
    folder = Path(cache["XDG_CACHE_HOME"], "dumpconv")
    for _ in range(2):
        assert dumpconv("analyze", dump, "p", "nr_cpu_ids", env=cache).stdout == b"nr_cpu_ids = (unsigned int)2\n"
        (made,) = folder.glob("vmlinux-*")
        (note,) = folder.glob("dump-*")
        times = made.stat().st_ctime_ns, made.stat().st_ino
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(each.stat().st_mode) for each in (made, note)} == {0o600}
    assert times[1] == made.stat().st_ino


@pytest.mark.parametrize(
    "change",
    [
        lambda said: {**said, "types": [[at, size, "0" * 64] for at, size, _ in said["types"]]},
        lambda said: {**said, "vmlinux": "../../vmlinux"},
        lambda said: {**said, "types": []},
        lambda said: {**said, "list": [1, 2]},
        lambda said: {**said, "types": [[-1, 1 << 60, "x"]]},
        lambda said: [],
    ],
)
def test_a_note_that_does_not_fit_the_dump_is_not_believed(
    dump: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[dict[str, object]], object]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "dumpconv"
    made: list[str] = []

    def write(kernel: Kernel, path: str, *, image: bool) -> None:
        made.append(path)
        Path(path).write_bytes(b"")

    monkeypatch.setattr(vmlinux_cache, "write_vmlinux", write)
    first = vmlinux_cache.cached_vmlinux(Kernel(open_dump([str(dump)])))
    (note,) = folder.glob("dump-*")
    kernel = Kernel(open_dump([str(dump)]))
    assert vmlinux_cache.cached_vmlinux(kernel) == first
    assert "symbols" not in vars(kernel)  # nothing was decoded
    truth = note.read_text()
    note.write_text(json.dumps(change(json.loads(truth))))
    kernel = Kernel(open_dump([str(dump)]))
    assert vmlinux_cache.cached_vmlinux(kernel) == first
    assert "symbols" in vars(kernel)
    assert note.read_text() == truth
    assert made == [first]


@pytest.mark.parametrize(
    "command", ["files 1", "vm 1", "runq", "kmem -i", "irq", "timer", "net", "crash ps -t", "task"]
)
def test_commands_print(dump: Path, cache: dict[str, str], command: str) -> None:
    done = dumpconv("analyze", dump, *command.split(), env=cache)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.count(b"\n") > 1


def test_words_never_reach_a_shell(dump: Path, cache: dict[str, str], tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    for words in (
        ["p", f"nr_cpu_ids; touch {trap}"],
        ["p", "nr_cpu_ids", "|", f"tee {trap}"],
        ["mount", ">", str(trap)],
    ):
        assert dumpconv("analyze", dump, *words, env=cache).returncode in (0, 1)
    assert not trap.exists()


def test_what_fails_in_the_middle_is_told(dump: Path, cache: dict[str, str]) -> None:
    done = dumpconv("analyze", dump, "p", "no_such_symbol", env=cache)
    assert done.returncode == 1
    assert one_line(done).startswith("dumpconv: p no_such_symbol: ")


def test_a_given_vmlinux_is_used(dump: Path, cache: dict[str, str], vmlinux: Path, tmp_path: Path) -> None:
    words = ("--vmlinux", vmlinux, "p", "nr_cpu_ids")
    assert dumpconv("analyze", dump, *words, env=cache).stdout == b"nr_cpu_ids = (unsigned int)2\n"
    (tmp_path / "empty").write_bytes(b"")
    assert dumpconv("analyze", dump, "--vmlinux", tmp_path / "empty", "mount", env=cache).returncode == 1
    assert dumpconv("analyze", dump, "--vmlinux", tmp_path / "none", "mount", env=cache).returncode == 2


def test_a_script_has_both(dump: Path, tmp_path: Path) -> None:
    """drgn's program and our object agree, of a kdump that drgn is given by our reader."""
    pytest.importorskip("drgn")
    path = tmp_path / "both.py"
    path.write_text(
        "from drgn.helpers.linux.pid import for_each_task\n"
        "theirs = {(task.pid.value_(), task.comm.string_()) for task in for_each_task(prog)}\n"
        "ours = {(task.pid, task.comm) for task in dump.tasks() if task.pid}\n"
        "print(len(ours), ours == theirs, prog.symbol('panic').address == dump.symbol('panic'))\n"
    )
    done = dumpconv("analyze", dump, "script", path, timeout=120)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.split()[1:] == [b"True", b"True"]
    assert int(done.stdout.split()[0]) > 50
