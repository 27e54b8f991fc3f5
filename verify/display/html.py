# SPDX-License-Identifier: GPL-2.0-or-later
"""The parts of an HTML report that is one file: head with the policy, escaped text, tables, badges; and its writing.

No script, no font, no image and no address in it: nothing is fetched, and the page's own policy forbids it. What
comes from a dump, a file's name or a message goes through `text`; only numbers and our own words are written as they
are.
"""

from __future__ import annotations

import html
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ...formats.errors import OutputError, UsageError
from .html_style import STYLE

__all__ = ["badge", "check_free", "check_page", "facts", "page", "printed", "table", "text", "when", "write_page"]

_SUFFIX = ".incomplete"
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def text(value: object) -> str:
    """Return text for an element or a quoted attribute.

    What does not print, like a control character or a change of direction, is shown as its number.
    """
    return html.escape(printed(value), quote=True)


def printed(value: object) -> str:
    """Return text of which everything prints."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in str(value))


def badge(word: object, kind: str) -> str:
    """Return a word in a frame; kind: good, doubt, bad, faint."""
    return f'<span class="badge {kind}">{text(word)}</span>'


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> Iterator[str]:
    """Yield a table of cells that are HTML; each cell tells its column, for narrow screens."""
    yield f'<table class="{kind}"><thead><tr>' if kind else "<table><thead><tr>"
    yield "".join(f'<th scope="col">{text(head)}</th>' for head in heads) + "</tr></thead><tbody>\n"
    for row in rows:
        cells = zip(heads, row, strict=True)
        yield "<tr>" + "".join(f'<td data-head="{text(head)}">{cell}</td>' for head, cell in cells) + "</tr>\n"
    yield "</tbody></table>\n"


def facts(rows: Iterable[tuple[str, object]]) -> Iterator[str]:
    """Yield names with values, those without a value left out."""
    yield "<dl>\n"
    yield "".join(f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>\n" for name, value in rows if value)
    yield "</dl>\n"


def when() -> str:
    """Return the time of the report, SOURCE_DATE_EPOCH's where it is set.

    Raises:
        UsageError: That is no number of seconds.
    """
    said = os.environ.get("SOURCE_DATE_EPOCH", "")
    try:
        return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(float(said) if said else None))
    except (ValueError, OverflowError, OSError):
        raise UsageError(f"SOURCE_DATE_EPOCH={said} in the environment is no time") from None


def page(title: str, body: Iterable[str], style: str = "") -> Iterator[str]:
    """Yield a whole page.

    Args:
        title: Its title, text.
        body: HTML: a header and a main element.
        style: Rules beside the common ones.
    """
    yield '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    yield f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    yield f'<meta name="color-scheme" content="light dark">\n<title>{text(title)}</title>\n'
    yield f"<style>{STYLE}{style}</style>\n</head>\n<body>\n"
    yield from body
    yield "</body>\n</html>\n"


def check_page(path: str, inputs: Iterable[str]) -> None:
    """Refuse a page that would replace one of the inputs.

    Raises:
        UsageError: It would.
    """
    for name in inputs:
        for target in (path, path + _SUFFIX):
            if os.path.exists(target) and os.path.exists(name) and os.path.samefile(target, name):
                raise UsageError("the report and an input are the same file", path=target)


def check_free(path: str, *, force: bool) -> None:
    """Refuse a name that exists (without force) or is no regular file.

    Raises:
        UsageError: It is taken.
    """
    if os.path.lexists(path) and not force:
        raise UsageError("the report exists", path=path, hint="--force replaces it")
    if os.path.lexists(path) and not os.path.isfile(path):
        raise UsageError("the report's name is taken by what is no regular file", path=path)


def write_page(path: str, parts: Iterable[str]) -> None:
    """Write a page; it appears under its name only when it is whole.

    Raises:
        OutputError: It cannot be written.
    """
    temporary = path + _SUFFIX
    try:
        try:
            Path(temporary).unlink(missing_ok=True)  # of a killed run, or a symbolic link: never followed
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open(temporary, flags, 0o666), "wb") as file:
                file.writelines(part.encode("ascii", "xmlcharrefreplace") for part in parts)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OutputError(f"cannot write: {error.strerror}", path=path) from error
