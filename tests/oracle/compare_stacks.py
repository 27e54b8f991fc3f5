# SPDX-License-Identifier: GPL-2.0-or-later
"""Holds the trace of the CPU that panicked against what the kernel itself printed when it did.

    python tests/oracle/compare_stacks.py DIRECTORY...

Each directory is one that `corpus/lab/qemu-dumps` made: a dump and serial.log. The frames behind panic() must be the
same, addresses and all; those that the kernel marks with a question mark are left out. With `--vmlinux FILE` (one
directory) every sleeping task's trace is held against drgn's with that file, too.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dumpconv.analyze.kernel import Kernel
from dumpconv.analyze.unwind import make_unwinder
from dumpconv.formats import open_dump
from dumpconv.formats.errors import DumpError

_LINE = re.compile(r"^\[ *[\d.]+\](?P<mark>.*?)(?P<name>[\w.]+)\+(?P<offset>0x[0-9a-f]+)/0x[0-9a-f]+")


def spoken(log: str) -> list[str]:
    """Give the functions of the trace that the kernel printed behind panic(), as name+offset."""
    start = log.index("] Kernel panic - not syncing: ")
    found = []
    for line in log[start:].splitlines():
        match = _LINE.match(line)
        if match and "?" not in match["mark"] and "RIP" not in match["mark"] and " from " not in line:
            found.append(f"{match['name']}+{match['offset']}")
        if "end Kernel panic" in line or "stopping" in line:
            break
    places = [number for number, each in enumerate(found) if each.startswith("panic+")]
    return found[places[0] + 1 :] if places else found


def traced(kernel: Kernel) -> list[list[str]]:
    """Give the functions of each CPU's trace behind panic(), with offsets as the kernel prints them."""
    unwinder = make_unwinder(kernel)
    traces = []
    for _, registers in unwinder.saved_registers():
        trace = unwinder.trace(registers)
        names = []
        for frame in trace.frames:
            symbol, offset = kernel.lookup(frame.ip) or (None, 0)
            names.append(f"{symbol.name if symbol else '?'}+{offset:#x}" + (" guessed" if frame.guessed else ""))
        places = [number for number, frame in enumerate(trace.frames) if frame.name == "panic"]
        if places:
            traces.append(names[places[0] + 1 :])
        print(f"  {len(names)} frames, {trace.stopped or ('to user mode' if trace.user else 'to the end')}")
    return traces


def compare_with_console(directory: Path) -> bool:
    """Compare the trace behind panic()."""
    print(directory)
    dump = next(path for path in (directory / "elf.dump", directory / "kdump-zlib.dump") if path.exists())
    said = spoken((directory / "serial.log").read_text(errors="replace"))
    try:
        mine = traced(Kernel(open_dump([str(dump)])))
    except DumpError as error:
        print(f"  {error}")
        return False
    same = said in mine
    print(f"  {'equal' if same else 'DIFFERS'}: {len(said)} frames behind panic()")
    if not same:
        print(f"  kernel: {said}\n  trace:  {mine}")
    return same


def compare_with_drgn(directory: Path, vmlinux: str) -> bool:
    """Compare every sleeping task's trace with drgn's: functions without inline ones."""
    import drgn

    dump = next(path for path in (directory / "elf.dump", directory / "kdump-zlib.dump") if path.exists())
    kernel = Kernel(open_dump([str(dump)]))
    prog = drgn.Program(vmcoreinfo=kernel.info.to_bytes())
    prog.set_core_dump(str(directory / "elf.dump"))
    prog.set_enabled_debug_info_finders([])
    prog.load_debug_info([vmlinux])
    unwinder = make_unwinder(kernel)
    equal = total = 0
    for task in kernel.tasks:
        if task.running:
            continue
        total += 1
        mine = [frame.ip for frame in unwinder.sleeping(task.address).frames]
        trace = prog.stack_trace(drgn.Object(prog, "struct task_struct *", value=task.address))
        theirs = [frame.pc for number, frame in enumerate(trace) if not frame.is_inline]
        if mine == theirs:
            equal += 1
        else:
            shown = [[f"{each:x}" for each in part] for part in (mine, theirs)]
            print(f"  {task.pid} {task.comm!r}:\n    {shown[0]}\n    {shown[1]}")
    print(f"  {equal} of {total} sleeping tasks as drgn has them")
    return equal == total


def main() -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directories", nargs="+", metavar="DIRECTORY", type=Path)
    parser.add_argument("--vmlinux", metavar="FILE", help="the kernel's debuginfo")
    options = parser.parse_args()
    good = [compare_with_console(each) for each in options.directories]
    if options.vmlinux:
        good.append(compare_with_drgn(options.directories[0], options.vmlinux))
    return int(not all(good))


if __name__ == "__main__":
    raise SystemExit(main())
