# SPDX-License-Identifier: GPL-2.0-or-later
"""Blocks of many pages: their plain bytes, and how the pipeline takes one that does not decode or cannot be read."""

from __future__ import annotations

import pickle
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dumpconv.formats import codecs
from dumpconv.formats.blocks import MAX_BLOCK, BlockSource, zlib_block
from dumpconv.formats.decode import DecodeJob, Task, run_task
from dumpconv.formats.errors import InputError, PageDecodeError
from dumpconv.formats.pages import EXTENT, PageState
from dumpconv.formats.source import ByteSource, BytesSource, FileSource

PAGE = 512


def source_of(blocks: list[bytes], spoil: int | None = None) -> BlockSource:
    stored, offsets, sizes = b"head", [], []
    for number, plain in enumerate(blocks):
        packed = zlib.compress(plain) + bytes(number % 3)
        if number == spoil:
            packed = packed[:-5] + bytes([packed[-5] ^ 1]) + packed[-4:] if number % 3 == 0 else packed[:5]
        offsets.append(len(stored))
        sizes.append(len(packed))
        stored += packed
    columns = [np.array(each, np.uint64) for each in (offsets, sizes, [len(plain) for plain in blocks])]
    return BlockSource(BytesSource(stored, "blocks"), *columns, zlib_block)


@given(st.lists(st.binary(min_size=1, max_size=700), min_size=1, max_size=8), st.data())
def test_any_range_is_that_of_the_plain_bytes(blocks: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(blocks)
    source = source_of(blocks)
    assert source.size == len(whole)
    low = data.draw(st.integers(0, len(whole)))
    high = data.draw(st.integers(low, len(whole)))
    assert source.pread(low, high - low) == whole[low:high]
    assert source.ensure(low, high)
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301 - our own
    assert copy.pread(low, high - low) == whole[low:high]


def test_the_last_bytes_come_short() -> None:
    buffer = bytearray(10)
    assert source_of([b"abc", b"def"]).pread_into(memoryview(buffer), 4) == 2
    assert bytes(buffer[:2]) == b"ef"


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (zlib.compress(bytes(9)), "more than 8"),
        (zlib.compress(bytes(7)), "decodes to 7"),
        (zlib.compress(bytes(8))[:-1], "ends early"),
        (zlib.compress(bytes(8))[:-1] + b"\x77", "incorrect data check"),
        (b"", "decodes to 0"),
        (b"no zlib", "zlib"),
    ],
)
def test_a_block_is_exactly_one_stream(stored: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        zlib_block(stored, 8)


def test_padding_after_a_stream_is_free() -> None:
    assert zlib_block(zlib.compress(b"12345678") + b"junk", 8) == b"12345678"


def test_a_bomb_is_no_block() -> None:
    with pytest.raises(ValueError, match="block of"):
        BlockSource(BytesSource(b""), *(np.array([each], np.uint64) for each in (0, 1, MAX_BLOCK + 1)), zlib_block)


def extents_of(nr_pages: int, per_extent: int) -> np.ndarray:
    starts = range(0, nr_pages, per_extent)
    table = np.zeros(len(starts), EXTENT)
    table["start_pfn"], table["nr_pages"], table["codec"] = list(starts), per_extent, codecs.RAW
    table["offset"], table["stored_size"] = table["start_pfn"] * np.uint64(PAGE), per_extent * PAGE
    return table


def run(source: ByteSource, extents: np.ndarray, *, salvage: bool) -> tuple[bytes, list[tuple[int, PageState]]]:
    job = DecodeJob("test", (source,), PAGE, payload=True, salvage=salvage, batch_bytes=8 * PAGE)
    result = run_task(job, Task(0, extents))
    return result.payload or b"", [(damage.pfn, damage.state) for damage in result.damage]


@pytest.mark.parametrize("per_extent", [1, 4, 16])
def test_a_block_that_does_not_decode_damages_its_frames(per_extent: int) -> None:
    blocks = [bytes([number + 1]) * (4 * PAGE) for number in range(4)]
    source = source_of(blocks, spoil=1)
    payload, damage = run(source, extents_of(16, per_extent), salvage=True)
    assert damage == [(pfn, PageState.DAMAGED) for pfn in range(4, 8)]
    assert payload == blocks[0] + bytes(4 * PAGE) + blocks[2] + blocks[3]
    with pytest.raises(PageDecodeError) as caught:
        run(source, extents_of(16, per_extent), salvage=False)
    assert caught.value.pfn == 4


class Unreadable(FileSource):
    """A disk with a bad sector."""

    def pread_into(self, view: memoryview, offset: int) -> int:
        if offset < 6 * PAGE and offset + len(view) > 5 * PAGE:
            raise InputError("cannot read: Input/output error", path=self.name, offset=5 * PAGE)
        return super().pread_into(view, offset)

    def preadv(self, views: list[memoryview], offset: int) -> int:
        return ByteSource.preadv(self, views, offset)


def test_what_cannot_be_read_is_lost_where_the_rest_is_wanted(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"".join(bytes([number + 1]) * PAGE for number in range(16)))
    payload, damage = run(Unreadable(str(path)), extents_of(16, 4), salvage=True)
    assert damage == [(5, PageState.LOST)]
    assert payload[4 * PAGE : 7 * PAGE] == bytes([5]) * PAGE + bytes(PAGE) + bytes([7]) * PAGE
    with pytest.raises(InputError, match="Input/output"):
        run(Unreadable(str(path)), extents_of(16, 4), salvage=False)


class Rotten(Unreadable):
    """A disk with a bad sector, and pages that do not decode."""

    bad = range(0)

    def pread_into(self, view: memoryview, offset: int) -> int:
        for page in self.bad:
            if offset < (page + 1) * PAGE and offset + len(view) > page * PAGE:
                raise PageDecodeError("block does not decode", path=self.name, offset=page * PAGE)
        return super().pread_into(view, offset)


@pytest.mark.parametrize(("bad", "error"), [(3, PageDecodeError), (7, InputError)])
def test_what_comes_first_ends_the_work(bad: int, error: type[Exception], tmp_path: Path) -> None:
    """A page that cannot be read is not called damaged because another one of its batch is."""
    path = tmp_path / "disk"
    path.write_bytes(b"".join(bytes([number + 1]) * PAGE for number in range(16)))
    source = Rotten(str(path))
    source.bad = range(bad, bad + 1)
    assert run(source, extents_of(16, 16), salvage=True)[1] == sorted(
        [(5, PageState.LOST), (bad, PageState.DAMAGED)], key=lambda each: each[0]
    )
    with pytest.raises(error):
        run(source, extents_of(16, 16), salvage=False)
