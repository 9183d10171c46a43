"""Which store a URL names."""

from __future__ import annotations

import os
import re
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit
from urllib.request import url2pathname

from refimpl.checks import check_choice
from refimpl.retrieve.store import Store

__all__ = ["open_store"]

METRICS = ("cosine",)
REDIS = ("redis", "rediss", "unix", "redis+cluster", "rediss+cluster")
SCHEMES = {
    "memory": "memory://",
    "file": "file:///",
    **{scheme: f"{scheme}://" for scheme in (*REDIS, "milvus")},
}


def open_store(
    url: str,
    dim: int | None = None,
    metric: str = "cosine",
    *,
    index: Any = None,
    encoder: str | None = None,
) -> Store:
    """Open a store of vectors, or make an empty one.

    ===================================================  ============================================================
    ``memory://``                                        gone when closed
    ``file:///folder``                                   plain files (`pathlib.Path.as_uri` makes the URL, on Windows too)
    ``redis://host:port/db?name=docs``                   rows in Redis, an index in each process that searches;
                                                         ``rediss://`` with TLS, ``unix:///path/redis.sock?db=0&name=docs``
    ``redis://...&index=vset``                           the same, searched by the server (vector sets, from Redis 8 on)
    ``redis://...&index=search``                         the same, searched by the server (RediSearch, through redisvl)
    ``redis+cluster://host:port?name=docs``              in shards over a Redis Cluster, with ``&index=vset`` too
    ``milvus:///file.db?name=docs``                      milvus-lite, in this process
    ``milvus://user:password@host:port/db?name=docs``    a Milvus server or cluster; ``&tls=true`` with TLS
    ===================================================  ============================================================

    All but the first two are seen by all who open them, under a name (``refimpl`` without one).

    Args:
        url: one of these.
        dim: numbers a vector; may be left out for a store that is there.
        metric: ``"cosine"``.
        index: ``"auto"``, ``"exact"``, ``"hnsw"``, ``"ivf"``, ``"fastscan"``, or `HNSW`, ... with its numbers. Without
            it, what a folder was saved with, else `Auto`: exact up to 100,000 rows, product codes with a second look
            above; Milvus chooses for itself. The index is derived: another one than before is built when opened,
            but in a vector set and in RediSearch, where the first one stays. A vector set takes `HNSW`, RediSearch `HNSW` and
            `Exact`, Milvus all but `FastScan`.
        encoder: what made the vectors, e.g. `fingerprint(model, tokenizer)`. Kept with the store; opening it
            with another one raises.

    Raises:
        StoreError: a store of another dimension, metric or encoder; files that were truncated or altered; a server that is
            not there or refuses, or that drops rows when its memory is full (a Redis set up as a cache).
        ValueError: an unknown scheme or option, a URL that is no folder, no ``dim`` for a new store.
        ModuleNotFoundError: what the store needs is not installed (``pip install 'refimpl[retrieve,redis,redisvl,milvus]'``).
    """
    if not isinstance(url, str):
        raise TypeError(f"url: got {type(url).__name__}; takes a string such as 'file:///folder'")
    check_choice("metric", metric, METRICS)
    if encoder is not None and not isinstance(encoder, str):
        raise TypeError(f"encoder: got {type(encoder).__name__}; takes a string or None")
    hidden = re.sub(r"://.*@", "://", url.partition("?")[0])  # up to the last @, escaped or not
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - read here, where the URL can be named
    except ValueError:  # its text may quote a part of the password
        raise ValueError(
            "url: got one whose host or port cannot be read; takes '/', '?', '#', '@' in a password as %2F, %3F, %23, %40"
        ) from None
    if parts.scheme not in SCHEMES or "://" not in url:
        raise ValueError(f"url: got {hidden!r}; takes a URL that starts with {' or '.join(SCHEMES.values())}")
    if parts.scheme in REDIS:
        return _redis(parts, dim, metric, index, encoder)
    if parts.scheme == "milvus":
        return _milvus(parts, dim, metric, index, encoder)
    if parts.query or parts.fragment:
        raise ValueError(f"url: got {url!r}; takes no '?' or '#' (in a folder's name: %3F, %23)")
    from refimpl.retrieve.local import LocalStore

    return LocalStore(_folder(parts), dim, metric, index, encoder)


def _folder(parts: SplitResult) -> str | None:
    if parts.scheme == "memory":
        if parts.netloc or parts.path:
            raise ValueError(f"url: got {parts.geturl()!r}; takes 'memory://' and nothing behind it")
        return None
    if parts.netloc not in ("", "localhost"):
        raise ValueError(f"url: got host {parts.netloc!r}; takes three slashes: 'file:///folder'")
    folder = url2pathname(parts.path)
    if not os.path.isabs(folder) or folder == os.path.abspath(os.sep):
        raise ValueError(f"url: got {parts.geturl()!r}; takes an absolute folder: 'file:///folder'")
    return folder


def _options(parts: SplitResult, **known: tuple[str, ...] | None) -> dict[str, str]:
    """What is behind the question mark; of the known names, with one of these values where they are given."""
    try:
        given = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        options = dict(given) if len(dict(given)) == len(given) else {"an option twice": ""}
    except ValueError:
        options = {"": ""}
    wrong = [
        key
        for key, value in options.items()
        if key not in known or not value or value not in (known[key] or (value,))
    ]
    if wrong or parts.fragment:
        how = ", ".join(f"{key}={'|'.join(values or ('...',))}" for key, values in known.items())
        raise ValueError(
            f"url: got {', '.join(map(repr, wrong)) or '#'} behind the host; takes behind the '?': {how}"
        )
    return options


def _shown(parts: SplitResult) -> str:
    """The URL without a password."""
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}{query}"


def _redis(parts: SplitResult, dim: int | None, metric: str, index: Any, encoder: str | None) -> Store:
    from refimpl.retrieve.servers.client import redis_module
    from refimpl.retrieve.servers.redis import RedisStore
    from refimpl.retrieve.servers.search import SearchStore
    from refimpl.retrieve.servers.vset import VectorSetStore

    kinds: dict[str, Any] = {"local": RedisStore, "vset": VectorSetStore, "search": SearchStore}
    socket = {"db": None} if parts.scheme == "unix" else {}
    options = _options(parts, name=None, index=tuple(kinds), **socket)
    if parts.scheme != "unix" and not re.fullmatch(r"/?" if "+" in parts.scheme else r"/?[0-9]*", parts.path):
        raise ValueError(
            f"url: got {parts.path!r} behind the host; takes the number of a database, none in a cluster"
        )
    if not re.fullmatch(r"[0-9]+", options.get("db", "0")):
        raise ValueError(f"url: got db={options['db']!r}; takes the number of a database")
    name = options.pop("name", "refimpl")
    if "row" in name.split(":")[1:]:  # its keys would be rows of another store
        raise ValueError(f"url: got name {name!r}; takes one without ':row'")
    kind = kinds[options.pop("index", "local")]
    query = f"?{urlencode(options)}" if options else ""
    scheme, _, cluster = parts.scheme.partition("+")
    url = f"{scheme}://{parts.netloc}{parts.path}{query}"
    module = redis_module()
    if cluster:
        if kind is SearchStore:  # an index is on one node, and stays there when slots move
            raise ValueError("url: got index=search in a cluster; takes local or vset")
        from refimpl.retrieve.servers.cluster import ClusterStore

        def connect() -> Any:
            return module.RedisCluster.from_url(url)

        return ClusterStore(
            connect, kind, f"{parts.scheme}://{parts.netloc}{parts.path}", name, dim, metric, index, encoder
        )
    client = module.Redis.from_url(url)
    try:
        return kind(client, url, name, f"refimpl:{name}:", dim, metric, index, encoder)
    except BaseException:
        client.close()
        raise


def _milvus(parts: SplitResult, dim: int | None, metric: str, index: Any, encoder: str | None) -> Store:
    from refimpl.retrieve.servers.milvus import MilvusStore

    options = _options(parts, name=None, tls=("true", "false"))
    name = options.get("name", "refimpl")
    if parts.hostname is None:
        path = url2pathname(parts.path)
        if not os.path.isabs(path) or not path.endswith(".db"):
            raise ValueError(
                f"url: got {_shown(parts)!r}; takes an absolute file: 'milvus:///folder/file.db'"
            )
        given: dict[str, Any] = {"uri": path}
    else:
        scheme = "https" if options.get("tls") == "true" else "http"
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        given = {"uri": f"{scheme}://{host}:{parts.port or 19530}"}
        if parts.username is not None:
            given["token"] = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        if database := parts.path.strip("/"):
            given["db_name"] = database
    return MilvusStore(_shown(parts), given, name, dim, metric, index, encoder)
