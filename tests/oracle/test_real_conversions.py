# SPDX-License-Identifier: GPL-2.0-or-later
"""The quick part of prove.py for CI: a real crash in every form at hand, converted and shown to other programs.

The forms are the real dumps (DUMPCONV_REAL, else ../shared/real) and what makedumpfile makes of the raw vmcore. crash
and drgn with types need the kernel's debug package. Everything that is missing skips visibly.
"""

from __future__ import annotations

import mmap
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from oracle import debuggers, openers
from oracle.outcome import DIFFERENT, MISSING, SAME, UNREADABLE, Case, Outcome, Truth
from oracle.prove import CHECKS, find_sources, make_case, prove, table
from oracle.rules import file_digest

from support import oracle_tools

pytestmark = [pytest.mark.real, pytest.mark.oracle]

RAW, ZSTD, SNAPPY, S390X = "vmcore.elf.zst", "vmcore.d31.zstd.kdump", "vmcore.d31.snappy.kdump.xz", "s390x-qemu.elf.zst"
LEVEL_31 = {  # name -> makedumpfile's options
    "zlib.d31": ("-c", "-d", "31"),
    "lzo.d31": ("-l", "-d", "31"),
    "plain.d31": ("-d", "31"),
    "zlib.d31.flat": ("-F", "-c", "-d", "31"),
    "split.d31": ("-l", "-d", "31"),
}
FORMS = {
    **LEVEL_31,
    "elf.d31": ("-E", "-d", "31"),
    "elf.d31.flat": ("-F", "-E", "-d", "31"),
    "lzo.d0": ("-l", "-d", "0"),
    "lzo.d1": ("-l", "-d", "1"),
}
MEMORY = ("pages", "truth", "rules", "attributes", "pyelftools")  # the checks every form gets
EVERYTHING = tuple(CHECKS)


class Laboratory:
    """The real dumps, unpacked once, their forms made once, each converted once."""

    def __init__(self, real: Path, work: Path, dumpconv: list[str]) -> None:
        self.real, self.work, self.dumpconv = real, work, dumpconv
        self.digests: dict[str, str] = {}

    def unpacked(self, name: str) -> Path:
        source = self.real / name
        if not source.exists():
            pytest.skip(f"{source} is missing")
        target = self.work / "unpacked" / source.name.rpartition(".")[0]
        return target if target.exists() else oracle_tools.unpack(source, self.work / "unpacked")

    def form(self, name: str) -> list[Path]:
        """The files of one of FORMS."""
        if not oracle_tools.tool("makedumpfile"):
            pytest.skip("makedumpfile is missing")
        folder = self.work / "forms" / name
        if not folder.exists():
            folder.mkdir(parents=True)
            raw = self.unpacked(RAW)
            if name.startswith("split"):
                ran = oracle_tools.make_split(raw, [folder / f"part{number}" for number in range(3)], *FORMS[name])
            else:
                ran = oracle_tools.make_dump(raw, folder / name, *FORMS[name])
            assert ran.ok, ran.why
        return sorted(folder.iterdir())

    def case(self, name: str) -> Case:
        """A fresh case for a real dump or a form; the raw vmcore is the truth of all but the other machine's."""
        files = self.form(name) if name in FORMS else [self.unpacked(name)]
        found = find_sources(files, self.work)
        assert len(found) == 1, found
        case = make_case(name, *found[0][1:], self.work / "cases" / name)
        case.dumpconv = self.dumpconv
        case.quick = True
        case.vmlinux = oracle_tools.find_vmlinux(case.vmcoreinfo.get("OSRELEASE", "-"))
        if name != S390X:
            case.truths = [Truth(self.unpacked(RAW))]
        return case

    def proven(self, name: str, checks: tuple[str, ...]) -> list[Outcome]:
        """Convert and check; the table is the message of a failure."""
        case = self.case(name)
        rows = prove(case, checks)
        if rows[0].verdict == SAME:
            self.digests[name] = file_digest(case.result)
        shutil.rmtree(case.work)
        assert DIFFERENT not in {row.verdict for row in rows}, "\n" + table(rows)
        return rows


@pytest.fixture(scope="module")
def laboratory(real_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    command = oracle_tools.dumpconv_command()
    if command is None:
        pytest.skip("dumpconv is not installed")
    work = tmp_path_factory.mktemp("oracle")
    yield Laboratory(real_dir, work, command)
    shutil.rmtree(work, ignore_errors=True)


def said(rows: list[Outcome], tool: str) -> dict[str, str]:
    return {row.check: row.verdict for row in rows if row.tool == tool}


def skip_if_missing(rows: list[Outcome]) -> None:
    """After everything else passed: a tool that is not there, or no vmlinux, skips visibly."""
    missing = sorted({row.tool for row in rows if row.verdict == MISSING})
    missing += [f"{row.tool}: {row.detail}" for row in rows if row.verdict == UNREADABLE and "no vmlinux" in row.detail]
    if missing:
        pytest.skip(f"all else is the same; missing: {'; '.join(missing)}")


def test_the_raw_vmcore_is_the_same_to_every_tool(laboratory: Laboratory) -> None:
    rows = laboratory.proven(RAW, EVERYTHING)
    skip_if_missing(rows)
    unreadable = [row for row in rows if row.verdict == UNREADABLE]
    assert unreadable == [], "\n" + table(unreadable)


def test_a_zstd_kdump_is_the_same_to_every_tool(laboratory: Laboratory) -> None:
    rows = laboratory.proven(ZSTD, EVERYTHING)
    skip_if_missing(rows)
    unreadable = {row.tool for row in rows if row.verdict == UNREADABLE}
    assert unreadable <= {"makedumpfile"}, "\n" + table(rows)  # built without zstd


def test_a_snappy_kdump_holds_the_same_memory(laboratory: Laboratory) -> None:
    rows = laboratory.proven(SNAPPY, MEMORY)
    skip_if_missing(rows)
    assert said(rows, "libkdumpfile")["pages"] == SAME


def test_a_big_endian_qemu_dump_holds_the_same_memory(laboratory: Laboratory) -> None:
    rows = laboratory.proven(S390X, ("pages", "rules", "readelf", "pyelftools", "gdb", "again"))
    assert said(rows, "struct")["pages, both by struct"] == SAME
    skip_if_missing(rows)
    # libkdumpfile 0.5.1 can't open the source: QEMU 7.2 writes its section headers in the host's byte order.
    assert said(rows, "libkdumpfile") == {"pages of the source": UNREADABLE, "pages": SAME}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_makedumpfile_holds_the_same_memory(laboratory: Laboratory, form: str) -> None:
    rows = laboratory.proven(form, (*MEMORY, "again") if form in ("zlib.d31", "elf.d31") else MEMORY)
    skip_if_missing(rows)
    assert said(rows, "libkdumpfile")["pages"] == SAME


def test_the_same_memory_and_notes_give_the_same_file(laboratory: Laboratory) -> None:
    for name in LEVEL_31:
        if name not in laboratory.digests:
            laboratory.proven(name, ())
    digests = {name: laboratory.digests[name] for name in LEVEL_31}
    assert len(set(digests.values())) == 1, digests
    if {"lzo.d0", "lzo.d1"} <= laboratory.digests.keys():  # level 1 leaves no page out
        assert laboratory.digests["lzo.d0"] == laboratory.digests["lzo.d1"]


def test_the_log_is_what_the_guest_printed(laboratory: Laboratory) -> None:
    """The guest's console after the crash, not a tool's view of the source."""
    told = laboratory.real / "truth" / "dmesg-after-crash"
    if not told.exists() or not oracle_tools.tool("vmcore-dmesg"):
        pytest.skip("the guest's own log or vmcore-dmesg is missing")
    case = laboratory.case(ZSTD)
    assert prove(case, ())[0].verdict == SAME
    ran = oracle_tools.run([str(oracle_tools.tool("vmcore-dmesg")), case.result], timeout=60)
    assert ran.out == told.read_text()


# --- the comparators on a real vmcore: each must see its lie ----------------------------------------------------------


def patch_everywhere(path: Path, target: Path, changes: dict[bytes, bytes]) -> Path:
    """A copy with every occurrence of some bytes replaced by others of the same length."""
    patches: dict[int, bytes] = {}
    with open(path, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for old, new in changes.items():
            assert len(old) == len(new)
            found = [match.start() for match in re.finditer(re.escape(old), data)]
            assert found, old
            patches |= dict.fromkeys(found, new)
    return oracle_tools.patched_copy(path, target, patches)


def pretended(laboratory: Laboratory, work: Path) -> Case:
    """A case whose source is the raw vmcore and whose result is still to be made."""
    case = make_case("lie", "elf", [laboratory.unpacked(RAW)], work)
    case.quick = True
    case.vmlinux = oracle_tools.find_vmlinux(case.vmcoreinfo.get("OSRELEASE", "-"))
    return case


@pytest.fixture(scope="module")
def banner_lie(laboratory: Laboratory, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """As "result" a copy with another kernel banner; crash would refuse it."""
    case = pretended(laboratory, tmp_path_factory.mktemp("banner"))
    patch_everywhere(case.sources[0], case.result, {b"Linux version 6.1": b"Linux Version 6.1"})
    return case


@pytest.fixture(scope="module")
def lie(laboratory: Laboratory, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """As "result" a copy whose log, task names, modules, stack and registers were changed."""
    work = tmp_path_factory.mktemp("lie")
    case = pretended(laboratory, work)
    raw = case.sources[0]
    changes = {
        b"sysrq triggered crash": b"sysrq triggered CRASH",
        b"swapper/1\0": b"swApper/1\0",
        b"ksoftirqd/1\0": b"ksofTirqd/1\0",
        b"virtio_ring\0": b"virtio_rinG\0",
    }
    told = debuggers.drgn_says(case, raw, []) if case.vmlinux and debuggers.has_drgn() else ""
    if not isinstance(told, str):
        callers = [int(line.split()[0], 16) for line in told["crashed"][3:5]]  # return addresses on the stack
        changes[callers[0].to_bytes(8, "little")] = callers[1].to_bytes(8, "little")
    patch_everywhere(raw, case.result, changes)
    rip = next(note for note in case.core.notes if note.name == b"CORE\0")
    place = rip.offset + 12 + 8 + 112 + 16 * 8
    oracle_tools.patched_copy(case.result, work / "registers.elf", {place: b"\x01\x02\x03"}).replace(case.result)
    return case


@pytest.mark.parametrize(
    ("check", "tool", "must_differ"),
    [
        (debuggers.check_crash, "crash", {"sys", "bt", "bt -a", "log", "mod", "ps"}),
        (debuggers.check_drgn, "drgn", {"tasks", "crashed", "cpus", "modules"}),
        (debuggers.check_gdb, "gdb", {"registers", "registers against libkdumpfile"}),
        (debuggers.check_attributes, "libkdumpfile", {"attributes"}),
        (openers.check_dmesg, "makedumpfile", {"--dump-dmesg"}),
        (openers.check_dmesg, "vmcore-dmesg", {"log"}),
        (openers.check_refilter, "makedumpfile", {"re-filter -c -d 31", "re-filter -E -d 31"}),
    ],
    ids=["crash", "drgn", "gdb", "libkdumpfile", "makedumpfile-dmesg", "vmcore-dmesg", "re-filter"],
)
def test_a_lie_is_seen(lie: Case, check: Callable[[Case], list[Outcome]], tool: str, must_differ: set[str]) -> None:
    rows = [row for row in check(lie) if row.tool == tool]
    skip_if_missing(rows)
    differing = {row.check for row in rows if row.verdict == DIFFERENT}
    assert must_differ <= differing, "\n" + table(rows)


def test_another_banner_is_seen(banner_lie: Case) -> None:
    rows = openers.check_volatility(banner_lie) + debuggers.check_gdb(banner_lie) + debuggers.check_drgn(banner_lie)
    skip_if_missing(rows)
    differing = {(row.tool, row.check) for row in rows if row.verdict == DIFFERENT}
    expected = {("volatility3", "banners"), ("gdb", "linux_banner with vmlinux"), ("drgn", "banner")}
    assert expected <= differing, "\n" + table(rows)
