"""refimpl.data.docs: static, deterministic, public names only, no module on two sides."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import textwrap

import pytest

from refimpl.data import LIBRARIES, SPLITS, Doc, docs, docstrings, split_of, topics

FILES = {
    "__init__.py": '"""The package.\n\n    Indented once.\n    """\nraise RuntimeError("imported!")\n',
    "b/__init__.py": '"""Folder b."""\n',
    "b/late.py": 'def same():\n    """Same text."""\n',
    "a.py": '''
        """Module a."""
        def same():
            """Same text."""
        def _private():
            """Not shown."""
        async def wait():
            """
            Wait here.

                More.
            """
            def inner():
                """Not shown either."""
        class Thing:
            """A thing."""
            def method(self):
                """A method."""
            def __init__(self):
                """Not shown."""
            class Part:
                """A part."""
                def use(self):
                    """Use it."""
        class _Hidden:
            """No."""
            def seen(self):
                """No."""
        def bare(): pass
        def empty():
            """   """
        add_newdoc("nice.core", "array", """array(x)\\n--\\n\\nMake an array.""")
        add_newdoc("nice.core", "array", ("shape", """Its shape."""))
        add_newdoc("airy", """Airy functions.""")
        add_newdoc("_hidden", """No.""")
        add_newdoc("nice.core", name, """No.""")
        add_newdoc("""No.""")
        other("nice", "x", """No.""")
        ''',
    "_private_file.py": 'def shown():\n    """Public in a private file."""\n',
    "tests/test_a.py": '"""No."""\n',
    "conftest.py": '"""No."""\n',
    "broken.py": "def (:\n",
    "notes.txt": '"""No."""',
}
EXPECTED = [
    ("nice", "", "The package.\n\nIndented once."),
    ("nice._private_file", "shown", "Public in a private file."),
    ("nice.a", "", "Module a."),
    ("nice.a", "same", "Same text."),
    ("nice.a", "wait", "Wait here.\n\n    More."),
    ("nice.a", "Thing", "A thing."),
    ("nice.a", "Thing.method", "A method."),
    ("nice.a", "Thing.Part", "A part."),
    ("nice.a", "Thing.Part.use", "Use it."),
    ("nice.a", "array", "Make an array."),
    ("nice.a", "array.shape", "Its shape."),
    ("nice.a", "airy", "Airy functions."),
    ("nice.b", "", "Folder b."),
]


@pytest.fixture
def nice(tmp_path, monkeypatch):
    """A package called nice that must not be imported."""
    for name, text in FILES.items():
        file = tmp_path / "nice" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))
    (tmp_path / "alone.py").write_text('"""One file."""\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    docs._read.cache_clear()
    yield tmp_path
    docs._read.cache_clear()


def test_by_hand(nice):
    """Everything public, in order, each text once, nothing private, nothing of tests, nothing imported."""
    assert docstrings("nice") == [Doc("nice", *row) for row in EXPECTED]
    assert "nice" not in sys.modules


def test_ids(nice):
    ids = [d.id for d in docstrings("nice")]
    assert ids[:4] == ["nice", "nice._private_file.shown", "nice.a", "nice.a.same"]


def test_several_libraries_in_the_order_given(nice):
    assert [d.library for d in docstrings(["alone", "nice"])][:2] == ["alone", "nice"]
    assert docstrings(["alone"]) == [Doc("alone", "alone", "", "One file.")]
    assert docstrings(iter(["nice", "alone"]))[-1].library == "alone"


def test_refuses(nice):
    with pytest.raises(ValueError, match="libraries: got nothing"):
        docstrings([])
    with pytest.raises(ValueError, match=r"libraries: got 'nice\.a'; takes the name of a whole package"):
        docstrings("nice.a")
    with pytest.raises(
        ModuleNotFoundError, match="libraries: got 'absent_package', not installed; run: pip install"
    ):
        docstrings("absent_package")
    with pytest.raises(TypeError, match="libraries: got int"):
        docstrings([3])
    with pytest.raises(ValueError, match="libraries: got 'itertools'; takes a package with Python source"):
        docstrings("itertools")


def test_real_packages():
    """The defaults are read whole: known functions are there, also those written in C, and only once."""
    found = docstrings()
    by_id = {d.id: d for d in found}
    assert {d.library for d in found} == set(LIBRARIES)
    assert by_id["numpy.linalg._linalg.norm"].text.startswith("Matrix or vector norm.")
    assert "sklearn.cluster._kmeans.KMeans" in by_id
    assert by_id["numpy._core._add_newdocs.ndarray.T"].text.startswith("View of the transposed array.")
    assert len({d.text for d in found}) == len(found) > 9_000
    assert all(d.text == d.text.strip() != "" for d in found)
    assert not any(part.startswith("_") for d in found for part in d.name.split("."))
    assert not any("tests" in d.module.split(".") for d in found)
    assert docstrings() == found


def test_pip_name_and_import_name_read_the_same_texts():
    pip, name = docstrings("scikit-learn"), docstrings("sklearn")
    assert [d.text for d in pip] == [d.text for d in name]
    assert {d.library for d in pip} == {"scikit-learn"}


def test_stdlib():
    found = docstrings("stdlib")
    by_id = {d.id: d for d in found}
    assert by_id["json.dumps"].text.startswith("Serialize ``obj`` to a JSON formatted")
    assert "email.message.Message.get_payload" in by_id
    assert not any(d.module.startswith(("test.", "site-packages", "idlelib")) for d in found)
    assert len(found) > 4_000


def test_topics():
    texts = topics()
    assert list(texts) == sorted(texts)
    assert texts["assert"].startswith("The")
    assert sum(map(len, texts.values())) > 300_000
    as_docs = docstrings("topics")
    assert Doc("topics", "topics.assert", "", texts["assert"]) in as_docs


def test_imports_nothing_that_it_reads():
    code = (
        "import sys; from refimpl.data.docs import docstrings; docstrings('networkx'); "
        "print({'networkx', 'matplotlib', 'scipy'} & set(sys.modules))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert run.stdout.strip() == "set()"


def test_split_is_a_stable_hash():
    """These never change: a text that once was in a test stays there, in every version of this package."""
    names = ["numpy.linalg._linalg", "scipy.signal._filter_design", "json", "topics.assert"]
    for name in names:
        part = int(hashlib.sha256(name.encode()).hexdigest()[:16], 16) / 2**64
        assert split_of(name) == ("test" if part < 0.2 else "validation" if part < 0.3 else "train")
    assert [split_of(n) for n in names] == KNOWN


KNOWN = ["validation", "test", "test", "train"]


def test_split_fractions():
    sides = [split_of(f"package.module_{i}") for i in range(20_000)]
    assert {s: round(sides.count(s) / 20_000, 2) for s in SPLITS} == {
        "train": 0.7,
        "validation": 0.1,
        "test": 0.2,
    }
