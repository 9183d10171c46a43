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


def bring_to_disk(server: Any, key: bytes, lock: bytes) -> None:
    """Wait until everything that was written before is on the server's disk.

    Without an append-only file a snapshot is saved. With one that is not synced at each command, ``key`` is written and
    its sync waited for, by ``WAITAOF``; a server before 7.2 is told to sync at each command for this one. What was written before
    is then on the disk too.

    Args:
        server: client of one server.
        key: written.
        lock: held while a server is told so: who finds it synced at each command must not owe that to another one's flush.
    """
    options = server.config_get("append*")
    if options["appendonly"] != "yes":
        _save(server)
    elif _waits(server):
        with server.pipeline(
            transaction=False
        ) as batch:  # one connection: it waits for what it has written itself
            batch.set(key, b"1")
            batch.execute_command("WAITAOF", 1, 0, int(1000 * SAVING))
            synced = batch.execute()[1][0]
        if not synced:
            raise StoreError(f"redis: its append-only file was not synced within {SAVING:.0f} s")
    else:
        with server.lock(lock, timeout=SAVING):
            policy = server.config_get("appendfsync")["appendfsync"]
            if policy == "always":
                return
            server.config_set("appendfsync", "always")
            try:
                server.set(key, b"1")  # answered when it is on the disk
            finally:
                server.config_set("appendfsync", policy)


def _save(server: Any) -> None:
    end = time.monotonic() + SAVING
    while True:
        try:
            server.save()
            return
        except redis_module().ResponseError as error:  # a snapshot that began before these writes
            if "in progress" not in str(error) or time.monotonic() > end:
                raise
        time.sleep(0.05)


def _waits(server: Any) -> bool:
    """Whether it knows WAITAOF."""
    version = str(server.info("server").get("redis_version", "0")).split(".")
    return tuple(int(part) for part in version[:2]) >= (7, 2)
