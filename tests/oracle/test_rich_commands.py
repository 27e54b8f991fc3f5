# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands through drgn, and those that are ours on its helpers or on BTF, against crash on the same dump.

crash runs once, on the vmlinux made from the dump: it prints there what it prints with Debian's (docs/vmlinux.md).
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dumpconv.analyze.command import run_words
from dumpconv.analyze.kernel import Kernel
from dumpconv.formats import open_dump
from support.command import dumpconv
from support.oracle_tools import tool

pytestmark = [pytest.mark.real, pytest.mark.oracle, pytest.mark.slow]

# word for word equal
EQUAL = """
mount|files 1|dev|dev -p|irq -b|irq -d|swap|kmem -v|kmem -o|ipcs|net|net -s 1|tree -t rb vmap_area_root
list -H modules|waitq log_wait|eval 4 + 4|union sigval|whatis init_task|whatis panic|whatis schedule|whatis jiffies
whatis modules|whatis runqueues|whatis saved_command_line|whatis list_head|whatis struct list_head|whatis atomic_t
whatis pid_t|whatis PIDTYPE_PID|whatis page
""".strip().replace("\n", "|").split("|")  # fmt: skip
# the same addresses, in tables that drgn lays out otherwise
ADDRESSES = (
    "irq",
    "timer",
    "kmem -s",
    "kmem -n",
    "kmem -z",
    "sig 1",
    "foreach 1 files",
    "set",
    "fuser ffff8ab08d626e80",
)
QUEUES = ("sbitmapq ffff8ab097f57910", "sbitmapq ffff8ab097f573d0", "sbitmapq -x ffff8ab097f57910")
OTHERS = ("irq -s", "runq", "runq -t", "task 1", "task -R pid,tgid,flags 1", "p jiffies", "p nr_cpu_ids", "fuser /")


@pytest.fixture(scope="module")
def dump(real_dir: Path) -> Path:
    return real_dir / "vmcore.d31.zstd.kdump"


@pytest.fixture(scope="module")
def crash(dump: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    if not tool("crash"):
        pytest.skip("crash is not installed")
    pytest.importorskip("drgn")
    folder = tmp_path_factory.mktemp("crash")
    assert dumpconv("analyze", dump, "--write-vmlinux", folder / "vmlinux").returncode == 0
    assert dumpconv("--no-fsync", dump, folder / "core").returncode == 0
    every = (*EQUAL, *ADDRESSES, *QUEUES, *OTHERS)
    script = folder / "script"
    script.write_text("set scroll off\n" + "".join(f"!echo '@@@@ {each}'\n{each}\n" for each in every) + "q\n")
    told = subprocess.run(
        ["crash", "-s", folder / "vmlinux", folder / "core", "-i", script], capture_output=True, timeout=120,
        env={"HOME": str(folder), "PATH": "/usr/bin:/bin"}, stdin=subprocess.DEVNULL, check=True,
    ).stdout.decode("utf-8", "replace")  # fmt: skip
    parts = re.split(r"^@@@@ (.*)$", told, flags=re.MULTILINE)[1:]
    return {name: text.strip().splitlines() for name, text in zip(parts[::2], parts[1::2], strict=True)}


@pytest.fixture(scope="module")
def kernel(dump: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield Kernel(open_dump([str(dump)]))


def ours(kernel: Kernel, line: str) -> list[str]:
    result = run_words(kernel, line.split(" "))
    found = "\n".join(result.lines).strip().splitlines()
    assert result.complaints == []
    return found


def words(lines: list[str]) -> list[list[str]]:
    return [line.split() for line in lines]


def addresses(lines: list[str]) -> list[str]:
    return sorted(re.findall(r"\b[0-9a-f]{16}\b", "\n".join(lines)))


@pytest.mark.parametrize("line", EQUAL)
def test_the_same_words(kernel: Kernel, crash: dict[str, list[str]], line: str) -> None:
    assert words(ours(kernel, line)) == words(crash[line])
    assert crash[line]


@pytest.mark.parametrize("line", [each for each in ADDRESSES if not each.startswith("fuser")])
def test_the_same_addresses(kernel: Kernel, crash: dict[str, list[str]], line: str) -> None:
    found = addresses(crash[line])
    assert addresses(ours(kernel, line)) == found
    assert len(found) > 1


def test_counts_of_interrupts(kernel: Kernel, crash: dict[str, list[str]]) -> None:
    def counts(lines: list[str]) -> list[tuple[str, ...]]:
        return [(*line.split()[:3], line.split()[-1]) for line in lines[1:]]

    assert counts(ours(kernel, "irq -s")) == counts(crash["irq -s"])
    assert len(crash["irq -s"]) == 10


def test_queues_of_processors(kernel: Kernel, crash: dict[str, list[str]]) -> None:
    # crash does not see tasks that wait in this kernel: its list of them is that of the running ones
    assert set(addresses(crash["runq"])) - set(addresses(ours(kernel, "runq"))) == set()
    clocks = [re.findall(r"\d{9,}", "\n".join(each)) for each in (ours(kernel, "runq -t"), crash["runq -t"])]
    assert [*map(int, clocks[0])] == [*map(int, clocks[1])]


def test_values(kernel: Kernel, crash: dict[str, list[str]]) -> None:
    for line in ("p jiffies", "p nr_cpu_ids"):
        ((mine,), (theirs,)) = ours(kernel, line), crash[line]
        assert re.sub(r".*\)", "", mine) == theirs.split()[-1]


def leaves(lines: list[str]) -> list[tuple[str, int | str]]:
    """Members with a number, a pointer or an enumerator, in their order."""
    found: list[tuple[str, int | str]] = []
    for line in lines:
        name, equals, value = line.strip().rstrip(",").partition(" = ")
        if not equals or value.startswith(("{", '"')) or not value:
            continue
        word = {"false": "0", "true": "1"}.get(value.split()[0], value.split()[0])
        found.append((name, int(word, 0) if re.fullmatch(r"-?(0x)?[0-9a-f]+", word) and word[-1] != "x" else word))
    return found


def test_the_members_of_a_task(kernel: Kernel, crash: dict[str, list[str]]) -> None:
    mine, theirs = leaves(ours(kernel, "task 1")), leaves(crash["task 1"])
    assert mine == theirs[: len(mine)]
    assert len(mine) > 500
    line = "task -R pid,tgid,flags 1"  # crash adds the flags of thread_info
    assert leaves(ours(kernel, line)) == leaves(crash[line])[:3]


@pytest.mark.parametrize("line", QUEUES)
def test_bitmap_queues(kernel: Kernel, crash: dict[str, list[str]], line: str) -> None:
    # crash 8.0.2 stops at a member that this kernel does not have
    start = crash[line].index(next(each for each in crash[line] if each.startswith("depth = ")))
    found = ours(kernel, line)
    theirs = [each for each in crash[line][start:] if " = " in each]
    assert found[:9] == theirs[:9]
    assert len(theirs) == 9
    assert found[9:12] == ["ws = {", *2 * ["        { .wait = inactive },"]]


@pytest.mark.parametrize("line", ["fuser /", "fuser ffff8ab08d626e80"])
def test_users_of_a_file(kernel: Kernel, crash: dict[str, list[str]], line: str) -> None:
    # crash sees the running tasks of this kernel only, and cannot read its mappings
    theirs = {tuple(each.split()) for each in crash[line] if re.match(r" *\d+  [0-9a-f]{16} ", each)}
    mine = {tuple(each.split()) for each in ours(kernel, line)[1:]}
    assert theirs - mine == set()
    assert len(theirs) > 1 and len(mine) > len(theirs)


def test_sockets(kernel: Kernel) -> None:
    """The guest ran `httpd -p 8080` and `nc -l -p 9999`."""
    told = words(ours(kernel, "foreach httpd nc net -s"))
    rows = [each[3:] for each in told if each and each[0] == "3"]
    assert rows == [["INET6:STREAM", "::-9999", "::-0"], ["INET:STREAM", "0.0.0.0-8080", "0.0.0.0-0"]]
    assert any("struct sock" in " ".join(each) for each in words(ours(kernel, "net -S 109")))


def test_open_files_of_all(kernel: Kernel) -> None:
    """A descriptor that accept() has taken has no file yet: drgn 0.3 alone stops there."""
    assert any("sockfs" in each for each in ours(kernel, "foreach user files"))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("fuser /no/such/file", "no users of /no/such/file found"),
        ("fuser", "the following arguments are required"),
        ("net -s 99999", "no such task"),
        ("net -s -S", "not allowed"),
        ("sbitmapq ffff8ab097f57900", "is no sbitmap_queue"),
        ("sbitmapq -s request ffff8ab097f57910", "belong together"),
        ("sbitmapq 10", "cannot be read"),
    ],
)
def test_what_cannot_be_had_is_one_line(kernel: Kernel, line: str, said: str) -> None:
    result = run_words(kernel, line.split(" "))
    assert list(result.lines) == []
    (complaint,) = result.complaints
    assert said in complaint and "\n" not in complaint
    assert result.exit_codes == [1]


AGAIN = """
import sys
from dumpconv.analyze.command import run_words
from dumpconv.analyze.kernel import Kernel
from dumpconv.analyze.through_drgn import program_of
from dumpconv.formats import open_dump

kernel = Kernel(open_dump([sys.argv[1]]))
assert program_of(kernel).type("struct module").size > 0
print(*run_words(kernel, ["mount"]).lines, sep="\\n")
"""


def test_a_command_behind_a_script_that_used_drgn(dump: Path) -> None:
    """drgn reads types by threads; a child that is forked then has none of them, and waited for them for ever."""
    pytest.importorskip("drgn")
    done = subprocess.run(
        [sys.executable, "-c", AGAIN, str(dump)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "rootfs" in done.stdout
