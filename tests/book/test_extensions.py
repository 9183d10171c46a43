"""The book's own Sphinx extensions: a number comes from the cell that measured it, or the build complains."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import pytest

EXTENSIONS = Path(__file__).resolve().parents[2] / "book" / "_ext"
pytest.importorskip("sphinx")


@pytest.fixture(autouse=True)
def path(monkeypatch):
    monkeypatch.syspath_prepend(str(EXTENSIONS))
    yield
    for name in ("measured", "author_year", "docstrings", "listitems"):
        sys.modules.pop(name, None)


def notebook(**values: str) -> str:
    """A notebook whose cells glued these values."""
    outputs = [
        {
            "output_type": "display_data",
            "data": {"application/papermill.record/text/plain": repr(text)},
            "metadata": {"scrapbook": {"name": key, "mime_prefix": "application/papermill.record/"}},
        }
        for key, text in values.items()
    ]
    return json.dumps({"cells": [{"cell_type": "code", "outputs": outputs}, {"cell_type": "markdown"}]})


def build(source: Path, page: str) -> tuple[str, str]:
    """The HTML of a page that uses the role, and the warnings."""
    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace

    (source / "index.rst").write_text(f"Title\n=====\n\n.. toctree::\n\n   part/chapter\n\n{page}\n")
    warnings = io.StringIO()
    with docutils_namespace():
        app = Sphinx(
            source,
            None,
            source / "_html",
            source / "_trees",
            "html",
            confoverrides={"extensions": ["measured"], "html_theme": "basic"},
            status=None,
            warning=warnings,
        )
        app.build()
    return (source / "_html" / "index.html").read_text(), warnings.getvalue()


@pytest.fixture
def source(tmp_path):
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "chapter.rst").write_text("Chapter\n=======\n")
    (tmp_path / "part" / "chapter.ipynb").write_text(notebook(**{"a.recall": "0.68", "a.size": "90.9 MB"}))
    return tmp_path


def test_measured_shows_the_glued_value_as_a_link(source):
    html, warnings = build(
        source, "It is :measured:`part/chapter:a.recall` of :measured:`part/chapter:a.size`."
    )
    assert warnings == ""
    links = re.findall(r'href="part/chapter.html"><span class="doc">([^<]*)</span>', html)
    assert links == ["0.68", "90.9 MB"]


@pytest.mark.parametrize(
    "wrong", ["part/chapter:a.recal", "part/other:a.recall", "a.recall", "part/chapter:"]
)
def test_measured_warns_of_a_number_that_nobody_measured(source, wrong):
    _, warnings = build(source, f"It is :measured:`{wrong}`.")
    assert "is not glued by" in warnings
    assert repr(wrong) in warnings


def test_labels_are_those_of_the_text():
    from author_year import Labels
    from pybtex.database import Entry, Person

    def entry(*people, year="2015", key="k"):
        found = Entry("article", {"year": year}, {"author": [Person(p) for p in people]})
        found.key = key
        return found

    entries = [
        entry("Hinton, Geoffrey", "Vinyals, Oriol", "Dean, Jeff"),
        entry("Hinton, Geoffrey", "Vinyals, Oriol", "Dean, Jeff"),
        entry("Ba, Jimmy", "Caruana, Rich", year="2014"),
        entry("Lin, Jianhua", year="1991"),
        entry(r"Bucil{\u{a}}, Cristian", year="2006"),
        entry(year="1999", key="nobody"),
    ]
    assert list(Labels().format_labels(entries)) == [
        "Hinton et al., 2015",
        "Hinton et al., 2015b",
        "Ba and Caruana, 2014",
        "Lin, 1991",
        "Bucilă, 2006",
        "nobody, 1999",
    ]


@pytest.mark.parametrize(
    ("line", "escaped"),
    [
        ("weights |W| of [*, in]", r"weights \|W\| of [\*, in]"),
        ("prune_ changes the model", r"prune\_ changes the model"),
        ("``|W|`` and `prune_` stay", "``|W|`` and `prune_` stay"),
        ("num_items stays", "num_items stays"),
    ],
)
def test_docstrings_mean_what_they_say(line, escaped):
    from docstrings import escape

    assert escape(line) == escaped
