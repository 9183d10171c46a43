"""Servers for tests. Redis: the one of REDIS_URL, or our own; a newer one (REFIMPL_REDIS_8); one with RediSearch
(REFIMPL_REDIS_SEARCH); a cluster; Milvus."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from refimpl.retrieve import RedisServer, StoreError
from refimpl.retrieve.servers import process
from refimpl.retrieve.servers.client import has_search, has_vector_sets, redis_module

# set by .ci/run: there a missing server is an error
REQUIRED = os.environ.get("REFIMPL_REQUIRE_REDIS") == "1"
# the command of a Redis of version 8 or later, where the one on the PATH is older
REDIS_8 = os.environ.get("REFIMPL_REDIS_8")
# the command of a Redis that has RediSearch, where the one on the PATH has not
REDIS_SEARCH = os.environ.get("REFIMPL_REDIS_SEARCH")


@contextmanager
def own_server(*options: str, command: str | None = None) -> Iterator[RedisServer]:
    """A Redis of our own; ``command``, or the one on the PATH."""
    with pytest.MonkeyPatch.context() as patch:  # no longer than it takes to find the command
        if command:
            patch.setattr(process, "redis_command", lambda: command)
        server = RedisServer(None, *options)
    with server:
        yield server


def available() -> bool:
    try:
        process.redis_command()
    except StoreError:
        if REQUIRED:
            raise
        return bool(os.environ.get("REDIS_URL"))
    return True


@cache
def vset_command() -> str | None:
    """A Redis that has vector sets."""
    return _that_has(has_vector_sets, "REFIMPL_REDIS_8", REDIS_8)


@cache
def search_command() -> str | None:
    """A Redis that has RediSearch."""
    return _that_has(has_search, "REFIMPL_REDIS_SEARCH", REDIS_SEARCH)


def _that_has(it: Callable[[Any], bool], variable: str, given: str | None) -> str | None:
    for command in (given, shutil.which("redis-server")):
        if command:
            with own_server(command=command) as server:
                client = redis_module().Redis.from_url(server.url)
                found = it(client)
                client.close()
                if found:
                    return command
    if given:
        raise RuntimeError(f"{variable}: got {given!r}, which has not what it is for")
    return None


needs_redis = pytest.mark.skipif(not available(), reason="no redis-server on PATH and no REDIS_URL")
needs_vset = pytest.mark.skipif(
    not (available() and vset_command()), reason="no Redis with vector sets; REFIMPL_REDIS_8 may name one"
)
needs_search = pytest.mark.skipif(
    not (available() and search_command() and importlib.util.find_spec("redisvl")),
    reason="no Redis with RediSearch, or no redisvl; REFIMPL_REDIS_SEARCH may name one",
)
needs_cli = pytest.mark.skipif(
    not (available() and shutil.which("redis-cli")), reason="no redis-cli, which makes a cluster"
)
needs_milvus = pytest.mark.skipif(
    importlib.util.find_spec("milvus_lite") is None, reason="milvus-lite is not installed"
)

# built from source by .ci/run, which then says so
if os.environ.get("REFIMPL_REQUIRE_HNSWLIB") == "1" and importlib.util.find_spec("hnswlib") is None:
    raise RuntimeError("REFIMPL_REQUIRE_HNSWLIB is set and hnswlib is not installed")
needs_hnswlib = pytest.mark.skipif(
    importlib.util.find_spec("hnswlib") is None, reason="hnswlib is not installed"
)


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def cluster_ports() -> list[int]:
    """Three free ports whose cluster buses, 10,000 above, are free too."""

    start = 20_000 + os.getpid() % 10_000  # test processes beside one another look in different places
    return [port for port in range(start, start + 1000) if _is_free(port) and _is_free(port + 10_000)][:3]


def _is_free(port: int) -> bool:
    with socket.socket() as one:
        try:
            one.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@contextmanager
def own_cluster(command: str | None = None) -> Iterator[str]:
    """The URL of a Redis Cluster of three processes on loopback, without replicas."""
    with ExitStack() as stack:
        ports = cluster_ports()
        for port in ports:
            options = ["--cluster-enabled", "yes", "--port", str(port), "--bind", "127.0.0.1"]
            stack.enter_context(own_server(*options, command=command))
        nodes = [f"127.0.0.1:{port}" for port in ports]
        made = subprocess.run(
            ["redis-cli", "--cluster", "create", *nodes, "--cluster-replicas", "0", "--cluster-yes"],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert made.returncode == 0, made.stdout + made.stderr
        client = redis_module().RedisCluster.from_url(f"redis://{nodes[0]}")
        end = time.monotonic() + 20
        while not all(
            client.cluster_info(target_nodes=n)["cluster_state"] == "ok" for n in client.get_nodes()
        ):
            assert time.monotonic() < end
            time.sleep(0.1)
        client.close()
        yield f"redis+cluster://{nodes[0]}"


class MilvusServer:
    """milvus-lite as a server of its own process on loopback."""

    def __init__(self, folder: Path) -> None:
        self.folder, (self.port,) = folder, free_ports(1)
        self.url = f"milvus://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        code = "import sys; from milvus_lite.cmdline import main; sys.exit(main())"
        options = ["--data-dir", str(self.folder), "--host", "127.0.0.1", "--port", str(self.port)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, "server", *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        end = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                if time.monotonic() > end or self.process.poll() is not None:
                    raise RuntimeError("milvus-lite does not answer") from None
                time.sleep(0.1)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def own_milvus() -> Iterator[MilvusServer]:
    with tempfile.TemporaryDirectory(prefix="milvus-") as folder:
        server = MilvusServer(Path(folder) / "data")
        try:
            yield server
        finally:
            server.kill()


# a process that writes rows 3 at a time and says so, until it is killed: python -c WRITER URL
WRITER = """
import sys, numpy as np
from refimpl.retrieve import open_store
store = open_store(sys.argv[1], dim=8)
step = 0
while True:
    rows = np.full((3, 8), step + 1, dtype="f4")
    store.upsert([f"{step}-{i}" for i in range(3)], rows, [{"step": step}] * 3)
    print(step, flush=True)  # acknowledged
    step += 1
"""
