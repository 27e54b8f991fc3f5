# SPDX-License-Identifier: GPL-2.0-or-later
"""Make the manual pages from the parsers: `python docs/make_man.py` writes docs/dumpconv.1 and docs/dumpverify.1.

`--check` compares only.
Only `dumpconv` and the standard library are needed. The same sources give the same bytes: no date, no width of a
terminal is in it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from dumpconv import __version__
from dumpconv.cli import EXIT_CODES, VERBS, build_parser, build_verify_parser

FOLDER = Path(__file__).parent

DESCRIPTION = """\
dumpconv reads a Linux kernel crash dump of any format that it knows, rebuilds the memory and writes it as one
canonical ELF vmcore, which crash, drgn, gdb, libkdumpfile, makedumpfile and volatility open, or with -O as compressed
kdump, LKCD, LiME or raw memory. Formats, flattened
streams, split sets and outer compression are recognised by content. Without a command as first word it converts;
a file that is called like a command is given as ./info.

A page that was excluded, lost or damaged never becomes a page of zeros (but in raw memory, and then this is said).
The output appears under its name only when it is whole; until then it is OUT.incomplete, which is removed on any
failure."""

EXAMPLES = (
    ("dumpconv vmcore.kdump vmcore.elf", "Convert a dump."),
    ("dumpconv dump.1 dump.2 dump.3 vmcore.elf", "Convert a split set; any one of its members would do."),
    ("ssh host cat /var/crash/vmcore.flat | dumpconv - vmcore.elf", "Convert a flattened stream as it arrives."),
    ("dumpconv --salvage broken.kdump whole.elf", "Write what is whole of a damaged dump (exit status 3)."),
    ("dumpconv -O kdump -z vmcore.elf vmcore.kdump", "Write a compressed kdump, pages packed by zstd."),
    ("dumpconv -O kdump -c --split 4 vmcore.elf part", "The same by zlib as a split set: part.1 to part.4."),
    ("dumpconv -O kdump -F -l vmcore.elf - | ssh host makedumpfile -R vmcore", "Send it flattened through a pipe."),
    ("dumpconv -O lime vmcore.kdump memory.lime", "Write LiME for volatility."),
    ("dumpconv info --json vmcore | jq .kernel.release", "Ask which kernel crashed."),
    ("dumpconv map --picture map.svg vmcore", "Draw the whole memory by page state and codec."),
    ("dumpconv map --ddrescue vmcore > memory.map", "Physical memory as a ddrescue map file."),
    ("dumpconv compare vmcore.kdump vmcore.elf", "Is it the same memory?"),
)

NOTES = (
    (
        "compare",
        "Memory is the same where both dumps hold the same set of present frames with the same bytes; only this "
        "decides the exit status, unless --states or --notes says more. A frame that one dump holds and the other "
        "does not is a difference. Frames of which a dump holds some bytes only are shown as a class of their own. "
        "With --trust-digest the digests that canonical files carry are compared, and no page is read.",
    ),
    (
        "map --ddrescue",
        "Positions are physical addresses in bytes. + is a stored frame, - a lost or damaged one, ? all that was "
        "never to be read: excluded frames and addresses that are no RAM.",
    ),
    (
        "progress",
        "A bar on standard error while that is a terminal. --progress json writes one JSON object a line there: "
        "schema, what, done, total (bytes of pages), seconds.",
    ),
    (
        "memory",
        "The last line of a conversion tells the most memory that this process had, plus that of its largest worker.",
    ),
    (
        "completion",
        'With the argcomplete package: eval "$(register\\-python\\-argcomplete dumpconv)" in the shell\'s start file '
        "completes commands, options and files in bash and zsh; for fish: register\\-python\\-argcomplete \\-\\-shell "
        "fish dumpconv | source.",
    ),
)

VERIFY_DESCRIPTION = """\
dumpverify checks Linux kernel crash dumps of every format that dumpconv reads: files, directories, split sets, packed
files and tar archives. Nothing is written to them. What is found has stable codes; the report says of each class of
pages what was proven, which page frames and which bytes of the file are bad, and what they held.

No check finds a flipped bit in a page that is stored as it is, in a format without checksums, but a manifest: write one
while the dump is known to be good."""

VERIFY_NOTES = (
    (
        "archives",
        "With --state never checked files come first, then those checked longest ago; with --max-duration or "
        "--max-bytes each run does its share, and ends with 10 if nothing bad was found. --max-age leaves out what "
        "was found good and has not changed. A file that cannot be read never stops the others.",
    ),
    (
        "packed files and archives",
        "Members of a plain tar archive are read in place. Packed files are unpacked into memory, or beyond 128 MiB "
        "into an unlinked temporary file (--spool-dir), as far as needed; the report says how many bytes (I302).",
    ),
)

VERIFY_EXAMPLES = (
    ("dumpverify vmcore", "Does every page decode?"),
    ("dumpverify --level kernel --html report.html vmcore", "Does the memory make sense? One page to keep."),
    ("dumpverify --write-manifest vmcore.json vmcore", "Digests of the file and of its memory, for later."),
    ("dumpverify --manifest SHA256SUMS", "Check all files that a list of sha256sum names."),
    ("dumpverify --level quick /var/crash", "Headers and tables of a whole directory, in milliseconds each."),
    (
        "dumpverify --state /var/lib/dumpverify/state --max-age 90d --max-duration 4h --report jsonl /archive",
        "A night's share of an archive.",
    ),
)

ENVIRONMENT = (
    ("DUMPCONV_DEBUG", "1 shows the traceback of an unexpected error, as --debug does."),
    ("OPENBLAS_NUM_THREADS", "Set to 1 unless it is set: no threads are needed."),
    ("TMPDIR", "Where streams are spooled, unless --spool-dir says."),
)


def escape(text: str) -> str:
    """Escape what troff would take for its own."""
    text = text.replace("\\-", "\0").replace("\\", "\\e").replace("-", "\\-").replace("\0", "\\-").replace("'", "\\(aq")
    return "\\&" + text if text.startswith(".") else text


def wrap(text: str) -> Iterator[str]:
    """Yield one line of troff a sentence or paragraph part, escaped."""
    for line in text.split("\n"):
        yield escape(line) if line else ".PP"


def metavar(action: argparse.Action) -> str:
    """Return what stands for an option's value, empty for a switch."""
    if action.nargs == 0:
        return ""
    if action.metavar is not None:
        return str(action.metavar)
    return "|".join(map(str, action.choices)) if action.choices else action.dest.upper()


def is_positional(action: argparse.Action) -> bool:
    """Whether the action takes a word without a dash."""
    return not action.option_strings


def synopsis(parser: argparse.ArgumentParser) -> str:
    """Return one line: command, options, positionals."""
    words = [f".B {escape(parser.prog)}", "[\\fIOPTION\\fR]..."]
    for action in parser._actions:
        if is_positional(action):
            words.append(f"\\fI{action.metavar}\\fR" + ("..." if action.nargs in ("+", "*") else ""))
    return "\n".join([words[0], " ".join(words[1:])])


def entries(verb: str | None, *, shared: bool) -> Iterator[str]:
    """Yield the options of a command: its own, or those that all commands share."""
    for group in build_parser(verb)._action_groups:
        is_shared = group.title not in ("positional arguments", "options")
        if is_shared == shared:
            yield from group_entries(group)


def group_entries(group: argparse._ArgumentGroup) -> Iterator[str]:
    """Yield the options of one group."""
    for action in group._group_actions:
        if action.dest == "help":
            continue
        yield ".TP"
        if is_positional(action):
            yield f"\\fI{action.metavar}\\fR"
        else:
            value = metavar(action)
            names = ", ".join(f"\\fB{escape(name)}\\fR" for name in action.option_strings)
            yield names + (f" \\fI{escape(value)}\\fR" if value else "")
        yield escape((action.help or "").replace("%%", "%"))


def conv_page() -> Iterator[str]:
    """Yield the lines of dumpconv(1)."""
    yield from head("dumpconv", "convert, show and compare Linux kernel crash dumps")
    for verb in (None, *VERBS):
        yield from (synopsis(build_parser(verb)), ".br")
    yield from (".SH DESCRIPTION", *wrap(DESCRIPTION))
    yield from (".SH CONVERSION", *entries(None, shared=False))
    yield ".SH COMMANDS"
    for verb, text in VERBS.items():
        yield from (f".SS dumpconv {verb}", escape(text[0].upper() + text[1:] + "."))
        yield from entries(verb, shared=False)
    yield from (".SH SHARED OPTIONS", "All commands that read a dump take these.", *entries(None, shared=True))
    yield from tail(NOTES, EXAMPLES, "dumpverify(1), crash(8), makedumpfile(8), ddrescue(1), kdump(5)")


def verify_page() -> Iterator[str]:
    """Yield the lines of dumpverify(1)."""
    yield from head("dumpverify", "verify Linux kernel crash dumps")
    parser = build_verify_parser()
    yield synopsis(parser)
    yield from (".SH DESCRIPTION", *wrap(VERIFY_DESCRIPTION))
    titles = {"positional arguments": "DUMPS", "options": "OPTIONS"}
    for group in parser._action_groups:
        if group._group_actions:
            title = (group.title or "").partition(" (")[0]
            yield from (f".SH {titles.get(title, escape(title.upper()))}", *group_entries(group))
    yield from tail(VERIFY_NOTES, VERIFY_EXAMPLES, "dumpconv(1), sha256sum(1), ddrescue(1), cron(8)")


def head(name: str, what: str) -> Iterator[str]:
    """Yield what a page begins with."""
    yield '.\\" Made by docs/make_man.py from the parsers: do not edit.'
    yield f'.TH {name.upper()} 1 "" "dumpconv {__version__}" "User Commands"'
    yield from (".SH NAME", f"{name} \\- {what}", ".SH SYNOPSIS")


def tail(notes: tuple[tuple[str, str], ...], examples: tuple[tuple[str, str], ...], also: str) -> Iterator[str]:
    """Yield what a page ends with: exit status, notes, environment, examples."""
    yield ".SH EXIT STATUS"
    for code, text in EXIT_CODES.items():
        yield from (".TP", f"\\fB{code}\\fR", escape(text))
    yield from (".TP", "\\fB128+N\\fR", "ended by signal N")
    yield from (".PP", "Where several apply the worst wins: 3, 5, 4, 6, 1, 10, 7. Damage is never a warning.")
    yield ".SH NOTES"
    for title, text in notes:
        yield from (".TP", f"\\fB{escape(title)}\\fR", escape(text))
    yield ".SH ENVIRONMENT"
    for name, text in ENVIRONMENT:
        yield from (".TP", f"\\fB{name}\\fR", escape(text))
    yield ".SH EXAMPLES"
    for command, text in examples:
        yield from (".TP", f"\\fB{escape(command)}\\fR", escape(text))
    yield from (".SH SEE ALSO", also)


PAGES = {"dumpconv.1": conv_page, "dumpverify.1": verify_page}


def main() -> int:
    """Write the pages, or say whether the committed ones are current."""
    parser = argparse.ArgumentParser(description="Make the manual pages from the parsers.")
    parser.add_argument("--check", action="store_true", help="exit with 1 unless the pages are current")
    args = parser.parse_args()
    current = True
    for name, page in PAGES.items():
        text, path = "".join(line + "\n" for line in page()), FOLDER / name
        current &= path.exists() and path.read_text() == text
        if not args.check:
            path.write_text(text)
    return 0 if current or not args.check else 1


if __name__ == "__main__":
    sys.exit(main())
