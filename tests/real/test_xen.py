# SPDX-License-Identifier: GPL-2.0-or-later
"""Real Xen guests: what each told of its own pages, what crash and libkdumpfile see before and after conversion.

A paravirtual guest that crashed (`xl dump-core`) and a PVH guest that was saved (`xl save`). Each wrote a text into 24
pages that it pinned, and their frames to its console.
"""

from __future__ import annotations

import re
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from dumpconv.convert.convert import ConvertOptions, convert
from dumpconv.formats.image import DumpImage
from support import build_elf, build_xen, notes, oracle_tools, product
from support.oracles import has_libkdumpfile

pytestmark = pytest.mark.real

RELEASE = "6.1.0-56-cloud-amd64"
PAGE = 4096
DIRECT_MAP = 0xFFFF888000000000
INIT_TOP_PGT = 0x2A10  # frame of the kernel's own top table, by its System.map: pinned too
FILES = {"pv2": "pv2-crashed.core", "pvh1": "pvh1.save"}


@pytest.fixture(scope="module")
def work(real_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpack both files and convert them."""
    folder = tmp_path_factory.mktemp("xen")
    for name in FILES.values():
        packed = real_dir / "xen" / f"{name}.zst"
        if not packed.is_file():
            pytest.skip(f"{packed} is missing")
        oracle_tools.unpack(packed, folder)
        reader = product.open_product(folder / name)
        convert(reader, str(folder / f"{name}.elf"), ConvertOptions(sync=False))
    return folder


def told_pages(real_dir: Path, tag: str) -> dict[int, bytes]:
    """Give frame -> content as the guest's console tells."""
    log = next((real_dir / "xen").glob(f"{tag}*.console.log")).read_text(errors="replace")
    found = re.findall(rf"MARK {tag} page=(\d\d) va=\S+ pfn=(0x[0-9a-f]+)", log)
    assert len(found) == 24
    return {int(pfn, 16): f"DUMPCONV-XEN-MARK {tag} page {number} of 24".encode() for number, pfn in found}


@pytest.mark.parametrize("tag", FILES)
def test_each_frame_holds_the_text_that_the_guest_put_there(tag: str, work: Path, real_dir: Path) -> None:
    converted = (work / f"{FILES[tag]}.elf").read_bytes()
    loads = program_headers(converted)
    image = DumpImage(product.open_product(work / FILES[tag]))
    for pfn, text in told_pages(real_dir, tag).items():
        number = int(text.split()[3])
        at = next(offset + pfn * PAGE - paddr for offset, _, paddr, size in loads if 0 <= pfn * PAGE - paddr < size)
        for page in (converted[at : at + PAGE], image.read_page(pfn)):
            assert page.startswith(text), f"frame {pfn:#x}"
            assert page[-100:] == bytes([ord("a") + number]) * 100


def program_headers(data: bytes) -> list[tuple[int, int, int, int]]:
    """Give (file offset, vaddr, paddr, size) of each PT_LOAD."""
    phoff, phnum = struct.unpack_from("<Q", data, 32)[0], struct.unpack_from("<H", data, 56)[0]
    rows = [struct.unpack_from("<IIQQQQQQ", data, phoff + 56 * index) for index in range(phnum)]
    return [(row[2], row[3], row[4], row[5]) for row in rows if row[0] == 1]


@pytest.mark.parametrize("tag", FILES)
def test_virtual_addresses_are_the_kernels(tag: str, work: Path) -> None:
    # without KASLR: the direct map of any x86_64 kernel with 4 levels, and the image at 16 MiB
    loads = program_headers((work / f"{FILES[tag]}.elf").read_bytes())
    assert (loads[0][1], loads[0][2]) == (0xFFFFFFFF81000000, 0x1000000)
    assert {vaddr - paddr for _, vaddr, paddr, _ in loads[1:]} == {DIRECT_MAP}


@pytest.mark.parametrize("tag", FILES)
def test_converting_again_changes_nothing(tag: str, work: Path, tmp_path: Path) -> None:
    first = work / f"{FILES[tag]}.elf"
    convert(product.open_product(first), str(tmp_path / "again"), ConvertOptions(sync=False))
    assert (tmp_path / "again").read_bytes() == first.read_bytes()


# -- crash ---------------------------------------------------------------------------------------------------------


def crash(dump: Path, *commands: str) -> str:
    """Run crash's commands on a dump."""
    vmlinux = oracle_tools.find_vmlinux(RELEASE)
    if oracle_tools.tool("crash") is None or vmlinux is None:
        pytest.skip("crash or the kernel's debug package is missing")
    script = dump.parent / f"{dump.name}.commands"
    script.write_text("\n".join([*commands, "quit"]) + "\n")
    done = oracle_tools.run(["crash", "-s", "-i", script, oracle_tools.for_crash(vmlinux), dump], timeout=300)
    assert done.ok, done.why
    return done.out


@pytest.mark.oracle
def test_crash_sees_in_the_converted_pv_guest_what_it_sees_in_its_core(work: Path, real_dir: Path) -> None:
    commands = ("sys", "bt", "ps", "log", "mod", "vm -p 1", "p init_uts_ns.name")
    before, after = (crash(work / name, *commands) for name in (FILES["pv2"], f"{FILES['pv2']}.elf"))
    lines = [line for line in after.splitlines() if "PHdr to far into file" not in line]
    files = [line for line in lines + before.splitlines() if "DUMPFILE:" in line]  # `sys` names the file
    assert [line.split()[1].rpartition("/")[2] for line in files] == [f"{FILES['pv2']}.elf", FILES["pv2"]]
    assert [line for line in lines if line not in files] == [line for line in before.splitlines() if line not in files]
    assert f"RELEASE: {RELEASE}" in after
    assert "Kernel panic - not syncing: sysrq triggered crash" in after
    assert "dumpconv-xen: pv2 marker line one (1f2e3d4c)" in after
    for frame in ("panic at", "sysrq_handle_crash at", "write_sysrq_trigger at", "entry_SYSCALL_64_after_hwframe at"):
        assert frame in after


@pytest.mark.oracle
def test_crash_opens_the_converted_pvh_guest(work: Path) -> None:
    out = crash(work / f"{FILES['pvh1']}.elf", "sys", "log", "bt", "ps")
    assert f"RELEASE: {RELEASE}" in out
    assert "dumpconv-xen: pvh1 marker line one" in out
    assert "#0 [" in out


# -- libkdumpfile --------------------------------------------------------------------------------------------------

KDUMPFILE = """
import hashlib, sys, kdumpfile
context = kdumpfile.kdumpfile(sys.argv[1])
for pfn in range(int(sys.argv[2])):
    try:
        page = context.read(kdumpfile.KDUMP_KPHYSADDR, pfn * 4096, 4096)
    except Exception as error:
        print(pfn, type(error).__name__)
    else:
        print(pfn, hashlib.sha256(page).hexdigest())
"""


@pytest.mark.oracle
def test_libkdumpfile_reads_the_same_pages(work: Path) -> None:
    if not has_libkdumpfile():
        pytest.skip("libkdumpfile is missing")
    seen = [
        subprocess.run(
            [oracle_tools.SYSTEM_PYTHON, "-c", KDUMPFILE, work / name, "28672"],
            capture_output=True, text=True, check=True, timeout=300,
        ).stdout
        for name in (FILES["pv2"], f"{FILES['pv2']}.elf")
    ]  # fmt: skip
    assert seen[0] == seen[1]
    assert sum(len(line.split()[1]) == 64 for line in seen[0].splitlines()) == 28672


# -- other forms made of the real guest ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guest(work: Path) -> tuple[np.ndarray, np.ndarray, bytes, bytes]:
    """Give pages, pairs, context and shared info of the paravirtual guest, by the sections that readelf shows."""
    data = (work / FILES["pv2"]).read_bytes()
    pages = np.frombuffer(data, np.uint8, 0x7000 * PAGE, 0x3000).reshape(0x7000, PAGE)
    pairs = np.frombuffer(data, "<u8", 2 * 0x7000, 0x7003000).reshape(0x7000, 2)
    return pages, pairs, data[0x768 : 0x768 + 5168], data[0x1B98 : 0x1B98 + PAGE]


@pytest.fixture(scope="module")
def host(guest: tuple[np.ndarray, np.ndarray, bytes, bytes], work: Path) -> Path:
    """Make the dump of a host whose dom0 the guest is: its pages by machine frame, the hypervisor's notes."""
    pages, pairs, context, shared_info = guest
    order = np.argsort(pairs[:, 1])
    mfns = pairs[order, 1]
    edge = np.flatnonzero(np.diff(mfns) != 1) + 1
    segments = []
    for rows in np.split(order, edge):
        paddr = int(pairs[rows[0], 1]) * PAGE
        segments.append(build_elf.Segment(paddr, pages[rows].tobytes(), vaddr=DIRECT_MAP + paddr))
    list_mfn = struct.unpack_from("<Q", shared_info, 0xC18)[0]
    cr3 = struct.unpack_from("<Q", context, 5008)[0]
    area = notes.prstatus() + notes.encode(b"Xen\0", 0x1000002, struct.pack("<4Q", 0x80050033, 0, cr3, 0x50660))
    area += notes.encode(b"Xen\0", 0x1000001, struct.pack("<10Q", 4, 17, *range(6), 0x1000000, list_mfn))
    path = work / "host.elf"
    build_elf.build(build_elf.ElfSpec(segments, notes=area)).write_to(path)
    return path


@pytest.mark.oracle
def test_crash_takes_our_host_for_one(host: Path) -> None:
    # the builder's proof: crash finds dom0 by the note and the list in memory
    assert "Kernel panic - not syncing: sysrq triggered crash" in crash(host, "log", "bt")


def test_dom0_of_the_host_is_the_guest(host: Path, work: Path) -> None:
    view = product.view(product.open_product(host, view="dom0"))
    direct = product.view(product.open_product(work / FILES["pv2"]))
    assert view.digest == direct.digest
    assert view.pages == direct.pages


@pytest.mark.oracle
def test_crash_opens_the_converted_dom0(host: Path, work: Path) -> None:
    out = work / "dom0.elf"
    convert(product.open_product(host, view="dom0"), str(out), ConvertOptions(sync=False))
    assert "Kernel panic - not syncing: sysrq triggered crash" in crash(out, "log", "bt")
    assert {vaddr - paddr for _, vaddr, paddr, _ in program_headers(out.read_bytes())[1:]} == {DIRECT_MAP}


def canonicalise(pages: np.ndarray, pairs: np.ndarray, root_mfn: int) -> tuple[np.ndarray, dict[int, int]]:
    """Rewrite page tables as Xen's saver does: machine frames become frames. Gives pages and the type of tables."""
    pfn_of = {int(mfn): int(pfn) for pfn, mfn in pairs}
    new, types = pages.copy(), {}
    todo = [(4, pfn_of[root_mfn]), (4, INIT_TOP_PGT)]
    while todo:
        level, pfn = todo.pop()
        if pfn in types:
            continue
        types[pfn] = level
        entries = new[pfn].view("<u8")
        for index in np.flatnonzero(entries & np.uint64(1)).tolist():
            entry = int(entries[index])
            target = pfn_of.get(entry >> 12 & (1 << 40) - 1)
            if (level == 4 and 256 <= index < 272) or target is None:
                entries[index] = 0  # the hypervisor's own
                continue
            entries[index] = entry & ~(((1 << 40) - 1) << 12) | target << 12
            if level > 1:
                todo.append((level - 1, target))
    return new, types


@pytest.mark.oracle
def test_crash_opens_the_guest_from_a_save_image(
    guest: tuple[np.ndarray, np.ndarray, bytes, bytes], work: Path
) -> None:
    pages, pairs, context, shared_info = guest
    raw = bytearray(context)
    root = struct.unpack_from("<Q", raw, 5008)[0] >> 12
    new, types = canonicalise(pages, pairs, root)
    pfn_of = {int(mfn): int(pfn) for pfn, mfn in pairs}
    struct.pack_into("<Q", raw, 5008, pfn_of[root] << 12)
    batches = [
        [(types.get(pfn, 0), pfn, new[pfn].tobytes()) for pfn in range(low, low + 1024)]
        for low in range(0, 0x7000, 1024)
    ]
    stream = build_xen.libxl(build_xen.libxc(build_xen.pv_records(batches, [bytes(raw)], shared_info=shared_info)))
    path = work / "guest.save"
    path.write_bytes(build_xen.xl(stream))
    out = work / "guest.save.elf"
    convert(product.open_product(path), str(out), ConvertOptions(sync=False))
    assert "Kernel panic - not syncing: sysrq triggered crash" in crash(out, "log", "bt")
    loads = program_headers(out.read_bytes())
    assert {vaddr - paddr for _, vaddr, paddr, _ in loads[1:]} == {DIRECT_MAP}
