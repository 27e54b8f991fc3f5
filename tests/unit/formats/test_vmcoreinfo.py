# SPDX-License-Identifier: GPL-2.0-or-later
"""VMCOREINFO: the sheet's traps and bad input, sentence by sentence."""

from __future__ import annotations

import time

import pytest

from dumpconv.formats.vmcoreinfo import VmcoreInfo, printable


def info(text: bytes) -> VmcoreInfo:
    return VmcoreInfo(text)


def test_symbols_are_hexadecimal_without_0x() -> None:
    assert info(b"SYMBOL(_stext)=ffffffff81000000\n").symbol("_stext") == 0xFFFFFFFF81000000


@pytest.mark.parametrize(
    ("text", "value"), [(b"272629760", 272629760), (b"-129", -129), (b"0xffff000000000000", 0xFFFF000000000000)]
)
def test_numbers_are_signed_decimal_or_0x(text: bytes, value: int) -> None:
    assert info(b"NUMBER(x)=" + text + b"\n").number("x") == value


def test_kerneloffset_is_hexadecimal() -> None:
    assert info(b"KERNELOFFSET=2600000\n").hexadecimal("KERNELOFFSET") == 0x2600000


def test_a_missing_key_is_not_zero() -> None:
    empty = info(b"")
    assert (empty.symbol("a"), empty.number("a"), empty.text("a"), empty.page_size) == (None, None, None, None)
    assert len(empty) == 0


def test_whole_keys_at_line_starts() -> None:
    text = info(b"SYMBOL(log_buf_len)=1\nXSYMBOL(log_buf)=2\nA=SYMBOL(log_buf)=3\n")
    assert text.symbol("log_buf") is None
    assert text.symbol("log_buf_len") == 1


def test_trailing_nuls_and_a_last_line_without_its_end() -> None:
    assert info(b"A=1\nPAGESIZE=4096\0\0\0").page_size == 4096
    assert info(b"A=1\nPAGESIZE=4096").page_size == 4096


def test_of_duplicate_keys_the_first_wins() -> None:
    assert info(b"PAGESIZE=4096\nPAGESIZE=65536\n").page_size == 4096


@pytest.mark.parametrize("value", [b"0", b"3", b"-4096", b"1099511627776", b"2048", b"2097152", b"x", b"", b"4096x"])
def test_page_sizes_that_are_none(value: bytes) -> None:
    assert info(b"PAGESIZE=" + value + b"\n").page_size is None


@pytest.mark.parametrize("value", [b"9" * 30, b"9" * 41, b"9" * 100000, b"1e5", b"0x", b"--1"])
def test_numbers_of_any_length_do_no_harm(value: bytes) -> None:
    number = info(b"NUMBER(x)=" + value + b"\n").number("x")
    assert number is None or number == int(value)


def test_what_is_shown_is_safe_for_a_terminal_and_a_file_name() -> None:
    assert info(b"OSRELEASE=6.1\x1b[2J\xff\x07\n").text("OSRELEASE") == "6.1\\x1b[2J\\xff\\x07"
    assert printable(b"\r\n\t\0") == "\\x0d\\x0a\\x09\\x00"


@pytest.mark.parametrize("text", [b"\0" * (8 << 20), b"A" * (8 << 20), b"A=1\n" * (2 << 20), b"\xff\n=\n" * 100000])
def test_megabytes_are_cut(text: bytes) -> None:
    begin = time.process_time()
    assert len(info(text)) <= 2
    assert time.process_time() - begin < 1
