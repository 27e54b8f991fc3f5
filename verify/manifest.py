# SPDX-License-Identifier: GPL-2.0-or-later
"""Manifests as `--manifest` reads them: ours, those of sha256sum and its sisters, BagIt bags (docs/manifest.md).

BagIt is read here, not by the `bagit` library: that one reads every file once more, and follows no page of a dump.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..formats.errors import CorruptDump, InputError, UsageError
from ..formats.filedigest import ALGORITHMS

__all__ = ["SCHEMA", "Entry", "Manifest", "Memory", "read_manifest"]

SCHEMA = "dumpconv.manifest/1"
_MAX_SIZE = 1 << 30
_HEX = re.compile(r"[0-9a-fA-F]+\Z")
_GNU = re.compile(r"(\\?)([0-9a-fA-F]{32,128}) [ *](.+)\Z")
_TAGGED = re.compile(r"(\\?)([A-Za-z0-9-]+) ?\((.+)\) ?= ([0-9a-fA-F]{32,128})\Z")
_TAGS = {
    "MD5": "md5",
    "SHA1": "sha1",
    "SHA224": "sha224",
    "SHA256": "sha256",
    "SHA384": "sha384",
    "SHA512": "sha512",
    "SHA2-256": "sha256",
    "SHA2-512": "sha512",
    "BLAKE2b": "blake2b",
    "BLAKE2B-512": "blake2b",
    "BLAKE3": "blake3",
}
# words in a manifest's name that tell digests of one length apart
_WORDS = (("b2", "blake2b"), ("blake2", "blake2b"), ("b3", "blake3"), ("blake3", "blake3"))


@dataclass(slots=True)
class Memory:
    """What a manifest of ours says of a dump's memory.

    Attributes:
        page_size: Bytes.
        content_digest: Hexadecimal.
        leaves: Digest by number of leaf.
    """

    page_size: int
    content_digest: str
    leaves: dict[int, str]


@dataclass(slots=True)
class Entry:
    """What a manifest says of one file.

    Attributes:
        name: As it stands there.
        path: Where that is.
        digests: Hexadecimal values by algorithm. Where a length leaves two algorithms, both have it: one must be right.
        size: Bytes, None where it does not say.
        memory: Of the dump that this is the first file of.
        ambiguous: Only one of the digests must be right.
    """

    name: str
    path: str
    digests: dict[str, str] = field(default_factory=dict)
    size: int | None = None
    memory: Memory | None = None
    ambiguous: bool = False


@dataclass(slots=True)
class Manifest:
    """A manifest, or the manifests of a bag.

    Attributes:
        path: Of the file, or of the bag.
        kind: `dumpconv`, `sums` or `bagit`.
        entries: By real path of the file.
        problems: (code, message) of what is wrong with the manifest itself.
    """

    path: str
    kind: str
    entries: dict[str, Entry] = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)

    def entry(self, path: str) -> Entry | None:
        """Return what it says of a file."""
        return self.entries.get(os.path.realpath(path))

    def add(self, name: str, path: str) -> Entry:
        """Return the entry of a file, a new one where there is none."""
        return self.entries.setdefault(os.path.realpath(path), Entry(name, path))


def read_manifest(path: str) -> Manifest:
    """Read a manifest; a bag is given by its directory, its bagit.txt or one of its manifests.

    Raises:
        InputError: It cannot be read.
        UsageError: It is none of the known kinds.
        CorruptDump: It is of a known kind, and damaged.
    """
    folder = path if os.path.isdir(path) else os.path.dirname(path) or "."
    name = os.path.basename(path)
    is_bag_file = name == "bagit.txt" or re.match(r"(tag)?manifest-[a-z0-9]+\.txt\Z", name)
    if os.path.isfile(os.path.join(folder, "bagit.txt")) and (os.path.isdir(path) or is_bag_file):
        return _read_bag(folder)
    if os.path.isdir(path):
        raise UsageError("is a directory without bagit.txt, no manifest", path=path)
    text = _text(path)
    if text.lstrip().startswith("{"):
        return _read_ours(path, text)
    return _read_sums(path, text)


def _text(path: str) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_SIZE + 1)
    except OSError as error:
        raise InputError(f"cannot read the manifest: {error.strerror}", path=path) from error
    if len(data) > _MAX_SIZE:
        raise UsageError(f"a manifest of more than {_MAX_SIZE} bytes", path=path)
    return os.fsdecode(data.removeprefix(b"\xef\xbb\xbf"))


# -- ours ------------------------------------------------------------------------------------------------------


def _read_ours(path: str, text: str) -> Manifest:
    try:
        whole = json.loads(text)
        schema = whole.get("schema")
        if not isinstance(schema, str) or not schema.startswith("dumpconv.manifest/"):
            raise UsageError(f"JSON of schema {schema}, not {SCHEMA}", path=path)
        if schema != SCHEMA:
            raise UsageError(f"schema {schema}; this program reads {SCHEMA}", path=path, hint="use a newer one")
        manifest = Manifest(path, "dumpconv")
        for dump in whole["dumps"]:
            _add_dump(manifest, dump)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise CorruptDump(f"the manifest does not parse: {type(error).__name__} {error}", path=path) from error
    return manifest


def _add_dump(manifest: Manifest, dump: dict[str, Any]) -> None:
    for number, each in enumerate(dump["files"]):
        name = str(each["path"])
        place = os.path.join(os.path.dirname(manifest.path), name)
        digests = {kind: str(value).lower() for kind, value in each["digests"].items() if kind in ALGORITHMS}
        for kind, value in digests.items():
            if not _HEX.match(value) or len(value) != 2 * ALGORITHMS[kind]:
                raise ValueError(f"{kind} {value!r} of {name}")
        memory = None
        if number == 0 and dump.get("content_digest"):
            leaves = {int(leaf): str(value) for leaf, value in dump.get("leaves", [])}
            memory = Memory(int(dump["page_size"]), str(dump["content_digest"]), leaves)
        entry = manifest.add(name, place)
        entry.digests, entry.size, entry.memory = digests, int(each["size"]), memory


# -- sha256sum and sisters ---------------------------------------------------------------------------------------


def _unescape(name: str, escaped: str) -> str:
    # a leading backslash says that the name is written with \\, \n and \r
    if not escaped:
        return name
    return re.sub(r"\\([\\nr])", lambda found: {"\\": "\\", "n": "\n", "r": "\r"}[found[1]], name)


def _lines(text: str) -> Iterator[tuple[str, str | None, str]]:
    # (name, algorithm, digest) of each line
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.rstrip("\r")
        if not line.strip() or line.startswith("#"):
            continue
        if found := _TAGGED.match(line):
            yield _unescape(found[3], found[1]), found[2], found[4].lower()
        elif found := _GNU.match(line):
            yield _unescape(found[3], found[1]), None, found[2].lower()
        else:
            raise ValueError(f"line {number} is neither `DIGEST  NAME` nor `ALGORITHM (NAME) = DIGEST`: {line[:60]!r}")


def _kinds(path: str, tag: str | None, value: str) -> list[str]:
    # the algorithms that a digest may be of
    if tag is not None:
        if tag not in _TAGS and tag.upper() not in _TAGS:
            raise ValueError(f"algorithm {tag} is not known")
        return [_TAGS.get(tag) or _TAGS[tag.upper()]]
    kinds = [kind for kind, size in ALGORITHMS.items() if 2 * size == len(value)]
    name = os.path.basename(path).lower()
    told = [kind for word, kind in _WORDS if word in name and kind in kinds]
    told += [kind for kind in kinds if kind in name and kind not in told]
    return told[:1] or kinds


def _read_sums(path: str, text: str) -> Manifest:
    manifest = Manifest(path, "sums")
    folder = os.path.dirname(path)
    try:
        for name, tag, value in _lines(text):
            kinds = _kinds(path, tag, value)
            if not kinds or any(2 * ALGORITHMS[kind] != len(value) for kind in kinds):
                raise ValueError(f"a digest of {len(value)} digits for {name}")
            place = os.path.join(folder, name)
            if not os.path.exists(place) and os.path.exists(name):
                place = name  # sha256sum takes names from where it runs
            entry = manifest.add(name, place)
            entry.ambiguous |= len(kinds) > 1
            entry.digests |= dict.fromkeys(kinds, value)
    except ValueError as error:
        raise UsageError(f"no manifest that is known: {error}", path=path) from error
    if not manifest.entries:
        raise UsageError("a manifest without any file", path=path)
    return manifest


# -- BagIt -------------------------------------------------------------------------------------------------------


def _read_bag(folder: str) -> Manifest:
    # Source: RFC 8493, sections 2.1.1 (declaration), 2.1.3 (manifests), 2.2 (tag manifests, bag-info), 3 (valid bags).
    manifest = Manifest(folder, "bagit")
    declaration = _text(os.path.join(folder, "bagit.txt"))
    if not re.match(r"BagIt-Version: \d+\.\d+\r?\nTag-File-Character-Encoding: UTF-8\s*\Z", declaration):
        manifest.problems.append(("E112", f"bagit.txt is not two lines of version and UTF-8: {declaration[:80]!r}"))
    names = sorted(os.listdir(folder))
    payload = [each for each in names if re.match(r"manifest-[a-z0-9]+\.txt\Z", each)]
    tags = [each for each in names if re.match(r"tagmanifest-[a-z0-9]+\.txt\Z", each)]
    if not payload:
        manifest.problems.append(("E113", "the bag has no manifest-ALGORITHM.txt"))
    listed: dict[str, set[str]] = {}
    for each in payload + tags:
        listed[each] = set(_read_bag_manifest(manifest, folder, each))
    _check_payload(manifest, folder, {each: listed[each] for each in payload})
    return manifest


def _read_bag_manifest(manifest: Manifest, folder: str, name: str) -> Iterator[str]:
    # yields the real paths listed
    kind = name.rpartition("-")[2].removesuffix(".txt")
    if kind not in ALGORITHMS:
        manifest.problems.append(("W222", f"{name}: algorithm {kind} is not known: its digests are not checked"))
    for line in _text(os.path.join(folder, name)).splitlines():
        if not line.strip():
            continue
        value, _, place = line.strip().partition(" ")
        place = place.lstrip(" \t*")
        full = os.path.join(folder, place)
        if not os.path.exists(full):  # some writers escape, some do not
            place = re.sub("%(0[aAdD]|25)", lambda found: chr(int(found[1], 16)), place)
            full = os.path.join(folder, place)
        root = os.path.realpath(folder)
        if os.path.commonpath([root, os.path.realpath(full)]) != root:
            manifest.problems.append(("E112", f"{name} names {place}, which is not in the bag: not followed"))
            continue
        if kind in ALGORITHMS:
            if not _HEX.match(value) or len(value) != 2 * ALGORITHMS[kind]:
                manifest.problems.append(("E112", f"{name}: {value[:70]!r} of {place} is no {kind} digest"))
            manifest.add(place, full).digests[kind] = value.lower()
        yield os.path.realpath(full)


def _check_payload(manifest: Manifest, folder: str, listed: dict[str, set[str]]) -> None:
    # every file of data/ is in every manifest, and Payload-Oxum counts them
    count = size = 0
    for place, folders, names in os.walk(os.path.join(folder, "data")):
        folders.sort()
        for name in sorted(names):
            full = os.path.join(place, name)
            count, size = count + 1, size + os.stat(full).st_size
            for each, paths in listed.items():
                if os.path.realpath(full) not in paths:
                    manifest.problems.append(("E112", f"{os.path.relpath(full, folder)} is not listed in {each}"))
    info = os.path.join(folder, "bag-info.txt")
    found = re.search(r"^Payload-Oxum: *(\d+)\.(\d+) *\r?$", _text(info), re.M) if os.path.isfile(info) else None
    if found is not None and (int(found[1]), int(found[2])) != (size, count):
        manifest.problems.append(
            ("E112", f"bag-info.txt: Payload-Oxum {found[1]}.{found[2]} (bytes.files), the bag has {size}.{count}")
        )
