# SPDX-License-Identifier: GPL-2.0-or-later
"""What a conversion gives depends on memory and notes alone."""

from __future__ import annotations

import struct
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dumpconv.convert.convert import ConvertOptions, ConvertReport, convert
from support import build_elf, build_kdump, notes, patterns, product, strategies, x86_memory
from support.build_elf import ElfSpec, Segment
from support.reference import decode, runs_of

# a failing example is larger than hypothesis likes
pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")


def converted(data: bytes, out: str = "out", **options: object) -> bytes:
    """Convert a file's bytes and give the output's."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in", Path(folder) / out
        source.write_bytes(data)
        run(source, target, **options)
        return target.read_bytes()


def run(source: Path, target: Path, **options: object) -> ConvertReport:
    reader = product.open_product(source)
    return convert(reader, str(target), ConvertOptions(**{"sync": False} | options))  # type: ignore[arg-type]


def blank(data: bytes, order: str = "<") -> bytes:
    """Take out the descriptor of the type 2 note: it says what the source was."""
    head = struct.pack(order + "III", 9, 4072, 0x44430002)
    assert data.count(head) == 1
    at = data.index(head) + 24
    return data[:at] + bytes(4072) + data[at + 4072 :]


def view(data: bytes) -> product.View:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dump"
        path.write_bytes(data)
        return product.view(product.open_product(path))


def first_frame(seen: product.View, spec: build_kdump.KdumpSpec) -> int:
    """Give the number of a file's frame 0: the start of RAM in makedumpfile's dumps of ARM."""
    shifted = any(finding.code == "arm-pfn" for finding in seen.reader.findings)
    assert not shifted or spec.uts["machine"] == "armv7l"
    return spec.phys_base // spec.page_size if shifted else 0


@given(strategies.kdump_specs())
def test_a_built_kdump_round_trips(spec: build_kdump.KdumpSpec) -> None:
    image = build_kdump.build(spec)
    seen = view(image.to_bytes())
    base = first_frame(seen, spec)
    assert seen.pages == {base + pfn: page for pfn, page in image.pages.items()}
    assert seen.excluded == [(base + low, base + high) for low, high in spec.excluded]
    assert not (seen.lost or seen.damaged or seen.reader.damage)


@settings(max_examples=25)
@given(strategies.kdump_specs(versions=(2, 3, 4, 5, 6), page_sizes=(4096, 8192)), st.data())
def test_a_split_set_is_the_whole(spec: build_kdump.KdumpSpec, data: st.DataObject) -> None:
    ranges = data.draw(strategies.split_ranges(spec.max_mapnr or 1))
    members = data.draw(st.permutations(build_kdump.build_split(spec, ranges)))
    with tempfile.TemporaryDirectory() as folder:
        paths = [member.write_to(Path(folder) / str(index)) for index, member in enumerate(members)]
        seen = product.view(product.open_product(*paths))
        base = first_frame(seen, spec)
        assert seen.pages == {base + pfn: page for pfn, page in build_kdump.build(spec).pages.items()}


@given(strategies.elf_specs(overlaps=True))
def test_a_built_elf_round_trips(spec: build_elf.ElfSpec) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = build_elf.build(spec).write_to(Path(folder) / "dump")
        reader = product.open_product(path)
        dump = decode(path, page_size=reader.machine.page_size)
        seen = product.view(reader)
        assert (seen.pages, seen.excluded, seen.partial) == (dump.pages, dump.excluded_runs, dump.partial)


@settings(max_examples=25)
@given(strategies.kdump_specs(page_sizes=(4096,)) | strategies.elf_specs(overlaps=True))
def test_a_second_conversion_changes_nothing(spec: build_kdump.KdumpSpec | ElfSpec) -> None:
    made = build_kdump.build(spec) if isinstance(spec, build_kdump.KdumpSpec) else build_elf.build(spec)
    data = made.to_bytes()
    assume(view(data).pages)
    once = converted(data)
    assert converted(once, "another-name") == once


@settings(max_examples=20)
@given(strategies.kdump_specs(page_sizes=(4096,)), st.integers(1, 4), st.sampled_from((4096, 20000, 1 << 20)))
def test_jobs_and_batches_do_not_show(spec: build_kdump.KdumpSpec, jobs: int, batch: int) -> None:
    data = build_kdump.build(spec).to_bytes()
    assume(spec.pages)
    assert converted(data, jobs=jobs, executor="threads", batch_bytes=batch) == converted(data)


@settings(max_examples=20)
@given(strategies.kdump_specs(versions=(6,), page_sizes=(4096,)), st.data())
def test_codec_order_and_sharing_do_not_show(spec: build_kdump.KdumpSpec, data: st.DataObject) -> None:
    assume(spec.pages)
    spec = replace(spec, pages=build_kdump.build(spec).pages, share={})
    other = replace(
        spec,
        codec=data.draw(st.sampled_from(sorted(build_kdump.CODEC_FLAGS))),
        page_codecs={},
        shuffle=data.draw(st.none() | st.integers(0, 9)),
        share_zero=data.draw(st.booleans()),
        data_gap=77,
    )
    first, second = (converted(build_kdump.build(each).to_bytes()) for each in (spec, other))
    assert blank(first, spec.order) == blank(second, spec.order)


@settings(max_examples=20)
@given(strategies.page_maps(), st.sampled_from(("x86_64", "i386", "s390x", "riscv64", "ppc64le")))
def test_the_same_memory_as_kdump_and_as_elf(drawn: strategies.MapDraw, name: str) -> None:
    assume(drawn.pages)
    arch = notes.ARCHES[name]
    blob = notes.machine_notes(name)
    kdump = build_kdump.KdumpSpec(
        drawn.pages,
        drawn.excluded,
        layout="64" if arch.bits == 64 else "32pack",
        order=arch.order,
        notes=blob,
        vmcoreinfo=notes.vmcoreinfo_text(),
        uts={"machine": arch.uts_machine, "release": "6.1.0-test"},
        eraseinfo=b"",
    )
    segments = [
        Segment(low * 4096, b"".join(drawn.pages[pfn] for pfn in range(low, high)), vaddr=0)
        for low, high in runs_of(drawn.pages)
    ] + [Segment(low * 4096, memsz=(high - low) * 4096, vaddr=0) for low, high in drawn.excluded]
    elf = ElfSpec(segments, notes=blob, bits=arch.bits, order=arch.order, machine=arch.machine)
    first, second = converted(build_kdump.build(kdump).to_bytes()), converted(build_elf.build(elf).to_bytes())
    assert blank(first, arch.order) == blank(second, arch.order)


@pytest.mark.parametrize("executor", ["serial", "threads", "processes", "spawn"])
def test_executors_do_not_show(executor: str, tmp_path: Path) -> None:
    memory = x86_memory.kaslr()
    build_kdump.build(memory.kdump_spec()).write_to(tmp_path / "in")
    run(tmp_path / "in", tmp_path / "serial", executor="serial")
    run(tmp_path / "in", tmp_path / "out", executor=executor, jobs=2, batch_bytes=50000)
    assert (tmp_path / "out").read_bytes() == (tmp_path / "serial").read_bytes()


def test_real_page_tables_as_kdump_and_as_elf(tmp_path: Path) -> None:
    memory = x86_memory.kaslr()
    build_kdump.build(memory.kdump_spec()).write_to(tmp_path / "kdump")
    for name, spec in {
        "kernel": memory.elf_spec(),
        "blind": memory.elf_spec(with_vaddr=False),
        "plain": memory.elf_spec(text_alias=False),
    }.items():
        build_elf.build(spec).write_to(tmp_path / name)
    outputs = set()
    for name in ("kdump", "kernel", "blind", "plain"):
        report = run(tmp_path / name, tmp_path / "out")
        assert report.addresses.startswith("derived")
        outputs.add(blank((tmp_path / "out").read_bytes()))
    assert len(outputs) == 1


def test_digest_and_options_change_what_they_say_alone() -> None:
    data = build_kdump.build(build_kdump.KdumpSpec(patterns.pages(3, 9))).to_bytes()
    whole, bare = converted(data), converted(data, digest=False)
    differing = [at for at, (a, b) in enumerate(zip(whole, bare, strict=True)) if a != b]
    assert differing
    note = whole.index(b"DUMPCONV\0") + 12  # the descriptor: version, flags, content digest
    assert note + 4 <= min(differing)
    assert max(differing) < note + 40
