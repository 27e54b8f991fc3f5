# SPDX-License-Identifier: GPL-2.0-or-later
"""Words, usage errors, start-up: what happens before a dump is read."""

from __future__ import annotations

import fcntl
import json
import os
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from dumpconv.cli import EXIT_CODES, VERBS, build_parser, worst
from support import notes, patterns
from support.build_kdump import KdumpSpec, build
from support.command import COMMAND, dumpconv, environment, one_line


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return build(KdumpSpec(pages=patterns.pages(16, 32), notes=notes.machine_notes())).write_to(
        tmp_path / "small.kdump"
    )


@pytest.mark.parametrize("verb", [None, *VERBS])
def test_help_imports_nothing_heavy(verb: str | None) -> None:
    words = [verb, "--help"] if verb else ["--help"]
    code = (
        "import sys\nfrom dumpconv.cli import main\n"
        f"try:\n    main({words!r})\nexcept SystemExit as stop:\n    assert stop.code == 0\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & "
        "{'numpy', 'construct', 'tqdm', 'zstandard', 'blake3', 'elftools', 'multiprocessing', 'PIL'}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, cwd="/")
    assert done.stderr == b"[]\n"
    assert b"--json" in done.stdout


def test_info_does_not_import_the_converter(small: Path) -> None:
    code = (
        "import sys\nfrom dumpconv.cli import main\n"
        f"assert main(['info', {str(small)!r}]) == 0\n"
        "heavy = {'dumpconv.convert.convert', 'dumpconv.verify.compare', 'dumpconv.verify.display.picture', "
        "'multiprocessing', 'tqdm', 'PIL', 'elftools', 'lz4', 'cramjam', 'deflate'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, cwd="/")
    assert done.stderr == b"[]\n"


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["one-file-only"],
        ["info"],
        ["compare", "one"],
        ["compare", "a", "b", "c"],
        ["info", "--no-such-option", "x"],
        ["map", "x", "--picture", "map.gif"],
        ["map", "x", "--limit", "-1"],
        ["a", "b", "--holes", "some"],
        ["a", "b", "--holes", "min-run=0"],
        ["a", "b", "-j", "0"],
        ["a", "b", "--batch", "much"],
        ["info", "x", "--page-size", "5000"],
        ["info", "x", "--machine", "vax"],
        ["info", "x", "--spool-dir", "/no/such/folder"],
        ["info", "x", "--progress", "fancy"],
        ["-", "-", "/tmp/never-written"],
        ["compare", "-", "-"],
        ["formats", "surplus"],
    ],
)
def test_usage_error_is_one_line_and_code_2(words: list[str], tmp_path: Path) -> None:
    done = dumpconv(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert one_line(done)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("word", "meant"),
    [("inf", "info"), ("infos", "info"), ("comapre", "compare"), ("format", "formats"), ("mpa", "map")],
)
def test_mistyped_command(word: str, meant: str, tmp_path: Path) -> None:
    done = dumpconv(word, "x", cwd=tmp_path)
    assert done.returncode == 2
    assert f"did you mean `dumpconv {meant}`" in one_line(done)


def test_there_is_no_command_convert(tmp_path: Path) -> None:
    assert "did you mean `dumpconv IN OUT`" in one_line(dumpconv("convert", "a", "b", cwd=tmp_path))


def test_a_file_called_like_a_command(small: Path, tmp_path: Path) -> None:
    small.rename(tmp_path / "info")
    done = dumpconv("./info", "out.elf", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.elf").exists()
    assert dumpconv("info", "info", cwd=tmp_path).returncode == 0


def test_a_file_that_looks_like_a_mistyped_command_is_a_file(small: Path, tmp_path: Path) -> None:
    small.rename(tmp_path / "inf")
    assert dumpconv("inf", "out.elf", cwd=tmp_path).returncode == 0


def test_options_may_stand_anywhere(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.elf"
    for words in (["--force", small, out], [small, "--force", out], [small, out, "--force"]):
        assert dumpconv(*words).returncode == 0


def test_options_are_not_abbreviated(small: Path, tmp_path: Path) -> None:
    assert dumpconv(small, tmp_path / "out.elf", "--forc").returncode == 2


def test_worst_exit_code_wins() -> None:
    order = (3, 5, 70, 4, 6, 1, 10, 7)
    for index, code in enumerate(order):
        assert worst([*order[index:], 0]) == code
    assert worst([]) == worst([0, 0]) == 0
    assert set(order) < set(EXIT_CODES)


def test_errors_have_codes_of_the_table() -> None:
    from dumpconv.formats import errors

    for name in errors.__all__:
        assert getattr(errors, name).exit_code in EXIT_CODES, name


def test_every_option_has_help() -> None:
    for verb in (None, *VERBS):
        for action in build_parser(verb)._actions:
            assert action.help, (verb, action)


def test_python_m(small: Path) -> None:
    assert subprocess.run([*COMMAND, "--version"], capture_output=True, check=True).stdout.startswith(b"dumpconv ")


def test_a_bug_gives_code_70_and_one_line_unless_debugging(small: Path) -> None:
    code = (
        "import sys\nimport dumpconv.cli as cli\n"
        "def broken(args):\n    raise ZeroDivisionError('oops')\n"
        "cli._RUN['info'] = broken\nsys.exit(cli.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "info", "x"]
    done = subprocess.run(command, capture_output=True, check=False, env=environment())
    assert done.returncode == 70
    assert "ZeroDivisionError: oops" in one_line(done)
    for more, words in (({"DUMPCONV_DEBUG": "1"}, []), ({}, ["--debug"])):
        done = subprocess.run([*command, *words], capture_output=True, check=False, env=environment(**more))
        assert b"Traceback" in done.stderr


def test_json_progress(small: Path, tmp_path: Path) -> None:
    done = dumpconv(small, tmp_path / "out.elf", "--progress", "json")
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert lines
    assert {line["schema"] for line in lines} == {"dumpconv.progress/1"}
    assert lines[-1]["done"] == lines[-1]["total"] == 16 * 4096


def test_bar_on_a_terminal_only(small: Path, tmp_path: Path) -> None:
    primary, secondary = os.openpty()
    fcntl.ioctl(secondary, termios.TIOCSWINSZ, struct.pack("4H", 25, 80, 0, 0))
    command = [*COMMAND, str(small), str(tmp_path / "out.elf")]
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=secondary, check=True, env=environment(), timeout=30)
    os.set_blocking(primary, False)
    assert b"converting" in os.read(primary, 1 << 16)
    os.close(primary)
    os.close(secondary)
    assert dumpconv(small, tmp_path / "two.elf").stderr == b""


def test_completion_of_commands_options_and_values(tmp_path: Path) -> None:
    pytest.importorskip("argcomplete")
    for line, expected in (
        ("dumpconv inf", "info"),
        ("dumpconv compare --tr", "--trust-digest"),
        ("dumpconv --sal", "--salvage"),
        ("dumpconv --executor spa", "spawn"),
    ):
        out = tmp_path / "out"
        asked = {
            "_ARGCOMPLETE": "1",
            "_ARGCOMPLETE_IFS": "\n",
            "_ARGCOMPLETE_STDOUT_FILENAME": str(out),
            "_ARGCOMPLETE_SUPPRESS_SPACE": "1",
            "COMP_LINE": line,
            "COMP_POINT": str(len(line)),
            "COMP_TYPE": "9",
        }
        dumpconv(env=environment(**asked), cwd=tmp_path)
        assert out.read_text().split() == [expected], line
