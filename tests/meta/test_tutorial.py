# SPDX-License-Identifier: GPL-2.0-or-later
"""The tutorial is what its runner can run (corpus/lab/tutorial.py does, in 3 minutes); the runner's own rules."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
TUTORIAL = REPOSITORY / "docs" / "tutorial.md"


@pytest.fixture(scope="module")
def runner() -> Any:
    spec = importlib.util.spec_from_file_location("lab_tutorial", REPOSITORY / "corpus" / "lab" / "tutorial.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_every_block_can_be_run(runner: Any) -> None:
    blocks = runner.parse(TUTORIAL.read_text())
    places = [block.place for block in blocks]
    assert set(places) == set(runner.PLACES)
    order = [place for place in places if place in ("machine", "capture", "desk")]
    assert order == sorted(order, key=("machine", "capture", "desk").index)
    assert [runner.parameters(block) for block in blocks if block.place == "cmdline"] == ["crashkernel=256M"]
    for block in blocks:
        assert block.commands or block.place == "cmdline", block.line
        for command in block.commands if block.place == "packages" else ():
            assert runner.apt_packages(command)
    flags = [sorted(block.flags) for block in blocks if block.flags]
    assert flags == [["crashes"], ["ends"]]


def test_its_outputs_are_there(runner: Any) -> None:
    """Each block with an `expect` shows what is expected: --update wrote it after a run that worked."""
    for block in runner.parse(TUTORIAL.read_text()):
        if "expect" in block.options:
            assert block.options["expect"] in "\n".join(block.body), block.line


TEXT = """words
```console machine expect=b lines=2
# first \\
    more
old output
$ second
```
"""


def test_commands_and_outputs_are_told_apart(runner: Any) -> None:
    (block,) = runner.parse(TEXT)
    assert block.commands == ["first \\\n    more", "second"]
    assert block.options == {"expect": "b", "lines": "2"}
    block.outputs = [["a", "b", "c "], ["d "]]
    after = runner.updated(TEXT, [block])
    assert after.splitlines()[1:] == [
        "```console machine expect=b lines=2", "# first \\", "    more", "a", "b", "...", "$ second", "d", "```",
    ]  # fmt: skip
    (again,) = runner.parse(after)
    assert again.commands == block.commands


@pytest.mark.parametrize("fence", ["```", "```sh", "```sh nowhere", "```sh desk wrong=1", "```sh desk flag"])
def test_a_block_that_says_nothing_of_its_place(runner: Any, fence: str) -> None:
    with pytest.raises(runner.Failure, match="line 1"):
        runner.parse(f"{fence}\n$ true\n```\n")


def test_the_desk(runner: Any, tmp_path: Path) -> None:
    text = "```sh desk {}\n$ echo word; exit {}\n```\n"
    assert runner.Runner(tmp_path, runner.parse(text.format("expect=word status=3", 3))).run() == 1
    for options, code in (("", 1), ("expect=other", 0)):
        with pytest.raises(runner.Failure):
            runner.Runner(tmp_path, runner.parse(text.format(options, code))).run()
    missing = runner.Runner(tmp_path, runner.parse(text.format("needs=/no/such/file", 1)))
    assert missing.run() == 0
