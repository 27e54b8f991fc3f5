# SPDX-License-Identifier: GPL-2.0-or-later
"""`dumpverify` finds each kind of damage to real dumps at the level that docs/damage.md promises, at its place."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from oracle.damage_bases import Bases
from oracle.damage_kinds import KINDS, Kind, Place, tables

from dumpconv.cli import main_verify
from dumpconv.verify import structure
from dumpconv.verify.codes import CODES

REPOSITORY = Path(__file__).resolve().parents[2]
TAIL_PFNS = 4096  # looked at by `quick` at each end, in place of 65536: this small machine too has a middle
LEVELS = ("quick", "structure", "pages", "content", "kernel")
NO_MEMORY = ("bitmap_1_set", "register", "phdr_flags")  # the file changes, what its pages hold does not
BASES = sorted({kind.base for kind in KINDS})


@pytest.fixture(scope="module")
def bases(real_dir: Path, tmp_path_factory: pytest.TempPathFactory, need: Callable[..., None]) -> Bases:
    need("makedumpfile", "zstd")
    return Bases(real_dir, tmp_path_factory.mktemp("bases"))


@pytest.fixture
def verify(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    monkeypatch.setattr(structure, "_TAIL_PFNS", TAIL_PFNS)

    def run(path: Path, level: str, code: int, base: str, *more: str | Path) -> dict[str, Any]:
        machine = ["--machine", "x86_64"] if base in ("lime", "avml") else []  # these formats do not say it
        status = main_verify(["--json", "--jobs", "1", *machine, "--level", level, *map(str, more), str(path)])
        out, err = capsys.readouterr()
        assert not err
        report: dict[str, Any] = json.loads(out)["dumps"][0]
        assert status == code, report["findings"]
        return report

    return run


def codes(report: dict[str, Any]) -> Counter[str]:
    return Counter(each["code"] for each in report["findings"])


@pytest.mark.real
@pytest.mark.parametrize("base", BASES)
def test_each_undamaged_form_is_good_at_every_level(base: str, bases: Bases, verify: Any) -> None:
    for level in LEVELS:
        report = verify(bases.made(base)[0], level, 0, base)
        assert not [code for code in codes(report) if code[0] == "E" or code == "W223"]
        assert report["bad"] == []


@pytest.mark.real
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.level], ids=lambda kind: kind.name)
def test_damage_is_found_at_its_level_and_place(kind: Kind, bases: Bases, tmp_path: Path, verify: Any) -> None:
    assert kind.level is not None
    dump = bases.copy(kind.base, tmp_path / "damaged")
    place = kind.damage(dump)
    assert kind.exit_code == (0 if kind.code[0] == "W" else CODES[kind.code].exit_code)
    report = verify(dump.path, kind.level, kind.exit_code, kind.base)
    assert kind.code in codes(report), report["findings"]
    check_place(report, kind, place)
    if kind.level != "quick":  # the table says which level is the first
        below = verify(dump.path, LEVELS[LEVELS.index(kind.level) - 1], 0, kind.base)
        assert kind.code not in codes(below)


def check_place(report: dict[str, Any], kind: Kind, place: Place) -> None:
    finding = next(each for each in report["findings"] if each["code"] == kind.code)
    assert place.word in finding["message"]
    if place.pfn is not None:
        assert finding["pfn"] == place.pfn
    if place.offset is not None:
        assert finding["offset"] == place.offset
    if place.frames is not None:
        assert [(bad["start_pfn"], bad["end_pfn"]) for bad in report["bad"]] == [place.frames]
    if place.data is not None:
        assert [(bad["start_offset"], bad["end_offset"]) for bad in report["bad"]] == [place.data]


@pytest.mark.real
@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.level], ids=lambda kind: kind.name)
def test_what_no_check_can_find_is_not_claimed(kind: Kind, bases: Bases, tmp_path: Path, verify: Any) -> None:
    whole = verify(bases.made(kind.base)[0], "kernel", 0, kind.base)
    dump = bases.copy(kind.base, tmp_path / "damaged")
    before = [path.read_bytes() for path in dump.paths]
    kind.damage(dump)
    assert [path.read_bytes() for path in dump.paths] != before
    report = verify(dump.path, "kernel", 0, kind.base)
    assert codes(report) == codes(whole)
    assert report["assurance"] == whole["assurance"]  # no more is claimed of it than of the whole one


@pytest.mark.real
@pytest.mark.parametrize("kind", [kind for kind in KINDS if "manifest" in kind.why], ids=lambda kind: kind.name)
def test_a_manifest_finds_what_no_check_can(kind: Kind, bases: Bases, tmp_path: Path, verify: Any) -> None:
    dump = bases.copy(kind.base, tmp_path / "damaged")
    manifest = tmp_path / "manifest.json"
    verify(dump.path, "pages", 0, kind.base, "--write-manifest", manifest)
    kind.damage(dump)
    report = verify(dump.path, "pages", 5, kind.base, "--manifest", manifest)
    assert "E112" in codes(report)
    assert ("E114" in codes(report)) == ("page_flags" not in kind.what and kind.name not in NO_MEMORY)


def test_the_note_has_this_table() -> None:
    text = (REPOSITORY / "docs" / "damage.md").read_text()
    assert tables() in text, "put the output of `python tests/oracle/damage_kinds.py` into docs/damage.md"


def test_there_are_enough_kinds_and_each_has_its_name() -> None:
    assert len([kind for kind in KINDS if kind.level]) >= 40
    assert len({kind.name for kind in KINDS}) == len({kind.what for kind in KINDS}) == len(KINDS)
    assert all(kind.why for kind in KINDS if not kind.level)
