# SPDX-License-Identifier: GPL-2.0-or-later
"""Every corpus case by the product: what its description says, and what every reader promises."""

from __future__ import annotations

import pickle
import signal
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dumpconv import cli
from dumpconv.formats.decode import DecodeJob, run_task
from dumpconv.formats.digest import LEAF_PFNS
from dumpconv.formats.errors import DumpError
from dumpconv.formats.pages import PageState
from dumpconv.formats.tasks import page_tasks
from support import make_corpus, product
from support.reference import runs_of

DESCRIPTIONS = make_corpus.descriptions()


@cache
def expected(description: Path) -> dict[str, Any]:
    return tomllib.loads(description.read_text())["expected"]


def files_of(description: Path) -> list[Path]:
    return [description.parent / name for name in tomllib.loads(description.read_text())["files"]]


def options_of(description: Path) -> dict[str, Any]:
    """What the user must say to have the file read."""
    return tomllib.loads(description.read_text()).get("options", {})


def flags_of(description: Path) -> list[str]:
    """The same on the command line; pieces of raw memory have their addresses in their names."""
    said = {name.replace("_", "-"): value for name, value in options_of(description).items() if name != "bases"}
    return [word for name, value in said.items() for word in (f"--{name}", str(value))]


def names_of(description: Path) -> list[str]:
    bases = [f"@{base:x}" for base in options_of(description).get("bases", [])]
    paths = [str(path) for path in files_of(description)]
    return [path + base for path, base in zip(paths, bases or [""] * len(paths), strict=True)]


def name_of(description: Path) -> str:
    return f"{description.parent.name}-{description.stem}"


REFUSED = [path for path in DESCRIPTIONS if expected(path)["refused"]]
READ = [path for path in DESCRIPTIONS if not expected(path)["refused"]]
WHOLE = [path for path in READ if expected(path)["exit_code"] in (0, 4)]
of_each = pytest.mark.parametrize("description", DESCRIPTIONS, ids=name_of)
of_read = pytest.mark.parametrize("description", READ, ids=name_of)


@pytest.fixture
def main() -> Iterator[Any]:
    """Give the command's entry point; the signal handlers that it installs are taken back."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    kept = {each: signal.getsignal(each) for each in signals}
    yield cli.main
    for each, handler in kept.items():
        signal.signal(each, handler)


@of_read
def test_what_a_reader_finds(description: Path) -> None:
    facts = dict(expected(description))
    del facts["exit_code"], facts["refused"]
    seen = product.view(product.open_product(*files_of(description), salvage=True, **options_of(description)))
    assert seen.description() == facts


@of_read
def test_one_page_at_a_time_is_the_same(description: Path) -> None:
    reader = product.open_product(*files_of(description), salvage=True, **options_of(description))
    seen = product.view(reader)
    absent = {*sorted(seen.lost)[:: 1 + len(seen.lost) // 2000], *seen.damaged} | {run[0] for run in seen.excluded}
    assert product.image_pages(reader, [*seen.pages, *absent]) == seen.pages | dict.fromkeys(absent)


def convert(main: Any, description: Path, out: Path, *more: str) -> int:
    said = flags_of(description)
    return main([*names_of(description), str(out), *said, "--no-sisters", "--no-fsync", "--jobs", "1", *more])


@of_each
def test_exit_code_of_a_conversion(
    description: Path, tmp_path: Path, main: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    facts, out = expected(description), tmp_path / "out"
    code = convert(main, description, out)
    shown = capsys.readouterr()
    if not facts["refused"] and not facts["present"]:
        assert code in (3, facts["exit_code"]), shown.err  # a core file needs a page
        assert not list(tmp_path.iterdir())
        return
    assert code == facts["exit_code"], shown.err
    assert sorted(path.name for path in tmp_path.iterdir()) == (["out"] if code in (0, 4) else [])
    if code not in (0, 4):
        lines = shown.err.splitlines()
        assert len(lines) == 1
        assert lines[0].startswith("dumpconv: ")
    assert "Traceback" not in shown.err


@of_read
def test_the_output_holds_what_the_input_holds(description: Path, tmp_path: Path, main: Any) -> None:
    facts, out = expected(description), tmp_path / "out"
    if not facts["present"]:
        pytest.skip("nothing to write")
    code = convert(main, description, out, "--salvage")
    assert code == facts["exit_code"]
    again = product.view(product.open_product(out)).description()
    del again["bits"]  # the container's choice
    incomplete = facts["incomplete"] or bool(facts["lost"]) or bool(facts["damaged"])
    assert again == {**{key: facts[key] for key in again}, "incomplete": incomplete}


@of_read
def test_the_map_is_sorted_and_disjoint(description: Path) -> None:
    memory_map = product.open_product(*files_of(description), salvage=True, **options_of(description)).memory_map
    assert bool((memory_map.start < memory_map.end).all())
    assert bool((memory_map.end[:-1] <= memory_map.start[1:]).all())
    touching = memory_map.end[:-1] == memory_map.start[1:]
    assert not bool((touching & (memory_map.state[:-1] == memory_map.state[1:])).any())
    assert PageState.HOLE not in memory_map.state


@of_read
@pytest.mark.parametrize("step", [1, 7, 64, LEAF_PFNS])
def test_extents_cover_exactly_what_is_stored(description: Path, step: int) -> None:
    reader = product.open_product(*files_of(description), salvage=True, **options_of(description))
    stored = set(product.frames_of(reader, PageState.STORED))
    covered: list[int] = []
    for cell in sorted({pfn // step for pfn in stored}):
        extents = reader.extents(cell * step, (cell + 1) * step)
        assert bool((np.diff(extents["start_pfn"].astype(np.int64)) >= 0).all())
        covered += product.frames_in(extents)
    assert covered == sorted(stored)


@of_read
def test_what_crosses_processes_pickles(description: Path) -> None:
    reader = product.open_product(*files_of(description), salvage=True, **options_of(description))
    sources = tuple(source.worker_view() for source in reader.sources)
    job = DecodeJob("contract", sources, reader.machine.page_size, digest=True, salvage=True, payload=True)
    for task in page_tasks(reader, reader.memory_map, step=LEAF_PFNS):
        twin, order = pickle.loads(pickle.dumps((job, task)))  # noqa: S301 - our own bytes
        twin.forget()
        assert twin is not job
        assert run_task(twin, order) == run_task(job, task)


@of_read
def test_two_reads_are_equal(description: Path) -> None:
    first, second = (
        product.view(product.open_product(*files_of(description), salvage=True, **options_of(description)))
        for _ in range(2)
    )
    assert first.reader.memory_map == second.reader.memory_map
    assert first.digest == second.digest
    assert first.pages == second.pages
    assert [note.desc() for note in first.reader.notes] == [note.desc() for note in second.reader.notes]


@pytest.mark.parametrize("description", REFUSED, ids=name_of)
def test_refusals_say_where_and_pickle(description: Path) -> None:
    with pytest.raises(DumpError) as caught:
        reader = product.open_product(*files_of(description), **options_of(description))
        reader.finish_notes()
        if reader.damage is not None:
            raise reader.damage
    error = caught.value
    assert error.exit_code == expected(description)["exit_code"]
    assert any(path.name in str(error) for path in files_of(description)) or error.exit_code == 2
    assert "\n" not in str(error)
    twin = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (type(twin), str(twin)) == (type(error), str(error))


@of_read
def test_missing_frames_are_told(description: Path) -> None:
    facts = expected(description)
    reader = product.open_product(*files_of(description), salvage=True, **options_of(description))
    damage = product.view(reader)
    assert [list(run) for run in runs_of(damage.lost | damage.damaged)] == [
        list(run) for run in runs_of({pfn for run in facts["lost"] + facts["damaged"] for pfn in range(*run)})
    ]
