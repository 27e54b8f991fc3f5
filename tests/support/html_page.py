# SPDX-License-Identifier: GPL-2.0-or-later
"""An HTML report as a parser and as a browser see it."""

from __future__ import annotations

import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "br", "img", "link", "input", "hr"}
_TAGS = (
    "html head meta title style body header main section h1 h2 h3 h4 p a ul ol li i b br dl div dt dd table thead "
    "tbody tr th td code pre mark span svg path"
)
ALLOWED_TAGS = frozenset(_TAGS.split())


class Page(HTMLParser):
    """Tags, attributes and text of a page; checks that tags close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join("".join(self.text).split())


PROBE = """<script>
addEventListener("error", e => { document.title = "error " + e.message; });
addEventListener("load", () => {
  const root = document.documentElement, wide = [];
  for (const each of document.querySelectorAll("body *"))
    if (each.getBoundingClientRect().right > root.clientWidth + 0.5) wide.push(each.tagName);
  const asked = performance.getEntriesByType("resource").length;
  const dark = getComputedStyle(document.body).backgroundColor;
  document.title = ["PROBE", root.clientWidth, root.scrollWidth, wide.length, asked, dark].join(" ");
});
</script></head>"""


def _browse(chromium: str, folder: Path, page: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [chromium, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    command += ["--enable-logging=stderr", "--v=0", "--virtual-time-budget=3000", *words, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def shown_at_phone_width(chromium: str, folder: Path, page: Path, scheme: str) -> str:
    """Give the page's DOM; fails if it is wider than 390 pixels, fetches something, or makes a line on the console.

    Args:
        chromium: The browser.
        folder: For its profile.
        page: The page.
        scheme: light or dark: what the reader prefers.
    """
    text = page.read_text()
    policy = re.search(r'<meta http-equiv="Content-Security-Policy"[^>]*>', text)
    assert policy is not None
    # As it is: what the policy or the browser has to complain of is on the console.
    done = _browse(chromium, folder, page, "--dump-dom")
    assert "CONSOLE" not in done.stderr
    dom = done.stdout
    # With a script of the test's own, in a frame: headless windows are never narrower than 500 pixels.
    probed = folder / "probed.html"
    probed.write_text(text.replace(policy[0], "").replace("</head>", PROBE))
    frame = folder / "frame.html"
    frame.write_text(
        '<iframe src="probed.html" width="390" height="800" style="border:0"></iframe><pre id=out></pre><script>'
        "setTimeout(() => { out.textContent = frames[0].document.title; }, 1500)</script>"
    )
    chosen = [f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}"]
    done = _browse(chromium, folder, frame, "--allow-file-access-from-files", *chosen, "--dump-dom")
    found = re.search(r"PROBE (\d+) (\d+) (\d+) (\d+) rgb\((\d+)", done.stdout)
    assert found is not None, done.stdout[-300:]
    width, scrolled, wide, asked, red = map(int, found.groups())
    assert 370 <= width <= 390  # less a scroll bar
    assert scrolled == width
    assert (wide, asked) == (0, 0)
    assert (red < 64) == (scheme == "dark")
    return dom
