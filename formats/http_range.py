# SPDX-License-Identifier: GPL-2.0-or-later
"""One range of an object on a web server: asked for over fsspec's session, every claim of the answer checked.

fsspec's own file of http takes what comes for the range that was asked for. Ranges: RFC 9110, section 14.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

from .errors import InputError

__all__ = ["STALL_SECONDS", "NoRanges", "Refused", "Slow", "check_answer", "get_range"]

_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)", re.ASCII)
# A request that gets less than this in such a time is given up; one that gets nothing, too.
STALL_SECONDS = 60.0
_STALL_BYTES = 64 << 10


class NoRanges(Exception):
    """The server gives the whole object or nothing."""


class Refused(Exception):
    """The server's answer is no answer to what was asked: both are told. It will not be another the next time."""


class Slow(TimeoutError):
    """Bytes come, but next to none."""


def check_answer(status: int, headers: Mapping[str, str], low: int, size: int, of: int, tag: str | None) -> None:
    """Hold the head of an answer against the request for `size` bytes at `low` of an object of `of` bytes.

    Raises:
        NoRanges: It is the whole object.
        Refused: It is something else.
        InputError: The object is another one than it was.
    """
    if status == 200:
        raise NoRanges
    high = low + size - 1
    came = headers.get("Content-Range", "")
    if status == 416:
        raise Refused(f"bytes {low}-{high} of {of} were asked for, and there are none (HTTP status 416, {came!r})")
    if status != 206:
        raise Refused(f"bytes {low}-{high} were asked for, HTTP status {status} came")
    coding = headers.get("Content-Encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise Refused(f"bytes as they are stored were asked for (identity), Content-Encoding {coding!r} came")
    kind = headers.get("Content-Type", "")
    if kind.strip().lower().startswith("multipart/"):
        raise Refused(f"one range was asked for, {kind!r} came")
    found = _CONTENT_RANGE.fullmatch(came.strip())
    if found is None or (int(found[1]), int(found[2])) != (low, high):
        raise Refused(f"bytes {low}-{high}/{of} were asked for, Content-Range {came!r} came")
    if found[3] not in ("*", str(of)):
        raise InputError(f"changed while it was read: {of} bytes then, {found[3]} now")
    now = headers.get("ETag")
    if None not in (tag, now) and tag != now:
        raise InputError(f"changed while it was read: ETag {tag} then, {now} now")
    length = headers.get("Content-Length")
    if length is not None and length.strip() != str(size):
        raise Refused(f"a range of {size} bytes was asked for, {length} would come")


async def get_range(system: Any, url: str, low: int, size: int, of: int, tag: str | None) -> bytearray:
    """Return a range of an object.

    Args:
        system: fsspec's http file system.
        url: The object's.
        low: First byte.
        size: Bytes, at least one; no more are held.
        of: Bytes of the object, as it is known.
        tag: Its ETag, as far as it is known.

    Raises:
        NoRanges, Refused, InputError: See `check_answer`.
        Slow: It was given up.
        Exception: Of aiohttp.
    """
    session = await system.set_session()
    more = {**system.kwargs, "headers": {**system.kwargs.get("headers", {}), "Range": f"bytes={low}-{low + size - 1}"}}
    async with session.get(system.encode_url(url), **more) as answer:
        if answer.status >= 400 and answer.status != 416:
            answer.raise_for_status()
        check_answer(answer.status, answer.headers, low, size, of, tag)
        body, done = bytearray(size), 0
        since, then = time.monotonic(), 0
        async for part in answer.content.iter_any():  # without a length the body ends with its last chunk, or here
            if len(part) > size - done:
                raise Refused(f"a range of {size} bytes was asked for, more came")
            body[done : done + len(part)] = part
            done += len(part)
            if time.monotonic() - since > STALL_SECONDS:
                if done - then < _STALL_BYTES and done < size:
                    raise Slow(f"{done - then} bytes came in {STALL_SECONDS:.0f} seconds")
                since, then = time.monotonic(), done
        if done < size:
            raise OSError(f"{done} bytes came")
        return body
