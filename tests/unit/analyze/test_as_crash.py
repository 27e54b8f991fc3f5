# SPDX-License-Identifier: GPL-2.0-or-later
"""Native commands on the real dump, line by line: what is expected was printed by crash 8.0.2 with debug symbols."""

from __future__ import annotations

from pathlib import Path

import pytest

from dumpconv.analyze.command import run_words
from dumpconv.analyze.kernel import Kernel
from dumpconv.formats import open_dump

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def kernel(real_dir: Path) -> Kernel:
    return Kernel(open_dump([str(real_dir / "vmcore.d31.zstd.kdump")]))


def lines(kernel: Kernel, line: str) -> list[str]:
    result = run_words(kernel, line.split(" "))
    found = [each.rstrip() for each in result.lines]
    assert result.complaints == []
    return found


def test_mach(kernel: Kernel) -> None:
    # crash calls the stack of machine checks (unknown), of 0 bytes
    assert [each for each in lines(kernel, "mach") if "MCE" not in each][:28] == [
        "          MACHINE TYPE: x86_64",
        "           MEMORY SIZE: 383.5 MB",
        "                  CPUS: 2",
        "       PROCESSOR SPEED: 2596 Mhz",
        "                    HZ: 250",
        "             PAGE SIZE: 4096",
        "   KERNEL VIRTUAL BASE: ffff8ab080000000",
        "   KERNEL VMALLOC BASE: ffffcd6400000000",
        "   KERNEL VMEMMAP BASE: fffff98ac0000000",
        "      KERNEL START MAP: ffffffff80000000",
        "   KERNEL MODULES BASE: ffffffffc0000000",
        "     KERNEL STACK SIZE: 16384",
        "        IRQ STACK SIZE: 16384",
        "            IRQ STACKS:",
        "                 CPU 0: ffffcd6400000000",
        "                 CPU 1: ffffcd64000cd000",
        "DOUBLEFAULT STACK SIZE: 8192",
        "    DOUBLEFAULT STACKS:",
        "                 CPU 0: fffffe0000009000",
        "                 CPU 1: fffffe0000044000",
        "        NMI STACK SIZE: 8192",
        "            NMI STACKS:",
        "                 CPU 0: fffffe000000c000",
        "                 CPU 1: fffffe0000047000",
        "      DEBUG STACK SIZE: 8192",
        "          DEBUG STACKS:",
        "                 CPU 0: fffffe000000f000",
        "                 CPU 1: fffffe000004a000",
    ]
    assert "                 CPU 0: fffffe0000015000 [unavailable]" in lines(kernel, "mach")


def test_the_memory_map(kernel: Kernel) -> None:
    assert lines(kernel, "mach -m") == [
        "      PHYSICAL ADDRESS RANGE         TYPE",
        "0000000000000000 - 0000000000001000  E820_RESERVED",
        "0000000000001000 - 000000000009fc00  E820_RAM",
        "000000000009fc00 - 00000000000a0000  E820_RESERVED",
        "00000000000f0000 - 0000000000100000  E820_RESERVED",
        "0000000000100000 - 0000000017fdd000  E820_RAM",
        "0000000017fdd000 - 0000000018000000  E820_RESERVED",
        "00000000fffc0000 - 0000000100000000  E820_RESERVED",
        "000000fd00000000 - 0000010000000000  E820_RESERVED",
    ]


def test_log(kernel: Kernel) -> None:
    wall = lines(kernel, "log -T")
    assert "[Sun Nov 22 23:02:55 UTC 2026] Command line: console=ttyS0 crashkernel=144M panic=5" in wall
    assert '                                 "trace_clock=local"' in wall  # a second line of a record
    assert "[    0.000000] <6>BIOS-provided physical RAM map:" in lines(kernel, "log -m")
    assert '     "trace_clock=local"' in lines(kernel, "log -t -m")
    assert '  "trace_clock=local"' in lines(kernel, "log -t")
    assert {len(lines(kernel, f"log {each}")) for each in ("-T", "-t", "-m", "-t -m")} == {410}


def test_system_calls(kernel: Kernel) -> None:
    # crash adds file and line, which are in no dump
    found = [each.split() for each in lines(kernel, "sys -c read")[1:]]
    names = ["read", "pread64", "readv", "readlink", "readahead", "readlinkat", "preadv", "process_vm_readv", "preadv2"]
    assert [name for _, name in found] == [f"__x64_sys_{name}" for name in names]
    assert [number for number, _ in found] == ["0", "17", "19", "89", "187", "267", "295", "310", "327"]
    assert len(lines(kernel, "sys -c")) > 400


def test_addresses(kernel: Kernel) -> None:
    assert lines(kernel, "ptov 5000000")[1] == "ffff8ab085000000  5000000"
    assert lines(kernel, "sym -p schedule") == ["ffffffffaee10af0 (t) __schedule", "ffffffffaee114f0 (T) schedule"]
    assert [each.split()[0] for each in lines(kernel, "sym t_next")] == [
        "ffffffffae5a0790", "ffffffffae5ae3c0", "ffffffffae5bc240", "ffffffffae5bf0f0", "ffffffffae5c5930",
        "ffffffffae7f5880",
    ]  # fmt: skip


def test_dis_of_a_module_and_of_a_patched_kernel(kernel: Kernel) -> None:
    assert lines(kernel, "dis -f schedule+112") == [
        "0xffffffffaee11560 <schedule+112>:\tmov    %rbx,%rdi",
        "0xffffffffaee11563 <schedule+115>:\ttest   $0x20,%al",
        "0xffffffffaee11565 <schedule+117>:\tje     0xffffffffaee11583 <schedule+147>",
        "0xffffffffaee11567 <schedule+119>:\tpop    %rbx",
        "0xffffffffaee11568 <schedule+120>:\tpop    %rbp",
        "0xffffffffaee11569 <schedule+121>:\tjmp    0xffffffffae4b8fa0 <wq_worker_running>",
        "0xffffffffaee1156e <schedule+126>:\tpop    %rbx",
        "0xffffffffaee1156f <schedule+127>:\tpop    %rbp",
        "0xffffffffaee11570 <schedule+128>:\tret",
        *(f"0xffffffffaee1157{digit} <schedule+{128 + digit}>:\tint3" for digit in range(1, 5)),
        *lines(kernel, "dis -f schedule+133"),
    ]
    assert "vring_create_virtqueue" in lines(kernel, "dis vring_create_virtqueue 1")[0]
