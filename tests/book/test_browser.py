"""The book as a reader meets it, in headless Chromium: offline, quiet, accessible, narrow, searchable."""

from __future__ import annotations

import functools
import http.server
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.book.test_structure import CHAPTERS, PAGES

pytestmark = pytest.mark.browser
each_page = pytest.mark.parametrize("name", [*PAGES, "genindex", "search"])
each_chapter = pytest.mark.parametrize("chapter", CHAPTERS)

# The one finding that is the theme's own: its icon buttons' visible and accessible names differ.
THEME = {"label-content-name-mismatch"}


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="session")
def address(html: Path) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(html)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


class Visit:
    """A page in a browser, with everything it asked for and complained of."""

    def __init__(self, browser, width: int = 1280, scheme: str = "light") -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda r: self.requests.append(r.url))
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda e: self.errors.append(str(e)))
        self.page.on("requestfailed", lambda r: self.errors.append(f"failed: {r.url}"))

    def go(self, url: str):
        self.page.goto(url, wait_until="load")
        # MathJax is done when its promise is kept; a page without formulas has none
        self.page.evaluate("() => window.MathJax?.startup?.promise ?? null")
        # the theme sets its colours by a script, and buttons fade from the old ones: half-way is not readable
        self.page.evaluate(
            "() => Promise.allSettled(document.getAnimations().map(a => a.finished)).then(() => 0)"
        )
        return self.page

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()


# axe judges the contrast of each span of highlighted code by itself, thousands of them in a handful of colours: one of each
# kind stays, the others become plain text (which is judged too)
PLAIN = """() => {
    const look = e => { const s = getComputedStyle(e); return [s.color, s.backgroundColor, s.fontWeight, s.fontSize] };
    const seen = new Set(), alike = [];
    for (const span of document.querySelectorAll('.highlight span')) {
        if (span.childElementCount) continue;
        const kind = [span, span.closest('pre'), span.closest('.highlight')].map(look).join();
        if (seen.has(kind)) alike.push(span);
        seen.add(kind);
    }
    for (const span of alike) span.replaceWith(span.textContent);  // after all were looked at, or each look is a new layout
}"""


def judge(page, rules: list[str] | dict) -> dict:
    """What axe finds: the violations, and those that it is not sure of."""
    page.evaluate(PLAIN)
    options = {"runOnly": rules, "resultTypes": ["violations", "incomplete"]}
    return Axe().run(page, options=options).response


def found_in(results: list[dict]) -> dict[str, list[str]]:
    return {v["id"]: [n["html"][:200] for n in v["nodes"][:3]] for v in results if v["id"] not in THEME}


@each_page
def test_a_page_is_offline_quiet_and_accessible(browser, address, name):
    with Visit(browser) as visit:
        page = visit.go(f"{address}/{name}.html")
        outside = [u for u in visit.requests if not u.startswith((address, "data:", "blob:"))]
        assert outside == []
        assert visit.errors == []
        # no formula is broken
        assert page.locator("mjx-merror").count() == 0
        assert "$$" not in page.inner_text("body")
        found = judge(page, ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"])
        assert found_in(found["violations"]) == {}


@each_page
def test_nothing_overflows_on_a_phone_and_all_is_readable_in_the_dark(browser, address, name):
    """Contrast is checked again in the dark, where the theme's colours are others; wide, with all that a phone hides."""
    with Visit(browser, width=360, scheme="dark") as visit:
        page = visit.go(f"{address}/{name}.html")
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        # what is wider than the page must scroll inside its own box
        wide = page.evaluate(
            """() => [...document.querySelectorAll('.bd-article *')].filter(e => {
                if (e.getBoundingClientRect().right <= 361 || e.closest('mjx-assistive-mml')) return false;
                for (let p = e; p && p.tagName != 'ARTICLE'; p = p.parentElement)
                    if (['auto', 'scroll', 'hidden'].includes(getComputedStyle(p).overflowX)) return false;
                return true;
            }).map(e => e.outerHTML.slice(0, 120))"""
        )
        assert wide == []
        page.set_viewport_size({"width": 1280, "height": 900})
        found = judge(page, {"type": "rule", "values": ["color-contrast"]})
        assert found_in(found["violations"]) == {}
        # equal colours are "incomplete" to axe, as they may be meant; here nothing is hidden that way
        unsure = [n for v in found["incomplete"] for n in v["nodes"]]
        equal = [n["html"][:200] for n in unsure if '"equalRatio"' in json.dumps(n["any"])]
        assert equal == []


@each_page
def test_every_image_has_an_alternative_text(html, name):
    text = (html / f"{name}.html").read_text(encoding="utf-8")
    for image in re.findall(r"<img\b[^>]*>", text):
        assert re.search(r'alt="[^"]+"', image) or 'role="presentation"' in image, image[:200]


@each_chapter
def test_a_chapter_can_be_opened_on_colab_and_its_code_is_linked(html, chapter):
    text = (html / f"{chapter}.html").read_text(encoding="utf-8")
    button = re.search(r'href="(https://colab\.research\.google\.com/github/[^"]+)"', text)
    assert button
    assert button.group(1).endswith(f"/blob/main/{chapter}.ipynb")
    linked = re.findall(r'class="sphinx-codeautolink-a" href="([^"]+)"', text)
    assert any("reference/api" in target for target in linked)


def test_formulas_are_drawn(browser, address):
    with Visit(browser) as visit:
        assert visit.go(f"{address}/book/distillation/loss.html").locator("mjx-container").count() > 20


@pytest.mark.parametrize("word", ["temperature", "bitmask", "truncated"])
def test_search_finds(browser, address, word):
    with Visit(browser) as visit:
        page = visit.go(f"{address}/search.html?q={word}")
        page.wait_for_selector("#search-results li", timeout=20_000)
        assert page.locator("#search-results li").count() >= 1
        assert visit.errors == []


def test_links_inside_the_book_lead_somewhere(html):
    missing = []
    for name in PAGES:
        page = html / f"{name}.html"
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r'href="([^"#?]+)(?:[#?][^"]*)?"', text):
            if re.match(r"[a-z]+:", target):
                continue
            if not (page.parent / target).resolve().exists():
                missing.append((name, target))
    assert missing == []


def test_it_opens_from_the_disk(browser, html):
    """`make book` says where to open it: a file:// address, without a server."""
    with Visit(browser) as visit:
        page = visit.go((html / "book" / "intro.html").as_uri())
        assert "Small language models" in page.title()
        assert [e for e in visit.errors if "CORS" not in e] == []
