#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""index_dumps.py DIR: write DIR/INDEX.md from what the lab's commands left in DIR."""

import json
import sys
from pathlib import Path
from typing import Any

HEAD = """# Real dumps

Made by `corpus/lab/` of the repository; its README says how. Read-only: copy what you damage.

* `*/INDEX.md`, `*/forms/INDEX.md`: one vmcore in every form that makedumpfile writes, with the commands.
* `qemu-*`: a crashed guest dumped from outside, every dump at the same stop of the machine. `memory.raw` (sparse) has
  at offset A what guest-physical address A read as (`pmemsave`), `memory.raw.json` the ranges that are RAM or ROM.
  Columns: `held`: 4 KiB frames with data in the dump; `ram`: frames in the machine; `different`: held frames whose
  bytes are not those of memory.raw; `not held`: RAM frames that the dump lacks; `extra`: held frames outside RAM.
"""


def lines_of(folder: Path) -> list[str]:
    """The section of one guest."""
    truth: dict[str, Any] = json.loads((folder / "truth.json").read_text())
    readme = (folder / "README").read_text().strip().splitlines() if (folder / "README").exists() else []
    state = "panicked" if truth["panicked"] else "did not panic in time; stopped as it was"
    lines = [f"\n## {folder.name}\n", *(f"* {line}" for line in readme), f"* the guest {state}\n"]
    lines += [
        "| dump | bytes | what | held | ram | different | not held | extra |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, result in truth["dumps"].items():
        if "error" in result:
            lines.append(f"| {name} | - | not made: {result['error']} | | | | | |")
            continue
        what = (
            f"ELF{result['class']}"
            if result["format"] == "elf"
            else "kdump v{version} {machine} page {page}".format(**result)
        )
        what += ", flattened" if result["flattened"] else ""
        what += f", {result['undecoded_bytes']} bytes not decoded" if result["undecoded_bytes"] else ""
        counts = " | ".join(str(result[key]) for key in ("held", "ram", "different", "ram_not_held", "held_not_ram"))
        lines.append(f"| {name}.dump | {result['bytes']} | {what} | {counts} |")
    return lines


def main(root: Path) -> None:
    """Collect the sections."""
    lines = [HEAD]
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        if (folder / "truth.json").exists():
            lines += lines_of(folder)
        elif (folder / "serial.log").exists() and not (folder / "README").exists():
            continue
        else:
            notes = [folder / "README", *folder.glob("INDEX.md"), *folder.glob("forms/INDEX.md")]
            lines.append(f"\n## {folder.name}\n")
            for note in notes:
                if note.name == "README" and note.exists():
                    lines += [f"* {line}" for line in note.read_text().strip().splitlines()]
                elif note.exists():
                    lines.append(f"* see `{note.relative_to(root)}`")
    (root / "INDEX.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
