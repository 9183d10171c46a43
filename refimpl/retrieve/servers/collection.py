"""Collections of Milvus: their fields, their index by our names, and the manifest of a store."""

from __future__ import annotations

from typing import Any

import numpy as np

from refimpl.retrieve import index as indexes
from refimpl.retrieve.manifest import check_manifest
from refimpl.retrieve.rows import Metadata, check_lengths
from refimpl.retrieve.servers.client import milvus_module
from refimpl.retrieve.store import StoreError

FORMAT = "refimpl-milvus-1"
LONGEST = 65535  # bytes of an id


def check_taken(names: list[str], rows: np.ndarray, metadata: list[Metadata]) -> None:
    """Refuse before a row is written what Milvus does not take: it would refuse a batch when others are there already.

    Raises:
        ValueError: a vector that is too short or too long to be squared, an id of more than 65,535 bytes, an integer of more than 64 bits.
    """
    check_lengths(rows, "Milvus")
    for i, row in enumerate(metadata):
        if _beyond(row):
            raise ValueError(f"metadata: got an integer of more than 64 bits at index {i}; Milvus takes 64")
    for name in names:
        if len(name.encode()) > LONGEST:
            raise ValueError(f"ids: got one of {len(name.encode())} bytes; Milvus takes {LONGEST}")


def _beyond(value: Any) -> bool:
    """Whether an integer in it, however deep, needs more than 64 bits."""
    if isinstance(value, dict | list):
        return any(_beyond(part) for part in (value.values() if isinstance(value, dict) else value))
    return isinstance(value, int) and not -(2**63) <= value < 2**63


def open_collection(
    client: Any, name: str, dim: int | None, metric: str, config: indexes.Config | None, encoder: str | None
) -> dict[str, Any]:
    """The manifest of the store, whose collections are made if they are not there, and loaded.

    Args:
        client: of pymilvus.
        config: the index; None takes that of the manifest. Another one than that is built now.

    Raises:
        ValueError: no dimension for a new store.
        StoreError: a store of another dimension, metric or encoder.
    """
    place = f"{name}_manifest"
    rows = []
    if client.has_collection(place):
        client.load_collection(place)
        rows = client.get(place, ids=["manifest"], output_fields=["metadata"])
    if rows:
        found = dict(rows[0]["metadata"])
        check_manifest(found, FORMAT, dim, metric, encoder)
    elif dim is None:
        raise ValueError("dim: got None; takes the numbers a vector, as there is no store yet")
    else:
        index = indexes.describe(config or indexes.Auto())
        found = {"format": FORMAT, "dim": dim, "metric": metric, "encoder": None, "index": index}
    before = dict(found) if rows else None
    found["encoder"] = found["encoder"] or encoder  # the first to say it decides
    if config is not None:
        found["index"] = indexes.describe(config)
    parameters, _ = translate(indexes.from_description(found["index"]))
    _make(client, name, found["dim"], parameters, f"rows of {name}")
    fields = client.describe_collection(name)["fields"]
    there = int(next(field["params"]["dim"] for field in fields if field["name"] == "vector"))
    if there != found["dim"]:  # another process was quicker
        raise StoreError(f"dim: got {found['dim']}; this store was made with {there}")
    if before is not None and translate(indexes.from_description(before["index"]))[0] != parameters:
        client.release_collection(name)
        client.drop_index(name, "vector")
        client.create_index(name, _built(parameters))
    client.load_collection(name)
    if found != before:
        _make(client, place, 2, {"index_type": "FLAT"}, f"manifest of {name}")
        row = {"key": "manifest", "name": "manifest", "vector": [1.0, 0.0], "metadata": found}
        client.upsert(place, [row])
        client.flush(place)
    return found


def _make(client: Any, name: str, dim: int, parameters: dict[str, Any], text: str) -> None:
    """A collection, unless it is there."""
    module = milvus_module()
    if client.has_collection(name):
        return
    schema = module.MilvusClient.create_schema(auto_id=False, description=text)
    schema.add_field("key", module.DataType.VARCHAR, is_primary=True, max_length=64)
    schema.add_field("name", module.DataType.VARCHAR, max_length=LONGEST)
    schema.add_field("vector", module.DataType.FLOAT_VECTOR, dim=dim)
    schema.add_field("metadata", module.DataType.JSON)
    try:
        client.create_collection(
            name, schema=schema, index_params=_built(parameters), consistency_level="Strong"
        )
    except module.MilvusException:
        if not client.has_collection(name):  # else another process was quicker
            raise


def _built(parameters: dict[str, Any]) -> Any:
    """The index of the vectors, as the client takes it."""
    built = milvus_module().MilvusClient.prepare_index_params()
    built.add_index("vector", metric_type="COSINE", **parameters)
    return built


def translate(config: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What Milvus calls an index, when it is built and when it is searched."""
    if isinstance(config, indexes.Exact):
        return {"index_type": "FLAT"}, {}
    if isinstance(config, indexes.HNSW):
        return {
            "index_type": "HNSW",
            "params": {"M": config.m, "efConstruction": config.ef_construction},
        }, {"ef": config.ef_search}
    if isinstance(config, indexes.IVF):
        return {"index_type": "IVF_FLAT", "params": {"nlist": config.cells}}, {"nprobe": config.nprobe}
    if isinstance(config, indexes.Auto):
        return {"index_type": "AUTOINDEX"}, {}
    raise ValueError(f"index: got {config!r}; Milvus takes Auto, Exact, HNSW or IVF")
