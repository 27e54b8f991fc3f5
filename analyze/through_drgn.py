# SPDX-License-Identifier: GPL-2.0-or-later
"""Crash commands that drgn has: run by it on our memory and a vmlinux made from the dump, in a child process.

drgn is optional and is imported in the child only. The child has limits: C code parses there what a dump says. Command
lines are made of quoted words, as drgn's are lines of a shell.
"""

from __future__ import annotations

import codecs
import contextlib
import importlib.util
import json
import os
import resource
import select
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any, NoReturn

from ..formats.errors import UsageError
from .commands import Result, printable
from .direct_map import known_range
from .errors import MissingProgram, Unreadable

if TYPE_CHECKING:
    from .kernel import Kernel

__all__ = ["interact", "open_program", "program_of", "run_drgn"]

EXPLICIT = "crash"  # `crash COMMAND ...`: through drgn even where we have the command
_NO_COMMANDS = ("drgn", "exit", "q")  # prompts, not answers

_MEMORY = 8 << 30
_OUT_OF_TIME = 10
_LONG_WAIT = 86400  # seconds that poll() and limits of processes can be told
_MAX_MET = 100
_ALL = 1 << 52  # bytes of physical addresses: what the dump lacks faults when it is read
_ARCHITECTURES = {"x86_64": "X86_64", "aarch64": "AARCH64", "s390x": "S390X", "ppc64": "PPC64", "riscv64": "RISCV64"}


def run_drgn(kernel: Kernel, words: Sequence[str], vmlinux: str | None) -> Result:
    """Run one crash command.

    Args:
        kernel: The dump.
        words: Command and its words.
        vmlinux: Debuginfo; None for what the dump has.

    Raises:
        MissingProgram: drgn is not installed.
        MissingTable, Unreadable: A vmlinux cannot be made.
        UsageError: `vmlinux` is no file, or no command is named.
    """
    if words[0] == EXPLICIT:
        words = words[1:]
    if not words or words[0] in _NO_COMMANDS:
        raise UsageError(f"{EXPLICIT} needs the name of a command", hint=f"{EXPLICIT} ps -t")
    _need_drgn(kernel, words[0], vmlinux)
    child = _Child(kernel, words)
    try:
        child.start(vmlinux or _made(kernel))
    except BaseException:
        child.end()
        raise
    result = Result(data=[])
    result.lines = child.lines(result)
    return result


def program_of(kernel: Kernel) -> Any:
    """Return a drgn.Program in this process: for scripts, which are the user's own code.

    Raises:
        MissingProgram, MissingTable, Unreadable, UsageError: See `run_drgn`.
    """
    _need_drgn(kernel, "prog", kernel.vmlinux)
    return open_program(kernel, kernel.vmlinux or _made(kernel))


def interact(kernel: Kernel, names: dict[str, Any], banner: str) -> None:
    """Run drgn's own prompt on a dump.

    Args:
        kernel: The dump.
        names: What `repl` begins with; `prog` in it is taken.
        banner: A line below drgn's.

    Raises:
        DumpError: The program cannot be had.
    """
    prog = names["prog"]
    from drgn.cli import run_interactive

    run_interactive(
        prog,
        banner_func=lambda text: f"{text}\n{banner}",
        globals_func=lambda found: {**found, "dump": names["dump"]},
        quiet=True,
    )


def _need_drgn(kernel: Kernel, what: str, vmlinux: str | None) -> None:
    arch = kernel.machine.arch
    if arch not in _ARCHITECTURES:
        raise MissingProgram(f"{what} needs drgn, which is not used for {arch}: no vmlinux is made from such dumps")
    if importlib.util.find_spec("drgn") is None:
        raise MissingProgram(
            f"{what} needs drgn, which is not installed",
            hint="`pip install drgn` (wheels for x86_64 Linux with glibc)",
        )
    if vmlinux is not None and not os.path.isfile(vmlinux):
        raise UsageError("--vmlinux names no file", path=vmlinux)


def _made(kernel: Kernel) -> str:
    from .vmlinux.cache import cached_vmlinux

    return cached_vmlinux(kernel)


class _Child:
    """The process that drgn runs in. It imports drgn while the vmlinux is looked for.

    Args:
        kernel: The dump.
        words: The command.
    """

    def __init__(self, kernel: Kernel, words: Sequence[str]) -> None:
        self._line = shlex.join(words)
        self._met = kernel.physical.met
        self._limit, self._waited = kernel.max_duration, 0.0
        kernel.info  # noqa: B018 - searched for once, here
        _take_in_streams(kernel)
        (out_read, out_write), (end_read, end_write), (name_read, self._name) = os.pipe(), os.pipe(), os.pipe()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        self._pid = os.fork()
        if self._pid == 0:
            for each in (out_read, end_read, self._name):
                os.close(each)
            _child(kernel, words, name_read, out_write, end_write)
        for each in (out_write, end_write, name_read):
            os.close(each)
        self._status: int | None = None
        self._out, self._end = open(out_read, "rb", 0), open(end_read, "rb", 0)  # noqa: SIM115

    def start(self, vmlinux: str) -> None:
        """Tell it the debuginfo."""
        name, self._name = self._name, -1
        with open(name, "wb") as file, contextlib.suppress(BrokenPipeError):
            file.write(os.fsencode(vmlinux))

    def end(self) -> None:
        """End it, if it still runs."""
        if self._name >= 0:
            os.close(self._name)
            self._name = -1
        self._out.close()
        self._end.close()
        if self._status is None:
            os.kill(self._pid, signal.SIGKILL)  # not yet waited for: the number is still its own
            self._wait()

    def _wait(self) -> int:
        self._status = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        return self._status

    def lines(self, result: Result) -> Iterator[str]:
        """Yield what it prints; complaints go to `result`."""
        try:
            for text in self._printed():
                clean = printable(text, keep="\t")
                result.data.append(clean)
                yield clean
            said = b"".join(self._parts(self._end))
            status = self._wait()
        except TimeoutError:
            result.complain(f"{self._line}: {_out_of_time(self._limit)}", _OUT_OF_TIME)
            return
        finally:
            self.end()
        try:
            message, met = json.loads(said) if said else ("", [])
        except ValueError:  # it died while it said it
            message, met = "", []
        self._met.update({pfn: (code, why) for pfn, code, why in met})
        if message:
            result.complain(printable(message), 1)
        elif status == -signal.SIGXCPU:
            result.complain(f"{self._line}: {_out_of_time(self._limit)}", _OUT_OF_TIME)
        elif status:
            result.complain(f"{self._line}: {_end(status)}", 1)

    def _printed(self) -> Iterator[str]:
        decode = codecs.getincrementaldecoder("utf-8")("backslashreplace").decode
        rest = ""
        for part in self._parts(self._out):
            *lines, rest = (rest + decode(part)).split("\n")
            yield from lines
        if rest:
            yield rest

    def _parts(self, pipe: IO[bytes]) -> Iterator[bytes]:
        # What comes through a pipe. Only the time in which nothing came counts: who pages through it may take hours.
        ready = select.poll()
        ready.register(pipe, select.POLLIN)
        while True:
            start = time.monotonic()
            some = ready.poll(1000 * min(max(0.0, self._limit - self._waited), _LONG_WAIT))
            self._waited += time.monotonic() - start
            if not some:
                if self._waited >= self._limit:
                    raise TimeoutError
                continue
            part = pipe.read(1 << 16)
            if not part:
                return
            yield part


def _take_in_streams(kernel: Kernel) -> None:
    # what is unpacked or comes through a pipe: two processes cannot both read on, and drgn's writes no file
    for source in kernel.reader.sources:
        if source.is_stream:
            source.spool_whole()


def _out_of_time(limit: int) -> str:
    return (
        f"drgn was ended after {limit} s: --max-duration gives it more, or the dump is damaged where this command reads"
    )


def _end(status: int) -> str:
    if status == -signal.SIGKILL:
        return "drgn was killed from outside: the system may be short of memory"
    if status < 0:
        name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
        return f"drgn died by {name}: the dump may be damaged where this command reads, or drgn has a bug"
    return f"drgn ended with status {status}"


# -- in the child ----------------------------------------------------------------------------------------------


def _child(kernel: Kernel, words: Sequence[str], name: int, out: int, end: int) -> NoReturn:
    code = 1
    try:
        _end_with_parent()
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(each, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        seconds = min(kernel.max_duration, _LONG_WAIT)
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))  # first the signal that says why
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        _without_threads()
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 2)
        os.dup2(out, 1)
        # line by line: what it found before it died is printed
        with open(1, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False) as stream:
            sys.stdout = stream
            message = _run(kernel, words, name, stream)
        os.write(end, _said(kernel, message))
        code = 0
    except BaseException as error:  # nothing may return into the parent's code
        os.write(end, _said(kernel, f"{shlex.join(words)}: {type(error).__name__}: {error}"))
    finally:
        os._exit(code)


def _end_with_parent() -> None:
    # whoever kills dumpconv ends drgn too: nobody would wait for it, nor read what it finds
    with contextlib.suppress(Exception):
        import ctypes

        ctypes.CDLL(None).prctl(1, int(signal.SIGKILL), 0, 0, 0)  # PR_SET_PDEATHSIG


def _without_threads() -> None:
    # Where a script used drgn before, OpenMP counts on threads that are the parent's: it would wait for them for ever.
    if "drgn" not in sys.modules:
        return
    import ctypes

    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as file:
        found = {line.split(maxsplit=5)[5].rstrip("\n") for line in file if "/libgomp" in line}
    for each in found:
        ctypes.CDLL(each).omp_set_max_active_levels(0)


def _said(kernel: Kernel, message: str) -> bytes:
    # last words, and the pages that could not be read: fewer bytes than a pipe holds
    met = [(pfn, code, why[:128]) for pfn, (code, why) in kernel.physical.met.items()]
    return json.dumps([message[:4096], met[:_MAX_MET]]).encode()


def _run(kernel: Kernel, words: Sequence[str], name: int, stream: IO[str]) -> str:
    import logging

    from drgn import FaultError
    from drgn.commands import CommandError, run_command

    from .rich import Problem, own_lines

    try:
        import drgn.commands._crash  # noqa: F401 - registers them; private, so it may not be there
    except ImportError as error:
        return f"this drgn has no crash commands: {error}"
    logging.getLogger("drgn").addHandler(logging.NullHandler())
    with open(name, "rb") as file:
        vmlinux = os.fsdecode(file.read())
    if not vmlinux:  # there is none: whoever started this says why
        return ""
    try:
        prog = open_program(kernel, vmlinux)
        prog.config["crash_scroll"] = False
        _without_missing_files()
        own = own_lines(prog, words)
        if own is None:
            run_command(prog, f"crash {shlex.join(words)}", globals={"prog": prog})
        for line in own or ():
            stream.write(f"{line}\n")
    except FaultError as error:
        why = f"memory at {error.address:#x} cannot be read: {error.message}"
    except (CommandError, Problem, SystemExit) as error:
        why = "wrong words" if isinstance(error, SystemExit) else str(error)
    except MemoryError:
        why = f"more than {_MEMORY >> 20} MiB of memory would be needed, which is the limit of drgn"
    except Exception as error:  # a command of drgn met what it did not expect
        why = f"{type(error).__name__}: {error}"
    else:
        why = ""
    stream.flush()
    return f"{shlex.join(words)}: {why}" if why else ""


def _without_missing_files() -> None:
    # drgn 0.3 stops `files` at a descriptor whose file is not there: one that accept() has taken and waits for
    import drgn.commands._crash._fs as commands

    every = getattr(commands, "for_each_file", None)
    if every is not None:
        commands.for_each_file = lambda task: ((number, file) for number, file in every(task) if file)  # type: ignore[attr-defined]


def open_program(kernel: Kernel, vmlinux: str) -> Any:
    """Return a drgn.Program for the dump."""
    import drgn

    # an ELF file, too: what makedumpfile left out of one would be zeros to drgn, and what is cut off no damage
    prog = drgn.Program(drgn.Platform(getattr(drgn.Architecture, _ARCHITECTURES[kernel.machine.arch])))
    prog.add_memory_segment(0, _ALL, _reader(kernel, drgn.FaultError), physical=True)
    prog.set_linux_kernel_custom(_told_vmcoreinfo(kernel), False)
    linear = known_range(kernel)
    if linear is not None:  # where a page table is missing, too
        start, base, size = linear
        read = _reader(kernel, drgn.FaultError)
        prog.add_memory_segment(start, size, lambda address, count, offset, _: read(base + offset, count, 0, True))
    prog.set_enabled_debug_info_finders([])  # the machine of the analysis has other kernels
    with contextlib.suppress(drgn.MissingDebugInfoError):
        prog.load_debug_info([vmlinux])
    try:
        module = prog.main_module()
    except LookupError:  # nothing of the file was taken
        module, _ = next(iter(prog.loaded_modules()))
    if module.wants_debug_file():  # build ids of some kernels are wrong, of some not in the dump
        module.try_file(vmlinux, force=True)
    _module_symbols(prog)
    _context(prog)
    return prog


def _told_vmcoreinfo(kernel: Kernel) -> bytes:
    # one that was made from symbols does not say how far the kernel was moved from where the vmlinux has it
    text = kernel.info.to_bytes()
    if kernel.info.text("KERNELOFFSET") is not None:
        return text
    given = kernel.debuginfo
    if given is None:
        from .vmlinux.layout import link_offset

        moved = link_offset(kernel)
    else:
        linked = given.symbols().address("_stext")
        moved = 0 if linked is None else kernel.symbol("_stext") - linked
    return text + f"KERNELOFFSET={moved:x}\n".encode() if moved > 0 else text


def _reader(kernel: Kernel, fault: type[Exception]) -> Any:
    read = kernel.physical.read

    def read_fn(address: int, count: int, offset: int, physical: bool) -> bytes:
        try:
            return read(address, count)
        except Unreadable as error:
            raise fault(error.why, error.address) from error

    return read_fn


def _module_symbols(prog: Any) -> None:
    try:
        from drgn.helpers.linux.kallsyms import load_module_kallsyms

        index = load_module_kallsyms(prog)
        prog.register_symbol_finder("modules", index, enable_index=-1)
    except Exception:  # noqa: S110 - names in modules are missing then, nothing else
        pass


def _context(prog: Any) -> None:
    # the task of the CPU that panicked: what commands without a task are about
    try:
        from drgn.helpers.linux.sched import cpu_curr

        for name in ("crashing_cpu", "panic_cpu"):
            found = prog[name]
            cpu = int(found.counter if name == "panic_cpu" else found)
            if cpu >= 0:
                prog.config["crash_context"] = cpu_curr(prog, cpu).read_()
                return
    except Exception:  # noqa: S110 - then a command says that it needs a task
        pass
