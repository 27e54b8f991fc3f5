# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may import whom: read from the syntax trees, function bodies included."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from dumpconv.formats import FORMATS

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("formats", "convert", "verify", "analyze")
SHARED = "verify/display"  # how reports look: of verify and of analyze
FILES = sorted(
    path
    for folder in (".", *PACKAGES, "analyze/commands", "analyze/vmlinux", SHARED)
    for path in (REPOSITORY / folder).glob("*.py")
    if path.name != "conftest.py"
)
COMMANDS = ("cli", "analyze/commands")  # where a user's words are parsed, beside the command.py of each part


def imports(path: Path) -> Iterator[str]:
    """Give what a file imports, with dots resolved: `dumpconv.formats.notes`, `numpy`."""
    inside = path.relative_to(REPOSITORY).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ["dumpconv", *inside][: len(inside) + 2 - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def part_of(path: Path) -> str:
    """Give the package a file is in; the root's files are their own."""
    inside = path.relative_to(REPOSITORY).parts
    return inside[0] if len(inside) > 1 else path.stem


def parts_used(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imports(path) if name.startswith("dumpconv.") and name.count(".")}


ALLOWED = {
    "formats": {"formats", "__version__"},
    "convert": {"convert", "formats", "__version__"},
    "verify": {"verify", "formats", "__version__"},
    "analyze": {"analyze", "formats", "__version__"},
}


def is_shared(module: str) -> bool:
    return f"{module}.".startswith(f"dumpconv.{SHARED.replace('/', '.')}.")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_direction(path: Path) -> None:
    part = part_of(path)
    if str(path.relative_to(REPOSITORY)) in ("verify/kernelcheck.py", "verify/kernelsearch.py"):
        assert parts_used(path) <= {"verify", "formats", "analyze"}
    elif path.is_relative_to(REPOSITORY / SHARED):
        assert parts_used(path) <= {"verify", "formats"}
        assert all(is_shared(name) for name in imports(path) if name.startswith("dumpconv.verify"))
    elif part == "analyze":
        used = {name for name in imports(path) if name.startswith("dumpconv.") and not is_shared(name)}
        assert {name.split(".")[1] for name in used} <= ALLOWED["analyze"]
    elif part in ALLOWED:
        assert parts_used(path) <= ALLOWED[part]
    elif part not in ("cli", "__main__"):
        assert "cli" not in parts_used(path)


FORMAT_MODULES = {f"dumpconv.formats.{entry.module}" for entry in FORMATS}


@pytest.mark.parametrize("module", sorted(FORMAT_MODULES))
def test_formats_do_not_import_one_another(module: str) -> None:
    """What two of them need is a module of its own: main_header, elfcore, segments."""
    path = REPOSITORY.joinpath(*module.split(".")[1:]).with_suffix(".py")
    assert not (set(imports(path)) & FORMAT_MODULES) - {module}


ONLY_IN = {
    "construct": ("formats", "convert"),
    "elftools": ("verify",),
    "drgn": ("analyze/through_drgn.py",),
    "tqdm": ("verify/display/meter.py",),
    "argparse": (
        "verify/run.py",
        *COMMANDS,
        "convert/command.py",
        "verify/command.py",
        "verify/verify_command.py",
        "verify/display/amounts.py",
        "analyze/command.py",
    ),
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_libraries_stay_where_they_belong(path: Path) -> None:
    name = str(path.relative_to(REPOSITORY))
    used = {module.split(".")[0] for module in imports(path)}
    for library, places in ONLY_IN.items():
        if library in used:
            assert part_of(path) in places or name in places or str(Path(name).parent) in places, library


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_only_the_command_line_prints_and_exits(path: Path) -> None:
    if part_of(path) in ("cli", "__main__"):
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("print", "exit", "quit", "sys.exit", "sys.stdout.write", "sys.stderr.write")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_no_place_of_this_machine_is_named(path: Path) -> None:
    text = path.read_text()
    assert str(REPOSITORY) not in text
    assert not [word for word in ("/home/", "/root/", "/work/", "/opt/") if word in text]


def test_tests_build_dumps_without_the_products_layouts() -> None:
    """A builder that shares a mistake with the reader proves nothing."""
    for path in sorted((REPOSITORY / "tests" / "support").glob("*.py")):
        if path.name == "product.py":
            continue
        used = {name for name in imports(path) if name.startswith(tuple(f"dumpconv.{part}" for part in PACKAGES))}
        assert not used, path.name
