# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs crash and drgn command lines on the vmlinux made from a dump and on the real one, and prints what differs.

    python tests/oracle/compare_vmlinux.py CORE VMLINUX [--json] [--write docs/vmlinux.md]

The table has one row for each command line: lines printed, lines that differ, the first difference. Inline frames and
source lines, which are in no dump, differ. The exit status is 1 where a line runs on one file only. `--write` makes the
page of the documents: all lines, and what differs in them.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

CRASH = (
    """\
sys|sys -i|ps|ps -k|ps -t|ps -p 1|ps -S|ps -l|ps -m|bt|bt -a|bt -f 1|bt -t 1|foreach bt|log|log -t|mod|mod -t
struct task_struct|struct list_head -o|struct page|struct file -o|struct module|struct net_device|struct rq
union thread_union|whatis init_task|whatis panic|whatis jiffies|p jiffies|p init_task.comm|p nr_cpu_ids
p/x page_offset_base|p -d max_pfn|sym linux_banner|sym panic|sym -q sysrq|sym -p panic|dis -r panic
dis panic 10|dis schedule|rd linux_banner 8|rd -s init_task 8|kmem -i|kmem -s|kmem -v|kmem -V|kmem -n|kmem -z
kmem -o|kmem -f|net|net -a|mount|files 1|files|irq|irq -a|irq -d|irq -b|irq -s|timer|timer -r|runq|runq -t
runq -g|vm 1|dev|dev -p|dev -i|swap|sig 1|task 1|task -R pid 1|ipcs|mach|mach -m|vtop linux_banner
tree -t rb vmap_area_root|list -H modules|list task_struct.tasks -h init_task -s task_struct.pid
search -k deadbeef|pte 8000000000000063|ptov 1000|btop 5000|waitq|set|eval 4 + 4|ascii 62696c2f7273752f
""".strip()
    .replace("\n", "|")
    .split("|")
)
DRGN = (
    """\
sys|ps|ps -t|ps -a|ps -c 1|ps -p 1|ps -l|ps -m|ps -s|ps -g 1|ps -r 1|ps -S|ps -G|ps -y 0|bt|bt -a|bt 1|bt -l 1
bt -s 1|bt -f 1|bt -T 1|foreach bt|foreach user files|foreach kernel ps|foreach task -R pid|foreach sig
foreach vm|foreach set|log|log -t|log -T|log -m|mod|mod -t|struct task_struct|struct list_head -o
struct file -o|struct page|union thread_union|whatis init_task|whatis panic|whatis jiffies|p jiffies
p init_task.comm|p nr_cpu_ids|sym linux_banner|sym panic|sym -q sysrq|sym -p panic|rd linux_banner 8
rd -s init_task 8|kmem -i|kmem -s|kmem -v|kmem -V|kmem -n|kmem -z|kmem -o|kmem -f|kmem -g|kmem -h|net|net -a
mount|files 1|irq|irq -a|irq -b|irq -d|irq -s|timer|timer -r|runq|runq -t|runq -m|runq -g|vm 1|vm -m 1|vm -p 1
dev|dev -d|dev -p|dev -i|swap|sig 1|sig -l|task 1|ipcs|ipcs -M|vtop linux_banner|tree -t rb vmap_area_root
list -H modules|bpf -p|waitq|set|search -k deadbeef|ptov 1000|btop 5000|eval 4 + 4|ascii 62696c2f7273752f
""".strip()
    .replace("\n", "|")
    .split("|")
)
_MARK = "@@@@ "

# drgn opens the dump once for all lines; what a line raises belongs to it
_DRGN_SCRIPT = """
import contextlib, io, sys, drgn
from drgn.commands import run_command
import drgn.commands._crash
prog = drgn.Program()
prog.set_core_dump(sys.argv[1])
prog.set_enabled_debug_info_finders([])
prog.load_debug_info([sys.argv[2]])
from drgn.helpers.linux.kallsyms import load_module_kallsyms
prog.register_symbol_finder("modules", load_module_kallsyms(prog), enable_index=-1)
prog.config["crash_scroll"] = False
for line in sys.stdin.read().splitlines():
    print("@@@@ " + line)
    try:
        run_command(prog, "crash " + line, globals={"prog": prog})
    except BaseException as error:
        print("ERROR", type(error).__name__, error)
"""


def cut(text: str) -> dict[str, list[str]]:
    """Cut the output of a whole run at the marks."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith(_MARK):
            lines = found.setdefault(line.removeprefix(_MARK), [])
        else:
            lines.append(line)
    return found


def crash(core: str, vmlinux: str) -> dict[str, list[str]]:
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "script")
        script.write_text("set scroll off\n" + "".join(f"!echo '{_MARK}{line}'\n{line}\n" for line in CRASH) + "q\n")
        # the two files get names of one length: crash prints them
        done = subprocess.run(
            ["crash", "-s", vmlinux, core, "-i", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL, env={**os.environ, "HOME": folder}, timeout=900, check=False,
        )  # fmt: skip
    return {key: normal(lines) for key, lines in cut(done.stdout.decode("utf-8", "replace")).items()}


def drgn(core: str, vmlinux: str) -> dict[str, list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", _DRGN_SCRIPT, core, vmlinux], input="\n".join(DRGN).encode(), stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, timeout=900, check=False,
    )  # fmt: skip
    return {key: normal(lines) for key, lines in cut(done.stdout.decode("utf-8", "replace")).items()}


def normal(lines: list[str]) -> list[str]:
    """Leave out what says nothing of the kernel: names of files given, addresses of crash itself."""
    kept = []
    for line in lines:
        if "error trace:" in line or re.match(r" +KERNEL: ", line):
            continue
        kept.append(line.rstrip())
    return kept


def failed(lines: list[str] | None) -> bool:
    return lines is None or any(line.startswith("ERROR") or "invalid structure" in line for line in lines)


def compare(
    tool: str, real: dict[str, list[str]], ours: dict[str, list[str]], lines: list[str]
) -> list[dict[str, object]]:
    rows = []
    for line in lines:
        old, new = real.get(line), ours.get(line)
        diff = difflib.unified_diff(old or [], new or [], lineterm="", n=0)
        changes = [each for each in diff if not each.startswith(("---", "+++", "@@"))]
        rows.append(
            {
                "tool": tool, "command": line, "lines": len(old or []), "differ": len(changes),
                "one_only": failed(old) != failed(new), "fails": failed(old) and failed(new),
                "first": " / ".join(changes[:2]),
            }
        )  # fmt: skip
    return rows


def markdown(rows: list[dict[str, object]], core: str) -> str:
    """Return the page of the documents."""
    out = [
        "# The written vmlinux against the real one", "",
        "Made by `python tests/oracle/compare_vmlinux.py CORE VMLINUX --write docs/vmlinux.md`: each line runs in",
        "crash or drgn on the vmlinux that `dumpconv analyze` wrote from the dump, and on the distribution's with its",
        "debuginfo. Equal: all of the output, names of the files given left out. Fails on both: this version of the",
        "tool does not know the command or the kernel, and says so in the same words on both.", "",
        f"The dump: {core}.", "",
    ]  # fmt: skip
    for tool in ("crash", "drgn"):
        mine = [row for row in rows if row["tool"] == tool]
        same = sum(not row["differ"] for row in mine)
        total = sum(int(str(row["lines"])) for row in mine)
        out += [f"## {tool}", "", f"{same} of {len(mine)} command lines equal; {total} lines of output.", ""]
        out += ["| command | lines | differ | first difference |", "|---|---|---|---|"]
        for row in mine:
            said = str(row["first"]).replace("|", "\\|").replace("`", "'")[:160]
            if row["one_only"]:
                said = f"**runs on one file only** {said}"
            elif row["fails"] and not row["differ"]:
                said = "fails on both"
            first = f"`{said}`" if row["differ"] else said
            out.append(f"| `{row['command']}` | {row['lines']} | {row['differ'] or 'equal'} | {first} |")
        out.append("")
    return "\n".join(out)


def versions(core: str) -> str:
    """Say what was compared, in words that are the same on every machine."""
    done = subprocess.run(
        [sys.executable, "-m", "dumpconv", "info", os.path.abspath(core)], capture_output=True, text=True, cwd="/",
        check=True,
    )  # fmt: skip
    said = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if " " in line)
    told = subprocess.run(["crash", "-v"], capture_output=True, text=True, check=False).stdout.split("\n")
    version = next((each for each in told if each.startswith("crash ")), "crash")
    import drgn as module

    return f"{said['machine']}; kernel {said['kernel']}; {version}, drgn {module.__version__}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("core", help="raw or compressed dump that crash and drgn read")
    parser.add_argument("vmlinux", help="with debug information, of the same kernel")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", metavar="FILE", help="the page of the documents")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        made = str(Path(folder, "vmlinux"))
        words = [sys.executable, "-m", "dumpconv", "analyze", os.path.abspath(args.core), "--write-vmlinux", made]
        subprocess.run(words, check=True, cwd="/")
        rows = compare("crash", crash(args.core, args.vmlinux), crash(args.core, made), CRASH)
        rows += compare("drgn", drgn(args.core, args.vmlinux), drgn(args.core, made), DRGN)
    if args.write:
        Path(args.write).write_text(markdown(rows, versions(args.core)))
    if args.json:
        print(json.dumps(rows, indent=1))
    else:
        print("| tool | command | lines | differ | first difference |\n|---|---|---|---|---|")
        for row in rows:
            if row["differ"] or row["one_only"]:
                first = str(row["first"]).replace("|", "\\|")[:150]
                print(f"| {row['tool']} | `{row['command']}` | {row['lines']} | {row['differ']} | {first} |")
        for tool in ("crash", "drgn"):
            mine = [row for row in rows if row["tool"] == tool]
            same = [row for row in mine if not row["differ"]]
            total = sum(int(str(row["lines"])) for row in mine)
            print(
                f"\n{tool}: {len(same)} of {len(mine)} command lines equal, {total} lines; "
                f"{sum(bool(row['fails']) for row in mine)} fail on both"
            )
    return int(any(row["one_only"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
