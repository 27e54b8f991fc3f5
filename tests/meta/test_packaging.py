# SPDX-License-Identifier: GPL-2.0-or-later
"""What is in the tree is in the package, and each reader has what a reader must have."""

from __future__ import annotations

import pickle
import tomllib
from pathlib import Path

import pytest

import dumpconv
from dumpconv.formats import FORMATS, Registration, errors
from dumpconv.formats.errors import DumpError
from dumpconv.formats.source import BytesSource
from support import make_corpus

REPOSITORY = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


def package_files() -> dict[str, Path]:
    packages = PROJECT["tool"]["setuptools"]["packages"]
    folders = [name.removeprefix("dumpconv").replace(".", "/").strip("/") for name in packages]
    return {
        f"{folder}/{path.name}".strip("/"): path for folder in folders for path in (REPOSITORY / folder).glob("*.py")
    }


def test_every_folder_with_code_is_a_package() -> None:
    listed = {str(Path(name).parent) for name in package_files()}
    there = {
        str(path.parent.relative_to(REPOSITORY))
        for path in REPOSITORY.rglob("__init__.py")
        if path.relative_to(REPOSITORY).parts[0] in ("formats", "convert", "verify", "analyze")
    }
    assert there
    assert there <= listed


@pytest.mark.parametrize("name", sorted(package_files()))
def test_the_installation_is_current(name: str) -> None:
    """Fails after a file was added or renamed: run `pip install -e .` again."""
    installed = Path(dumpconv.__file__).parent / name
    assert installed.is_file(), "run: pip install -e ."
    assert installed.read_bytes() == package_files()[name].read_bytes(), "run: pip install -e ."


def test_nothing_is_installed_that_is_no_longer_there() -> None:
    folder = Path(dumpconv.__file__).parent
    installed = {str(path.relative_to(folder)) for path in folder.rglob("*.py")}
    assert installed == set(package_files())


def test_types_are_shipped() -> None:
    assert (Path(dumpconv.__file__).parent / "py.typed").is_file()


@pytest.mark.parametrize("path", sorted(package_files().values()), ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_files_are_short_and_licensed(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= 600
    assert lines[0] == "# SPDX-License-Identifier: GPL-2.0-or-later"


@pytest.mark.parametrize("entry", FORMATS, ids=lambda entry: entry.name)
def test_a_reader_has_its_corpus_and_its_sheet(entry: Registration) -> None:
    assert entry.load().name == entry.name
    assert list((REPOSITORY / "corpus" / entry.name).glob("*.toml"))
    assert (REPOSITORY / "docs" / "formats" / f"{entry.name}.md").is_file()


def test_no_file_is_claimed_by_another_format() -> None:
    # a format that is a special case of another is asked before it: the first that claims a file must be its own
    for path in make_corpus.descriptions():
        if path.parent.name not in {entry.name for entry in FORMATS} - {"raw"}:  # raw memory may look like anything
            continue
        for name in tomllib.loads(path.read_text())["files"]:
            source = BytesSource((path.parent / name).read_bytes())
            claimed = [entry.name for entry in FORMATS if entry.probe(source)]
            assert claimed[:1] in ([path.parent.name], [])


@pytest.mark.parametrize("entry", FORMATS, ids=lambda entry: entry.name)
@pytest.mark.parametrize("size", range(9))
def test_a_probe_never_raises(entry: Registration, size: int) -> None:
    signatures = [signature for each in FORMATS for _, signature in each.signatures]
    for data in (bytes(size), b"\x7fELF\xff\xff\xff\xff", *signatures):
        assert entry.load().probe(BytesSource(data[:size])) in (True, False)


ERRORS = sorted(
    (each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, DumpError)),
    key=lambda each: each.__name__,
)


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_errors_cross_process_borders(kind: type[DumpError]) -> None:
    error = kind("what", path="file", offset=16, pfn=2, hint="do this")
    twin = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert type(twin) is kind
    assert str(twin) == str(error)
    assert (twin.message, twin.path, twin.offset, twin.pfn, twin.hint) == (
        error.message, error.path, error.offset, error.pfn, error.hint,
    )  # fmt: skip


# design, section 5
EXIT_CODES = {
    "CodecUnavailable": 6, "CorruptDump": 3, "CorruptStream": 3, "DumpError": 1, "FixityError": 5, "InputError": 1,
    "MissingPart": 1, "OutputError": 1, "PageDecodeError": 3, "TruncatedDump": 3, "TruncatedStream": 3,
    "UnknownFormat": 6, "UnknownMachine": 2, "UnsupportedDump": 6, "UsageError": 2,
}  # fmt: skip


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_exit_codes_are_the_tables(kind: type[DumpError]) -> None:
    assert kind.exit_code == EXIT_CODES[kind.__name__]


def test_a_message_says_what_where_and_what_to_do() -> None:
    error = errors.CorruptDump(
        "stored size 5123 > page size 4096", path="a.kdump", offset=0x1F3A010, pfn=0x3F2, hint="x"
    )
    assert str(error) == "a.kdump: stored size 5123 > page size 4096 (file offset 0x1f3a010, pfn 0x3f2); x"
