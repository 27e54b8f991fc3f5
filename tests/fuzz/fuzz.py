# SPDX-License-Identifier: GPL-2.0-or-later
"""Mutates small dumps and holds what the product makes of them against the reference decoder.

    python tests/fuzz/fuzz.py --count 200000 --jobs 2 --seed 1 [--format kdump|elf|flattened] [--out DIR]
    python tests/fuzz/fuzz.py --seed 1 --only 4711          one mutation again, with its traceback
    python tests/fuzz/fuzz.py --replay FILE...              a saved finding again

A finding is an exception that is no DumpError, other pages or states than the reference's, a file taken for whole
that the reference finds damaged (or the reverse), more than 2 seconds, or more than 300 MB. Findings are saved in
DIR (default: fuzz-findings) with the seed and number that make them again. Exit code 1 if there is any.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import tempfile
import time
import tomllib
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dumpconv.convert.convert import ConvertOptions, convert
from dumpconv.formats.errors import CorruptDump, DumpError
from dumpconv.formats.pages import PageState
from support import (
    build_elf,
    build_kdump,
    build_lkcd,
    corpus_elf,
    corpus_kdump,
    corpus_lkcd,
    corrupt,
    make_corpus,
    patterns,
    product,
    reference_elf,
    reference_lime,
)
from support.reference import ReferenceDump, ReferenceError, decode

SECONDS, HANG = 2.0, 10.0
MEMORY = 300 << 20
LISTED = 64 << 20  # bytes of pages that are compared one by one: a few bytes may claim a terabyte of zeros
CONVERT_EVERY = 16  # a conversion and a second look cost ten times a decode
KEPT = 5  # findings of one kind that are saved
NUMBERS = (0, 1, 2, 3, 4, 7, 8, 0x10, 0x18, 0x20, 0x40, 0x7F, 0x80, 0xFF, 0x100, 0x1FF, 0x200, 0xFFF, 0x1000, 0x1001,
           0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 32, 1 << 40, 1 << 52,
           (1 << 63) - 1, 1 << 63, (1 << 64) - 4096, (1 << 64) - 1)  # fmt: skip


@dataclass
class Seed:
    """A dump to mutate: its files, and places worth hitting (bytes that are not zero, and their neighbours)."""

    name: str
    files: list[bytes]
    canonical: bool = False  # its notes say more than the reference reads
    options: dict[str, Any] = field(default_factory=dict)  # what the user must say to have it read

    def __post_init__(self) -> None:
        self.places = [[at for at, byte in enumerate(data[:6000]) if byte] or [0] for data in self.files]
        for places, data in zip(self.places, self.files, strict=True):  # records of LKCD begin at 64 KiB
            places += [65536 + at for at, byte in enumerate(data[65536:66536]) if byte]


class Hang(BaseException):
    """The product did not come back."""


def seeds(kind: str | None) -> list[Seed]:
    """Give the corpus, some larger built files, and canonical files of our own making."""
    found = []
    for description in make_corpus.descriptions():
        if kind in (None, description.parent.name):
            facts = tomllib.loads(description.read_text())
            files = [(description.parent / name).read_bytes() for name in facts["files"]]
            name = f"{description.parent.name}/{description.stem}"
            said = {"machine": "x86_64"} if description.parent.name in ("lime", "avml") else {}
            found.append(Seed(name, files, options=said | facts.get("options", {})))
    if kind in (None, "kdump"):
        for codec in build_kdump.CODEC_FLAGS:
            spec = corpus_kdump.base(codec=codec, share_zero=True, shuffle=3, share={60: 3, 61: 50})
            found.append(Seed(f"built/kdump-{codec}", [build_kdump.build(spec).to_bytes()]))
    if kind in (None, "lkcd"):
        for method in (build_lkcd.NONE, build_lkcd.RLE, build_lkcd.GZIP):
            pages = patterns.pages(1, 60, kind="byte") | patterns.pages(60, 64, kind="mixed")
            made = build_lkcd.build(corpus_lkcd.base(pages=pages, compress=method, shuffle=5)).to_bytes()
            found.append(Seed(f"built/lkcd-{method}", [made]))
    if kind in (None, "elf"):
        made = build_elf.build(corpus_elf.spec(placement="packed")).to_bytes()
        found.append(Seed("built/elf-packed", [made]))
        found += canonical_seeds()
    return found


def canonical_seeds() -> Iterator[Seed]:
    """Convert some of the corpus; our own files are input, too."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("kdump/codec-zlib.kdump", "elf/kernel.elf", "elf/tail.elf", "elf/end-inside-a-page.elf",
                     "elf/elf32-little.elf", "kdump/big-endian-s390x.kdump", "kdump/incomplete.kdump"):  # fmt: skip
            out = Path(folder) / "out"
            convert(product.open_product(make_corpus.CORPUS / name), str(out), ConvertOptions(sync=False))
            yield Seed(f"canonical/{name}", [out.read_bytes()], canonical=True)
            out.unlink()


def mutate(seed: Seed, rng: random.Random) -> list[bytes]:
    """Change one file of a seed, one to four times; half of the changes hit headers and tables."""
    files = list(seed.files)
    which = rng.randrange(len(files))
    data = files[which]
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        data = _hit(data, seed.places[which], rng) if rng.random() < 0.6 else corrupt.mutate(data, rng)
    files[which] = data
    return files


def _hit(data: bytes, places: list[int], rng: random.Random) -> bytes:
    at = max(0, rng.choice(places) + rng.choice((0, 0, 0, -1, 1, -4, 4, -8, 8)))
    how = rng.randrange(4)
    if how == 0:
        return corrupt.flip(data, 8 * min(at, len(data) - 1) + rng.randrange(8)) if data else data
    width = rng.choice((1, 2, 4, 4, 8, 8))
    if how == 1 and len(data) >= width:
        source = rng.randrange(len(data) - width + 1)
        new = data[source : source + width]
    else:
        number = rng.choice(NUMBERS) if how == 2 else len(data) + rng.randrange(-40, 40)
        new = (number & (1 << 8 * width) - 1).to_bytes(width, rng.choice(("little", "little", "big")))
    return corrupt.overwrite(data, at - at % width if rng.random() < 0.7 else at, new)[: max(len(data), at)]


# -- one mutation --------------------------------------------------------------------------------------------------


def run_one(
    files: Sequence[bytes], folder: Path, *, canonical: bool, convert_too: bool, options: dict[str, Any] | None = None
) -> tuple[str, str]:
    """Decode by product and reference; give (outcome, detail). Outcomes that are findings begin with `!`."""
    paths = [folder / str(index) for index in range(len(files))]
    for path, data in zip(paths, files, strict=True):
        path.write_bytes(data)
    begin = time.process_time()  # other programs' work is not ours
    signal.setitimer(signal.ITIMER_REAL, HANG)
    try:
        seen: product.View | None
        reader = product.open_product(*paths, salvage=True, **(options or {}))
        reader.finish_notes()
        if reader.memory_map.count(PageState.STORED) * reader.machine.page_size > LISTED:
            return "not to be compared: more pages than fit", ""
        seen = product.view(reader)
        refusal = ""
    except DumpError as error:
        seen, refusal = None, f"{type(error).__name__} {error.exit_code} {error.message}"
    except Hang:
        return "!hang", "".join(traceback.format_stack()[-3:])
    except MemoryError:
        return "!memory", traceback.format_exc()
    except Exception as error:
        return f"!{type(error).__name__}", traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    took = time.process_time() - begin
    if took > SECONDS:
        return "!slow", f"{took:.2f} s {refusal}"
    outcome = judge(seen, refusal, paths, canonical=canonical, options=options)
    if seen is not None and convert_too and not outcome[0].startswith("!"):
        return convert_and_compare(seen, folder) or outcome
    return outcome


def judge(
    seen: product.View | None, refusal: str, paths: Sequence[Path], *, canonical: bool, options: dict[str, Any] | None
) -> tuple[str, str]:
    """Compare with the reference decoder."""
    try:
        guess = (
            seen.reader.machine.page_size
            if seen is not None and seen.reader.name in ("elf", "kcore", "netdump")
            else None
        )
        dump = decode(*paths, salvage=True, page_size=guess, options=options)
    except ReferenceError as error:
        if seen is None:
            return "refused by both", refusal
        if "cannot place a record" in error.reason:
            return "not to be compared: sparse beyond the file system", error.reason
        if seen.reader.damage is not None or seen.lost or seen.damaged or canonical:
            return "damaged, refused by the reference", error.reason
        return "!accepted, refused by the reference", error.reason
    except MemoryError:
        return "reference out of memory", ""
    if seen is None:
        return "refused by the product alone", refusal
    if any(source.damage and source.damage.message.startswith("flattened record of") for source in seen.reader.sources):
        return "not to be compared: the reference takes a record of 2^56 bytes", ""
    difference = compare(seen, dump, canonical=canonical)
    if difference:
        return "!differs", difference
    return ("same, whole" if not (dump.lost or dump.damaged) else "same, with lost or damaged pages"), ""


def compare(seen: product.View, dump: ReferenceDump, *, canonical: bool) -> str:
    """Say in what the product differs from the reference, empty if in nothing."""
    if any(finding.code in ("arm-pfn", "block-size") for finding in seen.reader.findings):
        return ""  # the reference numbers frames as the file does
    for pfn in [pfn for pfn in seen.pages if _unused_code(dump.damaged.get(pfn, ""))]:
        dump.pages[pfn] = seen.pages[pfn]
        del dump.damaged[pfn]
    if seen.pages != dump.pages:
        more, less = seen.pages.keys() - dump.pages.keys(), dump.pages.keys() - seen.pages.keys()
        other = [pfn for pfn in seen.pages.keys() & dump.pages.keys() if seen.pages[pfn] != dump.pages[pfn]]
        return f"pages: {len(more)} more, {len(less)} less, {len(other)} other: {[*more, *less, *other][:5]}"
    if canonical:
        return ""
    facts = (
        ("lost", seen.lost, set(dump.lost)),
        ("damaged", seen.damaged, set(dump.damaged)),
        ("excluded", seen.excluded, dump.excluded_runs),
        ("partial", seen.partial, dump.partial),
        ("page size", seen.reader.machine.page_size, dump.page_size),
        ("incomplete", seen.reader.incomplete, dump.incomplete),
    )
    for name, mine, theirs in facts:
        if mine != theirs:
            return f"{name}: {str(mine)[:200]} against {str(theirs)[:200]}"
    whole = not (seen.lost or seen.damaged or isinstance(seen.reader.damage, CorruptDump))
    if whole != (not (dump.lost or dump.damaged or dump.truncated)):
        return f"verdict: product's damage {seen.reader.damage}, reference's exit code {dump.exit_code}"
    return ""


def _unused_code(reason: str) -> bool:
    # Where a Huffman code of the deflate stream has one symbol, libdeflate takes the bit that zlib calls invalid for
    # that symbol, too. The page is right all the same: its Adler-32 was checked.
    return reason.startswith("zlib: Error -3") and "invalid" in reason and reason.endswith(" code")


def convert_and_compare(seen: product.View, folder: Path) -> tuple[str, str] | None:
    """Convert with salvage and read the result; give a finding or nothing."""
    out = folder / "out"
    try:
        convert(seen.reader, str(out), ConvertOptions(sync=False, salvage=True))
        again = product.view(product.open_product(out, salvage=True))
    except DumpError as error:
        out.unlink(missing_ok=True)
        return None if not seen.pages else ("!convert refused", str(error))
    except Exception as error:
        return f"!convert {type(error).__name__}", traceback.format_exc()
    finally:
        left = [path.name for path in folder.iterdir() if path.name == "out.incomplete"]
    out.unlink()
    if left:
        return "!convert left a file", str(left)
    if again.pages != seen.pages or again.digest != again.reader.recorded_digest:
        return "!convert differs", f"{len(again.pages)} pages against {len(seen.pages)}"
    if (again.lost, again.damaged, again.excluded, again.partial) != (
        seen.lost, seen.damaged, seen.excluded, {pfn: runs for pfn, runs in seen.partial.items() if pfn in seen.pages}
    ):  # fmt: skip
        return "!convert: states differ", f"{again.description()} against {seen.description()}"
    return None


# -- the loop ------------------------------------------------------------------------------------------------------


def make(options: argparse.Namespace, all_seeds: Sequence[Seed], number: int) -> tuple[Seed, list[bytes]]:
    """Give mutation `number` of a run; the same for the same --seed, --format and corpus."""
    rng = random.Random(f"{options.seed}:{number}")
    seed = rng.choice(all_seeds)
    return seed, mutate(seed, rng)


def _limit() -> None:
    def hang(signum: int, frame: FrameType | None) -> None:
        raise Hang

    signal.signal(signal.SIGALRM, hang)
    reference_elf.MAX_LOST = 1 << 24  # it lists lost frames one by one
    reference_lime.MAX_CLAIM = 1 << 24
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))


def worker(options: argparse.Namespace, all_seeds: Sequence[Seed], first: int, queue: Any) -> None:
    """Run every --jobs'th mutation; report outcomes in lots of a hundred."""
    _limit()
    counts: Counter[str] = Counter()
    findings: list[tuple[int, str, str, str]] = []
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        for done, number in enumerate(range(first, options.count, options.jobs), 1):
            seed, files = make(options, all_seeds, number)
            outcome, detail = run_one(
                files,
                Path(folder),
                canonical=seed.canonical,
                convert_too=number % CONVERT_EVERY == 0,
                options=seed.options,
            )
            counts[outcome] += 1
            if outcome.startswith("!") or (outcome == "refused by the product alone" and options.verbose):
                findings.append((number, seed.name, outcome, detail))
            if done % 100 == 0:
                queue.put((counts, findings))
                counts, findings = Counter(), []
    queue.put((counts, findings))
    queue.put(None)


def save(options: argparse.Namespace, all_seeds: Sequence[Seed], finding: tuple[int, str, str, str]) -> Path:
    """Write the files of a finding and what it was."""
    number, name, outcome, detail = finding
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / f"{outcome.strip('!').replace(' ', '-').replace(':', '')}-{options.seed}-{number}"
    _, files = make(options, all_seeds, number)
    for index, data in enumerate(files):
        Path(f"{stem}.{index}").write_bytes(data)
    facts = {"seed": options.seed, "number": number, "format": options.format, "made from": name, "outcome": outcome}
    path = Path(f"{stem}.json")
    path.write_text(json.dumps({**facts, "detail": detail}, indent=2) + "\n")
    return path


def fuzz(options: argparse.Namespace) -> int:
    """Run all workers; print counts as they come; give the exit code."""
    all_seeds = seeds(options.format)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=worker, args=(options, all_seeds, n, queue)) for n in range(options.jobs)]
    for process in processes:
        process.start()
    counts: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    running, begin, told = len(processes), time.monotonic(), 0.0
    while running:
        message = queue.get()
        if message is None:
            running -= 1
            continue
        counts += message[0]
        for finding in message[1]:
            kind = finding[2] + "".join(finding[3].splitlines()[-1:])[:60]
            kinds[kind] += 1
            if kinds[kind] <= KEPT:
                print(f"{save(options, all_seeds, finding)}: {finding[2]}: {finding[3].splitlines()[-1:]}", flush=True)
        if time.monotonic() - told > 30:
            told = time.monotonic()
            print(f"{counts.total()} in {told - begin:.0f} s", flush=True)
    for process in processes:
        process.join()
    for outcome, count in counts.most_common():
        print(f"{count:9} {outcome}")
    print(f"{counts.total():9} mutations in {time.monotonic() - begin:.0f} s, seed {options.seed}")
    return int(any(outcome.startswith("!") for outcome in counts))


def again(options: argparse.Namespace) -> int:
    """Run one mutation or saved files, and show all of the outcome."""
    all_seeds = [] if options.replay else seeds(options.format)
    _limit()
    with tempfile.TemporaryDirectory() as folder:
        if options.replay:
            files, canonical, said = [Path(path).read_bytes() for path in options.replay], False, {}
        else:
            seed, files = make(options, all_seeds, options.only)
            canonical, said = seed.canonical, seed.options
            print(f"made from {seed.name}")
        outcome, detail = run_one(files, Path(folder), canonical=canonical, convert_too=True, options=said)
    print(outcome, detail, sep="\n")
    return int(outcome.startswith("!"))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10000, help="mutations")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--format", choices=make_corpus.FORMATS)
    parser.add_argument("--out", default="fuzz-findings")
    parser.add_argument("--only", type=int, metavar="NUMBER")
    parser.add_argument("--replay", nargs="+", metavar="FILE")
    parser.add_argument("--verbose", action="store_true", help="also save what the product alone refuses")
    options = parser.parse_args(arguments)
    return again(options) if options.replay or options.only is not None else fuzz(options)


if __name__ == "__main__":
    raise SystemExit(main())
