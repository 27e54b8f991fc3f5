# SPDX-License-Identifier: GPL-2.0-or-later
"""Web servers that answer otherwise than they were asked: each is told with both values, none is believed."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import re
import zlib
from collections.abc import Iterable, Iterator

import pytest

pytest.importorskip("fsspec", reason="dumpconv[remote] is not installed")
pytest.importorskip("aiohttp", reason="dumpconv[remote] is not installed")

from dumpconv.formats import http_range, remote, schemes
from dumpconv.formats.errors import InputError
from dumpconv.formats.urls import Url
from support.range_server import Site, serve

DATA = b"".join(hashlib.sha512(number.to_bytes(4)).digest() for number in range(40_000))  # 2.44 MiB
SIZE = len(DATA)
BLOCK = 1 << 20
TAG = f'"{hashlib.sha256(DATA).hexdigest()[:16]}"'


@pytest.fixture(autouse=True)
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_DELAYS", (0.0,) * 4)
    monkeypatch.setattr(schemes, "note_threads", lambda: None)  # other tests of this process fork


def head(status: str, **fields: object) -> bytes:
    lines = [f"HTTP/1.1 {status}", *(f"{name.replace('_', '-')}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode()


def opened(site: Site) -> remote.RemoteSource:
    source = remote.open_remote(Url(f"{site.url}/d"))
    assert isinstance(source, remote.RemoteSource)
    return source


def refused(answer: Iterable[bytes], match: str, *, tries: int | None = 1, offset: int = BLOCK) -> None:
    """Open what is served well, then get this answer to the second block."""
    with serve(files={"/d": DATA}) as site:
        source = opened(site)
        before = len(site.asked)
        answers = itertools.repeat(answer) if isinstance(answer, list) else iter([answer])
        site.raw = lambda method, asked: next(answers) if method == "GET" else None
        with pytest.raises(InputError, match=match) as caught:
            source.pread(BLOCK, 10)
        assert (caught.value.path, caught.value.offset, caught.value.exit_code) == (f"{site.url}/d", offset, 1)
        assert tries is None or len(site.asked) == before + tries


def endless(part: bytes) -> Iterator[bytes]:
    for _ in range(1 << 16):
        yield part


WANTED = f"bytes {BLOCK}-{2 * BLOCK - 1}/{SIZE}"
ASKED = re.escape(WANTED)


@pytest.mark.parametrize(
    ("status", "fields", "match"),
    [
        ("206 x", {}, f"{ASKED} were asked for, Content-Range '' came"),
        ("206 x", {"Content_Range": f"bytes 0-{BLOCK - 1}/{SIZE}"}, f"{ASKED} were asked for, Content-Range 'bytes 0-"),
        ("206 x", {"Content_Range": f"bytes {BLOCK}-{BLOCK}/{SIZE}"}, "Content-Range 'bytes 1048576-1048576/"),
        ("206 x", {"Content_Range": f"bytes {BLOCK}-{2 * BLOCK - 1}"}, f"{ASKED} were asked for, Content-Range"),
        ("206 x", {"Content_Range": "bytes " + "9" * 5000}, f"{ASKED} were asked for, Content-Range"),
        (
            "206 x",
            {"Content_Range": f"bytes {BLOCK}-{2 * BLOCK - 1}/{SIZE + 1}"},
            f"changed while it was read: {SIZE} bytes then, {SIZE + 1} now",
        ),
        ("206 x", {"Content_Range": WANTED, "ETag": '"b"'}, f'changed while it was read: ETag {TAG} then, "b" now'),
        ("206 x", {"Content_Range": WANTED, "Content_Encoding": "gzip"}, r"\(identity\), Content-Encoding 'gzip' came"),
        (
            "206 x",
            {"Content_Type": "multipart/byteranges; boundary=x", "Content_Length": 9},
            "one range was asked for, 'multipart/byteranges; boundary=x' came",
        ),
        ("416 x", {"Content_Range": "bytes */7"}, rf"of {SIZE} were asked for, and .* \(HTTP status 416, 'bytes \*/7'"),
        ("200 x", {"Content_Length": SIZE}, "bytes 1048576-2097151 were asked for, and all of it would come"),
        ("204 x", {}, "were asked for, HTTP status 204 came"),
        ("304 x", {}, "were asked for, HTTP status 304 came"),
        ("206 x", {"Content_Range": WANTED, "Content_Length": BLOCK - 1}, f"of {BLOCK} bytes .*, {BLOCK - 1} would"),
    ],
)
def test_another_answer_than_the_one_asked_for(status: str, fields: dict[str, object], match: str) -> None:
    refused([head(status, **fields)], match)


def test_a_body_without_length_is_taken_as_far_as_it_was_asked_for() -> None:
    """In chunks, or up to the end of the connection."""
    part = DATA[BLOCK : 2 * BLOCK]
    for fields, cut in (({"Transfer_Encoding": "chunked"}, True), ({}, False)):
        body = b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in (part[:9], part[9:], b"")) if cut else part
        with serve(files={"/d": DATA}) as site:
            source = opened(site)
            site.raw = lambda *_, fields=fields, body=body: [head("206 x", Content_Range=WANTED, **fields), body]
            assert source.pread(BLOCK, BLOCK) == part
        more = [head("206 x", Content_Range=WANTED, **fields)]
        more.append(b"%x\r\n" % (1 << 40) if cut else b"")
        refused(itertools.chain(more, endless(bytes(1 << 16))), f"a range of {BLOCK} bytes was asked for, more came")


def test_what_would_unpack_to_a_thousandfold_is_not_unpacked() -> None:
    """A range is refused by its head; the whole object is what is stored, and a packed dump like any other."""
    packed = gzip.compress(bytes(32 << 20), 9)
    coded = head("206 x", Content_Range=WANTED, Content_Encoding="gzip", Content_Length=BLOCK)
    refused(itertools.chain([coded], endless(packed)), "Content-Encoding 'gzip' came")
    with serve(files={"/d": DATA}) as site:
        site.raw = lambda *_: [head("200 x", Content_Encoding="gzip", Content_Length=len(packed)), packed]
        whole = remote.open_remote(Url(f"{site.url}/d"))
        assert isinstance(whole, remote.WholeReader)
        stored = b"".join(iter(lambda: whole.read(1 << 20), b""))
        assert (stored, len(zlib.decompress(stored, 31))) == (packed, 32 << 20)


def test_a_server_that_hangs_up_early_is_asked_again() -> None:
    for fields in ({"Content_Length": BLOCK}, {}):
        answer = [head("206 x", Content_Range=WANTED, **fields), DATA[BLOCK : BLOCK + 1000]]
        refused(answer, r"\(5 tries\)", tries=5)
    refused([b""], r"ServerDisconnectedError: Server disconnected \(5 tries\)", tries=None)  # aiohttp tries, too


def test_garbage_for_http_and_heads_without_end() -> None:
    refused([b"\x7fELF" * 1000], r"the answer is not HTTP: Bad status line: Expected HTTP/.{1,250} .file offset")
    many = (b"X-%d: 1\r\n" % number for number in itertools.count())
    refused(itertools.chain([b"HTTP/1.1 206 x\r\n"], itertools.islice(many, 1 << 20)), "the answer is not HTTP: ")


def test_bytes_that_trickle_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that sends something now and then holds off every limit on how long nothing may come."""
    monkeypatch.setattr(http_range, "STALL_SECONDS", 0.0)
    parts = [head("206 x", Content_Range=WANTED, Content_Length=BLOCK), *(b"x" for _ in range(9))]
    refused(parts, r"\d bytes came in 0 seconds \(5 tries\)", tries=5)


def test_a_server_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schemes, "STALL_SECONDS", 0.05)
    with serve(files={"/d": DATA}) as site:
        source = opened(site)
        served = iter(())

        def silent(method: str, asked: str) -> Iterable[bytes]:
            yield head("206 x", Content_Range=WANTED, Content_Length=BLOCK)
            while not over:
                yield from served

        over: list[bool] = []
        site.raw = silent
        with pytest.raises(InputError, match=r"Timeout on reading data from socket \(5 tries\)"):
            source.pread(BLOCK, 10)
        over.append(True)


# -- redirects ---------------------------------------------------------------------------------------------------


def test_a_redirect_without_end() -> None:
    with serve(files={"/d": DATA}) as site:
        site.raw = lambda *_: [head("302 x", Location="/d?token=geheim")]
        with pytest.raises(InputError, match="cannot open: redirects, and those redirect again") as caught:
            remote.open_remote(Url(f"{site.url}/d"))
        assert "geheim" not in str(caught.value)


def test_a_redirect_to_another_server_is_followed_and_takes_no_password_along() -> None:
    with serve(files={"/elsewhere": DATA}) as other, serve(files={"/d": DATA}) as site:
        site.raw = lambda *_: [head("302 x", Location=f"{other.url}/elsewhere?sig=x", Content_Length=0)]
        url = Url(site.url.replace("//", "//me:geheim@") + "/d")
        source = remote.open_remote(url)
        assert isinstance(source, remote.RemoteSource)
        assert source.pread(BLOCK, 10) == DATA[BLOCK : BLOCK + 10]
        assert not any(other.authorized)


def test_a_redirect_to_another_scheme_than_http() -> None:
    with serve(files={"/d": DATA}) as site:
        site.raw = lambda *_: [head("302 x", Location="file:///etc/passwd", Content_Length=0)]
        with pytest.raises(InputError, match="cannot open: NonHttpUrlRedirectClientError"):
            remote.open_remote(Url(f"{site.url}/d"))


# -- sizes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1 << 63, 10**18, 1 << 80])
def test_sizes_that_cannot_be(size: int) -> None:
    with serve(files={"/d": DATA}) as site:
        site.raw = lambda method, asked: None if asked else [head("200 x", Content_Length=size)]
        with pytest.raises(
            InputError, match=f"says that it has {size}|/{size} were asked for|is not HTTP: Content-Length"
        ):
            remote.open_remote(Url(f"{site.url}/d"))


def test_a_server_that_refuses_head_is_asked_by_get() -> None:
    """A signature is over the method too: signed URLs are good for GET."""
    with serve(files={"/d": DATA}) as site:
        site.raw = lambda method, _: [head("403 x", Content_Length=0)] if method == "HEAD" else None
        assert opened(site).pread(BLOCK, 10) == DATA[BLOCK : BLOCK + 10]
