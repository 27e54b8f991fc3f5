# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures and settings for all tests: hypothesis profiles, real dumps, tools that may be missing."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("default", deadline=None, max_examples=50)
settings.register_profile(
    "ci",
    deadline=None,
    max_examples=100,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "nightly",
    deadline=None,
    max_examples=2000,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

# Programs under test inherit what is ignored here: by nohup, or by a shell that runs us in the background.
for _signal, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_signal) == signal.SIG_IGN:
        signal.signal(_signal, _handler)

REPOSITORY = Path(__file__).resolve().parent.parent
CRASH_CACHE = "DUMPCONV_TESTS_CRASH_CACHE"  # the name that support.oracle_tools knows


def pytest_configure(config: pytest.Config) -> None:
    """Say where the copy of the kernel with gdb's index lies that all crash runs share; workers inherit it."""
    if not hasattr(config, "workerinput") and CRASH_CACHE not in os.environ:
        os.environ[CRASH_CACHE] = folder = tempfile.mkdtemp(prefix="dumpconv-tests-")
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


def _missing(what: str) -> NoReturn:
    """Skip, or fail where DUMPCONV_FORBID_SKIP says that everything must be there."""
    if os.environ.get("DUMPCONV_FORBID_SKIP"):
        pytest.fail(f"{what} is missing and DUMPCONV_FORBID_SKIP is set")
    pytest.skip(f"{what} is missing")


@pytest.fixture(scope="session")
def need() -> Callable[..., None]:
    """Give a function that skips the test visibly unless all named programs are installed."""

    def check(*programs: str) -> None:
        for program in programs:
            if program == "libkdumpfile":
                from support.oracles import has_libkdumpfile

                found = has_libkdumpfile()
            else:
                found = shutil.which(program) is not None
            if not found:
                _missing(program)

    return check


@pytest.fixture(scope="session")
def real_dir() -> Path:
    """Give the directory of real dumps: DUMPCONV_REAL, else ../shared/real beside the repository."""
    directory = Path(os.environ.get("DUMPCONV_REAL", REPOSITORY.parent / "shared" / "real"))
    if not directory.is_dir():
        _missing(f"directory of real dumps {directory} (DUMPCONV_REAL)")
    return directory


@pytest.fixture(scope="session")
def corpus_dir() -> Path:
    """Give the directory of the small dumps, one per hazard."""
    return REPOSITORY / "corpus"


@pytest.fixture(scope="session")
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        _missing("Chromium")
    return found
