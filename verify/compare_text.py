# SPDX-License-Identifier: GPL-2.0-or-later
"""How the report of `dumpconv compare` is shown: text and JSON."""

from __future__ import annotations

from typing import Any

from ..formats.decode import Damage
from .compare import CompareReport

__all__ = ["render", "to_json"]

SCHEMA = "dumpconv.compare/1"
_SHOWN_DAMAGE = 5
_KINDS = {"bytes": "bytes differ", "partial": "partial frame differs", "only-a": "only in A", "only-b": "only in B"}


def to_json(report: CompareReport) -> dict[str, Any]:
    """Return the report as JSON values (docs/json.md)."""
    return {
        "schema": SCHEMA,
        "by": report.by,
        "same_memory": report.same_memory,
        "same_states": report.same_states,
        "same_notes": report.same_notes,
        "pages": report.pages,
        "states": [{"a": a, "b": b, "pages": count} for (a, b), count in report.states.items()],
        "ranges": [{"start_pfn": each.start_pfn, "end_pfn": each.end_pfn, "kind": each.kind} for each in report.ranges],
        "ranges_left_out": report.nr_ranges_left_out,
        "damage_a": [_damage(each) for each in report.damage_a],
        "damage_b": [_damage(each) for each in report.damage_b],
        "notes": report.notes,
        "remarks": report.remarks,
    }


def _damage(damage: Damage) -> dict[str, Any]:
    return {"pfn": damage.pfn, "state": damage.state.name.lower(), "reason": damage.reason, "offset": damage.offset}


def render(report: CompareReport) -> list[str]:
    """Return the report as lines; the last one is the verdict on memory."""
    pages = report.pages
    lines = [f"note: {remark}" for remark in report.remarks]
    for each in report.ranges:
        lines.append(f"pfn {each.start_pfn:#x}-{each.end_pfn - 1:#x}: {_KINDS[each.kind]}")
    if report.nr_ranges_left_out:
        lines.append(f"... {report.nr_ranges_left_out} more differing ranges (--limit)")
    for side, damage in (("A", report.damage_a), ("B", report.damage_b)):
        lines += [f"damaged in {side}: pfn {each.pfn:#x}: {each.reason}" for each in damage[:_SHOWN_DAMAGE]]
        if pages[f"damaged_{side.lower()}"] > _SHOWN_DAMAGE:
            lines.append(f"... {pages[f'damaged_{side.lower()}']} damaged pages in {side}")
    if pages["partial"]:
        lines.append(
            f"partial frames: {pages['partial']}, of which {pages['partial_differing']} differ in bytes that both "
            f"hold, {pages['partial_missing']} in bytes that one lacks"
        )
    for (a, b), count in report.states.items():
        lines.append(f"states: {count} pages {a} in A, {b} in B")
    if report.same_states:
        lines.append("states: the same")
    lines += report.notes or ["registers and VMCOREINFO: the same"]
    lines.append(_verdict(report))
    return lines


def _verdict(report: CompareReport) -> str:
    pages = report.pages
    if report.by == "digest":
        how = "by the digests that both files carry"
        return f"memory: {'the same' if report.same_memory else 'differs'}, {how}; no page was read"
    if report.same_memory:
        return f"memory: the same, {pages['compared']} pages compared"
    texts = {
        "differing": "differ",
        "only_a": "only in A",
        "only_b": "only in B",
        "damaged_a": "damaged in A",
        "damaged_b": "damaged in B",
    }
    parts = [f"{pages[key]} {text}" for key, text in texts.items() if pages[key]]
    partial = pages["partial_differing"] + pages["partial_missing"]
    if partial:
        parts.append(f"{partial} partial frames differ")
    return f"memory: differs, {pages['compared']} pages compared: {', '.join(parts)}"
