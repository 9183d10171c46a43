"""What a Redis server does with what it was given: whether it keeps it in memory, and when it is on its disk."""

from __future__ import annotations

import time
from typing import Any

from refimpl.retrieve.servers.client import redis_module
from refimpl.retrieve.store import StoreError

SAVING = 300.0  # seconds that another snapshot may take


def refuse_a_cache(server: Any) -> None:
    """A store is not for a server that drops keys of its own accord when its memory is full.

    The policies ``allkeys-*`` do, where there is a limit. Those named ``volatile-*`` take keys that expire, which ours never do;
    ``noeviction`` refuses what does not fit. A server that does not tell is trusted.

    Raises:
        StoreError: naming the limit and the policy.
    """
    try:
        memory = server.info("memory")
    except redis_module().ResponseError:  # not allowed to ask
        return
    limit, policy = memory.get("maxmemory", 0), str(memory.get("maxmemory_policy", ""))
    if limit and policy.startswith("allkeys"):
        raise StoreError(
            f"url: got a server with maxmemory {limit:,} and maxmemory-policy {policy}, which would drop rows that it had "
            "acknowledged; a store takes noeviction, or no limit"
        )


def bring_to_disk(server: Any, key: bytes) -> None:
    """Wait until everything that was written before is on the server's disk.

    Without an append-only file a snapshot is saved. With one that is not synced at each command it is for
    one, of ``key``: what was written before is then on the disk too.
    """
    options = server.config_get("append*")
    if options["appendonly"] != "yes":
        end = time.monotonic() + SAVING
        while True:
            try:
                server.save()
                return
            except redis_module().ResponseError as error:  # a snapshot that began before these writes
                if "in progress" not in str(error) or time.monotonic() > end:
                    raise
            time.sleep(0.05)
    elif options["appendfsync"] != "always":
        server.config_set("appendfsync", "always")
        try:
            server.set(key, b"1")  # answered when it is on the disk
        finally:
            server.config_set("appendfsync", options["appendfsync"])
