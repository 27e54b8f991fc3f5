# SPDX-License-Identifier: GPL-2.0-or-later
"""Our two ELF notes: page states and digests (TYPE_STATES), provenance (TYPE_PROVENANCE).

Written out in docs/canonical.md.

TYPE_STATES, all integers little-endian:

    0   u32  schema version, 2            8   32 bytes  content digest, zeros where flag 0 is clear
    4   u32  flags: 1 = content digest    40  32 bytes  state digest
             is present                   72  u32 part, u32 number of parts
                                          80  u64 size of the run list, all parts together
                                          88  the run list (this part's bytes of it)

Version 1, read but no longer written, had the list packed by zstd: other bytes for each version of that library.

Run list: varint log2 of the page size (0: not said), then for each of EXCLUDED, LOST, DAMAGED, FILL: varint count
and for each run varint gap since the last run's end, varint length; then varint count of partial frames and for
each varint pfn gap, start byte, end byte.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import blake3
import numpy as np
from numpy.typing import NDArray

from .errors import CorruptDump
from .notes import OUR_NAME, Note, build_note
from .pages import MAX_PFN, MemoryMap, PageState

__all__ = [
    "DIGEST_OFFSET",
    "PROVENANCE_SIZE",
    "PageStates",
    "build_provenance",
    "build_state_notes",
    "decode_varints",
    "encode_varints",
    "parse_state_notes",
    "read_provenance",
    "state_digest",
    "take_our_notes",
]

# Unusual numbers, since crash and BFD look at the type alone: a type of 1 would count as another CPU's PRSTATUS.
TYPE_STATES, TYPE_PROVENANCE = 0x44430001, 0x44430002
_OUR_TYPES = (TYPE_STATES, TYPE_PROVENANCE)
DIGEST_OFFSET = 4  # of flags and content digest within the descriptor: patched at the end of the job
PROVENANCE_SIZE = 4096  # the whole note; its descriptor is what header (12) and padded name (12) leave
_HEAD = struct.Struct("<II32s32sIIQ")
_PART_SIZE = 16 << 20
_MAX_UNPACKED = 1 << 28
_NOTED_STATES = (PageState.EXCLUDED, PageState.LOST, PageState.DAMAGED)

U64 = NDArray[np.uint64]


def encode_varints(values: U64) -> bytes:
    """Encode unsigned 64-bit numbers as LEB128: seven bits a byte, least significant first."""
    if not len(values):
        return b""
    bits = np.zeros(len(values), np.int64)
    rest = values.copy()
    for _ in range(10):
        bits += rest != 0
        rest >>= np.uint64(7)
    length = np.maximum(bits, 1)
    end = np.cumsum(length)
    out = np.zeros(int(end[-1]), np.uint8)
    start = end - length
    for index in range(int(length.max())):
        has = length > index
        byte = (values[has] >> np.uint64(7 * index)).astype(np.uint8) & np.uint8(0x7F)
        byte |= np.where(length[has] > index + 1, np.uint8(0x80), np.uint8(0))
        out[start[has] + index] = byte
    return out.tobytes()


def decode_varints(raw: bytes) -> U64:
    """Decode all varints in `raw`.

    Raises:
        CorruptDump: The last one is cut, or one is longer than ten bytes.
    """
    data = np.frombuffer(raw, np.uint8)
    if not len(data):
        return np.empty(0, np.uint64)
    ends = np.flatnonzero(data < 0x80)
    if not len(ends) or ends[-1] != len(data) - 1:
        raise CorruptDump("page-state note: a number is cut off")
    starts = np.concatenate([[0], ends[:-1] + 1])
    length = ends - starts + 1
    if int(length.max()) > 10 or bool((data[ends[length == 10]] > 1).any()):
        raise CorruptDump("page-state note: a number has more than 64 bits")
    values = np.zeros(len(ends), np.uint64)
    for index in range(int(length.max())):
        has = length > index
        part = (data[starts[has] + index] & np.uint8(0x7F)).astype(np.uint64)
        values[has] |= part << np.uint64(7 * index)
    return values


@dataclass
class PageStates:
    """What a type 1 note says.

    Attributes:
        absent: EXCLUDED, LOST and DAMAGED runs.
        fill: Frames that `--holes` filled with zeros, as (start, end) columns.
        partial: Rows (pfn, start byte, end byte).
        page_shift: log2 of the page size: what an ELF file without VMCOREINFO cannot say; 0 if not known.
        content_digest: 32 bytes, or None where the job could not compute it.
        state_digest: 32 bytes.
    """

    absent: MemoryMap
    fill: tuple[U64, U64] = field(default_factory=lambda: (np.empty(0, np.uint64), np.empty(0, np.uint64)))
    partial: U64 = field(default_factory=lambda: np.empty((0, 3), np.uint64))
    page_shift: int = 0
    content_digest: bytes | None = None
    state_digest: bytes = bytes(32)


def state_digest(memory_map: MemoryMap, page_size: int) -> bytes:
    """Return BLAKE3 of page size and the runs of all states.

    The bytes hashed: u64 page size, then for each run u64 start pfn, u64 number of frames, u64 state, all
    little-endian; runs sorted, disjoint and merged.
    """
    hasher = blake3.blake3(struct.pack("<Q", page_size))
    for low in range(0, len(memory_map), 1 << 16):
        rows = slice(low, low + (1 << 16))
        start, end = memory_map.start[rows], memory_map.end[rows]
        table = np.stack([start, end - start, memory_map.state[rows].astype(np.uint64)], axis=1)
        hasher.update(np.ascontiguousarray(table, "<u8").tobytes())
    return hasher.digest()


def _runs_to_numbers(start: U64, end: U64) -> U64:
    previous = np.concatenate([np.zeros(1, np.uint64), end[:-1]]) if len(end) else end
    pairs = np.stack([start - previous, end - start], axis=1)
    return np.concatenate([np.array([len(start)], np.uint64), pairs.reshape(-1)])


def _numbers_to_runs(numbers: U64, at: int) -> tuple[U64, U64, int]:
    if at >= len(numbers) or int(numbers[at]) > (len(numbers) - at - 1) // 2:
        raise CorruptDump("page-state note: its run list is cut off")
    count = int(numbers[at])
    pairs = numbers[at + 1 : at + 1 + 2 * count].reshape(-1, 2)
    if count and int(pairs.max()) > MAX_PFN:
        raise CorruptDump("page-state note: a run reaches past all memory")
    end = np.cumsum(pairs.reshape(-1))[1::2] if count else np.empty(0, np.uint64)
    if count and (int(end[-1]) > MAX_PFN or bool((end[1:] < end[:-1]).any())):
        raise CorruptDump("page-state note: a run reaches past all memory")
    return end - pairs[:, 1], end, at + 1 + 2 * count


def build_state_notes(states: PageStates) -> list[Note]:
    """Return the type 1 note, or several where the run list is beyond 16 MiB."""
    columns = [np.array([states.page_shift], np.uint64)]
    columns += [_runs_to_numbers(*states.absent.only(state)) for state in _NOTED_STATES]
    columns.append(_runs_to_numbers(*states.fill))
    partial = states.partial.copy()
    partial[1:, 0] -= states.partial[:-1, 0]
    columns.append(np.concatenate([np.array([len(partial)], np.uint64), partial.reshape(-1)]))
    runs = b"".join(encode_varints(column) for column in columns)
    parts = [runs[low : low + _PART_SIZE] for low in range(0, len(runs), _PART_SIZE)]
    digest = states.content_digest
    notes = []
    for number, part in enumerate(parts):
        head = _HEAD.pack(
            2, digest is not None, digest or bytes(32), states.state_digest, number, len(parts), len(runs)
        )
        notes.append(build_note(OUR_NAME, TYPE_STATES, head + part))
    return notes


def parse_state_notes(notes: Sequence[Note]) -> PageStates | None:
    """Return what the type 1 notes say, None where there is none.

    Raises:
        CorruptDump: They contradict themselves, or have a schema version to come.
    """
    ours = [note for note in notes if note.name == OUR_NAME and note.type == TYPE_STATES]
    if not ours:
        return None
    packed, first_version = b"", 0
    for number, note in enumerate(ours):
        raw = note.desc(_PART_SIZE + _HEAD.size)
        if len(raw) < _HEAD.size or len(raw) != note.size:
            raise CorruptDump(f"page-state note of {note.size} bytes", path=note.source.name, offset=note.offset)
        version, flags, content, states_hash, part, nr_parts, unpacked_size = _HEAD.unpack_from(raw)
        if version not in (1, 2):
            raise CorruptDump(f"page-state note has schema version {version}, this program knows 1 and 2")
        if number and version != first_version:
            raise CorruptDump(f"page-state notes have schema versions {first_version} and {version}")
        first_version = version
        if part != number or nr_parts != len(ours):
            raise CorruptDump(f"page-state note {number} of {len(ours)} says it is {part} of {nr_parts}")
        packed += raw[_HEAD.size :]
        if len(packed) > _MAX_UNPACKED:
            raise CorruptDump(f"page-state notes of more than {_MAX_UNPACKED} bytes")
    result = _parse_runs(decode_varints(_unpack(packed, unpacked_size, is_packed=first_version == 1)))
    result.content_digest = content if flags & 1 else None
    result.state_digest = states_hash
    return result


def _unpack(packed: bytes, size: int, *, is_packed: bool) -> bytes:
    # What the notes claim is believed as it comes, not allocated before.
    if size > _MAX_UNPACKED:
        raise CorruptDump(f"page-state note claims {size} bytes of runs, the limit is {_MAX_UNPACKED}")
    if not is_packed:
        if len(packed) != size:
            raise CorruptDump(f"page-state note has {len(packed)} bytes of runs, and says {size}")
        return packed
    import zstandard

    parts, have = [], 0
    try:
        decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 27)
        with decompressor.stream_reader(packed) as stream:
            while have <= size and (part := stream.read(min(1 << 20, size + 1 - have))):
                parts.append(part)
                have += len(part)
    except zstandard.ZstdError as error:
        raise CorruptDump(f"page-state note does not unpack: {error}") from error
    if have != size:
        raise CorruptDump(f"page-state note unpacks to {'more than ' * (have > size)}{have} bytes, not {size}")
    return b"".join(parts)


def _parse_runs(numbers: U64) -> PageStates:
    page_shift = int(numbers[0]) if len(numbers) else -1
    if page_shift and not 9 <= page_shift <= 20:
        raise CorruptDump(f"page-state note: pages of 2**{page_shift} bytes")
    at, frames = 1, 0
    absent = MemoryMap.from_runs([])
    for state in _NOTED_STATES:
        start, end, at = _numbers_to_runs(numbers, at)
        frames += int((end - start).sum())
        absent = absent.overlay(MemoryMap.from_columns(start, end, int(state)))
    if frames != sum(absent.count(state) for state in _NOTED_STATES):
        raise CorruptDump("page-state note: a frame has two states")
    fill_start, fill_end, at = _numbers_to_runs(numbers, at)
    if at >= len(numbers) or int(numbers[at]) * 3 != len(numbers) - at - 1:
        raise CorruptDump("page-state note: its list of partial frames is cut off")
    partial = numbers[at + 1 :].reshape(-1, 3).copy()
    size = np.uint64(1 << (page_shift or 20))
    if len(partial) and (int(partial[:, 0].max()) > MAX_PFN or bool((partial[:, 2] > size).any())):
        raise CorruptDump("page-state note: a partial frame reaches past its page")
    partial[:, 0] = np.cumsum(partial[:, 0])
    if bool((partial[:, 1] >= partial[:, 2]).any()) or bool((partial[1:, 0] < partial[:-1, 0]).any()):
        raise CorruptDump("page-state note: partial frames are out of order, or have no bytes")
    return PageStates(absent, (fill_start, fill_end), partial, page_shift)


def build_provenance(facts: dict[str, Any]) -> Note:
    """Return the type 2 note: JSON, sorted keys, zero-padded so that the note has 4096 bytes.

    Fields that do not fit are left out, longest first.
    """
    size = PROVENANCE_SIZE - 12 - (len(OUR_NAME) + 4 & ~3)
    facts = dict(facts)
    while len(raw := json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()) > size:
        del facts[max(facts, key=lambda key: len(json.dumps(facts[key])))]
    return build_note(OUR_NAME, TYPE_PROVENANCE, raw.ljust(size, b"\0"))


def take_our_notes(notes: Sequence[Note]) -> tuple[list[Note], list[Note]]:
    """Return the source's own notes (with those of ours whose type is not known here), and ours."""
    ours = [note.name == OUR_NAME and note.type in _OUR_TYPES for note in notes]
    pairs = list(zip(notes, ours, strict=True))
    return [note for note, is_ours in pairs if not is_ours], [note for note, is_ours in pairs if is_ours]


def read_provenance(desc: bytes) -> dict[str, Any]:
    """Return the JSON of a type 2 note, empty where it is not ours to read."""
    try:
        facts = json.loads(desc.rstrip(b"\0").decode())
    except (ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}
