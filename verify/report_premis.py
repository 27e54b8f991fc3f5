# SPDX-License-Identifier: GPL-2.0-or-later
"""The report as a PREMIS 3 document: the files with their digests, what was done with them, and who did it.

Source: PREMIS Data Dictionary 3.0 and its XML schema of 18 January 2016 (Library of Congress): objects first, at least
one, then events, then agents, each bound to the others by identifiers. Types of events and digests are named as in the
vocabularies of id.loc.gov.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from xml.etree import ElementTree as ET

from .. import __version__
from .codes import CODES
from .report_forms import Form, clean
from .verdict import TargetReport, VerifyFinding, worst
from .verify_text import is_skipped

__all__ = ["NAMESPACE", "Premis"]

NAMESPACE = "http://www.loc.gov/premis/v3"
_XSI = "http://www.w3.org/2001/XMLSchema-instance"
_DECLARED, _DECLARED_TYPES = f' xmlns:premis="{NAMESPACE}"', f' xmlns:xsi="{_XSI}"'
_NOT_LISTED = "W221"
_FIXITY = ("E110", "E111", "E112", "E113", "E114", _NOT_LISTED)  # of digests, not of what is in the file
_ALGORITHMS = {"sha1": "SHA-1", "sha224": "SHA-224", "sha256": "SHA-256", "sha384": "SHA-384", "sha512": "SHA-512"}
_AGENT = f"dumpverify/{__version__}"


def _put(parent: ET.Element, name: str, text: str | None = None) -> ET.Element:
    element = ET.SubElement(parent, f"{{{NAMESPACE}}}{name}")
    element.text = None if text is None else clean(text)
    return element


def _identify(parent: ET.Element, name: str, kind: str, value: str) -> ET.Element:
    # what all identifiers are made of: NAMEIdentifier, its type, its value
    identifier = _put(parent, f"{name}Identifier")
    _put(identifier, f"{name}IdentifierType", kind)
    _put(identifier, f"{name}IdentifierValue", value)
    return identifier


def _text(element: ET.Element) -> str:
    # of a child of the root, which declares the namespaces
    ET.indent(element, level=1)
    text = ET.tostring(element, encoding="unicode")
    head, mark, rest = text.partition(">")
    return "  " + head.replace(_DECLARED, "").replace(_DECLARED_TYPES, "") + mark + rest + "\n"


@dataclass(slots=True)
class _Object:
    # what is told of a file: its last report's facts; all of its events
    digests: dict[str, str] = field(default_factory=dict)
    size: int | None = None
    format: str = ""
    notes: tuple[str, ...] = ()
    events: list[str] = field(default_factory=list)


class Premis(Form):
    """One document for all dumps: objects come first, so nothing can be written before all is known."""

    def __init__(self, *, strict: bool = False) -> None:
        super().__init__(strict=strict)
        ET.register_namespace("premis", NAMESPACE)
        ET.register_namespace("xsi", _XSI)
        self._objects: dict[str, _Object] = {}  # by path
        self._events: list[str] = []

    def add(self, report: TargetReport) -> Iterator[str]:
        """See `Form.add`."""
        if not is_skipped(report):
            notes = tuple(text for text in (report.arch, report.kernel and f"Linux {report.kernel}") if text)
            for name in report.files:
                events = self._objects[name].events if name in self._objects else []
                facts = report.file_digests.get(name, {}), report.sizes.get(name), report.format, notes
                self._objects[name] = _Object(*facts, events)
            self._events += map(_text, self._make_events(report))
        yield from ()

    def _make_events(self, report: TargetReport) -> Iterator[ET.Element]:
        # that a manifest says nothing of a file is no check of it
        compared = bool({"digest", "fixity"} & set(report.assurance))
        compared = compared or any(each.code in _FIXITY and each.code != _NOT_LISTED for each in report.findings)
        of_digests = [each for each in report.findings if compared and each.code in _FIXITY]
        others = [each for each in report.findings if each not in of_digests]
        if report.file_digests:
            algorithms = sorted({kind for digests in report.file_digests.values() for kind in digests})
            yield self._event(report, "message digest calculation", ", ".join(algorithms), [], [])
        if compared:
            yield self._event(report, "fixity check", "against the manifest or the digest in the file", of_digests, [])
        notes = [f"{name} digest {value}" for name, value in report.digests.items() if name in ("content", "state")]
        notes += report.proven + report.impact
        yield self._event(report, "validation", f"dumpverify --level {report.level}", others, notes)

    def _event(
        self, report: TargetReport, kind: str, detail: str, findings: list[VerifyFinding], notes: Iterable[str]
    ) -> ET.Element:
        event = ET.Element(f"{{{NAMESPACE}}}event")
        number = str(uuid.uuid4())
        _identify(event, "event", "UUID", number)
        _put(event, "eventType", kind)
        _put(event, "eventDateTime", datetime.now(UTC).isoformat(timespec="seconds"))
        _put(_put(event, "eventDetailInformation"), "eventDetail", detail)
        outcome = _put(event, "eventOutcomeInformation")
        _put(outcome, "eventOutcome", self._outcome(findings, report))
        lines = [f"{each.code} {CODES[each.code].title}: {each.message}" for each in findings]
        for line in (*lines, *notes):
            _put(_put(outcome, "eventOutcomeDetail"), "eventOutcomeDetailNote", line)
        _put(_identify(event, "linkingAgent", "local", _AGENT), "linkingAgentRole", "executing program")
        for name in report.files:
            _put(_identify(event, "linkingObject", "path", name), "linkingObjectRole", "source")
            self._objects[name].events.append(number)
        return event

    def _outcome(self, findings: list[VerifyFinding], report: TargetReport) -> str:
        codes = [CODES[each.code].exit_code for each in findings if each.code not in report.allowed]
        code = worst(each for each in codes if self.strict or each != 7)
        return "pass" if code == 0 else "not checked" if code in (1, 10) else "fail"

    def end(self) -> Iterator[str]:
        """See `Form.end`."""
        yield f'<?xml version="1.0" encoding="UTF-8"?>\n<premis:premis{_DECLARED}{_DECLARED_TYPES} version="3.0">\n'
        for name, each in self._objects.items():
            yield _text(self._object(name, each))
        if not self._objects:  # a document must be about something
            empty = ET.Element(f"{{{NAMESPACE}}}object", {f"{{{_XSI}}}type": "premis:intellectualEntity"})
            _identify(empty, "object", "UUID", str(uuid.uuid4()))
            _put(empty, "originalName", "no dump was found")
            yield _text(empty)
        yield from self._events
        agent = ET.Element(f"{{{NAMESPACE}}}agent")
        _identify(agent, "agent", "local", _AGENT)
        _put(agent, "agentName", "dumpverify")
        _put(agent, "agentType", "software")
        _put(agent, "agentVersion", __version__)
        yield _text(agent) + "</premis:premis>\n"

    def _object(self, name: str, told: _Object) -> ET.Element:
        element = ET.Element(f"{{{NAMESPACE}}}object", {f"{{{_XSI}}}type": "premis:file"})
        _identify(element, "object", "path", name)
        about = _put(element, "objectCharacteristics")
        for kind, value in told.digests.items():
            fixity = _put(about, "fixity")
            _put(fixity, "messageDigestAlgorithm", _ALGORITHMS.get(kind, kind.upper()))
            _put(fixity, "messageDigest", value)
            _put(fixity, "messageDigestOriginator", _AGENT)
        if told.size is not None:
            _put(about, "size", str(told.size))
        form = _put(about, "format")
        _put(_put(form, "formatDesignation"), "formatName", told.format or "unknown")
        for text in told.notes:
            _put(form, "formatNote", text)
        _put(element, "originalName", name)
        for number in told.events:
            _identify(element, "linkingEvent", "UUID", number)
        return element
