"""The helpers that the chapters call: numbers, tables, style, and the script that runs notebooks."""

from __future__ import annotations

import json

import nbformat
import pytest
from book_kit import COLORS, glue, run, show_table, tables, use_style
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook


@pytest.fixture
def shown(monkeypatch):
    """What was displayed, as the keyword arguments of display."""
    calls = []

    def display(data, **options):
        calls.append((data, options))

    monkeypatch.setattr("book_kit.numbers.display", display)
    monkeypatch.setattr("book_kit.tables.display", display)
    return calls


def test_glue_writes_what_myst_nb_reads(shown):
    glue("a.key", 0.68349, "{:.2f}")
    ((data, options),) = shown
    assert data == {"application/papermill.record/text/plain": "'0.68'"}
    assert options["metadata"]["scrapbook"] == {
        "name": "a.key",
        "mime_prefix": "application/papermill.record/",
    }
    from myst_nb.core.render import MditRenderMixin  # noqa: F401  the reader of these names is there


def test_a_table_has_html_and_text(shown):
    show_table([{"model": "a<b", "size": "1.5 MB"}, {"model": "c", "size": "12 MB"}], caption="Two & three")
    ((data, _),) = shown
    assert data["text/plain"].splitlines() == [
        "Two & three",
        "model  size",
        "-----  ------",
        "a<b    1.5 MB",
        "c      12 MB",
    ]
    assert "a&lt;b" in data["text/html"]
    assert "<caption>Two &amp; three</caption>" in data["text/html"]
    assert data["text/html"].count('scope="col"') == 2
    assert 'tabindex="0"' in data["text/html"], "a table that scrolls can be reached with the keyboard"


def test_a_table_of_lists_takes_headers(shown):
    show_table([["a", 1], ["b", 2]], ["name", "count"])
    assert shown[0][0]["text/plain"].splitlines()[2:] == ["a     1", "b     2"]
    assert '<td class="text-right">1</td>' in shown[0][0]["text/html"]
    with pytest.raises(ValueError, match="headers: got None"):
        show_table([["a", 1]])
    with pytest.raises(ValueError, match="got 1 cells in row 1; takes 2"):
        show_table([["a", 1], ["b"]], ["name", "count"])
    with pytest.raises(ValueError, match="rows: got none"):
        show_table([])


@pytest.mark.parametrize(
    ("cell", "numeric"), [("0.5", True), ("−0.5", True), ("< 3", True), ("MiniLM", False), ("", False)]
)
def test_numbers_stand_on_the_right(cell, numeric):
    assert tables._numeric(cell) is numeric


def test_colours_are_told_apart_on_the_figures_white_card():
    import matplotlib as mpl

    with mpl.rc_context():
        use_style()
        assert mpl.rcParams["figure.facecolor"] == mpl.rcParams["savefig.facecolor"] == "white"
        assert set(mpl.rcParams["axes.prop_cycle"].by_key()["color"]) <= set(COLORS.values())
    assert len(set(COLORS.values())) == len(COLORS)


def test_paths_of_the_machine_are_scrubbed(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    dirty = {
        "text/plain": [f"{tmp_path}/a.txt", "/opt/x/lib/python3.11/site-packages/torch/nn.py:3"],
        "image/png": f"{tmp_path}/",
        "n": 3,
    }
    assert run.scrub(dirty) == {
        "text/plain": ["a.txt", "site-packages/torch/nn.py:3"],
        "image/png": f"{tmp_path}/",
        "n": 3,
    }
    assert run.scrub("/tmp/ipykernel_12/345.py") == "<cell>"


def test_a_run_is_the_same_twice(tmp_path):
    """Stable ids, counts from 1, no times: a second run changes no byte."""
    path = tmp_path / "a.ipynb"
    cells = [new_markdown_cell("# A"), new_code_cell("x = 1\nx"), new_code_cell("import sys; print(x + 1)")]
    nbformat.write(
        new_notebook(cells=cells, metadata={"language_info": {"name": "python", "version": "3.99"}}), path
    )
    run.run(path)
    first = path.read_bytes()
    run.run(path)
    assert path.read_bytes() == first
    written = json.loads(first)
    assert [c["id"] for c in written["cells"]] == ["c000", "c001", "c002"]
    assert [c.get("execution_count") for c in written["cells"]] == [None, 1, 2]
    assert written["metadata"]["language_info"] == {"name": "python"}
    assert all("execution" not in c["metadata"] for c in written["cells"])
