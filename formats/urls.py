# SPDX-License-Identifier: GPL-2.0-or-later
"""Names that are URLs: which are, and how they are shown without what is secret in them. Light."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote

__all__ = ["Url", "as_name"]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_PARTS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(?:([^/?#]*)@)?([^/?#]*)([^?#]*)(?:\?([^#]*))?", re.S)
_HOST = re.compile(r"(\[[0-9A-Fa-f:.%]*\]|[^:@\[\]]*)(:[0-9]*)?")
_INSIDE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"]+")


class Url(str):
    """A URL as it is shown and compared: without user, password, query and fragment.

    Attributes:
        full: All of it, for those who open it; never shown.
    """

    __slots__ = ("full",)
    full: str

    def __new__(cls, full: str) -> Url:
        """Make one from all of it."""
        self = super().__new__(cls, _shown(full))
        self.full = full
        return self

    def __reduce__(self) -> tuple[object, ...]:
        return Url, (self.full,)

    @property
    def scheme(self) -> str:
        """What comes before `://`, in small letters."""
        return self.partition("://")[0].lower()

    def scrub(self, text: str) -> str:
        """Return the message of a library without any URL's secrets, nor this one's on their own."""
        text = _INSIDE.sub(lambda found: _shown(found[0]), text)
        found = _PARTS.match(self.full)
        user, query = (found[2] or "", found[5] or "") if found is not None else ("", "")
        secrets = {user, user.partition(":")[2], query, *(each.partition("=")[2] for each in query.split("&"))}
        for secret in sorted(secrets | {unquote(each) for each in secrets}, key=len, reverse=True):
            if len(secret) > 2:
                text = text.replace(secret, "...")
        return text


def _shown(full: str) -> str:
    found = _PARTS.match(full)
    if found is None:
        return full
    # a password with a / or ? in it, unquoted, is taken for host, port and path: then nothing is shown
    place = f"{found[3]}{found[4]}" if _HOST.fullmatch(found[3]) else "(not a readable address)"
    return f"{found[1]}://{place}"


def as_name(text: str) -> str:
    """Return a name that a user gave: a `Url` where it has a scheme that fsspec knows, and no such file is here.

    Without fsspec any scheme will do, and opening it tells what to install.
    """
    found = _SCHEME.match(text)
    if isinstance(text, Url) or found is None or os.path.lexists(text):
        return text
    try:
        import fsspec
    except ImportError:
        return Url(text)
    return Url(text) if found[1].lower() in fsspec.available_protocols() else text
