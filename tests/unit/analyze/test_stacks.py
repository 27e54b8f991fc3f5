# SPDX-License-Identifier: GPL-2.0-or-later
"""Traces on stacks written out by hand, after the architectures' calling conventions, and what tells a call."""

from __future__ import annotations

from typing import Any

import pytest
from unit.analyze.fake_kernel import FakeKernel

from dumpconv.analyze.calls import call_before
from dumpconv.analyze.chain_unwind import Ppc64Unwinder, S390Unwinder
from dumpconv.analyze.frame_unwind import Arm64Unwinder, ArmUnwinder, RiscvUnwinder, X86FrameUnwinder
from dumpconv.analyze.registers import REGISTERS, arch_of
from dumpconv.analyze.unwind import Trace


def names(trace: Trace) -> list[str]:
    return [("? " if frame.guessed else "") + frame.name for frame in trace.frames]


# -- calls: encodings from the manuals ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arch", "order", "code", "target"),
    [
        ("x86_64", "little", "e8 10 00 00 00", 0x10),  # call .+16 behind it
        ("x86_64", "little", "41 ff d4", 0),  # call *%r12
        ("x86_64", "little", "ff 15 00 00 00 00", 0),  # call *0(%rip)
        ("x86_64", "little", "48 89 e5 90 90", None),
        ("i386", "little", "e8 f0 ff ff ff", -16),
        ("i386", "little", "ff d0", 0),  # call *%eax
        ("aarch64", "little", "04 00 00 94", 12),  # bl .+16
        ("aarch64", "little", "ff ff ff 97", -8),  # bl .-4
        ("aarch64", "little", "00 01 3f d6", 0),  # blr x8
        ("aarch64", "little", "11 09 3f d7", 0),  # blraa x8, x17
        ("aarch64", "little", "04 00 00 14", None),  # b .+16
        ("riscv64", "little", "ef 00 00 01", 12),  # jal ra, .+16
        ("riscv64", "little", "97 10 00 00 e7 80 c0 ff", 0x1000 - 4 - 8),  # auipc ra, 1; jalr -4(ra)
        ("riscv64", "little", "82 97", 0),  # c.jalr a5
        ("riscv64", "little", "82 80", None),  # c.jr ra
        ("s390x", "big", "c0 e5 00 00 00 10", 0x20 - 6),  # brasl %r14, .+32
        ("s390x", "big", "a7 e5 00 08", 0x10 - 4),  # bras %r14, .+16
        ("s390x", "big", "0d e1", 0),  # basr %r14, %r1
        ("s390x", "big", "07 fe", None),  # br %r14
        ("ppc64", "big", "48 00 00 21", 0x20 - 4),  # bl .+32
        ("ppc64", "little", "21 00 00 48", 0x20 - 4),
        ("ppc64", "little", "21 04 80 4e", 0),  # bctrl
        ("ppc64", "little", "20 00 80 4e", None),  # blr
        ("arm", "little", "00 00 00 eb", 4),  # bl .+8
        ("arm", "little", "33 ff 2f e1", 0),  # blx r3
        ("arm", "little", "00 00 00 ea", None),  # b .+8
    ],
)
def test_a_call_is_told_from_other_code(arch: str, order: str, code: str, target: int | None) -> None:
    base = 0xC0000000 if REGISTERS[arch].names[0] in ("bx", "r0") and arch in ("i386", "arm") else 0xFFFF800000000000
    kernel = FakeKernel(arch, base, {"f": base}, order)
    raw = bytes.fromhex(code)
    kernel.write(base + 0x100 - len(raw), raw)
    expected = target if target in (None, 0) else base + 0x100 + target
    assert call_before(kernel.memory, arch, base + 0x100) == expected


def test_code_that_is_not_in_the_dump_is_no_call() -> None:
    kernel = FakeKernel("aarch64", 0xFFFF800000000000, {"f": 0xFFFF800000000000})
    assert call_before(kernel.memory, "aarch64", 0xFFFF800000100000) is None


# -- aarch64 --------------------------------------------------------------------------------------------

A = 0xFFFF800000000000
A64 = {"leaf": A + 0x1000, "inner": A + 0x2000, "irq": A + 0x3000, "outer": A + 0x4000, "entry": A + 0x5000}
PAC = 0x12 << 56  # bits that a pointer authentication puts above an address; bit 55 stays


def arm64(**symbols: int) -> FakeKernel:
    return FakeKernel("aarch64", A, A64 | symbols)


def arm64_regs(kernel: Any, address: int, *, ip: int, fp: int, sp: int, pstate: int) -> None:
    kernel.words(address, *range(100, 129), fp, 0xBAD, sp, ip, pstate)


def test_arm64_follows_frame_records_to_user_mode() -> None:
    kernel, stack = arm64(), A + 0x10000
    kernel.words(stack + 0x00, stack + 0x40, (A + 0x4010) ^ PAC)  # signed: the upper bits are not the address's
    kernel.words(stack + 0x40, stack + 0x200 + 304, A + 0x5010)
    arm64_regs(kernel, stack + 0x200, ip=0x40AB10, fp=0x7FF0, sp=0x7FE0, pstate=0)
    kernel.words(stack + 0x200 + 304, 0, 0)
    trace = Arm64Unwinder(kernel).trace({"ip": A + 0x2020, "fp": stack, "sp": stack, "lr": A + 0x2020, "pstate": 5})
    assert names(trace) == ["inner", "outer", "entry"]
    assert [frame.ip for frame in trace.frames] == [A + 0x2020, A + 0x4010, A + 0x5010]
    assert trace.user is not None
    assert (trace.user["ip"], trace.user["x0"], trace.user["x28"]) == (0x40AB10, 100, 128)
    assert trace.stopped == ""


def test_arm64_goes_on_from_the_registers_that_an_interrupt_saved() -> None:
    kernel, stack = arm64(), A + 0x10000
    regs = stack + 0x100
    kernel.words(stack, regs + 304, A + 0x3010)
    arm64_regs(kernel, regs, ip=A + 0x2080, fp=stack + 0x400, sp=stack + 0x3F0, pstate=0x60000005)
    kernel.words(regs + 304, stack + 0x400, A + 0x2080)  # repeats x29 and pc
    kernel.words(stack + 0x400, 0, 0)
    trace = Arm64Unwinder(kernel).trace({"ip": A + 0x3020, "fp": stack, "sp": stack, "lr": 0, "pstate": 5})
    assert names(trace) == ["irq", "irq", "inner"]
    assert [frame.signal for frame in trace.frames] == [True, False, True]
    assert trace.frames[1].registers is not None
    assert trace.frames[1].registers["ip"] == A + 0x2080
    assert (trace.user, trace.stopped) == (None, "")


def test_arm64_a_leaf_has_no_record_and_its_caller_is_in_x30() -> None:
    kernel, stack = arm64(), A + 0x10000
    kernel.write(A + 0x200C, bytes.fromhex("fdfbff97"))  # inner+0xc: bl .-0x100c, which is leaf
    kernel.words(stack, 0, A + 0x4010)
    registers = {"ip": A + 0x1004, "fp": stack, "sp": stack, "lr": A + 0x2010, "pstate": 5}
    trace = Arm64Unwinder(kernel).trace(registers)
    assert names(trace) == ["leaf", "inner", "outer"]


def test_arm64_a_caller_by_an_indirect_call_is_marked_as_guessed() -> None:
    kernel, stack = arm64(), A + 0x10000
    kernel.write(A + 0x200C, bytes.fromhex("00013fd6"))  # blr x8
    kernel.words(stack, 0, A + 0x4010)
    registers = {"ip": A + 0x1004, "fp": stack, "sp": stack, "lr": A + 0x2010, "pstate": 5}
    assert names(Arm64Unwinder(kernel).trace(registers)) == ["leaf", "? inner", "outer"]


def test_arm64_crosses_from_the_interrupt_stack_to_the_tasks_below_it() -> None:
    kernel, irq, task = arm64(), A + 0x80000, A + 0x10000
    kernel.words(irq, task, A + 0x3010)
    kernel.words(task, task + 0x40, A + 0x4010)
    kernel.words(task + 0x40, 0, 0)
    trace = Arm64Unwinder(kernel).trace({"ip": A + 0x2020, "fp": irq, "sp": irq, "lr": 0, "pstate": 5})
    assert names(trace) == ["inner", "irq", "outer"]
    assert trace.stopped == ""


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ((0x1234567, A + 0x4010), "not aligned"),
        ((A + 0x10000, A + 0x4010), "does not grow"),
        ((A + 0x10040, 0x4010), "no address of a function"),
        ((A + 0x3000000, A + 0x4010), "cannot be read"),
    ],
)
def test_arm64_what_is_no_record_ends_the_trace(record: tuple[int, int], why: str) -> None:
    kernel, stack = arm64(), A + 0x10000
    kernel.words(stack, *record)
    trace = Arm64Unwinder(kernel).trace({"ip": A + 0x2020, "fp": stack, "sp": stack, "lr": 0, "pstate": 5})
    assert why in trace.stopped
    assert len(trace.frames) < 5


# -- riscv64 --------------------------------------------------------------------------------------------


def test_riscv64_follows_s0_through_an_interrupt_to_user_mode() -> None:
    base = 0xFFFFFFFF80000000
    functions = {"leaf": base, "inner": base + 0x1000, "handle_exception": base + 0x2000, "outer": base + 0x3000}
    kernel, stack = FakeKernel("riscv64", base, functions), base + 0x10000
    regs, second = stack + 0x100, stack + 0x800
    kernel.words(stack + 0x20 - 16, regs, base + 0x1010)  # of leaf's caller: s0, ra below the frame's end
    kernel.words(regs - 16, 0xBAD, base + 0x2010)  # inner was called by the entry: its frame ends at the registers
    interrupted = [0] * 36
    interrupted[0], interrupted[1], interrupted[2], interrupted[8] = base + 0x3020, 0xBAD, stack + 0x7E0, second
    kernel.words(regs, *interrupted)
    user = [0] * 36
    user[0], user[1], user[2] = 0x50A3E, 0x5098C, 0x7FFF0000
    kernel.words(second - 16, 0, base + 0x2040)
    kernel.words(second, *user)
    trace = RiscvUnwinder(kernel).trace({"ip": base + 0x10, "ra": base + 0x10, "sp": stack, "fp": stack + 0x20})
    assert names(trace)[:4] == ["leaf", "inner", "handle_exception", "outer"]
    assert trace.frames[2].registers is not None
    assert trace.frames[3].signal


def test_riscv64_a_leaf_saves_s0_alone() -> None:
    base = 0xFFFFFFFF80000000
    kernel = FakeKernel("riscv64", base, {"leaf": base, "inner": base + 0x1000, "outer": base + 0x2000})
    stack = base + 0x10000
    kernel.words(stack + 8, stack + 0x40)  # s0 of inner where ra stands otherwise
    kernel.words(stack + 0x40 - 16, 0, base + 0x2010)
    trace = RiscvUnwinder(kernel).trace({"ip": base + 4, "ra": base + 0x1010, "sp": stack, "fp": stack + 16})
    assert names(trace) == ["leaf", "inner", "outer"]


# -- s390x: addresses are physical, big-endian ----------------------------------------------------------


@pytest.mark.parametrize(("chain", "link"), [(0, 112), (152, 136)])
def test_s390x_follows_the_back_chain_in_both_layouts(chain: int, link: int) -> None:
    kernel = FakeKernel("s390x", 0, {"inner": 0x1000, "middle": 0x2000, "outer": 0x3000, "system_call": 0x4000})
    frames = (0x20000, 0x20100, 0x20200, 0x20300)
    for address in (0x2010, 0x3010, 0x4010):
        kernel.write(address - 2, bytes.fromhex("0de1"))  # basr %r14, %r1
    for here, caller, back in zip(frames, frames[1:], (0x2010, 0x3010, 0x4010), strict=False):
        kernel.words(here + chain, caller)
        kernel.words(caller + link, back)
    kernel.words(frames[3] + chain, 0)
    kernel.words(frames[3] + 160, 0, 0x0705200180000000, 0x11112EA, *range(16))  # args, psw of user mode, r0 to r15
    trace = S390Unwinder(kernel).trace({"mask": 0x0404 << 48, "ip": 0x1020, "sp": frames[0], "r14": 0})
    assert names(trace) == ["inner", "middle", "outer", "system_call"]
    assert trace.user is not None
    assert (trace.user["ip"], trace.user["r3"], trace.user["sp"]) == (0x11112EA, 3, 15)


# -- ppc64: both byte orders, both places of the registers ----------------------------------------------


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize(("mark", "regs"), [(96, 112), (32, 48)])
@pytest.mark.parametrize("value", [0x53474552, 0x7265677368657265])
def test_ppc64_follows_the_back_chain_to_marked_registers(order: str, mark: int, regs: int, value: int) -> None:
    base = 0xC000000000000000
    functions = {"inner": base + 0x1000, "middle": base + 0x2000, "system_call": base + 0x3000}
    kernel, stack = FakeKernel("ppc64", base, functions, order), base + 0x20000
    kernel.words(stack, stack + 0x100)
    kernel.words(stack + 0x100, stack + 0x200)
    kernel.words(stack + 0x110, base + 0x2010)
    kernel.words(stack + 0x200, 0x7FFFC9E8CBB0)
    kernel.words(stack + 0x210, base + 0x3010)
    kernel.words(stack + 0x200 + mark, value)
    kernel.words(stack + 0x200 + regs, *range(32), 0x100C4180, 0x800000000280F033, *range(34, 44))
    trace = Ppc64Unwinder(kernel).trace({"ip": base + 0x1010, "sp": stack, "lr": base + 0x1010, "msr": 1 << 63})
    assert names(trace) == ["inner", "middle", "system_call"]
    assert trace.user is not None
    assert (trace.user["ip"], trace.user["r31"]) == (0x100C4180, 31)


# -- i386 -----------------------------------------------------------------------------------------------


def i386() -> FakeKernel:
    base = 0xC0000000
    functions = {"inner": 0x1000, "middle": 0x2000, "outer": 0x3000, "entry_SYSENTER_32": 0x4000}
    return FakeKernel("i386", base, {name: base + at for name, at in functions.items()})


def test_i386_follows_ebp_to_the_registers_of_a_system_call() -> None:
    kernel, stack = i386(), 0xC0010000
    kernel.words(stack, stack + 0x40, 0xC0002010)
    kernel.words(stack + 0x40, 0xBF800000, 0xC0004010)  # the program's ebp
    user = (
        1,
        2,
        3,
        4,
        5,
        0xBF800000,
        0xFFFFFFDA,
        0x7B,
        0x7B,
        0,
        0xD8D00033,
        4,
        0xB7F96559,
        0x73,
        0x246,
        0xBF8140D0,
        0x7B,
    )
    kernel.words(stack + 0x48, *user)
    trace = X86FrameUnwinder(kernel).trace({"ip": 0xC0001010, "bp": stack, "sp": stack - 16, "cs": 0x60})
    assert names(trace) == ["inner", "middle", "entry_SYSENTER_32"]
    assert trace.user is not None
    assert (trace.user["ip"], trace.user["sp"], trace.user["gs"]) == (0xB7F96559, 0xBF8140D0, 0x33)


@pytest.mark.parametrize(
    ("first", "why"), [("x86_64_start_kernel", ""), ("child_rip", ""), ("outer", "0x0 is no address")]
)
def test_x86_64_an_old_stack_begins_with_a_return_address_of_zero(first: str, why: str) -> None:
    base = 0xFFFFFFFF81000000
    functions = {"inner": 0x1000, "middle": 0x2000, first: 0x3000}
    kernel, stack = FakeKernel("x86_64", base, {name: base + at for name, at in functions.items()}), base + 0x10000
    kernel.words(stack, stack + 0x40, base + 0x2010)
    kernel.words(stack + 0x40, stack + 0x80, base + 0x3010)
    kernel.words(stack + 0x80, 0, 0)
    trace = X86FrameUnwinder(kernel).trace({"ip": base + 0x1010, "bp": stack, "sp": stack - 16, "cs": 0x10})
    assert names(trace) == ["inner", "middle", first]
    assert trace.stopped.startswith(why) and bool(trace.stopped) == bool(why)


def test_i386_a_marked_ebp_points_to_saved_registers() -> None:
    kernel, stack = i386(), 0xC0010000
    regs = stack + 0x80
    kernel.words(stack, regs & 0x7FFFFFFF, 0xC0002010)
    kernel.words(
        regs,
        1,
        2,
        3,
        4,
        5,
        stack + 0x200,
        6,
        0x7B,
        0x7B,
        0xD8,
        0,
        0xFFFFFFFF,
        0xC0003020,
        0x60,
        0x246,
        stack + 0x100,
        0x68,
    )
    kernel.words(stack + 0x200, 0, 0xC0002040)
    trace = X86FrameUnwinder(kernel).trace({"ip": 0xC0001010, "bp": stack, "sp": stack - 16, "cs": 0x60})
    assert names(trace) == ["inner", "middle", "outer", "middle"]
    assert trace.frames[2].signal


def test_i386_without_frame_pointers_the_stack_is_searched_and_all_of_it_marked() -> None:
    kernel, stack = i386(), 0xC0010F00
    kernel.write(0xC000200B, bytes.fromhex("e8 00000000"))
    kernel.write(0xC000300E, bytes.fromhex("ffd0"))
    kernel.words(stack, 0x1234, 0xC0002010, 0xC0001800, 0xC0003010, 0x77)  # 0xc0001800 follows no call
    trace = X86FrameUnwinder(kernel).trace({"ip": 0xC0001010, "bp": 7, "sp": stack, "cs": 0x60})
    assert names(trace) == ["inner", "? middle", "? outer"]
    assert "2 more by searching the stack" in trace.stopped


# -- arm ------------------------------------------------------------------------------------------------


def test_arm_searches_the_stack() -> None:
    base = 0xC0000000
    kernel = FakeKernel("arm", base, {"inner": base + 0x1000, "outer": base + 0x2000})
    kernel.write(base + 0x200C, bytes.fromhex("33ff2fe1"))
    kernel.words(base + 0x10F00, 1, base + 0x2010, base + 0x1004)
    trace = ArmUnwinder(kernel).trace({"ip": base + 0x1010, "sp": base + 0x10F00, "fp": 0, "cpsr": 0x600D0013})
    assert names(trace) == ["inner", "? outer"]


def test_user_mode_is_told_on_every_architecture() -> None:
    said = {
        "x86_64": ({"cs": 0x33, "ip": 0x47B7A0}, {"cs": 0xE033, "ip": 0xFFFFFFFF81A043A5}),  # the second: Xen PV
        "i386": ({"cs": 0x73}, {"cs": 0x60}),
        "aarch64": ({"pstate": 0x80000000}, {"pstate": 0x80000005}),
        "riscv64": ({"ip": 0x50A3E, "ra": 0}, {"ip": 0xFFFFFFFF80000000, "ra": 0}),
        "s390x": ({"mask": 0x0705200180000000}, {"mask": 0x0404C00180000000}),
        "ppc64": ({"msr": 0x800000000280F033}, {"msr": 0x8000000000001033}),
        "arm": ({"cpsr": 0x60010030 & ~0x20}, {"cpsr": 0xA00D0192}),
    }
    assert said.keys() == REGISTERS.keys()
    for arch, (user, kernel) in said.items():
        assert REGISTERS[arch].in_user_mode(user), arch
        assert not REGISTERS[arch].in_user_mode(kernel), arch


def test_registers_tell_their_architecture() -> None:
    for arch, each in REGISTERS.items():
        assert arch_of(dict.fromkeys(each.names, 0)) == arch
        shown = [name for row in each.rows for _, name in row]
        assert set(shown) <= set(each.names)
        assert len(shown) == len(set(shown))
