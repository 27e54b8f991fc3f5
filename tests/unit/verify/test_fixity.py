# SPDX-License-Identifier: GPL-2.0-or-later
"""Manifests: what `dumpverify` writes is accepted by others, what others write is checked, and changes are found."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import blake3
import pytest

from dumpconv.verify.target import VerifyOptions, verify_target
from support import corrupt, notes, patterns
from support.build_kdump import KdumpImage, KdumpSpec, build
from support.command import dumpconv, dumpverify, one_line

FIRST, COUNT = 16, 24
FAR = 65536 + 5  # in the second leaf


def made(folder: Path, name: str = "dump", **more: Any) -> tuple[KdumpImage, Path]:
    pfns = [*range(FIRST, FIRST + COUNT), FAR]
    pages = {pfn: patterns.page(pfn) for pfn in pfns}
    text = notes.vmcoreinfo_text(release="6.1.0-test")
    spec = {"pages": pages, "notes": notes.machine_notes(cpus=1, text=text), "page_codecs": dict.fromkeys(pfns, "raw")}
    image = build(KdumpSpec(**{**spec, **more}))
    return image, image.write_to(folder / name)


def expected_leaf(pfns: list[int]) -> bytes:
    return blake3.blake3(b"".join(struct.pack("<Q", pfn) + patterns.page(pfn) for pfn in pfns)).digest()


def reports(*words: str | Path, code: int) -> list[dict[str, Any]]:
    done = dumpverify("--json", *words)
    assert done.returncode == code, (done.stdout, done.stderr)
    assert not done.stderr
    dumps: list[dict[str, Any]] = json.loads(done.stdout)["dumps"]
    return dumps


def codes(dump: Mapping[str, Any]) -> list[str]:
    return [each["code"] for each in dump["findings"]]


def message(dump: Mapping[str, Any], code: str) -> str:
    return next(str(each["message"]) for each in dump["findings"] if each["code"] == code)


# -- ours --------------------------------------------------------------------------------------------------------


def test_our_manifest_holds_digests_that_other_code_computes(tmp_path: Path) -> None:
    _, path = made(tmp_path)
    out = tmp_path / "m.json"
    reports(path, "--write-manifest", out, "--algorithm", "md5,sha1,sha256,sha512,blake2b,blake3", code=0)
    whole = json.loads(out.read_text())
    assert whole["schema"] == "dumpconv.manifest/1"
    (dump,) = whole["dumps"]
    data = path.read_bytes()
    digests = {name: hashlib.new(name, data).hexdigest() for name in ("md5", "sha1", "sha256", "sha512", "blake2b")}
    assert dump["files"] == [
        {"path": "dump", "size": len(data), "digests": {**digests, "blake3": blake3.blake3(data).hexdigest()}}
    ]
    leaves = [(0, expected_leaf(list(range(FIRST, FIRST + COUNT)))), (1, expected_leaf([FAR]))]
    root = struct.pack("<Q", 4096) + b"".join(struct.pack("<Q", number) + leaf for number, leaf in leaves)
    assert dump["leaves"] == [[number, leaf.hex()] for number, leaf in leaves]
    assert dump["content_digest"] == blake3.blake3(root).hexdigest()


def test_the_default_is_sha256_and_blake3_and_proves_fixity(tmp_path: Path) -> None:
    _, path = made(tmp_path)
    out = tmp_path / "m.json"
    reports(path, "--write-manifest", out, code=0)
    assert set(json.loads(out.read_text())["dumps"][0]["files"][0]["digests"]) == {"sha256", "blake3"}
    (dump,) = reports(path, "--manifest", out, code=0)
    assert (codes(dump), dump["assurance"]) == ([], {"fixity": COUNT + 1})


def test_a_flipped_bit_in_a_raw_page_is_found_with_a_manifest_only(tmp_path: Path) -> None:
    image, path = made(tmp_path)
    out = tmp_path / "m.json"
    reports(path, "--write-manifest", out, code=0)
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    corrupt.flip_file(path, 8 * image.data[FAR][0] + 5)
    after = hashlib.sha256(path.read_bytes()).hexdigest()
    (dump,) = reports(path, code=0)
    assert (dump["verdict"], dump["assurance"]) == ("good", {"bounds": COUNT + 1})  # nothing is claimed
    (dump,) = reports(path, "--manifest", out, code=5)
    assert (codes(dump), dump["verdict"]) == (["E112", "E114"], "CHANGED")
    assert f"sha256 is {after}, the manifest says {before}" in message(dump, "E112")
    assert json.loads(out.read_text())["dumps"][0]["content_digest"] in message(dump, "E114")
    assert dump["changed"] == [{"start_pfn": 65536, "end_pfn": 131072}]  # the leaf of that page, and no other
    assert "fixity" not in dump["assurance"]


def test_a_changed_byte_outside_the_pages_leaves_the_memory_as_it_was(tmp_path: Path) -> None:
    _, path = made(tmp_path)
    out = tmp_path / "m.json"
    reports(path, "--write-manifest", out, code=0)
    with path.open("ab") as file:
        file.write(b"!")
    (dump,) = reports(path, "--manifest", out, code=5)
    assert codes(dump) == ["W223", "E112"]
    assert f"{path.stat().st_size} bytes, the manifest says {path.stat().st_size - 1}" in message(dump, "E112")


def test_file_digests_are_checked_at_every_level(tmp_path: Path) -> None:
    image, path = made(tmp_path)
    out = tmp_path / "m.json"
    reports(path, "--write-manifest", out, code=0)
    assert reports("--level", "quick", path, "--manifest", out, code=0)[0]["assurance"] == {"fixity": COUNT + 1}
    corrupt.flip_file(path, 8 * image.data[FIRST][0])
    assert codes(reports("--level", "quick", path, "--manifest", out, code=5)[0]) == ["E112"]


def test_a_dump_whose_header_is_gone_is_changed_too(tmp_path: Path) -> None:
    _, path = made(tmp_path)
    out = tmp_path / "m.json"
    reports(path, "--write-manifest", out, code=0)
    corrupt.zero_file(path, 0, 4096)
    (dump,) = reports(path, "--manifest", out, code=3)
    assert codes(dump) == ["E101", "E112"]
    corrupt.zero_file(path, 4096, 8192)  # and nothing tells of a dump
    (dump,) = reports(path, "--manifest", out, code=5)
    assert codes(dump) == ["E154", "E112"]


def test_what_is_missing_and_what_is_not_listed(tmp_path: Path) -> None:
    for name in "ab":
        made(tmp_path, name)
    out = tmp_path / "m.json"
    reports(tmp_path, "--write-manifest", out, code=0)
    (tmp_path / "b").rename(tmp_path / "c")
    a, c, manifest = reports(tmp_path, "--manifest", out, code=1)
    assert (codes(a), codes(c), codes(manifest)) == ([], ["W221"], ["E113"])
    assert message(manifest, "E113") == "b is not there"
    found = reports("--manifest", out, code=1)  # without PATH: what it lists
    assert [codes(each) for each in found] == [[], ["E113"]]


def test_a_compressed_dump_is_hashed_as_it_is_stored(tmp_path: Path) -> None:
    _, path = made(tmp_path)
    packed = tmp_path / "dump.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    out = tmp_path / "m.json"
    reports(packed, "--write-manifest", out, code=0)
    (each,) = json.loads(out.read_text())["dumps"]
    assert each["files"][0]["digests"]["sha256"] == hashlib.sha256(packed.read_bytes()).hexdigest()
    assert each["leaves"][1][1] == expected_leaf([FAR]).hex()


def test_a_manifest_that_contradicts_itself_is_told(tmp_path: Path) -> None:
    _, path = made(tmp_path)
    out = tmp_path / "m.json"
    reports(path, "--write-manifest", out, code=0)
    whole = json.loads(out.read_text())
    whole["dumps"][0]["leaves"][0][1] = "00" * 32
    out.write_text(json.dumps(whole))
    assert codes(reports(path, "--manifest", out, code=0)[0]) == ["W222"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('{"schema": "dumpconv.manifest/2", "dumps": []}', 2),
        ('{"schema": "other"}', 2),
        ('{"schema": "dumpconv.manifest/1"}', 3),
        ('{"schema": "dumpconv.manifest/1", "dumps": [{"files": [{"path": "x", "size": 1, "digests": 3}]}]}', 3),
        ('{"schema": "dumpconv.manifest/1", "dumps": [', 3),
        ("no manifest", 2),
        ("", 2),
        ("0123  dump", 2),
        ("CRC (dump) = 0123456789abcdef0123456789abcdef", 2),
    ],
)
def test_a_bad_manifest_is_one_line(tmp_path: Path, text: str, code: int) -> None:
    _, path = made(tmp_path)
    bad = tmp_path / "bad"
    bad.write_text(text)
    done = dumpverify(path, "--manifest", bad)
    assert done.returncode == code
    assert str(bad) in one_line(done)


def test_nothing_is_replaced_unasked(tmp_path: Path) -> None:
    _, path = made(tmp_path)
    for flag in ("--write-manifest", "--ddrescue"):
        assert dumpverify(path, flag, path).returncode == 2
        assert dumpverify(path, flag, path, "--force").returncode == 2  # the evidence itself
    (tmp_path / "m.json").write_text("precious")
    assert dumpverify(path, "--write-manifest", tmp_path / "m.json").returncode == 2
    assert (tmp_path / "m.json").read_text() == "precious"
    assert dumpverify(path, "--write-manifest", tmp_path / "m.json", "--force").returncode == 0


# -- sha256sum and sisters ---------------------------------------------------------------------------------------

SUMS = {"md5": "md5sum", "sha1": "sha1sum", "sha256": "sha256sum", "sha512": "sha512sum", "b2": "b2sum"}


@pytest.mark.parametrize("suffix", SUMS)
def test_the_sum_programs_accept_what_we_write(tmp_path: Path, suffix: str) -> None:
    made(tmp_path, "a dump")
    made(tmp_path, "back\\slash")
    made(tmp_path, "new\nline")
    out = tmp_path / f"sums.{suffix}"
    reports(tmp_path, "--write-manifest", out, code=0)
    command = [SUMS[suffix], "--strict", "-c", out.name]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(b": OK") == 3


@pytest.mark.parametrize("tag", [False, True], ids=["gnu", "bsd"])
@pytest.mark.parametrize("suffix", SUMS)
def test_what_the_sum_programs_write_is_checked(tmp_path: Path, suffix: str, tag: bool) -> None:
    image, path = made(tmp_path, "a dump")
    program = [SUMS[suffix], *(["--tag"] if tag else []), path.name]
    sums = tmp_path / "SUMS"  # a name that says nothing: sha512 and b2 have one length
    sums.write_bytes(subprocess.run(program, cwd=tmp_path, capture_output=True, check=True).stdout)
    assert codes(reports(path, "--manifest", sums, code=0)[0]) == []
    assert reports(path, "--manifest", sums, code=0)[0]["assurance"] == {"fixity": COUNT + 1}
    corrupt.flip_file(path, 8 * image.data[FIRST][0])
    (dump,) = reports(path, "--manifest", sums, code=5)
    assert codes(dump) == ["E112"]
    recorded = max(sums.read_text().split(), key=len)
    assert f"the manifest says {recorded}" in message(dump, "E112")


def test_escaped_names_of_sha256sum_are_read(tmp_path: Path) -> None:
    _, path = made(tmp_path, "new\nline\\x")
    sums = tmp_path / "SHA256SUMS"
    done = subprocess.run(["sha256sum", path.name], cwd=tmp_path, capture_output=True, check=True)
    sums.write_bytes(done.stdout)
    assert done.stdout.startswith(b"\\")
    assert codes(reports("--manifest", sums, code=0)[0]) == []


def test_other_files_of_a_manifest_are_checked_too(tmp_path: Path) -> None:
    made(tmp_path)
    (tmp_path / "notes.txt").write_text("from the guest")
    sums = tmp_path / "x.sha256"
    reports(tmp_path, "--write-manifest", sums, code=0)
    dump, text = reports("--manifest", sums, code=0)
    assert (codes(dump), codes(text), text["verdict"]) == ([], ["I307"], "good")
    (tmp_path / "notes.txt").write_text("from the ghost")
    assert "E112" in codes(reports("--manifest", sums, code=5)[1])


# -- BagIt -------------------------------------------------------------------------------------------------------


def bag(tmp_path: Path) -> tuple[KdumpImage, Path]:
    folder = tmp_path / "bag"
    (folder / "data" / "sub").mkdir(parents=True)
    image, _ = made(folder / "data", "vm core%")
    (folder / "data" / "sub" / "readme").write_text("hello")
    reports(folder / "data", "--write-manifest", folder / "bagit.txt", code=0)
    return image, folder


def bagit_validate(folder: Path) -> int:
    program = shutil.which("bagit.py", path=str(Path(sys.executable).parent)) or shutil.which("bagit.py")
    if program is None:
        pytest.skip("bagit.py is not installed")
    return subprocess.run([program, "--validate", folder], capture_output=True, check=False).returncode


@pytest.mark.oracle
def test_bagit_validates_what_we_write(tmp_path: Path) -> None:
    image, folder = bag(tmp_path)
    assert bagit_validate(folder) == 0
    corrupt.flip_file(folder / "data" / "vm core%", 8 * image.data[FIRST][0])
    assert bagit_validate(folder) != 0


@pytest.mark.parametrize("kind", ["sha256", "sha512"])
def test_sum_programs_accept_the_manifests_of_a_bag(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "bag"
    (folder / "data").mkdir(parents=True)
    made(folder / "data")
    reports(folder / "data", "--write-manifest", folder / "bagit.txt", code=0)
    for name in (f"manifest-{kind}.txt", f"tagmanifest-{kind}.txt"):
        done = subprocess.run([f"{kind}sum", "--strict", "-c", name], cwd=folder, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.oracle
def test_a_bag_that_bagit_made_is_checked(tmp_path: Path) -> None:
    program = shutil.which("bagit.py", path=str(Path(sys.executable).parent)) or shutil.which("bagit.py")
    if program is None:
        pytest.skip("bagit.py is not installed")
    folder = tmp_path / "bag"
    folder.mkdir()
    image, _ = made(folder)
    subprocess.run([program, "--quiet", "--md5", "--sha256", folder], check=True)
    found = reports("--manifest", folder, code=0)
    assert [each["assurance"] for each in found if each["format"]] == [{"fixity": COUNT + 1}]
    corrupt.flip_file(folder / "data" / "dump", 8 * image.data[FIRST][0])
    assert any("E112" in codes(each) for each in reports("--manifest", folder, code=5))


def test_what_is_wrong_with_a_bag_is_told(tmp_path: Path) -> None:
    _, folder = bag(tmp_path)
    assert {code for each in reports("--manifest", folder, code=0) for code in codes(each)} == {"I307"}
    (folder / "data" / "extra").write_text("x")
    (folder / "data" / "sub" / "readme").unlink()
    last = reports("--manifest", folder, code=5)[-1]
    told = [each["message"] for each in last["findings"]]
    assert "data/extra is not listed in manifest-sha256.txt" in told
    assert "data/sub/readme is not there" in told
    assert set(codes(last)) == {"E112", "E113"}


def test_a_bag_that_points_outside_is_not_followed(tmp_path: Path) -> None:
    _, folder = bag(tmp_path)
    (tmp_path / "secret").write_text("x")
    with (folder / "manifest-sha256.txt").open("a") as file:
        file.write(f"{'0' * 64}  data/../../secret\n{'0' * 64}  /etc/hostname\n")
    last = reports("--manifest", folder, code=5)[-1]
    assert [each["message"].endswith("not in the bag: not followed") for each in last["findings"]][:2] == [True, True]


# -- changing while it is read -----------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["grows", "goes", "is replaced"])
def test_a_file_that_changes_while_it_is_read(tmp_path: Path, what: str) -> None:
    _, path = made(tmp_path)
    other = tmp_path / "other"
    shutil.copy(path, other)

    def meddle(done: int) -> None:
        if what == "grows":
            with path.open("ab") as file:
                file.write(b"x")
        elif what == "goes":
            path.unlink(missing_ok=True)
        elif other.exists():
            other.rename(path)

    report = verify_target([str(path)], VerifyOptions(), meddle)
    assert [each.code for each in report.findings] == ["E151"]
    assert report.exit_code() == 1
    assert ("gone" in report.findings[0].message) == (what == "goes")


# -- maps --------------------------------------------------------------------------------------------------------


def test_ddrescuelog_accepts_the_map_of_the_file(tmp_path: Path) -> None:
    image, path = made(tmp_path, page_codecs={}, codec="zlib", fallback=False)
    bad = [FIRST + 3, FIRST + 4, FIRST + 9]
    for pfn in bad:
        offset, size, _ = image.data[pfn]
        corrupt.zero_file(path, offset, offset + size)
    out = tmp_path / "file.map"
    reports(path, "--ddrescue", out, code=3)
    rows = [line.split() for line in out.read_text().splitlines() if line[0] != "#"]
    assert rows[0] == ["0x00000000", "+", "1"]
    spans = [(int(at, 16), int(size, 16), mark) for at, size, mark in rows[1:]]
    assert spans[0][0] == 0
    assert sum(size for _, size, _ in spans) == path.stat().st_size
    first = image.data[FIRST + 3][0]
    assert [(at, size) for at, size, mark in spans if mark == "-"] == [
        (first, image.data[FIRST + 3][1] + image.data[FIRST + 4][1]),
        (image.data[FIRST + 9][0], image.data[FIRST + 9][1]),
    ]
    if shutil.which("ddrescuelog") is None:
        pytest.skip("ddrescuelog is not installed")
    done = subprocess.run(["ddrescuelog", "-t", out], capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{sum(size for _, size, mark in spans if mark == '-')} B" in done.stdout
    done = subprocess.run(["ddrescuelog", "-b", "1", "-l", "-", out], capture_output=True, check=False, text=True)
    assert int(done.stdout.split()[0]) == first


def test_the_picture_shows_what_did_not_decode(tmp_path: Path) -> None:
    image, path = made(tmp_path, page_codecs={}, codec="zlib", fallback=False)
    offset, size, _ = image.data[FIRST + 3]
    corrupt.zero_file(path, offset, offset + size)
    out = tmp_path / "damage.svg"
    reports(path, "--picture", out, code=3)
    assert "damaged: 1 pages" in out.read_text()


def test_maps_are_of_one_dump(tmp_path: Path) -> None:
    made(tmp_path)
    for flag in ("--ddrescue", "--picture"):
        assert dumpverify(tmp_path, flag, tmp_path / "x.svg").returncode == 2


# -- conversion --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", [(), ("-O", "kdump", "-z"), ("-O", "lkcd"), ("-O", "lime")], ids=str)
def test_a_verified_conversion(tmp_path: Path, output: tuple[str, ...]) -> None:
    _, path = made(tmp_path)
    done = dumpconv(path, tmp_path / "out", *output, "--verify")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out").exists()


def test_the_manifest_of_a_conversion(tmp_path: Path) -> None:
    _, path = made(tmp_path)
    out, manifest = tmp_path / "out", tmp_path / "m.json"
    done = dumpconv(path, out, "--verify", "--manifest-out", manifest)
    assert done.returncode == 0, done.stderr
    source, output = json.loads(manifest.read_text())["dumps"]
    for each, file in ((source, path), (output, out)):
        assert each["files"][0]["digests"]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
        assert each["leaves"][1] == [1, expected_leaf([FAR]).hex()]
    assert [codes(each) for each in reports("--manifest", manifest, code=0)] == [[], []]


def test_the_source_of_a_conversion_from_a_pipe_is_hashed_too(tmp_path: Path) -> None:
    _, path = made(tmp_path)
    packed = gzip.compress(path.read_bytes())
    done = dumpconv("-", tmp_path / "out", "--manifest-out", tmp_path / "m.json", input=packed)
    assert done.returncode == 0, done.stderr
    source = json.loads((tmp_path / "m.json").read_text())["dumps"][0]["files"][0]
    assert (source["size"], source["digests"]["sha256"]) == (len(packed), hashlib.sha256(packed).hexdigest())


@pytest.mark.parametrize("words", [("--no-digest",), ("-O", "raw"), ("-O", "kdump", "-F")])
def test_what_cannot_be_verified_is_refused(tmp_path: Path, words: tuple[str, ...]) -> None:
    _, path = made(tmp_path)
    assert dumpconv(path, tmp_path / "out", "--verify", *words).returncode == 2
    assert not (tmp_path / "out").exists()


SPOILED = """
import sys
from dumpconv import cli
from dumpconv.formats.rows import FileSink
write = FileSink.write
def spoiled(self, views, offset):
    data = bytearray(b"".join(bytes(view) for view in views))
    data[len(data) // 2] ^= 1
    write(self, [memoryview(data)], offset)
FileSink.write = spoiled
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize(("output", "code"), [((), 5), (("-O", "kdump"), 5), (("-O", "kdump", "-z"), 3)], ids=str)
def test_a_disk_that_stores_something_else_is_found(tmp_path: Path, output: tuple[str, ...], code: int) -> None:
    _, path = made(tmp_path)
    out = tmp_path / "out"
    words = [path, out, *output, "--executor", "serial"]
    spoiled = [sys.executable, "-c", SPOILED, *map(str, words)]
    assert subprocess.run(spoiled, capture_output=True, check=False, cwd="/").returncode == 0  # nobody looks
    out.unlink()
    done = subprocess.run([*spoiled, "--verify"], capture_output=True, check=False, cwd="/")
    assert done.returncode in ({5, 3} if output[-1:] == ("-z",) else {code}), done.stderr
    assert b"read back" in done.stderr
    assert sorted(each.name for each in tmp_path.iterdir()) == ["dump"]
