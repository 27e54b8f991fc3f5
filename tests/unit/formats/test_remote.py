# SPDX-License-Identifier: GPL-2.0-or-later
"""Dumps at URLs: read by ranges from a server on loopback, by the commands as users call them."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import pickle
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("fsspec", reason="dumpconv[remote] is not installed")
pytest.importorskip("aiohttp", reason="dumpconv[remote] is not installed")

from dumpconv.formats import remote, schemes
from dumpconv.formats.errors import InputError
from dumpconv.formats.source import BytesSource
from dumpconv.formats.urls import Url, as_name
from support import notes, patterns
from support.build_kdump import KdumpSpec, build
from support.command import dumpconv, dumpverify, one_line, report
from support.range_server import Site, serve

SECRET = "geheim"  # noqa: S105


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dump of 3 MiB that does not compress."""
    path = tmp_path_factory.mktemp("dump") / "vmcore"
    pages = {16 + index: patterns.page(16 + index) for index in range(768)}
    build(KdumpSpec(pages=pages, notes=notes.machine_notes(cpus=1, text=notes.vmcoreinfo_text()))).write_to(path)
    return path


def secret_url(site: Site, path: str = "/d") -> str:
    return site.url.replace("//", f"//me:{SECRET}@") + f"{path}?token={SECRET}"


def clean(done: subprocess.CompletedProcess[bytes]) -> subprocess.CompletedProcess[bytes]:
    """Give what a program did, which showed no secret."""
    assert SECRET.encode() not in done.stdout + done.stderr
    return done


def guarded(dump: Path) -> dict[str, object]:
    return {"files": {"/d": dump.read_bytes()}, "password": base64.b64encode(f"me:{SECRET}".encode()).decode()}


# -- names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("full", "shown"),
    [
        ("https://u:p@host:8443/a/b?sig=x#y", "https://host:8443/a/b"),
        ("s3://bucket/a@b/c", "s3://bucket/a@b/c"),
        ("ssh://u@[::1]:22/x", "ssh://[::1]:22/x"),
        ("https://u:p/w@host/x", "https://(not a readable address)"),  # a slash that is not quoted ends the authority
        ("https://u:p?w@host/x", "https://(not a readable address)"),
    ],
)
def test_a_url_is_shown_without_what_may_be_secret(full: str, shown: str) -> None:
    url = Url(full)
    assert (url, url.full) == (shown, full)
    again = pickle.loads(pickle.dumps(url))  # noqa: S301
    assert (again, again.full) == (shown, full)


def test_messages_of_libraries_lose_secrets() -> None:
    url = Url("https://me:pass%20word@host/x?token=abc123")
    text = "no https://me:pass%20word@host/x?token=abc123 (user 'pass word', query token=abc123)"
    assert url.scrub(text) == "no https://host/x (user '...', query ...)"


def test_only_schemes_that_are_known_make_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(as_name("https://host/x"), Url)
    assert not isinstance(as_name("nosuchscheme://host/x"), Url)
    assert not isinstance(as_name("a/https://host/x"), Url)
    monkeypatch.chdir(tmp_path)
    Path("https:/host").mkdir(parents=True)
    Path("https:/host/x").touch()
    assert type(as_name("https://host/x")) is str  # a file here comes first


# -- the commands ------------------------------------------------------------------------------------------------


def test_commands_read_by_ranges_and_show_no_secret(dump: Path, tmp_path: Path) -> None:
    with serve(**guarded(dump)) as site:
        url = secret_url(site)
        facts = json.loads(clean(dumpconv("info", url, "--json")).stdout)
        local = report("info", dump)
        assert site.sent < dump.stat().st_size + (1 << 20)
        assert all(asked.startswith("bytes=") for _, asked in site.asked)
        assert facts["pages"] == local["pages"]
        assert clean(dumpconv(url, tmp_path / "a.elf", "--manifest-out", tmp_path / "m.json")).returncode == 0
        assert dumpconv(dump, tmp_path / "b.elf").returncode == 0
        assert (tmp_path / "a.elf").read_bytes() == (tmp_path / "b.elf").read_bytes()
        text = (tmp_path / "m.json").read_text()
        assert SECRET not in text
        assert hashlib.sha256(dump.read_bytes()).hexdigest() in text
        assert clean(dumpconv("compare", url, tmp_path / "a.elf")).returncode == 0


@pytest.mark.parametrize("form", ["text", "json", "premis"])
def test_dumpverify_reads_by_ranges_and_shows_no_secret(dump: Path, form: str, tmp_path: Path) -> None:
    with serve(**guarded(dump)) as site:
        done = clean(dumpverify("--report", form, "--html", tmp_path / "r.html", secret_url(site)))
        assert (done.returncode, done.stderr) == (0, b"")
        assert f"{site.url}/d".encode() in done.stdout
        assert SECRET not in (tmp_path / "r.html").read_text()


def test_a_server_without_ranges_is_spooled_and_that_is_said(dump: Path, tmp_path: Path) -> None:
    for more in ({"ranges": False}, {"sizes": False}):
        with serve(files={"/d": dump.read_bytes()}, **more) as site:
            done = dumpconv(f"{site.url}/d", tmp_path / "o.elf", "--force")
            assert (done.returncode, done.stderr) == (0, b""), done
            assert b"the server gives no ranges: read as a stream" in done.stdout
    assert dumpconv("compare", dump, tmp_path / "o.elf").returncode == 0


def test_a_packed_dump_at_a_url(dump: Path) -> None:
    with serve(files={"/d.gz": gzip.compress(dump.read_bytes(), 1)}) as site:
        assert report("info", f"{site.url}/d.gz")["pages"] == report("info", dump)["pages"]


def test_what_cannot_be_had_is_one_line(dump: Path, tmp_path: Path) -> None:
    with serve(**guarded(dump)) as site:
        done = clean(dumpconv("info", secret_url(site, "/nothing")))
        assert (done.returncode, one_line(done)) == (
            1,
            f"dumpconv: {site.url}/nothing: cannot open: HTTP status 404 Not Found",
        )
        done = dumpconv("info", f"{site.url}/d")
        assert (done.returncode, one_line(done)) == (
            1,
            f"dumpconv: {site.url}/d: cannot open: HTTP status 401 Unauthorized",
        )
        done = clean(dumpconv(dump, secret_url(site)))
        assert (done.returncode, one_line(done)) == (2, f"dumpconv: {site.url}/d: outputs are files, not URLs")
    done = clean(dumpconv("info", secret_url(site)))
    assert done.returncode == 1
    assert "cannot open: ClientConnector" in one_line(done)
    assert "(2 tries)" in one_line(done)
    done = clean(dumpverify(secret_url(site)))
    assert (done.returncode, b"E150" in done.stdout) == (1, True)


def test_urls_that_differ_in_what_is_not_shown_are_refused(dump: Path) -> None:
    """Digests and reports go by names: those of the second would stand for the first."""
    urls = [f"http://127.0.0.1:9/d?version={SECRET}{number}" for number in (1, 2)]
    for done in (dumpverify(*urls), dumpconv("compare", *urls)):
        assert "two URLs differ only in user, password or query" in one_line(clean(done))
        assert done.returncode == 2
    assert b"differ only" not in dumpverify(urls[0], urls[0]).stderr


def test_an_object_that_changes_is_told(dump: Path, tmp_path: Path) -> None:
    def change(number: int) -> None:
        if number == 1:
            data = site.files["/d"]
            site.files["/d"] = data[:-1] + bytes([data[-1] ^ 1])

    for command in (dumpconv, dumpverify):
        with serve(files={"/d": dump.read_bytes()}, after=change) as site:
            out = [tmp_path / "o"] if command is dumpconv else []
            done = command(f"{site.url}/d", *out)
            assert done.returncode == 1, done
            assert b"changed while it was read: ETag" in done.stdout + done.stderr
            assert not (tmp_path / "o").exists()


# -- the source --------------------------------------------------------------------------------------------------


@pytest.fixture
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_DELAYS", (0.0,) * 4)
    monkeypatch.setattr(schemes, "note_threads", lambda: None)  # other tests of this process fork


DATA = b"".join(hashlib.sha512(number.to_bytes(4)).digest() for number in range(50_000))  # 3.05 MiB


def opened(site: Site) -> remote.RemoteSource:
    source = remote.open_remote(Url(f"{site.url}/d"))
    assert isinstance(source, remote.RemoteSource)
    return source


def test_reads_at_any_place_and_past_the_end(no_wait: None) -> None:
    with serve(files={"/d": DATA}) as site:
        source, plain = opened(site), BytesSource(DATA)
        for offset, size in ((0, 10), ((1 << 20) - 5, 10), (len(DATA) - 3, 3), (7, len(DATA) - 7), (1 << 20, 1 << 20)):
            assert source.pread(offset, size) == plain.pread(offset, size)
        view = memoryview(bytearray(8))
        assert source.pread_into(view, len(DATA) - 3) == 3
        assert source.pread_into(view, len(DATA) + 3) == 0


def test_what_is_kept_is_bounded_and_reads_ahead(no_wait: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_BLOCK", 1 << 14)
    with serve(files={"/d": DATA}) as site:
        source, size = opened(site), 1000
        parts = [source.pread(at, min(size, len(DATA) - at)) for at in range(0, len(DATA), size)]
        assert b"".join(parts) == DATA
        assert len(source._kept) == 32
        assert len(site.asked) < len(DATA) / (8 << 14) + 10  # 8 blocks a request
        assert site.sent < len(DATA) + (1 << 16)


def test_failures_are_tried_again(no_wait: None) -> None:
    for status in (503, 429, -1):
        with serve(files={"/d": DATA}, fail=lambda number, status=status: status if number % 3 else 0) as site:
            assert opened(site).pread(0, len(DATA)) == DATA


def test_there_is_a_limit(no_wait: None) -> None:
    for status, tries in ((500, 5), (403, 1)):
        with serve(files={"/d": DATA}, fail=lambda number, status=status: status if number else 0) as site:
            source = opened(site)
            with pytest.raises(InputError, match=f"HTTP status {status}") as caught:
                source.pread(0, 10)
            assert (caught.value.path, caught.value.offset, caught.value.exit_code) == (f"{site.url}/d", 0, 1)
            assert len(site.asked) == 1 + tries


def unpickled(data: bytes) -> remote.RemoteSource:
    return pickle.loads(data)  # type: ignore[no-any-return]  # noqa: S301


def test_another_process_sees_that_it_is_not_the_same(no_wait: None) -> None:
    with serve(files={"/d": DATA}) as site:
        pickled = pickle.dumps(opened(site))
        assert unpickled(pickled).pread(5, 5) == DATA[5:10]
        site.files["/d"] = DATA[::-1]
        with pytest.raises(InputError, match="changed while it was read: ETag"):
            unpickled(pickled).pread(5, 5)
        del site.files["/d"]
        with pytest.raises(InputError, match="gone since it was opened"):
            unpickled(pickled).pread(5, 5)


def test_a_server_that_stops_giving_ranges_is_refused(no_wait: None) -> None:
    with serve(files={"/d": DATA}) as site:
        source = opened(site)
        site.ranges = False
        with pytest.raises(InputError, match="gives no ranges any more"):
            source.pread(2 << 20, 10)


@pytest.mark.parametrize("sizes", [True, False])
def test_a_server_that_sends_more_than_was_asked_for_is_not_read(no_wait: None, sizes: bool) -> None:
    with serve(files={"/d": DATA}) as site:
        source = opened(site)
        assert source.pread(5, 5) == DATA[5:10]
        site.more, site.sizes = 1 << 28, sizes
        came = f"{(1 << 28) + (1 << 20)} would come" if sizes else "more came"
        with pytest.raises(InputError, match=f"a range of {1 << 20} bytes was asked for, {came}"):
            source.pread(2 << 20, 10)
        assert site.sent < 1 << 28


def test_the_state_knows_objects_by_url_and_version(dump: Path, tmp_path: Path) -> None:
    """No secret is in it; an object is skipped as long as its server says that it is the one that was checked."""
    state = tmp_path / "state"

    def checked(*words: str, code: int = 0) -> int:
        done = clean(dumpverify("--json", "--state", state, "--max-age", "90d", *words))
        assert (done.returncode, done.stderr) == (code, b""), done
        assert SECRET not in state.read_text()
        return len(json.loads(done.stdout)["dumps"])

    with serve(**guarded(dump)) as site:
        assert checked(secret_url(site)) == 1
        entry = json.loads(state.read_text().splitlines()[-1])
        assert entry["path"] == f"{site.url}/d" and entry["size"] == dump.stat().st_size and entry["version"]["ETag"]
        before = site.sent
        assert checked(secret_url(site)) == 0
        assert site.sent == before  # its headers told
        assert checked(secret_url(site) + "&again=1") == 0
        site.tags = "b"  # another object of that length
        assert checked(secret_url(site)) == 1
        assert checked(secret_url(site)) == 0
        site.files.clear()
        assert checked(secret_url(site), code=1) == 1
        site.files["/d"] = dump.read_bytes()
        assert checked(secret_url(site)) == 1
        site.tags = None  # nothing tells it from another of that length
        for _ in range(2):
            assert checked(secret_url(site)) == 1
