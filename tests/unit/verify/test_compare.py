# SPDX-License-Identifier: GPL-2.0-or-later
"""`compare`: the same memory in other containers, and every way in which two dumps can differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support import build_elf, notes, patterns
from support.build_kdump import KdumpSpec, build
from support.command import dumpconv, one_line, report

PAGES = patterns.pages(16, 48) | patterns.pages(100, 700, kind="mixed")
SAME = {key: 0 for key in ("differing", "only_a", "only_b", "damaged_a", "damaged_b")}


def kdump(path: Path, **more: Any) -> Path:
    return build(KdumpSpec(**{"pages": PAGES, "notes": notes.machine_notes(), **more})).write_to(path)


def elf(path: Path, pages: dict[int, bytes] = PAGES, **more: Any) -> Path:
    segments, run = [], b""
    for pfn in sorted(pages):
        run = pages[pfn] if pfn - 1 not in pages else run + pages[pfn]
        if pfn + 1 not in pages:
            segments.append(build_elf.Segment((pfn + 1) * 4096 - len(run), run))
    return build_elf.build(build_elf.ElfSpec(segments, notes.machine_notes(), **more)).write_to(path)


def counts(shown: Any) -> dict[str, int]:
    return {key: value for key, value in shown["pages"].items() if value}


@pytest.mark.parametrize("executor", ["serial", "threads", "processes", "spawn"])
@pytest.mark.parametrize("codec", ["raw", "zstd"])
def test_same_memory_in_other_containers(tmp_path: Path, codec: str, executor: str) -> None:
    a, b = kdump(tmp_path / "a", codec=codec, shuffle=1), elf(tmp_path / "b")
    shown = report("compare", a, b, "--executor", executor, "-j", "2", "--states", "--notes")
    assert shown["same_memory"] and shown["same_states"] and shown["same_notes"]
    assert counts(shown) == {"compared": len(PAGES)}
    assert shown["ranges"] == []


def test_differing_bytes(tmp_path: Path) -> None:
    changed = {pfn: bytes([PAGES[pfn][0] ^ 1]) + PAGES[pfn][1:] for pfn in (16, 300, 301, 302)}
    changed[650] = PAGES[650][:-1] + bytes([PAGES[650][-1] ^ 128])
    shown = report("compare", kdump(tmp_path / "a"), elf(tmp_path / "b", {**PAGES, **changed}), code=1)
    assert counts(shown) == {"compared": len(PAGES), "differing": 5}
    assert shown["same_states"]
    ranges = [(each["start_pfn"], each["end_pfn"], each["kind"]) for each in shown["ranges"]]
    assert ranges == [(16, 17, "bytes"), (300, 303, "bytes"), (650, 651, "bytes")]


def test_ranges_join_across_tasks_and_are_limited(tmp_path: Path) -> None:
    low = 16384 - 3  # a task ends at 16384
    pages = patterns.pages(low, low + 6) | patterns.pages(20000, 20001)
    other = {pfn: b"\1" * 4096 for pfn in pages}
    a, b = kdump(tmp_path / "a", pages=pages), kdump(tmp_path / "b", pages=other)
    shown = report("compare", a, b, code=1)
    assert [(each["start_pfn"], each["end_pfn"]) for each in shown["ranges"]] == [(low, low + 6), (20000, 20001)]
    shown = report("compare", a, b, "--limit", "1", code=1)
    assert len(shown["ranges"]) == 1
    assert shown["ranges_left_out"] >= 1
    assert counts(shown)["differing"] == 7


def test_a_zero_page_is_not_an_absent_page(tmp_path: Path) -> None:
    a = kdump(tmp_path / "a", pages={**PAGES, 50: bytes(4096)})
    b = kdump(tmp_path / "b", excluded=[(50, 51)])
    shown = report("compare", a, b, code=1)
    assert counts(shown) == {"compared": len(PAGES), "only_a": 1}
    assert shown["states"] == [{"a": "stored", "b": "excluded", "pages": 1}]
    assert counts(report("compare", b, a, code=1)) == {"compared": len(PAGES), "only_b": 1}


def test_states_alone_differ(tmp_path: Path) -> None:
    a, b = kdump(tmp_path / "a", excluded=[(800, 900)]), kdump(tmp_path / "b", excluded=[(800, 850)])
    shown = report("compare", a, b)
    assert shown["same_memory"]
    assert not shown["same_states"]
    assert shown["states"] == [{"a": "excluded", "b": "hole", "pages": 50}]
    assert dumpconv("compare", a, b, "--states").returncode == 1


def test_notes_alone_differ(tmp_path: Path) -> None:
    text = notes.vmcoreinfo_text(release="6.2.0-other")
    a, b = kdump(tmp_path / "a"), kdump(tmp_path / "b", notes=notes.machine_notes(cpus=3, text=text))
    shown = report("compare", a, b)
    assert shown["notes"] == ["registers: 2 and 3 CPUs", "VMCOREINFO: differs"]
    assert dumpconv("compare", a, b, "--notes").returncode == 1


def test_damage_is_neither_same_nor_hidden(tmp_path: Path) -> None:
    image = build(KdumpSpec(pages=PAGES, notes=notes.machine_notes()))
    a = kdump(tmp_path / "a", patches={image.data[20][0]: b"\xff" * 8})
    shown = report("compare", a, elf(tmp_path / "b"), code=3)
    assert not shown["same_memory"]
    assert counts(shown) == {"compared": len(PAGES) - 1, "damaged_a": 1}
    assert [each["pfn"] for each in shown["damage_a"]] == [20]


def partial(path: Path, data: bytes) -> Path:
    segment = build_elf.Segment(0x10000, data)
    return build_elf.build(build_elf.ElfSpec([segment], notes.machine_notes())).write_to(path)


@pytest.mark.parametrize(
    ("tail_a", "tail_b", "code", "expected"),
    [
        (b"x" * 100, b"x" * 100, 0, {}),
        (b"x" * 100, b"x" * 100 + bytes(3996), 0, {}),
        (b"x" * 100, b"x" * 4096, 1, {"partial_missing": 1}),
        (b"x" * 100, b"x" * 99 + b"y", 1, {"partial_differing": 1}),
    ],
)
def test_partial_frames_are_a_class_of_their_own(
    tmp_path: Path, tail_a: bytes, tail_b: bytes, code: int, expected: dict[str, int]
) -> None:
    page = patterns.page(16)
    a, b = partial(tmp_path / "a", page + tail_a), partial(tmp_path / "b", page + tail_b)
    assert counts(report("compare", a, b, code=code)) == {"compared": 1, "partial": 1, **expected}


def test_trusted_digests_need_only_headers(tmp_path: Path) -> None:
    outs = []
    for name, pages in (("one", PAGES), ("two", PAGES), ("three", {**PAGES, 300: bytes(4096)})):
        source = kdump(tmp_path / name, pages=pages, codec="lzo" if name == "two" else "zlib")
        outs.append(tmp_path / f"{name}.elf")
        assert dumpconv(source, outs[-1]).returncode == 0
    shown = report("compare", outs[0], outs[1], "--trust-digest")
    assert (shown["by"], shown["same_memory"], shown["pages"]["compared"]) == ("digest", True, 0)
    assert report("compare", outs[0], outs[2], "--trust-digest", code=1)["by"] == "digest"
    # what is trusted is not read: a changed page goes unseen, and is seen without the option
    raw = bytearray(outs[1].read_bytes())
    raw[-1] ^= 1
    outs[1].write_bytes(raw)
    assert report("compare", outs[0], outs[1], "--trust-digest")["same_memory"]
    assert counts(report("compare", outs[0], outs[1], code=1))["differing"] == 1


def test_without_digests_pages_are_compared(tmp_path: Path) -> None:
    shown = report("compare", kdump(tmp_path / "a"), elf(tmp_path / "b"), "--trust-digest")
    assert shown["by"] == "pages"
    assert shown["remarks"] == ["no recorded digest in A and B: pages were compared"]


def test_streams(tmp_path: Path) -> None:
    a = kdump(tmp_path / "a")
    assert counts(report("compare", "-", elf(tmp_path / "b"), code=0, input=a.read_bytes())) == {"compared": len(PAGES)}


def test_page_sizes_differ(tmp_path: Path) -> None:
    more = {"page_size": 65536, "uts": {"machine": "ppc64le"}}
    text = notes.vmcoreinfo_text(page_size=65536)
    big_notes = notes.machine_notes("ppc64le", text=text)
    big = kdump(tmp_path / "b", pages=patterns.pages(0, 4, 65536), notes=big_notes, **more)
    done = dumpconv("compare", kdump(tmp_path / "a"), big)
    assert done.returncode == 2
    assert "4096" in one_line(done)
    assert "65536" in one_line(done)
