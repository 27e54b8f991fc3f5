# SPDX-License-Identifier: GPL-2.0-or-later
"""The verb's own options, which may stand before and behind the dump; and commands that need drgn."""

from __future__ import annotations

import argparse
import importlib.util
from types import SimpleNamespace

import pytest

from dumpconv.analyze.command import add_arguments, run_words, settle
from dumpconv.analyze.errors import MissingProgram
from dumpconv.formats.errors import UsageError


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


def test_without_drgn_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    kernel = SimpleNamespace(machine=SimpleNamespace(arch="x86_64"), vmlinux=None)
    with pytest.raises(MissingProgram, match="mount needs drgn, which is not installed") as caught:
        run_words(kernel, ["mount"])  # type: ignore[arg-type]
    assert caught.value.exit_code == 6
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("words", [["crash"], ["crash", "drgn"], ["crash", "q"]])
def test_prompts_of_drgn_are_no_commands(words: list[str]) -> None:
    kernel = SimpleNamespace(machine=SimpleNamespace(arch="x86_64"), vmlinux=None)
    with pytest.raises(UsageError):
        run_words(kernel, words)  # type: ignore[arg-type]
