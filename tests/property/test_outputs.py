# SPDX-License-Identifier: GPL-2.0-or-later
"""Every output holds the memory that went in: random dumps, each output, read back by readers of their own."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dumpconv.convert.convert import ConvertOptions, convert
from dumpconv.convert.kdump import KdumpOutput
from dumpconv.convert.layout import ElfOutput
from dumpconv.convert.lkcd import LkcdOutput
from dumpconv.convert.output import OutputFormat
from dumpconv.convert.placed import LimeOutput, RawOutput
from dumpconv.formats import codecs
from dumpconv.formats.image import DumpImage
from dumpconv.formats.vaddr import derive
from support import build_elf, build_kdump, product, reference_outputs, strategies
from support.build_elf import ElfSpec
from support.reference import ReferenceDump, decode

pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")
CODECS = (codecs.RAW, codecs.ZLIB, codecs.LZO, codecs.SNAPPY, codecs.ZSTD)
specs = strategies.kdump_specs() | strategies.elf_specs(overlaps=True)


def written(data: bytes, output: OutputFormat, **options: object) -> list[bytes]:
    """Convert a file's bytes; give those of each file written."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in", Path(folder) / "out"
        source.write_bytes(data)
        made = ConvertOptions(**{"sync": False, "output": output} | options)  # type: ignore[arg-type]
        report = convert(product.open_product(source), str(target), made)
        files = [Path(name).read_bytes() for name in report.files]
        assert sum(map(len, files)) == report.file_size
        assert sorted(path.name for path in Path(folder).iterdir()) == sorted(
            ["in", *(Path(name).name for name in report.files)]
        )
        return files


def streamed(data: bytes, output: OutputFormat, **options: object) -> bytes:
    """Convert a file's bytes to a pipe."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "in"
        source.write_bytes(data)
        stream = io.BytesIO()
        convert(
            product.open_product(source),
            None,
            ConvertOptions(**{"output": output} | options),  # type: ignore[arg-type]
            stream=stream,
        )
        return stream.getvalue()


def reference(*files: bytes, page_size: int | None = None) -> ReferenceDump:
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for index, data in enumerate(files):
            paths.append(Path(folder) / str(index))
            paths[-1].write_bytes(data)
        return decode(*paths, page_size=page_size)


def view(*files: bytes) -> product.View:
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for index, data in enumerate(files):
            paths.append(Path(folder) / str(index))
            paths[-1].write_bytes(data)
        return product.view(product.open_product(*paths))


def source_of(spec: build_kdump.KdumpSpec | ElfSpec) -> tuple[bytes, product.View]:
    made = build_kdump.build(spec) if isinstance(spec, build_kdump.KdumpSpec) else build_elf.build(spec)
    data = made.to_bytes()
    seen = view(data)
    assume(seen.pages)
    assume(not seen.reader.damage)
    return data, seen


def same(first: list[bytes], second: list[bytes]) -> bool:
    """Compare files without pytest printing them."""
    return first == second


def shifted(seen: product.View, out: ReferenceDump) -> dict[int, bytes]:
    """Give the pages of a kdump with the numbers that they have in memory (ARM counts from the start of RAM)."""
    lowest = min([*seen.pages, *(start for start, _ in seen.excluded)])
    first = min([*out.pages, *(start for start, _ in out.excluded_runs)])
    assert lowest == first or seen.reader.machine.arch == "arm"
    return {pfn + lowest - first: page for pfn, page in out.pages.items()}


@settings(max_examples=40)
@given(specs, st.sampled_from(CODECS), st.booleans())
def test_kdump(spec: build_kdump.KdumpSpec | ElfSpec, codec: int, digest: bool) -> None:
    data, seen = source_of(spec)
    (made,) = written(data, KdumpOutput(codec), digest=digest)
    out = reference(made)
    assert shifted(seen, out) == seen.pages
    moved = min(seen.pages) - min(out.pages)
    assert [(start + moved, end + moved) for start, end in out.excluded_runs] == seen.excluded
    assert (out.lost, out.damaged, out.exit_code) == ({}, {}, 0)
    back = view(made)
    assert (back.pages, back.excluded, back.partial) == (seen.pages, seen.excluded, seen.partial)
    assert back.reader.machine == seen.reader.machine
    assert back.digest == seen.digest
    assert (back.reader.recorded_digest == seen.digest) is digest


@settings(max_examples=30)
@given(specs, st.sampled_from(CODECS))
def test_a_flattened_kdump_is_the_kdump(spec: build_kdump.KdumpSpec | ElfSpec, codec: int) -> None:
    data, _ = source_of(spec)
    (plain,) = written(data, KdumpOutput(codec), digest=False)
    (flat,) = written(data, KdumpOutput(codec, flattened=True))
    assert same([streamed(data, KdumpOutput(codec, flattened=True))], [flat])
    assert same([reference_outputs.unflatten(flat)], [plain])


@settings(max_examples=30)
@given(specs, st.sampled_from(CODECS), st.integers(2, 5))
def test_a_split_set(spec: build_kdump.KdumpSpec | ElfSpec, codec: int, members: int) -> None:
    data, seen = source_of(spec)
    files = written(data, KdumpOutput(codec, members))
    assert len(files) == members
    assert shifted(seen, reference(*files[::-1])) == seen.pages
    back = view(*files)
    assert (back.pages, back.excluded, back.digest) == (seen.pages, seen.excluded, seen.digest)


@settings(max_examples=30)
@given(specs, st.sampled_from((8, 9)), st.sampled_from((codecs.RAW, codecs.ZLIB)))
def test_lkcd(spec: build_kdump.KdumpSpec | ElfSpec, version: int, codec: int) -> None:
    data, seen = source_of(spec)
    (made,) = written(data, LkcdOutput(version, codec))
    out = reference_outputs.lkcd(made)
    assert out.pages == seen.pages
    assert out.records == sorted(out.records)
    assert out.end_flags == 4
    assert out.header["version"] == version
    assert out.header["num_pages"] == len(seen.pages)
    assert out.header["page_size"] == seen.reader.machine.page_size
    assert out.header["compress"] == {codecs.RAW: 0, codecs.ZLIB: 2}[codec]
    assert set(out.flags.values()) <= ({1} if codec == codecs.RAW else {1, 2})
    assert same([streamed(data, LkcdOutput(version, codec))], [made])
    back = view(made)
    assert back.pages == seen.pages
    assert back.digest == seen.digest
    assert back.reader.machine == seen.reader.machine
    assert not (back.excluded or back.lost or back.damaged or back.reader.incomplete)


@settings(max_examples=30)
@given(specs)
def test_lime_and_raw(spec: build_kdump.KdumpSpec | ElfSpec) -> None:
    data, seen = source_of(spec)
    machine, size = seen.reader.machine, seen.reader.machine.page_size
    (made,) = written(data, LimeOutput())
    assert reference_outputs.lime(made, size, "<" if machine.byteorder == "little" else ">") == seen.pages
    assert same([streamed(data, LimeOutput())], [made])
    if seen.reader.memory_map.end_pfn * size > 1 << 28:
        return
    (raw,) = written(data, RawOutput())
    expected = bytearray(seen.reader.memory_map.end_pfn * size)
    for pfn, page in seen.pages.items():
        expected[pfn * size : (pfn + 1) * size] = page
    assert same([raw], [bytes(expected)])
    assert same([streamed(data, RawOutput())], [raw])


OUTPUTS: Sequence[OutputFormat] = (
    KdumpOutput(codecs.ZLIB),
    KdumpOutput(codecs.LZO, 3),
    KdumpOutput(codecs.ZSTD, flattened=True),
    LkcdOutput(),
    LimeOutput(),
)


@settings(max_examples=20)
@given(
    strategies.kdump_specs(page_sizes=(4096,)),
    st.sampled_from(OUTPUTS),
    st.integers(1, 4),
    st.sampled_from((4096, 20000, 1 << 20)),
)
def test_jobs_and_batches_do_not_show(spec: build_kdump.KdumpSpec, output: OutputFormat, jobs: int, batch: int) -> None:
    data, _ = source_of(spec)
    assert same(written(data, output, jobs=jobs, executor="threads", batch_bytes=batch), written(data, output))


@settings(max_examples=25)
@given(specs, st.sampled_from(CODECS))
def test_elf_to_kdump_to_elf_changes_nothing(spec: build_kdump.KdumpSpec | ElfSpec, codec: int) -> None:
    data, seen = source_of(spec)
    assume(derive(seen.reader, DumpImage(seen.reader)).origin != "source")  # kdump has no virtual addresses
    (elf,) = written(data, ElfOutput())
    assume(view(elf).reader.machine.page_size == seen.reader.machine.page_size)
    (kdump,) = written(elf, KdumpOutput(codec))
    assert same(written(kdump, ElfOutput()), [elf])
    assert same(written(kdump, KdumpOutput(codec)), [kdump])


@settings(max_examples=15)
@given(strategies.kdump_specs(page_sizes=(4096,)))
def test_the_source_codec_does_not_show(spec: build_kdump.KdumpSpec) -> None:
    data, _ = source_of(spec)
    made = {
        name: written(data, KdumpOutput(codec), digest=True) for name, codec in (("a", codecs.LZO), ("b", codecs.RAW))
    }
    again = [written(files[0], KdumpOutput(codecs.ZLIB)) for files in made.values()]
    assert again[0] == again[1]
