# SPDX-License-Identifier: GPL-2.0-or-later
"""PREMIS and JUnit reports have the structure that their schemas ask for, and identifiers lead to what they name.

The tables below say what the schemas say of the elements that the reports use: PREMIS 3.0 (Library of Congress, 18
January 2016) and junit-10.xsd of Jenkins' xUnit plugin. Written from the schemas by hand; docs/dumpverify.md tells how
the reports are held against the schemas themselves.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from dumpconv.verify.report_forms import make_form
from dumpconv.verify.verdict import TargetReport
from support.command import dumpverify

P = "{http://www.loc.gov/premis/v3}"
TYPE = "{http://www.w3.org/2001/XMLSchema-instance}type"
HOSTILE = '\x1b]0;x\x07<&">\n\udcff.kdump'

# Children in their order; ? at most one, * any number, + at least one. Elements that are not here have text only.
PREMIS = {
    "premis": "object+ event* agent*",
    "object file": "objectIdentifier+ objectCharacteristics+ originalName? linkingEventIdentifier*",
    "object intellectualEntity": "objectIdentifier+ originalName?",
    "objectIdentifier": "objectIdentifierType objectIdentifierValue",
    "objectCharacteristics": "fixity* size? format+",
    "fixity": "messageDigestAlgorithm messageDigest messageDigestOriginator?",
    "format": "formatDesignation formatNote*",
    "formatDesignation": "formatName formatVersion?",
    "linkingEventIdentifier": "linkingEventIdentifierType linkingEventIdentifierValue",
    "event": "eventIdentifier eventType eventDateTime eventDetailInformation* eventOutcomeInformation* "
    "linkingAgentIdentifier* linkingObjectIdentifier*",
    "eventIdentifier": "eventIdentifierType eventIdentifierValue",
    "eventDetailInformation": "eventDetail?",
    "eventOutcomeInformation": "eventOutcome eventOutcomeDetail*",
    "eventOutcomeDetail": "eventOutcomeDetailNote",
    "linkingAgentIdentifier": "linkingAgentIdentifierType linkingAgentIdentifierValue linkingAgentRole*",
    "linkingObjectIdentifier": "linkingObjectIdentifierType linkingObjectIdentifierValue linkingObjectRole*",
    "agent": "agentIdentifier+ agentName* agentType? agentVersion?",
    "agentIdentifier": "agentIdentifierType agentIdentifierValue",
}
JUNIT = {
    "testsuites": ("testsuite*", set(), {"name", "time", "tests", "failures", "errors"}),
    "testsuite": ("testcase*", {"name", "tests", "failures", "errors"}, {"skipped", "time", "timestamp", "hostname"}),
    "testcase": ("skipped? failure? error? system-out?", {"name"}, {"time", "classname", "group"}),
    "failure": ("", set(), {"type", "message"}),
    "error": ("", set(), {"type", "message"}),
    "skipped": ("", set(), {"type", "message"}),
    "system-out": ("", set(), set()),
}


def text_of(kind: str, *reports: TargetReport) -> str:
    form = make_form(kind)
    return "".join([*form.begin(), *(chunk for each in reports for chunk in form.add(each)), *form.end()])


def report(*codes: str, name: str = "dump") -> TargetReport:
    made = TargetReport([name], "pages", format="kdump")
    for code in codes:
        made.add(code, f"about {name}")
    return made


def fits(children: list[str], rule: str) -> bool:
    pattern = "".join(
        f"(?:{re.escape(word.rstrip('?*+'))} ){word[-1] if word[-1] in '?*+' else ''}" for word in rule.split()
    )
    return re.fullmatch(pattern, "".join(f"{name} " for name in children)) is not None


def check_premis(element: ET.Element) -> None:
    name = element.tag.removeprefix(P)
    if name == "object":
        name = f"object {element.attrib[TYPE].removeprefix('premis:')}"
    if name not in PREMIS:
        assert not len(element), name
        assert element.text, name
        return
    children = [child.tag.removeprefix(P) for child in element]
    assert fits(children, PREMIS[name]), (name, children)
    for child in element:
        check_premis(child)


def values(root: ET.Element, name: str) -> list[str]:
    return [each.findtext(f"{P}{name}IdentifierValue") or "" for each in root.iter(f"{P}{name}Identifier")]


def check_links(root: ET.Element) -> None:
    for link, target in (("linkingAgent", "agent"), ("linkingObject", "object"), ("linkingEvent", "event")):
        assert set(values(root, link)) <= set(values(root, target)), link
    for name in ("object", "event", "agent"):
        assert len(set(values(root, name))) == len(values(root, name)), name


@pytest.mark.parametrize(
    "reports",
    [
        [],
        [report("I301")],
        [report(name=HOSTILE), report("E112", "E103"), report("E153"), report("I301")],
        [report("W210"), report("E103")],  # one file twice
    ],
    ids=["none", "no-dump", "many", "twice"],
)
def test_premis_has_its_structure(reports: list[TargetReport]) -> None:
    root = ET.fromstring(text_of("premis", *reports))  # noqa: S314 - our own
    assert (root.tag, root.attrib) == (P + "premis", {"version": "3.0"})
    check_premis(root)
    check_links(root)


def test_the_structure_test_fails_what_is_wrong() -> None:
    root = ET.fromstring(text_of("premis", report()))  # noqa: S314 - our own
    event = root.find(f"{P}event")
    assert event is not None
    event.append(event[0])
    with pytest.raises(AssertionError, match="event"):
        check_premis(root)


def test_premis_events_say_what_was_done() -> None:
    root = ET.fromstring(text_of("premis", report(name=HOSTILE), report("E112", "W210"), report("E153", name="c")))  # noqa: S314
    found = [(e.findtext(P + "eventType"), e.findtext(f".//{P}eventOutcome")) for e in root.iter(f"{P}event")]
    assert found == [
        ("validation", "pass"),
        ("fixity check", "fail"),
        ("validation", "pass"),
        ("validation", "not checked"),
    ]
    assert root.findtext(f".//{P}linkingObjectIdentifierValue") == '\\x1b]0;x\\x07<&">\\x0a\\xff.kdump'


def test_premis_has_the_digests_of_the_files(corpus_dir: Path, tmp_path: Path) -> None:
    dump = corpus_dir / "kdump" / "big-endian-s390x.kdump"
    manifest = tmp_path / "m.json"
    words = ("--report", "premis", "--write-manifest", manifest, "--algorithm", "sha256,md5,blake3", dump)
    root = ET.fromstring(dumpverify(*words).stdout)  # noqa: S314 - our own
    check_premis(root)
    check_links(root)
    (said,) = json.loads(manifest.read_text())["dumps"][0]["files"]
    found = {each[0].text: each[1].text for each in root.iter(f"{P}fixity")}
    assert found == {
        "SHA-256": said["digests"]["sha256"],
        "MD5": said["digests"]["md5"],
        "BLAKE3": said["digests"]["blake3"],
    }
    assert root.findtext(f".//{P}size") == str(dump.stat().st_size)
    assert "message digest calculation" in [each.text for each in root.iter(f"{P}eventType")]


def check_junit(element: ET.Element) -> None:
    rule, needed, allowed = JUNIT[element.tag]
    assert fits([child.tag for child in element], rule), element.tag
    assert needed <= set(element.attrib) <= needed | allowed, element.attrib
    assert re.fullmatch(r"[0-9]*(\.[0-9]*)?", element.get("time", ""))
    for child in element:
        check_junit(child)


def test_junit_has_its_structure() -> None:
    reports = [report(name=HOSTILE), report("W217", "E103"), report("E150"), report("E153"), report("I301")]
    for made in ([], reports):
        check_junit(ET.fromstring(text_of("junit", *made)))  # noqa: S314 - our own
