# SPDX-License-Identifier: GPL-2.0-or-later
"""`mount`, by drgn on our reader, is what the guest itself wrote of its mounts, in whatever form its memory comes."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest
from oracle.elf_struct import read_core

from dumpconv.analyze.command import run_words
from dumpconv.analyze.kernel import Kernel
from dumpconv.analyze.through_drgn import program_of
from dumpconv.formats import open_dump
from support.command import dumpconv, environment
from support.oracle_tools import find_vmlinux
from support.real_kernel import CONTAINERS, RealKernel

pytestmark = [pytest.mark.real, pytest.mark.oracle, pytest.mark.slow]

OF_MAKEDUMPFILE = {"makedumpfile-elf": "-E -d 31", "makedumpfile-flattened": "-F -c -d 31"}
OF_US = {"elf": "", "lkcd": "-O lkcd"}
PACKED = {"kdump.xz": "vmcore.d31.snappy.kdump.xz", "elf.zst": "vmcore.elf.zst"}
BUILT = ("elf", "xen-core", "xen-save")  # QEMU's ELF, and Xen's two, of memory that has no VMCOREINFO
FORMS = ["kdump", *PACKED, *OF_US, *OF_MAKEDUMPFILE, *(f"built {each}" for each in BUILT)]


@dataclass
class Forms:
    """The real dump, where other forms of it are made, the cache that all of them share."""

    real: Path
    folder: Path
    env: dict[str, str]

    @property
    def dump(self) -> Path:
        return self.real / "vmcore.d31.zstd.kdump"

    def converted(self, name: str, words: str) -> Path:
        path = self.folder / name
        if not path.exists():
            assert dumpconv("--no-fsync", *words.split(), self.dump, path).returncode == 0
        return path

    def made(self, name: str, words: str) -> Path:
        """What makedumpfile makes of the ELF."""
        path, core = self.folder / name, self.converted("elf", "")
        if path.exists():
            return path
        line = ["makedumpfile", *words.split(), str(core)]
        if "-F" in line:
            with path.open("wb") as out:
                subprocess.run(line, stdout=out, stderr=subprocess.DEVNULL, timeout=60, check=True)
        else:
            subprocess.run([*line, str(path)], capture_output=True, timeout=60, check=True)
        return path

    @cached_property
    def memory(self) -> RealKernel:
        """The pages that drgn needs for it."""
        kernel = Kernel(open_dump([str(self.dump)]))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_CACHE_HOME", self.env["XDG_CACHE_HOME"])
            prog = program_of(kernel)
        for words in ("bt -a", "sys", "mod", "mach", "log -T"):
            list(run_words(kernel, words.split()).lines)
        from drgn.commands import run_command

        run_command(prog, "crash mount", globals={"prog": prog})
        kernel.memory.read(kernel.symbol("linux_banner"), 256)
        text = dict(line.split("=", 1) for line in kernel.info.to_bytes().decode().splitlines() if "=" in line)
        statuses = tuple(note.desc(4096) for note in kernel.reader.notes if (note.name, note.type) == (b"CORE", 1))
        return RealKernel(dict(kernel.physical._pages), text, statuses)

    def built(self, name: str) -> Path:
        """A container around these."""
        path = self.folder / f"built.{name}"
        path.write_bytes(CONTAINERS[name](self.memory))
        return path


@pytest.fixture(scope="module")
def forms(real_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Forms:
    pytest.importorskip("drgn")
    folder = tmp_path_factory.mktemp("mounts")
    return Forms(real_dir, folder, environment(XDG_CACHE_HOME=str(folder / "cache")))


@pytest.fixture(scope="module")
def said(real_dir: Path) -> set[tuple[str, str, str]]:
    """Type, device and directory of each, by the guest's /proc/mounts."""
    lines = [line.split() for line in (real_dir / "truth" / "mounts").read_text().splitlines()]
    return {(kind, device, place) for device, place, kind, *_ in lines}


@pytest.mark.parametrize("form", FORMS)
def test_mounts_are_those_of_the_guest(
    form: str, forms: Forms, said: set[tuple[str, str, str]], need: Callable[..., None]
) -> None:
    if form == "kdump":
        path = forms.dump
    elif form in PACKED:
        path = forms.real / PACKED[form]
    elif form in OF_US:
        path = forms.converted(form, OF_US[form])
    elif form in OF_MAKEDUMPFILE:
        need("makedumpfile")
        path = forms.made(form, OF_MAKEDUMPFILE[form])
    else:
        path = forms.built(form.split()[1])
    done = dumpconv("analyze", path, "mount", env=forms.env)
    assert (done.returncode, done.stderr) == (0, b"")
    found = {tuple(line.split()[2:]) for line in done.stdout.decode().splitlines()[1:]}
    assert {place for *_, place in said - found} <= {"/mnt"}  # where the guest wrote this down, before it died
    assert not found - said
    assert len(found) > 4


def test_what_makedumpfile_left_out_of_an_elf_is_no_zeros(forms: Forms, need: Callable[..., None]) -> None:
    """Its segments are longer in memory than in the file; drgn alone reads what is not there as zeros."""
    need("makedumpfile")
    path = forms.made("makedumpfile-elf", OF_MAKEDUMPFILE["makedumpfile-elf"])
    tails = [each.p_paddr + each.p_filesz for each in read_core(path).loads if each.p_memsz - each.p_filesz >= 8192]
    assert len(tails) > 4
    script = forms.folder / "script.py"
    script.write_text(
        "import sys\nfrom drgn import FaultError\n"
        "for word in sys.argv[1:]:\n"
        "    try:\n        print(prog.read(int(word), 8, True))\n"
        "    except FaultError as error:\n        print(error.message)\n"
    )
    done = dumpconv("analyze", path, "script", script, *map(str, tails), env=forms.env)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.splitlines() == [b"excluded"] * len(tails)


def test_a_given_vmlinux_where_nothing_says_how_far_the_kernel_was_moved(
    forms: Forms, said: set[tuple[str, str, str]]
) -> None:
    vmlinux = find_vmlinux("6.1.0-56-cloud-amd64")
    if vmlinux is None:
        pytest.skip("no debuginfo of this kernel")
    done = dumpconv("analyze", forms.built("xen-core"), "--vmlinux", vmlinux, "mount", env=forms.env)
    assert (done.returncode, done.stderr) == (0, b"")
    assert {tuple(line.split()[2:]) for line in done.stdout.decode().splitlines()[1:]} <= said
