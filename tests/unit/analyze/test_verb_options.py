# SPDX-License-Identifier: GPL-2.0-or-later
"""The verb's own options, which may stand before and behind the dump; and commands that need drgn."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from dumpconv.analyze.command import add_arguments, run_words, settle
from dumpconv.analyze.commands import COMMANDS, RICH
from dumpconv.analyze.errors import MissingProgram
from dumpconv.analyze.kernel import Kernel
from dumpconv.formats import open_dump
from dumpconv.formats.errors import UsageError

# one line of each command that needs no drgn
NATIVE = """
bt|btop 5000|dis schedule 5|foreach RU bt|help|info|log|mach|mod|ptob 5|ptov 1000|ps|pte 8000000000000063
rd linux_banner|report|struct list_head|sym panic|sys|task 1|union sigval|vtop linux_banner|whatis panic
""".strip().replace("\n", "|").split("|")  # fmt: skip


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    args = parser.parse_args(words)
    settle(args)
    return args


@pytest.mark.parametrize(
    "words",
    [
        ("--write-vmlinux", "FILE", "--no-image", "CORE", "log"),
        ("CORE", "--write-vmlinux", "FILE", "--no-image", "log"),
        ("--no-image", "CORE", "--write-vmlinux=FILE", "log"),
    ],
)
def test_options_stand_on_either_side(words: tuple[str, ...]) -> None:
    args = parsed(*words)
    assert (args.core, args.write_vmlinux, args.no_image, args.command) == ("CORE", "FILE", True, ["log"])


def test_what_follows_a_command_is_the_commands_own() -> None:
    assert parsed("CORE", "log", "--force").command == ["log", "--force"]


@pytest.mark.parametrize("words", [("CORE", "--write-vmlinux"), ("CORE", "--no-image"), ("CORE", "--vmlinux")])
def test_wrong_words(words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError):
        parsed(*words)


@pytest.mark.parametrize("line", [*RICH, "crash ps", "foreach files", "foreach user net -s"])
def test_without_drgn_one_line_says_so(monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    kernel = SimpleNamespace(machine=SimpleNamespace(arch="x86_64"), vmlinux=None)
    with pytest.raises(MissingProgram, match="needs drgn, which is not installed") as caught:
        run_words(kernel, line.split(" "))  # type: ignore[arg-type]
    assert caught.value.exit_code == 6
    assert "\n" not in str(caught.value)
    assert "pip install" in (caught.value.hint or "")


def test_a_machine_that_drgn_is_not_used_for() -> None:
    kernel = SimpleNamespace(machine=SimpleNamespace(arch="i386"), vmlinux=None)
    with pytest.raises(MissingProgram, match="mount needs drgn, which is not used for i386") as caught:
        run_words(kernel, ["mount"])  # type: ignore[arg-type]
    assert caught.value.exit_code == 6


@pytest.mark.real
def test_without_drgn_all_else_answers(monkeypatch: pytest.MonkeyPatch, real_dir: Path) -> None:
    monkeypatch.setitem(sys.modules, "drgn", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    kernel = Kernel(open_dump([str(real_dir / "vmcore.d31.zstd.kdump")]))
    for line in NATIVE:
        result = run_words(kernel, line.split(" "))
        assert list(result.lines), line
        assert result.complaints == [] or line.startswith(("foreach", "report")), line
    assert {line.split(" ")[0] for line in NATIVE} == set(COMMANDS) - {"repl", "script", "search"}


@pytest.mark.parametrize("words", [["crash"], ["crash", "drgn"], ["crash", "q"]])
def test_prompts_of_drgn_are_no_commands(words: list[str]) -> None:
    kernel = SimpleNamespace(machine=SimpleNamespace(arch="x86_64"), vmlinux=None)
    with pytest.raises(UsageError):
        run_words(kernel, words)  # type: ignore[arg-type]
