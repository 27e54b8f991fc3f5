# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line: entry point, parsers, exit codes, signals, progress; the only module that prints or exits.

Start-up is fast because nothing heavy is imported before the arguments are known to be good: neither numpy nor
construct for `--help` or a usage error.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NoReturn

from . import __version__

if TYPE_CHECKING:
    from .analyze.kernel import Kernel
    from .formats.errors import DumpError
    from .formats.reader import DumpReader
    from .verify.display.meter import Meter

__all__ = [
    "EXIT_CODES",
    "VERBS",
    "build_parser",
    "build_verify_parser",
    "main",
    "main_verify",
    "run",
    "run_verify",
    "worst",
]

# One table for both programs, for the man page and for the tests.
EXIT_CODES = {
    0: "done, all checks asked for passed",
    1: "could not be done: I/O, permission, missing part; compare: differs",
    2: "usage",
    3: "damaged: some data is wrong or unreadable",
    4: "incomplete at the source, what is there is good",
    5: "fixity mismatch: decodes, but differs from the recorded digest",
    6: "format or codec not recognised or unsupported",
    7: "warnings, and --strict",
    10: "time or size budget reached, nothing bad so far",
    70: "a bug of this program",
}
_WORST_FIRST = (3, 5, 70, 4, 6, 1, 10, 7)

VERBS = {
    "info": "show what a dump is: format, machine, kernel, CPUs, pages by state, codecs",
    "map": "show which page frames are in the dump: table, JSON, ddrescue map file or picture",
    "compare": "compare the memory of two dumps, whatever their formats",
    "analyze": "look into the kernel: log, symbols, memory, with nothing but the dump",
    "formats": "show what can be read and written",
}
_CONVERT = "convert a Linux kernel crash dump of any format to one canonical ELF vmcore, or to another format"
_VERIFY = "verify Linux kernel crash dumps of any format; nothing is written to them"
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def worst(codes: Iterable[int]) -> int:
    """Return the exit code that wins: 3 > 5 > 70 > 4 > 6 > 1 > 10 > 7, 0 for none."""
    return min(set(codes) & set(_WORST_FIRST), key=_WORST_FIRST.index, default=0)


# -- parsers ---------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        _say(f"dumpconv: {message} (try `{self.prog} --help`)")
        self.exit(2)


def build_parser(verb: str | None) -> argparse.ArgumentParser:
    """Return the parser of a verb, of the conversion for None. Imports neither numpy nor construct."""
    prog = "dumpconv" if verb is None else f"dumpconv {verb}"
    text = VERBS[verb] if verb else _CONVERT
    parser = _Parser(prog, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)
    from .verify import command

    if verb is None:
        from .convert.command import add_arguments

        add_arguments(parser)
        width = max(map(len, VERBS))
        verbs = "".join(f"\n  dumpconv {name:<{width}}  {text}" for name, text in VERBS.items())
        parser.epilog = (
            f"commands, each with its own --help:{verbs}\n\nA file called like a command is given as ./info."
        )
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        parser.add_argument("--version", action="version", version=f"dumpconv {__version__}")
    elif verb == "analyze":
        from .analyze.command import add_arguments as add_analyze

        add_analyze(parser)
    elif verb == "formats":
        parser.add_argument("--markdown", action="store_true", help="print the tables of the README")
    else:
        command.ADD_ARGUMENTS[verb](parser)
    command.add_shared(parser, reads=verb != "formats", works=verb in (None, "compare"))
    return parser


def _parse(argv: list[str]) -> argparse.Namespace:
    from .verify.command import take_urls

    verb = argv[0] if argv and argv[0] in VERBS else None
    if verb is None and argv:
        _guess_slip(argv[0])
    parser, words = build_parser(verb), argv[verb is not None :]
    # what follows a command of analyze is the command's own
    args = parser.parse_args(words) if verb == "analyze" else parser.parse_intermixed_args(words)
    args.verb = verb
    take_urls(args)
    return args


def _guess_slip(word: str) -> None:
    # a mistyped command would become the name of a dump that is not there
    if not word.isalpha() or os.path.lexists(word):
        return
    import difflib

    if near := ["IN OUT"] if word == "convert" else difflib.get_close_matches(word, VERBS, 1, 0.6):
        _say(f"dumpconv: {word} is neither a file nor a command: did you mean `dumpconv {near[0]}`?")
        raise SystemExit(2)


# -- output ----------------------------------------------------------------------------------------------------


def _clean(text: str, keep: str = "\n\t") -> str:
    # without what a terminal would obey, and bytes of names that are no text: dumps and their names are not trusted
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each in keep else each.encode("unicode_escape").decode() for each in text
    )


def _say(line: str) -> None:
    # one line on stderr; where that is closed too there is nobody to tell
    line = _clean(line.replace("\n", " "), "")
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


def _write(chunks: Iterable[str], *, to_stderr: bool = False) -> None:
    stream = sys.stderr if to_stderr else sys.stdout
    if stream is not None:  # else closed by the caller, who does not want it
        try:
            stream.writelines(chunks)
            stream.flush()
        except OSError as error:
            error.filename = "standard error" if to_stderr else "standard output"
            raise


def _lines(lines: Iterable[str]) -> Iterator[str]:
    return (_clean(line) + "\n" for line in lines)


def _json(value: dict[str, Any]) -> Iterator[str]:
    return iter([json.dumps(value, indent=2) + "\n"])  # ASCII, with escapes


def _progress(args: argparse.Namespace, total: int, what: str) -> AbstractContextManager[Meter]:
    from .verify.display.meter import progress_meter

    return progress_meter(args.progress, total, what, _say)


def _peak_memory() -> int:
    # Resident bytes at most: of this process, and of its largest worker. All together cannot be known afterwards.
    import resource

    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return 1024 * (own + resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)


# -- commands --------------------------------------------------------------------------------------------------


def _open(args: argparse.Namespace, paths: list[str], tap: Callable[[str, bytes], None] | None = None) -> DumpReader:
    from .formats import open_dump
    from .formats.errors import UsageError
    from .verify.command import reading_options

    if paths.count("-") > 1:
        raise UsageError("- (standard input) can be given once only")
    return open_dump(paths, reading_options(args)._replace(tap=tap))


def _stored_bytes(reader: DumpReader) -> int:
    from .formats.pages import PageState

    return reader.memory_map.count(PageState.STORED) * reader.machine.page_size


def _verdict(args: argparse.Namespace, reader: DumpReader, incomplete: int = 4) -> int:
    # exit code of a report on a dump; its damage is one line on stderr
    codes = [incomplete if reader.incomplete else 0, 7 if args.strict and reader.findings else 0]
    if reader.damage is not None:
        _say_error(reader.damage, may_salvage=False)
        codes.append(reader.damage.exit_code)
    return worst(codes)


def _convert(args: argparse.Namespace) -> int:
    from .convert.canonical import check_output
    from .convert.command import render, to_json, to_options
    from .convert.convert import Hooks, convert
    from .convert.output import file_names
    from .formats.errors import CorruptDump, UsageError
    from .verify.outcome import Proof

    to_pipe = args.output == "-"
    options = to_options(args)
    outputs = [] if to_pipe else file_names(args.output, options.output.nr_files)
    for name in outputs:
        check_output(name, args.inputs, force=args.force)
    if to_pipe and (sys.stdout is None or sys.stdout.isatty()):
        raise UsageError("OUT is - and standard output is a terminal or closed", hint="redirect it, or name a file")
    begin = time.monotonic()
    proof = Proof(args.verify, args.manifest_out, args.inputs, force=args.force)
    reader = _open(args, args.inputs, proof.tap)
    proof.attach(reader)
    for name in outputs:  # members of a split set that were found are inputs, too
        check_output(name, [source.name for source in reader.sources], force=args.force)
    total = _stored_bytes(reader) * (1 + args.salvage + args.verify)
    with _progress(args, total, "converting") as meter:
        out, stream = (None, sys.stdout.buffer) if to_pipe else (args.output, None)
        hooks = Hooks(
            proof.seen,
            lambda names, done: proof.written(names, done.content_digest, options.jobs, options.executor, meter),
        )
        report = convert(reader, out, options, progress=meter, stream=stream, hooks=hooks)
    proof.finish(reader, report.files, report.pages, report.content_digest, report.leaves)
    seconds, peak = time.monotonic() - begin, _peak_memory()
    chunks = _json(to_json(report, reader.name, seconds, peak)) if args.json else _lines(render(report, seconds, peak))
    _write(chunks, to_stderr=to_pipe)
    if reader.damage is not None:
        _say_error(reader.damage, may_salvage=False)
    # salvaged damage is damage; a missing member leaves its frames LOST, which is incomplete
    damaged = bool(report.damage) or isinstance(reader.damage, CorruptDump)
    return worst(
        [3 * damaged, 5 * report.fixity_lost, 4 * report.incomplete, 7 if args.strict and reader.findings else 0]
    )


def _info(args: argparse.Namespace) -> int:
    from .verify import info

    reader = _open(args, args.inputs)
    facts = info.collect(reader, with_codecs=args.codecs)
    _write(_json(info.to_json(facts)) if args.json else _lines(info.render(facts)))
    return worst([_verdict(args, reader), 3 if facts.bad else 0])


def _map(args: argparse.Namespace) -> int:
    from .verify import info, pagemap
    from .verify.display import drawing, picture

    if args.picture is not None:
        drawing.check_picture(args.picture, args.inputs, force=args.force)
    reader = _open(args, args.inputs)
    if args.picture is not None:
        with _progress(args, _stored_bytes(reader), "drawing") as meter:
            image = picture.draw(reader, os.path.basename(reader.sources[0].name), meter)
        drawing.write_picture(image, args.picture)
        return worst([_verdict(args, reader), 3 if image.nr_bad else 0])
    scan = info.scan_tables(reader)
    if args.ddrescue:
        _write(pagemap.render_ddrescue(reader, scan.memory_map, __version__))
    elif args.json:
        _write(pagemap.render_json(reader, scan.memory_map))
    else:
        _write(pagemap.render(reader, scan.memory_map, args.limit))
    return worst([_verdict(args, reader), 3 if scan.bad else 0])


def _compare(args: argparse.Namespace) -> int:
    from .formats.errors import UsageError
    from .verify import compare_text
    from .verify.command import compare_options
    from .verify.compare import compare

    if args.a == args.b == "-":
        raise UsageError("- (standard input) can be given once only")
    a, b = _open(args, [args.a]), _open(args, [args.b])
    with _progress(args, min(_stored_bytes(a), _stored_bytes(b)), "comparing") as meter:
        report = compare(a, b, compare_options(args), progress=meter)
    _write(_json(compare_text.to_json(report)) if args.json else _lines(compare_text.render(report)))
    differs = not report.same_memory or (args.states and not report.same_states)
    codes = [1] if differs or (args.notes and not report.same_notes) else []
    if report.pages["damaged_a"] or report.pages["damaged_b"]:
        codes.append(3)
    return worst([*codes, *(_verdict(args, reader, 0) for reader in (a, b))])


def _analyze(args: argparse.Namespace) -> int:
    from .analyze.answer import answer, standing
    from .analyze.command import prepare, settle
    from .analyze.kernel import Kernel

    if "--json" in args.command:  # wherever it stands
        args.command.remove("--json")
        args.json = True
    settle(args)
    if args.write_vmlinux is not None:
        from .convert.canonical import check_output

        check_output(args.write_vmlinux, [args.core], force=args.force)
    kernel = Kernel(_open(args, [args.core]))
    prepare(kernel, args)
    if args.write_vmlinux is not None:
        from .analyze.vmlinux.build import write_vmlinux

        write_vmlinux(kernel, args.write_vmlinux, image=not args.no_image, for_gdb=args.debugger == "gdb")
        if not args.command and args.commands is None:
            codes = []
            for text, code in standing(kernel):  # what could not be read is zeros in it
                _say(f"dumpconv: {text}")
                codes.append(code)
            return worst(codes)
    if args.commands is not None or not args.command:
        return _analyze_lines(args, kernel)
    result = answer(kernel, args.command)
    if args.json:
        for _ in result.lines:  # complaints are complete after the last
            pass
        _write(
            _json(
                {
                    "schema": "dumpconv.analyze/1",
                    "command": args.command,
                    "result": result.data,
                    "complaints": result.complaints,
                }
            )
        )
    else:
        _write(_lines(result.lines))
    for text in result.complaints:
        _say(f"dumpconv: {text}")
    return worst(result.exit_codes) or max(result.exit_codes, default=0)


def _analyze_lines(args: argparse.Namespace, kernel: Kernel) -> int:
    # commands from a file, from standard input, or typed at a prompt
    from .analyze.prompt import Prompt, lines_of_terminal

    prompt = Prompt(kernel, lambda lines: _write(_lines(lines)), lambda text: _say(f"dumpconv: {text}"))
    if args.commands is not None:
        with open(args.commands, encoding="utf-8", errors="replace") as file:
            prompt.run(file)
    elif sys.stdin is not None and sys.stdin.isatty():
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ends a command, not the session
        prompt.run(lines_of_terminal(kernel, input))
        return 0
    elif sys.stdin is not None:
        prompt.run(sys.stdin)
    return worst(prompt.exit_codes) or max(prompt.exit_codes, default=0)


def _formats(args: argparse.Namespace) -> int:
    from .formats import listing

    lines = listing.render_markdown() if args.markdown else listing.render()
    _write(_json(listing.to_json()) if args.json else _lines(lines))
    return 0


_RUN: dict[str | None, Callable[[argparse.Namespace], int]] = {
    None: _convert,
    "info": _info,
    "map": _map,
    "compare": _compare,
    "analyze": _analyze,
    "formats": _formats,
}


def _complete() -> None:
    # The shell asks through argcomplete. A command is skipped, so that its own parser sees its own words.
    import argcomplete

    line = os.environ.get("COMP_LINE", "")
    words = line[: int(os.environ.get("COMP_POINT") or len(line))].split(" ")
    start = int(os.environ["_ARGCOMPLETE"])
    verb = words[start] if len(words) > start + 1 and words[start] in VERBS else None
    parser = build_parser(verb)
    if verb is not None:
        os.environ["_ARGCOMPLETE"] = str(start + 1)
    elif len(words) == start + 1:
        files = argcomplete.completers.FilesCompleter()
        inputs = next(action for action in parser._actions if action.dest == "inputs")
        inputs.completer = lambda prefix, **_: [*VERBS, *files(prefix)]  # type: ignore[attr-defined]
    argcomplete.autocomplete(parser)


# -- entry -----------------------------------------------------------------------------------------------------


class _Signalled(BaseException):
    # Not an Exception: decoders that try again after any library's error must not take it for one. An import that
    # it breaks raises something else instead, so `last` remembers that it came.
    last = 0
    debug = False  # --debug was given: a bug shows its traceback
    may_salvage = False  # the command takes --salvage, and it was not given


def _install_handlers() -> dict[int, Any]:
    # A signal becomes an exception in the main thread, so that what is half written is removed on the way out.
    # The first one counts: cleaning up is not interrupted again. Returns the handlers from before.
    owner, _Signalled.last = os.getpid(), 0

    def handler(signum: int, frame: object) -> None:
        if os.getpid() != owner:
            return  # a forked worker that has not set its own handlers yet: the parent decides
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        _Signalled.last = signum
        signal.signal(signal.SIGALRM, again)
        signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)
        raise _Signalled

    def again(signum: int, frame: object) -> None:  # callbacks and libraries may drop it; cleaning up is not disturbed
        if os.getpid() == owner and sys.exc_info()[1] is None:
            raise _Signalled

    sys.unraisablehook = lambda found: sys.__unraisablehook__(found) if found.exc_type is not _Signalled else None
    caught = [each for each in _SIGNALS if signal.getsignal(each) != signal.SIG_IGN]  # nohup stays in force
    return {each: signal.signal(each, handler) for each in caught}


def _import_numpy() -> None:
    # A signal that comes while it is being imported makes its C code print an error of its own: it waits until after.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        import numpy  # noqa: F401
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _close_output() -> None:
    # What cannot be flushed now would fail once more when Python ends, with a message and an exit code of its own.
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say_error(error: DumpError, *, may_salvage: bool) -> None:
    # The hint at --salvage only where it can be used.
    if not may_salvage and error.hint is not None and "--salvage" in error.hint:
        before, _, _ = error.hint.partition("use --salvage")
        error.hint = before.removesuffix(", or ").removesuffix("; ") or None
    _say(f"dumpconv: {error}")


def _judge(error: Exception) -> int:
    # Tells of an error in one line; returns the exit code.
    from .formats.errors import DumpError

    if isinstance(error, DumpError):
        _say_error(error, may_salvage=_Signalled.may_salvage)
        return error.exit_code
    if isinstance(error, BrokenPipeError):
        return 128 + signal.SIGPIPE  # the reader of our report has seen enough
    if isinstance(error, MemoryError):
        _say("dumpconv: out of memory; fewer --jobs or a smaller --batch need less")
        return 1
    if isinstance(error, OSError):
        _say(f"dumpconv: {error.filename or 'input/output error'}: {error.strerror or error}")
        return 1
    if _Signalled.debug or os.environ.get("DUMPCONV_DEBUG") == "1":
        raise error
    _say(f"dumpconv: a bug: {type(error).__name__}: {error}; DUMPCONV_DEBUG=1 shows where, please report it")
    return 70


def build_verify_parser() -> argparse.ArgumentParser:
    """Return the parser of `dumpverify`."""
    from .verify import verify_command

    parser = _Parser("dumpverify", description=_VERIFY[0].upper() + _VERIFY[1:] + ".", allow_abbrev=False)
    verify_command.add_arguments(parser)
    parser.add_argument("--version", action="version", version=f"dumpverify {__version__}")
    return parser


def _dumpverify(argv: list[str]) -> int:
    from .formats.errors import DumpError
    from .verify import verify_command

    args = build_verify_parser().parse_args(argv)
    _Signalled.debug = args.debug
    _import_numpy()
    verify_command.take_urls(args)
    verify_command.check_jobs(args)
    options = verify_command.verify_options(args)
    page = verify_command.html_page(args)
    from .verify.report_file import Reports
    from .verify.run import Run

    codes: list[int] = []
    try:
        with Reports(verify_command.wanted_reports(args), _write, strict=args.strict, quiet=args.quiet) as reports:
            with _progress(args, 0, "verifying") as meter:
                run = Run(args, options, meter)
                for report in run.reports():
                    if page is not None:
                        page.add(report)
                    codes.append(report.exit_code(strict=args.strict))
                    reports.add(report)
                    reports.skipped = run.skipped
            reports.skipped = run.skipped
            if page is not None:
                page.write()
    except (DumpError, OSError) as error:  # a report or the state could not be written: what was found stays found
        if not {3, 5} & set(codes) or _Signalled.last or isinstance(error, BrokenPipeError):
            raise
        return worst([*codes, _judge(error)])
    return worst(codes)


def _guarded(command: Callable[[], int]) -> int:
    # runs a command; whatever ends it becomes one line and an exit code
    # one thread: numpy's BLAS would start one for each CPU, which costs memory and makes fork unsafe
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    before, _Signalled.debug, _Signalled.may_salvage = _install_handlers(), False, False
    try:
        return command()
    except (_Signalled, Exception) as error:
        if not isinstance(error, _Signalled) and not _Signalled.last:
            return _judge(error)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _say(f"dumpconv: interrupted by {signal.Signals(_Signalled.last).name}")
        return 128 + _Signalled.last
    finally:
        _close_output()
        for each, old in before.items():
            signal.signal(each, old)


def main(argv: list[str] | None = None) -> int:
    """Run the `dumpconv` command and return its exit code.

    Args:
        argv: Arguments without the program's name; None: those of the process.

    Raises:
        SystemExit: --help, --version and usage errors, from argparse.
    """

    def command() -> int:
        if "_ARGCOMPLETE" in os.environ:
            _complete()
        args = _parse(sys.argv[1:] if argv is None else argv)
        if args.verb != "formats":
            _import_numpy()
        _Signalled.debug, _Signalled.may_salvage = args.debug, args.verb is None and not args.salvage
        return _RUN[args.verb](args)

    return _guarded(command)


def main_verify(argv: list[str] | None = None) -> int:
    """Run the `dumpverify` command and return its exit code; see `main`."""
    return _guarded(lambda: _dumpverify(sys.argv[1:] if argv is None else argv))


def _end(code: int) -> NoReturn:
    # without taking the interpreter apart, which is 30 ms of every call
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)


def run() -> NoReturn:
    """The installed command `dumpconv`."""
    _end(main())


def run_verify() -> NoReturn:
    """The installed command `dumpverify`."""
    _end(main_verify())
