"""The README's code, typed as it stands."""

from __future__ import annotations

import re
from contextlib import nullcontext as _nothing
from pathlib import Path

import pytest

from tests.retrieve.servers import needs_milvus, needs_redis, own_server

BLOCKS = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[1] / "README.md").read_text(), re.S)
URL = '"redis://localhost:6379/0?name=animals"'


@pytest.mark.parametrize(
    "kind",
    [
        "memory",
        "file",
        pytest.param("redis", marks=needs_redis),
        pytest.param("milvus", marks=needs_milvus),
    ],
)
def test_the_vector_database(kind, tmp_path, capsys):
    (block,) = (block for block in BLOCKS if "open_store" in block)
    assert block.count(URL) == 1
    with own_server() if kind == "redis" else _nothing() as server:
        url = {
            "memory": "memory://",
            "file": (tmp_path / "animals").as_uri(),
            "milvus": (tmp_path / "some.db").as_uri().replace("file", "milvus") + "?name=animals",
            "redis": f"{server.url}?name=animals" if server else "",
        }[kind]
        exec(compile(block.replace(URL, repr(url)), "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["dog", "cat"]
    assert all("{'lang': 'en'}" in line for line in lines)


def test_a_smaller_model(tmp_path, monkeypatch, capsys):
    from transformers import AutoModel

    from refimpl.models import load_minilm

    (block,) = (block for block in BLOCKS if "prune_" in block)
    monkeypatch.setattr(AutoModel, "from_pretrained", lambda name: load_minilm()[0])
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})
    size = int(capsys.readouterr().out.split()[0])
    assert size == sum(path.stat().st_size for path in (tmp_path / "small").iterdir()) < 60e6
