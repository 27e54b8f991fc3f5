# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands of analyze on the real dump: what the machine said, and what crash printed for the same words.

The lines of crash were taken from crash 8.0.2 with the kernel's debug symbols.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.command import dumpconv

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def dump(real_dir: Path) -> Path:
    return real_dir / "vmcore.d31.zstd.kdump"


def lines(dump: Path, *words: str) -> list[str]:
    done = dumpconv("analyze", dump, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode().splitlines()


def result(dump: Path, *words: str) -> Any:
    done = dumpconv("analyze", dump, *words, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["schema"] == "dumpconv.analyze/1"
    return found["result"]


def test_sys_says_what_crash_says(dump: Path) -> None:
    said = lines(dump, "sys")
    for line in (
        "        CPUS: 2",
        "        DATE: Sun Nov 22 23:03:24 UTC 2026",
        "      UPTIME: 00:00:29",
        "LOAD AVERAGE: 0.68, 0.16, 0.05",
        "    NODENAME: (none)",
        "     RELEASE: 6.1.0-56-cloud-amd64",
        "     VERSION: #1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (2026-11-16)",
        "      MEMORY: 383.5 MB",
        '       PANIC: "Kernel panic - not syncing: sysrq triggered crash"',
    ):
        assert line in said


def test_struct_is_laid_out_as_crash_does(dump: Path) -> None:
    assert lines(dump, "struct", "list_head") == [
        "struct list_head {",
        "    struct list_head *next;",
        "    struct list_head *prev;",
        "}",
        "SIZE: 16",
    ]
    said = lines(dump, "struct", "-o", "task_struct")
    assert said[1:8] == [
        "     [0] struct thread_info thread_info;",
        "    [24] unsigned int __state;",
        "    [32] void *stack;",
        "    [40] refcount_t usage;",
        "    [44] unsigned int flags;",
        "    [48] unsigned int ptrace;",
        "    [52] int on_cpu;",
    ]


def test_struct_at_an_address_is_the_memory_there(dump: Path) -> None:
    assert result(dump, "struct", "task_struct.comm", "init_task")["values"] == [{"comm": "swapper/0"}]
    listed = result(dump, "mod")
    head = result(dump, "struct", "list_head", "modules")["values"][0]
    offset = result(dump, "struct", "module.list")["offset"]
    assert int(head["next"], 16) - offset in {int(each["module"], 16) for each in listed}


def test_vtop_agrees_with_crash(dump: Path) -> None:
    assert result(dump, "vtop", "ffffffffaf51ffe0") == [
        {"virtual": "0xffffffffaf51ffe0", "physical": "0xb91ffe0", "page": "stored"}
    ]


def test_rd_prints_as_crash_does(dump: Path) -> None:
    assert lines(dump, "rd", "linux_banner", "2") == [
        "ffffffffaf51ffe0:  65762078756e694c 2e36206e6f697372   Linux version 6."
    ]


def test_modules_are_in_crashs_order_at_crashs_addresses(dump: Path) -> None:
    assert [(each["module"], each["name"], each["base"], each["size"]) for each in result(dump, "mod")][:2] == [
        ("0xffffffffc026b340", "virtio_ring", "0xffffffffc0264000", 49152),
        ("0xffffffffc0273000", "virtio_pci_legacy_dev", "0xffffffffc0271000", 16384),
    ]


def test_search_finds_the_panic(dump: Path) -> None:
    found = result(dump, "search", "-c", "sysrq triggered crash", "-x", "100")
    assert found
    first = int(found[0]["address"], 16)
    assert "sysrq" in "".join(lines(dump, "rd", "-p", "-a", f"{first:x}", "32"))
    assert dumpconv("analyze", dump, "search", "-c", "no such words anywhere in it").returncode == 1


@pytest.mark.parametrize(
    "words", [["struct", "no_such_type"], ["rd", "nothing"], ["search"], ["bt", "--wrong"], ["struct"]]
)
def test_wrong_words_are_usage_errors(dump: Path, words: list[str]) -> None:
    done = dumpconv("analyze", dump, *words)
    assert done.returncode == 2
    assert done.stderr.startswith(b"dumpconv: ")


def test_names_of_lcrash_work(dump: Path) -> None:
    assert lines(dump, "findsym", "linux_banner") == lines(dump, "sym", "linux_banner")
    assert lines(dump, "dmesg")[:1] == lines(dump, "log")[:1]


def test_a_file_of_commands(dump: Path, tmp_path: Path) -> None:
    script = tmp_path / "commands"
    script.write_text("# a comment\nsym linux_banner\n\nlog | grep -c 'sysrq triggered crash'\nquit\nno such command\n")
    done = dumpconv("analyze", "-i", script, dump)
    assert done.returncode == 0
    first, second = done.stdout.decode().splitlines()
    assert first == "ffffffffaf51ffe0 (D) linux_banner"
    assert int(second) >= 1
    assert dumpconv("analyze", dump, input=script.read_bytes()).stdout == done.stdout


def test_a_wrong_command_does_not_end_the_session(dump: Path) -> None:
    done = dumpconv("analyze", dump, input=b"nothing\nsym linux_banner\n")
    assert done.returncode == 2
    assert b"linux_banner" in done.stdout
    assert done.stderr.startswith(b"dumpconv: nothing is no command")


def test_the_report_has_all_parts(dump: Path) -> None:
    found = result(dump, "report", "--tail", "5")
    assert found["panic"].endswith("Kernel panic - not syncing: sysrq triggered crash")
    assert [frame["function"] for frame in found["stopped_cpus"][1]["frames"]][:2] == ["__crash_kexec", "panic"]
    assert len(found["log_tail"]) == 5
    assert found["missing_from_the_dump"]["excluded"] == 44687
    assert found["blocked_tasks"] == []


def test_foreach_selects(dump: Path) -> None:
    every = result(dump, "foreach", "bt")
    kernel, user = result(dump, "foreach", "kernel", "bt"), result(dump, "foreach", "user", "bt")
    assert len(kernel) + len(user) == len(every) > 50
    assert {"init", "sh"} <= {each["comm"] for each in user}
    assert [each["comm"] for each in result(dump, "foreach", "kthreadd", "bt")] == ["kthreadd"]
