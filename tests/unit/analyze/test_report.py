# SPDX-License-Identifier: GPL-2.0-or-later
"""`analyze report`: text, JSON and page hold the same facts; whatever names hold, they are text; a browser shows it."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dumpconv.analyze import blocked
from dumpconv.analyze.advice import culprit, next_commands
from dumpconv.analyze.commands import Result
from dumpconv.analyze.errors import MissingTable
from dumpconv.analyze.kernel import Kernel
from dumpconv.analyze.log import Record
from dumpconv.analyze.report import PARTS, gather, pages_of
from dumpconv.analyze.report_html import write_report
from dumpconv.analyze.report_text import ago, render_report
from dumpconv.analyze.taints import kernel_taints, letters_of, words_of
from dumpconv.analyze.tasks import Task
from dumpconv.analyze.unwind import Frame, Trace
from dumpconv.formats import open_dump
from support import notes, patterns
from support.build_kdump import KdumpImage, KdumpSpec, build
from support.command import dumpconv, one_line
from support.html_page import ALLOWED_TAGS, Page, shown_at_phone_width

HOSTILE = "</li></pre><script>x()</script><img src=x onerror=y()>\u202e\u2066\x1b[31m\x00\x9b\"'&amp;"


def image() -> KdumpImage:
    pages = {pfn: patterns.page(pfn) for pfn in range(16, 40)}
    text = notes.vmcoreinfo_text(release="6.1.0-test")
    return build(KdumpSpec(pages=pages, notes=notes.machine_notes(cpus=1, text=text), fallback=False))


def small(folder: Path, name: str = "dump") -> Path:
    return image().write_to(folder / name)


def a_frame(name: str = "schedule", **more: Any) -> dict[str, Any]:
    frame = {"ip": "0xffffffff81000010", "sp": "0xffffc90000000000", "function": name, "offset": 16, "module": None}
    return {**frame, "guessed": False, "registers": None, **more}


def full_facts(word: str = "word") -> dict[str, Any]:
    """Give facts with everything in them, and `word` wherever a dump chooses the text."""
    registers = {name: "0xffffffffffffffff" for name in ("ip", "sp", "flags", "ax", "cs", "ss", "orig_ax")}
    trace = {
        "pid": 7, "task": "0xffff888000000000", "cpu": 3, "comm": word, "frames": [
            a_frame("panic"), a_frame(word, module=word, registers=registers), a_frame("", guessed=True),
        ], "user_registers": registers, "stopped": word, "panicked": True, "heading": "PID: 7", "same_as": None,
    }  # fmt: skip
    member = {"pid": 8, "comm": word, "task": "0xffff888000000001", "cpu": 1, "seconds": 3725.0}
    group = {
        "tasks": 9, "state": "UN", "pids": [8], "members": [member], "stack": [word, "schedule"],
        "frames": [a_frame(word), a_frame()], "stopped": word,
    }  # fmt: skip
    module = {
        "name": word,
        "base": "0xffffffffc0000000",
        "size": 4096,
        "taints": "0x2000",
        "taint_words": words_of(0x2000),
    }
    return {
        "not_known": {},
        "levels": [
            {"level": "L0", "adds": "pages", "reached": True, "reason": word},
            {"level": "L1", "adds": "symbols", "reached": True, "reason": word},
            {"level": "L2", "adds": "types", "reached": False, "reason": word},
            {"level": "L3", "adds": "source lines", "reached": False, "reason": word},
        ],
        "system": {"dumpfile": word, "cpus": "4", "release": word, "hardware": word, "command_line": word},
        "panic": f"Kernel panic - not syncing: {word}",
        "stopped_cpus": [trace, {**trace, "cpu": 4, "same_as": 0}],
        "source_lines": [word, "    drivers/tty/sysrq.c: 155"],
        "blocked_tasks": [group],
        "same_stacks": [{**group, "state": "IN"}],
        "modules": [module],
        "taints": {"mask": "0x2000", "letters": "E", "words": words_of(0x2000)},
        "memory": {
            "total": 1 << 30, "uses": {"free": 1 << 29, "file": 1 << 28}, "swap": {"total": 1 << 20, "free": 0},
            "largest": [{"pid": 8, "comm": word, "resident": 1 << 27}],
        },
        "missing_from_the_dump": {
            "stored": 5, "excluded": 6, "lost": 7, "damaged": 8, "page_size": 4096, "incomplete": True,
            "reasons": [word],
        },
        "log_tail": [word, f"[    1.000000] Kernel panic - not syncing: {word}"],
        "next_commands": [{"command": f"dumpconv {word}", "why": word}],
        "complaints": [word],
    }  # fmt: skip


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(open_dump([str(small(tmp_path))]))


def written(kernel: Kernel, facts: dict[str, Any], target: Path) -> Page:
    write_report(kernel, facts, pages_of(kernel), str(target))
    return Page(target.read_text(encoding="ascii"))


# -- whatever names hold ------------------------------------------------------------------------------------------


def test_hostile_words_are_text_on_the_page(kernel: Kernel, tmp_path: Path) -> None:
    page = written(kernel, full_facts(HOSTILE), tmp_path / "r.html")
    assert {tag for tag, _ in page.tags} <= ALLOWED_TAGS
    plain = written(kernel, full_facts("word"), tmp_path / "plain.html")
    assert [(tag, sorted(attributes)) for tag, attributes in page.tags] == [
        (tag, sorted(attributes)) for tag, attributes in plain.tags
    ]
    assert not any(name.startswith("on") or name in ("src", "href") for _, each in page.tags for name in each)
    raw = (tmp_path / "r.html").read_text()
    for number in (0x202E, 0x2066, 0x1B, 0, 0x9B):
        assert chr(number) not in raw
        assert f"&#{number};" not in raw
    assert "\\u202e\\u2066\\x1b[31m\\x00\\x9b" in page.words


def test_hostile_words_do_no_harm_on_a_terminal() -> None:
    for line in render_report(full_facts(HOSTILE + "\n")):
        assert line.isprintable(), line


def test_the_page_fetches_and_runs_nothing(kernel: Kernel, tmp_path: Path) -> None:
    written(kernel, full_facts(), tmp_path / "r.html")
    raw = (tmp_path / "r.html").read_text()
    assert "default-src 'none'" in raw
    for word in ("url(", "@import", "http:", "https:", "<script", "<link", "<img"):
        assert word not in raw


# -- the same facts -----------------------------------------------------------------------------------------------


def leaves(value: Any) -> Iterator[str]:
    """Give the words that a reader must find: names, reasons, lines."""
    if isinstance(value, dict):
        for key, each in value.items():
            if key not in ("task", "base", "sp", "mask", "taints", "registers", "user_registers", "state", "heading"):
                yield from leaves(each)
    elif isinstance(value, list):
        for each in value:
            yield from leaves(each)
    elif isinstance(value, str):
        yield value.removeprefix("0x") if value.startswith("0xffffffff") else value


def squeezed(text: str) -> str:
    return " ".join(text.split())


def test_text_and_page_say_what_json_says(kernel: Kernel, tmp_path: Path) -> None:
    facts = full_facts()
    numbers = iter(range(10**6))

    def mark(value: Any) -> Any:  # every word of the dump is told from every other
        if isinstance(value, dict):
            return {key: mark(each) for key, each in value.items()}
        if isinstance(value, list):
            return [mark(each) for each in value]
        return value.replace("word", f"w{next(numbers)}w") if isinstance(value, str) else value

    facts = mark(facts)
    for group in facts["blocked_tasks"] + facts["same_stacks"]:
        group["stack"] = [each["function"] for each in group["frames"]]
    facts["stopped_cpus"][1] = {**facts["stopped_cpus"][0], "cpu": 4, "same_as": 0, "heading": "PID: 7"}
    facts["same_stacks"][0]["stopped"] = None
    facts["complaints"] = []
    text = squeezed("\n".join(render_report(facts)))
    page = squeezed(written(kernel, facts, tmp_path / "r.html").words)
    for key, _, _ in PARTS:
        if key == "stopped_cpus":
            continue
        for word in leaves(facts[key]):
            assert squeezed(word) in page, (key, word)
            if key not in ("blocked_tasks", "same_stacks") or not word.startswith("ffffffff"):
                assert squeezed(word) in text, (key, word)
    for word in ("512.0 MiB", "256.0 MiB", "128.0 MiB", "1 h 2 min"):
        assert word in text
        assert word in page


def test_source_lines_are_a_part_only_where_they_were_asked_for(kernel: Kernel, tmp_path: Path) -> None:
    facts = full_facts()
    assert "Source lines" in written(kernel, facts, tmp_path / "a.html").words
    facts["source_lines"] = None
    assert "Source lines" not in written(kernel, facts, tmp_path / "b.html").words
    assert "source lines ==" not in "\n".join(render_report(facts))
    kernel.vmlinux = str(tmp_path / "none")
    found = gather(kernel, Result())
    assert found["source_lines"] is None
    assert "source_lines" in found["not_known"]
    assert not found["levels"][3]["reached"]


def test_what_is_not_known_is_said_in_its_place(kernel: Kernel, tmp_path: Path) -> None:
    result = Result()
    facts = gather(kernel, result)
    assert set(facts) == {key for key, _, _ in PARTS} | {"not_known", "complaints"}
    assert facts["stopped_cpus"] is None
    json.dumps(facts)
    page = written(kernel, facts, tmp_path / "r.html")
    text = "\n".join(render_report(facts))
    for key, why in facts["not_known"].items():
        assert key != "source_lines"
        if key != "panic":
            assert f"Not known: {why}" in page.words, key
        assert f"not known: {why}" in text, key
    assert 1 in result.exit_codes
    assert "stored: 24" in page.words or "24" in page.words


def test_nothing_found_is_said(kernel: Kernel, tmp_path: Path) -> None:
    facts = full_facts()
    for key in ("blocked_tasks", "same_stacks", "modules", "complaints", "log_tail"):
        facts[key] = []
    facts["panic"], facts["taints"] = None, {"mask": "0x0", "letters": "", "words": []}
    page = written(kernel, facts, tmp_path / "r.html")
    text = "\n".join(render_report(facts))
    assert "None: no task was in uninterruptible sleep." in page.words
    assert "The kernel is not tainted." in page.words
    assert "0 blocked tasks" in page.words
    assert "== blocked tasks ==\nnone" in text
    assert "the log holds no panic" in text


# -- parts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mask", "letters"), [(0, ""), (1, "P"), (4097, "PO"), (12289, "POE"), (1 << 9, "W"), (1 << 7, "D"), (1 << 40, "?")]
)
def test_taints_have_the_kernels_letters(mask: int, letters: str) -> None:
    assert letters_of(mask) == letters
    assert [words[: 1 if letters != "?" else 3] for words in words_of(mask)] == (
        ["bit"] if letters == "?" else [*letters]
    )


@pytest.mark.parametrize(
    ("said", "letters"),
    [
        (b"CPU: 0 PID: 1 Comm: init Not tainted 6.1.0-56-cloud-arm64 #1", ""),
        (b"CPU: 2 PID: 9 Comm: x Tainted: P           OE     5.10.0-8-amd64 #1", "POE"),
        (b"CPU: 2 PID: 9 Comm: x Kdump: loaded Tainted: G        W          6.1.0", "W"),
    ],
)
def test_taints_are_in_the_last_words_too(said: bytes, letters: str) -> None:
    def symbol(name: str) -> int:
        raise MissingTable(name)

    kernel: Any = SimpleNamespace(
        symbol=symbol, memory=SimpleNamespace(pointer=int), log=[Record(0, 6, 0, b"a"), Record(1, 6, 0, said)]
    )
    assert letters_of(kernel_taints(kernel)) == letters
    kernel.log = []
    with pytest.raises(MissingTable):
        kernel_taints(kernel)


def test_the_frame_to_look_at_is_below_the_way_of_dying() -> None:
    names = ["delay_tsc", "panic", "oops_end", "exc_page_fault", "asm_exc_page_fault", "", "ext4_write", "vfs_write"]
    found = culprit([a_frame(name) for name in names])
    assert found is not None
    assert found["function"] == "ext4_write"
    first = culprit([a_frame("mwait"), a_frame("idle")])
    assert first is not None
    assert first["function"] == "mwait"
    assert culprit([a_frame("panic")]) is None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "not known"),
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (59.9, "59 s"),
        (185, "3 min 5 s"),
        (7800, "2 h 10 min"),
        (90000, "1 d 1 h"),
    ],
)
def test_time_spans(seconds: float | None, words: str) -> None:
    assert ago(seconds) == words


def a_task(pid: int, state: str, *, running: bool = False) -> Task:
    return Task(
        address=pid << 8, pid=pid, ppid=1, tgid=pid, cpu=0, state=state, comm=b"t", is_thread_of_kernel=False,
        running=running, vsz=0, rss=0, stack=0,
    )  # fmt: skip


class _Unwinder:
    def __init__(self, kernel: Any) -> None:
        pass

    def sleeping(self, task: int) -> Trace:
        return Trace([Frame(1, 2, "schedule"), Frame(3, 4, "a" if task >> 8 < 5 else "b")])


def test_tasks_with_one_stack_are_together_and_the_longest_wait_is_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocked, "make_unwinder", _Unwinder)
    arrived = {1: 90, 2: 10, 3: 0, 4: 50, 5: 60, 6: 200}
    tasks = [a_task(pid, "UN") for pid in (1, 2, 3)] + [a_task(4, "IN"), a_task(5, "UN"), a_task(6, "IN")]
    tasks.append(a_task(9, "RU", running=True))

    def get(address: int, name: str, path: str) -> int:
        return {"rq": 100 * 10**9, "task_struct": arrived.get(address >> 8, 0) * 10**9}[name]

    structs = SimpleNamespace(get=get, first=lambda *words: words[1])
    kernel: Any = SimpleNamespace(tasks=tasks, structs=structs, per_cpu=lambda name: [(0, 0)], log=[])
    groups, left_out = blocked.group_tasks(kernel)
    found = [(each.state, [(task.pid, seconds) for task, seconds in each.members]) for each in groups]
    assert found == [
        ("UN", [(2, 90.0), (1, 10.0), (3, None)]),
        ("UN", [(5, 40.0)]),
        ("IN", [(4, 50.0)]),
        ("IN", [(6, None)]),  # it came to the CPU after the latest clock: not known
    ]
    assert left_out == 0


def test_only_plain_names_get_into_a_command(kernel: Kernel) -> None:
    facts = full_facts()
    facts["levels"][2]["reached"] = True
    for release, wanted in (("6.1.0-56-amd64", True), ("6.1 ; reboot", False), ("../../etc", False)):
        fake: Any = SimpleNamespace(reader=kernel.reader, release=release, machine=SimpleNamespace(arch="x86_64"))
        commands = [each["command"] for each in next_commands(fake, copy.deepcopy(facts))]
        assert any("--vmlinux" in each for each in commands) == wanted
        assert not any("reboot" in each or "etc" in each for each in commands)


def test_a_file_name_is_quoted(tmp_path: Path) -> None:
    kernel = Kernel(open_dump([str(small(tmp_path, "a b;c"))]))
    commands = [each["command"] for each in next_commands(kernel, full_facts())]
    assert any(f"'{tmp_path}/a b;c'" in each for each in commands)


# -- the file -----------------------------------------------------------------------------------------------------


def test_a_page_or_a_dump_that_exists_is_kept(tmp_path: Path) -> None:
    dump = small(tmp_path)
    before = dump.read_bytes()
    target = tmp_path / "r.html"
    target.write_text("mine")
    done = dumpconv("analyze", dump, "report", "--html", target)
    assert done.returncode == 2
    assert "--force" in one_line(done)
    assert target.read_text() == "mine"
    done = dumpconv("analyze", dump, "report", "--force", "--html", dump)
    assert done.returncode == 2
    assert "same file" in one_line(done)
    assert dump.read_bytes() == before
    done = dumpconv("analyze", dump, "report", "--force", "--html", target)
    assert done.returncode == 1  # nothing is known of this kernel; the page says so
    assert done.stdout == b""
    assert "Crash report" in Page(target.read_text()).words


def test_a_browser_shows_it_at_phone_width(kernel: Kernel, tmp_path: Path, chromium: str) -> None:
    facts = full_facts("a-very-long-name-" * 12)
    written(kernel, facts, tmp_path / "r.html")
    assert "Blocked tasks" in shown_at_phone_width(chromium, tmp_path, tmp_path / "r.html", "dark")


def test_a_cut_dump_says_what_is_lost(tmp_path: Path) -> None:
    """The header counts all pages; those whose data lie behind the end of the file are lost."""
    cut = small(tmp_path)
    os.truncate(cut, image().data[30][0])
    done = dumpconv("analyze", cut, "report")
    assert done.returncode == 3
    said = done.stdout.decode()
    assert "10 pages should be there and are not" in said
    assert "L0 pages         yes  14 pages stored" in said
    assert f"dumpverify --level content {cut}" in said
    target = tmp_path / "r.html"
    assert dumpconv("analyze", cut, "report", "--html", target).returncode == 3
    page = Page(target.read_text())
    assert "lost: 10 (40.0 KiB)" in page.words
    assert "None" not in page.words.replace("None.", "")


# -- on a real dump -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(real_dir: Path) -> Kernel:
    return Kernel(open_dump([str(real_dir / "vmcore.d31.zstd.kdump")]))


@pytest.fixture(scope="module")
def found(real: Kernel) -> dict[str, Any]:
    result = Result()
    facts = gather(real, result)
    assert result.complaints == []
    return facts


@pytest.mark.real
def test_memory_use_is_that_of_the_guest(found: dict[str, Any], real_dir: Path) -> None:
    """/proc/meminfo was read seconds before: the total is the same, the rest near."""
    lines = (line.split() for line in (real_dir / "truth" / "meminfo").read_text().splitlines())
    said = {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines}
    memory = found["memory"]
    assert memory["total"] == said["MemTotal"]
    assert memory["swap"] == {"total": said["SwapTotal"], "free": said["SwapFree"]}
    near = {
        "anonymous": "AnonPages",
        "shared": "Shmem",
        "slab_reclaimable": "SReclaimable",
        "page_tables": "PageTables",
    }
    for key, name in near.items():
        assert abs(memory["uses"][key] - said[name]) < 4 << 20, key
    assert said["MemTotal"] > memory["uses"]["free"] > said["MemFree"] // 2


@pytest.mark.real
def test_the_report_of_a_real_crash(found: dict[str, Any]) -> None:
    assert found["not_known"] == {}
    assert found["panic"] == "Kernel panic - not syncing: sysrq triggered crash"
    died = next(each for each in found["stopped_cpus"] if each["panicked"])
    place = culprit(died["frames"])
    assert place is not None
    assert place["function"] == "sysrq_handle_crash"
    workers = next(each for each in found["same_stacks"] if "worker_thread" in each["stack"])
    assert all(each["comm"].startswith("kworker/") for each in workers["members"])
    assert found["missing_from_the_dump"]["excluded"] == 44687
    assert "free pages" in found["missing_from_the_dump"]["reasons"][0]
    assert found["system"]["command_line"] == "console=ttyS0 crashkernel=144M panic=5"
    assert [each["reached"] for each in found["levels"]] == [True, True, True, False]
