# SPDX-License-Identifier: GPL-2.0-or-later
"""Machine code: the texts were written down from GNU objdump 2.40; holes, ends and garbage are survived."""

from __future__ import annotations

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from dumpconv.analyze.disasm import Disassembler, Instruction
from dumpconv.analyze.errors import MissingTable, Unreadable

START = 0x1000

X86_64 = [
    ("f30f1efa", "endbr64", ""),
    ("0f1f440000", "nopl", "0x0(%rax,%rax,1)"),
    ("66662e0f1f840000000000", "data16 cs nopw", "0x0(%rax,%rax,1)"),
    ("6690", "xchg", "%ax,%ax"),
    ("4889e5", "mov", "%rsp,%rbp"),
    ("65488b1c2580fb0100", "mov", "%gs:0x1fb80,%rbx"),
    ("f6401910", "testb", "$0x10,0x19(%rax)"),
    ("488b4500", "mov", "0x0(%rbp),%rax"),
    ("65ff05fde52051", "incl", "%gs:0x5120e5fd(%rip)"),
    ("48c7c0f0ffffff", "mov", "$0xfffffffffffffff0,%rax"),
    ("49bb8877665544332211", "movabs", "$0x1122334455667788,%r11"),
    ("f348ab", "rep stos", "%rax,%es:(%rdi)"),
    ("f3666f", "rep outsw", "%ds:(%rsi),(%dx)"),
    ("f36c", "rep insb", "(%dx),%es:(%rdi)"),
    ("f3a5", "rep movsl", "%ds:(%rsi),%es:(%rdi)"),
    ("48d1e8", "shr", "%rax"),
    ("c1e010", "shl", "$0x10,%eax"),
    ("d3642404", "shll", "%cl,0x4(%rsp)"),
    ("6af8", "push", "$0xfffffffffffffff8"),
    ("9c", "pushf", ""),
    ("480fb6c0", "movzbq", "%al,%rax"),
    ("ec", "in", "(%dx),%al"),
    ("f0480fc11f", "lock xadd", "%rbx,(%rdi)"),
    ("48cf", "iretq", ""),
    ("0f0b", "ud2", ""),
    ("c3", "ret", ""),
    ("0f01e8", "serialize", ""),
    ("06", "(bad)", ""),
]
OTHERS = [
    ("aarch64", "little", "fd7bbea9", "stp", "x29, x30, [sp, #-0x20]!"),
    ("aarch64", "little", "1f2003d5", "nop", ""),
    ("aarch64", "little", "00000000", "udf", "#0"),
    ("arm", "little", "0ec0a0e1", "mov", "ip, lr"),
    ("s390x", "big", "eb11f0700024", "stmg", "%r1, %r1, 0x70(%r15)"),
    ("s390x", "big", "b90400ef", "lgr", "%r14, %r15"),
    ("ppc64", "big", "7c0802a6", "mflr", "r0"),
    ("ppc64", "little", "a602087c", "mflr", "r0"),
    ("riscv64", "little", "8280", "c.jr", "ra"),
    ("mips", "big", "03e00008", "jr", "$ra"),
    ("sparc64", "big", "81c7e008", "ret", ""),
]


def disassembler(arch: str = "x86_64", order: str = "little") -> Disassembler:
    word = 4 if arch in ("i386", "arm", "mips") else 8
    machine: Any = SimpleNamespace(arch=arch, byteorder=order, word_size=word)
    return Disassembler(machine)


def reader(code: bytes, start: int = START) -> Callable[[int, int], bytes]:
    """Memory that ends in the middle of a page is not there from the end of `code` on."""

    def read(address: int, size: int) -> bytes:
        if not start <= address < start + len(code):
            raise Unreadable(address, "excluded")
        return code[address - start : address - start + size]

    return read


def decode(code: bytes, *words: str) -> list[Instruction]:
    padded = code + bytes(4096)
    return list(disassembler(*words).instructions(reader(padded), START, START + len(code)))


@pytest.mark.parametrize(("code", "mnemonic", "operands"), X86_64)
def test_x86_is_written_as_objdump_does(code: str, mnemonic: str, operands: str) -> None:
    raw = bytes.fromhex(code)
    found = decode(raw)[0]
    assert (found.mnemonic, found.operands) == (mnemonic, operands)
    assert found.raw == raw or mnemonic == "(bad)"


@pytest.mark.parametrize(("arch", "order", "code", "mnemonic", "operands"), OTHERS)
def test_other_machines(arch: str, order: str, code: str, mnemonic: str, operands: str) -> None:
    found = decode(bytes.fromhex(code), arch, order)
    assert [(each.mnemonic, each.operands, each.raw.hex()) for each in found] == [(mnemonic, operands, code)]


@pytest.mark.parametrize(
    ("arch", "order", "code", "target"),
    [
        ("x86_64", "little", "e8fb0f0000", 0x2000),
        ("x86_64", "little", "74fe", 0x1000),
        ("x86_64", "little", "8b0510000000", 0x1016),
        ("i386", "little", "e9fbefffff", 0),
        ("aarch64", "little", "00040094", 0x2000),
        ("arm", "little", "fe0300eb", 0x2000),
        ("s390x", "big", "c0e500000800", 0x2000),
        ("ppc64", "big", "48001001", 0x2000),
        ("riscv64", "little", "ef100000", 0x2000),
    ],
)
def test_targets_are_addresses(arch: str, order: str, code: str, target: int) -> None:
    assert decode(bytes.fromhex(code), arch, order)[0].target == target


def test_riscv_calls_are_two_instructions() -> None:
    """auipc ra, 1; jalr ra, -16(ra): neither alone says where to."""
    first, second = decode(bytes.fromhex("97100000e78000ff"), "riscv64", "little")
    assert first.target is None
    assert second.target == 0x1000 + 0x1000 - 16


def test_an_indirect_jump_has_no_target() -> None:
    assert [each.target for each in decode(bytes.fromhex("ffd0ff2425a0000000"))] == [None, None]


def test_an_instruction_over_the_end_of_a_page_is_whole() -> None:
    code = b"\x90" * 4094 + bytes.fromhex("e8f00f0000") + b"\x90" * 4096
    found = list(disassembler().instructions(reader(code), START, START + 4100))
    assert found[4094].raw == bytes.fromhex("e8f00f0000")
    assert [each.address for each in found[-3:]] == [START + 4093, START + 4094, START + 4099]


def test_what_lies_before_a_hole_comes_and_then_the_error() -> None:
    seen = []
    with pytest.raises(Unreadable) as caught:
        for each in disassembler().instructions(reader(b"\x90" * 4094 + b"\xe8\x00"), START, START + 8192):
            seen.append(each)
    assert len(seen) == 4094
    assert caught.value.address == START + 4096
    assert caught.value.why == "excluded"
    with pytest.raises(Unreadable):
        next(disassembler().instructions(reader(b"\x90"), START - 4096, START))


@pytest.mark.parametrize("arch", ["x86_64", "i386", "aarch64", "arm", "s390x", "ppc64", "riscv64", "mips", "sparc64"])
def test_any_bytes_give_instructions_one_after_another(arch: str) -> None:
    order = "big" if arch in ("s390x", "mips", "sparc64") else "little"
    engine, rng = disassembler(arch, order), random.Random(3)
    for _ in range(20):
        code = rng.randbytes(400)
        at = START
        for each in engine.instructions(reader(code + bytes(4096)), START, START + 400):
            assert each.address == at
            assert each.raw and each.raw == (code + bytes(16))[at - START : at - START + len(each.raw)]
            assert each.mnemonic.isprintable()
            assert each.operands.isprintable()
            at += len(each.raw)
        assert at >= START + 400


def test_an_unknown_machine_is_said() -> None:
    with pytest.raises(MissingTable, match="instructions of vax are not known"):
        disassembler("vax")
