# SPDX-License-Identifier: GPL-2.0-or-later
"""`dumpverify --html`: one page that fetches and runs nothing, whatever the dump's names hold; shown by a browser."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from dumpconv.formats.errors import UsageError
from dumpconv.verify.codes import CODES
from dumpconv.verify.display.html import when
from dumpconv.verify.report_html import HtmlReport
from dumpconv.verify.verdict import TargetReport
from support import corrupt, notes, patterns
from support.build_kdump import KdumpImage, KdumpSpec, build
from support.command import dumpverify, one_line
from support.html_page import ALLOWED_TAGS, Page, shown_at_phone_width

FIRST, COUNT = 16, 24
HOSTILE = '<script>fetch("http://x.invalid")</script><img src=x onerror=alert(1)>"\'&amp;'


def made(folder: Path, name: str = "dump", *, damage: bool = False, **more: Any) -> tuple[KdumpImage, Path]:
    pages = {FIRST + index: patterns.page(FIRST + index) for index in range(COUNT)}
    text = notes.vmcoreinfo_text(release=more.pop("release", "6.1.0-test"))
    spec = KdumpSpec(**{"pages": pages, "notes": notes.machine_notes(cpus=1, text=text), "fallback": False, **more})
    image = build(spec)
    path = image.write_to(folder / name)
    if damage:
        offset, size, _ = image.data[FIRST + 5]
        corrupt.zero_file(path, offset, offset + size)
    return image, path


def page_of(target: Path, *words: str | Path, code: int) -> Page:
    done = dumpverify("--html", target, *words)
    assert done.returncode == code, (done.stdout, done.stderr)
    assert not done.stderr
    assert not Path(f"{target}.incomplete").exists()
    return Page(target.read_text(encoding="ascii"))


def test_the_page_says_what_was_found(tmp_path: Path) -> None:
    image, path = made(tmp_path, damage=True)
    page = page_of(tmp_path / "r.html", path, code=3)
    offset, size, _ = image.data[FIRST + 5]
    for words in (
        "dump DAMAGED",
        "6.1.0-test",
        "E103 page does not decode",
        f"Cause: {CODES['E103'].cause}",
        f"What to do: {CODES['E103'].remedy}",
        "damaged: 1 (4.0 KiB)",
        f"{offset:#x}-{offset + size:#x}",
        "1 bad pages in all",
    ):
        assert words in page.words
    assert [attributes["class"] for tag, attributes in page.tags if tag == "path"][-1] == "b-damaged"


def test_the_map_marks_the_bad_cell(tmp_path: Path) -> None:
    """One row of 256 frames: 16 unknown, 5 stored, 1 damaged, 18 stored, the rest unknown; written out by hand."""
    _, path = made(tmp_path, damage=True, codec="zlib")
    page_of(tmp_path / "r.html", path, code=3)
    text = (tmp_path / "r.html").read_text()
    paths = dict(re.findall(r'<path class="([cb][-\w]*)" d="([^"]*)"/>', text))
    assert paths["c4"] == "M21 0.5h1"
    assert paths["b-damaged"] == "M258 0.5h3"
    assert "M16 0.5h5M22 0.5h18" in paths.values()
    assert 'aria-label="pages from 0x0 to 0x100000"' in text


def test_nothing_is_fetched_or_run(tmp_path: Path) -> None:
    _, path = made(tmp_path, damage=True)
    page = page_of(tmp_path / "r.html", path, code=3)
    assert {tag for tag, _ in page.tags} <= ALLOWED_TAGS
    for _, attributes in page.tags:
        assert not {"src", "srcset", "action", "data", "style-src"} & set(attributes)
        assert not any(name.startswith("on") for name in attributes)
        assert str(attributes.get("href", "#")).startswith("#")
    text = (tmp_path / "r.html").read_text()
    assert "url(" not in text
    assert "@import" not in text
    assert "http:" not in text
    assert "https:" not in text


@pytest.mark.parametrize("name", [HOSTILE.replace("/", "|"), "a\u202eb\n\x1b[31m", os.fsdecode(b"\xff\xfe.kdump")])
def test_hostile_file_names_are_text(tmp_path: Path, name: str) -> None:
    made(tmp_path, name, damage=True)
    made(tmp_path, "other")
    page = page_of(tmp_path / "r.html", tmp_path, code=3)
    assert {tag for tag, _ in page.tags} <= ALLOWED_TAGS
    text = (tmp_path / "r.html").read_text()
    assert not set(text) & {"\u202e", "\x1b"}
    assert "&#8238;" not in text
    shown = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in name)
    assert shown in page.words


def test_hostile_text_of_the_dump_is_text(tmp_path: Path) -> None:
    _, path = made(tmp_path, release=HOSTILE, uts={"machine": "x86_64", "release": HOSTILE[:60] + "z"})
    page = page_of(tmp_path / "r.html", path, code=0)
    assert {tag for tag, _ in page.tags} <= ALLOWED_TAGS
    assert "<script>fetch" in page.words


def test_what_was_proven_of_the_kernel_is_text(tmp_path: Path) -> None:
    html = HtmlReport(str(tmp_path / "r.html"), ["dump"], force=False)
    report = TargetReport(["dump"], "kernel", format="kdump")
    report.proven.append(f"init_uts_ns says {HOSTILE}, as VMCOREINFO does")
    html.add(report)
    html.write()
    shown = (tmp_path / "r.html").read_text(encoding="ascii")
    assert "The kernel makes sense" in shown
    assert "init_uts_ns says &lt;script&gt;" in shown
    assert "<script" not in shown


def test_several_dumps_have_a_table_of_contents(tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    folder.mkdir()
    made(folder, "a")
    made(folder, "b", damage=True)
    (folder / "readme.txt").write_text("no dump")
    page = page_of(tmp_path / "r.html", folder, code=3)
    assert "2 dumps: 1 DAMAGED, 1 good." in page.words
    assert [each["href"] for tag, each in page.tags if tag == "a"] == ["#d1", "#d2"]
    assert [each["id"] for tag, each in page.tags if tag == "section"] == ["d1", "d2"]


def test_a_page_that_exists_is_kept(tmp_path: Path) -> None:
    _, path = made(tmp_path)
    target = tmp_path / "r.html"
    target.write_text("mine")
    done = dumpverify("--html", target, path)
    assert done.returncode == 2
    assert "--force" in one_line(done)
    assert target.read_text() == "mine"
    page_of(target, "--force", path, code=0)


@pytest.mark.parametrize("suffix", ["", ".incomplete"])
def test_a_dump_is_never_replaced(tmp_path: Path, suffix: str) -> None:
    _, path = made(tmp_path, "r.html" + suffix)
    before = path.read_bytes()
    for target in (path, tmp_path):  # named, or found in a directory
        done = dumpverify("--force", "--html", tmp_path / "r.html", target)
        assert done.returncode == 2
        assert "same file" in one_line(done)
        assert path.read_bytes() == before


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    _, path = made(tmp_path)
    done = dumpverify("--html", tmp_path / "no" / "r.html", path)
    assert done.returncode == 1
    assert "cannot write" in one_line(done)


# -- in a browser ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_it_at_phone_width(tmp_path: Path, chromium: str, scheme: str) -> None:
    """In a frame of 390 pixels: nothing wider, nothing fetched, no line on the console; dark where it is asked for."""
    folder = tmp_path / "archive"
    folder.mkdir()
    made(folder, "long-" * 30 + "name.kdump", damage=True)
    made(folder, "b")
    target = tmp_path / "r.html"
    page_of(target, "--level", "content", folder, code=3)
    shown = shown_at_phone_width(chromium, tmp_path, target, scheme)
    assert "DAMAGED" in shown


@pytest.mark.parametrize(("said", "shown"), [("0", "1970-01-01 00:00 UTC"), ("1790000000.5", "2026-09-21 14:13 UTC")])
def test_the_time_of_a_report_can_be_given(said: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", said)
    assert when() == shown


@pytest.mark.parametrize("said", ["abc", "1e300", "nan"])
def test_a_time_that_is_none_is_one_line(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", said)
    with pytest.raises(UsageError, match=said):
        when()
