# SPDX-License-Identifier: GPL-2.0-or-later
"""A packed file that breaks off gives with --salvage what the plain file gives that ends where unpacking ends."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
import shutil
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import lz4.frame
import pytest
import zstandard

from dumpconv.formats.errors import DumpError
from support import product
from support.command import dumpconv

CORPUS = Path(__file__).resolve().parents[2] / "corpus"
ALL = sorted(path for path in CORPUS.glob("*/*.*") if path.suffix != ".toml" and path.parent.name not in ("lab", "raw"))
# a note outside of the file: the plain file contradicts itself, in a stream that broke off it may have been there
FILES = [path for path in ALL[::24] if path.stat().st_size >= 4096 and path.name != "vmcoreinfo-offset-outside.kdump"]

Pack = Callable[[bytes], bytes]
# how to pack, and what of the packed bytes unpacks: library calls that share nothing with the product's loop
CODECS: dict[str, tuple[Pack, Pack]] = {
    "gzip": (lambda data: gzip.compress(data, 1), lambda data: zlib.decompressobj(31).decompress(data)),
    "zlib": (lambda data: zlib.compress(data, 1), lambda data: zlib.decompressobj(15).decompress(data)),
    "xz": (lambda data: lzma.compress(data, preset=0), lambda data: lzma.LZMADecompressor().decompress(data)),
    "bzip2": (lambda data: bz2.compress(data, 1), lambda data: bz2.BZ2Decompressor().decompress(data)),
    "zstd": (
        lambda data: zstandard.ZstdCompressor(1, write_checksum=True).compress(data),
        lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data),
    ),
    "lz4": (
        lambda data: lz4.frame.compress(data, block_size=lz4.frame.BLOCKSIZE_MAX64KB),
        lambda data: lz4.frame.LZ4FrameDecompressor().decompress(data),
    ),
}


def salvaged(path: Path) -> object:
    """Pages and states, or how it is refused."""
    try:
        reader = product.open_product(path, salvage=True)
        seen = product.view(reader)
    except DumpError as error:
        return type(error).exit_code
    return seen.pages, seen.description(), reader.damage is not None


def whole_part(codec: str, packed: bytes) -> bytes:
    return CODECS[codec][1](packed)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_unpacks_is_salvaged(path: Path, codec: str, tmp_path: Path) -> None:
    packed = CODECS[codec][0](path.read_bytes())
    packed = packed[: len(packed) * 3 // 4]
    cut = whole_part(codec, packed)
    for folder, data in (("plain", cut), ("packed", packed)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / path.name).write_bytes(data)  # a name can say something: vmcore-incomplete
    plain, ours = (salvaged(tmp_path / folder / path.name) for folder in ("plain", "packed"))
    if isinstance(plain, tuple) and isinstance(ours, tuple):
        assert ours[:2] == plain[:2]
        assert ours[2], "a stream that breaks off is damage, even where all pages came"
    else:
        assert ours == plain or not cut


SAMPLE = CORPUS / "kdump" / "codec-mixed.kdump"


@pytest.mark.parametrize("codec", CODECS)
def test_a_bit_that_flips_is_told_and_pages_before_it_come(codec: str, tmp_path: Path) -> None:
    data = SAMPLE.read_bytes()
    data += random.Random(1).randbytes(1 << 18)  # bytes behind the dump: what is flipped there harms no page
    packed = bytearray(CODECS[codec][0](data))
    packed[-3] ^= 0x10  # the checksum at the end, or what stands for it
    dump, out = tmp_path / "dump", tmp_path / "out"
    dump.write_bytes(bytes(packed))
    refused = dumpconv(dump, out)
    assert refused.returncode == 3
    assert not out.exists()
    done = dumpconv("--salvage", dump, out)
    assert done.returncode == 3
    assert b"nothing tells how much of it is right" in done.stderr or b"ends early" in done.stderr
    assert product.view(product.open_product(out)).pages == product.view(product.open_product(SAMPLE)).pages


def test_lzop_blocks_before_the_bad_one_come(tmp_path: Path) -> None:
    if shutil.which("lzop") is None:
        pytest.skip("lzop is missing")
    data = SAMPLE.read_bytes() + bytes(range(256)) * 4096
    packed = bytearray(subprocess.run(["lzop", "-c"], input=data, capture_output=True, check=True).stdout)
    packed[-100] ^= 0x10
    dump, out = tmp_path / "dump", tmp_path / "out"
    dump.write_bytes(bytes(packed))
    assert dumpconv(dump, out).returncode == 3
    assert not out.exists()
    assert dumpconv("--salvage", dump, out).returncode == 3
    assert product.view(product.open_product(out)).pages == product.view(product.open_product(SAMPLE)).pages
