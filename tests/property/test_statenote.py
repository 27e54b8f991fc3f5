# SPDX-License-Identifier: GPL-2.0-or-later
"""Our notes: what was written is read, and what is hostile is refused in bounded time and memory."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from dumpconv.formats import statenote
from dumpconv.formats.errors import CorruptDump
from dumpconv.formats.notes import Note, build_note
from dumpconv.formats.pages import MAX_PFN, MemoryMap
from dumpconv.formats.statenote import (
    PageStates,
    build_provenance,
    build_state_notes,
    decode_varints,
    encode_varints,
    parse_state_notes,
    read_provenance,
)

HEAD = "<II32s32sIIQ"
u64 = st.one_of(
    st.integers(0, (1 << 64) - 1), st.sampled_from([0, 127, 128, 16383, 16384, (1 << 63) - 1, (1 << 64) - 1])
)


def leb128(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def varints(*values: int) -> bytes:
    return b"".join(map(leb128, values))


def note(unpacked: bytes, *, version: int = 2, part: int = 0, parts: int = 1, size: int | None = None) -> Note:
    packed = zstandard.ZstdCompressor().compress(unpacked) if version == 1 else unpacked
    head = struct.pack(HEAD, version, 1, b"c" * 32, b"s" * 32, part, parts, len(unpacked) if size is None else size)
    return build_note(b"DUMPCONV", statenote.TYPE_STATES, head + packed)


@given(st.lists(u64, max_size=40))
def test_varints_are_leb128(values: list[int]) -> None:
    encoded = encode_varints(np.array(values, np.uint64))
    assert encoded == varints(*values)
    assert decode_varints(encoded).tolist() == values


@given(st.binary(max_size=60))
def test_any_bytes_are_varints_or_refused(raw: bytes) -> None:
    naive: list[int] | None = []
    value = shift = 0
    for byte in raw:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            naive = None if naive is None or value >> 64 or shift > 70 else [*naive, value]
            value = shift = 0
    if naive is None or shift:
        with pytest.raises(CorruptDump, match=r"cut off|64 bits"):
            decode_varints(raw)
    else:
        assert decode_varints(raw).tolist() == naive


@st.composite
def page_states(draw: st.DrawFn) -> PageStates:
    runs, position = [], 0
    for gap, size, state in draw(
        st.lists(st.tuples(st.integers(0, 300), st.integers(1, 1 << 40), st.sampled_from((2, 3, 4))), max_size=8)
    ):
        position += gap
        runs.append((position, position + size, state))
        position += size
    fill = np.array([[low, low + 2] for low in draw(st.sets(st.integers(0, 9))) for low in [5 * low]], np.uint64)
    fill = fill[np.argsort(fill[:, 0])] if len(fill) else fill.reshape(0, 2)
    pfns = sorted(draw(st.lists(st.integers(0, MAX_PFN), max_size=5)))
    partial = np.array([(pfn, 16, 4096) for pfn in pfns], np.uint64).reshape(-1, 3)
    digest = draw(st.none() | st.binary(min_size=32, max_size=32))
    return PageStates(
        MemoryMap.from_runs(runs), (fill[:, 0].copy(), fill[:, 1].copy()), partial, draw(st.sampled_from((0, 12, 16))),
        digest, draw(st.binary(min_size=32, max_size=32)),
    )  # fmt: skip


@given(page_states())
def test_states_round_trip(states: PageStates) -> None:
    again = parse_state_notes(build_state_notes(states))
    assert again is not None
    assert again.absent == states.absent
    assert [column.tolist() for column in again.fill] == [column.tolist() for column in states.fill]
    assert again.partial.tolist() == states.partial.tolist()
    assert (again.page_shift, again.content_digest, again.state_digest) == (
        states.page_shift, states.content_digest, states.state_digest,
    )  # fmt: skip


def test_a_long_run_list_comes_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    start = np.cumsum(np.random.default_rng(1).integers(2, 1 << 30, 500)).astype(np.uint64)
    states = PageStates(MemoryMap.from_columns(start, start + np.uint64(1), 2))
    monkeypatch.setattr(statenote, "_PART_SIZE", 256)
    parts = build_state_notes(states)
    assert len(parts) > 4
    again = parse_state_notes(parts)
    assert again is not None
    assert again.absent == states.absent
    with pytest.raises(CorruptDump, match="says it is"):
        parse_state_notes(parts[::-1])
    with pytest.raises(CorruptDump, match="says it is"):
        parse_state_notes(parts[:-1])


EMPTY = (0, 0, 0, 0)
HOSTILE = {
    "nothing": (b"", "pages of"),
    "page-shift": (varints(40, *EMPTY, 0), "pages of"),
    "count-beyond": (varints(12, 1 << 40), "cut off"),
    "count-without-runs": (varints(12, 2, 1, 1), "cut off"),
    "run-too-long": (varints(12, 1, 0, MAX_PFN + 1, 0, 0, 0, 0), "past all memory"),
    "runs-that-wrap": (varints(12, 2, MAX_PFN, 1, (1 << 64) - MAX_PFN, 1, 0, 0, 0, 0), "past all memory"),
    "runs-beyond": (varints(12, 2, MAX_PFN - 1, 1, 1, 1, 0, 0, 0, 0), "past all memory"),
    "two-states": (varints(12, 1, 5, 5, 1, 9, 5, 0, 0, 0), "two states"),
    "partial-cut": (varints(12, *EMPTY, 2, 1, 0, 5), "cut off"),
    "partial-trailing": (varints(12, *EMPTY, 0, 7), "cut off"),
    "partial-past-page": (varints(12, *EMPTY, 1, 1, 0, 4097), "past its page"),
    "partial-empty": (varints(12, *EMPTY, 1, 1, 9, 9), "no bytes"),
    "partial-wraps": (varints(12, *EMPTY, 1, (1 << 64) - 1, 0, 9), "past its page"),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("version", [1, 2])
def test_hostile_run_lists(name: str, version: int) -> None:
    unpacked, message = HOSTILE[name]
    with pytest.raises(CorruptDump, match=message):
        parse_state_notes([note(unpacked, version=version)])


# The example of docs/canonical.md, section 3, typed in by hand from its text
EXAMPLE = bytes.fromhex("0c  01 03 0d  00  00  00  00")


@pytest.mark.parametrize("version", [1, 2])
def test_the_documented_example(version: int) -> None:
    states = parse_state_notes([note(EXAMPLE, version=version)])
    assert states is not None
    assert (states.page_shift, states.content_digest, states.state_digest) == (12, b"c" * 32, b"s" * 32)
    assert [tuple(run) for run in states.absent] == [(3, 16, 2)]
    (made,) = build_state_notes(states)
    assert made.desc() == note(EXAMPLE).desc()  # raw: the same for every version of every library


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (note(varints(0, *EMPTY, 0), version=3), "schema version 3, this program knows 1 and 2"),
        (note(varints(0, *EMPTY, 0), part=1), "note 0 of 1 says it is 1 of 1"),
        (note(varints(0, *EMPTY, 0), parts=9), "note 0 of 1 says it is 0 of 9"),
        (note(varints(0, *EMPTY, 0), size=99), "has 6 bytes of runs, and says 99"),
        (note(varints(0, *EMPTY, 0), size=99, version=1), "unpacks to 6 bytes, not 99"),
        (note(varints(0, *EMPTY, 0), size=(1 << 64) - 1), "claims 18446744073709551615 bytes"),
        (note(bytes(1 << 25), size=100, version=1), "more than"),
        (build_note(b"DUMPCONV", statenote.TYPE_STATES, b"short"), "note of 5 bytes"),
        (build_note(b"DUMPCONV", statenote.TYPE_STATES, struct.pack(HEAD, 1, 0, b"", b"", 0, 1, 9) + b"x"), "unpack"),
    ],
)
def test_hostile_heads(made: Note, message: str) -> None:
    with pytest.raises(CorruptDump, match=message):
        parse_state_notes([made])


@given(page_states(), st.data())
def test_a_flipped_note_is_read_or_refused(states: PageStates, drawn: st.DataObject) -> None:
    (made,) = build_state_notes(states)
    raw = bytearray(made.desc())
    bit = drawn.draw(st.integers(0, 8 * len(raw) - 1))
    raw[bit >> 3] ^= 1 << (bit & 7)
    try:
        parse_state_notes([build_note(b"DUMPCONV", statenote.TYPE_STATES, bytes(raw))])
    except CorruptDump as error:
        assert "page-state note" in str(error)


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=3000) | st.integers(), max_size=6))
def test_provenance_has_its_size_and_comes_back(facts: dict[str, object]) -> None:
    made = build_provenance(facts)
    assert made.stored_size == 4096
    again = read_provenance(made.desc())
    assert again.items() <= facts.items()


@pytest.mark.parametrize("raw", [b"", b"\xff\xfe", b"[1]", b"[" * 4000, b'{"a":', b"null"])
def test_provenance_that_is_not_ours(raw: bytes) -> None:
    assert read_provenance(raw) == {}
