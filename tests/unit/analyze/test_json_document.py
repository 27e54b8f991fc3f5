# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/json.md says of every command of analyze which keys its --json has, and what they are: on a real dump."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dumpconv.analyze.command import run_words
from dumpconv.analyze.commands import COMMANDS
from dumpconv.analyze.kernel import Kernel
from dumpconv.formats import open_dump
from support.command import dumpconv

PAGE = Path(__file__).resolve().parents[3] / "docs" / "json.md"
# What is run for each table of the page, by its heading.
RUNS: dict[str, list[list[str]]] = {
    "info": [["info"]],
    "sys": [["sys"]],
    "sys -c": [["sys", "-c"]],
    "mach": [["mach"]],
    "mach -m": [["mach", "-m"]],
    "mach -c": [["mach", "-c"]],
    "log": [["log"], ["log", "-T"]],
    "ps": [["ps"]],
    "bt and foreach ... bt": [["bt", "-a"], ["bt", "1"], ["foreach", "UN", "bt"]],
    "mod": [["mod"]],
    "sym": [["sym", "panic", "-n"], ["sym", "-q", "virtio_blk"], ["sym", "panic+4"]],
    "dis": [["dis", "schedule"]],
    "struct NAME": [["struct", "task_struct"], ["struct", "pid_type"], ["struct", "sock"]],
    "struct NAME.MEMBER": [["struct", "task_struct.pid"]],
    "struct NAME ADDRESS": [["struct", "task_struct", "init_task"]],
    "union NAME": [["union", "sigval"]],
    "whatis": [["whatis", "list_head"], ["whatis", "panic"], ["whatis", "PIDTYPE_PID"], ["whatis", "pid_t"]],
    "task": [["task", "1"], ["task", "-R", "pid,comm", "1", "kthreadd"]],
    "rd": [["rd", "linux_banner", "16"], ["rd", "-8", "linux_banner", "5"]],
    "search": [["search", "-s", "linux_banner", "-l", "4096", "-c", "Linux version"]],
    "vtop": [["vtop", "linux_banner", "init_task"]],
    "ptov": [["ptov", "1000000"]],
    "btop and ptob": [["btop", "1000000"], ["ptob", "1000"]],
    "pte": [["pte", "8000000000000063", "100"]],
    "help": [["help"], ["help", "ps"]],
    "report": [["report"]],
}
_PYTHON = {
    "int": lambda each: type(each) is int,
    "float": lambda each: type(each) is float,
    "bool": lambda each: type(each) is bool,
    "str": lambda each: type(each) is str,
    "hex": lambda each: type(each) is str and re.fullmatch("0x[0-9a-f]+", each) is not None,
    "list": lambda each: type(each) is list,
    "object": lambda each: type(each) is dict,
    "null": lambda each: each is None,
    "any": lambda each: True,
}


def tables() -> dict[str, dict[str, str]]:
    """Give the tables of the page: heading -> path -> type."""
    found = {}
    _, text = PAGE.read_text().split("\n## dumpconv.analyze/1", 1)
    for part in text.split("\n## ", 1)[0].split("\n### ")[1:]:
        heading, body = part.split("\n", 1)
        rows = re.findall(r"^\| (`.*?`) \| (\w.*?) \|", body, re.M)
        found[heading.replace("`", "")] = {path: kind for paths, kind in rows for path in re.findall("`(.*?)`", paths)}
    return found


TABLES = tables()


def walk(value: Any, table: dict[str, str], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (path in the table, value) of all that lies in a result; what a row calls `any` is not gone into."""
    if isinstance(value, list):
        for each in value:
            yield from step(each, table, f"{path}[]")
    elif isinstance(value, dict):
        for name, each in value.items():
            known = f"{path}.{name}".lstrip(".")
            below = any(other.startswith((f"{known}.", f"{known}[")) for other in table)
            yield from step(each, table, known if known in table or below else f"{path}.*".lstrip("."))


def step(value: Any, table: dict[str, str], path: str) -> Iterator[tuple[str, Any]]:
    if path in table:
        yield path, value
        if table[path].startswith("any") or (path == "*" and isinstance(value, dict)):
            return
    elif not any(other.startswith((f"{path}.", f"{path}[")) for other in table):
        yield path, value
        return
    yield from walk(value, table, path)


@pytest.fixture(scope="module")
def kernel(real_dir: Path) -> Kernel:
    return Kernel(open_dump([str(real_dir / "vmcore.d31.zstd.kdump")]))


def test_every_command_has_a_table() -> None:
    words = {heading.split(" ")[0] for heading in TABLES} | {"ptob", "foreach"}
    assert words == set(COMMANDS) - {"repl"}
    assert set(RUNS) == set(TABLES) - {"script"}


@pytest.mark.real
@pytest.mark.parametrize("heading", RUNS)
def test_keys_and_types_are_the_documented_ones(kernel: Kernel, heading: str) -> None:
    table = TABLES[heading]
    found: dict[str, list[Any]] = {}
    for words in RUNS[heading]:
        result = run_words(kernel, words)
        list(result.lines)
        for path, value in walk(json.loads(json.dumps(result.data)), table):
            found.setdefault(path, []).append(value)
    assert set(found) - set(table) == set()
    needed = {path for path, kind in table.items() if not kind.endswith("may be absent")}
    assert needed - set(found) == set()
    for path, values in found.items():
        kinds = table[path].removesuffix(", may be absent").split(" or ")
        wrong = [each for each in values if not any(_PYTHON[kind](each) for kind in kinds)]
        assert not wrong, (path, kinds, wrong[:3])


@pytest.mark.real
def test_the_envelope(tmp_path: Path, real_dir: Path) -> None:
    script = tmp_path / "two.py"
    script.write_text("print('one'); print('two')\n")
    for words in (["script", str(script)], ["ptob", "5"]):
        done = dumpconv("analyze", "--json", real_dir / "vmcore.d31.zstd.kdump", *words)
        said = json.loads(done.stdout)
        assert list(said) == ["schema", "command", "result", "complaints"]
        assert (said["schema"], said["command"], said["complaints"]) == ("dumpconv.analyze/1", words, [])
        if words[0] == "script":
            assert said["result"] == {"status": 0, "output": ["one", "two"]}
            assert set(TABLES["script"]) == {"status", "output", "output[]"}
        else:
            assert said["result"] == [{"pfn": "0x5", "physical": "0x5000"}]
