"""The book's sources: executed notebooks, described figures, one address, one list of dependencies."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from book_kit.setup_cell import SETUP_CELL
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text())
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text())
PAGES = [TOC["root"], *(c["file"] for part in TOC["parts"] for c in part["chapters"])]
CHAPTERS = [p for p in PAGES if (ROOT / f"{p}.ipynb").exists()]
each_chapter = pytest.mark.parametrize("chapter", CHAPTERS)


def cells(chapter: str, kind: str | None = None) -> list[dict]:
    notebook = json.loads((ROOT / f"{chapter}.ipynb").read_text(encoding="utf-8"))
    return [c for c in notebook["cells"] if kind in (None, c["cell_type"])]


def source(cell: dict) -> str:
    return "".join(cell["source"])


def prose(chapter: str) -> str:
    return "\n\n".join(source(c) for c in cells(chapter, "markdown"))


def tracked() -> list[Path]:
    try:
        listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).is_file()]


def test_every_page_of_the_contents_exists_and_every_notebook_is_in_it():
    assert len(CHAPTERS) >= 6
    for page in PAGES:
        assert any((ROOT / f"{page}{ending}").exists() for ending in (".ipynb", ".md")), page
    on_disk = {
        str(p.relative_to(ROOT).with_suffix(""))
        for p in (ROOT / "book").rglob("*.ipynb")
        if ".ipynb_checkpoints" not in p.parts
    }
    assert on_disk == set(CHAPTERS)


@each_chapter
def test_a_chapter_was_run_from_top_to_bottom(chapter):
    """nbval does not compare a cell that has no output and no count: a stripped notebook would pass."""
    code = cells(chapter, "code")
    assert [c["execution_count"] for c in code] == list(range(1, len(code) + 1))
    for cell in code:
        for output in cell["outputs"]:
            expected = "raises-exception" in cell["metadata"].get("tags", [])
            assert output["output_type"] != "error" or expected, source(cell)
            assert output.get("name") != "stderr", source(cell)


@each_chapter
def test_every_figure_is_described(chapter):
    for cell in cells(chapter, "code"):
        if any("image/png" in o.get("data", {}) for o in cell["outputs"]):
            meta = cell["metadata"].get("mystnb", {})
            assert len(meta.get("image", {}).get("alt", "")) > 40, source(cell)[:200]
            assert meta.get("figure", {}).get("caption") and meta["figure"].get("name"), source(cell)[:200]
        assert not any("image/svg+xml" in o.get("data", {}) for o in cell["outputs"])


@each_chapter
def test_every_cell_with_times_is_marked(chapter):
    """Times differ on every machine: unmarked, they would be compared."""
    clock = re.compile(r"measure\.(latency|report|compare)\(|perf_counter|\btimeit\b|\blatency\(")
    for cell in cells(chapter, "code"):
        tags = cell["metadata"].get("tags", [])
        if clock.search(source(cell)) and any(o.get("data") or o.get("text") for o in cell["outputs"]):
            assert "timing" in tags, source(cell)[:200]


@each_chapter
def test_the_first_cell_sets_up(chapter):
    assert source(cells(chapter, "code")[0]).startswith(SETUP_CELL.rstrip()), chapter


@each_chapter
def test_no_machine_in_the_outputs(chapter):
    text = json.dumps(cells(chapter))
    for pattern in (r"/home/", r"/root/", r"/work/", r"/Users/", r"/tmp/", r"site-packages/[^\"]*/work"):
        assert not re.search(pattern, text), pattern


@each_chapter
def test_exercises_have_solutions_and_checks(chapter):
    text = prose(chapter)
    exercises = re.findall(r"\{exercise(?:-start)?\}[^\n]*\n(?::[^\n]*\n)*?:label:\s*(\S+)", text)
    solutions = re.findall(r"\{solution(?:-start)?\}\s*(\S+)", text)
    assert 3 <= len(exercises) <= 6, (chapter, exercises)
    assert sorted(exercises) == sorted(solutions)
    checks = [c for c in cells(chapter, "code") if re.search(r"\bcheck_\w+\(", source(c))]
    assert len(checks) >= len(exercises), f"{len(checks)} checks for {len(exercises)} exercises"


@each_chapter
def test_every_glued_number_exists(chapter):
    keys = set()
    for cell in cells(chapter, "code"):
        for output in cell["outputs"]:
            keys.add(output.get("metadata", {}).get("scrapbook", {}).get("name"))
    wanted = set(re.findall(r"\{glue:\w*\}`([^`]+)`", prose(chapter)))
    assert wanted <= keys, wanted - keys
    assert len(wanted) >= 3, "a chapter's numbers come from its cells"


@each_chapter
def test_glued_numbers_are_shown_as_they_were_formatted(chapter):
    """MyST-NB evaluates what is glued: unquoted, "2,984" is shown as (2, 984) and "0.70" as 0.7."""
    for cell in cells(chapter, "code"):
        for output in cell["outputs"]:
            text = output.get("data", {}).get("application/papermill.record/text/plain")
            if text is not None:
                assert isinstance(ast.literal_eval("".join(text)), str), text


@each_chapter
def test_the_chapter_has_its_parts(chapter):
    text = prose(chapter).lower()
    for part in (
        "what you will be able to do",
        "what it needs",
        "where it fails",
        "production",
        "summary",
        "exercises",
    ):
        assert part in text, part
    assert "{cite" in text, "published numbers carry their source"
    assert re.search(r"```\{bibliography\}|references", text)


def test_one_address():
    """_config.yml has the address; a notebook on Colab cannot see it, so copies exist, all equal."""
    url = CONFIG["repository"]["url"]
    owner, name = url.removeprefix("https://github.com/").split("/")
    home = f"https://{owner.lower()}.github.io/{name}/"
    assert CONFIG["html"]["baseurl"] == home == CONFIG["sphinx"]["config"]["ogp_site_url"]
    assert url in SETUP_CELL
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (cited["repository-code"], cited["url"]) == (url, home)
    theirs = re.compile(r"https://github\.com/[\w.-]+/[\w.-]+?(?=[\s)\"'`,@/]|\.git|$)")
    for path in (ROOT / "README.md", ROOT / "book/reference/cite.md", ROOT / "CONTRIBUTING.md"):
        for found in theirs.findall(path.read_text()):
            assert found == url, (path.name, found)


def test_one_list_of_dependencies():
    """pyproject.toml says what, constraints.txt which versions, environment.yml refers to both."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [Requirement(r) for r in project["dependencies"]]
    for extra, listed in project["optional-dependencies"].items():
        if extra != "bench":  # not installed by the two commands
            needed += [Requirement(r) for r in listed]
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            (specifier,) = requirement.specifier
            assert specifier.operator == "==", line
            pins[requirement.name.lower().replace("_", "-")] = specifier.version
    for requirement in needed:
        name = requirement.name.lower().replace("_", "-")
        if name == project["name"]:
            continue
        assert name in pins, f"{name} has no pin in constraints.txt"
        assert pins[name] in requirement.specifier, (name, pins[name], str(requirement.specifier))
    assert pins["torch"] == "2.13.0"
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    conda = [d for d in environment["dependencies"] if isinstance(d, str)]
    (pip,) = [d["pip"] for d in environment["dependencies"] if isinstance(d, dict)]
    assert {re.split(r"[=<> ]", d)[0] for d in conda} == {"python", "pip", "make"}
    assert pip == ["-c constraints.txt", "-e .[book,test]"]
    core = {r.name for r in map(Requirement, project["dependencies"])}
    assert core == {"torch", "transformers", "safetensors", "numpy", "tqdm"}


def test_one_version():
    import refimpl

    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == refimpl.__version__
    assert refimpl.__version__ in (ROOT / "book/reference/cite.md").read_text()


def test_the_repository_stays_small():
    files = tracked()
    assert sum(p.stat().st_size for p in files) < 60e6
    for path in files:
        assert path.stat().st_size < 20e6, path


def test_rooms_stay_small():
    """One idea a file: a source file of refimpl has about 250 lines at most."""
    for path in (ROOT / "refimpl").rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 280, path


FAMILIES = ("distill", "prune", "quantize", "lowrank", "share", "retrieve")


@pytest.mark.parametrize(
    "path", sorted((ROOT / "refimpl").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT))
)
def test_arrows_point_down(path):
    """Recipes stand on everything; a family imports the ground floor and itself; the ground floor no family."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    own = parts[1] if len(parts) > 1 else ""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [f"{node.module}.{a.name}" for a in node.names]
        for name in names:
            piece = name.split(".")
            assert piece[0] not in ("book_kit", "tests"), name
            if piece[0] == "refimpl" and len(piece) > 1 and own != "recipes":
                assert piece[1] not in (*FAMILIES, "recipes") or piece[1] == own, (
                    f"{'.'.join(parts)} imports {name}"
                )
