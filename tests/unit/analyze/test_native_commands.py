# SPDX-License-Identifier: GPL-2.0-or-later
"""dis, pte, ptov, sys config, System.map and scripts on a dump of a few pages whose contents are known."""

from __future__ import annotations

import gzip
import importlib.util
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from dumpconv.analyze.command import run_words
from dumpconv.analyze.commands import COMMANDS, load
from dumpconv.analyze.entries import decode_entry
from dumpconv.analyze.errors import MissingTable
from dumpconv.analyze.kernel import Kernel
from dumpconv.analyze.system_map import load_system_map
from dumpconv.formats import open_dump
from dumpconv.formats.errors import DumpError, InputError, UsageError
from support import small_kernel
from support.command import dumpconv, one_line
from support.small_kernel import CODE, DATA, OFFSET, SmallKernel

# endbr64; push %rbp; mov %rsp,%rbp; call second; cmpl $0,0x10(%rip); je -2; ret; nops
FUNCTION = bytes.fromhex("f30f1efa554889e5e873000000833d100000000074fec30f1f4400006690")
CONFIG = "CONFIG_64BIT=y\nCONFIG_HZ=250\n# CONFIG_KALLSYMS_ALL is not set\n"
RAM = 0x13A00000
DIRECT = 0xFFFF9B8E40000000


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallKernel:
    stored = b"IKCFG_ST" + gzip.compress(CONFIG.encode()) + b"IKCFG_ED"
    code = (FUNCTION + b"\x90" * (0x80 - len(FUNCTION)) + b"\xc3").ljust(4096, b"\x90")
    names = {"kernel_config_data": DATA, "page_offset_base": DATA + 0x800, "esc\x1b[31m": CODE + 0x90}
    return small_kernel.write(
        tmp_path_factory.mktemp("small"),
        code=code,
        data=stored.ljust(0x800, b"\0") + DIRECT.to_bytes(8, "little"),
        symbols={**names, "last": CODE + 0xFF0},
        missing=frozenset({CODE + 0x1000}),
    )


def opened(small: SmallKernel, path: Path | None = None) -> Kernel:
    kernel = Kernel(open_dump([str(small.dump)]))
    kernel.system_map = load_system_map(str(path or small.map), 8)
    return kernel


@pytest.fixture(scope="module")
def kernel(small: SmallKernel) -> Kernel:
    return opened(small)


def lines(kernel: Kernel, *words: str) -> list[str]:
    result = run_words(kernel, words)
    found = list(result.lines)
    assert (result.complaints, result.exit_codes) == ([], [])
    assert not any("\x1b" in line for line in found)
    return found


def values(kernel: Kernel, *words: str) -> Any:
    result = run_words(kernel, words)
    assert list(result.lines)
    assert result.complaints == []
    return json.loads(json.dumps(result.data))


# -- dis ------------------------------------------------------------------------------------------------------------


def test_a_function_is_disassembled_without_its_padding(kernel: Kernel, small: SmallKernel) -> None:
    at = f"{small.text + CODE:#x}"[:-3]
    assert lines(kernel, "dis", "first") == [
        f"{at}000 <first>:\tendbr64",
        f"{at}004 <first+4>:\tpush   %rbp",
        f"{at}005 <first+5>:\tmov    %rsp,%rbp",
        f"{at}008 <first+8>:\tcall   {at}080 <second>",
        f"{at}00d <first+13>:\tcmpl   $0x0,0x10(%rip)        # {at}024 <first+36>",
        f"{at}014 <first+20>:\tje     {at}014 <first+20>",
        f"{at}016 <first+22>:\tret",
    ]


def test_counts_ranges_and_offsets(kernel: Kernel) -> None:
    def places(*words: str) -> list[str]:
        return re.findall(r"<(\S*)>:", "\n".join(lines(kernel, "dis", *words)))

    assert places("-x", "first+8", "2") == ["first+0x8", "first+0xd"]
    assert places("-d", "first+8", "2") == ["first+8", "first+13"]
    assert places("first+8") == ["first+8"]
    assert places("-r", "first+8") == ["first", "first+4", "first+5", "first+8"]
    assert places("-f", "first+8") == ["first+8", "first+13", "first+20", "first+22"]
    assert places("first", "9")[-2:] == ["first+23", "first+28"]
    assert "f3 0f 1e fa" in lines(kernel, "dis", "-b", "first", "1")[0]


def test_json_has_addresses_as_strings(kernel: Kernel, small: SmallKernel) -> None:
    assert values(kernel, "dis", "first+8")[0] == {
        "address": f"{small.text + CODE + 8:#x}",
        "symbol": "first",
        "offset": 8,
        "bytes": "e873000000",
        "mnemonic": "call",
        "operands": f"{small.text + CODE + 0x80:#x}",
        "target": f"{small.text + CODE + 0x80:#x}",
        "target_symbol": "second",
        "target_offset": 0,
    }


def test_text_that_is_not_in_the_dump_is_said(kernel: Kernel, small: SmallKernel) -> None:
    result = run_words(kernel, ["dis", "last", "40"])
    assert len(list(result.lines)) == 16
    hole = small.text + CODE + 0x1000
    assert [text.split(":")[0] for text in result.complaints] == [f"text from {hole:#x} on cannot be shown"]
    assert result.exit_codes in ([1], [4])


@pytest.mark.parametrize(
    "words",
    [
        ("dis",),
        ("dis", "nowhere"),
        ("dis", "first", "0"),
        ("dis", "first", "x"),
        ("dis", "-r", "-f", "first"),
        ("pte", "xyz"),
        ("pte", "1" * 17),
        ("ptov", "-1"),
        ("sys", "configs"),
        ("sym",),
        ("sym", "-m", "nothing"),
        ("help", "nothing"),
        ("script",),
    ],
)
def test_wrong_words_are_usage_errors(kernel: Kernel, words: tuple[str, ...]) -> None:
    with pytest.raises((UsageError, MissingTable)) as caught:
        list(run_words(kernel, words).lines)
    assert "\n" not in str(caught.value)


def test_escapes_in_names_do_not_reach_the_terminal(kernel: Kernel, small: SmallKernel) -> None:
    assert "esc\\x1b[31m" in lines(kernel, "dis", f"{small.text + CODE + 0x90:x}", "1")[0]
    assert "esc\\x1b[31m" in lines(kernel, "sym", "-q", "esc")[0]


# -- symbols --------------------------------------------------------------------------------------------------------


def test_a_system_map_is_moved_to_where_the_kernel_runs(kernel: Kernel, small: SmallKernel) -> None:
    assert lines(kernel, "sym", "first") == [f"{small.text + CODE:x} (T) first"]
    assert kernel.symbols.how == (
        f"System.map, moved by {OFFSET:#x}, 2 of 2 known addresses agree, linux_banner is there"
    )
    assert values(kernel, "sym", "per_cpu_thing")[0]["address"] == "0x0"


def test_the_neighbours_of_a_symbol(kernel: Kernel) -> None:
    names = [each["name"] for each in values(kernel, "sym", "-p", "-n", "second")]
    assert names == ["first", "second", "esc\x1b[31m"]


def test_a_number_that_is_a_symbol_too_is_the_symbol(tmp_path: Path) -> None:
    small = small_kernel.write(tmp_path / "k", code=FUNCTION, symbols={"feed": CODE + 0x40})
    assert opened(small).parse_address("feed") == small.text + CODE + 0x40
    assert opened(small).parse_address("0xfeed") == 0xFEED
    assert opened(small).parse_address("dead") == 0xDEAD
    assert opened(small).parse_address("ffffffff81000000") == 0xFFFFFFFF81000000


def test_without_vmcoreinfo_the_banner_tells_where_it_runs(tmp_path: Path, kernel: Kernel) -> None:
    bare = small_kernel.write(tmp_path / "bare", code=FUNCTION, note=False)
    found = opened(bare)
    assert lines(found, "sym", "first") == [f"{bare.text + CODE:x} (T) first"]
    assert found.info_origin == "made from System.map"
    assert found.release == kernel.release
    for name in ("phys_base", "pgtable_l5_enabled"):
        assert found.info.number(name) == kernel.info.number(name)
    for name in ("_stext", "init_top_pgt"):
        assert found.info.symbol(name) == kernel.info.symbol(name)


def test_a_map_of_another_kernel_is_refused(small: SmallKernel, tmp_path: Path) -> None:
    other = tmp_path / "System.map"
    rows = [line.split(" ", 2) for line in small.map.read_text().splitlines()]
    for name, shift in (("init_top_pgt", 0x5000), ("linux_banner", 0x40)):
        moved = [(f"{int(each[0], 16) + shift:016x}" if each[2] == name else each[0], *each[1:]) for each in rows]
        other.write_text("\n".join(" ".join(each) for each in moved))
        with pytest.raises(UsageError, match="is of another kernel"):
            opened(small, other).symbols  # noqa: B018 - made when asked for


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"ffffffff81000000 B placeholder\n", "is no System.map: 1 symbols in 1 lines"),
        (b"\xff\xfe" * 4000, "is no System.map"),
        (b"".join(b"0000000000000000 T f%d\n" % each for each in range(2000)), "has no addresses"),
        (b"".join(b"%x T f%d\n" % (1 << 90, each) for each in range(2000)), "is no System.map"),
    ],
)
def test_what_is_no_system_map(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "map"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=said):
        load_system_map(str(path), 8)


def test_the_file_is_named_before_or_behind_the_dump(small: SmallKernel, tmp_path: Path) -> None:
    before = dumpconv("analyze", "--system-map", small.map, small.dump, "sym", "first")
    behind = dumpconv("analyze", small.dump, "--system-map", small.map, "sym", "first")
    assert before.returncode == behind.returncode == 0
    assert before.stdout == behind.stdout
    missing = dumpconv("analyze", "--system-map", tmp_path / "none", small.dump, "sym", "first")
    assert missing.returncode == 1
    one_line(missing)


# -- the rest -------------------------------------------------------------------------------------------------------


def test_the_configuration_is_printed(kernel: Kernel) -> None:
    assert lines(kernel, "sys", "config") == CONFIG.splitlines()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "does not carry its configuration"),
        (b"IKCFG_ST" + gzip.compress(CONFIG.encode())[:-9], "does not decode"),
        (gzip.compress(random.Random(1).randbytes(1 << 21)), "no end"),
        (b"\x1f\x8b\x08" + b"\xff" * 64, "does not decode"),
        (b"IKCFG_ST", "does not carry its configuration"),
    ],
)
def test_a_configuration_that_is_not_there_or_damaged(tmp_path: Path, data: bytes, said: str) -> None:
    small = small_kernel.write(tmp_path / "k", data=data, symbols={"kernel_config_data": DATA} if data else {})
    with pytest.raises(MissingTable, match=said):
        run_words(opened(small), ["sys", "config"])


def test_physical_addresses_have_virtual_ones(kernel: Kernel) -> None:
    assert lines(kernel, "ptov", f"{RAM + DATA:x}") == [
        "VIRTUAL           PHYSICAL        ",
        f"{DIRECT + RAM + DATA:x}  {RAM + DATA:x}",
    ]
    assert lines(kernel, "btop", "5000", "6123") == ["5000: 5", "6123: 6"]
    assert lines(kernel, "ptob", "5", "6") == ["5: 5000", "6: 6000"]
    beyond = run_words(kernel, ["ptov", "fffffff000"])
    assert list(beyond.lines) == []
    assert "not mapped" in beyond.complaints[0]


def test_pte_prints_as_crash_does(kernel: Kernel) -> None:
    """Taken from crash 8.0.2."""
    assert lines(kernel, "pte", "8000000012345067", "63", "100", "0") == [
        "      PTE         PHYSICAL  FLAGS",
        "8000000012345067  12345000  (PRESENT|RW|USER|ACCESSED|DIRTY|NX)",
        "PTE  PHYSICAL  FLAGS",
        " 63      0     (PRESENT|RW|ACCESSED|DIRTY)",
        "PTE  PHYSICAL  FLAGS",
        "100      0     (PROTNONE|GLOBAL)",
        "PTE  PHYSICAL  FLAGS",
        " 0       0     (no mapping)",
    ]


@pytest.mark.parametrize(
    ("arch", "value", "present", "physical", "flags"),
    [
        ("i386", 0x05000067, True, 0x05000000, ("PRESENT", "RW", "USER", "ACCESSED", "DIRTY")),
        ("aarch64", 0x0068000040210F13, True, 0x40210000, ("VALID", "SHARED", "AF", "NG", "DBM", "PXN", "UXN")),
        ("riscv64", 0x200804CF, True, 0x80201000, ("PRESENT", "READ", "WRITE", "EXEC", "ACCESSED", "DIRTY")),
        ("s390x", 0x12345400, False, 0, ("INVALID",)),
    ],
)
def test_entries_of_other_machines(arch: str, value: int, present: bool, physical: int, flags: tuple[str, ...]) -> None:
    assert decode_entry(value, arch) == (present, physical, flags)
    with pytest.raises(MissingTable):
        decode_entry(1, "vax")


def test_help_lists_every_command_and_its_words(kernel: Kernel) -> None:
    assert set(COMMANDS) <= {line.split(" ")[0] for line in lines(kernel, "help")}
    assert "--help" in "\n".join(lines(kernel, "help", "dis"))
    assert lines(kernel, "help", "findsym") == lines(kernel, "help", "sym")
    for name in COMMANDS:
        assert callable(load(name).run)


# -- scripts --------------------------------------------------------------------------------------------------------

SCRIPT = """\
import sys
def deep():
    return dump.read(0, 8)
assert __name__ == "__main__"
banner = dump.symbol("linux_banner")
print(sys.argv[1:], dump.arch, dump.word_size, dump.page_size, dump.release)
place = dump.symbol("first")
print(dump.read(place, 4).hex(), dump.read_words(banner, 1)[0].to_bytes(8, dump.byteorder))
print(dump.name(place + 8), dump.value("linux_banner", 4) == int.from_bytes(b"Linu", "little"))
print(hex(dump.translate(place)), dump.run("btop 5000"), dump.read_string(banner)[:5])
try:
    dump.tasks()
except dump.Error as error:
    print("no tasks:", error)
if "fail" in sys.argv: deep()
if "exit" in sys.argv: sys.exit(3)
if "message" in sys.argv: sys.exit("said so")
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("script") / "try.py"
    path.write_text(SCRIPT)
    return path


def test_a_script_sees_the_dump(kernel: Kernel, script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_words(kernel, ["script", str(script), "-a", "b"]).exit_codes == []
    said = capsys.readouterr().out.splitlines()
    assert said[:4] == [
        "['-a', 'b'] x86_64 8 4096 6.1.0-test",
        "f30f1efa b'Linux ve'",
        "first+0x8 True",
        f"{RAM + CODE:#x} [{{'physical': '0x5000', 'pfn': '0x5'}}] b'Linux'",
    ]
    assert said[4].startswith("no tasks: ")


def test_with_json_a_script_s_output_is_its_result(small: SmallKernel, script: Path) -> None:
    done = dumpconv("analyze", "--system-map", small.map, small.dump, "script", script, "--json", "exit")
    assert done.returncode == 3
    result = json.loads(done.stdout)["result"]
    assert result["status"] == 3
    assert result["output"][2] == "first+0x8 True"


def test_an_error_in_a_script_is_its_own_traceback(
    kernel: Kernel, script: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_words(kernel, ["script", str(script), "fail"]).exit_codes == [1]
    captured = capsys.readouterr()
    said = captured.err.splitlines()
    assert said[0] == "Traceback (most recent call last):"
    assert [line.split(", ")[0] for line in said if line.startswith("  File ")] == [f'  File "{script}"'] * 2
    assert said[-1].endswith("memory at 0x0 cannot be read: not mapped")
    assert len(captured.out.splitlines()) == 5


@pytest.mark.parametrize(("word", "codes", "said"), [("exit", [3], []), ("message", [1], ["said so"])])
def test_a_script_has_its_exit_status(
    kernel: Kernel, script: Path, word: str, codes: list[int], said: list[str]
) -> None:
    result = run_words(kernel, ["script", str(script), word])
    assert (result.exit_codes, result.complaints) == (codes, said)


def test_a_file_that_is_no_script(kernel: Kernel, tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text("if:\n")
    with pytest.raises(UsageError, match="is no Python: line 1"):
        run_words(kernel, ["script", str(path)])
    with pytest.raises(InputError):
        run_words(kernel, ["script", str(tmp_path / "none")])


def test_prog_is_not_there_without_drgn(
    kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    path = tmp_path / "s.py"
    path.write_text("def f():\n    return prog\nprint(dump.arch)\nf()\n")
    assert run_words(kernel, ["script", str(path)]).exit_codes == [1]
    captured = capsys.readouterr()
    assert captured.out == "x86_64\n"
    assert "prog needs drgn, which is not installed" in captured.err.splitlines()[-1]
    path.write_text("nothing_such\n")
    assert run_words(kernel, ["script", str(path)]).exit_codes == [1]
    assert capsys.readouterr().err.splitlines()[-1].startswith("NameError: ")


def test_python_s_prompt(small: SmallKernel) -> None:
    typed = b"hex(dump.symbol('first'))\n1/0\n"
    done = dumpconv("analyze", "--system-map", small.map, small.dump, "repl", "--plain", input=typed)
    assert done.returncode == 0
    assert hex(small.text + CODE) in done.stdout.decode()
    assert b"ZeroDivisionError" in done.stderr


# -- damage ---------------------------------------------------------------------------------------------------------

QUESTIONS = [
    "info",
    "sym first",
    "sym -q fill",
    "dis first",
    "dis linux_banner 30",
    "ptov 13a30000",
    "sys",
    "sys config",
    "sys -c",
    "mach",
    "mach -m",
    "log -T",
    "vtop first last",
    "rd -s first 8",
]


@pytest.mark.parametrize("note", [True, False], ids=["VMCOREINFO", "none"])
def test_any_damage_of_memory_is_an_error_of_ours(tmp_path: Path, note: bool) -> None:
    """Page tables, banner, configuration and what leads to them: any bytes, and one line on what cannot be had."""
    rng = random.Random(5)
    names = {"kernel_config_data": DATA, "page_offset_base": DATA + 0x800, "sys_call_table": DATA + 0x900,
             "e820_table": DATA + 0xA00, "prb": DATA + 0xB00, "nr_cpu_ids": DATA + 0xC00}  # fmt: skip
    data = (b"IKCFG_ST" + gzip.compress(CONFIG.encode())).ljust(0x1000, b"\0")
    small = small_kernel.write(tmp_path / "k", code=FUNCTION, data=data, symbols=names, note=note)
    whole = small.dump.read_bytes()
    # of the image: tables, banner, code and data
    start = len(whole) - 512 * 4096
    places = [start + at for at in (0x2000, 0x3000, 0x4000, 0x5000, small_kernel.BANNER, CODE, DATA)]
    answered = 0
    for _ in range(12):
        raw = bytearray(whole)
        for _ in range(rng.choice((1, 8, 64))):
            at = rng.choice(places) + rng.randrange(4096)
            raw[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, raw[at] ^ 1 << rng.randrange(8)))
        small.dump.write_bytes(raw)
        kernel = opened(small)
        for question in QUESTIONS:
            try:
                result = run_words(kernel, question.split(" "))
                found = list(result.lines)
            except DumpError as error:
                assert "\n" not in str(error)
                continue
            answered += bool(found)
            assert len(found) < 5000
            assert all("\n" not in text for text in result.complaints)
    assert answered > 40
