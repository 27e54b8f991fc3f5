# SPDX-License-Identifier: GPL-2.0-or-later
"""Make docs/findings.md from the table of finding codes: `python docs/make_findings.py`; `--check` compares only."""

from __future__ import annotations

import sys
from pathlib import Path

from dumpconv.verify.codes import CODES

TARGET = Path(__file__).with_name("findings.md")
HEAD = """# What dumpverify finds

Made by docs/make_findings.py from `verify/codes.py`: do not edit. Codes are stable: one is never used for something
else. E makes an exit status of its own, W makes 7 with `--strict`, I makes none. `--allow CODE` takes one out of the
exit status; the report says so.

| code | finding | cause | remedy | exit |
|---|---|---|---|---|
"""


def text() -> str:
    """Return the whole page."""
    rows = (
        f"| {each.code} | {each.title} | {each.cause} | {each.remedy} | {each.exit_code} |" for each in CODES.values()
    )
    return HEAD + "\n".join(rows) + "\n"


def main() -> int:
    """Write the page, or say whether it is current."""
    if sys.argv[1:] == ["--check"]:
        return int(not TARGET.is_file() or TARGET.read_text() != text())
    TARGET.write_text(text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
