"""refimpl.data.hub on local folders in the Hub's layout; with a network the same call takes names."""

from __future__ import annotations

import csv
import json
import sys
from types import SimpleNamespace

import pytest

from refimpl.data import hub, load_table

ROWS = {"train": [("a, b", 1), ("c", 0), ("d", 1)], "test": [("e", 0)]}


def table(split):
    return [{"sentence": sentence, "label": label} for sentence, label in ROWS[split]]


def write_csv(path, split):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["sentence", "label"])
        writer.writeheader()
        writer.writerows(table(split))


def write_jsonl(path, split):
    path.write_text("".join(json.dumps(row) + "\n" for row in table(split)))


def write_parquet(path, split):
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(table(split)), path)


WRITERS = {"csv": write_csv, "jsonl": write_jsonl, "parquet": write_parquet}
LAYOUTS = {  # as found on the Hub
    "csv": "{split}.csv",
    "jsonl": "data/{split}.jsonl",
    "parquet": "data/{split}-00000-of-00001.parquet",
}


def make(folder, kind, config=""):
    for split in ROWS:
        path = folder / config / LAYOUTS[kind].format(split=split)
        path.parent.mkdir(parents=True, exist_ok=True)
        WRITERS[kind](path, split)
    return folder


@pytest.fixture
def cache(tmp_path):
    pytest.importorskip("datasets")
    return tmp_path / "cache"


@pytest.mark.parametrize("kind", WRITERS)
def test_folder(tmp_path, cache, kind):
    folder = make(tmp_path / "set", kind)
    train = load_table(folder, cache_dir=cache)
    assert train.to_list() == table("train")
    assert load_table(str(folder), split="test", cache_dir=cache).to_list() == table("test")
    assert load_table(folder, split="train[:2]", cache_dir=cache)["sentence"][:] == ["a, b", "c"]


def test_configs_are_folders(tmp_path, cache):
    folder = make(make(tmp_path / "set", "csv", "sst2"), "jsonl", "other")
    assert load_table(folder, "sst2", cache_dir=cache).to_list() == table("train")
    assert load_table(folder, "other", split="test", cache_dir=cache).to_list() == table("test")
    with pytest.raises(ValueError, match=r"config: got 'cola'; takes one of \['other', 'sst2'\]"):
        load_table(folder, "cola", cache_dir=cache)


def test_configs_of_the_readme(tmp_path, cache):
    """A snapshot of a Hub repository: its README says which files belong to which config."""
    folder = make(tmp_path / "set", "parquet", "sst2")
    folder.joinpath("README.md").write_text(
        "---\nconfigs:\n- config_name: sst2\n  data_files:\n  - split: train\n    path: sst2/data/train-*\n"
        "  - split: validation\n    path: sst2/data/test-*\n---\n"
    )
    assert load_table(folder, "sst2", cache_dir=cache).to_list() == table("train")
    assert load_table(folder, "sst2", split="validation", cache_dir=cache).to_list() == table("test")
    with pytest.raises(ValueError, match="cola"):
        load_table(folder, "cola", cache_dir=cache)


def test_refuses_with_the_library(tmp_path, cache):
    folder = make(tmp_path / "set", "csv")
    with pytest.raises(ValueError, match="validation"):
        load_table(folder, split="validation", cache_dir=cache)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"name_or_path: got .*empty' without data files"):
        load_table(tmp_path / "empty", cache_dir=cache)


def test_no_bars_and_the_bars_as_they_were(tmp_path, cache, capfd):
    from datasets.utils.logging import is_progress_bar_enabled

    before = is_progress_bar_enabled()
    load_table(make(tmp_path / "set", "csv"), cache_dir=cache)
    assert capfd.readouterr().err == ""
    assert is_progress_bar_enabled() == before


def test_refuses_before_the_library_is_needed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    for missing in (tmp_path / "absent", "./absent", "/absent", "a/b/c"):
        with pytest.raises(FileNotFoundError, match="takes an existing folder or a name on the Hub"):
            load_table(missing)
    with pytest.raises(ValueError, match="revision: got 'main' with a folder"):
        load_table(tmp_path, revision="main")
    with pytest.raises(ModuleNotFoundError, match="load_table: not installed; run: pip install datasets"):
        load_table("glue", "sst2")


@pytest.fixture
def fake(monkeypatch):
    """Stands for the library: records the call, and has or has not a network."""
    calls = []

    def load_dataset(target, **options):
        calls.append((target, options))
        if target == "nobody/nothing":
            raise ConnectionError("no network")
        return "table"

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    bars = SimpleNamespace(
        disable_progress_bar=lambda: None,
        enable_progress_bar=lambda: None,
        is_progress_bar_enabled=lambda: True,
    )
    monkeypatch.setitem(sys.modules, "datasets.utils", SimpleNamespace(logging=bars))
    monkeypatch.setitem(sys.modules, "datasets.utils.logging", bars)
    return calls


def test_names_on_the_hub(fake, tmp_path):
    assert load_table("glue", "sst2", split="validation") == "table"
    load_table("wikitext", "wikitext-2-raw-v1")
    load_table("org/set", revision="v1", cache_dir=tmp_path)
    assert fake == [
        ("nyu-mll/glue", {"split": "validation", "name": "sst2", "revision": None, "cache_dir": None}),
        (
            "Salesforce/wikitext",
            {"split": "train", "name": "wikitext-2-raw-v1", "revision": None, "cache_dir": None},
        ),
        ("org/set", {"split": "train", "revision": "v1", "cache_dir": str(tmp_path)}),
    ]
    assert hub.HUB_NAMES == {"glue": "nyu-mll/glue", "wikitext": "Salesforce/wikitext"}


def test_without_a_network(fake):
    with pytest.raises(OSError, match=r"name_or_path: got 'nobody/nothing'; it is no folder.*takes a folder"):
        load_table("nobody/nothing")
