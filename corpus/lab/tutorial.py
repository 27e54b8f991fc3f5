#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs every command of docs/tutorial.md as written, in a QEMU guest or on this machine; fails if one does not work.

    tutorial.py WORKDIR [--update] [--tutorial FILE]

The tutorial's fenced blocks say where they run, behind their language:

    ```console machine      the guest before its crash
    ```console capture      the capture kernel, in the same guest
    ```console desk         this machine, in WORKDIR/desk, which is made anew
    ```sh cmdline           a line with NAME="PARAMETERS": the guest boots with these
    ```console packages     an apt-get install of which the guest is made (it has no package manager)

and after that, as NAME=VALUE: `status` (exit status, default 0), `expect` (what the output must hold), `lines` (how
many lines of an output --update keeps), `needs` (a file without which the block is left out). `crashes` and `ends`: the
last command does not return, as the machine crashes or is switched off. A command starts with `# ` or `$ `; `\\`
goes on in the next line, and all other lines are output, which --update writes anew.

`scp machine:FILE FILE` on the desk is a stand-in that takes the file from the guest's disk. Needs Debian, and root for
what lib.sh installs; 3 minutes. WORKDIR keeps the dump in desk, and console.log.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
PLACES = ("machine", "capture", "desk", "cmdline", "packages")
FLAGS = ("crashes", "ends")
OPTIONS = ("status", "expect", "lines", "needs")
_TIMEOUT = 240
_MEMORY = "768M"
_SCP = """#!/bin/sh
# from the guest's disk, which is its /var/crash
exec debugfs -R "dump ${1#machine:/var/crash} $2" ../disk.img 2>/dev/null
"""


class Failure(Exception):
    """A command did not do what the tutorial says."""


@dataclass
class Block:
    """One fenced block.

    Attributes:
        line: Number of its fence, from 1.
        language, place: As written.
        options: By name.
        flags: Words without a value.
        body: Its lines.
        outputs: What each command printed, once it ran.
    """

    line: int
    language: str
    place: str
    options: dict[str, str]
    flags: set[str]
    body: list[str]
    outputs: list[list[str]] = field(default_factory=list)

    @property
    def commands(self) -> list[str]:
        """The commands, each with its continuation lines."""
        found: list[str] = []
        more = False
        for line in self.body:
            if more:
                found[-1] += "\n" + line
            elif line.startswith(("# ", "$ ")):
                found.append(line[2:])
            else:
                continue
            more = line.endswith("\\")
        return found


def parse(text: str) -> list[Block]:
    """Return the blocks of a tutorial.

    Raises:
        Failure: A block does not say where it runs, or says what is not known.
    """
    blocks: list[Block] = []
    inside: Block | None = None
    for number, line in enumerate(text.splitlines(), 1):
        if inside is not None:
            if line == "```":
                blocks.append(inside)
                inside = None
            else:
                inside.body.append(line)
        elif line.startswith("```"):
            words = shlex.split(line[3:])
            if len(words) < 2 or words[1] not in PLACES:
                raise Failure(f"line {number}: the block does not say where it runs: {', '.join(PLACES)}")
            options = dict(word.split("=", 1) for word in words[2:] if "=" in word)
            flags = {word for word in words[2:] if "=" not in word}
            if set(options) - set(OPTIONS) or flags - set(FLAGS):
                raise Failure(f"line {number}: not known: {line}")
            inside = Block(number, words[0], words[1], options, flags, [])
    if inside is not None:
        raise Failure(f"line {inside.line}: the block does not end")
    return blocks


def updated(text: str, blocks: list[Block]) -> str:
    """Return the tutorial with the outputs of the blocks that ran."""
    lines = text.splitlines()
    for block in reversed(blocks):
        if not block.outputs:
            continue
        keep = int(block.options.get("lines", "1000"))
        body: list[str] = []
        outputs = iter(block.outputs)
        for command in block.commands:
            prompt = next(line for line in block.body if line[2:] == command.split("\n")[0])[:2]
            body += (prompt + command).split("\n")
            shown = next(outputs, [])
            body += [line.rstrip() for line in shown[:keep]] + ["..."] * (len(shown) > keep)
        lines[block.line : block.line + len(block.body)] = body
    return "\n".join(lines) + "\n"


class Guest:
    """The machine, typed into through its serial console."""

    def __init__(self, folder: Path, parameters: str) -> None:
        append = f"console=ttyS0 quiet {parameters}"
        command = [
            "qemu-system-x86_64",
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max,la57=off",
            "-smp",
            "2",
            "-m",
            _MEMORY,
        ]
        command += ["-kernel", "vmlinuz", "-initrd", "initrd", "-append", append, "-no-reboot", "-nographic"]
        command += ["-monitor", "none", "-serial", "stdio", "-drive", "file=disk.img,if=virtio,format=raw,cache=unsafe"]
        self._log = (folder / "console.log").open("wb")
        self._seen = bytearray()
        self._change = threading.Condition()
        typed, self._input = os.pipe()
        self._output, said = os.pipe()
        self._process = subprocess.Popen(command, cwd=folder, stdin=typed, stdout=said, stderr=said)
        os.close(typed)
        os.close(said)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while data := os.read(self._output, 1 << 16):
            self._log.write(data)
            self._log.flush()
            with self._change:
                self._seen += data
                self._change.notify_all()
        with self._change:
            self._change.notify_all()

    def wait_for(self, pattern: str) -> tuple[str, re.Match[str]]:
        """Return what came before a pattern, and the pattern.

        Raises:
            Failure: It does not come, or the guest ended.
        """
        end = time.monotonic() + _TIMEOUT
        with self._change:
            while True:
                text = self._seen.decode("utf-8", "replace").replace("\r\n", "\n")
                found = re.search(pattern, text)
                if found is not None:
                    self._seen = bytearray(text[found.end() :].encode())
                    return text[: found.start()], found
                left = end - time.monotonic()
                if left <= 0 or self._process.poll() is not None:
                    raise Failure(f"the guest did not say {pattern}; its last words: {text[-400:]}")
                self._change.wait(min(left, 1))

    def type(self, command: str) -> None:
        """Type a command."""
        os.write(self._input, command.encode() + b"\n")

    def run(self, command: str) -> tuple[str, int]:
        """Run a command and return output and exit status."""
        self.type(command)
        self.type('echo "@status $?@"')
        output, found = self.wait_for(r"@status (\d+)@\n")
        lines = [line.rpartition("\r")[2] for line in output.split("\n")]  # of a progress line its end
        return "\n".join(lines), int(found[1])

    def wait_for_shell(self) -> str:
        """Return where the guest is, machine or capture, once its shell listens."""
        place = self.wait_for(r"@ready (\w+)@\n")[1][1]
        self.type('stty -echo; echo "@listens@"')
        self.wait_for(r"(?m)^@listens@\n")  # what is echoed before has more in its line
        return place

    def wait_for_end(self) -> None:
        """Wait until the machine is switched off.

        Raises:
            Failure: It is not.
        """
        try:
            self._process.wait(_TIMEOUT)
        except subprocess.TimeoutExpired as error:
            raise Failure("the guest was not switched off") from error

    def close(self) -> None:
        """End the guest, if it is still there."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()


class Runner:
    """Runs the blocks in their order."""

    def __init__(self, folder: Path, blocks: list[Block]) -> None:
        self._folder = folder
        self._desk = folder / "desk"
        shutil.rmtree(self._desk, ignore_errors=True)
        self._desk.mkdir(parents=True)
        self._blocks = blocks
        self._guest: Guest | None = None
        self._at = ""
        tools = folder / "bin"
        shutil.rmtree(tools, ignore_errors=True)
        tools.mkdir(parents=True)
        (tools / "scp").write_text(_SCP)
        program = f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m dumpconv "$@"\n'
        (tools / "dumpconv").write_text(program)
        for each in tools.iterdir():
            each.chmod(0o755)
        path = f"{tools}:{os.environ['PATH']}:/usr/sbin:/sbin"
        self._environment = {**os.environ, "PATH": path, "PYTHONSAFEPATH": "1", "COLUMNS": "120"}

    def run(self) -> int:
        """Run everything and return how many commands there were.

        Raises:
            Failure: One did not work.
        """
        count = 0
        try:
            for block in self._blocks:
                needs = block.options.get("needs")
                if needs is not None and not Path(needs).exists():
                    say(f"line {block.line}: left out, as {needs} is not there")
                    continue
                count += self._run(block)
        finally:
            if self._guest is not None:
                self._guest.close()
        return count

    def _run(self, block: Block) -> int:
        if block.place in ("cmdline", "packages"):
            return 0
        commands = block.commands
        if not commands:
            raise Failure(f"line {block.line}: a block without a command")
        for number, command in enumerate(commands):
            last = number == len(commands) - 1
            say(f"line {block.line}, {block.place}: {command}")
            if block.place == "desk":
                output, status = self._on_desk(command)
            elif last and block.flags:
                self._leave(block, command)
                output, status = "", 0
            else:
                output, status = self._in_guest(block.place, command)
            block.outputs.append(output.splitlines())
            if status != int(block.options.get("status", "0")):
                raise Failure(f"line {block.line}: {command}: exit status {status}\n{output}")
        expected = block.options.get("expect")
        everything = "\n".join(line for each in block.outputs for line in each)
        if expected is not None and expected not in everything:
            raise Failure(f"line {block.line}: the output does not hold {expected!r}:\n{everything}")
        return len(commands)

    def _on_desk(self, command: str) -> tuple[str, int]:
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command], cwd=self._desk, env=self._environment, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace", check=False,
        )  # fmt: skip
        return done.stdout, done.returncode

    def _in_guest(self, place: str, command: str) -> tuple[str, int]:
        guest = self._there(place)
        return guest.run(command)

    def _there(self, place: str) -> Guest:
        if self._guest is None:
            packages = [
                word for block in self._of("packages") for each in block.commands for word in apt_packages(each)
            ]
            subprocess.run([HERE / "tutorial-guest", self._folder, *packages], check=True)
            self._guest = Guest(self._folder, " ".join(parameters(block) for block in self._of("cmdline")))
            self._at = self._guest.wait_for_shell()
        if self._at != place:
            raise Failure(f"the guest is at {self._at}, not at {place}")
        return self._guest

    def _of(self, place: str) -> list[Block]:
        return [block for block in self._blocks if block.place == place]

    def _leave(self, block: Block, command: str) -> None:
        guest = self._there(block.place)
        guest.type(command)
        if "ends" in block.flags:
            guest.wait_for_end()
            self._at = "off"
        else:
            self._at = guest.wait_for_shell()


def apt_packages(command: str) -> list[str]:
    """Return the packages of an `apt-get install` line."""
    words = shlex.split(command)
    if words[:2] != ["apt-get", "install"]:
        raise Failure(f"no apt-get install: {command}")
    return [word for word in words[2:] if not word.startswith("-")]


def parameters(block: Block) -> str:
    """Return the kernel parameters of a line NAME="PARAMETERS"."""
    found = [re.fullmatch(r'\w+="([^"]*)"', line) for line in block.body]
    return " ".join(each[1] for each in found if each is not None)


def say(text: str) -> None:
    """Tell what goes on."""
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description="run every command of the tutorial as written")
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--update", action="store_true", help="write the outputs into the tutorial")
    parser.add_argument("--tutorial", type=Path, default=REPOSITORY / "docs" / "tutorial.md")
    args = parser.parse_args()
    args.workdir.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    text = args.tutorial.read_text()
    try:
        blocks = parse(text)
        count = Runner(args.workdir.resolve(), blocks).run()
    except (Failure, subprocess.CalledProcessError) as error:
        say(f"tutorial: FAILED: {error}")
        return 1
    if args.update:
        args.tutorial.write_text(updated(text, blocks))
    print(f"tutorial: all {count} commands work, {time.monotonic() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
