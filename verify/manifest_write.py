# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes manifests: ours as JSON, sha256sum's form, the tag files of a BagIt bag (docs/manifest.md)."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from .. import __version__
from ..formats.digest import LEAF_PFNS
from ..formats.errors import OutputError, UsageError
from ..formats.filedigest import digest_file
from .manifest import SCHEMA

__all__ = ["Recorded", "check_target", "form_of", "write_manifest", "write_text"]

_SUMS = {
    ".md5": "md5",
    ".sha1": "sha1",
    ".sha224": "sha224",
    ".sha256": "sha256",
    ".sha384": "sha384",
    ".sha512": "sha512",
    ".b2": "blake2b",
    ".b3": "blake3",
}
_BAG_KINDS = ("sha512", "sha256", "sha1", "md5")  # what other readers of bags know


class Recorded(NamedTuple):
    """What is known of one dump (or other file) that was read.

    Attributes:
        files: (path, size, digests by algorithm).
        facts: Fields of our JSON: format, content_digest and so on; empty for what is no dump.
    """

    files: list[tuple[str, int, dict[str, str]]]
    facts: dict[str, Any]


def form_of(path: str) -> str:
    """Return `bagit`, `json`, or the algorithm of a sums file, by the name."""
    if os.path.basename(path) == "bagit.txt":
        return "bagit"
    return _SUMS.get(os.path.splitext(path)[1].lower(), "json")


def check_target(path: str, *, force: bool) -> None:
    """Refuse a name that cannot or must not be written.

    Raises:
        UsageError: It exists, or is not where a bag can be.
    """
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise UsageError("no such directory", path=folder)
    if form_of(path) == "bagit" and not os.path.isdir(os.path.join(folder, "data")):
        raise UsageError("a bag has its files in a directory `data` beside bagit.txt", path=path)
    if os.path.lexists(path) and not force:
        raise UsageError("the file exists", path=path, hint="--force replaces it")


def write_text(path: str, text: str) -> None:
    """Write a small file; it appears under its name only when it is whole.

    Raises:
        OutputError: It cannot be written.
    """
    temporary = f"{path}.incomplete"
    try:
        try:
            if os.path.lexists(temporary):
                os.unlink(temporary)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(temporary, flags, 0o666), "wb") as file:
                file.write(os.fsencode(text))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            if os.path.lexists(temporary):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise OutputError(f"cannot write: {error.strerror}", path=path) from error


def write_manifest(path: str, dumps: Sequence[Recorded]) -> None:
    """Write what was recorded, in the form that the name asks for.

    Raises:
        OutputError: It cannot be written.
        UsageError: A bag with a file outside its `data`, or without an algorithm that bags have.
    """
    form = form_of(path)
    folder = os.path.dirname(os.path.abspath(path))
    if form == "bagit":
        _write_bag(folder, dumps)
    elif form == "json":
        write_text(path, _ours(folder, dumps))
    else:
        files = [(os.path.relpath(name, folder), digests[form]) for each in dumps for name, _, digests in each.files]
        write_text(path, "".join(_gnu(name, value) for name, value in files))


def _gnu(name: str, value: str) -> str:
    # coreutils: a leading backslash where the name has characters that need one
    escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    mark = "\\" if escaped != name else ""
    return f"{mark}{value}  {escaped}\n"


def _ours(folder: str, dumps: Iterable[Recorded]) -> str:
    rows = []
    for each in dumps:
        files = [
            {"path": os.path.relpath(name, folder) if os.path.exists(name) else name, "size": size, "digests": digests}
            for name, size, digests in each.files
        ]
        rows.append({"files": files, **each.facts})
    head = {
        "schema": SCHEMA,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "program": f"dumpconv {__version__}",
        "leaf_pfns": LEAF_PFNS,
        "dumps": rows,
    }
    return json.dumps(head, indent=1) + "\n"


def _write_bag(folder: str, dumps: Sequence[Recorded]) -> None:
    # Source: RFC 8493, sections 2.1 and 2.2.
    found, size, kinds = _payload(folder, dumps)
    for name in os.listdir(folder):  # manifests of an earlier run would be wrong by now
        if re.match(r"(tag)?manifest-[a-z0-9]+\.txt\Z", name):
            os.unlink(os.path.join(folder, name))
    tags = {
        "bagit.txt": "BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n",
        "bag-info.txt": f"Bag-Software-Agent: dumpconv {__version__}\n"
        f"Bagging-Date: {time.strftime('%Y-%m-%d', time.gmtime())}\nPayload-Oxum: {size}.{len(found)}\n",
    }
    for kind in kinds:
        lines = (f"{found[name][kind]}  {_bag_name(name)}\n" for name in sorted(found))
        tags[f"manifest-{kind}.txt"] = "".join(lines)
    for name, text in tags.items():
        write_text(os.path.join(folder, name), text)
    for kind in kinds:
        lines = (f"{digest_file(os.path.join(folder, name), [kind])[1][kind]}  {name}\n" for name in sorted(tags))
        write_text(os.path.join(folder, f"tagmanifest-{kind}.txt"), "".join(lines))


def _payload(folder: str, dumps: Sequence[Recorded]) -> tuple[dict[str, dict[str, str]], int, list[str]]:
    # digests of all files of data/ by their name in the bag, their bytes together, and the algorithms that bags have
    data = os.path.join(folder, "data")
    found: dict[str, dict[str, str]] = {}
    size = 0
    for name, nr_bytes, digests in (file for each in dumps for file in each.files):
        inside = os.path.relpath(os.path.realpath(name), os.path.realpath(folder))
        if not inside.startswith("data" + os.sep):
            raise UsageError(f"is not in the bag's {data}", path=name)
        found[inside] = digests
        size += nr_bytes
    kinds = [kind for kind in _BAG_KINDS if all(kind in each for each in found.values())]
    if not kinds or not found:
        raise UsageError("a bag needs files, and one of the algorithms sha512, sha256, sha1, md5", path=folder)
    for place, _, names in os.walk(data):
        for name in names:
            inside = os.path.relpath(os.path.join(place, name), folder)
            if inside not in found:  # in no PATH: a bag lists all
                nr_bytes, found[inside] = digest_file(os.path.join(place, name), kinds)
                size += nr_bytes
    return found, size, kinds


def _bag_name(name: str) -> str:
    # RFC 8493 would have each % written as %25; bagit.py and sha256sum take that for another name. So only where a
    # name would be read as another otherwise.
    name = re.sub("%(?=0[aAdD]|25)", "%25", name)
    return name.replace("\n", "%0A").replace("\r", "%0D")
