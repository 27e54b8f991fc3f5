# SPDX-License-Identifier: GPL-2.0-or-later
"""`sbitmapq ADDRESS`: a sbitmap_queue, its bits, and with -s and -a what they stand for in an array."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from . import Problem, Words

_MAX_DEPTH = 1 << 24
_MAX_WAITERS = 8  # SBQ_WAIT_QUEUES
_DUMP_ROW = 16


def run(prog: Any, words: Sequence[str]) -> Iterator[str]:
    """Yield what the queue has.

    Raises:
        Problem: It is no such queue.
    """
    from drgn import Object
    from drgn.helpers.linux.sbitmap import sbitmap_for_each_set

    parser = Words("sbitmapq")
    parser.add_argument("-s", dest="struct", metavar="STRUCT")
    parser.add_argument("-a", dest="array", type=_address, metavar="ADDRESS")
    parser.add_argument("-p", dest="pointers", action="store_true")
    parser.add_argument("-v", dest="values", action="store_true")
    parser.add_argument("-x", action="store_true")  # of crash: how it shows structures; drgn's way is one
    parser.add_argument("-d", action="store_true")
    parser.add_argument("address", type=_address)
    args = parser.parse_args(list(words))
    if (args.struct is None) != (args.array is None):
        raise Problem("-s STRUCT and -a ADDRESS belong together")
    queue = Object(prog, "struct sbitmap_queue *", value=args.address)
    bitmap = queue.sb
    depth, shift, count = (each.value_() for each in (bitmap.depth, bitmap.shift, bitmap.map_nr))
    if not 0 < depth <= _MAX_DEPTH or shift > 6 or count != (depth + (1 << shift) - 1) >> shift:
        raise Problem(f"{args.address:#x} is no sbitmap_queue: depth {depth}, shift {shift}, {count} words")
    if args.struct is None:
        yield from _queue(prog, queue, depth, shift, count)
        return
    kind = prog.type(args.struct if " " in args.struct else f"struct {args.struct}")
    for bit in sbitmap_for_each_set(bitmap.address_of_()):
        if args.pointers:
            place = Object(prog, prog.pointer_type(prog.type("void")), address=args.array + bit * 8).value_()
        else:
            place = args.array + bit * kind.size
        if args.values:
            yield f"{bit} ({place:#x}):"
            yield from str(Object(prog, kind, address=place)).splitlines()
        else:
            yield f"{bit}: {place:#x}"


def _address(text: str) -> int:
    return int(text, 16)


def _queue(prog: Any, queue: Any, depth: int, shift: int, count: int) -> Iterator[str]:
    bitmap = queue.sb
    words = [each.word.value_() for each in bitmap.map[:count]]
    cleared = [_member(each, "cleared") or 0 for each in bitmap.map[:count]]
    yield f"depth = {depth}"
    yield f"busy = {sum((a & ~b).bit_count() for a, b in zip(words, cleared, strict=True))}"
    yield f"cleared = {sum(each.bit_count() for each in cleared)}"
    yield f"bits_per_word = {1 << shift}"
    yield f"map_nr = {count}"
    yield f"alloc_hint = {{{', '.join(map(str, _hints(prog, queue)))}}}"
    for name, value in (
        ("wake_batch", queue.wake_batch.value_()),
        ("wake_index", queue.wake_index.counter.value_()),
        ("ws_active", _counter(queue, "ws_active")),
    ):
        if value is not None:
            yield f"{name} = {value}"
    yield from _waiters(queue)
    for name in ("round_robin", "min_shallow_depth"):
        value = _member(queue, name)
        value = _member(bitmap, name) if value is None else value
        if value is not None:
            yield f"{name} = {int(value)}"
    yield ""
    yield from _bits(words, cleared, shift, depth)


def _member(value: Any, name: str) -> Any:
    try:
        return value.member_(name).value_()
    except LookupError:
        return None


def _counter(value: Any, name: str) -> int | None:
    try:
        found: int = value.member_(name).counter.value_()
    except LookupError:
        return None
    return found


def _hints(prog: Any, queue: Any) -> list[int]:
    from drgn.helpers.linux.cpumask import for_each_possible_cpu
    from drgn.helpers.linux.percpu import per_cpu_ptr

    try:
        hints = queue.sb.alloc_hint  # in the queue itself before 5.13
    except AttributeError:
        hints = queue.alloc_hint
    return [per_cpu_ptr(hints, cpu)[0].value_() for cpu in for_each_possible_cpu(prog)] if hints else []


def _waiters(queue: Any) -> Iterator[str]:
    yield "ws = {"
    for state in queue.ws[:_MAX_WAITERS] if queue.ws else ():
        head = state.wait.head
        busy = "inactive" if head.next.value_() == head.address_of_().value_() else "active"
        left = _counter(state, "wait_cnt")  # gone in 6.1.56 and 6.3
        said = "" if left is None else f".wait_cnt = {left}, "
        yield f"        {{ {said}.wait = {busy} }},"
    yield "}"


def _bits(words: list[int], cleared: list[int], shift: int, depth: int) -> Iterator[str]:
    value = 0
    for index, (word, gone) in enumerate(zip(words, cleared, strict=True)):
        value |= (word & ~gone & (1 << (1 << shift)) - 1) << (index << shift)
    data = (value & (1 << depth) - 1).to_bytes((depth + 7) // 8, "little")
    for at in range(0, len(data), _DUMP_ROW):
        row = data[at : at + _DUMP_ROW].hex()
        yield f"{at:08x}: " + " ".join(row[each : each + 4] for each in range(0, len(row), 4))
