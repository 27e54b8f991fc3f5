# SPDX-License-Identifier: GPL-2.0-or-later
"""A real kernel's memory as far as analysis reads it, and containers of old and odd formats to put it into."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from . import build_elf, build_flat, build_kdump, build_lime, build_lkcd, build_mcore, build_netdump, build_xen, notes
from .build_diskdump import DiskdumpSpec
from .build_diskdump import build as build_diskdump_image
from .build_elf import ElfSpec, Segment

PAGE = 4096
TEXT_BASE = 0xFFFFFFFF80000000
REGISTERS = (
    "r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi", "orig_rax",
    "rip", "cs", "rflags", "rsp", "ss",
)  # fmt: skip


@dataclass(frozen=True)
class RealKernel:
    """Memory by frame; VMCOREINFO as text by key; PRSTATUS descriptors of the CPUs."""

    pages: Mapping[int, bytes]
    vmcoreinfo: Mapping[str, str]
    statuses: tuple[bytes, ...]

    @property
    def registers(self) -> list[tuple[int, ...]]:
        """27 words of each CPU, as in user_regs_struct."""
        return [struct.unpack_from("<27Q", each, 112) for each in self.statuses]

    def frames_of(self, start: int, end: int) -> range:
        """Give the frames that lie inside a range of the kernel's image."""
        moved = int(self.vmcoreinfo["NUMBER(phys_base)"]) - TEXT_BASE
        return range(-(-(start + moved) // PAGE), (end + moved) // PAGE)

    def without(self, *what: str) -> RealKernel:
        """Take tables out: `vmcoreinfo`, `symbols`, `types`; from what is known of their places."""
        gone: set[int] = set()
        if "vmcoreinfo" in what:
            gone |= {pfn for pfn, page in self.pages.items() if b"OSRELEASE=" in page and b"SYMBOL(" in page}
        if "symbols" in what:
            names = ("names", "token_index")
            start, end = (int(self.vmcoreinfo[f"SYMBOL(kallsyms_{each})"], 16) for each in names)
            gone |= set(self.frames_of(start, end + PAGE))
        if "types" in what:
            for pfn, page in self.pages.items():
                at = page.find(b"\x9f\xeb\x01\x00\x18\0\0\0\0\0\0\0")
                size = struct.unpack_from("<III", page, at + 12) if 0 <= at < PAGE - 24 else (0, 0, 0)
                if sum(size[1:]) > 1 << 20:  # a module's are fewer
                    gone |= set(range(pfn, pfn + sum(size[1:]) // PAGE))
        return replace(self, pages={pfn: page for pfn, page in self.pages.items() if pfn not in gone})

    def system_map(self, kallsyms: bytes) -> bytes:
        """Give the System.map of the link, of what the machine said of its symbols."""
        moved = int(self.vmcoreinfo["KERNELOFFSET"], 16)
        rows = []
        for line in kallsyms.decode().splitlines():
            if "[" not in line:
                address, letter, name = line.split()
                value = int(address, 16)
                rows.append(f"{value - moved if value >= TEXT_BASE else value:016x} {letter} {name}\n")
        return "".join(rows).encode()


def runs(pages: Mapping[int, bytes]) -> list[tuple[int, bytes]]:
    """Give (physical address, bytes) of frames that follow each other."""
    found: list[tuple[int, list[bytes]]] = []
    last = -2
    for pfn in sorted(pages):
        if pfn != last + 1:
            found.append((pfn * PAGE, []))
        found[-1][1].append(pages[pfn])
        last = pfn
    return [(start, b"".join(parts)) for start, parts in found]


def _notes(kernel: RealKernel) -> bytes:
    return b"".join(notes.encode(b"CORE\0", 1, each) for each in kernel.statuses)


def _kdump(kernel: RealKernel, codec: str) -> build_kdump.KdumpSpec:
    base = int(kernel.vmcoreinfo["NUMBER(phys_base)"])
    return build_kdump.KdumpSpec(pages=kernel.pages, codec=codec, notes=_notes(kernel), phys_base=base)


def kdump(kernel: RealKernel, codec: str) -> bytes:
    """A kdump, of which nothing but the registers is in notes."""
    return build_kdump.build(_kdump(kernel, codec)).to_bytes()


def flattened(kernel: RealKernel) -> bytes:
    """makedumpfile -F."""
    return build_flat.flatten(build_flat.kdump_makedumpfile(build_kdump.build(_kdump(kernel, "zlib"))))


def elf(kernel: RealKernel) -> bytes:
    """QEMU's ELF of a guest without the vmcoreinfo device: physical addresses alone."""
    parts = [Segment(start, data, vaddr=0) for start, data in runs(kernel.pages)]
    return build_elf.build(ElfSpec(parts, notes=_notes(kernel))).to_bytes()


def netdump(kernel: RealKernel) -> bytes:
    """One CPU's registers, the linear map's addresses."""
    told = build_netdump.netdump_notes(task=None, registers=kernel.registers[_crashed(kernel)], pid=1)
    parts = [build_netdump.segment("x86_64", start, data) for start, data in runs(kernel.pages)]
    return build_elf.build(build_netdump.spec("x86_64", parts, notes=told)).to_bytes()


def diskdump(kernel: RealKernel) -> bytes:
    """savecore's file of a compressed dump."""
    cpu = _crashed(kernel)
    spec = DiskdumpSpec(pages=kernel.pages, registers=kernel.registers[cpu], current_cpu=cpu)
    return build_diskdump_image(spec).to_bytes()


def lkcd(kernel: RealKernel) -> bytes:
    """Version 8, gzip: registers of each CPU in the architecture's header."""
    cpus = [build_lkcd.Cpu(words[:21]) for words in kernel.registers]
    cpu = _crashed(kernel)
    asm = build_lkcd.asm_header("x86_64", "<", cpus, version=2, slots=32, dumping=cpu, regs=cpus[cpu].regs)
    return build_lkcd.build(build_lkcd.LkcdSpec(pages=kernel.pages, level=1, asm=asm)).to_bytes()


def mcore(kernel: RealKernel) -> bytes:
    """Version 2: memory, and nothing else."""
    return build_mcore.build(build_mcore.McoreSpec(pages=kernel.pages, level=1))


def xen_core(kernel: RealKernel) -> bytes:
    """xc_core of an HVM guest: frames are the guest's own."""
    contexts = []
    for words in kernel.registers:
        values = dict(zip(REGISTERS, words, strict=False))
        del values["orig_rax"]
        contexts.append(build_xen.context(**values))
    rows = [(pfn, pfn, page) for pfn, page in sorted(kernel.pages.items())]
    return build_xen.core(build_xen.CoreSpec(rows, contexts=contexts, paired=False, magic=build_xen.HVM_MAGIC))


def xen_save(kernel: RealKernel) -> bytes:
    """The stream of `xl save` of an HVM guest, as libxc has it."""
    order = (
        "rax",
        "rbx",
        "rcx",
        "rdx",
        "rbp",
        "rsi",
        "rdi",
        "rsp",
        *(f"r{each}" for each in range(8, 16)),
        "rip",
        "rflags",
    )
    cpus = []
    for words in kernel.registers:
        values = dict(zip(REGISTERS, words, strict=False))
        selectors = (values["cs"], 0x18, 0x19, 0x1A, 0x1B, values["ss"], 0x40, 0)
        cpus.append(build_xen.hvm_cpu([values[name] for name in order], selectors=selectors))
    entries = [(0, pfn, page) for pfn, page in sorted(kernel.pages.items())]
    batches = [build_xen.page_data(entries[at : at + 1024]) for at in range(0, len(entries), 1024)]
    records = [*batches, build_xen.record(9, build_xen.hvm_context(cpus))]
    return build_xen.libxc(records, kind=2)


def lime(kernel: RealKernel) -> bytes:
    """Memory, and nothing else."""
    return build_lime.build([build_lime.Range(start, data) for start, data in runs(kernel.pages)])


def _crashed(kernel: RealKernel) -> int:
    # the CPU whose registers are in the kernel's text at the crash: crash_kexec saved them
    crash = int(re.sub("^0x", "", kernel.vmcoreinfo.get("SYMBOL(_stext)", "0")), 16)
    at = [number for number, words in enumerate(kernel.registers) if crash <= words[16] and not words[17] & 3]
    return at[-1] if at else 0


CONTAINERS: dict[str, Callable[[RealKernel], bytes]] = {
    "kdump-zlib": lambda kernel: kdump(kernel, "zlib"),
    "kdump-lzo": lambda kernel: kdump(kernel, "lzo"),
    "kdump-snappy": lambda kernel: kdump(kernel, "snappy"),
    "kdump-zstd": lambda kernel: kdump(kernel, "zstd"),
    "flattened": flattened,
    "elf": elf,
    "netdump": netdump,
    "diskdump": diskdump,
    "lkcd": lkcd,
    "mcore": mcore,
    "xen-core": xen_core,
    "xen-save": xen_save,
    "lime": lime,
}
