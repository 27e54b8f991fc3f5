# SPDX-License-Identifier: GPL-2.0-or-later
"""Do crash, drgn, gdb and libkdumpfile say of the converted file what they say of the source?"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from oracle import pages
from oracle.outcome import DIFFERENT, MISSING, SAME, UNREADABLE, Case, Outcome, first_difference

from support import oracle_tools as tools

CRASH_COMMANDS = ("sys", "bt", "bt -a", "log", "mod", "ps")
DRGN_WORKER, ATTR_WORKER = (Path(__file__).with_name(name) for name in ("drgn_worker.py", "attr_worker.py"))
MARK = "=== "
NR_SAMPLES = 64  # frames that drgn reads physically
GDB_SYMBOLS = ("SYMBOL(init_uts_ns)", "SYMBOL(_stext)", "SYMBOL(mem_section)", "SYMBOL(swapper_pg_dir)", "SYMBOL(prb)")
X86_REGISTERS = [
    "rax",
    "rbx",
    "rcx",
    "rdx",
    "rsi",
    "rdi",
    "rbp",
    "rsp",
    "r8",
    "r9",
    "r10",
    "r11",
    "r12",
    "r13",
    "r14",
    "r15",
    "rip",
]


# --- crash ------------------------------------------------------------------------------------------------------------


_crash_said: dict[tuple[Path, ...], dict[str, str] | str] = {}  # of sources; crash takes ten seconds a dump


def crash_says_of_source(case: Case) -> dict[str, str] | str:
    """What crash prints of the source, asked once."""
    dumps = tuple(case.sources) if case.kind == "split" else (case.readable or case.sources[0],)
    if dumps not in _crash_said:
        _crash_said[dumps] = crash_says(case, *dumps, tag="source")
    return _crash_said[dumps]


def crash_says(case: Case, *dumps: Path, tag: str) -> dict[str, str] | str:
    """What crash prints for each command, the dump's name taken out; one line when it can't be used."""
    script = case.scratch(f"crash-{tag}.cmds")
    script.write_text("".join(f"!echo '{MARK}{command}'\n{command}\n" for command in CRASH_COMMANDS) + "quit\n")
    argv = ["crash", "-s", "--no_scroll", "-i", script, tools.for_crash(case.vmlinux), *dumps]
    home = {"HOME": str(case.work), "EDITOR": "vi"}
    ran = tools.run(argv, timeout=240, env=home)
    parts = re.split(rf"^{MARK}(.*)$", ran.out, flags=re.MULTILINE)
    told = {name: normal(text) for name, text in zip(parts[1::2], parts[2::2], strict=True)}
    if set(told) != set(CRASH_COMMANDS) or not told["bt"].strip():
        return ran.why
    return told


def normal(text: str) -> str:
    """Blank what names the file: the DUMPFILE lines of `sys` (split sets have several) and the [PARTIAL DUMP] mark."""
    lines = []
    dumpfile = False
    for line in text.splitlines():
        key = line.partition(":")[0].strip() if ": " in line else ""
        dumpfile = key in ("DUMPFILE", "DUMPFILES") or (dumpfile and not key)
        if not dumpfile:
            lines.append(line.rstrip())
    return "\n".join(lines).strip()


def check_crash(case: Case) -> list[Outcome]:
    """crash: the same text for each command."""
    if not tools.tool("crash"):
        return [case.row("crash", "sys bt log mod ps", MISSING)]
    if reason := no_crash(case):
        return [case.row("crash", "sys bt log mod ps", UNREADABLE, detail=reason)]
    old, new = crash_says_of_source(case), crash_says(case, case.result, tag="result")
    hint = ""
    if isinstance(new, str) and isinstance(old, dict) and (filled := with_zero_tails(case)):
        hint, new = f"of --tail-zero; without it: {new}", crash_says(case, filled, tag="result")
        filled.unlink()
    if isinstance(new, str):
        verdict = UNREADABLE if isinstance(old, str) else DIFFERENT
        return [
            case.row(
                "crash", "open", verdict, detail=f"converted: {new}; source: {old if isinstance(old, str) else 'ok'}"
            )
        ]
    if isinstance(old, str):
        return [case.row("crash", "open", UNREADABLE, detail=f"the source only (converted opens): {old}")]
    return [
        case.same("crash", command, old[command] == new[command], len(new[command].splitlines()),
                  first_difference(old[command], new[command]) or hint)
        for command in CRASH_COMMANDS
    ]  # fmt: skip


def with_zero_tails(case: Case) -> Path | None:
    """The source converted with --tail-zero, if it is an ELF with tails (p_memsz > p_filesz).

    crash reads tails as zeros, and makedumpfile -E leaves zero pages in them, so that crash may need them; by default
    they are excluded, as the writer did not say which are zero (design, page states).
    """
    if (
        not case.dumpconv
        or case.source_core is None
        or all(one.p_filesz == one.p_memsz for one in case.source_core.loads)
    ):
        return None
    target = case.scratch("zeroed.elf")
    ran = tools.run([*case.dumpconv, case.source_core.path, target, "--tail-zero", "--force"], timeout=300)
    return target if ran.ok and target.exists() else None


def check_crash_notes(case: Case) -> list[Outcome]:
    """crash without a kernel: it counts as many PRSTATUS notes as the source has (it looks at types, not at names)."""
    if not tools.tool("crash") or not case.is_x86_64:
        return []
    ran = tools.run(["crash", "-d8", case.result], timeout=60, env={"HOME": str(case.work)})
    found = re.search(r"num_prstatus_notes: (\d+)", ran.out)
    expected = sum(note.name == b"CORE\0" and note.type == 1 for note in case.source_notes or ())
    if found is None:
        return [case.row("crash", "PRSTATUS notes", DIFFERENT, detail=ran.why)]
    good = int(found[1]) == expected
    return [case.same("crash", "PRSTATUS notes", good, int(found[1]), "" if good else f"the source has {expected}")]


def no_crash(case: Case) -> str:
    if not case.is_x86_64:
        return "crash reads its own machine's dumps only (docs/formats/elf.md section 9)"
    return "" if case.vmlinux else "no vmlinux with debug information for this kernel"


# --- drgn -------------------------------------------------------------------------------------------------------------


def drgn_says(case: Case, dump: Path, pfns: list[int]) -> dict[str, Any] | str:
    argv = [sys.executable, DRGN_WORKER, dump, str(case.vmlinux or ""), *map(str, pfns)]
    ran = tools.run(argv, timeout=240)
    return json.loads(ran.out) if ran.ok else ran.why


def check_drgn(case: Case) -> list[Outcome]:
    """drgn: the same tasks, stack traces of every CPU's task, modules, release and physical bytes."""
    if not has_drgn():
        return [case.row("drgn", "tasks, stacks", MISSING)]
    pfns = sample_frames(case)
    old = drgn_says(case, case.readable, pfns) if case.readable else "nothing to read"
    new = drgn_says(case, case.result, pfns)
    if isinstance(new, str):
        verdict = UNREADABLE if isinstance(old, str) else DIFFERENT
        return [
            case.row(
                "drgn", "open", verdict, detail=f"converted: {new}; source: {old if isinstance(old, str) else 'ok'}"
            )
        ]
    if isinstance(old, str):
        return [case.row("drgn", "open", UNREADABLE, detail=f"the source only (converted opens): {old}")]
    rows = []
    if case.source_core is not None and case.source_core.bits == 64 and case.core.bits == 32:
        old["platform"] = (
            old["platform"].replace("IS_64_BIT|", "").replace("3>", "2>")
        )  # misjudged (docs/formats/elf.md section 9)
    for key in sorted(old.keys() | new.keys()):
        same = old.get(key) == new.get(key)
        rows.append(
            case.same("drgn", key, same, amount(new.get(key)), "" if same else f"{old.get(key)} / {new.get(key)}"[:300])
        )
    return rows


def amount(value: Any) -> int | None:
    if isinstance(value, dict):
        return sum(part != "fault" for part in value.values())
    return len(value) if isinstance(value, list) else None


def has_drgn() -> bool:
    return tools.run([sys.executable, "-c", "import drgn"], timeout=60).ok


def sample_frames(case: Case) -> list[int]:
    """Frames spread over the result's PT_LOADs."""
    if case.page_size != 4096:
        return []
    partial = pages.partial_frames(case.source_core or case.core, case.page_size)  # drgn faults on what is not there
    ends = [(load.p_paddr, load.p_paddr + load.p_filesz) for load in case.core.loads]
    places = {place >> 12 for start, end in ends for place in (start, (start + end) // 2, end - 1)}
    frames = sorted(pfn for pfn in places if (pfn, pfn + 1) not in partial)
    return frames[:: max(1, len(frames) // NR_SAMPLES)][: 2 * NR_SAMPLES]


# --- gdb and libkdumpfile's view of registers and virtual addresses ---------------------------------------------------


def gdb_program(case: Case) -> str | None:
    return tools.tool("gdb") if case.is_x86_64 and tools.tool("gdb") else tools.tool("gdb-multiarch")


def gdb_says(case: Case, dump: Path, *commands: str, timeout: float = 90) -> tools.Ran:
    argv = [
        str(gdb_program(case)),
        "-nx",
        "-batch",
        *(part for command in commands for part in ("-ex", command)),
        "-c",
        dump,
    ]
    return tools.run(argv, timeout=timeout)


def check_gdb(case: Case) -> list[Outcome]:
    """gdb: the registers of every thread, and bytes at kernel symbols through p_vaddr."""
    if gdb_program(case) is None:
        return [case.row("gdb", "registers", MISSING)]
    ran = gdb_says(case, case.result, "info threads", "thread apply all info registers")
    rows = [gdb_registers(case, ran)]
    warned = [line for line in ran.err.splitlines() if "BFD" in line or "warning" in line.lower()]
    rows.append(case.same("gdb", "no warning", not warned, len(warned), warned[0][:160] if warned else ""))
    addresses = [f"0x{value}" for key in GDB_SYMBOLS if (value := case.vmcoreinfo.get(key))]
    told = attributes(case, case.readable, addresses) if case.readable else "nothing to read"
    rows.append(gdb_against_kdumpfile(case, ran, told))
    if case.is_x86_64 and addresses:
        rows.append(gdb_virtual(case, addresses, told))
    if case.vmlinux and case.vmcoreinfo.get("KERNELOFFSET"):
        rows.append(gdb_banner(case))
    return rows


def gdb_registers(case: Case, ran: tools.Ran) -> Outcome:
    """Text against text where the source is ELF; else only that there is a thread for every PRSTATUS."""
    nr_threads = len(re.findall(r"^Thread \d+ ", ran.out, re.MULTILINE))
    if case.source_core is None:
        expected = sum(note.name == b"CORE\0" and note.type == 1 for note in case.source_notes or ())
        return case.same(
            "gdb", "threads", nr_threads == expected, nr_threads, "" if nr_threads == expected else ran.why
        )
    old = gdb_says(case, case.source_core.path, "info threads", "thread apply all info registers")
    if not re.search(r"^Thread \d+ ", old.out, re.MULTILINE):
        verdict = UNREADABLE if nr_threads == 0 else SAME
        return case.row("gdb", "registers", verdict, nr_threads, f"the source: {old.why}")
    detail = first_difference(old.out, ran.out)
    return case.same("gdb", "registers", not detail, nr_threads, detail)


def gdb_against_kdumpfile(case: Case, ran: tools.Ran, told: dict[str, Any] | str) -> Outcome:
    """Registers that libkdumpfile reads from the source against those that gdb shows of the result."""
    if isinstance(told, str):
        return case.row("gdb", "registers against libkdumpfile", UNREADABLE, detail=told)
    cpus: dict[str, dict[str, int]] = {}
    for path, value in told["attrs"].items():
        match = re.fullmatch(r"cpu\.(\d+)\.reg\.(\w+)", path)
        if match and match[2] in X86_REGISTERS:
            cpus.setdefault(match[1], {})[match[2]] = value
    if not cpus:
        return case.row(
            "gdb", "registers against libkdumpfile", UNREADABLE, detail="libkdumpfile names no x86_64 registers"
        )
    threads = [
        {name: int(value, 16) for name, value in re.findall(r"^(\w+) +(0x[0-9a-f]+)", block, re.MULTILINE)}
        for block in re.split(r"^Thread \d+ ", ran.out, flags=re.MULTILINE)[1:]
    ]
    threads = [{name: thread[name] for name in X86_REGISTERS if name in thread} for thread in threads]
    lost = [cpu for cpu, registers in cpus.items() if registers not in threads]
    return case.same("gdb", "registers against libkdumpfile", not lost, len(cpus), f"CPUs {lost}" if lost else "")


def gdb_virtual(case: Case, addresses: list[str], told: dict[str, Any] | str) -> Outcome:
    """Bytes at kernel virtual addresses: gdb through p_vaddr, libkdumpfile on the source through the page tables."""
    if isinstance(told, str):
        return case.row("gdb", "virtual addresses", UNREADABLE, detail=told)
    ran = gdb_says(case, case.result, *(f"x/32xb {address}" for address in addresses))
    shown: dict[str, str] = {}
    for address, values in re.findall(r"^0x([0-9a-f]+)[^:\n]*:((?:[ \t]+0x[0-9a-f]{2})+)$", ran.out, re.MULTILINE):
        at = int(address, 16)
        base = next((known for known in addresses if 0 <= at - int(known, 16) < 32), None)
        if base:
            shown[base] = shown.get(base, "") + "".join(re.findall(r"0x([0-9a-f]{2})", values))
    readable = {address: data for address, data in told["virtual"].items() if ":" not in data}
    wrong = [
        f"{address}: source {data}, gdb {shown.get(address)}"
        for address, data in readable.items()
        if shown.get(address) != data
    ]
    if not readable:
        return case.row("gdb", "virtual addresses", UNREADABLE, detail=str(told["virtual"])[:200])
    return case.same("gdb", "virtual addresses", not wrong, len(readable), "; ".join(wrong)[:300])


def gdb_banner(case: Case) -> Outcome:
    """linux_banner by vmlinux's symbol and KERNELOFFSET, read from the converted file."""
    offset = case.vmcoreinfo["KERNELOFFSET"]
    argv = [str(gdb_program(case)), "-nx", "-batch", "-ex", f"x/s (char *)((unsigned long)&linux_banner + 0x{offset})"]
    ran = tools.run([*argv, tools.for_crash(case.vmlinux), case.result], timeout=120)
    release = case.vmcoreinfo.get("OSRELEASE", "?")
    good = f"Linux version {release}" in ran.out
    place = re.search(r"^0x([0-9a-f]+):\t<error", ran.out, re.MULTILINE)
    if place and not case.holds_text(int(place[1], 16)):
        return case.row("gdb", "linux_banner with vmlinux", UNREADABLE, detail="its frame is not in the dump")
    return case.same("gdb", "linux_banner with vmlinux", good, 1 if good else 0, "" if good else ran.why)


def attributes(case: Case, dump: Path, addresses: list[str]) -> dict[str, Any] | str:
    """libkdumpfile's Python module on one file."""
    if not tools.has_kdumpfile_module():
        return "python3-libkdumpfile is not installed"
    ran = tools.run([tools.SYSTEM_PYTHON, ATTR_WORKER, dump, *addresses], timeout=60)
    return json.loads(ran.out) if ran.ok else ran.why


def check_attributes(case: Case) -> list[Outcome]:
    """libkdumpfile: the same registers, notes, VMCOREINFO, page size and architecture; the same virtual reads."""
    if not tools.has_kdumpfile_module():
        return [case.row("libkdumpfile", "attributes", MISSING)]
    addresses = [f"0x{value}" for key in GDB_SYMBOLS if (value := case.vmcoreinfo.get(key))]
    new = attributes(case, case.result, addresses)
    old = attributes(case, case.readable, addresses) if case.readable else "nothing to read"
    if isinstance(old, str):
        verdict = DIFFERENT if isinstance(new, str) else UNREADABLE
        return [
            case.row(
                "libkdumpfile",
                "attributes",
                verdict,
                detail=f"source: {old}; converted: {'ok' if verdict == UNREADABLE else new}",
            )
        ]
    if isinstance(new, str):
        erased = "Wrong utsname" in new and any(note.name == b"ERASEINFO\0" for note in case.core.notes)
        reason = "of ELF it takes the utsname from memory, where it was erased" if erased else f"converted: {new}"
        return [case.row("libkdumpfile", "attributes", UNREADABLE if erased else DIFFERENT, detail=reason)]
    left, right = ({key: value for key, value in side["attrs"].items() if comparable(key)} for side in (old, new))
    wrong = [key for key in sorted(left) if left[key] != right.get(key)]  # of QEMU's kdumps it knows no registers
    rows = [case.same("libkdumpfile", "attributes", not wrong, len(left), ", ".join(wrong)[:300])]
    if addresses:
        good = {key: value for key, value in old["virtual"].items() if ":" not in value}
        lost = [key for key, value in good.items() if new["virtual"].get(key) != value]
        rows.append(case.same("libkdumpfile", "virtual addresses", not lost, len(good), ", ".join(lost)))
    return rows


def comparable(key: str) -> bool:
    """ELF has arch.machine, kdump has linux.uts of its header: those are the container's."""
    return not key.startswith(("linux.uts.", "arch.machine"))
