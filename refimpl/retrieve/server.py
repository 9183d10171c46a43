"""The redis client, imported when it is needed, and its errors as the store's."""

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
    except (errors.ConnectionError, errors.TimeoutError) as error:
        raise StoreError(f"redis: not reachable ({error}); what was acknowledged is kept there") from error
    except errors.RedisError as error:
        raise StoreError(f"redis: the server refused ({error})") from error


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
