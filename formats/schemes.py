# SPDX-License-Identifier: GPL-2.0-or-later
"""From a URL to fsspec's file system of it, with what is not left to its defaults: times, and who is believed."""

from __future__ import annotations

import re
from typing import Any

from .errors import InputError
from .executor import note_threads
from .http_range import STALL_SECONDS, Refused
from .urls import Url

__all__ = ["is_http", "open_system"]

_READY = re.compile(r"(?:[!-$&-~]|%[0-9A-Fa-f]{2})*")  # a URL as it goes over the wire
_BUFFER = 1 << 20  # bytes that wait in the reader of a socket
_CONNECT_SECONDS = 30


def is_http(url: Url) -> bool:
    """Whether it is an object of a web server."""
    return url.scheme in ("http", "https")


def open_system(url: Url) -> tuple[Any, str]:
    """Return the file system of a URL, and the path in it.

    Raises:
        InputError: A library is not here.
        Exception: Of fsspec, and of the library behind the scheme.
    """
    try:
        from fsspec.config import apply_config
        from fsspec.registry import get_filesystem_class
    except ImportError as error:
        raise InputError(
            "URLs are read through fsspec, which is not here", path=url, hint="install dumpconv[remote]"
        ) from error
    note_threads()  # of fsspec, for its requests
    try:
        kind = get_filesystem_class(url.scheme)
    except ImportError as error:
        extra = {"ssh": "ssh", "sftp": "ssh", "s3": "s3", "s3a": "s3"}.get(url.scheme)
        if extra is None:
            raise
        raise InputError(
            f"{url.scheme} is read through {extra}fs, which is not here", path=url, hint=f"install dumpconv[{extra}]"
        ) from error
    theirs = dict(apply_config(kind, {}))
    if is_http(url):
        options = _http(url, theirs)
    elif url.scheme in ("ssh", "sftp"):
        options = _ssh(url, kind, theirs)
    else:
        options = {}
    # not by url_to_fs, to which each :: begins another URL: those of IPv6 addresses, and in names
    system = kind(**{**kind._get_kwargs_from_urls(url.full), **options})
    return system, kind._strip_protocol(url.full)


def _http(url: Url, theirs: dict[str, Any]) -> dict[str, Any]:
    import aiohttp

    client = {
        "timeout": aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=STALL_SECONDS),
        "trust_env": True,  # proxies, and ~/.netrc
        "read_bufsize": _BUFFER,
        **theirs.get("client_kwargs", {}),
    }
    checks = aiohttp.TraceConfig()
    checks.on_request_redirect.append(_check_redirect)
    client["trace_configs"] = [*client.get("trace_configs", ()), checks]
    client["auto_decompress"] = False  # what is stored is what is read: nothing is unpacked behind our back
    headers = {**theirs.get("headers", {}), "Accept-Encoding": "identity"}
    ready = _READY.fullmatch(url.full) is not None  # then nothing of it is quoted otherwise: a signature may be over it
    return {"client_kwargs": client, "headers": headers, "encoded": ready}


async def _check_redirect(session: object, context: object, params: Any) -> None:
    place = params.response.headers.get("Location", "").strip()
    if params.url.scheme == "https" and place.lower().startswith("http:"):
        raise Refused(f"the server redirects from https to {place} where anybody on the way could change the bytes")


def _ssh(url: Url, kind: type, theirs: dict[str, Any]) -> dict[str, Any]:
    # fsspec's own, over paramiko, believes every server and reads a tenth as fast
    if not kind.__module__.startswith("sshfs"):
        raise InputError(
            f"{url.scheme} is read through sshfs, which is not here", path=url, hint="install dumpconv[ssh]"
        )
    ours = {
        "known_hosts": (),  # ~/.ssh/known_hosts, or as ~/.ssh/config says; sshfs would believe every server
        "connect_timeout": _CONNECT_SECONDS,
        "login_timeout": _CONNECT_SECONDS,
        "keepalive_interval": STALL_SECONDS / 4,
        "keepalive_count_max": 4,
    }
    return {key: value for key, value in ours.items() if key not in theirs}
