"""The clients of the servers, imported when they are needed, and their errors as the stores'."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from refimpl.retrieve.store import StoreError


@contextmanager
def server_errors() -> Iterator[None]:
    """What the client raises as `StoreError`; the store can be used again when the server is back."""
    errors = redis_module().exceptions
    try:
        yield
    except (errors.AuthenticationError, errors.AuthorizationError) as error:  # of the class ConnectionError
        raise StoreError(f"redis: the server refused ({error})") from error
    except (errors.ConnectionError, errors.TimeoutError, errors.RedisClusterException) as error:
        raise StoreError(f"redis: not reachable ({error}); what was acknowledged is kept there") from error
    except errors.RedisError as error:
        # of a pipeline the message begins with the command, vectors and all
        cause = str(error).rpartition("caused error: ")[2]
        raise StoreError(f"redis: the server refused ({cause})") from error


def has_vector_sets(client: Any, key: str | bytes = "none") -> bool:
    """Whether a Redis server knows vector sets; of a cluster's client, the node that has ``key``."""
    return _knows(client, "VCARD", key)


def has_search(client: Any) -> bool:
    """Whether a Redis server has RediSearch, as a module or as the query engine of Redis 8."""
    return _knows(client, "FT._LIST")


def _knows(client: Any, *command: Any) -> bool:
    errors = redis_module().exceptions
    try:
        client.execute_command(*command)
    except errors.NoPermissionError:
        raise
    except errors.ResponseError:
        return False
    except errors.RedisError as error:  # a cluster's client asks its nodes for the commands that they know
        if "doesn't exist in Redis commands" not in str(error):
            raise
        return False
    return True


def redis_module() -> Any:
    """The redis module, imported when it is first needed.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    try:
        import redis
    except ModuleNotFoundError as error:
        if error.name != "redis":
            raise
        raise ModuleNotFoundError(
            "redis: not installed, and this store is kept there; run: pip install 'refimpl[redis]' (or: pip install redis)",
            name="redis",
        ) from None
    return redis


@contextmanager
def search_errors() -> Iterator[None]:
    """What redisvl raises, as the error of redis that it came from."""
    try:
        yield
    except redisvl_module().exceptions.RedisVLError as error:
        if isinstance(error.__cause__, redis_module().RedisError):
            raise error.__cause__ from None
        raise StoreError(f"redis: {error}") from error


def redisvl_module() -> Any:
    """The redisvl module with what the stores need of it, imported when it is first needed.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    try:
        import redisvl.exceptions
        import redisvl.index
        import redisvl.query.filter
    except ModuleNotFoundError as error:
        if error.name != "redisvl":
            raise
        raise ModuleNotFoundError(
            "redisvl: not installed, and index=search takes it; run: pip install 'refimpl[redisvl]' (or: pip install redisvl)",
            name="redisvl",
        ) from None
    return redisvl


@contextmanager
def milvus_errors() -> Iterator[None]:
    """What the client raises as `StoreError`; the store can be used again when the server is back."""
    module = milvus_module()
    try:
        yield
    except StoreError:
        raise
    except module.exceptions.MilvusUnavailableException as error:
        raise StoreError(f"milvus: not reachable ({error}); what was acknowledged is kept there") from error
    except (module.MilvusException, ConnectionError) as error:
        raise StoreError(f"milvus: {error}") from error


def milvus_module() -> Any:
    """The pymilvus module, imported when it is first needed.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    try:
        import pymilvus
    except ModuleNotFoundError as error:
        if error.name != "pymilvus":
            raise
        raise ModuleNotFoundError(
            "pymilvus: not installed, and this store is kept by Milvus; run: pip install 'refimpl[milvus]' "
            "(or: pip install pymilvus milvus-lite)",
            name="pymilvus",
        ) from None
    return pymilvus
